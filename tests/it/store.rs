//! What is on disk, and what happens when the disk or the file is not what it should be: promises 1, 4 and 7.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    Home, Receiver, Relay, SOON, relay, routes,
    signed::{event, interactor},
    until,
};

#[tokio::test]
async fn a_second_process_on_one_store_gets_a_clear_error() {
    let relay = Relay::start(&routes().interactor()).await;
    let output = relay.home.run(&["serve", "--config", "routes.yaml"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 3)), "{}", output.status);
    assert!(error.contains("in use") || error.contains("another process"), "{error}");
    relay.accepts(&interactor(event("evt_after"))).await;
}

#[tokio::test]
async fn the_lock_goes_with_its_process() {
    let routes = routes().interactor();
    let relay = Relay::start(&routes).await;
    let home = relay.home.clone();
    relay.kill();
    Relay::start_in(&home, &routes).await.accepts(&interactor(event("evt_1"))).await;
}

#[tokio::test]
async fn readers_may_open_the_database_beside_it() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let path = relay.home.path().join("hookyard.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let copy = relay.home.path().join("backup.db");
    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    relay.accepts(&interactor(event("evt_2"))).await;
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused() {
    let routes = routes().interactor();
    let relay = Relay::start(&routes).await;
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    let db = rusqlite::Connection::open(home.path().join("hookyard.db")).unwrap();
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert!(0 < version, "the schema has a version");
    db.pragma_update(None, "user_version", version + 1000).unwrap();
    drop(db);
    let output = home.run(&["serve", "--config", "routes.yaml"]).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("version"), "{}: {error}", output.status);
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let home = Home::new();
    let text = "these are my notes, not a database\n".repeat(200);
    home.write("hookyard.db", &text);
    home.write("routes.yaml", &routes().interactor().text());
    let output = home.run(&["serve", "--config", "routes.yaml"]).await;
    assert!(!output.status.success());
    assert_eq!(std::fs::read_to_string(home.path().join("hookyard.db")).unwrap(), text);
}

#[tokio::test]
async fn a_bad_file_never_replaces_a_good_one() {
    let crm = Receiver::ok().await;
    let good = routes().interactor().webhook("crm", &crm);
    let relay = Relay::start(&good).await;
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    home.write("routes.yaml", &good.text().replace("version: 1", "version: 1\nnonsense: {"));
    let relay = Relay::resume(&home).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    crm.first().await;
    let config = relay.data("/api/v1/config").await;
    assert!(config["error"].as_str().is_some_and(|error| error.contains("routes.yaml")), "it says so: {config}");
    assert!(relay.log_text().contains("routes.yaml"), "in the log too");
}

#[tokio::test]
async fn without_a_good_one_it_does_not_start() {
    let home = Home::new();
    for text in ["version: 1\nsources: [", "", "version: 2", "sources: {a: {kind: nonsense}}"] {
        home.write("routes.yaml", text);
        let output = home.run(&["serve", "--config", "routes.yaml"]).await;
        assert_eq!(output.status.code(), Some(1), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_wrong_key_for_the_quarantine_is_no_end() {
    let routes = routes().interactor();
    let relay = Relay::start(&routes).await;
    let home = relay.home.clone();
    relay.accepts(&interactor(event("evt_1"))).await;
    assert!(relay.stop().await.success());
    let key = std::fs::read_dir(home.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with("key"));
    let key = key.expect("a key file is made beside the store");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
}

#[tokio::test]
async fn beyond_max_bytes_new_events_are_refused_with_503() {
    let crm = Receiver::start([503]).await;
    let routes = routes().interactor().store("max_bytes: 16MiB").webhook_with(
        "crm",
        &crm,
        "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}",
    );
    let relay = Relay::start(&routes).await;
    let padding = "p".repeat(512 * 1024);
    let send = async |n: usize| {
        let body = format!(r#"{{"id":"evt_{n}","type":"x.y","data":{{"p":"{padding}","n":{n}}}}}"#);
        relay.send(&interactor(body)).await
    };
    let mut n = 0;
    let answer = until("the store to be full", Duration::from_secs(90), async || {
        n += 1;
        Some(send(n).await).filter(|answer| answer.status != 200)
    })
    .await;
    answer.refused(503, "unavailable");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    assert_eq!(relay.all("/api/v1/events").await.len(), n - 1, "what was taken is there, what was refused is not");
}

/// A small file system of its own.
struct Disk(PathBuf);

impl Disk {
    /// Mounts a tmpfs of `size` on a folder in `home`; `None` where that is not allowed.
    fn mount(home: &Path, size: &str) -> Option<Self> {
        let path = home.join("disk");
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).output();
        status.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the relay may hold files there until it is gone.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_answers_503_and_loses_nothing() {
    let home = Home::new();
    let Some(disk) = Disk::mount(home.path(), "8m") else {
        let _ = writeln!(std::io::stderr(), "skipped: this machine does not let the tests mount a small file system");
        return;
    };
    let crm = Receiver::ok().await;
    let routes = routes().interactor().store_at(&format!("sqlite://{}/hookyard.db", disk.0.display())).webhook("crm", &crm);
    let relay = Relay::start_in(&home, &routes).await;
    relay.accepts(&interactor(event("evt_first"))).await;
    let filler = disk.0.join("filler");
    // Leaves a little, so that it is a write of the relay's that fails.
    let mut fill = Command::new("sh");
    fill.arg("-c").arg(format!(
        "head -c $(( $(df --output=avail -B1 {0} | tail -1) - 300000 )) /dev/zero > {1}",
        disk.0.display(),
        filler.display()
    ));
    assert!(relay::finish(fill).await.status.success());

    let mut taken = vec!["evt_first".to_owned()];
    let mut refused = 0;
    for n in 0..60 {
        let body = format!(r#"{{"id":"evt_{n}","type":"x.y","data":{{"p":"{}"}}}}"#, "p".repeat(16 * 1024));
        let answer = relay.send(&interactor(body)).await;
        match answer.status {
            200 => taken.push(format!("evt_{n}")),
            _ => {
                answer.refused(503, "unavailable");
                assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
                refused += 1;
            }
        }
    }
    assert!(0 < refused, "the disk never was full");
    // To the last byte: now even a small event finds no room, and the relay says that it is not ready.
    let mut fill = Command::new("sh");
    fill.arg("-c").arg(format!("cat /dev/zero >> {} 2> /dev/null; true", filler.display()));
    relay::finish(fill).await;
    let mut n = 0;
    until("a small event to be refused", SOON, async || {
        n += 1;
        let id = format!("evt_small_{n}");
        let answer = relay.send(&interactor(event(&id))).await;
        if answer.status == 200 {
            taken.push(id);
        }
        (answer.status == 503).then_some(())
    })
    .await;
    until("/readyz to say so", SOON, async || (relay.get_as("/readyz", None).await.status == 503).then_some(())).await;
    std::fs::remove_file(&filler).unwrap();
    let later = until("room to be found again", SOON, async || {
        let answer = relay.send(&interactor(event("evt_later"))).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(later.json()["id"], json!("evt_later"));
    taken.push("evt_later".into());
    crm.wait_for(taken.len()).await;
    let delivered = crm.distinct("webhook-id");
    let lost: Vec<_> = taken.iter().filter(|id| !delivered.contains(*id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(delivered.len() == taken.len(), "nothing is sent that was refused");
}
