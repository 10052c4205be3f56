//! delivery.md, "States": what each state means, and that a lane's own state is shown and never written.

use hookyard::store::{Filter, State};
use serde_json::{Value, json};

use crate::support::{Receiver, Reply, TestApp, app::MINUTELY, minutes, routes, spawn_app};

/// A relay with one destination `crm`, one event on its way to it.
async fn one<R: Into<Reply>>(replies: impl IntoIterator<Item = R>, fields: &str) -> (Receiver, TestApp) {
    let crm = Receiver::start(replies).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, fields)).await;
    app.takes("evt_1").await;
    (crm, app)
}

#[tokio::test]
async fn pending_waits_for_its_turn() {
    let (crm, app) = one([Reply::Never], "concurrency: 1").await;
    crm.first().await;
    app.takes("evt_2").await;
    let row = app.reaches("state=pending", "pending").await;
    assert_eq!((&row["event_id"], &row["attempts"], &row["cause"]), (&json!("evt_2"), &json!(0), &Value::Null));
}

#[tokio::test]
async fn pending_waits_for_its_retry_time() {
    let (_crm, app) = one([503], MINUTELY).await;
    let row = app.tried("", 1).await;
    assert_eq!((&row["state"], app.due_in(&row)), (&json!("pending"), 60.0));
}

#[tokio::test]
async fn held_says_what_it_waits_for() {
    let (paused, broken, gone) = (Receiver::ok().await, Receiver::start([401]).await, Receiver::start([503]).await);
    let before = routes().interactor().webhook("paused", &paused).webhook("broken", &broken);
    let app = spawn_app(before.clone().webhook_with("gone", &gone, MINUTELY)).await;
    app.tells("paused", "pause").await;
    app.takes("evt_1").await;
    app.tried("target=gone", 1).await;
    app.target_is("broken", "broken").await;
    let app = app.restart(before).await;
    for (target, cause) in [("paused", "paused"), ("broken", "broken"), ("gone", "config")] {
        let row = app.reaches(&format!("target={target}"), "held").await;
        assert_eq!((&row["cause"], &row["next_attempt_at"]), (&json!(cause), &Value::Null), "{row}");
    }
    assert_eq!(app.rows("state=held").await.len(), 3);
    assert_eq!(app.rows("state=pending").await.len(), 0);
}

#[tokio::test]
async fn sending_while_an_attempt_is_under_way() {
    let (crm, app) = one([Reply::Never], "concurrency: 1").await;
    crm.first().await;
    let row = app.reaches("", "sending").await;
    assert_eq!((&row["attempts"], app.rows("state=sending").await.len()), (&json!(0), 1));
}

#[tokio::test]
async fn delivered_is_final() {
    let (crm, app) = one([200], MINUTELY).await;
    let row = app.reaches("", "delivered").await;
    assert_eq!((&row["attempts"], &row["cause"], &row["next_attempt_at"]), (&json!(1), &Value::Null, &Value::Null));
    let again = app.post(&format!("/api/v1/deliveries/{}/retry", row["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(again.status, 409, "what arrived is not tried again: {}", again.text());
    app.nothing_comes(&crm, 1, minutes(60)).await;
}

#[tokio::test]
async fn cancelled_by_a_person_is_final() {
    let (crm, app) = one([503], MINUTELY).await;
    let row = app.tried("", 1).await;
    let told = app.posts(&format!("/api/v1/deliveries/{}/cancel", row["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(told["reason"], "cancelled by admin", "{told}");
    assert_eq!(app.reaches("", "cancelled").await["reason"], "cancelled by admin");
    app.nothing_comes(&crm, 1, minutes(60)).await;
    app.reaches("", "cancelled").await;
}

#[tokio::test]
async fn a_person_cancels_a_whole_lane() {
    let (crm, other) = (Receiver::ok().await, Receiver::start([503]).await);
    let app = spawn_app(routes().interactor().webhook("crm", &crm).webhook_with("other", &other, MINUTELY)).await;
    app.tells("crm", "pause").await;
    app.takes_many(5).await;
    app.tells("crm", "cancel").await;
    let rows = app.counts("target=crm&state=cancelled", 5).await;
    let why = rows[0]["reason"].as_str().unwrap();
    assert!(why.starts_with("lane cancelled by admin (job_"), "{why}");
    app.tells("crm", "resume").await;
    app.nothing_comes(&crm, 0, minutes(1)).await;
    assert_eq!(app.rows("target=other&state=cancelled").await.len(), 0, "the other lane goes on");
}

#[tokio::test]
async fn dead_until_a_person_retries_it() {
    let crm = Receiver::start([400, 200]).await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.takes("evt_1").await;
    let row = app.reaches("", "dead").await;
    assert_eq!(app.all("/api/v1/dead-letters").await.len(), 1);
    app.nothing_comes(&crm, 1, minutes(60)).await;
    app.posts(&format!("/api/v1/deliveries/{}/retry", row["id"].as_str().unwrap()), &json!({})).await;
    app.reaches("", "delivered").await;
    assert_eq!(app.all("/api/v1/dead-letters?resolved=false").await.len(), 0);
}

#[tokio::test]
async fn dead_until_a_person_resolves_it_with_a_note() {
    let (_crm, app) = one([400], MINUTELY).await;
    let row = app.reaches("", "dead").await;
    let id = row["id"].as_str().unwrap();
    app.posts(&format!("/api/v1/dead-letters/{id}/resolve"), &json!({"note": "typed in by hand"})).await;
    assert_eq!(app.all("/api/v1/dead-letters").await.len(), 0, "it is settled");
    assert_eq!(app.all("/api/v1/dead-letters?resolved=false").await.len(), 0);
    assert_eq!(app.all("/api/v1/dead-letters?resolved=true").await.len(), 1);
    let story = app.data(&format!("/api/v1/deliveries/{id}")).await;
    assert!(story["state"] == "dead" && story.to_string().contains("typed in by hand"), "{story}");
}

/// The states that are written, whatever is shown.
async fn written(app: &TestApp) -> Vec<State> {
    app.handles.store.deliveries(Filter::default()).await.unwrap().into_iter().map(|row| row.delivery.state).collect()
}

#[tokio::test]
async fn a_lanes_state_is_shown_on_its_deliveries_and_rewrites_no_row() {
    let (_crm, app) = one([503], MINUTELY).await;
    app.tried("", 1).await;
    app.tells("crm", "pause").await;
    assert_eq!(app.reaches("", "held").await["cause"], "paused");
    assert_eq!(written(&app).await, [State::Pending]);
    app.tells("crm", "resume").await;
    app.reaches("", "pending").await;
}

#[tokio::test]
async fn planning_always_writes_pending() {
    let crm = Receiver::ok().await;
    let app = spawn_app(routes().interactor().webhook("crm", &crm)).await;
    app.tells("crm", "pause").await;
    app.takes("evt_1").await;
    assert_eq!(app.reaches("", "held").await["cause"], "paused");
    assert_eq!(written(&app).await, [State::Pending], "the lane decides, not the plan");
}
