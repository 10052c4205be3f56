//! What a configuration means, in 32 bytes: the same for two files that say the same in other words. Comments, the order of keys, where a
//! fragment stands, and defaults said aloud change nothing of it; nor does what is each replica's own (where it listens, by which address
//! it reaches the store) or says nothing of a running relay (`tests`).

use super::{
    effective,
    tree::{Key, Node, Value},
};
use crate::sign;

/// What a configuration means. It may be made of literal secrets, so it is shown to nobody: others see a keyed hash of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Meaning([u8; 32]);

impl std::fmt::Debug for Meaning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meaning(***)")
    }
}

impl Meaning {
    /// Its bytes: to be hashed under a key.
    pub(crate) fn reveal(&self) -> &[u8] {
        &self.0
    }
}

/// Sections that say nothing of what a relay does, or whose contents stand elsewhere by now.
const WITHOUT: [&str; 4] = ["version", "include", "defaults", "tests"];
/// What may differ from one replica to the next, by section.
const OWN: [(&str, &[&str]); 2] =
    [("server", &["listen", "admin_listen", "admin_url", "watch", "shutdown_grace"]), ("store", &["url"])];

/// What the merged tree `root`, its references resolved, means.
pub(super) fn of(root: &Node) -> Meaning {
    let common = root.get("defaults").and_then(|it| it.get("destination")).map(Node::entries).unwrap_or_default();
    let mut text = Vec::new();
    for (key, node) in sorted(root.entries()).into_iter().filter(|(key, _)| !WITHOUT.contains(&key.name.as_str())) {
        let mut section = Vec::new();
        match &node.value {
            Value::Map(all) if key.name == "destinations" => destinations(all, common, &mut section),
            Value::Map(all) => map(all, own(&key.name), &mut section),
            _ => value(node, &mut section),
        }
        // A section that says nothing is as good as none.
        if section != EMPTY {
            said(&key.name, &mut text);
            text.extend(section);
        }
    }
    Meaning(sign::sha256(&[&text]))
}

/// A map without entries.
const EMPTY: &[u8] = b"{}";

fn own(section: &str) -> &'static [&'static str] {
    OWN.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys).unwrap_or_default()
}

/// The entries that have a value, by name.
fn sorted(entries: &[(Key, Node)]) -> Vec<&(Key, Node)> {
    let mut sorted: Vec<_> = entries.iter().filter(|(_, node)| node.value != Value::Null).collect();
    sorted.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    sorted
}

fn map(entries: &[(Key, Node)], without: &[&str], text: &mut Vec<u8>) {
    text.push(b'{');
    for (key, node) in sorted(entries).into_iter().filter(|(key, _)| !without.contains(&key.name.as_str())) {
        said(&key.name, text);
        value(node, text);
    }
    text.push(b'}');
}

/// Destinations with what they leave out.
fn destinations(entries: &[(Key, Node)], common: &[(Key, Node)], text: &mut Vec<u8>) {
    let ours = effective::defaults();
    text.push(b'{');
    for (key, node) in sorted(entries) {
        said(&key.name, text);
        match &node.value {
            Value::Map(own) => {
                let mut whole = own.clone();
                whole.retain(|(_, node)| node.value != Value::Null);
                for (name, node) in common.iter().chain(&ours).filter(|(_, node)| node.value != Value::Null) {
                    if !whole.iter().any(|(known, _)| known.name == name.name) {
                        whole.push((name.clone(), node.clone()));
                    }
                }
                map(&whole, &[], text);
            }
            _ => value(node, text),
        }
    }
    text.push(b'}');
}

fn value(node: &Node, text: &mut Vec<u8>) {
    match &node.value {
        Value::Null => text.push(b'~'),
        Value::Bool(yes) => text.push(if *yes { b'y' } else { b'n' }),
        Value::Int(number) => text.extend(format!("i{number};").into_bytes()),
        Value::Float(number) => text.extend(format!("f{};", number.to_bits()).into_bytes()),
        Value::String(it) => said(it, text),
        Value::List(items) => {
            text.push(b'[');
            items.iter().for_each(|item| value(item, text));
            text.push(b']');
        }
        Value::Map(entries) => map(entries, &[], text),
    }
}

