//! `kind: email`: what is handed in, how a mail server's answers are read, who gets what is sent again.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Routes, SOON, TestApp,
    app::MINUTELY,
    minutes, routes, seconds,
    smtp::{CLOSE, MailServer, through},
    spawn_app, until,
};

/// Mail through `server`, in the clear.
fn mail(server: &MailServer, to: &str, more: &str) -> Routes {
    through(routes().interactor(), "mail", server, to, more)
}

/// A server that answers lines which begin with `to` by `answer`.
async fn saying(to: &'static str, answer: &'static str) -> MailServer {
    MailServer::answering(move |line, _| line.starts_with(to).then(|| answer.to_owned())).await
}

/// One event to dana at a server which says `answer` to `line`: how its delivery stands.
async fn fate(line: &'static str, answer: &'static str) -> (TestApp, Value) {
    let server = saying(line, answer).await;
    let app = spawn_app(mail(&server, "[dana@example.com]", "")).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    (app, row)
}

/// The one attempt of `row`, as the API tells it.
async fn attempt(app: &TestApp, row: &Value) -> Value {
    app.data(&format!("/api/v1/deliveries/{}", row["id"].as_str().unwrap())).await["log"][0].clone()
}

#[tokio::test]
async fn a_mail_has_both_bodies_and_says_what_it_is() {
    let server = MailServer::start().await;
    let file = mail(&server, "[Dana Müller <dana@bücher.example>]", ", thread_by: $.data.credential_id");
    let app = spawn_app(file).await;
    app.takes_of(
        "evt_1",
        "credential.expired",
        json!({"service_name": "Kalender für Äpfel\r\nBcc: evil@example.com", "credential_id": "cred_1"}),
    )
    .await;
    let row = app.reaches("", "delivered").await;
    let sent = &server.wait_for(1).await[0];
    assert_eq!(
        (sent.from.as_str(), sent.to.as_slice()),
        ("MAIL FROM:<relay@example.com>", &["dana@xn--bcher-kva.example".to_owned()][..])
    );
    let id = row["id"].as_str().unwrap();
    assert_eq!(sent.header("message-id"), format!("<{id}@example.com>"));
    assert_eq!(sent.header("x-hookyard-delivery"), id);
    assert_eq!((sent.header("auto-submitted"), sent.header("precedence")), ("auto-generated".into(), "bulk".into()));
    assert_eq!(sent.header("list-id"), "<mail.hookyard.example.com>");
    assert_eq!(sent.header("date"), "Tue, 20 Jan 2026 12:00:00 +0000");
    assert!(sent.header("in-reply-to").starts_with("<thread.") && sent.header("in-reply-to") == sent.header("references"));
    assert!(sent.header("content-type").starts_with("multipart/alternative"), "{}", sent.data);
    assert!(sent.data.contains("text/plain") && sent.data.contains("text/html"));
    assert!(sent.data.is_ascii() && sent.data.lines().all(|line| line.len() < 998));
    assert!(!sent.data.lines().any(|line| line.starts_with("Bcc")), "{}", sent.data);
}

#[tokio::test]
async fn mails_of_one_key_are_one_conversation_and_others_are_not() {
    let server = MailServer::start().await;
    let app = spawn_app(mail(&server, "[dana@example.com]", ", thread_by: $.data.credential_id, concurrency: 1")).await;
    for (id, credential) in [("evt_1", json!("a")), ("evt_2", json!("a")), ("evt_3", json!("b")), ("evt_4", json!(null))] {
        app.takes_of(id, "credential.expired", json!({ "credential_id": credential })).await;
    }
    let mut roots: Vec<_> = server.wait_for(4).await.iter().map(|mail| mail.header("references")).collect();
    roots.sort();
    assert!(roots[0].is_empty() && !roots[1].is_empty());
    roots.dedup();
    assert_eq!(roots.len(), 3, "{roots:?}");
    // One connection served them all.
    assert_eq!((server.count("GREETING"), server.count("MAIL")), (1, 4));
}

