//! Promise 1 for those who subscribe and unsubscribe all the while: clients edit what they want again and again, in both dialects and both
//! orders, with several subscriptions for one URL, events come in, and the relay is killed in the middle of all that.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    crash::{Plan, Sending, random, send_through_kills},
    support::{Answer, Home, Received, Receiver, Relay, SOON, relay, signed::hex_mac, subscribed::open_routes, until},
};

/// The types of the events that are sent, in turn.
const TYPES: [&str; 2] = ["dataset.updated", "recipe.run.failed"];
/// What one lane has in hand: attempts under way at once (`effective.rs`), and those that have ended and are not recorded yet (`lane.rs`).
const IN_HAND: usize = 8 + 256;
const PLAN: Plan = Plan {
    events: 3000,
    kills: 8,
    event: |id, n| json!({"id": id, "type": TYPES[n % 2], "timestamp": "2026-01-20T12:00:00Z", "data": {"n": n}}).to_string(),
};

/// What signs deliveries of subscriptions to `kind`, in the dialect that takes secrets.
fn secret_of(kind: &str) -> String {
    format!("secret-of-{kind}")
}

/// How a client edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// One of Interactor's: deleted, then made anew.
    DeletesFirst,
    /// One of Interactor's: made anew, then the former one is deleted.
    CreatesFirst,
    /// One of Honeyframe's for each type, edited in any way.
    Pair,
}

/// One who edits. It never has less than it wants, but for what is in grace.
struct Client {
    habit: Habit,
    receiver: Receiver,
    sending: Arc<Sending>,
    http: reqwest::Client,
    /// What it knows that it has, and what each wants.
    has: BTreeMap<String, &'static str>,
    edits: usize,
}

impl Client {
    async fn begins(habit: Habit, sending: &Arc<Sending>) -> Self {
        let receiver = Receiver::ok().await;
        let mut client =
            Self { habit, receiver, sending: Arc::clone(sending), http: relay::client(), has: BTreeMap::new(), edits: 0 };
        for kind in client.kinds() {
            client.creates(kind).await;
        }
        client
    }

