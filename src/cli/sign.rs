//! `hookyard sign`: the headers that sign a body, to try a source or a consumer by hand.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::{Failure, output, send, sender};
use crate::{
    clock::{Clock, Timestamp},
    secret::Secret,
    sign::{hex, outbound::Message, sha256},
};

/// Largest body that is read.
const BODY_MAX: u64 = 64 * 1024 * 1024; // bytes

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How to sign [default: as the source's sender]
    #[arg(long, value_enum, required_unless_present = "source")]
    scheme: Option<Scheme>,
    #[command(flatten)]
    secret: SecretFrom,
    /// The source to sign for, as routes.yaml names it: its scheme and the first of its secrets, where no flag gives another
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The configuration, for --source
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
    /// The body; `-` reads it from stdin
    #[arg(long, default_value = "-", value_name = "FILE")]
    body: PathBuf,
    /// When it is signed: RFC 3339 or Unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    timestamp: Option<Timestamp>,
    /// webhook-id of Standard Webhooks [default: made of the body]
    #[arg(long)]
    id: Option<String>,
    /// Print a JSON object
    #[arg(long, conflicts_with = "curl")]
    json: bool,
    /// Print a curl command that posts the body to this URL
    #[arg(long, value_name = "URL")]
    curl: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct SecretFrom {
    /// Environment variable with the secret [default: the source's secret]
    #[arg(long, value_name = "NAME", required_unless_present_any = ["secret_file", "source"])]
    secret_env: Option<String>,
    /// File with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scheme {
    /// X-Interactor-Signature over the body, X-Interactor-Timestamp beside it
    Interactor,
    /// X-Interactor-Signature over timestamp and body, in Unix seconds
    Timestamped,
    /// X-Webhook-Signature over the body
    Agent,
    /// webhook-id, webhook-timestamp, webhook-signature
    Standard,
    /// X-Honeyframe-Signature over the body
    Honeyframe,
}

impl From<Scheme> for sender::Scheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::Interactor => Self::Interactor,
            Scheme::Timestamped => Self::Timestamped,
            Scheme::Agent => Self::Agent,
            Scheme::Standard => Self::Standard,
            Scheme::Honeyframe => Self::Honeyframe,
        }
    }
}

/// Signs the body and prints the headers.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let body = read(&args.body)?;
    let at = args.timestamp.unwrap_or_else(|| Clock::system().now());
    let id = args.id.clone().unwrap_or_else(|| format!("msg_{}", hex(&sha256(&[&body])[..16])));
    let message = Message { id: &id, at, body: &body };
    let (scheme, secret) = args.signature()?;
    let headers = sender::headers(&scheme, &secret, message);
    let headers = headers.map_err(|error| Failure::Bad(error.to_string()))?;
    match &args.curl {
        Some(url) => output::raw(&curl(url, &headers, &args.body)),
        None if args.json => output::raw(&as_json(&headers)),
        None => headers.iter().for_each(|(name, value)| output::line(&format!("{name}: {value}"))),
    }
    Ok(())
}

impl Args {
    /// How to sign and with what: as the flags say, else as the source's sender does.
    fn signature(&self) -> Result<(sender::Scheme, Secret), Failure> {
        let source = self.source.as_deref().map(|name| send::declared(&self.config, name)).transpose()?;
        let (scheme, secret) = source.map(|(way, _)| (way.scheme, way.secret)).unzip();
        let scheme = self.scheme.map(sender::Scheme::from).or(scheme).unwrap_or(sender::Scheme::Nothing);
        if let sender::Scheme::Nothing | sender::Scheme::Static(_) = scheme {
            // A header that is the secret would print it.
            let why =
                "there is nothing to sign for this source: a header or its path holds the secret; `hookyard send` sends to it";
            return Err(Failure::Usage(why.to_owned()));
        }
        let secret = self.secret.read()?.or(secret).unwrap_or_else(|| Secret::new(""));
        Ok((scheme, secret))
    }
}

impl SecretFrom {
    /// The secret that the flags name.
    fn read(&self) -> Result<Option<Secret>, Failure> {
        let text = match (&self.secret_env, &self.secret_file) {
            (Some(name), _) => {
                std::env::var(name).map_err(|_| Failure::Usage(format!("the environment variable {name} is not set")))?
            }
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file);
                let mut text = text.map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
                text.truncate(text.trim_end_matches(['\r', '\n']).len());
                text
            }
            (None, None) => return Ok(None),
        };
        if text.is_empty() { Err(Failure::Usage("the secret is empty".to_owned())) } else { Ok(Some(Secret::new(text))) }
    }
}

/// The bytes of `file`, or of stdin for `-`.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(BODY_MAX).read_to_end(&mut body)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(BODY_MAX).read_to_end(&mut body))
    };
    read.map(|_| body).map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))
}

fn instant(text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.or_else(|| text.parse().ok()).ok_or_else(|| "a time such as 2026-01-20T12:00:00Z, or Unix seconds".to_owned())
}

fn as_json(headers: &[(String, String)]) -> String {
    let members: Map<_, _> = headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    format!("{:#}", Value::Object(members))
}

fn curl(url: &str, headers: &[(String, String)], body: &Path) -> String {
    let content_type = format!("{}: {}", sender::CONTENT_TYPE.0, sender::CONTENT_TYPE.1);
    let lines = std::iter::once(content_type).chain(headers.iter().map(|(name, value)| format!("{name}: {value}")));
    let headers: String = lines.map(|line| format!(" \\\n  -H {}", quoted(&line))).collect();
    format!("curl -sS {}{headers} \\\n  --data-binary {}", quoted(url), quoted(&format!("@{}", body.display())))
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curl_command_survives_the_shell() {
        let headers = [("X-Webhook-Signature".to_owned(), "00ff".to_owned())];
        insta::assert_snapshot!(curl("http://localhost/it's", &headers, Path::new("event.json")), @r"
        curl -sS 'http://localhost/it'\''s' \
          -H 'Content-Type: application/json' \
          -H 'X-Webhook-Signature: 00ff' \
          --data-binary '@event.json'
        ");
    }

    #[test]
    fn times_are_rfc_3339_or_unix_seconds() {
        assert_eq!(instant("1768910400"), instant("2026-01-20T12:00:00Z"));
        assert!(instant("noon").is_err());
    }
}
