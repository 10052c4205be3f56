//! `/api/v1/webhooks` and `/api/webhooks`: the sequence of Interactor's guide and its bodies field by field, Honeyframe's dialect, delivery
//! logs, errors. Clients that others wrote are in `rest_hooks.rs`.

use serde_json::{Value, json};

use crate::support::{
    Answer, Receiver, Reply, SOON, TestApp, minutes,
    relay::TOKEN,
    routes, seconds, spawn_app,
    subscribed::{is_signed_by, open_routes, open_routes_with},
    until,
};

const ALL: &str = "/api/v1/webhooks";

/// The names of all members of an object.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

/// Says that `answer` has the members of the guide's `example`, in its order and each of its kind, and no other.
fn like(answer: &Value, example: &Value) {
    match (answer, example) {
        (Value::Object(_), Value::Object(_)) => {
            assert_eq!(keys(answer), keys(example), "{answer}");
            keys(example).iter().for_each(|key| like(&answer[key], &example[key]));
        }
        (Value::Array(answers), Value::Array(examples)) => {
            let example = &examples[0];
            assert!(!answers.is_empty());
            answers.iter().for_each(|answer| like(answer, example));
        }
        (Value::String(text), Value::String(example)) => {
            let shape = |text: &str| text.bytes().map(|b| if b.is_ascii_digit() { b'0' } else { b }).collect::<Vec<_>>();
            if example.ends_with('Z') {
                assert_eq!(shape(text), shape(example), "a time in the guide's format");
            } else if let Some((prefix, _)) = example.split_once('_') {
                assert!(text.starts_with(&format!("{prefix}_")), "{text} {example}");
            }
        }
        _ => assert_eq!(std::mem::discriminant(answer), std::mem::discriminant(example), "{answer} {example}"),
    }
}

impl TestApp {
    async fn webhook(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_as(TOKEN, method, path, body.as_ref()).await
    }

