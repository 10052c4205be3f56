//! A mail as its bytes: headers and both bodies (RFC 5322, 2045), made once and sent as they are.

use std::time::SystemTime;

use lettre::{
    Address, Message as Mail,
    message::{
        Mailbox as Person, MultiPart,
        header::{HeaderName, HeaderValue},
    },
};

use crate::{
    clock::Timestamp,
    contacts::Mailbox,
    envelope::{DeliveryId, Name},
    render::Message,
    sign::{hex, sha256},
};

/// What a mail is made of.
pub(super) struct Parts<'a> {
    pub(super) from: &'a Mailbox,
    pub(super) to: &'a [Mailbox],
    /// The destination, which is the list that the mail belongs to.
    pub(super) list: &'a Name,
    pub(super) delivery: DeliveryId,
    /// What the mails of one conversation have in common.
    pub(super) thread: Option<&'a str>,
    pub(super) at: Timestamp,
    pub(super) message: &'a Message,
}

/// The bytes of a mail, lines ending in CR LF. The error says why there can be none: our own fault.
pub(super) fn bytes(parts: &Parts<'_>) -> Result<Vec<u8>, String> {
    let domain = &parts.from.domain;
    let mut builder = Mail::builder().from(person(parts.from)).date(date(parts.at));
    // Only who needs SMTPUTF8 anyway is named in a header that needs it.
    let plain = parts.to.iter().any(|to| to.local.is_ascii());
    for to in parts.to.iter().filter(|to| !plain || to.local.is_ascii()) {
        builder = builder.to(person(to));
    }
    builder = builder.subject(parts.message.subject.as_str()).message_id(Some(format!("<{}@{domain}>", parts.delivery)));
    if let Some(key) = parts.thread {
        // The same for all mails of a conversation, so that nothing has to be remembered: a root that no mail is.
        let root = thread_root(parts.list, key, domain);
        builder = builder.in_reply_to(root.clone()).references(root);
    }
    for (name, value) in own_headers(parts) {
        let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
        builder = builder.raw_header(HeaderValue::new(name, value));
    }
    let Message { text, html, .. } = parts.message;
    let mail = builder.multipart(MultiPart::alternative_plain_html(lines(text), lines(html)));
    mail.map(|mail| mail.formatted()).map_err(|error| error.to_string())
}

/// `text` with its lines ended alike: a CR alone is none of RFC 5322, and servers refuse it as an attempt to smuggle.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Headers that say that a machine wrote this, to whom no answer helps.
fn own_headers(parts: &Parts<'_>) -> [(&'static str, String); 5] {
    [
        ("List-Id", format!("<{}.hookyard.{}>", list_label(parts.list), parts.from.domain)),
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("Precedence", "bulk".to_owned()),
        ("X-Auto-Response-Suppress", "All".to_owned()),
        ("X-Hookyard-Delivery", parts.delivery.to_string()),
    ]
}

/// A destination's name as a label of a domain: RFC 2919 allows no underscore at its ends, and dots would be labels of their own.
fn list_label(name: &Name) -> String {
    name.as_str().replace(['.', '_'], "-").trim_matches('-').to_ascii_lowercase()
}

/// The id of a conversation's root.
fn thread_root(list: &Name, key: &str, domain: &str) -> String {
    let hash = hex(&sha256(&[b"hookyard thread\0", list.as_str().as_bytes(), b"\0", key.as_bytes()]));
    format!("<thread.{}@{domain}>", hash.get(..32).unwrap_or(&hash))
}

fn person(mailbox: &Mailbox) -> Person {
    Person::new(mailbox.name.clone(), address(mailbox))
}

/// `mailbox` for the envelope. It was read strictly: lettre's own check would refuse letters beyond ASCII in places.
pub(super) fn address(mailbox: &Mailbox) -> Address {
    Address::new_dangerous(&mailbox.local, &mailbox.domain)
}

fn date(at: Timestamp) -> SystemTime {
    SystemTime::from(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{envelope::EventUid, render::SlackMessage};

    fn mail(subject: &str, name: &str, text: &str) -> String {
        let from = Mailbox::parse("Relay <relay@example.com>").unwrap();
        let dana = Mailbox { name: Some(name.to_owned()), ..Mailbox::parse("dana@example.com").unwrap() };
        let message = Message {
            subject: subject.to_owned(),
            text: text.to_owned(),
            html: format!("<p>{text}</p>"),
            short: String::new(),
            slack: SlackMessage { text: String::new(), color: None, blocks: Vec::new() },
            failed: None,
        };
        let delivery = DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 };
        let (list, at) = (Name::from("mail"), "2026-01-20T12:00:00Z".parse().unwrap());
        let to = [dana];
        let parts = Parts { from: &from, to: &to, list: &list, delivery, thread: Some("key"), at, message: &message };
        String::from_utf8(bytes(&parts).unwrap()).unwrap()
    }

    /// What any server takes: ASCII in lines of at most 998 bytes (RFC 5322, 2.1.1), no CR or LF alone, each header once.
    fn hold(mail: &str) {
        assert!(mail.is_ascii(), "{mail}");
        for line in mail.split("\r\n") {
            assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line}");
        }
        let head = mail.split("\r\n\r\n").next().unwrap().to_lowercase();
        let mut names: Vec<&str> =
            head.lines().filter(|line| !line.starts_with([' ', '\t'])).filter_map(|line| line.split(':').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(all, names.len(), "{head}");
        assert!(!names.contains(&"bcc"), "{head}");
    }

    #[test]
    fn long_lines_and_dots_are_no_harm() {
        hold(&mail("s", "Dana", &"x".repeat(50_000)));
        hold(&mail("s", "Dana", &"ü".repeat(50_000)));
        hold(&mail("s", "Dana", "\r"));
        hold(&mail("s", "Dana", ".\n.\n..\nBcc: x@example.com\n"));
        hold(&mail(&"s".repeat(200), &"n".repeat(200), "t"));
        hold(&mail(&"ü😀 ".repeat(66), &"ü😀\" ".repeat(50), "t"));
    }

    proptest! {
        #[test]
        fn no_subject_and_no_name_breaks_a_header(subject in "[^\\p{Cc}]{0,200}", name in "[^\\p{Cc}<>]{1,100}", text in "[a\r\n.ü ]{0,300}") {
            hold(&mail(&subject, &name, &text));
        }
    }
}
