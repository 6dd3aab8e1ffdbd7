//! Files the routes of a table.

use std::cmp::Reverse;

use super::hash::FastMap;
use super::key::{Field, Filed, Filing, filings};
use super::text::Packed;
use super::{Entry, FEW, Key, Look, Part, RouteTable, Span, Target, Test, Values};
use crate::plan::{Condition, Miss, Rest};
use crate::request::is_plain_header;

/// Up to so many routes under one key are tried one after the other.
const SHORT: usize = 2;
/// How often routes are filed among themselves.
const DEPTH: usize = 4;

impl RouteTable {
    /// Files conditions by their position.
    pub(crate) fn build<'c>(conditions: impl Iterator<Item = &'c Condition>) -> Self {
        let routes = conditions.map(|condition| Unfiled {
            condition,
            rest: condition.all_parts(),
            left: filings(condition).collect(),
        });
        let mut builder = Builder { routes: routes.collect(), ..Builder::default() };
        let whole = (0u32..).zip(&builder.routes).map(|(of, route)| Test { of, rest: route.rest }).collect();
        let all: Vec<u32> = (0..).take(builder.routes.len()).collect();
        let root = builder.file(all, 0);
        RouteTable {
            root,
            parts: builder.parts.into(),
            keys: builder.keys.into(),
            entries: builder.entries.into(),
            text: builder.text.into(),
            names: builder.names.into(),
            whole,
        }
    }
}

/// A route that is on its way to its place.
struct Unfiled<'c> {
    condition: &'c Condition,
    /// What the way so far has not proven.
    rest: Rest,
    /// What it may still be filed under.
    left: Vec<Filed<'c>>,
}

/// The keys of a part, with where they lead.
#[derive(Default)]
struct Keyed<'c> {
    values: Vec<(&'c [u8], Target)>,
    starts: Vec<(&'c [u8], Target)>,
}

#[derive(Default)]
struct Builder<'c> {
    routes: Vec<Unfiled<'c>>,
    parts: Vec<Part>,
    keys: Vec<Key>,
    entries: Vec<Entry>,
    text: Vec<u8>,
    names: String,
    /// Names that were written already.
    known: FastMap<&'c str, Span>,
    /// Who was the first to be left with some tests.
    tests: FastMap<Vec<Miss<'c>>, Test>,
}

impl<'c> Builder<'c> {
    /// Files routes (in ascending order) among themselves.
    fn file(&mut self, ids: Vec<u32>, depth: usize) -> Target {
        let done = depth == DEPTH || (depth > 0 && ids.len() <= SHORT);
        if done || ids.iter().all(|&id| self.routes[id as usize].left.is_empty()) {
            return self.list(&ids);
        }
        let drawers = self.sort(&ids);
        let mut parts: Vec<Part> = Vec::new();
        let mut keys: Vec<Keyed<'c>> = Vec::new();
        let mut places: FastMap<Place<'c>, usize> = FastMap::default();
        for (filing, ids) in drawers {
            let place = place(filing);
            let first = ids[0];
            let target = if filing.is_some() { self.file(ids, depth + 1) } else { self.list(&ids) };
            let at = *places.entry(place).or_insert(parts.len());
            if at == parts.len() {
                parts.push(Part { first, look: self.look(place), ..Part::default() });
                keys.push(Keyed::default());
            }
            let part = &mut parts[at];
            // Planted: a part is due with its last route.
            part.first = if cfg!(meshroute_fault = "order") { part.first.max(first) } else { part.first.min(first) };
            let Keyed { values, starts } = &mut keys[at];
            match filing {
                Some(Filing::ExactPath(text) | Filing::Value(_, text)) => values.push((text, target)),
                Some(Filing::Prefix(text)) => {
                    part.look.note(text);
                    values.push((text, target));
                }
                Some(Filing::Start(_, text)) => {
                    part.lengths |= 1 << (text.len() - 1);
                    starts.push((text, target));
                }
                Some(Filing::Present(_)) | None => part.present = target,
            }
        }
        for (part, Keyed { values, starts }) in parts.iter_mut().zip(keys) {
            part.values = self.values(&values);
            part.starts = self.values(&starts);
        }
        if cfg!(meshroute_fault = "path") {
            forget_longest(&mut parts);
        }
        parts.sort_unstable_by_key(|part| part.first);
        let start = self.parts.len() as u32;
        self.parts.append(&mut parts);
        Target::Parts(start, self.parts.len() as u32)
    }

