//! Promises about taking in events.

use tokio::task::JoinSet;

use super::*;

pub(crate) async fn an_event_is_read_back_as_it_came(bench: Bench) {
    let mut event = bench.event("evt_1").to(&["crm", "n8n"]);
    event.envelope.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    event.envelope.replayed = true;
    event.deliveries[1].template = Some("line".into());
    let uid = bench.accept(event.clone()).await;
    let row = bench.store.event(uid).await.unwrap().unwrap();
    assert_eq!(row.uid, uid);
    assert_eq!(row.envelope, event.envelope);
    assert_eq!(row.rules, ["all"]);
    assert_eq!((row.deliveries, row.duplicates, row.mismatches, row.last_duplicate_at), (2, 0, 0, None));
    let second = bench.delivery(DeliveryId { event: uid, n: 2 }).await.unwrap();
    assert_eq!((second.target.as_str(), second.state), ("n8n", State::Pending));
    assert_eq!((second.rule, second.template.as_deref()), (Some("all".into()), Some("line")));
    assert_eq!((second.created_at, second.due_at), (bench.clock.now(), Some(bench.clock.now())));
    assert_eq!((second.attempts, second.first_attempt_at, second.error, second.cause), (0, None, None, None));
}

pub(crate) async fn any_text_is_kept_as_it_is(bench: Bench) {
    for (n, text) in
        ["", "'; DROP TABLE events; --", "nul \0 inside", "\u{10ffff}\u{202e}", "\r\n\t", "ev_0"].into_iter().enumerate()
    {
        let mut event = bench.event(&n.to_string()).with_body(vec![0xff, 0x00, 0xfe]).to(&["crm"]);
        let it = &mut event.envelope;
        for field in [&mut it.id, &mut it.r#type, &mut it.time, &mut it.timestamp] {
            *field = text.into();
        }
        for field in [&mut it.subject, &mut it.namespace, &mut it.content_type, &mut it.traceparent] {
            *field = Some(text.into());
        }
        event.deliveries[0].template = Some(text.into());
        let uid = bench.accept(event.clone()).await;
        assert_eq!(bench.store.event(uid).await.unwrap().unwrap().envelope, event.envelope, "{text:?}");
        assert_eq!(bench.delivery(DeliveryId { event: uid, n: 1 }).await.unwrap().template.as_deref(), Some(text));
    }
}

pub(crate) async fn an_accepted_event_outlives_a_restart(bench: Bench) {
    let delivery = bench.planned("evt_1", "crm").await;
    let bench = bench.restart().await;
    assert!(bench.holds(delivery.event).await);
    assert_eq!(bench.due("crm").await, [delivery]);
    let repeat = bench.store.accept(bench.event("evt_1")).await.unwrap();
    assert_eq!(repeat_of(repeat), ("evt_1".into(), false));
    let next = bench.accept(bench.event("evt_2")).await;
    assert_eq!((next.salt, next.seq), (delivery.event.salt, delivery.event.seq + 1));
}

pub(crate) async fn a_repeat_is_a_duplicate_and_is_counted(bench: Bench) {
    let delivery = bench.planned("evt_1", "crm").await;
    bench.clock.advance(seconds(5));
    let same = bench.event("evt_1").to(&["crm"]);
    let other = same.clone().with_body(b"{}".to_vec());
    assert_eq!(repeat_of(bench.store.accept(same).await.unwrap()), ("evt_1".into(), false));
    assert_eq!(repeat_of(bench.store.accept(other).await.unwrap()), ("evt_1".into(), true));
    let row = bench.store.event(delivery.event).await.unwrap().unwrap();
    assert_eq!((row.duplicates, row.mismatches, row.last_duplicate_at), (2, 1, Some(bench.clock.now())));
    assert_eq!(bench.due("crm").await, [delivery]);
    assert_eq!(bench.store.events(Filter::default()).await.unwrap().len(), 1);
}

