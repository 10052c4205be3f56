//! Rounds against a model of an API: whatever it does between and while it is asked, nothing is lost and nothing doubled.

use std::{cmp::Reverse, collections::BTreeMap, sync::Mutex};

use axum::http::{HeaderMap, header::LINK};
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    fault::{Code, Fault},
    round::{Ask, End, Round, Tally},
    state::State,
};
use crate::{
    clock::Timestamp,
    deliver::fetch::{NotWhole, Whole},
    ingest::{
        Source,
        source::tests::source,
        tests::{Relay, relay},
    },
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
    /// The API is asked. Before each page but the first, items show up that are so late; after so many pages it fails, the store is full,
    /// or the relay is killed.
    Round { meanwhile: Vec<i64>, ends: Option<(usize, Trouble)> },
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
    items: Vec<(String, i64)>,
    asked: usize,
    meanwhile: Vec<i64>,
    ends: Option<(usize, Trouble)>,
}

impl World {
    fn appear(&mut self, manner: &Manner, late: i64) {
        // What has the very value that is asked from is missing in answers of some.
        let late = late.min(if manner.inclusive { OVERLAP } else { OVERLAP - 1 });
        self.items.push((format!("run_{}", self.items.len()), self.now - late));
    }
}

impl Ask for Api {
    async fn whole(&self, url: &Url, _: HeaderMap, _: usize, _: Instant) -> Result<Whole, NotWhole> {
        let trouble = {
            let mut world = self.world.lock().unwrap();
            world.asked += 1;
            if 1 < world.asked && self.manner.times {
                world.now += 7;
                if let Some(late) = world.meanwhile.pop() {
                    world.appear(&self.manner, late);
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
        let mut items: Vec<_> = world.items.iter().filter(|(_, at)| wanted(*at)).collect();
        match self.manner.order {
            "ascending" => items.sort_by_key(|(_, at)| *at),
            "descending" => items.sort_by_key(|(_, at)| Reverse(*at)),
            _ => {}
        }
        let size = self.manner.size;
        let offset = match self.manner.paging {
            "none" => 0,
            "page" => (number("page").unwrap() as usize - 1) * size,
            name => number(if name == "offset" { "offset" } else { "token" }).unwrap_or(0) as usize,
        };
        let size = if self.manner.paging == "none" { usize::MAX } else { size };
        let runs: Vec<_> = items.iter().skip(offset).take(size).map(|(id, at)| json!({"id": id, "at": at})).collect();
        let more = offset.saturating_add(size) < items.len();
        let next = format!("?since={}&token={}", since.unwrap_or(0), offset.saturating_add(size));
        let next = if since.is_some() { next } else { format!("?token={}", offset.saturating_add(size)) };
        let mut headers = HeaderMap::new();
        let mut body = json!({"runs": runs});
        match self.manner.paging {
            "next" if more => body["next"] = next.into(),
            "token" if more => body["token"] = (offset + size).into(),
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
        let world = World { now: START + 1000, items: Vec::new(), asked: 0, meanwhile: Vec::new(), ends: None };
        let relay = relay(&[]);
        Self { relay, api: Api { manner, world: Mutex::new(world) }, source, state: None }
    }

    fn step(&self, step: &Step) {
        let mut world = self.api.world.lock().unwrap();
        match step {
            Step::Appear(all) => all.iter().for_each(|late| world.appear(&self.api.manner, *late)),
            Step::Pass(seconds) => world.now += seconds,
            Step::Round { .. } => {}
        }
    }

    /// Asks once; `None`: the relay was killed.
    async fn round(&mut self, meanwhile: Vec<i64>, ends: Option<(usize, Trouble)>) -> Option<Result<End, Fault>> {
        {
            let mut world = self.api.world.lock().unwrap();
            (world.asked, world.meanwhile, world.ends) = (0, meanwhile, ends);
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
        let round = Round {
            source: &self.source,
            poll: self.source.poll().unwrap(),
            fetch: &self.api,
            ingest: &self.relay.ingest,
            store,
            clock: &self.relay.clock,
            stop: &CancellationToken::new(),
        };
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

    fn taken(&self) -> Vec<String> {
        let events = self.relay.store.events.lock().unwrap();
        let mut ids: Vec<_> = events.iter().map(|event| event.envelope.id.clone()).collect();
        ids.sort();
        ids
    }

    fn wanted(&self) -> Vec<String> {
        let world = self.api.world.lock().unwrap();
        let mut ids: Vec<_> = world.items.iter().filter(|(_, at)| START <= *at).map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
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

fn steps() -> impl Strategy<Value = Step> {
    // Many have the same value.
    let late = prop_oneof![Just(0_i64), 0..=OVERLAP, Just(OVERLAP)];
    let trouble = prop::sample::select(vec![Trouble::Fails, Trouble::Full, Trouble::Killed]);
    prop_oneof![
        3 => prop::collection::vec(late.clone(), 1..6).prop_map(Step::Appear),
        2 => prop_oneof![0..10_i64, 0..2000_i64].prop_map(Step::Pass),
        3 => (prop::collection::vec(late, 0..4), prop::option::of((0..6_usize, trouble)))
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
            assert_eq!(bench.taken(), bench.wanted());
            // What is asked for again is known without the store.
            let before = bench.relay.ingest.statistics();
            assert_eq!(bench.round(Vec::new(), None).await, Some(Ok(End::Through)));
            assert_eq!((bench.taken(), bench.relay.ingest.statistics()), (bench.wanted(), before));
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
