//! Walking through what a patch puts in, field by field, so that whatever is not understood can be named.

use std::time::Duration;

use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::Untyped;

/// Why a patch is not carried out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    field: String,
    message: String,
    /// Whether Envoy would refuse it too.
    bad: bool,
}

impl Fault {
    /// Of something that Envoy may understand, and nobody here does.
    pub fn unknown(field: impl Into<String>, message: impl Into<String>) -> Self {
        Fault { field: field.into(), message: message.into(), bad: false }
    }

    /// Of something that Envoy refuses.
    pub fn bad(field: impl Into<String>, message: impl Into<String>) -> Self {
        Fault { field: field.into(), message: message.into(), bad: true }
    }

    pub fn told(self, reference: &ResourceRef) -> Diagnostic {
        let finding = match self.bad {
            true => Diagnostic::error("bad-rate-limit", self.message)
                .remedy("the patch is left out; Envoy would refuse all that came with it"),
            false => Diagnostic::warning("envoy-filter", self.message)
                .remedy("the patch is left out; of EnvoyFilters only local rate limits are carried out here"),
        };
        finding.at(reference, self.field)
    }
}

/// A value, and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Value<'v> {
    value: &'v Untyped,
    pub field: String,
}

impl<'v> Value<'v> {
    pub fn new(value: &'v Untyped, field: String) -> Self {
        Value { value, field }
    }

    /// Its fields.
    pub fn fields(&self) -> Result<Fields<'v>, Fault> {
        match self.value {
            Untyped::Map(entries) => Ok(Fields { entries, field: self.field.clone() }),
            _ => Err(Fault::bad(&self.field, "fields are wanted here")),
        }
    }

    pub fn items(&self) -> Result<Vec<Value<'v>>, Fault> {
        let Untyped::List(items) = self.value else {
            return Err(Fault::bad(&self.field, "a list is wanted here"));
        };
        Ok(items.iter().enumerate().map(|(at, item)| Value::new(item, format!("{}[{at}]", self.field))).collect())
    }

    pub fn text(&self) -> Result<&'v str, Fault> {
        match self.value {
            Untyped::String(text) => Ok(text),
            _ => Err(Fault::bad(&self.field, "a text is wanted here")),
        }
    }

    pub fn flag(&self) -> Result<bool, Fault> {
        match self.value {
            Untyped::Bool(flag) => Ok(*flag),
            _ => Err(Fault::bad(&self.field, "`true` or `false` is wanted here")),
        }
    }

    /// A number from 0; proto's JSON also has it as a text.
    pub fn number(&self) -> Result<u32, Fault> {
        let text = match self.value {
            Untyped::Number(text) | Untyped::String(text) => text.strip_suffix(".0").unwrap_or(text),
            _ => "",
        };
        text.parse().map_err(|_| Fault::bad(&self.field, "a whole number from 0 is wanted here"))
    }

    /// Proto's JSON has seconds only: `60s`, `0.5s`.
    pub fn duration(&self) -> Result<Duration, Fault> {
        let text = self.text()?;
        let seconds = text.strip_suffix('s').filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        let seconds = seconds.and_then(|text| text.parse().ok());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
            Fault::bad(&self.field, format!("`{text}` is no duration of Envoy's; write seconds, such as `0.5s`"))
        })
    }
}

/// The fields of a value. Their names count in both of proto's spellings: `token_bucket`, `tokenBucket`.
#[derive(Clone, Debug)]
pub(super) struct Fields<'v> {
    entries: &'v [(String, Untyped)],
    pub field: String,
}

impl<'v> Fields<'v> {
    /// The value of a field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<Value<'v>> {
        let (key, value) = self.entries.iter().find(|(key, _)| is_spelt(key, name))?;
        (*value != Untyped::Null).then(|| Value::new(value, format!("{}.{key}", self.field)))
    }

    /// The value of a field, which Envoy wants to be there.
    pub fn need(&self, name: &str) -> Result<Value<'v>, Fault> {
        self.get(name).ok_or_else(|| Fault::bad(&self.field, format!("`{name}` is missing")))
    }

    /// That there is no field but these.
    pub fn only(&self, known: &[&str]) -> Result<(), Fault> {
        let other = self
            .entries
            .iter()
            .find(|(key, value)| *value != Untyped::Null && !known.iter().any(|name| is_spelt(key, name)));
        match other {
            Some((key, _)) => {
                Err(Fault::unknown(format!("{}.{key}", self.field), format!("`{key}` is not understood here")))
            }
            None => Ok(()),
        }
    }
}

/// Whether a key is this name: as it is, or with a capital letter for each `_`.
fn is_spelt(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut letters = key.bytes();
    let mut wanted = name.bytes();
    loop {
        let wants = match wanted.next() {
            Some(b'_') => wanted.next().map(|letter| letter.to_ascii_uppercase()),
            letter => letter,
        };
        match (letters.next(), wants) {
            (None, None) => return true,
            (letter, wants) if letter != wants => return false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_name_count() {
        for (key, is) in [("fill_interval", true), ("fillInterval", true), ("fill_Interval", false), ("fill", false)] {
            assert_eq!(is_spelt(key, "fill_interval"), is, "{key}");
        }
    }

    #[test]
    fn a_duration_is_in_seconds() {
        let read = |text: &str| Value::new(&Untyped::String(text.into()), String::new()).duration().ok();
        assert_eq!(read("60s"), Some(Duration::from_secs(60)));
        assert_eq!(read("0.05s"), Some(Duration::from_millis(50)));
        for text in ["500ms", "60", "-1s", "1e3s", "s", "", "99999999999999999999s", "1.2.3s"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
