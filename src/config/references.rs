//! `${NAME}`, `${NAME:-default}`, `${file:/path}` and `$$` in string values. They are resolved after the file is parsed, so that
//! no value can break its syntax; never in keys, and never twice.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    decode::Context,
    tree::{Node, Place, Value},
};
use crate::secret::Secret;

/// Largest file that `${file:…}` reads, in bytes.
const FILE_MAX: u64 = 64 * 1024;
/// Longest value that references may make, in bytes.
const VALUE_MAX: usize = 1024 * 1024;
/// All that references may make in all files together, in bytes.
const TOTAL_MAX: usize = 16 * 1024 * 1024;

/// Where references are looked up.
pub trait Environment {
    /// The environment variable `name`; `None` where it is not set or not text.
    fn var(&self, name: &str) -> Option<String>;

    /// The text of the file at `path`.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// What stands at `spot` for `reference`, a variable that is not set or a file that cannot be read; `None`: that is an error.
    fn stand_in(&self, reference: &str, spot: &Spot<'_>) -> Option<String> {
        let (_, _) = (reference, spot);
        None
    }
}

/// Where a reference stands.
#[derive(Debug)]
pub struct Spot<'r> {
    /// The keys above the value, outermost first.
    pub keys: &'r [String],
    /// The `kind` of the thing it is said of.
    pub kind: Option<&'r str>,
    /// Whether the value is this reference and nothing else.
    pub whole: bool,
}

/// The environment of this process and the files of this machine.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Environment for System {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        // A pipe or a device could make this wait for ever.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("this is not a regular file"));
        }
        let mut text = String::new();
        let read = fs::File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
        if FILE_MAX < u64::try_from(read).unwrap_or(u64::MAX) {
            return Err(io::Error::other("it is larger than 64 KiB"));
        }
        Ok(text)
    }
}

/// For tests and tools: variables from a function, and no files.
impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn var(&self, name: &str) -> Option<String> {
        self(name)
    }

    fn file(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// What became of the references of all files.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Whether it matters to nobody what stands for a reference that leads nowhere: it need not even fit.
    pub(super) opaque: bool,
    /// How many references something else stands for.
    pub(super) unseen: usize,
    /// Bytes of all resolved values.
    pub(super) total: usize,
    /// What came from outside. It is never shown.
    pub(super) outside: Vec<Secret>,
    /// The places of the values that could not be resolved and stand as they are written, and of opaque ones.
    pub(super) failed: Vec<Place>,
}

/// Resolves every reference below `root`, a tree of one of the files of `cx`; notes those that cannot be.
pub(super) fn resolve(root: &mut Node, env: &dyn Environment, out: &mut References, cx: &mut Context) {
    let files = cx.files.clone();
    Resolver { text: files.text(), env, cx, path: Vec::new(), kind: None, whole: false, out }.node(root);
}

struct Resolver<'r> {
    text: &'r str,
    env: &'r dyn Environment,
    cx: &'r mut Context,
    /// The keys above the value in hand.
    path: Vec<String>,
    /// The `kind` beside it or above it,
    kind: Option<String>,
    /// and whether that value is one reference and nothing else.
    whole: bool,
    out: &'r mut References,
}

