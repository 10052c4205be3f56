//! Erasing events by id, subject and namespace: what is gone is nowhere any more, and what is beside it goes on.

use std::{path::Path, sync::Arc};

use hookyard::clock::Clock;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Home, Received, Receiver, Reply, Routes, SOON, TestApp,
    app::{MINUTELY, START},
    minutes, routes, seconds, spawn_app, until,
};

const NAME: &str = "Wilhelmina-4711";

async fn takes(app: &TestApp, id: &str, subject: &str, namespace: &str) {
    app.takes_of(id, "workflow.started", json!({"instance_id": subject, "namespace": namespace, "text": subject})).await;
}

async fn erases(app: &TestApp, body: Value) -> Value {
    let job = app.posts("/api/v1/erasures", &body).await;
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    until("the job to end", SOON, async || {
        let job = app.data(&path).await;
        (job["state"] == "done").then_some(job)
    })
    .await
}

async fn ids(app: &TestApp) -> Vec<String> {
    let mut ids: Vec<_> = app.all("/api/v1/events").await.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// Whether `text` stands in any file of `folder`.
fn stands_in(folder: &Path, text: &str) -> Option<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let holds = |path: &std::path::PathBuf| std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes());
    files.filter(holds).map(|path| path.display().to_string()).next()
}

async fn scene() -> (TestApp, Routes, [Receiver; 3]) {
    let receivers = [Receiver::ok().await, Receiver::answering(|_, _| 400.into()).await, Receiver::ok().await];
    let [good, bad, waiting] = &receivers;
    let file = routes().interactor().webhook("good", good).webhook("bad", bad).webhook("waiting", waiting);
    let app = spawn_app(file.clone()).await;
    app.tells("waiting", "pause").await;
    for (n, subject, namespace) in [(1, NAME, "ns-a"), (2, "another", "ns-a"), (3, NAME, "ns-b"), (4, "another", "ns-b")] {
        takes(&app, &format!("evt_{n}"), subject, namespace).await;
    }
    app.counts("target=good&state=delivered", 4).await;
    app.counts("target=bad&state=dead", 4).await;
    (app, file, receivers)
}

#[tokio::test]
async fn all_of_a_person_is_erased_from_answers_and_files() {
    let (app, file, [.., waiting]) = scene().await;
    let wanted = json!({"subject": NAME});
    let count = app.posts("/api/v1/erasures", &json!({"subject": NAME, "dry_run": true})).await;
    assert_eq!((count["count"].as_u64(), ids(&app).await.len()), (Some(2), 4));
    assert!(stands_in(app.folder(), NAME).is_some());
    let job = erases(&app, wanted).await;
    assert_eq!((&job["made"], &job["failed"], &job["filter"]), (&json!(2), &json!(0), &json!({"subject": "***"})));
    assert_eq!(ids(&app).await, ["evt_2", "evt_4"]);
    for path in ["/api/v1/events?envelope=true", "/api/v1/deliveries", "/api/v1/jobs", "/api/v1/audit"] {
        assert!(!app.get(path).await.text().contains(NAME), "{path}");
    }
    assert_eq!((app.rows("state=dead").await.len(), app.rows("").await.len()), (2, 6));
    // What waited of the others goes out; what was erased is sent to nobody.
    app.tells("waiting", "resume").await;
    waiting.wait_for(2).await;
    app.counts("target=waiting&state=delivered", 2).await;
    assert!(waiting.seen().iter().all(|request| !request.text().contains(NAME)));
    // A repeat is still one, and a restart leaves nothing behind.
    let again = json!({"id": "evt_1", "type": "workflow.started", "data": {"instance_id": NAME}});
    let again = app.send(&app.signed(&again.to_string())).await;
    assert_eq!((again.status, again.json()["duplicate"].as_bool()), (200, Some(true)));
    assert_eq!(ids(&app).await, ["evt_2", "evt_4"]);
    let app = app.restart(file).await;
    assert_eq!(stands_in(app.folder(), NAME), None);
    assert_eq!(ids(&app).await, ["evt_2", "evt_4"]);
}

#[tokio::test]
async fn events_are_erased_by_uid_by_id_and_by_namespace() {
    let (app, ..) = scene().await;
    let uid = app.all("/api/v1/events").await[0]["uid"].clone();
    assert_eq!(erases(&app, json!({"event": uid})).await["made"], 1);
    assert_eq!(ids(&app).await, ["evt_1", "evt_2", "evt_3"]);
    assert_eq!(erases(&app, json!({"id": "evt_1", "source": "elsewhere"})).await["made"], 0);
    assert_eq!(erases(&app, json!({"id": "evt_1", "source": "interactor"})).await["made"], 1);
    assert_eq!(erases(&app, json!({"namespace": "ns-a"})).await["made"], 1);
    assert_eq!(ids(&app).await, ["evt_3"]);
    assert_eq!(erases(&app, json!({"event": uid})).await["made"], 0, "it is gone");
}

/// A namespace that must be named nowhere but by the job that erases it.
const GONE: &str = "ns-gone-4711";

/// Whether what these relays keep aside of records names `text`, once they have tidied up.
async fn keep(app: &TestApp, text: &str) -> bool {
    app.clock.advance(seconds(5));
    app.handles.store.settings("").await.unwrap().iter().any(|(_, value)| value.contains(text))
}

