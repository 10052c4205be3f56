//! Templates and their escapes: envelope in, text out. Users write Jinja; what it may cost is bounded in steps and bytes.
//!
//! A template never reaches beyond what it is given: no files, no other templates, no environment. While the relay runs, a
//! missing field renders as nothing and only a field of a missing field fails; a check may ask for [`Strictness::Strict`].

use std::{borrow::Cow, collections::BTreeMap, io};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, value::Serde};
use serde_json::{Map, Value as Json};

use crate::{
    clock::rfc3339_ms,
    envelope::{DeliveryId, Envelope, JSON},
    json,
};

pub mod builtin;
mod mail;
mod message;
mod safe;
mod slack;
mod story;

pub use message::{DigestItem, Message, MessageScene, SHORT_MAX, SUBJECT_MAX, SlackMessage, TEXT_MAX};

/// How many steps a template may take; one is about one operation or piece of text. What `{% set %}` holds is bounded by
/// nothing else: a template that doubles a text again and again takes all memory. Only who edits `routes.yaml` writes one.
const FUEL: u64 = 100_000;
/// Longest text a template may make, in bytes.
pub const OUTPUT_MAX: usize = 256 * 1024;
/// How deep macros and blocks may nest.
const RECURSION_MAX: usize = 50;
/// A name no template has: what `include`, `import` and `extends` are led to.
const NOWHERE: &str = "\0";

/// How missing fields are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As while the relay runs.
    Lenient,
    /// Every missing field is an error.
    Strict,
}

/// Why a template cannot be used, or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// One sentence, without the template's text.
    pub reason: String,
    /// The line within the template, from 1, where it is known.
    pub line: Option<usize>,
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
            ErrorKind::WriteFailure => format!("it makes more than {} KiB of text", OUTPUT_MAX / 1024),
            ErrorKind::TemplateNotFound | ErrorKind::BadInclude => "templates cannot take in other templates".to_owned(),
            kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
        };
        Self { reason, line: error.line() }
    }
}

/// Every template of a relay, compiled once.
#[derive(Debug)]
pub struct Templates {
    env: Environment<'static>,
}

impl Templates {
    /// Compiles `sources`, by name. A template that does not compile is left out: [`check`] says so when the file is
    /// read, and rendering it fails.
    pub fn new(sources: &BTreeMap<String, String>, strictness: Strictness) -> Self {
        let mut env = environment(strictness);
        for (name, source) in sources {
            if let Err(error) = env.add_template_owned(name.clone(), source.clone()) {
                tracing::error!(template = %name, reason = ?error.detail(), "a template does not compile");
            }
        }
        Self { env }
    }

    /// Renders template `name`.
    pub fn render(&self, name: &str, scene: &Scene) -> Result<String, TemplateError> {
        let template =
            self.env.get_template(name).map_err(|_| TemplateError { reason: "there is no such template".into(), line: None })?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(scene.0.clone(), &mut out)?;
        // Templates write text; should that ever change, what is no text is replaced.
        Ok(String::from_utf8(out.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

/// Finds what is wrong with `source` before it is used: its syntax, and filters, tests, functions and methods that do not
/// exist, as far as rendering it for a sample event reaches them.
pub fn check(source: &str) -> Result<(), TemplateError> {
    let env = environment(Strictness::Lenient);
    let template = env.template_from_str(source)?;
    let Err(error) = template.render_captured_to(Scene::sample().0, &mut Bounded(Vec::new())) else { return Ok(()) };
    match error.kind() {
        ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod
        | ErrorKind::UnknownBlock
        | ErrorKind::TemplateNotFound
        | ErrorKind::BadInclude => Err(error.into()),
        // Anything else may well work with the fields of a real event.
        _ => Ok(()),
    }
}

/// What a template sees: `event` (the envelope's attributes, `data` parsed), `delivery` (`id`, `attempt`) and `source`.
#[derive(Debug, Clone)]
pub struct Scene(Value);

impl Scene {
    /// The scene of one delivery's body. `data` is the event's, parsed by [`json::lenient`].
    pub fn new(event: &Envelope, data: &Json, delivery: &DeliveryId, attempt: u32) -> Self {
        let scene = serde_json::json!({
            "event": attributes(event, data),
            "delivery": { "id": delivery.to_string(), "attempt": attempt },
            "source": event.source.as_str(),
        });
        Self(Value::from(Serde(scene)))
    }

    fn sample() -> Self {
        let event = serde_json::json!({
            "specversion": "1.0", "id": "evt_001", "source": "/sources/sample", "type": "sample.event", "subject": "sample",
            "time": "2026-01-20T12:00:00Z", "timestamp": "2026-01-20T12:00:00Z", "datacontenttype": JSON,
            "namespace": "user_123", "sourcekind": "sample", "receivedat": "2026-01-20T12:00:00.000Z", "data": {},
        });
        let delivery = serde_json::json!({ "id": "dl_00000000000000000000000000000001_1", "attempt": 1 });
        Self(Value::from(Serde(serde_json::json!({ "event": event, "delivery": delivery, "source": "sample" }))))
    }
}

/// The envelope's attributes as targets receive them.
fn attributes(event: &Envelope, data: &Json) -> Json {
    let mut map = Map::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), Json::from(value));
        }
    };
    put("specversion", Some("1.0"));
    put("id", Some(&event.id));
    put("source", Some(&Envelope::source_uri(&event.source)));
    put("type", Some(&event.r#type));
    put("subject", event.subject.as_deref());
    put("time", Some(&event.time));
    put("timestamp", Some(&event.timestamp));
    put("datacontenttype", Some(JSON));
    put("namespace", event.namespace.as_deref());
    put("sourcekind", Some(event.kind));
    put("receivedat", Some(&rfc3339_ms(event.received_at)));
    put("traceparent", event.traceparent.as_deref());
    if event.replayed {
        map.insert("replayed".to_owned(), Json::from(true));
    }
    map.insert("data".to_owned(), data.clone());
    Json::Object(map)
}

fn environment(strictness: Strictness) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_path_join_callback(|_, _| Cow::Borrowed(NOWHERE));
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION_MAX);
    env.set_undefined_behavior(match strictness {
        Strictness::Lenient => UndefinedBehavior::Lenient,
        Strictness::Strict => UndefinedBehavior::Strict,
    });
    env.add_filter("fromjson", from_json);
    env
}

