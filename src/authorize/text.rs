//! How the texts of a policy are compared.

use serde::{Deserialize, Serialize};

/// A text with a star at its beginning or end, or a path with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Text {
    /// `*`: anything but nothing.
    Present,
    Exact(Box<str>),
    /// `text*`.
    Prefix(Box<str>),
    /// `*text`.
    Suffix(Box<str>),
    /// A path with `{*}` or `{**}` among its segments.
    Template(Box<[Segment]>),
    /// Stars stand for anything, wherever they are; the pieces between them.
    Glob(Box<[Box<str>]>),
}

/// What stands between two slashes of a template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Segment {
    Literal(Box<str>),
    /// `{*}`: one segment, which is not empty.
    One,
    /// `{**}`: any number of segments.
    Any,
}

impl Text {
    /// Reads a value that may begin or end with a star.
    pub(super) fn new(value: &str) -> Self {
        match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
            ("*", ..) => Text::Present,
            (_, Some(end), _) => Text::Suffix(end.into()),
            (_, _, Some(start)) => Text::Prefix(start.into()),
            _ => Text::Exact(value.into()),
        }
    }

    /// Reads a path, which may have placeholders instead of stars.
    pub(super) fn path(value: &str) -> Self {
        if !value.contains("{*}") && !value.contains("{**}") {
            return Text::new(value);
        }
        let segment = |segment: &str| match segment {
            "{*}" => Segment::One,
            "{**}" => Segment::Any,
            literal => Segment::Literal(literal.into()),
        };
        Text::Template(value.trim_start_matches('/').split('/').map(segment).collect())
    }

    /// Reads a value in which stars may stand anywhere.
    pub(super) fn glob(value: &str) -> Self {
        Text::Glob(value.split('*').map(Box::from).collect())
    }

    pub(super) fn holds(&self, value: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &str| match ignore_case {
            true => a.eq_ignore_ascii_case(b.as_bytes()),
            false => a == b.as_bytes(),
        };
        match self {
            Text::Present => !value.is_empty(),
            Text::Exact(text) => same(value, text),
            Text::Prefix(text) => value.get(..text.len()).is_some_and(|start| same(start, text)),
            Text::Suffix(text) => {
                value.len().checked_sub(text.len()).and_then(|at| value.get(at..)).is_some_and(|end| same(end, text))
            }
            Text::Template(segments) => value.strip_prefix(b"/").is_some_and(|path| fits(segments, Some(path))),
            Text::Glob(pieces) => glob(pieces, value),
        }
    }
}

/// Whether the segments of a path, `None` where there are no more, are those of a template. Istio allows one `{**}`, so
/// there is little to try.
fn fits(segments: &[Segment], path: Option<&[u8]>) -> bool {
    let Some((first, rest)) = segments.split_first() else { return path.is_none() };
    let split = path.map(|path| match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    });
    match (first, split) {
        (Segment::Literal(text), Some((segment, behind))) => segment == text.as_bytes() && fits(rest, behind),
        (Segment::One, Some((segment, behind))) => !segment.is_empty() && fits(rest, behind),
        (Segment::Any, Some((_, behind))) => fits(rest, path) || fits(segments, behind),
        (Segment::Any, None) => fits(rest, None),
        (_, None) => false,
    }
}

/// Whether the pieces stand in a value in their order, the first at its beginning and the last at its end.
fn glob(pieces: &[Box<str>], value: &[u8]) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| value == only.as_bytes());
    };
    let Some(mut rest) = value.strip_prefix(first.as_bytes()) else { return false };
    for piece in middle {
        let Some(at) = memchr::memmem::find(rest, piece.as_bytes()) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_segments() {
        let holds = |template: &str, path: &str| Text::path(template).holds(path.as_bytes(), false);
        assert!(holds("/foo/{*}", "/foo/bar") && !holds("/foo/{*}", "/foo/bar/baz") && !holds("/foo/{*}", "/foo/"));
        assert!(holds("/foo/{**}/", "/foo/bar/baz/") && !holds("/foo/{**}/", "/foo/bar/baz"));
        assert!(holds("/{*}/bar/{**}", "/foo/bar/") && holds("/{*}/bar/{**}", "/buzz/bar/a/b"));
        assert!(holds("/{**}", "/") && holds("/{**}/end", "/end") && !holds("/{*}", "nothing"));
    }

    #[test]
    fn stars_stand_at_an_end_or_anywhere() {
        let holds = |text: &str, value: &str| Text::new(text).holds(value.as_bytes(), false);
        assert!(holds("*", "a") && !holds("*", "") && holds("a*", "ab") && holds("*b", "ab") && !holds("*b", "ba"));
        let glob = |text: &str, value: &str| Text::glob(text).holds(value.as_bytes(), false);
        assert!(
            glob("*", "") && glob("a*c", "abc") && !glob("a*c", "abd") && glob("a*b*a", "aba") && !glob("ab*ba", "aba")
        );
        assert!(glob("prod", "prod") && !glob("prod", "production"));
    }

    #[test]
    fn case_counts_only_where_it_does() {
        assert!(Text::new("Shop.example").holds(b"shop.EXAMPLE", true));
        assert!(!Text::new("Shop*").holds(b"shop.example", false) && Text::new("*.Example").holds(b"a.example", true));
    }
}
