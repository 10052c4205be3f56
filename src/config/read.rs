//! A file of the configuration from disk: whole, as it was at one moment, and never for longer than a disk takes.

use std::{
    fs::{self, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    time::SystemTime,
};

use super::yaml;

/// How often a file is read anew that changes meanwhile.
const TRIES: usize = 3;

/// Why a file has no text.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system does not hand it out, or there is none.
    Unreadable(io::Error),
    /// It is a folder, a pipe, a device.
    Irregular(&'static str),
    /// It is larger than a file may be.
    TooLarge,
    /// It changed each time it was read.
    Changing,
    /// It is not UTF-8: its text as far as it can be shown, and the byte at which it goes wrong.
    NotUtf8(String, usize),
}

impl Fault {
    /// The code and the sentence for the file called `shown`.
    pub(super) fn describe(&self, shown: &str) -> (&'static str, String) {
        let code = if matches!(self, Self::Changing) { "changed-while-read" } else { "unreadable-file" };
        let message = match self {
            Self::Unreadable(error) => format!("{shown} cannot be read: {error}"),
            Self::Irregular(what) => format!("{shown} cannot be read: it is {what}, not a file"),
            Self::TooLarge => too_large(),
            Self::Changing => format!("{shown} changed each of the {TRIES} times it was read"),
            Self::NotUtf8(..) => "this is not UTF-8".to_owned(),
        };
        (code, message)
    }

    /// What to do about it, where there is something to say.
    pub(super) fn help(&self) -> Option<&'static str> {
        match self {
            Self::Changing => Some("something is writing it: try again when it is done"),
            Self::TooLarge => Some("put a part of it into a file of its own, and that under `include`"),
            _ => None,
        }
    }
}

/// What a file is told that is too large.
pub(super) fn too_large() -> String {
    format!("the file is larger than {} MiB", yaml::FILE_MAX >> 20)
}

/// The text of the file at `path`.
pub(super) fn text(path: &Path) -> Result<String, Fault> {
    String::from_utf8(bytes(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Fault::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned(), at)
    })
}

/// The bytes of the file at `path`.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    steady(path, || ())
}

/// The bytes of a file that did not change from before the first was read until after the last. `meanwhile` is called between.
fn steady(path: &Path, mut meanwhile: impl FnMut()) -> Result<Vec<u8>, Fault> {
    for _ in 0..TRIES {
        let before = Stamp::of(path)?;
        let bytes = once(path)?;
        meanwhile();
        let after = Stamp::of(path)?;
        // Within one tick of the file system's clock a change leaves no trace but in the bytes.
        if before == after && before.size == size(bytes.len()) && once(path)? == bytes {
            return Ok(bytes);
        }
    }
    Err(Fault::Changing)
}

fn once(path: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let limit = size(yaml::FILE_MAX);
    let file = fs::File::open(path).map_err(Fault::Unreadable)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(Fault::Unreadable)?;
    if yaml::FILE_MAX < bytes.len() { Err(Fault::TooLarge) } else { Ok(bytes) }
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What tells one state of a file from another.
#[derive(Debug, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// That of the file at `path`, which is regular: opening a pipe would wait for a writer.
    fn of(path: &Path) -> Result<Self, Fault> {
        let metadata = fs::metadata(path).map_err(|error| dangling(path, error))?;
        if !metadata.is_file() {
            return Err(Fault::Irregular(kind(&metadata)));
        }
        if size(yaml::FILE_MAX) < metadata.len() {
            return Err(Fault::TooLarge);
        }
        let modified = metadata.modified().ok();
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.len(), modified })
    }
}

/// `error`, or that a link leads nowhere, which "no such file" of a file that one sees would not say.
fn dangling(path: &Path, error: io::Error) -> Fault {
    let links = || fs::symlink_metadata(path).is_ok_and(|it| it.is_symlink());
    if error.kind() == io::ErrorKind::NotFound && links() {
        return Fault::Unreadable(io::Error::other("it is a link to a file that does not exist"));
    }
    Fault::Unreadable(error)
}

fn kind(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, os::unix::fs::symlink};

    use super::*;

    fn message(fault: &Fault) -> String {
        fault.describe("it").1
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_anew_and_in_the_end_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.yaml");
        fs::write(&path, "one").unwrap();
        let turn = Cell::new(0);
        // Same length: only its time and its bytes tell. Then by a rename, as editors do it, then no more.
        let twice = || match turn.replace(turn.get() + 1) {
            0 => fs::write(&path, "two").unwrap(),
            1 => {
                fs::write(folder.path().join("new"), "three").unwrap();
                fs::rename(folder.path().join("new"), &path).unwrap();
            }
            _ => {}
        };
        assert_eq!(steady(&path, twice).unwrap(), b"three");
        assert_eq!(turn.get(), 3);
        let always = || fs::write(&path, format!("{}", turn.replace(turn.get() + 1))).unwrap();
        let fault = steady(&path, always).unwrap_err();
        assert!(matches!(fault, Fault::Changing), "{fault:?}");
        assert_eq!(fault.describe("it"), ("changed-while-read", "it changed each of the 3 times it was read".to_owned()));
        assert!(matches!(steady(&path, || fs::remove_file(&path).unwrap()), Err(Fault::Unreadable(_))));
    }

    #[test]
    fn what_is_no_file_is_said_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (link, pipe) = (folder.path().join("link"), folder.path().join("pipe"));
        symlink(folder.path().join("nowhere"), &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let said = |path: &Path| message(&bytes(path).unwrap_err());
        assert_eq!(said(&link), "it cannot be read: it is a link to a file that does not exist");
        assert_eq!(said(&pipe), "it cannot be read: it is a pipe, not a file");
        assert_eq!(said(folder.path()), "it cannot be read: it is a folder, not a file");
        assert_eq!(said(Path::new("/dev/zero")), "it cannot be read: it is a device, not a file");
        assert_eq!(said(&folder.path().join("none")), "it cannot be read: No such file or directory (os error 2)");
    }
}
