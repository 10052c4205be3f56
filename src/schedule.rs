//! Named windows of the week in a time zone (`schedules`): is it within one, until when, and for how long in all. Pure: it is told what
//! time it is.
//!
//! A window is what the clock on the wall there says. Where that clock leaps over the beginning or end of a window, the window begins or
//! ends with the leap; where it says the same time twice, a window begins at the first and ends at the second.

use std::time::Duration;

use jiff::{
    SignedDuration, ToSpan,
    civil::{Date, DateTime, Time},
    tz::{AmbiguousOffset, TimeZone},
};

use crate::{
    clock::{Timestamp, until},
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, OneOrMore, Schema, Shape, nearest},
        tree::{Node, Value},
    },
    envelope::Name,
};

/// Most windows of one schedule.
const WINDOWS_MAX: usize = 50;
/// Windows that follow one upon the other without a pause are followed for so many days: what has no end by then is asked about again.
const DAYS_MAX: i64 = 8;

/// A named schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Its name.
    pub name: Name,
    tz: TimeZone,
    windows: Vec<Window>,
}

/// A window of the week.
#[derive(Debug, Clone, PartialEq)]
struct Window {
    /// On which days it begins, Monday first.
    days: [bool; 7],
    /// Minutes after midnight.
    from: i16,
    /// Minutes after the same midnight: beyond a day where it crosses the next one.
    to: i16,
}

/// Minutes of a day.
const DAY: i16 = 24 * 60;

impl Schedule {
    /// When the time that `now` is in ends; `None` when it is in none. Windows that touch are one.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let horizon = later_days(now, DAYS_MAX);
        let mut end = self.end_of(now)?;
        while end < horizon
            && let Some(further) = self.end_of(end)
        {
            end = further;
        }
        Some(end)
    }

    /// How much of the time from `start` to `end` lies within its windows.
    pub fn within(&self, start: Timestamp, end: Timestamp) -> Duration {
        let (mut at, mut sum) = (start, Duration::ZERO);
        while at < end {
            match self.until(at) {
                Some(over) => {
                    sum = sum.saturating_add(until(at, over.min(end)));
                    at = over;
                }
                None => match self.next_after(at) {
                    Some(next) => at = next,
                    None => break,
                },
            }
        }
        sum
    }

    /// Whether it is never out of its windows.
    pub fn is_always(&self, now: Timestamp) -> bool {
        self.until(now).is_some_and(|end| later_days(now, DAYS_MAX) <= end)
    }

    /// The end of the latest-ending window that holds `now`.
    fn end_of(&self, now: Timestamp) -> Option<Timestamp> {
        // One that began yesterday may hold it, or the day before where clocks are moved far.
        let spans = self.spans(now, -2, 0);
        spans.filter(|(start, end)| *start <= now && now < *end).map(|(_, end)| end).max()
    }

    /// The next beginning of a window after `now`.
    fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.spans(now, -1, DAYS_MAX).map(|(start, _)| start).filter(|start| now < *start).min()
    }

    /// The windows that begin on the days from `first` to `last` around that of `now`.
    fn spans(&self, now: Timestamp, first: i64, last: i64) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = self.tz.to_datetime(now).date();
        let days = (first..=last).filter_map(move |days| today.checked_add(days.days()).ok());
        days.flat_map(move |date| self.windows.iter().filter_map(move |window| self.span(window, date)))
    }

    fn span(&self, window: &Window, date: Date) -> Option<(Timestamp, Timestamp)> {
        let day = usize::try_from(date.weekday().to_monday_zero_offset()).ok()?;
        if !*window.days.get(day)? {
            return None;
        }
        let start = self.instant(wall(date, window.from)?, false)?;
        let end = self.instant(wall(date, window.to)?, true)?;
        (start < end).then_some((start, end))
    }

    /// When the clock on the wall says `at`, or first says more; of two such times the `last` or the first.
    fn instant(&self, at: DateTime, last: bool) -> Option<Timestamp> {
        let ambiguous = self.tz.to_ambiguous_timestamp(at);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible().ok(),
            AmbiguousOffset::Fold { .. } if last => ambiguous.later().ok(),
            AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            AmbiguousOffset::Gap { .. } => {
                // As if the clock had leapt already: a time before the leap.
                let before = ambiguous.earlier().ok()?;
                self.tz.following(before.checked_sub(SignedDuration::from_secs(1)).ok()?).next().map(|leap| leap.timestamp())
            }
        }
    }
}

