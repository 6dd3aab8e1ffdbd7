//! What one client sees, kept so that a change costs little: its services, VirtualServices and clusters.
//!
//! Answers two questions about a change: which virtual hosts are another now, and which clusters. Where it cannot tell, it
//! says so, and the client is resolved from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::{Clusters, Keys};
use super::destination_rule::{Rule, Rules};
use super::gateway::{self, Inbound};
use super::ports::Ports;
use super::registry::{Protocol, Registry, Service, Sight};
use super::roots::{Replaced, Roots, Seen};
use super::scope::Scope;
use super::sidecar::{self, Contested, Outbound};
use super::virtual_service::Root;
use super::world::World;
use super::{Findings, Mesh, OutboundPolicy, Viewpoint, ViewpointKind, l4};
use crate::name::HostPattern;
use crate::plan::{Cluster, List, Plan, Unmatched, VirtualHost};
use crate::resources::Resources;

/// What all clients share.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    pub(crate) resources: &'a Resources,
    pub(crate) world: &'a World,
    pub(crate) rules: &'a Rules,
    pub(crate) roots: &'a Roots,
    pub(crate) mesh: &'a Mesh,
}

/// What clients see whose viewpoints differ only in labels that http rules ask for.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(super) viewpoint: Viewpoint,
    pub(super) scope: Scope,
    pub(super) sight: Sight,
    pub(super) clusters: List<Cluster>,
    pub(super) contested: Arc<Contested>,
    /// The ports on which requests are looked at one by one.
    pub(super) ports: Ports,
    /// Whether the name of some service has capitals, which virtual hosts have not.
    pub(super) capitals: bool,
    /// Whether it is a gateway with a name for each cluster of the mesh.
    pub(super) lists_clusters: bool,
    /// Where a gateway's own Services lead to.
    pub(super) targets: Arc<gateway::Targets>,
}

/// A virtual host that may be another than before.
#[derive(Debug)]
pub(crate) struct HostChange {
    pub(crate) port: u16,
    /// The name of its table; `None`: that of the port.
    pub(crate) table: Option<Arc<str>>,
    pub(crate) host: HostPattern,
    /// As it is now; `None`: there is none.
    pub(crate) now: Option<VirtualHost>,
    /// Where requests to its service come in at addresses of its own: those.
    pub(crate) own: Vec<IpAddr>,
}

/// The hosts of which the virtual hosts may be others now.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    /// Of a sidecar: exact ones, on the ports in question.
    pub(super) pairs: BTreeSet<(u16, HostPattern)>,
    /// Of a gateway, in whichever table.
    pub(super) claimed: BTreeSet<HostPattern>,
}

/// The rule that speaks for each of some services.
#[derive(Debug)]
pub(crate) struct Speaking(BTreeMap<HostPattern, Option<Rule>>);

/// From nothing is needed.
#[derive(Debug)]
pub(crate) struct FromNothing;

impl Concerned {
    /// Whether no virtual host can be another.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.claimed.is_empty()
    }
}

impl View {
    /// What a client sees. The plan of this very viewpoint comes with it.
    pub(crate) fn new(
        shared: Shared<'_>,
        keys: &mut Keys,
        viewpoint: &Viewpoint,
        findings: &mut Findings,
    ) -> (View, Plan) {
        let mut scope = Scope::default();
        if viewpoint.kind == ViewpointKind::Sidecar {
            scope = Scope::new(shared.resources, viewpoint, shared.mesh);
            scope = scope.with_destinations(shared.roots, viewpoint, shared.mesh);
        }
        findings.extend(seen(shared, viewpoint, &scope).findings().cloned());
        findings.extend_from_slice(&shared.rules.findings);
        let sight = Sight::new(shared.world, &viewpoint.namespace, &scope);
        let registry = Registry::new(shared.world, &sight);
        let ports = Ports::of(registry);
        let capitals = registry.visible().any(|service| service.host.as_str().bytes().any(|b| b.is_ascii_uppercase()));
        let is_gateway = viewpoint.kind == ViewpointKind::Gateway;
        let targets = if is_gateway { gateway::targets(shared.resources, viewpoint) } else { Default::default() };
        let mut view = View {
            viewpoint: viewpoint.clone(),
            scope,
            ports,
            capitals,
            lists_clusters: is_gateway && gateway::lists_clusters(shared.resources, viewpoint),
            targets: Arc::new(targets),
            sight,
            clusters: List::default(),
            contested: Arc::default(),
        };
        let plan = view.plan(shared, keys, viewpoint, findings);
        (view, plan)
    }

