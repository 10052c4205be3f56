//! Ten thousand rules: how long a file of them takes to load, and what they cost an event that matches one of them, against a file with
//! that rule alone. In this process and without a relay: planning is all that rules add to an event.

use std::{hint::black_box, ops::Range, time::Instant};

use hookyard::{config::Config, route::Router};

use super::{
    Bench,
    planning::{CHOSEN, MANY, compare, event, parse},
};
use crate::Outcome;

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
    let config = parse(&file(0..MANY, |n| SHAPES.get(n % SHAPES.len()).map_or("", |(_, rule)| rule)))?;
    bench.results.record(None, "rules_load_ms", begun.elapsed().as_secs_f64() * 1000.0);
    let begun = Instant::now();
    drop(black_box(router(config)));
    bench.results.record(None, "rules_index_ms", begun.elapsed().as_secs_f64() * 1000.0);
    let mut worst: f64 = 0.0;
    for (shape, rule) in SHAPES {
        let many = router(parse(&file(0..MANY, |_| rule))?);
        let alone = router(parse(&file(CHOSEN..CHOSEN + 1, |_| rule))?);
        let r#type = match shape {
            "globs at the end" => format!("acme.orders.t{CHOSEN}.paid.late"),
            _ => format!("acme.orders.t{CHOSEN}"),
        };
        worst = worst.max(compare(shape, &alone, &many, &event(r#type, format!("team-{CHOSEN}-eu")))?);
    }
    bench.results.record(None, "rules_share", worst);
    Ok(())
}

fn file(numbers: Range<usize>, rule: impl Fn(usize) -> &'static str) -> String {
    let mut text = "version: 1\nsources: {app: {kind: agent, path: /app, secrets: [hush-hush]}}\n".to_owned();
    text.push_str("destinations: {crm: {kind: n8n, url: 'https://crm.example.com/x'}}\nrules:\n");
    for number in numbers {
        let rule = rule(number).replace("{}", &number.to_string());
        text.push_str(&format!("  - {{name: rule-{number}, {rule}, to: [crm]}}\n"));
    }
    text
}

fn router(config: Config) -> Router {
    Router::new(config.rules, config.unmatched, Vec::new())
}
