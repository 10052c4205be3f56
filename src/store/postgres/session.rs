//! What transactions work with: a connection, what all of them share in memory, and the lock that those hold of which others must see
//! the effects in order.

use std::{
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    connect::{Db, Pg, fault, is_again},
    news::{self, Unsaid},
    notices::Mark,
    numbers::Numbers,
    presence::Presence,
    prune::Room,
    rows::Reading,
    text::Text,
};
use crate::{
    clock::{Clock, to_ms},
    envelope::Name,
    store::{Error, OnCommit, Result, shard_of},
};

/// What all connections of one store share.
pub(super) struct Shared {
    pub(super) reading: Reading,
    pub(super) clock: Clock,
    /// Who is told of commits, once somebody is.
    pub(super) listener: OnceLock<std::sync::Arc<dyn OnCommit>>,
    /// The place of the newest event on disk that is known here.
    pub(super) newest: watch::Sender<i64>,
    /// What is known about the space left.
    pub(super) room: Mutex<Room>,
    /// Marks what this process says to the others.
    pub(super) voice: u64,
    /// By what the owners of this machine know each other to live.
    pub(super) presence: Presence,
    /// The clock was set back, or may have been before this start: times in the tables may lie in its former future.
    pub(super) set_back: AtomicBool,
    /// This process may have committed what it knows nothing of: the connection was lost on the way.
    pub(super) unsure: AtomicBool,
    /// Other processes may share the store: they are told of what is committed. Alone, nobody is.
    company: AtomicBool,
    /// When one of them was last heard of.
    heard_at: Mutex<Option<Instant>>,
    /// The latest time a transaction saw, in ms.
    seen: AtomicI64,
    /// The database's clock differs from this machine's.
    pub(super) differs: AtomicBool,
    /// Numbers of targets that are on disk.
    targets: Mutex<Numbers>,
}

/// How long others who own nothing are told of what is committed after they were last heard of.
const ALONE_AFTER: Duration = Duration::from_mins(1);
/// From how much on people are told that the database's clock differs, in ms.
const CLOCK_MS: i64 = 1000;
/// Names of targets whose numbers are kept in memory, twice.
const TARGETS_MAX: usize = 50_000;

impl Shared {
    pub(super) fn new(reading: Reading, clock: Clock, newest: i64) -> Self {
        let salt = reading.salt;
        Self {
            reading,
            seen: AtomicI64::new(to_ms(clock.now())),
            clock,
            listener: OnceLock::new(),
            newest: watch::Sender::new(newest),
            room: Mutex::default(),
            voice: u64::from_ne_bytes(std::array::from_fn(|_| fastrand::u8(..))),
            presence: Presence::new(salt),
            set_back: AtomicBool::new(true),
            unsure: AtomicBool::new(false),
            company: AtomicBool::new(true),
            heard_at: Mutex::default(),
            differs: AtomicBool::new(false),
            targets: Mutex::new(Numbers::new(TARGETS_MAX)),
        }
    }

    /// Which row of what is in use is this process's, so that none waits for another.
    pub(super) fn slot(&self) -> i16 {
        i16::from((self.voice % 63) as u8 + 1)
    }

    /// Whether other processes may share the store.
    pub(super) fn has_company(&self) -> bool {
        self.company.load(Ordering::Relaxed)
    }

    /// A commit failed by `error`: where the connection was lost, it may be on disk all the same.
    pub(super) fn may_have_committed(&self, error: &tokio_postgres::Error) {
        self.unsure.fetch_or(error.is_closed(), Ordering::Relaxed);
    }

