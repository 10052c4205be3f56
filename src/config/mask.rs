//! What of the file must not be shown: literal secrets. They are starred out, character by character, in the copy of the text
//! that diagnostics quote from, so that lines and columns stay what they are.

use super::tree::{Node, Place, Value};

/// Where secrets stand in a file.
#[derive(Debug, Default)]
pub(super) struct Mask {
    /// Sorted by place once the mask is finished.
    places: Vec<Place>,
}

/// True for a key whose values are secrets.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(
        key,
        "secret"
            | "secrets"
            | "password"
            | "token"
            | "api_key"
            | "encryption_key"
            | "previous_encryption_keys"
            | "path_secret"
            | "bearer"
    ) || key.ends_with("_token")
        || key.ends_with("_secret")
}

/// Secret keys as a slip of the hand would be likened to them.
const SECRET_KEYS: [&str; 9] = [
    "secret",
    "secrets",
    "password",
    "encryption_key",
    "previous_encryption_keys",
    "path_secret",
    "bot_token",
    "auth_token",
    "api_key",
];
/// How alike a key must be to a secret one for its text to be hidden (Jaro-Winkler).
const ALIKE: f64 = 0.9;
/// How well-known secrets begin.
const SECRET_PREFIXES: [&str; 4] = ["whsec_", "xox", "hy_", "Bearer "];

/// True for a key that was probably meant to be a secret one: the line of `secretes` is shown to say so, its value is not.
fn is_nearly_secret(key: &str) -> bool {
    SECRET_KEYS.iter().any(|secret| ALIKE <= strsim::jaro_winkler(key, secret))
}

/// True for what is a secret wherever it stands.
fn looks_secret(node: &Node) -> bool {
    node.text().is_some_and(|text| SECRET_PREFIXES.iter().any(|prefix| text.starts_with(prefix)))
}

/// True for the name of an HTTP header that carries credentials.
fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut words = name.split(['-', '_']);
    ["auth", "token", "key", "secret", "pass", "pwd", "cookie", "signature"].iter().any(|part| name.contains(part))
        || words.any(|word| word == "sec")
}

impl Mask {
    /// Adds the secrets of a file that is YAML: those of `root`, before references are resolved. `text` is that of all files.
    pub(super) fn add_tree(&mut self, root: &Node, text: &str) {
        collect(root, text, "", false, &mut self.places);
    }

    /// Adds the secrets of a file that is not YAML and begins at byte `base` of all files, as far as its lines tell.
    pub(super) fn add_lines(&mut self, text: &str, base: usize) {
        let mut lines = Lines { at: base, inside: None };
        self.places.extend(text.split_inclusive('\n').filter_map(|line| lines.secret_of(line)));
    }

    /// Adds what stands at `hidden`, and makes the mask ready.
    pub(super) fn finish(mut self, hidden: &[Place]) -> Self {
        self.places.extend(hidden);
        self.places.sort_unstable();
        self
    }

    /// `text` with every secret starred out. Same length in bytes and in characters.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for place in &self.places {
            let start = place.start.max(done);
            out.push_str(text.get(done..start).unwrap_or_default());
            let end = place.end.max(start);
            star(text.get(start..end).unwrap_or_default(), &mut out);
            done = end;
        }
        out.push_str(text.get(done..).unwrap_or_default());
        out
    }

    /// Whether all of `place` is secret.
    pub(super) fn covers(&self, place: Place) -> bool {
        self.within(place).any(|secret| secret.start <= place.start && place.end <= secret.end)
    }

    /// Whether anything in `place` is secret.
    pub(super) fn touches(&self, place: Place) -> bool {
        self.within(place).next().is_some()
    }

    /// The secrets that stand at least partly in `place`.
    pub(super) fn within(&self, place: Place) -> impl Iterator<Item = Place> {
        let first = self.places.partition_point(|secret| secret.end <= place.start);
        let end = place.end.max(place.start + 1);
        self.places.get(first..).unwrap_or_default().iter().copied().take_while(move |secret| secret.start < end)
    }
}

/// True when the line that begins at `start` holds or continues the value of a secret key.
pub(super) fn lexical_line(text: &str, start: usize) -> bool {
    let mut lines = Lines::default();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let secret = lines.secret_of(line).is_some();
        if start <= at {
            return secret;
        }
        at += line.len();
    }
    false
}

