//! What is asked for: the limits of one workload, and which of them a request meets.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnostic::ResourceRef;

/// The rate limits of one workload. Plain data, so that a control plane may send it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateLimits {
    /// Of one stage in the order in which requests meet them.
    pub(super) filters: Vec<Filter>,
    /// The limits that some routes have in place of any filter's own. The last one that is meant counts.
    pub(super) routes: Vec<(Routes, RateLimit)>,
}

/// A filter in the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Filter {
    pub stage: Stage,
    /// `None`: on every port.
    pub port: Option<u16>,
    /// `None`: it counts only where a route has a limit of its own.
    pub limit: Option<RateLimit>,
}

/// Which routes a limit is for. What is empty means any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Routes {
    pub port: Option<u16>,
    /// `host:port`.
    pub host: String,
    pub route: String,
}

/// Where in the way of a request a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Before anything else, also before it is asked who may come in.
    First,
    /// When all that is left is to answer or to send it on: after authorization and injected faults.
    Last,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimit {
    /// The EnvoyFilter that asks for it.
    pub resource: ResourceRef,
    /// The patch, such as `spec.configPatches[0]`.
    pub field: String,
    /// How many requests pass.
    pub tokens: Tokens,
    /// The status of those that don't; never below 400.
    pub status: u16,
    /// How many requests are counted at all.
    pub enabled: Fraction,
    /// How many of those that find no token are refused.
    pub enforced: Fraction,
    /// Headers of the answer to those that are refused.
    pub headers: Vec<Added>,
}

/// A bucket of tokens: each request takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// How many it holds, and has at first.
    pub most: u32,
    /// How many come back each `interval`.
    pub fill: u32,
    /// At least 50 ms.
    pub interval: Duration,
}

/// How many of some: `numerator` of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fraction {
    /// So many.
    pub numerator: u32,
    /// Of a hundred, ten thousand or a million; never 0.
    pub denominator: u32,
}

/// A header to add to an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Its name, in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether others of its name stay; else it takes their place.
    pub append: bool,
}

/// Where a request is when it meets a limit. Requests at another port, or of a connection that is encrypted where the other
/// was not, take from another bucket: they pass through another of Envoy's filter chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spot<'a> {
    /// The workload's port.
    pub port: u16,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
    /// At a gateway the name of the virtual host, `shop.example.com:80`; at a sidecar nothing.
    pub host: &'a str,
    /// The name of the route; at a sidecar nothing.
    pub route: &'a str,
}

impl<'a> Spot<'a> {
    /// A plain request to a port of the workload; the other methods say more.
    pub fn new(port: u16) -> Self {
        Spot { port, encrypted: false, host: "", route: "" }
    }

    /// Of a connection that was encrypted, or was not.
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// For this route of this virtual host.
    pub fn routed(mut self, host: &'a str, route: &'a str) -> Self {
        (self.host, self.route) = (host, route);
        self
    }
}

/// Names a limit within one set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitId {
    is_of_routes: bool,
    at: u32,
}

impl LimitId {
    /// Another number for each limit of the set.
    pub(crate) fn number(self) -> u32 {
        self.at.wrapping_mul(2).wrapping_add(u32::from(self.is_of_routes))
    }
}

impl RateLimits {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The limits that a request meets at a stage, in order. Once one refuses it, it does not come to the next.
    pub fn at<'l, 's>(
        &'l self,
        stage: Stage,
        spot: &'s Spot<'s>,
    ) -> impl Iterator<Item = (LimitId, &'l RateLimit)> + use<'l, 's> {
        let met = (0..).zip(&self.filters).filter(move |(_, filter)| filter.stage == stage && filter.meets(spot.port));
        met.filter_map(move |(at, filter)| match self.of_route(spot) {
            Some(own) => Some(own),
            None => Some((LimitId { is_of_routes: false, at }, filter.limit.as_ref()?)),
        })
    }

    /// The limit that takes the place of every filter's own.
    fn of_route(&self, spot: &Spot<'_>) -> Option<(LimitId, &RateLimit)> {
        let at = self.routes.iter().rposition(|(routes, _)| routes.mean(spot))?;
        let id = LimitId { is_of_routes: true, at: u32::try_from(at).ok()? };
        Some((id, &self.routes.get(at)?.1))
    }

    /// A limit by its name.
    pub fn get(&self, id: LimitId) -> Option<&RateLimit> {
        let at = usize::try_from(id.at).ok()?;
        match id.is_of_routes {
            true => self.routes.get(at).map(|(_, limit)| limit),
            false => self.filters.get(at)?.limit.as_ref(),
        }
    }

    /// The name of a limit that is the same as this one; where several are, that of the first.
    pub(crate) fn find(&self, wanted: &RateLimit) -> Option<LimitId> {
        let of_filter = self.filters.iter().position(|filter| filter.limit.as_ref() == Some(wanted));
        let of_routes = || self.routes.iter().position(|(_, limit)| limit == wanted);
        let (is_of_routes, at) = match of_filter {
            Some(at) => (false, at),
            None => (true, of_routes()?),
        };
        Some(LimitId { is_of_routes, at: u32::try_from(at).ok()? })
    }
}

impl Filter {
    fn meets(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

impl Routes {
    fn mean(&self, spot: &Spot<'_>) -> bool {
        self.port.is_none_or(|port| port == spot.port)
            && (self.host.is_empty() || self.host == spot.host)
            && (self.route.is_empty() || self.route == spot.route)
    }
}

impl Fraction {
    /// None at all.
    pub const NONE: Fraction = Fraction { numerator: 0, denominator: 100 };

    /// Whether a draw is among them.
    pub fn holds(self, draw: u64) -> bool {
        draw.checked_rem(u64::from(self.denominator)).is_some_and(|drawn| drawn < u64::from(self.numerator))
    }
}
