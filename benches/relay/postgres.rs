//! A PostgreSQL of the bench's own: Debian's programs, a port drawn at random, a folder that goes with it. `fsync`, `full_page_writes`
//! and `synchronous_commit` are as the server comes, which is on; what else is set is what whoever runs one sets first, and is printed.

use std::{
    fs::{self, File},
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hookyard::secret::Secret;
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::{Outcome, process};

/// Where the database lies: `/tmp` is memory on many machines, and a server that root starts for another user cannot enter Cargo's folder.
const FOLDER: &str = "/var/tmp";
/// What is set, beside where it listens.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "1GB"),       // an eighth of a small server's memory
    ("max_wal_size", "8GB"),         // a checkpoint comes by its time, not by the log's size
    ("min_wal_size", "2GB"),         // the log's files are used again
    ("checkpoint_timeout", "15min"), // each makes pages be written whole once more
];
const USER: &str = "hookyard";
const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running server; stopped when dropped.
pub(crate) struct Server {
    child: Child,
    port: u16,
    client: Client,
    databases: u32,
    // The last, so that the folder goes when nobody writes to it any more.
    folder: TempDir,
}

impl Server {
    /// Starts one on an empty folder; `None` where the programs are not installed.
    pub(crate) async fn start() -> Outcome<Option<Self>> {
        let Some(programs) = programs() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("hookyard-bench-").tempdir_in(FOLDER)?;
        make(&programs, folder.path())?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        configure(folder.path(), port)?;
        let log = File::create(folder.path().join("log"))?;
        let mut server = unprivileged(&programs.join("postgres"));
        server.arg("-D").arg(data(folder.path())).stdout(log.try_clone()?).stderr(log);
        let mut child = server.spawn()?;
        match connect(&mut child, port).await {
            Ok(client) => Ok(Some(Self { child, port, client, databases: 0, folder })),
            Err(error) => {
                process::end(&mut child);
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                Err(format!("PostgreSQL did not start ({error}): {log}").into())
            }
        }
    }

    /// Its first process, of which all others are children.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it is and what was set.
    pub(crate) async fn described(&self) -> Outcome<String> {
        let version: String = self.client.query_one("SHOW server_version", &[]).await?.try_get(0)?;
        let mut said = format!("PostgreSQL {version} of the bench's own:");
        let kept = ["fsync", "synchronous_commit", "full_page_writes"];
        for name in kept.iter().chain(SETTINGS.iter().map(|(name, _)| name)) {
            let value: String = self.client.query_one(&format!("SHOW {name}"), &[]).await?.try_get(0)?;
            said += &format!(" {name}={value}");
        }
        Ok(said)
    }

    /// Makes a database, empty or a copy of another that nobody is connected to; all of it is on disk then.
    pub(crate) async fn create(&mut self, copy_of: Option<&str>) -> Outcome<String> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        // Files are copied, and the log has nothing of it: what is measured behind it does not pay for it.
        let like = copy_of.map(|other| format!(" TEMPLATE {other} STRATEGY file_copy")).unwrap_or_default();
        self.client.batch_execute(&format!("CREATE DATABASE {name}{like}")).await?;
        self.client.batch_execute("CHECKPOINT").await?;
        Ok(name)
    }

    /// Tidies up a database that was filled, as the server would have done by itself in a while.
    pub(crate) async fn settle(&self, name: &str) -> Outcome {
        self.connected(name).await?.batch_execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    /// Has everything written to its files.
    pub(crate) async fn checkpoint(&self) -> Outcome {
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    /// Removes a database that is not used any more.
    pub(crate) async fn remove(&self, name: &str) -> Outcome {
        Ok(self.client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?)
    }

    /// How many shards of lanes each replica that shares the database holds for good.
    pub(crate) async fn shares(&self, name: &str) -> Outcome<Vec<i64>> {
        let sql = "SELECT count(*) FROM shards WHERE owner IS NOT NULL AND NOT leaving GROUP BY owner";
        let rows = self.connected(name).await?.query(sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// `store.url` of a database.
    pub(crate) fn url(&self, name: &str) -> Secret {
        Secret::new(format!("postgres://{USER}@127.0.0.1:{}/{name}", self.port))
    }

    async fn connected(&self, name: &str) -> Outcome<Client> {
        let (client, connection) = tokio_postgres::connect(self.url(name).reveal(), NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it would still write goes with its folder.
        let _ = Command::new("kill").args(["-QUIT", &self.pid().to_string()]).status();
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < STOP_MAX {
            let _ = Command::new("sleep").arg("0.1").status();
        }
        process::end(&mut self.child);
        let _ = fs::remove_dir_all(data(self.folder.path()));
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// The newest version's programs, where Debian puts them, or those on the path.
fn programs() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = std::env::split_paths(&path).chain(debian).collect();
    all.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    all.sort();
    all.pop()
}

/// `program` as somebody other than root, whom PostgreSQL refuses, and ended when the bench is.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::getuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg(program).stdin(Stdio::null()).current_dir("/");
    command
}

fn make(programs: &Path, folder: &Path) -> Outcome {
    if rustix::process::getuid().is_root() && !Command::new("chown").arg("postgres").arg(folder).status()?.success() {
        return Err("the folder of the database cannot be given to the user postgres".into());
    }
    let mut initdb = unprivileged(&programs.join("initdb"));
    initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username", USER, "-D"]).arg(data(folder));
    let done = initdb.output()?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("initdb: {}", String::from_utf8_lossy(&done.stderr)).into()),
    }
}

fn configure(folder: &Path, port: u16) -> Outcome {
    let mut file = File::options().append(true).open(data(folder).join("postgresql.conf"))?;
    writeln!(file, "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''")?;
    for (name, value) in SETTINGS {
        writeln!(file, "{name} = {value}")?;
    }
    Ok(())
}

async fn connect(child: &mut Child, port: u16) -> Outcome<Client> {
    let began = Instant::now();
    loop {
        match tokio_postgres::connect(&format!("postgres://{USER}@127.0.0.1:{port}/postgres"), NoTls).await {
            Ok((client, connection)) => {
                // It ends with the client.
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if START_MAX < began.elapsed() || child.try_wait()?.is_some() => return Err(error.into()),
            Err(_) => sleep(POLL).await,
        }
    }
}
