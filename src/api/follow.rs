//! Following along: events in commit order from a cursor on, page by page, for those who wait for more (`wait`) and those who keep a
//! stream open. What is not read yet lies in the store; one page is held.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    error::ApiError,
    list::{self, Params},
};
use crate::{
    access::Caller,
    envelope::EventUid,
    route::{OWN_SOURCE, glob::Glob},
    store::{self, EventRow, Filter, FitsType, Page, Store, Walk},
};

/// Most values of one parameter that may be given several times.
const VALUES_MAX: usize = 100;

/// How long a place that is not told of may be one that is about to be.
const MOMENT: Duration = Duration::from_secs(1);

/// Which events are wanted, beyond a [`Filter`]: several lists of globs, one of each of which the type must fit.
#[derive(Clone, Default)]
pub(super) struct Types(Vec<Vec<Glob>>);

impl Types {
    /// The types of parameter `name`, which may be globs as in rules, several behind commas or one by one.
    pub(super) fn take(params: &mut Params, name: &str) -> Result<Self, ApiError> {
        let texts = params.take_all(name);
        let texts = texts.iter().flat_map(|text| text.split(',')).map(str::to_owned).collect();
        Self::read(texts).map_err(|reason| list::invalid(name, &reason))
    }

    /// What `texts` say. None stand for all types.
    ///
    /// # Errors
    /// Why not, as what goes on behind the parameter's name.
    pub(super) fn read(texts: Vec<String>) -> Result<Self, String> {
        if VALUES_MAX < texts.len() {
            return Err(format!("has more than {VALUES_MAX} values"));
        }
        let globs: Result<Vec<_>, _> = texts.iter().map(|text| Glob::parse(text)).collect();
        let globs = globs.map_err(|error| format!("is not a type or a glob: {error}"))?;
        Ok(Self(if globs.is_empty() { Vec::new() } else { vec![globs] }))
    }

    /// Those that fit `self` and `other`.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Puts them into `filter`, for the store to look for: what [`Self::take`] took.
    pub(super) fn put(mut self, filter: Filter) -> Filter {
        let any = self.0.pop().unwrap_or_default();
        match any.as_slice() {
            [one] if one.exact().is_some() => Filter { r#type: one.exact().map(str::to_owned), ..filter },
            _ => Filter { types: any, ..filter },
        }
    }

    /// Tells whether a type fits; `None` where all do.
    fn fits(self) -> Option<FitsType> {
        if self.0.is_empty() {
            return None;
        }
        Some(Arc::new(move |text| self.0.iter().all(|any| any.iter().any(|glob| glob.matches(text)))))
    }

    /// Puts them into `walk`: where they are one exact type, the store looks for it.
    pub(super) fn narrow(self, filter: Filter) -> (Filter, Option<FitsType>) {
        let exact = match self.0.as_slice() {
            [any] => match any.as_slice() {
                [one] => one.exact().map(str::to_owned),
                _ => None,
            },
            _ => None,
        };
        match exact {
            Some(exact) => (Filter { r#type: Some(exact), ..filter }, None),
            None => (filter, self.fits()),
        }
    }
}

/// `filter`, within what `caller` sees; namespaces it names already are among the caller's. The relay's own events come only when they are asked for by source, and never to a caller that
/// is bound to namespaces.
pub(super) fn within(filter: Filter, caller: &Caller) -> Filter {
    let hides_own = caller.is_bound() || filter.source.is_none();
    let namespaces = caller.namespaces.as_ref().map(|own| own.iter().cloned().collect());
    Filter { except_source: hides_own.then(|| OWN_SOURCE.to_owned()), namespaces: filter.namespaces.or(namespaces), ..filter }
}

/// The namespaces of parameter `name`, exact, which must be among those of `caller`; its own where none are given.
pub(super) fn namespaces(params: &mut Params, name: &str, caller: &Caller) -> Result<Option<BTreeSet<String>>, ApiError> {
    let asked = params.take_all(name);
    if VALUES_MAX < asked.len() {
        return Err(list::invalid(name, &format!("has more than {VALUES_MAX} values")));
    }
    own(asked, caller)
}

/// `asked`, which must be among the namespaces of `caller`; its own where none are.
pub(super) fn own(asked: Vec<String>, caller: &Caller) -> Result<Option<BTreeSet<String>>, ApiError> {
    if asked.is_empty() {
        return Ok(caller.namespaces.clone());
    }
    match asked.iter().find(|namespace| !caller.sees(Some(namespace))) {
        // It is not said whether there is such a namespace.
        Some(_) => Err(ApiError::Forbidden("this token is bound to other namespaces".to_owned())),
        None => Ok(Some(asked.into_iter().collect())),
    }
}

/// Where somebody begins to follow: behind a place, which may say whose store it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) place: i64,
    salt: Option<u64>,
}

impl Cursor {
    /// Reads a cursor of commit order, an event's id, or `0`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(EventUid { salt, seq }) = uid(text) {
            return Some(Self { place: seq, salt: Some(salt) });
        }
        match list::page(text, |_| None)? {
            Page::After(place) => Some(Self { place, salt: None }),
            Page::Newest | Page::Before(_) => None,
        }
    }

