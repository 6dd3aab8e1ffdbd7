//! Some endpoints that are equal but for their weights, and whose turn it is among them.

use super::Dice;
use super::turns::Turns;
use crate::plan::LoadBalancer;

/// The endpoints to choose from.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    hosts: Vec<u32>,
    turns: Option<Turns>,
    next: usize,
}

/// What a choice hangs on: the weight of a host at this moment, and how many requests it has.
pub(super) struct Scales<W, A> {
    pub(super) weight: W,
    pub(super) active: A,
}

impl Pool {
    /// `uneven`: the weights differ, or will. `start`: where turns begin.
    pub(super) fn new(hosts: Vec<u32>, uneven: bool, start: usize, weight: impl Fn(u32) -> f64) -> Self {
        let turns = (uneven && hosts.len() > 1).then(|| Turns::new(&hosts, start, weight));
        Pool { turns, next: start, hosts }
    }

    /// Source: Envoy's `RoundRobinLoadBalancer`, `LeastRequestLoadBalancer` and `RandomLoadBalancer`. The last does not
    /// look at weights.
    pub(super) fn pick<W, A>(&mut self, method: &LoadBalancer, dice: &mut Dice, scales: &Scales<W, A>) -> Option<u32>
    where
        W: Fn(u32) -> f64,
        A: Fn(u32) -> u32,
    {
        match method {
            LoadBalancer::Random => self.hosts.get(dice.below(self.hosts.len())).copied(),
            _ if self.turns.is_some() => self.turns.as_mut()?.next(&scales.weight),
            LoadBalancer::RoundRobin => self.in_turn(),
            _ => self.less_busy(dice, &scales.active),
        }
    }

    fn in_turn(&mut self) -> Option<u32> {
        let at = self.next.checked_rem(self.hosts.len())?;
        self.next = self.next.wrapping_add(1);
        self.hosts.get(at).copied()
    }

    /// The one with fewer requests of two drawn at random.
    fn less_busy(&self, dice: &mut Dice, active: &impl Fn(u32) -> u32) -> Option<u32> {
        let first = *self.hosts.get(dice.below(self.hosts.len()))?;
        let second = *self.hosts.get(dice.below(self.hosts.len()))?;
        Some(if active(second) < active(first) { second } else { first })
    }
}
