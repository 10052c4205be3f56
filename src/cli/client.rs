//! Asks a running relay: where it is, with which token, and what its answers mean for the exit status.

use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::Value;
use url::Url;

use super::{
    Failure,
    http::{Asked, Client},
};
use crate::{config, envelope::JSON, secret::Secret};

/// Where the API is when neither flag nor file says so.
const URL: &str = "http://127.0.0.1:9080";

/// How to reach the relay's API.
#[derive(Debug, clap::Args)]
pub(super) struct Access {
    #[command(flatten)]
    reach: Reach,
    /// The configuration, for the address of the admin listener
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print the API's JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Where the relay is, and with which token to ask it.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Reach {
    /// Base URL of the admin listener [default: server.admin_listen of the configuration, else http://127.0.0.1:9080]
    #[arg(long, env = "HOOKYARD_URL", value_name = "URL")]
    url: Option<Url>,
    /// File with the token [default: $HOOKYARD_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A relay to ask.
pub(super) struct Relay {
    url: Url,
    token: Option<Secret>,
    client: Client,
}

impl Access {
    /// The relay that the flags name.
    pub(super) fn relay(&self) -> Result<Relay, Failure> {
        self.reach.relay(&self.config)
    }
}

impl Reach {
    /// The relay that the flags name, else the configuration at `config`.
    pub(super) fn relay(&self, config: &Path) -> Result<Relay, Failure> {
        let url = self.url.clone().map_or_else(|| configured(config), Ok)?;
        Ok(Relay { url, token: self.token()?, client: Client::new()? })
    }

    /// Whether a flag says where it is.
    pub(super) fn is_named(&self) -> bool {
        self.url.is_some()
    }

    fn token(&self) -> Result<Option<Secret>, Failure> {
        let Some(file) = &self.token_file else {
            let text = std::env::var("HOOKYARD_ADMIN_TOKEN").unwrap_or_default();
            return Ok(Some(text.trim()).filter(|token| !token.is_empty()).map(Secret::new));
        };
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
        Ok(Some(Secret::new(text.trim())))
    }
}

fn configured(config: &Path) -> Result<Url, Failure> {
    // Only this one line counts: the rest of the file may be bad, or name variables that this shell does not have.
    let files = config::main_file(config);
    let url = config::admin_listen(&files, &config::System).map_or(URL.to_owned(), |address| local(&address));
    url.parse().map_err(|error| Failure::Usage(format!("the relay's URL cannot be made of {url}: {error}")))
}

/// The URL under which this machine reaches a listener at `address`.
pub(super) fn local(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "80"));
    let host = match host {
        "0.0.0.0" | "" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    format!("http://{host}:{port}")
}

/// An answer of the API: its text, for machines, and what it says.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) json: Value,
}

impl Answer {
    /// What stands under `data`, as a list.
    pub(super) fn list(&self) -> &[Value] {
        self.json["data"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

impl Relay {
    /// `GET /readyz`, whatever it answers.
    pub(super) async fn ready(&self) -> Result<(u16, Answer), Failure> {
        self.exchange(Method::GET, self.at("/readyz", &[])?, None).await
    }

    /// Whether it is asked with a token.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// `GET path?query`.
    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        self.ask(Method::GET, self.at(path, query)?).await
    }

    /// `POST path?query`.
    pub(super) async fn post(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        self.ask(Method::POST, self.at(path, query)?).await
    }

    /// `POST path` with this JSON.
    pub(super) async fn post_json(&self, path: &str, body: String) -> Result<Answer, Failure> {
        self.ask_with(Method::POST, self.at(path, &[])?, Some(body)).await
    }

    /// `POST path`; an answer of `status` is one too.
    pub(super) async fn post_unless(&self, status: u16, path: &str) -> Result<Answer, Failure> {
        match self.exchange(Method::POST, self.at(path, &[])?, None).await? {
            (given, answer) if given == status => Ok(answer),
            (given, answer) => self.good(given, answer),
        }
    }

    /// `DELETE path`.
    pub(super) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::DELETE, self.at(path, &[])?).await
    }

