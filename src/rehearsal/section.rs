//! `tests:` of `routes.yaml`, as the file writes it.

use std::{collections::BTreeMap, ops::RangeInclusive};

use jiff::Zoned;

use super::data;
use crate::{
    clock::Timestamp,
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, OneOrMore, Schema, Shape, Words, one_of},
        tree::{Key, Node, Place, Value},
    },
    envelope::Name,
    samples::{self, Sample},
    store::State,
};

/// How many events one test may make.
const TIMES: RangeInclusive<u32> = 1..=1000;
/// Longest name of a test, type, namespace, subject or id, in characters.
const TEXT_MAX: usize = 256;

/// One entry of `tests`: an event, and what is expected of it.
#[derive(Debug, Clone)]
pub struct Test {
    /// What it is called; `tests[<n>]` where the file gives no name.
    pub name: String,
    /// Where it stands: its name, or the whole entry.
    pub place: Place,
    /// What time it is; `None`: the time at which all tests run that do not say.
    pub now: Option<Timestamp>,
    /// Environment variables, before those of the process.
    pub env: BTreeMap<String, String>,
    /// How many events, with fresh ids.
    pub times: u32,
    /// The event.
    pub event: Start,
    /// What is expected.
    pub expect: Expect,
}

/// The event a test begins with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The source it comes in by.
    pub source: Option<Located<Name>>,
    /// What happened; `None`: what its source makes of its data, or its sample's.
    pub r#type: Option<String>,
    /// Whose it is; `None`: what its data says, where its source's kind looks there.
    pub namespace: Option<String>,
    /// What it happened to; `None`: likewise.
    pub subject: Option<String>,
    /// The sender's id of the first event; the others add `-2`, `-3`, ….
    pub id: Option<String>,
    /// The sender's time; `None`: now.
    pub time: Option<Timestamp>,
    /// `data`, as compact JSON; `None`: its sender sent none.
    pub data: Option<String>,
    /// The event of the seeds that it takes all else from.
    pub(crate) sample: Option<Sample>,
}

/// `expect`. What is absent is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Where it stands.
    pub place: Place,
    /// The rules that match, all of them, in the order of the file.
    pub rules: Option<Located<Vec<Name>>>,
    /// The targets that are reached, all of them, in any order.
    pub to: Option<Located<Vec<Name>>>,
    /// What the first event's delivery to a target is.
    pub states: Vec<(Name, Located<State>)>,
    /// How many deliveries of all events are suppressed.
    pub suppressed: Option<Located<u32>>,
    /// What the first event's delivery to a target says.
    pub renders: Vec<(Name, Renders)>,
}

/// What is expected of a message.
#[derive(Debug, Clone, Default)]
pub struct Renders {
    /// Where its target is named.
    pub place: Place,
    /// Texts that stand somewhere in it.
    pub contains: Vec<Located<String>>,
    /// Texts that stand nowhere in it.
    pub not_contains: Vec<Located<String>>,
    /// The whole subject line of a mail.
    pub subject: Option<Located<String>>,
}

