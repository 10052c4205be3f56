//! Writes attempts to the store, for as long as it takes; and tells lanes when the store refuses, so that nothing is sent
//! that could not be recorded.
//!
//! A refusal of any lane's attempts stops every lane at once, and so does a store that gives no answer for a second. What has been
//! sent by then is what a commit usually covers: a lane cannot know of a refusal before it asks, and asking before each attempt would cost
//! a sync each. It is recorded once the store takes it, and bounded by `UNRECORDED_MAX` in any case. A store that takes everything but one
//! attempt gets that one bare.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::timeout};

use crate::store::{self, Attempt, Store};

/// Waits between tries of writing what the store refused: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often the store finds fault with an attempt, while it takes other things, until less of it is recorded: what somebody answered must
/// not keep everybody from being sent to.
const FAULTS: u32 = 3;
/// How long the store may take to answer until that is as good as a refusal: a locked one says so after 5 s only.
const PATIENCE: Duration = Duration::from_secs(1);

/// Records attempts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Recorder {
    store: Arc<dyn Store>,
    /// How many batches the store has refused and not yet taken.
    refused: Arc<watch::Sender<usize>>,
}

impl Recorder {
    /// Records in `store`.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, refused: Arc::new(watch::Sender::new(0)) }
    }

    /// How many batches of attempts wait because the store refuses them; lanes begin nothing while there are any.
    pub(super) fn refused(&self) -> watch::Receiver<usize> {
        self.refused.subscribe()
    }

    /// Whether any do.
    pub(super) fn is_refused(&self) -> bool {
        *self.refused.borrow() != 0
    }

    /// Records `attempts` in one commit, trying until the store takes them; each alone, where it finds fault with one. False: the store
    /// has closed, and their deliveries stay as they were. Calls that come at the same time share a commit, as the store's writer batches
    /// them.
    pub(super) async fn record(&self, attempts: Vec<Attempt>) -> bool {
        let mut tries = Tries::of(self);
        loop {
            match tries.write(attempts.clone()).await {
                Ok(()) => return true,
                Err(store::Error::Closed) => return false,
                Err(store::Error::Backend(_)) => break,
                Err(_) => tries.pause().await,
            }
        }
        for attempt in attempts {
            if !tries.alone(attempt).await {
                return false;
            }
        }
        true
    }
}

/// Tries to record some attempts.
struct Tries<'r> {
    recorder: &'r Recorder,
    /// Since the store first refused them, or was slow to answer.
    waiting: Option<Waiting>,
    pause: Duration,
    said: bool,
}

impl<'r> Tries<'r> {
    fn of(recorder: &'r Recorder) -> Self {
        Self { recorder, waiting: None, pause: BACKOFF_MIN, said: false }
    }

    /// Records one, trying until the store takes it; with less and less of what others had a hand in where the store takes other things.
    async fn alone(&mut self, attempt: Attempt) -> bool {
        self.pause = BACKOFF_MIN;
        let (mut kept, mut faults) = (Kept::All, 0);
        loop {
            match self.write(vec![kept.of(&attempt)]).await {
                Ok(()) => return true,
                Err(store::Error::Closed) => return false,
                Err(store::Error::Backend(_)) => faults += 1,
                Err(_) => {}
            }
            // A store that takes nothing at all finds no fault with this one.
            if FAULTS <= faults && !matches!(self.recorder.store.ready().await, Err(store::Error::Backend(_))) {
                (kept, faults) = (kept.less(), 0);
                tracing::error!(delivery.id = %attempt.delivery, attempt = attempt.number, "the store finds fault with an attempt: it is recorded {}", kept.words());
            }
            self.pause().await;
        }
    }

    /// Tries once. While the store refuses, or takes its time, nothing is sent.
    async fn write(&mut self, attempts: Vec<Attempt>) -> store::Result<()> {
        let count = attempts.len();
        let mut recording = self.recorder.store.record(attempts);
        let answer = match timeout(PATIENCE, &mut recording).await {
            Ok(answer) => answer,
            Err(_) => {
                if self.waiting.is_none() {
                    tracing::warn!(attempts = count, "the store does not answer; nothing is sent until it does");
                }
                self.wait();
                recording.await
            }
        };
        if let Err(error) = &answer
            && !matches!(error, store::Error::Closed)
        {
            if !std::mem::replace(&mut self.said, true) {
                tracing::error!(attempts = count, %error, "the store refuses attempts; nothing is sent until it takes them");
            }
            self.wait();
        }
        answer
    }

    fn wait(&mut self) {
        self.waiting.get_or_insert_with(|| Waiting::new(self.recorder.refused.clone()));
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
    }
}

