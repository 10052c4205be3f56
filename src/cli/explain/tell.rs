//! The answer for people: a line per rule, a few per target. Whatever came with the event is escaped.

use serde_json::Value;

use crate::{
    cli::output::{self, cell},
    telemetry::logs::plain,
};

/// With more rules than these, those that are far from firing are counted only.
const RULES_MAX: usize = 40;
/// Lines of a body that are shown, and characters of each.
const LINES: usize = 12;
const LINE_MAX: usize = 120;
/// What begins a line that was left off.
const MORE: &str = "…";

/// Prints `answer`.
pub(super) fn tell(answer: &Value, colour: bool, full: bool) {
    output::raw(&told(answer, &Paint(colour), full));
}

/// Colours, or none.
struct Paint(bool);

impl Paint {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// The state of a delivery: what goes now is good news, what is not sent is not.
    fn state(&self, state: &str) -> String {
        let code = match state {
            "now" => "32",
            "suppressed" | "expired" => "31",
            _ => "33",
        };
        self.paint(code, state)
    }
}

fn told(answer: &Value, paint: &Paint, full: bool) -> String {
    let event = &answer["event"];
    let mut lines = vec![format!("{}  {}", paint.bold(&text(event, "type")), about(event))];
    lines.push(paint.faint(&format!("by config {}, as of {}", text(answer, "config"), time(answer, "at"))));
    lines.extend(["".to_owned(), paint.bold("rules")]);
    rules(list(answer, "rules"), paint, full, &mut lines);
    if list(answer, "rules").is_empty() {
        lines.push("  none".to_owned());
    }
    lines.extend(list(answer, "ends").iter().map(end));
    subscriptions(&answer["subscriptions"], paint, &mut lines);
    let unmatched = answer["verdict"] == "unmatched";
    if unmatched {
        lines.push(if list(answer, "targets").is_empty() {
            "  no rule fires, no subscription takes it: it is kept, and goes nowhere".to_owned()
        } else {
            "  no rule fires, no subscription takes it: it goes where `unmatched` says".to_owned()
        });
    }
    if !list(answer, "targets").is_empty() {
        lines.extend(["".to_owned(), paint.bold("targets")]);
        list(answer, "targets").iter().for_each(|it| target(it, paint, full, &mut lines));
    }
    for unknown in list(answer, "unknown") {
        lines.extend(["".to_owned(), paint.faint(&plain(unknown.as_str().unwrap_or_default()))]);
    }
    lines.join("\n")
}

/// `evt_003 from interactor, namespace user_123, subject cred_abc`.
fn about(event: &Value) -> String {
    let more = ["namespace", "subject"].map(|name| (name, text(event, name)));
    let more: String = more.iter().filter(|(_, it)| it != "-").map(|(name, it)| format!(", {name} {it}")).collect();
    format!("{} from {}{more}", text(event, "id"), text(event, "source"))
}

/// Every rule; of very many those that fire, and those that came nearest.
fn rules(all: &[Value], paint: &Paint, full: bool, lines: &mut Vec<String>) {
    let far = |it: &&Value| it["matched"] != true && !it["reason"].as_str().is_some_and(|why| why.starts_with("when["));
    let few = full || all.len() <= RULES_MAX;
    let (shown, others): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|it| few || !far(it));
    lines.extend(shown.into_iter().map(|it| rule(it, paint)));
    if !others.is_empty() {
        let others = others.len();
        lines.push(paint.faint(&format!(
            "  ✗ {others} more that do not fit its source, type or namespace, or come behind a stop: --full shows them"
        )));
    }
}

fn rule(rule: &Value, paint: &Paint) -> String {
    let name = text(rule, "rule");
    if rule["matched"] == true {
        let to: Vec<_> = list(rule, "to").iter().filter_map(Value::as_str).map(plain).collect();
        let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
        let stop = if rule["stop"] == true { "; stops here" } else { "" };
        return format!("  {} {name} → {to}{stop}", paint.good("✓"));
    }
    format!("  {} {name}: {}", paint.paint("31", "✗"), paint.faint(&text(rule, "reason")))
}

/// Those that take it, and some that do not.
fn subscriptions(answer: &Value, paint: &Paint, lines: &mut Vec<String>) {
    let total = answer["total"].as_u64().unwrap_or_default();
    if total == 0 {
        return;
    }
    let taking = answer["taking"].as_u64().unwrap_or_default();
    lines.extend(["".to_owned(), format!("{}  {taking} of {total} take it", paint.bold("subscriptions"))]);
    let some = list(answer, "some");
    lines.extend(some.iter().map(|it| {
        let name = text(it, "subscription");
        match it["takes"] == true {
            true => format!("  {} {name}", paint.good("✓")),
            false => format!("  {} {name}: {}", paint.paint("31", "✗"), paint.faint(&text(it, "reason"))),
        }
    }));
    if let Some(more @ 1..) = total.checked_sub(some.len() as u64) {
        lines.push(paint.faint(&format!("  {MORE} {more} more")));
    }
}

