//! `kind: whatsapp`: a message to one number by Twilio's Messages API. A delivery for several numbers is split into one for each; what
//! Twilio has only accepted waits for its report (`report.rs`).
//!
//! Facts: Twilio's pages on the Messages resource, content templates and webhook security; `delivery.md`, "What answers mean".

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use url::{Url, form_urlencoded::Serializer};

use super::{TEMPLATE, TemplateRef};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
        tree::{Node, Value},
    },
    contacts::{Contacts, NoRecipients, Number, Recipients},
    deliver::{
        answers::Reading,
        attempt::{Outcome, Tried, Try},
        client::{Failure, FailureKind},
        endpoint::{Body, Endpoint, read_url, url},
        making::{Draft, Making},
        reach::{Asking, Unreached},
    },
    envelope::{Envelope, Name},
    json,
    render::{self, SHORT_MAX},
    route::handling::Audience,
    secret::Secret,
    sign::{Algorithm, Key, base64},
    store::{Cause, Rendered},
    telemetry::logs::plain,
};

mod answer;
mod report;

use answer::Said;
pub(in crate::deliver) use report::{Fate, Reported, UNREPORTED};

/// How much of Twilio's answer is read, in bytes.
const ANSWER_MAX: usize = 16 * 1024;
/// Where messages are posted when `base_url` does not say.
const API: &str = "https://api.twilio.com";
/// Media type of what is sent.
const FORM: &str = "application/x-www-form-urlencoded";
/// Most variables of a content template.
const VARIABLES_MAX: usize = 100;
/// Longest value of one, in characters.
const VARIABLE_MAX: usize = 1000;

/// A WhatsApp destination.
#[derive(Debug, Clone)]
pub struct Whatsapp {
    endpoint: Endpoint,
    /// Signs reports.
    token: Secret,
    from: From,
    to: Recipients<Number>,
    text: Text,
    /// Where reports are asked to be sent; `None`: none are asked for.
    reports: Option<Url>,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Number(Number),
    /// A messaging service's id.
    Service(String),
}

/// What is sent.
#[derive(Debug, Clone)]
enum Text {
    /// Free text: it reaches those who have written within the last 24 hours.
    Free(Option<TemplateRef>),
    /// A template that WhatsApp has approved.
    Content { sid: String, variables: Vec<(String, TemplateRef)> },
}

/// The keys of a WhatsApp destination.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<String>("account_sid", "The account at Twilio.").required().example("${TWILIO_ACCOUNT_SID}").such_that(id),
    Field::of::<Secret>("auth_token", "Its token.").required().example("${TWILIO_AUTH_TOKEN}"),
    Field::of::<From>("from", "Who sends: a number, or the id of a messaging service.")
        .required()
        .example("whatsapp:+14155238886"),
    Field::of::<String>("content_sid", "A template that WhatsApp has approved: it reaches people at any time.")
        .example("HX00112233445566778899aabbccddeeff")
        .such_that(id),
    Field::of::<Variables>("content_variables", "What fills the approved template: Jinja by number.")
        .example(r#"{"1": "{{ event.data.service_name }}"}"#),
    Field::of::<TemplateRef>("body", "Jinja that makes the text, which reaches those who wrote within the last 24 hours."),
    TEMPLATE,
    Field::of::<String>("base_url", "Where Twilio's API is.").default(API).such_that(url),
])
.and(&[Recipients::<Number>::KEYS])
.such_that(|whatsapp| whatsapp.needs("content_variables", &["content_sid"]));

fn id(text: Schema) -> Schema {
    text.pattern("^[A-Za-z0-9]{1,64}$", "an id such as AC00112233445566778899aabbccddeeff")
}

/// A map of variables.
struct Variables;

impl Shape for Variables {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::map_of(Schema::text())
    }
}

