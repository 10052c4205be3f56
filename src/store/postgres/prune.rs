//! Removing what is kept no longer, in slices that hold up nobody else's commit for long, and making room when the store
//! has reached its limit. The rules are those of `delivery.md`, "Retention".
//!
//! What is in use is counted as it comes and goes ([`super::recount`]): the files of a database do not shrink, and hold its other tables.

use std::{
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    ahead,
    connect::{Answer, Pg},
    digest, ending, lanes,
    partitions::{self, Cutoffs, Layout, Pace},
    people,
    recount::Recounts,
    rows::Cells,
    session::{Session, Shared},
    throttle,
};
use crate::{
    clock::{Timestamp, earlier, to_ms},
    envelope::Name,
    route::OWN_SOURCE,
    store::{
        Cause, Error, Pruned, Retention, Stage,
        codes::{cause_code, stage},
    },
};

/// Rows of each kind that one call looks at.
const SLICE: i64 = 500;
/// Hundredths of `max_bytes` that early removal leaves in use: what is above is the room that new events come into.
const FILL_GOAL: u64 = 90;
/// How long the key of a hash id is kept further while its event is held.
const HASH_KEPT_ON_MS: i64 = 24 * 60 * 60 * 1000;

/// What is known about the space left. Only memory: what a transaction that came to nothing has moved on here is walked over the next
/// time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Room {
    /// `store.max_bytes`, as the last call of [`prune`] said.
    limit: Option<u64>,
    /// A whole sweep found nothing to remove and the limit is reached.
    pub(super) exhausted: bool,
    pub(super) recounts: Recounts,
    sweep: Sweep,
    walk: Walk,
    pub(super) pace: Pace,
}

/// A walk over all events, oldest first, a slice at a time.
#[derive(Debug, Clone, Copy, Default)]
struct Sweep {
    /// The last event that was looked at.
    at: i64,
    /// The walk removed something, or passed events that would have been removed early.
    fruitful: bool,
}

