//! delivery.md, line by line: every row of its tables and every sentence of its paragraphs, with the tests that show it.
//! `tests/fixtures/delivery.md` is the copy that was read; whoever changes the one sees the other fail.

use std::{collections::BTreeSet, path::Path, process::Command};

/// One row or sentence of delivery.md.
struct Line {
    /// How it begins: enough to tell it from every other.
    begins: &'static str,
    /// The tests that show it, as `cargo test` names them.
    tests: &'static [&'static str],
}

/// Shown by these tests.
const fn shown(begins: &'static str, tests: &'static [&'static str]) -> Line {
    Line { begins, tests }
}

const STATES: &[Line] = &[
    shown(
        "`pending` |",
        &[
            "spec_states::pending_waits_for_its_turn",
            "spec_states::pending_waits_for_its_retry_time",
            "spec_gathering::a_digest_goes_out_when_its_window_ends_over_a_restart_too",
        ],
    ),
    shown(
        "`held` |",
        &[
            "spec_states::held_says_what_it_waits_for",
            "spec_subscriptions::while_it_is_off_its_deliveries_are_held_over_a_restart_too",
            "spec_subscriptions::deleted_and_made_again_nothing_is_lost_or_doubled",
        ],
    ),
    shown(
        "`sending` |",
        &[
            "spec_states::sending_while_an_attempt_is_under_way",
            "whatsapp::what_is_taken_stays_sending_until_it_is_reported_over_a_restart_too",
        ],
    ),
    shown("`delivered` |", &["spec_states::delivered_is_final"]),
    shown(
        "`suppressed` |",
        &[
            "spec_gathering::forty_for_one_credential_make_one_message_each_and_another_takes_the_place_of_one_that_dies",
            "spec_gathering::a_mute_suppresses_with_its_reason_until_its_end",
            "spec_gathering::mutes_are_added_listed_and_removed_by_the_command_line",
            "spec_gathering::quiet_drops_or_gathers",
        ],
    ),
    shown("`digested` |", &["spec_gathering::a_digest_goes_out_when_its_window_ends_over_a_restart_too"]),
    shown(
        "`expired` |",
        &[
            "spec_gathering::ttl_runs_from_acceptance_wherever_it_waits",
            "spec_subscriptions::beyond_what_it_may_hold_the_oldest_expire_and_that_is_told",
        ],
    ),
    shown(
        "`cancelled` |",
        &[
            "spec_states::cancelled_by_a_person_is_final",
            "spec_states::a_person_cancels_a_whole_lane",
            "spec_gathering::cancel_on_cancels_what_waits_and_not_what_is_under_way",
        ],
    ),
    shown(
        "`dead` |",
        &["spec_states::dead_until_a_person_retries_it", "spec_states::dead_until_a_person_resolves_it_with_a_note"],
    ),
    shown("`held` with cause", &["spec_states::a_lanes_state_is_shown_on_its_deliveries_and_rewrites_no_row"]),
    shown(
        "Planning always writes `pending`",
        &[
            "spec_states::planning_always_writes_pending",
            "spec_gathering::waiting_and_held_ones_count_and_an_absent_key_is_not_throttled",
        ],
    ),
];

const LANES: &[Line] = &[
    shown("A lane is all deliveries of one target", &["spec_lanes::what_befalls_one_lane_befalls_no_other"]),
    shown(
        "Lanes hash into 256 shards",
        &[
            "spec_lanes::the_one_process_owns_all_256_shards_under_an_epoch",
            "replicas::what_any_of_three_replicas_acknowledged_is_delivered_though_they_are_killed",
        ],
    ),
    shown(
        "The owner keeps order, concurrency",
        &[
            "spec_lanes::a_breaker_goes_on_where_it_stopped",
            "spec_lanes::a_pause_outlives_a_restart",
            "spec_lanes::the_rate_limit_is_kept_when_a_backlog_flows",
            "spec_order::order_holds_over_a_restart",
            "spec_gathering::reset_on_ends_the_window_though_no_rule_takes_the_event",
            "spec_gathering::a_digest_goes_out_when_its_window_ends_over_a_restart_too",
            "delivery::concurrency_is_the_destinations",
            "replicas::order_and_rate_hold_while_replicas_come_and_go",
            "replicas::a_lane_goes_on_where_it_stood_when_its_owner_leaves",
        ],
    ),
    shown(
        "Ownership spreads evenly",
        &[
            "replicas::a_lane_goes_on_where_it_stood_when_its_owner_leaves",
            "replicas::what_any_of_three_replicas_acknowledged_is_delivered_though_they_are_killed",
            "replicas_steered::what_one_that_leaves_had_is_taken_at_once_and_so_is_what_a_killed_neighbour_had",
        ],
    ),
    shown(
        "An owner that cannot renew",
        &["replicas_steered::an_owner_that_cannot_renew_begins_nothing_in_the_last_five_seconds_and_breaks_off_at_the_end"],
    ),
    shown(
        "A success reported by a former owner",
        &["spec_lanes::a_former_owners_success_settles_and_its_failure_changes_nothing"],
    ),
    shown(
        "The store is the queue",
        &["spec_lanes::the_store_is_the_queue", "spec_backlog::forty_thousand_survive_rename_removal_return_and_restart"],
    ),
    shown(
        "A commit wakes the owner",
        &[
            "spec_lanes::a_commit_wakes_its_lane",
            "spec_lanes::what_does_not_fit_the_buffer_comes_from_the_store",
            "spec_lanes::each_retry_has_a_wake_up_of_its_own",
            "spec_backlog::a_hundred_thousand_for_a_target_that_is_down_cost_little_and_flow_within_its_rate",
        ],
    ),
    shown(
        "`severity: critical` goes before",
        &[
            "spec_lanes::critical_goes_before_the_rest_but_not_before_its_own_key",
            "spec_lanes::critical_overtakes_what_is_buffered",
        ],
    ),
    shown("While the store refuses writes", &["spec_lanes::nothing_is_sent_while_the_store_refuses_writes"]),
];

const MOVES: &[Line] = &[
    shown("attempt answered 2xx |", &["spec_moves::an_answer_of_2xx_delivers"]),
    shown(
        "transient answer |",
        &[
            "spec_moves::a_transient_answer_waits_for_the_policys_next_time",
            "spec_moves::retry_after_counts_if_it_is_later",
            "spec_moves::retry_after_is_capped",
            "spec_moves::retry_after_with_429_or_503_holds_the_whole_lane",
            "spec_moves::retry_after_with_another_status_holds_only_its_delivery",
        ],
    ),
    shown(
        "permanent answer |",
        &["spec_moves::a_permanent_answer_is_dead_of_its_receiver", "spec_moves::a_moved_url_is_dead_of_the_config"],
    ),
    shown("out of attempts |", &["spec_moves::out_of_attempts_is_dead_of_its_receiver"]),
    shown(
        "the next time lies past give-up |",
        &[
            "spec_moves::one_last_attempt_at_give_up_time",
            "spec_moves::with_the_breaker_open_at_give_up_time_it_is_dead_without_an_attempt",
        ],
    ),
    shown("rendering or our own fault |", &["spec_moves::a_failing_template_gives_way_to_the_built_in_line"]),
    shown(
        "relay killed after sending, before recording |",
        &[
            "spec_moves::killed_between_sending_and_recording_the_same_id_goes_out_again",
            "crash::whatever_was_acknowledged_is_delivered_though_the_relay_is_killed",
        ],
    ),
    shown(
        "target removed from the file |",
        &[
            "spec_moves::a_removed_targets_deliveries_are_held_and_go_out_when_it_is_back",
            "spec_moves::renamed_from_adopts_what_waits_for_the_old_name",
            "spec_moves::a_person_cancels_what_waits_for_a_removed_target",
            "spec_backlog::forty_thousand_survive_rename_removal_return_and_restart",
            "reload::what_waits_for_a_removed_target_is_held_and_goes_out_when_it_is_back",
            "reload::renamed_from_adopts_what_waits_for_the_old_name",
            "reload::a_reload_says_how_many_wait_without_their_destination_and_what_would_adopt_them",
        ],
    ),
    shown(
        "target changed in the file |",
        &[
            "spec_moves::the_next_attempt_uses_todays_url_and_policy",
            "spec_moves::the_next_attempt_uses_todays_secret_and_the_body_made_before",
            "reload::the_next_attempt_uses_todays_url_and_policy",
        ],
    ),
    shown("rule removed or changed |", &["spec_moves::what_was_planned_stays_planned_when_its_rule_goes"]),
    shown(
        "a person retries a dead letter |",
        &[
            "spec_moves::a_retried_dead_letter_goes_on_under_its_id_with_count_and_clocks_anew",
            "spec_moves::a_retried_dead_letter_keeps_the_body_it_had",
            "spec_moves::dead_letters_are_retried_by_filter_as_a_job",
        ],
    ),
    shown(
        "subscription enabled again |",
        &[
            "spec_subscriptions::what_it_held_is_released_as_a_job_with_count_and_cap",
            "spec_subscriptions::a_release_goes_on_over_a_restart_under_its_cap",
            "spec_subscriptions::cancelling_a_release_cancels_what_is_still_held",
            "spec_subscriptions::switched_off_again_it_holds_what_was_not_released",
        ],
    ),
    shown(
        "subscription deleted |",
        &[
            "spec_subscriptions::deleted_and_made_again_nothing_is_lost_or_doubled",
            "spec_subscriptions::made_again_before_it_is_deleted_nothing_is_lost_and_each_sends_it_once_at_most",
            "spec_subscriptions::ten_in_a_row_hand_on_what_waits_over_restarts_in_both_orders",
            "spec_subscriptions::killed_between_deleting_and_handing_over_it_is_handed_over_at_the_next_start",
            "spec_subscriptions::only_the_same_token_with_the_same_url_takes_its_place",
            "spec_subscriptions::when_nobody_comes_within_the_grace_it_is_cancelled",
            "succession::deleted_beside_one_of_another_type_it_can_be_made_again_without_loss",
            "succession::two_deleted_together_and_made_again_each_take_their_own",
            "succession::an_edit_of_what_it_wants_takes_over_what_waited",
            "succession::only_one_made_later_that_gets_all_it_got_takes_its_place_at_once",
            "succession::who_was_off_gives_a_grace_that_ran_out_some_more_time",
            "storm::nobody_who_edits_what_he_wants_loses_an_event_though_the_relay_is_killed",
            "succession::what_a_disabled_one_held_is_released_to_its_heir_under_the_cap",
        ],
    ),
];

const CLOCKS: &[Line] = &[
    shown(
        "Give-up runs from the delivery's first attempt",
        &[
            "spec_clocks::give_up_runs_from_the_first_attempt",
            "spec_clocks::give_up_stands_still_while_the_lane_is_paused",
            "spec_clocks::a_pause_that_a_restart_falls_into_counts_whole",
            "spec_clocks::give_up_runs_on_while_the_target_is_broken",
            "spec_gathering::give_up_stands_still_while_quiet",
            "spec_subscriptions::give_up_stands_still_while_it_is_off",
        ],
    ),
    shown(
        "A delivery never tried does not age",
        &["spec_clocks::a_delivery_never_tried_does_not_age", "spec_gathering::ttl_runs_from_acceptance_wherever_it_waits"],
    ),
    shown(
        "A destination's deliveries `held` for longer",
        &[
            "spec_clocks::what_is_held_for_longer_than_events_are_kept_is_dead_of_the_config",
            "spec_clocks::what_comes_late_to_a_held_lane_is_held_as_long",
            "spec_clocks::what_is_just_being_tried_is_not_given_up_for_being_held",
        ],
    ),
    shown(
        "A subscription holds at most",
        &[
            "spec_subscriptions::beyond_what_it_may_hold_the_oldest_expire_and_that_is_told",
            "spec_subscriptions::what_is_held_for_longer_than_it_may_expires",
            "subscriptions_guarded::what_a_slow_receiver_leaves_waiting_is_bounded_too_and_does_not_age",
        ],
    ),
    shown(
        "An event with a delivery that is not final",
        &[
            "spec_retention::an_event_with_a_delivery_that_is_not_final_is_never_deleted",
            "spec_retention::an_event_with_an_unresolved_dead_letter_stays_and_goes_once_it_is_resolved",
        ],
    ),
    shown(
        "Dead letters go at `retention.dead_letters`",
        &[
            "spec_retention::dead_letters_go_at_their_time_after_death_counted_and_announced",
            "spec_retention::dead_letters_that_go_at_a_start_are_announced_too",
        ],
    ),
    shown(
        "`store.max_bytes` prunes old finished events first",
        &[
            "spec_retention::max_bytes_prunes_old_finished_events_first_and_refuses_only_when_nothing_finished_is_left",
            "spec_retention::a_store_four_fifths_full_is_told_of_by_event",
        ],
    ),
    shown("Dedupe keys live on their own clock", &["spec_retention::dedupe_keys_live_on_their_own_clock"]),
];

const ANSWERS: &[Line] = &[
    shown("2xx | delivered", &["spec_answers::every_2xx_is_delivered_in_both_tables"]),
    shown(
        "408, 425, 429, 5xx",
        &["spec_answers::trouble_that_passes_is_transient_in_both_tables", "spec_answers::no_answer_is_transient_in_both_tables"],
    ),
    shown(
        "404, 409, 421, 423, 424 |",
        &[
            "spec_answers::endpoints_that_vanish_for_a_while_are_transient_by_default",
            "spec_answers::endpoints_that_vanish_are_permanent_for_interactor",
        ],
    ),
    shown(
        "401, 403, 407 |",
        &[
            "spec_answers::the_first_refusal_of_credentials_without_a_success_that_day_is_target_level",
            "spec_answers::refusals_of_credentials_after_a_success_are_transient_until_the_third_event",
            "spec_answers::one_event_refused_three_times_is_not_three_events",
            "spec_answers::a_success_of_yesterday_does_not_count",
            "spec_answers::refused_credentials_are_permanent_for_interactor",
        ],
    ),
    shown(
        "410 | permanent",
        &[
            "spec_answers::gone_is_permanent_in_both_tables",
            "spec_subscriptions::a_receiver_that_is_gone_switches_it_off_and_that_is_told_by_another_way",
        ],
    ),
    shown("3xx | permanent", &["spec_answers::a_redirect_is_permanent_and_not_followed_in_both_tables"]),
    shown("400, 402, 405, 406", &["spec_answers::what_cannot_pass_is_permanent_in_both_tables"]),
    shown("an address that policy forbids |", &["spec_answers::a_forbidden_address_is_dead_of_the_config"]),
    shown(
        "Twilio, by `code`",
        &[
            "whatsapp::answers_that_pass_are_transient",
            "whatsapp::answers_about_the_account_open_the_breaker_and_burn_nothing",
            "whatsapp::other_refusals_are_permanent",
            "whatsapp::a_failure_that_is_reported_counts_by_its_code",
        ],
    ),
    shown(
        "SMTP 4yz",
        &[
            "email::four_hundreds_are_transient",
            "email::five_hundreds_about_the_mail_or_its_recipient_are_permanent",
            "email::what_is_wrong_with_our_login_opens_the_breaker_and_burns_nothing",
            "email::a_connection_that_ends_is_transient",
            "email::a_server_that_never_answers_is_a_timeout",
        ],
    ),
    shown(
        "Slack, by body text",
        &[
            "slack::words_that_would_come_again_are_permanent",
            "slack::words_that_pass_are_transient",
            "slack::words_about_the_destination_open_its_breaker_and_burn_nothing",
            "slack::a_refusal_that_drips_is_read_as_far_as_it_came",
        ],
    ),
    shown("The status decides once", &["spec_answers::the_status_decides_once_the_header_has_come"]),
    shown(
        "Target-level: the breaker opens",
        &[
            "spec_answers::target_level_opens_the_breaker_at_once_with_cause_config",
            "spec_answers::at_target_level_nothing_is_burnt",
        ],
    ),
    shown(
        "For a destination, three permanent answers",
        &[
            "spec_answers::three_permanent_answers_3xx_or_410_in_a_row_are_target_level",
            "spec_answers::another_answer_between_them_breaks_the_row",
        ],
    ),
    shown("`status_rules:", &["spec_answers::status_rules_override_per_target"]),
    shown("n8n's 404", &["spec_answers::n8ns_404_is_always_transient"]),
];

const POLICIES: &[Line] = &[
    shown("Policies set times only", &["spec_policies::a_policy_sets_times_and_not_what_answers_mean"]),
    shown(
        "`honeyframe` (default)",
        &[
            "spec_policies::honeyframe_grows_from_5_s_to_an_hour",
            "spec_policies::honeyframe_is_the_default_and_gives_up_after_24_h",
        ],
    ),
    shown("`interactor`: attempts at", &["spec_policies::interactor_tries_at_its_seeds_times"]),
    shown("`agent`: 3 retries", &["spec_policies::agent_retries_three_times", "spec_policies::agent_may_retry_ten_times"]),
    shown(
        "`jitter`:",
        &[
            "spec_policies::without_jitter_the_step_is_whole",
            "spec_policies::equal_jitter_draws_between_half_and_the_whole_of_the_step",
            "spec_policies::full_jitter_draws_between_nothing_and_the_whole_of_the_step",
        ],
    ),
    shown("`max_attempts` counts the first", &["spec_policies::max_attempts_counts_the_first"]),
];

const BREAKER: &[Line] = &[
    shown(
        "Opens after 5 transient failures",
        &[
            "spec_breaker::five_transient_failures_in_a_row_open_it",
            "spec_breaker::failures_of_two_deliveries_do_not_open_it",
            "spec_breaker::a_success_among_them_resets_the_count",
            "spec_breaker::a_permanent_answer_neither_counts_nor_resets",
            "spec_breaker::permanent_answers_alone_never_open_it",
            "spec_breaker::a_permanent_answer_to_the_probe_closes_it_like_a_success",
            "spec_breaker::a_moved_or_gone_answer_to_the_probe_does_not_close_it",
            "spec_answers::target_level_opens_the_breaker_at_once_with_cause_config",
        ],
    ),
    shown(
        "Open: no attempts",
        &[
            "spec_breaker::open_it_sends_one_probe_after_30_s_and_waits_twice_as_long_up_to_10_min",
            "spec_breaker::the_probe_is_the_oldest_waiting_delivery_and_counts_as_its_attempt",
            "spec_answers::at_target_level_nothing_is_burnt",
        ],
    ),
    shown(
        "A success closes it",
        &["spec_breaker::a_success_of_the_probe_closes_it", "spec_breaker::closed_again_concurrency_ramps_up_by_doubling"],
    ),
    shown("A person can close", &["spec_breaker::a_person_closes_it", "spec_breaker::a_person_pauses_and_resumes"]),
    shown(
        "A destination stays broken",
        &[
            "spec_breaker::a_destination_stays_broken_until_it_heals",
            "spec_subscriptions::broken_for_a_day_it_is_switched_off_over_a_restart_too",
            "spec_subscriptions::five_deliveries_in_a_row_dead_for_lack_of_attempts_switch_it_off",
            "spec_subscriptions::one_poison_payload_switches_nobody_off",
        ],
    ),
];

const REST: &[Line] = &[
    shown(
        "With `order_by`, one delivery per key",
        &[
            "spec_order::each_key_keeps_the_order_of_acceptance",
            "spec_order::one_delivery_per_key_is_in_flight",
            "spec_order::without_a_key_nothing_is_ordered",
            "spec_order::order_holds_over_a_restart",
        ],
    ),
    shown(
        "A retrying head holds its key",
        &[
            "spec_order::a_retrying_head_holds_its_key_and_no_other",
            "spec_order::a_dead_head_releases_its_key",
            "spec_order::a_later_retry_goes_out_of_order_and_says_so",
        ],
    ),
    shown("Throttle counts every delivery", &["spec_gathering::waiting_and_held_ones_count_and_an_absent_key_is_not_throttled"]),
    shown(
        "If the one that passed dies",
        &["spec_gathering::forty_for_one_credential_make_one_message_each_and_another_takes_the_place_of_one_that_dies"],
    ),
    shown("`reset_on: [types]`", &["spec_gathering::reset_on_ends_the_window_though_no_rule_takes_the_event"]),
    shown(
        "Digest (Slack, email, WhatsApp only",
        &[
            "spec_gathering::a_digest_goes_out_when_its_window_ends_over_a_restart_too",
            "spec_gathering::a_digest_goes_out_at_max",
            "spec_gathering::a_dead_digest_is_one_dead_letter_that_lists_its_events",
            "spec_gathering::only_what_people_read_is_gathered",
        ],
    ),
    shown(
        "`cancel_on: {type, key}`",
        &[
            "spec_gathering::cancel_on_cancels_what_waits_and_not_what_is_under_way",
            "spec_gathering::twelve_hundred_credentials_make_one_mail_each_none_for_the_refreshed_and_one_slack_message",
        ],
    ),
    shown(
        "Quiet: `hold`",
        &[
            "spec_gathering::quiet_holds_until_the_window_ends_but_for_exceptions_and_over_a_restart",
            "spec_gathering::quiet_drops_or_gathers",
        ],
    ),
    shown("Two rules, one target", &["spec_rules::two_rules_that_name_one_target_make_one_delivery"]),
    shown(
        "Template and payload from the first rule",
        &[
            "spec_rules::its_template_is_the_first_rules",
            "spec_rules::its_severity_is_the_highest",
            "spec_gathering::two_rules_suppress_only_what_both_would",
            "spec_gathering::quiet_holds_until_the_window_ends_but_for_exceptions_and_over_a_restart",
        ],
    ),
    shown(
        "Replay makes new deliveries",
        &[
            "spec_replay::it_makes_new_deliveries_of_the_same_event_marked",
            "spec_replay::it_goes_by_todays_rules",
            "spec_replay::it_may_be_for_one_named_target_only",
            "spec_replay::it_never_touches_old_deliveries",
            "spec_replay::it_selects_by_time_source_type_and_state",
            "spec_replay::it_respects_a_pause",
            "spec_replay::it_respects_the_rate_of_its_target",
            "spec_replay::it_respects_the_breaker",
            "spec_replay::it_is_capped_and_can_be_cancelled",
            "spec_gathering::a_replay_skips_throttle_digest_and_cancel_on_and_respects_quiet",
        ],
    ),
    shown("In `tests:` of routes.yaml", &["rehearsal::times_n_is_n_events_with_fresh_ids_and_states_speak_of_the_first"]),
];

/// Said of the page itself.
const ABOUT: [&str; 2] = ["One page that decides", "`product.md` has the words"];

fn lines() -> impl Iterator<Item = &'static Line> {
    [STATES, LANES, MOVES, CLOCKS, ANSWERS, POLICIES, BREAKER, REST].into_iter().flatten()
}

