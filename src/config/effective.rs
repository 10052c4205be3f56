//! The configuration as it works (`check --print`): fragments in their places, defaults said at every destination, and no secret.

use serde_json::{Map, Value as Json};

use super::{
    mask::{Mask, has_secret_url, is_of_the_web},
    references::{Part, parts},
    tree::{Key, Node, Value},
};

/// What a destination gets that says nothing, and for which `defaults.destination` says nothing either (`deliver::Defaults`).
const DEFAULTS: [(&str, &str); 5] = [
    ("timeout", "30s"),
    ("concurrency", "8"),
    ("retry", "{preset: honeyframe}"),
    ("answers", "default"),
    ("retry_after_max", "1h"),
];
/// What stands for a literal secret.
const SECRET: &str = "<secret>";

/// The merged tree `root`, its references not resolved, as plain data. References are shown by name, secrets not at all.
pub(super) fn of(root: &Node, mask: &Mask) -> Json {
    let shown = Shown { mask };
    let common = root.get("defaults").and_then(|it| it.get("destination")).map(Node::entries).unwrap_or_default();
    let sections = root.entries().iter().filter(|(key, _)| !matches!(key.name.as_str(), "include" | "defaults"));
    let section = |(key, node): &(Key, Node)| {
        let value = if key.name == "destinations" { shown.destinations(node, common) } else { shown.value(node) };
        (key.name.clone(), value)
    };
    Json::Object(sections.map(section).collect())
}

struct Shown<'m> {
    mask: &'m Mask,
}

impl Shown<'_> {
    fn value(&self, node: &Node) -> Json {
        match &node.value {
            Value::Map(entries) => self.map(entries),
            Value::List(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Null => Json::Null,
            _ if self.mask.covers(node.place) => Json::String(secret(node.text().unwrap_or_default())),
            Value::Bool(yes) => Json::Bool(*yes),
            Value::Int(number) => Json::from(*number),
            Value::Float(number) => {
                serde_json::Number::from_f64(*number).map_or_else(|| Json::String(number.to_string()), Json::Number)
            }
            Value::String(text) if self.mask.touches(node.place) => Json::String(without_path(text)),
            Value::String(text) => Json::String(named(text)),
        }
    }

    fn map(&self, entries: &[(Key, Node)]) -> Json {
        let capability = entries.iter().any(|(key, node)| key.name == "kind" && has_secret_url(node));
        let shown = |(key, node): &(Key, Node)| {
            let value = match node.text().filter(|_| capability && key.name == "url") {
                // Where all of a URL comes from outside, all of it is secret.
                Some(url) if !url.contains("://") => Json::String(secret(url)),
                _ => self.value(node),
            };
            (key.name.clone(), value)
        };
        Json::Object(entries.iter().map(shown).collect())
    }

    /// Destinations with what they leave out.
    fn destinations(&self, node: &Node, common: &[(Key, Node)]) -> Json {
        let Value::Map(destinations) = &node.value else { return self.value(node) };
        let whole = |(key, node): &(Key, Node)| {
            let mut shown = self.value(node);
            if let Json::Object(map) = &mut shown {
                fill(map, common.iter().map(|(key, node)| (key.name.as_str(), self.value(node))));
                // Mail servers' answers are not HTTP's: the key is not one of theirs.
                let mail = map.get("kind").and_then(Json::as_str) == Some("email");
                let ours = DEFAULTS.iter().filter(|(name, _)| !(mail && *name == "answers"));
                fill(map, ours.map(|(name, text)| (*name, plain(text))));
            }
            (key.name.clone(), shown)
        };
        Json::Object(destinations.iter().map(whole).collect())
    }
}

/// Adds what `map` does not say. A key without a value says nothing.
fn fill<'n>(map: &mut Map<String, Json>, more: impl Iterator<Item = (&'n str, Json)>) {
    for (name, value) in more.filter(|(_, value)| !value.is_null()) {
        if map.get(name).is_none_or(Json::is_null) {
            map.insert(name.to_owned(), value);
        }
    }
}

