//! `map` and `cases` of a source: where an event's id, type, time, namespace and subject stand in a body of any shape.

use axum::http::HeaderName;
use serde_json::Value;

use super::{
    body::{Body, fit},
    request::Raw,
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Schema, Shape},
        tree::Node,
    },
    route::{
        path::{Path, Step, follow},
        when::Condition,
    },
};

/// What a `map` may name.
const KEYS: Keys = Keys::of(&[
    Field::of::<IdOrType>("id", "The sender's id of an event: what comes again under it is a duplicate. Also `header:Name`.")
        .example("$.message.id"),
    Field::of::<Members>("data", "The part of the body that is the event's data; without it, or where it is missing, all of it.")
        .example("$.data"),
])
.and(&[WITHOUT_ID]);
/// The same for kinds that settle the id themselves.
const WITHOUT_ID: Keys = Keys::of(&[
    Field::of::<IdOrType>("type", "The event's type. Also `header:Name`.").example("connector.gmail.email_sent"),
    Field::of::<Expression>("time", "When it happened, as the sender says.").example("$.message.sent_at"),
    Field::of::<Expression>("namespace", "Whose event it is.").example("$.account"),
    Field::of::<Expression>("subject", "What it happened to.").example("$.message.thread_id"),
]);

/// A [`Mapping`] of a kind that settles the id itself.
pub(crate) struct MapWithoutId;

impl Shape for MapWithoutId {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("map_without_id", |all| Schema::map(WITHOUT_ID, all))
    }
}

impl Shape for Mapping {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("map", |all| Schema::map(KEYS, all))
    }
}

/// A value of a `map` that may be a header's.
struct IdOrType;

impl Shape for IdOrType {
    fn schema(all: &mut Definitions) -> Schema {
        Expression::schema(all)
    }
}

impl Shape for Expression {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text().not_empty()
    }
}

/// One value of a `map`.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    /// The text itself.
    Literal(String),
    /// What a JSONPath finds first in the body, where it is text or a number.
    Path(Path),
    /// The value of a header (`header:X-Request-Id`). No signature covers headers: fit for ids and types of senders that have
    /// them nowhere else.
    Header(HeaderName),
}

/// A `map`. What it does not name, or does not find, the kind settles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mapping {
    /// The event's id.
    pub(crate) id: Vec<Expression>,
    /// Its type.
    pub(crate) r#type: Vec<Expression>,
    /// Its time.
    pub(crate) time: Vec<Expression>,
    /// Its namespace.
    pub(crate) namespace: Vec<Expression>,
    /// Its subject.
    pub(crate) subject: Vec<Expression>,
    /// The part of the body that is its data; `None`: all of it.
    pub(crate) data: Option<Members>,
}

/// A JSONPath that is a chain of names (`$.data.runs`), so that what it finds can be cut from the body as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Members {
    /// The names, in order.
    pub(crate) names: Vec<String>,
}

impl std::fmt::Display for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("$")?;
        self.names.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

impl Shape for Members {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r#"^\$(\.[^.\[\]*\s]+|\[('[^']*'|"[^"]*")\])*$"#, MEMBERS)
    }
}

/// What such paths are called in messages.
const MEMBERS: &str = "a chain of names such as $.data.runs";

impl Decode for Members {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let path = Path::decode(node, cx)?;
        let name = |step: &Step| match step {
            Step::Name(name) => Some(name.clone()),
            Step::Index(_) => None,
        };
        let names = path.steps().and_then(|steps| steps.iter().map(name).collect());
        if names.is_none() {
            cx.error("bad-value", node.place, format!("this must be {MEMBERS}: no brackets, no `..`, no `*`"));
        }
        names.map(|names| Self { names })
    }
}

/// What a mapping found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// The event's id, as it was found.
    pub(crate) id: Option<String>,
    /// Its type.
    pub(crate) r#type: Option<String>,
    /// Its time, as text.
    pub(crate) time: Option<String>,
    /// Its namespace.
    pub(crate) namespace: Option<String>,
    /// Its subject.
    pub(crate) subject: Option<String>,
}

/// One entry of `cases`.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    when: Vec<Condition>,
    /// What holds for bodies it takes.
    pub(crate) map: Mapping,
}

