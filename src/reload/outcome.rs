//! What another file has changed, for whoever asked for it.

use std::collections::BTreeSet;

use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    app::Handles,
    clock::{Timestamp, rfc3339_ms},
    config::{Config, decode::nearest, report::Diagnostic},
    deliver::Destination,
    envelope::Name,
    store::Backlog,
};

/// A good file holds.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Reloaded)]
pub struct Outcome {
    /// The hash of the files.
    pub hash: String,
    /// The hash before.
    pub former_hash: String,
    /// Whether the two differ. Secret files were read again either way.
    pub changed: bool,
    /// Since when it holds.
    pub loaded_at: String,
    /// What came and went, by name.
    pub sources: Change,
    /// Likewise.
    pub destinations: Change,
    /// Likewise.
    pub rules: Change,
    /// Deliveries whose destination is gone.
    pub waiting: Vec<Waiting>,
    /// What is doubtful about the file.
    pub warnings: Vec<Diagnostic>,
}

/// Names that came and went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Change {
    /// New ones, in the order of the file.
    pub added: Vec<String>,
    /// Those that are gone, in the order of the former file.
    pub removed: Vec<String>,
}

/// Deliveries that wait for a destination that the file does not declare.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Waiting {
    /// The destination that is gone.
    pub target: String,
    /// How many wait.
    pub deliveries: u64,
    /// The destination that probably takes its place: it would take them over with `renamed_from: <target>`.
    pub renamed_to: Option<String>,
    /// What to do.
    pub help: String,
}

/// What `config` changes of `former`.
pub(super) async fn of(
    handles: &Handles,
    former: &Config,
    config: &Config,
    warnings: Vec<Diagnostic>,
    now: Timestamp,
) -> Outcome {
    let mut backlog = handles.store.backlog(None).await.unwrap_or_else(|error| {
        warn!(%error, "how many deliveries wait without their destination is not known");
        Vec::new()
    });
    let subscriptions = &handles.subscriptions;
    backlog.retain(|row| !subscriptions.keeps(&row.target) && !subscriptions.cannot_read(&row.target));
    backlog.retain(|row| !handles.generations.is_elsewhere(&row.target));
    let names = |config: &Config| -> [Vec<String>; 3] {
        [
            config.sources.iter().map(|it| it.name.to_string()).collect(),
            config.destinations.iter().map(|it| it.name.to_string()).collect(),
            config.rules.iter().map(|it| it.name.to_string()).collect(),
        ]
    };
    let ([sources, destinations, rules], [old_sources, old_destinations, old_rules]) = (names(config), names(former));
    Outcome {
        hash: config.hash.clone(),
        former_hash: former.hash.clone(),
        changed: config.hash != former.hash,
        loaded_at: rfc3339_ms(now),
        sources: change(old_sources, sources),
        destinations: change(old_destinations, destinations),
        rules: change(old_rules, rules),
        waiting: waiting(&backlog, former, config),
        warnings,
    }
}

fn change(before: Vec<String>, after: Vec<String>) -> Change {
    let (old, new): (BTreeSet<String>, BTreeSet<String>) = (before.iter().cloned().collect(), after.iter().cloned().collect());
    Change {
        added: after.into_iter().filter(|name| !old.contains(name)).collect(),
        removed: before.into_iter().filter(|name| !new.contains(name)).collect(),
    }
}

fn waiting(backlog: &[Backlog], former: &Config, config: &Config) -> Vec<Waiting> {
    let has = |name: &Name| config.destinations.iter().any(|it| it.name == *name || it.renamed_from.as_ref() == Some(name));
    let rows = backlog.iter().filter(|row| 0 < row.waiting && !has(&row.target));
    let mut waiting: Vec<_> = rows
        .map(|row| {
            let successor = successor(&row.target, former, config);
            let target = row.target.to_string();
            let cancel = format!("`hookyard target cancel {target}` gives them up");
            let help = match &successor {
                Some(name) => format!("`renamed_from: {target}` in destination `{name}` hands them over; {cancel}"),
                None => format!("`renamed_from: {target}` in the destination that takes its place hands them over; {cancel}"),
            };
            Waiting { target, deliveries: row.waiting, renamed_to: successor.map(|name| name.to_string()), help }
        })
        .collect();
    waiting.sort_by(|a, b| a.target.cmp(&b.target));
    waiting
}

/// The new destination that probably took the place of `gone`: the one that goes where that went, or is called much like it, or the only
/// new one of its kind.
fn successor(gone: &Name, former: &Config, config: &Config) -> Option<Name> {
    let is_new = |it: &&Destination| !former.destinations.iter().any(|old| old.name == it.name) && it.renamed_from.is_none();
    let new: Vec<_> = config.destinations.iter().filter(is_new).collect();
    let old = former.destinations.iter().find(|it| it.name == *gone)?;
    let alike: Vec<_> = new.into_iter().filter(|it| it.kind.word() == old.kind.word()).collect();
    let there = |it: &&&Destination| match (it.kind.endpoint(), old.kind.endpoint()) {
        (Some(one), Some(other)) => one.same_url(other),
        _ => it.masked_url() == old.masked_url(),
    };
    let called = || {
        let near = nearest(gone.as_str(), alike.iter().map(|it| it.name.as_str()))?;
        alike.iter().find(|it| it.name.as_str() == near)
    };
    let only = || if alike.len() == 1 { alike.first() } else { None };
    alike.iter().find(there).or_else(called).or_else(only).map(|it| it.name.clone())
}