/// How many bytes may be in use, in all.
pub(super) fn limit(shared: &Shared) -> Option<i64> {
    let room = shared.room.lock().unwrap_or_else(PoisonError::into_inner);
    room.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

fn room<'s>(session: &'s Session<'_>) -> MutexGuard<'s, Room> {
    session.shared.room.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a slice of everything that `retention` no longer keeps; see [`crate::store::Store::prune`].
pub(super) async fn prune(
    session: &Session<'_>,
    now: Timestamp,
    retention: &Retention,
    held: &[(Name, Timestamp)],
) -> Answer<Pruned> {
    let before = |kept: Duration| to_ms(earlier(now, kept));
    room(session).limit = retention.max_bytes;
    ahead::look(session, to_ms(now)).await?;
    let given_up = give_up(session, held, before(retention.events), to_ms(now)).await?;
    let own_given_up = own(session, &given_up).await?;
    let dead = dead_letters(session, before(retention.dead_letters)).await?;
    let own_dead_letters = own(session, &dead).await?;
    remove_deliveries(session, &dead).await?;
    let freed = free(session, &dead, before(retention.events)).await?;
    let rejections = rejections(session, before(retention.rejections)).await?;
    let keys = keys(session, to_ms(now)).await?;
    let steps = replays(session, before(retention.events)).await?;
    let entries = people::forget(session, before(retention.audit), before(retention.events)).await?;
    let windows = ending::prune(session, before(retention.events), to_ms(now)).await?;
    let layout = Layout::read(session.db, session.shared, now).await?;
    let sizes = room(session).pace.sizes;
    let cutoffs = layout.cutoffs(before(retention.events), retention.events, sizes);
    let swept = sweep(session, &cutoffs, retention.max_bytes.map(goal)).await?;
    let full = |removed: u64| SLICE.cast_unsigned() <= removed;
    Ok(Ok(Pruned {
        events: freed + swept.events,
        dead_letters: dead.len() as u64,
        own_dead_letters,
        rejections,
        keys: keys.removed,
        given_up: given_up.len() as u64,
        own_given_up,
        more: !swept.ended
            || windows
            || entries
            || keys.more
            || [steps, given_up.len() as u64, dead.len() as u64, rejections].into_iter().any(full),
        used: used(session),
    }))
}

/// How many of the deliveries at `places` are of the relay's own events.
async fn own(session: &Session<'_>, places: &[i64]) -> Pg<u64> {
    if places.is_empty() {
        return Ok(0);
    }
    let sql = "SELECT count(*) FROM unnest($1::bigint[]) AS p (place) JOIN events e ON e.seq = p.place >> 16 WHERE e.source = $2";
    session.db.first(sql, &[&places, &OWN_SOURCE]).await?.map_or(Ok(0), |row| Cells::of(&row).amount())
}

fn goal(limit: u64) -> u64 {
    limit / 100 * FILL_GOAL
}

/// Ok when a new event may come in. At the limit, the oldest finished events go first; when none is left, refuses.
pub(super) async fn make_room(session: &Session<'_>) -> Answer<()> {
    let Some(limit) = room(session).limit else { return Ok(Ok(())) };
    let there_is = match session.had_room.get() {
        Some(there_is) => *there_is,
        None => {
            let there_is = look_for_room(session, limit).await?;
            *session.had_room.get_or_init(|| there_is)
        }
    };
    Ok(if there_is { Ok(()) } else { Err(no_room(limit)) })
}

async fn look_for_room(session: &Session<'_>, limit: u64) -> Pg<bool> {
    if limit <= used(session) {
        sweep(session, &Cutoffs::none(), Some(goal(limit))).await?;
    }
    let mut room = room(session);
    if used(session) < limit {
        room.exhausted = false;
    }
    Ok(!room.exhausted)
}

fn no_room(limit: u64) -> Error {
    Error::Full(format!("`store.max_bytes` ({limit} bytes) is reached and nothing finished is left to remove"))
}

fn used(session: &Session<'_>) -> u64 {
    session.used.load(Ordering::Relaxed).max(0).cast_unsigned()
}

/// Deliveries that have been due since before `cutoff`, of a lane that stands still. What a digest has gathered goes with its carrier.
pub(super) const GIVE_UP: &str =
    "UPDATE deliveries SET state = 2, cause = $3::bigint, due_at = NULL, settled_at = $4 WHERE place IN (
    SELECT place FROM deliveries WHERE state = 0 AND target_id = $1 AND turn IN (0, 1, 2) AND due_at < $2 LIMIT $5)
    RETURNING place, order_key, stage";

/// Gives up what lanes held since before `cutoff` have held for that long; gives its places. Being due is being held there: a
/// delivery that a person has retried since is not given up for its age.
async fn give_up(session: &Session<'_>, held: &[(Name, Timestamp)], cutoff: i64, now: i64) -> Pg<Vec<i64>> {
    let mut given_up = Vec::new();
    for (target, _) in held.iter().filter(|(_, since)| to_ms(*since) < cutoff) {
        let target = session.target(target).await?;
        let left = SLICE - i64::try_from(given_up.len()).unwrap_or(SLICE);
        let dead = session.db.rows(GIVE_UP, &[&target, &cutoff, &cause_code(Cause::Config), &now, &left]).await?;
        let mut keys = Vec::new();
        for row in &dead {
            let mut cells = Cells::of(row);
            let place = cells.int()?;
            given_up.push(place);
            keys.extend(cells.some_key()?.map(|key| (target, key)));
            let stage = stage(cells.int()?);
            // A dead digest is one dead letter, which lists its events.
            if stage == Stage::Gathering {
                digest::close(session, place, now).await?;
            }
            if stage != Stage::Free {
                throttle::died(session, place, now).await?;
            }
        }
        lanes::move_up(session, keys).await?;
    }
    Ok(given_up)
}

/// Dead letters that died before a time and that nobody has settled: those go with their events.
pub(super) const DIED: &str = "SELECT d.place FROM targets t CROSS JOIN LATERAL (SELECT place FROM deliveries
        WHERE state = 2 AND resolved_at IS NULL AND target_id = t.id AND settled_at < $1 LIMIT $2) AS d LIMIT $2";

