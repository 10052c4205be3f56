//! The signature doctor: the likely cause of a rejection, for the person who has to mend it. Pure. It names no secret and quotes
//! nothing of the request but times and names of headers, and its work is bounded whatever was sent.

use axum::http::HeaderName;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use super::{
    answer::Code,
    body::Body,
    kinds::{Content, HmacProof, Proof},
    request::{Given, Raw},
    source::Source,
    time,
};
use crate::{
    clock::{Timestamp, rfc3339_s},
    secret::Secret,
    sign::{Algorithm, Key},
};

/// Largest body whose variants are tried, in bytes.
const BODY_MAX: usize = 256 * 1024;
/// How many secrets are tried, those of other sources included.
const SECRETS_MAX: usize = 16;
/// How many parts of a signature header are looked at.
const ITEMS_MAX: usize = 8;
/// How many sources are asked whether a request to an unknown path is theirs.
const SOURCES_MAX: usize = 16;

/// A rejected request, as the doctor sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    /// The request.
    pub(crate) request: &'a Raw,
    /// What its sender was told.
    pub(crate) code: Code,
    /// The source it was meant for.
    pub(crate) source: Option<&'a Source>,
    /// Every source.
    pub(crate) sources: &'a [Source],
}

/// The likely cause, in one line.
pub(crate) fn diagnose(case: Case<'_>) -> String {
    match (case.code, case.source, case.source.map(|source| source.kind.proof())) {
        (Code::NotFound, source, _) => unknown_path(case, source),
        (Code::InvalidHeader, _, Some(Proof::Static { header, values })) => static_header(case, header, values),
        (Code::InvalidTimestamp, Some(source), Some(Proof::Hmac(proof))) => timestamp(case.request, source, &proof),
        (Code::InvalidSignature, Some(source), Some(Proof::Hmac(proof))) => signature(case, source, &proof),
        (code, ..) => uncapitalised(code.message().trim_end_matches('.')),
    }
}

/// A sentence as the rest of a line: its first letter small, the names in it as they are.
fn uncapitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

fn unknown_path(case: Case<'_>, source: Option<&Source>) -> String {
    if source.is_some() {
        return "the last segment of the path is not the path secret".to_owned();
    }
    let path = case.request.path.as_str();
    if let Some(source) = case.sources.iter().find(|source| source.path.as_deref() == Some(path.trim_end_matches('/'))) {
        let lack = if source.path.as_deref() == Some(path) {
            "ends in a path secret, which is missing"
        } else {
            "has no slash at its end"
        };
        return format!("no source has this path; that of `{}` {lack}", source.name);
    }
    let proven = |source: &&Source| {
        matches!(source.kind.proof(), Proof::Hmac(_) | Proof::Static { .. })
            && source.kind.verify(case.request, case.request.arrived_at).is_ok()
    };
    match case.sources.iter().take(SOURCES_MAX).find(proven) {
        Some(source) => format!("no source has this path; the proof of the sender fits source `{}`", source.name),
        None => "no source has this path".to_owned(),
    }
}

fn static_header(case: Case<'_>, header: &HeaderName, values: &[Secret]) -> String {
    let text = match one(case.request, header) {
        Ok(text) => text,
        Err(reason) => return reason,
    };
    let fits = |secrets: &[Secret], same: fn(&str, &str) -> bool| secrets.iter().any(|secret| same(secret.reveal(), text));
    if fits(values, |a, b| a.trim() == b.trim()) {
        return format!("header `{header}` fits but for white space around it");
    }
    if fits(values, |a, b| a.eq_ignore_ascii_case(b)) {
        return format!("header `{header}` fits but for upper and lower case");
    }
    if fits(values, |a, b| b.strip_prefix("Bearer ").is_some_and(|b| a == b)) {
        return format!("header `{header}` fits but for `Bearer ` before it");
    }
    let other = case.sources.iter().find(|source| match source.kind.proof() {
        Proof::Static { values, .. } => fits(values, |a, b| a == b),
        _ => false,
    });
    match other {
        Some(source) => format!("header `{header}` has the value of source `{}`", source.name),
        None => format!("header `{header}` has none of the configured values"),
    }
}

/// The one value of `header`, or why there is none.
fn one<'r>(request: &'r Raw, header: &HeaderName) -> Result<&'r str, String> {
    match request.given(header) {
        Given::One(text) => Ok(text),
        Given::Missing => Err(format!("header `{header}` is missing{}", others(request, header))),
        Given::Repeated => Err(format!("header `{header}` was sent more than once")),
        Given::NotText => Err(format!("header `{header}` has bytes that are not ASCII")),
    }
}

