//! Which rules match an event, which subscriptions take it, and why. Pure: no async, no clock, no store.
//!
//! `match` is what an index answers (source, type, namespace); `when` is looked at only for rules whose `match` fits.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{
    clock::rfc3339_ms,
    config::decode::Words,
    envelope::{Envelope, Name},
    json,
    sign::sha256,
    store::{Endings, NewDelivery, Severity},
};

pub mod glob;
pub mod handling;
mod index;
pub mod overlap;
pub mod path;
mod rule;
pub mod subscribers;
pub mod when;
mod why;

use handling::{Audience, EndIndex};
use path::Path;
pub use rule::{Match, Rule, To};
pub use subscribers::{Subscribers, Taken, Takers};
pub use why::Why;

/// The source of the relay's own events, which only a rule that names it gets.
pub const OWN_SOURCE: &str = "hookyard";

/// The rules, made ready to plan with.
#[derive(Debug)]
pub struct Router {
    rules: Vec<Rule>,
    index: index::Index,
    unmatched: Vec<Name>,
    orders: HashMap<Name, Path>,
    audiences: HashMap<Name, Audience>,
    ends: EndIndex,
    subscribers: Subscribers,
    /// Whether any rule wants anything done with its deliveries before they go out.
    handles: bool,
}

/// What is to be done with an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// One delivery per target, in the order of the rules; those of subscriptions after them.
    pub deliveries: Vec<NewDelivery>,
    /// The rules that matched, in order, and behind them the subscriptions that take it. None: the verdict is `unmatched`.
    pub rules: Vec<Name>,
    /// What the event ends of deliveries that came before it, whether or not a rule matches it.
    pub endings: Endings,
    /// How many subscriptions take it beyond [`TAKERS_MAX`], and do not get it.
    pub left_out: usize,
}

/// Most subscriptions that get one event: the store keeps a bounded number of deliveries of each ([`crate::store::N_MAX`]), replays among
/// them, and an event with more takers than that must not be refused for it.
pub const TAKERS_MAX: usize = 50_000;

impl Router {
    /// Indexes `rules`; what none of them matches goes to `unmatched`. `orders` are the destinations that keep an order, and the
    /// path (`order_by`) to what they keep it by.
    pub fn new(rules: Vec<Rule>, unmatched: Vec<Name>, orders: Vec<(Name, Path)>) -> Self {
        let (index, ends) = (index::Index::new(&rules), EndIndex::new(&rules));
        let handles = rules.iter().any(|rule| rule.wanted.is_some());
        let orders = orders.into_iter().collect();
        let (audiences, subscribers) = (HashMap::new(), Subscribers::default());
        Self { rules, index, unmatched, orders, audiences, ends, subscribers, handles }
    }

    /// The same, planning for `subscribers` besides, whoever is among them when an event comes.
    pub fn with_subscribers(self, subscribers: Subscribers) -> Self {
        Self { subscribers, ..self }
    }

    /// The same, knowing who reads what destinations send: those that are not named send to the same people whatever the event.
    pub fn with_audiences(self, audiences: Vec<(Name, Audience)>) -> Self {
        Self { audiences: audiences.into_iter().collect(), ..self }
    }

    /// Plans the deliveries of `event`: every matching rule fires, top to bottom, until one says `stop`; one event reaches one
    /// target once, with the template of the first rule that names the target (`delivery.md`, "Two rules, one target"). Then every
    /// subscription that takes it, which no `stop` concerns. What neither wants goes where `unmatched` says.
    pub fn plan(&self, event: &Envelope) -> Plan {
        let mut view = View::new(event);
        let mut plan = self.fire(event, &mut view);
        let subscribers = self.subscribers.now();
        let taking = subscribers.taking(event, &mut view);
        plan.left_out = taking.len().saturating_sub(TAKERS_MAX);
        for subscriber in taking.into_iter().take(TAKERS_MAX) {
            plan.rules.push(subscriber.target.clone());
            let rule = Some(subscriber.target.clone());
            plan.deliveries.push(NewDelivery { rule, ..NewDelivery::to(subscriber.target.clone()) });
        }
        self.or_unmatched(plan, event, &mut view)
    }

