//! The accept loop both listeners run on.
