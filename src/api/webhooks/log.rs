//! What was delivered to one subscription, and how: its deliveries with their attempts, newest first, filtered and in pages.

use std::collections::HashMap;

use crate::{
    api::{
        Api, deliveries,
        error::ApiError,
        list::{self, Params},
    },
    clock::{Timestamp, later},
    envelope::{DeliveryId, Name},
    store::{self, Attempt, Delivery, DeliveryRow, Filter, Page, State},
};

/// What a log is asked by.
pub(super) const PARAMS: [&str; 7] = ["status", "type", "code", "since", "until", "limit", "after"];

/// Deliveries that are read at once.
const CHUNK: u32 = 200;
/// Deliveries that one page looks at, at most: where few fit, `next` goes on behind them.
const LOOKED_AT: u32 = 5_000;
/// The newest deliveries among which the last attempt of a subscription is looked for first.
const NEWEST: u32 = 20;

/// How a delivery stands, in Interactor's words (product.md, "Subscriptions and the admin listener").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// The receiver took it.
    Delivered,
    /// The last attempt failed, or it is given up, cancelled or expired.
    Failed,
    /// Not tried yet.
    Pending,
}

impl Status {
    /// Every status and its word.
    pub(super) const ALL: [(&str, Self); 3] =
        [("delivered", Self::Delivered), ("failed", Self::Failed), ("pending", Self::Pending)];

    /// That of `delivery`.
    pub(super) fn of(delivery: &Delivery) -> Self {
        match delivery.state {
            State::Delivered => Self::Delivered,
            State::Pending if delivery.attempts == 0 => Self::Pending,
            _ => Self::Failed,
        }
    }

    /// Its word.
    pub(super) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, status)| *status == self).map_or("", |(word, _)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, status)| *status)
    }
}

/// One delivery with its attempts, the first one first.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) row: DeliveryRow,
    pub(super) attempts: Vec<Attempt>,
}

impl Entry {
    pub(super) fn status(&self) -> Status {
        Status::of(&self.row.delivery)
    }

    pub(super) fn last(&self) -> Option<&Attempt> {
        self.attempts.last()
    }
}

/// When `attempt` was over.
pub(super) fn ended_at(attempt: &Attempt) -> Timestamp {
    later(attempt.started_at, attempt.duration)
}

/// What is wanted of a log.
#[derive(Debug)]
pub(super) struct Wanted {
    filter: Filter,
    status: Option<Status>,
    code: Option<u16>,
}

impl Wanted {
    /// Reads a query; a page has at most `limit_max` entries.
    pub(super) fn read(query: Option<&str>, target: &Name, limit_max: u32) -> Result<Self, ApiError> {
        let mut params = Params::repeating(query, &PARAMS, &["type"])?;
        let status = params.take_as("status", "`delivered`, `failed` or `pending`", Status::parse)?;
        let code = params.take_as("code", "the status of an answer: 100 to 599", code)?;
        let filter = list::filter(&mut params, deliveries::place_of)?;
        let state = (status == Some(Status::Delivered)).then_some(State::Delivered);
        let limit = filter.limit.min(limit_max);
        Ok(Self { filter: Filter { target: Some(target.to_string()), state, limit, ..filter }, status, code })
    }

    fn fits(&self, entry: &Entry) -> bool {
        let answered = |code| entry.last().and_then(|attempt| attempt.status) == Some(code);
        self.status.is_none_or(|status| entry.status() == status) && self.code.is_none_or(answered)
    }
}

/// The words of every status.
pub(super) fn words() -> Vec<&'static str> {
    Status::ALL.map(|(word, _)| word).to_vec()
}

fn code(text: &str) -> Option<u16> {
    text.parse().ok().filter(|code| (100..600).contains(code))
}

/// A page of a log.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) entries: Vec<Entry>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

