//! Another file takes the place of the one the relay goes by: everything at once, and nothing of what is under way is lost.

use std::{os::unix::fs::symlink, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    Api, Home, Receiver, Relay, Reply, Routes, SOON, TestApp, app::MINUTELY, hours, minutes, relay::TOKEN, routes, seconds,
    signed, spawn_app, throughout, until,
};

/// The hash of what `relay` goes by.
async fn hash(relay: &Api) -> String {
    relay.data("/api/v1/config").await["hash"].as_str().unwrap().to_owned()
}

/// The first error of the problems that stand in `said`.
fn error_of(said: &Value) -> &Value {
    said["problems"].as_array().unwrap().iter().find(|it| it["severity"] == "error").unwrap_or_else(|| panic!("{said}"))
}

/// The relay's own events of this type, newest first.
async fn told(relay: &Api, event_type: &str) -> Vec<Value> {
    relay.all(&format!("/api/v1/events?source=hookyard&type={event_type}")).await
}

#[tokio::test]
async fn the_next_attempt_uses_todays_url_and_policy() {
    let (old, new) = (Receiver::start([503]).await, Receiver::start([503]).await);
    let app = spawn_app(routes().interactor().webhook_with("crm", &old, MINUTELY)).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let policy = "retry: {initial: 7m, factor: 1, max: 7m, jitter: none}";
    app.reload(routes().interactor().webhook_with("crm", &new, policy)).await;
    app.clock.advance(minutes(1));
    let row = app.tried("", 2).await;
    assert_eq!((old.count(), new.count(), app.due_in(&row)), (1, 1, 420.0));
}

#[tokio::test]
async fn what_waits_for_a_removed_target_is_held_and_goes_out_when_it_is_back() {
    let crm = Receiver::start([503, 200]).await;
    let with = routes().interactor().webhook_with("crm", &crm, MINUTELY);
    let app = spawn_app(with.clone()).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.reload(routes().interactor()).await;
    assert_eq!(app.reaches("", "held").await["cause"], "config");
    app.nothing_comes(&crm, 1, hours(1)).await;
    app.reload(with).await;
    app.reaches("", "delivered").await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (2, 1));
}

