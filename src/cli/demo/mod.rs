//! `hookyard demo`: the whole way of every event of the seeds, with nothing but this binary: a relay with a store of its own,
//! receivers that check what they get, a mail server, and senders that sign as the real ones do.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Failure,
    http::Client,
    output,
    send::{self, Way, random_id},
    sender::Scheme,
    serve,
};
use crate::{
    app::{App, Handles, Options},
    clock::{Clock, until},
    config::{self, File, System, report},
    reload::Reloader,
    samples::{self, Sample},
    secret::Secret,
    sign::outbound::Message,
    store::{self, Attempt, Delivery, EventRow, Filter, Page, State},
};

mod folder;
mod mail;
mod receiver;
mod routes;

use folder::Folder;
use mail::MailServer;
use receiver::{Landed, Receiver};
use routes::Secrets;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End when every event has arrived: 0, or 1 when one has not
    #[arg(long)]
    exit: bool,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// How long everything may take to arrive.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the store is asked whether what landed is recorded.
const GLANCE: Duration = Duration::from_millis(20);
/// Every event goes to every receiver.
const RECEIVERS: usize = 3;
/// What stands in the table for a mail and a message in Slack: they bear no signature.
const UNSIGNED: &str = "-";
/// Landings that wait to be printed.
const LANDINGS_MAX: usize = 256;

/// Shows it.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let folder = Folder::make()?;
    let secrets = Secrets::make()?;
    let (landed, landings) = mpsc::channel(LANDINGS_MAX);
    let crm = Receiver::start("crm", secrets.crm.clone(), landed.clone()).await?;
    let n8n = Receiver::start("n8n", secrets.n8n.clone(), landed.clone()).await?;
    let slack = Receiver::slack("slack", landed.clone()).await?;
    let mail = MailServer::start(landed).await?;
    let app = relay(&folder, &secrets, [crm.addr, n8n.addr, slack.addr, mail.addr]).await?;
    let (handles, public, admin, stop) = (app.handles.clone(), app.public_addr, app.admin_addr, app.shutdown());
    serve::stop_on_signals(stop.clone()).map_err(|error| Failure::Bad(format!("signals cannot be listened to: {error}")))?;
    let running = tokio::spawn(app.serve());
    let shown = show(&args, &handles, &secrets, public, landings).await;
    if args.exit || shown.is_err() {
        stop.cancel();
    } else {
        farewell(public, admin, &secrets);
    }
    let _ = running.await;
    shown.and_then(|all| if all { Ok(()) } else { Err(Failure::Bad("not everything has arrived".to_owned())) })
}

