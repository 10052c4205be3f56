//! The keys that the maps of `routes.yaml` may have, each written down once: the decoder reads by these tables, and the JSON Schema
//! that editors use is made from them.

use super::schema::{Definitions, Schema, Shape};

/// One key of a map: its name, what it is for, and the shape of its value.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// As the file writes it.
    pub name: &'static str,
    about: &'static str,
    required: bool,
    default: Option<&'static str>,
    example: Option<&'static str>,
    shape: fn(&mut Definitions) -> Schema,
    type_name: fn() -> &'static str,
    such: Option<fn(Schema) -> Schema>,
}

impl Field {
    /// The key `name`, whose value is read as `T`. `about` is what an editor says of it: a sentence or two.
    pub const fn of<T: Shape>(name: &'static str, about: &'static str) -> Self {
        let (shape, type_name) = (T::schema as fn(&mut Definitions) -> Schema, T::type_name as fn() -> &'static str);
        Self { name, about, required: false, default: None, example: None, shape, type_name, such: None }
    }

    /// A map without it is wrong.
    pub const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// What holds where it is absent, as it could be written: `30s`, or JSON.
    pub const fn default(self, value: &'static str) -> Self {
        Self { default: Some(value), ..self }
    }

    /// A value that it may have, as it could be written: text, or JSON.
    pub const fn example(self, value: &'static str) -> Self {
        Self { example: Some(value), ..self }
    }

    /// Narrows the shape of its values, where the decoder checks more than their type.
    pub const fn such_that(self, narrower: fn(Schema) -> Schema) -> Self {
        Self { such: Some(narrower), ..self }
    }

    /// Whether a map without it is wrong.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Whether its value is read as `T`.
    pub fn holds<T: Shape>(&self) -> bool {
        (self.type_name)() == T::type_name()
    }

    /// What holds where it is absent.
    pub fn default_text(&self) -> Option<&'static str> {
        self.default
    }

    /// What its value may be, for editors. One that may be absent may also have no value, which counts as absent.
    pub(super) fn schema(&self, all: &mut Definitions) -> Schema {
        let shape = (self.shape)(all);
        let shape = self.such.map_or_else(|| shape.clone(), |narrower| narrower(shape.clone()));
        let shape = if self.required { shape } else { shape.or_null() };
        shape.described(self.about, self.default, self.example)
    }
}

/// The keys of one kind of map.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    own: &'static [Field],
    more: &'static [Keys],
    such: Option<fn(Schema) -> Schema>,
}

impl Keys {
    /// These keys.
    pub const fn of(own: &'static [Field]) -> Self {
        Self { own, more: &[], such: None }
    }

    /// With those that other rooms read from the same map.
    pub const fn and(self, more: &'static [Keys]) -> Self {
        Self { more, ..self }
    }

    /// Says how they hang together, where the decoder checks more than each by itself.
    pub const fn such_that(self, narrower: fn(Schema) -> Schema) -> Self {
        Self { such: Some(narrower), ..self }
    }

    /// Every one of them.
    pub fn all(&self) -> Vec<&'static Field> {
        let more = self.more.iter().flat_map(Self::all);
        self.own.iter().chain(more).collect()
    }

    /// `map`, narrowed by how these keys hang together.
    pub(super) fn narrow(&self, map: Schema) -> Schema {
        let map = self.more.iter().fold(map, |map, keys| keys.narrow(map));
        self.such.map_or_else(|| map.clone(), |narrower| narrower(map.clone()))
    }
}
