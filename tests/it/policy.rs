//! Promise 3: no delivery reaches an address that policy forbids; such an attempt is recorded as `address_forbidden`.

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    Home, Receiver, Relay, Routes, routes,
    routes::{FAST, OUT},
    signed::{event, interactor},
};

/// 127.0.0.1 in the notations that parsers and resolvers know, and other addresses nobody outside may be led to.
const FORBIDDEN: [&str; 29] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "localhost",
    "LOCALHOST",
    "127.0.0.1.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "0.0.0.0",
    "[::]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00::1]",
    "224.0.0.1",
    "255.255.255.255",
    "[::127.0.0.1]",
];

fn target(routes: Routes, n: usize, host: &str, port: u16) -> Routes {
    let url = format!("https://{host}:{port}/x");
    routes.destination(
        &format!("t{n}"),
        &format!("kind: webhook, url: \"{url}\", timeout: 5s, signing: {{secrets: [\"{OUT}\"]}}, {FAST}"),
    )
}

#[tokio::test]
async fn private_addresses_in_every_notation_are_dead_letters_and_nothing_connects() {
    let witness = Receiver::ok().await;
    let six = TcpListener::bind(("::1", witness.addr.port())).await.ok();
    let all = FORBIDDEN.iter().enumerate().fold(routes().interactor().security("allow_targets: []"), |routes, (n, host)| {
        target(routes, n, host, witness.addr.port())
    });
    // What the file itself shows to be forbidden may be refused by `check` already; then it is not delivered to either.
    let home = Home::new();
    home.write("routes.yaml", &all.text());
    let checked = home.run(&["check"]).await;
    assert!(
        checked.status.success(),
        "a literal is for the attempt to refuse, so that it is recorded: {}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let relay = Relay::start(&all).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    for row in relay.settled("", FORBIDDEN.len()).await {
        let host = FORBIDDEN[row["target"].as_str().unwrap()[1..].parse::<usize>().unwrap()];
        assert_eq!(
            (&row["state"], &row["error"], &row["cause"]),
            (&json!("dead"), &json!("address_forbidden"), &json!("config")),
            "{host}: {row}"
        );
        assert_eq!(row["attempts"], 1, "{host}");
    }
    assert_eq!((witness.connections(), witness.count()), (0, 0));
    if let Some(six) = six {
        let knock = tokio::time::timeout(std::time::Duration::from_millis(50), six.accept()).await;
        assert!(knock.is_err(), "nobody came to [::1] either");
    }
}

#[tokio::test]
async fn what_is_allowed_is_reached_and_nothing_beside_it() {
    let crm = Receiver::ok().await;
    let port = crm.addr.port();
    let fields = |host: &str| {
        format!("kind: webhook, url: \"http://{host}:{port}/x\", timeout: 5s, signing: {{secrets: [\"{OUT}\"]}}, {FAST}")
    };
    let routes = routes()
        .interactor()
        .security("allow_targets: [\"127.0.0.1/32\", localhost]")
        .destination("literal", &fields("127.0.0.1"))
        .destination("named", &fields("localhost"))
        .destination("hex", &fields("0x7f000001"));
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let rows = relay.settled("", 3).await;
    assert!(rows.iter().all(|row| row["state"] == "delivered"), "one address, whatever its notation: {rows:?}");
    assert_eq!(crm.count(), 3);
}

#[tokio::test]
async fn a_neighbour_of_the_allowed_address_is_not_allowed() {
    let witness = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = witness.local_addr().unwrap().port();
    let routes = target(routes().interactor().security("allow_targets: [127.0.0.1]"), 0, "127.0.0.2", port);
    let relay = Relay::start(&routes).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    let rows = relay.settled("", 1).await;
    assert_eq!((&rows[0]["state"], &rows[0]["error"]), (&json!("dead"), &json!("address_forbidden")));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), witness.accept()).await.is_err());
}

#[tokio::test]
async fn plain_http_is_only_for_what_is_allowed() {
    let home = Home::new();
    let file = |security: &str| {
        let fields = format!("kind: webhook, url: \"http://crm.example.com/x\", signing: {{secrets: [\"{OUT}\"]}}");
        routes().interactor().security(security).destination("crm", &fields).text()
    };
    home.write("routes.yaml", &file("allow_targets: []"));
    assert_eq!(home.run(&["check"]).await.status.code(), Some(1));
    home.write("routes.yaml", &file("allow_targets: [], require_https: false"));
    assert_eq!(home.run(&["check"]).await.status.code(), Some(0));
    home.write("routes.yaml", &file("allow_targets: [crm.example.com]"));
    assert_eq!(home.run(&["check"]).await.status.code(), Some(0));
}

#[tokio::test]
async fn the_environments_proxy_is_not_used() {
    let (proxy, crm) = (Receiver::ok().await, Receiver::ok().await);
    let home = Home::new();
    home.write("routes.yaml", &routes().interactor().webhook("crm", &crm).text());
    let mut command = home.command(&["serve", "--config", "routes.yaml"]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"] {
        command.env(name, format!("http://{}", proxy.addr));
    }
    let relay = Relay::from(&home, command).await;
    relay.accepts(&interactor(event("evt_1"))).await;
    relay.settled("state=delivered", 1).await;
    assert_eq!((proxy.connections(), crm.count()), (0, 1));
}
