//! What every back end promises: one function per promise, each on a store of its own. A back end runs them all by writing
//! `contract!(open)` in its tests, with an [`Open`] of its own.

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;

use super::*;
use crate::{
    clock::Clock,
    envelope::{Envelope, tests::sample},
    sign::sha256,
};

pub(crate) mod accepting;
pub(crate) mod changing;
pub(crate) mod delivering;
pub(crate) mod erasing;
pub(crate) mod gathering;
pub(crate) mod giving_up;
pub(crate) mod holding;
pub(crate) mod listing;
pub(crate) mod ordering;
pub(crate) mod owning;
pub(crate) mod people;
pub(crate) mod pruning;
pub(crate) mod rejecting;
pub(crate) mod reporting;
pub(crate) mod sharing;

/// A store on its way to being open.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Store>>> + Send>>;
/// Opens the store that `place` stands for, made where it is missing.
pub(crate) type Open = fn(PathBuf, Clock) -> Opening;

/// Runs every promise as a test against the stores that the given [`Open`] opens; with `shared:` also those of stores that several
/// processes work on.
macro_rules! contract {
    (shared: $open:path) => {
        contract!($open);
        contract!(@ $open, sharing:
            shards_spread_evenly_as_owners_come_and_go
            a_shard_that_changes_hands_has_a_higher_epoch
            a_lease_of_a_clock_that_was_ahead_lasts_no_longer_than_any
            a_repeat_is_known_wherever_it_comes
            what_was_read_past_never_fills_later
            others_hear_what_is_new
            others_hear_what_ended_and_what_was_freed
            others_hear_what_was_taken_out_of_a_digest
            what_a_process_of_this_machine_owned_is_taken_once_that_has_ended
            an_order_key_has_one_head_wherever_events_come_in
            a_shard_that_some_owners_lack_is_for_the_others
            who_shares_the_store_is_known_with_what_it_says
            who_leaves_keeps_what_is_under_way_and_gives_up_the_rest_at_once
        );
    };
    ($open:path) => {
        contract!(@ $open, accepting:
            an_event_is_read_back_as_it_came
            any_text_is_kept_as_it_is
            an_accepted_event_outlives_a_restart
            a_repeat_is_a_duplicate_and_is_counted
            fifty_simultaneous_copies_are_one_event
            many_simultaneous_events_are_each_told_of_once
            the_listener_hears_what_was_committed
            an_id_is_new_again_after_its_time
            a_hash_id_gets_a_suffix_after_its_window
            a_window_of_zero_makes_every_repeat_new
            a_clock_set_back_makes_no_repeat_of_what_is_none
            one_bad_event_does_not_fail_the_others
            ids_of_another_store_are_not_found
            settings_are_kept
            settings_are_listed_by_prefix_and_removed
            threads_go_on_over_a_restart_and_end
            a_closed_store_says_so
            a_store_is_ready_until_it_is_closed
        );
        contract!(@ $open, delivering:
            due_comes_earliest_first
            what_the_caller_has_in_hand_is_left_out
            a_retry_is_due_at_its_time
            the_body_stays_the_same_bytes
            who_has_a_message_already_is_kept_with_every_attempt
            a_final_delivery_stays_final
            an_attempt_recorded_twice_is_one
            attempts_of_unknown_deliveries_are_dropped
            attempts_are_read_back_in_order
            the_backlog_counts_what_waits_and_what_is_dead
            of_one_target_what_waits_and_what_is_dead_is_counted_together
            a_delivery_and_its_replay_come_each_with_the_event
            large_bodies_come_in_portions
            large_bodies_that_were_made_come_in_portions_and_in_order
            an_attempt_that_does_not_count_burns_nothing
            an_attempt_recorded_late_again_changes_nothing
            the_oldest_that_is_due_is_found_in_the_whole_backlog
        );
        contract!(@ $open, giving_up:
            what_was_tried_dies_at_its_give_up_time_without_an_attempt
            give_up_stands_still_with_its_lane
            what_is_given_up_at_once_is_bounded_and_frees_its_order_key
            a_former_owner_gives_nothing_up
        );
        contract!(@ $open, holding:
            what_waits_is_handed_over_once_and_nothing_is_doubled
            a_replay_is_handed_over_beside_what_arrived_before
            thousands_are_handed_over_in_slices
            beyond_its_bytes_the_oldest_expire
            what_has_waited_for_too_long_expires
        );
        contract!(@ $open, ordering:
            critical_ones_go_first
            of_one_order_key_only_the_earliest_is_due
            a_head_in_hand_or_retrying_holds_its_key
            critical_ones_wait_for_their_own_key
            a_lane_is_adopted_whole
            what_is_adopted_waits_behind_a_head_of_its_key
            forty_thousand_are_adopted_and_a_long_key_is_no_burden
        );
        contract!(@ $open, gathering:
            of_a_throttled_key_so_many_go
            a_throttle_counts_what_is_not_suppressed_cancelled_expired_or_dead
            a_delivery_of_two_rules_is_suppressed_when_both_are_full
            the_newest_suppressed_one_takes_the_place_of_one_that_died
            one_that_reached_somebody_gives_up_its_place_to_nobody
            what_a_clock_that_was_ahead_let_go_suppresses_nothing
            a_reset_ends_the_window_and_what_was_suppressed_in_it_stays_so
            a_later_event_cancels_what_waits_for_its_key
            what_arrives_though_it_was_cancelled_meanwhile_is_delivered
            what_was_called_off_takes_nobodys_place
            a_digest_gathers_until_its_window_ends
            a_full_digest_goes_out_at_once
            a_digest_of_one_is_a_delivery_like_any_other
            a_digest_is_as_grave_as_the_gravest_in_it
            who_leaves_a_digest_is_followed_by_the_next
            a_digest_whose_last_one_leaves_is_no_more
            what_quiet_hours_hold_goes_when_they_end
            what_quiet_hours_held_is_cancelled_by_a_person_and_not_by_them
            what_is_held_is_roused_when_the_hours_change
            quiet_hours_drop_or_gather
            a_digest_that_ends_in_quiet_hours_waits_and_gathers_on
            what_is_older_than_its_ttl_expires
            a_former_owner_decides_nothing
            windows_go_on_under_a_new_name
            a_digest_held_for_too_long_is_one_dead_letter
            one_that_dies_of_being_held_gives_its_place_to_the_newest
            what_a_clock_that_was_ahead_put_off_is_decided_anew
            events_inside_a_delivery_stay_as_long_as_it_does
            a_window_outlives_the_events_it_counts
            what_is_foreseen_is_what_would_be_decided_and_changes_nothing
        );
        contract!(@ $open, erasing:
            what_is_erased_is_gone_with_all_that_belongs_to_it
            a_digest_goes_on_without_what_is_erased
            a_dead_digest_stays_one_without_what_is_erased
            a_digest_that_gathers_goes_on_without_what_is_erased
            nothing_that_stays_names_what_is_erased
            a_digest_for_several_goes_on_without_what_is_erased
            whoever_has_a_digest_does_not_get_it_twice_for_what_is_erased
            what_was_made_of_a_digest_before_is_not_kept
        );
        contract!(@ $open, people:
            a_retried_dead_letter_starts_anew
            a_retry_goes_out_of_order_and_says_so
            what_is_cancelled_is_final_and_releases_its_key
            a_dead_letter_is_resolved_once
            a_replay_makes_new_deliveries
            what_replays_make_is_listed_as_it_is_made
            a_step_of_a_replay_is_done_once
            replays_never_use_an_id_twice
        );
        contract!(@ $open, owning:
            a_lone_owner_holds_every_shard
            shards_change_hands_when_released_or_at_lease_end
            a_former_owners_failures_change_nothing
        );
        contract!(@ $open, listing:
            events_are_paged_both_ways
            events_are_filtered
            deliveries_are_paged_both_ways
            deliveries_of_a_subscription_are_listed_with_their_attempts_alone
            deliveries_are_filtered
            types_are_filtered_as_rules_match_them
            lists_leave_bodies_out
            a_walk_goes_both_ways_with_bodies_within_its_bounds
            a_walk_tells_how_far_it_has_looked
            whoever_walks_on_misses_nothing_that_is_committed_meanwhile
            what_a_filter_selects_is_counted
        );
        contract!(@ $open, changing:
            records_are_kept_changed_and_removed
            a_change_is_made_whole_or_not_at_all
            of_fifty_simultaneous_records_as_many_are_kept_as_may_be
            what_changed_since_is_read_with_what_is_gone
            a_removed_record_is_forgotten_and_revisions_go_on
            the_audit_is_filtered_paged_and_pruned
            a_setting_is_kept_with_its_event
            the_newest_event_is_told_of_though_nobody_gets_it
        );
        contract!(@ $open, pruning:
            what_a_clock_that_was_ahead_put_off_is_due
            events_of_a_clock_that_was_ahead_keep_no_others
            finished_events_go_after_their_time
            threads_go_after_the_time_of_events
            what_waits_keeps_its_event
            dead_letters_go_after_their_own_time
            dead_letters_of_own_events_are_counted_apart
            a_seq_is_never_given_out_twice
            keys_outlive_their_events
            deliveries_of_targets_that_are_gone_are_given_up
            a_lane_held_for_a_shorter_time_keeps_what_waits
            resolved_dead_letters_are_finished
            a_hash_key_stays_while_its_event_is_held
            slices_say_when_more_is_left
            a_full_store_drops_finished_events_first
            a_store_full_of_waiting_events_refuses_new_ones
        );
        contract!(@ $open, reporting:
            what_awaits_a_report_is_being_sent_and_due_for_nothing
            a_report_settles_what_awaits_it_once
            what_nobody_reports_counts_as_delivered_at_its_time
            what_awaits_a_report_holds_its_key
            one_for_several_becomes_one_for_each_and_only_once
            a_report_is_waited_for_no_less_though_the_clock_was_set_back
        );
        contract!(@ $open, rejecting:
            rejections_are_read_back
            rejections_are_filtered_and_paged
            the_quarantine_is_bounded_by_source
            paths_of_no_source_share_one_bound
            a_retried_rejection_is_settled
            rejections_go_after_their_time
        );
    };
    (@ $open:path, $group:ident: $($promise:ident)*) => {
        mod $group {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    use $crate::store::contract::{Bench, $group};
                    $group::$promise(Bench::new($open).await).await;
                }
            )*
        }
    };
}
pub(crate) use contract;

