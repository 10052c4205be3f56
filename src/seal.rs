//! Encryption of what is kept secret at rest: XChaCha20-Poly1305 under `security.encryption_key`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use data_encoding::BASE64;
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::{secret::Secret, sign};

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is not 32 bytes in base64.
    #[error("the encryption key must be 32 bytes in base64 (make one with `openssl rand -base64 32`)")]
    BadKey,
    /// The key file cannot be read or made.
    #[error("the key file {path} cannot be used: {source}")]
    KeyFile {
        /// Where it is.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Sealed under another key, or changed since.
    #[error("this was sealed under another encryption key, or was changed since")]
    NotOurs,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
}

/// Bytes in front of what is sealed: format version and key id.
const HEADER: usize = 1 + 4;
/// XChaCha20's nonce: drawn at random, long enough never to repeat.
const NONCE: usize = 24;
/// The only format so far.
const VERSION: u8 = 1;

/// Seals under one key, and opens what was sealed under it or a former one. Cheap to clone; prints nothing of its keys.
#[derive(Clone)]
pub struct Sealer {
    /// The one to seal under.
    current: Arc<Key>,
    former: Arc<[Key]>,
}

struct Key {
    cipher: XChaCha20Poly1305,
    /// Derived, so that two uses of one key are kept apart.
    digest: Zeroizing<[u8; 32]>,
    id: [u8; 4],
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(***)")
    }
}

impl Sealer {
    /// A sealer with the key that `text` holds: base64 of 32 bytes.
    pub fn new(text: &Secret) -> Result<Self, Error> {
        Ok(Self { current: Arc::new(Key::read(text)?), former: Arc::from([]) })
    }

    /// A sealer with this key.
    pub fn of_key(bytes: &[u8; 32]) -> Self {
        Self { current: Arc::new(Key::new(bytes)), former: Arc::from([]) }
    }

    /// The same, which opens what was sealed under `keys` too.
    ///
    /// # Errors
    /// [`Error::BadKey`] when one of them is none.
    pub fn with_former(self, keys: &[Secret]) -> Result<Self, Error> {
        Ok(Self { former: keys.iter().map(Key::read).collect::<Result<_, _>>()?, ..self })
    }

    /// The sealer of the key file at `path`, which is made (0600) where it is missing.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::KeyFile { path: path.display().to_string(), source };
        match fs::read_to_string(path) {
            Ok(text) => Self::new(&Secret::new(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = Zeroizing::new([0; 32]);
                SystemRandom::new().fill(&mut *bytes).map_err(|_| Error::NoRandom)?;
                let text = Zeroizing::new(BASE64.encode(&*bytes));
                make_private(path, text.as_bytes()).map_err(failed)?;
                Self::new(&Secret::new(text.as_str()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Encrypts `plain`; `place` (what it belongs to) must be the same when it is opened.
    pub fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::NoRandom)?;
        let key = &self.current;
        let sealed = key.cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: place }).map_err(|_| Error::NotOurs)?;
        let mut out = Vec::with_capacity(HEADER + NONCE + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Decrypts what [`Sealer::seal`] made.
    pub fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, Error> {
        let (header, rest) = sealed.split_at_checked(HEADER).ok_or(Error::NotOurs)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE>().ok_or(Error::NotOurs)?;
        let key = self.key_of(header).ok_or(Error::NotOurs)?;
        key.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: place }).map_err(|_| Error::NotOurs)
    }

    /// Whether `sealed` is sealed under the key that this one seals under.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        sealed.get(..HEADER).and_then(|header| self.key_of(header)).is_some_and(|key| key.id == self.current.id)
    }

    /// A keyed hash of `value`: tells whether two values are the same without keeping either.
    pub fn digest(&self, value: &[u8]) -> [u8; 32] {
        digest(&self.current.digest, value)
    }

    /// The key with which [`Sealer::digest`] made its hashes when `sealed` was sealed: to be kept sealed itself.
    pub(crate) fn digest_key(&self, sealed: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        Some(self.key_of(sealed.get(..HEADER)?)?.digest.clone())
    }

