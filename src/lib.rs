//! Hookyard takes webhooks in, proves who sent them, turns them into one envelope, keeps them, and fans them out by the rules in one
//! file. The rooms, in the order an event walks through them:
//!
//! - [`envelope`]: the event as plain data.
//! - [`config`]: `routes.yaml` to typed values, or every problem with its place.
//! - [`sign`]: every signing scheme, making and checking.
//! - [`ingest`]: limit, verify, normalise, plan, accept.
//! - [`route`]: which rules match an event, and why.
//! - [`schedule`]: named windows of the week.
//! - [`store`]: what is on disk.
//! - [`contacts`]: who stands behind a namespace.
//! - [`deliver`]: lanes, attempts, retries, dead letters.
//! - [`subscriptions`]: ways out registered by API, and what becomes of them.
//! - [`render`]: templates and their escapes.
//! - [`reconnect`]: signed links that mend an expired credential, and their page.
//! - [`rehearsal`]: `tests:` of the file, run by the same code as events and without a network.
//! - [`explain`]: what would become of an event, and why.
//! - [`jobs`]: many deliveries retried, cancelled or replayed at once.
//! - [`rekey`]: what is sealed under former keys, sealed anew.
//! - [`generations`]: which configuration is the newest of those that replicas go by.
//! - `replicas`: what others that share the store have changed.
//! - [`reload`]: another file in the place of the one the relay goes by.
//! - [`announce`]: what the relay tells of itself.
//! - [`access`]: who may do what.
//! - [`api`]: the HTTP API over the store.
//! - [`cli`]: one file per verb.
//! - [`app`]: puts the rooms together.

pub mod access;
pub mod announce;
pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contacts;
pub mod deliver;
pub mod envelope;
pub mod explain;
pub mod generations;
pub mod housekeeping;
pub mod ingest;
pub mod jobs;
pub mod json;
pub mod listen;
pub mod live;
mod rate;
pub mod reconnect;
pub mod rehearsal;
pub mod rekey;
pub mod reload;
pub mod render;
mod replicas;
pub mod route;
mod samples;
pub mod schedule;
pub mod seal;
pub mod secret;
pub mod sign;
pub mod store;
pub mod subscriptions;
pub mod telemetry;
