//! A token that is bound to namespaces can neither read nor change what belongs to another one, by any route of the API.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{
    Answer, Receiver, SOON, TestApp, minutes,
    relay::{TOKEN, client},
    routes, spawn_app, until,
};

/// What a bound token may be allowed at most.
const SCOPES: [&str; 4] = ["webhooks", "events:read", "deliveries:read", "deliveries:write"];
/// What must be seen, and what must not.
const OWN: &str = "OWN-7c1e";
const OTHERS: &str = "OTHERS-4f9a";

/// An event of `namespace`, every part of which carries `mark`.
async fn take(app: &TestApp, id: &str, namespace: &str, mark: &str) {
    let (kind, data) =
        (format!("workflow.{}", mark.to_lowercase()), json!({"namespace": namespace, "instance_id": mark, "text": mark}));
    app.takes_of(&format!("{id}-{mark}"), &kind, data).await;
}

/// The rows about events whose sender's id has `mark`.
fn marked(rows: &[Value], mark: &str) -> Vec<Value> {
    rows.iter().filter(|row| row.to_string().contains(mark)).cloned().collect()
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap().to_owned()
}

/// A relay with events of two namespaces, of none, and of its own; of each a dead letter, a delivery that is through and one that waits.
/// Subscriptions of both namespaces in both dialects, and one of nobody's that takes all.
struct Scene {
    app: TestApp,
    token: String,
    /// What the subscriptions of the token receive.
    own: Receiver,
    /// Those of the others, as the token of the start sees them.
    foreign_hooks: Vec<String>,
    /// What others have begun.
    foreign_jobs: Vec<String>,
    _receivers: Vec<Receiver>,
}

/// Registers `receiver` in both dialects, every part of which carries `mark`; the ids.
async fn subscribe(app: &TestApp, token: &str, receiver: &Receiver, mark: &str) -> Vec<String> {
    let url = format!("{}/{mark}", receiver.url());
    let wanted = json!({"url": url, "events": ["**"], "name": mark, "description": mark, "metadata": {"mark": mark}, "headers": {"X-Mark": mark}});
    let one = app.ask_as(token, "POST", "/api/v1/webhooks", Some(&wanted)).await;
    let wanted = json!({"event_type": format!("workflow.{}", mark.to_lowercase()), "target_url": url, "secret": format!("secret-of-{mark}")});
    let other = app.ask_as(token, "POST", "/api/webhooks", Some(&wanted)).await;
    assert_eq!((one.status, other.status), (201, 201), "{} {}", one.text(), other.text());
    vec![text(&one.json()["data"], "id"), text(&other.json(), "id")]
}

impl Scene {
    async fn set() -> Self {
        let (good, bad) = (Receiver::ok().await, Receiver::answering(|_, _| 400.into()).await);
        let file = routes().interactor().webhook("good", &good).webhook("bad", &bad).webhook("paused", &good);
        let file = file.server("public_api: true").server("api_rate_limit: {rate: 1000/s, burst: 100000}");
        let app = spawn_app(file.section("subscriptions: {allow_targets: [127.0.0.1]}")).await;
        app.tells("paused", "pause").await;
        // What is named by type must have been met.
        for (namespace, mark) in [("ns-own", OWN), ("ns-others", OTHERS)] {
            take(&app, "evt_0", namespace, mark).await;
        }
        let own = Receiver::ok().await;
        let token = app.token(&SCOPES, &["ns-own"]).await;
        subscribe(&app, &token, &own, OWN).await;
        let others = app.token(&SCOPES, &["ns-others"]).await;
        let foreign_hooks = subscribe(&app, &others, &good, OTHERS).await;
        let all = json!({"url": format!("{}/{OTHERS}", good.url()), "events": ["**"]});
        app.posts("/api/v1/webhooks", &all).await;
        for (id, namespace, mark) in [("evt_1", "ns-own", OWN), ("evt_2", "ns-others", OTHERS), ("evt_3", "ns-own2", OTHERS)] {
            take(&app, id, namespace, mark).await;
        }
        app.takes_of(&format!("evt_4-{OTHERS}"), "workflow.started", json!({"text": OTHERS})).await;
        app.counts("target=bad&state=dead", 6).await;
        app.counts("target=good&state=delivered", 6).await;
        // Each of the four to the one that takes all, and to two of its namespace.
        app.counts("state=delivered", 6 + 4 + 2 * 2).await;
        let mut foreign_jobs = Vec::new();
        for token in [TOKEN, &others] {
            let wanted = json!({"until": "2001-01-01T00:00:00Z"});
            let begun = app.ask_as(token, "POST", "/api/v1/dead-letters/retry", Some(&wanted)).await;
            assert_eq!(begun.status, 201, "{}", begun.text());
            foreign_jobs.push(text(&begun.json()["data"], "id"));
        }
        // The relay's own event of a dead letter names the event.
        app.clock.advance(minutes(2));
        Self { app, token, own, foreign_hooks, foreign_jobs, _receivers: vec![good, bad] }
    }

