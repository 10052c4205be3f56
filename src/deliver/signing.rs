//! `signing` of a destination: which schemes, under which secrets.

use serde_json::json;

use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, OneOrMore, Schema, Secrets, Shape, Words},
        tree::{Node, Place, Value},
    },
    secret::Secret,
    sign::{
        outbound::{Content, Custom, Encoding, Scheme, Signing},
        standard_key,
    },
};

const KEYS: Keys = Keys::of(&[
    Field::of::<OneOrMore<Word>>("schemes", "How it is signed; several at once are possible.")
        .default(r#"["standard"]"#)
        .such_that(Schema::not_empty),
    Field::of::<Secrets>(
        "secrets",
        "The current secret first, previous ones after it. For `standard`: `whsec_` and base64 of 24 to 64 bytes.",
    )
    .required()
    .example(r#"["${CRM_SECRET}"]"#),
]);
/// The keys of the scheme `custom`.
const CUSTOM: Keys = Keys::of(&[
    Field::of::<HeaderWord>("header", "The header that carries the signature.").required().example("X-Signature"),
    Field::of::<String>("prefix", "What stands before the signature.").example("sha256="),
    Field::of::<Encoding>("encoding", "How the signature is written.").default("hex"),
    Field::of::<Content>("content", "What is signed: the body, or the timestamp, a dot and the body.").default("body"),
    Field::of::<HeaderWord>("timestamp_header", "The header that carries the timestamp, with `content: timestamp.body`.")
        .example("X-Timestamp"),
])
.such_that(|custom| custom.needs_where("content", "timestamp.body", "timestamp_header"));

/// The scheme; `custom` stands for its keys.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Standard,
    Interactor,
    Agent,
    Honeyframe,
    Custom,
}

impl Words for Word {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("standard", Self::Standard),
        ("interactor", Self::Interactor),
        ("agent", Self::Agent),
        ("honeyframe", Self::Honeyframe),
        ("custom", Self::Custom),
    ];
}

impl Words for Encoding {
    const WORDS: &'static [(&'static str, Self)] = &[("hex", Self::Hex), ("base64", Self::Base64)];
}

impl Words for Content {
    const WORDS: &'static [(&'static str, Self)] = &[("body", Self::Body), ("timestamp.body", Self::TimestampBody)];
}

impl Shape for Signing {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("signing", |all| {
            let custom = json!({"anyOf": [{"const": "custom"}, {"type": "array", "contains": {"const": "custom"}}]});
            let is_custom = json!({"properties": {"schemes": custom}, "required": ["schemes"]});
            Schema::depending(is_custom, Schema::map(KEYS.and(&[CUSTOM]), all), Schema::map(KEYS, all))
        })
    }
}

impl Decode for Signing {
    /// `{schemes: [standard, interactor], secrets: […]}`, and the keys of `custom` where it is among the schemes.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`signing`", KEYS, cx)?;
        let words = words(&mut fields, cx);
        let secrets = fields.required::<Secrets>("secrets", cx);
        let custom = match &words {
            Some(words) if words.contains(&Word::Custom) => {
                fields.also(CUSTOM);
                Some(custom(&mut fields, cx))
            }
            _ => None,
        };
        let misfits = match (&words, fields.node("secrets")) {
            (Some(words), Some(node)) if words.contains(&Word::Standard) => misfits(node),
            _ => Vec::new(),
        };
        for place in &misfits {
            let help = "make one with `openssl rand -base64 32`, or choose another scheme";
            cx.error("bad-secret", *place, "scheme `standard` needs `whsec_` and base64 of 24 to 64 bytes").help(help);
        }
        fields.finish(cx);
        let custom = match custom {
            Some(custom) => Some(custom?),
            None => None,
        };
        let schemes = words?.into_iter().filter_map(|word| scheme(word, custom.as_ref())).collect();
        Signing::new(schemes, &secrets?.0).ok()
    }
}

fn scheme(word: Word, custom: Option<&Custom>) -> Option<Scheme> {
    Some(match word {
        Word::Standard => Scheme::Standard,
        Word::Interactor => Scheme::Interactor,
        Word::Agent => Scheme::Agent,
        Word::Honeyframe => Scheme::Honeyframe,
        Word::Custom => Scheme::Custom(custom?.clone()),
    })
}