    /// The whole plan of a client that sees this, with the clusters that were named before in their places.
    pub(crate) fn plan(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        viewpoint: &Viewpoint,
        findings: &mut Findings,
    ) -> Plan {
        let list = std::mem::take(&mut self.clusters);
        let mut clusters = clusters(shared, keys, &self.sight, &self.viewpoint, list);
        let mut plan = Plan::default();
        match viewpoint.kind {
            ViewpointKind::Sidecar => {
                let outbound = outbound(shared, &self.scope, viewpoint);
                let mut contested = Contested::default();
                let listeners = outbound.listeners(&mut clusters, &mut contested, findings);
                plan.listeners = listeners.into_iter().collect();
                plan.names = sidecar::names(&outbound, clusters.registry);
                plan.unmatched = match outbound.policy {
                    OutboundPolicy::AllowAny => Unmatched::Passthrough,
                    OutboundPolicy::RegistryOnly => Unmatched::Blackhole,
                };
                for (port, domains) in contested {
                    Arc::make_mut(&mut self.contested).entry(port).or_default().extend(domains);
                }
            }
            ViewpointKind::Gateway => {
                let roots = seen(shared, viewpoint, &self.scope).iter().collect();
                let inbound = inbound(shared, viewpoint, &self.targets, roots);
                plan.listeners = inbound.listeners(&mut clusters, findings).into_iter().collect();
                plan.unmatched = Unmatched::Reset;
            }
        }
        self.clusters = clusters.list;
        plan.clusters = self.clusters.clone();
        plan
    }

    /// For each port, the domains that somebody wanted and did not get.
    pub(crate) fn contested(&self) -> &Contested {
        &self.contested
    }

    /// All clusters that some client named.
    pub(crate) fn clusters(&self) -> &List<Cluster> {
        &self.clusters
    }

    /// Takes services with other endpoints; says whether a cluster is another now.
    pub(crate) fn renew(&mut self, shared: Shared<'_>, keys: &mut Keys, services: &[Arc<Service>]) -> bool {
        let mut seen = Vec::new();
        for service in services {
            if self.sight.renew(shared.world, service, &self.scope) {
                seen.push(service.host.as_str());
            }
        }
        self.remake(shared, keys, seen.iter().copied());
        !seen.is_empty()
    }

