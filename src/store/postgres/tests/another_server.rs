//! A failover to a standby that lags behind: what it does not know of is lost, and nothing else.

use super::{super::*, client, opened, url_of};
use crate::store::{Change, Changed, Next, RecordKind, Write, contract::Bench};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_is_given_twice_though_the_next_server_does_not_know_the_last_ones() {
    let bench = Bench::new(opened).await;
    let path = bench.folder.path().join("store");
    let other = open(&url_of(&path).await, bench.clock.clone()).await.unwrap();
    let record = |id: &str| Change {
        writes: vec![Write::Put {
            kind: RecordKind::Token,
            id: id.into(),
            owner: String::new(),
            doc: "{}".into(),
            sealed: None,
            expected: None,
        }],
        ..Change::default()
    };
    let first = bench.planned("evt_1", "crm").await;
    let Changed::Done { revision: kept } = bench.store.change(record("kept")).await.unwrap() else { panic!() };
    let lost = bench.planned("evt_lost", "crm").await;
    let Changed::Done { revision } = bench.store.change(record("lost")).await.unwrap() else { panic!() };
    assert_eq!(bench.due("crm").await, [first, lost], "its body is in memory now");

    let sql = format!(
        "DELETE FROM events WHERE seq = {seq}; DELETE FROM deliveries WHERE place >> 16 = {seq}; DELETE FROM dedupe WHERE seq = {seq};
        DELETE FROM records WHERE revision > {kept};
        UPDATE identity SET last_seq = {seq} - 1, server = server - interval '1 day'",
        seq = lost.event.seq
    );
    client(&path).await.batch_execute(&sql).await.unwrap();

    // By whichever replica: one of them has the lost ones in hand.
    let accepted = other.accept(bench.event("evt_2").to(&["crm"])).await.unwrap();
    let crate::store::Accepted::New { uid, .. } = accepted else { panic!("{accepted:?}") };
    assert!(lost.event.seq + 1000 < uid.seq, "{uid:?}");
    bench.recorded(lost, 1, Next::Delivered).await;
    let second = crate::envelope::DeliveryId { event: uid, n: 1 };
    assert_eq!(bench.due("crm").await, [first, second], "what is reported of the lost one is nobody else's");
    assert_eq!(other.event(uid).await.unwrap().unwrap().envelope.id, "evt_2");

    let Changed::Done { revision: next } = other.change(record("next")).await.unwrap() else { panic!() };
    assert!(revision < next, "whoever saw the lost one sees this one, too");
    // Once is enough.
    let third = bench.planned("evt_3", "crm").await;
    assert_eq!(third.event.seq, uid.seq + 1);
    other.close().await;
}
