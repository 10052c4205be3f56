//! Which configuration is the newest, as the store keeps it for all replicas; and who may make another one that.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{clock::Timestamp, config::Config, envelope::Name, store::shard_of};

/// Former generations that are remembered: a configuration from before them counts as a new one.
const FORMER_MAX: usize = 64;

/// The lanes and the polled sources of one file, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lanes {
    /// Its destinations.
    pub(super) destinations: BTreeSet<String>,
    /// Its sources that are polled: who owns the shard of one asks.
    pub(super) polled: BTreeSet<String>,
}

impl Lanes {
    /// Those of `config`.
    pub(super) fn of(config: &Config) -> Self {
        let polled = config.sources.iter().filter(|source| source.poll().is_some());
        Self {
            destinations: config.destinations.iter().map(|it| it.name.to_string()).collect(),
            polled: polled.map(|it| it.name.to_string()).collect(),
        }
    }

    /// The shards of what these have and `others` lack.
    pub(super) fn lacked_by(&self, others: &Self) -> BTreeSet<u16> {
        let lacked = self.destinations.difference(&others.destinations).chain(self.polled.difference(&others.polled));
        lacked.map(|name| shard_of(&Name::from(name.as_str()))).collect()
    }
}

/// The newest configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Newest {
    /// Which one it is: the first is 1.
    pub(super) number: u64,
    /// A keyed hash of what it means.
    pub(super) digest: String,
    /// Since when it is the newest.
    pub(super) at: Timestamp,
    /// The replica that made it so.
    pub(super) by: String,
    /// Its lanes.
    #[serde(flatten)]
    pub(super) lanes: Lanes,
    /// Those before it, the last one last.
    pub(super) former: Vec<Former>,
    /// What a later version keeps of it.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// One that was the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    pub(super) number: u64,
    pub(super) digest: String,
}

/// How a replica came to its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    /// It started with it.
    Started,
    /// It went by another one before, of this digest.
    From(String),
    /// A person says that it is to be the newest.
    Asked,
    /// All replicas go by it, and have for long.
    Agreed,
}

/// Whether the configuration `digest`, which a replica came to so, becomes the newest in the place of `newest`.
///
/// One that never was the newest becomes it. One that was is an old file of a replica that was started again, or one that comes late, unless
/// its replica went back to it: from one that came after it.
pub(super) fn becomes(newest: Option<&Newest>, digest: &str, how: &How) -> bool {
    let Some(newest) = newest else { return true };
    let Some(mine) = newest.number_of(digest) else { return true };
    if digest == newest.digest {
        return false;
    }
    match how {
        How::Started => false,
        How::From(before) => newest.number_of(before).is_some_and(|before| mine < before),
        How::Asked | How::Agreed => true,
    }
}

impl Newest {
    /// The one that takes the place of `before`.
    pub(super) fn after(before: Option<&Self>, digest: &str, lanes: Lanes, at: Timestamp, by: &str) -> Self {
        let mut former = before.map(|it| it.former.clone()).unwrap_or_default();
        former.extend(before.map(|it| Former { number: it.number, digest: it.digest.clone() }));
        former.retain(|it| it.digest != digest);
        let beyond = former.len().saturating_sub(FORMER_MAX);
        former.drain(..beyond);
        Self {
            number: before.map_or(0, |it| it.number) + 1,
            digest: digest.to_owned(),
            at,
            by: by.to_owned(),
            lanes,
            former,
            more: before.map(|it| it.more.clone()).unwrap_or_default(),
        }
    }

    /// Which one the configuration `digest` is, or was when it last was the newest.
    pub(super) fn number_of(&self, digest: &str) -> Option<u64> {
        let former = self.former.iter().rev().find(|it| it.digest == digest).map(|it| it.number);
        if self.digest == digest { Some(self.number) } else { former }
    }

    /// The document that the store keeps.
    pub(super) fn doc(&self) -> String {
        // Plain data with text for keys: writing it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(names: &[&str]) -> Lanes {
        Lanes { destinations: names.iter().map(|name| (*name).to_owned()).collect(), polled: BTreeSet::new() }
    }

    /// The newest after these have been it, one after the other.
    fn after(digests: &[&str]) -> Newest {
        let at = "2026-01-20T12:00:00Z".parse().unwrap();
        let next =
            |before: Option<Newest>, digest: &&str| Some(Newest::after(before.as_ref(), digest, lanes(&["crm"]), at, "one"));
        digests.iter().fold(None, next).unwrap()
    }

    #[test]
    fn a_file_that_was_never_the_newest_becomes_it_and_an_old_one_does_not_by_a_start() {
        let newest = after(&["a", "b", "c"]);
        assert_eq!(newest.number, 3);
        assert!(becomes(None, "a", &How::Started) && becomes(Some(&newest), "d", &How::Started));
        for how in [How::Started, How::From("a".into()), How::From("c".into()), How::Asked, How::Agreed] {
            assert!(!becomes(Some(&newest), "c", &how), "it is already: {how:?}");
        }
        assert!(!becomes(Some(&newest), "a", &How::Started));
        assert!(!becomes(Some(&newest), "b", &How::From("a".into())), "it is late on its way forward");
        assert!(!becomes(Some(&newest), "a", &How::From("a".into())), "read again, and still the old one");
        assert!(!becomes(Some(&newest), "a", &How::From("x".into())), "nobody knows from where");
    }

    #[test]
    fn whoever_goes_back_on_purpose_makes_the_old_one_the_newest() {
        let newest = after(&["a", "b", "c"]);
        for how in [How::From("c".into()), How::Asked, How::Agreed] {
            assert!(becomes(Some(&newest), "b", &how), "{how:?}");
        }
        let back = after(&["a", "b", "c", "b"]);
        assert_eq!((back.number, back.number_of("b"), back.number_of("c"), back.number_of("a")), (4, Some(4), Some(3), Some(1)));
        assert!(!becomes(Some(&back), "c", &How::Started));
        assert!(!becomes(Some(&back), "c", &How::From("a".into())));
    }

    #[test]
    fn it_is_read_back_and_keeps_what_a_later_version_added() {
        let newest = after(&["a", "b"]);
        assert_eq!(serde_json::from_str::<Newest>(&newest.doc()).unwrap(), newest);
        let doc = newest.doc().replacen('{', r#"{"later":7,"#, 1);
        let later: Newest = serde_json::from_str(&doc).unwrap();
        let next = Newest::after(Some(&later), "c", lanes(&[]), newest.at, "two");
        assert!(next.doc().contains(r#""later":7"#), "{}", next.doc());
    }

    #[test]
    fn what_is_remembered_of_former_ones_is_bounded() {
        let digests: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        let newest = after(&digests.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((newest.former.len(), newest.number), (FORMER_MAX, 200));
        assert_eq!((newest.number_of("100"), newest.number_of("198")), (None, Some(199)));
    }

    #[test]
    fn what_one_file_lacks_is_known_by_shard() {
        let (old, new) = (lanes(&["crm"]), lanes(&["crm", "audit"]));
        assert_eq!(new.lacked_by(&old), [shard_of(&Name::from("audit"))].into());
        assert_eq!(old.lacked_by(&new), BTreeSet::new());
        let polls = Lanes { polled: ["audit".to_owned()].into(), ..lanes(&["crm"]) };
        assert_eq!(polls.lacked_by(&new), [shard_of(&Name::from("audit"))].into(), "a source of that name is not a destination");
    }
}
