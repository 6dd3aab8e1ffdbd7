//! What a workload's Sidecar resource lets it see.
//!
//! Source: istio `pilot/pkg/model/sidecar.go`; reference section 13.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::registry::Service;
use super::roots::{Roots, Seen};
use super::virtual_service::Root;
use super::{Mesh, OutboundPolicy, Viewpoint};
use crate::kubernetes::has_labels;
use crate::model::sidecar::{IstioEgressListener, OutboundMode};
use crate::model::virtual_service::Destination;
use crate::model::{Object, Sidecar};
use crate::name::HostPattern;
use crate::resources::Resources;

/// What one client imports. Without a Sidecar resource: everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    egress: Option<Vec<Egress>>,
    /// What the Sidecar resource says of unmatched traffic, where it says something.
    pub(super) outbound: Option<OutboundPolicy>,
    /// The services that imported rules send traffic to, with the ports that they name; none for all.
    destinations: BTreeMap<String, Vec<u16>>,
}

/// One egress listener.
#[derive(Clone, Debug)]
struct Egress {
    /// The one port that it handles; without one, all that no other listener handles.
    port: Option<u16>,
    imports: Vec<Entry>,
    excludes: Vec<Entry>,
}

/// One entry of `hosts`.
#[derive(Clone, Debug)]
struct Entry {
    /// None for every namespace.
    namespace: Option<String>,
    host: HostPattern,
}

impl Scope {
    /// The scope of a client: by the Sidecar of its namespace that selects it, else the namespace's own, else the root
    /// namespace's.
    pub(super) fn new(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh) -> Self {
        let mut sidecars: Vec<&Sidecar> = resources
            .iter()
            .filter_map(|resource| match resource.object {
                Object::Sidecar(sidecar) => Some(sidecar),
                _ => None,
            })
            .collect();
        sidecars.sort_by_key(|sidecar| (sidecar.metadata.creation_timestamp, sidecar.metadata.name.clone()));
        let of = |namespace: &str, selects: bool| {
            sidecars.iter().copied().find(|sidecar| {
                let selector = sidecar.spec.workload_selector.as_ref().filter(|selector| !selector.labels.is_empty());
                let fits = selector.is_none_or(|selector| has_labels(&viewpoint.labels, &selector.labels));
                sidecar.metadata.namespace == namespace && selector.is_some() == selects && fits
            })
        };
        let own = of(&viewpoint.namespace, true).or_else(|| of(&viewpoint.namespace, false));
        let Some(sidecar) = own.or_else(|| of(&mesh.root_namespace, false)) else { return Scope::default() };
        let egress = sidecar.spec.egress.iter().map(|listener| Egress::new(listener, &viewpoint.namespace));
        Scope {
            egress: (!sidecar.spec.egress.is_empty()).then(|| egress.collect()),
            outbound: sidecar.spec.outbound_traffic_policy.as_ref().map(|policy| match policy.mode {
                OutboundMode::AllowAny => OutboundPolicy::AllowAny,
                _ => OutboundPolicy::RegistryOnly,
            }),
            destinations: BTreeMap::new(),
        }
    }

    /// Whether something is imported and the rest is not.
    pub(super) fn is_narrow(&self) -> bool {
        self.egress.is_some()
    }

    /// Takes note of where the rules that are imported send traffic to.
    pub(super) fn with_destinations(self, roots: &Roots, viewpoint: &Viewpoint, mesh: &Mesh) -> Self {
        if !self.is_narrow() {
            return self;
        }
        let mut named: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        let seen = Seen { roots, viewpoint, scope: &self, mesh };
        for destination in seen.iter().flat_map(destinations) {
            let port = destination.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
            named.entry(destination.host.clone()).or_default().extend(port);
        }
        Scope { destinations: named, ..self }
    }

