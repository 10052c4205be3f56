//! `server.cors`: which web pages of elsewhere may read what the API answers.

use url::Url;

use super::decode::{Context, Decode, Definitions, Field, Fields, Keys, Schema, Shape};
use crate::config::tree::Node;

/// Whose pages may ask the API from a browser. By default nobody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    /// `*` is among them: any page may, without credentials of the browser's own.
    pub any: bool,
    /// Origins as browsers send them (`https://app.example.com`): scheme, host in lower case, and the port where it is not the scheme's.
    pub origins: Vec<String>,
}

const CORS: Keys = Keys::of(&[Field::of::<Vec<Origin>>(
    "origins",
    "Origins of the pages that may ask the API: scheme, host and port as the browser sends them, or `*` for any.",
)
.required()
.example(r#"["https://app.example.com"]"#)]);

impl Shape for Cors {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(CORS, all)
    }
}

impl Decode for Cors {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`cors`", CORS, cx)?;
        let origins: Option<Vec<Origin>> = fields.required("origins", cx);
        fields.finish(cx);
        let (mut any, mut exact) = (false, Vec::new());
        for origin in origins? {
            match origin {
                Origin::Any => any = true,
                Origin::Exactly(text) => exact.push(text),
            }
        }
        Some(Self { any, origins: exact })
    }
}

enum Origin {
    Any,
    Exactly(String),
}

/// What origins are called in messages.
const ORIGIN: &str = "an origin such as https://app.example.com, without a path, or `*`";

impl Shape for Origin {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^(\*|https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?)$", ORIGIN)
    }
}

impl Decode for Origin {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text == "*" {
            return Some(Self::Any);
        }
        origin(&text).map(Self::Exactly).or_else(|| cx.expected(ORIGIN, node))
    }
}

/// `text` as browsers write it, where it is an origin and nothing more.
fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let plain = rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'[' | b']'));
    if !plain || !matches!(scheme, "http" | "https") {
        return None;
    }
    Url::parse(text).ok().filter(Url::has_host).map(|url| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        for (written, sent) in [
            ("https://app.example.com", Some("https://app.example.com")),
            ("https://App.Example.com:443", Some("https://app.example.com")),
            ("http://localhost:3000", Some("http://localhost:3000")),
            ("http://[::1]:80", Some("http://[::1]")),
            ("https://app.example.com/", None),
            ("https://user@app.example.com", None),
            ("app.example.com", None),
            ("https://", None),
            ("https://*.example.com", None),
            ("null", None),
            ("file:///x", None),
            ("https://a:99999", None),
        ] {
            assert_eq!(origin(written).as_deref(), sent, "{written}");
        }
    }
}
