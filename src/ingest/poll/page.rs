//! An answer, read: its items as they were written, each with its cursor's value.

use std::{
    cmp::Ordering,
    net::{IpAddr, Ipv4Addr},
};

use axum::http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use bytes::Bytes;
use serde_json::Value as Json;

use super::{
    cursor::{Cursor, From, Order},
    fault::{Code, Fault},
    value::{Value, shown},
};
use crate::{
    clock::Timestamp,
    deliver::fetch::Whole,
    envelope::JSON,
    ingest::{body::Body, kinds::Poll, request::Raw},
    json,
};

/// Most items of one answer.
const ITEMS_MAX: usize = 20_000;

/// An item of an answer that the relay itself fetched from where the file says. Made here only.
#[derive(Debug, Clone)]
pub(crate) struct Pulled(Raw);

impl Pulled {
    fn new(item: &str, at: Timestamp) -> Self {
        Self(Raw {
            method: Method::GET,
            path: String::new(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(JSON))]),
            // A copy: what waits for its target must not hold the whole answer.
            body: Bytes::copy_from_slice(item.as_bytes()),
            arrived_at: at,
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        })
    }

    /// The item as if it had been sent.
    pub(in crate::ingest) fn raw(&self) -> &Raw {
        &self.0
    }
}

/// An item with its cursor's value.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) pulled: Pulled,
    pub(super) value: Option<Value>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Page {
    /// Its items, the earliest first as far as their values tell.
    pub(super) items: Vec<Item>,
    /// All of it, where cursor or paging look at it.
    pub(super) answer: Json,
    /// Why the cursor cannot be followed: of the first item whose value is none.
    pub(super) bad: Option<Fault>,
}

impl Page {
    /// Reads `whole`, which is 2xx and came at `at`, in a round that began at `began`.
    pub(super) fn read(poll: &Poll, whole: &Whole, began: Timestamp, at: Timestamp) -> Result<Self, Fault> {
        let bad = |message: String| Fault::new(Code::BadAnswer, message);
        if whole.status == 204 {
            return Ok(Self { items: Vec::new(), answer: Json::Null, bad: None });
        }
        if let Some(encoding) =
            whole.headers.get(CONTENT_ENCODING).filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return Err(bad(format!(
                "the answer is encoded ({}), though nobody asked for it",
                shown(&String::from_utf8_lossy(encoding.as_bytes()))
            )));
        }
        if json::too_deep(&whole.body) {
            return Err(bad(format!("the answer nests deeper than {}", json::DEPTH_MAX)));
        }
        let text = std::str::from_utf8(&whole.body).map_err(|_| bad("the answer is not UTF-8".to_owned()))?;
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            return Err(bad(format!("the answer is not JSON: line {} column {}", error.line(), error.column())));
        }
        let list =
            Body::token_of(text).at(&poll.items.names).ok_or_else(|| bad(format!("the answer has no `{}`", poll.items)))?;
        let tokens = match list.elements() {
            Some(tokens) => tokens,
            None if list.is_null() => Vec::new(),
            None => return Err(bad(format!("`{}` of the answer is no list", poll.items))),
        };
        if ITEMS_MAX < tokens.len() {
            return Err(Fault::new(Code::TooLarge, format!("the answer has more than {ITEMS_MAX} items: ask for smaller pages")));
        }
        let mut bad = None;
        let mut items: Vec<_> = tokens.into_iter().map(|token| item(poll, token.raw(), began, at, &mut bad)).collect();
        if let Some(cursor) = &poll.cursor {
            in_order(&mut items, cursor);
        }
        let looks = poll.paging.is_some() || poll.cursor.as_ref().is_some_and(|cursor| cursor.from == From::Answer);
        Ok(Self { items, answer: if looks { json::lenient(text.as_bytes()) } else { Json::Null }, bad })
    }
}

/// An item. One whose value is none is taken in like one without, and `bad` says what was found.
fn item(poll: &Poll, text: &str, began: Timestamp, at: Timestamp, bad: &mut Option<Fault>) -> Item {
    let cursor = poll.cursor.as_ref().filter(|cursor| cursor.from == From::Item);
    let value = cursor.map_or(Ok(None), |cursor| cursor.of_item(&json::lenient(text.as_bytes()), began));
    let value = value.unwrap_or_else(|fault| {
        bad.get_or_insert(fault);
        None
    });
    Item { pulled: Pulled::new(text, at), value }
}

/// The earliest first: what follows one another in time is taken in like that, whatever the API begins with.
fn in_order(items: &mut [Item], cursor: &Cursor) {
    if cursor.order == Order::Descending {
        items.reverse();
    }
    if items.iter().all(|item| item.value.is_some()) {
        items.sort_by(|one, other| match (&one.value, &other.value) {
            (Some(one), Some(other)) => one.order(other),
            _ => Ordering::Equal,
        });
    }
}
