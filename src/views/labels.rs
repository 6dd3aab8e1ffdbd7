//! Which labels tell clients apart.

use std::collections::BTreeSet;

use crate::model::{Object, VirtualService};
use crate::resolve::{Viewpoint, ViewpointKind};
use crate::resources::Resources;

/// The label pairs that some resource asks a client for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Labels {
    /// Those that only http rules for exact hosts ask for.
    pub(super) fine: BTreeSet<(String, String)>,
    /// All others: those of Sidecars, DestinationRules, tcp and tls rules.
    pub(super) coarse: BTreeSet<(String, String)>,
}

impl Labels {
    pub(super) fn of(resources: &Resources) -> Self {
        let mut labels = Labels::default();
        resources.iter().for_each(|resource| labels.add(resource.object));
        labels
    }

    fn add(&mut self, object: &Object) {
        match object {
            Object::VirtualService(rules) => self.add_rules(rules),
            Object::DestinationRule(rule) => {
                self.coarse.extend(pairs(rule.spec.workload_selector.iter().map(|selector| &selector.match_labels)));
            }
            Object::Sidecar(sidecar) => {
                self.coarse.extend(pairs(sidecar.spec.workload_selector.iter().map(|selector| &selector.labels)));
            }
            _ => {} // A Gateway asks gateways, which keep all their labels.
        }
    }

    /// Whether clients are told apart by all that a resource asks them for.
    pub(super) fn know(&self, object: &Object) -> bool {
        let mut asked = Labels::default();
        asked.add(object);
        asked.coarse.is_subset(&self.coarse) && asked.fine.is_subset(&self.fine)
    }

    pub(super) fn add_rules(&mut self, rules: &VirtualService) {
        let spec = &rules.spec;
        let http = spec.http.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        let exact = !spec.hosts.is_empty() && spec.hosts.iter().all(|host| !host.starts_with('*'));
        let is_fine = exact && spec.tcp.is_empty() && spec.tls.is_empty();
        let place = if is_fine { &mut self.fine } else { &mut self.coarse };
        place.extend(pairs(http.map(|block| &block.source_labels)));
        let tcp = spec.tcp.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        self.coarse.extend(pairs(tcp.map(|block| &block.source_labels)));
        let tls = spec.tls.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        self.coarse.extend(pairs(tls.map(|block| &block.source_labels)));
    }

    /// A viewpoint with no other labels than those that somebody asks for. A gateway keeps all: Services ask for them, and it
    /// asks its own pods.
    pub(super) fn cut(&self, viewpoint: &Viewpoint, fine: bool) -> Viewpoint {
        let mut cut = viewpoint.clone();
        if viewpoint.kind == ViewpointKind::Gateway {
            return cut;
        }
        cut.labels.retain(|key, value| {
            let pair = (key.clone(), value.clone());
            self.coarse.contains(&pair) || (fine && self.fine.contains(&pair))
        });
        cut
    }
}

fn pairs<'l>(
    labels: impl IntoIterator<Item = &'l std::collections::BTreeMap<String, String>>,
) -> impl Iterator<Item = (String, String)> {
    labels.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()))
}