    /// What the rules alone plan for `event`: where a file is held against another.
    pub fn plan_by_rules(&self, event: &Envelope) -> Plan {
        let mut view = View::new(event);
        let plan = self.fire(event, &mut view);
        self.or_unmatched(plan, event, &mut view)
    }

    /// Whether `event` may be sent to `target` on somebody's word, whatever the rules say: not to a subscription that it is none of the
    /// business of, nor to one that is gone, for whose heir this router cannot speak. Any other target may have any event.
    pub fn may_have(&self, target: &Name, event: &Envelope) -> bool {
        match self.subscribers.now().get(target) {
            Some(subscriber) => subscriber.may_have(event),
            None => !subscribers::is_id(target),
        }
    }

    /// Whether `target` is a subscription, rather than a destination of the file.
    pub fn is_subscription(&self, target: &Name) -> bool {
        self.subscribers.now().get(target).is_some()
    }

    fn fire(&self, event: &Envelope, view: &mut View<'_>) -> Plan {
        let mut plan = Plan::default();
        let mut fired = Vec::new();
        let candidates = self.index.candidates(event, view);
        for rule in candidates.into_iter().filter_map(|at| self.rules.get(at)) {
            if rule.matches.fits(event) && rule.when.iter().all(|condition| condition.holds(view.value())) {
                plan.add(rule);
                if self.handles {
                    fired.push(rule);
                }
                if rule.stop {
                    break;
                }
            }
        }
        self.order(&mut plan, view);
        if self.handles {
            self.handle(&mut plan, &fired, event, view);
            plan.endings = self.ends.endings(&self.rules, event, || view.value());
        }
        plan
    }

    fn or_unmatched(&self, mut plan: Plan, event: &Envelope, view: &mut View<'_>) -> Plan {
        if plan.rules.is_empty() && event.source.as_str() != OWN_SOURCE {
            plan.deliveries = self.unmatched.iter().map(|target| NewDelivery::to(target.clone())).collect();
            self.order(&mut plan, view);
        }
        plan
    }

    /// What the rules that fired want done with the deliveries before they go out.
    fn handle(&self, plan: &mut Plan, fired: &[&Rule], event: &Envelope, view: &mut View<'_>) {
        if !fired.iter().any(|rule| rule.wanted.is_some()) {
            return;
        }
        for planned in &mut plan.deliveries {
            let names = |rule: &&&Rule| rule.to.iter().any(|to| to.destination.value == planned.target);
            let rules: Vec<&Rule> = fired.iter().filter(names).copied().collect();
            let audience = self.audiences.get(&planned.target).unwrap_or(&Audience::Same);
            planned.handling = handling::handling(&rules, audience, event, view.value());
            if planned.handling.as_ref().is_some_and(|it| it.digest.is_some()) {
                // A digest lists its events in their order; one that waited for another would gather nothing.
                planned.order_key = None;
            }
        }
    }

    /// What a delivery of `event` to `target` is ordered by, for one that no rule planned (a replay).
    pub fn order_key(&self, event: &Envelope, target: &Name) -> Option<[u8; 16]> {
        order_key(self.orders.get(target)?, View::new(event).value())
    }

    /// The rules, top to bottom.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What deliveries to `target` are ordered by.
    pub fn order_path(&self, target: &Name) -> Option<&Path> {
        self.orders.get(target)
    }

    /// The rules of which `event` ends something that they planned before: a throttle's window (true), or deliveries that wait (false).
    pub fn ended_by(&self, event: &Envelope) -> Vec<(Name, bool)> {
        self.ends.ended(&self.rules, event, &to_value(event))
    }

    /// What the subscriptions make of `event`, some of them by name.
    pub fn explain_subscriptions(&self, event: &Envelope) -> Takers {
        self.subscribers.now().explain(event)
    }

    fn order(&self, plan: &mut Plan, view: &mut View<'_>) {
        if self.orders.is_empty() {
            return;
        }
        for planned in &mut plan.deliveries {
            planned.order_key = self.orders.get(&planned.target).and_then(|path| order_key(path, view.value()));
        }
    }
}

