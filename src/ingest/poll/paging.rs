//! `paging` of a poll source: where the next page of an answer is. Pure.

use axum::http::{HeaderMap, header::LINK};
use serde_json::{Value as Json, json};
use url::Url;

use super::{
    cursor::QueryName,
    fault::{Code, Fault},
    value::{LEN_MAX, shown},
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape, Words},
        tree::Node,
    },
    route::path::Path,
};

/// Most pages of one round, however the file puts it.
const PAGES_MAX: u32 = 10_000;
/// Longest `Link` header that is read, in bytes.
const LINK_MAX: usize = 8 * 1024;

/// How the next page of an answer is found.
#[derive(Debug, Clone)]
pub(crate) struct Paging {
    by: By,
    /// Most pages that are asked for in one round.
    pub(super) max_pages: u32,
}

#[derive(Debug, Clone)]
enum By {
    /// The answer holds the next page's URL.
    Next(Path),
    /// The `Link` header does (`rel="next"`).
    Link,
    /// The answer holds a word that brings the next page.
    Token { path: Path, query: String },
    /// Pages have numbers.
    Page(Counted),
    /// It is said how many items to skip.
    Offset(Counted),
}

/// Paging by a number.
#[derive(Debug, Clone)]
struct Counted {
    query: String,
    first: u64,
    /// How many items a full page has; with fewer it is the last. `None`: an empty one is.
    size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Next,
    Link,
    Token,
    Page,
    Offset,
}

impl Words for Word {
    const WORDS: &'static [(&'static str, Self)] =
        &[("next", Self::Next), ("link", Self::Link), ("token", Self::Token), ("page", Self::Page), ("offset", Self::Offset)];
}

const KEYS: Keys = Keys::of(&[
    Field::of::<Word>(
        "by",
        "`next`: the answer holds the next page's URL (`path`); `link`: the `Link` header does; `token`: the answer holds a word \
         (`path`) that a parameter (`query`) gives back; `page`: a parameter (`query`) counts pages; `offset`: it counts items.",
    )
    .required(),
    Field::of::<Path>("path", "Where the next URL or token stands in the answer.").example("$.next"),
    Field::of::<QueryName>("query", "The parameter that carries token, page or offset.").example("page"),
    Field::of::<u64>("first", "The number of the first page, or the first offset. Without it, 1 and 0.").example("0"),
    Field::of::<u64>("size", "How many items a full page has: a smaller one is the last. Without it, an empty one is.")
        .example("100")
        .such_that(|size| size.at_least(1)),
    Field::of::<u32>("max_pages", "Most pages of one round, at most 10000.")
        .default("100")
        .such_that(|pages| pages.between(1, 10_000)),
])
.such_that(narrower);

/// Which keys go with which way.
fn narrower(paging: Schema) -> Schema {
    paging.wherever(Word::WORDS.iter().map(|(called, word)| {
        let (needed, possible) = takes(*word);
        let others = WAYS.iter().filter(|key| !needed.contains(key) && !possible.contains(key));
        let none: Vec<_> = others.map(|key| json!({"required": [key]})).collect();
        let is_so = json!({"properties": {"by": {"const": called}}, "required": ["by"]});
        (is_so, json!({"required": needed, "not": {"anyOf": none}}))
    }))
}

/// The keys that only some ways take.
const WAYS: [&str; 4] = ["path", "query", "first", "size"];

impl Shape for Paging {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

/// Which of `path`, `query`, `first` and `size` each way needs, and which it can do with.
const fn takes(word: Word) -> (&'static [&'static str], &'static [&'static str]) {
    match word {
        Word::Next => (&["path"], &[]),
        Word::Link => (&[], &[]),
        Word::Token => (&["path", "query"], &[]),
        Word::Page | Word::Offset => (&["query"], &["first", "size"]),
    }
}