/// A store of its own for one promise, with a clock that stands still.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    open: Open,
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new(open: Open) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let store = open(folder.path().join("store"), clock.clone()).await.unwrap();
        Self { store, clock, open, folder }
    }

    /// Closes the store and opens it again, as a restart does.
    async fn restart(mut self) -> Self {
        self.store.close().await;
        self.store = (self.open)(self.folder.path().join("store"), self.clock.clone()).await.unwrap();
        self
    }

    /// Likewise, with a clock that stands elsewhere.
    async fn restart_at(mut self, at: Timestamp) -> Self {
        self.clock = Clock::manual(&at.to_string());
        self.restart().await
    }

    /// A second store, which knows nothing of the first.
    async fn another(&self) -> Arc<dyn Store> {
        (self.open)(self.folder.path().join("another"), self.clock.clone()).await.unwrap()
    }

    /// Takes in `event`, which is new.
    pub(crate) async fn accept(&self, event: NewEvent) -> EventUid {
        match self.store.accept(event).await.unwrap() {
            Accepted::New { uid, .. } => uid,
            repeat => panic!("{repeat:?}"),
        }
    }

    /// Takes in an event for `target`; gives its delivery.
    pub(crate) async fn planned(&self, id: &str, target: &str) -> DeliveryId {
        DeliveryId { event: self.accept(self.event(id).to(&[target])).await, n: 1 }
    }

    /// An event named `id` of which the body is a few bytes, for nobody.
    pub(crate) fn event(&self, id: &str) -> NewEvent {
        let body = Bytes::from(format!(r#"{{"id":"{id}","data":{{"n":1}}}}"#));
        let start = body.len() - r#"{"n":1}}"#.len();
        let data = Some(start..body.len() - 1);
        let envelope = Envelope { id: id.into(), received_at: self.clock.now(), data, body, ..sample() };
        let dedupe = DedupeKey { key: first_16(id.as_bytes()), body: first_16(&envelope.body), remember: Remember::Id(days(7)) };
        NewEvent { envelope, dedupe, deliveries: Vec::new(), rules: Vec::new(), endings: Endings::default(), setting: None }
    }

    /// An event without an id of its own.
    fn hashed(&self, body: &str, window: Duration) -> NewEvent {
        let event = self.event(body);
        NewEvent { dedupe: DedupeKey { remember: Remember::Hash(window), ..event.dedupe }, ..event }
    }

    /// An attempt of `delivery` that began now and came to `next`.
    pub(crate) fn attempt(&self, delivery: DeliveryId, number: u32, next: Next) -> Attempt {
        let delivered = next == Next::Delivered;
        Attempt {
            delivery,
            number,
            started_at: self.clock.now(),
            duration: Duration::from_millis(25),
            status: Some(if delivered { 200 } else { 503 }),
            error: (!delivered).then(|| "http_503".into()),
            detail: None,
            response: Bytes::from_static(b"answer"),
            next,
            rendered: None,
            counts: true,
            stood_still_ms: 0,
            epoch: 0,
            unmade: None,
            ordered: false,
        }
    }

    pub(crate) async fn recorded(&self, delivery: DeliveryId, number: u32, next: Next) {
        self.store.record(vec![self.attempt(delivery, number, next)]).await.unwrap();
    }

    /// Ids of what is due now for `target`.
    pub(crate) async fn due(&self, target: &str) -> Vec<DeliveryId> {
        let due = self.store.due(&target.into(), self.clock.now(), 100, Vec::new()).await.unwrap();
        due.into_iter().map(|due| due.delivery.id).collect()
    }

    /// The delivery `id` as lists show it.
    pub(crate) async fn delivery(&self, id: DeliveryId) -> Option<Delivery> {
        let rows = self.store.deliveries(Filter { event: Some(id.event), ..Filter::default() }).await.unwrap();
        rows.into_iter().map(|row| row.delivery).find(|delivery| delivery.id == id)
    }

    pub(crate) async fn holds(&self, uid: EventUid) -> bool {
        self.store.event(uid).await.unwrap().is_some()
    }
}

impl NewEvent {
    /// The same event with a delivery to each of `targets`.
    pub(crate) fn to(self, targets: &[&str]) -> Self {
        let delivery = |target: &&str| NewDelivery { rule: Some("all".into()), ..NewDelivery::to((*target).into()) };
        Self { deliveries: targets.iter().map(delivery).collect(), rules: vec!["all".into()], ..self }
    }

    fn with_body(mut self, body: Vec<u8>) -> Self {
        self.dedupe.body = first_16(&body);
        self.envelope = Envelope { body: body.into(), data: None, ..self.envelope };
        self
    }
}

/// The id under which a repeat is held, and whether it had other bytes.
fn repeat_of(accepted: Accepted) -> (String, bool) {
    match accepted {
        Accepted::Duplicate { id, mismatch, .. } => (id, mismatch),
        new => panic!("{new:?}"),
    }
}

fn first_16(bytes: &[u8]) -> [u8; 16] {
    sha256(&[bytes])[..16].try_into().unwrap()
}

fn days(n: u64) -> Duration {
    Duration::from_hours(24 * n)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Remembers what it is told.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Committed>>,
    requests: Mutex<usize>,
    elsewhere: Mutex<Vec<Option<Vec<Name>>>>,
    ended: Mutex<Vec<Option<Vec<Name>>>>,
    freed: Mutex<usize>,
}

impl OnCommit for Heard {
    fn committed(&self, events: Vec<Committed>) {
        self.events.lock().unwrap().extend(events);
    }

    fn elsewhere(&self, targets: Option<&[Name]>) {
        self.elsewhere.lock().unwrap().push(targets.map(<[Name]>::to_vec));
    }

    fn ended_elsewhere(&self, targets: Option<&[Name]>) {
        self.ended.lock().unwrap().push(targets.map(<[Name]>::to_vec));
    }

    fn freed(&self) {
        *self.freed.lock().unwrap() += 1;
    }

    fn batch(&self, count: usize, _took: Duration) {
        *self.requests.lock().unwrap() += count;
    }
}
