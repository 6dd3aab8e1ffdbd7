//! Which virtual host claims a name.

use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use super::hash::hash;
use crate::name::{HostPattern, before_port, host_of};

/// Virtual hosts by domain: exact, then the longest wildcard, then `*`. Copies share all but the domains that were given away
/// since it was built.
#[derive(Clone, Debug)]
pub(crate) struct HostIndex {
    seed: u64,
    exact: Names<Arc<[Slot]>, Arc<[u8]>>,
    suffixes: Names<Arc<[Slot]>, Arc<[u8]>>,
    /// The lengths of the suffixes that occur, longest first.
    lengths: Arc<[usize]>,
    any: Option<u32>,
    /// Whether some domain has a colon, as no host has that an authority names.
    colons: bool,
    /// Exact domains that somebody else has now, and suffixes; [`NOBODY`] for none.
    exact_since: Names<Vec<Slot>, Vec<u8>>,
    suffixes_since: Names<Vec<Slot>, Vec<u8>>,
}

/// In the place of a virtual host: the domain has none any more.
const NOBODY: u32 = u32::MAX;

impl Default for HostIndex {
    fn default() -> Self {
        HostIndex::build([])
    }
}

impl HostIndex {
    /// An index of domains with their virtual hosts. The first one to claim a domain keeps it; one with capitals is never
    /// asked for.
    pub(crate) fn build<'d>(domains: impl IntoIterator<Item = (&'d HostPattern, u32)>) -> Self {
        // Names of many owners meet here: none of them shall be able to choose names that collide.
        let seed = rand::random();
        let (mut exact, mut suffixes) = (Names::default(), Names::default());
        let (mut lengths, mut any, mut colons) = (Vec::new(), None, false);
        for (domain, id) in domains {
            let suffix = domain.suffix().as_bytes();
            if suffix.iter().any(u8::is_ascii_uppercase) {
                continue;
            }
            colons |= suffix.contains(&b':');
            if !domain.is_wildcard() {
                exact.claim(seed, suffix, id);
            } else if suffix.is_empty() {
                any.get_or_insert(id);
            } else {
                suffixes.claim(seed, suffix, id);
                let at = lengths.partition_point(|&length| length > suffix.len());
                if lengths.get(at) != Some(&suffix.len()) {
                    lengths.insert(at, suffix.len());
                }
            }
        }
        let (exact, suffixes) = (exact.freeze(), suffixes.freeze());
        let (exact_since, suffixes_since) = (Names::default(), Names::default());
        HostIndex { seed, exact, suffixes, lengths: lengths.into(), any, colons, exact_since, suffixes_since }
    }

    /// Gives a domain to another virtual host, or to none.
    pub(crate) fn give(&mut self, domain: &HostPattern, id: Option<u32>) {
        let suffix = domain.suffix().as_bytes();
        self.colons |= suffix.contains(&b':');
        if !domain.is_wildcard() {
            self.exact_since.set(self.seed, suffix, id.unwrap_or(NOBODY));
        } else if suffix.is_empty() {
            self.any = id;
        } else {
            self.suffixes_since.set(self.seed, suffix, id.unwrap_or(NOBODY));
            if !self.lengths.contains(&suffix.len()) {
                let mut lengths: Vec<usize> = self.lengths.iter().copied().chain([suffix.len()]).collect();
                lengths.sort_unstable_by(|a, b| b.cmp(a));
                self.lengths = lengths.into();
            }
        }
    }

    /// The virtual host that has this very domain.
    pub(crate) fn owner(&self, domain: &HostPattern) -> Option<u32> {
        let suffix = domain.suffix().as_bytes();
        match (domain.is_wildcard(), suffix.is_empty()) {
            (false, _) => self.named(suffix),
            (true, true) => self.any,
            (true, false) => self.ending(suffix),
        }
    }

    /// Whether so many domains were given away that it were better built again.
    pub(crate) fn is_patched(&self) -> bool {
        self.exact_since.len + self.suffixes_since.len > 64 + self.exact.len / 16
    }

    #[inline]
    fn named(&self, host: &[u8]) -> Option<u32> {
        let hash = hash(self.seed, host);
        let given = self.exact_since.find(hash, host);
        given.or_else(|| self.exact.find(hash, host)).filter(|&id| id != NOBODY)
    }

    fn ending(&self, suffix: &[u8]) -> Option<u32> {
        let hash = hash(self.seed, suffix);
        let given = self.suffixes_since.find(hash, suffix);
        given.or_else(|| self.suffixes.find(hash, suffix)).filter(|&id| id != NOBODY)
    }

    /// The virtual host that claims an authority, whose port does not count. Allocates for a host of more than 64 bytes with
    /// capitals in it.
    pub(crate) fn find(&self, authority: &str) -> Option<u32> {
        // All names here are in lower case, so that one which is found as it was sent needs no look at its letters; nor at
        // its colons, where no name has any.
        let host = match before_port(authority) {
            Some(host) => host,
            None => match self.named(authority.as_bytes()) {
                found @ Some(_) if !self.colons => return found,
                _ => host_of(authority),
            },
        };
        self.named(host.as_bytes()).or_else(|| self.find_otherwise(host.as_bytes()))
    }

    /// The one that claims a name which stands alone, and is not empty. Allocates as [`HostIndex::find`].
    pub(crate) fn find_name(&self, name: &str) -> Option<u32> {
        self.named(name.as_bytes()).or_else(|| self.find_otherwise(name.as_bytes()))
    }

    fn find_otherwise(&self, host: &[u8]) -> Option<u32> {
        if !host.iter().fold(false, |capitals, byte| capitals | byte.is_ascii_uppercase()) {
            return self.wildcard(host).or(self.any);
        }
        let mut lower: SmallVec<[u8; 64]> = SmallVec::from_slice(host);
        lower.make_ascii_lowercase();
        self.named(&lower).or_else(|| self.wildcard(&lower)).or(self.any)
    }

    fn wildcard(&self, host: &[u8]) -> Option<u32> {
        let fault = usize::from(cfg!(meshroute_fault = "host"));
        // `*` stands for at least one byte (Envoy).
        let shorter = self.lengths.iter().skip(fault).filter(|&&length| length < host.len());
        shorter.map(|&length| &host[host.len() - length..]).find_map(|suffix| self.ending(suffix))
    }
}

