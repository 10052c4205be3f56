//! Who has a lane: from one file to the next. Everything that can fail comes first ([`Deliver::prepare`]); what follows
//! ([`Deliver::switch`]) waits for nothing and cannot fail.
//!
//! A destination that stays keeps its lane, which goes by the new file from its next attempt on. One that is gone keeps its lane until
//! what is under way is recorded; comes it back before that, the lane goes on, so that no delivery is ever in two attempts at once. A
//! destination with `renamed_from` goes on as the former one stood, and takes over what waits once that one's lane has ended.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Deliver, Destination, Ownership, StartError, WaysOut,
    attempt::Tools,
    client::{Clients, Http},
    desk::{Desk, Today},
    inbox::{Inbox, Known},
    lane::{self, Lane},
    policy::AddressPolicy,
};
use crate::{
    envelope::Name,
    render::{Source, Strictness, Templates},
    store,
};

/// The lanes of one file.
#[derive(Default)]
pub(super) struct Roster {
    /// One per lane, in the order of the file.
    pub(super) desks: Vec<Arc<Desk>>,
    by_name: HashMap<Name, Arc<Desk>>,
    /// Those whose destinations are gone, while something of them is under way.
    leaving: Vec<Arc<Desk>>,
    /// What the former names of destinations are taken over by.
    adoptions: Vec<Arc<Adoption>>,
}

impl Roster {
    /// The desk of the lane of `target`.
    pub(super) fn desk(&self, target: &Name) -> Option<&Arc<Desk>> {
        self.by_name.get(target)
    }

    /// The same, though its destination may be gone.
    fn desk_of_any(&self, target: &Name) -> Option<&Arc<Desk>> {
        self.desk(target).or_else(|| self.leaving.iter().find(|desk| desk.name() == target))
    }

    /// Whom commits are told to.
    fn known(&self) -> Known {
        let inbox = |desk: &Arc<Desk>| desk.inbox.clone();
        let former = self.adoptions.iter().map(|it| (it.old.clone(), it.bell.clone()));
        Known {
            by_target: self.desks.iter().map(|desk| (desk.name().clone(), inbox(desk))).collect::<HashMap<Name, Arc<Inbox>>>(),
            leaving: self.leaving.iter().map(inbox).collect(),
            former: former.collect(),
        }
    }
}

/// What a file says of deliveries, made ready: only [`Deliver::switch`] is left to do.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Prepared {
    todays: Vec<Arc<Today>>,
    clients: Clients,
}

impl Deliver {
    /// Makes ready what the file says: clients, templates.
    ///
    /// # Errors
    /// [`StartError::Client`] where a destination's client cannot be made.
    pub fn prepare(&self, ways_out: WaysOut) -> Result<Prepared, StartError> {
        let WaysOut { destinations, templates, contacts, allow_targets, site } = ways_out;
        let templates = Arc::new(Templates::new(&all_templates(templates, &destinations), Strictness::Lenient));
        let mut clients = self.clients().following(AddressPolicy::new(&allow_targets));
        let former = self.roster.now();
        let site = Arc::new(site);
        let mut todays = Vec::with_capacity(destinations.len());
        for mut destination in destinations {
            let before = former.desk_of_any(&destination.name).map(|desk| desk.today());
            if let Some(before) = before {
                destination.kind.goes_on_from(&before.destination.kind);
            }
            let tools = Tools {
                http: client(&destination, &mut clients)?,
                templates: templates.clone(),
                contacts: contacts.clone(),
                clock: self.clock.clone(),
                store: self.store.clone(),
                site: site.clone(),
            };
            todays.push(Arc::new(Today { destination: Arc::new(destination), tools }));
        }
        Ok(Prepared { todays, clients })
    }

    /// Goes by `prepared` from now on. Nothing happens once the relay is stopping. Must be called on a runtime.
    pub fn switch(&self, prepared: Prepared) {
        let mut clients = self.clients();
        if self.stop.is_cancelled() {
            return;
        }
        *clients = prepared.clients.used();
        let former = self.roster.now();
        let mut roster = Roster::default();
        let mut begun = Vec::new();
        for today in prepared.todays {
            let (desk, is_new) = self.desk_for(today, &former);
            if is_new {
                begun.push(desk.clone());
            }
            roster.desks.push(desk);
        }
        roster.by_name = roster.desks.iter().map(|desk| (desk.name().clone(), desk.clone())).collect();
        let kept: HashSet<&Name> = roster.desks.iter().map(|desk| desk.name()).collect();
        let gone = former.desks.iter().chain(&former.leaving).filter(|desk| !kept.contains(desk.name()));
        roster.leaving = gone.filter(|desk| !desk.ended.is_cancelled()).cloned().collect();
        let adoption = |desk| adoption(desk, &former, self.ownership(), &self.stop);
        roster.adoptions = roster.desks.iter().filter_map(adoption).collect();
        self.inboxes.tell(roster.known());
        roster.leaving.iter().for_each(|desk| desk.retire());
        begun.into_iter().for_each(|desk| self.begin(desk));
        self.roster.replace(Arc::new(roster));
    }

