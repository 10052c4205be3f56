//! Rejections in the relay's log: the first of a source and code at once, then at most one line a minute with their number, so that
//! nobody can fill the log by being refused. Each is in `/api/v1/rejections` besides.

use std::collections::HashMap;

use jiff::SignedDuration;

use crate::{clock::Timestamp, envelope::Name, store::NewRejection};

/// How long a source's rejections with one code are only counted after a line about them.
const QUIET: SignedDuration = SignedDuration::from_secs(60);

/// What was said about whom, and how many were not mentioned since. As many entries as there are sources, times codes.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<(Option<Name>, &'static str), Since>);

#[derive(Debug)]
struct Since {
    told_at: Timestamp,
    unsaid: u64,
}

impl Told {
    /// Writes the lines about `rows` that are due.
    pub(super) fn tell(&mut self, rows: &[NewRejection]) {
        for row in rows {
            let Some(count) = self.due(row) else { continue };
            let source = row.source.as_ref().map_or("-", Name::as_str);
            tracing::warn!(
                source.name = source,
                code = row.code,
                status = row.status,
                remote = row.remote,
                count,
                "rejected: {}",
                row.reason
            );
        }
    }

    /// How many rejections a line about `row` stands for, itself included; `None` while it is too early for another.
    fn due(&mut self, row: &NewRejection) -> Option<u64> {
        let key = (row.source.clone(), row.code);
        let Some(since) = self.0.get_mut(&key) else {
            self.0.insert(key, Since { told_at: row.at, unsaid: 0 });
            return Some(1);
        };
        since.unsaid += 1;
        if row.at.duration_since(since.told_at) < QUIET {
            return None;
        }
        since.told_at = row.at;
        Some(std::mem::take(&mut since.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, code: &'static str, second: i64) -> NewRejection {
        NewRejection {
            source: Some(source.into()),
            at: Timestamp::from_second(second).unwrap(),
            status: 401,
            code,
            reason: "header `x` is missing".into(),
            path: "/a".into(),
            remote: "192.0.2.1".into(),
            bytes: 2,
            sealed: None,
        }
    }

    #[test]
    fn a_flood_is_one_line_a_minute_with_its_number() {
        let mut told = Told::default();
        let lines: Vec<_> = (0..130).filter_map(|second| told.due(&row("a", "invalid_signature", second))).collect();
        assert_eq!(lines, [1, 60, 60]);
    }

    #[test]
    fn each_source_and_code_has_its_own_line() {
        let mut told = Told::default();
        let rows = [row("a", "invalid_signature", 0), row("b", "invalid_signature", 0), row("a", "invalid_timestamp", 0)];
        assert_eq!(rows.map(|row| told.due(&row)), [Some(1); 3]);
        assert_eq!(told.due(&row("b", "invalid_signature", -5)), None, "a clock that goes back says nothing twice");
    }
}
