//! Promises about what is due, and about attempts.

use super::*;

pub(crate) async fn due_comes_earliest_first(bench: Bench) {
    let first = bench.planned("evt_1", "crm").await;
    let same_time = bench.planned("evt_2", "crm").await;
    bench.planned("evt_3", "n8n").await;
    bench.clock.advance(seconds(1));
    let third = bench.planned("evt_4", "crm").await;
    assert_eq!(bench.due("crm").await, [first, same_time, third]);
    // The one that is retried is now the last.
    bench.recorded(first, 1, Next::Retry(clock_in(&bench, 1))).await;
    bench.clock.advance(seconds(1));
    assert_eq!(bench.due("crm").await, [same_time, third, first]);
    let two = bench.store.due(&"crm".into(), bench.clock.now(), 2, Vec::new()).await.unwrap();
    assert_eq!(two.iter().map(|due| due.delivery.id).collect::<Vec<_>>(), [same_time, third]);
    assert_eq!(two[0].envelope.id, "evt_2");
    assert_eq!(two[0].envelope.data(), br#"{"n":1}"#);
    assert_eq!(bench.due("nobody").await, []);
}

fn clock_in(bench: &Bench, s: u64) -> Timestamp {
    crate::clock::later(bench.clock.now(), seconds(s))
}

pub(crate) async fn what_the_caller_has_in_hand_is_left_out(bench: Bench) {
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(bench.planned(&format!("evt_{n}"), "crm").await);
    }
    let (crm, now) = (Name::from("crm"), bench.clock.now());
    let due = bench.store.due(&crm, now, 3, ids[..5].to_vec()).await.unwrap();
    assert_eq!(due.iter().map(|due| due.delivery.id).collect::<Vec<_>>(), ids[5..8]);
    assert_eq!(bench.store.next_due(&crm, ids[..9].to_vec()).await.unwrap(), Some(now));
    assert_eq!(bench.store.next_due(&crm, ids).await.unwrap(), None);
}

pub(crate) async fn a_retry_is_due_at_its_time(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let (began, at) = (bench.clock.now(), clock_in(&bench, 60));
    bench.recorded(id, 1, Next::Retry(at)).await;
    assert_eq!(bench.due("crm").await, []);
    assert_eq!(bench.store.next_due(&"crm".into(), Vec::new()).await.unwrap(), Some(at));
    bench.clock.advance(seconds(60));
    assert_eq!(bench.due("crm").await, [id]);
    bench.recorded(id, 2, Next::Retry(clock_in(&bench, 60))).await;
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.attempts, row.first_attempt_at), (State::Pending, 2, Some(began)));
    assert_eq!((row.error.as_deref(), row.due_at), (Some("http_503"), Some(clock_in(&bench, 60))));
    bench.recorded(id, 3, Next::Delivered).await;
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.state, row.attempts, row.error, row.due_at), (State::Delivered, 3, None, None));
    assert_eq!(bench.store.next_due(&"crm".into(), Vec::new()).await.unwrap(), None);
}

pub(crate) async fn the_body_stays_the_same_bytes(bench: Bench) {
    let id = bench.planned("evt_1", "n8n").await;
    let made = |text: &'static str| {
        Some(Rendered {
            content_type: "application/json".into(),
            body: Bytes::from_static(text.as_bytes()),
            progress: None,
            reached: false,
        })
    };
    let retry = Next::Retry(bench.clock.now());
    let first = Attempt { rendered: made("first"), ..bench.attempt(id, 1, retry) };
    let second = Attempt { rendered: made("second"), ..bench.attempt(id, 2, retry) };
    bench.store.record(vec![first, second]).await.unwrap();
    let bench = bench.restart().await;
    let due = bench.store.due(&"n8n".into(), bench.clock.now(), 1, Vec::new()).await.unwrap();
    assert_eq!(due[0].delivery.body, made("first"));
    assert_eq!(due[0].delivery.attempts, 2);
}

