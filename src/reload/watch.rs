//! Notices that the file has changed, or one that it names: fragments under `include`, `${file:…}`.
//!
//! The content decides, looked at once a second. That works alike on every file system, over networks too, and whatever way a file is
//! replaced: written over, renamed into place by an editor, swapped behind a symbolic link by Kubernetes, deleted and made again with its
//! folder. Nothing ends it: what cannot be read counts as content like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::{Failure, Reloader, reload};
use crate::{
    app::Handles,
    config::{self, Loaded},
    sign,
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// How long nothing must have changed before a change is gone by.
const SETTLED: Duration = Duration::from_millis(300);
/// Whoever writes on and on is not waited for longer.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);
/// How long a file that is gone may take to come back before that counts as a change.
const BACK_WITHIN: Duration = Duration::from_secs(3);
/// How much of a file is looked at, in bytes: one more than any of them may hold.
const LOOKED_AT: u64 = 16 * 1024 * 1024;
/// Files that are looked at.
const FILES_MAX: usize = 4096;
/// How often a file is read though nothing says that it changed: within one tick of its file system's clock nothing does.
const DOUBTED: u8 = 3;

/// What was found: which files, and the content of each.
pub(super) type Seen = BTreeMap<PathBuf, Option<[u8; 32]>>;

/// Looks, and remembers what was there when the configuration was last read.
#[derive(Debug, Default)]
pub(super) struct Looker {
    files: BTreeSet<PathBuf>,
    /// What fits them is looked at too.
    patterns: BTreeSet<PathBuf>,
    /// Content that need not be read again, as long as its stamp is the same.
    known: BTreeMap<PathBuf, Known>,
    remembered: Seen,
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    content: Option<[u8; 32]>,
    looks: u8,
}

/// What tells one state of a file from another, as a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let it = fs::metadata(path)?;
        let signed = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
        let (mode, regular) = (i64::from(it.mode()), it.is_file());
        if !regular {
            // A pipe or a device could make the reader wait for ever.
            return Ok(Self([mode, 0, 0, 0, 0, 0, 0]));
        }
        Ok(Self([mode, signed(it.dev()), signed(it.ino()), signed(it.size()), it.mtime(), it.mtime_nsec(), it.ctime_nsec()]))
    }
}

impl Looker {
    /// Looks at the file at `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self { files: [path.to_owned()].into(), ..Self::default() }
    }

    /// The file at `path` was read, and the `secrets` that it names: `before` is what had been there. Of what nobody had looked at by then
    /// is remembered what was read. Of a bad file nobody knows all that it names, so what was looked at before still is.
    pub(super) fn read(&mut self, path: &Path, loaded: &Loaded, secrets: Seen, before: Seen) {
        let fragments = loaded.files.all().skip(1).map(|(path, text)| (path.to_owned(), Some(sign::sha256(&[text.as_bytes()]))));
        if loaded.config.is_some() {
            (self.files, self.patterns) = ([path.to_owned()].into(), BTreeSet::new());
        }
        self.files.extend(secrets.keys().take(FILES_MAX).cloned());
        self.patterns.extend(loaded.includes.iter().cloned());
        let read: Seen = secrets.into_iter().chain(fragments).collect();
        let mut remembered = before;
        remembered.retain(|path, _| loaded.config.is_none() || self.files.contains(path) || read.contains_key(path));
        for (path, content) in read {
            remembered.entry(path).or_insert(content);
        }
        self.remembered = remembered;
    }

    /// What is there now.
    pub(super) fn look(&mut self) -> Seen {
        let fitting = self.patterns.iter().flat_map(|pattern| config::included(pattern));
        let files: BTreeSet<_> = self.files.iter().cloned().chain(fitting).take(FILES_MAX).collect();
        self.known.retain(|path, _| files.contains(path));
        files.into_iter().map(|path| (path.clone(), self.content(&path))).collect()
    }

    fn content(&mut self, path: &Path) -> Option<[u8; 32]> {
        let Ok(stamp) = Stamp::of(path) else {
            self.known.remove(path);
            return None;
        };
        if let Some(known) = self.known.get(path).filter(|known| known.stamp == stamp && DOUBTED <= known.looks) {
            return known.content;
        }
        let looks = self.known.get(path).filter(|known| known.stamp == stamp).map_or(0, |known| known.looks + 1);
        let content = hash(path);
        self.known.insert(path.to_owned(), Known { stamp, content, looks });
        content
    }

    /// Whether what is there now is not what the configuration was last read from.
    fn has_changed(&mut self) -> Option<Seen> {
        let now = self.look();
        (self.remembered != now).then_some(now)
    }
}

/// The hash of what the file at `path` holds; `None` when that cannot be read.
fn hash(path: &Path) -> Option<[u8; 32]> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LOOKED_AT + 1).read_to_end(&mut bytes).ok()?;
    Some(sign::sha256(&[&bytes]))
}

