//! How an event is known again: by its sender's id, by the hash of its bytes, and a replay by both.

use std::time::Duration;

use super::kinds::Id;
use crate::{
    envelope::Name,
    sign,
    store::{DedupeKey, Remember},
};

/// How long an id from a sender is remembered at least.
pub(crate) const ID_MIN: Duration = Duration::from_secs(7 * 86_400);
/// How long a hash id is remembered by default.
pub(crate) const WINDOW: Duration = Duration::from_secs(86_400);
/// Longest id that is kept as it is, in characters.
const ID_LEN_MAX: usize = 256;

/// What an event is called in its envelope: as its sender calls it, or by a hash where that is missing, longer than
/// [`ID_LEN_MAX`] or has control characters.
pub(crate) fn event_id(id: &Id, body: &[u8]) -> String {
    match id {
        Id::Sender(text) if text.chars().any(char::is_control) || text.chars().nth(ID_LEN_MAX).is_some() => {
            hashed(text.as_bytes())
        }
        Id::Sender(text) => text.clone(),
        Id::Hash => hashed(body),
    }
}

fn hashed(bytes: &[u8]) -> String {
    format!("sha256:{}", sign::hex(&sign::sha256(&[bytes])))
}

/// What an event from `source` is known again by. `ids` is how long a sender's ids are remembered, `window` how long hashes are.
///
/// The three ways of being known never meet: each key begins with a word of its own. A replay is known by its own bytes beside
/// its id, so that it stands beside its first self.
pub(crate) fn key(source: &Name, id: &Id, replayed: bool, body: &[u8], ids: Duration, window: Duration) -> DedupeKey {
    let digest = sign::sha256(&[body]);
    let source = source.as_str().as_bytes();
    let (key, remember) = match id {
        Id::Sender(id) if replayed => (sign::sha256(&[b"replay\0", source, b"\0", &digest, id.as_bytes()]), Remember::Id(ids)),
        Id::Sender(id) => (sign::sha256(&[b"id\0", source, b"\0", id.as_bytes()]), Remember::Id(ids)),
        Id::Hash => (sign::sha256(&[b"hash\0", source, b"\0", &digest]), Remember::Hash(window)),
    };
    DedupeKey { key: first_half(key), body: first_half(digest), remember }
}

/// What an event from `source` is known again by, alone.
pub(crate) fn key_of(source: &Name, id: &Id, body: &[u8]) -> [u8; 16] {
    key(source, id, false, body, ID_MIN, WINDOW).key
}

fn first_half(digest: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(digest.split_at(16).0);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(source: &str, id: &Id, replayed: bool, body: &[u8]) -> DedupeKey {
        key(&Name::from(source), id, replayed, body, ID_MIN, WINDOW)
    }

    #[test]
    fn keys_meet_only_for_the_same_event() {
        let id = Id::Sender("evt_1".into());
        let first = known("a", &id, false, b"x");
        assert_eq!(first.key, known("a", &id, false, b"y").key);
        assert_ne!(first.body, known("a", &id, false, b"y").body);
        assert_ne!(first.key, known("b", &id, false, b"x").key);
        assert_ne!(first.key, known("a", &id, true, b"x").key);
        assert_eq!(known("a", &id, true, b"x"), known("a", &id, true, b"x"));
        assert_ne!(known("a", &id, true, b"x").key, known("a", &id, true, b"y").key);
        let hash = known("a", &Id::Hash, false, b"x");
        assert_eq!((hash.remember, first.remember), (Remember::Hash(WINDOW), Remember::Id(ID_MIN)));
        assert_ne!(hash.key, known("a", &Id::Hash, false, b"y").key);
    }

    #[test]
    fn ids_that_cannot_be_shown_are_hashed() {
        let called = |id: &str| event_id(&Id::Sender(id.into()), b"");
        assert_eq!(called("evt_1"), "evt_1");
        assert_eq!(called(&"é".repeat(256)), "é".repeat(256));
        for odd in ["a\nb".to_owned(), "x".repeat(257)] {
            assert!(called(&odd).starts_with("sha256:") && called(&odd).len() == 71);
        }
        assert_eq!(event_id(&Id::Hash, b"{}"), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
