//! Sources of kind `poll`: a REST API is asked on behalf of those who ask it today, until it pushes by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hookyard::clock::Clock;
use serde_json::{Value, json};

use crate::support::{
    Home, Receiver, Relay, Reply, Request, Routes, SOON, TestApp,
    honeyframe::{Honeyframe, TOKEN, polled, pushed},
    minutes,
    relay::client,
    routes,
    routes::OUT,
    signed, spawn_app, until,
};

const SINCE: &str = "every: 1m, cursor: {query: since, path: $.finished_at}";

/// The source's row of `/api/v1/sources`, once `fits` holds for its `poll`.
async fn stands(app: &crate::support::Api, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(what, SOON, async || {
        let row = app.data("/api/v1/sources").await[0].clone();
        fits(&row["poll"]).then_some(row)
    })
    .await
}

async fn polled_at(app: &crate::support::Api, at: &str) -> Value {
    stands(app, &format!("a round at {at}"), |poll| poll["last_success_at"] == at).await
}

#[tokio::test]
async fn runs_that_failed_become_events_that_are_delivered_signed() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let app = spawn_app(routes().source("honeyframe", &polled(&api, SINCE)).webhook("crm", &crm)).await;
    let first = api.first().await;
    assert_eq!(first.line, "GET /api/pipeline/runs?status=failed&since=2026-01-20T11%3A55%3A00Z HTTP/1.1");
    assert_eq!((first.header("authorization"), first.header("accept")), (format!("Bearer {TOKEN}").as_str(), "application/json"));
    assert!(first.header("user-agent").starts_with("hookyard/") && first.header("accept-encoding").is_empty());
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    let run = honeyframe.fails("2026-01-20T12:00:30Z");
    app.clock.advance(minutes(1));
    let request = crm.first().await;
    let envelope = request.json();
    assert_eq!(
        (&envelope["type"], &envelope["id"], &envelope["time"]),
        (&json!("recipe.run.failed"), &run["id"], &run["finished_at"])
    );
    assert_eq!((&envelope["source"], &envelope["sourcekind"]), (&json!("/sources/honeyframe"), &json!("poll")));
    assert_eq!((&envelope["subject"], &envelope["data"]), (&run["recipe_id"], &run));
    let at: i64 = request.header("webhook-timestamp").parse().unwrap();
    assert_eq!(request.header("webhook-signature"), signed::standard_item(OUT, request.header("webhook-id"), at, &request.body));
    let row = polled_at(&app, "2026-01-20T12:01:00.000Z").await;
    insta::assert_snapshot!(row.to_string().replace(&api.addr.to_string(), "HOST"), @r#"{"name":"honeyframe","kind":"poll","path":null,"last_received_at":"2026-01-20T12:01:00.000Z","counts":{"success":1},"secrets":[],"poll":{"url":"http://HOST/***","every_s":60,"last_poll_at":"2026-01-20T12:01:00.000Z","last_success_at":"2026-01-20T12:01:00.000Z","last_error":null,"last_error_message":null,"failures":0,"next_poll_at":"2026-01-20T12:02:00.000Z","cursor":"2026-01-20T12:00:30Z","pages":1,"items":1,"taken":1,"left_out":0}}"#);
    // Asked again and again, it is known.
    app.clock.advance(minutes(1));
    polled_at(&app, "2026-01-20T12:02:00.000Z").await;
    assert!(api.seen()[2].line.contains("since=2026-01-20T11%3A55%3A30Z"), "{}", api.seen()[2].line);
    assert_eq!((crm.count(), app.metric("hookyard_polls_total", &["honeyframe", "success"]).await), (1, 3.0));
    assert_eq!(app.metric("webhook_received_total", &["honeyframe", "duplicate"]).await, 0.0);
}

