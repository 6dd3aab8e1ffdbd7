//! Entropy, handed in by the caller, so that a weighted answer is a pure function of what was asked.
//!
//! Knows how to draw a number for a purpose. Knows nothing of weights.

/// What a draw is for. Each purpose gets a number of its own, so that a split and a fault never correlate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Which of several weighted destinations.
    Route,
    /// Whether a delay is injected.
    Delay,
    /// Whether an abort is injected.
    Abort,
    /// Whether the n-th mirror gets a copy.
    Mirror(u16),
    /// Which endpoint of the cluster.
    Endpoint,
    /// Whether the n-th rate limit counts a request: twice its number; or refuses one: one more.
    Limit(u32),
}

/// The dice of one request.
///
/// ```
/// use meshroute::{Purpose, Roll};
/// // The same seed gives the same draws; another purpose gives another draw.
/// assert_eq!(Roll::seeded(7).draw(Purpose::Route), Roll::seeded(7).draw(Purpose::Route));
/// assert_ne!(Roll::seeded(7).draw(Purpose::Route), Roll::seeded(7).draw(Purpose::Abort));
/// // A pinned route draw picks as Envoy's weighted clusters do with the same random value.
/// assert_eq!(Roll::pinned(79).draw(Purpose::Route), 79);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Roll {
    seed: u64,
    route: Option<u64>,
}

impl Roll {
    /// Draws derived from `seed`.
    pub const fn seeded(seed: u64) -> Self {
        Roll { seed, route: None }
    }

    /// The draw for [`Purpose::Route`] is `value` itself; the others are derived from it.
    pub const fn pinned(value: u64) -> Self {
        Roll { seed: value, route: Some(value) }
    }

    /// Fresh entropy from the thread's generator.
    ///
    /// Allocates once a thread, when the generator is first used.
    pub fn random() -> Self {
        Roll::seeded(rand::random())
    }

    /// A number for a purpose, uniform over all of `u64` if the seed is.
    pub const fn draw(&self, purpose: Purpose) -> u64 {
        let salt = match purpose {
            Purpose::Route => match self.route {
                Some(value) => return value,
                None => 1,
            },
            Purpose::Delay => 2,
            Purpose::Abort => 3,
            Purpose::Endpoint => 4,
            Purpose::Mirror(n) => 16 + n as u64,
            Purpose::Limit(n) => (1 << 32) + n as u64,
        };
        mix(self.seed ^ mix(salt))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the output.
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_for_two_purposes_do_not_correlate() {
        // Of 10,000 rolls, those that fall in the lower half for both purposes must be about a quarter.
        let both = (0..10_000u64)
            .map(Roll::seeded)
            .filter(|roll| roll.draw(Purpose::Route) % 100 < 50 && roll.draw(Purpose::Abort) % 100 < 50)
            .count();
        assert!((2_300..2_700).contains(&both), "{both}");
    }
}
