//! What was measured, against what was promised: the table that people read and the same as JSON.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::options::Engine;

/// What a figure is about.
#[derive(Clone, Copy)]
struct Line {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    goal: Goal,
}

/// What is promised of a figure: `floor` must be reached, `aim` should.
#[derive(Clone, Copy)]
enum Goal {
    /// Nothing: it explains other figures.
    None,
    /// A share of the bare handler's rate in the same round, at least.
    OfBare { floor: f64, aim: f64 },
    /// The figure itself, at least.
    AtLeast { floor: f64, aim: f64 },
    /// The figure itself, at most.
    AtMost { floor: f64, aim: f64 },
}

/// The key of the bare handler's rate.
pub(crate) const BARE_RATE: &str = "bare_rate";

const fn info(key: &'static str, title: &'static str, unit: &'static str) -> Line {
    Line { key, title, unit, goal: Goal::None }
}

const fn of_bare(key: &'static str, title: &'static str, floor: f64, aim: f64) -> Line {
    Line { key, title, unit: "/s", goal: Goal::OfBare { floor, aim } }
}

const fn at_most(key: &'static str, title: &'static str, unit: &'static str, floor: f64, aim: f64) -> Line {
    Line { key, title, unit, goal: Goal::AtMost { floor, aim } }
}

const fn at_least(key: &'static str, title: &'static str, unit: &'static str, floor: f64, aim: f64) -> Line {
    Line { key, title, unit, goal: Goal::AtLeast { floor, aim } }
}

/// What issue 7 promises on PostgreSQL, in place of what issue 3 promises on SQLite; of what is not here, nothing.
const ON_POSTGRES: &[(&str, Goal)] = &[
    ("ingest_rate", Goal::OfBare { floor: 0.20, aim: 0.30 }),
    ("deliver_1_rate", Goal::OfBare { floor: 0.08, aim: 0.13 }),
    ("deliver_4_rate", Goal::OfBare { floor: 0.15, aim: 0.22 }),
    ("steady_ingest_p99_ms", Goal::AtMost { floor: 8.0, aim: 3.0 }),
    ("drain_ratio", Goal::AtLeast { floor: 1.0, aim: 1.0 }),
    ("drain_twice", Goal::AtMost { floor: 0.0, aim: 0.0 }),
];