const KEYS: Keys = Keys::of(&[
    Field::of::<String>("name", "What it is called in the report.").example("expired credential reaches its owner and ops"),
    Field::of::<Moment>("now", "What time it is, with a zone: for schedules, throttles and digests.")
        .example("2026-01-20T23:30:00+01:00"),
    Field::of::<Environment>("env", "Environment variables, before those of the process: so that it needs no real secret.")
        .example(r#"{"SLACK_BOT_TOKEN": "xoxb-test"}"#),
    Field::of::<u32>("times", "How many events come, with fresh ids.")
        .default("1")
        .such_that(|times| times.between((*TIMES.start()).into(), (*TIMES.end()).into())),
    Field::of::<Start>("event", "The event that comes in.").required(),
    Field::of::<Expect>("expect", "What is expected; what is left out is not looked at."),
]);

const EVENT: Keys = Keys::of(&[
    Field::of::<SampleType>(
        "sample",
        "An event of Interactor's documents, by its type: what the other keys do not say, it does.",
    )
    .example("credential.expired"),
    Field::of::<Name>("source", "The source it comes in by.").example("interactor"),
    Field::of::<String>("type", "What happened.").example("credential.expired"),
    Field::of::<String>("namespace", "Whose it is.").example("user_123"),
    Field::of::<String>("subject", "What it happened to.").example("cred_abc"),
    Field::of::<String>("id", "Its sender's id; of several events the later ones add -2, -3, …."),
    Field::of::<Moment>("time", "When it happened, as its sender says."),
    Field::of::<Data>("data", "What its sender says of it.").example(r#"{"credential_id": "cred_abc"}"#),
])
.such_that(|event| event.either("sample", &["source"]));

const EXPECTED: Keys = Keys::of(&[
    Field::of::<OneOrMore<Name>>("rules", "The rules that match, all of them.").example(r#"["everything-for-audit"]"#),
    Field::of::<OneOrMore<Name>>("to", "The targets that are reached, all of them.").example(r#"["crm"]"#),
    Field::of::<ByTarget<State>>("states", "What becomes of the first event's delivery, by target.")
        .example(r#"{"ops-slack": "held"}"#),
    Field::of::<u32>("suppressed", "How many deliveries of all events are suppressed."),
    Field::of::<ByTarget<Renders>>("renders", "What the first event's delivery says, by target.")
        .example(r#"{"reconnect-mail": {"contains": ["Google Calendar"]}}"#),
]);

const RENDERS: Keys = Keys::of(&[
    Field::of::<OneOrMore<String>>("contains", "Texts that stand somewhere in it."),
    Field::of::<OneOrMore<String>>("not_contains", "Texts that stand nowhere in it."),
    Field::of::<String>("subject", "The whole subject line of a mail."),
]);

impl Shape for Test {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Shape for Start {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(EVENT, all)
    }
}

impl Shape for Expect {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(EXPECTED, all)
    }
}

impl Shape for Renders {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(RENDERS, all)
    }
}

/// A map from targets to something.
struct ByTarget<T>(std::marker::PhantomData<T>);

impl<T: Shape> Shape for ByTarget<T> {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map_of(T::schema(all))
    }
}

impl Words for State {
    /// All but `unknown`, which stands last: nothing of this version comes to that.
    const WORDS: &'static [(&'static str, Self)] = match Self::ALL.split_last() {
        Some((_, known)) => known,
        None => &[],
    };
}

/// The type of one of the samples.
struct SampleType;

impl Shape for SampleType {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::words(samples::ALL.map(|sample| sample.r#type))
    }
}

/// Any value that JSON holds.
struct Data;

impl Shape for Data {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::anything()
    }
}

/// A time with its zone.
struct Moment;

/// What times are called in messages.
const MOMENT: &str = "a time with its zone, such as 2026-01-20T23:30:00+01:00 or 2026-01-20T23:30:00[Europe/Berlin]";

impl Shape for Moment {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^[0-9]{4}-?[0-9]{2}-?[0-9]{2}[Tt ][0-9:.,]+.*(Z|z|\]|[+-][0-9:]{2,8})$", MOMENT)
    }
}

/// Environment variables.
struct Environment;

impl Shape for Environment {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::map_under("^[A-Za-z_][A-Za-z0-9_]*$", Schema::text())
    }
}

impl Test {
    /// Reads entry `index` of `tests`, which counts from 0. That names do not repeat, and that what it names is declared, is checked
    /// when the whole file is read.
    pub fn decode(index: usize, node: &Node, cx: &mut Context) -> Option<Self> {
        let named = node.get("name").and_then(Node::text);
        let what = named.map_or_else(|| format!("test {}", index + 1), |name| format!("test \"{name}\""));
        let before = cx.problems.len();
        let mut fields = Fields::open(node, what, KEYS, cx)?;
        let name = text(&mut fields, "name", cx);
        let place = fields.key_place("name");
        let now = time(&mut fields, "now", cx);
        let env = fields.node("env").map_or(Some(BTreeMap::new()), |node| env(node, cx));
        let times = times(&mut fields, cx);
        let event = match fields.node("event") {
            Some(node) => Start::decode(node, cx),
            None => {
                fields.missing("event", cx);
                None
            }
        };
        let expect = match fields.node("expect") {
            Some(node) => Expect::decode(node, cx),
            None => Some(Expect { place, ..Expect::default() }),
        };
        let idle = fields.node("expect").is_none();
        fields.finish(cx);
        // A key that was meant to be `expect` is one mistake.
        if idle && before == cx.problems.len() {
            cx.warning("empty-test", place, IDLE).help(EXPECT);
        }
        let name = name?.unwrap_or_else(|| format!("tests[{index}]"));
        Some(Self { name, place, now: now?, env: env?, times: times?, event: event?, expect: expect? })
    }
}

/// What is said of a test without expectations.
const IDLE: &str = "this expects nothing: the test can only fail where the file is bad";
/// What may be expected, for people who expect nothing.
const EXPECT: &str = "expect: {rules: […], to: […], states: {…}, suppressed: 0, renders: {…: {contains: […]}}}";

