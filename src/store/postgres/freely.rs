//! Recording attempts of deliveries that are in nobody's way: a batch is one statement, which is a commit of its own and waits for nobody;
//! the next one may be sent behind it. It writes all of the batch or nothing: what is no such attempt goes under the lock
//! ([`super::record`]).

use std::sync::Arc;

use super::{
    batch::Came,
    bodies::Bodies,
    connect::{Db, Pg, is_refusal},
    record::{self, Record, Rows},
    session::{Shared, broken, waited},
};

/// What may be recorded freely: attempts at deliveries that wait, that nobody stands behind, and whose death no throttle knows of, by
/// today's owner. The cast keeps the index of what waits out of it: once the server has counted when nothing waited, it takes walking
/// through all that waits for cheaper than looking for a few places.
macro_rules! free {
    () => {
        concat!("d.state::int = 0 AND d.order_key IS NULL AND (a.outcome <> 2 OR d.stage = 0) AND ", record::todays!())
    };
}

/// One row where all ($16) are recorded, none where nothing was. What changed between the look and the writing undoes it all: dividing
/// by nothing is an error. `$more`: bodies, and the bytes that they and the answers ($22) add to what is in use.
macro_rules! freely {
    ($($more:literal)?) => {
        concat!(
            "WITH ", record::given!(), ",
        fit AS (SELECT true AS all_of_them FROM (SELECT count(*) AS n FROM a JOIN deliveries d ON d.place = a.place WHERE ", free!(), ") AS c
            WHERE c.n = $16::bigint),
        moved AS (", record::left!(), " FROM fit CROSS JOIN a WHERE d.place = a.place AND ", free!(), " RETURNING a.*),
        kept AS (INSERT INTO attempts (place, number, started_at, duration_us, status, error, detail, outcome, cause, retry_at,
                response, counts, epoch)
            SELECT place, number, started_at, duration_us, status, error, detail, outcome, cause, due_at, response, counts, epoch
            FROM moved)",
            $($more,)?
            " SELECT 1 / CASE WHEN (SELECT count(*) FROM moved) = $16::bigint THEN 1 ELSE 0 END FROM fit"
        )
    };
}

pub(super) const FREELY: &str = freely!();
pub(super) const FREELY_WITH: &str = freely!(
    ", made AS (INSERT INTO bodies (place, content_type, body, reached)
            SELECT u.* FROM fit CROSS JOIN unnest($17::bigint[], $18::text[], $19::bytea[], $20::bool[])
                AS u (place, content_type, body, reached) ON CONFLICT DO NOTHING RETURNING octet_length(body) AS n),
        counted AS (UPDATE usage SET bytes = bytes + $22::int + (SELECT coalesce(sum(n), 0)::bigint FROM made)
            FROM fit WHERE slot = $21::smallint)"
);

/// Has the statements ready, so that [`record`] sends with its first poll.
pub(super) async fn prepare(db: &Db) -> Pg<()> {
    for sql in [FREELY, FREELY_WITH] {
        db.statement(sql).await?;
    }
    Ok(())
}

/// Records the attempts of `batch`, of which no two are of one delivery.
pub(super) async fn record(db: Arc<Db>, shared: Arc<Shared>, batch: Vec<Record>) -> (Vec<Record>, Came) {
    let mark = db.mark();
    let came = match write(&db, &shared, &batch).await {
        Ok(true) => waited(&db, &shared, mark).map_or_else(Came::Failed, |()| Came::Done),
        Ok(false) => Came::NeedsCare,
        Err(error) if is_refusal(&error) => Came::Failed(broken(&db, &error)),
        // Somebody changed one of them at the same moment, or one is recorded already: the other way finds out which.
        Err(_) => Came::NeedsCare,
    };
    (batch, came)
}

async fn write(db: &Db, shared: &Shared, batch: &[Record]) -> Pg<bool> {
    let attempts = record::of(batch, shared.reading.salt);
    let (first, _) = record::rounds(&attempts);
    let rows = Rows::of(&first, shared.now());
    let (bodies, bytes, slot) = (Bodies::of(&first), record::answered(&first), shared.slot());
    let count = first.len() as i64;
    let mut params = rows.params().to_vec();
    params.push(&count);
    let sql = if bytes == 0 && bodies.is_empty() {
        FREELY
    } else {
        params.extend(bodies.params());
        params.extend([&slot as &(dyn tokio_postgres::types::ToSql + Sync), &bytes]);
        FREELY_WITH
    };
    let statement = db.statement(sql).await?;
    Ok(!db.rows_of(&statement, &params).await?.is_empty())
}
