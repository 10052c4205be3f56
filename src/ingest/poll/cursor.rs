//! `cursor` of a poll source: from where on it is asked, and which value an answer leads to. Pure.

use serde_json::{Value as Json, json};

use super::{
    fault::{Code, Fault},
    value::{As, Overlap, Value, shown},
};
use crate::{
    clock::{Timestamp, earlier},
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Schema, Shape, Words, duration},
        tree::{self, Node, Place},
    },
    route::path::Path,
};

/// Longest name of a query parameter, in bytes.
const QUERY_MAX: usize = 128;
/// How far is gone back where the file does not say: as late as items commonly show up.
const OVERLAP: std::time::Duration = std::time::Duration::from_secs(300);
/// Likewise of numbers: those of a sequence become visible when they are committed, and not in the order in which they were drawn.
const COUNT: u64 = 100;

/// From where on a source is asked.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    /// The parameter that carries it; `None`: the API is not asked from anywhere, its newest items come first.
    pub(crate) query: Option<String>,
    path: Path,
    /// Where its values stand.
    pub(super) from: From,
    /// What its values are.
    pub(super) kind: As,
    start: Start,
    overlap: Overlap,
    /// How the items of an answer follow one another.
    pub(super) order: Order,
}

/// Where a cursor's values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// In each item: the greatest is asked from next.
    Item,
    /// In the answer, which says itself what to ask from next.
    Answer,
}

impl Words for From {
    const WORDS: &'static [(&'static str, Self)] = &[("item", Self::Item), ("answer", Self::Answer)];
}

/// How items follow one another over all pages of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Somehow.
    Any,
    /// The oldest first.
    Ascending,
    /// The newest first.
    Descending,
}

impl Words for Order {
    const WORDS: &'static [(&'static str, Self)] =
        &[("any", Self::Any), ("ascending", Self::Ascending), ("descending", Self::Descending)];
}

/// Where a source begins that was never asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Start {
    /// When it is first asked.
    Now,
    /// With everything there is.
    Beginning,
    /// Here.
    At(Value),
}

/// `start` as it is written: text or a number.
struct Written;

impl Shape for Written {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::any_of([Schema::text().not_empty(), Schema::integer()])
    }
}

/// `overlap` as it is written: a duration or a number.
struct Length;

impl Shape for Length {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::any_of([std::time::Duration::schema(all), Schema::integer().at_least(0)])
    }
}

/// The name of a query parameter.
pub(super) struct QueryName(pub(super) String);

impl Shape for QueryName {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text().not_empty()
    }
}

impl Decode for QueryName {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text.is_empty() || QUERY_MAX < text.len() || text.chars().any(char::is_control) {
            cx.error("bad-value", node.place, "this cannot be the name of a query parameter");
            return None;
        }
        Some(Self(text))
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<QueryName>(
        "query",
        "The query parameter that carries the value asked from; needed but with `order: descending`.",
    )
    .example("since"),
    Field::of::<Path>("path", "Where the value stands: in an item, or, with `from: answer`, in the answer.")
        .required()
        .example("$.finished_at"),
    Field::of::<From>("from", "Whether each item has a value (the greatest counts) or the answer says what to ask from next.")
        .default("item"),
    Field::of::<As>("as", "What the values are; a `token` means nothing to anybody but the API.").default("time"),
    Field::of::<Written>(
        "start",
        "Where to begin the first time: `now`, `beginning`, or a value. Another one begins anew. Without it, `now` for times.",
    )
    .example("2026-01-20T00:00:00Z"),
    Field::of::<Length>(
        "overlap",
        "How far behind the greatest value an item may still show up: a duration for times (5m), a count for numbers (100: of a database's \
         sequence, numbers show up as they are committed). A text has none: of those, what shows up behind the greatest is missed.",
    )
    .example("15m"),
    Field::of::<Order>("order", "How the items of an answer follow one another, over all its pages.").default("any"),
])
.such_that(narrower);

/// How the keys hang together.
fn narrower(cursor: Schema) -> Schema {
    let is = |key: &str, words: &[&str]| json!({"properties": {key: {"enum": words}}, "required": [key]});
    let (bare, times) = (["text", "token"], json!({"not": is("as", &["number", "text", "token"])}));
    let number = json!({"anyOf": [{"type": "integer"}, {"pattern": r"^(beginning|[+-]?[0-9]+|.*\$\{.*)$"}]});
    cursor.wherever([
        (json!({"not": is("order", &["descending"])}), json!({"required": ["query"]})),
        (is("as", &["number", "text", "token"]), json!({"required": ["start"]})),
        (is("as", &["token"]), is("from", &["answer"])),
        (is("from", &["answer"]), json!({"properties": {"order": {"enum": ["any", null]}}})),
        (is("as", &bare), json!({"not": {"required": ["overlap"]}})),
        (is("as", &["number"]), json!({"properties": {"overlap": {"type": ["integer", "null"]}, "start": number}})),
        (times, json!({"properties": {"overlap": {"type": ["string", "null"]}}})),
    ])
}

