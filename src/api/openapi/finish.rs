//! What every operation has in common, put into the document by rule: ids, tags, parameters in paths, security, refusals.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::params::OURS;
use crate::api::{
    error,
    scopes::{self, Needs},
};

/// The methods that an item of `paths` may have.
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// The beginnings of paths, longest first where one begins another: tag, and what is behind it.
const TAGS: &[(&str, &str, &str)] = &[
    ("/api/v1/events", "events", "What was taken in, and the whole story of each event."),
    ("/api/v1/deliveries", "deliveries", "What is on its way to whom, and how each try went."),
    ("/api/v1/dead-letters", "dead-letters", "Deliveries that were given up: retried, or resolved with a note."),
    ("/api/v1/replays", "replays", "Deliveries made again of events that are kept."),
    ("/api/v1/erasures", "erasures", "Events taken out of the store for good."),
    ("/api/v1/webhooks", "webhooks", "Subscriptions, in Interactor's dialect: who is told of what, and what became of it."),
    ("/api/webhooks", "plain-webhooks", "The same subscriptions in Honeyframe's dialect: plain objects, without `data`."),
    ("/api/v1/jobs", "jobs", "What touches many deliveries at once, in the background."),
    ("/api/v1/targets", "targets", "How each target stands, and the hand of a person on it."),
    ("/api/v1/mutes", "mutes", "What people want to hear nothing of for a while."),
    ("/api/v1/sources", "sources", "What came in by each source."),
    ("/api/v1/rejections", "rejections", "Requests that were not accepted, why, and another chance for them."),
    ("/api/v1/tokens", "tokens", "Who else may use the API, what for, and until when."),
    ("/api/v1/audit", "audit", "Who changed what, how it was before and how it is since."),
    ("/api/v1/secrets", "secrets", "What is sealed at rest."),
    ("/api/v1/explain", "explain", "What would become of an event, and why."),
    ("/api/v1/config", "config", "What the relay goes by, and another file in its place."),
    ("/api/v1/stream", "stream", "Events as they are committed, for browsers and whoever reads server-sent events."),
    ("/api/sse-token", "sse-token", "Tokens for the streams of browsers."),
    ("/api/", "documentation", "This."),
    ("/", "health", "Whether it runs, whether it takes events, and what it counts."),
];

/// Makes of what the handlers said a document for readers.
pub(super) fn finish(mut document: Value) -> Value {
    ours(&mut document);
    document["info"] = json!({
        "title": "Hookyard",
        "version": env!("CARGO_PKG_VERSION"),
        "description": ABOUT,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/", "description": "The admin listener, `server.admin_listen`."}]);
    document["tags"] = TAGS.iter().map(|(_, name, what)| json!({"name": name, "description": what})).collect();
    let components = &mut document["components"];
    components["securitySchemes"] = json!({"token": {"type": "http", "scheme": "bearer", "description": TOKEN}});
    for (status, codes) in error::CODES {
        components["schemas"][refusal_name(*status)] = refusal_schema(*status, codes);
    }
    times(&mut components["schemas"]);
    refer(&mut components["schemas"]);
    let Some(paths) = document["paths"].as_object_mut() else { return document };
    paths.sort_keys();
    for (path, item) in paths.iter_mut() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method.as_str().to_lowercase()).and_then(Value::as_object_mut) {
                finish_operation(&method, path, operation);
            }
        }
    }
    document
}

const ABOUT: &str = "Hookyard takes webhooks in, proves who sent them, keeps them, and fans them out by the rules in one file.\n\n\
    A list answers `{\"data\": […], \"next\": \"<cursor>\"}`: newest first, and `next` is null at the end; with `after` in commit \
    order, and `next` is never null. One thing answers `{\"data\": {…}}`. What is refused answers \
    `{\"error\": \"<code>\", \"message\": \"<one sentence>\"}`. The parameters of a body may stand in the query as well, each once.";
const TOKEN: &str = "`Authorization: Bearer <token>`: the admin token of the relay, or one made with it.";

/// Puts every schema of ours in the place of what carries it.
fn ours(value: &mut Value) {
    if let Some(schema) = value.get_mut(OURS) {
        *value = schema.take();
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(ours),
        Value::Array(items) => items.iter_mut().for_each(ours),
        _ => {}
    }
}

/// Gives texts whose names say that they are times the format of times.
fn times(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties.iter_mut() {
            let is_text = property["type"] == "string" || property["type"] == json!(["string", "null"]);
            if is_text && (name.ends_with("_at") || name == "until") && property.get("format").is_none() {
                property["format"] = "date-time".into();
            }
        }
    }
    map.values_mut().for_each(times);
    for items in map.values_mut().filter_map(Value::as_array_mut) {
        items.iter_mut().for_each(times);
    }
}

/// Of `Listed_Event` and `One_Event`: refers to `Event`, where utoipa copies it.
fn refer(schemas: &mut Value) {
    let Some(schemas) = schemas.as_object_mut() else { return };
    let names: Vec<String> = schemas.keys().cloned().collect();
    for (around, name) in names.iter().filter_map(|around| Some((around, around.split_once('_')?.1))) {
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        if !schemas.contains_key(name) {
            continue;
        }
        match schemas[around].pointer_mut("/properties/data") {
            Some(data) if data["type"] == "array" => data["items"] = reference,
            Some(data) => *data = reference,
            None => {}
        }
    }
}

