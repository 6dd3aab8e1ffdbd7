//! Regular expressions in RE2's dialect, as Envoy runs them: over bytes, and over the whole value.
//!
//! Knows the grammar of RE2 and how to put a pattern to the `regex` crate. Knows nothing of what a pattern is matched
//! against, nor of the rules of admission (whether a pattern may be empty, or how long it may be).
//!
//! RE2 and Rust disagree about more than `\Q..\E`: `\s` (no vertical tab in RE2), `[a&&b]` (literal characters in RE2),
//! `a**` (an error in RE2), `\x{100}`, `(?x)` and so on. A pattern is therefore read by a parser of our own, which
//! follows RE2's `parse.cc` in its Latin-1 mode, straight into the syntax tree of `regex-syntax`. An earlier idea,
//! rewriting RE2's text into Rust's, needs the same parser and then has to escape its way past a second one.
//!
//! Anchoring happens in the tree. Text glued around a pattern would let `a|b)(c` compile, and a search whose span is
//! compared afterwards would find that `/a|/ab` does not match `/ab`.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use regex::bytes::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, Hir, HirKind, Look, Repetition};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest source that is looked at, in bytes.
const MAX_SOURCE: usize = 64 * 1024;
/// How deep groups and repetitions may nest. RE2 allows more groups, but the compiler underneath recurses.
const MAX_DEPTH: u32 = 250;
/// RE2's bound for `{n,m}`, and for the product of nested ones.
const MAX_REPEAT: u32 = 1000;
/// Bound of the compiled program, in bytes.
const SIZE_LIMIT: usize = 10 << 20;
/// Bound of the lazily built automaton, in bytes and for each thread.
const DFA_LIMIT: usize = 4 << 20;
/// Bound of the printed tree's nesting: each of our levels prints as at most a group, a repetition and a list.
const PRINTED_DEPTH: u32 = 4 * MAX_DEPTH;
/// The longest literal prefix or suffix worth keeping.
const MAX_EDGE: usize = 256;

/// A regular expression in RE2's dialect, as Envoy 1.40 runs it.
///
/// It works byte by byte: `\d`, `\w`, `\s` and `\b` are ASCII, `.` is one byte other than a newline, and a character
/// beyond ASCII stands for its UTF-8 bytes, inside a class for each of them. `(?i)` folds ASCII only.
///
/// Two patterns are equal when their sources are. Cloning is cheap. Reading one allocates; matching does not, except
/// for working memory which the engine keeps from one call to the next.
///
/// ```
/// use meshroute::Pattern;
///
/// let canary = Pattern::parse(r"/api/v[12]/.*").unwrap();
/// assert!(canary.is_full_match(b"/api/v2/users"));
/// assert!(!canary.is_full_match(b"/old/api/v2/users"), "the whole value has to match");
/// assert_eq!(canary.literal_prefix(), b"/api/v");
///
/// let error = Pattern::parse("a|b)(c").unwrap_err();
/// assert_eq!(error.to_string(), "`)` closes no group, at byte 3");
/// ```
///
/// Source: Envoy's `type.matcher.v3.RegexMatcher`, and RE2's syntax page.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    source: Box<str>,
    prefix: Box<[u8]>,
    /// Bytes with which every matching value ends.
    suffix: Box<[u8]>,
    /// The pattern is nothing but `prefix`.
    literal: bool,
    groups: usize,
    /// The tree as the parser left it, printed, from which `search` is made.
    tree: Box<str>,
    full: Regex,
    /// The unanchored twin, made when the first [`Rewrite`] asks for it.
    search: OnceLock<Result<Regex, PatternError>>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// If RE2 would refuse it, if it is longer than 64 KiB, nests deeper than 250 levels, or compiles to more than
    /// 10 MiB.
    pub fn parse(source: &str) -> Result<Pattern, PatternError> {
        if source.len() > MAX_SOURCE {
            return Err(PatternError::new(Kind::TooLong, MAX_SOURCE));
        }
        let (tree, groups) = Parser::new(source.as_bytes()).run()?;
        let printed = print(&tree);
        let anchored = Hir::concat(vec![Hir::look(Look::Start), tree.clone(), Hir::look(Look::End)]);
        let full = compile(&print(&anchored))?;
        let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
        let whole = extend_edge(&tree, Side::Front, &mut prefix);
        extend_edge(&tree, Side::Back, &mut suffix);
        suffix.reverse();
        let literal = whole && tree.properties().look_set().is_empty();
        Ok(Pattern(Arc::new(Compiled {
            source: source.into(),
            prefix: prefix.into(),
            suffix: suffix.into(),
            literal,
            groups,
            tree: printed.into(),
            full,
            search: OnceLock::new(),
        })))
    }

    /// The source, as the operator wrote it.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// Whether all of `value` matches.
    pub fn is_full_match(&self, value: &[u8]) -> bool {
        if self.0.literal {
            return value == &*self.0.prefix;
        }
        // Most values that don't match are dismissed by their ends, for much less than an automaton costs.
        value.starts_with(&self.0.prefix) && value.ends_with(&self.0.suffix) && self.0.full.is_match(value)
    }

    /// Bytes with which every matching value begins. It may be empty, and it need not be the longest such prefix.
    pub fn literal_prefix(&self) -> &[u8] {
        &self.0.prefix
    }

    /// The number of capturing groups, `\0` not counted.
    pub fn group_count(&self) -> usize {
        self.0.groups
    }

    /// `value` with every match, anywhere in it, replaced as `rewrite` says. A group that took no part is empty.
    ///
    /// Matches don't overlap, and an empty one directly after another match doesn't count, as in RE2's `GlobalReplace`.
    /// Allocates the answer. In the worst case the time grows with the square of the length of `value`.
    ///
    /// ```
    /// use meshroute::{Pattern, Rewrite};
    ///
    /// let pattern = Pattern::parse("/v([0-9]+)").unwrap();
    /// let rewrite = Rewrite::parse(r"/version-\1", &pattern).unwrap();
    /// assert_eq!(pattern.replace_all(b"/v1/v22/vx", &rewrite), b"/version-1/version-22/vx");
    /// ```
    ///
    /// Source: Envoy's `RouteAction.regex_rewrite`, which Istio's `uriRegexRewrite` becomes.
    pub fn replace_all(&self, value: &[u8], rewrite: &Rewrite) -> Vec<u8> {
        let Ok(search) = self.search() else { return value.to_vec() };
        let mut out = Vec::with_capacity(value.len());
        let (mut at, mut last_end) = (0, None);
        while at <= value.len() {
            let Some((found, groups)) = find(search, value, at) else { break };
            out.extend_from_slice(&value[at..found.start]);
            if found.is_empty() && last_end == Some(found.start) {
                out.extend(value.get(found.start));
                at = found.start + 1;
                continue;
            }
            rewrite.append(&groups, &mut out);
            at = found.end;
            last_end = Some(at);
        }
        out.extend_from_slice(value.get(at..).unwrap_or_default());
        out
    }

    fn search(&self) -> Result<&Regex, PatternError> {
        self.0.search.get_or_init(|| compile(&self.0.tree)).as_ref().map_err(Clone::clone)
    }
}

fn find<'v>(search: &Regex, value: &'v [u8], at: usize) -> Option<(std::ops::Range<usize>, Captures<'v>)> {
    let groups = search.captures_at(value, at)?;
    Some((groups.get(0)?.range(), groups))
}

/// Compiles a printed tree.
fn compile(printed: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(printed)
        .unicode(false)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(DFA_LIMIT)
        .nest_limit(PRINTED_DEPTH)
        .build()
        .map_err(|_| PatternError::new(Kind::TooBig, 0))
}

/// Writes a tree for the `regex` crate, which takes text only, with Unicode off.
///
/// `Hir` can print itself, but it prints the repetition of a repetition, `(?:a+)?`, as the lazy `a+?`.
fn print(tree: &Hir) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_tree(tree, &mut out);
    out
}

fn write_tree(tree: &Hir, out: &mut String) -> fmt::Result {
    match tree.kind() {
        HirKind::Empty => out.write_str("(?:)"),
        HirKind::Literal(literal) => write_literal(&literal.0, out),
        HirKind::Class(Class::Bytes(class)) => write_class(class, out),
        HirKind::Class(Class::Unicode(class)) => write_characters(class, out),
        HirKind::Look(look) => out.write_str(look_text(*look)),
        HirKind::Repetition(repetition) => write_repetition(repetition, out),
        HirKind::Capture(group) => write_group("(", std::slice::from_ref(&*group.sub), "", out),
        HirKind::Concat(parts) => write_group("(?:", parts, "", out),
        HirKind::Alternation(branches) => write_group("(?:", branches, "|", out),
    }
}

/// A class without members.
const NOTHING: &str = r"[^\x00-\xFF]";

