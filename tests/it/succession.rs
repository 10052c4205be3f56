//! delivery.md, "subscription deleted": who takes whose place where one token has several subscriptions for one URL, what becomes of what
//! waited, and that nobody gets what is none of his business on the way.

use std::collections::{BTreeMap, BTreeSet};

use hookyard::{
    access::Caller,
    jobs,
    subscriptions::{Created, Dialect, Wanted},
};
use serde_json::{Value, json};

use crate::support::{
    Received, Receiver, SOON, TestApp, hours, minutes, seconds, spawn_app,
    subscribed::{is_signed_by, open_routes, open_routes_with, token},
    until,
};

const UPDATED: &str = "dataset.updated";
const FAILED: &str = "recipe.run.failed";

impl TestApp {
    /// Registers `receiver` for one type in Honeyframe's dialect, which has one in each subscription.
    async fn registers(&self, receiver: &Receiver, event_type: &str, secret: &str) -> Created {
        let body = json!({"event_type": event_type, "target_url": receiver.url(), "secret": secret});
        let wanted = Wanted::read(&body, Dialect::Honeyframe).unwrap();
        self.handles.subscriptions.create(&Caller::bootstrap(), Dialect::Honeyframe, wanted).await.unwrap()
    }

    /// Registers `receiver` for these types in Interactor's.
    async fn wants(&self, receiver: &Receiver, events: &[&str]) -> Created {
        self.subscribes_as(&Caller::bootstrap(), json!({"url": receiver.url(), "events": events})).await
    }

    async fn takes_type(&self, id: &str, kind: &str) {
        self.takes_of(id, kind, json!({})).await;
    }

    async fn deletes_one(&self, made: &Created) {
        self.deletes(made.subscription.id.as_str()).await;
    }

    /// Waits until all that is not held is settled; the events that were delivered, and how often each.
    async fn delivered(&self) -> BTreeMap<String, usize> {
        until("all to be settled", SOON, async || {
            let rows = self.rows("").await;
            rows.iter().all(|row| ["delivered", "cancelled", "held"].contains(&row["state"].as_str().unwrap())).then_some(())
        })
        .await;
        let mut count = BTreeMap::new();
        for row in self.rows("state=delivered").await {
            *count.entry(row["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        count
    }
}

fn each_once(ids: &[&str]) -> BTreeMap<String, usize> {
    ids.iter().map(|id| ((*id).to_owned(), 1)).collect()
}

/// Whether it is signed as Honeyframe does, with this secret.
fn is_of(request: &Received, secret: &str) -> bool {
    let wanted = crate::support::signed::hex_mac(secret, &[&request.body]);
    request.header("x-honeyframe-signature") == format!("sha256={wanted}")
}

fn of_event<'r>(requests: &'r [Received], id: &str) -> &'r Received {
    requests.iter().find(|request| request.json()["id"] == id).unwrap_or_else(|| panic!("{id} did not come"))
}

#[tokio::test]
pub(crate) async fn deleted_beside_one_of_another_type_it_can_be_made_again_without_loss() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let updated = app.registers(&receiver, UPDATED, "secret-of-updated").await;
    app.registers(&receiver, FAILED, "secret-of-failed").await;
    app.deletes_one(&updated).await;
    app.takes_type("evt_1", UPDATED).await;
    app.takes_type("evt_2", FAILED).await;
    let held = app.reaches("state=held", "held").await;
    assert_eq!((&held["event_id"], &held["cause"]), (&json!("evt_1"), &json!("disabled")));
    let again = app.registers(&receiver, UPDATED, "another-of-updated").await;
    assert_eq!(again.adopted, std::slice::from_ref(&updated.subscription.id));
    app.takes_type("evt_3", UPDATED).await;
    receiver.wait_for(3).await;
    assert_eq!(app.delivered().await, each_once(&["evt_1", "evt_2", "evt_3"]));
    let seen = receiver.seen();
    for (id, secret) in [("evt_1", "another-of-updated"), ("evt_2", "secret-of-failed"), ("evt_3", "another-of-updated")] {
        assert!(is_of(of_event(&seen, id), secret), "{id} is signed for whom it is");
    }
}