impl Plan {
    fn add(&mut self, rule: &Rule) {
        self.rules.push(rule.name.clone());
        for to in &rule.to {
            let target = &to.destination.value;
            match self.deliveries.iter_mut().find(|planned| planned.target == *target) {
                Some(planned) => planned.severity = planned.severity.max(rule.severity),
                None => self.deliveries.push(NewDelivery {
                    rule: Some(rule.name.clone()),
                    template: to.template.as_ref().map(|template| template.value.clone()),
                    severity: rule.severity,
                    ..NewDelivery::to(target.clone())
                }),
            }
        }
    }
}

/// The first half of SHA-256 over the text or number that `path` finds; `None` where it finds neither: not ordered.
fn order_key(path: &Path, event: &Value) -> Option<[u8; 16]> {
    let hash = sha256(&[path.text_in(event)?.as_bytes()]);
    hash.first_chunk().copied()
}

impl Words for Severity {
    const WORDS: &'static [(&'static str, Self)] = &Self::ALL;
}

/// The envelope as `$` of a rule, made when a condition first asks for it.
struct View<'e> {
    event: &'e Envelope,
    value: Option<Value>,
}

impl<'e> View<'e> {
    fn new(event: &'e Envelope) -> Self {
        Self { event, value: None }
    }

    fn value(&mut self) -> &Value {
        self.value.get_or_insert_with(|| to_value(self.event))
    }
}

