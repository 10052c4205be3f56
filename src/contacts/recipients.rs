//! `to` of a destination: who gets its messages.

use serde_json::Value as Json;

use super::{
    Contacts, Found, Unavailable,
    address::{Mailbox, Number, ascii_domain},
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, OneOrMore, Schema, Shape},
        tree::{Node, Value},
    },
    envelope::Envelope,
    route::{glob::run_matches, path::Path, to_value},
};

/// Most recipients of one delivery.
pub const RECIPIENTS_MAX: usize = 50;
/// Most globs of `allow_recipients`.
const GLOBS_MAX: usize = 200;

/// How a destination's channel reaches people: mail addresses, or numbers.
pub trait Reached: Clone + PartialEq + Decode {
    /// What messages call it.
    const WHAT: &'static str;
    /// `text` as one.
    fn parse(text: &str) -> Option<Self>;
    /// Those of a contact.
    fn of(found: Found) -> Vec<Self>;
    /// As `allow_recipients` sees it.
    fn text(&self) -> String;
    /// Why a glob of `allow_recipients` can fit none of them.
    fn never(glob: &str) -> Option<&'static str>;
}

impl Reached for Mailbox {
    const WHAT: &'static str = "a mail address";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn of(found: Found) -> Vec<Self> {
        found.email
    }

    fn text(&self) -> String {
        self.address()
    }

    fn never(glob: &str) -> Option<&'static str> {
        (!glob.contains('@')).then_some("a mail address has an `@`, and `*@*` is any")
    }
}

impl Reached for Number {
    const WHAT: &'static str = "a number such as +15550100";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn of(found: Found) -> Vec<Self> {
        found.whatsapp
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn never(glob: &str) -> Option<&'static str> {
        glob.contains('@').then_some("a number has no `@`")
    }
}

/// Who gets a destination's messages.
#[derive(Debug, Clone)]
pub enum Recipients<T> {
    /// `to: contact`: whoever stands behind the event's namespace.
    Contact,
    /// `to: [dana@example.com]`: always these.
    Literal(Vec<T>),
    /// `to: $.data.email`, or `to: {path: $.data.email}`: those the event names, as far as they are allowed.
    Path {
        /// Where, in the envelope.
        path: Path,
        /// Who may be written to at all.
        allowed: Vec<Allowed>,
    },
}

