//! Envoy's command operators in the values of headers: `%REQ(x-user?x-guest):10%`.
//!
//! Known are those that speak of the headers at hand: `REQ` in what a request gets, `RESP` in what a response gets. What
//! only a proxy knows (addresses, times, certificates) is left as it stands. Source: observed on Envoy 1.40.

use crate::plan::{HeaderWrite, Part};

/// Whose headers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Request,
    Response,
}

/// A header to write; a value with an operator that is not known stands for itself.
pub(super) fn write(name: &str, value: &str, append: bool, whose: Whose) -> HeaderWrite {
    match parts(value, whose) {
        Some(parts) if parts.iter().any(|part| matches!(part, Part::Header { .. })) => {
            HeaderWrite::of_parts(name, parts, append)
        }
        _ => HeaderWrite::new(name, &value.replace("%%", "%"), append),
    }
}

/// Whether a value has an operator that is not known.
pub(super) fn has_unknown(value: &str, whose: Whose) -> bool {
    parts(value, whose).is_none()
}

/// What a value is put together from; `None` where it has an operator that is not known.
fn parts(value: &str, whose: Whose) -> Option<Vec<Part>> {
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), value);
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let (part, after) = operator(after, whose)?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text).into()));
        }
        parts.push(part);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text.into()));
    }
    Some(parts)
}

/// The operator that a text behind a `%` begins with, and what stands behind it.
fn operator(text: &str, whose: Whose) -> Option<(Part, &str)> {
    let word = match whose {
        Whose::Request => "REQ(",
        Whose::Response => "RESP(",
    };
    let (names, after) = text.strip_prefix(word)?.split_once(')')?;
    let (most, after) = after.split_once('%')?;
    let most = match most {
        "" => None,
        _ => Some(most.strip_prefix(':')?.parse().ok()?),
    };
    let (name, or) = names.split_once('?').map_or((names, None), |(name, or)| (name, Some(or)));
    let lower = |name: &str| (!name.is_empty()).then(|| name.to_ascii_lowercase().into());
    let or = or.map(lower).map_or(Some(None), |or| or.map(Some))?;
    Some((Part::Header { name: lower(name)?, or, most }, after))
}