/// What a destination gets that says nothing, and for which nothing else is said.
pub(super) fn defaults() -> Vec<(Key, Node)> {
    let text: String = DEFAULTS.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let node = super::yaml::parse(&text, &mut super::decode::Context::default());
    node.map_or_else(Vec::new, |node| node.entries().to_vec())
}

fn plain(text: &str) -> Json {
    let node = super::yaml::parse(text, &mut super::decode::Context::default());
    node.map_or(Json::Null, |node| Shown { mask: &Mask::default() }.value(&node))
}

/// `text` with its references by name: `https://<env HOST>/in`.
fn named(text: &str) -> String {
    let part = |part: Part<'_>| match part {
        Part::Literal(text) => text.to_owned(),
        Part::Dollar => "$".to_owned(),
        Part::Reference(raw) => match reference(raw) {
            Reference::File(path) => format!("<secret file:{path}>"),
            Reference::Variable(name) => format!("<env {name}>"),
        },
    };
    parts(text).into_iter().map(part).collect()
}

/// `<secret env:NAME>` for a secret that comes from outside, `<secret>` for one that stands in the file.
fn secret(text: &str) -> String {
    let references = parts(text).into_iter().filter_map(|part| match part {
        Part::Reference(raw) => Some(match reference(raw) {
            Reference::File(path) => format!("file:{path}"),
            Reference::Variable(name) => format!("env:{name}"),
        }),
        _ => None,
    });
    let references: Vec<_> = references.collect();
    if references.is_empty() { SECRET.to_owned() } else { format!("<secret {}>", references.join(" ")) }
}

enum Reference<'t> {
    File(&'t str),
    Variable(&'t str),
}

fn reference(raw: &str) -> Reference<'_> {
    let inner = raw.strip_prefix("${").unwrap_or(raw);
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    match inner.strip_prefix("file:") {
        Some(path) => Reference::File(path),
        None => Reference::Variable(inner.split_once(":-").map_or(inner, |(name, _)| name)),
    }
}

/// A URL without what of it is secret: all after its host, or user and password.
fn without_path(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return SECRET.to_owned() };
    let cut = |text: &'_ str| text.find(['/', '?', '#']).unwrap_or(text.len());
    let authority = if is_of_the_web(url) { rest.get(..cut(rest)).unwrap_or_default() } else { rest };
    if let Some((_, place)) = authority.rsplit_once('@') {
        return format!("{scheme}://{SECRET}@{}", named(place.get(..cut(place)).unwrap_or_default()));
    }
    let (host, path) = rest.split_at_checked(cut(rest)).unwrap_or_default();
    let path = path.get(..1).map_or_else(String::new, |sign| format!("{sign}{SECRET}"));
    format!("{scheme}://{}{path}", named(host))
}

/// `value` as YAML in block style.
pub fn yaml(value: &Json) -> String {
    let mut out = String::new();
    match value {
        Json::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Json::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        scalar => {
            out.push_str(&flow(scalar));
            out.push('\n');
        }
    }
    out
}

/// Longest list or map that is written on one line, in bytes.
const LINE_MAX: usize = 80;

/// Writes a list or map that is not empty, a line for each of what is in it.
fn block(value: &Json, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match value {
        Json::Object(map) => map.iter().for_each(|(key, value)| {
            out.push_str(&format!("{margin}{}:", text(key)));
            below(value, indent + 2, out);
        }),
        Json::Array(items) => items.iter().for_each(|item| {
            let mut below_dash = String::new();
            below(item, indent + 2, &mut below_dash);
            // What goes below begins on the line of the dash all the same, as people write it.
            let first = below_dash.trim_start_matches(['\n', ' ']);
            out.push_str(&format!("{margin}- {first}"));
        }),
        _ => {}
    }
}

