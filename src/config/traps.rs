//! Traps of YAML, answered by name: what a person meant where the parser only sees nonsense.

use self::lexer::{Lexer, State};
use super::{mask, tree::Place};

mod indent;
mod lexer;

/// What a person ran into, and the way out.
#[derive(Debug)]
pub(super) struct Trap {
    /// Where it begins and ends.
    pub(super) place: Place,
    /// What is wrong, where that says more than the parser does.
    pub(super) message: String,
    /// What to do.
    pub(super) help: String,
    /// What would put it right in place of what stands at `place`.
    pub(super) fix: Option<String>,
}

/// Longest text repeated in a message, in bytes; longer is left to the source line.
const SHOWN_MAX: usize = 80;

/// The trap that made the parser stop at byte `at` of `text`, where it `said` why.
pub(super) fn syntax(text: &str, at: usize, said: &str) -> Option<Trap> {
    let line = Line::around(text, at)?;
    // What is never closed is told at its opening.
    let until = if said.contains("unclosed") { text.len() } else { at };
    let spot = Spot { text, at, said, line, state: Lexer::new(text).until(until) };
    spot.tab()
        .or_else(|| spot.tag())
        .or_else(|| spot.open_quote())
        .or_else(|| spot.after_quote())
        .or_else(|| spot.escape())
        .or_else(|| spot.template())
        .or_else(|| spot.reserved())
        .or_else(|| spot.mismatch())
        .or_else(|| spot.value_in_brackets())
        .or_else(|| spot.open_bracket())
        .or_else(|| spot.no_space())
        .or_else(|| spot.comma())
        .or_else(|| spot.colon_in_value())
        .or_else(|| spot.no_colon())
        .or_else(|| indent::trap(&spot))
}

/// `value` in quotes that keep it as it is.
pub(super) fn quoted(value: &str) -> String {
    if value.contains(['"', '\\']) { format!("'{}'", value.replace('\'', "''")) } else { format!("\"{value}\"") }
}

/// Where the parser stopped.
struct Spot<'t> {
    text: &'t str,
    at: usize,
    said: &'t str,
    line: Line<'t>,
    /// What is open there.
    state: State,
}

/// One line of the file.
#[derive(Clone, Copy)]
struct Line<'t> {
    /// Without white space at its end.
    text: &'t str,
    /// Where it begins in the file.
    start: usize,
    /// Whether a key of the line holds secrets, so that nothing of it is repeated.
    secret: bool,
}

impl<'t> Line<'t> {
    fn around(text: &'t str, at: usize) -> Option<Self> {
        let (before, after) = text.split_at_checked(at)?;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = after.find('\n').map_or(text.len(), |newline| at + newline);
        Some(Self { text: text.get(start..end)?.trim_end(), start, secret: mask::lexical_line(text, start) })
    }

    /// The nearest line above that says something.
    fn above(&self, text: &'t str) -> Option<Self> {
        let mut line = Self::around(text, self.start.checked_sub(1)?)?;
        while !line.speaks() {
            line = Self::around(text, line.start.checked_sub(1)?)?;
        }
        Some(line)
    }

    fn speaks(&self) -> bool {
        !self.text.is_empty() && !self.text.trim_start().starts_with('#')
    }

    fn indent(&self) -> usize {
        self.text.len() - self.text.trim_start_matches(' ').len()
    }

    /// Where its first key or value begins, behind indentation and dashes.
    fn content(&self) -> usize {
        let mut rest = self.text.trim_start();
        while let Some(item) = rest.strip_prefix("- ") {
            rest = item.trim_start();
        }
        self.text.len() - rest.len()
    }

    /// Where the value behind its first key begins, or its content where it has no key.
    fn value(&self) -> usize {
        let content = self.content();
        let rest = self.text.get(content..).unwrap_or_default();
        let key = rest.find(": ").filter(|at| rest.get(..*at).is_some_and(|key| !key.contains(['{', '[', '"', '\''])));
        key.map_or(content, |at| {
            let value = content + at + 1;
            self.text.get(value..).map_or(value, |rest| value + rest.len() - rest.trim_start().len())
        })
    }