    /// What each of its subscriptions wants.
    fn kinds(&self) -> Vec<&'static str> {
        if self.habit == Habit::Pair { TYPES.to_vec() } else { vec!["**"] }
    }

    fn path(&self) -> &'static str {
        if self.habit == Habit::Pair { "/api/webhooks" } else { "/api/v1/webhooks" }
    }

    /// Edits until all was sent.
    async fn edits(mut self) -> Self {
        while !self.sending.over.load(Ordering::Relaxed) {
            let kinds = self.kinds();
            match self.habit {
                Habit::DeletesFirst => self.deletes_first(&kinds, &kinds).await,
                Habit::CreatesFirst => self.creates_first(kinds[0]).await,
                Habit::Pair => match random() % 4 {
                    0 => self.deletes_first(&kinds[..1], &kinds[..1]).await,
                    1 => self.deletes_first(&kinds, &kinds).await,
                    2 => self.deletes_first(&kinds, &[kinds[1], kinds[0]]).await,
                    _ => self.creates_first(kinds[1]).await,
                },
            }
            self.edits += 1;
            self.rests().await;
        }
        self
    }

    async fn deletes_first(&mut self, deleted: &[&'static str], made: &[&'static str]) {
        for kind in deleted {
            let id = self.one_for(kind);
            self.deletes(&id).await;
            self.rests().await;
        }
        for kind in made {
            self.creates(kind).await;
            self.rests().await;
        }
    }

    async fn creates_first(&mut self, kind: &'static str) {
        let former = self.one_for(kind);
        self.creates(kind).await;
        self.rests().await;
        self.deletes(&former).await;
    }

    fn one_for(&self, kind: &str) -> String {
        self.has.iter().find(|(_, wants)| **wants == kind).unwrap().0.clone()
    }

    /// A moment in which events come.
    async fn rests(&self) {
        tokio::time::sleep(Duration::from_micros((random() / 2).into())).await;
    }

    /// Makes one; where no answer tells whether it was made, looks whether it is there.
    async fn creates(&mut self, kind: &'static str) {
        let body = match self.habit {
            Habit::Pair => json!({"event_type": kind, "target_url": self.receiver.url(), "secret": secret_of(kind)}),
            _ => json!({"url": self.receiver.url(), "events": [kind]}),
        };
        let id = loop {
            match self.asks("POST", self.path(), Some(&body)).await {
                Some(answer) => {
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    let json = answer.json();
                    let made = if self.habit == Habit::Pair { &json } else { &json["data"] };
                    break made["id"].as_str().unwrap().to_owned();
                }
                None => {
                    if let Some(id) = self.finds(kind).await {
                        break id;
                    }
                }
            }
        };
        self.has.insert(id, kind);
    }

    /// One that it has for `kind` without knowing.
    async fn finds(&self, kind: &str) -> Option<String> {
        let answer = loop {
            if let Some(answer) = self.asks("GET", self.path(), None).await {
                break answer;
            }
        };
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut json = answer.json();
        let (all, url, wants): (Value, _, fn(&Value) -> &Value) = match self.habit {
            Habit::Pair => (json["webhooks"].take(), "target_url", |it| &it["event_type"]),
            _ => (json["data"]["webhooks"].take(), "url", |it| &it["events"][0]),
        };
        let mut ours = all.as_array().unwrap().iter().filter(|it| it[url] == self.receiver.url().as_str() && *wants(it) == kind);
        ours.find_map(|it| Some(it["id"].as_str()?.to_owned()).filter(|id| !self.has.contains_key(id)))
    }

    async fn deletes(&mut self, id: &str) {
        loop {
            if let Some(answer) = self.asks("DELETE", &format!("{}/{id}", self.path()), None).await {
                assert!([200, 404].contains(&answer.status), "{} {}", answer.status, answer.text());
                break;
            }
        }
        self.has.remove(id);
    }

    /// Asks once; `None`: the relay went, and nobody knows whether it was done.
    async fn asks(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let (_, admin) = self.sending.addr().await;
        let mut request = self.http.request(method.parse().unwrap(), format!("http://{admin}{path}")).bearer_auth(relay::TOKEN);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = async { Answer::try_read(request.send().await?).await }.await;
        if answer.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        answer.ok()
    }

    /// Every acknowledged event has come, none more often than it may; answers how often one came again because of a kill.
    async fn has_all(&self, acknowledged: &BTreeSet<String>, kills: usize) -> usize {
        let what = format!("all {} events for {:?}", acknowledged.len(), self.habit);
        let come = || self.receiver.seen().iter().map(event_of).collect::<BTreeSet<_>>();
        until(&what, SOON * 2, async || acknowledged.is_subset(&come()).then_some(())).await;
        let mut deliveries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let seen = self.receiver.seen();
        for request in &seen {
            deliveries.entry(event_of(request)).or_default().insert(request.header("idempotency-key").to_owned());
            if self.habit == Habit::Pair {
                let body = request.json();
                let signed = format!("sha256={}", hex_mac(&secret_of(body["type"].as_str().unwrap()), &[&request.body]));
                assert_eq!(request.header("x-honeyframe-signature"), signed, "signed for those who want {}", body["type"]);
            }
        }
        // Whoever makes one before he deletes the other has both for a moment: each gets what comes then.
        let most = if self.habit == Habit::DeletesFirst { 1 } else { 2 };
        let more: Vec<_> = deliveries.iter().filter(|(_, deliveries)| most < deliveries.len()).collect();
        assert!(more.is_empty(), "{:?}: more than {most} deliveries of one event: {more:?}", self.habit);
        let repeated = seen.len() - deliveries.values().map(BTreeSet::len).sum::<usize>();
        // A kill takes the records of what is in hand: for those that are there, and for their predecessors.
        let lanes = 2 * self.kinds().len();
        assert!(repeated <= kills * lanes * IN_HAND, "{:?}: {repeated} came again", self.habit);
        self.came_again_by_kills_alone(&seen);
        repeated
    }

    /// Whatever came again did so because the relay was killed in between.
    fn came_again_by_kills_alone(&self, seen: &[Received]) {
        let down = self.sending.down.lock().unwrap();
        let mut last: BTreeMap<&str, Instant> = BTreeMap::new();
        for request in seen {
            if let Some(before) = last.insert(request.header("idempotency-key"), request.at) {
                let in_between = |(killed, up): &(Instant, Instant)| before <= *up && *killed <= request.at;
                assert!(down.iter().any(in_between), "{:?}: sent twice by one process: {}", self.habit, request.text());
            }
        }
    }
}

fn event_of(request: &Received) -> String {
    request.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn nobody_who_edits_what_he_wants_loses_an_event_though_the_relay_is_killed() {
    let home = Home::new();
    let relay = Relay::start_in(&home, &open_routes()).await;
    let routes = open_routes().on(&relay.public.to_string(), &relay.admin.to_string());
    let sending = Sending::to(&relay, PLAN);
    let mut editing = tokio::task::JoinSet::new();
    for habit in [Habit::DeletesFirst, Habit::CreatesFirst, Habit::Pair] {
        let client = Client::begins(habit, &sending).await;
        editing.spawn(client.edits());
    }
    let (relay, kills) = send_through_kills(&home, relay, &routes, &sending).await;
    let clients = editing.join_all().await;
    let acknowledged = sending.acknowledged.lock().unwrap().clone();
    assert_eq!((acknowledged.len(), kills), (PLAN.events, PLAN.kills));
    for client in &clients {
        let repeated = client.has_all(&acknowledged, kills).await;
        let (habit, edits, came) = (client.habit, client.edits, client.receiver.count());
        // Past the capture of passing tests: this line is for the reader.
        let _ =
            writeln!(std::io::stderr(), "storm: {habit:?}: {edits} edits, {came} came, {repeated} of them again, {kills} kills");
        assert!(kills < edits, "{habit:?} edited {edits} times only");
    }
    until("nothing to wait", SOON, async || {
        let rows = relay.all("/api/v1/deliveries?state=pending").await;
        rows.is_empty().then_some(())
    })
    .await;
    let left = relay.data("/api/v1/webhooks").await["webhooks"].as_array().unwrap().len();
    assert_eq!(left, clients.iter().map(|client| client.has.len()).sum::<usize>(), "none that nobody knows of");
}
