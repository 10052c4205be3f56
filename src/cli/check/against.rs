//! `check --against 24h`: what the file would change of what came in lately, against what the relay runs on, before it is live.
//!
//! The running relay hands out its events with what its rules plan for them; where none runs, its store is read, and the last good
//! file in it stands for what it ran on. The new file plans here.

use std::{path::Path, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::Args;
use crate::{
    cli::{
        Failure,
        client::{Answer, Reach, Relay},
        output,
    },
    clock::{Clock, Timestamp, earlier, rfc3339_ms, rfc3339_s, short},
    config::{self, Config, System},
    deliver,
    envelope::Envelope,
    explain::{
        ByFile,
        backtest::{Backtest, Change, Summary},
        event::Written,
    },
    reload::last_good,
    route::Router,
    store::{self, Filter, Page, Store},
};

/// Most events that are planned twice: the newest ones.
const EVENTS_MAX: u64 = 100_000;
/// Longest time it may take.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Events asked for at once.
const PAGE: u32 = 500;

/// With which events, and by which relay.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Against {
    /// Show what the file would change of the events of this long (24h, 7d), by rule and target
    #[arg(long, value_name = "24h", value_parser = length)]
    against: Option<Duration>,
    #[command(flatten)]
    reach: Reach,
}

fn length(text: &str) -> Result<Duration, String> {
    config::decode::duration(text).ok_or_else(|| "a length of time such as 30m, 24h or 7d".to_owned())
}

impl Against {
    /// Whether anything is to be compared.
    pub(in crate::cli) fn is_asked(&self) -> bool {
        self.against.is_some()
    }
}

/// Compares, and prints what would change. A change is no error.
pub(in crate::cli) async fn run(args: &Args) -> Result<(), Failure> {
    let Some(window) = args.against.against else { return Ok(()) };
    let loaded = config::load(&args.config, &System);
    let Some(config) = loaded.config.clone() else { return Err(Failure::BadAndSaid) };
    let file = ByFile::new(config.clone()).map_err(Failure::Bad)?;
    let since = earlier(Clock::system().now(), window);
    let mut before = before(args, &config, &loaded, since).await?;
    let mut compared = Compared { hash: before.hash().await?, ..Compared::default() };
    let compared = match compare(&mut before, &file, &mut compared).await {
        Ok(()) => compared,
        Err(failure) => {
            before.close().await;
            return Err(failure);
        }
    };
    before.close().await;
    if args.json {
        output::raw(&format!("{:#}", compared.json(&config.hash, since)));
    } else {
        compared.tell(&args.config, &config.hash, window);
    }
    Ok(())
}

/// What was compared.
#[derive(Default)]
struct Compared {
    /// Hash of what the relay runs on.
    hash: String,
    test: Backtest,
    /// When the oldest of the events came in.
    oldest: Option<Timestamp>,
    /// Whether older ones of the window were left out.
    cut: bool,
}

async fn compare(before: &mut Before, file: &ByFile, compared: &mut Compared) -> Result<(), Failure> {
    let began = Instant::now();
    while let Some(page) = before.page().await? {
        if !compared.take(page, file, EVENTS_MAX, || TIME_MAX < began.elapsed()) {
            break;
        }
    }
    Ok(())
}

/// Who tells what came in, and what is planned for it today.
enum Before {
    Relay { relay: Box<Relay>, since: Timestamp, after: Option<String>, done: bool },
    Store { store: Arc<dyn Store>, config: Box<Config>, router: Box<Router>, since: Timestamp, page: Page },
}

