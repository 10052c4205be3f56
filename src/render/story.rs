//! What a message says, before it has a form: a title, what happened, what somebody wrote, facts, what to do. The forms lay it out; none
//! of them looks at the event.

use super::{
    fields::{Fact, Fields, words},
    safe::{self, Block},
};

/// Longest text that a template makes for people, in characters.
pub(super) const OWN_MAX: usize = 16_000;
/// Longest line of a list, in characters.
const ITEM_MAX: usize = 300;

/// How it stands, for the colour of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    /// Something is as it should be again.
    Good,
    /// Something happened.
    #[default]
    Neutral,
    /// Somebody should look.
    Attention,
    /// Something is broken.
    Bad,
}

/// Somewhere to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Action {
    /// What the button says.
    pub(super) label: String,
    /// Where it leads: the URL of a web page.
    pub(super) url: String,
    /// Its host, where the event named it: people see where they are led.
    pub(super) host: Option<String>,
}

/// What somebody wrote, or what went wrong in the words of who noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quote {
    /// Whose words: `Error`.
    pub(super) label: String,
    /// The words.
    pub(super) block: Block,
}

/// Things of one sort: fields of a form, gathered events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    /// What they are.
    pub(super) label: String,
    /// A line each.
    pub(super) items: Vec<String>,
    /// How many more there are.
    pub(super) omitted: usize,
}

/// What a message says. Every text in it is clean (see [`safe`]) and bounded; nothing is escaped yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    /// What it is about, in a word: `Credential`.
    pub(super) topic: String,
    /// One line that tells it.
    pub(super) title: String,
    /// What happened and to whom, in a sentence or two.
    pub(super) lead: String,
    /// What somebody wrote.
    pub(super) quote: Option<Quote>,
    /// Things to be listed.
    pub(super) list: Option<List>,
    /// Named values.
    pub(super) facts: Vec<Fact>,
    /// What to do.
    pub(super) todo: Option<String>,
    /// Where to do it.
    pub(super) action: Option<Action>,
    /// The whole of it in one line.
    pub(super) line: String,
    /// How it stands.
    pub(super) tone: Tone,
    /// What the foot names: the event's type and id.
    pub(super) foot: String,
}

impl Story {
    /// Adds a fact where there is a value.
    pub(super) fn fact(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.facts.push(Fact { name: name.to_owned(), value });
        }
    }

    /// Adds the facts of `more` that are not there yet.
    pub(super) fn more(&mut self, more: Vec<Fact>) {
        for fact in more {
            if !self.facts.iter().any(|known| known.name == fact.name || known.value == fact.value) {
                self.facts.push(fact);
            }
        }
    }

    /// Quotes `block`, said by `label`.
    pub(super) fn quote(&mut self, label: &str, block: Option<Block>) {
        self.quote = block.map(|block| Quote { label: label.to_owned(), block });
    }

    /// What `events` and `omitted` further ones say together, `lines` being a line for each of `events`.
    pub(super) fn gathered(events: &[Fields<'_>], lines: &[String], omitted: usize) -> Self {
        let count = events.len() + omitted;
        let whose = shared(events.iter().map(Fields::namespace)).flatten();
        let whose = whose.map_or_else(String::new, |namespace| format!(" for {namespace}"));
        let title = match shared(events.iter().map(|it| it.event.r#type.as_str())) {
            Some(r#type) => format!("{count} × {}{whose}", safe::line(r#type, 100)),
            None => format!("{count} events{whose}"),
        };
        let times = || events.iter().map(|it| it.event.received_at);
        let span = match (times().min(), times().max()) {
            (Some(first), Some(last)) => {
                let (first, last) = (super::fields::moment(first), super::fields::moment(last));
                if first == last { format!("on {first}") } else { format!("between {first} and {last}") }
            }
            _ => "so far".to_owned(),
        };
        let items = lines.iter().map(|line| safe::line(line, ITEM_MAX)).collect();
        Self {
            topic: "Digest".to_owned(),
            lead: format!(
                "{} came {span} and went out together.",
                if count == 1 { "1 event".into() } else { format!("{count} events") }
            ),
            list: Some(List { label: kinds(events), items, omitted }),
            line: title.clone(),
            title,
            foot: "digest".to_owned(),
            tone: Tone::Attention,
            ..Self::default()
        }
    }
}

/// How many of which type: `5 credential.expired, 2 workflow.instance.failed`.
fn kinds(events: &[Fields<'_>]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for it in events {
        match counts.iter_mut().find(|(name, _)| *name == it.event.r#type) {
            Some((_, count)) => *count += 1,
            None => counts.push((&it.event.r#type, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let few: Vec<_> = counts.iter().take(4).map(|(name, count)| format!("{count} {}", safe::line(name, 60))).collect();
    few.join(", ") + if few.len() < counts.len() { " and others" } else { "" }
}

/// What all of `values` are, where they are one.
fn shared<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Reasons that the platforms give as codes, in words.
pub(super) fn reason(code: &str) -> String {
    match code {
        "refresh_token_invalid" => "the refresh token is no longer valid".to_owned(),
        "refresh_token_expired" => "the refresh token has expired".to_owned(),
        "user_revoked_access" => "access was revoked at the service".to_owned(),
        "invalid_grant" => "the service no longer accepts what it granted".to_owned(),
        "user_closed" => "closed by the user".to_owned(),
        other if !other.contains(' ') => words(other),
        other => other.to_owned(),
    }
}
