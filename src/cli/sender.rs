//! The sender's side of each source kind: the headers with which its real sender would prove itself. Takes plain values, so that
//! `sign`, `send` and `demo` share it.

use crate::{
    clock::{Timestamp, rfc3339_s},
    secret::Secret,
    sign::{
        Algorithm, Key, NotAStandardSecret, base64, hex,
        outbound::{self, Content, Encoding, Message, Signing},
    },
};

/// How a sender proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As Interactor's webhooks guide has it, and as targets get it: over the body, with a timestamp beside it.
    Interactor,
    /// Interactor's integration guide: bare hex over Unix seconds, a dot and the body.
    Timestamped,
    /// Interactor's agents.
    Agent,
    /// Standard Webhooks.
    Standard,
    /// Honeyframe.
    Honeyframe,
    /// Stripe: `t=<Unix seconds>,v1=<hex>`.
    Stripe,
    /// Any other HMAC.
    Hmac(Hmac),
    /// The secret itself, in this header.
    Static(String),
    /// Not at all, or by the path.
    Nothing,
}

/// An HMAC as a source of kind `hmac` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hmac {
    /// Header of the signature.
    pub(super) header: String,
    /// What stands before it.
    pub(super) prefix: String,
    /// How it is written.
    pub(super) encoding: Encoding,
    /// Which hash function.
    pub(super) algorithm: Algorithm,
    /// What is signed.
    pub(super) content: Content,
    /// Header of the timestamp (Unix seconds), where there is one.
    pub(super) timestamp_header: Option<String>,
}

