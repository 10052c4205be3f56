//! What people read: every built-in template in every form, as `slack-sdk` and an HTML parser judge it, and data that means harm.

use std::collections::BTreeMap;

use hookyard::{
    envelope::{DeliveryId, Envelope, EventUid},
    render::{DigestItem, Message, MessageScene, OUTPUT_MAX, SHORT_MAX, SUBJECT_MAX, Source, Strictness, TEXT_MAX, Templates},
    store::Severity,
};
use serde_json::{Value, json};

use crate::support::{referee, seeds::tests_folder};

/// The link that reconnects, in tests that have one.
const RECONNECT: &str = "https://relay.example.com/reconnect/abc?x=1&y=2";

/// An event of every type that has a built-in template, and some of types nobody knows.
pub(crate) fn events() -> Vec<Envelope> {
    let text = std::fs::read_to_string(tests_folder().join("fixtures/messages/events.json")).unwrap();
    serde_json::from_str::<Vec<Value>>(&text).unwrap().iter().map(envelope).collect()
}

fn envelope(event: &Value) -> Envelope {
    let text = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
    let time = "2026-01-20T12:00:00Z";
    let body = event["data"].to_string();
    Envelope {
        id: text("id").unwrap(),
        source: text("source").unwrap().as_str().into(),
        kind: "hmac",
        r#type: text("type").unwrap(),
        subject: text("subject"),
        namespace: text("namespace"),
        time: time.to_owned(),
        timestamp: time.to_owned(),
        received_at: time.parse().unwrap(),
        traceparent: None,
        replayed: false,
        data: Some(0..body.len()),
        body: body.into(),
        content_type: None,
    }
}

fn data(event: &Envelope) -> Value {
    serde_json::from_slice(event.data()).unwrap()
}

const DELIVERY: DeliveryId = DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 };

/// How a message is made.
#[derive(Clone, Copy)]
struct Way {
    template: Option<&'static str>,
    severity: Severity,
    linked: bool,
}

const PLAIN: Way = Way { template: None, severity: Severity::Info, linked: false };

fn message(event: &Envelope, way: Way) -> Message {
    let admin_url = "https://relay-admin.example.com".parse().unwrap();
    let data = data(event);
    let scene = MessageScene {
        event,
        data: &data,
        delivery: DELIVERY,
        attempt: 1,
        severity: way.severity,
        admin_url: way.linked.then_some(&admin_url),
        reconnect: way.linked.then_some(RECONNECT),
    };
    templates().message(way.template, &scene)
}

/// Templates that put the worst fields wherever they can.
fn templates() -> Templates {
    let all =
        "{{ event.data.evil }} {{ event.data.nested | fromjson }} {{ event.type }} {{ event.namespace }} {{ event.subject }}";
    let parts = [("subject", all), ("text", all), ("html", all), ("slack", all), ("short", all)];
    let parts: BTreeMap<_, _> = hookyard::render::Part::ALL
        .into_iter()
        .map(|(name, part)| (part, parts.iter().find(|(key, _)| *key == name).unwrap().1.to_owned()))
        .collect();
    let named = [("text", Source::from(all)), ("parts", Source(parts)), ("broken", Source::from("{{ event.data.a.b.c }}"))];
    Templates::new(&named.map(|(name, source)| (name.to_owned(), source)).into(), Strictness::Lenient)
}

fn slack(message: &Message) -> Value {
    json!({"text": message.slack.text, "color": message.slack.color, "blocks": message.slack.blocks})
}

/// Longest HTML, in bytes, of what is built in and of what a template made.
const HTML_MAX: usize = 100 * 1024;
const OWN_HTML_MAX: usize = OUTPUT_MAX + 16 * 1024;

