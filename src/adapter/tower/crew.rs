//! The endpoints of each cluster, and how they fare: shared by all requests of one [`Upstream`](super::Upstream).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Clock;
use super::chosen::Chosen;
use crate::balance::{Ask, Balancer, Ended, HostId};
use crate::plan::{Cluster, Endpoint};
use crate::roll::Roll;

/// A clock, and a balancer for each cluster that was ever sent to.
#[derive(Debug)]
pub(super) struct Crew<K> {
    pub(super) clock: K,
    balancers: Mutex<HashMap<Arc<str>, Known>>,
}

#[derive(Debug)]
struct Known {
    /// What the balancer was last told.
    cluster: Weak<Cluster>,
    balancer: Balancer,
}

impl<K: Clock> Crew<K> {
    pub(super) fn new(clock: K) -> Self {
        Crew { clock, balancers: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Known>> {
        self.balancers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An endpoint for a try, and the lease that counts it as busy. `None`: no endpoint takes requests.
    pub(super) fn pick(
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
pub(super) struct Lease<K: Clock> {
    crew: Arc<Crew<K>>,
    name: Arc<str>,
    pub(super) host: HostId,
    pub(super) ended: Ended,
}

impl<K: Clock> Drop for Lease<K> {
    fn drop(&mut self) {
        self.crew.end(&self.name, self.host, self.ended);
    }
}

/// What may go wrong while a response's body is on its way: the endpoint's connection, or the route's time is over.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of an endpoint's response. As long as it lasts, the endpoint counts as busy and the route's time runs.
    #[derive(Debug)]
    pub struct LeasedBody<D, K: Clock> {
        #[pin]
        body: D,
        lease: Option<Lease<K>>,
        rest: Option<Pin<Box<K::Sleep>>>,
    }
}

impl<D, K: Clock> LeasedBody<D, K> {
    pub(super) fn new(body: D, lease: Option<Lease<K>>, rest: Option<K::Sleep>) -> Self {
        LeasedBody { body, lease, rest: rest.map(Box::pin) }
    }
}

impl<D: Body<Error: Into<BodyError>>, K: Clock> Body for LeasedBody<D, K> {
    type Data = D::Data;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<D::Data>, BodyError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            if frame.is_none() {
                (*this.lease, *this.rest) = (None, None);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let over = this.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(context).is_ready());
        if !over {
            return Poll::Pending;
        }
        (*this.lease, *this.rest) = (None, None);
        Poll::Ready(Some(Err("the time for the whole exchange is over".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
