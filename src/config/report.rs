//! Problems as people read them, with the line of the file and a caret, and as machines do. Quotes only the starred-out copy of the
//! file, so no literal secret leaves it.

use std::{fmt::Write, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Files, Loaded, Problem, Severity, tree::Place};

/// One problem as JSON: what `hookyard check --json` prints and what the API answers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Diagnostic {
    /// Stable name of the kind of problem.
    pub code: &'static str,
    /// `error` or `warning`.
    pub severity: &'static str,
    /// The file, as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub col: usize,
    /// One past the last character on that line.
    pub end_col: usize,
    /// Where in the tree: `rules[1].to[0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Text that would put it right in place of what stands from `col` to `end_col`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Everything wrong with the file, for people. Empty when nothing is. `colour` is for terminals.
pub fn text(loaded: &Loaded, colour: bool) -> String {
    if loaded.problems.is_empty() {
        return String::new();
    }
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for problem in &loaded.problems {
        let spot = Spot::find(&loaded.shown, &loaded.files, problem.place);
        let file = loaded.files.path_of(problem.place).display().to_string();
        // Writing into memory cannot fail.
        let _ = writeln!(out, "{}\n", renderer.render(&[group(problem, &spot, &file)]));
    }
    if 0 < loaded.left_off {
        let _ = writeln!(out, "… and {} more", loaded.left_off);
    }
    let _ = writeln!(out, "{}: {}", loaded.files.path().display(), counts(loaded));
    out
}

/// Everything wrong with the file, for machines.
pub fn diagnostics(loaded: &Loaded) -> Vec<Diagnostic> {
    loaded.problems.iter().map(|problem| diagnostic(loaded, problem)).collect()
}

/// The first error in one line, with how many there are, for logs and status: `routes.yaml:12:5: a rule has no key `throtle``.
/// `None` when there is none.
pub fn headline(loaded: &Loaded) -> Option<String> {
    let first = loaded.problems.iter().find(|problem| problem.severity == Severity::Error)?;
    let first = one_line(loaded, first);
    let more = count(loaded, Severity::Error) - 1;
    let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    Some(format!("{first}{more}"))
}

/// Where `place` is: the file, its line and its column, both from 1.
pub fn spot(loaded: &Loaded, place: Place) -> (String, usize, usize) {
    let spot = Spot::find(&loaded.shown, &loaded.files, place);
    (loaded.files.path_of(place).display().to_string(), spot.number, spot.column(spot.span.start))
}

/// Each warning in one line, for the log.
pub fn warnings(loaded: &Loaded) -> Vec<String> {
    lines(loaded, Severity::Warning)
}

/// Each error in one line, for the log.
pub fn errors(loaded: &Loaded) -> Vec<String> {
    lines(loaded, Severity::Error)
}

fn lines(loaded: &Loaded, severity: Severity) -> Vec<String> {
    let problems = loaded.problems.iter().filter(|problem| problem.severity == severity);
    problems.map(|problem| one_line(loaded, problem)).collect()
}

/// `routes.yaml:12:5: a rule has no key `throtle``.
fn one_line(loaded: &Loaded, problem: &Problem) -> String {
    let Diagnostic { file, line, col, message, .. } = diagnostic(loaded, problem);
    format!("{file}:{line}:{col}: {message}")
}

/// `2 errors, 1 warning`.
pub fn counts(loaded: &Loaded) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let more = if loaded.left_off == 0 { "" } else { " shown" };
    let (errors, warnings) = (count(loaded, Severity::Error), count(loaded, Severity::Warning));
    format!("{}, {}{more}", plural(errors, "error"), plural(warnings, "warning"))
}

fn count(loaded: &Loaded, severity: Severity) -> usize {
    loaded.problems.iter().filter(|problem| problem.severity == severity).count()
}

fn diagnostic(loaded: &Loaded, problem: &Problem) -> Diagnostic {
    let spot = Spot::find(&loaded.shown, &loaded.files, problem.place);
    Diagnostic {
        code: problem.code,
        severity: match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        file: loaded.files.path_of(problem.place).display().to_string(),
        line: spot.number,
        col: spot.column(spot.span.start),
        end_col: spot.column(spot.span.end),
        path: problem.path.clone(),
        message: problem.message.clone(),
        help: problem.help.clone(),
        note: problem.label.iter().chain(&problem.note).cloned().reduce(|label, note| format!("{label}; {note}")),
        fix: problem.fix.clone(),
    }
}

/// A place as a line and what to underline of it.
struct Spot<'t> {
    number: usize,
    text: &'t str,
    /// Bytes of `text`. What goes on over several lines is underlined on its first.
    span: Range<usize>,
}

impl<'t> Spot<'t> {
    fn find(text: &'t str, files: &Files, place: Place) -> Self {
        let begin = files.line_start(place);
        let line = text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let start = line.floor_char_boundary(place.start.saturating_sub(begin));
        let end = line.floor_char_boundary(place.end.saturating_sub(begin)).max(start);
        // Something is always underlined, if only one character.
        let end = if start == end { line.ceil_char_boundary(start + 1) } else { end };
        Self { number: files.line(place), text: line, span: start..end }
    }

    /// The column, from 1, of byte `at` of the line.
    fn column(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().chars().count() + 1
    }
}

fn group<'a>(problem: &'a Problem, spot: &Spot<'a>, file: &'a str) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(problem.message.as_str()).id(problem.code);
    let help = problem.help.as_deref();
    // A word to put there stands beside the caret; advice stands below.
    let word = help.filter(|help| help.starts_with("did you mean")).map(|help| format!("help: {help}"));
    let below = help.filter(|_| word.is_none());
    let label = problem.label.clone().or(word);
    let group = if spot.text.is_empty() {
        title.element(Origin::path(file).line(spot.number).char_column(spot.column(spot.span.start)))
    } else {
        let annotation = AnnotationKind::Primary.span(spot.span.clone()).label(label);
        title.element(Snippet::source(spot.text).path(file).line_start(spot.number).annotation(annotation))
    };
    let group = below.into_iter().fold(group, |group, help| group.element(Level::HELP.message(help)));
    problem.note.iter().fold(group, |group, note| group.element(Level::NOTE.message(note.as_str())))
}