#[tokio::test]
pub(crate) async fn two_deleted_together_and_made_again_each_take_their_own() {
    for reversed in [false, true] {
        let receiver = Receiver::ok().await;
        let app = spawn_app(open_routes()).await;
        let (a, b) =
            (app.registers(&receiver, UPDATED, "a-old-secret").await, app.registers(&receiver, FAILED, "b-old-secret").await);
        app.deletes_one(&a).await;
        app.deletes_one(&b).await;
        app.takes_type("evt_a1", UPDATED).await;
        app.takes_type("evt_b1", FAILED).await;
        let mut order = [(UPDATED, "a-new-secret", &a), (FAILED, "b-new-secret", &b)];
        if reversed {
            order.reverse();
        }
        for (kind, secret, old) in order {
            let made = app.registers(&receiver, kind, secret).await;
            assert_eq!(made.adopted, std::slice::from_ref(&old.subscription.id));
            app.takes_type(if kind == UPDATED { "evt_b2" } else { "evt_a2" }, if kind == UPDATED { FAILED } else { UPDATED })
                .await;
        }
        receiver.wait_for(4).await;
        assert_eq!(app.delivered().await, each_once(&["evt_a1", "evt_a2", "evt_b1", "evt_b2"]));
        let seen = receiver.seen();
        for (id, secret) in [("evt_a1", "a-new"), ("evt_b1", "b-new"), ("evt_a2", "a-new"), ("evt_b2", "b-new")] {
            assert!(is_of(of_event(&seen, id), &format!("{secret}-secret")), "{id}, reversed: {reversed}");
        }
    }
}

#[tokio::test]
pub(crate) async fn an_edit_of_what_it_wants_takes_over_what_waited() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let old = app.wants(&receiver, &[UPDATED]).await;
    app.deletes_one(&old).await;
    app.takes_type("evt_1", UPDATED).await;
    let new = app.wants(&receiver, &[FAILED]).await;
    assert_eq!(new.adopted, std::slice::from_ref(&old.subscription.id));
    app.takes_type("evt_2", UPDATED).await;
    app.takes_type("evt_3", FAILED).await;
    receiver.wait_for(2).await;
    assert_eq!(app.delivered().await, each_once(&["evt_1", "evt_3"]));
}

#[tokio::test]
pub(crate) async fn an_edit_is_not_guessed_where_it_could_be_another_one() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    // Beside a living one, or with two that are gone, or in another dialect, nobody knows whose place it is.
    let living = app.wants(&receiver, &["credential.*"]).await;
    let one = app.wants(&receiver, &[UPDATED]).await;
    app.deletes_one(&one).await;
    assert_eq!(app.wants(&receiver, &[FAILED]).await.adopted, []);
    assert_eq!(app.registers(&receiver, UPDATED, "12345678").await.adopted, []);
    app.takes_type("evt_1", UPDATED).await;
    app.deletes_one(&living).await;
    // It waits for its own all the while.
    let again = app.wants(&receiver, &["dataset.*", "credential.*"]).await;
    let adopted: BTreeSet<_> = again.adopted.iter().collect();
    assert_eq!(adopted, BTreeSet::from([&one.subscription.id, &living.subscription.id]));
    receiver.wait_for(2).await;
    let seen = receiver.seen();
    assert!(seen.iter().any(|request| is_signed_by(request, again.secret.reveal())), "what waited is signed by its heir");
}

#[tokio::test]
pub(crate) async fn only_one_made_later_that_gets_all_it_got_takes_its_place_at_once() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let narrow = app.wants(&receiver, &[UPDATED]).await;
    app.clock.advance(seconds(1));
    let wide = app.wants(&receiver, &["dataset.**", "credential.*"]).await;
    app.clock.advance(seconds(1));
    let other = app.wants(&receiver, &[FAILED]).await;
    app.disables(wide.subscription.id.as_str()).await;
    app.disables(narrow.subscription.id.as_str()).await;
    app.takes_type("evt_1", UPDATED).await;
    // What the older one holds goes to the one that was made since, which has it already.
    app.deletes_one(&narrow).await;
    app.counts("state=cancelled", 1).await;
    // Neither an older one nor one that wants something else takes over.
    app.deletes_one(&wide).await;
    app.takes_type("evt_2", UPDATED).await;
    let held = app.counts("state=held", 2).await;
    assert!(held.iter().all(|row| row["target"] == wide.subscription.id.as_str()), "{held:?}");
    assert_eq!(app.rows(&format!("target={}", other.subscription.id)).await.len(), 0);
    app.clock.advance(minutes(10));
    app.counts("state=cancelled", 3).await;
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
pub(crate) async fn a_filter_is_a_part_of_what_it_wants() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let with = async |filter: Value| {
        let body = json!({"url": receiver.url(), "events": ["**"], "filter": filter, "enabled": false});
        app.subscribes_as(&Caller::bootstrap(), body).await
    };
    let one = with(json!({"path": "$.data.n", "gt": 1})).await;
    let beside = with(json!({"path": "$.data.n", "lt": 0})).await;
    app.deletes_one(&one).await;
    assert_eq!(with(json!({"path": "$.data.n", "gt": 2})).await.adopted, []);
    assert_eq!(with(json!({"gt": 1, "path": "$.data.n"})).await.adopted, std::slice::from_ref(&one.subscription.id));
    app.deletes_one(&beside).await;
    assert_eq!(with(Value::Null).await.adopted, std::slice::from_ref(&beside.subscription.id), "without a filter it gets all");
}

