//! Taking quarantined requests in after all: with today's configuration, their timestamps held to their time of arrival.

use axum::http::Method;
use jiff::SignedDuration;

use super::{Failure, Inbound, Ingest, Place, doctor, request::Raw, sealed};
use crate::{
    clock::Timestamp,
    store::{self, Accepted, Filter, Page, Rejection, Retried},
};

/// Requests read from the quarantine at once; each may be as large as `server.max_body`.
const PAGE: u32 = 32;

/// What retrying rejections came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryReport {
    /// How many were tried.
    pub tried: u64,
    /// How many became events.
    pub accepted: u64,
    /// How many were events already.
    pub duplicates: u64,
    /// How many failed again.
    pub failed: u64,
}

/// Tries all that `filter` selects. Ends early, with what the store said, when the store fails: what is not settled stays.
pub(super) async fn retry(ingest: &Ingest, filter: Filter, offset: SignedDuration) -> Result<RetryReport, store::Error> {
    // What was rejected a moment ago may still be on its way into the store.
    ingest.quarantine.flush().await;
    // What fails while this runs is for the next run. (Times do not tell: our clock may have been ahead.)
    let newest = Filter { page: Page::Newest, limit: 1, ..Filter::default() };
    let end = ingest.store.rejections(newest).await?.first().map_or(0, |rejection| rejection.id);
    let most = u64::from(filter.limit);
    let mut report = RetryReport::default();
    let mut after = 0;
    loop {
        let page = Filter { page: Page::After(after), limit: PAGE, ..filter.clone() };
        let rejections = ingest.store.quarantined(page, after).await?;
        let Some(last) = rejections.last().map(|rejection| rejection.id) else { return Ok(report) };
        for rejection in &rejections {
            if end < rejection.id || most <= report.tried {
                return Ok(report);
            }
            one(ingest, rejection, offset, &mut report).await?;
        }
        after = last;
    }
}

async fn one(ingest: &Ingest, rejection: &Rejection, offset: SignedDuration, report: &mut RetryReport) -> store::Result<()> {
    let now = ingest.clock.now();
    report.tried += 1;
    let settled = match again(ingest, rejection, offset, now).await {
        Ok(Accepted::New { uid, .. }) => {
            report.accepted += 1;
            Retried::Accepted(uid)
        }
        Ok(Accepted::Duplicate { uid, .. }) => {
            report.duplicates += 1;
            Retried::Accepted(uid)
        }
        Err(Again::Store(error)) => return Err(error),
        Err(Again::Failed(reason)) => {
            report.failed += 1;
            Retried::Failed(reason)
        }
    };
    ingest.store.settle_rejection(rejection.id, now, settled).await
}

/// Why a retry came to nothing.
enum Again {
    /// The store fails.
    Store(store::Error),
    /// The request fails again, for this reason.
    Failed(String),
}

async fn again(ingest: &Ingest, rejection: &Rejection, offset: SignedDuration, now: Timestamp) -> Result<Accepted, Again> {
    let failed = |reason: &str| Again::Failed(reason.to_owned());
    let inbound = ingest.inbound.now();
    let bytes = rejection.rejection.sealed.as_deref().ok_or_else(|| failed("it is not kept whole"))?;
    let mut request = sealed::open(bytes, &inbound.sources, &ingest.sealer).map_err(|error| Again::Failed(error.to_string()))?;
    request.arrived_at = request.arrived_at.checked_add(offset).unwrap_or(request.arrived_at);
    take(ingest, &inbound, &request, now).await.map_err(|(failure, source)| match failure {
        Failure::Store(error) => Again::Store(error),
        Failure::Limited(_) | Failure::NoRoom => failed("too many requests"),
        Failure::Rejected(rejection) => {
            let source = source.and_then(|position| inbound.sources.get(position));
            let case = doctor::Case { request: &request, code: rejection.code, source, sources: &inbound.sources };
            Again::Failed(rejection.reason.map_or_else(|| doctor::diagnose(case), |reason| reason.into_owned()))
        }
    })
}

/// As [`Ingest::take`] does, but for the limits, which it met when it came.
async fn take(ingest: &Ingest, inbound: &Inbound, request: &Raw, now: Timestamp) -> Result<Accepted, (Failure, Option<usize>)> {
    let (position, source) = match inbound.place(&request.path) {
        Place::Source(position) => (position, inbound.sources.get(position)),
        Place::WrongSecret(position) => return Err((super::Code::NotFound.into(), Some(position))),
        Place::Nowhere => return Err((super::Code::NotFound.into(), None)),
    };
    let here = |failure| (failure, Some(position));
    let source = source.ok_or_else(|| here(super::Code::NotFound.into()))?;
    if request.method != Method::POST {
        return Err(here(super::Code::MethodNotAllowed.into()));
    }
    let verified = source.kind.verify(request, request.arrived_at).map_err(|rejection| here(rejection.into()))?;
    inbound.statistics.used(position, verified.secret(), now);
    let facts = source.kind.normalise(verified).map_err(|rejection| here(rejection.into()))?;
    let accepted = ingest.accept(inbound, source, facts, request, now).await.map_err(|error| here(Failure::Store(error)))?;
    inbound.statistics.accepted(position, &accepted, now);
    Ok(accepted)
}
