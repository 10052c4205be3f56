//! `trigger`: senders that know a URL and perhaps a header with a fixed value, such as Interactor's Trigger Forwarding. One URL may
//! serve many connectors: `cases` tells them apart.

use axum::http::HeaderName;
use serde_json::Value;

use super::{Facts, MAP, Proof, Verified, all_mapped};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, OneOrMore, Schema, Secrets, Shape},
        tree::{Node, Place},
    },
    ingest::{
        answer::{Code, Rejection},
        body::Body,
        mapping::{Case, HeaderText, Mapping, header_name},
        request::Raw,
    },
    json,
    secret::Secret,
    sign,
};

/// The type of what no case takes, and of what `map` finds no type in.
const UNMAPPED: &str = "trigger.unmapped";

/// The settings of a `trigger` source.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    header: Option<StaticHeader>,
    path_secrets: Vec<Secret>,
    map: Mapping,
    cases: Vec<Case>,
}

/// A header with a fixed value.
#[derive(Debug, Clone)]
struct StaticHeader {
    name: HeaderName,
    values: Secrets,
}

/// The keys of a `trigger` source.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<StaticHeader>("header", "A header with a fixed value that proves the sender.")
        .example(r#"{"name": "X-Forwarding-Key", "value": "${FORWARDING_KEY}"}"#),
    Field::of::<Secrets>(
        "path_secret",
        "The last segment of the path that the sender is given, after `path`; one, or several that all serve.",
    ),
    Field::of::<bool>("allow_unauthenticated", "Lets anybody who finds the path post to it.").default("false"),
    MAP,
    Field::of::<Vec<Case>>(
        "cases",
        "Which map holds for which bodies: the first that fits; what fits none arrives as `trigger.unmapped`.",
    )
    .example(r#"[{"when": [{"path": "$.connector", "eq": "jira"}], "map": {"type": "connector.jira.issue_updated"}}]"#),
])
.such_that(|trigger| trigger.at_least_one(&["header", "path_secret", "allow_unauthenticated"]));

impl Trigger {
    /// Reads `header`, `path_secret`, `allow_unauthenticated`, `map` and `cases`. A case's `map` goes before the source's.
    pub(super) fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let header_node = fields.node("header");
        let header: Option<StaticHeader> = header_node.and_then(|node| StaticHeader::decode(node, cx));
        let secret_node = fields.node("path_secret");
        let path_secrets = secret_node.and_then(|node| path_secrets(node, cx));
        let open = fields.or("allow_unauthenticated", false, cx);
        check_proof(open, header_node.is_some() || secret_node.is_some(), fields.place(), cx);
        let map = fields.node("map").and_then(|node| Mapping::decode(node, cx)).unwrap_or_default();
        let mut cases: Vec<Case> = fields.optional("cases", cx).unwrap_or_default();
        for case in &mut cases {
            case.map = std::mem::take(&mut case.map).or(&map);
        }
        Some(Self { header, path_secrets: path_secrets.unwrap_or_default(), map, cases })
    }

    /// Checks the static header. The secret part of the path was checked when the path was matched: without it the request
    /// does not reach this source.
    pub(super) fn verify<'r>(&self, request: &'r Raw) -> Result<Verified<'r>, Rejection> {
        let Some(header) = &self.header else { return Ok(Verified::new(request, self.path_secret(request))) };
        let fitting = request.one(&header.name).and_then(|given| header.fitting(given));
        fitting.map(|value| Verified::new(request, Some(value))).ok_or_else(|| Code::InvalidHeader.into())
    }

    /// Which of the path secrets the request came with.
    fn path_secret(&self, request: &Raw) -> Option<usize> {
        let (_, given) = request.path.rsplit_once('/')?;
        fitting(&self.path_secrets, given)
    }

    /// Finds the facts by the map of the first case that takes the body; the whole body is the data.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let (body, []) = Body::read(verified.request, [])?;
        let whole = 0..verified.request.body.len();
        if self.cases.is_empty() && self.map.is_empty() {
            return Ok(all_mapped(&self.map, verified.request, &Value::Null, whole, UNMAPPED));
        }
        let value = json::lenient(body.whole().raw().as_bytes());
        let case = self.cases.iter().find(|case| case.takes(&value));
        let map = case.map_or(&self.map, |case| &case.map);
        let mut facts = all_mapped(map, verified.request, &value, whole, UNMAPPED);
        if case.is_none() && !self.cases.is_empty() {
            facts.r#type = UNMAPPED.to_owned();
        }
        Ok(facts)
    }

    /// The types of its events; `None`: what their sender says.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        if self.cases.is_empty() {
            return self.map.settled_type(UNMAPPED).map(|settled| vec![settled]);
        }
        let types = self.cases.iter().map(|case| case.map.settled_type(UNMAPPED)).chain([Some(UNMAPPED)]);
        types.collect()
    }

    /// How it wants its sender proven.
    pub(super) fn proof(&self) -> Proof<'_> {
        match &self.header {
            Some(header) => Proof::Static { header: &header.name, values: &header.values.0 },
            None => Proof::None,
        }
    }

    /// The secret last segments of its path.
    pub(super) fn path_secrets(&self) -> &[Secret] {
        &self.path_secrets
    }

    /// The headers that its maps read.
    pub(super) fn mapped_headers(&self) -> Vec<&HeaderName> {
        self.map.headers().chain(self.cases.iter().flat_map(|case| case.map.headers())).collect()
    }
}