impl Whatsapp {
    /// Reads the keys of a WhatsApp destination.
    pub(super) fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let sid = fields.required::<Located<String>>("account_sid", cx);
        let token = fields.required::<Located<Secret>>("auth_token", cx);
        let base = fields.optional::<Located<String>>("base_url", cx);
        let base = base.unwrap_or_else(|| Located { value: API.to_owned(), place: fields.key_place("base_url") });
        let from = fields.required::<From>("from", cx);
        let to = Recipients::decode(fields, cx);
        let text = Text::decode(name, fields, cx);
        let (sid, token) = (sid?, token?);
        if !is_id(&sid.value) {
            cx.error("bad-value", sid.place, "`account_sid` is an id such as AC00112233445566778899aabbccddeeff");
            return None;
        }
        if token.value.is_empty() {
            cx.error("no-secret", token.place, "`auth_token` must not be empty");
            return None;
        }
        let reports = cx.public_url.clone();
        if reports.is_none() {
            cx.warning("unconfirmed", fields.place(), format!("{} counts as delivered what Twilio accepts", fields.what()))
                .help("name `server.public_url`, so that Twilio can report what becomes of it");
        }
        let endpoint = endpoint(&base, &sid.value, &token.value, cx);
        Some(Self { endpoint: endpoint?, token: token.value, from: from?, to: to?, text: text?, reports })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Who reads what it sends.
    pub(super) fn audience(&self) -> Audience {
        match &self.to {
            Recipients::Literal(_) => Audience::Same,
            Recipients::Contact => Audience::Namespace,
            Recipients::Path { path, .. } => Audience::At(path.clone()),
        }
    }

    /// Asks Twilio for the account; sends nothing.
    pub(in crate::deliver) async fn reach(&self, asking: &Asking<'_>) -> Result<String, Unreached> {
        let answer = asking.ask("/Messages.json", ".json", false).await?;
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let word = |name: &str| said.get(name).map(|value| plain(value.as_str().unwrap_or(&value.to_string())));
        if answer.status == 200 {
            return match word("status").as_deref() {
                Some("active") => Ok("Twilio knows the account, which is active".to_owned()),
                other => {
                    let said = format!("Twilio says that the account is {}", other.unwrap_or("something else"));
                    Err(Unreached { said, code: "account".to_owned() })
                }
            };
        }
        let code = word("code").map_or_else(|| format!("http_{}", answer.status), |code| format!("twilio_{code}"));
        Err(Unreached { code, said: word("message").unwrap_or_else(|| "Twilio does not take the credentials".to_owned()) })
    }

    pub(super) fn templates(&self) -> Vec<&TemplateRef> {
        match &self.text {
            Text::Free(template) => template.iter().collect(),
            Text::Content { variables, .. } => variables.iter().map(|(_, template)| template).collect(),
        }
    }

    pub(super) async fn send(&self, attempt: &Try<'_>, answers: &Reading) -> Tried {
        let (body, failed) = match attempt.kept() {
            Some(kept) => (kept, None),
            None => {
                let (text, failed) = self.text.make(attempt);
                (Body { content_type: FORM.to_owned(), bytes: text.into() }, failed)
            }
        };
        let tried = match self.recipient(attempt, &body).await {
            Ok(number) => self.post(attempt, &number, &body, answers).await,
            Err(tried) => *tried,
        };
        if attempt.kept().is_some() { tried } else { tried.rendered(body, failed) }
    }

    /// Why nobody could be written to, as far as that is known without asking.
    pub(in crate::deliver) fn unaddressed(&self, event: &Envelope, contacts: &Contacts) -> Option<NoRecipients> {
        self.to.known(event, contacts).err()
    }

    /// What would be sent.
    pub(super) fn draft(&self, making: &Making<'_>) -> Draft {
        let (form, failed) = self.text.make(making);
        let pairs = url::form_urlencoded::parse(form.as_bytes());
        let text: Vec<_> = pairs.map(|(name, value)| format!("{name}: {value}")).collect();
        let to = self.to.known(making.event, making.contacts);
        Draft::for_people(text.join("\n"), failed, to.map(|to| to.iter().map(ToString::to_string).collect()))
    }

    /// Whom this delivery is for. One that is for several becomes one for each.
    async fn recipient(&self, attempt: &Try<'_>, body: &Body) -> Result<Number, Box<Tried>> {
        if let Some(known) = attempt.delivery.recipient.as_deref().and_then(Number::parse) {
            return Ok(known);
        }
        let mut numbers = self.to.of(attempt.event, attempt.contacts).await.map_err(|why| Box::new(nobody(&why)))?;
        if numbers.len() < 2 || attempt.is_test() {
            return numbers.drain(..).next().ok_or_else(|| Box::new(nobody(&NoRecipients::Nobody("a number"))));
        }
        let texts = numbers.iter().map(ToString::to_string).collect();
        let made = Rendered { content_type: body.content_type.clone(), body: body.bytes.clone(), progress: None, reached: false };
        match attempt.store.split(attempt.delivery.read(), texts, made, attempt.at).await {
            Ok(Some(own)) => Number::parse(&own).ok_or_else(|| Box::new(nobody(&NoRecipients::Nobody("a number")))),
            Ok(None) => {
                let detail = "nothing was sent: the delivery is not in the store".to_owned();
                Err(Box::new(Tried::failed(Failure { kind: FailureKind::Request, detail })))
            }
            Err(error) => {
                let detail = format!("nothing was sent: the delivery cannot be split: {error}");
                Err(Box::new(Tried::failed(Failure { kind: FailureKind::Closed, detail })))
            }
        }
    }

