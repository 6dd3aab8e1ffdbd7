//! What the configuration means to one client, as plain data: listeners, virtual hosts, routes in order, clusters.
//!
//! The narrow waist of the crate. Every name here is absolute, every value legal, each item says which resource and
//! field it came from. Knows nothing of Istio's manners (short names, exportTo, defaults, merging: they are dealt
//! with by [`Plan::resolve`]) and nothing of how a route is found fast ([`Router`](crate::Router)).
//!
//! The words are Envoy's. A plan is `Serialize` and `Deserialize`, so that a control plane can send it; what comes
//! over a wire is checked again when it is compiled.

mod action;
mod canonical;
mod chain;
mod cluster;
mod condition;
mod edit;
mod host;
mod list;
mod names;

pub use action::{
    Abort, Action, Cors, Delay, Destination, DirectResponse, Fault, Forward, Mirror, PathRewrite, Redirect,
    RedirectPath, RegexRewrite, Retry,
};
pub use chain::{Chain, Cidr, Target, Transport};
pub use cluster::{Cluster, Endpoint, HashKey, HttpVersion, LoadBalancer, Policy};
pub(crate) use condition::Rest;
pub use condition::{Condition, HeaderMatch, Miss, PathMatch, QueryMatch, ValueMatch};
pub(crate) use edit::RequestLine;
pub use edit::{EditHeaders, HeaderEdits, HeaderWrite, Part};
pub use host::{HttpTable, Origin, Route, Unclaimed, VirtualHost};
pub use list::{Iter, List};
pub use names::Names;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::HostPattern;
use crate::request::Connection;

/// Everything that one client needs to decide where its traffic goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Where traffic is taken up. The most specific one wins: address and port, then port.
    pub listeners: List<Listener>,
    /// Named by index from routes and chains; also those that do not exist, marked as such.
    pub clusters: List<Cluster>,
    /// What becomes of a connection that no listener takes up.
    pub unmatched: Unmatched,
    /// What DNS would answer to this client.
    pub names: Names,
}

/// One place where traffic is taken up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Listener {
    /// The port dialled.
    pub port: u16,
    /// The addresses dialled; none: any address.
    pub addresses: Vec<IpAddr>,
    /// What is done with a connection; the most specific chain that fits takes it, else it is closed.
    pub chains: Vec<Chain>,
}

impl Listener {
    /// A listener without chains.
    pub fn new(port: u16, addresses: Vec<IpAddr>) -> Self {
        Listener { port, addresses, chains: Vec::new() }
    }
}

/// What becomes of a connection that no listener takes up (`outboundTrafficPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unmatched {
    /// It goes to the address that was dialled.
    #[default]
    Passthrough,
    /// It is accepted and closed.
    Blackhole,
    /// Nothing listens there: gateways.
    Reset,
}

impl Listener {
    /// The chain that takes a connection. Like Envoy, it narrows step by step and never goes back a step.
    pub(crate) fn chain(&self, connection: &Connection<'_>, http: bool) -> Option<&Chain> {
        if let [only] = self.chains.as_slice()
            && only.takes_all()
        {
            return Some(only);
        }
        let subnets = |chain: &Chain| match connection.address {
            _ if chain.subnets.is_empty() => Some(0),
            Some(address) => {
                chain.subnets.iter().filter(|s| s.contains(address)).map(|s| 1 + u16::from(s.bits())).max()
            }
            None => None,
        };
        let sni = connection.tls.and_then(|hello| hello.sni).unwrap_or_default();
        let names = |chain: &Chain| match chain.server_names.as_slice() {
            [] => Some(0),
            names => names.iter().filter_map(|name| name_rank(name, sni)).max(),
        };
        let transport = |chain: &Chain| match chain.transport {
            Transport::Any => Some(0),
            Transport::Tls | Transport::Terminated => connection.tls.map(|_| 1),
        };
        let application = |chain: &Chain| match chain.http_only {
            false => Some(0),
            true => (http && connection.tls.is_none()).then_some(1),
        };
        let all = || self.chains.iter();
        let subnet = all().filter_map(subnets).max()?;
        let of_subnet = || all().filter(|chain| subnets(chain) == Some(subnet));
        let name = of_subnet().filter_map(names).max()?;
        let of_name = || of_subnet().filter(|chain| names(chain) == Some(name));
        let encrypted = of_name().filter_map(transport).max()?;
        let of_transport = || of_name().filter(|chain| transport(chain) == Some(encrypted));
        let recognised = of_transport().filter_map(application).max()?;
        of_transport().find(|chain| application(chain) == Some(recognised))
    }
}

/// How well a server name fits: exact before wildcard, longer wildcard before shorter.
fn name_rank(pattern: &HostPattern, sni: &str) -> Option<u16> {
    let (text, exact) = (pattern.suffix(), !pattern.is_wildcard());
    let cut = sni.len().checked_sub(text.len())?;
    let fits = sni.as_bytes()[cut..].eq_ignore_ascii_case(text.as_bytes()) && if exact { cut == 0 } else { cut > 0 };
    fits.then_some(if exact { u16::MAX } else { 1 + text.len() as u16 })
}
