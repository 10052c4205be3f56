//! Operating the relay by API: lanes, dead letters, jobs; over its router, with an engine made up in memory.

use std::{collections::HashMap, sync::Mutex};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{
    engine::Steering,
    tests::{Fake, api, ask, get_json, ids, request, uid},
    *,
};
use crate::{
    deliver::{self, Heard, NoTrial, TargetState, TargetStatus, Trial},
    envelope::{Envelope, Name, tests::sample},
    explain::Explanation,
    ingest::SourceStatistics,
    jobs::{BeginError, Job, Kind},
    store::{Attempt, Cause, Delivery, Resolution, State},
};

/// What people did.
#[derive(Default)]
pub(super) struct Operated {
    /// How `crm` stands.
    lane: Mutex<Option<TargetState>>,
    woken: Mutex<Vec<Name>>,
    forgotten: Mutex<Vec<DeliveryId>>,
    states: Mutex<HashMap<DeliveryId, State>>,
    resolved: Mutex<HashMap<DeliveryId, Resolution>>,
    begun: Mutex<Vec<(Kind, Filter, Option<u32>)>>,
    jobs: Mutex<Vec<Job>>,
}

impl Operated {
    pub(super) fn set(&self, ids: Vec<DeliveryId>, state: State) -> Vec<DeliveryId> {
        self.states.lock().unwrap().extend(ids.iter().map(|id| (*id, state)));
        ids
    }

    pub(super) fn resolve(&self, id: DeliveryId, resolution: Resolution) -> bool {
        self.resolved.lock().unwrap().insert(id, resolution).is_none()
    }

    pub(super) fn apply(&self, delivery: &mut Delivery) {
        delivery.state = self.states.lock().unwrap().get(&delivery.id).copied().unwrap_or(delivery.state);
        delivery.resolved = self.resolved.lock().unwrap().get(&delivery.id).cloned();
    }
}

fn job(kind: Kind, id: &str) -> Job {
    Job::sample(kind, id, sample().received_at)
}

#[async_trait]
impl Engine for Fake {
    fn now(&self) -> Timestamp {
        sample().received_at
    }

    fn targets(&self) -> Vec<TargetStatus> {
        let state = self.operated.lane.lock().unwrap().unwrap_or(TargetState::Ok);
        vec![TargetStatus {
            name: "crm".into(),
            kind: "webhook",
            url: "https://crm.example/***".into(),
            state,
            since: (state != TargetState::Ok).then(|| sample().received_at),
            cause: (state == TargetState::Broken).then_some(Cause::Receiver),
            last_error: Some("http_503".into()),
            last_success_at: None,
            paused_by: (state == TargetState::Paused).then(|| "admin".to_owned()),
            attempts_last_minute: Some(3),
            deliveries_last_minute: Some(1),
            next_probe_at: None,
        }]
    }

    fn sources(&self) -> Vec<SourceStatistics> {
        vec![SourceStatistics {
            name: "interactor".into(),
            kind: "interactor",
            path: Some("/webhooks/interactor".into()),
            last_received_at: Some(sample().received_at),
            counts: vec![("success", 7), ("invalid_signature", 3)],
            secrets: vec![Some(sample().received_at), None],
            poll: None,
        }]
    }

    async fn poll(&self, _: &Name) -> store::Result<bool> {
        Ok(false)
    }

    fn request_headers(&self, event: &Envelope, delivery: &Delivery, attempt: &Attempt) -> Vec<(String, String)> {
        deliver::relay_headers(event, delivery, attempt.number)
    }

    async fn foretell(&self, _: &Envelope) -> store::Result<Explanation> {
        Err(store::Error::Closed)
    }

    fn written(&self, _: &[u8], _: Option<&str>) -> Result<Envelope, String> {
        Err("nothing is read here".to_owned())
    }

    async fn steer(&self, target: &Name, how: Steering, _: &str) -> store::Result<bool> {
        let state = if how == Steering::Pause { TargetState::Paused } else { TargetState::Ok };
        *self.operated.lane.lock().unwrap() = Some(state);
        Ok(target.as_str() == "crm")
    }

    async fn test(&self, _: &Name, _: Option<&str>) -> Result<Trial, NoTrial> {
        Err(NoTrial::Nobody)
    }

