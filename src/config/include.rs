//! `include`: which files a pattern names. Reads folders, and no file.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::route::glob::run_matches;

/// Most fragments of a configuration.
pub(super) const FRAGMENTS_MAX: usize = 256;
/// Largest size of all files together, in bytes.
pub(super) const TOTAL_MAX: usize = 16 * 1024 * 1024;
/// Most patterns under `include`.
pub(super) const PATTERNS_MAX: usize = 64;
/// Most entries of a folder that a pattern looks through.
const ENTRIES_MAX: usize = 10_000;

/// What a pattern came to.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// These files, which are there; perhaps none.
    Files(Vec<PathBuf>),
    /// A name without `*`, of which there is no file.
    Missing,
    /// A folder could not be looked through.
    Unreadable(String),
}

/// The files below `folder` that `pattern` names, sorted by name. `*` stands for any part of one name, but for a dot at its beginning:
/// editors and Kubernetes hide there what is not yet, or no longer, a file of the configuration.
pub(super) fn find(folder: &Path, pattern: &str) -> Found {
    let full = folder.join(pattern);
    if !pattern.contains('*') {
        return if fs::symlink_metadata(&full).is_ok() { Found::Files(vec![full]) } else { Found::Missing };
    }
    let mut found = vec![PathBuf::new()];
    for part in full.components() {
        let name = part.as_os_str().to_string_lossy();
        if !name.contains('*') {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut deeper = Vec::new();
        for path in &found {
            match entries(path, &name) {
                Ok(names) => deeper.extend(names.into_iter().map(|name| path.join(name))),
                // A file beside the folders that `teams/*/routes.yaml` looks through, or no such folder: nothing fits.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Found::Unreadable(format!("{} cannot be looked through: {error}", path.display())),
            }
            if ENTRIES_MAX < deeper.len() {
                return Found::Unreadable(format!("more than {ENTRIES_MAX} names fit"));
            }
        }
        found = deeper;
    }
    found.retain(|path| fs::symlink_metadata(path).is_ok());
    found.sort();
    Found::Files(found)
}

/// The names in the folder `path` that fit `pattern`.
fn entries(path: &Path, pattern: &str) -> io::Result<Vec<std::ffi::OsString>> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut names = Vec::new();
    for (number, entry) in fs::read_dir(path)?.enumerate() {
        if ENTRIES_MAX <= number {
            return Err(io::Error::other(format!("it holds more than {ENTRIES_MAX} names")));
        }
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if run_matches(pattern, &text) && (!text.starts_with('.') || pattern.starts_with('.')) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The files a configuration consists of, each once, whatever links and patterns lead to it.
#[derive(Debug)]
pub(super) struct Distinct(HashSet<PathBuf>);

impl Distinct {
    /// Beginning with the main file: `*.yaml` in its own folder does not mean itself.
    pub(super) fn new(main: &Path) -> Self {
        let mut distinct = Self(HashSet::new());
        distinct.insert(main);
        distinct
    }

    /// Whether the file at `path` is not there yet.
    pub(super) fn insert(&mut self, path: &Path) -> bool {
        self.0.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn found(folder: &tempfile::TempDir, pattern: &str) -> String {
        match find(folder.path(), pattern) {
            Found::Files(files) => {
                let names = files.iter().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string());
                names.collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn patterns_find_files_sorted_and_leave_hidden_ones_alone() {
        let folder = folder(&[
            "routes.yaml",
            "routes.d/b.yaml",
            "routes.d/a.yaml",
            "routes.d/.a.yaml.swp",
            "routes.d/.c.yaml",
            "routes.d/a.yaml~",
            "routes.d/..data/d.yaml",
            "teams/x/r.yaml",
            "teams/y/r.yaml",
            "teams/readme",
        ]);
        assert_eq!(found(&folder, "routes.d/*.yaml"), "routes.d/a.yaml routes.d/b.yaml");
        assert_eq!(found(&folder, "./routes.d/*"), "routes.d/a.yaml routes.d/a.yaml~ routes.d/b.yaml");
        assert_eq!(found(&folder, "teams/*/r.yaml"), "teams/x/r.yaml teams/y/r.yaml");
        assert_eq!(found(&folder, "routes.d/.*.yaml"), "routes.d/.c.yaml");
        assert_eq!(found(&folder, "routes.d/b.yaml"), "routes.d/b.yaml");
        assert_eq!(found(&folder, "routes.d/z.yaml"), "Missing");
        assert_eq!(found(&folder, "nowhere/*.yaml"), "");
        assert_eq!(found(&folder, &format!("{}/teams/x/*", folder.path().display())), "teams/x/r.yaml");
    }

    #[test]
    fn a_file_counts_once_however_it_is_reached() {
        let folder = folder(&["routes.yaml", "a.yaml"]);
        std::os::unix::fs::symlink(folder.path().join("a.yaml"), folder.path().join("b.yaml")).unwrap();
        let mut distinct = Distinct::new(&folder.path().join("routes.yaml"));
        let fresh = ["routes.yaml", "a.yaml", "./a.yaml", "b.yaml"].map(|name| distinct.insert(&folder.path().join(name)));
        assert_eq!(fresh, [false, true, false, false]);
    }
}
