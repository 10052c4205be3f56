//! The envelope: product.md, "The envelope", byte for byte, and as an independent CloudEvents SDK reads it.

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::support::{
    Receiver, Relay, referee, routes, seeds,
    signed::{agent, event, interactor},
};

/// Pieces of JSON that a careless relay would write otherwise than it read them.
const DELICATE: [&str; 12] = [
    r#"{ "z" : 1 ,	"a":2 }"#,
    r#"{"n":1.50,"e":1E5,"m":-0,"big":123456789012345678901234567890,"small":0.10000000000000000555}"#,
    r#"{"s":"\u00e9é\/\ud83d\ude00\b\f\n\r\t\"\\"}"#,
    r#"{"lone":"\ud800","pair":"\uD83D\uDE00"}"#,
    r#"{"a":1,"a":2}"#,
    "{\n  \"pretty\": [\n    1,\n    2\n  ]\n}",
    r#"{"":{"":[[],{}]}}"#,
    "[1,2,3]",
    "\"text\"",
    "1.0",
    "null",
    "false",
];

#[tokio::test]
async fn data_is_the_senders_bytes() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    for (n, data) in DELICATE.iter().enumerate() {
        relay.accepts(&interactor(format!(r#"{{"data": {data} ,"id":"evt_{n}","type":"x.y"}}"#))).await;
    }
    let seen = crm.wait_for(DELICATE.len()).await;
    for (n, data) in DELICATE.iter().enumerate() {
        let id = format!(r#""id":"evt_{n}","#);
        let text = seen.iter().map(crate::support::Received::text).find(|text| text.contains(&id)).unwrap();
        assert!(text.ends_with(&format!(r#","data":{data}}}"#)), "{data}\n{text}");
        assert!(text.starts_with(r#"{"specversion":"1.0","#), "{text}");
    }
}

#[tokio::test]
async fn the_rest_is_compact_and_absent_attributes_are_left_out() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    relay.accepts(&interactor(event("evt_003"))).await;
    let request = crm.first().await;
    let mut envelope = request.json();
    for variable in ["receivedat", "traceparent"] {
        envelope.as_object_mut().unwrap().remove(variable);
    }
    let expected = json!({
        "specversion": "1.0", "id": "evt_003", "source": "/sources/interactor", "type": "credential.expired", "subject": "cred_abc",
        "time": "2026-01-20T12:00:00Z", "timestamp": "2026-01-20T12:00:00Z", "datacontenttype": "application/json",
        "namespace": "user_123", "sourcekind": "interactor",
        "data": {"credential_id": "cred_abc", "namespace": "user_123"}
    });
    assert_eq!(envelope, expected);
    assert!(!request.text().contains("\": ") && !request.text().contains("null"), "{}", request.text());
    assert_eq!(request.header("content-type"), "application/json");
    let received = request.json()["receivedat"].as_str().unwrap().to_owned();
    assert!(received.ends_with('Z') && received.len() == "2026-01-20T12:00:00.412Z".len(), "{received}");
}

#[tokio::test]
async fn the_original_is_the_bytes_received() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook_with("crm", &crm, "payload: original")).await;
    let body = "{ \"id\":\"evt_o\",\n\"type\":\"x.y\", \"unknown\": [1.50], \"data\":{} }";
    relay.accepts(&interactor(body).header("content-type", "application/json;charset=utf-8")).await;
    let request = crm.first().await;
    assert_eq!((request.text().as_str(), request.header("content-type")), (body, "application/json;charset=utf-8"));
}

#[tokio::test]
async fn a_cloudevents_sdk_reads_it_in_both_media_types() {
    let (plain, cloud) = (Receiver::ok().await, Receiver::ok().await);
    let routes = routes().seeds().webhook("plain", &plain).webhook_with("cloud", &cloud, "content_type: cloudevents");
    let relay = Relay::start(&routes).await;
    for request in seeds::signed() {
        relay.accepts(&request).await;
    }
    let (plain, cloud) = (plain.wait_for(14).await, cloud.wait_for(14).await);
    assert!(cloud.iter().all(|request| request.header("content-type") == "application/cloudevents+json; charset=utf-8"));
    for seen in [plain, cloud] {
        let readings = referee::judge("envelope.py", seen.iter().map(|request| referee::request(request, "")).collect()).await;
        for (request, reading) in seen.iter().zip(readings) {
            let envelope = request.json();
            assert_eq!(reading["data"], envelope["data"], "{reading}");
            for name in
                ["id", "source", "type", "subject", "datacontenttype", "namespace", "sourcekind", "timestamp", "receivedat"]
            {
                assert_eq!(reading["attributes"].get(name), envelope.get(name), "{name}: {reading}");
            }
        }
    }
}

#[tokio::test]
async fn every_attribute_name_is_a_cloudevents_name() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().seeds().webhook("crm", &crm)).await;
    for request in seeds::signed() {
        relay.accepts(&request).await;
    }
    for request in crm.wait_for(14).await {
        let envelope = request.json();
        for name in envelope.as_object().unwrap().keys() {
            assert!(name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
        }
        assert_eq!(envelope["specversion"], "1.0");
    }
}

#[tokio::test]
async fn a_traceparent_goes_through_and_a_bad_one_is_replaced() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    relay.accepts(&interactor(event("evt_t1")).header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))).await;
    relay.accepts(&interactor(event("evt_t2")).header("traceparent", "00-zzzz-1-01")).await;
    relay.accepts(&interactor(event("evt_t3"))).await;
    for request in crm.wait_for(3).await {
        let header = request.header("traceparent");
        let parts: Vec<_> = header.split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2], "{header}");
        if request.json()["id"] == "evt_t1" {
            assert!(header.contains(trace), "{header}");
        }
    }
}

/// Any JSON that a sender may hold for data comes out of the relay as the same bytes.
#[tokio::test]
async fn any_json_keeps_its_bytes() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().agent().webhook("crm", &crm)).await;
    let mut runner = TestRunner::new(Config::default());
    let mut sent = Vec::new();
    for n in 0..60 {
        let data = json_value().new_tree(&mut runner).unwrap().current();
        let data = if n % 2 == 0 { data.to_string() } else { serde_json::to_string_pretty(&data).unwrap() };
        relay.accepts(&agent(format!(r#"{{"n":{n},"event":"any.thing","data":{data}}}"#))).await;
        sent.push(data);
    }
    let seen: Vec<_> = crm.wait_for(sent.len()).await.iter().map(crate::support::Received::text).collect();
    for data in sent {
        let end = format!(r#","data":{data}}}"#);
        assert!(seen.iter().any(|text| text.ends_with(&end)), "{data}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}