/// The page that is `wanted`.
pub(super) async fn page(api: &Api, wanted: &Wanted) -> store::Result<Logged> {
    let limit = usize::try_from(wanted.filter.limit).unwrap_or(usize::MAX);
    let (mut entries, mut page, mut looked_at): (Vec<Entry>, _, _) = (Vec::new(), wanted.filter.page, 0);
    let mut more = true;
    while entries.len() <= limit && looked_at < LOOKED_AT {
        let rows = api.store.subscribed(Filter { page, limit: CHUNK, ..wanted.filter.clone() }).await?;
        let Some(last) = rows.last().map(|row| row.delivery.id.place()) else {
            more = false;
            break;
        };
        looked_at += CHUNK;
        page = match page {
            Page::After(_) => Page::After(last),
            Page::Newest | Page::Before(_) => Page::Before(last),
        };
        let ended = rows.len() < CHUNK as usize;
        entries.extend(with_attempts(api, rows).await?.into_iter().filter(|entry| wanted.fits(entry)));
        if ended {
            more = false;
            break;
        }
    }
    if limit < entries.len() {
        entries.truncate(limit);
        let last = entries.last().map_or(0, |entry| entry.row.delivery.id.place());
        (page, more) = (if let Page::After(_) = page { Page::After(last) } else { Page::Before(last) }, true);
    }
    let next = match page {
        // In commit order there may always be more one day.
        Page::After(place) => Some(format!("a{place}")),
        Page::Before(place) if more => Some(format!("b{place}")),
        Page::Newest | Page::Before(_) => None,
    };
    Ok(Logged { entries, next })
}

async fn with_attempts(api: &Api, rows: Vec<DeliveryRow>) -> store::Result<Vec<Entry>> {
    let tried = rows.iter().filter(|row| 0 < row.delivery.attempts).map(|row| row.delivery.id).collect();
    let mut attempts: HashMap<DeliveryId, Vec<Attempt>> = HashMap::new();
    for attempt in api.store.attempts_of(tried).await? {
        attempts.entry(attempt.delivery).or_default().push(attempt);
    }
    let entry = |row: DeliveryRow| Entry { attempts: attempts.remove(&row.delivery.id).unwrap_or_default(), row };
    Ok(rows.into_iter().map(entry).collect())
}

/// The newest delivery to `target` that was tried, with its attempts.
pub(super) async fn last(api: &Api, target: &Name) -> store::Result<Option<Entry>> {
    let of = |state, limit| Filter { target: Some(target.to_string()), state, limit, ..Filter::default() };
    let tried = |rows: Vec<DeliveryRow>| rows.into_iter().find(|row| 0 < row.delivery.attempts);
    let mut found = tried(api.store.subscribed(of(None, NEWEST)).await?);
    if found.is_none() {
        // Very many may be waiting: it may have been switched off for long.
        for state in [State::Delivered, State::Dead] {
            let newest = tried(api.store.subscribed(of(Some(state), 1)).await?);
            let place = |row: &DeliveryRow| row.delivery.id.place();
            found = found.into_iter().chain(newest).max_by_key(place);
        }
    }
    Ok(with_attempts(api, found.into_iter().collect()).await?.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_or_told_what_is_wrong_with_it() {
        let read = |query: &str| Wanted::read(Some(query), &"wh_a".into(), 100);
        let wanted = read("status=delivered&code=503&type=a.b&limit=900&after=b7&since=2026-01-20T12:00:00Z").unwrap();
        assert_eq!((wanted.status, wanted.code, wanted.filter.limit), (Some(Status::Delivered), Some(503), 100));
        assert_eq!((wanted.filter.state, wanted.filter.page), (Some(State::Delivered), Page::Before(7)));
        assert_eq!(wanted.filter.target.as_deref(), Some("wh_a"));
        for bad in ["status=dead", "code=99", "code=600", "code=x", "since=now", "limit=0", "after=x", "target=crm", "state=dead"]
        {
            assert!(matches!(read(bad), Err(ApiError::Invalid(_))), "{bad}");
        }
    }
}