/// A source that anybody can post to must say so.
fn check_proof(open: bool, proven: bool, place: Place, cx: &mut Context) {
    if !open && !proven {
        let problem = cx.error("no-proof", place, "anybody who finds this source's path can post to it");
        problem.help("give it a `header` or a `path_secret`, or say `allow_unauthenticated: true`");
    }
}

/// One or more secret last segments; each must be able to stand in a URL as it is.
fn path_secrets(node: &Node, cx: &mut Context) -> Option<Vec<Secret>> {
    let Secrets(secrets) = Secrets::decode(node, cx)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if secrets.iter().any(|secret| !secret.reveal().bytes().all(plain)) {
        cx.error("bad-value", node.place, "a path secret holds letters, digits, `-`, `.`, `_` and `~` only");
        return None;
    }
    Some(secrets)
}

impl StaticHeader {
    /// Which of the values `given` is.
    fn fitting(&self, given: &str) -> Option<usize> {
        fitting(&self.values.0, given)
    }
}

/// The position of the first of `values` that `given` is; every value is compared, in constant time.
fn fitting(values: &[Secret], given: &str) -> Option<usize> {
    values.iter().enumerate().fold(None, |found, (position, value)| {
        let same = sign::same(value.reveal().as_bytes(), given.as_bytes());
        found.or(same.then_some(position))
    })
}

impl StaticHeader {
    const KEYS: Keys = Keys::of(&[
        Field::of::<HeaderText>("name", "The header's name.").required().example("X-Forwarding-Key"),
        Field::of::<Secret>("value", "Its value."),
        Field::of::<Secrets>("values", "Values of which any proves the sender, the current one first."),
    ])
    .such_that(|header| header.exactly_one(&["value", "values"]));
}

impl Shape for StaticHeader {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(Self::KEYS, all)
    }
}

impl Decode for StaticHeader {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`header`", Self::KEYS, cx)?;
        let name = fields.node("name").or_else(|| {
            cx.error("missing-key", fields.place(), "`header` needs `name`");
            None
        });
        let name = name.and_then(|node| String::decode(node, cx).and_then(|text| header_name(&text, node, cx)));
        let values = match (fields.node("value"), fields.node("values")) {
            (Some(value), None) => one_value(value, cx),
            (None, Some(values)) => Secrets::decode(values, cx),
            _ => {
                cx.error("missing-key", fields.place(), "`header` needs one of `value` and `values`");
                None
            }
        };
        fields.finish(cx);
        Some(Self { name: name?, values: values? })
    }
}

