//! Finds out which fields a configuration type has, so that the environment can name them.
//!
//! serde tells a deserializer the names of a struct's fields and the kind of each value before it
//! gets any. This deserializer only listens: it walks down to one path, notes what is asked there
//! and gives up.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};

/// Deepest nesting that is looked at; stops types that contain themselves.
const DEPTH_MAX: usize = 6;

/// What a field wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Integer,
    Float,
    Bool,
    /// Anything else: an array, a table, or a type that takes several kinds.
    Other,
}

/// A field that is no struct itself, by its path of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) path: Vec<&'static str>,
    pub(super) kind: Kind,
}

/// All fields of `T`, those of nested structs included. Elements of arrays and maps have no names.
pub(super) fn fields_of<T: DeserializeOwned>() -> Vec<Field> {
    let mut found = Vec::new();
    walk::<T>(&mut Vec::new(), &mut found);
    found
}

fn walk<T: DeserializeOwned>(path: &mut Vec<&'static str>, found: &mut Vec<Field>) {
    let mut asked = None;
    // It always fails: it has nothing to give.
    drop(T::deserialize(Probe {
        path,
        asked: &mut asked,
    }));
    match asked {
        Some(Asked::Struct(names)) if path.len() < DEPTH_MAX => {
            for name in names {
                path.push(name);
                walk::<T>(path, found);
                path.pop();
            }
        }
        Some(Asked::Value(kind)) if !path.is_empty() => found.push(Field {
            path: path.clone(),
            kind,
        }),
        Some(Asked::Struct(_) | Asked::Value(_)) | None => {}
    }
}

enum Asked {
    Struct(&'static [&'static str]),
    Value(Kind),
}

struct Probe<'a> {
    /// What is left to walk down.
    path: &'a [&'static str],
    asked: &'a mut Option<Asked>,
}

/// The walk is over.
#[derive(Debug)]
struct Over;

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the field's kind was asked for")
    }
}

impl std::error::Error for Over {}

impl de::Error for Over {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl Probe<'_> {
    fn value(self, kind: Kind) -> Over {
        if self.path.is_empty() {
            *self.asked = Some(Asked::Value(kind));
        }
        Over
    }
}

macro_rules! note {
    ($($method:ident => $kind:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Over> {
            Err(self.value(Kind::$kind))
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Over;

    note! {
        deserialize_any => Other, deserialize_bool => Bool,
        deserialize_i8 => Integer, deserialize_i16 => Integer, deserialize_i32 => Integer, deserialize_i64 => Integer,
        deserialize_u8 => Integer, deserialize_u16 => Integer, deserialize_u32 => Integer, deserialize_u64 => Integer,
        deserialize_f32 => Float, deserialize_f64 => Float,
        deserialize_char => Text, deserialize_str => Text, deserialize_string => Text,
        deserialize_bytes => Other, deserialize_byte_buf => Other, deserialize_unit => Other,
        deserialize_seq => Other, deserialize_map => Other,
        deserialize_identifier => Text, deserialize_ignored_any => Other,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Over> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Over> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: V,
    ) -> Result<V::Value, Over> {
        Err(self.value(Kind::Other))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Over> {
        Err(self.value(Kind::Other))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: V,
    ) -> Result<V::Value, Over> {
        Err(self.value(Kind::Other))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Over> {
        Err(self.value(Kind::Text))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Over> {
        match self.path {
            [] => {
                *self.asked = Some(Asked::Struct(names));
                Err(Over)
            }
            [first, rest @ ..] => visitor.visit_map(One {
                name: Some(first),
                path: rest,
                asked: self.asked,
            }),
        }
    }
}

/// A map with one key, the next step of the path.
struct One<'a> {
    name: Option<&'static str>,
    path: &'a [&'static str],
    asked: &'a mut Option<Asked>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Over;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Over> {
        let Some(name) = self.name.take() else {
            return Err(Over);
        };
        seed.deserialize(de::value::StrDeserializer::new(name))
            .map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Over> {
        seed.deserialize(Probe {
            path: self.path,
            asked: self.asked,
        })
    }
}
