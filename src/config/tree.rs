//! The file as a tree in which every key and value knows its place.

use std::ops::Range;

use serde_json::Value as Json;

/// Where something stands in the configuration: a range of bytes of its texts, which are one behind the other (`Files`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Place {
    /// The bytes `range` of the file.
    pub fn new(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// Where the lines of a text begin.
#[derive(Debug, Clone)]
pub struct Lines(Vec<usize>);

impl Default for Lines {
    /// The one line of an empty text.
    fn default() -> Self {
        Self(vec![0])
    }
}

impl Lines {
    /// The lines of `text`.
    pub fn of(text: &str) -> Self {
        let mut lines = Self::default();
        lines.extend(0, text);
        lines
    }

    /// Adds the lines of `text`, which begins at byte `start` on a line of its own.
    pub fn extend(&mut self, start: usize, text: &str) {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        self.0.extend((0 < start).then_some(start).into_iter().chain(newlines.map(|(at, _)| start + at + 1)));
    }

    /// The line, from 1, that holds byte `at`.
    pub fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    /// Where that line begins.
    pub fn start(&self, at: usize) -> usize {
        self.0.get(self.line(at).saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where.
    pub place: Place,
    /// True for a string that a `${…}` reference had a part in: it may stand for a number, and its text is not shown.
    pub referenced: bool,
}

/// What YAML can say, as far as `routes.yaml` uses it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false` (YAML 1.2: no `yes`, no `on`).
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text, references resolved.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file; keys are text and do not repeat.
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its text.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

impl Key {
    /// The key `name`, which stands nowhere.
    fn of(name: &str) -> Self {
        Self { name: name.to_owned(), place: Place::default() }
    }
}

impl Node {
    /// The value of `key`, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(map) = &self.value else { return None };
        map.iter().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }

    /// Like [`Node::get`], to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Value::Map(map) = &mut self.value else { return None };
        map.iter_mut().find(|(name, _)| name.name == key).map(|(_, node)| node)
    }

    /// JSON as a tree; it has no places.
    pub fn of_json(json: &Json) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(yes) => Value::Bool(*yes),
            Json::Number(number) => number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int),
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::of_json).collect()),
            Json::Object(map) => Value::Map(map.iter().map(|(name, value)| (Key::of(name), Self::of_json(value))).collect()),
        };
        Self { value, place: Place::default(), referenced: false }
    }

    /// The text, where this is text.
    pub fn text(&self) -> Option<&str> {
        let Value::String(text) = &self.value else { return None };
        Some(text)
    }

    /// The entries, where this is a map; otherwise none.
    pub fn entries(&self) -> &[(Key, Self)] {
        let Value::Map(map) = &self.value else { return &[] };
        map
    }

    /// The items, where this is a list; otherwise none.
    pub fn items(&self) -> &[Self] {
        let Value::List(items) = &self.value else { return &[] };
        items
    }

    /// How many keys, values, lists and maps this is, itself included.
    pub fn count(&self) -> usize {
        let below = match &self.value {
            Value::Map(map) => map.iter().map(|(_, node)| 1 + node.count()).sum(),
            Value::List(items) => items.iter().map(Self::count).sum(),
            _ => 0,
        };
        1 + below
    }

    /// What kind of value this is, with an article, for messages: `a list`.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::String(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}
