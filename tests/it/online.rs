//! `check --online`: what is reached and how, with nothing sent.

use serde_json::Value;

use crate::support::{Home, Receiver, Reply, routes, smtp::MailServer};

fn says(status: u16, body: &str) -> Reply {
    Reply::Full(status, Vec::new(), body.into())
}

/// What `check --online --json` says of each target, and its status.
async fn check(home: &Home) -> (Option<i32>, Vec<(String, bool, String, String)>) {
    let output = home.run(&["check", "--online", "--json"]).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let rows = answer["online"].as_array().cloned().unwrap_or_default();
    let rows = rows.iter().map(|row| (text(row, "target"), row["ok"] == true, text(row, "error"), text(row, "detail"))).collect();
    (output.status.code(), rows)
}

#[tokio::test]
async fn every_kind_is_reached_in_its_own_way_and_sent_nothing() {
    let (n8n, slack, twilio, mail) = (
        Receiver::ok().await,
        Receiver::start([says(200, r#"{"ok":true,"user":"relay","team":"Acme"}"#)]).await,
        Receiver::start([says(200, r#"{"status":"active"}"#)]).await,
        MailServer::start().await,
    );
    let home = Home::new();
    let file = routes()
        .interactor()
        .destination("n8n", &format!("kind: n8n, url: \"{}\"", n8n.url()))
        .destination("ops", &format!("kind: slack, bot_token: xoxb-hush, channel: C1, base_url: \"http://{}/api\"", slack.addr))
        .destination("call", &format!("kind: whatsapp, account_sid: AC1, auth_token: hush, from: \"whatsapp:+15550100\", to: [\"whatsapp:+15550101\"], base_url: \"http://{}\"", twilio.addr))
        .destination("mail", &format!("kind: email, smtp: {{host: 127.0.0.1, port: {}, tls: none}}, from: a@x.example, to: b@x.example", mail.addr.port()))
        .rule("name: all, to: [n8n, ops, call, mail]");
    home.write("routes.yaml", &file.text());
    let (status, rows) = check(&home).await;
    assert!(status == Some(0) && rows.len() == 4 && rows.iter().all(|row| row.1), "{status:?} {rows:?}");
    assert_eq!((n8n.count(), slack.count(), twilio.count()), (0, 1, 1));
    assert_eq!(slack.first().await.line, "POST /api/auth.test HTTP/1.1");
    assert_eq!(slack.first().await.header("authorization"), "Bearer xoxb-hush");
    assert_eq!(twilio.first().await.line, "GET /2010-04-01/Accounts/AC1.json HTTP/1.1");
    let said = mail.said();
    assert!(said.iter().any(|line| line.starts_with("EHLO")) && !said.iter().any(|line| line.starts_with("MAIL")), "{said:?}");
    let table = home.run(&["check", "--online"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("the mail server greets") && !table.contains("hush"), "{table}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_with_its_reason_and_fails() {
    let gone = { Receiver::ok().await.addr };
    let slack = Receiver::start([says(200, r#"{"ok":false,"error":"invalid_auth"}"#)]).await;
    let twilio = Receiver::start([says(401, r#"{"code":20003,"message":"Authenticate"}"#)]).await;
    let mail = MailServer::answering(|line, _| (line == "GREETING").then(|| "554 go away".to_owned())).await;
    let home = Home::new();
    let file = routes()
        .interactor()
        .destination("gone", &format!("kind: n8n, url: \"http://{gone}/x\""))
        .destination("private", "kind: n8n, url: \"https://10.1.2.3/x\"")
        .destination("nowhere", "kind: n8n, url: \"https://nowhere.invalid/x\"")
        .destination("ops", &format!("kind: slack, bot_token: xoxb-hush, channel: C1, base_url: \"http://{}/api\"", slack.addr))
        .destination("call", &format!("kind: whatsapp, account_sid: AC1, auth_token: hush, from: \"whatsapp:+15550100\", to: [\"whatsapp:+15550101\"], base_url: \"http://{}\"", twilio.addr))
        .destination("mail", &format!("kind: email, smtp: {{host: 127.0.0.1, port: {}, tls: none}}, from: a@x.example, to: b@x.example", mail.addr.port()))
        .rule("name: all, to: [gone, private, nowhere, ops, call, mail]");
    home.write("routes.yaml", &file.text());
    let (status, rows) = check(&home).await;
    let errors: Vec<_> = rows.iter().map(|row| (row.0.as_str(), row.2.as_str())).collect();
    assert_eq!(status, Some(1), "{rows:?}");
    assert_eq!(
        errors,
        [
            ("gone", "connect"),
            ("private", "address_forbidden"),
            ("nowhere", "dns"),
            ("ops", "invalid_auth"),
            ("call", "twilio_20003"),
            ("mail", "smtp_554")
        ]
    );
    assert!(!rows.iter().any(|row| row.3.contains("hush")), "{rows:?}");
}
