//! `poll`: a REST API that is asked again and again, on behalf of those who would ask it themselves. Here is what the file says of it and
//! how an item of its answers becomes an event; who asks stands in `ingest::poll`.

use std::{fmt, time::Duration};

use axum::http::HeaderMap;
use url::Url;

use super::{Facts, MAP, Verified, all_mapped};
use crate::{
    config::decode::{Context, Field, Fields, Keys, Located, Size},
    deliver::{
        TlsProfile,
        fetch::{Headers, read_headers, read_url, url_text},
    },
    envelope::Name,
    ingest::{
        answer::Rejection,
        body::Body,
        mapping::{Mapping, Members},
        poll::{Cursor, Paging, Pulled},
    },
    json,
};

/// Shortest `every`.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest `every`: within it, what was seen last must still be known.
const EVERY_MAX: Duration = Duration::from_secs(86_400);
/// Longest `timeout`.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Bounds of `max_body`, in bytes: one answer at a time is held in memory.
const BODY: std::ops::RangeInclusive<u64> = 1024..=64 * 1024 * 1024;

/// The settings of a `poll` source.
#[derive(Clone)]
pub(crate) struct Poll {
    /// Where it is asked, without the cursor.
    pub(crate) url: Url,
    /// Headers of every request.
    pub(crate) headers: HeaderMap,
    /// Which certificates are trusted.
    pub(crate) tls: TlsProfile,
    /// How often it is asked.
    pub(crate) every: Duration,
    /// How long an answer may take, its body included.
    pub(crate) timeout: Duration,
    /// Largest body of an answer, in bytes.
    pub(crate) max_body: usize,
    /// Where the items stand in an answer.
    pub(crate) items: Members,
    /// From where on is asked; `None`: everything, every time.
    pub(crate) cursor: Option<Cursor>,
    /// How the rest of an answer is had; `None`: there is none.
    pub(crate) paging: Option<Paging>,
    map: Mapping,
    fallback: String,
}

impl fmt::Debug for Poll {
    /// The URL and the headers may carry secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll").field("url", &self.masked_url()).field("every", &self.every).finish_non_exhaustive()
    }
}

