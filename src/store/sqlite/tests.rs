//! The contract on SQLite, and what only SQLite promises.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    envelope::{Envelope, tests::sample},
    sign::sha256,
    store::{
        DedupeKey, NewDelivery, Page, Remember, State, Targets,
        contract::{Opening, contract},
    },
};

contract!(super::opened);

fn opened(path: PathBuf, clock: Clock) -> Opening {
    Box::pin(async move { Ok(open(&path, clock).await? as Arc<dyn Store>) })
}

struct Place {
    folder: TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::manual("2026-01-20T12:00:00Z") }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("hookyard.db")
    }

    async fn open(&self) -> Result<Arc<Sqlite>> {
        open(&self.file(), self.clock.clone()).await
    }
}

pub(super) fn event(id: &str, bytes: usize) -> NewEvent {
    let body = vec![b'x'; bytes];
    let key = |bytes: &[u8]| sha256(&[bytes])[..16].try_into().unwrap();
    let remember = Remember::Id(Duration::from_hours(24 * 7));
    NewEvent {
        dedupe: DedupeKey { key: key(id.as_bytes()), body: key(&body), remember },
        envelope: Envelope { id: id.into(), body: body.into(), data: None, ..sample() },
        deliveries: vec![NewDelivery::to("crm".into())],
        rules: Vec::new(),
        endings: crate::store::Endings::default(),
        setting: None,
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_store() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let Err(Error::Locked(why)) = place.open().await else { panic!("opened twice") };
    assert!(why.contains("hookyard.db.lock") && why.ends_with(&format!("process {}", std::process::id())), "{why}");
    store.close().await;
    place.open().await.unwrap().close().await;
}

#[tokio::test]
async fn a_backup_may_read_while_the_relay_writes() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.accept(event("evt_1", 10)).await.unwrap();
    let other = Connection::open(place.file()).unwrap();
    let count = || other.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count(), 1);
    store.accept(event("evt_2", 10)).await.unwrap();
    assert_eq!(count(), 2);
    store.close().await;
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.accept(event("evt_1", 10)).await.unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap()) {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["hookyard.db", "hookyard.db-shm", "hookyard.db-wal", "hookyard.db.lock"]);
    store.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let place = Place::new();
    place.open().await.unwrap().close().await;
    Connection::open(place.file()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let needs = |version: i32| {
        let file = Connection::open(place.file()).unwrap();
        let says = "INSERT OR REPLACE INTO settings (key, value) VALUES ('schema.works_since', ?)";
        file.execute(says, [version.to_string()]).unwrap();
        file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    };
    // What it only added to is worked with, and stays what it is.
    needs(12);
    place.open().await.unwrap().close().await;
    needs(99);
    let before = fs::read(place.file()).unwrap();
    let Err(error) = place.open().await else { panic!("opened") };
    assert!(matches!(error, Error::Unreadable(_)));
    assert!(error.to_string().contains("hookyard.db: its schema has version 99"), "{error}");
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn a_store_of_version_1_is_brought_up_and_keeps_what_it_held() {
    let place = Place::new();
    for script in [include_str!("migrations/0001.sql"), include_str!("tests/version_1.sql")] {
        Connection::open(place.file()).unwrap().execute_batch(script).unwrap();
    }
    let store = place.open().await.unwrap();
    let due = store.due(&"crm".into(), place.clock.now(), 9, Vec::new()).await.unwrap();
    let due: Vec<_> = due.iter().map(|due| (due.envelope.id.as_str(), &due.envelope.body[..], due.delivery.attempts)).collect();
    assert_eq!(due, [("evt_1", &b"one"[..], 1)]);
    let backlog = store.backlog(None).await.unwrap();
    assert_eq!((backlog.len(), backlog[0].waiting, backlog[0].dead), (1, 1, 1));
    let dead = store.deliveries(Filter { resolved: Some(false), ..Filter::default() }).await.unwrap();
    assert_eq!((dead.len(), dead[0].event_id.as_str(), dead[0].delivery.out_of_order), (1, "evt_2", false));
    let attempts = store.attempts(dead[0].delivery.id.event).await.unwrap();
    assert!(attempts.len() == 1 && attempts[0].counts);
    assert!(matches!(store.accept(event("evt_3", 10)).await, Ok(Accepted::New { uid, .. }) if uid.seq == 3));
    store.close().await;
    let version: i32 =
        Connection::open(place.file()).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, schema::VERSION);
}

