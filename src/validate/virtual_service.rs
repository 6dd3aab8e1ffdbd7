//! A VirtualService: its hosts and gateways, and its rules in order.

use super::export_to::{self, Exported};
use super::field::Field;
use super::findings::Findings;
use super::http::{self, Surroundings};
use super::{domain, headers, l4, reach};
use crate::diagnostic::Diagnostic;
use crate::model::virtual_service::HttpMatchRequest;
use crate::model::{VirtualService, VirtualServiceSpec};
use crate::name::HostPattern;

/// The gateway that stands for all sidecars.
const MESH: &str = "mesh";
/// Says that a VirtualService was made from a route of the Gateway API.
const SEMANTICS: &str = "internal.istio.io/route-semantics";

/// Checks a VirtualService.
pub(super) fn check(rule: &VirtualService, found: &mut Findings) {
    let (spec, field) = (&rule.spec, Field::spec());
    let from_gateway_api = rule.metadata.annotations.get(SEMANTICS).is_some_and(|what| what == "gateway");
    if spec.hosts.is_empty() {
        delegate(spec, &field, found);
    }
    gateways(&spec.gateways, &field.key("gateways"), from_gateway_api, found);
    let for_gateways = !spec.gateways.is_empty() && !spec.gateways.iter().any(|name| name == MESH);
    if !for_gateways {
        no_claims(spec, &field, found);
    }
    hosts(spec, for_gateways, &field.key("hosts"), found);
    rules(spec, from_gateway_api, &field, found);
    export_to::check(&spec.export_to, Exported::Rule, found);
    reach::check(spec, &field, found);
}

/// Without hosts, others delegate to it, and they decide where and how it applies.
fn delegate(spec: &VirtualServiceSpec, field: &Field, found: &mut Findings) {
    for (word, given) in
        [("gateways", !spec.gateways.is_empty()), ("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())]
    {
        if given {
            let message = format!("a VirtualService without `hosts` is a delegate, and must not have `{word}`");
            found.error(&field.key(word), "bad-delegate", message);
        }
    }
}

/// Names of gateways, up to and with the first that has no namespace: Istio looks at no later one.
pub(super) fn gateways(names: &[String], field: &Field, from_gateway_api: bool, found: &mut Findings) {
    for (i, name) in names.iter().enumerate() {
        let field = field.at(i);
        let Some((namespace, short)) = name.split_once('/') else { return plain_gateway(name, &field, found) };
        let message = match (domain::is_label(namespace), domain::is_label(short) || from_gateway_api) {
            (false, _) => format!("`{name}` is no gateway: `{namespace}` is no namespace"),
            (_, false) => format!("`{name}` is no gateway: `{short}` is no DNS label"),
            _ if short.is_empty() => format!("`{name}` is no gateway: the name is missing"),
            _ => continue,
        };
        found.error(&field, "bad-gateway-name", message);
    }
}

fn plain_gateway(name: &str, field: &Field, found: &mut Findings) {
    let mut labels = name.split('.');
    if let (Some(short), Some(namespace)) = (labels.next(), labels.next()) {
        let message = format!("`{name}` is an old form; write `{namespace}/{short}`");
        found.warning(field, "legacy-gateway-name", message);
    }
    found.check(field, "bad-gateway-name", domain::exact(name));
}

/// Claims of tokens are known at gateways only.
fn no_claims(spec: &VirtualServiceSpec, field: &Field, found: &mut Findings) {
    for (i, rule) in spec.http.iter().enumerate() {
        for (j, block) in rule.iter().flat_map(|rule| &rule.r#match).enumerate() {
            if let Some(block) = block {
                no_claims_in(block, &field.key("http").at(i).key("match").at(j), found);
            }
        }
    }
}

fn no_claims_in(block: &HttpMatchRequest, field: &Field, found: &mut Findings) {
    for (word, names) in [("headers", &block.headers), ("withoutHeaders", &block.without_headers)] {
        for name in names.keys().filter(|name| headers::is_claim(name)) {
            let message = format!("`{name}` is known at gateways only, and this VirtualService applies to the mesh");
            found.error(&field.key(word).key(name), "claim-without-gateway", message);
        }
    }
}

fn hosts(spec: &VirtualServiceSpec, for_gateways: bool, field: &Field, found: &mut Findings) {
    let before = found.count();
    let has_sni = spec.tls.iter().flatten().flat_map(|rule| &rule.r#match).flatten().any(|m| !m.sni_hosts.is_empty());
    for (i, host) in spec.hosts.iter().enumerate() {
        let checked = if for_gateways && has_sni { domain::sni(host) } else { domain::wildcard(host) };
        if checked.is_err() && !domain::is_ip(host) {
            found.check(&field.at(i), "bad-host", checked);
        } else if !for_gateways && host == "*" {
            let message = "`*` is for gateways only, and this VirtualService applies to the mesh";
            found.error(&field.at(i), "bad-host", message);
        }
    }
    if found.count() == before {
        no_overlap(&spec.hosts, field, found);
    }
}

fn no_overlap(hosts: &[String], field: &Field, found: &mut Findings) {
    let patterns: Vec<_> = hosts.iter().map(|host| HostPattern::parse(host).ok()).collect();
    for (i, later) in patterns.iter().enumerate() {
        let overlaps = |earlier: &&HostPattern| later.as_ref().is_some_and(|later| later.overlaps(earlier));
        if let Some(earlier) = patterns[..i].iter().flatten().find(overlaps) {
            let message = format!("`{}` and `{earlier}` overlap", hosts[i]);
            found.error(&field.at(i), "duplicate-host", message);
        }
    }
}

fn rules(spec: &VirtualServiceSpec, from_gateway_api: bool, field: &Field, found: &mut Findings) {
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        let finding = Diagnostic::error("no-routes", "`http`, `tcp` or `tls` must be given");
        found.add(field, finding);
    }
    let around = Surroundings { is_delegate: spec.hosts.is_empty(), from_gateway_api };
    for (i, rule) in spec.http.iter().enumerate() {
        let field = field.key("http").at(i);
        match rule {
            Some(rule) => http::check(rule, around, &field, found),
            None => found.error(&field, "null-entry", "a rule must not be null"),
        }
    }
    for (i, rule) in spec.tls.iter().enumerate() {
        if let Some(rule) = rule {
            l4::tls(rule, spec, from_gateway_api, &field.key("tls").at(i), found);
        }
    }
    for (i, rule) in spec.tcp.iter().enumerate() {
        if let Some(rule) = rule {
            l4::tcp(rule, from_gateway_api, &field.key("tcp").at(i), found);
        }
    }
}
