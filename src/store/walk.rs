//! Walking through events with their bodies, bounded in rows looked at, events and bytes: what those read who follow along.

use std::{fmt, sync::Arc};

use super::{EventRow, Filter};
use crate::envelope::EventUid;

/// Tells whether an event of this type is wanted.
pub type FitsType = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Which events to walk through, and how far at most.
#[derive(Clone)]
pub struct Walk {
    /// Which events, where to begin, and how many at most.
    pub filter: Filter,
    /// Beyond [`Filter::r#type`]: which types.
    pub types: Option<FitsType>,
    /// Whether their bodies are read; they stay empty else.
    pub bodies: bool,
    /// Bytes of bodies after which it ends; one event always comes, whatever its size.
    pub bytes: usize,
}

impl fmt::Debug for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, types, bodies, bytes } = self;
        let types = types.is_some();
        f.debug_struct("Walk")
            .field("filter", filter)
            .field("types", &types)
            .field("bodies", bodies)
            .field("bytes", bytes)
            .finish()
    }
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq)]
pub struct Walked {
    /// The events that are wanted, in the order of the page.
    pub events: Vec<EventRow>,
    /// Every event between the beginning and this place, itself included, was looked at; it need not be one that is held. Where
    /// nothing lies behind the beginning this is the beginning itself (the place 0 for the newest page).
    pub upto: EventUid,
    /// Whether it ended at one of its bounds, so that more may lie behind `upto`.
    pub more: bool,
}
