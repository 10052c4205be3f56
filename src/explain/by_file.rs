//! What `routes.yaml` alone says would become of an event: for whoever edits it, with no relay running.

use data_encoding::BASE64;

use super::{Explanation, explanation, without_ended};
use crate::{
    announce::Announcer,
    clock::{Clock, Timestamp},
    config::Config,
    contacts::Contacts,
    deliver::{self, Site, preview::Workshop},
    envelope::Envelope,
    reconnect::{self, Reconnecting},
    route::Router,
    seal::Sealer,
    secret::Secret,
    store::NewDelivery,
};

/// A file, made ready to explain events by.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct ByFile {
    config: Config,
    router: Router,
    workshop: Workshop,
}

/// What no file tells.
const UNKNOWN: &str = "without a running relay nothing is known of subscriptions, of pauses, breakers and mutes, of what throttles have let \
     go and of what digests have gathered: --live asks the relay";

impl ByFile {
    /// Makes `config` ready. Must be called on a runtime. The error says why a client that it names cannot be made.
    pub fn new(config: Config) -> Result<Self, String> {
        let clock = Clock::system();
        let (announcer, _) = Announcer::new();
        let contacts = Contacts::start(config.contacts.clone(), &config.security.allow_targets, &clock, announcer, None)
            .map_err(|reason| format!("contacts_lookup: {reason}"))?;
        // Its links are masked: any key will do.
        let sealer = Sealer::new(&Secret::new(BASE64.encode(&[0; 32]))).map_err(|error| error.to_string())?;
        let reconnecting = Reconnecting::new(reconnect::Parts {
            settings: config.reconnect.as_ref(),
            public_url: config.server.public_url.clone(),
            allow_targets: &config.security.allow_targets,
            sealer,
            clock,
        });
        let mut templates = config.templates.clone();
        reconnect::add_template(config.reconnect.as_ref(), &mut templates);
        let site = Site {
            public_url: config.server.public_url.clone(),
            admin_url: config.server.admin_url.clone(),
            reconnecting: Some(reconnecting.map_err(|reason| format!("reconnect: {reason}"))?),
        };
        let workshop = Workshop::new(templates, &config.destinations, contacts, site);
        let router = Router::new(config.rules.clone(), config.unmatched.clone(), deliver::orders(&config.destinations))
            .with_audiences(deliver::audiences(&config.destinations));
        Ok(Self { config, router, workshop })
    }

    /// The file.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its rules.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Who stands behind a namespace by it.
    pub fn contacts(&self) -> &Contacts {
        self.workshop.contacts()
    }

    /// What would become of `event` at `now`, as far as the file tells.
    pub fn explain(&self, event: &Envelope, now: Timestamp) -> Explanation {
        let plan = self.router.plan(event);
        let preview = |planned: &NewDelivery| {
            let destination = self.config.destinations.iter().find(|it| it.name == planned.target)?;
            let planned = without_ended(planned, &plan);
            let preview = self.workshop.preview(destination, event, &planned, now);
            Some((planned, preview))
        };
        let previews = plan.deliveries.iter().filter_map(preview).collect();
        let mut answer = explanation(&self.router, &self.config.hash, event, &plan, previews, now);
        answer.unknown.push(UNKNOWN.to_owned());
        answer
    }
}