/// The envelope as a tree, as rules (`$`) and templates (`event`) see it: the members of [`Envelope::to_json`].
pub fn to_value(event: &Envelope) -> Value {
    let mut map = Map::new();
    let mut put = |name: &str, value: &str| _ = map.insert(name.to_owned(), Value::from(value));
    put("specversion", "1.0");
    put("id", &event.id);
    put("source", &Envelope::source_uri(&event.source));
    put("type", &event.r#type);
    put("time", &event.time);
    put("timestamp", &event.timestamp);
    put("datacontenttype", crate::envelope::JSON);
    put("sourcekind", event.kind);
    put("receivedat", &rfc3339_ms(event.received_at));
    let optional = [("subject", &event.subject), ("namespace", &event.namespace), ("traceparent", &event.traceparent)];
    optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).for_each(|(name, value)| put(name, value));
    if event.replayed {
        map.insert("replayed".to_owned(), Value::Bool(true));
    }
    map.insert("data".to_owned(), json::lenient(event.data()));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{config::decode::Context, envelope::tests::sample};

    fn router(rules: Value) -> Router {
        let mut cx = Context::default();
        let Value::Array(rules) = rules else { panic!("a list") };
        let rules = rules.iter().enumerate().map(|(at, rule)| Rule::decode(at, &when::tests::node(rule), &mut cx).unwrap());
        let rules = rules.collect();
        assert!(!cx.failed(), "{:?}", cx.problems);
        Router::new(rules, vec!["fallback".into()], vec![("crm".into(), Path::parse("$.data.n").unwrap())])
    }

    fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        (plan.rules.iter().map(Name::as_str).collect(), plan.deliveries.iter().map(|d| d.target.as_str()).collect())
    }

    fn example() -> Router {
        router(json!([
            {"name": "reconnect", "match": {"type": ["credential.expired", "credential.revoked"]}, "to": ["mail", {"destination": "slack", "template": "short"}]},
            {"name": "large", "match": {"type": "workflow.instance.*", "namespace": "user_*"}, "when": [{"path": "$.data.amount", "gt": 1000}], "to": ["crm"]},
            {"name": "chatter", "match": {"source": "agents", "type": ["agent.message"]}, "to": ["n8n"], "stop": true},
            {"name": "audit", "match": {"type": "**"}, "to": ["crm", "slack"]},
            {"name": "own", "match": {"source": "hookyard", "type": "relay.**"}, "to": ["slack"]}
        ]))
    }

    #[test]
    fn every_match_fires_and_a_target_is_reached_once() {
        let plan = example().plan(&sample());
        assert_eq!(names(&plan), (vec!["reconnect", "audit"], vec!["mail", "slack", "crm"]));
        assert_eq!(plan.deliveries[1].template.as_deref(), Some("short"));
        assert_eq!(plan.deliveries[1].rule, Some("reconnect".into()));
    }

    #[test]
    fn two_rules_with_one_target_make_one_delivery_of_the_highest_severity() {
        let plan = router(json!([
            {"name": "a", "to": ["crm"]}, {"name": "b", "to": ["crm", "mail"], "severity": "critical"}, {"name": "c", "to": ["crm"], "severity": "warning"}
        ]))
        .plan(&sample());
        let severities: Vec<_> = plan.deliveries.iter().map(|it| (it.target.as_str(), it.severity)).collect();
        assert_eq!(severities, [("crm", Severity::Critical), ("mail", Severity::Critical)]);
    }

    #[test]
    fn targets_that_keep_an_order_get_a_key_of_what_their_path_finds() {
        let router = router(json!([{"name": "a", "to": ["crm", "mail"]}]));
        let keys = |data: &str| {
            let event = Envelope { body: data.to_owned().into(), data: Some(0..data.len()), ..sample() };
            let planned: Vec<_> = router.plan(&event).deliveries.into_iter().map(|it| it.order_key).collect();
            assert_eq!(router.order_key(&event, &"crm".into()), planned[0]);
            planned
        };
        let (one, same, other) = (keys(r#"{"n":"x"}"#), keys(r#"{"n":"x","m":2}"#), keys(r#"{"n":"y"}"#));
        assert!(one[0].is_some() && one[1].is_none());
        assert!(one == same && one != other);
        assert_eq!(keys(r#"{"n":{}}"#), [None, None]);
    }

    #[test]
    fn stop_ends_the_walk() {
        let event = Envelope { source: "agents".into(), r#type: "agent.message".into(), ..sample() };
        assert_eq!(names(&example().plan(&event)), (vec!["chatter"], vec!["n8n"]));
    }

    #[test]
    fn the_relays_own_events_go_only_to_rules_that_name_them() {
        let event = Envelope { source: OWN_SOURCE.into(), r#type: "relay.target.broken".into(), ..sample() };
        assert_eq!(names(&example().plan(&event)), (vec!["own"], vec!["slack"]));
        let nobody = router(json!([{"name": "all", "match": {"source": "*", "type": "**"}, "to": ["crm"]}]));
        assert_eq!(names(&nobody.plan(&event)), (vec![], vec![]));
    }

    #[test]
    fn what_no_rule_matches_goes_where_unmatched_says() {
        let plan = router(json!([{"name": "a", "match": {"type": "x"}, "to": ["crm"]}])).plan(&sample());
        assert_eq!(names(&plan), (vec![], vec!["fallback"]));
    }

    #[test]
    fn a_rule_may_match_and_send_nowhere() {
        let plan = router(json!([{"name": "a", "match": {"type": "credential.*"}, "to": []}])).plan(&sample());
        assert_eq!(names(&plan), (vec!["a"], vec![]));
    }

    #[test]
    fn the_view_of_rules_is_the_envelope_that_is_sent() {
        for event in
            [sample(), Envelope { replayed: true, namespace: None, traceparent: Some("00-1".into()), data: None, ..sample() }]
        {
            let sent: Value = serde_json::from_slice(&event.to_json()).unwrap();
            assert_eq!(to_value(&event), sent);
        }
    }

    /// Ten thousand rules of each shape, and how many are looked at for an event that few of them match.
    #[test]
    fn of_thousands_of_rules_few_are_looked_at() {
        const DATA: &str = r#"{"customer": "c8", "amount": 10}"#;
        let event = Envelope {
            r#type: "acme.t4.done".into(),
            namespace: Some("team-6-eu".into()),
            source: "source-7".into(),
            body: DATA.into(),
            data: Some(0..DATA.len()),
            ..sample()
        };
        let customer = |wanted: Value| json!([{"path": "$.data.amount", "gt": 1}, {"path": "$.data.customer", "eq": wanted}]);
        type Shape = Box<dyn Fn(usize) -> Value>;
        let shapes: Vec<(&str, Shape)> = vec![
            ("exact types", Box::new(|n| json!({"match": {"type": format!("acme.t{n}.done")}}))),
            ("beginnings", Box::new(|n| json!({"match": {"type": format!("acme.t{n}.*")}}))),
            ("beginnings and all below", Box::new(|n| json!({"match": {"type": format!("acme.t{n}.**")}}))),
            ("middles", Box::new(|n| json!({"match": {"type": format!("*.t{n}.*")}}))),
            ("middles of any depth", Box::new(|n| json!({"match": {"type": ["x.y", format!("**.t{n}.**")]}}))),
            ("ends", Box::new(|n| json!({"match": {"type": "acme.**", "namespace": format!("*-{n}-eu")}}))),
            ("half parts", Box::new(|n| json!({"match": {"type": "**", "namespace": format!("team-{n}-*")}}))),
            ("sources", Box::new(|n| json!({"match": {"source": format!("source-{n}"), "type": "acme.*.done"}}))),
            (
                "conditions",
                Box::new(move |n| json!({"match": {"type": "acme.*.done"}, "when": customer(json!(format!("c{n}")))})),
            ),
            (
                "conditions of a list",
                Box::new(
                    |n| json!({"match": {}, "when": [{"path": "$.data.customer", "in": [format!("c{n}"), format!("d{n}")]}]}),
                ),
            ),
        ];
        for (shape, rule) in shapes {
            let whole = |n: usize| {
                let mut rule = rule(n);
                rule["name"] = json!(format!("r{n}"));
                rule["to"] = json!(["crm"]);
                rule
            };
            let router = router(Value::from((0..10_000).map(whole).collect::<Vec<_>>()));
            let candidates = router.index.candidates(&event, &mut View::new(&event));
            let plan = router.plan(&event);
            assert_eq!((candidates.len(), plan.rules.len()), (1, 1), "{shape}: {candidates:?}");
        }
    }

    proptest! {
        #[test]
        fn the_index_leaves_out_no_rule_that_matches(
            rules in prop::collection::vec((r"[ab]|\*|\*\*|[ab]\.\*|[ab]\.[ab]|\*\.[ab]|[ab]\.\*\*|[ab]\*|\*[ab]|a\.\*\.b|\*\*\.[ab]\.\*", "(x|y|x\\*|\\*\\*|\\*x\\*|)", "(s|t|\\*|)", 0..5_usize), 0..60),
            r#type in r"[ab](\.[ab]){0,2}", namespace in prop::option::of("[xy]{1,2}"), source in "[st]", data in 0..3_usize,
        ) {
            let rules: Vec<_> = rules.iter().enumerate().map(|(n, (r#type, namespace, source, when))| {
                let mut matching = json!({"type": r#type});
                if !namespace.is_empty() { matching["namespace"] = json!([namespace]); }
                if !source.is_empty() { matching["source"] = json!(source); }
                let when = match when {
                    0 => json!([]),
                    1 => json!([{"path": "$.data.k", "eq": "0"}]),
                    2 => json!([{"path": "$.data.k", "in": ["1", "2"]}, {"path": "$.data.n", "eq": 1}]),
                    3 => json!([{"path": "$.data.k", "in": ["1", 2]}]),
                    _ => json!([{"not": {"path": "$.data.k", "eq": "1"}}]),
                };
                json!({"name": format!("r{n}"), "match": matching, "when": when, "to": ["crm"]})
            }).collect();
            let data = ["{\"k\": \"0\"}", "{\"k\": \"1\", \"n\": 1}", "{}"][data];
            let router = router(Value::from(rules));
            let event = Envelope { r#type, namespace, source: source.as_str().into(), body: data.into(), data: Some(0..data.len()), ..sample() };
            let seen = to_value(&event);
            let fits = |rule: &&Rule| rule.matches.fits(&event) && rule.when.iter().all(|condition| condition.holds(&seen));
            let plain: Vec<_> = router.rules.iter().filter(fits).map(|rule| rule.name.clone()).collect();
            prop_assert_eq!(&router.plan(&event).rules, &plain);
            let explained: Vec<_> = router.explain(&event).into_iter().filter(|why| why.matched).map(|why| why.rule).collect();
            prop_assert_eq!(explained, plain);
        }
    }
}
