//! What came in by each source: how much of it with which answer, when something was accepted last, and when each secret was last of
//! use. Counted beside the way of a request, kept over restarts and added up over replicas (`keeping`), and the reason for two
//! of the relay's own notices: a source that only refuses, and one that is silent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{answer::Code, poll::PollStatus, source::Source};
use crate::{
    announce::Notice,
    clock::{Timestamp, from_ms, to_ms, until},
    envelope::Name,
    seal::Sealer,
    sign,
    store::Accepted,
};

/// How long a source must have accepted nothing, and over which time refusals are counted.
const TROUBLE: Duration = Duration::from_secs(300);
/// Refusals in that time from which it is worth telling.
const TROUBLE_MIN: u64 = 10;
/// Refusals are counted by minute.
const MINUTE_MS: i64 = 60_000;
/// Secrets of one source whose last use is kept; of those that are not in this file the ones used last.
const SECRETS_MAX: usize = 64;
/// Hex digits of a secret's keyed hash by which its last use is kept.
const DIGEST_LEN: usize = 16;

/// What came in by one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatistics {
    /// Its name.
    pub name: Name,
    /// Its kind's word.
    pub kind: &'static str,
    /// Its path, a secret last segment masked; `None`: nobody sends to it.
    pub path: Option<String>,
    /// When something was last accepted, or known already.
    pub last_received_at: Option<Timestamp>,
    /// How many requests had which answer: `success`, `duplicate`, `duplicate_mismatch`, or the code of a rejection. Those that never
    /// came are left out.
    pub counts: Vec<(&'static str, u64)>,
    /// When each secret last proved a sender, by its position in the file: 0 is the current one. A trigger's header values come before
    /// its path secrets.
    pub secrets: Vec<Option<Timestamp>>,
    /// How it stands, where it is polled.
    pub poll: Option<PollStatus>,
}

/// Words of what was accepted, before those of [`Code`].
const ACCEPTED: [&str; 3] = ["success", "duplicate", "duplicate_mismatch"];
/// All statuses that are counted.
const STATUSES: usize = ACCEPTED.len() + Code::COUNT;

/// The counts of every source, by its position. What one file counts of a source, the next goes on counting.
pub(super) struct Statistics {
    sources: Vec<Counts>,
    /// Whether anything came since it was last kept.
    dirty: Arc<AtomicBool>,
}

/// What one file counts of a source. Times are milliseconds since 1970, 0 for never.
struct Counts {
    tally: Arc<Tally>,
    secrets: Vec<Arc<AtomicI64>>,
    /// Keyed hashes of the secrets, so that a rotation moves their last use with them.
    digests: Vec<String>,
    silent_after: Option<Duration>,
}

/// What is counted of a source whatever the file says of it.
struct Tally {
    statuses: [AtomicU64; STATUSES],
    kept: Mutex<Known>,
    last_received: AtomicI64,
    trouble: Mutex<Trouble>,
}

/// How much of what is counted is kept.
struct Known {
    statuses: [u64; STATUSES],
    /// It was looked at: whatever comes on top of it has come since.
    met: bool,
    /// This relay told of the source then, and knows best what was told.
    owned: bool,
}

/// What two notices need to know.
#[derive(Default)]
struct Trouble {
    /// Refusals of the last minutes, oldest first: the minute, and how many by code.
    minutes: Vec<(i64, [u64; Code::COUNT])>,
    /// It was told that the source refuses, and nothing was accepted since.
    rejecting_told: bool,
    /// Likewise that it is silent.
    silent_told: bool,
    /// Since when the source is known: what silence is measured from until something comes.
    known_since: Option<Timestamp>,
}

impl Statistics {
    /// Goes on counting what `former` did, each source by its name; others are known from `now` on.
    pub(super) fn new(sources: &[Source], former: Option<(&[Source], &Self)>, sealer: &Sealer, now: Timestamp) -> Self {
        let Some((known, former)) = former else {
            let counts = sources.iter().map(|source| Counts::new(source, None, sealer)).collect();
            return Self { sources: counts, dirty: Arc::default() };
        };
        let known: HashMap<&Name, &Counts> = known.iter().map(|source| &source.name).zip(&former.sources).collect();
        let counts = sources.iter().map(|source| {
            let counts = Counts::new(source, known.get(&source.name).copied(), sealer);
            counts.trouble().known_since.get_or_insert(now);
            counts
        });
        let counts = counts.collect();
        former.dirty.store(true, Relaxed);
        Self { sources: counts, dirty: former.dirty.clone() }
    }

