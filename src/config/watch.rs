//! Whether the files of a configuration changed on disk, by what they hold: editors rename files into place, and Kubernetes swaps links.

use std::path::{Path, PathBuf};

use super::{
    Loaded,
    include::{self, Distinct, FRAGMENTS_MAX, Found},
    read::{self, Fault},
};
use crate::sign;

/// The files of a configuration, and the patterns that may come to name more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    main: PathBuf,
    includes: Vec<PathBuf>,
}

impl Loaded {
    /// What is to be looked at for changes, whether the configuration is good or not.
    pub fn watched(&self) -> Watched {
        Watched { main: self.files.path().to_owned(), includes: self.includes.clone() }
    }
}

impl Watched {
    /// A hash of what the files hold now; the same as long as they say the same. `None` while one is being written: ask again.
    ///
    /// That a file is gone, or cannot be read, is a state like any other. Reads files: not for threads that must not wait.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        let mut distinct = Distinct::new(&self.main);
        let mut hashes = vec![hash(&self.main)?];
        for pattern in &self.includes {
            match include::find(Path::new(""), &pattern.to_string_lossy()) {
                Found::Files(files) => {
                    for file in files.iter().filter(|file| distinct.insert(file)).take(FRAGMENTS_MAX) {
                        hashes.push(sign::sha256(&[file.as_os_str().as_encoded_bytes()]));
                        hashes.push(hash(file)?);
                    }
                }
                Found::Missing => hashes.push([0; 32]),
                Found::Unreadable(reason) => hashes.push(sign::sha256(&[reason.as_bytes()])),
            }
        }
        Some(sign::sha256(&hashes.iter().map(<[u8; 32]>::as_slice).collect::<Vec<_>>()))
    }
}

fn hash(path: &Path) -> Option<[u8; 32]> {
    match read::bytes(path) {
        Ok(bytes) => Some(sign::sha256(&[b"text", &bytes])),
        Err(Fault::Changing) => None,
        Err(fault) => Some(sign::sha256(&[b"fault", fault.describe("").1.as_bytes()])),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::super::load;

    #[test]
    fn every_change_shows_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("one")).unwrap();
        fs::create_dir_all(at("two")).unwrap();
        fs::write(at("one/a.yaml"), "rules: []").unwrap();
        fs::write(at("two/a.yaml"), "rules: [] # other").unwrap();
        symlink("one", at("routes.d")).unwrap();
        fs::write(at("routes.yaml"), "version: 1\ninclude: [routes.d/*.yaml, extra.yaml]").unwrap();
        let watched = load(&at("routes.yaml"), &|_: &str| None).watched();
        let mut seen = vec![watched.fingerprint().unwrap()];
        assert_eq!(watched.fingerprint(), seen.last().copied());
        let mut changed = |what: &str| {
            let now = watched.fingerprint().unwrap();
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(at("extra.yaml"), "").unwrap();
        changed("a file that was missed");
        fs::write(at("one/b.yaml"), "").unwrap();
        changed("a new file");
        fs::rename(at("one/b.yaml"), at("one/c.yaml")).unwrap();
        changed("a new name");
        fs::remove_file(at("routes.d")).unwrap();
        symlink("two", at("routes.d")).unwrap();
        changed("a link that leads elsewhere");
        fs::write(at("routes.yaml"), "version: 1\ninclude: [routes.d/*.yaml]").unwrap();
        changed("the main file");
        fs::remove_file(at("routes.yaml")).unwrap();
        changed("no file");
        fs::write(at("routes.yaml"), "version: 1\ninclude: [routes.d/*.yaml]").unwrap();
        fs::write(at("one/c.yaml"), "not included any more").unwrap();
        assert_eq!(watched.fingerprint().unwrap(), seen[seen.len() - 2], "as it was before");
    }
}
