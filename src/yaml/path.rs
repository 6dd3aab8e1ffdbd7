//! Field paths as people write them: `spec.http[0].match[1].headers.canary_id`, `labels["a.b/c"]`.

use std::fmt;

use super::node::{Node, Value};

/// A path under construction; each step lives on the stack of whoever went there.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Path::Key(parent, key) if !is_simple(key) => write!(f, "{parent}[{key:?}]"),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
        }
    }
}

fn is_simple(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'<' | b'>' | b'$'))
}

/// One step of a written path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Cuts a written path into steps; stops quietly where it makes no sense.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while let Some((step, tail)) = first_step(rest) {
        steps.push(step);
        rest = tail.strip_prefix('.').unwrap_or(tail);
    }
    steps
}

fn first_step(path: &str) -> Option<(Step, &str)> {
    if let Some(inner) = path.strip_prefix("[\"") {
        return quoted_step(inner);
    }
    if let Some(inner) = path.strip_prefix('[') {
        let (index, tail) = inner.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), tail));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    (end > 0).then(|| (Step::Key(path[..end].to_owned()), &path[end..]))
}

fn quoted_step(inner: &str) -> Option<(Step, &str)> {
    let mut key = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return inner[at + 1..].strip_prefix(']').map(|tail| (Step::Key(key), tail)),
            '\\' => key.push(chars.next()?.1),
            _ => key.push(c),
        }
    }
    None
}

/// On which line each field of a resource stands.
///
/// Keeps keys and line numbers only, so that it can live as long as the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    line: u32,
    children: Children,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Children {
    #[default]
    None,
    List(Box<[Lines]>),
    Map(Box<[(Box<str>, Lines)]>),
}

impl Lines {
    /// The line of the field at `path`, or of the nearest field around it that is known; 0 if nothing is.
    ///
    /// The path is written as in a [`Diagnostic`](crate::diagnostic::Diagnostic): `spec.http[0].route[1].weight`.
    pub fn line_of(&self, path: &str) -> u32 {
        let mut here = self;
        for step in steps(path) {
            match here.child(&step) {
                Some(child) => here = child,
                None => break,
            }
        }
        here.line
    }

    fn child(&self, step: &Step) -> Option<&Lines> {
        match (&self.children, step) {
            (Children::List(items), Step::Index(at)) => items.get(*at),
            (Children::Map(entries), Step::Key(key)) => entries.iter().find(|(k, _)| **k == **key).map(|(_, v)| v),
            _ => None,
        }
    }
}

impl From<&Node> for Lines {
    fn from(node: &Node) -> Self {
        let children = match &node.value {
            Value::Scalar { .. } => Children::None,
            Value::List(items) => Children::List(items.iter().map(Lines::from).collect()),
            Value::Map(entries) => {
                Children::Map(entries.iter().map(|(key, node)| (key.as_str().into(), Lines::from(node))).collect())
            }
        };
        Lines { line: node.line, children }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_and_read_alike() {
        let (a, b);
        let spec = Path::Key(&Path::Root, "spec");
        a = Path::Index(&spec, 2);
        b = Path::Key(&a, "a.b/\"c");
        assert_eq!(b.to_string(), r#"spec[2]["a.b/\"c"]"#);
        let wanted = [Step::Key("spec".into()), Step::Index(2), Step::Key("a.b/\"c".into())];
        assert_eq!(steps(&b.to_string()), wanted);
        for odd in ["", ".", "[", "[\"", "a..b", "[x]", "a[99999999999999999999]", "[\"a\\"] {
            assert!(steps(odd).len() < 3, "{odd}");
        }
    }
}
