//! Why something asked of subscriptions is not done.

use std::time::Duration;

use crate::{jobs, seal, store};

/// Why something asked of subscriptions is not done. What it says is for whoever asked; no secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is none of this id that the caller may know of.
    #[error("there is no webhook with this id")]
    NotFound,
    /// Something it was given cannot be.
    #[error("`{field}` {reason}")]
    Invalid {
        /// What kind of thing.
        what: What,
        /// The field, as the caller writes it.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are as many as there may be.
    #[error("there are {0} webhooks already, which is as many as there may be: delete one, or ask for more")]
    TooMany(u32),
    /// The system gives no random bytes, or what is sealed cannot be opened.
    #[error("the secret cannot be made or read now")]
    NoSecret,
    /// As many secrets sign as may at once; how long until the oldest of them ends.
    #[error("as many secrets sign as may at once: another can be made in {} s", seconds(*.0))]
    ManySecrets(Duration),
    /// Others are being released: this one can be enabled once some of them are done.
    #[error("too many webhooks are being released at once: try again in a while")]
    Releasing,
    /// Somebody else changes it at the same moment, over and over.
    #[error("somebody else has just changed this webhook: try again")]
    Raced,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The URL.
    Url,
    /// The events.
    Events,
    /// Anything else.
    Request,
}

impl Refused {
    /// The stable code of the answer (Interactor webhooks guide, "Webhook API Errors").
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "webhook_not_found",
            Self::Invalid { what: What::Url, .. } => "invalid_url",
            Self::Invalid { what: What::Events, .. } => "invalid_events",
            Self::Invalid { what: What::Request, .. } => "invalid_request",
            Self::TooMany(_) => "max_webhooks_exceeded",
            Self::NoSecret => "invalid_secret_format",
            Self::ManySecrets(_) => "rate_limited",
            Self::Releasing | Self::Raced | Self::Store(_) => "unavailable",
        }
    }

    /// How long to wait before it is asked again, in seconds, where that is known.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ManySecrets(wait) => Some(seconds(*wait)),
            _ => None,
        }
    }

    /// The field that is wrong, where one is.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    pub(super) fn url(field: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { what: What::Url, field: field.to_owned(), reason: reason.into() }
    }

    pub(super) fn events(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: What::Events, field: field.into(), reason: reason.into() }
    }

    pub(super) fn request(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: What::Request, field: field.into(), reason: reason.into() }
    }
}

/// Whole seconds, none too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(0 < wait.subsec_nanos())
}

impl From<seal::Error> for Refused {
    fn from(error: seal::Error) -> Self {
        tracing::error!(%error, "the secrets of a subscription cannot be sealed or opened");
        Self::NoSecret
    }
}

impl From<jobs::BeginError> for Refused {
    fn from(error: jobs::BeginError) -> Self {
        match error {
            jobs::BeginError::TooMany(_) => Self::Releasing,
            jobs::BeginError::Store(error) => Self::Store(error),
        }
    }
}
