//! Promises about requests that were not accepted.

use super::*;

const MANY: u64 = 1 << 30;

fn rejection(bench: &Bench, source: Option<&str>, sealed: Option<usize>) -> NewRejection {
    NewRejection {
        source: source.map(Into::into),
        at: bench.clock.now(),
        status: 401,
        code: "invalid_signature",
        reason: "the previous secret fits".into(),
        path: "/webhooks/interactor".into(),
        remote: "203.0.113.7".into(),
        bytes: 512,
        sealed: sealed.map(|len| vec![7; len]),
    }
}

pub(crate) async fn rejections_are_read_back(bench: Bench) {
    let kept = rejection(&bench, Some("interactor"), Some(100));
    let bare = NewRejection { code: "not_found", status: 404, ..rejection(&bench, None, None) };
    bench.store.reject(vec![kept.clone(), bare.clone()], 10, MANY).await.unwrap();
    let bench = bench.restart().await;
    let rows = bench.store.rejections(Filter::default()).await.unwrap();
    assert_eq!(rows[0].rejection, bare);
    assert_eq!(rows[1].rejection, NewRejection { sealed: None, ..kept.clone() });
    assert_eq!((rows[0].kept, rows[1].kept), (false, true));
    assert!(rows[1].id < rows[0].id);
    let whole = bench.store.quarantined(Filter::default(), 0).await.unwrap();
    assert_eq!(whole.len(), 1);
    assert_eq!((whole[0].id, &whole[0].rejection), (rows[1].id, &kept));
}