/// The headers with which a sender proves that `message` is its own. Beside them goes the media type.
pub(super) fn headers(
    scheme: &Scheme,
    secret: &Secret,
    message: Message<'_>,
) -> Result<Vec<(String, String)>, NotAStandardSecret> {
    let known = |scheme| {
        let signing = Signing::new(vec![scheme], std::slice::from_ref(secret))?;
        Ok(signing.headers(message, 0).into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    match scheme {
        Scheme::Interactor => known(outbound::Scheme::Interactor),
        Scheme::Agent => known(outbound::Scheme::Agent),
        Scheme::Standard => known(outbound::Scheme::Standard),
        Scheme::Honeyframe => known(outbound::Scheme::Honeyframe),
        Scheme::Timestamped => Ok(timestamped(secret, message)),
        Scheme::Stripe => Ok(stripe(secret, message)),
        Scheme::Hmac(hmac) => Ok(hmac.headers(secret, message)),
        Scheme::Static(header) => Ok(vec![(header.clone(), secret.reveal().to_owned())]),
        Scheme::Nothing => Ok(Vec::new()),
    }
}

fn timestamped(secret: &Secret, message: Message<'_>) -> Vec<(String, String)> {
    let seconds = message.at.as_second().to_string();
    let signature = hex(Key::literal(secret).sign(&[seconds.as_bytes(), b".", message.body]).as_ref());
    vec![("X-Interactor-Signature".to_owned(), signature), ("X-Interactor-Timestamp".to_owned(), seconds)]
}

fn stripe(secret: &Secret, message: Message<'_>) -> Vec<(String, String)> {
    let seconds = message.at.as_second().to_string();
    let signature = hex(Key::literal(secret).sign(&[seconds.as_bytes(), b".", message.body]).as_ref());
    vec![("Stripe-Signature".to_owned(), format!("t={seconds},v1={signature}"))]
}

impl Hmac {
    fn headers(&self, secret: &Secret, message: Message<'_>) -> Vec<(String, String)> {
        let seconds = message.at.as_second().to_string();
        let key = Key::new(self.algorithm, secret.reveal().as_bytes());
        let tag = match self.content {
            Content::Body => key.sign(&[message.body]),
            Content::TimestampBody => key.sign(&[seconds.as_bytes(), b".", message.body]),
        };
        let text = match self.encoding {
            Encoding::Hex => hex(tag.as_ref()),
            Encoding::Base64 => base64(tag.as_ref()),
        };
        let mut headers = vec![(self.header.clone(), format!("{}{text}", self.prefix))];
        headers.extend(self.timestamp_header.clone().map(|name| (name, seconds)));
        headers
    }
}

/// The media type that senders of events use.
pub(super) const CONTENT_TYPE: (&str, &str) = ("Content-Type", "application/json");

/// An event as a source of kind `kind` expects it from its sender.
pub(super) fn body(kind: &str, id: &str, r#type: &str, at: Timestamp, data: &serde_json::Value) -> String {
    let time = rfc3339_s(at);
    let body = match kind {
        "agent" => {
            serde_json::json!({"event": r#type, "webhook": {"id": id, "name": "hookyard send"}, "timestamp": time, "data": data})
        }
        "standard" => serde_json::json!({"type": r#type, "timestamp": time, "data": data}),
        _ => serde_json::json!({"id": id, "type": r#type, "timestamp": time, "data": data}),
    };
    body.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(scheme: &Scheme) -> String {
        let at = "2026-01-20T12:00:00Z".parse().unwrap();
        let message = Message { id: "evt_003", at, body: br#"{"id":"evt_003"}"# };
        let secret = Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3");
        let headers = headers(scheme, &secret, message).unwrap();
        headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
    }

    #[test]
    fn every_sender_has_its_way() {
        let own = Hmac {
            header: "X-Sig".into(),
            prefix: "v0=".into(),
            encoding: Encoding::Base64,
            algorithm: Algorithm::Sha512,
            content: Content::TimestampBody,
            timestamp_header: Some("X-Time".into()),
        };
        let schemes = [
            Scheme::Interactor,
            Scheme::Timestamped,
            Scheme::Agent,
            Scheme::Standard,
            Scheme::Honeyframe,
            Scheme::Stripe,
            Scheme::Hmac(own),
            Scheme::Static("X-Key".into()),
            Scheme::Nothing,
        ];
        insta::assert_snapshot!(schemes.iter().map(signed).collect::<String>(), @"
        X-Interactor-Signature: sha256=497a4ef2599e4034223e36ac5e93f088c60df2a982efad814dc4969d782624e9
        X-Interactor-Timestamp: 2026-01-20T12:00:00Z
        X-Interactor-Signature: 171a5d0e2cf4cb2c2f9c23da4ee3abe5c1683f12df503dea26901dbbabd4c0aa
        X-Interactor-Timestamp: 1768910400
        X-Webhook-Signature: 497a4ef2599e4034223e36ac5e93f088c60df2a982efad814dc4969d782624e9
        webhook-id: evt_003
        webhook-timestamp: 1768910400
        webhook-signature: v1,fh3IlugZo37ms/xH741oSXmFDeIEuR7vET31Xg4wO98=
        X-Honeyframe-Signature: sha256=497a4ef2599e4034223e36ac5e93f088c60df2a982efad814dc4969d782624e9
        Stripe-Signature: t=1768910400,v1=171a5d0e2cf4cb2c2f9c23da4ee3abe5c1683f12df503dea26901dbbabd4c0aa
        X-Sig: v0=8hppmJC9SrS5AS0NAMRIjVwyCBiIxTTLappTj5u4YnwKtCshTifpVizCd4+kmEHTK33pKGT4B5Bu5BYvgR85Pg==
        X-Time: 1768910400
        X-Key: whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3
        ");
    }

    #[test]
    fn the_sender_of_a_preset_and_the_plain_description_of_it_agree() {
        let honeyframe = Hmac {
            header: "X-Honeyframe-Signature".into(),
            prefix: "sha256=".into(),
            encoding: Encoding::Hex,
            algorithm: Algorithm::Sha256,
            content: Content::Body,
            timestamp_header: None,
        };
        assert_eq!(signed(&Scheme::Hmac(honeyframe)), signed(&Scheme::Honeyframe));
    }
}
