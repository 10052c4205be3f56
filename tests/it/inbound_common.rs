//! What all inbound kinds share: path, method, size, time, media type, JSON, in this order: product.md, "Inbound contracts".

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Answer, Relay, Request, SOON,
    http::read_for,
    raw, routes,
    signed::{event, interactor, interactor_by},
};

const MIB: usize = 1024 * 1024;
/// Longer than an answer takes, shorter than any limit under test.
const QUIET: Duration = Duration::from_secs(3);

/// An event whose body is exactly `size` bytes long.
fn sized(id: &str, size: usize) -> String {
    let empty = format!(r#"{{"id":"{id}","type":"x.y","data":{{"p":""}}}}"#);
    let padding = "x".repeat(size - empty.len());
    format!(r#"{{"id":"{id}","type":"x.y","data":{{"p":"{padding}"}}}}"#)
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let relay = Relay::start(&routes().interactor()).await;
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/interactor/",
        "/webhooks/interactor/x",
        "/WEBHOOKS/interactor",
        "//webhooks/interactor",
    ] {
        relay.send(&interactor(event("evt_1")).to(path)).await.refused(404, "not_found");
    }
    relay.accepts(&interactor(event("evt_1")).to("/webhooks/interactor?a=b")).await;
}

#[tokio::test]
async fn post_is_the_only_method() {
    let relay = Relay::start(&routes().interactor()).await;
    let client = crate::support::relay::client();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let url = format!("http://{}/webhooks/interactor", relay.public);
        let request = client.request(method.parse().unwrap(), url).body("x".repeat(10));
        let answer = Answer::read(request.send().await.unwrap()).await;
        answer.refused(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), "POST", "{method}");
    }
    let head = client.head(format!("http://{}/webhooks/interactor", relay.public)).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 405);
    let unknown = client.get(format!("http://{}/nowhere", relay.public)).send().await.unwrap();
    assert_eq!(unknown.status().as_u16(), 404, "the path comes first");
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let relay = Relay::start(&routes().interactor().server("max_body: 1KiB")).await;
    let huge = sized("evt_1", 1500);
    let everything_wrong =
        interactor_by("whsec_wrong", &huge).header("X-Interactor-Timestamp", "never").header("content-type", "text/html");
    relay.send(&everything_wrong.clone().to("/nowhere")).await.refused(404, "not_found");
    relay.send(&everything_wrong).await.refused(413, "payload_too_large");
    let small = everything_wrong.with_body("{");
    relay.send(&small).await.refused(401, "invalid_timestamp");
    let timed = interactor_by("whsec_wrong", "{").header("content-type", "text/html");
    relay.send(&timed).await.refused(401, "invalid_signature");
    let signed = interactor("{").header("content-type", "text/html");
    relay.send(&signed).await.refused(415, "unsupported_media_type");
    relay.send(&interactor("{")).await.refused(400, "invalid_json");
    relay.send(&interactor("{}")).await.refused(400, "invalid_event");
}

#[tokio::test]
async fn json_is_the_only_media_type_and_its_absence_counts_as_json() {
    let relay = Relay::start(&routes().interactor()).await;
    for bad in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "multipart/form-data; boundary=x",
        "json",
        "application/jsonx",
    ] {
        relay.send(&interactor(event("evt_bad")).header("content-type", bad)).await.refused(415, "unsupported_media_type");
    }
    for (n, good) in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"].iter().enumerate()
    {
        relay.accepts(&interactor(event(&format!("evt_m{n}"))).header("content-type", *good)).await;
    }
    relay.accepts(&interactor(event("evt_none")).without("content-type")).await;
}

#[tokio::test]
async fn a_body_of_max_body_is_taken_and_one_byte_more_is_not() {
    let relay = Relay::start(&routes().interactor()).await;
    relay.accepts(&interactor(sized("evt_full", MIB))).await;
    relay.send(&interactor(sized("evt_over", MIB + 1))).await.refused(413, "payload_too_large");
    relay.send(&interactor(sized("evt_double", 2 * MIB))).await.refused(413, "payload_too_large");
}