impl Shape for Cursor {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Decode for Cursor {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`cursor`", KEYS, cx)?;
        let query = fields.optional::<QueryName>("query", cx).map(|QueryName(name)| name);
        let path = fields.required("path", cx);
        let from = fields.or("from", From::Item, cx);
        let kind = fields.or("as", As::Time, cx);
        let order = fields.or("order", Order::Any, cx);
        let start = start(&mut fields, kind, cx);
        let overlap = overlap(&mut fields, kind, cx);
        if from == From::Item && kind == As::Token {
            let help = "say `from: answer`, or what the values are: time, unix, unix_ms, number, text";
            cx.error("conflict", fields.key_place("as"), "of two tokens nobody knows the later").help(help);
        }
        if order != Order::Any && from == From::Answer {
            let message = "`order` is about the values of items, and these stand in the answer";
            cx.error("conflict", fields.key_place("order"), message);
        }
        if query.is_none() && fields.node("query").is_none() && order != Order::Descending {
            fields.missing("query", cx);
        }
        fields.finish(cx);
        Some(Self { query, path: path?, from, kind, start: start?, overlap: overlap?, order })
    }
}

fn start(fields: &mut Fields<'_>, kind: As, cx: &mut Context) -> Option<Start> {
    let Some(node) = fields.node("start") else {
        if kind.is_time() {
            return Some(Start::Now);
        }
        cx.error("missing-key", fields.place(), "`cursor` needs `start`").help("`beginning`, or a value to begin with");
        return None;
    };
    let text = match &node.value {
        tree::Value::Int(number) => number.to_string(),
        _ => String::decode(node, cx)?,
    };
    match text.as_str() {
        "now" if kind.is_time() => Some(Start::Now),
        "beginning" => Some(Start::Beginning),
        text => Value::read(kind, text).map(Start::At).or_else(|| {
            let now = if kind.is_time() { "`now`, " } else { "" };
            cx.error("bad-value", node.place, format!("`start` is {now}`beginning` or {}", kind.called()));
            None
        }),
    }
}

fn overlap(fields: &mut Fields<'_>, kind: As, cx: &mut Context) -> Option<Overlap> {
    let node = fields.node("overlap");
    let place = node.map_or(Place::default(), |node| node.place);
    let refused = |cx: &mut Context, message: &str| {
        cx.error("bad-value", place, message);
        None
    };
    match (kind, node.map(|node| &node.value)) {
        (As::Number, None) => Some(Overlap::Count(COUNT)),
        (As::Number, Some(tree::Value::Int(count))) if 0 <= *count => Some(Overlap::Count(u64::try_from(*count).ok()?)),
        (As::Number, Some(_)) => refused(cx, "`overlap` of numbers is a number: how many are asked for again"),
        (As::Text | As::Token, None) => Some(Overlap::None),
        (As::Text | As::Token, Some(_)) => refused(cx, "from a text nobody can go back: leave `overlap` out"),
        (_, None) => Some(Overlap::Time(OVERLAP)),
        (_, Some(tree::Value::String(text))) if duration(text).is_some() => duration(text).map(Overlap::Time),
        (_, Some(_)) => refused(cx, "`overlap` of times is a duration such as 5m"),
    }
}

impl Cursor {
    /// Whether the answer says itself what to ask from next.
    pub(crate) fn is_of_the_answer(&self) -> bool {
        self.from == From::Answer
    }

    /// How late items may show up, where that is told in time.
    pub(super) fn late(&self) -> Option<std::time::Duration> {
        match self.overlap {
            Overlap::Time(late) => Some(late),
            Overlap::Count(_) | Overlap::None => None,
        }
    }

    /// `start` as it is kept, to tell when it becomes another.
    pub(super) fn start_text(&self) -> &str {
        match &self.start {
            Start::Now => "now",
            Start::Beginning => "beginning",
            Start::At(value) => &value.text,
        }
    }

    /// The value before which nothing is taken in, of a source that is first asked at `now`; `None`: all there is.
    pub(super) fn floor(&self, now: Timestamp) -> Option<Value> {
        match &self.start {
            Start::Now => Some(Value::of_time(self.kind, now)),
            Start::Beginning => None,
            Start::At(value) => Some(value.clone()),
        }
    }

    /// Where a source begins anew whose kept `floor` is when it was first asked, by a clock that ran ahead of `now`; `None`: it did not.
    /// What happened since the last round, `every` before, is not left out.
    pub(super) fn floor_set_back(&self, floor: &str, now: Timestamp, every: std::time::Duration) -> Option<Value> {
        let ran_ahead = self.start == Start::Now && Value::of_time(self.kind, now).is_before(&self.kept(floor).ok()?);
        ran_ahead.then(|| Value::of_time(self.kind, earlier(now, every)))
    }

