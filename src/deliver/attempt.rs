//! One attempt: what it is made with, what it came to, and what it leaves its delivery as.
//!
//! `error` of an attempt is one of `timeout`, `dns`, `connect`, `tls`, `closed` (the connection ended without an answer),
//! `address_forbidden`, `http_<status>`, `smtp_<code>`, `no_recipients`, `contacts_unavailable`, `handshake_refused`
//! (the target was asked first and did not consent), `shutdown` (the relay stopped meanwhile), or `internal`.

use std::{borrow::Cow, ops::Deref, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use url::Url;

use super::{
    Destination,
    answers::{Meaning, retry_after},
    breaker::{Signal, Verdict},
    client::{Answer, Failure, FailureKind, Http},
    endpoint::Body,
    inbox::Handed,
    kinds,
    making::{Making, Purpose},
};
use crate::{
    clock::{Clock, Timestamp, later},
    contacts::Contacts,
    envelope::{DeliveryId, Envelope},
    reconnect::Reconnecting,
    render::Templates,
    store::{Attempt, Cause, Delivery, Due, Next, Rendered, Stage, Store},
};

/// Where people reach the relay: what links in messages begin with.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// `server.public_url`.
    pub public_url: Option<Url>,
    /// `server.admin_url`.
    pub admin_url: Option<Url>,
    /// Makes links that mend a credential.
    pub reconnecting: Option<Arc<Reconnecting>>,
}

/// What the attempts of one lane are made with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tools {
    /// What sends them.
    pub(super) http: Http,
    /// The templates of the file.
    pub(super) templates: Arc<Templates>,
    /// Who stands behind a namespace.
    pub(super) contacts: Arc<Contacts>,
    /// What time it is.
    pub(super) clock: Clock,
    /// Where kinds keep what belongs to more than one delivery.
    pub(super) store: Arc<dyn Store>,
    /// Where people reach the relay.
    pub(super) site: Arc<Site>,
}

/// What one attempt is made with.
pub(super) struct Try<'a> {
    /// What its body is made with.
    pub(super) making: Making<'a>,
    /// When it must be done.
    pub(super) deadline: Instant,
    /// What sends it.
    pub(super) http: &'a Http,
    /// Where kinds keep what belongs to more than one delivery.
    pub(super) store: &'a dyn Store,
    /// The trace context that goes along.
    pub(super) traceparent: String,
}

impl<'a> Deref for Try<'a> {
    type Target = Making<'a>;

    fn deref(&self) -> &Making<'a> {
        &self.making
    }
}

/// What one attempt came to. The kind says what happened; [`settle`] decides what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The target took it.
    Delivered,
    /// May pass.
    Retry {
        /// How long the target asks to wait.
        after: Option<Duration>,
        /// Whether it asks that for everything sent to it.
        whole_lane: bool,
        /// Whether it may want nothing of us at all.
        denied: bool,
    },
    /// Would fail the same way again.
    Permanent {
        /// Whose fault.
        cause: Cause,
        /// Whether every other delivery may fail so too.
        moved: bool,
    },
    /// Taken; what becomes of it is reported later.
    Awaits,
    /// Refused whatever were sent: our credentials, or what it was sent to, are wrong.
    Target,
    /// Nothing was asked of the target, as nobody could be named to write to: now (`None`), or at all.
    Unasked(Option<Cause>),
}

impl Outcome {
    /// What it says of the target; `None`: nothing, as nobody asked it.
    pub(super) fn signal(self) -> Option<Signal> {
        match self {
            Self::Delivered | Self::Awaits => Some(Signal::Success),
            Self::Retry { denied: true, .. } => Some(Signal::Denied),
            Self::Retry { .. } => Some(Signal::Transient),
            Self::Permanent { moved: true, .. } => Some(Signal::Moved),
            Self::Permanent { cause: Cause::Internal, .. } => None,
            Self::Permanent { .. } => Some(Signal::Permanent),
            Self::Target => Some(Signal::Refused),
            Self::Unasked(_) => None,
        }
    }
}

