//! A folder of the demo's own, gone with it.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt, path::PathBuf};

use crate::cli::{Failure, send::random_id};

/// A new folder that nobody else may look into, removed when dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it where the system keeps such things.
    pub(super) fn make() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(random_id("hookyard-demo-")?);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::Bad(format!("{} cannot be made: {error}", path.display())))?;
        Ok(Self(path))
    }

    /// The path of the store in it.
    pub(super) fn store(&self) -> String {
        self.0.join("hookyard.db").display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clear away.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
