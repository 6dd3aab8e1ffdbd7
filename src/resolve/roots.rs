//! The VirtualServices that one client sees, as its tables ask for them: in the order in which they count, and by host.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::virtual_service::Root;
use crate::model::Timestamp;
use crate::name::HostPattern;

/// The place of a VirtualService among all: what counts before stands before. No two have the same.
pub(super) type Order = (u8, Option<Timestamp>, String, String, u64);

/// VirtualServices in order, and by host. Both can be changed one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    ordered: BTreeMap<Order, Arc<Root>>,
    /// Those with tcp or tls rules.
    opaque: BTreeMap<Order, Arc<Root>>,
    /// Those that name a host, in order.
    by_host: HashMap<HostPattern, BTreeMap<Order, Arc<Root>>>,
    /// The wildcards among the hosts, the most specific first.
    wildcards: Vec<HostPattern>,
    /// Those whose http rules ask the client for a label.
    by_label: HashMap<(String, String), BTreeMap<Order, Arc<Root>>>,
}

impl Roots {
    pub(super) fn insert(&mut self, order: Order, root: Arc<Root>) {
        for host in &root.hosts {
            if host.is_wildcard()
                && let Err(at) = self.wildcards.binary_search_by(|known| known.by_specificity(host))
            {
                self.wildcards.insert(at, host.clone());
            }
            self.by_host.entry(host.clone()).or_default().insert(order.clone(), root.clone());
        }
        for label in root.source_labels() {
            self.by_label.entry(label).or_default().insert(order.clone(), root.clone());
        }
        if root.is_opaque() {
            self.opaque.insert(order.clone(), root.clone());
        }
        self.ordered.insert(order, root);
    }

    pub(super) fn remove(&mut self, order: &Order) -> Option<Arc<Root>> {
        let root = self.ordered.remove(order)?;
        self.opaque.remove(order);
        for label in root.source_labels() {
            if let Some(asking) = self.by_label.get_mut(&label) {
                asking.remove(order);
            }
        }
        for host in &root.hosts {
            let Some(claimants) = self.by_host.get_mut(host) else { continue };
            claimants.remove(order);
            if claimants.is_empty() {
                self.by_host.remove(host);
                self.wildcards.retain(|known| known != host);
            }
        }
        Some(root)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Root> {
        self.ordered.values().map(|root| &**root)
    }

    /// Those whose http rules ask the client for one of these labels.
    pub(super) fn asking(&self, labels: &BTreeSet<(&str, &str)>) -> impl Iterator<Item = &Root> {
        let asked = |(key, value): &(&str, &str)| self.by_label.get(&(key.to_string(), value.to_string()));
        let found: BTreeMap<&Order, &Arc<Root>> = labels.iter().filter_map(asked).flatten().collect();
        found.into_values().map(|root| &**root)
    }

    /// Those with tcp or tls rules.
    pub(super) fn opaque(&self) -> impl Iterator<Item = &Root> {
        self.opaque.values().map(|root| &**root)
    }

    /// Each host with those that name it.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&HostPattern, impl Iterator<Item = &Root>)> {
        self.by_host.iter().map(|(host, claimants)| (host, claimants.values().map(|root| &**root)))
    }

    /// Those that name this very host.
    pub(super) fn naming(&self, host: &HostPattern) -> impl Iterator<Item = &Root> {
        self.by_host.get(host).into_iter().flat_map(|claimants| claimants.values().map(|root| &**root))
    }

    /// The host string, of all VirtualServices on whatever port, that names a service most exactly, and the first
    /// VirtualService that has it (reference 3.2).
    pub(super) fn most_specific(&self, service: &HostPattern) -> Option<(&HostPattern, &Root)> {
        let claimed = |host: &HostPattern| {
            let (host, claimants) = self.by_host.get_key_value(host)?;
            Some((host, &**claimants.values().next()?))
        };
        claimed(service).or_else(|| claimed(self.wildcards.iter().find(|host| service.is_within(host))?))
    }
}
