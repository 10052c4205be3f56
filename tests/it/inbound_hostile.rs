//! Requests that are legal but odd, or made to hurt: what a sender, a proxy or an attacker may do to the public listener.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Receiver, Relay, Request, SOON,
    http::read_for,
    raw, routes,
    signed::{INTERACTOR, event, hash_id, hex_mac, interactor, trigger},
    unix_now,
};

const MIB: usize = 1024 * 1024;
/// Much sooner than a body may take.
const PROMPT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn http2_by_prior_knowledge_is_spoken() {
    let relay = Relay::start(&routes().interactor().server("max_body: 4KiB")).await;
    let client = reqwest::Client::builder().no_proxy().timeout(SOON).http2_prior_knowledge().build().unwrap();
    let mut sending = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (client, addr) = (client.clone(), relay.public);
        let request = interactor(event(&format!("evt_h2_{n}")));
        sending.spawn(async move { crate::support::relay::send(&client, addr, &request).await.unwrap().status });
    }
    assert!(sending.join_all().await.iter().all(|status| *status == 200));
    let large = interactor("x".repeat(MIB));
    crate::support::relay::send(&client, relay.public, &large).await.unwrap().refused(413, "payload_too_large");
    let answer = crate::support::relay::send(&client, relay.public, &interactor(event("evt_after"))).await.unwrap();
    assert_eq!(answer.status, 200, "one refusal does not end the connection's other requests");
}

