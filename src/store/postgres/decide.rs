//! Deciding about deliveries before they are tried: may they go, wait, gather, or not be sent at all. What throttles count is in
//! [`super::throttle`], what digests gather in [`super::digest`].

use std::collections::HashMap;

use super::{
    connect::{Answer, Pg},
    digest, lanes,
    rows::Cells,
    session::Session,
    text::Text,
    throttle,
};
use crate::{
    clock::{from_ms, to_ms},
    envelope::Name,
    store::{
        Ask, Cause, Decision, Handling, Hush, Stage, State, Wish,
        codes::{EXPIRED, SUPPRESSED, cause_code, stage as read_stage},
    },
};

/// What waits of those that are asked about (a cast, as in [`super::freely::FREELY`]), with what the rules want of it.
pub(super) const WAITING: &str = "SELECT d.place, d.stage, d.due_at, d.severity, d.cause, d.order_key, h.plan
    FROM unnest($1::bigint[]) AS u (at) JOIN deliveries d ON d.place = u.at LEFT JOIN handling h ON h.place = d.place AND d.stage = 1
    WHERE d.target_id = $2 AND d.state::int = 0";

/// Ends a delivery that waits without trying it; what it was before.
pub(super) const SET_ASIDE: &str =
    "UPDATE deliveries d SET state = $2::bigint, cause = $3::bigint, due_at = NULL, settled_at = $4, note = $5, carrier = NULL
    FROM (SELECT place, order_key, stage, carrier FROM deliveries WHERE place = $1 AND state = 0 FOR UPDATE) AS was
    WHERE d.place = was.place RETURNING was.order_key, was.stage, was.carrier";

/// Decides about `asks`; see [`crate::store::Store::decide`].
pub(super) async fn decide(session: &Session<'_>, target: &Name, asks: &[Ask], epoch: i64, now: i64) -> Answer<Vec<Decision>> {
    if session.is_stale(target, epoch).await? {
        return Ok(Ok(vec![Decision::Over; asks.len()]));
    }
    let target = session.target(target).await?;
    let mut desk = Desk { session, target, now, waiting: HashMap::new(), moved: false };
    desk.look(asks).await?;
    let mut decided = Vec::with_capacity(asks.len());
    for ask in asks {
        let ours = ask.delivery.event.salt == session.salt();
        decided.push(if ours { desk.one(ask).await? } else { Decision::Over });
    }
    Ok(Ok(decided))
}

/// One that waits.
#[derive(Clone)]
struct Waiting {
    stage: Stage,
    due_at: i64,
    severity: i64,
    /// Quiet hours held it until now.
    hushed: bool,
    order_key: Option<[u8; 16]>,
    plan: Handling,
}

/// What it takes to decide about deliveries of one lane.
struct Desk<'s> {
    session: &'s Session<'s>,
    target: i64,
    now: i64,
    /// Those that were asked about, as they stood when that was looked up.
    waiting: HashMap<i64, Waiting>,
    /// A decision since may have moved others of them: into a digest's lead, or to another time.
    moved: bool,
}

