//! Where VirtualServices send requests: hosts, ports and subsets that do not exist (IST0101), ports that must be named
//! (IST0112), subsets that do not hold at the ingress (IST0140).

use super::world::World;
use super::{Findings, quoted};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::VirtualService;
use crate::model::virtual_service::Destination;
use crate::name::{HostPattern, qualify};

/// One destination of a VirtualService, with the field that says it.
struct Named<'a> {
    /// Absent where an entry of `route` is empty.
    destination: Option<&'a Destination>,
    field: String,
}

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    for (reference, service) in &world.virtual_services {
        for named in destinations(service) {
            found.extend(fault(world, reference, service, &named));
        }
        without_subset(world, reference, service, found);
    }
}

/// All destinations, mirrors among them, in the order tcp, tls, http.
fn destinations(service: &VirtualService) -> Vec<Named<'_>> {
    let mut all = Vec::new();
    macro_rules! routes {
        ($($kind:ident),+) => { $(
            for (at, rule) in service.spec.$kind.iter().enumerate() {
                for (to, route) in rule.iter().flat_map(|rule| &rule.route).enumerate() {
                    let Some(route) = route else { continue };
                    let field = format!("spec.{}[{at}].route[{to}].destination", stringify!($kind));
                    all.push(Named { destination: route.destination.as_ref(), field });
                }
            }
        )+ };
    }
    routes!(tcp, tls, http);
    for (at, rule) in service.spec.http.iter().enumerate() {
        let Some(rule) = rule else { continue };
        if let Some(mirror) = &rule.mirror {
            all.push(Named { destination: Some(mirror), field: format!("spec.http[{at}].mirror") });
        }
        for (to, mirror) in rule.mirrors.iter().enumerate() {
            let Some(mirror) = mirror else { continue };
            let field = format!("spec.http[{at}].mirrors[{to}].destination");
            all.push(Named { destination: mirror.destination.as_ref(), field });
        }
    }
    all
}

/// What is wrong with a destination: its host, else its port, else its subset.
fn fault(world: &World<'_>, own: &ResourceRef, service: &VirtualService, named: &Named<'_>) -> Option<Diagnostic> {
    let missing = |message: String| Diagnostic::error("IST0101", message).at(own, named.field.clone());
    let Some(to) = named.destination else {
        return Some(missing("the destination has no host".into()).remedy("name a host, or remove the entry"));
    };
    let Some(host) = world.hosts.find(&to.host, &own.namespace, &service.spec.export_to) else {
        let message = format!("there is no service `{}` that `{}` sees", to.host, own.namespace);
        return Some(missing(message).remedy("name a service that exists, or declare it with a ServiceEntry"));
    };
    let numbers = quoted(&host.ports);
    match &to.port {
        None if host.ports.len() > 1 => {
            let message = format!("`{}` has the ports {numbers}, and the destination does not say which", to.host);
            let finding = Diagnostic::error("IST0112", message).at(own, named.field.clone());
            return Some(finding.remedy("write `port: {number: ..}` beside `host`"));
        }
        Some(port) if !host.ports.contains(&port.number) => {
            let only = if host.ports.is_empty() { "none".into() } else { format!("only {numbers}") };
            return Some(missing(format!("`{}` has no port `{}`, {only}", to.host, port.number)));
        }
        _ => {}
    }
    (!to.subset.is_empty() && !has_subset(world, own, to)).then(|| {
        let message = format!("no DestinationRule for `{}` defines a subset `{}`", to.host, to.subset);
        missing(message).remedy("define the subset in a DestinationRule, or name one that is defined")
    })
}

/// Whether some DestinationRule for the host defines the subset; whether it reaches the client is not asked here.
fn has_subset(world: &World<'_>, own: &ResourceRef, to: &Destination) -> bool {
    let domain = &world.mesh.domain;
    let host = qualify(&to.host, &own.namespace, domain);
    world.destination_rules.iter().any(|(reference, rule)| {
        let for_host = qualify(&rule.spec.host, &reference.namespace, domain);
        let covers = HostPattern::parse(&for_host).is_ok_and(|pattern| pattern.covers(&host));
        (covers || for_host == host) && rule.spec.subsets.iter().flatten().any(|subset| subset.name == to.subset)
    })
}

/// IST0140: a rule bound to gateways goes to a host as a whole, for which another VirtualService has rules by subset:
/// those do not hold for what comes in at the gateway.
fn without_subset(world: &World<'_>, own: &ResourceRef, service: &VirtualService, found: &mut Findings) {
    let edge: Vec<&String> = service.spec.gateways.iter().filter(|gateway| *gateway != "mesh").collect();
    if edge.is_empty() {
        return;
    }
    for (at, rule) in service.spec.http.iter().enumerate() {
        for (to, route) in rule.iter().flat_map(|rule| &rule.route).enumerate() {
            let Some(destination) = route.as_ref().and_then(|route| route.destination.as_ref()) else { continue };
            if !destination.subset.is_empty() {
                continue;
            }
            for (other, subset) in by_subset(world, &destination.host, &edge) {
                let message = format!(
                    "the rules of {other} for `{}`, which go to subset `{subset}`, do not hold for requests that come in at the gateways of this one",
                    destination.host
                );
                let finding =
                    Diagnostic::warning("IST0140", message).at(own, format!("spec.http[{at}].route[{to}].destination"));
                found.push(finding.remedy("name the subset here, or bind the other's rules to the gateway as well"));
            }
        }
    }
}

/// The VirtualServices that serve a host under this name, with the subsets of it that they go to; those that are bound
/// to all these gateways themselves hold there.
fn by_subset<'w>(
    world: &'w World<'_>,
    host: &'w str,
    edge: &'w [&String],
) -> impl Iterator<Item = (&'w ResourceRef, &'w str)> {
    let serving = world.virtual_services.iter().filter(move |(_, other)| {
        let bound = edge.iter().all(|gateway| other.spec.gateways.contains(gateway));
        !bound && other.spec.hosts.iter().any(|known| known == host)
    });
    serving.flat_map(move |(reference, other)| {
        let routes = other.spec.http.iter().flatten().flat_map(|rule| rule.route.iter().flatten());
        let to = routes.filter_map(|route| route.destination.as_ref());
        to.filter(move |to| to.host == host && !to.subset.is_empty()).map(|to| (*reference, to.subset.as_str()))
    })
}
