//! When a route holds.

use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;
use crate::request::Question;

/// A test of one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(Box<str>),
    /// Byte for byte at its beginning.
    Prefix(Box<str>),
    /// The whole value, in RE2's dialect.
    Regex(Pattern),
    /// There is a value.
    Present,
}

impl ValueMatch {
    /// Whether a value satisfies it.
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            ValueMatch::Exact(text) => value == text.as_bytes(),
            ValueMatch::Prefix(text) => value.starts_with(text.as_bytes()),
            ValueMatch::Regex(pattern) => pattern.is_full_match(value),
            ValueMatch::Present => true,
        }
    }
}

/// A test of the path without its query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Any path. To a rewrite it is the prefix `/`.
    #[default]
    Any,
    /// The whole path.
    Exact {
        /// What it must be.
        path: Box<str>,
        /// Whether ASCII case is passed over.
        ignore_case: bool,
    },
    /// Its first bytes: `/foo` also takes `/foobar`.
    Prefix {
        /// What it must begin with.
        path: Box<str>,
        /// Whether ASCII case is passed over.
        ignore_case: bool,
    },
    /// The whole path, in RE2's dialect; always with regard to case.
    Regex(Pattern),
}

impl PathMatch {
    /// Whether a path (without query) satisfies it.
    pub fn holds(&self, path: &[u8]) -> bool {
        match self {
            PathMatch::Any => true,
            PathMatch::Exact { path: wanted, ignore_case: false } => path == wanted.as_bytes(),
            PathMatch::Exact { path: wanted, ignore_case: true } => path.eq_ignore_ascii_case(wanted.as_bytes()),
            PathMatch::Prefix { path: wanted, ignore_case: false } => path.starts_with(wanted.as_bytes()),
            PathMatch::Prefix { path: wanted, ignore_case: true } => {
                path.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
            }
            PathMatch::Regex(pattern) => pattern.is_full_match(path),
        }
    }
}

/// A test of the lines of one header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// In lower case; `:authority`, `:method`, `:path` and `:scheme` are the request's own.
    pub name: Box<str>,
    /// Holds when any line satisfies it.
    pub value: ValueMatch,
    /// Whether the outcome is turned round (`withoutHeaders`).
    pub invert: bool,
    /// Whether a missing header counts as one empty line (`withoutHeaders` with a value).
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// A test that any line of a header satisfies `value`.
    pub fn new(name: &str, value: ValueMatch) -> Self {
        HeaderMatch { name: name.to_ascii_lowercase().into(), value, invert: false, missing_is_empty: false }
    }

    /// A test that no line of a header satisfies `value`, as `withoutHeaders` means it: with [`ValueMatch::Present`]
    /// the header is absent; with any other, a missing header counts as an empty one.
    pub fn without(name: &str, value: ValueMatch) -> Self {
        let missing_is_empty = value != ValueMatch::Present;
        HeaderMatch { invert: true, missing_is_empty, ..HeaderMatch::new(name, value) }
    }

    fn holds(&self, question: &Question<'_>) -> bool {
        let mut lines = false;
        let hit = question.any_header(&self.name, &mut |line| {
            lines = true;
            self.value.holds(line)
        });
        if lines || self.value == ValueMatch::Present {
            return hit != self.invert;
        }
        self.missing_is_empty && self.value.holds(b"") != self.invert
    }
}

/// A test of the first query parameter of one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QueryMatch {
    /// As it stands in the query, not decoded.
    pub name: Box<str>,
    /// What its value must satisfy.
    pub value: ValueMatch,
}

impl QueryMatch {
    /// A test of a query parameter.
    pub fn new(name: &str, value: ValueMatch) -> Self {
        QueryMatch { name: name.into(), value }
    }

    fn holds(&self, question: &Question<'_>) -> bool {
        question.query(self.name.as_bytes()).is_some_and(|value| self.value.holds(value))
    }
}

/// What must hold for a route: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Condition {
    /// The path without query, in normal form.
    pub path: PathMatch,
    /// The method, with regard to case.
    pub method: Option<ValueMatch>,
    /// The scheme.
    pub scheme: Option<ValueMatch>,
    /// The authority as sent: with regard to case, with its port.
    pub authority: Option<ValueMatch>,
    /// Headers.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
}