fn write_literal(bytes: &[u8], out: &mut String) -> fmt::Result {
    out.write_str("(?:")?;
    bytes.iter().try_for_each(|byte| write!(out, r"\x{byte:02X}"))?;
    out.write_str(")")
}

fn write_class(class: &ClassBytes, out: &mut String) -> fmt::Result {
    if class.ranges().is_empty() {
        return out.write_str(NOTHING);
    }
    out.write_str("[")?;
    class.ranges().iter().try_for_each(|range| write!(out, r"\x{:02X}-\x{:02X}", range.start(), range.end()))?;
    out.write_str("]")
}

/// The parser makes no class of characters, but `Hir` makes one of `é|a`, since each branch is one character's UTF-8.
fn write_characters(class: &ClassUnicode, out: &mut String) -> fmt::Result {
    let code = |character: char| u32::from(character);
    out.write_str("(?u:[")?;
    let mut ranges = class.ranges().iter().map(|range| (code(range.start()), code(range.end())));
    ranges.try_for_each(|(low, high)| write!(out, r"\x{{{low:X}}}-\x{{{high:X}}}"))?;
    out.write_str("])")
}

fn look_text(look: Look) -> &'static str {
    match look {
        Look::Start => r"\A",
        Look::End => r"\z",
        Look::StartLF => "(?m:^)",
        Look::EndLF => "(?m:$)",
        Look::WordAscii => r"\b",
        Look::WordAsciiNegate => r"\B",
        // INVARIANT: the parser makes no other.
        _ => NOTHING,
    }
}

fn write_repetition(repetition: &Repetition, out: &mut String) -> fmt::Result {
    write_group("(?:", std::slice::from_ref(&*repetition.sub), "", out)?;
    match repetition.max {
        Some(max) => write!(out, "{{{},{max}}}", repetition.min)?,
        None => write!(out, "{{{},}}", repetition.min)?,
    }
    out.write_str(if repetition.greedy { "" } else { "?" })
}

fn write_group(open: &str, parts: &[Hir], between: &str, out: &mut String) -> fmt::Result {
    out.write_str(open)?;
    for (index, part) in parts.iter().enumerate() {
        out.write_str(if index > 0 { between } else { "" })?;
        write_tree(part, out)?;
    }
    out.write_str(")")
}

/// Which end of a value.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Front,
    /// Bytes are collected from the last on.
    Back,
}

/// Appends what everything that matches `hir` begins or ends with, and says whether that is all of it.
fn extend_edge(hir: &Hir, side: Side, edge: &mut Vec<u8>) -> bool {
    if edge.len() > MAX_EDGE {
        return false;
    }
    match (hir.kind(), side) {
        (HirKind::Empty | HirKind::Look(_), _) => true,
        (HirKind::Literal(literal), Side::Front) => {
            edge.extend_from_slice(&literal.0);
            true
        }
        (HirKind::Literal(literal), Side::Back) => {
            edge.extend(literal.0.iter().rev());
            true
        }
        (HirKind::Class(_), _) => false,
        (HirKind::Capture(group), _) => extend_edge(&group.sub, side, edge),
        (HirKind::Concat(parts), Side::Front) => parts.iter().all(|part| extend_edge(part, side, edge)),
        (HirKind::Concat(parts), Side::Back) => parts.iter().rev().all(|part| extend_edge(part, side, edge)),
        (HirKind::Repetition(repetition), _) => extend_repeated(repetition, side, edge),
        (HirKind::Alternation(branches), _) => extend_common(branches, side, edge),
    }
}

fn extend_repeated(repetition: &Repetition, side: Side, edge: &mut Vec<u8>) -> bool {
    (0..repetition.min).all(|_| extend_edge(&repetition.sub, side, edge)) && repetition.max == Some(repetition.min)
}

fn extend_common(branches: &[Hir], side: Side, edge: &mut Vec<u8>) -> bool {
    let mut common: Option<Vec<u8>> = None;
    let mut whole = true;
    for branch in branches {
        let mut next = Vec::new();
        whole &= extend_edge(branch, side, &mut next);
        let Some(common) = &mut common else {
            common = Some(next);
            continue;
        };
        let shared = common.iter().zip(&next).take_while(|(a, b)| a == b).count();
        whole &= shared == common.len() && shared == next.len();
        common.truncate(shared);
    }
    edge.extend(common.unwrap_or_default());
    whole
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = String::deserialize(deserializer)?;
        Pattern::parse(&source).map_err(serde::de::Error::custom)
    }
}

/// What a match is replaced by: text in which `\0` is the whole match, `\1` to `\9` are groups and `\\` is a backslash.
///
/// Source: Envoy's `type.matcher.v3.RegexMatchAndSubstitute.substitution`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rewrite(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

impl Rewrite {
    /// Reads the replacement for matches of `pattern`.
    ///
    /// # Errors
    ///
    /// If a backslash precedes anything else than a digit or a backslash, or if `pattern` has no such group.
    ///
    /// ```
    /// use meshroute::{Pattern, Rewrite};
    ///
    /// let pattern = Pattern::parse("/(a)/(b)").unwrap();
    /// let error = Rewrite::parse(r"/\3", &pattern).unwrap_err();
    /// assert_eq!(error.to_string(), r"the rewrite uses group `\3` but the pattern has 2 groups, at byte 1");
    /// ```
    pub fn parse(text: &str, pattern: &Pattern) -> Result<Rewrite, PatternError> {
        pattern.search()?;
        let bytes = text.as_bytes();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let plain = bytes[at..].iter().take_while(|b| **b != b'\\').count();
            if plain > 0 {
                parts.push(Part::Text(bytes[at..at + plain].to_vec()));
                at += plain;
                continue;
            }
            parts.push(escaped_part(bytes.get(at + 1), at, pattern.group_count())?);
            at += 2;
        }
        Ok(Rewrite(parts))
    }

    fn append(&self, groups: &Captures<'_>, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Group(index) => out.extend_from_slice(groups.get(*index).map_or(b"", |group| group.as_bytes())),
            }
        }
    }
}

fn escaped_part(byte: Option<&u8>, at: usize, groups: usize) -> Result<Part, PatternError> {
    match byte {
        Some(b'\\') => Ok(Part::Text(b"\\".to_vec())),
        Some(digit @ b'0'..=b'9') => match usize::from(digit - b'0') {
            wanted if wanted > groups => Err(PatternError::new(Kind::RewriteGroup { wanted, groups }, at)),
            wanted => Ok(Part::Group(wanted)),
        },
        _ => Err(PatternError::new(Kind::RewriteEscape, at)),
    }
}

/// Why a pattern or a rewrite was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}, at byte {at}")]
pub struct PatternError {
    kind: Kind,
    at: usize,
}

impl PatternError {
    fn new(kind: Kind, at: usize) -> Self {
        PatternError { kind, at }
    }

    /// Where in the text the mistake begins, counted in bytes from 0.
    pub fn position(&self) -> usize {
        self.at
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Kind {
    #[error("the pattern is longer than {MAX_SOURCE} bytes")]
    TooLong,
    #[error("the pattern compiles to more than {SIZE_LIMIT} bytes")]
    TooBig,
    #[error("the pattern nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("`)` closes no group")]
    StrayClose,
    #[error("the group opened by `(` has no closing `)`")]
    UnclosedGroup,
    #[error("the class opened by `[` has no closing `]`")]
    UnclosedClass,
    #[error("the range `{0}` is not a range of characters, or runs backwards")]
    BadRange(String),
    #[error("unknown character class `{0}`")]
    UnknownClass(String),
    #[error("the pattern ends in a lone `\\`")]
    TrailingBackslash,
    #[error("`{0}` is a back-reference, which RE2 does not have")]
    BackReference(String),
    #[error("`{0}` is not an escape RE2 knows")]
    BadEscape(String),
    #[error("`{0}` is beyond `\\xFF`: patterns match single bytes")]
    NotAByte(String),
    #[error("`{0}` looks around, which RE2 does not do")]
    LookAround(String),
    #[error("`{0}` is not a group or flag RE2 knows (flags are `i`, `m`, `s`, `U`)")]
    BadGroup(String),
    #[error("`{0}` is not the name of a group")]
    BadName(String),
    #[error("two groups are named `{0}`")]
    SameName(String),
    #[error("`{0}` has nothing to repeat")]
    NothingToRepeat(String),
    #[error("`{0}` repeats a repetition")]
    RepeatedRepeat(String),
    #[error("`{0}` repeats backwards or, with those around it, more than {MAX_REPEAT} times")]
    RepeatSize(String),
    #[error("in a rewrite `\\` must be followed by a digit or by another `\\`")]
    RewriteEscape,
    #[error("the rewrite uses group `\\{wanted}` but the pattern has {groups} groups")]
    RewriteGroup { wanted: usize, groups: usize },
}

/// The flags of `(?imsU)`.
#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_all: bool,
    swap_greed: bool,
}

/// A piece of tree, how deep it is, and how often the repetitions in it multiply.
struct Item {
    hir: Hir,
    depth: u32,
    repeats: u32,
}

/// An open group, or the pattern itself.
struct Frame {
    at: usize,
    capture: Option<u32>,
    /// The flags to go back to when it closes.
    outer: Flags,
    branches: Vec<Item>,
    items: Vec<Item>,
}

struct Parser<'p> {
    text: &'p [u8],
    at: usize,
    flags: Flags,
    /// The group being read; those around it wait in `outer`.
    frame: Frame,
    outer: Vec<Frame>,
    groups: u32,
    names: BTreeSet<&'p [u8]>,
    /// Where the repetition operator just read began: a second one must not follow.
    repeat_at: Option<usize>,
    /// No `:]` is left in the text. Known from the first `[:` that lacks one, so that looking stays linear.
    no_more_posix: bool,
}

