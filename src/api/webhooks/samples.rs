//! Examples of events, as they are delivered.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::{
    api::{error::ApiError, events, list::invalid},
    clock::{Timestamp, rfc3339_s},
    envelope::{Envelope, JSON},
    route::glob::Glob,
    samples,
};

pub(super) const PARAMS: [&str; 1] = ["type"];

/// Most examples in one answer.
const MAX: usize = 200;
/// What an example has as data where no document shows any.
const BODY: &str = r#"{"data":{"example":true}}"#;

/// An example of each of `types` that fits `wanted`, where that is given: those that documents show, and made up for the others, from `now`.
pub(super) fn of(types: &[String], wanted: Option<&str>, now: Timestamp) -> Result<Vec<Box<RawValue>>, ApiError> {
    let glob = wanted.map(Glob::parse).transpose().map_err(|error| invalid("type", &format!("is no event type: {error}")))?;
    let fits = |known: &&String| glob.as_ref().is_none_or(|glob| glob.matches(known));
    let mut ids = HashSet::new();
    let example = |known: &String| {
        let mut event = samples::find(known).map_or_else(|| made_up(known, now), |sample| sample.envelope());
        // Whoever lists them tells them apart by their ids.
        if !ids.insert(event.id.clone()) {
            event.id = format!("evt_sample_{known}");
        }
        events::raw(&event)
    };
    Ok(types.iter().filter(fits).take(MAX).map(example).collect())
}

fn made_up(known: &str, now: Timestamp) -> Envelope {
    let data = BODY.find(":{").map(|at| at + 1..BODY.len() - 1);
    Envelope {
        id: format!("evt_sample_{known}"),
        source: "example".into(),
        kind: "standard",
        r#type: known.to_owned(),
        subject: None,
        namespace: None,
        time: rfc3339_s(now),
        timestamp: rfc3339_s(now),
        received_at: now,
        traceparent: None,
        replayed: false,
        content_type: Some(JSON.to_owned()),
        data,
        body: BODY.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn examples(types: &[&str], wanted: Option<&str>) -> Vec<Value> {
        let types: Vec<_> = types.iter().map(|it| (*it).to_owned()).collect();
        let all = of(&types, wanted, "2026-01-20T12:00:00Z".parse().unwrap()).unwrap();
        all.iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect()
    }

    #[test]
    fn every_example_is_an_envelope_with_an_id_of_its_own() {
        let types: Vec<_> = samples::ALL.iter().map(|sample| sample.r#type).chain(["order.paid", "order.sent"]).collect();
        let all = examples(&types, None);
        let ids: HashSet<_> = all.iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!((all.len(), ids.len()), (types.len(), types.len()));
        assert!(all.iter().all(|it| it["specversion"] == "1.0" && it["data"].is_object()), "{all:?}");
        assert_eq!(all.last().unwrap()["data"], serde_json::json!({"example": true}));
    }

    #[test]
    fn those_that_are_wanted_come_alone() {
        let types = |wanted| {
            let all = examples(&["credential.expired", "credential.revoked", "order.paid"], wanted);
            all.iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(types(Some("credential.*")), "credential.expired credential.revoked");
        assert_eq!(types(Some("order.paid")), "order.paid");
        assert_eq!(types(Some("nothing")), "");
        assert!(of(&[], Some("a**"), Timestamp::default()).is_err());
    }
}
