//! `hookyard tail`: events and deliveries as they come and go, one line each. Follows the lists of the API by their cursors; what is
//! sent is not shown, only what is known of it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use super::{
    Failure,
    client::{Access, Relay, given},
    output::{self, cell},
};
use crate::{envelope::DeliveryId, store::State};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only of this source
    #[arg(long)]
    source: Option<String>,
    /// Only of this type; a glob too, several with commas
    #[arg(long)]
    r#type: Option<String>,
    /// Only to this target
    #[arg(long)]
    target: Option<String>,
    /// Only deliveries that come into this state, and no events
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(State::ALL.map(|(word, _)| word)))]
    state: Option<String>,
    #[command(flatten)]
    access: Access,
}

/// How often the relay is asked for news.
const ASK: Duration = Duration::from_millis(500);
/// Rows asked for at once: the most that the API gives.
const PAGE: usize = 1000;
/// Deliveries that are watched until they are final; beyond, the oldest are let go.
const WATCHED_MAX: usize = PAGE;

/// Shows what is new from now on, until it is interrupted.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let relay = args.access.relay()?;
    let filters = given(&[("source", &args.source), ("type", &args.r#type), ("target", &args.target)]);
    let mut events = Events { after: newest(&relay, "/api/v1/events", "uid", &filters).await? };
    let mut watches = [Watch::begin(&relay, &filters, false).await?, Watch::begin(&relay, &filters, true).await?];
    if !args.access.json {
        output::note("waiting for events; Ctrl-C ends it");
    }
    loop {
        if args.state.is_none() {
            events.news(&relay, &filters).await?.iter().for_each(|event| tell("event", event, args.access.json));
        }
        for watch in &mut watches {
            let wanted = |delivery: &&Value| args.state.as_deref().is_none_or(|state| delivery["state"] == state);
            watch.news(&relay).await?.iter().filter(wanted).for_each(|delivery| tell("delivery", delivery, args.access.json));
        }
        tokio::time::sleep(ASK).await;
    }
}

/// The cursor behind what there is already.
async fn newest(relay: &Relay, path: &str, id: &str, filters: &[(&'static str, String)]) -> Result<String, Failure> {
    let mut query = filters.to_vec();
    query.push(("limit", "1".to_owned()));
    let answer = relay.get(path, &query).await?;
    Ok(answer.list().first().map_or_else(|| "0".to_owned(), |newest| cell(newest, id)))
}

/// A page behind `after`, and where it ends.
async fn page(
    relay: &Relay,
    path: &str,
    filters: &[(&'static str, String)],
    after: &str,
) -> Result<(Vec<Value>, String), Failure> {
    let mut query = filters.to_vec();
    query.extend([("limit", PAGE.to_string()), ("after", after.to_owned())]);
    let mut answer = relay.get(path, &query).await?;
    let next = answer.json["next"].as_str().unwrap_or(after).to_owned();
    let rows = match answer.json["data"].take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    };
    Ok((rows, next))
}

/// Where the list of events was read to.
struct Events {
    after: String,
}

impl Events {
    /// The events that are new.
    async fn news(&mut self, relay: &Relay, filters: &[(&'static str, String)]) -> Result<Vec<Value>, Failure> {
        let (rows, next) = page(relay, "/api/v1/events", filters, &self.after).await?;
        self.after = next;
        Ok(rows)
    }
}

/// Deliveries from the oldest that is not final on, so that what becomes of them is seen. Those that replays make are watched
/// apart: they stand beside the others of their events, which may be old, and have an order of their own.
struct Watch {
    /// What is watched.
    filters: Vec<(&'static str, String)>,
    /// The cursor before the oldest of them.
    after: String,
    /// How each was last seen: its state and its number of attempts.
    seen: BTreeMap<DeliveryId, (String, u64)>,
}

impl Watch {
    /// Begins behind the newest of what fits `filters` and was made by a replay, or was not.
    async fn begin(relay: &Relay, filters: &[(&'static str, String)], replayed: bool) -> Result<Self, Failure> {
        let filters = [filters, &[("replayed", replayed.to_string())]].concat();
        let after = newest(relay, "/api/v1/deliveries", "id", &filters).await?;
        Ok(Self { filters, after, seen: BTreeMap::new() })
    }

    /// The deliveries that are new, or not as they were.
    async fn news(&mut self, relay: &Relay) -> Result<Vec<Value>, Failure> {
        let (rows, _) = page(relay, "/api/v1/deliveries", &self.filters, &self.after).await?;
        Ok(self.compare(rows))
    }

    /// Those of `rows` that are new or changed. What lies before the first that is not final is watched no longer.
    fn compare(&mut self, rows: Vec<Value>) -> Vec<Value> {
        let full = WATCHED_MAX <= rows.len();
        let mut before = std::mem::take(&mut self.seen);
        let mut changed = Vec::new();
        let mut all_final = true;
        for (position, row) in rows.into_iter().enumerate() {
            let Ok(id) = cell(&row, "id").parse::<DeliveryId>() else { continue };
            let state = (cell(&row, "state"), row["attempts"].as_u64().unwrap_or_default());
            all_final &= is_final(&state.0) || (full && position < WATCHED_MAX / 2);
            if before.remove(&id).is_none_or(|known| known != state) {
                changed.push(row);
            }
            if all_final {
                self.after = id.to_string();
            } else {
                self.seen.insert(id, state);
            }
        }
        changed
    }
}

fn is_final(state: &str) -> bool {
    !matches!(state, "pending" | "held" | "sending")
}

/// Prints one line: `what` it is and what is known of it.
fn tell(what: &str, thing: &Value, json: bool) {
    if json {
        let mut thing = thing.clone();
        thing["kind"] = what.into();
        return output::raw(&thing.to_string());
    }
    let names: &[&str] = match what {
        "event" => &["received_at", "source", "type", "id", "namespace", "verdict", "uid"],
        _ => &["created_at", "event_id", "type", "target", "state", "cause", "error", "attempts", "id"],
    };
    let known = names.iter().map(|name| cell(thing, name)).filter(|text| text != "-");
    output::line(&format!("{what:8}  {}", known.collect::<Vec<_>>().join("  ")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(seq: u32, state: &str, attempts: u32) -> Value {
        json!({"id": format!("dl_00000000000000ab{seq:016x}_1"), "state": state, "attempts": attempts})
    }

    fn states(rows: &[Value]) -> Vec<String> {
        rows.iter().map(|row| format!("{} {}", cell(row, "id").split_off(34), cell(row, "state"))).collect()
    }

    #[test]
    fn each_change_of_a_delivery_is_seen_once_until_it_is_final() {
        let mut watch = Watch { filters: Vec::new(), after: "0".into(), seen: BTreeMap::new() };
        let first = watch.compare(vec![row(1, "delivered", 1), row(2, "pending", 1), row(3, "delivered", 1)]);
        assert_eq!(states(&first), ["1_1 delivered", "2_1 pending", "3_1 delivered"]);
        assert!(watch.after.ends_with("1_1") && watch.seen.len() == 2, "{}", watch.after);
        let second = watch.compare(vec![row(2, "pending", 2), row(3, "delivered", 1), row(4, "held", 0)]);
        assert_eq!(states(&second), ["2_1 pending", "4_1 held"]);
        assert_eq!(watch.compare(vec![row(2, "pending", 2), row(3, "delivered", 1), row(4, "held", 0)]), [] as [Value; 0]);
        let third = watch.compare(vec![row(2, "dead", 3), row(3, "delivered", 1), row(4, "cancelled", 0)]);
        assert_eq!(states(&third), ["2_1 dead", "4_1 cancelled"]);
        assert!(watch.after.ends_with("4_1") && watch.seen.is_empty());
    }

    #[test]
    fn what_a_replay_makes_need_not_be_in_the_order_of_events() {
        let mut watch = Watch { filters: Vec::new(), after: "0".into(), seen: BTreeMap::new() };
        assert_eq!(watch.compare(vec![row(9, "delivered", 1), row(2, "pending", 0), row(5, "dead", 1)]).len(), 3);
        assert!(watch.after.ends_with("9_1") && watch.seen.len() == 2, "{}", watch.after);
        let later = watch.compare(vec![row(2, "delivered", 1), row(5, "dead", 1), row(1, "pending", 0)]);
        assert_eq!(states(&later), ["2_1 delivered", "1_1 pending"]);
        assert!(watch.after.ends_with("5_1") && watch.seen.len() == 1, "{}", watch.after);
    }

    #[test]
    fn a_backlog_that_never_ends_does_not_hide_what_is_new() {
        let mut watch = Watch { filters: Vec::new(), after: "0".into(), seen: BTreeMap::new() };
        let rows: Vec<_> = (1..=PAGE as u32).map(|seq| row(seq, "held", 0)).collect();
        assert_eq!(watch.compare(rows).len(), PAGE);
        assert_eq!(watch.after, format!("dl_00000000000000ab{:016x}_1", WATCHED_MAX / 2));
        assert_eq!(watch.seen.len(), PAGE - WATCHED_MAX / 2);
    }
}
