//! Where people are reached: mail addresses and numbers, read strictly. What is not one of them goes nowhere near a mail server.
//!
//! Facts: RFC 5321 4.5.3.1 (lengths), RFC 5322 3.4.1 (dot-atom), RFC 6531 (letters beyond ASCII), RFC 5890 (domains), E.164.

use std::fmt;

use url::Host;

/// Longest part in front of the `@`, in bytes.
const LOCAL_MAX: usize = 64;
/// Longest address, in bytes.
const ADDRESS_MAX: usize = 254;
/// Longest name of a person, in characters.
const NAME_MAX: usize = 200;
/// What a part in front of the `@` may hold besides letters and digits.
const ATOM: &str = "!#$%&'*+-/=?^_`{|}~";

/// A person's mail address, with the name that may stand beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// The person's name.
    pub name: Option<String>,
    /// What stands in front of the `@`. Letters beyond ASCII need a server that offers SMTPUTF8.
    pub local: String,
    /// The domain in ASCII: `bücher.example` is `xn--bcher-kva.example` here.
    pub domain: String,
}

impl Mailbox {
    /// Reads `dana@example.com` or `Dana <dana@example.com>`. Quoted local parts and address literals are not taken.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, address) = match text.strip_suffix('>') {
            Some(rest) => {
                let (name, address) = rest.rsplit_once('<')?;
                (Some(name.trim()), address)
            }
            None => (None, text),
        };
        let (local, domain) = address.rsplit_once('@')?;
        let name = name.map(unquoted).filter(|name| !name.is_empty());
        let (local, domain) = (is_local(local).then(|| local.to_owned())?, ascii_domain(domain)?);
        let good = name.as_ref().is_none_or(|name| is_name(name)) && local.len() + 1 + domain.len() <= ADDRESS_MAX;
        good.then_some(Self { name, local, domain })
    }

    /// `local@domain`.
    pub fn address(&self) -> String {
        format!("{}@{}", self.local, self.domain)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

fn unquoted(name: &str) -> String {
    let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// No control characters: a name becomes part of a header.
fn is_name(name: &str) -> bool {
    name.chars().count() <= NAME_MAX && !name.chars().any(|c| c.is_control() || matches!(c, '<' | '>'))
}

fn is_local(local: &str) -> bool {
    let fits =
        |c: char| c.is_ascii_alphanumeric() || ATOM.contains(c) || (!c.is_ascii() && !c.is_control() && !c.is_whitespace());
    let atom = |part: &str| !part.is_empty() && part.chars().all(fits);
    local.len() <= LOCAL_MAX && local.split('.').all(atom)
}

/// `domain` with its labels in ASCII; `None` for what is no domain, addresses among it.
pub fn ascii_domain(domain: &str) -> Option<String> {
    if domain.contains(['%', '[', ']', ':']) {
        return None;
    }
    let Ok(Host::Domain(domain)) = Host::parse(domain) else { return None };
    let label = |label: &str| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    domain.split('.').all(label).then_some(domain)
}

/// A telephone number in E.164: `+15550100`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Number(String);

impl Number {
    /// Reads `+15550100` or `whatsapp:+15550100`; blanks, dots, dashes and brackets between the digits are dropped.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.strip_prefix("whatsapp:").unwrap_or(text).strip_prefix('+')?;
        let digits: String = digits.chars().filter(|c| !matches!(c, ' ' | '-' | '.' | '(' | ')')).collect();
        let good = (6..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        good.then(|| Self(format!("+{digits}")))
    }

    /// `+15550100`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A member's id of a Slack workspace: `U012AB3CD` or `W012AB3CD`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlackUser(String);

impl SlackUser {
    /// Reads `U012AB3CD`, with or without `@` or `<@…>` around it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('<').trim_end_matches('>').trim_start_matches('@');
        let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        let good = text.starts_with(['U', 'W']) && (3..=32).contains(&text.len()) && text.bytes().all(fits);
        good.then(|| Self(text.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_with_and_without_names() {
        let shown = |text: &str| Mailbox::parse(text).map(|it| (it.name.clone().unwrap_or_default(), it.address()));
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(shown(" dana@example.com "), pair("", "dana@example.com"));
        assert_eq!(shown("Dana Müller <dana+x@Example.COM>"), pair("Dana Müller", "dana+x@example.com"));
        assert_eq!(shown("\"Doe, John\" <j.doe@example.com>"), pair("Doe, John", "j.doe@example.com"));
        assert_eq!(shown("info@bücher.example"), pair("", "info@xn--bcher-kva.example"));
        assert_eq!(shown("jörg@example.com"), pair("", "jörg@example.com"));
        assert_eq!(shown("root@localhost"), pair("", "root@localhost"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "x".repeat(65));
        for bad in [
            "",
            "@",
            "dana",
            "dana@",
            "@example.com",
            "a@b@c",
            "a b@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a@example..com",
            "a@-example.com",
            "a@127.0.0.1",
            "a@[127.0.0.1]",
            "a@exa%6dple.com",
            "a@example.com, b@example.com",
            "a@example.com\r\nRCPT TO:<b@example.com>",
            "a\u{0}@example.com",
            "\"a b\"@example.com",
            "<a@example.com> SIZE=1",
            "X\nBcc: b@example.com <a@example.com>",
            &long,
        ] {
            assert_eq!(Mailbox::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn numbers_and_slack_users() {
        assert_eq!(Number::parse("whatsapp:+1 (555) 010-0999").map(|it| it.to_string()), Some("+15550100999".into()));
        for bad in ["", "+", "15550100", "+0155501", "+1555010099912345", "+1555x0100", "whatsapp:15550100"] {
            assert_eq!(Number::parse(bad), None, "{bad}");
        }
        assert_eq!(SlackUser::parse("<@U012AB3CD>").as_ref().map(SlackUser::as_str), Some("U012AB3CD"));
        for bad in ["", "U", "dana", "u012ab3cd", "C012AB3CD", "U012><!channel"] {
            assert_eq!(SlackUser::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_safe_in_a_command(text in r"[a-zü<>@.\r\n \x00\x22,;%\[\]0-9-]{0,60}") {
            if let Some(mailbox) = Mailbox::parse(&text) {
                let address = mailbox.address();
                prop_assert!(!address.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '"')));
                prop_assert!(mailbox.name.is_none_or(|name| !name.contains(|c: char| c.is_control())));
                prop_assert!(mailbox.domain.is_ascii());
            }
        }
    }
}
