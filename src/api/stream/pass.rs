//! Passes: tokens for a browser, which cannot send headers with a stream and must put its token into the URL. They open streams only,
//! for five minutes, of the types and namespaces they name. Pure.
//!
//! `hys_<payload>.<mac>`, both base64url without padding. The relay keeps nothing of them: the key is derived from its encryption key
//! and from the secret of the token that asked, with which they end.

use std::{collections::BTreeSet, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value as Json, json};

use crate::{
    clock::{Timestamp, later},
    seal::Sealer,
    sign,
};

/// How long a pass is good.
pub(in crate::api) const LIFETIME: Duration = Duration::from_secs(300);
/// Longest pass, in bytes: it stands in a URL.
const PASS_MAX: usize = 4096;
/// What every pass begins with.
const PREFIX: &str = "hys_";
/// Keeps what is signed here apart from everything else that the key digests.
const PURPOSE: &[u8] = b"stream pass 1\0";

/// What a pass is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Pass {
    /// The id of the token that asked for it.
    pub(in crate::api) token: String,
    /// Types and globs one of which an event must fit; none stand for all.
    pub(in crate::api) types: Vec<String>,
    /// The namespaces it is bound to, if any.
    pub(in crate::api) namespaces: Option<BTreeSet<String>>,
    /// Until when, in whole seconds.
    pub(in crate::api) expires_at: Timestamp,
}

impl Pass {
    /// One that ends [`LIFETIME`] after `now`, or when its token does at `token_ends`.
    pub(in crate::api) fn new(
        token: &str,
        types: Vec<String>,
        namespaces: Option<BTreeSet<String>>,
        now: Timestamp,
        token_ends: Option<Timestamp>,
    ) -> Self {
        let ends = later(now, LIFETIME);
        let ends = token_ends.map_or(ends, |token_ends| ends.min(token_ends));
        let expires_at = Timestamp::from_second(ends.as_second()).unwrap_or(ends);
        Self { token: token.to_owned(), types, namespaces, expires_at }
    }

    /// Its text; `None` where it would be too long. `secret` is kept of the token that asked.
    pub(in crate::api) fn seal(&self, sealer: &Sealer, secret: &[u8]) -> Option<String> {
        let Self { token, types, namespaces, expires_at } = self;
        let payload = json!({ "k": token, "t": types, "n": namespaces, "e": expires_at.as_second() }).to_string();
        let mac = mac(sealer, payload.as_bytes(), secret);
        let text = format!("{PREFIX}{}.{}", BASE64URL_NOPAD.encode(payload.as_bytes()), BASE64URL_NOPAD.encode(&mac));
        (text.len() <= PASS_MAX).then_some(text)
    }

    /// What `text` is good for at `now`, where it was made here; `secret_of` yields what is kept of the token of an id that is still good.
    pub(in crate::api) fn open(
        text: &str,
        sealer: &Sealer,
        secret_of: impl FnOnce(&str) -> Option<Vec<u8>>,
        now: Timestamp,
    ) -> Option<Self> {
        let (payload, given) = text.strip_prefix(PREFIX).filter(|_| text.len() <= PASS_MAX)?.split_once('.')?;
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let given = BASE64URL_NOPAD.decode(given.as_bytes()).ok()?;
        // What it says is believed only behind the check: until then the id is a place to look, and no more.
        let pass = Self::read(&payload)?;
        let secret = secret_of(&pass.token)?;
        (sign::same(&mac(sealer, &payload, &secret), &given) && now < pass.expires_at).then_some(pass)
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let json: Json = serde_json::from_slice(payload).ok()?;
        let namespaces = match json.get("n")? {
            Json::Null => None,
            list => Some(texts(list)?.into_iter().collect()),
        };
        Some(Self {
            token: json.get("k")?.as_str()?.to_owned(),
            types: texts(json.get("t")?)?,
            namespaces,
            expires_at: Timestamp::from_second(json.get("e")?.as_i64()?).ok()?,
        })
    }
}

fn texts(list: &Json) -> Option<Vec<String>> {
    list.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn mac(sealer: &Sealer, payload: &[u8], secret: &[u8]) -> [u8; 32] {
    let length = u64::try_from(secret.len()).unwrap_or(u64::MAX).to_be_bytes();
    sealer.digest(&[PURPOSE, &length, secret, payload].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::of_key(&[byte; 32])
    }

    fn now() -> Timestamp {
        "2026-01-20T12:00:00Z".parse().unwrap()
    }

    fn pass() -> Pass {
        Pass::new("tok_1", vec!["credential.*".into()], Some(["user 1/ü".to_owned()].into()), now(), None)
    }

    fn open(text: &str, key: u8, secret: &str, at: Timestamp) -> Option<Pass> {
        Pass::open(text, &sealer(key), |id| (id == "tok_1").then(|| secret.as_bytes().to_vec()), at)
    }

    #[test]
    fn a_pass_is_good_for_five_minutes_and_no_longer_than_its_token() {
        let text = pass().seal(&sealer(1), b"s").unwrap();
        assert!(text.starts_with("hys_") && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
        assert_eq!(open(&text, 1, "s", later(now(), LIFETIME - Duration::from_secs(1))), Some(pass()));
        assert_eq!(open(&text, 1, "s", later(now(), LIFETIME)), None);
        assert_eq!(open(&text, 2, "s", now()), None);
        assert_eq!(open(&text, 1, "another token of that id", now()), None);
        assert_eq!(Pass::open(&text, &sealer(1), |_| None, now()), None);
        let short = Pass::new("tok_1", vec![], None, now(), Some(later(now(), Duration::from_secs(7))));
        assert_eq!(short.expires_at, later(now(), Duration::from_secs(7)));
    }

    #[test]
    fn every_change_is_noticed() {
        let text = pass().seal(&sealer(1), b"s").unwrap();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(open(&changed, 1, "s", now()), None, "{changed}");
        }
        let unbound = BASE64URL_NOPAD.encode(br#"{"k":"tok_1","t":[],"n":null,"e":9999999999}"#);
        let (_, mac) = text.split_once('.').unwrap();
        assert_eq!(open(&format!("hys_{unbound}.{mac}"), 1, "s", now()), None);
    }

    #[test]
    fn one_that_does_not_fit_into_a_url_is_not_made() {
        let long = Pass { types: vec!["x".repeat(250); 20], ..pass() };
        assert_eq!(long.seal(&sealer(1), b"s"), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,80}", json in "[a-z0-9\\[\\]{}:,\"]{0,40}") {
            prop_assert_eq!(open(&text, 1, "s", now()), None);
            let dressed = format!("hys_{}.AA", BASE64URL_NOPAD.encode(json.as_bytes()));
            prop_assert_eq!(open(&dressed, 1, "s", now()), None);
        }
    }
}
