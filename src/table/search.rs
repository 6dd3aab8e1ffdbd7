//! A request's way through a [`RouteTable`].

use smallvec::SmallVec;

use super::text::Wanted;
use super::{Entry, FEW, Look, Part, RouteTable, Target, Test, Values};
use crate::request::Question;

/// How much may be found and not used up at a time, beside the earliest. Whoever finds more asks every later route in turn.
const FOUND: usize = 15;

/// What was found and is not used up.
#[derive(Default)]
struct Found {
    /// That with the smallest id: mostly all there is.
    earliest: Option<Cursor>,
    others: SmallVec<[Cursor; FOUND]>,
}

/// A list of routes or of parts, as far as it is not used up.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// The smallest id in it.
    next: u32,
    target: Target,
}

impl Found {
    /// Adds a list, unless it is there already: two equal lines of one header find the same. `None`: there is no room for it.
    #[inline]
    fn push(&mut self, cursor: Cursor) -> Option<()> {
        match self.earliest {
            None => self.earliest = Some(cursor),
            Some(earliest) => self.push_beside(earliest, cursor)?,
        }
        Some(())
    }

    fn push_beside(&mut self, earliest: Cursor, cursor: Cursor) -> Option<()> {
        // Each route is filed once, so no two lists begin with the same one.
        if [earliest].iter().chain(&self.others).any(|known| known.next == cursor.next) {
            return Some(());
        }
        if self.others.len() == FOUND {
            return None;
        }
        if cursor.next < earliest.next {
            self.earliest = Some(cursor);
            self.others.push(earliest);
        } else {
            self.others.push(cursor);
        }
        Some(())
    }

    /// Puts what is left of the earliest list in its place.
    #[inline]
    fn replace(&mut self, left: Option<Cursor>) {
        self.earliest = left;
        if !self.others.is_empty() {
            self.choose();
        }
    }

    /// Makes the earliest of all the earliest.
    fn choose(&mut self) {
        let nexts = self.others.iter().map(|cursor| cursor.next).enumerate();
        let Some((at, next)) = nexts.min_by_key(|&(_, next)| next) else { return };
        self.earliest = match self.earliest {
            Some(earliest) if earliest.next < next => Some(earliest),
            Some(later) => Some(std::mem::replace(&mut self.others[at], later)),
            None => Some(self.others.swap_remove(at)),
        };
    }
}

impl RouteTable {
    /// The smallest id that could hold and for which `holds` says that the tests that are left do.
    pub(crate) fn first(&self, question: &Question<'_>, holds: impl Fn(Test) -> bool) -> Option<u32> {
        let mut parts = match self.root {
            Target::Parts(start, end) => &self.parts[start as usize..end as usize],
            Target::One(Entry { id, test }) => return holds(test).then_some(id),
            _ => return self.scan(0, holds),
        };
        let mut found = Found::default();
        loop {
            while let Some((part, later)) = parts.split_first()
                && found.earliest.is_none_or(|earliest| part.first < earliest.next)
            {
                parts = later;
                if self.open(part, question, &mut found).is_none() {
                    return self.scan(part.first, holds);
                }
            }
            let Cursor { next: id, target } = found.earliest?;
            match target {
                Target::One(Entry { test, .. }) => {
                    if holds(test) {
                        return Some(id);
                    }
                    found.replace(None);
                }
                Target::Many(start, end) => {
                    if holds(self.entries[start as usize].test) {
                        return Some(id);
                    }
                    found.replace(self.cursor(Target::Many(start + 1, end)));
                }
                Target::Parts(start, end) => {
                    found.replace(self.cursor(Target::Parts(start + 1, end)));
                    if self.open(&self.parts[start as usize], question, &mut found).is_none() {
                        return self.scan(id, holds);
                    }
                }
                // INVARIANT: a cursor never stands on nothing.
                Target::Nothing => return self.scan(id, holds),
            }
        }
    }

    /// Asks every route in turn, beginning with `from`.
    fn scan(&self, from: u32, holds: impl Fn(Test) -> bool) -> Option<u32> {
        let later = (from..).zip(self.whole.get(from as usize..)?);
        later.into_iter().find(|(_, test)| holds(**test)).map(|(id, _)| id)
    }