    /// Counts what was accepted at `now`.
    pub(super) fn accepted(&self, position: usize, accepted: &Accepted, now: Timestamp) {
        let Some(counts) = self.sources.get(position) else { return };
        counts.count(accepted_at(accepted));
        counts.tally.last_received.fetch_max(to_ms(now), Relaxed);
        self.dirty.store(true, Relaxed);
    }

    /// Notes that a secret has proved a sender, whatever became of its request.
    pub(super) fn used(&self, position: usize, secret: Option<usize>, now: Timestamp) {
        if let Some(last_use) = self.sources.get(position).zip(secret).and_then(|(counts, secret)| counts.secrets.get(secret)) {
            last_use.fetch_max(to_ms(now), Relaxed);
        }
        self.dirty.store(true, Relaxed);
    }

    /// Counts what was refused at `now`.
    pub(super) fn refused(&self, position: usize, code: Code, now: Timestamp) {
        let Some(counts) = self.sources.get(position) else { return };
        counts.count(ACCEPTED.len() + code.index());
        if Trouble::minds(code.index()) {
            counts.trouble().refused(code.index(), 1, now);
        }
        self.dirty.store(true, Relaxed);
    }

    /// What came in by each source, in the order of the file.
    pub(super) fn read(&self, sources: &[Source]) -> Vec<SourceStatistics> {
        sources.iter().zip(&self.sources).map(|(source, counts)| counts.read(source)).collect()
    }

    /// What is worth telling at `now` of those of them that this relay `owns`, each thing once until something is accepted.
    pub(super) fn notices(&self, sources: &[Source], owns: &dyn Fn(&Name) -> bool, now: Timestamp) -> Vec<Notice> {
        let all = sources.iter().zip(&self.sources).filter(|(source, _)| owns(&source.name));
        let told: Vec<_> =
            all.flat_map(|(source, counts)| [counts.rejecting(source, now), counts.silent(source, now)]).flatten().collect();
        if !told.is_empty() {
            self.dirty.store(true, Relaxed);
        }
        told
    }

    /// Whether anything has come, or was told, since this was last asked.
    pub(super) fn changed(&self) -> bool {
        self.dirty.swap(false, Relaxed)
    }

    /// What is to be kept in place of `read`: that, and what was counted here since.
    pub(super) fn sum(&self, sources: &[Source], read: &Book, whose: &Whose<'_>) -> Book {
        // Other replicas may go by another file.
        let mut sum = if whose.shared { read.clone() } else { Book::new() };
        for (source, counts) in sources.iter().zip(&self.sources) {
            let name = source.name.as_str();
            sum.insert(name.to_owned(), counts.sum(read.get(name), (whose.owns)(&source.name)));
        }
        sum
    }

    /// Takes up what others had added to `read`, in whose place `written` is kept now.
    pub(super) fn adopt(&self, sources: &[Source], (read, written): (&Book, &Book), whose: &Whose<'_>, now: Timestamp) {
        for (source, counts) in sources.iter().zip(&self.sources) {
            let name = source.name.as_str();
            if let Some(written) = written.get(name) {
                counts.adopt(read.get(name), written, (whose.owns)(&source.name), now);
            }
        }
    }

    /// Notes that what was to be kept could not be.
    pub(super) fn not_kept(&self) {
        self.dirty.store(true, Relaxed);
    }

    /// Takes up what former runs left; sources are known by name from `now` on. `stays`: it is kept already.
    pub(super) fn restore(&self, sources: &[Source], book: &Book, stays: bool, now: Timestamp) {
        for (source, counts) in sources.iter().zip(&self.sources) {
            counts.restore(book.get(source.name.as_str()), stays, now);
        }
        self.dirty.store(true, Relaxed);
    }
}

/// What is kept of the sources, by name.
pub(super) type Book = BTreeMap<String, Kept>;

/// Who tells what of sources, and keeps what was told.
pub(super) struct Whose<'a> {
    /// Which of them this relay tells of.
    pub(super) owns: &'a (dyn Fn(&Name) -> bool + Send + Sync),
    /// Whether there may be other replicas.
    pub(super) shared: bool,
}

/// What is kept of one source.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    counts: BTreeMap<String, u64>,
    last_received: i64,
    /// Last uses by the keyed hash of the secret.
    secrets: BTreeMap<String, i64>,
    rejecting_told: bool,
    silent_told: bool,
    known_since: Option<i64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            statuses: std::array::from_fn(|_| AtomicU64::new(0)),
            kept: Mutex::default(),
            last_received: AtomicI64::new(0),
            trouble: Mutex::default(),
        }
    }
}

impl Default for Known {
    fn default() -> Self {
        Self { statuses: [0; STATUSES], met: false, owned: false }
    }
}

