//! `hookyard doctor` against stores that are well and stores that are not.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Home, Receiver, Relay, Routes, SOON, routes, servers::Server, subscribed::open_routes, until};

/// What one run says, and its exit status.
struct Said {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// The health of a check, and what is said of it and what to do.
    fn of(&self, check: &str) -> (&str, String) {
        let found = self.findings.iter().find(|it| it["check"] == check);
        let found = found.unwrap_or_else(|| panic!("no {check}: {:?}", self.findings));
        let help = found["help"].as_str().map(|help| format!(" -> {help}")).unwrap_or_default();
        (found["health"].as_str().unwrap(), format!("{}{help}", found["message"].as_str().unwrap()))
    }

    fn is(&self, check: &str, health: &str, says: &str) {
        let (is, said) = self.of(check);
        assert!(is == health && said.contains(says), "{check}: {is}: {said}");
    }
}

/// Runs it in `home`.
async fn doctor(home: &Home, file: &str, more: &[&str]) -> Said {
    let done = home.run(&[&["doctor", "--json", "--config", file], more].concat()).await;
    let said: Value =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
    Said { status: done.status.code(), findings: said["data"]["findings"].as_array().unwrap().clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_and_its_relay_are_looked_at_and_left_alone() {
    let home = Home::new();
    home.write("routes.yaml", &routes().on("127.0.0.1:0", "127.0.0.1:9").text());
    let said = doctor(&home, "routes.yaml", &[]).await;
    assert_eq!(said.status, Some(0), "{:?}", said.findings);
    said.is("store", "ok", "the first start makes it");
    said.is("key", "ok", "the first start makes it");
    said.is("relay", "warning", "hookyard serve");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is made by looking");

    let receiver = Receiver::ok().await;
    let relay = Relay::start_in(&home, &open_routes()).await;
    relay.posts("/api/v1/webhooks", &serde_json::json!({"url": receiver.url(), "events": ["credential.*"]})).await;
    let said = doctor(&home, "cli.yaml", &[]).await;
    assert_eq!(said.status, Some(0), "{:?}", said.findings);
    said.is("relays", "ok", &format!("process {} works on it", relay.pid()));
    said.is("journal", "ok", "write-ahead log");
    said.is("pages", "ok", "as they should be");
    said.is("permissions", "ok", "only its owner");
    said.is("key", "ok", "all 1 subscriptions");
    said.is("relay", "ok", "takes events");
    said.is("targets", "ok", "");
    said.is("disk", said.of("disk").0, "free at");
    assert!(relay.stop().await.success());

    let file = home.path().join("hookyard.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    home.write("other.yaml", &routes().on("127.0.0.1:0", "127.0.0.1:9").sealed_under(key).text());
    let said = doctor(&home, "other.yaml", &[]).await;
    assert_eq!(said.status, Some(1));
    said.is("relays", "ok", "none works on it");
    said.is("permissions", "warning", "chmod 600");
    said.is("key", "bad", "not those of 1");
    assert!(!said.findings.iter().any(|it| it.to_string().contains(key)));

    // The lines for people, and a file that is damaged in the middle.
    let mut bytes = fs::read(&file).unwrap();
    let pages = bytes.len() / 4096;
    bytes[2 * 4096..(pages - 1) * 4096].fill(0x5a);
    fs::write(&file, bytes).unwrap();
    let done = home.run(&["doctor", "--config", "routes.yaml"]).await;
    let (out, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(matches!(done.status.code(), Some(1 | 3)) && out.contains("bad      ") && said.contains("hookyard: "), "{out}{said}");
}

fn at(url: &str) -> Routes {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
    routes().on("127.0.0.1:0", "127.0.0.1:9").store_at(url).sealed_under(key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_told_apart_by_what_a_commit_is_worth_there() {
    let (server, home) = (Server::start().await, Home::new());
    // Relays go by the name that the URL gives them.
    let url = format!("{}?application_name=it%27s%20mine", server.url());
    home.write("routes.yaml", &at(&url).text());
    let said = doctor(&home, "routes.yaml", &[]).await;
    assert_eq!(said.status, Some(1));
    said.is("connections", "ok", "room for 1997;");
    said.is("commits", "bad", "ALTER SYSTEM SET fsync = on");
    said.is("schema", "ok", "the first start makes it");
    assert_eq!(server.asks("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0", "nothing is made by looking");

    server.with("fsync = on\nfull_page_writes = on\nsynchronous_commit = off", None).await;
    let relay = Relay::start_in(&Home::with_store(&url), &routes().interactor()).await;
    let said = doctor(&home, "routes.yaml", &[]).await;
    assert_eq!(said.status, Some(0), "{:?}", said.findings);
    said.is("connections", "ok", "room for 1997;");
    said.is("commits", "ok", "synchronous_commit off, which the relay sets to on for itself");
    said.is("standbys", "warning", "no standby follows");
    said.is("server", "ok", "PostgreSQL 1");
    said.is("encryption", "ok", "on this machine");
    said.is("sessions", "ok", "each connection has its own");
    said.is("clock", "ok", "ms ahead");
    said.is("schema", "ok", "version");
    said.is("relays", "ok", "1 work on it");
    said.is("connections", "ok", "2 relays");
    for check in ["transactions", "locks", "age", "vacuum", "slots"] {
        said.is(check, "ok", "");
    }
    assert_eq!(doctor(&home, "routes.yaml", &["--strict"]).await.status, Some(1));
    assert!(relay.stop().await.success());

    let standby = Server::synchronous_standby_of(&server).await;
    let said = doctor(&home, "routes.yaml", &[]).await;
    said.is("standbys", "ok", "synchronous: a failover loses nothing that was acknowledged");
    server.asks("ALTER SYSTEM SET synchronous_standby_names = ''");
    server.asks("SELECT pg_reload_conf()");
    until("it to be told that nobody waits", SOON, async || {
        let said = doctor(&home, "routes.yaml", &[]).await;
        (said.of("standbys").1.contains("A FAILOVER MAY LOSE EVENTS THAT WERE ACKNOWLEDGED")).then_some(())
    })
    .await;
    server.asks("ALTER SYSTEM SET synchronous_standby_names = '*'");
    standby.kill();
    server.asks("SELECT pg_reload_conf()");
    let said = until("it to be told that commits wait", SOON, async || {
        let said = doctor(&home, "routes.yaml", &[]).await;
        (said.of("standbys").0 == "bad").then_some(said)
    })
    .await;
    said.is("standbys", "bad", "none of them follows");
    assert_eq!(said.status, Some(1));
    server.kill();
    let said = doctor(&home, "routes.yaml", &[]).await;
    assert_eq!(said.status, Some(3));
    said.is("store", "bad", "cannot be reached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_hands_sessions_around_is_noticed() {
    let home = Home::new();
    let url = Home::in_postgres().store_url();
    let port = url.split(['/', '?']).nth(2).and_then(|host| host.rsplit(':').next()).unwrap().to_owned();
    let pooler = pooler(port.parse().unwrap()).await;
    home.write("routes.yaml", &at(&format!("postgres://hookyard@127.0.0.1:{pooler}/postgres?sslmode=disable")).text());
    let said = doctor(&home, "routes.yaml", &[]).await;
    said.is("sessions", "bad", "pool_mode to session");
    assert_eq!(said.status, Some(1));
}

/// What stands between clients and the server at `port` and gives each transaction a session that is free, as pgbouncer does with
/// `pool_mode = transaction`. Knows simple queries only.
async fn pooler(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let free: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, port, free.clone()));
        }
    });
    own
}

async fn serve(mut client: TcpStream, port: u16, free: Arc<Mutex<Vec<TcpStream>>>) -> Option<()> {
    let startup = untagged(&mut client).await?;
    client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I']).await.ok()?;
    let mut session: Option<TcpStream> = None;
    loop {
        let asked = message(&mut client).await.filter(|it| it[0] == b'Q')?;
        let mut held = match session.take().or_else(|| free.lock().unwrap().pop()) {
            Some(session) => session,
            None => {
                let mut made = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
                made.write_all(&startup).await.ok()?;
                while message(&mut made).await?[0] != b'Z' {}
                made
            }
        };
        held.write_all(&asked).await.ok()?;
        let idle = loop {
            let said = message(&mut held).await?;
            client.write_all(&said).await.ok()?;
            if said[0] == b'Z' {
                break said[5] == b'I';
            }
        };
        // Within a transaction it is kept.
        if idle { free.lock().unwrap().push(held) } else { session = Some(held) }
    }
}

async fn message(from: &mut TcpStream) -> Option<Vec<u8>> {
    let kind = from.read_u8().await.ok()?;
    Some([&[kind][..], &untagged(from).await?].concat())
}

async fn untagged(from: &mut TcpStream) -> Option<Vec<u8>> {
    let length = from.read_u32().await.ok()?;
    let mut rest = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
    from.read_exact(&mut rest).await.ok()?;
    Some([&length.to_be_bytes()[..], &rest].concat())
}
