//! Servers that take nobody, and servers that take everybody and say nothing.

use std::{net::SocketAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::{
    super::{connect::PATIENT, *},
    url_of,
};

/// How long what should end at once may take on a slow machine.
const SOON: Duration = Duration::from_secs(30);

/// A listener with room for nobody: whoever comes waits for ever.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    let patience = Duration::from_millis(500);
    while let Ok(taken) = tokio::time::timeout(patience, TcpStream::connect(listener.local_addr().unwrap())).await {
        waiting.push(taken.unwrap());
        assert!(waiting.len() < 16, "there is no end of its room");
    }
    (listener, waiting)
}

/// A listener that takes whoever comes, and says nothing.
async fn silent() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// The URL of the tests' server, with these before it.
async fn behind(path: &std::path::Path, others: &[SocketAddr], also: &str) -> Secret {
    let others: String = others.iter().map(|it| format!("{it},")).collect();
    let url = url_of(path).await;
    Secret::new(format!("{}{also}", url.reveal().replace("@127", &format!("@{others}127"))))
}

async fn servers(path: &std::path::Path, patience: Duration) -> Arc<Servers> {
    servers_at(url_of(path).await.reveal(), patience)
}

fn servers_at(url: &str, patience: Duration) -> Arc<Servers> {
    let place = url::parse(url).unwrap();
    let tls = Tls::new(&place).unwrap();
    let mut servers = Servers::new(place, tls);
    servers.patience = patience;
    Arc::new(servers)
}

/// Stands before the server at `port`, and passes on what is said unless it is told to be still. It takes whoever comes either way.
async fn stand_before(port: u16) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, still) = (listener.local_addr().unwrap(), watch::Sender::new(false));
    let told = still.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut asks, mut hears), (mut says, mut answers)) = (near.into_split(), far.into_split());
            let (one, other) = (told.subscribe(), told.subscribe());
            tokio::spawn(async move { pass_on(&mut asks, &mut answers, one).await });
            tokio::spawn(async move { pass_on(&mut says, &mut hears, other).await });
        }
    });
    (address, still)
}

async fn pass_on(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut still: watch::Receiver<bool>) {
    let mut said = [0; 4096];
    while let Ok(many @ 1..) = from.read(&mut said).await {
        if still.wait_for(|still| !still).await.is_err() || to.write_all(&said[..many]).await.is_err() {
            return;
        }
    }
}

async fn opens(url: &Secret) {
    let store = open(url, Clock::system()).await.unwrap();
    let asked = Instant::now();
    store.set_setting("colour", "blue".into()).await.unwrap();
    assert_eq!(store.setting("colour").await.unwrap().as_deref(), Some("blue"));
    assert!(asked.elapsed() < Duration::from_secs(9), "the one that answered is asked first: {:?}", asked.elapsed());
    store.close().await;
}

#[tokio::test]
async fn servers_that_take_nobody_do_not_keep_the_next_one_from_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (full().await, full().await);
    let others = [one.0.local_addr().unwrap(), two.0.local_addr().unwrap()];
    opens(&behind(folder.path(), &others, "").await).await;
    opens(&behind(folder.path(), &others[..1], "&connect_timeout=10").await).await;
}

#[tokio::test]
async fn a_server_that_says_nothing_does_not_keep_the_next_one_from_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let silent = silent().await;
    opens(&behind(folder.path(), &[silent.local_addr().unwrap()], "").await).await;
}

#[tokio::test]
async fn a_server_that_only_says_nothing_is_no_server() {
    let silent = silent().await;
    let url = Secret::new(format!("postgres://me:hush@{}/db?connect_timeout=1", silent.local_addr().unwrap()));
    let Err(Error::Full(why)) = open(&url, Clock::system()).await else { panic!("opened") };
    assert!(why.contains("cannot be reached") && why.contains("no answer within 6 s"), "{why}");
}

#[tokio::test]
async fn a_statement_that_takes_long_is_waited_for_and_one_that_takes_too_long_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let servers = servers(folder.path(), Duration::from_millis(100)).await;
    let pool = |rounds| Pool::new(&servers, &Arc::default(), 2, false, rounds).unwrap();
    let patient = pool(PATIENT).get().await.unwrap();
    let rows = patient.rows("SELECT 1 FROM pg_sleep(1.5)", &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "the server said that it works on it");

    let brief = pool(2);
    let db = brief.get().await.unwrap();
    let other = brief.get().await.unwrap();
    let (late, beside) =
        tokio::join!(tokio::time::timeout(SOON, db.rows("SELECT pg_sleep(60)", &[])), other.rows("SELECT 1", &[]));
    let error = late.expect("given up in time").unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(beside.is_ok());
    assert!(!db.is_usable() && other.is_usable() && patient.is_usable(), "that one alone is at an end");
}

#[tokio::test]
async fn a_connection_whose_process_the_server_does_not_know_is_at_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let servers = servers(folder.path(), Duration::from_millis(100)).await;
    let made = servers.connect().await.unwrap();
    assert!(servers.works(&made.at, None).await);
    let before = Instant::now();
    assert!(!servers.works(&made.at, Some(0)).await, "another server answers there");
    assert!(servers.are_left(before) && !servers.are_left(Instant::now()), "new ones are made");
}

#[tokio::test]
async fn whoever_waits_for_a_server_that_has_fallen_silent_learns_it_and_finds_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let url = url_of(folder.path()).await;
    let port = url::parse(url.reveal()).unwrap().config.get_ports()[0];
    let (address, still) = stand_before(port).await;
    let servers =
        servers_at(&url.reveal().replace(&format!("127.0.0.1:{port}"), &address.to_string()), Duration::from_millis(500));
    let pool = Pool::new(&servers, &Arc::default(), 2, false, PATIENT).unwrap();
    let (one, idle) = (pool.get().await.unwrap(), pool.get().await.unwrap());
    let client = servers.connect().await.unwrap().watched(&servers);
    one.rows("SELECT 1", &[]).await.unwrap();
    client.simple_query("SELECT 1").await.unwrap();

    still.send_replace(true);
    let both = async { tokio::join!(one.rows("SELECT 2", &[]), client.simple_query("SELECT 2")) };
    let (pooled, watched) = tokio::time::timeout(SOON, both).await.expect("given up in time");
    assert!(pooled.unwrap_err().is_closed() && watched.unwrap_err().is_closed());
    assert!(!idle.is_usable(), "nor is what nobody waited for used again");
    still.send_replace(false);
    drop((one, idle));
    assert_eq!(pool.get().await.unwrap().rows("SELECT 3", &[]).await.unwrap().len(), 1);
}
