//! `/api/docs`: the document as a page that is all there without a script and asks nobody else for anything.
//!
//! Every text in it is of this program; it is escaped all the same. Operations are `<details>`, which open by keyboard, by a link to
//! what is in them and by a search in the page. Schemas stand once, at the end, and are linked to.

use std::fmt::Write;

use axum::http::{HeaderName, header};
use data_encoding::BASE64;
use serde_json::{Map, Value};

use crate::sign;

const STYLE: &str = include_str!("docs.css");
const SCRIPT: &str = include_str!("docs.js");

/// What the page is sent with: it may run its own script and show its own style, both by hash, and load nothing.
pub(super) fn headers() -> [(HeaderName, String); 5] {
    let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&sign::sha256(&[text.as_bytes()])));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ]
}

/// The page of a finished document.
pub(super) fn page(document: &Value) -> String {
    let mut page = Page { html: String::with_capacity(256 * 1024), document };
    page.head();
    page.navigation();
    page.raw("<main id=\"main\">\n").introduction();
    for tag in page.tags() {
        page.group(tag);
    }
    page.schemas();
    page.raw("</main>\n<script>").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    page.html
}

struct Page<'d> {
    html: String,
    document: &'d Value,
}

/// An operation: its path, its method, and what is said of it.
type Operation<'d> = (&'d str, &'d str, &'d Value);

impl<'d> Page<'d> {
    fn raw(&mut self, markup: &str) -> &mut Self {
        self.html.push_str(markup);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.html.push_str(&escaped(text));
        self
    }

    /// Text in which backticks mark code and empty lines part paragraphs.
    fn marked(&mut self, text: &str) -> &mut Self {
        for (n, part) in text.split('`').enumerate() {
            match n % 2 {
                1 => self.raw("<code>").text(part).raw("</code>"),
                _ => self.raw(&escaped(part).replace("\n\n", "</p><p>")),
            };
        }
        self
    }

