//! The sections that belong to no other room: `server`, `store`, `security`, `templates`, `unmatched`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use url::Url;

use super::{
    AllowTarget, Cors, Security, Server, StoreSettings,
    decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Rate, Schema, Shape, Size, nearest},
    references::Environment,
    tree::{Node, Value},
};
use crate::{
    envelope::Name,
    render::{self, Part, TemplateError},
    schedule::Schedule,
    seal::Sealer,
    secret::Secret,
    store::{Retention, file, postgres},
};

/// Where the store is when the file does not say.
pub(super) const STORE_URL: &str = "sqlite://hookyard.db";
/// Where the key is looked for when the file does not say.
pub(super) const ENCRYPTION_KEY: &str = "HOOKYARD_ENCRYPTION_KEY";
/// Bounds of `server.max_body`, in bytes: every open request may hold as much.
const BODY: std::ops::RangeInclusive<u64> = 1024..=64 * 1024 * 1024;
/// Longest `server.shutdown_grace`.
const GRACE_MAX: Duration = Duration::from_secs(3600);
/// `server.api_rate_limit` by default.
const API_RATE: Rate = Rate::per_second(20, 100);
/// Smallest `store.max_bytes`: an empty store with its journal and room to work.
const STORE_MIN: u64 = 1024 * 1024;
/// Longest host name (RFC 1035), in bytes.
const HOST_MAX: usize = 253;

const DAY: Duration = Duration::from_secs(86_400);

const SERVER: Keys = Keys::of(&[
    Field::of::<Listen>("listen", "Address of the public listener: sources, /healthz, /readyz, callbacks and reconnect links.")
        .default("0.0.0.0:8080"),
    Field::of::<Listen>("admin_listen", "Address of the admin listener: API, UI and /metrics. Keep it away from the internet.")
        .default("127.0.0.1:9080"),
    Field::of::<WebUrl>("public_url", "Where people and senders reach the public listener: in reconnect links and callbacks.")
        .example("https://relay.example.com"),
    Field::of::<WebUrl>("admin_url", "Where ops reach the admin listener: in links for ops.")
        .example("https://relay-admin.example.com"),
    Field::of::<bool>("public_api", "Whether events can be read and subscribed to on the public listener too.").default("false"),
    Field::of::<Rate>(
        "api_rate_limit",
        "How much each created token may ask of the API; more gets 429. The token of the start has no limit.",
    )
    .default(r#"{"rate": "20/s", "burst": 100}"#),
    Field::of::<Cors>("cors", "Which web pages may ask the API from a browser, on either listener; without it none."),
    Field::of::<Size>("max_body", "Largest body of a request, between 1KiB and 64MiB; what is larger gets 413.").default("1MiB"),
    Field::of::<Duration>("shutdown_grace", "How long a stop waits for what is under way, at most 1h.").default("30s"),
    Field::of::<bool>("watch", "Whether the files are watched, and gone by as soon as they change.").default("true"),
]);

impl Shape for Server {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(SERVER, all)
    }
}

/// Reads `server`.
pub(super) fn server(node: Option<&Node>, cx: &mut Context) -> Server {
    let mut server = Server {
        listen: "0.0.0.0:8080".to_owned(),
        admin_listen: "127.0.0.1:9080".to_owned(),
        public_url: None,
        admin_url: None,
        public_api: false,
        api_rate_limit: API_RATE,
        cors: Cors::default(),
        max_body: 1024 * 1024,
        shutdown_grace: Duration::from_secs(30),
        watch: true,
    };
    let Some(mut fields) = node.and_then(|node| Fields::open(node, "`server`", SERVER, cx)) else { return server };
    server.listen = fields.optional("listen", cx).map_or(server.listen, |Listen(address)| address);
    server.admin_listen = fields.optional("admin_listen", cx).map_or(server.admin_listen, |Listen(address)| address);
    server.public_url = fields.optional("public_url", cx).map(|WebUrl(url)| url);
    server.admin_url = fields.optional("admin_url", cx).map(|WebUrl(url)| url);
    server.public_api = fields.or("public_api", false, cx);
    server.api_rate_limit = fields.or("api_rate_limit", API_RATE, cx);
    server.cors = fields.optional("cors", cx).unwrap_or_default();
    server.watch = fields.or("watch", true, cx);
    if let Some(size) = fields.optional::<Located<Size>>("max_body", cx) {
        server.max_body = max_body(&size, cx).unwrap_or(server.max_body);
    }
    if let Some(grace) = fields.optional::<Located<Duration>>("shutdown_grace", cx) {
        if GRACE_MAX < grace.value {
            cx.error("bad-value", grace.place, "`shutdown_grace` is at most 1h");
        }
        server.shutdown_grace = grace.value;
    }
    fields.finish(cx);
    server
}

