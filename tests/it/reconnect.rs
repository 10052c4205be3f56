//! The reconnect link: in messages, its page, and what pressing its button does.

use serde_json::{Value, json};

use crate::support::{
    Answer, Receiver, Reply, Request, Routes, TestApp, app::MINUTELY, hours, routes, smtp::MailServer, spawn_app,
};

/// A connector API that answers `status` with `body`.
async fn connectors(status: u16, body: &str) -> Receiver {
    Receiver::start([Reply::Full(status, Vec::new(), body.into())]).await
}

const GOOD: &str = r#"{"data":{"auth_url":"https://accounts.example.com/o/oauth2?client_id=1&state=a%20b"}}"#;

/// A relay that tells `slack`, whose links lead by way of `api`.
fn file(slack: &Receiver, api: &Receiver) -> Routes {
    let reconnect = format!(
        "reconnect: {{connector_api: \"http://{}/\", api_key: hush-key, connectors: {{google_calendar: google calendar/1}}}}",
        api.addr
    );
    routes()
        .interactor()
        .server("public_url: https://relay.example.com")
        .destination("ops", &format!("kind: slack, url: \"http://{}/hook\", rate_limit: 100/s, {MINUTELY}", slack.addr))
        .section(&reconnect)
}

/// The path of the link in the message about an expired credential of this service and namespace.
async fn link(app: &TestApp, slack: &Receiver, id: &str, data: Value) -> Option<String> {
    let before = slack.count();
    app.takes_of(id, "credential.expired", data).await;
    let message = slack.wait_for(before + 1).await.pop().unwrap().text();
    let at = message.find("https://relay.example.com/reconnect/")?;
    let url: String = message[at..].chars().take_while(|c| !matches!(c, '"' | '|' | '>' | '\\' | ' ')).collect();
    Some(url["https://relay.example.com".len()..].to_owned())
}

fn expired() -> Value {
    json!({"credential_id": "c", "service_id": "google_calendar", "service_name": "Google Calendar", "namespace": "a&b=<i>c</i>"})
}

async fn press(app: &TestApp, path: &str) -> Answer {
    app.send(&Request { path: path.to_owned(), headers: Vec::new(), body: Vec::new() }).await
}

#[tokio::test]
async fn opening_it_changes_nothing_and_pressing_the_button_asks_once_and_leads_on() {
    let (slack, api) = (Receiver::start([200]).await, connectors(200, GOOD).await);
    let app = spawn_app(file(&slack, &api)).await;
    let path = link(&app, &slack, "evt_1", expired()).await.unwrap();
    for _ in 0..3 {
        let page = app.get_public(&path).await;
        assert_eq!((page.status, page.text().matches("<button").count()), (200, 1));
        assert!(
            page.text().contains("a&amp;b=&lt;i&gt;c&lt;/i&gt;") && page.text().contains("method=\"post\""),
            "{}",
            page.text()
        );
        assert_eq!((page.header("cache-control"), page.header("referrer-policy")), ("no-store", "no-referrer"));
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
        assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
    }
    assert_eq!(api.count(), 0);
    let pressed = press(&app, &path).await;
    assert_eq!(
        (pressed.status, pressed.header("location")),
        (303, "https://accounts.example.com/o/oauth2?client_id=1&state=a%20b")
    );
    assert_eq!((pressed.header("cache-control"), pressed.header("referrer-policy")), ("no-store", "no-referrer"));
    let asked = api.seen();
    assert_eq!(asked.len(), 1);
    let line = "GET /api/v1/connector/interactor/google%20calendar%2F1/auth-url?account=a%26b%3D%3Ci%3Ec%3C%2Fi%3E HTTP/1.1";
    assert_eq!((asked[0].line.as_str(), asked[0].header("x-api-key")), (line, "hush-key"));
}

