//! A snapshot in force, as it came from discovery.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshroute::Router;
use meshroute::plan::{Endpoint, Target};

use crate::question::Door;
use crate::wire::Routes;
use crate::workload::Workload;

/// A snapshot in force: what is read together is swapped together.
pub struct Config {
    /// Where requests go.
    pub router: Router,
    /// File and line of each rule.
    pub places: BTreeMap<String, String>,
    /// Whose proxy this is.
    pub own: Arc<Workload>,
    underlay: BTreeMap<SocketAddr, SocketAddr>,
    workloads: BTreeMap<IpAddr, Arc<Workload>>,
}

impl Config {
    /// Checks what came over the wire.
    pub fn check(routes: Routes) -> Result<Self, String> {
        if let Some(real) = routes.underlay.values().find(|real| !real.ip().is_loopback()) {
            return Err(format!("{real} is not on loopback"));
        }
        let router = Router::compile(routes.plan).map_err(|error| error.to_string())?;
        let workloads = routes.workloads.into_iter().map(|(ip, workload)| (ip, Arc::new(workload))).collect();
        let (underlay, places, own) = (routes.underlay, routes.places, Arc::new(routes.own));
        Ok(Config { router, places, own, underlay, workloads })
    }

    /// Whose pod an endpoint is.
    pub fn workload(&self, endpoint: &Endpoint) -> Arc<Workload> {
        let known = endpoint.socket().and_then(|socket| self.workloads.get(&socket.ip()));
        known.map_or_else(|| Arc::new(Workload::unknown()), Arc::clone)
    }

    /// Where a made-up address really is. This mesh reaches nothing beyond loopback.
    pub fn real(&self, address: SocketAddr) -> Option<SocketAddr> {
        let real = self.underlay.get(&address).copied();
        real.or_else(|| address.ip().is_loopback().then_some(address))
    }

    /// Whether there is a gateway's port, of which some connections go on as a whole.
    pub fn carries_whole(&self, door: Door) -> bool {
        let Door::Gateway(port) = door else { return false };
        let listeners = self.router.plan().listeners.iter().filter(|listener| listener.port == port);
        listeners.flat_map(|listener| &listener.chains).any(|chain| matches!(chain.target, Target::Tcp { .. }))
    }
}