    fn from(&self, start: usize) -> &'t str {
        self.text.get(start..).unwrap_or_default()
    }

    fn place(&self, start: usize, end: usize) -> Place {
        Place { start: self.start + start, end: self.start + end }
    }

    /// The trap of the value from `start` to `end` that must stand in quotes.
    fn quote(&self, start: usize, end: usize, message: impl Into<String>) -> Trap {
        let value = self.text.get(start..end).unwrap_or_default();
        self.replace(start, end, message, "put it in quotes", &quoted(value))
    }

    /// The trap of what stands from `start` to `end` and should be `fix`, which is shown unless it may be a secret.
    fn replace(&self, start: usize, end: usize, message: impl Into<String>, help: &str, fix: &str) -> Trap {
        let value = self.text.get(start..end).unwrap_or_default();
        let reference = value.starts_with("${") && value.ends_with('}') && !value.contains(":-");
        let showable = (reference || !self.secret) && value.len() <= SHOWN_MAX && !value.is_empty();
        let fix = showable.then(|| fix.to_owned());
        let help = fix.as_ref().map_or_else(|| help.to_owned(), |fix| format!("{help}: {fix}"));
        Trap { place: self.place(start, end.max(start + 1)), message: message.into(), help, fix }
    }
}

impl<'t> Spot<'t> {
    /// Where the parser stopped, in the line.
    fn column(&self) -> usize {
        self.at - self.line.start
    }

    fn next(&self) -> Option<char> {
        self.line.from(self.column()).chars().next()
    }

    /// A tab indents this line, or the next one, which a plain text would go on with.
    fn tab(&self) -> Option<Trap> {
        let next = self.line.start + self.line.text.len() + 1;
        let below = Line::around(self.text, next).filter(|_| self.said.contains("tab"));
        [Some(self.line), below].into_iter().flatten().find_map(|line| {
            let indent = line.text.len() - line.text.trim_start().len();
            let tab = line.text.get(..indent)?.find('\t')?;
            let message = "a tab indents this line, and YAML allows spaces only".to_owned();
            Some(Trap { place: line.place(tab, indent), message, help: "indent with spaces".to_owned(), fix: None })
        })
    }

    /// `name: !important`.
    fn tag(&self) -> Option<Trap> {
        if !self.said.contains("tag") {
            return None;
        }
        let before = self.line.text.get(..self.column().min(self.line.text.len()))?;
        let start = before.rfind([' ', '[', '{', ',']).map_or(0, |at| at + 1);
        let start = if before.get(start..)?.starts_with('!') { start } else { before.rfind('!')? };
        Some(self.value_from(start, "`!` at the beginning of a value means a YAML tag"))
    }

    /// A quotation mark that nothing closes on its line.
    fn open_quote(&self) -> Option<Trap> {
        let start = self.state.quote.filter(|_| !self.said.contains("unexpected character"))?;
        let line = Line::around(self.text, start)?;
        let (from, end) = (start - line.start, line.text.len());
        let mark = line.from(from).chars().next()?;
        let message = "this quotation mark is never closed";
        Some(line.replace(from, end, message, "close it", &format!("{}{mark}", line.from(from))))
    }

    /// `"{{ event.type }}" failed`, `'it's late'`.
    fn after_quote(&self) -> Option<Trap> {
        if !self.said.contains("trailing content after") {
            return None;
        }
        let start = self.state.quoted?.checked_sub(self.line.start)?;
        let end = self.end_of_value(start);
        let value = self.line.text.get(start..end)?;
        let mark = value.chars().next()?;
        let inner = value.strip_prefix(mark)?.strip_suffix(mark);
        let message = "a value that begins with a quotation mark ends with the next one";
        let fix = if mark == '\'' { quoted(inner.unwrap_or(value)) } else { format!("'{}'", value.replace('\'', "''")) };
        Some(self.line.replace(start, end, message, "quote all of it", &fix))
    }

