//! What needs neither lanes nor a network.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::clock::later;

pub(super) fn sample() -> Subscription {
    let now: Timestamp = "2026-01-20T12:00:00Z".parse().unwrap();
    Subscription {
        id: model::new_id().unwrap(),
        dialect: Dialect::Interactor,
        url: "https://user.example/hooks/path-secret?x=1".parse().unwrap(),
        events: vec![Glob::parse("credential.*").unwrap(), Glob::parse("a.**").unwrap()],
        filter: Some(filter::compile(json!([{"path": "$.data.n", "gt": 1}])).unwrap()),
        name: Some("CRM".into()),
        description: None,
        headers: vec!["X-Key".into()],
        metadata: Some(json!({"a": [1, null]})),
        timeout: Some(std::time::Duration::from_millis(1500)),
        max_retries: Some(0),
        verify_tls: false,
        handshake: true,
        disabled: Some(Disabled { at: now, why: Why::Gone, error: Some("http_410".into()) }),
        namespaces: Some(["a".to_owned()].into()),
        made_by: "tok_a".into(),
        created_at: now,
        updated_at: later(now, std::time::Duration::from_nanos(1)),
        regenerated_at: Some(now),
        standard: true,
        release: Some(Release::new(now, crate::config::decode::Rate::per_second(7, 7)).counted_by("job_1")),
        life: Life::Adopted { by: "wh_b".into(), at: now },
        more: serde_json::Map::new(),
    }
}

#[test]
fn a_document_is_read_back_as_it_was_and_older_ones_are_read() {
    let subscription = sample();
    let read = Subscription::of_doc(subscription.id.as_str(), &subscription.to_doc()).unwrap();
    assert_eq!(read.to_doc(), subscription.to_doc());
    // What a later version has added is not lost when this one writes it again.
    let later = subscription.to_doc().replacen('{', r#"{"color":{"is":["green"]},"#, 1);
    let kept = Subscription::of_doc("wh_a", &later).unwrap().to_doc();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&kept).unwrap(),
        serde_json::from_str::<serde_json::Value>(&later).unwrap()
    );
    assert_eq!((read.id, read.release, read.life), (subscription.id, subscription.release, subscription.life));
    let least = r#"{"dialect": "honeyframe", "url": "https://a.example/", "events": ["**"], "verify_tls": true, "made_by": "bootstrap",
        "created_at": "2026-01-20T12:00:00Z", "updated_at": "2026-01-20T12:00:00Z", "standard": false, "life": {"state": "living"}}"#;
    assert!(Subscription::of_doc("wh_a", least).unwrap().is_enabled());
    for bad in ["", "{}", &least.replace("https://", ""), &least.replace("**", "a**")] {
        assert!(Subscription::of_doc("wh_a", bad).is_err(), "{bad}");
    }
}

#[test]
fn neither_debug_nor_audit_show_the_path_of_the_url() {
    let shown = format!("{:?} {}", sample(), audit::shown(&sample()));
    assert!(!shown.contains("path-secret") && shown.contains("https://user.example/***"), "{shown}");
}

#[test]
fn ids_are_names_that_never_repeat() {
    let ids: BTreeSet<_> = (0..100).map(|_| model::new_id().unwrap()).collect();
    assert_eq!(ids.len(), 100);
    assert!(ids.iter().all(crate::route::subscribers::is_id));
    assert!(
        ["wh_a", "crm", &format!("wh_{}", "a".repeat(27)), &format!("wh_{}", "A".repeat(26))]
            .iter()
            .all(|name| { !crate::route::subscribers::is_id(&Name::from(*name)) })
    );
}

#[test]
fn sets_of_namespaces_are_told_apart_and_the_bootstrap_token_has_none() {
    let set = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
    let of = |namespaces: Option<BTreeSet<String>>, by: &str| owner(namespaces.as_ref(), by);
    assert_eq!(of(set(&["a", "b"]), "tok_a"), of(set(&["b", "a"]), "tok_b"));
    assert_ne!(of(set(&["a", "b"]), "tok_a"), of(set(&["ab"]), "tok_a"));
    assert_ne!(of(set(&[]), "tok_a"), of(None, "tok_a"));
    assert_eq!((of(None, "tok_a"), of(None, BOOTSTRAP)), ("unbound".to_owned(), BOOTSTRAP.to_owned()));
}

#[tokio::test]
async fn who_could_not_look_for_a_day_forgets_what_was_removed_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let store = store::sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
    let ids = ["a", "b"].map(|c| Name::from(format!("wh_{}", c.repeat(26)).as_str()));
    let put = |id: &Name, doc: &str| Write::Put {
        kind: RecordKind::Subscription,
        id: id.to_string(),
        owner: String::new(),
        doc: doc.to_owned(),
        sealed: Some(bytes::Bytes::new()),
        expected: None,
    };
    let change = async |write: Write| {
        let done = store.change(Change { writes: vec![write], ..Change::default() }).await.unwrap();
        let Changed::Done { revision } = done else { panic!("{done:?}") };
        revision
    };
    let living = Subscription { life: Life::Living, disabled: None, ..sample() };
    let first = change(put(&ids[0], &Subscription { id: ids[0].clone(), ..living.clone() }.to_doc())).await;
    let subscribers = Subscribers::default();
    let parts = Parts {
        store: store.clone(),
        sealer: Sealer::of_key(&[7; 32]),
        clock: clock.clone(),
        announcer: Announcer::new().0,
        subscribers,
        types: Arc::new(EventTypes::new(Vec::new())),
    };
    let all = Subscriptions::load(parts, Settings::default()).await.unwrap();
    change(Write::Remove { kind: RecordKind::Subscription, id: ids[0].to_string(), expected: first }).await;
    change(put(&ids[1], &Subscription { id: ids[1].clone(), ..living }.to_doc())).await;
    // Nothing shows any more that it was there.
    clock.advance(Duration::from_secs(25 * 3600));
    let day = Duration::from_secs(24 * 3600);
    let retention = store::Retention { events: day, dead_letters: day, rejections: day, audit: day, max_bytes: None };
    store.prune(clock.now(), retention, Vec::new()).await.unwrap();
    assert!(store.records(RecordKind::Subscription, first).await.unwrap().iter().all(|record| record.doc.is_some()));
    assert!(all.keeps(&ids[0]));
    all.refresh().await.unwrap();
    assert!(!all.keeps(&ids[0]) && all.keeps(&ids[1]));
}

proptest! {
    #[test]
    fn no_document_breaks_reading(doc in ".{0,200}", key in "[a-z_]{1,12}", value in ".{0,20}") {
        let _ = Subscription::of_doc("wh_a", &doc);
        let mut good: serde_json::Value = serde_json::from_str(&sample().to_doc()).unwrap();
        good[key] = value.into();
        let _ = Subscription::of_doc("wh_a", &good.to_string());
    }
}
