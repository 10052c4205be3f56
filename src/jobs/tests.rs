//! Jobs over the SQLite store in a folder of their own, time moved by hand.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::{
    config,
    envelope::{Envelope, EventUid, tests::sample},
    route::{OWN_SOURCE, glob::Glob},
    store::{
        Accepted, Attempt, Cause, DedupeKey, Endings, NewDelivery, NewEvent, Next, Page, RecordKind, Remember, Resolution,
        State as Stored, sqlite,
    },
};

const ROUTES: &str = r"
version: 1
sources: {in: {kind: trigger, path: /in, allow_unauthenticated: true}}
destinations:
  crm: {kind: webhook, url: 'https://crm.example.com/x'}
  audit: {kind: webhook, url: 'https://audit.example.com/x'}
rules:
  - {name: all, match: {type: '**'}, to: [crm, audit]}
";

struct Bench {
    store: Arc<dyn Store>,
    clock: Clock,
    jobs: Arc<Jobs>,
    stop: CancellationToken,
    told: Arc<Told>,
    folder: tempfile::TempDir,
}

/// How much the lanes were told.
#[derive(Default)]
struct Told {
    woken: AtomicUsize,
    forgotten: AtomicUsize,
    anew: AtomicUsize,
    released: AtomicUsize,
}

impl Lanes for Told {
    fn wake(&self, targets: &[Name]) {
        self.woken.fetch_add(targets.len(), Ordering::Relaxed);
    }

    fn forget(&self, ids: &[DeliveryId]) {
        self.forgotten.fetch_add(ids.len(), Ordering::Relaxed);
    }

    fn read_anew(&self, ids: &[DeliveryId]) {
        self.anew.fetch_add(ids.len(), Ordering::Relaxed);
    }

    fn released(&self, _target: &Name) {
        self.released.fetch_add(1, Ordering::Relaxed);
    }
}

impl Bench {
    async fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap(), Clock::manual("2026-01-20T12:00:00Z")).await
    }

    async fn over(folder: tempfile::TempDir, clock: Clock) -> Self {
        let store: Arc<dyn Store> = sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
        let (stop, told) = (CancellationToken::new(), Arc::<Told>::default());
        let jobs = start(&store, &clock, &stop, &told).await;
        Self { store, clock, jobs, stop, told, folder }
    }

    /// As the relay stops and starts.
    async fn restart(self) -> Self {
        self.stop.cancel();
        self.jobs.drain().await;
        self.store.close().await;
        Self::over(self.folder, self.clock).await
    }

    /// Events `1..=count` from `source`, each with a delivery to `crm`.
    async fn events(&self, source: &str, count: u32) -> Vec<EventUid> {
        let mut uids = Vec::new();
        for n in 1..=count {
            let envelope =
                Envelope { id: format!("{source}_{n}"), source: source.into(), received_at: self.clock.now(), ..sample() };
            let mut key = [0; 16];
            key.copy_from_slice(crate::sign::sha256(&[envelope.id.as_bytes()]).split_at(16).0);
            let dedupe = DedupeKey { key, body: key, remember: Remember::Id(Duration::from_secs(60)) };
            let deliveries = vec![NewDelivery::to("crm".into())];
            let accepted = self
                .store
                .accept(NewEvent {
                    envelope,
                    dedupe,
                    deliveries,
                    rules: vec!["all".into()],
                    endings: Endings::default(),
                    setting: None,
                })
                .await;
            let Ok(Accepted::New { uid, .. }) = accepted else { panic!("{accepted:?}") };
            uids.push(uid);
        }
        uids
    }

    async fn die(&self, uids: &[EventUid], number: u32) {
        let attempt = |uid: &EventUid| Attempt {
            delivery: DeliveryId { event: *uid, n: 1 },
            number,
            started_at: self.clock.now(),
            duration: Duration::ZERO,
            status: Some(400),
            error: Some("http_400".to_owned()),
            detail: None,
            response: Bytes::new(),
            next: Next::Dead(Cause::Receiver),
            rendered: None,
            counts: true,
            stood_still_ms: 0,
            epoch: 0,
            unmade: None,
            ordered: false,
        };
        let epoch = self.store.own_shards(store::OwnerId(7), self.clock.now(), Duration::from_secs(15)).await.unwrap()[0].epoch;
        let attempts = uids.iter().map(|uid| Attempt { epoch, ..attempt(uid) }).collect();
        self.store.record(attempts).await.unwrap();
    }

    async fn in_state(&self, state: Stored) -> usize {
        self.deliveries(Filter { state: Some(state), ..Filter::default() }).await
    }

    async fn deliveries(&self, filter: Filter) -> usize {
        self.store.deliveries(Filter { limit: 10_000, page: Page::After(0), ..filter }).await.unwrap().len()
    }

    async fn begin(&self, kind: Kind, filter: Filter, rate: Option<u32>) -> Job {
        self.jobs.begin(kind, filter, rate, "admin").await.unwrap()
    }

    /// The job, once `fits` holds of it; the clock moves by `step` while that is waited for.
    async fn once(&self, id: &str, step: Duration, fits: impl Fn(&Job) -> bool) -> Job {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let job = self.jobs.get(id).unwrap();
            if fits(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "{job:?}");
            self.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Keeps `job` as it was.
    async fn notes(&self, job: &Job) {
        if let Some(known) = self.jobs.known().get_mut(&job.id) {
            known.job = job.clone();
        }
        self.jobs.keep(&job.id).await.unwrap();
    }

    async fn finished(&self, job: &Job) -> Job {
        self.once(&job.id, Duration::ZERO, |job| job.state != State::Running).await
    }
}

