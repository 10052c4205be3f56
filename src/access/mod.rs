//! Who may do what. The token of a request comes in; a [`Caller`] with scopes and namespaces goes out, by which the API decides what to
//! show and what to do. Knows no HTTP.
//!
//! Namespaces are senders' text: they are compared whole, never as globs.

use std::collections::BTreeSet;

mod scope;
mod token;
mod tokens;

pub use scope::{Scope, Scopes};
pub use token::{Standing, Token};
pub use tokens::{Refused, Tokens, Wanted};

/// The id of whoever shows the token the relay was started with (`HOOKYARD_ADMIN_TOKEN`),
pub const BOOTSTRAP: &str = "bootstrap";
/// and what people read in its place.
const BOOTSTRAP_NAME: &str = "admin";

/// Who asks something of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// [`BOOTSTRAP`], or the token's id (`tok_…`), which is no secret.
    pub id: String,
    /// What its maker calls the token.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The namespaces it is bound to: it sees and receives nothing of others, nor what has no namespace. `None`: bound to none.
    pub namespaces: Option<BTreeSet<String>>,
}

impl Caller {
    /// Whoever shows the token the relay was started with: may do everything.
    pub fn bootstrap() -> Self {
        Self { id: BOOTSTRAP.to_owned(), name: BOOTSTRAP_NAME.to_owned(), scopes: Scope::Admin.into(), namespaces: None }
    }

    /// Whether it is bound to namespaces.
    pub fn is_bound(&self) -> bool {
        self.namespaces.is_some()
    }

    /// Whether it may do what needs `scope`.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.grant(scope)
    }

    /// Whether it sees an event of `namespace`.
    pub fn sees(&self, namespace: Option<&str>) -> bool {
        match (&self.namespaces, namespace) {
            (None, _) => true,
            (Some(own), Some(namespace)) => own.contains(namespace),
            (Some(_), None) => false,
        }
    }

    /// Whether it sees a subscription that belongs to `namespaces`: when they are all among its own, and there are some. Without
    /// `namespaces`, a subscription is one that an unbound token made.
    pub fn covers(&self, namespaces: Option<&BTreeSet<String>>) -> bool {
        match (&self.namespaces, namespaces) {
            (None, _) => true,
            (Some(own), Some(namespaces)) => !namespaces.is_empty() && namespaces.is_subset(own),
            (Some(_), None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bound_caller_sees_its_namespaces_only() {
        let all = Caller::bootstrap();
        let bound = Caller { namespaces: Some(set(&["a", "b*"])), ..all.clone() };
        assert!(all.sees(None) && all.sees(Some("c")) && !all.is_bound() && bound.is_bound());
        assert!(bound.sees(Some("a")) && bound.sees(Some("b*")));
        for other in [None, Some(""), Some("c"), Some("bc"), Some("A"), Some("a ")] {
            assert!(!bound.sees(other), "{other:?}");
        }
    }

    #[test]
    fn a_bound_caller_sees_subscriptions_within_its_namespaces_only() {
        let all = Caller::bootstrap();
        let bound = Caller { namespaces: Some(set(&["a", "b"])), ..all.clone() };
        for (namespaces, seen) in [
            (None, false),
            (Some(set(&[])), false),
            (Some(set(&["a"])), true),
            (Some(set(&["a", "b"])), true),
            (Some(set(&["a", "c"])), false),
        ] {
            assert_eq!((all.covers(namespaces.as_ref()), bound.covers(namespaces.as_ref())), (true, seen), "{namespaces:?}");
        }
        // Bound to nothing at all is not unbound.
        let nothing = Caller { namespaces: Some(set(&[])), ..all };
        assert!(!nothing.sees(Some("a")) && !nothing.covers(Some(&set(&[]))));
    }
}
