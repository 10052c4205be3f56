//! Lanes against a real receiver, a store in memory and a clock moved by hand.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testing::{MemoryStore, NOWHERE, Receiver, Relay, Says, destination, eventually};
use crate::{
    envelope::{DeliveryId, Envelope, EventUid, Name, tests::sample},
    store::{Next, State},
};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";

fn webhook(receiver: &Receiver, more: &str) -> super::Destination {
    destination("crm", &format!("{{kind: webhook, url: '{}', {more}}}", receiver.url())).unwrap()
}

fn n8n(receiver: &Receiver, more: &str) -> super::Destination {
    destination("crm", &format!("{{kind: n8n, url: '{}', {more}}}", receiver.url())).unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_carries_the_envelope_and_the_relays_headers() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(
        &crm,
        &format!("signing: {{schemes: [standard, interactor], secrets: [{SECRET}]}}, headers: {{X-Team: billing}}"),
    )]);
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    relay.store.commit(Envelope { traceparent, replayed: true, ..sample() }, &["crm"], None, relay.clock.now());
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    let got = &crm.received()[0];
    assert!(got.text().starts_with(r#"{"specversion":"1.0","id":"evt_003""#), "{}", got.text());
    let id = DeliveryId { event: EventUid { salt: 7, seq: 1 }, n: 1 }.to_string();
    assert_eq!((got.header("idempotency-key"), got.header("x-hookyard-delivery")), (id.as_str(), id.as_str()));
    assert_eq!(
        (got.header("x-hookyard-attempt"), got.header("x-hookyard-replayed"), got.header("x-team")),
        ("1", "true", "billing")
    );
    assert_eq!((got.header("content-type"), got.header("webhook-id")), ("application/json", "evt_003"));
    assert_eq!(got.header("user-agent"), concat!("hookyard/", env!("CARGO_PKG_VERSION")));
    assert_eq!(got.header("x-interactor-timestamp"), "2026-01-20T12:00:00Z");
    let trace = got.header("traceparent");
    assert!(
        trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-")
            && trace.ends_with("-01")
            && !trace.contains("00f067aa0ba902b7"),
        "{trace}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_under_the_same_id_and_body() {
    let crm = Receiver::start([503, 500, 200]).await;
    let relay = Relay::start(vec![webhook(&crm, "retry: interactor")]);
    relay.accept(&["crm"]);
    for (wait, attempts) in [(60, 1), (300, 2), (0, 3)] {
        relay.settled("an attempt is recorded", |store| store.attempts.lock().unwrap().len() == attempts).await;
        relay.clock.advance(secs(wait));
    }
    insta::assert_snapshot!(relay.store.log(), @"1 retry http_503, 2 retry http_500, 3 delivered 200");
    let got = crm.received();
    assert!(got.iter().all(|it| it.header("idempotency-key") == got[0].header("idempotency-key") && it.body == got[0].body));
    assert_eq!(got[2].header("x-hookyard-attempt"), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_already_made_stays_when_the_file_names_another_payload() {
    let crm = Receiver::start([503, 200]).await;
    let relay = Relay::start(vec![webhook(&crm, "retry: interactor")]);
    relay.accept(&["crm"]);
    relay.settled("an attempt is recorded", |store| store.attempts.lock().unwrap().len() == 1).await;
    relay.deliver.drain(secs(5)).await;
    let relay = Relay::on(relay.store.clone(), vec![webhook(&crm, "payload: original")]);
    relay.clock.advance(secs(60));
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    let got = crm.received();
    assert_eq!(got[0].text(), got[1].text());
    assert_eq!(got[0].header("content-type"), got[1].header("content-type"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_attempt_falls_on_give_up_time() {
    let crm = Receiver::start([500]).await;
    let relay = Relay::start(vec![webhook(&crm, "retry: {initial: 40s, max: 40s, jitter: none, give_up_after: 60s}")]);
    relay.accept(&["crm"]);
    for attempts in 1..=3 {
        relay.settled("an attempt is recorded", |store| store.attempts.lock().unwrap().len() == attempts).await;
        relay.clock.advance(secs(if attempts == 1 { 40 } else { 20 }));
    }
    insta::assert_snapshot!(relay.store.log(), @"1 retry http_500, 2 retry http_500, 3 dead (receiver) http_500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permanent_answers_make_dead_letters_at_once() {
    let crm =
        Receiver::start([Says(302, Some(("location", "http://127.0.0.1:1/")), Duration::ZERO), 400.into(), 410.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    (0..3).for_each(|_| relay.accept(&["crm"]));
    relay.settled("all are dead", |store| store.states(State::Dead) == 3).await;
    insta::assert_snapshot!(relay.store.log(), @"1 dead (config) http_302, 1 dead (receiver) http_400, 1 dead (receiver) http_410");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_holds_the_whole_lane_up_to_its_cap() {
    let crm = Receiver::start([Says(429, Some(("retry-after", "86400")), Duration::ZERO), 200.into()]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1, retry_after_max: 10m")]);
    (0..3).for_each(|_| relay.accept(&["crm"]));
    relay.settled("the first is refused", |store| store.attempts.lock().unwrap().len() == 1).await;
    relay.clock.advance(secs(599));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(crm.received().len(), 1);
    relay.clock.advance(secs(1));
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_target_delays_no_other() {
    let slow = Receiver::start([Says(200, None, secs(600))]).await;
    let quick = Receiver::start([200]).await;
    let slow = destination("slow", &format!("{{kind: webhook, url: '{}'}}", slow.url())).unwrap();
    let relay = Relay::start(vec![slow, webhook(&quick, "")]);
    (0..100).for_each(|_| relay.accept(&["slow", "crm"]));
    relay.settled("the quick one has all", |store| store.states(State::Delivered) == 100).await;
    assert_eq!(relay.deliver.in_flight().len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_waiting_are_read_in_bounded_parts_and_sent_once() {
    const COUNT: usize = 2_000;
    let store = Arc::new(MemoryStore::default());
    let crm = Receiver::start([200]).await;
    for _ in 0..COUNT / 2 {
        store.commit(sample(), &["crm"], None, "2026-01-20T11:00:00Z".parse().unwrap());
    }
    let relay = Relay::on(store, vec![webhook(&crm, "concurrency: 4")]);
    for _ in 0..COUNT / 2 {
        relay.accept(&["crm"]);
        tokio::task::yield_now().await;
    }
    relay.settled("all are delivered", |store| store.states(State::Delivered) == COUNT).await;
    assert_eq!(crm.received().len(), COUNT);
    assert!(crm.most() <= 4, "{}", crm.most());
    assert!(relay.store.most_read.load(Ordering::SeqCst) <= 128 + 512 + 128, "{:?}", relay.store.most_read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_slots_are_filled_however_much_one_read_back_brings() {
    let store = Arc::new(MemoryStore::default());
    let slow = Receiver::start([Says(200, None, secs(600))]).await;
    let large = Envelope { body: vec![b' '; 1024 * 1024].into(), data: None, ..sample() };
    for _ in 0..40 {
        store.commit(large.clone(), &["crm"], None, "2026-01-20T11:00:00Z".parse().unwrap());
    }
    let _relay = Relay::on(store.clone(), vec![webhook(&slow, "concurrency: 32, payload: original")]);
    eventually("every slot is used", || slow.most() == 32).await;
    assert!(store.most_read.load(Ordering::SeqCst) < 128);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_is_sent_while_the_store_refuses_records() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.store.full.store(true, Ordering::SeqCst);
    relay.accept(&["crm"]);
    eventually("the first is sent", || crm.received().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    (0..20).for_each(|_| relay.accept(&["crm"]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(crm.received().len(), 1);
    relay.store.full.store(false, Ordering::SeqCst);
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 21).await;
    assert_eq!(crm.received().len(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_one_lanes_records_stops_every_lane() {
    let (crm, other) = (Receiver::start([200]).await, Receiver::start([200]).await);
    let second = destination("other", &format!("{{kind: webhook, url: '{}'}}", other.url())).unwrap();
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1"), second]);
    relay.store.full.store(true, Ordering::SeqCst);
    relay.accept(&["crm"]);
    eventually("the first is sent", || crm.received().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    (0..20).for_each(|_| relay.accept(&["other"]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(other.received().len(), 0);
    relay.store.full.store(false, Ordering::SeqCst);
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_is_sent_while_the_store_does_not_answer() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.store.mute.store(true, Ordering::SeqCst);
    relay.accept(&["crm"]);
    eventually("the first is sent", || crm.received().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    (0..20).for_each(|_| relay.accept(&["crm"]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(crm.received().len(), 1);
    relay.store.mute.store(false, Ordering::SeqCst);
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_what_is_under_way_and_breaks_off_what_takes_too_long() {
    let quick = Receiver::start([Says(200, None, Duration::from_millis(200))]).await;
    let relay = Relay::start(vec![webhook(&quick, "concurrency: 1")]);
    (0..2).for_each(|_| relay.accept(&["crm"]));
    eventually("the first is sent", || quick.received().len() == 1).await;
    relay.deliver.drain(secs(10)).await;
    assert_eq!((relay.store.states(State::Delivered), relay.store.states(State::Pending)), (1, 1));

    let slow = Receiver::start([Says(200, None, secs(600))]).await;
    let relay = Relay::start(vec![webhook(&slow, "")]);
    relay.accept(&["crm"]);
    eventually("it is sent", || slow.received().len() == 1).await;
    relay.deliver.drain(Duration::from_millis(10)).await;
    assert_eq!(relay.store.states(State::Pending), 1);
    assert_eq!(relay.store.log(), "1 retry shutdown");
    let cut_off = relay.store.attempts.lock().unwrap()[0].clone();
    assert!(!cut_off.counts && matches!(cut_off.next, Next::Retry(at) if at <= relay.clock.now()), "{cut_off:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_relay_commits_for_a_subscription_without_a_lane_is_looked_into() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "")]);
    let gone = Name::from(format!("wh_{}", "a".repeat(26)).as_str());
    relay.store.hear_of(&["crm".into(), "gone-from-the-file".into(), gone.clone()]);
    let told = relay.deliver.signs().take();
    assert_eq!(told.strays.into_iter().collect::<Vec<_>>(), [gone]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bug_of_ours_leaves_a_dead_letter_and_the_lane_goes_on() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "concurrency: 1")]);
    relay.store.commit(sample(), &["crm"], Some(super::attempt::BUG), relay.clock.now());
    (0..2).for_each(|_| relay.accept(&["crm"]));
    relay.settled("the rest is delivered", |store| store.states(State::Delivered) == 2).await;
    relay.settled("it is dead", |store| store.states(State::Dead) == 1).await;
    assert!(relay.store.log().contains("1 dead (internal) internal"), "{}", relay.store.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_secret_is_tried_within_the_same_attempt() {
    let crm = Receiver::start([401, 200]).await;
    let relay = Relay::start(vec![webhook(&crm, "signing: {schemes: [agent], secrets: [new, old]}")]);
    relay.accept(&["crm"]);
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    let got = crm.received();
    assert_eq!((got.len(), got[1].header("x-hookyard-attempt")), (2, "1"));
    assert_ne!(got[0].header("x-webhook-signature"), got[1].header("x-webhook-signature"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_addresses_are_recorded_and_never_reached() {
    let crm = Receiver::start([200]).await;
    for host in ["[::ffff:10.0.0.1]", "0x0a.1", "169.254.169.254", "[::1]"] {
        let target = destination("crm", &format!("{{kind: webhook, url: 'https://{host}:{}/'}}", crm.port)).unwrap();
        let relay = Relay::start(vec![target]);
        relay.accept(&["crm"]);
        relay.settled("it is dead", |store| store.states(State::Dead) == 1).await;
        assert_eq!(relay.store.log(), "1 dead (config) address_forbidden", "{host}");
    }
    assert!(crm.received().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_vetted_when_they_resolve() {
    use super::{
        AddressPolicy,
        client::{Clients, FailureKind, Post, ReadyUrl},
    };
    let crm = Receiver::start([200]).await;
    let url = ReadyUrl::new(&format!("http://localhost:{}/", crm.port).parse().unwrap()).unwrap();
    let mut kinds = Vec::new();
    for allow in ["10.0.0.0/8", "127.0.0.0/8"] {
        let policy = AddressPolicy::new(&[crate::config::AllowTarget::Net(allow.parse().unwrap())]);
        let http = Clients::new(policy).get(&super::TlsProfile::default()).unwrap();
        let deadline = tokio::time::Instant::now() + secs(5);
        let post = Post { url: &url, headers: Default::default(), body: "x".into(), answer_max: 100, deadline };
        kinds.push(http.send(post).await.map(|answer| answer.status).map_err(|failure| failure.kind));
    }
    assert_eq!(kinds, [Err(FailureKind::Forbidden), Ok(200)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_codes_and_say_nothing_of_the_path() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 16]).await;
        }
    });
    let closed_port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let never = Receiver::start([Says(200, None, secs(600))]).await;
    let urls = [
        (format!("http://127.0.0.1:{port}/secret-path"), "closed"),
        (format!("https://127.0.0.1:{}/secret-path", never.port), "tls"),
        (format!("http://127.0.0.1:{closed_port}/secret-path"), "connect"),
        (format!("http://{NOWHERE}/secret-path"), "dns"),
        (never.url(), "timeout"),
    ];
    for (url, code) in urls {
        let timeout = if code == "timeout" { "50ms" } else { "20s" };
        let relay =
            Relay::start(vec![destination("crm", &format!("{{kind: webhook, timeout: {timeout}, url: '{url}'}}")).unwrap()]);
        relay.accept(&["crm"]);
        relay.settled("an attempt is recorded", |store| !store.attempts.lock().unwrap().is_empty()).await;
        let attempt = relay.store.attempts.lock().unwrap()[0].clone();
        assert_eq!(attempt.error.as_deref(), Some(code), "{attempt:?}");
        assert!(matches!(attempt.next, Next::Retry(_)) && !format!("{attempt:?}").contains("secret-path"), "{attempt:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_drips_counts_by_its_status() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 4096]).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhel").await.unwrap();
        tokio::time::sleep(secs(60)).await;
    });
    let relay = Relay::start(vec![
        destination("crm", &format!("{{kind: webhook, timeout: 200ms, url: 'http://127.0.0.1:{port}'}}")).unwrap(),
    ]);
    relay.accept(&["crm"]);
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    assert_eq!(relay.store.attempts.lock().unwrap()[0].response, "hel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n8n_gets_a_message_with_metadata_and_its_404_passes() {
    let crm = Receiver::start([404, 200]).await;
    let relay = Relay::start(vec![n8n(
        &crm,
        "metadata: data, answers: interactor, retry: agent, auth: {basic: {username: u, password: p}}",
    )]);
    relay.accept(&["crm"]);
    relay.settled("the first is refused", |store| store.attempts.lock().unwrap().len() == 1).await;
    relay.clock.advance(secs(10));
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    let got = crm.received();
    insta::assert_snapshot!(got[0].text(), @r#"{"message":"cred_abc connection expired for user_123. Reconnect it.","metadata":{ "credential_id": "cred_abc", "n": 1.50 }}"#);
    assert_eq!(got[0].body, got[1].body);
    assert_eq!(got[0].header("authorization"), "Basic dTpw");
    assert_eq!(relay.store.attempts.lock().unwrap()[1].response, "answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_make_the_message_and_fall_back_when_they_fail() {
    let crm = Receiver::start([200]).await;
    let relay =
        Relay::start(vec![webhook(&crm, "payload: template, concurrency: 1, template: '{\"t\":{{ event.type | tojson }}}'")]);
    for template in [None, Some("line"), Some("broken"), Some("gone")] {
        relay.store.commit(sample(), &["crm"], template, relay.clock.now());
    }
    relay.settled("all are delivered", |store| store.states(State::Delivered) == 4).await;
    let sent: Vec<_> = crm.received().iter().map(|it| format!("{} | {}", it.header("content-type"), it.text())).collect();
    insta::assert_snapshot!(sent.join("\n"), @r#"
    application/json | {"t":"credential.expired"}
    text/plain; charset=utf-8 | credential.expired!
    text/plain; charset=utf-8 | cred_abc connection expired for user_123. Reconnect it. (template `broken` failed; this is the built-in line)
    text/plain; charset=utf-8 | cred_abc connection expired for user_123. Reconnect it. (template `gone` failed; this is the built-in line)
    "#);
    let details: Vec<_> = relay.store.attempts.lock().unwrap().iter().filter_map(|attempt| attempt.detail.clone()).collect();
    insta::assert_snapshot!(details.join("\n"), @r"
    template `broken` failed: undefined value: `event.data.a` is undefined
    template `gone` failed: there is no such template
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_original_goes_out_as_it_came() {
    let crm = Receiver::start([200]).await;
    let relay = Relay::start(vec![webhook(&crm, "payload: original")]);
    relay.store.commit(
        Envelope { content_type: Some("application/json; charset=utf-8".into()), ..sample() },
        &["crm"],
        None,
        relay.clock.now(),
    );
    relay.settled("it is delivered", |store| store.states(State::Delivered) == 1).await;
    assert_eq!(
        (crm.received()[0].body.clone(), crm.received()[0].header("content-type")),
        (sample().body, "application/json; charset=utf-8")
    );
}

#[test]
fn destinations_are_read_and_their_urls_masked() {
    let it =
        destination("crm", "{kind: webhook, url: 'https://User.example.com:8443/hooks/secret?x=1#f', timeout: 300s}").unwrap();
    assert_eq!(it.masked_url(), "https://user.example.com:8443/***");
    assert!(!format!("{it:?}").contains("secret"), "{it:?}");
}

#[test]
fn what_a_destination_cannot_be_is_an_error() {
    let bad = [
        "{kind: webhok, url: 'https://a.example'}",
        "{kind: webhook}",
        "{kind: webhook, url: 'http://crm.example.com/secret'}",
        "{kind: webhook, url: 'ftp://crm.example.com/'}",
        "{kind: webhook, url: 'https://user:pass@crm.example.com/'}",
        "{kind: webhook, url: 'https://a.example', timeout: 301s, concurrency: 0, chanel: x}",
        "{kind: webhook, url: 'https://a.example', headers: {Host: x, X-Hookyard-Delivery: q, webhook-id: z, 'a b': c, X-A: \"\\n\"}}",
        "{kind: webhook, url: 'https://a.example', headers: {X-Sig: x}, signing: {schemes: [custom], header: X-Sig, secrets: [s]}}",
        "{kind: webhook, url: 'https://a.example', payload: template}",
        "{kind: webhook, url: 'https://a.example', payload: original, content_type: json, template: line}",
        "{kind: webhook, url: 'https://a.example', payload: template, template: lin}",
        "{kind: n8n, url: 'https://a.example', template: '{{ event.type | shout }}'}",
        "{kind: n8n, url: 'https://a.example', auth: {}}",
        "{kind: n8n, url: 'https://a.example', auth: {header: {name: X-Key, value: v}}, headers: {X-Key: w}}",
        "{kind: webhook, url: 'https://a.example', tls: {ca_file: /no/such/file}}",
        "{kind: webhook, url: 'https://a.example', breaker: 5}",
        "{kind: n8n, url: 'https://a.example', status_rules: {404: permanent}}",
        "{kind: webhook, url: 'https://a.example', order_by: data, rate_limit: fast, renamed_from: 'a b'}",
    ];
    let messages: Vec<_> =
        bad.map(|yaml| destination("crm", yaml).map_or_else(|errors| errors.join("; "), |_| "fine".into())).to_vec();
    insta::assert_snapshot!(messages.join("\n"), @r"
    expected `webhook` or `n8n` or `slack` or `whatsapp` or `email`, found `webhok`
    destination `crm` needs `url`
    a target must be https
    expected a URL such as https://example.com/hooks
    a URL must not hold a user name or password
    `timeout` must be longer than nothing and at most 300s; `concurrency` must be between 1 and 1024; destination `crm` has no key `chanel`
    header `host` is the relay's own; header `x-hookyard-delivery` is the relay's own; header `webhook-id` belongs to a signature; this is not the name of a header; a header cannot carry this value
    header `x-sig` belongs to a signature
    `payload: template` needs `template`
    `content_type` is chosen for `payload: envelope` only; `template` is used with `payload: template` only
    there is no template `lin`
    this template cannot be used: unknown filter: filter shout is unknown
    `auth` needs either `header` or `basic`
    header `x-key` is set elsewhere too
    `/no/such/file` cannot be used: No such file or directory (os error 2)
    destination `crm` has no key `breaker`
    n8n's 404 is always transient: a workflow is being edited
    expected a rate such as 50/s, 100/m or 1000/h, found `fast`; `data` is not a path: a path begins with `$`; expected a name: letters, digits, `.`, `_` and `-`, at most 64, found `a b`
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_against_the_system_or_the_ca_file_or_not_at_all() {
    let port = super::testing::tls_server();
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/src/deliver/testing/ca.pem");
    let profiles = ["".to_owned(), format!(", tls: {{ca_file: {ca}}}"), ", tls: {verify: false}".to_owned()];
    let mut logs = Vec::new();
    for tls in profiles {
        let target = destination("crm", &format!("{{kind: webhook, url: 'https://127.0.0.1:{port}/'{tls}}}")).unwrap();
        let relay = Relay::start(vec![target]);
        relay.accept(&["crm"]);
        relay.settled("an attempt is recorded", |store| !store.attempts.lock().unwrap().is_empty()).await;
        logs.push(relay.store.log());
    }
    assert_eq!(logs, ["1 retry tls", "1 delivered 200", "1 delivered 200"]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_file_breaks_the_decoder(
        url in "(https?|ftp|)(://)?[a-z0-9.:@/\\[\\]%-]{0,30}", header in r"\PC{0,12}", value in r"\PC{0,12}", secret in r"\PC{0,12}",
        number in -5i64..500, template in r"(\{\{|\}\}|\{%|%\}|[a-z |.]){0,12}",
    ) {
        let yaml = serde_json::json!({
            "kind": "webhook", "url": url, "payload": "template", "template": template, "headers": { header.clone(): value },
            "concurrency": number, "timeout": number, "retry": { "factor": number, "max_attempts": number },
            "signing": { "schemes": ["standard", "custom"], "secrets": secret, "header": header }, "tls": { "ca_file": secret },
        });
        let _ = destination("crm", &yaml.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_dropped_in_mid_attempt_leaves_nothing_running() {
    let crm = Receiver::start([Says(200, None, secs(60))]).await;
    let relay = Relay::start(vec![webhook(&crm, "")]);
    relay.accept(&["crm"]);
    eventually("an attempt is under way", || !crm.received().is_empty()).await;
    let (left, threads) = (std::sync::Arc::downgrade(&relay.deliver), relay.deliver.threads.handle().clone());
    assert_ne!(threads.id(), tokio::runtime::Handle::current().id());
    drop(relay);
    eventually("nobody holds it", || left.strong_count() == 0).await;
    assert!(threads.spawn(std::future::ready(())).await.unwrap_err().is_cancelled());
    eventually("the request is broken off", || crm.open() == 0).await;
}
