//! Taking in events: which of them are repeats, and the rows of the others, as sets. A batch of ordinary ones goes in one statement
//! ([`at_once`]). Any other costs two ways to the server: one that takes the lock and looks for what is known, one that writes and commits.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    at_once,
    batch::{Job, Kept, Sent, Work},
    connect::{Answer, Db, Pg},
    ending,
    insert::{Deliveries, Events, Keys, Seen, Waiting},
    lanes, prune,
    rows::Cells,
    session::{self, Session, Shared},
    text::Text,
};
use crate::{
    clock::from_ms,
    envelope::{DeliveryId, Envelope, EventUid, Name},
    store::{Accepted, Committed, Delivery, Error, N_MAX, NewEvent, Remember, Result, SEQ_MAX},
};

/// How long the key of a hash id is kept at least, so that the same bytes get a suffix when they come after their window.
/// Pruning keeps it for as long as its event is held.
const HASH_KEPT_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// The job of one [`crate::store::Store::accept`].
pub(super) struct Accept {
    pub(super) event: NewEvent,
    pub(super) done: Option<Result<Done>>,
    /// Deliveries of earlier events that it cancelled.
    pub(super) cancelled: Vec<(Name, DeliveryId)>,
    pub(super) salt: u64,
    reply: oneshot::Sender<Result<Accepted>>,
}

/// What the event came to.
#[derive(Clone, Copy)]
pub(super) enum Done {
    /// On disk as `seq`, its deliveries due at `at`.
    New { seq: i64, suffix: Option<i64>, at: i64 },
    /// Held already as `seq`, under its id with `suffix`.
    Repeat { seq: i64, suffix: Option<i64>, mismatch: bool },
}

impl Accept {
    /// Takes in `event` and answers through `reply`.
    pub(super) fn new(event: NewEvent, reply: oneshot::Sender<Result<Accepted>>) -> Self {
        Self { event, done: None, cancelled: Vec::new(), salt: 0, reply }
    }

    /// The event that is on disk now and has deliveries, or cancelled some; asked once.
    fn told(&mut self) -> Option<Committed> {
        let Some(Ok(Done::New { seq, suffix, at })) = self.done else { return None };
        let planned = std::mem::take(&mut self.event.deliveries);
        if planned.is_empty() && self.cancelled.is_empty() {
            return None;
        }
        let uid = EventUid { salt: self.salt, seq };
        let deliveries =
            (1..).zip(planned).map(|(n, planned)| Delivery::new(DeliveryId { event: uid, n }, planned, from_ms(at))).collect();
        // A clone shares the body.
        let id = with_suffix(&self.event.envelope.id, suffix);
        let envelope = Arc::new(Envelope { id, ..self.event.envelope.clone() });
        Some(Committed { uid, envelope, deliveries, cancelled: std::mem::take(&mut self.cancelled) })
    }
}

impl Job for Accept {
    fn bytes(&self) -> usize {
        self.event.envelope.body.len()
    }

    fn answer(self, outcome: Result<()>) {
        let Self { event, done, salt, reply, .. } = self;
        let id = &event.envelope.id;
        let _ = reply.send(outcome.and_then(|()| done.unwrap_or(Err(Error::Closed))).map(|done| match done {
            Done::New { seq, suffix, .. } => Accepted::New { uid: EventUid { salt, seq }, id: with_suffix(id, suffix) },
            Done::Repeat { seq, suffix, mismatch } => {
                Accepted::Duplicate { uid: EventUid { salt, seq }, id: with_suffix(id, suffix), mismatch }
            }
        }));
    }

    fn rows(&self) -> usize {
        1 + self.event.deliveries.len()
    }

    /// Its sender waits for it.
    fn is_urgent(&self) -> bool {
        true
    }
}

/// The id that an event is kept under.
pub(super) fn with_suffix(id: &str, suffix: Option<i64>) -> String {
    match suffix {
        Some(suffix) => format!("{id}-{suffix}"),
        None => id.to_owned(),
    }
}

/// Takes in batches of events.
pub(super) struct Ingest {
    pub(super) connection: Kept,
    pub(super) shared: Arc<Shared>,
}

impl Ingest {
    /// A connection on which the numbers of all targets of `batch` are known, and the statements.
    async fn ready(&mut self, batch: &[Accept]) -> Option<Arc<Db>> {
        let db = self.connection.get().await.ok()?;
        let targets = batch.iter().flat_map(|job| &job.event.deliveries).map(|planned| &planned.target);
        self.shared.ensure(&db, targets).await.ok()?;
        at_once::prepare(&db).await.ok()?;
        Some(db)
    }
}

