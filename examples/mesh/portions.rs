//! What a sidecar or gateway gets, cut into resources by type, and put together again.
//!
//! Knows which resource names which. On the wire a cluster is named, and not numbered: so a new one changes no others. What
//! comes is believed only as far as it fits together; a route that points to a cluster that is not there is refused.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshroute::Plan;
use meshroute::authorize::Guard;
use meshroute::limit::RateLimits;
use meshroute::plan::{
    Action, Cluster, Endpoint, HttpTable, Listener, Names, Target, Unclaimed, Unmatched, VirtualHost,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ads::{Set, Sets, Type};
use crate::wire::{Credential, Inbound, Outside, Peer, PodSpec, Routes, Services};
use crate::workload::Workload;
use crate::world::rule_key;

/// The one resource of a type that has no names for its resources.
const ALL: &str = "all";

/// A cluster, without its endpoints.
#[derive(Serialize, Deserialize)]
struct Named {
    cluster: Cluster,
    outside: Option<Outside>,
}

/// A listener. Its tables are empty but for their names: those of the resources that they are found in.
#[derive(Serialize, Deserialize)]
struct Door {
    /// The clusters that it names, by the numbers it has for them.
    clusters: Vec<Arc<str>>,
    listener: Listener,
}

/// Routes: a table, or one of its virtual hosts. They come and go together, as they are of one type.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Piece {
    Table(Table),
    Host(Host),
}

/// A route table without its hosts.
#[derive(Serialize, Deserialize)]
struct Table {
    table: HttpTable,
    /// The resources that its hosts are, in order.
    hosts: Vec<Arc<str>>,
}

/// A virtual host of a table.
#[derive(Serialize, Deserialize)]
struct Host {
    /// The clusters that it names, by the numbers it has for them.
    clusters: Vec<Arc<str>>,
    host: VirtualHost,
    /// File and line of its rules.
    places: BTreeMap<String, String>,
}

/// What is said of all listeners.
#[derive(Serialize, Deserialize)]
struct Order {
    /// Their names: of two that fit, the first one counts.
    listeners: Vec<Arc<str>>,
    unmatched: Unmatched,
}

/// What is known of an address.
#[derive(Default, Serialize, Deserialize)]
struct Address {
    /// Where it really is.
    real: Option<SocketAddr>,
    /// Who is there, if the mesh encrypts what goes there.
    peer: Option<Peer>,
}

/// What is only this proxy's.
#[derive(Serialize, Deserialize)]
struct Own {
    workload: Workload,
    roots: Vec<Vec<u8>>,
    credentials: Vec<Credential>,
    inbound: BTreeMap<u16, Inbound>,
}

/// What concerns one proxy alone.
pub fn own(
    workload: Workload,
    roots: Vec<Vec<u8>>,
    credentials: Vec<Credential>,
    inbound: BTreeMap<u16, Inbound>,
) -> serde_json::Result<Set> {
    single(&Own { workload, roots, credentials, inbound })
}

