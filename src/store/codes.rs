//! The numbers that states, causes, stages and severities are in the tables of every back end.

use super::{Cause, Severity, Stage, State};

/// The number that `state` is in the tables (the partial indexes name them); `None` for those that are never written.
pub(in crate::store) fn state_code(state: State) -> Option<i64> {
    match state {
        State::Pending => Some(PENDING),
        State::Delivered => Some(DELIVERED),
        State::Dead => Some(DEAD),
        State::Cancelled => Some(CANCELLED),
        State::Suppressed => Some(SUPPRESSED),
        State::Digested => Some(DIGESTED),
        State::Expired => Some(EXPIRED),
        State::Sending | State::Held | State::Unknown => None,
    }
}

/// [`State::Pending`] in the tables.
pub(in crate::store) const PENDING: i64 = 0;
/// [`State::Delivered`] in the tables.
pub(in crate::store) const DELIVERED: i64 = 1;
/// [`State::Dead`] in the tables.
pub(in crate::store) const DEAD: i64 = 2;
/// Of an attempt that was taken and not yet reported on; no state of deliveries has this number.
pub(in crate::store) const AWAITS: i64 = 100;
/// [`State::Cancelled`] in the tables.
pub(in crate::store) const CANCELLED: i64 = 3;
/// [`State::Suppressed`] in the tables.
pub(in crate::store) const SUPPRESSED: i64 = 4;
/// [`State::Digested`] in the tables.
pub(in crate::store) const DIGESTED: i64 = 5;
/// [`State::Expired`] in the tables.
pub(in crate::store) const EXPIRED: i64 = 6;

/// What `code` stands for. One that a later version has given is none of ours: whatever waits there, it is not for us to send.
pub(in crate::store) fn state(code: i64) -> State {
    match code {
        PENDING => State::Pending,
        DELIVERED => State::Delivered,
        DEAD => State::Dead,
        CANCELLED => State::Cancelled,
        SUPPRESSED => State::Suppressed,
        DIGESTED => State::Digested,
        EXPIRED => State::Expired,
        _ => State::Unknown,
    }
}

/// The number that `cause` is in the tables.
pub(in crate::store) fn cause_code(cause: Cause) -> i64 {
    match cause {
        Cause::Receiver => 0,
        Cause::Config => 1,
        Cause::Internal => 2,
        Cause::Throttle => 3,
        Cause::Mute => 4,
        Cause::Quiet => 5,
        Cause::CancelOn => 6,
        // Read, and never written.
        Cause::Unknown => -1,
    }
}

/// What `code` stands for.
pub(in crate::store) fn cause(code: i64) -> Cause {
    match code {
        0 => Cause::Receiver,
        1 => Cause::Config,
        2 => Cause::Internal,
        3 => Cause::Throttle,
        4 => Cause::Mute,
        5 => Cause::Quiet,
        6 => Cause::CancelOn,
        _ => Cause::Unknown,
    }
}

/// The number that `stage` is in the tables.
pub(in crate::store) fn stage_code(stage: Stage) -> i64 {
    match stage {
        Stage::Free => 0,
        Stage::Undecided => 1,
        Stage::Passed => 2,
        Stage::Gathering => 3,
        Stage::Gathered => 4,
        Stage::Carrying => 5,
    }
}

/// The stage that `code` stands for.
pub(in crate::store) fn stage(code: i64) -> Stage {
    match code {
        1 => Stage::Undecided,
        2 => Stage::Passed,
        3 => Stage::Gathering,
        4 => Stage::Gathered,
        5 => Stage::Carrying,
        _ => Stage::Free,
    }
}

/// The number that `severity` is in the tables.
pub(in crate::store) fn severity_code(severity: Severity) -> i64 {
    match severity {
        Severity::Info => 0,
        Severity::Warning => 1,
        Severity::Critical => 2,
    }
}

/// What `code` stands for.
pub(in crate::store) fn severity(code: i64) -> Severity {
    match code {
        1 => Severity::Warning,
        2 => Severity::Critical,
        _ => Severity::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_back() {
        for (_, it) in State::ALL {
            assert!(state_code(it).is_none_or(|code| state(code) == it), "{it:?}");
        }
        for (_, it) in Cause::ALL {
            assert_eq!(cause(cause_code(it)), it);
        }
        for (_, it) in Severity::ALL {
            assert_eq!(severity(severity_code(it)), it);
        }
        for code in 0..6 {
            assert_eq!(stage_code(stage(code)), code);
        }
        // What a later version may write.
        assert_eq!((state(7), state(AWAITS), state(-1)), (State::Unknown, State::Unknown, State::Unknown));
        assert_eq!((cause(7), cause(i64::MAX)), (Cause::Unknown, Cause::Unknown));
    }
}
