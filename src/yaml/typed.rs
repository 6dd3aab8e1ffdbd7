//! From the tree to the types: a deserializer that knows where it is.
//!
//! Decides as the Kubernetes API does: a number is no string, and a field nobody knows is a mistake. Reports every
//! unknown field and, as far as it can go on, every value of the wrong type.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::Reading;
use super::node::{Node, Value};
use super::path::Path;
use super::scalar::{self, Meaning};
use crate::diagnostic::{Diagnostic, Place, Severity};

/// Attempts to read on behind a value of the wrong type.
const ATTEMPTS: usize = 24;

/// What one reading of one document has found so far.
pub(super) struct Report<'a> {
    pub reading: Reading,
    pub place: &'a Place,
    pub most: usize,
    found: RefCell<Vec<Diagnostic>>,
    /// Values that failed before and are now passed over, by address.
    skipped: RefCell<HashSet<usize>>,
    /// The value that failed last.
    culprit: Cell<usize>,
}

impl<'a> Report<'a> {
    pub fn new(reading: Reading, place: &'a Place, most: usize) -> Self {
        let (found, skipped) = (RefCell::new(Vec::new()), RefCell::new(HashSet::new()));
        Report { reading, place, most, found, skipped, culprit: Cell::new(0) }
    }

    fn add(&self, finding: Diagnostic) {
        let mut found = self.found.borrow_mut();
        let known = |old: &Diagnostic| old.field == finding.field && old.code == finding.code;
        if found.len() < self.most && !found.iter().any(known) {
            found.push(finding);
        }
    }

    /// A finding that Kubernetes refuses and the lenient reader lives with.
    fn bearable(
        &self,
        code: &'static str,
        node: &Node,
        path: &Path<'_>,
        message: String,
        remedy: String,
    ) -> Diagnostic {
        let severity = match self.reading {
            Reading::Lenient => Severity::Warning,
            Reading::Strict => Severity::Error,
        };
        self.located(Diagnostic::new(severity, code, message).remedy(remedy), node.line, path)
    }

    fn located(&self, mut finding: Diagnostic, line: u32, path: &Path<'_>) -> Diagnostic {
        finding.field = path.to_string();
        finding.placed(Place { line, ..self.place.clone() })
    }

    fn is_skipped(&self, node: &Node) -> bool {
        let skipped = self.skipped.borrow();
        !skipped.is_empty() && skipped.contains(&address(node))
    }
}

/// INVARIANT: the tree is borrowed for as long as addresses are compared, so none is used twice.
fn address(node: &Node) -> usize {
    std::ptr::from_ref(node) as usize
}

/// Reads `root` with `read`, again and again around the values that fail, and gives all findings.
pub(super) fn read<T>(
    root: &Node,
    report: Report<'_>,
    mut read: impl FnMut(Typed<'_>) -> Result<T, Refusal>,
) -> (Option<T>, Vec<Diagnostic>) {
    let mut value = None;
    for _ in 0..ATTEMPTS {
        report.culprit.set(0);
        match read(Typed { node: root, path: &Path::Root, report: &report }) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(refusal) => {
                if !refusal.consequence {
                    report.add(refusal.finished(&report, root));
                }
                let culprit = report.culprit.get();
                if culprit == 0 || culprit == address(root) || !report.skipped.borrow_mut().insert(culprit) {
                    break;
                }
            }
        }
    }
    (value, report.found.into_inner())
}

/// Why a value was refused.
#[derive(Debug)]
pub struct Refusal {
    finding: Box<Diagnostic>,
    missing: Option<&'static str>,
    /// Follows from an earlier refusal only.
    consequence: bool,
    settled: bool,
}

impl Refusal {
    fn new(code: &'static str, message: String, remedy: String) -> Self {
        let finding = Box::new(Diagnostic::error(code, message).remedy(remedy));
        Refusal { finding, missing: None, consequence: false, settled: false }
    }

    fn finished(self, report: &Report<'_>, root: &Node) -> Diagnostic {
        if self.settled {
            return *self.finding;
        }
        report.located(*self.finding, root.line, &Path::Root)
    }

    /// Says where it happened, if nobody further in has.
    fn settle(mut self, at: &Typed<'_>) -> Self {
        if self.settled {
            return self;
        }
        if let Some(field) = self.missing {
            self.consequence = at.node.get(field).is_some_and(|node| !node.is_null());
        }
        at.report.culprit.set(address(at.node));
        self.finding = Box::new(at.report.located(*self.finding, at.node.line, at.path));
        self.settled = true;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding.message)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Refusal::new("wrong-value", message.to_string(), String::new())
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Refusal::new("wrong-type", format!("{expected} is wanted here, not {unexpected}"), String::new())
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Refusal::new("wrong-value", format!("{expected} is wanted here, not {unexpected}"), String::new())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Refusal::new("unknown-value", format!("unknown value `{variant}`"), suggestion(variant, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        let missing = Refusal::new("missing-field", format!("the field `{field}` is missing"), String::new());
        Refusal { missing: Some(field), ..missing }
    }
}

/// "did you mean .." or, among few, all that there are.
fn suggestion(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|name| (distance(word, name), *name)).min();
    match near {
        Some((steps, name)) if steps <= 2.max(name.len() / 4) && steps < name.len() => {
            format!("did you mean `{name}`?")
        }
        _ if known.is_empty() => "nothing is known here".to_owned(),
        _ if known.len() <= 12 => format!("known here: {}", known.join(", ")),
        _ => String::new(),
    }
}

