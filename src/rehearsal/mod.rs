//! Rehearsals: `tests:` of `routes.yaml` in, what each of them would have come to out.
//!
//! `section.rs` reads the section: an event, a time, an environment, and what is expected of them. Stays away from sockets.

mod data;
mod section;

pub use section::{Expect, Renders, Start, Test};
