//! Three relays on one PostgreSQL, and people who ask any of them: lanes are paused, resumed and closed, what waits is cancelled and
//! retried, and jobs are done by one of them, whichever is killed or leaves. What an owner does that cannot renew its lease.

use std::{
    collections::BTreeMap,
    io::Write,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::{
    Home, Receiver, Relay, Reply, SOON,
    app::MINUTELY,
    fleet::{Delays, Fleet, HELD_WITHIN, lane, send_until_taken, sends_to, tells},
    honeyframe::{Honeyframe, polled},
    relay, routes,
    signed::{event, interactor},
    store::asks,
    throughout, until,
};

/// How often each thing is done: the soonest of each counts.
const ROUNDS: usize = 3;
/// How long is watched that nothing is sent.
const WATCH: Duration = Duration::from_millis(700);
/// Lanes beside one that is slow: whoever has that one has some of these.
const LANES: usize = 12;

/// Waits until every relay says that the lane of `crm` fits; all of them the same.
async fn all_say(fleet: &Fleet, delays: &mut Delays, what: &'static str, fits: impl Fn(&Value) -> bool) {
    delays
        .until(what, async || {
            let mut rows = Vec::new();
            for (_, relay) in fleet.running() {
                rows.push(lane(relay, "crm").await);
            }
            let same = |key: &str| rows.iter().all(|row| row[key] == rows[0][key]);
            let told = ["state", "since", "cause", "paused_by", "next_probe_at", "backlog"];
            (rows.iter().all(&fits) && told.into_iter().all(same)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_asked_of_any_replica_holds_on_all_and_survives_a_takeover() {
    let crm = Receiver::ok().await;
    let mut fleet = Fleet::start(Home::in_postgres(), routes().interactor().webhook_with("crm", &crm, MINUTELY), 3).await;
    let mut delays = Delays::default();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let owner = fleet.owner("crm").await;
        let others: Vec<usize> = fleet.running().map(|(n, _)| n).filter(|n| *n != owner).collect();
        tells(fleet.at(others[0]), "crm", "pause").await;
        all_say(&fleet, &mut delays, "a pause", |row| row["state"] == "paused" && row["paused_by"].is_string()).await;
        for (n, relay) in fleet.running() {
            relay.accepts(&interactor(event(&format!("evt_{round}_{n}")))).await;
        }
        all_say(&fleet, &mut delays, "what waits", |row| row["backlog"] == 3).await;
        throughout("nothing to be sent while it is paused", WATCH, async || crm.count() == sent).await;
        fleet.replace(owner, true).await;
        let heir = fleet.owner("crm").await;
        all_say(&fleet, &mut delays, "a pause after a takeover", |row| row["state"] == "paused" && row["backlog"] == 3).await;
        throughout("nothing to be sent after a takeover", WATCH, async || crm.count() == sent).await;
        let other = fleet.running().map(|(n, _)| n).find(|n| *n != heir).unwrap();
        tells(fleet.at(other), "crm", "resume").await;
        sent += 3;
        delays.until("a lane to go on", async || (crm.count() == sent).then_some(())).await;
        all_say(&fleet, &mut delays, "a lane that goes on", |row| row["state"] == "ok" && row["backlog"] == 0).await;
    }
    assert_eq!(crm.distinct("idempotency-key").len(), crm.count(), "nothing twice");
    delays.are_within(HELD_WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_lane_is_shown_by_all_and_closed_retried_and_cancelled_by_any() {
    // The first of each round is denied, which breaks the target; one dies.
    let crm = Receiver::answering(|request, _| {
        let json = request.json();
        match json["data"]["then"].as_str() {
            Some("dies") if request.header("x-hookyard-attempt") == "1" => 400.into(),
            Some("denied") if request.header("x-hookyard-attempt") == "1" => 401.into(),
            _ => 200.into(),
        }
    })
    .await;
    let fleet = Fleet::start(Home::in_postgres(), routes().interactor().webhook_with("crm", &crm, MINUTELY), 3).await;
    let mut delays = Delays::default();
    let takes = async |relay: &Relay, id: String, then: &str| {
        let body = json!({"id": id, "type": "x.y", "data": {"then": then}});
        relay.accepts(&interactor(body.to_string())).await;
    };
    for round in 0..ROUNDS {
        let owner = fleet.owner("crm").await;
        let other = fleet.running().map(|(n, _)| n).find(|n| *n != owner).unwrap();
        let (owner, other) = (fleet.at(owner), fleet.at(other));
        takes(other, format!("evt_dies_{round}"), "dies").await;
        let dead = async || other.all("/api/v1/dead-letters").await;
        let row = delays.until("a death", async || dead().await.pop()).await;
        let id = row["id"].as_str().unwrap();
        other.posts(&format!("/api/v1/dead-letters/{id}/retry"), &json!({})).await;
        let arrived = async || (other.data(&format!("/api/v1/deliveries/{id}")).await["state"] == "delivered").then_some(());
        delays.until("a retry", arrived).await;
        // Three different ones: the target has just worked.
        for n in 0..3 {
            takes(owner, format!("evt_denied_{round}_{n}"), "denied").await;
        }
        let denied = |row: &Value| row["state"] == "broken" && row["cause"] == "config" && row["last_error"] == "http_401";
        all_say(&fleet, &mut delays, "a breaker that opens", denied).await;
        tells(other, "crm", "close").await;
        all_say(&fleet, &mut delays, "a breaker that is closed", |row| row["state"] == "ok").await;
        // What was denied waits a minute: it is of no use to the next round.
        tells(owner, "crm", "pause").await;
        all_say(&fleet, &mut delays, "a pause", |row| row["state"] == "paused").await;
        let job = other.posts("/api/v1/targets/crm/cancel", &json!({})).await;
        let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
        until("what waits to be cancelled", SOON, async || (other.data(&path).await["state"] == "done").then_some(())).await;
        tells(other, "crm", "resume").await;
        all_say(&fleet, &mut delays, "a lane that goes on", |row| row["state"] == "ok" && row["backlog"] == 0).await;
    }
    delays.are_within(HELD_WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_elsewhere_while_it_waits_in_hand_is_not_sent() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook_with("crm", &crm, &format!("rate_limit: {{rate: 1/m, burst: 1}}, {MINUTELY}"));
    let fleet = Fleet::start(Home::in_postgres(), file, 2).await;
    let owner = fleet.owner("crm").await;
    // The owner takes these over from its own commits; the rate lets one of them go.
    for n in 0..20 {
        fleet.at(owner).accepts(&interactor(event(&format!("evt_{n}")))).await;
    }
    let other = fleet.at(1 - owner);
    let delivered = async || other.all("/api/v1/deliveries?state=delivered").await.len();
    until("the first to arrive", SOON, async || (delivered().await == 1).then_some(())).await;
    let job = other.posts("/api/v1/targets/crm/cancel", &json!({})).await;
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    until("what waits to be cancelled", SOON, async || (other.data(&path).await["state"] == "done").then_some(())).await;
    let cancelled = other.all("/api/v1/deliveries?state=cancelled").await.len();
    assert_eq!(cancelled, 19);
    // A rate that lets everything go shows what is still in hand.
    let crm_now = routes().interactor().webhook_with("crm", &crm, MINUTELY);
    fleet.home.write("routes.yaml", &fleet.home.of(crm_now).text());
    fleet.at(owner).posts("/api/v1/config/reload", &json!({})).await;
    throughout("nothing to be sent that was cancelled", 2 * WATCH, async || crm.count() == 1).await;
}

/// The job, as far as the relay knows of it.
async fn job_at(relay: &Relay, path: &str) -> Value {
    let answer = relay.get(path).await;
    if answer.status == 200 { answer.json()["data"].take() } else { Value::Null }
}

/// Events that are replayed.
const EVENTS: usize = 120;
/// How many of them in a second.
const RATE: usize = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_done_by_one_replica_shown_and_cancelled_by_all_and_outlives_the_one_that_does_it() {
    let (crm, audit) = (Receiver::ok().await, Receiver::ok().await);
    let file =
        routes().interactor().webhook("crm", &crm).webhook("audit", &audit).rule("name: all, match: {type: \"**\"}, to: [crm]");
    let mut fleet = Fleet::start(Home::in_postgres(), file, 3).await;
    let client = relay::client();
    for n in 0..EVENTS {
        send_until_taken(&client, &fleet.addrs, &event(&format!("evt_{n}"))).await;
    }
    until("them to arrive", SOON, async || (crm.distinct("webhook-id").len() == EVENTS).then_some(())).await;
    fleet.owner("audit").await;
    let wanted = json!({"target": "audit", "rate": format!("{RATE}/s")});
    let job = fleet.at(0).posts("/api/v1/replays", &wanted).await;
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let known = async |relay: &Relay| job_at(relay, &path).await;
    let done = |job: &Value| job["done"].as_u64().unwrap_or(0);
    let mut delays = Delays::default();
    for (_, relay) in fleet.running() {
        delays.until("a job to be known", async || (!known(relay).await.is_null()).then_some(())).await;
        until("all to see it go on", SOON, async || (RATE as u64 <= done(&known(relay).await)).then_some(())).await;
    }
    // Whichever does it is among those that are killed, one after the other; and one leaves in peace.
    for n in 0..3 {
        fleet.replace(n, n != 1).await;
        let before = done(&known(fleet.any()).await);
        until("somebody to go on with it", SOON, async || {
            let job = known(fleet.any()).await;
            (before < done(&job) || job["state"] == "done").then_some(())
        })
        .await;
    }
    for (_, relay) in fleet.running() {
        let ended =
            until("all to see that it is done", SOON, async || Some(known(relay).await).filter(|it| it["state"] == "done"));
        let ended = ended.await;
        assert_eq!((&ended["done"], &ended["made"], &ended["failed"]), (&json!(EVENTS), &json!(EVENTS), &json!(0)), "{ended}");
    }
    let any = fleet.any();
    let made = until("all to be delivered", SOON, async || {
        let rows = any.all("/api/v1/deliveries?target=audit").await;
        (rows.len() == EVENTS && rows.iter().all(|row| row["state"] == "delivered")).then_some(rows)
    })
    .await;
    let mut of_event: BTreeMap<&str, usize> = BTreeMap::new();
    made.iter().for_each(|row| *of_event.entry(row["event"].as_str().unwrap()).or_default() += 1);
    assert!(of_event.len() == EVENTS && of_event.values().all(|count| *count == 1), "no delivery was made twice");

    // Cancelled by one that does not do it, or does: each of them once.
    for n in 0..3 {
        let job = fleet.at(0).posts("/api/v1/replays", &json!({"target": "audit", "rate": "1/s"})).await;
        let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
        until("it to be known", SOON, async || (fleet.at(n).get(&path).await.status == 200).then_some(())).await;
        fleet.at(n).posts(&format!("{path}/cancel"), &json!({})).await;
        for (_, relay) in fleet.running() {
            let ended = async || (job_at(relay, &path).await["state"] == "cancelled").then_some(());
            delays.until("a job to be cancelled", ended).await;
        }
        let rows = async || any.all("/api/v1/deliveries?target=audit").await.len();
        let made = rows().await;
        throughout("nothing more to be made", 2 * WATCH, async || rows().await <= made + 1).await;
    }
    delays.are_within(HELD_WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_that_leaves_had_is_taken_at_once_and_so_is_what_a_killed_neighbour_had() {
    let crm = Receiver::ok().await;
    let mut fleet = Fleet::start(Home::in_postgres(), routes().interactor().webhook_with("crm", &crm, MINUTELY), 2).await;
    let mut delays = Delays::default();
    let mut sent = 0;
    let mut goes_on = async |fleet: &Fleet, delays: &mut Delays, what| {
        sent += 1;
        let began = Instant::now();
        fleet.any().accepts(&interactor(event(&format!("evt_{sent}")))).await;
        delays.until(what, async || (crm.count() == sent).then_some(())).await;
        let took = began.elapsed();
        // Who is killed before that is recorded sends it again.
        let any = fleet.any();
        until("it to be settled", SOON, async || any.all("/api/v1/deliveries?state=pending").await.is_empty().then_some(()))
            .await;
        took
    };
    for _ in 0..ROUNDS {
        let owner = fleet.owner("crm").await;
        let leaving = fleet.relays[owner].take().unwrap();
        assert!(leaving.stop().await.success());
        goes_on(&fleet, &mut delays, "what one had that left").await;
        fleet.relays[owner] = Some(Relay::start_in(&fleet.home, &fleet.file).await);
        let owner = fleet.owner("crm").await;
        fleet.kill(owner);
        goes_on(&fleet, &mut delays, "what one had that was killed").await;
        fleet.relays[owner] = Some(Relay::start_in(&fleet.home, &fleet.file).await);
    }
    // All of them, and one that is started again.
    fleet.kill(0);
    fleet.kill(1);
    fleet.relays[0] = Some(Relay::start_in(&fleet.home, &fleet.file).await);
    let took = goes_on(&fleet, &mut delays, "what the last had, by the next").await;
    let _ = writeln!(std::io::stderr(), "replicas: one that was killed went on {took:?} after it was started again");
    delays.are_within(Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_finishes_a_slow_attempt_holds_up_no_other_lane() {
    let (gate, crm) = (Arc::new(Semaphore::new(0)), Receiver::ok().await);
    let slow = {
        let gate = gate.clone();
        Receiver::answering(move |_, _| Reply::Gated(gate.clone())).await
    };
    let mut file = routes().interactor().server("shutdown_grace: 5m").webhook_with("slow", &slow, "timeout: 300s");
    for n in 0..LANES {
        file = file.webhook_with(&format!("crm{n}"), &crm, MINUTELY);
    }
    let mut fleet = Fleet::start(Home::in_postgres(), file, 2).await;
    let mut delays = Delays::default();
    // What is being handed over has a lease that ends.
    let replicas = async || fleet.any().data("/api/v1/replicas").await.as_array().unwrap().clone();
    let spread = async || replicas().await.iter().all(|it| it["shards"] == 128).then_some(());
    until("the lanes to be spread evenly", SOON, spread).await;
    let owner = fleet.owner("slow").await;
    fleet.at(owner).accepts(&interactor(event("evt_1"))).await;
    until("the first to be sent", SOON, async || (slow.count() == 1 && crm.count() == LANES).then_some(())).await;
    let mut leaving = fleet.relays[owner].take().unwrap();
    leaving.terminate().await;
    fleet.any().accepts(&interactor(event("evt_2"))).await;
    delays.until("what it had to go on elsewhere", async || (crm.count() == 2 * LANES).then_some(())).await;
    assert_eq!(slow.count(), 1, "what is under way is sent by nobody else");
    gate.add_permits(2);
    assert!(leaving.ended().await.success());
    until("the slow one to be taken over as well", SOON, async || (slow.count() == 2).then_some(())).await;
    assert_eq!(slow.distinct("idempotency-key").len(), 2);
    assert_eq!(crm.distinct("idempotency-key").len(), crm.count(), "nothing twice");
    delays.are_within(Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_asked_now_whichever_replica_is_told_to() {
    let ((_honeyframe, api), crm) = (Honeyframe::start().await, Receiver::ok().await);
    let source = polled(&api, "every: 6h, cursor: {query: since, path: $.finished_at}");
    let fleet = Fleet::start(Home::in_postgres(), routes().source("honeyframe", &source).webhook("crm", &crm), 3).await;
    api.wait_for(1).await;
    let asks = async |relay: &Relay| !relay.data("/api/v1/sources").await[0]["poll"]["next_poll_at"].is_null();
    let mut delays = Delays::default();
    for _ in 0..ROUNDS {
        for (_, relay) in fleet.running() {
            let before = api.count();
            relay.posts("/api/v1/sources/honeyframe/poll", &json!({})).await;
            delays.until("a source to be asked", async || (before < api.count()).then_some(())).await;
        }
    }
    // It may be on its way from one to another, which is asked after it.
    until("one to say that it asks, and the others that another does", SOON, async || {
        let mut asking = 0;
        for (_, relay) in fleet.running() {
            asking += usize::from(asks(relay).await);
        }
        (asking == 1).then_some(())
    })
    .await;
    delays.are_within(HELD_WITHIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_stood_still_past_its_lease_sends_nothing_of_it_afterwards() {
    let crm = Receiver::ok().await;
    let file = routes().interactor().webhook_with("crm", &crm, &format!("order_by: $.data.key, {MINUTELY}"));
    let fleet = Fleet::start(Home::in_postgres(), file, 2).await;
    let still = fleet.owner("crm").await;
    let addr = fleet.addrs.lock().unwrap()[1 - still];
    let (client, addrs) = (relay::client(), Mutex::new(vec![addr]));
    let (still, other) = (fleet.at(still), fleet.at(1 - still));
    let signal = async |name: &str| {
        let mut kill = Command::new("kill");
        kill.args([name, &still.process().to_string()]);
        assert!(relay::finish(kill).await.status.success());
    };
    let mut sent = 0;
    let mut sends = async |fits: &dyn Fn(bool, Duration) -> bool| {
        let began = Instant::now();
        loop {
            let body = json!({"id": format!("evt_{sent}"), "type": "x.y", "data": {"key": "k", "n": sent}});
            // Whoever stands still may do so within a transaction, which the database ends after a while: there is no room until then.
            send_until_taken(&client, &addrs, &body.to_string()).await;
            sent += 1;
            if fits(sends_to(&lane(other, "crm").await), began.elapsed()) {
                return sent;
            }
            assert!(began.elapsed() < SOON, "nobody took the lane");
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    sends(&|_, long| WATCH < long).await;
    signal("-STOP").await;
    sends(&|owns, _| owns).await;
    signal("-CONT").await;
    let sent = sends(&|_, long| 3 * WATCH < long).await;
    until("all of them to arrive", SOON, async || (crm.distinct("webhook-id").len() == sent).then_some(())).await;
    let numbers: Vec<i64> = crm.seen().iter().map(|request| request.json()["data"]["n"].as_i64().unwrap()).collect();
    // What was under way when it began to stand still is sent again, and everything goes on from there.
    let repeated = numbers.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(numbers.windows(2).all(|pair| pair[0] == pair[1] || pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(repeated <= 1, "{repeated} sent twice");
}

/// What an owner begins nothing new in, at the end of its lease.
const LAST: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_cannot_renew_begins_nothing_in_the_last_five_seconds_and_breaks_off_at_the_end() {
    // The first attempt at this one, which comes before any other, never ends.
    let crm = Receiver::answering(|_, before| if before == 0 { Reply::Never } else { 200.into() }).await;
    let file = routes().interactor().webhook_with("crm", &crm, &format!("timeout: 300s, {MINUTELY}"));
    let mut fleet = Fleet::start(Home::in_postgres(), file, 1).await;
    let owner = fleet.owner("crm").await;
    fleet.at(owner).accepts(&interactor(event("evt_held"))).await;
    crm.wait_for(1).await;
    let url = fleet.home.store_url();
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.owner = TG_ARGV[0]::bigint THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
        DO $$ BEGIN EXECUTE format('CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON owners FOR EACH ROW EXECUTE FUNCTION refuse(%L)',
            (SELECT owner FROM owners)); END $$";
    asks(&url, refuse);
    // Another is there to take what it loses. It goes on taking events in.
    fleet.relays.push(Some(Relay::start_in(&fleet.home, &fleet.file).await));
    let (client, addrs) = (relay::client(), fleet.addrs.clone());
    let mut sent = 1;
    let began = Instant::now();
    while !sends_to(&lane(fleet.at(1), "crm").await) {
        assert!(began.elapsed() < SOON, "nobody took the lane");
        send_until_taken(&client, &addrs, &event(&format!("evt_{sent}"))).await;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("all of them to arrive", SOON, async || (crm.distinct("webhook-id").len() == sent).then_some(())).await;
    let any = fleet.at(1);
    until("all to be settled", SOON, async || any.all("/api/v1/deliveries?state=pending").await.is_empty().then_some(())).await;
    let seen = crm.seen();
    let held: Vec<_> = seen.iter().filter(|request| request.header("webhook-id") == "evt_held").collect();
    let mut times: Vec<Instant> = seen.iter().map(|request| request.at).collect();
    times.sort_unstable();
    let (pause, goes_on) = times.windows(2).map(|pair| (pair[1] - pair[0], pair[1])).max().unwrap();
    let _ = writeln!(std::io::stderr(), "replicas: {sent} sent, none for {pause:?} while a lease ended");
    assert!(LAST.mul_f64(0.9) <= pause, "{pause:?}");
    assert_eq!((held.len(), seen.len()), (2, sent + 1), "what was under way is sent again, and nothing else");
    assert_eq!(held[0].header("idempotency-key"), held[1].header("idempotency-key"));
    assert!(goes_on <= held[1].at, "not before the lease had ended");
    let log = fleet.at(owner).log_text();
    assert!(log.contains("cannot be renewed") && log.contains("no longer owned"), "{log}");
    assert!(!sends_to(&lane(fleet.at(owner), "crm").await), "it knows that the lane is another's");
}
