//! The relay in this process: on free ports and a store in a folder of its own, its time moved by hand. Its API is asked
//! over HTTP like that of any other; what only the rooms know stands in `handles`.

use std::{ops::Deref, sync::Arc, time::Duration};

use hookyard::{
    app::{App, Handles, Options},
    clock::{Clock, rfc3339_s},
    config,
    reload::Reloader,
    secret::Secret,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Api, Home, Request, Routes, SOON, relay::TOKEN, signed, throughout, until};

/// When the time of a test begins.
pub(crate) const START: &str = "2026-01-20T12:00:00Z";
/// A policy that tries once a minute for a day.
pub(crate) const MINUTELY: &str = "retry: {initial: 1m, factor: 1, max: 1m, jitter: none, give_up_after: 24h}";
/// How long is watched that something does not happen though nothing but the clock holds it back.
const WATCH: Duration = Duration::from_millis(250);

/// A relay in this process; stopped when dropped.
pub(crate) struct TestApp {
    /// Its time.
    pub(crate) clock: Clock,
    /// Its rooms.
    pub(crate) handles: Handles,
    home: Home,
    api: Api,
    serving: JoinHandle<()>,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.handles.stop.cancel();
    }
}

impl Deref for TestApp {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// Starts a relay in a new folder, at [`START`].
pub(crate) async fn spawn_app(routes: Routes) -> TestApp {
    TestApp::start(Home::new(), Clock::manual(START), routes).await
}

impl TestApp {
    /// Starts a relay on the store in `home`, where another may have been before.
    pub(crate) async fn start(home: Home, clock: Clock, routes: Routes) -> Self {
        let config = read(&home, routes);
        let options = Options {
            clock: clock.clone(),
            admin_token: Some(Secret::new(TOKEN)),
            rejected: None,
            reloader: Arc::new(Reloader::of(home.path().join("routes.yaml"))),
        };
        let app = App::build(config, options).await.unwrap();
        let (api, handles) = (Api::new(app.public_addr, app.admin_addr), app.handles.clone());
        Self { clock, handles, home, api, serving: tokio::spawn(app.serve()) }
    }

    /// Stops it as a service manager does.
    pub(crate) async fn stops(mut self) {
        self.handles.stop.cancel();
        (&mut self.serving).await.unwrap();
    }

    /// Stops it as a service manager does, and starts another on the same store at the same time of day.
    pub(crate) async fn restart(self, routes: Routes) -> Self {
        self.restart_after(Duration::ZERO, routes).await
    }

    /// Likewise, but by another clock.
    pub(crate) async fn restart_by(mut self, clock: Clock, routes: Routes) -> Self {
        self.handles.stop.cancel();
        (&mut self.serving).await.unwrap();
        Self::start(self.home.clone(), clock, routes).await
    }

    /// Likewise; meanwhile something happens to its store.
    pub(crate) async fn restart_between(mut self, routes: Routes, meanwhile: impl FnOnce()) -> Self {
        self.handles.stop.cancel();
        (&mut self.serving).await.unwrap();
        meanwhile();
        Self::start(self.home.clone(), self.clock.clone(), routes).await
    }

    /// Likewise, after it was off for so long.
    pub(crate) async fn restart_after(mut self, off: Duration, routes: Routes) -> Self {
        self.handles.stop.cancel();
        (&mut self.serving).await.unwrap();
        self.clock.advance(off);
        Self::start(self.home.clone(), self.clock.clone(), routes).await
    }

    /// Where its store lies.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.home.path()
    }

    /// Writes `routes` where the relay reads them.
    pub(crate) fn writes(&self, routes: Routes) {
        self.home.write("routes.yaml", &self.home.of(routes).text());
    }

    /// Goes by `routes` from now on; they must be good. Yields what has changed.
    pub(crate) async fn reload(&self, routes: Routes) -> Value {
        self.writes(routes);
        self.posts("/api/v1/config/reload", &json!({})).await
    }

    /// Takes in an event of type `credential.expired` with this id.
    pub(crate) async fn takes(&self, id: &str) {
        self.takes_event(&signed::event(id)).await;
    }

    /// Takes in `count` of them, `evt_1`, `evt_2`, …
    pub(crate) async fn takes_many(&self, count: usize) {
        for n in 1..=count {
            self.takes(&format!("evt_{n}")).await;
        }
    }