/// How many deliveries there will be.
fn expected() -> usize {
    samples::ALL.len() * RECEIVERS + samples::ALL.iter().filter(|sample| routes::MAILED.contains(&sample.r#type)).count()
}

async fn relay(folder: &Folder, secrets: &Secrets, receivers: [SocketAddr; 4]) -> Result<App, Failure> {
    let text = routes::text(&folder.store(), secrets, receivers);
    let loaded = config::parse(File { path: PathBuf::from("demo.yaml"), text }, &System);
    let why = || Failure::Bad(format!("the demo's own configuration is bad: {}", report::headline(&loaded).unwrap_or_default()));
    let config = loaded.config.clone().ok_or_else(why)?;
    let options = Options {
        clock: Clock::system(),
        admin_token: Some(secrets.token.clone()),
        rejected: None,
        reloader: Arc::new(Reloader::without_file()),
    };
    App::build(config, options).await.map_err(serve::cannot_start)
}

/// Sends every sample, prints each delivery as it lands and the table at the end. True when everything has arrived.
async fn show(
    args: &Args,
    handles: &Handles,
    secrets: &Secrets,
    public: SocketAddr,
    mut landings: mpsc::Receiver<Landed>,
) -> Result<bool, Failure> {
    output::note(&format!(
        "the relay listens on http://{public}; sending {} events, each goes to crm (webhook), n8n and Slack, and what people have to mend to them by mail",
        samples::ALL.len()
    ));
    let deadline = Instant::now() + PATIENCE;
    let sending = send_all(secrets, public);
    let watching = watch(&mut landings, deadline, args.json);
    let (sent, landed) = tokio::join!(sending, watching);
    sent?;
    let rows = settled(handles, deadline).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let rows: Vec<Value> = rows.iter().map(|row| row.show(&landed)).collect();
    if args.json {
        output::raw(&json!({ "data": rows }).to_string());
    } else {
        output::line("");
        output::list(&rows, &["event", "type", "source", "target", "state", "attempts", "ms", "signature"]);
    }
    let good =
        |row: &Value| row["state"] == State::Delivered.word() && matches!(row["signature"].as_str(), Some("ok" | UNSIGNED));
    Ok(rows.len() == expected() && rows.iter().all(good))
}

async fn send_all(secrets: &Secrets, public: SocketAddr) -> Result<(), Failure> {
    let client = Client::new()?;
    for sample in samples::ALL {
        let way = way(sample, secrets);
        let url = format!("http://{public}{}", way.path);
        let message = Message { id: "", at: Clock::system().now(), body: sample.body.as_bytes() };
        let (status, answer) = send::post(&client, &url, &way, message, Vec::new()).await?;
        if status != 200 {
            return Err(Failure::Bad(format!("{} was answered with {status}: {answer}", sample.r#type)));
        }
    }
    Ok(())
}

/// How the sender of `sample` reaches the demo's relay.
fn way(sample: Sample, secrets: &Secrets) -> Way {
    let (path, scheme, secret) = match sample.kind {
        "interactor" => (routes::INTERACTOR, Scheme::Interactor, &secrets.interactor),
        "agent" => (routes::AGENTS, Scheme::Agent, &secrets.agents),
        _ => (routes::GMAIL, Scheme::Static(routes::GMAIL_HEADER.to_owned()), &secrets.gmail),
    };
    Way { kind: sample.kind, path: path.to_owned(), scheme, secret: secret.clone() }
}

/// Prints what lands until everything has, or the deadline; answers by delivery id whether its signature was right.
async fn watch(landings: &mut mpsc::Receiver<Landed>, deadline: Instant, quiet: bool) -> HashMap<String, Option<bool>> {
    let mut seen = HashMap::new();
    while seen.len() < expected() {
        let Ok(Some(landed)) = timeout_at(deadline, landings.recv()).await else { break };
        if !quiet {
            let event = shortened(&landed.event);
            output::line(&match landed.signed {
                Some(true) => format!("{:<5} got {:<28} {event:<20} signature ok", landed.target, landed.r#type),
                Some(false) => format!("{:<5} got {:<28} {event:<20} SIGNATURE WRONG", landed.target, landed.r#type),
                None => format!("{:<5} got “{}”", landed.target, landed.r#type),
            });
        }
        seen.insert(landed.delivery, landed.signed);
    }
    seen
}

/// A delivery with its event and its attempts.
struct Row {
    event: EventRow,
    delivery: Delivery,
    attempts: Vec<Attempt>,
}

/// Every delivery, once all are final or the deadline has passed.
async fn settled(handles: &Handles, deadline: Instant) -> store::Result<Vec<Row>> {
    loop {
        let rows = rows(handles).await?;
        let done = |row: &Row| matches!(row.delivery.state, State::Delivered | State::Dead);
        if rows.iter().all(done) || deadline <= Instant::now() {
            return Ok(rows);
        }
        sleep(GLANCE).await;
    }
}

async fn rows(handles: &Handles) -> store::Result<Vec<Row>> {
    let events = handles.store.events(Filter { page: Page::After(0), ..Filter::default() }).await?;
    let mut rows = Vec::new();
    for event in events {
        let filter = Filter { event: Some(event.uid), page: Page::After(0), ..Filter::default() };
        let attempts = handles.store.attempts(event.uid).await?;
        for found in handles.store.deliveries(filter).await? {
            let of_it = |attempt: &&Attempt| attempt.delivery == found.delivery.id;
            let attempts = attempts.iter().filter(of_it).cloned().collect();
            rows.push(Row { event: event.clone(), delivery: found.delivery, attempts });
        }
    }
    Ok(rows)
}

impl Row {
    /// What the table says of it; `ms` is the time from acceptance to the end of the last attempt.
    fn show(&self, landed: &HashMap<String, Option<bool>>) -> Value {
        let id = self.delivery.id.to_string();
        let envelope = &self.event.envelope;
        let took = self.attempts.last().map(|last| until(envelope.received_at, last.started_at) + last.duration);
        let signature = match landed.get(&id) {
            Some(Some(true)) => "ok",
            Some(Some(false)) => "wrong",
            Some(None) => UNSIGNED,
            None => "not seen",
        };
        json!({
            "event": shortened(&envelope.id),
            "type": envelope.r#type,
            "source": envelope.source.as_str(),
            "target": self.delivery.target.as_str(),
            "state": self.delivery.state.word(),
            "attempts": self.delivery.attempts,
            "ms": took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            "signature": signature,
        })
    }
}

/// Hash ids are long; their beginning tells them apart here.
fn shortened(id: &str) -> String {
    const SHOWN: usize = 18; // characters
    if id.chars().count() <= SHOWN { id.to_owned() } else { format!("{}…", id.chars().take(SHOWN).collect::<String>()) }
}

fn farewell(public: SocketAddr, admin: SocketAddr, secrets: &Secrets) {
    output::note("");
    output::note(&format!("sources: http://{public}{{{},{},{}}}", routes::INTERACTOR, routes::AGENTS, routes::GMAIL));
    output::note(&format!("metrics: http://{admin}/metrics"));
    // The token is the demo's own, made a moment ago and gone with it: without it nobody could look around.
    let token = secrets.token.reveal();
    output::note(&format!("look:    HOOKYARD_URL=http://{admin} HOOKYARD_ADMIN_TOKEN={token} hookyard events"));
    output::note(&format!("API:     curl -H 'Authorization: Bearer {token}' http://{admin}/api/v1/events"));
    output::note("serving until Ctrl-C");
}

/// A secret in the form of Standard Webhooks: `whsec_` and base64 of 32 random bytes.
fn make_secret() -> Result<Secret, Failure> {
    let random = [random_id("")?, random_id("")?].concat();
    let bytes = crate::sign::hex32(random.as_bytes()).unwrap_or_default();
    Ok(Secret::new(format!("whsec_{}", crate::sign::base64(&bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_own_configuration_is_good() {
        let addr: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let text = routes::text("/tmp/a \"b\"/hookyard.db", &Secrets::make().unwrap(), [addr; 4]);
        let loaded = config::parse(File { path: PathBuf::from("demo.yaml"), text }, &System);
        assert!(loaded.config.is_some(), "{}", report::text(&loaded, false));
    }

    #[test]
    fn long_ids_are_shortened_by_characters() {
        assert_eq!(shortened("evt_003"), "evt_003");
        assert_eq!(shortened(&"é".repeat(30)).chars().count(), 19);
    }
}
