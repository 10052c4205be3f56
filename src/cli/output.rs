//! What people and machines read: the one place that writes to stdout and stderr. Untrusted text is escaped, so that no event
//! can act upon the terminal of whoever looks at it.

use std::io::{self, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Row, Table, presets};
use serde_json::Value;

use crate::telemetry::logs::{self, plain};

/// Whether what is printed may have colours: to a terminal that has them, unless `NO_COLOR` says no (no-color.org).
pub(super) fn coloured() -> bool {
    logs::coloured(&io::stdout())
}

/// The same for what is said beside the data.
pub(super) fn note_coloured() -> bool {
    logs::coloured(&io::stderr())
}

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

/// Columns that a narrow terminal goes without, the first one first. The last column of a list names the thing, and stays.
const EXPENDABLE: [&str; 13] = [
    "path",
    "accepted_as",
    "remote",
    "kept",
    "namespace",
    "event_id",
    "next_attempt_at",
    "attempts",
    "id",
    "verdict",
    "created_at",
    "status",
    "source",
];
/// What a cell of several words needs at least, in characters: the rest is folded.
const FOLDED: usize = 20;
/// What a cell shows of nothing.
const NONE: &str = "-";
/// What the space around a cell takes, in characters.
const GAP: usize = 2;

/// The columns of `header` that go into `width` characters, by number. What is empty goes first, then what is expendable; what
/// still does not fit is folded.
fn fitting(header: &[&str], rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let needs = |cell: &String| if cell.contains(' ') { cell.chars().count().min(FOLDED) } else { cell.chars().count() };
    let widest = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(needs).max().unwrap_or_default();
    let room = |at: usize| widest(at).max(header.get(at).map_or(0, |name| name.len())) + GAP;
    let empty = |at: usize| !rows.is_empty() && rows.iter().all(|row| row.get(at).is_none_or(|cell| cell == NONE));
    let last = header.len().saturating_sub(1);
    let mut columns: Vec<usize> = (0..header.len()).collect();
    let named = EXPENDABLE.iter().filter_map(|name| header.iter().position(|known| known == name));
    for out in (0..header.len()).filter(|at| empty(*at)).chain(named).filter(|at| *at != last) {
        if columns.iter().map(|at| room(*at)).sum::<usize>() <= width {
            break;
        }
        columns.retain(|at| *at != out);
    }
    columns
}

/// The table of `rows` under `header`, folded to `width` where there is one.
fn drawn(header: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let columns = fitting(header, &rows, width.map_or(usize::MAX, usize::from));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(Row::from(
        columns.iter().filter_map(|at| header.get(*at)).map(|name| name.to_uppercase()).collect::<Vec<_>>(),
    ));
    for row in &rows {
        table.add_row(columns.iter().filter_map(|at| row.get(*at)).collect::<Vec<_>>());
    }
    if let Some(width) = width {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        let id = columns.len().saturating_sub(1);
        if let Some(column) = table.column_mut(id).filter(|_| header.last().is_some_and(|name| name.ends_with("id"))) {
            // It is there to be copied.
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

/// The text of member `name` of `thing`, for a cell: `-` where there is none.
pub(super) fn cell(thing: &Value, name: &str) -> String {
    match thing.get(name) {
        None | Some(Value::Null) => NONE.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Prints what `names` say of each of `things`; on a terminal no wider than it.
pub(super) fn list(things: &[Value], names: &[&str]) {
    let rows: Vec<_> = things.iter().map(|thing| names.iter().map(|name| cell(thing, name)).collect()).collect();
    raw(&drawn(names, &rows, Table::new().width()));
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
        insta::assert_snapshot!(drawn(&["id", "target", "attempts"], &[row], None), @r"
        ID               TARGET  ATTEMPTS
        evt\u{1b}[2J\n1  -       3
        ");
    }

    #[test]
    fn a_narrow_terminal_goes_without_what_matters_least() {
        let row = [
            "2026-01-20T12:00:00.412Z",
            "interactor",
            "credential.expired",
            "evt_003",
            "-",
            "ev_00000000000000ab0000000000000003",
        ];
        let header = ["received_at", "source", "type", "id", "namespace", "uid"];
        let rows = [row.map(str::to_owned).to_vec()];
        insta::assert_snapshot!(drawn(&header, &rows, Some(100)), @"
        RECEIVED_AT               SOURCE      TYPE                UID
        2026-01-20T12:00:00.412Z  interactor  credential.expired  ev_00000000000000ab0000000000000003
        ");
        insta::assert_snapshot!(drawn(&header, &rows, Some(72)), @"
        RECEIVED_AT       TYPE             UID
        2026-01-20T12:00  credential.expi  ev_00000000000000ab0000000000000003
        :00.412Z          red
        ");
        assert_eq!(drawn(&header, &rows, Some(200)), drawn(&header, &rows, None), "there is room for all");
        assert!(drawn(&header, &[], Some(10)).contains("UID"), "too narrow for anything");
    }
}
