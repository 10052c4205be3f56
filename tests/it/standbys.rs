//! Commits that wait for a standby: what is not on one is never said to be kept, whoever ends the waiting.

use std::{future::Future, time::Duration};

use hookyard::{
    clock::Clock,
    envelope::DeliveryId,
    store::{Accepted, Change, Error, Next, OwnerId, RecordKind, Write},
};

use crate::{
    spec_lanes::{attempt, opened, planned_for},
    support::{Home, SOON, app::START, seconds, servers::Server, until},
};

/// How often waits are ended.
const AGAIN: Duration = Duration::from_millis(20);

/// What `work` comes to while somebody ends every wait for a standby.
async fn cut_short<T>(server: &Server, work: impl Future<Output = T>) -> T {
    let cut = async {
        loop {
            server.asks("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        done = tokio::time::timeout(SOON, work) => done.expect("the wait to be ended"),
        () = cut => unreachable!("it goes on for ever"),
    }
}

/// Names the standbys that commits wait for.
async fn waits_for(server: &Server, names: &str) {
    server.asks(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
    server.asks("SELECT pg_reload_conf()");
    let known = async || (server.asks("SHOW synchronous_standby_names") == names).then_some(());
    until("the setting to hold", SOON, known).await;
}

fn is_refused<T: std::fmt::Debug>(done: Result<T, Error>) {
    assert!(matches!(&done, Err(Error::Full(_))), "{done:?}");
}

/// A new record.
fn record(id: &str) -> Change {
    let write = Write::Put {
        kind: RecordKind::Token,
        id: id.into(),
        owner: String::new(),
        doc: "{}".into(),
        sealed: None,
        expected: None,
    };
    Change { writes: vec![write], ..Change::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_for_standbys_that_somebody_ends_does_not_say_that_they_have_it() {
    let server = Server::start().await;
    let (home, clock) = (Home::with_store(&server.url()), Clock::manual(START));
    let store = opened(&home, &clock).await;
    let epoch = store.own_shards(OwnerId(1), clock.now(), seconds(15)).await.unwrap()[0].epoch;
    let planned = |id: &str| planned_for(id, "crm", &clock);
    let Accepted::New { uid, .. } = store.accept(planned("evt_0")).await.unwrap() else { panic!("it is new") };
    let tried = attempt(DeliveryId { event: uid, n: 1 }, 1, epoch, Next::Delivered, &clock);
    waits_for(&server, "nobody").await;

    // In one statement, and as a repeat under the lock.
    for _ in 0..2 {
        is_refused(cut_short(&server, store.accept(planned("evt_1"))).await);
        assert_eq!(server.asks("SELECT count(*) FROM events WHERE id = 'evt_1'"), "1", "it is on the server's disk");
    }
    for _ in 0..2 {
        is_refused(cut_short(&server, store.record(vec![tried.clone()])).await);
        assert_eq!(server.asks("SELECT count(*) FROM attempts"), "1");
    }
    is_refused(cut_short(&server, store.change(record("tok_1"))).await);
    assert_eq!(server.asks("SELECT count(*) FROM records"), "1");

    waits_for(&server, "").await;
    let again = store.accept(planned("evt_1")).await.unwrap();
    let Accepted::Duplicate { uid, .. } = again else { panic!("{again:?}") };
    store.record(vec![tried]).await.unwrap();
    let due = store.due(&"crm".into(), clock.now(), 100, Vec::new()).await.unwrap();
    let due: Vec<_> = due.iter().map(|due| due.delivery.id).collect();
    assert_eq!(due, [DeliveryId { event: uid, n: 1 }], "it is delivered all the same");
    store.close().await;
}