type Parsed<T = ()> = Result<T, PatternError>;

impl<'p> Parser<'p> {
    fn new(text: &'p [u8]) -> Self {
        let flags = Flags::default();
        Parser {
            text,
            at: 0,
            flags,
            frame: Frame::new(0, None, flags),
            outer: Vec::new(),
            groups: 0,
            names: BTreeSet::new(),
            repeat_at: None,
            no_more_posix: false,
        }
    }

    fn run(mut self) -> Parsed<(Hir, usize)> {
        while let Some(byte) = self.peek(0) {
            self.step(byte)?;
        }
        if !self.outer.is_empty() {
            return Err(PatternError::new(Kind::UnclosedGroup, self.frame.at));
        }
        let tree = self.frame.into_item().checked(0)?;
        Ok((tree.hir, self.groups as usize))
    }

    fn step(&mut self, byte: u8) -> Parsed {
        let stacked = self.repeat_at.take();
        match byte {
            b'(' => self.open(),
            b')' => self.close(),
            b'|' => {
                self.at += 1;
                self.frame.end_branch();
                Ok(())
            }
            b'*' => self.repeat(stacked, 1, 0, None),
            b'+' => self.repeat(stacked, 1, 1, None),
            b'?' => self.repeat(stacked, 1, 0, Some(1)),
            b'{' => match bounds(&self.text[self.at..]) {
                Some((len, min, max)) => self.repeat(stacked, len, min, max),
                None => self.literal(byte, 1),
            },
            b'[' => self.class(),
            b'.' => self.push_set(self.dot(), 1),
            b'^' => self.push(Hir::look(if self.flags.lines { Look::StartLF } else { Look::Start }), 1),
            b'$' => self.push(Hir::look(if self.flags.lines { Look::EndLF } else { Look::End }), 1),
            b'\\' => self.escape(),
            _ => self.literal(byte, 1),
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'p [u8] {
        &self.text[self.at..]
    }

    fn error<T>(&self, kind: Kind) -> Parsed<T> {
        Err(PatternError::new(kind, self.at))
    }

    /// The operator's text from here on, for a message.
    fn quote(&self, len: usize) -> String {
        quote(self.rest(), len)
    }

    fn push(&mut self, hir: Hir, len: usize) -> Parsed {
        self.at += len;
        self.frame.items.push(Item { hir, depth: 1, repeats: 1 });
        Ok(())
    }

    fn push_set(&mut self, set: ByteSet, len: usize) -> Parsed {
        self.push(set.into_hir(), len)
    }

    fn literal(&mut self, byte: u8, len: usize) -> Parsed {
        if !self.flags.fold || !byte.is_ascii_alphabetic() {
            return self.push(Hir::literal([byte]), len);
        }
        self.push_set(ByteSet::group(&[(byte, byte)], false, true), len)
    }

    fn dot(&self) -> ByteSet {
        if self.flags.dot_all {
            return ByteSet::of(&[(0, 255)]);
        }
        ByteSet::of(&[(b'\n', b'\n')]).negated()
    }

    // Groups and flags.

    fn open(&mut self) -> Parsed {
        if self.peek(1) != Some(b'?') {
            self.groups += 1;
            return self.enter(1, Some(self.groups), self.flags);
        }
        let rest = self.rest();
        if [&b"(?="[..], b"(?!", b"(?<=", b"(?<!"].iter().any(|around| rest.starts_with(around)) {
            return self.error(Kind::LookAround(self.quote(if rest[2] == b'<' { 4 } else { 3 })));
        }
        match rest.get(2..) {
            Some([b'P', b'<', ..]) => self.open_named(4),
            Some([b'<', ..]) => self.open_named(3),
            _ => self.open_flags(),
        }
    }

    fn enter(&mut self, len: usize, capture: Option<u32>, flags: Flags) -> Parsed {
        if self.outer.len() as u32 >= MAX_DEPTH {
            return self.error(Kind::TooDeep);
        }
        let group = Frame::new(self.at, capture, self.flags);
        self.outer.push(std::mem::replace(&mut self.frame, group));
        self.flags = flags;
        self.at += len;
        Ok(())
    }

    fn open_named(&mut self, before: usize) -> Parsed {
        let rest = &self.rest()[before..];
        let Some(len) = rest.iter().position(|b| *b == b'>') else {
            return self.error(Kind::BadName(self.quote(usize::MAX)));
        };
        let name = &rest[..len];
        if name.is_empty() || !name.iter().all(|b| is_name_byte(*b)) {
            return self.error(Kind::BadName(quote(name, len)));
        }
        if !self.names.insert(name) {
            return self.error(Kind::SameName(quote(name, len)));
        }
        self.groups += 1;
        self.enter(before + len + 1, Some(self.groups), self.flags)
    }

    fn open_flags(&mut self) -> Parsed {
        let mut flags = self.flags;
        let (mut on, mut pending) = (true, false);
        for (read, byte) in self.rest().iter().enumerate().skip(2) {
            match byte {
                b'i' => flags.fold = on,
                b'm' => flags.lines = on,
                b's' => flags.dot_all = on,
                b'U' => flags.swap_greed = on,
                b'-' if on => on = false,
                b':' if !pending => return self.enter(read + 1, None, flags),
                b')' if !pending => {
                    self.at += read + 1;
                    self.flags = flags;
                    return Ok(());
                }
                _ => return self.error(Kind::BadGroup(self.quote(read + 1))),
            }
            pending = *byte == b'-';
        }
        self.error(Kind::BadGroup(self.quote(usize::MAX)))
    }

    fn close(&mut self) -> Parsed {
        let Some(outer) = self.outer.pop() else { return self.error(Kind::StrayClose) };
        let group = std::mem::replace(&mut self.frame, outer);
        let at = group.at;
        self.flags = group.outer;
        self.at += 1;
        self.frame.items.push(group.into_item().checked(at)?);
        Ok(())
    }

    // Repetition.

    fn repeat(&mut self, stacked: Option<usize>, len: usize, min: u32, max: Option<u32>) -> Parsed {
        let lazy = self.peek(len) == Some(b'?');
        let end = len + usize::from(lazy);
        if let Some(first) = stacked {
            let text = quote(&self.text[first..], self.at + end - first);
            return Err(PatternError::new(Kind::RepeatedRepeat(text), first));
        }
        let Some(item) = self.frame.items.pop() else {
            return self.error(Kind::NothingToRepeat(self.quote(end)));
        };
        let factor = if self.text[self.at] == b'{' { max.unwrap_or(min).max(1) } else { 1 };
        let repeats = item.repeats.saturating_mul(factor);
        let backwards = max.is_some_and(|max| max < min);
        if backwards || min.max(factor) > MAX_REPEAT || (factor > 1 && repeats > MAX_REPEAT) {
            return self.error(Kind::RepeatSize(self.quote(end)));
        }
        let greedy = lazy == self.flags.swap_greed;
        let hir = Hir::repetition(Repetition { min, max, greedy, sub: Box::new(item.hir) });
        let item = Item { hir, depth: item.depth + 1, repeats }.checked(self.at)?;
        self.frame.items.push(item);
        self.repeat_at = Some(self.at);
        self.at += end;
        Ok(())
    }

    // Escapes.

    fn escape(&mut self) -> Parsed {
        let Some(letter) = self.peek(1) else { return self.error(Kind::TrailingBackslash) };
        match letter {
            b'b' => self.push(Hir::look(Look::WordAscii), 2),
            b'B' => self.push(Hir::look(Look::WordAsciiNegate), 2),
            b'A' => self.push(Hir::look(Look::Start), 2),
            b'z' => self.push(Hir::look(Look::End), 2),
            b'C' => self.push_set(ByteSet::of(&[(0, 255)]), 2),
            b'Q' => self.quoted(),
            _ => match self.escaped_set()? {
                Some((set, len)) => self.push_set(set, len),
                None => {
                    let (byte, len) = self.escaped_byte()?;
                    self.literal(byte, len)
                }
            },
        }
    }

    /// `\Q..\E`, or to the end of the pattern.
    fn quoted(&mut self) -> Parsed {
        self.at += 2;
        while let Some(byte) = self.peek(0) {
            if self.rest().starts_with(b"\\E") {
                self.at += 2;
                return Ok(());
            }
            self.literal(byte, 1)?;
        }
        Ok(())
    }

    /// `\d` and its kin, `\pL`, `\p{Greek}`: the set, and the length of its text.
    fn escaped_set(&self) -> Parsed<Option<(ByteSet, usize)>> {
        let Some(letter) = self.peek(1) else { return Ok(None) };
        if matches!(letter, b'p' | b'P') {
            return self.property(letter == b'P').map(Some);
        }
        let Some(ranges) = perl_class(letter.to_ascii_lowercase()) else { return Ok(None) };
        Ok(Some((ByteSet::group(ranges, letter.is_ascii_uppercase(), self.flags.fold), 2)))
    }

    fn property(&self, negated: bool) -> Parsed<(ByteSet, usize)> {
        let (name, len) = match self.rest().get(2..) {
            None | Some([]) => return self.error(Kind::BadEscape(self.quote(2))),
            Some([b'{', inner @ ..]) => match inner.iter().position(|b| *b == b'}') {
                Some(end) => (&inner[..end], end + 4),
                None => return self.error(Kind::UnknownClass(self.quote(usize::MAX))),
            },
            Some(name) => (&name[..1], 3),
        };
        let (name, inverted) = name.strip_prefix(b"^").map_or((name, false), |name| (name, true));
        match property(name) {
            Some(ranges) => Ok((ByteSet::group(ranges, negated != inverted, self.flags.fold), len)),
            None => self.error(Kind::UnknownClass(self.quote(len))),
        }
    }

    /// An escape that stands for one byte, and the length of its text.
    fn escaped_byte(&self) -> Parsed<(u8, usize)> {
        let Some(letter) = self.peek(1) else { return self.error(Kind::TrailingBackslash) };
        match letter {
            b'a' => Ok((0x07, 2)),
            b'f' => Ok((0x0C, 2)),
            b'n' => Ok((b'\n', 2)),
            b'r' => Ok((b'\r', 2)),
            b't' => Ok((b'\t', 2)),
            b'v' => Ok((0x0B, 2)),
            b'x' => self.hex(),
            b'0' => self.octal(),
            b'1'..=b'7' if matches!(self.peek(2), Some(b'0'..=b'7')) => self.octal(),
            b'1'..=b'9' => self.error(Kind::BackReference(self.quote(2))),
            _ if letter.is_ascii() && !letter.is_ascii_alphanumeric() => Ok((letter, 2)),
            _ => self.error(Kind::BadEscape(self.quote(2))),
        }
    }

    fn octal(&self) -> Parsed<(u8, usize)> {
        let digits = self.rest()[1..].iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
        let code = self.rest()[1..=digits].iter().fold(0, |code: u32, digit| code * 8 + u32::from(digit - b'0'));
        self.byte(code, 1 + digits)
    }

    fn hex(&self) -> Parsed<(u8, usize)> {
        let rest = &self.rest()[2..];
        let (digits, before, after) = match rest {
            [b'{', inner @ ..] => (inner.iter().take_while(|b| b.is_ascii_hexdigit()).count(), 3, 1),
            _ => (rest.iter().take(2).take_while(|b| b.is_ascii_hexdigit()).count(), 2, 0),
        };
        let len = before + digits + after;
        let complete = if after == 1 { digits > 0 && self.peek(len - 1) == Some(b'}') } else { digits == 2 };
        if !complete {
            return self.error(Kind::BadEscape(self.quote(len)));
        }
        let text = &self.rest()[before..before + digits];
        let value = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or(0);
        let code = text.iter().fold(0, |code: u32, digit| code.saturating_mul(16).saturating_add(value(digit)));
        self.byte(code, len)
    }

    fn byte(&self, code: u32, len: usize) -> Parsed<(u8, usize)> {
        match u8::try_from(code) {
            Ok(byte) => Ok((byte, len)),
            Err(_) => self.error(Kind::NotAByte(self.quote(len))),
        }
    }

    // Classes.

    fn class(&mut self) -> Parsed {
        let start = self.at;
        self.at += 1;
        let negated = self.peek(0) == Some(b'^');
        self.at += usize::from(negated);
        let first = self.at;
        let mut set = ByteSet::default();
        loop {
            match self.peek(0) {
                None => return Err(PatternError::new(Kind::UnclosedClass, start)),
                Some(b']') if self.at > first => break,
                Some(byte) => self.class_item(byte, start, &mut set)?,
            }
        }
        self.push_set(if negated { set.negated() } else { set }, 1)
    }

    fn class_item(&mut self, byte: u8, start: usize, set: &mut ByteSet) -> Parsed {
        if let Some((group, len)) = self.posix_class()? {
            return self.add(set, group, len);
        }
        if byte == b'\\'
            && let Some((group, len)) = self.escaped_set()?
        {
            return self.add(set, group, len);
        }
        self.range(start, set)
    }

    fn add(&mut self, set: &mut ByteSet, group: ByteSet, len: usize) -> Parsed {
        set.union(&group);
        self.at += len;
        Ok(())
    }

    /// `[:alpha:]`. Without a `:]` anywhere behind it, `[:` is two characters.
    fn posix_class(&mut self) -> Parsed<Option<(ByteSet, usize)>> {
        let Some(inner) = self.rest().strip_prefix(b"[:").filter(|_| !self.no_more_posix) else { return Ok(None) };
        let Some(end) = inner.windows(2).position(|pair| pair == b":]") else {
            self.no_more_posix = true;
            return Ok(None);
        };
        let (name, negated) = inner[..end].strip_prefix(b"^").map_or((&inner[..end], false), |name| (name, true));
        match posix_class(name) {
            Some(ranges) => Ok(Some((ByteSet::group(ranges, negated, self.flags.fold), end + 4))),
            None => self.error(Kind::UnknownClass(self.quote(end + 4))),
        }
    }

    fn range(&mut self, start: usize, set: &mut ByteSet) -> Parsed {
        let from = self.at;
        let low = self.class_byte(start)?;
        let mut high = low;
        if self.peek(0) == Some(b'-') && self.peek(1).is_some_and(|next| next != b']') {
            self.at += 1;
            high = self.class_byte(start)?;
        }
        if high < low {
            return Err(PatternError::new(Kind::BadRange(quote(&self.text[from..], self.at - from)), from));
        }
        set.add(low, high, self.flags.fold);
        Ok(())
    }

    fn class_byte(&mut self, start: usize) -> Parsed<u8> {
        let (byte, len) = match self.peek(0) {
            None => return Err(PatternError::new(Kind::UnclosedClass, start)),
            Some(b'\\') => self.escaped_byte()?,
            Some(byte) => (byte, 1),
        };
        self.at += len;
        Ok(byte)
    }
}

impl Frame {
    fn new(at: usize, capture: Option<u32>, outer: Flags) -> Self {
        Frame { at, capture, outer, branches: Vec::new(), items: Vec::new() }
    }