    /// `text`, which was kept, as a value of today's kind.
    pub(super) fn kept(&self, text: &str) -> Result<Value, Fault> {
        Value::read(self.kind, text).ok_or_else(|| {
            let message = format!("the kept value `{}` is not {}; another `start` begins anew", shown(text), self.kind.called());
            Fault::new(Code::BadCursor, message)
        })
    }

    /// From where on is asked once `reached` was: `overlap` back. Where items have values, from a little before `floor` too: APIs differ in
    /// whether they answer with what has the very value that they are asked from, and what lies before it is left out here.
    pub(super) fn asks(&self, floor: Option<&Value>, reached: Option<&Value>) -> Option<Value> {
        let latest = match (reached, floor) {
            (Some(reached), floor) if self.kind.is_ordered() => reached.clone().max(floor.cloned()),
            (reached, floor) => reached.or(floor)?.clone(),
        };
        let back = latest.back(self.kind, self.overlap);
        let held = self.from == From::Answer && self.kind.is_ordered();
        Some(if held { back.max(floor.cloned()) } else { back })
    }

    /// The value of an item; `None` where it has none (yet). What is later than `began`, when the round did, counts as of then: while it
    /// goes on, more may show up before.
    pub(super) fn of_item(&self, item: &Json, began: Timestamp) -> Result<Option<Value>, Fault> {
        self.found(item, "an item").map(|value| value.map(|value| value.not_after(self.kind, began)))
    }

    /// What an answer says to ask from next, after `reached`; `None` where it says nothing. One without items may say what it likes of
    /// what lies before `reached`: it leads nowhere.
    pub(super) fn of_answer(&self, answer: &Json, reached: Option<&Value>, empty: bool) -> Result<Option<Value>, Fault> {
        let value = self.found(answer, "the answer")?;
        if let (Some(value), Some(reached)) = (&value, reached)
            && self.kind.is_ordered()
            && value.is_before(reached)
        {
            if empty {
                return Ok(None);
            }
            let message = format!("the answer goes back to `{}` from `{}`", shown(&value.text), shown(&reached.text));
            return Err(Fault::new(Code::BadCursor, message));
        }
        Ok(value)
    }

    fn found(&self, root: &Json, what: &str) -> Result<Option<Value>, Fault> {
        match self.path.find(root).first() {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if text.is_empty() => Ok(None),
            Some(json) => Value::of_json(self.kind, json).map(Some).map_err(|found| {
                let message = format!("`{}` of {what} is {found}, not {}", self.path.text(), self.kind.called());
                Fault::new(Code::BadCursor, message)
            }),
        }
    }

    /// What to say when nothing has a value.
    pub(super) fn nowhere(&self) -> Fault {
        let path = self.path.text();
        let message = match self.from {
            From::Item => format!("no item has `{path}`"),
            From::Answer => format!("the answer has items, but not `{path}`"),
        };
        Fault::new(Code::BadCursor, message)
    }