/// `minutes` after the midnight that `date` begins with, as the wall says.
fn wall(date: Date, minutes: i16) -> Option<DateTime> {
    let date = date.checked_add(i64::from(minutes / DAY).days()).ok()?;
    let (hour, minute) = (i8::try_from(minutes % DAY / 60).ok()?, i8::try_from(minutes % 60).ok()?);
    Some(date.to_datetime(Time::new(hour, minute, 0, 0).ok()?))
}

fn later_days(at: Timestamp, days: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MAX)
}

const KEYS: Keys = Keys::of(&[
    Field::of::<Zone>("tz", "The IANA time zone its times are in.").required().example("Europe/Berlin"),
    Field::of::<Vec<Window>>("windows", "The windows of the week, 50 at most.")
        .required()
        .example(r#"[{"days": "mon-fri", "from": "22:00", "to": "07:00"}]"#)
        .such_that(Schema::not_empty),
]);
const WINDOW: Keys = Keys::of(&[
    Field::of::<OneOrMore<Days>>("days", "The days it begins on: `mon-fri`, `sat`, or a list. Left out: every day.")
        .example("mon-fri")
        .such_that(Schema::not_empty),
    Field::of::<Clock>("from", "When it begins.").required().example("22:00"),
    Field::of::<Clock>("to", "When it ends: on the next day where that is earlier; `24:00` is the end of the day.")
        .required()
        .example("07:00"),
]);

impl Shape for Schedule {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(KEYS, all)
    }
}

impl Shape for Window {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::map(WINDOW, all)
    }
}

impl Schedule {
    /// Reads the entry `name` of `schedules`.
    pub fn decode(name: Name, node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, format!("schedule `{name}`"), KEYS, cx)?;
        let tz = fields.required::<Zone>("tz", cx);
        let windows = fields.required::<Vec<Window>>("windows", cx);
        let place = fields.key_place("windows");
        fields.finish(cx);
        let (Zone(tz), windows) = (tz?, windows?);
        if windows.is_empty() || WINDOWS_MAX < windows.len() {
            cx.error("bad-value", place, format!("a schedule has 1 to {WINDOWS_MAX} windows"));
            return None;
        }
        Some(Self { name, tz, windows })
    }
}

/// An IANA time zone.
struct Zone(TimeZone);

/// What time zones are called in messages.
const ZONE: &str = "a time zone of the IANA database such as Europe/Berlin or UTC";

impl Shape for Zone {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("/|^(UTC|GMT)$", ZONE)
    }
}

impl Decode for Zone {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        let found = TimeZone::get(&text).ok().filter(|_| text.contains('/') || matches!(text.as_str(), "UTC" | "GMT"));
        found.map(Self).or_else(|| {
            if node.referenced {
                return cx.expected(ZONE, node);
            }
            let near = nearest(
                &text,
                jiff::tz::db().available().map(|zone| zone.as_str().to_owned()).collect::<Vec<_>>().iter().map(String::as_str),
            )
            .map(str::to_owned);
            cx.error("bad-value", node.place, format!("expected {ZONE}, found `{text}`")).did_you_mean(near.as_deref());
            None
        })
    }
}

impl Decode for Window {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "a window", WINDOW, cx)?;
        let days = match fields.node("days") {
            Some(node) => days(node, cx),
            None => Some([true; 7]),
        };
        let from = fields.required::<Clock>("from", cx);
        let to = fields.required::<Clock>("to", cx);
        let place = fields.key_place("to");
        fields.finish(cx);
        let (days, Clock(from), Clock(to)) = (days?, from?, to?);
        if from == to || from == DAY {
            cx.error("bad-value", place, "this window is empty")
                .help("a whole day is {from: \"00:00\", to: \"24:00\"}; one that crosses midnight ends earlier than it begins");
            return None;
        }
        Some(Self { days, from, to: if to < from { to + DAY } else { to } })
    }
}