/// What must hold of every message, whatever it tells of.
fn hold(message: &Message, html_max: usize) {
    let Message { subject, text, html, short, slack, .. } = message;
    assert!(!subject.is_empty() && subject.chars().count() <= SUBJECT_MAX, "{subject}");
    assert!(!subject.contains(char::is_control), "{subject:?}");
    assert!(text.chars().count() <= TEXT_MAX, "{} characters", text.chars().count());
    assert!(!text.contains(|it: char| it.is_control() && it != '\n'), "{text:?}");
    assert!(short.encode_utf16().count() <= SHORT_MAX && !short.contains('\r'), "{short:?}");
    assert!(html.len() <= html_max, "{} bytes: Gmail cuts at 102 KB", html.len());
    let slack = serde_json::to_string(&json!([slack.text, slack.blocks])).unwrap();
    for form in [subject, text, html, short, &slack] {
        let turns =
            |it: char| matches!(it, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!form.contains(turns), "{form:?}");
    }
}

#[test]
fn the_text_says_what_happened_to_whom_and_what_to_do() {
    let texts: Vec<_> = events().iter().map(|event| message(event, Way { linked: true, ..PLAIN })).collect();
    let seeds = texts.iter().take(14).map(|message| format!("Subject: {}\n{}", message.subject, message.text));
    insta::assert_snapshot!("seeds", seeds.collect::<Vec<_>>().join("\n==========\n"));
    let others = texts.iter().skip(14).map(|message| format!("{}\n  {}", message.subject, message.short.replace('\n', "\n  ")));
    insta::assert_snapshot!("others", others.collect::<Vec<_>>().join("\n"));
}

async fn judged(messages: &[Message]) {
    let verdicts = referee::judge("slack.py", messages.iter().map(slack).collect()).await;
    for (message, verdict) in messages.iter().zip(verdicts) {
        assert_eq!(verdict["ok"], true, "{}: {verdict}", message.subject);
    }
}

#[tokio::test]
async fn every_built_in_message_passes_slacks_own_models() {
    let mut messages = Vec::new();
    for event in events() {
        for severity in [Severity::Info, Severity::Critical] {
            for linked in [true, false] {
                messages.push(message(&event, Way { template: None, severity, linked }));
            }
        }
    }
    messages.iter().for_each(|message| hold(message, HTML_MAX));
    assert!(messages.iter().all(|message| message.failed.is_none()));
    judged(&messages).await;
}

/// Text that harms whoever takes it as it is.
fn evil() -> Vec<(&'static str, String)> {
    vec![
        ("mention", "<!channel> <@U123> <https://evil.example|bank> & <!subteam^S1>".into()),
        ("script", "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>".into()),
        ("header", "a\r\nBcc: all@example.com\r\n\r\nbody\u{85}x\u{2028}y\0z".into()),
        ("long", "x y".repeat(17_000)),
        ("long lines", "a&<>\n".repeat(10_000)),
        ("one word", "&".repeat(50_000)),
        ("direction", "\u{202e}gpj.exe\u{202c} \u{2067}abc\u{2069} \u{200f}\u{200e}\u{61c}".into()),
        ("template", "{{ event }} {% for x in range(9) %}{% endfor %}".into()),
        ("markdown", "*b* _i_ ~s~ `c` ```\n> q :tada: @channel #general".into()),
    ]
}

/// `value` with every text in it `text`.
fn poisoned(value: &Value, text: &str) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| (key.clone(), poisoned(value, text)))
                .chain([(text.chars().take(80).collect(), json!(text))])
                .collect(),
        ),
        Value::Array(items) => items.iter().map(|item| poisoned(item, text)).collect(),
        Value::String(_) => json!(text),
        other => other.clone(),
    }
}

fn poison(event: &Envelope, text: &str) -> Envelope {
    let mut data = poisoned(&data(event), text);
    if let Value::Object(map) = &mut data {
        map.insert("evil".into(), json!(text));
        map.insert("nested".into(), json!(json!({ "deep": text }).to_string()));
    }
    let body = data.to_string();
    Envelope {
        id: text.chars().take(200).collect(),
        namespace: Some(text.to_owned()),
        subject: Some(text.to_owned()),
        data: Some(0..body.len()),
        body: body.into(),
        ..event.clone()
    }
}

