//! Receivers on this machine: one that checks the signatures of what it gets, and one that takes messages as Slack does.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use data_encoding::BASE64;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    cli::Failure,
    secret::Secret,
    sign::{Key, hex32, standard_key},
};

/// Something that arrived.
#[derive(Debug)]
pub(super) struct Landed {
    /// Which receiver got it.
    pub(super) target: &'static str,
    /// The delivery's id.
    pub(super) delivery: String,
    /// The event's id.
    pub(super) event: String,
    /// The event's type, the subject of a mail, or what a message in Slack begins with.
    pub(super) r#type: String,
    /// Whether every signature it bears is right; `None`: it bears none.
    pub(super) signed: Option<bool>,
}

/// A receiver that runs until the process ends.
pub(super) struct Receiver {
    /// Where it listens.
    pub(super) addr: SocketAddr,
}

#[derive(Clone)]
struct Desk {
    target: &'static str,
    /// What signs; `None`: messages for Slack, whose secret is its URL.
    secret: Option<Secret>,
    landed: mpsc::Sender<Landed>,
}

impl Receiver {
    /// Listens as `target`, whose deliveries are signed with `secret`, and tells of what it gets.
    pub(super) async fn start(target: &'static str, secret: Secret, landed: mpsc::Sender<Landed>) -> Result<Self, Failure> {
        Self::listen(Desk { target, secret: Some(secret), landed }).await
    }

    /// Listens as Slack, and tells of what it gets.
    pub(super) async fn slack(target: &'static str, landed: mpsc::Sender<Landed>) -> Result<Self, Failure> {
        Self::listen(Desk { target, secret: None, landed }).await
    }

    async fn listen(desk: Desk) -> Result<Self, Failure> {
        let failed = |error| Failure::Bad(format!("no receiver can listen on this machine: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let router = Router::new().fallback(post(take)).with_state(desk);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { addr })
    }
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signed = desk.secret.as_ref().map(|secret| is_signed(&headers, &body, secret));
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    // n8n gets the envelope under `metadata`.
    let envelope = json.get("metadata").unwrap_or(&json);
    let text = |name: &str| envelope[name].as_str().unwrap_or_default().to_owned();
    let delivery = header(&headers, "x-hookyard-delivery").unwrap_or_default().to_owned();
    let said = json["text"].as_str().and_then(|text| text.lines().next()).unwrap_or_default();
    let r#type = if signed.is_some() { text("type") } else { said.to_owned() };
    let good = signed.unwrap_or(!said.is_empty() && (json["blocks"].is_array() || json["attachments"].is_array()));
    let landed = Landed { target: desk.target, delivery, event: text("id"), r#type, signed };
    // Nobody counts any more once the table is printed.
    let _ = desk.landed.try_send(landed);
    if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
}

/// Standard Webhooks, and Interactor's scheme where it is there too.
fn is_signed(headers: &HeaderMap, body: &[u8], secret: &Secret) -> bool {
    let interactor = header(headers, "x-interactor-signature");
    is_standard(headers, body, secret) == Some(true) && interactor.is_none_or(|given| is_interactor(given, body, secret))
}

fn is_standard(headers: &HeaderMap, body: &[u8], secret: &Secret) -> Option<bool> {
    let (id, time) = (header(headers, "webhook-id")?, header(headers, "webhook-timestamp")?);
    let given = header(headers, "webhook-signature")?.split(' ').filter_map(|item| item.strip_prefix("v1,"));
    let key = standard_key(secret).ok()?;
    let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
    let fits = |text: &str| BASE64.decode(text.as_bytes()).is_ok_and(|given| key.verifies(&parts, &given));
    Some(given.into_iter().any(fits))
}

fn is_interactor(given: &str, body: &[u8], secret: &Secret) -> bool {
    let given = given.strip_prefix("sha256=").and_then(|hex| hex32(hex.as_bytes()));
    given.is_some_and(|given| Key::literal(secret).verifies(&[body], &given))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::outbound::{Message, Scheme, Signing};

    #[test]
    fn only_right_signatures_are_ok() {
        let secret = Secret::new("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3");
        let signing = Signing::new(vec![Scheme::Standard, Scheme::Interactor], std::slice::from_ref(&secret)).unwrap();
        let at = "2026-01-20T12:00:00Z".parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in signing.headers(Message { id: "evt_1", at, body: b"{}" }, 0) {
            let name: axum::http::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        assert!(is_signed(&headers, b"{}", &secret) && !is_signed(&headers, b"{ }", &secret));
        assert!(!is_signed(&HeaderMap::new(), b"{}", &secret));
        headers.insert("x-interactor-signature", "sha256=00".parse().unwrap());
        assert!(!is_signed(&headers, b"{}", &secret));
    }
}