fn collect(node: &Node, text: &str, key: &str, secret: bool, places: &mut Vec<Place>) {
    match &node.value {
        Value::Map(map) => {
            let capability = map.iter().any(|(key, node)| key.name == "kind" && has_secret_url(node));
            for (inner, node) in map {
                let name = inner.name.as_str();
                let in_header = key == "header" && name != "name";
                let near = node.entries().is_empty() && is_nearly_secret(name);
                let secret = secret || is_secret(name) || near || in_header || (key == "headers" && is_secret_header(name));
                if name == "url" {
                    places.extend(secrets_of_url(node, capability));
                }
                collect(node, text, name, secret, places);
            }
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, text, key, secret, places)),
        Value::Null if secret => places.extend(comment_after(text, node.place.start)),
        Value::Null => {}
        _ if secret || looks_secret(node) => places.push(node.place),
        _ => {}
    }
}

/// The secrets of `node`, which stands under `key` in a map unknown; without a key, all of it.
pub(super) fn secrets_of(key: Option<&str>, node: &Node) -> Vec<Place> {
    let mut places = Vec::new();
    let secret = key.is_none_or(|key| is_secret(key) || is_secret_header(key) || matches!(key, "value" | "values"));
    collect(node, "", key.unwrap_or_default(), secret, &mut places);
    places
}

/// The comment that begins where a value was meant: `password: #hush`.
fn comment_after(text: &str, at: usize) -> Option<Place> {
    let line = text.get(at..)?.lines().next()?;
    let comment = line.find('#')?;
    Some(Place { start: at + comment, end: at + line.len() })
}

/// Kinds whose URL is or may be a capability: whoever has its path can send. Hooks of Zapier and Make are called by `webhook`; what is
/// asked by `poll` may carry a key in its query.
pub(super) fn has_secret_url(kind: &Node) -> bool {
    matches!(&kind.value, Value::String(kind) if matches!(kind.as_str(), "n8n" | "slack" | "webhook" | "poll"))
}

/// The secret parts of a URL: all after the host, or the user and password. In one that is not of the web (a database's, a mail server's) a
/// password may hold anything as it was typed, and stand among the options too.
fn secrets_of_url(node: &Node, capability: bool) -> Vec<Place> {
    let Value::String(url) = &node.value else { return Vec::new() };
    let quote = usize::from(node.place.end - node.place.start == url.len() + 2);
    let Some(authority) = url.find("://").map(|at| at + 3) else { return Vec::new() };
    let at = |offset: usize| (node.place.start + quote + offset).min(node.place.end);
    let place = |start: usize, end: usize| Place { start: at(start), end: at(end) };
    let rest = url.get(authority..).unwrap_or_default();
    if !is_of_the_web(url) {
        let user = rest.rfind('@').map(|sign| place(authority, authority + sign));
        let passwords = rest.match_indices(PASSWORD).map(|(found, _)| {
            let start = authority + found + PASSWORD.len();
            let value = url.get(start..).unwrap_or_default();
            place(start, start + value.find('&').unwrap_or(value.len()))
        });
        return user.into_iter().chain(passwords).collect();
    }
    let path = rest.find(AFTER_HOST).map_or(url.len(), |sign| authority + sign + 1);
    let user = url.get(authority..path).and_then(|authority| authority.rfind('@'));
    let secret = match user {
        Some(sign) => Some(place(authority, if capability { url.len() } else { authority + sign })),
        None => (capability && path < url.len()).then(|| place(path, url.len())),
    };
    secret.into_iter().collect()
}

/// What a host ends with.
const AFTER_HOST: [char; 3] = ['/', '?', '#'];
/// Goes before a password among the options of a URL.
const PASSWORD: &str = "password=";