    /// Makes the clusters of some hosts again, each in its place.
    pub(super) fn remake<'h>(&mut self, shared: Shared<'_>, keys: &mut Keys, hosts: impl Iterator<Item = &'h str>) {
        let list = std::mem::take(&mut self.clusters);
        let mut clusters = clusters(shared, keys, &self.sight, &self.viewpoint, list);
        hosts.for_each(|host| clusters.renew(host));
        self.clusters = clusters.list;
    }

    /// Which rule speaks for each service that one of some hosts and wildcards covers.
    pub(crate) fn speaking(&self, shared: Shared<'_>, patterns: &BTreeSet<HostPattern>) -> Speaking {
        let registry = Registry::new(shared.world, &self.sight);
        let wildcards: Vec<&HostPattern> = patterns.iter().filter(|pattern| pattern.is_wildcard()).collect();
        let covered = |host: &&HostPattern| wildcards.iter().any(|wildcard| host.is_within(wildcard));
        let of_wildcards = shared.world.hosts().filter(|_| !wildcards.is_empty()).filter(covered);
        let hosts = patterns.iter().filter(|pattern| !pattern.is_wildcard()).chain(of_wildcards);
        let known = hosts.filter(|host| registry.find(host.as_str()).is_some());
        Speaking(known.map(|host| (host.clone(), self.speaks(shared, registry, host).cloned())).collect())
    }

    fn speaks<'r>(&self, shared: Shared<'r>, registry: Registry<'_>, host: &HostPattern) -> Option<&'r Rule> {
        let service = registry.find(host.as_str())?;
        shared.rules.find(&service.host, &service.namespace, &self.viewpoint, shared.mesh)
    }

    /// Takes other DestinationRules, where `before` spoke before: with the virtual hosts that may be others now. `None` where
    /// no cluster is another.
    pub(crate) fn rules_replaced(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        before: Speaking,
    ) -> Result<Option<Concerned>, FromNothing> {
        let registry = Registry::new(shared.world, &self.sight);
        let (mut changed, mut sticky) = (BTreeSet::new(), BTreeSet::new());
        for (host, one) in before.0 {
            let other = self.speaks(shared, registry, &host);
            if one.as_ref() == other {
                continue;
            }
            // A gateway that passes TLS on by name has a name for each subset.
            if self.viewpoint.kind == ViewpointKind::Gateway && !same_subsets(one.as_ref(), other) {
                return Err(FromNothing);
            }
            if one.iter().chain(other).any(|rule| rule.is_sticky()) {
                sticky.insert(host.clone());
            }
            changed.insert(host);
        }
        if changed.is_empty() {
            return Ok(None);
        }
        let concerned = if sticky.is_empty() { Concerned::default() } else { self.stuck(shared, &sticky)? };
        self.remake(shared, keys, changed.iter().map(HostPattern::as_str));
        Ok(Some(concerned))
    }

    /// The virtual hosts that may send requests to some hosts, with what these stick by.
    fn stuck(&self, shared: Shared<'_>, sticky: &BTreeSet<HostPattern>) -> Result<Concerned, FromNothing> {
        // Another may stand for it.
        if sticky.iter().any(|host| shared.world.aliases(host.as_str()).next().is_some()) {
            return Err(FromNothing);
        }
        if self.viewpoint.kind == ViewpointKind::Gateway {
            let leading = sticky.iter().flat_map(|host| shared.roots.leading(host.as_str()));
            return self.claimed_by(shared, leading);
        }
        if self.capitals || self.scope.is_narrow() {
            return Err(FromNothing);
        }
        let registry = Registry::new(shared.world, &self.sight);
        let mut concerned = Concerned::default();
        for host in sticky {
            let service = registry.find(host.as_str());
            let ports =
                service.into_iter().flat_map(|service| &service.ports).filter(|port| port.protocol.speaks_http());
            concerned.pairs.extend(ports.map(|port| (port.number, host.clone())));
        }
        let leads = |root: &&Root| {
            super::scope::destinations(root).any(|to| sticky.iter().any(|host| host.as_str() == to.host))
        };
        for root in seen(shared, &self.viewpoint, &self.scope).iter().filter(leads) {
            if root.is_opaque() || root.hosts.iter().any(HostPattern::is_wildcard) {
                return Err(FromNothing);
            }
            self.concern(shared, root, &mut concerned);
        }
        Ok(concerned)
    }

    /// What depends on a VirtualService that was replaced.
    pub(crate) fn replaced(&self, shared: Shared<'_>, replaced: &Replaced) -> Result<Concerned, FromNothing> {
        if self.viewpoint.kind == ViewpointKind::Gateway {
            return self.claimed_by(shared, replaced.both().map(|root| &**root));
        }
        let exported = |root: &&Arc<Root>| root.export.reaches(&self.viewpoint.namespace) && root.binds("mesh");
        let roots: Vec<&Arc<Root>> = replaced.both().filter(exported).collect();
        if roots.is_empty() {
            return Ok(Concerned::default());
        }
        let is_hard = |root: &&Arc<Root>| root.is_opaque() || root.hosts.iter().any(HostPattern::is_wildcard);
        if roots.iter().any(is_hard) || self.capitals || self.scope.is_narrow() {
            return Err(FromNothing);
        }
        let mut concerned = Concerned::default();
        roots.into_iter().for_each(|root| self.concern(shared, root, &mut concerned));
        Ok(concerned)
    }

    /// The hosts that some VirtualServices claim at a gateway. What they say of whole connections is told to none of them.
    pub(super) fn claimed_by<'r>(
        &self,
        shared: Shared<'_>,
        roots: impl Iterator<Item = &'r Root>,
    ) -> Result<Concerned, FromNothing> {
        let seen = seen(shared, &self.viewpoint, &self.scope);
        let inbound = inbound(shared, &self.viewpoint, &self.targets, Vec::new());
        let mut concerned = Concerned::default();
        for root in roots.filter(|root| root.is_bound_to_gateway() && seen.sees(root)) {
            let claimed = inbound.claimed_by(root);
            if root.is_opaque() && !claimed.is_empty() {
                return Err(FromNothing);
            }
            concerned.claimed.extend(claimed);
        }
        if cfg!(meshroute_fault = "claim") {
            concerned.claimed.pop_last(); // planted: one that depends on it is left as it was
        }
        Ok(concerned)
    }

    fn concern(&self, shared: Shared<'_>, root: &Root, concerned: &mut Concerned) {
        let registry = Registry::new(shared.world, &self.sight);
        let says = |port: &u16| *port == 80 || root.hosts.iter().any(|host| registry.serves(host, *port));
        for port in self.ports.iter().filter(says) {
            concerned.pairs.extend(root.hosts.iter().map(|host| (port, host.clone())));
        }
    }

    /// The hosts whose rules ask for labels in which two clients that see this differ.
    pub(crate) fn told_apart(
        &self,
        shared: Shared<'_>,
        one: &Viewpoint,
        other: &Viewpoint,
    ) -> Result<Concerned, FromNothing> {
        let mut concerned = Concerned::default();
        for root in seen(shared, &self.viewpoint, &self.scope).asking(&differing(&one.labels, &other.labels)) {
            if root.is_opaque() || root.hosts.iter().any(HostPattern::is_wildcard) || self.capitals {
                return Err(FromNothing);
            }
            self.concern(shared, root, &mut concerned);
        }
        Ok(concerned)
    }

    /// The virtual hosts that may be others now, for one of the clients that see this.
    pub(crate) fn hosts(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        concerned: &Concerned,
        viewpoint: &Viewpoint,
    ) -> Result<Vec<HostChange>, FromNothing> {
        let list = std::mem::take(&mut self.clusters);
        let mut clusters = clusters(shared, keys, &self.sight, &self.viewpoint, list);
        let outbound = outbound(shared, &self.scope, viewpoint);
        let mut changes = Vec::new();
        for (port, host) in &concerned.pairs {
            let now = outbound.host(host, *port, &mut clusters);
            let own = own_addresses(clusters.registry, host, *port);
            changes.push(HostChange { port: *port, table: None, host: host.clone(), now, own });
        }
        if !concerned.claimed.is_empty() {
            let roots = seen(shared, viewpoint, &self.scope).claiming(&concerned.claimed).collect();
            let inbound = inbound(shared, viewpoint, &self.targets, roots);
            changes.extend(inbound.hosts(&concerned.claimed, &mut clusters));
        }
        self.clusters = clusters.list;
        if changes.iter().any(|change| self.is_contested(change)) { Err(FromNothing) } else { Ok(changes) }
    }

    /// Whether somebody else wants a domain of this host too.
    fn is_contested(&self, change: &HostChange) -> bool {
        let Some(contested) = self.contested.get(&change.port) else { return false };
        let domains = change.now.iter().flat_map(|host| &host.domains).chain([&change.host]);
        !contested.is_empty() && domains.into_iter().any(|domain| contested.contains(domain.as_str()))
    }
}