impl Counts {
    fn new(source: &Source, former: Option<&Self>, sealer: &Sealer) -> Self {
        let digest = |secret: &crate::secret::Secret| {
            let mut hex = sign::hex(&sealer.digest(secret.reveal().as_bytes()));
            hex.truncate(DIGEST_LEN);
            hex
        };
        let digests: Vec<String> = source.kind.secrets().into_iter().map(digest).collect();
        let last_use = |digest: &String| {
            let former = former?;
            former.secrets.get(former.digests.iter().position(|known| known == digest)?).cloned()
        };
        Self {
            tally: former.map_or_else(Arc::default, |former| former.tally.clone()),
            secrets: digests.iter().map(|digest| last_use(digest).unwrap_or_default()).collect(),
            digests,
            silent_after: source.silent_after,
        }
    }

    fn count(&self, status: usize) {
        if let Some(count) = self.tally.statuses.get(status) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.tally.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_received(&self) -> Option<Timestamp> {
        instant(self.tally.last_received.load(Relaxed))
    }

    fn by_word(&self) -> impl Iterator<Item = (&'static str, u64)> {
        words().zip(&self.tally.statuses).map(|(word, count)| (word, count.load(Relaxed))).filter(|(_, count)| 0 < *count)
    }

    fn read(&self, source: &Source) -> SourceStatistics {
        SourceStatistics {
            name: source.name.clone(),
            kind: source.kind(),
            path: source.masked_path(),
            last_received_at: self.last_received(),
            counts: self.by_word().collect(),
            secrets: self.secrets.iter().map(|last_use| instant(last_use.load(Relaxed))).collect(),
            poll: None,
        }
    }

    fn rejecting(&self, source: &Source, now: Timestamp) -> Option<Notice> {
        let quiet = self.last_received().is_none_or(|last| TROUBLE <= until(last, now));
        let mut trouble = self.trouble();
        if !quiet {
            trouble.rejecting_told = false;
            return None;
        }
        let (count, reason) = trouble.refusals(now);
        if trouble.rejecting_told || count < TROUBLE_MIN {
            return None;
        }
        trouble.rejecting_told = true;
        Some(Notice::Rejecting { source: source.name.clone(), count, reason: reason.to_owned() })
    }

    fn silent(&self, source: &Source, now: Timestamp) -> Option<Notice> {
        let after = self.silent_after?;
        let last_at = self.last_received();
        let mut trouble = self.trouble();
        let since = last_at.max(trouble.known_since)?;
        if until(since, now) < after {
            trouble.silent_told = false;
            return None;
        }
        let told = std::mem::replace(&mut trouble.silent_told, true);
        (!told).then(|| Notice::Silent { source: source.name.clone(), last_at })
    }

    /// What `read` becomes with what was counted here since.
    fn sum(&self, read: Option<&Kept>, owns: bool) -> Kept {
        let mut sum = read.cloned().unwrap_or_default();
        let known = self.known();
        for ((word, status), known) in words().zip(&self.tally.statuses).zip(&known.statuses) {
            let here = status.load(Relaxed).saturating_sub(*known);
            if 0 < here {
                *sum.counts.entry(word.to_owned()).or_default() += here;
            }
        }
        sum.last_received = sum.last_received.max(self.tally.last_received.load(Relaxed));
        for (digest, last_use) in self.digests.iter().zip(&self.secrets) {
            let kept = sum.secrets.entry(digest.clone()).or_default();
            *kept = last_use.load(Relaxed).max(*kept);
        }
        self.forget_secrets(&mut sum.secrets);
        let trouble = self.trouble();
        sum.known_since = sum.known_since.max(trouble.known_since.map(to_ms));
        if owns && known.owned {
            (sum.rejecting_told, sum.silent_told) = (trouble.rejecting_told, trouble.silent_told);
        }
        sum
    }

    /// Forgets those of another file that were used longest ago, once they are too many.
    fn forget_secrets(&self, secrets: &mut BTreeMap<String, i64>) {
        while SECRETS_MAX.max(self.digests.len()) < secrets.len() {
            let others = secrets.iter().filter(|(digest, _)| !self.digests.contains(digest));
            let Some(oldest) = others.min_by_key(|(_, last_use)| **last_use).map(|(digest, _)| digest.clone()) else { return };
            secrets.remove(&oldest);
        }
    }

    /// Takes up what others had added to `read`, in whose place `written` is kept now.
    fn adopt(&self, read: Option<&Kept>, written: &Kept, owns: bool, now: Timestamp) {
        let mut known = self.known();
        let met = std::mem::replace(&mut known.met, true);
        let knows_best = std::mem::replace(&mut known.owned, owns) && owns;
        let mut trouble = self.trouble();
        for (n, ((word, status), known)) in words().zip(&self.tally.statuses).zip(&mut known.statuses).enumerate() {
            let of = |kept: &Kept| kept.counts.get(word).copied().unwrap_or_default();
            let elsewhere = read.map_or(0, of).saturating_sub(*known);
            status.fetch_add(elsewhere, Relaxed);
            *known = of(written);
            // What others refuse, the one that tells of it has to know.
            let code = n.checked_sub(ACCEPTED.len());
            if let Some(code) = code.filter(|code| met && 0 < elsewhere && Trouble::minds(*code)) {
                trouble.refused(code, elsewhere, now);
            }
        }
        self.take_times(written);
        trouble.known_since = trouble.known_since.max(written.known_since.map(from_ms));
        if !knows_best && let Some(read) = read {
            (trouble.rejecting_told, trouble.silent_told) = (read.rejecting_told, read.silent_told);
        }
    }

    fn take_times(&self, kept: &Kept) {
        self.tally.last_received.fetch_max(kept.last_received, Relaxed);
        for (digest, last_use) in self.digests.iter().zip(&self.secrets) {
            last_use.fetch_max(kept.secrets.get(digest).copied().unwrap_or_default(), Relaxed);
        }
    }

    fn restore(&self, left: Option<&Kept>, stays: bool, now: Timestamp) {
        let mut known = self.known();
        known.met = true;
        let mut trouble = self.trouble();
        let Some(left) = left else {
            trouble.known_since = Some(now);
            return;
        };
        for ((word, status), known) in words().zip(&self.tally.statuses).zip(&mut known.statuses) {
            let count = left.counts.get(word).copied().unwrap_or_default();
            status.fetch_add(count, Relaxed);
            *known = if stays { count } else { 0 };
        }
        self.take_times(left);
        (trouble.rejecting_told, trouble.silent_told) = (left.rejecting_told, left.silent_told);
        trouble.known_since = left.known_since.map(from_ms).or(Some(now));
    }

    /// How much of what was counted is kept.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.tally.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word of each status.
fn words() -> impl Iterator<Item = &'static str> {
    ACCEPTED.into_iter().chain(Code::words())
}

impl Trouble {
    /// What the relay cannot take in says nothing about its sender, nor does a visitor's GET.
    fn minds(code: usize) -> bool {
        ![Code::Unavailable, Code::MethodNotAllowed].iter().any(|it| it.index() == code)
    }

