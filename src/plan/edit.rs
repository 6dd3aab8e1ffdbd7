//! Edits of headers, as data, and the one trait through which they reach a host's own header map.

use serde::{Deserialize, Serialize};

/// What is done to the headers of a request or response: removals, then every `set`, then every `add`, each in order
/// (Envoy's `HeaderParser::evaluateHeaders`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HeaderEdits {
    /// Names in lower case.
    pub remove: Vec<Box<str>>,
    /// What is written.
    pub write: Vec<HeaderWrite>,
}

/// One header to write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeaderWrite {
    /// In lower case.
    pub name: Box<str>,
    /// The value. Not empty: Envoy passes over an empty one.
    pub value: Box<str>,
    /// Whether it joins the lines that are there (`add`) or takes their place (`set`).
    pub append: bool,
}

impl HeaderWrite {
    /// A header to write.
    pub fn new(name: &str, value: &str, append: bool) -> Self {
        HeaderWrite { name: name.to_ascii_lowercase().into(), value: value.into(), append }
    }
}

/// A header map that can be edited; an adapter implements it for its host's.
pub trait EditHeaders {
    /// Removes every line of this name.
    fn remove(&mut self, name: &str);
    /// Replaces the lines of this name by one.
    fn set(&mut self, name: &str, value: &str);
    /// Adds a line.
    fn append(&mut self, name: &str, value: &str);
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.write.is_empty()
    }

    /// Carries the edits out.
    pub fn apply(&self, headers: &mut (impl EditHeaders + ?Sized)) {
        for name in &self.remove {
            headers.remove(name);
        }
        let writes = || self.write.iter().filter(|write| !write.value.is_empty());
        for write in writes().filter(|write| !write.append) {
            headers.set(&write.name, &write.value);
        }
        for write in writes().filter(|write| write.append) {
            headers.append(&write.name, &write.value);
        }
    }

    /// Adds the edits of `later` behind these.
    pub fn extend(&mut self, later: &HeaderEdits) {
        self.remove.extend(later.remove.iter().cloned());
        self.write.extend(later.write.iter().cloned());
    }
}

impl EditHeaders for Vec<(String, String)> {
    fn remove(&mut self, name: &str) {
        self.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    fn set(&mut self, name: &str, value: &str) {
        EditHeaders::remove(self, name);
        self.push((name.to_string(), value.to_string()));
    }

    fn append(&mut self, name: &str, value: &str) {
        self.push((name.to_string(), value.to_string()));
    }
}
