//! One contact, and the list of them: the first whose glob fits a namespace is its contact.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{
    Found,
    address::{Mailbox, Number, SlackUser},
};
use crate::{
    config::{
        decode::{Context, Decode, Definitions, Field, Fields, Keys, OneOrMore, Schema, Shape},
        tree::Node,
    },
    route::glob::Glob,
};

/// Most addresses, and most numbers, of one contact.
const WAYS_MAX: usize = 20;
/// What stands for every namespace that has nobody of its own.
pub(super) const ANYBODY: [&str; 2] = ["*", "**"];

/// Who stands behind the namespaces that a glob fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The namespaces; `*` is everybody who has no contact of their own.
    pub namespace: Glob,
    /// How they are reached.
    pub ways: Found,
}

impl Contact {
    /// Whether it is for those who have no contact of their own.
    pub(super) fn is_fallback(&self) -> bool {
        ANYBODY.contains(&self.namespace.text())
    }
}

const KEYS: Keys = Keys::of(&[Field::of::<Glob>(
    "namespace",
    "Whose events they are told of: a namespace or a glob. The first that fits decides; `*` stands for everybody else.",
)
.required()
.example("acme-*")])
.and(&[WAYS])
.such_that(|contact| contact.at_least_one(&["email", "slack", "whatsapp"]));

/// How somebody is reached.
const WAYS: Keys = Keys::of(&[
    Field::of::<OneOrMore<Mailbox>>("email", "Their mail addresses.").example(r#"["dana@example.com"]"#),
    Field::of::<SlackUser>("slack", "Their member id in the Slack workspace, to be mentioned by.").example("U012AB3CD"),
    Field::of::<OneOrMore<Number>>("whatsapp", "Their numbers for WhatsApp, with the country.").example(r#"["+15550100"]"#),
]);

impl Shape for Contact {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("contact", |all| Schema::map(KEYS, all))
    }
}

impl Decode for Contact {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "a contact", KEYS, cx)?;
        let namespace = fields.required("namespace", cx);
        let before = cx.problems.len();
        let ways = ways(&mut fields, cx);
        // One error for one mistake: what is there and cannot be read is not missing as well.
        let unread = before < cx.problems.len();
        let ways = match ways {
            Some(ways) if ways.is_empty() && !unread => {
                cx.error("missing-key", fields.place(), "a contact needs `email`, `slack` or `whatsapp`");
                None
            }
            ways => ways,
        };
        fields.finish(cx);
        Some(Self { namespace: namespace?, ways: ways? })
    }
}

/// Reads `email`, `slack` and `whatsapp`.
fn ways(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Found> {
    let email = fields.optional::<OneOrMore<Mailbox>>("email", cx);
    let slack = fields.optional::<SlackUser>("slack", cx);
    let whatsapp = fields.optional::<OneOrMore<Number>>("whatsapp", cx);
    let ways = Found {
        email: email.map_or_else(Vec::new, |OneOrMore(them)| them),
        slack,
        whatsapp: whatsapp.map_or_else(Vec::new, |OneOrMore(them)| them),
    };
    if WAYS_MAX < ways.email.len().max(ways.whatsapp.len()) {
        cx.error("bad-value", fields.place(), format!("a contact has at most {WAYS_MAX} addresses, and numbers"));
        return None;
    }
    Some(ways)
}

impl Shape for Mailbox {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^[^@]*@[^@]+$", "a mail address such as dana@example.com")
    }
}

impl Decode for Mailbox {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let parsed = node.text().and_then(Self::parse);
        parsed.or_else(|| cx.expected("a mail address such as dana@example.com", node))
    }
}

impl Shape for Number {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"^\s*(whatsapp:)?\+[0-9 ().-]+$", "a number with its country, in quotes: \"+15550100\"")
    }
}

impl Decode for Number {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let parsed = node.text().and_then(Self::parse);
        parsed.or_else(|| cx.expected("a number with its country, in quotes: \"+15550100\"", node))
    }
}

impl Shape for SlackUser {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::like(r"[UW][A-Z0-9]{2,}", "a Slack member id such as U012AB3CD")
    }
}

impl Decode for SlackUser {
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let parsed = node.text().and_then(Self::parse);
        parsed.or_else(|| cx.expected("a Slack member id such as U012AB3CD", node))
    }
}

/// Reads one contact's ways from JSON, as a look-up answers them; what else the object holds is left alone.
pub(super) fn ways_of_json(json: &Json) -> Result<Found, String> {
    let Json::Object(map) = json else { return Err("expected an object with `email`, `slack` or `whatsapp`".to_owned()) };
    let known = map.iter().filter(|(key, _)| matches!(key.as_str(), "email" | "slack" | "whatsapp"));
    let known = Json::Object(known.map(|(key, value)| (key.clone(), value.clone())).collect());
    let mut cx = Context::default();
    let node = Node::of_json(&known);
    let ways = Fields::open(&node, "the answer", WAYS, &mut cx).and_then(|mut fields| ways(&mut fields, &mut cx));
    complete(ways, &cx)
}