#[tokio::test]
async fn four_hundreds_are_transient() {
    for (line, answer) in [
        ("GREETING", "421 too busy"),
        ("GREETING", "554 not now"),
        ("EHLO", "421 4.3.2 shutting down"),
        ("MAIL", "451 4.3.0 try later"),
        ("RCPT", "450 4.2.1 greylisted"),
        ("RCPT", "452 4.2.2 mailbox full"),
        ("RCPT", "421 closing"),
        ("DATA", "451 4.3.0 no"),
        ("END", "452 4.3.1 disk full"),
    ] {
        let (app, row) = fate(line, answer).await;
        assert_eq!((&row["state"], app.due_in(&row)), (&json!("pending"), 60.0), "{line} {answer}: {row}");
        assert_eq!(row["error"], format!("smtp_{}", &answer[..3]));
        assert_eq!(app.target("mail").await["state"], "ok");
    }
}

#[tokio::test]
async fn five_hundreds_about_the_mail_or_its_recipient_are_permanent() {
    for (line, answer) in [
        ("MAIL", "553 5.1.7 bad sender"),
        ("RCPT", "550 5.1.1 no such user"),
        ("RCPT", "551 5.1.6 moved"),
        ("DATA", "554 5.5.1 no"),
        ("END", "552 5.3.4 too large"),
        ("END", "554 5.7.1 spam"),
    ] {
        let (app, row) = fate(line, answer).await;
        assert_eq!((&row["state"], &row["cause"]), (&json!("dead"), &json!("receiver")), "{line} {answer}: {row}");
        assert_eq!(row["error"], format!("smtp_{}", &answer[..3]));
        let attempt = attempt(&app, &row).await;
        assert!(attempt["detail"].as_str().unwrap().contains(&answer[4..]), "{attempt}");
        assert_eq!(app.target("mail").await["state"], "ok");
    }
}

#[tokio::test]
async fn what_is_wrong_with_our_login_opens_the_breaker_and_burns_nothing() {
    for (line, answer) in [
        ("MAIL", "530 5.7.0 authentication required"),
        ("RCPT", "530 5.7.0 authentication required"),
        ("AUTH", "535 5.7.8 no, not hush"),
        ("AUTH", "534 5.7.9 too weak"),
    ] {
        let server = saying(line, answer).await;
        let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: none, username: relay, password: hush}}", server.addr.port());
        let file = routes()
            .interactor()
            .destination("mail", &format!("kind: email, {smtp}, from: relay@example.com, to: [dana@example.com], {MINUTELY}"));
        let app = spawn_app(file).await;
        app.takes("evt_1").await;
        let row = app.tried("", 1).await;
        assert_eq!((&row["state"], &row["cause"]), (&json!("held"), &json!("broken")), "{line} {answer}: {row}");
        let lane = app.target("mail").await;
        assert_eq!((&lane["state"], &lane["cause"]), (&json!("broken"), &json!("config")), "{lane}");
        let attempt = attempt(&app, &row).await;
        assert_eq!(attempt["counts"], false, "{attempt}");
        assert!(!attempt.to_string().contains("hush"), "{attempt}");
    }
}

#[tokio::test]
async fn a_login_that_passes_again_sends_what_waited() {
    let server =
        MailServer::answering(|line, before| (line.starts_with("AUTH") && before == 0).then(|| "535 no".to_owned())).await;
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: none, username: relay, password: hush}}", server.addr.port());
    let app = spawn_app(
        routes()
            .interactor()
            .destination("mail", &format!("kind: email, {smtp}, from: relay@example.com, to: dana@example.com, {MINUTELY}")),
    )
    .await;
    app.takes("evt_1").await;
    app.target_is("mail", "broken").await;
    app.clock.advance(seconds(30));
    app.reaches("", "delivered").await;
    app.target_is("mail", "ok").await;
}

