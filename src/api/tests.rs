//! The API over its routers, with a store made up in memory.

use std::{
    sync::{Mutex, atomic::AtomicU32},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{operating_tests::Operated, *};
use crate::{
    announce::Announcer,
    clock::Clock,
    envelope::{Envelope, EventUid, Name, tests::sample},
    route::{Subscribers, Taken},
    seal::Sealer,
    store::{
        Accepted, Ask, Attempt, Backlog, Cause, Decision, Delivery, DeliveryRow, Due, EventRow, GaveUp, GivenUp, NewDelivery,
        NewEvent, NewRejection, Next, OnCommit, Page, Pruned, Rejection, Resolution, Retention, Retried, State, Targets,
    },
    subscriptions::{self, EventTypes},
};

const SALT: u64 = 0xab;
const TOKEN: &str = "hy_admin";

/// Seven events from `interactor`, each with a delivery to `crm` and one to `gone`, and three rejections.
#[derive(Default)]
pub(super) struct Fake {
    broken: bool,
    probes: AtomicU32,
    in_flight: Vec<DeliveryId>,
    refuses_attempts: bool,
    retried: Mutex<Vec<(Filter, SignedDuration)>>,
    /// What people did to lanes, dead letters and jobs.
    pub(super) operated: Operated,
}

impl Fake {
    pub(super) fn with_in_flight(in_flight: Vec<DeliveryId>) -> Self {
        Self { in_flight, ..Self::default() }
    }
}

pub(super) fn uid(seq: i64) -> EventUid {
    EventUid { salt: SALT, seq }
}

fn event(seq: i64) -> EventRow {
    let rules = if seq == 7 { vec![] } else { vec!["all".to_owned()] };
    let envelope = Envelope { id: format!("evt_{seq:03}"), ..sample() };
    EventRow { uid: uid(seq), envelope, rules, deliveries: 2, duplicates: 1, mismatches: 0, last_duplicate_at: None }
}

fn delivery(seq: i64, n: u32) -> DeliveryRow {
    let state = if seq == 1 { State::Dead } else { State::Pending };
    let at = sample().received_at;
    let delivery = Delivery {
        state,
        cause: (state == State::Dead).then_some(Cause::Receiver),
        attempts: 1,
        error: Some("http_503".into()),
        ..Delivery::new(
            DeliveryId { event: uid(seq), n },
            NewDelivery { rule: Some("all".into()), ..NewDelivery::to(if n == 1 { "crm" } else { "gone" }.into()) },
            at,
        )
    };
    DeliveryRow { delivery, event_id: format!("evt_{seq:03}"), source: "interactor".into(), r#type: "credential.expired".into() }
}

/// What a store does with a page.
fn paged<T>(mut rows: Vec<T>, filter: &Filter, place: impl Fn(&T) -> i64) -> Vec<T> {
    rows.sort_by_key(|row| place(row));
    match filter.page {
        Page::After(start) => rows.retain(|row| start < place(row)),
        Page::Before(end) => rows.retain(|row| place(row) < end),
        Page::Newest => {}
    }
    if !matches!(filter.page, Page::After(..)) {
        rows.reverse();
    }
    rows.truncate(filter.limit as usize);
    rows
}

#[async_trait]
impl Store for Fake {
    fn on_commit(&self, _: Arc<dyn OnCommit>) {}

    async fn accept(&self, _: NewEvent) -> store::Result<Accepted> {
        Err(store::Error::Closed)
    }

    async fn record(&self, _: Vec<Attempt>) -> store::Result<()> {
        Err(store::Error::Closed)
    }

    async fn due(&self, _: &Name, _: Timestamp, _: u32, _: Vec<DeliveryId>) -> store::Result<Vec<Due>> {
        Ok(vec![])
    }

    async fn oldest_due(&self, _: &Name, _: Timestamp, _: Vec<DeliveryId>) -> store::Result<Option<Due>> {
        Ok(None)
    }

    async fn give_up(&self, _: &Name, _: GaveUp, _: Vec<DeliveryId>) -> store::Result<GivenUp> {
        Ok(GivenUp::default())
    }

    async fn decide(&self, _: &Name, asks: Vec<Ask>, _: i64, _: Timestamp) -> store::Result<Vec<Decision>> {
        Ok(vec![Decision::Over; asks.len()])
    }

    async fn foresee(&self, _: &Name, _: store::Handling, _: Timestamp) -> store::Result<store::Foreseen> {
        Ok(store::Foreseen::default())
    }

    async fn carried(&self, _: DeliveryId, _: u32) -> store::Result<Vec<(DeliveryId, Arc<Envelope>)>> {
        Ok(vec![])
    }

    async fn expire(&self, _: &Name, _: Timestamp, _: &str, _: Vec<DeliveryId>, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Ok(vec![])
    }

    async fn hand_over(&self, _: &Name, _: &Name, _: Timestamp) -> store::Result<store::HandedOver> {
        Ok(store::HandedOver::default())
    }

    async fn bound_held(
        &self,
        _: &Name,
        _: store::HeldBound,
        _: Vec<DeliveryId>,
        _: Timestamp,
    ) -> store::Result<Vec<DeliveryId>> {
        Ok(Vec::new())
    }

    async fn rouse(&self, _: &Name, _: Timestamp) -> store::Result<()> {
        Ok(())
    }

    async fn next_due(&self, _: &Name, _: Vec<DeliveryId>) -> store::Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn backlog(&self, target: Option<&Name>) -> store::Result<Vec<Backlog>> {
        let of = |target: &str, waiting, dead| {
            let oldest_at = (waiting != 0).then(|| sample().received_at);
            Backlog { target: target.into(), waiting, oldest_at, dead }
        };
        let mut all = vec![of("gone", 6, 1), of("crm", 6, 1)];
        all.retain(|it| target.is_none_or(|target| it.target == *target));
        Ok(all)
    }

    async fn retry(&self, ids: Vec<DeliveryId>, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Ok(self.operated.set(ids, State::Pending))
    }

    async fn cancel(&self, ids: Vec<DeliveryId>, _: &str, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        let waiting = ids.into_iter().filter(|id| id.event.seq != 1).collect();
        Ok(self.operated.set(waiting, State::Cancelled))
    }

    async fn erase(&self, _: Vec<EventUid>, _: Timestamp) -> store::Result<store::Erased> {
        Err(store::Error::Closed)
    }
    async fn resolve(&self, id: DeliveryId, resolution: Resolution) -> store::Result<bool> {
        Ok(self.operated.resolve(id, resolution))
    }

    async fn events(&self, filter: Filter) -> store::Result<Vec<EventRow>> {
        if self.broken {
            return Err(store::Error::Backend("disk on fire".into()));
        }
        let rows = (1..=7).map(event).filter(|_| filter.source.as_deref().is_none_or(|source| source == "interactor"));
        Ok(paged(rows.collect(), &filter, |row| row.uid.seq))
    }

    async fn walk(&self, walk: store::Walk) -> store::Result<store::Walked> {
        let mut events = self.events(Filter { limit: 7, ..walk.filter.clone() }).await?;
        events.retain(|row| walk.types.as_ref().is_none_or(|fits| fits(&row.envelope.r#type)));
        let more = (walk.filter.limit as usize) < events.len();
        events.truncate(walk.filter.limit as usize);
        let (start, end) = match walk.filter.page {
            Page::After(start) => (start, start.max(7)),
            Page::Before(start) => (start, 1),
            Page::Newest => (0, 1),
        };
        let upto = events.last().filter(|_| more).map_or(if start == 7 { 7 } else { end }, |row| row.uid.seq);
        Ok(store::Walked { events, upto: uid(upto), more })
    }

    async fn event(&self, uid: EventUid) -> store::Result<Option<EventRow>> {
        Ok((uid.salt == SALT && (1..=7).contains(&uid.seq)).then(|| event(uid.seq)))
    }

    async fn deliveries(&self, filter: Filter) -> store::Result<Vec<DeliveryRow>> {
        let mut rows: Vec<_> = (1..=7).flat_map(|seq| [delivery(seq, 1), delivery(seq, 2)]).collect();
        rows.iter_mut().for_each(|row| self.operated.apply(&mut row.delivery));
        rows.retain(|row| filter.cause.is_none_or(|cause| row.delivery.cause == Some(cause)));
        rows.retain(|row| filter.resolved.is_none_or(|resolved| row.delivery.resolved.is_some() == resolved));
        rows.retain(|row| filter.state.is_none_or(|state| state == row.delivery.state));
        rows.retain(|row| filter.event.is_none_or(|event| event == row.delivery.id.event));
        rows.retain(|row| match &filter.targets {
            None => true,
            Some(Targets::Flowing(names)) => names.contains(&row.delivery.target),
            Some(Targets::Held(names)) => !names.contains(&row.delivery.target),
        });
        Ok(paged(rows, &filter, |row| row.delivery.id.place()))
    }

    async fn attempts(&self, event: EventUid) -> store::Result<Vec<Attempt>> {
        Ok(vec![Attempt {
            delivery: DeliveryId { event, n: 1 },
            number: 1,
            started_at: sample().received_at,
            duration: Duration::from_millis(12),
            status: Some(503),
            error: Some("http_503".into()),
            detail: None,
            response: Bytes::from_static(b"busy"),
            next: Next::Retry(sample().received_at),
            rendered: None,
            counts: true,
            stood_still_ms: 0,
            epoch: 0,
            unmade: None,
            ordered: false,
        }])
    }

    async fn reject(&self, _: Vec<NewRejection>, _: u32, _: u64) -> store::Result<()> {
        Ok(())
    }

    async fn rejections(&self, filter: Filter) -> store::Result<Vec<Rejection>> {
        let rejection = |id| Rejection {
            id,
            rejection: NewRejection {
                source: Some("interactor".into()),
                at: sample().received_at,
                status: 401,
                code: "invalid_signature",
                reason: "the previous secret fits".into(),
                path: "/webhooks/interactor".into(),
                remote: "127.0.0.1".into(),
                bytes: 12,
                sealed: None,
            },
            kept: true,
            accepted_as: None,
            retried_at: None,
        };
        Ok(paged((1..=3).map(rejection).collect(), &filter, |row| row.id))
    }

    async fn quarantined(&self, _: Filter, _: i64) -> store::Result<Vec<Rejection>> {
        Ok(vec![])
    }

    async fn reseal_rejections(&self, _: Vec<(i64, Vec<u8>)>) -> store::Result<u64> {
        Ok(0)
    }

    async fn settle_rejection(&self, _: i64, _: Timestamp, _: Retried) -> store::Result<()> {
        Ok(())
    }

    async fn prune(&self, _: Timestamp, _: Retention, _: Vec<(Name, Timestamp)>) -> store::Result<Pruned> {
        Ok(Pruned::default())
    }

    async fn setting(&self, _: &str) -> store::Result<Option<String>> {
        Ok(None)
    }

    async fn set_setting(&self, _: &str, _: String) -> store::Result<()> {
        Ok(())
    }

    async fn own_shards(&self, _: store::OwnerId, _: Timestamp, _: Duration) -> store::Result<Vec<store::Owned>> {
        Err(store::Error::Closed)
    }
    async fn release_shards(&self, _: store::OwnerId) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn replay(&self, _: EventUid, _: Vec<NewDelivery>, _: &str, _: Timestamp) -> store::Result<Vec<DeliveryId>> {
        Err(store::Error::Closed)
    }
    async fn adopt(&self, _: &Name, _: &Name) -> store::Result<u64> {
        Err(store::Error::Closed)
    }
    async fn count_deliveries(&self, _: Filter) -> store::Result<u64> {
        Err(store::Error::Closed)
    }
    async fn count_events(&self, _: Filter) -> store::Result<u64> {
        Err(store::Error::Closed)
    }
    async fn settings(&self, _: &str) -> store::Result<Vec<(String, String)>> {
        Err(store::Error::Closed)
    }
    async fn remove_setting(&self, _: &str) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn split(&self, _: store::Read, _: Vec<String>, _: store::Rendered, _: Timestamp) -> store::Result<Option<String>> {
        Err(store::Error::Closed)
    }
    async fn reported(&self, _: Attempt) -> store::Result<bool> {
        Err(store::Error::Closed)
    }
    async fn unreported(&self, _: Timestamp) -> store::Result<store::Unreported> {
        Err(store::Error::Closed)
    }
    async fn thread(&self, _: [u8; 16]) -> store::Result<Option<String>> {
        Err(store::Error::Closed)
    }
    async fn set_thread(&self, _: [u8; 16], _: Option<String>) -> store::Result<()> {
        Err(store::Error::Closed)
    }
    async fn change(&self, _: crate::store::Change) -> store::Result<crate::store::Changed> {
        Err(store::Error::Closed)
    }
    async fn records(&self, _: crate::store::RecordKind, _: i64) -> store::Result<Vec<crate::store::Record>> {
        Ok(Vec::new())
    }
    async fn audit(&self, _: crate::store::AuditFilter) -> store::Result<Vec<crate::store::AuditRow>> {
        Err(store::Error::Closed)
    }
    fn newest(&self) -> tokio::sync::watch::Receiver<i64> {
        tokio::sync::watch::channel(7).1
    }
    async fn ready(&self) -> store::Result<()> {
        self.probes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.broken { Err(store::Error::Full("no space".into())) } else { Ok(()) }
    }

    async fn close(&self) {}
}

#[async_trait]
impl Running for Fake {
    fn config(&self) -> Loaded {
        Loaded { hash: "0123456789ab".into(), at: sample().received_at, rejected: None, file: None, standing: None }
    }

    fn api_rate(&self) -> Rate {
        Rate::per_second(20, 100)
    }

    async fn reload(&self, _: bool) -> Result<Outcome, reload::Failure> {
        Err(reload::Failure::NoFile)
    }

    async fn replicas(&self) -> store::Result<Vec<crate::generations::Shown>> {
        Ok(Vec::new())
    }

    fn in_flight(&self) -> Vec<DeliveryId> {
        self.in_flight.clone()
    }

    fn refuses_attempts(&self) -> bool {
        self.refuses_attempts
    }

    fn explain(&self, event: &Envelope) -> Vec<Why> {
        let reason = format!("type \"{}\" fits none of workflow.*", event.r#type);
        let all = Why { rule: "all".into(), index: 0, place: Default::default(), matched: true, reason: None };
        vec![all, Why { rule: "workflows".into(), index: 1, place: Default::default(), matched: false, reason: Some(reason) }]
    }

    fn takers(&self, _: &Envelope) -> Takers {
        let some = vec![Taken { subscription: "wh_a".into(), reason: None }];
        Takers { total: 1, taking: 1, some }
    }

    fn summary(&self, _: &Envelope) -> Summary {
        Summary::default()
    }

    async fn retry_rejections(&self, filter: Filter, clock_offset: SignedDuration) -> store::Result<RetryReport> {
        self.retried.lock().unwrap().push((filter, clock_offset));
        Ok(RetryReport { tried: 3, accepted: 2, duplicates: 0, failed: 1 })
    }
}

pub(super) fn api(fake: Arc<Fake>) -> Api {
    Api {
        store: fake.clone(),
        engine: fake.clone(),
        running: fake.clone(),
        metrics: Metrics::default(),
        admin_token: Some(Secret::new(TOKEN)),
        tokens: Arc::new(crate::access::Tokens::none(fake.clone())),
        limits: Arc::new(Limits::new(Rate::per_second(20, 100), &crate::clock::Clock::system())),
        subscriptions: Arc::new(Subscriptions::none(
            subscriptions::Parts {
                store: fake,
                sealer: Sealer::new(&Secret::new(BASE64.encode(&[7; 32]))).unwrap(),
                clock: Clock::manual("2026-01-20T12:00:00Z"),
                announcer: Announcer::new().0,
                subscribers: Subscribers::default(),
                types: Arc::new(EventTypes::new(Vec::new())),
            },
            subscriptions::Settings::default(),
        )),
        ready: Arc::default(),
        lasting: Lasting::default(),
        sealer: crate::seal::Sealer::of_key(&[7; 32]),
        clock: Clock::standing(sample().received_at),
        stop: CancellationToken::new(),
    }
}

pub(super) async fn ask(router: Router, request: Request<Body>) -> (StatusCode, Value) {
    let (status, bytes) = body(router, request).await;
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
}

async fn body(router: Router, request: Request<Body>) -> (StatusCode, Bytes) {
    let router = router.into_service::<Body>();
    let response = hyper::service::Service::call(&hyper_util::service::TowerToHyperService::new(router), request).await.unwrap();
    let status = response.status();
    (status, to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap())
}

pub(super) fn request(method: &str, path: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
    request.body(Body::from(body.to_owned())).unwrap()
}

pub(super) async fn get_json(fake: &Arc<Fake>, path: &str) -> Value {
    let (status, body) = ask(api(fake.clone()).admin(), request("GET", path, "")).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

pub(super) fn ids(list: &Value, key: &str) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn newest_first_until_there_is_no_more() {
    let fake = Arc::new(Fake::default());
    let mut seen = Vec::new();
    let mut path = "/api/v1/events?limit=3".to_owned();
    loop {
        let page = get_json(&fake, &path).await;
        seen.push(ids(&page, "id"));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/events?limit=3&after={next}");
    }
    assert_eq!(seen, [vec!["evt_007", "evt_006", "evt_005"], vec!["evt_004", "evt_003", "evt_002"], vec!["evt_001"]]);
}

#[tokio::test]
async fn commit_order_always_says_where_to_go_on() {
    let fake = Arc::new(Fake::default());
    let first = get_json(&fake, &format!("/api/v1/events?limit=2&after={}", uid(4))).await;
    assert_eq!(ids(&first, "id"), ["evt_005", "evt_006"]);
    let second = get_json(&fake, &format!("/api/v1/events?after={}", first["next"].as_str().unwrap())).await;
    assert_eq!(ids(&second, "id"), ["evt_007"]);
    let empty = get_json(&fake, &format!("/api/v1/events?after={}", second["next"].as_str().unwrap())).await;
    assert_eq!((ids(&empty, "id").len(), &empty["next"]), (0, &second["next"]));
    assert_eq!(
        get_json(&fake, "/api/v1/events?after=0&source=nobody").await,
        json!({"data": [], "next": super::follow::shown(uid(7))})
    );
}

#[tokio::test]
async fn one_event_tells_its_whole_story() {
    let fake = Arc::new(Fake::default());
    let path = format!("/api/v1/events/{}", uid(3));
    let story = get_json(&fake, &path).await;
    insta::assert_snapshot!(serde_json::to_string_pretty(&story).unwrap(), @r#"
    {
      "data": {
        "uid": "ev_00000000000000ab0000000000000003",
        "id": "evt_003",
        "source": "interactor",
        "type": "credential.expired",
        "time": "2026-01-20T12:00:00Z",
        "namespace": "user_123",
        "subject": "cred_abc",
        "received_at": "2026-01-20T12:00:00.412Z",
        "verdict": "accepted",
        "duplicates": 1,
        "duplicate_mismatch": 0,
        "last_duplicate_at": null,
        "rules": [
          "all"
        ],
        "why": [
          {
            "rule": "all",
            "matched": true,
            "reason": null
          },
          {
            "rule": "workflows",
            "matched": false,
            "reason": "type \"credential.expired\" fits none of workflow.*"
          }
        ],
        "subscriptions": {
          "total": 1,
          "taking": 1,
          "some": [
            {
              "subscription": "wh_a",
              "takes": true,
              "reason": null
            }
          ]
        },
        "envelope": {
          "specversion": "1.0",
          "id": "evt_003",
          "source": "/sources/interactor",
          "type": "credential.expired",
          "subject": "cred_abc",
          "time": "2026-01-20T12:00:00Z",
          "timestamp": "2026-01-20T12:00:00Z",
          "datacontenttype": "application/json",
          "namespace": "user_123",
          "sourcekind": "interactor",
          "receivedat": "2026-01-20T12:00:00.412Z",
          "data": {
            "credential_id": "cred_abc",
            "n": 1.5
          }
        },
        "deliveries": [
          {
            "id": "dl_00000000000000ab0000000000000003_1",
            "event": "ev_00000000000000ab0000000000000003",
            "event_id": "evt_003",
            "source": "interactor",
            "type": "credential.expired",
            "target": "crm",
            "rule": "all",
            "state": "pending",
            "cause": null,
            "error": "http_503",
            "attempts": 1,
            "next_attempt_at": "2026-01-20T12:00:00.412Z",
            "reason": null,
            "carrier": null,
            "created_at": "2026-01-20T12:00:00.412Z",
            "severity": "info",
            "replayed": false,
            "out_of_order": false,
            "recipient": null,
            "unconfirmed": false,
            "resolved": null,
            "log": [
              {
                "number": 1,
                "started_at": "2026-01-20T12:00:00.412Z",
                "latency_ms": 12,
                "outcome": "retry",
                "status": 503,
                "cause": null,
                "error": "http_503",
                "detail": null,
                "counts": true,
                "request_headers": {
                  "idempotency-key": "dl_00000000000000ab0000000000000003_1",
                  "user-agent": "hookyard/0.1.0",
                  "x-hookyard-attempt": "1",
                  "x-hookyard-delivery": "dl_00000000000000ab0000000000000003_1"
                },
                "response": "busy",
                "next_attempt_at": "2026-01-20T12:00:00.412Z"
              }
            ]
          },
          {
            "id": "dl_00000000000000ab0000000000000003_2",
            "event": "ev_00000000000000ab0000000000000003",
            "event_id": "evt_003",
            "source": "interactor",
            "type": "credential.expired",
            "target": "gone",
            "rule": "all",
            "state": "held",
            "cause": "config",
            "error": "http_503",
            "attempts": 1,
            "next_attempt_at": null,
            "reason": null,
            "carrier": null,
            "created_at": "2026-01-20T12:00:00.412Z",
            "severity": "info",
            "replayed": false,
            "out_of_order": false,
            "recipient": null,
            "unconfirmed": false,
            "resolved": null,
            "log": []
          }
        ]
      }
    }
    "#);
    let bytes = body(api(fake).admin(), request("GET", &path, "")).await.1;
    let exact = br#""data":{ "credential_id": "cred_abc", "n": 1.50 }"#;
    assert!(bytes.windows(exact.len()).any(|part| part == exact), "the sender's bytes");
}

#[tokio::test]
async fn states_that_are_never_written_can_be_asked_for() {
    let in_hand = DeliveryId { event: uid(5), n: 1 };
    let fake = Arc::new(Fake { in_flight: vec![in_hand, DeliveryId { event: uid(7), n: 1 }], ..Fake::default() });
    let sending = get_json(&fake, "/api/v1/deliveries?state=sending&limit=1").await;
    assert_eq!(ids(&sending, "event_id"), ["evt_007"]);
    let rest = get_json(&fake, &format!("/api/v1/deliveries?state=sending&after={}", sending["next"].as_str().unwrap())).await;
    assert_eq!((ids(&rest, "id"), &rest["next"]), (vec![in_hand.to_string()], &Value::Null));
    let held = get_json(&fake, "/api/v1/deliveries?state=held&limit=2").await;
    assert_eq!((ids(&held, "target"), ids(&held, "cause")), (vec!["gone".to_owned(); 2], vec!["config".to_owned(); 2]));
    let pending = get_json(&fake, "/api/v1/deliveries?state=pending&limit=2").await;
    assert_eq!(
        (ids(&pending, "event_id"), ids(&pending, "state")),
        (vec!["evt_006".into(), "evt_004".into()], vec!["pending".into(); 2])
    );
    let dead = get_json(&fake, "/api/v1/dead-letters").await;
    assert_eq!((ids(&dead, "event_id"), ids(&dead, "state")), (vec!["evt_001".into(); 2], vec!["dead".into(); 2]));
}

#[tokio::test]
async fn one_delivery_and_its_log() {
    let fake = Arc::new(Fake::default());
    let id = DeliveryId { event: uid(2), n: 1 };
    let one = get_json(&fake, &format!("/api/v1/deliveries/{id}")).await;
    assert_eq!((&one["data"]["id"], &one["data"]["attempts"]), (&json!(id.to_string()), &json!(1)));
    assert_eq!(one["data"]["log"][0]["response"], "busy");
}

#[tokio::test]
async fn rejections_are_listed_and_retried() {
    let fake = Arc::new(Fake::default());
    let list = get_json(&fake, "/api/v1/rejections?source=interactor&limit=1").await;
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][0]["code"], &list["next"]),
        (&json!(3), &json!("invalid_signature"), &json!("b3"))
    );
    let path = "/api/v1/rejections/retry?source=interactor";
    let (status, report) = ask(api(fake.clone()).admin(), request("POST", path, r#"{"code":null,"clock_offset":"-5m"}"#)).await;
    assert_eq!((status, report), (StatusCode::OK, json!({"data": {"tried": 3, "accepted": 2, "duplicates": 0, "failed": 1}})));
    let (filter, offset) = fake.retried.lock().unwrap()[0].clone();
    assert_eq!((filter.source.as_deref(), filter.code, offset.as_secs()), (Some("interactor"), None, -300));
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    for (method, path, body, status, error, word) in [
        ("GET", "/api/v1/events?sorce=x", "", 400, "invalid_request", "sorce"),
        ("GET", "/api/v1/events?limit=0", "", 400, "invalid_request", "limit"),
        ("GET", "/api/v1/events?since=noon", "", 400, "invalid_request", "since"),
        ("GET", "/api/v1/deliveries?state=lost", "", 400, "invalid_request", "state"),
        ("POST", "/api/v1/rejections/retry", "[1]", 400, "invalid_request", "JSON"),
        ("POST", "/api/v1/rejections/retry", r#"{"limit":0}"#, 400, "invalid_request", "limit"),
        ("POST", "/api/v1/rejections/retry", r#"{"code":[]}"#, 400, "invalid_request", "code"),
        ("GET", "/api/v1/events/ev_1", "", 404, "not_found", "event"),
        ("GET", "/api/v1/events/%ff", "", 404, "not_found", "event"),
        ("GET", "/api/v1/deliveries/dl_000000000000000000000000000000ff_1", "", 404, "not_found", "delivery"),
        ("GET", "/api/v1/nothing", "", 404, "not_found", ""),
        ("GET", "/nothing", "", 404, "not_found", ""),
        ("POST", "/api/v1/events", "", 405, "method_not_allowed", ""),
        ("POST", "/healthz", "", 405, "method_not_allowed", ""),
    ] {
        let (answered, answer) = ask(api(Arc::default()).admin(), request(method, path, body)).await;
        assert_eq!((answered.as_u16(), &answer["error"]), (status, &json!(error)), "{path} {body}");
        assert!(answer["message"].as_str().unwrap().contains(word), "{path} {body}: {answer}");
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_shown() {
    let bare = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
    let closed = Api { admin_token: None, ..api(Arc::default()) };
    for path in ["/api", "/api/", "/api/v1/events", "/api/v1/nothing", "/api/v1/config"] {
        let (status, body) = ask(api(Arc::default()).admin(), bare(path)).await;
        assert_eq!((status, &body["error"]), (StatusCode::UNAUTHORIZED, &json!("unauthorized")), "{path}");
        let (status, _) = ask(closed.clone().admin(), request("GET", path, "")).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(closed.clone().admin(), bare(path)).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn the_public_listener_shows_events_only_where_the_file_says_so() {
    let ask_public =
        |public_api, path| ask(api(Arc::default()).public(move || public_api, Router::new()), request("GET", path, ""));
    assert_eq!(ask_public(true, "/api/v1/events").await.0, StatusCode::OK);
    for (public_api, path) in [(false, "/api/v1/events"), (true, "/api/v1/deliveries"), (true, "/metrics")] {
        assert_eq!(ask_public(public_api, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask_public(false, "/readyz").await.1, json!({"status": "ready"}));
    let bare = Request::builder().uri("/api/v1/events").body(Body::empty()).unwrap();
    assert_eq!(ask(api(Arc::default()).public(|| true, Router::new()), bare).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn readiness_follows_the_store_and_asks_it_once_a_second() {
    let begun = std::time::Instant::now();
    let fake = Arc::new(Fake { broken: true, ..Fake::default() });
    let api = api(fake.clone());
    for _ in 0..5 {
        let (status, body) = ask(api.clone().admin(), request("GET", "/readyz", "")).await;
        assert_eq!((status, &body["error"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
        assert!(body["message"].as_str().unwrap().contains("no space"));
    }
    let probes = fake.probes.load(std::sync::atomic::Ordering::SeqCst) as u64;
    assert!((1..=1 + begun.elapsed().as_secs()).contains(&probes), "{probes}");
    let (_, body) = ask(api.clone().public(|| false, Router::new()), request("GET", "/readyz", "")).await;
    assert!(!body.to_string().contains("no space"), "{body}");
    assert_eq!(ask(api.clone().admin(), request("GET", "/healthz", "")).await.0, StatusCode::OK);
    let (status, body) = ask(api.admin(), request("GET", "/api/v1/events", "")).await;
    assert_eq!((status.as_u16(), &body["error"]), (503, &json!("unavailable")));
    assert!(!body.to_string().contains("fire"), "{body}");
}

#[tokio::test]
async fn a_relay_that_cannot_record_what_it_sends_says_so() {
    let detail = async |fake| ask(api(Arc::new(fake)).admin(), request("GET", "/readyz", "")).await;
    let (status, body) = detail(Fake { refuses_attempts: true, ..Fake::default() }).await;
    assert_eq!((status, &body["status"], &body["attempts"]), (StatusCode::OK, &json!("ready"), &json!("refused")));
    assert_eq!(detail(Fake::default()).await.1.get("attempts"), None);
}

#[tokio::test]
async fn a_relay_that_stops_is_not_ready() {
    let api = api(Arc::default());
    api.stop.cancel();
    assert_eq!(
        ask(api.clone().public(|| false, Router::new()), request("GET", "/readyz", "")).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(ask(api.public(|| false, Router::new()), request("GET", "/healthz", "")).await.0, StatusCode::OK);
}
