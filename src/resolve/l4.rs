//! Connections whose content is not looked at: tcp and tls rules, and the services that have none.
//!
//! Source: istio `pilot/pkg/networking/core/tls.go` and `networkfilter.go`; reference section 10.

use std::rc::Rc;

use super::Findings;
use super::cluster::Clusters;
use super::registry::{Kind, Protocol, Service};
use super::sidecar::Outbound;
use crate::plan::{Chain, Cidr, Destination, Listener, Target};

/// The listeners of ports that carry no HTTP.
pub(super) fn listeners(
    outbound: &Outbound<'_>,
    services: &[Rc<Service>],
    listeners: &mut Vec<Listener>,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) {
    for service in services.iter().filter(|service| service.alias_of.is_none()) {
        for port in service.ports.iter().filter(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls)) {
            let chains = chains(outbound, service, port.number, clusters, findings);
            let addresses = match service.kind {
                Kind::Headless => service.members.iter().filter_map(|member| member.address.parse().ok()).collect(),
                _ => service.addresses.clone(),
            };
            add(Listener { chains, ..Listener::new(port.number, addresses) }, listeners);
        }
    }
}

/// Adds a listener; where one for the same place is there, it gets the chains.
fn add(listener: Listener, listeners: &mut Vec<Listener>) {
    let there = listeners.iter_mut().find(|known| known.port == listener.port && known.addresses == listener.addresses);
    match there {
        Some(known) => known.chains.extend(listener.chains),
        None => listeners.push(listener),
    }
}

/// The chains of one port of a service for what is not HTTP.
pub(super) fn chains(
    outbound: &Outbound<'_>,
    service: &Rc<Service>,
    port: u16,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) -> Vec<Chain> {
    let _ = (outbound, findings);
    let cluster = clusters.intern(service.host.as_str(), "", port);
    let mut chain = Chain::new(Target::Tcp { destinations: vec![Destination::new(cluster, 0)], origin: None });
    chain.subnets = service.subnets.iter().filter_map(|subnet| Cidr::parse(subnet)).collect();
    vec![chain]
}
