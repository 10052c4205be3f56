//! A token as it is kept: what it may do and until when, and the hash it is known by. The token itself is nowhere.

use std::collections::BTreeSet;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{Caller, Scopes};
use crate::{
    clock::{Timestamp, rfc3339_ms},
    secret::Secret,
    sign,
};

/// What every created token begins with.
pub(super) const PREFIX: &str = "hy_";
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Random bytes of a token's id.
const ID_BYTES: usize = 16;

/// SHA-256 of a token.
pub(super) type Hash = [u8; 32];

/// A token that somebody has created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// `tok_` and 26 letters and digits: no secret, and never used again.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The namespaces it is bound to, where it is.
    pub namespaces: Option<BTreeSet<String>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whose token made it.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When somebody ended it.
    pub revoked_at: Option<Timestamp>,
    /// Whose token did.
    pub revoked_by: Option<String>,
    pub(super) hash: Hash,
    /// What a later version keeps of it: it stays.
    pub(super) more: Map<String, Value>,
}

/// How a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is taken.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody has ended it.
    Revoked,
}

impl Standing {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    /// How it stands at `now`.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => Standing::Revoked,
            (None, Some(end)) if end <= now => Standing::Expired,
            (None, _) => Standing::Active,
        }
    }

    /// Since when it is taken no more, at `now`.
    pub(super) fn over_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.revoked_at.or(self.expires_at.filter(|end| *end <= now))
    }

    /// Whoever shows it.
    pub(super) fn caller(&self) -> Caller {
        let Self { id, name, scopes, namespaces, .. } = self.clone();
        Caller { id, name, scopes, namespaces }
    }

    /// The document that is kept of it.
    pub(super) fn doc(&self) -> String {
        let time = |at: Option<Timestamp>| at.map(rfc3339_ms);
        let doc = Doc {
            name: self.name.clone(),
            scopes: self.scopes,
            namespaces: self.namespaces.clone(),
            hash: HEXLOWER.encode(&self.hash),
            created_at: rfc3339_ms(self.created_at),
            created_by: self.created_by.clone(),
            expires_at: time(self.expires_at),
            revoked_at: time(self.revoked_at),
            revoked_by: self.revoked_by.clone(),
            more: self.more.clone(),
        };
        // Texts can always be written.
        serde_json::to_string(&doc).unwrap_or_default()
    }

    /// The token `id` of which `doc` is kept.
    pub(super) fn read(id: &str, doc: &str) -> Option<Self> {
        let doc: Doc = serde_json::from_str(doc).ok()?;
        let time = |text: Option<String>| text.map(|text| text.parse()).transpose().ok();
        Some(Self {
            id: id.to_owned(),
            name: doc.name,
            scopes: doc.scopes,
            namespaces: doc.namespaces,
            created_at: doc.created_at.parse().ok()?,
            created_by: doc.created_by,
            expires_at: time(doc.expires_at)?,
            revoked_at: time(doc.revoked_at)?,
            revoked_by: doc.revoked_by,
            hash: HEXLOWER.decode(doc.hash.as_bytes()).ok()?.try_into().ok()?,
            more: doc.more,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Doc {
    name: String,
    scopes: Scopes,
    namespaces: Option<BTreeSet<String>>,
    hash: String,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    revoked_by: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// A token nobody has seen yet. `None`: the system gives no random bytes.
pub(super) fn draw() -> Option<Secret> {
    let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
    SystemRandom::new().fill(&mut *bytes).ok()?;
    let text = Zeroizing::new(HEXLOWER.encode(&*bytes));
    Some(Secret::new(format!("{PREFIX}{}", text.as_str())))
}

/// An id nobody has. `None`: the system gives no random bytes.
pub(super) fn draw_id() -> Option<String> {
    let mut bytes = [0; ID_BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("tok_{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
}

/// What a token is known by.
pub(super) fn hash(token: &[u8]) -> Hash {
    sign::sha256(&[token])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Scope;

    fn token() -> Token {
        Token {
            id: draw_id().unwrap(),
            name: "CI".into(),
            scopes: Scope::Webhooks.into(),
            namespaces: Some(["user_123".to_owned()].into()),
            created_at: "2026-01-20T12:00:00Z".parse().unwrap(),
            created_by: "bootstrap".into(),
            expires_at: Some("2026-01-21T12:00:00Z".parse().unwrap()),
            revoked_at: None,
            revoked_by: None,
            hash: hash(b"hy_1"),
            more: Map::new(),
        }
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let token = token();
        assert_eq!(Token::read(&token.id, &token.doc()), Some(token.clone()));
        assert!(!token.doc().contains("hy_1"));
        // What a later version has added is not lost when this one writes it again.
        let later = token.doc().replacen('{', r#"{"color":{"is":["green"]},"#, 1);
        let kept = Token::read(&token.id, &later).unwrap().doc();
        assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), serde_json::from_str::<Value>(&later).unwrap());
        for bad in ["", "{}", "null", &token.doc().replace("webhooks", "sorcery")] {
            assert_eq!(Token::read("tok_1", bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_are_long_and_never_alike() {
        let (one, other) = (draw().unwrap(), draw().unwrap());
        assert_eq!((one.reveal().len(), one.reveal().get(..3)), (3 + 64, Some(PREFIX)));
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(draw_id().unwrap().len(), 4 + 26);
    }

    #[test]
    fn a_token_ends_at_its_time_or_when_somebody_says_so() {
        let token = token();
        let end = token.expires_at.unwrap();
        let before = end.checked_sub(jiff::SignedDuration::from_millis(1)).unwrap();
        assert_eq!((token.standing(before), token.standing(end)), (Standing::Active, Standing::Expired));
        assert_eq!((token.over_since(before), token.over_since(end)), (None, Some(end)));
        let revoked = Token { revoked_at: Some(before), ..token };
        assert_eq!((revoked.standing(before), revoked.over_since(end)), (Standing::Revoked, Some(before)));
    }
}
