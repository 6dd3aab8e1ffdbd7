//! What a text must be before the parser may see it: small, shallow, and cut into documents.
//!
//! Knows where YAML's tokens begin and end, in one pass over the bytes. Knows nothing of what they mean: a text that
//! passes may still be broken. It follows the scanner of the parser behind it (libyaml's), because that scanner takes
//! time in proportion to tokens *times* open brackets, and allocates for both before it looks at any limit.

use std::borrow::Cow;
use std::fmt;

/// How much a text may ask of the reader.
///
/// Everything is bounded before or while parsing, so that a hostile text costs little more than its own length.
///
/// ```
/// use meshroute::yaml::Limits;
/// let mut limits = Limits::default();
/// limits.document = 64 * 1024;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes in one text; 16 MiB.
    pub text: usize,
    /// Bytes in one document; 3 MiB, twice what etcd takes.
    pub document: usize,
    /// Documents in one text; 20 000.
    pub documents: usize,
    /// Open `{` and `[` at one place; 32.
    pub flow_depth: usize,
    /// Maps and lists inside each other at one place; 64, and never more than 100.
    pub depth: usize,
    /// Values in one document once its aliases are written out; 1 000 000, and never more than 50 000 and ten for each
    /// byte.
    pub nodes: usize,
    /// Aliases (`*name`) in one document; 1 000.
    pub aliases: usize,
    /// Findings told about one document; 100.
    pub findings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            text: 16 << 20,
            document: 3 << 20,
            documents: 20_000,
            flow_depth: 32,
            depth: 64,
            nodes: 1_000_000,
            aliases: 1_000,
            findings: 100,
        }
    }
}

/// One document of a text, not parsed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub text: &'a str,
    /// Counted from 1; documents without content don't count.
    pub number: u32,
    /// The line of the text at which this piece begins, from 1.
    pub line: u32,
}

/// Which limit a document breaks, and at which of its own lines (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    pub line: u32,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Bytes(usize),
    Brackets(usize),
    Depth(usize),
    Aliases(usize),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Bytes(most) => write!(f, "the document is longer than {most} bytes"),
            What::Brackets(most) => write!(f, "more than {most} brackets are open here"),
            What::Depth(most) => write!(f, "more than {most} levels are nested here"),
            What::Aliases(most) => write!(f, "the document has more than {most} aliases"),
        }
    }
}

/// Cuts a text into its documents.
///
/// A line that begins with `---` or `...` ends a document wherever it stands (even in a quoted string, where YAML
/// forbids it), so no token needs to be known here.
pub(super) fn split(text: &str) -> Split<'_> {
    Split { text, at: 0, line: 1, number: 0 }
}

pub(super) struct Split<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    number: u32,
}

impl<'a> Iterator for Split<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let mut draft = Draft { start: self.at, line: self.line, content: false, directive: false, open: false };
        while let Some(line) = self.peek_line() {
            let end_here = match marker(line) {
                Some(b'-') if !draft.content => {
                    draft.open_at(self.at, self.line, line);
                    false
                }
                Some(b'-') => return Some(self.piece(&draft)),
                Some(_) => true,
                None => {
                    draft.take(line);
                    false
                }
            };
            let piece = (end_here && draft.content).then(|| self.piece(&draft));
            self.step(line);
            if piece.is_some() {
                return piece;
            }
            if end_here {
                draft = Draft { start: self.at, line: self.line, content: false, directive: false, open: false };
            }
        }
        draft.content.then(|| self.piece(&draft))
    }
}

impl<'a> Split<'a> {
    /// The current line with its end, or nothing at the end of the text.
    fn peek_line(&self) -> Option<&'a str> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let end = match rest.bytes().position(|b| b == b'\n' || b == b'\r') {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        Some(&rest[..end])
    }

    fn step(&mut self, line: &str) {
        self.at += line.len();
        self.line = self.line.saturating_add(1);
    }

    fn piece(&mut self, draft: &Draft) -> Piece<'a> {
        self.number = self.number.saturating_add(1);
        Piece { text: &self.text[draft.start..self.at], number: self.number, line: draft.line }
    }
}

/// A document whose end is not found yet.
struct Draft {
    start: usize,
    line: u32,
    content: bool,
    directive: bool,
    /// Its `---` has been seen.
    open: bool,
}

