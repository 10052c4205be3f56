//! The API under the bearer token: shapes, filters, cursors.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{
    Receiver, Relay, SOON, routes,
    signed::{agent, event, interactor, interactor_by},
    until,
};

/// A relay that took `count` Interactor events, delivered to `crm`.
async fn with_events(count: usize) -> (Receiver, Relay) {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().agent().webhook("crm", &crm)).await;
    for n in 0..count {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    relay.settled("", count).await;
    (crm, relay)
}

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

fn names(range: impl Iterator<Item = usize>) -> Vec<String> {
    range.map(|n| format!("evt_{n}")).collect()
}

#[tokio::test]
async fn without_the_token_there_is_nothing_to_see() {
    let relay = Relay::start(&routes().interactor()).await;
    for path in [
        "/api/v1/events",
        "/api/v1/events/ev_1",
        "/api/v1/deliveries",
        "/api/v1/dead-letters",
        "/api/v1/rejections",
        "/api/v1/config",
        "/api/v1/unheard-of",
    ] {
        for token in [None, Some(""), Some("hy_wrong"), Some("Basic x")] {
            let answer = relay.get_as(path, token).await;
            assert_eq!(answer.status, 401, "{path} {token:?}");
            answer.error();
        }
    }
    let unset = {
        let mut command = relay.home.command(&["serve", "--config", "other.yaml"]);
        relay.home.write("other.yaml", &routes().interactor().store_at("sqlite://other.db").text());
        command.env_remove("HOOKYARD_ADMIN_TOKEN").stdin(Stdio::null());
        Relay::from(&relay.home, command).await
    };
    for token in [None, Some(""), Some(crate::support::relay::TOKEN)] {
        assert_eq!(unset.get_as("/api/v1/events", token).await.status, 401, "no token is set: {token:?}");
    }
    assert!(unset.log_text().contains("HOOKYARD_ADMIN_TOKEN"), "start-up says so");
}

#[tokio::test]
async fn without_a_token_of_its_own_the_relay_takes_none_that_was_made_before() {
    let file = routes().interactor();
    let relay = Relay::start(&file).await;
    let token = relay.token(&["events:read"], &[]).await;
    assert_eq!(relay.get_as("/api/v1/events", Some(&token)).await.status, 200);
    let home = relay.home.clone();
    assert!(relay.stop().await.success());
    let mut command = home.command(&["serve", "--config", "routes.yaml"]);
    command.env_remove("HOOKYARD_ADMIN_TOKEN").stdin(Stdio::null());
    let closed = Relay::from(&home, command).await;
    assert_eq!(closed.get_as("/api/v1/events", Some(&token)).await.status, 401, "as its log says");
    assert!(closed.log_text().contains("401 to everybody"), "{}", closed.log_text());
    assert!(closed.stop().await.success());
    let open = Relay::resume(&home).await;
    assert_eq!(open.get_as("/api/v1/events", Some(&token)).await.status, 200);
}

