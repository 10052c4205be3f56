//! A mail server on this machine that takes everything and shows the subjects.

use std::net::SocketAddr;

use data_encoding::BASE64;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::receiver::Landed;
use crate::cli::Failure;

/// Largest mail, in bytes.
const MAIL_MAX: u64 = 4 * 1024 * 1024;
/// How long a connection may be silent.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// A mail server that runs until the process ends.
pub(super) struct MailServer {
    /// Where it listens.
    pub(super) addr: SocketAddr,
}

impl MailServer {
    /// Listens, and tells of what it gets.
    pub(super) async fn start(landed: mpsc::Sender<Landed>) -> Result<Self, Failure> {
        let failed = |error| Failure::Bad(format!("no mail server can listen on this machine: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(timeout(SILENCE_MAX, converse(stream, landed.clone())));
            }
        });
        Ok(Self { addr })
    }
}

/// One connection, as far as the relay speaks (RFC 5321).
async fn converse(stream: TcpStream, landed: mpsc::Sender<Landed>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MAIL_MAX));
    write.write_all(b"220 demo\r\n").await?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let word = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match word.as_str() {
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        write.write_all(answer).await?;
        match word.as_str() {
            "QUIT" => return Ok(()),
            "DATA" => {
                // Nobody counts any more once the table is printed.
                let _ = landed.try_send(read_mail(&mut lines).await?);
                write.write_all(b"250 taken\r\n").await?;
            }
            _ => {}
        }
    }
}

async fn read_mail(lines: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Landed> {
    let (mut mail, mut line) = (String::new(), String::new());
    while lines.read_line(&mut line).await? != 0 && line != ".\r\n" {
        mail.push_str(&line);
        line.clear();
    }
    let delivery = header(&mail, "X-Hookyard-Delivery");
    Ok(Landed { target: "mail", delivery, event: String::new(), r#type: decoded(&header(&mail, "Subject")), signed: None })
}

/// The value of a header, unfolded.
fn header(mail: &str, name: &str) -> String {
    let head = mail.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
    let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_default().to_owned()
}

/// A header with its encoded words (RFC 2047, base64 as the relay writes them) as text.
fn decoded(value: &str) -> String {
    let mut out = String::new();
    let mut encoded_before = false;
    for word in value.split(' ') {
        let inner = word.strip_prefix("=?utf-8?b?").and_then(|rest| rest.strip_suffix("?="));
        let text = inner.and_then(|inner| BASE64.decode(inner.as_bytes()).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
        // White space between two encoded words is none of the text.
        let joined = out.is_empty() || encoded_before && text.is_some();
        if !joined {
            out.push(' ');
        }
        encoded_before = text.is_some();
        out.push_str(text.as_deref().unwrap_or(word));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_shown_as_people_read_them() {
        assert_eq!(decoded("Reconnect Google Calendar"), "Reconnect Google Calendar");
        assert_eq!(decoded("=?utf-8?b?w4RwZmVs?= =?utf-8?b?IHVuZA==?= x"), "Äpfel und x");
        assert_eq!(decoded("=?utf-8?b?%%?="), "=?utf-8?b?%%?=");
        let mail = "From: a\r\nSubject: one\r\n two\r\n\r\nSubject: three";
        assert_eq!((header(mail, "Subject"), header(mail, "To")), ("one two".to_owned(), String::new()));
    }
}