    /// So many were refused with the code at this place.
    fn refused(&mut self, code: usize, times: u64, now: Timestamp) {
        let minute = to_ms(now).div_euclid(MINUTE_MS);
        if self.minutes.last().is_none_or(|(last, _)| *last != minute) {
            self.forget(minute);
            self.minutes.push((minute, [0; Code::COUNT]));
        }
        if let Some(count) = self.minutes.last_mut().and_then(|(_, counts)| counts.get_mut(code)) {
            *count += times;
        }
    }

    /// Forgets what lies further back than [`TROUBLE`], and what a clock that was set back left in the future.
    fn forget(&mut self, minute: i64) {
        let first = minute.saturating_sub(to_i64(TROUBLE.as_secs() / 60));
        self.minutes.retain(|(at, _)| (first..=minute).contains(at));
    }

    /// How many were refused in the last minutes, and the commonest code.
    fn refusals(&mut self, now: Timestamp) -> (u64, &'static str) {
        self.forget(to_ms(now).div_euclid(MINUTE_MS));
        let of = |code: usize| self.minutes.iter().filter_map(|(_, counts)| counts.get(code)).sum::<u64>();
        let commonest = Code::words().enumerate().max_by_key(|(code, _)| of(*code));
        ((0..Code::COUNT).map(of).sum(), commonest.map_or("", |(_, word)| word))
    }
}

fn accepted_at(accepted: &Accepted) -> usize {
    match accepted {
        Accepted::New { .. } => 0,
        Accepted::Duplicate { mismatch: false, .. } => 1,
        Accepted::Duplicate { mismatch: true, .. } => 2,
    }
}

fn instant(ms: i64) -> Option<Timestamp> {
    (ms != 0).then(|| from_ms(ms))
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, envelope::EventUid, ingest::source::tests::source, secret::Secret};

    fn sealer() -> Sealer {
        Sealer::new(&Secret::new(sign::base64(&[7; 32]))).unwrap()
    }

