//! What all lists share: filters, limits, and cursors that carry their direction.
//!
//! A list is newest first; its `next` goes on towards older things and is null at the end. Given `after` as a cursor of commit
//! order, an id, or `0`, it is in commit order, and `next` is never null: asking with it again yields what has come since.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{error::ApiError, follow::Types};
use crate::{
    clock::Timestamp,
    store::{Filter, Page},
};

/// Rows of a page when the caller does not say.
pub(super) const LIMIT: u32 = 100;
/// Most rows of a page: who asks for more gets so many, and a cursor.
const LIMIT_MAX: u32 = 1000;

/// What is asked, by name, each at most once.
#[derive(Debug, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    /// The parameters of a query string, all of which must be among `known`.
    pub(super) fn from_query(query: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut params = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            params.add(&name, value.into_owned(), known)?;
        }
        Ok(params)
    }

    /// Likewise; those that are among `repeated` may stand there several times.
    pub(super) fn repeating(query: Option<&str>, known: &[&str], repeated: &[&str]) -> Result<Self, ApiError> {
        let mut params = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let again = repeated.contains(&&*name) && params.0.iter().any(|(seen, _)| *seen == name);
            if again {
                params.0.push((name.into_owned(), value.into_owned()));
            } else {
                params.add(&name, value.into_owned(), known)?;
            }
        }
        Ok(params)
    }

    /// Adds one parameter, which must be among `known` and new.
    pub(super) fn add(&mut self, name: &str, value: String, known: &[&str]) -> Result<(), ApiError> {
        if !known.contains(&name) {
            return Err(unknown(name, known));
        }
        if self.0.iter().any(|(seen, _)| seen == name) {
            return Err(invalid(name, "is given twice"));
        }
        self.0.push((name.to_owned(), value));
        Ok(())
    }

    /// The value of `name`, which stays.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Takes the value of `name` out.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes all values of `name` out, in their order.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(known, _)| known == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes the value of `name` out, read by `read`; what does not read `is not {wanted}`.
    pub(super) fn take_as<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| invalid(name, &format!("is not {wanted}")))
    }
}

