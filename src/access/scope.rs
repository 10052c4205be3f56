//! What a token may do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// One thing a token may do. Words: product.md, "Subscriptions and the admin listener"; those of webhooks are Interactor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Reads, writes and deletes subscriptions.
    Webhooks,
    /// Reads subscriptions and what was delivered to them.
    WebhooksRead,
    /// Makes and changes subscriptions; does not delete them.
    WebhooksWrite,
    /// Deletes subscriptions.
    WebhooksDelete,
    /// Reads events.
    EventsRead,
    /// Reads deliveries, dead letters, targets and jobs.
    DeliveriesRead,
    /// Retries, cancels, resolves, replays, mutes; steers targets.
    DeliveriesWrite,
    /// Reads what the relay goes by.
    ConfigRead,
    /// Makes it go by another file.
    ConfigWrite,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope and its word, in the order in which lists show them.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Webhooks, "webhooks"),
        (Self::WebhooksRead, "webhooks:read"),
        (Self::WebhooksWrite, "webhooks:write"),
        (Self::WebhooksDelete, "webhooks:delete"),
        (Self::EventsRead, "events:read"),
        (Self::DeliveriesRead, "deliveries:read"),
        (Self::DeliveriesWrite, "deliveries:write"),
        (Self::ConfigRead, "config:read"),
        (Self::ConfigWrite, "config:write"),
        (Self::Admin, "admin"),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(scope, _)| *scope == self).map_or("", |(_, word)| word)
    }

    /// The scope of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(scope, _)| *scope)
    }

    /// Itself and all it implies.
    fn implied(self) -> u16 {
        match self {
            Self::Admin => u16::MAX,
            Self::Webhooks => bits(&[self, Self::WebhooksRead, Self::WebhooksWrite, Self::WebhooksDelete]),
            _ => bits(&[self]),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

fn bits(scopes: &[Scope]) -> u16 {
    scopes.iter().fold(0, |bits, scope| bits | 1 << *scope as u16)
}

/// The scopes of one token, as given; in JSON a list of words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    /// Whether they allow what needs `scope`.
    pub fn grant(self, scope: Scope) -> bool {
        self.implied() & bits(&[scope]) != 0
    }

    /// Whether they allow all that `others` allow.
    pub fn cover(self, others: Self) -> bool {
        others.implied() & !self.implied() == 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that were given, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().map(|(scope, _)| scope).filter(move |scope| self.0 & bits(&[*scope]) != 0)
    }

    fn implied(self) -> u16 {
        self.iter().fold(0, |bits, scope| bits | scope.implied())
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self(bits(&[scope]))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |all, scope| all | bits(&[scope])))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::word))
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        words.iter().map(|word| Scope::parse(word).ok_or_else(|| D::Error::custom("no such scope"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(words: &[&str]) -> Scopes {
        words.iter().map(|word| Scope::parse(word).unwrap()).collect()
    }

    #[test]
    fn webhooks_is_all_of_them_and_admin_is_everything() {
        let webhooks = scopes(&["webhooks"]);
        for (scope, word) in Scope::ALL {
            assert_eq!(webhooks.grant(scope), word.starts_with("webhooks"), "{word}");
            assert!(scopes(&["admin"]).grant(scope), "{word}");
            assert_eq!(Scope::parse(word), Some(scope));
            assert_eq!(scopes(&[word]).grant(Scope::Admin), word == "admin");
        }
        assert!(
            !scopes(&["webhooks:read"]).grant(Scope::WebhooksWrite) && !scopes(&["webhooks:write"]).grant(Scope::WebhooksDelete)
        );
        assert!(!scopes(&["deliveries:write"]).grant(Scope::DeliveriesRead) && !Scopes::default().grant(Scope::EventsRead));
        assert_eq!(Scope::parse("Admin"), None);
    }

    #[test]
    fn scopes_cover_no_more_than_they_allow() {
        assert!(
            scopes(&["admin"]).cover(scopes(&["webhooks", "config:write"]))
                && scopes(&["webhooks"]).cover(scopes(&["webhooks:read"]))
        );
        assert!(
            !scopes(&["webhooks"]).cover(scopes(&["events:read"])) && !scopes(&["webhooks:read"]).cover(scopes(&["webhooks"]))
        );
        let all_but_admin: Scopes =
            Scope::ALL.into_iter().map(|(scope, _)| scope).filter(|scope| *scope != Scope::Admin).collect();
        assert!(!all_but_admin.cover(scopes(&["admin"])));
    }

    #[test]
    fn in_json_they_are_words() {
        let json = serde_json::to_string(&scopes(&["admin", "events:read"])).unwrap();
        assert_eq!(json, r#"["events:read","admin"]"#);
        assert_eq!(serde_json::from_str::<Scopes>(&json).unwrap(), scopes(&["events:read", "admin"]));
        assert!(serde_json::from_str::<Scopes>(r#"["everything"]"#).is_err());
    }
}
