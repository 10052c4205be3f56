//! JSONPath (RFC 9535) behind a guard. Plain chains of names and indices, nearly all there are, are followed directly; only the rest
//! reach the library.

use jsonpath_rust::{
    parser::{model::JpQuery, parse_json_path},
    query::js_path_process,
};
use serde_json::{Number, Value};

use crate::config::{
    PROBLEMS_MAX,
    decode::{Context, Decode, Definitions, Schema, Shape},
    tree::{self, Node, Place},
};

mod bounded;

pub use bounded::LOOKS_MAX;

/// Longest path, in bytes.
const LEN_MAX: usize = 512;
/// How deep brackets and parentheses may nest.
const DEPTH_MAX: usize = 8;
/// How many `..` a path may hold: each multiplies the work.
const DESCENTS_MAX: usize = 2;

/// A compiled JSONPath.
#[derive(Debug, Clone)]
pub struct Path {
    text: String,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// A chain of names and indices: at most one node.
    Plain(Vec<Step>),
    /// Anything else.
    Query(Box<JpQuery>),
    /// The same, of a stranger: looked for in one walk of bounded length.
    Bounded(Box<JpQuery>),
}

/// One step of a plain path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member of an object.
    Name(String),
    /// An element of an array; negative counts from its end.
    Index(i64),
}

/// Why a text is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It does not begin with `$`.
    #[error("a path begins with `$`")]
    NoRoot,
    /// The guard refuses it.
    #[error("a path has at most {LEN_MAX} bytes, brackets nested at most {DEPTH_MAX} deep, and at most {DESCENTS_MAX} `..`")]
    TooMuch,
    /// RFC 9535 refuses it.
    #[error("this is not a JSONPath (RFC 9535)")]
    Syntax,
}

impl Path {
    /// Compiles `text`.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        let rest = text.strip_prefix('$').ok_or(BadPath::NoRoot)?;
        guard(text)?;
        let form = match plain(rest) {
            Some(steps) => Form::Plain(steps),
            None => Form::Query(Box::new(parse_json_path(text).map_err(|_| BadPath::Syntax)?)),
        };
        Ok(Self { text: text.to_owned(), form })
    }

    /// The path as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The steps, when the path is a plain chain.
    pub fn steps(&self) -> Option<&[Step]> {
        match &self.form {
            Form::Plain(steps) => Some(steps),
            Form::Query(_) | Form::Bounded(_) => None,
        }
    }

    /// The same path for whoever must not make the relay work without end: it looks at [`LOOKS_MAX`] values of an event at most. The error
    /// says what of it such a path cannot say.
    pub fn bounded(self) -> Result<Self, String> {
        let form = match self.form {
            Form::Query(query) => {
                bounded::check(&query).map_err(|reason| format!("`{}` {reason}", self.text))?;
                Form::Bounded(query)
            }
            other => other,
        };
        Ok(Self { form, ..self })
    }

    /// The nodes it finds in `root`, in the order of the document.
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        match &self.form {
            Form::Plain(steps) => follow(root, steps).into_iter().collect(),
            Form::Query(query) => {
                let found = js_path_process(query, root);
                found.map(|found| found.into_iter().map(|node| node.val()).collect()).unwrap_or_default()
            }
            Form::Bounded(query) => bounded::find(query, root),
        }
    }

    /// The text or number it finds first, as text: what ids, types and keys are made of.
    pub fn text_in(&self, root: &Value) -> Option<String> {
        let found = match &self.form {
            Form::Plain(steps) => follow(root, steps),
            Form::Query(_) | Form::Bounded(_) => self.find(root).into_iter().next(),
        };
        match found? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => is_exact(number).then(|| number.to_string()),
            _ => None,
        }
    }
}

/// Whether a number was held as it was written, rather than rounded: two rounded ids might be the same.
fn is_exact(number: &Number) -> bool {
    /// From here on, doubles skip integers.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    !number.is_f64() || number.as_f64().is_some_and(|value| value.abs() < EXACT_MAX)
}

