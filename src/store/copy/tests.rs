//! The list of tables against the tables, and copies that are broken off between any two commits.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::*;
use crate::{
    clock::Clock,
    store::{Store, postgres::tests as server},
};

/// What stores hold beside what is copied, and why it is not.
const LEFT_OUT: &[(&str, &str)] = &[
    ("hookyard", "the version of the schema"),
    ("identity", "it is the mark's: salt, last place, epoch"),
    ("owners", "of relays that run"),
    ("partitions", "what ranges there are is the place's"),
    ("shards", "leases of relays that run; their epoch is the identity's"),
    ("usage", "counted again"),
    ("dedupe_recent", "a part of `dedupe`"),
    ("payloads", "the body of `events`"),
    ("quarantine_totals", "kept by triggers"),
    ("sqlite_sequence", "the last numbers given, which are set"),
];

/// Every table and column there is, and is not copied, or the other way round.
fn differences(there: &BTreeSet<(String, String)>, only_postgres: bool) -> Vec<String> {
    let body = |table: &Table, column: &Column| !only_postgres && table.name == "events" && column.name == "body";
    let listed: BTreeSet<(String, String)> = TABLES
        .iter()
        .flat_map(|table| {
            let derived = table.derived.map(|(column, _)| column).filter(|_| only_postgres);
            let columns = table.columns.iter().copied().filter(move |column| !body(table, column)).chain(derived);
            columns.map(|column| (table.name.to_owned(), column.name.to_owned()))
        })
        .collect();
    let there: BTreeSet<_> = there.iter().filter(|(table, _)| LEFT_OUT.iter().all(|(name, _)| name != table)).cloned().collect();
    there.symmetric_difference(&listed).map(|(table, column)| format!("{table}.{column}")).collect()
}

#[tokio::test]
async fn every_table_and_column_of_both_is_copied_or_left_out_for_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.db");
    sqlite::open(&file, Clock::system()).await.unwrap().close().await;
    let conn = rusqlite::Connection::open(&file).unwrap();
    let sql = "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'";
    let mut statement = conn.prepare(sql).unwrap();
    let there = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<rusqlite::Result<_>>().unwrap();
    assert_eq!(differences(&there, false), Vec::<String>::new(), "SQLite");

    postgres::open(&server::url_of(folder.path()).await, Clock::system()).await.unwrap().close().await;
    let client = server::client(folder.path()).await;
    // Partitions are parts of their parent.
    let sql = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND 0 < a.attnum AND NOT a.attisdropped";
    let rows = client.query(sql, &[]).await.unwrap();
    let there = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(differences(&there, true), Vec::<String>::new(), "PostgreSQL");
}

/// A store in the file `name` with rows in every table.
fn filled(folder: &Path, name: &str, rows: i64) -> Secret {
    let path = folder.join(name);
    drop(crate::store::sqlite::copy::End::destination(&path).unwrap());
    let mut conn = rusqlite::Connection::open(&path).unwrap();
    let tx = conn.transaction().unwrap();
    for table in TABLES {
        for n in 1..=rows {
            let cells: Vec<Cell> = table.columns.iter().map(|column| sample(column, n)).collect();
            let write = |name: &str, columns: &[Column], cells: &[Cell]| {
                let marks = vec!["?"; columns.len()].join(", ");
                let sql = format!("INSERT INTO {name} ({}) VALUES ({marks})", Table::names(columns));
                tx.execute(&sql, rusqlite::params_from_iter(cells)).unwrap();
            };
            if table.name == "events" {
                write("events", &table.columns[..table.columns.len() - 1], &cells[..cells.len() - 1]);
                tx.execute("INSERT INTO payloads VALUES (?, ?)", (n, vec![b'x'; 3 * n as usize])).unwrap();
            } else {
                write(table.name, table.columns, &cells);
            }
        }
    }
    // One that came lately again, and one that came lately.
    let key = |n: i64| vec![n as u8; 16];
    for (seq, name) in [(900, 1), (901, 1), (902, 200)] {
        let sql = "INSERT INTO dedupe_recent (seq, key, body, seen_at, hashed, forget_at) VALUES (?, ?, zeroblob(16), 1, 0, 2)";
        tx.execute(sql, (seq, key(name))).unwrap();
    }
    tx.execute("UPDATE identity SET salt = -5, last_seq = 77, epoch = 9", []).unwrap();
    tx.execute("INSERT INTO settings VALUES ('probe', CAST(x'ff00' AS TEXT))", []).unwrap();
    tx.commit().unwrap();
    Secret::new(format!("sqlite://{}", path.display()))
}