impl Resolver<'_> {
    fn node(&mut self, node: &mut Node) {
        let place = node.place;
        match &mut node.value {
            Value::Map(map) => {
                let kind = map.iter().find(|(key, _)| key.name == "kind").and_then(|(_, node)| node.text().map(str::to_owned));
                let outer = kind.map(|kind| self.kind.replace(kind));
                for (key, node) in map {
                    self.path.push(key.name.clone());
                    self.node(node);
                    self.path.pop();
                }
                if let Some(outer) = outer {
                    self.kind = outer;
                }
            }
            Value::List(items) => items.iter_mut().for_each(|item| self.node(item)),
            Value::String(text) if text.contains('$') => {
                let unseen = self.out.unseen;
                let resolved = self.string(text, place);
                if resolved.is_none() || self.out.opaque && unseen < self.out.unseen {
                    self.out.failed.push(place);
                }
                node.referenced = resolved.as_ref().is_none_or(|it| it.referenced);
                *text = resolved.map_or_else(|| std::mem::take(text), |it| it.text);
            }
            _ => {}
        }
    }

    /// The text with its references resolved; `None` where one of them cannot be (each is noted).
    fn string(&mut self, text: &str, place: Place) -> Option<Resolved> {
        let mut out = Resolved::default();
        let mut good = true;
        let mut seen = place.start;
        if text.strip_prefix('$').is_some_and(is_shouted) {
            let help = "a reference is written ${NAME}; to say that a dollar sign is meant, write $$";
            self.cx.warning("not-a-reference", place, "this is taken as it stands, with its dollar sign").help(help);
        }
        let parts = parts(text);
        self.whole = parts.iter().filter(|part| **part != Part::Literal("")).count() == 1;
        for part in parts {
            let value = match part {
                Part::Literal(literal) => Some(literal.to_owned()),
                Part::Dollar => Some("$".to_owned()),
                Part::Reference(raw) => {
                    out.referenced = true;
                    let at = self.place_of(raw, seen, place);
                    seen = at.end;
                    self.reference(raw, at)
                }
            };
            good &= value.is_some();
            out.text.push_str(value.as_deref().unwrap_or_default());
        }
        self.out.total = self.out.total.saturating_add(out.text.len());
        if VALUE_MAX < out.text.len() || TOTAL_MAX < self.out.total {
            self.cx.error("too-large", place, "references make more than 1 MiB of one value, or 16 MiB of all");
            return None;
        }
        good.then_some(out)
    }

    /// Where the reference `raw` stands within the value at `place`, from byte `seen` on. Escapes and folding may hide it: then
    /// the place of the whole value is as near as one can say.
    fn place_of(&self, raw: &str, seen: usize, place: Place) -> Place {
        let rest = self.text.get(seen..place.end).unwrap_or_default();
        match rest.find(raw) {
            Some(at) => Place { start: seen + at, end: seen + at + raw.len() },
            None => place,
        }
    }

    fn reference(&mut self, raw: &str, place: Place) -> Option<String> {
        let Some(inner) = raw.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
            self.malformed("this `${` has no `}`", place);
            return None;
        };
        if let Some(path) = inner.strip_prefix("file:") {
            return self.file(path, place);
        }
        let (name, default) = inner.split_once(":-").map_or((inner, None), |(name, default)| (name, Some(default)));
        if !is_name(name) || inner.contains("${") {
            self.malformed("this is not a reference", place);
            return None;
        }
        self.variable(name, default, place)
    }

    fn variable(&mut self, name: &str, default: Option<&str>, place: Place) -> Option<String> {
        match (self.env.var(name), default) {
            (Some(value), None) => Some(self.outside(value)),
            (Some(value), Some(_)) if !value.is_empty() => Some(self.outside(value)),
            (_, Some(default)) => Some(default.to_owned()),
            (None, None) => {
                if let Some(value) = self.stand_in(name) {
                    return Some(value);
                }
                let label = format!("needed by {}", self.needed_by());
                let help = format!(
                    "export it, read a file with ${{file:/run/secrets/…}}, give a default with ${{{name}:-…}}, or run check --no-secrets"
                );
                let message = format!("environment variable {name} is not set");
                self.cx.error("unset-env", place, message).help(help).label(label);
                None
            }
        }
    }

    fn file(&mut self, path: &str, place: Place) -> Option<String> {
        let full: PathBuf = self.cx.resolve_path(path, place);
        match self.env.file(&full) {
            Ok(text) => {
                let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
                Some(self.outside(text.to_owned()))
            }
            Err(error) => {
                if let Some(value) = self.stand_in(path) {
                    return Some(value);
                }
                let note = format!("needed by {}", self.needed_by());
                self.cx.error("unreadable-file", place, format!("{} cannot be read: {error}", full.display())).note(note);
                None
            }
        }
    }

    fn stand_in(&mut self, reference: &str) -> Option<String> {
        let spot = Spot { keys: &self.path, kind: self.kind.as_deref(), whole: self.whole };
        let value = self.env.stand_in(reference, &spot)?;
        self.out.unseen += 1;
        Some(value)
    }

    fn outside(&mut self, value: String) -> String {
        self.out.outside.push(Secret::new(value.as_str()));
        value
    }

    fn malformed(&mut self, message: &str, place: Place) {
        let help = "a reference is ${NAME}, ${NAME:-default} or ${file:/path}; a literal dollar sign is $$";
        self.cx.error("bad-reference", place, message).help(help);
    }

    fn needed_by(&self) -> String {
        match self.path.as_slice() {
            [section, name, ..] if section == "sources" => format!("source \"{name}\""),
            [section, name, ..] if section == "destinations" => format!("destination \"{name}\""),
            path => format!("`{}`", path.join(".")),
        }
    }
}

#[derive(Default)]
struct Resolved {
    text: String,
    referenced: bool,
}

/// A stretch of a text.
#[derive(Debug, PartialEq)]
pub(super) enum Part<'t> {
    /// As it stands.
    Literal(&'t str),
    /// `$$`.
    Dollar,
    /// `${…}`, or `${` and the rest where it never ends.
    Reference(&'t str),
}

/// The stretches of `text`, which together are it.
pub(super) fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (literal, from) = rest.split_at(at);
        let (part, length) = if from.starts_with("$$") {
            (Part::Dollar, 2)
        } else if from.starts_with("${") {
            let length = from.find('}').map_or(from.len(), |end| end + 1);
            (Part::Reference(from.get(..length).unwrap_or(from)), length)
        } else {
            (Part::Literal("$"), 1)
        };
        parts.extend([Part::Literal(literal), part]);
        rest = from.get(length..).unwrap_or_default();
    }
    parts.push(Part::Literal(rest));
    parts
}