fn end(end: &Value) -> String {
    let what = match end["what"].as_str() {
        Some("throttle") => "ends the throttle's window of that key",
        _ => "cancels what waits for that key",
    };
    format!("  it {what}, of rule {}", text(end, "rule"))
}

fn target(target: &Value, paint: &Paint, full: bool, lines: &mut Vec<String>) {
    lines.push(format!("  {}  {}", paint.bold(&text(target, "target")), fate(target, paint)));
    if target["then"].is_object() {
        lines.push(format!("      then {}", fate(&target["then"], paint)));
    }
    lines.push(format!("      {} {}{}", text(target, "kind"), text(target, "url"), recipients(target)));
    lines.push(format!("      {}", facts(target)));
    if target["template_failed"].is_string() {
        lines.push(format!("      {}", paint.paint("31", &text(target, "template_failed"))));
    }
    headers(target, full, lines);
    body(target, paint, full, lines);
}

/// `held until 2026-01-21T06:00:00.000Z (quiet): quiet hours nights`.
fn fate(it: &Value, paint: &Paint) -> String {
    let mut said = paint.state(&text(it, "state"));
    let until = time(it, "until");
    if until != "-" {
        said += &match it["cause"].as_str() {
            Some("broken") => format!(", probed at {until}"),
            _ => format!(" until {until}"),
        };
    }
    let (cause, reason) = (text(it, "cause"), text(it, "reason"));
    if cause != "-" {
        said += &format!(" ({cause})");
    }
    if reason == "-" { said } else { format!("{said}: {reason}") }
}

fn recipients(target: &Value) -> String {
    let to: Vec<_> = list(target, "recipients").iter().filter_map(Value::as_str).map(plain).collect();
    match target["unaddressed"].as_str() {
        Some(why) => format!(" to nobody: {}", plain(why)),
        None if to.is_empty() => String::new(),
        None => format!(" to {}", to.join(", ")),
    }
}

/// `info, by rule everything; template short (rule reconnect); ordered by inst_1; until 2026-…`.
fn facts(target: &Value) -> String {
    let mut facts = text(target, "severity");
    let rules: Vec<_> = list(target, "rules").iter().filter_map(Value::as_str).map(plain).collect();
    match rules.as_slice() {
        [] => {}
        [one] => facts += &format!(", by rule {one}"),
        [first, ..] => {
            facts += &format!(" of rule {}, text of rule {first}, by rules {}", text(target, "severity_by"), rules.join(", "));
        }
    }
    let (template, by) = (text(target, "template"), text(target, "template_by"));
    if template != "-" {
        facts += &format!("; template {template} of {by}");
    }
    for (name, words) in [("order_key", "ordered by"), ("expires_at", "not worth sending after")] {
        let said = if name == "order_key" { text(target, name) } else { time(target, name) };
        if said != "-" {
            facts += &format!("; {words} {said}");
        }
    }
    facts
}

fn headers(target: &Value, full: bool, lines: &mut Vec<String>) {
    let headers = list(target, "headers");
    if headers.is_empty() {
        return;
    }
    if full {
        lines.extend(headers.iter().map(|it| format!("      {}: {}", text(it, "name"), text(it, "value"))));
        return;
    }
    let names: Vec<_> = headers.iter().map(|it| text(it, "name")).collect();
    lines.push(format!("      headers {}", names.join(" ")));
}

/// The beginning of the body, or all of it that is there.
fn body(target: &Value, paint: &Paint, full: bool, lines: &mut Vec<String>) {
    let content_type = text(target, "content_type");
    lines.push(format!("      {} bytes of {content_type}", text(target, "body_bytes")));
    let body = target["body"].as_str().unwrap_or_default();
    // JSON is easier to read in lines; what is cut is none.
    let json = serde_json::from_str::<Value>(body).ok().filter(|it| it.is_object() || it.is_array());
    let body = json.map_or_else(|| body.to_owned(), |json| format!("{json:#}"));
    let (most, widest) = if full { (usize::MAX, usize::MAX) } else { (LINES, LINE_MAX) };
    let mut left = body.lines();
    let bar = paint.faint("│");
    for line in left.by_ref().take(most) {
        let shown: String = line.chars().take(widest).collect();
        let more = if shown.len() < line.len() { MORE } else { "" };
        lines.push(format!("      {bar} {}{more}", plain(&shown)).trim_end().to_owned());
    }
    if left.next().is_some() || (full && target["body_cut"] == true) {
        lines.push(format!("      {bar} {MORE}"));
    }
}

