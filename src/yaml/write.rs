//! From types to text, so that Kubernetes reads back what was meant.
//!
//! The YAML library leaves `yes`, `on` and `0o17` without quotes, since they are strings in YAML 1.2. This writer
//! quotes every word that a YAML 1.1 reader would take for anything but a string.

use std::fmt::Write;

use serde::Serialize;
use serde_yaml::Value;

use super::scalar::{self, Meaning};

/// Writes a value as YAML in block style.
///
/// # Errors
///
/// When the value cannot be written as YAML: a map whose keys are maps, or a serde error of its own.
pub fn write<T: Serialize>(value: &T) -> Result<String, String> {
    let value = serde_yaml::to_value(value).map_err(|error| error.to_string())?;
    let mut text = String::new();
    match leaf(&value) {
        Some(word) => text.push_str(&word),
        None => block(&mut text, &value, 0)?,
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// What fits on one line: words and empty collections.
fn leaf(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("null".to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(text) => Some(quoted(text)),
        Value::Sequence(items) if items.is_empty() => Some("[]".to_owned()),
        Value::Mapping(entries) if entries.is_empty() => Some("{}".to_owned()),
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => None,
    }
}

/// Writes a collection whose first line begins where the cursor is.
fn block(text: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    match value {
        Value::Sequence(items) => {
            for (at, item) in items.iter().enumerate() {
                start_line(text, at, indent);
                text.push_str("- ");
                inline(text, item, indent + 2)?;
            }
        }
        Value::Mapping(entries) => {
            for (at, (name, value)) in entries.iter().enumerate() {
                start_line(text, at, indent);
                text.push_str(&key(name)?);
                entry(text, value, indent)?;
            }
        }
        Value::Tagged(tagged) => {
            text.push_str(&quoted(tagged.tag.to_string().trim_start_matches('!')));
            entry(text, &tagged.value, indent)?;
        }
        other => text.push_str(&leaf(other).unwrap_or_default()),
    }
    Ok(())
}

fn start_line(text: &mut String, at: usize, indent: usize) {
    if at > 0 {
        text.extend(std::iter::repeat_n(' ', indent));
    }
}

/// A list's element, on the line of its dash.
fn inline(text: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    match leaf(value) {
        Some(word) => {
            text.push_str(&word);
            text.push('\n');
            Ok(())
        }
        None => block(text, value, indent),
    }
}

/// `: ` and a field's value.
fn entry(text: &mut String, value: &Value, indent: usize) -> Result<(), String> {
    text.push(':');
    if let Some(word) = leaf(value) {
        text.push(' ');
        text.push_str(&word);
        text.push('\n');
        return Ok(());
    }
    let deeper = if matches!(value, Value::Sequence(_)) { indent } else { indent + 2 };
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', deeper));
    block(text, value, deeper)
}

fn key(name: &Value) -> Result<String, String> {
    match name {
        Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => Err("a key must be a word".to_owned()),
        Value::String(text) => Ok(quoted(text)),
        other => Ok(quoted(&leaf(other).unwrap_or_default())),
    }
}

/// The text as it may stand in YAML: bare where nobody can misread it.
fn quoted(text: &str) -> String {
    if is_bare(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control()
                || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}') =>
            {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

fn is_bare(text: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+' | '(' | ')' | '^' | '$');
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '^' | '('));
    let dated = text.as_bytes().get(4) == Some(&b'-') && text.bytes().take(4).all(|b| b.is_ascii_digit());
    first
        && !dated
        && text.chars().all(ok)
        && !text.starts_with("...")
        && matches!(scalar::plain(text), Meaning::Text(_))
}
