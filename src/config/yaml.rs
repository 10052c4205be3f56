//! YAML text in, a [`Node`] tree out, or problems with their places. The one module that knows the YAML crate, so that it can be
//! swapped. Size, depth, nodes and aliases are bounded, because the file may be hostile.

use std::{collections::HashMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    DuplicateKeyPolicy, Error, Location, MergeKeyPolicy, NonFiniteFloatPolicy, Options, Spanned, alias_limits, budget,
    budget::BudgetBreach, options,
};

use super::{
    decode::Context,
    files::Files,
    mask, read, traps,
    tree::{Key, Node, Place, Value},
};

/// Largest file, in bytes: ten thousand rules of a few lines each.
pub const FILE_MAX: usize = 4 * 1024 * 1024;
/// How deep lists and maps may nest.
const DEPTH_MAX: usize = 32;
/// How many keys, values, lists and maps all files together may hold; what aliases stand for counts again.
/// Ten thousand rules of twenty each, and as much again.
pub(super) const NODES_MAX: usize = 400_000;
/// How much of that aliases may stand for.
const REPLAYED_MAX: usize = 50_000;
/// How many aliases (`*name`) a file may hold.
const ALIASES_MAX: usize = 100;
/// A byte order mark, which editors on Windows put first.
const BOM: char = '\u{feff}';

/// Reads `text` as one YAML document. Notes every repeated key, or the one thing that keeps it from being YAML.
pub fn parse(text: &str, cx: &mut Context) -> Option<Node> {
    parse_at(0, text, NODES_MAX, cx)
}

/// The same for a file that begins at byte `base` of all files, and may hold so many `nodes`.
pub(super) fn parse_at(base: usize, text: &str, nodes: usize, cx: &mut Context) -> Option<Node> {
    if FILE_MAX < text.len() {
        cx.error("too-large", Place { start: base, end: base }, read::too_large());
        return None;
    }
    let reader = Reader::new(base, text, nodes, cx.files.clone());
    match reader.read(DuplicateKeyPolicy::Error) {
        Ok(root) => reader.node(root, cx),
        Err(error) if matches!(innermost(&error), Error::DuplicateMappingKey { .. }) => reader.repeated(&error, cx),
        Err(error) => reader.refuse(&error, cx),
    }
}