/// An attempt that is over.
#[derive(Debug)]
pub(super) struct Tried {
    /// What it came to.
    pub(super) outcome: Outcome,
    /// The answer's status.
    pub(super) status: Option<u16>,
    /// What went wrong, as a code.
    pub(super) error: Option<String>,
    /// What went wrong or was worth a remark, for a person.
    pub(super) detail: Option<String>,
    /// The beginning of the answer's body.
    pub(super) response: Bytes,
    /// The body, where a template made it just now.
    pub(super) rendered: Option<Rendered>,
    /// Whether a template of the user's failed.
    pub(super) template_failed: bool,
}

impl Tried {
    /// What an answer, or its absence, came to; `meaning` reads statuses.
    pub(super) fn new(answered: Result<Answer, Failure>, at: Timestamp, meaning: impl FnOnce(u16) -> Meaning) -> Self {
        match answered {
            Ok(answer) => {
                let meaning = meaning(answer.status);
                Self::of(answer, at, meaning)
            }
            Err(failure) => Self::failed(failure),
        }
    }

    /// What an answer that means `meaning` came to.
    pub(super) fn of(answer: Answer, at: Timestamp, meaning: Meaning) -> Self {
        let outcome = match meaning {
            Meaning::Delivered => Outcome::Delivered,
            Meaning::Permanent(cause) => Outcome::Permanent { cause, moved: false },
            Meaning::Moved(cause) => Outcome::Permanent { cause, moved: true },
            Meaning::Target => Outcome::Target,
            Meaning::Transient | Meaning::Denied => Outcome::Retry {
                after: answer.retry_after.as_deref().and_then(|value| retry_after(value, at)),
                whole_lane: matches!(answer.status, 429 | 503),
                denied: meaning == Meaning::Denied,
            },
        };
        let error = (outcome != Outcome::Delivered).then(|| format!("http_{}", answer.status));
        let detail = matches!(answer.status, 300..=399).then(|| "the URL has moved; redirects are not followed".to_owned());
        Self {
            outcome,
            status: Some(answer.status),
            error,
            detail,
            response: answer.body,
            rendered: None,
            template_failed: false,
        }
    }

    /// What the absence of an answer came to.
    pub(super) fn failed(failure: Failure) -> Self {
        let outcome = match failure.kind {
            FailureKind::Forbidden => Outcome::Permanent { cause: Cause::Config, moved: false },
            FailureKind::Request => Outcome::Permanent { cause: Cause::Internal, moved: false },
            FailureKind::Handshake => Outcome::Target,
            FailureKind::Unasked { status: 410, .. } => Outcome::Permanent { cause: Cause::Receiver, moved: true },
            FailureKind::Unasked { status, after } => {
                Outcome::Retry { after, whole_lane: matches!(status, 429 | 503), denied: false }
            }
            _ => Outcome::Retry { after: None, whole_lane: false, denied: false },
        };
        let status = match failure.kind {
            FailureKind::Unasked { status, .. } => Some(status),
            _ => None,
        };
        let error = Some(status.map_or_else(|| failure.kind.code().to_owned(), |status| format!("http_{status}")));
        let detail = Some(failure.detail);
        Self { outcome, status, error, detail, response: Bytes::new(), rendered: None, template_failed: false }
    }

    /// Adds that `body` was made by a template just now, and how that went.
    pub(super) fn rendered(mut self, body: Body, failed: Option<String>) -> Self {
        self.template_failed = failed.is_some();
        if let Some(failed) = failed {
            self.detail = Some(self.detail.map_or_else(|| failed.clone(), |detail| format!("{detail}; {failed}")));
        }
        self.rendered = Some(Rendered { content_type: body.content_type, body: body.bytes, progress: None, reached: false });
        self
    }
}

/// An attempt that is over and not settled yet.
#[derive(Debug)]
pub(super) struct Made {
    /// What it came to.
    pub(super) tried: Tried,
    /// When it began.
    pub(super) at: Timestamp,
    /// How long it took.
    pub(super) duration: Duration,
}

