//! Callers that hang up before they are answered.

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use axum::{body::Body, http::Request};
use hookyard::store::RecordKind;
use serde_json::json;
use tower_service::Service;

use crate::support::{SOON, relay::TOKEN, spawn_app, subscribed::open_routes, until};

/// A commit without what follows it in memory would be half a change: kept, and neither planned for nor shown before the next start.
#[tokio::test]
async fn what_was_asked_for_is_done_whole() {
    let app = spawn_app(open_routes()).await;
    let mut api = hookyard::api::admin(app.handles.clone());
    for n in 0..20 {
        let body = json!({"url": format!("https://a.example/{n}"), "events": ["credential.*"]}).to_string();
        let request = Request::post("/api/v1/webhooks").header("authorization", format!("Bearer {TOKEN}"));
        let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        let mut answer = Box::pin(api.call(request));
        // The handler gets as far as the store; then the connection is gone, and with it the answer that somebody waited for.
        let polled = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        drop(answer);
        let kept = async || app.handles.store.records(RecordKind::Subscription, 0).await.unwrap().len();
        until("the record", SOON, async || (kept().await == n + 1).then_some(())).await;
    }
    let shown = async || app.data("/api/v1/webhooks").await["webhooks"].as_array().unwrap().len();
    until("all of them", SOON, async || (shown().await == 20).then_some(())).await;
}
