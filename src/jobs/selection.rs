//! What a job takes up: its filter, narrowed to what its kind can do anything with.

use super::Kind;
use crate::{
    envelope::{DeliveryId, EventUid},
    route::OWN_SOURCE,
    store::{self, Delivery, DeliveryRow, Filter, N_MAX, Page, State, Store},
};

/// Rows read at once to be counted.
const COUNTED: u32 = 1000;

/// Over what a job walks.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Selection {
    /// Nothing: the filter asks for a state the kind does nothing with.
    Nothing,
    /// One event.
    One(EventUid),
    /// Deliveries.
    Deliveries(Filter),
    /// Events, whatever became of them; the relay's own only where they are asked for.
    Events(Filter),
    /// Events with a delivery among these.
    EventsOf(Filter),
}

impl Selection {
    pub(super) fn new(kind: &Kind, filter: &Filter) -> Self {
        let mut filter = filter.clone();
        if matches!(kind, Kind::Replay { .. }) && filter.source.is_none() {
            filter.except_source = Some(OWN_SOURCE.to_owned());
        }
        match (kind, filter.state) {
            (Kind::Retry, None | Some(State::Dead)) => {
                Self::Deliveries(Filter { state: Some(State::Dead), resolved: Some(false), ..filter })
            }
            // What is held or under way is written as pending.
            (Kind::Cancel, None | Some(State::Pending | State::Held | State::Sending)) => {
                Self::Deliveries(Filter { state: Some(State::Pending), ..filter })
            }
            (Kind::Erase, _) => match filter {
                Filter { event: Some(event), .. } => Self::One(event),
                // Whatever became of them, and whosever they are; but never all there are.
                Filter { id: None, subject: None, namespaces: None, .. } => Self::Nothing,
                filter => Self::Events(filter),
            },
            (Kind::Release, _) => Self::Deliveries(Filter { state: Some(State::Pending), ..filter }),
            (Kind::Retry | Kind::Cancel, Some(_)) => Self::Nothing,
            (Kind::Replay { .. }, None) if is_about_events(&filter) => Self::Events(filter),
            (Kind::Replay { .. }, Some(State::Held | State::Sending)) => {
                Self::EventsOf(Filter { state: Some(State::Pending), ..filter })
            }
            (Kind::Replay { .. }, _) => Self::EventsOf(filter),
        }
    }
}

/// Whether `filter` asks nothing of deliveries, but perhaps for their target.
fn is_about_events(filter: &Filter) -> bool {
    filter.targets.is_none()
        && filter.cause.is_none()
        && filter.resolved.is_none()
        && filter.event.is_none()
        && filter.carrier.is_none()
}

/// How many things a job of `kind` would take up.
pub(super) async fn count(store: &dyn Store, kind: &Kind, filter: &Filter) -> store::Result<u64> {
    match Selection::new(kind, filter) {
        Selection::Nothing => Ok(0),
        Selection::One(event) => Ok(u64::from(store.event(event).await?.is_some())),
        Selection::Deliveries(filter) => store.count_deliveries(filter).await,
        Selection::Events(filter) => store.count_events(filter).await,
        Selection::EventsOf(filter) => distinct(store, &filter).await,
    }
}

async fn distinct(store: &dyn Store, filter: &Filter) -> store::Result<u64> {
    let (mut count, mut after) = (0, 0);
    loop {
        let (events, last) = events_of(store, filter, after, COUNTED).await?;
        let Some(last) = last else { return Ok(count) };
        after = last;
        count += events.len() as u64;
    }
}

/// Dead, and nobody has settled it otherwise.
pub(super) fn is_retriable(delivery: &Delivery) -> bool {
    delivery.state == State::Dead && delivery.resolved.is_none()
}

/// Deliveries behind the place `after`.
pub(super) async fn deliveries(store: &dyn Store, filter: &Filter, after: i64, limit: u32) -> store::Result<Vec<DeliveryRow>> {
    store.deliveries(Filter { page: Page::After(after), limit, ..filter.clone() }).await
}

/// Events that may be replayed behind the place `after` (of a delivery), and the place behind the last of those looked at.
pub(super) async fn events(
    store: &dyn Store,
    filter: &Filter,
    after: i64,
    limit: u32,
) -> store::Result<(Vec<EventUid>, Option<i64>)> {
    let seq = DeliveryId::at(0, after).event.seq;
    let rows = store.events(Filter { page: Page::After(seq), limit, ..filter.clone() }).await?;
    let last = rows.last().map(|row| behind(row.uid));
    Ok((rows.iter().map(|row| row.uid).collect(), last))
}

/// Likewise, of events by their deliveries; each once.
pub(super) async fn events_of(
    store: &dyn Store,
    filter: &Filter,
    after: i64,
    limit: u32,
) -> store::Result<(Vec<EventUid>, Option<i64>)> {
    let rows = deliveries(store, filter, after, limit).await?;
    let last = rows.last().map(|row| behind(row.delivery.id.event));
    let mut events: Vec<EventUid> = rows.iter().map(|row| row.delivery.id.event).collect();
    events.dedup();
    Ok((events, last))
}

/// The place behind all deliveries of `event`, those that a replay makes of it too.
fn behind(event: EventUid) -> i64 {
    DeliveryId { event, n: N_MAX }.place()
}