    /// Chooses a filing for each route: the one that the fewest others share; among equally rare ones that which stands in
    /// the larger part, since each part takes a look-up; among those of about one size the first, which is the cheapest.
    fn sort(&mut self, ids: &[u32]) -> Vec<(Option<Filing<'c>>, Vec<u32>)> {
        let mut shared: FastMap<Filing<'c>, u32> = FastMap::default();
        let mut sizes: FastMap<Place<'c>, u32> = FastMap::default();
        for filed in ids.iter().flat_map(|&id| &self.routes[id as usize].left) {
            *shared.entry(filed.filing).or_default() += 1;
            *sizes.entry(place(Some(filed.filing))).or_default() += 1;
        }
        let rank = |filed: &Filed<'c>| {
            let size = sizes.get(&place(Some(filed.filing))).and_then(|size| size.checked_ilog2());
            (shared.get(&filed.filing), Reverse(size))
        };
        let mut drawers: Vec<(Option<Filing<'c>>, Vec<u32>)> = Vec::new();
        let mut places: FastMap<Option<Filing<'c>>, usize> = FastMap::default();
        for &id in ids {
            let route = &mut self.routes[id as usize];
            let rarest = route.left.iter().enumerate().min_by_key(|(_, filed)| rank(filed));
            let filing = rarest.map(|(at, _)| at).map(|at| route.left.remove(at));
            // Planted: whatever a route is filed under counts as proven.
            if let Some(filed) = filing.filter(|filed| filed.proves || cfg!(meshroute_fault = "proof")) {
                route.rest = route.rest.without(filed.part);
            }
            let filing = filing.map(|filed| filed.filing);
            let at = *places.entry(filing).or_insert(drawers.len());
            match drawers.get_mut(at) {
                Some((_, drawer)) => drawer.push(id),
                None => drawers.push((filing, vec![id])),
            }
        }
        drawers
    }

    fn list(&mut self, ids: &[u32]) -> Target {
        match ids {
            [] => Target::Nothing,
            [only] => Target::One(self.entry(*only)),
            _ => {
                let start = self.entries.len() as u32;
                for &id in ids {
                    let entry = self.entry(id);
                    self.entries.push(entry);
                }
                Target::Many(start, self.entries.len() as u32)
            }
        }
    }

    fn entry(&mut self, id: u32) -> Entry {
        let Unfiled { condition, rest, .. } = &self.routes[id as usize];
        let test = Test { of: id, rest: *rest };
        let test = match condition.parts(*rest) {
            Some(parts) => *self.tests.entry(parts).or_insert(test),
            None => test,
        };
        Entry { id, test }
    }

    fn look(&mut self, place: Place<'c>) -> Look {
        match place {
            Place::Always => Look::Always,
            Place::ExactPath => Look::ExactPath,
            Place::Prefix(len) => Look::Prefix { len: len as u32, last: 0 },
            Place::Field(Field::Header(name)) if is_plain_header(name) => Look::Header(self.name(name)),
            Place::Field(Field::Header(name)) => Look::OneValue(self.name(name)),
            Place::Field(Field::Query(name)) => Look::Query(self.name(name)),
            Place::Field(Field::Authority) => Look::Authority,
            Place::Field(Field::Method) => Look::Method,
        }
    }

    fn name(&mut self, name: &'c str) -> Span {
        let names = &mut self.names;
        *self.known.entry(name).or_insert_with(|| {
            let span = Span { start: names.len() as u32, len: name.len() as u32 };
            names.push_str(name);
            span
        })
    }

    fn values(&mut self, keys: &[(&'c [u8], Target)]) -> Values {
        let start = self.keys.len();
        let len = if keys.len() > FEW { (keys.len() * 4 / 3 + 1).next_power_of_two() } else { keys.len() };
        self.keys.resize(start + len, Key::default());
        for (n, &(text, target)) in keys.iter().enumerate() {
            let text_kept = Packed::new(text, &mut self.text);
            let places = &mut self.keys[start..];
            let mut at = if len > FEW { text_kept.hash() as usize & (len - 1) } else { n };
            while !matches!(places[at].target, Target::Nothing) {
                at = (at + 1) & (len - 1);
            }
            places[at] = Key { text: text_kept, target };
        }
        Values { start: start as u32, len: len as u32 }
    }
}

/// What tells one part from another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place<'c> {
    Always,
    ExactPath,
    Prefix(usize),
    Field(Field<'c>),
}

/// The part that a filing belongs to.
fn place(filing: Option<Filing<'_>>) -> Place<'_> {
    match filing {
        None => Place::Always,
        Some(Filing::ExactPath(_)) => Place::ExactPath,
        Some(Filing::Prefix(path)) => Place::Prefix(path.len()),
        Some(Filing::Value(field, _) | Filing::Start(field, _) | Filing::Present(field)) => Place::Field(field),
    }
}

impl Look {
    /// Takes note of a prefix that is looked for.
    fn note(&mut self, prefix: &[u8]) {
        if let (Look::Prefix { last, .. }, Some(byte)) = (self, prefix.last()) {
            *last |= 1 << (byte & 63);
        }
    }
}

/// Planted: the longest prefixes are not looked for.
fn forget_longest(parts: &mut Vec<Part>) {
    let length = |part: &Part| match part.look {
        Look::Prefix { len, .. } => len,
        _ => 0,
    };
    let longest = parts.iter().map(length).max().unwrap_or(0);
    parts.retain(|part| longest == 0 || length(part) != longest);
}