/// Reads `true` and `false`.
pub(super) fn flag(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// The error that a name gets which is not among those that are `known`.
pub(super) fn unknown(name: &str, known: &[&str]) -> ApiError {
    let name: String = name.chars().take(64).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    ApiError::Invalid(format!("there is no parameter `{name}`; known here: {known}"))
}

/// The error that parameter `name` gets, for `reason`.
pub(super) fn invalid(name: &str, reason: &str) -> ApiError {
    ApiError::Invalid(format!("parameter `{name}` {reason}"))
}

/// The place in a list of the thing that has this id.
pub(super) type PlaceOf = fn(&str) -> Option<i64>;

/// Reads the filters that lists share and the page; what is left in `params` is the caller's.
pub(super) fn filter(params: &mut Params, place_of: PlaceOf) -> Result<Filter, ApiError> {
    let time = "a time in RFC 3339, such as 2026-01-20T12:00:00Z";
    let limit = params.take_as("limit", "a number from 1", |text| text.parse().ok().filter(|limit: &u32| 0 < *limit))?;
    // Nothing is of a type without a name, as nothing is from a source without one.
    let nameless = (params.get("type") == Some("")).then(|| params.take("type")).flatten();
    let types = Types::take(params, "type")?;
    Ok(types.put(Filter {
        source: params.take("source"),
        r#type: nameless,
        target: params.take("target"),
        since: params.take_as("since", time, instant)?,
        until: params.take_as("until", time, instant)?,
        code: params.take("code"),
        page: params.take_as("after", "a cursor", |text| page(text, place_of))?.unwrap_or(Page::Newest),
        limit: limit.map_or(LIMIT, |limit| limit.min(LIMIT_MAX)),
        ..Filter::default()
    }))
}

/// A time in RFC 3339. A plus sign that nobody encoded arrives as a space.
fn instant(text: &str) -> Option<Timestamp> {
    text.parse().or_else(|_| text.replace(' ', "+").parse()).ok()
}

/// Where `cursor` says the page begins: one of ours, an id that `place_of` knows, or `0`.
pub(super) fn page(cursor: &str, place_of: PlaceOf) -> Option<Page> {
    if let Some(place) = place_of(cursor) {
        return Some(Page::After(place));
    }
    if let Some(place) = cursor.strip_prefix('b') {
        return number(place).map(Page::Before);
    }
    number(cursor.strip_prefix('a').unwrap_or(cursor)).map(Page::After)
}

fn number(text: &str) -> Option<i64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// How many rows to ask the store for, so that [`answer`] can tell whether there are more.
pub(super) fn one_more(filter: &Filter) -> u32 {
    filter.limit.saturating_add(1)
}

/// The page of at most `limit` of `rows`, which came in the order of `page`; `place` tells where each stands.
pub(super) fn answer<R, T: Serialize>(
    mut rows: Vec<R>,
    page: Page,
    limit: u32,
    place: impl Fn(&R) -> i64,
    show: impl Fn(&R) -> T,
) -> Response {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = limit < rows.len();
    rows.truncate(limit);
    let last = rows.last().map(place);
    let next = match page {
        Page::After(place) => Some(format!("a{}", last.unwrap_or(place))),
        Page::Newest | Page::Before(_) => last.filter(|_| more).map(|last| format!("b{last}")),
    };
    let data: Vec<T> = rows.iter().map(show).collect();
    Json(Listed { data, next }).into_response()
}

/// `rows`, with the cursor behind them.
pub(super) fn listed<T: Serialize>(data: Vec<T>, next: Option<String>) -> Response {
    Json(Listed { data, next }).into_response()
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
pub(super) struct Listed<T> {
    data: Vec<T>,
    /// Ask with it as `after` for the next page; null where there is none.
    #[schema(required)]
    next: Option<String>,
}

/// A page of a list that has a shape of its own.
#[derive(Serialize, ToSchema)]
pub(super) struct Paged<T> {
    data: T,
    /// Ask with it as `after` for the next page; null where there is none.
    #[schema(required)]
    next: Option<String>,
}

/// `{"data": …, "next": …}` around such a page.
pub(super) fn page_of<T: Serialize>(data: T, next: Option<String>) -> Response {
    Json(Paged { data, next }).into_response()
}

/// A list that has no further page.
pub(super) fn whole<T: Serialize>(data: Vec<T>) -> Response {
    Json(Listed { data, next: None }).into_response()
}

/// `{"data": …}` around one thing that was made just now: 201.
pub(super) fn created<T: Serialize>(thing: &T) -> Response {
    (StatusCode::CREATED, one(thing)).into_response()
}

/// `{"data": …}` around one thing.
pub(super) fn one<T: Serialize>(thing: &T) -> Response {
    Json(One { data: thing }).into_response()
}

/// One thing, as it is answered.
#[derive(Serialize, ToSchema)]
pub(super) struct One<T> {
    pub(super) data: T,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_and_zero_begin_a_walk_in_commit_order() {
        let place_of: PlaceOf = |text| (text == "id").then_some(7);
        assert_eq!(page("0", place_of), Some(Page::After(0)));
        assert_eq!(page("id", place_of), Some(Page::After(7)));
        for bad in ["", "a", "b", "c3", "-1", "a-1", "b1.", "b1.2", "b99999999999999999999", "a+1", "other"] {
            assert_eq!(page(bad, place_of), None, "{bad}");
        }
    }

    #[test]
    fn parameters_are_known_and_single() {
        let message = |query| Params::from_query(Some(query), &["source", "limit"]).unwrap_err().to_string();
        assert_eq!(message("sorce=x"), "there is no parameter `sorce`; known here: source, limit");
        assert_eq!(message("source=a&source=b"), "parameter `source` is given twice");
        let limited =
            |query| filter(&mut Params::from_query(Some(query), &["limit"]).unwrap(), |_| None).map(|filter| filter.limit);
        assert_eq!((limited("limit=7").unwrap(), limited("limit=5000").unwrap()), (7, LIMIT_MAX));
        for bad in ["limit=0", "limit=-1", "limit=x", "limit="] {
            let mut params = Params::from_query(Some(bad), &["limit"]).unwrap();
            assert!(filter(&mut params, |_| None).unwrap_err().to_string().contains("`limit`"), "{bad}");
        }
    }

    #[test]
    fn a_plus_sign_may_arrive_as_a_space() {
        assert_eq!(instant("2026-01-20T13:00:00 01:00"), instant("2026-01-20T12:00:00Z"));
        assert_eq!(instant("yesterday"), None);
    }

    proptest! {
        #[test]
        fn a_cursor_goes_on_where_it_says(place in 0_i64..) {
            prop_assert_eq!(page(&format!("a{place}"), |_| None), Some(Page::After(place)));
            prop_assert_eq!(page(&format!("b{place}"), |_| None), Some(Page::Before(place)));
        }

        #[test]
        fn no_query_breaks_it(query: String, like in "(after|since|limit)=[ab0-9.T:Z%+-]{0,12}") {
            for query in [&query, &like] {
                if let Ok(mut params) = Params::from_query(Some(query), &["after", "since", "limit"]) {
                    let _ = filter(&mut params, |_| None);
                }
            }
        }
    }
}
