//! Traps of YAML, answered by name: what a person meant where the parser only sees nonsense.

use super::{mask, tree::Place};

/// What a person ran into, and the way out.
#[derive(Debug)]
pub(super) struct Trap {
    /// Where it begins and ends.
    pub(super) place: Place,
    /// What is wrong, where that says more than the parser does.
    pub(super) message: Option<String>,
    /// What to do.
    pub(super) help: String,
}

/// Longest text repeated in a message, in bytes; longer is left to the source line.
const SHOWN_MAX: usize = 80;

/// The trap that made the parser stop at byte `at` of `text`.
pub(super) fn syntax(text: &str, at: usize) -> Option<Trap> {
    let line = Line::around(text, at)?;
    line.tab().or_else(|| line.reserved()).or_else(|| line.reference_in_brackets()).or_else(|| line.colon())
}

/// The line in which the parser stopped.
struct Line<'t> {
    text: &'t str,
    /// Where the line begins in the file.
    start: usize,
    /// Where in the line the parser stopped.
    at: usize,
    /// Whether a key of the line holds secrets, so that nothing of it is repeated.
    secret: bool,
}

impl<'t> Line<'t> {
    fn around(text: &'t str, at: usize) -> Option<Self> {
        let (before, after) = text.split_at_checked(at)?;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = after.find('\n').map_or(text.len(), |newline| at + newline);
        let secret = mask::lexical_line(text, start);
        Some(Self { text: text.get(start..end)?.trim_end(), start, at: at - start, secret })
    }

    fn tab(&self) -> Option<Trap> {
        let indent = self.text.len() - self.text.trim_start().len();
        let tab = self.text.get(..indent)?.find('\t')?;
        let message = Some("a tab indents this line, and YAML allows spaces only".to_owned());
        Some(Trap { place: self.place(tab, indent), message, help: "indent with spaces".to_owned() })
    }

    /// A value that begins with a character which YAML keeps for itself.
    fn reserved(&self) -> Option<Trap> {
        let first = self.text.get(self.at..)?.chars().next()?;
        let message = match first {
            '@' | '`' | '%' => format!("a value cannot begin with `{first}`"),
            '*' => "`*` at the beginning of a value means a YAML alias, and there is none of this name".to_owned(),
            '&' => "`&` at the beginning of a value means a YAML anchor".to_owned(),
            _ => return None,
        };
        Some(self.quote(self.at, Some(message)))
    }

    /// `[${A}]`, `{path: $.a[0]}`: braces and brackets end a value inside flow brackets.
    fn reference_in_brackets(&self) -> Option<Trap> {
        let before = self.text.get(..self.at)?;
        let start = before.rfind([',', '[', '{', ' ']).map_or(0, |separator| separator + 1);
        // The path of a filter holds spaces: `$.x[?@.y > 1]`.
        let start = if before.get(start..)?.starts_with('$') { start } else { before.rfind(" $")? + 1 };
        let opens = self.text.get(self.at..)?.starts_with(['{', '[', '}', ']', ',']) || before.ends_with(['{', '[']);
        let message = "inside brackets, a value with `{`, `[`, `}`, `]` or `,` must stand in quotes".to_owned();
        opens.then(|| self.quote(start, Some(message)))
    }

    /// `a: b: c`, or a line that is indented as if it went on with the value above.
    fn colon(&self) -> Option<Trap> {
        if !self.text.get(self.at..)?.starts_with(':') {
            return None;
        }
        let help = match self.text.get(..self.at)?.find(": ") {
            Some(_) => "put a value that holds `: ` in quotes",
            None => "check the indentation of this line, and that the key above it ends with `:`",
        };
        Some(Trap { place: self.place(self.at, self.at + 1), message: None, help: help.to_owned() })
    }

    /// The advice to quote the value that begins at `start`.
    fn quote(&self, start: usize, message: Option<String>) -> Trap {
        let value = value_at(self.text.get(start..).unwrap_or_default());
        let place = self.place(start, start + value.len().max(1));
        let reference = value.starts_with("${") && value.ends_with('}') && !value.contains(":-");
        let showable =
            (reference || !self.secret) && !value.contains(['"', '\\']) && value.len() <= SHOWN_MAX && !value.is_empty();
        let help = if showable { format!("put it in quotes: \"{value}\"") } else { "put it in quotes".to_owned() };
        Trap { place, message, help }
    }

    fn place(&self, start: usize, end: usize) -> Place {
        Place { start: self.start + start, end: self.start + end }
    }
}

/// The value that `rest` begins with: up to a separator outside its own brackets, a comment, or the end of the line.
fn value_at(rest: &str) -> &str {
    let mut depth = 0_usize;
    let mut before = ' ';
    for (at, c) in rest.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' if depth == 0 => return rest.get(..at).unwrap_or_default().trim_end(),
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => return rest.get(..at).unwrap_or_default().trim_end(),
            '#' if before == ' ' && 0 < at => return rest.get(..at).unwrap_or_default().trim_end(),
            _ => {}
        }
        before = c;
    }
    rest
}
