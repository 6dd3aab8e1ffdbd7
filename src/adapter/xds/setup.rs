//! What a plan does not say of an Envoy: how connections reach it, and what it writes down.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;

use crate::resolve::{Viewpoint, ViewpointKind};

/// How connections reach an Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entry {
    /// Everything is redirected to this address by the system, which remembers what was dialled: iptables, as Istio
    /// sets them up.
    Redirected(SocketAddr),
    /// Everything comes to this address behind a line of the PROXY protocol that says what was dialled.
    ProxyProtocol(SocketAddr),
    /// Each port of the plan is opened at this address; gateways. What a service's own address was dialled for cannot
    /// be told apart then: of several listeners on one port, the one for any address is opened, or the first.
    Direct(IpAddr),
}

/// What a plan does not say of an Envoy.
///
/// ```
/// use meshroute::adapter::xds::{Entry, Setup};
/// use meshroute::Viewpoint;
/// let gateway = Setup::of(&Viewpoint::gateway("istio-system"), "eu/a/1");
/// assert_eq!(gateway.entry, Entry::Direct([0, 0, 0, 0].into()));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Setup {
    /// How connections reach it.
    pub entry: Entry,
    /// Whether clients outside the mesh speak to it, whose headers of forwarding are not believed.
    pub edge: bool,
    /// Where it stands: `region/zone/subzone`; empty where that is not known. Near endpoints are preferred.
    pub locality: String,
    /// What is written down of each request and connection.
    pub access_log: Vec<AccessLog>,
}

impl Setup {
    /// What Istio does for a client: a sidecar gets what iptables redirect to port 15001, a gateway opens its ports.
    pub fn of(viewpoint: &Viewpoint, locality: &str) -> Self {
        let edge = viewpoint.kind == ViewpointKind::Gateway;
        let entry = match edge {
            true => Entry::Direct([0; 4].into()),
            false => Entry::Redirected(([0; 4], 15001).into()),
        };
        Setup { entry, edge, locality: locality.into(), access_log: Vec::new() }
    }

    /// With another way in.
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entry = entry;
        self
    }

    /// With this written down.
    pub fn access_log(mut self, access_log: Vec<AccessLog>) -> Self {
        self.access_log = access_log;
        self
    }
}
