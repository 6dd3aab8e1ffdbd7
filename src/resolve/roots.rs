//! All VirtualServices with hosts, by host and by what they ask for, and those of them that one client sees, in the order in
//! which they count for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::scope::{self, Scope};
use super::virtual_service::{self, Root};
use super::visibility::{Export, note_nobody};
use super::{Findings, Mesh, Precedence, Viewpoint, ViewpointKind};
use crate::diagnostic::Diagnostic;
use crate::model::{Object, Timestamp, VirtualService};
use crate::name::HostPattern;
use crate::resources::Resources;

/// The place of a VirtualService among all, but for how near it is to a client: what counts before stands before. No two have
/// the same.
pub(super) type Order = (Option<Timestamp>, String, String, u64);

/// VirtualServices, whoever sees them, kept up to date change by change.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    ordered: BTreeMap<Order, Arc<Root>>,
    /// Those with tcp or tls rules, in order.
    opaque: Vec<Arc<Root>>,
    /// Those that name a host, in order.
    by_host: HashMap<HostPattern, Vec<Arc<Root>>>,
    /// The wildcards among the hosts, the most specific first.
    wildcards: Vec<HostPattern>,
    /// Those whose http rules ask the client for a label.
    by_label: HashMap<(String, String), Vec<Arc<Root>>>,
    /// Those bound to a gateway, by the hosts that they send traffic to.
    by_destination: HashMap<String, Vec<Arc<Root>>>,
    /// Those that not everybody sees, and those that ask for the client's namespace.
    particular: Vec<Arc<Root>>,
    /// What was found wrong with them, whoever sees them.
    pub(super) findings: Findings,
}

/// A VirtualService and its place in time.
pub(crate) type Written<'r> = (&'r VirtualService, u64);

/// What one resource was, and what it is now.
#[derive(Debug, Default)]
pub(crate) struct Replaced {
    pub(super) before: Option<Arc<Root>>,
    pub(super) now: Option<Arc<Root>>,
}

impl Replaced {
    pub(super) fn both(&self) -> impl Iterator<Item = &Arc<Root>> {
        self.before.iter().chain(&self.now)
    }
}

impl Roots {
    /// Reads VirtualServices out of resources.
    pub(crate) fn new(resources: &Resources, mesh: &Mesh) -> Self {
        let mut roots = Roots::default();
        for resource in resources.iter() {
            let Object::VirtualService(service) = resource.object else { continue };
            note_nobody(&service.spec.export_to, resource.reference, &mut roots.findings);
            roots.replace(None, Some((service, resource.applied)), resources, mesh);
        }
        roots
    }

    /// Puts a VirtualService in the place of what it was. A delegate stands in others, and is not told of here.
    pub(crate) fn replace(
        &mut self,
        before: Option<Written<'_>>,
        now: Option<Written<'_>>,
        resources: &Resources,
        mesh: &Mesh,
    ) -> Replaced {
        let before = before.and_then(|(service, applied)| self.remove(&virtual_service::order(service, applied, mesh)));
        let has_hosts = |(service, _): &Written<'_>| !service.spec.hosts.is_empty();
        let now = now
            .filter(has_hosts)
            .map(|(service, applied)| Arc::new(virtual_service::root(service, applied, resources, mesh)));
        now.iter().for_each(|root| self.insert(root.clone()));
        Replaced { before, now }
    }

    fn insert(&mut self, root: Arc<Root>) {
        for host in &root.hosts {
            if host.is_wildcard()
                && let Err(at) = self.wildcards.binary_search_by(|known| known.by_specificity(host))
            {
                self.wildcards.insert(at, host.clone());
            }
            file(self.by_host.entry(host.clone()).or_default(), &root);
        }
        for label in root.source_labels() {
            file(self.by_label.entry(label).or_default(), &root);
        }
        if root.is_opaque() {
            file(&mut self.opaque, &root);
        }
        for to in scope::destinations(&root).filter(|_| root.is_bound_to_gateway()) {
            file(self.by_destination.entry(to.host.clone()).or_default(), &root);
        }
        if root.export != Export::Everyone || root.source_namespaces().next().is_some() {
            file(&mut self.particular, &root);
        }
        self.ordered.insert(root.order.clone(), root);
    }

    fn remove(&mut self, order: &Order) -> Option<Arc<Root>> {
        let root = self.ordered.remove(order)?;
        let others = |known: &Arc<Root>| known.order != *order;
        self.opaque.retain(others);
        self.particular.retain(others);
        for label in root.source_labels() {
            if let Some(asking) = self.by_label.get_mut(&label) {
                asking.retain(others);
            }
        }
        for to in scope::destinations(&root).filter(|_| root.is_bound_to_gateway()) {
            if let Some(leading) = self.by_destination.get_mut(&to.host) {
                leading.retain(others);
                if leading.is_empty() {
                    self.by_destination.remove(&to.host);
                }
            }
        }
        for host in &root.hosts {
            let Some(claimants) = self.by_host.get_mut(host) else { continue };
            claimants.retain(others);
            if claimants.is_empty() {
                self.by_host.remove(host);
                self.wildcards.retain(|known| known != host);
            }
        }
        Some(root)
    }