/// Whoever writes all it has before it reads, or writes while it reads, sees the answer.
#[tokio::test]
async fn a_sender_that_goes_on_sees_the_answer() {
    let relay = Relay::start(&routes().interactor()).await;
    for framing in [format!("content-length: {}\r\n", 16 * MIB), "transfer-encoding: chunked\r\n".to_owned()] {
        let chunked = framing.starts_with("transfer");
        let mut bytes = interactor("x").head(&framing);
        for _ in 0..16 {
            let part = "x".repeat(MIB);
            bytes.extend_from_slice(if chunked { format!("100000\r\n{part}\r\n") } else { part }.as_bytes());
        }
        let began = Instant::now();
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("payload_too_large"), "{framing}: {answer}");
        assert!(began.elapsed() < PROMPT, "{framing}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_sender_that_stops_is_answered_at_once() {
    let relay = Relay::start(&routes().interactor()).await;
    let mut socket = TcpStream::connect(relay.public).await.unwrap();
    socket.write_all(&interactor("x").head(&format!("content-length: {}\r\n", 64 * MIB))).await.unwrap();
    let began = Instant::now();
    let answer = read_for(&mut socket, SOON).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(began.elapsed() < PROMPT, "answered and closed after {:?}", began.elapsed());
}

#[tokio::test]
async fn chunks_count_before_a_declared_length() {
    let relay = Relay::start(&routes().interactor().server("max_body: 4KiB")).await;
    let body = event("evt_both");
    for lengths in
        ["content-length: 5\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 99999\r\n"]
    {
        let mut bytes = interactor(&body).head(&format!("{lengths}connection: close\r\n"));
        bytes.extend_from_slice(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 400"), "{lengths}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lengths}: {answer}");
    }
}

#[tokio::test]
async fn headers_that_repeat_or_are_no_text_prove_nothing() {
    let relay = Relay::start(&routes().interactor()).await;
    let good = interactor(event("evt_1"));
    let signature = good.value("X-Interactor-Signature").to_owned();
    let stamp = good.value("X-Interactor-Timestamp").to_owned();
    let length = format!("content-length: {}\r\nconnection: close\r\n", good.body.len());
    let cases: [(&str, Vec<u8>); 3] = [
        ("invalid_signature", format!("x-interactor-signature: {signature}\r\n").into_bytes()),
        ("invalid_timestamp", format!("x-interactor-timestamp: {stamp}\r\n").into_bytes()),
        ("invalid_signature", b"x-interactor-signature: sha256=\xff\xfe\r\n".to_vec()),
    ];
    for (code, line) in cases {
        let mut bytes = good.head(&length);
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(&line);
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&good.body);
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains(code), "{code}: {answer}");
    }
    relay.accepts(&good).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_a_slow_one_behind_them_is_cut_off() {
    let relay = Relay::start(&routes().interactor()).await;
    let mut bytes = Vec::new();
    for id in ["evt_p1", "evt_p2", "evt_p3"] {
        let request = interactor(event(id));
        bytes.extend_from_slice(&request.head(&format!("content-length: {}\r\n", request.body.len())));
        bytes.extend_from_slice(&request.body);
    }
    bytes.extend_from_slice(b"POST /webhooks/interactor HTTP/1.1\r\nx-slow: ");
    let mut socket = TcpStream::connect(relay.public).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    let began = Instant::now();
    let mut seen = String::new();
    let mut part = [0; 4096];
    // A byte a second, until the relay has had enough.
    while let Ok(()) = socket.write_all(b"x").await {
        match tokio::time::timeout(Duration::from_secs(1), socket.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(count)) => seen += &String::from_utf8_lossy(&part[..count]),
            Err(_) => assert!(began.elapsed() < Duration::from_secs(25), "still open"),
        }
    }
    let places: Vec<_> = ["evt_p1", "evt_p2", "evt_p3"].iter().map(|id| seen.find(id)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{seen}");
    assert!(began.elapsed() < Duration::from_secs(16), "cut off after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_target_in_absolute_form_is_its_path() {
    let relay = Relay::start(&routes().interactor()).await;
    let request = interactor(event("evt_abs"));
    let mut bytes = request
        .clone()
        .to("http://relay/webhooks/interactor?x=1")
        .head(&format!("content-length: {}\r\nconnection: close\r\n", request.body.len()));
    bytes.extend_from_slice(&request.body);
    assert!(raw(relay.public, &bytes, SOON).await.contains("evt_abs"));
    for path in ["/webhooks//interactor", "/webhooks/./interactor", "/webhooks/%69nteractor", "/webhooks/interactor%00", "/%ff"] {
        let bytes = request.clone().to(path).head("content-length: 0\r\nconnection: close\r\n");
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("not_found"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn times_are_read_in_every_shape_senders_write() {
    let relay = Relay::start(&routes().interactor()).await;
    let now = jiff::Timestamp::from_second(unix_now()).unwrap().to_string();
    let bare = now.strip_suffix('Z').unwrap();
    let good = [
        format!("{bare}.123Z"),
        format!("{bare}.000000Z"),
        format!("{bare}+00:00"),
        format!("{bare}-00:00"),
        format!("{bare}.5+0000"),
        now.to_lowercase(),
        crate::support::iso(200),
        crate::support::iso(-200),
    ];
    for (n, text) in good.iter().enumerate() {
        relay.accepts(&interactor(event(&format!("evt_t{n}"))).header("X-Interactor-Timestamp", text)).await;
    }
    for text in [bare.to_owned(), unix_now().to_string(), crate::support::iso(400), crate::support::iso(-400), String::new()] {
        let request = interactor(event("evt_bad")).header("X-Interactor-Timestamp", text.clone());
        let answer = relay.send(&request).await;
        assert_eq!((answer.status, answer.error().as_str()), (401, "invalid_timestamp"), "{text}");
    }
}

#[tokio::test]
async fn json_that_is_odd_but_legal_is_taken() {
    let crm = Receiver::ok().await;
    let relay = Relay::start(&routes().interactor().webhook("crm", &crm)).await;
    let deep = |depth: usize| {
        let inner = depth - 1;
        format!(r#"{{"id":"evt_d{depth}","type":"a.b","data":{}{}}}"#, "[".repeat(inner), "]".repeat(inner))
    };
    let long = "x".repeat(257);
    let taken = [
        (r#"{"id":"first","type":"a.b","id":"evt_last"}"#.to_owned(), "evt_last".to_owned()),
        (
            r#"{"id":"evt_n","type":"a.b","data":{"n":1e999,"m":-0.0,"big":123456789012345678901234567890}}"#.to_owned(),
            "evt_n".to_owned(),
        ),
        (r#"{"id":"evt_s","type":"a.b","data":{"half \ud800":"\udfff"}}"#.to_owned(), "evt_s".to_owned()),
        ("\r\n\t {\"id\":\"evt_w\" , \"type\":\"a.b\"}\n ".to_owned(), "evt_w".to_owned()),
        (deep(100), "evt_d100".to_owned()),
        (format!(r#"{{"id":"{}","type":"a.b"}}"#, "y".repeat(256)), "y".repeat(256)),
        (format!(r#"{{"id":"{long}","type":"a.b"}}"#), hash_id(long.as_bytes())),
        (r#"{"id":"a\u0000b","type":"a.b"}"#.to_owned(), hash_id(b"a\0b")),
    ];
    let count = taken.len();
    for (body, id) in taken {
        assert_eq!(relay.accepts(&interactor(&body)).await, id, "{body}");
    }
    relay.settled("", count).await;
    for bad in ["\u{feff}{\"id\":\"evt_bom\",\"type\":\"a.b\"}", "{\"id\":\"a\",\"type\":\"b\"}{}", &deep(101), "\0", ""] {
        relay.send(&interactor(bad)).await.refused(400, "invalid_json");
    }
    let invalid_utf8 = b"{\"id\":\"\xff\",\"type\":\"b\"}";
    let signature = format!("sha256={}", hex_mac(INTERACTOR, &[invalid_utf8]));
    let request = interactor("").with_body(*invalid_utf8).header("X-Interactor-Signature", signature);
    relay.send(&request).await.refused(400, "invalid_json");
}

#[tokio::test]
async fn ids_too_large_to_hold_exactly_are_not_confused() {
    let fields = "kind: trigger, path: /triggers/open, allow_unauthenticated: true, map: {id: $.id, type: t}";
    let relay = Relay::start(&routes().source("open", fields)).await;
    let sent = |id: &str| Request::json("/triggers/open", format!(r#"{{"id":{id}}}"#));
    assert_eq!(relay.accepts(&sent("18446744073709551615")).await, "18446744073709551615");
    let (one, other) = ("123456789012345678901", "123456789012345678902");
    assert_ne!(relay.accepts(&sent(one)).await, relay.accepts(&sent(other)).await);
}

#[tokio::test]
async fn a_request_to_the_old_path_of_a_secret_one_is_kept_and_not_shown() {
    let secret = "moved-secret-Zq81kk";
    let fields = format!("kind: trigger, path: /triggers/new, path_secret: \"{secret}\", map: {{type: t}}");
    let relay = Relay::start(&routes().trigger().source("moved", &fields)).await;
    relay.send(&Request::json(&format!("/triggers/old/{secret}"), r#"{"a":1}"#)).await.refused(404, "not_found");
    relay.send(&trigger("{}").to("/webhooks/renamed")).await.refused(404, "not_found");
    let rows = crate::support::until("both rejections", SOON, async || {
        let rows = relay.all("/api/v1/rejections").await;
        (rows.len() == 2).then_some(rows)
    })
    .await;
    let mut shown: Vec<_> = rows.iter().map(|row| (row["path"].clone(), row["kept"].clone())).collect();
    shown.sort_by_key(|(path, _)| path.to_string());
    assert_eq!(shown, [(json!("/triggers/old/***"), json!(true)), (json!("/webhooks/renamed"), json!(true))]);
}

/// `nc -N` and some plain clients say that they have no more to send before they read.
#[tokio::test]
async fn a_sender_that_closes_its_half_is_answered() {
    let relay = Relay::start(&routes().interactor()).await;
    for n in 0..20 {
        let request = interactor(event(&format!("evt_half_{n}")));
        let mut bytes = request.head(&format!("content-length: {}\r\n", request.body.len()));
        bytes.extend_from_slice(&request.body);
        let mut socket = TcpStream::connect(relay.public).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let answer = read_for(&mut socket, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{n}: {answer}");
    }
    // Without a request, or in the midst of one, there is nothing to wait for.
    for bytes in [Vec::new(), b"POST / HT".to_vec(), interactor("x").head("content-length: 5\r\n")] {
        let mut socket = TcpStream::connect(relay.public).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let began = Instant::now();
        let answer = read_for(&mut socket, SOON).await;
        assert!(!answer.starts_with("HTTP/1.1 2") && began.elapsed() < Duration::from_secs(5), "{answer}");
    }
}
