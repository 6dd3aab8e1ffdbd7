//! What is needed for another try, and how the last one looks to the library's judges.
//!
//! Knows which bodies can be sent again. When another try is made is decided by the library.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::HeaderName;
use meshroute::balance::{self, Ended, Failure};
use meshroute::plan::Retry;
use smallvec::SmallVec;

use crate::message;
use crate::pool::{Body, Coming, Failed};
use crate::upstream::Held;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The largest body that is kept for another try.
const REPLAYABLE: u64 = 64 << 10;

/// How one try ended: with the head of an answer, and what its request still holds; or without.
pub type Tried = Result<(Response<Coming>, Taken), Failed>;
/// What a request takes up on its way.
pub type Taken = SmallVec<[Held; 2]>;

/// A body as far as it matters for another try.
pub enum Cargo {
    /// It can be sent as often as one likes.
    Small(Bytes),
    /// It can be sent once; `None`: it was.
    Stream(Option<Incoming>),
}

impl Cargo {
    /// Reads a small body whole; a large one is left to stream, once.
    pub async fn load(body: Incoming) -> Result<Self, hyper::Error> {
        if body.is_end_stream() {
            return Ok(Cargo::Small(Bytes::new()));
        }
        match body.size_hint().upper() {
            Some(size) if size <= REPLAYABLE => Ok(Cargo::Small(body.collect().await?.to_bytes())),
            _ => Ok(Cargo::Stream(Some(body))),
        }
    }

    /// The body, if it can be had (again).
    pub fn unload(&mut self) -> Option<Body> {
        match self {
            Cargo::Small(bytes) => Some(message::full(bytes.clone())),
            Cargo::Stream(body) => body.take().map(Body::Sent),
        }
    }

    /// Whether it was sent and cannot be again.
    pub fn is_spent(&self) -> bool {
        matches!(self, Cargo::Stream(None))
    }
}

/// The time for a try: the route's for each, within what is left for all.
pub fn limit(deadline: Option<Instant>, retry: Option<&Retry>) -> Option<Duration> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let each = retry.and_then(|retry| retry.per_try_timeout);
    left.into_iter().chain(each).min()
}

/// Whether a time is over.
pub fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// How a try looks to the judge of tries.
pub fn verdict_on(tried: &Tried) -> balance::Tried {
    match tried {
        Ok((response, _)) => {
            let (mut grpc, mut rate_limited) = (None, false);
            // They are few: looking through them costs less than looking up.
            for (name, value) in response.headers() {
                if *name == GRPC_STATUS && grpc.is_none() {
                    grpc = value.to_str().ok().and_then(|status| status.parse().ok());
                }
                rate_limited |= *name == RATE_LIMITED;
            }
            balance::Tried::answered(response.status().as_u16()).grpc(grpc).rate_limited(rate_limited)
        }
        Err(failed) => balance::Tried::Failed(failed.kind),
    }
}

/// How a try looks to the one who sets endpoints aside.
pub fn report_on(tried: &Tried) -> Ended {
    match tried {
        Ok((response, _)) => Ended::Answered(response.status().as_u16()),
        Err(failed) => match failed.kind {
            Failure::TimedOut => Ended::TimedOut,
            // The cluster was full, for which the endpoint cannot be blamed.
            Failure::Overflow => Ended::Abandoned,
            _ => Ended::Lost,
        },
    }
}
