//! The room as a whole: requests in, answers out, a store in memory behind it.

use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Request as HttpRequest, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{kinds::tests::hmac_hex, source::tests::source, *};
use crate::{
    envelope::{DeliveryId, EventUid, Name},
    secret::Secret,
    sign,
    store::{
        Attempt, Backlog, DedupeKey, DeliveryRow, Due, Error, EventRow, GaveUp, GivenUp, NewRejection, OnCommit, Pruned,
        Rejection, Remember, Result, Retention, Retried,
    },
};

/// What the room needs of a store, in memory.
#[derive(Default)]
pub(super) struct Memory {
    full: Mutex<bool>,
    /// How many more events it takes before it is full; `None`: any number.
    pub(super) left: Mutex<Option<usize>>,
    pub(super) events: Mutex<Vec<NewEvent>>,
    pub(super) settings: Mutex<BTreeMap<String, String>>,
    rejections: Mutex<BTreeMap<i64, Rejection>>,
    /// Records, in the order of their revisions.
    records: Mutex<Vec<store::Record>>,
    /// Relays over it are replicas.
    shared: Mutex<bool>,
}

impl Memory {
    fn held(&self, key: &DedupeKey) -> Option<Accepted> {
        let events = self.events.lock().unwrap();
        let at = events.iter().position(|event| event.dedupe.key == key.key && key.remember != Remember::Hash(Duration::ZERO))?;
        let held = &events[at];
        let uid = EventUid { salt: 1, seq: i64::try_from(at).unwrap() + 1 };
        Some(Accepted::Duplicate { uid, id: held.envelope.id.clone(), mismatch: held.dedupe.body != key.body })
    }
}

#[async_trait]
impl Store for Memory {
    fn on_commit(&self, _: Arc<dyn OnCommit>) {}

    async fn accept(&self, event: NewEvent) -> Result<Accepted> {
        let taken = self.left.lock().unwrap().as_mut().is_none_or(|left| {
            let taken = 0 < *left;
            *left = left.saturating_sub(1);
            taken
        });
        if *self.full.lock().unwrap() || !taken {
            return Err(Error::Full("no space".into()));
        }
        self.settings.lock().unwrap().extend(event.setting.clone());
        if let Some(duplicate) = self.held(&event.dedupe) {
            return Ok(duplicate);
        }
        let id = event.envelope.id.clone();
        let mut events = self.events.lock().unwrap();
        events.push(event);
        Ok(Accepted::New { uid: EventUid { salt: 1, seq: i64::try_from(events.len()).unwrap() }, id })
    }

    async fn decide(&self, _: &Name, _: Vec<store::Ask>, _: i64, _: Timestamp) -> Result<Vec<store::Decision>> {
        Ok(Vec::new())
    }

    async fn foresee(&self, _: &Name, _: store::Handling, _: Timestamp) -> Result<store::Foreseen> {
        Ok(store::Foreseen::default())
    }

    async fn carried(&self, _: DeliveryId, _: u32) -> Result<Vec<(DeliveryId, Arc<Envelope>)>> {
        Ok(Vec::new())
    }

    async fn expire(&self, _: &Name, _: Timestamp, _: &str, _: Vec<DeliveryId>, _: Timestamp) -> Result<Vec<DeliveryId>> {
        Ok(Vec::new())
    }

    async fn hand_over(&self, _: &Name, _: &Name, _: Timestamp) -> Result<store::HandedOver> {
        Ok(store::HandedOver::default())
    }

    async fn bound_held(&self, _: &Name, _: store::HeldBound, _: Vec<DeliveryId>, _: Timestamp) -> Result<Vec<DeliveryId>> {
        Ok(Vec::new())
    }