/// Headers of known senders, and what they point to.
const KNOWN: [(&str, &str); 6] = [
    ("x-interactor-signature", "a source of kind `interactor` expects"),
    ("x-webhook-signature", "a source of kind `agent` expects"),
    ("webhook-signature", "a source of kind `standard` expects"),
    ("svix-signature", "a source of kind `standard` expects"),
    ("x-hub-signature-256", "`preset: github` expects"),
    ("stripe-signature", "`preset: stripe` expects"),
];

fn others(request: &Raw, wanted: &HeaderName) -> String {
    let found = KNOWN.iter().find(|(name, _)| *name != wanted.as_str() && request.headers.contains_key(*name));
    found.map_or_else(String::new, |(name, hint)| format!("; there is `{name}`, as {hint}"))
}

/// The header of `names` that the request has, or the first.
fn present<'a>(request: &Raw, names: &[&'a HeaderName]) -> Option<&'a HeaderName> {
    names.iter().find(|name| request.headers.contains_key(**name)).or_else(|| names.first()).copied()
}

fn timestamp(request: &Raw, source: &Source, proof: &HmacProof<'_>) -> String {
    let text = match present(request, &proof.timestamps) {
        Some(header) => match one(request, header) {
            Ok(text) => text.to_owned(),
            Err(reason) => return reason,
        },
        None => match told_elsewhere(request, proof) {
            Some(text) => text,
            None => return "there is no timestamp".to_owned(),
        },
    };
    // What these kinds take is what `instant` reads: milliseconds too.
    if matches!(source.kind(), "hmac" | "agent") {
        return match time::instant(&text) {
            Some(sent) => off(request, source, proof, sent),
            None => "the timestamp is neither ISO 8601 with `Z` or an offset, nor seconds or milliseconds since 1970".to_owned(),
        };
    }
    match (time::iso(&text), time::unix(&text)) {
        (Some(_), _) if proof.unix && proof.timestamps.len() > 1 => wrong_form("ISO 8601", "Unix seconds", source),
        (_, Some(_)) if !proof.unix && !proof.timestamps.is_empty() => wrong_form("Unix seconds", "ISO 8601", source),
        (Some(_), _) if source.kind() == "interactor" && proof.unix => wrong_form("ISO 8601", "Unix seconds", source),
        (None, None) => {
            format!("the timestamp is not {}", if proof.unix { "Unix seconds" } else { "ISO 8601 with `Z` or an offset" })
        }
        (iso, unix) => off(request, source, proof, iso.or(unix).unwrap_or(request.arrived_at)),
    }
}

/// The timestamp that stands in the signature header (Stripe) or in the body (agents).
fn told_elsewhere(request: &Raw, proof: &HmacProof<'_>) -> Option<String> {
    let header = present(request, &proof.headers).and_then(|header| request.one(header)).unwrap_or_default();
    let item = header.split(',').find_map(|item| item.trim().strip_prefix("t="));
    let in_body = || Body::read(request, ["timestamp"]).ok().and_then(|(_, [token])| token.and_then(|token| token.text()));
    item.map(str::to_owned).or_else(in_body)
}

fn wrong_form(is: &str, wanted: &str, source: &Source) -> String {
    let hint = if source.kind() == "interactor" { ": the other dialect would fit" } else { "" };
    format!("the timestamp is {is}, not {wanted}{hint}")
}

fn off(request: &Raw, source: &Source, proof: &HmacProof<'_>, sent: Timestamp) -> String {
    let apart = request.arrived_at.duration_since(sent).as_secs();
    let side = if apart < 0 { "after" } else { "before" };
    let tolerance = proof.tolerance.unwrap_or_default().as_secs();
    let signature =
        if source.kind.verify(request, sent).is_ok() { "the signature is right" } else { "the signature does not fit either" };
    let seconds = apart.unsigned_abs();
    format!(
        "the clock is off by {seconds} s: sent at {}, {side} our clock (tolerance {tolerance} s); {signature}",
        rfc3339_s(sent)
    )
}

fn signature(case: Case<'_>, source: &Source, proof: &HmacProof<'_>) -> String {
    let Some(header) = present(case.request, &proof.headers) else {
        return "the source expects no signature".to_owned();
    };
    let text = match one(case.request, header) {
        Ok(text) => text,
        Err(reason) => return reason,
    };
    let digests = digests(text);
    if digests.is_empty() {
        return format!("the signature is not written as {}, nor is it an HMAC in hex or base64", proof.written);
    }
    let found = search(case, source, proof, &digests);
    found.unwrap_or_else(|| "no known secret fits: another secret, or the body was changed on the way".to_owned())
}