/// Follows a plain chain of steps.
pub fn follow<'v>(root: &'v Value, steps: &[Step]) -> Option<&'v Value> {
    steps.iter().try_fold(root, |value, step| match (step, value) {
        (Step::Name(name), Value::Object(map)) => map.get(name),
        (Step::Index(index), Value::Array(items)) => {
            let index = if *index < 0 { i64::try_from(items.len()).ok()? + index } else { *index };
            items.get(usize::try_from(index).ok()?)
        }
        _ => None,
    })
}

/// What the library's parser and evaluator must not be given: see `field/crates-and-outside-systems.md`, "JSONPath".
fn guard(text: &str) -> Result<(), BadPath> {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            // The library takes `$.a b` for `$.a`: what follows would be lost without a word.
            b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return Err(BadPath::Syntax),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    let descents = text.matches("..").count();
    let good = text.len() <= LEN_MAX && deepest <= DEPTH_MAX && descents <= DESCENTS_MAX;
    good.then_some(()).ok_or(BadPath::TooMuch)
}

/// The steps of a plain chain: `.name`, `['name']`, `["name"]`, `[0]`, `[-1]`; `None` for anything else.
fn plain(mut rest: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) =
            if let Some(after) = rest.strip_prefix('.') { dotted(after)? } else { bracketed(rest.strip_prefix('[')?)? };
        steps.push(step);
        rest = after;
    }
    Some(steps)
}

fn dotted(text: &str) -> Option<(Step, &str)> {
    let fits = |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || !c.is_ascii() || (0 < at && c.is_ascii_digit());
    let length = text.char_indices().take_while(|pair| fits(*pair)).map(|(at, c)| at + c.len_utf8()).last()?;
    let (name, after) = text.split_at_checked(length)?;
    Some((Step::Name(name.to_owned()), after))
}

fn bracketed(text: &str) -> Option<(Step, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'));
    if let Some(quote) = quote {
        let (name, after) = text.get(1..)?.split_once(quote)?;
        let simple = !name.contains('\\') && !name.chars().any(char::is_control);
        return simple.then_some((Step::Name(name.to_owned()), after.strip_prefix(']')?));
    }
    let (digits, after) = text.split_once(']')?;
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    let canonical =
        digits == "0" || (!unsigned.starts_with('0') && !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()));
    // RFC 9535 keeps indices within the integers that a double holds exactly.
    let index: i64 = canonical.then(|| digits.parse().ok()).flatten().filter(|index: &i64| index.unsigned_abs() < 1 << 53)?;
    Some((Step::Index(index), after))
}

/// What paths are called in messages.
const PATH: &str = "a JSONPath such as $.data.amount";

impl Shape for Path {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^\$", PATH)
    }
}

impl Decode for Path {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let tree::Value::String(text) = &node.value else {
            return cx.expected(PATH, node);
        };
        match Self::parse(text) {
            Ok(path) => Some(path),
            Err(error) => {
                refuse(text, &error, node, cx);
                None
            }
        }
    }
}

/// Says where `text` stops being a path, and how it was probably meant.
fn refuse(text: &str, error: &BadPath, node: &Node, cx: &mut Context) {
    // Looking for the place takes time, which a file with many mistakes would only waste.
    let stop = (*error == BadPath::Syntax && cx.problems.len() < PROBLEMS_MAX && !node.referenced).then(|| stops_at(text));
    let stop_place = stop.and_then(|at| {
        let whole = cx.find_in(node.place, text)?;
        let length = text.get(at..)?.chars().next()?.len_utf8();
        Some(Place { start: whole.start + at, end: whole.start + at + length })
    });
    let what = if node.referenced { "this".to_owned() } else { format!("`{text}`") };
    let message = match error {
        BadPath::Syntax => format!("{what} is not a path (RFC 9535)"),
        other => format!("{what} is not a path: {other}"),
    };
    let problem = cx.error("bad-jsonpath", stop_place.unwrap_or(node.place), message);
    if stop_place.is_some() {
        problem.label("the path ends before this");
    }
    match stop.map(|at| text.split_at(at)) {
        Some((path, rest)) => {
            if let Some((operator, value)) = comparison(rest) {
                problem.help(format!("put the comparison beside it: {{path: {}, {operator}: {value}}}", path.trim_end()));
            }
        }
        None if *error == BadPath::NoRoot && !node.referenced => {
            let rooted = format!("$.{}", text.trim_start_matches('.'));
            problem.did_you_mean(Path::parse(&rooted).is_ok().then_some(rooted.as_str()));
        }
        None => {}
    }
}