    fn agents(secrets: &str) -> Vec<Source> {
        let text = format!(r#"{{"kind": "agent", "path": "/a", "secrets": {secrets}, "silent_after": "1h"}}"#);
        vec![source("agents", &text).unwrap()]
    }

    const ALONE: Whose<'static> = Whose { owns: &|_| true, shared: false };

    fn taken() -> Accepted {
        Accepted::Duplicate { uid: EventUid { salt: 0, seq: 1 }, id: "a".to_owned(), mismatch: false }
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    /// A source and its statistics, known from noon.
    fn bench() -> (Vec<Source>, Statistics, Clock) {
        let (sources, clock) = (agents(r#"["fresh", "stale"]"#), Clock::manual("2026-01-20T12:00:00Z"));
        let statistics = Statistics::new(&sources, None, &sealer(), clock.now());
        statistics.restore(&sources, &Book::new(), false, clock.now());
        (sources, statistics, clock)
    }

    #[test]
    fn counts_and_last_uses_outlive_a_restart_and_a_rotation() {
        let (sources, statistics, clock) = bench();
        statistics.used(0, Some(1), clock.now());
        statistics.accepted(0, &taken(), clock.now());
        statistics.refused(0, Code::InvalidSignature, clock.now());
        assert!(statistics.changed() && !statistics.changed());
        let kept = statistics.sum(&sources, &Book::new(), &ALONE);
        assert!(!serde_json::to_string(&kept).unwrap().contains("stale"));
        let rotated = agents(r#"["newest", "stale", "fresh"]"#);
        let after = Statistics::new(&rotated, None, &sealer(), clock.now());
        after.restore(&rotated, &kept, true, clock.now());
        let read = after.read(&rotated).remove(0);
        assert_eq!(read.counts, [("duplicate", 1), ("invalid_signature", 1)]);
        assert_eq!((read.last_received_at, read.secrets), (Some(clock.now()), vec![None, Some(clock.now()), None]));
    }

    #[test]
    fn another_file_goes_on_counting_and_what_still_goes_by_the_former_counts_with_it() {
        let (sources, former, clock) = bench();
        former.used(0, Some(1), clock.now());
        former.accepted(0, &taken(), clock.now());
        let rotated = agents(r#"["newest", "stale"]"#);
        clock.advance(minutes(1));
        let after = Statistics::new(&rotated, Some((&sources, &former)), &sealer(), clock.now());
        former.used(0, Some(1), clock.now());
        former.accepted(0, &taken(), clock.now());
        let read = after.read(&rotated).remove(0);
        assert_eq!(read.counts, [("duplicate", 2)]);
        assert_eq!((read.last_received_at, read.secrets), (Some(clock.now()), vec![None, Some(clock.now())]));
        assert!(after.changed(), "the names may be others");
    }

    #[test]
    fn a_source_that_only_refuses_is_told_of_once_until_something_is_accepted() {
        let (sources, statistics, clock) = bench();
        let refuse = |times: u32| (0..times).for_each(|_| statistics.refused(0, Code::InvalidSignature, clock.now()));
        refuse(9);
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        refuse(1);
        let told = Notice::Rejecting { source: "agents".into(), count: 10, reason: "invalid_signature".to_owned() };
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), [told]);
        refuse(100);
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        statistics.accepted(0, &taken(), clock.now());
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        clock.advance(minutes(4));
        refuse(20);
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        clock.advance(minutes(1));
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()).len(), 1);
    }

    #[test]
    fn refusals_of_long_ago_and_our_own_faults_do_not_count() {
        let (sources, statistics, clock) = bench();
        (0..9).for_each(|_| statistics.refused(0, Code::InvalidTimestamp, clock.now()));
        clock.advance(minutes(7));
        (0..9).for_each(|_| statistics.refused(0, Code::InvalidTimestamp, clock.now()));
        (0..50).for_each(|_| statistics.refused(0, Code::Unavailable, clock.now()));
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
    }

    #[test]
    fn silence_is_told_of_once() {
        let (sources, statistics, clock) = bench();
        clock.advance(minutes(59));
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        clock.advance(minutes(1));
        assert_eq!(
            statistics.notices(&sources, &|_| true, clock.now()),
            [Notice::Silent { source: "agents".into(), last_at: None }]
        );
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        let heard = clock.now();
        statistics.accepted(0, &taken(), heard);
        assert_eq!(statistics.notices(&sources, &|_| true, clock.now()), []);
        clock.advance(minutes(60));
        assert_eq!(
            statistics.notices(&sources, &|_| true, clock.now()),
            [Notice::Silent { source: "agents".into(), last_at: Some(heard) }]
        );
    }
}