/// Puts into `server` what is each replica's own ([`super::meaning`]), as far as `said` answers it for a key and it can be used.
pub(super) fn own(server: &mut Server, mut said: impl FnMut(&'static str) -> Option<Node>) {
    fn read<T: Decode>(node: Option<Node>) -> Option<T> {
        T::decode(&node?, &mut Context::default())
    }
    if let Some(Listen(address)) = read(said("listen")) {
        server.listen = address;
    }
    if let Some(Listen(address)) = read(said("admin_listen")) {
        server.admin_listen = address;
    }
    if let Some(WebUrl(url)) = read(said("admin_url")) {
        server.admin_url = Some(url);
    }
    server.watch = read(said("watch")).unwrap_or(server.watch);
    let grace: Option<Duration> = read(said("shutdown_grace"));
    server.shutdown_grace = grace.filter(|grace| *grace <= GRACE_MAX).unwrap_or(server.shutdown_grace);
}

fn max_body(size: &Located<Size>, cx: &mut Context) -> Option<usize> {
    if !BODY.contains(&size.value.0) {
        cx.error("bad-value", size.place, "`max_body` is between 1KiB and 64MiB");
        return None;
    }
    usize::try_from(size.value.0).ok()
}

/// An address to listen on: `0.0.0.0:8080`, `[::1]:9080`, `localhost:0`.
struct Listen(String);

/// What addresses to listen on are called in messages.
const LISTEN: &str = "an address and port such as 0.0.0.0:8080";

impl Shape for Listen {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("^[^/]+:[0-9]{1,5}$", LISTEN)
    }
}

impl Decode for Listen {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let Some(text) = node.text() else { return cx.expected(LISTEN, node) };
        let named = || {
            let (host, port) = text.rsplit_once(':')?;
            (is_host(host) && port.parse::<u16>().is_ok()).then_some(())
        };
        if text.parse::<SocketAddr>().is_ok() || named().is_some() {
            return Some(Self(text.to_owned()));
        }
        cx.expected(LISTEN, node)
    }
}

/// A URL of the web, where people and senders reach the relay.
struct WebUrl(Url);

/// What such URLs are called in messages.
const WEB_URL: &str = "a URL such as https://relay.example.com";

impl Shape for WebUrl {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("^https?://[^?#]+$", WEB_URL)
    }
}

impl Decode for WebUrl {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let plain = |url: &Url| url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        url.filter(plain).map(Self).or_else(|| cx.expected(WEB_URL, node))
    }
}

const STORE: Keys = Keys::of(&[
    Field::of::<String>(
        "url",
        "Where events and deliveries are kept: `sqlite://` and a path, relative to where the relay starts or absolute; or \
        `postgres://user:password@host:5432/database`, which any number of replicas share.",
    )
    .default(STORE_URL)
    .example("sqlite:///var/lib/hookyard/hookyard.db")
    .such_that(|url| url.pattern("^(sqlite|postgres|postgresql)://.+$", "the URL of a store such as sqlite://hookyard.db")),
    Field::of::<Retention>("retention", "How long is kept what is done."),
    Field::of::<Size>("max_bytes", "Largest size of the store, at least 1MiB; beyond it the oldest that is done goes first.")
        .example("20GiB"),
]);
const RETENTION: Keys = Keys::of(&[
    Field::of::<Duration>(
        "events",
        "How long events are kept, with deliveries and attempts; on PostgreSQL up to a sixth, or two hours, longer.",
    )
    .default("30d"),
    Field::of::<Duration>("dead_letters", "How long dead letters are kept.").default("90d"),
    Field::of::<Duration>("rejections", "How long requests are kept that were not accepted.").default("7d"),
    Field::of::<Duration>("audit", "How long it is kept who changed what.").default("365d"),
]);

impl Shape for StoreSettings {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(STORE, all)
    }
}

impl Shape for Retention {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(RETENTION, all)
    }
}

