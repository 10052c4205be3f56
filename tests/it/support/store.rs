//! Which store the relays of a test work on: SQLite in their folder; or PostgreSQL, for tests that run once more for it.

use std::{cell::Cell, path::Path, process::Command};

use super::{Routes, postgres};

/// What replicas seal with.
const KEY: &str = "c2VhbGVkIGJ5IGV2ZXJ5IHJlcGxpY2Egb2YgdGVzdHM=";

thread_local! {
    /// Whether the test that this thread runs is for PostgreSQL.
    static POSTGRES: Cell<bool> = const { Cell::new(false) };
    /// How many relays it has started there.
    static STARTED: Cell<u32> = const { Cell::new(0) };
}

/// Runs `test` once more, for PostgreSQL.
pub(crate) fn on_postgres(test: fn()) {
    POSTGRES.set(true);
    test();
    assert!(0 < STARTED.get(), "nothing of it was on PostgreSQL");
}

/// Where the store of one folder is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// `hookyard.db` in the folder.
    Folder,
    /// A schema of its own in the database of this run.
    Schema(String),
}

impl Place {
    /// The place for a new folder of the test that this thread runs.
    pub(crate) fn new(folder: &Path) -> Self {
        if POSTGRES.get() { Self::Schema(schema(folder)) } else { Self::Folder }
    }

    /// A schema of its own, whatever the test that this thread runs is for.
    pub(crate) fn in_postgres(folder: &Path) -> Self {
        Self::Schema(schema(folder))
    }

    /// The store's URL, whatever folder it is opened from.
    pub(crate) fn url(&self, folder: &Path) -> String {
        match self {
            Self::Folder => format!("sqlite://{}/hookyard.db", folder.display()),
            Self::Schema(url) => {
                STARTED.set(STARTED.get() + 1);
                url.clone()
            }
        }
    }

    /// `routes` with their store here.
    pub(crate) fn of(&self, folder: &Path, routes: Routes) -> Routes {
        let routes = routes.store_at(&self.url(folder));
        if matches!(self, Self::Schema(_)) { routes.sealed_under(KEY) } else { routes }
    }
}

/// Makes a schema that is named after `folder`; yields the URL of a store in it.
fn schema(folder: &Path) -> String {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    let url = format!("postgres://hookyard@127.0.0.1:{}/postgres", postgres::port());
    // Two folders whose names differ in nothing but case.
    let name = format!("t{name}_{}_{}", std::process::id(), fastrand::u32(..));
    asks(&url, &format!("CREATE SCHEMA {name}"));
    format!("{url}?options=-csearch_path%3D{name}")
}

/// Lets the server at `url` run `sql`; yields what that says.
pub(crate) fn asks(url: &str, sql: &str) -> String {
    answered(url, sql).unwrap_or_else(|said| panic!("{sql}: {said}"))
}

/// The same, where it may fail.
pub(crate) fn tries(url: &str, sql: &str) -> Option<String> {
    answered(url, sql).ok()
}

fn answered(url: &str, sql: &str) -> Result<String, String> {
    let mut psql = Command::new(postgres::program("psql"));
    let done = psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, url]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}
