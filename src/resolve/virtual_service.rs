//! A VirtualService as it counts: qualified, delegates merged in.

use std::sync::Arc;

use super::roots::Order;
use super::visibility::Export;
use super::{Findings, Mesh, Precedence};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::VirtualService;
use crate::model::virtual_service::{HttpRoute, RouteDestination, TcpRoute, TlsRoute};
use crate::name::{HostPattern, qualify};
use crate::resources::Resources;

/// A VirtualService with hosts, its delegates merged in.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) resource: Arc<ResourceRef>,
    pub(super) order: Order,
    pub(super) export: Export,
    /// Qualified, in lower case where they are virtual-host domains; in order.
    pub(super) hosts: Vec<HostPattern>,
    /// `mesh`, or `namespace/name` of a Gateway.
    pub(super) gateways: Vec<String>,
    pub(super) http: Vec<Rule>,
    /// With their index as written.
    pub(super) tls: Vec<(usize, TlsRoute)>,
    pub(super) tcp: Vec<(usize, TcpRoute)>,
    pub(super) applied: u64,
    /// What was found wrong with it.
    pub(super) findings: Findings,
}

impl Root {
    /// Whether it is for a gateway: `mesh`, or `namespace/name`.
    pub(super) fn binds(&self, gateway: &str) -> bool {
        self.gateways.iter().any(|known| known == gateway)
    }

