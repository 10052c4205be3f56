//! Promises about who goes before whom in a lane, and about moving a lane.

use super::*;

const KEY: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];

impl Bench {
    /// Takes in an event for `target` with this key and severity; gives its delivery.
    async fn ranked(&self, id: &str, target: &str, order_key: Option<[u8; 16]>, severity: Severity) -> DeliveryId {
        let planned = NewDelivery { order_key, severity, ..NewDelivery::to(target.into()) };
        let event = NewEvent { deliveries: vec![planned], ..self.event(id) };
        DeliveryId { event: self.accept(event).await, n: 1 }
    }

    async fn ordered(&self, id: &str, key: [u8; 16]) -> DeliveryId {
        self.ranked(id, "crm", Some(key), Severity::Info).await
    }

    async fn next_due(&self, except: &[DeliveryId]) -> Option<Timestamp> {
        self.store.next_due(&"crm".into(), except.to_vec()).await.unwrap()
    }

    async fn due_but(&self, except: &[DeliveryId]) -> Vec<DeliveryId> {
        let due = self.store.due(&"crm".into(), self.clock.now(), 100, except.to_vec()).await.unwrap();
        due.into_iter().map(|due| due.delivery.id).collect()
    }

    /// Adopts until nothing more moves; gives how many did.
    async fn adopt(&self, old: &str, new: &str) -> u64 {
        let mut sum = 0;
        loop {
            match self.store.adopt(&old.into(), &new.into()).await.unwrap() {
                0 => return sum,
                moved => sum += moved,
            }
        }
    }
}

pub(crate) async fn critical_ones_go_first(bench: Bench) {
    let info = bench.ranked("evt_1", "crm", None, Severity::Info).await;
    bench.clock.advance(seconds(1));
    let warning = bench.ranked("evt_2", "crm", None, Severity::Warning).await;
    let critical = bench.ranked("evt_3", "crm", None, Severity::Critical).await;
    bench.clock.advance(seconds(1));
    let another = bench.ranked("evt_4", "crm", None, Severity::Critical).await;
    assert_eq!(bench.due("crm").await, [critical, another, info, warning]);
    assert_eq!(bench.delivery(critical).await.unwrap().severity, Severity::Critical);
    // What falls due next is told whatever its severity.
    bench.recorded(critical, 1, Next::Retry(later(&bench, 60))).await;
    bench.recorded(another, 1, Next::Retry(later(&bench, 90))).await;
    assert_eq!(bench.next_due(&[info, warning]).await, Some(later(&bench, 60)));
    assert_eq!(bench.due("crm").await, [info, warning]);
}

fn later(bench: &Bench, s: u64) -> Timestamp {
    crate::clock::later(bench.clock.now(), seconds(s))
}

pub(crate) async fn of_one_order_key_only_the_earliest_is_due(bench: Bench) {
    let first = bench.ordered("evt_1", KEY).await;
    let second = bench.ordered("evt_2", KEY).await;
    let third = bench.ordered("evt_3", KEY).await;
    let other = bench.ordered("evt_4", OTHER).await;
    let elsewhere = bench.ranked("evt_5", "n8n", Some(KEY), Severity::Info).await;
    assert_eq!(bench.due("crm").await, [first, other]);
    assert_eq!(bench.due("n8n").await, [elsewhere], "a key orders one lane");
    assert_eq!(bench.delivery(first).await.unwrap().order_key, Some(KEY));
    bench.recorded(first, 1, Next::Delivered).await;
    let bench = bench.restart().await;
    assert_eq!(bench.due("crm").await, [second, other]);
    bench.recorded(second, 1, Next::Dead(Cause::Receiver)).await;
    assert_eq!(bench.due("crm").await, [third, other], "a dead one releases its key");
}

pub(crate) async fn a_head_in_hand_or_retrying_holds_its_key(bench: Bench) {
    let first = bench.ordered("evt_1", KEY).await;
    let second = bench.ordered("evt_2", KEY).await;
    assert_eq!(bench.due_but(&[first]).await, []);
    assert_eq!(bench.next_due(&[first]).await, None, "nothing falls due behind what is in hand");
    bench.recorded(first, 1, Next::Retry(later(&bench, 60))).await;
    assert_eq!(bench.due("crm").await, []);
    assert_eq!(bench.next_due(&[]).await, Some(later(&bench, 60)));
    bench.recorded(first, 2, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, [second]);
    let third = bench.ordered("evt_3", KEY).await;
    bench.recorded(second, 1, Next::Delivered).await;
    bench.recorded(third, 1, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, []);
    let fourth = bench.ordered("evt_4", KEY).await;
    assert_eq!(bench.due("crm").await, [fourth], "nobody is left before it");
}

