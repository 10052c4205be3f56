//! Bodies that were made for deliveries, kept with the first attempt that needs them again.

use tokio_postgres::types::ToSql;

use super::{
    connect::{Db, Pg},
    text::Text,
};
use crate::store::{Attempt, Rendered};

/// Keeps bodies where none is kept yet; answers how many bytes of them there are more.
pub(super) const BODIES: &str = "WITH kept AS (INSERT INTO bodies (place, content_type, body, reached)
        SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bool[]) ON CONFLICT DO NOTHING RETURNING octet_length(body) AS n)
    SELECT coalesce(sum(n), 0)::bigint FROM kept";
/// Likewise one, with what is left to be done of it.
pub(super) const BODY: &str =
    "INSERT INTO bodies (place, content_type, body, progress, reached) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING
    RETURNING (octet_length(body) + coalesce(octet_length(progress), 0))::bigint";
/// Keeps one in the place of what is kept; answers how many bytes more that is, or fewer. What a statement writes it does not see.
pub(super) const BODY_ANEW: &str =
    "WITH was AS (SELECT octet_length(body) + coalesce(octet_length(progress), 0) AS n FROM bodies WHERE place = $1),
        kept AS (INSERT INTO bodies AS b (place, content_type, body, progress, reached) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (place) DO UPDATE SET content_type = excluded.content_type, body = excluded.body,
                progress = excluded.progress, reached = b.reached OR excluded.reached
            RETURNING octet_length(b.body) + coalesce(octet_length(b.progress), 0) AS n)
    SELECT (n - coalesce((SELECT n FROM was), 0))::bigint FROM kept";

/// Bodies of which nothing is left to be done, by column.
pub(super) struct Bodies<'a> {
    place: Vec<i64>,
    content_type: Vec<Text<'a>>,
    body: Vec<&'a [u8]>,
    reached: Vec<bool>,
}

impl<'a> Bodies<'a> {
    /// Those that were made for `attempts`.
    pub(super) fn of(attempts: &[&'a Attempt]) -> Self {
        let plain: Vec<(i64, &Rendered)> = attempts
            .iter()
            .filter_map(|attempt| {
                Some((attempt.delivery.place(), attempt.rendered.as_ref().filter(|made| made.progress.is_none())?))
            })
            .collect();
        Self {
            place: plain.iter().map(|(place, _)| *place).collect(),
            content_type: plain.iter().map(|(_, made)| Text::of(&made.content_type)).collect(),
            body: plain.iter().map(|(_, made)| &*made.body).collect(),
            reached: plain.iter().map(|(_, made)| made.reached).collect(),
        }
    }

    /// Whether none was made.
    pub(super) fn is_empty(&self) -> bool {
        self.place.is_empty()
    }

    /// As values of [`BODIES`].
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.place, &self.content_type, &self.body, &self.reached]
    }
}

/// Whether what is left to be done of a message is kept with `attempt`.
pub(super) fn progresses(attempt: &Attempt) -> bool {
    attempt.rendered.as_ref().is_some_and(|made| made.progress.is_some())
}

/// Keeps the bodies that were made for deliveries that attempts have moved; answers how many bytes more are kept now.
pub(super) async fn keep_bodies(db: &Db, attempts: &[&Attempt]) -> Pg<i64> {
    let (bodies, mut more) = (Bodies::of(attempts), 0);
    if !bodies.is_empty() {
        more += db.first(BODIES, &bodies.params()).await?.map_or(Ok(0), |row| row.try_get::<_, i64>(0))?;
    }
    for attempt in attempts.iter().filter(|attempt| progresses(attempt)) {
        more += keep_body(db, attempt, true).await?;
    }
    Ok(more)
}

/// Keeps the body that was made for the delivery, once: later attempts send the same bytes. What they left to be done is kept anew
/// each time, unless (`moves`) a former owner of the lane says so: it knows less. Answers how many bytes more are kept now, or fewer.
pub(super) async fn keep_body(db: &Db, attempt: &Attempt, moves: bool) -> Pg<i64> {
    let Some(made) = &attempt.rendered else { return Ok(0) };
    let sql = if made.progress.is_some() && moves { BODY_ANEW } else { BODY };
    let (place, kind) = (attempt.delivery.place(), Text::of(&made.content_type));
    let more = db.first(sql, &[&place, &kind, &&*made.body, &made.progress.as_deref(), &made.reached]).await?;
    more.map_or(Ok(0), |row| row.try_get(0))
}