/// The rest, by type.
pub fn cut(routes: &Routes) -> serde_json::Result<Sets> {
    let plan = &routes.plan;
    let policies = [("guard", serde_json::to_value(&routes.guard)?), ("limits", serde_json::to_value(&routes.limits)?)];
    let policies = policies.map(|(name, value)| (Arc::from(name), Arc::new(value))).into();
    let endpoints = plan.clusters.iter().map(|cluster| resource(&cluster.name, &cluster.endpoints));
    let names = plan.names.iter().map(|(name, addresses)| resource(name, addresses));
    let tables = Tables::of(plan);
    let sets = [
        (Type::Policies, policies),
        (Type::Addresses, addresses(routes)?),
        (Type::Clusters, clusters(routes)?),
        (Type::Endpoints, endpoints.collect::<Result<_, _>>()?),
        (Type::Listeners, listeners(plan, &tables)?),
        (Type::Routes, tables.resources(routes)?),
        (Type::Names, names.collect::<Result<_, _>>()?),
    ];
    Ok(sets.map(|(r#type, set)| (r#type, Arc::new(set))).into())
}

fn resource(name: &str, value: &impl Serialize) -> serde_json::Result<(Arc<str>, Arc<Value>)> {
    Ok((name.into(), Arc::new(serde_json::to_value(value)?)))
}

/// The Services that a kube-proxy serves.
pub fn services(services: &Services) -> serde_json::Result<Set> {
    services.iter().map(|(name, balanced)| resource(name, balanced)).collect()
}

/// The pods that a node runs.
pub fn pods(pods: &[PodSpec]) -> serde_json::Result<Set> {
    pods.iter().map(|pod| resource(&format!("{}/{}", pod.namespace, pod.name), pod)).collect()
}

fn single(value: &impl Serialize) -> serde_json::Result<Set> {
    Ok(Set::from([resource(ALL, value)?]))
}

fn addresses(routes: &Routes) -> serde_json::Result<Set> {
    let mut known: BTreeMap<SocketAddr, Address> = BTreeMap::new();
    for (address, real) in &routes.underlay {
        known.entry(*address).or_default().real = Some(*real);
    }
    for (address, peer) in &routes.peers {
        known.entry(*address).or_default().peer = Some(peer.clone());
    }
    let sockets = known.iter().map(|(address, known)| resource(&address.to_string(), known));
    let workloads = routes.workloads.iter().map(|(ip, workload)| resource(&ip.to_string(), workload));
    sockets.chain(workloads).collect()
}

fn clusters(routes: &Routes) -> serde_json::Result<Set> {
    let named = |cluster: &Arc<Cluster>| {
        let mut bare = Cluster::clone(cluster);
        bare.endpoints = Arc::new([]);
        resource(&cluster.name, &Named { cluster: bare, outside: routes.outside.get(&*cluster.name).cloned() })
    };
    routes.plan.clusters.iter().map(named).collect()
}

fn listeners(plan: &Plan, tables: &Tables) -> serde_json::Result<Set> {
    let mut set = Set::new();
    let mut order = Order { listeners: Vec::new(), unmatched: plan.unmatched };
    for (at, known) in plan.listeners.iter().enumerate() {
        let (mut numbers, mut listener) = (Numbers::new(plan), Listener::clone(known));
        for (chain, own) in listener.chains.iter_mut().enumerate() {
            match &mut own.target {
                Target::Http(table) => {
                    *table = Arc::new(HttpTable::new(tables.name(table, at, chain), Unclaimed::NotFound));
                }
                Target::Tcp { destinations, .. } => {
                    destinations.iter_mut().for_each(|to| to.cluster = numbers.of(to.cluster));
                }
            }
        }
        let mut name: Arc<str> = place(known).into();
        while set.contains_key(&name) {
            name = format!("{name} again").into();
        }
        set.extend([resource(&name, &Door { clusters: numbers.names, listener })?]);
        order.listeners.push(name);
    }
    set.extend([resource(ALL, &order)?]);
    Ok(set)
}

/// Where a listener is: `80`, or `80 at 10.96.0.7`.
fn place(listener: &Listener) -> String {
    let addresses: Vec<String> = listener.addresses.iter().map(IpAddr::to_string).collect();
    match addresses.as_slice() {
        [] => listener.port.to_string(),
        some => format!("{} at {}", listener.port, some.join(", ")),
    }
}

/// The route tables of a plan under their names. If there are several of one name, the place is added to all of them: what
/// a name stands for never changes from one table to another.
struct Tables<'p> {
    plan: &'p Plan,
    /// `None`: there are several.
    by_name: BTreeMap<&'p str, Option<&'p HttpTable>>,
}

impl<'p> Tables<'p> {
    fn of(plan: &'p Plan) -> Self {
        let mut by_name = BTreeMap::new();
        for (_, _, table) in all(plan) {
            let known = by_name.entry(&*table.name).or_insert(Some(&**table));
            if known.is_some_and(|known| !std::ptr::eq(known, &**table) && *known != **table) {
                *known = None;
            }
        }
        Tables { plan, by_name }
    }

    fn name(&self, table: &HttpTable, listener: usize, chain: usize) -> String {
        match (self.by_name.get(&*table.name), self.plan.listeners.get(listener)) {
            (Some(None), Some(known)) => format!("{} of {}, chain {chain}", table.name, place(known)),
            _ => table.name.to_string(),
        }
    }

    fn resources(&self, routes: &Routes) -> serde_json::Result<Set> {
        let mut set = Set::new();
        for (listener, chain, table) in all(self.plan) {
            let name = self.name(table, listener, chain);
            if set.contains_key(&*name) {
                continue;
            }
            let mut hosts = Vec::new();
            for host in &table.hosts {
                let mut own: Arc<str> = format!("{name}/{}", host.name).into();
                while set.contains_key(&own) {
                    own = format!("{own} again").into();
                }
                set.extend([resource(&own, &Piece::Host(self.host(host, routes)))?]);
                hosts.push(own);
            }
            let table = HttpTable::new(Arc::clone(&table.name), table.unclaimed);
            set.extend([resource(&name, &Piece::Table(Table { table, hosts }))?]);
        }
        Ok(set)
    }

    fn host(&self, host: &VirtualHost, routes: &Routes) -> Host {
        let mut numbers = Numbers::new(self.plan);
        let host = renumbered(host, |cluster| numbers.of(cluster));
        Host { places: places(&host, routes), clusters: numbers.names, host }
    }
}

/// Every route table, with the places of its listener and chain.
fn all(plan: &Plan) -> impl Iterator<Item = (usize, usize, &Arc<HttpTable>)> {
    plan.listeners.iter().enumerate().flat_map(|(at, listener)| {
        listener.chains.iter().enumerate().filter_map(move |(chain, own)| match &own.target {
            Target::Http(table) => Some((at, chain, table)),
            Target::Tcp { .. } => None,
        })
    })
}

/// File and line of each rule of a virtual host.
fn places(host: &VirtualHost, routes: &Routes) -> BTreeMap<String, String> {
    let origins = host.routes.iter().filter_map(|route| route.origin.as_ref());
    let keys = origins.map(|origin| rule_key(&origin.written_in, &origin.field));
    keys.filter_map(|key| routes.places.get_key_value(&key)).map(|(key, at)| (key.clone(), at.clone())).collect()
}

/// The numbers that one resource has for the clusters that it names.
struct Numbers<'p> {
    plan: &'p Plan,
    names: Vec<Arc<str>>,
    known: BTreeMap<u32, u32>,
}

impl<'p> Numbers<'p> {
    fn new(plan: &'p Plan) -> Self {
        Numbers { plan, names: Vec::new(), known: BTreeMap::new() }
    }

    fn of(&mut self, cluster: u32) -> u32 {
        *self.known.entry(cluster).or_insert_with(|| {
            let name = self.plan.clusters.get(cluster as usize).map(|cluster| Arc::clone(&cluster.name));
            self.names.push(name.unwrap_or_default());
            self.names.len() as u32 - 1
        })
    }
}

/// A virtual host with other numbers for its clusters.
fn renumbered(host: &VirtualHost, mut number: impl FnMut(u32) -> u32) -> VirtualHost {
    let (mut other, mut routes) = (host.clone(), host.routes.to_vec());
    for route in &mut routes {
        let Action::Forward(forward) = &mut route.action else { continue };
        forward.destinations.iter_mut().for_each(|to| to.cluster = number(to.cluster));
        forward.mirrors.iter_mut().for_each(|to| to.cluster = number(to.cluster));
    }
    other.routes = routes.into();
    other
}

/// Puts together what there is. `warm` are the listeners in force: one whose tables have not come yet stays as it was
/// there, and is otherwise left out. Says which ones are in force with this.
pub fn join(sets: &Sets, warm: &Set) -> Result<(Routes, Set), String> {
    let own: Option<Own> = one(sets, Type::Identity, ALL)?;
    let mut routes = Routes {
        plan: Plan::default(),
        inbound: BTreeMap::new(),
        guard: one::<Guard>(sets, Type::Policies, "guard")?.unwrap_or_default(),
        limits: one::<RateLimits>(sets, Type::Policies, "limits")?.unwrap_or_default(),
        peers: BTreeMap::new(),
        roots: Vec::new(),
        credentials: Vec::new(),
        outside: BTreeMap::new(),
        underlay: BTreeMap::new(),
        places: BTreeMap::new(),
        own: Workload::clone(&Workload::unknown()),
        workloads: BTreeMap::new(),
    };
    if let Some(own) = own {
        let Own { workload, roots, credentials, inbound } = own;
        (routes.own, routes.roots, routes.credentials, routes.inbound) = (workload, roots, credentials, inbound);
    }
    join_addresses(sets, &mut routes)?;
    let numbers = join_clusters(sets, &mut routes)?;
    let tables = join_tables(sets, &numbers, &mut routes)?;
    let warm = join_listeners(sets, &Known { numbers, tables }, warm, &mut routes.plan)?;
    let names = every::<Vec<IpAddr>>(sets, Type::Names).collect::<Result<Vec<_>, _>>()?;
    routes.plan.names = names.into_iter().map(|(name, addresses)| (Arc::clone(name), addresses)).collect::<Names>();
    Ok((routes, warm))
}

/// The resources of a type, each checked.
pub fn every<T: DeserializeOwned>(sets: &Sets, r#type: Type) -> impl Iterator<Item = Result<(&Arc<str>, T), String>> {
    let set = sets.get(&r#type).into_iter().flat_map(|set| set.iter());
    set.map(move |(name, value)| Ok((name, typed(name, value)?)))
}

fn typed<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("`{name}`: {error}"))
}

