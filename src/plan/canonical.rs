//! When two plans say the same.

use std::sync::Arc;

use super::{Action, Chain, Cluster, Destination, HttpTable, List, Listener, Mirror, Plan, Route, Target, VirtualHost};

impl Plan {
    /// The plan with the virtual hosts of each table in the order of their names, and the clusters in the order in which
    /// routes name them, without those that none names.
    ///
    /// No decision depends on either order: a plan that was changed bit by bit and one that was made from nothing say the
    /// same if and only if these are equal.
    pub fn canonical(&self) -> Plan {
        let mut renumbered =
            Renumbered { before: &self.clusters, places: vec![None; self.clusters.len()], after: List::new() };
        let listeners = self.listeners.iter().map(|listener| renumbered.listener(listener)).collect();
        Plan { listeners, clusters: renumbered.after, unmatched: self.unmatched, names: self.names.clone() }
    }
}

struct Renumbered<'p> {
    before: &'p List<Cluster>,
    places: Vec<Option<u32>>,
    after: List<Cluster>,
}

impl Renumbered<'_> {
    fn listener(&mut self, listener: &Listener) -> Listener {
        let chains = listener.chains.iter().map(|chain| self.chain(chain)).collect();
        Listener { chains, addresses: listener.addresses.clone(), ..*listener }
    }

    fn chain(&mut self, chain: &Chain) -> Chain {
        let target = match &chain.target {
            Target::Http(table) => Target::Http(Arc::new(self.table(table))),
            Target::Tcp { destinations, origin } => {
                let destinations = destinations.iter().map(|destination| self.destination(destination)).collect();
                Target::Tcp { destinations, origin: origin.clone() }
            }
        };
        Chain { target, ..chain.clone() }
    }

    fn table(&mut self, table: &HttpTable) -> HttpTable {
        let mut hosts: Vec<&Arc<VirtualHost>> = table.hosts.iter().collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        let hosts = hosts.into_iter().map(|host| self.host(host)).collect();
        HttpTable { hosts, ..table.clone() }
    }

    fn host(&mut self, host: &VirtualHost) -> VirtualHost {
        VirtualHost { routes: host.routes.iter().map(|route| self.route(route)).collect(), ..host.clone() }
    }

    fn route(&mut self, route: &Route) -> Route {
        let mut route = route.clone();
        if let Action::Forward(forward) = &mut route.action {
            forward.destinations =
                forward.destinations.iter().map(|destination| self.destination(destination)).collect();
            let mirror = |mirror: &Mirror| Mirror { cluster: self.place(mirror.cluster), ..mirror.clone() };
            forward.mirrors = forward.mirrors.iter().map(mirror).collect();
        }
        route
    }

    fn destination(&mut self, destination: &Destination) -> Destination {
        Destination { cluster: self.place(destination.cluster), ..destination.clone() }
    }

    /// The new place of a cluster; one that there is not keeps its number.
    fn place(&mut self, cluster: u32) -> u32 {
        let at = cluster as usize;
        let Some(known) = self.before.get(at) else { return cluster };
        if let Some(place) = self.places[at] {
            return place;
        }
        let place = self.after.len() as u32;
        self.after.push(known.clone());
        self.places[at] = Some(place);
        place
    }
}
