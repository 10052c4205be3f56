//! Lists: what to list, which page of it, and the places that pages begin behind.

use super::{Cause, State};
use crate::{
    clock::Timestamp,
    envelope::{DeliveryId, EventUid, Name},
    route::glob::Glob,
};

/// Which page of a list, and in which order.
///
/// A place is where a row stands in its list: the `seq` of an event, [`DeliveryId::place`], the `id` of a rejection.
/// All are above 0, so that `After(0)` begins with the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest, newest first.
    Newest,
    /// What is older than this place, newest first.
    Before(i64),
    /// What was committed after this place, in commit order.
    After(i64),
}

/// Bits of a delivery's place that hold its `n`.
const N_BITS: u32 = 16;
/// Most deliveries that one event can have, replays included.
pub const N_MAX: u32 = (1 << N_BITS) - 1;
/// Largest `seq` of an event: at a million events in a second enough for four years.
pub const SEQ_MAX: i64 = (i64::MAX >> N_BITS) - 1;

impl DeliveryId {
    /// Where the delivery stands among all deliveries of its store: by event, then by `n`.
    /// An id that no store gives out stands behind them all.
    pub fn place(self) -> i64 {
        let given_out = (0..=SEQ_MAX).contains(&self.event.seq) && self.n <= N_MAX;
        if given_out { self.event.seq << N_BITS | i64::from(self.n) } else { i64::MAX }
    }

    /// The delivery that stands at `place` in the store with this `salt`.
    pub fn at(salt: u64, place: i64) -> Self {
        let n = u32::try_from(place & i64::from(N_MAX)).unwrap_or_default();
        Self { event: EventUid { salt, seq: place >> N_BITS }, n }
    }
}

/// Which deliveries a list is about, by whether they flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Those to these targets that quiet hours do not hold.
    Flowing(Vec<Name>),
    /// Those to other targets, and those that quiet hours hold.
    Held(Vec<Name>),
}

/// What to list. Fields that are `None` do not filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Only from this source.
    pub source: Option<String>,
    /// Only from other sources than this (events, deliveries).
    pub except_source: Option<String>,
    /// Only of these namespaces: exact; an empty list selects nothing (events, deliveries).
    pub namespaces: Option<Vec<String>>,
    /// Only the event with this id of its sender's (events).
    pub id: Option<String>,
    /// Only with this subject (events).
    pub subject: Option<String>,
    /// Only of this event type: exact.
    pub r#type: Option<String>,
    /// Only of types that one of these fits; none stand for all types (events, deliveries).
    pub types: Vec<Glob>,
    /// Only to this target (deliveries), or with a delivery to it (events).
    pub target: Option<String>,
    /// Only in this state (deliveries): one that is written.
    pub state: Option<State>,
    /// Only of this cause (deliveries).
    pub cause: Option<Cause>,
    /// Only dead letters that a person has settled, or only those that nobody has (deliveries).
    pub resolved: Option<bool>,
    /// Only with deliveries planned, or only without: the verdict `unmatched` (events).
    pub matched: Option<bool>,
    /// Only those that flow, or only those that are held (deliveries).
    pub targets: Option<Targets>,
    /// Only those whose next attempt is, or was, due before this time (deliveries that wait).
    pub due_before: Option<Timestamp>,
    /// Only this event's (deliveries).
    pub event: Option<EventUid>,
    /// Only those that replays made, in the order in which they were made, or only the others (deliveries). A place behind which
    /// a page of the former begins is that of one of them; the oldest that is known begins it where that one is not.
    pub replayed: Option<bool>,
    /// Only those that went out inside this one (deliveries).
    pub carrier: Option<DeliveryId>,
    /// Only taken in (planned, rejected) at this time or later.
    pub since: Option<Timestamp>,
    /// Only before this time.
    pub until: Option<Timestamp>,
    /// Only with this answer's code (rejections).
    pub code: Option<String>,
    /// Which page.
    pub page: Page,
    /// How many at most.
    pub limit: u32,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            source: None,
            except_source: None,
            namespaces: None,
            id: None,
            subject: None,
            r#type: None,
            types: Vec::new(),
            target: None,
            state: None,
            cause: None,
            resolved: None,
            matched: None,
            targets: None,
            due_before: None,
            event: None,
            replayed: None,
            carrier: None,
            since: None,
            until: None,
            code: None,
            page: Page::Newest,
            limit: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_that_no_store_gives_out_have_no_place_of_another() {
        let id = |seq, n| DeliveryId { event: EventUid { salt: 1, seq }, n };
        for strange in [id(-1, 1), id(SEQ_MAX + 1, 1), id(i64::MAX, u32::MAX), id(1, N_MAX + 1)] {
            assert_eq!(strange.place(), i64::MAX, "{strange:?}");
        }
    }

    proptest! {
        #[test]
        fn places_keep_the_order_and_are_read_back(a in (0..=SEQ_MAX, 0..=N_MAX), b in (0..=SEQ_MAX, 0..=N_MAX)) {
            let id = |(seq, n)| DeliveryId { event: EventUid { salt: 7, seq }, n };
            prop_assert_eq!(DeliveryId::at(7, id(a).place()), id(a));
            prop_assert_eq!(id(a).place().cmp(&id(b).place()), a.cmp(&b));
        }
    }
}