impl Mapping {
    /// Reads a `map`.
    pub(crate) fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`map`", KEYS, cx)?;
        let id = expression(&mut fields, "id", true, cx);
        let data = fields.optional("data", cx);
        Some(Self { id, data, ..Self::rest(fields, cx) })
    }

    /// Reads the `map` of a kind that settles the id itself.
    pub(crate) fn decode_without_id(node: &Node, cx: &mut Context) -> Option<Self> {
        Fields::open(node, "`map`", WITHOUT_ID, cx).map(|fields| Self::rest(fields, cx))
    }

    fn rest(mut fields: Fields<'_>, cx: &mut Context) -> Self {
        let map = Self {
            id: Vec::new(),
            r#type: expression(&mut fields, "type", true, cx),
            time: expression(&mut fields, "time", false, cx),
            namespace: expression(&mut fields, "namespace", false, cx),
            subject: expression(&mut fields, "subject", false, cx),
            data: None,
        };
        fields.finish(cx);
        map
    }

    /// The one type that its events are of, `unnamed` where it names none; `None` where the event says.
    pub(crate) fn settled_type<'s>(&'s self, unnamed: &'s str) -> Option<&'s str> {
        match self.r#type.first() {
            None => Some(unnamed),
            Some(Expression::Literal(text)) => Some(text),
            Some(Expression::Path(_) | Expression::Header(_)) => None,
        }
    }

    /// True when it names nothing, so that no body need be read for it.
    pub(crate) fn is_empty(&self) -> bool {
        let lists = [&self.id, &self.r#type, &self.time, &self.namespace, &self.subject];
        self.data.is_none() && lists.iter().all(|list| list.is_empty())
    }

    /// This mapping, and where it finds nothing, `other`.
    pub(crate) fn or(mut self, other: &Self) -> Self {
        self.id.extend_from_slice(&other.id);
        self.r#type.extend_from_slice(&other.r#type);
        self.time.extend_from_slice(&other.time);
        self.namespace.extend_from_slice(&other.namespace);
        self.subject.extend_from_slice(&other.subject);
        self.data = self.data.or_else(|| other.data.clone());
        self
    }

    /// What it finds in `body`, which is the body of `request`.
    pub(crate) fn apply(&self, request: &Raw, body: &Value) -> Mapped {
        let first = |list: &[Expression]| list.iter().find_map(|expression| expression.find(request, body));
        let fitting = |list: &[Expression]| list.iter().find_map(|expression| expression.find(request, body).and_then(fit));
        Mapped {
            id: first(&self.id),
            r#type: fitting(&self.r#type),
            time: first(&self.time),
            namespace: fitting(&self.namespace),
            subject: fitting(&self.subject),
        }
    }

    /// The headers it reads.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.id.iter().chain(&self.r#type).filter_map(|expression| match expression {
            Expression::Header(name) => Some(name),
            _ => None,
        })
    }
}

fn expression(fields: &mut Fields<'_>, name: &'static str, header: bool, cx: &mut Context) -> Vec<Expression> {
    fields.node(name).and_then(|node| Expression::decode(node, header, cx)).into_iter().collect()
}

impl Expression {
    /// A path that is known to be one.
    pub(crate) fn path(text: &str) -> Option<Self> {
        Path::parse(text).ok().map(Self::Path)
    }

    fn decode(node: &Node, header: bool, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text.starts_with('$') {
            return Path::decode(node, cx).map(Self::Path);
        }
        match text.strip_prefix("header:") {
            Some(name) if header => header_name(name, node, cx).map(Self::Header),
            _ => literal(text, node, cx),
        }
    }

    /// The text it stands for; nothing when that is empty.
    fn find(&self, request: &Raw, body: &Value) -> Option<String> {
        let found = match self {
            Self::Literal(text) => Some(text.clone()),
            Self::Path(path) => path.text_in(body).or_else(|| long_number(path, request, body)),
            Self::Header(name) => request.one(name).map(str::to_owned),
        };
        found.filter(|text| !text.is_empty())
    }
}

/// The number at `path` as it was written, where it has more digits than are held of numbers: two rounded ids might be the same.
fn long_number(path: &Path, request: &Raw, body: &Value) -> Option<String> {
    let steps = path.steps()?;
    let Some(Value::Number(number)) = follow(body, steps) else { return None };
    let written = Body::token_of(std::str::from_utf8(&request.body).ok()?).follow(steps)?.text()?;
    // A body that was made of the request's is another one.
    (written.parse::<f64>().ok() == number.as_f64()).then_some(written)
}

fn literal(text: String, node: &Node, cx: &mut Context) -> Option<Expression> {
    let literal = fit(text).map(Expression::Literal);
    if literal.is_none() {
        cx.error("bad-value", node.place, "a literal here has 1 to 256 characters, none of them control characters");
    }
    literal
}