fn one<T: DeserializeOwned>(sets: &Sets, r#type: Type, name: &str) -> Result<Option<T>, String> {
    sets.get(&r#type).and_then(|set| set.get(name)).map(|value| typed(name, value)).transpose()
}

fn join_addresses(sets: &Sets, routes: &mut Routes) -> Result<(), String> {
    for (name, value) in sets.get(&Type::Addresses).into_iter().flat_map(|set| set.iter()) {
        if let Ok(ip) = name.parse::<IpAddr>() {
            routes.workloads.insert(ip, typed(name, value)?);
            continue;
        }
        let address: SocketAddr = name.parse().map_err(|_| format!("`{name}` is no address"))?;
        let Address { real, peer } = typed(name, value)?;
        routes.underlay.extend(real.map(|real| (address, real)));
        routes.peers.extend(peer.map(|peer| (address, peer)));
    }
    Ok(())
}

/// The clusters with their endpoints, and the number of each.
fn join_clusters(sets: &Sets, routes: &mut Routes) -> Result<BTreeMap<Arc<str>, u32>, String> {
    let mut endpoints = every::<Vec<Endpoint>>(sets, Type::Endpoints).collect::<Result<BTreeMap<_, _>, _>>()?;
    let mut numbers = BTreeMap::new();
    for (number, named) in (0u32..).zip(every(sets, Type::Clusters)) {
        let (name, Named { mut cluster, outside }) = named?;
        cluster.endpoints = endpoints.remove(name).unwrap_or_default().into();
        routes.outside.extend(outside.map(|outside| (name.to_string(), outside)));
        routes.plan.clusters.push(cluster);
        numbers.insert(Arc::clone(name), number);
    }
    Ok(numbers)
}

/// What listeners may name.
struct Known {
    numbers: BTreeMap<Arc<str>, u32>,
    tables: BTreeMap<Arc<str>, Arc<HttpTable>>,
}

/// The numbers of the clusters that a resource names, all of which have to be there.
fn resolved(numbers: &BTreeMap<Arc<str>, u32>, by: &str, names: &[Arc<str>]) -> Result<Vec<u32>, String> {
    let number = |name: &Arc<str>| {
        numbers.get(name).copied().ok_or_else(|| format!("`{by}` points to cluster `{name}`, which is not there"))
    };
    names.iter().map(number).collect()
}

fn join_tables(
    sets: &Sets,
    numbers: &BTreeMap<Arc<str>, u32>,
    routes: &mut Routes,
) -> Result<BTreeMap<Arc<str>, Arc<HttpTable>>, String> {
    let (mut hosts, mut tables) = (BTreeMap::new(), Vec::new());
    for piece in every(sets, Type::Routes) {
        match piece? {
            (name, Piece::Table(table)) => tables.push((name, table)),
            (name, Piece::Host(Host { clusters, host, places })) => {
                let numbers = resolved(numbers, name, &clusters)?;
                let number = |own: u32| numbers.get(own as usize).copied().unwrap_or(u32::MAX);
                hosts.insert(name, Arc::new(renumbered(&host, number)));
                routes.places.extend(places);
            }
        }
    }
    let whole = |(name, Table { mut table, hosts: wanted }): (&Arc<str>, Table)| {
        for host in wanted {
            let known = hosts.get(&host).ok_or_else(|| format!("`{name}` has no host `{host}`"))?;
            table.hosts.push(Arc::clone(known));
        }
        Ok((Arc::clone(name), Arc::new(table)))
    };
    tables.into_iter().map(whole).collect()
}

fn join_listeners(sets: &Sets, known: &Known, warm: &Set, plan: &mut Plan) -> Result<Set, String> {
    let Some(order) = one::<Order>(sets, Type::Listeners, ALL)? else { return Ok(Set::new()) };
    plan.unmatched = order.unmatched;
    let mut stands = Set::new();
    for name in order.listeners {
        let set = sets.get(&Type::Listeners).and_then(|set| set.get(&name));
        let value = set.ok_or_else(|| format!("there is no listener `{name}`"))?;
        let (mut value, mut listener) = (value, known.listener(&name, value)?);
        if let (None, Some(before)) = (&listener, warm.get(&name)) {
            (value, listener) = (before, known.listener(&name, before).ok().flatten());
        }
        if let Some(listener) = listener {
            plan.listeners.push(listener);
            stands.insert(name, Arc::clone(value));
        }
    }
    Ok(stands)
}

impl Known {
    /// A listener with its tables; `None`: they are not all there.
    fn listener(&self, name: &str, value: &Value) -> Result<Option<Listener>, String> {
        let Door { clusters, mut listener } = typed(name, value)?;
        let numbers = resolved(&self.numbers, name, &clusters)?;
        for chain in &mut listener.chains {
            match &mut chain.target {
                Target::Http(table) => match self.tables.get(&table.name) {
                    Some(known) => *table = Arc::clone(known),
                    None => return Ok(None),
                },
                Target::Tcp { destinations, .. } => {
                    let number = |own: u32| numbers.get(own as usize).copied().unwrap_or(u32::MAX);
                    destinations.iter_mut().for_each(|to| to.cluster = number(to.cluster));
                }
            }
        }
        Ok(Some(listener))
    }
}
