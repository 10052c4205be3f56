//! What is sealed under former encryption keys, sealed anew under today's: secrets of subscriptions, and quarantined requests. Slice by
//! slice, each in commits of its own; what is under today's key is left alone, so that it goes on wherever it was broken off.

use crate::{
    ingest,
    seal::Sealer,
    store::{self, Change, Changed, Filter, Page, Record, RecordKind, Store, Write},
};

/// Kept requests looked at in one slice; each may be as large as `server.max_body`.
const PAGE: u32 = 64;
/// Subscriptions written in one commit.
const BATCH: usize = 100;
/// How often a commit is tried in which somebody else has just changed something.
const TRIES: usize = 3;

/// What a slice came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slice {
    /// Of subscriptions; all of them are in the first slice.
    pub subscriptions: Counted,
    /// Of quarantined requests.
    pub rejections: Counted,
    /// Behind what the next slice goes on. `None`: that was the last one.
    pub next: Option<i64>,
}

/// How many things of one sort there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Sealed anew.
    pub sealed: u64,
    /// Under today's key already.
    pub current: u64,
    /// Under a key that is not known: left as they are.
    pub closed: u64,
}

/// How many of the subscriptions' secrets open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// Under one of the keys.
    pub opened: u64,
    /// Under none.
    pub closed: u64,
}

/// Tries the keys on what the store keeps of subscriptions.
///
/// # Errors
/// The store's.
pub async fn opened(store: &dyn Store, sealer: &Sealer) -> store::Result<Opened> {
    Ok(opens(&store.records(RecordKind::Subscription, 0).await?, sealer))
}

/// The same of records that were read.
pub fn opens(records: &[Record], sealer: &Sealer) -> Opened {
    let mut count = Opened::default();
    for record in records {
        let Some(sealed) = &record.sealed else { continue };
        match sealer.open(sealed, place(record).as_bytes()) {
            Ok(_) => count.opened += 1,
            Err(_) => count.closed += 1,
        }
    }
    count
}

/// Seals anew the secrets of all subscriptions that a former key sealed.
///
/// # Errors
/// The store's; what was done before stays done.
pub async fn subscriptions(store: &dyn Store, sealer: &Sealer) -> store::Result<Counted> {
    let mut sealed = 0;
    for _ in 0..TRIES {
        let (count, whole) = pass(store, sealer, sealed).await?;
        if whole {
            return Ok(count);
        }
        // Whatever was changed meanwhile is looked at as it is now.
        sealed = count.sealed;
    }
    Err(store::Error::Backend("subscriptions are changed by others all the time".into()))
}

/// Goes through all subscriptions once; not to the end when somebody else has changed one meanwhile. `before` were sealed in passes before.
async fn pass(store: &dyn Store, sealer: &Sealer, before: u64) -> store::Result<(Counted, bool)> {
    let records = store.records(RecordKind::Subscription, 0).await?;
    let mut count = Counted { sealed: before, ..Counted::default() };
    let mut writes = Vec::new();
    for record in records {
        match anew(record, sealer) {
            Anew::Current => count.current += 1,
            Anew::Closed => count.closed += 1,
            Anew::Write(write) => writes.push(write),
        }
    }
    while !writes.is_empty() {
        let batch: Vec<_> = writes.drain(..writes.len().min(BATCH)).collect();
        let sealed = batch.len() as u64;
        match store.change(Change { writes: batch, ..Change::default() }).await? {
            Changed::Done { .. } => count.sealed += sealed,
            Changed::Conflict | Changed::TooMany => return Ok((count, false)),
        }
    }
    Ok((count, true))
}

/// What is to be done about one subscription.
enum Anew {
    Current,
    Closed,
    Write(Write),
}

fn anew(record: Record, sealer: &Sealer) -> Anew {
    let place = place(&record);
    let (Some(sealed), Some(doc)) = (record.sealed, record.doc) else { return Anew::Current };
    if sealer.is_current(&sealed) {
        return Anew::Current;
    }
    let plain = sealer.open(&sealed, place.as_bytes()).map(zeroize::Zeroizing::new);
    match plain.and_then(|plain| sealer.seal(&plain, place.as_bytes())) {
        Ok(sealed) => {
            let (kind, id, owner, expected) = (record.kind, record.id, record.owner, Some(record.revision));
            Anew::Write(Write::Put { kind, id, owner, doc, sealed: Some(sealed.into()), expected })
        }
        Err(_) => Anew::Closed,
    }
}

/// What a subscription's secrets belong to; see [`crate::subscriptions`].
fn place(record: &Record) -> String {
    format!("subscription:{}", record.id)
}

/// Seals anew a slice of the quarantined requests behind `after`; `subscriptions` is what came of those.
///
/// # Errors
/// The store's; what was done before stays done.
pub async fn slice(store: &dyn Store, sealer: &Sealer, after: i64, subscriptions: Counted) -> store::Result<Slice> {
    let kept = store.quarantined(Filter { page: Page::After(after), limit: PAGE, ..Filter::default() }, after).await?;
    let next = kept.last().map(|last| last.id);
    let (mut rejections, mut resealed) = (Counted::default(), Vec::new());
    for rejection in kept {
        let sealed = rejection.rejection.sealed.unwrap_or_default();
        if sealer.is_current(&sealed) {
            rejections.current += 1;
        } else if let Ok(anew) = ingest::seal_anew(&sealed, sealer) {
            resealed.push((rejection.id, anew));
        } else {
            rejections.closed += 1;
        }
    }
    if !resealed.is_empty() {
        rejections.sealed = store.reseal_rejections(resealed).await?;
    }
    Ok(Slice { subscriptions, rejections, next })
}

impl std::ops::AddAssign for Counted {
    fn add_assign(&mut self, more: Self) {
        self.sealed += more.sealed;
        self.current += more.current;
        self.closed += more.closed;
    }
}