/// What the lane knows when an attempt is settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// What the breaker makes of it.
    pub(super) verdict: Verdict,
    /// How long the lane had stood still in all when the attempt began, in milliseconds.
    pub(super) still_then: i64,
    /// Likewise now.
    pub(super) still_now: i64,
    /// The epoch under which it began.
    pub(super) epoch: i64,
    /// What time it is.
    pub(super) now: Timestamp,
}

/// A settled attempt, to be recorded.
pub(super) struct Settled {
    /// What is recorded.
    pub(super) attempt: Attempt,
    /// Until when the whole lane waits.
    pub(super) hold: Option<Timestamp>,
    /// Whether a template of the user's failed.
    pub(super) template_failed: bool,
}

/// A template by which tests break an attempt from within.
#[cfg(test)]
pub(super) const BUG: &str = "a bug of ours";

/// Makes the next attempt of `due` at `destination`.
pub(super) async fn make(destination: &Destination, tools: &Tools, handed: &Handed) -> Made {
    let due = &handed.due;
    #[cfg(test)]
    assert_ne!(due.delivery.template.as_deref(), Some(BUG), "a bug of ours");
    let began = Instant::now();
    let at = tools.clock.now();
    let event = envelope(due);
    let making = Making {
        event: &event,
        delivery: &due.delivery,
        digest: handed.digest.as_deref(),
        number: due.delivery.attempts.saturating_add(1),
        at,
        templates: &tools.templates,
        contacts: &tools.contacts,
        site: &tools.site,
        purpose: Purpose::Delivery,
        stage: tools.http.stage(),
    };
    let attempt = Try {
        making,
        deadline: began + destination.timeout,
        http: &tools.http,
        store: &*tools.store,
        traceparent: traceparent(due.envelope.traceparent.as_deref(), due.delivery.id),
    };
    let tried = destination.kind.send(&attempt, &destination.answers).await;
    Made { tried, at, duration: began.elapsed() }
}

/// The event as this delivery carries it: one made by a replay says so.
fn envelope(due: &Due) -> Cow<'_, Envelope> {
    if due.delivery.replayed && !due.envelope.replayed {
        // The bodies are shared.
        Cow::Owned(Envelope { replayed: true, ..(*due.envelope).clone() })
    } else {
        Cow::Borrowed(&due.envelope)
    }
}

/// What `made` leaves `delivery` as.
pub(super) fn settle(destination: &Destination, delivery: &Delivery, made: Made, standing: Standing) -> Settled {
    let Made { tried, at, duration } = made;
    let wish = match tried.outcome {
        Outcome::Retry { after, .. } => after.map(|after| later(standing.now, after.min(destination.retry_after_max))),
        _ => None,
    };
    let hold = wish.filter(|_| matches!(tried.outcome, Outcome::Retry { whole_lane: true, .. }));
    let next = next(destination, delivery, tried.outcome, at, wish, standing);
    let attempt = Attempt {
        delivery: delivery.id,
        number: delivery.attempts.saturating_add(1),
        started_at: at,
        duration,
        status: tried.status,
        error: tried.error,
        detail: remarks(delivery, tried.detail, standing.verdict.target_level),
        response: tried.response,
        next,
        // A body that arrived is not sent again.
        rendered: tried.rendered.filter(|_| next != Next::Delivered),
        counts: !standing.verdict.target_level,
        stood_still_ms: standing.still_then,
        epoch: standing.epoch,
        unmade: matches!(delivery.stage, Stage::Gathering | Stage::Carrying).then_some(delivery.unmade),
        ordered: delivery.order_key.is_some(),
    };
    Settled { attempt, hold, template_failed: tried.template_failed }
}