/// True for a URL in which a user and a password end before the first `/`.
pub(super) fn is_of_the_web(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// What of `line`, which begins at byte `start` of the file, may be secret of a URL: all behind its host, and with a user all of it.
fn url_in(line: &str, start: usize) -> Option<Place> {
    let authority = line.find("://")? + 3;
    let rest = line.get(authority..)?;
    let from = match rest.contains('@') {
        true => authority,
        false => authority + rest.find(AFTER_HOST)? + 1,
    };
    let place = inner(line, start, from);
    (place.start < place.end).then_some(place)
}

/// Stars out `secret` but for quotes, line ends and references, whose names are not secret (their defaults are).
fn star(secret: &str, out: &mut String) {
    let mut rest = secret;
    while let Some(first) = rest.chars().next() {
        if let Some((reference, after)) = reference_at(rest) {
            let (name, default) = reference.split_once(":-").map_or((reference, ""), |(name, default)| (name, default));
            out.push_str(name);
            if name.len() < reference.len() {
                out.push_str(":-");
                let value = default.strip_suffix('}').unwrap_or(default);
                value.chars().for_each(|c| out.push(star_of(c)));
                out.push('}');
            }
            rest = after;
            continue;
        }
        out.push(star_of(first));
        rest = rest.get(first.len_utf8()..).unwrap_or_default();
    }
}

fn reference_at(text: &str) -> Option<(&str, &str)> {
    let end = text.strip_prefix("${")?.find('}')? + 3;
    text.split_at_checked(end)
}

/// A mark as long, in bytes, as what it hides, so that places hold.
fn star_of(c: char) -> char {
    match (c, c.len_utf8()) {
        ('"' | '\'' | '\n' | '\r' | '\t' | ' ', _) => c,
        (_, 1) => '*',
        (_, 2) => '·',
        (_, 3) => '•',
        _ => '🞄',
    }
}

/// Reads lines for secret keys without understanding YAML. Rather hides too much.
#[derive(Default)]
struct Lines {
    at: usize,
    /// Indentation of the secret key whose value the next lines may go on with.
    inside: Option<usize>,
}

impl Lines {
    /// The part of the next line that may be secret.
    fn secret_of(&mut self, line: &str) -> Option<Place> {
        let start = self.at;
        self.at += line.len();
        let content = line.trim_end();
        let indent = content.len() - content.trim_start_matches([' ', '\t', '-']).len();
        if content.trim().is_empty() {
            return None;
        }
        if let Some(key) = secret_key_in(content) {
            self.inside = Some(content.len() - content.trim_start().len());
            let secret = inner(content, start, key);
            // A URL may stand before it.
            let from = url_in(content, start).map_or(secret.start, |url| url.start.min(secret.start));
            return Some(Place { start: from, ..secret });
        }
        let deeper = self.inside.is_some_and(|key| key < indent);
        if !deeper {
            self.inside = None;
            return url_in(content, start);
        }
        Some(inner(content, start, indent))
    }
}

/// What of `line`, which begins at byte `start` of the file, stands from `from` on, without the brackets and quotes around it.
fn inner(line: &str, start: usize, from: usize) -> Place {
    let value = line.get(from..).unwrap_or_default();
    let left = value.trim_start_matches([' ', '[', '{', '"', '\'']);
    let text = left.trim_end_matches([' ', ']', '}', '"', '\'']);
    let begin = start + from + value.len() - left.len();
    Place { start: begin, end: begin + text.len() }
}

/// Where the value of the first secret key of `line` begins.
fn secret_key_in(line: &str) -> Option<usize> {
    let colons = line.match_indices(':').map(|(at, _)| at);
    colons
        .filter(|at| {
            let before = line.get(..*at).unwrap_or_default().trim_end_matches(['"', '\'', ' ']);
            let word = before.rfind(|c: char| !(c.is_alphanumeric() || "_-".contains(c))).map_or(0, |sign| sign + 1);
            let word = before.get(word..).unwrap_or_default();
            is_secret(word) || is_nearly_secret(word) || word == "value" || word == "values" || is_secret_header(word)
        })
        .map(|at| at + 1)
        .next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{decode::Context, yaml};

    #[test]
    fn headers_that_carry_credentials_are_known_by_their_names() {
        let text =
            "headers: {X-Team: a, X-Pass: b, X-Pwd: c, X-Sec: d, x_sec_2: e, X-Section: f}\nsecurity: {require_https: true}\n";
        let shown =
            "headers: {X-Team: a, X-Pass: *, X-Pwd: *, X-Sec: *, x_sec_2: *, X-Section: f}\nsecurity: {require_https: true}\n";
        assert_eq!(masked(text), shown);
        let setting = "security: {require_https: true}\n";
        assert_eq!(of_lines(setting).apply(setting), setting, "whose name only begins so");
    }

    fn masked(text: &str) -> String {
        let root = yaml::parse(text, &mut Context::default()).unwrap();
        of_tree(&root, text).apply(text)
    }

    fn of_tree(root: &Node, text: &str) -> Mask {
        let mut mask = Mask::default();
        mask.add_tree(root, text);
        mask.finish(&[])
    }

    fn of_lines(text: &str) -> Mask {
        let mut mask = Mask::default();
        mask.add_lines(text, 0);
        mask.finish(&[])
    }

    #[test]
    fn literal_secrets_are_starred_and_references_are_not() {
        let text = "secrets: [whsec_abc, \"${A}\", \"${B:-höhö}\"]\npassword: 'x y'\nbot_token: |\n  xoxb\nheader: {name: X-Key, value: hush}\nheaders: {X-Team: billing, Authorization: Bearer abc}\nvalue: shown\ntoken: #hush\nsecretes: [a, b]\nx: [{header: {name: X, vals: hush}}, whsec_x, server]\n";
        insta::assert_snapshot!(masked(text), @r##"
        secrets: [*********, "${A}", "${B:-*·*·}"]
        password: '* *'
        bot_token: |
          ****
        header: {name: X-Key, value: ****}
        headers: {X-Team: billing, Authorization: ****** ***}
        value: shown
        token: *****
        secretes: [*, *]
        x: [{header: {name: X, vals: ****}}, *******, server]
        "##);
    }

    #[test]
    fn urls_that_are_capabilities_show_their_host_only() {
        let text = "n: {kind: n8n, url: \"https://n8n.example.com/webhook/abc\"}\nw: {kind: webhook, url: https://u:p@crm.example.com/in}\nx: {kind: webhook, url: https://hooks.example.com/in}\n";
        insta::assert_snapshot!(masked(text), @r#"
        n: {kind: n8n, url: "https://n8n.example.com/***********"}
        w: {kind: webhook, url: https://**********************}
        x: {kind: webhook, url: https://hooks.example.com/**}
        "#);
    }

    #[test]
    fn urls_without_a_path_hide_their_query() {
        let text = "p: {kind: poll, url: \"https://api.example.com?api_key=hush3\"}\nw: {kind: webhook, url: https://u:p@crm.example.com?a=/b}\nx: {url: https://u:p@a.example.com?to=b@c/}\ny: {kind: n8n, url: https://n8n.example.com#hush}\n";
        insta::assert_snapshot!(masked(text), @r#"
        p: {kind: poll, url: "https://api.example.com?*************"}
        w: {kind: webhook, url: https://************************}
        x: {url: https://***@a.example.com?to=b@c/}
        y: {kind: n8n, url: https://n8n.example.com#****}
        "#);
    }

    #[test]
    fn a_password_in_the_url_of_a_database_is_hidden_however_it_is_written() {
        let urls = [
            "postgres://me:hush@host/db",
            "postgres://host/db?user=me&password=hush",
            "postgres://host/db?password=hush&sslmode=require",
            "postgres://me:P?hush@host/db",
            "postgres://me:P@hush/hush@host/db",
            "postgresql://me:hu/sh#hush@host/db?sslmode=require",
            "smtps://me:pa/hush@mail.example.com:465",
        ];
        for url in urls {
            for text in [format!("store: {{url: \"{url}\"}}\n"), format!("store:\n  url: '{url}'\n")] {
                let shown = masked(&text);
                assert!(!shown.contains("hu") && !shown.contains("sh"), "{shown}");
                assert!(shown.contains("host") || shown.contains("mail"), "{shown}");
                let (broken, base) = (format!("a: [\n{text}"), 5);
                let mut mask = Mask::default();
                mask.add_lines(&broken, base);
                let shown = mask.finish(&[]).apply(&format!("     {broken}"));
                assert!(!shown.contains("hu") && !shown.contains("sh"), "{shown}");
                assert!(lexical_line(
                    &broken,
                    broken.rfind("url").unwrap() - broken.lines().last().unwrap().find("url").unwrap()
                ));
            }
        }
    }

    #[test]
    fn a_file_that_is_no_yaml_hides_what_stands_behind_the_host_of_a_url() {
        let text = "a: [\nurl: https://hooks.slack.com/services/T0/B0/hush\nx: {url: \"https://a.example.com?key=hush\"}\ny: https://a.example.com\nz: https://u:hush@a.example.com\nw: {url: 'postgres://me:hush@host/db', token: hush}\n";
        insta::assert_snapshot!(of_lines(text).apply(text), @r#"
        a: [
        url: https://hooks.slack.com/*******************
        x: {url: "https://a.example.com?********"}
        y: https://a.example.com
        z: https://********************
        w: {url: 'postgres://***************'* ****** ****}
        "#);
    }

    #[test]
    fn a_file_that_is_no_yaml_hides_by_lines() {
        let text = "a: [\nsources:\n  x:\n    secrets:\n      - whsec_abc\n      - def\n    path: /x\n    header: {value: hush, name: X}\nb: 1\n";
        insta::assert_snapshot!(of_lines(text).apply(text), @r##"
        a: [
        sources:
          x:
            secrets:
              - *********
              - ***
            path: /x
            header: {value: ***** ***** *}
        b: 1
        "##);
        assert!(lexical_line(text, text.find("      - def").unwrap()) && !lexical_line(text, text.find("    path").unwrap()));
    }

    proptest! {
        #[test]
        fn places_hold(text in r#"([a-z:\-{}$\[\]"' é🞄\n]|secrets:|value: ){0,40}"#) {
            let shown = of_lines(&text).apply(&text);
            prop_assert_eq!((shown.len(), shown.chars().count()), (text.len(), text.chars().count()));
            if let Some(root) = yaml::parse(&text, &mut Context::default()) {
                let shown = of_tree(&root, &text).apply(&text);
                prop_assert_eq!((shown.len(), shown.chars().count()), (text.len(), text.chars().count()));
            }
        }
    }
}