#[tokio::test]
async fn lists_that_are_held_as_a_whole_have_pages_too() {
    let (a, b, c) = (Receiver::ok().await, Receiver::ok().await, Receiver::ok().await);
    let relay = Relay::start(&routes().interactor().agent().webhook("a", &a).webhook("b", &b).webhook("c", &c)).await;
    for n in 0..3 {
        relay.posts("/api/v1/mutes", &json!({"type": format!("no.such.{n}"), "reason": "planned", "for": "1h"})).await;
        relay.token(&["events:read"], &[]).await;
        relay.posts("/api/v1/replays", &json!({"type": "no.such"})).await;
    }
    for (path, key, count) in [
        ("targets", "name", 3),
        ("sources", "name", 2),
        ("mutes", "id", 3),
        ("tokens", "id", 3),
        ("replays", "id", 3),
        ("jobs", "id", 3),
        ("replicas", "id", 1),
    ] {
        let names = |page: &Value| -> Vec<String> {
            page["data"].as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
        };
        let whole = relay.get(&format!("/api/v1/{path}")).await.json();
        assert_eq!((names(&whole).len(), &whole["next"]), (count, &Value::Null), "{path}: {whole}");
        let (mut walked, mut after) = (Vec::new(), String::new());
        loop {
            let page = relay.get(&format!("/api/v1/{path}?limit=1{after}")).await.json();
            assert_eq!(names(&page).len(), 1, "{path}: {page}");
            walked.extend(names(&page));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(walked, names(&whole), "{path}");
        assert_eq!(relay.get(&format!("/api/v1/{path}?after=x")).await.status, 400, "{path}");
    }
    relay.posts("/api/v1/targets/b/pause", &json!({})).await;
    let paused = relay.all("/api/v1/targets?state=paused").await;
    assert_eq!(paused.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["b"]);
    relay.get("/api/v1/targets?state=asleep").await.refused(400, "invalid_request");
}

#[tokio::test]
async fn unknown_things_are_not_found_in_the_shape_of_every_error() {
    let relay = Relay::start(&routes().interactor()).await;
    for path in [
        "/api/v1/unheard-of",
        "/api/v1/events/ev_00000000000000000000000000000000",
        "/api/v1/events/nonsense",
        "/api/v1/deliveries/dl_1",
        "/api/v1/events/%00",
    ] {
        relay.get(path).await.refused(404, "not_found");
    }
    let wrong = relay.post("/api/v1/events", &json!({})).await;
    wrong.refused(405, "method_not_allowed");
    for query in ["limit=0", "limit=many", "after=nonsense", "since=yesterday", "state=asleep"] {
        let answer = relay.get(&format!("/api/v1/deliveries?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        answer.error();
    }
}

#[tokio::test]
async fn an_event_in_a_list_has_its_fields_and_one_tells_its_story() {
    let (crm, relay) = with_events(1).await;
    let row = relay.all("/api/v1/events").await.remove(0);
    for (name, expected) in [
        ("id", "evt_0"),
        ("source", "interactor"),
        ("type", "credential.expired"),
        ("time", "2026-01-20T12:00:00Z"),
        ("namespace", "user_123"),
        ("verdict", "accepted"),
    ] {
        assert_eq!(row[name], expected, "{row}");
    }
    let story = relay.data(&format!("/api/v1/events/{}", row["uid"].as_str().unwrap())).await;
    assert_eq!((&story["uid"], &story["verdict"]), (&row["uid"], &json!("accepted")));
    let delivery = &story["deliveries"][0];
    assert_eq!((delivery["target"].as_str(), delivery["state"].as_str()), (Some("crm"), Some("delivered")));
    let attempt = &delivery["log"][0];
    assert_eq!(
        (&attempt["number"], &attempt["status"], &attempt["outcome"]),
        (&json!(1), &json!(200), &json!("delivered")),
        "{story}"
    );
    assert_eq!(delivery["id"], crm.first().await.header("idempotency-key"));
}

#[tokio::test]
async fn a_delivery_has_its_fields() {
    let crm = Receiver::start([503]).await;
    let relay =
        Relay::start(&routes().interactor().webhook_with("crm", &crm, "retry: {initial: 1h, factor: 1, max: 1h, jitter: none}"))
            .await;
    relay.accepts(&interactor(event("evt_0"))).await;
    let row = until("the attempt to be recorded", SOON, async || {
        relay.all("/api/v1/deliveries").await.into_iter().find(|row| row["attempts"] == 1 && row["state"] == "pending")
    })
    .await;
    let event = relay.all("/api/v1/events").await.remove(0);
    assert_eq!((&row["target"], &row["state"], &row["error"]), (&json!("crm"), &json!("pending"), &json!("http_503")));
    assert_eq!((&row["event"], &row["cause"]), (&event["uid"], &Value::Null), "{row}");
    assert!(row["next_attempt_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    let one = relay.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
    assert_eq!(one["id"], row["id"]);
}

#[tokio::test]
async fn lists_are_newest_first_and_their_cursor_goes_on_to_older_things() {
    let (_crm, relay) = with_events(25).await;
    let mut seen = Vec::new();
    let mut page = relay.get("/api/v1/events?limit=10").await.json();
    loop {
        seen.append(&mut ids(&page));
        let Some(next) = page["next"].as_str().map(str::to_owned) else { break };
        assert!(seen.len() <= 20, "the last page has no next");
        page = relay.get(&format!("/api/v1/events?limit=10&after={next}")).await.json();
    }
    assert_eq!(seen, names((0..25).rev()));
    let deliveries = relay.all("/api/v1/deliveries").await;
    let of: Vec<_> = deliveries.iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of, names((0..25).rev()));
}

#[tokio::test]
async fn after_an_event_lists_are_in_commit_order_and_next_is_never_null() {
    let (_crm, relay) = with_events(12).await;
    let rows = relay.all("/api/v1/events").await;
    let third = rows.iter().find(|row| row["id"] == "evt_2").unwrap()["uid"].as_str().unwrap().to_owned();
    let page = relay.get(&format!("/api/v1/events?limit=5&after={third}")).await.json();
    assert_eq!(ids(&page), names(3..8));
    let page = relay.get(&format!("/api/v1/events?limit=5&after={}", page["next"].as_str().unwrap())).await.json();
    assert_eq!(ids(&page), names(8..12));
    let next = page["next"].as_str().unwrap().to_owned();
    let empty = relay.get(&format!("/api/v1/events?after={next}")).await.json();
    assert_eq!((ids(&empty).len(), empty["next"].as_str()), (0, Some(next.as_str())), "also on an empty page");
    relay.accepts(&interactor(event("evt_new"))).await;
    let page = relay.get(&format!("/api/v1/events?after={next}")).await.json();
    assert_eq!(ids(&page), ["evt_new"]);
}

#[tokio::test]
async fn filters_narrow_every_list() {
    let (_crm, relay) = with_events(3).await;
    relay.accepts(&agent(r#"{"event":"agent.message","data":{}}"#)).await;
    relay.settled("", 4).await;
    let count = async |path: &str| relay.all(path).await.len();
    for (query, expected) in [
        ("source=agents", 1),
        ("source=interactor", 3),
        ("type=agent.message", 1),
        ("type=credential.expired&source=interactor", 3),
        ("type=credential.expired&source=agents", 0),
        ("target=crm", 4),
        ("target=nobody", 0),
        ("since=2026-01-01T00:00:00Z", 4),
        ("until=2026-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(count(&format!("/api/v1/events?{query}")).await, expected, "events {query}");
        assert_eq!(count(&format!("/api/v1/deliveries?{query}")).await, expected, "deliveries {query}");
    }
    assert_eq!((count("/api/v1/deliveries?state=delivered").await, count("/api/v1/deliveries?state=dead").await), (4, 0));
    assert_eq!(count("/api/v1/dead-letters").await, 0);
    relay.send(&interactor_by("whsec_wrong", event("evt_x"))).await;
    until("the rejection to be listed", SOON, async || (count("/api/v1/rejections?source=interactor").await == 1).then_some(()))
        .await;
    assert_eq!(count("/api/v1/rejections?source=agents").await, 0);
}

#[tokio::test]
async fn a_rejection_says_what_and_why() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.send(&interactor_by("whsec_wrong", event("evt_x"))).await;
    let row = until("the rejection to be listed", SOON, async || relay.all("/api/v1/rejections").await.pop()).await;
    assert_eq!((&row["source"], &row["code"], &row["status"]), (&json!("interactor"), &json!("invalid_signature"), &json!(401)));
    assert!(row["reason"].as_str().is_some_and(|reason| 10 < reason.len()), "{row}");
    assert_eq!((&row["kept"], &row["path"]), (&json!(true), &json!("/webhooks/interactor")));
}

#[tokio::test]
async fn what_it_runs_on_is_told() {
    let relay = Relay::start(&routes().interactor()).await;
    let config = relay.data("/api/v1/config").await;
    assert!(config["hash"].as_str().is_some_and(|hash| !hash.is_empty()) && config["error"].is_null(), "{config}");
    assert!(config["loaded_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
}