    async fn twilio(&self, _: &str, _: &str, _: &[u8], _: &[u8]) -> Heard {
        Heard::Nobody
    }

    async fn mutes(&self) -> store::Result<Vec<crate::deliver::mutes::Mute>> {
        Ok(Vec::new())
    }

    async fn mute(
        &self,
        _: crate::deliver::mutes::Wanted,
        _: crate::clock::Timestamp,
    ) -> Result<crate::deliver::mutes::Mute, crate::deliver::mutes::Refused> {
        Err(crate::deliver::mutes::Refused::TooMany)
    }

    async fn unmute(&self, _: &str) -> store::Result<Option<crate::deliver::mutes::Mute>> {
        Ok(None)
    }

    fn wake(&self, targets: &[Name]) {
        self.operated.woken.lock().unwrap().extend_from_slice(targets);
    }

    fn forget(&self, ids: &[DeliveryId]) {
        self.operated.forgotten.lock().unwrap().extend_from_slice(ids);
    }

    async fn count(&self, _: &Kind, _: &Filter) -> store::Result<u64> {
        Ok(2)
    }

    async fn begin(&self, kind: Kind, filter: Filter, rate: Option<u32>, _: &str) -> Result<Job, BeginError> {
        if rate == Some(13) {
            return Err(BeginError::TooMany(100));
        }
        self.operated.begun.lock().unwrap().push((kind.clone(), filter, rate));
        Ok(job(kind, "job_2"))
    }

    fn jobs(&self) -> Vec<Job> {
        self.operated.jobs.lock().unwrap().clone()
    }

    async fn rekey(&self, _: i64) -> store::Result<crate::rekey::Slice> {
        Err(store::Error::Closed)
    }

    async fn cancel_job(&self, id: &str) -> store::Result<Option<Job>> {
        let mut jobs = self.operated.jobs.lock().unwrap();
        let found = jobs.iter_mut().find(|job| job.id == id);
        Ok(found.map(|job| {
            job.finished_at = Some(sample().received_at);
            job.clone()
        }))
    }
}

async fn post(fake: &Arc<Fake>, path: &str, body: &str) -> (u16, Value) {
    let (status, answer) = ask(api(fake.clone()).admin(), request("POST", path, body)).await;
    (status.as_u16(), answer)
}

fn id(seq: i64, n: u32) -> DeliveryId {
    DeliveryId { event: uid(seq), n }
}

