//! What a condition can be filed under.

use super::text::LONGEST;
use crate::plan::{Condition, HeaderMatch, PathMatch, QueryMatch, Rest, ValueMatch};

/// Something that must hold for a route, and can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Filing<'c> {
    ExactPath(&'c [u8]),
    Prefix(&'c [u8]),
    Value(Field<'c>, &'c [u8]),
    /// The first bytes of a value, [`LONGEST_START`] at most.
    Start(Field<'c>, &'c [u8]),
    /// There is a value.
    Present(Field<'c>),
}

/// A part of the request with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field<'c> {
    Header(&'c str),
    Query(&'c str),
    Authority,
    Method,
}

/// A filing, the part of the condition that it belongs to, and whether it proves all of that part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filed<'c> {
    pub(super) filing: Filing<'c>,
    pub(super) part: Rest,
    pub(super) proves: bool,
}

/// Everything a condition can be filed under, cheaper look-ups first.
pub(super) fn filings(condition: &Condition) -> impl Iterator<Item = Filed<'_>> {
    let headers = condition.headers.iter().enumerate().filter_map(|(n, test)| header(test, Rest::header(n)));
    let query = condition.query.iter().enumerate().map(|(n, test)| parameter(test, Rest::query(n)));
    path(&condition.path)
        .into_iter()
        .chain(headers)
        .chain(query)
        .chain(text(Field::Authority, condition.authority.as_ref(), Rest::AUTHORITY))
        .chain(text(Field::Method, condition.method.as_ref(), Rest::METHOD))
        .filter(|filed| filed.filing.text().len() <= LONGEST)
}

impl<'c> Filing<'c> {
    fn text(self) -> &'c [u8] {
        match self {
            Filing::ExactPath(text) | Filing::Prefix(text) | Filing::Value(_, text) | Filing::Start(_, text) => text,
            Filing::Present(_) => b"",
        }
    }
}

fn path(test: &PathMatch) -> Option<Filed<'_>> {
    let (filing, proves) = match test {
        PathMatch::Exact { path, ignore_case: false } => (Filing::ExactPath(path.as_bytes()), true),
        PathMatch::Prefix { path, ignore_case: false } if path.len() > 1 => (Filing::Prefix(path.as_bytes()), true),
        PathMatch::Regex(pattern) if pattern.literal_prefix().len() > 1 => {
            (Filing::Prefix(pattern.literal_prefix()), false)
        }
        _ => return None,
    };
    Some(Filed { filing, part: Rest::PATH, proves })
}

/// A test that a missing header may pass cannot be found by the lines that a request carries.
fn header(test: &HeaderMatch, part: Rest) -> Option<Filed<'_>> {
    if test.invert || test.missing_is_empty {
        return None;
    }
    let field = Field::Header(&test.name);
    Some(text(field, Some(&test.value), part).unwrap_or_else(|| present(field, &test.value, part)))
}

fn parameter(test: &QueryMatch, part: Rest) -> Filed<'_> {
    let field = Field::Query(&test.name);
    text(field, Some(&test.value), part).unwrap_or_else(|| present(field, &test.value, part))
}

/// Longer beginnings are filed under as much of them.
pub(super) const LONGEST_START: usize = u64::BITS as usize;

/// What is known of a value's text: all of it, or its beginning.
fn text<'c>(field: Field<'c>, test: Option<&'c ValueMatch>, part: Rest) -> Option<Filed<'c>> {
    let (start, proves) = match test? {
        ValueMatch::Exact(text) => {
            return Some(Filed { filing: Filing::Value(field, text.as_bytes()), part, proves: true });
        }
        ValueMatch::Prefix(text) => (text.as_bytes(), text.len() <= LONGEST_START),
        ValueMatch::Regex(pattern) => (pattern.literal_prefix(), false),
        ValueMatch::Present => return None,
    };
    let start = &start[..start.len().min(LONGEST_START)];
    (!start.is_empty()).then_some(Filed { filing: Filing::Start(field, start), part, proves })
}

fn present<'c>(field: Field<'c>, test: &ValueMatch, part: Rest) -> Filed<'c> {
    Filed { filing: Filing::Present(field), part, proves: *test == ValueMatch::Present }
}
