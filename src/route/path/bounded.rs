//! Paths that strangers write. Of JSONPath they may say what finds its nodes in one walk, and the walk ends after so many looks: a path
//! costs every event that comes what it costs, whoever wrote it and whatever the event holds. What the library would do for them grows
//! with the square of the event, or faster; it reads them, and no more.

use std::borrow::Cow;

use jsonpath_rust::parser::model::{
    Comparable, Comparison, Filter, FilterAtom, JpQuery, Literal, Segment, Selector, SingularQuery, SingularQuerySegment, Test,
};
use serde_json::Value;

use crate::route::when::{equal, order};

/// Most values that such a path looks at in one event. What lies behind is not found.
pub const LOOKS_MAX: usize = 50_000;

/// Says why `query` may not be a stranger's.
pub(super) fn check(query: &JpQuery) -> Result<(), &'static str> {
    let mut descents = 0;
    for segment in &query.segments {
        descents += usize::from(matches!(segment, Segment::Descendant(_)));
        selectors(segment).iter().try_for_each(check_selector)?;
    }
    if descents <= 1 { Ok(()) } else { Err("has more than one `..`") }
}

fn check_selector(selector: &Selector) -> Result<(), &'static str> {
    match selector {
        Selector::Filter(filter) => check_filter(filter),
        _ => Ok(()),
    }
}

fn check_filter(filter: &Filter) -> Result<(), &'static str> {
    match filter {
        Filter::Or(all) | Filter::And(all) => all.iter().try_for_each(check_filter),
        Filter::Atom(FilterAtom::Filter { expr, .. }) => check_filter(expr),
        Filter::Atom(FilterAtom::Test { expr, .. }) => match &**expr {
            Test::RelQuery(segments) if segments.iter().all(|segment| step(segment).is_some()) => Ok(()),
            Test::RelQuery(_) | Test::AbsQuery(_) => Err(PLAIN_ONLY),
            Test::Function(_) => Err(NO_FUNCTIONS),
        },
        Filter::Atom(FilterAtom::Comparison(comparison)) => {
            let (left, right) = comparison.vals();
            [left, right].into_iter().try_for_each(|side| match side {
                Comparable::Literal(_) | Comparable::SingularQuery(SingularQuery::Current(_)) => Ok(()),
                Comparable::SingularQuery(SingularQuery::Root(_)) => Err(PLAIN_ONLY),
                Comparable::Function(_) => Err(NO_FUNCTIONS),
            })
        }
    }
}

const PLAIN_ONLY: &str = "has within `[?…]` something else than plain chains that begin with `@`, such as `@.amount`";
const NO_FUNCTIONS: &str = "calls a function within `[?…]`";

/// The nodes that `query`, which passed [`check`], finds in `root`; some may come twice, as in RFC 9535.
pub(super) fn find<'v>(query: &JpQuery, root: &'v Value) -> Vec<&'v Value> {
    let mut walk = Walk { left: LOOKS_MAX, found: Vec::new() };
    let mut nodes = vec![root];
    for segment in &query.segments {
        for node in nodes {
            if let Segment::Descendant(_) = segment {
                walk.all_below(node, selectors(segment));
            } else {
                walk.select(node, selectors(segment));
            }
        }
        nodes = std::mem::take(&mut walk.found);
    }
    nodes
}

fn selectors(segment: &Segment) -> &[Selector] {
    match segment {
        // The library nests no descendant in another.
        Segment::Descendant(inner) => match &**inner {
            Segment::Selector(one) => std::slice::from_ref(one),
            Segment::Selectors(several) => several,
            Segment::Descendant(_) => &[],
        },
        Segment::Selector(one) => std::slice::from_ref(one),
        Segment::Selectors(several) => several,
    }
}

struct Walk<'v> {
    /// Looks that are left.
    left: usize,
    found: Vec<&'v Value>,
}

impl<'v> Walk<'v> {
    fn looks(&mut self) -> bool {
        let looks = 0 < self.left;
        self.left = self.left.saturating_sub(1);
        looks
    }

    /// Selects in `node` and in whatever lies below it.
    fn all_below(&mut self, node: &'v Value, selectors: &[Selector]) {
        let mut waiting = vec![node];
        while let Some(node) = waiting.pop().filter(|_| self.looks()) {
            self.select(node, selectors);
            let from = waiting.len();
            waiting.extend(children(node).take(self.left).filter(|child| child.is_array() || child.is_object()));
            if let Some(new) = waiting.get_mut(from..) {
                new.reverse();
            }
        }
    }

