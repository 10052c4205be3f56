//! Reading a request's body: no more than is allowed, and no longer than is allowed, however it trickles.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Version, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

/// Longest time a whole body may take, from the end of the header.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Room made for a body before any of it has come, in bytes: what is declared is only believed when it arrives.
const BODY_START: usize = 16 * 1024;

/// What came of reading a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Read {
    /// All of it.
    Whole(Bytes),
    /// More than is allowed: so many bytes as far as is known.
    TooLarge(u64),
    /// It did not end in time.
    Slow,
    /// The sender broke it off, or its framing is wrong.
    Broken,
}

/// Reads the body behind `head`, at most `max` bytes; of a larger one up to as much again is read and dropped, so that its sender
/// gets to see the answer. A sender that waits for `100 Continue` with too much is not asked for it.
pub(crate) async fn read(head: &Parts, body: Body, max: usize) -> Read {
    read_within(BODY_TIMEOUT, head, body, max).await
}

async fn read_within(timeout: Duration, head: &Parts, body: Body, max: usize) -> Read {
    let declared = declared(head);
    let large = declared.filter(|length| *length > max as u64);
    match large {
        Some(length) if head.headers.contains_key(header::EXPECT) => Read::TooLarge(length),
        _ => tokio::time::timeout(timeout, gather(body, large, max)).await.unwrap_or(Read::Slow),
    }
}

fn declared(head: &Parts) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn gather(mut body: Body, large: Option<u64>, max: usize) -> Read {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return large.map_or(Read::Broken, Read::TooLarge) };
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if large.is_some() || max < seen {
            (first, all) = (Bytes::new(), BytesMut::new());
            if max.saturating_mul(2) < seen {
                break;
            }
        } else if all.is_empty() && first.is_empty() {
            // Nearly every body comes in one piece, which needs no copy.
            first = data;
        } else {
            keep(&mut first, &mut all, &data);
        }
    }
    match large {
        Some(length) => Read::TooLarge(length),
        None if max < seen => Read::TooLarge(seen as u64),
        None if all.is_empty() => Read::Whole(first),
        None => Read::Whole(all.freeze()),
    }
}

fn keep(first: &mut Bytes, all: &mut BytesMut, data: &[u8]) {
    if all.is_empty() {
        all.reserve(BODY_START);
        all.extend_from_slice(&std::mem::take(first));
    }
    all.extend_from_slice(data);
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
        read_within(Duration::from_millis(20), &head, body, 4).await
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
        assert_eq!(whole(None, &["abc", "def", "ghi", "jkl"]).await, Read::TooLarge(9));
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
        assert_eq!(read_within(Duration::MAX, &head, body, 4).await, Read::TooLarge(5));
    }
}
