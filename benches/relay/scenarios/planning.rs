//! What the time of planning is taken with: an event, two routers that take it, and samples turn and turn about.

use std::{hint::black_box, path::PathBuf, time::Instant};

use hookyard::{
    clock::Clock,
    config::{self, Config, File, report},
    envelope::Envelope,
    route::Router,
};

use super::say;
use crate::{Outcome, table::median};

/// How many rules or subscriptions there are.
pub(super) const MANY: usize = 10_000;
/// The one of them that takes the event; `{}` of a shape is its number.
pub(super) const CHOSEN: usize = 7_654;
const PLANS: u32 = 2_000; // per sample
const SAMPLES: usize = 41;

/// `text` as a file that can be used.
pub(super) fn parse(text: &str) -> Outcome<Config> {
    let loaded = config::parse(File { path: PathBuf::from("planning.yaml"), text: text.to_owned() }, &|_: &str| None);
    loaded.config.clone().ok_or_else(|| report::headline(&loaded).unwrap_or_default().into())
}

/// An event with data as large as most; the chosen one's conditions hold of it.
pub(super) fn event(r#type: String, namespace: String) -> Envelope {
    let filling = "x".repeat(400);
    let body = format!(
        r#"{{"amount":5000,"final":"yes-t{CHOSEN}","customer":"c{CHOSEN}","lines":[{{"sku":"a","n":1}},{{"sku":"b","n":2}}],"note":"{filling}"}}"#
    );
    Envelope {
        id: "evt_1".to_owned(),
        source: "app".into(),
        kind: "agent",
        r#type,
        subject: Some("order_1".to_owned()),
        namespace: Some(namespace),
        time: "2026-01-20T12:00:00Z".to_owned(),
        timestamp: "2026-01-20T12:00:00Z".to_owned(),
        received_at: Clock::system().now(),
        traceparent: None,
        replayed: false,
        content_type: None,
        data: Some(0..body.len()),
        body: body.into(),
    }
}

/// How many times as long one plan of `event` takes with `many` as with `alone`. Exactly one rule or subscription of either takes it.
pub(super) fn compare(shape: &str, alone: &Router, many: &Router, event: &Envelope) -> Outcome<f64> {
    for router in [many, alone] {
        let taking = router.plan(event).rules.len();
        if taking != 1 {
            return Err(format!("{shape}: one should take the event, not {taking}").into());
        }
    }
    // Turn and turn about, so that whatever the machine does meets both alike.
    let samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| (time(alone, event), time(many, event))).collect();
    let middle = |pick: fn(&(f64, f64)) -> f64| median(&samples.iter().map(pick).collect::<Vec<_>>()).unwrap_or_default();
    let (one, all) = (middle(|it| it.0), middle(|it| it.1));
    // Of each pair: the machine changes its speed between samples, and less within one.
    let share = middle(|(one, all)| all / one);
    say(format!("  {shape}: {one:.0} ns alone, {all:.0} ns among {MANY}: {share:.2}"));
    Ok(share)
}

/// How long one plan takes, in nanoseconds.
fn time(router: &Router, event: &Envelope) -> f64 {
    let begun = Instant::now();
    for _ in 0..PLANS {
        black_box(router.plan(black_box(event)));
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(PLANS)
}
