//! What one client sees, kept so that a change costs little: its services, VirtualServices and clusters.
//!
//! Answers two questions about a change: which virtual hosts are another now, and which clusters. Where it cannot tell, it
//! says so, and the client is resolved from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::{Clusters, Known};
use super::destination_rule::Rules;
use super::gateway::Inbound;
use super::registry::{Protocol, Registry, Service};
use super::roots::{Order, Roots};
use super::scope::Scope;
use super::sidecar::{self, Contested, Outbound};
use super::virtual_service::{self, Root};
use super::world::World;
use super::{Findings, Mesh, OutboundPolicy, Viewpoint, ViewpointKind, l4};
use crate::model::VirtualService;
use crate::name::HostPattern;
use crate::plan::{Cluster, List, Plan, Unmatched, VirtualHost};
use crate::resources::Resources;

/// What all clients share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) world: &'a World,
    pub(crate) rules: &'a Rules,
    pub(crate) mesh: &'a Mesh,
}

/// What clients see whose viewpoints differ only in labels that http rules ask for.
#[derive(Debug)]
pub(crate) struct View {
    viewpoint: Viewpoint,
    scope: Scope,
    roots: Roots,
    registry: Registry,
    known: Known,
    contested: Contested,
    /// The ports on which requests are looked at one by one.
    ports: BTreeSet<u16>,
    /// Whether the name of some service has capitals, which virtual hosts have not.
    capitals: bool,
    /// How many clusters there were when a plan was last made whole.
    whole: usize,
}

/// A virtual host that may be another than before.
#[derive(Debug)]
pub(crate) struct HostChange {
    pub(crate) port: u16,
    pub(crate) host: HostPattern,
    /// As it is now; `None`: there is none.
    pub(crate) now: Option<VirtualHost>,
    /// Where requests to its service come in at addresses of its own: those.
    pub(crate) own: Vec<IpAddr>,
}

/// The exact hosts of which the virtual hosts may be others now, and the ports in question.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    hosts: BTreeSet<HostPattern>,
    ports: BTreeSet<u16>,
}

/// From nothing is needed.
#[derive(Debug)]
pub(crate) struct FromNothing;

