//! One round: every page from the cursor on is asked for, and what is new taken in. How far it came is noted only once all that lies
//! before is on disk.
//!
//! Where the next page is found by counting (`page`, `offset`), an item that leaves the answer meanwhile, or changes its value, moves
//! another past the page that is asked for next. So an answer of several pages is gone over again until everything that one pass has met is
//! met by the next: then nothing had left before it was counted, and nothing was passed over. (But for what shows up and leaves within a
//! single pass.)

use std::{collections::HashSet, future::poll_fn, task::Poll as Ready};

use axum::http::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    cursor::{Cursor, From, Order},
    fault::{Code, Fault},
    page::{Item, Page, Pulled},
    paging::{Had, Paging, with},
    pass::{Mark, Pass},
    state::{Key, State},
    value::{Value, shown},
};
use crate::{
    clock::{Clock, Timestamp},
    deliver::{
        answers::retry_after,
        fetch::{Fetch, NotWhole, Whole},
    },
    envelope::JSON,
    ingest::{
        Ingest, Source, dedupe,
        kinds::{Facts, Poll},
    },
    store::{Accepted, Store},
};

/// Items that are handed to the store at once: they share commits.
const TAKEN_AT_ONCE: usize = 64;
/// How often in one round the pages of an answer are gone over at most that things leave meanwhile.
const PASSES_MAX: u32 = 8;

/// Who is asked: the network, or in tests a model of an API.
pub(super) trait Ask {
    /// See [`Fetch::whole`].
    fn whole(
        &self,
        url: &Url,
        headers: HeaderMap,
        max: usize,
        deadline: Instant,
    ) -> impl Future<Output = Result<Whole, NotWhole>> + Send;
}

impl Ask for Fetch {
    async fn whole(&self, url: &Url, headers: HeaderMap, max: usize, deadline: Instant) -> Result<Whole, NotWhole> {
        Self::whole(self, url, headers, max, deadline).await
    }
}

/// What a round works with.
pub(super) struct Round<'r, A> {
    pub(super) source: &'r Source,
    pub(super) poll: &'r Poll,
    pub(super) fetch: &'r A,
    pub(super) ingest: &'r Ingest,
    pub(super) store: &'r dyn Store,
    pub(super) clock: &'r Clock,
    /// Cancelled when the relay stops.
    pub(super) stop: &'r CancellationToken,
}

/// How a pass over the pages ended that met no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// At the last page.
    Through,
    /// At the most pages that one may have.
    Full,
    /// With all that the one before it had met.
    Over,
    /// The relay stops.
    Stopped,
}

/// How a round ended that met no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// All there was is on disk.
    Through,
    /// So far all is on disk; there is more.
    More,
    /// The relay stops.
    Stopped,
}

/// What a round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Pages that were read.
    pub(super) pages: u32,
    /// Items on them.
    pub(super) items: u64,
    /// Of these, how many were new.
    pub(super) taken: u64,
    /// How many lie before where the source began.
    pub(super) left_out: u64,
}

/// What is known in the middle of a round.
struct Course<'r> {
    began: Timestamp,
    cursor: Option<&'r Cursor>,
    floor: Option<Value>,
    reached: Option<Value>,
    /// From where on it is asked.
    from: Option<Value>,
    /// What has been met since the first page.
    pass: Pass,
    /// What the pass before this one has met, and this one has not yet. `None`: it is the first.
    missing: Option<HashSet<Mark>>,
    /// The first item that could not be followed, or is no event: the rest is taken in, and how far it came is not noted.
    bad: Option<Fault>,
    /// Items of former rounds that are on disk.
    seen: HashSet<Key>,
    /// The items of this round, all of which are on disk.
    keys: HashSet<Key>,
    tally: Tally,
    /// The last new item of the page in hand: how far it came is noted in its commit.
    held: Option<Fresh>,
}

/// An item that is not on disk, as far as is known.
type Fresh = (Key, Facts, Pulled);

