//! What the processes of one store tell each other: at most one notification for each commit, and a look now and then for those that
//! were missed. One that is alone says nothing; whoever comes says so.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{Db, Pg, Pool},
    owners,
    session::Shared,
    text::Text,
    tls::Tls,
    url::Place,
};
use crate::envelope::Name;

/// How often is looked for what no notification told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long is waited for until a connection for notifications is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// Targets that one notification names; of more it says that there are many (PostgreSQL takes 8,000 bytes).
const NAMED_MAX: usize = 256;
/// What says so.
const MANY: &str = "*";
/// Goes before targets of which something ended.
const ENDED: char = '!';
/// Says that there are shards to take.
const FREED: &str = "shards";

/// Says that its process has come.
const CAME: &str = "here";

/// Where the processes of the store with this salt hear each other.
pub(super) fn channel(salt: u64) -> String {
    format!("hookyard_{salt:016x}")
}

/// What a process tells the others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said<'t> {
    /// There is something new for these targets.
    New(&'t [i64]),
    /// Something that waited for these targets does so no more.
    Ended(&'t [i64]),
    /// There are shards that can be taken.
    Freed,
    /// It is there: from now on it is to be told.
    Came,
}

impl Said<'_> {
    /// The notification of the process with this voice.
    pub(super) fn by(self, voice: u64) -> String {
        match self {
            Self::New(targets) => format!("{voice:016x} {}", named(targets)),
            Self::Ended(targets) => format!("{voice:016x} {ENDED}{}", named(targets)),
            Self::Freed => format!("{voice:016x} {FREED}"),
            Self::Came => format!("{voice:016x} {CAME}"),
        }
    }
}

fn named(targets: &[i64]) -> String {
    let mut targets = targets.to_vec();
    targets.sort_unstable();
    targets.dedup();
    if NAMED_MAX < targets.len() {
        return MANY.to_owned();
    }
    targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Targets that were named, or more than were named.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Some(HashSet<i64>),
    All,
}

impl Default for Named {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

impl Named {
    fn of(text: &str) -> Option<Self> {
        match text {
            MANY => Some(Self::All),
            _ => text.split(',').map(|id| id.parse().ok()).collect::<Option<_>>().map(Self::Some),
        }
    }

    fn and(&mut self, other: Self) {
        match (self, other) {
            (Self::Some(some), Self::Some(more)) => some.extend(more),
            (all, _) => *all = Self::All,
        }
    }
}

/// What other processes said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Heard {
    new: Named,
    ended: Named,
    freed: bool,
}

impl Heard {
    /// Of whatever may have been said while nobody listened.
    fn anything() -> Self {
        Self { new: Named::All, ended: Named::All, freed: true }
    }

    /// Adds what `text` says; false: it is our own, or nobody's.
    fn hears(&mut self, voice: u64, text: &str) -> bool {
        let Some((whose, what)) = text.split_once(' ') else { return false };
        if whose == format!("{voice:016x}") {
            return false;
        }
        if what == FREED || what == CAME {
            self.freed |= what == FREED;
            return true;
        }
        let (into, targets) = match what.strip_prefix(ENDED) {
            Some(targets) => (&mut self.ended, targets),
            None => (&mut self.new, what),
        };
        let named = Named::of(targets);
        let heard = named.is_some();
        named.into_iter().for_each(|named| into.and(named));
        heard
    }
}

/// Hears what other processes commit, until it is stopped.
pub(super) struct News {
    pub(super) place: Place,
    pub(super) tls: Tls,
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Arc<Shared>,
    pub(super) stop: CancellationToken,
}

impl News {
    /// Runs until it is stopped.
    pub(super) async fn run(self) {
        let _ = self.stop.run_until_cancelled(self.hear()).await;
    }

    async fn hear(&self) {
        loop {
            // What was said while nobody listened is not said again.
            self.look(Some(Heard::anything())).await;
            let _ = self.listen().await;
            tokio::time::sleep(AGAIN).await;
            self.look(None).await;
        }
    }

