//! Which scope each route needs, and which routes a caller that is bound to namespaces may use at all. A route that is not in the table
//! needs `admin`; a test holds the table and the routers together.

use axum::http::Method;

use crate::access::{Caller, Scope};

/// What a route needs of whoever asks: nothing, or a token with all of these scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// No token.
    Nothing,
    /// A token with all of them.
    Scopes(&'static [Scope]),
}

use Needs::{Nothing, Scopes};
use Scope::{
    Admin, ConfigRead, ConfigWrite, DeliveriesRead, DeliveriesWrite, EventsRead, WebhooksDelete, WebhooksRead, WebhooksWrite,
};

/// Every route: its method, its path as the router writes it, what it needs. `HEAD` needs what `GET` does.
pub(super) const ROUTES: &[(Method, &str, Needs)] = &[
    (Method::GET, "/healthz", Nothing),
    (Method::GET, "/readyz", Nothing),
    (Method::GET, "/metrics", Nothing),
    // The same for every relay of this version.
    (Method::GET, "/api/openapi.json", Nothing),
    (Method::GET, "/api/docs", Nothing),
    (Method::POST, "/callbacks/twilio/{destination}", Nothing),
    (Method::GET, "/api/v1/events", Scopes(&[EventsRead])),
    (Method::GET, "/api/v1/events/{uid}", Scopes(&[EventsRead])),
    (Method::GET, "/api/v1/stream", Scopes(&[EventsRead])),
    (Method::POST, "/api/sse-token", Scopes(&[EventsRead])),
    (Method::GET, "/api/v1/deliveries", Scopes(&[DeliveriesRead])),
    (Method::GET, "/api/v1/deliveries/{id}", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/deliveries/{id}/retry", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/deliveries/{id}/cancel", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/dead-letters", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/dead-letters/retry", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/dead-letters/{id}", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/dead-letters/{id}/retry", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/dead-letters/{id}/resolve", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/replays", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/replays", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/replays/{id}", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/replays/{id}/cancel", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/erasures", Scopes(&[Admin])),
    (Method::GET, "/api/v1/jobs", Scopes(&[DeliveriesRead])),
    (Method::GET, "/api/v1/jobs/{id}", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/jobs/{id}/cancel", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/targets", Scopes(&[DeliveriesRead])),
    (Method::GET, "/api/v1/targets/{name}", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/targets/{name}/pause", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/targets/{name}/resume", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/targets/{name}/close", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/targets/{name}/test", Scopes(&[DeliveriesWrite])),
    (Method::POST, "/api/v1/targets/{name}/cancel", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/mutes", Scopes(&[DeliveriesRead])),
    (Method::POST, "/api/v1/mutes", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/mutes/{id}", Scopes(&[DeliveriesRead])),
    (Method::DELETE, "/api/v1/mutes/{id}", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/sources", Scopes(&[EventsRead])),
    (Method::POST, "/api/v1/sources/{name}/poll", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/rejections", Scopes(&[EventsRead])),
    (Method::POST, "/api/v1/rejections/retry", Scopes(&[DeliveriesWrite])),
    (Method::GET, "/api/v1/tokens", Scopes(&[Admin])),
    (Method::POST, "/api/v1/tokens", Scopes(&[Admin])),
    (Method::GET, "/api/v1/tokens/{id}", Scopes(&[Admin])),
    (Method::DELETE, "/api/v1/tokens/{id}", Scopes(&[Admin])),
    (Method::GET, "/api/v1/audit", Scopes(&[Admin])),
    (Method::GET, "/api/v1/webhooks", Scopes(&[WebhooksRead])),
    (Method::POST, "/api/v1/webhooks", Scopes(&[WebhooksWrite])),
    (Method::GET, "/api/v1/webhooks/event-types", Scopes(&[WebhooksRead])),
    (Method::GET, "/api/v1/webhooks/samples", Scopes(&[WebhooksRead])),
    (Method::GET, "/api/v1/webhooks/{id}", Scopes(&[WebhooksRead])),
    (Method::PUT, "/api/v1/webhooks/{id}", Scopes(&[WebhooksWrite])),
    (Method::PATCH, "/api/v1/webhooks/{id}", Scopes(&[WebhooksWrite])),
    (Method::DELETE, "/api/v1/webhooks/{id}", Scopes(&[WebhooksDelete])),
    (Method::POST, "/api/v1/webhooks/{id}/toggle", Scopes(&[WebhooksWrite])),
    (Method::POST, "/api/v1/webhooks/{id}/regenerate-secret", Scopes(&[WebhooksWrite])),
    (Method::GET, "/api/v1/webhooks/{id}/events", Scopes(&[WebhooksRead])),
    (Method::GET, "/api/v1/webhooks/{id}/deliveries", Scopes(&[WebhooksRead])),
    (Method::POST, "/api/v1/webhooks/{id}/test", Scopes(&[WebhooksWrite])),
    (Method::GET, "/api/webhooks", Scopes(&[WebhooksRead])),
    (Method::POST, "/api/webhooks", Scopes(&[WebhooksWrite])),
    (Method::GET, "/api/webhooks/{id}", Scopes(&[WebhooksRead])),
    (Method::DELETE, "/api/webhooks/{id}", Scopes(&[WebhooksDelete])),
    (Method::GET, "/api/webhooks/{id}/deliveries", Scopes(&[WebhooksRead])),
    (Method::POST, "/api/v1/secrets/rekey", Scopes(&[Admin])),
    // Both show events beside what the file makes of them.
    (Method::POST, "/api/v1/explain", Scopes(&[ConfigRead, EventsRead])),
    (Method::GET, "/api/v1/config/backtest", Scopes(&[ConfigRead, EventsRead])),
    (Method::GET, "/api/v1/config", Scopes(&[ConfigRead])),
    // What is sent may include files of the relay's machine, and its problems show lines of them.
    (Method::POST, "/api/v1/config/check", Scopes(&[ConfigWrite])),
    (Method::POST, "/api/v1/config/reload", Scopes(&[ConfigWrite])),
    (Method::GET, "/api/v1/replicas", Scopes(&[ConfigRead])),
];

/// All that a caller bound to namespaces may use, and what is below: whatever else there is knows no namespaces.
const BOUND: [&str; 8] = [
    "/api/v1/events",
    "/api/v1/deliveries",
    "/api/v1/dead-letters",
    "/api/v1/jobs",
    "/api/v1/webhooks",
    "/api/webhooks",
    "/api/v1/stream",
    "/api/sse-token",
];

/// What the route needs that the router has found for a request.
pub(super) fn needs(method: &Method, path: &str) -> Needs {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut rows = ROUTES.iter().filter(|(_, template, _)| *template == path);
    // That a path takes no other method is told to whoever may ask at all.
    let otherwise = match rows.clone().next() {
        Some(_) if rows.clone().all(|(.., needs)| *needs == Nothing) => Nothing,
        Some(_) => Scopes(&[]),
        None => Scopes(&[Admin]),
    };
    rows.find(|(known, ..)| known == method).map_or(otherwise, |(.., needs)| *needs)
}

/// Whether `caller` may use the route at `path`, which needs `needs`; if not, why not.
pub(super) fn allow(caller: &Caller, path: &str, needs: Needs) -> Result<(), String> {
    let Scopes(scopes) = needs else { return Ok(()) };
    if let Some(missing) = scopes.iter().find(|scope| !caller.may(**scope)) {
        return Err(format!("this needs a token with the scope `{missing}`"));
    }
    if caller.is_bound() && !BOUND.iter().any(|open| is_below(path, open)) {
        return Err("a token that is bound to namespaces cannot use this".to_owned());
    }
    Ok(())
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::api::tests::{Fake, api};

    /// The routes of a router, read from what it prints of itself: axum has no other way to ask for them.
    pub(in crate::api) fn routes(router: &axum::Router) -> BTreeSet<(String, String)> {
        let text = format!("{router:?}");
        let (mut paths, mut methods) = (BTreeMap::new(), BTreeMap::new());
        let (own, _) = text.split_once(", fallback_router: ").unwrap();
        for part in own.split("RouteId(").skip(1) {
            let (id, rest) = part.split_once(')').unwrap();
            let rest = rest.trim_start_matches([':', ' ']);
            if let Some(path) = rest.strip_prefix('"') {
                paths.insert(id, path.split_once('"').unwrap().0);
            } else if let Some((_, allow)) = rest.split_once("allow_header: Bytes(b\"") {
                methods.insert(id, allow.split_once('"').unwrap().0);
            }
        }
        let each = methods.iter().flat_map(|(id, methods)| methods.split(',').map(move |method| (id, method)));
        each.filter(|(_, method)| *method != "HEAD").map(|(id, method)| (method.to_owned(), paths[id].to_owned())).collect()
    }

    #[tokio::test]
    async fn the_table_holds_every_route_there_is_and_no_other() {
        let api = || api(std::sync::Arc::new(Fake::default()));
        let public = routes(&api().public(|| true, axum::Router::new()));
        let there: BTreeSet<_> = routes(&api().admin()).union(&public).cloned().collect();
        assert!(30 < there.len() && 4 < public.len(), "the router tells nothing of itself any more");
        let table: Vec<_> = ROUTES.iter().map(|(method, path, _)| (method.to_string(), (*path).to_owned())).collect();
        assert_eq!(table.iter().cloned().collect::<BTreeSet<_>>(), there);
        assert_eq!(table.len(), there.len(), "a route stands in the table twice");
        // Outside of `/api` no token is looked at.
        assert!(ROUTES.iter().all(|(_, path, needs)| path.starts_with("/api/") || *needs == Nothing));
    }

    #[test]
    fn what_is_not_in_the_table_is_for_admins() {
        assert_eq!(needs(&Method::PUT, "/api/v1/events"), Scopes(&[]), "405 for whoever may ask");
        assert_eq!(needs(&Method::HEAD, "/api/v1/events"), Scopes(&[EventsRead]));
        assert_eq!(needs(&Method::GET, "/api/v1/nothing"), Scopes(&[Admin]));
        assert_eq!(needs(&Method::TRACE, "/api/openapi.json"), Nothing);
    }

    #[test]
    fn bound_callers_stay_within() {
        let bound = Caller { namespaces: Some(BTreeSet::new()), ..Caller::bootstrap() };
        for (_, path, needs) in ROUTES {
            let open = *needs == Nothing || BOUND.iter().any(|open| is_below(path, open));
            assert_eq!(allow(&bound, path, *needs).is_ok(), open, "{path}");
            assert!(allow(&Caller::bootstrap(), path, *needs).is_ok());
        }
        assert!(allow(&bound, "/api/v1/eventsx", Scopes(&[])).is_err());
    }
}
