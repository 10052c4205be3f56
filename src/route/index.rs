//! Finds the few rules, or subscriptions, that can match an event without looking at the others.
//!
//! Every glob says something of a text that can be looked up: all of it, how it begins or ends, one of its parts. Each rule is filed once,
//! under what the fewest others say of source, type or namespace; those that say nothing are looked at for every event. Where many rules
//! say the same there, they are told apart by the texts that their `when` asks for. What is said here of rules holds for subscriptions.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use super::{
    View,
    glob::Glob,
    when::{Condition, Form, Test},
};
use crate::envelope::Envelope;

/// How many rules are looked at one by one rather than told apart by their `when`.
const TOLD_APART: usize = 16;
/// Most paths by which the rules of one bucket are told apart: each is looked up for every event that comes there.
const PATHS_MAX: usize = 8;

/// Something that is filed here.
pub(super) trait Filed {
    /// What it says of that of an event. Nothing: anything fits.
    fn says(&self, field: Field) -> Says<'_>;

    /// What must hold besides.
    fn when(&self) -> &[Condition];
}

/// What a text must be: one of these.
#[derive(Debug, Clone, Copy)]
pub(super) enum Says<'f> {
    /// Globs.
    Globs(&'f [Glob]),
    /// Exactly so, whatever characters are in it.
    Texts(&'f BTreeSet<String>),
}

#[derive(Debug, Default)]
pub(super) struct Index {
    source: Texts,
    r#type: Texts,
    namespace: Texts,
    others: Bucket,
}

impl Index {
    pub(super) fn new<F: Filed>(rules: &[F]) -> Self {
        let mut shared: HashMap<Key<'_>, usize> = HashMap::new();
        for key in rules.iter().flat_map(|rule| Field::ALL.into_iter().flat_map(|field| field.keys(rule))).flatten() {
            *shared.entry(key).or_default() += 1;
        }
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            match narrowest(rule, &shared) {
                Some(keys) => keys.into_iter().for_each(|key| index.texts(key.field).file(key, at)),
                None => index.others.rules.push(at),
            }
        }
        index.buckets().for_each(|bucket| bucket.tell_apart(rules));
        index
    }

    /// The places of the rules that can match the event of `view`, in order, each once.
    pub(super) fn candidates(&self, event: &Envelope, view: &mut View<'_>) -> Vec<usize> {
        let mut buckets = vec![&self.others];
        self.source.buckets(event.source.as_str(), &mut buckets);
        self.r#type.buckets(&event.r#type, &mut buckets);
        event.namespace.iter().for_each(|namespace| self.namespace.buckets(namespace, &mut buckets));
        let mut found = Vec::new();
        buckets.into_iter().for_each(|bucket| bucket.candidates(view, &mut found));
        found.sort_unstable();
        found.dedup();
        found
    }

    fn texts(&mut self, field: Field) -> &mut Texts {
        match field {
            Field::Source => &mut self.source,
            Field::Type => &mut self.r#type,
            Field::Namespace => &mut self.namespace,
        }
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        let fields = [&mut self.source, &mut self.r#type, &mut self.namespace];
        let filed = fields.into_iter().flat_map(|texts| {
            let Texts { exact, begins, ends, parts } = texts;
            [exact, &mut begins.by_text, &mut ends.by_text, parts].into_iter().flat_map(HashMap::values_mut)
        });
        filed.chain([&mut self.others])
    }
}

/// What of an event a glob is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Source,
    Type,
    Namespace,
}

impl Field {
    const ALL: [Self; 3] = [Self::Namespace, Self::Type, Self::Source];

    /// For each glob or text that `rule` holds against this, what it says of a text.
    fn keys<F: Filed>(self, rule: &F) -> Vec<Vec<Key<'_>>> {
        match rule.says(self) {
            Says::Globs(globs) => globs.iter().map(|glob| keys(self, glob)).collect(),
            Says::Texts(texts) => texts.iter().map(|text| vec![Key { field: self, place: Place::All, text }]).collect(),
        }
    }
}

/// Something that every text which a glob fits has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'g> {
    field: Field,
    place: Place,
    text: &'g str,
}

/// Where it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    /// It is nothing else.
    All,
    Beginning,
    End,
    /// As one of the parts between dots.
    Part,
}

fn keys(field: Field, glob: &Glob) -> Vec<Key<'_>> {
    let key = |place, text| Key { field, place, text };
    if let Some(exact) = glob.exact() {
        return vec![key(Place::All, exact)];
    }
    let ends = glob.text().split_once('*').zip(glob.text().rsplit_once('*'));
    let ends = ends.map(|((beginning, _), (_, end))| [key(Place::Beginning, beginning), key(Place::End, end)]);
    let parts = glob.literals().map(|part| key(Place::Part, part));
    ends.into_iter().flatten().chain(parts).filter(|key| !key.text.is_empty()).collect()
}