    fn select(&mut self, node: &'v Value, selectors: &[Selector]) {
        for selector in selectors {
            if !self.looks() {
                return;
            }
            match selector {
                Selector::Name(name) => self.found.extend(node.get(name.as_str())),
                Selector::Index(at) => self.found.extend(element(node, *at)),
                Selector::Wildcard => self.take(children(node), |_, _| true),
                Selector::Slice(start, end, step) => {
                    let Value::Array(items) = node else { continue };
                    self.take(slice(items, *start, *end, step.unwrap_or(1)), |_, _| true);
                }
                Selector::Filter(filter) => self.take(children(node), |walk, child| walk.holds(filter, child)),
            }
        }
    }

    fn take(&mut self, from: impl Iterator<Item = &'v Value>, holds: impl Fn(&mut Self, &'v Value) -> bool) {
        for child in from {
            if !self.looks() {
                return;
            }
            if holds(self, child) {
                self.found.push(child);
            }
        }
    }

    fn holds(&mut self, filter: &Filter, item: &Value) -> bool {
        match filter {
            Filter::Or(any) => any.iter().any(|one| self.holds(one, item)),
            Filter::And(all) => all.iter().all(|one| self.holds(one, item)),
            Filter::Atom(FilterAtom::Filter { expr, not }) => self.holds(expr, item) != *not,
            Filter::Atom(FilterAtom::Test { expr, not }) => {
                let Test::RelQuery(segments) = &**expr else { return false };
                let found = segments.iter().try_fold(item, |node, segment| match step(segment)? {
                    Step::Name(name) => node.get(name),
                    Step::Index(at) => element(node, at),
                });
                self.looks() && found.is_some() != *not
            }
            Filter::Atom(FilterAtom::Comparison(comparison)) => self.looks() && compares(comparison, item),
        }
    }
}

/// One step of a chain.
enum Step<'p> {
    Name(&'p str),
    Index(i64),
}

fn step(segment: &Segment) -> Option<Step<'_>> {
    match segment {
        Segment::Selector(Selector::Name(name)) => Some(Step::Name(name)),
        Segment::Selector(Selector::Index(at)) => Some(Step::Index(*at)),
        _ => None,
    }
}

fn compares(comparison: &Comparison, item: &Value) -> bool {
    let (left, right) = comparison.vals();
    let (left, right) = (value(left, item), value(right, item));
    let same = || match (&left, &right) {
        (Some(left), Some(right)) => equal(left, right),
        (None, None) => true,
        _ => false,
    };
    let order = || order(left.as_deref()?, right.as_deref()?);
    match comparison {
        Comparison::Eq(..) => same(),
        Comparison::Ne(..) => !same(),
        Comparison::Lt(..) => order().is_some_and(|it| it.is_lt()),
        Comparison::Lte(..) => order().is_some_and(|it| it.is_lt()) || same(),
        Comparison::Gt(..) => order().is_some_and(|it| it.is_gt()),
        Comparison::Gte(..) => order().is_some_and(|it| it.is_gt()) || same(),
    }
}

fn value<'v>(side: &Comparable, item: &'v Value) -> Option<Cow<'v, Value>> {
    let literal = |literal: &Literal| match literal {
        Literal::Int(number) => Value::from(*number),
        Literal::Float(number) => Value::from(*number),
        Literal::String(text) => Value::from(text.as_str()),
        Literal::Bool(yes) => Value::from(*yes),
        Literal::Null => Value::Null,
    };
    match side {
        Comparable::Literal(it) => Some(Cow::Owned(literal(it))),
        Comparable::SingularQuery(SingularQuery::Current(steps)) => {
            let found = steps.iter().try_fold(item, |node, step| match step {
                SingularQuerySegment::Name(name) => node.get(name.as_str()),
                SingularQuerySegment::Index(at) => element(node, *at),
            });
            found.map(Cow::Borrowed)
        }
        // Refused by `check`.
        Comparable::SingularQuery(SingularQuery::Root(_)) | Comparable::Function(_) => None,
    }
}