    /// `"\.example$"`.
    fn escape(&self) -> Option<Trap> {
        if !self.said.contains("escape") {
            return None;
        }
        let opens = |at: &usize| self.text.get(*at..).is_some_and(|rest| rest.starts_with('"'));
        let start = Some(self.at).filter(opens).or(self.state.quoted)?.checked_sub(self.line.start)?;
        let rest = self.line.from(start);
        let end = rest.get(1..)?.find('"').map_or(rest.len(), |at| at + 2);
        let inner = rest.get(1..end.checked_sub(1)?)?;
        let message = "in double quotes `\\` begins an escape such as \\n, and this is none";
        let fix = format!("'{}'", inner.replace('\'', "''"));
        Some(self.line.replace(start, start + end, message, "in single quotes it is a plain character", &fix))
    }

    /// `line: {{ event.type }} failed`.
    fn template(&self) -> Option<Trap> {
        let before = self.line.text.get(..self.column().min(self.line.text.len()))?;
        let opens = |at: &usize| before.get(..*at).is_some_and(|before| before.trim_end().ends_with([':', '-', '[', ',']));
        let starts = ["{{", "{%"].into_iter().filter_map(|mark| self.line.text.match_indices(mark).map(|(at, _)| at).find(opens));
        let start = starts.min()?;
        Some(self.value_from(start, "a value that begins with `{` is a map: a template stands in quotes"))
    }

    /// A value that begins with a character which YAML keeps for itself.
    fn reserved(&self) -> Option<Trap> {
        let first = self.next()?;
        let message = match first {
            '@' | '`' | '%' => format!("a value cannot begin with `{first}`"),
            '*' => "`*` at the beginning of a value means a YAML alias, and there is none of this name".to_owned(),
            '&' => "`&` at the beginning of a value means a YAML anchor".to_owned(),
            _ => return None,
        };
        Some(self.value_from(self.column(), message))
    }

    /// A bracket that closes nothing, or another than the one it stands for.
    fn mismatch(&self) -> Option<Trap> {
        let (at, open) = Lexer::new(self.text).until(self.text.len()).mismatch.filter(|_| self.said.contains("bracket"))?;
        let line = Line::around(self.text, at)?;
        let closing = self.text.get(at..)?.chars().next()?;
        let message = match open.and_then(|open| self.text.get(open..)?.chars().next()) {
            Some(open) => format!("`{open}` is closed by `{closing}`"),
            None => format!("`{closing}` closes nothing"),
        };
        let column = at - line.start;
        let help = "each `[` needs its `]`, and each `{` its `}`".to_owned();
        Some(Trap { place: line.place(column, column + 1), message, help, fix: None })
    }

    /// `[${A}]`, `{path: $.a[0]}`: braces and brackets end a value inside flow brackets.
    fn value_in_brackets(&self) -> Option<Trap> {
        let before = self.line.text.get(..self.column())?;
        let start = before.rfind([',', '[', '{', ' ']).map_or(0, |separator| separator + 1);
        // The path of a filter holds spaces: `$.x[?@.y > 1]`.
        let start = if before.get(start..)?.starts_with('$') { start } else { before.rfind(" $")? + 1 };
        let opens = self.next().is_some_and(|c| "{[}],".contains(c)) || before.ends_with(['{', '[']);
        let end = start + value_in_flow(self.line.from(start)).len();
        let message = "inside brackets, a value with `{`, `[`, `}`, `]` or `,` must stand in quotes";
        opens.then(|| self.line.quote(start, end, message))
    }

    /// A bracket on a line above that is still open where a new entry begins, or the file ends.
    fn open_bracket(&self) -> Option<Trap> {
        let open = *self.state.open.last()?;
        let line = Line::around(self.text, open)?;
        let here = self.line.from(self.line.indent());
        let entry = line.start < self.line.start && (here.starts_with("- ") || here.contains(": ") || here.ends_with(':'));
        if !entry && !self.said.contains("unclosed") {
            return None;
        }
        let start = open - line.start;
        let bracket = line.from(start).chars().next()?;
        let closing = if bracket == '[' { ']' } else { '}' };
        let end = start + before_comment(line.from(start)).len();
        let fix = format!("{}{closing}", line.text.get(start..end)?);
        Some(line.replace(start, end, format!("this `{bracket}` is never closed"), "close it", &fix))
    }

