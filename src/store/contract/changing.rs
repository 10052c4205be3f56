//! Promises about records that people manage, about the audit, and about who is told of what is new.

use std::collections::BTreeSet;

use super::*;
use crate::clock::later;

fn put(id: &str, doc: &str, expected: Option<i64>) -> Write {
    let (kind, owner) = (RecordKind::Subscription, "user_123".to_owned());
    let sealed = Some(Bytes::from_static(b"\0sealed"));
    Write::Put { kind, id: id.into(), owner, doc: doc.into(), sealed, expected }
}

fn remove(id: &str, expected: i64) -> Write {
    Write::Remove { kind: RecordKind::Subscription, id: id.into(), expected }
}

impl Bench {
    async fn change(&self, writes: Vec<Write>) -> Changed {
        self.store.change(Change { writes, ..Change::default() }).await.unwrap()
    }

    /// Makes a change that nothing stands against; its revision.
    async fn changed(&self, writes: Vec<Write>) -> i64 {
        match self.change(writes).await {
            Changed::Done { revision } => revision,
            refused => panic!("{refused:?}"),
        }
    }

    async fn records(&self, after: i64) -> Vec<(String, Option<String>)> {
        let records = self.store.records(RecordKind::Subscription, after).await.unwrap();
        records.into_iter().map(|record| (record.id, record.doc)).collect()
    }

    fn entry(&self, who: &str, action: &str) -> NewAudit {
        let at = self.clock.now();
        let (subject, after) = ("wh_1".to_owned(), Some("{}".to_owned()));
        NewAudit { at, who: who.into(), action: action.into(), subject, before: None, after }
    }
}

fn shown(records: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    records.iter().map(|(id, doc)| ((*id).to_owned(), doc.map(str::to_owned))).collect()
}

pub(crate) async fn records_are_kept_changed_and_removed(bench: Bench) {
    let first = bench.changed(vec![put("wh_1", "{\"n\":1}", None), put("wh_2", "{\"n\":2}", None)]).await;
    let second = bench.changed(vec![put("wh_1", "{\"n\":3}", Some(first))]).await;
    assert!(first < second);
    let bench = bench.restart().await;
    let records = bench.store.records(RecordKind::Subscription, 0).await.unwrap();
    let kept = Record {
        kind: RecordKind::Subscription,
        id: "wh_1".into(),
        owner: "user_123".into(),
        revision: second,
        doc: Some("{\"n\":3}".into()),
        sealed: Some(Bytes::from_static(b"\0sealed")),
    };
    assert_eq!(records.into_iter().find(|record| record.id == "wh_1").as_ref(), Some(&kept));
    assert_eq!(bench.store.records(RecordKind::Token, 0).await.unwrap(), []);
    let one = async |kind| bench.store.record_of(kind, "wh_1").await.unwrap();
    assert_eq!((one(RecordKind::Subscription).await, one(RecordKind::Lane).await), (Some(kept), None));
    bench.changed(vec![remove("wh_1", second)]).await;
    assert_eq!(one(RecordKind::Subscription).await, None);
    assert_eq!(bench.records(0).await, shown(&[("wh_2", Some("{\"n\":2}"))]));
}

pub(crate) async fn a_change_is_made_whole_or_not_at_all(bench: Bench) {
    let revision = bench.changed(vec![put("wh_1", "1", None)]).await;
    let bad = [
        put("wh_1", "2", None),
        put("wh_1", "2", Some(revision - 1)),
        put("wh_9", "2", Some(revision)),
        remove("wh_9", revision),
    ];
    for bad in bad {
        let audit = vec![bench.entry("tok_1", "subscription.created")];
        let change = Change { writes: vec![put("wh_2", "2", None), bad], audit, ..Change::default() };
        assert_eq!(bench.store.change(change).await.unwrap(), Changed::Conflict);
    }
    let gone = bench.changed(vec![remove("wh_1", revision)]).await;
    for late in [put("wh_1", "3", None), put("wh_1", "3", Some(gone)), remove("wh_1", gone)] {
        assert_eq!(bench.change(vec![late]).await, Changed::Conflict, "what was removed is not made again");
    }
    assert_eq!(bench.records(0).await, []);
    assert_eq!(bench.store.audit(AuditFilter::default()).await.unwrap(), []);
}

pub(crate) async fn of_fifty_simultaneous_records_as_many_are_kept_as_may_be(bench: Bench) {
    let most = AtMost { kind: RecordKind::Subscription, owner: "user_123".into(), count: 10 };
    let tasks = (0..50).map(|n| {
        let (store, most) = (bench.store.clone(), most.clone());
        tokio::spawn(async move {
            let change = Change { writes: vec![put(&format!("wh_{n}"), "1", None)], at_most: Some(most), audit: Vec::new() };
            store.change(change).await.unwrap()
        })
    });
    let mut done = 0;
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Changed::Done { .. } => done += 1,
            Changed::TooMany => {}
            Changed::Conflict => panic!("each is its own"),
        }
    }
    assert_eq!((done, bench.records(0).await.len()), (10, 10));
    // One goes, one comes, in one change: still ten. Others have their own ten.
    let known = bench.store.records(RecordKind::Subscription, 0).await.unwrap().swap_remove(0);
    let swap = vec![remove(&known.id, known.revision), put("wh_new", "1", None)];
    let swap = Change { writes: swap, at_most: Some(most.clone()), audit: Vec::new() };
    assert!(matches!(bench.store.change(swap).await.unwrap(), Changed::Done { .. }));
    let Write::Put { kind, id, doc, sealed, expected, .. } = put("wh_other", "1", None) else { panic!("a put") };
    let others = Write::Put { kind, id, owner: "user_9".into(), doc, sealed, expected };
    let others = Change { writes: vec![others], at_most: Some(AtMost { owner: "user_9".into(), ..most }), audit: Vec::new() };
    assert!(matches!(bench.store.change(others).await.unwrap(), Changed::Done { .. }));
}

