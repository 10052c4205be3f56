//! A job as JSON: as the API shows it, and, with its place in the walk, as the store keeps it.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{Job, Kind, State};
use crate::{
    clock::{Timestamp, rfc3339_ms},
    envelope::Name,
    route::glob::Glob,
    store::{self, Cause, Filter, Targets},
};

/// What the keys of jobs begin with among the store's settings, where older versions kept them.
pub(super) const PREFIX: &str = "job.";

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::of(self).serialize(serializer)
    }
}

/// A job as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub struct Shown<'j> {
    id: &'j str,
    /// `retry`, `cancel`, `replay`, `erase` or `release`.
    kind: &'static str,
    /// The only target that a replay makes deliveries for; null: by today's rules.
    to: Option<&'j str>,
    /// What it does that to.
    #[schema(value_type = Object)]
    filter: Value,
    /// How many things it takes up in a second at most.
    rate: Option<u32>,
    /// Who asked for it.
    by: &'j str,
    #[schema(value_type = State)]
    state: &'static str,
    /// How many things were counted when it began.
    total: u64,
    /// How many of them were looked at.
    done: u64,
    /// What came of them: deliveries that are pending again, cancelled, or new.
    made: u64,
    /// How many could not be done.
    failed: u64,
    started_at: String,
    finished_at: Option<String>,
    /// Why it gave up.
    error: Option<&'j str>,
}

impl<'j> Shown<'j> {
    fn of(job: &'j Job) -> Self {
        let to = match &job.kind {
            Kind::Replay { target } => target.as_ref().map(Name::as_str),
            Kind::Retry | Kind::Cancel | Kind::Erase | Kind::Release => None,
        };
        Self {
            id: &job.id,
            kind: job.kind.word(),
            to,
            filter: filter(&job.filter),
            rate: job.rate,
            by: &job.by,
            state: job.state.word(),
            total: job.total,
            done: job.done,
            made: job.made,
            failed: job.failed,
            started_at: rfc3339_ms(job.started_at),
            finished_at: job.finished_at.map(rfc3339_ms),
            error: job.error.as_deref(),
        }
    }
}