pub(crate) async fn fifty_simultaneous_copies_are_one_event(bench: Bench) {
    let mut copies = JoinSet::new();
    for _ in 0..50 {
        let (store, event) = (bench.store.clone(), bench.event("evt_1").to(&["crm", "n8n"]));
        copies.spawn(async move { store.accept(event).await.unwrap() });
    }
    let answers = copies.join_all().await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Accepted::New { .. })).count(), 1);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Accepted::Duplicate { mismatch: false, .. })).count(), 49);
    assert_eq!((bench.due("crm").await.len(), bench.due("n8n").await.len()), (1, 1));
    assert_eq!(bench.store.events(Filter::default()).await.unwrap()[0].duplicates, 49);
}

pub(crate) async fn many_simultaneous_events_are_each_told_of_once(bench: Bench) {
    let heard = Arc::new(Heard::default());
    bench.store.on_commit(heard.clone());
    let mut accepts = JoinSet::new();
    for n in 0..300 {
        let (store, event) = (bench.store.clone(), bench.event(&format!("evt_{n}")).to(&["crm"]));
        accepts.spawn(async move { store.accept(event).await.unwrap() });
    }
    let mut uids: Vec<_> = accepts
        .join_all()
        .await
        .into_iter()
        .map(|answer| match answer {
            Accepted::New { uid, .. } => uid,
            repeat => panic!("{repeat:?}"),
        })
        .collect();
    uids.sort();
    let mut told: Vec<_> = heard.events.lock().unwrap().iter().map(|event| event.uid).collect();
    told.sort();
    assert_eq!(told, uids);
    assert_eq!(*heard.requests.lock().unwrap(), 300);
    assert_eq!(bench.due("crm").await.len(), 100);
}

pub(crate) async fn the_listener_hears_what_was_committed(bench: Bench) {
    let heard = Arc::new(Heard::default());
    bench.store.on_commit(heard.clone());
    bench.accept(bench.event("for nobody")).await;
    let delivery = bench.planned("evt_1", "crm").await;
    bench.store.accept(bench.event("evt_1").to(&["crm"])).await.unwrap();
    let told = heard.events.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "neither events without deliveries nor repeats");
    assert_eq!((told[0].uid, told[0].deliveries.len()), (delivery.event, 1));
    let due = bench.store.due(&"crm".into(), bench.clock.now(), 10, Vec::new()).await.unwrap();
    assert_eq!((&told[0].envelope, &told[0].deliveries[0]), (&due[0].envelope, &due[0].delivery));
}

pub(crate) async fn an_id_is_new_again_after_its_time(bench: Bench) {
    let first = bench.accept(bench.event("evt_1")).await;
    bench.clock.advance(days(7) - seconds(1));
    assert!(matches!(bench.store.accept(bench.event("evt_1")).await.unwrap(), Accepted::Duplicate { .. }));
    // A repeat does not begin the time anew.
    bench.clock.advance(seconds(1));
    let Accepted::New { uid, id } = bench.store.accept(bench.event("evt_1")).await.unwrap() else { panic!("a duplicate") };
    assert_eq!(id, "evt_1");
    assert!(first < uid);
}

pub(crate) async fn a_hash_id_gets_a_suffix_after_its_window(bench: Bench) {
    let event = |bench: &Bench| bench.hashed("sha256:ab", seconds(3600)).to(&["crm"]);
    let first = bench.accept(event(&bench)).await;
    bench.clock.advance(seconds(3599));
    let repeat = bench.store.accept(event(&bench)).await.unwrap();
    assert_eq!(repeat_of(repeat), ("sha256:ab".into(), false));
    bench.clock.advance(seconds(1));
    let id = format!("sha256:ab-{}", bench.clock.now().as_second());
    let Accepted::New { uid, id: given } = bench.store.accept(event(&bench)).await.unwrap() else { panic!("a duplicate") };
    assert_eq!(given, id);
    assert_ne!(uid, first);
    assert_eq!(bench.store.event(uid).await.unwrap().unwrap().envelope.id, id);
    // The new window begins with the new event, and its repeats answer with its id.
    bench.clock.advance(seconds(3599));
    assert_eq!(repeat_of(bench.store.accept(event(&bench)).await.unwrap()), (id, false));
}

