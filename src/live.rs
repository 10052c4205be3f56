//! What holds now, of something that changes as a whole: whoever works takes it once and goes by it to the end, whatever is put in its
//! place meanwhile.

use std::sync::{Arc, PoisonError, RwLock};

/// One value that never changes behind one pointer that does. Clones share the pointer.
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl<T> Live<T> {
    /// Holds `value` until another takes its place.
    pub fn new(value: Arc<T>) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    /// What holds now. The lock is held for a clone of the pointer, never across anything that waits.
    pub fn now(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `value` in its place. What it held goes when the last who works by it is done.
    pub fn replace(&self, value: Arc<T>) {
        let held = std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), value);
        // Outside the lock: it may be large.
        drop(held);
    }

    /// Whether `value` is what holds now.
    pub fn is(&self, value: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.0.read().unwrap_or_else(PoisonError::into_inner), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_took_the_old_one_keeps_it_and_all_clones_hand_out_the_new_one() {
        let live = Live::new(Arc::new(1));
        let (other, old) = (live.clone(), live.now());
        assert!(other.is(&old));
        other.replace(Arc::new(2));
        assert_eq!((*old, *live.now(), live.is(&old)), (1, 2, false));
    }
}
