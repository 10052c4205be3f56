//! One attempt: what it is made with, what it came to, and what it leaves its delivery as.
//!
//! `error` of an attempt is one of `timeout`, `dns`, `connect`, `tls`, `closed` (the connection ended without an answer),
//! `address_forbidden`, `http_<status>`, or `internal`.

use std::time::Duration;

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::{
    Destination,
    answers::{Meaning, retry_after},
    client::{Answer, Failure, FailureKind, Http},
    endpoint::Body,
};
use crate::{
    clock::{Clock, Timestamp, later},
    envelope::Envelope,
    json,
    render::{Scene, Templates, builtin},
    sign::hex,
    store::{Attempt, Cause, Delivery, Due, Next, Rendered},
};

/// What one attempt is made with.
pub(super) struct Try<'a> {
    /// What is delivered.
    pub(super) event: &'a Envelope,
    /// Its delivery.
    pub(super) delivery: &'a Delivery,
    /// The how-manieth attempt, from 1.
    pub(super) number: u32,
    /// When it began.
    pub(super) at: Timestamp,
    /// When it must be done.
    pub(super) deadline: Instant,
    /// What sends it.
    pub(super) http: &'a Http,
    /// The templates of the file.
    pub(super) templates: &'a Templates,
    /// The trace context that goes along.
    pub(super) traceparent: String,
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
    },
    /// Would fail the same way again.
    Permanent(Cause),
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

/// Text for people, from a template or built in.
pub(super) struct Text {
    /// The text.
    pub(super) text: String,
    /// Why the template that was meant was not used.
    pub(super) failed: Option<String>,
}

impl Try<'_> {
    /// The text of this delivery: by the rule's template, else by `own`, else the built-in line. A template that fails
    /// falls back to that line, which says so.
    pub(super) fn text(&self, own: Option<&str>) -> Text {
        let data = json::lenient(self.event.data());
        let Some(template) = self.delivery.template.as_deref().or(own) else {
            return Text { text: builtin::line(self.event, &data), failed: None };
        };
        match self.templates.render(template, &Scene::new(self.event, &data, &self.delivery.id, self.number)) {
            Ok(text) => Text { text, failed: None },
            Err(error) => Text {
                text: format!("{} (template `{template}` failed; this is the built-in line)", builtin::line(self.event, &data)),
                failed: Some(format!("template `{template}` failed: {error}")),
            },
        }
    }

    /// The body kept from an earlier attempt.
    pub(super) fn kept(&self) -> Option<Body> {
        let kept = self.delivery.body.as_ref()?;
        Some(Body { content_type: kept.content_type.clone(), bytes: kept.body.clone() })
    }
}

impl Tried {
    /// What an answer, or its absence, came to; `meaning` reads statuses.
    pub(super) fn new(answered: Result<Answer, Failure>, at: Timestamp, meaning: impl FnOnce(u16) -> Meaning) -> Self {
        match answered {
            Ok(answer) => Self::answered(answer, at, meaning),
            Err(failure) => Self::failed(failure),
        }
    }

    fn answered(answer: Answer, at: Timestamp, meaning: impl FnOnce(u16) -> Meaning) -> Self {
        let outcome = match meaning(answer.status) {
            Meaning::Delivered => Outcome::Delivered,
            Meaning::Permanent(cause) => Outcome::Permanent(cause),
            Meaning::Transient => Outcome::Retry {
                after: answer.retry_after.as_deref().and_then(|value| retry_after(value, at)),
                whole_lane: matches!(answer.status, 429 | 503),
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

    fn failed(failure: Failure) -> Self {
        let outcome = match failure.kind {
            FailureKind::Forbidden => Outcome::Permanent(Cause::Config),
            FailureKind::Request => Outcome::Permanent(Cause::Internal),
            _ => Outcome::Retry { after: None, whole_lane: false },
        };
        let (error, detail) = (Some(failure.kind.code().to_owned()), Some(failure.detail));
        Self { outcome, status: None, error, detail, response: Bytes::new(), rendered: None, template_failed: false }
    }

    /// Adds that `body` was made by a template just now, and how that went.
    pub(super) fn rendered(mut self, body: Body, failed: Option<String>) -> Self {
        self.template_failed = failed.is_some();
        if let Some(failed) = failed {
            self.detail = Some(self.detail.map_or_else(|| failed.clone(), |detail| format!("{detail}; {failed}")));
        }
        self.rendered = Some(Rendered { content_type: body.content_type, body: body.bytes });
        self
    }
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

/// Makes the next attempt of `due` at `destination`, and decides what it leaves the delivery as.
pub(super) async fn make(destination: &Destination, http: &Http, templates: &Templates, clock: &Clock, due: &Due) -> Settled {
    let began = Instant::now();
    let at = clock.now();
    let attempt = Try {
        event: &due.envelope,
        delivery: &due.delivery,
        number: due.delivery.attempts.saturating_add(1),
        at,
        deadline: began + destination.timeout,
        http,
        templates,
        traceparent: traceparent(due),
    };
    let tried = destination.kind.send(&attempt, destination.answers).await;
    settle(destination, &due.delivery, tried, at, clock.now(), began.elapsed())
}

/// What `tried` leaves `delivery` as.
fn settle(
    destination: &Destination,
    delivery: &Delivery,
    tried: Tried,
    at: Timestamp,
    now: Timestamp,
    duration: Duration,
) -> Settled {
    let number = delivery.attempts.saturating_add(1);
    let (next, hold) = match tried.outcome {
        Outcome::Delivered => (Next::Delivered, None),
        Outcome::Permanent(cause) => (Next::Dead(cause), None),
        Outcome::Retry { after, whole_lane } => {
            let not_before = after.map(|after| later(now, after.min(destination.retry_after_max)));
            let first = delivery.first_attempt_at.unwrap_or(at);
            let next = destination.retry.next(number, first, now, not_before, random());
            (next.map_or(Next::Dead(Cause::Receiver), Next::Retry), not_before.filter(|_| whole_lane))
        }
    };
    let attempt = Attempt {
        delivery: delivery.id,
        number,
        started_at: at,
        duration,
        status: tried.status,
        error: tried.error,
        detail: tried.detail,
        response: tried.response,
        next,
        // A body that arrived is not sent again.
        rendered: tried.rendered.filter(|_| next != Next::Delivered),
    };
    Settled { attempt, hold, template_failed: tried.template_failed }
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
    }
}

/// The trace of the event with a parent of its own per attempt (W3C Trace Context 1). An event without one has the trace
/// of its id here.
fn traceparent(due: &Due) -> String {
    let parent = hex(&draw().max(1).to_be_bytes());
    let given = due.envelope.traceparent.as_deref().filter(|text| text.is_ascii() && text.len() == 55);
    match given.and_then(|text| Some((text.get(..36)?, text.get(52..)?))) {
        Some((trace, flags)) => format!("{trace}{parent}{flags}"),
        None => format!("00-{:016x}{:016x}-{parent}-00", due.delivery.id.event.salt, due.delivery.id.event.seq),
    }
}

/// A number in `0..1`, so that retries of many deliveries do not fall together.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
fn random() -> f64 {
    (draw() >> 11) as f64 / (1_u64 << 53) as f64
}

/// 64 random bits; all zero when the system has none, which spoils no more than the spread.
fn draw() -> u64 {
    let mut bytes = [0; 8];
    let _ = SystemRandom::new().fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
