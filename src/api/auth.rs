//! Who may use the API: whoever shows a token that allows it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Api,
    error::ApiError,
    limits::{self, Guess, Left},
    scopes::{self, Needs},
    stream::pass::Pass,
};
use crate::{
    access::{BOOTSTRAP, Caller, Scope},
    secret::Secret,
    sign,
};

/// The one path that takes a pass in its query: browsers send no headers with a stream.
const STREAM: &str = "/api/v1/stream";

/// Lets `request` through when it carries a token that allows what its route needs, and tells the handler who asks: [`Caller`] is an
/// extractor. Without a token nothing passes, not even to paths of the API which do not exist, so that nothing tells which do.
pub(super) async fn require(State(api): State<Api>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let needs = path.as_deref().map(|path| scopes::needs(request.method(), path));
    let is_open = needs == Some(Needs::Nothing) || !request.uri().path().starts_with("/api");
    if is_open {
        return Ok(next.run(request).await);
    }
    // Whoever starts the relay without one closes its API, to tokens that were made before as well.
    if api.admin_token.as_ref().is_none_or(Secret::is_empty) {
        return Err(ApiError::Unauthorized);
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let pass = if path.as_deref() == Some(STREAM) { api.bearer_of_pass(request.uri().query()) } else { None };
    let caller = match pass {
        Some((caller, pass)) if !request.headers().contains_key(header::AUTHORIZATION) => {
            request.extensions_mut().insert(pass);
            caller
        }
        _ => api.caller(request.headers(), peer)?,
    };
    let left = api.left(&caller, request.extensions().get::<Pass>().is_some());
    let allowed = match (path, needs) {
        (Some(path), Some(needs)) => scopes::allow(&caller, &path, needs),
        _ => Ok(()),
    };
    let mut response = match (left.and_then(|left| left.wait), allowed) {
        (Some(wait), _) => ApiError::RateLimited(wait).into_response(),
        (None, Err(why)) => ApiError::Forbidden(why).into_response(),
        (None, Ok(())) => {
            request.extensions_mut().insert(caller);
            whole(request, next).await
        }
    };
    if let Some(left) = left {
        left.tell(response.headers_mut());
    }
    Ok(response)
}

/// Answers `request`. What changes something is done to its end though whoever asked hangs up meanwhile: then nobody waits for the
/// answer any more, and what follows a commit in memory would be left undone.
async fn whole(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        // It broke off, or the relay stops.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Api {
    /// Who shows the token in `headers`, asking from `peer`.
    fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Caller, ApiError> {
        let given =
            headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).ok_or(ApiError::Unauthorized)?;
        if let Some(caller) = self.tokens.caller(given, self.engine.now()) {
            return Ok(caller);
        }
        let right = || self.admin_token.as_ref().is_some_and(|token| is(token, given));
        match self.limits.guess(peer, right) {
            Guess::Right => Ok(Caller::bootstrap()),
            Guess::Wrong => Err(ApiError::Unauthorized),
            Guess::TooMany => Err(limits::too_many_wrong(self.engine.now())),
        }
    }

    /// What `caller` has left of its rate once this request is counted. `None`: it has none. The passes of a token share a rate of their
    /// own: browsers leave whoever gave them their passes what it needs.
    fn left(&self, caller: &Caller, by_pass: bool) -> Option<Left> {
        let rate = self.running.api_rate();
        match by_pass {
            true => Some(self.limits.take(&format!("pass of {}", caller.id), rate)),
            false => (caller.id != BOOTSTRAP).then(|| self.limits.take(&caller.id, rate)),
        }
    }

    /// Who shows the pass in `query`, and what it is good for.
    fn bearer_of_pass(&self, query: Option<&str>) -> Option<(Caller, Pass)> {
        let (_, token) = url::form_urlencoded::parse(query?.as_bytes()).find(|(name, _)| name == "token")?;
        let pass = Pass::open(&token, &self.sealer, |id| self.kept_of(id), self.clock.now())?;
        let namespaces = pass.namespaces.clone();
        Some((Caller { id: pass.token.clone(), name: pass.token.clone(), scopes: Scope::EventsRead.into(), namespaces }, pass))
    }

    /// What a pass of the token with this id is signed with beside the relay's key; `None` once that token is over. Ids of created tokens
    /// come once, the other one may stand for another token after a restart.
    pub(super) fn kept_of(&self, id: &str) -> Option<Vec<u8>> {
        if id != BOOTSTRAP {
            return self.tokens.alive(id, self.clock.now()).map(|_| Vec::new());
        }
        let token = self.admin_token.as_ref().filter(|token| !token.is_empty())?;
        Some(sign::sha256(&[token.reveal().as_bytes()]).to_vec())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    /// That of a request that did not come by [`require`].
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get().cloned().ok_or_else(|| ApiError::Unauthorized.into_response())
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
