//! Stores for relays to run on. Unless one was given, they are SQLite files under Cargo's target folder: on the disk, not in `/tmp`,
//! which is memory on many machines. The filled one is made once, and every measurement gets a copy of its own, synced before it starts.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use hookyard::secret::Secret;
use tempfile::TempDir;

use crate::Outcome;

const DATABASE: &str = "hookyard.db";

/// Makes stores.
pub(crate) struct Stores {
    given: Option<Secret>,
    filled: Option<Place>,
}

/// A folder for one relay: its store, key file and `routes.yaml`. Gone when dropped.
pub(crate) struct Place {
    dir: TempDir,
    /// `store.url`.
    pub(crate) url: Secret,
}

impl Stores {
    /// Uses `given` for everything, if there is one.
    pub(crate) fn new(given: Option<Secret>) -> Self {
        Self { given, filled: None }
    }

    /// An empty store, or the given one as it is.
    pub(crate) fn empty(&self) -> Outcome<Place> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let own = || Secret::new(format!("sqlite://{}", dir.path().join(DATABASE).display()));
        let url = self.given.clone().unwrap_or_else(own);
        Ok(Place { dir, url })
    }

    /// A copy of the filled store, or the given one as it is.
    pub(crate) fn filled(&self) -> Outcome<Place> {
        let place = self.empty()?;
        if let Some(filled) = self.filled.as_ref().filter(|_| self.given.is_none()) {
            copy(filled.path(), place.path())?;
        }
        Ok(place)
    }

    /// From now on `place`, whose relay has stopped, is the filled store.
    pub(crate) fn fill_with(&mut self, place: Place) {
        self.filled = Some(place);
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