/// Every row and sentence of a page like delivery.md, without its marks of emphasis.
fn said(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rows = 0;
    for block in page.split("\n\n").flat_map(blocks) {
        match block.strip_prefix("| ") {
            // The head of a table and the line below it say nothing.
            Some(row) => {
                rows += 1;
                if 2 < rows {
                    all.push(row.trim_end_matches([' ', '|']).to_owned());
                }
            }
            None => {
                rows = 0;
                all.extend(sentences(&block));
            }
        }
    }
    all
}

/// The rows of a table each by itself, a paragraph as one line; headings are left out.
fn blocks(text: &str) -> Vec<String> {
    let text = text.replace("**", "");
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).collect();
    if lines.iter().any(|line| line.starts_with('|')) {
        return lines.iter().map(|line| line.replace("|---|", "| ---|")).collect();
    }
    vec![lines.join(" ")]
}

/// The sentences of a paragraph; its title (`Clocks.`) is none.
fn sentences(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for part in text.split_inclusive(". ") {
        let begins = part.starts_with(|first: char| first.is_uppercase() || first == '`') || part.starts_with("n8n");
        if begins {
            found.push(String::new());
        }
        found.last_mut().unwrap().push_str(part);
    }
    found.iter().map(|sentence| sentence.trim().to_owned()).filter(|sentence| sentence.contains(' ')).collect()
}

