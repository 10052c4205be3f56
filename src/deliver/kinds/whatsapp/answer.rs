//! What Twilio's answers and the codes of its reports mean (`delivery.md`, "What answers mean").

use serde::Deserialize;

use crate::{
    clock::Timestamp,
    deliver::{
        answers::{Meaning, Reading},
        attempt::{Outcome, Tried},
        client::Answer,
    },
    store::Cause,
};

/// How much of an answer is kept, in bytes.
const KEPT_MAX: usize = 4 * 1024;
/// Longest text of Twilio's that is repeated, in characters.
const MESSAGE_MAX: usize = 300;

/// What Twilio answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    /// Its number for what is wrong.
    code: Option<u32>,
    /// What it says about that.
    message: Option<String>,
}

/// What `code` means, whatever it comes with.
pub(super) fn meaning_of(code: Option<u32>) -> Option<Meaning> {
    match code? {
        20429 | 63018 => Some(Meaning::Transient),
        20003 | 21606 | 63007 => Some(Meaning::Target),
        _ => None,
    }
}

impl Said {
    /// Reads an answer; what is no JSON of Twilio's says nothing.
    pub(super) fn read(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// What it means under `status`; `status_rules` come first.
    fn meaning(&self, status: u16, answers: &Reading) -> Meaning {
        match (meaning_of(self.code), status) {
            _ if answers.rules.names(status) => answers.meaning(status),
            (Some(meaning), 400..) => meaning,
            (_, 401 | 403) => Meaning::Target,
            (_, 429 | 500..) => Meaning::Transient,
            (_, 400..) => Meaning::Permanent(Cause::Receiver),
            _ => answers.meaning(status),
        }
    }

    /// What an attempt that was answered so came to.
    pub(super) fn tried(&self, mut answer: Answer, at: Timestamp, answers: &Reading) -> Tried {
        let meaning = self.meaning(answer.status, answers);
        answer.body.truncate(KEPT_MAX);
        let mut tried = Tried::of(answer, at, meaning);
        if let (Outcome::Retry { whole_lane, .. }, Some(20429)) = (&mut tried.outcome, self.code) {
            *whole_lane = true;
        }
        if tried.outcome != Outcome::Delivered
            && let Some(code) = self.code
        {
            tried.error = Some(format!("twilio_{code}"));
            tried.detail = explained(code, self.message.as_deref()).or(tried.detail);
        }
        tried
    }
}

/// What `code` says to a person: Twilio's words, and what to do about it.
pub(super) fn explained(code: u32, message: Option<&str>) -> Option<String> {
    let advice = match code {
        20003 => Some("check account_sid and auth_token"),
        21606 | 63007 => Some("`from` is no sender of this account for WhatsApp"),
        21610 | 63032 => Some("the recipient has opted out"),
        21211 | 63003 | 63024 => Some("the recipient's number cannot be reached by WhatsApp"),
        63016 => Some("free text reaches only those who wrote within 24 hours: send an approved template with `content_sid`"),
        63021 => Some("WhatsApp refuses this content"),
        63038 => Some("the account's daily limit is reached"),
        _ => None,
    };
    let said = message.map(|text| text.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect::<String>());
    let parts: Vec<&str> = said.as_deref().into_iter().chain(advice).filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::answers::Answers;

    fn meaning(status: u16, code: u32) -> Meaning {
        let body = format!(
            r#"{{"code":{code},"message":"m","more_info":"https://www.twilio.com/docs/errors/{code}","status":{status}}}"#
        );
        let answer = Answer { status, retry_after: None, body: body.into() };
        let rules = crate::deliver::testing::decode("{}").unwrap();
        Said::read(&answer).meaning(status, &Reading { table: Answers::Default, rules })
    }

    #[test]
    fn codes_decide_and_the_status_where_there_is_none() {
        for (status, code) in [(429, 20429), (400, 63018), (429, 0), (500, 0), (503, 20500), (505, 0)] {
            assert_eq!(meaning(status, code), Meaning::Transient, "{status} {code}");
        }
        for (status, code) in [(401, 20003), (403, 20003), (400, 21606), (400, 63007), (401, 0), (403, 0)] {
            assert_eq!(meaning(status, code), Meaning::Target, "{status} {code}");
        }
        for (status, code) in [(400, 21211), (400, 63016), (404, 20404), (400, 21610), (410, 0), (408, 0)] {
            assert_eq!(meaning(status, code), Meaning::Permanent(Cause::Receiver), "{status} {code}");
        }
        assert_eq!(meaning(201, 0), Meaning::Delivered);
        assert_eq!(meaning(302, 0), Meaning::Moved(Cause::Config));
    }

    #[test]
    fn people_are_told_what_to_do() {
        insta::assert_snapshot!(explained(63016, Some("Failed to send freeform message\u{7}")).unwrap(), @"Failed to send freeform message; free text reaches only those who wrote within 24 hours: send an approved template with `content_sid`");
        assert_eq!(explained(1, None), None);
    }
}
