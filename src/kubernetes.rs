//! What a cluster adds to what was written: pods for Deployments, addresses for Services.
//!
//! Everything here is a pure function of names and content, so that two runs give the same pods and addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::model::pod::{PodCondition, PodStatus};
use crate::model::service::ServicePort;
use crate::model::{Deployment, IntOrString, Metadata, Object, Pod, Service};
use crate::resources::Resources;

/// Kubernetes' alphabet for generated names: no vowels and nothing that looks like one.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// All pods: those that were loaded, and for each Deployment without a loaded Pod of its own those that its template
/// makes.
///
/// A made pod has a name as Kubernetes would give it (`nginx-deployment-d4d4f9577-9dlvp`), an address in
/// `10.244.0.0/16`, and is ready.
pub fn pods(resources: &Resources) -> Vec<Pod> {
    let mut pods: Vec<Pod> = loaded(resources).cloned().collect();
    pods.extend(made_pods(resources));
    pods
}

fn loaded(resources: &Resources) -> impl Iterator<Item = &Pod> {
    resources.iter().filter_map(|resource| match resource.object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    })
}

/// The pods that Deployments stand for.
pub(crate) fn made_pods(resources: &Resources) -> Vec<Pod> {
    let deployments = resources.iter().filter_map(|resource| match resource.object {
        Object::Deployment(deployment) => Some(deployment),
        _ => None,
    });
    let mut by_label: HashMap<(&str, &str, &str), Vec<&Pod>> = HashMap::new();
    for pod in loaded(resources) {
        for (key, value) in &pod.metadata.labels {
            by_label.entry((&pod.metadata.namespace, key, value)).or_default().push(pod);
        }
    }
    let mut addresses: BTreeSet<Ipv4Addr> = loaded(resources).filter_map(|pod| pod_ip(pod)?.parse().ok()).collect();
    let mut made = Vec::new();
    for deployment in deployments {
        let label = wanted(deployment).first_key_value();
        let place = label.map(|(key, value)| (deployment.metadata.namespace.as_str(), key.as_str(), value.as_str()));
        let own = place.and_then(|place| by_label.get(&place)).into_iter().flatten();
        if own.into_iter().any(|pod| belongs(pod, deployment)) {
            continue;
        }
        for index in 0..deployment.spec.replicas.unwrap_or(1).min(MAX_REPLICAS) {
            let mut pod = made_pod(deployment, index);
            let address = free_address([10, 244], &pod.metadata, &mut addresses);
            pod.status = Some(ready_status(&address.to_string()));
            made.push(pod);
        }
    }
    made
}

/// More pods of one Deployment than this are not made: offline, nobody needs them.
const MAX_REPLICAS: u32 = 1_000;

/// The port of the pod that a Service's port leads to. A name is looked for among the pod's; without a pod, or with
/// nothing of that name, it is the Service's port.
pub(crate) fn target_port(port: &ServicePort, pod: Option<&Pod>) -> u16 {
    let containers = || pod.into_iter().flat_map(|pod| &pod.spec.containers);
    let target = match &port.target_port {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok().filter(|number| *number > 0),
        Some(IntOrString::String(name)) => {
            let named = containers().flat_map(|container| &container.ports).find(|known| known.name == *name);
            named.map(|known| known.container_port).or_else(|| name.parse().ok())
        }
        None => None,
    };
    target.unwrap_or(port.port)
}

/// Whether a pod belongs to a Deployment: same namespace, and its selector's labels on it.
pub fn belongs(pod: &Pod, deployment: &Deployment) -> bool {
    let wanted = wanted(deployment);
    pod.metadata.namespace == deployment.metadata.namespace
        && !wanted.is_empty()
        && has_labels(&pod.metadata.labels, wanted)
}

fn wanted(deployment: &Deployment) -> &BTreeMap<String, String> {
    let wanted = deployment.spec.selector.as_ref().map(|selector| &selector.match_labels);
    wanted.filter(|labels| !labels.is_empty()).unwrap_or(&deployment.spec.template.metadata.labels)
}

/// Whether all of `wanted` are among `labels`.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A pod's address, once it has one.
pub fn pod_ip(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let first = || status.pod_ips.first().map(|ip| ip.ip.as_str());
    Some(status.pod_ip.as_str()).filter(|ip| !ip.is_empty()).or_else(first).filter(|ip| !ip.is_empty())
}

/// Whether a pod may get traffic: it has an address, is not being deleted, and nothing in its status says no.
pub fn is_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let said_no = status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status != "True");
    pod_ip(pod).is_some()
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(status.phase.as_str(), "Pending" | "Failed" | "Succeeded")
        && !said_no
}

