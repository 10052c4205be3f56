//! A PostgreSQL for the tests: one server for each run of the tests, on a port of its own, in a folder that goes with the run.
//!
//! cargo-nextest runs every test in a process of its own, so the first process starts the server and the others find it. A watcher ends
//! it and removes the folder once whoever runs the tests is gone. The store's own tests include this file.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpListener,
    os::unix::process::{CommandExt, parent_id},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The port of the server of this run, which is started where it does not run yet.
pub(crate) fn port() -> u16 {
    let folder = std::env::temp_dir().join(format!("hookyard-postgres-{}", runner()));
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let known = folder.join("port");
    let said = fs::read_to_string(&known).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = said
        && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    {
        return port;
    }
    // Left by an earlier run under the same number.
    let _ = fs::remove_dir_all(&folder);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    start(&folder, port);
    fs::write(&known, port.to_string()).unwrap();
    port
}

/// The process that runs the tests: cargo-nextest, or for `cargo test` this one.
fn runner() -> u32 {
    if std::env::var_os("NEXTEST").is_some() { parent_id() } else { std::process::id() }
}

/// Where the programs lie: on the path, or where Debian puts them.
pub(crate) fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name))).collect())
        .unwrap_or_default();
    versions.retain(|path| path.exists());
    versions.sort();
    versions.pop().unwrap_or_else(|| name.into())
}

/// `program` as somebody other than root, whom PostgreSQL refuses.
pub(crate) fn unprivileged(program: &Path) -> Command {
    let mut command = if rustix::process::getuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.stdin(Stdio::null()).current_dir("/");
    command
}

/// Makes a database in `folder` and starts a server for it.
pub(crate) fn start(folder: &Path, port: u16) {
    make(folder);
    configure(folder, port);
    serve(folder);
    watch(folder);
}

/// Ends the server in `folder`, and removes it, once whoever runs the tests is gone.
pub(crate) fn watch(folder: &Path) {
    let watch = format!(
        "(while kill -0 {} 2>/dev/null; do sleep 1; done; kill -QUIT $(head -1 {data}/postmaster.pid); sleep 1; rm -rf {folder} {lock}) &",
        runner(),
        data = folder.join("data").display(),
        folder = folder.display(),
        lock = folder.with_extension("lock").display(),
    );
    let mut watcher = Command::new("sh");
    watcher.arg("-c").arg(watch).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    assert!(watcher.status().unwrap().success());
}

/// Makes a database in `folder`.
fn make(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    if rustix::process::getuid().is_root() {
        let done = Command::new("chown").arg("postgres").arg(folder).status().unwrap();
        assert!(done.success());
    }
    let mut initdb = unprivileged(&program("initdb"));
    initdb
        .args(["--auth=trust", "--username=hookyard", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(folder.join("data"));
    let done = initdb.output().unwrap_or_else(|error| panic!("PostgreSQL is needed (apt-get install postgresql): {error}"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn configure(folder: &Path, port: u16) {
    let mut settings = File::options().append(true).open(folder.join("data/postgresql.conf")).unwrap();
    // Tests kill processes, not machines: what the system holds is as good as on disk.
    writeln!(settings, "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 2000")
        .unwrap();
    writeln!(settings, "fsync = off\nfull_page_writes = off\nshared_buffers = 64MB\nautovacuum_naptime = 5s").unwrap();
}

/// Times a start is tried: what is left of a server that was killed may still hold its memory.
const STARTS: u32 = 20;

/// Starts a server for the database in `folder`, and waits until it answers.
pub(crate) fn serve(folder: &Path) {
    for _ in 0..STARTS {
        let mut control = unprivileged(&program("pg_ctl"));
        control.args(["-s", "-w", "-t", "120", "-D"]).arg(folder.join("data")).arg("-l").arg(folder.join("log")).arg("start");
        if control.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
            return;
        }
        let _ = Command::new("sleep").arg("0.25").status();
    }
    let mut log = String::new();
    let _ = File::open(folder.join("log")).and_then(|mut file| file.read_to_string(&mut log));
    panic!("the server does not start: {log}");
}
