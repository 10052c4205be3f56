//! What would become of a delivery that was planned now, and what it would send: told without writing, sending or asking anybody.
//!
//! The order of the answers is the lane's (`lane/deciding.rs`): `ttl`, mute, throttle, digest, quiet hours; and before all of them the
//! lane itself, while it lets nothing go.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock::{Timestamp, later, rfc3339_s, short, until as span},
    contacts::Contacts,
    envelope::{DeliveryId, Envelope, EventUid, Name},
    render::{Source, Strictness, Templates},
    store::{self, DIGEST_MAX, Delivery, Digest, Foreseen, Handling, NewDelivery},
};

use super::{
    Deliver, Destination,
    attempt::Site,
    desk::Desk,
    making::{Making, Purpose},
    mutes::{Active, muting},
    quiet::Then,
    roster::all_templates,
};

/// Most of a body that is shown, in characters.
pub const BODY_MAX: usize = 4096;

/// What would become of one delivery.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Where it would go.
    pub target: Name,
    /// Its kind's word.
    pub kind: &'static str,
    /// Where that is, its path masked.
    pub url: String,
    /// What holds its whole lane now; `None`: nothing, or (without a running relay) not known.
    pub held: Option<Fate>,
    /// What is decided about it, once its lane goes.
    pub fate: Fate,
    /// After when it is not worth sending.
    pub expires_at: Option<Timestamp>,
    /// The named template of the destination, where the rule names none.
    pub template: Option<String>,
    /// What it would send.
    pub request: Request,
}

/// What becomes of a delivery, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// `now`, `pending`, `held`, `suppressed`, `digested` or `expired`: but for the first the states of deliveries.
    pub state: &'static str,
    /// Why, as a word.
    pub cause: Option<&'static str>,
    /// Until when, where that is known: a suppressed one may go from then on.
    pub until: Option<Timestamp>,
    /// Why, for a person.
    pub reason: Option<String>,
}

/// What a delivery would send.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who gets it; empty where nobody but the destination itself does.
    pub recipients: Vec<String>,
    /// Why nobody is known who would get it.
    pub unaddressed: Option<String>,
    /// Headers, names in lower case; signatures and whatever may be a secret as `***`. Empty where it does not go by HTTP.
    pub headers: Vec<(String, String)>,
    /// Media type of the body.
    pub content_type: String,
    /// Its beginning, at most [`BODY_MAX`] characters.
    pub body: String,
    /// Its size in bytes.
    pub size: usize,
    /// Whether there is more of it.
    pub cut: bool,
    /// Why the template that was meant was not used.
    pub template_failed: Option<String>,
}

/// What bodies are made with where no relay runs.
#[expect(missing_debug_implementations, reason = "handles")]
pub struct Workshop {
    templates: Templates,
    contacts: Arc<Contacts>,
    site: Site,
}

impl Fate {
    fn now() -> Self {
        Self { state: "now", cause: None, until: None, reason: None }
    }

    fn new(state: &'static str, cause: &'static str, until: Option<Timestamp>, reason: impl Into<String>) -> Self {
        Self { state, cause: Some(cause), until, reason: Some(reason.into()) }
    }
}

/// What is known of a lane besides its settings.
struct Live {
    mutes: Active,
    /// What throttles and digests would make of it, and its quiet hours' own digest.
    foreseen: Foreseen,
    gathering: u32,
}

impl Deliver {
    /// What would become of `planned` if `event` came in now. Nothing changes by that.
    pub async fn preview(&self, event: &Envelope, planned: &NewDelivery) -> store::Result<Option<Preview>> {
        let Some(desk) = self.desk(&planned.target) else { return Ok(None) };
        let (today, now) = (desk.today(), self.clock.now());
        let (destination, tools) = (&*today.destination, &today.tools);
        let live = self.live(&desk, destination, event, planned, now).await?;
        let request = request(destination, event, planned, now, (&tools.templates, &tools.contacts, &tools.site));
        Ok(Some(Preview { held: held(&desk, now), ..preview(destination, event, planned, now, Some(&live), request) }))
    }

