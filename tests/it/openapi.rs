//! The API keeps what its OpenAPI document says: judged by schemathesis, which asks every operation with what fits and what does not.

use std::{collections::BTreeSet, process::Command};

use serde_json::{Value, json};

use crate::{
    pictures::{browser, picture},
    support::{
        Receiver, Relay,
        referee::judge,
        relay::TOKEN,
        routes,
        signed::{event, interactor, interactor_by},
        subscribed::open_routes,
    },
};

/// Operations that succeed only on a thing that stands just so, or with a body that means something: whether made-up calls hit on one
/// is luck. Their success is shown elsewhere in these tests.
const BY_LUCK: [&str; 16] = [
    "DELETE /api/v1/webhooks/{id}",
    "DELETE /api/webhooks/{id}",
    "POST /api/v1/dead-letters/{id}/resolve",
    "POST /api/v1/dead-letters/{id}/retry",
    "POST /api/v1/deliveries/{id}/cancel",
    "POST /api/v1/deliveries/{id}/retry",
    "POST /api/v1/explain",
    "POST /api/v1/jobs/{id}/cancel",
    "POST /api/v1/mutes",
    "POST /api/v1/replays/{id}/cancel",
    "POST /api/v1/sources/{name}/poll",
    "POST /api/v1/tokens",
    "POST /api/v1/webhooks",
    "POST /api/v1/webhooks/{id}/test",
    "POST /api/webhooks",
    "PUT /api/v1/webhooks/{id}",
];

fn ids(rows: &[Value], key: &str) -> Vec<Value> {
    rows.iter().map(|row| row[key].clone()).collect()
}

/// A relay with something of everything: events, deliveries that arrived, wait or died, rejections, jobs, mutes.
async fn seeded() -> (Receiver, Receiver, Relay) {
    let (crm, broken) = (Receiver::start([200]).await, Receiver::start([400]).await);
    let slow = "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}";
    let routes = open_routes().webhook_with("crm", &crm, slow).webhook_with("broken", &broken, slow);
    let relay = Relay::start(&routes).await;
    for n in 0..8 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    relay.send(&interactor_by("wrong", event("evt_wrong"))).await;
    relay.settled("target=broken&state=dead", 8).await;
    relay.settled("target=crm&state=delivered", 8).await;
    relay.posts("/api/v1/replays", &json!({"target": "crm", "source": "interactor"})).await;
    for n in 0..3 {
        relay.posts("/api/v1/mutes", &json!({"type": "nothing.*", "for": "1h", "reason": format!("{n}")})).await;
    }
    for url in [crm.url(), broken.url()] {
        relay.posts("/api/v1/webhooks", &json!({"url": url, "events": ["credential.*"]})).await;
    }
    for n in 8..12 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    for name in ["one", "two", "three"] {
        relay.posts("/api/v1/tokens", &json!({"name": name, "scopes": ["events:read"], "namespaces": ["user_123"]})).await;
    }
    (crm, broken, relay)
}

#[tokio::test]
async fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let (_crm, _broken, relay) = seeded().await;
    let of = async |path: &str, key: &str| ids(relay.get(path).await.json()["data"].as_array().unwrap(), key);
    let dead = of("/api/v1/dead-letters", "id").await;
    let subscriptions = relay.get("/api/v1/webhooks").await.json();
    let subscriptions = ids(subscriptions["data"]["webhooks"].as_array().unwrap(), "id");
    let known = json!({
        "/api/v1/events": of("/api/v1/events", "uid").await,
        "/api/v1/deliveries": of("/api/v1/deliveries", "id").await,
        "/api/v1/dead-letters": dead,
        "/api/v1/replays": of("/api/v1/replays", "id").await,
        "/api/v1/jobs": of("/api/v1/jobs", "id").await,
        "/api/v1/mutes": of("/api/v1/mutes", "id").await,
        "/api/v1/targets": ["crm", "broken"],
        "/api/v1/tokens": of("/api/v1/tokens", "id").await,
        "/api/v1/webhooks": subscriptions,
        "/api/webhooks": subscriptions,
    });
    let asked = json!({"url": format!("http://{}", relay.admin), "token": TOKEN, "known": known});
    let verdict = judge("openapi.py", vec![asked]).await.remove(0);
    assert_eq!(verdict["status"], 0, "{}", verdict["said"].as_str().unwrap());
    assert_eq!(verdict["tested"], verdict["operations"], "not every operation was exercised");
    let refused = verdict["never_succeeded"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let unexpected: Vec<_> = refused.filter(|name| !BY_LUCK.contains(name)).collect();
    assert_eq!(unexpected, Vec::<&str>::new(), "these were only ever refused");
}