/// The places of dead letters that died before `cutoff`.
async fn dead_letters(session: &Session<'_>, cutoff: i64) -> Pg<Vec<i64>> {
    session.db.rows(DIED, &[&cutoff, &SLICE]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Removes the events of these dead letters that nothing else keeps.
async fn free(session: &Session<'_>, dead: &[i64], cutoff: i64) -> Pg<u64> {
    let mut seqs: Vec<i64> = dead.iter().map(|place| place >> 16).collect();
    seqs.sort_unstable();
    seqs.dedup();
    if seqs.is_empty() {
        return Ok(0);
    }
    let rows = session.db.rows(&format!("{CANDIDATES} {OF_DEAD}"), &[&seqs]).await?;
    let candidates = rows.iter().map(Candidate::read).collect::<Pg<Vec<_>>>()?;
    let gone: Vec<i64> = candidates.iter().filter(|it| it.finished && it.received_at < cutoff).map(|it| it.seq).collect();
    remove_events(session, &gone).await?;
    Ok(gone.len() as u64)
}

/// What decides whether an event goes. One with a delivery in a state that only a later version knows (above 6) does not.
pub(super) const CANDIDATES: &str = "SELECT e.seq, e.received_at, e.size, NOT EXISTS (SELECT 1 FROM deliveries d
    WHERE d.place BETWEEN e.seq << 16 AND (e.seq << 16) + 65535
        AND (d.state = 0 OR d.state > 6 OR d.state = 2 AND d.resolved_at IS NULL OR d.state = 5 AND EXISTS (SELECT 1 FROM deliveries c
            WHERE c.place = d.carrier AND (c.state = 0 OR c.state = 2 AND c.resolved_at IS NULL)))) FROM events e";
/// These of them.
pub(super) const OF_DEAD: &str = "JOIN unnest($1::bigint[]) AS u (at) ON u.at = e.seq";
/// A slice of them.
pub(super) const SWEEP: &str = "WHERE e.seq > $1 ORDER BY e.seq LIMIT $2";

struct Candidate {
    seq: i64,
    received_at: i64,
    size: i64,
    finished: bool,
}

impl Candidate {
    fn read(row: &tokio_postgres::Row) -> Pg<Self> {
        let mut cells = Cells::of(row);
        Ok(Self { seq: cells.int()?, received_at: cells.int()?, size: cells.int()?, finished: cells.take()? })
    }
}

/// What one step of the sweep did.
struct Swept {
    events: u64,
    /// The walk is through: the next step begins with the oldest again.
    ended: bool,
}

/// Walks on over the events by one slice: removes finished ones from before their of `cutoffs`, and while more than `goal` bytes are
/// in use, younger ones too.
async fn sweep(session: &Session<'_>, cutoffs: &Cutoffs, goal: Option<u64>) -> Pg<Swept> {
    let mut walk = room(session).sweep;
    let rows = session.db.rows(&format!("{CANDIDATES} {SWEEP}"), &[&walk.at, &SLICE]).await?;
    let slice = rows.iter().map(Candidate::read).collect::<Pg<Vec<_>>>()?;
    let mut left = session.used.load(Ordering::Relaxed);
    let over = |left: i64| goal.is_some_and(|goal| goal < left.max(0).cast_unsigned());
    walk.fruitful |= !over(left);
    // What a clock that was ahead took in goes by its own time, and keeps nothing behind it from going.
    let (now, mut gone, mut old) = (session.now, Vec::new(), false);
    for it in &slice {
        walk.at = it.seq;
        let is_old = it.received_at < cutoffs.of(it.seq);
        old |= is_old || now < it.received_at;
        if it.finished && (over(left) || is_old) {
            gone.push(it.seq);
            left -= it.size;
        }
    }
    walk.fruitful |= !gone.is_empty();
    remove_events(session, &gone).await?;
    let ended = slice.len() < usize::try_from(SLICE).unwrap_or(usize::MAX) || !(over(left) || old);
    let mut room = room(session);
    if ended {
        room.exhausted = !walk.fruitful && room.limit.unwrap_or(u64::MAX) <= used(session);
        walk = Sweep::default();
    }
    room.sweep = walk;
    Ok(Swept { events: gone.len() as u64, ended })
}

/// What belongs to deliveries between two places, and how many bytes of it were counted apart from their event.
pub(super) const ATTEMPTS: &str =
    "WITH gone AS (DELETE FROM attempts a USING unnest($1::bigint[], $2::bigint[]) AS u (first, last)
        WHERE a.place BETWEEN u.first AND u.last RETURNING octet_length(a.response) AS n)
    SELECT coalesce(sum(n), 0)::bigint FROM gone";