#[tokio::test]
async fn another_programs_files_are_refused_and_left_as_they_are() {
    let place = Place::new();
    fs::write(place.file(), "name,amount\n".repeat(1000)).unwrap();
    let Err(error) = place.open().await else { panic!("opened") };
    assert!(matches!(&error, Error::Unreadable(why) if why.contains("not a database")), "{error}");
    fs::remove_file(place.file()).unwrap();
    Connection::open(place.file()).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let before = fs::read(place.file()).unwrap();
    let Err(error) = place.open().await else { panic!("opened") };
    assert!(matches!(&error, Error::Unreadable(why) if why.contains("another program")), "{error}");
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn a_start_that_was_killed_before_the_first_table_is_made_up_for() {
    let place = Place::new();
    Connection::open(place.file()).unwrap().pragma_update(None, "journal_mode", "wal").unwrap();
    let store = place.open().await.unwrap();
    store.accept(event("evt_1", 10)).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_store_that_was_closed_has_nothing_to_make_up_for() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    for n in 0..20 {
        store.accept(event(&format!("evt_{n}"), 10)).await.unwrap();
    }
    store.close().await;
    let conn = Connection::open(place.file()).unwrap();
    let count = |table| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count("dedupe"), count("dedupe_recent")), (20, 0));
    drop(conn);
    let store = place.open().await.unwrap();
    assert!(matches!(store.accept(event("evt_3", 10)).await, Ok(Accepted::Duplicate { .. })));
    store.close().await;
}

#[tokio::test]
async fn what_a_kill_leaves_behind_opens_with_everything_acknowledged() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    for n in 0..200 {
        store.accept(event(&n.to_string(), 20_000)).await.unwrap();
    }
    // The files as they lie there at this moment are what a kill leaves.
    let left = Place::new();
    for suffix in ["", "-wal"] {
        let name = format!("hookyard.db{suffix}");
        fs::copy(place.folder.path().join(&name), left.folder.path().join(&name)).unwrap();
    }
    assert!(1_000_000 < fs::metadata(left.folder.path().join("hookyard.db-wal")).unwrap().len());
    let opened = left.open().await.unwrap();
    let filter = Filter { limit: 1000, ..Filter::default() };
    assert_eq!(opened.events(filter.clone()).await.unwrap().len(), 200);
    assert_eq!(opened.backlog(None).await.unwrap()[0].waiting, 200);
    opened.close().await;
    assert!(!left.folder.path().join("hookyard.db-wal").exists(), "closing leaves one file");
    store.close().await;
}

/// Sets a pragma on the writer's connection.
async fn set(store: &Sqlite, pragma: &'static str, value: i64) {
    let set = store.writer.run(move |session| session.conn.pragma_update(None, pragma, value).map(Ok));
    set.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_got_over() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.accept(event("before", 10)).await.unwrap();
    // SQLite answers SQLITE_FULL beyond this size as it does on a full disk.
    set(&store, "max_page_count", 60).await;
    let mut taken = 0;
    let refused = loop {
        match store.accept(event(&format!("evt_{taken}"), 20_000)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100, "never full");
    };
    assert!(matches!(refused, Error::Full(_)), "{refused}");
    let listed = store.events(Filter::default()).await.unwrap();
    assert_eq!(listed.len(), taken + 1, "the refused one is not there, the others are");
    set(&store, "max_page_count", 100_000).await;
    let Accepted::New { uid, .. } = store.accept(event(&format!("evt_{taken}"), 20_000)).await.unwrap() else {
        panic!("the refused one was remembered");
    };
    assert_eq!(uid.seq, taken as i64 + 2, "no place in commit order was lost either");
    store.close().await;
}

#[tokio::test]
async fn a_read_only_file_refuses_and_is_got_over() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.accept(event("evt_1", 10)).await.unwrap();
    // What SQLite answers on a file that became read-only; permissions do not bind the root user tests may run as.
    store.writer.run(|session| session.conn.pragma_update(None, "query_only", true).map(Ok)).await.ok();
    assert!(matches!(store.accept(event("evt_2", 10)).await, Err(Error::Full(_))));
    assert!(matches!(store.ready().await, Err(Error::Full(_))));
    assert_eq!(store.events(Filter::default()).await.unwrap().len(), 1);
    store.close().await;
    let store = place.open().await.unwrap();
    assert!(matches!(store.accept(event("evt_2", 10)).await, Ok(Accepted::New { .. })));
    store.close().await;
}