impl Draft {
    fn open_at(&mut self, at: usize, number: u32, line: &str) {
        if !self.directive || self.open {
            (self.start, self.line, self.directive) = (at, number, false);
        }
        self.open = true;
        self.content = has_content(&line[3..]);
    }

    fn take(&mut self, line: &str) {
        if !self.open && line.starts_with('%') {
            self.directive = true;
        } else if has_content(line) {
            self.content = true;
        }
    }
}

fn has_content(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

/// Whether the line is a document marker: `-` for `---`, `.` for `...`.
fn marker(line: &str) -> Option<u8> {
    let bytes = line.as_bytes();
    let first = *bytes.first()?;
    let marked = (line.starts_with("---") || line.starts_with("...")) && blankz(bytes, 3);
    marked.then_some(first)
}

/// Refuses a document that would cost the parser more than `limits` allow; hands out what the parser is to read.
///
/// That is the document itself, but for plain scalars in brackets that end with `:`, such as the address in
/// `[1.2.3.4, 2001:db8::]`: Kubernetes' reader takes them, this parser does not, so they are quoted for it.
pub(super) fn check<'t>(text: &'t str, limits: &Limits) -> Result<Cow<'t, str>, Excess> {
    if text.len() > limits.document {
        return Err(Excess { line: 1, what: What::Bytes(limits.document) });
    }
    let mut scanner = Scanner::new(text.as_bytes(), limits);
    match scanner.run() {
        Ok(()) => Ok(quoted(text, &scanner.to_quote)),
        Err(what) => Err(Excess { line: line_at(text, scanner.at), what }),
    }
}

/// The text with these ranges of it, in order, put in quotes.
fn quoted<'t>(text: &'t str, ranges: &[(usize, usize)]) -> Cow<'t, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    let (mut whole, mut done) = (String::with_capacity(text.len() + 2 * ranges.len()), 0);
    for &(start, end) in ranges {
        let (Some(before), Some(scalar)) = (text.get(done..start), text.get(start..end)) else { continue };
        whole.push_str(before);
        whole.push('\'');
        whole.push_str(&scalar.replace('\'', "''"));
        whole.push('\'');
        done = end;
    }
    whole.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(whole)
}

fn line_at(text: &str, at: usize) -> u32 {
    let newlines = text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
    u32::try_from(newlines).unwrap_or(u32::MAX - 1) + 1
}

/// The length of the line break at `at`: what libyaml takes as one, which is more than `\n` and `\r`.
fn break_len(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..).unwrap_or_default() {
        [b'\r', b'\n', ..] | [0xC2, 0x85, ..] => 2,
        [b'\n' | b'\r', ..] => 1,
        [0xE2, 0x80, 0xA8 | 0xA9, ..] => 3,
        _ => 0,
    }
}

fn blank(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at), Some(b' ' | b'\t'))
}

/// Blank, line break or end.
fn blankz(bytes: &[u8], at: usize) -> bool {
    at >= bytes.len() || blank(bytes, at) || break_len(bytes, at) > 0
}

/// Finds tokens as libyaml's scanner does, as far as brackets, indentation and aliases need it.
///
/// Where the parser would stop with an error this one goes on: what it then says no longer matters.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    line_start: usize,
    line: usize,
    flow: usize,
    /// Columns of the open block maps and lists, rising.
    indents: Vec<usize>,
    /// A token that begins here may turn out to be a key.
    key_allowed: bool,
    /// Column and line of the token that may turn out to be a key.
    key: Option<(usize, usize)>,
    aliases: usize,
    /// Where plain scalars stand that must be quoted for the parser.
    to_quote: Vec<(usize, usize)>,
    limits: &'a Limits,
}

impl<'a> Scanner<'a> {
    fn new(bytes: &'a [u8], limits: &'a Limits) -> Self {
        let (line_start, line, flow, aliases) = (0, 0, 0, 0);
        let (indents, key_allowed, key) = (Vec::new(), true, None);
        let to_quote = Vec::new();
        Scanner { bytes, at: 0, line_start, line, flow, indents, key_allowed, key, aliases, to_quote, limits }
    }

