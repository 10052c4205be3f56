//! When partitions begin and go.

use super::*;

const HOUR: i64 = 60 * 60 * 1000;
const KEPT: Duration = Duration::from_hours(30 * 24);

fn partition(number: i64, begun_at: i64, ended_at: Option<i64>) -> Partition {
    Partition { number, begun_at: Some(begun_at), ended_at, bytes: 1 << 40, sliced: false }
}

fn layout(partitions: Vec<Partition>, taken: i64, now: i64) -> Layout {
    let last = partitions.last().unwrap().number;
    Layout { partitions, ended_bytes: 0, last_seq: (last << SHIFT) + taken, now }
}

#[test]
fn the_next_one_begins_when_the_period_is_over_and_there_is_something_in_the_last() {
    let sizes = Pace::default().sizes;
    let next = |taken, now| layout(vec![partition(3, 0, None)], taken, now).next(period(KEPT), sizes);
    assert_eq!(period(KEPT), 5 * 24 * HOUR);
    assert_eq!(period(Duration::from_secs(60)), HOUR, "the shortest");
    assert_eq!(next(10_000, 5 * 24 * HOUR), Some(4));
    assert_eq!(next(9_999, 500 * 24 * HOUR), None, "they go row by row");
    assert_eq!(next(1_000_000, 5 * 24 * HOUR - 1), None, "not before its time");
    assert_eq!(next(10_000, -1), Some(4), "a clock that was ahead began it");
    assert_eq!(next(1 << 29, 1), Some(4), "its numbers would run out");
    assert_eq!(next((4 << SHIFT) + 5, 1), Some(8), "behind all that was given out");
    let mut many: Vec<_> = (0..10).map(|n| partition(n, n, Some(n))).collect();
    many.push(partition(10, 0, None));
    assert_eq!(layout(many, 1_000_000, 500 * 24 * HOUR).next(period(KEPT), sizes), None, "there are enough");
    let next = |number| layout(vec![partition(number, 0, None)], 1 << 29, 0).next(period(KEPT), sizes);
    assert_eq!((next((SEQ_MAX >> SHIFT) - 1), next(SEQ_MAX >> SHIFT)), (Some(SEQ_MAX >> SHIFT), None), "the very last");
}

#[test]
fn what_goes_with_its_partition_goes_by_slices_only_when_that_comes_too_late() {
    let sliced = Partition { sliced: true, ..partition(1, 0, Some(1)) };
    let cutoffs = |taken| {
        let layout = layout(vec![sliced, partition(2, 1, Some(2)), partition(3, 2, None)], taken, 0);
        let cutoffs = layout.cutoffs(0, KEPT, Pace::default().sizes);
        [0, 1, 2, 3].map(|number| cutoffs.of((number << SHIFT) + 7))
    };
    let late = -(5 * 24 + 1) * HOUR;
    assert_eq!(cutoffs(10_000), [0, 0, late, late], "the rest, one of which much has to stay, one that ended, the last");
    assert_eq!(cutoffs(9_999), [0, 0, late, 0]);
}

#[test]
fn those_beyond_their_time_go_and_those_of_which_little_is_left() {
    let little = Partition { bytes: 1000, ..partition(3, 2, Some(30)) };
    let sliced = Partition { sliced: true, ..partition(1, 0, Some(10)) };
    let layout = layout(vec![sliced, partition(2, 1, Some(20)), little, partition(4, 30, None)], 1, 100);
    let candidates = |cutoff, sliced| layout.candidates(cutoff, sliced).map(|(it, left)| (it.number, left)).collect::<Vec<_>>();
    assert_eq!(candidates(20, true), [(1, false), (3, true)]);
    assert_eq!(candidates(21, false), [(2, false), (3, true)]);
}