/// Everything in `text` that may be an HMAC.
fn digests(text: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for item in text.split([' ', ',']).take(ITEMS_MAX) {
        let item =
            ["sha256=", "sha512=", "sha1=", "v1=", "v0="].iter().find_map(|prefix| item.strip_prefix(prefix)).unwrap_or(item);
        let bytes = item.as_bytes();
        let decoded = [HEXLOWER_PERMISSIVE.decode(bytes), BASE64.decode(bytes), BASE64URL_NOPAD.decode(bytes)];
        found.extend(decoded.into_iter().flatten().filter(|bytes| matches!(bytes.len(), 20 | 32 | 64)));
    }
    found
}

/// Tries keys and contents until one fits; says which.
fn search(case: Case<'_>, source: &Source, proof: &HmacProof<'_>, digests: &[Vec<u8>]) -> Option<String> {
    let contents = contents(case.request, proof);
    let mut secrets = secrets(case, source, proof).take(SECRETS_MAX);
    secrets.find_map(|(secret, whose)| {
        key_forms(secret, proof.standard).into_iter().find_map(|(key, how)| {
            let (_, what, digest) = contents.iter().find_map(|(content, what)| {
                digests.iter().find(|digest| fits(&key, content, digest)).map(|digest| (content, what, digest))
            })?;
            let hash = if algorithm(digest) == proof.algorithm { "" } else { " with another hash function" };
            Some(verdict(source, proof, &whose, &[how, hash, what].concat()))
        })
    })
}

fn verdict(source: &Source, proof: &HmacProof<'_>, whose: &str, how: &str) -> String {
    if whose.is_empty() && how.is_empty() {
        return format!("wrong encoding: the HMAC is right, but not written as {}", proof.written);
    }
    let dialect = if source.kind() == "interactor" && how.contains(" over ") { ": the other dialect fits" } else { "" };
    format!("the signature fits{whose}{how}{dialect}")
}

/// This source's secrets, then those of the others, each with whose it is.
fn secrets<'a>(case: Case<'a>, source: &'a Source, proof: &HmacProof<'a>) -> impl Iterator<Item = (&'a Secret, String)> {
    let previous = |position| if position == 0 { String::new() } else { " with the previous secret".to_owned() };
    let own = proof.secrets.iter().enumerate().map(move |(position, secret)| (secret, previous(position)));
    let others = case.sources.iter().filter(|other| other.name != source.name).flat_map(|other| {
        let secrets = match other.kind.proof() {
            Proof::Hmac(proof) => proof.secrets,
            Proof::Static { .. } | Proof::None => &[],
        };
        secrets.iter().map(|secret| (secret, format!(" with a secret of source `{}`", other.name)))
    });
    own.chain(others)
}

/// The keys that one secret may stand for, with how. The configured reading comes first.
fn key_forms(secret: &Secret, standard: bool) -> Vec<(Vec<u8>, &'static str)> {
    let text = secret.reveal();
    let bare = text.strip_prefix("whsec_").unwrap_or(text);
    let decoded = BASE64.decode(bare.as_bytes()).ok();
    let literal = (text.as_bytes().to_vec(), if standard { " when the secret is taken literally, not decoded" } else { "" });
    let mut forms = vec![literal];
    if let Some(decoded) = decoded {
        forms.push((decoded, if standard { "" } else { " when the secret is decoded from base64, as Standard Webhooks does" }));
    }
    if bare.len() < text.len() {
        forms.push((bare.as_bytes().to_vec(), " when `whsec_` is taken off the secret"));
    }
    if text.trim().len() < text.len() {
        forms.push((text.trim().as_bytes().to_vec(), " when white space around the secret is taken off"));
    }
    forms.push((format!("{text}\n").into_bytes(), " when the sender's secret ends in a line break"));
    forms
}

/// What may have been signed, with how it differs from what should be. The right content comes first.
fn contents(request: &Raw, proof: &HmacProof<'_>) -> Vec<(Vec<u8>, &'static str)> {
    let body = &request.body[..];
    let mut contents = vec![(content(request, proof, proof.content, body), "")];
    if BODY_MAX < body.len() {
        return contents;
    }
    for other in [Content::Body, Content::TimestampBody].into_iter().filter(|other| *other != proof.content) {
        let note = match other {
            Content::Body => " over the body alone",
            _ => " over timestamp, dot and body",
        };
        contents.push((content(request, proof, other, body), note));
    }
    for (changed, note) in changed(body) {
        contents.push((content(request, proof, proof.content, &changed), note));
    }
    contents
}