    async fn live(
        &self,
        desk: &Desk,
        destination: &Destination,
        event: &Envelope,
        planned: &NewDelivery,
        now: Timestamp,
    ) -> store::Result<Live> {
        self.mutes.load().await?;
        let mutes = self.mutes.watch().borrow().clone();
        let handling = planned.handling.as_deref().filter(|it| !it.throttles.is_empty() || it.digest.is_some());
        let foreseen = match handling {
            Some(handling) => desk.store.foresee(desk.name(), handling.clone(), now).await?,
            None => Foreseen::default(),
        };
        let gathering = match quiet_digest(destination, event, planned, now) {
            Some(digest) => {
                let handling = Handling { digest: Some(digest), ..Handling::default() };
                desk.store.foresee(desk.name(), handling, now).await?.gathered.map_or(0, |it| it.others)
            }
            None => 0,
        };
        Ok(Live { mutes, foreseen, gathering })
    }
}

impl Workshop {
    /// What `named` templates, those that `destinations` bring along, `contacts` and `site` make.
    pub fn new(named: BTreeMap<String, Source>, destinations: &[Destination], contacts: Arc<Contacts>, site: Site) -> Self {
        let templates = Templates::new(&all_templates(named, destinations), Strictness::Lenient);
        Self { templates, contacts, site }
    }

    /// Who stands behind a namespace.
    pub fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// What would become of `planned` at `now` as far as the file alone tells: nothing is known of pauses, breakers, mutes, of what
    /// throttles have let go, and of what digests have gathered.
    pub fn preview(&self, destination: &Destination, event: &Envelope, planned: &NewDelivery, now: Timestamp) -> Preview {
        let request = request(destination, event, planned, now, (&self.templates, &self.contacts, &self.site));
        preview(destination, event, planned, now, None, request)
    }
}

fn preview(
    destination: &Destination,
    event: &Envelope,
    planned: &NewDelivery,
    now: Timestamp,
    live: Option<&Live>,
    request: Request,
) -> Preview {
    let expires_at = destination.ttl.map(|ttl| later(now, ttl));
    let fate = fate(destination, event, planned, now, live);
    let fate = match (destination.ttl, fate.until) {
        (Some(ttl), Some(until)) if matches!(fate.state, "held" | "digested") && later(now, ttl) <= until => Fate {
            state: "expired",
            cause: None,
            until: expires_at,
            reason: Some(format!("older than its ttl of {} before it may go, at {}", short(ttl), rfc3339_s(until))),
        },
        _ => fate,
    };
    Preview {
        target: destination.name.clone(),
        kind: destination.kind.word(),
        url: destination.masked_url(),
        held: None,
        fate,
        expires_at,
        template: destination.kind.templates().first().filter(|it| it.inline.is_none()).map(|it| it.name.clone()),
        request,
    }
}

/// What is decided about the delivery before its first attempt.
fn fate(destination: &Destination, event: &Envelope, planned: &NewDelivery, now: Timestamp, live: Option<&Live>) -> Fate {
    if let Some(mute) = live.and_then(|live| muting(&live.mutes, event, &destination.name, now)) {
        return Fate::new("suppressed", "mute", Some(mute.until), format!("{} ({}, {})", mute.reason, mute.author, mute.id));
    }
    if let Some(full) = live.and_then(|live| live.foreseen.throttled.as_ref()) {
        return Fate::new("suppressed", "throttle", Some(full.until), format!("{}; the next one is allowed then", full.reason));
    }
    if let Some(digest) = planned.handling.as_deref().and_then(|it| it.digest) {
        return gathered(destination, planned, digest, now, live);
    }
    by_hours(destination, planned, now, live)
}

/// A rule's digest: it goes out when its window ends, unless that is in quiet hours.
fn gathered(destination: &Destination, planned: &NewDelivery, digest: Digest, now: Timestamp, live: Option<&Live>) -> Fate {
    let known = live.and_then(|live| live.foreseen.gathered);
    let ends_at = known.map_or_else(|| later(now, digest.window), |it| it.until);
    let others = known.map_or(0, |it| it.others);
    let reason = match others {
        0 => format!("it begins a digest of {}", short(digest.window)),
        _ => format!("{others} gathered already, at most {} go out at once", digest.max),
    };
    let end = destination.quiet.as_ref().and_then(|quiet| Some((quiet, quiet.until(planned.severity, ends_at)?)));
    match end {
        Some((quiet, _)) if quiet.then == Then::Drop => {
            Fate::new("suppressed", "quiet", None, format!("its digest ends in quiet hours `{}`", quiet.schedule.name))
        }
        Some((quiet, until)) => {
            Fate::new("digested", "quiet", Some(until), format!("{reason}; quiet hours `{}`", quiet.schedule.name))
        }
        None => Fate { state: "digested", cause: None, until: Some(ends_at), reason: Some(reason) },
    }
}

