//! What every back end keeps in memory of what it reads: words of the code, and events that were read just now.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::envelope::Envelope;

/// How many words that are not ours yet a store takes in before they all read as [`OTHER`].
const WORDS_MAX: usize = 256;
/// What a word beyond [`WORDS_MAX`] reads as.
const OTHER: &str = "other";

/// Words of the code (kinds, codes of answers) that lie in the tables as text and are static in memory.
///
/// They were static when they were written, so there are few; a file that somebody changed cannot make them many.
#[derive(Debug, Default)]
pub(in crate::store) struct Words(Mutex<Vec<&'static str>>);

impl Words {
    /// The static word that says `text`.
    pub(in crate::store) fn get(&self, text: &str) -> &'static str {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = known.iter().find(|word| **word == text) {
            return word;
        }
        if WORDS_MAX <= known.len() {
            return OTHER;
        }
        let word: &'static str = Box::leak(text.into());
        known.push(word);
        word
    }
}

/// Most events that [`Recent`] holds.
const RECENT_MAX: usize = 4096;
/// Most bytes of their bodies and texts.
const RECENT_BYTES: usize = 8 * 1024 * 1024;

/// Events that were read for delivery just now: lanes that have fallen behind read the same ones one after the other. An event
/// never changes, and one that was removed has no delivery left that would ask for it.
#[derive(Debug, Default)]
pub(in crate::store) struct Recent(Mutex<RecentEvents>);

#[derive(Debug, Default)]
struct RecentEvents {
    by_seq: HashMap<i64, Arc<Envelope>>,
    order: VecDeque<i64>,
    bytes: usize,
}

impl Recent {
    /// The event at `seq`, where it is held.
    pub(in crate::store) fn get(&self, seq: i64) -> Option<Arc<Envelope>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_seq.get(&seq).cloned()
    }

    /// Holds `event`, and lets go of the earliest beyond the bounds.
    pub(in crate::store) fn put(&self, seq: i64, event: &Arc<Envelope>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.by_seq.insert(seq, event.clone()).is_none() {
            held.order.push_back(seq);
            held.bytes += size(event);
        }
        while RECENT_MAX < held.order.len() || RECENT_BYTES < held.bytes {
            let Some(first) = held.order.pop_front() else { return };
            let gone = held.by_seq.remove(&first);
            held.bytes -= gone.map_or(0, |event| size(&event));
        }
    }
}

fn size(event: &Envelope) -> usize {
    let texts = [Some(&event.id), Some(&event.r#type), event.subject.as_ref(), event.namespace.as_ref()];
    event.body.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_words_are_bounded() {
        let words = Words::default();
        assert_eq!(words.get("hmac"), "hmac");
        for n in 0..2 * WORDS_MAX {
            words.get(&n.to_string());
        }
        assert_eq!(words.get("hmac"), "hmac");
        assert_eq!(words.get("one more"), OTHER);
    }
}
