//! What a lane does with reports on what its target has taken: they end an attempt that was recorded as taken.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Lane, UnderWay, recording::announce_death};
use crate::deliver::{attempt::Made, inbox::Handed, reports::Report};

impl Lane {
    /// Settles what was reported, whether the lane sends or not.
    pub(super) fn take_reports(&mut self) {
        let reports = std::mem::take(&mut self.inbox.state().reports);
        for report in reports {
            self.reported(report);
        }
    }

    fn reported(&mut self, report: Report) {
        let Report { due, at, tried, reply } = report;
        let still_ms = due.delivery.stood_still_ms;
        let handed = Arc::new(Handed::read(due));
        let it = UnderWay {
            handed,
            today: self.today.clone(),
            probe: false,
            at,
            began: Instant::now(),
            still_ms,
            epoch: self.lease.map_or(0, |lease| lease.epoch),
        };
        let attempt = self.settle(&it, Made { tried, at, duration: Duration::ZERO });
        let (store, inbox, parts) = (self.store.clone(), self.inbox.clone(), self.parts.clone());
        let name = self.name().clone();
        self.chores.spawn(async move {
            let (next, error) = (attempt.next, attempt.error.clone());
            match store.reported(attempt).await {
                Ok(waited) => {
                    if waited {
                        inbox.recorded(&it.handed.due.delivery, next);
                        inbox.bell.notify_one();
                        announce_death(&parts.announcer, &name, next, error, &it.handed.due);
                    }
                    // Whoever asked may have gone.
                    let _ = reply.send(waited);
                }
                Err(error) => tracing::warn!(target.name = %name, %error, "a report cannot be kept now"),
            }
        });
    }
}