async fn start(store: &Arc<dyn Store>, clock: &Clock, stop: &CancellationToken, told: &Arc<Told>) -> Arc<Jobs> {
    start_with(store, clock, stop, told, Ownership::whole()).await
}

async fn start_with(
    store: &Arc<dyn Store>,
    clock: &Clock,
    stop: &CancellationToken,
    told: &Arc<Told>,
    ownership: Ownership,
) -> Arc<Jobs> {
    let file = config::File { path: "routes.yaml".into(), text: ROUTES.to_owned() };
    let loaded = config::parse(file, &|_: &str| None);
    let config = loaded.config.unwrap_or_else(|| panic!("{:?}", loaded.problems));
    let parts = Parts {
        store: store.clone(),
        router: Live::new(Arc::new(Router::new(config.rules, config.unmatched, Vec::new()))),
        clock: clock.clone(),
        lanes: told.clone(),
        ownership,
        stop: stop.clone(),
    };
    Jobs::start(parts).await.unwrap()
}

fn counts(job: &Job) -> (u64, u64, u64, u64) {
    (job.total, job.done, job.made, job.failed)
}

fn by_rules() -> Kind {
    Kind::Replay { target: None }
}

#[tokio::test]
async fn dead_letters_are_retried_by_filter_but_not_settled_ones() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 250).await;
    let other = bench.events("other", 3).await;
    bench.die(&shop[..240], 1).await;
    bench.die(&other, 1).await;
    let settled = Resolution { at: bench.clock.now(), note: "known".to_owned() };
    assert!(bench.store.resolve(DeliveryId { event: shop[0], n: 1 }, settled).await.unwrap());
    let filter = Filter { source: Some("shop".to_owned()), ..Filter::default() };
    assert_eq!(bench.jobs.count(&Kind::Retry, &filter).await.unwrap(), 239);
    let job = bench.begin(Kind::Retry, filter, None).await;
    let job = bench.finished(&job).await;
    assert_eq!((job.state, counts(&job)), (State::Done, (239, 239, 239, 0)));
    assert_eq!((bench.in_state(Stored::Dead).await, bench.in_state(Stored::Pending).await), (4, 249));
    assert!(0 < bench.told.woken.load(Ordering::Relaxed));
}

#[tokio::test]
async fn what_waits_is_cancelled_by_filter() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 120).await;
    bench.die(&shop[..20], 1).await;
    let filter = Filter { target: Some("crm".to_owned()), ..Filter::default() };
    let job = bench.begin(Kind::Cancel, filter.clone(), None).await;
    assert_eq!(counts(&bench.finished(&job).await), (100, 100, 100, 0));
    assert_eq!((bench.in_state(Stored::Cancelled).await, bench.in_state(Stored::Dead).await), (100, 20));
    assert_eq!(bench.told.forgotten.load(Ordering::Relaxed), 100);
    // A final state has nothing to cancel, and nothing else is cancelled instead.
    let done = Filter { state: Some(Stored::Dead), ..filter };
    assert_eq!(bench.jobs.count(&Kind::Cancel, &done).await.unwrap(), 0);
    let job = bench.begin(Kind::Cancel, done, None).await;
    assert_eq!(counts(&bench.finished(&job).await), (0, 0, 0, 0));
}