#[tokio::test]
async fn renamed_from_adopts_what_waits_for_the_old_name() {
    let crm = Receiver::start([503, 200]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_1").await;
    let old = app.tried("", 1).await;
    app.reload(routes().interactor().webhook_with("sales", &crm, &format!("renamed_from: crm, {MINUTELY}"))).await;
    app.clock.advance(minutes(1));
    let row = app.reaches("target=sales", "delivered").await;
    assert_eq!(row["id"], old["id"], "the same delivery");
    assert_eq!(app.rows("target=crm").await.len(), 0);
}

#[tokio::test]
async fn other_quiet_hours_let_go_at_once_what_the_former_held() {
    let crm = Receiver::ok().await;
    let nights = |from: &str, to: &str| {
        let windows = format!("windows: [{{days: mon-sun, from: \"{from}\", to: \"{to}\"}}]");
        routes()
            .interactor()
            .webhook_with("crm", &crm, "quiet: {schedule: nights, then: hold}")
            .section(&format!("schedules:\n  nights: {{tz: UTC, {windows}}}"))
    };
    let app = spawn_app(nights("11:00", "15:00")).await;
    app.takes("evt_1").await;
    assert_eq!(app.reaches("", "held").await["cause"], "quiet");
    app.reload(nights("22:00", "23:00")).await;
    app.reaches("", "delivered").await;
    app.reload(nights("11:00", "15:00")).await;
    app.takes("evt_2").await;
    app.counts("state=held", 1).await;
    app.nothing_comes(&crm, 1, hours(2)).await;
    app.clock.advance(hours(1) + seconds(1));
    crm.wait_for(2).await;
}

#[tokio::test]
async fn the_public_listener_shows_events_while_the_file_says_so() {
    let app = spawn_app(routes().interactor()).await;
    assert_eq!(app.get_public("/api/v1/events").await.status, 404);
    app.reload(routes().interactor().server("public_api: true")).await;
    assert_eq!(app.get_public("/api/v1/events").await.status, 401);
    app.reload(routes().interactor()).await;
    assert_eq!(app.get_public("/api/v1/events").await.status, 404);
}

#[tokio::test]
async fn a_reload_says_what_has_changed_and_is_told_of() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    let before = hash(&app).await;
    let outcome = app.reload(routes().interactor().agent().webhook("sales", &crm).rule("name: all, to: [sales]")).await;
    assert_eq!((&outcome["former_hash"], &outcome["changed"]), (&json!(before), &json!(true)));
    assert_eq!(outcome["hash"], hash(&app).await);
    assert_eq!(outcome["sources"], json!({"added": ["agents"], "removed": []}));
    assert_eq!(outcome["destinations"], json!({"added": ["sales"], "removed": ["crm"]}));
    assert_eq!(outcome["rules"], json!({"added": ["all"], "removed": ["everything"]}));
    app.clock.advance(minutes(1));
    until("it to be told", SOON, async || (!told(&app, "relay.config.loaded").await.is_empty()).then_some(())).await;
    assert_eq!(app.metric("hookyard_config_info", &[&format!("hash=\"{}\"", hash(&app).await)]).await, 1.0);
    let again = app.posts("/api/v1/config/reload", &json!({})).await;
    assert_eq!(again["changed"], false);
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_shows_everywhere_until_a_good_one_comes() {
    let crm = Receiver::ok().await;
    let good = || routes().interactor().webhook("crm", &crm);
    let app = spawn_app(good()).await;
    let before = app.data("/api/v1/config").await;
    assert_eq!((&before["error"], app.metric("hookyard_config_last_reload_successful", &[]).await), (&Value::Null, 1.0));
    let loaded_at = app.metric("hookyard_config_last_reload_success_timestamp_seconds", &[]).await;
    app.clock.advance(minutes(1));
    for _ in 0..3 {
        app.writes(good().section("ruels: []"));
        let answer = app.post("/api/v1/config/reload", &json!({})).await;
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]), (422, &json!("invalid_config")), "{}", answer.text());
        let problem = error_of(&body);
        assert_eq!((&problem["code"], &problem["fix"], &problem["col"]), (&json!("unknown-key"), &json!("rules"), &json!(1)));
    }
    let now = app.data("/api/v1/config").await;
    assert_eq!((&now["hash"], &now["loaded_at"]), (&before["hash"], &before["loaded_at"]));
    assert!(now["error"].as_str().unwrap().contains("ruels"), "{now}");
    assert_eq!(error_of(&now)["code"], "unknown-key");
    assert_eq!(app.metric("hookyard_config_last_reload_successful", &[]).await, 0.0);
    assert_eq!(app.metric("hookyard_config_last_reload_success_timestamp_seconds", &[]).await, loaded_at);
    app.takes("evt_1").await;
    app.reaches("", "delivered").await;
    app.clock.advance(hours(1));
    until("it to be told", SOON, async || (told(&app, "relay.config.rejected").await.len() == 1).then_some(())).await;
    app.reload(good()).await;
    let now = app.data("/api/v1/config").await;
    assert_eq!((&now["hash"], &now["error"]), (&before["hash"], &Value::Null));
    assert_eq!(app.metric("hookyard_config_last_reload_successful", &[]).await, 1.0);
    app.clock.advance(hours(1));
    until("that too", SOON, async || (told(&app, "relay.config.loaded").await.len() == 2).then_some(())).await;
    assert_eq!(told(&app, "relay.config.rejected").await.len(), 1, "the same is told once");
}