#[tokio::test]
async fn a_connection_that_ends_is_transient() {
    for (line, answer, error) in [("GREETING", CLOSE, "closed"), ("RCPT", CLOSE, "closed"), ("END", CLOSE, "closed")] {
        let (app, row) = fate(line, answer).await;
        assert_eq!((&row["state"], &row["error"]), (&json!("pending"), &json!(error)), "{line}: {row}");
        let told = attempt(&app, &row).await["detail"].to_string();
        assert_eq!(told.contains("may have arrived"), line == "END", "{told}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_a_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: none}}", listener.local_addr().unwrap().port());
    let file = format!("kind: email, {smtp}, from: relay@example.com, to: [dana@example.com], timeout: 300ms, {MINUTELY}");
    let app = spawn_app(routes().interactor().destination("mail", &file)).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    assert_eq!((&row["state"], &row["error"]), (&json!("pending"), &json!("timeout")));
}

#[tokio::test]
async fn only_those_who_have_not_got_it_are_mailed_again_over_a_restart() {
    let server = MailServer::answering(|line, before| match line {
        "RCPT TO:<late@example.com>" if before < 3 => Some("450 4.2.1 greylisted".to_owned()),
        "RCPT TO:<gone@example.com>" => Some("550 5.1.1 no such user".to_owned()),
        _ => None,
    })
    .await;
    let file = || mail(&server, "[dana@example.com, late@example.com, gone@example.com]", "");
    let app = spawn_app(file()).await;
    app.takes("evt_1").await;
    let row = app.tried("", 1).await;
    assert_eq!((&row["state"], &row["error"]), (&json!("pending"), &json!("smtp_450")));
    let told = attempt(&app, &row).await["detail"].to_string();
    assert!(told.contains("1 of 3 recipients took it, 1 refused for good, 1 wait"), "{told}");
    let app = app.restart(file()).await;
    app.clock.advance(minutes(1));
    let row = app.reaches("", "dead").await;
    let mails = server.wait_for(2).await;
    assert_eq!((mails[0].to.join(" "), mails[1].to.join(" ")), ("dana@example.com".into(), "late@example.com".into()));
    assert_eq!(mails[0].data, mails[1].data, "the same bytes");
    assert_eq!(app.story(&row).await, "1 retry smtp_450, 2 dead smtp_550");
    // A person retries: whoever has it is left alone.
    app.posts(&format!("/api/v1/deliveries/{}/retry", row["id"].as_str().unwrap()), &json!({})).await;
    app.tried("", 3).await;
    assert_eq!(server.said().iter().filter(|line| *line == "RCPT TO:<dana@example.com>").count(), 1);
    assert_eq!(server.said().iter().filter(|line| *line == "RCPT TO:<gone@example.com>").count(), 2);
}

#[tokio::test]
async fn it_is_delivered_when_all_took_it() {
    let server =
        MailServer::answering(|line, before| (line.starts_with("RCPT TO:<late") && before < 2).then(|| "451 later".into())).await;
    let app = spawn_app(mail(&server, "[dana@example.com, late@example.com]", "")).await;
    app.takes("evt_1").await;
    app.tried("", 1).await;
    app.clock.advance(minutes(1));
    let row = app.reaches("", "delivered").await;
    assert_eq!(app.story(&row).await, "1 retry smtp_451, 2 delivered 250");
    assert_eq!(server.mails().iter().map(|mail| mail.to.len()).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_connection_the_server_has_closed_meanwhile_is_made_anew_within_the_attempt() {
    let server =
        MailServer::answering(|line, before| (line.starts_with("MAIL") && before == 1).then(|| "421 idle for too long".into()))
            .await;
    let app = spawn_app(mail(&server, "[dana@example.com]", "")).await;
    app.takes("evt_1").await;
    app.counts("state=delivered", 1).await;
    app.takes("evt_2").await;
    let rows = app.counts("state=delivered", 2).await;
    assert_eq!(app.story(&rows[0]).await, "1 delivered 250");
    assert_eq!(server.count("GREETING"), 2);
}

#[tokio::test]
async fn letters_beyond_ascii_need_a_server_that_takes_them() {
    let server = MailServer::start().await;
    let plain = MailServer::answering(|line, _| line.starts_with("EHLO").then(|| "250 mail.test".into())).await;
    let to = "[jörg@example.com, dana@example.com]";
    let app = spawn_app(through(mail(&server, to, ""), "plain", &plain, to, "")).await;
    app.takes("evt_1").await;
    app.reaches("target=mail", "delivered").await;
    assert_eq!(server.mails()[0].to, ["jörg@example.com", "dana@example.com"]);
    assert!(server.mails()[0].from.contains("SMTPUTF8"), "{}", server.mails()[0].from);
    let row = app.reaches("target=plain", "dead").await;
    assert_eq!((plain.mails()[0].to.as_slice(), &row["error"]), (&["dana@example.com".to_owned()][..], &json!("smtp_utf8")));
    assert!(attempt(&app, &row).await["detail"].to_string().contains("SMTPUTF8"));
}

#[tokio::test]
async fn starttls_is_required_and_nothing_is_told_before_it() {
    let server = MailServer::start().await;
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, username: relay, password: hush}}", server.addr.port());
    let app = spawn_app(
        routes()
            .interactor()
            .destination("mail", &format!("kind: email, {smtp}, from: relay@example.com, to: dana@example.com, {MINUTELY}")),
    )
    .await;
    app.takes("evt_1").await;
    assert_eq!(app.tried("", 1).await["error"], "smtp_starttls");
    assert_eq!(app.target("mail").await["state"], "broken");
    assert_eq!((server.count("AUTH"), server.count("MAIL"), server.count("EHLO")), (0, 0, 1));
}

#[tokio::test]
async fn a_server_that_policy_forbids_is_not_connected_to() {
    let server = MailServer::start().await;
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}}}", server.addr.port());
    let file = routes().interactor().security("allow_targets: []");
    let app = spawn_app(
        file.destination("mail", &format!("kind: email, {smtp}, from: relay@example.com, to: dana@example.com, {MINUTELY}")),
    )
    .await;
    app.takes("evt_1").await;
    let row = app.reaches("", "dead").await;
    assert_eq!((&row["cause"], &row["error"]), (&json!("config"), &json!("address_forbidden")));
    assert_eq!(server.count("GREETING"), 0);
}

