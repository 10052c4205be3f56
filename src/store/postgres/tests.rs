//! The contract on PostgreSQL, and what only PostgreSQL promises.

use std::path::PathBuf;

use super::*;
use crate::{
    sign::{hex, sha256},
    store::contract::{Opening, contract},
};

mod another_server;
mod hearing;
mod partitions;
mod plans;
mod reaching;
#[path = "../../../tests/it/support/postgres.rs"]
mod server;
mod usage;

contract!(shared: super::opened);

/// A schema of its own in the tests' database stands for each path.
fn opened(path: PathBuf, clock: Clock) -> Opening {
    Box::pin(async move { Ok(open(&url_of(&path).await, clock).await? as Arc<dyn Store>) })
}

pub(in crate::store) async fn url_of(path: &std::path::Path) -> Secret {
    let schema = format!("s_{}", &hex(&sha256(&[path.to_string_lossy().as_bytes()]))[..16]);
    let port = tokio::task::spawn_blocking(server::port).await.unwrap();
    let url = format!("postgres://hookyard@127.0.0.1:{port}/postgres");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await.unwrap();
    driver.abort();
    Secret::new(format!("{url}?options=-csearch_path%3D{schema}"))
}

/// A connection to the schema that stands for `path`.
pub(in crate::store) async fn client(path: &std::path::Path) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url_of(path).await.reveal(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_schema_that_needs_a_newer_version_is_refused_and_an_additive_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let url = url_of(folder.path()).await;
    open(&url, Clock::system()).await.unwrap().close().await;
    let client = client(folder.path()).await;
    client.execute("UPDATE hookyard SET version = 98", &[]).await.unwrap();
    open(&url, Clock::system()).await.unwrap().close().await;
    client.execute("UPDATE hookyard SET version = 99, works_since = 99", &[]).await.unwrap();
    let Err(Error::Unreadable(why)) = open(&url, Clock::system()).await else { panic!("opened") };
    assert_eq!(
        why,
        "its schema has version 99, which needs a hookyard that knows version 99; this one knows 1, and has changed nothing: start the newer hookyard, or restore a backup from before it"
    );
}

#[tokio::test]
async fn another_programs_tables_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (url, client) = (url_of(folder.path()).await, client(folder.path()).await);
    client.batch_execute("CREATE TABLE events (theirs TEXT)").await.unwrap();
    let Err(Error::Unreadable(why)) = open(&url, Clock::system()).await else { panic!("opened") };
    assert!(why.contains("another program"), "{why}");
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";
    let left: i64 = client.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_database_that_cannot_hold_any_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (url, client) = (url_of(folder.path()).await, client(folder.path()).await);
    let name = format!("latin1_{}", std::process::id());
    let sql = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    client.batch_execute(&sql).await.unwrap();
    let (start, _) = url.reveal().split_once("/postgres?").unwrap();
    let url = Secret::new(format!("{start}/{name}"));
    let Err(Error::Unreadable(why)) = open(&url, Clock::system()).await else { panic!("opened") };
    assert!(why.contains("encoding is LATIN1") && why.contains("ENCODING 'UTF8' TEMPLATE template0"), "{why}");
    let found = doctor::examine(&url, &Clock::system()).await.unwrap().findings;
    let said = found.iter().find(|it| it.check == "encoding").unwrap();
    assert!(said.health == crate::store::doctor::Health::Bad && said.said.contains("LATIN1"), "{said:?}");
    let schema = found.iter().find(|it| it.check == "schema").unwrap();
    assert!(schema.said.contains("no store in it yet"), "{schema:?}");
    client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

#[tokio::test]
async fn many_that_start_at_once_make_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let url = url_of(folder.path()).await;
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let url = url.clone();
        starts.spawn(async move { open(&url, Clock::system()).await.unwrap() });
    }
    let stores = starts.join_all().await;
    let salts: std::collections::HashSet<u64> = stores.iter().map(|store| store.shared.reading.salt).collect();
    assert_eq!(salts.len(), 1);
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_had_to_wait_says_nothing_of_clocks() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&url_of(folder.path()).await, Clock::system()).await.unwrap();
    let lease = Duration::from_secs(15);
    // As one asks that waited for so long until it held the lock of the store.
    let asked = crate::clock::earlier(Clock::system().now(), Duration::from_secs(4));
    let owned = store.own_shards(OwnerId(1), asked, lease).await.unwrap();
    assert!(!store.shared.differs.load(std::sync::atomic::Ordering::Relaxed));
    let until = to_ms(crate::clock::later(asked, lease));
    assert!(
        owned.len() == 256 && owned.iter().all(|it| to_ms(it.until) == until),
        "a lease is measured from before it was asked for"
    );
    store.close().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be_without_the_password() {
    let url = Secret::new("postgres://me:hush@127.0.0.1:1/db");
    let Err(error) = open(&url, Clock::system()).await else { panic!("opened") };
    assert!(matches!(error, Error::Full(_)), "{error:?}");
    assert!(error.to_string().contains("cannot be reached") && !error.to_string().contains("hush"), "{error}");
}
