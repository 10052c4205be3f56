//! Requests as senders make them, and the answers they get: whole ones, and raw bytes on a socket.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A `POST` to the public listener.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) path: String,
    /// Headers in order.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// `body` as JSON to `path`, without any proof of its sender.
    pub(crate) fn json(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".into(), "application/json".into())];
        Self { path: path.into(), headers, body: body.into() }
    }

    /// Sets header `name`, in place of any it had.
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self = self.without(name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Takes header `name` off.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Sends it elsewhere.
    pub(crate) fn to(self, path: &str) -> Self {
        Self { path: path.into(), ..self }
    }

    /// Changes the body, and nothing else.
    pub(crate) fn with_body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The value of header `name`.
    pub(crate) fn value(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or_else(|| panic!("the request has no {name}"), |(_, value)| value.as_str())
    }

    /// The head as bytes, with `extra` header lines (each ending in CR LF).
    pub(crate) fn head(&self, extra: &str) -> Vec<u8> {
        let lines: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("POST {} HTTP/1.1\r\nhost: relay\r\n{lines}{extra}\r\n", self.path).into_bytes()
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads a whole answer of `reqwest`.
    pub(crate) async fn read(answer: reqwest::Response) -> Self {
        Self::try_read(answer).await.unwrap()
    }

    /// Likewise; it may break off.
    pub(crate) async fn try_read(answer: reqwest::Response) -> Result<Self, reqwest::Error> {
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(Self { status: answer.status().as_u16(), headers, body: answer.bytes().await?.to_vec() })
    }

    /// The header's value, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }

    /// The error code, held to the shape every error has: `{"error": code, "message": one sentence}`.
    pub(crate) fn error(&self) -> String {
        let json = self.json();
        let message = json["message"].as_str().unwrap_or_else(|| panic!("no message in {json}"));
        assert!(!message.is_empty() && self.header("content-type").starts_with("application/json"), "{self:?}");
        json["error"].as_str().unwrap_or_else(|| panic!("no code in {json}")).to_owned()
    }

    /// Fails unless this is `status` with error `code`.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.error().as_str()), (status, code), "{}", self.text());
    }
}

/// Writes `bytes` to `addr`, then reads until the other side closes or nothing comes for `patience`.
/// A write that the other side breaks off is no error: its answer is what counts.
pub(crate) async fn raw(addr: SocketAddr, bytes: &[u8], patience: Duration) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let _ = socket.write_all(bytes).await;
    read_for(&mut socket, patience).await
}

/// Reads until the other side closes or nothing comes for `patience`.
pub(crate) async fn read_for(socket: &mut TcpStream, patience: Duration) -> String {
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    while let Ok(Ok(count @ 1..)) = timeout(patience, socket.read(&mut part)).await {
        seen.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