fn finish_operation(method: &Method, path: &str, operation: &mut Map<String, Value>) {
    let tag = TAGS.iter().find(|(beginning, ..)| path.starts_with(beginning)).map_or("", |(_, tag, _)| tag);
    let handler = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
    operation["operationId"] = format!("{}_{handler}", tag.replace('-', "_")).into();
    operation.insert("tags".to_owned(), json!([tag]));
    describe(operation);
    if let Some(body) = operation.get_mut("requestBody") {
        let schema = body["content"].as_object().and_then(|content| content.values().next()).map(|it| &it["schema"]);
        let needed = schema.is_some_and(|schema| ["required", "oneOf", "$ref"].iter().any(|key| schema.get(key).is_some()));
        body["required"] = needed.into();
    }
    let named = parameters(path, operation);
    let (secured, security) = match scopes::needs(method, path) {
        Needs::Nothing => (false, json!([])),
        Needs::Scopes(scopes) => (true, json!([{"token": scopes.iter().map(ToString::to_string).collect::<Vec<_>>()}])),
    };
    operation.insert("security".to_owned(), security);
    refusals(operation, named, secured);
}

/// The first sentence is the summary; where there is more, all of it is the description.
fn describe(operation: &mut Map<String, Value>) {
    let text = |operation: &mut Map<String, Value>, key| match operation.remove(key) {
        Some(Value::String(text)) => text.replace('\n', " "),
        _ => String::new(),
    };
    let (first, rest) = (text(operation, "summary"), text(operation, "description"));
    let whole = format!("{first} {rest}");
    let whole = whole.trim();
    let (summary, more) = whole.split_once(". ").unwrap_or((whole, ""));
    operation.insert("summary".to_owned(), summary.trim_end_matches('.').into());
    if !more.is_empty() {
        operation.insert("description".to_owned(), whole.into());
    }
}

/// Adds the parameters in the path; true when there are any.
fn parameters(path: &str, operation: &mut Map<String, Value>) -> bool {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let named: Vec<Value> = names.map(|name| in_path(path, name)).collect();
    let any = !named.is_empty();
    let asked = operation.remove("parameters").and_then(|asked| asked.as_array().cloned()).unwrap_or_default();
    let all: Vec<Value> = named.into_iter().chain(asked).collect();
    if !all.is_empty() {
        operation.insert("parameters".to_owned(), all.into());
    }
    any
}

/// A name in a path. What is no id of the relay's is not found, so that any text fits.
fn in_path(path: &str, name: &str) -> Value {
    let thing = path.split("/{").next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let (what, example) = match thing {
        "events" => ("The event's `uid`.", "ev_00000000000000ab0000000000000007"),
        "deliveries" | "dead-letters" => ("The delivery's id.", "dl_00000000000000ab0000000000000007_1"),
        "webhooks" => ("The subscription's id.", "wh_aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        "replays" | "jobs" => ("The job's id.", "job_00000000000000000000"),
        "tokens" => ("The token's id.", "tok_aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        "targets" => ("The target's name.", "crm"),
        _ => ("Its id.", "mute_1"),
    };
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": what,
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    })
}

/// Adds the refusals that go without saying, and the body of all of them.
fn refusals(operation: &mut Map<String, Value>, named: bool, secured: bool) {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    let asks = parameters.is_some_and(|all| all.iter().any(|it| it["in"] == "query"));
    let body = operation.contains_key("requestBody");
    let rules = [
        (asks || body, 400, "A parameter is not known here or does not fit; the message names it."),
        (secured, 401, "No token, a wrong one, or the relay has none."),
        (secured, 403, "The token may not do this."),
        (named, 404, "Nothing of this name or id is here."),
        (body, 413, "The body is too large."),
        (secured, 429, "The token asks too often; see `Retry-After`."),
        (secured, 503, "The store cannot be reached; see `Retry-After`."),
    ];
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (_, status, description) in rules.into_iter().filter(|(holds, ..)| *holds) {
        responses.entry(status.to_string()).or_insert_with(|| json!({"description": description}));
    }
    responses.sort_keys();
    for (status, response) in responses.iter_mut() {
        if response["description"].as_str().is_none_or(str::is_empty) {
            response["description"] = if status == "201" { "It is made." } else { "What was asked for." }.into();
        }
        refused(status, response);
    }
}

/// The body and the headers of a refusal, where it has none of its own.
fn refused(status: &str, response: &mut Value) {
    let Some((status, _)) = error::CODES.iter().find(|(known, _)| known.to_string() == status) else { return };
    if response.get("content").is_none() {
        let schema = format!("#/components/schemas/{}", refusal_name(*status));
        response["content"] = json!({"application/json": {"schema": {"$ref": schema}}});
    }
    let header = |what: &str, kind: &str| json!({"description": what, "schema": {"type": kind}});
    match status {
        401 => response["headers"] = json!({"WWW-Authenticate": header("`Bearer`.", "string")}),
        429 => {
            let mut headers = json!({"Retry-After": header("Seconds to wait.", "integer")});
            for (name, what) in [
                ("X-RateLimit-Limit", "How many may come at once."),
                ("X-RateLimit-Remaining", "How many more."),
                ("X-RateLimit-Reset", "When all may come again, in Unix seconds."),
            ] {
                headers[name] = header(what, "integer");
            }
            response["headers"] = headers;
        }
        503 => response["headers"] = json!({"Retry-After": header("Seconds to wait.", "integer")}),
        _ => {}
    }
}

fn refusal_name(status: u16) -> String {
    format!("Refusal{status}")
}

fn refusal_schema(status: u16, codes: &[&str]) -> Value {
    let mut schema = json!({
        "type": "object",
        "required": ["error", "message"],
        "properties": {
            "error": {"type": "string", "enum": codes, "description": "What is wrong, for programs."},
            "message": {"type": "string", "description": "What is wrong, for people: one sentence."},
        },
        "examples": [{"error": codes.first(), "message": "…"}],
    });
    if status == 429 {
        schema["properties"]["retry_after"] =
            json!({"type": "integer", "description": "Seconds to wait, where a rate is the reason."});
    }
    schema
}