/// Every limit in one place; see the constants above.
fn limits(nodes: usize) -> Options {
    options! {
        budget: budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: nodes,
            max_events: 4 * nodes,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_recorded_anchor_events: REPLAYED_MAX,
            max_recorded_anchor_bytes: FILE_MAX,
            max_documents: 1,
            max_total_scalar_bytes: FILE_MAX,
        },
        alias_limits: alias_limits! { max_total_replayed_events: REPLAYED_MAX, max_replay_stack_depth: DEPTH_MAX },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

/// The text that is read, and how its offsets relate to the file's.
struct Reader<'t> {
    text: &'t str,
    /// Bytes of all files in front of `text`: other files, and the byte order mark.
    skipped: usize,
    /// Of all files.
    files: Arc<Files>,
    /// How many keys and values it may hold.
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn new(base: usize, file: &'t str, nodes: usize, files: Arc<Files>) -> Self {
        let text = file.strip_prefix(BOM).unwrap_or(file);
        Self { text, skipped: base + file.len() - text.len(), files, nodes }
    }

    fn read(&self, duplicate_keys: DuplicateKeyPolicy) -> Result<Spanned<Raw>, Error> {
        let mut options = limits(self.nodes);
        options.duplicate_keys = duplicate_keys;
        serde_saphyr::from_str_with_options(self.text, options)
    }

    /// Reads a file with a repeated key once more, leniently, so that the rest of it is checked in the same run.
    fn repeated(&self, error: &Error, cx: &mut Context) -> Option<Node> {
        let before = cx.problems.len();
        let root = self.read(DuplicateKeyPolicy::LastWins).map(|root| self.node(root, cx));
        match root {
            Ok(root) if before < cx.problems.len() => root,
            // Keys that are numbers are collapsed by the crate before we could see them.
            Ok(_) => self.refuse(error, cx),
            Err(other) => self.refuse(&other, cx),
        }
    }

    fn place(&self, at: Location) -> Place {
        let span = at.span();
        let (Some(start), Some(length)) = (span.byte_offset(), span.byte_len()) else {
            return self.place_of_line(at);
        };
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        self.within(bytes(start), bytes(start).saturating_add(bytes(length)))
    }

    /// For the few errors that know a line and column only.
    fn place_of_line(&self, at: Location) -> Place {
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        let before: usize = self.text.split_inclusive('\n').take(number(at.line())).map(str::len).sum();
        let line = self.text.get(before..).unwrap_or_default();
        let column: usize = line.chars().take(number(at.column())).map(char::len_utf8).sum();
        self.within(before + column, before + column)
    }

    /// The range as one of the file's, without the white space the crate counts in at its end.
    fn within(&self, start: usize, end: usize) -> Place {
        let start = start.min(self.text.len());
        let end = end.clamp(start, self.text.len());
        let length = self.text.get(start..end).map_or(end - start, |slice| slice.trim_end().len());
        Place { start: start + self.skipped, end: start + length + self.skipped }
    }

    fn node(&self, spanned: Spanned<Raw>, cx: &mut Context) -> Option<Node> {
        let mut place = self.place(spanned.referenced);
        let value = match spanned.value {
            Raw::Null => Value::Null,
            Raw::Bool(yes) => Value::Bool(yes),
            Raw::Int(number) => Value::Int(number),
            Raw::Float(number) => Value::Float(number),
            Raw::String(text) => Value::String(text),
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.node(item, cx)).collect::<Option<_>>()?),
            Raw::Map(_) if self.is_template(place) => {
                let text = self.whole_template(&mut place);
                let help = format!("put it in quotes: {}", traps::quoted(&text));
                let message = "a value that begins with `{` is a map: a template stands in quotes";
                cx.error("bad-yaml", place, message).help(help).fix = Some(traps::quoted(&text));
                // Whoever reads it finds what was meant.
                Value::String(text)
            }
            Raw::Map(entries) => {
                let map = self.map(entries, cx)?;
                // A block map begins where its first key does, so that key is what one points at; a flow map at its brace.
                if let Some((first, _)) = map.first().filter(|(first, _)| first.place.start == place.start) {
                    place = first.place;
                }
                Value::Map(map)
            }
        };
        Some(Node { value, place, referenced: false })
    }

    /// `{{ event.type }}` without quotes is a map whose one key is a map.
    fn is_template(&self, place: Place) -> bool {
        self.file(place.start).is_some_and(|rest| rest.starts_with("{{"))
    }

    /// All of it, and its place: the crate tells where a map begins.
    fn whole_template(&self, place: &mut Place) -> String {
        let rest = self.file(place.start).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        let end = line.find("}}").map_or(line.len(), |at| at + 2);
        place.end = place.start + end;
        line.get(..end).unwrap_or_default().to_owned()
    }

    /// The text from byte `at` of the file on.
    fn file(&self, at: usize) -> Option<&'t str> {
        self.text.get(at.checked_sub(self.skipped)?..)
    }

    fn map(&self, entries: Vec<(Spanned<Raw>, Spanned<Raw>)>, cx: &mut Context) -> Option<Vec<(Key, Node)>> {
        let mut map: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        let mut first_places: HashMap<String, Place> = HashMap::new();
        for (key, value) in entries {
            let key = self.key(key, cx);
            let node = self.node(value, cx)?;
            match key {
                Some(key) if self.is_new(&key, &mut first_places, cx) => map.push((key, node)),
                // In no tree, and yet on a line that is shown.
                dropped => cx.hidden.extend(mask::secrets_of(dropped.as_ref().map(|key| key.name.as_str()), &node)),
            }
        }
        Some(map)
    }

    /// Notes a key that its map holds already.
    fn is_new(&self, key: &Key, first_places: &mut HashMap<String, Place>, cx: &mut Context) -> bool {
        let Some(first) = first_places.get(&key.name) else {
            first_places.insert(key.name.clone(), key.place);
            return true;
        };
        let there = self.files.whereabouts(*first, key.place);
        cx.error("repeated-key", key.place, format!("the key `{}` is here twice", key.name)).note(format!("first {there}"));
        false
    }

    /// A key as text. A whole number is taken as it is written: `404`.
    fn key(&self, spanned: Spanned<Raw>, cx: &mut Context) -> Option<Key> {
        let place = self.place(spanned.referenced);
        let name = match spanned.value {
            Raw::String(text) => text,
            Raw::Int(number) => number.to_string(),
            _ => {
                cx.error("bad-key", place, "a key must be text").help("put it in quotes");
                return None;
            }
        };
        Some(Key { name, place })
    }

    /// Notes that the text is not YAML, or not YAML as this file uses it.
    fn refuse(&self, error: &Error, cx: &mut Context) -> Option<Node> {
        let error = innermost(error);
        let place = error.location().map_or_else(|| self.within(0, 0), |at| self.place(at));
        let (code, message) = describe(error);
        let trap = match code {
            "bad-yaml" => traps::syntax(self.text, place.start.saturating_sub(self.skipped), &message),
            _ => None,
        };
        let problem = cx.error(code, place, message);
        if let Some(trap) = trap {
            problem.place = Place { start: trap.place.start + self.skipped, end: trap.place.end + self.skipped };
            problem.message = trap.message;
            problem.fix = trap.fix;
            problem.help(trap.help);
        }
        None
    }
}

