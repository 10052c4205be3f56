//! JSON as others send it: its depth is bounded, and what strict parsers refuse is read as well as can be.

use std::borrow::Cow;

use serde_json::Value;

/// How deep arrays and objects may nest in what is taken in.
pub const DEPTH_MAX: usize = 100;

/// True when `text` nests deeper than [`DEPTH_MAX`]. Looks at brackets outside strings only, so it needs no valid JSON.
pub fn too_deep(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if DEPTH_MAX < depth {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    false
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'"' => return,
            _ => {}
        }
    }
}

/// `text`, which was found to be JSON before, as a tree for rules and templates.
///
/// Two things are JSON by its grammar and yet cannot be held: numbers beyond the range of a double, which count as the
/// largest, and halves of surrogate pairs, which count as U+FFFD. The bytes that are delivered are not touched by this.
pub fn lenient(text: &[u8]) -> Value {
    serde_json::from_slice(text).or_else(|_| serde_json::from_slice(mend(text).as_ref())).unwrap_or(Value::Null)
}

fn mend(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let taken = match byte {
            b'"' => mend_string(rest, &mut out),
            b'-' | b'0'..=b'9' => mend_number(rest, &mut out),
            _ => {
                out.push(byte);
                rest.len() - after.len()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    Cow::Owned(out)
}

fn mend_number(text: &[u8], out: &mut Vec<u8>) -> usize {
    let length = text.iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
    let number = text.get(..length).unwrap_or_default();
    let parsed = std::str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok());
    match parsed {
        Some(value) if value == f64::INFINITY => out.extend_from_slice(b"1.7976931348623157e308"),
        Some(value) if value == f64::NEG_INFINITY => out.extend_from_slice(b"-1.7976931348623157e308"),
        _ => out.extend_from_slice(number),
    }
    length
}

/// Copies the string that `text` begins with; answers its length with both quotes.
fn mend_string(text: &[u8], out: &mut Vec<u8>) -> usize {
    out.push(b'"');
    let mut at = 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                out.push(b'"');
                return at + 1;
            }
            b'\\' => at += mend_escape(text.get(at..).unwrap_or_default(), out),
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    at
}

/// Copies one escape; answers how many bytes it took.
fn mend_escape(text: &[u8], out: &mut Vec<u8>) -> usize {
    let length = match unit(text) {
        None => 2,
        Some(0xd800..=0xdbff) => {
            if matches!(unit(text.get(6..).unwrap_or_default()), Some(0xdc00..=0xdfff)) {
                12
            } else {
                out.extend_from_slice(b"\\ufffd");
                return 6;
            }
        }
        Some(0xdc00..=0xdfff) => {
            out.extend_from_slice(b"\\ufffd");
            return 6;
        }
        Some(_) => 6,
    };
    let length = length.min(text.len());
    out.extend_from_slice(text.get(..length).unwrap_or_default());
    length
}

/// The UTF-16 unit of a `\uXXXX` that `text` begins with.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(!too_deep("[".repeat(DEPTH_MAX).as_bytes()));
        assert!(too_deep("[".repeat(DEPTH_MAX + 1).as_bytes()));
        assert!(!too_deep(format!(r#"["{}\"{}"]"#, "[".repeat(500), "{".repeat(500)).as_bytes()));
    }

    #[test]
    fn what_cannot_be_held_is_read_as_well_as_can_be() {
        assert_eq!(
            lenient(br#"{"a":1e999,"b":-1e999,"c":"1e999","d":2}"#),
            json!({"a": f64::MAX, "b": f64::MIN, "c": "1e999", "d": 2})
        );
        assert_eq!(
            lenient(br#"["\ud800","x\udc00\n","\ud83d\ude00","\ud800\ud83d\ude00"]"#),
            json!(["\u{fffd}", "x\u{fffd}\n", "😀", "\u{fffd}😀"])
        );
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, text in r#"["\\\\u0-9a-f{}\[\]:,e.-]{0,40}"#) {
            let _ = (too_deep(&bytes), lenient(&bytes), lenient(text.as_bytes()), too_deep(text.as_bytes()));
        }
    }
}
