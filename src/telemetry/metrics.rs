//! OpenTelemetry instruments, read out in classic Prometheus text. One registry per relay: two relays in one process do not
//! see each other's counts.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use opentelemetry::{
    KeyValue, StringValue,
    metrics::{Counter, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::{Encoder, Registry, TextEncoder};

use crate::{
    clock::Timestamp,
    envelope::Name,
    store::{Cause, State},
};

/// How many event types get a label of their own per relay; further ones count as [`OTHER`].
const EVENT_TYPES_MAX: usize = 200;
/// Longest event type that becomes a label, in bytes.
const EVENT_TYPE_LEN_MAX: usize = 100;
/// Label of event types beyond the caps, and of those with unusual characters.
const OTHER: &str = "other";
/// Label of what is not known: the type of a request that was not read, the source of a path that belongs to none.
const UNKNOWN: &str = "unknown";
/// How many combinations of labels one instrument may have; later ones are counted together.
const SERIES_MAX: usize = 20_000;

/// Seconds. The upper ones are those of the seed ("Metrics", Interactor webhooks guide); a commit takes far less than the
/// lowest of them, so finer ones stand below.
const PROCESSING_BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0];
/// Seconds: from "at once" to the give-up time of a day.
const LAG_BUCKETS: [f64; 14] = [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0];
/// Requests in one commit.
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Seconds of one commit, fsync included.
const COMMIT_BUCKETS: [f64; 11] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0];

/// The instruments of one relay, exported at `/metrics` in classic Prometheus text. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Instruments>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

struct Instruments {
    registry: Registry,
    /// Shuts its reader down when dropped, so it lives as long as the instruments.
    _provider: SdkMeterProvider,
    received: Counter<u64>,
    processing: Histogram<f64>,
    attempts: Counter<u64>,
    lag: Histogram<f64>,
    batch: Histogram<u64>,
    commit: Histogram<f64>,
    templates: Counter<u64>,
    given_up: Counter<u64>,
    unsent: Counter<u64>,
    polls: Counter<u64>,
    event_types: RwLock<HashSet<Arc<str>>>,
    levels: Arc<Mutex<Levels>>,
}

/// The outcome of a poll that met no fault.
pub const SUCCESS: &str = "success";

/// What is said anew as a whole and read when somebody asks.
#[derive(Default)]
struct Levels {
    backlog: Vec<(Name, u64, Duration, u64)>,
    config_hash: Option<String>,
    /// Whether the file that was last read could be used.
    config_good: Option<bool>,
    /// When one last could, in seconds since 1970.
    config_good_at: Option<i64>,
    /// The generation of the configuration, and the newest one.
    generations: (Option<u64>, Option<u64>),
    /// Replicas, and how many of them go by the newest configuration.
    replicas: Option<(u64, u64)>,
    /// When each polled source was last asked with success, in seconds since 1970.
    polled_at: BTreeMap<Name, i64>,
}

impl Metrics {
    /// Instruments of a relay that runs on the configuration with this hash.
    pub fn new(config_hash: &str) -> Self {
        let metrics = Self::default();
        metrics.configured(config_hash);
        metrics
    }

    /// `webhook_received_total{source,event_type,status}`: a request came to `source` and got `status`: `success`, `duplicate`,
    /// `duplicate_mismatch`, or the error's code. `event_type` is `None` where it is not known.
    pub fn received(&self, source: Option<&Name>, event_type: Option<&str>, status: &'static str) {
        let source = source.map_or(StringValue::from(UNKNOWN), |name| name.as_str().to_owned().into());
        let event_type = event_type.map_or(StringValue::from(UNKNOWN), |text| self.0.event_type(text));
        let labels = [KeyValue::new("source", source), KeyValue::new("event_type", event_type), KeyValue::new("status", status)];
        self.0.received.add(1, &labels);
    }

    /// `webhook_processing_duration_seconds{source}`: from the last byte of a request to its answer.
    pub fn processed(&self, source: &Name, took: Duration) {
        self.0.processing.record(took.as_secs_f64(), &[label("source", source)]);
    }