fn children(node: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match node {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The element at `at`, which counts from the end where it is negative.
fn element(node: &Value, at: i64) -> Option<&Value> {
    let items = node.as_array()?;
    let at = if at < 0 { i64::try_from(items.len()).ok()?.checked_add(at)? } else { at };
    items.get(usize::try_from(at).ok()?)
}

/// RFC 9535, section 2.3.4.2.2.
fn slice(items: &[Value], start: Option<i64>, end: Option<i64>, step: i64) -> Box<dyn Iterator<Item = &Value> + '_> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let from_end = |at: i64| if at < 0 { length.saturating_add(at) } else { at };
    let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
    let get = |at: i64| usize::try_from(at).ok().and_then(|at| items.get(at));
    if 0 < step {
        let lower = start.map_or(0, from_end).clamp(0, length);
        let upper = end.map_or(length, from_end).clamp(0, length);
        Box::new((lower..upper).step_by(stride).filter_map(get))
    } else if step < 0 {
        let upper = start.map_or(length - 1, from_end).clamp(-1, length - 1);
        let lower = end.map_or(-1, from_end).clamp(-1, length - 1);
        Box::new((lower + 1..=upper).rev().step_by(stride).filter_map(get))
    } else {
        Box::new(std::iter::empty())
    }
}

#[cfg(test)]
mod tests {
    use jsonpath_rust::parser::parse_json_path;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::route::path::Path;

    fn bounded(text: &str) -> Result<Path, String> {
        Path::parse(text).unwrap().bounded()
    }

    #[test]
    fn what_would_take_more_than_one_walk_is_refused() {
        for good in
            ["$.a.b", "$..amount", "$.items[*].price", "$.items[?@.a == 1 && !@.b || (@['c'] > 'x')].p", "$.a[1:-1]['b','c']"]
        {
            assert!(bounded(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("$..a..b", "has more than one `..`"),
            ("$..[?$..zzz]", PLAIN_ONLY),
            ("$.a[?$.b == 1]", PLAIN_ONLY),
            ("$.a[?@.b == $.c]", PLAIN_ONLY),
            ("$.a[?@..b]", PLAIN_ONLY),
            ("$.a[?@[*]]", PLAIN_ONLY),
            ("$.a[?@[?@.b]]", PLAIN_ONLY),
            ("$.a[?match(@.b, 'x.*')]", NO_FUNCTIONS),
            ("$.a[?search(@.b, 'x')]", NO_FUNCTIONS),
            ("$.a[?length(@.b) > 1]", NO_FUNCTIONS),
            ("$.a[?!(@.c || count(@..b) > 1)]", NO_FUNCTIONS),
        ] {
            assert_eq!(bounded(bad).unwrap_err(), format!("`{bad}` {why}"));
        }
    }

    /// Events and paths whose work would be millions of steps for the library.
    #[test]
    fn no_event_makes_more_work_than_so_many_looks() {
        let wide = json!({"a": vec![json!({"k": [1, 2, 3]}); 100_000]});
        let mut deep = json!(vec![1; 1000]);
        (0..100).for_each(|_| deep = json!([deep]));
        let doubling = format!("$..{}", "[*,*]".repeat(90));
        let filters = format!("$..[?{}]", ["@.a == 1"; 30].join(" || "));
        for text in ["$..*", "$..[*][*][*][*]", &doubling, &filters, "$.a[*].k[*]", "$..[::-1]"] {
            let query = parse_json_path(text).unwrap();
            for event in [&wide, &deep] {
                let mut walk = Walk { left: LOOKS_MAX, found: Vec::new() };
                walk.all_below(event, selectors(&query.segments[0]));
                assert!(walk.found.len() <= LOOKS_MAX, "{text}");
                assert!(find(&query, event).len() <= LOOKS_MAX, "{text}");
            }
        }
        // What is found within the bound is all there.
        let many = json!({"a": vec![json!({"k": 1}); 10_000]});
        assert_eq!(bounded("$..k").unwrap().find(&many).len(), 10_000);
    }

    proptest! {
        #[test]
        fn it_finds_what_the_library_finds(
            text in r#"\$(\.a|\.b|\[0\]|\[-1\]|\[\*\]|\.\.a|\.\.\[\*\]|\['a','b'\]|\[[0-2]?:(-?[0-2])?(:(-1|-2|0|2))?\]|\[\?@\.a\]|\[\?!@\.a (&&|\|\|) @\.b (==|!=|<|<=|>|>=) ([0-2]|'x'|null|@\.a|@\[0\])\]|\[\?@ (==|<=) 1\]){1,4}"#,
            at in 0..3_usize,
        ) {
            let events = [
                json!({"a": [{"a": 1, "b": 1.0}, {"b": "x"}, [0, 1, 2, {"a": null}]], "b": {"a": {"b": 2}, "b": [1, [2, "x"]]}}),
                json!([[1, 2, 3], {"a": {"a": {"a": [0]}}, "b": 0}, "x", null]),
                json!({"a": "x", "b": {"a": "x", "b": "x"}}),
            ];
            // `-0` is no number of RFC 9535.
            let Ok(path) = Path::parse(&text) else { return Ok(()) };
            let shown = |path: &Path| {
                let mut found: Vec<_> = path.find(&events[at]).into_iter().map(ToString::to_string).collect();
                found.sort();
                found
            };
            if let Ok(bounded) = path.clone().bounded() {
                prop_assert_eq!(shown(&bounded), shown(&path), "{}", text);
            }
        }
    }
}