#[tokio::test]
async fn targets_tell_how_they_stand_and_those_that_are_gone_are_behind() {
    let fake = Arc::new(Fake::default());
    let list = get_json(&fake, "/api/v1/targets").await;
    assert_eq!((ids(&list, "name"), &list["next"]), (vec!["crm".into(), "gone".into()], &Value::Null));
    insta::assert_snapshot!(serde_json::to_string_pretty(&list["data"]).unwrap(), @r#"
    [
      {
        "name": "crm",
        "kind": "webhook",
        "url": "https://crm.example/***",
        "state": "ok",
        "cause": null,
        "since": null,
        "paused_by": null,
        "backlog": 6,
        "oldest_at": "2026-01-20T12:00:00.412Z",
        "dead": 1,
        "last_error": "http_503",
        "last_success_at": null,
        "attempts_per_minute": 3,
        "deliveries_per_minute": 1,
        "next_probe_at": null
      },
      {
        "name": "gone",
        "kind": null,
        "url": null,
        "state": "disabled",
        "cause": "config",
        "since": null,
        "paused_by": null,
        "backlog": 6,
        "oldest_at": "2026-01-20T12:00:00.412Z",
        "dead": 1,
        "last_error": null,
        "last_success_at": null,
        "attempts_per_minute": 0,
        "deliveries_per_minute": 0,
        "next_probe_at": null
      }
    ]
    "#);
    assert_eq!(get_json(&fake, "/api/v1/targets/gone").await["data"], list["data"][1]);
    for (path, error) in [("/api/v1/targets/nobody", "not_found"), ("/api/v1/targets?limt=1", "invalid_request")] {
        let (_, answer) = ask(api(fake.clone()).admin(), request("GET", path, "")).await;
        assert_eq!(answer["error"], error, "{path}");
    }
}

#[tokio::test]
async fn sources_tell_what_came_and_which_secrets_are_in_use() {
    let list = get_json(&Arc::new(Fake::default()), "/api/v1/sources").await;
    let at = "2026-01-20T12:00:00.412Z";
    let expected = json!({"data": [{
        "name": "interactor",
        "kind": "interactor",
        "path": "/webhooks/interactor",
        "last_received_at": at,
        "counts": {"success": 7, "invalid_signature": 3},
        "secrets": [{"position": 0, "last_used_at": at}, {"position": 1, "last_used_at": null}],
        "poll": null,
    }], "next": null});
    assert_eq!(list, expected);
}

#[tokio::test]
async fn deliveries_of_a_lane_that_waits_are_held_and_can_be_asked_for() {
    for (lane, cause) in [(TargetState::Paused, "paused"), (TargetState::Broken, "broken")] {
        let fake = Arc::new(Fake::with_in_flight(vec![id(6, 1)]));
        *fake.operated.lane.lock().unwrap() = Some(lane);
        let mut seen = Vec::new();
        let mut path = "/api/v1/deliveries?state=held&limit=3".to_owned();
        loop {
            let page = get_json(&fake, &path).await;
            seen.extend(ids(&page, "id").into_iter().zip(ids(&page, "cause")));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/deliveries?state=held&limit=3&after={next}");
        }
        let held = (2..=7).rev().flat_map(|seq| [(id(seq, 2).to_string(), "config"), (id(seq, 1).to_string(), cause)]);
        let held: Vec<_> =
            held.filter(|(held, _)| *held != id(6, 1).to_string()).map(|(id, cause)| (id, cause.to_owned())).collect();
        assert_eq!(seen, held, "what is under way is not held");
        assert_eq!(ids(&get_json(&fake, "/api/v1/deliveries?state=pending").await, "id"), [] as [String; 0]);
        assert_eq!(ids(&get_json(&fake, "/api/v1/deliveries?state=sending").await, "id"), [id(6, 1).to_string()]);
        let one = get_json(&fake, &format!("/api/v1/deliveries/{}", id(7, 1))).await;
        assert_eq!((&one["data"]["state"], &one["data"]["next_attempt_at"]), (&json!("held"), &Value::Null));
    }
}

#[tokio::test]
async fn a_person_pauses_and_resumes_a_target() {
    let fake = Arc::new(Fake::default());
    for (verb, state) in [("pause", "paused"), ("resume", "ok"), ("close", "ok")] {
        let (status, answer) = post(&fake, &format!("/api/v1/targets/crm/{verb}"), "").await;
        assert_eq!((status, &answer["data"]["state"]), (200, &json!(state)), "{verb}");
    }
    assert_eq!(post(&fake, "/api/v1/targets/nobody/pause", "").await.0, 404);
    let (status, answer) = post(&fake, "/api/v1/targets/gone/pause", "").await;
    assert_eq!((status, &answer["error"]), (409, &json!("conflict")));
}

#[tokio::test]
async fn a_dead_letter_is_retried_once_and_its_lane_is_woken() {
    let fake = Arc::new(Fake::default());
    let path = format!("/api/v1/deliveries/{}/retry", id(1, 1));
    let (status, answer) = post(&fake, &path, "").await;
    assert_eq!((status, &answer["data"]["state"], &answer["data"]["attempts"]), (200, &json!("pending"), &json!(1)));
    assert_eq!(*fake.operated.woken.lock().unwrap(), ["crm".into()]);
    let (status, answer) = post(&fake, &path, "").await;
    assert_eq!((status, &answer["error"]), (409, &json!("conflict")));
    assert!(answer["message"].as_str().unwrap().contains("pending"), "{answer}");
    assert_eq!(post(&fake, &format!("/api/v1/dead-letters/{}/retry", id(1, 2)), "").await.0, 200);
    assert_eq!(post(&fake, &format!("/api/v1/deliveries/{}/retry", id(9, 1)), "").await.0, 404);
    assert_eq!(post(&fake, "/api/v1/deliveries/dl_1/retry", "").await.0, 404);
}

#[tokio::test]
async fn what_waits_can_be_cancelled_and_what_is_final_cannot() {
    let fake = Arc::new(Fake::default());
    let (status, answer) = post(&fake, &format!("/api/v1/deliveries/{}/cancel", id(2, 1)), "").await;
    assert_eq!((status, &answer["data"]["state"]), (200, &json!("cancelled")));
    assert_eq!(*fake.operated.forgotten.lock().unwrap(), [id(2, 1)]);
    let cancelled = get_json(&fake, "/api/v1/deliveries?state=cancelled").await;
    assert_eq!(ids(&cancelled, "id"), [id(2, 1).to_string()]);
    let (status, answer) = post(&fake, &format!("/api/v1/deliveries/{}/cancel", id(1, 1)), "").await;
    assert_eq!((status, &answer["error"]), (409, &json!("conflict")));
    assert_eq!(post(&fake, &format!("/api/v1/deliveries/{}/cancel", id(9, 1)), "").await.0, 404);
}

#[tokio::test]
async fn a_dead_letter_is_resolved_with_a_note() {
    let fake = Arc::new(Fake::default());
    let path = format!("/api/v1/dead-letters/{}/resolve", id(1, 1));
    for body in ["", r#"{"note": " "}"#, r#"{"note": []}"#, r#"{"why": "x"}"#, &format!(r#"{{"note": "{}"}}"#, "x".repeat(1001))]
    {
        let (status, answer) = post(&fake, &path, body).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{body}");
    }
    let (status, answer) = post(&fake, &path, r#"{"note": "told them by phone"}"#).await;
    assert_eq!((status, &answer["data"]["resolved"]["note"]), (200, &json!("told them by phone")));
    for (query, left) in [("resolved=false", vec![id(1, 2)]), ("resolved=true", vec![id(1, 1)]), ("", vec![id(1, 2)])] {
        let list = get_json(&fake, &format!("/api/v1/dead-letters?{query}")).await;
        assert_eq!(ids(&list, "id"), left.iter().map(ToString::to_string).collect::<Vec<_>>(), "{query}");
    }
    assert_eq!(post(&fake, &path, r#"{"note": "again"}"#).await.0, 409);
    assert_eq!(post(&fake, &format!("/api/v1/dead-letters/{}/retry", id(1, 1)), "").await.0, 409);
    assert_eq!(post(&fake, &format!("/api/v1/dead-letters/{}/resolve", id(2, 1)), r#"{"note": "x"}"#).await.0, 409);
    assert_eq!(post(&fake, &format!("/api/v1/dead-letters/{}/resolve", id(9, 1)), r#"{"note": "x"}"#).await.0, 404);
}

#[tokio::test]
async fn dead_letters_are_found_by_cause() {
    let fake = Arc::new(Fake::default());
    assert_eq!(ids(&get_json(&fake, "/api/v1/dead-letters?cause=receiver").await, "id").len(), 2);
    assert_eq!(ids(&get_json(&fake, "/api/v1/dead-letters?cause=config").await, "id").len(), 0);
}

#[tokio::test]
async fn many_are_counted_first_and_then_worked_on_by_a_job() {
    let fake = Arc::new(Fake::default());
    let (status, answer) = post(&fake, "/api/v1/dead-letters/retry?target=crm", r#"{"dry_run": true}"#).await;
    assert_eq!((status, answer), (200, json!({"data": {"dry_run": true, "count": 2}})));
    assert!(fake.operated.begun.lock().unwrap().is_empty());
    let (status, answer) =
        post(&fake, "/api/v1/dead-letters/retry", r#"{"target": "crm", "cause": "config", "rate": "5/s"}"#).await;
    assert_eq!((status, &answer["data"]["id"]), (201, &json!("job_2")));
    let (status, _) =
        post(&fake, "/api/v1/replays", r#"{"source": "interactor", "target": "crm", "state": "dead", "rate": 7}"#).await;
    assert_eq!(status, 201);
    let (status, _) = post(&fake, "/api/v1/replays", r#"{"target": "crm", "type": "a.b"}"#).await;
    assert_eq!(status, 201);
    let (status, _) = post(&fake, "/api/v1/targets/gone/cancel", "").await;
    assert_eq!(status, 201);
    let begun = fake.operated.begun.lock().unwrap();
    let to_crm = || Kind::Replay { target: Some("crm".into()) };
    let crm = || Some("crm".to_owned());
    let expected = [
        (
            Kind::Retry,
            Filter {
                target: crm(),
                state: Some(State::Dead),
                resolved: Some(false),
                cause: Some(Cause::Config),
                ..Filter::default()
            },
            Some(5),
        ),
        (
            to_crm(),
            Filter { source: Some("interactor".into()), target: crm(), state: Some(State::Dead), ..Filter::default() },
            Some(7),
        ),
        (to_crm(), Filter { r#type: Some("a.b".into()), ..Filter::default() }, None),
        (Kind::Cancel, Filter { target: Some("gone".into()), state: Some(State::Pending), ..Filter::default() }, None),
    ];
    assert_eq!(*begun, expected);
}

#[tokio::test]
async fn jobs_are_listed_shown_and_cancelled_and_replays_are_among_them() {
    let fake = Arc::new(Fake::default());
    *fake.operated.jobs.lock().unwrap() = vec![job(Kind::Replay { target: None }, "job_3"), job(Kind::Retry, "job_2")];
    assert_eq!(ids(&get_json(&fake, "/api/v1/jobs").await, "id"), ["job_3", "job_2"]);
    assert_eq!(ids(&get_json(&fake, "/api/v1/jobs?limit=1").await, "id"), ["job_3"]);
    assert_eq!(ids(&get_json(&fake, "/api/v1/replays").await, "id"), ["job_3"]);
    assert_eq!(get_json(&fake, "/api/v1/replays/job_3").await["data"]["kind"], "replay");
    assert_eq!(get_json(&fake, "/api/v1/jobs/job_2").await["data"]["kind"], "retry");
    for path in ["/api/v1/replays/job_2", "/api/v1/jobs/job_1", "/api/v1/jobs/%ff"] {
        assert_eq!(ask(api(fake.clone()).admin(), request("GET", path, "")).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(post(&fake, "/api/v1/replays/job_2/cancel", "").await.0, 404);
    assert_eq!(post(&fake, "/api/v1/replays/job_3/cancel", "").await.0, 200);
    assert_eq!(post(&fake, "/api/v1/jobs/job_3/cancel", "").await.0, 409, "it has ended");
}

#[tokio::test]
async fn what_makes_no_sense_begins_nothing() {
    let fake = Arc::new(Fake::default());
    for (path, body, word) in [
        ("/api/v1/dead-letters/retry", r#"{"rate": 0}"#, "rate"),
        ("/api/v1/dead-letters/retry", r#"{"dry_run": "perhaps"}"#, "dry_run"),
        ("/api/v1/dead-letters/retry", r#"{"cause": "moon"}"#, "cause"),
        ("/api/v1/dead-letters/retry", r#"{"resolved": true}"#, "resolved"),
        ("/api/v1/replays", r#"{"target": "nobody"}"#, "target"),
        ("/api/v1/replays", r#"{"state": "lost"}"#, "state"),
        ("/api/v1/replays", r#"{"since": "noon"}"#, "since"),
        ("/api/v1/replays", "[]", "JSON"),
        ("/api/v1/targets/crm/cancel", r#"{"state": "dead"}"#, "state"),
    ] {
        let (status, answer) = post(&fake, path, body).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{path} {body}");
        assert!(answer["message"].as_str().unwrap().contains(word), "{path} {body}: {answer}");
    }
    assert!(fake.operated.begun.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_operated_without_the_token() {
    let bare = |method: &str, path: &str| {
        axum::http::Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap()
    };
    for (method, path) in [
        ("GET", "/api/v1/targets"),
        ("POST", "/api/v1/targets/crm/pause"),
        ("POST", "/api/v1/dead-letters/retry"),
        ("POST", "/api/v1/replays"),
        ("GET", "/api/v1/jobs"),
        ("GET", "/api/v1/sources"),
    ] {
        let (status, _) = ask(api(Arc::default()).admin(), bare(method, path)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn too_many_jobs_are_refused_as_what_they_are() {
    let (status, body) = post(&Arc::default(), "/api/v1/replays", r#"{"rate": "13/s"}"#).await;
    assert_eq!((status, &body["error"]), (429, &json!("too_many_jobs")));
    insta::assert_snapshot!(body["message"], @r#""100 jobs are unfinished, which is as many as there may be: wait for one to end, or cancel one""#);
}
