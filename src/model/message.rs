//! How every message of the model is read and written, said once.
//!
//! `message!` makes a struct whose fields may each be absent or null, `document!` one that also lets `apiVersion` and
//! `kind` pass, `words!` an enum with its names on the wire.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

macro_rules! message {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $( $(#[$note:meta])* pub $field:ident: $type:ty, )* }
    ) => {
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        $(#[$about])*
        pub struct $name {
            $(
                $(#[$note])*
                #[serde(
                    default,
                    deserialize_with = "crate::model::message::null_is_absent",
                    skip_serializing_if = "crate::model::message::is_absent"
                )]
                pub $field: $type,
            )*
        }
    };
}

macro_rules! document {
    (
        $(#[$about:meta])*
        pub struct $name:ident { $( $(#[$note:meta])* pub $field:ident: $type:ty, )* }
    ) => {
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        $(#[$about])*
        pub struct $name {
            $(
                $(#[$note])*
                #[serde(skip_serializing_if = "crate::model::message::is_absent")]
                pub $field: $type,
            )*
        }

        // A reader hands over the whole document. Its first two keys have already chosen this type; kept as fields,
        // they would have to be private and nobody could write the struct out.
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct $name {
                    #[serde(default, rename = "apiVersion")]
                    _api_version: serde::de::IgnoredAny,
                    #[serde(default, rename = "kind")]
                    _kind: serde::de::IgnoredAny,
                    $(
                        #[serde(default, deserialize_with = "crate::model::message::null_is_absent")]
                        $field: $type,
                    )*
                }
                let $name { $($field,)* .. } = serde::Deserialize::deserialize(deserializer)?;
                Ok(Self { $($field,)* })
            }
        }
    };
}

macro_rules! words {
    (
        $(#[$about:meta])*
        pub enum $name:ident { $( $(#[$note:meta])* $variant:ident = $number:literal as $word:literal, )* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name { $( $(#[$note])* $variant = $number, )* }

        impl $name {
            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let words = crate::model::message::Words(&[ $( ($word, $number, Self::$variant), )* ]);
                deserializer.deserialize_any(words)
            }
        }
    };
}

/// Reads null as the value of an absent field.
pub(super) fn null_is_absent<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a field may be left out when writing, because its absence reads as the same value.
pub(super) fn is_absent<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads an enum by word or, as proto's JSON also has it, by number.
pub(super) struct Words<T: 'static>(pub(super) &'static [(&'static str, u64, T)]);

impl<T: Copy> Words<T> {
    fn find<E: Error>(&self, written: &dyn fmt::Display, is: impl Fn(&str, u64) -> bool) -> Result<T, E> {
        let found = self.0.iter().find(|(word, number, _)| is(word, *number));
        found
            .map(|(.., value)| *value)
            .ok_or_else(|| E::custom(format_args!("unknown value `{written}`; expected {self}")))
    }
}

impl<T> fmt::Display for Words<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one of ")?;
        for (i, (word, ..)) in self.0.iter().enumerate() {
            write!(f, "{}`{word}`", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl<T: Copy> serde::de::Visitor<'_> for Words<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn visit_str<E: Error>(self, written: &str) -> Result<T, E> {
        self.find(&written, |word, _| word == written)
    }

    fn visit_u64<E: Error>(self, written: u64) -> Result<T, E> {
        self.find(&written, |_, number| number == written)
    }

    fn visit_i64<E: Error>(self, written: i64) -> Result<T, E> {
        self.find(&written, |_, number| i64::try_from(number) == Ok(written))
    }
}