fn list<'v>(thing: &'v Value, name: &str) -> &'v [Value] {
    thing[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(thing: &Value, name: &str) -> String {
    plain(&cell(thing, name))
}

/// A time without its milliseconds.
fn time(thing: &Value, name: &str) -> String {
    let text = text(thing, name);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer() -> Value {
        json!({
            "event": {"id": "evt_003", "source": "interactor", "type": "credential.expired", "namespace": "user_123", "subject": null},
            "config": "3f9a1c2b4d5e", "at": "2026-01-20T22:30:00.000Z", "verdict": "matched",
            "rules": [
                {"rule": "reconnect", "index": 0, "matched": true, "reason": null, "to": ["mail", "ops"], "stop": false},
                {"rule": "failed", "index": 1, "matched": false, "reason": "type is credential.expired, wanted workflow.failed", "to": [], "stop": false},
                {"rule": "quietly", "index": 2, "matched": true, "reason": null, "to": [], "stop": true},
            ],
            "ends": [{"rule": "reconnect", "what": "throttle"}],
            "subscriptions": {"total": 3, "taking": 1, "some": [
                {"subscription": "wh_a", "takes": true, "reason": null},
                {"subscription": "wh_b", "takes": false, "reason": "namespace is absent, wanted user\u{1b}[2J"}]},
            "targets": [
                {"target": "mail", "kind": "email", "url": "smtps://smtp.example.com:465", "rules": ["reconnect"], "state": "now",
                 "cause": null, "until": null, "reason": null, "then": null, "severity": "info", "severity_by": "reconnect",
                 "recipients": ["dana@example.com"], "headers": [], "content_type": "text/plain", "body": "Subject: x\u{1b}[2J\n\nline", "body_bytes": 30},
                {"target": "ops", "kind": "slack", "url": "https://hooks.slack.com/***", "rules": ["reconnect", "failed"], "state": "held",
                 "cause": "paused", "until": null, "reason": "by admin", "severity": "critical", "severity_by": "failed",
                 "then": {"state": "held", "cause": "quiet", "until": "2026-01-21T06:00:00.000Z", "reason": "quiet hours `nights`"},
                 "template": "short", "template_by": "rule reconnect", "order_key": "inst_1", "expires_at": null, "recipients": [],
                 "headers": [{"name": "webhook-signature", "value": "***"}], "content_type": "application/json",
                 "body": "x".repeat(200), "body_bytes": 200},
            ],
            "unknown": ["nothing is known of pauses"],
        })
    }

    #[test]
    fn one_can_read_it_at_a_glance() {
        insta::assert_snapshot!(told(&answer(), &Paint(false), false), @r#"
        credential.expired  evt_003 from interactor, namespace user_123
        by config 3f9a1c2b4d5e, as of 2026-01-20T22:30:00Z

        rules
          ✓ reconnect → mail, ops
          ✗ failed: type is credential.expired, wanted workflow.failed
          ✓ quietly → nowhere; stops here
          it ends the throttle's window of that key, of rule reconnect

        subscriptions  1 of 3 take it
          ✓ wh_a
          ✗ wh_b: namespace is absent, wanted user\u{1b}[2J
          … 1 more

        targets
          mail  now
              email smtps://smtp.example.com:465 to dana@example.com
              info, by rule reconnect
              30 bytes of text/plain
              │ Subject: x\u{1b}[2J
              │
              │ line
          ops  held (paused): by admin
              then held until 2026-01-21T06:00:00Z (quiet): quiet hours `nights`
              slack https://hooks.slack.com/***
              critical of rule failed, text of rule reconnect, by rules reconnect, failed; template short of rule reconnect; ordered by inst_1
              headers webhook-signature
              200 bytes of application/json
              │ xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…

        nothing is known of pauses
        "#);
    }

    #[test]
    fn colours_are_the_only_difference_of_a_terminal() {
        let coloured = told(&answer(), &Paint(true), false);
        assert!(coloured.contains("\u{1b}[32m✓\u{1b}[0m"));
        let mut plain = coloured;
        for code in ["0", "1", "2", "31", "32", "33"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_eq!(plain, told(&answer(), &Paint(false), false));
        assert!(!plain.contains('\u{1b}'), "what came with the event acts on nothing");
    }

    #[test]
    fn of_very_many_rules_those_that_are_near_are_shown() {
        let rule = |n: usize| match n {
            700 => json!({"rule": "fires", "matched": true, "to": ["crm"]}),
            800 => json!({"rule": "near", "matched": false, "reason": "when[0]: $.a is 1, wanted 2"}),
            n => json!({"rule": format!("r{n}"), "matched": false, "reason": "type is a, wanted b"}),
        };
        let answer = json!({"event": {}, "verdict": "matched", "rules": (0..1000).map(rule).collect::<Vec<_>>(), "targets": []});
        let short = told(&answer, &Paint(false), false);
        assert!(short.contains("✓ fires → crm") && short.contains("✗ near: when[0]") && short.contains("998 more"), "{short}");
        assert!(short.lines().count() < 10 && 1000 < told(&answer, &Paint(false), true).lines().count());
    }

    #[test]
    fn what_no_rule_matches_is_said() {
        let nothing = json!({"event": {}, "verdict": "unmatched", "rules": [], "targets": []});
        assert!(told(&nothing, &Paint(false), true).contains("it is kept, and goes nowhere"));
    }
}