    /// Listens over one connection until that is lost.
    async fn listen(&self) -> Pg<()> {
        let (client, mut connection) = self.place.config.connect(self.tls.clone()).await?;
        let (tx, mut said) = tokio::sync::mpsc::channel(NAMED_MAX);
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(it) = message
                    // What finds no room is found by the look that follows.
                    && tx.try_send(it.payload().to_owned()).is_err()
                    && tx.is_closed()
                {
                    return;
                }
            }
        });
        let channel = channel(self.shared.reading.salt);
        // Those who were alone learn that they are not.
        let came = Said::Came.by(self.shared.voice);
        client.batch_execute(&format!("LISTEN {channel}; NOTIFY {channel}, '{came}'")).await?;
        let mut looked = Instant::now();
        while !client.is_closed() {
            let mut heard = None;
            if let Ok(first) = tokio::time::timeout(LOOK_EVERY, said.recv()).await {
                let Some(first) = first else { break };
                let (mut next, mut all, mut any) = (Some(first), Heard::default(), false);
                while let Some(text) = next {
                    any |= all.hears(self.shared.voice, &text);
                    next = said.try_recv().ok();
                }
                heard = any.then_some(all);
                if any {
                    self.shared.heard();
                }
            }
            // However much is said, what nobody says is looked for too.
            let due = LOOK_EVERY <= looked.elapsed();
            if due {
                looked = Instant::now();
                self.look_for_shards().await;
            }
            if due || heard.is_some() {
                self.look(heard).await;
            }
        }
        driver.abort();
        Ok(())
    }

    /// Tells of shards whose lease has ended, or whose owner is gone: that is nobody's to say.
    async fn look_for_shards(&self) {
        let (Ok(db), Some(listener)) = (self.pool.get().await, self.shared.listener.get()) else { return };
        if owners::are_free(&db, &self.shared).await.unwrap_or_default() {
            listener.freed();
        }
    }

    /// Looks how far the store has come, and tells of what was `heard`, or missed.
    async fn look(&self, heard: Option<Heard>) {
        let Ok(db) = self.pool.get().await else { return };
        let Ok(Some(row)) = db.first("SELECT last_seq FROM identity", &[]).await else { return };
        let Ok(seq) = row.try_get::<_, i64>(0) else { return };
        let missed = *self.shared.newest.borrow() < seq;
        self.shared.reached(seq);
        let Some(listener) = self.shared.listener.get() else { return };
        let Some(Heard { new, ended, freed }) = heard else {
            if missed {
                listener.elsewhere(None);
            }
            return;
        };
        if freed {
            listener.freed();
        }
        let none = |named: &Named| *named == Named::default();
        if !none(&ended)
            && let Ok(names) = names(&db, ended).await
        {
            listener.ended_elsewhere(names.as_deref());
        }
        if !none(&new)
            && let Ok(names) = names(&db, new).await
        {
            listener.elsewhere(names.as_deref());
        }
    }
}

/// The names of targets; `None`: all there are.
async fn names(db: &Db, named: Named) -> Pg<Option<Vec<Name>>> {
    let Named::Some(ids) = named else { return Ok(None) };
    let ids: Vec<i64> = ids.into_iter().collect();
    let rows = db.rows("SELECT name FROM targets WHERE id = ANY($1)", &[&ids]).await?;
    let names = rows.iter().map(|row| row.try_get::<_, Text<'static>>(0));
    names.map(|name| Ok(name?.into_string().as_str().into())).collect::<Pg<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(texts: &[String]) -> Option<Heard> {
        let mut all = Heard::default();
        let heard = texts.iter().map(|text| all.hears(7, text)).collect::<Vec<_>>();
        heard.contains(&true).then_some(all)
    }

    #[test]
    fn what_one_says_others_hear() {
        let some = |ids: &[i64]| Named::Some(ids.iter().copied().collect());
        let new = |ids: &[i64]| Some(Heard { new: some(ids), ..Heard::default() });
        assert_eq!(heard(&[Said::New(&[3, 1, 3]).by(8)]), new(&[1, 3]));
        assert_eq!(heard(&[Said::New(&[3]).by(7), Said::Freed.by(7)]), None, "its own");
        let many: Vec<i64> = (0..2 * NAMED_MAX as i64).map(|n| i64::MAX - n).collect();
        assert_eq!(heard(&[Said::New(&many).by(8)]), Some(Heard { new: Named::All, ..Heard::default() }));
        assert!(Said::Ended(&many[..NAMED_MAX]).by(8).len() < 8000);
        for strange in ["", "x", "0000000000000008 1,x", "0000000000000008 ", "0000000000000008 !"] {
            assert_eq!(heard(&[strange.to_owned()]), None, "{strange}");
        }
        let all = [Said::New(&[1]).by(8), Said::Ended(&[1, 4]).by(9), Said::New(&[2]).by(8), Said::Freed.by(9)];
        assert_eq!(heard(&all), Some(Heard { new: some(&[1, 2]), ended: some(&[1, 4]), freed: true }));
        let all = [Said::Ended(&[1]).by(8), Said::Ended(&many).by(8)];
        assert_eq!(heard(&all), Some(Heard { ended: Named::All, ..Heard::default() }));
    }
}