pub(crate) async fn who_has_a_message_already_is_kept_with_every_attempt(bench: Bench) {
    let id = bench.planned("evt_1", "mail").await;
    let made = |progress: &'static str| Rendered {
        content_type: "message/rfc822".into(),
        body: Bytes::from_static(b"From: a"),
        progress: Some(Bytes::from_static(progress.as_bytes())),
        reached: progress != "nobody",
    };
    let retry = Next::Retry(bench.clock.now());
    let tried = |number, progress| Attempt { rendered: Some(made(progress)), ..bench.attempt(id, number, retry) };
    bench.store.record(vec![tried(1, "nobody")]).await.unwrap();
    bench.store.record(vec![tried(2, "a")]).await.unwrap();
    let bench = bench.restart().await;
    let due = bench.store.due(&"mail".into(), bench.clock.now(), 1, Vec::new()).await.unwrap();
    assert_eq!(due[0].delivery.body, Some(made("a")));
}

pub(crate) async fn a_final_delivery_stays_final(bench: Bench) {
    let delivered = bench.planned("evt_1", "crm").await;
    let dead = bench.planned("evt_2", "crm").await;
    bench.recorded(delivered, 1, Next::Delivered).await;
    bench.recorded(dead, 1, Next::Dead(Cause::Config)).await;
    let late = vec![
        bench.attempt(delivered, 2, Next::Retry(bench.clock.now())),
        bench.attempt(delivered, 3, Next::Dead(Cause::Receiver)),
        bench.attempt(dead, 2, Next::Delivered),
    ];
    bench.store.record(late).await.unwrap();
    let (first, second) = (bench.delivery(delivered).await.unwrap(), bench.delivery(dead).await.unwrap());
    assert_eq!((first.state, first.attempts, first.cause, first.error), (State::Delivered, 1, None, None));
    assert_eq!((second.state, second.attempts, second.cause), (State::Dead, 1, Some(Cause::Config)));
    assert_eq!(bench.due("crm").await, []);
    assert_eq!(bench.store.attempts(delivered.event).await.unwrap().len(), 3);
    assert_eq!(bench.store.attempts(dead.event).await.unwrap().len(), 2);
}

