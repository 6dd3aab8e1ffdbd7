//! What a request that goes on takes with it.

use std::sync::Arc;
use std::time::Duration;

use super::http::Taken;
use crate::decision::{Decision, Forwarded, Outcome};
use crate::plan::{Cluster, Endpoint, Forward, LoadBalancer, Plan, Retry, Route};
use crate::roll::Roll;

/// Where a request goes and how: an extension of every request that goes on to a cluster. Cheap to clone.
///
/// A request without it goes to the address that was dialled: nobody claims it.
#[derive(Clone, Debug)]
pub struct Chosen {
    cluster: Arc<Cluster>,
    endpoint: Option<usize>,
    taken: Option<Taken>,
    mirrors: Vec<Arc<Cluster>>,
    delay: Option<Duration>,
    roll: Roll,
}

impl Chosen {
    pub(crate) fn of(plan: &Plan, decision: &Decision<'_>, roll: &Roll) -> Option<Self> {
        let (Outcome::Forward(to) | Outcome::Connect(to)) = &decision.outcome else { return None };
        let cluster = |at: u32| plan.clusters.get(at as usize).map(Arc::clone);
        Some(Chosen {
            cluster: cluster(to.destination().cluster)?,
            endpoint: endpoint(to, roll),
            taken: Taken::of(decision),
            mirrors: decision.mirrors(roll).filter_map(|mirror| cluster(mirror.cluster)).collect(),
            delay: decision.delay,
            roll: *roll,
        })
    }

    /// The cluster: its host, subset, port, endpoints and policy.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Whether it goes to the address that was dialled, as its service has no endpoints of its own (`resolution: NONE`).
    pub fn goes_where_dialled(&self) -> bool {
        self.cluster.endpoints.is_empty() && self.cluster.policy.load_balancer == LoadBalancer::Passthrough
    }

    /// One of the cluster's endpoints, by weight and the request's dice ([`Forwarded::endpoint`]). Whoever balances
    /// load in another way passes it over.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.cluster.endpoints.get(self.endpoint?)
    }

    /// The route that took the request; `None` for a listener that does not look into what it passes on.
    pub fn route(&self) -> Option<&Route> {
        self.taken.as_ref()?.route()
    }

    /// All that the route says of forwarding.
    pub fn forward(&self) -> Option<&Forward> {
        self.taken.as_ref()?.forward()
    }

    /// The time for the whole exchange; `None`: no limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.forward()?.timeout
    }

    /// When and how often another try is made; `None`: never.
    pub fn retry(&self) -> Option<&Retry> {
        self.forward()?.retry.as_ref()
    }

    /// The clusters that get a copy this time.
    pub fn mirrors(&self) -> &[Arc<Cluster>] {
        &self.mirrors
    }

    /// The request's dice, for further choices.
    pub fn roll(&self) -> &Roll {
        &self.roll
    }

    /// How long to wait first (an injected delay).
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }
}

fn endpoint(to: &Forwarded<'_>, roll: &Roll) -> Option<usize> {
    let picked = to.endpoint(roll)?;
    to.cluster.endpoints.iter().position(|endpoint| std::ptr::eq(endpoint, picked))
}
