//! When another try is made, and what is needed for one.
//!
//! Knows Envoy's retry conditions. Knows nothing of where a try goes.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Body as _, Bytes, Incoming};
use meshroute::plan::Retry;

use crate::message;
use crate::pool::{Body, Lost};

/// The largest body that is kept for another try.
const REPLAYABLE: u64 = 64 << 10;
/// The longest pause between two tries, as a multiple of the first.
const MAX_BACKOFF: u32 = 10;

/// How one try ended.
pub type Tried = Result<Response<Incoming>, Lost>;

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
        match body.size_hint().upper() {
            Some(size) if size <= REPLAYABLE => Ok(Cargo::Small(body.collect().await?.to_bytes())),
            _ => Ok(Cargo::Stream(Some(body))),
        }
    }

    /// The body, if it can be had (again).
    pub fn unload(&mut self) -> Option<Body> {
        match self {
            Cargo::Small(bytes) => Some(message::full(bytes.clone())),
            Cargo::Stream(body) => body.take().map(|body| body.map_err(Into::into).boxed()),
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

/// The pause before another try: it doubles each time, up to ten times the first.
pub fn pause(retry: &Retry, tries: u32, deadline: Option<Instant>) -> Duration {
    let factor = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(MAX_BACKOFF).min(MAX_BACKOFF);
    let pause = retry.backoff.saturating_mul(factor);
    deadline.map_or(pause, |deadline| pause.min(deadline.saturating_duration_since(Instant::now())))
}

/// Whether a route's retry conditions take this for a failure (Envoy, `RetryStateImpl`).
pub fn is_failure(retry: &Retry, tried: &Tried) -> bool {
    let on = |condition: &str| retry.on.iter().any(|known| &**known == condition);
    let response = match tried {
        Ok(response) => response,
        Err(lost) => {
            return on("5xx")
                || on("gateway-error")
                || on("reset")
                || (*lost == Lost::Connect && (on("connect-failure") || on("reset-before-request")));
        }
    };
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status").map(|value| value.as_bytes());
    (on("5xx") && status >= 500)
        || (on("gateway-error") && matches!(status, 502..=504))
        || (on("retriable-4xx") && status == 409)
        || (on("retriable-status-codes") && retry.statuses.contains(&status))
        || (on("cancelled") && grpc == Some(b"1"))
        || (on("unavailable") && grpc == Some(b"14"))
}
