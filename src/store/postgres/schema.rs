//! Bringing the tables up to what this version knows.

use std::cmp::Ordering;

use ring::rand::{SecureRandom, SystemRandom};
use tokio_postgres::{Client, error::SqlState};

use super::{connect::fault, partitions};
use crate::store::{Error, Result};

/// What brings a store from one version to the next, oldest first. Never edited once released, only added to; within a major version
/// of Hookyard a step only adds (tables, columns that may be left out), so that replicas of the version before go on beside this one.
/// A delivery that those must leave alone has a `state` or a `turn` they do not know; what they may ignore goes wherever it fits.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001.sql")];

/// The version of the schema that this binary brings a store to.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;
/// The oldest version of the schema of which a binary can work with what [`MIGRATIONS`] make: raised only by a step that does not just add.
const WORKS_SINCE: i32 = 1;

/// First half of the key of the lock that whoever migrates holds: `HkYd`. The other half is the schema's own number.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1214994788, to_regnamespace(quote_ident(current_schema()))::oid::int)";
/// Held alone by whoever copies a store or makes a copy in it, and for a moment beside others by whoever opens one.
const NOT_COPIED: &str =
    "SELECT pg_try_advisory_xact_lock_shared(1214994789, to_regnamespace(quote_ident(current_schema()))::oid::int)";
/// Takes it for as long as the connection lives; whether nobody has it.
pub(super) const COPY: &str = "SELECT pg_try_advisory_lock(1214994789, to_regnamespace(quote_ident(current_schema()))::oid::int)";
/// Held beside others by every process that has the store open, on the connection by which it hears of them; whether nobody copies. A lease
/// says less: it ends in a machine that stands still for a while, and the relay there goes on afterwards.
pub(super) const WORKS: &str =
    "SELECT pg_try_advisory_lock_shared(1214994790, to_regnamespace(quote_ident(current_schema()))::oid::int)";
/// Waits until nobody holds [`WORKS`], and keeps everybody from it for as long as the connection lives.
pub(super) const UNUSED: &str = "SELECT pg_advisory_lock(1214994790, to_regnamespace(quote_ident(current_schema()))::oid::int)";
/// Who holds it: the server's processes, and from where they are spoken to as far as the role may see that.
pub(super) const USERS: &str = "SELECT coalesce(string_agg(l.pid || coalesce(' for ' || host(a.client_addr), ''), ', '), 'none')
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.classid = 1214994790 AND l.objid = to_regnamespace(quote_ident(current_schema()))::oid
        AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";
/// What a database's text has to be in: any other has no place for some of what is sent.
pub(super) const ENCODING: &str = "UTF8";
/// What tells a store from another program's tables.
const HEAD: &str = "CREATE TABLE hookyard (version INTEGER NOT NULL, works_since INTEGER NOT NULL)";

/// Makes sure that the schema `client` works in holds a store of ours in today's schema: one without tables becomes one, an older one
/// is brought up. Of several that start at once one does it, and the others wait for it. Answers the store's salt.
///
/// # Errors
/// [`Error::Unreadable`] for another program's tables, for a newer schema that this version cannot work with, and for a database that cannot
/// hold any text; nothing is written.
pub(super) async fn prepare(client: &mut Client) -> Result<u64> {
    holds_any_text(client).await?;
    let tx = client.transaction().await.map_err(|error| fault(&error))?;
    let done = async {
        tx.query_one(LOCK, &[]).await.map_err(no_schema)?;
        if !tx.query_one(NOT_COPIED, &[]).await.map_err(|error| fault(&error))?.get::<_, bool>(0) {
            return Err(Error::Locked("`hookyard store copy` works on it".to_owned()));
        }
        let there = "SELECT to_regclass(quote_ident(current_schema()) || '.hookyard') IS NOT NULL";
        let there: bool = tx.query_one(there, &[]).await.map_err(|error| fault(&error))?.get(0);
        let version = if there { version(&tx).await? } else { 0 };
        match version.cmp(&VERSION) {
            Ordering::Less => migrate(&tx, version).await?,
            Ordering::Equal => {}
            Ordering::Greater => {
                tracing::warn!(
                    version,
                    known = VERSION,
                    "a later version has added to the store; this one goes on with what it knows"
                );
            }
        }
        let salt: i64 = tx.query_one("SELECT salt FROM identity", &[]).await.map_err(|error| fault(&error))?.get(0);
        Ok(salt.cast_unsigned())
    };
    let salt = done.await?;
    tx.commit().await.map_err(|error| fault(&error))?;
    Ok(salt)
}

async fn holds_any_text(client: &Client) -> Result<()> {
    let row = client.query_one("SHOW server_encoding", &[]).await.map_err(|error| fault(&error))?;
    let encoding: &str = row.try_get(0).map_err(|error| fault(&error))?;
    if encoding == ENCODING {
        return Ok(());
    }
    Err(Error::Unreadable(format!(
        "the database's encoding is {encoding}, in which much of what is sent cannot be written; make another, by CREATE DATABASE … \
         ENCODING 'UTF8' TEMPLATE template0"
    )))
}

pub(super) fn no_schema(error: tokio_postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::INVALID_SCHEMA_NAME | &SqlState::NULL_VALUE_NOT_ALLOWED) => Error::Unreadable(
            "there is no schema to work in: the `search_path` of the connection names none that is there".into(),
        ),
        _ => fault(&error),
    }
}

async fn version(tx: &tokio_postgres::Transaction<'_>) -> Result<i32> {
    let row = tx.query_one("SELECT version, works_since FROM hookyard", &[]).await.map_err(|error| fault(&error))?;
    let (version, works_since): (i32, i32) = (row.get(0), row.get(1));
    if VERSION < works_since {
        return Err(Error::Unreadable(format!(
            "its schema has version {version}, which needs a hookyard that knows version {works_since}; this one knows {VERSION}, and \
             has changed nothing: start the newer hookyard, or restore a backup from before it"
        )));
    }
    Ok(version)
}

/// Runs what is missing; the caller commits.
async fn migrate(tx: &tokio_postgres::Transaction<'_>, from: i32) -> Result<()> {
    if from == 0 {
        tx.batch_execute(HEAD).await.map_err(theirs)?;
        tx.execute("INSERT INTO hookyard VALUES (0, 0)", &[]).await.map_err(theirs)?;
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or_default()) {
        tx.batch_execute(step).await.map_err(theirs)?;
    }
    if from == 0 {
        tx.batch_execute(&partitions::first()).await.map_err(theirs)?;
        tx.execute("INSERT INTO identity (salt, server) VALUES ($1, pg_postmaster_start_time())", &[&random_salt()?])
            .await
            .map_err(theirs)?;
    }
    let known = "UPDATE hookyard SET version = $1, works_since = greatest(works_since, $2)";
    tx.execute(known, &[&VERSION, &WORKS_SINCE]).await.map_err(theirs)?;
    tracing::info!(from, to = VERSION, "the store's tables are those of this version now");
    Ok(())
}

fn theirs(error: tokio_postgres::Error) -> Error {
    match error.code() {
        Some(&SqlState::DUPLICATE_TABLE | &SqlState::DUPLICATE_OBJECT) => Error::Unreadable(
            "the schema holds tables of another program; give Hookyard a database, or a schema by `options=-csearch_path=…`, of its own"
                .into(),
        ),
        _ => fault(&error),
    }
}

fn random_salt() -> Result<i64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Backend("the system gives no random bytes".into()))?;
    Ok(i64::from_ne_bytes(bytes))
}
