//! What a mail server's answers mean, and what came of each recipient. Pure.
//!
//! Facts: `delivery.md`, "What answers mean" (SMTP); RFC 5321 4.2, RFC 4954 6 (530, 534, 535).

use std::error::Error as _;

use lettre::transport::smtp::Error;
use serde_json::{Value as Json, json};

use super::settings::Server;
use crate::{contacts::Mailbox, deliver::client::FailureKind};

/// Longest answer that is kept of one recipient, in characters.
const SAID_MAX: usize = 300;

/// What an answer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// To be tried again.
    Transient,
    /// Would fail the same way again.
    Permanent,
    /// Our login, or the server itself, is wrong: nothing will be taken.
    Target,
    /// The address policy forbids the server.
    Forbidden,
}

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) meaning: Meaning,
    /// The server's code, where it answered.
    pub(super) code: Option<u16>,
    /// As attempts record it: `smtp_550`, `timeout`, ….
    pub(super) error: String,
    /// What was said.
    pub(super) said: String,
}

impl Refused {
    /// The server said `code`.
    pub(super) fn said(code: u16, text: &str) -> Self {
        let meaning = match code {
            530 | 534 | 535 => Meaning::Target,
            500..=599 => Meaning::Permanent,
            _ => Meaning::Transient,
        };
        Self { meaning, code: Some(code), error: format!("smtp_{code}"), said: plain(text) }
    }

    /// The server could not be asked.
    pub(super) fn failed(kind: FailureKind, said: &str) -> Self {
        let meaning = if kind == FailureKind::Forbidden { Meaning::Forbidden } else { Meaning::Transient };
        Self { meaning, code: None, error: kind.code().to_owned(), said: plain(said) }
    }

    /// It takes nothing of us.
    pub(super) fn target(error: &str, said: &str) -> Self {
        Self { meaning: Meaning::Target, code: None, error: error.to_owned(), said: said.to_owned() }
    }

    /// This one recipient can never be written to through this server.
    pub(super) fn permanent(error: &str, said: &str) -> Self {
        Self { meaning: Meaning::Permanent, code: None, error: error.to_owned(), said: said.to_owned() }
    }

    /// What lettre says of an answer, or of its absence.
    pub(super) fn by(error: &Error) -> Self {
        let said = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        match error.status().and_then(|code| code.to_string().parse().ok()) {
            Some(code) => Self::said(code, &said),
            None if error.is_timeout() => Self::failed(FailureKind::Timeout, &said),
            None => Self::failed(FailureKind::Closed, &said),
        }
    }

    /// A refusal before any mail was spoken of says nothing about a mail: it may pass.
    pub(super) fn unless_about_the_mail(self) -> Self {
        match self.meaning {
            Meaning::Permanent => Self { meaning: Meaning::Transient, ..self },
            _ => self,
        }
    }

    /// A login that is refused for good is refused for every mail. What servers answer may repeat what they were told.
    pub(super) fn at_login(self, server: &Server) -> Self {
        let secret = server.login.as_ref().map(|(_, password)| password.reveal()).unwrap_or_default();
        let said = if !secret.is_empty() && self.said.contains(secret) { "the login is refused".to_owned() } else { self.said };
        let meaning = if self.meaning == Meaning::Permanent { Meaning::Target } else { self.meaning };
        Self { meaning, said, ..self }
    }

    /// Whether the connection may simply have been idle for too long.
    pub(super) fn is_stale(&self) -> bool {
        matches!((self.code, self.error.as_str()), (Some(421), _) | (None, "closed"))
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{code} {}", self.said),
            None => f.write_str(&self.said),
        }
    }
}

fn plain(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAID_MAX);
    clean.collect::<String>().trim().to_owned()
}

/// What came of one recipient so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not taken yet.
    Waiting(Option<Refused>),
    /// The server took the mail for it.
    Taken(String),
    /// Refused for good.
    Refused(Refused),
}

