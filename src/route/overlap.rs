//! Whether two rules can meet one event, and whether one takes all that another does: what `check` warns of.
//!
//! A glob is a pattern of two kinds of stars: `*` is any run without dots, `**` (one or more parts, of which each may be empty) any run at
//! all. Both questions are answered exactly, by going through the two patterns side by side.

use std::collections::HashSet;

use super::{OWN_SOURCE, glob::Glob, rule::Match};

/// How many states [`covers`] looks at before it gives up and says no: only patterns with many stars come near.
const STATES_MAX: usize = 2048;
/// Bits of a set of positions: one for each byte of the longest glob, and its end.
const WORDS: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// A run without dots.
    Run,
    /// Any run.
    Any,
}

impl Token {
    fn takes(self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => wanted == byte,
            Self::Run => byte != b'.',
            Self::Any => true,
        }
    }

    fn is_star(self) -> bool {
        !matches!(self, Self::Byte(_))
    }
}

fn tokens(glob: &Glob) -> Vec<Token> {
    if glob.exact().is_some() {
        return glob.text().bytes().map(Token::Byte).collect();
    }
    let mut out = Vec::new();
    let mut bytes = glob.text().bytes().peekable();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'*' if bytes.next_if_eq(&b'*').is_some() => Token::Any,
            b'*' => Token::Run,
            byte => Token::Byte(byte),
        });
    }
    out
}

