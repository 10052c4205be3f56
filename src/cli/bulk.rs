//! What touches many things at once: counted first with `--dry-run`, else begun as a job of the relay's and followed until it ends.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::{
    Failure,
    client::{Access, Answer, Relay},
    output,
};

/// How a job is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Bulk {
    /// Only tell how many there are
    #[arg(long)]
    dry_run: bool,
    /// At most so many per second, such as 100/s
    #[arg(long, value_name = "N/s")]
    rate: Option<String>,
    /// Do not wait for the end: `hookyard jobs` tells how far it is
    #[arg(long)]
    no_wait: bool,
}

/// How often a job is asked how far it is.
const ASK: Duration = Duration::from_millis(250);
/// What a table shows of a job.
pub(super) const COLUMNS: [&str; 11] =
    ["started_at", "kind", "state", "done", "total", "made", "failed", "rate", "finished_at", "error", "id"];

impl Bulk {
    /// Whether nothing is to be changed.
    pub(super) fn only_counts(&self) -> bool {
        self.dry_run
    }

    /// Asks for what `path` does to all that `query` selects.
    pub(super) async fn go(&self, access: &Access, path: &str, query: Vec<(&'static str, String)>) -> Result<(), Failure> {
        let relay = access.relay()?;
        let answer = relay.post(path, &self.with(query)).await?;
        self.end(access, &relay, answer).await
    }

    /// Likewise, where what is selected by is nothing for a URL, which may be logged on its way.
    pub(super) async fn go_untold(&self, access: &Access, path: &str, query: Vec<(&'static str, String)>) -> Result<(), Failure> {
        let relay = access.relay()?;
        let body: Map<String, Value> =
            self.with(query).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let answer = relay.post_json(path, Value::Object(body).to_string()).await?;
        self.end(access, &relay, answer).await
    }

    fn with(&self, mut query: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
        query.extend(self.rate.clone().map(|rate| ("rate", rate)));
        query.extend(self.dry_run.then(|| ("dry_run", "true".to_owned())));
        query
    }

    async fn end(&self, access: &Access, relay: &Relay, answer: Answer) -> Result<(), Failure> {
        if self.dry_run {
            tell_count(&answer, access.json);
            return Ok(());
        }
        if self.no_wait {
            tell(&answer, access.json);
            return Ok(());
        }
        let answer = follow(relay, answer, access.json).await?;
        tell(&answer, access.json);
        verdict(&answer.json["data"])
    }
}

fn tell_count(answer: &Answer, json: bool) {
    if json {
        output::raw(&answer.text);
    } else {
        output::facts(&answer.json["data"], &["count"]);
    }
}

/// Prints one job.
pub(super) fn tell(answer: &Answer, json: bool) {
    if json {
        output::raw(&answer.text);
    } else {
        output::facts(&answer.json["data"], &COLUMNS);
    }
}

/// Asks for the job that `began` tells of until it has ended.
async fn follow(relay: &Relay, began: Answer, quiet: bool) -> Result<Answer, Failure> {
    let id = output::cell(&began.json["data"], "id");
    let path = format!("/api/v1/jobs/{}", super::client::in_path(&id)?);
    let bar = bar(&began.json["data"], quiet);
    if !quiet {
        output::note(&format!("{id} works on {}; it goes on without you", began.json["data"]["total"]));
    }
    let mut answer = began;
    while answer.json["data"]["finished_at"].is_null() {
        tokio::time::sleep(ASK).await;
        answer = relay.get(&path, &[]).await?;
        bar.set_position(answer.json["data"]["done"].as_u64().unwrap_or_default());
    }
    bar.finish_and_clear();
    Ok(answer)
}

/// A bar on stderr, where that is a terminal.
fn bar(job: &Value, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(job["total"].as_u64().unwrap_or_default());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A job that did not do all it was asked for is bad.
fn verdict(job: &Value) -> Result<(), Failure> {
    match job["state"].as_str() {
        Some("failed") => Err(Failure::Bad(format!("the job gave up: {}", output::cell(job, "error")))),
        Some("cancelled") => Err(Failure::Bad("the job was cancelled".to_owned())),
        _ if job["failed"].as_u64().is_some_and(|failed| 0 < failed) => {
            Err(Failure::Bad(format!("{} could not be done", job["failed"])))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_that_did_not_do_everything_is_bad() {
        assert!(verdict(&json!({"state": "done", "failed": 0})).is_ok());
        for (job, word) in [
            (json!({"state": "failed", "error": "the disk is full"}), "disk"),
            (json!({"state": "cancelled", "failed": 0}), "cancelled"),
            (json!({"state": "done", "failed": 3}), "3"),
        ] {
            assert!(verdict(&job).unwrap_err().to_string().contains(word), "{job}");
        }
    }
}