/// The keys under which `rule` meets the fewest others: one for each glob of one field. `None` where no field tells it apart.
fn narrowest<'r, F: Filed>(rule: &'r F, shared: &HashMap<Key<'_>, usize>) -> Option<Vec<Key<'r>>> {
    let others = |key: &Key<'_>| shared.get(key).copied().unwrap_or_default();
    let rarest = |keys: Vec<Key<'r>>| keys.into_iter().min_by_key(others);
    let of_field = |field: Field| {
        let keys = field.keys(rule).into_iter().map(rarest).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(keys)
    };
    // An event comes to one of them mostly: the worst counts, then what is to be expected.
    let cost = |keys: &Vec<Key<'r>>| {
        let each = || keys.iter().map(others);
        (each().max(), each().sum::<usize>() / keys.len().max(1))
    };
    Field::ALL.into_iter().filter_map(of_field).min_by_key(cost)
}

/// Rules by what they say of one text.
#[derive(Debug, Default)]
struct Texts {
    exact: HashMap<String, Bucket>,
    begins: Ends,
    ends: Ends,
    parts: HashMap<String, Bucket>,
}

/// Rules by how a text begins, or ends.
#[derive(Debug, Default)]
struct Ends {
    by_text: HashMap<String, Bucket>,
    /// The lengths, in bytes, that occur.
    lengths: Vec<usize>,
}

impl Texts {
    fn file(&mut self, key: Key<'_>, at: usize) {
        let by_text = match key.place {
            Place::All => &mut self.exact,
            Place::Beginning => self.begins.of_length(key.text.len()),
            Place::End => self.ends.of_length(key.text.len()),
            Place::Part => &mut self.parts,
        };
        by_text.entry(key.text.to_owned()).or_default().rules.push(at);
    }

    /// Adds the buckets of rules that can fit `text`.
    fn buckets<'i>(&'i self, text: &str, found: &mut Vec<&'i Bucket>) {
        found.extend(self.exact.get(text));
        let beginnings = self.begins.lengths.iter().filter_map(|length| text.get(..*length));
        found.extend(beginnings.filter_map(|beginning| self.begins.by_text.get(beginning)));
        let ends = self.ends.lengths.iter().filter_map(|length| text.get(text.len().checked_sub(*length)?..));
        found.extend(ends.filter_map(|end| self.ends.by_text.get(end)));
        if !self.parts.is_empty() {
            found.extend(text.split('.').filter_map(|part| self.parts.get(part)));
        }
    }
}

impl Ends {
    fn of_length(&mut self, length: usize) -> &mut HashMap<String, Bucket> {
        if let Err(at) = self.lengths.binary_search(&length) {
            self.lengths.insert(at, length);
        }
        &mut self.by_text
    }
}

/// Rules that are looked at together.
#[derive(Debug, Default)]
struct Bucket {
    /// Those that are looked at for every event that comes here.
    rules: Vec<usize>,
    /// Those that want a certain text at the path of this condition.
    wanting: Vec<(Condition, HashMap<String, Vec<usize>>)>,
}

impl Bucket {
    fn candidates(&self, view: &mut View<'_>, found: &mut Vec<usize>) {
        found.extend(&self.rules);
        for (condition, by_text) in &self.wanting {
            let Form::Tests(path, _) = &condition.0 else { continue };
            let texts = path.find(view.value()).into_iter().filter_map(|value| value.as_str());
            found.extend(texts.filter_map(|text| by_text.get(text)).flatten());
        }
    }

    /// Puts rules that want certain texts under these, where there are many.
    fn tell_apart<F: Filed>(&mut self, rules: &[F]) {
        if self.rules.len() <= TOLD_APART {
            return;
        }
        let mut by_path: HashMap<&str, Vec<Wanted<'_>>> = HashMap::new();
        let mut left = Vec::new();
        for at in std::mem::take(&mut self.rules) {
            match rules.get(at).and_then(|rule| rule.when().iter().find_map(|condition| wanted(at, condition))) {
                Some(wanted) => by_path.entry(wanted.path).or_default().push(wanted),
                None => left.push(at),
            }
        }
        let mut paths: Vec<_> = by_path.into_values().collect();
        paths.sort_by_key(|wanting| Reverse(wanting.len()));
        let beyond = paths.split_off(PATHS_MAX.min(paths.len()));
        left.extend(beyond.into_iter().flatten().map(|wanted| wanted.at));
        for wanting in paths {
            let mut by_text: HashMap<String, Vec<usize>> = HashMap::new();
            for (wanted, text) in wanting.iter().flat_map(|wanted| wanted.texts.iter().map(move |text| (wanted, text))) {
                by_text.entry((*text).to_owned()).or_default().push(wanted.at);
            }
            self.wanting.extend(wanting.first().map(|wanted| (wanted.condition.clone(), by_text)));
        }
        self.rules = left;
    }
}

/// A condition that holds only for certain texts, and the place of its rule.
struct Wanted<'r> {
    at: usize,
    condition: &'r Condition,
    path: &'r str,
    texts: Vec<&'r str>,
}

fn wanted(at: usize, condition: &Condition) -> Option<Wanted<'_>> {
    let Form::Tests(path, tests) = &condition.0 else { return None };
    let texts = tests.iter().find_map(|test| match test {
        Test::Eq(value) => Some(vec![value.as_str()?]),
        Test::In(values) => values.iter().map(|value| value.as_str()).collect(),
        _ => None,
    });
    Some(Wanted { at, condition, path: path.text(), texts: texts? })
}