    fn run(&mut self) -> Result<(), What> {
        loop {
            self.skip_between();
            if self.at >= self.bytes.len() {
                return Ok(());
            }
            self.dedent();
            self.token()?;
        }
    }

    fn token(&mut self) -> Result<(), What> {
        let blank_after = blankz(self.bytes, self.at + 1);
        match self.bytes[self.at] {
            b'-' if self.column() == 0 && self.at_marker() => self.document_marker(),
            b'%' if self.column() == 0 => self.skip_line(),
            b'[' | b'{' => return self.open(),
            b']' | b'}' => self.close(),
            b',' if self.flow > 0 => self.separator(),
            b'-' if blank_after => return self.entry(),
            b'?' if self.flow > 0 || blank_after => return self.entry(),
            b':' if self.flow > 0 || blank_after => return self.value(),
            b'*' => return self.alias(),
            b'&' | b'!' => self.property(),
            b'|' | b'>' if self.flow == 0 => self.block_scalar(),
            quote @ (b'\'' | b'"') => self.quoted(quote),
            _ => self.plain(),
        }
        Ok(())
    }

    fn column(&self) -> usize {
        self.at - self.line_start
    }

    fn at_marker(&self) -> bool {
        self.bytes[self.at..].starts_with(b"---") && blankz(self.bytes, self.at + 3)
    }

    /// One past the column of the innermost block, 0 outside any.
    fn inside(&self) -> usize {
        self.indents.last().map_or(0, |column| column + 1)
    }

    fn take_break(&mut self, len: usize) {
        self.at += len;
        self.line_start = self.at;
        self.line += 1;
    }

    fn skip_line(&mut self) {
        while self.at < self.bytes.len() && break_len(self.bytes, self.at) == 0 {
            self.at += 1;
        }
    }

    /// Blanks, comments and line ends between tokens.
    fn skip_between(&mut self) {
        loop {
            if self.column() == 0 && self.bytes[self.at..].starts_with("\u{FEFF}".as_bytes()) {
                self.at += 3;
                self.line_start += 2;
            }
            while blank(self.bytes, self.at) {
                self.at += 1;
            }
            if self.bytes.get(self.at) == Some(&b'#') {
                self.skip_line();
            }
            match break_len(self.bytes, self.at) {
                0 => return,
                len => self.take_break(len),
            }
            if self.flow == 0 {
                self.key_allowed = true;
            }
        }
    }

    /// Leaves the blocks that a token at this column ends.
    fn dedent(&mut self) {
        if self.flow > 0 {
            return;
        }
        let column = self.column();
        while self.indents.last().is_some_and(|top| *top > column) {
            self.indents.pop();
        }
    }

    fn indent(&mut self, column: usize) -> Result<(), What> {
        if self.flow > 0 || column < self.inside() {
            return Ok(());
        }
        self.indents.push(column);
        self.check_depth()
    }

    fn check_depth(&self) -> Result<(), What> {
        if self.indents.len() + self.flow > self.limits.depth {
            return Err(What::Depth(self.limits.depth));
        }
        Ok(())
    }

    fn document_marker(&mut self) {
        self.at += 3;
        self.indents.clear();
        (self.key_allowed, self.key) = (false, None);
    }

    /// Remembers that a key may begin here.
    fn may_be_key(&mut self) {
        if self.flow == 0 && self.key_allowed {
            self.key = Some((self.column(), self.line));
        }
    }

    fn open(&mut self) -> Result<(), What> {
        self.may_be_key();
        self.flow += 1;
        self.at += 1;
        self.key_allowed = true;
        if self.flow > self.limits.flow_depth {
            return Err(What::Brackets(self.limits.flow_depth));
        }
        self.check_depth()
    }

    fn close(&mut self) {
        self.flow = self.flow.saturating_sub(1);
        self.at += 1;
        self.key_allowed = false;
    }

    fn separator(&mut self) {
        self.at += 1;
        self.key_allowed = true;
    }

    /// `- ` and `? `.
    fn entry(&mut self) -> Result<(), What> {
        let column = self.column();
        self.at += 1;
        self.key_allowed = true;
        if self.flow == 0 {
            self.key = None;
        }
        self.indent(column)
    }