/// Edit distance, a swap of neighbours counting as one and letter case as nothing.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 40 || b.len() > 40 {
        return usize::MAX;
    }
    let [a, b] = [a, b].map(|word| word.to_ascii_lowercase().chars().collect::<Vec<_>>());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let swap = i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1];
            let swapped = if swap { rows[i - 1][j - 1] + 1 } else { usize::MAX };
            row.push((rows[i][j] + usize::from(x != y)).min(rows[i][j + 1] + 1).min(row[j] + 1).min(swapped));
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(usize::MAX)
}

/// A serde deserializer over one value of a document.
///
/// What it finds on its way (unknown fields, numbers where strings are wanted) goes to the document's report.
#[derive(Clone, Copy)]
pub struct Typed<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
    report: &'a Report<'a>,
}

impl<'a> Typed<'a> {
    fn settle<T>(&self, answer: Result<T, Refusal>) -> Result<T, Refusal> {
        answer.map_err(|refusal| refusal.settle(self))
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T, Refusal> {
        let message = match self.node.text() {
            Some(text) if !self.node.is_null() => format!("{wanted} is wanted here, not `{text}`"),
            _ => format!("{wanted} is wanted here, not {}", self.node.noun()),
        };
        self.settle(Err(Refusal::new("wrong-type", message, String::new())))
    }

    /// A value of another type than wanted, but one that says what was meant.
    fn mistyped(&self, message: String, remedy: String) -> Result<(), Refusal> {
        match self.report.reading {
            Reading::Strict => self.settle(Err(Refusal::new("wrong-type", message, remedy))),
            Reading::Lenient => {
                self.report.add(self.report.bearable("wrong-type", self.node, self.path, message, remedy));
                Ok(())
            }
        }
    }

    fn string(&self) -> Result<&'a str, Refusal> {
        match &self.node.value {
            Value::Scalar { text, plain: false } => Ok(text),
            Value::Scalar { text, plain: true } => {
                let meaning = scalar::plain(text);
                match meaning {
                    Meaning::Text(text) => return Ok(text),
                    Meaning::Null => return self.wrong("a string"),
                    _ => {}
                }
                let message = format!("`{text}` is {} to Kubernetes, and a string is wanted here", meaning.noun());
                self.mistyped(message, format!("quote it: `\"{text}\"`"))?;
                Ok(text)
            }
            _ => self.wrong("a string"),
        }
    }

    /// What the scalar means, reading through quotes where only the lenient reader may.
    fn bare(&self, wanted: &str, fits: fn(&Meaning<'_>) -> bool) -> Result<Meaning<'a>, Refusal> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if fits(&scalar::plain(text)) => Ok(scalar::plain(text)),
            Value::Scalar { text, plain: false } if fits(&scalar::plain(text)) => {
                let message = format!("`\"{text}\"` is a string to Kubernetes, and {wanted} is wanted here");
                self.mistyped(message, format!("take the quotes away: `{text}`"))?;
                Ok(scalar::plain(text))
            }
            _ => self.wrong(wanted),
        }
    }

    fn integer(&self, least: i128, most: i128) -> Result<i128, Refusal> {
        let meaning = self.bare("a number", |m| matches!(m, Meaning::Integer(_) | Meaning::Float(_)))?;
        let value = match meaning {
            Meaning::Integer(value) => value,
            Meaning::Float(value) if value.fract() == 0.0 && value.abs() < 1e18 => value as i128,
            _ => return self.wrong("a whole number"),
        };
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        let message =
            format!("`{}` is out of range: it goes from {least} to {most}", self.node.text().unwrap_or_default());
        self.settle(Err(Refusal::new("out-of-range", message, String::new())))
    }

    fn float(&self) -> Result<f64, Refusal> {
        match self.bare("a number", |m| matches!(m, Meaning::Integer(_) | Meaning::Float(_)))? {
            Meaning::Integer(value) => Ok(value as f64),
            Meaning::Float(value) => Ok(value),
            _ => self.wrong("a number"),
        }
    }

    fn visit_list<'de, V: Visitor<'de>>(self, items: &'a [Node], visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_seq(Items { items, at: 0, parent: self }))
    }