/// Goes by the file whenever it has changed, while `server.watch` says so, until the relay stops.
pub async fn run(handles: Handles) {
    let reloader = handles.reloader.clone();
    let stop = handles.stop.clone();
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        if !handles.config().server.watch || reloader.file().is_none() {
            continue;
        }
        let watching = changed(&reloader);
        if !matches!(stop.run_until_cancelled(watching).await, Some(true)) {
            continue;
        }
        info!("the configuration has changed on disk");
        if let Err(Failure::Stopping) = reload(&handles, false).await {
            debug!("the change comes too late");
        }
    }
}

/// Whether there is a change that has settled.
async fn changed(reloader: &std::sync::Arc<Reloader>) -> bool {
    let Some(mut seen) = look(reloader).await else { return false };
    let began = Instant::now();
    loop {
        sleep(SETTLED).await;
        let Some(now) = look(reloader).await else { return false };
        let gone = now.values().any(Option::is_none) && began.elapsed() < BACK_WITHIN;
        let moving = now != seen && began.elapsed() < SETTLES_WITHIN;
        if !gone && !moving {
            return true;
        }
        seen = now;
    }
}

/// What is there now; `None` when it is what the configuration was last read from.
async fn look(reloader: &std::sync::Arc<Reloader>) -> Option<Seen> {
    let reloader = reloader.clone();
    tokio::task::spawn_blocking(move || reloader.looker().has_changed()).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn looker(path: &Path, others: &[&Path], patterns: &[&Path]) -> Looker {
        let mut looker = Looker::new(path);
        looker.files.extend(others.iter().map(|path| (*path).to_owned()));
        looker.patterns.extend(patterns.iter().map(|path| (*path).to_owned()));
        take_note(&mut looker);
        looker
    }

    /// Whether there was a change; from now on there is none.
    fn take_note(looker: &mut Looker) -> bool {
        let seen = looker.has_changed();
        let changed = seen.is_some();
        seen.into_iter().for_each(|seen| looker.remembered = seen);
        assert!(looker.has_changed().is_none());
        changed
    }

    #[test]
    fn every_way_of_replacing_a_file_is_noticed_and_what_says_the_same_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("routes.yaml"), folder.path().join("new"));
        fs::write(&path, "one").unwrap();
        let mut looker = looker(&path, &[], &[]);
        for _ in 0..5 {
            assert!(!take_note(&mut looker));
        }
        fs::write(&path, "two").unwrap();
        assert!(take_note(&mut looker), "written over, as long as before");
        fs::write(&new, "six").unwrap();
        fs::rename(&new, &path).unwrap();
        assert!(take_note(&mut looker), "renamed");
        fs::write(&new, "six").unwrap();
        fs::rename(&new, &path).unwrap();
        assert!(!take_note(&mut looker), "it says the same");
        fs::remove_file(&path).unwrap();
        assert!(take_note(&mut looker), "gone");
        fs::write(&path, "six").unwrap();
        assert!(take_note(&mut looker), "back");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(take_note(&mut looker), "a folder cannot be read");
    }

    #[test]
    fn a_link_that_is_swapped_is_noticed_and_so_is_a_folder_that_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (version, text) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("routes.yaml"), text).unwrap();
        }
        // As the volume of a ConfigMap has it.
        symlink("v1", root.join("..data")).unwrap();
        symlink("..data/routes.yaml", root.join("routes.yaml")).unwrap();
        let mut looker = looker(&root.join("routes.yaml"), &[], &[]);
        symlink("v2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join("v1")).unwrap();
        assert!(take_note(&mut looker));
        fs::remove_dir_all(root.join("v2")).unwrap();
        assert!(take_note(&mut looker), "the link leads nowhere");
        fs::create_dir(root.join("v2")).unwrap();
        fs::write(root.join("v2/routes.yaml"), "two").unwrap();
        assert!(take_note(&mut looker));
    }

    #[test]
    fn what_the_file_names_is_looked_at_and_what_comes_to_fit_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let (path, secret) = (root.join("routes.yaml"), root.join("secret"));
        fs::write(&path, "one").unwrap();
        let mut looker = looker(&path, &[&secret], &[&root.join("routes.d/*.yaml")]);
        fs::write(&secret, "hush").unwrap();
        assert!(take_note(&mut looker));
        fs::create_dir(root.join("routes.d")).unwrap();
        assert!(!take_note(&mut looker));
        fs::write(root.join("routes.d/a.yaml"), "a").unwrap();
        assert!(take_note(&mut looker));
        fs::rename(root.join("routes.d/a.yaml"), root.join("routes.d/b.yaml")).unwrap();
        assert!(take_note(&mut looker), "another name is another place");
        fs::remove_file(root.join("routes.d/b.yaml")).unwrap();
        assert!(take_note(&mut looker));
    }
}
