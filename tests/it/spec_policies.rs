//! delivery.md, "Policies": when attempts are made.

use crate::support::{Receiver, TestApp, hours, routes, seconds, spawn_app};

/// Twelve deliveries of one event to targets of their own that all answer 503, with `retry`.
async fn dozen(retry: &str) -> (Receiver, TestApp) {
    let crm = Receiver::start([503]).await;
    let mut file = routes().interactor();
    for n in 0..12 {
        file = file.webhook_with(&format!("crm{n}"), &crm, &format!("retry: {retry}"));
    }
    let app = spawn_app(file).await;
    app.takes("evt_1").await;
    (crm, app)
}

/// Seconds until the next attempt of each, after `attempts`.
async fn waits(app: &TestApp, attempts: u32) -> Vec<f64> {
    let mut waits = Vec::new();
    for n in 0..12 {
        let row = app.tried(&format!("target=crm{n}"), attempts).await;
        waits.push(app.due_in(&row));
    }
    waits
}

/// The times after the first attempt, in seconds, at which a policy makes its attempts.
async fn times(retry: &str, expected: &[u64], ends: bool) {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("retry: {retry}"))).await;
    app.takes("evt_1").await;
    let mut now = 0;
    for (n, at) in (1..).zip(expected) {
        if now < *at {
            app.nothing_comes(&crm, n - 1, seconds(at - now - 1)).await;
            app.clock.advance(seconds(1));
        }
        now = *at;
        crm.wait_for(n).await;
        app.tried("", u32::try_from(n).unwrap()).await;
    }
    if ends {
        app.reaches("", "dead").await;
        app.nothing_comes(&crm, expected.len(), hours(48)).await;
    }
}

#[tokio::test]
async fn interactor_tries_at_its_seeds_times() {
    times("{preset: interactor}", &[0, 60, 360, 2160, 9360], true).await;
}

#[tokio::test]
async fn agent_retries_three_times() {
    times("{preset: agent}", &[0, 10, 30, 70], true).await;
}

#[tokio::test]
async fn agent_may_retry_ten_times() {
    let mut at = vec![0];
    (0..10).for_each(|n| at.push(at[n] + (10 << n).min(3600)));
    times("{preset: agent, max_attempts: 11}", &at, true).await;
}

#[tokio::test]
async fn honeyframe_grows_from_5_s_to_an_hour() {
    let mut at = vec![0];
    (0..12).for_each(|n| at.push(at[n] + (5 << n).min(3600)));
    times("{preset: honeyframe, jitter: none}", &at, false).await;
}

#[tokio::test]
async fn honeyframe_is_the_default_and_gives_up_after_24_h() {
    let crm = Receiver::start([503]).await;
    let app = spawn_app(routes().interactor().webhook_with("crm", &crm, "timeout: 5s")).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    assert!((2.5..=5.0).contains(&app.due_in(&row)), "{row}");
    app.clock.advance(hours(24) - seconds(10));
    let row = app.tried("", 2).await;
    assert!(app.due_in(&row) <= 10.0, "no later than give-up: {row}");
    app.clock.advance(seconds(10));
    app.reaches("", "dead").await;
    assert_eq!(crm.count(), 3, "one last attempt");
}

#[tokio::test]
async fn without_jitter_the_step_is_whole() {
    let (_crm, app) = dozen("{initial: 100s, factor: 3, max: 1h, jitter: none}").await;
    assert_eq!(waits(&app, 1).await, [100.0; 12]);
    app.clock.advance(seconds(100));
    assert_eq!(waits(&app, 2).await, [300.0; 12]);
}

#[tokio::test]
async fn equal_jitter_draws_between_half_and_the_whole_of_the_step() {
    let (_crm, app) = dozen("{initial: 100s, factor: 1, max: 100s, jitter: equal}").await;
    let drawn = waits(&app, 1).await;
    assert!(drawn.iter().all(|wait| (50.0..=100.0).contains(wait)), "{drawn:?}");
    assert!(drawn.iter().any(|wait| *wait != drawn[0]), "{drawn:?}");
}

#[tokio::test]
async fn full_jitter_draws_between_nothing_and_the_whole_of_the_step() {
    let (_crm, app) = dozen("{initial: 1000s, factor: 1, max: 1000s, jitter: full}").await;
    let drawn = waits(&app, 1).await;
    assert!(drawn.iter().all(|wait| (0.0..=1000.0).contains(wait)), "{drawn:?}");
    // With twelve draws one in four thousand runs would fail were all above half by chance; two thirds make it one in 500,000
    // that none lies in the upper two thirds, and the same for the lower.
    assert!(drawn.iter().any(|wait| *wait < 667.0) && drawn.iter().any(|wait| 333.0 < *wait), "{drawn:?}");
}

#[tokio::test]
async fn max_attempts_counts_the_first() {
    times("{initial: 60s, factor: 1, max: 60s, jitter: none, max_attempts: 1}", &[0], true).await;
    times("{initial: 60s, factor: 1, max: 60s, jitter: none, max_attempts: 2}", &[0, 60], true).await;
}

#[tokio::test]
async fn a_policy_sets_times_and_not_what_answers_mean() {
    for (preset, answer) in [("interactor", 404), ("agent", 404), ("honeyframe", 404)] {
        let crm = Receiver::start([answer]).await;
        let app = spawn_app(routes().interactor().webhook_with("crm", &crm, &format!("retry: {{preset: {preset}}}"))).await;
        app.takes("evt_1").await;
        assert_eq!(app.tried("", 1).await["state"], "pending", "{preset}: {answer} is read by `answers`");
    }
}