#[tokio::test]
async fn a_restart_goes_on_from_where_it_was_and_the_start_is_when_it_was_first_asked() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let routes = || routes().source("honeyframe", &polled(&api, SINCE)).webhook("crm", &crm);
    honeyframe.fails("2026-01-20T11:59:59Z");
    let app = spawn_app(routes()).await;
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    honeyframe.fails("2026-01-20T12:00:10Z");
    let app = app.restart_after(minutes(600), routes()).await;
    polled_at(&app, "2026-01-20T22:00:00.000Z").await;
    assert_eq!(crm.first().await.json()["id"], "run_1");
    honeyframe.fails("2026-01-20T22:00:10Z");
    let app = app.restart_after(minutes(60), routes()).await;
    assert_eq!(crm.wait_for(2).await[1].json()["id"], "run_2");
    polled_at(&app, "2026-01-20T23:00:00.000Z").await;
    // Another start begins anew, and what is known stays known.
    let anew = SINCE.replace("path", "start: \"2026-01-20T11:00:00Z\", path");
    app.reload(crate::support::routes().source("honeyframe", &polled(&api, &anew)).webhook("crm", &crm)).await;
    app.clock.advance(minutes(1));
    assert_eq!(crm.wait_for(3).await[2].json()["id"], "run_0");
    app.nothing_comes(&crm, 3, minutes(1)).await;
}

#[tokio::test]
async fn a_clock_that_ran_ahead_hides_nothing_once_it_is_put_right() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let routes = || routes().source("honeyframe", &polled(&api, SINCE)).webhook("crm", &crm);
    let home = Home::new();
    let app = TestApp::start(home.clone(), Clock::manual("2027-01-20T12:00:00Z"), routes()).await;
    polled_at(&app, "2027-01-20T12:00:00.000Z").await;
    let app = app.restart_by(Clock::manual("2026-01-20T12:00:00Z"), routes()).await;
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    honeyframe.fails("2026-01-20T11:00:00Z");
    honeyframe.fails("2026-01-20T11:59:30Z");
    honeyframe.fails("2026-01-20T11:56:00Z");
    app.clock.advance(minutes(1));
    assert_eq!(crm.first().await.json()["id"], "run_1");
    let row = polled_at(&app, "2026-01-20T12:01:00.000Z").await;
    assert_eq!((&row["poll"]["items"], &row["poll"]["left_out"]), (&json!(2), &json!(1)), "{row}");
}

#[tokio::test]
async fn a_source_that_was_gone_is_asked_a_last_time_when_it_comes_back_as_another_kind() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let of = |source: &str| routes().source("honeyframe", source).webhook("crm", &crm);
    let app = spawn_app(of(&polled(&api, SINCE))).await;
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    app.reload(routes().interactor().webhook("crm", &crm)).await;
    honeyframe.fails("2026-01-20T12:00:10Z");
    app.clock.advance(minutes(1));
    app.reload(of(&pushed())).await;
    assert_eq!(crm.first().await.json()["id"], "run_0");
    // And once more when what is late is there.
    honeyframe.fails("2026-01-20T12:00:20Z");
    app.clock.advance(minutes(5));
    assert_eq!(crm.wait_for(2).await[1].json()["id"], "run_1");
}

#[tokio::test]
async fn a_last_round_that_fails_is_told() {
    let (crm, ops) = (Receiver::ok().await, Receiver::ok().await);
    let api = Receiver::start([Reply::Full(200, Vec::new(), "{\"runs\": []}".into()), Reply::from(401)]).await;
    let rules = "name: tell, match: {source: hookyard, type: relay.source.**}, to: [ops]";
    let of = |source: &str| routes().source("honeyframe", source).webhook("crm", &crm).webhook("ops", &ops).rule(rules);
    let app = spawn_app(of(&polled(&api, SINCE))).await;
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    app.reload(of(&pushed())).await;
    for asked in 2..=9 {
        api.wait_for(asked).await;
        // Each wait begins once the answer is in, at most a quarter of an hour.
        until("another round, or the end", SOON, async || {
            app.clock.advance(minutes(15));
            (asked == 9 || asked < api.count()).then_some(())
        })
        .await;
    }
    let reason = |request: &crate::support::Received| request.json()["data"]["reason"].as_str().unwrap_or_default().to_owned();
    until("the failure to be told", SOON, async || {
        app.clock.advance(minutes(1));
        ops.seen().iter().any(|request| reason(request).starts_with("it could not be polled a last time")).then_some(())
    })
    .await;
    assert_eq!(api.count(), 9, "once before, and eight times");
}

