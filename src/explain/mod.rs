//! What would become of an event: which rules fire and why the others do not, and for each target when it would get what.
//!
//! An event comes in (`event.rs`: as the relay sends it, as its sender does, or made up), an answer goes out that can be shown as it is:
//! no secret is in it. With a running relay (`by_relay`) it knows lanes, mutes, throttles and digests; with the file alone ([`ByFile`])
//! it says what it cannot know. Stays away from sockets, and changes nothing.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    clock::{Timestamp, rfc3339_ms},
    deliver::{
        Deliver,
        preview::{Fate, Preview},
    },
    envelope::Envelope,
    route::{self, Plan, Router, Rule, Why},
    store::{self, NewDelivery, Severity},
    telemetry::logs::plain,
};

pub mod backtest;
mod by_file;
pub mod event;
mod subscriptions;

pub use by_file::ByFile;
pub use subscriptions::SubscriptionsItem;

/// Longest order key that is shown, in characters.
const KEY_MAX: usize = 120;

/// The whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// The event that was asked about.
    event: EventItem,
    /// Hash of the configuration that answers.
    config: String,
    /// As of when.
    at: String,
    /// `matched`, or `unmatched`: no rule fires, and no subscription takes it.
    verdict: &'static str,
    /// Every rule, top to bottom.
    rules: Vec<RuleItem>,
    /// What it ends of deliveries that came before it: rules by name.
    ends: Vec<EndItem>,
    /// What the subscriptions make of it.
    subscriptions: SubscriptionsItem,
    /// Every target that it would reach.
    targets: Vec<TargetItem>,
    /// What cannot be known here, in a person's words.
    unknown: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedEvent)]
struct EventItem {
    id: String,
    source: String,
    r#type: String,
    namespace: Option<String>,
    subject: Option<String>,
    time: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedRule)]
struct RuleItem {
    rule: String,
    /// Its place among the rules, from 0.
    index: usize,
    matched: bool,
    reason: Option<String>,
    to: Vec<String>,
    stop: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedEnd)]
struct EndItem {
    rule: String,
    /// `throttle`: its window ends; `deliveries`: those that wait are cancelled.
    what: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedTarget)]
struct TargetItem {
    target: String,
    kind: &'static str,
    url: String,
    /// The rules that name it, or the subscription that it is; none: it is a target of `unmatched`.
    rules: Vec<String>,
    /// `now`, or the state that its delivery would be in.
    state: &'static str,
    cause: Option<&'static str>,
    until: Option<String>,
    reason: Option<String>,
    /// What comes once its lane goes, where that holds it now.
    then: Option<FateItem>,
    expires_at: Option<String>,
    severity: &'static str,
    /// The rule whose severity that is.
    severity_by: Option<String>,
    /// The named template; none: built in, or the destination's own text.
    template: Option<String>,
    /// `rule <name>` or `destination <name>`.
    template_by: Option<String>,
    /// What it is ordered by.
    order_key: Option<String>,
    recipients: Vec<String>,
    unaddressed: Option<String>,
    headers: Vec<HeaderItem>,
    content_type: String,
    /// The beginning of the body.
    body: String,
    body_bytes: usize,
    body_cut: bool,
    template_failed: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedFate)]
struct FateItem {
    state: &'static str,
    cause: Option<&'static str>,
    until: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedHeader)]
struct HeaderItem {
    name: String,
    value: String,
}

/// What the running relay would make of `event` if it came in `now`. Nothing changes by that.
pub async fn by_relay(
    router: &Router,
    deliver: &Deliver,
    config: &str,
    event: &Envelope,
    now: Timestamp,
) -> store::Result<Explanation> {
    let plan = router.plan(event);
    let mut previews = Vec::with_capacity(plan.deliveries.len());
    for planned in &plan.deliveries {
        let planned = without_ended(planned, &plan);
        previews.extend(deliver.preview(event, &planned).await?.map(|preview| (planned, preview)));
    }
    Ok(explanation(router, config, event, &plan, previews, now))
}

/// `planned` as it stands once the event itself has ended what it ends: a throttle whose window ended is not full.
fn without_ended(planned: &NewDelivery, plan: &Plan) -> NewDelivery {
    let mut planned = planned.clone();
    if let Some(handling) = &mut planned.handling
        && handling.throttles.iter().any(|throttle| plan.endings.resets.contains(&throttle.key))
    {
        handling.throttles.clear();
    }
    planned
}

