//! What the processes of one store tell each other: at most one notification for each commit, and a look now and then for those that
//! were missed. One that is alone says nothing; whoever comes says so.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_postgres::AsyncMessage;
use tokio_util::sync::CancellationToken;

use super::{
    connect::{AWAY, Db, Pg, Pool, WAIT, fault},
    owners, schema,
    servers::{At, Driver, Made, Servers},
    session::Shared,
    text::Text,
};
use crate::{
    envelope::Name,
    store::{Error, Result},
};

/// How often is looked for what no notification told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long is waited for until a connection for notifications is made again.
const AGAIN: Duration = Duration::from_secs(1);
/// Targets that one notification names as new, and as many of which something ended; of more it says that there are many (PostgreSQL
/// takes 8,000 bytes).
const NAMED_MAX: usize = 180;
/// Notifications that wait until they are looked at; when there are more, anything may have been said.
const SAID_MAX: usize = 256;
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

/// What a process tells the others with one commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsaid {
    /// There is something new for these targets.
    pub(super) new: BTreeSet<i64>,
    /// Something that waited for these targets does so no more.
    pub(super) ended: BTreeSet<i64>,
    /// There are shards that can be taken.
    pub(super) freed: bool,
}

impl Unsaid {
    /// The notification of the process with this voice; `None`: there is nothing to say.
    pub(super) fn by(&self, voice: u64) -> Option<String> {
        let new = (!self.new.is_empty()).then(|| named(&self.new));
        let ended = (!self.ended.is_empty()).then(|| format!("{ENDED}{}", named(&self.ended)));
        let words: Vec<String> = [new, ended, self.freed.then(|| FREED.to_owned())].into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("{voice:016x} {}", words.join(" ")))
    }
}

/// The notification of the process with this voice that it is there: from now on it is to be told.
fn came(voice: u64) -> String {
    format!("{voice:016x} {CAME}")
}

/// Likewise, that there is something new for these targets, of which there is one at least.
pub(super) fn new(targets: &[i64], voice: u64) -> Option<String> {
    Unsaid { new: targets.iter().copied().collect(), ..Unsaid::default() }.by(voice)
}

fn named(targets: &BTreeSet<i64>) -> String {
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

    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    fn and(&mut self, other: Self) {
        match (self, other) {
            (Self::Some(some), Self::Some(more)) => some.extend(more),
            (all, _) => *all = Self::All,
        }
    }
}

/// What other processes said and was not passed on yet.
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

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `text` says; false: it is our own, or nobody's.
    fn hears(&mut self, voice: u64, text: &str) -> bool {
        let Some((whose, what)) = text.split_once(' ') else { return false };
        let mut heard = false;
        if whose != format!("{voice:016x}") {
            what.split(' ').for_each(|word| heard |= self.hears_word(word));
        }
        heard
    }

    fn hears_word(&mut self, word: &str) -> bool {
        if word == FREED || word == CAME {
            self.freed |= word == FREED;
            return true;
        }
        let (into, targets) = match word.strip_prefix(ENDED) {
            Some(targets) => (&mut self.ended, targets),
            None => (&mut self.new, word),
        };
        let named = Named::of(targets);
        let heard = named.is_some();
        named.into_iter().for_each(|named| into.and(named));
        heard
    }
}

