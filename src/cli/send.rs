//! `hookyard send`: posts events to the running relay, signed as a source's real sender would sign them.

use std::path::{Path, PathBuf};

use hyper::Method;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use url::Url;

use super::{
    Failure,
    client::local,
    http::{Asked, Client},
    output,
    sender::{self, Scheme},
    sign,
};
use crate::{
    clock::{Clock, Timestamp, rfc3339_s},
    config, samples,
    secret::Secret,
    sign::{hex, outbound::Message},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source to send to, as routes.yaml names it
    #[arg(long)]
    source: String,
    #[command(flatten)]
    what: What,
    /// The event's data, in JSON
    #[arg(long, value_name = "JSON", requires = "type")]
    data: Option<String>,
    /// How many; each with an id and a time of its own, but for --body
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Base URL of the public listener [default: server.listen of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The configuration, for the source's path and secret
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object per answer
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// An event of this type
    #[arg(long, value_name = "TYPE")]
    r#type: Option<String>,
    /// This body, as it is; `-` reads it from stdin
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The seeds' event of this type
    #[arg(long, value_name = "TYPE", value_parser = clap::builder::PossibleValuesParser::new(samples::ALL.map(|sample| sample.r#type)))]
    sample: Option<String>,
}

/// A source as its sender sees it.
#[derive(Debug)]
pub(super) struct Way {
    /// The source's kind.
    pub(super) kind: &'static str,
    /// Where it answers, the secret part included.
    pub(super) path: String,
    /// How its sender proves itself.
    pub(super) scheme: Scheme,
    /// With what.
    pub(super) secret: Secret,
}

/// Sends, prints the answers, and fails unless all are 2xx.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (way, base) = declared(&args.config, &args.source)?;
    let base = args.url.as_ref().map_or(base, ToString::to_string);
    let url = format!("{}{}", base.trim_end_matches('/'), way.path);
    let client = Client::new()?;
    let mut good = true;
    for _ in 0..args.count {
        let (id, at) = (random_id("evt_")?, Clock::system().now());
        let body = args.body(way.kind, &id, at)?;
        let beside = args.beside(&way.scheme, &id);
        let (status, answer) = post(&client, &url, &way, Message { id: &id, at, body: &body }, beside).await?;
        good &= (200..300).contains(&status);
        tell(status, &answer, args.json);
    }
    if good { Ok(()) } else { Err(Failure::BadAndSaid) }
}

/// The way to the source that `file` names `name`, and the base URL of the public listener.
pub(super) fn declared(file: &Path, name: &str) -> Result<(Way, String), Failure> {
    let loaded = config::load(file, &config::System);
    let Some(config) = loaded.config else {
        let why = config::report::headline(&loaded).unwrap_or_default();
        return Err(Failure::Bad(format!("the configuration is bad: {why}; see `hookyard check`")));
    };
    let Some(source) = config.sources.iter().find(|source| source.name.as_str() == name) else {
        let known: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
        return Err(Failure::Usage(format!("there is no source `{name}`; known: {}", known.join(", "))));
    };
    let way = Way::of(source).ok_or_else(|| {
        Failure::Usage(format!(
            "nothing is sent to source `{name}`: the relay asks it; `hookyard sources poll {name}` asks it now"
        ))
    })?;
    Ok((way, local(&config.server.listen)))
}

/// Posts one signed message, with the headers `beside` its signature; answers the status and the answer's text.
pub(super) async fn post(
    client: &Client,
    url: &str,
    way: &Way,
    message: Message<'_>,
    beside: Vec<(String, String)>,
) -> Result<(u16, String), Failure> {
    let headers = sender::headers(&way.scheme, &way.secret, message).map_err(|error| Failure::Bad(error.to_string()))?;
    let (name, value) = sender::CONTENT_TYPE;
    let headers = std::iter::once((name.to_owned(), value.to_owned())).chain(headers).chain(beside).collect();
    let url = Url::parse(url).map_err(|error| Failure::Usage(format!("this is not a URL of the relay's: {error}")))?;
    client.ask(Asked { method: Method::POST, url: &url, headers, body: message.body.to_vec() }).await
}

fn tell(status: u16, answer: &str, as_json: bool) {
    if as_json {
        let answer = serde_json::from_str(answer).unwrap_or_else(|_| Value::from(answer));
        output::raw(&json!({"status": status, "answer": answer}).to_string());
    } else {
        output::line(&format!("{status} {answer}"));
    }
}

/// `prefix` and 32 random hex digits.
pub(super) fn random_id(prefix: &str) -> Result<String, Failure> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Failure::Bad("the system gives no random bytes".to_owned()))?;
    Ok(format!("{prefix}{}", hex(&bytes)))
}

impl Args {
    /// The headers in which GitHub says what no body of its says: the event's type and id.
    fn beside(&self, scheme: &Scheme, id: &str) -> Vec<(String, String)> {
        let github = matches!(scheme, Scheme::Hmac(hmac) if hmac.header.eq_ignore_ascii_case("X-Hub-Signature-256"));
        let r#type = self.what.r#type.clone().filter(|_| github);
        let names = |r#type| vec![("X-GitHub-Event".to_owned(), r#type), ("X-GitHub-Delivery".to_owned(), id.to_owned())];
        r#type.map(names).unwrap_or_default()
    }

    fn body(&self, kind: &str, id: &str, at: Timestamp) -> Result<Vec<u8>, Failure> {
        if let Some(file) = &self.what.body {
            return sign::read(file);
        }
        if let Some(sample) = self.what.sample.as_deref().and_then(samples::find) {
            return fresh(sample, kind, id, at);
        }
        let data = self.data.as_deref().map_or(Ok(json!({})), serde_json::from_str);
        let data = data.map_err(|error| Failure::Usage(format!("--data is not JSON: {error}")))?;
        Ok(sender::body(kind, id, self.what.r#type.as_deref().unwrap_or_default(), at, &data).into_bytes())
    }
}

/// The sample with an id and a time of its own, so that it is no duplicate of the last one.
fn fresh(sample: samples::Sample, kind: &str, id: &str, at: Timestamp) -> Result<Vec<u8>, Failure> {
    if sample.kind != kind {
        return Err(Failure::Usage(format!("{} is an event for a source of kind {}, not {kind}", sample.r#type, sample.kind)));
    }
    let mut body: Value = serde_json::from_str(sample.body).unwrap_or_default();
    match kind {
        "interactor" => (body["id"], body["timestamp"]) = (id.into(), rfc3339_s(at).into()),
        "agent" => (body["webhook"], body["timestamp"]) = (json!({"id": id, "name": "hookyard send"}), rfc3339_s(at).into()),
        _ => (body["message"]["id"], body["message"]["sent_at"]) = (id.into(), rfc3339_s(at).into()),
    }
    Ok(body.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_fresh_and_for_their_kind() {
        let at = "2026-01-20T12:00:00Z".parse().unwrap();
        for sample in samples::ALL {
            let [one, two] = ["evt_1", "evt_2"].map(|id| fresh(sample, sample.kind, id, at).unwrap());
            assert_ne!(one, two, "{}", sample.r#type);
        }
        assert!(matches!(fresh(samples::ALL[0], "agent", "evt_1", at), Err(Failure::Usage(_))));
    }
}
