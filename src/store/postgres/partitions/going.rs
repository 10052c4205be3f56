//! How a partition goes: what has to stay of it is found and what goes is counted while nobody waits; then, in one transaction, it is taken
//! away, what stays is put into the rest, and its tables are dropped.

use std::{collections::HashSet, time::Instant};

use super::{
    super::super::codes::EXPIRED,
    super::connect::{Db, Pg},
    Partition, REST, Sizes, TABLES, alone_with, is_alone, within,
};

/// Rows that are moved at once,
const MOVED_ROWS: i64 = 20_000;
/// and bytes: some tenths of a second, for which everybody waits.
pub(super) const MOVED_BYTES: i64 = 64 * 1024 * 1024;

/// What a try to drop a partition came to.
pub(super) enum Came {
    /// It is gone, with so many events.
    Gone(u64),
    /// Too much of it has to stay: slices are to remove the rest of it.
    TooMuch,
    /// Somebody else is at it, or something came in between.
    NotNow,
}

/// Drops a partition, and moves what has to stay: all of it where only little is `left`, or what is not finished.
pub(super) async fn drop_one(db: &Db, it: &Partition, left: bool, sizes: Sizes) -> Pg<Came> {
    let number = it.number;
    let mut moved = 0;
    let came = within(db, async {
        if !is_alone(db).await? || !is_there(db, number).await? {
            return Ok(Came::NotNow);
        }
        let stays = if left { what_is_left(db, number, sizes.left).await? } else { what_stays(db, number, sizes.moved).await? };
        let Some(stays) = stays else {
            if !left {
                db.run("UPDATE partitions SET sliced = true WHERE number = $1 AND NOT sliced", &[&number]).await?;
            }
            return Ok(Came::TooMuch);
        };
        let goes = if left { Goes::nothing_of(&stays) } else { Goes::of(db, number, &stays).await? };
        let began = Instant::now();
        // Before them: whoever takes events in asks for this one first, and has none of the others while he waits for it.
        alone_with(db, "identity", "EXCLUSIVE").await?;
        alone_with(db, &TABLES.map(|(table, _)| format!("ONLY {table}")).join(", "), "ACCESS EXCLUSIVE").await?;
        if !is_as_it_was(db, it, &stays).await? {
            return Ok(Came::NotNow);
        }
        let kept = replace(db, number, &stays, goes.made).await?;
        moved = kept;
        let (events, paused_ms) = ((goes.events - kept).max(0), began.elapsed().as_millis());
        tracing::info!(partition = number, events, kept, paused_ms, "dropped a partition of events");
        Ok(Came::Gone(events.cast_unsigned()))
    });
    let came = came.await?;
    if moved != 0 {
        // What is asked all the time is planned by how large tables are. Without this it is counted a minute later.
        let tables = TABLES.map(|(table, _)| format!("{table}_rest")).join(", ");
        if let Err(error) = db.script(&format!("ANALYZE {tables}")).await {
            tracing::debug!(%error, "the rest was not counted");
        }
    }
    Ok(came)
}

async fn is_there(db: &Db, number: i64) -> Pg<bool> {
    db.first("SELECT 1 FROM partitions WHERE number = $1 AND ended_at IS NOT NULL", &[&number]).await.map(|row| row.is_some())
}

/// Every event of a partition; `None` when there are more than `most`.
async fn what_is_left(db: &Db, number: i64, most: i64) -> Pg<Option<Vec<i64>>> {
    let sql = format!("SELECT seq FROM events_p{number} ORDER BY seq LIMIT {}", most + 1);
    let rows = db.rows_once(&sql, &[]).await?;
    let seqs: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<Pg<_>>()?;
    few(db, number, seqs, most).await
}

/// Events of a partition with a delivery that is not final, or an unresolved dead letter, or that went out inside one of these; `None`
/// when there are more than `most`.
async fn what_stays(db: &Db, number: i64, most: i64) -> Pg<Option<Vec<i64>>> {
    let Some(mut stays) = live(db, number).await? else { return Ok(None) };
    let sql = format!(
        "SELECT d.place FROM deliveries_p{number} d JOIN deliveries c ON c.place = d.carrier
        WHERE d.carrier IS NOT NULL AND d.state = 5 AND (c.state = 0 OR c.state = 2 AND c.resolved_at IS NULL)"
    );
    let Some(carried) = events_of(db, &[&sql]).await? else { return Ok(None) };
    stays.extend(carried);
    few(db, number, stays.into_iter().collect(), most).await
}

/// Events of a partition with a delivery that is not final, or in a state that only a later version knows, or an unresolved dead letter;
/// `None` when there are too many.
async fn live(db: &Db, number: i64) -> Pg<Option<HashSet<i64>>> {
    let pending = format!("SELECT place FROM deliveries_p{number} WHERE state = 0");
    let dead = format!("SELECT place FROM deliveries_p{number} WHERE state = 2 AND resolved_at IS NULL");
    // By the words of the index.
    let unknown = format!("SELECT place FROM deliveries_p{number} WHERE state > 3 AND state > {EXPIRED}");
    events_of(db, &[&pending, &dead, &unknown]).await
}

/// The events of the places that `selects` find; `None` when these are more than may be moved.
async fn events_of(db: &Db, selects: &[&str]) -> Pg<Option<HashSet<i64>>> {
    let mut seqs = HashSet::new();
    for select in selects {
        let rows = db.rows_once(&format!("{select} LIMIT {}", MOVED_ROWS + 1), &[]).await?;
        if usize::try_from(MOVED_ROWS).is_ok_and(|most| most < rows.len()) {
            return Ok(None);
        }
        for row in &rows {
            seqs.insert(row.try_get::<_, i64>(0)? >> 16);
        }
    }
    Ok(Some(seqs))
}

