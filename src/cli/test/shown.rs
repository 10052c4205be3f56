//! The results of tests, as people read them and as machines do.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Ran, Report};
use crate::{
    clock::rfc3339_s,
    config::report,
    rehearsal::{Failed, Mark, Performed, Played},
    telemetry::logs::plain,
};

/// What a terminal makes of a text between these and [`END`].
const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const DIM: &str = "\u{1b}[2m";
const END: &str = "\u{1b}[0m";

/// A line per test; below one that fails, what differs: `-` was expected, `+` came instead.
pub(super) fn text(report: &Report, colour: bool) -> String {
    let paint = |paint: &str, text: &str| if colour { format!("{paint}{text}{END}") } else { text.to_owned() };
    let mut out = String::new();
    for Ran { performed, .. } in &report.ran {
        let word = if performed.failed.is_empty() { paint(GREEN, "ok  ") } else { paint(RED, "FAIL") };
        // Writing into memory cannot fail.
        let _ = writeln!(out, "{word}  {}", plain(&performed.name));
        for failed in &performed.failed {
            let _ = writeln!(out, "      {} {}", failed.what, paint(DIM, &format!("--> {}", place(report, failed))));
            for (mark, item) in &failed.items {
                let line = format!("{} {}", sign(*mark), plain(item));
                let line = match mark {
                    Mark::Both => line,
                    Mark::Expected => paint(RED, &line),
                    Mark::Got => paint(GREEN, &line),
                };
                let _ = writeln!(out, "        {line}");
            }
            for line in &failed.beside {
                let _ = writeln!(out, "        {}", paint(DIM, &format!("| {}", plain(line))));
            }
        }
    }
    let _ = write!(out, "{}", summary(report));
    out
}

fn sign(mark: Mark) -> char {
    match mark {
        Mark::Both => ' ',
        Mark::Expected => '-',
        Mark::Got => '+',
    }
}

/// `routes.yaml:150:29`.
fn place(report: &Report, failed: &Failed) -> String {
    let (file, line, col) = report::spot(&report.loaded, failed.place);
    format!("{file}:{line}:{col}")
}

fn summary(report: &Report) -> String {
    let (all, failed) = (report.ran.len(), failures(report));
    let file = report.loaded.files.path().display();
    let tests = if all == 1 { "1 test".to_owned() } else { format!("{all} tests") };
    match failed {
        0 => format!("{file}: {tests}, all as expected"),
        failed => format!("{file}: {tests}, {failed} failed (- was expected, + came instead)"),
    }
}

/// How many tests failed.
pub(super) fn failures(report: &Report) -> usize {
    report.ran.iter().filter(|it| !it.performed.failed.is_empty()).count()
}

/// What a failed expectation says, in lines, for reports of others.
pub(super) fn told(report: &Report, failed: &Failed) -> String {
    let mut out = format!("{} at {}\n", failed.what, place(report, failed));
    for (mark, item) in &failed.items {
        let _ = writeln!(out, "{} {}", sign(*mark), plain(item));
    }
    for line in &failed.beside {
        let _ = writeln!(out, "| {}", plain(line));
    }
    out
}

/// What was not as it will be in the relay, for people.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if !report.stand_ins.is_empty() {
        let names: Vec<_> = report.stand_ins.iter().map(String::as_str).collect();
        notes.push(format!("note: not set, so that something stood in for it: {}", names.join(", ")));
    }
    if report.contact {
        notes.push(
            "note: contacts_lookup was not asked; stand-in@contacts-lookup.invalid stood in for what it would find".to_owned(),
        );
    }
    notes
}

/// The same for machines.
pub(super) fn json(report: &Report) -> Value {
    json!({
        "ok": failures(report) == 0,
        "file": report.loaded.files.path().display().to_string(),
        "failed": failures(report),
        "tests": report.ran.iter().map(|it| test(report, it)).collect::<Vec<_>>(),
        "stand_ins": report.stand_ins,
    })
}

fn test(report: &Report, Ran { performed, took }: &Ran) -> Value {
    let Performed { name, place, failed, played } = performed;
    let (file, line, col) = report::spot(&report.loaded, *place);
    json!({
        "name": name,
        "ok": failed.is_empty(),
        "file": file,
        "line": line,
        "col": col,
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "failed": failed.iter().map(|it| difference(report, it)).collect::<Vec<_>>(),
        "events": played.iter().map(event).collect::<Vec<_>>(),
    })
}

fn difference(report: &Report, failed: &Failed) -> Value {
    let (file, line, col) = report::spot(&report.loaded, failed.place);
    let of = |wanted: Mark| failed.items.iter().filter(|(mark, _)| *mark == wanted).map(|(_, item)| item).collect::<Vec<_>>();
    json!({
        "what": failed.what,
        "file": file,
        "line": line,
        "col": col,
        "missing": of(Mark::Expected),
        "unexpected": of(Mark::Got),
        "as_expected": of(Mark::Both),
        "beside": failed.beside,
    })
}

/// What became of one event: the words of the API.
fn event(played: &Played) -> Value {
    let deliveries: Vec<_> = played
        .deliveries
        .iter()
        .map(|it| {
            json!({
                "target": it.target.as_str(),
                "rule": it.rule.as_ref().map(|rule| rule.as_str()),
                "state": it.state.word(),
                "cause": it.cause.map(|cause| cause.word()),
                "until": it.until.map(rfc3339_s),
                "detail": it.detail,
            })
        })
        .collect();
    let rules: Vec<_> = played.rules.iter().map(|rule| rule.as_str()).collect();
    json!({"id": played.event.id, "type": played.event.r#type, "rules": rules, "deliveries": deliveries})
}
