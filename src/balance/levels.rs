//! How much of the traffic each priority takes, and which of them panic.

/// The endpoints of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) all: u32,
    pub(super) healthy: u32,
}

/// What becomes of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Percent of the traffic.
    pub(super) load: u32,
    /// Too few are healthy: all are used, healthy or not.
    pub(super) panic: bool,
}

/// Envoy's overprovisioning factor, in percent: a priority is as good as whole while 1 in 1.4 of its endpoints is.
pub(super) const OVERPROVISIONING: u32 = 140;

/// Spreads the traffic over the priorities, from the first on. Below `threshold` percent of healthy ones a priority
/// panics, unless the others make up for it.
///
/// Source: Envoy, `LoadBalancerBase::recalculatePerPriorityState` and `recalculatePerPriorityPanic`.
pub(super) fn shares(counts: &[Count], threshold: u32) -> Vec<Share> {
    let health: Vec<u32> = counts.iter().map(|count| count.health()).collect();
    let available = health.iter().fold(0u32, |sum, health| sum.saturating_add(*health)).min(100);
    let mut shares: Vec<Share> = by_health(&health, available);
    if available == 0 && threshold == 0 {
        // Nobody is there for it, and nobody shall panic: the first priority has it all, and nobody to give it to.
        if let Some(first) = shares.first_mut() {
            first.load = 100;
        }
        return shares;
    }
    for (share, count) in shares.iter_mut().zip(counts) {
        share.panic = available < 100 && count.is_below(threshold);
    }
    if shares.iter().all(|share| share.panic) {
        by_number(counts, &mut shares);
    }
    shares
}

impl Count {
    fn health(self) -> u32 {
        let scaled = u64::from(OVERPROVISIONING) * u64::from(self.healthy);
        scaled.checked_div(u64::from(self.all)).unwrap_or(0).min(100) as u32
    }

    fn is_below(self, threshold: u32) -> bool {
        u64::from(self.healthy) * 100 < u64::from(threshold) * u64::from(self.all) || (self.all == 0 && threshold > 0)
    }
}

fn by_health(health: &[u32], available: u32) -> Vec<Share> {
    let mut left = 100;
    let mut shares: Vec<Share> = health
        .iter()
        .map(|health| {
            let load = (health * 100).checked_div(available).unwrap_or(0).min(left);
            left -= load;
            Share { load, panic: false }
        })
        .collect();
    // What rounding left over goes to the first that has anything.
    if let Some(at) = health.iter().position(|health| *health > 0) {
        shares[at].load += left;
    }
    shares
}

/// When all panic, each takes its part of all endpoints, whatever their health.
fn by_number(counts: &[Count], shares: &mut [Share]) {
    let total: u64 = counts.iter().map(|count| u64::from(count.all)).sum();
    let mut left = 100;
    for (share, count) in shares.iter_mut().zip(counts) {
        share.load = (100 * u64::from(count.all)).checked_div(total).unwrap_or(0) as u32;
        left -= share.load;
    }
    let first = counts.iter().position(|count| count.all > 0).unwrap_or(0);
    if let Some(share) = shares.get_mut(first) {
        share.load += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(counts: &[(u32, u32)], threshold: u32) -> Vec<(u32, bool)> {
        let counts: Vec<Count> = counts.iter().map(|&(all, healthy)| Count { all, healthy }).collect();
        shares(&counts, threshold).iter().map(|share| (share.load, share.panic)).collect()
    }

    /// The tables of Envoy's page on priority levels and on the panic threshold.
    #[test]
    fn the_tables_of_envoys_documentation() {
        let of_hundred = |first: u32| loads(&[(100, first), (100, 100)], 50)[0].0;
        assert_eq!([100, 72, 71, 50, 25, 0].map(of_hundred), [100, 100, 99, 70, 35, 0]);
        assert_eq!(loads(&[(100, 72), (100, 72)], 50), [(100, false), (0, false)]);
        assert_eq!(loads(&[(100, 50), (100, 60)], 50), [(70, false), (30, false)]);
        assert_eq!(loads(&[(100, 25), (100, 25)], 50), [(50, true), (50, true)]);
        assert_eq!(loads(&[(100, 25), (100, 25), (100, 25)], 50)[0], (35, false));
        assert_eq!(loads(&[(3, 1)], 50), [(100, true)]);
        assert_eq!(loads(&[(2, 1)], 50), [(100, false)]);
        assert_eq!(loads(&[(2, 0)], 0), [(100, false)]);
        assert_eq!(loads(&[(2, 0)], 50), [(100, true)]);
        assert_eq!(loads(&[], 50), []);
    }
}