/// What of these events belongs to them in one of a partition's tables.
fn belongs(table: &str, number: i64) -> String {
    format!("unnest($1::bigint[]) AS s (seq) JOIN {table}_p{number} b ON b.place BETWEEN s.seq << 16 AND (s.seq << 16) + 65535")
}

/// `seqs`, unless there are more than `most`, or more belongs to them than may be moved.
async fn few(db: &Db, number: i64, seqs: Vec<i64>, most: i64) -> Pg<Option<Vec<i64>>> {
    if usize::try_from(most).is_ok_and(|most| most < seqs.len()) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT (SELECT count(*) FROM {}) + (SELECT count(*) FROM {}),
            (SELECT coalesce(sum(e.size), 0)::bigint FROM unnest($1::bigint[]) AS s (seq) JOIN events_p{number} e ON e.seq = s.seq)
            + (SELECT coalesce(sum(octet_length(b.body)), 0)::bigint FROM {})",
        belongs("deliveries", number),
        belongs("attempts", number),
        belongs("bodies", number)
    );
    let rows = db.rows_once(&sql, &[&seqs]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (rows, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok((rows <= MOVED_ROWS && bytes <= MOVED_BYTES).then_some(seqs))
}

/// Whether nothing was removed from a partition since it was looked at, and nothing woken that does not stay: a replay does that, or a
/// throttle's window.
async fn is_as_it_was(db: &Db, it: &Partition, stays: &[i64]) -> Pg<bool> {
    let bytes = db.first("SELECT bytes FROM partitions WHERE number = $1", &[&it.number]).await?;
    if bytes.map(|row| row.try_get::<_, i64>(0)).transpose()? != Some(it.bytes) {
        return Ok(false);
    }
    let stays: HashSet<i64> = stays.iter().copied().collect();
    Ok(live(db, it.number).await?.is_some_and(|live| live.is_subset(&stays)))
}

/// What goes with a partition.
struct Goes {
    /// Its events, those that stay among them.
    events: i64,
    /// Bytes of bodies and answers, without those that stay.
    made: i64,
}

impl Goes {
    /// All of it stays.
    fn nothing_of(stays: &[i64]) -> Self {
        Self { events: i64::try_from(stays.len()).unwrap_or(i64::MAX), made: 0 }
    }

    /// Counts it: one walk over its tables, while nobody waits.
    async fn of(db: &Db, number: i64, stays: &[i64]) -> Pg<Self> {
        let goes = "NOT EXISTS (SELECT 1 FROM unnest($1::bigint[]) AS s (seq) WHERE s.seq = b.place >> 16)";
        let sql = format!(
            "SELECT (SELECT count(*) FROM events_p{number}),
                (SELECT coalesce(sum(octet_length(response)), 0)::bigint FROM attempts_p{number} b WHERE {goes})
                + (SELECT coalesce(sum(octet_length(body) + coalesce(octet_length(progress), 0)), 0)::bigint
                    FROM bodies_p{number} b WHERE {goes})"
        );
        db.script("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on").await?;
        let rows = db.rows_once(&sql, &[&stays]).await?;
        db.script("SET LOCAL enable_seqscan = off").await?;
        match rows.first() {
            Some(row) => Ok(Self { events: row.try_get(0)?, made: row.try_get(1)? }),
            None => Ok(Self { events: 0, made: 0 }),
        }
    }
}

/// Takes the partition away, puts what stays into the rest, and counts what is in use; answers how many events stay.
async fn replace(db: &Db, number: i64, stays: &[i64], made: i64) -> Pg<i64> {
    db.script(&TABLES.map(|(table, _)| format!("ALTER TABLE {table} DETACH PARTITION {table}_p{number};")).concat()).await?;
    let sql = format!(
        "WITH moved AS (INSERT INTO events_rest SELECT e.* FROM unnest($1::bigint[]) AS s (seq) JOIN events_p{number} e
            ON e.seq = s.seq RETURNING size) SELECT count(*), coalesce(sum(size), 0)::bigint FROM moved"
    );
    let (mut kept, mut bytes): (i64, i64) = (0, 0);
    if !stays.is_empty() {
        if let Some(row) = db.rows_once(&sql, &[&stays]).await?.first() {
            (kept, bytes) = (row.try_get(0)?, row.try_get(1)?);
        }
        for (table, _) in TABLES.into_iter().filter(|(_, digits)| *digits != 0) {
            let sql = format!("INSERT INTO {table}_rest SELECT b.* FROM {}", belongs(table, number));
            db.rows_once(&sql, &[&stays]).await?;
        }
    }
    db.script(&TABLES.map(|(table, _)| format!("DROP TABLE {table}_p{number};")).concat()).await?;
    let sql = "WITH gone AS (DELETE FROM partitions WHERE number = $1 RETURNING bytes),
            rest AS (UPDATE partitions SET bytes = bytes + $2 WHERE number = $3),
            made AS (UPDATE usage SET bytes = bytes - $4 WHERE slot = 0)
        UPDATE identity SET used = used + $2 - (SELECT bytes FROM gone)";
    db.run(sql, &[&number, &bytes, &REST, &made]).await?;
    Ok(kept)
}
