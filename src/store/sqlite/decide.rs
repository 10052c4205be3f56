//! Deciding about deliveries before they are tried: may they go, wait, gather, or not be sent at all. What throttles count is in
//! [`super::throttle`], what digests gather in [`super::digest`].

use rusqlite::{Connection, OptionalExtension};

use super::{
    digest,
    lanes::{self, OrderKey},
    rows::{EXPIRED, SUPPRESSED, cause_code, stage as read_stage, stage_code},
    session::{Answer, Session},
    throttle,
};
use crate::{
    clock::{from_ms, to_ms},
    envelope::Name,
    store::{Ask, Cause, Decision, Handling, Hush, Stage, State, Wish},
};

/// What waits and is asked about.
pub(super) const WAITING: &str =
    "SELECT stage, due_at, severity, cause FROM deliveries WHERE place = ?1 AND target_id = ?2 AND state = 0";

/// Ends a delivery that waits without trying it.
pub(super) const SET_ASIDE: &str =
    "UPDATE deliveries SET state = ?2, cause = ?3, due_at = NULL, settled_at = ?4, note = ?5, carrier = NULL
    WHERE place = ?1 AND state = 0 RETURNING order_key, stage";

/// Decides about `asks`; see [`crate::store::Store::decide`].
pub(super) fn decide(session: &mut Session, target: &Name, asks: &[Ask], epoch: i64, now: i64) -> Answer<Vec<Decision>> {
    if session.owned.is_stale(epoch) {
        return Ok(Ok(vec![Decision::Over; asks.len()]));
    }
    let target = session.target_id(target)?;
    let salt = session.salt;
    let desk = Desk { conn: &session.conn, target, now };
    let one = |ask: &Ask| if ask.delivery.event.salt == salt { desk.one(ask) } else { Ok(Decision::Over) };
    asks.iter().map(one).collect::<rusqlite::Result<_>>().map(Ok)
}

/// One that waits.
struct Waiting {
    stage: Stage,
    due_at: i64,
    severity: i64,
    /// Quiet hours held it until now.
    hushed: bool,
}

/// What it takes to decide about deliveries of one lane.
struct Desk<'c> {
    conn: &'c Connection,
    target: i64,
    now: i64,
}

