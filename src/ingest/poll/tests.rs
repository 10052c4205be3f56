//! Rounds against a model of an API: whatever it does between and while it is asked, nothing is lost and nothing doubled.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use axum::http::{HeaderMap, header::LINK};
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Parts, Pollers, Prepared,
    fault::{Code, Fault},
    round::{Ask, End, Round, Tally},
    state::State,
};
use crate::{
    announce::Announcer,
    clock::Timestamp,
    deliver::{
        Ownership,
        fetch::{NotWhole, Whole},
    },
    ingest::{
        Source,
        source::tests::source,
        tests::{Relay, relay},
    },
    telemetry::Metrics,
};

/// How late items may show up, in seconds or numbers.
const OVERLAP: i64 = 300;
/// What lies before is not taken in.
const START: i64 = 1_768_910_400;

/// How the API works and how the file says so.
#[derive(Debug, Clone)]
struct Manner {
    /// `unix`, or `number`.
    times: bool,
    paging: &'static str,
    order: &'static str,
    /// Whether what has the very value asked from is in the answer.
    inclusive: bool,
    /// Whether it takes `since` at all.
    since: bool,
    size: usize,
}

impl Manner {
    fn source(&self) -> Source {
        let size = self.size;
        let paging = match self.paging {
            "none" => String::new(),
            "next" => r#", "paging": {"by": "next", "path": "$.next", "max_pages": 10000}"#.to_owned(),
            "link" => r#", "paging": {"by": "link", "max_pages": 10000}"#.to_owned(),
            "token" => r#", "paging": {"by": "token", "path": "$.token", "query": "token", "max_pages": 10000}"#.to_owned(),
            "page" => r#", "paging": {"by": "page", "query": "page", "max_pages": 10000}"#.to_owned(),
            _ => format!(r#", "paging": {{"by": "offset", "query": "offset", "size": {size}, "max_pages": 10000}}"#),
        };
        // Few pages are enough where a round may end anywhere.
        let paging = if self.order == "ascending" { paging.replace("10000", "400") } else { paging };
        let (kind, overlap) = if self.times { ("unix", r#""5m""#) } else { ("number", "300") };
        let query = if self.since { r#""query": "since", "# } else { "" };
        let text = format!(
            r#"{{"kind": "poll", "url": "https://h.example/runs", "every": "1m", "items": "$.runs", "map": {{"id": "$.id"}},
                "cursor": {{{query}"path": "$.at", "as": "{kind}", "start": "{START}", "overlap": {overlap}, "order": "{}"}}{paging}}}"#,
            self.order
        );
        source("runs", &text).unwrap()
    }
}

/// What happens.
#[derive(Debug, Clone)]
enum Step {
    /// Items show up, each so late.
    Appear(Vec<i64>),
    /// Time goes by, in seconds.
    Pass(i64),
    /// An item leaves.
    Leave(usize),
    /// The API is asked. Something happens before each page but the first; after so many pages it fails, the store is full, or the relay
    /// is killed.
    Round { meanwhile: Vec<Meanwhile>, ends: Option<(usize, Trouble)> },
}

/// What happens between two pages.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    /// An item shows up, so late.
    Appear(i64),
    /// An item leaves that stood there already when the round began: what comes and goes within a pass is nobody's.
    Leave(usize),
    /// An item gets another value: now.
    Change(usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Fails,
    Full,
    Killed,
}

/// The API: its items by their ids, in the order in which they showed up.
struct Api {
    manner: Manner,
    world: Mutex<World>,
}

struct World {
    now: i64,
    items: Vec<Run>,
    asked: usize,
    /// How many items there were when the round began, and when that was.
    then: (usize, i64),
    meanwhile: Vec<Meanwhile>,
    ends: Option<(usize, Trouble)>,
}

/// An item.
#[derive(Debug, Clone)]
struct Run {
    id: String,
    at: i64,
    /// It is in no answer any more.
    gone: bool,
}

impl World {
    fn happens(&mut self, manner: &Manner, what: Meanwhile) {
        let (now, (then, began)) = (self.now, self.then);
        match what {
            Meanwhile::Appear(late) if manner.times => self.appear(manner, late),
            Meanwhile::Change(n) if manner.times => self.items.get_mut(n % then.max(1)).into_iter().for_each(|run| run.at = now),
            Meanwhile::Leave(n) => self.items.get_mut(n % then.max(1)).into_iter().for_each(|run| run.gone = run.at <= began),
            _ => {}
        }
    }

    fn appear(&mut self, manner: &Manner, late: i64) {
        // What has the very value that is asked from is missing in answers of some.
        let late = late.min(if manner.inclusive { OVERLAP } else { OVERLAP - 1 });
        self.items.push(Run { id: format!("run_{:04}", self.items.len()), at: self.now - late, gone: false });
    }
}

impl Ask for Api {
    async fn whole(&self, url: &Url, _: HeaderMap, _: usize, _: Instant) -> Result<Whole, NotWhole> {
        let trouble = {
            let mut world = self.world.lock().unwrap();
            world.asked += 1;
            if 1 < world.asked {
                world.now += if self.manner.times { 7 } else { 0 };
                if let Some(what) = world.meanwhile.pop() {
                    world.happens(&self.manner, what);
                }
            }
            world.ends.filter(|(after, _)| *after < world.asked).map(|(_, trouble)| trouble)
        };
        match trouble {
            Some(Trouble::Fails) => return Ok(Whole { status: 503, headers: HeaderMap::new(), body: "{}".into() }),
            Some(Trouble::Killed) => std::future::pending().await,
            _ => {}
        }
        Ok(self.answer(url))
    }
}

impl Api {
    fn answer(&self, url: &Url) -> Whole {
        let given: BTreeMap<_, _> = url.query_pairs().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        let number = |name: &str| given.get(name).map(|text| text.parse::<i64>().unwrap());
        let since = number("since");
        let world = self.world.lock().unwrap();
        let wanted = |at: i64| since.is_none_or(|since| if self.manner.inclusive { since <= at } else { since < at });
        let mut items: Vec<_> = world.items.iter().filter(|run| wanted(run.at) && !run.gone).collect();
        // Where an item stands in the answer, whatever else does.
        let place = |run: &Run| match self.manner.order {
            "ascending" => (run.at, run.id.clone()),
            "descending" => (-run.at, run.id.clone()),
            _ => (0, run.id.clone()),
        };
        items.sort_by_key(|run| place(run));
        let size = self.manner.size;
        let offset = match self.manner.paging {
            "none" => 0,
            "page" => (number("page").unwrap() as usize - 1) * size,
            "offset" => number("offset").unwrap_or(0) as usize,
            // Behind the place of the last item, wherever that is by now.
            _ => given.get("token").map_or(0, |token| {
                let (at, id) = token.split_once('_').unwrap();
                items.iter().filter(|run| place(run) <= (at.parse().unwrap(), id.to_owned())).count()
            }),
        };
        let size = if self.manner.paging == "none" { usize::MAX } else { size };
        let shown: Vec<_> = items.iter().skip(offset).take(size).collect();
        let runs: Vec<_> = shown.iter().map(|run| json!({"id": run.id, "at": run.at})).collect();
        let more = offset.saturating_add(size) < items.len();
        let token = shown.last().map(|run| place(run)).map_or_else(String::new, |(at, id)| format!("{at}_{id}"));
        let next = since.map_or_else(|| format!("?token={token}"), |since| format!("?since={since}&token={token}"));
        let mut headers = HeaderMap::new();
        let mut body = json!({"runs": runs});
        match self.manner.paging {
            "next" if more => body["next"] = next.into(),
            "token" if more => body["token"] = token.into(),
            "link" if more => _ = headers.insert(LINK, format!("</x>; rel=prev, </runs{next}>; rel=\"next\"").parse().unwrap()),
            _ => {}
        }
        Whole { status: 200, headers, body: body.to_string().into() }
    }
}

struct Bench {
    relay: Relay,
    api: Api,
    source: Source,
    /// `None`: the relay was just started.
    state: Option<State>,
}

impl Bench {
    fn new(manner: Manner) -> Self {
        let source = manner.source();
        let world = World { now: START + 1000, items: Vec::new(), asked: 0, then: (0, 0), meanwhile: Vec::new(), ends: None };
        let relay = relay(&[]);
        Self { relay, api: Api { manner, world: Mutex::new(world) }, source, state: None }
    }

    fn step(&self, step: &Step) {
        let mut world = self.api.world.lock().unwrap();
        match step {
            Step::Appear(all) => all.iter().for_each(|late| world.appear(&self.api.manner, *late)),
            Step::Pass(seconds) => world.now += seconds,
            Step::Leave(n) => {
                let n = n % world.items.len().max(1);
                world.items.get_mut(n).into_iter().for_each(|run| run.gone = true);
            }
            Step::Round { .. } => {}
        }
    }

    /// Asks once; `None`: the relay was killed.
    async fn round(&mut self, meanwhile: Vec<Meanwhile>, ends: Option<(usize, Trouble)>) -> Option<Result<End, Fault>> {
        {
            let mut world = self.api.world.lock().unwrap();
            (world.asked, world.then, world.meanwhile, world.ends) = (0, (world.items.len(), world.now), meanwhile, ends);
            let ahead = Timestamp::from_second(world.now).unwrap().duration_since(self.relay.clock.now());
            self.relay.clock.advance(ahead.unsigned_abs());
            let left = ends.filter(|(_, trouble)| *trouble == Trouble::Full).map(|(after, _)| after);
            *self.relay.store.left.lock().unwrap() = left;
        }
        let store = &*self.relay.store;
        let mut state = match self.state.take() {
            Some(state) => state,
            None => match State::read(store, &self.source.name).await.unwrap() {
                Some(state) => state,
                None => State { start: START.to_string(), floor: Some(START.to_string()), ..State::default() },
            },
        };
        let stop = CancellationToken::new();
        let round = self.round_of(&self.api, &stop);
        let mut tally = Tally::default();
        let ended = tokio::select! {
            biased;
            ended = round.run(&mut state, &mut tally) => ended,
            // All that it can wait for here is to be killed.
            () = std::future::ready(()) => return None,
        };
        self.state = Some(state);
        Some(ended)
    }

    fn round_of<'r, A>(&'r self, fetch: &'r A, stop: &'r CancellationToken) -> Round<'r, A> {
        Round {
            source: &self.source,
            poll: self.source.poll().unwrap(),
            fetch,
            ingest: &self.relay.ingest,
            store: &*self.relay.store,
            clock: &self.relay.clock,
            stop,
        }
    }