/// True for what a shell would take as the name of a variable.
fn is_name(name: &str) -> bool {
    let first = |b: u8| b == b'_' || b.is_ascii_alphabetic();
    name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit())
}

/// True for names as environment variables have them: what follows a `$` may have been meant as one.
fn is_shouted(name: &str) -> bool {
    is_name(name) && name.bytes().any(|b| b.is_ascii_uppercase()) && !name.bytes().any(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{File, Files, yaml};

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("x: [${A}] $$ #".into()),
            _ => None,
        }
    }

    fn resolved(text: &str) -> (Node, Context) {
        let mut cx = Context::of(text);
        let mut root = yaml::parse(text, &mut cx).unwrap();
        resolve(&mut root, &env, &mut References::default(), &mut cx);
        (root, cx)
    }

    fn value(text: &str) -> (String, bool) {
        let (root, cx) = resolved(&format!("v: '{text}'"));
        assert_eq!(cx.problems, []);
        let Value::Map(map) = root.value else { panic!("a map") };
        let Value::String(value) = &map[0].1.value else { panic!("text") };
        (value.clone(), map[0].1.referenced)
    }

    #[test]
    fn values_are_resolved_once_and_dollars_stay() {
        for (text, wanted, referenced) in [
            ("${A}", "alpha", true),
            ("a${A}b${A}", "aalphabalpha", true),
            ("${B:-d e}", "d e", true),
            ("${EMPTY:-d}", "d", true),
            ("${B:-}", "", true),
            ("${EMPTY}", "", true),
            ("${TRICKY}", "x: [${A}] $$ #", true),
            ("${B:-$$}", "$$", true),
            ("$1 $.a $ $$ $${A}", "$1 $.a $ $ ${A}", false),
        ] {
            assert_eq!(value(text), (wanted.to_owned(), referenced), "{text}");
        }
    }

    #[test]
    fn keys_and_comments_are_left_alone() {
        let (root, cx) = resolved("${NOPE}: 1 # ${NOPE}\n");
        assert_eq!(cx.problems, []);
        assert!(matches!(root.value, Value::Map(map) if map[0].0.name == "${NOPE}"));
    }

    #[test]
    fn every_reference_that_fails_is_named_at_its_place() {
        let text = "sources: {s: {secrets: [\"é ${NO} ${NO}\"]}}\nx: ${1}\ny: ${A\nz: ${file:/nope}\nw: >-\n  a\n  ${NO}\n";
        let (_, cx) = resolved(text);
        let mut out = String::new();
        for problem in cx.problems {
            let place = &text[problem.place.start..problem.place.end];
            out.push_str(&format!(
                "{}: {} @ {place} {} | {}\n",
                problem.code,
                problem.message,
                problem.place.start,
                problem.label.or(problem.note).unwrap_or_default()
            ));
        }
        insta::assert_snapshot!(out, @r##"
        unset-env: environment variable NO is not set @ ${NO} 28 | needed by source "s"
        unset-env: environment variable NO is not set @ ${NO} 34 | needed by source "s"
        bad-reference: this is not a reference @ ${1} 47 | 
        bad-reference: this `${` has no `}` @ ${A 55 | 
        unreadable-file: /nope cannot be read: entity not found @ ${file:/nope} 62 | needed by `z`
        unset-env: environment variable NO is not set @ ${NO} 88 | needed by `w`
        "##);
    }

    #[test]
    fn a_file_gives_its_text_without_its_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), "hush\n\n").unwrap();
        let file = File { path: folder.path().join("routes.yaml"), text: "v: ${file:key}".to_owned() };
        let mut cx = Context { files: Arc::new(Files::new(file)), ..Context::default() };
        let mut root = yaml::parse("v: ${file:key}", &mut cx).unwrap();
        let mut found = References::default();
        resolve(&mut root, &System, &mut found, &mut cx);
        assert_eq!(found.outside[0].reveal(), "hush\n");
        assert!(System.file(folder.path()).is_err() && System.file(Path::new("/dev/zero")).is_err());
        fs::write(folder.path().join("big"), vec![b'x'; 70_000]).unwrap();
        assert!(System.file(&folder.path().join("big")).is_err());
    }

    proptest! {
        #[test]
        fn no_value_breaks_it(text in r"[${}:\-A-C a$é]{0,40}") {
            let joined: String = parts(&text).iter().map(|part| match part {
                Part::Literal(text) | Part::Reference(text) => *text,
                Part::Dollar => "$$",
            }).collect();
            prop_assert_eq!(&joined, &text);
            resolved(&format!("v: '{text}'"));
        }
    }
}
