//! The TLS and TCP rules of a VirtualService.

use std::collections::BTreeMap;

use super::field::Field;
use super::findings::Findings;
use super::{domain, http, labels, virtual_service};
use crate::model::VirtualServiceSpec;
use crate::model::virtual_service::{RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute};
use crate::name::HostPattern;

/// A TLS rule: it chooses by SNI, so it must have a match.
pub(super) fn tls(
    rule: &TlsRoute,
    spec: &VirtualServiceSpec,
    from_gateway_api: bool,
    field: &Field,
    found: &mut Findings,
) {
    if rule.r#match.is_empty() {
        found.error(field, "no-match", "a TLS rule must have a `match`");
    }
    for (i, block) in rule.r#match.iter().enumerate() {
        let field = field.key("match").at(i);
        match block {
            Some(block) => tls_match(block, spec, &field, found),
            None => found.error(&field, "null-entry", "a match must not be null"),
        }
    }
    route(&rule.route, from_gateway_api, field, found);
}

fn tls_match(block: &TlsMatchAttributes, spec: &VirtualServiceSpec, field: &Field, found: &mut Findings) {
    if block.sni_hosts.is_empty() {
        found.error(field, "no-sni-host", "a match of a TLS rule must have `sniHosts`");
    }
    for (i, host) in block.sni_hosts.iter().enumerate() {
        sni_host(host, spec, &field.key("sniHosts").at(i), found);
    }
    place(&block.destination_subnets, block.port, &block.source_labels, field, found);
    virtual_service::gateways(&block.gateways, &field.key("gateways"), false, found);
}

fn sni_host(host: &str, spec: &VirtualServiceSpec, field: &Field, found: &mut Findings) {
    let for_mesh = spec.gateways.iter().any(|name| name == "mesh");
    let checked = if for_mesh { domain::wildcard(host) } else { domain::sni(host) };
    if checked.is_err() && domain::is_ip(host) {
        let message = format!("`{host}` is an IP address; few clients send one as SNI");
        return found.warning(field, "ip-as-sni", message);
    }
    if checked.is_err() {
        return found.check(field, "bad-host", checked);
    }
    let mut hosts = spec.hosts.iter().filter_map(|host| HostPattern::parse(host).ok());
    let within = HostPattern::parse(host).is_ok_and(|host| hosts.any(|wide| host.is_within(&wide)));
    if !within {
        let message = format!("`{host}` lies within none of the VirtualService's hosts, `{}`", spec.hosts.join("`, `"));
        found.error(field, "foreign-sni-host", message);
    }
}

/// A TCP rule.
pub(super) fn tcp(rule: &TcpRoute, from_gateway_api: bool, field: &Field, found: &mut Findings) {
    for (i, block) in rule.r#match.iter().enumerate() {
        let field = field.key("match").at(i);
        let Some(block) = block else {
            found.error(&field, "null-entry", "a match must not be null");
            continue;
        };
        place(&block.destination_subnets, block.port, &block.source_labels, &field, found);
        found
            .without_warnings(|found| virtual_service::gateways(&block.gateways, &field.key("gateways"), false, found));
    }
    route(&rule.route, from_gateway_api, field, found);
}

fn place(subnets: &[String], port: u32, source_labels: &BTreeMap<String, String>, field: &Field, found: &mut Findings) {
    for (i, subnet) in subnets.iter().enumerate() {
        found.check(&field.key("destinationSubnets").at(i), "bad-subnet", domain::subnet(subnet));
    }
    if port != 0 {
        found.port(&field.key("port"), port);
    }
    labels::check(source_labels, &field.key("sourceLabels"), found);
}

fn route(route: &[Option<RouteDestination>], from_gateway_api: bool, field: &Field, found: &mut Findings) {
    if route.is_empty() {
        found.error(field, "no-action", "a rule must have a `route`");
    }
    let weighted: Vec<_> = route.iter().map(|e| e.as_ref().map(|e| (e.destination.as_ref(), e.weight))).collect();
    http::weights(&weighted, from_gateway_api, &field.key("route"), found);
}
