//! A hash ring: an endpoint stands at many points, and a key goes to the next point at or after its hash.

use super::xxh64::xxh64;

/// Envoy's `maximum_ring_size`, unless it is told otherwise; Istio does not tell it.
const LARGEST: f64 = 8_388_608.0;

/// A member of a ring or table: which host, under which name, and its share of all, up to 1.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) host: u32,
    pub(super) name: String,
    pub(super) share: f64,
}

/// The points in order.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// So many points that the member with the smallest share has a whole number of them; in all at least `smallest`.
    ///
    /// Source: Envoy, `RingHashLoadBalancer::Ring`.
    pub(super) fn build(members: &[Member], smallest: u64) -> Self {
        let least = members.iter().map(|member| member.share).fold(1.0, f64::min).max(f64::MIN_POSITIVE);
        let scale = ((least * smallest as f64).ceil() / least).min(LARGEST);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut made, mut wanted) = (0.0, 0.0);
        for member in members {
            let mut name = format!("{}_", member.name);
            let stem = name.len();
            wanted += scale * member.share;
            let mut number = 0u64;
            while made < wanted {
                name.truncate(stem);
                name.push_str(&number.to_string());
                points.push((xxh64(name.as_bytes(), 0), member.host));
                number += 1;
                made += 1.0;
            }
        }
        points.sort_unstable();
        Ring { points }
    }

    /// The host for a hash; another attempt gets a later point.
    pub(super) fn host(&self, hash: u64, attempt: usize) -> Option<u32> {
        let at = self.points.partition_point(|(point, _)| *point < hash);
        let at = at.checked_rem(self.points.len())?;
        Some(self.points[(at + attempt) % self.points.len()].1)
    }
}
