//! Places for answers that last: so many at once for each token, and so many for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{events, stream};

/// The places of both listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lasting {
    /// Of requests that wait for events.
    pub(super) waiting: Arc<Places>,
    /// Of streams.
    pub(super) streams: Arc<Places>,
}

impl Lasting {
    /// How many requests wait for events now.
    pub fn waiting(&self) -> usize {
        self.waiting.count()
    }

    /// How many streams are open now.
    pub fn streams(&self) -> usize {
        self.streams.count()
    }
}

impl Default for Lasting {
    fn default() -> Self {
        Self {
            waiting: Places::new(events::WAITING_EACH_MAX, events::WAITING_ALL_MAX),
            streams: Places::new(stream::EACH_MAX, stream::ALL_MAX),
        }
    }
}

/// The places there are, and who has one.
#[derive(Debug)]
pub(super) struct Places {
    each: usize,
    all: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// This token has as many as it may.
    ByToken,
    /// All of them are.
    ByAll,
}

impl Places {
    /// At most `each` for one token, and `all` together.
    pub(super) fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, taken: Mutex::default() })
    }

    /// A place for `token`, until it is dropped.
    pub(super) fn take(self: &Arc<Self>, token: &str) -> Result<Place, Taken> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(token).copied().unwrap_or_default();
        if self.each <= count {
            return Err(Taken::ByToken);
        }
        if self.all <= taken.values().sum() {
            return Err(Taken::ByAll);
        }
        taken.insert(token.to_owned(), count + 1);
        Ok(Place { places: self.clone(), token: token.to_owned() })
    }

    fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// One place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    token: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_share_and_nobody_takes_all() {
        let places = Places::new(2, 3);
        let first = places.take("a").unwrap();
        let second = places.take("a").unwrap();
        assert_eq!(places.take("a").unwrap_err(), Taken::ByToken);
        let third = places.take("b").unwrap();
        assert_eq!(places.take("c").unwrap_err(), Taken::ByAll);
        drop(first);
        assert!(places.take("a").is_ok());
        drop((second, third));
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
