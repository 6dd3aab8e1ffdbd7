//! Whom Sidecars are for: pods that do not exist (IST0101), that several select (IST0110), namespaces with several
//! defaults (IST0111), workloads that have no sidecar (IST0167), fields that are ignored (IST0002).

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use super::{Findings, quoted, selector_words};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::has_labels;
use crate::model::{Pod, Sidecar};

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    let mut without_effect = BTreeSet::new();
    let mut selected: BTreeMap<(&str, &str), (&Pod, Vec<&ResourceRef>)> = BTreeMap::new();
    let mut defaults: BTreeMap<&str, Vec<&ResourceRef>> = BTreeMap::new();
    for (reference, sidecar) in &world.sidecars {
        egress_proxy(reference, sidecar, found);
        let Some(labels) = sidecar.spec.workload_selector.as_ref().map(|selector| &selector.labels) else {
            defaults.entry(&reference.namespace).or_default().push(reference);
            continue;
        };
        if labels.is_empty() {
            continue;
        }
        let mut any = false;
        for pod in &world.pods {
            if pod.metadata.namespace == *reference.namespace && has_labels(&pod.metadata.labels, labels) {
                any = true;
                let name = (pod.metadata.namespace.as_str(), pod.metadata.name.as_str());
                selected.entry(name).or_insert((pod, Vec::new())).1.push(reference);
            }
        }
        if !any {
            let message = format!("no pod of `{}` is labelled {}", reference.namespace, selector_words(labels));
            found.push(Diagnostic::error("IST0101", message).at(reference, "spec.workloadSelector.labels"));
        }
    }
    for (pod, sidecars) in selected.values() {
        if pod.metadata.annotations.get("ambient.istio.io/redirection").is_some_and(|state| state == "enabled") {
            no_effect(sidecars, &format!("pod `{}`", pod.metadata.name), &mut without_effect, found);
        } else if sidecars.len() > 1 {
            several(sidecars, &format!("select pod `{}`", pod.metadata.name), "IST0110", found);
        }
    }
    for (namespace, sidecars) in &defaults {
        if is_ambient(world, namespace) {
            no_effect(sidecars, &format!("namespace `{namespace}`"), &mut without_effect, found);
        } else if sidecars.len() > 1 {
            several(sidecars, &format!("are for all of namespace `{namespace}`"), "IST0111", found);
        }
    }
}

fn several(sidecars: &[&ResourceRef], what: &str, code: &'static str, found: &mut Findings) {
    let names = quoted(sidecars.iter().map(|sidecar| &sidecar.name));
    for sidecar in sidecars {
        let message = format!("the Sidecars {names} {what}; only one of them holds");
        found.push(Diagnostic::error(code, message).at(sidecar, "spec.workloadSelector"));
    }
}

fn no_effect<'a>(sidecars: &[&'a ResourceRef], what: &str, told: &mut BTreeSet<&'a ResourceRef>, found: &mut Findings) {
    for sidecar in sidecars.iter().filter(|sidecar| told.insert(sidecar)) {
        let message = format!("{what} is in ambient mode, which has no sidecars: this has no effect");
        found.push(Diagnostic::warning("IST0167", message).at(sidecar, "spec"));
    }
}

fn is_ambient(world: &World<'_>, namespace: &str) -> bool {
    let found = world.namespaces.iter().find(|(reference, _)| &*reference.name == namespace);
    found.is_some_and(|(_, namespace)| {
        let label = |key: &str| namespace.metadata.labels.get(key).map_or("", String::as_str);
        label("istio-injection") != "enabled"
            && label("istio.io/rev").is_empty()
            && label("istio.io/dataplane-mode") == "ambient"
    })
}

fn egress_proxy(own: &ResourceRef, sidecar: &Sidecar, found: &mut Findings) {
    if sidecar.spec.outbound_traffic_policy.as_ref().is_some_and(|policy| policy.egress_proxy.is_some()) {
        let field = "spec.outboundTrafficPolicy.egressProxy";
        found.push(Diagnostic::warning("IST0002", "`egressProxy` is ignored").at(own, field));
    }
}