/// The part of a [`Condition`] that a request missed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss<'a> {
    /// The path.
    Path(&'a PathMatch),
    /// The method.
    Method(&'a ValueMatch),
    /// The scheme.
    Scheme(&'a ValueMatch),
    /// The authority.
    Authority(&'a ValueMatch),
    /// A header.
    Header(&'a HeaderMatch),
    /// A query parameter.
    Query(&'a QueryMatch),
}

impl Condition {
    /// Whether there is nothing to test.
    pub fn is_any(&self) -> bool {
        *self == Condition::default()
    }

    /// All parts of it.
    pub(crate) fn all_parts(&self) -> Rest {
        let mut all = 0;
        let fixed =
            [self.path != PathMatch::Any, self.method.is_some(), self.scheme.is_some(), self.authority.is_some()];
        for (at, asked) in fixed.into_iter().enumerate() {
            all |= u32::from(asked) << at;
        }
        if self.headers.len() > Rest::HEADERS || self.query.len() > Rest::QUERY {
            return Rest::UNKNOWN;
        }
        all |= ((1 << self.headers.len()) - 1) << Rest::FIRST_HEADER;
        all |= ((1 << self.query.len()) - 1) << Rest::FIRST_QUERY;
        Rest(all)
    }

    /// The parts in `rest`, in order; `None` where they are not known one by one.
    pub(crate) fn parts(&self, rest: Rest) -> Option<Vec<Miss<'_>>> {
        if rest == Rest::UNKNOWN {
            return None;
        }
        let has = |part: Rest| rest.has(part);
        let path = has(Rest::PATH).then_some(Miss::Path(&self.path));
        let fixed = [
            self.method.as_ref().filter(|_| has(Rest::METHOD)).map(Miss::Method),
            self.scheme.as_ref().filter(|_| has(Rest::SCHEME)).map(Miss::Scheme),
            self.authority.as_ref().filter(|_| has(Rest::AUTHORITY)).map(Miss::Authority),
        ];
        let headers = self.headers.iter().enumerate().filter(|(n, _)| has(Rest::header(*n)));
        let query = self.query.iter().enumerate().filter(|(n, _)| has(Rest::query(*n)));
        let fixed = path.into_iter().chain(fixed.into_iter().flatten());
        let fields = headers.map(|(_, test)| Miss::Header(test)).chain(query.map(|(_, test)| Miss::Query(test)));
        Some(fixed.chain(fields).collect())
    }

    /// Whether the parts in `rest` hold.
    pub(crate) fn rest_holds(&self, rest: Rest, question: &Question<'_>) -> bool {
        if rest.is_empty() {
            return true;
        }
        if rest == Rest::UNKNOWN {
            return self.miss(question).is_none();
        }
        let holds = |test: &Option<ValueMatch>, value: &str| test.as_ref().is_none_or(|t| t.holds(value.as_bytes()));
        (!rest.has(Rest::PATH) || self.path.holds(question.path_only()))
            && (!rest.has(Rest::METHOD) || holds(&self.method, question.request.method))
            && (!rest.has(Rest::AUTHORITY) || holds(&self.authority, question.request.authority))
            && (!rest.has(Rest::SCHEME) || holds(&self.scheme, question.scheme()))
            && self.headers.iter().enumerate().all(|(n, test)| !rest.has(Rest::header(n)) || test.holds(question))
            && self.query.iter().enumerate().all(|(n, test)| !rest.has(Rest::query(n)) || test.holds(question))
    }

    /// The first part that a question misses, in the order of the fields; `None` where all of it holds.
    pub(crate) fn miss(&self, question: &Question<'_>) -> Option<Miss<'_>> {
        let fails = |test: &&ValueMatch, value: &str| !test.holds(value.as_bytes());
        if !self.path.holds(question.path_only()) {
            return Some(Miss::Path(&self.path));
        }
        if let Some(test) = self.method.as_ref().filter(|test| fails(test, question.request.method)) {
            return Some(Miss::Method(test));
        }
        if let Some(test) = self.scheme.as_ref().filter(|test| fails(test, question.scheme())) {
            return Some(Miss::Scheme(test));
        }
        if let Some(test) = self.authority.as_ref().filter(|test| fails(test, question.request.authority)) {
            return Some(Miss::Authority(test));
        }
        if let Some(test) = self.headers.iter().find(|test| !test.holds(question)) {
            return Some(Miss::Header(test));
        }
        self.query.iter().find(|test| !test.holds(question)).map(Miss::Query)
    }
}

/// Which parts of a [`Condition`] are not known to hold yet: one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rest(u32);

impl Rest {
    /// Nothing is left to be tested.
    pub(crate) const NONE: Rest = Rest(0);
    /// All that there is; for conditions with more parts than there are bits.
    pub(crate) const UNKNOWN: Rest = Rest(u32::MAX);
    pub(crate) const PATH: Rest = Rest(1);
    pub(crate) const METHOD: Rest = Rest(2);
    pub(crate) const SCHEME: Rest = Rest(4);
    pub(crate) const AUTHORITY: Rest = Rest(8);
    const FIRST_HEADER: usize = 4;
    const HEADERS: usize = 14;
    const FIRST_QUERY: usize = Rest::FIRST_HEADER + Rest::HEADERS;
    const QUERY: usize = 13;

    /// The n-th header test.
    pub(crate) fn header(n: usize) -> Rest {
        if n < Rest::HEADERS { Rest(1 << (Rest::FIRST_HEADER + n)) } else { Rest::NONE }
    }

    /// The n-th query test.
    pub(crate) fn query(n: usize) -> Rest {
        if n < Rest::QUERY { Rest(1 << (Rest::FIRST_QUERY + n)) } else { Rest::NONE }
    }

    /// What is left when `proven` is known to hold.
    pub(crate) fn without(self, proven: Rest) -> Rest {
        if self == Rest::UNKNOWN { self } else { Rest(self.0 & !proven.0) }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn has(self, part: Rest) -> bool {
        self.0 & part.0 != 0
    }
}
