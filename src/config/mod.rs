//! `routes.yaml` in, a [`Config`] or every problem with its line and column out. Opens no socket, knows no store.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    contacts::{self, Contact, Lookup},
    deliver::{Defaults, Destination},
    envelope::Name,
    ingest::Source,
    reconnect::{ConnectorApi, Reconnect},
    rehearsal::Test,
    render,
    route::Rule,
    schedule::Schedule,
    secret::Secret,
    store::Retention,
    subscriptions::{self, EventTypesOfFile},
};

mod cors;
pub mod decode;
mod effective;
mod fields;
mod files;
mod finish;
mod fitting;
mod include;
pub mod keys;
mod links;
mod lint;
mod mask;
mod meaning;
mod meant;
mod merge;
mod read;
mod reading;
pub mod references;
pub mod report;
mod restart;
pub mod schema;
mod sections;
mod traps;
pub mod tree;
mod units;
pub mod yaml;

pub use cors::Cors;
pub use decode::{AllowTarget, Problem, Severity};
use decode::{Context, Definitions, Field, Fields, Keys, OneOrMore, Schema, Shape};
pub use effective::yaml as effective_yaml;
pub use files::{File, Files};
pub use meaning::Meaning;
use reading::{Fragments, Reading};
pub use references::{Environment, Spot, System};
pub use restart::{needs_restart, refuse};
use schema::Named;
pub(crate) use sections::bad_template;
use tree::{Node, Value};

/// What one `routes.yaml` and the files it includes say, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// First 12 hex digits of SHA-256 over the files.
    pub hash: String,
    /// What it means, whatever its words.
    pub meaning: Meaning,
    /// `server`.
    pub server: Server,
    /// `store`.
    pub store: StoreSettings,
    /// `security`.
    pub security: Security,
    /// `sources`, in the order of the file.
    pub sources: Vec<Source>,
    /// `destinations`, in the order of the file.
    pub destinations: Vec<Destination>,
    /// `rules`, top to bottom.
    pub rules: Vec<Rule>,
    /// `subscriptions`.
    pub subscriptions: subscriptions::Settings,
    /// `event_types`.
    pub event_types: EventTypesOfFile,
    /// `contacts`, `contacts_file` and `contacts_lookup`.
    pub contacts: contacts::Settings,
    /// `reconnect` or `reconnect_url`.
    pub reconnect: Option<Reconnect>,
    /// `templates` by name.
    pub templates: BTreeMap<String, render::Source>,
    /// `unmatched`: where events go that no rule matches; empty means `keep`.
    pub unmatched: Vec<Name>,
    /// `tests`, in the order of the file.
    pub tests: Vec<Test>,
}

/// `server`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Address of the public listener, `host:port`. Default `0.0.0.0:8080`.
    pub listen: String,
    /// Address of the admin listener. Default `127.0.0.1:9080`.
    pub admin_listen: String,
    /// Where senders reach the public listener: shown with the sources' paths.
    pub public_url: Option<url::Url>,
    /// Where ops reach the admin listener.
    pub admin_url: Option<url::Url>,
    /// Whether `/api/v1/events` answers on the public listener too.
    pub public_api: bool,
    /// How much each created token may ask of the API. Default 20/s, burst 100.
    pub api_rate_limit: decode::Rate,
    /// Which web pages may ask the API. Default none.
    pub cors: Cors,
    /// Largest request body in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How long a stop waits for what is under way. Default 30 s.
    pub shutdown_grace: Duration,
    /// Whether the files are watched, and gone by when they change. Default true.
    pub watch: bool,
}

/// `store`.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// `sqlite://<path>`. Default `sqlite://hookyard.db`.
    pub url: Secret,
    /// `retention` and `max_bytes`. Defaults: events 30 d, dead letters 90 d, rejections 7 d, no limit of size.
    pub retention: Retention,
}

/// `security`.
#[derive(Debug, Clone)]
pub struct Security {
    /// Private targets that are let through.
    pub allow_targets: Vec<AllowTarget>,
    /// Whether targets must be https, but for those in `allow_targets`. Default true.
    pub require_https: bool,
    /// The key that seals what is kept secret: 32 bytes.
    pub encryption_key: Option<Secret>,
    /// Those that were it before: what they sealed still opens.
    pub previous_encryption_keys: Vec<Secret>,
}