#[tokio::test]
async fn what_goes_wrong_is_shown_told_and_met_with_growing_waits() {
    let (crm, ops) = (Receiver::ok().await, Receiver::ok().await);
    let answers = [
        Reply::from(401),
        Reply::with(503, "Retry-After", 1200),
        Reply::with(302, "Location", "https://elsewhere.example/hush"),
        Reply::Full(200, Vec::new(), "{\"runs\": 7}".into()),
        Reply::Full(200, vec![("content-encoding".into(), "gzip".into())], "{}".into()),
        Reply::Full(200, Vec::new(), "{\"runs\": [{\"finished_at\": 7}]}".into()),
        Reply::Full(200, Vec::new(), "{\"runs\": []}".into()),
    ];
    let api = Receiver::start(answers).await;
    let rules = "name: tell, match: {source: hookyard, type: relay.source.**}, to: [ops]";
    let routes = routes().source("honeyframe", &polled(&api, SINCE)).webhook("crm", &crm).webhook("ops", &ops).rule(rules);
    let app = spawn_app(routes.rule("name: all, match: {type: recipe.**}, to: [crm]")).await;
    let mut story = Vec::new();
    let mut polls = Vec::new();
    for n in 1..=7 {
        let row = stands(&app, "a round", |poll| {
            !poll["last_poll_at"].is_null() && api.count() == n && !polls.contains(&poll["last_poll_at"])
        })
        .await;
        let poll = row["poll"].clone();
        polls.push(poll["last_poll_at"].clone());
        let next: jiff::Timestamp = poll["next_poll_at"].as_str().unwrap().parse().unwrap();
        let wait = next.duration_since(app.clock.now());
        story.push(format!("{} {} in {}s: {}", poll["failures"], poll["last_error"], wait.as_secs(), poll["last_error_message"]));
        app.clock.advance(wait.unsigned_abs());
    }
    insta::assert_snapshot!(story.join("\n").replace('"', ""), @"
    1 http_401 in 60s: the API refuses the relay's credentials (`headers`)
    2 http_503 in 1200s: the API has a fault of its own
    3 http_302 in 240s: the API redirects to elsewhere.example; redirects are not followed
    4 bad_answer in 480s: `$.runs` of the answer is no list
    5 bad_answer in 900s: the answer is encoded (gzip), though nobody asked for it
    6 bad_cursor in 900s: `$.finished_at` of an item is `7`, not a time such as 2026-01-20T12:00:00Z
    0 null in 60s: null
    ");
    let told = ops.first().await.json();
    assert_eq!((&told["type"], &told["data"]["source"]), (&json!("relay.source.rejecting"), &json!("honeyframe")));
    assert_eq!(told["data"]["reason"], "http_401: the API refuses the relay's credentials (`headers`)");
    // The item without a time that can be followed is an event all the same.
    assert_eq!((ops.count(), crm.wait_for(1).await.len()), (1, 1));
    assert_eq!(app.metric("hookyard_polls_total", &["honeyframe", "http_503"]).await, 1.0);
}

#[tokio::test]
async fn another_file_keeps_the_cursor_and_a_person_need_not_wait() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let of = |source: &str| routes().source("honeyframe", source).webhook("crm", &crm);
    let daily = polled(&api, &SINCE.replace("1m", "1d"));
    let app = spawn_app(of(&daily)).await;
    polled_at(&app, "2026-01-20T12:00:00.000Z").await;
    app.reload(of(&polled(&api, SINCE))).await;
    honeyframe.fails("2026-01-20T12:00:10Z");
    app.clock.advance(minutes(1));
    crm.wait_for(1).await;
    polled_at(&app, "2026-01-20T12:01:00.000Z").await;
    app.reload(of(&daily)).await;
    honeyframe.fails("2026-01-20T12:01:10Z");
    app.clock.advance(minutes(2));
    let row = app.posts("/api/v1/sources/honeyframe/poll", &json!({})).await;
    assert_eq!((&row["poll"]["last_poll_at"], &row["poll"]["taken"]), (&json!("2026-01-20T12:03:00.000Z"), &json!(1)));
    crm.wait_for(2).await;
    // Gone for a while, it goes on from there when it is back.
    app.reload(routes().interactor().webhook("crm", &crm)).await;
    assert_eq!(app.post("/api/v1/sources/honeyframe/poll", &json!({})).await.status, 404);
    assert_eq!(app.post("/api/v1/sources/interactor/poll", &json!({})).await.status, 409);
    honeyframe.fails("2026-01-20T12:02:00Z");
    app.clock.advance(minutes(500));
    app.reload(of(&polled(&api, SINCE))).await;
    assert_eq!(crm.wait_for(3).await[2].json()["id"], "run_2");
}