impl Work<Accept> for Ingest {
    /// Senders wait for it.
    const WORTH_WHILE: usize = 16;

    fn rest(&self, _: Duration) -> Duration {
        Duration::ZERO
    }

    async fn send(&mut self, batch: Vec<Accept>) -> std::result::Result<Sent<Accept>, Vec<Accept>> {
        if !at_once::is_ordinary(&batch) {
            return Err(batch);
        }
        // Why there is none, the longer way says.
        let Some(db) = self.ready(&batch).await else { return Err(batch) };
        let limit = prune::limit(&self.shared);
        Ok(Box::pin(at_once::take_in(db, self.shared.clone(), batch, limit)))
    }

    async fn commit(&mut self, batch: &mut [Accept]) -> Result<()> {
        let mut left = session::AGAIN;
        loop {
            let db = self.connection.get().await?;
            let mark = db.mark();
            let done = self.write(&db, batch).await.inspect_err(|error| self.shared.may_have_committed(error));
            match done {
                Ok(()) => return session::waited(&db, &self.shared, mark),
                Err(error) if session::again(&db, &error, &mut left).await => {}
                Err(error) => return Err(session::broken(&db, &error)),
            }
        }
    }

    fn committed(&mut self, batch: &mut [Accept], began: Instant) {
        let events: Vec<_> = batch.iter_mut().filter_map(Accept::told).collect();
        if let Some(listener) = self.shared.listener.get() {
            listener.batch(batch.len(), began.elapsed());
            if !events.is_empty() {
                listener.committed(events);
            }
        }
        let new = batch.iter().filter_map(|job| match job.done {
            Some(Ok(Done::New { seq, .. })) => Some(seq),
            _ => None,
        });
        if let Some(newest) = new.max() {
            self.shared.reached(newest);
        }
    }
}

/// What is known of the events of a batch before anything is written.
pub(super) const KNOWN: &str = "SELECT key, body, seq, seen_at, suffix FROM dedupe WHERE key = ANY($1)";

impl Ingest {
    async fn write(&self, db: &Db, batch: &mut [Accept]) -> Pg<()> {
        for job in batch.iter_mut() {
            (job.done, job.salt) = (None, self.shared.reading.salt);
            job.cancelled.clear();
        }
        self.shared.ensure(db, batch.iter().flat_map(|job| &job.event.deliveries).map(|planned| &planned.target)).await?;
        let mut begin = 0;
        let mut session = None;
        while begin < batch.len() {
            let end = begin + run_of(&batch[begin..]);
            let last = end == batch.len();
            let run = &mut batch[begin..end];
            let (known, heads) = self.look(db, &mut session, run).await?;
            let Some(session) = &mut session else { return Ok(()) };
            let outcomes = take_in(session, run, known, heads, last).await?;
            for (job, (done, cancelled)) in run.iter_mut().zip(outcomes) {
                (job.done, job.cancelled) = (Some(done), cancelled);
            }
            begin = end;
        }
        Ok(())
    }

    /// What is known of a run; the first one begins the transaction on the same way.
    async fn look<'d>(
        &'d self,
        db: &'d Db,
        session: &mut Option<Session<'d>>,
        run: &[Accept],
    ) -> Pg<(HashMap<[u8; 16], Seen>, HashSet<lanes::Head>)> {
        let keys: Vec<&[u8]> = run.iter().map(|job| &job.event.dedupe.key[..]).collect();
        let ordered = lanes::Keys::of(&self.shared, run.iter().flat_map(|job| &job.event.deliveries));
        let (known, lock) = (db.statement(KNOWN).await?, db.statement(session::LOCK).await?);
        let heads = db.statement(lanes::HEADS).await?;
        let heads = async { if ordered.is_empty() { Ok(Vec::new()) } else { db.rows_of(&heads, &ordered.params()).await } };
        let (known, heads) = if session.is_none() {
            let known = async { db.rows_of(&known, &[&keys]).await };
            let (begun, locked, known, heads) = tokio::join!(biased; db.begin(), db.rows_of(&lock, &[]), known, heads);
            begun?;
            *session = Some(Session::locked(db, &self.shared, &locked?).await?);
            (known?, heads?)
        } else {
            let known = async { db.rows_of(&known, &[&keys]).await };
            let (known, heads) = tokio::join!(biased; known, heads);
            (known?, heads?)
        };
        let known = known.iter().map(seen).collect::<Pg<_>>()?;
        Ok((known, lanes::heads(&heads)?))
    }
}

/// How many jobs from the first on are written as one set. An event that ends something of what came before goes alone.
fn run_of(batch: &[Accept]) -> usize {
    let ends = |job: &Accept| !job.event.endings.is_empty();
    match batch.iter().position(ends) {
        Some(0) => 1,
        Some(first) => first,
        None => batch.len(),
    }
}