impl Decode for Paging {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`paging`", KEYS, cx)?;
        let word: Option<Word> = fields.required("by", cx);
        let path: Option<Path> = fields.optional("path", cx);
        let query = fields.optional::<QueryName>("query", cx).map(|QueryName(name)| name);
        let first: Option<u64> = fields.optional("first", cx);
        let size = fields.optional::<Located<u64>>("size", cx);
        let max_pages = fields.optional::<Located<u32>>("max_pages", cx);
        if let Some(word) = word {
            fitting(&mut fields, word, cx);
        }
        fields.finish(cx);
        if let Some(size) = size.as_ref().filter(|size| size.value == 0) {
            cx.error("bad-value", size.place, "a page of no items is always full");
        }
        if let Some(pages) = max_pages.as_ref().filter(|pages| !(1..=PAGES_MAX).contains(&pages.value)) {
            cx.error("bad-value", pages.place, format!("`max_pages` is between 1 and {PAGES_MAX}"));
        }
        let counted = |query: Option<String>, default| {
            Some(Counted { query: query?, first: first.unwrap_or(default), size: size.as_ref().map(|size| size.value) })
        };
        let by = match word? {
            Word::Next => By::Next(path?),
            Word::Link => By::Link,
            Word::Token => By::Token { path: path?, query: query? },
            Word::Page => By::Page(counted(query, 1)?),
            Word::Offset => By::Offset(counted(query, 0)?),
        };
        Some(Self { by, max_pages: max_pages.map_or(100, |pages| pages.value) })
    }
}

/// Says which keys are missing, and which change nothing.
fn fitting(fields: &mut Fields<'_>, word: Word, cx: &mut Context) {
    let called = Word::WORDS.iter().find(|(_, it)| *it == word).map_or("", |(called, _)| *called);
    let (needed, possible) = takes(word);
    for key in WAYS {
        let given = fields.node(key).is_some();
        if needed.contains(&key) && !given {
            cx.error("missing-key", fields.place(), format!("`by: {called}` needs `{key}`"));
        } else if given && !needed.contains(&key) && !possible.contains(&key) {
            cx.error("conflict", fields.key_place(key), format!("`{key}` changes nothing with `by: {called}`"));
        }
    }
}

/// A page that was had, as far as the next one goes by it.
pub(super) struct Had<'a> {
    /// Where it was.
    pub(super) url: &'a Url,
    /// Its number in this round, from 0.
    pub(super) number: u32,
    /// How many items it had.
    pub(super) items: u64,
    /// How many items it and those before it had.
    pub(super) so_far: u64,
    /// Its headers.
    pub(super) headers: &'a HeaderMap,
    /// All of it.
    pub(super) answer: &'a Json,
}

impl Paging {
    /// The query parameter that it sets.
    pub(crate) fn query(&self) -> Option<&str> {
        match &self.by {
            By::Next(_) | By::Link => None,
            By::Token { query, .. } => Some(query),
            By::Page(counted) | By::Offset(counted) => Some(&counted.query),
        }
    }

    /// Whether a word that the answer holds brings the next page.
    pub(crate) fn gives_back_tokens(&self) -> bool {
        matches!(self.by, By::Token { .. })
    }

    /// Whether the next page is found by counting what was had: then what leaves the answer meanwhile moves others past it.
    pub(super) fn counts(&self) -> bool {
        matches!(self.by, By::Page(_) | By::Offset(_))
    }

    /// Where the first page is.
    pub(super) fn first(&self, url: &Url) -> Url {
        match &self.by {
            By::Next(_) | By::Link | By::Token { .. } => url.clone(),
            By::Page(counted) | By::Offset(counted) => with(url, &counted.query, &counted.first.to_string()),
        }
    }

    /// Where the page after `had` is; `None`: that was the last. `first` is where the round began, without what [`Paging::first`] added.
    pub(super) fn next(&self, first: &Url, had: &Had<'_>) -> Result<Option<Url>, Fault> {
        match &self.by {
            By::Next(path) => self.text(path, had.answer)?.map(|link| joined(first, had.url, &link)).transpose(),
            By::Link => link(had.headers).map(|link| joined(first, had.url, &link)).transpose(),
            By::Token { path, query } => Ok(self.text(path, had.answer)?.map(|token| with(first, query, &token))),
            By::Page(counted) => Ok(counted.goes_on(had).then(|| {
                let number = counted.first.saturating_add(u64::from(had.number) + 1);
                with(first, &counted.query, &number.to_string())
            })),
            By::Offset(counted) => Ok(counted.goes_on(had).then(|| {
                let number = counted.first.saturating_add(had.so_far);
                with(first, &counted.query, &number.to_string())
            })),
        }
    }

