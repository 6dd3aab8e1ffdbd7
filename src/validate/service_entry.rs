//! A ServiceEntry: a service added to the registry.

use std::collections::BTreeSet;

use super::export_to::{self, Exported};
use super::field::Field;
use super::findings::Findings;
use super::protocol::{self, Protocol};
use super::workload_entry::{self, Ports};
use super::{domain, labels};
use crate::model::service_entry::{Location, Resolution, ServicePort};
use crate::model::{Metadata, ServiceEntry, ServiceEntrySpec, WorkloadEntrySpec};

/// Turns the automatic allocation of addresses off.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

/// Checks a ServiceEntry. One with a bad selector is looked at no further.
pub(super) fn check(entry: &ServiceEntry, found: &mut Findings) {
    let (spec, field) = (&entry.spec, Field::spec());
    if let Some(selector) = &spec.workload_selector {
        let labels_field = field.key("workloadSelector").key("labels");
        if !labels::selector(&selector.labels, &labels_field, found) {
            return;
        }
        if !spec.endpoints.is_empty() {
            let message = "only one of `workloadSelector`, `endpoints` may be given";
            found.error(&field, "exclusive-fields", message);
        }
    }
    hosts(&spec.hosts, &field, found);
    addresses(spec, &field.key("addresses"), found);
    ports(spec, &entry.metadata, &field.key("ports"), found);
    resolution(spec, &field, found);
    hosts_can_be_told_apart(spec, &field.key("hosts"), found);
    export_to::check(&spec.export_to, Exported::Service, found);
}

fn hosts(hosts: &[String], field: &Field, found: &mut Findings) {
    if hosts.is_empty() {
        found.error(field, "no-host", "a ServiceEntry must have `hosts`");
    }
    for (i, host) in hosts.iter().enumerate() {
        let field = field.key("hosts").at(i);
        if host == "*" {
            found.error(&field, "bad-host", "`*` is no host of a ServiceEntry");
            continue;
        }
        found.check(&field, "bad-host", domain::wildcard(host));
        if domain::is_partial_wildcard(host) {
            let message = format!("`{host}` has a wildcard for a part of a label only");
            found.warning(&field, "partial-wildcard", message);
        }
    }
    at_most(256, hosts.len(), &field.key("hosts"), found);
}

fn at_most(most: usize, count: usize, field: &Field, found: &mut Findings) {
    if count > most {
        found.error(field, "too-many", format!("{count} entries are too many: {most} are allowed"));
    }
}

fn addresses(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    for (i, address) in spec.addresses.iter().enumerate() {
        found.check(&field.at(i), "bad-address", domain::subnet(address));
    }
    let ranges = spec.addresses.iter().any(|address| address.contains('/'));
    if ranges && !matches!(spec.resolution, Resolution::None | Resolution::Static) {
        let message = format!("ranges of addresses need resolution `NONE` or `STATIC`, not `{}`", spec.resolution);
        found.error(field, "range-of-addresses", message);
    }
    at_most(256, spec.addresses.len(), field, found);
}

fn ports(spec: &ServiceEntrySpec, metadata: &Metadata, field: &Field, found: &mut Findings) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, it) in spec.ports.iter().enumerate() {
        let field = field.at(i);
        if !names.insert(it.name.as_str()) {
            let message = format!("the port name `{}` is given more than once", it.name);
            found.error(&field.key("name"), "duplicate-port-name", message);
        }
        if !numbers.insert(it.number) {
            found.error(&field.key("number"), "duplicate-port", format!("port `{}` is given before", it.number));
        }
        port(it, &field, found);
        let plain = it.protocol.is_empty() || it.protocol == "TCP";
        if plain && spec.addresses.is_empty() && !gets_addresses(spec, metadata) {
            let message = "a port of TCP, or of no protocol, needs `addresses` to be told from others of its number";
            found.warning(&field, "no-addresses", message);
        }
    }
    at_most(256, spec.ports.len(), field, found);
}

fn port(port: &ServicePort, field: &Field, found: &mut Findings) {
    found.port(&field.key("number"), port.number);
    if port.target_port != 0 {
        found.port(&field.key("targetPort"), port.target_port);
    }
    if !domain::is_label(&port.name) {
        found.error(&field.key("name"), "bad-port-name", format!("`{}` is no DNS label", port.name));
    }
    found.check(&field.key("protocol"), "unknown-protocol", protocol::known_or_empty(&port.protocol));
}

/// Whether Istio gives it addresses: by default, but not where addresses are not resolved.
fn gets_addresses(spec: &ServiceEntrySpec, metadata: &Metadata) -> bool {
    let refused = metadata.labels.get(AUTO_ALLOCATE).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    spec.resolution != Resolution::None && !refused
}