#[tokio::test]
async fn nobody_can_send_to_it_and_its_secrets_are_shown_nowhere() {
    let ((_, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let relay = Relay::start(&routes().source("honeyframe", &polled(&api, SINCE)).webhook("crm", &crm)).await;
    stands(&relay, "a round", |poll| !poll["last_success_at"].is_null()).await;
    for path in ["/", "", "/honeyframe", "/webhooks/honeyframe"] {
        assert_eq!(relay.send(&Request::json(path, b"{}")).await.status, 404, "{path}");
    }
    let checked = relay.cli(&["check", "--print"]).await;
    let shown = [
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr),
        relay.cli_ok(&["sources"]).await,
        relay.cli_ok(&["sources", "poll", "honeyframe"]).await,
        relay.get("/api/v1/sources").await.text(),
        relay.metrics().await,
        relay.log_text(),
    ];
    for text in &shown {
        assert!(!text.contains(TOKEN) && !text.contains("status=failed"), "{text}");
    }
    assert!(shown[1].contains("every 60s") && shown[2].contains("last_success_at"), "{shown:?}");
    let sent = relay.cli(&["send", "--source", "honeyframe", "--sample", "credential.expired"]).await;
    assert_eq!(sent.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&sent.stderr).contains("nothing is sent to source `honeyframe`"));
}

