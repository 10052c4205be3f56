//! One map of the file, read key by key by its table of [`Keys`]; at [`Fields::finish`] the keys that it does not have are reported.

use super::{
    decode::{Context, Decode, Severity, ignore, nearest},
    keys::{Field, Keys},
    meant,
    schema::written,
    tree::{self, Node, Place, Value},
};

/// A map that is being read key by key.
///
/// Reading a key that its table does not have, or otherwise than the table says, is a mistake of ours: debug assertions tell.
#[derive(Debug)]
pub struct Fields<'n> {
    what: String,
    place: Place,
    map: &'n [(tree::Key, Node)],
    keys: Vec<&'static Field>,
    asked: Vec<&'static str>,
    /// How many problems there were before this map was opened.
    problems: usize,
}

impl<'n> Fields<'n> {
    /// Opens `node`, called `what` in messages (`a rule`, `destination "crm"`), which may have `keys`.
    pub fn open(node: &'n Node, what: impl Into<String>, keys: Keys, cx: &mut Context) -> Option<Self> {
        let what = what.into();
        let Value::Map(map) = &node.value else { return cx.expected(&format!("{what} as a map"), node) };
        Some(Self { what, place: node.place, map, keys: keys.all(), asked: Vec::new(), problems: cx.problems.len() })
    }

    /// Lets it have `keys` too: those of its kind.
    pub fn also(&mut self, keys: Keys) {
        self.keys.extend(keys.all());
    }

    /// What this map is called in messages.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where the map stands.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The value of `name` as it stands, which counts as asked for. A key without a value counts as absent.
    pub fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        debug_assert!(self.key(name).is_some(), "{}: `{name}` is in no table of keys", self.what);
        self.asked.push(name);
        let (_, node) = self.map.iter().find(|(key, _)| key.name == name)?;
        (node.value != Value::Null).then_some(node)
    }

    /// The place of the key `name`, or of the whole map where it is absent.
    pub fn key_place(&self, name: &str) -> Place {
        self.map.iter().find(|(key, _)| key.name == name).map_or(self.place, |(key, _)| key.place)
    }

    /// The value of `name`; its absence is an error.
    pub fn required<T: Decode>(&mut self, name: &'static str, cx: &mut Context) -> Option<T> {
        debug_assert!(self.key(name).is_none_or(|key| key.holds::<T>() && key.is_required()), "{}: `{name}`", self.what);
        match self.node(name) {
            Some(node) => T::decode(node, cx),
            None => {
                self.missing(name, cx);
                None
            }
        }
    }

    /// Notes that `name` is absent, or has no value.
    pub fn missing(&self, name: &str, cx: &mut Context) {
        let given = self.map.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
        if let Some((place, comment)) = given.and_then(|node| meant::comment(cx.files.text(), node)) {
            meant::say_comment(
                cx,
                Severity::Error,
                place,
                &comment,
                &format!("`{name}` has no value: `#` after a space begins a comment"),
            );
            return;
        }
        let place = self.key_place(name);
        cx.error("missing-key", place, self.needs(name));
    }

    /// Notes that `name` is there under the name `other`; false where it is not.
    pub fn called_otherwise(&self, name: &str, other: &str, cx: &mut Context) -> bool {
        let Some((key, _)) = self.map.iter().find(|(key, _)| key.name == other) else { return false };
        cx.error("unknown-key", key.place, format!("{} has no key `{other}`", self.what)).did_you_mean(Some(name));
        true
    }

    /// Whether it has keys that its table does not have.
    pub fn has_others(&self) -> bool {
        self.map.iter().any(|(key, _)| self.key(&key.name).is_none())
    }

    /// The value of `name`, or `None` where it is absent (or wrong, which is noted).
    pub fn optional<T: Decode>(&mut self, name: &'static str, cx: &mut Context) -> Option<T> {
        debug_assert!(self.key(name).is_none_or(|key| key.holds::<T>() && !key.is_required()), "{}: `{name}`", self.what);
        self.node(name).and_then(|node| T::decode(node, cx))
    }

    /// The value of `name`, or `default` where it is absent (or wrong, which is noted).
    pub fn or<T: Decode + PartialEq>(&mut self, name: &'static str, default: T, cx: &mut Context) -> T {
        debug_assert!(self.says(name, &default), "{}: its table says another default of `{name}`", self.what);
        self.optional(name, cx).unwrap_or(default)
    }

    /// Reports every key that its table does not have.
    pub fn finish(self, cx: &mut Context) {
        let mut legal: Vec<_> = self.keys.iter().map(|key| key.name).collect();
        legal.sort_unstable();
        let unread = || legal.iter().find(|name| !self.asked.contains(name));
        // A mistake may keep the keys beside it from being looked at.
        debug_assert!(self.problems < cx.problems.len() || unread().is_none(), "{}: nobody reads {:?}", self.what, unread());
        for (key, node) in self.map.iter().filter(|(key, _)| !legal.contains(&key.name.as_str())) {
            let free = legal.iter().copied().filter(|name| !self.map.iter().any(|(key, _)| key.name == *name));
            let near = meant::key(&key.name, free).or_else(|| nearest(&key.name, legal.iter().copied()));
            match near {
                Some(near) => self.meant(near, cx),
                None => ignore(node, &mut cx.ignored),
            }
            let problem = cx.error("unknown-key", key.place, format!("{} has no key `{}`", self.what, key.name));
            problem.did_you_mean(near).note(format!("keys here: {}", legal.join(" ")));
            if let Some((help, fix)) = meant::key_hint(&key.name, &legal) {
                problem.help(help).fix = fix;
            }
        }
    }

    /// A key that was meant to be `name` is one mistake: that `name` is missing is not said beside it.
    fn meant(&self, name: &str, cx: &mut Context) {
        let message = self.needs(name);
        let since = cx.problems.iter().skip(self.problems);
        let said = since.rev().position(|problem| problem.code == "missing-key" && problem.message == message);
        if let Some(behind) = said {
            cx.problems.remove(cx.problems.len() - 1 - behind);
        }
    }

    fn key(&self, name: &str) -> Option<&'static Field> {
        self.keys.iter().copied().find(|key| key.name == name)
    }

    /// Whether the table says that `default` holds where `name` is absent.
    fn says<T: Decode + PartialEq>(&self, name: &str, default: &T) -> bool {
        let Some(text) = self.key(name).and_then(Field::default_text) else { return false };
        T::decode(&Node::of_json(&written(text)), &mut Context::default()).as_ref() == Some(default)
    }

    fn needs(&self, name: &str) -> String {
        format!("{} needs `{name}`", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_a_comment_is_named_as_the_trap_it_is() {
        let text = "kind: slack\nchannel: #ops\n".to_owned();
        let mut cx = Context::of(&text);
        let node = crate::config::yaml::parse(&text, &mut cx).unwrap();
        const KEYS: Keys = Keys::of(&[Field::of::<String>("channel", "").required(), Field::of::<String>("url", "").required()]);
        let mut fields = Fields::open(&node, "a destination", KEYS, &mut cx).unwrap();
        assert_eq!(fields.required::<String>("channel", &mut cx), None);
        assert_eq!(fields.required::<String>("url", &mut cx), None);
        assert_eq!(cx.problems[0].fix.as_deref(), Some("\"#ops\""));
        assert_eq!((cx.problems[1].message.as_str(), &cx.problems[1].help), ("a destination needs `url`", &None));
    }
}