fn seen(row: &tokio_postgres::Row) -> Pg<([u8; 16], Seen)> {
    let mut cells = Cells::of(row);
    let key = cells.some_key()?.unwrap_or_default();
    let body = cells.some_key()?.unwrap_or_default();
    Ok((key, Seen { body, seq: cells.int()?, seen_at: cells.int()?, suffix: cells.some_int()?, hashed: false, forget_at: 0 }))
}

/// What a run writes.
#[derive(Default)]
struct Run<'r> {
    events: Events<'r>,
    deliveries: Deliveries<'r>,
    waiting: Waiting,
    keys: Keys,
    /// How often each event was repeated, and how often with other bytes.
    repeats: BTreeMap<i64, (i64, i64)>,
    settings: BTreeMap<&'r str, &'r str>,
    targets: Vec<i64>,
}

/// Counts repeats on events, unless those were pruned.
pub(super) const COUNT: &str =
    "UPDATE events e SET duplicates = e.duplicates + u.n, mismatches = e.mismatches + u.other, last_duplicate_at = $4
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u (seq, n, other) WHERE e.seq = u.seq";
/// How far the store has come.
const ADVANCE: &str = "UPDATE identity SET last_seq = $1, used = used + $2";

/// What one event of a run came to, and what it cancelled.
type Outcome = (Result<Done>, Vec<(Name, DeliveryId)>);

/// Takes in the events of `run`; commits too where it is the `last` one of its batch.
async fn take_in(
    session: &mut Session<'_>,
    run: &[Accept],
    mut known: HashMap<[u8; 16], Seen>,
    mut heads: HashSet<lanes::Head>,
    last: bool,
) -> Pg<Vec<Outcome>> {
    let before = session.last_seq;
    let (mut rows, mut outcomes) = (Run::default(), Vec::with_capacity(run.len()));
    for Accept { event, .. } in run {
        let mut cancelled = Vec::new();
        let done = match is_known(&known, event, session.now) {
            Known::Repeat { seq, suffix, mismatch } => {
                let counted = rows.repeats.entry(seq).or_default();
                *counted = (counted.0 + 1, counted.1 + i64::from(mismatch));
                Ok(Done::Repeat { seq, suffix, mismatch })
            }
            Known::New { suffix } => match number(session, event).await? {
                Ok((seq, targets)) => {
                    // What it ends comes before what it begins; it is alone in its run.
                    if !event.endings.is_empty() {
                        cancelled = ending::end(session, event, seq).await?;
                        let ordered = lanes::Keys::of(session.shared, &event.deliveries);
                        heads = lanes::heads(&session.db.rows(lanes::HEADS, &ordered.params()).await?)?;
                    }
                    let seen = remembered(event, seq, suffix, session.now);
                    known.insert(event.dedupe.key, seen);
                    rows.push(session, event, seen, &targets, &mut heads);
                    Ok(Done::New { seq, suffix, at: session.now })
                }
                Err(refused) => Err(refused),
            },
        };
        if let (Ok(_), Some((key, value))) = (&done, &event.setting) {
            rows.settings.insert(key, value);
        }
        outcomes.push((done, cancelled));
    }
    write(session, &rows, before < session.last_seq, last).await?;
    Ok(outcomes)
}

/// The place of `event` in the order of commits, where there is room for it, and the numbers of its targets.
async fn number(session: &mut Session<'_>, event: &NewEvent) -> Answer<(i64, Vec<i64>)> {
    if let Err(refused) = prune::make_room(session).await? {
        return Ok(Err(refused));
    }
    let seq = session.last_seq + 1;
    if SEQ_MAX < seq || (N_MAX as usize) < event.deliveries.len() {
        let why = format!("an event has at most {N_MAX} deliveries, a store {SEQ_MAX} events");
        return Ok(Err(Error::Backend(why.into())));
    }
    // Known since the batch began.
    let targets: Option<Vec<i64>> = event.deliveries.iter().map(|planned| session.shared.known(&planned.target)).collect();
    let Some(targets) = targets else {
        return Ok(Err(Error::Backend("the number of a target is not known".into())));
    };
    session.last_seq = seq;
    Ok(Ok((seq, targets)))
}

