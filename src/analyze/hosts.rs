//! The hosts that a set knows, and who may see each: Istio's scoped host names.
//!
//! Source: istio `pkg/config/analysis/analyzers/util/service_lookup.go`. Coarser than what `resolve` does, so that the
//! answers are those of `istioctl analyze`.

use std::collections::BTreeMap;

use super::world::Listed;
use crate::model::{Service, ServiceEntry};
use crate::name::qualify;

/// Hosts by scope (`*` or a namespace) and name.
#[derive(Default)]
pub(super) struct Hosts {
    known: BTreeMap<(String, String), Host>,
    domain: String,
}

/// What is known of a host.
#[derive(Clone, Default)]
pub(super) struct Host {
    /// The numbers of its ports.
    pub(super) ports: Vec<u32>,
    /// The labels that its workloads carry, where a ServiceEntry says so.
    pub(super) selector: BTreeMap<String, String>,
    /// The labels of the endpoints that are written in a ServiceEntry.
    pub(super) endpoints: Vec<BTreeMap<String, String>>,
}

impl Hosts {
    pub(super) fn new(services: &Listed<'_, Service>, entries: &Listed<'_, ServiceEntry>, domain: &str) -> Self {
        let mut hosts = Hosts { known: BTreeMap::new(), domain: domain.to_string() };
        for (reference, entry) in entries {
            let host = entry_host(entry);
            for scope in scopes(&entry.spec.export_to, &reference.namespace) {
                for name in &entry.spec.hosts {
                    let name = qualify(name, &reference.namespace, domain);
                    hosts.known.insert((scope.clone(), name), host.clone());
                }
            }
        }
        for (reference, service) in services {
            let written = service.metadata.annotations.get("networking.istio.io/exportTo");
            let list: Vec<String> =
                written.into_iter().flat_map(|list| list.split(',')).map(|entry| entry.trim().to_string()).collect();
            let name = qualify(&reference.name, &reference.namespace, domain);
            let ports = service.spec.ports.iter().map(|port| u32::from(port.port)).collect();
            let host = Host { ports, ..Host::default() };
            for scope in scopes(&list, &reference.namespace) {
                hosts.known.insert((scope, name.clone()), host.clone());
            }
        }
        hosts
    }

    /// What a resource of `namespace` with this `exportTo` means by a host.
    pub(super) fn find(&self, host: &str, namespace: &str, export_to: &[String]) -> Option<&Host> {
        let name = qualify(host, namespace, &self.domain);
        let own = [".".to_string()];
        let asked = if export_to.is_empty() { &own } else { export_to };
        let asked = asked.iter().map(|scope| if scope == "." { namespace } else { scope });
        let exact = std::iter::once("*").chain(asked).find_map(|scope| self.known.get(&(scope.into(), name.clone())));
        exact.or_else(|| self.covering(host, namespace))
    }

    fn covering(&self, host: &str, namespace: &str) -> Option<&Host> {
        let bare = host.trim_start_matches('*');
        let covers = |known: &str| known.strip_prefix('*').is_some_and(|suffix| bare.ends_with(suffix));
        let visible = |scope: &str| scope == "*" || scope == namespace;
        let found = self.known.iter().find(|((scope, known), _)| visible(scope) && covers(known));
        found.map(|(_, host)| host)
    }
}

fn entry_host(entry: &ServiceEntry) -> Host {
    let selector = entry.spec.workload_selector.as_ref().map(|selector| selector.labels.clone());
    Host {
        ports: entry.spec.ports.iter().map(|port| port.number).collect(),
        selector: selector.unwrap_or_default(),
        endpoints: entry.spec.endpoints.iter().map(|endpoint| endpoint.labels.clone()).collect(),
    }
}

/// The scopes that an `exportTo` list stands for: `*` alone, or namespaces.
pub(super) fn scopes(export_to: &[String], own: &str) -> Vec<String> {
    if export_to.is_empty() || export_to.iter().any(|entry| entry == "*") {
        return vec!["*".to_string()];
    }
    let mut scopes: Vec<String> =
        export_to.iter().map(|entry| if entry == "." { own } else { entry.as_str() }.to_string()).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}
