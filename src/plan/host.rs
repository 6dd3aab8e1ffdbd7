//! Route tables, virtual hosts and routes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Action, Condition, Cors, Destination, Fault, HeaderEdits, List};
use crate::diagnostic::ResourceRef;
use crate::name::HostPattern;

/// The virtual hosts of one listener, by the host that a request names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HttpTable {
    /// Istio's name for it: the port, or `host:port` for a sniffed port of one service.
    pub name: Arc<str>,
    /// No domain stands twice in them.
    pub hosts: List<VirtualHost>,
    /// What becomes of a request whose host is in none of them.
    pub unclaimed: Unclaimed,
}

impl HttpTable {
    /// A table without hosts.
    pub fn new(name: impl Into<Arc<str>>, unclaimed: Unclaimed) -> Self {
        HttpTable { name: name.into(), hosts: List::new(), unclaimed }
    }
}

/// What becomes of a request whose host nobody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unclaimed {
    /// It goes to the address that was dialled (`ALLOW_ANY`).
    Passthrough,
    /// 502 (`REGISTRY_ONLY`, Istio's `block_all`).
    BlockAll,
    /// 404 NR (gateways).
    NotFound,
}

/// Some domains and the routes that serve them. Once chosen, there is no way back to another virtual host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VirtualHost {
    /// `host:port`.
    pub name: Arc<str>,
    /// In lower case; `*` in front stands for at least one byte (`*` alone for anything).
    pub domains: Vec<HostPattern>,
    /// In order; the first one that holds wins.
    pub routes: Arc<[Route]>,
    /// Whether a plain request is answered with a redirect to https (a gateway server's `httpsRedirect`).
    pub require_tls: bool,
}

impl VirtualHost {
    /// A virtual host without routes.
    pub fn new(name: impl Into<Arc<str>>, domains: Vec<HostPattern>) -> Self {
        VirtualHost { name: name.into(), domains, routes: Arc::new([]), require_tls: false }
    }
}

/// One match block of one rule, and what to do where it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Route {
    /// The rule's name, with the match block's behind a dot; `default` for a service's default route.
    pub name: Arc<str>,
    /// When it holds.
    pub condition: Condition,
    /// What then.
    pub action: Action,
    /// Edits of the request's headers, after those of the destination.
    pub request: HeaderEdits,
    /// Edits of the response's headers, after those of the destination.
    pub response: HeaderEdits,
    /// Faults to inject, before anything else.
    pub fault: Option<Fault>,
    /// Cross-origin policy.
    pub cors: Option<Cors>,
    /// Where it was written; `None` for a service's default route.
    pub origin: Option<Origin>,
}

impl Route {
    /// A route without edits, fault, cross-origin policy or origin.
    pub fn new(name: impl Into<Arc<str>>, condition: Condition, action: Action) -> Self {
        Route {
            name: name.into(),
            condition,
            action,
            request: HeaderEdits::default(),
            response: HeaderEdits::default(),
            fault: None,
            cors: None,
            origin: None,
        }
    }

    /// The destinations that it sends every request to, with nothing to be worked out but which and whether that takes
    /// traffic.
    pub(crate) fn only_forwards_to(&self) -> Option<&[Destination]> {
        let Action::Forward(forward) = &self.action else { return None };
        let edits = |destination: &Destination| destination.request.is_made();
        let more = self.fault.is_some() || self.cors.is_some() || self.request.is_made();
        (!more && !forward.destinations.iter().any(edits)).then_some(&*forward.destinations)
    }
}

/// Which rule of which resource a route was made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// The VirtualService whose host was asked for: the root, where rules were delegated.
    pub resource: Arc<ResourceRef>,
    /// Which of its rules, counted after delegates were merged in, from 0.
    pub rule: u32,
    /// Which match block of the rule; `None` for a rule without any.
    pub block: Option<u32>,
    /// The resource that the rule is written in: the delegate, where it was delegated.
    pub written_in: Arc<ResourceRef>,
    /// The field of `written_in` that says it: `spec.http[0].match[1]`.
    pub field: Arc<str>,
}
