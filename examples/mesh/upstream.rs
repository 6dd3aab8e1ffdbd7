//! The clusters as this station knows them: who is healthy, how busy each is, and what is full.
//!
//! Puts the library's state machines behind a lock and gives them the time. They outlive a change of the
//! configuration: what is known of an endpoint holds while it stays. Knows nothing of what a request carries.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshroute::Roll;
use meshroute::balance::{Ask, Balancer, Breaker, Ended, HostId, Limits, Overflow};
use meshroute::plan::{Cluster, Endpoint};
use tokio::sync::Notify;

use crate::pool::{Idle, Tongue};

/// The time since the process began, which is all that the state machines want to know.
pub fn now() -> Duration {
    at(Instant::now())
}

/// The same for a time that was looked at before.
pub fn at(time: Instant) -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    time.saturating_duration_since(*BEGAN)
}

/// All clusters that a station has used or may use.
pub struct Upstreams {
    /// Where the station itself is: `region/zone/subzone`, empty where it is not known.
    here: String,
    known: Mutex<HashMap<Arc<str>, Arc<Upstream>>>,
}

impl Upstreams {
    /// Of a station with these labels, which has not used any.
    pub fn new(labels: &BTreeMap<String, String>) -> Self {
        let here = labels.get("istio-locality").map(|label| label.replace('.', "/")).unwrap_or_default();
        Upstreams { here, known: Mutex::default() }
    }

    /// A snapshot is about to be in force. Clusters that are no longer in it are forgotten.
    pub fn adopt<'c>(&self, clusters: impl IntoIterator<Item = &'c Arc<Cluster>>) {
        let mut known = lock(&self.known);
        let mut before = std::mem::take(&mut *known);
        for cluster in clusters {
            if let Some(upstream) = before.remove(&cluster.name) {
                upstream.adopt(cluster);
                known.insert(Arc::clone(&cluster.name), upstream);
            }
        }
        drop(known);
        before.into_values().for_each(|upstream| upstream.forget());
    }

    /// Lets go of connections that the other side has closed, and of those that nobody has used for too long: this is called
    /// once in so much time.
    pub fn sweep(&self, every: Duration) {
        let known: Vec<Arc<Upstream>> = lock(&self.known).values().cloned().collect();
        for upstream in known {
            let mut state = upstream.state();
            let looks = state.patience.map(|patience| (patience.as_nanos() / every.as_nanos().max(1)) as u64);
            let dead = state.idle.sweep(looks);
            drop(state);
            drop(dead);
        }
    }

    /// What is known of a cluster, which is nothing the first time.
    pub fn of(&self, cluster: &Cluster) -> Arc<Upstream> {
        let mut known = lock(&self.known);
        let upstream =
            known.entry(Arc::clone(&cluster.name)).or_insert_with(|| Arc::new(Upstream::new(cluster, &self.here)));
        Arc::clone(upstream)
    }
}

/// One cluster.
pub struct Upstream {
    state: Mutex<State>,
    /// A connection was given back or closed.
    pub freed: Arc<Notify>,
}

/// What is read and changed together.
pub struct State {
    balancer: Balancer,
    breaker: Breaker,
    /// Connections that are open or being opened, by socket and by what is spoken: each has a pool of its own, as with Envoy.
    open: HashMap<(SocketAddr, Option<Tongue>), u32>,
    /// Those of them that nobody uses, and those that many may use.
    pub idle: Idle,
    /// Nobody asks for this cluster any more.
    pub forgotten: bool,
    /// How long a connection that nobody uses is kept; `None`: for ever.
    patience: Option<Duration>,
    /// The last time that is known here.
    seen: Duration,
}

impl State {
    /// How many requests one connection serves.
    pub fn requests_per_connection(&self) -> u32 {
        self.breaker.limits().requests_per_connection
    }
}

/// An endpoint that was chosen, and its address if it is one.
#[derive(Clone, Debug)]
pub struct Reached {
    /// It.
    pub endpoint: Endpoint,
    /// Its address.
    pub socket: Option<SocketAddr>,
}

impl From<&Endpoint> for Reached {
    fn from(endpoint: &Endpoint) -> Self {
        Reached { endpoint: endpoint.clone(), socket: endpoint.socket() }
    }
}

