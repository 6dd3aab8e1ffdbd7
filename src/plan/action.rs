//! What a route does with a request that it takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HeaderEdits, ValueMatch};
use crate::pattern::{Pattern, PatternError, Rewrite};

/// What a route does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It goes on to a cluster.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// An answer is made here.
    Direct(DirectResponse),
}

/// Where a request goes on to, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Forward {
    /// At least one; of several, each has a weight above zero.
    pub destinations: Vec<Destination>,
    /// Whether the destinations are weighted clusters, even if only one is left of them.
    pub weighted: bool,
    /// What becomes of the path.
    pub rewrite: Option<PathRewrite>,
    /// The time for the whole exchange; `None`: no limit.
    pub timeout: Option<Duration>,
    /// When and how often another try is made; `None`: never.
    pub retry: Option<Retry>,
    /// Who else gets a copy.
    pub mirrors: Vec<Mirror>,
    /// What makes requests stick to an endpoint, from the route's DestinationRule.
    pub hash: Option<super::HashKey>,
}

impl Forward {
    /// A forward with nothing but destinations.
    pub fn new(destinations: Vec<Destination>) -> Self {
        Forward {
            weighted: destinations.len() > 1,
            destinations,
            rewrite: None,
            timeout: None,
            retry: None,
            mirrors: Vec::new(),
            hash: None,
        }
    }
}

/// One cluster that a request may go to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Destination {
    /// Index into [`Plan::clusters`](super::Plan::clusters).
    pub cluster: u32,
    /// Its share, relative to the others'. 0 only where it stands alone.
    pub weight: u32,
    /// What the authority becomes.
    pub authority: Option<Box<str>>,
    /// Edits of the request's headers, before those of the route.
    pub request: HeaderEdits,
    /// Edits of the response's headers, before those of the route.
    pub response: HeaderEdits,
}

impl Destination {
    /// A destination without edits.
    pub fn new(cluster: u32, weight: u32) -> Self {
        Destination {
            cluster,
            weight,
            authority: None,
            request: HeaderEdits::default(),
            response: HeaderEdits::default(),
        }
    }

    /// Envoy's weighted choice: `draw % total` walks the half-open intervals `[0, w1)`, `[w1, w1 + w2)`, ...
    ///
    /// Gives the place of the one that is picked. One alone is picked whatever its weight; `None` where there are none, or
    /// all weights are 0.
    /// `draw` is asked only where there are several.
    pub fn pick(destinations: &[Destination], draw: impl FnOnce() -> u64) -> Option<u32> {
        if destinations.len() == 1 {
            return Some(0);
        }
        let total: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
        let mut left = draw().checked_rem(total)?;
        let hit = |destination: &Destination| {
            let weight = u64::from(destination.weight);
            let hit = left < weight;
            left = left.saturating_sub(weight);
            hit
        };
        destinations.iter().position(hit).map(|at| at as u32)
    }
}

/// What becomes of the path; the query stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// What matched gives way to this text: the matched prefix, or the whole path of an exact or regex match.
    Matched(Box<str>),
    /// Every match of a pattern in the path gives way to a text.
    Regex(RegexRewrite),
}

/// A pattern, and what every match of it gives way to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "(Pattern, String)", into = "(Pattern, String)")]
pub struct RegexRewrite {
    pattern: Pattern,
    text: Box<str>,
    rewrite: Rewrite,
}

impl RegexRewrite {
    /// A rewrite by a text in which `\1` stands for the pattern's first group and `\0` for the whole match.
    ///
    /// # Errors
    /// The text names a group that the pattern does not have, or has a lone `\`.
    pub fn parse(pattern: Pattern, text: &str) -> Result<Self, PatternError> {
        Ok(RegexRewrite { rewrite: Rewrite::parse(text, &pattern)?, text: text.into(), pattern })
    }