    /// The desk by which the lane of `today` goes on, or begins (true).
    fn desk_for(&self, today: Arc<Today>, former: &Roster) -> (Arc<Desk>, bool) {
        let now = self.clock.now();
        let known = former.desk_of_any(&today.destination.name);
        if let Some(desk) = known.filter(|desk| desk.follow(&today, now)) {
            return (desk.clone(), false);
        }
        let renamed = today.destination.renamed_from.as_ref().and_then(|old| former.desk_of_any(old));
        let desk = match renamed {
            Some(renamed) => Desk::after(today, renamed, now),
            None => Desk::new(today, self.store.clone(), now),
        };
        (Arc::new(desk), true)
    }

    pub(super) fn begin(&self, desk: Arc<Desk>) {
        let going = self.works.begin(desk.name());
        let lane = Lane::new(lane::Parts {
            desk,
            recorder: self.recorder.clone(),
            leases: self.leases.subscribe(),
            mutes: self.mutes.clone(),
            announcer: self.announcer.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            awaited: self.awaited.clone(),
            stop: self.stop.clone(),
            break_off: self.break_off.clone(),
        });
        let run = async move {
            let _going = going;
            lane.run().await;
        };
        self.lanes.spawn_on(run, self.threads.handle());
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Clients> {
        self.switching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client(destination: &Destination, clients: &mut Clients) -> Result<Http, StartError> {
    let failed = |error: rustls::Error| StartError::Client { target: destination.name.clone(), reason: error.to_string() };
    clients.get(&destination.kind.endpoint().map(|it| it.tls.clone()).unwrap_or_default()).map_err(failed)
}

/// The named templates and those that destinations bring along.
pub(super) fn all_templates(mut named: BTreeMap<String, Source>, destinations: &[Destination]) -> BTreeMap<String, Source> {
    for template in destinations.iter().flat_map(|destination| destination.kind.templates()) {
        if let Some(text) = &template.inline {
            named.insert(template.name.clone(), text.as_str().into());
        }
    }
    named
}

/// A destination that takes over what waits for its former name, as long as the file says so.
struct Adoption {
    by: Arc<Desk>,
    old: Name,
    /// Rung when something more may wait for the former name.
    bell: Arc<Notify>,
    _stop: DropGuard,
}

/// How long a store that refuses an adoption is left alone.
const ADOPT_AGAIN: Duration = Duration::from_secs(1);

/// What `desk` takes over, where it does: as before, or begun anew.
fn adoption(desk: &Arc<Desk>, former: &Roster, ownership: Ownership, stopping: &CancellationToken) -> Option<Arc<Adoption>> {
    let old = desk.today().destination.renamed_from.clone()?;
    let same = |it: &&Arc<Adoption>| Arc::ptr_eq(&it.by, desk) && it.old == old;
    if let Some(known) = former.adoptions.iter().find(same) {
        return Some(known.clone());
    }
    let (bell, stop) = (Arc::new(Notify::new()), stopping.child_token());
    let ended = former.desk_of_any(&old).map(|desk| desk.ended.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(adopt(desk.clone(), old.clone(), ended, ownership, bell.clone())));
    Some(Arc::new(Adoption { by: desk.clone(), old, bell, _stop: stop.drop_guard() }))
}

/// Makes what waits for the old name of a destination its own, slice by slice: once the lane of that name has ended, and whenever
/// something is committed for it after all.
async fn adopt(desk: Arc<Desk>, old: Name, ended: Option<CancellationToken>, ownership: Ownership, bell: Arc<Notify>) {
    if let Some(ended) = ended {
        // What is under way there must not be sent from here too.
        ended.cancelled().await;
    }
    loop {
        // A replica with an older file works under the old name as long as it owns that lane.
        ownership.gained(&old).await;
        let mut adopted = 0;
        loop {
            match desk.store.adopt(&old, desk.name()).await {
                Ok(0) => break,
                Ok(count) => adopted += count,
                Err(store::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(target.name = %desk.name(), old = %old, %error, "the old name's deliveries cannot be adopted yet");
                    tokio::time::sleep(ADOPT_AGAIN).await;
                }
            }
            desk.inbox.wake();
        }
        if 0 < adopted {
            tracing::info!(target.name = %desk.name(), old = %old, adopted, "adopted the deliveries of the old name");
            desk.inbox.wake();
        }
        bell.notified().await;
    }
}