pub(super) const BODIES: &str = "WITH gone AS (DELETE FROM bodies b USING unnest($1::bigint[], $2::bigint[]) AS u (first, last)
        WHERE b.place BETWEEN u.first AND u.last RETURNING octet_length(b.body) + coalesce(octet_length(b.progress), 0) AS n)
    SELECT coalesce(sum(n), 0)::bigint FROM gone";
/// What was answered to deliveries, emptied; how many bytes of it there were.
const ANSWERS: &str =
    "WITH was AS (SELECT coalesce(sum(octet_length(response)), 0)::bigint AS n FROM attempts WHERE place = ANY($1)),
        gone AS (UPDATE attempts SET response = ''::bytea, detail = NULL WHERE place = ANY($1))
    SELECT n FROM was";
const REST: [&str; 3] = [
    "DELETE FROM handling h USING unnest($1::bigint[], $2::bigint[]) AS u (first, last) WHERE h.place BETWEEN u.first AND u.last",
    "DELETE FROM awaited w USING unnest($1::bigint[], $2::bigint[]) AS u (first, last) WHERE w.place BETWEEN u.first AND u.last",
    "DELETE FROM deliveries d USING unnest($1::bigint[], $2::bigint[]) AS u (first, last) WHERE d.place BETWEEN u.first AND u.last",
];

/// Removes events with everything that belongs to them; their dedupe keys stay.
pub(super) async fn remove_events(session: &Session<'_>, seqs: &[i64]) -> Pg<()> {
    if seqs.is_empty() {
        return Ok(());
    }
    let first: Vec<i64> = seqs.iter().map(|seq| seq << 16).collect();
    let last: Vec<i64> = first.iter().map(|first| first + 65535).collect();
    remove(session, &first, &last).await?;
    let freed = partitions::remove_rows(session.db, seqs).await?;
    session.used.fetch_sub(freed, Ordering::Relaxed);
    Ok(())
}

/// Removes the deliveries at `places` with their attempts and bodies.
async fn remove_deliveries(session: &Session<'_>, places: &[i64]) -> Pg<()> {
    if places.is_empty() { Ok(()) } else { remove(session, places, places).await }
}

async fn remove(session: &Session<'_>, first: &[i64], last: &[i64]) -> Pg<()> {
    let mut freed = 0;
    for sql in [ATTEMPTS, BODIES] {
        freed += session.db.first(sql, &[&first, &last]).await?.map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    }
    for sql in REST {
        session.db.run(sql, &[&first, &last]).await?;
    }
    less(session, freed).await
}

/// So many bytes are in use no more.
async fn less(session: &Session<'_>, freed: i64) -> Pg<()> {
    if freed != 0 {
        session.db.run("UPDATE usage SET bytes = bytes - $1 WHERE slot = 0", &[&freed]).await?;
        session.used.fetch_sub(freed, Ordering::Relaxed);
    }
    Ok(())
}

/// Removes the bodies of the deliveries at `places`, and empties what was answered to their attempts.
pub(super) async fn remove_made(session: &Session<'_>, places: &[i64]) -> Pg<()> {
    let mut freed = 0;
    for (sql, ends) in [(BODIES, &[&places, &places][..]), (ANSWERS, &[&places])] {
        let ends: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = ends.iter().map(|it| *it as _).collect();
        freed += session.db.first(sql, &ends).await?.map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    }
    less(session, freed).await
}

