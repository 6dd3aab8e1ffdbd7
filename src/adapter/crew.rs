//! Time, and the endpoints of each cluster and how they fare: shared by all requests of one host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::chosen::Chosen;
use crate::balance::{Ask, Balancer, Ended, HostId};
use crate::plan::{Cluster, Endpoint};
use crate::roll::Roll;

/// Time, from whoever has it: the adapter reads no clock of its own.
///
/// A pair of functions will do:
///
/// ```
/// let begin = std::time::Instant::now();
/// let clock = (move || begin.elapsed(), tokio::time::sleep);
/// # fn is_one(_: impl meshroute::adapter::Clock) {}
/// # is_one(clock);
/// ```
pub trait Clock: Clone {
    /// Is ready when some time has passed.
    type Sleep: Future<Output = ()>;
    /// How long ago some moment was that never changes.
    fn now(&self) -> Duration;
    /// Waits so long.
    fn sleep(&self, time: Duration) -> Self::Sleep;
}

impl<N, S, F> Clock for (N, S)
where
    N: Fn() -> Duration + Clone,
    S: Fn(Duration) -> F + Clone,
    F: Future<Output = ()>,
{
    type Sleep = F;

    fn now(&self) -> Duration {
        (self.0)()
    }

    fn sleep(&self, time: Duration) -> F {
        (self.1)(time)
    }
}

/// A clock, and a balancer for each cluster that was ever sent to.
#[derive(Debug)]
pub(crate) struct Crew<K> {
    pub(crate) clock: K,
    balancers: Mutex<HashMap<Arc<str>, Known>>,
}

#[derive(Debug)]
struct Known {
    /// What the balancer was last told.
    cluster: Weak<Cluster>,
    balancer: Balancer,
}

impl<K: Clock> Crew<K> {
    pub(crate) fn new(clock: K) -> Self {
        Crew { clock, balancers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An endpoint for a try, and the lease that counts it as busy. `None`: no endpoint takes requests.
    pub(crate) fn pick(
        self: &Arc<Self>,
        chosen: &Chosen,
        hash: Option<u64>,
        before: &[HostId],
    ) -> Option<(Endpoint, Lease<K>)> {
        let (cluster, now) = (chosen.cluster(), self.clock.now());
        let mut balancers = self.lock();
        if !balancers.contains_key(&cluster.name) {
            // Those of clusters that no plan has any more make room for it.
            balancers.retain(|_, known| known.cluster.strong_count() > 0);
        }
        let known = balancers.entry(Arc::clone(&cluster.name)).or_insert_with(|| Known {
            cluster: Arc::downgrade(cluster),
            balancer: Balancer::new(cluster, "", Roll::random(), now),
        });
        if before.is_empty() && !std::ptr::eq(known.cluster.as_ptr(), Arc::as_ptr(cluster)) {
            known.balancer.update(cluster, now);
            known.cluster = Arc::downgrade(cluster);
        }
        let mut ask = Ask::new(*chosen.roll(), now);
        (ask.hash, ask.before) = (hash, before);
        let picked = known.balancer.pick(&ask)?;
        let (host, endpoint) = (picked.host, picked.endpoint.clone());
        known.balancer.begin(host);
        let lease = Lease { crew: Arc::clone(self), name: Arc::clone(&cluster.name), host, ended: Ended::Abandoned };
        Some((endpoint, lease))
    }

    fn end(&self, name: &str, host: HostId, ended: Ended) {
        let now = self.clock.now();
        if let Some(known) = self.lock().get_mut(name) {
            known.balancer.end(host, ended, now);
        }
    }
}

/// An endpoint is busy as long as this is there.
#[derive(Debug)]
pub(crate) struct Lease<K: Clock> {
    crew: Arc<Crew<K>>,
    name: Arc<str>,
    pub(crate) host: HostId,
    pub(crate) ended: Ended,
}

impl<K: Clock> Drop for Lease<K> {
    fn drop(&mut self) {
        self.crew.end(&self.name, self.host, self.ended);
    }
}