#[tokio::test]
async fn replays_go_by_todays_rules_and_leave_old_deliveries_alone() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 150).await;
    bench.events(OWN_SOURCE, 5).await;
    bench.die(&shop[..10], 1).await;
    let job = bench.begin(by_rules(), Filter::default(), None).await;
    assert_eq!(counts(&bench.finished(&job).await), (150, 150, 300, 0));
    assert_eq!(bench.in_state(Stored::Dead).await, 10);
    assert_eq!(bench.deliveries(Filter { target: Some("audit".to_owned()), ..Filter::default() }).await, 150);
    let of_one = Filter { event: Some(shop[0]), page: Page::After(0), ..Filter::default() };
    let rows = bench.store.deliveries(of_one).await.unwrap();
    let seen: Vec<_> = rows.iter().map(|row| (row.delivery.id.n, row.delivery.target.as_str(), row.delivery.replayed)).collect();
    assert_eq!(seen, [(1, "crm", false), (2, "crm", true), (3, "audit", true)]);
}

#[tokio::test]
async fn replays_to_one_target_of_events_with_a_delivery_in_a_state() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 130).await;
    bench.die(&shop[5..115], 1).await;
    let filter = Filter { state: Some(Stored::Dead), target: Some("crm".to_owned()), ..Filter::default() };
    let kind = Kind::Replay { target: Some("audit".into()) };
    assert_eq!(bench.jobs.count(&kind, &filter).await.unwrap(), 110);
    let job = bench.begin(kind, filter, None).await;
    assert_eq!(counts(&bench.finished(&job).await), (110, 110, 110, 0));
    assert_eq!(bench.deliveries(Filter { target: Some("audit".to_owned()), ..Filter::default() }).await, 110);
    assert_eq!(bench.deliveries(Filter { target: Some("crm".to_owned()), ..Filter::default() }).await, 130);
}

#[tokio::test]
async fn a_replay_of_what_is_pending_does_not_replay_what_it_makes() {
    let bench = Bench::new().await;
    bench.events("shop", 30).await;
    let job = bench.begin(by_rules(), Filter { state: Some(Stored::Pending), ..Filter::default() }, None).await;
    assert_eq!(counts(&bench.finished(&job).await), (30, 30, 60, 0));
}

#[tokio::test]
async fn own_events_are_replayed_only_when_asked_for() {
    let bench = Bench::new().await;
    bench.events("shop", 2).await;
    bench.events(OWN_SOURCE, 3).await;
    let all = Filter { state: Some(Stored::Pending), ..Filter::default() };
    assert_eq!(bench.jobs.count(&by_rules(), &all).await.unwrap(), 2);
    assert_eq!(bench.jobs.count(&by_rules(), &Filter::default()).await.unwrap(), 2);
    let own = Filter { source: Some(OWN_SOURCE.to_owned()), ..Filter::default() };
    assert_eq!(bench.jobs.count(&by_rules(), &own).await.unwrap(), 3);
    let job = bench.begin(Kind::Replay { target: Some("crm".into()) }, own, None).await;
    assert_eq!(counts(&bench.finished(&job).await), (3, 3, 3, 0));
}

#[tokio::test]
async fn a_rate_is_kept_and_a_job_cancelled_on_the_way() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 100).await;
    bench.die(&shop, 1).await;
    let job = bench.begin(Kind::Retry, Filter::default(), Some(10)).await;
    let began = bench.clock.now();
    let under_way = bench.once(&job.id, Duration::from_millis(50), |job| 50 <= job.done).await;
    let passed = crate::clock::until(began, bench.clock.now());
    // 10 a second, and the first of them at once.
    assert!(under_way.done <= 3 + passed.as_millis() as u64 / 100, "{} in {passed:?}", under_way.done);
    let cancelled = bench.jobs.cancel(&job.id).await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.finished_at.is_some()), (State::Cancelled, true));
    bench.clock.advance(Duration::from_secs(60));
    bench.jobs.drain().await;
    let retried = bench.in_state(Stored::Pending).await;
    assert!((50..100).contains(&retried), "{retried}");
    assert_eq!(bench.jobs.cancel("job_none").await.unwrap(), None);
}

#[tokio::test]
async fn a_job_goes_on_after_a_restart() {
    let bench = Bench::new().await;
    bench.events("shop", 60).await;
    let types = ["none.such", "credential.*"].map(|text| Glob::parse(text).unwrap()).to_vec();
    let job = bench.begin(by_rules(), Filter { types, ..Filter::default() }, Some(10)).await;
    bench.once(&job.id, Duration::from_millis(50), |job| 20 <= job.done).await;
    let bench = bench.restart().await;
    let kept = bench.jobs.get(&job.id).unwrap();
    assert_eq!((kept.state, &kept.filter, kept.rate, kept.by.as_str()), (State::Running, &job.filter, Some(10), "admin"));
    let done = bench.once(&job.id, Duration::from_millis(200), |job| job.state != State::Running).await;
    assert_eq!(counts(&done), (60, 60, 120, 0));
    assert_eq!(bench.in_state(Stored::Pending).await, 180);
    let bench = bench.restart().await;
    assert_eq!(bench.jobs.get(&job.id).unwrap(), done);
}

