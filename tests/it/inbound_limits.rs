//! `rate_limit` and `failure_limit`: product.md, "Limits".

use crate::support::{
    Answer, Relay, routes,
    signed::{INTERACTOR, event, interactor, interactor_by},
};

fn source(limits: &str) -> crate::support::Routes {
    routes().source("interactor", &format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{INTERACTOR}\"], {limits}"))
}

#[tokio::test]
async fn verified_requests_beyond_the_rate_get_429_with_its_headers() {
    let relay = Relay::start(&source("rate_limit: {rate: 6/m, burst: 3}")).await;
    for n in 0..3 {
        relay.accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    let answer = relay.send(&interactor(event("evt_over"))).await;
    answer.refused(429, "rate_limited");
    let number = |name: &str| answer.header(name).parse::<u64>().unwrap_or_else(|_| panic!("{name}: {answer:?}"));
    assert!((1..=30).contains(&number("retry-after")), "{answer:?}");
    assert_eq!(answer.json()["retry_after"].as_u64(), Some(number("retry-after")));
    assert!(0 < number("x-ratelimit-limit") && number("x-ratelimit-remaining") == 0, "{answer:?}");
    assert!(0 < number("x-ratelimit-reset"), "{answer:?}");
    assert!(relay.all("/api/v1/events").await.len() == 3, "what was refused is not kept as an event");
}

#[tokio::test]
async fn failing_requests_spend_nothing_of_the_rate() {
    let relay = Relay::start(&source("rate_limit: {rate: 6/m, burst: 2}")).await;
    for _ in 0..20 {
        relay.send(&interactor_by("whsec_wrong", event("evt_x"))).await.refused(401, "invalid_signature");
    }
    relay.accepts(&interactor(event("evt_1"))).await;
}

#[tokio::test]
async fn failures_beyond_their_limit_get_429_and_a_verified_request_never() {
    let relay = Relay::start(&source("failure_limit: {rate: 1/s, burst: 5}")).await;
    let mut answers: Vec<Answer> = Vec::new();
    for n in 0..40 {
        answers.push(relay.send(&interactor_by("whsec_wrong", event(&format!("evt_bad_{n}")))).await);
        if n % 10 == 9 {
            relay.accepts(&interactor(event(&format!("evt_good_{n}")))).await;
        }
    }
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert!((25..=35).contains(&refused), "{refused} of 40");
    answers.iter().find(|answer| answer.status == 429).unwrap().refused(429, "rate_limited");
    assert!(answers[..5].iter().all(|answer| answer.status == 401), "the burst is answered as ever");
    let kept = relay.all("/api/v1/rejections").await.iter().filter(|row| row["kept"] == true).count();
    assert!(kept <= 40 - refused, "beyond the limit they are counted, not kept: {kept}");
}
