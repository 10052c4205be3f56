//! Counting anew what bodies and answers take. What is in use is counted as it comes and goes: where that has gone astray, `max_bytes` would
//! refuse events for which there is room, and nothing would ever end that.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{
    connect::{Db, Pg, is_lost},
    partitions::{is_alone, number_of, within},
    session::Shared,
};

/// How often that is done: it is a walk over two tables.
const EVERY: Duration = Duration::from_hours(24);
/// How often where nothing more comes in.
const EVERY_FULL: Duration = Duration::from_mins(10);
/// How long after its start a process does it for the first time: one that is started again and again walks no more often for that.
const FIRST: Duration = Duration::from_hours(1);

/// When this process did it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recounts {
    began: Instant,
    last: Option<Instant>,
}

impl Default for Recounts {
    fn default() -> Self {
        Self { began: Instant::now(), last: None }
    }
}

impl Recounts {
    fn is_due(&self, full: bool) -> bool {
        match self.last {
            Some(last) => (if full { EVERY_FULL } else { EVERY }) <= last.elapsed(),
            None => full || FIRST <= self.began.elapsed(),
        }
    }
}

/// What is there beyond what is counted, both at one moment: whoever writes the one writes the other in the same commit.
const ASTRAY: &str = "SELECT (SELECT coalesce(sum(octet_length(body) + coalesce(octet_length(progress), 0)), 0)::bigint FROM bodies)
    + (SELECT coalesce(sum(octet_length(response)), 0)::bigint FROM attempts) - (SELECT coalesce(sum(bytes), 0)::bigint FROM usage)";

/// Counts it anew when it is time for that.
///
/// # Errors
/// Only when the connection is lost: what the database refuses is said, and tried again the next time.
pub(super) async fn recount(db: &Db, shared: &Shared) -> Pg<()> {
    {
        let mut room = shared.room.lock().unwrap_or_else(PoisonError::into_inner);
        if !room.recounts.is_due(room.exhausted) {
            return Ok(());
        }
        room.recounts.last = Some(Instant::now());
    }
    match within(db, put_right(db)).await {
        Ok(0) => Ok(()),
        Ok(astray) => {
            tracing::warn!(
                astray,
                "bodies and answers were counted anew: they take {astray} bytes more than was counted (fewer, where that is below zero)"
            );
            Ok(())
        }
        Err(error) if is_lost(&error) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "what bodies and answers take cannot be counted anew");
            Ok(())
        }
    }
}

/// By how much it was wrong; nothing is done where somebody else is at it.
async fn put_right(db: &Db) -> Pg<i64> {
    if !is_alone(db).await? {
        return Ok(0);
    }
    db.script("SET LOCAL statement_timeout = 0; SET LOCAL enable_seqscan = on").await?;
    let astray = number_of(db, ASTRAY).await?;
    if astray != 0 {
        db.run("UPDATE usage SET bytes = bytes + $1 WHERE slot = 0", &[&astray]).await?;
    }
    Ok(astray)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_refuses_events_is_counted_at_once_and_then_less_often() {
        let mut recounts = Recounts::default();
        assert!(!recounts.is_due(false) && recounts.is_due(true));
        recounts.last = Some(Instant::now());
        assert!(!recounts.is_due(false) && !recounts.is_due(true));
    }
}