pub(crate) async fn rejections_are_filtered_and_paged(bench: Bench) {
    for source in [Some("a"), Some("b"), None] {
        bench.store.reject(vec![rejection(&bench, source, Some(1))], 10, MANY).await.unwrap();
        bench.clock.advance(seconds(10));
    }
    let late = NewRejection { code: "invalid_json", ..rejection(&bench, Some("a"), Some(1)) };
    bench.store.reject(vec![late], 10, MANY).await.unwrap();
    let filter = Filter::default();
    let ids = async |filter: Filter| {
        let rows = bench.store.rejections(filter).await.unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let all = ids(filter.clone()).await;
    assert_eq!(all.len(), 4);
    assert_eq!(ids(Filter { source: Some("a".into()), ..filter.clone() }).await, [all[0], all[3]]);
    assert_eq!(ids(Filter { code: Some("invalid_json".into()), ..filter.clone() }).await, [all[0]]);
    assert_eq!(ids(Filter { since: Some(bench.clock.now()), ..filter.clone() }).await, [all[0]]);
    assert_eq!(ids(Filter { until: Some(bench.clock.now()), ..filter.clone() }).await, all[1..]);
    assert_eq!(ids(Filter { page: Page::Before(all[1]), limit: 1, ..filter.clone() }).await, [all[2]]);
    assert_eq!(ids(Filter { page: Page::After(all[3]), limit: 2, ..filter.clone() }).await, [all[2], all[1]]);
    let kept = bench.store.quarantined(Filter { source: Some("a".into()), limit: 1, ..filter.clone() }, 0).await.unwrap();
    assert_eq!(kept[0].id, all[3]);
    let kept = bench.store.quarantined(Filter { source: Some("a".into()), limit: 1, ..filter }, kept[0].id).await.unwrap();
    assert_eq!(kept[0].id, all[0]);
}

/// Sizes of what is kept for `source`, oldest first.
async fn kept(bench: &Bench, source: Option<&str>) -> Vec<usize> {
    let rows = bench.store.quarantined(Filter { limit: 1000, ..Filter::default() }, 0).await.unwrap();
    let of_source = rows.iter().filter(|row| row.rejection.source.as_ref().map(Name::as_str) == source);
    of_source.map(|row| row.rejection.sealed.as_ref().map_or(0, Vec::len)).collect()
}

pub(crate) async fn the_quarantine_is_bounded_by_source(bench: Bench) {
    let many = (1..=10).map(|len| rejection(&bench, Some("a"), Some(len))).collect();
    bench.store.reject(many, 4, MANY).await.unwrap();
    bench.store.reject(vec![rejection(&bench, Some("b"), Some(50))], 4, MANY).await.unwrap();
    assert_eq!(kept(&bench, Some("a")).await, [7, 8, 9, 10]);
    assert_eq!(kept(&bench, Some("b")).await, [50], "another source's bound is its own");
    bench.store.reject(vec![rejection(&bench, Some("a"), Some(20))], 10, 40).await.unwrap();
    assert_eq!(kept(&bench, Some("a")).await, [9, 10, 20], "by bytes: 39 of 40");
    bench.store.reject(vec![rejection(&bench, Some("a"), Some(41))], 10, 40).await.unwrap();
    assert_eq!(kept(&bench, Some("a")).await, Vec::<usize>::new(), "what exceeds the bound alone is not kept");
    let rows = bench.store.rejections(Filter { limit: 1000, ..Filter::default() }).await.unwrap();
    assert_eq!(rows.len(), 13, "the rows stay");
    assert_eq!(rows.iter().filter(|row| row.kept).count(), 1);
}

pub(crate) async fn paths_of_no_source_share_one_bound(bench: Bench) {
    let path = |n: usize| NewRejection { path: format!("/{n}"), ..rejection(&bench, None, Some(n)) };
    bench.store.reject((1..=5).map(path).collect(), 2, MANY).await.unwrap();
    assert_eq!(kept(&bench, None).await, [4, 5]);
}

pub(crate) async fn a_retried_rejection_is_settled(bench: Bench) {
    let two = vec![rejection(&bench, Some("a"), Some(10)), rejection(&bench, Some("a"), Some(20))];
    bench.store.reject(two, 10, MANY).await.unwrap();
    let ids: Vec<_> = bench.store.quarantined(Filter::default(), 0).await.unwrap().iter().map(|row| row.id).collect();
    let uid = bench.accept(bench.event("evt_1")).await;
    bench.clock.advance(seconds(60));
    let now = bench.clock.now();
    bench.store.settle_rejection(ids[0], now, Retried::Failed("still the wrong secret".into())).await.unwrap();
    bench.store.settle_rejection(ids[1], now, Retried::Accepted(uid)).await.unwrap();
    let rows = bench.store.rejections(Filter { page: Page::After(0), ..Filter::default() }).await.unwrap();
    assert_eq!((rows[0].kept, rows[0].retried_at, rows[0].accepted_as.as_deref()), (true, Some(now), None));
    assert_eq!(rows[0].rejection.reason, "still the wrong secret");
    assert_eq!((rows[1].kept, rows[1].retried_at, rows[1].accepted_as.as_deref()), (false, Some(now), Some(&*uid.to_string())));
    assert_eq!(kept(&bench, Some("a")).await, [10]);
    // What was settled no longer counts towards the bound.
    bench.store.reject(vec![rejection(&bench, Some("a"), Some(30))], 2, MANY).await.unwrap();
    assert_eq!(kept(&bench, Some("a")).await, [10, 30]);
}

pub(crate) async fn rejections_go_after_their_time(bench: Bench) {
    let retention =
        Retention { events: days(30), dead_letters: days(90), rejections: days(7), audit: days(365), max_bytes: None };
    bench.store.reject(vec![rejection(&bench, Some("a"), Some(10)); 3], 10, MANY).await.unwrap();
    bench.clock.advance(days(7));
    bench.store.reject(vec![rejection(&bench, Some("a"), Some(20))], 10, MANY).await.unwrap();
    assert_eq!(bench.store.prune(bench.clock.now(), retention, Vec::new()).await.unwrap().rejections, 0);
    bench.clock.advance(seconds(1));
    assert_eq!(bench.store.prune(bench.clock.now(), retention, Vec::new()).await.unwrap().rejections, 3);
    assert_eq!(bench.store.rejections(Filter::default()).await.unwrap().len(), 1);
    assert_eq!(kept(&bench, Some("a")).await, [20]);
}
