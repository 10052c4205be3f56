//! A store for a while: in a folder of its own that is gone with it.

use std::{fs::DirBuilder, path::PathBuf, sync::Arc};

use ring::rand::{SecureRandom, SystemRandom};

use super::{Error, Result, Store, sqlite};
use crate::{clock::Clock, sign::hex};

/// A store that nobody else sees and that nothing remains of.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Scratch {
    store: Arc<dyn Store>,
    _folder: Folder,
}

impl Scratch {
    /// Makes one, empty.
    pub async fn open(clock: Clock) -> Result<Self> {
        let folder = Folder::make()?;
        let store = sqlite::open(&folder.0.join("scratch.db"), clock).await?;
        Ok(Self { store, _folder: folder })
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Ends it.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// A folder that only its owner may look into.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Backend("the system gives no random bytes".into()))?;
        let path = std::env::temp_dir().join(format!("hookyard-{}", hex(&bytes)));
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path).map_err(|error| Error::Backend(format!("{}: {error}", path.display()).into()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clear away.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