    fn end_branch(&mut self) {
        let items = std::mem::take(&mut self.items);
        self.branches.push(Item::join(items, Hir::concat));
    }

    fn into_item(mut self) -> Item {
        self.end_branch();
        let item = Item::join(self.branches, Hir::alternation);
        let Some(index) = self.capture else { return item };
        let hir = Hir::capture(Capture { index, name: None, sub: Box::new(item.hir) });
        Item { hir, depth: item.depth + 1, ..item }
    }
}

impl Item {
    fn join(items: Vec<Item>, with: fn(Vec<Hir>) -> Hir) -> Item {
        let depth = items.iter().map(|item| item.depth).max().unwrap_or(0) + u32::from(items.len() > 1);
        let repeats = items.iter().map(|item| item.repeats).max().unwrap_or(1);
        Item { hir: with(items.into_iter().map(|item| item.hir).collect()), depth, repeats }
    }

    /// INVARIANT: no tree deeper than `MAX_DEPTH` leaves the parser, so code that recurses over one is safe.
    fn checked(self, at: usize) -> Parsed<Item> {
        if self.depth > MAX_DEPTH {
            return Err(PatternError::new(Kind::TooDeep, at));
        }
        Ok(self)
    }
}

/// RE2's `{n}`, `{n,}` or `{n,m}`: its length and its bounds. Anything else that begins with `{` is plain text.
fn bounds(text: &[u8]) -> Option<(usize, u32, Option<u32>)> {
    let close = text.iter().take(24).position(|b| *b == b'}')?;
    let inner = text.get(1..close)?;
    let Some(comma) = inner.iter().position(|b| *b == b',') else {
        let times = number(inner)?;
        return Some((close + 1, times, Some(times)));
    };
    let (min, max) = (number(&inner[..comma])?, &inner[comma + 1..]);
    let max = if max.is_empty() { None } else { Some(number(max)?) };
    Some((close + 1, min, max))
}

/// A number as RE2 takes it: without leading zeros, and below a thousand million.
fn number(digits: &[u8]) -> Option<u32> {
    let leading_zero = digits.len() > 1 && digits[0] == b'0';
    if digits.is_empty() || digits.len() > 9 || leading_zero || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

/// RE2 takes letters, digits and `_`; in its Latin-1 mode each byte is a character.
fn is_name_byte(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_digit() || ByteSet::of(LETTERS).has(byte)
}

fn quote(text: &[u8], len: usize) -> String {
    const LONGEST: usize = 40;
    let shown = String::from_utf8_lossy(&text[..len.min(text.len()).min(LONGEST)]).into_owned();
    if len.min(text.len()) > LONGEST { shown + ".." } else { shown }
}

/// A set of bytes.
#[derive(Clone, Copy, Default)]
struct ByteSet([u128; 2]);

type Ranges = &'static [(u8, u8)];

impl ByteSet {
    fn of(ranges: &[(u8, u8)]) -> Self {
        let mut set = ByteSet::default();
        for (low, high) in ranges {
            set.add(*low, *high, false);
        }
        set
    }

    /// A named class. RE2 folds first and negates then, so `(?i)[[:^upper:]]` has no letters at all.
    fn group(ranges: &[(u8, u8)], negated: bool, fold: bool) -> Self {
        let mut set = ByteSet::default();
        for (low, high) in ranges {
            set.add(*low, *high, fold);
        }
        if negated { set.negated() } else { set }
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 7)] >> (byte & 127) & 1 == 1
    }

