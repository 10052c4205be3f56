//! Reading a request's body: no more than is allowed, and no longer than is allowed, however it trickles.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Version, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// Longest time a whole body may take, from the end of the header.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Room made for a body before any of it has come, in bytes: what is declared is only believed when it arrives.
const BODY_START: usize = 16 * 1024;
/// Memory for all bodies under way together, in bytes, beyond the first [`BODY_START`] of each, so that usual events always find room.
const ROOM: usize = 256 * 1024 * 1024;
/// How long the rest of a body that is not wanted is read and dropped behind its answer.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a sender that goes on and on is left to notice the answer, once nothing more is read from it.
const LINGER: Duration = Duration::from_secs(1);

/// What came of reading a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    /// All of it.
    Whole(Bytes),
    /// More than is allowed: so many bytes as far as is known.
    TooLarge(u64),
    /// There was no memory for it: too many large ones are under way.
    NoRoom,
    /// It did not end in time.
    Slow,
    /// The sender broke it off, or its framing is wrong.
    Broken,
}

/// The memory that bodies under way share, so that no number of connections can exhaust it.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    /// Room for [`ROOM`]: for at least four of the largest bodies that `max_body` can allow.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM / 1024)))
    }

    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024).ok()?;
        self.0.clone().try_acquire_many_owned(kib).ok()
    }
}

/// Reads the body behind `head`, at most `max` bytes, within `room`; what it takes of that is free again when the permit goes. Of a
/// larger one up to as much again is read and dropped behind the answer, so that its sender gets to see that. A sender that waits for
/// `100 Continue` with too much is not asked for it.
pub(crate) async fn read(head: &Parts, body: Body, max: usize, room: &Room) -> (Read, Option<OwnedSemaphorePermit>) {
    read_within(BODY_TIMEOUT, head, body, max, room).await
}

async fn read_within(
    allowed: Duration,
    head: &Parts,
    mut body: Body,
    max: usize,
    room: &Room,
) -> (Read, Option<OwnedSemaphorePermit>) {
    let twice = max.saturating_mul(2);
    if let Some(length) = declared(head).filter(|length| *length > max as u64) {
        if !head.headers.contains_key(header::EXPECT) {
            dismiss(body, twice);
        }
        return (Read::TooLarge(length), None);
    }
    let mut gathered = Gathered::new(max, room);
    let read = timeout(allowed, gathered.gather(&mut body)).await.unwrap_or(Read::Slow);
    if matches!(read, Read::TooLarge(_) | Read::NoRoom) {
        dismiss(body, twice.saturating_sub(gathered.seen));
    }
    (read, gathered.held)
}

fn declared(head: &Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body as far as it has come.
struct Gathered<'r> {
    max: usize,
    seen: usize,
    first: Bytes,
    all: BytesMut,
    room: &'r Room,
    /// Bytes that there is room for.
    covered: usize,
    held: Option<OwnedSemaphorePermit>,
}

impl<'r> Gathered<'r> {
    fn new(max: usize, room: &'r Room) -> Self {
        Self { max, seen: 0, first: Bytes::new(), all: BytesMut::new(), room, covered: BODY_START, held: None }
    }

    async fn gather(&mut self, body: &mut Body) -> Read {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Read::Broken };
            let Ok(data) = frame.into_data() else { continue };
            self.seen = self.seen.saturating_add(data.len());
            if self.max < self.seen {
                return Read::TooLarge(self.seen as u64);
            }
            if !self.cover() {
                return Read::NoRoom;
            }
            self.keep(data);
        }
        Read::Whole(if self.all.is_empty() { std::mem::take(&mut self.first) } else { std::mem::take(&mut self.all).freeze() })
    }

    /// Takes room for what has been seen, [`BODY_START`] at a time; false when there is none.
    fn cover(&mut self) -> bool {
        let lacking = self.seen.saturating_sub(self.covered).next_multiple_of(BODY_START);
        if lacking == 0 {
            return true;
        }
        let Some(more) = self.room.take(lacking) else { return false };
        self.covered += lacking;
        match &mut self.held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        true
    }

    fn keep(&mut self, data: Bytes) {
        if self.all.is_empty() && self.first.is_empty() {
            // Nearly every body comes in one piece, which needs no copy.
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(BODY_START);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }
}

/// Reads and drops what is left of `body`, at most about `bytes`, behind the answer's back: a connection that is closed while its sender
/// still writes may take the answer from it.
pub(super) fn dismiss(body: Body, bytes: usize) {
    tokio::spawn(timeout(DROP_TIMEOUT, drop_rest(body, bytes)));
}