/// What follows for the delivery.
fn next(
    destination: &Destination,
    delivery: &Delivery,
    outcome: Outcome,
    at: Timestamp,
    wish: Option<Timestamp>,
    standing: Standing,
) -> Next {
    match outcome {
        Outcome::Delivered => Next::Delivered,
        Outcome::Awaits => Next::Awaits(later(standing.now, kinds::UNREPORTED)),
        // Nothing is burnt: it stays where it was, and goes first when the target is whole again.
        _ if standing.verdict.target_level => Next::Retry(delivery.due_at.unwrap_or(at)),
        Outcome::Target => Next::Retry(delivery.due_at.unwrap_or(at)),
        Outcome::Permanent { cause, .. } | Outcome::Unasked(Some(cause)) => Next::Dead(cause),
        Outcome::Retry { .. } | Outcome::Unasked(None) => {
            let made = delivery.attempts.saturating_add(1).saturating_sub(delivery.uncounted);
            let first = moved_on(delivery.first_attempt_at.unwrap_or(at), stood_still(delivery, standing));
            let next = destination.retry.next(made, first, standing.now, wish, random());
            next.map_or(Next::Dead(Cause::Receiver), Next::Retry)
        }
    }
}

/// How long the lane has stood still since the first attempt of `delivery`, in milliseconds.
fn stood_still(delivery: &Delivery, standing: Standing) -> i64 {
    let then = if delivery.first_attempt_at.is_some() { delivery.stood_still_ms } else { standing.still_then };
    standing.still_now.saturating_sub(then)
}

fn moved_on(at: Timestamp, ms: i64) -> Timestamp {
    later(at, Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn remarks(delivery: &Delivery, detail: Option<String>, target_level: bool) -> Option<String> {
    let out_of_order = delivery.out_of_order.then_some("retried by a person, out of the order of its key");
    let target_level = target_level.then_some("the target refuses everything: this attempt does not count");
    let all: Vec<_> = detail.as_deref().into_iter().chain(target_level).chain(out_of_order).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What is recorded of an attempt that our own code broke off.
pub(super) fn broken(delivery: crate::envelope::DeliveryId, number: u32, at: Timestamp, duration: Duration) -> Attempt {
    Attempt {
        delivery,
        number,
        started_at: at,
        duration,
        status: None,
        error: Some("internal".to_owned()),
        detail: Some("the relay failed while it made this attempt".to_owned()),
        response: Bytes::new(),
        next: Next::Dead(Cause::Internal),
        rendered: None,
        counts: true,
        stood_still_ms: 0,
        epoch: 0,
        unmade: None,
        ordered: false,
    }
}

/// What is recorded of an attempt that the end of the relay broke off: the target may have seen it. It burns nothing, and its delivery stays
/// where it was.
pub(super) fn cut_off(delivery: &Delivery, at: Timestamp, duration: Duration) -> Attempt {
    let number = delivery.attempts.saturating_add(1);
    Attempt {
        error: Some("shutdown".to_owned()),
        detail: Some("the relay stopped before the target had answered: this attempt does not count".to_owned()),
        next: Next::Retry(delivery.due_at.unwrap_or(at)),
        counts: false,
        ordered: delivery.order_key.is_some(),
        ..broken(delivery.id, number, at, duration)
    }
}

/// The trace of the event with a parent of its own per attempt (W3C Trace Context 1). An event without one has the trace
/// of its id here.
pub(super) fn traceparent(given: Option<&str>, delivery: DeliveryId) -> String {
    let parent = draw().max(1);
    let given = given.filter(|text| text.is_ascii() && text.len() == 55);
    match given.and_then(|text| Some((text.get(..36)?, text.get(52..)?))) {
        Some((trace, flags)) => format!("{trace}{parent:016x}{flags}"),
        None => format!("00-{:016x}{:016x}-{parent:016x}-00", delivery.event.salt, delivery.event.seq),
    }
}

/// A number in `0..1`, so that retries of many deliveries do not fall together.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
fn random() -> f64 {
    (draw() >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 random bits for what need not be secret: the spread of retries, the parts of a trace. (The system's generator costs a call
/// into the kernel each time.)
pub(super) fn draw() -> u64 {
    fastrand::u64(..)
}