/// A text and its length, so that nothing in it can be taken for what stands around it.
fn said(it: &str, text: &mut Vec<u8>) {
    text.extend(format!("s{}:", it.len()).into_bytes());
    text.extend(it.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, File};

    const FILE: &str = "version: 1\n\
        server: {listen: 127.0.0.1:1, max_body: 2KiB}\n\
        store: {url: 'sqlite://a.db'}\n\
        sources:\n  in: {kind: interactor, path: /in, secrets: ['whsec_abcdefghijklmnopqrstuvwxyz']}\n\
        destinations:\n  crm: {kind: webhook, url: 'https://crm.example/in', timeout: 10s, signing: {secrets: ['${OUT}']}}\n  \
        audit: {kind: webhook, url: 'https://audit.example/in', timeout: 10s, concurrency: 4, signing: {secrets: ['${OUT}']}}\n\
        rules:\n  - {name: a, match: {type: 'a.*'}, to: [crm]}\n  - {name: b, match: {type: 'b.*'}, to: [audit]}\n";

    fn meaning_with(text: &str, out: &str) -> Meaning {
        let env = |name: &str| (name == "OUT").then(|| out.to_owned());
        let loaded = config::parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &env);
        loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems)).meaning
    }

    fn meaning(text: &str) -> Meaning {
        meaning_with(text, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    }

    #[test]
    fn other_words_for_the_same_mean_the_same() {
        let same = [
            format!("# a comment\n{FILE}"),
            FILE.replace(
                "{kind: webhook, url: 'https://crm.example/in', timeout: 10s",
                "{timeout: 10s, url: \"https://crm.example/in\", kind: webhook",
            ),
            FILE.replace("timeout: 10s, ", "").replace("destinations:", "defaults: {destination: {timeout: 10s}}\ndestinations:"),
            FILE.replace("timeout: 10s, signing", "timeout: 10s, concurrency: 8, retry_after_max: 1h, signing"),
            FILE.replace("listen: 127.0.0.1:1, ", "listen: 127.0.0.1:2, admin_listen: 127.0.0.1:3, "),
            FILE.replace("a.db", "b.db"),
            FILE.replace("rules:", "subscriptions: {}\ncontacts: ~\nrules:"),
            FILE.replace("sources:", "tests: [{name: t, event: {source: in, type: a.b}, expect: {to: [crm]}}]\nsources:"),
        ];
        for text in same {
            assert!(meaning(&text) == meaning(FILE), "{text}");
        }
    }

    #[test]
    fn what_changes_what_a_relay_does_means_something_else() {
        let lines: Vec<&str> = FILE.lines().collect();
        let swapped = FILE
            .replace(lines[lines.len() - 2], "")
            .replace(lines[lines.len() - 1], &lines[lines.len() - 2..].iter().rev().copied().collect::<Vec<_>>().join("\n"));
        let others = [
            FILE.replace("max_body: 2KiB", "max_body: 3KiB"),
            FILE.replace("concurrency: 4", "concurrency: 8"),
            FILE.replace("crm.example/in", "crm.example/out"),
            FILE.replace("wxyz", "wxyy"),
            FILE.replace("'b.*'", "'b.**'"),
            FILE.replace("destinations:", "defaults: {destination: {concurrency: 2}}\ndestinations:"),
            swapped,
        ];
        for text in others {
            assert!(text != FILE && meaning(&text) != meaning(FILE), "{text}");
        }
        assert!(meaning_with(FILE, "whsec_XfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") != meaning(FILE), "a secret from outside");
        assert_eq!(format!("{:?}", meaning(FILE)), "Meaning(***)");
    }
}