/// Why a delivery has no recipients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRecipients {
    /// The look-up of contacts failed; it may pass.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    /// Nobody stands behind the namespace, and there is no `*`.
    #[error("no contact has {0} for this namespace, nor has `*`")]
    Nobody(&'static str),
    /// The path finds nothing.
    #[error("the event has nothing at `{0}`")]
    NothingAtPath(String),
    /// What the path finds is no address.
    #[error("what the event has at `{0}` is not {1}")]
    NotReachable(String, &'static str),
    /// `allow_recipients` names none of them.
    #[error("`allow_recipients` does not allow the recipient at `{0}`")]
    NotAllowed(String),
    /// The event names too many.
    #[error("the event names more than {RECIPIENTS_MAX} recipients")]
    TooMany,
}

/// `{path: $.data.email}`.
const AT_PATH: Keys = Keys::of(&[Field::of::<Path>("path", "Where the event names them.").required().example("$.data.email")]);

impl<T: Reached> Shape for Recipients<T> {
    fn schema(all: &mut Definitions) -> Schema {
        let literal = OneOrMore::<T>::schema(all).not_empty();
        let path = Path::schema(all);
        Schema::any_of([Schema::only("contact"), path, Schema::map(AT_PATH, all), literal])
    }
}

impl<T: Reached> Recipients<T> {
    /// Who a destination writes to.
    pub const KEYS: Keys = Keys::of(&[
        Field::of::<Self>("to", "Who gets its messages: `contact` (those under `contacts` by the event's namespace), a list, or a path into the event.")
            .required()
            .example("contact"),
        Field::of::<Vec<Allowed>>("allow_recipients", "Whom events may name, with a path as `to`: globs.")
            .example(r#"["*@example.com"]"#)
            .such_that(Schema::not_empty),
    ]);

    /// Reads `to` and `allow_recipients` of a destination.
    pub fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let allowed = fields.node("allow_recipients").map(|node| (node, Vec::<Allowed>::decode(node, cx)));
        let Some(to) = fields.node("to") else {
            fields.missing("to", cx);
            return None;
        };
        let is_path = matches!(to.value, Value::Map(_)) || is_bare_path::<T>(to);
        if let (Some((node, _)), false) = (&allowed, is_path) {
            cx.error("bad-value", node.place, "`allow_recipients` is used with a path only: `to: $.data.email`");
        }
        match &to.value {
            Value::String(word) if word == "contact" => Some(Self::Contact),
            Value::Map(_) => {
                let mut inner = Fields::open(to, "`to`", AT_PATH, cx)?;
                let path = inner.required("path", cx);
                inner.finish(cx);
                let allowed = allowed_of::<T>(allowed, to, cx);
                Some(Self::Path { path: path?, allowed: allowed? })
            }
            Value::String(_) if is_path => {
                let (path, allowed) = (Path::decode(to, cx), allowed_of::<T>(allowed, to, cx));
                Some(Self::Path { path: path?, allowed: allowed? })
            }
            Value::String(text) if T::parse(text).is_none() => {
                cx.expected(&format!("`contact`, {} or a list of them, or a path such as $.data.email", T::WHAT), to)
            }
            Value::String(_) => T::decode(to, cx).map(|one| Self::Literal(vec![one])),
            _ => Self::literal(to, cx),
        }
    }

    fn literal(node: &Node, cx: &mut Context) -> Option<Self> {
        let them = Vec::<T>::decode(node, cx)?;
        if them.is_empty() || RECIPIENTS_MAX < them.len() {
            cx.error("bad-value", node.place, format!("`to` names between 1 and {RECIPIENTS_MAX} recipients"));
            return None;
        }
        Some(Self::Literal(without_repeats(them)))
    }

    /// The recipients of `event`: at least one, none twice.
    pub async fn of(&self, event: &Envelope, contacts: &Contacts) -> Result<Vec<T>, NoRecipients> {
        match self {
            Self::Contact => some(T::of(contacts.find(event.namespace.as_deref()).await?)),
            named => named.named(event),
        }
    }

    /// The same as far as it is known without asking anybody.
    pub fn known(&self, event: &Envelope, contacts: &Contacts) -> Result<Vec<T>, NoRecipients> {
        match self {
            Self::Contact => some(T::of(contacts.known(event.namespace.as_deref())?)),
            named => named.named(event),
        }
    }

    /// Those that the file or the event itself names.
    fn named(&self, event: &Envelope) -> Result<Vec<T>, NoRecipients> {
        match self {
            Self::Literal(them) => Ok(them.clone()),
            Self::Path { path, allowed } => some(at_path(path, allowed, &to_value(event))?),
            Self::Contact => Ok(Vec::new()),
        }
    }
}

fn some<T: Reached>(them: Vec<T>) -> Result<Vec<T>, NoRecipients> {
    match them.len() {
        0 => Err(NoRecipients::Nobody(T::WHAT)),
        1..=RECIPIENTS_MAX => Ok(without_repeats(them)),
        _ => Err(NoRecipients::TooMany),
    }
}

/// `$.data.email`. (`$@example.com` is a mail address.)
fn is_bare_path<T: Reached>(to: &Node) -> bool {
    matches!(&to.value, Value::String(text) if text.starts_with('$') && T::parse(text).is_none())
}

/// Whom the events may name that `to` reads.
fn allowed_of<T: Reached>(allowed: Option<(&Node, Option<Vec<Allowed>>)>, to: &Node, cx: &mut Context) -> Option<Vec<Allowed>> {
    let Some((node, allowed)) = allowed else {
        let help = "name who may be written to: allow_recipients: [\"*@example.com\"]";
        cx.error("missing-key", to.place, "recipients from an event need `allow_recipients`").help(help);
        return None;
    };
    allowed.filter(|allowed| check_globs::<T>(allowed, node, cx))
}

fn check_globs<T: Reached>(allowed: &[Allowed], node: &Node, cx: &mut Context) -> bool {
    let mut good = (1..=GLOBS_MAX).contains(&allowed.len());
    if !good {
        cx.error("bad-value", node.place, format!("`allow_recipients` names between 1 and {GLOBS_MAX} globs"));
    }
    for (glob, why) in allowed.iter().filter_map(|Allowed(glob)| Some((glob, T::never(glob)?))) {
        cx.error("bad-value", node.place, format!("`{glob}` allows nobody: {why}"));
        good = false;
    }
    good
}

/// What `path` finds: texts, or lists of them. All of them must be allowed, so that no event picks out whom we write to.
fn at_path<T: Reached>(path: &Path, allowed: &[Allowed], event: &Json) -> Result<Vec<T>, NoRecipients> {
    let at = || path.text().to_owned();
    let mut them = Vec::new();
    for node in path.find(event) {
        let items = match node {
            Json::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        for item in items {
            let one = item.as_str().and_then(T::parse).ok_or_else(|| NoRecipients::NotReachable(at(), T::WHAT))?;
            if !allowed.iter().any(|glob| glob.matches(&one.text())) {
                return Err(NoRecipients::NotAllowed(at()));
            }
            them.push(one);
            if RECIPIENTS_MAX < them.len() {
                return Err(NoRecipients::TooMany);
            }
        }
    }
    if them.is_empty() { Err(NoRecipients::NothingAtPath(at())) } else { Ok(them) }
}

fn without_repeats<T: Reached>(them: Vec<T>) -> Vec<T> {
    let mut out: Vec<T> = Vec::with_capacity(them.len());
    for one in them {
        if !out.iter().any(|other| other.text() == one.text()) {
            out.push(one);
        }
    }
    out
}

/// One entry of `allow_recipients`: `*@example.com`, `+1*`. `*` is any run of characters but `@`; case does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed(String);

impl Shape for Allowed {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::text().not_empty()
    }
}

impl Decode for Allowed {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let text = String::decode(node, cx)?;
        if text.is_empty() || 256 < text.len() {
            return cx.expected("a glob such as *@example.com", node);
        }
        Some(Self(with_ascii_domain(&text.to_lowercase())))
    }
}