    /// Another one was heard of.
    pub(super) fn heard(&self) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.company.store(true, Ordering::Relaxed);
    }

    /// The table of owners names others, or none: that leaves out those who have just come, who were heard of.
    pub(super) fn counted(&self, others: bool) {
        let heard_at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = heard_at.is_some_and(|at| at.elapsed() < ALONE_AFTER);
        self.company.store(others || heard, Ordering::Relaxed);
    }

    /// The time of a transaction that begins, in ms.
    pub(super) fn now(&self) -> i64 {
        let now = to_ms(self.clock.now());
        if now < self.seen.swap(now, Ordering::Relaxed) {
            self.set_back.store(true, Ordering::Relaxed);
        }
        now
    }

    /// The database's clock showed `there` at some time between `before` and `after` of this machine's, in ms: people are told when the
    /// difference begins to matter, and when it ends to. An answer that was long under way tells nothing.
    pub(super) fn shows(&self, there: i64, before: i64, after: i64) {
        if CLOCK_MS <= after.saturating_sub(before).saturating_abs() {
            return;
        }
        let ahead = there.saturating_sub(before.midpoint(after));
        let matters = CLOCK_MS < ahead.saturating_abs();
        match (self.differs.swap(matters, Ordering::Relaxed), matters) {
            (false, true) => tracing::warn!(
                ahead_ms = ahead,
                "the database's clock is {ahead} ms ahead of this machine's (behind, where that is below zero): what this relay takes in and another delivers goes out, or expires, that much too early or too late; keep both by NTP"
            ),
            (true, false) => tracing::info!("this machine's clock goes as the database's again"),
            _ => {}
        }
    }

    /// The number of `name` where it is known here.
    pub(super) fn known(&self, name: &Name) -> Option<i64> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).get(name)
    }

    /// Sees to it that every one of `names` has a number on disk that is known here; outside of any transaction.
    pub(super) async fn ensure<'n>(&self, db: &Db, names: impl Iterator<Item = &'n Name>) -> Pg<()> {
        let missing = self.targets.lock().unwrap_or_else(PoisonError::into_inner).missing(names);
        if missing.is_empty() {
            return Ok(());
        }
        let shards: Vec<i16> = missing.iter().map(|name| i16::try_from(shard_of(name)).unwrap_or_default()).collect();
        let names: Vec<Text<'_>> = missing.iter().map(|name| Text::of(name.as_str())).collect();
        let sql =
            "INSERT INTO targets (name, shard) SELECT * FROM unnest($1::text[], $2::smallint[]) AS u (name, shard) ORDER BY name
            ON CONFLICT (name) DO NOTHING";
        db.run(sql, &[&names, &shards]).await?;
        let found = db.rows("SELECT name, id FROM targets WHERE name = ANY($1)", &[&names]).await?;
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        for row in &found {
            let name: Text<'_> = row.try_get(0)?;
            targets.put(name.as_str().into(), row.try_get(1)?);
        }
        Ok(())
    }

    /// Shows that every event up to `seq` is on disk.
    pub(super) fn reached(&self, seq: i64) {
        self.newest.send_if_modified(|known| *known < seq && std::mem::replace(known, seq) != seq);
    }
}

/// Holds the lock of the store until the commit: what is read and written then happens before or after what others do under it.
/// The second column: bytes in use; the third: whether the server is the one that gave out the last numbers.
pub(super) const LOCK: &str = "SELECT last_seq, used + (SELECT coalesce(sum(bytes), 0)::bigint FROM usage),
        server IS NOT DISTINCT FROM pg_postmaster_start_time() FROM identity FOR UPDATE OF identity";
/// Passes over numbers. After a failover to an asynchronous standby the last that were given out are not known there: relays still have
/// events, attempts and records in hand that go by them, and no other may come to bear them.
const LEAP: &str =
    "UPDATE identity SET server = pg_postmaster_start_time(), last_seq = last_seq + $1::bigint, epoch = epoch + $1::bigint,
        revision = greatest(revision, (SELECT max(revision) FROM records)) + $1::bigint
    RETURNING last_seq";
/// More than are given out while a standby lags behind, in minutes at what one server can take; and little of what there is.
const LEAP_BY: i64 = 1 << 22;

/// Tells whoever listens.
pub(super) const NOTIFY: &str = "SELECT pg_notify($1, $2)";

/// A transaction that holds the lock of the store.
pub(super) struct Session<'d> {
    pub(super) db: &'d Db,
    pub(super) shared: &'d Shared,
    /// The time of this transaction, in ms.
    pub(super) now: i64,
    /// The last place that was given out.
    pub(super) last_seq: i64,
    /// Bytes in use now.
    pub(super) used: AtomicI64,
    /// Whether there was room for a new event when this transaction asked; asked once.
    pub(super) had_room: OnceLock<bool>,
    /// What the other processes are to be told once this is committed.
    unsaid: Mutex<Unsaid>,
}