    /// What may be shown of a value: a token might let others in.
    pub(super) fn shown(&self, value: &str) -> String {
        if self.kind == As::Token { "***".to_owned() } else { shown(value) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{clock::Clock, ingest::kinds::tests::yaml};

    pub(in super::super) fn cursor(text: &str) -> Result<Cursor, Vec<&'static str>> {
        let mut cx = Context::default();
        let cursor = Cursor::decode(&yaml(text), &mut cx);
        cursor.filter(|_| cx.problems.is_empty()).ok_or_else(|| cx.problems.iter().map(|problem| problem.code).collect())
    }

    fn noon() -> Timestamp {
        Clock::manual("2026-01-20T12:00:00.7Z").now()
    }

    #[test]
    fn a_cursor_begins_where_the_file_says() {
        let floor = |text: &str| cursor(text).unwrap().floor(noon()).map(|value| value.text);
        assert_eq!(floor(r#"{"query": "since", "path": "$.at"}"#).unwrap(), "2026-01-20T12:00:00Z");
        assert_eq!(floor(r#"{"query": "since", "path": "$.at", "as": "unix_ms"}"#).unwrap(), "1768910400000");
        assert_eq!(floor(r#"{"query": "since", "path": "$.at", "start": "beginning"}"#), None);
        assert_eq!(floor(r#"{"query": "since", "path": "$.id", "as": "number", "start": 17}"#).unwrap(), "17");
        assert_eq!(floor(r#"{"query": "c", "path": "$.next", "as": "token", "from": "answer", "start": "x"}"#).unwrap(), "x");
    }

    #[test]
    fn it_is_asked_from_a_little_before_what_was_reached() {
        let cursor = cursor(r#"{"query": "since", "path": "$.at", "start": "2026-01-20T12:00:00Z"}"#).unwrap();
        let floor = cursor.floor(noon());
        let asks = |reached: Option<&str>| {
            let reached = reached.map(|text| cursor.kept(text).unwrap());
            cursor.asks(floor.as_ref(), reached.as_ref()).unwrap().text
        };
        assert_eq!(asks(None), "2026-01-20T11:55:00Z");
        assert_eq!(asks(Some("2026-01-20T12:03:00Z")), "2026-01-20T11:58:00Z");
        assert_eq!(asks(Some("2026-01-20T11:00:00Z")), "2026-01-20T11:55:00Z");
        assert_eq!(asks(Some("2026-01-20T13:00:00Z")), "2026-01-20T12:55:00Z");
        assert_eq!(cursor.kept("17").unwrap_err().code, Code::BadCursor);
        let now = super::tests::cursor(r#"{"query": "since", "path": "$.at"}"#).unwrap();
        let set_back =
            |floor: &str| now.floor_set_back(floor, noon(), std::time::Duration::from_secs(60)).map(|value| value.text);
        assert_eq!(set_back("2027-01-20T12:00:00Z").as_deref(), Some("2026-01-20T11:59:00Z"));
        assert_eq!((set_back("2026-01-20T12:00:00Z"), set_back("2020-01-20T12:00:00Z")), (None, None));
        let ahead = cursor.floor_set_back("2027-01-20T12:00:00Z", noon(), std::time::Duration::ZERO);
        assert_eq!(ahead, None, "a start that the file names is nobody's clock");
        let answers =
            super::tests::cursor(r#"{"query": "since", "path": "$.next", "from": "answer", "start": "2026-01-20T12:00:00Z"}"#)
                .unwrap();
        let reached = answers.kept("2026-01-20T12:03:00Z").unwrap();
        let from = answers.asks(answers.floor(noon()).as_ref(), Some(&reached)).unwrap();
        assert_eq!(from.text, "2026-01-20T12:00:00Z", "of what has no value nobody can tell that it lies before the start");
    }

    #[test]
    fn values_of_another_type_and_answers_that_go_back_name_themselves() {
        let items = cursor(r#"{"query": "since", "path": "$.at"}"#).unwrap();
        for absent in [json!({"at": null}), json!({"at": ""}), json!({})] {
            assert_eq!(items.of_item(&absent, noon()), Ok(None));
        }
        let fault = items.of_item(&json!({"at": 17}), noon()).unwrap_err();
        assert_eq!(fault.message, "`$.at` of an item is `17`, not a time such as 2026-01-20T12:00:00Z");
        assert_eq!(items.nowhere().message, "no item has `$.at`");
        let answers = cursor(r#"{"query": "since", "path": "$.next", "from": "answer", "as": "number", "start": 0}"#).unwrap();
        let reached = answers.kept("9").unwrap();
        let fault = answers.of_answer(&json!({"next": 8}), Some(&reached), false).unwrap_err();
        assert_eq!(fault.message, "the answer goes back to `8` from `9`");
        assert_eq!(answers.of_answer(&json!({"next": 0}), Some(&reached), true), Ok(None), "there was nothing");
        assert_eq!(answers.of_answer(&json!({"next": 9}), Some(&reached), false).unwrap(), Some(reached));
        assert_eq!(answers.nowhere().message, "the answer has items, but not `$.next`");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (text, code) in [
            (r#"{"path": "$.at"}"#, "missing-key"),
            (r#"{"query": "since"}"#, "missing-key"),
            (r#"{"query": "", "path": "$.at"}"#, "bad-value"),
            (r#"{"query": "since", "path": "$.id", "as": "number"}"#, "missing-key"),
            (r#"{"query": "since", "path": "$.id", "as": "number", "start": "now"}"#, "bad-value"),
            (r#"{"query": "since", "path": "$.at", "start": "yesterday"}"#, "bad-value"),
            (r#"{"query": "since", "path": "$.at", "overlap": 5}"#, "bad-value"),
            (r#"{"query": "since", "path": "$.id", "as": "number", "start": 0, "overlap": "5m"}"#, "bad-value"),
            (r#"{"query": "since", "path": "$.id", "as": "text", "start": "a", "overlap": "5m"}"#, "bad-value"),
            (r#"{"query": "c", "path": "$.n", "as": "token", "start": "a"}"#, "conflict"),
            (r#"{"query": "c", "path": "$.n", "from": "answer", "order": "ascending"}"#, "conflict"),
        ] {
            assert_eq!(cursor(text).unwrap_err(), [code], "{text}");
        }
        assert!(cursor(r#"{"path": "$.at", "order": "descending"}"#).is_ok());
    }
}