/// What came of reading a file: what it says, where it says it well enough, and everything wrong with it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file, and those it includes.
    pub files: Files,
    /// The patterns under `include`, against the folder of the file: where more files may come to be.
    pub includes: Vec<PathBuf>,
    /// What it says; `None` when any problem is an error.
    pub config: Option<Config>,
    /// Errors and warnings by file and place, at most [`PROBLEMS_MAX`]. No message holds a secret.
    pub problems: Vec<Problem>,
    /// How many further problems there are.
    pub left_off: usize,
    /// The files' texts with literal secrets starred out: what diagnostics quote from.
    pub shown: String,
    /// The configuration as it works, where it was asked for: defaults and fragments in their places, without secrets.
    pub effective: Option<serde_json::Value>,
    /// How many references lead nowhere and have something stand in for them.
    pub unseen: usize,
}

/// How a file is read, but for relays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What stands in for references that lead nowhere ([`Environment::stand_in`]) need not fit: problems where it stands are not told.
    /// Nothing can run on what comes of it.
    pub no_secrets: bool,
    /// [`Loaded::effective`] is wanted.
    pub effective: bool,
}

/// How many problems one run shows.
pub const PROBLEMS_MAX: usize = 50;
/// The only version of the file so far.
const VERSION: i64 = 1;

/// Reads the file at `path`, those it includes, and what they say. A file that cannot be read is a problem like any other.
pub fn load(path: &Path, env: &dyn Environment) -> Loaded {
    load_as(path, env, Options::default())
}

/// The same, otherwise than a relay does.
pub fn load_as(path: &Path, env: &dyn Environment, options: Options) -> Loaded {
    match read::text(path) {
        Ok(text) => {
            let (reading, tree) = Reading::of(File { path: path.to_owned(), text }, Fragments::OnDisk, env, options);
            conclude(reading, tree, env)
        }
        Err(fault) => conclude(Reading::refused(path.to_owned(), &fault, env), None, env),
    }
}

/// Reads what `file`, and those on disk that it includes, say: every problem in one run.
pub fn parse(file: File, env: &dyn Environment) -> Loaded {
    let (reading, tree) = Reading::of(file, Fragments::OnDisk, env, Options::default());
    conclude(reading, tree, env)
}

/// Reads what `file` says with these `fragments` in the place of those it would include from disk: a configuration that was kept.
pub fn parse_kept(file: File, fragments: Vec<File>, env: &dyn Environment) -> Loaded {
    let (reading, tree) = Reading::of(file, Fragments::Given(fragments), env, Options::default());
    conclude(reading, tree, env)
}

fn conclude(mut reading: Reading<'_>, tree: Option<(Node, merge::Outline)>, env: &dyn Environment) -> Loaded {
    let written = reading.written();
    let Reading { mut cx, mask, references, includes, .. } = reading;
    let mask = mask.finish(&cx.hidden);
    let effective = written.map(|root| effective::of(&root, &mask));
    let config = tree.as_ref().and_then(|(root, _)| decode(root, env, &mut cx));
    finish::without_consequences(&mut cx.problems, &references.failed, &cx.ignored);
    if cx.incomplete {
        finish::without_unknown_names(&mut cx.problems);
    }
    let config = config.filter(|_| !cx.failed());
    let (mut problems, left_off) = finish::select(cx.problems);
    for problem in &mut problems {
        tree.iter().for_each(|(root, outline)| finish::locate(problem, root, outline, &cx.files));
        finish::censor(problem, &mask, cx.files.text(), &references.outside);
    }
    let files = std::sync::Arc::unwrap_or_clone(cx.files);
    let shown = mask.apply(files.text());
    Loaded { files, includes, config, problems, left_off, shown, effective, unseen: references.unseen }
}