    /// Ids of things that are not the token's, and of some that are nobody's.
    async fn foreign(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            marked(&self.app.all("/api/v1/events").await, OTHERS).iter().map(|row| text(row, "uid")).collect();
        ids.extend(self.app.all("/api/v1/events?source=hookyard").await.iter().map(|row| text(row, "uid")));
        ids.extend(marked(&self.app.all("/api/v1/deliveries").await, OTHERS).iter().map(|row| text(row, "id")));
        ids.extend(self.app.all("/api/v1/deliveries?source=hookyard").await.iter().map(|row| text(row, "id")));
        ids.extend(self.foreign_hooks.iter().cloned());
        ids.extend(self.foreign_jobs.iter().cloned());
        assert!(12 <= ids.len() && ids.iter().any(|id| id.starts_with("dl_")), "{ids:?}");
        ids
    }

    /// How everything of the others stands.
    async fn state(&self) -> Vec<Value> {
        let mut rows = marked(&self.app.all("/api/v1/deliveries").await, OTHERS);
        assert_eq!(rows.len(), 4 * 3 + 3 + 2);
        for id in &self.foreign_hooks {
            rows.push(self.app.data(&format!("/api/v1/webhooks/{id}")).await);
        }
        rows
    }
}

/// What lists are asked for.
fn queries(foreign: &[String]) -> Vec<String> {
    let mut queries: Vec<String> = [
        "",
        "?limit=1000",
        "?after=0",
        "?after=a0&limit=1000",
        "?source=interactor",
        "?source=hookyard",
        "?target=good",
        "?target=bad&state=dead",
        "?state=held",
        "?state=sending",
        "?namespace=ns-others",
        "?namespaces=ns-others",
    ]
    .map(str::to_owned)
    .into();
    queries.push(format!("?type=workflow.{}", OTHERS.to_lowercase()));
    queries.extend(
        foreign.iter().flat_map(|id| [format!("?event={id}"), format!("?after={id}"), format!("?event={id}&state=sending")]),
    );
    queries
}

/// What a stream says at once, which is all there is already; an answer without an end.
async fn glance(app: &TestApp, at: std::net::SocketAddr, token: &str, path: &str) -> Answer {
    let mut stream = client().get(format!("http://{at}{path}")).bearer_auth(token).send().await.unwrap();
    if stream.status() != 200 {
        return Answer::read(stream).await;
    }
    let body = stream.chunk().await.unwrap().unwrap_or_default().to_vec();
    drop(stream);
    until("its place to be free", SOON, async || (app.handles.lasting.streams() == 0).then_some(())).await;
    Answer { status: 200, headers: Vec::new(), body }
}

/// The paths of a template: with each of `ids` in its first parameter.
fn paths(template: &str, ids: &[String]) -> Vec<String> {
    let Some((before, rest)) = template.split_once('{') else { return vec![template.to_owned()] };
    let after = rest.split_once('}').unwrap().1;
    ids.iter().map(|id| format!("{before}{id}{after}")).collect()
}

