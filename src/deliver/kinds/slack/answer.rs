//! What Slack's answers mean. Its statuses vary by where an answer comes from, so that the words decide: the body's text (webhooks), or
//! its `error` where a 200 says `"ok": false` (the API).

use serde::Deserialize;

use super::channel::Channel;
use crate::{
    clock::Timestamp,
    deliver::{
        answers::{Meaning, Reading},
        attempt::{Outcome, Tried},
        client::Answer,
    },
    store::Cause,
};

/// Longest word that is taken for one of Slack's, in bytes.
const WORD_MAX: usize = 64;
/// How much of an answer is kept, in bytes.
const KEPT_MAX: usize = 4 * 1024;

/// Refused whatever is sent: the destination needs a person (`delivery.md`; the second row is of the same sort).
const TARGET: [&str; 23] = [
    "invalid_token",
    "invalid_auth",
    "token_revoked",
    "account_inactive",
    "channel_not_found",
    "channel_is_archived",
    "is_archived",
    "not_in_channel",
    "no_service",
    "no_active_hooks",
    "no_team",
    "team_disabled",
    "action_prohibited",
    "not_authed",
    "token_expired",
    "missing_scope",
    "no_permission",
    "not_allowed_token_type",
    "access_denied",
    "org_login_required",
    "team_access_not_granted",
    "restricted_action",
    "enterprise_is_restricted",
];
/// May pass.
const TRANSIENT: [&str; 9] = [
    "rollup_error",
    "ratelimited",
    "rate_limited",
    "internal_error",
    "fatal_error",
    "service_unavailable",
    "request_timeout",
    "team_added_to_org",
    "accesslimited",
];
/// Would be refused again.
const PERMANENT: [&str; 9] = [
    "invalid_blocks",
    "invalid_blocks_format",
    "no_text",
    "invalid_payload",
    "invalid_attachments",
    "too_many_attachments",
    "msg_too_long",
    "msg_blocks_too_long",
    "user_not_found",
];
/// Of those of [`TARGET`], what says something of the channel: of one member's, where each message goes to another.
const CHANNEL: [&str; 5] = ["channel_not_found", "channel_is_archived", "is_archived", "not_in_channel", "restricted_action"];
/// The message that was to be answered is no longer there.
const LOST_THREAD: [&str; 3] = ["thread_not_found", "invalid_thread_ts", "cannot_reply_to_message"];

/// What Slack said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Whether it took the message, where it says so.
    ok: Option<bool>,
    /// Its word for what is wrong.
    word: Option<String>,
    /// What later messages of the thread answer to.
    ts: Option<String>,
    /// It says nothing that can be made out.
    unclear: bool,
    /// Other messages go to others.
    personal: bool,
}

#[derive(Deserialize)]
struct Json {
    ok: Option<bool>,
    error: Option<String>,
    ts: Option<String>,
}

impl Said {
    /// Reads an answer, as much of it as has come.
    pub(super) fn read(answer: &Answer) -> Self {
        if let Ok(json) = serde_json::from_slice::<Json>(&answer.body) {
            let word = json.error.filter(|word| is_word(word));
            return Self { ok: json.ok, word, ts: json.ts.filter(|ts| is_ts(ts)), unclear: false, personal: false };
        }
        let text = String::from_utf8_lossy(&answer.body);
        let text = text.trim();
        if text == "ok" {
            return Self { ok: Some(true), word: None, ts: None, unclear: false, personal: false };
        }
        if is_word(text) {
            // A word that means a refusal is one, whatever the status it comes with.
            let ok = [&TARGET[..], &TRANSIENT, &PERMANENT].iter().any(|words| words.contains(&text)).then_some(false);
            return Self { ok, word: Some(text.to_owned()), ts: None, unclear: false, personal: false };
        }
        // JSON that was cut: Slack says the essential first.
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).take(4 * WORD_MAX).collect();
        let refused = plain.starts_with(r#"{"ok":false"#);
        let word = plain.split_once(r#""error":""#).and_then(|(_, rest)| rest.split_once('"')).map(|(word, _)| word.to_owned());
        Self {
            ok: refused.then_some(false),
            word: word.filter(|word| refused && is_word(word)),
            ts: None,
            unclear: true,
            personal: false,
        }
    }

    /// The same, of a message to `channel`.
    pub(super) fn to(self, channel: &Channel) -> Self {
        Self { personal: *channel == Channel::Contact, ..self }
    }

    /// What later messages of the thread answer to.
    pub(super) fn ts(&self) -> Option<&str> {
        self.ts.as_deref().filter(|_| self.ok == Some(true))
    }

    /// Whether the message it was to answer is gone.
    pub(super) fn lost_thread(&self) -> bool {
        self.ok == Some(false) && self.word.as_deref().is_some_and(|word| LOST_THREAD.contains(&word))
    }

    /// What it means under `status`. What `status_rules` say of the status comes before the words; where Slack has no word that is
    /// known, the status decides.
    fn meaning(&self, status: u16, answers: &Reading) -> Meaning {
        let refused = self.ok == Some(false) || !matches!(status, 200..=299);
        match self.word.as_deref().filter(|_| refused) {
            _ if answers.rules.names(status) => answers.meaning(status),
            Some(word) if self.personal && CHANNEL.contains(&word) => Meaning::Permanent(Cause::Receiver),
            Some(word) if TARGET.contains(&word) || word.starts_with("restricted_action") => Meaning::Target,
            Some(word) if TRANSIENT.contains(&word) => Meaning::Transient,
            Some(word) if PERMANENT.contains(&word) => Meaning::Permanent(Cause::Receiver),
            _ if matches!(status, 500..) => Meaning::Transient,
            // A refusal that was cut before its word came: the next answer may be whole.
            None if self.ok == Some(false) && self.unclear => Meaning::Transient,
            _ if self.ok == Some(false) && matches!(status, 200..=299) => Meaning::Permanent(Cause::Receiver),
            _ => answers.meaning(status),
        }
    }

    /// What an attempt that was answered so came to.
    pub(super) fn tried(&self, mut answer: Answer, at: Timestamp, answers: &Reading) -> Tried {
        let meaning = self.meaning(answer.status, answers);
        answer.body.truncate(KEPT_MAX);
        let mut tried = Tried::of(answer, at, meaning);
        if let Outcome::Retry { whole_lane, .. } = &mut tried.outcome {
            *whole_lane |= self.word.as_deref().is_some_and(|word| matches!(word, "ratelimited" | "rate_limited"));
        }
        if tried.outcome == Outcome::Delivered {
            if self.unclear && !tried.response.is_empty() {
                tried.detail = Some("Slack's answer cannot be made out: its status counts".to_owned());
            }
            return tried;
        }
        if let Some(word) = &self.word {
            tried.error = Some(format!("slack_{word}"));
            tried.detail = advice(word).map(str::to_owned).or(tried.detail);
        } else if self.ok == Some(false) {
            tried.error = Some("slack_refused".to_owned());
        }
        tried
    }
}

/// What a person can do about it.
fn advice(word: &str) -> Option<&'static str> {
    Some(match word {
        "invalid_token" | "invalid_auth" | "token_revoked" | "token_expired" | "account_inactive" | "not_authed" => {
            "Slack does not know the token or webhook any more: make a new one"
        }
        "no_service" | "no_active_hooks" | "no_team" | "team_disabled" => {
            "the webhook was removed or its workspace is disabled: make a new one"
        }
        "channel_not_found" => "there is no such channel, or the app cannot see it: check the name, invite the app",
        "channel_is_archived" | "is_archived" => "the channel is archived: bring it back or name another one",
        "not_in_channel" => "the app is not in the channel: invite it",
        "missing_scope" => "the token lacks the scope chat:write",
        "action_prohibited" => "an admin of the workspace forbids it",
        _ => return None,
    })
}

