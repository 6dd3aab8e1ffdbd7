//! A rate limit by tokens.

use std::time::Duration;

/// A bucket of tokens. A request takes one; without one it is answered 429 with Envoy's flag RL.
///
/// ```
/// use std::time::Duration;
/// use meshroute::balance::TokenBucket;
/// let mut bucket = TokenBucket::new(2, 1, Duration::from_secs(60), Duration::ZERO);
/// assert!(bucket.take(Duration::ZERO) && bucket.take(Duration::ZERO));
/// assert!(!bucket.take(Duration::from_secs(59)));
/// assert!(bucket.take(Duration::from_secs(60)));
/// ```
///
/// Source: Envoy's local rate limit, whose bucket fills all the time and not only at each interval's end
/// (`AtomicTokenBucketImpl`, the default since 1.31).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBucket {
    most: f64,
    each: Duration,
    tokens: f64,
    at: Duration,
}

impl TokenBucket {
    /// A full bucket of `most` tokens, into which `fill` come each `interval`. Without an interval it is always full.
    pub fn new(most: u32, fill: u32, interval: Duration, now: Duration) -> Self {
        let each = interval.checked_div(fill).unwrap_or(Duration::MAX);
        TokenBucket { most: f64::from(most), each, tokens: f64::from(most), at: now }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        let gone = now.saturating_sub(self.at).as_secs_f64();
        let fresh = if self.each.is_zero() { self.most } else { gone / self.each.as_secs_f64() };
        self.tokens = (self.tokens + fresh).min(self.most);
        self.at = self.at.max(now);
        // A third of a token three times is one, whatever the rounding says.
        let taken = self.tokens >= 1.0 - 1e-9;
        if taken {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        taken
    }

    /// How many whole tokens are left, as of the last time that one was asked for.
    pub fn left(&self) -> u32 {
        self.tokens as u32
    }
}
