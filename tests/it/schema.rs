//! The JSON Schema of routes.yaml: what an independent validator says of the corpus by it, against what `check` says.

use std::{collections::BTreeSet, fs};

use hookyard::config::{
    self,
    decode::Context,
    tree::{Node, Value as Yaml},
    yaml,
};
use serde_json::{Value, json};

use crate::support::{referee, seeds::tests_folder};

/// Mistakes that no schema can see: of YAML, what a name, a reference or a file stands for, what makes sense beside another value,
/// and what the languages within say (globs, Jinja, regular expressions, base64). In one place: all else is a mistake of shape.
const BEYOND: [&str; 32] = [
    "bad-ca-file",
    "bad-contacts-file",
    "bad-digest",
    "bad-encryption-key",
    "bad-glob",
    "bad-key",
    "bad-reference",
    "bad-regex",
    "bad-rename",
    "bad-secret",
    "bad-template",
    "https-required",
    "misplaced-key",
    "missing-encryption-key",
    "nested-include",
    "no-contacts",
    "no-secret",
    "no-such-file",
    "repeated-key",
    "repeated-path",
    "reserved-header",
    "reserved-name",
    "reserved-path",
    "tls-required",
    "too-deep",
    "unfit-template",
    "unknown-destination",
    "unknown-rule",
    "unknown-schedule",
    "unknown-template",
    "unreadable-file",
    "unset-env",
];
/// Single files whose mistake has the code of a mistake of shape, and is none.
const LET_PASS: [(&str, &str); 14] = [
    ("event-type-of-the-relay", "the relay's own types"),
    ("link-without-a-public-url", "`reconnect` needs a key of another section"),
    ("path-that-never-ends", "the grammar of paths"),
    ("path-taken", "the relay answers there itself"),
    ("poll-every-so-short", "a range of durations"),
    ("poll-map-of-a-header", "one `map` is described for all kinds"),
    ("poll-query-twice", "what stands in a URL"),
    ("retry-after-itself", "two durations compared"),
    ("size-too-large", "a range of sizes"),
    ("store-in-postgres-with-a-strange-mode", "what stands in a URL"),
    ("trap-comment", "a key without a value is as if it were not there"),
    ("trap-template-alone", "what YAML took for a map is read as the text that was meant"),
    ("window-that-is-empty", "two times compared"),
    ("zone", "which zones there are"),
];

/// A file of the corpus.
struct Case {
    name: String,
    codes: BTreeSet<String>,
    /// What it says; `None` where it is no YAML.
    instance: Option<Value>,
}

fn cases(folder: &str) -> Vec<Case> {
    let entries = fs::read_dir(tests_folder().join("fixtures/config").join(folder)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    paths.sort();
    assert!(!paths.is_empty());
    let case = |path: std::path::PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().filter_map(|line| line.strip_prefix("# expect: ")?.split(' ').next());
        Case {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            codes: expected.map(str::to_owned).collect(),
            instance: yaml::parse(&text, &mut Context::default()).map(|root| json_of(&root)),
        }
    };
    paths.into_iter().map(case).collect()
}

/// The file as it stands, its references unresolved: as editors see it.
fn json_of(node: &Node) -> Value {
    match &node.value {
        Yaml::Null => Value::Null,
        Yaml::Bool(yes) => json!(yes),
        Yaml::Int(number) => json!(number),
        Yaml::Float(number) => json!(number),
        Yaml::String(text) => json!(text),
        Yaml::List(items) => items.iter().map(json_of).collect(),
        Yaml::Map(map) => Value::Object(map.iter().map(|(key, value)| (key.name.clone(), json_of(value))).collect()),
    }
}

/// What the schema finds wrong with each of the files that are YAML.
async fn verdicts(cases: &[Case]) -> Vec<(&Case, Vec<String>)> {
    let read: Vec<&Case> = cases.iter().filter(|case| case.instance.is_some()).collect();
    let mut requests = vec![json!({"schema": config::schema()})];
    requests.extend(read.iter().map(|case| json!({"instance": case.instance})));
    let mut verdicts = referee::judge("schema.py", requests).await.into_iter();
    assert_eq!(verdicts.next().unwrap(), json!([]), "this is no schema of draft 7");
    read.into_iter().zip(verdicts.map(|verdict| serde_json::from_value(verdict).unwrap())).collect()
}