pub(crate) async fn what_changed_since_is_read_with_what_is_gone(bench: Bench) {
    let first = bench.changed(vec![put("wh_1", "1", None), put("wh_2", "1", None)]).await;
    let second = bench.changed(vec![put("wh_3", "1", None)]).await;
    bench.changed(vec![remove("wh_1", first)]).await;
    assert_eq!(bench.records(first).await, shown(&[("wh_3", Some("1")), ("wh_1", None)]));
    assert_eq!(bench.records(second).await, shown(&[("wh_1", None)]));
    assert_eq!(bench.records(0).await, shown(&[("wh_2", Some("1")), ("wh_3", Some("1"))]));
}

pub(crate) async fn a_removed_record_is_forgotten_and_revisions_go_on(bench: Bench) {
    let first = bench.changed(vec![put("wh_1", "1", None), put("wh_2", "1", None)]).await;
    bench.changed(vec![remove("wh_1", first)]).await;
    let last = bench.changed(vec![remove("wh_2", first)]).await;
    bench.clock.advance(days(2));
    bench.store.prune(bench.clock.now(), super::pruning::KEEP, Vec::new()).await.unwrap();
    assert_eq!(bench.records(first).await, shown(&[("wh_2", None)]), "the newest revision stays");
    assert!(last < bench.changed(vec![put("wh_3", "1", None)]).await);
}

pub(crate) async fn the_audit_is_filtered_paged_and_pruned(bench: Bench) {
    let begin = bench.clock.now();
    for (who, action) in [("tok_1", "token.created"), ("tok_2", "subscription.created"), ("tok_1", "subscription.deleted")] {
        let audit = vec![bench.entry(who, action)];
        assert!(matches!(bench.store.change(Change { audit, ..Change::default() }).await.unwrap(), Changed::Done { .. }));
        bench.clock.advance(seconds(10));
    }
    let found = async |filter: AuditFilter| {
        let rows = bench.store.audit(filter).await.unwrap();
        rows.into_iter().map(|row| row.entry.action).collect::<Vec<_>>().join(" ")
    };
    let all = AuditFilter::default();
    assert_eq!(found(all.clone()).await, "subscription.deleted subscription.created token.created");
    assert_eq!(found(AuditFilter { who: Some("tok_1".into()), ..all.clone() }).await, "subscription.deleted token.created");
    assert_eq!(found(AuditFilter { action: Some("token.".into()), ..all.clone() }).await, "token.created");
    assert_eq!(found(AuditFilter { action: Some("%".into()), ..all.clone() }).await, "");
    assert_eq!(found(AuditFilter { subject: Some("wh_2".into()), ..all.clone() }).await, "");
    assert_eq!(found(AuditFilter { until: Some(later(begin, seconds(5))), ..all.clone() }).await, "token.created");
    let newest = bench.store.audit(AuditFilter { limit: 1, ..all.clone() }).await.unwrap().swap_remove(0);
    assert_eq!(newest.entry, NewAudit { at: later(begin, seconds(20)), ..bench.entry("tok_1", "subscription.deleted") });
    assert_eq!(found(AuditFilter { page: Page::Before(newest.id), limit: 1, ..all.clone() }).await, "subscription.created");
    assert_eq!(found(AuditFilter { page: Page::After(0), limit: 2, ..all.clone() }).await, "token.created subscription.created");
    let short = Retention { audit: seconds(15), ..super::pruning::KEEP };
    bench.store.prune(bench.clock.now(), short, Vec::new()).await.unwrap();
    assert_eq!(found(all).await, "subscription.deleted");
}

pub(crate) async fn a_setting_is_kept_with_its_event(bench: Bench) {
    let with = |id: &str, value: &str| NewEvent { setting: Some(("poll/runs".into(), value.into())), ..bench.event(id) };
    bench.accept(with("evt_1", "1")).await;
    assert_eq!(bench.store.setting("poll/runs").await.unwrap().as_deref(), Some("1"));
    let repeat = bench.store.accept(with("evt_1", "2")).await.unwrap();
    assert!(matches!(repeat, Accepted::Duplicate { .. }));
    let bench = bench.restart().await;
    assert_eq!(bench.store.setting("poll/runs").await.unwrap().as_deref(), Some("2"), "a repeat goes on too");
}

pub(crate) async fn the_newest_event_is_told_of_though_nobody_gets_it(bench: Bench) {
    let mut newest = bench.store.newest();
    assert_eq!(*newest.borrow_and_update(), 0);
    let mut seen = BTreeSet::new();
    for n in 0..3 {
        let uid = bench.accept(bench.event(&format!("evt_{n}"))).await;
        assert!(newest.has_changed().unwrap());
        assert_eq!(*newest.borrow_and_update(), uid.seq);
        seen.insert(uid.seq);
    }
    bench.store.accept(bench.event("evt_1")).await.unwrap();
    assert!(!newest.has_changed().unwrap(), "a repeat is no event");
    let bench = bench.restart().await;
    assert_eq!(Some(&*bench.store.newest().borrow()), seen.last());
}