fn explanation(
    router: &Router,
    config: &str,
    event: &Envelope,
    plan: &Plan,
    previews: Vec<(NewDelivery, Preview)>,
    now: Timestamp,
) -> Explanation {
    let fired: Vec<Why> = router.explain(event);
    let rules: Vec<(&Rule, &Why)> = router.rules().iter().zip(&fired).collect();
    let matched: Vec<&Rule> = rules.iter().filter(|(_, why)| why.matched).map(|(rule, _)| *rule).collect();
    Explanation {
        event: EventItem::new(event),
        config: config.to_owned(),
        at: rfc3339_ms(now),
        verdict: if plan.rules.is_empty() { "unmatched" } else { "matched" },
        ends: ends(router, event),
        subscriptions: router.explain_subscriptions(event).into(),
        targets: previews.into_iter().map(|(planned, preview)| target(router, event, &matched, &planned, preview)).collect(),
        rules: rules.into_iter().map(|(rule, why)| RuleItem::new(rule, why)).collect(),
        unknown: Vec::new(),
    }
}

fn ends(router: &Router, event: &Envelope) -> Vec<EndItem> {
    let ended = router.ended_by(event).into_iter();
    ended
        .map(|(rule, throttle)| EndItem { rule: rule.to_string(), what: if throttle { "throttle" } else { "deliveries" } })
        .collect()
}

fn target(router: &Router, event: &Envelope, matched: &[&Rule], planned: &NewDelivery, preview: Preview) -> TargetItem {
    let naming = |rule: &&&Rule| rule.to.iter().any(|to| to.destination.value == planned.target);
    let rules: Vec<&Rule> = matched.iter().filter(naming).copied().collect();
    let mut by: Vec<String> = rules.iter().map(|rule| rule.name.to_string()).collect();
    if by.is_empty() {
        by.extend(planned.rule.iter().map(ToString::to_string));
    }
    let gravest = rules.iter().find(|rule| rule.severity == planned.severity);
    let (template, template_by) = template(planned, &preview);
    let Preview { target, kind, url, held, fate, expires_at, request, .. } = preview;
    let (first, then) = match held {
        Some(held) => (held, (fate.state != "now").then_some(fate)),
        None => (fate, None),
    };
    TargetItem {
        target: target.to_string(),
        kind,
        url,
        rules: by,
        state: first.state,
        cause: first.cause,
        until: first.until.map(rfc3339_ms),
        reason: first.reason,
        then: then.map(FateItem::from),
        expires_at: expires_at.map(rfc3339_ms),
        severity: word(planned.severity),
        severity_by: gravest.map(|rule| rule.name.to_string()),
        template,
        template_by,
        order_key: order_key(router, event, planned),
        recipients: request.recipients,
        unaddressed: request.unaddressed,
        headers: request.headers.into_iter().map(|(name, value)| HeaderItem { name, value }).collect(),
        content_type: request.content_type,
        body: request.body,
        body_bytes: request.size,
        body_cut: request.cut,
        template_failed: request.template_failed,
    }
}

fn word(severity: Severity) -> &'static str {
    Severity::ALL.iter().find(|(_, known)| *known == severity).map_or("info", |(word, _)| word)
}

/// The template that counts, and whose it is.
fn template(planned: &NewDelivery, preview: &Preview) -> (Option<String>, Option<String>) {
    match (&planned.template, &preview.template) {
        (Some(name), _) => (Some(name.clone()), planned.rule.as_ref().map(|rule| format!("rule {rule}"))),
        (None, Some(name)) => (Some(name.clone()), Some(format!("destination {}", preview.target))),
        (None, None) => (None, None),
    }
}

/// What stands at `order_by`, where its delivery is ordered at all.
fn order_key(router: &Router, event: &Envelope, planned: &NewDelivery) -> Option<String> {
    planned.order_key?;
    let text = router.order_path(&planned.target)?.text_in(&route::to_value(event))?;
    Some(plain(&text.chars().take(KEY_MAX).collect::<String>()))
}

impl EventItem {
    fn new(event: &Envelope) -> Self {
        Self {
            id: event.id.clone(),
            source: event.source.to_string(),
            r#type: event.r#type.clone(),
            namespace: event.namespace.clone(),
            subject: event.subject.clone(),
            time: event.time.clone(),
        }
    }
}

impl RuleItem {
    fn new(rule: &Rule, why: &Why) -> Self {
        Self {
            rule: why.rule.to_string(),
            index: why.index,
            matched: why.matched,
            reason: why.reason.clone(),
            to: rule.to.iter().map(|to| to.destination.value.to_string()).collect(),
            stop: rule.stop,
        }
    }
}

impl From<Fate> for FateItem {
    fn from(fate: Fate) -> Self {
        Self { state: fate.state, cause: fate.cause, until: fate.until.map(rfc3339_ms), reason: fate.reason }
    }
}