    async fn post(&self, attempt: &Try<'_>, to: &Number, text: &Body, answers: &Reading) -> Tried {
        let report_to = self.reports.as_ref().filter(|_| !attempt.is_test());
        let report_to = report_to.map(|base| report::url(base, &attempt.delivery.target, attempt.delivery.id, attempt.number));
        let bytes = self.addressed(to, report_to.as_deref(), &text.bytes);
        let body = Body { content_type: text.content_type.clone(), bytes: bytes.into() };
        match self.endpoint.post(attempt, &body, ANSWER_MAX).await {
            Ok(answer) => {
                let mut tried = Said::read(&answer).tried(answer, attempt.at, answers);
                if tried.outcome == Outcome::Delivered && report_to.is_some() {
                    tried.outcome = Outcome::Awaits;
                }
                tried
            }
            Err(failure) => lost(failure),
        }
    }

    /// `text` with today's address.
    fn addressed(&self, to: &Number, report_to: Option<&str>, text: &[u8]) -> Vec<u8> {
        let mut form = Serializer::new(String::new());
        form.append_pair("To", &format!("whatsapp:{to}"));
        match &self.from {
            From::Number(number) => form.append_pair("From", &format!("whatsapp:{number}")),
            From::Service(sid) => form.append_pair("MessagingServiceSid", sid),
        };
        if let Some(url) = report_to {
            form.append_pair("StatusCallback", url);
        }
        let mut bytes = form.finish().into_bytes();
        bytes.push(b'&');
        bytes.extend_from_slice(text);
        bytes
    }

    /// What a report says, once its signature is proved right: `path_and_query` is what it was sent to, `body` its form.
    pub(in crate::deliver) fn report(&self, target: &Name, query: &str, given: &[u8], body: &[u8]) -> Option<Reported> {
        let base = self.reports.as_ref()?;
        let key = Key::new(Algorithm::Sha1, self.token.reveal().as_bytes());
        report::proved(&key, base, target, query, given, body).then(|| Reported::read(query, body))
    }
}

/// Twilio knows no delivery twice: what it may have taken is said, since a retry sends it again.
fn lost(failure: Failure) -> Tried {
    let may_have_arrived = matches!(failure.kind, FailureKind::Timeout | FailureKind::Closed);
    let mut tried = Tried::failed(failure);
    if may_have_arrived {
        let detail = tried.detail.take().unwrap_or_default();
        tried.detail = Some(format!("{detail}; Twilio may have taken it all the same: a retry may send it twice"));
    }
    tried
}

fn nobody(why: &NoRecipients) -> Tried {
    let mut tried = Tried::failed(Failure { kind: FailureKind::Forbidden, detail: why.to_string() });
    match why {
        NoRecipients::Unavailable(_) => tried.outcome = Outcome::Retry { after: None, whole_lane: false, denied: false },
        _ => tried.outcome = Outcome::Permanent { cause: Cause::Config, moved: false },
    }
    tried.error = Some("no_recipient".to_owned());
    tried
}

fn endpoint(base: &Located<String>, sid: &str, token: &Secret, cx: &mut Context) -> Option<Endpoint> {
    let url = format!("{}/2010-04-01/Accounts/{sid}/Messages.json", base.value.trim_end_matches('/'));
    let url = read_url(&Located { value: url, place: base.place }, cx);
    let mut header = HeaderValue::try_from(format!("Basic {}", base64(format!("{sid}:{}", token.reveal()).as_bytes()))).ok()?;
    header.set_sensitive(true);
    Some(Endpoint::at(url?, HeaderMap::from_iter([(AUTHORIZATION, header)])))
}

/// An id of Twilio's, as it may stand in a URL.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// What senders are called in messages.
const FROM: &str = "a sender such as whatsapp:+14155238886, or the id of a messaging service (MG…)";