/// A hash table of names in one piece: two places in memory are looked at, the slot and the text.
#[derive(Clone, Debug, Default)]
struct Names<Slots, Text> {
    /// A power of two of them, never more than half full; or none.
    slots: Slots,
    text: Text,
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Bits of the hash.
    tag: u32,
    /// The length of the name; 0 for a free slot: no name is empty.
    len: u32,
    start: u32,
    id: u32,
}

impl<Slots: Deref<Target = [Slot]>, Text: Deref<Target = [u8]>> Names<Slots, Text> {
    #[inline]
    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.slot(hash, name).map(|(_, slot)| slot.id)
    }

    /// A name's slot, and where that stands.
    #[inline]
    fn slot(&self, hash: u64, name: &[u8]) -> Option<(usize, Slot)> {
        let (slots, text) = (&*self.slots, &*self.text);
        let mask = slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let slot = slots[at];
            if slot.len == 0 {
                return None;
            }
            let is_like = (slot.tag, slot.len as usize) == ((hash >> 32) as u32, name.len());
            if is_like && slot.text(text) == name {
                return Some((at, slot));
            }
            // INVARIANT: at least half of the slots are free, so the walk ends.
            at = (at + 1) & mask;
        }
    }
}

impl Names<Vec<Slot>, Vec<u8>> {
    /// Takes a name, if nobody has it.
    fn claim(&mut self, seed: u64, name: &[u8], id: u32) {
        if self.find(hash(seed, name), name).is_none() {
            self.set(seed, name, id);
        }
    }