    /// The text at `path`; none where there is nothing, `null`, `false` or an empty text.
    fn text(&self, path: &Path, answer: &Json) -> Result<Option<String>, Fault> {
        match path.find(answer).first() {
            None | Some(Json::Null | Json::Bool(false)) => Ok(None),
            Some(Json::String(text)) if text.len() <= LEN_MAX.max(LINK_MAX) => {
                Ok(Some(text.clone()).filter(|text| !text.is_empty()))
            }
            Some(Json::Number(number)) if matches!(self.by, By::Token { .. }) => Ok(Some(number.to_string())),
            Some(_) => Err(Fault::new(Code::BadPaging, format!("`{}` of the answer is no text that leads on", path.text()))),
        }
    }
}

impl Counted {
    fn goes_on(&self, had: &Had<'_>) -> bool {
        self.size.unwrap_or(1) <= had.items
    }
}

/// `url` with the parameter `name` as `value`, whatever it was.
pub(super) fn with(url: &Url, name: &str, value: &str) -> Url {
    let mut url = url.clone();
    if url.query_pairs().any(|(known, _)| known == name) {
        let others: Vec<_> =
            url.query_pairs().filter(|(known, _)| known != name).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        url.set_query(None);
        url.query_pairs_mut().extend_pairs(others);
    }
    url.query_pairs_mut().append_pair(name, value);
    url
}

/// `link`, as it stands in the answer of `here`; it must lead to where `first` is: the credentials are for nobody else.
fn joined(first: &Url, here: &Url, link: &str) -> Result<Url, Fault> {
    let refused = |message: String| Err(Fault::new(Code::BadPaging, message));
    let Ok(mut url) = here.join(link) else { return refused("the next page has no URL that can be read".to_owned()) };
    if url.origin() != first.origin() || !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().map(shown).unwrap_or_default();
        return refused(format!("the next page is at {}://{host}: not where the first one is", url.scheme()));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The target of the first `Link` whose relation is `next` (RFC 8288).
fn link(headers: &HeaderMap) -> Option<String> {
    let texts = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).filter(|text| text.len() <= LINK_MAX);
    texts.flat_map(links).find(|(_, next)| *next).map(|(target, _)| target)
}

/// Each link of a header with whether its relation is `next`.
fn links(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, parameters)) = after.split_once('>') else { break };
        let end = unquoted_comma(parameters).unwrap_or(parameters.len());
        let (parameters, after) = parameters.split_at_checked(end).unwrap_or((parameters, ""));
        found.push((target.trim().to_owned(), parameters.split(';').any(is_next)));
        rest = after;
    }
    found
}

