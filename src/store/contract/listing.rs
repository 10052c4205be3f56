//! Promises about lists.

use super::*;
use crate::{clock::later, route::glob::Glob};

pub(crate) async fn events_are_paged_both_ways(bench: Bench) {
    for n in 0..5 {
        bench.accept(bench.event(&format!("evt_{n}"))).await;
    }
    let page = async |page| {
        let rows = bench.store.events(Filter { page, limit: 2, ..Filter::default() }).await.unwrap();
        let ids: Vec<_> = rows.iter().map(|row| row.envelope.id.clone()).collect();
        (ids, rows.last().map_or(0, |row| row.uid.seq))
    };
    let (ids, last) = page(Page::Newest).await;
    assert_eq!(ids, ["evt_4", "evt_3"]);
    let (ids, last) = page(Page::Before(last)).await;
    assert_eq!(ids, ["evt_2", "evt_1"]);
    assert_eq!(page(Page::Before(last)).await.0, ["evt_0"]);
    let (ids, last) = page(Page::After(0)).await;
    assert_eq!(ids, ["evt_0", "evt_1"]);
    let (ids, last) = page(Page::After(last)).await;
    assert_eq!(ids, ["evt_2", "evt_3"]);
    let (ids, last) = page(Page::After(last)).await;
    assert_eq!(ids, ["evt_4"]);
    assert_eq!(page(Page::After(last)).await.0, Vec::<String>::new());
}