/// The sections of a file.
const KEYS: Keys = Keys::of(&[
    Field::of::<Version>("version", "Version of this format: 1.").required(),
    Field::of::<OneOrMore<String>>(
        "include",
        "More files, with sources, destinations, rules and the like of other teams, read against this file's folder. `*` stands for any part of one name.",
    )
    .example(r#"["routes.d/*.yaml"]"#),
    Field::of::<Server>("server", "The relay's two listeners."),
    Field::of::<StoreSettings>("store", "Where events and deliveries are kept, and for how long."),
    Field::of::<Security>("security", "Which targets may be reached, and the key that seals secrets."),
    Field::of::<DefaultsOfFile>("defaults", "What destinations get that do not say otherwise; one level deep."),
    Field::of::<Named<Source>>("sources", "Ways in, by name."),
    Field::of::<ConnectorApi>(
        "reconnect",
        "Puts a signed link into messages on credentials; its button asks the connector API where to reconnect.",
    ),
    Field::of::<String>("reconnect_url", "Instead of `reconnect`: a template that makes the link from the event.")
        .example("https://app.example.com/connect?account={{ event.namespace | urlencode }}"),
    Field::of::<Vec<Contact>>("contacts", "Who stands behind a namespace. The first that fits decides."),
    Field::of::<String>("contacts_file", "A file with more of them: CSV with a header line, or JSON.").example("contacts.csv"),
    Field::of::<Lookup>("contacts_lookup", "A service that is asked who stands behind a namespace that is listed nowhere."),
    Field::of::<subscriptions::Settings>("subscriptions", "What whoever subscribes by API may do."),
    Field::of::<EventTypesOfFile>(
        "event_types",
        "Types that senders will send one day: whoever subscribes may name them beside those that are known.",
    )
    .example(r#"["invoice.paid"]"#),
    Field::of::<Named<Schedule>>("schedules", "Windows of the week, by name: for `quiet` of destinations."),
    Field::of::<Named<render::Source>>("templates", "Jinja templates, by name, for destinations and rules.")
        .example(r#"{"failed-line": "{{ event.data.workflow_name }} failed in {{ event.data.failed_state }}"}"#),
    Field::of::<Named<Destination>>("destinations", "Ways out, by name."),
    Field::of::<sections::Unmatched>(
        "unmatched",
        "Where events go that no rule matches: `keep` (stored, counted, shown), or destinations.",
    )
    .default("keep"),
    Field::of::<Vec<Rule>>("rules", "What goes where. Every rule that matches fires, top to bottom."),
    Field::of::<Vec<Test>>("tests", "What `hookyard test` holds the rules to: with a clock of their own and no network."),
]);

/// The JSON Schema of `routes.yaml`, draft 7.
pub fn schema() -> serde_json::Value {
    schema::of_file(KEYS)
}

/// The same for a file that `routes.yaml` includes.
pub fn schema_of_included() -> serde_json::Value {
    schema::of_part(KEYS, |section| section == "version" || merge::is_shared(section))
}

/// `version`.
struct Version;

impl Shape for Version {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::only(VERSION)
    }
}

/// `defaults`.
struct DefaultsOfFile;

impl DefaultsOfFile {
    const KEYS: Keys =
        Keys::of(&[Field::of::<Defaults>("destination", "What every destination gets that does not say otherwise.")]);
}

impl Shape for DefaultsOfFile {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(Self::KEYS, all)
    }
}

/// Reads the sections in the order in which they need one another.
fn decode(root: &Node, env: &dyn Environment, cx: &mut Context) -> Option<Config> {
    let mut fields = Fields::open(root, "the file", KEYS, cx)?;
    version(&mut fields, cx);
    // What it names is read already.
    fields.node("include");
    let server = sections::server(fields.node("server"), cx);
    let place = fields.key_place("store");
    let store = sections::store(fields.node("store"), cx);
    let security = sections::security(fields.node("security"), env, cx);
    sections::shared_key(&store, place, &security, cx);
    cx.allow_targets.clone_from(&security.allow_targets);
    cx.require_https = security.require_https;
    cx.public_url.clone_from(&server.public_url);
    let [list, file_of_contacts, lookup] = ["contacts", "contacts_file", "contacts_lookup"].map(|name| fields.node(name));
    let contacts = contacts::Settings::decode(list, file_of_contacts, lookup, cx);
    let reconnect = Reconnect::decode(fields.node("reconnect"), fields.node("reconnect_url"), server.public_url.is_some(), cx);
    let subscriptions = subscriptions::Settings::decode(fields.node("subscriptions"), cx);
    let event_types = EventTypesOfFile::decode(fields.node("event_types"), cx);
    let templates = sections::templates(fields.node("templates"), cx);
    cx.templates.clone_from(&templates);
    cx.schedules = sections::schedules(fields.node("schedules"), cx);
    let defaults = defaults(fields.node("defaults"), cx);
    let sources = entries(fields.node("sources"), "`sources`", cx, Source::decode);
    let destinations =
        entries(fields.node("destinations"), "`destinations`", cx, |key, node, cx| Destination::decode(key, node, &defaults, cx));
    let rules = items(fields.node("rules"), "`rules`", cx, Rule::decode);
    let unmatched = sections::unmatched(fields.node("unmatched"), cx);
    let tests = items(fields.node("tests"), "`tests`", cx, Test::decode);
    fields.finish(cx);
    links::check(root, &contacts, cx);
    fitting::check(root, cx);
    let said = lint::Said { sources: &sources, destinations: &destinations, rules: &rules, templates: &templates };
    lint::check(root, &said, cx);
    let (hash, meaning) = (cx.files.hash(), meaning::of(root));
    Some(Config {
        hash,
        meaning,
        server,
        store,
        security,
        sources,
        destinations,
        rules,
        subscriptions,
        event_types,
        contacts,
        reconnect,
        templates,
        unmatched,
        tests,
    })
}

fn version(fields: &mut Fields<'_>, cx: &mut Context) {
    match fields.node("version") {
        Some(Node { value: Value::Int(VERSION), .. }) => {}
        Some(node) => {
            cx.error("bad-version", node.place, "this version of Hookyard reads files of `version: 1`").fix =
                Some("1".to_owned());
        }
        None => {
            fields.missing("version", cx);
            if let Some(problem) = cx.problems.last_mut() {
                problem.help("begin the file with `version: 1`");
            }
        }
    }
}

fn defaults(node: Option<&Node>, cx: &mut Context) -> Defaults {
    let Some(mut fields) = node.and_then(|node| Fields::open(node, "`defaults`", DefaultsOfFile::KEYS, cx)) else {
        return Defaults::decode(None, cx);
    };
    let defaults = Defaults::decode(fields.node("destination"), cx);
    fields.finish(cx);
    defaults
}

/// Reads a map of named things.
fn entries<T>(
    node: Option<&Node>,
    what: &str,
    cx: &mut Context,
    decode: impl Fn(&tree::Key, &Node, &mut Context) -> Option<T>,
) -> Vec<T> {
    match node.map(|node| (&node.value, node)) {
        None => Vec::new(),
        Some((Value::Map(map), _)) => map.iter().filter_map(|(key, node)| decode(key, node, cx)).collect(),
        Some((_, node)) => {
            cx.expected::<()>(&format!("{what} as a map of names"), node);
            Vec::new()
        }
    }
}

/// Reads a list of things that know which they are.
fn items<T>(
    node: Option<&Node>,
    what: &str,
    cx: &mut Context,
    decode: impl Fn(usize, &Node, &mut Context) -> Option<T>,
) -> Vec<T> {
    match node.map(|node| (&node.value, node)) {
        None => Vec::new(),
        Some((Value::List(items), _)) => items.iter().enumerate().filter_map(|(index, item)| decode(index, item, cx)).collect(),
        Some((_, node)) => {
            cx.expected::<()>(&format!("{what} as a list"), node);
            Vec::new()
        }
    }
}

/// The files that `pattern` of [`Loaded::includes`] names now.
pub fn included(pattern: &Path) -> Vec<PathBuf> {
    match include::find(Path::new(""), &pattern.to_string_lossy()) {
        include::Found::Files(files) => files,
        include::Found::Missing | include::Found::Unreadable(_) => Vec::new(),
    }
}

/// The file at `path` as it is, without those it includes; an empty one where it cannot be read.
pub fn main_file(path: &Path) -> Files {
    Files::new(File { path: path.to_owned(), text: read::text(path).unwrap_or_default() })
}

/// The URL of the store that a file names which may be bad otherwise, or the default where it names none. `None` when it names
/// one that cannot be made out.
///
/// `serve` with a bad file goes on with the last good one, which lies in that store.
pub fn store_url(files: &Files, env: &dyn Environment) -> Option<Secret> {
    let mut cx = Context::default();
    match lone(files, ["store", "url"], env, &mut cx) {
        Lone::Absent => Some(Secret::new(sections::STORE_URL)),
        Lone::Said(url) => sections::store_url(&url, &mut cx),
        Lone::Unclear => None,
    }
}

/// Reads `text` as `store.url` of a file is read, its references resolved.
///
/// # Errors
/// What is wrong with it, without what it says: it may hold a password.
pub fn store_url_of(text: &str, env: &dyn Environment) -> Result<Secret, String> {
    let mut cx = Context::default();
    // A text in JSON is one in YAML.
    let text = format!("store: {{url: {}}}", serde_json::Value::from(text));
    let files = Files::new(File { path: PathBuf::new(), text });
    let url = match lone(&files, ["store", "url"], env, &mut cx) {
        Lone::Said(url) => sections::store_url(&url, &mut cx),
        Lone::Absent | Lone::Unclear => None,
    };
    url.ok_or_else(|| match cx.problems.first() {
        Some(Problem { message, help: Some(help), .. }) => format!("{message} ({help})"),
        Some(problem) => problem.message.clone(),
        None => "expected the URL of a store".to_owned(),
    })
}

/// Puts into `config`, which another replica may have written, what of `server` is each replica's own, as `files` says it, which may be bad
/// otherwise: where it listens, above all.
pub fn keep_own(config: &mut Config, files: &Files, env: &dyn Environment) {
    sections::own(&mut config.server, |key| match lone(files, ["server", key], env, &mut Context::default()) {
        Lone::Said(node) => Some(node),
        Lone::Absent | Lone::Unclear => None,
    });
}

/// `server.admin_listen` of a file that may be bad otherwise; `None` where it does not say.
pub fn admin_listen(files: &Files, env: &dyn Environment) -> Option<String> {
    let mut cx = Context::default();
    match lone(files, ["server", "admin_listen"], env, &mut cx) {
        Lone::Said(address) => <String as decode::Decode>::decode(&address, &mut cx),
        Lone::Absent | Lone::Unclear => None,
    }
}

/// The encryption keys that a file which may be bad otherwise, and the environment, name; the likelier first.
pub fn encryption_keys(files: &Files, env: &dyn Environment) -> Vec<Secret> {
    let mut cx = Context::default();
    let said = match lone(files, ["security", "encryption_key"], env, &mut cx) {
        Lone::Said(key) => <Secret as decode::Decode>::decode(&key, &mut cx),
        Lone::Absent | Lone::Unclear => None,
    };
    said.into_iter().chain(env.var(sections::ENCRYPTION_KEY).map(Secret::new)).collect()
}

/// What a file that may be bad otherwise says under one key.
enum Lone {
    /// Nothing.
    Absent,
    /// This, its references resolved.
    Said(Node),
    /// Something that cannot be made out.
    Unclear,
}

/// What the main file alone may say.
fn lone(files: &Files, [section, key]: [&str; 2], env: &dyn Environment, cx: &mut Context) -> Lone {
    let main = |text: String| File { path: files.path().to_owned(), text };
    let mut read = |text: String| {
        cx.files = std::sync::Arc::new(Files::new(main(text)));
        yaml::parse(cx.files.clone().text(), cx)
    };
    let root = match read(files.main().to_owned()) {
        Some(root) => Some(root),
        None => match block(files.main(), section) {
            Some(block) => read(block),
            None => return Lone::Absent,
        },
    };
    let Some(mut root) = root else { return Lone::Unclear };
    let Some(node) = root.get_mut(section).and_then(|it| it.get_mut(key)).filter(|node| node.value != Value::Null) else {
        return Lone::Absent;
    };
    let mut resolved = references::References::default();
    references::resolve(node, env, &mut resolved, cx);
    if resolved.failed.is_empty() { Lone::Said(node.clone()) } else { Lone::Unclear }
}

/// The lines of `section` alone.
fn block(text: &str, section: &str) -> Option<String> {
    let opens = |line: &str| line.strip_prefix(section).is_some_and(|rest| rest.starts_with(':'));
    let mut lines = text.lines().skip_while(|line| !opens(line));
    let first = lines.next()?;
    let rest = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#']));
    Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod include_tests;
#[cfg(test)]
mod tests;