/// The relay may be killed between a step and the note of it: the step is done again, and changes nothing.
#[tokio::test]
async fn a_step_that_was_not_noted_is_not_done_twice() {
    for kind in [by_rules(), Kind::Retry] {
        let bench = Bench::new().await;
        let shop = bench.events("shop", 40).await;
        bench.die(&shop, 1).await;
        let before = bench.begin(kind.clone(), Filter::default(), None).await;
        let done = bench.finished(&before).await;
        bench.clock.advance(Duration::from_secs(1));
        if kind == Kind::Retry {
            bench.die(&shop[..15], 2).await;
        }
        // As if nothing after the beginning had been noted.
        bench.jobs.drain().await;
        bench.notes(&before).await;
        let bench = bench.restart().await;
        let again = bench.finished(&before).await;
        assert_eq!(again.state, State::Done);
        if kind == Kind::Retry {
            assert_eq!((bench.in_state(Stored::Dead).await, bench.in_state(Stored::Pending).await), (15, 25));
        } else {
            assert_eq!(counts(&again), counts(&done));
            assert_eq!(bench.in_state(Stored::Pending).await, 80);
        }
    }
}

#[tokio::test]
async fn what_comes_after_its_beginning_is_none_of_its_business() {
    let bench = Bench::new().await;
    bench.events("shop", 20).await;
    let job = bench.begin(by_rules(), Filter::default(), Some(10)).await;
    bench.events("later", 20).await;
    let done = bench.once(&job.id, Duration::from_millis(200), |job| job.state != State::Running).await;
    assert_eq!(counts(&done), (20, 20, 40, 0));
}

