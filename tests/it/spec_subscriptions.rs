//! delivery.md on subscriptions: what they hold and how it is released, who takes over what a deleted one leaves, and what switches one off.

use std::{collections::BTreeSet, time::Duration};

use hookyard::{
    access::Caller,
    config::decode::Rate,
    subscriptions::{Created, Why},
};
use serde_json::{Value, json};

use crate::support::{
    Receiver, Reply, SOON, TestApp, hours, minutes, seconds, spawn_app,
    subscribed::{open_routes, open_routes_with, token},
    until,
};

/// A relay with one subscription, to a receiver that answers so.
async fn with<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> (Receiver, TestApp, Created) {
    let receiver = Receiver::start(replies).await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    (receiver, app, made)
}

/// The ids of the events that came, in order.
fn ids(receiver: &Receiver) -> Vec<String> {
    receiver.seen().iter().map(|request| request.header("webhook-id").to_owned()).collect()
}

fn events(range: std::ops::RangeInclusive<usize>) -> BTreeSet<String> {
    range.map(|n| format!("evt_{n}")).collect()
}

/// Enables `id` at one delivery a second; the release that begins.
async fn releases(app: &TestApp, id: &str) -> Value {
    let updated = app.handles.subscriptions.enable(&Caller::bootstrap(), id, Some(Rate::per_second(1, 1))).await.unwrap();
    app.data(&format!("/api/v1/jobs/{}", updated.job.unwrap().id)).await
}

async fn job_is(app: &TestApp, id: &Value, state: &str) -> Value {
    let path = format!("/api/v1/jobs/{}", id.as_str().unwrap());
    until(&format!("{path} to be {state}"), SOON, async || Some(app.data(&path).await).filter(|job| job["state"] == state)).await
}

/// Waits until the subscription is switched off, for this reason.
async fn is_off(app: &TestApp, id: &str, why: Why) {
    let off = async || app.subscription(id).disabled.clone().map(|it| it.why);
    assert_eq!(until("the subscription to be switched off", SOON, off).await, why);
    app.target_is(id, "disabled").await;
}

#[tokio::test]
pub(crate) async fn while_it_is_off_its_deliveries_are_held_over_a_restart_too() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.takes("evt_0").await;
    app.reaches("", "delivered").await;
    app.disables(&id).await;
    app.takes("evt_1").await;
    let app = app.restart(open_routes()).await;
    app.takes("evt_2").await;
    let held = app.counts("state=held", 2).await;
    assert!(held.iter().all(|row| row["cause"] == "disabled" && row["target"] == id.as_str()), "{held:?}");
    assert_eq!(app.target(&id).await["state"], "disabled");
    assert_eq!(app.target(&id).await["backlog"], 2);
    app.nothing_comes(&receiver, 1, hours(1)).await;
    app.enables(&id).await;
    receiver.wait_for(2).await;
    app.clock.advance(seconds(1));
    receiver.wait_for(3).await;
    assert_eq!(ids(&receiver).into_iter().collect::<BTreeSet<_>>(), events(0..=2));
}

#[tokio::test]
pub(crate) async fn what_it_held_is_released_as_a_job_with_count_and_cap() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes_many(4).await;
    let held: BTreeSet<_> = app.counts("state=held", 4).await.iter().map(|row| row["id"].to_string()).collect();
    let job = releases(&app, &id).await;
    assert_eq!(
        (&job["kind"], &job["total"], &job["rate"], &job["state"]),
        (&json!("release"), &json!(4), &json!(1), &json!("running"))
    );
    for n in 1..=4 {
        receiver.wait_for(n).await;
        let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
        until("it to be counted", SOON, async || (app.data(&path).await["done"] == n).then_some(())).await;
        app.nothing_comes(&receiver, n, Duration::from_millis(900)).await;
        app.clock.advance(Duration::from_millis(100));
    }
    job_is(&app, &job["id"], "done").await;
    let sent: BTreeSet<_> = receiver.seen().iter().map(|it| format!("\"{}\"", it.header("idempotency-key"))).collect();
    assert_eq!(sent, held, "the same deliveries");
    // Without the cap again.
    until("the cap to go", SOON, async || app.subscription(&id).release.is_none().then_some(())).await;
    for n in 5..9 {
        app.takes(&format!("evt_{n}")).await;
    }
    receiver.wait_for(8).await;
}

