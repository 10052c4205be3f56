//! Ten thousand subscriptions: what they cost an event that one of them takes, against that one alone, and what it costs to change one.
//! In this process and without a relay, as for rules.

use std::{
    collections::BTreeSet,
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use hookyard::{
    clock::Clock,
    config::{self, File, report},
    envelope::Envelope,
    route::{Router, Subscribers, glob::Glob, subscribers::Subscriber, when::Condition},
};

use super::{Bench, say};
use crate::{Outcome, table::median};

const SUBSCRIPTIONS: usize = 10_000;
const CHANGES: usize = 1_000;
const PLANS: u32 = 2_000; // per sample
const SAMPLES: usize = 41;
/// The subscription that takes the event; `{}` of a shape is its number.
const CHOSEN: usize = 7_654;

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
        let all = (0..SUBSCRIPTIONS).map(|n| shape.subscriber(n)).collect::<Outcome<Vec<_>>>()?;
        let share = compare(shape.name, all, shape.subscriber(CHOSEN)?, &event(shape.name))?;
        worst = worst.max(share);
    }
    // All shapes at once, and an event that one with a filter takes: who looks at data pays for it alone, too.
    let mixed = mixed()?;
    let filtering = SHAPES.last().ok_or("no shape")?;
    let chosen = filtering.subscriber(CHOSEN)?;
    let mixed = mixed.into_iter().filter(|it| it.target != chosen.target).chain([chosen.clone()]).collect();
    worst = worst.max(compare("all of them", mixed, chosen, &Envelope { namespace: None, ..event("only the filter") })?);
    bench.results.record("subscriptions_share", worst);
    Ok(())
}

/// How long one plan takes among `all`, against `chosen` alone.
fn compare(shape: &str, all: Vec<Subscriber>, chosen: Subscriber, event: &Envelope) -> Outcome<f64> {
    let (many, alone) = (router(all), router(vec![chosen]));
    for router in [&many, &alone] {
        let taking = router.plan(event).rules.len();
        if taking != 1 {
            return Err(format!("{shape}: one subscription should take the event, not {taking}").into());
        }
    }
    // Turn and turn about, so that whatever the machine does meets both alike.
    let samples: Vec<(f64, f64)> = (0..SAMPLES).map(|_| (time(&alone, event), time(&many, event))).collect();
    let middle = |pick: fn(&(f64, f64)) -> f64| median(&samples.iter().map(pick).collect::<Vec<_>>()).unwrap_or_default();
    let (one, many) = (middle(|it| it.0), middle(|it| it.1));
    // Of each pair: the machine changes its speed between samples, and less within one.
    let share = middle(|(one, many)| many / one);
    say(format!("  {shape}: {one:.0} ns alone, {many:.0} ns among {SUBSCRIPTIONS}: {share:.2}"));
    Ok(share)
}

/// What it takes to load them all, and to change one after the other.
fn changes(bench: &mut Bench) -> Outcome {
    let (subscribers, all) = (Subscribers::default(), mixed()?);
    let begun = Instant::now();
    subscribers.load(all.clone());
    bench.results.record("subscriptions_load_ms", nanoseconds(begun.elapsed()) / 1e6);
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
    bench.results.record("subscriptions_change_us", nanoseconds(total) / 1e3 / CHANGES as f64);
    bench.results.record("subscriptions_change_max_us", nanoseconds(longest) / 1e3);
    Ok(())
}

fn mixed() -> Outcome<Vec<Subscriber>> {
    (0..SUBSCRIPTIONS).map(|n| SHAPES.get(n % SHAPES.len()).ok_or("no shape")?.subscriber(n)).collect()
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
    let file = format!("version: 1\nrules: [{{when: {text}, to: []}}]\n");
    let loaded = config::parse(File { path: PathBuf::from("filter.yaml"), text: file }, &|_: &str| None);
    let rule = loaded.config.as_ref().and_then(|config| config.rules.first());
    rule.map(|rule| rule.when.clone()).ok_or_else(|| report::headline(&loaded).unwrap_or_default().into())
}

fn router(all: Vec<Subscriber>) -> Router {
    let subscribers = Subscribers::default();
    subscribers.load(all);
    Router::new(Vec::new(), Vec::new(), Vec::new()).with_subscribers(subscribers)
}

/// An event that the chosen subscription of `shape` takes, with data as large as most.
fn event(shape: &str) -> Envelope {
    let r#type = match shape {
        "globs at the end" => format!("acme.orders.t{CHOSEN}.paid.late"),
        "namespaces" | "namespaces, the same types" => "acme.orders.paid".to_owned(),
        "only the filter" => "acme.bills.paid".to_owned(),
        _ => format!("acme.orders.t{CHOSEN}"),
    };
    let filling = "x".repeat(400);
    let body = format!(
        r#"{{"amount":5000,"customer":"c{CHOSEN}","lines":[{{"sku":"a","n":1}},{{"sku":"b","n":2}}],"note":"{filling}"}}"#
    );
    Envelope {
        id: "evt_1".to_owned(),
        source: "app".into(),
        kind: "agent",
        r#type,
        subject: Some("order_1".to_owned()),
        namespace: Some(format!("team-{CHOSEN}")),
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
