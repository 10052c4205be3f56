//! Stores for relays to run on. Unless one was given, they are SQLite files under Cargo's target folder (on the disk, not in `/tmp`,
//! which is memory on many machines), or databases of a PostgreSQL of the bench's own. The filled one is made once, and every measurement
//! gets a copy of its own, on disk before it starts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
    process::Command,
    sync::Arc,
};

use hookyard::secret::Secret;
use tempfile::TempDir;

use crate::{Outcome, options::Engine, postgres::Server};

const DATABASE: &str = "hookyard.db";

/// Makes stores.
pub(crate) struct Stores {
    given: Option<Secret>,
    server: Option<Server>,
    filled: BTreeMap<Engine, Place>,
    /// Databases that were made and not yet removed.
    databases: Vec<Arc<str>>,
}

/// A folder for one relay: its store, key file and `routes.yaml`. Gone when dropped.
pub(crate) struct Place {
    dir: TempDir,
    /// `store.url`.
    pub(crate) url: Secret,
    /// The database in the bench's own PostgreSQL, which goes once another is made.
    database: Option<Arc<str>>,
}

impl Stores {
    /// Uses `given` for everything, if there is one; else files, and databases of `server`.
    pub(crate) fn new(given: Option<Secret>, server: Option<Server>) -> Self {
        Self { given, server, filled: BTreeMap::new(), databases: Vec::new() }
    }

    /// The PostgreSQL of the bench's own, if it has one.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// An empty store, or the given one as it is.
    pub(crate) async fn empty(&mut self, engine: Engine) -> Outcome<Place> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        if let Some(url) = self.given.clone() {
            return Ok(Place { dir, url, database: None });
        }
        match engine {
            Engine::Sqlite => {
                let url = Secret::new(format!("sqlite://{}", dir.path().join(DATABASE).display()));
                Ok(Place { dir, url, database: None })
            }
            Engine::Postgres => self.database(dir, None).await,
        }
    }

    /// A copy of the filled store, or the given one as it is.
    pub(crate) async fn filled(&mut self, engine: Engine) -> Outcome<Place> {
        let filled = self.filled.remove(&engine).filter(|_| self.given.is_none());
        let Some(filled) = filled else { return self.empty(engine).await };
        let copy = self.copy_of(&filled).await;
        self.filled.insert(engine, filled);
        copy
    }

    /// From now on `place`, whose relay has stopped, is the filled store.
    pub(crate) async fn fill_with(&mut self, engine: Engine, place: Place) -> Outcome {
        self.settle(&place).await?;
        self.filled.insert(engine, place);
        Ok(())
    }

    /// Tidies up a store that was filled, where its server would in a while.
    pub(crate) async fn settle(&self, place: &Place) -> Outcome {
        match (&self.server, &place.database) {
            (Some(server), Some(name)) => server.settle(name).await,
            _ => Ok(()),
        }
    }

    /// The same again, for another relay; nobody is using `place`. All of it is on disk: what the copying, and whatever was measured before,
    /// left to be written would be written while the relay waits for its own commits.
    pub(crate) async fn copy_of(&mut self, place: &Place) -> Outcome<Place> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let copied = if let Some(name) = &place.database {
            self.database(dir, Some(name)).await?
        } else {
            copy(place.path(), dir.path())?;
            let url = Secret::new(format!("sqlite://{}", dir.path().join(DATABASE).display()));
            Place { dir, url, database: None }
        };
        if let Some(server) = &self.server {
            server.checkpoint().await?;
        }
        Command::new("sync").status()?;
        Ok(copied)
    }

    /// How many shards each relay at `place` holds for good.
    pub(crate) async fn shares(&self, place: &Place) -> Outcome<Vec<i64>> {
        match (&self.server, &place.database) {
            (Some(server), Some(name)) => server.shares(name).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn database(&mut self, dir: TempDir, copy_of: Option<&str>) -> Outcome<Place> {
        let server = self.server.as_mut().ok_or("there is no PostgreSQL")?;
        let (unused, used): (Vec<_>, Vec<_>) = self.databases.drain(..).partition(|name| Arc::strong_count(name) == 1);
        self.databases = used;
        for name in unused {
            server.remove(&name).await?;
        }
        let name: Arc<str> = server.create(copy_of).await?.into();
        self.databases.push(name.clone());
        Ok(Place { dir, url: server.url(&name), database: Some(name) })
    }
}

impl Place {
    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The database file, where the store is one.
    pub(crate) fn database(&self) -> Option<std::path::PathBuf> {
        self.url.reveal().strip_prefix("sqlite://").map(Into::into)
    }

    /// Sizes of the database and of its write-ahead log in MB; 0 where there is none.
    pub(crate) fn sizes_mb(&self) -> (f64, f64) {
        let size = |path: &Path| fs::metadata(path).map_or(0.0, |file| file.len() as f64 / 1e6);
        let Some(database) = self.database() else { return (0.0, 0.0) };
        let mut log = database.clone().into_os_string();
        log.push("-wal");
        (size(&database), size(Path::new(&log)))
    }
}

/// Copies the files of `from` and waits until they are on disk, so that nothing is still being written when the clock starts.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        fs::copy(entry.path(), &target)?;
        File::open(&target)?.sync_all()?;
    }
    File::open(to)?.sync_all()
}