/// The relay, or its store where none runs.
async fn before(args: &Args, config: &Config, loaded: &config::Loaded, since: Timestamp) -> Result<Before, Failure> {
    let relay = args.against.reach.relay(&args.config)?;
    let unreachable = match relay.get("/api/v1/config", &[]).await {
        Ok(_) => return Ok(Before::Relay { relay: Box::new(relay), since, after: None, done: false }),
        Err(Failure::Unreachable(why)) if !args.against.reach.is_named() => why,
        Err(failure) => return Err(failure),
    };
    if let Some(path) = store::file(&config.store.url, Path::new(""))
        && !tokio::fs::try_exists(&path).await.unwrap_or(false)
    {
        return Err(Failure::Unreachable(unreachable));
    }
    let store = store::open(&config.store.url, Path::new(""), Clock::system()).await;
    let store = store.map_err(|error| Failure::Unreachable(format!("{unreachable}; and {error}")))?;
    let Some(ran_on) = last_good::of_store(loaded, &config.store.url, &*store).await else {
        store.close().await;
        let why = "the store holds no last good configuration that can be read here: there is nothing to compare with";
        return Err(Failure::Unreachable(format!("{unreachable}; {why}")));
    };
    let router = Router::new(ran_on.rules.clone(), ran_on.unmatched.clone(), deliver::orders(&ran_on.destinations));
    let router = Box::new(router.with_audiences(deliver::audiences(&ran_on.destinations)));
    Ok(Before::Store { store, config: Box::new(ran_on), router, since, page: Page::Newest })
}

/// A row of the relay's answer.
#[derive(Deserialize)]
struct Row {
    uid: String,
    envelope: Box<RawValue>,
    plan: Summary,
}

/// Events with what is planned for them, by the relay's ids.
type Planned = Vec<(String, Envelope, Summary)>;

impl Before {
    /// Hash of the configuration that it runs on.
    async fn hash(&self) -> Result<String, Failure> {
        match self {
            Self::Relay { relay, .. } => {
                let answer = relay.get("/api/v1/config", &[]).await?;
                Ok(answer.json["data"]["hash"].as_str().unwrap_or_default().to_owned())
            }
            Self::Store { config, .. } => Ok(config.hash.clone()),
        }
    }

    /// The next events, the newest first; `None`: there are no more.
    async fn page(&mut self) -> Result<Option<Planned>, Failure> {
        match self {
            Self::Relay { done: true, .. } => Ok(None),
            Self::Relay { relay, since, after, done } => {
                let mut query = vec![("since", rfc3339_ms(*since)), ("limit", PAGE.to_string())];
                query.extend(after.take().map(|after| ("after", after)));
                let answer = relay.get("/api/v1/config/backtest", &query).await?;
                *after = answer.json["next"].as_str().map(str::to_owned);
                *done = after.is_none();
                read(&answer).map(Some)
            }
            Self::Store { store, router, since, page, .. } => {
                let failed = |error: store::Error| Failure::Unreachable(error.to_string());
                let rows = store.events(Filter { page: *page, limit: PAGE, ..Filter::default() }).await.map_err(failed)?;
                let Some(last) = rows.last() else { return Ok(None) };
                *page = Page::Before(last.uid.seq);
                let mut events = Vec::with_capacity(rows.len());
                for row in rows.iter().take_while(|row| *since <= row.envelope.received_at) {
                    if let Some(row) = store.event(row.uid).await.map_err(failed)? {
                        let planned = Summary::of(router, &row.envelope);
                        events.push((row.uid.to_string(), row.envelope, planned));
                    }
                }
                // The rest is older.
                Ok((!events.is_empty()).then_some(events))
            }
        }
    }

    async fn close(self) {
        if let Self::Store { store, .. } = self {
            store.close().await;
        }
    }
}

fn read(answer: &Answer) -> Result<Planned, Failure> {
    #[derive(Deserialize)]
    struct Rows {
        data: Vec<Row>,
    }
    let unread = |error: String| Failure::Bad(format!("the relay's answer cannot be read: {error}"));
    let rows: Rows = serde_json::from_str(&answer.text).map_err(|error| unread(error.to_string()))?;
    let now = Clock::system().now();
    let event = |row: Row| {
        let written: Written = serde_json::from_str(row.envelope.get()).map_err(|error| unread(error.to_string()))?;
        Ok((row.uid, written.stored(now).map_err(unread)?, row.plan))
    };
    rows.data.into_iter().map(event).collect()
}

/// What a table shows of a change.
const COLUMNS: [&str; 7] = ["name", "before", "after", "gained", "lost", "changed", "such_as"];

impl Compared {
    /// Plans `page` by the new file too; false when so many events are enough, or time is up.
    fn take(&mut self, page: Planned, file: &ByFile, most: u64, is_late: impl Fn() -> bool) -> bool {
        for (uid, event, planned) in page {
            if most <= self.test.events || is_late() {
                self.cut = true;
                return false;
            }
            let after = Summary::of(file.router(), &event);
            self.test.add(&uid, &planned, &after);
            self.test.address(file.config(), file.contacts(), &event, &after);
            self.oldest = Some(event.received_at);
        }
        true
    }