/// What `body` may have been before it was changed on the way.
fn changed(body: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
    let mut bodies = vec![([body, b"\n"].concat(), ": the body lost its last line break on the way")];
    if let Some(cut) = body.strip_suffix(b"\n") {
        bodies.push((cut.strip_suffix(b"\r").unwrap_or(cut).to_vec(), ": the body got a line break at its end on the way"));
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) {
        let note = ": the body was re-serialised on the way";
        bodies.extend(serde_json::to_vec(&value).map(|bytes| (bytes, note)));
        bodies.extend(serde_json::to_vec_pretty(&value).map(|bytes| (bytes, note)));
        let spaced = spaced(&value);
        bodies.push((ascii(&spaced).into_bytes(), note));
        bodies.push((spaced.into_bytes(), note));
    }
    bodies
}

/// `value` as Python's `json.dumps` writes it: a space behind every comma and colon.
fn spaced(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), spaced(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

/// JSON text with everything beyond ASCII as `\u` escapes.
fn ascii(text: &str) -> String {
    let mut units = [0; 2];
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut units).iter().for_each(|unit| out += &format!("\\u{unit:04x}"));
        }
        out
    })
}

fn content(request: &Raw, proof: &HmacProof<'_>, content: Content, body: &[u8]) -> Vec<u8> {
    static INTERACTOR: HeaderName = HeaderName::from_static("x-interactor-timestamp");
    let header = present(request, &proof.timestamps).unwrap_or(&INTERACTOR);
    let elsewhere = || told_elsewhere(request, proof);
    let stamp = request.one(header).map(str::to_owned).or_else(elsewhere).unwrap_or_default();
    let id = ["webhook-id", "svix-id"].iter().find_map(|name| request.one(&HeaderName::from_static(name))).unwrap_or_default();
    match content {
        Content::Body => body.to_vec(),
        Content::TimestampBody => [stamp.as_bytes(), b".", body].concat(),
        Content::IdTimestampBody => [id.as_bytes(), b".", stamp.as_bytes(), b".", body].concat(),
    }
}

fn fits(key: &[u8], content: &[u8], digest: &[u8]) -> bool {
    Key::new(algorithm(digest), key).verifies(&[content], digest)
}

/// The hash function that makes digests as long as `digest`.
fn algorithm(digest: &[u8]) -> Algorithm {
    match digest.len() {
        20 => Algorithm::Sha1,
        64 => Algorithm::Sha512,
        _ => Algorithm::Sha256,
    }
}

/// Whether `name` is a header that carries a proof of some sender: what makes a request worth keeping.
pub(crate) fn is_signature(name: &HeaderName) -> bool {
    ["signature", "hmac", "-sig", "-hash"].iter().any(|word| name.as_str().contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::{request::tests::request, source::tests::source};

    #[test]
    fn names_keep_their_letters() {
        assert_eq!(uncapitalised("Only POST is allowed here"), "only POST is allowed here");
    }

    proptest! {
        /// What the doctor says at all is in `ingest::tests`; here, that nothing it is shown breaks it or makes it talk.
        #[test]
        fn no_request_breaks_it(signature in "[ -~]{0,80}", stamp in "[0-9TZ:.,=t-]{0,30}", body: Vec<u8>, stripe: bool) {
            let sources = [
                source("a", r#"{"kind": "interactor", "path": "/a", "secrets": "whsec_hush-hush"}"#).unwrap(),
                source("b", r#"{"kind": "hmac", "preset": "stripe", "path": "/b", "secrets": "hush-hush"}"#).unwrap(),
                source("c", r#"{"kind": "agent", "path": "/c", "secrets": "hush-hush", "tolerance": "5m"}"#).unwrap(),
                source("d", r#"{"kind": "trigger", "path": "/d", "header": {"name": "x-webhook-signature", "value": "hush-hush"}}"#).unwrap(),
            ];
            let name = if stripe { "stripe-signature" } else { "x-interactor-signature" };
            let headers = [(name, signature.as_str()), ("x-interactor-timestamp", &stamp), ("x-webhook-signature", &signature)];
            let request = request("/a/", &headers, &body);
            for code in [Code::NotFound, Code::InvalidTimestamp, Code::InvalidSignature, Code::InvalidHeader, Code::InvalidJson] {
                for source in sources.iter().map(Some).chain([None]) {
                    let said = diagnose(Case { request: &request, code, source, sources: &sources });
                    prop_assert!(!said.is_empty() && !said.contains("hush"), "{}", said);
                }
            }
        }
    }
}
