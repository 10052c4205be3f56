//! The relay as a process: the real binary in a folder of its own, its log captured, killed when the test ends.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Api, Request, Routes, SOON, store::Place, until};

/// The bearer token of every relay under test.
pub(crate) const TOKEN: &str = "hy_bootstrap_token_of_the_tests_Qx71";
/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_hookyard");

/// Variables that would change what the relay does.
const SURROUNDINGS: [&str; 8] = [
    "HOOKYARD_CONFIG",
    "HOOKYARD_ENCRYPTION_KEY",
    "HOOKYARD_LOG",
    "HOOKYARD_URL",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "RUST_LOG",
    "http_proxy",
];

/// The folder a relay lives in: `routes.yaml`, the store, the key. Outlives the processes that use it.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    folder: Arc<TempDir>,
    store: Place,
}

impl Home {
    /// An empty folder.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Place::new(folder.path());
        Self { folder: Arc::new(folder), store }
    }

    /// An empty folder, with its store in PostgreSQL: several relays may live in it.
    pub(crate) fn in_postgres() -> Self {
        let folder = TempDir::new().unwrap();
        let store = Place::in_postgres(folder.path());
        Self { folder: Arc::new(folder), store }
    }

    /// An empty folder, with its store at this URL.
    pub(crate) fn with_store(url: &str) -> Self {
        Self { folder: Arc::new(TempDir::new().unwrap()), store: Place::Schema(url.to_owned()) }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of its store.
    pub(crate) fn store_url(&self) -> String {
        self.store.url(self.path())
    }

    /// `routes` with their store here.
    pub(crate) fn of(&self, routes: Routes) -> Routes {
        self.store.of(self.path(), routes)
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A command of the binary that runs here, without anything of the tests' own surroundings that could matter.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).current_dir(self.path()).env("HOOKYARD_ADMIN_TOKEN", TOKEN).stdin(Stdio::null());
        for name in SURROUNDINGS {
            command.env_remove(name);
        }
        command
    }

    /// Runs the binary here to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments)).await
    }
}

/// Runs `command` to its end, off the runtime's thread: the test's receivers go on meanwhile.
pub(crate) async fn finish(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What a process wrote, line by line.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// Collects `stream` on a thread of its own.
pub(crate) fn collect(stream: impl Read + Send + 'static, into: &Log) {
    let log = Arc::clone(into);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

/// A running `hookyard serve`.
pub(crate) struct Relay {
    /// Its folder.
    pub(crate) home: Home,
    api: Api,
    child: Child,
    log: Log,
}

impl Deref for Relay {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the relay\n{}", self.log_text());
        }
    }
}

impl Relay {
    /// Starts a relay in a new folder.
    pub(crate) async fn start(routes: &Routes) -> Self {
        Self::start_in(&Home::new(), routes).await
    }

    /// Starts a relay in `home`, where another may have been before.
    pub(crate) async fn start_in(home: &Home, routes: &Routes) -> Self {
        // A file in the folder is found by its name alone.
        let routes = if matches!(home.store, Place::Folder) { routes.clone() } else { home.of(routes.clone()) };
        home.write("routes.yaml", &routes.text());
        Self::resume(home).await
    }

    /// Starts a relay in `home` on the file as it stands.
    pub(crate) async fn resume(home: &Home) -> Self {
        Self::from(home, home.command(&["serve", "--config", "routes.yaml"])).await
    }

    /// Starts a relay by `command`, which runs `serve` in `home`.
    pub(crate) async fn from(home: &Home, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Log::default();
        collect(child.stdout.take().unwrap(), &log);
        collect(child.stderr.take().unwrap(), &log);
        let (public, admin) = listening(&mut child, &log).await;
        let relay = Self { api: Api::new(public, admin), home: home.clone(), child, log };
        relay.write_config_for_the_command_line();
        relay
    }

    /// The verbs find the relay through `server.admin_listen`, which for them must name the port it got.
    fn write_config_for_the_command_line(&self) {
        let text = std::fs::read_to_string(self.home.path().join("routes.yaml")).unwrap();
        let text = text.replacen("listen: 127.0.0.1:0", &format!("listen: {}", self.public), 1);
        self.home.write("cli.yaml", &text.replacen("admin_listen: 127.0.0.1:0", &format!("admin_listen: {}", self.admin), 1));
    }

    /// Runs a verb against this relay.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        self.home.run(&[arguments, &["--config", "cli.yaml"]].concat()).await
    }

    /// Runs a verb against this relay, which must succeed, and yields what it printed.
    pub(crate) async fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Asks it to stop, as a service manager does, and waits for its end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.terminate().await;
        self.ended().await
    }

    /// Asks it to stop.
    pub(crate) async fn terminate(&self) {
        let mut kill = Command::new("kill");
        kill.args(["-TERM", &self.child.id().to_string()]);
        assert!(finish(kill).await.status.success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the relay to end", SOON, async || self.child.try_wait().unwrap()).await
    }

    /// Its process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The sum of all samples of metric `name` in `text` whose labels have every one of `labels`.
pub(crate) fn sample(text: &str, name: &str, labels: &[&str]) -> f64 {
    let rows = text.lines().filter(|line| {
        let metric = line.split(['{', ' ']).next();
        metric == Some(name) && labels.iter().all(|label| line.contains(label))
    });
    rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Sends `request` to `addr`.
pub(crate) async fn send(client: &reqwest::Client, addr: SocketAddr, request: &Request) -> Result<Answer, reqwest::Error> {
    let mut post = client.post(format!("http://{addr}{}", request.path)).body(request.body.clone());
    for (name, value) in &request.headers {
        post = post.header(name, value);
    }
    Ok(Answer::read(post.send().await?).await)
}

/// A client for one test: it must not outlive the test's runtime.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(SOON).build().unwrap()
}

/// Waits until the log says where the relay listens.
async fn listening(child: &mut Child, log: &Log) -> (SocketAddr, SocketAddr) {
    until("the relay to listen", SOON, async || {
        let lines = log.lock().unwrap().clone();
        let found = lines.iter().find_map(|line| addresses(line));
        if found.is_none()
            && let Some(status) = child.try_wait().unwrap()
        {
            // What it wrote last may still be on its way through the pipe.
            tokio::time::sleep(Duration::from_millis(200)).await;
            panic!("the relay ended with {status}:\n{}", log.lock().unwrap().join("\n"));
        }
        found
    })
    .await
}

fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let json: Value = serde_json::from_str(line).ok()?;
    let fields = if json["fields"].is_object() { &json["fields"] } else { &json };
    let addr = |listener: &str| -> Option<SocketAddr> {
        let flat = &fields[format!("{listener}.addr")];
        let text = flat.as_str().or_else(|| fields[listener]["addr"].as_str())?;
        text.parse().ok()
    };
    (fields["message"] == "listening").then_some(())?;
    Some((addr("public")?, addr("admin")?))
}