impl Concerned {
    /// Whether no virtual host can be another.
    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl View {
    /// What a client sees. The plan of this very viewpoint comes with it.
    pub(crate) fn new(shared: Shared<'_>, viewpoint: &Viewpoint, findings: &mut Findings) -> (View, Plan) {
        let mut roots = virtual_service::visible(shared.resources, &viewpoint.namespace, shared.mesh, findings);
        findings.extend_from_slice(&shared.rules.findings);
        let mut scope = Scope::default();
        if viewpoint.kind == ViewpointKind::Sidecar {
            scope = Scope::new(shared.resources, viewpoint, shared.mesh);
            roots.retain(|_, root| root.binds("mesh") && scope.imports_rules(root, None));
            scope.add_destinations(roots.values().map(|root| &**root));
        }
        let registry = Registry::new(shared.world, viewpoint, &scope);
        let mut view = View {
            viewpoint: viewpoint.clone(),
            scope,
            roots: Roots::default(),
            ports: registry.http_ports(),
            capitals: registry.visible.iter().any(|service| service.host != service.host.to_lowercase()),
            registry,
            known: Known::default(),
            contested: Contested::default(),
            whole: 0,
        };
        for (order, root) in roots {
            view.roots.insert(order, root);
        }
        let plan = view.plan(shared, viewpoint, findings);
        (view, plan)
    }

    /// The whole plan of a client that sees this, with the clusters that were named before in their places.
    pub(crate) fn plan(&mut self, shared: Shared<'_>, viewpoint: &Viewpoint, findings: &mut Findings) -> Plan {
        let known = std::mem::take(&mut self.known);
        let mut clusters = clusters(shared, &self.registry, &self.viewpoint, known);
        let mut plan = Plan::default();
        match viewpoint.kind {
            ViewpointKind::Sidecar => {
                let outbound = outbound(&self.roots, &self.scope, viewpoint, shared.mesh);
                let mut contested = Contested::default();
                let listeners = outbound.listeners(&mut clusters, &mut contested, findings);
                plan.listeners = listeners.into_iter().collect();
                plan.names = sidecar::names(&outbound, &self.registry).into();
                plan.unmatched = match outbound.policy {
                    OutboundPolicy::AllowAny => Unmatched::Passthrough,
                    OutboundPolicy::RegistryOnly => Unmatched::Blackhole,
                };
                for (port, domains) in contested {
                    self.contested.entry(port).or_default().extend(domains);
                }
            }
            ViewpointKind::Gateway => {
                let roots = self.roots.iter().cloned().collect();
                let inbound = Inbound { viewpoint, mesh: shared.mesh, roots, resources: shared.resources };
                plan.listeners = inbound.listeners(&mut clusters, findings).into_iter().collect();
                plan.unmatched = Unmatched::Reset;
            }
        }
        self.known = clusters.known;
        self.whole = self.known.list().len();
        plan.clusters = self.known.list().clone();
        plan
    }

    /// All clusters that some client named.
    pub(crate) fn clusters(&self) -> &List<Cluster> {
        self.known.list()
    }

    /// Whether so many clusters were named since the plan was made whole that half of them may be named no more.
    pub(crate) fn is_littered(&self) -> bool {
        let now = self.known.list().len();
        now > 2 * self.whole.max(64)
    }

    /// Takes services with other endpoints; says whether a cluster is another now.
    pub(crate) fn renew(&mut self, shared: Shared<'_>, services: &[Arc<Service>]) -> bool {
        let mut seen = Vec::new();
        for service in services {
            if self.registry.renew(service, &self.scope) {
                seen.push(service.host.as_str());
            }
        }
        let known = std::mem::take(&mut self.known);
        let mut clusters = clusters(shared, &self.registry, &self.viewpoint, known);
        for host in &seen {
            clusters.renew(host);
        }
        self.known = clusters.known;
        !seen.is_empty()
    }

    /// Takes a VirtualService in the place of what it was before.
    pub(crate) fn replace(
        &mut self,
        shared: Shared<'_>,
        before: Option<(&VirtualService, u64)>,
        now: Option<(&VirtualService, u64)>,
    ) -> Result<Concerned, FromNothing> {
        if before.iter().chain(&now).any(|(service, _)| service.spec.hosts.is_empty()) {
            return Err(FromNothing); // A delegate's rules stand in others.
        }
        let seen = |(service, applied): (&VirtualService, u64)| {
            virtual_service::seen(service, applied, &self.viewpoint.namespace, shared.resources, shared.mesh)
        };
        let (before, now) = (before.and_then(seen), now.and_then(seen));
        let both = || before.iter().chain(&now).map(|(_, root)| root);
        if self.viewpoint.kind == ViewpointKind::Gateway {
            let bound = both().any(|root| root.gateways.iter().any(|gateway| gateway != "mesh"));
            return if bound { Err(FromNothing) } else { Ok(Concerned::default()) };
        }
        let bound = |(order, root): (Order, Arc<Root>)| root.binds("mesh").then_some((order, root));
        let is_hard = |root: &Arc<Root>| root.is_opaque() || root.hosts.iter().any(HostPattern::is_wildcard);
        let hard = both().filter(|root| root.binds("mesh")).any(is_hard);
        let (before, now) = (before.and_then(bound), now.and_then(bound));
        if before.is_none() && now.is_none() {
            return Ok(Concerned::default());
        }
        if hard || self.capitals || self.scope.is_narrow() {
            return Err(FromNothing);
        }
        let mut concerned = Concerned::default();
        for (_, root) in before.iter().chain(&now) {
            self.concern(root, &mut concerned);
        }
        if let Some((order, _)) = before {
            self.roots.remove(&order);
        }
        if let Some((order, root)) = now {
            self.roots.insert(order, root);
        }
        Ok(concerned)
    }

    fn concern(&self, root: &Root, concerned: &mut Concerned) {
        let says = |port: &u16| *port == 80 || root.hosts.iter().any(|host| self.registry.serves(host, *port));
        concerned.ports.extend(self.ports.iter().copied().filter(says));
        concerned.hosts.extend(root.hosts.iter().cloned());
    }

    /// The hosts whose rules ask for labels in which two clients that see this differ.
    pub(crate) fn told_apart(&self, one: &Viewpoint, other: &Viewpoint) -> Result<Concerned, FromNothing> {
        let mut concerned = Concerned::default();
        for root in self.roots.asking(&differing(&one.labels, &other.labels)) {
            if root.is_opaque() || root.hosts.iter().any(HostPattern::is_wildcard) || self.capitals {
                return Err(FromNothing);
            }
            self.concern(root, &mut concerned);
        }
        Ok(concerned)
    }

    /// The virtual hosts that may be others now, for one of the clients that see this.
    pub(crate) fn hosts(
        &mut self,
        shared: Shared<'_>,
        concerned: &Concerned,
        viewpoint: &Viewpoint,
    ) -> Result<Vec<HostChange>, FromNothing> {
        let known = std::mem::take(&mut self.known);
        let mut clusters = clusters(shared, &self.registry, &self.viewpoint, known);
        let outbound = outbound(&self.roots, &self.scope, viewpoint, shared.mesh);
        let mut changes = Vec::new();
        for &port in &concerned.ports {
            for host in &concerned.hosts {
                let now = outbound.host(host, port, &mut clusters);
                let own = own_addresses(&self.registry, host, port);
                changes.push(HostChange { port, host: host.clone(), now, own });
            }
        }
        self.known = clusters.known;
        if changes.iter().any(|change| self.is_contested(change)) { Err(FromNothing) } else { Ok(changes) }
    }

    /// Whether somebody else wants a domain of this host too.
    fn is_contested(&self, change: &HostChange) -> bool {
        let Some(contested) = self.contested.get(&change.port) else { return false };
        let domains = change.now.iter().flat_map(|host| &host.domains).chain([&change.host]);
        !contested.is_empty() && domains.into_iter().any(|domain| contested.contains(domain.as_str()))
    }
}

/// The label pairs that only one of two has.
fn differing<'l>(
    one: &'l BTreeMap<String, String>,
    other: &'l BTreeMap<String, String>,
) -> BTreeSet<(&'l str, &'l str)> {
    let only = |a: &'l BTreeMap<String, String>, b: &'l BTreeMap<String, String>| {
        a.iter()
            .filter(move |(key, value)| b.get(*key) != Some(value))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    };
    only(one, other).chain(only(other, one)).collect()
}

fn own_addresses(registry: &Registry, host: &HostPattern, port: u16) -> Vec<IpAddr> {
    match registry.serving(host.as_str(), port) {
        Some(service) if service.port(port).is_some_and(|port| port.protocol == Protocol::Sniffed) => l4::bind(service),
        _ => Vec::new(),
    }
}

fn clusters<'r>(shared: Shared<'r>, registry: &'r Registry, viewpoint: &'r Viewpoint, known: Known) -> Clusters<'r> {
    Clusters::new((shared.world, registry, shared.rules), viewpoint, shared.mesh).with(known)
}

fn outbound<'r>(roots: &'r Roots, scope: &'r Scope, viewpoint: &'r Viewpoint, mesh: &'r Mesh) -> Outbound<'r> {
    Outbound { viewpoint, mesh, roots, scope, policy: scope.outbound.unwrap_or(mesh.outbound) }
}