pub(crate) async fn a_window_of_zero_makes_every_repeat_new(bench: Bench) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = bench.store.accept(bench.hashed("sha256:ab", Duration::ZERO)).await.unwrap();
        let Accepted::New { id, .. } = answer else { panic!("{answer:?}") };
        ids.push(id);
    }
    let now = bench.clock.now().as_second();
    assert_eq!(ids, ["sha256:ab".to_owned(), format!("sha256:ab-{now}"), format!("sha256:ab-{}", now + 1)]);
}

pub(crate) async fn a_clock_set_back_makes_no_repeat_of_what_is_none(bench: Bench) {
    let answered = async |bench: &Bench, body: &str, window| match bench.store.accept(bench.hashed(body, window)).await.unwrap() {
        Accepted::New { id, .. } => id,
        Accepted::Duplicate { .. } => "a repeat".to_owned(),
    };
    for body in ["off", "short", "long"] {
        let window = seconds(if body == "off" { 0 } else { 3600 });
        assert_eq!(answered(&bench, body, window).await, body);
    }
    let then = bench.clock.now().as_second();
    let back = bench.clock.now() - seconds(60);
    let bench = bench.restart_at(back).await;
    assert_eq!(answered(&bench, "off", Duration::ZERO).await, format!("off-{}", then - 60));
    assert_eq!(answered(&bench, "short", seconds(3600)).await, "a repeat");
    let bench = bench.restart_at(back - days(400)).await;
    let now = bench.clock.now().as_second();
    assert_eq!(answered(&bench, "long", seconds(3600)).await, format!("long-{now}"), "how long ago it came, nobody knows");
    assert_eq!(answered(&bench, "long", seconds(3600)).await, "a repeat");
    // An id that its sender gave never comes twice for two things.
    bench.accept(bench.event("evt_1")).await;
    let earlier = bench.clock.now() - days(400);
    let bench = bench.restart_at(earlier).await;
    assert!(matches!(bench.store.accept(bench.event("evt_1")).await.unwrap(), Accepted::Duplicate { .. }));
}

pub(crate) async fn one_bad_event_does_not_fail_the_others(bench: Bench) {
    let mut accepts = JoinSet::new();
    for n in 0..20 {
        let (store, mut event) = (bench.store.clone(), bench.event(&format!("evt_{n}")).to(&["crm"]));
        if n == 7 {
            event.deliveries = vec![event.deliveries[0].clone(); N_MAX as usize + 1];
        }
        accepts.spawn(async move { (n, store.accept(event).await) });
    }
    for (n, answer) in accepts.join_all().await {
        assert_eq!(answer.is_ok(), n != 7, "{n}: {answer:?}");
    }
    assert_eq!(bench.due("crm").await.len(), 19);
    assert!(bench.store.accept(bench.event("evt_7")).await.is_ok_and(|answer| matches!(answer, Accepted::New { .. })));
}

pub(crate) async fn ids_of_another_store_are_not_found(bench: Bench) {
    let delivery = bench.planned("evt_1", "crm").await;
    let another = bench.another().await;
    let event = bench.event("evt_1").to(&["crm"]);
    let Accepted::New { uid, .. } = another.accept(event).await.unwrap() else { panic!("a duplicate") };
    assert_eq!(uid.seq, delivery.event.seq);
    assert_ne!(uid.salt, delivery.event.salt);
    let strangers = [uid, EventUid { seq: -1, ..delivery.event }, EventUid { seq: i64::MAX, ..delivery.event }];
    for strange in strangers {
        assert!(!bench.holds(strange).await, "{strange}");
        let filter = Filter { event: Some(strange), ..Filter::default() };
        assert_eq!(bench.store.deliveries(filter).await.unwrap(), [], "{strange}");
        assert_eq!(bench.store.attempts(strange).await.unwrap(), [], "{strange}");
    }
    another.close().await;
}