    /// All of them, whoever sees them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Root> {
        self.ordered.values().map(|root| &**root)
    }

    /// Those that name this very host, whoever sees them.
    pub(super) fn naming(&self, host: &HostPattern) -> impl Iterator<Item = &Root> {
        self.by_host.get(host).into_iter().flatten().map(|root| &**root)
    }

    /// Those bound to a gateway that send traffic to this very host, whoever sees them.
    pub(super) fn leading(&self, host: &str) -> impl Iterator<Item = &Root> {
        self.by_destination.get(host).into_iter().flatten().map(|root| &**root)
    }

    /// The wildcards among the hosts that somebody names.
    pub(super) fn wildcards(&self) -> impl Iterator<Item = &HostPattern> {
        self.wildcards.iter()
    }

    /// Those that not everybody sees, and those that ask for the client's namespace.
    pub(super) fn particular(&self) -> impl Iterator<Item = &Root> {
        self.particular.iter().map(|root| &**root)
    }
}

/// Files a VirtualService among others, once, in order.
fn file(filed: &mut Vec<Arc<Root>>, root: &Arc<Root>) {
    if let Err(at) = filed.binary_search_by(|known| known.order.cmp(&root.order)) {
        filed.insert(at, root.clone());
    }
}

/// The VirtualServices that one client sees. A sidecar's are those that bind to `mesh` and are imported.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) roots: &'a Roots,
    pub(super) viewpoint: &'a Viewpoint,
    pub(super) scope: &'a Scope,
    pub(super) mesh: &'a Mesh,
}

impl<'a> Seen<'a> {
    /// Whether the client sees it.
    pub(super) fn sees(&self, root: &Root) -> bool {
        let bound = || root.binds("mesh") && self.scope.imports_rules(root, None);
        root.export.reaches(&self.viewpoint.namespace) && (self.viewpoint.kind == ViewpointKind::Gateway || bound())
    }

    /// All of them, in the order in which they count.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Root> + use<'a> {
        self.in_order(self.roots.ordered.values())
    }

    /// Those whose http rules ask the client for one of these labels.
    pub(super) fn asking(&self, labels: &BTreeSet<(&str, &str)>) -> impl Iterator<Item = &'a Root> + use<'a> {
        let asked = |(key, value): &(&str, &str)| self.roots.by_label.get(&(key.to_string(), value.to_string()));
        let found: BTreeMap<&Order, &Arc<Root>> =
            labels.iter().filter_map(asked).flatten().map(|root| (&root.order, root)).collect();
        self.in_order(found.into_values())
    }

    /// Those with tcp or tls rules of which a host overlaps a service's.
    pub(super) fn opaque_for(&self, service: &HostPattern) -> impl Iterator<Item = &'a Root> + use<'a> {
        if service.is_wildcard() {
            let overlaps = |root: &&Arc<Root>| root.hosts.iter().any(|host| host.overlaps(service));
            return self.in_order(self.roots.opaque.iter().filter(overlaps));
        }
        let covering = self.roots.wildcards.iter().filter(|host| service.is_within(host)).chain([service]);
        let naming = covering.filter_map(|host| self.roots.by_host.get(host)).flatten();
        let found: BTreeMap<&Order, &Arc<Root>> =
            naming.filter(|root| root.is_opaque()).map(|root| (&root.order, root)).collect();
        self.in_order(found.into_values())
    }

    /// Each host that somebody names.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &'a HostPattern> + use<'a> {
        self.roots.by_host.keys()
    }

    /// Those that name this very host.
    pub(super) fn naming(&self, host: &HostPattern) -> impl Iterator<Item = &'a Root> + use<'a> {
        self.in_order(self.roots.by_host.get(host).into_iter().flatten())
    }

    /// The host string, of all VirtualServices on whatever port, that names a service most exactly, and the first
    /// VirtualService that has it (reference 3.2).
    pub(super) fn most_specific(&self, service: &HostPattern) -> Option<(&'a HostPattern, &'a Root)> {
        let claimed = |host: &HostPattern| {
            let (host, claimants) = self.roots.by_host.get_key_value(host)?;
            Some((host, self.in_order(claimants).next()?))
        };
        let covering = || self.roots.wildcards.iter().filter(|host| service.is_within(host)).find_map(claimed);
        claimed(service).or_else(covering)
    }

    /// What was found wrong with those that are exported to the client, and with exports.
    pub(super) fn findings(&self) -> impl Iterator<Item = &'a Diagnostic> + use<'a> {
        let exported = |root: &&Root| root.export.reaches(&self.viewpoint.namespace);
        let exported = self.sorted(self.roots.ordered.values().map(|root| &**root).filter(exported).collect());
        self.roots.findings.iter().chain(exported.into_iter().flat_map(|root| &root.findings))
    }

    /// Those that the client sees, in the order in which they count.
    fn in_order(&self, filed: impl IntoIterator<Item = &'a Arc<Root>>) -> std::vec::IntoIter<&'a Root> {
        let seen = filed.into_iter().map(|root| &**root).filter(|root| self.sees(root));
        self.sorted(seen.collect()).into_iter()
    }

    /// Under [`Precedence::Istio`] the near ones first.
    fn sorted(&self, mut seen: Vec<&'a Root>) -> Vec<&'a Root> {
        if self.mesh.precedence == Precedence::Istio {
            seen.sort_by_key(|root| self.distance(root));
        }
        seen
    }

    /// Private to the namespace, exported to it by name, public.
    fn distance(&self, root: &Root) -> u8 {
        match root.export {
            Export::Everyone | Export::Nobody => 2,
            Export::Only(_) if *root.resource.namespace == *self.viewpoint.namespace => 0,
            Export::Only(_) => 1,
        }
    }
}