impl Desk<'_> {
    async fn look(&mut self, asks: &[Ask]) -> Pg<()> {
        let places: Vec<i64> = asks.iter().map(|ask| ask.delivery.place()).collect();
        for row in self.session.db.rows(WAITING, &[&places, &self.target]).await? {
            let mut cells = Cells::of(&row);
            let place = cells.int()?;
            let it = Waiting {
                stage: read_stage(cells.int()?),
                due_at: cells.some_int()?.unwrap_or(self.now),
                severity: cells.int()?,
                hushed: cells.some_int()? == Some(cause_code(Cause::Quiet)),
                order_key: cells.some_key()?,
                plan: read_plan(cells.take()?),
            };
            self.waiting.insert(place, it);
        }
        Ok(())
    }

    async fn one(&mut self, ask: &Ask) -> Pg<Decision> {
        let place = ask.delivery.place();
        if self.moved {
            self.waiting.remove(&place);
            self.look(std::slice::from_ref(ask)).await?;
        }
        let Some(it) = self.waiting.remove(&place) else { return Ok(Decision::Over) };
        self.moved |= matches!(it.stage, Stage::Gathering | Stage::Gathered | Stage::Carrying);
        match &ask.wish {
            Wish::Expire(reason) => self.set_aside(place, State::Expired, None, reason, 0).await,
            Wish::Suppress(cause, reason) => self.set_aside(place, State::Suppressed, Some(*cause), reason, 0).await,
            Wish::Decide(hush) => match it.stage {
                Stage::Undecided => self.by_rules(place, &it, hush).await,
                Stage::Gathering => self.digest(place, &it, hush).await,
                Stage::Carrying => self.carrying(place, &it, hush).await,
                Stage::Free | Stage::Passed => self.by_hours(place, &it, hush).await,
                Stage::Gathered => Ok(Decision::Over),
            },
        }
    }

    /// What its rules want, in this order: throttle, digest; and then the hours.
    async fn by_rules(&mut self, place: i64, it: &Waiting, hush: &Hush) -> Pg<Decision> {
        if let Some(reason) = throttle::full(self.session, self.target, place, &it.plan.throttles, self.now).await? {
            return self.set_aside(place, State::Suppressed, Some(Cause::Throttle), &reason, 0).await;
        }
        if let Some(digest) = it.plan.digest {
            let window = i64::try_from(digest.window.as_millis()).unwrap_or(i64::MAX);
            let ends_at = self.now.saturating_add(window);
            return self.gather(place, it, digest.key, ends_at, digest.max).await;
        }
        self.session.db.run("UPDATE deliveries SET stage = 2 WHERE place = $1", &[&place]).await?;
        self.by_hours(place, it, hush).await
    }

    async fn by_hours(&mut self, place: i64, it: &Waiting, hush: &Hush) -> Pg<Decision> {
        match hush {
            Hush::None => self.go(place, it, 0).await,
            Hush::Hold(until) => self.hold(place, to_ms(*until)).await,
            Hush::Gather(key, until) => self.gather(place, it, *key, to_ms(*until), crate::store::DIGEST_MAX).await,
            Hush::Drop(reason) => self.set_aside(place, State::Suppressed, Some(Cause::Quiet), reason, 0).await,
        }
    }

    /// A digest that gathers goes out when it ends; while it is quiet it waits on, and gathers.
    async fn digest(&mut self, place: i64, it: &Waiting, hush: &Hush) -> Pg<Decision> {
        if self.now < it.due_at {
            return Ok(Decision::Waits(from_ms(it.due_at)));
        }
        match hush {
            Hush::None => {
                let carries = digest::close(self.session, place, self.now).await?;
                self.go(place, it, carries).await
            }
            Hush::Hold(until) | Hush::Gather(_, until) => self.hold(place, to_ms(*until)).await,
            Hush::Drop(reason) => {
                let dropped = digest::drop_carried(self.session, place, self.now, reason).await?;
                self.set_aside(place, State::Suppressed, Some(Cause::Quiet), reason, dropped).await
            }
        }
    }

    /// One that was about to go, or that is tried again.
    async fn carrying(&mut self, place: i64, it: &Waiting, hush: &Hush) -> Pg<Decision> {
        match hush {
            Hush::Hold(until) | Hush::Gather(_, until) => self.hold(place, to_ms(*until)).await,
            Hush::None | Hush::Drop(_) => {
                let carries = digest::carries(self.session, place).await?;
                self.go(place, it, carries).await
            }
        }
    }

    async fn go(&self, place: i64, it: &Waiting, carries: u32) -> Pg<Decision> {
        if it.hushed {
            self.session.db.run("UPDATE deliveries SET cause = NULL WHERE place = $1", &[&place]).await?;
        }
        Ok(Decision::Go(carries))
    }

    async fn hold(&self, place: i64, until: i64) -> Pg<Decision> {
        let sql = "UPDATE deliveries SET due_at = $2, cause = 5 WHERE place = $1";
        self.session.db.run(sql, &[&place, &until]).await?;
        Ok(Decision::Waits(from_ms(until)))
    }

    async fn gather(&mut self, place: i64, it: &Waiting, key: [u8; 16], ends_at: i64, max: u32) -> Pg<Decision> {
        self.moved = true;
        let new = digest::New { target: self.target, key, place, severity: it.severity, ends_at, max, now: self.now };
        let due_at = digest::gather(self.session, &new).await?;
        // A digest lists its events in their order: what is gathered keeps nobody waiting.
        if let Some(order) = it.order_key {
            lanes::move_up(self.session, [(self.target, order)]).await?;
        }
        Ok(Decision::Waits(from_ms(due_at)))
    }

    async fn set_aside(&mut self, place: i64, state: State, cause: Option<Cause>, reason: &str, others: u32) -> Pg<Decision> {
        let code = if state == State::Expired { EXPIRED } else { SUPPRESSED };
        let ended = set_aside(self.session, self.target, place, &Aside { state: code, cause, reason, now: self.now }).await?;
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
pub(super) async fn set_aside(session: &Session<'_>, target: i64, place: i64, end: &Aside<'_>) -> Pg<bool> {
    let cause = end.cause.map(cause_code);
    let row = session.db.first(SET_ASIDE, &[&place, &end.state, &cause, &end.now, &Text::of(end.reason)]).await?;
    let Some(row) = row else { return Ok(false) };
    let mut cells = Cells::of(&row);
    let (order, stage, carrier) = (cells.some_key()?, read_stage(cells.int()?), cells.some_int()?);
    digest::leave(session, place, stage, carrier, end.now).await?;
    if let Some(order) = order {
        lanes::move_up(session, [(target, order)]).await?;
    }
    Ok(true)
}

/// What the rules want of the delivery at `place`.
pub(super) async fn plan(session: &Session<'_>, place: i64) -> Pg<Handling> {
    match session.db.first("SELECT plan FROM handling WHERE place = $1", &[&place]).await? {
        Some(row) => Ok(read_plan(row.try_get(0)?)),
        None => Ok(Handling::default()),
    }
}

/// What the rules want. What cannot be read wants nothing.
pub(super) fn read_plan(text: Option<&str>) -> Handling {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