/// Lets runs fail, a few each millisecond or so, until `over`; each is told to `then`.
async fn load(honeyframe: Honeyframe, over: Arc<AtomicBool>, mut then: impl FnMut(Value)) {
    while !over.load(Ordering::Relaxed) {
        then(honeyframe.fails(&jiff::Timestamp::now().to_string()));
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_gets_every_run_once_though_polling_becomes_pushing_under_load() {
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let of = |source: &str| routes().source("honeyframe", source).section("subscriptions: {allow_targets: [127.0.0.1]}");
    let app = TestApp::start(Home::new(), Clock::system(), of(&polled(&api, &SINCE.replace("1m", "1s")))).await;
    let wanted = json!({"event_type": "recipe.run.failed", "target_url": crm.url(), "secret": "0f9a3c71d2e84b56a7"});
    assert_eq!(app.post("/api/webhooks", &wanted).await.status, 201);
    let (over, pushing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (public, mut pushes) = (app.public, tokio::task::JoinSet::new());
    let sending = pushing.clone();
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let failing = tokio::spawn(load(honeyframe.clone(), over.clone(), move |run| {
        if sending.load(Ordering::Relaxed) {
            told.send(run).unwrap();
        }
    }));
    let pushing_all = tokio::spawn(async move {
        while let Some(run) = tell.recv().await {
            // Every other one is tried once only, whatever is answered.
            let patient = run["id"].as_str().unwrap().ends_with(['0', '2', '4', '6', '8']);
            pushes.spawn(async move {
                let client = client();
                while crate::support::relay::send(&client, public, &Honeyframe::push(&run)).await.unwrap().status != 200
                    && patient
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
        pushes.join_all().await;
    });
    crm.wait_for(100).await;
    // Honeyframe pushes before the relay is ready for it, as it will when the path is set up first.
    pushing.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    app.reload(of(&pushed())).await;
    let at_switch = honeyframe.count();
    until("many more runs", SOON, async || (at_switch + 100 <= honeyframe.count()).then_some(())).await;
    over.store(true, Ordering::Relaxed);
    failing.await.unwrap();
    pushing_all.await.unwrap();
    let runs = honeyframe.runs();
    until(&format!("all {} runs", runs.len()), SOON, async || (runs.len() <= crm.count()).then_some(())).await;
    let envelopes: Vec<Value> = crm.seen().iter().map(|request| request.json()).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let ids: BTreeSet<&str> = envelopes.iter().map(|envelope| envelope["id"].as_str().unwrap()).collect();
    for envelope in &envelopes {
        let run = &runs[envelope["id"].as_str().unwrap()];
        assert_eq!(
            (&envelope["type"], &envelope["data"], &envelope["time"]),
            (&json!("recipe.run.failed"), run, &run["finished_at"])
        );
        assert_eq!((&envelope["source"], &envelope["subject"]), (&json!("/sources/honeyframe"), &run["recipe_id"]));
        let keys: Vec<&String> = envelope.as_object().unwrap().keys().collect();
        assert_eq!(keys, envelopes[0].as_object().unwrap().keys().collect::<Vec<_>>(), "one shape both ways");
        *kinds.entry(envelope["sourcekind"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!((envelopes.len(), ids.len()), (runs.len(), runs.len()), "each once");
    assert!(100 <= kinds["poll"] && 50 <= kinds["hmac"], "{kinds:?}");
    // And back: nothing is known twice.
    app.reload(of(&polled(&api, &SINCE.replace("1m", "1s")))).await;
    let last = honeyframe.fails(&jiff::Timestamp::now().to_string());
    let seen = crm.wait_for(runs.len() + 1).await;
    assert_eq!(seen.last().unwrap().json()["data"], last);
    assert_eq!(seen.len(), runs.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_though_the_relay_is_killed_in_the_middle_of_rounds() {
    const KILLS: usize = 6;
    let ((honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let endless = "retry: {initial: 200ms, factor: 1, max: 200ms, jitter: none, give_up_after: 24h}";
    let start = jiff::Timestamp::now().to_string();
    let cursor = format!("every: 1s, cursor: {{query: since, path: $.finished_at, start: \"{start}\"}}");
    let routes: Routes = routes().source("honeyframe", &polled(&api, &cursor)).webhook_with("crm", &crm, endless);
    let home = Home::new();
    let over = Arc::new(AtomicBool::new(false));
    let failing = tokio::spawn(load(honeyframe.clone(), over.clone(), drop));
    let mut relay = Relay::start_in(&home, &routes).await;
    for kill in 0..KILLS {
        let asked = api.count();
        // Some pages into a round: of one run every few milliseconds, each has many.
        until("pages to be asked for", Duration::from_secs(60), async || (asked + 2 + kill * 3 <= api.count()).then_some(()))
            .await;
        relay.kill();
        relay = Relay::start_in(&home, &routes).await;
    }
    over.store(true, Ordering::Relaxed);
    failing.await.unwrap();
    let runs = honeyframe.runs();
    until(&format!("all {} runs", runs.len()), Duration::from_secs(60), async || {
        (runs.len() <= crm.distinct("webhook-id").len()).then_some(())
    })
    .await;
    let mut deliveries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in crm.seen() {
        deliveries.entry(request.header("webhook-id").into()).or_default().insert(request.header("idempotency-key").into());
    }
    assert_eq!(deliveries.keys().collect::<Vec<_>>(), runs.keys().collect::<Vec<_>>());
    assert!(deliveries.values().all(|ids| ids.len() == 1), "events with two deliveries");
}