/// The keys of a `poll` source.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<String>(
        "url",
        "Where it is asked, with `GET`. Its path and query, which may carry secrets, are masked wherever it is shown.",
    )
    .required()
    .example("https://honeyframe.example.com/api/pipeline/runs?status=failed")
    .such_that(url_text),
    Field::of::<Duration>("every", "How often it is asked: between 1s and 1d.").required().example("1m"),
    Field::of::<Headers>("headers", "Headers of every request.").example(r#"{"Authorization": "Bearer ${HONEYFRAME_TOKEN}"}"#),
    Field::of::<Members>("items", "Where the list of items stands in an answer: a chain of names.")
        .default("$")
        .example("$.runs"),
    Field::of::<Cursor>("cursor", "From where on is asked. Without it, everything is asked for every time.")
        .example(r#"{"query": "since", "path": "$.finished_at"}"#),
    Field::of::<Paging>("paging", "How the next page of an answer is found. Without it, an answer is all there is.")
        .example(r#"{"by": "next", "path": "$.next"}"#),
    Field::of::<Duration>("timeout", "How long an answer may take, at most 5m.").default("30s"),
    Field::of::<Size>("max_body", "Largest body of an answer, between 1KiB and 64MiB.").default("8MiB"),
    Field::of::<TlsProfile>("tls", "Which certificates are trusted.").default("{}"),
    MAP,
]);

impl Poll {
    /// Reads all of it. Without a type, events of source `runs` are `runs.event`.
    pub(super) fn decode(fields: &mut Fields<'_>, name: &Name, cx: &mut Context) -> Option<Self> {
        let url = fields.required::<Located<String>>("url", cx);
        let place = url.as_ref().map_or(fields.place(), |url| url.place);
        let url = url.and_then(|text| read_url(&text, cx));
        let every = fields.required::<Located<Duration>>("every", cx).and_then(|every| check_every(every, cx));
        let headers = fields.node("headers").map_or(Some(HeaderMap::new()), |node| read_headers(node, cx));
        let items = fields.or("items", Members::default(), cx);
        let cursor: Option<Cursor> = fields.optional("cursor", cx);
        let paging: Option<Paging> = fields.optional("paging", cx);
        let timeout = fields.optional("timeout", cx).map_or(Some(Duration::from_secs(30)), |given| check_timeout(given, cx));
        let max_body = fields.optional("max_body", cx).map_or(Some(8 * 1024 * 1024), |given| check_body(&given, cx));
        let tls = fields.or("tls", TlsProfile::default(), cx);
        let map = fields.node("map").and_then(|node| Mapping::decode(node, cx)).unwrap_or_default();
        if map.headers().next().is_some() {
            cx.error("bad-value", fields.key_place("map"), "an item has no headers: `map` takes paths and literals here");
        }
        if let (Some(cursor), Some(paging)) = (&cursor, &paging)
            && let Some(query) = cursor.query.as_deref().filter(|query| paging.query() == Some(query))
            && !(paging.gives_back_tokens() && cursor.is_of_the_answer())
        {
            let message = format!("`{query}` cannot carry both the cursor and the page: each page would ask from somewhere else");
            cx.error("conflict", fields.key_place("paging"), message);
        }
        let url = url?;
        let own = cursor.iter().filter_map(|cursor| cursor.query.as_deref());
        for query in own.chain(paging.iter().filter_map(Paging::query)) {
            if url.query_pairs().any(|(name, _)| name == query) {
                let message = format!("`{query}` is set by the relay: it must not stand in the URL");
                cx.error("conflict", place, message);
            }
        }
        Some(Self {
            url,
            headers: headers?,
            tls,
            every: every?,
            timeout: timeout?,
            max_body: max_body?,
            items,
            cursor,
            paging,
            map,
            fallback: format!("{name}.event"),
        })
    }

    /// `item`, which the relay itself fetched from where the file says: no other proof is needed.
    pub(crate) fn pulled<'r>(&self, item: &'r Pulled) -> Verified<'r> {
        Verified::new(item.raw(), None)
    }

    /// Finds the facts by `map`; the whole item is the data, or what `map.data` finds.
    pub(super) fn normalise(&self, verified: Verified<'_>) -> Result<Facts, Rejection> {
        let (body, []) = Body::read(verified.request, [])?;
        let value = json::lenient(body.whole().raw().as_bytes());
        Ok(all_mapped(&self.map, verified.request, &value, 0..verified.request.body.len(), &self.fallback))
    }

    /// The types of its events; `None`: what their items say.
    pub(super) fn types(&self) -> Option<Vec<&str>> {
        self.map.settled_type(&self.fallback).map(|settled| vec![settled])
    }

    /// Scheme, host and port; path and query, which may carry a secret, as `***`.
    pub(crate) fn masked_url(&self) -> String {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}://{}{port}/***", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }
}

fn check_every(every: Located<Duration>, cx: &mut Context) -> Option<Duration> {
    let fits = (EVERY_MIN..=EVERY_MAX).contains(&every.value);
    if !fits {
        cx.error("bad-value", every.place, "`every` is between 1s and 1d");
    }
    fits.then_some(every.value)
}

fn check_timeout(timeout: Located<Duration>, cx: &mut Context) -> Option<Duration> {
    let fits = !timeout.value.is_zero() && timeout.value <= TIMEOUT_MAX;
    if !fits {
        cx.error("bad-value", timeout.place, "`timeout` is longer than nothing and at most 5m");
    }
    fits.then_some(timeout.value)
}

fn check_body(size: &Located<Size>, cx: &mut Context) -> Option<usize> {
    if !BODY.contains(&size.value.0) {
        cx.error("bad-value", size.place, "`max_body` is between 1KiB and 64MiB");
        return None;
    }
    usize::try_from(size.value.0).ok()
}

#[cfg(test)]
mod tests {
    use crate::ingest::{
        answer::Code,
        kinds::{
            Id, Kind, Word,
            tests::{decoded, taken},
        },
        request::tests::request,
    };