fn by_hours(destination: &Destination, planned: &NewDelivery, now: Timestamp, live: Option<&Live>) -> Fate {
    let Some(quiet) = &destination.quiet else { return Fate::now() };
    let Some(until) = quiet.until(planned.severity, now) else { return Fate::now() };
    let hours = format!("quiet hours `{}`", quiet.schedule.name);
    match quiet.then {
        Then::Hold => Fate::new("held", "quiet", Some(until), hours),
        Then::Drop => Fate::new("suppressed", "quiet", Some(until), format!("{hours}: what comes then is not sent")),
        Then::Digest => {
            let others = live.map_or(0, |live| live.gathering);
            Fate::new("digested", "quiet", Some(until), format!("{hours}: {others} gathered already"))
        }
    }
}

/// The digest of quiet hours that it would be gathered into.
fn quiet_digest(destination: &Destination, event: &Envelope, planned: &NewDelivery, now: Timestamp) -> Option<Digest> {
    let quiet = destination.quiet.as_ref().filter(|quiet| quiet.then == Then::Digest)?;
    let until = quiet.until(planned.severity, now)?;
    let key = destination.kind.audience().quiet_key(&destination.name, event);
    Some(Digest { key, window: span(now, until), max: DIGEST_MAX })
}

/// What keeps the lane from sending anything.
fn held(desk: &Desk, now: Timestamp) -> Option<Fate> {
    let state = desk.inbox.state();
    let condition = &state.condition;
    if let Some(paused) = &condition.paused {
        return Some(Fate::new("held", "paused", None, format!("by {} since {}", paused.by, rfc3339_s(paused.since))));
    }
    if let Some(open) = condition.breaker.open() {
        let error = condition.last_error.as_deref().map_or_else(String::new, |error| format!(", last error {error}"));
        let since = rfc3339_s(open.since);
        let reason = format!("the breaker is open since {since}, cause {}{error}; it is probed then", open.cause.word());
        return Some(Fate::new("held", "broken", Some(open.probe_at), reason));
    }
    let until = condition.hold_until.filter(|until| now < *until)?;
    Some(Fate::new("pending", "retry_after", Some(until), "the target asked for a pause with `Retry-After`"))
}

/// What the delivery would send, and to whom.
fn request(
    destination: &Destination,
    event: &Envelope,
    planned: &NewDelivery,
    now: Timestamp,
    (templates, contacts, site): (&Templates, &Contacts, &Site),
) -> Request {
    let id = DeliveryId { event: EventUid { salt: 0, seq: 0 }, n: 1 };
    let delivery = Delivery::new(id, planned.clone(), now);
    let making = Making {
        event,
        delivery: &delivery,
        digest: None,
        number: 1,
        at: now,
        templates,
        contacts,
        site,
        purpose: Purpose::Preview,
        stage: None,
    };
    let draft = destination.kind.draft(&making);
    let (recipients, unaddressed) = match draft.to {
        None => (Vec::new(), None),
        Some(Ok(to)) => (to, None),
        Some(Err(none)) => (Vec::new(), Some(none.to_string())),
    };
    let text = String::from_utf8_lossy(&draft.body.bytes);
    let mut chars = text.chars();
    let body: String = chars.by_ref().take(BODY_MAX).collect();
    Request {
        recipients,
        unaddressed,
        headers: headers(destination, event, &delivery, &draft.body.content_type, now),
        content_type: draft.body.content_type,
        body,
        size: draft.body.bytes.len(),
        cut: chars.next().is_some(),
        template_failed: draft.failed,
    }
}

/// Stands for the id that the delivery would have.
const SOME_ID: &str = "dl_…";

fn headers(
    destination: &Destination,
    event: &Envelope,
    delivery: &Delivery,
    content_type: &str,
    now: Timestamp,
) -> Vec<(String, String)> {
    let mut headers = destination.request_headers(event, delivery, 1, now);
    if headers.is_empty() {
        return headers;
    }
    for (name, value) in &mut headers {
        if matches!(name.as_str(), "idempotency-key" | "x-hookyard-delivery") {
            SOME_ID.clone_into(value);
        }
    }
    headers.insert(1, ("content-type".to_owned(), content_type.to_owned()));
    headers
}