fn made_pod(deployment: &Deployment, index: u32) -> Pod {
    let template = &deployment.spec.template;
    let hash = template_hash(deployment);
    let place = format!("{}/{}/{hash}/{index}", deployment.metadata.namespace, deployment.metadata.name);
    let metadata = Metadata {
        name: format!("{}-{hash}-{}", deployment.metadata.name, suffix(fnv(place.as_bytes()))),
        namespace: deployment.metadata.namespace.clone(),
        labels: template.metadata.labels.clone(),
        annotations: template.metadata.annotations.clone(),
        ..Metadata::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

/// A status of a pod that runs and is ready.
pub fn ready_status(ip: &str) -> PodStatus {
    PodStatus {
        phase: "Running".into(),
        pod_ip: ip.into(),
        conditions: vec![PodCondition { r#type: "Ready".into(), status: "True".into() }],
        ..PodStatus::default()
    }
}

/// The part of a pod's name that stands for its template, in Kubernetes' spelling of a 32-bit number.
fn template_hash(deployment: &Deployment) -> String {
    let written = crate::yaml::write(&deployment.spec.template).unwrap_or_default();
    let digits = (fnv(written.as_bytes()) as u32).to_string();
    digits.bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}

/// Five letters for one pod among its siblings.
fn suffix(mut seed: u64) -> String {
    let mut text = String::new();
    for _ in 0..5 {
        text.push(ALPHABET[(seed % 27) as usize] as char);
        seed /= 27;
    }
    text
}

/// Gives every Service that has none an address in `10.96.0.0/16`, as a cluster's API server does.
///
/// Headless services and aliases get none.
pub fn assign_addresses(resources: &mut Resources) {
    let services: Vec<Service> = resources
        .iter()
        .filter_map(|resource| match resource.object {
            Object::Service(service) => Some(service.clone()),
            _ => None,
        })
        .collect();
    let mut taken = services.iter().filter_map(|service| service.spec.cluster_ip.parse().ok()).collect();
    for mut service in services {
        if service.spec.cluster_ip.is_empty() && service.spec.r#type != "ExternalName" {
            service.spec.cluster_ip = free_address([10, 96], &service.metadata, &mut taken).to_string();
            resources.amend(service);
        }
    }
}

/// An address that follows from a name; the next one that is free, where two names fall on the same.
fn free_address(network: [u8; 2], metadata: &Metadata, taken: &mut BTreeSet<Ipv4Addr>) -> Ipv4Addr {
    let start = fnv(format!("{}/{}", metadata.namespace, metadata.name).as_bytes()) as u16;
    let address = |offset: u16| {
        let [high, low] = start.wrapping_add(offset).to_be_bytes();
        Ipv4Addr::new(network[0], network[1], high, low)
    };
    let usable = |address: &Ipv4Addr| !matches!(address.octets()[3], 0 | 255);
    let free = (0..=u16::MAX).map(address).find(|address| usable(address) && !taken.contains(address));
    let address = free.unwrap_or(Ipv4Addr::new(network[0], network[1], 0, 1));
    taken.insert(address);
    address
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Reading;

    const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 2\n  \
                              selector: {matchLabels: {app: web}}\n  template: {metadata: {labels: {app: web, v: '1'}}}\n";

    fn resources(text: &str) -> Resources {
        let mut resources = Resources::new();
        assert_eq!(resources.apply_text(text, "-", Reading::Strict), []);
        resources
    }

    #[test]
    fn a_deployment_makes_ready_pods_with_names_that_stay() {
        let made = pods(&resources(DEPLOYMENT));
        assert_eq!(made.len(), 2);
        assert!(made.iter().all(is_ready));
        assert_ne!(pod_ip(&made[0]), pod_ip(&made[1]));
        assert_eq!(made, pods(&resources(DEPLOYMENT)));
        let parts: Vec<_> = made[0].metadata.name.rsplitn(3, '-').collect();
        assert_eq!((parts[2], parts[0].len()), ("web", 5));
        assert!((8..=10).contains(&parts[1].len()), "{}", made[0].metadata.name);
    }

    #[test]
    fn a_loaded_pod_of_its_own_keeps_a_deployment_from_making_any() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n";
        let both = pods(&resources(&format!("{DEPLOYMENT}---\n{pod}")));
        assert_eq!(both.iter().map(|pod| pod.metadata.name.as_str()).collect::<Vec<_>>(), ["web-0"]);
    }

    #[test]
    fn services_get_addresses_of_their_own() {
        let text: String = (0..300)
            .map(|n| {
                format!(
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{ports: [{{port: 80}}]}}\n"
                )
            })
            .collect();
        let mut resources = resources(&text);
        assign_addresses(&mut resources);
        let addresses: BTreeSet<String> = resources
            .iter()
            .filter_map(|resource| match resource.object {
                Object::Service(service) => Some(service.spec.cluster_ip.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(addresses.len(), 300);
    }
}