    /// Whether it is bound to some gateway, be it to `mesh` as well.
    pub(super) fn is_bound_to_gateway(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway != "mesh")
    }

    /// The labels that its http rules ask the client for.
    pub(super) fn source_labels(&self) -> impl Iterator<Item = (String, String)> {
        let blocks = self.http.iter().flat_map(|rule| rule.rule.r#match.iter().flatten());
        blocks.flat_map(|block| block.source_labels.iter().map(|(key, value)| (key.clone(), value.clone())))
    }

    /// The namespaces that its rules ask the client for.
    pub(super) fn source_namespaces(&self) -> impl Iterator<Item = &str> {
        let http = self.http.iter().flat_map(|rule| rule.rule.r#match.iter().flatten());
        let tls = self.tls.iter().flat_map(|(_, rule)| rule.r#match.iter().flatten());
        let tcp = self.tcp.iter().flat_map(|(_, rule)| rule.r#match.iter().flatten());
        let asked = http.map(|block| &block.source_namespace);
        let asked =
            asked.chain(tls.map(|block| &block.source_namespace)).chain(tcp.map(|block| &block.source_namespace));
        asked.map(String::as_str).filter(|namespace| !namespace.is_empty())
    }

    /// Whether it has rules for what is not HTTP.
    pub(super) fn is_opaque(&self) -> bool {
        !self.tcp.is_empty() || !self.tls.is_empty()
    }
}

/// One http rule, with where it was written.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) rule: HttpRoute,
    /// The resource that it is written in, and the field of that: `spec.http[2]`.
    pub(super) written_in: Arc<ResourceRef>,
    pub(super) field: String,
    /// For each match block, the field that it is written in.
    pub(super) blocks: Vec<String>,
}

impl Rule {
    pub(super) fn written(rule: &HttpRoute, index: usize, written_in: &Arc<ResourceRef>) -> Rule {
        let field = format!("spec.http[{index}]");
        Rule {
            blocks: (0..rule.r#match.len()).map(|block| format!("{field}.match[{block}]")).collect(),
            rule: rule.clone(),
            written_in: written_in.clone(),
            field,
        }
    }
}

/// Where a VirtualService stands among all (see [`Seen`](super::roots::Seen) for what is near to a client): under
/// [`Precedence::Istio`] oldest first, under [`Precedence::LastApplied`] in order of application.
pub(super) fn order(service: &VirtualService, applied: u64, mesh: &Mesh) -> Order {
    let metadata = &service.metadata;
    match mesh.precedence {
        Precedence::Istio => (metadata.creation_timestamp, metadata.name.clone(), metadata.namespace.clone(), applied),
        Precedence::LastApplied => (None, String::new(), String::new(), applied),
    }
}

pub(super) fn export(service: &VirtualService, mesh: &Mesh) -> Export {
    Export::read(&service.spec.export_to, &mesh.default_virtual_service_export_to, &service.metadata.namespace)
}

/// A VirtualService with hosts, qualified, its delegates merged in.
pub(super) fn root(service: &VirtualService, applied: u64, resources: &Resources, mesh: &Mesh) -> Root {
    let mut findings = Findings::new();
    let namespace = &service.metadata.namespace;
    let resource = Arc::new(ResourceRef::new("VirtualService", namespace, &service.metadata.name));
    let mut hosts = Vec::new();
    for (at, written) in service.spec.hosts.iter().enumerate() {
        match HostPattern::parse(&qualify(written, namespace, &mesh.domain)) {
            Ok(host) => hosts.push(host.to_lowercase()),
            Err(error) => {
                let finding =
                    Diagnostic::error("bad-host", error.to_string()).at(&resource, format!("spec.hosts[{at}]"));
                findings.push(finding.remedy("this host is left out; the others stand"));
            }
        }
    }
    let gateways = match service.spec.gateways.as_slice() {
        [] => vec!["mesh".to_string()],
        written => written.iter().map(|gateway| gateway_name(gateway, namespace)).collect(),
    };
    let mut http = Vec::new();
    for (index, rule) in service.spec.http.iter().enumerate() {
        let Some(rule) = rule else { continue };
        let mut rule = Rule::written(rule, index, &resource);
        for block in rule.rule.r#match.iter_mut().flatten() {
            block.gateways = block.gateways.iter().map(|gateway| gateway_name(gateway, namespace)).collect();
        }
        if rule.rule.delegate.is_some() {
            http.extend(super::delegate::expand(&rule, namespace, resources, mesh, &mut findings));
        } else {
            qualify_destinations(&mut rule.rule, namespace, mesh);
            http.push(rule);
        }
    }
    let tls = numbered(&service.spec.tls).map(|(at, route)| (at, qualified_tls(route, namespace, mesh))).collect();
    let tcp = numbered(&service.spec.tcp).map(|(at, route)| (at, qualified_tcp(route, namespace, mesh))).collect();
    let (order, export) = (order(service, applied, mesh), export(service, mesh));
    Root { resource, order, export, hosts, gateways, http, tls, tcp, applied, findings }
}

/// The entries of a list that are not null, with their index.
fn numbered<R>(written: &[Option<R>]) -> impl Iterator<Item = (usize, &R)> {
    written.iter().enumerate().filter_map(|(at, entry)| Some((at, entry.as_ref()?)))
}

/// A reference to a Gateway (reference 2.3): `mesh` as it is, `ns/name` as it is, `./name` and `name` in the
/// namespace that says it, the old `name.ns...` as `ns/name`.
pub(super) fn gateway_name(written: &str, namespace: &str) -> String {
    if written == "mesh" {
        return written.to_string();
    }
    if let Some(name) = written.strip_prefix("./") {
        return format!("{namespace}/{name}");
    }
    if written.contains('/') {
        return written.to_string();
    }
    match written.split_once('.') {
        Some((name, rest)) => format!("{}/{name}", rest.split('.').next().unwrap_or_default()),
        None => format!("{namespace}/{written}"),
    }
}

/// Expands the short names of a rule's destinations in the namespace of the resource that says them.
pub(super) fn qualify_destinations(rule: &mut HttpRoute, namespace: &str, mesh: &Mesh) {
    let routes = rule.route.iter_mut().flatten().filter_map(|route| route.destination.as_mut());
    let mirrors = rule.mirrors.iter_mut().flatten().filter_map(|mirror| mirror.destination.as_mut());
    for destination in routes.chain(mirrors).chain(rule.mirror.as_mut()) {
        destination.host = qualify(&destination.host, namespace, &mesh.domain);
    }
}

fn qualified_tls(route: &TlsRoute, namespace: &str, mesh: &Mesh) -> TlsRoute {
    let mut route = route.clone();
    qualify_gateways(route.r#match.iter_mut().flatten().map(|block| &mut block.gateways), namespace);
    qualify_connections(&mut route.route, namespace, mesh);
    route
}

fn qualified_tcp(route: &TcpRoute, namespace: &str, mesh: &Mesh) -> TcpRoute {
    let mut route = route.clone();
    qualify_gateways(route.r#match.iter_mut().flatten().map(|block| &mut block.gateways), namespace);
    qualify_connections(&mut route.route, namespace, mesh);
    route
}

fn qualify_gateways<'b>(written: impl Iterator<Item = &'b mut Vec<String>>, namespace: &str) {
    for gateway in written.flatten() {
        *gateway = gateway_name(gateway, namespace);
    }
}

fn qualify_connections(routes: &mut [Option<RouteDestination>], namespace: &str, mesh: &Mesh) {
    for destination in routes.iter_mut().flatten().filter_map(|route| route.destination.as_mut()) {
        destination.host = qualify(&destination.host, namespace, &mesh.domain);
    }
}
