//! Talks out, never answers requests: lanes, attempts, retries, dead letters.

use std::time::Duration;

use crate::{
    config::{
        decode::Context,
        tree::{Key, Node},
    },
    envelope::Name,
};

/// A named way out, as `routes.yaml` declares it.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name.
    pub name: Name,
}

/// `defaults.destination`: what a destination that does not say otherwise gets.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Longest time for one attempt. Default 30 s, at most 300 s.
    pub timeout: Duration,
    /// Attempts under way at once. Default 8.
    pub concurrency: u32,
}

impl Destination {
    /// Reads one entry of `destinations`.
    pub fn decode(_key: &Key, _node: &Node, _defaults: &Defaults, _cx: &mut Context) -> Option<Self> {
        None
    }
}
