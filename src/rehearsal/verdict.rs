//! Whether what came of a test is what it expects; and where not, what came instead, and why as far as that is known.

use super::{
    NOW, Played, PlayedDelivery, Rehearsal, event, said,
    section::{Expect, Renders, Test},
};
use crate::{
    clock::{Timestamp, rfc3339_s},
    config::{decode::Located, tree::Place},
    envelope::Name,
    store::{self, State},
};

/// Most lines of a message that are shown to somebody who looked for something else in it.
const SHOWN_MAX: usize = 12;
/// Longest of them, in characters.
const LINE_MAX: usize = 160;

/// A test that was run.
#[derive(Debug, Clone)]
pub struct Performed {
    /// What it is called.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// What is not as expected; nothing: it passes.
    pub failed: Vec<Failed>,
    /// What became of its events.
    pub played: Vec<Played>,
}

/// An expectation that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The expectation: `rules`, `states.ops-slack`.
    pub what: String,
    /// Where it stands.
    pub place: Place,
    /// What is expected and what came, item by item.
    pub items: Vec<(Mark, String)>,
    /// What there is to say besides: the message that was looked at.
    pub beside: Vec<String>,
}

/// Where an item was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Expected, and there.
    Both,
    /// Expected, and not there.
    Expected,
    /// There, and not expected.
    Got,
}

/// Runs `test`. The error is the store's.
pub async fn perform(rehearsal: &Rehearsal, test: &Test) -> store::Result<Performed> {
    let done = |failed, played| Performed { name: test.name.clone(), place: test.place, failed, played };
    let now = test.now.unwrap_or_else(default_now);
    let events = (0..test.times).map(|index| event::envelope(&test.event, index, &rehearsal.sources, now));
    let events = match events.collect::<Result<Vec<_>, _>>() {
        Ok(events) => events,
        Err(reason) => return Ok(done(vec![no_event(test, reason)], Vec::new())),
    };
    let played = rehearsal.play(events, now, !test.expect.renders.is_empty()).await?;
    Ok(done(failed(rehearsal, &test.expect, &played), played))
}

fn default_now() -> Timestamp {
    // Written here, and read in a test.
    NOW.parse().unwrap_or_default()
}

fn no_event(test: &Test, reason: String) -> Failed {
    let items = vec![(Mark::Expected, "an event".to_owned()), (Mark::Got, format!("its source takes no such thing: {reason}"))];
    Failed { what: "event".to_owned(), place: test.place, items, beside: Vec::new() }
}

/// What of `expect` is not so. Rules, targets, states and messages are those of the first event.
fn failed(rehearsal: &Rehearsal, expect: &Expect, played: &[Played]) -> Vec<Failed> {
    let Some(first) = played.first() else { return Vec::new() };
    let mut failed = Vec::new();
    failed.extend(expect.rules.as_ref().and_then(|wanted| rules(rehearsal, wanted, first)));
    failed.extend(expect.to.as_ref().and_then(|wanted| targets(wanted, first)));
    failed.extend(expect.states.iter().filter_map(|(target, wanted)| state(target, wanted, first)));
    failed.extend(expect.suppressed.as_ref().and_then(|wanted| suppressed(wanted, played)));
    failed.extend(expect.renders.iter().flat_map(|(target, wanted)| renders(target, wanted, first)));
    failed
}

/// All rules that match, in the order of the file.
fn rules(rehearsal: &Rehearsal, wanted: &Located<Vec<Name>>, first: &Played) -> Option<Failed> {
    if wanted.value == first.rules {
        return None;
    }
    let (mut items, mut beside) = (compared(&wanted.value, &first.rules), Vec::new());
    if items.iter().all(|(mark, _)| *mark == Mark::Both) {
        let order: Vec<_> = first.rules.iter().map(Name::as_str).collect();
        items.clear();
        let listed: Vec<_> = wanted.value.iter().map(Name::as_str).collect();
        items.extend([(Mark::Expected, listed.join(", ")), (Mark::Got, order.join(", "))]);
        beside.push("rules match in the order of the file, each once".to_owned());
    }
    let why = rehearsal.explain(&first.event);
    for (_, item) in items.iter_mut().filter(|(mark, _)| *mark == Mark::Expected) {
        if let Some(reason) = why.iter().find(|why| why.rule.as_str() == item).and_then(|why| why.reason.as_deref()) {
            *item = format!("{item}: {reason}");
        }
    }
    Some(Failed { what: "rules".to_owned(), place: wanted.place, items, beside })
}

/// All targets that are reached, in any order.
fn targets(wanted: &Located<Vec<Name>>, first: &Played) -> Option<Failed> {
    let got: Vec<_> = first.deliveries.iter().map(|delivery| delivery.target.clone()).collect();
    let mut items = compared(&wanted.value, &got);
    if items.iter().all(|(mark, _)| *mark == Mark::Both) {
        return None;
    }
    for (_, item) in items.iter_mut().filter(|(mark, _)| *mark == Mark::Got) {
        let rule = first.deliveries.iter().find(|it| it.target.as_str() == item).and_then(|it| it.rule.as_ref());
        *item = match rule {
            Some(rule) => format!("{item}: by rule {rule}"),
            None => format!("{item}: by `unmatched`"),
        };
    }
    Some(Failed { what: "to".to_owned(), place: wanted.place, items, beside: Vec::new() })
}