/// Reads a contact from JSON, as a file holds it.
pub(super) fn contact_of_json(json: &Json) -> Result<Contact, String> {
    let mut cx = Context::default();
    complete(Contact::decode(&Node::of_json(json), &mut cx), &cx)
}

fn complete<T>(decoded: Option<T>, cx: &Context) -> Result<T, String> {
    let first = || cx.problems.first().map_or_else(|| "it cannot be read".to_owned(), |problem| problem.message.clone());
    decoded.filter(|_| !cx.failed()).ok_or_else(first)
}

/// Contacts in their order, found by namespace.
#[derive(Debug, Default)]
pub(super) struct Book {
    contacts: Vec<Contact>,
    /// The first contact of each namespace that is written out.
    exact: HashMap<String, usize>,
    /// Those with wildcards, in order.
    globs: Vec<usize>,
    fallback: Option<usize>,
}

impl Book {
    pub(super) fn new(contacts: Vec<Contact>) -> Self {
        let mut book = Self::default();
        for (index, contact) in contacts.iter().enumerate() {
            if contact.is_fallback() {
                book.fallback.get_or_insert(index);
            } else if let Some(exact) = contact.namespace.exact() {
                book.exact.entry(exact.to_owned()).or_insert(index);
            } else {
                book.globs.push(index);
            }
        }
        book.contacts = contacts;
        book
    }

    /// The first contact that fits `namespace`; `*` is not among them.
    pub(super) fn find(&self, namespace: &str) -> Option<&Found> {
        let exact = self.exact.get(namespace).copied();
        let before = exact.unwrap_or(usize::MAX);
        let earlier = self.globs.iter().copied().take_while(|index| *index < before);
        let fits = |index: &usize| self.contacts.get(*index).is_some_and(|it| it.namespace.matches(namespace));
        let first = earlier.into_iter().find(fits).or(exact)?;
        self.contacts.get(first).map(|contact| &contact.ways)
    }

    /// Who is told when a namespace has nobody.
    pub(super) fn fallback(&self) -> Option<&Found> {
        self.contacts.get(self.fallback?).map(|contact| &contact.ways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::decode;

    fn book(yaml: &str) -> Book {
        Book::new(decode(yaml).unwrap())
    }

    fn first(book: &Book, namespace: &str) -> String {
        book.find(namespace).map_or_else(String::new, |found| found.email.first().map(Mailbox::address).unwrap_or_default())
    }

    #[test]
    fn the_first_match_wins_and_the_star_waits_for_the_rest() {
        let book = book(
            "[{namespace: '*', email: ops@x.example}, {namespace: 'acme-*', email: acme@x.example}, {namespace: acme-1, email: one@x.example}, {namespace: user_1, email: [u@x.example]}, {namespace: user_1, email: other@x.example}, {namespace: 'user_*', email: users@x.example}]",
        );
        let found = ["acme-1", "acme-2", "user_1", "user_2", "nobody"].map(|namespace| first(&book, namespace));
        assert_eq!(found, ["acme@x.example", "acme@x.example", "u@x.example", "users@x.example", ""]);
        assert_eq!(book.fallback().unwrap().email[0].address(), "ops@x.example");
    }

    #[test]
    fn what_is_wrong_with_a_contact_is_said() {
        let message = |yaml| decode::<Contact>(yaml).unwrap_err().join("; ");
        insta::assert_snapshot!(message("{namespace: a}"), @"a contact needs `email`, `slack` or `whatsapp`");
        insta::assert_snapshot!(message("{email: a@b.example}"), @"a contact needs `namespace`");
        insta::assert_snapshot!(message("{namespace: a, email: [dana], slack: dana, whatsapp: 15550100}"), @"expected a mail address such as dana@example.com, found `dana`; expected a Slack member id such as U012AB3CD, found `dana`; expected a number with its country, in quotes: \"+15550100\", found a number");
        insta::assert_snapshot!(message("{namespace: a, mail: a@b.example, slack: U012}"), @"a contact has no key `mail`");
    }

    #[test]
    fn json_is_read_like_the_file() {
        let ways =
            ways_of_json(&serde_json::json!({"email": "a@b.example", "slack": "U012", "whatsapp": ["+15550100"], "id": 7}));
        let ways = ways.unwrap();
        assert_eq!((ways.email.len(), ways.slack.is_some(), ways.whatsapp.len()), (1, true, 1));
        assert_eq!(ways_of_json(&serde_json::json!({})), Ok(Found::default()));
        assert!(ways_of_json(&serde_json::json!(["a@b.example"])).is_err());
        assert!(contact_of_json(&serde_json::json!({"namespace": "a", "email": "nobody"})).is_err());
    }

    #[test]
    fn what_a_service_answers_may_hold_null_for_what_there_is_not() {
        let found = ways_of_json(&serde_json::json!({"email": null, "slack": "U012AB3CD", "whatsapp": null, "name": "Dana"}));
        assert!(found.is_ok_and(|found| found.slack.is_some() && found.email.is_empty()));
        assert_eq!(ways_of_json(&serde_json::json!({"email": null})), Ok(Found::default()));
    }
}
