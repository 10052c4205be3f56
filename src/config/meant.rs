//! What a person meant who wrote something else: words of other tools, and values that YAML took for something else without a word.

use super::{
    decode::{Context, Severity},
    traps,
    tree::{Node, Place, Value},
};

/// Keys as other tools and other people call them, and what they are called here. The first that is legal is meant.
const ALIASES: [(&str, &[&str]); 62] = [
    ("type", &["kind"]),
    ("destination", &["to"]),
    ("destinations", &["to"]),
    ("target", &["to"]),
    ("targets", &["to"]),
    ("send_to", &["to"]),
    ("receiver", &["to"]),
    ("receivers", &["to"]),
    ("recipients", &["to"]),
    ("event", &["match", "type"]),
    ("events", &["match", "type"]),
    ("on", &["match"]),
    ("matches", &["match"]),
    ("matchers", &["match"]),
    ("filter", &["when", "match"]),
    ("filters", &["when", "match"]),
    ("if", &["when"]),
    ("where", &["when"]),
    ("condition", &["when"]),
    ("conditions", &["when"]),
    ("level", &["severity"]),
    ("priority", &["severity"]),
    ("id", &["name"]),
    ("equals", &["eq"]),
    ("equal", &["eq"]),
    ("is", &["eq"]),
    ("==", &["eq"]),
    ("not_equals", &["ne"]),
    ("neq", &["ne"]),
    ("!=", &["ne"]),
    (">", &["gt"]),
    ("greater_than", &["gt"]),
    (">=", &["gte"]),
    ("ge", &["gte"]),
    ("<", &["lt"]),
    ("less_than", &["lt"]),
    ("<=", &["lte"]),
    ("le", &["lte"]),
    ("regex", &["matches"]),
    ("regexp", &["matches"]),
    ("pattern", &["matches"]),
    ("match", &["matches"]),
    ("prefix", &["starts_with"]),
    ("suffix", &["ends_with"]),
    ("includes", &["contains"]),
    ("one_of", &["in"]),
    ("none_of", &["not_in"]),
    ("or", &["any"]),
    ("uri", &["url"]),
    ("endpoint", &["url"]),
    ("webhook_url", &["url"]),
    ("token", &["bot_token", "auth_token"]),
    ("secret", &["secrets"]),
    ("retries", &["retry"]),
    ("timezone", &["tz"]),
    ("zone", &["tz"]),
    ("start", &["from"]),
    ("begin", &["from"]),
    ("end", &["to"]),
    ("until", &["to"]),
    ("user", &["username"]),
    ("login", &["username"]),
];

/// Keys that were given up on purpose, and what takes their place.
const WITHOUT: [(&str, &str); 4] = [
    ("continue", "leave it out: every rule that matches fires; `stop: true` ends the walk"),
    ("and", "leave it out: all conditions of a list must hold"),
    ("all", "leave it out: all conditions of a list must hold"),
    ("group_by", "`digest: {key: …, window: …}` gathers what belongs together, `throttle` lets one through"),
];

/// The one of `legal` that is meant by `key`, a word of another tool.
pub(super) fn key<'l>(key: &str, legal: impl Iterator<Item = &'l str>) -> Option<&'l str> {
    let (_, meant) = ALIASES.iter().find(|(alias, _)| *alias == key)?;
    let legal: Vec<&str> = legal.collect();
    meant.iter().find_map(|meant| legal.iter().copied().find(|legal| legal == meant))
}

/// What to do about `key`, where there is more to say than what it is called here; and what would put it right.
pub(super) fn key_hint(key: &str, legal: &[&str]) -> Option<(String, Option<String>)> {
    // `{listen:8080}` is a key without a value.
    if let Some((fixed, _)) = traps::spaced(key) {
        let known = key.split_once(':').is_some_and(|(name, _)| legal.contains(&name));
        return known.then(|| (format!("put a space after the colon: {fixed}"), Some(fixed)));
    }
    WITHOUT.iter().find(|(gone, _)| *gone == key).map(|(_, help)| ((*help).to_owned(), None))
}

/// What to do about a text that stands where something else is expected; and what would put it right.
pub(super) fn hint(node: &Node) -> Option<(String, Option<String>)> {
    let text = node.text().filter(|_| !node.referenced)?;
    if let Some((fixed, _)) = traps::spaced(text) {
        return Some((format!("put a space after the colon: {fixed}"), Some(fixed)));
    }
    if let Some(item) = text.strip_prefix('-').filter(|item| item.starts_with(char::is_alphabetic)) {
        let fixed = format!("- {item}");
        return Some((format!("put a space after the dash: {fixed}"), Some(fixed)));
    }
    text.starts_with(['“', '”', '„', '‘', '’', '«']).then(|| {
        let plain = text.trim_matches(['“', '”', '„', '‘', '’', '«', '»']);
        ("these are typographic quotation marks: YAML knows \" and '".to_owned(), Some(traps::quoted(plain)))
    })
}

/// The comment that stands where `node`, which is nothing, was to be a value: `channel: #ops`. A comment proper has a space behind its
/// mark.
pub(super) fn comment(text: &str, node: &Node) -> Option<(Place, String)> {
    if node.value != Value::Null {
        return None;
    }
    // What is nothing is placed before or behind the comment.
    let line_start = text.get(..node.place.start)?.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(line_start..)?.lines().next()?;
    let mark = line.match_indices('#').map(|(at, _)| at).find(|at| {
        let head = line.get(..*at).unwrap_or_default();
        head.ends_with(' ') && head.trim_end().ends_with([':', '-'])
    })?;
    let comment = line.get(mark..)?.split(" #").next()?.trim_end();
    let tight = comment.chars().nth(1).is_some_and(|c| !c.is_whitespace() && c != '#');
    tight.then(|| (Place { start: line_start + mark, end: line_start + mark + comment.len() }, comment.to_owned()))
}

/// Says so. Whether the comment may be repeated is seen to where secrets are taken out.
pub(super) fn say_comment(cx: &mut Context, severity: Severity, place: Place, comment: &str, message: &str) {
    let fix = traps::quoted(comment);
    let problem = match severity {
        Severity::Error => cx.error("comment-value", place, message),
        Severity::Warning => cx.warning("comment-value", place, message),
    };
    problem.help(format!("put it in quotes: {fix}"));
    problem.fix = Some(fix);
}