/// The names of the tags in `html`, as a browser finds them.
fn tags(html: &str) -> Vec<String> {
    let mut tags: Vec<_> = html
        .match_indices('<')
        .map(|(at, _)| html[at + 1..].chars().take_while(|it| !it.is_whitespace() && *it != '>').collect::<String>())
        .collect();
    tags.sort();
    tags.dedup();
    tags
}

#[tokio::test]
async fn hostile_data_does_no_harm_in_any_channel() {
    let mut messages = Vec::new();
    let harmless = tags(&events().iter().map(|event| message(event, Way { linked: true, ..PLAIN }).html).collect::<String>());
    for (n, event) in events().into_iter().enumerate() {
        for (what, text) in evil() {
            let event = poison(&event, &text);
            let named = Envelope { r#type: text.clone(), ..event.clone() };
            let ways = [(&event, None), (&named, None), (&event, Some("text")), (&event, Some("parts"))];
            // What a template says, and how any type is told, does not depend on the event's.
            for (event, template) in ways.into_iter().take(if n % 10 == 0 { 4 } else { 1 }) {
                let message = message(event, Way { template, severity: Severity::Warning, linked: true });
                let too_long = |why: &str| template.is_some() && why.ends_with("KiB of text");
                assert!(message.failed.as_deref().is_none_or(too_long), "{what}: {:?}", message.failed);
                hold(&message, if template == Some("parts") { OWN_HTML_MAX } else { HTML_MAX });
                let unknown: Vec<_> = tags(&message.html).into_iter().filter(|tag| !harmless.contains(tag)).collect();
                assert!(unknown.is_empty(), "{what}: {unknown:?} in {}", message.html);
                messages.push(message);
            }
        }
    }
    judged(&messages).await;
}

#[tokio::test]
async fn a_template_that_fails_is_told_of_in_every_form() {
    let event = &events()[2];
    let message = message(event, Way { template: Some("broken"), ..PLAIN });
    hold(&message, HTML_MAX);
    assert!(message.failed.as_deref().unwrap().starts_with("template `broken` failed: undefined value"), "{:?}", message.failed);
    for form in [&message.text, &message.html, &message.short, &slack(&message).to_string()] {
        assert!(form.contains("template `broken` failed") && form.contains("Google Calendar"), "{form}");
    }
    judged(&[message]).await;
}

#[tokio::test]
async fn a_digest_names_what_it_gathered_within_every_bound() {
    let (events, admin_url) = (events(), "https://relay-admin.example.com".parse().unwrap());
    let mut messages = Vec::new();
    for (text, times) in [("Google", 2), ("<!channel>\r\n\u{202e}", 20), (&*"&".repeat(1000), 60)] {
        let poisoned: Vec<_> = events.iter().cycle().take(times).map(|event| poison(event, text)).collect();
        let data: Vec<_> = poisoned.iter().map(data).collect();
        let items: Vec<_> =
            poisoned.iter().zip(&data).map(|(event, data)| DigestItem { event, data, delivery: DELIVERY }).collect();
        for template in [None, Some("text"), Some("parts"), Some("broken")] {
            let scene = MessageScene {
                event: &poisoned[0],
                data: &data[0],
                delivery: DELIVERY,
                attempt: 1,
                severity: Severity::Critical,
                admin_url: Some(&admin_url),
                reconnect: None,
            };
            let message = templates().digest(template, &scene, &items, 1000);
            hold(&message, HTML_MAX);
            assert!(message.subject.contains(&(1000 + times).to_string()), "{}", message.subject);
            assert_eq!(message.failed.is_some(), template == Some("broken"));
            messages.push(message);
        }
    }
    judged(&messages).await;
}
