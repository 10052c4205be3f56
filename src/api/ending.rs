//! The end of whoever asks, for answers that last: its token expires or is revoked, or its pass does, while it is answered.

use std::sync::Arc;

use crate::{
    access::{BOOTSTRAP, Caller, Tokens},
    clock::{Clock, Timestamp},
};

use super::Api;

/// Tells when a caller's token has ended.
pub(super) struct Ending {
    tokens: Arc<Tokens>,
    clock: Clock,
    id: String,
    at: Option<Timestamp>,
}

impl Ending {
    /// Of `caller`, at `at` at the latest.
    pub(super) fn of(api: &Api, caller: &Caller, at: Option<Timestamp>) -> Self {
        let token_ends = api.tokens.get(&caller.id).and_then(|token| token.expires_at);
        let at = at.into_iter().chain(token_ends).min();
        Self { tokens: api.tokens.clone(), clock: api.clock.clone(), id: caller.id.clone(), at }
    }

    /// Waits until it has.
    pub(super) async fn ended(&self) {
        let mut changes = self.tokens.changes();
        let expired = async {
            match self.at {
                Some(at) => self.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let revoked = async {
            while self.is_alive() {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = expired => {}
            () = revoked => {}
        }
    }

    fn is_alive(&self) -> bool {
        self.id == BOOTSTRAP || self.tokens.alive(&self.id, self.clock.now()).is_some()
    }
}
