//! Templates and their escapes: envelope in, text out.
