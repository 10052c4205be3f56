//! What a lane decides before it tries a delivery: may it go, or does it wait, gather, or end here. Whether anything is to be decided at
//! all is known without the store (`wish`), and for nearly every delivery it is not; what throttles and digests make of the others is the
//! store's to say, one job for all that are in hand, so that a restart or a new owner goes on where this one stopped.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinError;

use super::Lane;
use crate::{
    clock::{Timestamp, later, short},
    deliver::{
        Destination,
        inbox::Handed,
        mutes::{Ready, held_back},
        quiet::{Quiet, Then},
    },
    envelope::{DeliveryId, Envelope, Name},
    store::{self, Ask, Cause, DIGEST_READ_MAX, Decision, Delivery, Digested, Hush, Severity, Stage, State, Store, Wish},
};

impl Lane {
    /// Learns what an earlier run, or owner, left to be decided.
    pub(super) async fn prepare(&mut self) -> store::Result<()> {
        if !self.prepared {
            self.parts.mutes.load().await?;
            // Today's file may have other quiet hours: what they held is decided about anew.
            if self.parts.desk.seated.is_none() {
                self.store.rouse(self.name(), self.parts.clock.now()).await?;
            }
            self.prepared = true;
        }
        Ok(())
    }

    /// The first of what is in hand that may be tried; what is to be decided before is laid aside.
    pub(super) fn take_decided(&mut self) -> Option<Handed> {
        loop {
            let next = self.inbox.state().take()?;
            match self.wish(&next) {
                None => return Some(next),
                Some(wish) => {
                    self.inbox.state().lay_aside(next.due.delivery.id);
                    self.undecided.push((next, wish));
                }
            }
        }
    }

    fn wish(&self, handed: &Handed) -> Option<Wish> {
        wish(&self.today.destination, &self.mutes.borrow(), handed, self.parts.clock.now())
    }

    /// Asks the store about what was laid aside, one batch at a time.
    pub(super) fn decide(&mut self) {
        if self.undecided.is_empty() || !self.deciding.is_empty() {
            return;
        }
        // Throttles and digests take them in the order of their acceptance.
        self.undecided.sort_by_key(|(handed, _)| handed.due.delivery.id);
        let ask = |(handed, wish): (Handed, Wish)| {
            let ask = Ask { delivery: handed.due.delivery.id, wish };
            (handed, ask)
        };
        let (asked, asks): (Vec<_>, Vec<_>) = self.undecided.drain(..).map(ask).unzip();
        self.asked = asked;
        let (store, target, now) = (self.store.clone(), self.name().clone(), self.parts.clock.now());
        let epoch = self.lease.map_or(0, |lease| lease.epoch);
        self.deciding.spawn(async move { decisions(&*store, &target, asks, epoch, now).await });
    }

