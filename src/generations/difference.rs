//! When replicas that differ are worth telling of: not while one after the other gets a new file or a new version, but when that has stopped
//! half-way.

use std::time::Duration;

use super::Peer;
use crate::clock::{Timestamp, until};

/// How long nothing has changed about who differs before it is told: a step of a rolling update takes less.
const AFTER: Duration = Duration::from_secs(60);
/// How long they have differed at most before it is told, whatever changes meanwhile.
const AFTER_AT_MOST: Duration = Duration::from_secs(600);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Who goes by what.
    pattern: String,
    /// Whether they differ.
    differ: bool,
    /// Since when they do, or do not,
    since: Timestamp,
    /// and since when in this way.
    changed_at: Timestamp,
}

impl Watch {
    /// Takes note of who is there at `now`. What they have done for so long that it counts: whether they differ, and since when.
    pub(super) fn look(&mut self, peers: &[Peer], now: Timestamp) -> Option<(bool, Timestamp)> {
        let (pattern, differ) = (pattern(peers), differ(peers));
        // A clock that was set back begins anew.
        let before = self.seen.take().filter(|seen| seen.since <= now && seen.changed_at <= now);
        let since = before.as_ref().filter(|seen| seen.differ == differ).map_or(now, |seen| seen.since);
        let changed_at = before.as_ref().filter(|seen| seen.pattern == pattern).map_or(now, |seen| seen.changed_at);
        self.seen = Some(Seen { pattern, differ, since, changed_at });
        (AFTER <= until(changed_at, now) || AFTER_AT_MOST <= until(since, now)).then_some((differ, since))
    }
}

/// Whether not all of them go by the same configuration and are of the same version.
pub(super) fn differ(peers: &[Peer]) -> bool {
    peers.windows(2).any(|pair| matches!(pair, [one, other] if (&one.digest, &one.version) != (&other.digest, &other.version)))
}

fn pattern(peers: &[Peer]) -> String {
    let mut lines: Vec<_> = peers.iter().map(|peer| format!("{} {} {}", peer.id, peer.digest, peer.version)).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::later;

    fn peer(id: &str, digest: &str) -> Peer {
        Peer { id: id.into(), digest: digest.into(), version: "1".into(), ..Peer::default() }
    }

    #[test]
    fn a_rolling_update_is_not_told_and_one_that_stopped_half_way_is() {
        let start: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let at = |s: u64| later(start, Duration::from_secs(s));
        let fleet = |digests: [&str; 3]| {
            ["one", "two", "three"].into_iter().zip(digests).map(|(id, it)| peer(id, it)).collect::<Vec<_>>()
        };
        let mut watch = Watch::default();
        assert_eq!(watch.look(&fleet(["a", "a", "a"]), at(0)), None);
        assert_eq!(watch.look(&fleet(["a", "a", "a"]), at(60)), Some((false, at(0))));
        assert_eq!(watch.look(&fleet(["b", "a", "a"]), at(70)), None);
        assert_eq!(watch.look(&fleet(["b", "b", "a"]), at(125)), None);
        assert_eq!(watch.look(&fleet(["b", "b", "a"]), at(184)), None);
        assert_eq!(watch.look(&fleet(["b", "b", "a"]), at(185)), Some((true, at(70))));
        assert_eq!(watch.look(&fleet(["b", "b", "b"]), at(190)), None, "nor is it over at once");
        assert_eq!(watch.look(&fleet(["b", "b", "b"]), at(250)), Some((false, at(190))));
        // One that comes and goes does not put it off for ever.
        for s in 0..60 {
            let fleet = if s % 2 == 0 { fleet(["b", "b", "c"]) } else { fleet(["b", "d", "c"]) };
            assert_eq!(watch.look(&fleet, at(300 + 10 * s)), None);
        }
        assert_eq!(watch.look(&fleet(["b", "b", "c"]), at(900)), Some((true, at(300))));
        assert_eq!(watch.look(&fleet(["b", "b", "c"]), at(200)), None, "the clock was set back");
        assert!(watch.look(&[], at(1000)).is_none_or(|(differ, _)| !differ));
    }

    #[test]
    fn versions_count_too() {
        let newer = Peer { version: "2".into(), ..peer("two", "a") };
        assert!(differ(&[peer("one", "a"), newer.clone()]) && !differ(&[newer]));
    }
}