/// `{{ event.data.content | fromjson }}`: the value that text holds as JSON.
fn from_json(text: &str) -> Result<Value, Error> {
    let refused = |detail| Error::new(ErrorKind::InvalidOperation, detail);
    if json::too_deep(text.as_bytes()) {
        return Err(refused("fromjson: nested too deep"));
    }
    serde_json::from_str::<Json>(text).map(|value| Value::from(Serde(value))).map_err(|_| refused("fromjson: not JSON"))
}

/// Collects at most [`OUTPUT_MAX`] bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if OUTPUT_MAX < self.0.len() + bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{EventUid, tests::sample};

    fn render(source: &str, strictness: Strictness) -> Result<String, TemplateError> {
        let templates =
            Templates::new(&BTreeMap::from([("it".to_owned(), source.to_owned()), ("other".into(), "x".into())]), strictness);
        let delivery = DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 };
        let event = sample();
        templates.render("it", &Scene::new(&event, &json::lenient(event.data()), &delivery, 3))
    }

    fn lenient(source: &str) -> String {
        render(source, Strictness::Lenient).unwrap_or_else(|error| format!("error: {error}"))
    }

    #[test]
    fn a_template_sees_the_event_the_delivery_and_the_source() {
        insta::assert_snapshot!(
            lenient("{{ event.type }} {{ event.data.credential_id }} {{ event.data.n }} {{ source }} {{ delivery.attempt }} {{ delivery.id }}"),
            @"credential.expired cred_abc 1.5 interactor 3 dl_00000000000000010000000000000002_1"
        );
        insta::assert_snapshot!(lenient("{{ event.data | tojson }} {{ ('[1,{\"a\":2}]' | fromjson)[1].a }} {{ '<b>' }}"), @r#"{"credential_id": "cred_abc", "n": 1.5} 2 <b>"#);
    }

    #[test]
    fn missing_fields_are_nothing_unless_strict() {
        assert_eq!(lenient("[{{ event.data.nothing }}]"), "[]");
        assert!(render("{{ event.data.nothing }}", Strictness::Strict).is_err());
    }

    #[test]
    fn cost_and_reach_are_bounded() {
        insta::assert_snapshot!(lenient("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"), @"error: it takes too many steps");
        insta::assert_snapshot!(lenient("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"), @"error: it makes more than 256 KiB of text");
        for other in ["{% include 'other' %}", "{% extends 'other' %}", "{% import 'other' as o %}"] {
            assert_eq!(lenient(other), "error: templates cannot take in other templates");
            assert!(check(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_check_finds_syntax_and_unknown_words() {
        let message = |source| check(source).unwrap_err().to_string();
        insta::assert_snapshot!(message("{{ event.type"), @"syntax error: unexpected end of input, expected end of variable block");
        insta::assert_snapshot!(message("{{ event.type | shout }}"), @"unknown filter: filter shout is unknown");
        insta::assert_snapshot!(message("{{ now() }}"), @"unknown function: now is unknown");
        assert_eq!(check("a\nb {% if %}").unwrap_err().line, Some(2));
        assert_eq!(check("{{ event.data.amount.currency | upper }} {{ event.data.nothing | int }}"), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_template_breaks_it(source in r"(\{\{|\}\}|\{%|%\}| |event|data|\.|\||upper|for|in|if|end|\(|\)|[a-z'0-9*~+-]){0,30}") {
            let _ = (check(&source), lenient(&source));
        }
    }
}
