//! Tests that run on PostgreSQL too: those of [`FILES`], which run on SQLite where they stand. What a test wants of its store is asked of
//! both, by the same lines.

use std::{collections::BTreeSet, path::Path};

use crate::support::store::on_postgres;

/// Makes a test of each, and the list of all.
macro_rules! also_on_postgres {
    ($($file:ident: $($test:ident)*;)*) => {
        /// The files, and what of them runs here.
        const FILES: &[(&str, &[&str])] = &[$((stringify!($file), &[$(stringify!($test)),*])),*];

        $(mod $file {
            $(
                #[test]
                fn $test() {
                    super::on_postgres(crate::$file::$test);
                }
            )*
        })*
    };
}

/// Those that do not, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("nothing_is_sent_while_the_store_refuses_writes", "it locks the file; see `replicas`"),
    ("only_what_people_read_is_gathered", "it is about the file of routes, and opens no store"),
];

also_on_postgres! {
    crash:
        whatever_was_acknowledged_is_delivered_though_the_relay_is_killed
        whoever_follows_sees_each_acknowledged_event_once_and_in_order_though_the_relay_is_killed;
    delivery:
        transient_answers_are_tried_again
        permanent_answers_are_dead_at_once
        every_2xx_is_delivered
        the_seeds_table_of_answers_is_stricter
        what_cannot_be_reached_is_tried_again
        a_target_that_never_answers_times_out
        retry_after_is_waited_for
        retry_after_with_503_holds_the_whole_lane_and_no_other
        an_absurd_retry_after_is_capped_or_ignored
        the_interactor_policy_waits_a_minute_after_its_first_attempt
        give_up_makes_one_last_attempt_at_its_time
        dead_letters_are_listed_under_their_deliverys_id
        a_2xx_whose_body_drips_past_the_timeout_is_delivered
        a_huge_answer_is_read_to_a_bound
        one_that_never_answers_delays_nobody_else
        concurrency_is_the_destinations
        one_event_reaches_one_target_once_and_stop_ends_the_walk
        rules_match_by_source_type_namespace_and_when
        unmatched_events_may_have_a_destination
        shutdown_drains_and_start_up_resumes
        shutdown_waits_for_what_is_under_way
        a_stopping_relay_takes_nothing_new
        deliveries_of_a_destination_that_is_gone_are_held;
    follow:
        whoever_waits_is_answered_as_soon_as_something_is_committed
        types_are_globs_and_what_is_not_wanted_wakes_nobody_and_moves_the_cursor
        the_relays_own_events_come_only_when_they_are_asked_for
        a_page_is_bounded_in_bytes_and_goes_on_where_it_ended
        a_stop_answers_whoever_waits_at_once
        what_cannot_be_followed_is_said
        those_who_gave_up_leave_room_for_others;
    spec_backlog:
        forty_thousand_survive_rename_removal_return_and_restart
        a_hundred_thousand_for_a_target_that_is_down_cost_little_and_flow_within_its_rate;
    spec_gathering:
        forty_for_one_credential_make_one_message_each_and_another_takes_the_place_of_one_that_dies
        waiting_and_held_ones_count_and_an_absent_key_is_not_throttled
        reset_on_ends_the_window_though_no_rule_takes_the_event
        a_digest_goes_out_when_its_window_ends_over_a_restart_too
        a_digest_goes_out_at_max
        a_dead_digest_is_one_dead_letter_that_lists_its_events
        cancel_on_cancels_what_waits_and_not_what_is_under_way
        quiet_holds_until_the_window_ends_but_for_exceptions_and_over_a_restart
        quiet_drops_or_gathers
        give_up_stands_still_while_quiet
        ttl_runs_from_acceptance_wherever_it_waits
        two_rules_suppress_only_what_both_would
        a_replay_skips_throttle_digest_and_cancel_on_and_respects_quiet
        a_mute_suppresses_with_its_reason_until_its_end
        twelve_hundred_credentials_make_one_mail_each_none_for_the_refreshed_and_one_slack_message
        mutes_are_added_listed_and_removed_by_the_command_line;
    spec_lanes:
        what_befalls_one_lane_befalls_no_other
        the_one_process_owns_all_256_shards_under_an_epoch
        a_former_owners_success_settles_and_its_failure_changes_nothing
        a_breaker_goes_on_where_it_stopped
        a_pause_outlives_a_restart
        the_store_is_the_queue
        a_commit_wakes_its_lane
        what_does_not_fit_the_buffer_comes_from_the_store
        each_retry_has_a_wake_up_of_its_own
        critical_goes_before_the_rest_but_not_before_its_own_key
        critical_overtakes_what_is_buffered
        the_rate_limit_is_kept_when_a_backlog_flows;
    spec_order:
        each_key_keeps_the_order_of_acceptance
        one_delivery_per_key_is_in_flight
        without_a_key_nothing_is_ordered
        a_retrying_head_holds_its_key_and_no_other
        order_holds_over_a_restart
        a_dead_head_releases_its_key
        a_later_retry_goes_out_of_order_and_says_so;
    spec_replay:
        it_makes_new_deliveries_of_the_same_event_marked
        it_goes_by_todays_rules
        it_may_be_for_one_named_target_only
        it_never_touches_old_deliveries
        it_selects_by_time_source_type_and_state
        it_respects_a_pause
        it_respects_the_rate_of_its_target
        it_respects_the_breaker
        it_is_capped_and_can_be_cancelled;
    spec_subscriptions:
        while_it_is_off_its_deliveries_are_held_over_a_restart_too
        what_it_held_is_released_as_a_job_with_count_and_cap
        a_release_goes_on_over_a_restart_under_its_cap
        cancelling_a_release_cancels_what_is_still_held
        switched_off_again_it_holds_what_was_not_released
        give_up_stands_still_while_it_is_off
        a_receiver_that_is_gone_switches_it_off_and_that_is_told_by_another_way
        broken_for_a_day_it_is_switched_off_over_a_restart_too
        five_deliveries_in_a_row_dead_for_lack_of_attempts_switch_it_off
        one_poison_payload_switches_nobody_off
        beyond_what_it_may_hold_the_oldest_expire_and_that_is_told
        what_is_held_for_longer_than_it_may_expires
        deleted_and_made_again_nothing_is_lost_or_doubled
        made_again_before_it_is_deleted_nothing_is_lost_and_each_sends_it_once_at_most
        ten_in_a_row_hand_on_what_waits_over_restarts_in_both_orders
        killed_between_deleting_and_handing_over_it_is_handed_over_at_the_next_start
        only_the_same_token_with_the_same_url_takes_its_place
        when_nobody_comes_within_the_grace_it_is_cancelled;
    storm:
        nobody_who_edits_what_he_wants_loses_an_event_though_the_relay_is_killed;
    subscriptions:
        an_event_reaches_a_subscription_signed_and_in_its_envelope
        all_of_it_is_there_after_a_restart
        what_cannot_be_is_refused_with_its_field_and_reason
        types_of_the_file_and_those_that_came_are_known
        each_set_of_namespaces_has_its_limit_and_sees_its_own
        many_at_once_never_exceed_the_limit
        a_change_holds_from_the_next_attempt_on
        old_and_new_secret_sign_for_48_hours_over_a_restart_too
        honeyframes_are_signed_by_their_secret_and_standard_where_it_fits
        destinations_that_may_be_reached_open_nothing_to_subscriptions
        every_change_is_audited_without_a_secret
        a_reload_leaves_subscriptions_alone
        those_that_are_idle_have_no_lane_that_works;
    succession:
        deleted_beside_one_of_another_type_it_can_be_made_again_without_loss
        two_deleted_together_and_made_again_each_take_their_own
        an_edit_of_what_it_wants_takes_over_what_waited
        an_edit_is_not_guessed_where_it_could_be_another_one
        only_one_made_later_that_gets_all_it_got_takes_its_place_at_once
        a_filter_is_a_part_of_what_it_wants
        a_replay_for_one_that_was_deleted_since_brings_no_namespace_to_another
        who_was_off_gives_a_grace_that_ran_out_some_more_time
        what_a_disabled_one_held_is_released_to_its_heir_under_the_cap
        what_waited_for_an_ordinary_edit_has_no_cap;
    tokens:
        a_token_does_what_its_scopes_say_until_it_is_revoked
        a_token_ends_by_itself_and_outlives_a_restart
        a_token_cannot_be_more_than_it_may
        a_created_token_has_a_rate_and_is_told_of_it_on_every_answer
        tokens_cannot_be_guessed_at_speed
        every_change_tells_who_what_before_and_after
        the_audit_is_kept_as_long_as_the_file_says
        the_command_line_makes_lists_and_revokes_tokens;
}

#[test]
fn every_test_of_these_files_is_run_or_left_out_for_a_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().map(|(test, _)| *test).collect();
    let mut all = BTreeSet::new();
    for (file, tests) in FILES {
        let text = std::fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let behind =
            lines.windows(2).filter(|pair| pair[0].starts_with("#[tokio::test") || pair[0] == "#[test]").map(|pair| pair[1]);
        let name = |line: &str| line.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap().to_owned();
        let there: BTreeSet<String> = behind.map(name).collect();
        assert!(!there.is_empty(), "{file}");
        let run: BTreeSet<String> = tests.iter().map(|test| (*test).to_owned()).collect();
        let missing: Vec<_> = there.difference(&run).filter(|test| !left_out.contains(test.as_str())).collect();
        assert!(missing.is_empty(), "{file}: neither run on PostgreSQL nor left out: {missing:?}");
        all.extend(there);
    }
    assert!(left_out.iter().all(|test| all.contains(*test)), "there is no such test: {left_out:?}");
}