    /// Whether the rules of a VirtualService count on a port; without one, on any.
    pub(super) fn imports_rules(&self, root: &Root, port: Option<u16>) -> bool {
        let Some(egress) = &self.egress else { return true };
        let listeners = egress.iter().filter(|listener| port.is_none_or(|port| handles(egress, listener, port)));
        listeners.into_iter().any(|listener| listener.imports_rules(root))
    }

    /// A service as it is seen through the scope: with the ports that are imported, if there are any.
    pub(super) fn trim(&self, service: &Arc<Service>) -> Option<Arc<Service>> {
        let Some(egress) = &self.egress else { return Some(service.clone()) };
        let named = self.destinations.get(service.host.as_str());
        let wanted = |port: u16| named.is_some_and(|ports| ports.is_empty() || ports.contains(&port));
        let imported = |port: u16| {
            egress.iter().any(|listener| handles(egress, listener, port) && listener.imports_service(service))
        };
        let kept: Vec<u16> =
            service.ports.iter().map(|port| port.number).filter(|port| imported(*port) || wanted(*port)).collect();
        let alias = service.ports.is_empty() && egress.iter().any(|listener| listener.imports_service(service));
        let mut trimmed = Service::clone(service);
        trimmed.ports.retain(|port| kept.contains(&port.number));
        (!trimmed.ports.is_empty() || alias).then(|| Arc::new(trimmed))
    }
}

/// Whether a listener is the one for a port: bound to it, or the one for all that none is bound to.
fn handles(all: &[Egress], listener: &Egress, port: u16) -> bool {
    match listener.port {
        Some(own) => own == port,
        None => !all.iter().any(|other| other.port == Some(port)),
    }
}

/// Where the rules of a VirtualService send traffic to.
pub(super) fn destinations(root: &Root) -> impl Iterator<Item = &Destination> {
    let http = root.http.iter().flat_map(|rule| {
        let routes = rule.rule.route.iter().flatten().filter_map(|route| route.destination.as_ref());
        routes
            .chain(&rule.rule.mirror)
            .chain(rule.rule.mirrors.iter().flatten().filter_map(|mirror| mirror.destination.as_ref()))
    });
    let tls = root.tls.iter().flat_map(|(_, rule)| rule.route.iter().flatten());
    let tcp = root.tcp.iter().flat_map(|(_, rule)| rule.route.iter().flatten());
    http.chain(tls.chain(tcp).filter_map(|route| route.destination.as_ref()))
}

impl Egress {
    fn new(written: &IstioEgressListener, own: &str) -> Self {
        let port = written.port.as_ref().and_then(|port| u16::try_from(port.number).ok()).filter(|port| *port > 0);
        let (mut imports, mut excludes) = (Vec::new(), Vec::new());
        for host in &written.hosts {
            let Some((namespace, host)) = host.split_once('/') else { continue };
            let (namespace, list) = match namespace.strip_prefix('~') {
                // `~/*` alone imports nothing: it excludes everything.
                Some("") => ("*", &mut excludes),
                Some(namespace) => (namespace, &mut excludes),
                None => (namespace, &mut imports),
            };
            let namespace = match namespace {
                "*" => None,
                "." => Some(own.to_string()),
                named => Some(named.to_string()),
            };
            list.extend(HostPattern::parse(host).ok().map(|host| Entry { namespace, host }));
        }
        Egress { port, imports, excludes }
    }

    fn imports_service(&self, service: &Service) -> bool {
        let covers = |entry: &Entry| entry.is_for(&service.namespace) && service.host.is_within(&entry.host);
        self.imports.iter().any(covers) && !self.excludes.iter().any(covers)
    }

    fn imports_rules(&self, root: &Root) -> bool {
        let namespace = &root.resource.namespace;
        root.hosts.iter().any(|host| {
            self.imports.iter().any(|entry| entry.is_for(namespace) && entry.host.overlaps(host))
                && !self.excludes.iter().any(|entry| entry.is_for(namespace) && host.is_within(&entry.host))
        })
    }
}

impl Entry {
    fn is_for(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}