    /// Behind `place` of whatever store there is.
    pub(super) fn at(place: i64) -> Self {
        Self { place, salt: None }
    }
}

/// The place in commit order of which `text` speaks: the id of an event, or [`shown`].
pub(super) fn uid(text: &str) -> Option<EventUid> {
    match text.strip_prefix(PLACE) {
        Some(hex) => format!("ev_{hex}").parse().ok(),
        None => text.parse().ok(),
    }
}

/// What the cursor of a place begins with.
const PLACE: &str = "at_";

/// The cursor behind `place`, whether or not that is the id of an event, and whoever may see it.
pub(super) fn shown(place: EventUid) -> String {
    format!("{PLACE}{:016x}{:016x}", place.salt, place.seq)
}

/// Events in commit order, from a cursor on.
pub(super) struct Following {
    store: Arc<dyn Store>,
    newest: watch::Receiver<i64>,
    walk: Walk,
    cursor: Cursor,
    /// Every event up to here was looked at.
    upto: i64,
}

/// One page of them.
pub(super) struct Leaf {
    /// What came; may be empty.
    pub(super) events: Vec<EventRow>,
    /// Behind what it goes on.
    pub(super) upto: EventUid,
}

impl Following {
    /// Events that `filter` and `types` select, from behind `cursor` on, with their bodies where `bodies`; a page of them has at most
    /// `filter.limit` rows and not much more than `bytes`.
    ///
    /// # Errors
    /// A cursor that lies ahead of all there is: whoever goes by it would wait in vain for what has come and is behind it.
    pub(super) async fn new(
        store: Arc<dyn Store>,
        cursor: Cursor,
        filter: Filter,
        types: Types,
        bodies: bool,
        bytes: usize,
    ) -> Result<Self, ApiError> {
        let mut newest = store.newest();
        // Lists may show an event a moment before it is told of.
        let there = newest.wait_for(|newest| cursor.place <= *newest);
        if tokio::time::timeout(MOMENT, there).await.is_err() {
            return Err(elsewhere());
        }
        let (filter, types) = types.narrow(filter);
        let walk = Walk { filter, types, bodies, bytes };
        Ok(Self { store, newest, walk, cursor, upto: cursor.place })
    }

    /// The next page: at once where there may be something, else once something is committed. May be empty, so that whoever asks may see
    /// to other things where there is much that is not wanted.
    pub(super) async fn next(&mut self) -> Result<Leaf, ApiError> {
        let upto = self.upto;
        self.newest.wait_for(|newest| upto < *newest).await.map_err(|_| store::Error::Closed)?;
        self.look().await
    }

    /// Whether something is on disk that was not looked at.
    pub(super) fn is_behind(&self) -> bool {
        self.upto < *self.newest.borrow()
    }