    async fn rouse(&self, _: &Name, _: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn reject(&self, rejections: Vec<NewRejection>, _: u32, _: u64) -> Result<()> {
        let mut rows = self.rejections.lock().unwrap();
        for rejection in rejections {
            let id = i64::try_from(rows.len()).unwrap() + 1;
            rows.insert(id, Rejection { id, kept: rejection.sealed.is_some(), rejection, accepted_as: None, retried_at: None });
        }
        Ok(())
    }

    async fn quarantined(&self, filter: Filter, after: i64) -> Result<Vec<Rejection>> {
        let rows = self.rejections.lock().unwrap();
        Ok(rows.range(after + 1..).map(|(_, row)| row).filter(|row| row.kept).take(filter.limit as usize).cloned().collect())
    }

    async fn reseal_rejections(&self, _: Vec<(i64, Vec<u8>)>) -> Result<u64> {
        Ok(0)
    }

    async fn settle_rejection(&self, id: i64, at: Timestamp, outcome: Retried) -> Result<()> {
        let mut rows = self.rejections.lock().unwrap();
        let row = rows.get_mut(&id).unwrap();
        row.retried_at = Some(at);
        if let Retried::Accepted(event) = outcome {
            row.kept = false;
            row.accepted_as = Some(event.to_string());
        }
        Ok(())
    }

    async fn record(&self, _: Vec<Attempt>) -> Result<()> {
        Err(Error::Closed)
    }
    async fn due(&self, _: &Name, _: Timestamp, _: u32, _: Vec<DeliveryId>) -> Result<Vec<Due>> {
        Err(Error::Closed)
    }
    async fn oldest_due(&self, _: &Name, _: Timestamp, _: Vec<DeliveryId>) -> Result<Option<Due>> {
        Err(Error::Closed)
    }
    async fn give_up(&self, _: &Name, _: GaveUp, _: Vec<DeliveryId>) -> Result<GivenUp> {
        Err(Error::Closed)
    }
    async fn next_due(&self, _: &Name, _: Vec<DeliveryId>) -> Result<Option<Timestamp>> {
        Err(Error::Closed)
    }
    async fn backlog(&self, _: Option<&Name>) -> Result<Vec<Backlog>> {
        Err(Error::Closed)
    }
    async fn events(&self, _: Filter) -> Result<Vec<EventRow>> {
        Err(Error::Closed)
    }
    async fn walk(&self, _: crate::store::Walk) -> Result<crate::store::Walked> {
        Err(Error::Closed)
    }
    async fn event(&self, _: EventUid) -> Result<Option<EventRow>> {
        Err(Error::Closed)
    }
    async fn deliveries(&self, _: Filter) -> Result<Vec<DeliveryRow>> {
        Err(Error::Closed)
    }
    async fn attempts(&self, _: EventUid) -> Result<Vec<Attempt>> {
        Err(Error::Closed)
    }
    /// The newest, which is all that is asked for here.
    async fn rejections(&self, _: Filter) -> Result<Vec<Rejection>> {
        Ok(self.rejections.lock().unwrap().values().next_back().cloned().into_iter().collect())
    }
    async fn prune(&self, _: Timestamp, _: Retention, _: Vec<(Name, Timestamp)>) -> Result<Pruned> {
        Err(Error::Closed)
    }
    async fn setting(&self, key: &str) -> Result<Option<String>> {
        Ok(self.settings.lock().unwrap().get(key).cloned())
    }
    async fn set_setting(&self, key: &str, value: String) -> Result<()> {
        self.settings.lock().unwrap().insert(key.to_owned(), value);
        Ok(())
    }
    async fn own_shards(&self, _: crate::store::OwnerId, _: Timestamp, _: Duration) -> Result<Vec<crate::store::Owned>> {
        Err(Error::Closed)
    }
    async fn release_shards(&self, _: crate::store::OwnerId) -> Result<()> {
        Err(Error::Closed)
    }
    async fn retry(&self, _: Vec<DeliveryId>, _: Timestamp) -> Result<Vec<DeliveryId>> {
        Err(Error::Closed)
    }
    async fn cancel(&self, _: Vec<DeliveryId>, _: &str, _: Timestamp) -> Result<Vec<DeliveryId>> {
        Err(Error::Closed)
    }
    async fn erase(&self, _: Vec<EventUid>, _: Timestamp) -> Result<crate::store::Erased> {
        Err(Error::Closed)
    }
    async fn resolve(&self, _: DeliveryId, _: crate::store::Resolution) -> Result<bool> {
        Err(Error::Closed)
    }
    async fn replay(&self, _: EventUid, _: Vec<crate::store::NewDelivery>, _: &str, _: Timestamp) -> Result<Vec<DeliveryId>> {
        Err(Error::Closed)
    }
    async fn adopt(&self, _: &Name, _: &Name) -> Result<u64> {
        Err(Error::Closed)
    }
    async fn count_deliveries(&self, _: Filter) -> Result<u64> {
        Err(Error::Closed)
    }
    async fn count_events(&self, _: Filter) -> Result<u64> {
        Err(Error::Closed)
    }
    async fn settings(&self, _: &str) -> Result<Vec<(String, String)>> {
        Err(Error::Closed)
    }
    async fn remove_setting(&self, _: &str) -> Result<()> {
        Err(Error::Closed)
    }
    async fn split(&self, _: store::Read, _: Vec<String>, _: crate::store::Rendered, _: Timestamp) -> Result<Option<String>> {
        Err(Error::Closed)
    }
    async fn reported(&self, _: Attempt) -> Result<bool> {
        Err(Error::Closed)
    }
    async fn unreported(&self, _: Timestamp) -> Result<crate::store::Unreported> {
        Err(Error::Closed)
    }
    async fn thread(&self, _: [u8; 16]) -> Result<Option<String>> {
        Err(Error::Closed)
    }
    async fn set_thread(&self, _: [u8; 16], _: Option<String>) -> Result<()> {
        Err(Error::Closed)
    }
    async fn change(&self, change: store::Change) -> Result<store::Changed> {
        let mut records = self.records.lock().unwrap();
        let revision = records.last().map_or(0, |last| last.revision) + 1;
        for write in change.writes {
            let store::Write::Put { kind, id, owner, doc, sealed, expected } = write else { return Err(Error::Closed) };
            let at = records.iter().position(|known| (known.kind, &known.id) == (kind, &id));
            if at.map(|at| records[at].revision) != expected {
                return Ok(store::Changed::Conflict);
            }
            at.map(|at| records.remove(at));
            records.push(store::Record { kind, id, owner, revision, doc: Some(doc), sealed });
        }
        Ok(store::Changed::Done { revision })
    }
    async fn records(&self, kind: store::RecordKind, after: i64) -> Result<Vec<store::Record>> {
        let records = self.records.lock().unwrap();
        Ok(records.iter().filter(|it| it.kind == kind && after < it.revision).cloned().collect())
    }
    fn is_shared(&self) -> bool {
        *self.shared.lock().unwrap()
    }
    async fn audit(&self, _: crate::store::AuditFilter) -> Result<Vec<crate::store::AuditRow>> {
        Err(Error::Closed)
    }
    fn newest(&self) -> tokio::sync::watch::Receiver<i64> {
        tokio::sync::watch::channel(0).1
    }
    async fn ready(&self) -> Result<()> {
        Ok(())
    }
    async fn close(&self) {}
}

pub(super) struct Relay {
    pub(super) ingest: Arc<Ingest>,
    pub(super) store: Arc<Memory>,
    pub(super) clock: Clock,
}

const INTERACTOR: &str = r#"{"kind": "interactor", "path": "/webhooks/interactor", "secrets": "whsec_s", "failure_limit": {"rate": "5/s", "burst": 5}}"#;
const TRIGGER: &str =
    r#"{"kind": "trigger", "path": "/triggers/a", "path_secret": "p4th", "rate_limit": {"rate": "1/s", "burst": 2}}"#;
const KEYED: &str = r#"{"kind": "trigger", "path": "/triggers/b", "header": {"name": "X-Key", "value": "k3y"}}"#;

pub(super) fn relay(sources: &[(&str, &str)]) -> Relay {
    over(Arc::default(), Clock::manual("2026-01-20T12:00:00Z"), sources)
}

fn over(store: Arc<Memory>, clock: Clock, sources: &[(&str, &str)]) -> Relay {
    let parts = Parts {
        store: store.clone(),
        clock: clock.clone(),
        metrics: Metrics::default(),
        sealer: Sealer::new(&Secret::new(sign::base64(&[7; 32]))).unwrap(),
        types: Arc::new(crate::subscriptions::EventTypes::new(Vec::new())),
        announcer: crate::announce::Announcer::new().0,
    };
    Relay { ingest: Arc::new(Ingest::new(parts, ways_in(sources))), store, clock }
}

fn ways_in(sources: &[(&str, &str)]) -> WaysIn {
    WaysIn {
        sources: sources.iter().map(|(name, text)| source(name, text).unwrap()).collect(),
        router: Arc::new(Router::new(Vec::new(), Vec::new(), Vec::new())),
        max_body: 1024,
        retention_events: Duration::from_secs(30 * 86_400),
    }
}

impl Relay {
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = HttpRequest::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_vec())).unwrap();
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::from(([192, 0, 2, 7], 5000))));
        self.ingest.answer(request).await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (StatusCode, Value) {
        let (head, body) = self.send("POST", path, headers, body).await.into_parts();
        (head.status, serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap())
    }

    async fn signed(&self, secret: &str, body: &[u8]) -> (StatusCode, Value) {
        let signature = format!("sha256={}", hmac_hex(secret, &[body]));
        let at = crate::clock::rfc3339_s(self.clock.now());
        self.post("/webhooks/interactor", &[("x-interactor-timestamp", &at), ("x-interactor-signature", &signature)], body).await
    }

    /// The rejection log, a line each.
    async fn log(&self) -> String {
        self.ingest.flush().await;
        let rows = self.store.rejections.lock().unwrap();
        let line = |row: &Rejection| {
            let NewRejection { source, code, reason, path, .. } = &row.rejection;
            let source = source.as_ref().map_or("-", Name::as_str);
            format!("{source} {path} {code}{}: {reason}", if row.kept { " (kept)" } else { "" })
        };
        rows.values().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn event(id: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","type":"credential.expired","timestamp":"2026-01-20T11:59:58Z","data":{{"credential_id":"cred_abc","namespace":"user_123"}},"more":1}}"#).into_bytes()
}

#[tokio::test]
async fn a_signed_event_is_kept_and_a_repeat_is_a_duplicate() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    let (status, body) = relay.signed("whsec_s", &event("evt_1")).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"received": true, "id": "evt_1"})));
    let (status, body) = relay.signed("whsec_s", &event("evt_1")).await;
    assert_eq!((status, body), (StatusCode::OK, json!({"received": true, "id": "evt_1", "duplicate": true})));
    let events = relay.store.events.lock().unwrap();
    let mut envelope: Value = serde_json::from_slice(&events[0].envelope.to_json()).unwrap();
    let traceparent = envelope.as_object_mut().unwrap().shift_remove("traceparent").unwrap();
    assert!(is_traceparent(traceparent.as_str().unwrap()));
    assert_eq!(events[0].dedupe.remember, Remember::Id(Duration::from_secs(30 * 86_400)));
    insta::assert_snapshot!(envelope, @r#"{"specversion":"1.0","id":"evt_1","source":"/sources/interactor","type":"credential.expired","subject":"cred_abc","time":"2026-01-20T11:59:58Z","timestamp":"2026-01-20T11:59:58Z","datacontenttype":"application/json","namespace":"user_123","sourcekind":"interactor","receivedat":"2026-01-20T12:00:00.000Z","data":{"credential_id":"cred_abc","namespace":"user_123"}}"#);
}

