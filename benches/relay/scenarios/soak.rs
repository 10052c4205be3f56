//! A long steady run with two minutes of retention, on a store that begins empty: memory, file and latency must stop growing.
//! Dedupe keys are kept for a week by contract, so their pages are taken off the file's size: a key is as large as the next,
//! so what they hold at the end is spread over the events accepted by then.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{Bench, meter, say};
use crate::{
    Outcome,
    load::Load,
    process,
    receiver::Manner,
    relay::{Relay, Routes},
    stores::Place,
    table::median,
};

const RETENTION: &str = "2m";
const MINUTE: Duration = Duration::from_secs(60);
const TAIL: usize = 15; // minutes that must be flat

/// What was seen in one minute.
struct Minute {
    accepted: u64,
    memory_mb: f64,
    store_mb: f64,
    log_mb: f64,
    ingest_p99_ms: f64,
    lag_p99_ms: f64,
}

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let place = bench.stores.empty(bench.engine).await?;
    let routes = Routes { retention: Some(RETENTION), ..Routes::to(vec![bench.target("soak", Manner::Ok)]) };
    let relay = Relay::start(&place, &routes).await?;
    let mut minutes = Vec::new();
    say("minute  accepted  memory MB  store MB  log MB  ingest p99 ms  lag p99 ms");
    for n in 1..=bench.options.minutes {
        let minute = one_minute(bench, &relay, &place).await?;
        say(minute.line(n));
        bench.results.minute(minute.json());
        minutes.push(minute);
    }
    relay.stop().await?;
    conclude(bench, &minutes, dedupe_mb(&place));
    Ok(())
}

async fn one_minute(bench: &mut Bench, relay: &Relay, place: &Place) -> Outcome<Minute> {
    let load = Load { warm_up: Duration::ZERO, length: MINUTE, ..bench.load(relay.public) };
    let rate = bench.options.rate;
    let (report, metered) = tokio::join!(load.open(&bench.signer, rate), meter(relay.pid(), None, &mut bench.receiver, load));
    let (report, taken) = (report?, metered?.taken);
    bench.note_refused(&report);
    let (store_mb, log_mb) = place.sizes_mb();
    Ok(Minute {
        accepted: report.accepted,
        memory_mb: process::memory_mb(relay.pid())?,
        store_mb,
        log_mb,
        ingest_p99_ms: report.latency.percentile_ms(0.99),
        lag_p99_ms: taken.lag_p99_ms,
    })
}

impl Minute {
    fn json(&self) -> Value {
        json!({
            "accepted": self.accepted,
            "memory_mb": self.memory_mb,
            "store_mb": self.store_mb,
            "log_mb": self.log_mb,
            "ingest_p99_ms": self.ingest_p99_ms,
            "lag_p99_ms": self.lag_p99_ms,
        })
    }

    fn line(&self, n: u64) -> String {
        format!(
            "{n:>6}  {:>8}  {:>9.1}  {:>8.1}  {:>6.1}  {:>13.2}  {:>10.2}",
            self.accepted, self.memory_mb, self.store_mb, self.log_mb, self.ingest_p99_ms, self.lag_p99_ms
        )
    }
}

fn conclude(bench: &mut Bench, minutes: &[Minute], keys_mb: Outcome<f64>) {
    let accepted: u64 = minutes.iter().map(|minute| minute.accepted).sum();
    bench.results.note(match &keys_mb {
        Ok(keys_mb) => format!("soak: {keys_mb:.1} MB of the store are the dedupe keys of {accepted} events"),
        Err(error) => format!("soak: the size of the dedupe keys is not known ({error}), so they count as growth"),
    });
    let key_mb = keys_mb.unwrap_or(0.0) / accepted.max(1) as f64;
    bench.record("soak_rate", accepted as f64 / (minutes.len() as f64 * MINUTE.as_secs_f64()));
    let figures: [(&'static str, Vec<f64>); 4] = [
        ("soak_memory_growth", minutes.iter().map(|minute| minute.memory_mb).collect()),
        ("soak_store_growth", without_keys(minutes, key_mb)),
        ("soak_ingest_p99_growth", minutes.iter().map(|minute| minute.ingest_p99_ms).collect()),
        ("soak_lag_p99_growth", minutes.iter().map(|minute| minute.lag_p99_ms).collect()),
    ];
    if minutes.len() < TAIL {
        bench.results.note(format!("soak: growth is judged over the last {TAIL} minutes, and this run was shorter"));
    }
    for (key, values) in figures {
        if let Some(growth) = growth(&values) {
            bench.record(key, growth);
        }
    }
}

fn without_keys(minutes: &[Minute], key_mb: f64) -> Vec<f64> {
    let mut accepted = 0;
    let size = |minute: &Minute| {
        accepted += minute.accepted;
        minute.store_mb + minute.log_mb - key_mb * accepted as f64
    };
    minutes.iter().map(size).collect()
}

/// The median of the last third of the tail over that of its first; `None` when the run was shorter than that, or there was nothing.
fn growth(values: &[f64]) -> Option<f64> {
    let tail = values.get(values.len().checked_sub(TAIL)?..)?;
    let third = tail.len() / 3;
    let (first, last) = (median(tail.get(..third)?)?, median(tail.get(tail.len() - third..)?)?);
    (0.0 < first).then_some(last / first)
}

/// Pages of the dedupe table and its indexes in MB, once the relay has stopped; 0 for a store that is no file, whose size is not known either.
fn dedupe_mb(place: &Place) -> Outcome<f64> {
    let Some(database) = place.database() else { return Ok(0.0) };
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let pages = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE aggregate = TRUE AND name LIKE '%dedupe%'";
    let bytes: i64 = connection.query_row(pages, [], |row| row.get(0))?;
    match bytes {
        0 => Err("no table of that name".into()),
        bytes => Ok(bytes as f64 / 1e6),
    }
}
