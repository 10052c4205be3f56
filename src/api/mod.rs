//! The HTTP API: one file per resource, over the same queries.