    /// The value with every match replaced.
    pub fn apply(&self, value: &[u8]) -> Vec<u8> {
        self.pattern.replace_all(value, &self.rewrite)
    }
}

impl TryFrom<(Pattern, String)> for RegexRewrite {
    type Error = PatternError;
    fn try_from((pattern, text): (Pattern, String)) -> Result<Self, PatternError> {
        RegexRewrite::parse(pattern, &text)
    }
}

impl From<RegexRewrite> for (Pattern, String) {
    fn from(rewrite: RegexRewrite) -> Self {
        (rewrite.pattern, rewrite.text.into())
    }
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
    /// What becomes of the path; `None`: kept.
    pub path: Option<RedirectPath>,
    /// The new authority; `None`: kept, with its port.
    pub authority: Option<Box<str>>,
    /// The new scheme; `None`: kept.
    pub scheme: Option<Box<str>>,
    /// The new port; `None`: the authority's own where that is kept, else the scheme's.
    pub port: Option<u16>,
}

impl Redirect {
    /// A redirect that changes nothing yet.
    pub fn new(code: u16) -> Self {
        Redirect { code, path: None, authority: None, scheme: None, port: None }
    }
}

/// What becomes of the path in a redirect. The query is kept unless the text has one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPath {
    /// All of it gives way.
    Whole(Box<str>),
    /// The matched prefix gives way.
    Prefix(Box<str>),
}

/// An answer made here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl DirectResponse {
    /// An answer.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        DirectResponse { status, body: body.into() }
    }
}

/// When another try is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retry {
    /// How many tries after the first.
    pub attempts: u32,
    /// The time for each; `None`: the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's retry conditions.
    pub on: Vec<Box<str>>,
    /// Statuses that count as `retriable-status-codes`.
    pub statuses: Vec<u16>,
    /// The first pause; later ones grow.
    pub backoff: Duration,
    /// Whether endpoints that were tried are passed over.
    pub ignore_previous_hosts: bool,
}

impl Retry {
    /// Istio's built-in policy: two more tries, on failures in which nothing reached the application.
    pub fn built_in() -> Self {
        Retry {
            attempts: 2,
            per_try_timeout: None,
            on: ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"]
                .map(Into::into)
                .into(),
            statuses: Vec::new(),
            backoff: Duration::from_millis(25),
            ignore_previous_hosts: true,
        }
    }
}

/// A cluster that gets copies; its answers are thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mirror {
    /// Index into [`Plan::clusters`](super::Plan::clusters).
    pub cluster: u32,
    /// How many of a million requests.
    pub per_million: u32,
}

impl Mirror {
    /// A mirror.
    pub fn new(cluster: u32, per_million: u32) -> Self {
        Mirror { cluster, per_million }
    }
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Fault {
    /// Waits first.
    pub delay: Option<Delay>,
    /// Then answers instead of going on.
    pub abort: Option<Abort>,
}

/// A pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// How long.
    pub duration: Duration,
    /// How many of a million requests.
    pub per_million: u32,
}

/// An answer made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The HTTP status; 200 for a gRPC abort.
    pub status: u16,
    /// The gRPC status, where it was given as one.
    pub grpc: Option<u8>,
    /// How many of a million requests.
    pub per_million: u32,
}

/// Cross-origin policy (`corsPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Cors {
    /// Origins that are let in.
    pub allow_origins: Vec<ValueMatch>,
    /// For `access-control-allow-methods`.
    pub allow_methods: Box<str>,
    /// For `access-control-allow-headers`.
    pub allow_headers: Box<str>,
    /// For `access-control-expose-headers`.
    pub expose_headers: Box<str>,
    /// For `access-control-max-age`, in seconds.
    pub max_age: Option<u64>,
    /// For `access-control-allow-credentials`.
    pub allow_credentials: bool,
    /// Whether a preflight whose origin does not match goes on to the destination.
    pub forward_unmatched_preflights: bool,
}
