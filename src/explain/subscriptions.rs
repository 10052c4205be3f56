//! What the subscriptions make of an event, as answers show it.

use serde::Serialize;
use utoipa::ToSchema;

use crate::route::{Taken, Takers};

/// Which subscriptions take an event; of very many only some are named.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedSubscriptions)]
pub struct SubscriptionsItem {
    /// How many there are.
    total: usize,
    /// How many of them take it.
    taking: usize,
    /// Those that take it first, then those that came nearest.
    some: Vec<SubscriptionItem>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExplainedSubscription)]
struct SubscriptionItem {
    subscription: String,
    takes: bool,
    /// Why it does not.
    reason: Option<String>,
}

impl From<Takers> for SubscriptionsItem {
    fn from(takers: Takers) -> Self {
        Self { total: takers.total, taking: takers.taking, some: takers.some.into_iter().map(SubscriptionItem::from).collect() }
    }
}

impl From<Taken> for SubscriptionItem {
    fn from(taken: Taken) -> Self {
        Self { subscription: taken.subscription.to_string(), takes: taken.reason.is_none(), reason: taken.reason }
    }
}