impl Desk<'_> {
    fn one(&self, ask: &Ask) -> rusqlite::Result<Decision> {
        let place = ask.delivery.place();
        let Some(it) = self.waiting(place)? else { return Ok(Decision::Over) };
        match &ask.wish {
            Wish::Expire(reason) => self.set_aside(place, State::Expired, None, reason),
            Wish::Suppress(cause, reason) => self.set_aside(place, State::Suppressed, Some(*cause), reason),
            Wish::Decide(hush) => match it.stage {
                Stage::Undecided => self.by_rules(place, &it, hush),
                Stage::Gathering => self.digest(place, &it, hush),
                Stage::Carrying => self.carrying(place, &it, hush),
                Stage::Free | Stage::Passed => self.by_hours(place, &it, hush),
                Stage::Gathered => Ok(Decision::Over),
            },
        }
    }

    fn waiting(&self, place: i64) -> rusqlite::Result<Option<Waiting>> {
        let mut look = self.conn.prepare_cached(WAITING)?;
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Waiting {
                stage: read_stage(row.get(0)?),
                due_at: row.get::<_, Option<i64>>(1)?.unwrap_or(self.now),
                severity: row.get(2)?,
                hushed: row.get::<_, Option<i64>>(3)? == Some(cause_code(Cause::Quiet)),
            })
        };
        look.query_row((place, self.target), read).optional()
    }

    /// What its rules want, in this order: throttle, digest; and then the hours.
    fn by_rules(&self, place: i64, it: &Waiting, hush: &Hush) -> rusqlite::Result<Decision> {
        let plan = plan(self.conn, place)?;
        if let Some(reason) = throttle::full(self.conn, self.target, place, &plan.throttles, self.now)? {
            return self.set_aside(place, State::Suppressed, Some(Cause::Throttle), &reason);
        }
        if let Some(digest) = plan.digest {
            let window = i64::try_from(digest.window.as_millis()).unwrap_or(i64::MAX);
            let ends_at = self.now.saturating_add(window);
            return self.gather(place, it, digest.key, ends_at, digest.max);
        }
        self.move_to(place, Stage::Passed)?;
        self.by_hours(place, it, hush)
    }

    fn by_hours(&self, place: i64, it: &Waiting, hush: &Hush) -> rusqlite::Result<Decision> {
        match hush {
            Hush::None => self.go(place, it, 0),
            Hush::Hold(until) => self.hold(place, to_ms(*until)),
            Hush::Gather(key, until) => self.gather(place, it, *key, to_ms(*until), crate::store::DIGEST_MAX),
            Hush::Drop(reason) => self.set_aside(place, State::Suppressed, Some(Cause::Quiet), reason),
        }
    }

    /// A digest that gathers goes out when it ends; while it is quiet it waits on, and gathers.
    fn digest(&self, place: i64, it: &Waiting, hush: &Hush) -> rusqlite::Result<Decision> {
        if self.now < it.due_at {
            return Ok(Decision::Waits(from_ms(it.due_at)));
        }
        match hush {
            Hush::None => {
                let carries = digest::close(self.conn, place, self.now)?;
                self.go(place, it, carries)
            }
            Hush::Hold(until) | Hush::Gather(_, until) => self.hold(place, to_ms(*until)),
            Hush::Drop(reason) => {
                let dropped = digest::drop_carried(self.conn, place, self.now, reason)?;
                self.set_aside_with(place, State::Suppressed, Some(Cause::Quiet), reason, dropped)
            }
        }
    }

    /// One that was about to go, or that is tried again.
    fn carrying(&self, place: i64, it: &Waiting, hush: &Hush) -> rusqlite::Result<Decision> {
        match hush {
            Hush::Hold(until) | Hush::Gather(_, until) => self.hold(place, to_ms(*until)),
            Hush::None | Hush::Drop(_) => self.go(place, it, digest::carries(self.conn, place)?),
        }
    }

    fn go(&self, place: i64, it: &Waiting, carries: u32) -> rusqlite::Result<Decision> {
        if it.hushed {
            self.conn.prepare_cached("UPDATE deliveries SET cause = NULL WHERE place = ?")?.execute([place])?;
        }
        Ok(Decision::Go(carries))
    }

    fn hold(&self, place: i64, until: i64) -> rusqlite::Result<Decision> {
        let sql = "UPDATE deliveries SET due_at = ?2, cause = ?3 WHERE place = ?1";
        self.conn.prepare_cached(sql)?.execute((place, until, cause_code(Cause::Quiet)))?;
        Ok(Decision::Waits(from_ms(until)))
    }

    fn gather(&self, place: i64, it: &Waiting, key: [u8; 16], ends_at: i64, max: u32) -> rusqlite::Result<Decision> {
        // A digest lists its events in their order: what is gathered keeps nobody waiting.
        let sql = "SELECT order_key FROM deliveries WHERE place = ?";
        let order: Option<OrderKey> = self.conn.prepare_cached(sql)?.query_row([place], |row| row.get(0))?;
        let due_at = digest::gather(
            self.conn,
            &digest::New { target: self.target, key, place, severity: it.severity, ends_at, max, now: self.now },
        )?;
        if let Some(order) = order {
            lanes::move_up(self.conn, self.target, &order)?;
        }
        Ok(Decision::Waits(from_ms(due_at)))
    }

    fn move_to(&self, place: i64, stage: Stage) -> rusqlite::Result<()> {
        let sql = "UPDATE deliveries SET stage = ?2 WHERE place = ?1";
        self.conn.prepare_cached(sql)?.execute((place, stage_code(stage))).map(|_| ())
    }

    fn set_aside(&self, place: i64, state: State, cause: Option<Cause>, reason: &str) -> rusqlite::Result<Decision> {
        self.set_aside_with(place, state, cause, reason, 0)
    }

    fn set_aside_with(
        &self,
        place: i64,
        state: State,
        cause: Option<Cause>,
        reason: &str,
        others: u32,
    ) -> rusqlite::Result<Decision> {
        let code = if state == State::Expired { EXPIRED } else { SUPPRESSED };
        let ended = set_aside(self.conn, self.target, place, &Aside { state: code, cause, reason, now: self.now })?;
        Ok(if ended { Decision::Ended { state, cause, others } } else { Decision::Over })
    }
}

/// How a delivery ends that is not tried.
pub(super) struct Aside<'r> {
    /// Its state.
    pub(super) state: i64,
    pub(super) cause: Option<Cause>,
    /// Why, for a person.
    pub(super) reason: &'r str,
    pub(super) now: i64,
}

/// Ends a delivery that waits without trying it: who stands behind it moves up, and the digest it is in goes on without it. False
/// when it does not wait.
pub(super) fn set_aside(conn: &Connection, target: i64, place: i64, end: &Aside<'_>) -> rusqlite::Result<bool> {
    // Asked before: who leaves a digest is no longer known to have been in it.
    let carrier = digest::carrier_of(conn, place)?;
    let mut update = conn.prepare_cached(SET_ASIDE)?;
    let row = (place, end.state, end.cause.map(cause_code), end.now, end.reason);
    let left = update.query_row(row, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((order, stage)): Option<(Option<OrderKey>, i64)> = left else { return Ok(false) };
    digest::leave(conn, place, read_stage(stage), carrier, end.now)?;
    if let Some(order) = order {
        lanes::move_up(conn, target, &order)?;
    }
    Ok(true)
}

/// What the rules want of the delivery at `place`. What cannot be read wants nothing.
pub(super) fn plan(conn: &Connection, place: i64) -> rusqlite::Result<Handling> {
    let mut look = conn.prepare_cached("SELECT plan FROM handling WHERE place = ?")?;
    let text: Option<String> = look.query_row([place], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}