/// Minutes after midnight, `00:00` to `24:00`.
struct Clock(i16);

/// What times of the day are called in messages.
const CLOCK: &str = "a time such as \"22:00\", from \"00:00\" to \"24:00\"";

impl Shape for Clock {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like("^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", CLOCK)
    }
}

impl Decode for Clock {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let Value::String(text) = &node.value else {
            cx.expected::<Self>(CLOCK, node);
            if let Some(problem) = cx.problems.last_mut() {
                problem.help("put it in quotes: YAML may read 22:00 as a number");
            }
            return None;
        };
        minutes(text).map(Self).or_else(|| cx.expected(CLOCK, node))
    }
}

fn minutes(text: &str) -> Option<i16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i16>().ok())?;
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY).then_some(minutes)
}

/// The days of the week and their words.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Reads `mon-fri`, `sat`, or a list of such; `fri-mon` goes over the weekend.
fn days(node: &Node, cx: &mut Context) -> Option<[bool; 7]> {
    let OneOrMore(spans) = OneOrMore::<Days>::decode(node, cx)?;
    if spans.is_empty() {
        cx.error("bad-value", node.place, "a window without days never opens").help("leave `days` out for every day");
        return None;
    }
    let mut all = [false; 7];
    for Days(first, last) in spans {
        let span = (0..7).map(|n| (first + n) % 7);
        let upto = (last + 7 - first) % 7;
        for day in span.take(upto + 1) {
            if let Some(day) = all.get_mut(day) {
                *day = true;
            }
        }
    }
    Some(all)
}

struct Days(usize, usize);

/// What days are called in messages.
const SOME_DAYS: &str = "days such as mon-fri, or a list such as [sat, sun]";

impl Shape for Days {
    fn schema(_: &mut Definitions) -> Schema {
        let day = DAYS.join("|");
        Schema::like(&format!("^({day})(-({day}))?$"), SOME_DAYS)
    }
}

