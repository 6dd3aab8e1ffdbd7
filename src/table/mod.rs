//! Indexes: which routes of a table can hold for a request, without asking each of them.
//!
//! Answers with the smallest id that fully holds. Knows conditions and hosts; knows nothing of actions, clusters or
//! where a route came from, so that it can be tested, measured and replaced alone.
//!
//! Each route is filed once, under the one of its conditions that the fewest other routes share: an exact path, a
//! path prefix (a regex counts with the literal text that it begins with), an exact header or query value, or an
//! exact authority or method. A request looks up the keys that it carries and tries what it finds there in the order
//! of ids. Routes without any such condition are tried in their turn.

mod hash;
mod host;
mod path;
mod value;

pub(crate) use hash::FastMap;
pub(crate) use host::HostIndex;

use smallvec::SmallVec;

use crate::plan::{Condition, PathMatch, ValueMatch};
use crate::request::Question;
use path::PrefixIndex;
use value::{Field, ValueIndex};

/// Ids of routes in ascending order.
type Bucket = Vec<u32>;

/// The buckets that a request found: so many that a stack holds them. Whoever finds more asks every route in turn.
#[derive(Default)]
struct Found<'t> {
    lists: SmallVec<[&'t [u32]; FOUND]>,
    overflowed: bool,
}

const FOUND: usize = 32;

impl<'t> Found<'t> {
    /// Adds a bucket, unless it is empty or there already: two equal lines of one header find the same one.
    fn push(&mut self, bucket: &'t [u32]) {
        if bucket.is_empty() || self.lists.iter().any(|known| std::ptr::eq(*known, bucket)) {
            return;
        }
        self.overflowed |= self.lists.len() == FOUND;
        if !self.overflowed {
            self.lists.push(bucket);
        }
    }
}

/// The routes of one virtual host, found by what a request carries.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exact_paths: FastMap<Box<[u8]>, Bucket>,
    prefixes: PrefixIndex,
    values: ValueIndex,
    rest: Bucket,
    /// How many routes there are.
    len: u32,
}

/// What a route can be filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key<'c> {
    ExactPath(&'c [u8]),
    Prefix(&'c [u8]),
    Value(Field<'c>, &'c str),
}

impl RouteTable {
    /// Files conditions by their position.
    pub(crate) fn build<'c>(conditions: impl Iterator<Item = &'c Condition> + Clone) -> Self {
        let mut shared: FastMap<Key<'c>, u32> = FastMap::default();
        for key in conditions.clone().flat_map(keys) {
            *shared.entry(key).or_default() += 1;
        }
        let mut table = RouteTable::default();
        for (id, condition) in (0u32..).zip(conditions) {
            // Among equally rare keys the first one is taken: `keys` lists the cheaper look-ups first.
            table.file(id, keys(condition).min_by_key(|key| shared.get(key).copied()));
        }
        table.prefixes.seal();
        table
    }

    fn file(&mut self, id: u32, key: Option<Key<'_>>) {
        self.len = id + 1;
        match key {
            Some(Key::ExactPath(path)) => self.exact_paths.entry(path.into()).or_default().push(id),
            Some(Key::Prefix(prefix)) => self.prefixes.insert(prefix, id),
            Some(Key::Value(field, value)) => self.values.insert(&field, value, id),
            None => self.rest.push(id),
        }
    }

    /// The smallest id that could hold and for which `holds` says that it does.
    pub(crate) fn first(&self, question: &Question<'_>, holds: impl Fn(u32) -> bool) -> Option<u32> {
        let mut found = Found::default();
        found.push(&self.rest);
        if !self.exact_paths.is_empty()
            && let Some(bucket) = self.exact_paths.get(question.path_only())
        {
            found.push(bucket);
        }
        self.prefixes.find(question.path_only(), &mut found);
        self.values.find(question, &mut found);
        if found.overflowed {
            return (0..self.len).find(|&id| holds(id));
        }
        first_of(&mut found.lists, holds)
    }
}

/// Walks several ascending lists as one.
fn first_of(lists: &mut SmallVec<[&[u32]; FOUND]>, holds: impl Fn(u32) -> bool) -> Option<u32> {
    if let [only] = lists.as_slice() {
        return only.iter().copied().find(|&id| holds(id));
    }
    loop {
        // INVARIANT: no list in `lists` is empty.
        let (at, id) = lists.iter().map(|list| list[0]).enumerate().min_by_key(|&(_, id)| id)?;
        if holds(id) {
            return Some(id);
        }
        lists[at] = &lists[at][1..];
        if lists[at].is_empty() {
            lists.swap_remove(at);
        }
    }
}

/// Everything a condition can be filed under, cheaper look-ups first.
fn keys(condition: &Condition) -> impl Iterator<Item = Key<'_>> {
    let path = match &condition.path {
        PathMatch::Exact { path, ignore_case: false } => Some(Key::ExactPath(path.as_bytes())),
        PathMatch::Prefix { path, ignore_case: false } if path.len() > 1 => Some(Key::Prefix(path.as_bytes())),
        PathMatch::Regex(pattern) if pattern.literal_prefix().len() > 1 => Some(Key::Prefix(pattern.literal_prefix())),
        _ => None,
    };
    // A test that a missing header may pass cannot be found by the lines that a request carries.
    let headers = condition.headers.iter().filter(|header| !header.invert && !header.missing_is_empty);
    let headers = headers.filter_map(|header| value(Field::Header(&header.name), Some(&header.value)));
    let query = condition.query.iter().filter_map(|query| value(Field::Query(&query.name), Some(&query.value)));
    path.into_iter()
        .chain(headers)
        .chain(query)
        .chain(value(Field::Authority, condition.authority.as_ref()))
        .chain(value(Field::Method, condition.method.as_ref()))
}

fn value<'c>(field: Field<'c>, test: Option<&'c ValueMatch>) -> Option<Key<'c>> {
    match test {
        Some(ValueMatch::Exact(text)) => Some(Key::Value(field, text)),
        _ => None,
    }
}