#[tokio::test]
async fn the_schema_takes_every_good_file() {
    for folder in ["good", "warned"] {
        if !tests_folder().join("fixtures/config").join(folder).exists() {
            continue;
        }
        let cases = cases(folder);
        for (case, wrong) in verdicts(&cases).await {
            assert!(wrong.is_empty(), "{folder}/{}: {}", case.name, wrong.join("\n"));
        }
    }
}

#[tokio::test]
async fn the_schema_refuses_every_mistake_of_shape() {
    let cases = cases("broken");
    let verdicts = verdicts(&cases).await;
    let passed: BTreeSet<&str> =
        verdicts.iter().filter(|(_, wrong)| wrong.is_empty()).map(|(case, _)| case.name.as_str()).collect();
    let excused = |case: &Case| {
        case.codes.iter().all(|code| BEYOND.contains(&code.as_str())) || LET_PASS.iter().any(|(name, _)| *name == case.name)
    };
    let unseen: Vec<_> =
        verdicts.iter().filter(|(case, wrong)| wrong.is_empty() && !excused(case)).map(|(case, _)| &case.name).collect();
    assert!(unseen.is_empty(), "the schema lets pass: {unseen:?}; narrow it, or say above why it cannot see that");
    // Neither list grows stale.
    for (name, _) in LET_PASS {
        assert!(passed.contains(name), "{name} is excused, and refused all the same");
    }
    for code in BEYOND {
        let one = verdicts.iter().any(|(case, _)| passed.contains(case.name.as_str()) && case.codes.contains(code));
        assert!(one, "no file shows that `{code}` is beyond a schema");
    }
}

/// What an editor offers of a key: its examples and what holds without it.
fn offered(schema: &Value, at: &str, into: &mut Vec<Value>) {
    if schema["description"].is_string() {
        let examples = schema["examples"].as_array().into_iter().flatten();
        let all = examples.chain(schema.get("default"));
        into.extend(all.map(|value| json!({"instance": value, "at": at})));
    }
    let inner: Vec<(String, &Value)> = match schema {
        Value::Object(map) => map.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (key, value) in inner.into_iter().filter(|(key, _)| key != "examples" && key != "default") {
        offered(value, &format!("{at}/{key}"), into);
    }
}

#[tokio::test]
async fn what_editors_offer_is_right() {
    let mut requests = vec![json!({"schema": config::schema()})];
    offered(&config::schema(), "", &mut requests);
    assert!(150 < requests.len(), "{}", requests.len());
    let verdicts = referee::judge("schema.py", requests.clone()).await;
    for (request, verdict) in requests.iter().zip(verdicts) {
        assert_eq!(verdict, json!([]), "{request}");
    }
}

/// A file that is included says only what may be said by several, and no version; an editor is given a schema of its own for it.
#[tokio::test]
async fn a_file_that_is_included_has_its_own_schema() {
    let rule = json!({"name": "a", "to": []});
    let requests = [
        json!({"schema": config::schema_of_included()}),
        json!({"instance": {"rules": [rule]}}),
        json!({"instance": {"version": 1, "rules": [rule]}}),
        json!({"instance": {"rules": [rule], "server": {}}}),
        json!({"instance": {"include": ["more.yaml"]}}),
    ];
    let verdicts = referee::judge("schema.py", requests.to_vec()).await;
    assert_eq!(verdicts.iter().map(|verdict| verdict == &json!([])).collect::<Vec<_>>(), [true, true, true, false, false]);
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let committed = fs::read_to_string(tests_folder().join("../routes.schema.json")).unwrap();
    assert!(
        committed == format!("{:#}\n", config::schema()),
        "routes.schema.json is not what the decoder reads: renew it by `cargo run -- schema > routes.schema.json`"
    );
}
