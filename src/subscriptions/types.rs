//! Which event types are known: those of the seeds, those the file names, and those that were received. What a subscription names must
//! fit one of them, so that a typing error is told and not waited for.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{PoisonError, RwLock},
};

use serde_json::{Map, Value};

use super::section::{TYPE_MAX, is_type};
use crate::{
    live::Live,
    route::{OWN_SOURCE, glob::Glob},
    samples,
    store::{self, Filter, Page, Store},
};

/// Pairs of a type and a namespace that are remembered of what was received. Further ones are not: a sender must not fill the memory.
const SEEN_MAX: usize = 20_000;
/// Newest events that are looked at besides: those of the last seconds before a relay was killed, and those of a store of an earlier
/// version.
const LOOKED_AT: u32 = 10_000;
/// Events that are read at once.
const PAGE: u32 = 1000;
/// Where the store keeps what was received.
const KEY: &str = "types.seen";

/// Honeyframe's own types (webhooks page, "What's planned").
const HONEYFRAME: [&str; 4] = ["dataset.updated", "recipe.run.failed", "dashboard.published", "audit.security_event"];

/// All that is known. One per relay.
#[derive(Debug)]
pub struct EventTypes {
    file: Live<Vec<String>>,
    seen: RwLock<Seen>,
}

/// What was received: by type, the namespaces of its events; "" for none.
#[derive(Debug, Default)]
struct Seen {
    types: HashMap<Box<str>, BTreeSet<Box<str>>>,
    pairs: usize,
    /// There is something that the store does not hold yet.
    news: bool,
}

impl EventTypes {
    /// Those of the seeds and of `file`.
    pub fn new(file: Vec<String>) -> Self {
        Self { file: Live::new(file.into()), seen: RwLock::default() }
    }

    /// Reads what was received by earlier runs.
    pub(super) async fn restore(&self, store: &dyn Store) -> store::Result<()> {
        let kept = store.setting(KEY).await?;
        for (r#type, namespace) in kept.as_deref().map(read).unwrap_or_default() {
            self.saw(&r#type, namespace.as_deref());
        }
        // Of what the store knows already there is nothing to keep.
        self.seen.write().unwrap_or_else(PoisonError::into_inner).news = false;
        let (mut page, mut left) = (Page::Newest, LOOKED_AT);
        while 0 < left {
            let filter = Filter { page, limit: PAGE.min(left), except_source: Some(OWN_SOURCE.to_owned()), ..Filter::default() };
            let rows = store.events(filter).await?;
            let Some(last) = rows.last() else { break };
            page = Page::Before(last.uid.seq);
            left = left.saturating_sub(PAGE);
            rows.iter().for_each(|row| self.saw(&row.envelope.r#type, row.envelope.namespace.as_deref()));
        }
        Ok(())
    }

    /// Keeps what was received, where there is news.
    pub(super) async fn keep(&self, store: &dyn Store) -> store::Result<()> {
        let text = {
            let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut seen.news) {
                return Ok(());
            }
            written(&seen)
        };
        let kept = store.set_setting(KEY, text).await;
        if kept.is_err() {
            self.seen.write().unwrap_or_else(PoisonError::into_inner).news = true;
        }
        kept
    }

    /// Goes by another file.
    pub(super) fn follow(&self, file: Vec<String>) {
        self.file.replace(file.into());
    }

    /// An event of this type and namespace was received.
    pub fn saw(&self, r#type: &str, namespace: Option<&str>) {
        let namespace = namespace.unwrap_or_default();
        {
            let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
            if SEEN_MAX <= seen.pairs || seen.types.get(r#type).is_some_and(|known| known.contains(namespace)) {
                return;
            }
        }
        // What nobody could subscribe to by name need not be known.
        if !is_type(r#type) || TYPE_MAX < namespace.len() || is_own(r#type) {
            return;
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if seen.types.entry(r#type.into()).or_default().insert(namespace.into()) {
            seen.pairs += 1;
            seen.news = true;
        }
    }

    /// Whether anything was received of `namespace`, as far as it is remembered.
    pub(super) fn knows(&self, namespace: &str) -> bool {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).types.values().any(|of| of.contains(namespace))
    }

    /// Nothing of `namespace` is remembered from now on, until more is received. The store, too, forgets it with the next
    /// [`EventTypes::keep`], whoever wrote it there.
    pub(super) fn forget(&self, namespace: &str) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let Seen { types, pairs, news } = &mut *seen;
        types.retain(|_, of| {
            *pairs -= usize::from(of.remove(namespace));
            !of.is_empty()
        });
        *news = true;
    }

    /// Whether an event that `glob` fits can come, as far as somebody bound to `namespaces` may know.
    pub fn fits(&self, glob: &Glob, namespaces: Option<&BTreeSet<String>>) -> bool {
        if fixed().any(|known| glob.matches(known)) || self.file.now().iter().any(|known| glob.matches(known)) {
            return true;
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        match glob.exact() {
            Some(exact) => seen.types.get(exact).is_some_and(|of| shown(of, namespaces)),
            None => seen.types.iter().any(|(known, of)| glob.matches(known) && shown(of, namespaces)),
        }
    }

    /// All that somebody bound to `namespaces` may know: the seeds' in their order, then the file's, then others by name.
    pub fn list(&self, namespaces: Option<&BTreeSet<String>>) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let file = self.file.now();
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let received = seen.types.iter().filter(|(_, of)| shown(of, namespaces));
        let mut received: Vec<String> = received.map(|(known, _)| (**known).to_owned()).collect();
        received.sort_unstable();
        let mut listed = BTreeSet::new();
        let known = fixed().map(str::to_owned).chain(file.iter().cloned()).chain(received);
        for known in known {
            if listed.insert(known.clone()) {
                all.push(known);
            }
        }
        all
    }
}

/// Whether the relay tells it of itself: no subscription gets it.
fn is_own(r#type: &str) -> bool {
    r#type.starts_with("relay.")
}

fn fixed() -> impl Iterator<Item = &'static str> {
    seeds().into_iter().chain(HONEYFRAME)
}

