//! Honeyframe as its integrators meet it: `GET /api/pipeline/runs?status=failed&since=…` today (its documents show no answer: here one has
//! `runs`, the newest first, and the URL of the next page under `next`), and one day a push of each run, whose body no document shows
//! either: here `{id, type, timestamp, data}`, `data` being the run as the list shows it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Received, Receiver, Reply, Request, signed};

/// What the API wants to see.
pub(crate) const TOKEN: &str = "hf-token-3uQz7";
/// Where it will push to.
pub(crate) const PATH: &str = "/webhooks/honeyframe";
/// Runs on a page.
const PAGE: usize = 25;

/// A Honeyframe with failed runs.
#[derive(Clone)]
pub(crate) struct Honeyframe {
    runs: Arc<Mutex<Vec<Value>>>,
}

/// The run of this number, finished then.
fn run(number: usize, finished_at: &str) -> Value {
    json!({
        "id": format!("run_{number}"), "recipe_id": format!("recipe_{}", number % 7), "status": "failed",
        "finished_at": finished_at, "error": {"code": "E_COL", "message": "column <b>amount</b> is gone", "rows": 1.50},
    })
}

impl Honeyframe {
    /// It, and where its API is.
    pub(crate) async fn start() -> (Self, Receiver) {
        let honeyframe = Self { runs: Arc::default() };
        let api = honeyframe.clone();
        (honeyframe, Receiver::answering(move |request, _| api.answer(request)).await)
    }

    /// Another run fails, at `finished_at`; yields it.
    pub(crate) fn fails(&self, finished_at: &str) -> Value {
        let mut runs = self.runs.lock().unwrap();
        let run = run(runs.len(), finished_at);
        runs.push(run.clone());
        run
    }

    /// How many failed.
    pub(crate) fn count(&self) -> usize {
        self.runs.lock().unwrap().len()
    }

    /// Every run by its id.
    pub(crate) fn runs(&self) -> std::collections::BTreeMap<String, Value> {
        self.runs.lock().unwrap().iter().map(|run| (run["id"].as_str().unwrap().to_owned(), run.clone())).collect()
    }

    /// What it answers to `request`.
    pub(crate) fn answer(&self, request: &Received) -> Reply {
        if request.header("authorization") != format!("Bearer {TOKEN}") {
            return 401.into();
        }
        let target = request.line.split(' ').nth(1).unwrap();
        let url = reqwest::Url::parse(&format!("http://honeyframe{target}")).unwrap();
        let given = |name: &str| url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
        assert_eq!((url.path(), given("status").as_deref()), ("/api/pipeline/runs", Some("failed")));
        let since: jiff::Timestamp = given("since").unwrap().parse().unwrap();
        let page: usize = given("page").map_or(0, |page| page.parse().unwrap());
        let runs = self.runs.lock().unwrap();
        let finished = |run: &Value| run["finished_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let mut wanted: Vec<_> = runs.iter().filter(|run| since <= finished(run)).collect();
        wanted.sort_by_key(|run| std::cmp::Reverse(finished(run)));
        let shown: Vec<_> = wanted.iter().skip(page * PAGE).take(PAGE).collect();
        let more = (page + 1) * PAGE < wanted.len();
        let next = more.then(|| format!("/api/pipeline/runs?status=failed&since={since}&page={}", page + 1));
        let body = json!({"runs": shown, "next": next}).to_string();
        Reply::Full(200, vec![("content-type".into(), "application/json".into())], body)
    }

    /// `run` as it is pushed, signed.
    pub(crate) fn push(run: &Value) -> Request {
        let (number, at) = (run["id"].as_str().unwrap().strip_prefix("run_").unwrap(), &run["finished_at"]);
        let body = json!({"id": format!("evt_{number}"), "type": "recipe.run.failed", "timestamp": at, "data": run}).to_string();
        let signature = format!("sha256={}", signed::hex_mac(signed::HMAC, &[body.as_bytes()]));
        Request::json(PATH, body.as_bytes()).header("X-Honeyframe-Signature", signature)
    }
}

/// The source that polls `api`, with `more` keys.
pub(crate) fn polled(api: &Receiver, more: &str) -> String {
    format!(
        "kind: poll, url: \"http://{}/api/pipeline/runs?status=failed\", headers: {{Authorization: Bearer {TOKEN}}}, items: $.runs, \
         paging: {{by: next, path: $.next}}, map: {{id: $.id, type: recipe.run.failed, time: $.finished_at, subject: $.recipe_id}}, {more}",
        api.addr
    )
}

/// The source that is pushed to.
pub(crate) fn pushed() -> String {
    format!(
        "kind: hmac, preset: honeyframe, path: {PATH}, secrets: [\"{}\"], \
         map: {{id: $.data.id, type: $.type, time: $.data.finished_at, subject: $.data.recipe_id, data: $.data}}",
        signed::HMAC
    )
}
