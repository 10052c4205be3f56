//! Which of the configurations that replicas go by is the newest. Configurations come in as they are loaded, and what other replicas say of
//! themselves; out go the shards that are left to others, because a lane of the newest configuration is not known here, and what is shown
//! and told of a difference. Knows nothing of how lanes work, and never changes what a replica goes by: that is its own file.
//!
//! The newest configuration is a record in the store ([`newest`]), which changes by comparing revisions. A replica that goes by an older
//! one works on all lanes but those it lacks, and says nothing of targets that it does not know: whoever goes by the newest does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    difference::Watch,
    newest::{How, Lanes, Newest},
};
use crate::{
    announce::{Announcer, Differing, Notice},
    app::Handles,
    clock::{Clock, Timestamp, until},
    config::Config,
    envelope::Name,
    route::OWN_SOURCE,
    seal::Sealer,
    store::{self, Change, Changed, Profile, Record, RecordKind, Store, Write, shard_of},
    telemetry::Metrics,
};

mod difference;
mod newest;
mod peer;

pub use peer::Peer;

/// How often is looked for what others do. By the machine's clock: theirs is none of ours.
const EVERY: Duration = Duration::from_secs(1);
/// How long all replicas must have gone by one configuration that is not the newest until it is: long enough for one that goes by the
/// newest to be started again.
const AGREED_AFTER: Duration = Duration::from_secs(600);
/// How often a change is made again that another replica came before.
const AGAIN: usize = 10;
/// Bytes of the digest that is shown.
const DIGEST: usize = 16;
/// The record of the newest configuration.
const NEWEST: &str = "newest";
/// The record of whether a difference was told of.
const DIFFERENCE: &str = "difference";
/// Whom both belong to.
const OWNER: &str = "relay";
/// What keeps the digests of configurations apart from other keyed hashes.
const PLACE: &[u8] = b"configuration\0";

/// What agreeing on configurations works with.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Parts {
    /// Where replicas meet.
    pub store: Arc<dyn Store>,
    /// What time it is.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Where the relay tells of itself.
    pub announcer: Announcer,
    /// Makes the keyed hashes: every replica has its key.
    pub sealer: Sealer,
}

/// Which configuration is the newest, as far as one replica knows.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Generations {
    parts: Parts,
    state: Mutex<State>,
    /// What this replica says of itself to the store.
    profile: watch::Sender<Profile>,
}

struct State {
    me: Peer,
    lanes: Lanes,
    /// The newest, as it was last read; `None`: nothing is known of any.
    newest: Option<Kept<Newest>>,
    /// Whether a difference was told of; `None`: never yet.
    told: Option<Kept<bool>>,
    /// The newest revision that was read.
    seen: i64,
    /// Shards of subscriptions and jobs that cannot be read here.
    unread: BTreeSet<u16>,
    /// All replicas, this one among them.
    peers: Vec<Peer>,
    /// Since when all of them have gone by this one's configuration, which is not the newest.
    agreed_since: Option<Timestamp>,
    /// What is not decided yet: the store could not be asked.
    open: Option<Claim>,
}

/// That a configuration may be the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    digest: String,
    how: How,
}

#[derive(Clone)]
struct Kept<T> {
    is: T,
    revision: i64,
}

/// Where one replica stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Which generation it goes by; `None`: one that nobody remembers, or the store has not said yet.
    pub generation: Option<u64>,
    /// The newest.
    pub newest: Option<Generation>,
    /// A keyed hash of what its own configuration means.
    pub digest: String,
}

/// A generation that is the newest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Which.
    pub number: u64,
    /// Since when.
    pub at: Timestamp,
    /// The replica that made it so.
    pub by: String,
}

/// A replica as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What it says of itself.
    pub peer: Peer,
    /// Which generation it goes by.
    pub generation: Option<u64>,
    /// Whether that is the newest.
    pub newest: bool,
    /// The destinations whose lanes it works on.
    pub lanes: Vec<String>,
    /// Whether it is the one that was asked.
    pub asked: bool,
}

impl Generations {
    /// Begins with `config`: before anything is owned, so that what is not known here is left to others. A store that fails keeps nobody
    /// from starting; it is asked again.
    pub async fn join(parts: Parts, config: &Config) -> Arc<Self> {
        let now = parts.clock.now();
        let me = Peer {
            id: format!("{:016x}", fastrand::u64(..)),
            name: peer::name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest: digest(&parts.sealer, config),
            loaded_at: now,
            started_at: now,
            ..Peer::default()
        };
        let state = State {
            me,
            lanes: Lanes::of(config),
            newest: None,
            told: None,
            seen: 0,
            unread: BTreeSet::new(),
            peers: Vec::new(),
            agreed_since: None,
            open: None,
        };
        let joined = Arc::new(Self { parts, state: Mutex::new(state), profile: watch::Sender::default() });
        if let Err(error) = joined.look().await {
            warn!(%error, "which configuration is the newest of all replicas is not known yet");
        }
        joined.show();
        joined
    }