#[tokio::test]
pub(crate) async fn a_release_goes_on_over_a_restart_under_its_cap() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes_many(3).await;
    let job = releases(&app, &id).await;
    receiver.wait_for(1).await;
    app.counts("state=delivered", 1).await;
    let app = app.restart(open_routes()).await;
    // The first of a new run goes at once.
    receiver.wait_for(2).await;
    app.nothing_comes(&receiver, 2, Duration::from_millis(900)).await;
    app.clock.advance(Duration::from_millis(100));
    receiver.wait_for(3).await;
    assert_eq!(job_is(&app, &job["id"], "done").await["done"], 3);
}

#[tokio::test]
pub(crate) async fn cancelling_a_release_cancels_what_is_still_held() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes_many(3).await;
    let job = releases(&app, &id).await;
    receiver.wait_for(1).await;
    app.counts("state=delivered", 1).await;
    // What is planned in the millisecond of the release itself is a part of it.
    app.clock.advance(Duration::from_millis(10));
    app.takes("evt_later").await;
    app.posts(&format!("/api/v1/jobs/{}/cancel", job["id"].as_str().unwrap()), &json!({})).await;
    app.counts("state=cancelled", 2).await;
    app.counts("state=delivered", 2).await;
    assert_eq!(receiver.count(), 2, "what came since is not its business");
}

