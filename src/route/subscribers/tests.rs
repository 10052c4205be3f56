use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    config::decode::{Context, Decode},
    envelope::tests::sample,
    route::{Router, TAKERS_MAX, when::tests::node},
};

fn subscriber(target: &str, events: &[&str], filter: &serde_json::Value, namespaces: Option<&[&str]>) -> Subscriber {
    let mut cx = Context::default();
    let filter = Vec::decode(&node(filter), &mut cx).unwrap();
    assert!(!cx.failed(), "{:?}", cx.problems);
    Subscriber {
        target: target.into(),
        events: events.iter().map(|glob| Glob::parse(glob).unwrap()).collect(),
        filter,
        namespaces: namespaces.map(|all| all.iter().map(|it| (*it).to_owned()).collect()),
    }
}

fn taker(target: &str) -> Subscriber {
    subscriber(target, &["**"], &json!([]), None)
}

/// A router whose only rule stops at everything and sends it to `crm`, and what it plans.
fn router(subscribers: &Subscribers) -> Router {
    let rule = node(&json!({"name": "first", "match": {"type": "credential.*"}, "to": ["crm"], "stop": true}));
    let rule = crate::route::Rule::decode(0, &rule, &mut Context::default()).unwrap();
    Router::new(vec![rule], vec!["fallback".into()], Vec::new()).with_subscribers(subscribers.clone())
}

fn planned(subscribers: &Subscribers, event: &Envelope) -> String {
    let plan = router(subscribers).plan(event);
    let delivery = |it: &crate::store::NewDelivery| format!("{} by {}", it.target, it.rule.as_ref().map_or("-", Name::as_str));
    let rules: Vec<_> = plan.rules.iter().map(Name::as_str).collect();
    format!("{}; {}", rules.join(" "), plan.deliveries.iter().map(delivery).collect::<Vec<_>>().join(", "))
}

fn of(r#type: &str, namespace: Option<&str>, data: &'static str) -> Envelope {
    Envelope {
        r#type: r#type.to_owned(),
        namespace: namespace.map(str::to_owned),
        body: data.into(),
        data: Some(0..data.len()),
        ..sample()
    }
}

#[test]
fn subscriptions_come_after_the_rules_and_no_stop_concerns_them() {
    let subscribers = Subscribers::default();
    assert_eq!(planned(&subscribers, &sample()), "first; crm by first");
    subscribers.put(taker("wh_a"));
    assert_eq!(planned(&subscribers, &sample()), "first wh_a; crm by first, wh_a by wh_a");
    // What a subscription takes is not `unmatched`.
    assert_eq!(planned(&subscribers, &of("other", None, "{}")), "wh_a; wh_a by wh_a");
    subscribers.remove(&"wh_a".into());
    assert_eq!(planned(&subscribers, &of("other", None, "{}")), "; fallback by -");
}

#[test]
fn the_relays_own_events_go_to_no_subscription() {
    let subscribers = Subscribers::default();
    subscribers.load(vec![taker("wh_a"), subscriber("wh_b", &["relay.**"], &json!([]), None)]);
    let event = Envelope { source: OWN_SOURCE.into(), ..of("relay.target.broken", None, "{}") };
    assert_eq!(planned(&subscribers, &event), "; ");
    assert!(!router(&subscribers).may_have(&"wh_a".into(), &event));
}

#[test]
fn namespaces_are_exact_and_never_globs() {
    let subscribers = Subscribers::default();
    subscribers.put(subscriber("wh_a", &["**"], &json!([]), Some(&["team-*", "user_1"])));
    let takes = |namespace| planned(&subscribers, &of("x", namespace, "{}")).starts_with("wh_a");
    assert_eq!(
        [Some("user_1"), Some("team-*"), Some("team-a"), Some("user_12"), None].map(takes),
        [true, true, false, false, false]
    );
    subscribers.put(subscriber("wh_a", &["**"], &json!([]), Some(&[])));
    assert_eq!(planned(&subscribers, &of("x", Some("user_1"), "{}")), "; fallback by -");
}

#[test]
fn a_named_subscription_may_have_no_event_of_another_namespace() {
    let subscribers = Subscribers::default();
    subscribers.put(subscriber("wh_a", &["never"], &json!([]), Some(&["user_1"])));
    let may_have = |target: &str, namespace| router(&subscribers).may_have(&target.into(), &of("x", namespace, "{}"));
    assert!(may_have("wh_a", Some("user_1")) && !may_have("wh_a", Some("user_2")) && !may_have("wh_a", None));
    assert!(may_have("crm", Some("user_2")));
}