/// Every figure there is, in the order of the table. Floors and aims are those of issue 3; where it says "flat", a tenth more memory or
/// file and a quarter more latency pass for noise.
const LINES: &[Line] = &[
    info(BARE_RATE, "R0: bare axum handler", "/s"),
    info("bare_p99_ms", "  p99", "ms"),
    info("bare_cpu_us", "  CPU per request", "us"),
    of_bare("ingest_rate", "ingest, one matching target, paused", 0.25, 0.35),
    info("ingest_p50_ms", "  p50", "ms"),
    info("ingest_p99_ms", "  p99", "ms"),
    info("ingest_p999_ms", "  p99.9", "ms"),
    info("ingest_cpu_us", "  CPU per event", "us"),
    info("ingest_server_cpu_us", "  CPU per event, the database's", "us"),
    of_bare("deliver_1_rate", "delivered while ingest runs, 1 signed target", 0.15, 0.25),
    info("deliver_1_ingest_rate", "  ingest meanwhile", "/s"),
    info("deliver_1_cpu_us", "  CPU per delivery, ingest included", "us"),
    info("deliver_1_server_cpu_us", "  CPU per delivery, ingest included, the database's", "us"),
    of_bare("deliver_4_rate", "delivered while ingest runs, 4 signed targets", 0.30, 0.45),
    info("deliver_4_ingest_rate", "  ingest meanwhile", "/s"),
    info("deliver_4_cpu_us", "  CPU per delivery, ingest included", "us"),
    info("deliver_4_server_cpu_us", "  CPU per delivery, ingest included, the database's", "us"),
    info("steady_ingest_p50_ms", "1,000 events/s offered: ingest p50", "ms"),
    at_most("steady_ingest_p99_ms", "  ingest p99", "ms", 5.0, 3.0),
    info("steady_ingest_p999_ms", "  ingest p99.9", "ms"),
    info("steady_lag_p50_ms", "  accept to answered p50", "ms"),
    at_most("steady_lag_p99_ms", "  accept to answered p99", "ms", 15.0, 5.0),
    info("isolation_without_p99_ms", "7 good targets: lag p99", "ms"),
    info("isolation_with_p99_ms", "  the same beside 3 bad ones", "ms"),
    at_most("isolation_share", "  share of what is allowed (1.25x or +2 ms)", "x", 1.0, 1.0),
    info("reload_without_p99_ms", "500 events/s: ingest p99", "ms"),
    info("reload_with_p99_ms", "  the same with 50 reloads, every tenth of a bad file", "ms"),
    info("reload_ratio", "  with over without", "x"),
    at_most("reload_share", "  share of what is allowed (2x or 5 ms)", "x", 1.0, 1.0),
    info("reload_ms", "  a reload of a good file, by API", "ms"),
    at_most("reload_failed", "  requests not answered 200", "", 0.0, 0.0),
    at_most("reload_lost", "  events without a delivery", "", 0.0, 0.0),
    at_most("reload_mixed", "  events planned by a mixture of two files", "", 0.0, 0.0),
    at_most("idle_mb", "memory at rest, empty store (PSS)", "MB", 25.0, 12.0),
    info("idle_filled_mb", "  filled store", "MB"),
    at_most("start_ms", "start to first answer, empty store", "ms", 150.0, 50.0),
    info("start_filled_ms", "  filled store", "ms"),
    at_most("backlog_mb", "memory while events wait for a dead target (PSS, peak)", "MB", 150.0, 150.0),
    info("backlog_accepted", "  events waiting", ""),
    info("backlog_attempts", "  attempts at the dead target", ""),
    info("drain_one_rate", "80,000 deliveries to 8 targets that wait: sent by one relay", "/s"),
    info("drain_two_rate", "  by two that share them", "/s"),
    at_least("drain_ratio", "  two over one", "x", 1.0, 1.0),
    at_most("drain_twice", "  sent twice", "", 0.0, 0.0),
    at_most("rules_load_ms", "10,000 rules of all shapes: load", "ms", 2000.0, 1000.0),
    info("rules_index_ms", "  made ready to plan with", "ms"),
    at_most("rules_share", "  planning an event that one matches, against it alone (worst shape)", "x", 1.20, 1.05),
    info("subscriptions_load_ms", "10,000 subscriptions of all shapes: made ready to plan with", "ms"),
    info("subscriptions_change_us", "  a change of one, mean of 1,000", "us"),
    info("subscriptions_change_max_us", "  the longest of them", "us"),
    at_most("subscriptions_share", "  planning an event that one takes, against it alone (worst shape)", "x", 1.20, 1.05),
    info("soak_rate", "soak: accepted", "/s"),
    at_most("soak_memory_growth", "  memory, end to start of the last 15 min", "x", 1.10, 1.0),
    at_most("soak_store_growth", "  file less dedupe keys, likewise", "x", 1.10, 1.0),
    at_most("soak_ingest_p99_growth", "  ingest p99, likewise", "x", 1.25, 1.0),
    at_most("soak_lag_p99_growth", "  lag p99, likewise", "x", 1.25, 1.0),
];

/// All that was measured, a value per round.
#[derive(Default)]
pub(crate) struct Results {
    values: BTreeMap<(&'static str, Option<Engine>), Vec<f64>>,
    notes: Vec<String>,
    minutes: Vec<Value>,
}

impl Results {
    /// Adds the figure `key` of this round, as measured on `engine`; `None`: it has nothing to do with stores.
    pub(crate) fn record(&mut self, engine: Option<Engine>, key: &'static str, value: f64) {
        self.values.entry((key, engine)).or_default().push(value);
    }

    /// Says something about how it was measured, once.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds a minute of the soak, which only the JSON shows in full.
    pub(crate) fn minute(&mut self, minute: Value) {
        self.minutes.push(minute);
    }

