//! The endpoints of a cluster.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as Host, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

use super::proto::{address, uint};
use crate::balance::{Place, places};
use crate::plan::{Cluster, Endpoint};

/// The endpoints of a cluster by locality, as an Envoy that stands `here` prefers them.
pub(super) fn assignment(cluster: &Cluster, here: &str) -> ClusterLoadAssignment {
    let policy = &cluster.policy;
    let there: Vec<(&str, u32)> = cluster.endpoints.iter().map(|known| (&*known.locality, known.weight)).collect();
    let places = places(policy.locality.as_ref(), policy.outlier_detection.is_some(), here, &there);
    let mut groups: BTreeMap<(u32, &str), (Place, Vec<&Endpoint>)> = BTreeMap::new();
    for (endpoint, place) in cluster.endpoints.iter().zip(places) {
        let Some(place) = place else { continue };
        groups.entry((place.priority, &endpoint.locality)).or_insert((place, Vec::new())).1.push(endpoint);
    }
    let endpoints = groups.into_iter().map(|((_, at), (place, members))| group(at, place, &members)).collect();
    ClusterLoadAssignment { cluster_name: cluster.name.to_string(), endpoints, ..ClusterLoadAssignment::default() }
}

fn group(at: &str, place: Place, members: &[&Endpoint]) -> LocalityLbEndpoints {
    let total = members.iter().fold(0u32, |sum, member| sum.saturating_add(member.weight.max(1)));
    LocalityLbEndpoints {
        locality: locality(at),
        lb_endpoints: members.iter().map(|member| host(member)).collect(),
        load_balancing_weight: uint(place.share.unwrap_or(total)),
        priority: place.priority,
        ..LocalityLbEndpoints::default()
    }
}

fn locality(text: &str) -> Option<Locality> {
    if text.is_empty() {
        return None;
    }
    let mut parts = text.splitn(3, '/').map(str::to_string);
    let mut next = || parts.next().unwrap_or_default();
    Some(Locality { region: next(), zone: next(), sub_zone: next() })
}

fn host(endpoint: &Endpoint) -> LbEndpoint {
    let host = Host { address: Some(address(&endpoint.address, endpoint.port)), ..Host::default() };
    LbEndpoint {
        load_balancing_weight: uint(endpoint.weight.max(1)),
        host_identifier: Some(HostIdentifier::Endpoint(host)),
        ..LbEndpoint::default()
    }
}
