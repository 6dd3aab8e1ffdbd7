//! What is needed for another try, and how the last one looks to the library's judges.
//!
//! Knows which bodies can be sent again. When another try is made is decided by the library.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use meshroute::balance::{self, Ended, Failure};
use meshroute::plan::Retry;
use smallvec::SmallVec;

use crate::message;
use crate::pool::{Body, Coming, Failed};
use crate::times::{Moving, times};
use crate::upload::Upload;
use crate::upstream::Held;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The largest body that is kept for another try.
pub const REPLAYABLE: u64 = 64 << 10;

/// How one try ended: with the head of an answer, and what its request still holds; or without.
pub type Tried = Result<(Response<Coming>, Taken), Failed>;
/// What a request takes up on its way.
pub type Taken = SmallVec<[Held; 2]>;

/// A body as far as it matters for another try.
pub enum Cargo {
    /// It can be sent as often as one likes.
    Small(Bytes),
    /// It goes on while it comes.
    Stream(Upload),
}

impl Cargo {
    /// Reads a small body whole; one that is large, or of which nobody knows yet, goes on while it comes.
    pub async fn load(body: Incoming) -> Result<Self, crate::Failure> {
        if body.is_end_stream() {
            return Ok(Cargo::Small(Bytes::new()));
        }
        match body.size_hint().upper() {
            Some(size) if size <= REPLAYABLE => {
                let whole = Box::pin(Moving::new(body, times().stream).collect());
                Ok(Cargo::Small(whole.await?.to_bytes()))
            }
            _ => Ok(Cargo::Stream(Upload::new(body, true))),
        }
    }

    /// For one try.
    pub fn once(body: Incoming) -> Self {
        if body.is_end_stream() { Cargo::Small(Bytes::new()) } else { Cargo::Stream(Upload::new(body, false)) }
    }

    /// All of the body, once it is all there; `None`: that is too large to be kept.
    pub fn original(&self) -> impl Future<Output = Option<Cargo>> + Send + 'static {
        let (small, upload) = match self {
            Cargo::Small(bytes) => (Some(bytes.clone()), None),
            Cargo::Stream(upload) => (None, Some(upload.clone())),
        };
        async move {
            let bytes = match upload {
                Some(upload) => upload.whole().await,
                None => small,
            };
            bytes.map(Cargo::Small)
        }
    }

    /// The body, where it goes on while it comes.
    pub fn upload(&self) -> Option<Upload> {
        match self {
            Cargo::Small(_) => None,
            Cargo::Stream(upload) => Some(upload.clone()),
        }
    }

    /// The body, if it can be had (again).
    pub fn unload(&self) -> Option<Body> {
        match self {
            Cargo::Small(bytes) => Some(message::full(bytes.clone())),
            Cargo::Stream(upload) => upload.begin(),
        }
    }

    /// Whether it was sent and cannot be again.
    pub fn is_spent(&self) -> bool {
        matches!(self, Cargo::Stream(upload) if upload.is_spent())
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

/// What gRPC answers where that is all of the answer: its status stands among the headers then.
fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    // Looked for first, as most answers have none.
    let (_, status) = headers.iter().find(|(name, _)| **name == GRPC_STATUS)?;
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
    kind.starts_with(b"application/grpc").then(|| status.to_str().ok()?.parse().ok()).flatten()
}

/// How a try looks to the one who sets endpoints aside.
pub fn report_on(tried: &Tried) -> Ended {
    match tried {
        Ok((response, _)) => match grpc_status(response.headers()) {
            Some(status) => Ended::of_grpc(status),
            None => Ended::Answered(response.status().as_u16()),
        },
        Err(failed) => match failed.kind {
            Failure::TimedOut => Ended::TimedOut,
            // The cluster was full, for which the endpoint cannot be blamed.
            Failure::Overflow => Ended::Abandoned,
            _ => Ended::Lost,
        },
    }
}
