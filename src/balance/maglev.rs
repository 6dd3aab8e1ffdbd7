//! A Maglev table: each endpoint fills slots in an order of its own, and a key goes to the slot of its hash.

use super::ring::Member;
use super::xxh64::xxh64;

/// Envoy refuses a larger table.
const LARGEST: u64 = 5_000_011;

/// A host for each slot.
#[derive(Clone, Debug)]
pub(super) struct Maglev {
    slots: Vec<u32>,
}

/// No host has this index.
const EMPTY: u32 = u32::MAX;

/// One member while the table is filled.
struct Turn {
    host: u32,
    share: f64,
    due: f64,
    slot: u64,
    skip: u64,
}

impl Maglev {
    /// A table with `size` slots, or as many as the next prime.
    ///
    /// Source: Envoy, `MaglevTable::constructImplementationInternals`, after the paper by Eisenbud et al., section 3.4.
    pub(super) fn build(members: &[Member], size: u64) -> Self {
        let size = prime(size);
        let mut turns: Vec<(&Member, Turn)> = members.iter().map(|member| (member, Turn::of(member, size))).collect();
        // The order is by name, so that it does not hang on the order of the endpoints.
        turns.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let most = members.iter().map(|member| member.share).fold(0.0, f64::max);
        let mut slots = vec![EMPTY; if members.is_empty() { 0 } else { size as usize }];
        let (mut filled, mut round) = (0, 0.0);
        while filled < slots.len() {
            round += 1.0;
            for (_, turn) in &mut turns {
                if filled == slots.len() || round * turn.share < turn.due {
                    continue;
                }
                turn.due += most;
                turn.take(&mut slots);
                filled += 1;
            }
        }
        Maglev { slots }
    }

    /// The host for a hash; another attempt gets another slot.
    pub(super) fn host(&self, hash: u64, attempt: usize) -> Option<u32> {
        let hash = if attempt > 0 { hash ^ (u64::MAX - attempt as u64 + 1) } else { hash };
        let slot = hash.checked_rem(self.slots.len() as u64)?;
        self.slots.get(slot as usize).copied()
    }
}

impl Turn {
    fn of(member: &Member, size: u64) -> Self {
        let name = member.name.as_bytes();
        let (slot, skip) = (xxh64(name, 0) % size, xxh64(name, 1) % (size - 1) + 1);
        Turn { host: member.host, share: member.share, due: 0.0, slot, skip }
    }

    /// Takes the next free slot in its order. There is one: the table is not full, and its size is a prime.
    fn take(&mut self, slots: &mut [u32]) {
        let size = slots.len() as u64;
        while slots[self.slot as usize] != EMPTY {
            self.slot = (self.slot + self.skip) % size;
        }
        slots[self.slot as usize] = self.host;
        self.slot = (self.slot + self.skip) % size;
    }
}

/// The next prime, since by any other step than a prime's a member might never come to a free slot.
fn prime(size: u64) -> u64 {
    let is_prime = |n: &u64| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (size.clamp(2, LARGEST)..=LARGEST).find(is_prime).unwrap_or(LARGEST)
}