    /// Asks `api` once, which is another; answers how far it came, too.
    async fn asks(&mut self, api: &Scripted) -> (Result<End, Fault>, State) {
        let mut state = self.state.take().unwrap_or_default();
        let stop = CancellationToken::new();
        let ended = self.round_of(api, &stop).run(&mut state, &mut Tally::default()).await;
        self.state = Some(state.clone());
        (ended, state)
    }

    fn taken(&self) -> Vec<String> {
        let events = self.relay.store.events.lock().unwrap();
        let mut ids: Vec<_> = events.iter().map(|event| event.envelope.id.clone()).collect();
        ids.sort();
        ids
    }

    /// What must be taken: all that is there. Who may be, too: whoever was there and has left.
    fn wanted(&self) -> Vec<String> {
        self.ids(|run| !run.gone)
    }

    fn ids(&self, fits: impl Fn(&Run) -> bool) -> Vec<String> {
        let world = self.api.world.lock().unwrap();
        world.items.iter().filter(|run| START <= run.at && fits(run)).map(|run| run.id.clone()).collect()
    }

    /// Holds that what was to be taken was, each once, and nothing else.
    fn holds(&self) {
        let (taken, possible) = (self.taken(), self.ids(|_| true));
        assert!(taken.windows(2).all(|pair| pair[0] != pair[1]), "doubled: {taken:?}");
        assert!(taken.iter().all(|id| possible.contains(id)), "too much: {taken:?}");
        let lost: Vec<_> = self.wanted().into_iter().filter(|id| !taken.contains(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}

fn manners() -> impl Strategy<Value = Manner> {
    let paging = prop::sample::select(vec!["none", "next", "link", "token", "page", "offset"]);
    let order = prop::sample::select(vec!["any", "ascending", "descending"]);
    (any::<bool>(), paging, order, any::<bool>(), any::<bool>(), 1..5_usize).prop_map(
        |(times, paging, order, inclusive, since, size)| Manner {
            times,
            paging,
            order,
            inclusive,
            since: since || order != "descending",
            size,
        },
    )
}

fn late() -> impl Strategy<Value = i64> {
    // Many have the same value.
    prop_oneof![Just(0_i64), 0..=OVERLAP, Just(OVERLAP)]
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        late().prop_map(Meanwhile::Appear),
        any::<usize>().prop_map(Meanwhile::Leave),
        any::<usize>().prop_map(Meanwhile::Change),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let trouble = prop::sample::select(vec![Trouble::Fails, Trouble::Full, Trouble::Killed]);
    prop_oneof![
        3 => prop::collection::vec(late(), 1..6).prop_map(Step::Appear),
        2 => prop_oneof![0..10_i64, 0..2000_i64].prop_map(Step::Pass),
        1 => any::<usize>().prop_map(Step::Leave),
        3 => (prop::collection::vec(meanwhile(), 0..5), prop::option::of((0..6_usize, trouble)))
            .prop_map(|(meanwhile, ends)| Step::Round { meanwhile, ends }),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_doubled(manner in manners(), script in prop::collection::vec(steps(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(manner);
            for step in &script {
                match step {
                    Step::Round { meanwhile, ends } => {
                        let ended = bench.round(meanwhile.clone(), *ends).await;
                        if ends.is_none() {
                            assert!(ended.unwrap().is_ok());
                        }
                    }
                    step => bench.step(step),
                }
            }
            assert_eq!(bench.round(Vec::new(), None).await, Some(Ok(End::Through)));
            bench.holds();
            // What is asked for again is known without the store.
            let before = bench.relay.ingest.statistics();
            assert_eq!(bench.round(Vec::new(), None).await, Some(Ok(End::Through)));
            bench.holds();
            assert_eq!(bench.relay.ingest.statistics(), before);
        });
    }
}

proptest! {
    /// What is asked for again within `overlap` hides much: here the items lie further from one another.
    #[test]
    fn nothing_of_a_backlog_is_passed_over(
        paging in prop::sample::select(vec!["page", "offset", "next"]),
        order in prop::sample::select(vec!["any", "ascending", "descending"]),
        size in 1..4_usize,
        distances in prop::collection::vec(0..2 * OVERLAP, 1..14),
        rounds in prop::collection::vec(prop::collection::vec(meanwhile(), 1..5), 1..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(Manner { times: true, paging, order, inclusive: true, since: true, size });
            bench.step(&Step::Pass(20_000));
            {
                let mut world = bench.api.world.lock().unwrap();
                let mut at = START;
                for (number, distance) in distances.iter().enumerate() {
                    at += distance;
                    world.items.push(Run { id: format!("run_{number:04}"), at, gone: false });
                }
            }
            for meanwhile in rounds {
                assert_eq!(bench.round(meanwhile, None).await, Some(Ok(End::Through)));
            }
            assert_eq!(bench.round(Vec::new(), None).await, Some(Ok(End::Through)));
            bench.holds();
        });
    }
}

/// A bench with so many items, one a second, and pages of two of them, `max` a round.
fn paged(order: &'static str, count: i64, max: u32) -> Bench {
    let manner = Manner { times: true, paging: "page", order, inclusive: true, since: true, size: 2 };
    let mut bench = Bench::new(manner);
    let paging = format!(r#", "paging": {{"by": "page", "query": "page", "max_pages": {max}}}"#);
    let text = format!(
        r#"{{"kind": "poll", "url": "https://h.example/runs", "every": "1m", "items": "$.runs", "map": {{"id": "$.id"}},
            "cursor": {{"query": "since", "path": "$.at", "as": "unix", "start": "{START}", "overlap": "1s", "order": "{order}"}}{paging}}}"#
    );
    bench.source = source("runs", &text).unwrap();
    bench.step(&Step::Appear((0..count).map(|n| 200 - n).collect()));
    bench
}

#[tokio::test]
async fn a_long_answer_in_ascending_order_is_had_in_several_rounds() {
    let mut bench = paged("ascending", 20, 4);
    let mut rounds = 1;
    while bench.round(Vec::new(), None).await.unwrap() != Ok(End::Through) {
        rounds += 1;
        // Another start goes on from there.
        bench.state = None;
    }
    assert!((3..10).contains(&rounds), "{rounds}");
    assert_eq!(bench.taken(), bench.wanted());
}

#[tokio::test]
async fn one_in_no_order_needs_all_its_pages_at_once_and_says_so() {
    let mut bench = paged("any", 20, 4);
    let fault = bench.round(Vec::new(), None).await.unwrap().unwrap_err();
    assert_eq!((fault.code, bench.taken().len()), (Code::BadPaging, 8));
    assert_eq!(
        fault.message,
        "after 4 pages there are more, and only once all were had is anything asked from further on: raise `max_pages`"
    );
}

#[tokio::test]
async fn an_order_that_does_not_hold_names_itself_and_moves_nothing() {
    let mut bench = paged("ascending", 6, 10);
    bench.round(Vec::new(), None).await.unwrap().unwrap();
    let reached = bench.state.as_ref().unwrap().reached.clone();
    bench.api.manner.order = "descending";
    bench.step(&Step::Pass(500));
    bench.step(&Step::Appear(vec![20, 10, 5, 4, 3]));
    let fault = bench.round(Vec::new(), None).await.unwrap().unwrap_err();
    assert!(fault.message.contains("not in ascending order"), "{}", fault.message);
    assert_eq!(bench.state.as_ref().unwrap().reached, reached);
    let kept = State::read(&*bench.relay.store, &bench.source.name).await.unwrap().unwrap();
    assert_eq!(kept.reached, reached);
    bench.api.manner.order = "ascending";
    bench.round(Vec::new(), None).await.unwrap().unwrap();
    assert_eq!(bench.taken(), bench.wanted());
}

#[tokio::test]
async fn a_time_to_come_does_not_hide_what_happens_until_then() {
    let mut bench = paged("any", 1, 10);
    bench.step(&Step::Appear(vec![-1_000_000]));
    bench.round(Vec::new(), None).await.unwrap().unwrap();
    bench.step(&Step::Pass(60));
    bench.step(&Step::Appear(vec![0]));
    bench.round(Vec::new(), None).await.unwrap().unwrap();
    assert_eq!(bench.taken().len(), 3);
}

#[tokio::test]
async fn what_leaves_while_pages_are_counted_moves_nothing_past_them() {
    for order in ["any", "ascending", "descending"] {
        let mut bench = paged(order, 8, 10);
        let ended = bench.round(vec![Meanwhile::Leave(if order == "descending" { 7 } else { 0 })], None).await;
        assert_eq!(ended, Some(Ok(End::Through)), "{order}");
        bench.holds();
        // The four pages and the empty one, and as many again to see that nothing was passed over; then those of a third time.
        let asked = bench.api.world.lock().unwrap().asked;
        assert!((10..=14).contains(&asked), "{order}: {asked}");
    }
}

#[tokio::test]
async fn an_answer_that_never_stands_still_says_so_and_moves_nothing() {
    let mut bench = paged("any", 200, 1000);
    let leaving = (0..200).rev().map(Meanwhile::Leave).collect();
    let fault = bench.round(leaving, None).await.unwrap().unwrap_err();
    assert_eq!(fault.code, Code::BadPaging);
    assert!(
        fault.message.starts_with("while the pages are counted, items leave the answer or change, 8 times"),
        "{}",
        fault.message
    );
    assert_eq!(bench.state.as_ref().unwrap().reached, None);
    bench.round(Vec::new(), None).await.unwrap().unwrap();
    bench.holds();
}

#[tokio::test]
async fn an_item_that_cannot_be_followed_keeps_nobody_else_from_being_taken() {
    let mut bench = paged("any", 0, 10);
    let text = r#"{"kind": "poll", "url": "https://h.example/runs", "every": "1m", "items": "$.runs", "map": {"id": "$.id"},
        "cursor": {"query": "since", "path": "$.at", "start": "2026-01-20T12:00:00Z"}, "paging": {"by": "next", "path": "$.next"}}"#;
    bench.source = source("runs", text).unwrap();
    let answers = Scripted::of([
        r#"{"runs": [{"id": 1, "at": "2026-01-20T12:00:01Z"}, {"id": 2, "at": "soon"}, {"id": 3, "at": ""}], "next": "?page=2"}"#,
        r#"{"runs": [{"id": 4, "at": "2026-01-20T12:00:02Z"}]}"#,
    ]);
    let (ended, state) = bench.asks(&answers).await;
    let fault = ended.unwrap_err();
    assert_eq!((fault.code, bench.taken()), (Code::BadCursor, ["1", "2", "3", "4"].map(String::from).to_vec()));
    assert_eq!(fault.message, "`$.at` of an item is `soon`, not a time such as 2026-01-20T12:00:00Z");
    assert_eq!(state.reached, None);
}

#[tokio::test]
async fn an_answer_without_items_leads_on_where_it_says_so_itself() {
    let mut bench = paged("any", 0, 10);
    let text = r#"{"kind": "poll", "url": "https://h.example/runs", "every": "1m", "items": "$.runs", "map": {"id": "$.id"},
        "cursor": {"query": "since", "path": "$.next", "from": "answer", "as": "number", "start": "0"}}"#;
    bench.source = source("runs", text).unwrap();
    let mut reached = Vec::new();
    for answer in
        [r#"{"runs": [], "next": 500}"#, r#"{"runs": [], "next": 0}"#, r#"{"runs": [], "next": 900}"#, r#"{"runs": []}"#]
    {
        let (ended, state) = bench.asks(&Scripted::of([answer])).await;
        assert_eq!(ended, Ok(End::Through), "{answer}");
        reached.push(state.reached.unwrap());
    }
    assert_eq!(reached, ["500", "500", "900", "900"]);
    let (ended, _) = bench.asks(&Scripted::of([r#"{"runs": [{"id": 1}]}"#])).await;
    assert_eq!(ended.unwrap_err().message, "the answer has items, but not `$.next`");
}

#[tokio::test]
async fn times_to_come_that_fill_all_the_pages_are_no_progress() {
    let mut bench = paged("ascending", 0, 2);
    bench.step(&Step::Appear(vec![-1_000_000; 10]));
    let first = bench.round(Vec::new(), None).await.unwrap();
    assert_eq!((first, bench.taken().len()), (Ok(End::More), 4));
    bench.step(&Step::Pass(5));
    let fault = bench.round(Vec::new(), None).await.unwrap().unwrap_err();
    assert_eq!(fault.message, "after 2 pages there are more, and nothing new on them but times to come: raise `max_pages`");
}

/// Answers one after the other, whatever is asked.
struct Scripted(Mutex<Vec<&'static str>>);

impl Scripted {
    fn of<const N: usize>(mut answers: [&'static str; N]) -> Self {
        answers.reverse();
        Self(Mutex::new(answers.to_vec()))
    }
}

impl Ask for Scripted {
    async fn whole(&self, _: &Url, _: HeaderMap, _: usize, _: Instant) -> Result<Whole, NotWhole> {
        let body = self.0.lock().unwrap().pop().expect("no more answers");
        Ok(Whole { status: 200, headers: HeaderMap::new(), body: body.into() })
    }
}

#[tokio::test]
async fn a_source_that_another_relay_took_over_is_not_asked_here_though_its_time_is_far_off() {
    let polled = || {
        source(
            "runs",
            r#"{"kind": "poll", "url": "https://runs.invalid/runs", "every": "6h", "items": "$.runs", "map": {"id": "$.id"}}"#,
        )
    };
    let name = polled().unwrap().name;
    let (relay, turns) = (relay(&[]), Ownership::turns(true));
    let parts = Parts {
        ingest: relay.ingest.clone(),
        store: relay.store.clone(),
        clock: relay.clock.clone(),
        metrics: Metrics::default(),
        announcer: Announcer::new().0,
        ownership: turns.seen(),
    };
    let stop = CancellationToken::new();
    let pollers = Pollers::start(parts, Prepared::new(&[polled().unwrap()], &[]).unwrap(), stop.clone());
    let becomes = async |owns: bool, rounds: u32| {
        turns.owns(owns);
        let stands = || pollers.status(&name).unwrap();
        let holds = async || {
            while stands().next_poll_at.is_some() != owns || stands().failures < rounds {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(Duration::from_secs(90), holds()).await.unwrap_or_else(|_| panic!("{owns}: {:?}", stands()));
    };
    becomes(true, 1).await;
    becomes(false, 1).await;
    // Whoever asked meanwhile may have come further, or have been about to.
    becomes(true, 2).await;
    stop.cancel();
}