pub(crate) async fn an_attempt_recorded_twice_is_one(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let attempt = bench.attempt(id, 1, Next::Retry(bench.clock.now()));
    bench.store.record(vec![attempt.clone(), attempt.clone()]).await.unwrap();
    assert_eq!(bench.store.attempts(id.event).await.unwrap(), [attempt]);
    // Another attempt that took itself for the first is kept beside it.
    bench.clock.advance(seconds(1));
    bench.recorded(id, 1, Next::Delivered).await;
    let kept = bench.store.attempts(id.event).await.unwrap();
    assert_eq!(kept.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(kept[1].next, Next::Delivered);
}

pub(crate) async fn attempts_of_unknown_deliveries_are_dropped(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let strange = [
        DeliveryId { n: 2, ..id },
        DeliveryId { n: u32::MAX, ..id },
        DeliveryId { event: EventUid { salt: !id.event.salt, ..id.event }, ..id },
        DeliveryId { event: EventUid { seq: i64::MIN, ..id.event }, ..id },
    ];
    let mut attempts: Vec<_> = strange.iter().map(|id| bench.attempt(*id, 1, Next::Delivered)).collect();
    attempts.push(bench.attempt(id, 1, Next::Retry(bench.clock.now())));
    bench.store.record(attempts).await.unwrap();
    assert_eq!(bench.store.attempts(id.event).await.unwrap().len(), 1);
    assert_eq!(bench.delivery(id).await.unwrap().attempts, 1);
}

pub(crate) async fn attempts_are_read_back_in_order(bench: Bench) {
    let event = bench.accept(bench.event("evt_1").to(&["crm", "n8n"])).await;
    let (crm, n8n) = (DeliveryId { event, n: 1 }, DeliveryId { event, n: 2 });
    let told = Attempt {
        status: None,
        error: Some("timeout".into()),
        detail: Some("no answer within 30 s".into()),
        response: Bytes::new(),
        ..bench.attempt(crm, 2, Next::Dead(Cause::Internal))
    };
    let first = bench.attempt(crm, 1, Next::Retry(clock_in(&bench, 5)));
    let other = bench.attempt(n8n, 1, Next::Delivered);
    bench.store.record(vec![other.clone(), first.clone(), told.clone()]).await.unwrap();
    assert_eq!(bench.store.attempts(event).await.unwrap(), [first, told, other]);
}

pub(crate) async fn the_backlog_counts_what_waits_and_what_is_dead(bench: Bench) {
    assert_eq!(bench.store.backlog(None).await.unwrap(), []);
    let oldest_at = bench.clock.now();
    let retried = bench.planned("evt_1", "crm").await;
    bench.clock.advance(seconds(10));
    bench.planned("evt_2", "crm").await;
    let dead = bench.planned("evt_3", "n8n").await;
    let done = bench.planned("evt_4", "mail").await;
    bench.recorded(retried, 1, Next::Retry(clock_in(&bench, 3600))).await;
    bench.recorded(dead, 1, Next::Dead(Cause::Receiver)).await;
    bench.recorded(done, 1, Next::Delivered).await;
    let mut backlog = bench.store.backlog(None).await.unwrap();
    backlog.sort_by(|a, b| a.target.cmp(&b.target));
    let crm = Backlog { target: "crm".into(), waiting: 2, oldest_at: Some(oldest_at), dead: 0 };
    let n8n = Backlog { target: "n8n".into(), waiting: 0, oldest_at: None, dead: 1 };
    for of_one in [&crm, &n8n] {
        assert_eq!(bench.store.backlog(Some(&of_one.target)).await.unwrap(), std::slice::from_ref(of_one));
    }
    for nothing in ["mail", "nobody"] {
        assert_eq!(bench.store.backlog(Some(&nothing.into())).await.unwrap(), []);
    }
    assert_eq!(backlog, [crm, n8n]);
}

pub(crate) async fn of_one_target_what_waits_and_what_is_dead_is_counted_together(bench: Bench) {
    // A target's and a subscription's; a text that no target has.
    let targets = ["crm", "wh_01jz"];
    for n in 0..3 {
        let event = bench.accept(bench.event(&format!("evt_{n}")).to(&targets)).await;
        if n == 0 {
            for place in 1..=2 {
                bench.recorded(DeliveryId { event, n: place }, 1, Next::Dead(Cause::Receiver)).await;
            }
        }
    }
    for target in targets {
        let backlog = bench.store.backlog(Some(&target.into())).await.unwrap();
        let counts: Vec<_> = backlog.iter().map(|it| (it.target.as_str(), it.waiting, it.dead)).collect();
        assert_eq!(counts, [(target, 2, 1)]);
    }
    for nobody in ["cr\0m", "crm\0", ""] {
        assert_eq!(bench.store.backlog(Some(&nobody.into())).await.unwrap(), [], "{nobody:?}");
    }
}

pub(crate) async fn a_delivery_and_its_replay_come_each_with_the_event(bench: Bench) {
    let first = bench.planned("evt_1", "crm").await;
    let other = bench.planned("evt_2", "crm").await;
    bench.clock.advance(seconds(1));
    let again = bench.replay(first.event, &["crm"], "job 1 evt_1").await;
    let due = bench.store.due(&"crm".into(), bench.clock.now(), 10, vec![]).await.unwrap();
    let came: Vec<_> = due.iter().map(|due| (due.delivery.id, due.envelope.id.as_str(), due.delivery.replayed)).collect();
    assert_eq!(came, [(first, "evt_1", false), (other, "evt_2", false), (again[0], "evt_1", true)]);
}

pub(crate) async fn large_bodies_come_in_portions(bench: Bench) {
    let large = 3 * 1024 * 1024;
    for n in 0..10 {
        bench.accept(bench.event(&format!("evt_{n}")).with_body(vec![b'x'; large]).to(&["crm"])).await;
    }
    let mut taken: Vec<DeliveryId> = Vec::new();
    while bench.store.next_due(&"crm".into(), taken.clone()).await.unwrap().is_some() {
        let due = bench.store.due(&"crm".into(), bench.clock.now(), 100, taken.clone()).await.unwrap();
        assert!(!due.is_empty() && due.len() < 10, "{} at once", due.len());
        taken.extend(due.iter().map(|due| due.delivery.id));
    }
    assert_eq!(taken.len(), 10);
}

pub(crate) async fn large_bodies_that_were_made_come_in_portions_and_in_order(bench: Bench) {
    let large = vec![b'x'; 512 * 1024];
    let mut all = Vec::new();
    for n in 0..40 {
        let event = bench.event(&format!("evt_{n}")).with_body(large.clone()).to(&["crm", "n8n"]);
        let crm = DeliveryId { event: bench.accept(event).await, n: 1 };
        let made = Rendered { content_type: "text/plain".to_owned(), body: large.clone().into(), progress: None, reached: false };
        bench.clock.advance(seconds(1));
        let retry = Next::Retry(bench.clock.now());
        bench.store.record(vec![Attempt { rendered: Some(made), ..bench.attempt(crm, 1, retry) }]).await.unwrap();
        all.push(crm);
    }
    // The last ones were read just now, for another target.
    let early: Vec<DeliveryId> = Vec::new();
    let others = bench.store.due(&"n8n".into(), bench.clock.now(), 100, early).await.unwrap();
    let mut behind: Vec<DeliveryId> = others.iter().map(|due| due.delivery.id).collect();
    behind.sort_unstable();
    bench.store.due(&"n8n".into(), bench.clock.now(), 8, behind).await.unwrap();
    let mut taken: Vec<DeliveryId> = Vec::new();
    while taken.len() < all.len() {
        let mut in_hand = taken.clone();
        in_hand.sort_unstable();
        let due = bench.store.due(&"crm".into(), bench.clock.now(), 64, in_hand).await.unwrap();
        let left = all.len() - taken.len();
        assert!((8.min(left)..=20).contains(&due.len()), "{} at once", due.len());
        assert!(due.iter().all(|due| due.delivery.body.as_ref().is_some_and(|made| made.body.len() == large.len())));
        taken.extend(due.iter().map(|due| due.delivery.id));
    }
    assert_eq!(taken, all);
}

pub(crate) async fn an_attempt_that_does_not_count_burns_nothing(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let retry = Next::Retry(bench.clock.now());
    let uncounted = Attempt { counts: false, stood_still_ms: 7, ..bench.attempt(id, 1, retry) };
    bench.store.record(vec![uncounted.clone(), uncounted]).await.unwrap();
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.attempts, row.uncounted, row.first_attempt_at, row.stood_still_ms), (1, 1, None, 0));
    bench.clock.advance(seconds(60));
    let began = bench.clock.now();
    for (number, stood_still_ms) in [(2, 5000), (3, 9000)] {
        bench.store.record(vec![Attempt { stood_still_ms, ..bench.attempt(id, number, retry) }]).await.unwrap();
        bench.clock.advance(seconds(1));
    }
    let row = bench.delivery(id).await.unwrap();
    assert_eq!((row.attempts, row.uncounted, row.first_attempt_at, row.stood_still_ms), (3, 1, Some(began), 5000));
    let counts: Vec<_> = bench.store.attempts(id.event).await.unwrap().iter().map(|attempt| attempt.counts).collect();
    assert_eq!(counts, [false, true, true]);
}

