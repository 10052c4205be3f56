//! Which rules match an event, and why. Pure: no async, no clock, no store.

use crate::{
    config::{
        decode::{Context, Located},
        tree::{Node, Place},
    },
    envelope::{Envelope, Name},
    store::NewDelivery,
};

pub mod path;
pub mod when;

/// One entry of `rules`.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name; `rule-<n>` where the file gives none.
    pub name: Name,
    /// Where it stands.
    pub place: Place,
    /// Where it sends what it matches. Empty: matched on purpose, sent nowhere.
    pub to: Vec<To>,
    /// Whether later rules are left out for what it matches.
    pub stop: bool,
}

/// One entry of a rule's `to`.
#[derive(Debug, Clone)]
pub struct To {
    /// The destination's name; whether it exists is checked when the whole file is read.
    pub destination: Located<Name>,
    /// The named template the rule wants for it; whether it exists likewise.
    pub template: Option<Located<String>>,
}

impl Rule {
    /// Reads entry `index` of `rules`.
    pub fn decode(_index: usize, _node: &Node, _cx: &mut Context) -> Option<Self> {
        None
    }
}

/// The rules, made ready to plan with.
#[derive(Debug)]
pub struct Router;

/// What is to be done with an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// One delivery per target, in the order of the rules.
    pub deliveries: Vec<NewDelivery>,
    /// The rules that matched, in order. None: the verdict is `unmatched`.
    pub rules: Vec<Name>,
}

impl Router {
    /// Indexes `rules`; what none of them matches goes to `unmatched`.
    pub fn new(_rules: Vec<Rule>, _unmatched: Vec<Name>) -> Self {
        Self
    }

    /// Plans the deliveries of `event`.
    pub fn plan(&self, _event: &Envelope) -> Plan {
        Plan::default()
    }
}