/// The name of a header.
pub(crate) struct HeaderText;

impl Shape for HeaderText {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "the name of a header such as X-Request-Id")
    }
}

/// `name` as the name of a header; anything else is an error at `node`.
pub(crate) fn header_name(name: &str, node: &Node, cx: &mut Context) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(name).ok();
    parsed.or_else(|| cx.expected("the name of a header such as X-Request-Id", node))
}

impl Case {
    /// Whether it takes `body`.
    pub(crate) fn takes(&self, body: &Value) -> bool {
        self.when.iter().all(|condition| condition.holds(body))
    }
}

impl Case {
    const KEYS: Keys = Keys::of(&[
        Field::of::<Vec<Condition>>("when", "Conditions on the body, all of which must hold; `$` is the body.")
            .required()
            .example(r#"[{"path": "$.connector", "eq": "gmail"}]"#)
            .such_that(Schema::not_empty),
        Field::of::<Mapping>("map", "Where things stand in such a body; what it does not name, the source's own `map` does."),
    ]);
}

impl Shape for Case {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(Self::KEYS, all)
    }
}

impl Decode for Case {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "a case", Self::KEYS, cx)?;
        let when: Option<Vec<Condition>> = fields.required("when", cx);
        if when.as_ref().is_some_and(Vec::is_empty) {
            cx.error("bad-value", fields.key_place("when"), "a case needs at least one condition");
        }
        let map = match fields.node("map") {
            Some(map) => Mapping::decode(map, cx),
            None => Some(Mapping::default()),
        };
        fields.finish(cx);
        Some(Self { when: when?, map: map? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ingest::{kinds::tests::yaml, request::tests::request},
        json,
    };

    fn decode(text: &str) -> (Option<Mapping>, Vec<&'static str>) {
        let mut cx = Context::default();
        let map = Mapping::decode(&yaml(text), &mut cx);
        (map, cx.problems.iter().map(|problem| problem.code).collect())
    }

    #[test]
    fn values_are_literals_paths_or_headers() {
        let (map, problems) =
            decode(r#"{"id": "header:X-Id", "type": "a.b", "time": "$.t", "namespace": "$.account", "subject": "$.m[0]"}"#);
        assert!(problems.is_empty());
        let found = map.unwrap().apply(&request("/", &[("x-id", "r1")], b""), &json!({"t": 5, "account": "a\nb", "m": [7]}));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(found, Mapped { id: text("r1"), r#type: text("a.b"), time: text("5"), namespace: None, subject: text("7") });
    }

    #[test]
    fn numbers_of_many_digits_are_as_they_were_written() {
        let (map, _) = decode(r#"{"id": "$.m[-1].id"}"#);
        let id = |text: &str| map.clone().unwrap().apply(&request("/", &[], text.as_bytes()), &json::lenient(text.as_bytes())).id;
        let long = "123456789012345678901234567890";
        assert_eq!(id(&format!(r#"{{"m": [{{"id": 1}}, {{"id": {long}}}]}}"#)).as_deref(), Some(long));
        assert_eq!(id(r#"{"m": [{"id": 18446744073709551616}]}"#).as_deref(), Some("18446744073709551616"));
        assert_eq!(id(r#"{"m": [{"id": 7}]}"#).as_deref(), Some("7"));
        for none in [r#"{"m": [{"id": 1e999}]}"#, r#"{"m": [{"id": null}]}"#, r#"{"m": []}"#, r#"{"m": {"id": 1}}"#] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for (text, code) in [
            (r#"{"typ": "a"}"#, "unknown-key"),
            (r#"{"type": 5}"#, "bad-type"),
            (r#"{"type": "$["}"#, "bad-jsonpath"),
            (r#"{"type": ""}"#, "bad-value"),
            (r#"{"id": "header:a b"}"#, "bad-type"),
        ] {
            assert_eq!(decode(text).1, [code], "{text}");
        }
    }

    #[test]
    fn the_first_that_finds_something_counts() {
        let map = decode(r#"{"type": "$.a"}"#).0.unwrap().or(&decode(r#"{"type": "fallback"}"#).0.unwrap());
        let typed = |body| map.apply(&request("/", &[], b""), &body).r#type.unwrap();
        assert_eq!((typed(json!({"a": "x"})), typed(json!({"a": {}}))), ("x".to_owned(), "fallback".to_owned()));
    }
}
