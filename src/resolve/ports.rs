//! The ports on which a sidecar looks at requests one by one, counted, so that a service may come or go.

use std::collections::BTreeMap;

use super::registry::{Protocol, Registry, Service};
use super::sidecar::has_own_listener;

/// The ports on which some visible service has requests looked at one by one.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(BTreeMap<u16, Heard>);

/// How many services have a port.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Of those whose requests are looked at.
    http: usize,
    /// Of those that need the listener for any address.
    open: usize,
}

impl Ports {
    pub(super) fn of(registry: Registry<'_>) -> Self {
        let mut ports = Ports::default();
        registry.visible().for_each(|service| ports.add(service));
        ports
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }

    /// Whether somebody needs the listener of a port for any address.
    pub(super) fn is_open(&self, port: u16) -> bool {
        self.0.get(&port).is_some_and(|heard| heard.open > 0)
    }

    pub(super) fn add(&mut self, service: &Service) {
        for (port, open) in heard(service) {
            let known = self.0.entry(port).or_default();
            *known = Heard { http: known.http + 1, open: known.open + usize::from(open) };
        }
    }

    /// Takes a service away that was added.
    pub(super) fn remove(&mut self, service: &Service) {
        for (port, open) in heard(service) {
            let Some(known) = self.0.get_mut(&port) else { continue };
            known.http = known.http.saturating_sub(1);
            known.open = known.open.saturating_sub(usize::from(open));
            if known.http == 0 {
                self.0.remove(&port);
            }
        }
    }
}

/// The ports of a service on which requests are looked at, and whether each needs the listener for any address.
fn heard(service: &Service) -> impl Iterator<Item = (u16, bool)> {
    let own = has_own_listener(service);
    let http = service.ports.iter().filter(|port| port.protocol.speaks_http());
    http.map(move |port| (port.number, port.protocol == Protocol::Http || !own))
}
