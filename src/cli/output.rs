//! What people and machines read: the one place that writes to stdout and stderr. Untrusted text is escaped, so that no event
//! can act upon the terminal of whoever looks at it.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Row, Table, presets};
use serde_json::Value;

use crate::telemetry::logs::plain;

/// Prints one line of data. A reader that has gone away needs none.
pub(super) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{}", plain(text));
}

/// Prints text as it is, with its newline: for JSON, which escapes by itself.
pub(super) fn raw(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Says something on stderr that is not data.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", plain(text));
}

/// Prints several lines of our own making on stderr, as they are.
pub(super) fn block(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints `rows` under `header`; on a terminal no wider than it.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) {
    raw(&drawn(header, rows, io::stdout().is_terminal()));
}

fn drawn(header: &[&str], rows: &[Vec<String>], fit: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(Row::from(header.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()));
    table.set_content_arrangement(if fit { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)).collect::<Vec<_>>());
    }
    table.trim_fmt()
}

/// The text of member `name` of `thing`, for a cell: `-` where there is none.
pub(super) fn cell(thing: &Value, name: &str) -> String {
    match thing.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Prints what `names` say of each of `things`.
pub(super) fn list(things: &[Value], names: &[&str]) {
    let rows: Vec<_> = things.iter().map(|thing| names.iter().map(|name| cell(thing, name)).collect()).collect();
    table(names, &rows);
}

/// Prints one line per member of `names` that `thing` has.
pub(super) fn facts(thing: &Value, names: &[&str]) {
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    for name in names.iter().filter(|name| thing.get(**name).is_some_and(|value| !value.is_null())) {
        line(&format!("{name:width$}  {}", cell(thing, name)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_plain_and_nothing_in_it_acts_upon_the_terminal() {
        let thing = json!({"id": "evt\u{1b}[2J\n1", "target": null, "attempts": 3});
        let row: Vec<_> = ["id", "target", "attempts"].map(|name| cell(&thing, name)).into();
        insta::assert_snapshot!(drawn(&["id", "target", "attempts"], &[row], false), @r"
        ID               TARGET  ATTEMPTS
        evt\u{1b}[2J\n1  -       3
        ");
    }
}