fn sample(column: &Column, n: i64) -> Cell {
    match (column.name, column.kind) {
        ("suffix" | "removed_at" | "note", _) => Cell::Null,
        (_, Kind::Small | Kind::Int | Kind::Long) => Cell::Int(n),
        (_, Kind::Bool) => Cell::Int(n % 2),
        (name, Kind::Text) => Cell::Text(format!("{name} \0\u{1a}0é {n}")),
        (_, Kind::Bytes) => Cell::Bytes(vec![n as u8; 16]),
    }
}

/// Everything that is copied of a store, by table.
async fn contents(url: &Secret) -> Vec<(&'static str, Vec<Row>)> {
    let mut source = once_free(async || open_source(url, Path::new("")).await).await.unwrap();
    let mut all = Vec::new();
    for table in TABLES {
        let mut rows = source.read(table, None, 100_000).await.unwrap();
        rows.sort_by_key(|row| row_name(table, row));
        all.push((table.name, rows));
    }
    all
}

fn plan<'p>(from: &'p Secret, to: &'p Secret) -> Plan<'p> {
    Plan { from, to, folder: Path::new(""), rate: None }
}

async fn copied(from: &Secret, to: &Secret) -> Result<Copied> {
    once_free(async || copy(&plan(from, to), &Clock::system(), &mut |_| {}).await).await
}

/// What `ask` comes to once the server has noticed that the copy before is gone.
async fn once_free<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match ask().await {
            Err(Error::Store { error: StoreError::Locked(said), .. })
                if said.starts_with("another") && std::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

#[tokio::test]
async fn there_and_back_everything_is_what_it_was_and_a_second_run_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (from, there) = (filled(folder.path(), "from.db", 70), server::url_of(folder.path()).await);
    let back = Secret::new(format!("sqlite://{}", folder.path().join("back.db").display()));
    let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let before = (contents(&from).await, file("from.db"));
    let one = copied(&from, &there).await.unwrap();
    assert_eq!((one.rows(), one.before, one.already), (70 * 18 + 1, None, false), "{one:?}");
    assert!(copied(&from, &there).await.unwrap().already);
    copied(&there, &back).await.unwrap();
    assert!((contents(&from).await, file("from.db")) == before, "the source was changed");
    for (other, what) in [(&there, "PostgreSQL"), (&back, "SQLite")] {
        for ((name, was), (_, is)) in before.0.iter().zip(contents(other).await) {
            assert_eq!(*was, is, "{name} in {what}");
        }
    }
    let dedupe = &before.0.iter().find(|(name, _)| *name == "dedupe").unwrap().1;
    assert_eq!((dedupe.len(), &dedupe[0][2]), (71, &Cell::Int(901)), "the latest of a key counts");
    // Numbers are not given again, and the ids are the same.
    let mut end = open_source(&back, Path::new("")).await.unwrap();
    assert_eq!((end.stamp().await.unwrap().salt, end.last(&NUMBERED).await.unwrap()), (-5, vec![70; 4]));
    let client = server::client(folder.path()).await;
    let row = client.query_one("SELECT used, nextval(pg_get_serial_sequence('audit', 'id')) FROM identity", &[]).await.unwrap();
    let (used, next): (i64, i64) = (row.get(0), row.get(1));
    assert!(next == 71 && 70 * 512 < used, "{next} {used}");
}

