//! What of a subscription is secret: what signs its deliveries, and the values of its headers. Sealed at rest; in memory only while a
//! lane needs it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use data_encoding::BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    clock::{Timestamp, later},
    envelope::Name,
    seal::{self, Sealer},
    secret::Secret,
};

/// How long a secret signs on beside the one that took its place.
pub const OVERLAP: Duration = Duration::from_secs(48 * 3600);
/// Secrets that sign at once: whoever makes them anew again and again does not grow every request without end. None is dropped before
/// its announced end for that; a further one waits.
const SECRETS_MAX: usize = 5;
/// Bytes of a secret that the relay draws.
const DRAWN: usize = 32;

/// The secrets of one subscription.
#[derive(Clone)]
pub(super) struct Secrets {
    /// What signs: the current one first, which has no end, then former ones with theirs.
    pub(super) signing: Vec<(Secret, Option<Timestamp>)>,
    /// Values of headers, by the name as it was written.
    pub(super) headers: BTreeMap<String, Secret>,
}

#[derive(Serialize, Deserialize)]
struct Plain {
    signing: Vec<PlainSecret>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct PlainSecret {
    secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl Secrets {
    /// `secret` alone.
    pub(super) fn new(secret: Secret, headers: BTreeMap<String, Secret>) -> Self {
        Self { signing: vec![(secret, None)], headers }
    }

    /// Puts `secret` first; the former one signs on for [`OVERLAP`]. The error says how long to wait, as [`SECRETS_MAX`] sign still.
    pub(super) fn replace(&mut self, secret: Secret, now: Timestamp) -> Result<(), Duration> {
        self.signing.retain(|(_, until)| until.is_none_or(|until| now < until));
        if SECRETS_MAX <= self.signing.len() {
            let ends = self.signing.iter().filter_map(|(_, until)| *until).min();
            return Err(ends.map_or(OVERLAP, |ends| crate::clock::until(now, ends)));
        }
        for (_, until) in &mut self.signing {
            until.get_or_insert(later(now, OVERLAP));
        }
        self.signing.insert(0, (secret, None));
        Ok(())
    }

    /// Seals them for the subscription `id`.
    pub(super) fn seal(&self, id: &Name, sealer: &Sealer) -> Result<Bytes, seal::Error> {
        let signing =
            self.signing.iter().map(|(secret, until)| PlainSecret { secret: secret.reveal().to_owned(), until: *until });
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
        let plain = Plain { signing: signing.collect(), headers: headers.collect() };
        // Text and times can always be written.
        let json = Zeroizing::new(serde_json::to_vec(&plain).unwrap_or_default());
        plain.wipe();
        sealer.seal(&json, place(id).as_bytes()).map(Bytes::from)
    }

    /// Opens what [`Secrets::seal`] made.
    pub(super) fn open(sealed: &[u8], id: &Name, sealer: &Sealer) -> Result<Self, seal::Error> {
        let json = Zeroizing::new(sealer.open(sealed, place(id).as_bytes())?);
        let plain: Plain = serde_json::from_slice(&json).map_err(|_| seal::Error::NotOurs)?;
        let signing = plain.signing.into_iter().map(|it| (Secret::new(it.secret), it.until)).collect();
        let headers = plain.headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
        Ok(Self { signing, headers })
    }
}

impl Plain {
    fn wipe(self) {
        self.signing
            .into_iter()
            .map(|it| it.secret)
            .chain(self.headers.into_values())
            .for_each(|text| drop(Zeroizing::new(text)));
    }
}

/// What sealed secrets belong to: sealed for one subscription, they open for no other.
fn place(id: &Name) -> String {
    format!("subscription:{id}")
}

/// A new secret as Standard Webhooks writes them: `whsec_` and base64 of 32 bytes. `None`: the system gives no random bytes.
pub(super) fn draw() -> Option<Secret> {
    let mut drawn = Zeroizing::new([0; DRAWN]);
    SystemRandom::new().fill(&mut *drawn).ok()?;
    Some(Secret::new(format!("whsec_{}", BASE64.encode(&*drawn))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::standard_key;

    fn revealed(secrets: &Secrets) -> Vec<&str> {
        secrets.signing.iter().map(|(secret, _)| secret.reveal()).collect()
    }

    #[test]
    fn they_open_under_their_key_for_their_subscription_only() {
        let (sealer, other) = (Sealer::of_key(&[7; 32]), Sealer::of_key(&[8; 32]));
        let id = Name::from("wh_a");
        let secrets = Secrets::new(Secret::new("hush-hush"), [("X-Key".to_owned(), Secret::new("psst"))].into());
        let sealed = secrets.seal(&id, &sealer).unwrap();
        assert!(!sealed.windows(9).any(|window| window == b"hush-hush"));
        let opened = Secrets::open(&sealed, &id, &sealer).unwrap();
        assert_eq!((revealed(&opened), &opened.headers), (vec!["hush-hush"], &secrets.headers));
        assert!(Secrets::open(&sealed, &Name::from("wh_b"), &sealer).is_err());
        assert!(Secrets::open(&sealed, &id, &other).is_err());
    }

    #[test]
    fn former_ones_sign_on_for_48_hours_each() {
        let start: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let at = |hours: u64| later(start, Duration::from_secs(hours * 3600));
        let mut secrets = Secrets::new(Secret::new("a"), BTreeMap::new());
        secrets.replace(Secret::new("b"), at(0)).unwrap();
        secrets.replace(Secret::new("c"), at(24)).unwrap();
        let ends: Vec<_> = secrets.signing.iter().map(|(_, until)| *until).collect();
        assert_eq!((revealed(&secrets), ends), (vec!["c", "b", "a"], vec![None, Some(at(72)), Some(at(48))]));
        secrets.replace(Secret::new("d"), at(48)).unwrap();
        assert_eq!(revealed(&secrets), ["d", "c", "b"]);
        let waits: Vec<_> = (0..3).map(|n| secrets.replace(Secret::new(n.to_string()), at(49)).err()).collect();
        assert_eq!(waits, [None, None, Some(Duration::from_secs(23 * 3600))], "until the oldest ends");
        assert_eq!(revealed(&secrets), ["1", "0", "d", "c", "b"], "and none ends before it");
    }

    #[test]
    fn what_is_drawn_fits_standard_webhooks_and_never_repeats() {
        let (one, other) = (draw().unwrap(), draw().unwrap());
        assert!(standard_key(&one).is_ok() && one != other);
    }
}
