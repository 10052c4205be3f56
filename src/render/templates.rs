//! Users' templates: compiled once per form they make, rendered within bounds, checked against the events of the seeds.

use std::{borrow::Cow, collections::BTreeMap, io};

use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::{
    Part, Scene, Source, filters,
    safe::{self, Visible},
};

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
    /// Every missing field is an error, but where a template asks whether it is there.
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

impl TemplateError {
    /// The filter that is not known, where that is what is wrong.
    pub(crate) fn unknown(&self) -> Option<&str> {
        self.reason.strip_prefix("unknown filter: filter ")?.strip_suffix(" is unknown")
    }
}

/// The filters that templates may use: Jinja's and ours.
pub(crate) const FILTERS: [&str; 49] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "date",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "fromjson",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "mask",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

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

/// What becomes of the values a template writes. What it says itself stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// Nothing: a body for machines.
    Raw,
    /// Cleaned.
    Text,
    /// Cleaned, and escaped for HTML.
    Html,
    /// Cleaned, and escaped for Slack.
    Slack,
}

const FORMS: [Form; 4] = [Form::Raw, Form::Text, Form::Html, Form::Slack];

impl Part {
    /// The form it is rendered in for people.
    pub(super) fn form(self) -> Form {
        self.forms().last().copied().unwrap_or(Form::Text)
    }

    /// The forms this part is rendered in.
    fn forms(self) -> &'static [Form] {
        match self {
            Self::Text => &[Form::Raw, Form::Text],
            Self::Subject | Self::Short => &[Form::Text],
            Self::Html => &[Form::Html],
            Self::Slack => &[Form::Slack],
        }
    }
}

/// Every template of a relay, compiled once.
#[derive(Debug)]
pub struct Templates {
    /// By form, as [`FORMS`] has them.
    envs: [Environment<'static>; FORMS.len()],
    sources: BTreeMap<String, Source>,
}

impl Templates {
    /// Compiles `sources`, by name. A template that does not compile is left out: [`check`] says so when the file is
    /// read, and rendering it fails.
    pub fn new(sources: &BTreeMap<String, Source>, strictness: Strictness) -> Self {
        let mut envs = FORMS.map(|form| environment(form, strictness));
        for (name, source) in sources {
            for (part, text) in &source.0 {
                for form in part.forms() {
                    if let Err(error) = envs[*form as usize].add_template_owned(entry(name, *part), text.clone()) {
                        tracing::error!(template = %name, reason = ?error.detail(), "a template does not compile");
                    }
                }
            }
        }
        Self { envs, sources: sources.clone() }
    }

    /// Whether template `name` makes a text: one that only makes other parts of a message leaves the built-in text. One that does not
    /// exist counts, so that rendering it says so.
    pub fn makes_text(&self, name: &str) -> bool {
        self.sources.get(name).is_none_or(|source| source.text().is_some())
    }

    /// Renders the text of template `name` for machines: nothing in it is escaped.
    pub fn render(&self, name: &str, scene: &Scene) -> Result<String, TemplateError> {
        self.make(name, Part::Text, Form::Raw, scene)
    }

    /// Renders the parts of template `name` for people.
    pub(super) fn parts(&self, name: &str, scene: &Scene) -> Result<BTreeMap<Part, String>, TemplateError> {
        let Some(source) = self.sources.get(name) else { return Err(missing()) };
        let make = |part: Part| self.make(name, part, part.form(), scene).map(|text| (part, text));
        source.0.keys().map(|part| make(*part)).collect()
    }

