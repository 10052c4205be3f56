//! Pages of what is held in memory as a whole: targets, sources, mutes, tokens, jobs. The page goes on behind the row that the one before
//! ended with, by its name; where that has gone meanwhile, behind as many rows as were shown.

use axum::response::Response;
use serde::Serialize;

use super::{
    error::ApiError,
    list::{self, Params},
};

/// What such a list is asked by.
pub(super) const PARAMS: [&str; 2] = ["limit", "after"];

/// Which page of such a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// How many rows at most; `None`: all of them.
    limit: Option<usize>,
    /// How many rows were shown, and the name of the last.
    after: Option<(usize, String)>,
}

impl Slice {
    /// Reads `limit` and `after`; what is left in `params` is the caller's.
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        let limit = params.take_as("limit", "a number from 1", |text| text.parse().ok().filter(|limit: &u32| 0 < *limit))?;
        let after = params.take_as("after", "`next` of a page before", cursor)?;
        Ok(Self { limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)), after })
    }

    /// The same, of so many rows where it does not say how many.
    pub(super) fn unless_said(self, rows: u32) -> Self {
        Self { limit: self.limit.or(usize::try_from(rows).ok()), ..self }
    }

    /// The page of `rows`, which are in the order of the list; `name` tells them apart.
    pub(super) fn answer<T: Serialize>(self, rows: Vec<T>, name: impl Fn(&T) -> &str) -> Response {
        let (page, next) = self.of(rows, name);
        list::listed(page, next)
    }

    fn of<T>(self, mut rows: Vec<T>, name: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let shown = self.after.map_or(0, |(shown, last)| {
            let at = rows.iter().position(|row| name(row) == last);
            at.map_or(shown, |at| at + 1).min(rows.len())
        });
        let mut page = rows.split_off(shown);
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = limit < page.len();
        page.truncate(limit);
        let next = page.last().filter(|_| more).map(|last| format!("{}.{}", shown + page.len(), name(last)));
        (page, next)
    }
}

fn cursor(text: &str) -> Option<(usize, String)> {
    let (shown, name) = text.split_once('.')?;
    Some((shown.parse().ok()?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str, rows: &[&str]) -> (String, Option<String>) {
        let slice = Slice::take(&mut Params::from_query(Some(query), &PARAMS).unwrap()).unwrap();
        let (page, next) = slice.of(rows.iter().map(ToString::to_string).collect(), String::as_str);
        (page.join(" "), next)
    }

    #[test]
    fn pages_follow_one_another_though_rows_come_and_go() {
        assert_eq!(page("", &["a", "b", "c"]), ("a b c".into(), None));
        assert_eq!(page("limit=2", &["a", "b", "c"]), ("a b".into(), Some("2.b".into())));
        assert_eq!(page("limit=2&after=2.b", &["a", "b", "c"]), ("c".into(), None));
        assert_eq!(page("limit=1&after=2.b", &["new", "a", "b", "c", "d"]), ("c".into(), Some("4.c".into())));
        assert_eq!(page("limit=2&after=2.b", &["a", "x", "c"]), ("c".into(), None), "it has gone");
        assert_eq!(page("after=7.b", &["a"]), (String::new(), None));
        assert_eq!(page("limit=3", &["a", "b", "c"]), ("a b c".into(), None), "there is no more");
        assert_eq!(page("limit=1&after=1.a.b", &["a.b", "c"]), ("c".into(), None), "names may have dots");
    }

    #[test]
    fn what_is_no_page_is_told() {
        for bad in ["limit=0", "limit=x", "after=x", "after=b7", "after=-1.a"] {
            let told = Slice::take(&mut Params::from_query(Some(bad), &PARAMS).unwrap()).unwrap_err().to_string();
            assert!(told.starts_with("parameter `"), "{bad}: {told}");
        }
    }
}