    fn cursor(&self, target: Target) -> Option<Cursor> {
        let next = match target {
            Target::One(entry) => entry.id,
            Target::Many(start, end) if start < end => self.entries[start as usize].id,
            Target::Parts(start, end) if start < end => self.parts[start as usize].first,
            _ => return None,
        };
        Some(Cursor { next, target })
    }

    /// Adds what a key leads to. `None`: there is no room for it.
    #[inline]
    fn push(&self, found: &mut Found, target: Target) -> Option<()> {
        match self.cursor(target) {
            Some(cursor) => found.push(cursor),
            None => Some(()),
        }
    }

    /// Looks up what a request has for a part. `None`: there is no room for what was found.
    fn open(&self, part: &Part, question: &Question<'_>, found: &mut Found) -> Option<()> {
        match part.look {
            Look::Always => self.push(found, part.present),
            Look::ExactPath => self.find(part, question.path_only(), found),
            Look::Prefix { len, last } => {
                let Some(start) = question.path_only().get(..len as usize) else { return Some(()) };
                // Most lengths are dismissed here: a prefix tends to end with a slash.
                let ends = start.last().map_or(0, |byte| 1 << (byte & 63));
                if last & ends == 0 { Some(()) } else { self.find(part, start, found) }
            }
            Look::Header(name) => {
                let name = name.of(&*self.names);
                self.lines(part, |test| question.request.headers.any(name, test), found)
            }
            Look::OneValue(name) => {
                let name = name.of(&*self.names);
                self.lines(part, |test| question.any_header(name, test), found)
            }
            Look::Query(name) => {
                let Some(value) = question.query(name.of(&*self.names).as_bytes()) else { return Some(()) };
                self.line(part, if cfg!(meshroute_fault = "query") { value.trim_ascii() } else { value }, found)
            }
            Look::Authority => self.line(part, question.request.authority.as_bytes(), found),
            Look::Method => {
                let method = question.request.method.as_bytes();
                self.line(part, if cfg!(meshroute_fault = "method") { b"GET" } else { method }, found)
            }
        }
    }

    /// Looks up each line that `any` hands out.
    fn lines(
        &self,
        part: &Part,
        any: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> bool,
        found: &mut Found,
    ) -> Option<()> {
        let mut fits = Some(());
        any(&mut |line| {
            fits = self.line(part, line, found);
            // Planted: looks at the first line only.
            fits.is_none() || cfg!(meshroute_fault = "header")
        });
        fits
    }

    /// Looks up a value: what wants one whichever, what wants this one, and what wants one that begins as it does.
    #[inline]
    fn line(&self, part: &Part, text: &[u8], found: &mut Found) -> Option<()> {
        self.push(found, part.present)?;
        self.find(part, text, found)?;
        if part.lengths == 0 { Some(()) } else { self.beginnings(part, text, found) }
    }

    /// Apart from the rest, which most look-ups end with.
    #[inline(never)]
    fn beginnings(&self, part: &Part, text: &[u8], found: &mut Found) -> Option<()> {
        let mut lengths = part.lengths;
        while lengths != 0 {
            let len = lengths.trailing_zeros() as usize + 1;
            let Some(start) = text.get(..len) else { break };
            if let Some(target) = self.value(part.starts, start) {
                self.push(found, target)?;
            }
            // Planted: one length is all that is looked at.
            lengths = if cfg!(meshroute_fault = "start") { 0 } else { lengths & (lengths - 1) };
        }
        Some(())
    }

    fn find(&self, part: &Part, text: &[u8], found: &mut Found) -> Option<()> {
        match self.value(part.values, text) {
            Some(target) => self.push(found, target),
            None => Some(()),
        }
    }

    /// Where a text leads, if it is one of the keys.
    fn value(&self, values: Values, text: &[u8]) -> Option<Target> {
        let keys = &self.keys[values.start as usize..(values.start + values.len) as usize];
        let wanted = Wanted::new(text);
        if keys.len() <= FEW {
            return keys.iter().find(|key| wanted.is(key.text, &self.text)).map(|key| key.target);
        }
        let mask = keys.len() - 1;
        let mut at = wanted.hash() as usize & mask;
        loop {
            let key = &keys[at];
            if matches!(key.target, Target::Nothing) {
                return None;
            }
            if wanted.is(key.text, &self.text) {
                return Some(key.target);
            }
            // INVARIANT: a quarter of the places is free, so the walk ends.
            at = (at + 1) & mask;
        }
    }
}
