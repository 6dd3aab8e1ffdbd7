//! What DestinationRules promise: hosts that exist (IST0174), subsets that select pods (IST0173), certificates that
//! are checked (IST0128, IST0129), failover that can happen.

use std::collections::BTreeMap;

use super::hosts::Host;
use super::world::World;
use super::{Findings, selector_words};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::has_labels;
use crate::model::destination_rule::{
    ClientTlsMode, ClientTlsSettings, LoadBalancerSettings, OutlierDetection, Subset, TrafficPolicy,
};
use crate::model::{DestinationRule, Object, Pod};

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    for (reference, rule) in &world.destination_rules {
        selection(world, reference, rule, found);
        certificates(reference, rule, found);
        failover(reference, rule, found);
    }
}

fn selection(world: &World<'_>, own: &ResourceRef, rule: &DestinationRule, found: &mut Findings) {
    let spec = &rule.spec;
    let Some(host) = world.hosts.find(&spec.host, &own.namespace, &spec.export_to) else {
        let message =
            format!("there is no service `{}` that `{}` sees: the rule has no effect", spec.host, own.namespace);
        found.push(Diagnostic::warning("IST0174", message).at(own, "spec.host"));
        return;
    };
    for (at, subset) in spec.subsets.iter().enumerate() {
        let Some(subset) = subset else { continue };
        if selects(world, host, subset) {
            continue;
        }
        let message = format!("subset `{}` selects no pod: a request that goes there is answered 503 UH", subset.name);
        let finding = Diagnostic::error("IST0173", message).at(own, subset_field(at));
        let remedy = match subset.labels.is_empty() {
            true => "start a pod of the service".to_string(),
            false => format!("start a pod of the service labelled {}", selector_words(&subset.labels)),
        };
        found.push(finding.remedy(remedy));
    }
}

/// Where a subset is written.
pub(super) fn subset_field(at: usize) -> String {
    format!("spec.subsets[{at}]")
}

fn selects(world: &World<'_>, host: &Host, subset: &Subset) -> bool {
    let mut wanted = host.selector.clone();
    wanted.extend(subset.labels.clone());
    let entries = world.resources.iter().filter_map(|resource| match resource.object {
        Object::WorkloadEntry(entry) => Some(&entry.spec.labels),
        _ => None,
    });
    world.pods.iter().any(|pod| has_labels(&placed_labels(world, pod), &wanted))
        || host.endpoints.iter().any(|labels| has_labels(labels, &subset.labels))
        || (!host.selector.is_empty() && entries.into_iter().any(|labels| has_labels(labels, &wanted)))
}

/// A pod's labels, with those that Istio takes over from its node.
fn placed_labels(world: &World<'_>, pod: &Pod) -> BTreeMap<String, String> {
    const TOPOLOGY: [&str; 3] =
        ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
    let mut labels = pod.metadata.labels.clone();
    let Some(node) = world.surroundings.nodes.get(&pod.spec.node_name) else { return labels };
    for key in TOPOLOGY {
        if let Some(value) = node.get(key).filter(|value| !value.is_empty()) {
            labels.insert(key.to_string(), value.clone());
        }
    }
    labels.insert("kubernetes.io/hostname".to_string(), pod.spec.node_name.clone());
    labels
}

/// IST0128 and IST0129: TLS to a server whose certificate is checked against nothing.
fn certificates(own: &ResourceRef, rule: &DestinationRule, found: &mut Findings) {
    let Some(policy) = &rule.spec.traffic_policy else { return };
    let unchecked = |tls: &Option<ClientTlsSettings>| {
        tls.as_ref().is_some_and(|tls| {
            matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
                && tls.ca_certificates.is_empty()
                && (tls.credential_name.is_empty() || rule.spec.workload_selector.is_none())
        })
    };
    const REMEDY: &str = "name the authorities in `caCertificates`";
    let host = &rule.spec.host;
    if unchecked(&policy.tls) {
        let message = format!("the certificate of `{host}` is not checked: `tls` names no `caCertificates`");
        found.push(Diagnostic::warning("IST0128", message).at(own, "spec.trafficPolicy.tls").remedy(REMEDY));
    }
    for (at, settings) in policy.port_level_settings.iter().enumerate() {
        let Some(settings) = settings.as_ref().filter(|settings| unchecked(&settings.tls)) else { continue };
        let port = settings.port.as_ref().map_or(0, |port| port.number);
        let message =
            format!("the certificate of `{host}` on port {port} is not checked: `tls` names no `caCertificates`");
        let field = format!("spec.trafficPolicy.portLevelSettings[{at}].tls");
        found.push(Diagnostic::warning("IST0129", message).at(own, field).remedy(REMEDY));
    }
}

/// Locality failover without `outlierDetection` never happens: nothing finds out that an endpoint has failed.
fn failover(own: &ResourceRef, rule: &DestinationRule, found: &mut Findings) {
    let Some(policy) = &rule.spec.traffic_policy else {
        return subset_failover(own, rule, None, found);
    };
    note_failover(own, "spec.trafficPolicy", policy.load_balancer.as_ref(), policy.outlier_detection.as_ref(), found);
    ports_failover(own, "spec.trafficPolicy", policy, found);
    subset_failover(own, rule, policy.outlier_detection.as_ref(), found);
}

fn subset_failover(own: &ResourceRef, rule: &DestinationRule, outer: Option<&OutlierDetection>, found: &mut Findings) {
    for (at, subset) in rule.spec.subsets.iter().enumerate() {
        let Some(policy) = subset.as_ref().and_then(|subset| subset.traffic_policy.as_ref()) else { continue };
        let field = format!("spec.subsets[{at}].trafficPolicy");
        let detection = policy.outlier_detection.as_ref().or(outer);
        note_failover(own, &field, policy.load_balancer.as_ref(), detection, found);
        ports_failover(own, &field, policy, found);
    }
}

/// What is written for a port stands alone: it inherits nothing.
fn ports_failover(own: &ResourceRef, field: &str, policy: &TrafficPolicy, found: &mut Findings) {
    for (at, settings) in policy.port_level_settings.iter().enumerate() {
        let Some(settings) = settings else { continue };
        let field = format!("{field}.portLevelSettings[{at}]");
        note_failover(own, &field, settings.load_balancer.as_ref(), settings.outlier_detection.as_ref(), found);
    }
}

fn note_failover(
    own: &ResourceRef,
    field: &str,
    balancer: Option<&LoadBalancerSettings>,
    detection: Option<&OutlierDetection>,
    found: &mut Findings,
) {
    let Some(locality) = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref()) else { return };
    let wanted = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
    if !wanted || detection.is_some() || locality.enabled == Some(false) {
        return;
    }
    let message = "failover is set up without `outlierDetection`: no endpoint is ever found to have failed";
    let finding = Diagnostic::warning("failover-without-outlier-detection", message)
        .at(own, format!("{field}.loadBalancer.localityLbSetting"));
    found.push(finding.remedy("add `outlierDetection` beside `loadBalancer`"));
}