    /// The relay has started with its configuration: only one that can be gone by is anybody's newest.
    pub(crate) async fn started(&self) {
        self.state().claims(How::Started);
        self.agree().await;
    }

    /// The relay goes by `config` since now. `asked`: a person says that it is the newest, though it may have been that before.
    pub(crate) async fn goes_by(&self, config: &Config, asked: bool) {
        {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.me.digest, digest(&self.parts.sealer, config));
            state.lanes = Lanes::of(config);
            state.me.loaded_at = self.parts.clock.now();
            state.claims(if asked { How::Asked } else { How::From(before) });
        }
        self.agree().await;
    }

    /// What this replica says of itself to the store.
    pub(crate) fn profile(&self) -> watch::Receiver<Profile> {
        self.profile.subscribe()
    }

    /// Where this replica stands.
    pub fn standing(&self) -> Standing {
        let state = self.state();
        let newest = state.newest.as_ref().map(|it| &it.is);
        Standing {
            generation: newest.and_then(|it| it.number_of(&state.me.digest)),
            newest: newest.map(|it| Generation { number: it.number, at: it.at, by: it.by.clone() }),
            digest: state.me.digest.clone(),
        }
    }

    /// Whether another replica, which is there, goes by the newest configuration and this one does not: then that one says what is gone.
    pub fn yields(&self) -> bool {
        self.state().yields()
    }

    /// Whether `target` is in the newest configuration, but not in this replica's.
    pub fn is_elsewhere(&self, target: &Name) -> bool {
        self.state().elsewhere().any(|name| name == target.as_str())
    }

    /// All that [`Generations::is_elsewhere`] says yes to.
    pub(crate) fn elsewhere(&self) -> Vec<Name> {
        self.state().elsewhere().map(Name::from).collect()
    }

    /// The replicas that share the store now, by name.
    pub async fn replicas(&self) -> store::Result<Vec<Shown>> {
        let peers = self.read_peers().await?;
        let state = self.state();
        let newest = state.newest.as_ref().map(|it| &it.is);
        let known: BTreeSet<&String> =
            newest.iter().flat_map(|it| &it.lanes.destinations).chain(&state.lanes.destinations).collect();
        let shown = |peer: Peer| {
            let is_newest = newest.is_some_and(|it| it.digest == peer.digest);
            let lanes = known.iter().filter(|name| peer.shards.contains(&shard_of(&Name::from(name.as_str()))));
            Shown {
                generation: newest.and_then(|it| it.number_of(&peer.digest)),
                newest: is_newest,
                lanes: lanes.map(|name| (*name).clone()).collect(),
                asked: peer.id == state.me.id,
                peer,
            }
        };
        Ok(peers.into_iter().map(shown).collect())
    }

    async fn read_peers(&self) -> store::Result<Vec<Peer>> {
        let replicas = self.parts.store.replicas(self.parts.clock.now()).await?;
        let mut peers: Vec<_> = replicas.into_iter().map(Peer::of).collect();
        peers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(peers)
    }

    /// Finds out which configuration is the newest, and makes this replica's that where it is. What the store keeps from being decided is
    /// decided in a later round.
    async fn agree(&self) {
        if let Err(error) = self.settle().await {
            warn!(%error, "which configuration is the newest of all replicas is not known yet");
        }
        self.show();
    }

    /// Has decided what is open.
    async fn settle(&self) -> store::Result<()> {
        let open = self.state().open.clone();
        if let Some(claim) = open
            && self.claim(&claim).await?
        {
            let mut state = self.state();
            // Unless another came meanwhile.
            state.open = state.open.take().filter(|open| *open != claim);
        }
        self.look().await
    }

    /// Makes the configuration the newest where it is; false: others came before too often, or this replica goes by another one by now.
    async fn claim(&self, claim: &Claim) -> store::Result<bool> {
        for _ in 0..AGAIN {
            self.refresh().await?;
            let (next, expected) = {
                let state = self.state();
                if state.me.digest != claim.digest {
                    return Ok(false);
                }
                let newest = state.newest.as_ref();
                // Nobody else goes by another one.
                let alone = !self.parts.store.is_shared();
                let how = if alone { &How::Asked } else { &claim.how };
                if !newest::becomes(newest.map(|it| &it.is), &state.me.digest, how) {
                    return Ok(true);
                }
                let (now, lanes) = (self.parts.clock.now(), state.lanes.clone());
                let next = Newest::after(newest.map(|it| &it.is), &state.me.digest, lanes, now, &state.me.name);
                (next, newest.map(|it| it.revision))
            };
            if let Changed::Done { revision } = self.put(NEWEST, next.doc(), expected).await? {
                info!(config.generation = next.number, config.digest = %next.digest, "this configuration is the newest of all replicas");
                self.state().newest = Some(Kept { is: next, revision });
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads which configuration is the newest, and who is there: that decides whether this one yields.
    async fn look(&self) -> store::Result<()> {
        self.refresh().await?;
        let peers = self.read_peers().await?;
        self.state().peers = peers;
        Ok(())
    }

    async fn put(&self, id: &str, doc: String, expected: Option<i64>) -> store::Result<Changed> {
        let (kind, id, owner) = (RecordKind::Configuration, id.to_owned(), OWNER.to_owned());
        let writes = vec![Write::Put { kind, id, owner, doc, sealed: None, expected }];
        self.parts.store.change(Change { writes, ..Change::default() }).await
    }

    /// Reads what others have written since it was last read.
    async fn refresh(&self) -> store::Result<()> {
        let seen = self.state().seen;
        let records = self.parts.store.records(RecordKind::Configuration, seen).await?;
        let mut state = self.state();
        for record in records {
            state.seen = state.seen.max(record.revision);
            state.take(&record);
        }
        Ok(())
    }

    /// Says what has changed, where something has: to the store, to metrics, and in the log.
    fn show(&self) {
        let (profile, numbers, peers) = {
            let state = self.state();
            let newest = state.newest.as_ref().map(|it| &it.is);
            let number = newest.and_then(|it| it.number_of(&state.me.digest));
            let profile = Profile { lacks: state.lacks().into_iter().collect(), doc: state.me.doc() };
            (profile, (number, newest.map(|it| it.number)), state.counts())
        };
        self.parts.metrics.generations(numbers, peers);
        let changed = |now: &mut Profile| std::mem::replace(now, profile.clone()) != profile;
        let lacked = self.profile.borrow().lacks.len();
        if self.profile.send_if_modified(changed) && lacked != profile.lacks.len() {
            self.say_how_it_stands(profile.lacks.len());
        }
    }

    fn say_how_it_stands(&self, shards: usize) {
        let Standing { generation, newest, .. } = self.standing();
        match newest.filter(|newest| Some(newest.number) != generation) {
            Some(newest) => warn!(
                config.generation = generation, newest = newest.number, by = %newest.by, since = %newest.at, shards,
                "this replica goes by an older configuration than the newest: the lanes that it does not know are left to replicas that do. \
                 If it is the one that all should go by, `hookyard reload --newest` says so"
            ),
            None => info!(
                config.generation = generation,
                shards, "this replica leaves lanes that it does not know to replicas that do"
            ),
        }
    }

    /// Subscriptions and jobs that cannot be read here are somebody else's.
    fn leave_unread(&self, handles: &Handles) {
        let unread = handles.subscriptions.unread();
        let unread = unread.iter().filter(|id| !handles.subscriptions.keeps(id)).map(shard_of);
        let jobs = handles.jobs.unread();
        let unread = unread.chain(jobs.iter().map(|id| shard_of(&Name::from(id.as_str())))).collect();
        self.state().unread = unread;
    }

    async fn round(&self, handles: &Handles, watch: &mut Watch) -> store::Result<()> {
        self.settle().await?;
        self.leave_unread(handles);
        let now = self.parts.clock.now();
        let (peers, agreed) = {
            let mut state = self.state();
            let agreed = state.have_agreed(now).then(|| Claim { digest: state.me.digest.clone(), how: How::Agreed });
            (state.peers.clone(), agreed)
        };
        if let Some(claim) = agreed {
            self.claim(&claim).await?;
        }
        self.show();
        let lasting = watch.look(&peers, now);
        // One tells for all.
        match lasting.filter(|_| handles.deliver.ownership().owns(&OWN_SOURCE.into())) {
            Some((differ, since)) => self.tell(differ, since, &peers).await,
            None => Ok(()),
        }
    }

    /// Tells that the replicas differ, or no longer do: once for all, by a record that only one of them writes.
    async fn tell(&self, differ: bool, since: Timestamp, peers: &[Peer]) -> store::Result<()> {
        let told = self.state().told.clone();
        if told.as_ref().is_some_and(|it| it.is) == differ {
            return Ok(());
        }
        let doc = json!({"told": differ}).to_string();
        // Another one was faster: it tells.
        let Changed::Done { revision } = self.put(DIFFERENCE, doc, told.map(|it| it.revision)).await? else { return Ok(()) };
        self.state().told = Some(Kept { is: differ, revision });
        if !differ {
            info!("all replicas go by the same configuration again, and are of the same version");
            self.parts.announcer.tell(Notice::Agree { since });
            return Ok(());
        }
        let replicas: Vec<Differing> = {
            let state = self.state();
            let newest = state.newest.as_ref().map(|it| &it.is);
            let differing = |peer: &Peer| Differing {
                name: peer.name.clone(),
                version: peer.version.clone(),
                generation: newest.and_then(|it| it.number_of(&peer.digest)),
            };
            peers.iter().map(differing).collect()
        };
        let newest = self.standing().newest.map(|it| it.number);
        warn!(replicas = ?replicas, newest, since = %since, "the replicas do not go by the same configuration, or are not of the same version");
        self.parts.announcer.tell(Notice::Differ { newest, since, replicas });
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks what others do until `stop`, where others share the store.
pub(crate) async fn follow(handles: Handles, stop: CancellationToken) {
    let (generations, mut watch, mut failing) = (handles.generations.clone(), Watch::default(), false);
    while handles.store.is_shared() && stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        match generations.round(&handles, &mut watch).await {
            Ok(()) if std::mem::take(&mut failing) => info!("which configuration is the newest is heard of again"),
            Ok(()) => {}
            Err(store::Error::Closed) => return,
            Err(error) if !std::mem::replace(&mut failing, true) => {
                warn!(%error, "which configuration is the newest is not heard of")
            }
            Err(_) => {}
        }
    }
}

impl State {
    /// This replica's configuration may be the newest. Where an earlier one was not decided on, the way is the whole way.
    fn claims(&mut self, how: How) {
        let how = match (self.open.take().map(|open| open.how), how) {
            (Some(How::Asked), _) => How::Asked,
            (Some(How::From(first)), How::From(_)) => How::From(first),
            (_, how) => how,
        };
        self.open = Some(Claim { digest: self.me.digest.clone(), how });
    }

    fn take(&mut self, record: &Record) {
        match (&*record.id, &record.doc) {
            (NEWEST, Some(doc)) => match serde_json::from_str(doc) {
                Ok(newest) => self.newest = Some(Kept { is: newest, revision: record.revision }),
                Err(error) => warn!(%error, "which configuration is the newest cannot be read, and stays as it was"),
            },
            (DIFFERENCE, Some(doc)) => {
                let said: Value = serde_json::from_str(doc).unwrap_or_default();
                self.told = Some(Kept { is: said["told"] == true, revision: record.revision });
            }
            _ => {}
        }
    }

    fn is_newest(&self) -> bool {
        self.newest.as_ref().is_none_or(|it| it.is.digest == self.me.digest)
    }

    /// The others that are there.
    fn others(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.id != self.me.id)
    }

    fn yields(&self) -> bool {
        let newest = self.newest.as_ref().filter(|_| !self.is_newest());
        newest.is_some_and(|newest| self.others().any(|peer| peer.digest == newest.is.digest))
    }

    fn elsewhere(&self) -> impl Iterator<Item = &str> {
        let newest = self.newest.as_ref().filter(|_| !self.is_newest());
        let theirs = newest.into_iter().flat_map(|it| it.is.lanes.destinations.difference(&self.lanes.destinations));
        theirs.map(String::as_str)
    }

    /// Shards with lanes that are not known here.
    fn lacks(&self) -> BTreeSet<u16> {
        let newest = self.newest.as_ref().filter(|_| !self.is_newest());
        let mut lacks = newest.map(|it| it.is.lanes.lacked_by(&self.lanes)).unwrap_or_default();
        lacks.extend(&self.unread);
        lacks
    }

    /// Whether all that are there have gone by this configuration for so long that it is the newest, whatever was.
    fn have_agreed(&mut self, now: Timestamp) -> bool {
        if self.is_newest() || self.others().any(|peer| peer.digest != self.me.digest) {
            self.agreed_since = None;
            return false;
        }
        let since = self.agreed_since.filter(|since| *since <= now).unwrap_or(now);
        self.agreed_since = Some(since);
        AGREED_AFTER <= until(since, now)
    }

    /// How many replicas are there, and how many of them go by the newest configuration.
    fn counts(&self) -> (usize, usize) {
        let newest = self.newest.as_ref().map(|it| &it.is.digest);
        let mine = usize::from(Some(&self.me.digest) == newest);
        let theirs = self.others().filter(|peer| Some(&peer.digest) == newest).count();
        (1 + self.others().count(), mine + theirs)
    }
}

/// A keyed hash of what `config` means: literal secrets may be in that.
fn digest(sealer: &Sealer, config: &Config) -> String {
    let hash = sealer.digest(&[PLACE, config.meaning.reveal()].concat());
    HEXLOWER.encode(hash.get(..DIGEST).unwrap_or_default())
}
