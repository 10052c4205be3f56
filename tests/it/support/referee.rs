//! Independent implementations that judge what the relay sends: scripts in `tests/referees`, run by Python and Node.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use data_encoding::BASE64;
use serde_json::{Map, Value, json};

use super::{
    Received, SOON,
    relay::{Log, collect},
    seeds::tests_folder,
    until,
};

/// Where the packages are installed; installs them the first time.
fn cache() -> &'static PathBuf {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let install = tests_folder().join("referees/install");
        let output = Command::new(install).output().unwrap();
        assert!(output.status.success(), "the referees cannot be installed: {}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
    })
}

fn command(script: &str) -> Command {
    let path = tests_folder().join("referees").join(script);
    let mut command = if script.ends_with(".py") {
        let mut python = Command::new(cache().join("venv/bin/python"));
        // `-B`: nothing is written into the checkout. `-u`: what it prints comes at once.
        python.args(["-B", "-u"]);
        python
    } else {
        Command::new("node")
    };
    command.arg(path).env("NODE_PATH", cache().join("npm/node_modules"));
    command
}

/// Hands `requests` to `script` and yields its answer to each.
pub(crate) async fn judge(script: &str, requests: Vec<Value>) -> Vec<Value> {
    let count = requests.len();
    let mut command = {
        let script = script.to_owned();
        tokio::task::spawn_blocking(move || command(&script)).await.unwrap()
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let input = Value::Array(requests).to_string();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{script}: {}", output.status);
    let verdicts: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdicts.len(), count);
    verdicts
}

/// A request as the referees take it, to be checked with `secret`.
pub(crate) fn request(received: &Received, secret: &str) -> Value {
    let headers: Map<_, _> = received.headers.iter().map(|(name, value)| (name.to_lowercase(), json!(value))).collect();
    json!({ "headers": headers, "body": BASE64.encode(&received.body), "secret": secret })
}

/// A receiver of its own that one of the scripts runs: a seed's, or one behind TLS.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) port: u16,
    child: Child,
    log: Log,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `script` with its secret in `variable`.
    pub(crate) async fn start(script: &'static str, variable: &'static str, secret: &'static str) -> Self {
        let spawn = move || command(script).env(variable, secret).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut child = tokio::task::spawn_blocking(spawn).await.unwrap();
        let log = Log::default();
        collect(child.stdout.take().unwrap(), &log);
        let errors = Log::default();
        collect(child.stderr.take().unwrap(), &errors);
        let what = format!("{script} to listen");
        let port = until(&what, SOON, async || {
            assert!(child.try_wait().unwrap().is_none(), "{script} ended: {:?}", errors.lock().unwrap());
            log.lock().unwrap().first().and_then(|line| line.trim().parse().ok())
        })
        .await;
        Self { port, child, log }
    }

    /// Everything it printed so far.
    pub(crate) fn printed(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }
}
