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
    /// The value, where it has no `parts`. Envoy passes over an empty one.
    pub value: Box<str>,
    /// Whether it joins the lines that are there (`add`) or takes their place (`set`).
    pub append: bool,
    /// What the value is put together from when it is written, if other headers have a part in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A piece of a header's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// A text, as it stands.
    Text(Box<str>),
    /// The first line of a header; nothing where there is none (Envoy's `%REQ(name?or):most%`).
    Header {
        /// Its name, in lower case; of a request also `:method`, `:authority`, `:path` and `:scheme`.
        name: Box<str>,
        /// The one that is taken where there is none of that name.
        or: Option<Box<str>>,
        /// How many bytes of it, at most.
        most: Option<u32>,
    },
}

impl HeaderWrite {
    /// A header to write.
    pub fn new(name: &str, value: &str, append: bool) -> Self {
        HeaderWrite { name: name.to_ascii_lowercase().into(), value: value.into(), append, parts: Vec::new() }
    }

    /// A header whose value is put together when it is written.
    pub fn of_parts(name: &str, parts: Vec<Part>, append: bool) -> Self {
        HeaderWrite { parts, ..HeaderWrite::new(name, "", append) }
    }
}

/// A header map that can be edited; an adapter implements it for its host's.
pub trait EditHeaders {
    /// Calls `with` with the first line of this name, if there is one that is text.
    fn read(&self, name: &str, with: &mut dyn FnMut(&str));
    /// Removes every line of this name.
    fn remove(&mut self, name: &str);
    /// Replaces the lines of this name by one.
    fn set(&mut self, name: &str, value: &str);
    /// Adds a line.
    fn append(&mut self, name: &str, value: &str);
}

/// What a request has beside its headers, for values that speak of it. Empty: nothing is known of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) scheme: &'a str,
}

impl<'a> RequestLine<'a> {
    fn find(&self, name: &str) -> Option<&'a str> {
        let found = match name {
            ":method" => self.method,
            ":authority" | "host" => self.authority,
            ":path" => self.path,
            ":scheme" => self.scheme,
            _ => "",
        };
        Some(found).filter(|value| !value.is_empty())
    }
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.write.is_empty()
    }

    /// Carries the edits out.
    ///
    /// Allocates only where a value is put together from others.
    pub fn apply(&self, headers: &mut (impl EditHeaders + ?Sized)) {
        self.apply_to(headers, &RequestLine::default());
    }

    /// Carries the edits out on a request's headers.
    pub(crate) fn apply_to(&self, headers: &mut (impl EditHeaders + ?Sized), line: &RequestLine<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        // Every value speaks of the headers as they were before the first was written.
        let made: Vec<String> = match self.is_made() {
            true => self.write.iter().map(|write| write.make(headers, line)).collect(),
            false => Vec::new(),
        };
        let written = |at: usize| made.get(at).map_or(&*self.write[at].value, String::as_str);
        for append in [false, true] {
            for (at, write) in self.write.iter().enumerate().filter(|(_, write)| write.append == append) {
                match written(at) {
                    "" => {}
                    value if append => headers.append(&write.name, value),
                    value => headers.set(&write.name, value),
                }
            }
        }
    }

    /// Whether some value speaks of other headers.
    pub(crate) fn is_made(&self) -> bool {
        self.write.iter().any(|write| !write.parts.is_empty())
    }

    /// Adds the edits of `later` behind these.
    pub fn extend(&mut self, later: &HeaderEdits) {
        self.remove.extend(later.remove.iter().cloned());
        self.write.extend(later.write.iter().cloned());
    }
}

impl HeaderWrite {
    fn make(&self, headers: &(impl EditHeaders + ?Sized), line: &RequestLine<'_>) -> String {
        let mut made = self.value.to_string();
        for part in &self.parts {
            match part {
                Part::Text(text) => made.push_str(text),
                Part::Header { name, or, most } => {
                    let mut push = |text: &str| made.push_str(cut(text, *most));
                    if !look_up(name, headers, line, &mut push)
                        && let Some(or) = or
                    {
                        look_up(or, headers, line, &mut push);
                    }
                }
            }
        }
        made
    }
}

/// Hands on the first line of a header, and says whether there is one.
fn look_up(
    name: &str,
    headers: &(impl EditHeaders + ?Sized),
    line: &RequestLine<'_>,
    with: &mut dyn FnMut(&str),
) -> bool {
    if let Some(value) = line.find(name) {
        with(value);
        return true;
    }
    let mut found = false;
    headers.read(name, &mut |value| {
        found = true;
        with(value);
    });
    found
}

/// The first bytes of a text, never half a character.
fn cut(text: &str, most: Option<u32>) -> &str {
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX).min(text.len());
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

impl EditHeaders for Vec<(String, String)> {
    fn read(&self, name: &str, with: &mut dyn FnMut(&str)) {
        if let Some((_, value)) = self.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            with(value);
        }
    }

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
