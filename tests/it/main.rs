//! Black-box tests: each starts the real binary on free ports of 127.0.0.1 in a folder of its own, speaks HTTP to it, and
//! reads its API; those of delivery.md (`spec*.rs`) start it in this process, to move its time by hand. One file per promise or
//! resource; what they share stands in `support/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that meets the unexpected fails there")]
#![allow(clippy::disallowed_methods, reason = "the relay under test runs on the machine's clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a test measured, or why it skips, is for its reader")]

mod support;

mod api;
mod backtest;
mod cli;
mod copying;
mod crash;
mod delivery;
mod doctor;
mod email;
mod envelope;
mod erasing;
mod explain;
mod failover;
mod files;
mod follow;
mod handshake;
mod hanging_up;
mod inbound_agent;
mod inbound_common;
mod inbound_dedupe;
mod inbound_hmac;
mod inbound_hostile;
mod inbound_interactor;
mod inbound_limits;
mod inbound_standard;
mod inbound_trigger;
mod messages;
mod metrics;
mod migrating;
mod namespaces;
mod online;
mod openapi;
mod operate;
mod outbound;
mod own_events;
mod partial;
mod pictures;
mod policy;
mod polling;
mod postgres;
mod propose;
mod quarantine;
mod reconnect;
mod rehearsal;
mod rekey;
mod reload;
mod replicas;
mod replicas_steered;
mod rest_hooks;
mod schema;
mod secrets;
mod seeds;
mod slack;
mod spec;
mod spec_answers;
mod spec_backlog;
mod spec_breaker;
mod spec_clocks;
mod spec_gathering;
mod spec_lanes;
mod spec_moves;
mod spec_order;
mod spec_policies;
mod spec_replay;
mod spec_retention;
mod spec_rules;
mod spec_states;
mod spec_subscriptions;
mod store;
mod store_tls;
mod storm;
mod stream;
mod subscriptions;
mod subscriptions_guarded;
mod succession;
mod tokens;
mod trial;
mod versions;
mod webhooks;
mod whatsapp;