impl<A: Ask + Sync> Round<'_, A> {
    /// Asks, and notes in `state` how far it came. What is in `state` when it fails is true, too.
    pub(super) async fn run(&self, state: &mut State, tally: &mut Tally) -> Result<End, Fault> {
        let mut course = self.course(state)?;
        let before = state.clone();
        let ended = self.passes(&mut course, state).await;
        // What could not be noted, or not with it, is taken in all the same.
        let ended = self.let_go(&mut course).await.and(ended);
        *tally = course.tally;
        if ended.is_err() {
            // What is on disk need not be held against the store again.
            state.see(&course.keys, false);
            if state.reached != before.reached && ended.as_ref().is_err_and(|fault| fault.code == Code::BadCursor) {
                // The order that was gone by did not hold.
                state.reached.clone_from(&before.reached);
                self.keep(state).await?;
            }
        }
        ended
    }

    fn course(&self, state: &State) -> Result<Course<'_>, Fault> {
        let cursor = self.poll.cursor.as_ref();
        let kept = |text: &Option<String>| match (cursor, text) {
            (Some(cursor), Some(text)) => cursor.kept(text).map(Some),
            _ => Ok(None),
        };
        let began = self.clock.now();
        let (floor, reached) = (kept(&state.floor)?, kept(&state.reached)?);
        // A clock that ran ahead has let in what lies ahead of it now: until it is there again, nothing would be asked for.
        let reached = match cursor.filter(|cursor| cursor.from == From::Item) {
            Some(cursor) => reached.map(|reached| reached.not_after(cursor.kind, began)),
            None => reached,
        };
        let from = cursor.and_then(|cursor| cursor.asks(floor.as_ref(), reached.as_ref()));
        Ok(Course {
            began,
            cursor,
            floor,
            reached,
            from,
            pass: Pass::default(),
            missing: None,
            bad: None,
            seen: state.seen.clone(),
            keys: HashSet::new(),
            tally: Tally::default(),
            held: None,
        })
    }

    /// Goes over the pages, and again where that may have left something out.
    async fn passes(&self, course: &mut Course<'_>, state: &mut State) -> Result<End, Fault> {
        let mut former: Option<(Pass, Came)> = None;
        for _ in 0..PASSES_MAX {
            let came = self.pages(course, state).await?;
            if came == Came::Stopped {
                return Ok(End::Stopped);
            }
            if let Some(bad) = course.bad.take() {
                return Err(bad);
            }
            let pass = std::mem::take(&mut course.pass);
            if course.missing.as_ref().is_some_and(HashSet::is_empty) {
                // The first of the two counts: the second need not have met what showed up later.
                let (pass, came) = former.unwrap_or((pass, came));
                course.pass = pass;
                return self.conclude(course, state, came).await;
            }
            if pass.pages <= 1 || !self.counts() {
                course.pass = pass;
                return self.conclude(course, state, came).await;
            }
            course.missing = Some(pass.met.clone());
            former = Some((pass, came));
        }
        let message = format!(
            "while the pages are counted, items leave the answer or change, {PASSES_MAX} times in a row: ask for larger pages, or for \
             an order and a `query` that what happens does not change"
        );
        Err(Fault::new(Code::BadPaging, message))
    }

    /// Notes how far it came: all of it is on disk.
    async fn conclude(&self, course: &mut Course<'_>, state: &mut State, came: Came) -> Result<End, Fault> {
        let end = if came == Came::Full { course.more()? } else { End::Through };
        self.advance(course, state, end == End::Through).await?;
        Ok(end)
    }

    /// Whether the next page is found by counting.
    fn counts(&self) -> bool {
        self.poll.paging.as_ref().is_some_and(Paging::counts)
    }

    /// Asks for page after page, and takes in what is new on them.
    async fn pages(&self, course: &mut Course<'_>, state: &mut State) -> Result<Came, Fault> {
        let first = match (course.cursor.and_then(|cursor| cursor.query.as_deref()), &course.from) {
            (Some(query), Some(from)) => with(&self.poll.url, query, &from.text),
            _ => self.poll.url.clone(),
        };
        let mut url = self.poll.paging.as_ref().map_or_else(|| first.clone(), |paging| paging.first(&first));
        let mut visited = HashSet::new();
        loop {
            visited.insert(url.clone());
            let Some(whole) = self.stop.run_until_cancelled(self.ask(&url)).await else { return Ok(Came::Stopped) };
            let whole = whole?;
            let page = Page::read(self.poll, &whole, course.began, self.clock.now())?;
            let (number, items) = (course.pass.pages, page.items.len() as u64);
            course.count(items);
            let over = course.is_over(&page);
            let page = self.take(course, page).await?;
            if course.missing.as_ref().is_some_and(HashSet::is_empty) {
                return Ok(Came::Over);
            }
            let had = Had { url: &url, number, items, so_far: course.pass.items, headers: &whole.headers, answer: &page };
            let next = match &self.poll.paging {
                Some(paging) if !over => paging.next(&first, &had)?,
                _ => None,
            };
            let Some(next) = next else { return course.end(&page).map(|()| Came::Through) };
            if visited.contains(&next) {
                return Err(Fault::new(Code::BadPaging, "the next page is one that was had already"));
            }
            if course.is_ascending() && !self.counts() && course.bad.is_none() {
                self.advance(course, state, false).await?;
            }
            self.let_go(course).await?;
            if self.poll.paging.as_ref().is_some_and(|paging| paging.max_pages <= course.pass.pages) {
                // Where that leads nowhere, nothing is asked for again.
                return if course.bad.is_some() { Ok(Came::Full) } else { course.more().map(|_| Came::Full) };
            }
            url = next;
        }
    }

    /// Notes in the store how far it came, where that is news: in the commit of the last event, or in one of its own.
    async fn advance(&self, course: &mut Course<'_>, state: &mut State, through: bool) -> Result<(), Fault> {
        let before = state.clone();
        let held = course.held.take();
        course.keys.extend(held.as_ref().map(|(key, ..)| *key));
        if let (Some(greatest), Some(cursor)) = (&course.pass.greatest, course.cursor) {
            let reached = match cursor.from {
                From::Item => greatest.clone().max(course.reached.clone()),
                From::Answer => greatest.clone(),
            };
            state.reached = Some(reached.text);
        }
        state.see(&course.keys, through);
        let noted = match held {
            Some(last) => self.accept(course, vec![last], Some(state.setting(&self.source.name))).await,
            None if *state == before => Ok(()),
            None => self.keep(state).await,
        };
        if noted.is_err() {
            *state = before;
        }
        noted
    }

    /// Takes in what is held back.
    async fn let_go(&self, course: &mut Course<'_>) -> Result<(), Fault> {
        match course.held.take() {
            Some(last) => self.accept(course, vec![last], None).await,
            None => Ok(()),
        }
    }

    async fn keep(&self, state: &State) -> Result<(), Fault> {
        state.keep(self.store, &self.source.name).await.map_err(|error| Fault::new(Code::Store, error.to_string()))
    }

    /// Takes in what of `page` is new, in its order, but for the last item, which is held back; answers the rest of the page.
    async fn take(&self, course: &mut Course<'_>, page: Page) -> Result<serde_json::Value, Fault> {
        let Page { items, answer, bad } = page;
        course.fails(bad);
        course.meet(&items)?;
        let mut fresh: Vec<Fresh> = Vec::new();
        let mut batch = HashSet::new();
        for (place, item) in items.into_iter().enumerate() {
            let before = course.lies_before(&item);
            let facts = match self.source.kind.pulled(&item.pulled) {
                Ok(facts) => facts,
                Err(_) if before => continue,
                Err(rejection) => {
                    let why = rejection.reason.map_or_else(|| rejection.code.message().to_owned(), |reason| reason.into_owned());
                    course.fails(Some(Fault::new(Code::BadItem, format!("an item (number {}) is no event: {why}", place + 1))));
                    continue;
                }
            };
            let key = dedupe::key_of(&self.source.name, &facts.id, &item.pulled.raw().body);
            if self.counts() {
                course.mark(key, item.value.as_ref());
            }
            if before {
                course.tally.left_out += 1;
                continue;
            }
            if course.seen.contains(&key) {
                course.keys.insert(key);
            }
            if course.keys.contains(&key) || !batch.insert(key) {
                continue;
            }
            fresh.push((key, facts, item.pulled));
        }
        course.held = fresh.pop();
        while !fresh.is_empty() {
            let slice = fresh.drain(..fresh.len().min(TAKEN_AT_ONCE)).collect();
            self.accept(course, slice, None).await?;
        }
        Ok(answer)
    }

    /// Takes in the items of `slice`, with `setting` in their commit.
    async fn accept(&self, course: &mut Course<'_>, slice: Vec<Fresh>, setting: Option<(String, String)>) -> Result<(), Fault> {
        // Planned by the rules of one file.
        let inbound = self.ingest.inbound.now();
        let one =
            async |(key, facts, item): Fresh| (key, self.ingest.pull(&inbound, self.source, facts, &item, setting.clone()).await);
        let mut failed = None;
        for (key, accepted) in all(slice.into_iter().map(one)).await {
            match accepted {
                Ok(accepted) => {
                    course.keys.insert(key);
                    course.tally.taken += u64::from(matches!(accepted, Accepted::New { .. }));
                }
                Err(error) => {
                    course.keys.remove(&key);
                    failed = Some(Fault::new(Code::Store, error.to_string()));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn ask(&self, url: &Url) -> Result<Whole, Fault> {
        let mut headers = self.poll.headers.clone();
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static(JSON));
        let deadline = Instant::now() + self.poll.timeout;
        let whole = self.fetch.whole(url, headers, self.poll.max_body, deadline).await.map_err(|error| match error {
            NotWhole::Failed(code, detail) => Fault::new(Code::Unanswered(code), detail),
            NotWhole::TooLarge => Fault::new(Code::TooLarge, "the answer is larger than `max_body`"),
        })?;
        if (200..300).contains(&whole.status) {
            return Ok(whole);
        }
        let text = |name| whole.headers.get(name).and_then(|value| value.to_str().ok());
        let wait = text(RETRY_AFTER).and_then(|text| retry_after(text, self.clock.now()));
        Err(Fault::status(whole.status, text(LOCATION), wait))
    }
}

impl Course<'_> {
    fn is_ascending(&self) -> bool {
        self.cursor.is_some_and(|cursor| cursor.order == Order::Ascending)
    }

    /// Counts a page of so many items.
    fn count(&mut self, items: u64) {
        (self.pass.pages, self.pass.items) = (self.pass.pages + 1, self.pass.items + items);
        (self.tally.pages, self.tally.items) = (self.tally.pages.saturating_add(1), self.tally.items + items);
    }

    /// Notes what is wrong with an item, where nothing was before.
    fn fails(&mut self, fault: Option<Fault>) {
        self.bad = self.bad.take().or(fault);
    }

    /// Notes that the item of `key` was met with `value`, unless it is one on which such a pass may end before the next one does.
    fn mark(&mut self, key: Key, value: Option<&Value>) {
        let descending = self.cursor.is_some_and(|cursor| cursor.order == Order::Descending);
        if descending && matches!((value, &self.from), (Some(value), Some(from)) if value.is_before(from)) {
            return;
        }
        let mark = Mark::of(key, value);
        if let Some(missing) = &mut self.missing {
            missing.remove(&mark);
        }
        self.pass.met.insert(mark);
    }

    /// Notes where all of the answer leads; `answer` is its last page.
    fn end(&mut self, answer: &serde_json::Value) -> Result<(), Fault> {
        let Some(cursor) = self.cursor.filter(|_| self.bad.is_none()) else { return Ok(()) };
        let empty = self.pass.items == 0;
        if cursor.from == From::Answer {
            self.pass.greatest = cursor.of_answer(answer, self.reached.as_ref(), empty)?;
        }
        if self.pass.greatest.is_none() && !empty { Err(cursor.nowhere()) } else { Ok(()) }
    }

    /// Notes the values of `items`, the page in hand.
    fn meet(&mut self, items: &[Item]) -> Result<(), Fault> {
        let ascending = self.is_ascending();
        let mut greatest = self.pass.greatest.clone();
        for value in items.iter().filter_map(|item| item.value.as_ref()) {
            if let Some(last) = self.pass.greatest.as_ref().filter(|last| ascending && value.is_before(last)) {
                let (one, other) = (shown(&value.text), shown(&last.text));
                let message = format!("the items are not in ascending order: `{one}` stands on a page behind `{other}`");
                return Err(Fault::new(Code::BadCursor, message));
            }
            greatest = Some(value.clone().max(greatest));
        }
        self.pass.greatest = greatest;
        Ok(())
    }

    /// Whether an item lies before all that is wanted.
    fn lies_before(&self, item: &Item) -> bool {
        matches!((&item.value, &self.floor), (Some(value), Some(floor)) if value.is_before(floor))
    }

    /// Whether of an answer that begins with the newest the rest is known.
    fn is_over(&self, page: &Page) -> bool {
        let Some(from) = &self.from else { return false };
        let before = |item: &Item| item.value.as_ref().is_some_and(|value| value.is_before(from));
        self.cursor.is_some_and(|cursor| cursor.order == Order::Descending)
            && !page.items.is_empty()
            && page.items.iter().all(before)
    }

    /// What it comes to that there are more pages than one round may have.
    fn more(&self) -> Result<End, Fault> {
        let bad =
            |what: &str| Err(Fault::new(Code::BadPaging, format!("after {} pages {what}: raise `max_pages`", self.pass.pages)));
        match (&self.pass.greatest, &self.reached) {
            _ if !self.is_ascending() => bad("there are more, and only once all were had is anything asked from further on"),
            (Some(greatest), Some(reached)) if !reached.is_before(greatest) => bad("there are more, and nothing new on them"),
            // The clock alone would bring such a value further, and there would be more for ever.
            (Some(greatest), _) if greatest.is_about(self.began) && self.tally.taken == 0 => {
                bad("there are more, and nothing new on them but times to come")
            }
            (None, _) => bad("there are more, and no item has a value"),
            _ => Ok(End::More),
        }
    }
}

/// What all of `futures` come to, in their order, in which they also begin.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut work: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        let mut all = true;
        for (future, done) in work.iter_mut().filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(cx) {
                Ready::Ready(output) => *done = Some(output),
                Ready::Pending => all = false,
            }
        }
        if all { Ready::Ready(()) } else { Ready::Pending }
    })
    .await;
    work.into_iter().filter_map(|(_, done)| done).collect()
}