impl<'d> Session<'d> {
    /// Begins one.
    pub(super) async fn begin(db: &'d Db, shared: &'d Shared) -> Pg<Self> {
        let lock = db.statement(LOCK).await?;
        let (begun, locked) = tokio::join!(biased; db.begin(), db.rows_of(&lock, &[]));
        begun?;
        Self::locked(db, shared, &locked?).await
    }

    /// One that was begun and holds the lock: what [`LOCK`] said.
    pub(super) async fn locked(db: &'d Db, shared: &'d Shared, rows: &[tokio_postgres::Row]) -> Pg<Self> {
        let (mut last_seq, used, same) = match rows.first() {
            Some(row) => (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?),
            None => (0, 0, true),
        };
        if !same && let Some(row) = db.first(LEAP, &[&LEAP_BY]).await? {
            last_seq = row.try_get(0)?;
            tracing::info!(
                last_seq,
                "the database's server was started again, or is another: numbers that it may not know of are passed over"
            );
        }
        let (now, used) = (shared.now(), AtomicI64::new(used));
        Ok(Self { db, shared, now, last_seq, used, had_room: OnceLock::new(), unsaid: Mutex::default() })
    }

    /// The number of `name` in the tables: known since [`Shared::ensure`].
    pub(super) async fn target(&self, name: &Name) -> Pg<i64> {
        if let Some(id) = self.shared.known(name) {
            return Ok(id);
        }
        match self.db.first("SELECT id FROM targets WHERE name = $1", &[&Text::of(name.as_str())]).await? {
            Some(row) => row.try_get(0),
            None => Ok(-1),
        }
    }

    pub(super) fn salt(&self) -> u64 {
        self.shared.reading.salt
    }

    /// Whether what `epoch` asks or reports of the lane of `target` is a former owner's.
    pub(super) async fn is_stale(&self, target: &Name, epoch: i64) -> Pg<bool> {
        let shard = i16::try_from(shard_of(target)).unwrap_or_default();
        let row = self.db.first("SELECT $2::bigint < epoch FROM shards WHERE shard = $1", &[&shard, &epoch]).await?;
        row.map_or(Ok(false), |row| row.try_get(0))
    }

    /// Tells the other processes that the store holds something new for these targets, once this is committed.
    pub(super) fn tell(&self, targets: &[i64]) {
        self.unsaid().new.extend(targets);
    }

    /// Likewise, that something which waited for these targets no longer does: whoever has it in hand must not send it.
    pub(super) fn tell_ended(&self, targets: &[i64]) {
        self.unsaid().ended.extend(targets);
    }

    /// Likewise, that there are shards to take.
    pub(super) fn tell_freed(&self) {
        self.unsaid().freed = true;
    }

    /// What is to be said of all that, as one notification; it is asked once, before the commit. `None`: nothing.
    pub(super) fn said(&self) -> Option<String> {
        std::mem::take(&mut *self.unsaid()).by(self.shared.voice)
    }

    /// Says it, once this is committed.
    pub(super) async fn speak(&self) -> Pg<()> {
        let Some(said) = self.said() else { return Ok(()) };
        self.db.run(NOTIFY, &[&news::channel(self.salt()), &said]).await.map(|_| ())
    }

