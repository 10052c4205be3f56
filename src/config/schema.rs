//! What `routes.yaml` may say, as JSON Schema draft 7 for editors. It is made from the types and the tables of keys that the decoder
//! reads by, so that neither says what the other does not.
//!
//! Draft 7 is what the YAML language server speaks. A schema knows shapes: which keys there are, and what a value looks like. What
//! only makes sense beside another value, or beyond the file, is for `hookyard check`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::Keys;
use crate::envelope::Name;

/// What a text with a reference in it looks like: what it stands for is known when it is resolved.
const REFERENCE: &str = r"\$\{[^}]+\}";
/// What the name of a thing looks like (`Name::parse`).
const NAME: &str = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

/// A type whose values stand in `routes.yaml`.
pub trait Shape {
    /// What its values look like. Shapes that have a name of their own go into `all`.
    fn schema(all: &mut Definitions) -> Schema;

    /// The type that is read; a wrapper answers what it wraps.
    fn type_name() -> &'static str {
        std::any::type_name::<Self>()
    }
}

/// Shapes that have a name, since several places or they themselves refer to them.
#[derive(Debug, Default)]
pub struct Definitions(BTreeMap<&'static str, Value>);

impl Definitions {
    /// A reference to the shape `name`, which is made the first time.
    pub fn named(&mut self, name: &'static str, make: impl FnOnce(&mut Self) -> Schema) -> Schema {
        if !self.0.contains_key(name) {
            self.0.insert(name, Value::Null); // A shape that holds itself ends here.
            let made = make(self);
            self.0.insert(name, made.into_value());
        }
        Schema::default().with("$ref", json!(format!("#/definitions/{name}")))
    }
}

/// What a value may be.
#[derive(Debug, Clone, Default)]
pub struct Schema(Map<String, Value>);

/// The shapes of single values.
impl Schema {
    /// Any text.
    pub fn text() -> Self {
        Self::default().with("type", json!("string"))
    }

    /// Text that fits `pattern`; `expected` says in words what that is.
    pub fn like(pattern: &str, expected: &str) -> Self {
        Self::text().pattern(pattern, expected)
    }

    /// `true` or `false`.
    pub fn boolean() -> Self {
        Self::or_reference("boolean")
    }

    /// A whole number.
    pub fn integer() -> Self {
        Self::or_reference("integer")
    }

    /// A whole number, and no reference to one: for what may be text of another form besides.
    pub fn only_integer() -> Self {
        Self::default().with("type", json!("integer"))
    }

    /// A number.
    pub fn number() -> Self {
        Self::or_reference("number")
    }

    fn or_reference(kind: &str) -> Self {
        Self::default().with("type", json!([kind, "string"])).with("pattern", json!(REFERENCE))
    }

    /// This value and no other.
    pub fn only(value: impl Into<Value>) -> Self {
        Self::default().with("const", value.into())
    }

    /// One of a few words.
    pub fn words(words: impl IntoIterator<Item = &'static str>) -> Self {
        let words: Vec<_> = words.into_iter().collect();
        Self::any_of([Self::default().with("enum", json!(words)), Self::like(REFERENCE, "a word")])
    }

    /// The name of a thing.
    pub fn name() -> Self {
        Self::like(NAME, "a name: letters, digits, `.`, `_` and `-`, at most 64")
    }

    /// Anything.
    pub fn anything() -> Self {
        Self::default()
    }

    /// Any of these.
    pub fn any_of(shapes: impl IntoIterator<Item = Self>) -> Self {
        let shapes: Vec<_> = shapes.into_iter().map(Self::into_value).collect();
        Self::default().with("anyOf", json!(shapes))
    }
}

/// The shapes of lists and maps.
impl Schema {
    /// A list of such items.
    pub fn list(items: Self) -> Self {
        Self::default().with("type", json!("array")).with("items", items.into_value())
    }

    /// One, or a list of such.
    pub fn one_or_more(item: Self) -> Self {
        Self::any_of([item.clone(), Self::list(item)])
    }

    /// A map of such values under any keys.
    pub fn map_of(values: Self) -> Self {
        Self::default().with("type", json!("object")).with("additionalProperties", values.into_value())
    }

    /// A map of such values under keys that fit `pattern`.
    pub fn map_under(pattern: &str, values: Self) -> Self {
        Self::map_of(values).with("propertyNames", json!({"pattern": pattern}))
    }

    /// A map of such values under the names of things.
    pub fn names_of(values: Self) -> Self {
        Self::map_under(NAME, values)
    }

    /// A map with these keys and no others.
    pub fn map(keys: Keys, all: &mut Definitions) -> Self {
        let map = Self::default().with("type", json!("object")).with("additionalProperties", json!(false));
        keys.narrow(map.keys(keys, all))
    }

    /// A map with the keys `common` and those of its `kind`, and no others. What has no kind that is known may hold anything: to
    /// say that it lacks one is enough.
    pub fn map_by_kind(common: Keys, kinds: impl IntoIterator<Item = (&'static str, Keys)>, all: &mut Definitions) -> Self {
        let names: Map<String, Value> = common.all().iter().map(|key| (key.name.to_owned(), json!(true))).collect();
        let mut arms = Vec::new();
        for (word, keys) in kinds {
            let is_one = json!({"properties": {"kind": {"const": word}}, "required": ["kind"]});
            let mut then = Self::default().with("additionalProperties", json!(false)).keys(keys, all);
            if let Some(Value::Object(properties)) = then.0.get_mut("properties") {
                properties.extend(names.clone());
            }
            arms.push(json!({"if": is_one, "then": keys.narrow(then).into_value()}));
        }
        let map = Self::default().with("type", json!("object")).keys(common, all).with("allOf", json!(arms));
        common.narrow(map)
    }

    /// What holds for a map of which `condition` holds, and what for others.
    pub fn depending(condition: Value, then: Self, otherwise: Self) -> Self {
        Self::default().with("if", condition).with("then", then.into_value()).with("else", otherwise.into_value())
    }

    fn keys(self, keys: Keys, all: &mut Definitions) -> Self {
        let keys = keys.all();
        let properties: Map<_, _> = keys.iter().map(|key| (key.name.to_owned(), key.schema(all).into_value())).collect();
        let required: Vec<_> = keys.iter().filter(|key| key.is_required()).map(|key| key.name).collect();
        let map = self.with("properties", json!(properties));
        if required.is_empty() { map } else { map.with("required", json!(required)) }
    }
}

/// Narrower shapes.
impl Schema {
    /// Text of which this holds too; `expected` says in words what fits.
    pub fn pattern(self, pattern: &str, expected: &str) -> Self {
        let either = if pattern == REFERENCE { pattern.to_owned() } else { format!("{pattern}|{REFERENCE}") };
        self.with("pattern", json!(either)).with("patternErrorMessage", json!(format!("expected {expected}")))
    }

    /// Numbers in this range.
    pub fn between(self, least: u64, most: u64) -> Self {
        self.at_least(least).with("maximum", json!(most))
    }

    /// Numbers from this on.
    pub fn at_least(self, least: u64) -> Self {
        self.with("minimum", json!(least))
    }

    /// Lists, texts and maps that hold something, of whichever of these it may be.
    pub fn not_empty(mut self) -> Self {
        if let Some(Value::Array(shapes)) = self.0.get_mut("anyOf") {
            let lists = shapes.iter_mut().filter_map(Value::as_object_mut).filter(|it| it.contains_key("items"));
            lists.for_each(|list| _ = list.insert("minItems".to_owned(), json!(1)));
            return self;
        }
        let bound = match self.0.get("type").and_then(Value::as_str) {
            Some("array") => "minItems",
            Some("object") => "minProperties",
            _ => "minLength",
        };
        self.with(bound, json!(1))
    }

    /// Maps that have one of these keys and no more.
    pub fn exactly_one(self, keys: &[&str]) -> Self {
        self.with("oneOf", json!(having(keys)))
    }

    /// Maps that have one of these keys or more.
    pub fn at_least_one(self, keys: &[&str]) -> Self {
        self.with("anyOf", json!(having(keys)))
    }

    /// Maps that have none of these keys.
    pub fn without(self, keys: &[&str]) -> Self {
        self.with("not", json!({"anyOf": having(keys)}))
    }

    /// Maps that have `key`, or else all of `others`.
    pub fn either(self, key: &str, others: &[&str]) -> Self {
        self.with("anyOf", json!([{"required": [key]}, {"required": others}]))
    }

    /// Maps that have `others` wherever they have `key`.
    pub fn needs(mut self, key: &str, others: &[&str]) -> Self {
        let entry = self.0.entry("dependencies").or_insert_with(|| json!({}));
        if let Value::Object(dependencies) = entry {
            dependencies.insert(key.to_owned(), json!(others));
        }
        self
    }

    /// Maps that have `other` wherever `key` is `value`.
    pub fn needs_where(self, key: &str, value: &str, other: &str) -> Self {
        let is_so = json!({"properties": {key: {"const": value}}, "required": [key]});
        self.with("if", is_so).with("then", json!({"required": [other]}))
    }

    /// Maps of which, wherever the first of a pair holds, the second does, too.
    pub fn wherever(self, pairs: impl IntoIterator<Item = (Value, Value)>) -> Self {
        let all: Vec<_> = pairs.into_iter().map(|(so, then)| json!({"if": so, "then": then})).collect();
        self.with("allOf", json!(all))
    }

    /// Either such a value, or none.
    pub(super) fn or_null(mut self) -> Self {
        const PLAIN: [&str; 7] = ["type", "pattern", "patternErrorMessage", "items", "minItems", "minimum", "maximum"];
        if self.0.is_empty() {
            return self;
        }
        if self.0.keys().all(|word| PLAIN.contains(&word.as_str())) {
            match self.0.get_mut("type") {
                Some(Value::Array(types)) => types.push(json!("null")),
                Some(one) => *one = json!([one.take(), "null"]),
                None => {}
            }
            return self;
        }
        if let (1, Some(Value::Array(shapes))) = (self.0.len(), self.0.get_mut("anyOf")) {
            shapes.push(json!({"type": "null"}));
            return self;
        }
        Self::any_of([self, Self::default().with("type", json!("null"))])
    }

    /// Tells an editor what it is for. Beside a `$ref` draft 7 reads nothing, so that one is wrapped.
    pub(super) fn described(self, about: &str, default: Option<&str>, example: Option<&str>) -> Self {
        let mut schema = Self::default().with("description", json!(about));
        if let Some(default) = default {
            schema = schema.with("default", written(default));
        }
        if let Some(example) = example {
            schema = schema.with("examples", json!([written(example)]));
        }
        if self.0.contains_key("$ref") {
            return schema.with("allOf", json!([self.into_value()]));
        }
        schema.0.extend(self.0);
        schema
    }

    fn with(mut self, word: &str, value: Value) -> Self {
        self.0.insert(word.to_owned(), value);
        self
    }

    fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

fn having(keys: &[&str]) -> Vec<Value> {
    keys.iter().map(|key| json!({"required": [key]})).collect()
}

/// A value as a table of keys writes it: JSON, or else text.
pub(super) fn written(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

/// A map of such values by name.
#[derive(Debug)]
pub struct Named<T>(std::marker::PhantomData<T>);

impl<T: Shape> Shape for Named<T> {
    fn schema(all: &mut Definitions) -> Schema {
        Schema::names_of(T::schema(all))
    }
}

impl Shape for Name {
    fn schema(_: &mut Definitions) -> Schema {
        Schema::name()
    }
}

/// The schema of a whole file that has these keys.
pub(super) fn of_file(keys: Keys) -> Value {
    let mut all = Definitions::default();
    let root = Schema::map(keys, &mut all);
    whole(root, all)
}

/// The schema of a file that has those of these keys that `has` says, any of which may be absent.
pub(super) fn of_part(keys: Keys, has: impl Fn(&str) -> bool) -> Value {
    let mut all = Definitions::default();
    let mut root = Schema::map(keys, &mut all);
    root.0.remove("required");
    if let Some(Value::Object(properties)) = root.0.get_mut("properties") {
        properties.retain(|name, _| has(name));
    }
    whole(root, all)
}

fn whole(mut root: Schema, all: Definitions) -> Value {
    let mut head = Map::new();
    head.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    head.insert("title".to_owned(), json!("routes.yaml of Hookyard"));
    head.append(&mut root.0);
    head.insert("definitions".to_owned(), json!(all.0));
    Value::Object(head)
}
