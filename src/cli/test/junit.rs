//! The results of tests as JUnit XML, as CI servers read it: one suite, a case per test, a failure per expectation that is not met.

use std::fmt::Write;

use super::{
    Report,
    shown::{failures, told},
};
use crate::config::report;

/// The whole document.
pub(super) fn xml(report: &Report) -> String {
    let file = report.loaded.files.path().display().to_string();
    let seconds = |took: std::time::Duration| format!("{:.3}", took.as_secs_f64());
    let all = format!(
        r#"tests="{}" failures="{}" errors="0" time="{}""#,
        report.ran.len(),
        failures(report),
        seconds(report.ran.iter().map(|it| it.took).sum())
    );
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing into memory cannot fail.
    let _ =
        writeln!(out, "<testsuites name=\"hookyard test\" {all}>\n  <testsuite name=\"{}\" {all} skipped=\"0\">", escaped(&file));
    for it in &report.ran {
        let (file, line, _) = report::spot(&report.loaded, it.performed.place);
        let (name, file, time) = (escaped(&it.performed.name), escaped(&file), seconds(it.took));
        let _ = write!(out, r#"    <testcase name="{name}" classname="{file}" file="{file}" line="{line}" time="{time}""#);
        if it.performed.failed.is_empty() {
            out.push_str("/>\n");
            continue;
        }
        out.push_str(">\n");
        // One failure per case: not every reader knows what to do with more.
        let what: Vec<_> = it.performed.failed.iter().map(|failed| failed.what.as_str()).collect();
        let text: String = it.performed.failed.iter().map(|failed| told(report, failed)).collect();
        let (message, text) = (escaped(&format!("not as expected: {}", what.join(", "))), escaped(&text));
        let _ = writeln!(out, "      <failure type=\"expectation\" message=\"{message}\">{text}</failure>\n    </testcase>");
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

/// `text` as it may stand in an element or an attribute: what XML 1.0 has no way to write is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // A parser would make blanks of them in an attribute.
            '\n' => out.push_str("&#10;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cli::test::Ran,
        config::{self, File, tree::Place},
        rehearsal::{Failed, Mark, Performed},
    };

    fn report(name: &str, item: &str) -> Report {
        let file = File { path: "routes <&>.yaml".into(), text: "version: 1\n".to_owned() };
        let failed = Failed {
            what: "rules".to_owned(),
            place: Place::default(),
            items: vec![(Mark::Expected, item.to_owned())],
            beside: vec![item.to_owned()],
        };
        let ran = |name: &str, failed: Vec<Failed>| Ran {
            performed: Performed { name: name.to_owned(), place: Place::default(), failed, played: Vec::new() },
            took: Duration::from_millis(1500),
        };
        Report {
            loaded: config::parse(file, &|_: &str| None),
            ran: vec![ran("passes", Vec::new()), ran(name, vec![failed])],
            stand_ins: BTreeSet::new(),
            contact: false,
        }
    }

    #[test]
    fn a_parser_reads_it() {
        let text = xml(&report("a \"b\" <c> & 'd'\u{1b}", "]]> &amp; é"));
        let read = roxmltree::Document::parse(&text).unwrap();
        let suite = read.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
        assert_eq!(
            (suite.attribute("tests"), suite.attribute("failures"), suite.attribute("time")),
            (Some("2"), Some("1"), Some("3.000"))
        );
        let cases: Vec<_> = suite.children().filter(|node| node.is_element()).collect();
        let named: Vec<_> = cases.iter().filter_map(|case| case.attribute("name")).collect();
        assert_eq!(named, ["passes", "a \"b\" <c> & 'd'\u{fffd}"]);
        assert!(cases[0].first_element_child().is_none());
        let failure = cases[1].first_element_child().unwrap();
        assert_eq!(failure.attribute("message"), Some("not as expected: rules"));
        assert_eq!(failure.text(), Some("rules at routes <&>.yaml:1:1\n- ]]> &amp; é\n| ]]> &amp; é\n"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(name: String, item: String) {
            let text = xml(&report(&name, &item));
            prop_assert!(roxmltree::Document::parse(&text).is_ok(), "{text}");
        }
    }
}