/// Where the longest beginning of `text` that is a path ends, white space behind it passed over.
fn stops_at(text: &str) -> usize {
    let ends = text.char_indices().map(|(at, _)| at).rev().filter(|at| 0 < *at);
    let end = ends.filter_map(|at| text.get(..at)).find(|path| Path::parse(path).is_ok()).map_or(0, str::len);
    let rest = text.get(end..).unwrap_or_default();
    end + rest.len() - rest.trim_start().len()
}

/// The operator and the value of `> 1000`, as `when` writes them.
fn comparison(rest: &str) -> Option<(&'static str, &str)> {
    let operators =
        [("==", "eq"), ("!=", "ne"), (">=", "gte"), ("<=", "lte"), (">", "gt"), ("<", "lt"), ("=~", "matches"), ("=", "eq")];
    let (sign, operator) = operators.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
    let value = rest.get(sign.len()..)?.trim();
    (!value.is_empty()).then_some((operator, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_had_to_be_rounded_are_no_text() {
        let text = |json: &str| Path::parse("$.id").unwrap().text_in(&serde_json::from_str(json).unwrap());
        for (written, text_of_it) in
            [("18446744073709551615", Some("18446744073709551615")), ("-7", Some("-7")), ("1.5", Some("1.5"))]
        {
            assert_eq!(text(&format!(r#"{{"id":{written}}}"#)).as_deref(), text_of_it, "{written}");
        }
        for rounded in ["123456789012345678901", "1e20", "-1e300"] {
            assert_eq!(text(&format!(r#"{{"id":{rounded}}}"#)), None, "{rounded}");
        }
    }

    #[test]
    fn plain_paths_are_followed_directly() {
        let root = json!({"a": {"b c": [10, {"ü": true}]}});
        let find = |text: &str| Path::parse(text).unwrap().find(&root).into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(find("$.a['b c'][0]"), [json!(10)]);
        assert_eq!(find(r#"$["a"]["b c"][-1].ü"#), [json!(true)]);
        assert_eq!(find("$"), std::slice::from_ref(&root));
        assert!(find("$.a.b").is_empty() && find("$.a['b c'][2]").is_empty() && find("$.a['b c'][-3]").is_empty());
        for plain in ["$.a['b c'][0]", "$.data.instance_id", "$"] {
            assert!(Path::parse(plain).unwrap().steps().is_some(), "{plain}");
        }
    }

    #[test]
    fn other_paths_reach_the_library() {
        let root = json!({"items": [{"p": 1}, {"p": 5}]});
        let path = Path::parse("$.items[?@.p > 2].p").unwrap();
        assert!(path.steps().is_none());
        assert_eq!(path.find(&root), [&json!(5)]);
        assert_eq!(Path::parse("$.items[*].p").unwrap().find(&root).len(), 2);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert_eq!(Path::parse("data.x").unwrap_err(), BadPath::NoRoot);
        for bad in ["$.a > 1", "$[", "$.a b", "$[01]", "$['a"] {
            assert_eq!(Path::parse(bad).err(), Some(BadPath::Syntax), "{bad}");
        }
        let long = format!("$.{}", "a".repeat(LEN_MAX));
        for bad in ["$..a..a..a", &long, &format!("$[?{}@.a{}]", "(".repeat(9), ")".repeat(9))] {
            assert_eq!(Path::parse(bad).unwrap_err(), BadPath::TooMuch, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_guard_or_the_library(text: String, like in r#"\$([.\[\]()?@*'"a-c0-9 <>=!&|,:-]|\.\.){0,24}"#) {
            let root = json!({"a": [{"b": 1, "c": "x"}, [1, 2]], "b": null});
            for text in [&text, &like] {
                if let Ok(path) = Path::parse(text) {
                    let _ = path.find(&root);
                }
            }
        }
    }
}