/// Reads `store`.
pub(super) fn store(node: Option<&Node>, cx: &mut Context) -> StoreSettings {
    let mut settings = StoreSettings { url: Secret::new(STORE_URL), retention: default_retention() };
    let Some(mut fields) = node.and_then(|node| Fields::open(node, "`store`", STORE, cx)) else { return settings };
    if let Some(url) = fields.node("url").and_then(|node| store_url(node, cx)) {
        settings.url = url;
    }
    if let Some(node) = fields.node("retention") {
        retention(node, &mut settings.retention, cx);
    }
    if let Some(size) = fields.optional::<Located<Size>>("max_bytes", cx) {
        if size.value.0 < STORE_MIN {
            cx.error("bad-value", size.place, "`max_bytes` is at least 1MiB");
        }
        settings.retention.max_bytes = Some(size.value.0);
    }
    fields.finish(cx);
    settings
}

fn default_retention() -> Retention {
    Retention { events: 30 * DAY, dead_letters: 90 * DAY, rejections: 7 * DAY, audit: 365 * DAY, max_bytes: None }
}

fn retention(node: &Node, retention: &mut Retention, cx: &mut Context) {
    let Some(mut fields) = Fields::open(node, "`retention`", RETENTION, cx) else { return };
    for (name, time) in [
        ("events", &mut retention.events),
        ("dead_letters", &mut retention.dead_letters),
        ("rejections", &mut retention.rejections),
        ("audit", &mut retention.audit),
    ] {
        let Some(given) = fields.optional::<Located<Duration>>(name, cx) else { continue };
        if given.value.is_zero() {
            cx.error("bad-value", given.place, format!("`{name}` of 0 would keep nothing"));
        }
        *time = given.value;
    }
    fields.finish(cx);
}

/// Reads `store.url`. A URL may hold a password, so no message repeats it.
pub(super) fn store_url(node: &Node, cx: &mut Context) -> Option<Secret> {
    let text = String::decode(node, cx)?;
    match text.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() && !path.contains('\0') => Some(Secret::new(text)),
        Some(("postgres" | "postgresql", _)) => {
            let url = Secret::new(text);
            match postgres::check(&url) {
                Ok(()) => Some(url),
                Err(reason) => {
                    cx.error("bad-value", node.place, format!("this cannot be used as a store: {reason}")).help(POSTGRES);
                    None
                }
            }
        }
        _ => {
            cx.error("bad-value", node.place, "expected the URL of a store")
                .help(format!("sqlite://hookyard.db, sqlite:///var/lib/hookyard.db, or {POSTGRES}"));
            None
        }
    }
}

/// How such a URL looks.
const POSTGRES: &str = "postgres://user:password@host:5432/database?sslmode=verify-full";

/// A store that several replicas share needs a key that they share.
pub(super) fn shared_key(store: &StoreSettings, place: super::tree::Place, security: &Security, cx: &mut Context) {
    let shared = file(&store.url, std::path::Path::new("")).is_none();
    if shared && security.encryption_key.is_none() && !cx.problems.iter().any(|it| it.code == "bad-encryption-key") {
        cx.error("missing-encryption-key", place, "a store that replicas share needs `security.encryption_key`")
            .help("make one with `openssl rand -base64 32`, and give it to all of them: as `security.encryption_key`, or in $HOOKYARD_ENCRYPTION_KEY");
    }
}

const SECURITY: Keys = Keys::of(&[
    Field::of::<Vec<AllowTarget>>(
        "allow_targets",
        "Private addresses and hosts that deliveries may go to all the same: networks, addresses or host names.",
    )
    .default("[]")
    .example(r#"["10.0.0.0/8", "localhost"]"#),
    Field::of::<bool>("require_https", "Whether targets must be https; those in `allow_targets` may be http.").default("true"),
    Field::of::<Secret>(
        "encryption_key",
        "Seals what is kept secret: 32 bytes in base64. Empty with SQLite: a key file beside the store.",
    )
    .default("${HOOKYARD_ENCRYPTION_KEY:-}"),
    Field::of::<Vec<Secret>>(
        "previous_encryption_keys",
        "Keys that were `encryption_key` before: what they sealed still opens, until `hookyard secrets rekey` has sealed it anew.",
    )
    .default("[]"),
]);

impl Shape for Security {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(SECURITY, all)
    }
}