fn resolution(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    let endpoints = field.key("endpoints");
    match spec.resolution {
        Resolution::None => {
            no_endpoints(spec, &endpoints, found);
            if spec.workload_selector.is_some() {
                let message = "`workloadSelector` has no effect with resolution `NONE`";
                found.warning(&field.key("workloadSelector"), "no-effect", message);
            }
        }
        Resolution::Static => {
            let names = spec.ports.iter().map(|port| port.name.as_str()).collect();
            for (i, endpoint) in spec.endpoints.iter().enumerate() {
                workload_entry::endpoint(endpoint, &Ports::Of(&names), &endpoints.at(i), found);
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => by_dns(spec, field, found),
        Resolution::DynamicDns => by_dynamic_dns(spec, field, found),
    }
    at_most(4096, spec.endpoints.len(), &endpoints, found);
}

fn no_endpoints(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    if !spec.endpoints.is_empty() {
        found.error(field, "unused-endpoints", format!("resolution `{}` has no `endpoints`", spec.resolution));
    }
}

fn by_dns(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    for (i, host) in spec.hosts.iter().enumerate() {
        if spec.endpoints.is_empty() && domain::exact(host).is_err() {
            let message = format!("`{host}` cannot be resolved by DNS; name a host without wildcard, or `endpoints`");
            found.error(&field.key("hosts").at(i), "unresolvable-host", message);
        }
    }
    if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        let message = "resolution `DNS_ROUND_ROBIN` has at most one endpoint";
        found.error(&field.key("endpoints"), "too-many", message);
    }
    for (i, endpoint) in spec.endpoints.iter().enumerate() {
        resolved_endpoint(endpoint, spec, &field.key("endpoints").at(i), found);
    }
    let tcp = |port: &ServicePort| matches!(Protocol::of(&port.protocol), Protocol::Tcp | Protocol::Tls);
    if !spec.addresses.is_empty() && spec.hosts.len() > 1 && spec.ports.iter().any(tcp) {
        let message = "several hosts share `addresses` and a port of TCP, and cannot be told apart there";
        found.warning(&field.key("hosts"), "ambiguous-hosts", message);
    }
}

/// An endpoint whose address DNS may find out.
fn resolved_endpoint(endpoint: &WorkloadEntrySpec, spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    if !domain::is_ip(&endpoint.address) && domain::exact(&endpoint.address).is_err() {
        let message = format!("`{}` is neither a domain nor an IP address", endpoint.address);
        found.error(&field.key("address"), "bad-address", message);
    }
    labels::check(&endpoint.labels, &field.key("labels"), found);
    let names = spec.ports.iter().map(|port| port.name.as_str()).collect();
    workload_entry::ports(endpoint, &Ports::Of(&names), field, found);
}

/// The host of each request is resolved, so the request must name one that the entry left open.
fn by_dynamic_dns(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    no_endpoints(spec, &field.key("endpoints"), found);
    if spec.workload_selector.is_some() {
        let message = "resolution `DYNAMIC_DNS` has no `workloadSelector`";
        found.error(&field.key("workloadSelector"), "unused-endpoints", message);
    }
    if spec.location == Location::MeshInternal {
        let message = "resolution `DYNAMIC_DNS` needs location `MESH_EXTERNAL`";
        found.error(&field.key("location"), "bad-location", message);
    }
    for (i, host) in spec.hosts.iter().enumerate().filter(|(_, host)| !host.starts_with('*')) {
        let message = format!("resolution `DYNAMIC_DNS` needs hosts with a wildcard, and `{host}` has none");
        found.error(&field.key("hosts").at(i), "bad-host", message);
    }
    for (i, port) in spec.ports.iter().enumerate().filter(|(_, port)| !names_hosts(port)) {
        let message = format!("resolution `DYNAMIC_DNS` needs HTTP or TLS, not `{}`", port.protocol);
        found.error(&field.key("ports").at(i), "unknown-protocol", message);
    }
}

/// Whether requests at a port name their host.
fn names_hosts(port: &ServicePort) -> bool {
    matches!(Protocol::of(&port.protocol), Protocol::Http | Protocol::Tls)
}

fn hosts_can_be_told_apart(spec: &ServiceEntrySpec, field: &Field, found: &mut Findings) {
    let alike = spec.ports.iter().any(|port| !names_hosts(port));
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 && alike {
        let message = "several hosts need ports of HTTP or TLS only: nothing else names the host";
        found.error(field, "ambiguous-hosts", message);
    }
}