/// Types that somebody bound to [`GONE`] may know.
fn knows(app: &TestApp) -> bool {
    let bound = [GONE.to_owned()].into();
    app.handles.subscriptions.types().list(Some(&bound)).iter().any(|known| known == "order.gone")
}

#[tokio::test]
async fn a_namespace_that_is_erased_is_remembered_by_no_relay() {
    let file = routes().interactor();
    let (home, clock) = (Home::in_postgres(), Clock::manual(START));
    let shared = TestApp::start(home.clone(), clock.clone(), file.clone()).await;
    let relays = [vec![spawn_app(file.clone()).await], vec![shared, TestApp::start(home, clock, file.clone()).await]];
    for relays in &relays {
        let one = &relays[0];
        for (n, app) in relays.iter().enumerate() {
            app.takes_of(&format!("evt_{n}"), "order.gone", json!({"namespace": GONE})).await;
            app.takes_of(&format!("evt_other_{n}"), "order.stays", json!({"namespace": "ns-b"})).await;
            assert!(knows(app));
        }
        until("it to be kept", SOON, async || keep(one, GONE).await.then_some(())).await;
        let made = erases(one, json!({"namespace": GONE})).await["made"].as_u64();
        assert_eq!(made, Some(relays.len() as u64));
        until("it to be forgotten", SOON, async || (!keep(one, GONE).await && !relays.iter().any(knows)).then_some(())).await;
        // Whoever has something new to keep does not bring it back.
        for (n, app) in relays.iter().enumerate() {
            let kind = format!("order.new{n}");
            app.takes_of(&format!("evt_new_{n}"), &kind, json!({"namespace": "ns-b"})).await;
            until("that to be kept", SOON, async || keep(app, &kind).await.then_some(())).await;
            assert!(!keep(app, GONE).await && keep(app, "order.stays").await);
        }
    }
    let [mut alone, _] = relays;
    let app = alone.remove(0).restart(file).await;
    assert!(!keep(&app, GONE).await && !knows(&app));
}

#[tokio::test]
async fn what_is_erased_is_said_exactly_and_by_admins() {
    let (app, ..) = scene().await;
    for bad in [json!({}), json!({"id": "evt_1", "subject": NAME}), json!({"event": "evt_1"}), json!({"source": "interactor"})] {
        let answer = app.post("/api/v1/erasures", &bad).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_request")), "{bad}");
    }
    let token = app.token(&["webhooks", "events:read", "deliveries:write", "config:write"], &[]).await;
    let answer = app.ask_as(&token, "POST", "/api/v1/erasures", Some(&json!({"id": "evt_1"}))).await;
    assert_eq!((answer.status, ids(&app).await.len()), (403, 4));
}

/// `evt_1` to `evt_3`, of which the second one is somebody's, and a digest that takes ten minutes for all of them.
async fn gathered(ops: &Receiver, more: &str) -> TestApp {
    let slack = format!("kind: slack, url: \"http://{}/services/T0/B0/hush\", {MINUTELY}{more}", ops.addr);
    let digest = "name: expired, match: {type: credential.expired}, to: [ops], digest: {key: $.namespace, window: 10m, max: 50}";
    let other = "name: other, match: {type: workflow.started}, to: [ops]";
    let app = spawn_app(routes().interactor().destination("ops", &slack).rule(digest).rule(other)).await;
    for (id, credential) in [("evt_1", "cred_one"), ("evt_2", NAME), ("evt_3", "cred_three")] {
        app.takes_of(id, "credential.expired", json!({"credential_id": credential, "namespace": "ns-a"})).await;
    }
    until("all to be gathered", SOON, async || app.rows("").await.iter().all(|row| app.due_in(row) == 600.0).then_some(())).await;
    app
}

fn tells_of_the_others(digest: &Received) {
    let text = digest.text();
    assert!(!text.contains(NAME) && text.contains("cred_one") && text.contains("cred_three"), "{text}");
}

#[tokio::test]
async fn a_digest_that_is_under_way_brings_back_nothing_that_is_erased() {
    let gate = Arc::new(Semaphore::new(0));
    let ops = Receiver::start([Reply::Late(503, gate.clone()), 200.into()]).await;
    let app = gathered(&ops, "").await;
    app.clock.advance(minutes(10));
    assert!(ops.first().await.text().contains(NAME));
    assert_eq!(erases(&app, json!({"id": "evt_2", "source": "interactor"})).await["made"], 1);
    gate.add_permits(1);
    app.tried("target=ops&state=pending", 1).await;
    app.clock.advance(minutes(1));
    ops.wait_for(2).await;
    tells_of_the_others(&ops.seen()[1]);
}

#[tokio::test]
async fn a_digest_in_hand_is_made_without_what_is_erased() {
    let ops = Receiver::ok().await;
    let app = gathered(&ops, ", rate_limit: 1/m").await;
    // It may go once the rate allows it, and what it tells of was read.
    app.clock.advance(seconds(599));
    takes(&app, "evt_4", "another", "ns-b").await;
    ops.wait_for(1).await;
    app.clock.advance(seconds(1));
    app.counts("target=ops&state=digested", 2).await;
    assert_eq!(erases(&app, json!({"id": "evt_2", "source": "interactor"})).await["made"], 1);
    app.clock.advance(minutes(1));
    ops.wait_for(2).await;
    tells_of_the_others(&ops.seen()[1]);
}
