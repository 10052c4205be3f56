//! What is asked all the time is found without a walk over what is stored, however much that is.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    super::{partitions::SHIFT, *},
    client, url_of,
};
use crate::clock::from_ms;

/// Deliveries of a large store and of a small one; a fifth goes to each of [`TARGETS`], and of each half waits.
const MANY: i64 = 1_000_000;
const FEW: i64 = 1_000;
const TARGETS: i64 = 5;
/// Partitions over which a large store is spread, the last of which is the rest.
const PARTITIONS: i64 = 9;
/// When the first of them were planned, in ms.
const AT: i64 = 1_768_910_400_000;
/// How often lanes ask in the comparison, of each store in turn.
const ROUNDS: usize = 120;
/// How many they ask for.
const ASKED: u32 = 64;

/// Fills a store with `deliveries`, as a day's traffic would, evenly over so many partitions.
async fn fill(client: &tokio_postgres::Client, deliveries: i64, spread: i64) {
    let events = deliveries / TARGETS;
    let seq = format!("(((n - 1) * {spread} / {events} << {SHIFT}) + n)");
    for number in 1..spread - 1 {
        client.batch_execute(&partitions::make(number)).await.unwrap();
    }
    let load = format!(
        "INSERT INTO targets (name, shard) SELECT 't' || k, k FROM generate_series(1::bigint, {TARGETS}::bigint) AS k ORDER BY k;
        INSERT INTO events (seq, id, source, kind, type, namespace, time, timestamp, received_at, replayed, data_start, data_len, rules,
                deliveries, size, body)
            SELECT {seq}, 'evt_' || n, 'interactor', 'interactor', 'credential.expired', 'user_' || n % 1000, '2026-01-20T12:00:00Z',
                '2026-01-20T12:00:00Z', {AT} + n, false, 0, 2, '[\"all\"]', {TARGETS}, 1000,
                convert_to('{{\"n\":' || n || ',\"p\":\"' || repeat('x', 200) || '\"}}', 'UTF8') FROM generate_series(1::bigint, {events}::bigint) AS n;
        INSERT INTO deliveries (place, target_id, created_at, due_at, settled_at, first_attempt_at, attempts, state, turn, order_key, rule)
            SELECT ({seq} << 16) + k, k, {AT} + n, CASE WHEN n % 2 = 0 THEN {AT} + n END, CASE WHEN n % 2 = 1 THEN {AT} + n + 1 END,
                CASE WHEN n % 3 = 0 THEN {AT} + n END, CASE WHEN n % 2 = 1 THEN 1 ELSE 0 END,
                CASE WHEN n % 2 = 0 THEN 0 WHEN n % 101 = 0 THEN 2 WHEN n % 11 = 0 THEN 4 ELSE 1 END,
                CASE WHEN k = {TARGETS} AND n > 1000 THEN 2 WHEN k = 4 AND n % 50 = 0 THEN 4 ELSE 1 END,
                CASE WHEN k = {TARGETS} THEN decode(md5((n % 1000)::text), 'hex') END, 'all'
            FROM generate_series(1::bigint, {events}::bigint) AS n CROSS JOIN generate_series(1::bigint, {TARGETS}::bigint) AS k;
        INSERT INTO attempts (place, number, started_at, duration_us, status, outcome, response)
            SELECT place, 1, created_at, 1000, 200, 1, '' FROM deliveries WHERE state = 1;
        INSERT INTO dedupe (key, body, seq, seen_at, hashed, forget_at)
            SELECT decode(md5(n::text), 'hex'), decode(md5(n::text), 'hex'), {seq}, {AT} + n, false, {AT} + 604800000
            FROM generate_series(1::bigint, {events}::bigint) AS n;
        UPDATE deliveries SET cause = 3 WHERE state = 4;
        INSERT INTO handling (place, plan, cancels) SELECT place, '{{}}', 0 FROM deliveries WHERE state IN (0, 4) AND place % 3 = 0;
        INSERT INTO bodies (place, content_type, body)
            SELECT place, 'application/json', '{{}}' FROM deliveries WHERE state = 0 AND first_attempt_at IS NOT NULL;
        INSERT INTO awaited (key, place) SELECT decode(md5(place::text), 'hex'), place FROM deliveries WHERE state = 0 AND place % 7 = 0;
        INSERT INTO throttled (target_id, key, suppressed, at, place, keep_until)
            SELECT target_id, decode(md5((place % 1000)::text), 'hex'), state = 4, created_at, place, created_at + 86400000
            FROM deliveries WHERE state IN (1, 4) AND place % 5 = 0;
        INSERT INTO digests (target_id, key, carrier, ends_at, gathered)
            SELECT 1, decode(md5(place::text), 'hex'), place, created_at, 1 FROM deliveries WHERE state = 0 AND target_id = 1 AND place % 9 = 0;
        UPDATE identity SET last_seq = (SELECT max(seq) FROM events)"
    );
    client.batch_execute(&load).await.unwrap();
    // As the server does by itself within a minute: whether it has done so yet is not what is measured.
    let tables = "events, deliveries, attempts, bodies, handling, dedupe, awaited, throttled, digests, targets, identity";
    client.batch_execute(&format!("VACUUM ANALYZE {tables}")).await.unwrap();
}