impl Decode for Days {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        let day = |word: &str| DAYS.iter().position(|day| *day == word);
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        if let (Some(first), Some(last)) = (day(first), day(last)) {
            return Some(Self(first, last));
        }
        cx.expected::<Self>(SOME_DAYS, node);
        let wrong = if day(first).is_none() { first } else { last };
        if let (Some(near), Some(problem)) = (nearest(wrong, DAYS), cx.problems.last_mut()) {
            let fix = text.replacen(wrong, near, 1);
            problem.did_you_mean(Some(&fix));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::yaml;

    fn read(text: &str) -> Result<Schedule, Vec<String>> {
        let mut cx = Context::of(text);
        let node = yaml::parse(text, &mut cx).unwrap();
        let schedule = Schedule::decode("nights".into(), &node, &mut cx);
        let said = |it: &crate::config::Problem| {
            format!("{}{}", it.message, it.help.as_ref().map_or(String::new(), |help| format!(" ({help})")))
        };
        schedule.ok_or_else(|| cx.problems.iter().map(said).collect())
    }

    fn nights() -> Schedule {
        read(r#"{tz: Europe/Berlin, windows: [{days: mon-sun, from: "22:00", to: "07:00"}]}"#).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// When the quiet that `now` is in ends, in UTC.
    fn ends(schedule: &Schedule, now: &str) -> Option<String> {
        schedule.until(at(now)).map(|end| end.to_string())
    }

    #[test]
    fn a_window_over_midnight_holds_both_sides_of_it() {
        let it = nights();
        for (now, end) in [
            ("2026-01-20T21:59:59+01:00", None),
            ("2026-01-20T22:00:00+01:00", Some("2026-01-21T06:00:00Z")),
            ("2026-01-20T23:30:00+01:00", Some("2026-01-21T06:00:00Z")),
            ("2026-01-21T00:00:00+01:00", Some("2026-01-21T06:00:00Z")),
            ("2026-01-21T06:59:59.999+01:00", Some("2026-01-21T06:00:00Z")),
            ("2026-01-21T07:00:00+01:00", None),
        ] {
            assert_eq!(ends(&it, now).as_deref(), end, "{now}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        // 2026-01-23 is a Friday.
        let it = read(r#"{tz: UTC, windows: [{days: fri, from: "22:00", to: "07:00"}]}"#).unwrap();
        assert_eq!(ends(&it, "2026-01-24T03:00:00Z").as_deref(), Some("2026-01-24T07:00:00Z"), "Saturday morning");
        assert_eq!(ends(&it, "2026-01-23T03:00:00Z"), None, "Friday morning is Thursday's night");
        assert_eq!(ends(&it, "2026-01-24T23:00:00Z"), None);
    }

    #[test]
    fn windows_that_touch_are_one() {
        let it = read(r#"{tz: UTC, windows: [{days: [sat, sun], from: "00:00", to: "24:00"}, {from: "20:00", to: "06:00"}]}"#)
            .unwrap();
        // From Friday evening to Monday morning.
        assert_eq!(ends(&it, "2026-01-23T20:00:00Z").as_deref(), Some("2026-01-26T06:00:00Z"));
        assert_eq!(ends(&it, "2026-01-23T19:59:00Z"), None);
        let over = read(r#"{tz: UTC, windows: [{days: sun-mon, from: "00:00", to: "24:00"}]}"#).unwrap();
        assert_eq!(ends(&over, "2026-01-25T01:00:00Z").as_deref(), Some("2026-01-27T00:00:00Z"));
    }

    #[test]
    fn a_schedule_without_a_pause_is_noticed() {
        let it = read(r#"{tz: Europe/Berlin, windows: [{from: "00:00", to: "24:00"}]}"#).unwrap();
        let now = at("2026-03-27T12:00:00Z");
        assert!(it.is_always(now) && !nights().is_always(now));
        assert!(it.until(now) < Some(later_days(now, DAYS_MAX + 3)), "its end is bounded all the same");
        assert_eq!(it.within(now, later_days(now, 100)), Duration::from_secs(100 * 24 * 3600));
    }

    #[test]
    fn the_night_in_which_clocks_go_forward_is_an_hour_shorter() {
        // 2026-03-29: 02:00 CET is followed by 03:00 CEST.
        let it = nights();
        assert_eq!(ends(&it, "2026-03-28T22:00:00+01:00").as_deref(), Some("2026-03-29T05:00:00Z"));
        let night = it.within(at("2026-03-28T12:00:00Z"), at("2026-03-29T12:00:00Z"));
        assert_eq!(night, Duration::from_secs(8 * 3600));
        // A window that begins or ends within the hour that is left out begins or ends with the leap.
        let begins = read(r#"{tz: Europe/Berlin, windows: [{from: "02:30", to: "05:00"}]}"#).unwrap();
        assert_eq!(ends(&begins, "2026-03-29T00:59:59Z"), None);
        assert_eq!(ends(&begins, "2026-03-29T01:00:00Z").as_deref(), Some("2026-03-29T03:00:00Z"));
        let ending = read(r#"{tz: Europe/Berlin, windows: [{from: "01:00", to: "02:30"}]}"#).unwrap();
        assert_eq!(ends(&ending, "2026-03-29T00:59:00Z").as_deref(), Some("2026-03-29T01:00:00Z"));
        assert_eq!(ends(&ending, "2026-03-29T01:00:00Z"), None);
        let lost = read(r#"{tz: Europe/Berlin, windows: [{from: "02:10", to: "02:50"}]}"#).unwrap();
        assert_eq!(lost.within(at("2026-03-28T12:00:00Z"), at("2026-03-29T12:00:00Z")), Duration::ZERO);
    }

    #[test]
    fn the_night_in_which_clocks_go_back_is_an_hour_longer() {
        // 2026-10-25: 03:00 CEST is followed by 02:00 CET.
        let it = nights();
        assert_eq!(ends(&it, "2026-10-24T22:00:00+02:00").as_deref(), Some("2026-10-25T06:00:00Z"));
        assert_eq!(it.within(at("2026-10-24T12:00:00Z"), at("2026-10-25T12:00:00Z")), Duration::from_secs(10 * 3600));
        // The hour that comes twice is within a window both times.
        let twice = read(r#"{tz: Europe/Berlin, windows: [{from: "02:15", to: "02:45"}]}"#).unwrap();
        assert_eq!(ends(&twice, "2026-10-25T00:14:59Z"), None);
        assert_eq!(ends(&twice, "2026-10-25T00:15:00Z").as_deref(), Some("2026-10-25T01:45:00Z"));
        assert_eq!(ends(&twice, "2026-10-25T01:45:00Z"), None);
    }

    #[test]
    fn zones_beyond_the_equator_and_off_the_hour() {
        let it = read(r#"{tz: Asia/Kathmandu, windows: [{from: "22:00", to: "06:00"}]}"#).unwrap();
        assert_eq!(ends(&it, "2026-01-20T16:15:00Z").as_deref(), Some("2026-01-21T00:15:00Z"));
        let it = read(r#"{tz: Australia/Lord_Howe, windows: [{from: "22:00", to: "06:00"}]}"#).unwrap();
        // Half an hour forward on 2026-10-04.
        assert_eq!(it.within(at("2026-10-03T06:00:00Z"), at("2026-10-04T06:00:00Z")), Duration::from_secs(15 * 1800));
    }

    #[test]
    fn one_run_finds_every_problem() {
        let bad = read(
            r#"{tz: Europe/Berln, windows: [{days: mon-fre, from: "22:00", to: "23:00"}, {from: "22:00", to: "22:00"}, {from: 22:00, to: "25:00"}, {form: "1", from: "24:00", to: "07:00", days: []}], x: 1}"#,
        );
        insta::assert_snapshot!(bad.unwrap_err().join("\n"), @r#"
        expected a time zone of the IANA database such as Europe/Berlin or UTC, found `Europe/Berln` (did you mean `Europe/Berlin`?)
        expected days such as mon-fri, or a list such as [sat, sun], found `mon-fre` (did you mean `mon-fri`?)
        this window is empty (a whole day is {from: "00:00", to: "24:00"}; one that crosses midnight ends earlier than it begins)
        expected a time such as "22:00", from "00:00" to "24:00", found `25:00`
        a window without days never opens (leave `days` out for every day)
        a window has no key `form` (did you mean `from`?)
        schedule `nights` has no key `x`
        "#);
        for none in ["{tz: UTC, windows: []}", "{windows: [{from: '01:00', to: '02:00'}]}", "{tz: UTC}", "[]"] {
            assert!(read(none).is_err(), "{none}");
        }
    }

    proptest! {
        #[test]
        fn an_end_is_the_end(secs in 1_700_000_000_i64..1_900_000_000, from in 0_i16..1440, to in 1_i16..=1440, days in 1_u8..128, zone in 0_usize..4) {
            let tz = TimeZone::get(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][zone]).unwrap();
            let mut on = [false; 7];
            on.iter_mut().enumerate().for_each(|(n, day)| *day = days & (1 << n) != 0);
            prop_assume!(from != to);
            let windows = vec![Window { days: on, from, to: if to < from { to + DAY } else { to } }];
            let it = Schedule { name: "s".into(), tz, windows };
            let now = Timestamp::from_second(secs).unwrap();
            if let Some(end) = it.until(now) {
                prop_assert!(now < end);
                prop_assert!(it.is_always(now) || it.until(end).is_none());
                prop_assert_eq!(it.within(now, end), until(now, end));
            } else {
                let next = it.next_after(now).unwrap();
                prop_assert!(now < next && it.until(next).is_some());
                prop_assert_eq!(it.within(now, next), Duration::ZERO);
            }
        }
    }
}
