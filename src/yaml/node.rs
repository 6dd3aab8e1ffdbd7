//! A document as a tree: what was written, and on which line.
//!
//! Built by our own visitors over the YAML parser, so that every value is counted before it is kept. Knows keys, words
//! and lines; knows nothing of the types that are wanted.
//!
//! The parser tells no positions, but it lends out scalars from the text itself wherever they stand there letter by
//! letter; where the loan lies in the text is where it was written. It also gives either a value or a word, not both:
//! the word of a number is taken from behind its key, if what stands there is that very number written plainly. Where
//! some word cannot be told (`0x50`, a number in a list, an escape), the parser is asked once more, guided by the tree
//! so far, for the words alone.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};

use super::guard::Limits;
use super::scalar::{self, Meaning};

/// One value of a document and the line on which it stands; for a field's value, the line of its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub line: u32,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A word, and whether it stands there without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What a scalar means to Kubernetes; nothing for lists and maps.
    pub fn meaning(&self) -> Option<Meaning<'_>> {
        match &self.value {
            Value::Scalar { text, plain: true } => Some(scalar::plain(text)),
            Value::Scalar { text, plain: false } => Some(Meaning::Text(text)),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        self.meaning() == Some(Meaning::Null)
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        entries.iter_mut().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The word of a scalar, as written.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The elements of a list, none for anything else.
    pub fn items_mut(&mut self) -> &mut [Node] {
        match &mut self.value {
            Value::List(items) => items,
            _ => &mut [],
        }
    }

    /// As in "this is a list".
    pub fn noun(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar { .. } => self.meaning().map_or("a string", |meaning| meaning.noun()),
        }
    }
}

/// Something wrong with a document's own writing, before any type is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub code: &'static str,
    pub line: u32,
    pub message: String,
    pub remedy: String,
    /// Kubernetes refuses it; the lenient reader need not.
    pub bearable: bool,
}

impl Fault {
    fn new(code: &'static str, line: u32, message: String, remedy: &str) -> Self {
        Fault { code, line, message, remedy: remedy.to_owned(), bearable: false }
    }
}

/// Parses one document whose first line is `first_line`; also gives what is wrong with its writing but did not stop it.
pub(super) fn parse(text: &str, first_line: u32, limits: &Limits) -> Result<(Node, Vec<Fault>), Fault> {
    let source = Source::new(text, first_line, limits);
    let start = serde_yaml::Deserializer::from_str(text);
    let values = Values { source: &source, depth: 0, line: first_line, behind: None };
    let mut node = values.deserialize(start).map_err(|e| source.fault(&e))?;
    if source.untold.get() {
        node = words(&source, &node)?;
    }
    Ok((node, source.faults.into_inner()))
}

/// The same tree with every word as it was written.
fn words(source: &Source<'_>, shape: &Node) -> Result<Node, Fault> {
    let start = serde_yaml::Deserializer::from_str(source.text);
    Words { source, shape, line: source.first_line }.deserialize(start).map_err(|e| source.fault(&e))
}

/// The text behind a document and what it may still cost.
struct Source<'de> {
    text: &'de str,
    first_line: u32,
    breaks: Vec<usize>,
    limits: &'de Limits,
    nodes: Cell<usize>,
    bytes: Cell<usize>,
    /// Whether some word is not known.
    untold: Cell<bool>,
    /// Where the furthest key so far ends.
    furthest: Cell<usize>,
    /// Why our own visitor stopped the parser.
    stopped: RefCell<Option<(&'static str, String, &'static str)>>,
    faults: RefCell<Vec<Fault>>,
}

impl<'de> Source<'de> {
    fn new(text: &'de str, first_line: u32, limits: &'de Limits) -> Self {
        let bytes = text.as_bytes();
        let ends = |at: &usize| bytes[*at] == b'\n' || bytes[*at] == b'\r' && bytes.get(at + 1) != Some(&b'\n');
        let breaks = (0..bytes.len()).filter(ends).collect();
        let (stopped, faults) = (RefCell::new(None), RefCell::new(Vec::new()));
        let (nodes, bytes, untold, furthest) = (Cell::new(0), Cell::new(0), Cell::new(false), Cell::new(0));
        Source { text, first_line, breaks, limits, nodes, bytes, untold, furthest, stopped, faults }
    }