impl Shape for From {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^\s*(whatsapp:)?\+[0-9 ().-]+$|^MG[A-Za-z0-9]*$", FROM)
    }
}

impl Decode for From {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text.starts_with("MG") && is_id(&text) {
            return Some(Self::Service(text));
        }
        let number = Number::parse(&text).map(Self::Number);
        number.or_else(|| cx.expected(FROM, node))
    }
}

impl Text {
    fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let sid = fields.optional::<Located<String>>("content_sid", cx);
        let variables = fields.node("content_variables");
        let body = fields.node("body").map(|node| TemplateRef::of_text(&format!("body of {name}"), node, cx));
        let named = fields.node("template").map(|node| TemplateRef::decode(name, node, cx));
        if body.is_some() && named.is_some() {
            cx.error("bad-value", fields.key_place("template"), "`body` and `template` both make the text: give one of them");
        }
        let free = body.or(named);
        match (sid, free) {
            (Some(_), Some(_)) => {
                let message = "with `content_sid` the text is the approved template's: `content_variables` fill it";
                cx.error("bad-value", fields.key_place("body"), message);
                None
            }
            (Some(sid), None) if !is_id(&sid.value) => {
                cx.error("bad-value", sid.place, "`content_sid` is an id such as HX00112233445566778899aabbccddeeff");
                None
            }
            (Some(sid), None) => {
                let variables = variables.map_or(Some(Vec::new()), |node| read_variables(name, node, cx));
                Some(Self::Content { sid: sid.value, variables: variables? })
            }
            (None, free) => {
                if let Some(node) = variables {
                    cx.error("bad-value", node.place, "`content_variables` go with `content_sid`");
                }
                match free {
                    Some(template) => template.map(|template| Self::Free(Some(template))),
                    None => Some(Self::Free(None)),
                }
            }
        }
    }

    /// The part of the form that is the message, and why a template was not used.
    fn make(&self, making: &Making<'_>) -> (String, Option<String>) {
        let mut form = Serializer::new(String::new());
        match self {
            Self::Free(template) => {
                let message = making.message(template.as_ref().map(|template| template.name.as_str()));
                form.append_pair("Body", &cut(&message.short, SHORT_MAX));
                (form.finish(), message.failed)
            }
            Self::Content { sid, variables } => {
                let mut failed = None;
                let mut values = serde_json::Map::new();
                let data = json::lenient(making.event.data());
                for (name, template) in variables {
                    let text = making.plain(&template.name, &data);
                    failed = failed.or(text.failed);
                    values.insert(name.clone(), one_line(&text.text).into());
                }
                form.append_pair("ContentSid", sid);
                if !values.is_empty() {
                    form.append_pair("ContentVariables", &serde_json::Value::Object(values).to_string());
                }
                (form.finish(), failed)
            }
        }
    }
}

fn read_variables(destination: &str, node: &Node, cx: &mut Context) -> Option<Vec<(String, TemplateRef)>> {
    let Value::Map(map) = &node.value else {
        return cx.expected("a map of variables such as {\"1\": \"{{ event.data.service_name }}\"}", node);
    };
    if VARIABLES_MAX < map.len() {
        cx.error("bad-value", node.place, format!("more than {VARIABLES_MAX} variables"));
        return None;
    }
    let read = |(key, node): &(crate::config::tree::Key, Node)| {
        let template = TemplateRef::of_text(&format!("variable {} of {destination}", key.name), node, cx);
        Some((key.name.clone(), template?))
    };
    let read: Vec<_> = map.iter().map(read).collect();
    read.into_iter().collect()
}

/// `text` as WhatsApp takes it in a variable: one line, no runs of blanks, not empty, and nothing in it that turns text around.
fn one_line(text: &str) -> String {
    let shown = render::shown(text, VARIABLE_MAX - 1);
    let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() { "-".to_owned() } else { line }
}

/// The beginning of `text`, at most `max` UTF-16 units long.
fn cut(text: &str, max: usize) -> String {
    if text.encode_utf16().count() <= max {
        return text.to_owned();
    }
    let mut left = max - 1;
    let fits = |c: &char| {
        let wide = c.len_utf16();
        let room = wide <= left;
        left = left.saturating_sub(wide);
        room
    };
    let mut out: String = text.chars().take_while(fits).collect();
    out.push('…');
    out
}
