//! HTTP/1.1 as far as a load generator and a counting receiver need it: whole messages with a `Content-Length`, one after the other on
//! a connection that stays open. Anything else is an error, not a guess.

use std::{io, net::SocketAddr};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HEAD_MAX: usize = 16 * 1024; // bytes
const BODY_MAX: usize = 4 * 1024 * 1024; // bytes
const READ_AHEAD: usize = 4 * 1024; // bytes of free buffer before each read

/// A connection that messages are read from and bytes written to.
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
    taken: usize,
}

/// A request or an answer, as it lies in the buffer of its connection.
pub(crate) struct Message<'w> {
    head: &'w [u8],
    /// As long as the head said.
    pub(crate) body: &'w [u8],
}

impl Wire {
    /// Opens a connection to `address`.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    /// Takes over an open connection.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(2 * READ_AHEAD), taken: 0 })
    }

    /// Writes `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next message; `None` when the other side closed the connection after the last one.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<Message<'_>>> {
        self.forget_the_last();
        let head = loop {
            if let Some(end) = head_end(&self.buffer) {
                break end;
            }
            if HEAD_MAX < self.buffer.len() {
                return Err(malformed("the head is too long"));
            }
            if !self.read().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let length = body_length(self.buffer.get(..head).unwrap_or_default())?;
        while self.buffer.len() < head + length {
            if !self.read().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.taken = head + length;
        let (head, rest) = self.buffer.split_at(head);
        Ok(Some(Message { head, body: rest.get(..length).unwrap_or_default() }))
    }

    /// Sends `request` and waits for its answer; a closed connection is an error.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Message<'_>> {
        self.send(request).await?;
        self.receive().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn forget_the_last(&mut self) {
        match self.taken == self.buffer.len() {
            true => self.buffer.clear(),
            false => self.buffer.advance(self.taken),
        }
        self.taken = 0;
    }

    async fn read(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_AHEAD);
        Ok(self.stream.read_buf(&mut self.buffer).await? != 0)
    }
}

impl Message<'_> {
    /// The status of an answer.
    pub(crate) fn status(&self) -> io::Result<u16> {
        let digits = self.head.get(9..12).and_then(|digits| str::from_utf8(digits).ok());
        digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| malformed("no status"))
    }

    /// The value of header `name`, which ends in a colon; empty where there is none.
    pub(crate) fn header(&self, name: &[u8]) -> &[u8] {
        self.head.split(|byte| *byte == b'\n').find_map(|line| value(line, name)).unwrap_or_default().trim_ascii()
    }

    /// The path of a request.
    pub(crate) fn path(&self) -> &[u8] {
        self.head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }
}

/// Sends a request without a body on a connection of its own and returns the status of its answer.
pub(crate) async fn call(address: SocketAddr, method: &str, path: &str, bearer: &str) -> io::Result<u16> {
    Wire::connect(address).await?.ask(bare(address, method, path, bearer).as_bytes()).await?.status()
}

/// Likewise a question, and returns what it is answered.
pub(crate) async fn get(address: SocketAddr, path: &str, bearer: &str) -> io::Result<serde_json::Value> {
    let mut wire = Wire::connect(address).await?;
    Ok(serde_json::from_slice(wire.ask(bare(address, "GET", path, bearer).as_bytes()).await?.body)?)
}

fn bare(address: SocketAddr, method: &str, path: &str, bearer: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn head_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4)
}

fn body_length(head: &[u8]) -> io::Result<usize> {
    for line in head.split(|byte| *byte == b'\n') {
        if value(line, b"transfer-encoding:").is_some() {
            return Err(malformed("the body has no declared length"));
        }
        if let Some(value) = value(line, b"content-length:") {
            let length = str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
            return length.filter(|length| *length <= BODY_MAX).ok_or_else(|| malformed("the length is not usable"));
        }
    }
    Ok(0)
}

fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
