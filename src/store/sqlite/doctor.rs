//! What ails a store in a file, or soon will; see [`crate::store::doctor`]. Reads beside the relay that works on it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::{change, connect, copy, rows::fault, schema};
use crate::store::{
    Error, RecordKind, Result,
    doctor::{Examined, Finding, size},
};

/// Less free disk than this is soon none.
const FREE_BAD: u64 = 256 * 1024 * 1024;
/// Less than this is worth a look.
const FREE_FEW: u64 = 1024 * 1024 * 1024;
/// A log larger than this was not moved into the database for long.
const LOG_LARGE: u64 = 512 * 1024 * 1024;
/// A database larger than this is not read through.
const READ_MAX: u64 = 256 * 1024 * 1024;

/// Looks at the store in the file at `path`.
pub(in crate::store) fn examine(path: &Path, max_bytes: Option<u64>) -> Result<Examined> {
    let mut all = Examined::default();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !path.exists() {
        all.findings.push(Finding::good("store", format!("there is no {} yet: the first start makes it", path.display())));
        all.findings.extend(disk(folder, max_bytes.unwrap_or_default()));
        return Ok(all);
    }
    let conn = connect::reader(path).map_err(fault)?;
    let version = schema::check(&conn)?;
    let bytes = fs::metadata(path).map_or(0, |it| it.len());
    all.findings.push(Finding::good("store", format!("SQLite at {}, {}", path.display(), size(bytes))));
    all.findings.push(relay(path));
    all.findings.push(private(path));
    if version != 0 {
        all.findings.extend(schema_of(&conn, version));
        all.findings.push(journal(&conn, path)?);
        all.findings.push(whole(&conn, bytes)?);
    }
    all.findings.extend(disk(folder, max_bytes.unwrap_or_default().saturating_sub(bytes)));
    if version == schema::VERSION {
        all.sealed = change::records(&conn, RecordKind::Subscription, 0).map_err(fault)?;
    }
    Ok(all)
}

/// Whether a relay holds the lock. The system is asked who holds which: whoever tried to take it would keep a relay that starts from it.
fn relay(path: &Path) -> Finding {
    let mut lock: PathBuf = path.to_owned();
    lock.as_mut_os_string().push(".lock");
    let said = match held(&lock) {
        Some(true) => format!("process {} works on it", fs::read_to_string(&lock).unwrap_or_default().trim()),
        Some(false) => "none works on it".to_owned(),
        None => "this system does not tell who works on it".to_owned(),
    };
    Finding::good("relays", said)
}

#[cfg(target_os = "linux")]
fn held(lock: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let Ok(file) = fs::metadata(lock) else { return Some(false) };
    let inode = file.ino().to_string();
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:01:131090 0 EOF`
    let of_it = |line: &str| {
        line.contains(" FLOCK ") && line.split_whitespace().any(|word| word.rsplit(':').next() == Some(inode.as_str()))
    };
    Some(fs::read_to_string("/proc/locks").ok()?.lines().any(of_it))
}

#[cfg(not(target_os = "linux"))]
fn held(_lock: &Path) -> Option<bool> {
    None
}

#[cfg(unix)]
fn private(path: &Path) -> Finding {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_or(0, |it| it.permissions().mode());
    if mode & 0o077 == 0 {
        return Finding::good("permissions", "only its owner may read it");
    }
    let said = format!("others may read it (mode {:o}): it holds what was sent in confidence", mode & 0o777);
    Finding::warning("permissions", said, format!("chmod 600 {}", path.display()))
}

#[cfg(not(unix))]
fn private(_path: &Path) -> Finding {
    Finding::good("permissions", "they are not looked at on this system")
}

fn schema_of(conn: &Connection, version: i32) -> Vec<Finding> {
    let known = schema::VERSION;
    let mut all = vec![if version == known {
        Finding::good("schema", format!("version {version}"))
    } else {
        Finding::good("schema", format!("version {version}: the next start brings it to {known}"))
    }];
    if let Err(error @ Error::Unfinished(_)) = copy::unfinished(conn) {
        all.push(Finding::bad("copy", error.to_string(), "hookyard store copy"));
    }
    all
}

fn journal(conn: &Connection, path: &Path) -> Result<Finding> {
    let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(fault)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let bytes = fs::metadata(log).map_or(0, |it| it.len());
    Ok(if mode != "wal" {
        let said = format!("journal_mode is {mode}: readers and the writer wait for each other");
        Finding::warning("journal", said, "stop what else opens the file; the next start sets it to wal")
    } else if LOG_LARGE < bytes {
        let said = format!("the write-ahead log has {}: something keeps it from being moved into the database", size(bytes));
        Finding::warning("journal", said, "look for a process that has the file open (a backup, a shell), and end it")
    } else {
        Finding::good("journal", format!("write-ahead log, {}; every commit is synced", size(bytes)))
    })
}

fn whole(conn: &Connection, bytes: u64) -> Result<Finding> {
    if READ_MAX < bytes {
        let help = "PRAGMA quick_check";
        return Ok(Finding::good("pages", format!("not read through, it is larger than {}: see {help}", size(READ_MAX))));
    }
    let said: String = conn.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(fault)?;
    Ok(match said.as_str() {
        "ok" => Finding::good("pages", "all are as they should be"),
        wrong => Finding::bad("pages", format!("the file is damaged: {wrong}"), "stop the relay, and go back to a backup"),
    })
}

#[cfg(unix)]
fn disk(folder: &Path, wanted: u64) -> Vec<Finding> {
    let mut all = Vec::new();
    let at = folder.display();
    match rustix::fs::statvfs(folder) {
        Ok(it) => {
            let free = it.f_bavail.saturating_mul(it.f_frsize);
            let said = format!("{} free at {at}", size(free));
            let help = "make room, or bound the store: store.retention.max_bytes";
            all.push(if free < FREE_BAD {
                Finding::bad("disk", said, help)
            } else if free < FREE_FEW || free < wanted {
                let more = if free < wanted {
                    format!("; store.retention.max_bytes lets it take {} more", size(wanted))
                } else {
                    String::new()
                };
                Finding::warning("disk", format!("{said}{more}"), help)
            } else {
                Finding::good("disk", said)
            });
        }
        Err(error) => all.push(Finding::warning("disk", format!("{at}: {error}"), "the folder of the store must be there")),
    }
    all.extend(network(folder));
    all
}

#[cfg(not(unix))]
fn disk(_folder: &Path, _wanted: u64) -> Vec<Finding> {
    Vec::new()
}

/// File systems over a network: neither locks nor the log's shared memory can be relied on.
#[cfg(target_os = "linux")]
fn network(folder: &Path) -> Option<Finding> {
    const KINDS: [(u64, &str); 4] = [(0x6969, "NFS"), (0x517b, "SMB"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB")];
    // How wide the number is, and whether it has a sign, is each processor's.
    let kind = format!("{:x}", rustix::fs::statfs(folder).ok()?.f_type);
    let (_, name) = KINDS.iter().find(|(number, _)| kind.trim_start_matches("ffffffff") == format!("{number:x}"))?;
    let said = format!("the store lies on {name}: its lock and its log cannot be relied on there");
    Some(Finding::bad("file system", said, "put it on a disk of this machine, or use PostgreSQL"))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn network(_folder: &Path) -> Option<Finding> {
    None
}
