//! What the tour is printed on: lines of at most a hundred columns, colours only on a terminal.
//!
//! Knows layout. Where nobody reads it (a closed pipe), nothing is lost.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};

/// No line is longer.
const WIDTH: usize = 98;

/// A place to print to.
pub struct Paper {
    colours: bool,
    /// Whether the last line was empty: two of them never follow each other.
    blank: Cell<bool>,
}

impl Paper {
    /// Standard output. `NO_COLOR` is respected.
    pub fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Paper { colours, blank: Cell::new(true) }
    }

    fn painted(&self, text: &str, code: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        if self.blank.replace(text.is_empty()) && text.is_empty() {
            return;
        }
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    }

    /// The first line.
    pub fn title(&self, text: &str) {
        self.line(&self.painted(text, "1"));
        self.line("");
    }

    /// An empty line.
    pub fn gap(&self) {
        self.line("");
    }

    /// A heading, with an empty line before it.
    pub fn heading(&self, text: &str) {
        self.line("");
        self.line(&self.painted(text, "1"));
        self.line("");
    }

    /// Prose, wrapped.
    pub fn prose(&self, text: &str) {
        wrapped(text, WIDTH).iter().for_each(|line| self.line(line));
    }

    /// Prose behind an indent.
    pub fn indented(&self, indent: usize, text: &str) {
        wrapped(text, WIDTH - indent).iter().for_each(|line| self.line(&format!("{:indent$}{line}", "")));
    }

    /// A command as one would type it.
    pub fn command(&self, text: &str) {
        self.line(&format!("  {} {}", self.painted("$", "2"), self.painted(text, "36")));
    }

    /// A change of a file, and what came of it.
    pub fn change(&self, file: &str, about: &str, came: &str) {
        let file = format!("{file:<24}");
        self.line(&format!("  {}{about} ({came})", self.painted(&file, "36")));
    }

    /// What came of it: a short word, and more about it.
    pub fn outcome(&self, good: bool, word: &str, rest: &str) {
        let code = if good { "32" } else { "33" };
        let lines = wrapped(rest, WIDTH - 10);
        for (at, line) in lines.iter().enumerate() {
            let head = if at == 0 { format!("{word:<6}") } else { " ".repeat(6) };
            self.line(&format!("    {}{line}", self.painted(&head, code)));
        }
    }

    /// More about the outcome above.
    pub fn because(&self, text: &str) {
        for line in wrapped(text, WIDTH - 10) {
            self.line(&format!("          {}", self.painted(&line, "2")));
        }
    }
}

/// Cuts at blanks; a word that is too long stays whole.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