pub(crate) async fn settings_are_kept(bench: Bench) {
    assert_eq!(bench.store.setting("config").await.unwrap(), None);
    bench.store.set_setting("config", "one".into()).await.unwrap();
    bench.store.set_setting("config", "two".into()).await.unwrap();
    let bench = bench.restart().await;
    assert_eq!(bench.store.setting("config").await.unwrap().as_deref(), Some("two"));
    assert_eq!(bench.store.setting("salt").await.unwrap(), None);
}

pub(crate) async fn a_closed_store_says_so(bench: Bench) {
    let delivery = bench.planned("evt_1", "crm").await;
    let accepting = tokio::spawn({
        let (store, event) = (bench.store.clone(), bench.event("evt_2"));
        async move { store.accept(event).await }
    });
    bench.store.close().await;
    // What was under way is either on disk or refused, never left open.
    let kept = match accepting.await.unwrap() {
        Ok(Accepted::New { uid, .. }) => Some(uid),
        Err(Error::Closed) => None,
        other => panic!("{other:?}"),
    };
    assert!(matches!(bench.store.accept(bench.event("evt_3")).await, Err(Error::Closed)));
    assert!(matches!(bench.store.events(Filter::default()).await, Err(Error::Closed)));
    assert!(matches!(bench.store.next_due(&"crm".into(), Vec::new()).await, Err(Error::Closed)));
    bench.store.close().await;
    let bench = bench.restart().await;
    assert!(bench.holds(delivery.event).await);
    if let Some(uid) = kept {
        assert!(bench.holds(uid).await);
    }
}

pub(crate) async fn a_store_is_ready_until_it_is_closed(bench: Bench) {
    bench.store.ready().await.unwrap();
    bench.store.close().await;
    assert!(matches!(bench.store.ready().await, Err(Error::Closed)));
}

pub(crate) async fn settings_are_listed_by_prefix_and_removed(bench: Bench) {
    for key in ["job.2", "job.1", "job", "job/1", "lane.crm", "jöb", "zz"] {
        bench.store.set_setting(key, format!("of {key}")).await.unwrap();
    }
    let keys = async |prefix| {
        let rows = bench.store.settings(prefix).await.unwrap();
        rows.into_iter().map(|(key, value)| (value == format!("of {key}")).then_some(key).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(keys("job.").await, ["job.1", "job.2"]);
    assert_eq!(keys("lane.%").await, Vec::<String>::new());
    assert_eq!(keys("").await.len(), 7);
    bench.store.remove_setting("job.1").await.unwrap();
    bench.store.remove_setting("job.1").await.unwrap();
    assert_eq!(keys("job.").await, ["job.2"]);
    assert_eq!(bench.store.setting("job.1").await.unwrap(), None);
}

pub(crate) async fn threads_go_on_over_a_restart_and_end(bench: Bench) {
    bench.store.set_thread([1; 16], Some("1700000000.000100".into())).await.unwrap();
    bench.store.set_thread([2; 16], Some("1700000000.000200".into())).await.unwrap();
    bench.store.set_thread([2; 16], Some("1700000000.000300".into())).await.unwrap();
    let bench = bench.restart().await;
    let root = async |key| bench.store.thread([key; 16]).await.unwrap();
    assert_eq!(root(1).await.as_deref(), Some("1700000000.000100"));
    assert_eq!(root(2).await.as_deref(), Some("1700000000.000300"), "begun anew");
    assert_eq!(root(3).await, None);
    bench.store.set_thread([1; 16], None).await.unwrap();
    assert_eq!(root(1).await, None);
}