    /// The store has decided: what may go goes next, and the rest is no longer in hand.
    pub(super) fn decided(&mut self, ended: Result<store::Result<Vec<Decided>>, JoinError>) {
        let asked = std::mem::take(&mut self.asked);
        let failed = match ended {
            Ok(Ok(answers)) => {
                asked.into_iter().zip(answers).for_each(|(handed, decided)| self.follow(handed, decided));
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(target.name = %self.name(), error = failed, "what is due cannot be decided about");
        self.inbox.let_go(asked);
        self.rest();
    }

    fn follow(&self, mut handed: Handed, (decision, carried): Decided) {
        let it = &handed.due.delivery;
        let (id, ordered) = (it.id, it.order_key.is_some());
        self.count(it, decision);
        let mut state = self.inbox.state();
        let is_stale = state.stale.remove(&id) && carried.is_some();
        // It was cancelled meanwhile, or the lane was lost.
        if !state.claimed.contains_key(&id) {
            return;
        }
        if is_stale {
            state.claimed.remove(&id);
            state.behind = true;
            return;
        }
        if let Decision::Go(_) = decision {
            handed.goes(carried);
            state.take_back(handed, false);
            return;
        }
        state.claimed.remove(&id);
        // The next one of its order key may go now, or has to carry its digest.
        state.behind |= ordered || it.stage == Stage::Gathering;
        if let Decision::Waits(at) = decision {
            state.wake_at(at, it.severity == Severity::Critical);
            tracing::debug!(delivery.id = %id, target.name = %self.name(), until = %at, "waits");
        }
    }

    /// Counts what ends without having been sent on its own.
    fn count(&self, it: &Delivery, decision: Decision) {
        let (metrics, label) = (&self.parts.metrics, self.label());
        match decision {
            // A digest that is tried again was counted when it was closed.
            Decision::Go(carries) if it.stage == Stage::Gathering => {
                metrics.unsent(&label, State::Digested, None, u64::from(carries));
            }
            Decision::Ended { state, cause, others } => metrics.unsent(&label, state, cause, u64::from(others) + 1),
            _ => {}
        }
    }

    /// Lets go of what is to be decided: the store holds it.
    pub(super) fn leave_undecided(&mut self) {
        let undecided: Vec<_> = self.undecided.drain(..).map(|(handed, _)| handed).collect();
        self.inbox.let_go(undecided);
    }

    /// Breaks off what is being decided; whatever comes of it is in the store.
    pub(super) async fn stop_deciding(&mut self) {
        self.deciding.shutdown().await;
        let asked = std::mem::take(&mut self.asked);
        self.inbox.let_go(asked);
        self.leave_undecided();
    }
}

/// What is to be done with a delivery to `destination` before it is tried at `now`; `None`: nothing. Asks nobody.
pub(in crate::deliver) fn wish(destination: &Destination, mutes: &[Ready], handed: &Handed, now: Timestamp) -> Option<Wish> {
    let it = &handed.due.delivery;
    let open = match it.stage {
        Stage::Undecided | Stage::Gathering | Stage::Gathered => true,
        Stage::Carrying => it.body.is_none(),
        Stage::Free | Stage::Passed => it.cause == Some(Cause::Quiet),
    };
    let asks = open && !handed.decided;
    if !asks && mutes.is_empty() && destination.ttl.is_none() && destination.quiet.is_none() {
        return None;
    }
    if let Some(ttl) = destination.ttl.filter(|ttl| it.stage != Stage::Carrying && is_over(it, *ttl, now)) {
        return Some(Wish::Expire(expired(ttl)));
    }
    if it.attempts == 0
        && it.stage != Stage::Carrying
        && let Some(reason) = held_back(mutes, &handed.due.envelope, &destination.name, now)
    {
        return Some(Wish::Suppress(Cause::Mute, reason));
    }
    let hush = destination.quiet.as_ref().map_or(Hush::None, |quiet| hush(destination, quiet, handed, now));
    (asks || hush != Hush::None).then_some(Wish::Decide(hush))
}

/// What quiet hours make of a delivery.
fn hush(destination: &Destination, quiet: &Quiet, handed: &Handed, now: Timestamp) -> Hush {
    let it = &handed.due.delivery;
    let Some(until) = quiet.until(it.severity, now) else { return Hush::None };
    // What was tried already waits on; so does what a person wants to be sent again.
    let first = it.attempts == 0 && it.stage != Stage::Carrying;
    match quiet.then {
        Then::Digest if first && !it.replayed => {
            Hush::Gather(destination.kind.audience().quiet_key(&destination.name, &handed.due.envelope), until)
        }
        Then::Drop if first => Hush::Drop(format!("quiet hours `{}`", quiet.schedule.name)),
        Then::Hold | Then::Digest | Then::Drop => Hush::Hold(until),
    }
}

/// What came of one [`Ask`], and for the carrier of a digest how many others it carries, and the first of their events.
pub(in crate::deliver) type Decided = (Decision, Option<Carried>);
/// How many others a delivery carries, and the first of their events.
type Carried = (u32, Vec<(DeliveryId, Arc<Envelope>)>);

/// Asks `store` about deliveries to `target`; answers in their order.
pub(in crate::deliver) async fn decisions(
    store: &dyn Store,
    target: &Name,
    asks: Vec<Ask>,
    epoch: i64,
    now: Timestamp,
) -> store::Result<Vec<Decided>> {
    let ids: Vec<_> = asks.iter().map(|ask| ask.delivery).collect();
    let decided = store.decide(target, asks, epoch, now).await?;
    let mut answers = Vec::with_capacity(ids.len());
    for (id, decision) in ids.into_iter().zip(decided) {
        let digest = match decision {
            Decision::Go(carries @ 1..) => Some((carries, store.carried(id, DIGEST_READ_MAX).await?)),
            _ => None,
        };
        answers.push((decision, digest));
    }
    Ok(answers)
}

impl Handed {
    /// It was decided that it may go, with what it carries.
    pub(in crate::deliver) fn goes(&mut self, carried: Option<Carried>) {
        self.decided = true;
        self.digest = carried.map(|(carries, events)| Arc::new(digested(self, carries, events)));
    }
}

fn digested(carrier: &Handed, carries: u32, mut events: Vec<(DeliveryId, Arc<Envelope>)>) -> Digested {
    events.insert(0, (carrier.due.delivery.id, carrier.due.envelope.clone()));
    let told = u32::try_from(events.len()).unwrap_or(u32::MAX);
    Digested { events, omitted: carries.saturating_add(1).saturating_sub(told) }
}

fn is_over(delivery: &Delivery, ttl: Duration, now: Timestamp) -> bool {
    later(delivery.renewed_at.unwrap_or(delivery.created_at), ttl) <= now
}

/// Why a delivery has expired.
pub(in crate::deliver) fn expired(ttl: Duration) -> String {
    format!("older than its ttl of {}", short(ttl))
}
