//! What the parameters of queries and bodies mean, by name: handlers list the names they read, [`params!`] makes their schema of it.

use serde_json::{Map, Value, json};
use utoipa::openapi::{
    ObjectBuilder, RefOr, Required, Schema,
    extensions::ExtensionsBuilder,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::words;

/// Makes `$asked` of a handler's list of names: `utoipa::IntoParams` for a query, `utoipa::ToSchema` for a JSON body. After it, what
/// differs from the table: `"state" => Kind::Words(…)`, or also
/// `"event" means "…" => Kind::Text`.
macro_rules! params {
    ($asked:ident = $names:expr $(, $name:literal $(means $what:literal)? => $kind:expr)* $(,)?) => {
        pub(in crate::api) struct $asked;

        impl $asked {
            #[allow(unused_imports)]
            fn differing() -> Vec<$crate::api::openapi::params::Meaning> {
                use $crate::api::openapi::params::Kind;
                vec![$(($name, $kind, concat!($($what)?))),*]
            }
        }

        impl utoipa::IntoParams for $asked {
            fn into_params(_: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>) -> Vec<utoipa::openapi::path::Parameter> {
                $crate::api::openapi::params::query(&$names, &Self::differing())
            }
        }

        impl utoipa::PartialSchema for $asked {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let body = $crate::api::openapi::params::body(&$names, &Self::differing());
                $crate::api::openapi::params::schema(body)
            }
        }

        impl utoipa::ToSchema for $asked {}
    };
}
pub(in crate::api) use params;

/// What values a parameter takes.
#[derive(Clone, Copy)]
pub(in crate::api) enum Kind {
    /// Any text.
    Text,
    /// The type of an event.
    Type,
    /// A text that must be there.
    Needed,
    /// Text or a list of texts, in which globs may be; in a query with commas between them.
    Globs,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// A time in RFC 3339.
    Time,
    /// A number from 1.
    Number,
    /// The status of an HTTP answer.
    Code,
    /// A number per second.
    Rate,
    /// `true` or `false`.
    Flag,
    /// An event's uid.
    Event,
    /// Where a page begins: `next` of the page before, or `0`.
    Cursor,
    /// Likewise, or an event's uid.
    EventCursor,
    /// Likewise, forwards only.
    StreamCursor,
    /// Likewise, or the id of a delivery.
    DeliveryCursor,
    /// `next` of the page before, where nothing is in commit order.
    BackCursor,
    /// Likewise, of subscriptions.
    WebhookCursor,
    /// `next` of the page before, in a list that is held as a whole.
    RowCursor,
    /// Where a slice of a walk over what is kept begins: `next` of the slice before.
    Slice,
    /// A length of time.
    Span,
    /// A length of time of at most a minute.
    Wait,
    /// A length of time with a sign.
    Offset,
}

/// The pattern of an event's uid without its beginning.
const UID: &str = "[0-9a-f]{16}[0-7][0-9a-f]{15}";
const RATE: &str = "^([1-9][0-9]{0,4}|100000)(/s)?$";
const PLACE: &str = "0|[ab]?[0-9]{1,18}";
const SPAN: &str = "[0-9]{1,6}(ms|s|m|h|d)";

/// A name, its values and what they say.
pub(in crate::api) type Meaning = (&'static str, Kind, &'static str);

/// Every parameter of the API that is read by its name.
const MEANINGS: &[Meaning] = &[
    ("after", Kind::Cursor, "Where the page begins: `next` of the page before, or `0` for the oldest; then in commit order."),
    ("author", Kind::Text, "Who wants it so; without it, whoever asks."),
    ("cause", Kind::Words(words::causes), "Of this cause only."),
    ("clock_offset", Kind::Offset, "Added to the time of arrival, where the clock of the relay was wrong: `-5m`."),
    ("code", Kind::Text, "Of this code only, such as `invalid_signature`."),
    ("dry_run", Kind::Flag, "`true` counts what would be touched, and does nothing."),
    ("envelope", Kind::Flag, "Whether each event comes with its whole envelope; `true` without it where `wait` is given."),
    ("event", Kind::Event, "Of this event only, by its `uid`."),
    ("for", Kind::Span, "How long, instead of `until`: `30m`, `24h`, `7d`."),
    ("id", Kind::Text, "Of this id of its sender's."),
    ("limit", Kind::Number, "How many at most; 100 without it, never more than 1000."),
    ("namespace", Kind::Text, "Of this namespace only."),
    ("note", Kind::Text, "Why nothing more is to be done; at most 1000 characters."),
    ("rate", Kind::Rate, "How many in a second at most: `100` or `100/s`."),
    ("reason", Kind::Text, "Why, for whoever asks later."),
    ("replayed", Kind::Flag, "Made by a replay, or not."),
    ("resolved", Kind::Flag, "Resolved, or not."),
    ("since", Kind::Time, "From this time on."),
    ("source", Kind::Text, "Of the source of this name only."),
    ("state", Kind::Words(words::states), "With a delivery in this state."),
    ("subject", Kind::Text, "Of this subject only."),
    ("target", Kind::Text, "To this target only: a destination's name or a subscription's id."),
    ("type", Kind::Text, "Of these types only: names or globs as in rules, several with commas between them."),
    ("until", Kind::Time, "Before this time."),
    ("wait", Kind::Wait, "How long to wait where there is nothing yet; without `after` the page begins with the oldest."),
];