#[tokio::test]
async fn a_job_that_fails_is_undone_alone() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    // Holds the writer until everything below is queued behind it, so that it shares one commit.
    let (open_gate, gate) = std::sync::mpsc::channel::<()>();
    let holding = store.writer.run(move |_| {
        let _ = gate.recv_timeout(Duration::from_secs(10));
        Ok(Ok(()))
    });
    let bad = store.writer.run(|session| {
        session.conn.execute("INSERT INTO settings (key, value) VALUES ('half', 'done')", [])?;
        session.conn.execute("INSERT INTO no_such_table VALUES (1)", []).map(|_| Ok(()))
    });
    let release = async {
        tokio::task::yield_now().await;
        open_gate.send(()).unwrap();
    };
    let (held, first, bad, second, ()) =
        tokio::join!(holding, store.accept(event("evt_1", 10)), bad, store.accept(event("evt_2", 10)), release);
    held.unwrap();
    assert!(matches!(&bad, Err(Error::Backend(why)) if why.contains("no_such_table")), "{bad:?}");
    assert!(matches!(first, Ok(Accepted::New { .. })) && matches!(second, Ok(Accepted::New { .. })), "{first:?} {second:?}");
    assert_eq!(store.setting("half").await.unwrap(), None);
    let pending = Filter { state: Some(State::Pending), ..Filter::default() };
    assert_eq!(store.deliveries(pending).await.unwrap().len(), 2);
    store.close().await;
}

#[tokio::test]
async fn keys_are_forgotten_on_a_walk_of_many_calls() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let now = crate::clock::to_ms(place.clock.now());
    let fill = store.writer.run(move |session| {
        let sql = "INSERT INTO dedupe (key, body, seq, seen_at, hashed, forget_at) VALUES (?, x'', ?, 0, 0, ?)";
        for n in 1..=10_000_i64 {
            let forget_at = if n % 50 == 0 { now } else { now + 1 };
            session.conn.prepare_cached(sql)?.execute((u128::try_from(n).unwrap_or_default().to_be_bytes(), n, forget_at))?;
        }
        Ok(Ok(()))
    });
    fill.await.unwrap();
    let retention = Retention {
        events: Duration::MAX,
        dead_letters: Duration::MAX,
        rejections: Duration::MAX,
        audit: Duration::MAX,
        max_bytes: None,
    };
    let mut forgotten = Vec::new();
    for _ in 0..4 {
        let pruned = store.prune(place.clock.now(), retention, Vec::new()).await.unwrap();
        assert!(!pruned.more, "few are due: there is no hurry");
        forgotten.push(pruned.keys);
    }
    assert_eq!(forgotten, [80, 80, 40, 0]);
    place.clock.advance(Duration::from_hours(2));
    let all = store.prune(place.clock.now(), retention, Vec::new()).await.unwrap();
    assert_eq!((all.keys, all.more), (500, true), "all are due: it goes on");
    store.close().await;
}

#[tokio::test]
async fn a_walk_looks_at_so_many_rows_and_no_more() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    for n in 0..10 {
        store.accept(event(&format!("evt_{n}"), 10)).await.unwrap();
    }
    let conn = connect::reader(&place.file()).unwrap();
    let filter = |page| crate::store::Filter { source: Some("nobody".into()), page, ..Default::default() };
    let ask = |page| crate::store::Walk { filter: filter(page), types: None, bodies: true, bytes: 100 };
    let upto = |page, rows| {
        let found = walk::walk(&conn, &store.reading, &ask(page), rows).unwrap();
        assert!(found.events.is_empty());
        (found.upto.seq, found.more)
    };
    assert_eq!([upto(Page::After(0), 4), upto(Page::After(4), 4), upto(Page::After(8), 4)], [(4, true), (8, true), (10, false)]);
    assert_eq!([upto(Page::Newest, 4), upto(Page::Before(7), 4), upto(Page::Before(3), 4)], [(7, true), (3, true), (1, false)]);
    assert_eq!([upto(Page::After(10), 4), upto(Page::Before(1), 4)], [(10, false), (1, false)]);
    store.close().await;
}

