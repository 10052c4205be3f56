//! As much of YAML as it takes to know which quotes and brackets are open at some place.

/// What is open where a [`Lexer`] stopped.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The quotation mark that is open.
    pub(super) quote: Option<usize>,
    /// The quotation mark that was opened last, open or not.
    pub(super) quoted: Option<usize>,
    /// The brackets that are open, the innermost last.
    pub(super) open: Vec<usize>,
    /// The first bracket that closes nothing or another than the one it stands for, with that one.
    pub(super) mismatch: Option<(usize, Option<usize>)>,
}

/// Goes through a text character by character.
pub(super) struct Lexer<'t> {
    text: &'t str,
    state: State,
    /// Whether a value may begin here: quotes and brackets mean something only then.
    fresh: bool,
    /// Whether a bracket was closed on this line.
    closed: bool,
    /// How far the line is indented.
    indent: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, state: State::default(), fresh: true, closed: false, indent: 0 }
    }

    /// What is open at byte `end`.
    pub(super) fn until(mut self, end: usize) -> State {
        let bytes = self.text.as_bytes();
        let end = end.min(bytes.len());
        let mut at = 0;
        while at < end {
            at = match bytes.get(at) {
                Some(b'"' | b'\'') if self.fresh => self.quote(bytes, at, end),
                Some(b'#') if at == 0 || bytes.get(at - 1).is_some_and(u8::is_ascii_whitespace) => line_end(bytes, at),
                Some(b'|' | b'>') if self.fresh && self.state.open.is_empty() => self.block(bytes, at),
                Some(byte) => {
                    self.plain(bytes, at, *byte);
                    at + 1
                }
                None => end,
            };
        }
        self.state
    }

    fn plain(&mut self, bytes: &[u8], at: usize, byte: u8) {
        let flow = !self.state.open.is_empty();
        let spaced = bytes.get(at + 1).is_none_or(u8::is_ascii_whitespace);
        match byte {
            b'[' | b'{' if flow || self.fresh => {
                self.state.open.push(at);
                self.fresh = true;
            }
            b']' | b'}' if flow || self.fresh || self.closed => {
                let open = self.state.open.pop();
                let fits = open.and_then(|open| bytes.get(open)) == Some(if byte == b']' { &b'[' } else { &b'{' });
                if !fits && self.state.mismatch.is_none() {
                    self.state.mismatch = Some((at, open));
                }
                self.fresh = false;
                self.closed = true;
            }
            b'\n' => {
                (self.fresh, self.closed) = (true, false);
                self.indent = bytes.get(at + 1..).unwrap_or_default().iter().take_while(|b| **b == b' ').count();
            }
            b',' if flow => self.fresh = true,
            b':' | b'-' | b'?' if spaced => self.fresh = true,
            b' ' | b'\t' | b'\r' => {}
            _ => self.fresh = false,
        }
    }

    /// Behind the quoted text that begins at `at`, or `end` where it is still open there.
    fn quote(&mut self, bytes: &[u8], at: usize, end: usize) -> usize {
        let mark = bytes.get(at).copied();
        self.state.quoted = Some(at);
        self.fresh = false;
        let mut next = at + 1;
        while next < end {
            match bytes.get(next).copied() {
                Some(b'\\') if mark == Some(b'"') => next += 1,
                byte if byte == mark => {
                    // Two single quotes stand for one.
                    if mark == Some(b'\'') && bytes.get(next + 1) == Some(&b'\'') {
                        next += 1;
                    } else {
                        return next + 1;
                    }
                }
                _ => {}
            }
            next += 1;
        }
        self.state.quote = Some(at);
        end
    }

    /// Behind the block of text that `|` or `>` at `at` begins: all lines that are indented deeper than its key.
    fn block(&mut self, bytes: &[u8], at: usize) -> usize {
        let mut next = line_end(bytes, at);
        while next < bytes.len() {
            let line = bytes.get(next + 1..).unwrap_or_default();
            let indent = line.iter().take_while(|b| **b == b' ').count();
            let blank = line.get(indent).is_none_or(|b| matches!(b, b'\n' | b'\r'));
            if !blank && indent <= self.indent {
                break;
            }
            next = line_end(bytes, next + 1);
        }
        self.fresh = true;
        next
    }
}

/// The end of the line that holds byte `at`.
fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')).map_or(bytes.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(text: &str) -> State {
        Lexer::new(text).until(text.len())
    }

    #[test]
    fn what_is_open_is_known() {
        for (text, quote, open, mismatch) in [
            ("a: 'it''s' \nb: [c, {d: \"e", Some("\"e"), vec!["[c, {d: \"e", "{d: \"e"], None),
            ("a: \"x\\\"\" # [ '\nb: c", None, vec![], None),
            ("a: b [c\nd: it's # [\n", None, vec![], None),
            ("a: |\n  [ \" '\n\n   {\nb: [", None, vec!["["], None),
            ("- [a]]", None, vec![], Some((5, None))),
            ("- {a: [b}]", None, vec![], Some((8, Some(6)))),
        ] {
            let found = state(text);
            let open_at: Vec<_> = found.open.iter().map(|at| &text[*at..]).collect();
            assert_eq!((found.quote.map(|at| &text[at..]), open_at, found.mismatch), (quote, open, mismatch), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[a:\\-'\"\\[\\]{}|> #,\\\\\né]{0,60}", end in 0_usize..80) {
            let found = Lexer::new(&text).until(end);
            prop_assert!(found.open.iter().all(|at| *at < text.len()));
        }
    }
}