    /// `listen:8080`, on this line or the one above, which this one then seems to go on with.
    fn no_space(&self) -> Option<Trap> {
        if !["mapping values", "simple key"].iter().any(|said| self.said.contains(said)) {
            return None;
        }
        let above = self.line.above(self.text).filter(|above| above.indent() == self.line.indent());
        [Some(self.line), above].into_iter().flatten().find_map(|line| {
            let start = line.content();
            let (fixed, length) = spaced(before_comment(line.from(start)))?;
            let message = "a key ends with `:` and a space";
            Some(line.replace(start, start + length, message, "put a space after the colon", &fixed))
        })
    }

    /// `{listen: 0.0.0.0:8080 admin_listen: 127.0.0.1:9080}`.
    fn comma(&self) -> Option<Trap> {
        let open = *self.state.open.last()?;
        if self.next() != Some(':') || open < self.line.start {
            return None;
        }
        let before = self.line.text.get(..self.column())?;
        let start = before.rfind([' ', ',', '{', '[']).map_or(0, |at| at + 1);
        // `{name: mail: dana}`: one word between two colons is a value.
        let is_key = !before.get(..start)?.trim_end().ends_with([':', ',', '{', '[']);
        let word = before.get(start..)?;
        is_key.then(|| {
            let message = format!("a `,` is missing before `{word}`");
            Trap {
                place: self.line.place(start, self.column()),
                message,
                help: "separate the entries of a map with commas; a value that holds `: ` stands in quotes".to_owned(),
                fix: Some(format!(", {word}")),
            }
        })
    }

    /// `name: mail: dana`.
    fn colon_in_value(&self) -> Option<Trap> {
        if self.next() != Some(':') {
            return None;
        }
        let flow = !self.state.open.is_empty();
        let before = self.line.text.get(..self.column())?;
        let start = if flow { before.rfind(": ")? + 2 } else { self.line.value() };
        if self.column() <= start || start == self.line.content() {
            return None;
        }
        Some(self.value_from(start, "a value that holds `: ` must stand in quotes"))
    }

    /// A key without its colon.
    fn no_colon(&self) -> Option<Trap> {
        let above = || {
            self.line
                .above(self.text)
                .filter(|above| above.indent() == self.line.indent() && is_word(above.from(above.content())))
        };
        let line = match self.said {
            said if said.contains("simple key expected") => self.line,
            said if said.contains("mapping values") => above()?,
            _ => return None,
        };
        let start = line.content();
        let word: String = line.from(start).chars().take_while(|c| is_word_char(*c)).collect();
        let message = format!("`{word}` needs a `:` behind it");
        (!word.is_empty()).then(|| line.replace(start, start + word.len(), message, "write", &format!("{word}:")))
    }

    /// The advice to quote the value that begins at `start` of the line.
    fn value_from(&self, start: usize, message: impl Into<String>) -> Trap {
        self.line.quote(start, self.end_of_value(start), message)
    }

    /// Where the value that begins at `start` of the line ends: in brackets at a separator, else with the line.
    fn end_of_value(&self, start: usize) -> usize {
        let rest = self.line.from(start);
        let in_flow = !Lexer::new(self.text).until(self.line.start + start).open.is_empty();
        start + if in_flow { value_in_flow(rest).len() } else { before_comment(rest).len() }
    }
}

/// `listen:8080` as it was meant, and how long it is; `None` for what is no key without a space, such as a URL.
pub(super) fn spaced(text: &str) -> Option<(String, usize)> {
    let (key, value) = text.split_once(':')?;
    let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let tight = !value.is_empty() && !value.starts_with([' ', '/', '\t']);
    (word && tight).then(|| (format!("{key}: {value}"), text.len()))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || "_-.".contains(c)
}

/// The value that `rest` begins with: up to a separator outside its own brackets, a comment, or the end of the line.
fn value_in_flow(rest: &str) -> &str {
    let mut depth = 0_usize;
    for (at, c) in before_comment(rest).char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' | ',' if depth == 0 => return rest.get(..at).unwrap_or_default().trim_end(),
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
    }
    before_comment(rest)
}

/// `rest` of a line without a comment at its end.
fn before_comment(rest: &str) -> &str {
    rest.find(" #").and_then(|at| rest.get(..at)).unwrap_or(rest).trim_end()
}
