//! Lines whose indentation is that of nothing above them.

use super::{Line, Spot, Trap};

/// How many lines above are looked at.
const LINES_MAX: usize = 200;

/// A column at which something above begins.
#[derive(Clone, Copy)]
struct Level<'t> {
    column: usize,
    /// Whether it is the dash of a list.
    dash: bool,
    /// What stands there.
    word: &'t str,
}

/// The trap of a line that begins where nothing above it does.
pub(super) fn trap(spot: &Spot<'_>) -> Option<Trap> {
    let line = spot.line;
    let column = line.indent();
    let dash = line.from(column).starts_with('-');
    let levels = levels(line, spot.text);
    if !line.speaks() || !spot.state.open.is_empty() || levels.iter().any(|level| level.column == column) {
        return None;
    }
    let distance = |level: &&Level<'_>| (level.dash != dash, level.column.abs_diff(column), usize::MAX - level.column);
    let near = levels.iter().min_by_key(distance)?;
    let columns: Vec<String> = levels.iter().map(|level| level.column.to_string()).collect();
    let message = format!("this line is indented by {}, and what stands above it by {}", spaces(column), columns.join(" or "));
    let help = match near.column {
        0 => format!("begin it where the line begins, as `{}` does", near.word),
        column => format!("indent it by {}, as `{}` is", spaces(column), near.word),
    };
    let rest = line.from(column);
    let length = if dash { 1 } else { rest.find(':').unwrap_or(rest.len()) };
    Some(Trap { place: line.place(column, column + length), message, help, fix: None })
}

fn spaces(count: usize) -> String {
    format!("{count} space{}", if count == 1 { "" } else { "s" })
}

/// The columns at which what is open above `line` begins, the innermost first.
fn levels<'t>(line: Line<'t>, text: &'t str) -> Vec<Level<'t>> {
    let mut levels: Vec<Level<'t>> = Vec::new();
    let mut line = line;
    for _ in 0..LINES_MAX {
        let Some(above) = line.above(text) else { break };
        let outermost = levels.iter().map(|level| level.column).min().unwrap_or(usize::MAX);
        let mut found = of_line(above);
        found.retain(|level| level.column < outermost);
        levels.extend(found.into_iter().rev());
        line = above;
    }
    levels
}

/// The columns of one line: those of its dashes, and that of its key.
fn of_line(line: Line<'_>) -> Vec<Level<'_>> {
    let mut found = Vec::new();
    let mut column = line.indent();
    while line.from(column).starts_with("- ") {
        found.push(Level { column, dash: true, word: "-" });
        let rest = line.from(column + 1);
        column += 1 + rest.len() - rest.trim_start().len();
    }
    if let Some((word, _)) = line.from(column).split_once(':') {
        found.push(Level { column, dash: false, word });
    }
    found
}
