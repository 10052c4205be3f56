//! Why a poll came to nothing, or not to its end.

use std::time::Duration;

use super::value::shown;

/// Longest message, in characters.
const MESSAGE_MAX: usize = 300;

/// What kept a poll from its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What it is called.
    pub(super) code: Code,
    /// What it is, in one sentence; what it quotes is cut and on one line.
    pub(super) message: String,
    /// How long the API wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// What a fault is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Code {
    /// The request was not answered: `timeout`, `dns`, `connect`, `tls`, `closed`, `address_forbidden`.
    Unanswered(&'static str),
    /// It was answered with this status, which is not 2xx.
    Status(u16),
    /// The answer is larger than `max_body`.
    TooLarge,
    /// The answer is no JSON, or has no list of items where it should stand.
    BadAnswer,
    /// A cursor's value is missing, of another type, or goes back.
    BadCursor,
    /// The next page is nowhere, elsewhere or without end.
    BadPaging,
    /// An item cannot become an event.
    BadItem,
    /// The store takes nothing now.
    Store,
}

impl Fault {
    /// A fault without a wish of the API's.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { code, message: message.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect(), retry_after: None }
    }

    /// The answer `status`, which is not 2xx; `location` is where a redirect leads.
    pub(super) fn status(status: u16, location: Option<&str>, retry_after: Option<Duration>) -> Self {
        let message = match (status, location) {
            (401 | 403, _) => "the API refuses the relay's credentials (`headers`)".to_owned(),
            (404 | 410, _) => "the API knows nothing at this URL".to_owned(),
            (300..=399, Some(location)) => {
                // Its path and query may carry secrets.
                let host = url::Url::parse(location).ok().and_then(|url| url.host_str().map(shown));
                format!(
                    "the API redirects{}; redirects are not followed",
                    host.map_or_else(String::new, |host| format!(" to {host}"))
                )
            }
            (429, _) => "the API is asked too often".to_owned(),
            (500.., _) => "the API has a fault of its own".to_owned(),
            _ => format!("the API answers {status}"),
        };
        Self { retry_after, ..Self::new(Code::Status(status), message) }
    }

    /// Its code as it is shown and counted: `http_503`, `bad_cursor`.
    pub(super) fn word(&self) -> String {
        match self.code {
            Code::Unanswered(word) => word.to_owned(),
            Code::Status(status) => format!("http_{status}"),
            Code::TooLarge => "too_large".to_owned(),
            Code::BadAnswer => "bad_answer".to_owned(),
            Code::BadCursor => "bad_cursor".to_owned(),
            Code::BadPaging => "bad_paging".to_owned(),
            Code::BadItem => "bad_item".to_owned(),
            Code::Store => "store".to_owned(),
        }
    }

    /// Whether it will go on until somebody does something about it.
    pub(super) fn is_lasting(&self) -> bool {
        match self.code {
            Code::Unanswered(word) => matches!(word, "address_forbidden" | "tls"),
            Code::Status(status) => !matches!(status, 408 | 425 | 429 | 500..),
            Code::Store => false,
            Code::TooLarge | Code::BadAnswer | Code::BadCursor | Code::BadPaging | Code::BadItem => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_from_what_passes() {
        for status in [408, 425, 429, 500, 503] {
            assert!(!Fault::status(status, None, None).is_lasting(), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 410] {
            assert!(Fault::status(status, None, None).is_lasting(), "{status}");
        }
        assert!(!Fault::new(Code::Unanswered("timeout"), "").is_lasting() && Fault::new(Code::BadCursor, "").is_lasting());
    }

    #[test]
    fn messages_are_short_and_show_no_path() {
        let fault = Fault::status(302, Some("https://elsewhere.example/hush?key=hush"), None);
        assert_eq!(
            (fault.word().as_str(), fault.message.as_str()),
            ("http_302", "the API redirects to elsewhere.example; redirects are not followed")
        );
        let long = Fault::new(Code::BadAnswer, "a\n".repeat(1000));
        assert_eq!(long.message, "a".repeat(MESSAGE_MAX));
    }
}