    fn at(&self, path: &str, query: &[(&str, String)]) -> Result<Url, Failure> {
        let base = self.url.as_str().trim_end_matches('/');
        let mut url: Url =
            format!("{base}{path}").parse().map_err(|error| Failure::Usage(format!("{base}{path} is not a URL: {error}")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn ask(&self, method: Method, url: Url) -> Result<Answer, Failure> {
        self.ask_with(method, url, None).await
    }

    async fn ask_with(&self, method: Method, url: Url, body: Option<String>) -> Result<Answer, Failure> {
        let (status, answer) = self.exchange(method, url, body).await?;
        self.good(status, answer)
    }

    async fn exchange(&self, method: Method, url: Url, body: Option<String>) -> Result<(u16, Answer), Failure> {
        let token = self.token.as_ref().map(|token| ("authorization".to_owned(), format!("Bearer {}", token.reveal())));
        let content_type = body.as_ref().map(|_| ("content-type".to_owned(), JSON.to_owned()));
        let body = body.map(String::into_bytes).unwrap_or_default();
        let asked = Asked { method, url: &url, headers: token.into_iter().chain(content_type).collect(), body };
        let (status, text) = self.client.ask(asked).await?;
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok((status, Answer { text, json }))
    }

    fn good(&self, status: u16, answer: Answer) -> Result<Answer, Failure> {
        match status {
            200..=299 => Ok(answer),
            _ => Err(refused(status, &answer.json, self.token.is_some())),
        }
    }
}

/// What an answer other than 2xx means for whoever asked.
fn refused(status: u16, json: &Value, with_token: bool) -> Failure {
    let message = json["message"].as_str().unwrap_or("it did not say why");
    match status {
        400 => Failure::Usage(message.to_owned()),
        401 if with_token => Failure::Bad("the relay does not take this token".to_owned()),
        401 => Failure::Bad("the relay wants a token: set HOOKYARD_ADMIN_TOKEN or give --token-file".to_owned()),
        502..=504 => Failure::Unreachable(format!("the relay answered {status}: {message}")),
        _ => Failure::Bad(format!("the relay answered {status}: {message}")),
    }
}

/// Which part of a list is asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Span {
    /// Only from this time on: RFC 3339, or so long ago (30m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Span {
    /// The filters, as the API takes them.
    pub(super) fn query(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let now = crate::clock::Clock::system().now();
        let read = |name, text: &Option<String>| text.as_deref().map(|text| Ok((name, instant(name, text, now)?))).transpose();
        Ok([read("since", &self.since)?, read("until", &self.until)?].into_iter().flatten().collect())
    }
}

fn instant(name: &str, text: &str, now: crate::clock::Timestamp) -> Result<String, Failure> {
    if let Some(ago) = config::decode::duration(text) {
        return Ok(crate::clock::rfc3339_ms(crate::clock::earlier(now, ago)));
    }
    let time: Result<crate::clock::Timestamp, _> = text.parse();
    time.map(crate::clock::rfc3339_ms)
        .map_err(|_| Failure::Usage(format!("--{name} takes a time such as 2026-01-20T12:00:00Z, or 30m, 24h, 7d ago")))
}

/// How much of a list is asked for, and from where.
#[derive(Debug, clap::Args)]
pub(super) struct Page {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on from this cursor; `0` or an id: in the order of arrival from there
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

impl Page {
    /// The page, as the API takes it.
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.after.clone().map(|after| ("after", after)));
        query
    }
}

/// Prints a list: its JSON, or a table of `names` and where it goes on.
pub(super) fn show(answer: &Answer, json: bool, names: &[&str]) {
    if json {
        return super::output::raw(&answer.text);
    }
    super::output::list(answer.list(), names);
    if let Some(next) = answer.json["next"].as_str() {
        super::output::note(&format!("go on with --after {next}"));
    }
}

/// Prints one thing: its JSON, or what `tell` says of it.
pub(super) fn show_one(answer: &Answer, json: bool, tell: impl Fn(&Value)) {
    if json { super::output::raw(&answer.text) } else { tell(&answer.json["data"]) }
}

/// An id as part of a path: ids have letters, digits and underscores only.
pub(super) fn in_path(id: &str) -> Result<&str, Failure> {
    let fits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    fits.then_some(id).ok_or_else(|| Failure::Usage("this is not an id of the relay's".to_owned()))
}

/// The filters of `given` that have a value.
pub(super) fn given(pairs: &[(&'static str, &Option<String>)]) -> Vec<(&'static str, String)> {
    pairs.iter().filter_map(|(name, value)| Some((*name, (*value).clone()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_reached_from_here() {
        for (address, url) in [
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
            ("[::]:8080", "http://[::1]:8080"),
            ("127.0.0.1:9080", "http://127.0.0.1:9080"),
            ("relay.local:80", "http://relay.local:80"),
        ] {
            assert_eq!(local(address), url);
        }
    }

    #[test]
    fn times_may_be_so_long_ago() {
        let now = "2026-01-20T12:00:00Z".parse().unwrap();
        assert_eq!(instant("since", "2h", now).unwrap(), "2026-01-20T10:00:00.000Z");
        assert_eq!(instant("since", "2026-01-20T13:00:00+01:00", now).unwrap(), "2026-01-20T12:00:00.000Z");
        assert!(matches!(instant("since", "yesterday", now), Err(Failure::Usage(_))));
    }

    #[test]
    fn answers_have_their_exit_status() {
        let json = serde_json::json!({"message": "parameter `limit` is wrong"});
        assert!(matches!(refused(400, &json, true), Failure::Usage(_)));
        assert!(matches!(refused(401, &json, true), Failure::Bad(_)) && matches!(refused(404, &json, true), Failure::Bad(_)));
        assert!(matches!(refused(503, &json, true), Failure::Unreachable(_)));
    }
}
