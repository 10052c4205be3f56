//! Notices in, events out: with the SQLite store in a folder of its own, time moved by hand.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    config,
    envelope::EventUid,
    store::{EventRow, Filter, Page, sqlite},
};

const ROUTES: &str = r"
version: 1
sources: {in: {kind: trigger, path: /in, allow_unauthenticated: true}}
destinations:
  ops: {kind: webhook, url: 'https://ops.example.com/x'}
  all: {kind: webhook, url: 'https://all.example.com/x'}
rules:
  - {name: everything, match: {type: '**'}, to: [all]}
  - {name: tell-ops, match: {source: hookyard, type: relay.delivery.*}, to: [ops]}
unmatched: [all]
";

struct Bench {
    store: Arc<dyn Store>,
    clock: Clock,
    announcer: Announcer,
    announcing: Announcing,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let store: Arc<dyn Store> = sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
        let file = config::File { path: "routes.yaml".into(), text: ROUTES.to_owned() };
        let loaded = config::parse(file, &|_: &str| None);
        let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems));
        let router = Live::new(Arc::new(Router::new(config.rules, config.unmatched, Vec::new())));
        let (announcer, receiver) = Announcer::new();
        let announcing = start(receiver, Parts { store: store.clone(), router, clock: clock.clone() });
        Self { store, clock, announcer, announcing, _folder: folder }
    }

    /// Once `count` events are kept: all of them, oldest first.
    async fn events(&self, count: usize) -> Vec<EventRow> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let rows = self.store.events(Filter { page: Page::After(0), ..Filter::default() }).await.unwrap();
            if count <= rows.len() {
                return rows;
            }
            assert!(Instant::now() < deadline, "{} of {count} events came", rows.len());
            // Notices may arrive after the clock was moved.
            self.clock.advance(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn data(&self, row: &EventRow) -> Value {
        let whole = self.store.event(row.uid).await.unwrap().unwrap().envelope;
        let body: Value = serde_json::from_slice(&whole.body).unwrap();
        assert_eq!((&body["id"], &body["type"]), (&json!(whole.id), &json!(whole.r#type)));
        let data: Value = serde_json::from_slice(whole.data()).unwrap();
        assert_eq!(data, body["data"]);
        data
    }
}

fn dead(seq: i64, event_type: &str) -> Notice {
    Notice::Dead {
        delivery: DeliveryId { event: EventUid { salt: 1, seq }, n: 1 },
        event_id: format!("evt_{seq}"),
        event_type: event_type.to_owned(),
        target: "crm".into(),
        cause: Cause::Receiver,
        error: Some("http_400".to_owned()),
    }
}

#[tokio::test]
async fn notices_that_are_alike_are_one_event() {
    let bench = Bench::new().await;
    for seq in 1..=50 {
        bench.announcer.tell(dead(seq, "credential.expired"));
    }
    bench.announcer.tell(Notice::Paused { target: "crm".into(), by: "admin".to_owned() });
    let rows = bench.events(2).await;
    let died = rows.iter().find(|row| row.envelope.r#type == "relay.delivery.dead").unwrap();
    assert_eq!(
        (died.envelope.source.as_str(), died.envelope.kind, died.envelope.subject.as_deref()),
        ("hookyard", "hookyard", Some("crm"))
    );
    let data = bench.data(died).await;
    assert_eq!((&data["count"], data["items"].as_array().unwrap().len()), (&json!(50), 20));
    assert_eq!(data["event"], json!({"uid": "ev_00000000000000010000000000000001", "id": "evt_1", "type": "credential.expired"}));
    assert_eq!((&data["target"], &data["cause"], &data["error"]), (&json!("crm"), &json!("receiver"), &json!("http_400")));
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn only_a_rule_that_names_the_source_gets_them() {
    let bench = Bench::new().await;
    bench.announcer.tell(dead(1, "credential.expired"));
    bench.announcer.tell(Notice::ConfigLoaded { hash: "abc".to_owned() });
    let rows = bench.events(2).await;
    let of = |word: &str| rows.iter().find(|row| row.envelope.r#type == word).unwrap();
    assert_eq!(of("relay.delivery.dead").rules, ["tell-ops"]);
    assert_eq!((of("relay.config.loaded").rules.len(), of("relay.config.loaded").deliveries), (0, 0));
    let deliveries = bench.store.deliveries(Filter::default()).await.unwrap();
    assert_eq!(deliveries.iter().map(|row| row.delivery.target.as_str()).collect::<Vec<_>>(), ["ops"]);
}

#[tokio::test]
async fn what_is_gathered_is_told_before_the_end() {
    let bench = Bench::new().await;
    bench.announcer.tell(Notice::Filling { used: 90, max: 100 });
    let store = bench.store.clone();
    bench.announcing.finish().await;
    let rows = store.events(Filter::default()).await.unwrap();
    assert_eq!(rows[0].envelope.r#type, "relay.store.filling");
}

#[test]
fn a_flood_is_told_ever_more_rarely() {
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (mut batches, mut told, mut counted) = (Batches::default(), 0, 0);
    for seq in 0..3600 {
        batches.add(&dead(seq, "a"), clock.now());
        clock.advance(Duration::from_secs(1));
        let due = batches.due(clock.now());
        told += due.len();
        counted += due.iter().map(|batch| batch.count).sum::<u64>();
    }
    counted += batches.all().iter().map(|batch| batch.count).sum::<u64>();
    assert_eq!(counted, 3600);
    assert!((50..70).contains(&told), "{told} events in an hour");
    clock.advance(Duration::from_secs(600));
    batches.add(&dead(1, "a"), clock.now());
    assert_eq!(batches.next_due(), Some(crate::clock::later(clock.now(), Duration::from_secs(2))));
}

#[test]
fn what_was_gathered_before_the_clock_was_set_back_is_told() {
    let at: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
    let mut batches = Batches::default();
    batches.add(&dead(1, "a"), at);
    let back = crate::clock::earlier(at, Duration::from_secs(365 * 86_400));
    assert!(batches.due(at).is_empty());
    assert_eq!(batches.due(back).len(), 1);
    // And what comes then is gathered for as long as always.
    batches.add(&dead(2, "a"), back);
    assert!(batches.next_due().is_some_and(|due| due <= crate::clock::later(back, Duration::from_secs(4))));
}

#[test]
fn kinds_are_bounded() {
    let at = "2026-01-20T12:00:00Z".parse().unwrap();
    let mut batches = Batches::default();
    for n in 0..2000 {
        batches.add(&Notice::Broken { target: format!("t{n}").as_str().into(), cause: Cause::Config, error: None }, at);
    }
    let all = batches.all();
    assert!(all.len() <= 513);
    assert_eq!(all.iter().map(|batch| batch.count).sum::<u64>(), 2000);
}

#[test]
fn deaths_and_removals_are_not_counted_together() {
    let at = "2026-01-20T12:00:00Z".parse().unwrap();
    let mut batches = Batches::default();
    for notice in [Notice::HeldTooLong { count: 3 }, Notice::Removed { count: 5 }, Notice::Removed { count: 2 }] {
        batches.add(&notice, at);
    }
    let mut told: Vec<_> = batches.all().into_iter().map(|batch| (batch.r#type, batch.count, batch.listed.len())).collect();
    told.sort_unstable();
    assert_eq!(told, [("relay.delivery.dead", 3, 1), ("relay.delivery.dead", 7, 2)]);
}