    fn make(&self, name: &str, part: Part, form: Form, scene: &Scene) -> Result<String, TemplateError> {
        let template = self.envs[form as usize].get_template(&entry(name, part)).map_err(|_| missing())?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(scene.0.clone(), &mut out)?;
        // Templates write text; should that ever change, what is no text is replaced.
        Ok(String::from_utf8(out.0).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

fn missing() -> TemplateError {
    TemplateError { reason: "there is no such template".into(), line: None }
}

/// What a part of a template is called among the compiled ones. No part's number begins a name.
fn entry(name: &str, part: Part) -> String {
    format!("{}\u{1}{name}", part as u8)
}

/// Finds what is wrong with `source` before it is used: its syntax, and filters, tests, functions and methods that do not
/// exist, as far as rendering it for a sample of every event of the seeds reaches them. Each with the part it is in.
pub fn check(source: &Source) -> Vec<(Part, TemplateError)> {
    let wrong = |part: Part, text: &str| part.forms().iter().find_map(|form| check_form(text, *form).err());
    source.0.iter().filter_map(|(part, text)| Some((*part, wrong(*part, text)?))).collect()
}

/// Likewise of a template that is a text.
pub fn check_text(text: &str) -> Result<(), TemplateError> {
    Part::Text.forms().iter().try_for_each(|form| check_form(text, *form))
}

fn check_form(text: &str, form: Form) -> Result<(), TemplateError> {
    let env = environment(form, Strictness::Lenient);
    let template = env.template_from_str(text)?;
    for scene in Scene::samples() {
        let Err(error) = template.render_captured_to(scene.0, &mut Bounded(Vec::new())) else { continue };
        let always = matches!(
            error.kind(),
            ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction
                | ErrorKind::UnknownMethod
                | ErrorKind::UnknownBlock
                | ErrorKind::TemplateNotFound
                | ErrorKind::BadInclude
        );
        // Anything else may well work with the fields of a real event.
        if always || filters::of_arguments(&error) {
            return Err(error.into());
        }
    }
    Ok(())
}

pub(super) fn environment(form: Form, strictness: Strictness) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_auto_escape_callback(move |_| match form {
        Form::Raw => AutoEscape::None,
        Form::Html => AutoEscape::Html,
        Form::Text => AutoEscape::Custom("text".into()),
        Form::Slack => AutoEscape::Custom("slack".into()),
    });
    // Whatever a template switches off: what a form needs is done to every value.
    if form != Form::Raw {
        env.set_formatter(move |out, _: &mut State, value| write(out, form, value));
    }
    env.set_path_join_callback(|_, _| Cow::Borrowed(NOWHERE));
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION_MAX);
    env.set_undefined_behavior(match strictness {
        Strictness::Lenient => UndefinedBehavior::Lenient,
        Strictness::Strict => UndefinedBehavior::SemiStrict,
    });
    filters::add(&mut env);
    env
}

/// Writes `value` cleaned and escaped. What a template made itself (a macro's text, a `{% set %}` block) is escaped already; missing values
/// are nothing.
fn write(out: &mut Output<'_>, form: Form, value: &Value) -> Result<(), Error> {
    if value.is_undefined() || value.is_none() {
        return Ok(());
    }
    let text = value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed);
    let clean: String = Visible::of(&text).collect();
    let escaped = match form {
        _ if value.is_safe() => clean,
        Form::Raw | Form::Text => clean,
        Form::Html => {
            let mut escaped = String::with_capacity(clean.len());
            safe::html(&mut escaped, &clean);
            escaped
        }
        Form::Slack => safe::slack(&clean, OUTPUT_MAX),
    };
    out.write_str(&escaped).map_err(Error::from)
}

/// Collects at most [`OUTPUT_MAX`] bytes.
#[derive(Default)]
pub(super) struct Bounded(Vec<u8>);

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
    use crate::{
        envelope::{DeliveryId, EventUid, tests::sample},
        json,
    };

