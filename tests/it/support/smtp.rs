//! A mail server whose answers a test writes: it speaks plain SMTP on a free port of 127.0.0.1 and keeps what it was told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{Routes, SOON, app::MINUTELY, until};

/// A mail as the server was given it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mail {
    /// `MAIL FROM`, with its parameters.
    pub(crate) from: String,
    /// Whom it was taken for.
    pub(crate) to: Vec<String>,
    /// The message.
    pub(crate) data: String,
}

impl Mail {
    /// The unfolded value of a header.
    pub(crate) fn header(&self, name: &str) -> String {
        let head = self.data.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
        let found = head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map_or_else(String::new, |(_, value)| value.to_owned())
    }
}

/// What a server says instead of taking everything: the answer to a line, or `None`. `CLOSE` ends the connection.
type Script = dyn Fn(&str, usize) -> Option<String> + Send + Sync;

/// Ends the connection without an answer.
pub(crate) const CLOSE: &str = "CLOSE";

/// `file` with a destination that mails through `server`, in the clear, and tries again every minute.
pub(crate) fn through(file: Routes, name: &str, server: &MailServer, to: &str, more: &str) -> Routes {
    let smtp = format!("smtp: {{host: 127.0.0.1, port: {}, tls: none}}", server.addr.port());
    let from = "from: Relay <relay@example.com>";
    file.destination(name, &format!("kind: email, {smtp}, {from}, to: {to}, {MINUTELY}{more}"))
}

/// A mail server; it goes on until the test ends.
#[derive(Clone)]
pub(crate) struct MailServer {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
    mails: Arc<Mutex<Vec<Mail>>>,
}

impl MailServer {
    /// One that takes everything.
    pub(crate) async fn start() -> Self {
        Self::answering(|_, _| None).await
    }

    /// One that answers as `script` says, asked with each line (`GREETING`, `RCPT TO:<…>`, `END` for the end of a message) and how
    /// often lines with that first word came before.
    pub(crate) async fn answering(script: impl Fn(&str, usize) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let it = Self { addr: listener.local_addr().unwrap(), said: Arc::default(), mails: Arc::default() };
        let (server, script): (_, Arc<Script>) = (it.clone(), Arc::new(script));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().serve(stream, script.clone()));
            }
        });
        it
    }

    /// The lines it was told, whatever the connection.
    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// How many lines began with `word`.
    pub(crate) fn count(&self, word: &str) -> usize {
        self.said().iter().filter(|line| line.starts_with(word)).count()
    }

    /// The mails it took.
    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    /// The same, once there are `count`.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Mail> {
        until(&format!("{count} mails"), SOON, async || Some(self.mails()).filter(|mails| count <= mails.len())).await
    }

    async fn serve(self, stream: TcpStream, script: Arc<Script>) -> Option<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read);
        let mut mail = Mail { from: String::new(), to: Vec::new(), data: String::new() };
        let mut line = "GREETING".to_owned();
        loop {
            let word = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            let before = self.count(&word);
            self.said.lock().unwrap().push(line.clone());
            let usual = match word.as_str() {
                "GREETING" => "220 mail.test ESMTP",
                "EHLO" => "250-mail.test\r\n250-AUTH PLAIN LOGIN\r\n250-8BITMIME\r\n250 SMTPUTF8",
                "AUTH" => "235 2.7.0 welcome",
                "DATA" => "354 go on",
                "END" => "250 2.0.0 queued as 1",
                "QUIT" => "221 bye",
                _ => "250 2.1.0 ok",
            };
            let answer = script(&line, before).unwrap_or_else(|| usual.to_owned());
            if answer == CLOSE {
                return None;
            }
            write.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
            if answer.starts_with('2') {
                match word.as_str() {
                    "MAIL" => mail = Mail { from: line.clone(), to: Vec::new(), data: String::new() },
                    "RCPT" => mail.to.push(line["RCPT TO:<".len()..].trim_end_matches('>').to_owned()),
                    "END" => self.mails.lock().unwrap().push(mail.clone()),
                    "QUIT" => return None,
                    _ => {}
                }
            }
            line = match answer.starts_with("354") {
                true => {
                    mail.data = message(&mut lines).await?;
                    "END".to_owned()
                }
                false => read_line(&mut lines).await?,
            };
        }
    }
}

async fn read_line(lines: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    (lines.read_line(&mut line).await.ok()? != 0).then(|| line.trim_end().to_owned())
}

async fn message(lines: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut data = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == ".\r\n" {
            return Some(data);
        }
        data.push_str(line.strip_prefix('.').unwrap_or(&line));
    }
}