/// How SQLite would run `sql`.
fn plan(conn: &Connection, sql: &str) -> String {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let values = vec![rusqlite::types::Value::Null; statement.parameter_count()];
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
    rows.map(|row| row.unwrap()).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn no_hot_query_walks_a_table() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let conn = connect::reader(&place.file()).unwrap();
    let hot = [
        query::QUEUE,
        query::DUE,
        query::DUE_EVENT,
        give_up::TRIED,
        give_up::END,
        give_up::ENDED,
        query::ATTEMPTS,
        prune::GIVE_UP,
        prune::KEYS,
        keys::KNOWN,
        record::SETTLE,
        record::SETTLE_ORDERED,
        lanes::WAITING,
        lanes::DEAD,
        person::RETRY,
        person::CANCEL,
        person::RESOLVE,
        query::CARRIED,
        replay::STEP,
        decide::WAITING,
        decide::SET_ASIDE,
        throttle::WENT,
        throttle::GAVE_UP_ITS_PLACE,
        throttle::WENT_AT,
        throttle::SUPPRESSED,
        digest::OPEN,
        digest::FOLLOWER,
        ending::OLD,
        held::HAS,
        ending::ROUSE,
        record::ARRIVE,
        walk::BODY,
    ];
    for sql in hot {
        let plan = plan(&conn, sql);
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
    let by_target = [query::WAITING, query::DEAD].concat();
    for sql in by_target.into_iter().chain([query::QUEUE, lanes::HEAD, lanes::NEXT, lanes::DEAD]) {
        let plan = plan(&conn, sql);
        assert!(plan.contains("USING COVERING INDEX") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
    let (mut log, tables) = query::of_subscription(&Filter { target: Some("wh_a".to_owned()), ..Filter::default() }, 0);
    log.page("d.place", Page::Before(9), 9);
    let log = plan(&conn, &log.sql(&format!("SELECT d.place FROM {tables}")));
    assert!(log.contains("deliveries_subscribed (target_id=? AND place<?)") && !log.contains("TEMP B-TREE"), "{log}");
    for sql in [walk::LAST_AFTER, walk::LAST_BEFORE] {
        let plan = plan(&conn, sql);
        assert!(plan.contains("SEARCH events USING INTEGER PRIMARY KEY (rowid"), "{sql}\n{plan}");
    }
    let oldest = plan(&conn, query::OLDEST);
    assert!(oldest.contains("SEARCH deliveries USING COVERING INDEX deliveries_pending"), "{oldest}");
    for (sql, index) in [(prune::DIED, "deliveries_died"), (ahead::AHEAD, "deliveries_pending")] {
        let plan = plan(&conn, sql);
        assert!(plan.contains("SCAN t") && plan.contains(&format!("SEARCH d USING COVERING INDEX {index}")), "{plan}");
    }
    store.close().await;
}

/// SQLite plans a statement again at every use when its plan depended on a value, unless it is told not to.
#[tokio::test]
async fn no_hot_statement_is_planned_at_every_use() {
    let place = Place::new();
    place.open().await.unwrap().close().await;
    let conn = connect::writer(&place.file()).unwrap();
    let mut planned = Vec::new();
    for sql in [
        query::QUEUE,
        query::DUE,
        query::DUE_EVENT,
        query::OLDEST,
        query::ATTEMPTS,
        give_up::TRIED,
        give_up::END,
        give_up::ENDED,
        keys::KNOWN,
        lanes::HEAD,
        lanes::NEXT,
        record::SETTLE,
        record::SETTLE_ORDERED,
    ] {
        for value in 0..3_i64 {
            let mut statement = conn.prepare_cached(sql).unwrap();
            let values = vec![value; statement.parameter_count()];
            let mut rows = statement.query(rusqlite::params_from_iter(values)).unwrap();
            while rows.next().unwrap().is_some() {}
            drop(rows);
            if statement.get_status(rusqlite::StatementStatus::RePrepare) != 0 {
                planned.push(sql);
                break;
            }
        }
    }
    assert!(planned.is_empty(), "{planned:#?}");
}

#[tokio::test]
async fn every_filter_of_deliveries_finds_its_way() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let Accepted::New { uid, .. } = store.accept(event("evt_1", 10)).await.unwrap() else { panic!("a duplicate") };
    let now = Some(place.clock.now());
    for bits in 0..(1 << 7) {
        let given = |bit: u32| bits & (1 << bit) != 0;
        let text = |bit, text: &str| given(bit).then(|| text.to_owned());
        for page in [Page::Newest, Page::Before(i64::MAX), Page::After(0)] {
            for (word, state) in State::ALL {
                let filter = Filter {
                    source: text(0, "interactor"),
                    r#type: text(1, "credential.expired"),
                    target: text(2, "crm"),
                    targets: given(3).then(|| Targets::Flowing(vec!["crm".into()])),
                    event: given(4).then_some(uid),
                    since: now.filter(|_| given(5)),
                    state: Some(state),
                    replayed: given(6).then_some(true),
                    page,
                    ..Filter::default()
                };
                let found = store.deliveries(filter.clone()).await.unwrap().len();
                assert_eq!(found, usize::from(word == "pending" && !given(6)), "{filter:?}");
            }
        }
    }
    store.close().await;
}

#[tokio::test]
async fn a_relative_url_lies_in_the_folder_and_an_absolute_one_does_not() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let absolute = elsewhere.path().join("abs.db");
    for (url, file) in
        [("sqlite://rel.db".to_owned(), folder.path().join("rel.db")), (format!("sqlite://{}", absolute.display()), absolute)]
    {
        let store = crate::store::open(&crate::secret::Secret::new(url), folder.path(), Clock::system()).await.unwrap();
        assert!(Path::exists(&file), "{file:?}");
        store.close().await;
    }
}