#[tokio::test]
async fn old_finished_jobs_are_forgotten() {
    let bench = Bench::new().await;
    let mut ids = Vec::new();
    for _ in 0..105 {
        bench.clock.advance(Duration::from_millis(1));
        let job = bench.begin(Kind::Retry, Filter::default(), None).await;
        bench.finished(&job).await;
        ids.push(job.id);
    }
    bench.jobs.drain().await;
    let left: Vec<String> = bench.jobs.list().into_iter().map(|job| job.id).collect();
    assert_eq!(left, ids[5..].iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(bench.store.records(RecordKind::Job, 0).await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_its_place_is_kept_stays_cancelled() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 3).await;
    bench.die(&shop, 1).await;
    let running = bench.begin(by_rules(), Filter::default(), Some(1)).await;
    bench.jobs.cancel(&running.id).await.unwrap();
    bench.jobs.keep(&running.id).await.unwrap();
    let kept = bench.store.record_of(RecordKind::Job, &running.id).await.unwrap().unwrap();
    assert_eq!(kept::read(&kept.doc.unwrap()).unwrap().state, State::Cancelled, "the next start would go on with it");
}

#[tokio::test]
async fn a_job_that_an_older_version_kept_goes_on() {
    let bench = Bench::new().await;
    bench.events("shop", 3).await;
    let job = Job {
        end: i64::MAX,
        filter: Filter::default(),
        ..Job::sample(by_rules(), "job_00000000000000000001", bench.clock.now())
    };
    bench.store.set_setting("job.job_00000000000000000001", kept::write(&job)).await.unwrap();
    bench.store.set_setting("job.odd", "{}".into()).await.unwrap();
    let bench = bench.restart().await;
    assert_eq!(counts(&bench.finished(&job).await), (2, 3, 6, 0));
    assert_eq!(bench.store.settings("job.").await.unwrap(), [("job.odd".to_owned(), "{}".to_owned())]);
}

/// Two relays of one store, of which the first owns everything and then nothing.
#[tokio::test]
async fn one_relay_does_a_job_all_know_of_it_and_another_goes_on_with_it() {
    let bench = Bench::new().await;
    bench.events("shop", 60).await;
    let (first, second) = (Ownership::turns(true), Ownership::turns(false));
    let (stop, told) = (CancellationToken::new(), Arc::<Told>::default());
    let one = start_with(&bench.store, &bench.clock, &stop, &told, first.seen()).await;
    let two = start_with(&bench.store, &bench.clock, &stop, &told, second.seen()).await;
    let job = two.begin(by_rules(), Filter::default(), Some(10), "ana").await.unwrap();
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(two.get(&job.id).unwrap().done, 0, "it is not its own to do");
    let once = async |jobs: &Arc<Jobs>, step, fits: &dyn Fn(&Job) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            one.refresh().await.unwrap();
            two.refresh().await.unwrap();
            let known = jobs.get(&job.id).filter(|job| fits(job));
            if let Some(job) = known {
                return job;
            }
            assert!(Instant::now() < deadline, "{:?}", jobs.get(&job.id));
            bench.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let step = Duration::from_millis(50);
    let seen = once(&two, step, &|job| 20 <= job.done).await;
    assert_eq!((seen.state, seen.by.as_str()), (State::Running, "ana"));
    // It changes hands; what the one had in mind of it counts no more.
    first.owns(false);
    let before = one.get(&job.id).unwrap();
    second.owns(true);
    let done = once(&one, step, &|job| job.state == State::Done).await;
    assert_eq!(counts(&done), (60, 60, 120, 0), "{before:?}");
    assert_eq!(two.get(&job.id).unwrap(), done);
    assert_eq!(bench.in_state(Stored::Pending).await, 180, "nothing twice");
    // Cancelled where it is not done.
    let job = two.begin(by_rules(), Filter::default(), Some(10), "ana").await.unwrap();
    let under_way = async |jobs: &Arc<Jobs>| {
        one.refresh().await.unwrap();
        jobs.get(&job.id)
    };
    assert_eq!(under_way(&one).await.unwrap().state, State::Running);
    let cancelled = one.cancel(&job.id).await.unwrap().unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
    two.refresh().await.unwrap();
    stop.cancel();
    two.drain().await;
    assert_eq!(two.get(&job.id).unwrap().state, State::Cancelled);
    let kept = bench.store.record_of(RecordKind::Job, &job.id).await.unwrap().unwrap();
    assert_eq!(kept::read(&kept.doc.unwrap()), two.get(&job.id), "with what was done until then");
}

#[tokio::test]
async fn a_job_reads_as_promised() {
    let bench = Bench::new().await;
    let filter = Filter { state: Some(Stored::Dead), since: Some(bench.clock.now()), ..Filter::default() };
    let job = Job { id: "job_1".to_owned(), ..bench.begin(Kind::Replay { target: Some("crm".into()) }, filter, Some(5)).await };
    insta::assert_snapshot!(serde_json::to_string(&job).unwrap(), @r#"{"id":"job_1","kind":"replay","to":"crm","filter":{"state":"dead","since":"2026-01-20T12:00:00Z"},"rate":5,"by":"admin","state":"running","total":0,"done":0,"made":0,"failed":0,"started_at":"2026-01-20T12:00:00.000Z","finished_at":null,"error":null}"#);
    assert_eq!(kept::read(&kept::write(&job)), Some(job));
    for bad in ["", "{}", r#"{"id": "job_1"}"#] {
        assert_eq!(kept::read(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn beyond_a_hundred_unfinished_jobs_none_begins_until_one_is_cancelled() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 3).await;
    bench.die(&shop, 1).await;
    // One a second, by a clock that stands still.
    let first = bench.begin(by_rules(), Filter::default(), Some(1)).await;
    for _ in 1..100 {
        bench.begin(by_rules(), Filter::default(), Some(1)).await;
    }
    let refused = bench.jobs.begin(by_rules(), Filter::default(), Some(1), "admin").await;
    assert!(matches!(refused, Err(BeginError::TooMany(UNFINISHED_MAX))), "{refused:?}");
    bench.jobs.cancel(&first.id).await.unwrap();
    bench.begin(by_rules(), Filter::default(), Some(1)).await;
}

#[tokio::test]
async fn those_bound_to_namespaces_keep_nobody_else_from_working() {
    let bench = Bench::new().await;
    let shop = bench.events("shop", 3).await;
    bench.die(&shop, 1).await;
    let of = |others: &[&str]| {
        let namespaces = ["user_123"].iter().chain(others).map(ToString::to_string).collect();
        Filter { namespaces: Some(namespaces), ..Filter::default() }
    };
    // One a second, by a clock that stands still: they hold their turns.
    for _ in 0..BOUND_EACH_MAX {
        bench.begin(by_rules(), of(&[]), Some(1)).await;
    }
    let refused = bench.jobs.begin(by_rules(), of(&[]), Some(1), "a").await;
    assert!(matches!(refused, Err(BeginError::TooMany(BOUND_EACH_MAX))), "{refused:?}");
    bench.begin(by_rules(), of(&["b"]), Some(1)).await;
    let job = bench.begin(by_rules(), Filter::default(), None).await;
    bench.finished(&job).await;
}