    const BASE: &str = r#""url": "https://h.example/api/runs?status=failed", "every": "1m""#;

    fn poll(more: &str) -> Result<Kind, Vec<&'static str>> {
        decoded(Word::Poll, &format!("{{{BASE}{more}}}"))
    }

    #[test]
    fn an_item_is_the_data_and_map_finds_the_rest() {
        let kind =
            poll(r#", "map": {"type": "recipe.run.failed", "id": "$.id", "time": "$.at", "subject": "$.recipe"}"#).unwrap();
        let item = request("", &[], br#"{"id":7,"at":"2026-01-20T11:59:00Z","recipe":"r1"}"#);
        let facts = kind.facts_of(&item).unwrap();
        assert_eq!(
            (facts.id, facts.r#type.as_str(), facts.data),
            (Id::Sender("7".into()), "recipe.run.failed", Some(0..item.body.len()))
        );
        assert_eq!((facts.subject.as_deref(), facts.time.unwrap().1.as_str()), (Some("r1"), "2026-01-20T11:59:00Z"));
        let bare = poll("").unwrap();
        assert_eq!((bare.facts_of(&item).unwrap().r#type.as_str(), bare.types()), ("shop.event", Some(vec!["shop.event"])));
        let inner = poll(r#", "map": {"data": "$.run"}"#).unwrap();
        let facts = inner.facts_of(&request("", &[], br#"{"run": {"a": 1} }"#)).unwrap();
        assert_eq!(facts.data, Some(8..16));
        assert_eq!(inner.facts_of(&item).unwrap().data, Some(0..item.body.len()), "what is missing is all of it");
    }

    #[test]
    fn nobody_can_send_to_it() {
        assert_eq!(taken(&poll("").unwrap(), &request("/", &[], b"{}")), Err(Code::NotFound));
    }

    #[test]
    fn neither_url_nor_headers_are_printed() {
        let text = format!("{:?}", poll(r#", "headers": {"Authorization": "Bearer hush"}"#).unwrap());
        assert!(!text.contains("hush") && !text.contains("status") && text.contains("https://h.example/***"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, code) in [
            (r#", "path": "/x""#, "unknown-key"),
            (r#", "items": "$.runs[0]""#, "bad-value"),
            (r#", "items": "runs""#, "bad-jsonpath"),
            (r#", "timeout": "6m""#, "bad-value"),
            (r#", "max_body": "1B""#, "bad-value"),
            (r#", "max_body": "65MiB""#, "bad-value"),
            (r#", "map": {"id": "header:X-Id"}"#, "bad-value"),
            (r#", "cursor": {"query": "status", "path": "$.at"}"#, "conflict"),
            (r#", "paging": {"by": "page", "query": "status"}"#, "conflict"),
            (r#", "cursor": {"query": "c", "path": "$.at"}, "paging": {"by": "page", "query": "c"}"#, "conflict"),
            (r#", "cursor": {"query": "c", "path": "$.at"}, "paging": {"by": "token", "path": "$.n", "query": "c"}"#, "conflict"),
        ] {
            assert_eq!(poll(more).unwrap_err(), [code], "{more}");
        }
        let cursor = r#""cursor": {"query": "c", "path": "$.n", "from": "answer", "as": "token", "start": "beginning"}"#;
        assert!(poll(&format!(r#", {cursor}, "paging": {{"by": "token", "path": "$.n", "query": "c"}}"#)).is_ok());
        for (text, code) in [
            (r#"{"url": "https://h.example/", "every": "500ms"}"#, "bad-value"),
            (r#"{"url": "https://h.example/", "every": "2d"}"#, "bad-value"),
            (r#"{"url": "https://h.example/"}"#, "missing-key"),
            (r#"{"every": "1m"}"#, "missing-key"),
            (r#"{"url": "ftp://h.example/", "every": "1m"}"#, "bad-url"),
        ] {
            assert_eq!(decoded(Word::Poll, text).unwrap_err(), [code], "{text}");
        }
    }
}
