//! The lanes of subscriptions. There may be thousands, most of them idle: each has a seat, which is little more than its name; it gets a
//! desk when something is known or wanted of its lane, and a lane works as long as there is something to do.
//!
//! Subscriptions come and go one at a time, and another file leaves them alone. What they go by is asked of whoever keeps them
//! ([`Outlets`]) when it is needed, so that secrets are unsealed for lanes that send, and for no others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Deliver, Destination, TargetState, TargetStatus,
    attempt::{Site, Tools},
    client::Clients,
    desk::{self, Desk, Today},
    inbox::HandOver,
    policy::AddressPolicy,
    signs::Signs,
};
use crate::{
    clock::Timestamp,
    config::AllowTarget,
    contacts::{self, Contacts},
    envelope::{DeliveryId, Name},
    render::{Strictness, Templates},
    store::{self, Backlog, Cause, Due},
};

/// The word for subscriptions among the kinds of targets.
pub(crate) const KIND: &str = "subscription";

/// Keeps what subscriptions go by.
pub trait Outlets: Send + Sync {
    /// What is to be known of one without its secrets. `None`: there is none of this name.
    fn outlet(&self, target: &Name) -> Option<Outlet>;

    /// The way out of it; the error says why there is none.
    fn destination(&self, target: &Name) -> Result<Destination, String>;
}

/// What is to be known of a subscription without its secrets.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// Where it goes, the path masked.
    pub url: String,
    /// Since when it is switched off, where it is.
    pub off: Option<Timestamp>,
}

/// All seats.
pub(super) struct Seats {
    by_name: RwLock<HashMap<Name, Arc<Seat>>>,
    /// Seats whose lanes have something to do and do not work.
    called: Mutex<Vec<Arc<Seat>>>,
    bell: Notify,
    pub(super) signs: Arc<Signs>,
    outlets: RwLock<Option<Weak<dyn Outlets>>>,
    clients: Mutex<Clients>,
    templates: Arc<Templates>,
    contacts: Arc<Contacts>,
    site: Arc<Site>,
}

/// The place of one lane.
pub(super) struct Seat {
    name: Name,
    desk: Mutex<Option<Arc<Desk>>>,
    called: AtomicBool,
}

impl Default for Seats {
    fn default() -> Self {
        Self {
            by_name: RwLock::default(),
            called: Mutex::default(),
            bell: Notify::new(),
            signs: Arc::default(),
            outlets: RwLock::default(),
            clients: Mutex::new(Clients::new(AddressPolicy::of_subscriptions(&[]))),
            // Subscriptions get the envelope, which needs none of these.
            templates: Arc::new(Templates::new(&std::collections::BTreeMap::new(), Strictness::Lenient)),
            contacts: Contacts::rehearsed(contacts::Settings::default()),
            site: Arc::default(),
        }
    }
}

impl Seat {
    fn held(&self) -> MutexGuard<'_, Option<Arc<Desk>>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its desk, where it has one.
    pub(super) fn made(&self) -> Option<Arc<Desk>> {
        self.held().clone()
    }
}

