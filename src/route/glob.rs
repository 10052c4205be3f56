//! Globs over dot-separated names: `*` stays within one part, `**` is one or more parts.

use crate::config::{
    decode::{Context, Decode, Definitions, Schema, Shape},
    tree::{Node, Value},
};

/// Longest glob, in bytes.
const LEN_MAX: usize = 256;

/// A compiled glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Exactly this text.
    Literal(String),
    /// Text with `*` in it.
    Pattern(String),
    /// `**`: one or more parts.
    Many,
}

/// Why a text is not a glob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// Nothing between two dots, or nothing at all.
    #[error("every part between dots needs at least one character")]
    EmptyPart,
    /// `a**`.
    #[error("`**` stands for whole parts: write it between dots")]
    HalfMany,
    /// Too long.
    #[error("a glob has at most {LEN_MAX} bytes")]
    TooLong,
}

impl Glob {
    /// Compiles `text`. Text without `*` matches itself alone, whatever its dots.
    pub fn parse(text: &str) -> Result<Self, BadGlob> {
        if LEN_MAX < text.len() {
            return Err(BadGlob::TooLong);
        }
        let parts = if text.contains('*') { text.split('.').map(part).collect::<Result<_, _>>()? } else { literal(text)? };
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The glob as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The one text it matches, when it has no wildcard.
    pub fn exact(&self) -> Option<&str> {
        (!self.text.contains('*')).then_some(self.text.as_str())
    }

    /// The parts that are written out, each of which every match has among its own: `instance` of `*.instance.**`.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        match self.exact() {
            Some(exact) => exact == text,
            None => parts_match(&self.parts, &text.split('.').collect::<Vec<_>>()),
        }
    }
}

fn literal(text: &str) -> Result<Vec<Part>, BadGlob> {
    if text.is_empty() {
        Err(BadGlob::EmptyPart)
    } else {
        Ok(text.split('.').map(|part| Part::Literal(part.to_owned())).collect())
    }
}

fn part(text: &str) -> Result<Part, BadGlob> {
    match text {
        "" => Err(BadGlob::EmptyPart),
        "**" => Ok(Part::Many),
        _ if text.contains("**") => Err(BadGlob::HalfMany),
        _ if text.contains('*') => Ok(Part::Pattern(text.to_owned())),
        _ => Ok(Part::Literal(text.to_owned())),
    }
}

/// Matches part by part; only the last `**` is ever taken up again, so the time is at most parts × names.
fn parts_match(parts: &[Part], names: &[&str]) -> bool {
    let (mut part, mut name) = (0, 0);
    let mut retry = None;
    while let Some(text) = names.get(name) {
        match parts.get(part) {
            Some(Part::Many) => {
                retry = Some((part, name + 1));
                part += 1;
                name += 1;
                continue;
            }
            Some(Part::Literal(literal)) if literal == text => {}
            Some(Part::Pattern(pattern)) if run_matches(pattern, text) => {}
            _ => {
                let Some((many, taken)) = retry else { return false };
                retry = Some((many, taken + 1));
                part = many + 1;
                name = taken + 1;
                continue;
            }
        }
        part += 1;
        name += 1;
    }
    // A `**` that took a name more than there are has gone past the end.
    part == parts.len() && name == names.len()
}

/// Whether `text` is what `pattern` says: `*` is any run of bytes, none included. Only the last `*` is ever taken up again, so that no
/// pattern takes long.
pub(crate) fn run_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(wanted) if wanted == byte => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                p = star + 1;
                t = taken + 1;
            }
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

/// What globs are called in messages.
const GLOB: &str = "a name or a glob such as credential.* or **";

impl Shape for Glob {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text().not_empty()
    }
}

impl Decode for Glob {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let Value::String(text) = &node.value else {
            return cx.expected(GLOB, node);
        };
        match Self::parse(text) {
            Ok(glob) => Some(glob),
            Err(error) => {
                cx.error("bad-glob", node.place, format!("`{text}` is not a glob: {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(glob: &str, text: &str) -> bool {
        Glob::parse(glob).unwrap().matches(text)
    }

    #[test]
    fn a_star_stays_within_a_part_and_two_cross_them() {
        for (glob, text) in [
            ("credential.*", "credential.expired"),
            ("credential.ex*", "credential.expired"),
            ("*.expired", "credential.expired"),
            ("user_*", "user_"),
            ("a*b*c", "aXbYbc"),
            ("**", "a"),
            ("**", "a.b.c"),
            ("relay.**", "relay.target.broken"),
            ("**.failed", "workflow.instance.failed"),
            ("a.**.z", "a.b.c.z"),
            ("**.a.**", "x.a.a"),
            ("plain", "plain"),
            ("dana@example.com", "dana@example.com"),
        ] {
            assert!(fits(glob, text), "{glob} {text}");
        }
        for (glob, text) in [
            ("credential.*", "credential.a.b"),
            ("credential.*", "credential"),
            ("*", "a.b"),
            ("relay.**", "relay"),
            ("**.failed", "failed"),
            ("a.**.z", "a.z"),
            ("**.a.**", "a.a"),
            ("plain", "plain.er"),
            ("a*b", "aXbc"),
        ] {
            assert!(!fits(glob, text), "{glob} {text}");
        }
    }

    #[test]
    fn literal_parts_feed_the_index() {
        let parts = |glob: &str| Glob::parse(glob).unwrap().literals().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(parts("workflow.*.failed"), "workflow failed");
        assert_eq!(parts("**.b*.c.**"), "c");
        assert_eq!(parts("a.b"), "a b");
        assert_eq!(parts("**"), "");
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        assert_eq!(Glob::parse("a**"), Err(BadGlob::HalfMany));
        assert_eq!(Glob::parse("a.*."), Err(BadGlob::EmptyPart));
        assert_eq!(Glob::parse(""), Err(BadGlob::EmptyPart));
        assert_eq!(Glob::parse(&"a".repeat(257)), Err(BadGlob::TooLong));
    }

    /// The definition, plainly: tries every way.
    fn plainly(parts: &[Part], names: &[&str]) -> bool {
        match (parts.split_first(), names.split_first()) {
            (None, None) => true,
            (Some((Part::Many, rest)), Some((_, after))) => plainly(rest, after) || plainly(parts, after),
            (Some((Part::Literal(text), rest)), Some((name, after))) => text == name && plainly(rest, after),
            (Some((Part::Pattern(text), rest)), Some((name, after))) => run_matches(text, name) && plainly(rest, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(glob in r"([ab]\*?|\*\*|\*)(\.([ab]\*?|\*\*|\*)){0,5}", text in r"[ab]{1,2}(\.[ab]{1,2}){0,6}") {
            let glob = Glob::parse(&glob).unwrap();
            let names: Vec<_> = text.split('.').collect();
            prop_assert_eq!(glob.matches(&text), plainly(&glob.parts, &names));
            if glob.matches(&text) {
                prop_assert!(glob.literals().all(|part| names.contains(&part)));
            }
        }

        #[test]
        fn no_text_breaks_it(glob: String, text: String) {
            if let Ok(glob) = Glob::parse(&glob) {
                let _ = (glob.matches(&text), glob.literals().count());
            }
        }
    }
}