    fn unsaid(&self) -> MutexGuard<'_, Unsaid> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what was committed since `mark` where the server did not wait for the standbys that it was to wait for: it is on that server's
/// disk, and may be nowhere else. Whoever is refused asks again, and the answer to that comes behind it on the way to the standbys.
pub(super) fn waited(db: &Db, shared: &Shared, mark: Mark) -> Result<()> {
    if db.waited(mark) {
        return Ok(());
    }
    // It is there to be delivered.
    shared.unsure.store(true, Ordering::Relaxed);
    Err(Error::Full("the commit did not wait for the database's standbys: somebody has ended that".into()))
}

/// Ends a transaction by what it came to. `None`: it was undone and is to be made again.
pub(super) async fn end<T>(db: &Db, shared: &Shared, done: Pg<Result<T>>) -> Option<Result<T>> {
    let mark = db.mark();
    let committed = match done {
        // A refusal leaves what made room for it, or found that there is none.
        Ok(answer) => db.commit().await.map(|()| answer),
        Err(error) => {
            if !error.is_closed() {
                db.roll_back().await;
            }
            Err(error)
        }
    };
    match committed {
        Ok(answer) => Some(waited(db, shared, mark).and(answer)),
        Err(error) if is_again(&error) => None,
        Err(error) => Some(Err(broken(db, &error))),
    }
}

/// Undoes a transaction that failed; whether it is to be made again.
pub(super) async fn again(db: &Db, error: &tokio_postgres::Error, left: &mut u32) -> bool {
    if !error.is_closed() {
        db.roll_back().await;
    }
    *left = left.saturating_sub(1);
    is_again(error) && *left != 0
}

/// What an error of the server means; a connection whose server can take nothing is not used again.
pub(super) fn broken(db: &Db, error: &tokio_postgres::Error) -> Error {
    let meant = fault(error);
    if matches!(meant, Error::Full(_)) {
        db.discard();
    }
    meant
}

/// Runs `$work` in a transaction of its own under the lock of the store, with `$session`; `$names` are the targets it is about.
/// The same again where two waited for each other. `briefly`: nothing of it may take long.
macro_rules! locked {
    (briefly $self:ident, $names:expr, |$session:ident| $work:expr) => {
        $crate::store::postgres::session::locked!(@ $self.get_briefly, $names, |$session| $work)
    };
    ($self:ident, $names:expr, |$session:ident| $work:expr) => {
        $crate::store::postgres::session::locked!(@ $self.get, $names, |$session| $work)
    };
    (@ $self:ident . $get:ident, $names:expr, |$session:ident| $work:expr) => {{
        let mut left = $crate::store::postgres::session::AGAIN;
        loop {
            let db = $self.work.$get().await?;
            let done = async {
                $self.shared.ensure(&db, $names).await?;
                let $session = &$crate::store::postgres::session::Session::begin(&db, &$self.shared).await?;
                let done = $work.await?;
                $session.speak().await?;
                Ok(done)
            };
            let done = done.await;
            match $crate::store::postgres::session::end(&db, &$self.shared, done).await {
                Some(answer) => break answer,
                None if left == 0 => break Err($crate::store::Error::Full("others wrote the same at the same time".into())),
                None => left -= 1,
            }
        }
    }};
}
pub(super) use locked;

/// How often a transaction is made again that the server undid for another's sake.
pub(super) const AGAIN: u32 = 10;

/// Reads by `$work` over a connection of `$pool`; once more when that connection turned out to be lost.
macro_rules! read {
    ($self:ident . $pool:ident, |$db:ident| $work:expr) => {{
        let mut first = true;
        loop {
            let held = $self.$pool.get().await?;
            let $db = &held;
            match $work.await {
                Ok(answer) => break Ok(answer),
                Err(error) if first && error.is_closed() => first = false,
                Err(error) => break Err($crate::store::postgres::session::broken($db, &error)),
            }
        }
    }};
}
pub(super) use read;

/// What the probe writes lies under this key of the settings.
pub(super) const PROBE: &str = "probe";
/// How much it writes: a large event. A row alone tells nothing: it still fits where no event does.
const PROBE_BYTES: usize = 64 * 1024;

/// Writes as much as an event, to see whether it can be, and looks whether there is room for one.
pub(super) async fn probe(session: &Session<'_>) -> super::connect::Answer<()> {
    session.db.run("UPDATE identity SET probed_at = $1", &[&session.now]).await?;
    let noise: String = (0..PROBE_BYTES).map(|_| fastrand::alphanumeric()).collect();
    super::people::set_setting(session.db, PROBE, &noise).await?;
    super::prune::make_room(session).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_when_an_answer_that_came_soon_shows_it() {
        let (words, recent) = (crate::store::held::Words::default(), crate::store::held::Recent::default());
        let reading = Reading { salt: 7, words, recent };
        let shared = Shared::new(reading, Clock::manual("2026-01-20T12:00:00Z"), 0);
        let says = |there, before, after| {
            shared.shows(there, before, after);
            shared.differs.load(Ordering::Relaxed)
        };
        assert!(!says(10_400, 10_000, 10_800), "it came from the middle");
        assert!(!says(15_000, 10_000, 15_010), "it was under way for too long to tell");
        assert!(says(11_500, 10_000, 10_010) && says(8_000, 10_000, 10_010));
        assert!(says(10_000, 5_000, 10_010), "likewise");
        assert!(!says(10_900, 10_000, 10_010));
    }
}
