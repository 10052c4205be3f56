//! All that one file decides, made ready at once: what can fail has failed before anything of it is used.

use std::sync::Arc;

use super::StartError;
use crate::{
    announce::Announcer,
    clock::{Clock, Timestamp},
    config::Config,
    contacts::Contacts,
    deliver::{self, Site},
    ingest,
    reconnect::{self, Reconnecting},
    route::{Router, Subscribers},
    seal::Sealer,
};

/// What the relay goes by until another file takes its place. It never changes.
#[derive(Debug)]
pub struct Generation {
    /// What the file says.
    pub config: Arc<Config>,
    /// Since when it holds.
    pub loaded_at: Timestamp,
    /// Its rules, ready to plan with.
    pub router: Arc<Router>,
    contacts: Arc<Contacts>,
}

/// What stays whatever the file says.
pub(super) struct Fixed {
    pub(super) clock: Clock,
    pub(super) announcer: Announcer,
    pub(super) sealer: Sealer,
    pub(super) subscribers: Subscribers,
}

/// What is made of a file, for each room its own.
pub(super) struct Built {
    pub(super) generation: Generation,
    pub(super) ways_in: ingest::WaysIn,
    pub(super) ways_out: deliver::WaysOut,
    pub(super) reconnecting: Arc<Reconnecting>,
    pub(super) asked: ingest::poll::Prepared,
}

impl Built {
    /// Makes `config` ready, to take the place of `former`.
    pub(super) fn of(config: Config, fixed: &Fixed, former: Option<&Generation>) -> Result<Self, StartError> {
        let allow_targets = config.security.allow_targets.clone();
        let router = Router::new(config.rules.clone(), config.unmatched.clone(), deliver::orders(&config.destinations));
        let router = router.with_audiences(deliver::audiences(&config.destinations));
        let router = Arc::new(router.with_subscribers(fixed.subscribers.clone()));
        let known = former.map(|former| &*former.contacts);
        let contacts = Contacts::start(config.contacts.clone(), &allow_targets, &fixed.clock, fixed.announcer.clone(), known);
        let contacts = contacts.map_err(StartError::Contacts)?;
        let reconnecting = Reconnecting::new(reconnect::Parts {
            settings: config.reconnect.as_ref(),
            public_url: config.server.public_url.clone(),
            allow_targets: &allow_targets,
            sealer: fixed.sealer.clone(),
            clock: fixed.clock.clone(),
        });
        let reconnecting = reconnecting.map_err(StartError::Reconnect)?;
        let mut templates = config.templates.clone();
        reconnect::add_template(config.reconnect.as_ref(), &mut templates);
        let ways_out = deliver::WaysOut {
            destinations: config.destinations.clone(),
            templates,
            contacts: contacts.clone(),
            allow_targets,
            site: Site {
                public_url: config.server.public_url.clone(),
                admin_url: config.server.admin_url.clone(),
                reconnecting: Some(reconnecting.clone()),
            },
        };
        let ways_in = ingest::WaysIn {
            sources: config.sources.clone(),
            router: router.clone(),
            max_body: config.server.max_body,
            retention_events: config.store.retention.events,
        };
        let asked = ingest::poll::Prepared::new(&config.sources, &config.security.allow_targets).map_err(StartError::Poll)?;
        let loaded_at = fixed.clock.now();
        Ok(Self {
            generation: Generation { config: Arc::new(config), loaded_at, router, contacts },
            ways_in,
            ways_out,
            reconnecting,
            asked,
        })
    }
}