#[tokio::test]
pub(crate) async fn switched_off_again_it_holds_what_was_not_released() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes_many(3).await;
    let job = releases(&app, &id).await;
    receiver.wait_for(1).await;
    app.counts("state=delivered", 1).await;
    app.disables(&id).await;
    assert!(job_is(&app, &job["id"], "failed").await["error"].as_str().unwrap().contains("switched off again"));
    app.nothing_comes(&receiver, 1, hours(1)).await;
    let again = app.enables(&id).await.job.unwrap();
    assert_eq!(again.total, 2);
    until("the rest", SOON, async || {
        app.clock.advance(seconds(1));
        (receiver.count() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
pub(crate) async fn give_up_stands_still_while_it_is_off() {
    let receiver = Receiver::start([503, 200]).await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"event_type": "**", "target_url": receiver.url(), "secret": "12345678"});
    let wanted = hookyard::subscriptions::Wanted::read(&body, hookyard::subscriptions::Dialect::Honeyframe).unwrap();
    let subscriptions = app.handles.subscriptions.clone();
    let made = subscriptions.create(&Caller::bootstrap(), hookyard::subscriptions::Dialect::Honeyframe, wanted).await.unwrap();
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.disables(made.subscription.id.as_str()).await;
    let app = app.restart_after(hours(30), open_routes()).await;
    app.enables(made.subscription.id.as_str()).await;
    let row = app.reaches("", "delivered").await;
    assert_eq!(app.story(&row).await, "1 retry http_503, 2 delivered 200", "24 h have not passed for it");
}

#[tokio::test]
pub(crate) async fn a_receiver_that_is_gone_switches_it_off_and_that_is_told_by_another_way() {
    let (receiver, ops) = (Receiver::start([200, 410]).await, Receiver::ok().await);
    let rule = "name: ops, match: {source: hookyard, type: relay.target.disabled}, to: [ops]";
    let routes = || open_routes().webhook("ops", &ops).rule(rule);
    let app = spawn_app(routes()).await;
    let made = app.subscribes(&receiver).await;
    let id = made.subscription.id.as_str();
    app.takes_many(2).await;
    is_off(&app, id, Why::Gone).await;
    let dead = app.reaches(&format!("target={id}&state=dead"), "dead").await;
    assert_eq!((&dead["cause"], &dead["error"]), (&json!("receiver"), &json!("http_410")));
    let told = until("it to be told", SOON, async || {
        app.clock.advance(seconds(1));
        ops.seen().first().map(|request| request.json())
    })
    .await;
    assert_eq!((&told["type"], &told["source"]), (&json!("relay.target.disabled"), &json!("/sources/hookyard")));
    let data = &told["data"];
    assert_eq!((&data["target"], &data["cause"], &data["error"]), (&json!(id), &json!("gone"), &json!("http_410")));
    assert_eq!((&data["event"]["id"], &data["delivery"]), (&dead["event_id"], &dead["id"]), "{data}");
    assert!(receiver.seen().iter().all(|request| !request.text().contains("relay.")), "never by the failing way");
    app.takes("evt_3").await;
    let held = app.reaches("state=held", "held").await;
    assert_eq!(held["cause"], "disabled");
}

#[tokio::test]
pub(crate) async fn broken_for_a_day_it_is_switched_off_over_a_restart_too() {
    let (receiver, app, made) = with([503]).await;
    let id = made.subscription.id.to_string();
    // Fewer than it takes to be switched off for deliveries that died: whatever probes do to these, it is the day that counts.
    app.takes_many(4).await;
    receiver.wait_for(4).await;
    until("all to be recorded", SOON, async || app.rows("state=sending").await.is_empty().then_some(())).await;
    app.clock.advance(minutes(1));
    app.target_is(&id, "broken").await;
    app.clock.advance(hours(23));
    let app = app.restart(open_routes()).await;
    app.target_is(&id, "broken").await;
    app.clock.advance(minutes(59));
    assert!(app.subscription(&id).is_enabled());
    app.clock.advance(minutes(1));
    is_off(&app, &id, Why::Broken).await;
}

#[tokio::test]
pub(crate) async fn five_deliveries_in_a_row_dead_for_lack_of_attempts_switch_it_off() {
    let receiver = Receiver::start([503, 503, 503, 503, 200, 503]).await;
    let app = spawn_app(open_routes()).await;
    let body = json!({"url": receiver.url(), "events": ["**"], "max_retries": 0});
    let id = app.subscribes_as(&Caller::bootstrap(), body).await.subscription.id.to_string();
    for n in 1..=9 {
        app.takes(&format!("evt_{n}")).await;
        app.counts("state=dead", if n < 5 { n } else { n - 1 }).await;
        if n == 5 {
            app.counts("state=delivered", 1).await;
        }
        assert!(app.subscription(&id).is_enabled(), "a success between them breaks the row");
    }
    app.takes("evt_10").await;
    // The breaker may be open by now: its probe is the fifth.
    let off = async || {
        app.clock.advance(seconds(30));
        app.subscription(&id).disabled.clone().map(|it| it.why)
    };
    assert_eq!(until("the subscription to be switched off", SOON, off).await, Why::Undelivered);
}

#[tokio::test]
pub(crate) async fn one_poison_payload_switches_nobody_off() {
    let (receiver, app, made) = with([400, 422, 301, 302, 404, 413]).await;
    let id = made.subscription.id.to_string();
    for n in 1..=12 {
        app.takes(&format!("evt_{n}")).await;
    }
    receiver.wait_for(12).await;
    until("all to be settled", SOON, async || (app.rows("state=pending").await.len() < 2).then_some(())).await;
    assert!(app.subscription(&id).is_enabled());
    assert_eq!(app.target(&id).await["state"], "ok", "and 3xx do not break it");
}

#[tokio::test]
pub(crate) async fn beyond_what_it_may_hold_the_oldest_expire_and_that_is_told() {
    let (receiver, ops) = (Receiver::ok().await, Receiver::ok().await);
    let rule = "name: ops, match: {source: hookyard, type: relay.delivery.dead}, to: [ops]";
    let app = spawn_app(open_routes_with("held_max: {bytes: 1MiB}").webhook("ops", &ops).rule(rule)).await;
    let made = app.subscribes(&receiver).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    let large = "x".repeat(300 * 1024);
    for n in 1..=8 {
        app.takes_of(&format!("evt_{n}"), "credential.expired", json!({"text": large})).await;
    }
    let expired = until("what is too much to expire", SOON, async || {
        app.clock.advance(seconds(1));
        let rows = app.rows(&format!("target={id}&state=expired")).await;
        (rows.len() == 5).then_some(rows)
    })
    .await;
    assert!(expired.iter().all(|row| row["reason"].as_str().unwrap().contains("holds at most")), "{expired:?}");
    let gone: BTreeSet<_> = expired.iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(gone, events(1..=5), "the oldest");
    let told = until("it to be told", SOON, async || {
        app.clock.advance(seconds(1));
        ops.seen().first().map(|request| request.json()["data"].clone())
    })
    .await;
    assert_eq!((&told["target"], &told["cause"]), (&json!(id), &json!("held_max")));
    app.enables(&id).await;
    until("the rest to go out", SOON, async || {
        app.clock.advance(seconds(1));
        (receiver.count() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
pub(crate) async fn what_is_held_for_longer_than_it_may_expires() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes("evt_1").await;
    app.clock.advance(hours(6 * 24));
    app.takes("evt_2").await;
    app.clock.advance(hours(23));
    app.counts("state=held", 2).await;
    app.clock.advance(hours(1) + seconds(10));
    let row = until("what is too old to expire", SOON, async || {
        // A round of housekeeping may have been under way when the time was moved.
        app.clock.advance(seconds(5));
        app.rows("state=expired").await.pop()
    })
    .await;
    assert_eq!(row["event_id"], "evt_1");
    app.enables(&id).await;
    receiver.wait_for(1).await;
    assert_eq!(ids(&receiver), ["evt_2"]);
}

#[tokio::test]
pub(crate) async fn deleted_and_made_again_nothing_is_lost_or_doubled() {
    let (receiver, app, made) = with([503, 200]).await;
    let id = made.subscription.id.to_string();
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.deletes(&id).await;
    app.takes("evt_2").await;
    let held = app.counts("state=held", 2).await;
    assert!(held.iter().all(|row| row["cause"] == "disabled"), "{held:?}");
    app.clock.advance(minutes(9));
    let heir = app.subscribes(&receiver).await;
    assert_eq!(heir.adopted, std::slice::from_ref(&made.subscription.id));
    app.takes("evt_3").await;
    app.counts("state=delivered", 3).await;
    assert_eq!(ids(&receiver).len(), 4, "the first was tried twice");
    assert_eq!(ids(&receiver).into_iter().collect::<BTreeSet<_>>(), events(1..=3));
    let rows = app.rows("").await;
    assert!(rows.iter().all(|row| row["target"] == heir.subscription.id.as_str()), "{rows:?}");
}

#[tokio::test]
pub(crate) async fn made_again_before_it_is_deleted_nothing_is_lost_and_each_sends_it_once_at_most() {
    let (receiver, app, made) = with([503, 503, 200]).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let heir = app.subscribes(&receiver).await;
    // Both get this one.
    app.takes("evt_2").await;
    until("both to be tried", SOON, async || (3 <= receiver.count()).then_some(())).await;
    until("all to be recorded", SOON, async || app.rows("state=sending").await.is_empty().then_some(())).await;
    app.deletes(made.subscription.id.as_str()).await;
    app.takes("evt_3").await;
    app.clock.advance(minutes(10));
    until("all to be settled", SOON, async || {
        app.clock.advance(minutes(1));
        let rows = app.rows("").await;
        let settled = rows.iter().all(|row| matches!(row["state"].as_str(), Some("delivered" | "cancelled")));
        settled.then_some(())
    })
    .await;
    let delivered = app.rows("state=delivered").await;
    let of: BTreeSet<_> = delivered.iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of, events(1..=3));
    // Both were there when this one came: each may have sent it, none twice.
    for target in [&made.subscription.id, &heir.subscription.id] {
        let by = |row: &&Value| row["event_id"] == "evt_2" && row["target"] == target.as_str();
        assert!(delivered.iter().filter(by).count() <= 1, "{delivered:?}");
    }
    let ours = app.rows(&format!("target={}", heir.subscription.id)).await;
    assert!(ours.iter().filter(|row| row["event_id"] == "evt_2").count() == 1, "{ours:?}");
    let of = |id: &str| delivered.iter().filter(|row| row["event_id"] == id).count();
    assert_eq!((of("evt_1"), of("evt_3")), (1, 1), "only one of them was there");
}

#[tokio::test]
pub(crate) async fn ten_in_a_row_hand_on_what_waits_over_restarts_in_both_orders() {
    let receiver = Receiver::start([Reply::from(503)]).await;
    let mut app = spawn_app(open_routes()).await;
    let mut id = app.subscribes(&receiver).await.subscription.id.to_string();
    app.disables(&id).await;
    let mut taken = 0;
    let mut takes = async |app: &TestApp| {
        taken += 1;
        app.takes(&format!("evt_{taken}")).await;
    };
    for round in 0..10 {
        takes(&app).await;
        let next = if round % 2 == 0 {
            app.deletes(&id).await;
            takes(&app).await;
            if round % 4 == 0 {
                app = app.restart(open_routes()).await;
            }
            app.subscribes(&receiver).await
        } else {
            let next = app.subscribes(&receiver).await;
            app.disables(next.subscription.id.as_str()).await;
            takes(&app).await;
            app.deletes(&id).await;
            next
        };
        id = next.subscription.id.to_string();
        app.disables(&id).await;
    }
    takes(&app).await;
    let all = app.counts(&format!("target={id}&state=held"), 21).await;
    let of: BTreeSet<_> = all.iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of, events(1..=21), "each once");
}

#[tokio::test]
pub(crate) async fn killed_between_deleting_and_handing_over_it_is_handed_over_at_the_next_start() {
    let (receiver, app, made) = with([200]).await;
    app.disables(made.subscription.id.as_str()).await;
    app.takes_many(3).await;
    app.deletes(made.subscription.id.as_str()).await;
    let heir = app.subscribes(&receiver).await;
    // Stopped at once: whether it was handed over by then or not, it arrives once.
    let app = app.restart(open_routes()).await;
    receiver.wait_for(3).await;
    app.counts(&format!("target={}&state=delivered", heir.subscription.id), 3).await;
    assert_eq!(ids(&receiver).into_iter().collect::<BTreeSet<_>>(), events(1..=3));
}

#[tokio::test]
pub(crate) async fn only_the_same_token_with_the_same_url_takes_its_place() {
    let (receiver, other) = (Receiver::ok().await, Receiver::ok().await);
    let app = spawn_app(open_routes()).await;
    let (one, two) = (token("tok_1", &[]), token("tok_2", &[]));
    let body = |receiver: &Receiver| json!({"url": receiver.url(), "events": ["**"], "enabled": false});
    let made = app.subscribes_as(&one, body(&receiver)).await;
    app.takes("evt_1").await;
    app.deletes(made.subscription.id.as_str()).await;
    assert_eq!(app.subscribes_as(&two, body(&receiver)).await.adopted, []);
    assert_eq!(app.subscribes_as(&one, body(&other)).await.adopted, []);
    assert_eq!(app.subscribes_as(&one, body(&receiver)).await.adopted, std::slice::from_ref(&made.subscription.id));
}

#[tokio::test]
pub(crate) async fn when_nobody_comes_within_the_grace_it_is_cancelled() {
    let (receiver, app, made) = with([200]).await;
    let id = made.subscription.id.to_string();
    app.disables(&id).await;
    app.takes("evt_1").await;
    app.deletes(&id).await;
    assert!(app.handles.subscriptions.get(&Caller::bootstrap(), &id).is_err());
    app.clock.advance(minutes(5));
    app.takes("evt_2").await;
    app.counts("state=held", 2).await;
    app.clock.advance(minutes(4));
    app.counts("state=held", 2).await;
    app.clock.advance(minutes(1));
    let rows = app.counts("state=cancelled", 2).await;
    assert_eq!(rows[0]["reason"], "its subscription was deleted, and nobody took its place in time");
    app.takes("evt_3").await;
    assert_eq!(app.rows("").await.len(), 2, "nothing is planned for it any more");
    assert_eq!(app.subscribes(&receiver).await.adopted, []);
    app.clock.advance(minutes(11));
    until("it to be forgotten", SOON, async || {
        let rows = app.handles.store.records(hookyard::store::RecordKind::Subscription, 0).await.unwrap();
        (rows.len() == 1).then_some(())
    })
    .await;
    assert_eq!(receiver.count(), 0);
}
