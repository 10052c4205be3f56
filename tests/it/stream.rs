//! `/api/v1/stream`: events as they are committed, for browsers and everybody who reads server-sent events.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Answer, Home, Received, Receiver, Relay, Reply, SOON, TestApp, relay, routes, seconds,
    signed::{event, interactor},
    spawn_app,
    stream::Stream,
    until,
};

/// How long a frame is waited for that may not come.
const LOOK: Duration = Duration::from_millis(250);
/// Well below the grace of a stop, and far more than an end takes.
const PROMPT: Duration = Duration::from_secs(10);

async fn streams(app: &TestApp, count: usize) {
    until(&format!("{count} streams"), SOON, async || (app.handles.lasting.streams() == count).then_some(())).await;
}

/// The names of the next frames, and the ids of their events.
async fn said(stream: &mut Stream, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let said = stream.next().await.expect("a frame");
        assert_eq!(said.json()["type"], said.name);
        names.push(format!("{} {}", said.name, said.json()["id"].as_str().unwrap()));
    }
    names
}

#[tokio::test]
async fn events_come_as_they_are_committed_and_a_heartbeat_every_30_s() {
    let app = spawn_app(routes().interactor()).await;
    app.takes("evt_0").await;
    let mut stream = Stream::open(app.admin, "").await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!((stream.header("cache-control"), stream.header("x-accel-buffering")), ("no-store", "no"));
    app.takes("evt_1").await;
    let first = stream.next().await.unwrap();
    assert_eq!(first.name, "credential.expired");
    let row = app.all("/api/v1/events").await[0].clone();
    assert_eq!((row["id"].as_str(), row["uid"].as_str()), (Some("evt_1"), Some(&*first.id)));
    let story = app.data(&format!("/api/v1/events/{}", first.id)).await;
    assert_eq!(first.json(), story["envelope"]);

    app.clock.advance(seconds(29));
    assert!(tokio::time::timeout(LOOK, stream.read()).await.is_err(), "too early");
    app.clock.advance(seconds(1));
    let beat = stream.next().await.unwrap();
    assert_eq!((&*beat.name, &*beat.data), ("heartbeat", r#"{"timestamp": "2026-01-20T12:00:30Z"}"#));
    assert!(beat.id.starts_with("at_") && first.id[3..] <= beat.id[3..], "whoever comes back goes on behind what it has seen");
    let again = until("another heartbeat", SOON, async || {
        app.clock.advance(seconds(10));
        tokio::time::timeout(LOOK, stream.read()).await.ok()?
    })
    .await;
    assert_eq!(again.name, "heartbeat");
    app.takes("evt_2").await;
    assert_eq!(said(&mut stream, 1).await, ["credential.expired evt_2"]);
}

#[tokio::test]
async fn whoever_comes_back_goes_on_where_it_was() {
    let app = spawn_app(routes().interactor()).await;
    app.takes_many(3).await;
    let mut all = Stream::open(app.admin, "?after=0").await;
    let first = all.next().await.unwrap();
    assert_eq!(said(&mut all, 2).await, ["credential.expired evt_2", "credential.expired evt_3"]);
    let bearer = format!("Bearer {}", relay::TOKEN);
    // A browser sends the last id that it saw to the URL it was given at first.
    let headers = [("authorization", &*bearer), ("last-event-id", &*first.id)];
    let mut back = Stream::open_with(app.admin, "?after=0", &headers).await.unwrap();
    assert_eq!(said(&mut back, 2).await, ["credential.expired evt_2", "credential.expired evt_3"]);

    // Who has seen nothing yet has a cursor all the same.
    let mut quiet = Stream::open(app.admin, "?type=never.*").await;
    app.clock.advance(seconds(30));
    assert_eq!(quiet.next().await.unwrap().name, "heartbeat");
    let cursor = quiet.last_id.clone();
    app.takes("evt_4").await;
    let headers = [("authorization", &*bearer), ("last-event-id", &*cursor)];
    let mut back = Stream::open_with(app.admin, "", &headers).await.unwrap();
    assert_eq!(said(&mut back, 1).await, ["credential.expired evt_4"]);

    for (query, last) in [("", "evt_1"), ("?after=now", ""), ("?after=a9999", ""), ("?after=b3", "")] {
        let headers = [("authorization", &*bearer), ("last-event-id", last)];
        let refused = Stream::open_with(app.admin, query, &headers).await.err().expect("a refusal");
        refused.refused(400, "invalid_request");
    }
}

#[tokio::test]
async fn a_stream_has_what_its_filters_say() {
    let app = spawn_app(routes().interactor().agent()).await;
    let mut globs = Stream::open(app.admin, "?type=credential.*&type=workflow.**").await;
    let mut source = Stream::open(app.admin, "?source=agents").await;
    let mut whose = Stream::open(app.admin, "?namespace=user_1&namespace=a%2Cb").await;
    let mut own = Stream::open(app.admin, "?source=hookyard&after=0").await;
    for (id, kind, namespace) in [
        ("evt_1", "credential.expired", "user_1"),
        ("evt_2", "agent.room.closed", "user_2"),
        ("evt_3", "workflow.instance.failed", "a,b"),
        ("evt_4", "agent.x", "a"),
    ] {
        app.takes_of(id, kind, json!({ "namespace": namespace })).await;
    }
    let agent = crate::support::signed::agent(r#"{"event":"agent.message","timestamp":"2026-01-20T12:00:00Z","room":"r"}"#);
    app.accepts(&agent).await;
    assert_eq!(said(&mut globs, 2).await, ["credential.expired evt_1", "workflow.instance.failed evt_3"]);
    assert_eq!(source.next().await.unwrap().name, "agent.message");
    assert_eq!(said(&mut whose, 2).await, ["credential.expired evt_1", "workflow.instance.failed evt_3"]);
    let told = until("an event of the relay's own", SOON, async || {
        // It gathers what it tells.
        app.clock.advance(seconds(10));
        let said = tokio::time::timeout(LOOK, own.read()).await.ok()??;
        (said.name != "heartbeat").then_some(said.name)
    })
    .await;
    assert_eq!(told, "relay.config.loaded");
}

#[tokio::test]
async fn ten_streams_are_all_that_a_token_has() {
    let app = spawn_app(routes().interactor()).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(Stream::open(app.admin, "").await);
    }
    let headers = [("authorization", &*format!("Bearer {}", relay::TOKEN))];
    let refused = Stream::open_with(app.admin, "", &headers).await.err().expect("a refusal");
    refused.refused(429, "rate_limited");
    assert_eq!((refused.header("retry-after"), refused.json()["retry_after"].clone()), ("30", json!(30)));
    assert_eq!((refused.header("x-ratelimit-limit"), refused.header("x-ratelimit-remaining")), ("10", "0"));
    assert_eq!(refused.header("x-ratelimit-reset"), "1768910430");
    // A page that is closed is found out at once, though nothing is sent.
    open.truncate(8);
    streams(&app, 8).await;
    open.push(Stream::open(app.admin, "").await);
    app.takes("evt_1").await;
    for stream in &mut open {
        assert_eq!(said(stream, 1).await, ["credential.expired evt_1"]);
    }
}

/// Opens a stream and reads nothing of it.
async fn deaf(app: &TestApp, query: &str) -> tokio::net::TcpStream {
    let mut socket = tokio::net::TcpStream::connect(app.admin).await.unwrap();
    let head = format!("GET /api/v1/stream{query} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {}\r\n\r\n", relay::TOKEN);
    socket.write_all(head.as_bytes()).await.unwrap();
    streams(app, 1).await;
    socket
}

/// Takes in so much that no socket holds it all: some 40 MB.
async fn takes_much(app: &TestApp) -> Vec<String> {
    let large = "x".repeat(900 * 1024);
    let mut ids = Vec::new();
    for n in 1..=45 {
        ids.push(format!("evt_{n}"));
        app.takes_of(&format!("evt_{n}"), "large.one", json!({ "x": large })).await;
    }
    ids
}

#[tokio::test]
async fn whoever_reads_too_slowly_is_let_go_with_its_cursor_and_misses_nothing() {
    let app = spawn_app(routes().interactor()).await;
    let all = takes_much(&app).await;
    let mut slow = Stream::open(app.admin, "?after=0").await;
    let first = slow.next().await.unwrap();
    let mut seen = vec![first.json()["id"].as_str().unwrap().to_owned()];
    // It reads no further for longer than it may, and then goes on: it gets what was on its way, and where to go on.
    let mut lagging = None;
    until("the stream to be let go", SOON, async || {
        app.clock.advance(seconds(30));
        (app.handles.lasting.streams() == 0).then_some(())
    })
    .await;
    while let Some(said) = slow.next().await {
        match &*said.name {
            "large.one" => seen.push(said.json()["id"].as_str().unwrap().to_owned()),
            "lagging" => lagging = Some(said),
            name => assert_eq!(name, "heartbeat"),
        }
    }
    assert!(seen.len() < all.len(), "sockets held all of it: make it more");
    // The connection of one that does not read at all is ended with what it holds: then the last id that came says as much.
    let after = lagging.map_or(slow.last_id.clone(), |said| {
        assert_eq!(said.json()["after"], said.id);
        said.id
    });
    let mut back = Stream::open(app.admin, &format!("?after={after}")).await;
    while seen.len() < all.len() {
        seen.push(back.next().await.unwrap().json()["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_stop_ends_streams_at_once_and_waits_for_nobody_who_does_not_read() {
    let app = spawn_app(routes().interactor()).await;
    takes_much(&app).await;
    let deaf = deaf(&app, "?after=0").await;
    let mut stream = Stream::open(app.admin, "").await;
    let began = Instant::now();
    let other = app.restart(routes().interactor()).await;
    assert!(began.elapsed() < PROMPT, "the stop took {:?}", began.elapsed());
    assert_eq!(stream.next().await, None);
    drop((deaf, other));
}

/// A pass of this relay, and how long it is good.
async fn pass(app: &TestApp, body: &Value) -> String {
    let answer = app.post("/api/sse-token", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    assert_eq!((json["expiresIn"].clone(), json.as_object().unwrap().len()), (json!(300), 2), "{json}");
    assert_eq!(answer.header("cache-control"), "no-store");
    json["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pass_opens_streams_of_what_it_names_for_five_minutes_and_nothing_else() {
    let app = spawn_app(routes().interactor()).await;
    let token = pass(&app, &json!({"types": ["credential.*", "workflow.**"], "namespaces": ["user_1"]})).await;
    assert!(token.starts_with("hys_"), "{token}");
    let mut stream = Stream::open_with(app.admin, &format!("?token={token}"), &[]).await.unwrap();
    let mut narrow = Stream::open_with(app.admin, &format!("?token={token}&type=*.expired"), &[]).await.unwrap();
    for (id, kind, namespace) in [
        ("evt_1", "agent.room.closed", Some("user_1")),
        ("evt_2", "credential.expired", Some("user_2")),
        ("evt_3", "credential.expired", None),
        ("evt_4", "credential.created", Some("user_1")),
        ("evt_5", "credential.expired", Some("user_1")),
    ] {
        app.takes_of(id, kind, namespace.map_or(json!({}), |namespace| json!({ "namespace": namespace }))).await;
    }
    assert_eq!(said(&mut stream, 2).await, ["credential.created evt_4", "credential.expired evt_5"]);
    assert_eq!(said(&mut narrow, 1).await, ["credential.expired evt_5"]);
    let refused = Stream::open_with(app.admin, &format!("?token={token}&namespace=user_2"), &[]).await.err().unwrap();
    refused.refused(403, "forbidden");

    // Nowhere else, and in no other place.
    for path in [format!("/api/v1/events?token={token}"), "/api/v1/events".into(), "/api/v1/targets".into()] {
        app.get_as(&path, None).await.refused(401, "unauthorized");
        app.get_as(&path, Some(&token)).await.refused(401, "unauthorized");
    }
    for query in ["", "?token=", "?token=hys_x.y", &format!("?token={}", relay::TOKEN), &format!("?token={token}x")] {
        Stream::open_with(app.admin, query, &[]).await.err().unwrap().refused(401, "unauthorized");
    }
    app.get_as("/api/v1/stream", Some(&token)).await.refused(401, "unauthorized");

    app.clock.advance(seconds(299));
    Stream::open_with(app.admin, &format!("?token={token}"), &[]).await.unwrap();
    app.clock.advance(seconds(1));
    Stream::open_with(app.admin, &format!("?token={token}"), &[]).await.err().unwrap().refused(401, "unauthorized");
    // What it opened ends with it, and says where to go on.
    let mut last = stream.next().await.unwrap();
    while last.name == "heartbeat" {
        last = stream.next().await.unwrap();
    }
    assert_eq!((&*last.name, last.json()), ("expired", json!({ "after": last.id })));
    assert_eq!(stream.next().await, None);
    let again = pass(&app, &json!({})).await;
    app.takes("evt_6").await;
    let mut back = Stream::open_with(app.admin, &format!("?token={again}&after={}", last.id), &[]).await.unwrap();
    assert_eq!(said(&mut back, 1).await, ["credential.expired evt_6"]);
}

#[tokio::test]
async fn what_no_pass_can_name_is_said() {
    let app = spawn_app(routes().interactor()).await;
    for (body, word) in [
        (json!({"types": ["a..*"]}), "types"),
        (json!({"types": "credential.*"}), "types"),
        (json!({"namespace": ["user_1"]}), "namespace"),
        (json!({"types": vec!["x".repeat(250); 30]}), "fewer"),
        (json!([]), "object"),
    ] {
        let answer = app.post("/api/sse-token", &body).await;
        answer.refused(400, "invalid_request");
        assert!(answer.text().contains(word), "{}", answer.text());
    }
    app.get("/api/sse-token").await.refused(405, "method_not_allowed");
}

/// A page that asks for a pass across origins, follows the stream, and tells the listener that served it what it saw.
const PAGE: &str = r#"<!doctype html><script>
const tell = what => fetch('/told', {method: 'POST', body: JSON.stringify(what)});
(async () => {
  const asked = await fetch('RELAY/api/sse-token', {
    method: 'POST',
    headers: {Authorization: 'Bearer ADMIN', 'Content-Type': 'application/json'},
    body: JSON.stringify({types: ['credential.*', 'error']}),
  });
  const {token, expiresIn} = await asked.json();
  const source = new EventSource(`RELAY/api/v1/stream?token=${encodeURIComponent(token)}`);
  const see = event => tell({name: event.type, id: event.lastEventId, event: JSON.parse(event.data)});
  for (const name of ['credential.expired', 'credential.created', 'message', 'heartbeat']) source.addEventListener(name, see);
  source.onerror = () => tell({error: source.readyState});
  source.onopen = () => tell({open: expiresIn, credentials: source.withCredentials});
})().catch(error => tell({failed: String(error)}));
</script>"#;

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let found = std::process::Command::new(name).arg("--version").stdout(std::process::Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })
}

/// A browser that shows one page until it is dropped.
struct Browser {
    child: std::process::Child,
    _home: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn show(name: &str, url: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let child = std::process::Command::new(name)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"])
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", home.path().display()))
            .arg(url)
            .env("HOME", home.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _home: home }
    }
}

#[tokio::test]
async fn a_browser_follows_from_another_origin_over_a_kill_of_the_relay() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium here (apt-get install chromium)");
        return;
    };
    let page: Arc<Mutex<String>> = Arc::default();
    let served = Arc::clone(&page);
    let site = Receiver::answering(move |request: &Received, _| {
        let html = vec![("content-type".to_owned(), "text/html".to_owned())];
        Reply::Full(200, html, if request.line.starts_with("GET / ") { served.lock().unwrap().clone() } else { String::new() })
    })
    .await;
    let origin = format!("http://{}", site.addr);
    let home = Home::new();
    let routes = routes().interactor().server("public_api: true").server(&format!("cors: {{origins: [\"{origin}\"]}}"));
    let relay = Relay::start_in(&home, &routes).await;
    let routes = routes.on(&relay.public.to_string(), &relay.admin.to_string());
    *page.lock().unwrap() = PAGE.replace("RELAY", &format!("http://{}", relay.public)).replace("ADMIN", relay::TOKEN);
    let told = || {
        let posts = site.seen().into_iter().filter(|request| request.line.starts_with("POST /told "));
        posts.map(|request| request.json()).collect::<Vec<_>>()
    };
    let waits = Duration::from_secs(120);
    let _browser = Browser::show(browser, &format!("{origin}/"));
    let open = until("the page to open the stream", waits, async || told().first().cloned()).await;
    assert_eq!(open, json!({"open": 300, "credentials": false}));

    let seen = || told().into_iter().filter(|told| told.get("name").is_some()).collect::<Vec<_>>();
    relay.accepts(&interactor(event("evt_1"))).await;
    until("the page to see an event", waits, async || (seen().len() == 1).then_some(())).await;
    // A sender calls its event by a name that browsers give to failures.
    relay.accepts(&interactor(r#"{"id":"evt_2","type":"error","timestamp":"2026-01-20T12:00:00Z","data":{}}"#)).await;
    until("the page to see another", waits, async || (seen().len() == 2).then_some(())).await;
    relay.kill();
    let relay = Relay::start_in(&home, &routes).await;
    relay.accepts(&interactor(event("evt_3"))).await;
    until("the page to come back and go on", waits, async || (3 <= seen().len()).then_some(())).await;
    let names: Vec<_> = seen().iter().map(|told| format!("{} {}", told["name"], told["event"]["id"])).collect();
    assert_eq!(names, [r#""credential.expired" "evt_1""#, r#""message" "evt_2""#, r#""credential.expired" "evt_3""#]);

    // Another page is shown nothing, and no pass is ever logged.
    let client = relay::client();
    let url = format!("http://{}/api/v1/events", relay.public);
    let request = client.get(url).bearer_auth(relay::TOKEN).header("origin", "https://evil.example");
    let answer = Answer::read(request.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin"), answer.header("vary")), (200, "", "origin"));
    assert!(!relay.log_text().contains("hys_"));
}

#[tokio::test]
async fn a_token_that_ends_ends_what_lasts_and_what_was_given_out_in_its_name() {
    let app = spawn_app(routes().interactor()).await;
    let wanted = json!({"name": "page", "scopes": ["events:read"], "namespaces": ["a", "b"]});
    let made = app.posts("/api/v1/tokens", &wanted).await;
    let token = made["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    let own = [("authorization", &*bearer)];
    let mut stream = Stream::open_with(app.admin, "", &own).await.unwrap();
    let mut narrow = Stream::open_with(app.admin, "?namespace=b", &own).await.unwrap();
    Stream::open_with(app.admin, "?namespace=c", &own).await.err().unwrap().refused(403, "forbidden");
    // What it gives out is bound as it is itself.
    let beyond = json!({"namespaces": ["a", "c"]});
    app.ask_as(token, "POST", "/api/sse-token", Some(&beyond)).await.refused(403, "forbidden");
    let given = app.ask_as(token, "POST", "/api/sse-token", Some(&json!({}))).await.json();
    let pass = format!("?token={}", given["token"].as_str().unwrap());
    let mut passed = Stream::open_with(app.admin, &pass, &[]).await.unwrap();

    for (id, namespace) in [("evt_1", json!({"namespace": "c"})), ("evt_2", json!({})), ("evt_3", json!({"namespace": "a"}))] {
        app.takes_of(id, "credential.expired", namespace).await;
    }
    app.takes_of("evt_4", "credential.expired", json!({"namespace": "b"})).await;
    let both = ["credential.expired evt_3", "credential.expired evt_4"];
    assert_eq!(said(&mut stream, 2).await, both);
    assert_eq!(said(&mut passed, 2).await, both);
    assert_eq!(said(&mut narrow, 1).await, both[1..]);
    let polled = app.get_as("/api/v1/events?wait=1s", Some(token)).await;
    assert_eq!(polled.json()["data"].as_array().unwrap().len(), 2, "{}", polled.text());

    let url = format!("http://{}/api/v1/events?wait=60s&type=never.*", app.admin);
    let waiting = tokio::spawn(relay::client().get(url).bearer_auth(token).send());
    until("a request to wait", SOON, async || (app.handles.lasting.waiting() == 1).then_some(())).await;
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(app.ask_as(relay::TOKEN, "DELETE", &path, None).await.status, 200);
    for stream in [&mut stream, &mut narrow, &mut passed] {
        assert_eq!(stream.next().await.unwrap().name, "expired");
        assert_eq!(stream.next().await, None);
    }
    Answer::read(waiting.await.unwrap().unwrap()).await.refused(401, "unauthorized");
    Stream::open_with(app.admin, &pass, &[]).await.err().unwrap().refused(401, "unauthorized");
}
