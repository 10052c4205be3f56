//! Another file takes the place of the one the relay goes by: everything at once, and nothing of what is under way is lost.

use crate::support::{Receiver, app::MINUTELY, hours, minutes, routes, seconds, spawn_app};

#[tokio::test]
async fn the_next_attempt_uses_todays_url_and_policy() {
    let (old, new) = (Receiver::start([503]).await, Receiver::start([503]).await);
    let app = spawn_app(routes().interactor().webhook_with("crm", &old, MINUTELY)).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    let policy = "retry: {initial: 7m, factor: 1, max: 7m, jitter: none}";
    app.reload(routes().interactor().webhook_with("crm", &new, policy));
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
    app.reload(routes().interactor());
    assert_eq!(app.reaches("", "held").await["cause"], "config");
    app.nothing_comes(&crm, 1, hours(1)).await;
    app.reload(with);
    app.reaches("", "delivered").await;
    assert_eq!((crm.count(), crm.distinct("idempotency-key").len()), (2, 1));
}

#[tokio::test]
async fn renamed_from_adopts_what_waits_for_the_old_name() {
    let crm = Receiver::start([503, 200]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, MINUTELY)).await;
    app.takes("evt_1").await;
    let old = app.tried("", 1).await;
    app.reload(routes().interactor().webhook_with("sales", &crm, &format!("renamed_from: crm, {MINUTELY}")));
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
    app.reload(nights("22:00", "23:00"));
    app.reaches("", "delivered").await;
    app.reload(nights("11:00", "15:00"));
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
    app.reload(routes().interactor().server("public_api: true"));
    assert_eq!(app.get_public("/api/v1/events").await.status, 401);
    app.reload(routes().interactor());
    assert_eq!(app.get_public("/api/v1/events").await.status, 404);
}
