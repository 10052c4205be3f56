//! The last good file, kept in the store for a start with a bad one. It may hold literal secrets, so it is sealed.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;
use tracing::{error, warn};

use crate::{
    app::Handles,
    clock::Clock,
    config::{self, Config, File, Files, Loaded, System, report},
    seal::Sealer,
    secret::Secret,
    store::{self, Store},
};

/// Where the store keeps the text of the last files that were good; what it is sealed for too.
const KEY: &str = "config.last_good";

/// Keeps `files` as the last good ones, unless another replica goes by newer ones. A relay that cannot goes on without.
pub(crate) async fn keep(relay: &Handles, files: &Files) {
    if relay.generations.yields() {
        return;
    }
    let kept = match relay.sealer.seal(written(files).as_bytes(), KEY.as_bytes()) {
        Ok(sealed) => relay.store.set_setting(KEY, BASE64.encode(&sealed)).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = kept {
        warn!("the configuration cannot be kept as the last good one: {error}");
    }
}

/// The last good file that the store of this one holds, on that store: it may have been copied or moved there since the file was good, or
/// be reached in another way. Where it listens, and what else is each replica's own, this one says.
///
/// # Errors
/// The store's, where it cannot tell.
pub(crate) async fn find(loaded: &Loaded) -> store::Result<Option<Config>> {
    let named = report::headline(loaded).zip(config::store_url(&loaded.files, &System));
    let Some((why, url)) = named else { return Ok(None) };
    let Some(text) = kept(&loaded.files, &url).await? else { return Ok(None) };
    let (main, fragments) = read_back(text, loaded.files.path());
    let Some(mut config) = config::parse_kept(main, fragments, &System).config else { return Ok(None) };
    // Of several replicas on one store, whoever came last has left it.
    config::keep_own(&mut config, &loaded.files, &System);
    let former = std::mem::replace(&mut config.store.url, url);
    if former.reveal() != config.store.url.reveal() {
        let (names, store) = (store::shown(&former), store::shown(&config.store.url));
        warn!(
            "the last good configuration names the store {names}; it was found in {store}, which the file names now, and that is worked on"
        );
    }
    error!(config.error = %why, config.hash = %config.hash, "the configuration is bad: running on the last good one");
    Ok(Some(config))
}

/// Names what is kept of a configuration of several files; one of a single file is kept as it is.
const SEVERAL: &str = "hookyard_files";

/// `files` as one text: that of the file, or JSON with the path of each, below the folder of the first, and its text.
fn written(files: &Files) -> String {
    let folder = files.path().parent().unwrap_or(Path::new(""));
    let all: Vec<_> =
        files.all().map(|(path, text)| (path.strip_prefix(folder).unwrap_or(path).to_string_lossy(), text)).collect();
    if all.len() == 1 { files.main().to_owned() } else { json!({ SEVERAL: all }).to_string() }
}

/// The files that [`written`] wrote, the first of them at `path`.
fn read_back(text: String, path: &Path) -> (File, Vec<File>) {
    let folder = path.parent().unwrap_or(Path::new(""));
    let several = serde_json::from_str::<Several>(&text).unwrap_or_default();
    let mut files = several.hookyard_files.into_iter().map(|(path, text)| File { path: folder.join(path), text });
    let main = files.next().map_or(text, |first| first.text);
    (File { path: path.to_owned(), text: main }, files.collect())
}

#[derive(Default, Deserialize)]
struct Several {
    hookyard_files: Vec<(PathBuf, String)>,
}

/// The last good file that `store`, which the good file `loaded` names at `url`, holds.
pub(crate) async fn of_store(loaded: &Loaded, url: &Secret, store: &dyn Store) -> Option<Config> {
    reopened(&sealed(store).await.ok()??, loaded, url)
}

/// The last good file as `store` keeps it, sealed; `None`: it keeps none.
///
/// # Errors
/// The store's.
pub(crate) async fn sealed(store: &dyn Store) -> store::Result<Option<String>> {
    store.setting(KEY).await
}

/// What was once the last good file, as [`sealed`] answered it. The good file `loaded` names the store at `url`.
pub(crate) fn reopened(sealed: &str, loaded: &Loaded, url: &Secret) -> Option<Config> {
    let text = open(&BASE64.decode(sealed.as_bytes()).ok()?, &sealers(&loaded.files, url))?;
    let (main, fragments) = read_back(text, loaded.files.path());
    config::parse_kept(main, fragments, &System).config
}

/// What the store at `url`, which a bad file names, keeps. A store is not made for that, nor a key.
async fn kept(bad: &Files, url: &Secret) -> store::Result<Option<String>> {
    if let Some(path) = store::file(url, Path::new(""))
        && !tokio::fs::try_exists(path).await.unwrap_or(false)
    {
        return Ok(None);
    }
    let store = store::open(url, Path::new(""), Clock::system()).await?;
    let read = sealed(&*store).await;
    store.close().await;
    let Some(sealed) = read?.and_then(|text| BASE64.decode(text.as_bytes()).ok()) else { return Ok(None) };
    let text = open(&sealed, &sealers(bad, url));
    if text.is_none() {
        warn!("the last good configuration was sealed under an encryption key that is not at hand");
    }
    Ok(text)
}

/// What `sealed` holds, by the first of `sealers` that opens it.
fn open(sealed: &[u8], sealers: &[Sealer]) -> Option<String> {
    let text = sealers.iter().find_map(|sealer| sealer.open(sealed, KEY.as_bytes()).ok())?;
    String::from_utf8(text).ok()
}

/// The keys that may have sealed it. A bad file may not tell its key: then the others are tried.
fn sealers(bad: &Files, url: &Secret) -> Vec<Sealer> {
    let named = config::encryption_keys(bad, &System).into_iter().filter_map(|key| Sealer::new(&key).ok());
    let file = store::key_file(url, Path::new("")).filter(|file| file.exists());
    let beside = file.and_then(|file| Sealer::from_file(&file).ok());
    named.chain(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::new(BASE64.encode(&[byte; 32]))).unwrap()
    }

    #[test]
    fn what_is_kept_of_several_files_is_read_back_elsewhere() {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let mut files = Files::new(file("etc/routes.yaml", "version: 1"));
        assert_eq!(written(&files), "version: 1");
        assert_eq!(read_back(written(&files), Path::new("x.yaml")), (file("x.yaml", "version: 1"), vec![]));
        files.add(file("etc/routes.d/a.yaml", "rules: []"));
        files.add(file("/opt/b.yaml", ""));
        let back = read_back(written(&files), Path::new("srv/r.yaml"));
        assert_eq!(
            back,
            (file("srv/r.yaml", "version: 1"), vec![file("srv/routes.d/a.yaml", "rules: []"), file("/opt/b.yaml", "")])
        );
    }

    #[test]
    fn any_of_the_keys_opens_it() {
        let sealed = sealer(2).seal(b"version: 1", KEY.as_bytes()).unwrap();
        assert_eq!(open(&sealed, &[sealer(1), sealer(2)]).as_deref(), Some("version: 1"));
        assert_eq!(open(&sealed, &[sealer(1)]), None);
        assert_eq!(open(b"version: 1", &[sealer(2)]), None, "what lies there in the clear is not ours");
    }
}