    /// Where a loan from the text lies in it.
    fn offset(&self, loan: &str) -> Option<usize> {
        let at = (loan.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        (at + loan.len() <= self.text.len()).then_some(at)
    }

    fn line_at(&self, offset: usize) -> u32 {
        let before = self.breaks.partition_point(|at| *at < offset);
        self.first_line.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
    }

    /// Whether the loan at `offset` stands without quotes and without a `!!str` before it.
    fn is_plain(&self, offset: usize) -> bool {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        !matches!(before.last(), Some(b'"' | b'\'')) && !before.trim_ascii_end().ends_with(b"!!str")
    }

    /// Where a key ends. Not told of one that an alias stands for: what is behind its anchor is another value.
    fn end(&self, key: &Word) -> Option<usize> {
        let end = key.offset? + key.text.len();
        (self.furthest.replace(end.max(self.furthest.get())) < end).then_some(end)
    }

    /// The word that stands in one line with its key, which ends at `key_end`.
    fn behind(&self, key_end: usize) -> Option<&'de str> {
        let text = self.text.get(key_end..)?;
        let text = text.strip_prefix(['"', '\'']).unwrap_or(text).strip_prefix(':')?.trim_start_matches(' ');
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '~'));
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        let ends = rest.trim_start_matches(' ').starts_with(['\n', '\r', '#', ',', '}']) || rest.is_empty();
        ends.then_some(word)
    }

    fn check_key(&self, key: &Word, line: u32) {
        let text = &key.text;
        if text == "<<" {
            let message = "`<<` merge keys are not taken".to_owned();
            return self.report(Fault::new("yaml-merge-key", line, message, "write the fields out"));
        }
        if !key.offset.is_some_and(|at| self.is_plain(at)) {
            return;
        }
        let noun = match scalar::plain(text) {
            Meaning::Text(_) | Meaning::Integer(_) => return,
            meaning => meaning.noun(),
        };
        let message = format!("the key `{text}` is {noun} to Kubernetes, and a string is wanted here");
        let fault = Fault::new("unquoted-key", line, message, &format!("quote it: `\"{text}\"`"));
        self.report(Fault { bearable: true, ..fault });
    }

    /// Reports keys that stand twice in one map.
    fn check_twins(&self, entries: &[(String, Node)]) {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries[*a].0.cmp(&entries[*b].0));
        for pair in order.windows(2) {
            let [(key, first), (other, second)] = [&entries[pair[0]], &entries[pair[1]]];
            if key == other {
                let (a, b) = (first.line, second.line);
                let message = format!("the key `{key}` stands twice, on lines {a} and {b}");
                self.report(Fault::new("duplicate-key", b, message, "keep one of them"));
            }
        }
    }

    fn stop<E: de::Error>(&self, code: &'static str, message: String, remedy: &'static str) -> E {
        *self.stopped.borrow_mut() = Some((code, message, remedy));
        E::custom("stopped")
    }

    fn enter<E: de::Error>(&self, depth: usize) -> Result<(), E> {
        let most = self.limits.depth.min(100);
        if depth >= most {
            return Err(self.stop("yaml-limit", format!("more than {most} levels are nested here"), ""));
        }
        Ok(())
    }

    fn count<E: de::Error>(&self, bytes: usize) -> Result<(), E> {
        self.nodes.set(self.nodes.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        // A text without aliases has at most one value for each byte.
        let fair = self.text.len().saturating_mul(10).saturating_add(50_000);
        if self.nodes.get() > self.limits.nodes.min(fair) || self.bytes.get() > self.limits.document.saturating_mul(2) {
            let message = "the document is too large once its aliases are written out".to_owned();
            return Err(self.stop("yaml-limit", message, "write it with fewer aliases"));
        }
        Ok(())
    }

    fn report(&self, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < self.limits.findings {
            faults.push(fault);
        }
    }

    /// The parser's error in our words and with the text's own line numbers.
    fn fault(&self, error: &serde_yaml::Error) -> Fault {
        let own = error.location().map_or(1, |at| at.line().max(1));
        let line = self.first_line.saturating_add(u32::try_from(own - 1).unwrap_or(0));
        if let Some((code, message, remedy)) = self.stopped.borrow_mut().take() {
            return Fault::new(code, line, message, remedy);
        }
        let message = error.to_string();
        // The parser has limits of its own, which it may reach first.
        let limited = message.contains("repetition limit") || message.contains("recursion limit");
        let code = if limited { "yaml-limit" } else { "yaml-syntax" };
        Fault::new(code, line, shift_lines(&message, self.first_line), "")
    }
}