    fn tags(&self) -> Vec<&'d Value> {
        self.document["tags"].as_array().into_iter().flatten().collect()
    }

    fn operations(&self, tag: &str) -> Vec<Operation<'d>> {
        let paths = self.document["paths"].as_object().into_iter().flatten();
        let all =
            paths.flat_map(|(path, item)| item.as_object().into_iter().flatten().map(move |(method, it)| (path, method, it)));
        all.filter(|(_, _, it)| it["tags"][0] == tag).map(|(path, method, it)| (path.as_str(), method.as_str(), it)).collect()
    }

    fn head(&mut self) {
        self.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
            .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Hookyard API</title>\n")
            .raw("<link rel=\"icon\" href=\"data:,\">\n<style>")
            .raw(STYLE)
            .raw("</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">To the operations</a>\n");
    }

    fn navigation(&mut self) {
        self.raw("<nav aria-label=\"Operations\">\n<p hidden><label>Filter (press /)<br><input id=\"filter\" type=\"search\"></label></p>\n");
        for tag in self.tags() {
            self.raw("<section><h2>").text(word(&tag["name"])).raw("</h2>\n<ul>\n");
            for (path, method, operation) in self.operations(word(&tag["name"])) {
                self.raw("<li data-of=\"").text(&sought(path, method, operation)).raw("\"><a href=\"#");
                self.text(word(&operation["operationId"])).raw("\"><span class=\"").raw(method).raw("\">");
                self.raw(&method.to_uppercase()).raw("</span> ").text(path.trim_start_matches("/api/v1")).raw("</a></li>\n");
            }
            self.raw("</ul></section>\n");
        }
        self.raw("<p><a href=\"#schemas\">Schemas</a></p>\n</nav>\n");
    }

    fn introduction(&mut self) {
        let info = &self.document["info"];
        self.raw("<h1>")
            .text(word(&info["title"]))
            .raw(" <span class=\"mute\">")
            .text(word(&info["version"]))
            .raw("</span></h1>\n<p>");
        self.marked(word(&info["description"])).raw("</p>\n<p>");
        self.marked(word(&self.document["components"]["securitySchemes"]["token"]["description"]));
        self.raw(" In the examples the relay is <code>$HOOKYARD</code>, the token <code>$TOKEN</code>. ")
            .raw("The same for programs: <a href=\"/api/openapi.json\">/api/openapi.json</a> (OpenAPI 3.1).</p>\n");
    }

    fn group(&mut self, tag: &Value) {
        let name = word(&tag["name"]);
        self.raw("<section data-group><h2>").text(name).raw("</h2>\n<p>").marked(word(&tag["description"])).raw("</p>\n");
        for operation in self.operations(name) {
            self.operation(operation);
        }
        self.raw("</section>\n");
    }

    fn operation(&mut self, (path, method, operation): Operation<'_>) {
        let summary = word(&operation["summary"]);
        self.raw("<details data-of=\"")
            .text(&sought(path, method, operation))
            .raw("\">\n<summary><span class=\"method ")
            .raw(method);
        self.raw("\">").raw(&method.to_uppercase()).raw("</span> <code>").text(path).raw("</code> <span class=\"what\">");
        self.marked(summary)
            .raw("</span></summary>\n<div class=\"in\" id=\"")
            .text(word(&operation["operationId"]))
            .raw("\">\n<p>");
        self.marked(operation["description"].as_str().unwrap_or(summary)).raw("</p>\n<p class=\"mute\">");
        self.scopes(operation).raw("</p>\n");
        self.parameters(operation);
        self.body(operation);
        self.raw("<h4>Example</h4>\n<pre class=\"curl\" tabindex=\"0\">").text(&curl(path, method, operation)).raw("</pre>\n");
        self.answers(operation);
        self.raw("</div></details>\n");
    }

    fn scopes(&mut self, operation: &Value) -> &mut Self {
        match operation["security"][0]["token"].as_array() {
            None => self.raw("Needs no token."),
            Some(scopes) => {
                self.raw("Needs a token with ");
                for (n, scope) in scopes.iter().enumerate() {
                    self.raw(if n == 0 { "<code>" } else { " and <code>" }).text(word(scope)).raw("</code>");
                }
                self.raw(".")
            }
        }
    }

    fn parameters(&mut self, operation: &Value) {
        let Some(parameters) = operation["parameters"].as_array() else { return };
        self.raw("<h4>Parameters</h4>\n<table><thead><tr><th>Name<th>In<th>Takes<th>Says</thead><tbody>\n");
        for parameter in parameters {
            self.raw("<tr><td><code>").text(word(&parameter["name"])).raw("</code><td>").text(word(&parameter["in"])).raw("<td>");
            self.takes(&parameter["schema"]).raw("<td>").marked(word(&parameter["description"])).raw("\n");
        }
        self.raw("</tbody></table>\n");
    }

    fn body(&mut self, operation: &Value) {
        for (media, content) in contents(&operation["requestBody"]) {
            self.raw("<h4>Body <span class=\"mute\">").text(media).raw("</span></h4>\n");
            self.schema(&content["schema"]);
        }
    }

    fn answers(&mut self, operation: &Value) {
        self.raw("<h4>Answers</h4>\n<table><thead><tr><th>Status<th>When<th>Body</thead><tbody>\n");
        for (status, answer) in operation["responses"].as_object().into_iter().flatten() {
            self.raw("<tr><td><b>").text(status).raw("</b><td>").marked(word(&answer["description"])).raw("<td>");
            for (media, content) in contents(answer) {
                self.takes(&content["schema"]);
                if media != "application/json" {
                    self.raw(" <span class=\"mute\">").text(media).raw("</span>");
                }
            }
            self.raw("\n");
        }
        self.raw("</tbody></table>\n");
    }

    fn schemas(&mut self) {
        self.raw("<section><h2 id=\"schemas\">Schemas</h2>\n<p>What bodies hold, by name.</p>\n");
        for (name, schema) in self.document["components"]["schemas"].as_object().into_iter().flatten() {
            self.raw("<details><summary><code>").text(name).raw("</code> <span class=\"what\">");
            self.marked(word(&schema["description"]))
                .raw("</span></summary>\n<div class=\"in\" id=\"schema-")
                .text(name)
                .raw("\">\n");
            self.schema(schema);
            self.raw("</div></details>\n");
        }
        self.raw("</section>\n");
    }

    /// What a schema says in full.
    fn schema(&mut self, schema: &Value) {
        for part in ["allOf", "oneOf"].iter().filter_map(|key| schema[key].as_array()).flatten() {
            match part.get("properties") {
                Some(_) => self.schema(part),
                None => _ = self.raw("<p>").takes(part).raw("</p>\n"),
            }
        }
        let Some(properties) = schema["properties"].as_object() else {
            if schema.get("allOf").is_none() && schema.get("oneOf").is_none() {
                self.raw("<p>").takes(schema).raw("</p>\n");
            }
            return;
        };
        let required: Vec<_> = schema["required"].as_array().into_iter().flatten().map(word).collect();
        self.raw("<table><thead><tr><th>Field<th>Takes<th>Says</thead><tbody>\n");
        for (name, property) in properties {
            self.raw("<tr><td><code>").text(name).raw(if required.contains(&name.as_str()) {
                "</code><td>"
            } else {
                "</code>?<td>"
            });
            self.takes(property).raw("<td>").marked(word(&property["description"])).raw("\n");
        }
        self.raw("</tbody></table>\n");
    }

    /// What a schema takes, in a few words.
    fn takes(&mut self, schema: &Value) -> &mut Self {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return self.raw("<a href=\"#schema-").text(name).raw("\">").text(name).raw("</a>");
        }
        if let Some(ways) = ["oneOf", "anyOf"].iter().find_map(|key| schema[key].as_array()) {
            for (n, way) in ways.iter().enumerate() {
                self.raw(if n == 0 { "" } else { " or " }).takes(way);
            }
            return self;
        }
        if let Some(words) = schema["enum"].as_array() {
            for (n, word) in words.iter().enumerate() {
                let shown = word.as_str().map_or_else(|| word.to_string(), str::to_owned);
                self.raw(if n == 0 { "<code>" } else { " <code>" }).text(&shown).raw("</code>");
            }
            return self;
        }
        if schema["type"] == "array" {
            return self.raw("list of ").takes(&schema["items"]);
        }
        let kinds: Vec<_> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().map(word).collect(),
            kind => vec![kind.as_str().unwrap_or("anything")],
        };
        self.text(&kinds.join(" or "));
        if let Some(format) = schema["format"].as_str().filter(|format| !format.starts_with("int")) {
            self.raw(", ").text(format);
        }
        if let Some(pattern) = schema["pattern"].as_str().filter(|pattern| pattern.len() < 40) {
            self.raw(", <code>").text(pattern).raw("</code>");
        }
        self
    }
}