impl Decode for Start {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`event`", EVENT, cx)?;
        let source = fields.node("source").map(|node| Located::<Name>::decode(node, cx));
        let sample = fields.node("sample").map(|node| sample(node, cx));
        let r#type = text(&mut fields, "type", cx);
        let namespace = text(&mut fields, "namespace", cx);
        let subject = text(&mut fields, "subject", cx);
        let id = text(&mut fields, "id", cx);
        let time = time(&mut fields, "time", cx);
        let data = fields.node("data").map(|node| data::json(node, cx));
        // Whether its source finds a type in its data is checked when the whole file is read.
        if fields.node("sample").is_none() && fields.node("source").is_none() {
            fields.missing("source", cx);
        }
        fields.finish(cx);
        Some(Self {
            source: absent_or(source)?,
            r#type: r#type?,
            namespace: namespace?,
            subject: subject?,
            id: id?,
            time: time?,
            data: absent_or(data)?,
            sample: absent_or(sample)?,
        })
    }
}

impl Decode for Expect {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`expect`", EXPECTED, cx)?;
        let rules = names(&mut fields, "rules", cx);
        let to = names(&mut fields, "to", cx);
        let states = by_target(&mut fields, "states", cx, |_, node, cx| {
            Some(Located { value: State::decode(node, cx)?, place: node.place })
        });
        let suppressed = fields.node("suppressed").map(|node| Located::decode(node, cx));
        let renders = by_target(&mut fields, "renders", cx, Renders::decode);
        let place = fields.place();
        fields.finish(cx);
        if node.entries().iter().all(|(_, node)| node.value == Value::Null) {
            cx.warning("empty-test", place, IDLE).help(EXPECT);
        }
        Some(Self { place, rules: rules?, to: to?, states: states?, suppressed: absent_or(suppressed)?, renders: renders? })
    }
}

impl Renders {
    fn decode(key: &Key, node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, format!("`renders.{}`", key.name), RENDERS, cx)?;
        let contains = texts(&mut fields, "contains", cx);
        let not_contains = texts(&mut fields, "not_contains", cx);
        let subject = fields.node("subject").map(|node| Located::decode(node, cx));
        let place = fields.place();
        fields.finish(cx);
        if node.entries().iter().all(|(_, node)| node.value == Value::Null) {
            let help = "contains: [text], not_contains: [text] or subject: text";
            cx.warning("empty-test", key.place, format!("nothing is expected of what `{}` gets", key.name)).help(help);
        }
        Some(Self { place, contains: contains?, not_contains: not_contains?, subject: absent_or(subject)? })
    }
}

/// What may be absent, but not wrong.
fn absent_or<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