    /// The next page of what there is.
    pub(super) async fn look(&mut self) -> Result<Leaf, ApiError> {
        // Asked before: whatever is committed while the store is read is looked at the next time. Some of that may be read already, but
        // whoever had its place as a cursor would be ahead of what is told of.
        let newest = *self.newest.borrow_and_update();
        let filter = Filter { page: Page::After(self.upto), ..self.walk.filter.clone() };
        let walked = self.store.walk(Walk { filter, ..self.walk.clone() }).await?;
        if self.cursor.salt.is_some_and(|salt| salt != walked.upto.salt) {
            return Err(elsewhere());
        }
        let mut events = walked.events;
        events.retain(|event| event.uid.seq <= newest);
        // At the end there may be places that no event has any more.
        self.upto = if walked.more { walked.upto.seq.min(newest) } else { newest.max(self.upto) };
        Ok(Leaf { events, upto: EventUid { seq: self.upto, ..walked.upto } })
    }
}

fn elsewhere() -> ApiError {
    ApiError::Invalid("this cursor is of another store, or of a time that this one was set back from: begin at `0`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(texts: &[&str]) -> Types {
        Types::read(texts.iter().map(ToString::to_string).collect()).unwrap()
    }

    #[test]
    fn a_type_fits_one_of_each_list() {
        let fits = types(&["credential.*", "a.b"]).and(types(&["*.expired"])).fits().unwrap();
        assert!(fits("credential.expired") && !fits("a.b") && !fits("workflow.expired"));
        assert!(types(&[]).fits().is_none());
        assert_eq!(types(&["a.b"]).narrow(Filter::default()).0.r#type.as_deref(), Some("a.b"));
        let (filter, fits) = types(&["a.b", "c.*"]).narrow(Filter::default());
        assert!(filter.r#type.is_none() && fits.is_some_and(|fits| fits("a.b") && fits("c.d") && !fits("d")));
        let put = |texts: &[&str]| types(texts).put(Filter::default());
        assert_eq!((put(&["a.b"]).r#type.as_deref(), put(&["a.b"]).types.len()), (Some("a.b"), 0));
        assert_eq!((put(&["a.b", "c.*"]).r#type, put(&["a.b", "c.*"]).types.len()), (None, 2));
        assert_eq!(put(&[]), Filter::default());
        assert!(Types::read(vec!["a..*".into()]).is_err() && Types::read(vec!["a".into(); VALUES_MAX + 1]).is_err());
    }

    #[test]
    fn cursors_are_ids_places_and_zero() {
        let uid = EventUid { salt: 7, seq: 3 };
        assert_eq!(Cursor::parse(&uid.to_string()), Some(Cursor { place: 3, salt: Some(7) }));
        assert_eq!(Cursor::parse(&shown(uid)), Cursor::parse(&uid.to_string()));
        assert_eq!((Cursor::parse("a12"), Cursor::parse("0")), (Some(Cursor::at(12)), Some(Cursor::at(0))));
        for bad in ["", "b12", "a", "-1", "ev_", "at_", "at_ev_", "a1 ", "now"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn bound_callers_ask_for_namespaces_of_their_own() {
        let bound = Caller { namespaces: Some(["a".to_owned(), "b".to_owned()].into()), ..Caller::bootstrap() };
        let set = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
        assert_eq!(own(vec![], &bound).unwrap(), set(&["a", "b"]));
        assert_eq!(own(vec!["a".into()], &bound).unwrap(), set(&["a"]));
        assert!(matches!(own(vec!["a".into(), "c".into()], &bound), Err(ApiError::Forbidden(_))));
        assert_eq!(own(vec![], &Caller::bootstrap()).unwrap(), None);
        assert_eq!(own(vec!["c".into()], &Caller::bootstrap()).unwrap(), set(&["c"]));
        let filter = Filter { source: Some(OWN_SOURCE.into()), ..Filter::default() };
        assert_eq!(within(filter.clone(), &bound).except_source.as_deref(), Some(OWN_SOURCE));
        assert_eq!(within(filter.clone(), &Caller::bootstrap()).except_source, None);
        assert_eq!(within(filter.clone(), &bound).namespaces, Some(vec!["a".to_owned(), "b".to_owned()]));
        let narrow = Filter { namespaces: Some(vec!["a".to_owned()]), ..filter };
        assert_eq!(within(narrow, &bound).namespaces, Some(vec!["a".to_owned()]));
    }
}