/// The error itself, without what the crate wraps around it.
fn innermost(error: &Error) -> &Error {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => innermost(error),
        other => other,
    }
}

/// The code and sentence for what the crate refused. Its own words never hold values of the file but for the names of anchors.
fn describe(error: &Error) -> (&'static str, String) {
    match error {
        Error::MultipleDocuments { .. } | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            ("bad-yaml", "one file is one YAML document: a second one begins here".to_owned())
        }
        Error::Budget { breach, .. } => ("too-large", budget_message(breach)),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => ("too-large", "the aliases of the file stand for too much".to_owned()),
        Error::DuplicateMappingKey { key: Some(key), .. } => ("repeated-key", format!("the key `{key}` is here twice")),
        Error::DuplicateMappingKey { .. } => ("repeated-key", "a key is here twice".to_owned()),
        Error::MergeKeyNotAllowed { .. } => ("bad-yaml", "`<<` is not used here: there is no inheritance".to_owned()),
        Error::UnknownAnchor { .. } => ("bad-yaml", "this alias (`*name`) stands for nothing".to_owned()),
        Error::UnsupportedTag { .. } => ("bad-yaml", "a tag (`!name`) means nothing here".to_owned()),
        Error::ExternalMessage { msg, .. } if msg.contains("recursion limit") => ("too-large", too_deep()),
        Error::ExternalMessage { msg, .. } => ("bad-yaml", format!("this is not YAML: {}", msg.trim_end_matches('.'))),
        _ => ("bad-yaml", "this is not YAML as the file uses it".to_owned()),
    }
}

fn too_deep() -> String {
    format!("lists and maps nest more than {DEPTH_MAX} deep")
}

fn budget_message(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => too_deep(),
        BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. } | BudgetBreach::AliasAnchorRatio { .. } => {
            format!("the file holds more than {ALIASES_MAX} aliases")
        }
        BudgetBreach::RecordedAnchorEvents { .. } | BudgetBreach::RecordedAnchorBytes { .. } => {
            "the aliases of the file stand for too much".to_owned()
        }
        _ => format!("the configuration holds more than {NODES_MAX} keys and values"),
    }
}

/// A value as the crate hands it over, before keys are known to be text.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, yes: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(yes))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Raw, E> {
        Ok(Raw::Int(number))
    }

    #[expect(clippy::cast_precision_loss, reason = "nothing in the file is as large and exact")]
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Raw, E> {
        Ok(i64::try_from(number).map_or(Raw::Float(number as f64), Raw::Int))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Raw, E> {
        Ok(Raw::Float(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::String(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests;