/// The schemes; `standard` where none are named.
fn words(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Vec<Word>> {
    let Some(node) = fields.node("schemes") else { return Some(vec![Word::Standard]) };
    let OneOrMore(items) = OneOrMore::<Located<Word>>::decode(node, cx)?;
    if items.is_empty() {
        cx.error("bad-value", node.place, "`schemes` names none").help("leave `signing` out to send unsigned");
        return None;
    }
    let mut words = Vec::new();
    for item in items {
        if words.contains(&item.value) {
            cx.error("bad-value", item.place, "this scheme is named twice");
        } else {
            words.push(item.value);
        }
    }
    Some(words)
}

/// Where the secrets stand that are no Standard Webhooks secrets.
fn misfits(node: &Node) -> Vec<Place> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let misfit = |item: &&Node| matches!(&item.value, Value::String(text) if !text.is_empty() && standard_key(&Secret::new(text)).is_err());
    items.iter().filter(misfit).map(|item| item.place).collect()
}

fn custom(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Custom> {
    let header = fields.required::<HeaderWord>("header", cx);
    let prefix = fields.optional::<Located<String>>("prefix", cx);
    let encoding = fields.or("encoding", Encoding::Hex, cx);
    let content = fields.or("content", Content::Body, cx);
    let timestamp_header = match content {
        Content::TimestampBody => timestamp_header(fields, cx)?.0,
        Content::Body => {
            if fields.node("timestamp_header").is_some() {
                let place = fields.key_place("timestamp_header");
                cx.error("bad-value", place, "`timestamp_header` is sent with `content: timestamp.body` only");
            }
            String::new()
        }
    };
    if let Some(prefix) = &prefix
        && !prefix.value.bytes().all(|b| (b' '..=b'~').contains(&b))
    {
        cx.error("bad-value", prefix.place, "a header cannot carry this prefix");
        return None;
    }
    Some(Custom {
        header: header?.0,
        prefix: prefix.map_or_else(String::new, |it| it.value),
        encoding,
        content,
        timestamp_header,
    })
}

/// `timestamp_header`, which is needed where the timestamp is signed.
fn timestamp_header(fields: &mut Fields<'_>, cx: &mut Context) -> Option<HeaderWord> {
    if fields.node("timestamp_header").is_none() {
        cx.error("missing-key", fields.key_place("content"), "`content: timestamp.body` needs `timestamp_header`");
    }
    fields.optional("timestamp_header", cx)
}

/// A header's name that signatures may use.
struct HeaderWord(String);

impl Shape for HeaderWord {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "the name of a header such as X-Signature")
    }
}

impl Decode for HeaderWord {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        super::endpoint::own_header_name(&text, node.place, cx).map(|_| Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::{decode, problems};

    const GOOD: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";

    #[test]
    fn standard_is_the_default_scheme() {
        let signing = decode::<Signing>(&format!("{{secrets: {GOOD}}}")).unwrap();
        assert_eq!(signing.header_names(), ["webhook-id", "webhook-timestamp", "webhook-signature"]);
    }

    #[test]
    fn a_custom_scheme_brings_its_keys() {
        let yaml = "{schemes: [custom], secrets: [s], header: X-Sig, prefix: 'v0=', encoding: base64, content: timestamp.body, timestamp_header: X-Time}";
        assert_eq!(decode::<Signing>(yaml).unwrap().header_names(), ["x-sig", "x-time"]);
    }

    #[test]
    fn a_secret_that_does_not_fit_is_an_error_at_its_place() {
        let yaml = format!("{{schemes: [standard, agent], secrets: [{GOOD}, plain, '']}}");
        let found = problems::<Signing>(&yaml);
        assert_eq!(found.len(), 1);
        assert_eq!(&yaml[found[0].place.start..found[0].place.end], "plain");
        assert!(!found[0].message.contains("plain"));
        assert!(decode::<Signing>("{schemes: agent, secrets: [plain]}").is_ok());
    }

    #[test]
    fn what_cannot_sign_is_an_error() {
        let message = |yaml: &str| decode::<Signing>(yaml).unwrap_err().join("; ");
        insta::assert_snapshot!(message("{schemes: [agent, agent], secrets: ['']}"), @"this scheme is named twice; at least one secret must not be empty");
        insta::assert_snapshot!(message("{schemes: [custom], secrets: [s], header: Host, timestamp_header: X-T}"), @"header `host` is the relay's own; `timestamp_header` is sent with `content: timestamp.body` only");
        insta::assert_snapshot!(message("{schemes: [agent], secrets: [s], header: X-Sig}"), @"`signing` has no key `header`");
        insta::assert_snapshot!(message("{schemes: [], secrets: [s]}"), @"`schemes` names none");
    }
}