/// The method comes before the body, so the answer does not wait for it.
#[tokio::test]
async fn a_wrong_method_is_answered_without_the_body() {
    let relay = Relay::start(&routes().interactor()).await;
    let head = b"PUT /webhooks/interactor HTTP/1.1\r\nhost: relay\r\ncontent-length: 100\r\n\r\n";
    let answer = raw(relay.public, head, Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: POST"), "{answer}");
}

#[tokio::test]
async fn max_body_is_the_files() {
    let relay = Relay::start(&routes().interactor().server("max_body: 2KiB")).await;
    relay.accepts(&interactor(sized("evt_full", 2048))).await;
    relay.send(&interactor(sized("evt_over", 2049))).await.refused(413, "payload_too_large");
}

#[tokio::test]
async fn a_sender_of_too_much_sees_the_answer() {
    let relay = Relay::start(&routes().interactor()).await;
    // Far more than is read: the answer must come all the same, whether or not the sender stops to look.
    for (declared, sent) in [(2 * MIB, 2 * MIB), (64 * MIB, 2 * MIB)] {
        let request = interactor("x");
        let mut bytes = request.head(&format!("content-length: {declared}\r\n"));
        bytes.resize(bytes.len() + sent, b'x');
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("payload_too_large"), "{declared}: {answer}");
    }
}

/// What is declared decides: the answer needs no byte of the body, and does not wait for what never comes.
#[tokio::test]
async fn a_declared_length_beyond_the_limit_is_answered_without_the_body() {
    let relay = Relay::start(&routes().interactor()).await;
    let head = interactor("x").head(&format!("content-length: {}\r\n", 64 * MIB));
    let began = Instant::now();
    let answer = raw(relay.public, &head, Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("payload_too_large"), "{:?}: {answer}", began.elapsed());
}

#[tokio::test]
async fn chunked_bodies_are_read_and_bounded() {
    let relay = Relay::start(&routes().interactor().server("max_body: 4KiB")).await;
    let body = event("evt_chunks");
    let mut bytes = interactor(&body).head("transfer-encoding: chunked\r\nconnection: close\r\n");
    for part in body.as_bytes().chunks(7) {
        bytes.extend_from_slice(format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap()).as_bytes());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let answer = raw(relay.public, &bytes, SOON).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("evt_chunks"), "{answer}");

    let much = |end: &str| {
        let mut bytes = interactor("x").head("transfer-encoding: chunked\r\n");
        for _ in 0..7 {
            bytes.extend_from_slice(format!("400\r\n{}\r\n", "x".repeat(1024)).as_bytes());
        }
        bytes.extend_from_slice(end.as_bytes());
        bytes
    };
    // One that ends, and one that stalls once it has sent too much.
    for end in ["0\r\n\r\n", ""] {
        let answer = raw(relay.public, &much(end), Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("payload_too_large"), "{end:?}: {answer}");
    }
}

#[tokio::test]
async fn a_body_without_a_length_is_empty() {
    let relay = Relay::start(&routes().interactor()).await;
    let answer = raw(relay.public, &interactor(event("evt_1")).head("connection: close\r\n"), SOON).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("invalid_signature"), "{answer}");
}