#[tokio::test]
async fn what_needs_a_restart_is_refused_where_it_stands_and_the_rest_with_it() {
    let app = spawn_app(routes().interactor()).await;
    app.writes(routes().interactor().agent().on("127.0.0.1:1", "127.0.0.1:0"));
    let answer = app.post("/api/v1/config/reload", &json!({})).await;
    assert_eq!(answer.status, 422);
    let answer = answer.json();
    let problem = error_of(&answer);
    assert_eq!(
        (&problem["code"], &problem["line"], &problem["path"]),
        (&json!("needs-restart"), &json!(3), &json!("server.listen"))
    );
    assert_eq!(app.data("/api/v1/sources").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_reload_says_how_many_wait_without_their_destination_and_what_would_adopt_them() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes_many(3).await;
    crm.wait_for(3).await;
    app.counts("state=pending", 3).await;
    let outcome = app.reload(routes().interactor().webhook_with("sales", &crm, MINUTELY)).await;
    let waiting = &outcome["waiting"][0];
    assert_eq!((&waiting["target"], &waiting["deliveries"], &waiting["renamed_to"]), (&json!("crm"), &json!(3), &json!("sales")));
    assert!(waiting["help"].as_str().unwrap().contains("`renamed_from: crm` in destination `sales`"), "{waiting}");
    app.counts("state=held", 3).await;
    let outcome = app.reload(routes().interactor().webhook_with("sales", &crm, &format!("renamed_from: crm, {MINUTELY}"))).await;
    assert_eq!(outcome["waiting"], json!([]));
    app.counts("target=sales", 3).await;
}

#[tokio::test]
async fn a_file_is_checked_without_being_gone_by() {
    let app = spawn_app(routes().interactor()).await;
    let before = hash(&app).await;
    let check = async |text: &str| {
        let url = format!("http://{}/api/v1/config/check", app.admin);
        let answer = reqwest::Client::new().post(url).bearer_auth(TOKEN).body(text.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap()["data"].take()
    };
    let bad = check("version: 1\nservr: {}\n").await;
    assert_eq!((&bad["ok"], &error_of(&bad)["line"], &error_of(&bad)["fix"]), (&json!(false), &json!(2), &json!("server")));
    assert_eq!(check("version: 1\n").await["ok"], true);
    let on_disk = check("").await;
    assert_eq!((&on_disk["ok"], &on_disk["hash"]), (&json!(true), &json!(before)));
    assert_eq!(hash(&app).await, before);
}

#[tokio::test]
async fn limits_breakers_and_counts_outlast_a_reload() {
    let crm = Receiver::start([401, 200]).await;
    let limited = |more: &str| {
        let source =
            format!("kind: agent, path: /webhooks/agent, secrets: [\"{}\"], rate_limit: {{rate: 1/h, burst: 2}}", signed::AGENT);
        routes().source("agents", &source).webhook_with("crm", &crm, &format!("{MINUTELY}{more}"))
    };
    let app = spawn_app(limited("")).await;
    let send = async |n: u32| app.send(&signed::agent(json!({"event": "agent.message", "n": n}).to_string())).await.status;
    assert_eq!(send(1).await, 200);
    app.target_is("crm", "broken").await;
    app.reload(limited(", concurrency: 2")).await;
    assert_eq!(app.target("crm").await["state"], "broken");
    assert_eq!((send(2).await, send(3).await), (200, 429), "its bucket was half empty");
    let counts = &app.data("/api/v1/sources").await[0]["counts"];
    assert_eq!(counts, &json!({"success": 2, "rate_limited": 1}));
    app.clock.advance(seconds(31));
    app.target_is("crm", "ok").await;
    app.counts("state=delivered", 2).await;
}

#[tokio::test]
async fn keys_of_the_server_that_can_change_do() {
    let app = spawn_app(routes().interactor()).await;
    let large =
        signed::interactor(signed::event("evt_1") + &" ".repeat(3000)).header("X-Interactor-Timestamp", "2026-01-20T12:00:00Z");
    app.reload(routes().interactor().server("max_body: 2KiB")).await;
    assert_eq!(app.send(&large).await.status, 413);
    app.reload(routes().interactor()).await;
    assert_eq!(app.send(&large).await.status, 200);
}

/// Generation `n`: the source names it in the type, and the only rule takes that type to its target.
fn generation(n: usize, targets: &[Receiver; 2]) -> Routes {
    let source = format!(
        "kind: interactor, path: /webhooks/interactor, secrets: [\"{}\"], map: {{type: generation.{n}}}",
        signed::INTERACTOR
    );
    let rule = format!("name: of-{n}, match: {{type: generation.{n}}}, to: [target-{n}]");
    let [one, other] = targets;
    routes().source("interactor", &source).webhook("target-0", one).webhook("target-1", other).rule(&rule)
}

#[tokio::test]
async fn under_load_no_request_fails_and_no_event_is_lost_or_planned_by_a_mixture_of_two_files() {
    let targets = [Receiver::ok().await, Receiver::ok().await];
    let app = spawn_app(generation(0, &targets)).await;
    let sending = async |app: &TestApp, first: usize| {
        for n in 0..100 {
            app.accepts(&app.signed(&signed::event(&format!("evt_{}", first + n)))).await;
        }
    };
    let reloading = async {
        for n in 1..=20 {
            if n % 10 == 0 {
                app.writes(generation(n % 2, &targets).section("ruels: []"));
                assert_eq!(app.post("/api/v1/config/reload", &json!({})).await.status, 422);
            } else {
                app.reload(generation(n % 2, &targets)).await;
            }
        }
    };
    tokio::join!(sending(&app, 0), sending(&app, 100), sending(&app, 200), reloading);
    let rows = app.settled("", 300).await;
    assert!(rows.iter().all(|row| row["state"] == "delivered"), "{rows:?}");
    for (n, target) in targets.iter().enumerate() {
        let types: Vec<_> = target.seen().iter().map(|it| it.json()["type"].as_str().unwrap().to_owned()).collect();
        assert!(types.iter().all(|it| *it == format!("generation.{n}")), "{types:?}");
    }
    assert_eq!(targets[0].count() + targets[1].count(), 300);
    assert!(targets.iter().all(|target| 0 < target.count()), "both files were gone by");
}

/// A relay as a process, and what it goes by.
async fn process(routes: &Routes) -> (Relay, String) {
    let relay = Relay::start(routes).await;
    let hash = hash(&relay).await;
    (relay, hash)
}

/// Waits until the relay goes by another file than that of `hash`; yields its hash.
async fn another(relay: &Relay, former: &str) -> String {
    until("another file to be gone by", SOON, async || Some(hash(relay).await).filter(|now| now != former)).await
}

/// The `n`th of many files that differ.
fn nth(n: usize) -> Routes {
    routes().interactor().server(&format!("max_body: {}KiB", 100 + n))
}

#[tokio::test]
async fn a_hangup_makes_it_read_the_file_again() {
    let (relay, first) = process(&nth(0).server("watch: false")).await;
    relay.home.write("routes.yaml", &nth(1).server("watch: false").text());
    throughout("it waits to be told", Duration::from_millis(1500), async || hash(&relay).await == first).await;
    let hang_up = || assert!(Command::new("kill").args(["-HUP", &relay.pid().to_string()]).status().unwrap().success());
    hang_up();
    let second = another(&relay, &first).await;
    relay.home.write("routes.yaml", "version: 1\nruels: []");
    hang_up();
    until("the error to show", SOON, async || relay.data("/api/v1/config").await["error"].as_str().map(str::to_owned)).await;
    assert_eq!(hash(&relay).await, second);
    assert!(relay.log_text().contains("ruels"), "the log says why");
}

#[tokio::test]
async fn a_change_on_disk_is_noticed_however_it_is_made_and_nothing_ends_that() {
    let (relay, hash) = process(&nth(0)).await;
    let path = relay.home.path().join("routes.yaml");
    let renamed = |n: usize| {
        let new = relay.home.write("new", &nth(n).text());
        std::fs::rename(new, &path).unwrap();
    };
    std::fs::write(&path, nth(1).text()).unwrap();
    let hash = another(&relay, &hash).await;
    renamed(2);
    let hash = another(&relay, &hash).await;
    std::fs::write(&path, "version: 1\nruels: []").unwrap();
    let error = async || relay.data("/api/v1/config").await["error"].as_str().map(str::to_owned);
    until("the error to show", SOON, &error).await;
    std::fs::remove_file(&path).unwrap();
    until("that it is gone", SOON, async || error().await.filter(|it| it.contains("No such file"))).await;
    renamed(3);
    let hash = another(&relay, &hash).await;
    assert_eq!(error().await, None);
    // As Kubernetes swaps the volume of a ConfigMap.
    let version = |name: &str, n: usize| {
        std::fs::create_dir(relay.home.path().join(name)).unwrap();
        relay.home.write(&format!("{name}/routes.yaml"), &nth(n).text());
    };
    version("v4", 4);
    symlink("v4", relay.home.path().join("..data")).unwrap();
    symlink("..data/routes.yaml", relay.home.path().join("link")).unwrap();
    std::fs::rename(relay.home.path().join("link"), &path).unwrap();
    let hash = another(&relay, &hash).await;
    version("v5", 5);
    symlink("v5", relay.home.path().join("..data_tmp")).unwrap();
    std::fs::rename(relay.home.path().join("..data_tmp"), relay.home.path().join("..data")).unwrap();
    std::fs::remove_dir_all(relay.home.path().join("v4")).unwrap();
    another(&relay, &hash).await;
}

#[tokio::test]
async fn secret_files_and_fragments_are_watched_too() {
    let home = Home::new();
    let secret = home.write("secret", "first");
    let source = format!("kind: agent, path: /webhooks/agent, secrets: [\"${{file:{}}}\"]", secret.display());
    let routes = routes().source("agents", &source).section("include: [routes.d/*.yaml]");
    let relay = Relay::start_in(&home, &routes).await;
    let first = hash(&relay).await;
    let refused = async || {
        let event = signed::agent(r#"{"event": "agent.message"}"#);
        relay.send(&event).await.status == 401
    };
    assert!(refused().await);
    std::fs::write(&secret, signed::AGENT).unwrap();
    until("the secret to be read again", SOON, async || (!refused().await).then_some(())).await;
    std::fs::create_dir(home.path().join("routes.d")).unwrap();
    home.write(
        "routes.d/ours.yaml",
        &format!("sources:\n  ours: {{kind: agent, path: /ours, secrets: [\"{}\"]}}\n", signed::AGENT),
    );
    another(&relay, &first).await;
    assert_eq!(relay.data("/api/v1/sources").await.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_command_waits_says_what_came_of_it_and_exits_so() {
    let crm = Receiver::start([Reply::from(503)]).await;
    let (relay, first) = process(&nth(0).server("watch: false").webhook("crm", &crm)).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    relay.home.write("routes.yaml", &nth(1).server("watch: false").agent().text());
    let good = relay.cli(&["reload"]).await;
    let said = text(&good.stdout);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    assert!(said.contains(&first) && said.contains("+ sources: agents") && said.contains("- destinations: crm"), "{said}");
    let json = relay.cli(&["reload", "--json"]).await;
    let answer: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(answer["data"]["changed"], false);
    relay.home.write("routes.yaml", "version: 1\nruels: []\n");
    let bad = relay.cli(&["reload"]).await;
    let said = text(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1));
    assert!(said.contains("routes.yaml:2:1: error[unknown-key]") && said.contains("did you mean"), "{said}");
    let home = relay.home.clone();
    relay.kill();
    let gone = home.run(&["reload", "--config", "cli.yaml"]).await;
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone.stderr));
}

#[tokio::test]
async fn the_last_good_file_is_that_of_the_last_good_reload() {
    let home = Home::new();
    let relay = Relay::start_in(&home, &nth(0)).await;
    let first = hash(&relay).await;
    home.write("routes.yaml", &nth(1).text());
    let second = another(&relay, &first).await;
    // It goes by the file first, and keeps it then.
    until("the reload to be done", SOON, async || relay.log_text().contains("the configuration is loaded").then_some(())).await;
    relay.kill();
    home.write("routes.yaml", &nth(1).section("ruels: []").text());
    let relay = Relay::resume(&home).await;
    let config = relay.data("/api/v1/config").await;
    assert_eq!(config["hash"], second.as_str());
    assert!(config["error"].as_str().unwrap().contains("ruels") && error_of(&config)["code"] == "unknown-key", "{config}");
    home.write("routes.yaml", &nth(2).text());
    another(&relay, &second).await;
}
