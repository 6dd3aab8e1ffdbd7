//! How the commands print: colours on a terminal only, tables, findings with file and line.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use meshroute::{Diagnostic, Place, Severity};
use serde_json::{Value, json};

/// How an answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What a piece of text is, from which its colour follows.
#[derive(Clone, Copy)]
pub enum Ink {
    /// What goes well.
    Good,
    /// What is wrong.
    Bad,
    /// What may be wrong.
    Doubtful,
    /// What stands in the background.
    Faint,
    /// What stands out.
    Strong,
}

/// A text with a colour, if standard output is a terminal and nobody has forbidden colours.
pub fn ink(ink: Ink, text: impl std::fmt::Display) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()) {
        return text.to_string();
    }
    let code = match ink {
        Ink::Good => 32,
        Ink::Bad => 31,
        Ink::Doubtful => 33,
        Ink::Faint => 2,
        Ink::Strong => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Writes to standard output. That nobody reads it any more is no fault.
pub fn out(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a value as JSON, indented.
pub fn out_json(value: &Value) {
    out(&format!("{value:#}\n"));
}

/// Writes what keeps the command from its work to standard error.
pub fn complain(what: impl std::fmt::Display) {
    eprintln!("meshroute: {what}");
}

/// File and line; the document where the line is not known.
pub fn place(place: &Place) -> String {
    match place.line {
        0 => format!("{} (document {})", place.file, place.document),
        line => format!("{}:{line}", place.file),
    }
}

/// A finding for people, in two or three lines.
pub fn finding(finding: &Diagnostic) -> String {
    let (colour, name) = match finding.severity {
        Severity::Error => (Ink::Bad, "error"),
        Severity::Warning => (Ink::Doubtful, "warning"),
        Severity::Info => (Ink::Faint, "info"),
    };
    let mut text = format!("{} {}", ink(colour, name), ink(Ink::Strong, &finding.message));
    let at = finding.place.as_ref().map(place).unwrap_or_default();
    let resource = finding.resource.as_ref().map(ToString::to_string).unwrap_or_default();
    let parts = [at.as_str(), resource.as_str(), finding.field.as_str(), &format!("[{}]", finding.code)];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let _ = write!(text, "\n    {}", ink(Ink::Faint, parts.join("  ")));
    if !finding.remedy.is_empty() {
        let _ = write!(text, "\n    {}", finding.remedy);
    }
    text + "\n"
}

/// A finding for programs.
pub fn finding_json(finding: &Diagnostic) -> Value {
    let mut value = json!({
        "code": finding.code,
        "severity": finding.severity,
        "resource": finding.resource.as_ref().map(ToString::to_string).unwrap_or_default(),
        "message": finding.message,
    });
    if !finding.field.is_empty() {
        value["path"] = json!(finding.field);
    }
    if let Some(place) = &finding.place {
        value["file"] = json!(&*place.file);
        value["line"] = json!(place.line);
    }
    if !finding.remedy.is_empty() {
        value["remedy"] = json!(finding.remedy);
    }
    value
}

/// Columns of equal width, three blanks between them, as `kubectl` prints them.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([head[at].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("   ").trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// `1 error`, `2 errors`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