/// How much of an attempt is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    /// Not what was answered.
    Bare,
    /// Nor what was made for it: the next attempt makes that anew.
    Barest,
}

impl Kept {
    fn less(self) -> Self {
        match self {
            Self::All => Self::Bare,
            Self::Bare | Self::Barest => Self::Barest,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::All => "as it is",
            Self::Bare => "without what was answered",
            Self::Barest => "without what was answered and what was made for it",
        }
    }

    fn of(self, attempt: &Attempt) -> Attempt {
        let detail = || Some(format!("the store found fault with this attempt: it is kept {}", self.words()));
        match self {
            Self::All => attempt.clone(),
            Self::Bare => Attempt { detail: detail(), response: Bytes::new(), ..attempt.clone() },
            Self::Barest => Attempt { detail: detail(), response: Bytes::new(), rendered: None, ..attempt.clone() },
        }
    }
}

/// Counts one refused batch for as long as it lives.
struct Waiting(Arc<watch::Sender<usize>>);

impl Waiting {
    fn new(refused: Arc<watch::Sender<usize>>) -> Self {
        refused.send_modify(|count| *count += 1);
        Self(refused)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        deliver::testing::{MemoryStore, Receiver, Relay, destination},
        store::State,
    };

    /// A relay with a target that answers what the store finds fault with, and another.
    async fn relay(store: Arc<MemoryStore>) -> (Relay, Receiver) {
        let (odd, fine) = (Receiver::start([503]).await, Receiver::start([200]).await);
        let to = |name, url: String| destination(name, &format!("{{kind: webhook, url: '{url}', concurrency: 4}}")).unwrap();
        (Relay::on(store, vec![to("odd", odd.url()), to("fine", fine.url())]), fine)
    }

    #[tokio::test]
    async fn an_attempt_that_the_store_finds_fault_with_is_recorded_bare_and_stops_no_other_lane() {
        let store = Arc::new(MemoryStore::default());
        *store.fault.lock().unwrap() = Some(|attempt| attempt.status == Some(503) && !attempt.response.is_empty());
        let (relay, fine) = relay(store).await;
        (0..3).for_each(|_| relay.accept(&["odd"]));
        relay.settled("the odd ones are recorded", |store| store.attempts.lock().unwrap().len() == 3).await;
        (0..3).for_each(|_| relay.accept(&["fine"]));
        relay.settled("the others arrive", |store| store.states(State::Delivered) == 3).await;
        assert_eq!(fine.received().len(), 3);
        let attempts = relay.store.attempts.lock().unwrap().clone();
        let odd = attempts.iter().filter(|attempt| attempt.status == Some(503));
        for attempt in odd {
            assert_eq!(attempt.error.as_deref(), Some("http_503"));
            assert!(attempt.response.is_empty() && attempt.detail.as_deref().unwrap().contains("without what was answered"));
        }
        assert!(!relay.deliver.is_refused());
    }

    #[tokio::test]
    async fn what_was_made_is_given_up_last() {
        let store = Arc::new(MemoryStore::default());
        *store.fault.lock().unwrap() = Some(|attempt| attempt.rendered.is_some());
        let odd = Receiver::start([503]).await;
        let yaml = format!(
            "{{kind: webhook, url: '{}', payload: template, template: '{{\"t\":{{{{ event.type | tojson }}}}}}'}}",
            odd.url()
        );
        let relay = Relay::on(store, vec![destination("odd", &yaml).unwrap()]);
        relay.accept(&["odd"]);
        relay.settled("it is recorded", |store| store.attempts.lock().unwrap().len() == 1).await;
        let attempt = relay.store.attempts.lock().unwrap()[0].clone();
        assert!(attempt.rendered.is_none() && attempt.detail.unwrap().contains("what was made for it"));
    }

    #[tokio::test]
    async fn a_store_that_takes_nothing_loses_nothing_of_an_attempt() {
        let store = Arc::new(MemoryStore::default());
        *store.fault.lock().unwrap() = Some(|_| true);
        store.unwell.store(true, std::sync::atomic::Ordering::SeqCst);
        let (relay, _) = relay(store).await;
        relay.accept(&["odd"]);
        // Longer than three tries take.
        let asked = || relay.store.asked.load(std::sync::atomic::Ordering::SeqCst);
        crate::deliver::testing::eventually("it was asked whether it is well", || asked() != 0).await;
        assert!(relay.deliver.is_refused());
        *relay.store.fault.lock().unwrap() = None;
        relay.settled("it is recorded", |store| store.attempts.lock().unwrap().len() == 1).await;
        assert_eq!(&*relay.store.attempts.lock().unwrap()[0].response, b"answered");
    }
}