/// What is in both, in `wanted` only, in `got` only.
fn compared(wanted: &[Name], got: &[Name]) -> Vec<(Mark, String)> {
    let mut items: Vec<(Mark, String)> = Vec::new();
    for name in wanted {
        let mark = if got.contains(name) { Mark::Both } else { Mark::Expected };
        items.push((mark, name.to_string()));
    }
    let mut seen: Vec<&Name> = Vec::new();
    for name in got.iter().filter(|name| !wanted.contains(name)) {
        if !seen.contains(&name) {
            items.push((Mark::Got, name.to_string()));
            seen.push(name);
        }
    }
    items
}

fn to<'p>(target: &Name, first: &'p Played) -> Option<&'p PlayedDelivery> {
    first.deliveries.iter().find(|delivery| delivery.target == *target)
}

fn state(target: &Name, wanted: &Located<State>, first: &Played) -> Option<Failed> {
    let delivery = to(target, first);
    if delivery.is_some_and(|it| it.state == wanted.value) {
        return None;
    }
    let got = delivery.map_or_else(|| nothing_for(target, first), told);
    let items = vec![(Mark::Expected, wanted.value.word().to_owned()), (Mark::Got, got)];
    Some(Failed { what: format!("states.{target}"), place: wanted.place, items, beside: Vec::new() })
}

fn nothing_for(target: &Name, first: &Played) -> String {
    let rules: Vec<_> = first.rules.iter().map(Name::as_str).collect();
    match rules.is_empty() {
        true => format!("no delivery to {target}: no rule matches"),
        false => format!("no delivery to {target}: none of these rules sends there: {}", rules.join(", ")),
    }
}

/// `held until 2026-01-21T06:00:00Z (quiet)`.
fn told(it: &PlayedDelivery) -> String {
    let until = it.until.map(|at| format!(" until {}", rfc3339_s(at))).unwrap_or_default();
    let cause = it.cause.map(|cause| format!(" ({})", cause.word())).unwrap_or_default();
    let detail = it.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{until}{cause}{detail}", it.state.word())
}

/// The same, and what becomes of it when it has waited.
fn told_to_the_end(it: &PlayedDelivery) -> String {
    match &it.ends {
        Some((state, Some(reason))) => format!("{}, then {}: {reason}", told(it), state.word()),
        Some((state, None)) if *state != it.state => format!("{}, then {}", told(it), state.word()),
        _ => told(it),
    }
}

fn suppressed(wanted: &Located<u32>, played: &[Played]) -> Option<Failed> {
    let all = played.iter().flat_map(|played| played.deliveries.iter().map(move |delivery| (played, delivery)));
    let them: Vec<_> = all.filter(|(_, it)| it.state == State::Suppressed).collect();
    if u32::try_from(them.len()).is_ok_and(|count| count == wanted.value) {
        return None;
    }
    let items = vec![(Mark::Expected, wanted.value.to_string()), (Mark::Got, them.len().to_string())];
    let told = them.iter().map(|(played, it)| format!("{} to {}: {}", played.event.id, it.target, told(it)));
    let beside = told.take(SHOWN_MAX).collect();
    Some(Failed { what: "suppressed".to_owned(), place: wanted.place, items, beside })
}

fn renders(target: &Name, wanted: &Renders, first: &Played) -> Vec<Failed> {
    let what = format!("renders.{target}");
    let Some(sent) = to(target, first).and_then(|it| it.sent.as_ref()) else {
        let got = to(target, first).map_or_else(|| nothing_for(target, first), told_to_the_end);
        let items = vec![(Mark::Expected, "a message".to_owned()), (Mark::Got, format!("nothing is sent: {got}"))];
        return vec![Failed { what, place: wanted.place, items, beside: Vec::new() }];
    };
    let (all, shown) = (said::searchable(sent), said::shown(sent));
    let fail = |place, items: Vec<(Mark, String)>| Failed { what: what.clone(), place, items, beside: excerpt(&shown) };
    let mut failed = Vec::new();
    for text in wanted.contains.iter().filter(|text| !all.contains(text.value.as_str())) {
        failed.push(fail(text.place, vec![(Mark::Expected, format!("contains {:?}", text.value))]));
    }
    for text in wanted.not_contains.iter().filter(|text| all.contains(text.value.as_str())) {
        failed.push(fail(text.place, vec![(Mark::Got, format!("contains {:?}", text.value))]));
    }
    let subject = sent.message.as_ref().map_or("", |message| message.subject.as_str());
    if let Some(wanted) = wanted.subject.as_ref().filter(|wanted| wanted.value != subject) {
        let items = vec![(Mark::Expected, format!("subject {:?}", wanted.value)), (Mark::Got, format!("subject {subject:?}"))];
        failed.push(Failed { beside: Vec::new(), ..fail(wanted.place, items) });
    }
    failed
}

/// The beginning of a message. What came with an event may hold anything: nothing of it reaches a terminal as a control character.
fn excerpt(shown: &str) -> Vec<String> {
    let lines: Vec<&str> = shown.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let clean = |line: &&str| {
        let mut text: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(LINE_MAX).collect();
        if LINE_MAX < line.chars().count() {
            text.push('…');
        }
        text
    };
    let mut all: Vec<_> = lines.iter().take(SHOWN_MAX).map(clean).collect();
    if SHOWN_MAX < lines.len() {
        all.push(format!("… and {} more lines", lines.len() - SHOWN_MAX));
    }
    all
}
