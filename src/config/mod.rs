//! `routes.yaml` in, a [`Config`] or every problem with its line and column out. Opens no socket, knows no store.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    contacts,
    deliver::{Defaults, Destination},
    envelope::Name,
    ingest::Source,
    reconnect::Reconnect,
    rehearsal::Test,
    render,
    route::Rule,
    secret::Secret,
    sign,
    store::Retention,
};

pub mod decode;
mod finish;
mod fitting;
mod links;
mod mask;
pub mod references;
pub mod report;
mod sections;
mod traps;
pub mod tree;
mod units;
pub mod yaml;

pub use decode::{AllowTarget, Problem, Severity};
use decode::{Context, Fields};
use mask::Mask;
use references::References;
pub use references::{Environment, System};
use tree::{Key, Node, Place, Value};

/// What one `routes.yaml` says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// First 12 hex digits of SHA-256 over the file.
    pub hash: String,
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
    /// Largest request body in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How long a stop waits for what is under way. Default 30 s.
    pub shutdown_grace: Duration,
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
}

/// Where a file was read from and what it says.
#[derive(Debug, Clone)]
pub struct File {
    /// As given on the command line.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// What came of reading a file: what it says, where it says it well enough, and everything wrong with it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file.
    pub file: File,
    /// What it says; `None` when any problem is an error.
    pub config: Option<Config>,
    /// Errors and warnings by place, at most [`PROBLEMS_MAX`]. No message holds a secret.
    pub problems: Vec<Problem>,
    /// How many further problems there are.
    pub left_off: usize,
    /// The file's text with literal secrets starred out: what diagnostics quote from.
    pub shown: String,
}

/// How many problems one run shows.
pub const PROBLEMS_MAX: usize = 50;
/// The only version of the file so far.
const VERSION: i64 = 1;
/// Hexadecimal digits of [`Config::hash`].
const HASH_LEN: usize = 12;

/// Reads the file at `path` and what it says. A file that cannot be read is a problem like any other.
pub fn load(path: &Path, env: &dyn Environment) -> Loaded {
    match read(path) {
        Ok(bytes) => parse_bytes(path, bytes, env),
        Err(error) => {
            let file = File { path: path.to_owned(), text: String::new() };
            let message = format!("{} cannot be read: {error}", path.display());
            unreadable(file, Place::default(), message)
        }
    }
}

/// The bytes of the file: one more than allowed at most, so that a larger one is noticed and yet not read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(yaml::FILE_MAX).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_bytes(path: &Path, bytes: Vec<u8>, env: &dyn Environment) -> Loaded {
    match String::from_utf8(bytes) {
        Ok(text) => parse(File { path: path.to_owned(), text }, env),
        // A character that the limit cut in two is not what is wrong with a file that is too large.
        Err(error) if yaml::FILE_MAX < error.as_bytes().len() => {
            let file = File { path: path.to_owned(), text: String::new() };
            unreadable(file, Place::default(), "the file is larger than 1 MiB".to_owned())
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let file = File { path: path.to_owned(), text };
            unreadable(file, Place { start: at, end: at }, "this is not UTF-8".to_owned())
        }
    }
}

fn unreadable(file: File, place: Place, message: String) -> Loaded {
    let mut cx = Context::default();
    cx.error("unreadable-file", place, message);
    let shown = Mask::of_lines(&file.text).apply(&file.text);
    Loaded { file, config: None, problems: cx.problems, left_off: 0, shown }
}