#[tokio::test]
async fn a_store_that_has_come_far_lies_in_partitions_of_its_own_and_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (filled(folder.path(), "from.db", 3), server::url_of(folder.path()).await);
    let far = 5_i64 << 30;
    let change = format!(
        "UPDATE events SET seq = {far} WHERE seq = 3; UPDATE payloads SET seq = {far} WHERE seq = 3;
        UPDATE identity SET last_seq = {far}"
    );
    rusqlite::Connection::open(folder.path().join("from.db")).unwrap().execute_batch(&change).unwrap();
    copied(&from, &to).await.unwrap();
    let client = server::client(folder.path()).await;
    let sql = "SELECT string_agg(tableoid::regclass::text, ' ' ORDER BY seq), (SELECT string_agg(number || ' ' || (ended_at IS NULL) || ' ' ||
        (0 < bytes), ', ' ORDER BY number) FROM partitions) FROM events";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (tables, partitions): (String, String) = (row.get(0), row.get(1));
    assert_eq!(
        (tables.as_str(), partitions.as_str()),
        ("events_p0 events_p0 events_p5", "-1 false false, 0 false true, 5 true false")
    );
}

/// Runs a copy that is broken off after `commits` slices; whether it was.
async fn broken_off(plan: &Plan<'_>, commits: usize) -> bool {
    let mut told = 0;
    let clock = Clock::system();
    let mut end = |_: Progress| {
        told += 1;
        assert!(told <= commits, "broken off");
    };
    let run = by_slices(plan, 20, &clock, &mut end);
    // What a panic leaves is what a kill leaves: the transaction is undone, the locks are gone.
    let run = std::panic::AssertUnwindSafe(run);
    futures_catch(run).await.is_err()
}

/// Polls a future to its end or to its panic.
async fn futures_catch<F: Future>(run: std::panic::AssertUnwindSafe<F>) -> std::thread::Result<F::Output> {
    let mut run = Box::pin(run.0);
    std::future::poll_fn(move |cx| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.as_mut().poll(cx))) {
        Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
        Ok(std::task::Poll::Ready(done)) => std::task::Poll::Ready(Ok(done)),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    })
    .await
}

#[tokio::test]
async fn a_copy_that_is_broken_off_anywhere_is_gone_on_with_and_no_relay_starts_on_it_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let from = filled(folder.path(), "from.db", 45);
    let was = contents(&from).await;
    for (to, is_file) in
        [(server::url_of(folder.path()).await, false), (Secret::new(format!("sqlite://{}/to.db", folder.path().display())), true)]
    {
        let mut runs = 0;
        for commits in [1, 2, 3, 5, 6] {
            assert!(broken_off(&plan(&from, &to), commits).await, "{commits}");
            runs += 1;
            // The server notices that the connection is gone a little later.
            let Err(refused) = opened(&to).await else { panic!("opened") };
            let said = refused.to_string();
            assert!(matches!(refused, StoreError::Unfinished(_)) && said.contains("hookyard store copy"), "{said}");
        }
        let done = copied(&from, &to).await.unwrap();
        assert!(runs == 5 && done.before.is_some_and(|rows| 0 < rows), "{done:?}");
        assert_eq!(contents(&to).await, was, "{is_file}");
        opened(&to).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn a_relay_that_comes_to_a_copy_before_it_is_whole_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (filled(folder.path(), "from.db", 3), server::url_of(folder.path()).await);
    let clock = Clock::system();
    for (sql, said) in [
        (
            "INSERT INTO owners (owner, until, seen_at) SELECT 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 50000, 0",
            "a relay works on it",
        ),
        ("UPDATE identity SET epoch = epoch + 1", "a relay has worked on the destination"),
    ] {
        let mut meanwhile = Some(sql);
        let mut told = |_| {
            if let Some(sql) = meanwhile.take() {
                runs(folder.path(), sql);
            }
        };
        let copied = once_free(async || copy(&plan(&from, &to), &clock, &mut told).await).await;
        let error = copied.unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        runs(folder.path(), "DELETE FROM owners");
    }
    assert!(matches!(opened(&to).await, Err(StoreError::Unfinished(_))));
}