impl<'r> Run<'r> {
    /// Adds a new event, on its way to these targets.
    fn push(
        &mut self,
        session: &Session<'_>,
        event: &'r NewEvent,
        seen: Seen,
        targets: &[i64],
        heads: &mut HashSet<lanes::Head>,
    ) {
        self.keys.put(event.dedupe.key, seen);
        self.events.push(event, seen.seq, seen.suffix);
        for ((n, planned), &target) in (1..).zip(&event.deliveries).zip(targets) {
            let place = DeliveryId { event: EventUid { salt: session.salt(), seq: seen.seq }, n }.place();
            self.deliveries.push(place, target, planned, session.now, false, lanes::turn(heads, target, planned));
            self.targets.push(target);
            if let Some(handling) = &planned.handling {
                self.waiting.push(place, handling);
            }
        }
    }
}

/// Sends everything at once.
async fn write(session: &Session<'_>, rows: &Run<'_>, advanced: bool, last: bool) -> Pg<()> {
    let db = session.db;
    let (count, advance, notify) =
        (db.statement(COUNT).await?, db.statement(ADVANCE).await?, db.statement(session::NOTIFY).await?);
    let settings = db.statement(super::people::KEEP_SETTINGS).await?;
    rows.events.prepare(db).await?;
    let (seqs, counts): (Vec<i64>, Vec<(i64, i64)>) = rows.repeats.iter().map(|(seq, counts)| (*seq, *counts)).unzip();
    let (all, others): (Vec<i64>, Vec<i64>) = counts.into_iter().unzip();
    let (names, values): (Vec<Text<'_>>, Vec<Text<'_>>) =
        rows.settings.iter().map(|(key, value)| (Text::of(key), Text::of(value))).unzip();
    let size = rows.events.size();
    let channel = super::news::channel(session.salt());
    if session.shared.has_company() {
        session.tell(&rows.targets);
    }
    // The last run of a batch says it for all of them.
    let said = if last { session.said() } else { None };
    let repeats = async { if seqs.is_empty() { Ok(0) } else { db.run_of(&count, &[&seqs, &all, &others, &session.now]).await } };
    let kept = async { if names.is_empty() { Ok(0) } else { db.run_of(&settings, &[&names, &values]).await } };
    let told = async { if said.is_none() { Ok(0) } else { db.run_of(&notify, &[&channel, &said]).await } };
    let forward = async { if advanced { db.run_of(&advance, &[&session.last_seq, &size]).await } else { Ok(0) } };
    let commit = async { if last { db.commit().await } else { Ok(()) } };
    let (events, deliveries, plans, awaited, keys, repeats, kept, forward, told, committed) = tokio::join!(biased;
        rows.events.insert(db), rows.deliveries.insert(db), rows.waiting.insert_plans(db), rows.waiting.insert_keys(db),
        rows.keys.insert(db), repeats, kept, forward, told, commit);
    // A commit of a transaction that failed before answers without an error: what failed tells.
    for done in [events, deliveries, plans, awaited, keys, repeats, kept, forward, told] {
        done?;
    }
    committed
}

/// Whether an event came before.
enum Known {
    /// It did, as this event, with other bytes or not.
    Repeat { seq: i64, suffix: Option<i64>, mismatch: bool },
    /// It did not, or too long ago: its id gets this suffix.
    New { suffix: Option<i64> },
}

fn is_known(known: &HashMap<[u8; 16], Seen>, event: &NewEvent, now: i64) -> Known {
    let dedupe = &event.dedupe;
    let Some(seen) = known.get(&dedupe.key) else { return Known::New { suffix: None } };
    let ago = now.saturating_sub(seen.seen_at);
    let repeat = match dedupe.remember {
        Remember::Id(window) => ago < ms(window),
        // Of what came in the future of a clock that was set back nobody knows how long ago that was: as long as it says.
        Remember::Hash(window) => ago.saturating_abs() < ms(window),
    };
    if repeat {
        Known::Repeat { seq: seen.seq, suffix: seen.suffix, mismatch: seen.body != dedupe.body }
    } else {
        Known::New { suffix: next_suffix(dedupe.remember, now, seen.suffix) }
    }
}

/// Unix seconds for a hash id that comes again, counted up from the last one when that second was used.
fn next_suffix(remember: Remember, now: i64, last: Option<i64>) -> Option<i64> {
    let seconds = now.div_euclid(1000);
    match remember {
        Remember::Id(_) => None,
        Remember::Hash(_) => Some(last.map_or(seconds, |last| seconds.max(last.saturating_add(1)))),
    }
}

pub(super) fn remembered(event: &NewEvent, seq: i64, suffix: Option<i64>, now: i64) -> Seen {
    let (hashed, kept) = match event.dedupe.remember {
        Remember::Id(window) => (false, ms(window)),
        Remember::Hash(window) => (true, ms(window).max(HASH_KEPT_MS)),
    };
    Seen { body: event.dedupe.body, seq, seen_at: now, hashed, suffix, forget_at: now.saturating_add(kept) }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