/// Writes what stands behind a key or a dash: on its line where it is short, else below.
fn below(value: &Json, indent: usize, out: &mut String) {
    let line = flow(value);
    let nests =
        |value: &Json| value.as_object().is_some_and(|it| !it.is_empty()) || value.as_array().is_some_and(|it| !it.is_empty());
    let flat = match value {
        Json::Object(map) => !map.values().any(nests),
        Json::Array(items) => !items.iter().any(nests),
        _ => true,
    };
    if !nests(value) || flat && line.len() + indent <= LINE_MAX {
        out.push_str(&format!(" {line}\n"));
    } else {
        out.push('\n');
        block(value, indent, out);
    }
}

/// `value` on one line.
fn flow(value: &Json) -> String {
    match value {
        Json::String(it) => text(it),
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(key, value)| format!("{}: {}", text(key), flow(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// A text as it stands where nobody could take it for anything else, and in quotes everywhere else.
fn text(text: &str) -> String {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./@".contains(&b))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // What YAML has not printed, or takes for the end of a line.
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}') => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        config::{decode::Context, yaml as reader},
        deliver::Defaults,
    };

    fn read_back(text: &str) -> Json {
        let mut cx = Context::of(text);
        let node = reader::parse(text, &mut cx).unwrap_or_else(|| panic!("{:?}\n{text}", cx.problems));
        assert_eq!(cx.problems, [], "{text}");
        Shown { mask: &Mask::default() }.value(&node)
    }

    #[test]
    fn no_password_in_a_url_is_shown_however_it_is_written() {
        for (url, shown) in [
            ("postgres://me:hush@host/db", "postgres://<secret>@host"),
            ("postgres://me:hu/sh?hush#hush@host:1,two/db?sslmode=require", "postgres://<secret>@host:1,two"),
            ("postgres://me:P@hush/hush@host/db", "postgres://<secret>@host"),
            ("postgres://host/db?user=me&password=hush", "postgres://host/<secret>"),
            ("postgres://host?password=hush", "postgres://host?<secret>"),
            ("postgres://me:${file:/run/hush}@${HOST}/db", "postgres://<secret>@<env HOST>"),
            ("https://u:hush@a.example.com?to=b@c/", "https://<secret>@a.example.com"),
            ("https://a.example.com?key=hush", "https://a.example.com?<secret>"),
            ("https://a.example.com/in/hush@b", "https://a.example.com/<secret>"),
            ("https://a.example.com", "https://a.example.com"),
        ] {
            assert_eq!(without_path(url), shown);
        }
    }

    #[test]
    fn the_defaults_it_shows_are_those_of_destinations() {
        let text: String = DEFAULTS.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let mut cx = Context::of(&text);
        let node = reader::parse(&text, &mut cx).unwrap();
        assert_eq!(format!("{:?}", Defaults::decode(Some(&node), &mut cx)), format!("{:?}", Defaults::default()));
        assert_eq!(cx.problems, []);
    }

    #[test]
    fn long_things_go_below_and_short_ones_beside() {
        let value = serde_json::json!({
            "a": {"b": [1, "2", "x y", null], "c": {}}, "list": [{"k": "v", "w": true}, [[]], []], "long": "x".repeat(90), "404": "no"
        });
        insta::assert_snapshot!(yaml(&value), @r##"
        a:
          b: [1, "2", "x y", null]
          c: {}
        list:
          - {k: v, w: true}
          - [[]]
          - []
        long: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        "404": "no"
        "##);
        assert_eq!(read_back(&yaml(&value)), value);
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(|it| Json::String(it.replace('$', "S"))),
            r#"[-0-9.:a-f#'"{}\[\]@&*!|>%, é🞄~\u{85}\u{2028}\u{7f}]{0,12}"#.prop_map(Json::String),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
                proptest::collection::btree_map("[a-z0-9: #é\n]{0,8}", inner, 0..5)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(value in any_json()) {
            prop_assert_eq!(read_back(&yaml(&value)), value);
        }
    }
}
