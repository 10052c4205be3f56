//! What lanes go by: made of a subscription when its lane needs it.

use super::{
    Subscriptions,
    model::{Dialect, Subscription},
    secrets::Secrets,
};
use crate::{
    deliver::{Destination, Outlet, Outlets, Subscribed, retry::Policy},
    envelope::Name,
    sign::outbound::Scheme,
};

impl Outlets for Subscriptions {
    fn outlet(&self, target: &Name) -> Option<Outlet> {
        let known = self.known();
        let subscription = &known.get(target)?.subscription;
        Some(Outlet { url: subscription.masked_url(), off: subscription.off_since() })
    }

    fn destination(&self, target: &Name) -> Result<Destination, String> {
        let kept = self.kept(target).ok_or("it is not kept")?;
        let secrets = Secrets::open(&kept.sealed, target, &self.parts.sealer).map_err(|error| error.to_string())?;
        let it = &kept.subscription;
        let subscribed = Subscribed {
            name: it.id.clone(),
            url: it.url.clone(),
            headers: secrets.headers,
            verify_tls: it.verify_tls,
            handshake: it.handshake,
            schemes: schemes(it.dialect),
            secrets: secrets.signing,
            timeout: it.timeout,
            retry: retry(it),
            rate_limit: it.release.as_ref().map(super::Release::rate),
        };
        Destination::of_subscription(subscribed).ok_or_else(|| "no request can carry its URL".to_owned())
    }
}

fn schemes(dialect: Dialect) -> Vec<Scheme> {
    match dialect {
        Dialect::Interactor => vec![Scheme::Standard, Scheme::Interactor],
        Dialect::Honeyframe => vec![Scheme::Honeyframe, Scheme::Standard],
    }
}

/// When its deliveries are tried again: as the API that made it promises, or as often as its maker says.
fn retry(it: &Subscription) -> Policy {
    match (it.max_retries, it.dialect) {
        (Some(retries), _) => Policy { max_attempts: Some(retries.saturating_add(1)), ..Policy::agent() },
        (None, Dialect::Interactor) => Policy::interactor(),
        (None, Dialect::Honeyframe) => Policy::honeyframe(),
    }
}