/// In the order in which the seeds list them ("Event Types"). Their examples, which the samples are, have the workflow that halts before
/// those that end.
fn seeds() -> [&'static str; samples::ALL.len()] {
    let mut types = samples::ALL.map(|sample| sample.r#type);
    let at = |wanted: &str| types.iter().position(|known| *known == wanted);
    if let (Some(halted), Some(failed)) = (at("workflow.instance.halted"), at("workflow.instance.failed"))
        && let Some(between) = types.get_mut(halted..=failed)
    {
        between.rotate_left(1);
    }
    types
}

/// Whether a type of which events of these namespaces came may be known to somebody bound to `own`.
fn shown(of: &BTreeSet<Box<str>>, own: Option<&BTreeSet<String>>) -> bool {
    own.is_none_or(|own| own.iter().any(|namespace| of.contains(namespace.as_str())))
}

fn written(seen: &Seen) -> String {
    let types = seen.types.iter().map(|(known, of)| {
        let of = of.iter().map(|namespace| Value::from(&**namespace)).collect();
        ((**known).to_owned(), Value::Array(of))
    });
    Value::Object(types.collect::<Map<_, _>>()).to_string()
}

fn read(text: &str) -> Vec<(String, Option<String>)> {
    let Ok(Value::Object(types)) = serde_json::from_str(text) else { return Vec::new() };
    let mut pairs = Vec::new();
    for (known, of) in types {
        for namespace in of.as_array().into_iter().flatten().filter_map(Value::as_str) {
            pairs.push((known.clone(), Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty())));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Clock,
        envelope::{Envelope, tests::sample},
        store::{DedupeKey, NewEvent, Remember},
    };

    fn glob(text: &str) -> Glob {
        Glob::parse(text).unwrap()
    }

    fn bound(to: &str) -> BTreeSet<String> {
        [to.to_owned()].into()
    }

    #[test]
    fn seeds_file_and_what_came_are_known() {
        let types = EventTypes::new(vec!["invoice.paid".to_owned()]);
        types.saw("order.shipped", Some("acme"));
        for good in ["credential.expired", "credential.*", "recipe.run.failed", "invoice.*", "order.shipped", "**", "**.shipped"]
        {
            assert!(types.fits(&glob(good), None), "{good}");
        }
        for bad in ["credential.expird", "order.sold", "relay.**", "relay.delivery.dead", "invoice"] {
            assert!(!types.fits(&glob(bad), None), "{bad}");
        }
        let list = types.list(None);
        assert_eq!(list.first().map(String::as_str), Some("credential.created"));
        assert_eq!(list.iter().filter(|it| it.starts_with("order.") || it.starts_with("invoice.")).count(), 2);
    }

    #[test]
    fn what_came_for_others_is_not_known_to_a_bound_token() {
        let types = EventTypes::new(Vec::new());
        types.saw("order.shipped", Some("acme"));
        types.saw("order.returned", None);
        assert!(
            types.fits(&glob("order.shipped"), Some(&bound("acme")))
                && !types.fits(&glob("order.returned"), Some(&bound("acme")))
        );
        assert!(!types.fits(&glob("order.*"), Some(&bound("other"))));
        assert!(!types.list(Some(&bound("other"))).iter().any(|it| it.starts_with("order.")));
        assert!(types.fits(&glob("credential.expired"), Some(&bound("other"))));
    }

    #[test]
    fn no_sender_fills_the_memory_and_the_relays_own_are_not_kept() {
        let types = EventTypes::new(Vec::new());
        for n in 0..SEEN_MAX + 10 {
            types.saw(&format!("t.{n}"), None);
        }
        types.saw("relay.delivery.dead", None);
        assert_eq!(types.seen.read().unwrap().pairs, SEEN_MAX);
        assert!(!types.fits(&glob("relay.delivery.dead"), None));
    }

    #[test]
    fn what_is_forgotten_of_a_namespace_stays_of_others() {
        let types = EventTypes::new(Vec::new());
        for (r#type, namespace) in [("order.shipped", "acme"), ("order.shipped", "other"), ("acme.returned", "acme")] {
            types.saw(r#type, Some(namespace));
        }
        types.forget("acme");
        assert!(!types.knows("acme") && types.knows("other"));
        let seen = types.seen.read().unwrap();
        assert_eq!((written(&seen), seen.pairs), (r#"{"order.shipped":["other"]}"#.to_owned(), 1));
    }

    #[tokio::test]
    async fn what_came_just_before_a_kill_is_known_too() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-01-20T12:00:00Z");
        let store = store::sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
        let types = EventTypes::new(Vec::new());
        types.saw("order.shipped", Some("acme"));
        types.keep(&*store).await.unwrap();
        // Nothing is kept of this one but the event itself.
        for n in 0..PAGE + 10 {
            let r#type = if n == 3 { "order.returned" } else { "order.shipped" };
            let envelope = Envelope { id: n.to_string(), r#type: r#type.to_owned(), received_at: clock.now(), ..sample() };
            let mut key = [0; 16];
            key[..4].copy_from_slice(&n.to_be_bytes());
            let dedupe = DedupeKey { key, body: key, remember: Remember::Id(Duration::from_secs(60)) };
            let (deliveries, rules, endings) = Default::default();
            store.accept(NewEvent { envelope, dedupe, deliveries, rules, endings, setting: None }).await.unwrap();
        }
        let after = EventTypes::new(Vec::new());
        after.restore(&*store).await.unwrap();
        assert!(after.fits(&glob("order.returned"), None) && after.fits(&glob("order.shipped"), Some(&bound("acme"))));
        after.keep(&*store).await.unwrap();
        assert!(store.setting(KEY).await.unwrap().unwrap().contains("order.returned"));
    }

    #[tokio::test]
    async fn what_came_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = store::sqlite::open(&folder.path().join("store"), Clock::manual("2026-01-20T12:00:00Z")).await.unwrap();
        let types = EventTypes::new(Vec::new());
        types.restore(&*store).await.unwrap();
        types.saw("order.shipped", Some("acme"));
        types.saw("order.shipped", None);
        types.keep(&*store).await.unwrap();
        let after = EventTypes::new(Vec::new());
        after.restore(&*store).await.unwrap();
        assert_eq!(after.seen.read().unwrap().types, types.seen.read().unwrap().types);
    }
}