fn copy() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/delivery.md")).unwrap()
}

#[test]
fn every_row_and_sentence_is_in_the_list_once() {
    let said = said(&copy());
    assert!(70 < said.len(), "only {} were read", said.len());
    for sentence in said.iter().filter(|said| !ABOUT.iter().any(|about| said.starts_with(about))) {
        let found: Vec<_> = lines().map(|line| line.begins).filter(|begins| sentence.starts_with(begins)).collect();
        assert_eq!(found.len(), 1, "delivery.md says: {sentence}\nin the list: {found:?}");
    }
}

#[test]
fn every_line_of_the_list_is_said_and_has_a_test() {
    let said = said(&copy());
    for Line { begins, tests } in lines() {
        assert_eq!(said.iter().filter(|said| said.starts_with(begins)).count(), 1, "delivery.md says once: {begins}");
        assert!(!tests.is_empty(), "{begins}");
    }
}

#[test]
fn every_test_in_the_list_exists() {
    let this = std::env::current_exe().unwrap();
    let output = Command::new(this).args(["--list", "--format", "terse"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let tests: BTreeSet<_> = text.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let named: BTreeSet<_> = lines().flat_map(|line| line.tests).copied().collect();
    let missing: Vec<_> = named.difference(&tests).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    let mut of_topics = tests.into_iter().filter(|test| test.starts_with("spec_"));
    let unnamed: Vec<_> = of_topics.by_ref().filter(|test| !named.contains(test)).collect();
    assert!(unnamed.is_empty(), "tests of delivery.md that the list does not name: {unnamed:?}");
}

#[test]
fn the_copy_is_what_the_project_says() {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/delivery.md");
    let Ok(original) = std::fs::read_to_string(original) else {
        println!("skipped: there is no ../shared/delivery.md here");
        return;
    };
    assert_eq!(said(&original), said(&copy()), "tests/fixtures/delivery.md is behind");
}