#[tokio::test]
async fn contacts_and_paths_name_the_recipients() {
    let server = MailServer::start().await;
    let contacts = "contacts:\n  - {namespace: user_123, email: [dana@example.com]}\n  - {namespace: other, slack: U0123}";
    let file = through(
        mail(&server, "contact", ""),
        "named",
        &server,
        "{path: $.data.owner}",
        ", allow_recipients: [\"*@example.com\"]",
    );
    let app = spawn_app(file.section(contacts)).await;
    app.takes_of("evt_1", "credential.expired", json!({"namespace": "user_123", "owner": "kim@example.com"})).await;
    let mut to: Vec<_> = server.wait_for(2).await.into_iter().flat_map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(to, ["dana@example.com", "kim@example.com"]);
    app.takes_of("evt_2", "credential.expired", json!({"namespace": "nobody", "owner": "kim@evil.example"})).await;
    let rows = app.counts("state=dead", 2).await;
    assert!(rows.iter().all(|row| row["error"] == "no_recipients" && row["cause"] == "config"), "{rows:?}");
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test]
async fn a_failing_look_up_makes_the_mail_wait_and_blames_nobody() {
    let server = MailServer::start().await;
    let people = crate::support::Receiver::start([500, 500, 500, 500, 500, 500, 500, 500]).await;
    let lookup = format!(
        "contacts_lookup: {{url: \"http://{}/{{namespace}}\"}}\ncontacts:\n  - {{namespace: \"*\", email: [ops@example.com]}}",
        people.addr
    );
    let app = spawn_app(mail(&server, "contact", "").section(&lookup)).await;
    for n in 1..=6 {
        app.takes_of(&format!("evt_{n}"), "credential.expired", json!({"namespace": format!("user_{n}")})).await;
    }
    until("all to be tried", SOON, async || {
        let rows = app.rows("state=pending").await;
        (rows.len() == 6 && rows.iter().all(|row| row["error"] == "contacts_unavailable")).then_some(())
    })
    .await;
    assert_eq!((app.target("mail").await["state"].clone(), server.count("GREETING")), (json!("ok"), 0));
}

