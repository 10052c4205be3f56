//! A steady load while fifty files take one another's place: two good ones in turn, and every tenth time a bad one. Against the same load
//! without them, in the same round.
//!
//! The two name their own generation twice: the source maps every event to a type of it, and a rule takes that type to a target of it.
//! An event that was mapped by the one and planned by the other would match no rule, or reach the other's target.

use std::{collections::BTreeMap, fs, path::Path, time::Instant};

use serde_json::Value;
use tokio::time::{Instant as Tick, sleep_until};

use super::{Bench, meter};
use crate::{
    Outcome,
    load::Load,
    receiver::Manner,
    relay::{Relay, Routes},
    table::median,
    wire::{self, Wire},
};

const RATE: u32 = 500; // events per second
const RELOADS: u32 = 50;
const BAD_EVERY: u32 = 10; // reloads
const SHARE_MAX: f64 = 2.0; // of the p99 without reloads
const LEAST_MAX_MS: f64 = 5.0; // or this much

const GENERATIONS: [&str; 2] = ["a", "b"];
const PAGE: usize = 500; // deliveries

pub(super) async fn run(bench: &mut Bench) -> Outcome {
    let (without, with) = match bench.round.is_multiple_of(2) {
        false => (measure(bench, false).await?, measure(bench, true).await?),
        true => {
            let with = measure(bench, true).await?;
            (measure(bench, false).await?, with)
        }
    };
    bench.record("reload_without_p99_ms", without);
    bench.record("reload_with_p99_ms", with);
    bench.record("reload_ratio", with / without);
    bench.record("reload_share", with / (without * SHARE_MAX).max(LEAST_MAX_MS));
    Ok(())
}

/// The p99 of intake.
async fn measure(bench: &mut Bench, reloading: bool) -> Outcome<f64> {
    let place = bench.stores.filled(bench.engine).await?;
    let targets = GENERATIONS.map(|generation| bench.target(&format!("of-{generation}"), Manner::Ok));
    let names = targets.each_ref().map(|target| target.name.clone());
    let routes = |generation| Routes { generation: Some(generation), ..Routes::to(targets.to_vec()) };
    let files = [routes(0).text(), routes(1).text()];
    let relay = Relay::start(&place, &routes(0)).await?;
    let load = bench.load(relay.public);
    let file = place.path().join("routes.yaml");
    let reloads = async { if reloading { reload(&relay, &file, &files, load).await } else { Ok(Vec::new()) } };
    let (report, metered, took) =
        tokio::join!(load.open(&bench.signer, RATE), meter(relay.pid(), None, &mut bench.receiver, load), reloads);
    let (report, took) = (report?, took?);
    metered?;
    bench.note_refused(&report);
    if reloading {
        let expected = u64::from(RATE) * (load.warm_up + load.length).as_secs();
        let seen = Seen::of(&relay, &names, expected).await?;
        bench.record("reload_ms", median(&took).unwrap_or_default());
        bench.record("reload_failed", report.refused as f64);
        bench.record("reload_lost", expected.saturating_sub(seen.own + seen.mixed) as f64);
        bench.record("reload_mixed", seen.mixed as f64);
    }
    relay.stop().await?;
    Ok(report.latency.percentile_ms(0.99))
}

/// Puts one file after the other in the place of the last while `load` is counted; answers how many milliseconds each took.
async fn reload(relay: &Relay, file: &Path, files: &[String; 2], load: Load) -> Outcome<Vec<f64>> {
    let begin = Tick::now() + load.warm_up;
    let mut took = Vec::new();
    for n in 1..=RELOADS {
        sleep_until(begin + load.length * n / (RELOADS + 1)).await;
        let bad = n % BAD_EVERY == 0;
        let text = if bad { "version: 1\nruels: []\n" } else { files.get(n as usize % 2).map_or("", String::as_str) };
        fs::write(file, text)?;
        let asked = Instant::now();
        let status = wire::call(relay.admin, "POST", "/api/v1/config/reload", relay.token()).await?;
        if status != if bad { 422 } else { 200 } {
            return Err(format!("reload {n} was answered with {status}").into());
        }
        if !bad {
            took.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(took)
}

/// How many deliveries there are of events of each generation to its own target, and to the other's.
struct Seen {
    own: u64,
    mixed: u64,
}

impl Seen {
    async fn of(relay: &Relay, names: &[String; 2], expected: u64) -> Outcome<Self> {
        let mut count: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let began = Instant::now();
        loop {
            for (generation, letter) in GENERATIONS.iter().enumerate() {
                for (target, name) in names.iter().enumerate() {
                    let filter = format!("type=generation.{letter}&target={name}");
                    count.insert((generation, target), deliveries(relay, &filter).await?);
                }
            }
            let of = |own: bool| count.iter().filter(|((a, b), _)| (a == b) == own).map(|(_, count)| count).sum();
            let seen = Self { own: of(true), mixed: of(false) };
            // What was accepted last may not be listed yet.
            if expected <= seen.own + seen.mixed || 10 < began.elapsed().as_secs() {
                return Ok(seen);
            }
        }
    }
}

/// How many deliveries fit `filter`, page by page.
async fn deliveries(relay: &Relay, filter: &str) -> Outcome<u64> {
    let mut wire = Wire::connect(relay.admin).await?;
    let (mut count, mut after) = (0, String::new());
    loop {
        let path = format!("/api/v1/deliveries?{filter}&limit={PAGE}{after}");
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", relay.token());
        let answer: Value = serde_json::from_slice(wire.ask(head.as_bytes()).await?.body)?;
        count += answer["data"].as_array().ok_or("no deliveries are listed")?.len() as u64;
        match answer["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(count),
        }
    }
}
