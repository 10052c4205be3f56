//! What SQLite is asked that it does not know by itself.

use rusqlite::{Connection, functions::FunctionFlags};

use crate::route::glob::Glob;

/// `fits_type(type, globs)`: whether one of a JSON list of globs fits an event's type, as in rules.
pub(super) const FITS_TYPE: &str = "fits_type";

/// Makes it known to `conn`.
pub(super) fn define(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function(FITS_TYPE, 2, flags, |context| {
        // Read once for all rows: the globs are a value bound to the statement.
        let globs = context.get_or_create_aux(1, |value| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            Ok(globs(value.as_str()?))
        })?;
        let text = context.get_raw(0).as_str()?;
        Ok(globs.iter().any(|glob| glob.matches(text)))
    })
}

/// What is no list of globs fits nothing.
fn globs(text: &str) -> Vec<Glob> {
    let texts: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    texts.iter().filter_map(|text| Glob::parse(text).ok()).collect()
}
