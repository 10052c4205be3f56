//! Rehearsals: events and a time in; out comes what the relay would do with them, and what it would send, though nothing is sent. Planning,
//! what is decided about deliveries, and what is made of them is done by the code that does it in a running relay, around a store of its
//! own, a clock that stands, and targets that take everything. No socket is opened, no name resolved, no look-up service asked.
//!
//! [`Rehearsal`] is one configuration, ready to be rehearsed; [`Played`] tells what became of one event. `section.rs` reads `tests:` of
//! `routes.yaml`; [`perform`] runs one of them, and `verdict.rs` holds what came of it against what is expected.

use std::{collections::HashMap, sync::Arc};

use crate::{
    clock::{Clock, Timestamp, until},
    config::Config,
    contacts::Contacts,
    deliver::{self, Rehearsing, Sent, Site},
    envelope::{DeliveryId, Envelope, EventUid, Name},
    ingest::Source,
    reconnect::{self, Reconnecting},
    route::{Plan, Router, Why},
    seal::Sealer,
    store::{self, Accepted, Cause, DedupeKey, Delivery, Filter, NewEvent, Page, Remember, Scratch, State, Store},
};

mod data;
mod event;
mod said;
mod section;
mod stand_ins;
#[cfg(test)]
mod tests;
mod verdict;

pub use section::{Expect, Renders, Start, Test};
pub use stand_ins::StandIns;
pub use verdict::{Failed, Mark, Performed, perform};

/// The time of a test that names none: always the same, so that a test that passes today passes tomorrow. A Tuesday, at noon in UTC.
pub const NOW: &str = "2026-01-20T12:00:00Z";
/// How often time is moved on to see what waits go out.
const STEPS_MAX: usize = 100;
/// Signs reconnect links: nobody follows one of a rehearsal.
const KEY: [u8; 32] = *b"a rehearsal: nobody follows this";
/// How long an event is known again.
const REMEMBER: std::time::Duration = std::time::Duration::from_secs(60);

/// A configuration that can be rehearsed.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Rehearsal {
    router: Router,
    rehearsing: Rehearsing,
    sources: Vec<Source>,
    /// Whether somebody is taken to stand behind namespaces that a look-up service would be asked about.
    pub asks_nobody: bool,
}

/// What became of one event.
#[derive(Debug, Clone)]
pub struct Played {
    /// The event.
    pub event: Envelope,
    /// The rules that matched, in the order of the file.
    pub rules: Vec<Name>,
    /// Its deliveries, in the order in which they were planned.
    pub deliveries: Vec<PlayedDelivery>,
}

/// What became of one delivery.
#[derive(Debug, Clone)]
pub struct PlayedDelivery {
    /// Where it goes.
    pub target: Name,
    /// The rule that planned it; `None`: `unmatched` did.
    pub rule: Option<Name>,
    /// What it is at the time of the rehearsal. What would be sent now counts as `delivered`: the target takes it.
    pub state: State,
    /// Why, where there is a cause.
    pub cause: Option<Cause>,
    /// Until when it waits.
    pub until: Option<Timestamp>,
    /// Why it is not sent, or what is to be remarked, for a person.
    pub detail: Option<String>,
    /// What it is sent as, now or when it has waited; `None` where that is never, or was not asked for.
    pub sent: Option<Sent>,
    /// What becomes of it when it has waited, and why; `None` where it does not wait, or that was not asked for.
    pub ends: Option<(State, Option<String>)>,
}

/// What a delivery was when the clock stood still.
struct Standing {
    delivery: Delivery,
    state: State,
}

impl Rehearsal {
    /// Makes `config` ready.
    pub fn new(config: &Config) -> Self {
        let router = Router::new(config.rules.clone(), config.unmatched.clone(), deliver::orders(&config.destinations));
        let sealer = Sealer::of_key(&KEY);
        let reconnecting = Reconnecting::rehearsed(reconnect::Parts {
            settings: config.reconnect.as_ref(),
            public_url: config.server.public_url.clone(),
            allow_targets: &config.security.allow_targets,
            sealer,
            clock: Clock::system(),
        });
        let mut templates = config.templates.clone();
        reconnect::add_template(config.reconnect.as_ref(), &mut templates);
        let site = Site {
            public_url: config.server.public_url.clone(),
            admin_url: config.server.admin_url.clone(),
            reconnecting: Some(reconnecting),
        };
        let contacts = Contacts::rehearsed(config.contacts.clone());
        let allowed = &config.security.allow_targets;
        Self {
            router: router.with_audiences(deliver::audiences(&config.destinations)),
            rehearsing: Rehearsing::new(config.destinations.clone(), templates, contacts, allowed, site),
            sources: config.sources.clone(),
            asks_nobody: config.contacts.lookup.is_some(),
        }
    }

    /// For every rule, whether it fires for `event`, and if not, why not.
    pub fn explain(&self, event: &Envelope) -> Vec<Why> {
        self.router.explain(event)
    }

