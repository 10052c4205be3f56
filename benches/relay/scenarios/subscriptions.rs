//! Ten thousand subscriptions: what they cost an event that one of them takes, against that one alone, and what it costs to change one.
//! In this process and without a relay, as for rules.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use hookyard::{
    envelope::Envelope,
    route::{Router, Subscribers, glob::Glob, subscribers::Subscriber, when::Condition},
};

use super::{
    Bench,
    planning::{self, CHOSEN, MANY, parse},
};
use crate::Outcome;

const CHANGES: usize = 1_000;

/// What a subscription says.
struct Shape {
    name: &'static str,
    events: &'static [&'static str],
    namespaces: &'static [&'static str],
    filter: Option<&'static str>,
}

const SHAPES: [Shape; 7] = [
    Shape { name: "exact types", events: &["other.type", "acme.orders.t{}"], namespaces: &[], filter: None },
    Shape { name: "globs at the end", events: &["acme.orders.t{}.**"], namespaces: &[], filter: None },
    Shape { name: "globs in the middle", events: &["acme.*.t{}", "acme.*.u{}"], namespaces: &[], filter: None },
    Shape { name: "globs in front", events: &["**.t{}"], namespaces: &[], filter: None },
    Shape { name: "namespaces", events: &["acme.**"], namespaces: &["team-{}", "staff-{}"], filter: None },
    Shape { name: "namespaces, the same types", events: &["acme.orders.*"], namespaces: &["team-{}"], filter: None },
    Shape {
        name: "everything with a filter",
        events: &["**"],
        namespaces: &[],
        filter: Some("[{path: $.data.amount, gt: 1000}, {path: $.data.customer, eq: c{}}]"),
    },
];

pub(super) fn run(bench: &mut Bench) -> Outcome {
    changes(bench)?;
    let mut worst: f64 = 0.0;
    for shape in &SHAPES {
        let all = (0..MANY).map(|n| shape.subscriber(n)).collect::<Outcome<Vec<_>>>()?;
        let share = compare(shape.name, all, shape.subscriber(CHOSEN)?, &event(shape.name))?;
        worst = worst.max(share);
    }
    // All shapes at once, and an event that one with a filter takes: who looks at data pays for it alone, too.
    let mixed = mixed()?;
    let filtering = SHAPES.last().ok_or("no shape")?;
    let chosen = filtering.subscriber(CHOSEN)?;
    let mixed = mixed.into_iter().filter(|it| it.target != chosen.target).chain([chosen.clone()]).collect();
    worst = worst.max(compare("all of them", mixed, chosen, &Envelope { namespace: None, ..event("only the filter") })?);
    bench.results.record(None, "subscriptions_share", worst);
    Ok(())
}

/// How many times as long one plan takes among `all` as with `chosen` alone.
fn compare(shape: &str, all: Vec<Subscriber>, chosen: Subscriber, event: &Envelope) -> Outcome<f64> {
    planning::compare(shape, &router(vec![chosen]), &router(all), event)
}

/// What it takes to load them all, and to change one after the other.
fn changes(bench: &mut Bench) -> Outcome {
    let (subscribers, all) = (Subscribers::default(), mixed()?);
    let begun = Instant::now();
    subscribers.load(all.clone());
    bench.results.record(None, "subscriptions_load_ms", milliseconds(begun.elapsed()));
    let (mut total, mut longest) = (Duration::ZERO, Duration::ZERO);
    for (n, subscriber) in all.into_iter().take(CHANGES).enumerate() {
        let target = subscriber.target.clone();
        let begun = Instant::now();
        if n % 2 == 0 {
            subscribers.put(subscriber)
        } else {
            subscribers.remove(&target)
        }
        let took = begun.elapsed();
        (total, longest) = (total + took, longest.max(took));
    }
    bench.results.record(None, "subscriptions_change_us", milliseconds(total) * 1e3 / CHANGES as f64);
    bench.results.record(None, "subscriptions_change_max_us", milliseconds(longest) * 1e3);
    Ok(())
}

fn mixed() -> Outcome<Vec<Subscriber>> {
    (0..MANY).map(|n| SHAPES.get(n % SHAPES.len()).ok_or("no shape")?.subscriber(n)).collect()
}

impl Shape {
    fn subscriber(&self, number: usize) -> Outcome<Subscriber> {
        let of = |text: &&str| text.replace("{}", &number.to_string());
        let globs = self.events.iter().map(|glob| Ok(Glob::parse(&of(glob))?)).collect::<Outcome<Vec<_>>>()?;
        let filter = self.filter.as_ref().map(|filter| conditions(&of(filter))).transpose()?.unwrap_or_default();
        let namespaces: BTreeSet<String> = self.namespaces.iter().map(of).collect();
        let namespaces = (!namespaces.is_empty()).then_some(namespaces);
        Ok(Subscriber { target: format!("wh_{number}").as_str().into(), events: globs, filter, namespaces })
    }
}

/// Conditions as the file writes them, and as a subscription's `filter` does.
fn conditions(text: &str) -> Outcome<Vec<Condition>> {
    let config = parse(&format!("version: 1\nrules: [{{when: {text}, to: []}}]\n"))?;
    Ok(config.rules.first().ok_or("no rule")?.when.clone())
}

fn router(all: Vec<Subscriber>) -> Router {
    let subscribers = Subscribers::default();
    subscribers.load(all);
    Router::new(Vec::new(), Vec::new(), Vec::new()).with_subscribers(subscribers)
}

/// An event that the chosen subscription of `shape` takes.
fn event(shape: &str) -> Envelope {
    let r#type = match shape {
        "globs at the end" => format!("acme.orders.t{CHOSEN}.paid.late"),
        "namespaces" | "namespaces, the same types" => "acme.orders.paid".to_owned(),
        "only the filter" => "acme.bills.paid".to_owned(),
        _ => format!("acme.orders.t{CHOSEN}"),
    };
    planning::event(r#type, format!("team-{CHOSEN}"))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