#[test]
fn a_filter_is_held_against_the_envelope() {
    let subscribers = Subscribers::default();
    let filter = json!([{"path": "$.data.amount", "gt": 10}, {"path": "$.type", "starts_with": "order"}]);
    subscribers.put(subscriber("wh_a", &["*.paid", "order.late"], &filter, None));
    let takes = |r#type, data| planned(&subscribers, &of(r#type, None, data)).starts_with("wh_a");
    assert!(takes("order.paid", r#"{"amount": 11}"#) && takes("order.late", r#"{"amount": 11}"#));
    assert!(!takes("order.paid", r#"{"amount": 10}"#) && !takes("bill.paid", r#"{"amount": 11}"#));
}

#[test]
fn whoever_plans_goes_by_those_it_took() {
    let subscribers = Subscribers::default();
    subscribers.put(taker("wh_a"));
    let before = subscribers.now();
    subscribers.remove(&"wh_a".into());
    let event = sample();
    assert_eq!(before.taking(&event, &mut View::new(&event)).len(), 1);
    assert_eq!(subscribers.now().taking(&event, &mut View::new(&event)).len(), 0);
}

#[test]
fn what_is_told_of_very_many_is_bounded_and_names_the_nearest() {
    let subscribers = Subscribers::default();
    let mut all: Vec<_> = (0..300).map(|n| subscriber(&format!("wh_t{n}"), &["x"], &json!([]), None)).collect();
    all.extend((0..300).map(|n| subscriber(&format!("wh_o{n}"), &["y"], &json!([]), None)));
    all.push(subscriber("wh_near", &["x"], &json!([{"path": "$.data.n", "eq": 1}]), None));
    all.push(subscriber("wh_ns", &["x"], &json!([]), Some(&["a\u{1b}", "b"])));
    subscribers.load(all);
    let told = router(&subscribers).explain_subscriptions(&of("x", None, r#"{"n": 2}"#));
    assert_eq!((told.total, told.taking, told.some.len()), (602, 300, TAKING_AND_OTHERS));
    let near = told.some.iter().find(|it| it.reason.is_some()).unwrap();
    assert_eq!((near.subscription.as_str(), near.reason.as_deref()), ("wh_near", Some("filter[0]: $.data.n is 2, wanted 1")));
    subscribers.load(vec![subscriber("wh_ns", &["x"], &json!([]), Some(&["a\u{1b}", "b"]))]);
    let told = router(&subscribers).explain_subscriptions(&of("x", Some("c"), "{}"));
    assert_eq!(told.some[0].reason.as_deref(), Some("namespace is c, wanted one of a\\u{1b}, b"));
}

const TAKING_AND_OTHERS: usize = 120;

/// Ten thousand subscriptions of each shape, and how many are looked at for an event that few of them take.
#[test]
fn of_thousands_of_subscriptions_few_are_looked_at() {
    let event = of("acme.t4.done", Some("team-6"), r#"{"customer": "c8", "amount": 10}"#);
    type Shape = Box<dyn Fn(usize) -> Subscriber>;
    let name = |n: usize| format!("wh_{n}");
    let eq = |n: usize| json!([{"path": "$.data.amount", "gt": 1}, {"path": "$.data.customer", "eq": format!("c{n}")}]);
    let shapes: Vec<(&str, Shape)> = vec![
        ("exact types", Box::new(move |n| subscriber(&name(n), &["z", &format!("acme.t{n}.done")], &json!([]), None))),
        ("beginnings", Box::new(move |n| subscriber(&name(n), &[&format!("acme.t{n}.**")], &json!([]), None))),
        ("middles", Box::new(move |n| subscriber(&name(n), &[&format!("*.t{n}.*")], &json!([]), None))),
        ("everything with a filter", Box::new(move |n| subscriber(&name(n), &["**"], &eq(n), None))),
        ("namespaces", Box::new(move |n| subscriber(&name(n), &["acme.**"], &json!([]), Some(&[&format!("team-{n}"), "a*"])))),
        (
            "namespaces with the same types",
            Box::new(move |n| subscriber(&name(n), &["acme.t4.done"], &json!([]), Some(&[&format!("team-{n}")]))),
        ),
    ];
    for (shape, make) in shapes {
        let subscribers = Subscribers::default();
        subscribers.load((0..10_000).map(&make).collect());
        // One more change, so that both parts are asked.
        subscribers.put(make(10_000));
        let set = subscribers.now();
        let looked_at = |shelf: &Shelf| shelf.candidates(&event, &mut View::new(&event)).len();
        let taking = set.taking(&event, &mut View::new(&event)).len();
        assert_eq!((set.len(), taking), (10_001, 1), "{shape}");
        assert!(looked_at(&set.settled) <= 2 && looked_at(&set.recent) <= 1, "{shape}");
    }
}

/// What a change makes anew is what changed lately, not the ten thousand.
#[test]
fn a_change_among_thousands_touches_the_settled_once_in_many() {
    let subscribers = Subscribers::default();
    subscribers.load((0..10_000).map(|n| taker(&format!("wh_{n}"))).collect());
    let (mut settled, mut renewed, mut most) = (subscribers.now().settled.clone(), 0, 0);
    for n in 0..400 {
        match n % 3 {
            0 => subscribers.put(taker(&format!("wh_{n}"))),
            1 => subscribers.put(taker(&format!("wh_new{n}"))),
            _ => subscribers.remove(&format!("wh_{n}").as_str().into()),
        }
        let now = subscribers.now();
        most = most.max(now.recent.all.len());
        if !Arc::ptr_eq(&settled, &now.settled) {
            (settled, renewed) = (now.settled.clone(), renewed + 1);
        }
    }
    assert!(renewed <= 400 / (RECENT_MAX / 2) && most <= RECENT_MAX, "{renewed} times, {most} at most");
}

#[derive(Debug, Clone)]
enum Change {
    Put(usize, Vec<String>, usize, Option<Vec<String>>),
    Remove(usize),
    Load,
}

fn change() -> impl Strategy<Value = Change> {
    let globs = prop::collection::vec(r"[ab]|\*|\*\*|[ab]\.\*|[ab]\.[ab]|\*\.[ab]|[ab]\.\*\*|\*\*\.[ab]", 1..3);
    let namespaces = prop::option::of(prop::collection::vec("[xy*]{1,2}", 0..3));
    prop_oneof![
        12 => (0..40_usize, globs, 0..4_usize, namespaces).prop_map(|(n, globs, filter, own)| Change::Put(n, globs, filter, own)),
        3 => (0..40_usize).prop_map(Change::Remove),
        1 => Just(Change::Load),
    ]
}

proptest! {
    /// However they came: whoever takes an event by its own word is found, and nobody else.
    #[test]
    fn the_index_and_all_that_changed_since_find_who_a_plain_look_at_all_finds(
        changes in prop::collection::vec(change(), 0..260),
        r#type in r"[ab](\.[ab]){0,2}", namespace in prop::option::of("[xy*]{1,2}"), data in 0..3_usize,
    ) {
        let filters = [json!([]), json!([{"path": "$.data.k", "eq": "1"}]), json!([{"path": "$.data.k", "ne": "1"}]), json!([{"path": "$.data.k", "in": ["0", "1"]}])];
        let subscribers = Subscribers::default();
        let mut plainly: HashMap<Name, Subscriber> = HashMap::new();
        for change in changes {
            match change {
                Change::Put(n, globs, filter, own) => {
                    let globs: Vec<_> = globs.iter().map(String::as_str).collect();
                    let own = own.as_ref().map(|own| own.iter().map(String::as_str).collect::<Vec<_>>());
                    let one = subscriber(&format!("wh_{n}"), &globs, &filters[filter], own.as_deref());
                    plainly.insert(one.target.clone(), one.clone());
                    subscribers.put(one);
                }
                Change::Remove(n) => {
                    let target = format!("wh_{n}").as_str().into();
                    plainly.remove(&target);
                    subscribers.remove(&target);
                }
                Change::Load => subscribers.load(plainly.values().cloned().collect()),
            }
        }
        let event = of(&r#type, namespace.as_deref(), [r#"{"k": "0"}"#, r#"{"k": "1"}"#, "{}"][data]);
        let set = subscribers.now();
        let mut found: Vec<_> = set.taking(&event, &mut View::new(&event)).iter().map(|it| it.target.clone()).collect();
        let mut plain: Vec<_> = plainly.values().filter(|it| it.takes(&event, &mut View::new(&event))).map(|it| it.target.clone()).collect();
        found.sort();
        plain.sort();
        prop_assert_eq!(&found, &plain);
        let told = set.explain(&event);
        prop_assert_eq!((told.total, told.taking), (plainly.len(), plain.len()));
        for it in told.some {
            prop_assert_eq!(it.reason.is_none(), plain.contains(&it.subscription));
        }
        prop_assert!(plainly.values().all(|it| set.get(&it.target).is_some_and(|got| got.events == it.events)));
    }
}

#[test]
fn an_event_with_too_many_takers_goes_to_as_many_as_may_and_says_how_many_do_not_get_it() {
    let subscribers = Subscribers::default();
    subscribers.load((0..TAKERS_MAX + 3).map(|n| taker(&format!("wh_{n}"))).collect());
    let plan = router(&subscribers).plan(&sample());
    // The rule's own comes first, and counts by itself.
    assert_eq!((plan.deliveries.len(), plan.left_out), (1 + TAKERS_MAX, 3));
    assert_eq!(plan.deliveries[0].target.as_str(), "crm");
    assert!(plan.deliveries.len() < crate::store::N_MAX as usize);
}