pub(crate) async fn critical_ones_wait_for_their_own_key(bench: Bench) {
    let first = bench.ordered("evt_1", KEY).await;
    let critical = bench.ranked("evt_2", "crm", Some(KEY), Severity::Critical).await;
    let plain = bench.planned("evt_3", "crm").await;
    assert_eq!(bench.due("crm").await, [first, plain]);
    bench.recorded(first, 1, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, [critical, plain]);
}

pub(crate) async fn a_lane_is_adopted_whole(bench: Bench) {
    let first = bench.ranked("evt_1", "old", Some(KEY), Severity::Info).await;
    let second = bench.ranked("evt_2", "old", Some(KEY), Severity::Info).await;
    let plain = bench.planned("evt_3", "old").await;
    let [dead, done, resolved] =
        [bench.planned("evt_4", "old").await, bench.planned("evt_5", "old").await, bench.planned("evt_6", "old").await];
    bench.recorded(dead, 1, Next::Dead(Cause::Receiver)).await;
    bench.recorded(resolved, 1, Next::Dead(Cause::Receiver)).await;
    bench.recorded(done, 1, Next::Delivered).await;
    let resolution = Resolution { at: bench.clock.now(), note: "seen".into() };
    assert!(bench.store.resolve(resolved, resolution).await.unwrap());
    bench.recorded(first, 1, Next::Retry(later(&bench, 60))).await;
    assert_eq!(bench.adopt("old", "crm").await, 4);
    assert_eq!(bench.adopt("old", "crm").await + bench.adopt("crm", "crm").await + bench.adopt("nobody", "crm").await, 0);
    assert_eq!((bench.due("old").await, bench.due("crm").await), (vec![], vec![plain]));
    let target = async |id| bench.delivery(id).await.unwrap().target.to_string();
    assert_eq!((target(dead).await, target(done).await, target(resolved).await), ("crm".into(), "old".into(), "old".into()));
    bench.recorded(first, 2, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, [second, plain]);
}

pub(crate) async fn what_is_adopted_waits_behind_a_head_of_its_key(bench: Bench) {
    let [old, older] = [
        bench.ranked("evt_1", "old", Some(KEY), Severity::Info).await,
        bench.ranked("evt_2", "old", Some(KEY), Severity::Info).await,
    ];
    let head = bench.ordered("evt_3", KEY).await;
    assert_eq!(bench.adopt("old", "crm").await, 2);
    assert_eq!(bench.due("crm").await, [head], "it may be under way");
    bench.recorded(head, 1, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, [old]);
    bench.recorded(old, 1, Next::Delivered).await;
    assert_eq!(bench.due("crm").await, [older]);
}

pub(crate) async fn forty_thousand_are_adopted_and_a_long_key_is_no_burden(bench: Bench) {
    const COUNT: usize = 40_000;
    let mut accepts = tokio::task::JoinSet::new();
    for n in 0..COUNT {
        let planned = NewDelivery { order_key: (n % 2 == 0).then_some(KEY), ..NewDelivery::to("old".into()) };
        let (store, event) = (bench.store.clone(), NewEvent { deliveries: vec![planned], ..bench.event(&format!("evt_{n}")) });
        accepts.spawn(async move { store.accept(event).await.unwrap() });
        if n % 1000 == 999 {
            while accepts.join_next().await.is_some() {}
        }
    }
    let began = std::time::Instant::now();
    assert_eq!(bench.adopt("old", "crm").await, COUNT as u64);
    assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
    // Behind one head stand 20,000: neither asking nor recording walks over them.
    let began = std::time::Instant::now();
    for n in 0..200_u32 {
        let due = bench.store.due(&"crm".into(), bench.clock.now(), 2, Vec::new()).await.unwrap();
        let ordered = due.iter().filter(|due| due.delivery.order_key.is_some()).count();
        assert!(ordered <= 1 && due.len() == 2, "{n}");
        for due in due {
            bench.recorded(due.delivery.id, 1, Next::Delivered).await;
        }
        bench.next_due(&[]).await;
    }
    assert!(began.elapsed() < seconds(10), "{:?}", began.elapsed());
}
