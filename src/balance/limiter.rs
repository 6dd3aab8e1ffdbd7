//! The rate limits of a workload in motion.

use std::collections::BTreeMap;
use std::time::Duration;

use super::TokenBucket;
use crate::limit::{LimitId, RateLimit, RateLimits, Spot, Stage};
use crate::roll::{Purpose, Roll};

/// Of which limit, at which port, of a connection that was encrypted or not: each of Envoy's filter chains has buckets of
/// its own.
type Key = (LimitId, u16, bool);

/// A workload's rate limits, and what has been taken of each so far.
///
/// ```
/// use std::time::Duration;
/// use meshroute::balance::RateLimiter;
/// use meshroute::limit::{RateLimits, Spot, Stage};
/// use meshroute::Roll;
/// let mut limiter = RateLimiter::default();
/// limiter.update(RateLimits::default());
/// let refused = limiter.ask(Stage::First, &Spot::new(8080), &Roll::random(), Duration::ZERO);
/// assert!(refused.is_none(), "where there is no limit, everything passes");
/// ```
///
/// Source: Envoy's `local_ratelimit` filter.
#[derive(Clone, Debug, Default)]
pub struct RateLimiter {
    limits: RateLimits,
    buckets: BTreeMap<Key, TokenBucket>,
}

impl RateLimiter {
    /// Other limits from now on. What was taken of those that are the same as before stays taken.
    pub fn update(&mut self, limits: RateLimits) {
        let before = std::mem::take(&mut self.buckets);
        let kept = before.into_iter().filter_map(|((id, port, encrypted), bucket)| {
            let id = limits.find(self.limits.get(id)?)?;
            Some(((id, port, encrypted), bucket))
        });
        self.buckets = kept.collect();
        self.limits = limits;
    }

    /// A request comes to a stage. `Some`: it goes no further, and is answered as this limit says, with the body
    /// `local_rate_limited` and Envoy's flag RL.
    ///
    /// Allocates for the first request at a port.
    pub fn ask(&mut self, stage: Stage, spot: &Spot<'_>, roll: &Roll, now: Duration) -> Option<&RateLimit> {
        let RateLimiter { limits, buckets } = self;
        let mut met = limits.at(stage, spot);
        met.find(|(id, limit)| refuses(buckets, *id, limit, spot, roll, now)).map(|(_, limit)| limit)
    }
}

/// A request that is counted takes a token. Whether one that finds none is refused is another question.
fn refuses(
    buckets: &mut BTreeMap<Key, TokenBucket>,
    id: LimitId,
    limit: &RateLimit,
    spot: &Spot<'_>,
    roll: &Roll,
    now: Duration,
) -> bool {
    let draw = |which: u32| roll.draw(Purpose::Limit(id.number().wrapping_mul(2).wrapping_add(which)));
    if !limit.enabled.holds(draw(0)) {
        return false;
    }
    let tokens = &limit.tokens;
    let full = || TokenBucket::new(tokens.most, tokens.fill, tokens.interval, now);
    let bucket = buckets.entry((id, spot.port, spot.encrypted)).or_insert_with(full);
    !bucket.take(now) && limit.enforced.holds(draw(1))
}
