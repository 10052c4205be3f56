//! `check --online`: can the destinations be reached? Nothing is sent to any of them.

use serde_json::{Value, json};

use crate::{
    cli::output,
    config::Config,
    deliver::{self, Reached},
};

/// The columns of the table.
const COLUMNS: [&str; 6] = ["target", "kind", "url", "ok", "ms", "detail"];

/// Tries every destination of `config`. None is reached where the runtime does not start, which is said.
pub(super) fn reach(config: &Config) -> Vec<Reached> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(deliver::reach(&config.destinations, &config.security.allow_targets)),
        Err(error) => {
            output::note(&format!("hookyard: the runtime does not start: {error}"));
            Vec::new()
        }
    }
}

/// What came of it, for machines.
pub(super) fn as_json(reached: &[Reached]) -> Vec<Value> {
    reached
        .iter()
        .map(|it| {
            json!({
                "target": it.target.as_str(),
                "kind": it.kind,
                "url": it.url,
                "ok": it.error.is_none(),
                "error": it.error,
                "detail": it.detail,
                "ms": u64::try_from(it.duration.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect()
}

/// Prints what came of it, a line for each destination.
pub(super) fn print(reached: &[Reached]) {
    if reached.is_empty() {
        return;
    }
    let mut rows = as_json(reached);
    for row in &mut rows {
        let word = row["error"].as_str().unwrap_or("yes").to_owned();
        row["ok"] = word.into();
    }
    output::list(&rows, &COLUMNS);
}