#[tokio::test]
async fn a_forged_link_and_an_expired_one_are_refused() {
    let (slack, api) = (Receiver::start([200]).await, connectors(200, GOOD).await);
    let app = spawn_app(file(&slack, &api)).await;
    let path = link(&app, &slack, "evt_1", expired()).await.unwrap();
    let (payload, mac) = path.rsplit_once('.').unwrap();
    let forged =
        [format!("{payload}.{}", mac.chars().rev().collect::<String>()), format!("{payload}x.{mac}"), "/reconnect/x".into()];
    for path in forged {
        for answer in [app.get_public(&path).await, press(&app, &path).await] {
            assert_eq!(answer.status, 403, "{path}");
            assert!(answer.text().contains("not valid") && !answer.text().contains("<button"), "{}", answer.text());
        }
    }
    app.clock.advance(hours(7 * 24));
    for answer in [app.get_public(&path).await, press(&app, &path).await] {
        assert_eq!(answer.status, 410);
        assert!(answer.text().contains("expired") && !answer.text().contains("<button"), "{}", answer.text());
    }
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn an_api_that_fails_or_leads_astray_gets_a_page_that_says_so() {
    for (status, body) in [
        (500, ""),
        (401, r#"{"error":"hush-key"}"#),
        (200, "nonsense"),
        (200, r#"{"auth_url":"http://accounts.example.com/"}"#),
        (200, r#"{"auth_url":"javascript:alert(1)"}"#),
        (302, ""),
    ] {
        let (slack, api) = (Receiver::start([200]).await, connectors(status, body).await);
        let app = spawn_app(file(&slack, &api)).await;
        let path = link(&app, &slack, "evt_1", expired()).await.unwrap();
        let pressed = press(&app, &path).await;
        assert_eq!((pressed.status, pressed.header("location")), (502, ""), "{status} {body}");
        assert!(pressed.text().contains("Nothing has changed") && !pressed.text().contains("hush"), "{}", pressed.text());
        assert_eq!(api.count(), 1);
    }
}

#[tokio::test]
async fn only_what_can_be_mended_has_a_link() {
    let (slack, api) = (Receiver::start([200]).await, connectors(200, GOOD).await);
    let app = spawn_app(file(&slack, &api)).await;
    for (n, data) in [
        json!({"service_id": "slack", "namespace": "user_1"}),
        json!({"service_id": "google_calendar"}),
        json!({"namespace": "user_1"}),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(link(&app, &slack, &format!("evt_{n}"), data).await, None);
    }
    app.takes_of("evt_9", "credential.refreshed", expired()).await;
    assert!(!slack.wait_for(4).await[3].text().contains("/reconnect/"));
}

#[tokio::test]
async fn one_address_cannot_ask_without_end_and_other_methods_are_refused() {
    let (slack, api) = (Receiver::start([200]).await, connectors(200, GOOD).await);
    let app = spawn_app(file(&slack, &api)).await;
    // Mail scanners open every link, and whoever sits behind a proxy has the proxy's address.
    for _ in 0..100 {
        assert_eq!(app.get_public("/reconnect/x").await.status, 403);
    }
    let mut last = 0;
    for _ in 0..61 {
        last = press(&app, "/reconnect/x").await.status;
    }
    assert_eq!(last, 429);
    assert_eq!(app.get_public("/reconnect/x").await.status, 403);
    let answer =
        crate::support::raw(app.public, b"DELETE /reconnect/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", hours(1)).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn a_template_of_the_files_own_makes_the_link_in_both_bodies_of_a_mail() {
    let server = MailServer::start().await;
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: none}}", server.addr.port());
    let file = routes()
        .interactor()
        .destination("mail", &format!("kind: email, {smtp}, from: relay@example.com, to: [dana@example.com], {MINUTELY}"))
        .section("reconnect_url: \"https://app.example.com/c?a={{ event.namespace | urlencode }}\"");
    let app = spawn_app(file).await;
    app.takes_of("evt_1", "credential.expired", json!({"namespace": "u&1"})).await;
    let mail = &server.wait_for(1).await[0];
    // Quoted-printable: `=` is `=3D`, and long lines are folded.
    let unfolded = mail.data.replace("=\r\n", "").replace("=3D", "=");
    let (text, html) = unfolded.split_once("text/html").unwrap();
    assert!([text, html].iter().all(|body| body.contains("https://app.example.com/c?a=u%261")), "{unfolded}");
    assert_eq!(app.get_public("/reconnect/x").await.status, 403);
}
