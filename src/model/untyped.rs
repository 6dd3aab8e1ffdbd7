//! Whatever stood there, where no type is known for it.

use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value of no known type, kept as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Untyped {
    /// Null.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A number, as text: `-1`, `0.5`.
    Number(String),
    /// A text.
    String(String),
    /// Values in order.
    List(Vec<Untyped>),
    /// Named values in order.
    Map(Vec<(String, Untyped)>),
}

impl Serialize for Untyped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Untyped::Null => serializer.serialize_unit(),
            Untyped::Bool(value) => serializer.serialize_bool(*value),
            Untyped::Number(text) => serialize_number(text, serializer),
            Untyped::String(text) => serializer.serialize_str(text),
            Untyped::List(values) => serializer.collect_seq(values),
            Untyped::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

/// Writes the narrowest number that the text is; a text that is none stays a text.
fn serialize_number<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if let Ok(number) = text.parse() {
        return serializer.serialize_i64(number);
    }
    if let Ok(number) = text.parse() {
        return serializer.serialize_u64(number);
    }
    match text.parse() {
        Ok(number) => serializer.serialize_f64(number),
        Err(_) => serializer.serialize_str(text),
    }
}

impl<'de> Deserialize<'de> for Untyped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Untyped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Untyped, E> {
        Ok(Untyped::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Untyped, E> {
        Ok(Untyped::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Untyped, D::Error> {
        Untyped::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Untyped, E> {
        Ok(Untyped::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Untyped, E> {
        Ok(Untyped::Number(number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Untyped, E> {
        Ok(Untyped::Number(number.to_string()))
    }

    fn visit_i128<E: Error>(self, number: i128) -> Result<Untyped, E> {
        Ok(Untyped::Number(number.to_string()))
    }

    fn visit_u128<E: Error>(self, number: u128) -> Result<Untyped, E> {
        Ok(Untyped::Number(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Untyped, E> {
        // `Debug` keeps `1.0` apart from `1` and writes `1e300` shortly.
        Ok(Untyped::Number(format!("{number:?}")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Untyped, E> {
        Ok(Untyped::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Untyped, E> {
        Ok(Untyped::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Untyped, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(Untyped::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Untyped, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Untyped::Map(entries))
    }
}
