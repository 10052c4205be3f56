//! How lanes stand that other replicas work on, and what people ask those replicas to do to lanes of this one: both are read from the
//! records of lanes, as far as they are new.

use std::sync::{Arc, atomic::Ordering};

use super::{Deliver, desk, desk::Desk, seats::Seat, signs::Broken};
use crate::{
    envelope::Name,
    store::{self, Change, Record, RecordKind, Write},
};

impl Deliver {
    /// Takes note of what was recorded of lanes since this was last called.
    ///
    /// # Errors
    /// What the store says.
    pub async fn follow_lanes(&self) -> store::Result<()> {
        let seen = self.lanes_seen.load(Ordering::Relaxed);
        for record in self.store.records(RecordKind::Lane, seen).await? {
            self.lanes_seen.fetch_max(record.revision, Ordering::Relaxed);
            self.follow_lane(&record);
        }
        Ok(())
    }

    fn follow_lane(&self, record: &Record) {
        let (Some(doc), Some(name)) = (&record.doc, Name::parse(&record.id)) else { return };
        if let Some(desk) = self.roster.now().desk(&name) {
            return desk.learn(record.revision, doc);
        }
        if let Some(seat) = self.seats.get(&name) {
            self.follow_seated(&seat, &name, record.revision, doc);
        }
    }

    fn follow_seated(&self, seat: &Arc<Seat>, name: &Name, revision: i64, doc: &str) {
        let Some(desk) = self.desk_of(seat) else { return };
        let is_held = || desk.inbox.state().condition.held_since().is_some();
        let was_held = is_held();
        desk.learn(revision, doc);
        self.tell_of_breaker(&desk);
        if was_held && !is_held() {
            // Its lane may sleep, here too.
            self.rouse_seat(name);
        }
    }

    /// Tells the signs of a subscription whether its breaker is open, as its record says.
    pub(super) fn tell_of_breaker(&self, desk: &Desk) {
        let open = desk.inbox.state().condition.breaker.open().map(|open| open.since);
        match open {
            Some(since) => self.seats.signs.broke(desk.name(), Broken { since, by: None }),
            None => self.seats.signs.heals(desk.name()),
        }
    }

    /// Forgets how the lane of a subscription stood that is forgotten itself.
    ///
    /// # Errors
    /// What the store says.
    pub async fn forget_lane(&self, target: &Name) -> store::Result<()> {
        if let Some(record) = self.store.record_of(RecordKind::Lane, target.as_str()).await? {
            let removed = Write::Remove { kind: RecordKind::Lane, id: record.id, expected: record.revision };
            // Where another replica was faster, it has done the same.
            self.store.change(Change { writes: vec![removed], ..Change::default() }).await?;
        }
        self.store.remove_setting(&desk::key_of(target.as_str())).await
    }
}
