//! Twilio's reports on what became of a message: where they are sent, that Twilio signed them, and what they say.
//!
//! Facts: Twilio's pages on webhook security (base64 of HMAC-SHA1 over the URL and the sorted parameters, keyed with the auth token) and
//! on the message statuses of WhatsApp.

use std::time::Duration;

use data_encoding::BASE64;
use url::{Url, form_urlencoded};

use super::answer::{explained, meaning_of};
use crate::{
    deliver::{
        answers::Meaning,
        attempt::{Outcome, Tried},
    },
    envelope::{DeliveryId, Name},
    sign::Key,
    store::Cause,
};

/// How long a report is waited for: after it, what Twilio accepted counts as delivered.
pub(in crate::deliver) const UNREPORTED: Duration = Duration::from_secs(600);
/// Most parameters of one report.
const PARAMS_MAX: usize = 100;

/// Where the report about attempt `number` of a delivery is asked to be sent. Twilio signs the query too.
pub(super) fn url(base: &Url, target: &Name, delivery: DeliveryId, number: u32) -> String {
    format!("{}?delivery={delivery}&attempt={number}", path(base, target))
}

fn path(base: &Url, target: &Name) -> String {
    format!("{}/callbacks/twilio/{target}", base.as_str().trim_end_matches('/'))
}

/// Whether `given` (base64) signs `query` and the form in `body`, sent to `target` on `base`. Twilio has been seen to sign with and
/// without a port that stands in the URL, as its own libraries know.
pub(super) fn proved(key: &Key, base: &Url, target: &Name, query: &str, given: &[u8], body: &[u8]) -> bool {
    let Ok(given) = BASE64.decode(given) else { return false };
    let mut params: Vec<_> = form_urlencoded::parse(body).take(PARAMS_MAX + 1).collect();
    if PARAMS_MAX < params.len() {
        return false;
    }
    params.sort_unstable();
    params.dedup();
    let signed: String = params.iter().flat_map(|(name, value)| [&**name, &**value]).collect();
    let full = format!("{}?{query}", path(base, target));
    let mut without_port = base.clone();
    let other = match base.port() {
        Some(_) => without_port.set_port(None).ok().map(|()| format!("{}?{query}", path(&without_port, target))),
        None => base.port_or_known_default().map(|port| {
            let host = base.host_str().unwrap_or_default();
            full.replacen(host, &format!("{host}:{port}"), 1)
        }),
    };
    let fits = |url: &String| key.verifies(&[url.as_bytes(), signed.as_bytes()], &given);
    // Both are computed, whichever it is.
    let (first, second) = (fits(&full), other.as_ref().is_some_and(fits));
    first | second
}

/// What a report says, and of which attempt.
#[derive(Debug)]
pub(in crate::deliver) struct Reported {
    /// Which delivery.
    pub(in crate::deliver) delivery: Option<DeliveryId>,
    /// Which attempt of it.
    pub(in crate::deliver) attempt: Option<u32>,
    /// What became of the message; `None`: it is still on its way.
    pub(in crate::deliver) fate: Option<Fate>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::deliver) enum Fate {
    /// It arrived.
    Arrived(String),
    /// It did not.
    Failed {
        /// Twilio's word for it: `failed`, `undelivered`.
        status: String,
        /// Its number for why.
        code: Option<u32>,
    },
}

impl Reported {
    /// Reads the query, which is ours, and Twilio's form.
    pub(super) fn read(query: &str, body: &[u8]) -> Self {
        let of = |text: &[u8], name: &str| {
            let found = form_urlencoded::parse(text).find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
            found.filter(|value| !value.is_empty())
        };
        let status = of(body, "MessageStatus").or_else(|| of(body, "SmsStatus")).unwrap_or_default();
        let fate = match status.as_str() {
            "delivered" | "read" => Some(Fate::Arrived(status)),
            "failed" | "undelivered" | "canceled" => {
                let code = of(body, "ErrorCode").and_then(|code| code.parse().ok());
                Some(Fate::Failed { status, code })
            }
            // accepted, scheduled, queued, sending, sent: more is to come.
            _ => None,
        };
        Self {
            delivery: of(query.as_bytes(), "delivery").and_then(|id| id.parse().ok()),
            attempt: of(query.as_bytes(), "attempt").and_then(|number| number.parse().ok()),
            fate,
        }
    }
}

