//! The three places contacts come from, together.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{extract::Request, http::StatusCode, response::IntoResponse};

use super::*;
use crate::deliver::testing::{context, decode, eventually, node};

/// A look-up service that answers in order, then with the last; and what it was asked.
struct People {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl People {
    async fn start(answers: &'static [(u16, &'static str)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (log, count) = (asked.clone(), Arc::new(AtomicUsize::new(0)));
        let router = axum::Router::new().fallback(move |request: Request| {
            let key = request.headers().get("x-key").map_or("", |value| value.to_str().unwrap()).to_owned();
            log.lock().unwrap().push(format!("{} {} {key}", request.method(), request.uri()));
            let n = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            async move { (StatusCode::from_u16(answers[n].0).unwrap(), answers[n].1).into_response() }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn settings(&self, list: &str) -> Settings {
        let yaml = format!(
            "{{url: 'http://127.0.0.1:{}/who/{{namespace}}', headers: {{X-Key: hush}}, ttl: 1m, timeout: 5s}}",
            self.port
        );
        let mut cx = context();
        let settings = Settings::decode(Some(&node(list)), None, Some(&node(&yaml)), &mut cx);
        assert!(!cx.failed(), "{:?}", cx.problems);
        settings
    }
}

fn start(settings: Settings, clock: &Clock) -> (Arc<Contacts>, tokio::sync::mpsc::Receiver<Notice>) {
    let (announcer, notices) = Announcer::new();
    (Contacts::start(settings, &context().allow_targets, clock, announcer, None).unwrap(), notices)
}

async fn mail(contacts: &Contacts, namespace: Option<&str>) -> String {
    match contacts.find(namespace).await {
        Ok(found) => found.email.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => format!("error: {error}"),
    }
}

const LIST: &str =
    "[{namespace: user_1, email: one@x.example}, {namespace: chatty, slack: U012}, {namespace: '*', email: ops@x.example}]";

#[tokio::test]
async fn the_list_then_the_service_then_the_star() {
    let people = People::start(&[(200, r#"{"data": {"email": ["two@x.example"], "plan": 7}}"#), (404, "no"), (200, "{}")]).await;
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (contacts, _notices) = start(people.settings(LIST), &clock);
    assert_eq!(mail(&contacts, Some("user_1")).await, "one@x.example");
    assert_eq!(mail(&contacts, Some("a/b c")).await, "two@x.example");
    assert_eq!(mail(&contacts, Some("a/b c")).await, "two@x.example");
    assert_eq!(mail(&contacts, Some("user_3")).await, "ops@x.example");
    assert_eq!(mail(&contacts, Some("user_4")).await, "ops@x.example");
    assert_eq!(mail(&contacts, Some("..")).await, "ops@x.example");
    assert_eq!(mail(&contacts, None).await, "ops@x.example");
    // Somebody who is only on Slack: the mail goes to the star.
    assert_eq!(mail(&contacts, Some("chatty")).await, "ops@x.example");
    assert_eq!(contacts.find(Some("chatty")).await.unwrap().slack.unwrap().as_str(), "U012");
    assert_eq!(people.asked(), ["GET /who/a%2Fb%20c hush", "GET /who/user_3 hush", "GET /who/user_4 hush"]);
}

#[tokio::test]
async fn the_last_answer_stays_when_the_service_fails() {
    let people = People::start(&[
        (200, r#"{"email": "two@x.example"}"#),
        (500, ""),
        (200, "nonsense"),
        (200, r#"{"email": ["new@x.example"]}"#),
    ])
    .await;
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (contacts, _notices) = start(people.settings(LIST), &clock);
    assert_eq!(mail(&contacts, Some("user_2")).await, "two@x.example");
    for asked in 2..=3 {
        clock.advance(Duration::from_secs(61));
        assert_eq!(mail(&contacts, Some("user_2")).await, "two@x.example");
        // It is left alone for a while, and not asked for every message.
        assert_eq!(mail(&contacts, Some("user_2")).await, "two@x.example");
        assert_eq!(people.asked().len(), asked);
    }
    clock.advance(Duration::from_secs(11));
    assert_eq!(mail(&contacts, Some("user_2")).await, "new@x.example");
}

#[tokio::test]
async fn without_any_answer_the_message_waits_rather_than_goes_astray() {
    let people = People::start(&[(500, "")]).await;
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (contacts, _notices) = start(people.settings(LIST), &clock);
    assert_eq!(mail(&contacts, Some("user_2")).await, "error: the look-up of contacts failed: it answers 500");
    assert_eq!(
        mail(&contacts, Some("user_2")).await,
        "error: the look-up of contacts failed: it failed a moment ago and is left alone"
    );
    assert_eq!(mail(&contacts, Some("user_1")).await, "one@x.example");
}

#[tokio::test]
async fn the_service_is_reached_only_where_policy_lets() {
    let people = People::start(&[(200, "{}")]).await;
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (announcer, _notices) = Announcer::new();
    let contacts = Contacts::start(people.settings("[]"), &[], &clock, announcer, None).unwrap();
    assert!(mail(&contacts, Some("user_2")).await.starts_with("error: the look-up of contacts failed: address_forbidden"));
    assert!(people.asked().is_empty());
}

#[tokio::test]
async fn the_file_is_read_again_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contacts.csv");
    std::fs::write(&path, "namespace,email\nuser_1,file@x.example\nuser_2,two@x.example\n*,all@x.example\n").unwrap();
    let main = crate::config::File { path: folder.path().join("routes.yaml"), text: String::new() };
    let files = std::sync::Arc::new(crate::config::Files::new(main));
    let mut cx = crate::config::decode::Context { files, ..Default::default() };
    let list = node("[{namespace: user_1, email: list@x.example}]");
    let settings = Settings::decode(Some(&list), Some(&node("contacts.csv")), None, &mut cx);
    assert!(!cx.failed() && settings.has_fallback(), "{:?}", cx.problems);
    let (contacts, mut notices) = start(settings, &Clock::manual("2026-01-20T12:00:00Z"));
    assert_eq!(mail(&contacts, Some("user_1")).await, "list@x.example");
    assert_eq!(mail(&contacts, Some("user_2")).await, "two@x.example");
    assert_eq!(mail(&contacts, Some("user_9")).await, "all@x.example");

    std::fs::write(&path, "namespace,email\nuser_2,nobody\n").unwrap();
    let Some(Notice::ConfigRejected { error }) = notices.recv().await else { panic!("a notice") };
    assert!(error.contains("line 2: expected a mail address") && error.contains("the last good contacts stay"), "{error}");
    assert_eq!(mail(&contacts, Some("user_2")).await, "two@x.example");

    std::fs::write(&path, "namespace,email\nuser_2,new@x.example\n").unwrap();
    let found = || contacts.file.as_ref().unwrap().book().find("user_2").unwrap().email[0].address();
    eventually("the file is read again", || found() == "new@x.example").await;
    assert_eq!(mail(&contacts, Some("user_9")).await, "");
}

#[tokio::test]
async fn recipients_of_an_event() {
    let (contacts, _notices) =
        start(Settings { list: decode(LIST).unwrap(), ..Settings::default() }, &Clock::manual("2026-01-20T12:00:00Z"));
    let event = crate::envelope::tests::sample();
    let them = |to: Recipients<Mailbox>| {
        let (contacts, event) = (contacts.clone(), event.clone());
        async move { to.of(&event, &contacts).await.map(|them| them.iter().map(Mailbox::address).collect::<Vec<_>>()) }
    };
    assert_eq!(them(Recipients::Contact).await, Ok(vec!["ops@x.example".to_owned()]));
    let numbers = Recipients::<Number>::Contact.of(&event, &contacts).await;
    assert_eq!(numbers.unwrap_err().to_string(), "no contact has a number such as +15550100 for this namespace, nor has `*`");
}

#[tokio::test]
async fn what_the_service_answered_outlasts_another_file_that_asks_it_alike() {
    let people = People::start(&[(200, r#"{"email": ["dana@x.example"]}"#)]).await;
    let clock = Clock::manual("2026-01-20T12:00:00Z");
    let (first, _notices) = start(people.settings("[]"), &clock);
    assert_eq!(mail(&first, Some("user_1")).await, "dana@x.example");
    let (announcer, _notices) = Announcer::new();
    let again = |allow: &[AllowTarget], former: &Contacts| {
        let settings = people.settings("[{namespace: '*', email: ops@x.example}]");
        Contacts::start(settings, allow, &clock, announcer.clone(), Some(former)).unwrap()
    };
    let allow = context().allow_targets;
    let second = again(&allow, &first);
    assert_eq!(mail(&second, Some("user_1")).await, "dana@x.example");
    assert_eq!((mail(&second, None).await.as_str(), people.asked().len()), ("ops@x.example", 1));
    let narrower = again(&[], &second);
    assert!(mail(&narrower, Some("user_1")).await.contains("address_forbidden"), "another policy asks anew");
}