/// Where the first comma outside of quotes stands.
fn unquoted_comma(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    })
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    let relations = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel") && relations.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::kinds::tests::yaml;

    pub(in super::super) fn paging(text: &str) -> Result<Paging, Vec<&'static str>> {
        let mut cx = Context::default();
        let paging = Paging::decode(&yaml(text), &mut cx);
        paging.filter(|_| cx.problems.is_empty()).ok_or_else(|| cx.problems.iter().map(|problem| problem.code).collect())
    }

    fn base() -> Url {
        "https://h.example/api/runs?status=failed&since=2026".parse().unwrap()
    }

    /// Where the page after the first one is, of `items` items, with this answer and `Link` header.
    fn next(paging_text: &str, items: u64, answer: &Json, link: &str) -> Result<Option<String>, String> {
        let paging = paging(paging_text).unwrap();
        let headers = HeaderMap::from_iter([(LINK, link.parse().unwrap())]);
        let (url, first) = (paging.first(&base()), base());
        let had = Had { url: &url, number: 0, items, so_far: items, headers: &headers, answer };
        paging.next(&first, &had).map(|url| url.map(|url| url.to_string())).map_err(|fault| fault.message)
    }

    #[test]
    fn the_next_page_is_where_the_answer_says() {
        let by_next = |link: &str| next(r#"{"by": "next", "path": "$.next"}"#, 1, &json!({"next": link}), "");
        assert_eq!(by_next("?page=2").unwrap().unwrap(), "https://h.example/api/runs?page=2");
        assert_eq!(by_next("https://h.example/x#y").unwrap().unwrap(), "https://h.example/x");
        assert_eq!(by_next(""), Ok(None));
        for elsewhere in
            ["https://evil.example/x", "http://h.example/x", "https://h.example:444/", "https://u:p@h.example/", "//evil.example"]
        {
            assert!(by_next(elsewhere).unwrap_err().contains("not where the first one is"), "{elsewhere}");
        }
        assert_eq!(
            next(r#"{"by": "next", "path": "$.next"}"#, 1, &json!({"next": 5}), "").unwrap_err(),
            "`$.next` of the answer is no text that leads on"
        );
        let by_link = |link: &str| next(r#"{"by": "link"}"#, 1, &json!([]), link);
        assert_eq!(
            by_link(r#"<https://h.example/?p=1>; rel="prev first", </?p=3,4>; title="a, b; rel=next"; rel="next""#)
                .unwrap()
                .unwrap(),
            "https://h.example/?p=3,4"
        );
        assert_eq!(by_link(r#"<https://h.example/?p=9>; rel="last""#), Ok(None));
        let token = r#"{"by": "token", "path": "$.meta.token", "query": "page_token"}"#;
        let found = next(token, 1, &json!({"meta": {"token": "a b&c"}}), "").unwrap().unwrap();
        assert_eq!(found, "https://h.example/api/runs?status=failed&since=2026&page_token=a+b%26c");
        assert_eq!(next(token, 1, &json!({"meta": {"token": null}}), ""), Ok(None));
    }

    #[test]
    fn pages_and_offsets_count_until_a_page_is_not_full() {
        let of =
            |text: &str, items| next(text, items, &json!([]), "").unwrap().map(|url| url.rsplit('&').next().unwrap().to_owned());
        assert_eq!(of(r#"{"by": "page", "query": "page"}"#, 3), Some("page=2".to_owned()));
        assert_eq!(of(r#"{"by": "page", "query": "page", "first": 0, "size": 3}"#, 3), Some("page=1".to_owned()));
        assert_eq!(of(r#"{"by": "page", "query": "page", "size": 4}"#, 3), None);
        assert_eq!(of(r#"{"by": "page", "query": "page"}"#, 0), None);
        assert_eq!(of(r#"{"by": "offset", "query": "skip"}"#, 3), Some("skip=3".to_owned()));
        let first = paging(r#"{"by": "offset", "query": "skip", "first": 5}"#).unwrap().first(&base());
        assert!(first.as_str().ends_with("&skip=5"));
        assert_eq!(with(&first, "skip", "8").as_str(), "https://h.example/api/runs?status=failed&since=2026&skip=8");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (text, code) in [
            (r#"{"by": "next"}"#, "missing-key"),
            (r#"{"by": "page"}"#, "missing-key"),
            (r#"{"path": "$.next"}"#, "missing-key"),
            (r#"{"by": "link", "path": "$.next"}"#, "conflict"),
            (r#"{"by": "token", "path": "$.next", "query": "t", "size": 5}"#, "conflict"),
            (r#"{"by": "page", "query": "page", "size": 0}"#, "bad-value"),
            (r#"{"by": "link", "max_pages": 0}"#, "bad-value"),
            (r#"{"by": "link", "max_pages": 10001}"#, "bad-value"),
            (r#"{"by": "links"}"#, "bad-value"),
        ] {
            assert_eq!(paging(text).unwrap_err(), [code], "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_breaks_it(text in r#"([<>;,="]|rel|next|[ -~]){0,40}"#) {
            let _ = links(&text);
        }
    }
}
