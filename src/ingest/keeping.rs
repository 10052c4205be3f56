//! Keeping what is counted of the sources: one record of the store, to which every replica adds what came in by it, and from which it learns
//! what came in by the others.

use crate::{
    clock::Timestamp,
    envelope::Name,
    store::{self, Change, Changed, Record, RecordKind, Store, Write},
};

use super::{
    inbound::Inbound,
    statistics::{Book, Whose},
};

/// Where older versions kept them, among the settings.
const FORMERLY: &str = "sources.statistics";
/// The record's id.
const ID: &str = "sources";
/// How often a record is written again that another replica was faster than.
const TRIES: u32 = 10;

/// The record as it was last read or written.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    book: Book,
    /// `None`: there is none yet.
    revision: Option<i64>,
}

impl Keeping {
    /// Goes on counting where former runs, and other replicas, stopped.
    pub(super) async fn restore(&mut self, store: &dyn Store, inbound: &Inbound, now: Timestamp) -> store::Result<()> {
        let record = store.record_of(RecordKind::Sources, ID).await?;
        match record {
            Some(record) => {
                self.take(record);
                inbound.statistics.restore(&inbound.sources, &self.book, true, now);
            }
            // What one process kept there, one takes up.
            None => {
                let text = if store.is_shared() { None } else { store.setting(FORMERLY).await? };
                inbound.statistics.restore(&inbound.sources, &read(text.as_deref()), false, now);
            }
        }
        Ok(())
    }

    /// Adds what came in here, where anything did (`is_dirty`), and takes up what came in elsewhere.
    pub(super) async fn exchange(
        &mut self,
        store: &dyn Store,
        inbound: &Inbound,
        is_dirty: bool,
        owns: &(dyn Fn(&Name) -> bool + Send + Sync),
        now: Timestamp,
    ) -> store::Result<()> {
        let (statistics, sources) = (&inbound.statistics, &*inbound.sources);
        let whose = Whose { owns, shared: store.is_shared() };
        if whose.shared {
            self.look(store).await?;
        }
        if !is_dirty {
            statistics.adopt(sources, (&self.book, &self.book), &whose, now);
            return Ok(());
        }
        for _ in 0..TRIES {
            let sum = statistics.sum(sources, &self.book, &whose);
            if let Some(revision) = self.put(store, &sum).await? {
                statistics.adopt(sources, (&self.book, &sum), &whose, now);
                (self.book, self.revision) = (sum, Some(revision));
                return Ok(());
            }
            self.look(store).await?;
        }
        Err(store::Error::Full("others count the sources at the same moment".into()))
    }

    /// Reads the record, where others have written it.
    async fn look(&mut self, store: &dyn Store) -> store::Result<()> {
        let known = self.revision.unwrap_or_default();
        let records = store.records(RecordKind::Sources, known).await?;
        records.into_iter().filter(|record| record.id == ID).for_each(|record| self.take(record));
        Ok(())
    }

    fn take(&mut self, record: Record) {
        (self.book, self.revision) = (read(record.doc.as_deref()), Some(record.revision));
    }

    /// Writes the record; its revision, unless another replica was faster.
    async fn put(&self, store: &dyn Store, book: &Book) -> store::Result<Option<i64>> {
        // Names, words and numbers can always be written.
        let doc = serde_json::to_string(book).unwrap_or_default();
        let (kind, id) = (RecordKind::Sources, ID.to_owned());
        let write = Write::Put { kind, id, owner: String::new(), doc, sealed: None, expected: self.revision };
        match store.change(Change { writes: vec![write], ..Change::default() }).await? {
            Changed::Done { revision } => Ok(Some(revision)),
            Changed::Conflict | Changed::TooMany => Ok(None),
        }
    }
}

fn read(text: Option<&str>) -> Book {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
