//! Signed links: which connector, for whom, until when. Pure.
//!
//! `<payload>.<mac>`, both base64url without padding. The key is derived from the store's encryption key, so a link made by another
//! relay, or changed by a letter, is none of ours.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value as Json, json};

use crate::{clock::Timestamp, clock::later, seal::Sealer, sign};

/// Longest link that is looked at, in bytes.
const LINK_MAX: usize = 2048;
/// Keeps what is signed here apart from everything else that the key digests.
const PURPOSE: &[u8] = b"reconnect link 1\0";

/// What a link stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// The service, as events name it: a key of `reconnect.connectors`.
    pub(crate) service: String,
    /// Whose credential it is.
    pub(crate) namespace: String,
}

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoGrant {
    /// It was not made here, or was changed since.
    Forged,
    /// It was good once.
    Expired,
}

impl Grant {
    /// The link's own part of the URL, good until `lifetime` from `now`. The same all second long: it is part of a kept message.
    pub(crate) fn sign(&self, sealer: &Sealer, now: Timestamp, lifetime: Duration) -> String {
        let payload = json!({ "s": self.service, "n": self.namespace, "e": later(now, lifetime).as_second() }).to_string();
        let mac = mac(sealer, payload.as_bytes());
        format!("{}.{}", BASE64URL_NOPAD.encode(payload.as_bytes()), BASE64URL_NOPAD.encode(&mac))
    }

    /// What `link` stands for at `now`.
    pub(crate) fn open(link: &str, sealer: &Sealer, now: Timestamp) -> Result<Self, NoGrant> {
        let (payload, expires) = Self::read(link, sealer).ok_or(NoGrant::Forged)?;
        if expires <= now.as_second() {
            return Err(NoGrant::Expired);
        }
        Ok(payload)
    }

    fn read(link: &str, sealer: &Sealer) -> Option<(Self, i64)> {
        let (payload, given) = link.split_once('.').filter(|_| link.len() <= LINK_MAX)?;
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let given = BASE64URL_NOPAD.decode(given.as_bytes()).ok()?;
        if !sign::same(&mac(sealer, &payload), &given) {
            return None;
        }
        let json: Json = serde_json::from_slice(&payload).ok()?;
        let text = |key: &str| json.get(key).and_then(Json::as_str).map(str::to_owned);
        Some((Self { service: text("s")?, namespace: text("n")? }, json.get("e")?.as_i64()?))
    }
}

fn mac(sealer: &Sealer, payload: &[u8]) -> [u8; 32] {
    sealer.digest(&[PURPOSE, payload].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::new(data_encoding::BASE64.encode(&[byte; 32]))).unwrap()
    }

    fn grant() -> Grant {
        Grant { service: "google_calendar".into(), namespace: "user/1 ü".into() }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_link_stands_for_what_it_was_made_for_until_it_expires() {
        let now: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let link = grant().sign(&sealer(1), now, DAY);
        assert!(link.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')));
        let last = later(now, DAY - Duration::from_secs(1));
        assert_eq!(Grant::open(&link, &sealer(1), last), Ok(grant()));
        assert_eq!(Grant::open(&link, &sealer(1), later(now, DAY)), Err(NoGrant::Expired));
        assert_eq!(Grant::open(&link, &sealer(2), now), Err(NoGrant::Forged));
    }

    #[test]
    fn every_change_is_noticed() {
        let now: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let link = grant().sign(&sealer(1), now, DAY);
        for at in 0..link.len() {
            let mut bytes = link.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(Grant::open(&changed, &sealer(1), now), Err(NoGrant::Forged), "{changed}");
        }
        let later_on = BASE64URL_NOPAD.encode(br#"{"s":"google_calendar","n":"user_2","e":9999999999}"#);
        let (_, mac) = link.split_once('.').unwrap();
        assert_eq!(Grant::open(&format!("{later_on}.{mac}"), &sealer(1), now), Err(NoGrant::Forged));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,80}") {
            prop_assert_eq!(Grant::open(&text, &sealer(1), Timestamp::UNIX_EPOCH), Err(NoGrant::Forged));
        }
    }
}
