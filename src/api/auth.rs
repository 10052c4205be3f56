//! Who may use the API: whoever shows the admin token.

use axum::{
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::Response,
};

use super::{Api, error::ApiError};
use crate::{secret::Secret, sign};

/// Lets `request` through to the API when it carries the admin token; while none is set, nothing passes. That goes for paths
/// of the API which do not exist too, so that without a token nothing tells which do.
pub(super) async fn require(State(api): State<Api>, request: Request, next: Next) -> Result<Response, ApiError> {
    if !request.uri().path().starts_with("/api") {
        return Ok(next.run(request).await);
    }
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    match (&api.admin_token, given) {
        (Some(token), Some(given)) if is(token, given) => Ok(next.run(request).await),
        _ => Err(ApiError::Unauthorized),
    }
}

/// The token of `Bearer <token>`; the scheme's letters may be of either case (RFC 9110, 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token.trim_ascii())
}

/// Compares hashes, so that not even the token's length shows in the time it takes. An empty token is none.
fn is(token: &Secret, given: &[u8]) -> bool {
    !token.is_empty() && sign::same(&sign::sha256(&[token.reveal().as_bytes()]), &sign::sha256(&[given]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens() {
        assert_eq!(bearer(b"Bearer hy_1"), Some(&b"hy_1"[..]));
        assert_eq!(bearer(b"bearer  hy_1 "), Some(&b"hy_1"[..]));
        for bad in [&b""[..], b"Bearer", b"Basic abc", b"Bearerx hy_1"] {
            assert_eq!(bearer(bad), None);
        }
        assert!(is(&Secret::new("hy_1"), b"hy_1") && !is(&Secret::new("hy_1"), b"hy_2") && !is(&Secret::new(""), b""));
    }
}
