//! Whether another try is made, and after how long a pause.

use std::time::Duration;

use crate::plan::Retry;

/// How one try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tried {
    /// The head of an answer came.
    Answered {
        /// Its status.
        status: u16,
        /// The `grpc-status` among its headers, if there is one.
        grpc: Option<u32>,
        /// Whether it says `x-envoy-ratelimited`: then nobody tries again, unless the policy says `envoy-ratelimited`.
        rate_limited: bool,
    },
    /// No answer came.
    Failed(Failure),
}

impl Tried {
    /// An answer that is no gRPC's.
    pub fn answered(status: u16) -> Self {
        Tried::Answered { status, grpc: None, rate_limited: false }
    }

    /// An answer with this `grpc-status`.
    pub fn grpc(mut self, code: Option<u32>) -> Self {
        if let Tried::Answered { grpc, .. } = &mut self {
            *grpc = code;
        }
        self
    }

    /// An answer that says `x-envoy-ratelimited`, or does not.
    pub fn rate_limited(mut self, limited: bool) -> Self {
        if let Tried::Answered { rate_limited, .. } = &mut self {
            *rate_limited = limited;
        }
        self
    }
}

/// Why no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The other side refused the stream: nothing was done with it.
    Refused,
    /// The connection ended before any of the request was sent.
    Before,
    /// The connection ended.
    Reset,
    /// The time for this try is over.
    TimedOut,
    /// It was not even sent: the cluster is full. Never tried again.
    Overflow,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// What came is the answer.
    Done,
    /// Another try, after this pause.
    Again(Duration),
    /// It failed, and there are no more tries: what came is the answer, with Envoy's flag URX.
    Exhausted,
}

/// The tries of one request under a route's policy.
///
/// ```
/// use meshroute::balance::{Failure, Tried, Tries, Verdict};
/// use meshroute::plan::Retry;
/// let policy = Retry::built_in();
/// let mut tries = Tries::new(&policy);
/// assert!(matches!(tries.judge(Tried::Failed(Failure::Connect), 7), Verdict::Again(_)));
/// assert_eq!(tries.judge(Tried::answered(503), 7), Verdict::Done);
/// ```
///
/// Source: Envoy, `RetryStateImpl` and the page on `x-envoy-retry-on`.
#[derive(Clone, Debug)]
pub struct Tries<'p> {
    policy: &'p Retry,
    on: Conditions,
    left: u32,
    backoff: Duration,
}

/// The longest pause, as a multiple of the first.
const LONGEST: u32 = 10;

impl<'p> Tries<'p> {
    /// Those of a request that was not tried yet.
    pub fn new(policy: &'p Retry) -> Self {
        Tries { policy, on: Conditions::of(policy), left: policy.attempts, backoff: policy.backoff }
    }

    /// What follows from how a try ended. `draw` makes the pause uneven: it lies between nothing and 25 ms at first, and
    /// the end doubles each time up to 250 ms (with the policy's own first pause, up to ten times that).
    ///
    /// Whether the cluster allows another try is for [`Breaker::retry`](super::Breaker::retry) to say.
    pub fn judge(&mut self, tried: Tried, draw: u64) -> Verdict {
        if !self.is_failure(tried) {
            return Verdict::Done;
        }
        if self.left == 0 {
            return Verdict::Exhausted;
        }
        self.left -= 1;
        Verdict::Again(self.pause(draw))
    }

    fn is_failure(&self, tried: Tried) -> bool {
        match tried {
            // That alone decides, whatever the status (Envoy, `RetryStateImpl::wouldRetryFromHeaders`).
            Tried::Answered { rate_limited: true, .. } => self.on.has(Conditions::RATE_LIMITED),
            Tried::Answered { status, grpc, .. } => {
                let listed = self.on.has(Conditions::STATUSES) && self.policy.statuses.contains(&status);
                listed || self.on.has(Conditions::of_status(status)) || self.on.has(Conditions::of_grpc(grpc))
            }
            Tried::Failed(failure) => self.on.has(Conditions::of_failure(failure)),
        }
    }

    fn pause(&mut self, draw: u64) -> Duration {
        let end = self.backoff;
        let longest = self.policy.backoff.saturating_mul(LONGEST);
        // Envoy doubles only while that stays below the longest.
        self.backoff = if end < longest / 2 { end.saturating_mul(2) } else { longest };
        let nanos = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(draw.checked_rem(nanos).unwrap_or(0))
    }
}

/// Envoy's retry conditions as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Conditions(u32);

impl Conditions {
    const SERVER_ERROR: u32 = 1;
    const GATEWAY_ERROR: u32 = 1 << 1;
    const RESET: u32 = 1 << 2;
    const RESET_BEFORE: u32 = 1 << 3;
    const CONNECT: u32 = 1 << 4;
    const REFUSED: u32 = 1 << 5;
    const CONFLICT: u32 = 1 << 6;
    const STATUSES: u32 = 1 << 7;
    const CANCELLED: u32 = 1 << 8;
    const DEADLINE: u32 = 1 << 9;
    const INTERNAL: u32 = 1 << 10;
    const EXHAUSTED: u32 = 1 << 11;
    const UNAVAILABLE: u32 = 1 << 12;
    const RATE_LIMITED: u32 = 1 << 13;

    fn of(policy: &Retry) -> Self {
        Conditions(policy.on.iter().map(|name| Self::named(name)).fold(0, |all, one| all | one))
    }

    /// 0 for `retriable-headers`, since Istio gives no way to say which these are, and for what is none.
    fn named(name: &str) -> u32 {
        match name {
            "5xx" => Self::SERVER_ERROR,
            "gateway-error" => Self::GATEWAY_ERROR,
            "reset" => Self::RESET,
            "reset-before-request" => Self::RESET_BEFORE,
            "connect-failure" => Self::CONNECT,
            "refused-stream" => Self::REFUSED,
            "retriable-4xx" => Self::CONFLICT,
            "retriable-status-codes" => Self::STATUSES,
            "cancelled" => Self::CANCELLED,
            "deadline-exceeded" => Self::DEADLINE,
            "internal" => Self::INTERNAL,
            "resource-exhausted" => Self::EXHAUSTED,
            "unavailable" => Self::UNAVAILABLE,
            "envoy-ratelimited" => Self::RATE_LIMITED,
            _ => 0,
        }
    }

    fn of_status(status: u16) -> u32 {
        match status {
            409 => Self::CONFLICT,
            502..=504 => Self::SERVER_ERROR | Self::GATEWAY_ERROR,
            500..=599 => Self::SERVER_ERROR,
            _ => 0,
        }
    }

    fn of_grpc(status: Option<u32>) -> u32 {
        match status {
            Some(1) => Self::CANCELLED,
            Some(4) => Self::DEADLINE,
            Some(8) => Self::EXHAUSTED,
            Some(13) => Self::INTERNAL,
            Some(14) => Self::UNAVAILABLE,
            _ => 0,
        }
    }

    fn of_failure(failure: Failure) -> u32 {
        let any = Self::SERVER_ERROR | Self::GATEWAY_ERROR | Self::RESET;
        match failure {
            Failure::Overflow => 0,
            Failure::Connect => any | Self::CONNECT | Self::RESET_BEFORE,
            Failure::Refused => any | Self::REFUSED,
            Failure::Before => any | Self::RESET_BEFORE,
            Failure::Reset | Failure::TimedOut => any,
        }
    }

    /// Whether one of these is in the set.
    fn has(self, conditions: u32) -> bool {
        self.0 & conditions != 0
    }
}
