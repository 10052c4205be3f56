//! How a request looked, told afterwards: what is known of its headers, with secrets as `***`.

use super::Destination;
use crate::{
    clock::{Timestamp, rfc3339_s},
    envelope::Envelope,
    sign::outbound::webhook_id,
    store::Delivery,
};

/// Stands for a value that may be a secret, or that is not kept.
const MASKED: &str = "***";

impl Destination {
    /// The headers of attempt `number` at `at`, names in lower case: by today's settings of this destination. Signatures, and the
    /// values of headers that `routes.yaml` sets, are masked. Empty where
    /// deliveries do not go by HTTP.
    pub fn request_headers(&self, event: &Envelope, delivery: &Delivery, number: u32, at: Timestamp) -> Vec<(String, String)> {
        let mut headers = relay_headers(event, delivery, number);
        let Some(endpoint) = self.kind.endpoint() else { return Vec::new() };
        headers.extend(endpoint.header_names().into_iter().map(|name| {
            let value = match name.as_str() {
                "webhook-id" => webhook_id(event).into_owned(),
                "webhook-timestamp" => at.as_second().to_string(),
                "x-interactor-timestamp" => rfc3339_s(at),
                _ => MASKED.to_owned(),
            };
            (name, value)
        }));
        headers
    }
}

/// The headers that every request has, wherever it goes.
pub fn relay_headers(event: &Envelope, delivery: &Delivery, number: u32) -> Vec<(String, String)> {
    let mut headers = vec![
        ("user-agent", concat!("hookyard/", env!("CARGO_PKG_VERSION")).to_owned()),
        ("idempotency-key", delivery.id.to_string()),
        ("x-hookyard-delivery", delivery.id.to_string()),
        ("x-hookyard-attempt", number.to_string()),
    ];
    if event.replayed || delivery.replayed {
        headers.push(("x-hookyard-replayed", "true".to_owned()));
    }
    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
