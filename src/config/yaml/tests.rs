//! Places, repeated keys, traps and bombs.

use proptest::prelude::*;

use super::*;
use crate::config::decode::Problem;

fn read(text: &str) -> (Option<Node>, Vec<Problem>) {
    let mut cx = Context::of(text);
    let node = parse(text, &mut cx);
    (node, cx.problems)
}

/// Every key and scalar with the text at its place.
fn places(node: &Node, text: &str, out: &mut String) {
    let at = |place: Place| &text[place.start..place.end];
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| places(item, text, out)),
        Value::Map(map) => map.iter().for_each(|(key, item)| {
            out.push_str(&format!("{} @ {}\n", key.name, at(key.place)));
            places(item, text, out);
        }),
        value => out.push_str(&format!("  {value:?} @ {:?}\n", at(node.place))),
    }
}

#[test]
fn keys_and_values_know_their_places() {
    let text = "\u{feff}# c\nversion: 1\n\"ü x\": \"a\\tb\"   # c\nm:\n  a: |\n    two\n    lines\n  b: [{c: d}, 1.20, yes, True, ~]\n  404: x y  \nz: &q {k: 1}\ny: *q\n";
    let (node, problems) = read(text);
    assert_eq!(problems, []);
    let mut out = String::new();
    places(&node.unwrap(), text, &mut out);
    insta::assert_snapshot!(out, @r##"
    version @ version
      Int(1) @ "1"
    ü x @ "ü x"
      String("a\tb") @ "\"a\\tb\""
    m @ m
    a @ a
      String("two\nlines\n") @ "two\n    lines"
    b @ b
    c @ c
      String("d") @ "d"
      Float(1.2) @ "1.20"
      String("yes") @ "yes"
      Bool(true) @ "True"
      Null @ "~"
    404 @ 404
      String("x y") @ "x y"
    z @ z
    k @ k
      Int(1) @ "1"
    y @ y
    k @ *q
      Int(1) @ "*q"
    "##);
}

#[test]
fn every_repeated_key_is_found_and_the_rest_is_read() {
    let (node, problems) = read("a: 1\nb: {c: 1, c: 2}\na: 3\n");
    assert_eq!(
        problems.iter().map(|p| (p.code, p.place.start)).collect::<Vec<_>>(),
        [("repeated-key", 15), ("repeated-key", 21)]
    );
    assert_eq!(problems[1].note.as_deref(), Some("first on line 1"));
    assert!(node.is_some());
    assert_eq!(read("1: a\n1: b\n").1[0].code, "repeated-key");
}

#[test]
fn what_is_no_yaml_says_where_and_traps_are_named() {
    let mut out = String::new();
    for bad in [
        "to: @dana",
        "to: [a, @dana, b]",
        "ns: *.example",
        "s: [${X}]",
        "w: {path: $.a[0]}",
        "w: [{path: $.x[?@.y > 1], gt: 1}]",
        "a:\n\tb: 1",
        "a: b: c",
        "key\nother: 1",
        "a: 1\n b: 2",
        "a: 'x",
        "a: [",
        "a: 1\n---\nb: 2",
        "a: {<<: {}}",
        "a: !x 1",
        "? [a]\n: b",
        "a: \"\\q\"",
        "a: - b",
        "password: @hunter2",
        "\"\0\"",
    ] {
        let (_, problems) = read(bad);
        let problem = &problems[0];
        let help = problem.help.as_deref().unwrap_or("-");
        out.push_str(&format!(
            "{}\n  {}..{} {}: {} | {help}\n",
            bad.escape_debug(),
            problem.place.start,
            problem.place.end,
            problem.code,
            problem.message
        ));
    }
    insta::assert_snapshot!(out, @r##"
    to: @dana
      4..9 bad-yaml: a value cannot begin with `@` | put it in quotes: "@dana"
    to: [a, @dana, b]
      8..13 bad-yaml: a value cannot begin with `@` | put it in quotes: "@dana"
    ns: *.example
      4..13 bad-yaml: `*` at the beginning of a value means a YAML alias, and there is none of this name | put it in quotes: "*.example"
    s: [${X}]
      4..8 bad-yaml: inside brackets, a value with `{`, `[`, `}`, `]` or `,` must stand in quotes | put it in quotes: "${X}"
    w: {path: $.a[0]}
      10..16 bad-yaml: inside brackets, a value with `{`, `[`, `}`, `]` or `,` must stand in quotes | put it in quotes: "$.a[0]"
    w: [{path: $.x[?@.y > 1], gt: 1}]
      11..24 bad-yaml: inside brackets, a value with `{`, `[`, `}`, `]` or `,` must stand in quotes | put it in quotes: "$.x[?@.y > 1]"
    a:\n\tb: 1
      3..4 bad-yaml: a tab indents this line, and YAML allows spaces only | indent with spaces
    a: b: c
      3..7 bad-yaml: a value that holds `: ` must stand in quotes | put it in quotes: "b: c"
    key\nother: 1
      0..3 bad-yaml: `key` needs a `:` behind it | write: key:
    a: 1\n b: 2
      6..7 bad-yaml: this line is indented by 1 space, and what stands above it by 0 | begin it where the line begins, as `a` does
    a: \'x
      3..5 bad-yaml: this quotation mark is never closed | close it: 'x'
    a: [
      3..4 bad-yaml: this `[` is never closed | close it: []
    a: 1\n---\nb: 2
      5..8 bad-yaml: one file is one YAML document: a second one begins here | -
    a: {<<: {}}
      4..6 bad-yaml: `<<` is not used here: there is no inheritance | -
    a: !x 1
      3..7 bad-yaml: `!` at the beginning of a value means a YAML tag | put it in quotes: "!x 1"
    ? [a]\n: b
      2..3 bad-key: a key must be text | put it in quotes
    a: \"\\q\"
      3..7 bad-yaml: in double quotes `\` begins an escape such as \n, and this is none | in single quotes it is a plain character: '\q'
    a: - b
      3..3 bad-yaml: this is not YAML: block sequence entries are not allowed in this context | -
    password: @hunter2
      10..18 bad-yaml: a value cannot begin with `@` | put it in quotes
    \"\0\"
      1..1 bad-yaml: this is not YAML: unexpected character: `\u{0}' | -
    "##);
}

#[test]
fn bombs_are_refused_at_once() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for n in 1..30 {
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", [format!("*a{}", n - 1).as_str(); 9].join(", ")));
    }
    let bombs = [
        laughs,
        format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(30_000), "*a, ".repeat(90)),
        "[".repeat(200_000),
        "{a: ".repeat(100_000),
        "- ".repeat(300_000),
        "a:\n".repeat(300_000),
        "? ".repeat(400_000),
        "a,".repeat(500_000),
        format!("[{}]", "a,".repeat(500_000)),
        "&a ".repeat(300_000),
        "!".repeat(900_000),
        "#".repeat(1_000_000),
        "'".repeat(999_999),
        format!("a: {}", "x".repeat(2 << 20)),
        (0..40).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        "---\n".repeat(200_000),
        "a: |\n".repeat(100_000),
        format!("\"{}", "\\n".repeat(400_000)),
        "\n".repeat(1_000_000),
        (0..100_000).map(|n| format!("{n}: a\n")).collect(),
        "%YAML 1.2\n".repeat(90_000),
        "k: ".repeat(300_000),
        format!("{}x", "a: {b: [".repeat(100_000)),
        "-\n".repeat(400_000),
        format!("{}: 1", "k".repeat(1_000_000)),
    ];
    for bomb in bombs {
        let begun = std::time::Instant::now();
        let (node, problems) = read(&bomb);
        let start: String = bomb.chars().take(20).collect();
        assert!(node.is_some() || !problems.is_empty(), "{start:?}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{start:?}");
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(any: String, yaml in r#"([a-c:\-?{}\[\],&*!|>'"%@`# é\t\n~<]|: |- |\n  ){0,60}"#) {
        for text in [any, yaml] {
            let (node, problems) = read(&text);
            prop_assert!(node.is_some() || !problems.is_empty());
            for problem in problems {
                prop_assert!(text.get(problem.place.start..problem.place.end).is_some(), "{:?} {:?}", text, problem);
            }
        }
    }
}