/// Reads what `file` says: every problem in one run. Touches nothing but `env`.
pub fn parse(file: File, env: &dyn Environment) -> Loaded {
    let mut cx = Context { folder: folder(&file.path), text: file.text.clone(), ..Context::default() };
    let mut tree = yaml::parse(&file.text, &mut cx);
    let mask = match &tree {
        Some(root) => Mask::of_tree(root, &file.text, &cx.hidden),
        None => Mask::of_lines(&file.text),
    };
    let mut resolved = References::default();
    let mut config = None;
    if let Some(root) = &mut tree {
        resolved = references::resolve(root, &file.text, env, &mut cx);
        config = decode(root, &file, env, &mut cx).filter(|_| !cx.failed());
    }
    finish::without_consequences(&mut cx.problems, &resolved.failed, &cx.ignored);
    let (mut problems, left_off) = finish::select(cx.problems);
    for problem in &mut problems {
        tree.iter().for_each(|root| finish::locate(problem, root));
        finish::censor(problem, &mask, &file.text, &resolved.outside);
    }
    let shown = mask.apply(&file.text);
    Loaded { file, config, problems, left_off, shown }
}

fn folder(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Reads the sections in the order in which they need one another.
fn decode(root: &Node, file: &File, env: &dyn Environment, cx: &mut Context) -> Option<Config> {
    let mut fields = Fields::open(root, "the file", cx)?;
    version(&mut fields, cx);
    let server = sections::server(fields.node("server"), cx);
    let store = sections::store(fields.node("store"), cx);
    let security = sections::security(fields.node("security"), env, cx);
    cx.allow_targets.clone_from(&security.allow_targets);
    cx.require_https = security.require_https;
    cx.public_url.clone_from(&server.public_url);
    let [list, file_of_contacts, lookup] = ["contacts", "contacts_file", "contacts_lookup"].map(|name| fields.node(name));
    let contacts = contacts::Settings::decode(list, file_of_contacts, lookup, cx);
    let reconnect = Reconnect::decode(fields.node("reconnect"), fields.node("reconnect_url"), server.public_url.is_some(), cx);
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
    let hash = hash(&file.text);
    Some(Config { hash, server, store, security, sources, destinations, rules, contacts, reconnect, templates, unmatched, tests })
}

fn hash(text: &str) -> String {
    let mut hash = sign::hex(&sign::sha256(&[text.as_bytes()]));
    hash.truncate(HASH_LEN);
    hash
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
    let Some(mut fields) = node.and_then(|node| Fields::open(node, "`defaults`", cx)) else {
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
    decode: impl Fn(&Key, &Node, &mut Context) -> Option<T>,
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

/// The URL of the store that a file names which may be bad otherwise, or the default where it names none. `None` when it names
/// one that cannot be made out.
///
/// `serve` with a bad file goes on with the last good one, which lies in that store.
pub fn store_url(text: &str, env: &dyn Environment) -> Option<Secret> {
    let mut cx = Context::default();
    match lone(text, ["store", "url"], env, &mut cx) {
        Lone::Absent => Some(Secret::new(sections::STORE_URL)),
        Lone::Said(url) => sections::store_url(&url, &mut cx),
        Lone::Unclear => None,
    }
}

/// `server.admin_listen` of a file that may be bad otherwise; `None` where it does not say.
pub fn admin_listen(text: &str, env: &dyn Environment) -> Option<String> {
    let mut cx = Context::default();
    match lone(text, ["server", "admin_listen"], env, &mut cx) {
        Lone::Said(address) => <String as decode::Decode>::decode(&address, &mut cx),
        Lone::Absent | Lone::Unclear => None,
    }
}

/// The encryption keys that a file which may be bad otherwise, and the environment, name; the likelier first.
pub fn encryption_keys(text: &str, env: &dyn Environment) -> Vec<Secret> {
    let mut cx = Context::default();
    let said = match lone(text, ["security", "encryption_key"], env, &mut cx) {
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

fn lone(text: &str, [section, key]: [&str; 2], env: &dyn Environment, cx: &mut Context) -> Lone {
    let root = match yaml::parse(text, cx) {
        Some(root) => Some(root),
        None => match block(text, section) {
            Some(block) => yaml::parse(&block, cx),
            None => return Lone::Absent,
        },
    };
    let Some(mut root) = root else { return Lone::Unclear };
    let Some(node) = root.get_mut(section).and_then(|it| it.get_mut(key)).filter(|node| node.value != Value::Null) else {
        return Lone::Absent;
    };
    let resolved = references::resolve(node, text, env, cx);
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
mod tests;