/// What the browser did: the page as it stood at the end, what its console said, and every address that the page asked for.
struct Visit {
    page: String,
    console: Vec<String>,
    asked: Vec<String>,
}

fn visit(browser: &str, url: &str) -> Visit {
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("net.json");
    let output = Command::new("timeout")
        .args(["300", browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"])
        .args(["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--log-net-log={}", log.display()))
        .args(["--dump-dom", url])
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{browser}: {}", output.status);
    let errors = String::from_utf8_lossy(&output.stderr);
    let console = errors.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    let log: Value = serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
    let begun = |event: &Value| {
        let params = &event["params"];
        // What the browser asks for by itself has no page as its initiator; the page itself has none either.
        let by_page = params["initiator"].as_str().is_some_and(|by| by.starts_with("http"));
        params["url"].as_str().filter(|asked| by_page || *asked == url).map(str::to_owned)
    };
    let asked = log["events"].as_array().unwrap().iter().filter_map(begun).collect();
    Visit { page: String::from_utf8_lossy(&output.stdout).into_owned(), console, asked }
}

#[tokio::test]
async fn the_docs_page_stands_alone_in_a_real_browser() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium here (apt-get install chromium)");
        return;
    };
    let relay = Relay::start(&routes().interactor()).await;
    let url = format!("http://{}/api/docs", relay.admin);
    let bare = relay.get_as("/api/docs", None).await.text();
    let seen = tokio::task::spawn_blocking(move || {
        let shown = visit(browser, &url);
        let folder = tempfile::tempdir().unwrap();
        let pictures = [1, 0].map(|scheme| {
            let to = folder.path().join(format!("{scheme}.png"));
            picture(browser, &url, scheme, 900, &to);
            if let Some(kept) = std::env::var_os("HOOKYARD_DOCS_PICTURES") {
                std::fs::copy(&to, std::path::Path::new(&kept).join(format!("docs-{scheme}.png"))).unwrap();
            }
            std::fs::read(&to).unwrap()
        });
        (url, shown, pictures)
    });
    let (url, shown, pictures) = seen.await.unwrap();
    assert_eq!(shown.console, Vec::<String>::new());
    let asked: BTreeSet<_> = shown.asked.iter().collect();
    assert_eq!(asked, BTreeSet::from([&url]), "the page asks for itself and nothing else");
    // The script has run: it shows the filter and makes a button for each example. Without it neither is there to be missed, and
    // all that is to be read stands in the page as it is sent.
    let (buttons, examples) = (|page: &str| page.matches(">Copy</button>").count(), bare.matches("<pre class=\"curl\"").count());
    assert!(shown.page.contains("<p><label>Filter") && bare.contains("<p hidden><label>Filter"));
    assert_eq!((buttons(&shown.page), buttons(&bare)), (examples, 0));
    assert_ne!(pictures[0], pictures[1], "it looks the same in the dark");
}

#[tokio::test]
async fn document_and_page_need_no_token_and_are_not_on_the_public_listener() {
    let relay = Relay::start(&routes().interactor().server("public_api: true")).await;
    for (path, kind) in [("/api/openapi.json", "application/json"), ("/api/docs", "text/html; charset=utf-8")] {
        let answer = relay.get_as(path, None).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{path}");
        assert_eq!(relay.get_public(path).await.status, 404, "{path}");
    }
    let policy = relay.get_as("/api/docs", None).await;
    let policy = policy.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe") && !policy.contains("http"), "{policy}");
}