fn is_word(text: &str) -> bool {
    (1..=WORD_MAX).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'_' | b'0'..=b'9'))
}

/// `1700000000.000100`.
fn is_ts(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::answers::{Answers, StatusRules};

    fn meaning_by(rules: &str, status: u16, body: &str) -> Meaning {
        let rules: StatusRules = crate::deliver::testing::decode(rules).unwrap();
        let answer = Answer { status, retry_after: None, body: body.to_owned().into() };
        Said::read(&answer).meaning(status, &Reading { table: Answers::Default, rules })
    }

    fn meaning(status: u16, body: &str) -> Meaning {
        meaning_by("{}", status, body)
    }

    const PERMANENT: Meaning = Meaning::Permanent(Cause::Receiver);

    #[test]
    fn words_decide_whatever_the_status() {
        for word in ["invalid_blocks", "no_text", "invalid_payload", "msg_blocks_too_long"] {
            for status in [200, 400, 403, 404] {
                assert_eq!(meaning(status, word), PERMANENT, "{status} {word}");
            }
            assert_eq!(meaning(200, &format!(r#"{{"ok":false,"error":"{word}"}}"#)), PERMANENT, "{word}");
        }
        for word in super::TARGET {
            for status in [200, 400, 403, 404, 410, 500] {
                assert_eq!(meaning(status, &format!("{word}\n")), Meaning::Target, "{status} {word}");
            }
            assert_eq!(meaning(200, &format!(r#"{{"ok": false, "error": "{word}"}}"#)), Meaning::Target, "{word}");
        }
        for (status, body) in [
            (429, "rate_limited"),
            (500, "rollup_error"),
            (200, r#"{"ok":false,"error":"ratelimited"}"#),
            (200, "rollup_error"),
            (502, "<html>"),
            (505, ""),
        ] {
            assert_eq!(meaning(status, body), Meaning::Transient, "{status} {body}");
        }
    }

    #[test]
    fn what_is_no_word_of_slacks_counts_by_its_status() {
        assert_eq!(meaning(200, "ok"), Meaning::Delivered);
        assert_eq!(meaning(200, r#"{"ok":true,"ts":"1.2"}"#), Meaning::Delivered);
        assert_eq!(meaning(200, "whatever"), Meaning::Delivered);
        assert_eq!(meaning(400, "some_new_word"), PERMANENT);
        assert_eq!(meaning(404, "<html>no such page</html>"), Meaning::Transient);
        assert_eq!(meaning(302, ""), Meaning::Moved(Cause::Config));
        assert_eq!(meaning(200, r#"{"ok":false,"error":"some_new_word"}"#), PERMANENT);
        assert_eq!(meaning_by("{404: permanent, 200: delivered}", 404, "channel_not_found"), PERMANENT);
    }

    #[test]
    fn a_cut_answer_counts_as_far_as_it_came() {
        assert_eq!(meaning(200, r#"{"ok":true,"channel":"C1","ts":"1.2","mess"#), Meaning::Delivered);
        assert_eq!(meaning(200, ""), Meaning::Delivered);
        assert_eq!(meaning(200, r#"{"ok":false,"error":"channel_not_found","resp"#), Meaning::Target);
        assert_eq!(meaning(200, r#"{"ok":false,"err"#), Meaning::Transient);
    }

    #[test]
    fn text_that_is_no_word_is_not_repeated_as_one() {
        let answer = Answer { status: 400, retry_after: None, body: "Nasty <text>".into() };
        assert_eq!(Said::read(&answer).word, None);
    }
}
