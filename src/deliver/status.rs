//! What people see of a lane.

use crate::{clock::Timestamp, envelope::Name, store::Cause};

/// How one target stands.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// Its name.
    pub name: Name,
    /// Its kind's word.
    pub kind: &'static str,
    /// Where it goes; the path is masked.
    pub url: String,
    /// Whether it is sent to.
    pub state: TargetState,
    /// Since when it is not; `None` while it is.
    pub since: Option<Timestamp>,
    /// Whose fault it is that it is broken.
    pub cause: Option<Cause>,
    /// Who paused it.
    pub paused_by: Option<String>,
    /// What the last failed attempt ended with.
    pub last_error: Option<String>,
    /// When it last took something.
    pub last_success_at: Option<Timestamp>,
    /// Attempts in the last minute; `None`: another replica makes them, and counts them.
    pub attempts_last_minute: Option<u32>,
    /// Deliveries it took in the last minute; likewise.
    pub deliveries_last_minute: Option<u32>,
    /// When a broken one is probed next.
    pub next_probe_at: Option<Timestamp>,
}

/// Whether a target is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetState {
    /// Yes.
    Ok,
    /// Its breaker is open.
    Broken,
    /// A person has paused it.
    Paused,
    /// A subscription that is switched off.
    Disabled,
}

impl TargetState {
    /// The state's word in API and CLI.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Broken => "broken",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

/// Counts of the last minute, by the second.
#[derive(Debug, Clone)]
pub(super) struct Minute([Second; 60]);

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    at: i64,
    attempts: u32,
    delivered: u32,
}

impl Default for Minute {
    fn default() -> Self {
        Self([Second { at: i64::MIN, ..Second::default() }; 60])
    }
}

impl Minute {
    /// Counts an attempt that ended at `now`.
    pub(super) fn count(&mut self, now: Timestamp, delivered: bool) {
        let at = now.as_second();
        let slot = usize::try_from(at.rem_euclid(60)).unwrap_or(0);
        let Some(second) = self.0.get_mut(slot) else { return };
        if second.at != at {
            *second = Second { at, ..Second::default() };
        }
        second.attempts += 1;
        second.delivered += u32::from(delivered);
    }

    /// Attempts and deliveries of the 60 s before `now`.
    pub(super) fn sums(&self, now: Timestamp) -> (u32, u32) {
        let recent = self.0.iter().filter(|it| (0..60).contains(&now.as_second().saturating_sub(it.at)));
        recent.fold((0, 0), |(attempts, delivered), it| (attempts + it.attempts, delivered + it.delivered))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::later;

    #[test]
    fn a_minute_forgets_what_is_older() {
        let start: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
        let at = |secs| later(start, Duration::from_secs(secs));
        let mut minute = Minute::default();
        (0..90).for_each(|secs| minute.count(at(secs), secs % 2 == 0));
        assert_eq!(minute.sums(at(89)), (60, 30));
        assert_eq!(minute.sums(at(120)), (29, 14));
        assert_eq!(minute.sums(at(1000)), (0, 0));
    }
}
