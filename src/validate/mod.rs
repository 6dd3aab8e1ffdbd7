//! Istio's admission: would a cluster take this resource?
//!
//! Knows the rules of Istio's webhook (`pkg/config/validation`) and those of the CRDs' schemas that reading alone does
//! not hold, for one resource at a time. Knows no other resource, so it never says that a host, a subset or a gateway
//! is missing, and nothing of text: unknown fields and wrong types are found by whoever reads.
//!
//! All mistakes of a resource are told, except where Istio itself stops at the first. Warnings are those that Istio
//! gives, no more: some of its checks drop the warnings of what they look into, and so do these.

use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::{Metadata, Object};

mod actions;
mod destination_rule;
mod domain;
mod export_to;
mod faults;
mod field;
mod findings;
mod gateway;
mod headers;
mod http;
mod l4;
mod labels;
mod load_balancer;
mod locality;
mod matches;
mod protocol;
mod reach;
mod service_entry;
mod sidecar;
mod tls;
mod traffic_policy;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use workload_group::{
    ExecProbe, GrpcProbe, HttpHeader, HttpProbe, Probe, TcpProbe, Template, WorkloadGroup, WorkloadGroupSpec,
    validate_workload_group,
};

use findings::Findings;

/// What Istio's admission has to say about a resource; nothing, if it is taken without a word.
///
/// A cluster refuses it when any of the findings is an error. Kinds that Istio does not judge have no findings. A
/// resource without a namespace is taken to be in `default`. The time grows with the square of the number of hosts and of
/// prefix matches, which are compared with each other.
///
/// ```
/// use meshroute::model::VirtualService;
/// use meshroute::validate::validate;
///
/// let mut rule = VirtualService::default();
/// rule.metadata.name = "web".into();
/// rule.spec.hosts = vec!["web".into()];
/// let findings = validate(&rule.into());
/// assert_eq!(findings[0].code, "no-routes");
/// assert_eq!(findings[0].field, "spec");
/// ```
pub fn validate(object: &Object) -> Vec<Diagnostic> {
    if object.group() != "networking.istio.io" {
        return Vec::new();
    }
    let mut found = Findings::new(reference(object.kind(), object.metadata()));
    if !annotations_are_allowed(object.metadata(), &mut found) {
        return found.list();
    }
    match object {
        Object::VirtualService(rule) => virtual_service::check(rule, &mut found),
        Object::DestinationRule(rule) => destination_rule::check(rule, &mut found),
        Object::Gateway(gateway) => gateway::check(gateway, &mut found),
        Object::ServiceEntry(entry) => service_entry::check(entry, &mut found),
        Object::Sidecar(sidecar) => sidecar::check(sidecar, &mut found),
        Object::WorkloadEntry(entry) => workload_entry::check(entry, &mut found),
        _ => {}
    }
    found.list()
}

fn reference(kind: &str, metadata: &Metadata) -> ResourceRef {
    let namespace = if metadata.namespace.is_empty() { "default" } else { &metadata.namespace };
    ResourceRef::new(kind, namespace, &metadata.name)
}

/// Annotations that are Istio's own, or that these kinds don't have.
const FORBIDDEN: [&str; 4] = [
    "istio.io/dry-run",
    "internal.istio.io/webhook-always-reject",
    "internal.istio.io/parent-namespace",
    "internal.istio.io/parents",
];

/// Istio looks no further at a resource that carries one of them.
fn annotations_are_allowed(metadata: &Metadata, found: &mut Findings) -> bool {
    let Some(name) = FORBIDDEN.iter().find(|name| metadata.annotations.contains_key(**name)) else { return true };
    let field = field::Field::root("metadata").key("annotations").key(name);
    found.error(&field, "forbidden-annotation", format!("the annotation `{name}` may not be set here"));
    false
}

#[cfg(test)]
mod tests;
