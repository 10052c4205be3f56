//! Which rules match an event, and why. Pure: no async, no clock, no store.

pub mod path;
pub mod when;

use crate::{
    config::{decode::Context, tree::Node},
    envelope::Name,
};

/// One entry of `rules`.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: Name,
}

impl Rule {
    /// Reads entry `index` of `rules`.
    pub fn decode(_index: usize, _node: &Node, _cx: &mut Context) -> Option<Self> {
        None
    }
}