    /// What becomes of `events`, which come in one after the other at `now`. With `to_the_end`, time goes on afterwards until what waits is
    /// sent, so that it can be looked at; what is told of states is that of `now` all the same.
    pub async fn play(&self, events: Vec<Envelope>, now: Timestamp, to_the_end: bool) -> store::Result<Vec<Played>> {
        let clock = Clock::standing(now);
        let scratch = Scratch::open(clock.clone()).await?;
        let played = self.play_in(scratch.store(), events, &clock, to_the_end).await;
        scratch.close().await;
        played
    }

    async fn play_in(
        &self,
        store: &Arc<dyn Store>,
        events: Vec<Envelope>,
        clock: &Clock,
        to_the_end: bool,
    ) -> store::Result<Vec<Played>> {
        let mut turns = Turns::default();
        let mut accepted = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            accepted.push(self.accept(&**store, index, event).await?);
            turns.add(self.rehearsing.turn(store, clock).await?);
        }
        let mut standing = Vec::with_capacity(accepted.len());
        for (uid, ..) in &accepted {
            standing.push(deliveries(&**store, *uid).await?);
        }
        let waits = standing.iter().flatten().any(|it| matches!(it.state, State::Pending | State::Held));
        if to_the_end && waits {
            self.go_on(store, clock, &mut turns).await?;
            for (uid, ..) in &accepted {
                turns.ended(deliveries(&**store, *uid).await?);
            }
        }
        let played = accepted.into_iter().zip(standing).map(|((_, event, rules), standing)| Played {
            event,
            rules,
            deliveries: standing.into_iter().map(|it| turns.played(it)).collect(),
        });
        Ok(played.collect())
    }

    async fn accept(&self, store: &dyn Store, index: usize, event: Envelope) -> store::Result<(EventUid, Envelope, Vec<Name>)> {
        let Plan { deliveries, rules, endings, .. } = self.router.plan(&event);
        let mut key = [0; 16];
        key.iter_mut().zip(index.to_be_bytes()).for_each(|(to, from)| *to = from);
        let dedupe = DedupeKey { key, body: key, remember: Remember::Id(REMEMBER) };
        let new = NewEvent { envelope: event.clone(), dedupe, deliveries, rules: rules.clone(), endings, setting: None };
        match store.accept(new).await? {
            Accepted::New { uid, .. } => Ok((uid, event, rules)),
            // Each has a key of its own.
            Accepted::Duplicate { .. } => Err(store::Error::Backend("an event of a rehearsal is there already".into())),
        }
    }

    /// Moves time on from one thing that falls due to the next.
    async fn go_on(&self, store: &Arc<dyn Store>, clock: &Clock, turns: &mut Turns) -> store::Result<()> {
        for _ in 0..STEPS_MAX {
            let Some(at) = self.rehearsing.next_due(&**store).await? else { return Ok(()) };
            clock.advance(until(clock.now(), at));
            turns.add(self.rehearsing.turn(store, clock).await?);
        }
        Ok(())
    }
}

/// Most deliveries of one event that are looked at: more destinations than a file can hold.
const DELIVERIES_MAX: u32 = 10_000;

/// The deliveries of the event `uid`, in the order in which they were planned.
async fn deliveries(store: &dyn Store, uid: EventUid) -> store::Result<Vec<Standing>> {
    let filter = Filter { event: Some(uid), page: Page::After(0), limit: DELIVERIES_MAX, ..Filter::default() };
    let rows = store.deliveries(filter).await?.into_iter().map(|row| row.delivery);
    let standing = |delivery: Delivery| {
        // As lists show it: what quiet hours hold is held, though its row says that it waits.
        let quiet = delivery.cause == Some(Cause::Quiet);
        let state = if delivery.state == State::Pending && quiet { State::Held } else { delivery.state };
        Standing { delivery, state }
    };
    Ok(rows.map(standing).collect())
}

/// What was sent, by delivery; and what became in the end of those that waited.
#[derive(Default)]
struct Turns {
    made: HashMap<DeliveryId, deliver::Turn>,
    ends: HashMap<DeliveryId, Standing>,
}

impl Turns {
    fn add(&mut self, turns: Vec<deliver::Turn>) {
        self.made.extend(turns.into_iter().map(|turn| (turn.delivery, turn)));
    }

    fn ended(&mut self, standing: Vec<Standing>) {
        self.ends.extend(standing.into_iter().map(|it| (it.delivery.id, it)));
    }

    fn played(&self, Standing { delivery, state }: Standing) -> PlayedDelivery {
        let waits = matches!(state, State::Pending | State::Held);
        let end = self.ends.get(&delivery.id).filter(|_| waits);
        let carrier = end.map_or(&delivery, |end| &end.delivery).carrier;
        let turn = self.made.get(&delivery.id).or_else(|| self.made.get(&carrier?));
        PlayedDelivery {
            target: delivery.target,
            rule: delivery.rule,
            state,
            cause: delivery.cause,
            until: delivery.due_at.filter(|_| waits),
            detail: delivery.reason.or_else(|| turn.and_then(|turn| turn.detail.clone())),
            sent: turn.and_then(|turn| turn.sent.last().cloned()),
            ends: end.map(|end| (end.state, end.delivery.reason.clone())),
        }
    }
}
