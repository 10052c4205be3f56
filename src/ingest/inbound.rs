//! What requests go by: sources, limits, rules and bounds of one file, made ready. It never changes; another file makes another.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use axum::http::HeaderName;

use super::{
    WaysIn,
    answer::Limited,
    dedupe,
    kinds::Proof,
    limits::{Client, FAILURES, Keyed},
    request::Raw,
    source::Source,
    statistics::Statistics,
};
use crate::{clock::Clock, config::decode::Rate, envelope::Name, route::Router, seal::Sealer, sign};

/// Where a request's path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the source at this position.
    Source(usize),
    /// Nearly: the path secret of the source at this position is wrong.
    WrongSecret(usize),
    /// To no source.
    Nowhere,
}

/// The ways in of one file.
pub(super) struct Inbound {
    pub(super) sources: Arc<[Source]>,
    /// Positions of sources by their whole path.
    paths: HashMap<String, usize>,
    /// Positions of sources with a path secret, by the path before it.
    secret_paths: HashMap<String, usize>,
    /// `rate_limit` of each source.
    pub(super) rates: Vec<Option<Arc<Keyed<()>>>>,
    /// `failure_limit` of each source; the last one is for paths of no source.
    failures: Vec<Arc<Keyed<Client>>>,
    pub(super) statistics: Statistics,
    /// The headers by which the senders of all sources are proven.
    pub(super) proofs: HashSet<HeaderName>,
    pub(super) router: Arc<Router>,
    pub(super) max_body: usize,
    pub(super) remember_ids: Duration,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

impl Inbound {
    /// What `ways_in` says, made ready. Limits that are as they were in `former`, and counts, are shared with it: requests that go by
    /// that still count.
    pub(super) fn new(ways_in: WaysIn, former: Option<&Self>, clock: &Clock, sealer: &Sealer) -> Self {
        let WaysIn { sources, router, max_body, retention_events } = ways_in;
        let sources: Arc<[Source]> = sources.into();
        let paths = |secret: bool| {
            let fitting = sources.iter().enumerate().filter(move |(_, source)| source.has_path_secret() == secret);
            fitting.filter_map(|(position, source)| Some((source.path.clone()?, position))).collect()
        };
        let rate = |source: &Source| {
            let rate = source.rate_limit?;
            let known = former.and_then(|former| former.rates.get(former.position(&source.name)?)?.clone());
            Some(unchanged(known, rate, clock))
        };
        let failures = |source: &Source| {
            let known = former.and_then(|former| former.failures.get(former.position(&source.name)?).cloned());
            unchanged(known, source.failure_limit, clock)
        };
        let of_nobody = unchanged(former.and_then(|former| former.failures.last().cloned()), FAILURES, clock);
        Self {
            paths: paths(false),
            secret_paths: paths(true),
            rates: sources.iter().map(rate).collect(),
            failures: sources.iter().map(failures).chain([of_nobody]).collect(),
            statistics: Statistics::new(&sources, former.map(|it| (&*it.sources, &it.statistics)), sealer, clock.now()),
            proofs: proofs(&sources),
            remember_ids: retention_events.max(dedupe::ID_MIN),
            sources,
            router,
            max_body,
        }
    }

    /// Where `path` leads. Secrets are compared in constant time.
    pub(super) fn place(&self, path: &str) -> Place {
        if let Some(position) = self.paths.get(path) {
            return Place::Source(*position);
        }
        let Some((before, given)) = path.rsplit_once('/') else { return Place::Nowhere };
        let Some(position) = self.secret_paths.get(before) else { return Place::Nowhere };
        let secrets = self.sources.get(*position).map_or(&[][..], |source| source.kind.path_secrets());
        let same = |secret: &crate::secret::Secret| sign::same(secret.reveal().as_bytes(), given.as_bytes());
        if secrets.iter().fold(false, |fits, secret| same(secret) | fits) {
            Place::Source(*position)
        } else {
            Place::WrongSecret(*position)
        }
    }

    /// Counts a failing request of a client against `failure_limit`.
    pub(super) fn count_failure(&self, source: Option<usize>, request: &Raw) -> Result<(), Limited> {
        let limit = self.failures.get(source.unwrap_or(self.sources.len()));
        limit.map_or(Ok(()), |limit| limit.take(&Client::of(request.peer)))
    }

    pub(super) fn position(&self, name: &Name) -> Option<usize> {
        self.sources.iter().position(|source| source.name == *name)
    }
}

/// The limiter that is `known` where it lets the same through, else a new one.
fn unchanged<K: std::hash::Hash + Eq + Clone>(known: Option<Arc<Keyed<K>>>, rate: Rate, clock: &Clock) -> Arc<Keyed<K>> {
    known.filter(|known| known.rate() == rate).unwrap_or_else(|| Arc::new(Keyed::new(rate, clock)))
}

fn proofs(sources: &[Source]) -> HashSet<HeaderName> {
    let headers = sources.iter().flat_map(|source| match source.kind.proof() {
        Proof::Hmac(proof) => proof.headers,
        Proof::Static { header, .. } => vec![header],
        Proof::None => Vec::new(),
    });
    headers.cloned().collect()
}