/// A mail server that others wrote, which `script` runs, and what it made of the mail it took.
async fn taken(script: &'static str, kind: &'static str, extra: &str, data: Value) -> Value {
    let server = crate::support::referee::Server::start(script, "SMTP_TLS", kind).await;
    let port = server.port;
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {port}, tls: {kind}, username: relay, password: \"päss wörd\"}}");
    let from = "from: \"Rélay <relay@example.com>\", to: [\"Dana Müller <dana@bücher.example>\", kim@example.com]";
    let file = routes().interactor().destination("mail", &format!("kind: email, {smtp}, {from}, {MINUTELY}{extra}"));
    let app = spawn_app(file).await;
    app.takes_of("evt_1", "credential.expired", data).await;
    let row = app.tried("", 1).await;
    assert_eq!(row["state"], "delivered", "{}", attempt(&app, &row).await);
    let line = until("the mail", SOON, async || server.printed().lines().nth(1).map(str::to_owned)).await;
    serde_json::from_str(&line).unwrap()
}

/// The mail server's certificate is signed by nobody, so it is trusted by name.
fn trusted() -> String {
    format!(", tls: {{ca_file: \"{}\"}}", crate::support::seeds::tests_folder().join("fixtures/tls/ca.pem").display())
}

#[tokio::test]
async fn another_mail_server_takes_it_under_both_kinds_of_tls_with_a_login_and_finds_no_defect() {
    taken_without_defect("smtp.py").await;
}

#[tokio::test]
async fn postfix_takes_it_under_both_kinds_of_tls_with_a_login_and_passes_it_on_without_defect() {
    if !Path::new("/usr/sbin/postfix").exists() {
        eprintln!("skipped: postfix is not installed (tests/run installs it where it may)");
        return;
    }
    taken_without_defect("postfix.py").await;
}

/// Hostile data, both kinds of TLS, a login that is not ASCII.
async fn taken_without_defect(script: &'static str) {
    let long = "x".repeat(3000);
    let data = json!({"service_name": format!("Kalender „Süd“ \u{202e}<script>{long}"), "credential_id": "cred\r\nBcc: evil@example.com", "reason": "a\r\n.\r\nMAIL FROM:<x@y>\r\n.."});
    for kind in ["starttls", "implicit"] {
        let found = taken(script, kind, &trusted(), data.clone()).await;
        assert_eq!(found["defects"], json!([]), "{found}");
        assert_eq!((&found["tls"], &found["authenticated"], &found["repeated"]), (&json!(true), &json!(true), &json!(0)));
        assert_eq!(found["to"], json!([["Dana Müller", "dana@xn--bcher-kva.example"], ["", "kim@example.com"]]));
        assert_eq!(found["rcpt"], json!(["dana@xn--bcher-kva.example", "kim@example.com"]));
        assert_eq!((&found["from"], &found["date"]), (&json!("Rélay <relay@example.com>"), &json!("2026-01-20T12:00:00+00:00")));
        assert_eq!(found["types"], json!(["text/plain", "text/html"]));
        assert!(found["subject"].as_str().unwrap().contains("Kalender „Süd“"), "{found}");
        let headers: Vec<_> = found["headers"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for header in ["auto-submitted", "date", "list-id", "message-id", "mime-version", "precedence", "x-hookyard-delivery"] {
            assert!(headers.contains(&header), "{header}: {found}");
        }
        assert!(!headers.contains(&"bcc"), "{found}");
        assert!(!found["bodies"][1].as_str().unwrap().contains("<script>"), "{found}");
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_told() {
    for kind in ["starttls", "implicit"] {
        let server = crate::support::referee::Server::start("smtp.py", "SMTP_TLS", kind).await;
        let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: {kind}, username: relay, password: hush}}", server.port);
        let file = format!("kind: email, {smtp}, from: relay@example.com, to: [dana@example.com], {MINUTELY}");
        let app = spawn_app(routes().interactor().destination("mail", &file)).await;
        app.takes("evt_1").await;
        let row = app.tried("", 1).await;
        assert_eq!((&row["state"], &row["error"]), (&json!("pending"), &json!("tls")), "{kind}: {row}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = crate::support::referee::Server::start("smtp.py", "SMTP_TLS", "implicit").await;
    let smtp = format!("smtp: {{host: localhost, port: {}, tls: implicit}}", server.port);
    let file = format!("kind: email, {smtp}, from: relay@example.com, to: [dana@example.com], {MINUTELY}{}", trusted());
    let app = spawn_app(routes().interactor().security("allow_targets: [localhost]").destination("mail", &file)).await;
    app.takes("evt_1").await;
    assert_eq!(app.tried("", 1).await["error"], "tls");
}