async fn rejections(session: &Session<'_>, cutoff: i64) -> Pg<u64> {
    let sql = "WITH old AS (SELECT id FROM rejections WHERE at < $1 ORDER BY at LIMIT $2),
            kept AS (DELETE FROM quarantine WHERE id IN (SELECT id FROM old))
        DELETE FROM rejections WHERE id IN (SELECT id FROM old)";
    session.db.run(sql, &[&cutoff, &SLICE]).await
}

/// Forgets steps of replays from before `cutoff`, as if their events were gone; the oldest have the lowest ids.
async fn replays(session: &Session<'_>, cutoff: i64) -> Pg<u64> {
    let sql = "DELETE FROM replays WHERE at < $1 AND id IN (SELECT id FROM replays ORDER BY id LIMIT $2)";
    session.db.run(sql, &[&cutoff, &SLICE]).await
}

struct Keys {
    removed: u64,
    more: bool,
}

/// A walk over the dedupe keys, in their order, a slice at a time.
#[derive(Debug, Clone, Copy)]
enum Walk {
    /// Behind this key.
    At([u8; 16]),
    /// It is over; the next one begins at this time.
    Over(i64),
}

impl Default for Walk {
    fn default() -> Self {
        Self::Over(i64::MIN)
    }
}

/// Keys that one call looks at.
const KEYS_SLICE: i64 = 4000;
/// Time from the end of one walk over the keys to the next.
const WALK_EVERY_MS: i64 = 60 * 60 * 1000;

/// A slice of the keys, and which of them have had their time. (EXISTS would have all events hashed for it.)
pub(super) const KEYS: &str = "SELECT key, forget_at <= $3,
        forget_at <= $3 AND hashed AND (SELECT true FROM events e WHERE e.seq = dedupe.seq) IS NOT NULL
    FROM dedupe WHERE key > $1 ORDER BY key LIMIT $2";

/// Forgets dedupe keys: a slice at each call, and on and on (`more`) only while that pays, so that a walk over millions of keys
/// holds nobody up; what is forgotten late costs room, and no answer. The key of a hash id stays while its event is held: without it the
/// same bytes would come in under the very same id.
async fn keys(session: &Session<'_>, now: i64) -> Pg<Keys> {
    let walk = room(session).walk;
    let after = match walk {
        Walk::At(key) => key,
        Walk::Over(next) if now < next => return Ok(Keys { removed: 0, more: false }),
        Walk::Over(_) => [0; 16],
    };
    let slice = session.db.rows(KEYS, &[&&after[..], &KEYS_SLICE, &now]).await?;
    let (mut last, mut due, mut held) = (None, Vec::new(), Vec::new());
    for row in &slice {
        let mut cells = Cells::of(row);
        let key = cells.some_key()?.unwrap_or_default();
        last = Some(key);
        match (cells.take()?, cells.take()?) {
            (true, true) => held.push(key),
            (true, false) => due.push(key),
            (false, _) => {}
        }
        if usize::try_from(SLICE).is_ok_and(|most| most <= due.len() + held.len()) {
            break;
        }
    }
    let more = usize::try_from(SLICE).is_ok_and(|most| most <= due.len() + held.len());
    let bytes = |keys: &[[u8; 16]]| keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>();
    if !held.is_empty() {
        let later = now.saturating_add(HASH_KEPT_ON_MS);
        session.db.run("UPDATE dedupe SET forget_at = $2 WHERE key = ANY($1)", &[&bytes(&held), &later]).await?;
    }
    let removed = match due.is_empty() {
        true => 0,
        false => session.db.run("DELETE FROM dedupe WHERE key = ANY($1)", &[&bytes(&due)]).await?,
    };
    room(session).walk = match last {
        Some(last) if more || i64::try_from(slice.len()).is_ok_and(|count| count == KEYS_SLICE) => Walk::At(last),
        _ => Walk::Over(now.saturating_add(WALK_EVERY_MS)),
    };
    Ok(Keys { removed, more })
}
