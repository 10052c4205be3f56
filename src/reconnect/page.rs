//! The page of a reconnect link. `GET` shows a button and changes nothing; `POST` follows it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Path, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use super::{Grant, NoGrant, PATH, Reconnecting};
use crate::{
    clock::Clock,
    config::decode::Rate,
    ingest::limits::{Client, Keyed},
    live::Live,
    render,
};

/// Followed links per client address: each asks the connector API.
const FOLLOWED: Rate = Rate { count: 60, per: Duration::from_secs(60), burst: 60 };
/// Pages per client address. Whoever sits behind a proxy shares its address, and mail scanners open every link that is sent.
const SHOWN: Rate = Rate { count: 100, per: Duration::from_secs(1), burst: 3000 };

/// What the pages work with.
#[derive(Clone)]
struct Pages {
    reconnecting: Live<Reconnecting>,
    shown: Arc<Keyed<Client>>,
    followed: Arc<Keyed<Client>>,
}

/// The pages of reconnect links.
pub fn router(reconnecting: Live<Reconnecting>, clock: &Clock) -> Router {
    let limit = |rate| Arc::new(Keyed::new(rate, clock));
    let pages = Pages { reconnecting, shown: limit(SHOWN), followed: limit(FOLLOWED) };
    let path = format!("{PATH}/{{link}}");
    Router::new().route(&path, get(show).post(follow).fallback(wrong_method)).with_state(pages)
}

async fn show(State(pages): State<Pages>, ConnectInfo(peer): ConnectInfo<SocketAddr>, Path(link): Path<String>) -> Response {
    match pages.admit(&pages.shown, peer, &link) {
        Ok(grant) => button(&grant),
        Err(refused) => *refused,
    }
}

async fn follow(State(pages): State<Pages>, ConnectInfo(peer): ConnectInfo<SocketAddr>, Path(link): Path<String>) -> Response {
    let grant = match pages.admit(&pages.followed, peer, &link) {
        Ok(grant) => grant,
        Err(refused) => return *refused,
    };
    let found = pages.reconnecting.now().sign_in_url(&grant).await;
    match found.map(|url| HeaderValue::from_str(url.as_str())) {
        Ok(Ok(location)) => {
            tracing::info!(service = %grant.service, namespace = ?grant.namespace, "a reconnect link was followed");
            let mut response = page(StatusCode::SEE_OTHER, "Going on", "<p>You are being taken to the sign-in page.</p>");
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        failed => {
            let reason = failed.err().unwrap_or_else(|| "no header can carry the URL it answers".to_owned());
            tracing::error!(service = %grant.service, %reason, "the connector API gives no sign-in URL");
            let text = "<p>The service that leads to the sign-in page does not answer as it should. \
                Nothing has changed; please try this link again in a few minutes.</p>";
            page(StatusCode::BAD_GATEWAY, "Not possible just now", text)
        }
    }
}

async fn wrong_method() -> Response {
    let mut response = page(StatusCode::METHOD_NOT_ALLOWED, "Not this way", "<p>Open this link in a browser.</p>");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    response
}

impl Pages {
    /// What `link` stands for, unless this client asks more often than `limit` allows.
    fn admit(&self, limit: &Keyed<Client>, peer: SocketAddr, link: &str) -> Result<Grant, Box<Response>> {
        if let Err(limited) = limit.take(&Client::of(peer.ip())) {
            let mut response = page(StatusCode::TOO_MANY_REQUESTS, "Too often", "<p>Please wait a moment, then try again.</p>");
            let seconds = limited.wait.as_secs().saturating_add(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            return Err(Box::new(response));
        }
        let refusal = |refused| match refused {
            NoGrant::Expired => {
                let text = "<p>This link was good for a limited time, which is over. Nothing has changed. \
                    The next message about this connection brings a new link.</p>";
                page(StatusCode::GONE, "This link has expired", text)
            }
            NoGrant::Forged => {
                let text = "<p>This link is not complete or was changed on its way. Nothing has changed. \
                    Please open it from the message you were sent, as it stands there.</p>";
                page(StatusCode::FORBIDDEN, "This link is not valid", text)
            }
        };
        self.reconnecting.now().open(link).map_err(|refused| Box::new(refusal(refused)))
    }
}

fn button(grant: &Grant) -> Response {
    let body = format!(
        "<p>The connection to <b>{}</b> for <b>{}</b> has to be renewed. The button takes you to the service's own sign-in page; \
        nothing happens before you press it.</p>\n<form method=\"post\"><button type=\"submit\">Reconnect</button></form>",
        escaped(&grant.service),
        escaped(&grant.namespace)
    );
    page(StatusCode::OK, "Reconnect", &body)
}

/// `form-action` lets the form lead on to any https page: browsers hold redirects that follow it to this rule too.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' https:; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
];

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
        <title>{title}</title>\n<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:4rem auto;padding:0 1rem}}\
        button{{font:inherit;padding:.6rem 1.4rem}}b{{overflow-wrap:anywhere}}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
        {body}\n</main>\n</body>\n</html>\n"
    );
    let mut response = (status, html).into_response();
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Text as HTML; control characters and marks that turn the direction of writing are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in render::shown(text, 200).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