    fn json(&self, hash: &str, since: Timestamp) -> Value {
        let mut answer = serde_json::to_value(&self.test).unwrap_or_default();
        answer["running_hash"] = self.hash.as_str().into();
        answer["file_hash"] = hash.into();
        answer["since"] = rfc3339_ms(since).into();
        answer["oldest_at"] = self.oldest.map(rfc3339_ms).into();
        answer["cut"] = self.cut.into();
        json!({ "data": answer })
    }

    fn tell(&self, file: &Path, hash: &str, window: Duration) {
        let test = &self.test;
        let running = &self.hash;
        let what = format!("{} ({hash}) against what runs ({running})", file.display());
        output::line(&format!("{what}: {} events of the last {}", test.events, short(window)));
        if let (true, Some(oldest)) = (self.cut, self.oldest) {
            output::note(&format!("only the newest of them: those since {}", rfc3339_s(oldest)));
        }
        tell_changes("rules: events that fire them", &test.rules);
        tell_changes("targets: deliveries", &test.targets);
        if test.unmatched_before != test.unmatched_after {
            output::line("");
            output::line(&format!("matched by no rule: {} before, {} after", test.unmatched_before, test.unmatched_after));
        }
        for (target, nobody) in &test.unaddressed {
            let named =
                if nobody.namespaces.is_empty() { String::new() } else { format!(", such as {}", nobody.namespaces.join(", ")) };
            output::line("");
            output::line(&format!("{target}: {} deliveries reach nobody: {}{named}", nobody.events, nobody.reason));
        }
        if !test.is_change() {
            output::line("nothing changes");
        }
    }
}

fn tell_changes(title: &str, all: &std::collections::BTreeMap<String, Change>) {
    let rows: Vec<Value> = all.iter().filter(|(_, change)| change.is_change()).map(row).collect();
    if rows.is_empty() {
        return;
    }
    output::line("");
    output::line(title);
    output::list(&rows, &COLUMNS);
    let same = all.len() - rows.len();
    if 0 < same {
        output::line(&format!("and {same} as before"));
    }
}

fn row((name, change): (&String, &Change)) -> Value {
    let signed = |sign: &str, count: u64| if count == 0 { "-".to_owned() } else { format!("{sign}{count}") };
    let examples = [&change.gained_examples, &change.lost_examples, &change.changed_examples];
    json!({
        "name": name,
        "before": change.before,
        "after": change.after,
        "gained": signed("+", change.gained),
        "lost": signed("-", change.lost),
        "changed": signed("", change.changed),
        "such_as": examples.into_iter().flatten().take(2).cloned().collect::<Vec<_>>().join(" "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::File, envelope::tests::sample};

    fn page(from: i64, count: i64) -> Planned {
        let at = |n: i64| Timestamp::from_second(1_000_000 - n).unwrap();
        let event = |n| (format!("ev_{n}"), Envelope { received_at: at(n), ..sample() }, Summary::default());
        (from..from + count).map(event).collect()
    }

    #[tokio::test]
    async fn it_ends_when_there_are_many_or_time_is_up_and_says_so() {
        let loaded = config::parse(File { path: "routes.yaml".into(), text: "version: 1".to_owned() }, &|_: &str| None);
        let file = ByFile::new(loaded.config.unwrap()).unwrap();
        let mut compared = Compared::default();
        assert!(compared.take(page(0, 4), &file, 4, || false) && !compared.cut, "so many are looked at whole");
        assert!(!compared.take(page(4, 4), &file, 4, || false) && compared.cut);
        let told = compared.json("new", Timestamp::UNIX_EPOCH);
        assert_eq!((&told["data"]["events"], &told["data"]["cut"]), (&json!(4), &json!(true)));
        assert_eq!(told["data"]["oldest_at"], rfc3339_ms(Timestamp::from_second(1_000_000 - 3).unwrap()));
        let mut late = Compared::default();
        assert!(!late.take(page(0, 1), &file, 4, || true) && late.cut && late.test.events == 0);
        assert!(late.take(page(0, 0), &file, 4, || true), "nothing was left out");
    }
}
