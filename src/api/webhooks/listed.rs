//! Which subscriptions a page of the list shows.

use std::sync::Arc;

use crate::{
    access::Caller,
    api::{
        Api,
        error::ApiError,
        list::{self, Params},
    },
    clock::to_ms,
    subscriptions::Subscription,
};

/// What a list is asked by.
pub(super) const PARAMS: [&str; 2] = ["limit", "after"];

/// A page of those that `caller` may know of, newest first, and where the next one begins.
pub(super) fn page(
    api: &Api,
    caller: &Caller,
    query: Option<&str>,
) -> Result<(Vec<Arc<Subscription>>, Option<String>), ApiError> {
    let mut params = Params::from_query(query, &PARAMS)?;
    let after = params.take_as("after", "a cursor", cursor)?;
    let limit = list::filter(&mut params, |_| None)?.limit;
    let mut all = api.subscriptions.list(caller);
    all.sort_unstable_by(|a, b| place(b).cmp(&place(a)));
    if let Some((at, id)) = &after {
        all.retain(|it| place(it) < (*at, id.as_str()));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = limit < all.len();
    all.truncate(limit);
    let next = all.last().filter(|_| more).map(|last| format!("c{}.{}", to_ms(last.created_at), last.id));
    Ok((all, next))
}

/// Newest last; those of one moment in some order that stays.
fn place(it: &Subscription) -> (i64, &str) {
    (to_ms(it.created_at), it.id.as_str())
}

fn cursor(text: &str) -> Option<(i64, String)> {
    let (at, id) = text.strip_prefix('c')?.split_once('.')?;
    Some((at.parse().ok()?, id.to_owned()))
}
