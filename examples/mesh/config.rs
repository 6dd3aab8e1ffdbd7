//! A snapshot in force, as it came from discovery.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ptr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hyper::header::HeaderValue;
use meshroute::authorize::Guard;
use meshroute::model::destination_rule::ClientTlsMode;
use meshroute::plan::{Cluster, Endpoint, LoadBalancer, Target};
use meshroute::{Connection, Decision, Outcome, Router};

use crate::metrics::Via;
use crate::outside::Origin;
use crate::question::Door;
use crate::spiffe::Name;
use crate::transport::{Abroad, Way};
use crate::upstream::{Reached, Upstream};
use crate::wire::{Carries, Inbound, Peer, Routes};
use crate::workload::{Service, Workload};
use crate::world::rule_key;
use crate::{answer, dial, forward, message, outside};

/// A snapshot in force: what is read together is swapped together.
pub struct Config {
    /// Where requests go.
    pub router: Router,
    /// File and line of each rule.
    pub places: BTreeMap<String, String>,
    /// Whose proxy this is.
    pub own: Arc<Workload>,
    /// What comes to each port of its own pod.
    pub entrances: BTreeMap<u16, Entrance>,
    /// Who may come in.
    pub guard: Guard,
    /// Who this is, as the other sidecars are told it.
    pub metadata: Option<HeaderValue>,
    /// How hosts outside are spoken to, by cluster.
    pub outside: BTreeMap<String, Arc<Origin>>,
    peers: BTreeMap<SocketAddr, Peer>,
    underlay: BTreeMap<SocketAddr, SocketAddr>,
    workloads: BTreeMap<IpAddr, Arc<Workload>>,
    told: Mutex<HashMap<(usize, usize), Arc<Told>>>,
}

/// A port of the own pod, and what is said of every request that comes to it: worked out once.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// How it is served.
    pub inbound: Inbound,
    /// The service that leads there.
    pub service: Arc<Service>,
    /// The cluster that it is: the pod's program.
    pub cluster: Arc<Cluster>,
}

impl Entrance {
    fn new(port: u16, inbound: Inbound) -> Self {
        let service = match inbound.service.as_str() {
            "" => Service::unknown(),
            host => Arc::new(Service::of_host(host)),
        };
        let cluster = Arc::new(forward::single(&format!("inbound|{port}||"), inbound.socket));
        Entrance { inbound, service, cluster }
    }
}

/// What is said of every request that a route sends to a cluster: worked out once.
pub struct Told {
    /// By which rule, and to which cluster.
    pub via: Via,
    /// The service that was asked for.
    pub service: Arc<Service>,
    /// The rule in words.
    pub reason: Arc<str>,
    /// The same as a header.
    pub shown: Option<HeaderValue>,
    /// The cluster in motion, once it has been asked for.
    pub upstream: OnceLock<Arc<Upstream>>,
}

impl Config {
    /// Checks what came over the wire. `before`: the snapshot in force.
    pub fn check(routes: Routes, before: Option<&Config>) -> Result<Self, String> {
        let inbound = routes.inbound.values().map(|inbound| &inbound.socket);
        if let Some(real) = routes.underlay.values().chain(inbound).find(|real| !dial::reaches(**real)) {
            return Err(format!("{real} is not on loopback"));
        }
        let router = Router::compile(routes.plan).map_err(|error| error.to_string())?;
        let workloads = routes.workloads.into_iter().map(|(ip, workload)| (ip, Arc::new(workload))).collect();
        let (underlay, places, own) = (routes.underlay, routes.places, Arc::new(routes.own));
        let metadata = serde_json::to_string(&*own).ok().and_then(|text| HeaderValue::from_str(&text).ok());
        let Routes { inbound, guard, peers, .. } = routes;
        let entrances = inbound.into_iter().map(|(port, inbound)| (port, Entrance::new(port, inbound))).collect();
        let outside = outside::adopt(routes.outside, before);
        let told = Mutex::default();
        Ok(Config { router, places, own, entrances, guard, metadata, outside, peers, underlay, workloads, told })
    }

    /// Whose pod an endpoint is.
    pub fn workload(&self, reached: &Reached) -> Arc<Workload> {
        reached.socket.and_then(|socket| self.workload_at(socket.ip())).unwrap_or_else(Workload::unknown)
    }

    /// Whose pod is at an address.
    pub fn workload_at(&self, ip: IpAddr) -> Option<Arc<Workload>> {
        self.workloads.get(&ip).map(Arc::clone)
    }

