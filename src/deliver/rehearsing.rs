//! What lanes would do with what is due, done by the same code, one delivery after the other and with nobody at the other end: what is
//! decided before a delivery is tried, its body, its signatures, and what the attempt leaves it as.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Destination, Site,
    attempt::{self, Outcome, Standing, Tools},
    breaker::Verdict,
    client::Http,
    inbox::Handed,
    lane,
    policy::AddressPolicy,
    roster::all_templates,
    stage::{Sent, Stage},
};
use crate::{
    clock::{Clock, Timestamp},
    config::AllowTarget,
    contacts::Contacts,
    envelope::DeliveryId,
    render::{Source, Strictness, Templates},
    store::{self, Ask, Decision, Store},
};

/// Deliveries of one target that are looked at in one go.
const LOOKED_AT: u32 = 128;

/// The sending side of a relay that sends nothing.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Rehearsing {
    destinations: Vec<Destination>,
    policy: Arc<AddressPolicy>,
    templates: Arc<Templates>,
    contacts: Arc<Contacts>,
    site: Arc<Site>,
}

/// An attempt that was made, to nobody.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The delivery.
    pub delivery: DeliveryId,
    /// What was sent; nothing where it could not be, or must not.
    pub sent: Vec<Sent>,
    /// Why not, or what is to be remarked, for a person.
    pub detail: Option<String>,
}

impl Rehearsing {
    /// What would send to `destinations`. `contacts` and `site` are to be such that nobody is asked anything.
    pub fn new(
        destinations: Vec<Destination>,
        templates: BTreeMap<String, Source>,
        contacts: Arc<Contacts>,
        allow_targets: &[AllowTarget],
        site: Site,
    ) -> Self {
        let templates = Templates::new(&all_templates(templates, &destinations), Strictness::Lenient);
        let policy = Arc::new(AddressPolicy::new(allow_targets));
        Self { destinations, policy, templates: Arc::new(templates), contacts, site: Arc::new(site) }
    }

    /// Does all that is to be done at this time with what `store` holds. Rates and concurrency are left out: they put nothing off for
    /// longer than it takes.
    pub async fn turn(&self, store: &Arc<dyn Store>, clock: &Clock) -> store::Result<Vec<Turn>> {
        let stage = Arc::new(Stage::default());
        let tools = Tools {
            http: Http::staged(stage.clone(), self.policy.clone()),
            templates: self.templates.clone(),
            contacts: self.contacts.clone(),
            clock: clock.clone(),
            store: store.clone(),
            site: self.site.clone(),
        };
        let mut turns = Vec::new();
        for destination in &self.destinations {
            work_off(destination, &tools, &stage, &mut turns).await?;
        }
        Ok(turns)
    }

    /// When something falls due next; `None`: nothing waits but for somebody.
    pub async fn next_due(&self, store: &dyn Store) -> store::Result<Option<Timestamp>> {
        let mut next = None;
        for destination in &self.destinations {
            let at = store.next_due(&destination.name, Vec::new()).await?;
            next = [next, at].into_iter().flatten().min();
        }
        Ok(next)
    }
}

/// Does what is to be done with all that is due to one target. What was put off, and what has ended, is not due again; whoever goes lets
/// the next of its order key go.
async fn work_off(destination: &Destination, tools: &Tools, stage: &Stage, turns: &mut Vec<Turn>) -> store::Result<()> {
    let mut before = Vec::new();
    loop {
        let now = tools.clock.now();
        let due = tools.store.due(&destination.name, now, LOOKED_AT, Vec::new()).await?;
        let ids: Vec<_> = due.iter().map(|due| due.delivery.id).collect();
        // What does not move though it was looked at waits for something else.
        if ids.is_empty() || ids == before {
            return Ok(());
        }
        for handed in going(destination, tools, due.into_iter().map(Handed::read).collect()).await? {
            turns.push(go(destination, tools, stage, handed).await?);
        }
        before = ids;
    }
}

/// Those of `all` that may go now; about the others is decided.
async fn going(destination: &Destination, tools: &Tools, mut all: Vec<Handed>) -> store::Result<Vec<Handed>> {
    let now = tools.clock.now();
    // Throttles and digests take them in the order of their acceptance.
    all.sort_by_key(|handed| handed.due.delivery.id);
    let (mut going, mut asked, mut asks) = (Vec::new(), Vec::new(), Vec::new());
    for handed in all {
        match lane::wish(destination, &[], &handed, now) {
            None => going.push(handed),
            Some(wish) => {
                asks.push(Ask { delivery: handed.due.delivery.id, wish });
                asked.push(handed);
            }
        }
    }
    let decided = lane::decisions(&*tools.store, &destination.name, asks, EPOCH, now).await?;
    for (mut handed, (decision, carried)) in asked.into_iter().zip(decided) {
        if let Decision::Go(_) = decision {
            handed.goes(carried);
            going.push(handed);
        }
    }
    Ok(going)
}

/// Nobody else owns a store that is rehearsed with.
const EPOCH: i64 = 0;

/// Makes an attempt and records it.
async fn go(destination: &Destination, tools: &Tools, stage: &Stage, handed: Handed) -> store::Result<Turn> {
    let mut made = attempt::make(destination, tools, &handed).await;
    // A target that takes everything reports at once that it arrived.
    if made.tried.outcome == Outcome::Awaits {
        made.tried.outcome = Outcome::Delivered;
    }
    let (delivery, detail) = (&handed.due.delivery, made.tried.detail.clone());
    let standing = Standing { verdict: Verdict::default(), still_then: 0, still_now: 0, epoch: EPOCH, now: tools.clock.now() };
    let settled = attempt::settle(destination, delivery, made, standing);
    tools.store.record(vec![settled.attempt]).await?;
    Ok(Turn { delivery: delivery.id, sent: stage.cleared(), detail })
}