    /// `hookyard_delivery_attempts_total{target,outcome}`: an attempt ended as `delivered`, `retry` or `dead`.
    pub fn attempted(&self, target: &Name, outcome: &'static str) {
        self.0.attempts.add(1, &[label("target", target), KeyValue::new("outcome", outcome)]);
    }

    /// `hookyard_delivery_lag_seconds{target}`: from acceptance to a 2xx of the target.
    pub fn delivered_after(&self, target: &Name, lag: Duration) {
        self.0.lag.record(lag.as_secs_f64(), &[label("target", target)]);
    }

    /// `hookyard_commit_batch_size` and `hookyard_commit_duration_seconds`: so many requests shared one commit.
    pub fn committed(&self, requests: usize, took: Duration) {
        self.0.batch.record(requests as u64, &[]);
        self.0.commit.record(took.as_secs_f64(), &[]);
    }

    /// `hookyard_template_failures_total{target}`: a template of the user's failed at run time and the built-in line was sent instead.
    pub fn template_failed(&self, target: &Name) {
        self.0.templates.add(1, &[label("target", target)]);
    }

    /// `hookyard_given_up_total{target}`: a delivery died at its give-up time without another attempt, its target being broken.
    pub fn given_up(&self, target: &Name) {
        self.0.given_up.add(1, &[label("target", target)]);
    }

    /// `hookyard_unsent_total{target,state,cause}`: so many deliveries became final without being sent on their own: `suppressed`,
    /// `digested`, `expired`, or `cancelled` by a later event. (What people cancel they know of.)
    pub fn unsent(&self, target: &Name, state: State, cause: Option<Cause>, count: u64) {
        let cause = KeyValue::new("cause", cause.map_or("", Cause::word));
        if 0 < count {
            self.0.unsent.add(count, &[label("target", target), KeyValue::new("state", state.word()), cause]);
        }
    }

    /// `hookyard_polls_total{source,outcome}`: a source was asked, which came to `success` or to what went wrong (`http_401`); and
    /// `hookyard_poll_last_success_timestamp_seconds{source}`.
    pub fn polled(&self, source: &Name, outcome: String, at: Timestamp) {
        if outcome == SUCCESS {
            self.0.levels(|levels| _ = levels.polled_at.insert(source.clone(), at.as_second()));
        }
        self.0.polls.add(1, &[label("source", source), KeyValue::new("outcome", outcome)]);
    }

    /// Forgets when sources were last asked that are not among `asked` (any more).
    pub fn asked(&self, asked: &[Name]) {
        self.0.levels(|levels| levels.polled_at.retain(|name, _| asked.contains(name)));
    }

    /// What waits: per target its name, the number of deliveries not final, the age of the oldest, the number of dead letters.
    /// `webhook_dlq_size`, `hookyard_backlog{target}`, `hookyard_oldest_seconds{target}`; replaces what was said before.
    pub fn backlog(&self, rows: &[(Name, u64, Duration, u64)]) {
        self.0.levels(|levels| levels.backlog = rows.to_vec());
    }

    /// `hookyard_config_info{hash}`: which configuration runs; replaces what was said before.
    pub fn configured(&self, hash: &str) {
        self.0.levels(|levels| levels.config_hash = Some(hash.to_owned()));
    }

    /// `hookyard_config_generation`, `hookyard_config_newest_generation`, `hookyard_replicas` and `hookyard_replicas_on_newest`: which
    /// generation of configurations runs and which is the newest, how many replicas share the store and how many of them go by the newest;
    /// replaces what was said before.
    pub fn generations(&self, (own, newest): (Option<u64>, Option<u64>), (all, on_newest): (usize, usize)) {
        self.0.levels(|levels| {
            (levels.generations, levels.replicas) = ((own, newest), Some((all as u64, on_newest as u64)));
        });
    }

    /// `hookyard_config_last_reload_successful` and `hookyard_config_last_reload_success_timestamp_seconds`: a file was read, a start
    /// included; `good_at`: it could be used, and is since then.
    pub fn config_read(&self, good_at: Option<Timestamp>) {
        self.0.levels(|levels| {
            levels.config_good = Some(good_at.is_some());
            levels.config_good_at = good_at.map(Timestamp::as_second).or(levels.config_good_at);
        });
    }