    /// What a call answers, which must succeed with `status`.
    async fn says(&self, status: u16, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.webhook(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// `400 invalid_url`, and so on.
    async fn refuses(&self, method: &str, path: &str, body: Option<Value>) -> String {
        let answer = self.webhook(method, path, body).await;
        let json = answer.json();
        assert_eq!(keys(&json), ["error", "message"], "{json}");
        format!("{} {}", answer.status, json["error"].as_str().unwrap())
    }
}

#[tokio::test]
async fn the_guides_sequence_gets_the_guides_answers() {
    let (receiver, second) = (Receiver::start([200, 500]).await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let types = app.says(200, "GET", "/api/v1/webhooks/event-types", None).await;
    assert_eq!((keys(&types), keys(&types["data"])), (vec!["data"], vec!["event_types"]));
    let guide = [
        "credential.created",
        "credential.refreshed",
        "credential.expired",
        "credential.revoked",
        "workflow.instance.created",
        "workflow.instance.completed",
        "workflow.instance.failed",
        "workflow.instance.halted",
        "agent.room.message",
        "agent.room.closed",
    ];
    assert_eq!(types["data"]["event_types"].as_array().unwrap()[..guide.len()], guide, "in the guide's order");

    // Step 1: create.
    let events = ["credential.expired", "credential.revoked", "workflow.instance.completed", "workflow.instance.halted"];
    let asked = json!({"url": receiver.url(), "events": events, "enabled": true});
    let created = app.says(201, "POST", ALL, Some(asked)).await;
    let guide = json!({"data": {
        "id": "wh_abc", "url": "", "secret": "whsec_xyz_SAVE_THIS", "events": events, "enabled": true, "created_at": "2026-01-20T12:00:00Z",
    }});
    like(&created, &guide);
    let made = &created["data"];
    assert_eq!((&made["url"], &made["events"], &made["enabled"]), (&json!(receiver.url()), &json!(events), &json!(true)));
    assert_eq!(made["created_at"], "2026-01-20T12:00:00Z");
    let (id, secret) = (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned());
    let one = format!("{ALL}/{id}");
    assert_eq!(receiver.count(), 0, "creating sends nothing");

    // Something is delivered, and something fails.
    app.takes("evt_123").await;
    assert!(is_signed_by(&receiver.first().await, &secret));
    app.reaches(&format!("target={id}"), "delivered").await;
    app.clock.advance(minutes(5));
    app.takes("evt_124").await;
    app.tried(&format!("target={id}&state=pending"), 1).await;

    // Step 2: list.
    let listed = app.says(200, "GET", ALL, None).await;
    let in_list = json!({
        "id": "wh_abc", "url": "", "events": events, "enabled": true, "created_at": "2026-01-20T12:00:00Z",
        "last_delivery_at": "2026-01-20T12:30:00Z", "last_delivery_status": "delivered",
    });
    assert_eq!(keys(&listed), ["data", "next"]);
    like(&listed["data"], &json!({"webhooks": [in_list]}));
    let item = &listed["data"]["webhooks"][0];
    assert_eq!((&item["last_delivery_at"], &item["last_delivery_status"]), (&json!("2026-01-20T12:05:00Z"), &json!("failed")));
    assert_eq!(listed["next"], Value::Null);

    // Step 3: get.
    let got = app.says(200, "GET", &one, None).await;
    like(&got, &json!({"data": in_list}));
    assert_eq!(&got["data"], item);

    // Step 4: update.
    let changed = json!({"events": ["credential.created", "credential.expired"], "url": second.url()});
    app.clock.advance(seconds(1));
    let updated = app.says(200, "PUT", &one, Some(changed.clone())).await["data"].take();
    assert_eq!((&updated["events"], &updated["url"]), (&changed["events"], &changed["url"]));
    assert_eq!((&updated["id"], &updated["enabled"], &updated["created_at"]), (&made["id"], &json!(true), &made["created_at"]));
    assert_eq!(updated["updated_at"], "2026-01-20T12:05:01Z");
    // The guide shows no answers of these: they are what is listed, and what has changed.
    let with = |more: &[&'static str]| [&keys(&in_list)[..], more].concat();
    assert_eq!(keys(&updated), with(&["updated_at"]));

    // Step 5: toggle.
    let off = app.says(200, "POST", &format!("{one}/toggle"), None).await;
    assert_eq!((&off["data"]["enabled"], &off["data"]["disabled_reason"]), (&json!(false), &json!("person")));
    assert_eq!(keys(&off["data"]), with(&["disabled_at", "disabled_reason", "updated_at"]));
    assert_eq!((&off["data"]["disabled_at"], &off["data"]["events"]), (&json!("2026-01-20T12:05:01Z"), &changed["events"]));
    assert_eq!(app.refuses("POST", &format!("{one}/test"), None).await, "400 webhook_disabled");
    let on = app.says(200, "POST", &format!("{one}/toggle"), None).await;
    assert_eq!((&on["data"]["enabled"], &on["data"]["url"]), (&json!(true), &changed["url"]));
    assert_eq!(keys(&on["data"]), with(&["release", "updated_at"]), "what waits still is released");
    assert_eq!(keys(&on["data"]["release"]), ["job", "state", "total", "done", "rate"]);

    // Step 7: regenerate the secret.
    let fresh = app.says(200, "POST", &format!("{one}/regenerate-secret"), None).await;
    let guide = json!({"id": "wh_abc", "secret": "whsec_NEW_SECRET_SAVE_THIS", "regenerated_at": "2026-01-20T12:00:00Z"});
    assert_eq!(keys(&fresh["data"])[..3], keys(&guide)[..]);
    assert_eq!((&fresh["data"]["id"], &fresh["data"]["regenerated_at"]), (&made["id"], &json!("2026-01-20T12:05:01Z")));
    assert_eq!(fresh["data"]["previous_signs_until"], "2026-01-22T12:05:01Z");
    let new_secret = fresh["data"]["secret"].as_str().unwrap();
    assert_ne!(new_secret, secret);

    // Step 8: recent events.
    let recent = app.says(200, "GET", &format!("{one}/events"), None).await;
    let events = recent["data"]["events"].as_array().unwrap();
    let guide = json!([
        {"id": "evt_124", "type": "credential.expired", "delivered_at": "2026-01-20T12:05:00Z", "status": "failed",
            "response_code": 500, "retry_count": 0},
        {"id": "evt_123", "type": "credential.expired", "delivered_at": "2026-01-20T12:00:00Z", "status": "delivered",
            "response_code": 200},
    ]);
    assert_eq!((events.len(), keys(&recent), &recent["next"]), (2, vec!["data", "next"], &Value::Null));
    for (event, guide) in events.iter().zip(guide.as_array().unwrap()) {
        keys(guide).iter().for_each(|key| assert_eq!(event[key], guide[key], "{key}: {event}"));
        assert!(event["response_time_ms"].is_u64(), "{event}");
    }

    // Step 9: test.
    let tried = app.says(200, "POST", &format!("{one}/test"), None).await["data"].take();
    assert_eq!((&tried["id"], &tried["status"], &tried["response_code"]), (&made["id"], &json!("delivered"), &json!(200)));
    assert_eq!(tried["type"], "credential.created");
    assert_eq!(keys(&tried), ["id", "type", "status", "response_code", "response_time_ms", "response", "failure"]);
    assert_eq!((&tried["response"], &tried["failure"]), (&json!("{}"), &Value::Null));
    let sent = second.first().await;
    assert!(is_signed_by(&sent, &secret) && is_signed_by(&sent, new_secret));
    assert_eq!(sent.json()["data"]["test"], true);

    // Step 6: delete.
    let deleted = app.says(200, "DELETE", &one, None).await;
    assert_eq!(deleted, json!({"data": {"id": id, "deleted": true}}));
    for (method, path) in
        [("GET", one.clone()), ("DELETE", one.clone()), ("POST", format!("{one}/toggle")), ("GET", format!("{one}/events"))]
    {
        assert_eq!(app.refuses(method, &path, None).await, "404 webhook_not_found", "{method} {path}");
    }
    assert_eq!(app.says(200, "GET", ALL, None).await["data"], json!({"webhooks": []}));
}

#[tokio::test]
async fn what_is_refused_has_the_guides_codes() {
    let app = spawn_app(open_routes()).await;
    let create = |body: Value| app.refuses("POST", ALL, Some(body));
    assert_eq!(create(json!({"url": "http://a.example/h", "events": ["**"]})).await, "400 invalid_url");
    assert_eq!(create(json!({"url": "https://192.168.0.1/h", "events": ["**"]})).await, "400 invalid_url");
    assert_eq!(create(json!({"events": ["**"]})).await, "400 invalid_url");
    assert_eq!(create(json!({"url": "https://a.example/h", "events": ["credential.expird"]})).await, "400 invalid_events");
    assert_eq!(create(json!({"url": "https://a.example/h", "events": []})).await, "400 invalid_events");
    assert_eq!(create(json!({"url": "https://a.example/h"})).await, "400 invalid_events");
    assert_eq!(create(json!([])).await, "400 invalid_request");
    assert_eq!(create(json!({"url": "https://a.example/h", "events": ["**"], "filters": []})).await, "400 invalid_request");
    assert_eq!(app.refuses("POST", ALL, None).await, "400 invalid_request");
    let deep = serde_json::from_str(&format!("{}{}", "[".repeat(110), "]".repeat(110))).unwrap();
    assert_eq!(create(deep).await, "400 invalid_request");
    assert_eq!(create(json!({"name": "x".repeat(200_000)})).await, "413 payload_too_large");
    assert_eq!(app.refuses("GET", "/api/v1/webhooks/wh_abc", None).await, "404 webhook_not_found");
    assert_eq!(app.refuses("GET", "/api/v1/webhooks/%ff", None).await, "404 webhook_not_found");
    assert_eq!(app.refuses("GET", "/api/webhooks/wh_abc/deliveries", None).await, "404 webhook_not_found");
    assert_eq!(app.refuses("GET", "/api/v1/webhooks?limit=0", None).await, "400 invalid_request");
    assert_eq!(app.get_as(ALL, Some("wrong")).await.status, 401);
    assert_eq!(app.get_public(ALL).await.status, 404, "the public listener shows it only with `public_api`");
}

#[tokio::test]
async fn what_may_be_said_besides_is_kept_and_shown_without_secrets() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let asked = json!({
        "url": receiver.url(), "event_types": ["credential.*"], "name": "CRM", "description": "to the CRM", "timeout": 5, "max_retries": 2,
        "headers": {"X-Key": "psst"}, "metadata": {"team": "a"}, "verify_tls": false, "filter": {"path": "$.data.n", "eq": 1},
        "zap": {"id": 7},
    });
    let made = app.says(201, "POST", ALL, Some(asked.clone())).await["data"].take();
    for name in ["name", "description", "timeout", "max_retries", "metadata", "verify_tls", "filter"] {
        assert_eq!(made[name], asked[name], "{name}");
    }
    assert_eq!((&made["headers"], &made["events"], made.get("zap")), (&json!({"X-Key": "***"}), &asked["event_types"], None));
    let one = format!("{ALL}/{}", made["id"].as_str().unwrap());
    // What was got may be sent back changed.
    let mut got = app.says(200, "GET", &one, None).await["data"].take();
    got["name"] = json!("CRM 2");
    got["timeout"] = Value::Null;
    let after = app.says(200, "PATCH", &one, Some(got)).await["data"].take();
    assert_eq!((&after["name"], after.get("timeout"), &after["headers"]), (&json!("CRM 2"), None, &made["headers"]));
    app.takes_of("evt_1", "credential.expired", json!({"n": 1})).await;
    assert_eq!(receiver.first().await.header("x-key"), "psst");
}

#[tokio::test]
async fn honeyframe_gets_plain_objects_and_never_the_secret() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let asked = json!({"event_type": "recipe.run.failed", "target_url": receiver.url(), "secret": secret});
    let made = app.says(201, "POST", "/api/webhooks", Some(asked)).await;
    assert_eq!(keys(&made), ["id", "event_type", "target_url", "enabled", "created_at", "signing"]);
    assert_eq!((&made["event_type"], &made["target_url"]), (&json!("recipe.run.failed"), &json!(receiver.url())));
    assert_eq!(made["signing"], json!(["standard", "honeyframe"]));
    let id = made["id"].as_str().unwrap();
    let weak = json!({"event_type": "recipe.run.failed", "target_url": "https://a.example/h", "secret": "plain-secret"});
    let other = app.says(201, "POST", "/api/webhooks", Some(weak)).await;
    assert_eq!(other["signing"], json!(["honeyframe"]), "the secret is none that `standard` takes");
    app.takes_of("evt_1", "recipe.run.failed", json!({"id": 7})).await;
    assert!(is_signed_by(&receiver.first().await, secret));
    app.reaches(&format!("target={id}"), "delivered").await;
    let list = app.says(200, "GET", "/api/webhooks", None).await;
    assert_eq!((keys(&list), list["webhooks"].as_array().unwrap().len()), (vec!["webhooks", "next"], 2));
    let one = app.says(200, "GET", &format!("/api/webhooks/{id}"), None).await;
    assert_eq!((&one["id"], &one["last_delivery_status"]), (&made["id"], &json!("delivered")));
    let log = app.says(200, "GET", &format!("/api/webhooks/{id}/deliveries"), None).await;
    assert_eq!((keys(&log), &log["deliveries"][0]["event_id"]), (vec!["deliveries", "next"], &json!("evt_1")));
    // Both dialects see the same ones, and neither the secret.
    let seen = app.says(200, "GET", &format!("{ALL}/{id}"), None).await;
    assert_eq!(seen["data"]["events"], json!(["recipe.run.failed"]));
    for answer in [&made, &list, &one, &log, &seen] {
        assert!(!answer.to_string().contains(secret), "{answer}");
    }
    assert_eq!(
        app.refuses(
            "POST",
            "/api/webhooks",
            Some(json!({"event_type": "recipe.run.failed", "target_url": "https://a.example/h"}))
        )
        .await,
        "400 invalid_request"
    );
    assert_eq!(app.says(200, "DELETE", &format!("/api/webhooks/{id}"), None).await, json!({"id": id, "deleted": true}));
    assert_eq!(app.refuses("GET", &format!("{ALL}/{id}"), None).await, "404 webhook_not_found");
}

#[tokio::test]
async fn the_log_has_every_attempt_and_can_be_filtered_and_paged() {
    let answers = [Reply::from(503), Reply::from(200), Reply::from(400), Reply::from(200), Reply::from(200)];
    let receiver = Receiver::start(answers).await;
    let app = spawn_app(open_routes()).await;
    let asked = json!({"url": receiver.url(), "events": ["**"], "headers": {"X-Key": "psst"}});
    let made = app.says(201, "POST", ALL, Some(asked)).await["data"].take();
    let id = made["id"].as_str().unwrap();
    let other = app.says(201, "POST", ALL, Some(json!({"url": receiver.url(), "events": ["agent.**"]}))).await;
    app.takes("evt_1").await;
    app.tried(&format!("target={id}"), 1).await;
    app.clock.advance(minutes(1));
    app.reaches(&format!("target={id}"), "delivered").await;
    app.takes("evt_2").await;
    app.counts(&format!("target={id}&state=dead"), 1).await;
    app.clock.advance(minutes(1));
    app.takes_of("evt_3", "workflow.instance.failed", json!({})).await;
    app.counts(&format!("target={id}&state=delivered"), 2).await;

    let log = app.says(200, "GET", &format!("{ALL}/{id}/deliveries"), None).await;
    let rows = log["data"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["event_id"].as_str().unwrap()).collect::<Vec<_>>(), ["evt_3", "evt_2", "evt_1"]);
    let first = &rows[2];
    assert_eq!(
        (&first["status"], &first["attempt_count"], &first["state"]),
        (&json!("delivered"), &json!(2), &json!("delivered"))
    );
    let attempts = first["attempts"].as_array().unwrap();
    let told = |attempt: &Value| {
        format!(
            "{} {} {} {} {}",
            attempt["number"], attempt["outcome"], attempt["status_code"], attempt["error"], attempt["next_attempt_at"]
        )
    };
    assert_eq!(told(&attempts[0]), r#"1 "retry" 503 "http_503" "2026-01-20T12:01:00.000Z""#);
    assert_eq!(told(&attempts[1]), r#"2 "delivered" 200 null null"#);
    assert!(attempts.iter().all(|attempt| attempt["latency_ms"].is_u64() && attempt["response"].is_string()));
    let headers = &attempts[0]["request_headers"];
    assert_eq!((&headers["webhook-signature"], &headers["x-key"]), (&json!("***"), &json!("***")), "{headers}");
    assert_eq!(
        (&rows[1]["status"], &rows[1]["cause"], &rows[1]["error"]),
        (&json!("failed"), &json!("receiver"), &json!("http_400"))
    );
    assert!(!log.to_string().contains("psst") && !log.to_string().contains(made["secret"].as_str().unwrap()));

    let found = async |query: &str| {
        let log = app.says(200, "GET", &format!("{ALL}/{id}/events?{query}"), None).await;
        let events = log["data"]["events"].as_array().unwrap().iter();
        (events.map(|it| it["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" "), log["next"].clone())
    };
    assert_eq!(found("status=delivered").await.0, "evt_3 evt_1");
    assert_eq!(found("status=failed").await.0, "evt_2");
    assert_eq!(found("status=pending").await.0, "");
    assert_eq!(found("code=400").await.0, "evt_2");
    assert_eq!(found("code=503").await.0, "", "of the last answer");
    assert_eq!(found("type=workflow.instance.failed").await.0, "evt_3");
    assert_eq!(found("since=2026-01-20T12:02:00Z").await.0, "evt_3");
    assert_eq!(found("until=2026-01-20T12:01:00Z").await.0, "evt_1");
    let (ids, next) = found("limit=2").await;
    assert_eq!(ids, "evt_3 evt_2");
    assert_eq!(found(&format!("limit=2&after={}", next.as_str().unwrap())).await, ("evt_1".to_owned(), Value::Null));
    let (ids, next) = found("limit=1&status=delivered").await;
    assert_eq!(ids, "evt_3");
    assert_eq!(found(&format!("limit=1&status=delivered&after={}", next.as_str().unwrap())).await.0, "evt_1");
    assert_eq!(found("after=0&limit=2").await.0, "evt_1 evt_2", "in commit order");
    let theirs = format!("{ALL}/{}/events", other["data"]["id"].as_str().unwrap());
    assert_eq!(app.says(200, "GET", &theirs, None).await["data"], json!({"events": []}));
    assert_eq!(app.refuses("GET", &format!("{ALL}/{id}/events?status=dead"), None).await, "400 invalid_request");
}

#[tokio::test]
async fn a_trial_tells_what_the_receiver_said_and_keeps_nothing() {
    let receiver = Receiver::start([500, 404]).await;
    let app = spawn_app(open_routes()).await;
    let made = app.says(201, "POST", ALL, Some(json!({"url": receiver.url(), "events": ["workflow.**"]}))).await["data"].take();
    let test = format!("{ALL}/{}/test", made["id"].as_str().unwrap());
    let tried = app.says(200, "POST", &test, None).await["data"].take();
    assert_eq!(
        (&tried["status"], &tried["response_code"], &tried["failure"]),
        (&json!("failed"), &json!(500), &json!("transient"))
    );
    assert_eq!(tried["type"], "workflow.instance.created");
    let asked = Some(json!({"event": "workflow.instance.failed", "more": 1}));
    let tried = app.says(200, "POST", &test, asked).await["data"].take();
    assert_eq!((&tried["type"], &tried["response_code"]), (&json!("workflow.instance.failed"), &json!(404)));
    assert_eq!(app.refuses("POST", &test, Some(json!({"event": "a b"}))).await, "400 invalid_events");
    assert_eq!(app.refuses("POST", &test, Some(json!([null]))).await, "400 invalid_request");
    let log = test.replace("/test", "/events");
    assert_eq!(app.says(200, "GET", &log, None).await["data"], json!({"events": []}), "nothing of it is kept");
    // Nobody is there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let gone = json!({"url": format!("http://127.0.0.1:{port}/x")});
    app.says(200, "PATCH", &test.replace("/test", ""), Some(gone)).await;
    assert_eq!(app.refuses("POST", &test, None).await, "400 url_unreachable");
}

#[tokio::test]
async fn samples_show_what_will_be_delivered() {
    let app = spawn_app(open_routes().section("event_types: [invoice.paid]")).await;
    let samples = async |query: &str| {
        let answer = app.says(200, "GET", &format!("{ALL}/samples{query}"), None).await;
        answer["data"].as_array().unwrap().clone()
    };
    let all = samples("").await;
    assert!(14 < all.len() && all.iter().all(|it| it["id"].is_string() && it["data"].is_object()));
    let expired = samples("?type=credential.expired").await;
    assert_eq!((expired.len(), &expired[0]["id"]), (1, &json!("evt_003")));
    assert_eq!(samples("?type=invoice.*").await[0]["type"], "invoice.paid");
    assert_eq!(app.refuses("GET", &format!("{ALL}/samples?type=a**"), None).await, "400 invalid_request");
}

#[tokio::test]
async fn what_was_held_is_released_and_shown() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes_with("release_rate: 1/s")).await;
    let made =
        app.says(201, "POST", ALL, Some(json!({"url": receiver.url(), "events": ["**"], "enabled": false}))).await["data"].take();
    assert_eq!(made["enabled"], false);
    let one = format!("{ALL}/{}", made["id"].as_str().unwrap());
    app.takes_many(3).await;
    let waiting = app.says(200, "GET", &format!("{one}/events?status=pending"), None).await;
    let waiting = waiting["data"]["events"].as_array().unwrap();
    assert!(waiting.len() == 3 && waiting.iter().all(|row| row.get("next_attempt_at").is_none()), "{waiting:?}");
    let log = app.says(200, "GET", &format!("{one}/deliveries"), None).await;
    let first = &log["data"][0];
    assert_eq!(
        (&first["status"], &first["state"], &first["cause"], &first["next_attempt_at"]),
        (&json!("pending"), &json!("held"), &json!("disabled"), &Value::Null),
        "as it is shown wherever it is asked for"
    );
    let on = app.says(200, "POST", &format!("{one}/toggle"), None).await;
    assert_eq!((&on["data"]["enabled"], &on["data"]["release"]["total"]), (&json!(true), &json!(3)));
    until("all that was held to be sent", SOON, async || {
        app.clock.advance(seconds(1));
        (receiver.count() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let app = spawn_app(open_routes()).await;
    for n in 0..5 {
        app.clock.advance(seconds(1));
        app.says(201, "POST", ALL, Some(json!({"url": format!("https://a.example/{n}"), "events": ["**"]}))).await;
    }
    let (mut seen, mut after) = (String::new(), String::new());
    loop {
        let page = app.says(200, "GET", &format!("{ALL}?limit=2{after}"), None).await;
        for it in page["data"]["webhooks"].as_array().unwrap() {
            seen.push_str(it["url"].as_str().unwrap().rsplit('/').next().unwrap());
            assert_eq!((&it["last_delivery_at"], &it["last_delivery_status"]), (&Value::Null, &Value::Null));
        }
        seen.push('|');
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, "43|21|0|");
}

#[tokio::test]
async fn with_public_api_the_public_listener_takes_them_too() {
    let app = spawn_app(routes().interactor().server("public_api: true")).await;
    assert_eq!(app.get_public(ALL).await.status, 401);
    assert_eq!(app.get_public("/api/webhooks").await.status, 401);
    let token = app.token(&["webhooks:read"], &["acme"]).await;
    assert_eq!(app.ask_at(app.public, &token, "GET", ALL, None).await.status, 200);
    let body = json!({"url": "https://a.example/h", "events": ["**"]});
    assert_eq!(app.ask_at(app.public, &token, "POST", ALL, Some(&body)).await.status, 403);
    let closed = spawn_app(routes().interactor()).await;
    assert_eq!(closed.get_public("/api/webhooks").await.status, 404);
}