/// Runs `sql` on the server, in the middle of something else.
fn runs(folder: &Path, sql: &str) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { server::client(folder).await.batch_execute(sql).await.unwrap() });
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

/// Opens it as a relay does, once whoever was broken off is gone.
async fn opened(url: &Secret) -> std::result::Result<Arc<dyn Store>, StoreError> {
    loop {
        match crate::store::open(url, Path::new(""), Clock::system()).await {
            Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

#[tokio::test]
async fn what_would_spoil_something_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| Secret::new(format!("sqlite://{}", folder.path().join(name).display()));
    let (one, two) = (filled(folder.path(), "one.db", 3), filled(folder.path(), "two.db", 3));
    let other = server::url_of(folder.path()).await;
    let refused = async |from: &Secret, to: &Secret| copied(from, to).await.unwrap_err().to_string();
    assert!(refused(&one, &one).await.contains("the same store"));
    assert!(refused(&one, &two).await.contains("not empty (table settings has 3 rows)"));
    assert!(
        refused(&at("none.db"), &two).await.starts_with("the source: the store cannot be read by this version: there is no file")
    );
    assert!(!folder.path().join("none.db").exists());
    // In use, on either side.
    let relay = crate::store::open(&one, Path::new(""), Clock::system()).await.unwrap();
    assert!(refused(&one, &other).await.starts_with("the source: the store is in use"));
    assert!(refused(&two, &one).await.starts_with("the destination: the store is in use"));
    relay.close().await;
    let relay = postgres::open(&other, Clock::system()).await.unwrap();
    relay.own_shards(crate::store::OwnerId(7), Clock::system().now(), Duration::from_secs(50)).await.unwrap();
    let said = refused(&two, &other).await;
    assert!(said.starts_with("the destination: the store is in use: a relay works on it"), "{said}");
    assert!(refused(&other, &at("new.db")).await.starts_with("the source: the store is in use: a relay works on it"));
    relay.release_shards(crate::store::OwnerId(7)).await.unwrap();
    // Nor one whose lease has ended: it may go on.
    let client = server::client(folder.path()).await;
    let listens = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1214994790
        AND objid = to_regnamespace(quote_ident(current_schema()))::oid)";
    while !client.query_one(listens, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let said = refused(&two, &other).await;
    assert!(
        said.starts_with("the destination: the store is in use: a relay is connected to it") && said.contains("127.0.0.1"),
        "{said}"
    );
    relay.close().await;
    // A relay was there, though it left nothing else.
    assert!(refused(&two, &other).await.contains("a relay has worked on the destination"));
    // The source has gone on.
    copied(&two, &at("copy.db")).await.unwrap();
    let change = |sql: &str| rusqlite::Connection::open(folder.path().join("two.db")).unwrap().execute_batch(sql).unwrap();
    change("UPDATE identity SET epoch = epoch + 1");
    assert!(refused(&two, &at("copy.db")).await.contains("a relay has worked on the source"));
    change("UPDATE identity SET salt = 6");
    assert!(refused(&two, &at("copy.db")).await.contains("a copy of another store"));
    // Versions, and rows that cannot be.
    change("PRAGMA user_version = 3");
    let said = refused(&two, &at("v.db")).await;
    assert!(said.contains("its schema has version 3") && said.contains("start this hookyard on it once"), "{said}");
    change("PRAGMA user_version = 99");
    assert!(refused(&two, &at("v.db")).await.contains("its schema has version 99"));
    rusqlite::Connection::open(folder.path().join("one.db"))
        .unwrap()
        .execute("UPDATE deliveries SET attempts = 'x' WHERE place = 2", [])
        .unwrap();
    let said = refused(&one, &at("row.db")).await;
    assert_eq!(said, "table deliveries, row place 2: attempts holds Text");
}