    fn key_of(&self, header: &[u8]) -> Option<&Key> {
        let (version, id) = header.split_first()?;
        let mut keys = std::iter::once(&*self.current).chain(self.former.iter());
        if *version == VERSION { keys.find(|key| key.id == id) } else { None }
    }
}

impl Key {
    fn read(text: &Secret) -> Result<Self, Error> {
        let bytes = Zeroizing::new(BASE64.decode(text.reveal().trim().as_bytes()).map_err(|_| Error::BadKey)?);
        let bytes: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| Error::BadKey)?;
        Ok(Self::new(bytes))
    }

    fn new(bytes: &[u8; 32]) -> Self {
        let cipher = XChaCha20Poly1305::new(bytes.into());
        let digest = Zeroizing::new(sign::sha256(&[b"hookyard digest key", bytes]));
        let fingerprint = sign::sha256(&[b"hookyard key id", bytes]);
        let mut id = [0; 4];
        id.copy_from_slice(&fingerprint[..4]);
        Self { cipher, digest, id }
    }
}

/// The hash of `value` under this key.
pub(crate) fn digest(key: &[u8; 32], value: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), value).as_ref());
    out
}

/// Makes the file whole or not at all: it gets its name once its bytes are on disk, so that neither a kill nor a full disk
/// leaves half a key, and what was sealed under a key always finds it.
#[cfg(unix)]
fn make_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // What a start that was broken off left may be anybody's to read.
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::new(BASE64.encode(&[byte; 32]))).unwrap()
    }

    #[test]
    fn only_the_same_key_and_place_open_it() {
        let sealed = sealer(1).seal(b"body", b"rejection").unwrap();
        assert_eq!(sealer(1).open(&sealed, b"rejection").unwrap(), b"body");
        assert!(matches!(sealer(2).open(&sealed, b"rejection"), Err(Error::NotOurs)));
        assert!(matches!(sealer(1).open(&sealed, b"elsewhere"), Err(Error::NotOurs)));
        assert!(!sealed.windows(4).any(|part| part == b"body"));
    }

    #[test]
    fn what_was_sealed_under_a_former_key_is_opened_and_known() {
        let old = sealer(1).seal(b"body", b"rejection").unwrap();
        let both = sealer(2).with_former(&[Secret::new(BASE64.encode(&[3; 32])), Secret::new(BASE64.encode(&[1; 32]))]).unwrap();
        assert_eq!(both.open(&old, b"rejection").unwrap(), b"body");
        assert!(!both.is_current(&old) && both.open(&old, b"elsewhere").is_err());
        let new = both.seal(b"body", b"rejection").unwrap();
        assert!(
            both.is_current(&new) && sealer(2).open(&new, b"rejection").is_ok() && sealer(1).open(&new, b"rejection").is_err()
        );
        assert_eq!(*both.digest_key(&old).unwrap(), *sealer(1).digest_key(&old).unwrap());
        assert_eq!(digest(&both.digest_key(&old).unwrap(), b"value"), sealer(1).digest(b"value"));
        assert!(!both.is_current(b"") && both.digest_key(b"123").is_none());
        assert!(matches!(sealer(2).with_former(&[Secret::new("short")]), Err(Error::BadKey)));
    }

    #[test]
    fn a_key_file_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hookyard.key");
        let sealed = Sealer::from_file(&path).unwrap().seal(b"x", b"").unwrap();
        assert_eq!(Sealer::from_file(&path).unwrap().open(&sealed, b"").unwrap(), b"x");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_start_that_was_broken_off_leaves_no_half_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hookyard.key");
        fs::write(folder.path().join("hookyard.key.new"), "half").unwrap();
        Sealer::from_file(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_short_key_is_refused() {
        for bad in ["", "c2hvcnQ=", "not base64"] {
            assert!(matches!(Sealer::new(&Secret::new(bad)), Err(Error::BadKey)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>) {
            prop_assert!(sealer(1).open(&bytes, b"").is_err());
        }
    }
}