/// A glob with the labels of its domain in ASCII, as those of addresses are.
fn with_ascii_domain(glob: &str) -> String {
    let Some((local, domain)) = glob.rsplit_once('@') else { return glob.to_owned() };
    let label = |label: &str| if label.is_ascii() { None } else { ascii_domain(label) }.unwrap_or_else(|| label.to_owned());
    format!("{local}@{}", domain.split('.').map(label).collect::<Vec<_>>().join("."))
}

impl Allowed {
    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        match (self.0.rsplit_once('@'), text.rsplit_once('@')) {
            (Some((local, domain)), Some((its_local, its_domain))) => {
                run_matches(local, its_local) && run_matches(domain, its_domain)
            }
            (None, None) => run_matches(&self.0, &text),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::deliver::testing::node;

    fn read(yaml: &str) -> Result<Recipients<Mailbox>, String> {
        let mut cx = Context::default();
        let tree = node(yaml);
        let mut fields = Fields::open(&tree, "destination `mail`", Recipients::<Mailbox>::KEYS, &mut cx).unwrap();
        let to = Recipients::decode(&mut fields, &mut cx);
        fields.finish(&mut cx);
        to.filter(|_| !cx.failed()).ok_or_else(|| cx.problems.into_iter().map(|it| it.message).collect::<Vec<_>>().join("; "))
    }

    fn found(path: &str, allowed: &[&str], event: Json) -> Result<String, String> {
        let allowed: Vec<_> = allowed.iter().map(|it| Allowed((*it).to_owned())).collect();
        let them = at_path::<Mailbox>(&Path::parse(path).unwrap(), &allowed, &event);
        them.map(|them| them.iter().map(Mailbox::address).collect::<Vec<_>>().join(" ")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_three_forms_of_to() {
        assert!(matches!(read("{to: contact}"), Ok(Recipients::Contact)));
        assert!(
            matches!(read("{to: [a@x.example, b@x.example, A <a@x.example>]}"), Ok(Recipients::Literal(them)) if them.len() == 2)
        );
        assert!(matches!(read("{to: a@x.example}"), Ok(Recipients::Literal(them)) if them.len() == 1));
        assert!(matches!(read("{to: {path: $.data.email}, allow_recipients: ['*@x.example']}"), Ok(Recipients::Path { .. })));
        let bare = read("{to: $.data.email, allow_recipients: ['*@x.example']}");
        assert!(matches!(bare, Ok(Recipients::Path { path, .. }) if path.text() == "$.data.email"));
        assert!(matches!(read("{to: $@x.example}"), Ok(Recipients::Literal(them)) if them[0].address() == "$@x.example"));
        let refused = |yaml| read(yaml).unwrap_err();
        insta::assert_snapshot!(refused("{to: contacts}"), @"expected `contact`, a mail address or a list of them, or a path such as $.data.email, found `contacts`");
        insta::assert_snapshot!(refused("{to: $.data.email}"), @"recipients from an event need `allow_recipients`");
        assert!(refused("{to: '$.[', allow_recipients: ['*@x.example']}").contains("`$.[`"));
        insta::assert_snapshot!(refused("{to: {path: $.data.email}}"), @"recipients from an event need `allow_recipients`");
        insta::assert_snapshot!(refused("{to: contact, allow_recipients: ['*@x.example']}"), @"`allow_recipients` is used with a path only: `to: $.data.email`");
        insta::assert_snapshot!(refused("{to: []}"), @"`to` names between 1 and 50 recipients");
        insta::assert_snapshot!(refused("{}"), @"destination `mail` needs `to`");
    }

    #[test]
    fn an_event_names_only_whom_it_may() {
        let event = json!({"data": {"one": "Dana@X.example", "more": ["a@x.example", "b@x.example"], "bad": "x", "n": 7,
            "inject": "a@evil.example,b@x.example", "evil": ["a@x.example", "a@evil.example"]}});
        let allowed = ["*@x.example"];
        assert_eq!(found("$.data.one", &allowed, event.clone()), Ok("Dana@x.example".into()));
        assert_eq!(found("$.data.more", &allowed, event.clone()), Ok("a@x.example b@x.example".into()));
        let refused = |path| found(path, &allowed, event.clone()).unwrap_err();
        insta::assert_snapshot!(refused("$.data.none"), @"the event has nothing at `$.data.none`");
        insta::assert_snapshot!(refused("$.data.bad"), @"what the event has at `$.data.bad` is not a mail address");
        insta::assert_snapshot!(refused("$.data.n"), @"what the event has at `$.data.n` is not a mail address");
        insta::assert_snapshot!(refused("$.data.inject"), @"what the event has at `$.data.inject` is not a mail address");
        insta::assert_snapshot!(refused("$.data.evil"), @"`allow_recipients` does not allow the recipient at `$.data.evil`");
    }

    #[test]
    fn globs_of_recipients() {
        let allows = |glob: &str, text: &str| Allowed(glob.to_owned()).matches(text);
        assert!(allows("*@example.com", "dana.smith+x@Example.com"));
        assert!(allows("*@*.example.com", "a@b.c.example.com"));
        assert!(allows("+1*", "+15550100") && allows("dana@x.example", "Dana@x.example"));
        assert!(!allows("*@example.com", "dana@example.com.evil.example"));
        assert!(!allows("*@example.com", "dana@notexample.com"));
        assert!(!allows("*", "dana@example.com") && !allows("+1*", "+495550100"));
        let decoded = |glob: &str| crate::deliver::testing::decode::<Allowed>(&format!("\"{glob}\"")).unwrap();
        assert!(decoded("*@BÜCHER.example").matches("info@xn--bcher-kva.example"));
        assert!(decoded("*@*.bücher.example").matches("info@shop.xn--bcher-kva.example"));
    }

    #[test]
    fn a_glob_that_can_allow_nobody_is_an_error() {
        let wrong = read("{to: {path: $.data.email}, allow_recipients: ['*', '+49*', '*@x.example']}").unwrap_err();
        insta::assert_snapshot!(wrong, @"`*` allows nobody: a mail address has an `@`, and `*@*` is any; `+49*` allows nobody: a mail address has an `@`, and `*@*` is any");
    }
}
