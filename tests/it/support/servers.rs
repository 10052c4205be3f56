//! PostgreSQL servers of one test's own: with settings of its own, with a standby, killed and promoted.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    SOON, postgres,
    store::{asks, tries},
    until,
};

/// A server, ended with the test.
pub(crate) struct Server {
    folder: TempDir,
    /// Where it listens on 127.0.0.1.
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.place().join("data/postmaster.pid").exists() {
            self.kill();
        }
    }
}

/// Runs `work`, which waits for processes, off the runtime's thread.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn new() -> Server {
    let folder = tempfile::tempdir().unwrap();
    // Whoever runs the server is somebody else.
    assert!(Command::new("chmod").arg("755").arg(folder.path()).status().unwrap().success());
    Server { folder, port: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() }
}

impl Server {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let server = new();
        let (place, port) = (server.place(), server.port);
        apart(move || postgres::start(&place, port)).await;
        server
    }

    /// Starts one that follows `primary`, which waits for it with every commit from then on.
    pub(crate) async fn synchronous_standby_of(primary: &Self) -> Self {
        let server = new();
        let (place, port, from) = (server.place(), server.port, primary.port.to_string());
        apart(move || {
            fs::create_dir_all(&place).unwrap();
            own(&place);
            let mut copy = postgres::unprivileged(&postgres::program("pg_basebackup"));
            copy.args(["-h", "127.0.0.1", "-p", &from, "-U", "hookyard", "-R", "-X", "stream", "-c", "fast", "-N", "-D"]);
            let done = copy.arg(place.join("data")).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            set(&place, &format!("port = {port}"));
            postgres::serve(&place);
            postgres::watch(&place);
        })
        .await;
        asks(&primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'");
        asks(&primary.url(), "SELECT pg_reload_conf()");
        let state = "SELECT sync_state FROM pg_stat_replication";
        until("the standby to be waited for", SOON, async || tries(&primary.url(), state).filter(|state| state == "sync")).await;
        server
    }

    /// Where its data lie.
    pub(crate) fn place(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    /// A folder that goes with it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://hookyard@127.0.0.1:{}/postgres", self.port)
    }

    /// Lets it run `sql`; yields what that says.
    pub(crate) fn asks(&self, sql: &str) -> String {
        asks(&self.url(), sql)
    }

    /// Starts it anew with these settings, and this in the place of who may come in, where something is given.
    pub(crate) async fn with(&self, settings: &str, who: Option<&str>) {
        let (place, settings, who) = (self.place(), settings.to_owned(), who.map(str::to_owned));
        apart(move || {
            set(&place, &settings);
            if let Some(who) = who {
                fs::write(place.join("data/pg_hba.conf"), who).unwrap();
            }
            let mut stop = postgres::unprivileged(&postgres::program("pg_ctl"));
            assert!(stop.args(["-s", "-w", "-m", "fast", "stop", "-D"]).arg(place.join("data")).status().unwrap().success());
            postgres::serve(&place);
        })
        .await;
    }

    /// SIGKILL of all of it: the server, and every process that it has begun.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
    }

    /// SIGSTOP of all of it: its sockets are there, and the system takes what is sent to them.
    pub(crate) fn halt(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let text = fs::read_to_string(self.place().join("data/postmaster.pid")).unwrap();
        let main = text.lines().next().unwrap().to_owned();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        let mut kill = Command::new("kill");
        kill.arg(signal).arg(&main).args(children.split_whitespace());
        // One of the children may be gone already.
        let _ = kill.output().unwrap();
    }
}

fn set(place: &Path, settings: &str) {
    let mut file = File::options().append(true).open(place.join("data/postgresql.conf")).unwrap();
    writeln!(file, "{settings}").unwrap();
}

/// Gives `path` to whoever runs the servers.
pub(crate) fn own(path: &Path) {
    if rustix::process::getuid().is_root() {
        assert!(Command::new("chown").arg("-R").arg("postgres").arg(path).status().unwrap().success());
    }
}