/// Whether two rules define subsets of the same names.
fn same_subsets(one: Option<&Rule>, other: Option<&Rule>) -> bool {
    let names = |rule: Option<&Rule>| -> Vec<String> {
        rule.into_iter().flat_map(|rule| &rule.subsets).map(|(subset, _)| subset.name.clone()).collect()
    };
    names(one) == names(other)
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

fn own_addresses(registry: Registry<'_>, host: &HostPattern, port: u16) -> Vec<IpAddr> {
    match registry.serving(host.as_str(), port) {
        Some(service) if service.port(port).is_some_and(|port| port.protocol == Protocol::Sniffed) => l4::bind(service),
        _ => Vec::new(),
    }
}

fn clusters<'r>(
    shared: Shared<'r>,
    keys: &'r mut Keys,
    sight: &'r Sight,
    viewpoint: &'r Viewpoint,
    list: List<Cluster>,
) -> Clusters<'r> {
    Clusters::new((Registry::new(shared.world, sight), shared.rules), viewpoint, shared.mesh, keys, list)
}

pub(super) fn seen<'r>(shared: Shared<'r>, viewpoint: &'r Viewpoint, scope: &'r Scope) -> Seen<'r> {
    Seen { roots: shared.roots, viewpoint, scope, mesh: shared.mesh }
}

fn inbound<'r>(
    shared: Shared<'r>,
    viewpoint: &'r Viewpoint,
    targets: &'r gateway::Targets,
    roots: Vec<&'r Root>,
) -> Inbound<'r> {
    Inbound { viewpoint, mesh: shared.mesh, roots, resources: shared.resources, targets }
}

fn outbound<'r>(shared: Shared<'r>, scope: &'r Scope, viewpoint: &'r Viewpoint) -> Outbound<'r> {
    let roots = seen(shared, viewpoint, scope);
    Outbound { viewpoint, mesh: shared.mesh, roots, scope, policy: scope.outbound.unwrap_or(shared.mesh.outbound) }
}