#[tokio::test]
async fn a_replay_asked_for_by_its_sender_stands_beside_its_first_self() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    let replay = br#"{"id":"evt_1","type":"t","_replayed":true}"#;
    for (body, duplicate) in [(&br#"{"id":"evt_1","type":"t"}"#[..], false), (replay, false), (replay, true)] {
        let (status, answer) = relay.signed("whsec_s", body).await;
        assert_eq!((status, answer.get("duplicate").is_some()), (StatusCode::OK, duplicate));
    }
    assert!(relay.store.events.lock().unwrap()[1].envelope.replayed);
}

#[tokio::test]
async fn checks_come_in_order() {
    let relay = relay(&[("interactor", INTERACTOR), ("t", TRIGGER)]);
    let at = [("x-interactor-timestamp", "2026-01-20T12:00:00Z")];
    let large = vec![b' '; 1025];
    for (method, path, headers, body, code) in [
        ("GET", "/nowhere", &at[..], &large[..], "not_found"),
        ("GET", "/webhooks/interactor", &[], &large, "method_not_allowed"),
        ("POST", "/webhooks/interactor", &[], &large, "payload_too_large"),
        ("POST", "/webhooks/interactor", &[], b"{", "invalid_timestamp"),
        ("POST", "/webhooks/interactor", &at, b"{", "invalid_signature"),
        ("POST", "/triggers/a/p4th", &[("content-type", "text/plain")], b"{", "unsupported_media_type"),
        ("POST", "/triggers/a/p4th", &[], b"{", "invalid_json"),
    ] {
        let response = relay.send(method, path, headers, body).await;
        let allow = response.headers().get("allow").is_some();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((answer["error"].as_str().unwrap(), allow), (code, code == "method_not_allowed"), "{method} {path}");
    }
}