    fn add(&mut self, low: u8, high: u8, fold: bool) {
        for byte in low..=high {
            self.insert(byte);
            if fold && byte.is_ascii_alphabetic() {
                self.insert(byte ^ 0x20);
            }
        }
    }

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 127);
    }

    fn union(&mut self, other: &ByteSet) {
        self.0[0] |= other.0[0];
        self.0[1] |= other.0[1];
    }

    fn negated(self) -> Self {
        ByteSet([!self.0[0], !self.0[1]])
    }

    fn into_hir(self) -> Hir {
        let members = (0..=255).filter(|byte| self.has(*byte));
        Hir::class(Class::Bytes(ClassBytes::new(members.map(|byte| ClassBytesRange::new(byte, byte)))))
    }
}

/// `\d`, `\s`, `\w`, by their lower-case letter. RE2's `\s` lacks the vertical tab.
fn perl_class(letter: u8) -> Option<Ranges> {
    Some(match letter {
        b'd' => &[(b'0', b'9')],
        b's' => &[(b'\t', b'\n'), (0x0C, b'\r'), (b' ', b' ')],
        b'w' => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
        _ => return None,
    })
}

fn posix_class(name: &[u8]) -> Option<Ranges> {
    Some(match name {
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"ascii" => &[(0x00, 0x7F)],
        b"blank" => &[(b'\t', b'\t'), (b' ', b' ')],
        b"cntrl" => &[(0x00, 0x1F), (0x7F, 0x7F)],
        b"digit" => &[(b'0', b'9')],
        b"graph" => &[(b'!', b'~')],
        b"lower" => &[(b'a', b'z')],
        b"print" => &[(b' ', b'~')],
        b"punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        b"space" => &[(b'\t', b'\r'), (b' ', b' ')],
        b"upper" => &[(b'A', b'Z')],
        b"word" => &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

/// `\p{..}` cut down to one byte, which RE2 in Latin-1 mode takes for the character of that number. Most scripts have
/// no such character; they are known all the same, and match nothing.
fn property(name: &[u8]) -> Option<Ranges> {
    Some(match name {
        b"Any" => &[(0x00, 0xFF)],
        b"C" => &[(0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD)],
        b"Cc" => &[(0x00, 0x1F), (0x7F, 0x9F)],
        b"Cf" => &[(0xAD, 0xAD)],
        b"Common" => COMMON,
        b"L" => LETTERS,
        b"Latin" => LATIN,
        b"Ll" => &[(0x61, 0x7A), (0xB5, 0xB5), (0xDF, 0xF6), (0xF8, 0xFF)],
        b"Lo" => &[(0xAA, 0xAA), (0xBA, 0xBA)],
        b"Lu" => &[(0x41, 0x5A), (0xC0, 0xD6), (0xD8, 0xDE)],
        b"N" => &[(0x30, 0x39), (0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)],
        b"Nd" => &[(0x30, 0x39)],
        b"No" => &[(0xB2, 0xB3), (0xB9, 0xB9), (0xBC, 0xBE)],
        b"P" => PUNCTUATION,
        b"Pc" => &[(0x5F, 0x5F)],
        b"Pd" => &[(0x2D, 0x2D)],
        b"Pe" => &[(0x29, 0x29), (0x5D, 0x5D), (0x7D, 0x7D)],
        b"Pf" => &[(0xBB, 0xBB)],
        b"Pi" => &[(0xAB, 0xAB)],
        b"Po" => OTHER_PUNCTUATION,
        b"Ps" => &[(0x28, 0x28), (0x5B, 0x5B), (0x7B, 0x7B)],
        b"S" => SYMBOLS,
        b"Sc" => &[(0x24, 0x24), (0xA2, 0xA5)],
        b"Sk" => &[(0x5E, 0x5E), (0x60, 0x60), (0xA8, 0xA8), (0xAF, 0xAF), (0xB4, 0xB4), (0xB8, 0xB8)],
        b"Sm" => MATHEMATICAL,
        b"So" => &[(0xA6, 0xA6), (0xA9, 0xA9), (0xAE, 0xAE), (0xB0, 0xB0)],
        b"Z" | b"Zs" => &[(0x20, 0x20), (0xA0, 0xA0)],
        _ if beyond_one_byte(name) => &[],
        _ => return None,
    })
}

fn beyond_one_byte(name: &[u8]) -> bool {
    BEYOND_ONE_BYTE.split_ascii_whitespace().any(|known| known.as_bytes() == name)
}

const LETTERS: Ranges =
    &[(0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0xFF)];

const LATIN: Ranges =
    &[(0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0xFF)];

const COMMON: Ranges =
    &[(0x00, 0x40), (0x5B, 0x60), (0x7B, 0xA9), (0xAB, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7), (0xF7, 0xF7)];

const PUNCTUATION: Ranges = &[
    (0x21, 0x23),
    (0x25, 0x2A),
    (0x2C, 0x2F),
    (0x3A, 0x3B),
    (0x3F, 0x40),
    (0x5B, 0x5D),
    (0x5F, 0x5F),
    (0x7B, 0x7B),
    (0x7D, 0x7D),
    (0xA1, 0xA1),
    (0xA7, 0xA7),
    (0xAB, 0xAB),
    (0xB6, 0xB7),
    (0xBB, 0xBB),
    (0xBF, 0xBF),
];

const OTHER_PUNCTUATION: Ranges = &[
    (0x21, 0x23),
    (0x25, 0x27),
    (0x2A, 0x2A),
    (0x2C, 0x2C),
    (0x2E, 0x2F),
    (0x3A, 0x3B),
    (0x3F, 0x40),
    (0x5C, 0x5C),
    (0xA1, 0xA1),
    (0xA7, 0xA7),
    (0xB6, 0xB7),
    (0xBF, 0xBF),
];

const SYMBOLS: Ranges = &[
    (0x24, 0x24),
    (0x2B, 0x2B),
    (0x3C, 0x3E),
    (0x5E, 0x5E),
    (0x60, 0x60),
    (0x7C, 0x7C),
    (0x7E, 0x7E),
    (0xA2, 0xA6),
    (0xA8, 0xA9),
    (0xAC, 0xAC),
    (0xAE, 0xB1),
    (0xB4, 0xB4),
    (0xB8, 0xB8),
    (0xD7, 0xD7),
    (0xF7, 0xF7),
];

const MATHEMATICAL: Ranges =
    &[(0x2B, 0x2B), (0x3C, 0x3E), (0x7C, 0x7C), (0x7E, 0x7E), (0xAC, 0xAC), (0xB1, 0xB1), (0xD7, 0xD7), (0xF7, 0xF7)];

/// The classes RE2 knows whose characters all lie beyond one byte.
const BEYOND_ONE_BYTE: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali \
    Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian \
    Chakma Cham Cherokee Chorasmian Co Coptic Cs Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret \
    Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian \
    Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo \
    Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian \
    Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi \
    Lao Lepcha Limbu Linear_A Linear_B Lisu Lm Lt Lycian Lydian M Mahajani Makasar Malayalam Mandaic \
    Manichaean Marchen Masaram_Gondi Mc Me Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive \
    Meroitic_Hieroglyphs Miao Mn Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari \
    New_Tai_Lue Newa Nko Nl Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic \
    Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya \
    Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic \
    Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo \
    Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut \
    Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi \
    Zanabazar_Square Zl Zp";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(source: &str) -> Pattern {
        Pattern::parse(source).unwrap_or_else(|error| panic!("{source}: {error}"))
    }

    fn refusal(source: &str) -> String {
        Pattern::parse(source).expect_err(source).to_string()
    }

    /// A pattern, values which match and values which don't.
    type Row = (&'static str, &'static [&'static [u8]], &'static [&'static [u8]]);

    /// Recorded from RE2 itself (its Python package, release 2025-11-05, in Latin-1 mode).
    const ACCEPTED: &[Row] = &[
        ("/a|/ab", &[b"/ab", b"/a"], &[b"/abc", b"/a|/ab"]),
        ("[a-z&&[^b]]", &[b"a]", b"[]", b"l]"], &[b"[a-z&&[^b]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[a-z--b]", &[b"a", b"b", b"K"], &[b"[a-z--b]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[--b]", &[b"a", b"b", b"K"], &[b"[--b]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[a~~b]", &[b"a", b"b", b"~"], &[b"[a~~b]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[a]", &[b"a", b"["], &[b"[[a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[a]]", &[b"a]", b"[]"], &[b"[[a]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[]a]", &[b"a", b"]"], &[b"[]a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[^]a]", &[b"b", b"c", b"K"], &[b"[^]a]", b"\xC3\xA9"]),
        ("[a-]", &[b"a", b"-"], &[b"[a-]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[-a]", &[b"a", b"-"], &[b"[-a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[a-c-e]", &[b"a", b"b", b"e"], &[b"[a-c-e]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\d-z]", &[b"-", b"1", b"0"], &[b"[\\d-z]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[é]", &[b"\xC3", b"\xA9"], &[b"[\xC3\xA9]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("é+", &[b"\xC3\xA9", b"\xC3\xA9\xA9"], &[b"\xC3\xA9+", b"\x0B", b"\n", b"_"]),
        ("(?i)é", &[b"\xC3\xA9"], &[b"(?i)\xC3\xA9", b"\x0B", b"\n", b"_"]),
        ("(?i)[é]", &[b"\xC3", b"\xA9"], &[b"(?i)[\xC3\xA9]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i)abcK", &[b"ABCk"], &[b"ABC\xE2\x84\xAA", b"(?i)abcK"]),
        ("(?i)[^a]", &[b"b", b"c", b"K"], &[b"(?i)[^a]", b"\xC3\xA9"]),
        ("(?i)[[:^upper:]]", &[b"-", b"&", b"\xB5"], &[b"[]", b"\xC3\xA9"]),
        (r"(?i)\P{Lu}", &[b"-", b"&", b"\xB5"], &[b"(?i)\\P{Lu}", b"\xC3\xA9"]),
        ("[[:alpha:][:digit:]]", &[b"a", b"b", b"K"], &[b"a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:word:]]", &[b"a", b"b", b"K"], &[b"[[:word:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:^space:]]", &[b"a", b"b", b"K"], &[b"a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[:alpha:]", &[b"a", b":"], &[b"[:alpha:]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[.a.]]", &[b"a]", b"[]"], &[b"[[.a.]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[=a=]]", &[b"a]", b"[]"], &[b"[[=a=]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Q.*\E+", &[b".*", b".**"], &[b"\\Q.*\\E+", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Qab\E*", &[b"a", b"ab", b"abb"], &[b"\\Qab\\E*", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Q", &[b""], &[b"\\Q", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Q\E", &[b""], &[b"\\Q\\E", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Q\\E", &[b"\\"], &[b"\\Q\\\\E", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Qa\\Eb", &[b"a\\b"], &[b"\\Qa\\\\Eb", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\C\C", &[b"\xC3\xA9", b"aa", b"A "], &[b"a", b"\\C\\C"]),
        (r"\z", &[b""], &[b"\\z", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"a\z", &[b"a"], &[b"a\\z", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\Aa", &[b"a"], &[b"\\Aa", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"a\A", &[], &[b"a\\A", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\123", &[b"S"], &[b"\\123", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\12", &[b"\n"], &[b"\\12", b"\x0B", b"\xC3\xA9", b"_"]),
        (r"\08", &[b"\x008"], &[b"\\08", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\0", &[b"\x00"], &[b"\\0", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\377", &[b"\xFF"], &[b"\\377", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\x41", &[b"A"], &[b"\\x41", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\x{41}", &[b"A"], &[b"\\x{41}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\x{0000000041}", &[b"A"], &[b"a{01}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\<", &[], &[b"\\<", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\>", &[], &[b"\\>", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\b{start}", &[], &[b"\\b{start}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\b", &[], &[b"\\b", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\B", &[b""], &[b"\\B", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\bfoo\b", &[b"foo"], &[b"foo ", b"\\bfoo\\b"]),
        (r"\pL", &[b"a", b"b", b"K"], &[b"\\pL", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\PL", &[b"-", b"&", b"\""], &[b"\\PL", b"\xC3\xA9", b"\xFF"]),
        (r"\p{Latin}", &[b"a", b"b", b"K"], &[b"\\p{Latin}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\p{Greek}", &[], &[b"\\p{Greek}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\P{Greek}", &[b"a", b"b", b"K"], &[b"\\P{Greek}", b"\xC3\xA9"]),
        (r"\p{^Greek}", &[b"a", b"b", b"K"], &[b"\\p{^Greek}", b"\xC3\xA9"]),
        (r"\p{Any}", &[b"a", b"b", b"K"], &[b"\\p{Any}", b"\xC3\xA9"]),
        (r"[\p{Lu}\d]", &[b"A", b"E", b"K"], &[b"[\\p{Lu}\\d]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\a\f\t\n\r\v", &[b"\x07\x0C\t\n\r\x0B"], &[b"a\\b", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\s", &[b"\n", b"\t", b"\r"], &[b"\\s", b"\x0B", b"\xC3\xA9", b"_"]),
        (r"\S", &[b"a", b"b", b"K"], &[b"\\S", b"\n", b"\xC3\xA9"]),
        (r"[\s]", &[b"\n", b"\t", b"\r"], &[b"[\\s]", b"\x0B", b"\xC3\xA9", b"_"]),
        (r"[^\s]", &[b"a", b"b", b"K"], &[b"[^\\s]", b"\n", b"\xC3\xA9"]),
        (r"\w\W", &[b"a]", b"l]", b"A "], &[b"\\w\\W", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\d\D", &[], &[b"\\d\\D", b"\x0B", b"\n", b"\xC3\xA9"]),
        (".", &[b".", b"a", b"K"], &[b".*", b"\n", b"\xC3\xA9"]),
        ("(?s).", &[b"a", b"b", b"K"], &[b"(?s).", b"\xC3\xA9"]),
        ("(?m)^a$", &[b"a"], &[b"(?m)^a$", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?m)a$^b", &[], &[b"(?m)a$^b", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("^a$", &[b"a"], &[b"^a$", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("$a", &[], &[b"$a", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a^b", &[], &[b"a^b", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{,2}", &[b"a{,2}"], &[b"a{1, 2}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{2}", &[b"aa"], &[b"a{2}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{0}", &[b""], &[b"a{0}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{0,0}", &[b""], &[b"a{0,0}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(a{0}){1000}", &[b""], &[b"a{01}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{01}", &[b"a{01}"], &[b"a{ 1}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{ 1}", &[b"a{ 1}"], &[b"a{1, 2}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{1, 2}", &[b"a{1, 2}"], &[b"a{,2}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("{", &[b"{"], &[b"{}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("{}", &[b"{}"], &[b"{1}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{", &[b"a{"], &[b"a{1", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{1", &[b"a{1"], &[b"a{01}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a}", &[b"a}"], &[b"a{,2}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("}", &[b"}"], &[b"{}", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a{2}?", &[b"aa"], &[b"a{2}?", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("|", &[b""], &[b"|", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("||", &[b""], &[b"||", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("()", &[b""], &[b"()", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("()*", &[b""], &[b"()*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?:)", &[b""], &[b"(?:)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?:)*", &[b""], &[b"(?:)*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a(?i)b", &[b"ab", b"aB"], &[b"a(?i)b", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a(?i:b)c", &[b"abc"], &[b"a(?i:b)c", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i-s:A)", &[b"a", b"A"], &[b"(?i-s:A)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i)a(?-i)a", &[b"aa", b"Aa"], &[b"(?i)a(?-i)a", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?P<n>a)", &[b"a"], &[b"(?P<n>a)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?P<ê>a)", &[b"a"], &[b"(?P<\xC3\xAA>a)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?P<1>a)", &[b"a"], &[b"(?P<1>a)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?<n>a)", &[b"a"], &[b"(?<n>a)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?)", &[b""], &[b"(?)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i-i)", &[b""], &[b"(?i-i)", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\_", &[b"_"], &[b"\\_", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\-", &[b"-"], &[b"\\-", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\/", &[b"/"], &[b"\\/", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\ ", &[b" "], &[b"\\ ", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\&", &[b"&"], &[b"\\&", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\~", &[b"~"], &[b"\\~", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r#"\""#, &[b"\""], &[b"\\\"", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\w-]", &[b"a", b"b", b"K"], &[b"[\\w-]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\w-a]", &[b"a", b"b", b"K"], &[b"[\\w-a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[.*+?]", &[b"."], &[b"[.*+?]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\x41-\x43]", &[b"A", b"B"], &[b"[\\x41-\\x43]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\101-\103]", &[b"A", b"B"], &[b"[\\101-\\103]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\n-\r]", &[b"\n", b"\x0B", b"\r"], &[b"[\\n-\\r]", b"\xC3\xA9", b"_", b"\xFF"]),
        ("[a-z]", &[b"a", b"b", b"x"], &[b"[a-z]", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[^\n]", &[b"a", b"b", b"K"], &[b"[^\\n]", b"\n", b"\xC3\xA9"]),
        (r"[^\x00-\x{ff}]", &[], &[b"a{01}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[^\x{00}-\x{ff}]a|b", &[b"b"], &[b"a{01}", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"[\x{00}-\x{ff}]", &[b"a", b"b", b"K"], &[b"a{01}", b"\xC3\xA9"]),
        ("[[:ascii:]]", &[b"a", b"b", b"K"], &[b"[[:ascii:]]", b"\xC3\xA9", b"\xFF"]),
        ("[^[:ascii:]]", &[b"\xC3", b"\xA9", b"\xB5"], &[b"a]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:punct:]]", &[b"-", b"&", b"\""], &[b"[[:punct:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:space:]]", &[b"\n", b"\x0B", b"\r"], &[b"[[:space:]]", b"\xC3\xA9", b"_", b"\xFF"]),
        ("[[:blank:]]", &[b"\t", b" "], &[b"[[:blank:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:cntrl:]]", &[b"\n", b"\x0B", b"\x7F"], &[b"[[:cntrl:]]", b"\xC3\xA9", b"_", b"\xFF"]),
        ("[[:graph:]]", &[b"a", b"b", b"K"], &[b"[[:graph:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:print:]]", &[b"a", b"b", b"K"], &[b"[[:print:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:xdigit:]]", &[b"a", b"b", b"B"], &[b"[]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("[[:lower:]]", &[b"a", b"b", b"x"], &[b"[[:lower:]]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i)[[:lower:]]", &[b"a", b"b", b"K"], &[b"[]", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(a)(b)?(c)*", &[b"a", b"ab", b"ac"], &[b"(a)(b)?(c)*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(a+)(b+)", &[b"ab", b"abb", b"aab"], &[b"(a+)(b+)", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("/api/v[12]/.*", &[b"/api/v1/"], &[b"/api/v3/", b"a{1, 2}"]),
        ("/products/[0-9]+(/reviews)?", &[b"/products/12/reviews"], &[b"/products/x", b"[]"]),
        ("^/foo(/.*)?$", &[b"/foo"], &[b"/foobar", b".*"]),
        (r".*\.example\.com(:\d+)?", &[b"a.example.com:80"], &[b"aexample.com", b"abcd"]),
        ("^(.*?;)?(user=jason)(;.*)?$", &[b"a=b;user=jason;c"], &[b"a=b; user=jason", b"user=jasonx"]),
        ("a\nb", &[b"a\nb"], &[b"ab", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("^*", &[b""], &[b"^*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("$*", &[b""], &[b"$*", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\b*", &[b""], &[b"\\b*", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\b+a", &[b"a"], &[b"\\b+a", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("^+a", &[b"a"], &[b"^+a", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?:^|/)a", &[b"a"], &[b"(?:^|/)a", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?:a|b|ab)c", &[b"abc", b"ac"], &[b"(?:a|b|ab)c", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("x*", &[b"", b"x"], &[b"x*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("x*?", &[b"", b"x"], &[b"x*?", b"\x0B", b"\n", b"\xC3\xA9"]),
        (r"\bx*", &[b"x"], &[b"\\bx*", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("#", &[b"#"], &[b"", b"\x0B", b"\n", b"\xC3\xA9"]),
        (" ", &[b" "], &[b"A ", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("(?i)ſ", &[b"\xC5\xBF"], &[b"s", b"(?i)\xC5\xBF"]),
        ("ſ", &[b"\xC5\xBF"], &[b"", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("日本", &[b"\xE6\x97\xA5\xE6\x9C\xAC"], &[b"\xE6\x97\xA5", b""]),
        ("[日本]", &[b"\xE6"], &[b"\xE6\x97\xA5", b"[\xE6\x97\xA5\xE6\x9C\xAC]"]),
        ("~", &[b"~"], &[b"", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a&&b", &[b"a&&b"], &[b"ab", b"\x0B", b"\n", b"\xC3\xA9"]),
        ("a--b", &[b"a--b"], &[b"ab", b"\x0B", b"\n", b"\xC3\xA9"]),
    ];

    /// Recorded as well.
    #[rustfmt::skip]
    const REFUSED: &[&str] = &[
        "a|b)(c", "[]", "[^]", r"[a-\d]", "[z-a]", "[[:foo:]]", "[[:alpha:]", r"\Qa\Eb\Ec", r"a\E",
        r"[\Qa\E]", r"\Z", r"\G", r"\18", r"\1", r"\8", r"\777", r"\400", r"\x4", r"\x", r"\x{}",
        r"\x{100}", r"\x{zz}", r"\x{41", r"\u0041", r"\U0041", r"\h", r"\e", r"\K", r"\R", r"\X", r"\N",
        r"\p{greek}", r"\p{Script=Greek}", r"\p{L", r"\pé", r"\p{Letter}", "a{2,1}", "a{1001}", "a{1,1001}",
        "a{1001,}", "(a{100}){11}", "((a{10}){10}){11}", "(?:(?:a{1001}){0})", "{1}", "a**", "a*+", "a++",
        "a+??", "a*?*", "a{2}{3}", "a{2}*", "a{2}??", "*a", "+", "?", "|*", "(*)", "(+a)", "a|*", "(?i)*",
        "(?i", "(?i:a", "(?", "(?P", "(?P<", "(?P<n", "(?P<n>", "(?P<>a)", "(?P<é>a)", "(?'n'a)", "(?P=n)",
        "(?P>n)", "(?#x)", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?>a)", "(?|a)", "(?R)", "(?u)a", "(?-)",
        "(?i-)", "(?--i)", "(?-i-s)", "(?:a", "a)", "(a", "((a)", r"\", r"a\", r"[\]", r"[a\", r"\é",
        r"[a-\w]", r"[\b]", r"[\B]", r"[\A]", r"[\C]", r"[\1]",
        r"(?x)a # c", r"(?P<n m>a)",
    ];

    #[test]
    fn what_re2_accepts_matches_as_there() {
        for (source, matching, others) in ACCEPTED {
            let pattern = pattern(source);
            for value in *matching {
                assert!(pattern.is_full_match(value), "{source} on {value:?}");
                assert!(value.starts_with(pattern.literal_prefix()), "{source} on {value:?}");
            }
            for value in *others {
                assert!(!pattern.is_full_match(value), "{source} on {value:?}");
            }
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for source in REFUSED {
            assert!(Pattern::parse(source).is_err(), "{source}");
        }
    }

    #[test]
    fn refusals_speak_to_the_operator() {
        let cases = [
            ("/a)", "`)` closes no group, at byte 2"),
            ("/(a|b", "the group opened by `(` has no closing `)`, at byte 1"),
            ("/[a-z", "the class opened by `[` has no closing `]`, at byte 1"),
            ("/[z-a]", "the range `z-a` is not a range of characters, or runs backwards, at byte 2"),
            ("/[[:alfa:]]", "unknown character class `[:alfa:]`, at byte 2"),
            (r"/\p{greek}/", r"unknown character class `\p{greek}`, at byte 1"),
            (r"/(a)\1", r"`\1` is a back-reference, which RE2 does not have, at byte 4"),
            (r"/\u0041", r"`\u` is not an escape RE2 knows, at byte 1"),
            (r"/\x{100}", r"`\x{100}` is beyond `\xFF`: patterns match single bytes, at byte 1"),
            ("/(?!admin).*", "`(?!` looks around, which RE2 does not do, at byte 1"),
            ("(?x)a", "`(?x` is not a group or flag RE2 knows (flags are `i`, `m`, `s`, `U`), at byte 0"),
            ("*.html", "`*` has nothing to repeat, at byte 0"),
            ("/a**", "`**` repeats a repetition, at byte 2"),
            ("(a{100}){11}", "`{11}` repeats backwards or, with those around it, more than 1000 times, at byte 8"),
            ("/a\\", r"the pattern ends in a lone `\`, at byte 2"),
        ];
        for (source, message) in cases {
            assert_eq!(refusal(source), message);
        }
    }

    /// RE2 lets two groups share a name; Go, with which Istio checks patterns at admission, does not.
    #[test]
    fn two_groups_of_one_name_are_refused_as_by_istio() {
        assert_eq!(refusal("(?P<n>a)(?<n>b)"), "two groups are named `n`, at byte 8");
    }

    #[test]
    fn literal_prefixes() {
        let cases: &[(&str, &[u8])] = &[
            ("", b""),
            ("/a", b"/a"),
            ("^/a$", b"/a"),
            ("/api/v[12]/.*", b"/api/v"),
            ("/foo|/fob", b"/fo"),
            ("/(foo|fob)x", b"/fo"),
            ("(?:/a){2}b", b"/a/ab"),
            ("(?:/a)+b", b"/a"),
            ("/a*", b"/"),
            ("/a?b", b"/"),
            ("(?i)/a", b"/"),
            ("(?i)/1/a", b"/1/"),
            ("/é[xy]", b"/\xC3\xA9"),
            (r"\Q/a.b\E.*", b"/a.b"),
            (r"/\bab", b"/ab"),
            ("a|b", b""),
            ("|a", b""),
        ];
        for (source, prefix) in cases {
            assert_eq!(pattern(source).literal_prefix(), *prefix, "{source}");
        }
    }

    #[test]
    fn literal_suffixes() {
        let cases: &[(&str, &[u8])] = &[
            ("", b""),
            ("^/a$", b"/a"),
            (r".*\.jpg", b".jpg"),
            (r".*\.(jpg|png)", b"g"),
            (".*/é", b"/\xC3\xA9"),
            ("a(?:b/){2}", b"ab/b/"),
            ("a(?:b/)+", b"b/"),
            ("/a*", b""),
            ("a/b?", b""),
            ("x(?i)1/", b"x1/"),
            ("x(?i)a/", b"/"),
            (r"ab\b", b"ab"),
            ("a|", b""),
            ("[ab]c(de|xde)", b"de"),
        ];
        for (source, suffix) in cases {
            assert_eq!(&*pattern(source).0.suffix, *suffix, "{source}");
        }
    }

    #[test]
    fn ends_that_overlap_are_no_match_by_themselves() {
        assert!(!pattern("aba.*aba").is_full_match(b"ababa") && pattern("aba.*aba").is_full_match(b"abaaba"));
    }

    #[test]
    fn a_plain_text_is_compared() {
        let pattern = pattern("(?:/a){1}(/b)");
        assert!(pattern.0.literal && pattern.is_full_match(b"/a/b") && !pattern.is_full_match(b"/a/bc"));
        assert!(!super::Pattern::parse(r"a\b").unwrap().0.literal);
    }

    #[test]
    fn repeated_repetitions_stay_greedy() {
        let pattern = pattern("(?:a+)?b");
        assert!(pattern.is_full_match(b"b") && pattern.is_full_match(b"aab"));
    }

    #[test]
    fn replacing() {
        let cases: &[(&str, &str, &[u8], &[u8])] = &[
            ("a*", "X", b"baac", b"XbXcX"),
            ("", "-", b"ab", b"-a-b-"),
            ("^/", "/x/", b"/a/b", b"/x/a/b"),
            ("/", "//", b"/a/b", b"//a//b"),
            ("/a|/ab", "X", b"/ab/a", b"XbX"),
            (r"\b", "|", b"ab cd", b"|ab| |cd|"),
            ("(a)|(b)", r"<\1\2\0>", b"abc", b"<aa><bb>c"),
            ("(?:a+)?", "x", b"ba", b"xbx"),
            (".", r"\\", b"\xC3\xA9", br"\\"),
            ("/service/([^/]+)(/.*)", r"\2/instance/\1", b"/service/foo/v1/api", b"/v1/api/instance/foo"),
            ("one", "two", b"/xxx/one/yyy/one/zzz", b"/xxx/two/yyy/two/zzz"),
        ];
        for (source, text, value, expected) in cases {
            let pattern = pattern(source);
            let rewrite = Rewrite::parse(text, &pattern).unwrap();
            assert_eq!(pattern.replace_all(value, &rewrite), *expected, "{source}");
        }
    }

    #[test]
    fn rewrites_are_checked() {
        let pattern = pattern("(a)");
        for text in [r"\", r"\n", r"a\2", r"\9"] {
            assert!(Rewrite::parse(text, &pattern).is_err(), "{text}");
        }
        assert!(Rewrite::parse(r"\0\1\\$1", &pattern).is_ok());
    }

    #[test]
    fn size_is_bounded() {
        assert!(Pattern::parse(&"(".repeat(60_000)).is_err());
        assert!(Pattern::parse(&format!("{}a{}", "(".repeat(300), ")".repeat(300))).is_err());
        assert!(pattern(&format!("{}a{}", "(".repeat(240), ")".repeat(240))).is_full_match(b"a"));
        assert!(Pattern::parse(&"a*(?i)".repeat(5_000)).is_ok());
        assert!(Pattern::parse(&format!("a{}", "*(?i)".repeat(5_000))).is_err());
        assert!(Pattern::parse(&"a".repeat(MAX_SOURCE + 1)).is_err());
        assert!(Pattern::parse(&format!("({}){{1000}}", "a".repeat(2_000))).is_err());
    }

    #[test]
    fn patterns_are_equal_by_source() {
        assert_eq!(pattern("a"), pattern("a"));
        assert_ne!(pattern("a"), pattern("(?:a)"));
        assert_eq!(format!("{:?} {0}", pattern("a|b")), r#"Pattern("a|b") a|b"#);
    }

    #[test]
    fn patterns_are_read_from_their_source() {
        use serde::de::IntoDeserializer;
        use serde::de::value::{Error, StrDeserializer};
        let read = |text: &'static str| {
            let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
            Pattern::deserialize(deserializer)
        };
        assert_eq!(read("/a.*"), Ok(pattern("/a.*")));
        assert_eq!(read("(").unwrap_err().to_string(), refusal("("));
    }

    /// Sources made of what the grammar is about.
    fn any_source() -> impl Strategy<Value = String> {
        let pieces = vec![
            "a",
            "b",
            "é",
            "(",
            ")",
            "(?:",
            "(?i)",
            "(?P<n>",
            "[",
            "]",
            "[^",
            "[:alpha:]",
            "-",
            "&&",
            "|",
            "*",
            "+",
            "?",
            "{2}",
            "{,2}",
            "{1,",
            "}",
            ".",
            "^",
            "$",
            "\\",
            "\\d",
            "\\Q",
            "\\E",
            "\\b",
            "\\x",
            "\\x{",
            "\\1",
            "\\pL",
        ];
        proptest::collection::vec(proptest::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Bytes that such a source speaks of, mostly.
    fn any_value() -> impl Strategy<Value = Vec<u8>> {
        let known = proptest::sample::select(b"aaabbb-\xC3\xA9".to_vec());
        proptest::collection::vec(prop_oneof![8 => known, 1 => any::<u8>()], 0..8)
    }

    proptest! {
        #[test]
        fn nothing_panics(source in any_source(), value in any_value()) {
            if let Ok(pattern) = Pattern::parse(&source) {
                let rewrite = Rewrite::parse(r"<\0>", &pattern).unwrap();
                let _ = pattern.replace_all(&value, &rewrite);
                prop_assert_eq!(pattern.is_full_match(&value), pattern.0.full.is_match(&value));
            }
        }

        #[test]
        fn any_text_at_all(source in any::<String>()) {
            if let Err(error) = Pattern::parse(&source) {
                prop_assert!(error.position() <= source.len() && !error.to_string().is_empty());
            }
        }

        #[test]
        fn quoted_text_means_itself(text in "[^\\\\]{0,12}") {
            let pattern = pattern(&format!(r"\Q{text}\E"));
            prop_assert!(pattern.is_full_match(text.as_bytes()));
            prop_assert_eq!(pattern.literal_prefix(), text.as_bytes());
        }
    }
}
