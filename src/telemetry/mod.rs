//! Logs and metrics: what the relay says about its work. Untrusted text is escaped in logs and capped as labels.

pub mod logs;
mod metrics;

pub use metrics::{Metrics, SUCCESS};
