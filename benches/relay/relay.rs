//! The relay under test: the release binary, started with `serve` on a `routes.yaml` written for it.

use std::{
    collections::VecDeque,
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{Outcome, process, requests, stores::Place, wire};

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const LOG_MAX: usize = 20; // last lines kept, to show when it fails
const TOKEN: &str = "bench-admin-token";
const OUTBOUND_KEY: [u8; 32] = [7; 32];
const ENCRYPTION_KEY: [u8; 32] = [9; 32];

/// What a relay is to do: every event goes to every target.
pub(crate) struct Routes {
    /// Where to.
    pub(crate) targets: Vec<Target>,
    /// `store.retention.events`, if not the default.
    pub(crate) retention: Option<&'static str>,
    /// Of several files that take one another's place: which target is its own. Every event gets a type by which it is told. `None`:
    /// there is one file, and every event goes to every target.
    pub(crate) generation: Option<usize>,
}

/// A signed webhook destination.
#[derive(Clone)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// Its URL.
    pub(crate) url: String,
    /// Attempts under way at once; `None`: the default.
    pub(crate) concurrency: Option<u32>,
}

/// A running relay; killed when dropped.
pub(crate) struct Relay {
    child: Child,
    log: Log,
    /// Where events go in.
    pub(crate) public: SocketAddr,
    /// Where it is operated.
    pub(crate) admin: SocketAddr,
    /// From its start to its first answer over HTTP.
    pub(crate) first_answer: Duration,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Relay {
    /// Starts one at `place` and waits for its first answer.
    pub(crate) async fn start(place: &Place, routes: &Routes) -> Outcome<Self> {
        let file = place.path().join("routes.yaml");
        fs::write(&file, routes.text())?;
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hookyard"))
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .current_dir(place.path())
            .env("BENCH_STORE_URL", place.url.reveal())
            .env("BENCH_INBOUND_SECRET", requests::SECRET)
            .env("BENCH_OUTBOUND_SECRET", format!("whsec_{}", BASE64.encode(&OUTBOUND_KEY)))
            .env("HOOKYARD_ENCRYPTION_KEY", BASE64.encode(&ENCRYPTION_KEY))
            .env("HOOKYARD_ADMIN_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Log::default();
        let listening = child.stderr.take().map(|stderr| watch(stderr, log.clone())).ok_or("no stderr")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut relay = Self { child, log, public: nowhere, admin: nowhere, first_answer: Duration::ZERO };
        (relay.public, relay.admin) = match timeout(START_MAX, listening).await {
            Ok(Ok(addresses)) => addresses,
            _ => return Err(relay.failed("did not start")),
        };
        wire::call(relay.public, "GET", "/healthz", "").await.map_err(|_| relay.failed("does not answer"))?;
        relay.first_answer = started.elapsed();
        Ok(relay)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its API is asked with.
    pub(crate) fn token(&self) -> &'static str {
        TOKEN
    }

    /// Pauses `target`; false when this relay cannot.
    pub(crate) async fn pause(&self, target: &str) -> Outcome<bool> {
        let status = wire::call(self.admin, "POST", &format!("/api/v1/targets/{target}/pause"), TOKEN).await?;
        Ok((200..300).contains(&status))
    }

    /// Whether it sends to `target`, being the one of several that does.
    pub(crate) async fn works_on(&self, target: &str) -> Outcome<bool> {
        let answer = wire::get(self.admin, &format!("/api/v1/targets/{target}"), TOKEN).await?;
        // Who does not make the attempts cannot count them.
        Ok(answer["data"]["attempts_per_minute"].is_u64())
    }

    /// Lets `target` go on; false when this relay cannot.
    pub(crate) fn resume(&self, target: &str) -> impl Future<Output = Outcome<bool>> + Send + use<> {
        let (admin, path) = (self.admin, format!("/api/v1/targets/{target}/resume"));
        async move { Ok((200..300).contains(&wire::call(admin, "POST", &path, TOKEN).await?)) }
    }

    /// Asks it to stop, as an init system would, and waits until it has.
    pub(crate) async fn stop(mut self) -> Outcome {
        Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if STOP_MAX < asked.elapsed() {
                return Err(self.failed("did not stop"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn failed(&self, what: &str) -> crate::Failure {
        let lines = self.log.lock().map(|log| log.iter().cloned().collect::<Vec<_>>().join("\n")).unwrap_or_default();
        format!("the relay {what}; its last words:\n{lines}").into()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

impl Routes {
    /// One rule for everything, to `targets`.
    pub(crate) fn to(targets: Vec<Target>) -> Self {
        Self { targets, retention: None, generation: None }
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "version: 1\nserver: {listen: \"127.0.0.1:0\", admin_listen: \"127.0.0.1:0\", shutdown_grace: 1s}\nstore:\n",
        );
        text += "  url: ${BENCH_STORE_URL}\n";
        if let Some(events) = self.retention {
            text += &format!("  retention: {{events: {events}}}\n");
        }
        text += "security: {allow_targets: [\"127.0.0.1\"]}\nsources:\n";
        if self.generation.is_some() {
            // Reloads are counted: none comes by itself.
            text = text.replacen("shutdown_grace: 1s", "shutdown_grace: 1s, watch: false", 1);
        }
        let letter = self.generation.map(|n| char::from(b'a' + n as u8));
        let map = letter.map(|letter| format!(", map: {{type: generation.{letter}}}")).unwrap_or_default();
        text +=
            &format!("  bench: {{kind: interactor, path: {}, secrets: [\"${{BENCH_INBOUND_SECRET}}\"]{map}}}\n", requests::PATH);
        text += "destinations:\n";
        self.targets.iter().for_each(|target| target.write(&mut text));
        let names: Vec<_> = self.targets.iter().map(|target| target.name.as_str()).collect();
        let own = self.generation.and_then(|n| Some((letter?, names.get(n)?)));
        match own {
            Some((letter, own)) => {
                text + &format!("rules:\n  - {{name: of-{letter}, match: {{type: generation.{letter}}}, to: [{own}]}}\n")
            }
            None => text + &format!("rules:\n  - {{name: everything, match: {{type: \"**\"}}, to: [{}]}}\n", names.join(", ")),
        }
    }
}

impl Target {
    fn write(&self, text: &mut String) {
        let concurrency = self.concurrency.map(|limit| format!(", concurrency: {limit}")).unwrap_or_default();
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "  {}: {{kind: webhook, url: \"{}\", signing: {{schemes: [standard], secrets: [\"${{BENCH_OUTBOUND_SECRET}}\"]}}{concurrency}}}",
            self.name, self.url
        );
    }
}

/// Reads the log for as long as there is one, keeps its end, and tells the addresses once they are said.
fn watch(stderr: ChildStderr, log: Log) -> oneshot::Receiver<(SocketAddr, SocketAddr)> {
    let (found, listening) = oneshot::channel();
    thread::spawn(move || {
        let mut found = Some(found);
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(addresses) = addresses(&line)
                && let Some(found) = found.take()
            {
                // Nobody waits any more when the start took too long.
                let _ = found.send(addresses);
            }
            keep(&log, line);
        }
    });
    listening
}

fn keep(log: &Log, line: String) {
    if let Ok(mut log) = log.lock() {
        if log.len() == LOG_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// The public and the admin address in the line that says `listening`; its fields may lie under `fields` or beside the message.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    (fields.get("message")? == "listening").then_some(())?;
    let address = |name: &str| fields.get(name)?.as_str()?.parse().ok();
    Some((address("public.addr")?, address("admin.addr")?))
}