fn one_value(node: &Node, cx: &mut Context) -> Option<Secrets> {
    let OneOrMore(values) = OneOrMore::<Secret>::decode(node, cx)?;
    if let [value] = values.as_slice()
        && !value.is_empty()
    {
        return Some(Secrets(values));
    }
    cx.error("no-secret", node.place, "`value` is one text that is not empty");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::{
        kinds::{
            Id, Kind, Word,
            tests::{decoded, taken},
        },
        request::tests::request,
    };

    const HEADER: &str = r#""header": {"name": "X-Forwarding-Key", "values": ["k1", "k2", ""]}"#;

    fn trigger(more: &str) -> Kind {
        decoded(Word::Trigger, &format!("{{{HEADER}{more}}}")).unwrap()
    }

    fn sent(key: &str, body: &[u8]) -> Raw {
        request("/", &[("x-forwarding-key", key)], body)
    }

    #[test]
    fn any_of_the_values_proves_the_sender() {
        for good in ["k1", "k2"] {
            assert!(taken(&trigger(""), &sent(good, b"{}")).is_ok(), "{good}");
        }
        for bad in ["", "k", "k3", "K1", "k1, k2"] {
            assert_eq!(taken(&trigger(""), &sent(bad, b"{}")), Err(Code::InvalidHeader), "{bad}");
        }
        assert_eq!(taken(&trigger(""), &request("/", &[], b"{}")), Err(Code::InvalidHeader));
    }

    #[test]
    fn the_whole_body_is_the_data_and_map_finds_the_rest() {
        let kind =
            trigger(r#", "map": {"type": "connector.gmail", "id": "$.message.id", "time": "$.at", "namespace": "$.account"}"#);
        let body = br#" {"account":"u","message":{"id":17},"at":1768910400} "#;
        let facts = taken(&kind, &sent("k1", body)).unwrap();
        assert_eq!((facts.id, facts.r#type.as_str()), (Id::Sender("17".into()), "connector.gmail"));
        assert_eq!((facts.namespace.as_deref(), facts.data), (Some("u"), Some(0..body.len())));
        assert_eq!(facts.time.unwrap().1, "1768910400");
        let bare = taken(&trigger(""), &sent("k1", b"{}")).unwrap();
        assert_eq!((bare.id, bare.r#type.as_str()), (Id::Hash, "trigger.unmapped"));
        assert_eq!(taken(&kind, &sent("k1", b"[]")), Err(Code::InvalidEvent));
        assert_eq!(taken(&kind, &sent("k1", b"")), Err(Code::InvalidJson));
    }

    #[test]
    fn a_source_without_proof_must_say_so() {
        assert_eq!(decoded(Word::Trigger, "{}").unwrap_err(), ["no-proof"]);
        assert!(decoded(Word::Trigger, r#"{"allow_unauthenticated": true}"#).is_ok());
        let secret = decoded(Word::Trigger, r#"{"path_secret": "abc"}"#).unwrap();
        assert_eq!(secret.path_secrets(), [Secret::new("abc")]);
        for (bad, code) in [
            (r#"{"path_secret": "a/b"}"#, "bad-value"),
            (r#"{"path_secret": ""}"#, "no-secret"),
            (r#"{"header": {"name": "X-A"}}"#, "missing-key"),
            (r#"{"header": {"name": "X-A", "value": ""}}"#, "no-secret"),
            (r#"{"header": {"name": "X-A", "value": "a", "values": ["b"]}}"#, "missing-key"),
            (r#"{"header": {"name": "X A", "value": "a"}}"#, "bad-type"),
            (r#"{"header": {"value": "a"}}"#, "missing-key"),
        ] {
            assert_eq!(decoded(Word::Trigger, bad).unwrap_err(), [code], "{bad}");
        }
    }
}