/// What a filter says; what it does not say is left out.
fn filter(filter: &Filter) -> Value {
    let Filter {
        source,
        except_source,
        namespaces,
        id,
        subject,
        r#type,
        types,
        target,
        state,
        targets,
        due_before,
        cause,
        resolved,
        matched,
        event,
        replayed,
        carrier,
        since,
        until,
        code,
        page: _,
        limit: _,
    } = filter;
    let (among, not_among) = match targets {
        Some(Targets::Flowing(names)) => (Some(names), None),
        Some(Targets::Held(names)) => (None, Some(names)),
        None => (None, None),
    };
    let names = |names: &Vec<Name>| Value::from(names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>());
    let text = |text: &String| Value::from(text.clone());
    let time = |at: &Timestamp| Value::from(at.to_string());
    let said = [
        ("source", source.as_ref().map(text)),
        ("except_source", except_source.as_ref().map(text)),
        ("namespaces", namespaces.as_ref().map(|names| Value::from(names.clone()))),
        ("id", id.as_ref().map(text)),
        ("subject", subject.as_ref().map(text)),
        ("type", r#type.as_ref().map(text).or_else(|| (!types.is_empty()).then(|| globs(types)))),
        ("target", target.as_ref().map(text)),
        ("state", state.map(|state| Value::from(state.word()))),
        ("targets", among.map(names)),
        ("not_targets", not_among.map(names)),
        ("due_before", due_before.as_ref().map(time)),
        ("cause", cause.map(|cause| Value::from(cause.word()))),
        ("resolved", resolved.map(Value::from)),
        ("matched", matched.map(Value::from)),
        ("event", event.map(|event| Value::from(event.to_string()))),
        ("replayed", replayed.map(Value::from)),
        ("carrier", carrier.map(|carrier| Value::from(carrier.to_string()))),
        ("since", since.as_ref().map(time)),
        ("until", until.as_ref().map(time)),
        ("code", code.as_ref().map(text)),
    ];
    Value::Object(said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

/// The text that the store keeps of `job`.
pub(super) fn write(job: &Job) -> String {
    let mut kept = serde_json::to_value(job).unwrap_or_default();
    kept["cursor"] = job.cursor.into();
    kept["end"] = job.end.into();
    kept.to_string()
}

/// The job of a text that [`write()`] made.
pub(super) fn read(text: &str) -> Option<Job> {
    let kept: Map<String, Value> = serde_json::from_str(text).ok()?;
    let of = |key: &str| kept.get(key).filter(|value| !value.is_null());
    let text = |key: &str| of(key).and_then(Value::as_str);
    let number = |key: &str| of(key).and_then(Value::as_u64);
    let state = text("state")?;
    Some(Job {
        id: text("id")?.to_owned(),
        kind: kind(text("kind")?, text("to"))?,
        filter: read_filter(of("filter")?)?,
        rate: number("rate").and_then(|rate| u32::try_from(rate).ok()),
        by: text("by")?.to_owned(),
        state: State::ALL.iter().find(|(word, _)| *word == state)?.1,
        total: number("total")?,
        done: number("done")?,
        made: number("made")?,
        failed: number("failed")?,
        started_at: text("started_at")?.parse().ok()?,
        finished_at: text("finished_at").and_then(|at| at.parse().ok()),
        error: text("error").map(str::to_owned),
        cursor: of("cursor")?.as_i64()?,
        end: of("end")?.as_i64()?,
    })
}

fn kind(word: &str, target: Option<&str>) -> Option<Kind> {
    match word {
        "retry" => Some(Kind::Retry),
        "cancel" => Some(Kind::Cancel),
        "replay" => Some(Kind::Replay { target: target.map(Name::from) }),
        "erase" => Some(Kind::Erase),
        "release" => Some(Kind::Release),
        _ => None,
    }
}

/// `None` when it says something that cannot be read: a job whose filter is not whole would do too much.
fn read_filter(kept: &Value) -> Option<Filter> {
    let mut filter = Filter::default();
    for (key, value) in kept.as_object()? {
        let text = || value.as_str().map(str::to_owned);
        match key.as_str() {
            "source" => filter.source = Some(text()?),
            "except_source" => filter.except_source = Some(text()?),
            "namespaces" => filter.namespaces = Some(texts(value)?),
            "id" => filter.id = Some(text()?),
            "subject" => filter.subject = Some(text()?),
            "type" if value.is_array() => filter.types = read_globs(value)?,
            "type" => filter.r#type = Some(text()?),
            "target" => filter.target = Some(text()?),
            "state" => filter.state = Some(store::State::parse(value.as_str()?)?),
            "targets" => filter.targets = Some(Targets::Flowing(names(value)?)),
            "not_targets" => filter.targets = Some(Targets::Held(names(value)?)),
            "cause" => filter.cause = Some(cause(value.as_str()?)?),
            "resolved" => filter.resolved = Some(value.as_bool()?),
            "matched" => filter.matched = Some(value.as_bool()?),
            "event" => filter.event = Some(value.as_str()?.parse().ok()?),
            "replayed" => filter.replayed = Some(value.as_bool()?),
            "carrier" => filter.carrier = Some(value.as_str()?.parse().ok()?),
            "since" => filter.since = Some(value.as_str()?.parse().ok()?),
            "due_before" => filter.due_before = Some(value.as_str()?.parse().ok()?),
            "until" => filter.until = Some(value.as_str()?.parse().ok()?),
            "code" => filter.code = Some(text()?),
            _ => return None,
        }
    }
    Some(filter)
}

fn globs(types: &[Glob]) -> Value {
    types.iter().map(|glob| Value::from(glob.text())).collect()
}

fn read_globs(value: &Value) -> Option<Vec<Glob>> {
    // None would stand for all types.
    let globs: Vec<Glob> = texts(value)?.iter().map(|text| Glob::parse(text).ok()).collect::<Option<_>>()?;
    (!globs.is_empty()).then_some(globs)
}

fn cause(word: &str) -> Option<Cause> {
    Cause::ALL.iter().find(|(known, _)| *known == word).map(|(_, cause)| *cause)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

fn names(value: &Value) -> Option<Vec<Name>> {
    value.as_array()?.iter().map(|name| name.as_str().map(Name::from)).collect()
}
