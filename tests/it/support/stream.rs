//! A stream of server-sent events as a listener reads it.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::time::timeout;

use super::{Answer, SOON, relay::TOKEN};

/// One frame that has data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Said {
    pub(crate) id: String,
    /// Empty where the frame has no name.
    pub(crate) name: String,
    pub(crate) data: String,
}

impl Said {
    /// Its data as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// An open stream.
pub(crate) struct Stream {
    response: reqwest::Response,
    buffer: String,
    /// The last `id` of a whole frame, as a browser keeps it.
    pub(crate) last_id: String,
}

impl Stream {
    /// Opens `http://{addr}/api/v1/stream{query}` with the admin token and these headers; the answer where that is refused.
    pub(crate) async fn open_with(addr: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        Self::try_open(addr, query, headers).await.unwrap()
    }

    /// Likewise, where the relay may be away.
    pub(crate) async fn try_open(
        addr: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Result<Self, Answer>, reqwest::Error> {
        // No limit of time: a stream lasts.
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut request = client.get(format!("http://{addr}/api/v1/stream{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = timeout(SOON, request.send()).await.expect("an answer in time")?;
        if response.status() != 200 {
            return Ok(Err(Answer::read(response).await));
        }
        Ok(Ok(Self { response, buffer: String::new(), last_id: String::new() }))
    }

    /// Likewise with the admin token and nothing else; must be let in.
    pub(crate) async fn open(addr: SocketAddr, query: &str) -> Self {
        let opened = Self::open_with(addr, query, &[("authorization", &format!("Bearer {TOKEN}"))]).await;
        opened.unwrap_or_else(|answer| panic!("{} {}", answer.status, answer.text()))
    }

    /// A header of its answer.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The next frame with data; `None` at its end, however it came.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        timeout(SOON, self.read()).await.expect("a frame in time")
    }

    /// Reads on, however long it takes.
    pub(crate) async fn read(&mut self) -> Option<Said> {
        loop {
            while let Some((frame, rest)) = self.buffer.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.buffer = rest;
                if let Some(said) = self.frame(&frame) {
                    return Some(said);
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("whole characters: the tests write ASCII"));
        }
    }

    fn frame(&mut self, text: &str) -> Option<Said> {
        let (mut name, mut data) = (String::new(), Vec::new());
        for line in text.split('\n') {
            match line.split_once(": ") {
                Some(("id", id)) => self.last_id = id.to_owned(),
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data.push(value),
                Some(("retry", _)) => {}
                _ => panic!("not a line of a stream: {line:?}"),
            }
        }
        (!data.is_empty()).then(|| Said { id: self.last_id.clone(), name, data: data.join("\n") })
    }
}
