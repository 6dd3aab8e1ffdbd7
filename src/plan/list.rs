//! A list whose copies share what they have in common.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Entries of a chunk: a change copies one chunk, a clone counts one reference for each.
const CHUNK: usize = 256;

type Chunk<T> = Arc<Vec<Arc<T>>>;

/// A list of shared entries. A clone is cheap, and a change of one entry leaves the others shared with every clone.
///
/// ```
/// use meshroute::plan::List;
/// let before: List<&str> = ["a", "b", "c"].into_iter().collect();
/// let mut after = before.clone();
/// after.set(1, "B");
/// assert_eq!((*before[1], *after[1]), ("b", "B"));
/// assert!(std::sync::Arc::ptr_eq(&before[2], &after[2]));
/// ```
pub struct List<T> {
    /// INVARIANT: all but the last have [`CHUNK`] entries, and none is empty.
    chunks: Vec<Chunk<T>>,
}

impl<T> List<T> {
    /// An empty list.
    pub const fn new() -> Self {
        List { chunks: Vec::new() }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// An entry by its place, if there is one.
    pub fn get(&self, at: usize) -> Option<&Arc<T>> {
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    /// The first entry, if there is one.
    pub fn first(&self) -> Option<&Arc<T>> {
        self.get(0)
    }

    /// All entries in order.
    pub fn iter(&self) -> Iter<'_, T> {
        self.chunks.iter().flat_map(in_chunk)
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: impl Into<Arc<T>>) {
        match self.chunks.last_mut().filter(|last| last.len() < CHUNK) {
            Some(last) => Arc::make_mut(last).push(entry.into()),
            None => self.chunks.push(Arc::new(vec![entry.into()])),
        }
    }

    /// Puts another entry in a place, if there is such a place.
    pub fn set(&mut self, at: usize, entry: impl Into<Arc<T>>) {
        if let Some(chunk) = self.chunks.get_mut(at / CHUNK)
            && at % CHUNK < chunk.len()
        {
            Arc::make_mut(chunk)[at % CHUNK] = entry.into();
        }
    }

    /// Takes the last entry off.
    pub fn pop(&mut self) -> Option<Arc<T>> {
        let last = self.chunks.last_mut()?;
        let entry = Arc::make_mut(last).pop();
        if last.is_empty() {
            self.chunks.pop();
        }
        entry
    }

    /// The places in which two lists may differ: those whose entries are not shared. Chunks that are shared are passed
    /// over as a whole. Places that only the longer one has are among them.
    pub(crate) fn apart<'l>(&'l self, other: &'l List<T>) -> impl Iterator<Item = usize> + use<'l, T> {
        let chunks = 0..self.chunks.len().max(other.chunks.len());
        let shared = |at: usize| match (self.chunks.get(at), other.chunks.get(at)) {
            (Some(own), Some(theirs)) => Arc::ptr_eq(own, theirs),
            _ => false,
        };
        let end = self.len().max(other.len());
        let places = move |at: usize| at * CHUNK..((at + 1) * CHUNK).min(end);
        chunks.filter(move |&at| !shared(at)).flat_map(places).filter(|&at| match (self.get(at), other.get(at)) {
            (Some(own), Some(theirs)) => !Arc::ptr_eq(own, theirs),
            _ => true,
        })
    }
}

fn in_chunk<T>(chunk: &Chunk<T>) -> std::slice::Iter<'_, Arc<T>> {
    chunk.iter()
}

/// The entries of a [`List`].
pub type Iter<'l, T> = std::iter::FlatMap<
    std::slice::Iter<'l, Chunk<T>>,
    std::slice::Iter<'l, Arc<T>>,
    fn(&'l Chunk<T>) -> std::slice::Iter<'l, Arc<T>>,
>;

impl<'l, T> IntoIterator for &'l List<T> {
    type Item = &'l Arc<T>;
    type IntoIter = Iter<'l, T>;
    fn into_iter(self) -> Iter<'l, T> {
        self.iter()
    }
}

impl<T> Index<usize> for List<T> {
    type Output = Arc<T>;
    fn index(&self, at: usize) -> &Arc<T> {
        &self.chunks[at / CHUNK][at % CHUNK]
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List::new()
    }
}

impl<T> Clone for List<T> {
    fn clone(&self) -> Self {
        List { chunks: self.chunks.clone() }
    }
}

impl<T: PartialEq> PartialEq for List<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.apart(other).all(|at| self.get(at) == other.get(at))
    }
}

impl<T: fmt::Debug> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        entries.into_iter().map(Arc::new).collect()
    }
}

impl<T> FromIterator<Arc<T>> for List<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(entries: I) -> Self {
        let mut list = List::new();
        list.extend(entries);
        list
    }
}

impl<T> Extend<Arc<T>> for List<T> {
    fn extend<I: IntoIterator<Item = Arc<T>>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.push(entry));
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<T>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(end: u32) -> List<u32> {
        (0..end).collect()
    }

    #[test]
    fn a_list_is_what_was_put_into_it() {
        for end in [0, 1, 255, 256, 257, 1000] {
            let list = numbers(end);
            assert_eq!(list.len(), end as usize);
            assert!(list.iter().map(|number| **number).eq(0..end));
            assert_eq!(list.get(end as usize), None);
        }
    }

    #[test]
    fn it_shrinks_as_it_grew() {
        let mut list = numbers(300);
        for left in (0..300).rev() {
            assert_eq!(list.pop().as_deref(), Some(&left));
            assert_eq!(list, numbers(left));
        }
        assert_eq!((list.pop(), list.is_empty()), (None, true));
    }

    #[test]
    fn only_what_was_changed_is_apart() {
        let before = numbers(1000);
        let mut after = before.clone();
        assert_eq!(before.apart(&after).count(), 0);
        after.set(700, 7);
        after.push(1000);
        after.set(5000, 5);
        assert_eq!(before.apart(&after).collect::<Vec<_>>(), [700, 1000]);
        assert_ne!(before, after);
        assert_eq!(*before[700], 700);
    }
}
