//! Every event that the seeds show, as compact JSON: the files the relay itself brings as samples, in `src/samples`.

use std::path::{Path, PathBuf};

use super::{Request, signed};

/// The folder of the tests.
pub(crate) fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The bodies of one kind (`interactor`, `agent`, `trigger`), in order of their file names.
pub(crate) fn bodies(kind: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(tests_folder().join("../src/samples")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let of_kind = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(kind);
    paths.iter().filter(of_kind).map(|path| std::fs::read(path).unwrap()).collect()
}

/// Every event, signed as its sender does: 10 of Interactor's, 3 of an agent's, 1 trigger.
pub(crate) fn signed() -> Vec<Request> {
    let interactor = bodies("interactor").into_iter().map(signed::interactor);
    let agent = bodies("agent").into_iter().map(signed::agent);
    let trigger = bodies("trigger").into_iter().map(signed::trigger);
    interactor.chain(agent).chain(trigger).collect()
}