    /// Everything, in Prometheus text format 0.0.4.
    pub fn export(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::warn!("metrics cannot be written: {error}");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

fn label(name: &'static str, value: &Name) -> KeyValue {
    KeyValue::new(name, value.as_str().to_owned())
}

impl Instruments {
    fn levels(&self, change: impl FnOnce(&mut Levels)) {
        change(&mut self.levels.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The label of an event type from outside: itself while it is plain and one of the first [`EVENT_TYPES_MAX`].
    fn event_type(&self, text: &str) -> StringValue {
        let known = self.event_types.read().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        known.or_else(|| self.admit(text)).map_or(OTHER.into(), StringValue::from)
    }

    fn admit(&self, text: &str) -> Option<Arc<str>> {
        if !is_plain(text) {
            return None;
        }
        let mut types = self.event_types.write().unwrap_or_else(PoisonError::into_inner);
        if EVENT_TYPES_MAX <= types.len() && !types.contains(text) {
            return None;
        }
        let text: Arc<str> = text.into();
        types.insert(text.clone());
        Some(text)
    }
}

fn is_plain(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'/');
    (1..=EVENT_TYPE_LEN_MAX).contains(&text.len()) && text.bytes().all(fits)
}

impl Default for Instruments {
    fn default() -> Self {
        let registry = Registry::new();
        let provider = provider(&registry);
        let meter = provider.meter("hookyard");
        let levels = Arc::new(Mutex::new(Levels::default()));
        observe_levels(&meter, &levels);
        Self {
            registry,
            received: counter(&meter, "webhook_received_total", "Requests to sources, by what became of them"),
            processing: seconds(
                &meter,
                "webhook_processing_duration_seconds",
                "From the last byte of a request to its answer",
                &PROCESSING_BUCKETS,
            ),
            attempts: counter(&meter, "hookyard_delivery_attempts_total", "Attempts of deliveries, by what they came to"),
            lag: seconds(&meter, "hookyard_delivery_lag_seconds", "From acceptance to a 2xx of the target", &LAG_BUCKETS),
            batch: meter
                .u64_histogram("hookyard_commit_batch_size")
                .with_description("Requests that shared one commit")
                .with_boundaries(BATCH_BUCKETS.to_vec())
                .build(),
            commit: seconds(&meter, "hookyard_commit_duration_seconds", "Commits of the store, fsync included", &COMMIT_BUCKETS),
            templates: counter(&meter, "hookyard_template_failures_total", "Templates that failed while an event was rendered"),
            given_up: counter(&meter, "hookyard_given_up_total", "Deliveries given up while their target was broken"),
            unsent: counter(
                &meter,
                "hookyard_unsent_total",
                "Deliveries that ended without being sent on their own, by how and why",
            ),
            polls: counter(&meter, "hookyard_polls_total", "Rounds of sources that are polled, by what they came to"),
            event_types: RwLock::default(),
            levels,
            _provider: provider,
        }
    }
}

/// Names are written in full here, so the exporter adds no suffixes; scope and resource say nothing of use.
fn provider(registry: &Registry) -> SdkMeterProvider {
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .without_units()
        .without_counter_suffixes()
        .without_target_info()
        .scope_info_enabled(false);
    let builder =
        SdkMeterProvider::builder().with_view(|_: &Instrument| Stream::builder().with_cardinality_limit(SERIES_MAX).build().ok());
    match exporter.build() {
        Ok(reader) => builder.with_reader(reader).build(),
        // A registry made on the line before refuses nothing; were it to, the relay would run without metrics.
        Err(_) => builder.build(),
    }
}

fn counter(meter: &Meter, name: &'static str, description: &'static str) -> Counter<u64> {
    meter.u64_counter(name).with_description(description).build()
}

fn seconds(meter: &Meter, name: &'static str, description: &'static str, buckets: &[f64]) -> Histogram<f64> {
    meter.f64_histogram(name).with_description(description).with_boundaries(buckets.to_vec()).build()
}

/// Gauges that are read when somebody asks, so that a target which is gone leaves nothing behind.
fn observe_levels(meter: &Meter, levels: &Arc<Mutex<Levels>>) {
    let read = |levels: &Arc<Mutex<Levels>>| {
        let levels = levels.clone();
        move |see: &mut dyn FnMut(&Levels)| see(&levels.lock().unwrap_or_else(PoisonError::into_inner))
    };
    let look = read(levels);
    meter
        .u64_observable_gauge("webhook_dlq_size")
        .with_description("Dead letters")
        .with_callback(move |gauge| look(&mut |now| gauge.observe(now.backlog.iter().map(|row| row.3).sum(), &[])))
        .build();
    let look = read(levels);
    meter
        .u64_observable_gauge("hookyard_backlog")
        .with_description("Deliveries that are not final")
        .with_callback(move |gauge| {
            look(&mut |now| now.backlog.iter().for_each(|row| gauge.observe(row.1, &[label("target", &row.0)])));
        })
        .build();
    let look = read(levels);
    meter
        .f64_observable_gauge("hookyard_oldest_seconds")
        .with_description("Age of the oldest delivery that is not final")
        .with_callback(move |gauge| {
            look(&mut |now| now.backlog.iter().for_each(|row| gauge.observe(row.2.as_secs_f64(), &[label("target", &row.0)])));
        })
        .build();
    let look = read(levels);
    meter
        .i64_observable_gauge("hookyard_poll_last_success_timestamp_seconds")
        .with_description("When a source was last polled with success")
        .with_callback(move |gauge| {
            look(&mut |now| now.polled_at.iter().for_each(|(name, at)| gauge.observe(*at, &[label("source", name)])));
        })
        .build();
    let look = read(levels);
    meter
        .u64_observable_gauge("hookyard_config_info")
        .with_description("Which configuration runs")
        .with_callback(move |gauge| {
            look(&mut |now| now.config_hash.iter().for_each(|hash| gauge.observe(1, &[KeyValue::new("hash", hash.clone())])));
        })
        .build();
    observe_generations(meter, levels);
    let look = read(levels);
    meter
        .u64_observable_gauge("hookyard_config_last_reload_successful")
        .with_description("Whether the file that was last read could be used")
        .with_callback(move |gauge| {
            look(&mut |now| now.config_good.iter().for_each(|good| gauge.observe(u64::from(*good), &[])));
        })
        .build();
    let look = read(levels);
    meter
        .i64_observable_gauge("hookyard_config_last_reload_success_timestamp_seconds")
        .with_description("When the file was last read that could be used")
        .with_callback(move |gauge| look(&mut |now| now.config_good_at.iter().for_each(|at| gauge.observe(*at, &[]))))
        .build();
    meter
        .u64_observable_gauge("hookyard_build_info")
        .with_description("Which version runs")
        .with_callback(|gauge| gauge.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]))
        .build();
}

/// Gauges of how this replica and the others stand.
fn observe_generations(meter: &Meter, levels: &Arc<Mutex<Levels>>) {
    type Of = fn(&Levels) -> Option<u64>;
    let gauges: [(&'static str, &'static str, Of); 4] = [
        ("hookyard_config_generation", "Which generation of configurations runs", |now| now.generations.0),
        ("hookyard_config_newest_generation", "Which one is the newest of all replicas", |now| now.generations.1),
        ("hookyard_replicas", "Replicas that share the store", |now| now.replicas.map(|(all, _)| all)),
        ("hookyard_replicas_on_newest", "Replicas that go by the newest configuration", |now| now.replicas.map(|(_, some)| some)),
    ];
    for (name, description, of) in gauges {
        let levels = levels.clone();
        let look = move || of(&levels.lock().unwrap_or_else(PoisonError::into_inner));
        let gauge = meter.u64_observable_gauge(name).with_description(description);
        gauge.with_callback(move |gauge| look().into_iter().for_each(|value| gauge.observe(value, &[]))).build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `text` but for the help, so that a snapshot stays short.
    fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
        text.lines().filter(|line| !line.starts_with('#') && keep(line)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn everything_is_exported_under_its_own_name() {
        let metrics = Metrics::default();
        let (source, target) = (Name::from("interactor"), Name::from("crm"));
        metrics.received(Some(&source), Some("credential.expired"), "success");
        metrics.received(None, None, "not_found");
        metrics.processed(&source, Duration::from_millis(3));
        metrics.attempted(&target, "delivered");
        metrics.delivered_after(&target, Duration::from_millis(40));
        metrics.committed(3, Duration::from_micros(700));
        metrics.template_failed(&target);
        metrics.unsent(&target, State::Suppressed, Some(Cause::Throttle), 39);
        metrics.unsent(&target, State::Digested, None, 0);
        metrics.backlog(&[(target, 2, Duration::from_secs(7), 1)]);
        metrics.configured("0123456789ab");
        insta::assert_snapshot!(lines(&metrics.export(), |line| !line.contains("_bucket")), @r#"
        hookyard_backlog{target="crm"} 2
        hookyard_build_info{version="0.1.0"} 1
        hookyard_commit_batch_size_sum 3
        hookyard_commit_batch_size_count 1
        hookyard_commit_duration_seconds_sum 0.0007
        hookyard_commit_duration_seconds_count 1
        hookyard_config_info{hash="0123456789ab"} 1
        hookyard_delivery_attempts_total{outcome="delivered",target="crm"} 1
        hookyard_delivery_lag_seconds_sum{target="crm"} 0.04
        hookyard_delivery_lag_seconds_count{target="crm"} 1
        hookyard_oldest_seconds{target="crm"} 7
        hookyard_template_failures_total{target="crm"} 1
        hookyard_unsent_total{cause="throttle",state="suppressed",target="crm"} 39
        webhook_dlq_size 1
        webhook_processing_duration_seconds_sum{source="interactor"} 0.003
        webhook_processing_duration_seconds_count{source="interactor"} 1
        webhook_received_total{event_type="credential.expired",source="interactor",status="success"} 1
        webhook_received_total{event_type="unknown",source="unknown",status="not_found"} 1
        "#);
        assert!(metrics.export().contains(r#"webhook_processing_duration_seconds_bucket{source="interactor",le="0.005"} 1"#));
        assert!(metrics.export().contains("# TYPE webhook_received_total counter"));
    }

    #[test]
    fn a_fresh_relay_shows_an_empty_dead_letter_queue_and_what_is_gone_leaves_nothing() {
        let metrics = Metrics::default();
        assert!(metrics.export().contains("\nwebhook_dlq_size 0\n"), "{}", metrics.export());
        metrics.backlog(&[("old".into(), 1, Duration::ZERO, 4)]);
        assert!(metrics.export().contains("\nwebhook_dlq_size 4\n"));
        metrics.backlog(&[]);
        assert!(!metrics.export().contains("old") && metrics.export().contains("\nwebhook_dlq_size 0\n"));
    }

    #[test]
    fn event_types_from_outside_are_capped() {
        let metrics = Metrics::default();
        for n in 0..EVENT_TYPES_MAX + 50 {
            metrics.received(None, Some(&format!("t{n}")), "success");
        }
        for odd in ["a b", "a\nb", "é", "", &"x".repeat(101), r#"a"b"#] {
            metrics.received(None, Some(odd), "success");
        }
        let text = metrics.export();
        assert_eq!(lines(&text, |line| line.starts_with("webhook_received_total")).lines().count(), EVENT_TYPES_MAX + 1);
        assert!(text.contains(r#"webhook_received_total{event_type="other",source="unknown",status="success"} 56"#), "{text}");
    }

    #[test]
    fn two_relays_do_not_see_each_other() {
        let (one, other) = (Metrics::default(), Metrics::default());
        one.received(None, None, "success");
        assert!(one.export().contains("webhook_received_total{") && !other.export().contains("webhook_received_total{"));
    }
}
