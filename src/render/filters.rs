//! What templates may call beside Jinja's own filters: `fromjson`, `date`, `mask`.

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use minijinja::{
    Environment, Error, ErrorKind, State, UndefinedBehavior, Value,
    value::{Kwargs, Serde},
};
use serde_json::Value as Json;

use super::safe;
use crate::json;

/// How `date` writes a time unless it is told.
const FORMAT: &str = "%Y-%m-%d %H:%M %Z";
/// Longest format of a date, in bytes.
const FORMAT_MAX: usize = 200;
/// Begins what `date` says of its own arguments: wrong for every event, so that a check refuses it.
const DATE: &str = "date: ";
/// Numbers up to this are seconds since 1970, above it milliseconds.
const SECONDS_MAX: f64 = 1e11;
/// From this length on, the end of a masked text is shown.
const MASKED_MIN: usize = 12;

pub(super) fn add(env: &mut Environment<'static>) {
    env.add_filter("fromjson", from_json);
    env.add_filter("date", date);
    env.add_filter("mask", mask);
    // What came with an event is never safe, and what a template says itself is not escaped anyway.
    env.remove_filter("safe");
}

/// Whether `error` comes of a filter's arguments, whatever the event.
pub(super) fn of_arguments(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooManyArguments | ErrorKind::MissingArgument)
        || error.detail().is_some_and(|detail| detail.starts_with(DATE))
}

fn refused(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, detail.into())
}

/// `{{ event.data.content | fromjson }}`: the value that text holds as JSON.
fn from_json(text: &str) -> Result<Value, Error> {
    if json::too_deep(text.as_bytes()) {
        return Err(refused("fromjson: nested too deep"));
    }
    serde_json::from_str::<Json>(text).map(|value| Value::from(Serde(value))).map_err(|_| refused("fromjson: not JSON"))
}

/// `{{ event.time | date(tz="Europe/Berlin", format="%-d %B, %H:%M") }}`: a time in RFC 3339 or in seconds or milliseconds since 1970, in a
/// zone of the IANA database (UTC unless given), written by `strftime`. What is no time is left as it is, unless missing fields are errors.
fn date(state: &mut State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let zone = match options.get::<Option<&str>>("tz")? {
        None => TimeZone::UTC,
        Some(name) => {
            TimeZone::get(name).map_err(|_| refused(format!("{DATE}there is no time zone `{}`", safe::line(name, 60))))?
        }
    };
    let format = options.get::<Option<&str>>("format")?.unwrap_or(FORMAT);
    options.assert_all_used()?;
    let write = |at: Timestamp| {
        let good = (format.len() <= FORMAT_MAX).then(|| strtime::format(format, &at.to_zoned(zone.clone())).ok()).flatten();
        good.ok_or_else(|| refused(format!("{DATE}the format `{}` cannot be used", safe::line(format, 60))))
    };
    match time(value) {
        Some(at) => write(at).map(Value::from),
        None => {
            write(Timestamp::UNIX_EPOCH)?;
            if state.undefined_behavior() == UndefinedBehavior::SemiStrict {
                return Err(refused("date: this is no time"));
            }
            Ok(value.clone())
        }
    }
}

/// The instant that `value` stands for.
#[expect(clippy::cast_possible_truncation, reason = "what does not fit is no time, and saturates beyond what jiff takes")]
fn time(value: &Value) -> Option<Timestamp> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    let number = f64::try_from(value.clone()).ok().filter(|number| number.is_finite() && value.is_number())?;
    let ms = if number.abs() <= SECONDS_MAX { number * 1000.0 } else { number };
    Timestamp::from_millisecond(ms as i64).ok()
}

/// `{{ event.data.email | mask }}`: an address or a secret that people recognise but cannot use: `d***@example.com`, `***cdef`.
fn mask(value: &Value) -> Value {
    if value.is_undefined() || value.is_none() {
        return value.clone();
    }
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let masked = match text.split_once('@').filter(|(name, host)| !name.is_empty() && host.contains('.')) {
        Some((name, host)) => format!("{}***@{host}", name.chars().next().unwrap_or_default()),
        None if text.chars().count() < MASKED_MIN => "***".to_owned(),
        None => {
            let end: Vec<char> = text.chars().rev().take(4).collect();
            format!("***{}", end.iter().rev().collect::<String>())
        }
    };
    Value::from(masked)
}
