//! The HTTP client of the verbs that talk to a relay: it trusts the usual authorities, follows no redirect, and obeys no proxy, as the
//! relay is near.

use std::{error::Error as StdError, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Uri,
    header::{ACCEPT, HeaderName, HeaderValue},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;
use url::Url;

use super::Failure;

/// How long the relay may take to answer. Retrying many rejections takes a while.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer taken, in bytes: a page of the largest bodies fits.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// A client. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// One request.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Client {
    pub(super) fn new() -> Result<Self, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Bad(format!("the HTTP client cannot be made: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Ok(Self(legacy::Client::builder(TokioExecutor::new()).build(HttpsConnector::from((http, tls)))))
    }

    /// The answer's status and text. Fails for want of one: what was asked makes no sense, or nobody is there. A path may hold a
    /// secret, and is not shown.
    pub(super) async fn ask(&self, asked: Asked<'_>) -> Result<(u16, String), Failure> {
        let at = asked.url.origin().ascii_serialization();
        let request = request(asked).map_err(|why| Failure::Usage(format!("the relay at {at} cannot be asked: {why}")))?;
        let unanswered = |why: String| Failure::Unreachable(format!("no answer from the relay at {at}: {why}"));
        match timeout(TIMEOUT, self.answer(request)).await {
            Ok(answered) => answered.map_err(unanswered),
            Err(_) => Err(unanswered(format!("none within {} seconds", TIMEOUT.as_secs()))),
        }
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<(u16, String), String> {
        let response = self.0.request(request).await.map_err(|error| {
            let hint = if error.is_connect() { "; is `hookyard serve` running? --url names another address" } else { "" };
            format!("{}{hint}", deepest(&error))
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| deepest(&*error))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

fn request(asked: Asked<'_>) -> Result<Request<Full<Bytes>>, &'static str> {
    let url = asked.url;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("its URL is neither http nor https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("its URL must not hold a user name or password");
    }
    // What comes after `#` stays here.
    let text = url.as_str().split('#').next().unwrap_or_default();
    let mut request = Request::new(Full::from(asked.body));
    *request.method_mut() = asked.method;
    *request.uri_mut() = text.parse::<Uri>().map_err(|_| "no request can carry its URL")?;
    *request.headers_mut() = headers(asked.headers)?;
    Ok(request)
}

fn headers(given: Vec<(String, String)>) -> Result<HeaderMap, &'static str> {
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]);
    for (name, value) in given {
        let name = HeaderName::try_from(name).map_err(|_| "this is not the name of a header")?;
        headers.append(name, HeaderValue::try_from(value).map_err(|_| "no header can carry the token or another value")?);
    }
    Ok(headers)
}

/// What lies at the bottom of `error`: "connection refused" tells more than "client error".
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
