//! Web pages of elsewhere that ask the API from a browser (`server.cors`): which may read what it answers. Pages that are not named get
//! the same answers, which their browser does not show them; whether anything is done is decided by the token alone.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::config::Cors;

/// Methods that pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// Headers that pages may send.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, last-event-id");
/// Headers of answers that pages may read.
const EXPOSED: HeaderValue = HeaderValue::from_static("retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset");
/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Answers what browsers ask before they send `request`, or adds to its answer whether the page that sent it may read it. Questions
/// carry no token: this comes before whatever wants one.
pub(super) async fn answer(cors: &Cors, request: Request, next: Next) -> Response {
    if cors == &Cors::default() || !request.uri().path().starts_with("/api") {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.as_ref().and_then(|origin| allowed(cors, origin));
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(allowed) = allowed else { return response };
    allow(headers, allowed);
    if asks {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

/// What is answered to a page of `origin`: the origin where it is named, `*` where any may.
fn allowed(cors: &Cors, origin: &HeaderValue) -> Option<HeaderValue> {
    let named = cors.origins.iter().any(|known| known.as_bytes() == origin.as_bytes());
    if named { Some(origin.clone()) } else { cors.any.then(|| HeaderValue::from_static("*")) }
}

/// With `*` a browser sends nothing of its own; pages that are named may have it do so, as Interactor's guide has it.
fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    if origin != "*" {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::get};
    use tower_service::Service;

    use super::*;

    async fn ask(cors: &Cors, method: Method, path: &str, headers: &[(header::HeaderName, &str)]) -> (u16, String) {
        let cors = cors.clone();
        let layer = middleware::from_fn(move |request, next| {
            let cors = cors.clone();
            async move { answer(&cors, request, next).await }
        });
        let mut router = Router::new()
            .route("/api/v1/x", get(|| async { StatusCode::UNAUTHORIZED }))
            .route("/metrics", get(|| async {}))
            .layer(layer);
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
        let shown = response.headers().iter().filter(|(name, _)| name.as_str().starts_with("access-control") || *name == "vary");
        let shown: Vec<_> = shown.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        (response.status().as_u16(), shown.join("\n"))
    }

    const PREFLIGHT: (header::HeaderName, &str) = (header::ACCESS_CONTROL_REQUEST_METHOD, "GET");

    fn from(origin: &str) -> (header::HeaderName, &str) {
        (header::ORIGIN, origin)
    }

    #[tokio::test]
    async fn pages_that_are_named_may_read_and_are_told_so_without_a_token() {
        let cors = Cors { any: false, origins: vec!["https://app.example.com".into()] };
        let page = from("https://app.example.com");
        let (status, said) = ask(&cors, Method::OPTIONS, "/api/v1/x", &[page.clone(), PREFLIGHT]).await;
        assert_eq!(status, 204);
        insta::assert_snapshot!(said, @"
        vary: origin
        access-control-allow-credentials: true
        access-control-allow-origin: https://app.example.com
        access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE
        access-control-allow-headers: authorization, content-type, last-event-id
        access-control-max-age: 600
        ");
        let (status, said) = ask(&cors, Method::GET, "/api/v1/x", &[page]).await;
        assert_eq!(status, 401, "a refusal can be read too");
        insta::assert_snapshot!(said, @"
        vary: origin
        access-control-allow-credentials: true
        access-control-allow-origin: https://app.example.com
        access-control-expose-headers: retry-after, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset
        ");
    }

    #[tokio::test]
    async fn other_pages_are_told_nothing() {
        let cors = Cors { any: false, origins: vec!["https://app.example.com".into()] };
        for other in ["https://app.example.com.evil.example", "http://app.example.com", "https://APP.example.com", "null", ""] {
            assert_eq!(ask(&cors, Method::GET, "/api/v1/x", &[from(other)]).await, (401, "vary: origin".into()), "{other}");
            let asked = ask(&cors, Method::OPTIONS, "/api/v1/x", &[from(other), PREFLIGHT]).await;
            assert_eq!(asked, (204, "vary: origin".into()), "{other}");
        }
        let none = Cors::default();
        assert_eq!(ask(&none, Method::GET, "/api/v1/x", &[from("https://app.example.com")]).await, (401, String::new()));
        assert_eq!(ask(&none, Method::OPTIONS, "/api/v1/x", &[from("https://a.example"), PREFLIGHT]).await.0, 405);
    }

    #[tokio::test]
    async fn with_a_star_any_page_may_read_but_brings_nothing_of_the_browsers() {
        let cors = Cors { any: true, origins: vec![] };
        let (_, said) = ask(&cors, Method::GET, "/api/v1/x", &[from("https://anybody.example")]).await;
        assert!(said.contains("access-control-allow-origin: *") && !said.contains("credentials"), "{said}");
        assert_eq!(ask(&cors, Method::GET, "/metrics", &[from("https://anybody.example")]).await, (200, String::new()));
    }
}