impl Seats {
    /// The seat of `target`.
    pub(super) fn get(&self, target: &Name) -> Option<Arc<Seat>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(target).cloned()
    }

    /// Every seat, by name.
    pub(super) fn all(&self) -> Vec<Arc<Seat>> {
        let mut all: Vec<_> = self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The desks there are.
    pub(super) fn desks(&self) -> Vec<Arc<Desk>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().filter_map(|seat| seat.made()).collect()
    }

    /// Hands `due`, which was just committed, to its lane. Called on the writer's thread: waits for nothing.
    pub(super) fn hand_over(&self, due: Due, budget: &Arc<AtomicUsize>) {
        let Some(seat) = self.get(&due.delivery.target) else {
            return self.signs.strays(&due.delivery.target);
        };
        match seat.made() {
            None => self.call(&seat),
            Some(desk) => match desk.inbox.hand_over(due, budget) {
                HandOver::Awake => desk.inbox.bell.notify_one(),
                HandOver::Asleep => self.call(&seat),
                HandOver::Held { grown } => {
                    desk.inbox.bell.notify_one();
                    if grown {
                        self.signs.grows(&seat.name);
                    }
                }
            },
        }
    }

    /// The store may hold due deliveries for a subscription: false where `target` is none.
    pub(super) fn rouse(&self, target: &Name) -> bool {
        let Some(seat) = self.get(target) else { return false };
        if let Some(desk) = seat.made() {
            desk.inbox.wake();
        }
        self.call(&seat);
        true
    }

    /// Likewise, for nobody knows which: those whose lanes sleep are called when the backlog is next looked at.
    pub(super) fn rouse_working(&self) {
        self.desks().iter().filter(|desk| !desk.inbox.state().asleep).for_each(|desk| desk.inbox.wake());
    }

    /// What is in hand of `target` (`None`: of all whose lanes work) and not being sent may be over: it is read again.
    pub(super) fn look_anew(&self, target: Option<&Name>) {
        match target {
            Some(target) => {
                if let Some(desk) = self.get(target).and_then(|seat| seat.made()) {
                    desk.inbox.look_anew();
                }
                self.rouse(target);
            }
            None => self.desks().iter().filter(|desk| !desk.inbox.state().asleep).for_each(|desk| desk.inbox.look_anew()),
        }
    }

    /// The deliveries an attempt of which is under way.
    pub(super) fn in_flight(&self) -> Vec<DeliveryId> {
        self.desks().iter().flat_map(|desk| desk.inbox.in_flight()).collect()
    }

    /// The lane of `seat` has something to do.
    fn call(&self, seat: &Arc<Seat>) {
        if !seat.called.swap(true, Ordering::AcqRel) {
            self.called.lock().unwrap_or_else(PoisonError::into_inner).push(seat.clone());
            self.bell.notify_one();
        }
    }

    fn take_called(&self) -> Vec<Arc<Seat>> {
        std::mem::take(&mut *self.called.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn outlets(&self) -> Option<Arc<dyn Outlets>> {
        self.outlets.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }
}

/// Lets lanes begin that were called, until `deliver` is gone or leaves.
pub(super) async fn answer_calls(deliver: Weak<Deliver>, seats: Arc<Seats>, leave: CancellationToken) {
    while leave.run_until_cancelled(seats.bell.notified()).await.is_some() {
        for seat in seats.take_called() {
            let Some(deliver) = deliver.upgrade() else { return };
            deliver.begin_seat(&seat);
        }
    }
}

impl Deliver {
    /// Gives every one of `names` a seat, which goes by `outlets`; knows how their lanes stood, and begins with what waits for them. Once,
    /// at the start.
    pub async fn open_seats(&self, outlets: Weak<dyn Outlets>, names: Vec<Name>, allow: &[AllowTarget]) -> store::Result<()> {
        *self.seats.outlets.write().unwrap_or_else(PoisonError::into_inner) = Some(outlets);
        *self.seats.clients() = Clients::new(AddressPolicy::of_subscriptions(allow));
        names.iter().for_each(|name| _ = self.new_seat(name));
        self.follow_lanes().await?;
        for (key, json) in self.store.settings(&desk::key_of("wh_")).await? {
            let name = key.strip_prefix(&desk::key_of("")).and_then(Name::parse);
            let Some(desk) = name.and_then(|name| self.seats.get(&name)).and_then(|seat| self.desk_of(&seat)) else { continue };
            desk.restore(&json);
            self.tell_of_breaker(&desk);
        }
        self.call_for(&self.store.backlog(None).await?);
        Ok(())
    }

    /// Lets lanes begin for which the store holds something: whatever nobody told them of.
    pub fn call_for(&self, backlog: &[Backlog]) {
        for seat in backlog.iter().filter(|row| 0 < row.waiting).filter_map(|row| self.seats.get(&row.target)) {
            let held =
                seat.made().map_or_else(|| self.outlet_is_off(&seat), |desk| !desk.inbox.state().sleeps_though_it_may_send());
            if !held {
                self.seats.call(&seat);
            }
        }
    }

    fn outlet_is_off(&self, seat: &Seat) -> bool {
        self.seats.outlets().and_then(|outlets| outlets.outlet(&seat.name)).is_none_or(|outlet| outlet.off.is_some())
    }

    fn new_seat(&self, name: &Name) -> Arc<Seat> {
        let mut by_name = self.seats.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let seat = || Arc::new(Seat { name: name.clone(), desk: Mutex::default(), called: AtomicBool::new(false) });
        by_name.entry(name.clone()).or_insert_with(seat).clone()
    }

    /// Gives a subscription that was just made a seat. What is committed for it finds its lane from now on.
    pub fn seat(&self, name: &Name) {
        self.new_seat(name);
    }

    /// How many lanes of subscriptions work now: those that have something to do, or had a moment ago.
    pub fn lanes_of_subscriptions(&self) -> usize {
        self.seats.desks().iter().filter(|desk| !desk.inbox.state().asleep).count()
    }

    /// Goes by what its outlet says now, from the next attempt on: it was changed, or switched off or on.
    pub async fn reseat(&self, name: &Name) -> store::Result<()> {
        let Some(seat) = self.seats.get(name) else { return Ok(()) };
        let Some(outlet) = self.seats.outlets().and_then(|outlets| outlets.outlet(name)) else { return Ok(()) };
        let now = self.clock.now();
        let mut kept = Ok(());
        if let Some(desk) = seat.made() {
            self.refit(&desk);
            // It stands so in memory, whatever the store says: what waits must not wait for that.
            kept = desk.switch(outlet.off, now).await;
            if desk.inbox.state().condition.breaker.open().is_none() {
                self.seats.signs.heals(name);
            }
        }
        if outlet.off.is_none() {
            self.seats.call(&seat);
        } else {
            self.seats.signs.forget(name);
        }
        kept
    }

    /// The same, of a subscription that another replica has changed, which keeps how its lane stands.
    pub fn follow_seat(&self, name: &Name) {
        let Some(seat) = self.seats.get(name) else { return };
        let Some(outlet) = self.seats.outlets().and_then(|outlets| outlets.outlet(name)) else { return };
        if let Some(desk) = seat.made() {
            self.refit(&desk);
            desk.switched(outlet.off, self.clock.now());
        }
        if outlet.off.is_none() {
            self.seats.call(&seat);
        } else {
            self.seats.signs.forget(name);
        }
    }

    /// Ends the lane of `name`: nothing more is begun. Cancelled once nothing of it is under way; `None`: nothing is.
    pub fn unseat(&self, name: &Name) -> Option<CancellationToken> {
        let seat = self.seats.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name)?;
        self.seats.signs.forget(name);
        let desk = seat.held().take()?;
        desk.retire();
        desk.inbox.state().asleep.then(|| desk.ended.cancel());
        Some(desk.ended.clone()).filter(|ended| !ended.is_cancelled())
    }

    /// Whether `name` is a subscription's.
    pub fn is_seated(&self, name: &Name) -> bool {
        self.seats.get(name).is_some()
    }

    /// What the lanes of subscriptions tell.
    pub fn signs(&self) -> Arc<Signs> {
        self.seats.signs.clone()
    }

    /// Subscriptions may reach these private targets from now on, and no others.
    pub fn let_subscriptions_reach(&self, allow: &[AllowTarget]) {
        let policy = AddressPolicy::of_subscriptions(allow);
        {
            let mut clients = self.seats.clients();
            if clients.follow(&policy) {
                return;
            }
            *clients = Clients::new(policy);
        }
        self.seats.desks().iter().for_each(|desk| self.refit(desk));
    }

    /// The desk of a subscription's lane, made where it has none yet. `None`: there is no such subscription, or it cannot be sent to; the
    /// log says why.
    pub(super) fn seat_desk(&self, name: &Name) -> Option<Arc<Desk>> {
        let seat = self.seats.get(name)?;
        self.desk_of(&seat)
    }

    pub(super) fn desk_of(&self, seat: &Seat) -> Option<Arc<Desk>> {
        let mut held = seat.held();
        if let Some(desk) = &*held {
            return Some(desk.clone());
        }
        let outlets = self.seats.outlets()?;
        let off = outlets.outlet(&seat.name)?.off;
        let today = self.today_of(&seat.name, &*outlets)?;
        let desk = Arc::new(Desk::of_subscription(today, self.store.clone(), self.clock.now(), self.seats.signs.clone(), off));
        Some(held.insert(desk).clone())
    }

    fn today_of(&self, name: &Name, outlets: &dyn Outlets) -> Option<Arc<Today>> {
        let made = outlets.destination(name).and_then(|destination| {
            let tls = destination.kind.endpoint().map(|it| it.tls.clone()).unwrap_or_default();
            let http = self.seats.clients().get(&tls).map_err(|error| error.to_string())?;
            let tools = Tools {
                http,
                templates: self.seats.templates.clone(),
                contacts: self.seats.contacts.clone(),
                clock: self.clock.clone(),
                store: self.store.clone(),
                site: self.seats.site.clone(),
            };
            Ok(Arc::new(Today { destination: Arc::new(destination), tools }))
        });
        match made {
            Ok(today) => Some(today),
            Err(reason) => {
                tracing::error!(target.name = %name, reason, "nothing can be sent to this subscription");
                None
            }
        }
    }

    fn refit(&self, desk: &Desk) {
        let Some(outlets) = self.seats.outlets() else { return };
        if let Some(today) = self.today_of(desk.name(), &*outlets) {
            desk.follow(&today, self.clock.now());
        }
    }

    /// Lets the lane of `seat` work, unless it does.
    fn begin_seat(&self, seat: &Arc<Seat>) {
        // Before anything is looked at: who calls from here on is heard.
        seat.called.store(false, Ordering::Release);
        if self.stop.is_cancelled() {
            return;
        }
        let Some(desk) = self.desk_of(seat) else { return };
        if desk.inbox.wakes() {
            self.begin(desk);
        }
    }

    /// The store may hold due deliveries for a subscription: false where `target` is none.
    pub(super) fn rouse_seat(&self, target: &Name) -> bool {
        self.seats.rouse(target)
    }

    /// How the lanes of all subscriptions stand, by name.
    pub(super) fn seat_statuses(&self, now: Timestamp) -> Vec<TargetStatus> {
        let outlets = self.seats.outlets();
        let status = |seat: Arc<Seat>| match seat.made() {
            Some(desk) => Some(desk.status(now, self.works_on(&seat.name))),
            None => Some(unseen(&seat.name, outlets.as_ref()?.outlet(&seat.name)?)),
        };
        self.seats.all().into_iter().filter_map(status).collect()
    }

    /// How the lane of `name` stands, where that is a subscription's.
    pub fn seat_status(&self, name: &Name) -> Option<TargetStatus> {
        match self.seats.get(name)?.made() {
            Some(desk) => Some(desk.status(self.clock.now(), self.works_on(name))),
            None => Some(unseen(name, self.seats.outlets()?.outlet(name)?)),
        }
    }

    /// Since when the lanes of subscriptions hold what they have (switched off, paused, broken), and how many deliveries are in hand
    /// there, which are left alone: those of `backlog` that do.
    pub fn held_seats(&self, backlog: &[Backlog]) -> Vec<(Name, Timestamp)> {
        let held = |row: &Backlog| {
            let seat = self.seats.get(&row.target)?;
            let since = match seat.made() {
                Some(desk) => desk.inbox.state().condition.held_since()?,
                None => self.seats.outlets()?.outlet(&row.target)?.off?,
            };
            Some((row.target.clone(), since))
        };
        backlog.iter().filter(|row| 0 < row.waiting).filter_map(held).collect()
    }

    /// Lets go of `ids` of a subscription, which were ended while they waited, and counts them.
    pub fn forget_expired(&self, target: &Name, ids: &[DeliveryId]) {
        if let Some(desk) = self.seats.get(target).and_then(|seat| seat.made()) {
            desk.inbox.forget(ids);
        }
        self.metrics.unsent(&Name::from(LABEL), store::State::Expired, None, ids.len() as u64);
    }
}

/// What metrics call all subscriptions together: strangers must not make series without end.
pub(crate) const LABEL: &str = "wh_*";

impl Seats {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription of whose lane nothing is known: nothing was ever sent.
fn unseen(name: &Name, outlet: Outlet) -> TargetStatus {
    TargetStatus {
        name: name.clone(),
        kind: KIND,
        url: outlet.url,
        state: if outlet.off.is_some() { TargetState::Disabled } else { TargetState::Ok },
        since: outlet.off,
        cause: None::<Cause>,
        paused_by: None,
        last_error: None,
        last_success_at: None,
        attempts_last_minute: Some(0),
        deliveries_last_minute: Some(0),
        next_probe_at: None,
    }
}