#[tokio::test]
async fn a_huge_header_is_refused() {
    let relay = Relay::start(&routes().interactor()).await;
    let one = interactor("{}").head(&format!("x-filler: {}\r\n", "x".repeat(MIB)));
    let many = interactor("{}").head(&"x-filler: 1\r\n".repeat(5000));
    for bytes in [one, many] {
        let answer = raw(relay.public, &bytes, SOON).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    relay.accepts(&interactor(event("evt_after"))).await;
}

#[tokio::test]
async fn nonsense_is_refused() {
    let relay = Relay::start(&routes().interactor()).await;
    let bodies: [&[u8]; 4] = [
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n \x00\r\n\r\n",
    ];
    for bytes in bodies {
        let answer = raw(relay.public, bytes, QUIET).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    let two_lengths = interactor("{}").head("content-length: 2\r\ncontent-length: 3\r\n");
    assert!(!raw(relay.public, &two_lengths, QUIET).await.starts_with("HTTP/1.1 2"));
    relay.accepts(&interactor(event("evt_after"))).await;
}

/// One byte of header a second: the whole header must be there within 10 s, however it trickles.
#[tokio::test]
async fn a_trickled_header_is_cut_off_after_ten_seconds() {
    let relay = Relay::start(&routes().interactor()).await;
    let began = Instant::now();
    let mut socket = TcpStream::connect(relay.public).await.unwrap();
    socket.write_all(b"POST /webhooks/interactor HTTP/1.1\r\nhost: relay\r\nx-slow: ").await.unwrap();
    let ended = trickle(&mut socket, Duration::from_secs(25)).await;
    let took = began.elapsed();
    assert!(Duration::from_secs(8) < took && took < Duration::from_secs(16), "cut off after {took:?}");
    assert!(ended.is_empty() || ended.starts_with("HTTP/1.1 408"), "{ended}");
}

/// One byte of body a second: the whole body must be there within 30 s, however it trickles.
#[tokio::test]
async fn a_trickled_body_is_cut_off_after_thirty_seconds() {
    let relay = Relay::start(&routes().interactor()).await;
    let began = Instant::now();
    let mut socket = TcpStream::connect(relay.public).await.unwrap();
    socket.write_all(&interactor("x").head("content-length: 1000\r\n")).await.unwrap();
    let ended = trickle(&mut socket, Duration::from_secs(50)).await;
    let took = began.elapsed();
    assert!(Duration::from_secs(27) < took && took < Duration::from_secs(37), "cut off after {took:?}");
    assert!(ended.is_empty() || ended.starts_with("HTTP/1.1 408"), "{ended}");
}

/// A byte a second until the other side closes or answers, at most for `long`; yields what it said.
async fn trickle(socket: &mut TcpStream, long: Duration) -> String {
    let deadline = Instant::now() + long;
    let mut part = [0; 1024];
    while Instant::now() < deadline {
        if socket.write_all(b"x").await.is_err() {
            return read_for(socket, Duration::from_secs(1)).await;
        }
        match tokio::time::timeout(Duration::from_secs(1), socket.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return String::new(),
            Ok(Ok(count)) => return String::from_utf8_lossy(&part[..count]).into_owned(),
            Err(_) => {}
        }
    }
    panic!("still open after {long:?}");
}

#[tokio::test]
async fn idle_sockets_keep_nobody_out() {
    let relay = Relay::start(&routes().interactor()).await;
    let mut idle = Vec::new();
    for _ in 0..800 {
        idle.push(TcpStream::connect(relay.public).await.unwrap());
    }
    let began = Instant::now();
    relay.accepts(&interactor(event("evt_among_idlers"))).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[tokio::test]
async fn expect_continue_is_honoured() {
    let relay = Relay::start(&routes().interactor()).await;
    let body = event("evt_expect");
    let request = interactor(&body);
    let mut socket = TcpStream::connect(relay.public).await.unwrap();
    socket
        .write_all(&request.head(&format!("content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n", body.len())))
        .await
        .unwrap();
    let mut part = [0; 256];
    let count = tokio::time::timeout(SOON, socket.read(&mut part)).await.unwrap().unwrap();
    assert!(part[..count].starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&part[..count]));
    socket.write_all(body.as_bytes()).await.unwrap();
    assert!(read_for(&mut socket, SOON).await.contains("evt_expect"));
}

#[tokio::test]
async fn the_public_listener_shows_nothing_else() {
    let relay = Relay::start(&routes().interactor()).await;
    for path in ["/metrics", "/api/v1/events", "/api/v1/deliveries", "/api/v1/config", "/api/openapi.json"] {
        let answer = relay.get_public(path).await;
        assert!(matches!(answer.status, 404 | 405), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn what_the_sender_reads_says_no_more_than_the_code() {
    let relay = Relay::start(&routes().interactor()).await;
    let answers = [
        relay.send(&interactor_by("whsec_wrong", event("evt_1"))).await,
        relay.send(&interactor(event("evt_1")).without("X-Interactor-Signature")).await,
        relay.send(&interactor(event("evt_1")).header("X-Interactor-Signature", "sha256=zz")).await,
    ];
    let texts: Vec<_> = answers.iter().map(Answer::text).collect();
    assert!(texts.iter().all(|text| *text == texts[0]), "the reason is for the rejection log: {texts:?}");
    relay.send(&Request::json("/webhooks/interactor", "{}")).await.refused(401, "invalid_timestamp");
}