/// Reads `security`. Without `encryption_key` there, it is taken from `$HOOKYARD_ENCRYPTION_KEY`.
pub(super) fn security(node: Option<&Node>, env: &dyn Environment, cx: &mut Context) -> Security {
    let mut security =
        Security { allow_targets: Vec::new(), require_https: true, encryption_key: None, previous_encryption_keys: Vec::new() };
    let mut fields = node.and_then(|node| Fields::open(node, "`security`", SECURITY, cx));
    if let Some(fields) = &mut fields {
        security.allow_targets = fields.optional("allow_targets", cx).unwrap_or_default();
        security.require_https = fields.or("require_https", true, cx);
    }
    let place = fields.as_ref().map(|fields| fields.key_place("encryption_key")).unwrap_or_default();
    security.encryption_key = match fields.as_mut().and_then(|fields| fields.node("encryption_key")) {
        Some(node) => Secret::decode(node, cx).and_then(|key| encryption_key(key, "`encryption_key`", node.place, cx)),
        None => env.var(ENCRYPTION_KEY).and_then(|key| encryption_key(Secret::new(key), ENCRYPTION_KEY, place, cx)),
    };
    if let Some(mut fields) = fields {
        let place = fields.key_place("previous_encryption_keys");
        let keys: Vec<Secret> = fields.optional("previous_encryption_keys", cx).unwrap_or_default();
        let keys = keys.into_iter().filter_map(|key| encryption_key(key, "each of `previous_encryption_keys`", place, cx));
        security.previous_encryption_keys = keys.collect();
        fields.finish(cx);
    }
    security
}

/// `key` when it serves; an empty one stands for none.
fn encryption_key(key: Secret, what: &str, place: super::tree::Place, cx: &mut Context) -> Option<Secret> {
    if key.is_empty() {
        return None;
    }
    if Sealer::new(&key).is_err() {
        cx.error("bad-encryption-key", place, format!("{what} must be 32 bytes in base64"))
            .help("make one with `openssl rand -base64 32`");
        return None;
    }
    Some(key)
}

/// What such targets are called in messages.
const ALLOW_TARGET: &str = "a network such as 10.0.0.0/8, an address or a host name, without scheme or port";

impl Shape for AllowTarget {
    fn schema(_: &mut Definitions) -> Schema {
        let (name, ipv6) = ("[A-Za-z0-9._-]+", "[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*");
        Schema::like(&format!(r"^(({name}|{ipv6})(/[0-9]+)?|\[{ipv6}\])$"), ALLOW_TARGET)
    }
}

impl Decode for AllowTarget {
    /// A network (`10.0.0.0/8`), an address (`127.0.0.1`, `::1`) or a host name (`localhost`).
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Net(IpNet::from(address)));
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Self::Net(net.trunc()));
        }
        let host = text.strip_suffix('.').unwrap_or(&text);
        // What ends in a number is an address to resolvers, and this one is none.
        let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if is_host(host) && !numeric {
            return Some(Self::Host(host.to_ascii_lowercase()));
        }
        cx.expected(ALLOW_TARGET, node)
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= HOST_MAX && text.split('.').all(label)
}

/// The parts of a message that a template makes: the keys of [`Part::ALL`].
const PARTS: Keys = Keys::of(&[
    Field::of::<String>(
        "text",
        "Plain text: the message of n8n, a webhook's body; stands for the other parts where they are not given.",
    ),
    Field::of::<String>("subject", "One line: the subject of a mail."),
    Field::of::<String>("html", "A whole document, or what stands in the middle of the built-in one."),
    Field::of::<String>("slack", "Slack's own markup."),
    Field::of::<String>("short", "A line or two: WhatsApp."),
])
.such_that(Schema::not_empty);

impl Shape for render::Source {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::any_of([Schema::text(), Schema::map(PARTS, all)])
    }
}

/// Reads `templates`: names and what they render.
pub(super) fn templates(node: Option<&Node>, cx: &mut Context) -> BTreeMap<String, render::Source> {
    let mut templates = BTreeMap::new();
    let Some(node) = node else { return templates };
    let Value::Map(map) = &node.value else {
        cx.expected::<()>("`templates` as a map of names and texts", node);
        return templates;
    };
    for (key, node) in map {
        if Name::parse(&key.name).is_none() {
            bad_name("a template", &key.name, key.place, cx);
        }
        templates.extend(template(&key.name, node, cx).map(|source| (key.name.clone(), source)));
    }
    templates
}