/// How PostgreSQL runs `sql` for those that ask the same all the time.
async fn plan(client: &tokio_postgres::Client, sql: &str) -> String {
    let params = client.prepare(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).params().len();
    let values = if params == 0 { String::new() } else { format!("({})", vec!["NULL"; params].join(", ")) };
    client.batch_execute(&format!("PREPARE asked AS {sql}")).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = client.query(&format!("EXPLAIN (COSTS OFF) EXECUTE asked{values}"), &[]).await.unwrap();
    client.batch_execute("DEALLOCATE asked").await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

/// What `plan` does that takes longer the more is stored: a walk over a table or over a whole index.
fn walks(plan: &str) -> Vec<String> {
    // As many rows as there are shards, targets, partitions or connections at most.
    const BOUNDED: [&str; 6] = ["identity", "usage", "partitions", "shards", "owners", "targets"];
    let lines: Vec<&str> = plan.lines().map(str::trim).collect();
    let bounded = |line: &str| {
        let table = line.split(" on ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        BOUNDED.contains(&table)
    };
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let whole_table = line.contains("Seq Scan on");
        let by_index = ["Index Scan using", "Index Only Scan using", "Bitmap Index Scan on"].iter().any(|how| line.contains(how));
        let whole_index = by_index && !lines.get(n + 1).is_some_and(|next| next.starts_with("Index Cond"));
        if (whole_table || whole_index) && !bounded(line) {
            found.push((*line).to_owned());
        }
    }
    found
}

/// Every statement that takes in, claims, decides and records, and of those that run every few seconds.
fn hot() -> Vec<(&'static str, String)> {
    let named: &[(&str, &str)] = &[
        ("session::LOCK", session::LOCK),
        ("accept::KNOWN", accept::KNOWN),
        ("accept::COUNT", accept::COUNT),
        ("insert::EVENTS", insert::EVENTS),
        ("insert::DELIVERIES", insert::DELIVERIES),
        ("insert::PLANS", insert::PLANS),
        ("insert::AWAITED", insert::AWAITED),
        ("insert::KEYS", insert::KEYS),
        ("lanes::HEADS", lanes::HEADS),
        ("lanes::MOVE_UP", lanes::MOVE_UP),
        ("lanes::MOVE_WAITING", lanes::MOVE_WAITING),
        ("lanes::MOVE_DEAD", lanes::MOVE_DEAD),
        ("ending::RESET", ending::RESET),
        ("ending::NAMED", ending::NAMED),
        ("ending::OLD", ending::OLD),
        ("ending::ROUSE", ending::ROUSE),
        ("due::QUEUES", due::QUEUES),
        ("due::NEXT_DUE", due::NEXT_DUE),
        ("due::OLDEST", due::OLDEST),
        ("due::MADE", due::MADE),
        ("due::EVENTS", due::EVENTS),
        ("query::WAITING", query::WAITING.one),
        ("query::DEAD", query::DEAD.one),
        ("query::CARRIED", query::CARRIED),
        ("decide::WAITING", decide::WAITING),
        ("decide::SET_ASIDE", decide::SET_ASIDE),
        ("throttle::WENT", throttle::WENT),
        ("throttle::WENT_AT", throttle::WENT_AT),
        ("throttle::GAVE_UP_ITS_PLACE", throttle::GAVE_UP_ITS_PLACE),
        ("throttle::SUPPRESSED", throttle::SUPPRESSED),
        ("digest::OPEN", digest::OPEN),
        ("digest::FOLLOWER", digest::FOLLOWER),
        ("record::RECORD", record::RECORD),
        ("record::ARRIVE", record::ARRIVE),
        ("bodies::BODIES", bodies::BODIES),
        ("bodies::BODY", bodies::BODY),
        ("bodies::BODY_ANEW", bodies::BODY_ANEW),
        ("freely::FREELY", freely::FREELY),
        ("freely::FREELY_WITH", freely::FREELY_WITH),
        ("at_once::AT_ONCE", at_once::AT_ONCE),
        ("at_once::AT_ONCE_WANTED", at_once::AT_ONCE_WANTED),
        ("give_up::TRIED", give_up::TRIED),
        ("give_up::END", give_up::END),
        ("give_up::ENDED", give_up::ENDED),
        ("reports::SETTLE", reports::SETTLE),
        ("reports::OVERDUE", reports::OVERDUE),
        ("reports::NEXT", reports::NEXT),
        ("person::RETRY", person::RETRY),
        ("person::CANCEL", person::CANCEL),
        ("person::RESOLVE", person::RESOLVE),
        ("held::MOVE", held::MOVE),
        ("held::DOUBLED", held::DOUBLED),
        ("replay::STEP", replay::STEP),
        ("replay::KNOWN", replay::KNOWN),
        ("prune::GIVE_UP", prune::GIVE_UP),
        ("prune::DIED", prune::DIED),
        ("prune::ATTEMPTS", prune::ATTEMPTS),
        ("prune::BODIES", prune::BODIES),
        ("prune::KEYS", prune::KEYS),
        ("walk::LAST_AFTER", walk::LAST_AFTER),
        ("walk::LAST_BEFORE", walk::LAST_BEFORE),
        ("walk::BODIES", walk::BODIES),
    ];
    let mut all: Vec<(&str, String)> = named.iter().map(|(name, sql)| (*name, (*sql).to_owned())).collect();
    all.push(("partitions::remove_rows", partitions::remove_rows_sql()));
    all.push(("prune::OF_DEAD", format!("{} {}", prune::CANDIDATES, prune::OF_DEAD)));
    all.push(("prune::SWEEP", format!("{} {}", prune::CANDIDATES, prune::SWEEP)));
    all.push(("query::attempts_of", query::attempts_of_sql()));
    all
}

/// Holds that nothing hot walks over what lies in this folder's store, but for tables that are `left_out`.
async fn nothing_walks(folder: &Path, left_out: &str) {
    let asks = client(folder).await;
    asks.batch_execute(&format!("{}{}", connect::SETTINGS, connect::BY_INDEX)).await.unwrap();
    let mut wrong = Vec::new();
    for (name, sql) in hot() {
        let plan = plan(&asks, &sql).await;
        let walks: Vec<_> = walks(&plan).into_iter().filter(|walk| !walk.contains(left_out)).collect();
        if !walks.is_empty() {
            wrong.push(format!("{name}: {walks:?}\n{plan}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A quarter of all that was measured was faster: what the work itself takes, whoever else is busy on the machine at times.
fn quartile(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 4]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_million_deliveries_nothing_hot_walks_and_claiming_takes_as_long_as_with_a_thousand() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let clock = Clock::manual("2026-01-21T12:00:00Z");
    let mut stores = Vec::new();
    for (folder, (deliveries, spread)) in folders.iter().zip([(FEW, 1), (MANY, PARTITIONS)]) {
        let store = open(&url_of(folder.path()).await, clock.clone()).await.unwrap();
        fill(&client(folder.path()).await, deliveries, spread).await;
        stores.push(store);
    }

    nothing_walks(folders[1].path(), "nothing").await;

    let mut took = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let target: Name = format!("t{}", round as i64 % TARGETS + 1).as_str().into();
        for (store, took) in stores.iter().zip(&mut took) {
            let began = Instant::now();
            let due = store.due(&target, from_ms(AT + 86_400_000), ASKED, Vec::new()).await.unwrap();
            let next = store.next_due(&target, due.iter().map(|it| it.delivery.id).collect()).await.unwrap();
            took.push(began.elapsed());
            assert!(due.len() == ASKED as usize && next.is_some(), "{target}: {}", due.len());
        }
    }
    let [few, many] = took.map(quartile);
    println!("claiming {ASKED}: {few:?} with {FEW} deliveries stored, {many:?} with {MANY}");
    assert!(many <= 2 * few, "{many:?} with {MANY} deliveries stored, {few:?} with {FEW}");
    for store in stores {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_server_counted_while_nothing_waited_nothing_hot_walks_through_what_waits_since() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&url_of(folder.path()).await, Clock::manual("2026-01-21T12:00:00Z")).await.unwrap();
    let client = client(folder.path()).await;
    fill(&client, 20 * FEW, 1).await;
    // Vacuum tidies up what would make the queues look full.
    client.batch_execute("UPDATE deliveries SET state = 6 WHERE state = 0").await.unwrap();
    client.batch_execute("VACUUM ANALYZE deliveries").await.unwrap();
    client
        .batch_execute(
            "ALTER TABLE deliveries_p0 SET (autovacuum_enabled = false); UPDATE deliveries SET state = 0 WHERE state = 6",
        )
        .await
        .unwrap();
    // There is nothing in what has no partition of its own, and what is put there is seen by its size.
    nothing_walks(folder.path(), "_rest ").await;
    store.close().await;
}
