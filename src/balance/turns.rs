//! Turns by weight: earliest deadline first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Who is next, where weights differ. A pick moves the picked one back by the inverse of its weight.
///
/// Source: Envoy, `EdfScheduler`.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    queue: BinaryHeap<Turn>,
    clock: f64,
    picks: u64,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    deadline: f64,
    order: u64,
    who: u32,
}

/// A weight that is none still has its turn some time.
const LEAST: f64 = 1e-9;

impl Turns {
    /// All of them, in a state as if `picks` of them had been picked.
    pub(super) fn new(who: &[u32], picks: usize, weight: impl Fn(u32) -> f64) -> Self {
        let turn =
            |(order, &who): (usize, &u32)| Turn { deadline: 1.0 / weight(who).max(LEAST), order: order as u64, who };
        let queue = who.iter().enumerate().map(turn).collect();
        let mut turns = Turns { queue, clock: 0.0, picks: who.len() as u64 };
        for _ in 0..picks.checked_rem(who.len()).unwrap_or(0) {
            turns.next(&weight);
        }
        turns
    }

    /// The next one. Its weight is asked for anew.
    pub(super) fn next(&mut self, weight: impl Fn(u32) -> f64) -> Option<u32> {
        let mut first = self.queue.peek_mut()?;
        let who = first.who;
        self.clock = first.deadline;
        self.picks += 1;
        *first = Turn { deadline: self.clock + 1.0 / weight(who).max(LEAST), order: self.picks, who };
        Some(who)
    }
}

impl Ord for Turn {
    /// The earliest is the greatest, which a heap has on top.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}