impl Upstream {
    fn new(cluster: &Cluster, here: &str) -> Self {
        let balancer = Balancer::new(cluster, here, Roll::random(), now());
        let breaker = Breaker::new(Limits::of(&cluster.policy));
        let state = State {
            balancer,
            breaker,
            open: HashMap::new(),
            idle: Idle::default(),
            forgotten: false,
            patience: patience(cluster),
            seen: now(),
        };
        Upstream { state: Mutex::new(state), freed: Arc::default() }
    }

    fn adopt(&self, cluster: &Cluster) {
        let mut state = self.state();
        state.balancer.update(cluster, now());
        state.breaker.set(Limits::of(&cluster.policy));
        state.patience = patience(cluster);
    }

    /// Closes what nobody uses. A connection that is kept holds on to the cluster that it is kept in.
    fn forget(&self) {
        let mut state = self.state();
        state.forgotten = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// The state, for a moment. What is kept in it must not be dropped meanwhile: dropping it asks for the state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// An endpoint for a try. `None`: there is none, or none that is healthy.
    pub fn pick(self: &Arc<Self>, ask: &Ask<'_>) -> Option<(HostId, Reached, Held)> {
        let mut state = self.state();
        state.seen = ask.now;
        let chosen = state.balancer.pick(ask)?;
        let (host, reached) = (chosen.host, Reached::from(chosen.endpoint));
        state.balancer.begin(host);
        Some((host, reached, Held { upstream: Arc::clone(self), what: What::Host(host) }))
    }

    /// How a try ended, as far as it says something about the endpoint.
    pub fn report(&self, host: HostId, ended: Ended, now: Duration) {
        let mut state = self.state();
        state.seen = now;
        state.balancer.report(host, ended, now);
    }

    /// Takes up one of what there may be so many of.
    pub fn hold(self: &Arc<Self>, what: What) -> Result<Held, Overflow> {
        let State { breaker, open, .. } = &mut *self.state();
        match what {
            What::Waiting => breaker.wait()?,
            What::Request => breaker.send()?,
            What::Retry => breaker.retry()?,
            What::Connection(socket, tongue) => {
                let there = open.entry((socket, tongue)).or_default();
                breaker.connect(*there == 0)?;
                *there += 1;
            }
            What::Host(_) => {}
        }
        Ok(Held { upstream: Arc::clone(self), what })
    }

    fn release(&self, what: What) {
        let State { balancer, breaker, open, seen, .. } = &mut *self.state();
        match what {
            What::Waiting => breaker.waited(),
            What::Request => breaker.sent(),
            What::Retry => breaker.retried(),
            // Nothing is learned from it, so that the time need not be looked at.
            What::Host(host) => balancer.end(host, Ended::Abandoned, *seen),
            What::Connection(socket, tongue) => {
                breaker.connected();
                if let Some(there) = open.get_mut(&(socket, tongue)) {
                    *there -= 1;
                }
                open.retain(|_, there| *there > 0);
            }
        }
    }
}

/// What is taken up.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// A place among those who wait for a connection.
    Waiting,
    /// A request that is active.
    Request,
    /// Another try.
    Retry,
    /// A connection to a socket, for requests in this tongue or for whatever comes.
    Connection(SocketAddr, Option<Tongue>),
    /// An endpoint, by a request.
    Host(HostId),
}

/// Something that is taken up until this value goes, however it goes.
pub struct Held {
    upstream: Arc<Upstream>,
    what: What,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.upstream.release(self.what);
        if matches!(self.what, What::Connection(..)) {
            self.upstream.freed.notify_waiters();
        }
    }
}

/// Of an answer: what stays taken up for as long as the connection goes on as something else.
#[derive(Clone)]
pub struct Kept {
    _all: Arc<dyn Any + Send + Sync>,
}

impl Kept {
    /// All that this value holds.
    pub fn new(all: impl Any + Send + Sync) -> Self {
        Kept { _all: Arc::new(all) }
    }
}

/// How long Envoy keeps a connection to an upstream that nobody uses, unless the rule says how long (0: for ever).
const PATIENCE: Duration = Duration::from_secs(3600);

fn patience(cluster: &Cluster) -> Option<Duration> {
    let http = cluster.policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    let written = http.and_then(|http| http.idle_timeout).and_then(|time| time.to_std());
    written.map_or(Some(PATIENCE), |time| (!time.is_zero()).then_some(time))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
