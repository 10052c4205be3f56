//! Requests signed as each kind of sender signs them. Written from the senders' documents, apart from the relay's own
//! signing code.

use data_encoding::{BASE64, HEXLOWER};
use ring::{digest, hmac};

use super::{Request, iso, unix_now};

/// Secret of source `interactor`; its bytes are used as they stand.
pub(crate) const INTERACTOR: &str = "whsec_interactor_current_4Zq8";
/// Secret of source `agents`.
pub(crate) const AGENT: &str = "agent-secret-7Jd2mQ";
/// Secret of source `reports`.
pub(crate) const HMAC: &str = "hmac-secret-0aBc9Y";
/// Secret of source `standard`.
pub(crate) const STANDARD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// Value of the static header of source `connectors`.
pub(crate) const FORWARDING: &str = "forwarding-key-Lw55x";

/// HMAC-SHA-256 of `parts`, one after the other.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().to_vec()
}

/// The same in lowercase hex.
pub(crate) fn hex_mac(key: &str, parts: &[&[u8]]) -> String {
    HEXLOWER.encode(&mac(key.as_bytes(), parts))
}

/// `sha256:` and the hex digest of `body`: the id of events whose sender gives none.
pub(crate) fn hash_id(body: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest::digest(&digest::SHA256, body).as_ref()))
}

/// As Interactor's seed says: timestamp in ISO 8601, signature over the body.
pub(crate) fn interactor(body: impl AsRef<[u8]>) -> Request {
    interactor_by(INTERACTOR, body)
}

/// The same with another secret.
pub(crate) fn interactor_by(secret: &str, body: impl AsRef<[u8]>) -> Request {
    let body = body.as_ref();
    Request::json("/webhooks/interactor", body)
        .header("X-Interactor-Timestamp", iso(0))
        .header("X-Interactor-Signature", format!("sha256={}", hex_mac(secret, &[body])))
}

/// As Interactor's guide says: Unix seconds, bare hex over `{timestamp}.{body}`.
pub(crate) fn timestamped(body: impl AsRef<[u8]>, at: i64) -> Request {
    let (body, at) = (body.as_ref(), at.to_string());
    Request::json("/webhooks/interactor", body)
        .header("X-Interactor-Timestamp", at.clone())
        .header("X-Interactor-Signature", hex_mac(INTERACTOR, &[at.as_bytes(), b".", body]))
}

/// As the agent platform signs: bare hex over the body.
pub(crate) fn agent(body: impl AsRef<[u8]>) -> Request {
    let body = body.as_ref();
    Request::json("/webhooks/agent", body).header("X-Webhook-Signature", hex_mac(AGENT, &[body]))
}

/// As trigger forwarding sends: a static header.
pub(crate) fn trigger(body: impl AsRef<[u8]>) -> Request {
    Request::json("/triggers/connectors", body.as_ref()).header("X-Forwarding-Key", FORWARDING)
}

/// As Standard Webhooks says, now.
pub(crate) fn standard(id: &str, body: impl AsRef<[u8]>) -> Request {
    standard_at(id, unix_now(), body)
}

/// As Standard Webhooks says, at `at`.
pub(crate) fn standard_at(id: &str, at: i64, body: impl AsRef<[u8]>) -> Request {
    let body = body.as_ref();
    Request::json("/webhooks/standard", body)
        .header("webhook-id", id)
        .header("webhook-timestamp", at.to_string())
        .header("webhook-signature", standard_item(STANDARD, id, at, body))
}

/// One `v1,` item.
pub(crate) fn standard_item(secret: &str, id: &str, at: i64, body: &[u8]) -> String {
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap_or(secret).as_bytes()).unwrap();
    let signed = mac(&key, &[id.as_bytes(), b".", at.to_string().as_bytes(), b".", body]);
    format!("v1,{}", BASE64.encode(&signed))
}

/// `{t=<unix>,v1=<hex over timestamp.body>}`, as Stripe signs.
pub(crate) fn stripe(body: impl AsRef<[u8]>, at: i64) -> Request {
    let (body, at) = (body.as_ref(), at.to_string());
    let hex = hex_mac(HMAC, &[at.as_bytes(), b".", body]);
    Request::json("/webhooks/reports", body).header("Stripe-Signature", format!("t={at},v1={hex}"))
}

/// `sha256=<hex over the body>` in `header`, as GitHub and Honeyframe sign.
pub(crate) fn prefixed(header: &str, body: impl AsRef<[u8]>) -> Request {
    let body = body.as_ref();
    Request::json("/webhooks/reports", body).header(header, format!("sha256={}", hex_mac(HMAC, &[body])))
}

/// An Interactor event of type `credential.expired` with this id.
pub(crate) fn event(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"credential.expired","timestamp":"2026-01-20T12:00:00Z","data":{{"credential_id":"cred_abc","namespace":"user_123"}}}}"#
    )
}