    fn visit_entries<'de, V: Visitor<'de>>(
        self,
        entries: &'a [(String, Node)],
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_map(Entries { entries, at: 0, fields, parent: self }))
    }

    fn check_fields(&self, entries: &[(String, Node)], fields: &'static [&'static str]) {
        for (key, node) in entries.iter().filter(|(key, _)| !fields.contains(&key.as_str())).take(self.report.most) {
            let mut remedy = suggestion(key, fields);
            if self.report.reading == Reading::Lenient {
                remedy = if remedy.is_empty() { "it is ignored".into() } else { format!("{remedy} (it is ignored)") };
            }
            let path = Path::Key(self.path, key);
            self.report.add(self.report.bearable(
                "unknown-field",
                node,
                &path,
                format!("unknown field `{key}`"),
                remedy,
            ));
        }
    }

    fn visit_integer<'de, V: Visitor<'de>>(self, value: i128, visitor: V) -> Result<V::Value, Refusal> {
        let answer = match (u64::try_from(value), i64::try_from(value)) {
            (Ok(value), _) => visitor.visit_u64(value),
            (_, Ok(value)) => visitor.visit_i64(value),
            _ => visitor.visit_f64(value as f64),
        };
        self.settle(answer)
    }
}

/// Which entries of a map the type gets to see.
#[derive(Clone, Copy)]
enum Fields {
    /// All: it is a map to the type as well.
    Free,
    /// These; and an entry that is null counts as absent, as protobuf's JSON has it.
    Known(&'static [&'static str]),
}

struct Items<'a> {
    items: &'a [Node],
    at: usize,
    parent: Typed<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        while let Some(node) = self.items.get(self.at) {
            let path = Path::Index(self.parent.path, self.at);
            self.at += 1;
            if !self.parent.report.is_skipped(node) {
                let item = Typed { node, path: &path, report: self.parent.report };
                return item.settle(seed.deserialize(item)).map(Some);
            }
        }
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.at)
    }
}

struct Entries<'a> {
    entries: &'a [(String, Node)],
    at: usize,
    fields: Fields,
    parent: Typed<'a>,
}

impl Entries<'_> {
    fn passes(&self, key: &str, node: &Node) -> bool {
        let known = match self.fields {
            Fields::Free => true,
            Fields::Known(fields) => fields.contains(&key) && !node.is_null(),
        };
        known && !self.parent.report.is_skipped(node)
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        while let Some((key, node)) = self.entries.get(self.at) {
            if self.passes(key, node) {
                let path = Path::Key(self.parent.path, key);
                let at = Typed { node, path: &path, report: self.parent.report };
                return at.settle(seed.deserialize(KeyText(key))).map(Some);
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some((key, node)) = self.entries.get(self.at) else { return Err(de::Error::custom("no value is left")) };
        self.at += 1;
        let path = Path::Key(self.parent.path, key);
        let value = Typed { node, path: &path, report: self.parent.report };
        value.settle(seed.deserialize(value))
    }
}

/// A map's key; keys that are numbers to the type are read from their text.
struct KeyText<'a>(&'a str);

macro_rules! key_numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            match self.0.parse::<$type>() {
                Ok(value) => visitor.$visit(value),
                Err(_) => visitor.visit_str(self.0),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for KeyText<'_> {
    type Error = Refusal;

    key_numbers!(deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16);
    key_numbers!(deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64);
    key_numbers!(deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16);
    key_numbers!(deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            let value = self.integer(<$type>::MIN.into(), <$type>::MAX.into())?;
            self.settle(visitor.$visit(<$type>::try_from(value).unwrap_or_default()))
        }
    )*};
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = Refusal;

    integers!(deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16);
    integers!(deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64);
    integers!(deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16);
    integers!(deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::List(items) => return self.visit_list(items, visitor),
            Value::Map(entries) => return self.visit_entries(entries, Fields::Free, visitor),
            Value::Scalar { .. } => {}
        }
        match self.node.meaning().unwrap_or(Meaning::Null) {
            Meaning::Null => self.settle(visitor.visit_unit()),
            Meaning::Bool(value) => self.settle(visitor.visit_bool(value)),
            Meaning::Integer(value) => self.visit_integer(value, visitor),
            Meaning::Float(value) => self.settle(visitor.visit_f64(value)),
            Meaning::Text(text) => self.settle(visitor.visit_str(text)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.bare("a boolean", |m| matches!(m, Meaning::Bool(_)))? {
            Meaning::Bool(value) => self.settle(visitor.visit_bool(value)),
            _ => self.wrong("a boolean"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_f64(self.float()?))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_str(self.string()?))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_bytes(self.string()?.as_bytes()))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.node.is_null() {
            return self.settle(visitor.visit_none());
        }
        self.settle(visitor.visit_some(self))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if !self.node.is_null() {
            return self.wrong("null");
        }
        self.settle(visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::List(items) => self.visit_list(items, visitor),
            _ => self.wrong("a list"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::Map(entries) => self.visit_entries(entries, Fields::Free, visitor),
            _ => self.wrong("a map"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let Value::Map(entries) = &self.node.value else { return self.wrong("a map") };
        if !name.starts_with("open:") {
            self.check_fields(entries, fields);
        }
        self.visit_entries(entries, Fields::Known(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::Map(entries) if entries.len() == 1 => {
                let access = Entries { entries, at: 0, fields: Fields::Free, parent: self };
                self.settle(visitor.visit_enum(de::value::MapAccessDeserializer::new(access)))
            }
            Value::Scalar { .. } => {
                let text = self.string()?;
                self.settle(visitor.visit_enum(text.into_deserializer()))
            }
            _ => self.wrong("one word"),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.settle(visitor.visit_unit())
    }
}