    /// Takes in an event of this id, type and data.
    pub(crate) async fn takes_of(&self, id: &str, kind: &str, data: Value) {
        self.takes_event(&json!({"id": id, "type": kind, "data": data}).to_string()).await;
    }

    async fn takes_event(&self, body: &str) {
        assert_eq!(self.accepts(&self.signed(body)).await, serde_json::from_str::<Value>(body).unwrap()["id"]);
    }

    /// `body` as Interactor sends it at the relay's time.
    pub(crate) fn signed(&self, body: &str) -> Request {
        signed::interactor(body).header("X-Interactor-Timestamp", rfc3339_s(self.clock.now()))
    }

    /// The deliveries that fit `query` (`target=crm`), newest first.
    pub(crate) async fn rows(&self, query: &str) -> Vec<Value> {
        self.all(&format!("/api/v1/deliveries?{query}")).await
    }

    /// The one delivery that fits `query`, once it is in `state`.
    pub(crate) async fn reaches(&self, query: &str, state: &str) -> Value {
        let what = format!("the delivery ({query}) to be {state}");
        self.one(&what, query, |row| row["state"] == state).await
    }

    /// The one delivery that fits `query`, once `attempts` of it are recorded and none is under way.
    pub(crate) async fn tried(&self, query: &str, attempts: u32) -> Value {
        let what = format!("{attempts} attempts ({query})");
        self.one(&what, query, |row| row["attempts"] == attempts && row["state"] != "sending").await
    }

    async fn one(&self, what: &str, query: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, SOON, async || {
            let mut rows = self.rows(query).await;
            assert!(rows.len() < 2, "more than one delivery: {rows:?}");
            rows.pop().filter(|row| fits(row))
        })
        .await
    }

    /// Waits until `count` deliveries fit `query`, and yields them, newest first.
    pub(crate) async fn counts(&self, query: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} deliveries ({query})"), SOON, async || {
            let rows = self.rows(query).await;
            (rows.len() == count).then_some(rows)
        })
        .await
    }

    /// Every attempt of a delivery: `1 retry http_503, 2 delivered 200`.
    pub(crate) async fn story(&self, row: &Value) -> String {
        let delivery = self.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await;
        let attempt = |attempt: &Value| {
            let end = attempt["error"].as_str().map_or_else(|| attempt["status"].to_string(), str::to_owned);
            format!("{} {} {end}", attempt["number"], attempt["outcome"].as_str().unwrap())
        };
        delivery["log"].as_array().unwrap().iter().map(attempt).collect::<Vec<_>>().join(", ")
    }

    /// Seconds from now until the next attempt of a delivery.
    pub(crate) fn due_in(&self, row: &Value) -> f64 {
        let at: jiff::Timestamp =
            row["next_attempt_at"].as_str().unwrap_or_else(|| panic!("nothing to come: {row}")).parse().unwrap();
        at.duration_since(self.clock.now()).as_secs_f64()
    }

    /// The row of `/api/v1/targets` about `name`.
    pub(crate) async fn target(&self, name: &str) -> Value {
        self.data(&format!("/api/v1/targets/{name}")).await
    }

    /// The same, once it is in `state`.
    pub(crate) async fn target_is(&self, name: &str, state: &str) -> Value {
        let what = format!("target {name} to be {state}");
        until(&what, SOON, async || Some(self.target(name).await).filter(|row| row["state"] == state)).await
    }

    /// `pause`, `resume` or `close` of a target.
    pub(crate) async fn tells(&self, target: &str, verb: &str) {
        self.posts(&format!("/api/v1/targets/{target}/{verb}"), &json!({})).await;
    }

    /// Moves the time, then watches that `receiver` gets nothing more than the `count` requests it has.
    pub(crate) async fn nothing_comes(&self, receiver: &super::Receiver, count: usize, within: Duration) {
        self.clock.advance(within);
        let what = format!("more than {count} requests within {within:?}");
        throughout(&what, WATCH, async || receiver.count() == count).await;
    }
}

/// What a file in `home` says, with its store there too.
fn read(home: &Home, routes: Routes) -> config::Config {
    let path = home.write("routes.yaml", &home.of(routes).text());
    let loaded = config::load(&path, &config::System);
    loaded.config.unwrap_or_else(|| panic!("{:#?}\n{}", loaded.problems, loaded.files.text()))
}