/// Reads `schedules`: names and their windows.
pub(super) fn schedules(node: Option<&Node>, cx: &mut Context) -> BTreeMap<String, Option<Arc<Schedule>>> {
    let mut schedules = BTreeMap::new();
    let Some(node) = node else { return schedules };
    let Value::Map(map) = &node.value else {
        cx.expected::<()>("`schedules` as a map of names and windows", node);
        return schedules;
    };
    for (key, node) in map {
        let name = Name::parse(&key.name);
        if name.is_none() {
            bad_name("a schedule", &key.name, key.place, cx);
        }
        let name = name.unwrap_or_else(|| Name::from(key.name.as_str()));
        schedules.insert(key.name.clone(), Schedule::decode(name, node, cx).map(Arc::new));
    }
    schedules
}

/// A template: a text, or a map of the parts of a message it makes.
fn template(name: &str, node: &Node, cx: &mut Context) -> Option<render::Source> {
    let mut parts = BTreeMap::new();
    let mut places = BTreeMap::new();
    if let Value::Map(_) = &node.value {
        let mut fields = Fields::open(node, format!("template `{name}`"), PARTS, cx)?;
        for (key, part) in Part::ALL {
            let Some(node) = fields.node(key) else { continue };
            places.insert(part, node);
            parts.extend(String::decode(node, cx).map(|text| (part, text)));
        }
        if places.is_empty() {
            cx.error("missing-key", node.place, format!("template `{name}` makes nothing"))
                .note("a template is a text, or any of: html short slack subject text");
        }
        fields.finish(cx);
    } else {
        places.insert(Part::Text, node);
        parts.insert(Part::Text, String::decode(node, cx)?);
    }
    let source = render::Source(parts);
    for (part, error) in render::check(&source) {
        if let Some(node) = places.get(&part) {
            bad_template(&error, node, cx);
        }
    }
    Some(source)
}

/// Notes what Jinja does not understand. What a template does with an event shows when it is rendered.
pub(crate) fn bad_template(error: &TemplateError, node: &Node, cx: &mut Context) {
    let reason = if node.referenced { "it does not parse" } else { &error.reason };
    let line = error.line.filter(|line| 1 < *line).map(|line| format!(" (its line {line})")).unwrap_or_default();
    let word = error.unknown().filter(|_| !node.referenced);
    let at = word.and_then(|word| cx.find_in(node.place, word)).unwrap_or(node.place);
    let near = word.and_then(|word| nearest(word, render::FILTERS.iter().copied()));
    cx.error("bad-template", at, format!("this template cannot be used: {reason}{line}")).did_you_mean(near);
}

/// Notes that `name` cannot be the name of `what`.
pub(super) fn bad_name(what: &str, name: &str, place: super::tree::Place, cx: &mut Context) {
    cx.error("bad-name", place, format!("`{name}` cannot be the name of {what}"))
        .note(format!("a name is letters, digits, `.`, `_` and `-`, at most {}", Name::LEN_MAX));
}

/// `unmatched`.
pub(super) struct Unmatched;

impl Shape for Unmatched {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::any_of([Schema::words(["keep"]), Schema::list(Schema::name())])
    }
}

/// Reads `unmatched`: `keep`, or destinations. Whether they are declared is checked with all others.
pub(super) fn unmatched(node: Option<&Node>, cx: &mut Context) -> Vec<Name> {
    match node.map(|node| (&node.value, node)) {
        None => Vec::new(),
        Some((Value::String(word), _)) if word == "keep" => Vec::new(),
        Some((Value::List(items), _)) => items.iter().filter_map(|item| name(item, cx)).collect(),
        Some((value, node)) => {
            cx.expected::<()>("`keep` or a list of destinations", node);
            if let (Value::String(word), Some(problem)) = (value, cx.problems.last_mut().filter(|_| !node.referenced)) {
                let list = format!("[{word}]");
                problem.did_you_mean(Some(nearest(word, ["keep"]).unwrap_or(&list)));
            }
            Vec::new()
        }
    }
}

fn name(node: &Node, cx: &mut Context) -> Option<Name> {
    let text = String::decode(node, cx)?;
    Name::parse(&text).or_else(|| cx.expected("the name of a destination", node))
}
