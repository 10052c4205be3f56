//! What makes hostile text harmless: one line or several, without what shows nothing or turns what follows around, cut to a length,
//! escaped for where it goes. Letters of every script and emojis stay as they are.

/// Ends what was cut.
const ELLIPSIS: char = '…';
/// Begins a flag that is spelled out in tag characters (🏴󠁧󠁢󠁥󠁮󠁧󠁿).
const BLACK_FLAG: char = '\u{1f3f4}';

/// `text` on one line, at most `max` characters long and an ellipsis where it was cut.
pub(super) fn line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max.saturating_mul(4)));
    let mut taken = 0_usize;
    for character in Visible::of(text.trim()).map(|character| if character == '\n' { ' ' } else { character }) {
        if character == ' ' && out.ends_with(' ') {
            continue;
        }
        if taken == max {
            out.push(ELLIPSIS);
            break;
        }
        taken += 1;
        out.push(character);
    }
    out.truncate(out.trim_end().len());
    out
}

/// A text of several lines, and how long it was when it had to be cut.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Block {
    /// What is left of it.
    pub(super) text: String,
    /// How many characters there were, where some were cut off.
    pub(super) cut_from: Option<usize>,
}

/// `text` with its line breaks, as `\n`, at most `max` characters long.
pub(super) fn block(text: &str, max: usize) -> Block {
    let mut out = String::with_capacity(text.len().min(max.saturating_mul(4)));
    let mut length = 0_usize;
    for character in Visible::of(text.trim_matches(['\r', '\n'])) {
        length += 1;
        if length <= max {
            out.push(character);
        }
    }
    out.truncate(out.trim_end().len());
    let cut_from = (max < length).then_some(length);
    if cut_from.is_some() {
        out.push(ELLIPSIS);
    }
    Block { text: out, cut_from }
}

/// `text` escaped for Slack (`&`, `<`, `>`: what begins mentions and links), at most `max` characters long when escaped.
pub(super) fn slack(text: &str, max: usize) -> String {
    let (mut out, mut length) = (String::with_capacity(text.len()), 0_usize);
    // Where to cut back to, so that the ellipsis fits.
    let mut room = 0;
    for character in text.chars() {
        let escaped = slack_escape(character);
        length += escaped.map_or(1, str::len);
        if max < length {
            out.truncate(room);
            out.push(ELLIPSIS);
            return out;
        }
        match escaped {
            Some(escaped) => out.push_str(escaped),
            None => out.push(character),
        }
        if length < max {
            room = out.len();
        }
    }
    out
}

/// What `character` is written as towards Slack, where it means something there.
pub(super) fn slack_escape(character: char) -> Option<&'static str> {
    match character {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// Adds `text` to `out`, escaped for HTML text and quoted attributes.
pub(super) fn html(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

/// `text` when it is the URL of a web page, short enough for every channel.
pub(super) fn web_url(text: &str) -> Option<url::Url> {
    let url = (text.len() <= URL_MAX).then(|| url::Url::parse(text).ok()).flatten()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host() && url.as_str().len() <= URL_MAX).then_some(url)
}

/// Longest link, in bytes; Slack takes 3,000.
const URL_MAX: usize = 2000;

/// The characters of a text that may be shown, line breaks as `\n`.
pub(super) struct Visible<'t> {
    characters: std::iter::Peekable<std::str::Chars<'t>>,
    in_flag: bool,
}

impl<'t> Visible<'t> {
    /// Of `text`.
    pub(super) fn of(text: &'t str) -> Self {
        Self { characters: text.chars().peekable(), in_flag: false }
    }

    fn shown(&mut self, character: char) -> Option<char> {
        let in_flag = std::mem::replace(&mut self.in_flag, character == BLACK_FLAG);
        match character {
            '\r' if self.characters.peek() == Some(&'\n') => None,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some('\n'),
            '\t' => Some(' '),
            // Marks, embeddings, overrides and isolates that turn the direction of what follows.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
            // What shows nothing. The joiners U+200C and U+200D stay: emojis and whole scripts need them.
            '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{feff}' => None,
            '\u{fff9}'..='\u{fffb}' => None,
            // Tags show nothing either, but within a flag.
            '\u{e0000}'..='\u{e007f}' => {
                self.in_flag = in_flag;
                in_flag.then_some(character)
            }
            other if other.is_control() => None,
            other => Some(other),
        }
    }
}

impl Iterator for Visible<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        loop {
            let character = self.characters.next()?;
            if let Some(shown) = self.shown(character) {
                return Some(shown);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn emojis_and_scripts_live_and_what_turns_text_around_does_not() {
        let family = "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 नमस्ते می‌خواهم שלום 你好 ☕️";
        assert_eq!(line(family, 100), family);
        assert_eq!(line("a\u{202e}b\u{2066}c\u{200f}\u{feff}\u{e0041}d\0\u{1b}[31m", 100), "abcd[31m");
        assert_eq!(line(" a\r\nb\t \u{2028}c ", 100), "a b c");
        assert_eq!(block("a\r\nb\rc\u{85}d\n\n", 100), Block { text: "a\nb\nc\nd".into(), cut_from: None });
    }

    #[test]
    fn what_is_too_long_is_cut_with_an_ellipsis() {
        assert_eq!((line("abcd", 4), line("abcde", 4)), ("abcd".to_owned(), "abcd…".to_owned()));
        assert_eq!(block("ab\ncd", 3), Block { text: "ab…".into(), cut_from: Some(5) });
        assert_eq!((slack("a<b", 6), slack("a<b", 5), slack("ab", 1)), ("a&lt;b".into(), "a…".to_owned(), "…".to_owned()));
    }

    #[test]
    fn only_web_pages_are_linked() {
        assert!(web_url("https://a.example/x?y=1").is_some());
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "//a",
            "a",
            "file:///etc/passwd",
            "https://",
            &format!("https://a/{}", "x".repeat(3000)),
        ] {
            assert!(web_url(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn slack_text_holds_no_mention_and_keeps_its_length(text in r"[&<>!@#|a-z\n😀]{0,40}", max in 1_usize..30) {
            let safe = slack(&text, max);
            prop_assert!(safe.chars().count() <= max, "{}", safe);
            prop_assert!(!safe.contains(['<', '>']));
            prop_assert!(safe.match_indices('&').all(|(at, _)| ["&amp;", "&lt;", "&gt;"].iter().any(|it| safe[at..].starts_with(it))), "{}", safe);
        }

        #[test]
        fn lines_and_blocks_hold_what_may_be_shown(text: String, max in 0_usize..40) {
            let (line, block) = (line(&text, max), block(&text, max).text);
            prop_assert!(line.chars().count() <= max + 1 && block.chars().count() <= max + 1);
            prop_assert!(!line.chars().any(char::is_control));
            prop_assert!(!block.chars().any(|it| it.is_control() && it != '\n'));
        }
    }
}
