//! `matches` of strangers. A regular expression of theirs is searched for in every event that comes, before it is answered, and its
//! maker may choose the event too: so a search is one walk of a text of bounded length, one step a byte, by an automaton that is small.
//!
//! What the crate `regex` does where its automaton grows too large takes the length of the text times the size of the pattern.

use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

use regex_automata::{
    Input,
    dfa::{StartKind, dense},
    hybrid::dfa::{Cache, Config, DFA},
    nfa::thompson::{self, NFA, WhichCaptures},
    util::pool::Pool,
};

/// Longest text in which such a pattern is searched for, in bytes; a longer one does not fit.
pub const TEXT_MAX: usize = 64 * 1024;
/// Largest automaton of such a pattern with all of its states, and what making that may take, in bytes each.
const AUTOMATON_MAX: usize = 512 * 1024;
/// What the states that were needed so far may take, in bytes: more than all of them do, so that none is made twice.
const STATES_MAX: usize = 4 * 1024 * 1024;
/// Memory that the pattern takes before there are states, in bytes.
const COMPILED_MAX: usize = 1024 * 1024;

/// A stranger's regular expression.
#[derive(Debug, Clone)]
pub(in crate::route) struct Pattern(Arc<Compiled>);

struct Compiled {
    text: String,
    dfa: DFA,
    /// The states that were needed so far, once for each thread that searches.
    caches: Pool<Cache, MakeCache>,
}

type MakeCache = Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>;

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl Pattern {
    /// Compiles `text`. The error says why it cannot be.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let compiled = DFA::builder()
            .configure(Config::new().cache_capacity(STATES_MAX))
            .thompson(nfa())
            .build(text)
            .map_err(|_| refused(text))?;
        let dfa = compiled.clone();
        let caches: MakeCache = Box::new(move || dfa.create_cache());
        Ok(Self(Arc::new(Compiled { text: text.to_owned(), dfa: compiled, caches: Pool::new(caches) })))
    }

    /// Says whether its automaton is small with all of its states. Takes some milliseconds where it is not.
    pub(super) fn is_small(&self) -> Result<(), String> {
        let text = &self.0.text;
        let limits = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(AUTOMATON_MAX))
            .determinize_size_limit(Some(AUTOMATON_MAX));
        match NFA::compiler().configure(nfa()).build(text) {
            Ok(nfa) => match dense::Builder::new().configure(limits).build_from_nfa(&nfa) {
                Ok(_) => Ok(()),
                Err(_) => Err(format!(
                    "`{text}` takes too much work where every event is searched for it: count less ({{1,100}}), name the letters instead \
                     of `\\w` or `.`, or let it begin with `^`"
                )),
            },
            Err(_) => Err(refused(text)),
        }
    }

    /// As it was written.
    pub(in crate::route) fn text(&self) -> &str {
        &self.0.text
    }

    /// Whether it fits anywhere in `text`, which is not too long.
    pub(super) fn fits(&self, text: &str) -> bool {
        if TEXT_MAX < text.len() {
            return false;
        }
        let mut cache = self.0.caches.get();
        // It stops at no byte and gives up at no size: there is no error.
        let found = self.0.dfa.try_search_fwd(&mut cache, &Input::new(text).earliest(true));
        found.is_ok_and(|found| found.is_some())
    }
}

fn nfa() -> thompson::Config {
    thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(COMPILED_MAX))
}

fn refused(text: &str) -> String {
    let boundary =
        if text.contains(r"\b") || text.contains(r"\B") { r": word boundaries are taken as `(?-u:\b)` only" } else { "" };
    format!("`{text}` is not a regular expression that can be used here{boundary}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn patterns_of_every_day_are_small() {
        for text in [
            "",
            "^ACME-[0-9]+$",
            "(?i)error|warning|straße",
            r"^\w+@\w+\.\w+$",
            r"\d{3}-\d{4}",
            r"(?-u:\b)foo(?-u:\b)",
            "^.{1,200}$",
            "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
            r"^[a-z]{1,63}(\.[a-z]{1,63}){1,3}$",
        ] {
            Pattern::new(text).unwrap().is_small().unwrap();
        }
    }

    #[test]
    fn patterns_whose_automata_grow_are_refused_and_say_why() {
        for text in ["[01]*1[01]{900}[a-zA-Z_]", "(?s).*a.{40}", r"\w{50}", "(a|aa|aaa){300}b.*a.{30}$"] {
            let told = Pattern::new(text).unwrap().is_small().unwrap_err();
            assert!(told.starts_with(&format!("`{text}` takes too much work")), "{told}");
        }
        assert!(Pattern::new(r"\bfoo").unwrap_err().contains(r"`(?-u:\b)` only"));
        assert_eq!(Pattern::new("(").unwrap_err(), "`(` is not a regular expression that can be used here");
    }

    #[test]
    fn a_text_that_is_too_long_does_not_fit() {
        let pattern = Pattern::new("a").unwrap();
        assert!(pattern.fits(&"a".repeat(TEXT_MAX)) && !pattern.fits(&"a".repeat(TEXT_MAX + 1)));
    }

    /// The states of the largest pattern that is let through are made once, whatever text it meets.
    #[test]
    fn no_text_makes_states_twice() {
        let pattern = Pattern::new("(?s-u:[ab])*a(?s-u:[ab]){10}c").unwrap();
        pattern.is_small().unwrap();
        let mut bits = 1_u32;
        let text: String = (0..TEXT_MAX)
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if bits >> 31 == 0 { 'a' } else { 'b' }
            })
            .collect();
        for _ in 0..4 {
            assert!(!pattern.fits(&text));
        }
        let cache = pattern.0.caches.get();
        assert_eq!(cache.clear_count(), 0);
        assert!(cache.memory_usage() < STATES_MAX, "{}", cache.memory_usage());
    }

    proptest! {
        #[test]
        fn it_fits_where_the_crate_regex_says_so(
            pattern in r"(a|b|ü|\.|\[ab\]|\(a\|bc\)|\(\?i\)A|\^|\$|\\d|\\w|a\*|b\+|c\?|a\{2\}|\(\?-u:\\b\)){0,6}",
            text in "[abcü1A \n]{0,12}",
        ) {
            if let (Ok(ours), Ok(theirs)) = (Pattern::new(&pattern), Regex::new(&pattern)) {
                prop_assert_eq!(ours.fits(&text), theirs.is_match(&text));
            }
        }
    }
}