    /// What is said of a decision that sends a request on by a route.
    pub fn told(&self, decision: &Decision<'_>) -> Option<Arc<Told>> {
        let (route, cluster) = (decision.route?, decision.cluster()?);
        if !matches!(decision.outcome, Outcome::Forward(_)) {
            return None;
        }
        // The plan keeps both where they are for as long as this value lives.
        let key = (ptr::from_ref(route).addr(), ptr::from_ref(cluster).addr());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(key).or_insert_with(|| {
            let reason: Arc<str> = answer::reason(&self.places, decision).into();
            let rule = decision.origin().map(|origin| rule_key(&origin.written_in, &origin.field).into());
            Arc::new(Told {
                via: Via { rule: rule.unwrap_or_default(), cluster: Arc::clone(&cluster.name) },
                service: Arc::new(Service::of_cluster(cluster)),
                shown: message::header(&reason),
                reason,
                upstream: OnceLock::new(),
            })
        });
        Some(Arc::clone(told))
    }

    /// Who of the mesh must be at an address of a cluster: somebody where somebody is there who takes mutual TLS, unless a
    /// DestinationRule says something of its own about TLS.
    pub fn peer(&self, cluster: &Cluster, address: SocketAddr) -> Option<&Name> {
        let mode = cluster.policy.tls.as_ref().map(|tls| tls.mode);
        let peer = self.peers.get(&address).filter(|peer| match mode {
            None => peer.unasked,
            Some(mode) => mode == ClientTlsMode::IstioMutual,
        });
        peer.map(|peer| &peer.name)
    }

    /// How an endpoint of a cluster is reached.
    pub fn way(&self, cluster: &Cluster, reached: &Reached) -> Option<Way> {
        let address = reached.socket?;
        let tls = cluster.policy.tls.as_ref();
        let peer = self.peer(cluster, address).cloned();
        let sni = tls.map(|tls| tls.sni.clone()).filter(|sni| !sni.is_empty());
        let outside =
            self.outside.get(&*cluster.name).map(|origin| Box::new(Abroad { origin: Arc::clone(origin), host: None }));
        Some(Way { to: self.real(address)?, peer, sni, outside })
    }

    /// The endpoint that a client itself has chosen by dialling it, where a cluster leaves it to the client: a ServiceEntry
    /// without resolution, or `PASSTHROUGH`. `None`: it does not, or nobody knows what was dialled, or that is not reached.
    pub fn original(&self, cluster: &Cluster, dialled: impl FnOnce() -> Option<SocketAddr>) -> Option<Reached> {
        // Asked for only where it matters: most clusters choose themselves.
        if cluster.policy.load_balancer != LoadBalancer::Passthrough {
            return None;
        }
        let dialled = dialled().filter(|dialled| self.real(*dialled).is_some())?;
        Some(Reached { endpoint: Endpoint::new(&dialled.ip().to_string(), dialled.port(), ""), socket: Some(dialled) })
    }

    /// Where a made-up address really is. This mesh reaches nothing beyond loopback and its pods' namespaces.
    pub fn real(&self, address: SocketAddr) -> Option<SocketAddr> {
        let real = self.underlay.get(&address).copied();
        real.or_else(|| dial::reaches(address).then_some(address))
    }

    /// What comes to a port of the own pod. One that nobody spoke of is found only where the pod's addresses are real, and
    /// carried as a whole.
    pub fn entrance(&self, port: u16) -> Option<Cow<'_, Entrance>> {
        let unheard_of = || {
            let inbound = Inbound { socket: dial::own(port)?, carries: Carries::Bytes, service: String::new() };
            Some(Cow::Owned(Entrance::new(port, inbound)))
        };
        self.entrances.get(&port).map(Cow::Borrowed).or_else(unheard_of)
    }

    /// Whether there are rules for requests to a host of this name, by whatever port.
    pub fn claims(&self, name: &str) -> bool {
        let tables = self.router.plan().listeners.iter().flat_map(|listener| &listener.chains);
        let tables = tables.filter_map(|chain| match &chain.target {
            Target::Http(table) => Some(table),
            Target::Tcp { .. } => None,
        });
        tables.flat_map(|table| &table.hosts).any(|host| meshroute::host_of(&host.name) == name)
    }

    /// Whether requests are looked for in a connection by its first bytes.
    pub fn looks_for_requests(&self, to: &Connection<'_>) -> bool {
        let taken_up = |addresses: &[IpAddr]| match to.address {
            Some(address) => addresses.is_empty() || addresses.contains(&address),
            None => addresses.is_empty(),
        };
        let listeners = self.router.plan().listeners.iter().filter(|listener| listener.port == to.port);
        let chains = listeners.filter(|listener| taken_up(&listener.addresses)).flat_map(|listener| &listener.chains);
        chains.into_iter().any(|chain| chain.http_only)
    }

    /// Whether there is a gateway's port, of which some connections go on as a whole.
    pub fn carries_whole(&self, door: Door) -> bool {
        let Door::Gateway(port) = door else { return false };
        let listeners = self.router.plan().listeners.iter().filter(|listener| listener.port == port);
        listeners.flat_map(|listener| &listener.chains).any(|chain| matches!(chain.target, Target::Tcp { .. }))
    }
}
