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
    Template(Box<[Piece]>),
    /// Stars stand for anything, wherever they are; the pieces between them.
    Glob(Box<[Box<str>]>),
}

/// What a template is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Piece {
    Literal(Box<str>),
    /// `{*}`: one segment, which is not empty.
    One,
    /// `{**}`: anything, also nothing, and slashes too.
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

    /// Reads a path, which may have placeholders instead of stars: `{*}` is a whole segment, `{**}` may be there once.
    pub(super) fn path(value: &str) -> Option<Self> {
        if !value.contains("{*}") && !value.contains("{**}") {
            return Some(Text::new(value));
        }
        let (mut pieces, mut rest) = (Vec::new(), value);
        while let Some((before, behind)) = rest.split_once('{') {
            let (piece, behind) = match (behind.strip_prefix("*}"), behind.strip_prefix("**}")) {
                (Some(behind), _) => (Piece::One, behind),
                (_, Some(behind)) => (Piece::Any, behind),
                _ => return None,
            };
            if !before.ends_with('/') || !(behind.is_empty() || behind.starts_with('/')) {
                return None;
            }
            pieces.extend([Piece::Literal(before.into()), piece]);
            rest = behind;
        }
        pieces.push(Piece::Literal(rest.into()));
        let once = pieces.iter().filter(|piece| **piece == Piece::Any).count() <= 1;
        once.then(|| Text::Template(pieces.into()))
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
            Text::Template(pieces) => fits(pieces, value),
            Text::Glob(pieces) => glob(pieces, value),
        }
    }
}

/// Whether a path is made of a template's pieces. There is one `{**}` at most, so there is little to try.
fn fits(pieces: &[Piece], path: &[u8]) -> bool {
    let Some((first, rest)) = pieces.split_first() else { return path.is_empty() };
    match first {
        Piece::Literal(text) => path.strip_prefix(text.as_bytes()).is_some_and(|behind| fits(rest, behind)),
        Piece::One => {
            let length = path.iter().take_while(|byte| is_plain(**byte)).count();
            length > 0 && fits(rest, &path[length..])
        }
        Piece::Any => {
            let length = path.iter().take_while(|byte| is_plain(**byte) || **byte == b'/').count();
            (0..=length).any(|length| fits(rest, &path[length..]))
        }
    }
}

/// What Envoy lets a placeholder stand for: RFC 3986's `pchar`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@".contains(&byte)
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

    /// As a real Envoy 1.40 answers (`UriTemplateMatchConfig`).
    #[test]
    fn templates_are_envoys() {
        let holds = |template: &str, path: &str| Text::path(template).unwrap().holds(path.as_bytes(), false);
        for (template, taken, left) in [
            (
                "/foo/{*}",
                &["/foo/bar", "/foo/b%20r", "/foo/a*b", "/foo/a:b=c"][..],
                &["/foo/", "/foo/a/b", "/foo/a\"b"][..],
            ),
            ("/foo/{**}", &["/foo/", "/foo/a/b", "/foo//"], &["/foo"]),
            ("/a/{**}/z", &["/a//z", "/a/b/z", "/a/b/c/z", "/a/z/z"], &["/a/z", "/a/b/zz"]),
            ("/foo/{**}/", &["/foo//", "/foo/bar/baz/"], &["/foo/", "/foo/bar"]),
            ("/{*}/bar/{**}", &["/x/bar/", "/x/bar/a/b"], &["/x/bar", "//bar/"]),
            ("/{**}", &["/", "/a", "/a/b"], &[""]),
        ] {
            assert!(taken.iter().all(|path| holds(template, path)), "{template}");
            assert!(!left.iter().any(|path| holds(template, path)), "{template}");
        }
        for bad in ["/a{*}", "/{*}b", "/{**}/{**}", "/{*}/{name}", "{**}"] {
            assert_eq!(Text::path(bad), None, "{bad}");
        }
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
