//! Which virtual host claims a name.

use smallvec::SmallVec;

use super::hash::hash;
use crate::name::HostPattern;

/// Virtual hosts by domain: exact, then the longest wildcard, then `*`.
#[derive(Debug)]
pub(crate) struct HostIndex {
    seed: u64,
    exact: Names,
    suffixes: Names,
    /// The lengths of the suffixes that occur, longest first.
    lengths: Vec<usize>,
    any: Option<u32>,
}

impl Default for HostIndex {
    fn default() -> Self {
        let (exact, suffixes) = (Names::default(), Names::default());
        // Names of many owners meet here: none of them shall be able to choose names that collide.
        HostIndex { seed: rand::random(), exact, suffixes, lengths: Vec::new(), any: None }
    }
}

impl HostIndex {
    /// Gives a domain to a virtual host. The first one to claim a domain keeps it; one with capitals is never asked for.
    pub(crate) fn insert(&mut self, domain: &HostPattern, id: u32) {
        let suffix = domain.suffix().as_bytes();
        if suffix.iter().any(u8::is_ascii_uppercase) {
            return;
        }
        if !domain.is_wildcard() {
            self.exact.insert(self.seed, suffix, id);
        } else if suffix.is_empty() {
            self.any.get_or_insert(id);
        } else {
            self.suffixes.insert(self.seed, suffix, id);
            let at = self.lengths.partition_point(|&length| length > suffix.len());
            if self.lengths.get(at) != Some(&suffix.len()) {
                self.lengths.insert(at, suffix.len());
            }
        }
    }

    /// The virtual host that claims this very name.
    pub(crate) fn exact(&self, host: &str) -> Option<u32> {
        self.exact.find(self.seed, host.as_bytes())
    }

    /// The virtual host that claims a name (without port). Allocates for one of more than 64 bytes with capitals in it.
    pub(crate) fn find(&self, host: &[u8]) -> Option<u32> {
        // All names here are in lower case, so that one which is found as it was sent needs no look at its letters.
        self.exact.find(self.seed, host).or_else(|| self.find_otherwise(host))
    }

    fn find_otherwise(&self, host: &[u8]) -> Option<u32> {
        if !host.iter().fold(false, |capitals, byte| capitals | byte.is_ascii_uppercase()) {
            return self.wildcard(host).or(self.any);
        }
        let mut lower: SmallVec<[u8; 64]> = SmallVec::from_slice(host);
        lower.make_ascii_lowercase();
        self.exact.find(self.seed, &lower).or_else(|| self.wildcard(&lower)).or(self.any)
    }

    fn wildcard(&self, host: &[u8]) -> Option<u32> {
        let fault = usize::from(cfg!(meshroute_fault = "host"));
        // `*` stands for at least one byte (Envoy).
        let shorter = self.lengths.iter().skip(fault).filter(|&&length| length < host.len());
        shorter.filter_map(|&length| self.suffixes.find(self.seed, &host[host.len() - length..])).next()
    }
}

/// A hash table of names in one piece: two places in memory are looked at, the slot and the text.
#[derive(Debug, Default)]
struct Names {
    /// A power of two of them, never more than half full; or none.
    slots: Vec<Slot>,
    text: Vec<u8>,
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

impl Names {
    fn insert(&mut self, seed: u64, name: &[u8], id: u32) {
        if name.is_empty() || self.find(seed, name).is_some() {
            return;
        }
        if self.len * 2 >= self.slots.len() {
            self.grow(seed);
        }
        let hash = hash(seed, name);
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

    fn find(&self, seed: u64, name: &[u8]) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let hash = hash(seed, name);
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.len == 0 {
                return None;
            }
            if slot.tag == (hash >> 32) as u32 && slot.text(&self.text) == name {
                return Some(slot.id);
            }
            // INVARIANT: at least half of the slots are free, so the walk ends.
            at = (at + 1) & mask;
        }
    }
}

impl Slot {
    fn text<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start as usize..(self.start + self.len) as usize]
    }
}
