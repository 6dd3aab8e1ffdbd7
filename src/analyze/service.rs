//! What Services and ServiceEntries say of their ports: names that say no protocol (IST0118, IST0150), addresses that
//! are missing (IST0134), protocols that contradict each other (IST0177).

use std::collections::{BTreeMap, BTreeSet};

use super::hosts::scopes;
use super::world::World;
use super::{Findings, quoted};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::service::ServicePort;
use crate::model::{Metadata, Service, ServiceEntry};

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    for (reference, service) in &world.services {
        if !is_istios_own(&service.metadata) {
            port_names(reference, service, found);
        }
    }
    for (reference, entry) in &world.entries {
        addresses(reference, entry, found);
    }
    protocols(world, found);
}

/// Services of the control plane and those that Istio makes for Gateways: nobody wrote their ports.
fn is_istios_own(metadata: &Metadata) -> bool {
    let label = |key: &str| metadata.labels.get(key).map(String::as_str);
    let managed = ["istio.io-gateway-controller", "istio.io-mesh-controller", "istio.io-eastwest-controller"];
    label("istio").is_some()
        || label("release") == Some("istio")
        || label("gateway.istio.io/managed").is_some_and(|by| managed.contains(&by))
}

fn port_names(own: &ResourceRef, service: &Service, found: &mut Findings) {
    let external = service.spec.r#type == "ExternalName";
    for (at, port) in service.spec.ports.iter().enumerate() {
        if says_protocol(port) && !(external && port.name == "tcp") {
            continue;
        }
        let field = format!("spec.ports[{at}]");
        found.push(if external {
            let message =
                format!("port `{}` of a service of type ExternalName may take over traffic to other hosts", port.name);
            let remedy = "say the protocol by the port's name, `https-web` or `tcp-web`, or by `appProtocol`";
            Diagnostic::warning("IST0150", message).at(own, field).remedy(remedy)
        } else {
            let message =
                format!("the name `{}` of port {} says no protocol, so that it is sniffed", port.name, port.port);
            let remedy = "begin the name with the protocol, `http-web`, or write `appProtocol`";
            Diagnostic::info("IST0118", message).at(own, field).remedy(remedy)
        });
    }
}

/// Whether it is known which protocol a port speaks (istio `pkg/config/kube/conversion.go`).
fn says_protocol(port: &ServicePort) -> bool {
    if port.protocol.eq_ignore_ascii_case("udp") || matches!(port.port, 25 | 53 | 3306 | 27017) {
        return true;
    }
    let word = if port.app_protocol.is_empty() { &port.name } else { &port.app_protocol }.to_ascii_lowercase();
    if matches!(word.as_str(), "kubernetes.io/h2c" | "kubernetes.io/ws" | "kubernetes.io/wss") {
        return true;
    }
    word.starts_with("grpc-web")
        || matches!(
            word.split('-').next().unwrap_or_default(),
            "http"
                | "http_proxy"
                | "http2"
                | "https"
                | "grpc"
                | "tcp"
                | "tls"
                | "udp"
                | "mongo"
                | "redis"
                | "mysql"
                | "hbone"
                | "double_hbone"
        )
}

/// IST0134: without an address of its own, an opaque port takes up all that is dialled on it. One that Istio gave out reaches
/// only those whose sidecars answer DNS, which they do not by default (`ISTIO_META_DNS_CAPTURE`).
fn addresses(own: &ResourceRef, entry: &ServiceEntry, found: &mut Findings) {
    if !entry.spec.addresses.is_empty() {
        return;
    }
    let given_out = entry.status.as_ref().is_some_and(|status| !status.addresses.is_empty());
    let remedy = match given_out {
        true => {
            "give the entry `addresses`, or the port another protocol; the address in its status counts where sidecars answer DNS \
                 (`ISTIO_META_DNS_CAPTURE`), and then nothing is to be done"
        }
        false => "give the entry `addresses`, or the port another protocol",
    };
    for (at, port) in entry.spec.ports.iter().enumerate() {
        if !port.protocol.is_empty() && !port.protocol.eq_ignore_ascii_case("tcp") {
            continue;
        }
        let message = format!(
            "port {} is TCP, and the entry has no `addresses`: nothing tells its connections from others",
            port.number
        );
        let finding = Diagnostic::warning("IST0134", message).at(own, format!("spec.ports[{at}]"));
        found.push(finding.remedy(remedy));
    }
}

/// The ServiceEntries that declare a port of a host within a scope, with the protocols they say.
type Declared<'a> = BTreeMap<(String, &'a str, u32), Vec<(&'a ResourceRef, String)>>;

/// IST0177: the same host and port with different protocols.
fn protocols(world: &World<'_>, found: &mut Findings) {
    let declared = declared(world);
    let mut told = BTreeSet::new();
    for ((scope, host, port), own) in &declared {
        let public = (scope != "*").then(|| declared.get(&("*".to_string(), *host, *port))).flatten();
        let all = || own.iter().chain(public.into_iter().flatten());
        let spoken: BTreeSet<&String> = all().map(|(_, protocol)| protocol).collect();
        if spoken.len() < 2 {
            continue;
        }
        let names: BTreeSet<String> = all().map(|(reference, _)| reference.to_string()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(" and ");
        for (reference, _) in all().filter(|(reference, _)| told.insert(*reference)) {
            let message = format!("port {port} of `{host}` is declared as {} by {names}", quoted(&spoken));
            let finding = Diagnostic::warning("IST0177", message).at(reference, "spec.ports");
            found.push(finding.remedy("declare one protocol"));
        }
    }
}

fn declared<'w>(world: &World<'w>) -> Declared<'w> {
    let mut declared = Declared::new();
    for (reference, entry) in &world.entries {
        for scope in scopes(&entry.spec.export_to, &reference.namespace) {
            for host in &entry.spec.hosts {
                for port in &entry.spec.ports {
                    let says = (*reference, port.protocol.to_ascii_uppercase());
                    declared.entry((scope.clone(), host.as_str(), port.number)).or_default().push(says);
                }
            }
        }
    }
    declared
}
