//! The connection behind a request, for answers that last: whether anybody is still there, and an end for those that do not read.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::net::{TcpStream, tcp::OwnedReadHalf};
use tokio_util::sync::CancellationToken;

/// The connection that a request came by; an extension of every request. Holding one keeps the socket open.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    reading: Arc<OwnedReadHalf>,
    end: CancellationToken,
}

impl Peer {
    /// The one that is read by `reading` and ended by `end`.
    pub(super) fn new(reading: Arc<OwnedReadHalf>, end: CancellationToken) -> Self {
        Self { reading, end }
    }

    /// Waits until the other side has closed its half, or the connection broke. Senders of requests may close theirs before they read the
    /// answer, so nothing here ends by itself; whoever follows a stream does not. Where the other side has sent something that nobody
    /// reads, this waits for ever.
    pub(crate) async fn left(&self) {
        let stream: &TcpStream = self.reading.as_ref().as_ref();
        if !matches!(stream.peek(&mut [0]).await, Ok(0) | Err(_)) {
            pending::<()>().await;
        }
    }

    /// Has the system break the connection once what was sent is not acknowledged for so long: the other side has vanished without a
    /// word, and [`Peer::left`] tells. Where the system knows no such limit its own holds, which is longer.
    pub(crate) fn vanishes_after(&self, silence: Duration) {
        #[cfg(target_os = "linux")]
        {
            let stream: &TcpStream = self.reading.as_ref().as_ref();
            let silence_ms = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
            if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, silence_ms) {
                tracing::debug!("a connection keeps the system's limit of silence: {error}");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = silence;
    }

    /// Ends the connection, with all requests under way on it.
    pub(crate) fn close(&self) {
        self.end.cancel();
    }
}
