//! What targets report later about messages they have taken, and what counts as delivered because they report nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};

use super::{
    Deliver,
    attempt::Tried,
    inbox::Inboxes,
    kinds::{Fate, Kind, Reported},
};
use crate::{
    clock::{Clock, Timestamp},
    envelope::{DeliveryId, Name},
    store::{self, Due, Filter, Page, Store},
    telemetry::Metrics,
};

/// How long a report that is faster than the record of its attempt waits for it.
const EARLY: Duration = Duration::from_secs(8);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long a lane may take to settle one.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether anything is overdue, though nothing calls for it: the clock may have been set back.
const OVERDUE_EVERY: Duration = Duration::from_secs(60);
/// How long a store that failed is left alone.
const AGAIN: Duration = Duration::from_secs(1);
/// Reports that wait for one lane.
pub(super) const REPORTS_MAX: usize = 256;

/// A report on its way to its lane.
pub(super) struct Report {
    /// The delivery, as it was before the attempt that it is about.
    pub(super) due: Due,
    /// When that attempt began.
    pub(super) at: Timestamp,
    /// What it came to.
    pub(super) tried: Tried,
    /// Answered once that is written: whether anybody had waited for it.
    pub(super) reply: oneshot::Sender<bool>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It was taken, or there was nothing to do.
    Taken,
    /// There is no such destination.
    Nobody,
    /// Its signature is wrong, or none are asked for.
    Forged,
    /// It speaks of no delivery of ours.
    Senseless,
    /// It cannot be taken now.
    Later,
}

impl Deliver {
    /// Takes Twilio's report about a message of destination `name`: the query and the form as they came, and the signature.
    pub async fn twilio(&self, name: &str, query: &str, signature: &[u8], body: &[u8]) -> Heard {
        let called = |target: &Name| target.as_str() == name;
        let renamed = |desk: &&Arc<super::desk::Desk>| desk.today().destination.renamed_from.as_ref().is_some_and(called);
        let roster = self.roster.now();
        let desk = roster.desks.iter().find(|desk| called(desk.name())).or_else(|| roster.desks.iter().find(renamed));
        let Some((desk, today)) = desk.map(|desk| (desk, desk.today())) else { return Heard::Nobody };
        let Kind::Whatsapp(kind) = &today.destination.kind else { return Heard::Nobody };
        let Some(report) = kind.report(&Name::from(name), query, signature, body) else {
            tracing::warn!(target.name = %desk.name(), "a report whose signature is not Twilio's");
            return Heard::Forged;
        };
        let Reported { delivery: Some(id), attempt: Some(number), fate } = report else { return Heard::Senseless };
        let Some(fate) = fate else { return Heard::Taken };
        match self.hear(desk, id, number, &fate).await {
            Ok(true) => Heard::Taken,
            Ok(false) => {
                tracing::info!(delivery.id = %id, target.name = %desk.name(), attempt = number, ?fate, "a report that nobody waits for any more");
                Heard::Taken
            }
            Err(_) => Heard::Later,
        }
    }

    /// Hands the report to its lane; false: nobody waits for it.
    async fn hear(&self, desk: &super::desk::Desk, id: DeliveryId, number: u32, fate: &Fate) -> Result<bool, Unheard> {
        let Some(mut due) = recorded(&*desk.store, id, number).await? else { return Ok(false) };
        let attempts = desk.store.attempts(id.event).await?;
        let of_it = attempts.iter().find(|attempt| attempt.delivery == id && attempt.number == number);
        let Some(at) = of_it.map(|attempt| attempt.started_at) else { return Ok(false) };
        due.delivery.attempts = number.saturating_sub(1);
        due.delivery.due_at = Some(at);
        let (reply, answer) = oneshot::channel();
        {
            let mut state = desk.inbox.state();
            if REPORTS_MAX <= state.reports.len() {
                return Err(Unheard);
            }
            state.reports.push_back(Report { due, at, tried: fate.tried(), reply });
        }
        desk.inbox.bell.notify_one();
        match timeout(SETTLED_WITHIN, answer).await {
            Ok(Ok(waited)) => Ok(waited),
            _ => Err(Unheard),
        }
    }
}

/// It is not known whether the report was taken.
struct Unheard;

impl From<store::Error> for Unheard {
    fn from(error: store::Error) -> Self {
        tracing::warn!(%error, "a report cannot be taken now");
        Self
    }
}

/// The delivery that waits for the report of this attempt, once that is recorded; `None`: it does not.
async fn recorded(store: &dyn Store, id: DeliveryId, number: u32) -> Result<Option<Due>, store::Error> {
    let deadline = Instant::now() + EARLY;
    loop {
        let page = Page::After(id.place().saturating_sub(1));
        let rows = store.deliveries(Filter { event: Some(id.event), page, limit: 1, ..Filter::default() }).await?;
        let Some(row) = rows.into_iter().find(|row| row.delivery.id == id) else { return Ok(None) };
        let delivery = row.delivery;
        if delivery.awaits_report && delivery.attempts == number {
            let event = store.event(id.event).await?;
            return Ok(event.map(|event| Due { delivery, envelope: Arc::new(event.envelope) }));
        }
        // Twilio may be faster than our own record.
        let early = delivery.state == store::State::Pending && delivery.attempts < number;
        if !early || deadline <= Instant::now() {
            return Ok(None);
        }
        sleep(LOOK).await;
    }
}

/// What settles deliveries whose reports do not come.
pub(super) struct Overdue {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) inboxes: Arc<Inboxes>,
    pub(super) metrics: Metrics,
    /// Rung when a delivery begins to wait.
    pub(super) bell: Arc<Notify>,
}

impl Overdue {
    /// Runs for ever.
    pub(super) async fn run(self) {
        loop {
            let (found, now) = (self.store.unreported(self.clock.now()).await, self.clock.now());
            let next = match found {
                Ok(found) => {
                    for (target, delivery) in &found.settled {
                        tracing::warn!(delivery.id = %delivery, target.name = %target, "nothing was reported: it counts as delivered, unconfirmed");
                        self.metrics.attempted(target, "delivered");
                        self.inboxes.wake(target);
                    }
                    found.next
                }
                Err(store::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "what waits for a report cannot be looked at");
                    sleep(AGAIN).await;
                    continue;
                }
            };
            if next.is_some_and(|next| next <= now) {
                continue;
            }
            let wait = async {
                match next {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.bell.notified() => {}
                () = wait => {}
                () = sleep(OVERDUE_EVERY) => {}
            }
        }
    }
}