    /// `: `.
    fn value(&mut self) -> Result<(), What> {
        let own = self.column();
        self.at += 1;
        if self.flow > 0 {
            self.key_allowed = false;
            return Ok(());
        }
        match self.key.take().filter(|(_, line)| *line == self.line) {
            Some((column, _)) => {
                self.key_allowed = false;
                self.indent(column)
            }
            None => {
                self.key_allowed = true;
                self.indent(own)
            }
        }
    }

    fn alias(&mut self) -> Result<(), What> {
        self.aliases += 1;
        if self.aliases > self.limits.aliases {
            return Err(What::Aliases(self.limits.aliases));
        }
        self.property();
        Ok(())
    }

    /// An anchor, an alias or a tag: up to a blank or an indicator.
    fn property(&mut self) {
        self.may_be_key();
        self.key_allowed = false;
        self.at += 1;
        while !blankz(self.bytes, self.at) && !self.at_indicator() {
            self.at += 1;
        }
    }

    /// At something that ends a word inside brackets.
    fn at_indicator(&self) -> bool {
        matches!(self.bytes.get(self.at), Some(b',' | b'[' | b']' | b'{' | b'}'))
    }

    fn quoted(&mut self, quote: u8) {
        self.may_be_key();
        self.key_allowed = false;
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at).copied() {
            match break_len(self.bytes, self.at) {
                0 => self.at += 1,
                len => self.take_break(len),
            }
            if byte == b'\\' && quote == b'"' {
                self.escaped();
            } else if byte == quote && (quote == b'"' || self.bytes.get(self.at) != Some(&b'\'')) {
                return;
            } else if byte == quote {
                self.at += 1;
            }
        }
    }

    fn escaped(&mut self) {
        match break_len(self.bytes, self.at) {
            0 => self.at = (self.at + 1).min(self.bytes.len()),
            len => self.take_break(len),
        }
    }

    fn plain(&mut self) {
        self.may_be_key();
        self.key_allowed = false;
        let inside = self.inside();
        let start = self.at;
        loop {
            if self.at > start && (self.bytes.get(self.at) == Some(&b'#') || self.column() == 0 && self.at_marker()) {
                return;
            }
            if self.word(start) && self.line_start <= start {
                self.to_quote.push((start, self.at));
                return;
            }
            if self.at >= self.bytes.len() || !blankz(self.bytes, self.at) {
                return;
            }
            let broken = self.blanks();
            self.key_allowed |= broken;
            if self.flow == 0 && self.column() < inside || self.at >= self.bytes.len() {
                return;
            }
        }
    }

    /// The rest of a word of a plain scalar; always at least the byte at `start`. Whether it ends with a `:` right
    /// before what ends the scalar.
    fn word(&mut self, start: usize) -> bool {
        while !blankz(self.bytes, self.at) {
            let closes = self.flow > 0 && matches!(self.bytes.get(self.at + 1), Some(b',' | b']' | b'}'));
            if closes && self.bytes[self.at] == b':' && self.at > start {
                self.at += 1;
                return true;
            }
            let ends = self.bytes[self.at] == b':' && blankz(self.bytes, self.at + 1)
                || self.flow > 0 && (self.at_indicator() || self.at_flow_colon());
            if ends && self.at > start {
                return false;
            }
            self.at += 1;
        }
        false
    }

    /// `:` before an indicator; an error to libyaml in some versions, the end of the scalar in others.
    fn at_flow_colon(&self) -> bool {
        self.bytes[self.at] == b':'
            && matches!(self.bytes.get(self.at + 1), Some(b',' | b'?' | b'[' | b']' | b'{' | b'}'))
    }

    /// Skips blanks and line ends; whether there was a line end.
    fn blanks(&mut self) -> bool {
        let line = self.line;
        loop {
            match break_len(self.bytes, self.at) {
                0 if blank(self.bytes, self.at) => self.at += 1,
                0 => return self.line > line,
                len => self.take_break(len),
            }
        }
    }

    fn block_scalar(&mut self) {
        (self.key_allowed, self.key) = (true, None);
        self.at += 1;
        let explicit = self.block_header();
        let indent = match explicit {
            Some(increment) => self.indents.last().map_or(increment, |column| column + increment),
            None => self.block_indent().max(self.inside()).max(1),
        };
        self.block_breaks(indent);
        while self.column() == indent && self.at < self.bytes.len() {
            self.skip_line();
            match break_len(self.bytes, self.at) {
                0 => return,
                len => self.take_break(len),
            }
            self.block_breaks(indent);
        }
    }

    /// Chomping, indentation, comment and line end after `|`.
    fn block_header(&mut self) -> Option<usize> {
        let mut increment = None;
        while let Some(byte @ (b'+' | b'-' | b'1'..=b'9')) = self.bytes.get(self.at) {
            if byte.is_ascii_digit() {
                increment = Some(usize::from(byte - b'0'));
            }
            self.at += 1;
        }
        self.skip_line();
        match break_len(self.bytes, self.at) {
            0 => {}
            len => self.take_break(len),
        }
        increment
    }

    /// The deepest column among the leading blank lines and the first line with text; moves nothing.
    fn block_indent(&self) -> usize {
        let (mut at, mut deepest) = (self.at, 0);
        loop {
            let start = at;
            while self.bytes.get(at) == Some(&b' ') {
                at += 1;
            }
            deepest = deepest.max(at - start);
            match break_len(self.bytes, at) {
                0 => return deepest,
                len => at += len,
            }
        }
    }

    /// Skips blank lines and then at most `indent` spaces.
    fn block_breaks(&mut self, indent: usize) {
        loop {
            while self.column() < indent && self.bytes.get(self.at) == Some(&b' ') {
                self.at += 1;
            }
            match break_len(self.bytes, self.at) {
                0 => return,
                len => self.take_break(len),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn quick(text: &str) -> Result<(), Excess> {
        let start = Instant::now();
        let answer = check(text, &Limits::default());
        assert!(start.elapsed() < Duration::from_secs(2));
        answer.map(|_| ())
    }

    #[test]
    fn bombs_are_refused_in_no_time() {
        assert!(matches!(quick(&"{a: {a: ".repeat(62_500)).unwrap_err().what, What::Brackets(32)));
        assert!(quick(&"[".repeat(250_000)).is_err());
        assert!(quick(&"- ".repeat(50_000)).is_err());
        assert!(quick(&"? ".repeat(50_000)).is_err());
        assert!(quick(&"a: *b\n".repeat(1_001)).is_err());
    }

    #[test]
    fn brackets_in_text_are_no_brackets() {
        let many = "[".repeat(100);
        for text in [
            format!("a: |\n  {many}\nb: 1\n"),
            format!("a:\n  - >-\n\n   {many}\n   {many}\n"),
            format!("a: '{many}'' {many}'\n"),
            format!("a: \"{many}\\\" {many}\"\n"),
            format!("# {many}\na: b # {many}\n"),
            format!("a: b{many}\n  {many}\n  \"{many}\n"),
            format!("a: |2\n   {many}\n  {many}\n"),
        ] {
            assert_eq!(quick(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_quote_inside_a_plain_scalar_hides_nothing() {
        let many = "[".repeat(100);
        for text in [
            format!("a: b\n  \"\nc: {many}"),
            format!("a: b\n  '\n{many}"),
            format!("a: b'\nc: {many}"),
            format!("- a: |\n    '\n  b: {many}"),
            format!("- |\n '\n- {many}"),
            format!("a: #\u{85}  {many}"),
            format!("? |\n \"\n: {many}"),
        ] {
            assert!(quick(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn documents_are_cut_where_yaml_cuts_them() {
        let text = "# x\n---\na: 1\n--- # y\n\n---\nb: |\n  ---\n...\n%YAML 1.1\n---\nc: 1\n--- {d: 1}\n";
        let pieces: Vec<_> = split(text).map(|p| (p.number, p.line, p.text)).collect();
        assert_eq!(
            pieces,
            [
                (1, 2, "---\na: 1\n"),
                (2, 6, "---\nb: |\n  ---\n"),
                (3, 10, "%YAML 1.1\n---\nc: 1\n"),
                (4, 13, "--- {d: 1}\n")
            ]
        );
        assert_eq!(split("").count(), 0);
        assert_eq!(split("a: 1\r\n---\r\nb: 1").map(|p| p.line).collect::<Vec<_>>(), [1, 2]);
    }
}
