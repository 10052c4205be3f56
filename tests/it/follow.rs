//! Consumers that cannot take a webhook ask for what is new and wait for it: `GET /api/v1/events?after=…&wait=30s`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, SOON, TestApp, relay, routes, seconds, spawn_app, throughout, until};

/// Well below the grace of a stop, and far more than an answer takes.
const PROMPT: Duration = Duration::from_secs(10);

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

fn next(answer: &Answer) -> String {
    answer.json()["next"].as_str().unwrap().to_owned()
}

/// A request that waits.
struct Waiting(tokio::task::JoinHandle<Answer>);

impl Waiting {
    /// Asks, and looks after nothing.
    fn spawn(app: &TestApp, path: &str) -> Self {
        let request = relay::client().get(format!("http://{}{path}", app.admin)).bearer_auth(relay::TOKEN);
        Self(tokio::spawn(async move { Answer::read(request.send().await.unwrap()).await }))
    }

    /// Asks, and is under way once the relay has it.
    async fn begin(app: &TestApp, query: &str) -> Self {
        let Self(asked) = Self::spawn(app, &format!("/api/v1/events?{query}"));
        until("a request to wait", SOON, async || {
            assert!(!asked.is_finished(), "it does not wait");
            (app.handles.lasting.waiting() == 1).then_some(())
        })
        .await;
        Self(asked)
    }

    async fn answer(self) -> Answer {
        tokio::time::timeout(SOON, self.0).await.expect("an answer in time").unwrap()
    }
}

#[tokio::test]
pub(crate) async fn whoever_waits_is_answered_as_soon_as_something_is_committed() {
    let app = spawn_app(routes().interactor()).await;
    let waiting = Waiting::begin(&app, "wait=30s").await;
    // Nobody gets it: it is told of all the same.
    app.takes("evt_1").await;
    let answer = waiting.answer().await;
    assert_eq!(ids(&answer), ["evt_1"]);
    let event = &answer.json()["data"][0];
    assert_eq!(event["verdict"], "unmatched");
    assert_eq!(
        event["envelope"]["data"],
        serde_json::from_str::<Value>(&crate::support::signed::event("evt_1")).unwrap()["data"]
    );
    assert_eq!(event["envelope"]["sourcekind"], "interactor");

    let behind = next(&answer);
    let waiting = Waiting::begin(&app, &format!("after={behind}&wait=30s")).await;
    app.clock.advance(seconds(30));
    let empty = waiting.answer().await;
    assert_eq!((ids(&empty), next(&empty)), (vec![], behind.clone()));

    app.takes("evt_2").await;
    app.takes("evt_3").await;
    let both = app.get(&format!("/api/v1/events?after={behind}&wait=30s&envelope=false")).await;
    assert_eq!(ids(&both), ["evt_2", "evt_3"]);
    assert!(both.json()["data"][0].get("envelope").is_none());
    // The id of an event is a cursor too.
    let uid = both.json()["data"][0]["uid"].as_str().unwrap().to_owned();
    assert_eq!(ids(&app.get(&format!("/api/v1/events?after={uid}")).await), ["evt_3"]);
    let first = app.get("/api/v1/events?wait=1&limit=1").await;
    assert_eq!(ids(&first), ["evt_1"]);
    assert_eq!(next(&first), behind);
    assert_eq!(ids(&app.get("/api/v1/events?envelope=true").await), ["evt_3", "evt_2", "evt_1"]);
}

#[tokio::test]
pub(crate) async fn types_are_globs_and_what_is_not_wanted_wakes_nobody_and_moves_the_cursor() {
    let app = spawn_app(routes().interactor()).await;
    app.takes_of("evt_1", "credential.expired", json!({})).await;
    app.takes_of("evt_2", "workflow.instance.failed", json!({})).await;
    app.takes_of("evt_3", "agent.room.closed", json!({})).await;
    let of = async |query: &str| ids(&app.get(&format!("/api/v1/events?after=0&{query}")).await);
    assert_eq!(of("type=workflow.**").await, ["evt_2"]);
    assert_eq!(of("type=workflow.**&type=credential.*").await, ["evt_1", "evt_2"]);
    assert_eq!(of("type=*.expired,agent.**&wait=5s").await, ["evt_1", "evt_3"]);
    assert_eq!(of("type=agent.room.closed&source=interactor").await, ["evt_3"]);
    assert_eq!(ids(&app.get("/api/v1/events?type=*.*.*").await), ["evt_3", "evt_2"]);
    assert_eq!(of("source=nobody").await, Vec::<String>::new());

    let waiting = Waiting::begin(&app, "after=0&type=slow.*&wait=30s").await;
    app.takes_of("evt_4", "fast.one", json!({})).await;
    throughout("it waits", Duration::from_millis(250), async || !waiting.0.is_finished()).await;
    app.takes_of("evt_5", "slow.one", json!({})).await;
    let answer = waiting.answer().await;
    assert_eq!(ids(&answer), ["evt_5"]);
    let waiting = Waiting::begin(&app, "type=slow.two&wait=30s").await;
    app.clock.advance(seconds(30));
    let nothing = waiting.answer().await;
    assert_eq!((ids(&nothing), next(&nothing)), (vec![], next(&answer)), "all there is was looked at");
}