/// The recipients of one mail, as attempts leave them: whoever has it is not sent it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress(pub(super) Vec<(Mailbox, Fate)>);

impl Progress {
    /// Nobody has it yet.
    pub(super) fn new(to: Vec<Mailbox>) -> Self {
        Self(to.into_iter().map(|it| (it, Fate::Waiting(None))).collect())
    }

    /// What earlier attempts left. Where nobody waits, a person retries a dead letter: those that were refused are asked for again.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let json: Json = serde_json::from_slice(bytes).ok()?;
        let read = |item: &Json| {
            let to = Mailbox::parse(item.get("to")?.as_str()?)?;
            let fate = match item.get("state")?.as_str()? {
                "taken" => Fate::Taken(String::new()),
                "refused" => {
                    let text = |key: &str| item.get(key).and_then(Json::as_str).unwrap_or_default();
                    let code = item.get("code").and_then(Json::as_u64).and_then(|code| u16::try_from(code).ok());
                    Fate::Refused(Refused { code, ..Refused::permanent(text("error"), text("said")) })
                }
                _ => Fate::Waiting(None),
            };
            Some((to, fate))
        };
        let mut all: Vec<_> = json.as_array()?.iter().map(read).collect::<Option<_>>()?;
        if !all.iter().any(|(_, fate)| matches!(fate, Fate::Waiting(_))) {
            for (_, fate) in all.iter_mut().filter(|(_, fate)| matches!(fate, Fate::Refused(_))) {
                *fate = Fate::Waiting(None);
            }
        }
        Some(Self(all))
    }

    /// As the store keeps it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let item = |(to, fate): &(Mailbox, Fate)| {
            let mut item = json!({ "to": to.address(), "state": fate.word() });
            if let Fate::Refused(Refused { code, error, said, .. }) = fate {
                (item["code"], item["error"], item["said"]) = (json!(code), json!(error), json!(said));
            }
            item
        };
        Json::Array(self.0.iter().map(item).collect()).to_string().into_bytes()
    }

    /// Whether anybody has it.
    pub(super) fn reached(&self) -> bool {
        self.0.iter().any(|(_, fate)| matches!(fate, Fate::Taken(_)))
    }

    /// Those that wait still.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().filter(|(_, (_, fate))| matches!(fate, Fate::Waiting(_))).map(|(index, _)| index)
    }

    /// Those that wait and of whom nothing was said yet.
    pub(super) fn unheard(&self) -> Vec<usize> {
        self.waiting().filter(|index| matches!(self.0.get(*index), Some((_, Fate::Waiting(None))))).collect()
    }

    /// Whether any server knows the address of number `index`.
    pub(super) fn is_ascii(&self, index: usize) -> bool {
        self.0.get(index).is_none_or(|(to, _)| to.local.is_ascii())
    }

    /// Notes why those that wait did not get it.
    pub(super) fn refuse(&mut self, indices: &[usize], refused: &Refused) {
        for index in indices {
            if let Some((_, fate)) = self.0.get_mut(*index) {
                *fate = match refused.meaning {
                    Meaning::Permanent => Fate::Refused(refused.clone()),
                    _ => Fate::Waiting(Some(refused.clone())),
                };
            }
        }
    }

    /// Notes that the server took the mail for these.
    pub(super) fn take(&mut self, indices: &[usize], said: &str) {
        for index in indices {
            if let Some((_, fate)) = self.0.get_mut(*index) {
                *fate = Fate::Taken(plain(said));
            }
        }
    }

    /// What is the matter, worst first: somebody waits, or somebody was refused.
    pub(super) fn trouble(&self) -> Option<&Refused> {
        let waits = self.0.iter().find_map(|(_, fate)| match fate {
            Fate::Waiting(refused) => refused.as_ref(),
            _ => None,
        });
        waits.or_else(|| {
            self.0.iter().find_map(|(_, fate)| match fate {
                Fate::Refused(refused) => Some(refused),
                _ => None,
            })
        })
    }

    /// What became of each, a line per recipient.
    pub(super) fn lines(&self) -> String {
        let line = |(to, fate): &(Mailbox, Fate)| match fate {
            Fate::Waiting(Some(refused)) => format!("{to}: waits: {refused}"),
            Fate::Waiting(None) => format!("{to}: waits"),
            Fate::Taken(said) if said.is_empty() => format!("{to}: took it before"),
            Fate::Taken(said) => format!("{to}: {said}"),
            Fate::Refused(refused) => format!("{to}: refused: {refused}"),
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// One sentence of what became of all.
    pub(super) fn summary(&self) -> String {
        let count = |wanted: &str| self.0.iter().filter(|(_, fate)| fate.word() == wanted).count();
        let trouble = self.trouble().map(|it| format!(": {it}")).unwrap_or_default();
        match self.0.as_slice() {
            [(to, Fate::Taken(_))] => format!("{to} took it"),
            [(to, Fate::Refused(_))] => format!("{to} is refused{trouble}"),
            [(to, Fate::Waiting(_))] => format!("{to} waits{trouble}"),
            all => format!(
                "{} of {} recipients took it, {} refused for good, {} wait{trouble}",
                count("taken"),
                all.len(),
                count("refused"),
                count("waiting")
            ),
        }
    }
}

impl Fate {
    fn word(&self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Taken(_) => "taken",
            Self::Refused(_) => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(to: &[&str]) -> Progress {
        Progress::new(to.iter().map(|it| Mailbox::parse(it).unwrap()).collect())
    }

    #[test]
    fn the_table_of_answers() {
        let meaning = |code| Refused::said(code, "").meaning;
        assert_eq!([421, 450, 451, 452, 454, 455].map(meaning), [Meaning::Transient; 6]);
        assert_eq!([500, 521, 550, 551, 552, 553, 554, 556].map(meaning), [Meaning::Permanent; 8]);
        assert_eq!([530, 534, 535].map(meaning), [Meaning::Target; 3]);
        assert_eq!(Refused::said(554, "").unless_about_the_mail().meaning, Meaning::Transient);
        assert_eq!(Refused::failed(FailureKind::Forbidden, "").meaning, Meaning::Forbidden);
        assert_eq!(Refused::failed(FailureKind::Tls, "").meaning, Meaning::Transient);
    }

    #[test]
    fn who_has_it_is_kept_and_who_was_refused_waits_again_once_nobody_else_does() {
        let mut it = progress(&["a@x.example", "b@x.example", "jörg@x.example"]);
        it.take(&[0], "250 ok\r\n");
        it.refuse(&[1], &Refused::said(550, "no such user"));
        it.refuse(&[2], &Refused::said(451, "later"));
        insta::assert_snapshot!(it.lines(), @r"
        a@x.example: 250 ok
        b@x.example: refused: 550 no such user
        jörg@x.example: waits: 451 later
        ");
        insta::assert_snapshot!(it.summary(), @"1 of 3 recipients took it, 1 refused for good, 1 wait: 451 later");
        let mut again = Progress::read(&it.bytes()).unwrap();
        assert_eq!(again.waiting().collect::<Vec<_>>(), [2]);
        again.take(&[2], "250 ok");
        let by_hand = Progress::read(&again.bytes()).unwrap();
        assert_eq!(by_hand.waiting().collect::<Vec<_>>(), [1]);
        assert_eq!(Progress::read(b"nonsense"), None);
    }

    #[test]
    fn what_a_server_says_is_bounded_and_plain() {
        let refused = Refused::said(550, &format!("no\r\nsuch\u{7} user {}", "x".repeat(1000)));
        assert!(refused.said.chars().count() <= SAID_MAX && !refused.said.contains(char::is_control));
    }
}