    /// Takes a name, whoever has it.
    fn set(&mut self, seed: u64, name: &[u8], id: u32) {
        let hash = hash(seed, name);
        if let Some((at, _)) = self.slot(hash, name) {
            self.slots[at].id = id;
            return;
        }
        if name.is_empty() {
            return;
        }
        if self.len * 2 >= self.slots.len() {
            self.grow(seed);
        }
        let slot = Slot { tag: (hash >> 32) as u32, len: name.len() as u32, start: self.text.len() as u32, id };
        self.text.extend_from_slice(name);
        self.put(hash, slot);
        self.len += 1;
    }

    fn grow(&mut self, seed: u64) {
        let slots = (self.slots.len() * 2).max(4);
        let before = std::mem::replace(&mut self.slots, vec![Slot::default(); slots]);
        for slot in before.into_iter().filter(|slot| slot.len != 0) {
            self.put(hash(seed, slot.text(&self.text)), slot);
        }
    }

    fn put(&mut self, hash: u64, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].len != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    fn freeze(self) -> Names<Arc<[Slot]>, Arc<[u8]>> {
        Names { slots: self.slots.into(), text: self.text.into(), len: self.len }
    }
}

impl Slot {
    fn text<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start as usize..][..self.len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    fn index(domains: &[&str]) -> HostIndex {
        let parsed: Vec<HostPattern> = domains.iter().map(|text| domain(text)).collect();
        HostIndex::build(parsed.iter().zip(0..))
    }

    #[test]
    fn what_is_given_away_is_found_where_it_is_now() {
        let before = index(&["a", "b", "*.c", "*"]);
        let mut after = before.clone();
        after.give(&domain("a"), Some(7));
        after.give(&domain("b"), None);
        after.give(&domain("new"), Some(8));
        after.give(&domain("new"), Some(9));
        let found = |index: &HostIndex| ["a", "A", "b", "x.c", "new"].map(|host| index.find(host));
        assert_eq!(found(&before), [Some(0), Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(found(&after), [Some(7), Some(7), Some(3), Some(2), Some(9)]);
        assert_eq!((after.owner(&domain("b")), before.owner(&domain("b"))), (None, Some(1)));
    }

    #[test]
    fn a_port_does_not_count() {
        let index = index(&["reviews.prod", "a", "::1", "b:80", "[::1]"]);
        let found = |authority: &str| index.find(authority);
        assert_eq!(["reviews.prod", "reviews.prod:80", "a", "a:9080"].map(found), [Some(0), Some(0), Some(1), Some(1)]);
        // What stands behind the last colon is the port.
        assert_eq!(["::1", "::1:80", "b:80", "b:80:1"].map(found), [None, Some(2), None, Some(3)]);
        assert_eq!(["[::1]", "[::1]:80"].map(found), [Some(4), Some(4)]);
    }

    #[test]
    fn wildcards_are_given_away_too() {
        let mut index = index(&["*.c", "*.b.c", "*"]);
        index.give(&domain("*.b.c"), None);
        assert_eq!(index.find("a.b.c"), Some(0));
        index.give(&domain("*.a.b.c"), Some(5));
        index.give(&domain("*"), None);
        assert_eq!((index.find("x.a.b.c"), index.find("nobody")), (Some(5), None));
        assert_eq!((index.owner(&domain("*.a.b.c")), index.owner(&domain("*"))), (Some(5), None));
    }

    #[test]
    fn many_gifts_ask_for_a_new_index() {
        let mut index = index(&["a"]);
        assert!(!index.is_patched());
        (0..100).for_each(|n| index.give(&domain(&format!("h{n}")), Some(n)));
        assert!(index.is_patched());
        assert!((0..100).all(|n| index.owner(&domain(&format!("h{n}"))) == Some(n)));
    }
}