pub(crate) async fn events_are_filtered(bench: Bench) {
    let begin = bench.clock.now();
    bench.accept(bench.event("evt_1").to(&["crm"])).await;
    bench.clock.advance(seconds(10));
    let middle = bench.clock.now();
    let mut other = bench.event("evt_2").to(&["n8n", "mail"]);
    other.envelope.source = "agents".into();
    other.envelope.r#type = "agent.message".into();
    other.envelope.namespace = None;
    bench.accept(other).await;
    let filter = Filter::default();
    let ids = async |filter| {
        let rows = bench.store.events(filter).await.unwrap();
        rows.into_iter().map(|row| row.envelope.id).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(Filter { source: Some("agents".into()), ..filter.clone() }).await, "evt_2");
    assert_eq!(ids(Filter { source: Some("agent".into()), ..filter.clone() }).await, "");
    assert_eq!(ids(Filter { r#type: Some("credential.expired".into()), ..filter.clone() }).await, "evt_1");
    assert_eq!(ids(Filter { target: Some("mail".into()), ..filter.clone() }).await, "evt_2");
    let of = |namespaces: &[&str]| Some(namespaces.iter().map(ToString::to_string).collect());
    assert_eq!(ids(Filter { namespaces: of(&["user_123", "x"]), ..filter.clone() }).await, "evt_1");
    assert_eq!(ids(Filter { namespaces: of(&["user_*", "other's"]), ..filter.clone() }).await, "");
    assert_eq!(ids(Filter { namespaces: of(&[]), ..filter.clone() }).await, "");
    assert_eq!(ids(Filter { target: Some("nobody".into()), ..filter.clone() }).await, "");
    assert_eq!(ids(Filter { state: Some(State::Pending), ..filter.clone() }).await, "evt_2 evt_1");
    assert_eq!(ids(Filter { state: Some(State::Dead), ..filter.clone() }).await, "");
    assert_eq!(ids(Filter { state: Some(State::Held), ..filter.clone() }).await, "");
    let waiting = Filter { target: Some("mail".into()), state: Some(State::Pending), ..filter.clone() };
    assert_eq!(ids(waiting).await, "evt_2");
    assert_eq!(ids(Filter { since: Some(middle), ..filter.clone() }).await, "evt_2");
    assert_eq!(ids(Filter { until: Some(middle), ..filter.clone() }).await, "evt_1");
    assert_eq!(ids(Filter { since: Some(begin), until: Some(begin), ..filter.clone() }).await, "");
    let hostile = "'; DROP TABLE events; --".to_owned();
    assert_eq!(ids(Filter { source: Some(hostile.clone()), target: Some(hostile), ..filter.clone() }).await, "");
    assert_eq!(ids(filter).await, "evt_2 evt_1");
}

pub(crate) async fn deliveries_are_paged_both_ways(bench: Bench) {
    let first = bench.accept(bench.event("evt_1").to(&["a", "b", "c"])).await;
    let second = bench.accept(bench.event("evt_2").to(&["a", "b"])).await;
    let page = async |page| {
        let rows = bench.store.deliveries(Filter { page, limit: 2, ..Filter::default() }).await.unwrap();
        rows.iter().map(|row| row.delivery.id).collect::<Vec<_>>()
    };
    let id = |event, n| DeliveryId { event, n };
    assert_eq!(page(Page::Newest).await, [id(second, 2), id(second, 1)]);
    assert_eq!(page(Page::Before(id(second, 1).place())).await, [id(first, 3), id(first, 2)]);
    assert_eq!(page(Page::Before(id(first, 2).place())).await, [id(first, 1)]);
    assert_eq!(page(Page::After(0)).await, [id(first, 1), id(first, 2)]);
    assert_eq!(page(Page::After(id(first, 2).place())).await, [id(first, 3), id(second, 1)]);
    assert_eq!(page(Page::After(id(second, 2).place())).await, []);
}

pub(crate) async fn deliveries_are_filtered(bench: Bench) {
    let first = bench.accept(bench.event("evt_1").to(&["crm", "n8n"])).await;
    bench.clock.advance(seconds(10));
    let mut other = bench.event("evt_2").to(&["crm", "mail"]);
    other.envelope.source = "agents".into();
    let second = bench.accept(other).await;
    bench.recorded(DeliveryId { event: first, n: 1 }, 1, Next::Delivered).await;
    bench.recorded(DeliveryId { event: second, n: 2 }, 1, Next::Dead(Cause::Receiver)).await;
    let filter = Filter::default();
    let found = async |filter| {
        let rows = bench.store.deliveries(filter).await.unwrap();
        rows.into_iter().map(|row| format!("{}>{}", row.event_id, row.delivery.target)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(Filter { source: Some("agents".into()), ..filter.clone() }).await, "evt_2>mail evt_2>crm");
    assert_eq!(found(Filter { r#type: Some("credential.expired".into()), limit: 1, ..filter.clone() }).await, "evt_2>mail");
    assert_eq!(found(Filter { target: Some("crm".into()), ..filter.clone() }).await, "evt_2>crm evt_1>crm");
    assert_eq!(found(Filter { event: Some(first), ..filter.clone() }).await, "evt_1>n8n evt_1>crm");
    assert_eq!(found(Filter { since: Some(bench.clock.now()), ..filter.clone() }).await, "evt_2>mail evt_2>crm");
    assert_eq!(found(Filter { until: Some(bench.clock.now()), ..filter.clone() }).await, "evt_1>n8n evt_1>crm");
    let state = |state| Filter { state: Some(state), ..filter.clone() };
    assert_eq!(found(state(State::Pending)).await, "evt_2>crm evt_1>n8n");
    assert_eq!(found(state(State::Delivered)).await, "evt_1>crm");
    assert_eq!(found(state(State::Dead)).await, "evt_2>mail");
    assert_eq!(found(state(State::Held)).await, "", "a state that is never written");
    let pending_to = |targets| Filter { targets: Some(targets), ..state(State::Pending) };
    assert_eq!(found(pending_to(Targets::Flowing(vec!["n8n".into(), "mail".into()]))).await, "evt_1>n8n");
    assert_eq!(found(pending_to(Targets::Held(vec!["n8n".into()]))).await, "evt_2>crm");
    assert_eq!(found(pending_to(Targets::Flowing(Vec::new()))).await, "");
    assert_eq!(found(Filter { event: Some(first), ..state(State::Pending) }).await, "evt_1>n8n");
    assert_eq!(found(Filter { event: Some(first), ..state(State::Dead) }).await, "");
    assert_eq!(found(Filter { page: Page::After(0), limit: 1, ..state(State::Pending) }).await, "evt_1>n8n");
}

pub(crate) async fn types_are_filtered_as_rules_match_them(bench: Bench) {
    const TYPES: [&str; 12] =
        ["two", "two.a", "two.b", "two.a.b", "two.", "x.two.a", "t\nwo.a", "two\u{1a}.a", "a+b", "aab", "a[b].c|d", r"a\b.$"];
    for r#type in TYPES {
        let mut event = bench.event(r#type).to(&["crm"]);
        event.envelope.r#type = r#type.into();
        bench.accept(event).await;
    }
    let globs = |texts: &[&str]| texts.iter().map(|text| Glob::parse(text).unwrap()).collect::<Vec<_>>();
    for texts in [
        &["two.*"][..],
        &["two.**"],
        &["**"],
        &["*"],
        &["**.a"],
        &["*.two.*"],
        &["t*.a"],
        &["two.a", "two.b"],
        &["two.a", "a*"],
        &["a+*"],
        &["a[b].*"],
        &[r"a\*.$"],
        &["two\u{1a}.*"],
        &["a[b].c|*"],
        &["no.such*"],
        &["^two.*"],
    ] {
        let types = globs(texts);
        let wanted: Vec<_> = TYPES.iter().filter(|text| types.iter().any(|glob| glob.matches(text))).collect();
        let filter = Filter { types, page: Page::After(0), ..Filter::default() };
        let rows = bench.store.events(filter.clone()).await.unwrap();
        assert_eq!(rows.iter().map(|row| &row.envelope.r#type).collect::<Vec<_>>(), wanted, "{texts:?}");
        let rows = bench.store.deliveries(filter.clone()).await.unwrap();
        assert_eq!(rows.iter().map(|row| &row.r#type).collect::<Vec<_>>(), wanted, "{texts:?}");
        let counted =
            (bench.store.count_events(filter.clone()).await.unwrap(), bench.store.count_deliveries(filter).await.unwrap());
        assert_eq!(counted, (wanted.len() as u64, wanted.len() as u64), "{texts:?}");
    }
}

pub(crate) async fn deliveries_of_a_subscription_are_listed_with_their_attempts_alone(bench: Bench) {
    let by_itself = |mut event: NewEvent, target: &str| {
        event.deliveries.push(NewDelivery { rule: Some(target.into()), ..NewDelivery::to(target.into()) });
        event
    };
    let mut ids = Vec::new();
    for n in 0..4 {
        let event = bench.event(&format!("evt_{n}")).to(&["crm", "wh_a"]);
        let event = bench.accept(by_itself(by_itself(event, "wh_a"), "wh_b")).await;
        ids.push(event);
    }
    let id = |at: usize, n| DeliveryId { event: ids[at], n };
    bench.recorded(id(0, 3), 1, Next::Delivered).await;
    let failed = bench.attempt(id(1, 3), 1, Next::Retry(bench.clock.now()));
    let dead = bench.attempt(id(1, 3), 2, Next::Dead(Cause::Receiver));
    bench.store.record(vec![failed.clone(), dead.clone(), bench.attempt(id(1, 4), 1, Next::Delivered)]).await.unwrap();
    let a = Filter { target: Some("wh_a".into()), ..Filter::default() };
    let found = async |filter: Filter| {
        let rows = bench.store.subscribed(filter).await.unwrap();
        rows.into_iter().map(|row| row.delivery.id).collect::<Vec<_>>()
    };
    // What a rule of that name sends to it is the rule's.
    assert_eq!(found(a.clone()).await, [id(3, 3), id(2, 3), id(1, 3), id(0, 3)]);
    assert_eq!(found(Filter { limit: 2, page: Page::Before(id(2, 3).place()), ..a.clone() }).await, [id(1, 3), id(0, 3)]);
    assert_eq!(found(Filter { limit: 1, page: Page::After(id(2, 3).place()), ..a.clone() }).await, [id(3, 3)]);
    assert_eq!(found(Filter { state: Some(State::Delivered), ..a.clone() }).await, [id(0, 3)]);
    assert_eq!(found(Filter { state: Some(State::Dead), ..a.clone() }).await, [id(1, 3)]);
    assert_eq!(found(Filter { r#type: Some("other".into()), ..a.clone() }).await, []);
    assert_eq!(found(Filter { target: Some("crm".into()), ..a.clone() }).await, []);
    assert_eq!(found(Filter { target: None, ..a }).await, []);
    let attempts = bench.store.attempts_of(vec![id(1, 3), id(3, 3)]).await.unwrap();
    assert_eq!(attempts, [failed, dead]);
}

pub(crate) async fn lists_leave_bodies_out(bench: Bench) {
    let id = bench.planned("evt_1", "n8n").await;
    let made = Rendered { content_type: "text/plain".into(), body: Bytes::from_static(b"made"), progress: None, reached: false };
    let attempt = Attempt { rendered: Some(made), ..bench.attempt(id, 1, Next::Retry(bench.clock.now())) };
    bench.store.record(vec![attempt]).await.unwrap();
    let rows = bench.store.events(Filter::default()).await.unwrap();
    assert!(rows[0].envelope.body.is_empty());
    assert_eq!(rows[0].deliveries, 1);
    let rows = bench.store.deliveries(Filter::default()).await.unwrap();
    assert_eq!(rows[0].delivery.body, None);
    assert_eq!((rows[0].source.as_str(), rows[0].r#type.as_str()), ("interactor", "credential.expired"));
}

pub(crate) async fn what_a_filter_selects_is_counted(bench: Bench) {
    let first = bench.accept(bench.event("evt_1").to(&["crm", "n8n"])).await;
    let second = bench.accept(bench.event("evt_2").to(&["crm"])).await;
    bench.accept(bench.event("evt_3")).await;
    bench.recorded(DeliveryId { event: first, n: 1 }, 1, Next::Dead(Cause::Receiver)).await;
    bench.recorded(DeliveryId { event: first, n: 2 }, 1, Next::Dead(Cause::Config)).await;
    let filter = Filter { limit: 1, page: Page::Before(0), ..Filter::default() };
    let deliveries = async |filter| bench.store.count_deliveries(filter).await.unwrap();
    assert_eq!(deliveries(filter.clone()).await, 3);
    assert_eq!(deliveries(Filter { target: Some("crm".into()), ..filter.clone() }).await, 2);
    assert_eq!(deliveries(Filter { state: Some(State::Dead), ..filter.clone() }).await, 2);
    assert_eq!(deliveries(Filter { cause: Some(Cause::Config), ..filter.clone() }).await, 1);
    assert_eq!(deliveries(Filter { cause: Some(Cause::Internal), state: Some(State::Dead), ..filter.clone() }).await, 0);
    assert_eq!(deliveries(Filter { resolved: Some(false), ..filter.clone() }).await, 2);
    assert_eq!(deliveries(Filter { resolved: Some(true), ..filter.clone() }).await, 0);
    let due = async |seconds: u64| {
        let time = later(bench.clock.now(), Duration::from_secs(seconds));
        let target = Some("crm".into());
        deliveries(Filter { target, state: Some(State::Pending), due_before: Some(time), ..filter.clone() }).await
    };
    assert_eq!((due(0).await, due(1).await), (0, 1));
    let retry = Next::Retry(later(bench.clock.now(), Duration::from_secs(60)));
    bench.recorded(DeliveryId { event: second, n: 1 }, 1, retry).await;
    assert_eq!((due(60).await, due(61).await), (0, 1));
    let events = async |filter| bench.store.count_events(filter).await.unwrap();
    assert_eq!(events(filter.clone()).await, 3);
    assert_eq!(events(Filter { target: Some("crm".into()), ..filter.clone() }).await, 2);
    assert_eq!(events(Filter { matched: Some(false), ..filter.clone() }).await, 1);
    assert_eq!(events(Filter { matched: Some(true), ..filter.clone() }).await, 2);
    assert_eq!(events(Filter { r#type: Some("no.such".into()), ..filter }).await, 0);
}

fn walk(page: Page, limit: u32) -> Walk {
    Walk { filter: Filter { page, limit, ..Filter::default() }, types: None, bodies: true, bytes: usize::MAX }
}

fn walked(walked: &Walked) -> (Vec<&str>, i64, bool) {
    (walked.events.iter().map(|event| event.envelope.id.as_str()).collect(), walked.upto.seq, walked.more)
}

pub(crate) async fn a_walk_goes_both_ways_with_bodies_within_its_bounds(bench: Bench) {
    let mut uids = Vec::new();
    for n in 0..5 {
        uids.push(bench.accept(bench.event(&format!("evt_{n}"))).await);
    }
    let first = bench.store.walk(walk(Page::After(0), 3)).await.unwrap();
    assert_eq!(walked(&first), (vec!["evt_0", "evt_1", "evt_2"], uids[2].seq, true));
    assert_eq!(first.upto, uids[2]);
    assert!(first.events.iter().all(|event| !event.envelope.body.is_empty() && event.envelope.data().len() > 2));
    let rest = bench.store.walk(walk(Page::After(first.upto.seq), 3)).await.unwrap();
    assert_eq!(walked(&rest), (vec!["evt_3", "evt_4"], uids[4].seq, false));
    let back = bench.store.walk(walk(Page::Newest, 2)).await.unwrap();
    assert_eq!(walked(&back), (vec!["evt_4", "evt_3"], uids[3].seq, true));
    let back = bench.store.walk(walk(Page::Before(back.upto.seq), 9)).await.unwrap();
    assert_eq!(walked(&back), (vec!["evt_2", "evt_1", "evt_0"], uids[0].seq, false));
    // One always comes, however large.
    let small = bench.store.walk(Walk { bytes: 1, ..walk(Page::After(0), 3) }).await.unwrap();
    assert_eq!(walked(&small), (vec!["evt_0"], uids[0].seq, true));
    let bare = bench.store.walk(Walk { bodies: false, bytes: 1, ..walk(Page::After(0), 3) }).await.unwrap();
    assert!(bare.events.len() == 3 && bare.events.iter().all(|event| event.envelope.body.is_empty()));
}

pub(crate) async fn a_walk_tells_how_far_it_has_looked(bench: Bench) {
    let none = bench.store.walk(walk(Page::After(0), 3)).await.unwrap();
    assert_eq!(walked(&none), (vec![], 0, false));
    let mut other = bench.event("evt_1");
    other.envelope.r#type = "agent.message".into();
    bench.accept(other).await;
    let last = bench.accept(bench.event("evt_2")).await;
    let agents = Walk { types: Some(Arc::new(|text: &str| text.starts_with("agent."))), ..walk(Page::After(0), 9) };
    assert_eq!(walked(&bench.store.walk(agents.clone()).await.unwrap()), (vec!["evt_1"], last.seq, false));
    let filter = Filter { source: Some("nobody".into()), ..agents.filter.clone() };
    let nobody = bench.store.walk(Walk { filter, ..agents.clone() }).await.unwrap();
    assert_eq!((walked(&nobody), nobody.upto), ((vec![], last.seq, false), last));
    let filter = Filter { namespaces: Some(vec!["user_123".into()]), ..agents.filter.clone() };
    assert_eq!(bench.store.walk(Walk { filter, ..agents.clone() }).await.unwrap().events.len(), 1);
    let behind = bench.store.walk(walk(Page::After(last.seq), 9)).await.unwrap();
    assert_eq!((walked(&behind), behind.upto), ((vec![], last.seq, false), last));
}

pub(crate) async fn whoever_walks_on_misses_nothing_that_is_committed_meanwhile(bench: Bench) {
    const EVENTS: usize = 200;
    let bench = Arc::new(bench);
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..4 {
        let bench = bench.clone();
        senders.spawn(async move {
            let mut uids = Vec::new();
            for n in 0..EVENTS / 4 {
                uids.push(bench.accept(bench.event(&format!("evt_{sender}_{n}"))).await);
            }
            uids
        });
    }
    let (mut newest, mut upto, mut seen) = (bench.store.newest(), 0, Vec::new());
    while seen.len() < EVENTS {
        newest.wait_for(|newest| upto < *newest).await.unwrap();
        let found = bench.store.walk(walk(Page::After(upto), 7)).await.unwrap();
        assert!(
            upto < found.upto.seq && found.events.iter().all(|event| upto < event.uid.seq && event.uid.seq <= found.upto.seq)
        );
        upto = found.upto.seq;
        seen.extend(found.events.into_iter().map(|event| event.uid));
    }
    let mut accepted: Vec<_> = senders.join_all().await.into_iter().flatten().collect();
    accepted.sort_unstable();
    assert_eq!(seen, accepted);
}