/// A short text that may be absent; `None` when it is wrong.
fn text(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Option<String>> {
    let Some(node) = fields.node(name) else { return Some(None) };
    let text = String::decode(node, cx)?;
    if text.is_empty() || TEXT_MAX < text.chars().count() || text.chars().any(char::is_control) {
        let message = format!("`{name}` is one line of at most {TEXT_MAX} characters, and not empty");
        cx.error("bad-value", node.place, message);
        return None;
    }
    Some(Some(text))
}

/// A time that may be absent; `None` when it is wrong.
fn time(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Option<Timestamp>> {
    let Some(node) = fields.node(name) else { return Some(None) };
    let read = |text: &str| text.parse::<Timestamp>().ok().or_else(|| Some(text.parse::<Zoned>().ok()?.timestamp()));
    if let Some(at) = node.text().and_then(read) {
        return Some(Some(at));
    }
    cx.expected::<()>(MOMENT, node);
    if let (Some(text), Some(problem)) = (node.text().filter(|_| !node.referenced), cx.problems.last_mut())
        && text.parse::<jiff::civil::DateTime>().is_ok()
    {
        problem.help("it has no zone: add Z, +01:00 or [Europe/Berlin]");
    }
    None
}

fn times(fields: &mut Fields<'_>, cx: &mut Context) -> Option<u32> {
    let Some(node) = fields.node("times") else { return Some(1) };
    let times = u32::decode(node, cx)?;
    if !TIMES.contains(&times) {
        cx.error("bad-value", node.place, format!("`times` is between {} and {}", TIMES.start(), TIMES.end()));
        return None;
    }
    Some(times)
}

/// Environment variables: names and texts.
fn env(node: &Node, cx: &mut Context) -> Option<BTreeMap<String, String>> {
    let Value::Map(map) = &node.value else {
        return cx.expected("a map of environment variables", node);
    };
    let mut env = BTreeMap::new();
    let mut good = true;
    for (key, node) in map {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !key.name.bytes().all(fits) || key.name.is_empty() || key.name.starts_with(|c: char| c.is_ascii_digit()) {
            let message = format!("`{}` cannot be the name of an environment variable", key.name);
            cx.error("bad-name", key.place, message).help("letters, digits and `_`, as it stands in ${…}");
            good = false;
        }
        match String::decode(node, cx) {
            Some(text) => _ = env.insert(key.name.clone(), text),
            None => good = false,
        }
    }
    good.then_some(env)
}

/// Names that may be absent; `None` when they are wrong. An empty list expects none.
fn names(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Option<Located<Vec<Name>>>> {
    let Some(node) = fields.node(name) else { return Some(None) };
    let OneOrMore(names) = OneOrMore::decode(node, cx)?;
    Some(Some(Located { value: names, place: fields.key_place(name) }))
}

fn texts(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context) -> Option<Vec<Located<String>>> {
    let Some(node) = fields.node(name) else { return Some(Vec::new()) };
    let OneOrMore::<Located<String>>(texts) = OneOrMore::decode(node, cx)?;
    for text in &texts {
        if text.value.is_empty() {
            cx.error("bad-value", text.place, "an empty text stands in everything");
        }
    }
    Some(texts)
}

/// A map from targets to something, which may be absent; `None` when anything of it is wrong.
fn by_target<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context,
    decode: impl Fn(&Key, &Node, &mut Context) -> Option<T>,
) -> Option<Vec<(Name, T)>> {
    let Some(node) = fields.node(name) else { return Some(Vec::new()) };
    let Value::Map(map) = &node.value else {
        return cx.expected(&format!("`{name}` as a map of targets"), node);
    };
    // Whether the target is declared is checked with all other names.
    let read = |(key, node): &(Key, Node)| Some((Name::from(key.name.as_str()), decode(key, node, cx)?));
    let all: Vec<_> = map.iter().map(read).collect();
    all.into_iter().collect()
}

/// An event of the seeds, by its type.
fn sample(node: &Node, cx: &mut Context) -> Option<Sample> {
    let words = samples::ALL.map(|sample| (sample.r#type, sample));
    one_of(node, &words, cx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn read(text: &str) -> Test {
        let mut cx = Context::of(text);
        let node = yaml::parse(text, &mut cx).unwrap();
        let test = Test::decode(2, &node, &mut cx);
        assert_eq!(cx.problems, []);
        test.unwrap()
    }

    #[test]
    fn a_test_says_as_much_as_it_wants() {
        let test = read(
            "name: one
now: 2026-01-20T23:30:00+01:00
times: 2
env: {SLACK_URL: https://hooks.slack.com/x}
event: {source: interactor, type: credential.expired, namespace: u, subject: s, id: e, time: 2026-01-20T22:00:00Z, data: {n: 1.50}}
expect:
  rules: [a, b]
  to: crm
  states: {crm: held}
  suppressed: 2
  renders: {crm: {contains: x, not_contains: [y, z], subject: Hi}}
",
        );
        assert_eq!((test.name.as_str(), test.times, test.env.len()), ("one", 2, 1));
        assert_eq!(test.now, Some("2026-01-20T22:30:00Z".parse().unwrap()));
        assert_eq!((test.event.data.as_deref(), test.event.time), (Some(r#"{"n":1.50}"#), "2026-01-20T22:00:00Z".parse().ok()));
        let expect = test.expect;
        assert_eq!(expect.rules.unwrap().value, ["a".into(), "b".into()]);
        assert_eq!(expect.to.unwrap().value, ["crm".into()]);
        assert_eq!(expect.states.iter().map(|(name, state)| (name.as_str(), state.value)).next(), Some(("crm", State::Held)));
        assert_eq!((expect.suppressed.map(|it| it.value), expect.renders[0].1.not_contains.len()), (Some(2), 2));
    }

    #[test]
    fn little_is_enough() {
        let test = read("{event: {sample: credential.expired}, expect: {to: []}}");
        assert_eq!((test.name.as_str(), test.times, test.now), ("tests[2]", 1, None));
        assert_eq!((test.event.r#type, test.event.sample.map(|it| it.kind)), (None, Some("interactor")));
        assert_eq!(test.expect.to.map(|to| to.value), Some(Vec::new()));
    }

    #[test]
    fn a_zone_may_be_named() {
        let test = read("{now: '2026-07-20T23:30:00[Europe/Berlin]', event: {source: a, type: t}, expect: {to: []}}");
        assert_eq!(test.now, Some("2026-07-20T21:30:00Z".parse().unwrap()));
    }
}