impl Fate {
    /// What the attempt it is about came to.
    pub(in crate::deliver) fn tried(&self) -> Tried {
        let (outcome, error, detail) = match self {
            Self::Arrived(status) => (Outcome::Delivered, None, Some(format!("Twilio reports: {status}"))),
            Self::Failed { status, code } => {
                let outcome = match meaning_of(*code) {
                    Some(Meaning::Transient) => Outcome::Retry { after: None, whole_lane: false, denied: false },
                    Some(Meaning::Target) => Outcome::Target,
                    _ => Outcome::Permanent { cause: Cause::Receiver, moved: false },
                };
                let error = code.map_or_else(|| format!("twilio_{status}"), |code| format!("twilio_{code}"));
                let why = code.and_then(|code| explained(code, None)).map_or_else(String::new, |why| format!("; {why}"));
                (outcome, Some(error), Some(format!("Twilio reports: {status}{why}")))
            }
        };
        Tried { outcome, status: None, error, detail, response: bytes::Bytes::new(), rendered: None, template_failed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{envelope::EventUid, sign::Algorithm};

    const BODY: &[u8] = b"MessageSid=SM1&MessageStatus=undelivered&ErrorCode=63016&To=whatsapp%3A%2B15550100";

    fn id() -> DeliveryId {
        DeliveryId { event: EventUid { salt: 1, seq: 2 }, n: 1 }
    }

    fn sign(key: &str, url: &str, params: &[(&str, &str)]) -> Vec<u8> {
        let text: String = params.iter().flat_map(|(name, value)| [*name, *value]).collect();
        let tag = Key::new(Algorithm::Sha1, key.as_bytes()).sign(&[url.as_bytes(), text.as_bytes()]);
        BASE64.encode(tag.as_ref()).into_bytes()
    }

    /// The example of Twilio's page on webhook security, with its own URL and parameters.
    #[test]
    fn a_signature_is_made_as_twilio_says() {
        let params = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+12349013030"),
            ("Digits", "1234"),
            ("From", "+12349013030"),
            ("To", "+18005551212"),
        ];
        let made = sign("12345", "https://mycompany.com/myapp.php?foo=1&bar=2", &params);
        assert_eq!(String::from_utf8(made).unwrap(), "0/KCTR6DLpKmkAf8muzZqo1nDgQ=");
    }

    #[test]
    fn only_what_the_token_signed_is_proved() {
        let key = Key::new(Algorithm::Sha1, b"token");
        let sorted =
            [("ErrorCode", "63016"), ("MessageSid", "SM1"), ("MessageStatus", "undelivered"), ("To", "whatsapp:+15550100")];
        for base in ["https://relay.example.com", "https://relay.example.com:8443/", "https://relay.example.com/hooks/"] {
            let base: Url = base.parse().unwrap();
            let target = Name::from("wa");
            let url = url(&base, &target, id(), 3);
            let query = url.split_once('?').unwrap().1;
            let given = sign("token", &url, &sorted);
            let holds = |target: &Name, query: &str, given: &[u8], body: &[u8]| proved(&key, &base, target, query, given, body);
            assert!(holds(&target, query, &given, BODY), "{url}");
            assert!(!holds(&"other".into(), query, &given, BODY));
            assert!(!holds(&target, &query.replace("attempt=3", "attempt=4"), &given, BODY));
            assert!(!holds(&target, query, &given, b"MessageStatus=delivered"));
            assert!(!holds(&target, query, &sign("other", &url, &sorted), BODY));
            assert!(!holds(&target, query, b"", BODY) && !holds(&target, query, b"%", BODY));
            assert!(!holds(&target, query, &given, &[BODY, &b"&a=b".repeat(200)].concat()));
        }
        let with_port: Url = "https://relay.example.com:8443".parse().unwrap();
        let url = url(&with_port, &"wa".into(), id(), 3);
        let given = sign("token", &url.replace(":8443", ""), &sorted);
        assert!(proved(&key, &with_port, &"wa".into(), url.split_once('?').unwrap().1, &given, BODY));
    }

    #[test]
    fn a_report_is_read_by_its_status() {
        let read = |body: &str| Reported::read(&format!("delivery={}&attempt=2", id()), body.as_bytes());
        let failed = read("MessageStatus=undelivered&ErrorCode=63016");
        assert_eq!((failed.delivery, failed.attempt), (Some(id()), Some(2)));
        assert_eq!(failed.fate, Some(Fate::Failed { status: "undelivered".into(), code: Some(63016) }));
        for status in ["delivered", "read"] {
            assert_eq!(read(&format!("MessageStatus={status}")).fate, Some(Fate::Arrived(status.into())));
        }
        for status in ["queued", "sent", "sending", "accepted", "scheduled", "nonsense", ""] {
            assert_eq!(read(&format!("MessageStatus={status}")).fate, None, "{status}");
        }
        let strange = Reported::read("delivery=dl_x&attempt=-1", b"");
        assert_eq!((strange.delivery, strange.attempt), (None, None));
    }

    #[test]
    fn what_a_failure_means_is_in_its_code() {
        let outcome = |code| Fate::Failed { status: "failed".into(), code }.tried().outcome;
        for transient in [20429, 63018] {
            assert!(matches!(outcome(Some(transient)), Outcome::Retry { .. }));
        }
        for target in [20003, 21606, 63007] {
            assert_eq!(outcome(Some(target)), Outcome::Target);
        }
        for permanent in [Some(63016), Some(30008), None] {
            assert_eq!(outcome(permanent), Outcome::Permanent { cause: Cause::Receiver, moved: false });
        }
    }
}