/// Whether some text fits both globs.
pub fn meet(a: &Glob, b: &Glob) -> bool {
    match (a.exact(), b.exact()) {
        (Some(text), _) => return b.matches(text),
        (_, Some(text)) => return a.matches(text),
        (None, None) => {}
    }
    let (a, b) = (tokens(a), tokens(b));
    let mut seen = HashSet::from([(0, 0)]);
    let mut open = vec![(0, 0)];
    while let Some((i, j)) = open.pop() {
        let next = match (a.get(i), b.get(j)) {
            (None, None) => return true,
            (Some(x), _) if x.is_star() && b.get(j).is_none() => vec![(i + 1, j)],
            (_, Some(y)) if y.is_star() && a.get(i).is_none() => vec![(i, j + 1)],
            (Some(Token::Byte(x)), Some(Token::Byte(y))) => (x == y).then_some((i + 1, j + 1)).into_iter().collect(),
            (Some(star), Some(Token::Byte(byte))) => {
                [Some((i + 1, j)), star.takes(*byte).then_some((i, j + 1))].into_iter().flatten().collect()
            }
            (Some(Token::Byte(byte)), Some(star)) => {
                [Some((i, j + 1)), star.takes(*byte).then_some((i + 1, j))].into_iter().flatten().collect()
            }
            (Some(_), Some(_)) => vec![(i + 1, j), (i, j + 1)],
            (Some(_), None) | (None, Some(_)) => vec![],
        };
        open.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    false
}

/// Positions within a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Positions([u64; WORDS]);

impl Positions {
    fn add(&mut self, at: usize, pattern: &[Token]) {
        let mut at = at;
        loop {
            if let Some(word) = self.0.get_mut(at / 64) {
                *word |= 1 << (at % 64);
            }
            // A star may stand for nothing.
            if !pattern.get(at).is_some_and(|token| token.is_star()) {
                return;
            }
            at += 1;
        }
    }

    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    fn after(&self, byte: u8, pattern: &[Token]) -> Self {
        let mut next = Self::default();
        for (at, token) in pattern.iter().enumerate().filter(|(at, _)| self.has(*at)) {
            if token.takes(byte) {
                next.add(if token.is_star() { at } else { at + 1 }, pattern);
            }
        }
        next
    }
}

/// Whether every text that fits `inner` fits `outer`. Rather says no where it would take long to know.
pub fn covers(outer: &Glob, inner: &Glob) -> bool {
    if let Some(text) = inner.exact() {
        return outer.matches(text);
    }
    if outer.exact().is_some() {
        return false;
    }
    let (outer, inner) = (tokens(outer), tokens(inner));
    // One byte that neither names stands for all others.
    let named: HashSet<u8> =
        outer.iter().chain(&inner).filter_map(|token| if let Token::Byte(b) = token { Some(*b) } else { None }).collect();
    let other = (1..=u8::MAX).find(|byte| *byte != b'.' && !named.contains(byte));
    let alphabet: Vec<u8> = named.into_iter().chain(other).chain([b'.']).collect();
    let mut first = Positions::default();
    first.add(0, &outer);
    let mut seen = HashSet::from([(0, first)]);
    let mut open = vec![(0, first)];
    while let Some((at, positions)) = open.pop() {
        if STATES_MAX < seen.len() {
            return false;
        }
        let Some(token) = inner.get(at) else {
            if !positions.has(outer.len()) {
                return false;
            }
            continue;
        };
        let stepped = alphabet.iter().filter(|byte| token.takes(**byte)).map(|byte| positions.after(*byte, &outer));
        let mut next: Vec<_> = stepped.map(|positions| (if token.is_star() { at } else { at + 1 }, positions)).collect();
        if token.is_star() {
            next.push((at + 1, positions));
        }
        open.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    true
}

impl Match {
    /// Whether every event that fits `other` fits this one.
    pub fn covers(&self, other: &Self) -> bool {
        let all = |outer: &[Glob], inner: &[Glob]| match (outer, inner) {
            ([], _) => true,
            // What is left out is `**`.
            (outer, []) => outer.iter().any(|glob| glob.text() == "**"),
            (outer, inner) => inner.iter().all(|inner| outer.iter().any(|outer| covers(outer, inner))),
        };
        // The relay's own events reach only those who name their source.
        let own = !other.names_own() || self.names_own();
        let others: Vec<Glob> = other.source.iter().filter(|glob| glob.exact() != Some(OWN_SOURCE)).cloned().collect();
        let only_own = other.names_own() && others.is_empty();
        own && (only_own || all(&self.source, &others)) && all(&self.r#type, &other.r#type) && self.covers_namespaces(other)
    }

    fn covers_namespaces(&self, other: &Self) -> bool {
        let covered = |inner: &Glob| self.namespace.iter().any(|outer| covers(outer, inner));
        self.namespace.is_empty() || (!other.namespace.is_empty() && other.namespace.iter().all(covered))
    }

    /// Whether some event fits both, of those that come from a source called one of `sources` or from the relay itself.
    pub fn meets<'n>(&self, other: &Self, sources: impl IntoIterator<Item = &'n str>) -> bool {
        let some = |a: &[Glob], b: &[Glob]| a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| meet(a, b)));
        let own = self.names_own() && other.names_own();
        let source = own || sources.into_iter().any(|name| self.takes_source(name) && other.takes_source(name));
        source && some(&self.r#type, &other.r#type) && some(&self.namespace, &other.namespace)
    }

    /// Whether it takes the relay's own events.
    pub fn names_own(&self) -> bool {
        self.takes_source(OWN_SOURCE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::parse(text).unwrap()
    }

    #[test]
    fn globs_meet_where_a_text_fits_both() {
        for (a, b) in [
            ("credential.*", "credential.expired"),
            ("credential.*", "*.expired"),
            ("**", "a.*.c"),
            ("a.**", "**.z"),
            ("a*c", "ab*"),
            ("*a*", "*b*"),
            ("a.**.z", "a.*.z"),
        ] {
            assert!(meet(&glob(a), &glob(b)) && meet(&glob(b), &glob(a)), "{a} {b}");
        }
        for (a, b) in [
            ("credential.*", "workflow.*"),
            ("credential.*", "credential.a.*"),
            ("*", "a.**"),
            ("a*b", "a*c"),
            ("a.**.z", "a.z"),
            ("user_*", "acme-*"),
        ] {
            assert!(!meet(&glob(a), &glob(b)) && !meet(&glob(b), &glob(a)), "{a} {b}");
        }
    }

    #[test]
    fn a_glob_covers_what_it_fits_wholly() {
        for (outer, inner) in [
            ("**", "a.*.c"),
            ("a.**", "a.*"),
            ("a.**", "a.b.c*"),
            ("*", "a*"),
            ("*.*", "a.*"),
            ("**.z", "a.**.z"),
            ("a*", "ab*"),
            ("a", "a"),
        ] {
            assert!(covers(&glob(outer), &glob(inner)), "{outer} {inner}");
        }
        for (outer, inner) in
            [("a.*", "a.**"), ("*", "**"), ("a*", "*"), ("**.z", "a.**"), ("*.b", "*.*"), ("a", "a*"), ("ab*", "a*")]
        {
            assert!(!covers(&glob(outer), &glob(inner)), "{outer} {inner}");
        }
    }

    #[test]
    fn the_relays_own_events_count_apart() {
        let of = |source: &[&str], kind: &[&str]| Match {
            source: source.iter().map(|text| glob(text)).collect(),
            r#type: kind.iter().map(|text| glob(text)).collect(),
            namespace: vec![],
        };
        let (all, own, both) = (of(&[], &[]), of(&["hookyard"], &[]), of(&["hookyard", "**"], &[]));
        assert!(!all.covers(&own) && !own.covers(&all) && both.covers(&all) && both.covers(&own) && !all.covers(&both));
        assert!(!all.meets(&own, ["a"]) && both.meets(&own, ["a"]) && both.meets(&all, ["a"]) && !both.meets(&all, []));
        assert!(of(&["a"], &["x.*"]).covers(&of(&["a"], &["x.y", "x.z"])) && !of(&["a"], &["x.*"]).covers(&of(&[], &["x.y"])));
        assert!(!of(&["a"], &["x.*"]).meets(&of(&["b"], &["x.*"]), ["a", "b"]));
        let namespaced = Match { namespace: vec![glob("**")], ..Match::default() };
        assert!(all.covers(&namespaced) && !namespaced.covers(&all) && namespaced.meets(&all, ["a"]));
    }

    const GLOB: &str = r"([ab]\*?|\*\*|\*|\*a)(\.([ab]\*?|\*\*|\*)){0,3}";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn both_agree_with_matching(a in GLOB, b in GLOB, text in r"[abc]{0,2}(\.[abc]{0,2}){0,4}") {
            let (a, b) = (glob(&a), glob(&b));
            if a.matches(&text) && b.matches(&text) {
                prop_assert!(meet(&a, &b), "{} {} {}", a.text(), b.text(), text);
            }
            if covers(&a, &b) && b.matches(&text) {
                prop_assert!(a.matches(&text), "{} {} {}", a.text(), b.text(), text);
            }
            prop_assert!(covers(&a, &a) && meet(&a, &a) && covers(&glob("**"), &a));
        }

        #[test]
        fn no_globs_take_long(a in r"[a*.]{1,250}", b in r"[a*.]{1,250}") {
            if let (Ok(a), Ok(b)) = (Glob::parse(&a), Glob::parse(&b)) {
                let _ = (meet(&a, &b), covers(&a, &b));
            }
        }
    }
}
