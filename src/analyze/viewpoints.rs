//! What `resolve` finds when every client of the set asks: each namespace with workloads or rules, each kind of
//! workload that some resource singles out, each gateway.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::world::World;
use crate::diagnostic::Diagnostic;
use crate::kubernetes::has_labels;
use crate::plan::Plan;
use crate::resolve::Viewpoint;

/// More kinds of client than this in one namespace are not asked.
const MAX_KINDS: usize = 64;

type Labels = BTreeMap<String, String>;

/// Every finding once, whoever made it.
pub(super) fn findings(world: &World<'_>) -> Findings {
    let mut found = Findings::new();
    let mut seen = BTreeSet::new();
    for viewpoint in sidecars(world).into_iter().chain(gateways(world)) {
        for finding in Plan::resolve(world.resources, &viewpoint, world.mesh).findings {
            if seen.insert(identity(&finding)) {
                found.push(finding);
            }
        }
    }
    found
}

/// The same thing said of the same place is one finding, even if the client is named in the words.
fn identity(finding: &Diagnostic) -> (String, String, String) {
    let resource = finding.resource.as_ref().map(ToString::to_string).unwrap_or_default();
    (finding.code.to_string(), resource, finding.field.clone())
}

fn sidecars(world: &World<'_>) -> Vec<Viewpoint> {
    let mut kinds: BTreeMap<&str, BTreeSet<Labels>> = BTreeMap::new();
    for namespace in clients(world) {
        kinds.entry(namespace).or_default().insert(Labels::new());
    }
    for (namespace, labels) in singled_out(world) {
        for (known, kinds) in &mut kinds {
            if namespace.is_none_or(|namespace| namespace == *known) && kinds.len() < MAX_KINDS {
                kinds.insert(labels.clone());
            }
        }
    }
    let viewpoint = |(namespace, kinds): (&str, BTreeSet<Labels>)| -> Vec<Viewpoint> {
        kinds.into_iter().map(|labels| Viewpoint::sidecar(namespace).labels(labels)).collect()
    };
    kinds.into_iter().flat_map(viewpoint).collect()
}

/// The namespaces in which somebody asks: those with pods, and, in a set of configuration alone, those with rules.
fn clients<'w>(world: &'w World<'_>) -> BTreeSet<&'w str> {
    let pods = world.pods.iter().filter(|pod| !World::is_stand_in(pod)).map(|pod| pod.metadata.namespace.as_str());
    let mut clients: BTreeSet<&str> = pods.collect();
    let in_mesh = world.virtual_services.iter().filter(|(_, service)| {
        let gateways = &service.spec.gateways;
        !service.spec.hosts.is_empty() && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh"))
    });
    clients.extend(in_mesh.map(|(reference, _)| &*reference.namespace));
    clients.extend(world.destination_rules.iter().map(|(reference, _)| &*reference.namespace));
    clients
}

/// Labels of clients that some resource treats otherwise, with the namespace that it does so in.
fn singled_out<'w>(world: &'w World<'_>) -> Vec<(Option<&'w str>, Labels)> {
    let mut found = Vec::new();
    for (reference, sidecar) in &world.sidecars {
        if let Some(selector) = &sidecar.spec.workload_selector {
            found.push((Some(&*reference.namespace), selector.labels.clone()));
        }
    }
    for (reference, rule) in &world.destination_rules {
        if let Some(selector) = &rule.spec.workload_selector {
            found.push((Some(&*reference.namespace), selector.match_labels.clone()));
        }
    }
    for (_, service) in &world.virtual_services {
        let rules = service.spec.http.iter().flatten();
        let blocks = rules.flat_map(|rule| rule.r#match.iter().flatten());
        found.extend(
            blocks.filter(|block| !block.source_labels.is_empty()).map(|block| (None, block.source_labels.clone())),
        );
    }
    found
}

/// One client for each selector of a Gateway, in the namespace of the pods that it selects.
fn gateways(world: &World<'_>) -> Vec<Viewpoint> {
    let mut asked = BTreeSet::new();
    for (reference, gateway) in &world.gateways {
        let selector = &gateway.spec.selector;
        let pod = world.pods.iter().find(|pod| has_labels(&pod.metadata.labels, selector));
        let namespace = pod.map_or(&*reference.namespace, |pod| &pod.metadata.namespace);
        let labels = pod.map_or(selector, |pod| &pod.metadata.labels);
        asked.insert((namespace, labels));
    }
    asked.into_iter().map(|(namespace, labels)| Viewpoint::gateway(namespace).labels(labels.clone())).collect()
}