/// Hears what other processes commit, until it is stopped.
pub(super) struct News {
    pub(super) servers: Arc<Servers>,
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
        let mut told = false;
        loop {
            let mut untold = Heard::anything();
            let _ = self.listen(&mut untold, &mut told).await;
            tokio::time::sleep(AGAIN).await;
            // What is said while nobody listens is not said again.
            self.look(&mut Heard::anything()).await;
        }
    }

    /// Listens over one connection until that is lost. What is heard is `untold` until it is passed on. `told`: that the store is copied
    /// was told.
    async fn listen(&self, untold: &mut Heard, told: &mut bool) -> Result<()> {
        let Made { client, mut connection, at } = self.servers.connect().await?;
        let made = Instant::now();
        let (tx, mut said) = tokio::sync::mpsc::channel(SAID_MAX);
        let too_much = Arc::new(AtomicBool::new(false));
        let no_room = too_much.clone();
        let _driver = Driver::of(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(it) = message
                    && tx.try_send(it.payload().to_owned()).is_err()
                {
                    no_room.store(true, Ordering::Release);
                    if tx.is_closed() {
                        return;
                    }
                }
            }
        });
        let works = soon(client.query_one(schema::WORKS, &[]), &at).await?;
        if !works.try_get::<_, bool>(0).map_err(|error| fault(&error))? {
            if !std::mem::replace(told, true) {
                tracing::error!(
                    "`hookyard store copy` works on the store: stop this relay, or what it does now is missing in the copy"
                );
            }
            return Ok(());
        }
        *told = false;
        let channel = channel(self.shared.reading.salt);
        // Those who were alone learn that they are not.
        let came = came(self.shared.voice);
        soon(client.batch_execute(&format!("LISTEN {channel}; NOTIFY {channel}, '{came}'")), &at).await?;
        // Whatever was said before.
        self.look(untold).await;
        let mut looked = Instant::now();
        // It hears nothing from a server that others find to say nothing any more.
        while !client.is_closed() && !self.servers.are_left(made) {
            if let Ok(first) = tokio::time::timeout(LOOK_EVERY, said.recv()).await {
                let Some(first) = first else { break };
                let (mut next, mut any) = (Some(first), false);
                while let Some(text) = next {
                    any |= untold.hears(self.shared.voice, &text);
                    next = said.try_recv().ok();
                }
                if any {
                    self.shared.heard();
                }
            }
            // Nobody knows what that was which found no room.
            if too_much.swap(false, Ordering::Acquire) {
                *untold = Heard::anything();
            }
            // However much is said, what nobody says is looked for too.
            let due = LOOK_EVERY <= looked.elapsed();
            if due {
                looked = Instant::now();
                self.look_for_shards().await;
            }
            if due || !untold.is_nothing() {
                self.look(untold).await;
            }
        }
        Ok(())
    }

    /// Tells of shards whose lease has ended, or whose owner is gone: that is nobody's to say.
    async fn look_for_shards(&self) {
        let (Ok(db), Some(listener)) = (self.pool.get().await, self.shared.listener.get()) else { return };
        if owners::are_free(&db, &self.shared).await.unwrap_or_default() {
            listener.freed();
        }
    }

    /// Looks how far the store has come, and passes on what is `untold`, or was missed. What cannot be passed on stays untold.
    async fn look(&self, untold: &mut Heard) {
        let Ok(db) = self.pool.get().await else { return };
        let Ok(Some(row)) = db.first("SELECT last_seq FROM identity", &[]).await else { return };
        let Ok(seq) = row.try_get::<_, i64>(0) else { return };
        let missed = *self.shared.newest.borrow() < seq;
        self.shared.reached(seq);
        if self.shared.unsure.swap(false, Ordering::Relaxed) || (missed && untold.new.is_none()) {
            untold.new = Named::All;
        }
        let Some(listener) = self.shared.listener.get() else { return };
        if std::mem::take(&mut untold.freed) {
            listener.freed();
        }
        if !untold.ended.is_none() {
            let Ok(names) = names(&db, &untold.ended).await else { return };
            untold.ended = Named::default();
            listener.ended_elsewhere(names.as_deref());
        }
        if !untold.new.is_none() {
            let Ok(names) = names(&db, &untold.new).await else { return };
            untold.new = Named::default();
            listener.elsewhere(names.as_deref());
        }
    }
}

/// What `exchange` with the server `at` comes to, for which nothing has to be waited for there.
async fn soon<T>(exchange: impl Future<Output = Pg<T>>, at: &At) -> Result<T> {
    match tokio::time::timeout(WAIT, exchange).await {
        Ok(done) => done.map_err(|error| fault(&error)),
        Err(_) => Err(Error::Full(format!("{AWAY}{} gave no answer within {} s", at.name, WAIT.as_secs()))),
    }
}

/// The names of targets; `None`: all there are.
async fn names(db: &Db, named: &Named) -> Pg<Option<Vec<Name>>> {
    let Named::Some(ids) = named else { return Ok(None) };
    let ids: Vec<i64> = ids.iter().copied().collect();
    let rows = db.rows("SELECT name FROM targets WHERE id = ANY($1)", &[&ids]).await?;
    let names = rows.iter().map(|row| row.try_get::<_, Text<'_>>(0));
    names.map(|name| Ok(name?.as_str().into())).collect::<Pg<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(texts: &[String]) -> Option<Heard> {
        let mut all = Heard::default();
        let heard = texts.iter().map(|text| all.hears(7, text)).collect::<Vec<_>>();
        heard.contains(&true).then_some(all)
    }

    fn said(new: &[i64], ended: &[i64], freed: bool, voice: u64) -> String {
        Unsaid { new: new.iter().copied().collect(), ended: ended.iter().copied().collect(), freed }.by(voice).unwrap()
    }

    #[test]
    fn what_one_says_others_hear() {
        let some = |ids: &[i64]| Named::Some(ids.iter().copied().collect());
        let new = |ids: &[i64]| Some(Heard { new: some(ids), ..Heard::default() });
        assert_eq!(heard(&[said(&[3, 1, 3], &[], false, 8)]), new(&[1, 3]));
        assert_eq!(heard(&[said(&[3], &[4], true, 7)]), None, "its own");
        assert_eq!(Unsaid::default().by(7), None);
        assert_eq!(heard(&[came(8)]), Some(Heard::default()));
        let many: Vec<i64> = (0..2 * NAMED_MAX as i64).map(|n| i64::MAX - n).collect();
        assert_eq!(heard(&[said(&many, &[], false, 8)]), Some(Heard { new: Named::All, ..Heard::default() }));
        assert!(said(&many[..NAMED_MAX], &many[..NAMED_MAX], true, 8).len() < 8000);
        for strange in ["", "x", "0000000000000008 1,x", "0000000000000008 ", "0000000000000008 !"] {
            assert_eq!(heard(&[strange.to_owned()]), None, "{strange}");
        }
        let all = [said(&[1], &[], false, 8), said(&[], &[1, 4], false, 9), said(&[2], &[], true, 9)];
        let together = Heard { new: some(&[1, 2]), ended: some(&[1, 4]), freed: true };
        assert_eq!(heard(&all), Some(together.clone()));
        assert_eq!(heard(&[said(&[1, 2], &[1, 4], true, 9)]), Some(together));
        let all = [said(&[], &[1], false, 8), said(&[], &many, false, 8)];
        assert_eq!(heard(&all), Some(Heard { ended: Named::All, ..Heard::default() }));
    }
}