/// The parser counts lines from the start of the document; people count them from the start of the file.
fn shift_lines(message: &str, first_line: u32) -> String {
    let mut shifted = String::new();
    let mut rest = message;
    while let Some(at) = rest.find("line ") {
        let (head, tail) = rest.split_at(at + 5);
        let digits = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        shifted.push_str(head);
        match tail[..digits].parse::<u32>() {
            Ok(line) => shifted.push_str(&line.saturating_add(first_line - 1).to_string()),
            Err(_) => shifted.push_str(&tail[..digits]),
        }
        rest = &tail[digits..];
    }
    shifted + rest
}

/// Reads a value and keeps the limits.
#[derive(Clone, Copy)]
struct Values<'s, 'de> {
    source: &'s Source<'de>,
    depth: usize,
    /// Of what encloses it, for values whose own place cannot be told.
    line: u32,
    /// Where its key ends, for a field's value.
    behind: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Values<'_, 'de> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }
}

impl Values<'_, '_> {
    /// What is a number, a boolean or null to the parser, and so not quoted. `is` tells whether a word is written plainly and
    /// means the same.
    fn plain<E: de::Error>(self, is: impl FnOnce(&str) -> bool) -> Result<Node, E> {
        self.source.count(0)?;
        let word = self.behind.and_then(|at| self.source.behind(at)).filter(|word| is(word));
        if word.is_none() {
            self.source.untold.set(true);
        }
        let text = word.unwrap_or_default().to_owned();
        Ok(Node { line: self.line, value: Value::Scalar { text, plain: true } })
    }
}

