//! From a request to an accepted event: limit, verify, normalise, plan, accept. Knows nothing of how things are sent.

use crate::{
    config::{
        decode::Context,
        tree::{Key, Node},
    },
    envelope::Name,
};

/// A named way in, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: Name,
    /// The path of the public listener that it answers on: `/webhooks/interactor`.
    pub path: String,
}

impl Source {
    /// Reads one entry of `sources`.
    pub fn decode(_key: &Key, _node: &Node, _cx: &mut Context) -> Option<Self> {
        None
    }
}
