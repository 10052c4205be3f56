//! The body of a stream: chunks as they are made, one of which waits at most.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Chunks that wait for whoever reads.
const WAITING_MAX: usize = 1;

/// The side that is read.
pub(super) struct Body {
    chunks: mpsc::Receiver<Bytes>,
    last: Arc<Mutex<Option<Bytes>>>,
    _gone: DropGuard,
}

/// The side that writes.
pub(super) struct Writer {
    chunks: mpsc::Sender<Bytes>,
    last: Arc<Mutex<Option<Bytes>>>,
    gone: CancellationToken,
}

/// Both sides of a body.
pub(super) fn body() -> (Writer, Body) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (last, gone) = (Arc::default(), CancellationToken::new());
    let writer = Writer { chunks: sender, last: Arc::clone(&last), gone: gone.clone() };
    (writer, Body { chunks: receiver, last, _gone: gone.drop_guard() })
}

impl Writer {
    /// Puts `chunk` in line, once there is room; false when nobody reads any more.
    pub(super) async fn send(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Is done once the body is gone, read or not.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Ends the body: what waits, then `words`, without waiting for either. Answers what tells when it is gone.
    pub(super) fn end(self, words: Option<Vec<u8>>) -> CancellationToken {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = words.map(Bytes::from);
        self.gone
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = ready!(self.chunks.poll_recv(cx));
        let chunk = chunk.or_else(|| self.last.lock().unwrap_or_else(PoisonError::into_inner).take());
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_waits_comes_before_the_last_words_which_wait_for_nobody() {
        let (writer, body) = body();
        assert!(writer.send(Bytes::from_static(b"one ")).await);
        let full = tokio::time::timeout(std::time::Duration::from_millis(20), writer.send(Bytes::from_static(b"two ")));
        assert!(full.await.is_err(), "one chunk waits at most");
        let gone = writer.end(Some(b"last".to_vec()));
        assert!(!gone.is_cancelled());
        assert_eq!(&body.collect().await.unwrap().to_bytes()[..], b"one last");
        assert!(gone.is_cancelled());
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_any_more_is_gone() {
        let (writer, body) = body();
        drop(body);
        writer.gone().await;
        assert!(!writer.send(Bytes::new()).await);
    }
}