#[tokio::test]
async fn path_secrets_are_part_of_the_path_and_shown_to_nobody() {
    let relay = relay(&[("t", TRIGGER)]);
    assert_eq!(relay.post("/triggers/a/p4th", &[], b"{}").await.0, StatusCode::OK);
    for path in ["/triggers/a", "/triggers/a/", "/triggers/a/wrong", "/triggers/a/p4th/x", "/triggers/a/p4th/"] {
        assert_eq!(relay.post(path, &[], b"{}").await.0, StatusCode::NOT_FOUND, "{path}");
    }
    insta::assert_snapshot!(relay.log().await, @r"
    - /triggers/a not_found: no source has this path; that of `t` ends in a path secret, which is missing
    t /triggers/a/*** not_found (kept): the last segment of the path is not the path secret
    t /triggers/a/*** not_found (kept): the last segment of the path is not the path secret
    - /triggers/a/*** not_found: no source has this path
    - /triggers/a/*** not_found: no source has this path
    ");
}

#[tokio::test]
async fn limits_are_told() {
    let relay = relay(&[("t", TRIGGER)]);
    for _ in 0..2 {
        relay.post("/triggers/a/p4th", &[], b"{}").await;
    }
    let response = relay.send("POST", "/triggers/a/p4th", &[], b"{}").await;
    let headers = ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    let told = headers.map(|name| response.headers()[name].to_str().unwrap().to_owned());
    assert_eq!((response.status(), told), (StatusCode::TOO_MANY_REQUESTS, ["2", "2", "0", "1768910402"].map(str::to_owned)));
    relay.clock.advance(Duration::from_secs(1));
    assert_eq!(relay.post("/triggers/a/p4th", &[], b"{}").await.0, StatusCode::OK);
}

#[tokio::test]
async fn failures_are_limited_and_verified_requests_are_not() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    let mut codes = Vec::new();
    for number in 0..8 {
        codes.push(relay.signed("wrong", &event(&number.to_string())).await.0.as_u16());
    }
    assert_eq!(codes, [401, 401, 401, 401, 401, 429, 429, 429]);
    assert_eq!(relay.signed("whsec_s", &event("evt_1")).await.0, StatusCode::OK);
    relay.ingest.flush().await;
    assert_eq!(relay.store.rejections.lock().unwrap().values().filter(|row| row.kept).count(), 5);
}

#[tokio::test]
async fn a_full_store_is_told() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    *relay.store.full.lock().unwrap() = true;
    let (status, body) = relay.signed("whsec_s", &event("evt_1")).await;
    assert_eq!((status, body["error"].as_str()), (StatusCode::SERVICE_UNAVAILABLE, Some("unavailable")));
    assert!(relay.store.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_room_for_a_body_is_told_and_counts_against_nobody() {
    let limited = r#"{"kind": "interactor", "path": "/a", "secrets": "whsec_s", "failure_limit": {"rate": "1/h", "burst": 1}}"#;
    let relay = relay(&[("interactor", limited)]);
    for _ in 0..3 {
        let (head, ()) = HttpRequest::post("/a").body(()).unwrap().into_parts();
        let (request, fault) = relay.ingest.raw(head, Read::NoRoom);
        let inbound = relay.ingest.inbound.now();
        let response = relay.ingest.conclude(&inbound, inbound.place("/a"), request, fault).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
    }
    assert!(relay.log().await.contains("/a unavailable: too many large bodies are under way"));
}

#[tokio::test]
async fn a_wrong_secret_or_path_costs_nothing() {
    let first = relay(&[("interactor", &INTERACTOR.replace("whsec_s", "whsec_wrong")), ("b", &KEYED.replace("k3y", "wrong"))]);
    assert_eq!(first.signed("whsec_s", &event("evt_1")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(first.post("/triggers/b", &[("x-key", "k3y")], br#"{"n":1}"#).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(first.post("/old", &[("x-key", "k3y")], br#"{"n":2}"#).await.0, StatusCode::NOT_FOUND);
    let none = first.ingest.retry_rejections(Filter::default(), SignedDuration::ZERO).await.unwrap();
    assert_eq!(none, RetryReport { tried: 3, failed: 3, ..RetryReport::default() });
    first.clock.advance(Duration::from_secs(86_400));
    let sources = [("interactor", INTERACTOR), ("b", &KEYED.replace("/triggers/b", "/old")), ("c", KEYED)];
    let sources = sources.map(|(name, text)| (name, text.to_string()));
    let sources: Vec<(&str, &str)> = sources.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let second = over(first.store.clone(), first.clock.clone(), &sources);
    let all = second.ingest.retry_rejections(Filter::default(), SignedDuration::ZERO).await.unwrap();
    assert_eq!(all, RetryReport { tried: 3, accepted: 3, ..RetryReport::default() });
    let events = second.store.events.lock().unwrap();
    assert!(events.iter().all(|event| event.envelope.received_at == second.clock.now()));
}

#[tokio::test]
async fn a_retry_that_succeeds_is_counted_like_any_other_request() {
    let first = relay(&[("interactor", &INTERACTOR.replace("whsec_s", "whsec_wrong"))]);
    assert_eq!(first.signed("whsec_s", &event("evt_1")).await.0, StatusCode::UNAUTHORIZED);
    first.ingest.flush().await;
    first.clock.advance(Duration::from_secs(600));
    let second = over(first.store.clone(), first.clock.clone(), &[("interactor", INTERACTOR)]);
    second.ingest.retry_rejections(Filter::default(), SignedDuration::ZERO).await.unwrap();
    let now = Some(second.clock.now());
    let source = second.ingest.statistics().remove(0);
    assert_eq!((source.counts, source.last_received_at, source.secrets), (vec![("success", 1)], now, vec![now]));
}

#[tokio::test]
async fn a_wrong_clock_can_be_offset() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    let body = event("evt_1");
    let signature = format!("sha256={}", hmac_hex("whsec_s", &[&body]));
    let headers = [("x-interactor-timestamp", "2026-01-20T13:00:00Z"), ("x-interactor-signature", signature.as_str())];
    assert_eq!(relay.post("/webhooks/interactor", &headers, &body).await.1["error"], "invalid_timestamp");
    insta::assert_snapshot!(relay.log().await, @"interactor /webhooks/interactor invalid_timestamp (kept): the clock is off by 3600 s: sent at 2026-01-20T13:00:00Z, after our clock (tolerance 300 s); the signature is right");
    let report = relay.ingest.retry_rejections(Filter::default(), SignedDuration::from_hours(1)).await.unwrap();
    assert_eq!(report.accepted, 1);
}

#[tokio::test]
async fn a_clock_that_was_ahead_when_it_refused_and_is_right_now_can_be_offset() {
    let ahead = over(Arc::default(), Clock::manual("2026-01-20T12:10:00Z"), &[("interactor", INTERACTOR)]);
    let body = br#"{"id":"evt_1","type":"t"}"#;
    let signature = format!("sha256={}", hmac_hex("whsec_s", &[body]));
    let headers = [("x-interactor-timestamp", "2026-01-20T12:00:00Z"), ("x-interactor-signature", signature.as_str())];
    assert_eq!(ahead.post("/webhooks/interactor", &headers, body).await.1["error"], "invalid_timestamp");
    ahead.ingest.flush().await;
    let right = over(ahead.store.clone(), Clock::manual("2026-01-20T12:01:00Z"), &[("interactor", INTERACTOR)]);
    let report = right.ingest.retry_rejections(Filter::default(), SignedDuration::from_mins(-10)).await.unwrap();
    assert_eq!(report, RetryReport { tried: 1, accepted: 1, ..RetryReport::default() });
    let events = right.store.events.lock().unwrap();
    // It says no time: that of its arrival is its time, not that of the retry.
    assert_eq!(events[0].envelope.time, "2026-01-20T12:00:00.000Z");
    assert_eq!(events[0].envelope.received_at, right.clock.now());
}

#[tokio::test]
async fn a_retry_takes_no_method_and_no_more_than_asked_for() {
    let first = relay(&[("interactor", INTERACTOR)]);
    let signature = format!("sha256={}", hmac_hex("whsec_s", &[b"{}"]));
    first.send("PUT", "/moved", &[("x-interactor-signature", &signature)], b"{}").await;
    first.send("POST", "/moved", &[("x-interactor-signature", &signature)], b"{}").await;
    first.ingest.flush().await;
    let file = INTERACTOR.replace("/webhooks/interactor", "/moved");
    let second = over(first.store.clone(), first.clock.clone(), &[("interactor", &file)]);
    let one = second.ingest.retry_rejections(Filter { limit: 1, ..Filter::default() }, SignedDuration::ZERO).await.unwrap();
    assert_eq!(one, RetryReport { tried: 1, failed: 1, ..RetryReport::default() });
    assert!(second.store.rejections.lock().unwrap()[&1].kept);
}

#[tokio::test]
async fn requests_without_proof_are_sampled() {
    let relay = relay(&[("interactor", INTERACTOR)]);
    for _ in 0..150 {
        relay.post("/nowhere", &[], b"{}").await;
    }
    relay.ingest.flush().await;
    let rows = relay.store.rejections.lock().unwrap();
    assert_eq!((rows.len(), rows.values().filter(|row| row.kept).count()), (100, 0));
}

#[tokio::test]
async fn the_doctor_reads_timestamps_as_their_kind_does() {
    let hmac = r#"{"kind": "hmac", "path": "/webhooks/h", "secrets": "s", "header": "x-sig", "timestamp_header": "x-time", "tolerance": "5m"}"#;
    let relay = relay(&[("h", hmac)]);
    let body = br#"{"id": "e", "type": "t"}"#;
    // An hour ago, in milliseconds, in seconds with a fraction, and in no form at all.
    for stamp in ["1768906800000", "1768906800.5", "yesterday"] {
        relay.post("/webhooks/h", &[("x-time", stamp), ("x-sig", &hmac_hex("s", &[body]))], body).await;
    }
    let log = relay.log().await;
    let reasons: Vec<_> = log.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    insta::assert_snapshot!(reasons.join("\n"), @r"
    the clock is off by 3600 s: sent at 2026-01-20T11:00:00Z, before our clock (tolerance 300 s); the signature is right
    the clock is off by 3599 s: sent at 2026-01-20T11:00:00Z, before our clock (tolerance 300 s); the signature is right
    the timestamp is neither ISO 8601 with `Z` or an offset, nor seconds or milliseconds since 1970
    ");
}

#[tokio::test]
async fn the_doctor_names_the_likely_cause() {
    let agents = r#"{"kind": "agent", "path": "/webhooks/agent", "secrets": "agent-secret"}"#;
    let relay =
        relay(&[("interactor", &INTERACTOR.replace("\"5/s\", \"burst\": 5", "\"500/s\", \"burst\": 500")), ("agents", agents)]);
    let body = br#"{ "id": "e", "type": "t" }"#;
    let compact = br#"{"id":"e","type":"t"}"#;
    let at = "2026-01-20T12:00:00Z";
    let good = hmac_hex("whsec_s", &[body]);
    for signature in [
        good.clone(),
        format!("sha256={}", good.to_uppercase()),
        format!("sha256={}", sign::base64(&sign::hex32(good.as_bytes()).unwrap())),
        format!("sha256={}", hmac_hex("s", &[body])),
        format!("sha256={}", hmac_hex("agent-secret", &[body])),
        format!("sha256={}", hmac_hex("whsec_s", &[compact])),
        format!("sha256={}", hmac_hex("whsec_s", &[br#"{"id": "e", "type": "t"}"#])),
        format!("sha256={}", hmac_hex("whsec_s", &[body, b"\n"])),
        hmac_hex("whsec_s", &[at.as_bytes(), b".", body]),
        format!("sha256={}", hmac_hex("nobody's", &[body])),
        "nonsense".to_owned(),
    ] {
        relay.post("/webhooks/interactor", &[("x-interactor-timestamp", at), ("x-interactor-signature", &signature)], body).await;
    }
    relay.post("/webhooks/interactor", &[("x-interactor-timestamp", "1768910400"), ("x-interactor-signature", "a")], body).await;
    relay.post("/webhooks/interactor", &[("x-interactor-timestamp", at), ("x-webhook-signature", "a")], body).await;
    relay.post("/old", &[("x-webhook-signature", &hmac_hex("agent-secret", &[body]))], body).await;
    let log = relay.log().await;
    let reasons: Vec<_> = log.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    insta::assert_snapshot!(reasons.join("\n"), @r"
    wrong encoding: the HMAC is right, but not written as `sha256=` and 64 lowercase hex digits
    wrong encoding: the HMAC is right, but not written as `sha256=` and 64 lowercase hex digits
    wrong encoding: the HMAC is right, but not written as `sha256=` and 64 lowercase hex digits
    the signature fits when `whsec_` is taken off the secret
    the signature fits with a secret of source `agents`
    the signature fits: the body was re-serialised on the way
    the signature fits: the body was re-serialised on the way
    the signature fits: the body lost its last line break on the way
    the signature fits over timestamp, dot and body: the other dialect fits
    no known secret fits: another secret, or the body was changed on the way
    the signature is not written as `sha256=` and 64 lowercase hex digits, nor is it an HMAC in hex or base64
    the timestamp is Unix seconds, not ISO 8601: the other dialect would fit
    header `x-interactor-signature` is missing; there is `x-webhook-signature`, as a source of kind `agent` expects
    no source has this path; the proof of the sender fits source `agents`
    ");
    for secret in ["whsec_s", "agent-secret"] {
        assert!(!log.contains(secret));
    }
}

#[test]
fn trace_contexts_are_taken_when_they_are_valid() {
    assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
    assert!(is_traceparent(&new_traceparent()));
    for bad in [
        "",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
    ] {
        assert!(!is_traceparent(bad), "{bad}");
    }
}

#[tokio::test]
async fn limits_that_have_not_changed_go_on_over_another_file_and_others_begin_anew() {
    let trigger = |rate: &str| {
        format!(
            r#"{{"kind": "trigger", "path": "/triggers/a", "path_secret": "p4th", "rate_limit": {{"rate": "{rate}/m", "burst": 2}}}}"#
        )
    };
    let (same, other) = (trigger("1"), trigger("2"));
    let relay = relay(&[("a", &same)]);
    let send = async |status: u16| {
        let answer = relay.send("POST", "/triggers/a/p4th", &[], format!(r#"{{"n": {}}}"#, fastrand::u64(..)).as_bytes()).await;
        assert_eq!(answer.status().as_u16(), status);
    };
    send(200).await;
    send(200).await;
    relay.ingest.switch(ways_in(&[("b", KEYED), ("a", &same)]));
    send(429).await;
    assert_eq!(relay.ingest.statistics()[1].counts, [("success", 2), ("rate_limited", 1)]);
    relay.ingest.switch(ways_in(&[("a", &other)]));
    send(200).await;
    relay.ingest.switch(ways_in(&[("b", KEYED)]));
    send(404).await;
}

#[tokio::test]
async fn a_request_ends_by_the_file_it_began_with() {
    let relay = relay(&[("a", TRIGGER)]);
    let (head, _) = HttpRequest::post("/triggers/a/p4th").body(Body::empty()).unwrap().into_parts();
    let (request, fault) = relay.ingest.raw(head, Read::Whole("{}".into()));
    let began = relay.ingest.inbound.now();
    let place = began.place("/triggers/a/p4th");
    relay.ingest.switch(ways_in(&[("b", KEYED)]));
    assert_eq!(relay.ingest.conclude(&began, place, request, fault).await.status(), StatusCode::OK);
    assert_eq!(relay.store.events.lock().unwrap()[0].envelope.source.as_str(), "a");
}

const SILENT: &str =
    r#"{"kind": "trigger", "path": "/triggers/b", "header": {"name": "X-Key", "value": "k3y"}, "silent_after": "1h"}"#;

/// Three replicas behind a load balancer, none of which has taken anything in.
async fn replicas() -> [Relay; 3] {
    let first = relay(&[("b", SILENT)]);
    *first.store.shared.lock().unwrap() = true;
    let more = || over(first.store.clone(), first.clock.clone(), &[("b", SILENT)]);
    let all = [more(), more(), first];
    for relay in &all {
        relay.ingest.restore_statistics().await.unwrap();
    }
    all
}

/// Each keeps what it counted, and tells what there is to tell; the one at `owner` is to.
async fn round(replicas: &[Relay; 3], owner: usize) -> Vec<Notice> {
    let mut told = Vec::new();
    for _ in 0..2 {
        for (n, relay) in replicas.iter().enumerate() {
            relay.ingest.keep_statistics(&|_| n == owner).await.unwrap();
            told.extend(relay.ingest.notices(&|_| n == owner));
        }
    }
    told
}

#[tokio::test]
async fn replicas_count_together_and_one_of_them_tells_of_silence_once() {
    let replicas = replicas().await;
    let clock = &replicas[0].clock;
    for n in 0..9 {
        clock.advance(Duration::from_secs(30 * 60));
        let body = format!(r#"{{"n": {n}}}"#);
        assert_eq!(replicas[n % 3].post("/triggers/b", &[("x-key", "k3y")], body.as_bytes()).await.0, StatusCode::OK);
        assert_eq!(round(&replicas, 0).await, [], "another has heard from it");
    }
    let last = clock.now();
    for relay in &replicas {
        let source = relay.ingest.statistics().remove(0);
        assert_eq!(
            (source.counts, source.last_received_at, source.secrets),
            (vec![("success", 9)], Some(last), vec![Some(last)])
        );
    }
    clock.advance(Duration::from_secs(3600));
    assert_eq!(round(&replicas, 0).await, [Notice::Silent { source: "b".into(), last_at: Some(last) }]);
    // Whoever is to tell from now on knows what was told; and so does a run after this one.
    assert_eq!(round(&replicas, 1).await, []);
    let [.., third] = &replicas;
    let next = over(third.store.clone(), third.clock.clone(), &[("b", SILENT)]);
    next.ingest.restore_statistics().await.unwrap();
    next.ingest.keep_statistics(&|_| true).await.unwrap();
    assert_eq!(next.ingest.notices(&|_| true), []);
    assert_eq!(next.ingest.statistics(), third.ingest.statistics());
}

#[tokio::test]
async fn what_replicas_refuse_together_is_told_once() {
    let replicas = replicas().await;
    for relay in &replicas {
        for _ in 0..4 {
            assert_eq!(relay.post("/triggers/b", &[("x-key", "wrong")], b"{}").await.0, StatusCode::UNAUTHORIZED);
        }
    }
    let told = round(&replicas, 2).await;
    assert!(matches!(&*told, [Notice::Rejecting { count: 12, .. }]), "{told:?}");
    assert_eq!(round(&replicas, 0).await, []);
    // One that learns of a source what long was known tells nothing of that.
    let [.., third] = &replicas;
    let other = over(third.store.clone(), third.clock.clone(), &[("a", TRIGGER)]);
    other.ingest.restore_statistics().await.unwrap();
    other.ingest.switch(ways_in(&[("b", SILENT)]));
    other.ingest.keep_statistics(&|_| true).await.unwrap();
    assert_eq!(
        (other.ingest.notices(&|_| true), &other.ingest.statistics()[0].counts),
        (Vec::new(), &third.ingest.statistics()[0].counts)
    );
}
