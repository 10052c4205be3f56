//! Where a subscription goes: a webhook like those of `routes.yaml`, made of values that were checked when it was registered.

use std::{collections::BTreeMap, time::Duration};

use hyper::header::HeaderMap;
use url::Url;

use super::{
    CONCURRENCY, Destination, RETRY_AFTER_MAX, TIMEOUT,
    answers::{Answers, Reading, StatusRules},
    endpoint::{Endpoint, custom_header, header_value},
    kinds::{Kind, Webhook},
    retry::Policy,
};
use crate::{
    clock::Timestamp,
    config::decode::Rate,
    envelope::Name,
    secret::Secret,
    sign::outbound::{Scheme, Signing},
};

/// What a subscription's deliveries go by.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// Its id.
    pub name: Name,
    /// Where it goes.
    pub url: Url,
    /// Headers that go along.
    pub headers: BTreeMap<String, Secret>,
    /// Whether certificates are checked.
    pub verify_tls: bool,
    /// Whether it is asked for its consent before anything is sent to it.
    pub handshake: bool,
    /// How requests are signed; `standard` is left out where the current secret does not fit it.
    pub schemes: Vec<Scheme>,
    /// The current secret first, which has no end, and former ones with theirs.
    pub secrets: Vec<(Secret, Option<Timestamp>)>,
    /// Longest time for one attempt; `None`: 30 s.
    pub timeout: Option<Duration>,
    /// When deliveries are tried again.
    pub retry: Policy,
    /// How much is sent at most.
    pub rate_limit: Option<Rate>,
}

impl Destination {
    /// The way out of a subscription. Answers are read by the forgiving table: a workflow that is edited must not lose events. `None`: no
    /// request can carry its URL.
    pub fn of_subscription(it: Subscribed) -> Option<Self> {
        let signing = Signing::lasting(it.schemes, &it.secrets);
        let headers: HeaderMap = it
            .headers
            .iter()
            .filter_map(|(name, value)| Some((custom_header(name).ok()?, header_value(value.reveal())?)))
            .collect();
        let endpoint = Endpoint::of(it.url, headers, it.verify_tls, signing)?.asked_first(it.handshake);
        Some(Self {
            name: it.name,
            kind: Kind::Webhook(Webhook::of_envelopes(endpoint)),
            timeout: it.timeout.unwrap_or(TIMEOUT),
            concurrency: CONCURRENCY,
            retry: it.retry,
            answers: Reading { table: Answers::Default, rules: StatusRules::default() },
            retry_after_max: RETRY_AFTER_MAX,
            rate_limit: it.rate_limit,
            order_by: None,
            renamed_from: None,
            ttl: None,
            quiet: None,
        })
    }
}
