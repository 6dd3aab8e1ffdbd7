//! What Gateways stand on: pods that do not exist (IST0101), ports that no Service leads to (IST0162),
//! certificates that are missing (IST0101), broken (IST0161) or shared (IST0138), other Gateways in the same place
//! (IST0145).

use std::collections::{BTreeMap, BTreeSet};

use super::world::{INGRESS_PORTS, World};
use super::{Findings, certificate, quoted, selector_words};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::{has_labels, target_port};
use crate::model::gateway::{Server, ServerTlsSettings};
use crate::model::{Gateway, Pod};

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    for (reference, gateway) in &world.gateways {
        match pods(world, gateway).next() {
            None => no_pod(reference, gateway, found),
            Some(first) => {
                ports(world, reference, gateway, found);
                secrets(world, reference, gateway, first, found);
            }
        }
        for (other, rival) in world.gateways.iter().filter(|(other, _)| other != reference) {
            shared_certificates(reference, gateway, other, rival, found);
        }
        conflicts(world, reference, gateway, found);
    }
}

fn pods<'w>(world: &'w World<'_>, gateway: &'w Gateway) -> impl Iterator<Item = &'w Pod> {
    world.pods.iter().filter(|pod| has_labels(&pod.metadata.labels, &gateway.spec.selector))
}

fn no_pod(own: &ResourceRef, gateway: &Gateway, found: &mut Findings) {
    let message = format!("no pod is labelled {}: nobody runs this Gateway", selector_words(&gateway.spec.selector));
    found.push(Diagnostic::error("IST0101", message).at(own, "spec.selector"));
}

/// IST0162: no Service leads to the port.
fn ports(world: &World<'_>, own: &ResourceRef, gateway: &Gateway, found: &mut Findings) {
    let served: BTreeSet<u32> = pods(world, gateway).flat_map(|pod| service_ports(world, pod)).collect();
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let Some(port) = server.port.as_ref().filter(|port| !served.contains(&port.number)) else { continue };
        let message =
            format!("no Service has or leads to port {} of the gateway's pods, so that nobody reaches it", port.number);
        let remedy = match served.is_empty() {
            true => "add a Service that selects the pods".to_string(),
            false => format!("its Services have or lead to {}", quoted(&served)),
        };
        found.push(
            Diagnostic::warning("IST0162", message).at(own, format!("spec.servers[{at}].port.number")).remedy(remedy),
        );
    }
}

fn service_ports(world: &World<'_>, pod: &Pod) -> Vec<u32> {
    if World::is_stand_in(pod) {
        return INGRESS_PORTS.map(u32::from).into();
    }
    let selecting = world.services.iter().filter(|(reference, service)| {
        *reference.namespace == pod.metadata.namespace && has_labels(&pod.metadata.labels, &service.spec.selector)
    });
    let ports = selecting.flat_map(|(_, service)| &service.spec.ports);
    let tcp = ports.filter(|port| port.protocol.is_empty() || port.protocol == "TCP");
    // A server may say the Service's port: it is found at the pod's that this leads to.
    tcp.flat_map(|port| [port.port, target_port(port, Some(pod))]).map(u32::from).collect()
}

/// IST0101 and IST0161: certificates are looked for in the namespace of the pods. A set without any Secret holds
/// configuration alone, and none is missed there.
fn secrets(world: &World<'_>, own: &ResourceRef, gateway: &Gateway, pod: &Pod, found: &mut Findings) {
    let home = &pod.metadata.namespace;
    let secrets = &world.surroundings.secrets;
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let Some(name) = server.tls.as_ref().map(|tls| &tls.credential_name).filter(|name| !name.is_empty()) else {
            continue;
        };
        let (namespace, short) = name.split_once('/').unwrap_or((home, name));
        let field = format!("spec.servers[{at}].tls.credentialName");
        match secrets.get(&(namespace.to_string(), short.to_string())) {
            None if secrets.is_empty() => {}
            None => {
                let message = format!("there is no Secret `{namespace}/{short}`");
                let remedy = format!("the Secret must stand in the namespace of the gateway's pods, `{home}`");
                found.push(Diagnostic::error("IST0101", message).at(own, field).remedy(remedy));
            }
            Some(secret) => {
                if let Err(why) = certificate::check(secret, world.surroundings.now()) {
                    let message = format!("the certificate of Secret `{namespace}/{short}` cannot be used: {why}");
                    found.push(Diagnostic::error("IST0161", message).at(own, field));
                }
            }
        }
    }
}

/// IST0138: clients that keep a connection open for one host send requests for the other over it.
fn shared_certificates(
    own: &ResourceRef,
    gateway: &Gateway,
    other: &ResourceRef,
    rival: &Gateway,
    found: &mut Findings,
) {
    if !has_labels(&rival.spec.selector, &gateway.spec.selector) {
        return;
    }
    let with_tls = |gateway: &'_ Gateway| -> Vec<(usize, ServerTlsSettings)> {
        let servers = gateway.spec.servers.iter().enumerate();
        servers.filter_map(|(at, server)| Some((at, server.tls.clone()?))).collect()
    };
    for (at, tls) in with_tls(gateway) {
        for (theirs, _) in with_tls(rival).iter().filter(|(_, other)| same_certificate(&tls, other)) {
            let message = format!(
                "{other} shows the same certificate (server {theirs}): clients that reuse connections may be answered 404"
            );
            let finding = Diagnostic::warning("IST0138", message).at(own, format!("spec.servers[{at}].tls"));
            found.push(finding.remedy("put the hosts of one certificate into one Gateway"));
        }
    }
}

fn same_certificate(a: &ServerTlsSettings, b: &ServerTlsSettings) -> bool {
    if !a.credential_name.is_empty() || !b.credential_name.is_empty() {
        return a.credential_name == b.credential_name;
    }
    !a.server_certificate.is_empty()
        && !a.private_key.is_empty()
        && a.server_certificate == b.server_certificate
        && a.private_key == b.private_key
}

/// IST0145: another Gateway of the same pods has the port, the address and the host as well.
fn conflicts(world: &World<'_>, own: &ResourceRef, gateway: &Gateway, found: &mut Findings) {
    let rivals: Vec<_> = world
        .gateways
        .iter()
        .filter(|(other, rival)| *other != own && same_pods(world, &gateway.spec.selector, &rival.spec.selector))
        .collect();
    for (at, server) in gateway.spec.servers.iter().enumerate() {
        let against =
            rivals.iter().filter(|(_, rival)| rival.spec.servers.iter().any(|theirs| collide(server, theirs)));
        let names: Vec<String> = against.map(|(other, _)| other.to_string()).collect();
        if names.is_empty() {
            continue;
        }
        let port = server.port.as_ref().map_or(0, |port| port.number);
        let message = format!("port {port} for {} is also served by {}", quoted(&server.hosts), names.join(" and "));
        let finding = Diagnostic::error("IST0145", message).at(own, format!("spec.servers[{at}]"));
        found.push(finding.remedy("put the server into one Gateway"));
    }
}

/// Whether two selectors are for the same pods: equal, or one within the other and a pod that both select.
fn same_pods(world: &World<'_>, a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> bool {
    let both = |pod: &Pod| has_labels(&pod.metadata.labels, a) && has_labels(&pod.metadata.labels, b);
    a == b || ((has_labels(a, b) || has_labels(b, a)) && world.pods.iter().any(both))
}

fn collide(a: &Server, b: &Server) -> bool {
    let number = |server: &Server| server.port.as_ref().map_or(0, |port| port.number);
    number(a) == number(b) && a.bind == b.bind && a.hosts.iter().any(|host| b.hosts.contains(host))
}