#[tokio::test]
async fn no_route_shows_or_changes_what_is_anothers() {
    let scene = Scene::set().await;
    let (app, token) = (&scene.app, scene.token.as_str());
    let (foreign, before) = (scene.foreign().await, scene.state().await);
    let names = ["good", "bad", "paused", "interactor"].map(str::to_owned);
    let ids: Vec<String> = foreign.iter().cloned().chain(names).collect();
    let url = scene.own.url();
    let bodies = [
        json!({"url": url, "events": ["credential.*"], "enabled": false, "name": "mine now"}),
        json!({}),
        json!({"note": "not mine"}),
        json!({"target": "bad"}),
        json!({"event": foreign[0]}),
        json!({"uid": foreign[0]}),
    ];
    let (mut seen, mut statuses) = (String::new(), BTreeSet::new());
    for (method, template) in hookyard::api::routes().filter(|(_, template)| template.starts_with("/api/")) {
        for at in [app.admin, app.public] {
            for path in paths(template, &ids) {
                let asked: Vec<(String, Option<Value>)> = match method {
                    "GET" if path == template => queries(&foreign).iter().map(|query| (format!("{path}{query}"), None)).collect(),
                    "GET" | "DELETE" => vec![(path, None)],
                    _ => bodies.iter().map(|body| (path.clone(), Some(body.clone()))).collect(),
                };
                for (path, body) in asked {
                    let answer = match template {
                        "/api/v1/stream" => glance(app, at, token, &path).await,
                        _ => app.ask_at(at, token, method, &path, body.as_ref()).await,
                    };
                    let (text, status) = (answer.text(), answer.status);
                    assert!(!text.contains(OTHERS) && !text.contains(&OTHERS.to_lowercase()), "{method} {path}: {text}");
                    assert!(
                        status < 500
                            && status != 401
                            && (status != 429 || at == app.public || template == "/api/v1/dead-letters/retry"),
                        "{method} {path}: {status} {text}"
                    );
                    // An answer may repeat what was asked; no other thing of theirs is in it.
                    let asked = format!("{path}{}", body.unwrap_or_default());
                    // So may its own jobs, which say what they were begun with.
                    let repeats = |id: &str| template == "/api/v1/jobs" && text.contains(&format!(r#""event":"{id}""#));
                    let told = foreign.iter().find(|id| text.contains(*id) && !asked.contains(*id) && !repeats(id));
                    assert_eq!(told, None, "{method} {path}: {text}");
                    statuses.insert((template, status));
                    seen += &text;
                }
            }
        }
    }
    // The walk saw what is its own, met what is forbidden, and what is not there.
    assert!(seen.contains(OWN));
    for (template, status) in [
        ("/api/v1/events", 200),
        ("/api/v1/stream", 200),
        ("/api/sse-token", 200),
        ("/api/v1/events/{uid}", 404),
        ("/api/v1/deliveries/{id}", 404),
        ("/api/v1/deliveries/{id}/retry", 404),
        ("/api/v1/deliveries/{id}/cancel", 404),
        ("/api/v1/dead-letters/{id}/resolve", 404),
        ("/api/v1/dead-letters/retry", 201),
        ("/api/v1/jobs", 200),
        ("/api/v1/jobs/{id}", 404),
        ("/api/v1/jobs/{id}/cancel", 404),
        ("/api/v1/webhooks", 200),
        ("/api/v1/webhooks/{id}", 404),
        ("/api/v1/webhooks/{id}/toggle", 404),
        ("/api/v1/webhooks/{id}/regenerate-secret", 404),
        ("/api/v1/webhooks/{id}/events", 404),
        ("/api/v1/webhooks/{id}/deliveries", 404),
        ("/api/v1/webhooks/{id}/test", 404),
        ("/api/webhooks", 200),
        ("/api/webhooks/{id}", 404),
        ("/api/webhooks/{id}/deliveries", 404),
        ("/api/v1/targets", 403),
        ("/api/v1/explain", 403),
        ("/api/v1/tokens", 403),
        ("/api/v1/audit", 403),
    ] {
        assert!(statuses.contains(&(template, status)), "{template} never answered {status}");
    }
    assert_eq!(scene.state().await, before);
    // And what its subscriptions received is its own.
    let received = scene.own.seen();
    assert!(
        2 <= received.len() && received.iter().all(|request| request.text().contains(OWN) && !request.text().contains(OTHERS))
    );
}

#[tokio::test]
async fn a_bound_token_sees_its_own_without_what_is_the_destinations() {
    let scene = Scene::set().await;
    let (app, token) = (&scene.app, scene.token.as_str());
    let data = async |path: &str| {
        let answer = app.get_as(path, Some(token)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].take()
    };
    let events = data("/api/v1/events").await;
    assert_eq!(events.as_array().unwrap().len(), 2);
    let story = data(&format!("/api/v1/events/{}", text(&events[0], "uid"))).await;
    assert_eq!((story["envelope"]["data"]["text"].as_str(), story.get("rules"), story.get("why")), (Some(OWN), None, None));
    assert_eq!(story.get("subscriptions"), None);
    let dead = story["deliveries"].as_array().unwrap().iter().find(|row| row["target"] == "bad").unwrap();
    assert_eq!((&dead["state"], &dead["rule"], &dead["log"][0]["status"]), (&json!("dead"), &Value::Null, &json!(400)));
    assert_eq!((&dead["log"][0]["request_headers"], &dead["log"][0]["response"]), (&json!({}), &json!("")));
    // Whoever is not bound is told of them.
    let whole = app.data(&format!("/api/v1/deliveries/{}", text(dead, "id"))).await;
    let headers = whole["log"][0]["request_headers"].as_object().unwrap();
    assert!(whole["rule"] == "everything" && 3 < headers.len(), "{whole}");
    // Of a subscription of its own it is told all.
    let to_subscriptions = story["deliveries"].as_array().unwrap().iter().filter(|row| text(row, "target").starts_with("wh_"));
    let (own, foreign): (Vec<_>, Vec<_>) = to_subscriptions.partition(|row| row["rule"] == row["target"]);
    let told = |row: &&Value| !row["log"][0]["request_headers"].as_object().unwrap().is_empty();
    assert_eq!((own.iter().filter(|row| told(row)).count(), foreign.len()), (2, 1), "{story}");
    assert!(!told(&foreign[0]), "{story}");
    // What is its own it may act upon.
    let dead = text(dead, "id");
    let held = data("/api/v1/deliveries?target=paused").await;
    let cancelled = app.ask_as(token, "POST", &format!("/api/v1/deliveries/{}/cancel", text(&held[0], "id")), None).await;
    assert_eq!((cancelled.status, cancelled.json()["data"]["state"].as_str()), (200, Some("cancelled")));
    let body = json!({"note": "mended"});
    assert_eq!(app.ask_as(token, "POST", &format!("/api/v1/dead-letters/{dead}/resolve"), Some(&body)).await.status, 200);
    // A retry of all dead letters is of its own ones only.
    take(app, "evt_5", "ns-own", OWN).await;
    app.counts("target=bad&state=dead", 7).await;
    let count = app.ask_as(token, "POST", "/api/v1/dead-letters/retry", Some(&json!({"dry_run": true}))).await;
    assert_eq!(count.json()["data"]["count"], 2);
    // It follows the jobs that it has begun, and ends them.
    let begun = app.ask_as(token, "POST", "/api/v1/dead-letters/retry", Some(&json!({"rate": "1"}))).await;
    let job = format!("/api/v1/jobs/{}", text(&begun.json()["data"], "id"));
    assert_eq!((data(&job).await["total"].as_u64(), data("/api/v1/jobs").await.as_array().unwrap().len()), (Some(2), 1));
    assert_eq!(app.ask_as(token, "POST", &format!("{job}/cancel"), None).await.status, 200);
    // The first of them may be under way already.
    app.counts("target=bad&state=dead", 7).await;
    let all = app.ask_as(TOKEN, "POST", "/api/v1/dead-letters/retry", Some(&json!({"dry_run": true}))).await;
    assert_eq!(all.json()["data"]["count"], 6);
}