    /// Whether nothing was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// As a table, with notes below: a column of figures for each store.
    pub(crate) fn table(&self) -> String {
        let engines = self.engines();
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let mut header = vec!["figure", ""];
        for engine in &engines {
            header.extend([engine.name(), "min – max", "of R0", "floor", "aim", "verdict"]);
        }
        table.set_header(header);
        for line in LINES {
            let of = |(n, engine): (usize, &Engine)| {
                self.figure(line, Some(*engine)).or_else(|| self.figure(line, None).filter(|_| n == 0))
            };
            let figures: Vec<Option<Figure<'_>>> = engines.iter().enumerate().map(of).collect();
            if figures.iter().any(Option::is_some) {
                let mut row: Vec<String> = vec![line.title.into(), line.unit.into()];
                row.extend(figures.into_iter().flat_map(|figure| figure.map_or_else(Default::default, |it| it.cells())));
                table.add_row(row);
            }
        }
        for (n, column) in table.column_iter_mut().skip(2).enumerate() {
            if n % 6 != 5 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.notes.iter().fold(table.to_string(), |text, note| text + "\nnote: " + note)
    }

    /// As JSON: an entry for each figure and store.
    pub(crate) fn json(&self) -> Value {
        let stores = [None, Some(Engine::Sqlite), Some(Engine::Postgres)];
        let figures = LINES.iter().flat_map(|line| stores.map(|engine| self.figure(line, engine).map(|it| it.json(engine))));
        let lines: Vec<Value> = figures.flatten().collect();
        json!({ "lines": lines, "soak_minutes": self.minutes, "notes": self.notes })
    }

    /// The stores that something was measured on; one stands for none.
    fn engines(&self) -> Vec<Engine> {
        let seen = |engine: &Engine| self.values.keys().any(|(_, of)| *of == Some(*engine));
        let seen: Vec<Engine> = Engine::ALL.into_iter().filter(seen).collect();
        if seen.is_empty() { vec![Engine::Sqlite] } else { seen }
    }

    fn figure(&self, line: &Line, engine: Option<Engine>) -> Option<Figure<'_>> {
        let bare = self.values.get(&(BARE_RATE, None)).map(Vec::as_slice).unwrap_or_default();
        let goal = match engine {
            Some(Engine::Postgres) => ON_POSTGRES.iter().find(|(key, _)| *key == line.key).map_or(Goal::None, |(_, goal)| *goal),
            _ => line.goal,
        };
        Some(Figure::new(Line { goal, ..*line }, self.values.get(&(line.key, engine))?, bare))
    }
}

/// A line of the table.
struct Figure<'r> {
    line: Line,
    values: &'r [f64],
    ratio: Option<f64>,
}

impl<'r> Figure<'r> {
    /// Ratios are formed inside each round, then their median is taken: rounds differ more than ratios do.
    fn new(line: Line, values: &'r [f64], bare: &[f64]) -> Self {
        let ratios: Vec<_> = values.iter().zip(bare).map(|(value, bare)| value / bare).collect();
        let ratio = (line.unit == "/s" && line.key != BARE_RATE).then(|| median(&ratios)).flatten();
        Self { line, values, ratio }
    }

    fn limits(&self) -> Option<(f64, f64)> {
        match self.line.goal {
            Goal::None => None,
            Goal::OfBare { floor, aim } | Goal::AtLeast { floor, aim } | Goal::AtMost { floor, aim } => Some((floor, aim)),
        }
    }

    fn verdict(&self) -> &'static str {
        let reaches = |limit: fn(&Goal) -> f64| match self.line.goal {
            Goal::None => None,
            Goal::OfBare { .. } => self.ratio.map(|ratio| limit(&self.line.goal) <= ratio),
            Goal::AtLeast { .. } => median(self.values).map(|value| limit(&self.line.goal) <= value),
            Goal::AtMost { .. } => median(self.values).map(|value| value <= limit(&self.line.goal)),
        };
        match (reaches(Goal::floor), reaches(Goal::aim)) {
            (_, Some(true)) => "aim reached",
            (Some(true), _) => "floor reached",
            (Some(false), _) => "BELOW FLOOR",
            (None, _) => "",
        }
    }

    fn cells(&self) -> [String; 6] {
        let range = match self.values {
            [] | [_] => String::new(),
            values => format!("{} – {}", plain(lowest(values)), plain(highest(values))),
        };
        let limit = |pick: fn((f64, f64)) -> f64| self.limits().map(|limits| pick(limits).to_string()).unwrap_or_default();
        [
            median(self.values).map(plain).unwrap_or_default(),
            range,
            self.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            limit(|(floor, _)| floor),
            limit(|(_, aim)| aim),
            self.verdict().into(),
        ]
    }

    fn json(&self, engine: Option<Engine>) -> Value {
        let limits = self.limits();
        json!({
            "key": self.line.key,
            "store": engine.map(Engine::as_str),
            "title": self.line.title.trim_start(),
            "unit": self.line.unit,
            "median": median(self.values),
            "values": self.values,
            "ratio_to_r0": self.ratio,
            "floor": limits.map(|(floor, _)| floor),
            "aim": limits.map(|(_, aim)| aim),
            "verdict": self.verdict(),
        })
    }
}

impl Goal {
    fn floor(&self) -> f64 {
        match self {
            Self::None => f64::NAN,
            Self::OfBare { floor, .. } | Self::AtLeast { floor, .. } | Self::AtMost { floor, .. } => *floor,
        }
    }

    fn aim(&self) -> f64 {
        match self {
            Self::None => f64::NAN,
            Self::OfBare { aim, .. } | Self::AtLeast { aim, .. } | Self::AtMost { aim, .. } => *aim,
        }
    }
}

/// The middle of `values`; between the two middle ones of an even number.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// Three significant digits for small numbers, none after the point for large ones.
fn plain(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
