//! `handshake: true`: a target is asked whether it wants deliveries before it gets any.
//!
//! Facts: CloudEvents "HTTP 1.1 Web Hooks for Event Delivery" 1.0, section 4 (abuse protection): only the header
//! `WebHook-Allowed-Origin` says yes, whatever the status.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tokio::{sync::Mutex, time::timeout_at};
use url::Url;

use super::{
    answers::retry_after,
    attempt::{Site, Try},
    client::{Failure, FailureKind, ReadyUrl},
};
use crate::clock::{Timestamp, later};

/// Who sends, by a DNS name: in the question, and with every delivery after it.
pub(super) const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
/// Whose deliveries the target takes.
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
/// What the relay is called where `server.public_url` holds no DNS name.
const NAMELESS: HeaderValue = HeaderValue::from_static("hookyard");
/// How long a consent holds. It is in memory only: after a start, or where another file names another URL, the target is asked anew.
const HOLDS: Duration = Duration::from_secs(24 * 3600);

/// What one URL has said of being sent to.
///
/// No rate is requested (`WebHook-Request-Rate` is left out, as the specification allows), so the target need not allow one; a
/// `WebHook-Allowed-Rate` that comes all the same is not read. How much is sent at most says `rate_limit` of the destination. Nor is a
/// `WebHook-Request-Callback` offered: a target that makes up its mind later says so when it is asked again.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    /// When it last consented, and to whom. Locked while it is asked: attempts beside it wait for the answer instead of asking too.
    agreed: Mutex<Option<(Timestamp, HeaderValue)>>,
}

impl Handshake {
    /// Asks `url` for its consent, unless that is known. Neither body nor signatures nor custom headers go along: they are for those who
    /// want them. In a rehearsal nobody is asked.
    ///
    /// # Errors
    /// [`FailureKind::Handshake`] without consent, [`FailureKind::Unasked`] where that says nothing of it; where there is no answer, why.
    pub(super) async fn agree(&self, attempt: &Try<'_>, url: &ReadyUrl) -> Result<(), Failure> {
        if attempt.http.stage().is_some() {
            return Ok(());
        }
        let waited = timeout_at(attempt.deadline, self.agreed.lock()).await;
        let mut agreed = waited.map_err(|_| Failure {
            kind: FailureKind::Timeout,
            detail: "the target was still being asked for its consent".to_owned(),
        })?;
        let origin = origin(attempt.site);
        if agreed.as_ref().is_some_and(|(at, to)| attempt.at < later(*at, HOLDS) && *to == origin) {
            return Ok(());
        }
        *agreed = None;
        let headers = HeaderMap::from_iter([(REQUEST_ORIGIN, origin.clone())]);
        let (status, answered) = attempt.http.options(url, headers, attempt.deadline).await?;
        if let Some(why) = refusal(status, &answered, &origin) {
            let after = answered.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, attempt.at));
            let passes = !answered.contains_key(ALLOWED_ORIGIN) && says_nothing(status);
            let kind = if passes { FailureKind::Unasked { status, after } } else { FailureKind::Handshake };
            return Err(Failure { kind, detail: format!("asked by OPTIONS (answer {status}), {why}") });
        }
        *agreed = Some((attempt.at, origin));
        Ok(())
    }
}

/// The name under which the relay sends.
pub(super) fn origin(site: &Site) -> HeaderValue {
    let name = site.public_url.as_ref().and_then(Url::domain);
    name.and_then(|name| HeaderValue::from_str(name).ok()).unwrap_or(NAMELESS)
}

/// Whether an answer of this status, without the header, is no refusal: the target could not be asked now, or is gone. It then means what
/// it means for a delivery by default.
fn says_nothing(status: u16) -> bool {
    matches!(status, 408 | 410 | 425 | 429 | 500..=599) && !matches!(status, 501 | 505)
}

/// Why an answer is no consent. A redirect never is: where it leads was not asked.
fn refusal(status: u16, headers: &HeaderMap, origin: &HeaderValue) -> Option<&'static str> {
    if (300..400).contains(&status) {
        return Some("the target points elsewhere; redirects are not followed");
    }
    let mut allowed = headers.get_all(ALLOWED_ORIGIN).iter().map(|value| value.as_bytes().trim_ascii()).peekable();
    if allowed.peek().is_none() {
        return Some("the target did not consent: its answer has no `WebHook-Allowed-Origin`");
    }
    let fits = |value: &[u8]| value == b"*" || value.eq_ignore_ascii_case(origin.as_bytes());
    if allowed.any(fits) { None } else { Some("the target did not consent: its `WebHook-Allowed-Origin` is another") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_header_consents() {
        let origin = HeaderValue::from_static("relay.example.com");
        let refused = |status, values: &[&'static str]| {
            let headers = values.iter().map(|value| (ALLOWED_ORIGIN, HeaderValue::from_static(value))).collect();
            refusal(status, &headers, &origin).is_some()
        };
        for (status, values) in [(200, &["*"][..]), (405, &["relay.example.com"]), (500, &["x", " Relay.Example.com "])] {
            assert!(!refused(status, values), "{status} {values:?}");
        }
        for (status, values) in [(200, &[][..]), (204, &["example.com"]), (200, &[""]), (301, &["*"]), (200, &["**"])] {
            assert!(refused(status, values), "{status} {values:?}");
        }
    }

    #[test]
    fn the_relay_is_called_by_the_name_of_its_public_url() {
        let of = |url: &str| origin(&Site { public_url: url.parse().ok(), ..Site::default() });
        assert_eq!(of("https://relay.example.com:8443/x"), "relay.example.com");
        assert_eq!((of("http://127.0.0.1:80/"), of("http://[::1]/"), of("")), (NAMELESS, NAMELESS, NAMELESS));
    }
}
