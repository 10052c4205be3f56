//! A body as JSON, read in one pass that borrows: the members a kind asks for, each as it was written, and nothing else.

use std::{fmt, ops::Range};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    answer::{Code, Rejection},
    request::Raw,
};
use crate::{json, route::path::Step};

/// Longest event id, type, namespace or subject, in characters.
pub(crate) const TEXT_MAX: usize = 256;

/// A value of the body, as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'b>(&'b str);

/// A body that is a JSON object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'b>(&'b str);

impl<'b> Body<'b> {
    /// The body of `request`, checked: its media type, UTF-8, the depth of its nesting; then its members called `names`.
    /// Of members that repeat, the last one counts.
    pub(crate) fn read<const N: usize>(request: &'b Raw, names: [&str; N]) -> Result<(Self, [Option<Token<'b>>; N]), Rejection> {
        if !request.is_json() {
            return Err(Code::UnsupportedMediaType.into());
        }
        let text =
            std::str::from_utf8(&request.body).map_err(|_| Rejection::because(Code::InvalidJson, "the body is not UTF-8"))?;
        if json::too_deep(text.as_bytes()) {
            let reason = format!("the body nests deeper than {}", json::DEPTH_MAX);
            return Err(Rejection::because(Code::InvalidJson, reason));
        }
        let members = Token(text).members(names).map_err(|error| refused(text, &error))?;
        Ok((Self(text), members))
    }

    /// Which bytes of the body `token` stands for.
    pub(crate) fn range(&self, token: Token<'_>) -> Range<usize> {
        let start = token.0.as_ptr().addr().saturating_sub(self.0.as_ptr().addr());
        start..start + token.0.len()
    }

    /// All of `text`, which is JSON, without the white space around it.
    pub(crate) fn token_of(text: &'b str) -> Token<'b> {
        Self(text).whole()
    }

    /// All of the body, without the white space around it.
    pub(crate) fn whole(&self) -> Token<'b> {
        Token(self.0.trim_matches([' ', '\t', '\r', '\n']))
    }
}

/// Whether JSON is refused for its grammar or for being no object.
fn refused(text: &str, error: &serde_json::Error) -> Rejection {
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Rejection::because(Code::InvalidEvent, "the body is JSON, but not an object");
    }
    let reason = format!("the body is not JSON: line {} column {}", error.line(), error.column());
    Rejection::because(Code::InvalidJson, reason)
}

impl<'b> Token<'b> {
    /// As it was written.
    pub(crate) fn raw(self) -> &'b str {
        self.0
    }

    /// Its members called `names`, where it is an object.
    pub(crate) fn members<const N: usize>(self, names: [&str; N]) -> Result<[Option<Token<'b>>; N], serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(self.0);
        let members = Members(&names).deserialize(&mut json)?;
        json.end()?;
        Ok(members)
    }

    /// What stands at the end of `names`, each a member of the one before.
    pub(crate) fn at(self, names: &[String]) -> Option<Token<'b>> {
        names.iter().try_fold(self, |token, name| {
            let [found] = token.members([name.as_str()]).ok()?;
            found
        })
    }

    /// What a plain chain of names and indices finds in it.
    pub(crate) fn follow(self, steps: &[Step]) -> Option<Token<'b>> {
        steps.iter().try_fold(self, |token, step| match step {
            Step::Name(name) => token.at(std::slice::from_ref(name)),
            Step::Index(index) => {
                let elements = token.elements()?;
                let index = if *index < 0 { i64::try_from(elements.len()).ok()? + index } else { *index };
                elements.get(usize::try_from(index).ok()?).copied()
            }
        })
    }

    /// Its elements, where it is an array.
    pub(crate) fn elements(self) -> Option<Vec<Token<'b>>> {
        let elements: Vec<&'b RawValue> = serde_json::from_str(self.0).ok()?;
        Some(elements.into_iter().map(|element| Token(element.get())).collect())
    }

    /// Whether it is `null`.
    pub(crate) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Its text, where it is a string.
    pub(crate) fn string(self) -> Option<String> {
        if !self.0.starts_with('"') {
            return None;
        }
        match serde_json::from_str(self.0) {
            Ok(text) => Some(text),
            // Half a surrogate pair: JSON by its grammar.
            Err(_) => json::lenient(self.0.as_bytes()).as_str().map(str::to_owned),
        }
    }

    /// Its text, where it is a string or a number.
    pub(crate) fn text(self) -> Option<String> {
        let number = self.0.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        if number { Some(self.0.to_owned()) } else { self.string() }
    }

    /// Whether it is `true`.
    pub(crate) fn is_true(self) -> bool {
        self.0 == "true"
    }
}