impl<'de> Visitor<'de> for Values<'_, 'de> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        self.plain(|word| word == if value { "true" } else { "false" })
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        self.plain(|word| word == value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        self.plain(|word| word == value.to_string())
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Node, E> {
        self.plain(|_| false)
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Node, E> {
        self.plain(|_| false)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        let is_plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        self.plain(|word| is_plain(word) && word.parse() == Ok(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        self.plain(|word| matches!(word, "null" | "~"))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        self.source.count(text.len())?;
        self.source.untold.set(true);
        Ok(Node { line: self.line, value: Value::Scalar { text: String::new(), plain: false } })
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Node, E> {
        self.source.count(text.len())?;
        let offset = self.source.offset(text);
        let line = offset.map_or(self.line, |at| self.source.line_at(at));
        let plain = offset.is_some_and(|at| self.source.is_plain(at));
        Ok(Node { line, value: Value::Scalar { text: text.to_owned(), plain } })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.source.enter(self.depth)?;
        self.source.count(0)?;
        let mut items: Vec<Node> = Vec::new();
        let mut inside = Values { depth: self.depth + 1, behind: None, ..self };
        while let Some(item) = access.next_element_seed(inside)? {
            inside.line = item.line.max(inside.line);
            items.push(item);
        }
        let line = items.first().map_or(self.line, |item| item.line);
        Ok(Node { line, value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        self.source.enter(self.depth)?;
        self.source.count(0)?;
        let mut entries = Vec::new();
        while let Some(key) = access.next_key_seed(Key(self.source))? {
            self.source.count(key.text.len())?;
            let line = key.offset.map_or(self.line, |at| self.source.line_at(at));
            self.source.check_key(&key, line);
            let behind = self.source.end(&key);
            let mut node = access.next_value_seed(Values { depth: self.depth + 1, line, behind, ..self })?;
            node.line = line;
            entries.push((key.text, node));
        }
        self.source.check_twins(&entries);
        let line = entries.first().map_or(self.line, |(_, node)| node.line);
        Ok(Node { line, value: Value::Map(entries) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<Node, A::Error> {
        let (tag, _) = access.variant::<String>()?;
        let tag = tag.trim_start_matches('!');
        Err(self.source.stop("yaml-tag", format!("the tag `!{tag}` is not taken"), "leave the tag out"))
    }
}

/// A word with where it stands, where that can be told.
struct Word {
    text: String,
    offset: Option<usize>,
}

/// Reads a map's key; anything but a scalar is refused.
struct Key<'s, 'de>(&'s Source<'de>);

impl<'de> DeserializeSeed<'de> for Key<'_, 'de> {
    type Value = Word;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Word, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, 'de> {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Word, E> {
        Ok(Word { text: text.to_owned(), offset: None })
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Word, E> {
        Ok(Word { text: text.to_owned(), offset: self.0.offset(text) })
    }
}

/// Reads the words of a document whose shape is known.
#[derive(Clone, Copy)]
struct Words<'s, 'de> {
    source: &'s Source<'de>,
    shape: &'s Node,
    /// Of what encloses it, for values whose own place cannot be told.
    line: u32,
}

impl<'de> DeserializeSeed<'de> for Words<'_, 'de> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        match self.shape.value {
            Value::List(_) => from.deserialize_seq(self),
            Value::Map(_) => from.deserialize_map(self),
            Value::Scalar { plain, .. } => {
                let word = Key(self.source).deserialize(from)?;
                let line = word.offset.map_or(self.line, |at| self.source.line_at(at));
                let plain = plain || word.offset.is_some_and(|at| self.source.is_plain(at));
                Ok(Node { line, value: Value::Scalar { text: word.text, plain } })
            }
        }
    }
}

impl<'de> Visitor<'de> for Words<'_, 'de> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let Value::List(shapes) = &self.shape.value else {
            return Err(de::Error::custom("the text changed while it was read"));
        };
        let mut items: Vec<Node> = Vec::with_capacity(shapes.len());
        let mut line = self.line;
        for shape in shapes {
            let Some(item) = access.next_element_seed(Words { shape, line, ..self })? else { break };
            line = item.line.max(line);
            items.push(item);
        }
        let line = items.first().map_or(self.line, |item| item.line);
        Ok(Node { line, value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let Value::Map(shapes) = &self.shape.value else {
            return Err(de::Error::custom("the text changed while it was read"));
        };
        let mut entries = Vec::with_capacity(shapes.len());
        for (_, shape) in shapes {
            let Some(key) = access.next_key_seed(Key(self.source))? else { break };
            let line = key.offset.map_or(self.line, |at| self.source.line_at(at));
            let mut node = access.next_value_seed(Words { shape, line, ..self })?;
            node.line = line;
            entries.push((key.text, node));
        }
        let line = entries.first().map_or(self.line, |(_, node)| node.line);
        Ok(Node { line, value: Value::Map(entries) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks twice, whether that is needed or not.
    fn both(text: &str) -> Option<(Node, Node, bool)> {
        let limits = Limits::default();
        let source = Source::new(text, 1, &limits);
        let values = Values { source: &source, depth: 0, line: 1, behind: None };
        let once = values.deserialize(serde_yaml::Deserializer::from_str(text)).ok()?;
        let twice = words(&source, &once).expect("what was read once is read again");
        Some((once, twice, source.untold.get()))
    }

    const WORDS: &[&str] = &[
        "80",
        "0",
        "-1",
        "-0",
        "007",
        "0x50",
        "0o17",
        "+5",
        "1_000",
        "1.10",
        "1.",
        ".5",
        "1e3",
        ".inf",
        "-.nan",
        "true",
        "True",
        "yes",
        "false",
        "null",
        "~",
        "Null",
        "",
        "a",
        "\"80\"",
        "'80'",
        "!!str 80",
        "!!int \"80\"",
        "&x 80",
        "*x",
        "80 # eighty",
        "80  ",
        "80,",
        "99999999999999999999",
        "18446744073709551615",
        "-9223372036854775808",
        "\"\\u0061\"",
        "|\n  a\n  80",
        "1.2.3",
        "80\t",
        "1-2",
        "\n  80",
        "é",
        "80é",
        "[80, 81]",
        "{b: 80, c: true}",
        "{\"b\":80}",
    ];

    #[test]
    fn what_is_told_at_once_is_what_is_told_when_asked_again() {
        let mut at_once = 0;
        for first in WORDS {
            for second in WORDS {
                for text in [
                    format!("a: {first}\nb: {second}\n"),
                    format!("a: &x 80\n\"b\": {first}\n'c':   {second}"),
                    format!("- {first}\n- k: {second}\n  80: 80\n"),
                    format!("a: {{b: {first}, c: {second}}}\r\n"),
                    format!("a:\n  b: {first}\n\n  c: {second}\n"),
                    format!("&x k: {first}\nl: {{*x : {second}}}\n"),
                ] {
                    let Some((once, twice, untold)) = both(&text) else { continue };
                    at_once += usize::from(!untold);
                    assert!(untold || once == twice, "{text}\n{once:?}\n{twice:?}");
                }
            }
        }
        assert!(at_once > 1_000, "{at_once}");
    }

    #[test]
    fn what_people_write_is_told_at_once() {
        let text = "port: 80\nweight: 100\nratio: 99.9\nabort: {percentage: {value: 0.1}, httpStatus: 503}\non: \"80\"\nretry: true\n";
        assert_eq!(both(text).map(|(once, twice, untold)| (once == twice, untold)), Some((true, false)));
    }
}
