//! What the other rooms ask of lanes, until lanes answer it themselves: to be dropped with the merge of the lanes.

use super::Deliver;
use crate::{clock::Timestamp, envelope::Name};

impl Deliver {
    /// Tells lanes that the store may hold due deliveries for them.
    pub fn wake(&self, targets: &[Name]) {
        tracing::debug!(count = targets.len(), "lanes look at the store in their own time");
    }

    /// The lanes that are held, and since when.
    pub fn held(&self) -> Vec<(Name, Timestamp)> {
        Vec::new()
    }
}