pub(crate) async fn the_oldest_that_is_due_is_found_in_the_whole_backlog(bench: Bench) {
    let retried = bench.planned("evt_0", "crm").await;
    let oldest = bench.planned("evt_1", "crm").await;
    bench.recorded(retried, 1, Next::Retry(clock_in(&bench, 3600))).await;
    bench.clock.advance(seconds(1));
    let mut others = Vec::new();
    for n in 2..300 {
        others.push(bench.planned(&format!("evt_{n}"), "crm").await);
    }
    bench.planned("evt_other", "n8n").await;
    bench.clock.advance(seconds(59));
    // Due later than all of them, as one that was tried before is.
    bench.recorded(oldest, 1, Next::Retry(bench.clock.now())).await;
    let (crm, now) = (Name::from("crm"), bench.clock.now());
    let found = async |except| {
        let due = bench.store.oldest_due(&crm, now, except).await.unwrap();
        due.map(|due| (due.delivery.id, due.delivery.attempts, due.envelope.id.clone()))
    };
    assert_eq!(found(vec![]).await, Some((oldest, 1, "evt_1".to_owned())));
    assert_eq!(found(vec![oldest, others[0]]).await.unwrap().0, others[1]);
    let all = [vec![retried, oldest], others].concat();
    assert_eq!(found(all).await, None);
}

pub(crate) async fn an_attempt_recorded_late_again_changes_nothing(bench: Bench) {
    let id = bench.planned("evt_1", "crm").await;
    let first = bench.attempt(id, 1, Next::Retry(clock_in(&bench, 5)));
    bench.clock.advance(seconds(5));
    let second = bench.attempt(id, 2, Next::Retry(clock_in(&bench, 60)));
    bench.store.record(vec![first.clone(), second]).await.unwrap();
    let before = bench.delivery(id).await;
    bench.store.record(vec![first]).await.unwrap();
    assert_eq!(bench.delivery(id).await, before);
}