#[tokio::test]
pub(crate) async fn the_relays_own_events_come_only_when_they_are_asked_for() {
    let app = spawn_app(routes().interactor()).await;
    // It tells of the configuration that it has loaded.
    let own = until("an event of the relay's own", SOON, async || {
        // It gathers what it tells.
        app.clock.advance(seconds(10));
        let own = app.get("/api/v1/events?source=hookyard&wait=0s").await;
        (!ids(&own).is_empty()).then_some(own)
    })
    .await;
    assert_eq!(own.json()["data"][0]["type"], "relay.config.loaded");
    let waiting = Waiting::begin(&app, "wait=30s").await;
    app.takes("evt_1").await;
    assert_eq!(ids(&waiting.answer().await), ["evt_1"]);
}

#[tokio::test]
pub(crate) async fn a_page_is_bounded_in_bytes_and_goes_on_where_it_ended() {
    let app = spawn_app(routes().interactor()).await;
    let large = "x".repeat(400 * 1024);
    for n in 1..=5 {
        app.takes_of(&format!("evt_{n}"), "large.one", json!({ "x": large })).await;
    }
    let mut after = "0".to_owned();
    let mut pages = Vec::new();
    while pages.iter().map(Vec::len).sum::<usize>() < 5 {
        let page = app.get(&format!("/api/v1/events?after={after}&wait=10s")).await;
        after = next(&page);
        pages.push(ids(&page));
    }
    assert_eq!(pages, [vec!["evt_1", "evt_2", "evt_3"], vec!["evt_4", "evt_5"]]);
    assert_eq!(ids(&app.get("/api/v1/events?after=0").await).len(), 5, "without bodies all have room");
    let newest = app.get("/api/v1/events?envelope=true").await;
    assert_eq!(ids(&newest), ["evt_5", "evt_4", "evt_3"]);
    assert_eq!(ids(&app.get(&format!("/api/v1/events?envelope=true&after={}", next(&newest))).await), ["evt_2", "evt_1"]);
}

#[tokio::test]
pub(crate) async fn a_stop_answers_whoever_waits_at_once() {
    let app = spawn_app(routes().interactor()).await;
    app.takes("evt_1").await;
    let waiting = Waiting::begin(&app, "after=0&type=never.*&wait=60s").await;
    let began = Instant::now();
    app.handles.stop.cancel();
    let answer = waiting.answer().await;
    assert_eq!(ids(&answer), Vec::<String>::new());
    assert!(next(&answer).starts_with("at_") && began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

#[tokio::test]
pub(crate) async fn what_cannot_be_followed_is_said() {
    let app = spawn_app(routes().interactor()).await;
    app.takes("evt_1").await;
    let uid = app.all("/api/v1/events").await[0]["uid"].as_str().unwrap().to_owned();
    let foreign = format!("ev_{:016x}{}", 1, &uid[19..]);
    for (query, word) in [
        ("wait=61s".to_owned(), "wait"),
        ("wait=soon".to_owned(), "wait"),
        ("after=b7&wait=1s".to_owned(), "wait"),
        ("after=x&wait=1s".to_owned(), "after"),
        ("after=a99999&wait=1s".to_owned(), "cursor"),
        ("after=a99999".to_owned(), "cursor"),
        (format!("after={foreign}&wait=1s"), "cursor"),
        ("type=a..*".to_owned(), "type"),
        ("wait=1s&wait=2s".to_owned(), "wait"),
        ("envelope=yes".to_owned(), "envelope"),
    ] {
        let answer = app.get(&format!("/api/v1/events?{query}")).await;
        assert_eq!((answer.status, answer.json()["error"].as_str().unwrap()), (400, "invalid_request"), "{query}");
        assert!(answer.json()["message"].as_str().unwrap().contains(word), "{query}: {}", answer.text());
    }
}

#[tokio::test]
pub(crate) async fn those_who_gave_up_leave_room_for_others() {
    let app = spawn_app(routes().interactor()).await;
    app.takes("evt_1").await;
    let path = "/api/v1/events?type=never.*&wait=60s";
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(Waiting::spawn(&app, path));
    }
    until("a hundred to wait", SOON, async || (app.handles.lasting.waiting() == 100).then_some(())).await;
    let refused = app.get(path).await;
    refused.refused(429, "rate_limited");
    assert_eq!(refused.json()["retry_after"], 5);
    assert_eq!((refused.header("retry-after"), refused.header("x-ratelimit-limit")), ("5", "100"));
    waiting.iter().for_each(|waiting| waiting.0.abort());
    until("their places to be free", SOON, async || (app.handles.lasting.waiting() == 0).then_some(())).await;
}