#[tokio::test]
pub(crate) async fn a_replay_for_one_that_was_deleted_since_brings_no_namespace_to_another() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let bound = token("tok_a", &["a"]);
    let body = || json!({"url": receiver.url(), "events": ["workflow.**"]});
    for n in 1..=6 {
        app.takes_of(&format!("evt_{n}"), "credential.expired", json!({"namespace": if n == 2 { "a" } else { "b" }})).await;
    }
    let old = app.subscribes_as(&bound, body()).await;
    let replay = json!({"source": "interactor", "target": old.subscription.id.as_str(), "rate": 1});
    let begun = app.posts("/api/v1/replays", &replay).await;
    app.deletes_one(&old).await;
    let heir = app.subscribes_as(&bound, body()).await;
    assert_eq!(heir.adopted, std::slice::from_ref(&old.subscription.id));
    let path = format!("/api/v1/jobs/{}", begun["id"].as_str().unwrap());
    until("the replay to be done", SOON, async || {
        app.clock.advance(seconds(1));
        (app.data(&path).await["state"] == "done").then_some(())
    })
    .await;
    app.delivered().await;
    assert!(receiver.seen().iter().all(|request| request.json()["namespace"] == "a"), "{:?}", receiver.seen());
}

#[tokio::test]
pub(crate) async fn who_was_off_gives_a_grace_that_ran_out_some_more_time() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes()).await;
    let made = app.subscribes(&receiver).await;
    app.deletes_one(&made).await;
    app.takes("evt_1").await;
    app.counts("state=held", 1).await;
    // Whoever edited it could not make it again meanwhile.
    let app = app.restart_after(hours(1), open_routes()).await;
    app.takes("evt_2").await;
    app.counts("state=held", 2).await;
    app.clock.advance(minutes(4));
    let heir = app.subscribes(&receiver).await;
    assert_eq!(heir.adopted, std::slice::from_ref(&made.subscription.id));
    receiver.wait_for(2).await;
    app.deletes_one(&heir).await;
    app.takes("evt_3").await;
    let app = app.restart_after(hours(1), open_routes_with("grace: 30s")).await;
    app.counts("state=held", 1).await;
    app.clock.advance(seconds(30));
    app.counts("state=cancelled", 1).await;
}

#[tokio::test]
pub(crate) async fn what_a_disabled_one_held_is_released_to_its_heir_under_the_cap() {
    for created_first in [false, true] {
        let receiver = Receiver::ok().await;
        let app = spawn_app(open_routes_with("release_rate: 1/s")).await;
        let old = app.subscribes(&receiver).await;
        app.disables(old.subscription.id.as_str()).await;
        app.takes_many(15).await;
        let heir = if created_first {
            let heir = app.subscribes(&receiver).await;
            app.deletes_one(&old).await;
            heir
        } else {
            app.deletes_one(&old).await;
            app.subscribes(&receiver).await
        };
        let id = heir.subscription.id.as_str();
        receiver.wait_for(1).await;
        let job = until("the release to be counted", SOON, async || {
            let job = app.subscription(id).release.clone()?.job?;
            Some(app.data(&format!("/api/v1/jobs/{job}")).await)
        })
        .await;
        assert_eq!((&job["kind"], &job["rate"], &job["state"]), (&json!("release"), &json!(1), &json!("running")));
        let total = job["total"].as_u64().unwrap();
        assert!((14..=15).contains(&total), "one may have gone before they were counted: {job}");
        app.nothing_comes(&receiver, 1, std::time::Duration::from_millis(900)).await;
        for n in 2..=4 {
            app.clock.advance(seconds(1));
            receiver.wait_for(n).await;
        }
        app.counts("state=delivered", 4).await;
        let app = app.restart(open_routes_with("release_rate: 1/s")).await;
        receiver.wait_for(5).await;
        app.counts("state=delivered", 5).await;
        app.posts(&format!("/api/v1/jobs/{}/cancel", job["id"].as_str().unwrap()), &json!({})).await;
        app.counts(&format!("target={id}&state=cancelled"), 10).await;
        until("the cap to go", SOON, async || app.subscription(id).release.is_none().then_some(())).await;
    }
}

#[tokio::test]
pub(crate) async fn what_waited_for_an_ordinary_edit_has_no_cap() {
    let receiver = Receiver::ok().await;
    let app = spawn_app(open_routes_with("release_rate: 1/s")).await;
    let old = app.subscribes(&receiver).await;
    app.deletes_one(&old).await;
    app.takes_many(15).await;
    let heir = app.subscribes(&receiver).await;
    assert!(heir.subscription.release.is_none());
    receiver.wait_for(15).await;
    // A handful needs none either.
    app.disables(heir.subscription.id.as_str()).await;
    for n in 16..=20 {
        app.takes(&format!("evt_{n}")).await;
    }
    app.deletes_one(&heir).await;
    assert!(app.subscribes(&receiver).await.subscription.release.is_none());
    receiver.wait_for(20).await;
    assert!(app.handles.jobs.list().iter().all(|job| job.kind != jobs::Kind::Release));
}