/// The parameters of a query that takes `names`.
pub(in crate::api) fn query(names: &[&str], differing: &[Meaning]) -> Vec<Parameter> {
    let parameter = |name: &&str| {
        let (kind, what) = meaning(name, differing);
        ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(what))
            .schema(Some(schema(kind.in_query())))
            .build()
    };
    names.iter().map(parameter).collect()
}

/// The schema of a JSON body that takes `names`. Null stands for absence.
pub(in crate::api) fn body(names: &[&str], differing: &[Meaning]) -> Value {
    let property = |name: &&str| {
        let (kind, what) = meaning(name, differing);
        let mut property = kind.in_body();
        property["description"] = what.into();
        ((*name).to_owned(), property)
    };
    let properties: Map<String, Value> = names.iter().map(property).collect();
    let needed: Vec<_> = names.iter().filter(|name| matches!(meaning(name, differing).0, Kind::Needed)).collect();
    let mut body = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !needed.is_empty() {
        body["required"] = json!(needed);
    }
    body
}

/// Whether the parameter `name` takes nothing but text, in JSON too.
pub(in crate::api) fn is_text(name: &str) -> bool {
    !matches!(meaning(name, &[]).0, Kind::Flag | Kind::Number | Kind::Rate)
}

/// What `name` takes and means. A name that is not known takes any text, and a test fails.
fn meaning(name: &str, differing: &[Meaning]) -> (Kind, &'static str) {
    let of = |meanings: &[Meaning]| meanings.iter().find(|(known, ..)| *known == name).copied();
    let (_, kind, what) = of(MEANINGS).unwrap_or(("", Kind::Text, ""));
    match of(differing) {
        Some((_, kind, "")) => (kind, what),
        Some((_, kind, what)) => (kind, what),
        None => (kind, what),
    }
}

/// The key below which utoipa, which knows less of JSON Schema than we use, carries a schema of ours; [`super::finish`] takes it out.
pub(super) const OURS: &str = "x-schema";

/// A schema of ours as utoipa carries it.
pub(in crate::api) fn schema(value: Value) -> RefOr<Schema> {
    let ours = ExtensionsBuilder::new().add(OURS, value).build();
    ObjectBuilder::new().extensions(Some(ours)).into()
}

impl Kind {
    fn in_query(self) -> Value {
        match self {
            Self::Text | Self::Globs => json!({"type": "string"}),
            Self::Type => json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,256}$", "examples": ["credential.expired"]}),
            Self::Needed => json!({"type": "string", "pattern": "\\S", "maxLength": 1000}),
            Self::Words(words) => json!({"type": "string", "enum": words()}),
            Self::Time => json!({"type": "string", "format": "date-time", "examples": ["2026-01-20T12:00:00Z"]}),
            Self::Number => json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}),
            Self::Code => json!({"type": "integer", "minimum": 100, "maximum": 599}),
            Self::Rate => json!({"type": "string", "pattern": RATE, "examples": ["100/s"]}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Event => json!({"type": "string", "pattern": format!("^ev_{UID}$")}),
            Self::Cursor => json!({"type": "string", "pattern": format!("^({PLACE})$")}),
            Self::EventCursor => json!({"type": "string", "pattern": format!("^({PLACE}|(ev|at)_{UID})$")}),
            Self::StreamCursor => json!({"type": "string", "pattern": format!("^(a?[0-9]{{1,18}}|(ev|at)_{UID})$")}),
            Self::DeliveryCursor => {
                json!({"type": "string", "pattern": format!("^({PLACE}|ev_{UID}|dl_{UID}_[0-9]{{1,9}})$")})
            }
            Self::WebhookCursor => json!({"type": "string", "pattern": "^c[0-9]{1,15}[.]wh_[a-z2-7]{26}$"}),
            Self::BackCursor => json!({"type": "string", "pattern": "^b[0-9]{1,18}$"}),
            Self::RowCursor => json!({"type": "string", "pattern": "^[0-9]{1,9}[.].{1,256}$"}),
            Self::Span => json!({"type": "string", "pattern": format!("^{SPAN}$"), "examples": ["24h"]}),
            Self::Wait => {
                let text = "^([0-5]?[0-9]|60)s?$";
                json!({"type": ["string", "integer"], "pattern": text, "minimum": 0, "maximum": 60, "examples": ["30s"]})
            }
            Self::Slice => json!({"type": ["string", "integer"], "pattern": "^[0-9]{1,18}$", "minimum": 0}),
            Self::Offset => json!({"type": "string", "pattern": format!("^[+-]?{SPAN}$"), "examples": ["-5m"]}),
        }
    }

    /// In JSON, numbers and flags may be written as such; text is text.
    fn in_body(self) -> Value {
        let mut schema = self.in_query();
        match self {
            Self::Globs => json!({"type": ["string", "array", "null"], "items": {"type": "string"}}),
            Self::Needed => schema,
            Self::Flag => json!({"enum": [true, false, "true", "false", null]}),
            Self::Number | Self::Rate => {
                schema["type"] = json!(["integer", "string", "null"]);
                schema["minimum"] = json!(1);
                schema["maximum"] = if matches!(self, Self::Rate) { json!(100_000) } else { json!(u32::MAX) };
                schema["pattern"] = json!(if matches!(self, Self::Rate) { RATE } else { "^[1-9][0-9]{0,8}$" });
                schema
            }
            Self::Words(words) => {
                let words = words().into_iter().map(Value::from).chain([Value::Null]);
                json!({"enum": words.collect::<Vec<_>>()})
            }
            _ => {
                schema["type"] = json!(["string", "null"]);
                schema
            }
        }
    }
}