    fn render(source: &str, strictness: Strictness) -> Result<String, TemplateError> {
        let templates =
            Templates::new(&BTreeMap::from([("it".to_owned(), Source::from(source)), ("other".into(), "x".into())]), strictness);
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
            assert!(check_text(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_check_finds_syntax_and_unknown_words() {
        let message = |source| check_text(source).unwrap_err().to_string();
        insta::assert_snapshot!(message("{{ event.type"), @"syntax error: unexpected end of input, expected end of variable block");
        insta::assert_snapshot!(message("{{ event.type | shout }}"), @"unknown filter: filter shout is unknown");
        insta::assert_snapshot!(message("{{ now() }}"), @"unknown function: now is unknown");
        assert_eq!(check_text("a\nb {% if %}").unwrap_err().line, Some(2));
        assert_eq!(check_text("{{ event.data.amount.currency | upper }} {{ event.data.nothing | int }}"), Ok(()));
    }

    #[test]
    fn dates_are_written_in_a_zone_and_masks_hide() {
        let at = r#"{{ event.time | date(tz="Europe/Berlin", format="%-d %B, %H:%M %Z") }} {{ event.time | date }}"#;
        assert_eq!(lenient(at), "20 January, 13:00 CET 2026-01-20 12:00 UTC");
        assert_eq!(lenient("{{ 1768910400 | date }} {{ 1768910400000 | date }}"), "2026-01-20 12:00 UTC 2026-01-20 12:00 UTC");
        assert_eq!(lenient("{{ 'soon' | date }}{{ event.data.nothing | date }}"), "soon");
        assert!(render("{{ 'soon' | date }}", Strictness::Strict).is_err());
        for (wrong, why) in [
            ("{{ event.time | date(tz='Mars/Olympus') }}", "invalid operation: date: there is no time zone `Mars/Olympus`"),
            ("{{ event.data.nothing | date(format='%Q%') }}", "invalid operation: date: the format `%Q%` cannot be used"),
            ("{{ event.time | date(zone='UTC') }}", "too many arguments: unknown keyword argument 'zone'"),
        ] {
            assert_eq!(check_text(wrong).unwrap_err().to_string(), why);
        }
        assert_eq!(
            lenient(
                "{{ 'dana@example.com' | mask }} {{ 'sk_live_12345678' | mask }} {{ 'short' | mask }} {{ 12 | mask }}[{{ none | mask }}]"
            ),
            "d***@example.com ***5678 *** ***[None]"
        );
    }

    #[test]
    fn values_are_made_safe_for_their_part_whatever_a_template_switches_off() {
        let text = "<b>{{ v }}</b>{% autoescape false %}{{ v }}{% endautoescape %}{% set x %}{{ v }}{% endset %}{{ x }}{{ [v] | tojson }}{{ none }}";
        let parts = Part::ALL.map(|(_, part)| (part, text.to_owned()));
        let templates = Templates::new(&BTreeMap::from([("it".to_owned(), Source(parts.into()))]), Strictness::Lenient);
        let value = minijinja::context! { v => "<!x> & \u{202e}\0" };
        let parts = templates.parts("it", &Scene(value)).unwrap();
        let shown: Vec<_> = parts.iter().map(|(part, text)| format!("{part:?}: {text}")).collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        Text: <b><!x> & </b><!x> & <!x> & ["\u003c!x\u003e \u0026 \u0000"]
        Subject: <b><!x> & </b><!x> & <!x> & ["\u003c!x\u003e \u0026 \u0000"]
        Html: <b>&lt;!x&gt; &amp; </b>&lt;!x&gt; &amp; &lt;!x&gt; &amp; ["\u003c!x\u003e \u0026 \u0000"]
        Slack: <b>&lt;!x&gt; &amp; </b>&lt;!x&gt; &amp; &lt;!x&gt; &amp; ["\u003c!x\u003e \u0026 \u0000"]
        Short: <b><!x> & </b><!x> & <!x> & ["\u003c!x\u003e \u0026 \u0000"]
        "#);
        assert_eq!(check_text("{{ event.type | safe }}").unwrap_err().to_string(), "unknown filter: filter safe is unknown");
    }

    #[test]
    fn a_check_names_the_part() {
        let source = Source(BTreeMap::from([(Part::Html, "{{ 1 | nope }}".to_owned()), (Part::Subject, "fine".to_owned())]));
        assert_eq!(check(&source).iter().map(|(part, _)| *part).collect::<Vec<_>>(), [Part::Html]);
        let halted = "{% if event.type == 'workflow.instance.halted' %}{{ event.type | nope }}{% endif %}";
        assert!(check_text(halted).is_err(), "found behind a condition on a type of the seeds");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_template_breaks_it(source in r"(\{\{|\}\}|\{%|%\}| |event|data|\.|\||upper|for|in|if|end|\(|\)|[a-z'0-9*~+-]){0,30}") {
            let _ = (check_text(&source), lenient(&source));
        }
    }
}