/// `text`, where it can stand for a type, namespace or subject: not empty, at most [`TEXT_MAX`] characters, none a control.
/// Such texts reach logs, mails and terminals, so what does not fit counts as absent.
pub(crate) fn fit(text: String) -> Option<String> {
    let fits = !text.is_empty() && !text.chars().any(char::is_control) && text.chars().nth(TEXT_MAX).is_none();
    fits.then_some(text)
}

/// Collects the members of an object that have one of the given names.
struct Members<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Option<Token<'de>>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<Token<'de>>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(position) = map.next_key_seed(Position(self.0))? {
            match position.and_then(|position| found.get_mut(position)) {
                Some(slot) => *slot = Some(Token(map.next_value::<&'de RawValue>()?.get())),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Finds a key among the given names. Reads it as bytes, since a key may hold half a surrogate pair.
struct Position<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::request::tests::request;

    fn code(headers: &[(&str, &str)], body: &[u8]) -> Code {
        Body::read(&request("/", headers, body), ["id"]).unwrap_err().code
    }

    #[test]
    fn members_are_found_as_they_were_written() {
        let raw =
            request("/", &[], br#" {"x":{"id":1}, "id" : 7, "d\u0061ta":{ "n": 1.50,"e":1e999 } ,"id":"a\n\ud83d\ude00"} "#);
        let (body, [id, data, gone]) = Body::read(&raw, ["id", "data", "gone"]).unwrap();
        assert_eq!(id.unwrap().string().unwrap(), "a\n😀");
        assert_eq!(data.unwrap().raw(), r#"{ "n": 1.50,"e":1e999 }"#);
        assert_eq!(&raw.body[body.range(data.unwrap())], data.unwrap().raw().as_bytes());
        assert_eq!(body.range(body.whole()), 1..raw.body.len() - 1);
        assert!(gone.is_none());
        let [n] = data.unwrap().members(["n"]).unwrap();
        assert_eq!((n.unwrap().text().unwrap(), n.unwrap().string()), ("1.50".to_owned(), None));
    }

    #[test]
    fn half_a_surrogate_pair_is_json_too() {
        let raw = request("/", &[], br#"{"\ud800":"\udc00","id":"x\ud800"}"#);
        let (_, [id]) = Body::read(&raw, ["id"]).unwrap();
        assert_eq!(id.unwrap().string().unwrap(), "x\u{fffd}");
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(code(&[("content-type", "text/plain")], b"{}"), Code::UnsupportedMediaType);
        for bad in [
            &b""[..],
            b"{",
            b"{}x",
            b"\xff",
            b"{\"a\":\"\xff\"}",
            b"\xef\xbb\xbf{}",
            b"{'a':1}",
            b"{\"a\":01}",
            b"{\"a\":\"\t\"}",
        ] {
            assert_eq!(code(&[], bad), Code::InvalidJson, "{bad:?}");
        }
        assert_eq!(code(&[], format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200)).as_bytes()), Code::InvalidJson);
        for bad in ["[]", "1", "null", "\"x\"", "[{}]"] {
            assert_eq!(code(&[], bad.as_bytes()), Code::InvalidEvent, "{bad}");
        }
    }

    #[test]
    fn only_plain_texts_fit() {
        assert_eq!(fit("é".repeat(TEXT_MAX)).map(|text| text.len()), Some(2 * TEXT_MAX));
        for bad in ["", "a\n", "\0", "a\u{7f}", "\u{9b}x", &"x".repeat(TEXT_MAX + 1)] {
            assert_eq!(fit(bad.to_owned()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, like in r#"\{("(id|data|\\u0061)":("[a-z\\"u0]{0,6}"|[0-9.eE+-]{1,6}|true|\[\]|\{\}),?){0,4}\}"#) {
            for bytes in [&bytes[..], like.as_bytes()] {
                let raw = request("/", &[], bytes);
                if let Ok((body, tokens)) = Body::read(&raw, ["id", "data"]) {
                    for token in tokens.into_iter().flatten() {
                        prop_assert_eq!(&raw.body[body.range(token)], token.raw().as_bytes());
                        let _ = (token.text(), token.string(), token.members(["a"]).is_ok());
                    }
                }
            }
        }
    }
}