async fn drop_rest(mut body: Body, bytes: usize) {
    let mut seen = 0_usize;
    while seen <= bytes {
        let Some(Ok(frame)) = body.frame().await else { return };
        seen = seen.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
    sleep(LINGER).await;
}

/// The address of the connection a request came over; an unknown one counts as `0.0.0.0`, so that limits still hold.
pub(crate) fn peer(head: &Parts) -> IpAddr {
    let known = head.extensions.get::<ConnectInfo<SocketAddr>>();
    known.map_or(IpAddr::from([0, 0, 0, 0]), |ConnectInfo(address)| address.ip().to_canonical())
}

/// Whether the connection can be told to close after this answer.
pub(crate) fn closes(head: &Parts) -> bool {
    head.version <= Version::HTTP_11
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use axum::http::Request;
    use hyper::body::Frame;

    use super::*;

    /// A body of given pieces, which then ends, or stays open.
    struct Pieces {
        pieces: VecDeque<Result<Bytes, io::Error>>,
        ends: bool,
    }

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            match self.pieces.pop_front() {
                None if !self.ends => Poll::Pending,
                piece => Poll::Ready(piece.map(|piece| piece.map(Frame::data))),
            }
        }
    }

    async fn of(declared: Option<&str>, pieces: Vec<Result<Bytes, io::Error>>, ends: bool) -> Read {
        let request = declared.map_or(Request::builder(), |length| Request::builder().header("content-length", length));
        let (head, body) = request.body(Body::new(Pieces { pieces: pieces.into(), ends })).unwrap().into_parts();
        read_within(Duration::from_millis(20), &head, body, 4, &Room::new()).await.0
    }

    async fn whole(declared: Option<&str>, pieces: &[&'static str]) -> Read {
        of(declared, pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect(), true).await
    }

    #[tokio::test]
    async fn bodies_are_read_whole_in_any_number_of_pieces() {
        assert_eq!(whole(None, &[]).await, Read::Whole(Bytes::new()));
        assert_eq!(whole(Some("4"), &["abcd"]).await, Read::Whole("abcd".into()));
        assert_eq!(whole(None, &["a", "", "bc", "d"]).await, Read::Whole("abcd".into()));
    }

    #[tokio::test]
    async fn too_much_is_dropped() {
        assert_eq!(whole(None, &["abc", "de"]).await, Read::TooLarge(5));
        assert_eq!(whole(Some("6"), &["abc", "def"]).await, Read::TooLarge(6));
        assert_eq!(whole(None, &["abc", "def", "ghi", "jkl"]).await, Read::TooLarge(6));
    }

    #[tokio::test]
    async fn whoever_declares_too_much_is_not_waited_for() {
        assert_eq!(of(Some("64000000"), vec![Ok("a".into())], false).await, Read::TooLarge(64_000_000));
        assert_eq!(of(None, vec![Ok("abcde".into())], false).await, Read::TooLarge(5));
    }

    #[tokio::test]
    async fn bodies_share_room_which_small_ones_do_not_need() {
        let (room, max) = (Room(Arc::new(Semaphore::new(64))), 64 * 1024);
        let take = async |bytes: usize| {
            let (head, body) = Request::new(Body::from(vec![b'x'; bytes])).into_parts();
            read_within(Duration::MAX, &head, body, max, &room).await
        };
        let (read, held) = take(max).await;
        assert!(matches!(read, Read::Whole(_)) && room.0.available_permits() == 16);
        assert_eq!(take(max).await.0, Read::NoRoom);
        assert!(matches!(take(BODY_START).await.0, Read::Whole(_)));
        drop(held);
        assert!(matches!(take(max).await.0, Read::Whole(_)));
        assert_eq!(room.0.available_permits(), 64);
    }

    #[tokio::test]
    async fn a_body_that_does_not_end_is_given_up_and_a_broken_one_too() {
        assert_eq!(of(None, vec![Ok("a".into())], false).await, Read::Slow);
        assert_eq!(of(None, vec![Ok("a".into()), Err(io::ErrorKind::ConnectionReset.into())], true).await, Read::Broken);
    }

    #[tokio::test]
    async fn nobody_is_asked_for_too_much() {
        let request = Request::builder().header("content-length", "5").header("expect", "100-continue");
        let (head, body) = request.body(Body::new(Pieces { pieces: VecDeque::new(), ends: false })).unwrap().into_parts();
        assert_eq!(read_within(Duration::MAX, &head, body, 4, &Room::new()).await.0, Read::TooLarge(5));
    }
}
