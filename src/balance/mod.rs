//! Which endpoint of a cluster takes a request, and what may be asked of it: a DestinationRule's policy in motion.
//!
//! Pure state machines. Each knows what happened because it was told: time is a [`Duration`](std::time::Duration)
//! since an epoch of the caller's own, chance is a [`Roll`]. They open no socket, start no task and keep
//! no timer; what is due by a certain time is caught up with when they are next asked. None is shared between threads
//! by itself: a proxy keeps one of each for every cluster, behind a lock of its own, and keeps them when the
//! configuration changes ([`Balancer::update`]).
//!
//! Knows clusters and their policies. Knows nothing of routes, and of requests only what they are hashed by.
//!
//! - [`Balancer`]: round robin, least request, random, ring hash and Maglev; weights, localities with failover, slow
//!   start; outlier detection with ejection and the panic threshold.
//! - [`Breaker`]: limits on connections, waiting requests, requests and retries.
//! - [`Tries`]: whether another try is made, and after how long a pause.
//! - [`TokenBucket`]: a rate limit; [`RateLimiter`]: all those of a workload.
//! - [`key`]: what makes requests stick to an endpoint.
//!
//! ```
//! use std::time::Duration;
//! use meshroute::balance::{Ask, Balancer, Ended};
//! use meshroute::plan::{Cluster, Endpoint};
//! use meshroute::Roll;
//!
//! let mut cluster = Cluster::missing("shop.default.svc.cluster.local", "", 80);
//! cluster.endpoints = [Endpoint::new("10.0.0.1", 80, "a"), Endpoint::new("10.0.0.2", 80, "b")].into();
//!
//! let started = Duration::ZERO;
//! let mut balancer = Balancer::new(&cluster, "", Roll::seeded(1), started);
//! let chosen = balancer.pick(&Ask::new(Roll::random(), started)).unwrap();
//! assert!(chosen.endpoint.address.starts_with("10.0.0."));
//! let host = chosen.host;
//! balancer.begin(host);
//! // The request is sent to `chosen.endpoint`, and comes back.
//! balancer.end(host, Ended::Answered(200), started + Duration::from_millis(7));
//! ```
//!
//! Source: Envoy's load balancing, outlier detection, circuit breaking and retry pages, and where they are silent what
//! an Envoy 1.40 was seen to do.

mod balancer;
mod breaker;
mod bucket;
pub mod key;
mod levels;
mod limiter;
mod locality;
mod maglev;
mod outlier;
mod pool;
mod retry;
mod ring;
mod turns;
mod warmup;
mod xxh64;

pub use balancer::{Ask, Balancer, Chosen, HostId};
pub use breaker::{Breaker, Limits, Overflow, RetryLimit};
pub use bucket::TokenBucket;
pub use limiter::RateLimiter;
#[cfg(feature = "xds")]
pub(crate) use locality::{Place, places};
pub use outlier::Ended;
pub use retry::{Failure, Tried, Tries, Verdict};
pub use xxh64::xxh64;

use crate::roll::{Purpose, Roll};

/// As many draws as one likes from the dice of one request.
struct Dice(u64);

impl Dice {
    /// The dice of one try. Another try of the same request gets others.
    fn new(roll: &Roll, tried: usize) -> Self {
        Dice(roll.draw(Purpose::Endpoint).wrapping_add((tried as u64) << 32))
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        Roll::seeded(self.0).draw(Purpose::Endpoint)
    }

    /// A number below `end`; 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        self.draw().checked_rem(end as u64).unwrap_or(0) as usize
    }
}

#[cfg(test)]
mod tests;
