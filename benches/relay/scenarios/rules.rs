//! Ten thousand rules: how long a file of them takes to load, and what they cost an event that matches one of them, against a file with
//! that rule alone. In this process and without a relay: planning is all that rules add to an event.

use std::{
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use hookyard::{
    clock::Clock,
    config::{self, Config, File, report},
    envelope::Envelope,
    route::Router,
};

use super::{Bench, say};
use crate::{Outcome, table::median};

const RULES: usize = 10_000;
const PLANS: u32 = 2_000; // per sample
const SAMPLES: usize = 41;
/// The rule that the event matches; `{}` of a shape is its number.
const CHOSEN: usize = 7_654;

/// What the rules of a file say, each with its own number.
const SHAPES: [(&str, &str); 7] = [
    ("exact types", "match: {type: acme.orders.t{}}"),
    ("globs at the end", "match: {type: acme.orders.t{}.**}"),
    ("globs in the middle", "match: {type: 'acme.*.t{}'}"),
    ("globs in front", "match: {type: '**.t{}'}"),
    ("namespaces, half a part", "match: {source: app, type: '**', namespace: 'team-{}-*'}"),
    (
        "types with conditions",
        "match: {type: acme.*.t{}}, when: [{path: $.data.amount, gt: 1000}, {path: $.data.final, in: [yes-t{}]}]",
    ),
    ("conditions alone", "match: {type: 'acme.**'}, when: [{path: $.data.amount, gt: 1000}, {path: $.data.customer, eq: c{}}]"),
];

pub(super) fn run(bench: &mut Bench) -> Outcome {
    let begun = Instant::now();
    let config = parse(&file(0..RULES, |n| SHAPES.get(n % SHAPES.len()).map_or("", |(_, rule)| rule)))?;
    bench.results.record("rules_load_ms", begun.elapsed().as_secs_f64() * 1000.0);
    let begun = Instant::now();
    drop(black_box(router(config)));
    bench.results.record("rules_index_ms", begun.elapsed().as_secs_f64() * 1000.0);
    let mut worst: f64 = 0.0;
    for (shape, rule) in SHAPES {
        let many = router(parse(&file(0..RULES, |_| rule))?);
        let alone = router(parse(&file(CHOSEN..CHOSEN + 1, |_| rule))?);
        let event = event(shape);
        for router in [&many, &alone] {
            if router.plan(&event).rules.len() != 1 {
                return Err(format!("{shape}: the event should match one rule").into());
            }
        }
        // Turn and turn about, so that whatever the machine does meets both alike.
        let samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| (time(&alone, &event), time(&many, &event))).collect();
        let middle = |pick: fn(&(f64, f64)) -> f64| median(&samples.iter().map(pick).collect::<Vec<_>>()).unwrap_or_default();
        let (one, all) = (middle(|it| it.0), middle(|it| it.1));
        say(format!("  {shape}: {one:.0} ns alone, {all:.0} ns among {RULES}: {:.2}", all / one));
        worst = worst.max(all / one);
    }
    bench.results.record("rules_share", worst);
    Ok(())
}

fn file(numbers: std::ops::Range<usize>, rule: impl Fn(usize) -> &'static str) -> String {
    let mut text = "version: 1\nsources: {app: {kind: agent, path: /app, secrets: [hush-hush]}}\n".to_owned();
    text.push_str("destinations: {crm: {kind: n8n, url: 'https://crm.example.com/x'}}\nrules:\n");
    for number in numbers {
        let rule = rule(number).replace("{}", &number.to_string());
        text.push_str(&format!("  - {{name: rule-{number}, {rule}, to: [crm]}}\n"));
    }
    text
}

fn parse(text: &str) -> Outcome<Config> {
    let loaded = config::parse(File { path: PathBuf::from("rules.yaml"), text: text.to_owned() }, &|_: &str| None);
    loaded.config.clone().ok_or_else(|| report::headline(&loaded).unwrap_or_default().into())
}

fn router(config: Config) -> Router {
    Router::new(config.rules, config.unmatched, Vec::new())
}

/// An event that the chosen rule of `shape` matches, with data as large as most.
fn event(shape: &str) -> Envelope {
    let r#type = match shape {
        "globs at the end" => format!("acme.orders.t{CHOSEN}.paid.late"),
        _ => format!("acme.orders.t{CHOSEN}"),
    };
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
        namespace: Some(format!("team-{CHOSEN}-eu")),
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

/// How long one plan takes, in nanoseconds.
fn time(router: &Router, event: &Envelope) -> f64 {
    let begun = Instant::now();
    for _ in 0..PLANS {
        black_box(router.plan(black_box(event)));
    }
    nanoseconds(begun.elapsed()) / f64::from(PLANS)
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
