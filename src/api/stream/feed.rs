//! One stream: page after page from the store to whoever reads, a heartbeat between, until one side ends it. It holds a page and
//! nothing of the store: whoever reads slowly holds up nobody, and whoever reads too slowly is let go with its cursor.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    body::Writer,
    frame::{self, EXPIRED, LAGGING},
};
use crate::{
    api::{
        ending::Ending,
        follow::{Following, Leaf},
        places::Place,
    },
    clock::Clock,
    envelope::EventUid,
    listen::Peer,
};

/// How often a stream shows that it lives, however much else it says: listeners take one that has not for stale after 45 s (Interactor
/// webhooks guide, "Heartbeat & Connection Health").
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long a page may wait for whoever reads: that is too slow.
const LAG_MAX: Duration = Duration::from_secs(30);
/// How long the end of a stream may wait for whoever reads, before the connection is ended.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after a page the next one is looked for at the earliest: what is committed meanwhile comes with it.
const PACE: Duration = Duration::from_millis(10);

/// What a stream works with.
pub(super) struct Feed {
    /// Its events.
    pub(super) following: Following,
    /// Where they go.
    pub(super) writer: Writer,
    /// What may end it.
    pub(super) bounds: Bounds,
    /// Its place among the streams of its token.
    pub(super) place: Place,
}

/// What may end a stream from without.
pub(super) struct Bounds {
    pub(super) clock: Clock,
    /// The relay stops.
    pub(super) stop: CancellationToken,
    /// Is done when the token has ended.
    pub(super) token: Ending,
    /// The connection, where there is one.
    pub(super) peer: Option<Arc<Peer>>,
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody reads any more.
    Gone,
    /// Whoever reads is too slow.
    Lagging,
    /// The token has expired or was revoked.
    Expired,
    /// The relay stops, or its store does.
    Stopped,
}

impl Feed {
    /// Says `first`, which goes from behind `from` to `at`, then what comes, until it ends.
    pub(super) async fn run(mut self, first: Vec<u8>, from: EventUid, at: EventUid) {
        let mut said = from;
        let end = self.say(first, at, &mut said).await;
        debug!(?end, "a stream ends");
        let words = match end {
            End::Lagging => Some(frame::last(LAGGING, said)),
            End::Expired => Some(frame::last(EXPIRED, said)),
            End::Gone | End::Stopped => None,
        };
        let Self { writer, bounds, place, .. } = self;
        let gone = writer.end(words);
        // Real time: a stop does not wait for a clock that stands.
        if tokio::time::timeout(PATIENCE, gone.cancelled()).await.is_err()
            && let Some(peer) = &bounds.peer
        {
            peer.close();
        }
        drop(place);
    }

    /// Says all there is; `said` is the cursor behind what was put in line.
    async fn say(&mut self, first: Vec<u8>, mut at: EventUid, said: &mut EventUid) -> End {
        let clock = self.bounds.clock.clone();
        let mut beat = Box::pin(clock.sleep(HEARTBEAT));
        if let Some(end) = self.send(first).await {
            return end;
        }
        *said = at;
        loop {
            let chunk = tokio::select! {
                biased;
                end = self.bounds.over(&self.writer) => return end,
                () = &mut beat => {
                    beat = Box::pin(clock.sleep(HEARTBEAT));
                    frame::heartbeat(clock.now(), at)
                }
                leaf = self.following.next() => match leaf {
                    Ok(leaf) => {
                        at = leaf.upto;
                        frames(&leaf)
                    }
                    Err(error) => {
                        debug!("a stream cannot go on: {error}");
                        return End::Stopped;
                    }
                },
            };
            if !chunk.is_empty() {
                if let Some(end) = self.send(chunk).await {
                    return end;
                }
                *said = at;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Puts `chunk` in line; answers the end that came before there was room.
    async fn send(&self, chunk: Vec<u8>) -> Option<End> {
        tokio::select! {
            biased;
            end = self.bounds.over(&self.writer) => Some(end),
            read = self.writer.send(Bytes::from(chunk)) => (!read).then_some(End::Gone),
            () = self.bounds.clock.sleep(LAG_MAX) => Some(End::Lagging),
        }
    }
}

impl Bounds {
    /// Waits for whatever ends the stream first.
    async fn over(&self, writer: &Writer) -> End {
        let left = async {
            match &self.peer {
                Some(peer) => peer.left().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => End::Stopped,
            () = writer.gone() => End::Gone,
            () = left => End::Gone,
            () = self.token.ended() => End::Expired,
        }
    }
}

/// What a page says: its events. How far it has looked comes with the next heartbeat.
pub(super) fn frames(leaf: &Leaf) -> Vec<u8> {
    let mut out = Vec::new();
    for event in &leaf.events {
        frame::event(&mut out, event);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        access::Caller,
        api::{
            follow::{Cursor, Types},
            places::Places,
            stream::body,
            tests::{Fake, api},
        },
        store::Filter,
    };

    #[tokio::test]
    async fn what_was_not_sent_is_behind_the_cursor_of_a_stream_whose_token_has_ended_already() {
        let api = api(Arc::new(Fake::default()));
        let filter = Filter { limit: 3, ..Filter::default() };
        let mut following = Following::new(api.store.clone(), Cursor::at(2), filter, Types::default(), true, 1024).await.unwrap();
        let leaf = following.look().await.unwrap();
        let from = EventUid { seq: 2, ..leaf.upto };
        let (writer, body) = body::body();
        let caller = Caller::bootstrap();
        let token = Ending::of(&api, &caller, Some(api.clock.now()));
        let bounds = Bounds { clock: api.clock.clone(), stop: api.stop.clone(), token, peer: None };
        let place = Places::new(1, 1).take(&caller.id).unwrap();
        assert!(!leaf.events.is_empty());
        let ran = Feed { following, writer, bounds, place }.run(frames(&leaf), from, leaf.upto);
        let (_, said) = tokio::join!(ran, body.collect());
        assert_eq!(said.unwrap().to_bytes(), frame::last(EXPIRED, from), "the cursor behind what was never sent");
    }
}