/// What the filter looks at.
fn sought(path: &str, method: &str, operation: &Value) -> String {
    format!("{method} {path} {} {}", word(&operation["tags"][0]), word(&operation["summary"])).to_lowercase()
}

/// Media types and what they hold.
fn contents(holder: &Value) -> impl Iterator<Item = (&str, &Value)> {
    holder["content"].as_object().into_iter().flatten().map(|(media, content)| (media.as_str(), content))
}

/// A call as one types it.
fn curl(path: &str, method: &str, operation: &Value) -> String {
    let mut path = path.to_owned();
    for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|it| it["in"] == "path") {
        path = path.replace(&format!("{{{}}}", word(&parameter["name"])), word(&parameter["example"]));
    }
    let mut call = match method {
        "get" => format!("curl \"$HOOKYARD{path}\""),
        _ => format!("curl -X {} \"$HOOKYARD{path}\"", method.to_uppercase()),
    };
    if operation["security"][0].is_object() {
        call.push_str(" \\\n  -H \"Authorization: Bearer $TOKEN\"");
    }
    for (media, content) in contents(&operation["requestBody"]).take(1) {
        // Writing into memory cannot fail.
        let _ = write!(call, " \\\n  -H 'Content-Type: {media}'");
        match media {
            "application/json" => {
                _ = write!(call, " \\\n  -d '{}'", example(&content["schema"]).to_string().replace('\'', "'\\''"))
            }
            _ => call.push_str(" \\\n  --data-binary @routes.yaml"),
        }
    }
    call
}

/// A body that fits `schema`: its example, or its fields that must be there or have an example.
fn example(schema: &Value) -> Value {
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().chain(alternative(schema)).map(word).collect();
    let fields = schema["properties"].as_object().into_iter().flatten().filter_map(|(name, property)| {
        let example = property["examples"].get(0).cloned();
        let value = match example {
            Some(example) => example,
            None => property["enum"].get(0).cloned().unwrap_or_else(|| format!("<{name}>").into()),
        };
        required.contains(&name.as_str()).then(|| (name.clone(), value))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

/// The fields of the last of several ways to write a body.
fn alternative(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["oneOf"].as_array().and_then(|ways| ways.last()).and_then(|way| way["required"].as_array()).into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}
