//! Limits on what may be asked of a cluster at a time.

use crate::plan::Policy;

/// What is full. The request is answered 503 with Envoy's flag UO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// `tcp.maxConnections`: no connection may be opened.
    Connections,
    /// `http.http1MaxPendingRequests`: none may wait for a connection.
    Pending,
    /// `http.http2MaxRequests`: none may be sent.
    Requests,
    /// `http.maxRetries`, or the retry budget: no other try may be made.
    Retries,
}

/// How many retries may be active at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RetryLimit {
    /// So many.
    Count(u32),
    /// So many percent of the active and waiting requests, but at least `least`.
    Budget {
        /// Percent.
        percent: f64,
        /// At least so many.
        least: u32,
    },
}

/// The limits of a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// Open connections.
    pub connections: u32,
    /// Requests that wait for one.
    pub pending: u32,
    /// Requests that are active.
    pub requests: u32,
    /// Retries that are active.
    pub retries: RetryLimit,
    /// How many requests one connection serves.
    pub requests_per_connection: u32,
}

impl Limits {
    /// What a policy says. What it leaves out, or says as 0, is 2^32 - 1, as Istio has it.
    pub fn of(policy: &Policy) -> Self {
        let limit = |written: i32| u32::try_from(written).ok().filter(|limit| *limit > 0).unwrap_or(u32::MAX);
        let pool = policy.connection_pool.clone().unwrap_or_default();
        let (tcp, http) = (pool.tcp.unwrap_or_default(), pool.http.unwrap_or_default());
        let retries = match &policy.retry_budget {
            Some(budget) => RetryLimit::Budget {
                percent: budget.percent.unwrap_or(20.0).clamp(0.0, 100.0),
                least: if budget.min_retry_concurrency == 0 { 3 } else { budget.min_retry_concurrency },
            },
            None => RetryLimit::Count(limit(http.max_retries)),
        };
        Limits {
            connections: limit(tcp.max_connections),
            pending: limit(http.http1_max_pending_requests),
            requests: limit(http.http2_max_requests),
            retries,
            requests_per_connection: limit(http.max_requests_per_connection),
        }
    }
}

/// What is open, waiting and active at a cluster, held below its limits.
///
/// ```
/// use meshroute::balance::{Breaker, Limits, Overflow};
/// use meshroute::plan::Policy;
/// let mut limits = Limits::of(&Policy::default());
/// limits.requests = 1;
/// let mut breaker = Breaker::new(limits);
/// assert_eq!(breaker.send(), Ok(()));
/// assert_eq!(breaker.send(), Err(Overflow::Requests));
/// breaker.sent();
/// assert_eq!(breaker.send(), Ok(()));
/// ```
///
/// Source: Envoy's page on circuit breaking, and `ConnPoolImplBase`.
#[derive(Clone, Debug)]
pub struct Breaker {
    limits: Limits,
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
}

impl Breaker {
    /// One at which nothing is open yet.
    pub fn new(limits: Limits) -> Self {
        Breaker { limits, connections: 0, pending: 0, requests: 0, retries: 0 }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Other limits from now on. What is open stays so.
    pub fn set(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A connection is to be opened. `first`: its endpoint has none; then it may, full or not, as Envoy has it, so that
    /// no endpoint is out of reach.
    ///
    /// # Errors
    /// All that may be open are.
    pub fn connect(&mut self, first: bool) -> Result<(), Overflow> {
        let limit = if first { u32::MAX } else { self.limits.connections };
        enter(&mut self.connections, limit, Overflow::Connections)
    }

    /// A connection was closed, or could not be opened.
    pub fn connected(&mut self) {
        leave(&mut self.connections);
    }

    /// A request is to wait for a connection; also one that only waits until a new one is open.
    ///
    /// # Errors
    /// All that may wait do.
    pub fn wait(&mut self) -> Result<(), Overflow> {
        enter(&mut self.pending, self.limits.pending, Overflow::Pending)
    }

    /// A request waits no longer.
    pub fn waited(&mut self) {
        leave(&mut self.pending);
    }

    /// A request is to be sent.
    ///
    /// # Errors
    /// All that may be active are.
    pub fn send(&mut self) -> Result<(), Overflow> {
        enter(&mut self.requests, self.limits.requests, Overflow::Requests)
    }

    /// A request has come to its end.
    pub fn sent(&mut self) {
        leave(&mut self.requests);
    }

    /// Another try is to be made. It counts until it has ended, its pause included.
    ///
    /// # Errors
    /// All that may be active are.
    pub fn retry(&mut self) -> Result<(), Overflow> {
        let limit = match self.limits.retries {
            RetryLimit::Count(count) => count,
            RetryLimit::Budget { percent, least } => {
                let active = f64::from(self.requests) + f64::from(self.pending);
                ((percent / 100.0 * active) as u32).max(least)
            }
        };
        enter(&mut self.retries, limit, Overflow::Retries)
    }

    /// Another try has come to its end.
    pub fn retried(&mut self) {
        leave(&mut self.retries);
    }
}

fn enter(count: &mut u32, limit: u32, full: Overflow) -> Result<(), Overflow> {
    if *count >= limit {
        return Err(full);
    }
    *count += 1;
    Ok(())
}

/// Whoever leaves twice takes nobody with it.
fn leave(count: &mut u32) {
    *count = count.saturating_sub(1);
}
