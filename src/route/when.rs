//! `when`: conditions on what an event says.

use serde_json::Value;

use crate::config::{
    decode::{Context, Decode},
    tree::Node,
};

/// One item of a `when` list. All items of a list must hold.
#[derive(Debug, Clone)]
pub struct Condition(());

impl Condition {
    /// Whether it holds for `root`, which `$` stands for: the body in sources, the envelope in rules.
    pub fn holds(&self, _root: &Value) -> bool {
        true
    }
}

impl Decode for Condition {
    fn decode(_node: &Node, _cx: &mut Context) -> Option<Self> {
        Some(Self(()))
    }
}
