//! The corpus of `tests/fixtures/config`: `broken/` holds a file per kind of mistake, `warned/` files that can be used and probably say
//! something else than meant, `good/` what must load without a word.
//!
//! Each of the first two begins with what is expected of it, one line for each problem, independent of the snapshots:
//! `# expect: unknown-key 12:5..12` is its code, its line, its first column and the one past its last (where given).

use std::{collections::BTreeSet, fs, path::PathBuf};

use regex::Regex;

use super::*;

/// The environment of the corpus; whatever begins with `NOT_SET` is not set.
pub(super) fn env(name: &str) -> Option<String> {
    let value = match name {
        "INTERACTOR_WEBHOOK_SECRET" | "AGENT_WEBHOOK_SECRET" | "FORWARDING_KEY" | "HONEYFRAME_SECRET" => "hush-hush-hush",
        "CRM_SECRET" | "AUDIT_SECRET" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "SLACK_WEBHOOK_URL" => "https://hooks.slack.com/services/T0hush/B0hush/hush",
        "SLACK_BOT_TOKEN" => "xoxb-hush-hush",
        "TWILIO_ACCOUNT_SID" => "AC00112233445566778899aabbccddeeff",
        "TWILIO_AUTH_TOKEN" | "SMTP_PASSWORD" | "INTERACTOR_API_KEY" => "hush-hush-hush",
        "WORD" => "swordfish",
        _ => return None,
    };
    Some(value.to_owned())
}

/// A file of the corpus and what came of it.
struct Case {
    name: String,
    text: String,
    loaded: Loaded,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config")
}

/// The files of `folder`, read as if the tests were run from there.
fn cases(folder: &str) -> Vec<Case> {
    let mut paths: Vec<PathBuf> = fs::read_dir(fixtures().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let text = fs::read_to_string(path).unwrap();
    let loaded = load(path, &env);
    Case { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), text, loaded }
}

impl Case {
    fn expected(&self) -> Vec<String> {
        self.text
            .lines()
            .map_while(|line| line.strip_prefix('#'))
            .filter_map(|line| Some(line.strip_prefix(" expect: ")?.to_owned()))
            .collect()
    }

    /// What was found, said as it is expected: with the last column only where that is.
    fn found(&self, expected: &[String]) -> Vec<String> {
        let diagnostics = report::diagnostics(&self.loaded);
        let said = |(at, it): (usize, &report::Diagnostic)| {
            let end =
                if expected.get(at).is_none_or(|it| it.contains("..")) { format!("..{}", it.end_col) } else { String::new() };
            format!("{} {}:{}{end}", it.code, it.line, it.col)
        };
        diagnostics.iter().enumerate().map(said).collect()
    }

    /// What people read, with the file's name alone.
    fn said(&self) -> String {
        let folder = self.loaded.files.path().parent().unwrap().display().to_string();
        report::text(&self.loaded, false).replace(&format!("{folder}/"), "")
    }

    fn good(&self) -> bool {
        self.loaded.config.is_some()
    }
}

/// Holds each file of `folder` to its first lines, and what is said of it to a snapshot.
fn hold(folder: &str, good: bool) {
    let mut wrong = String::new();
    let cases = cases(folder);
    for case in &cases {
        let expected = case.expected();
        assert!(!expected.is_empty(), "{} says nothing of what is wrong with it", case.name);
        let found = case.found(&expected);
        if found != expected || case.good() != good {
            wrong.push_str(&format!("=== {}: expected {expected:?}, found {found:?}\n{}\n", case.name, case.said()));
        }
    }
    if let Ok(path) = std::env::var("CORPUS_SAID") {
        let all: String = cases.iter().map(|case| format!("=== {}\n{}\n", case.name, case.said())).collect();
        fs::write(format!("{path}-{folder}"), all).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    for case in &cases {
        let said = case.said();
        let json = serde_json::to_string(&report::diagnostics(&case.loaded)).unwrap();
        for secret in ["hunter2", "swordfish", "hush-hush", "T0hush"] {
            assert!(!said.contains(secret) && !json.contains(secret), "{} shows {secret}: {said}{json}", case.name);
        }
        insta::with_settings!({ snapshot_path => fixtures().join(folder).join("expected"), prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(case.name.as_str(), said);
        });
    }
}

#[test]
fn every_mistake_is_named_at_its_place() {
    hold("broken", false);
}

#[test]
fn what_is_right_is_taken_without_a_word() {
    for case in cases("good") {
        assert!(case.good() && case.loaded.problems.is_empty(), "{}", case.said());
    }
}

#[test]
fn what_is_probably_not_meant_is_told_and_taken_all_the_same() {
    hold("warned", true);
}

/// The codes that the sources of this crate note problems with.
fn codes(folder: &Path, found: &mut BTreeSet<String>) {
    let noted =
        Regex::new(r#"(?s)\b(?:error|warning|unknown|refused)\(\s*(?:cx,\s*)?(?:Severity::\w+,\s*)?"([a-z]+(?:-[a-z]+)*)""#)
            .unwrap();
    let described = Regex::new(r#"\(\s*"((?:bad|too|repeated)-[a-z]+)",\s"#).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            codes(&path, found);
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains("tests") || name == "corpus.rs" || !name.ends_with(".rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\n").next().unwrap();
        found.extend(noted.captures_iter(text).map(|it| it[1].to_owned()));
        if name == "yaml.rs" {
            found.extend(described.captures_iter(text).map(|it| it[1].to_owned()));
        }
    }
}

#[test]
fn every_code_has_a_file() {
    let mut found = BTreeSet::new();
    for room in ["config", "contacts", "deliver", "ingest", "reconnect", "rehearsal", "route"] {
        codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(room), &mut found);
    }
    let expected = cases("broken").into_iter().chain(cases("warned")).flat_map(|case| case.expected());
    let shown: BTreeSet<String> = expected.filter_map(|it| Some(it.split_once(' ')?.0.to_owned())).collect();
    assert!(60 < found.len() && found.contains("too-large") && found.contains("bad-url"), "{found:?}");
    // What its own test beside the code shows.
    let elsewhere = ["unfit-digest"];
    let missing: Vec<_> = found.difference(&shown).filter(|code| !elsewhere.contains(&code.as_str())).collect();
    assert!(missing.is_empty(), "no file of the corpus shows {missing:?}");
}
