//! A client that does what an Envoy does, and sees whether anything in force ever refers to what is not there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{
    Route, RouteAction, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use meshroute::adapter::xds::{Flavor, Kind, Session, Snapshot, Translation};
use prost::{Message, Name};

use crate::dice::Dice;

/// What the client will not have.
pub const BAD: &str = "bad";

pub fn cluster(name: &str, says: &str) -> Cluster {
    Cluster {
        name: name.into(),
        alt_stat_name: says.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig::default()),
        ..Cluster::default()
    }
}

pub fn endpoints(name: &str, says: &str) -> ClusterLoadAssignment {
    let locality = Some(Locality { region: says.into(), ..Locality::default() });
    let endpoints = vec![LocalityLbEndpoints { locality, ..LocalityLbEndpoints::default() }];
    ClusterLoadAssignment { cluster_name: name.into(), endpoints, ..ClusterLoadAssignment::default() }
}

pub fn table(name: &str, clusters: &[String], says: &str) -> RouteConfiguration {
    let route = |cluster: &String| Route {
        name: says.into(),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let host = VirtualHost { routes: clusters.iter().map(route).collect(), ..VirtualHost::default() };
    RouteConfiguration { name: name.into(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

pub fn listener(name: &str, table: &str, says: &str) -> Listener {
    let rds = Rds { route_config_name: table.into(), ..Rds::default() };
    let manager =
        HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..HttpConnectionManager::default() };
    let any = Any {
        type_url: format!("type.googleapis.com/{}", HttpConnectionManager::full_name()),
        value: manager.encode_to_vec(),
    };
    let filter = Filter { config_type: Some(ConfigType::TypedConfig(any)), ..Filter::default() };
    let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { name: name.into(), stat_prefix: says.into(), filter_chains: vec![chain], ..Listener::default() }
}

/// A resource as the client knows it: what it says, and the names of what it needs or refers to.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    says: String,
    refers: BTreeSet<String>,
}

fn known(kind: Kind, any: &Any) -> (String, Known) {
    let bytes = any.value.as_slice();
    let (name, says, refers) = match kind {
        Kind::Cluster => {
            let made = Cluster::decode(bytes).expect("it is a cluster");
            (made.name.clone(), made.alt_stat_name, [made.name].into())
        }
        Kind::Endpoints => {
            let made = ClusterLoadAssignment::decode(bytes).expect("it is an assignment");
            let says = made.endpoints[0].locality.clone().expect("the test puts it there").region;
            (made.cluster_name, says, BTreeSet::new())
        }
        Kind::Listener => {
            let made = Listener::decode(bytes).expect("it is a listener");
            let Some(ConfigType::TypedConfig(any)) = &made.filter_chains[0].filters[0].config_type else {
                panic!("the test puts it there")
            };
            let manager = HttpConnectionManager::decode(any.value.as_slice()).expect("it is a manager");
            let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else { panic!("the test puts it there") };
            (made.name, made.stat_prefix, [rds.route_config_name].into())
        }
        Kind::Route => {
            let made = RouteConfiguration::decode(bytes).expect("it is a table");
            let routes = &made.virtual_hosts[0].routes;
            let says = routes.first().map(|route| route.name.clone()).unwrap_or_default();
            let cluster = |route: &Route| match &route.action {
                Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster(name)), ..
                })) => name.clone(),
                _ => panic!("the test puts it there"),
            };
            (made.name, says, routes.iter().map(cluster).collect())
        }
    };
    (name, Known { says, refers })
}

/// What came over the wire.
struct Came {
    kind: Kind,
    version: String,
    nonce: String,
    resources: Vec<(String, Known)>,
    /// What is gone; `None`: whatever was not sent.
    removed: Option<Vec<String>>,
}

/// What goes back.
enum Goes {
    World(DiscoveryRequest),
    Delta(DeltaDiscoveryRequest),
}

/// The client.
pub struct Puppet {
    flavor: Flavor,
    pub session: Session,
    to_client: VecDeque<Came>,
    to_server: VecDeque<Goes>,
    /// In force, by kind.
    has: [BTreeMap<String, Known>; 4],
    /// Taken, but waiting for what it needs; beside it stays in force what was so before.
    warming: [BTreeMap<String, Known>; 4],
    asked: [Option<BTreeSet<String>>; 4],
    last: [(String, String); 4],
    pub refusals: usize,
    /// Its word on clusters, which it keeps until it has the endpoints of all of them (Envoy's `updateClusterCounts`).
    kept: Option<(Option<String>, String)>,
    /// What happened, for whoever has to find out why.
    story: Vec<String>,
}

impl Puppet {
    pub fn new(flavor: Flavor, snapshot: Snapshot) -> Self {
        let mut puppet = Puppet {
            flavor,
            session: Session::new(flavor, Arc::new(snapshot)),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            has: Default::default(),
            warming: Default::default(),
            asked: Default::default(),
            last: Default::default(),
            refusals: 0,
            kept: None,
            story: Vec::new(),
        };
        puppet.ask(Kind::Cluster, BTreeSet::new());
        puppet
    }

    /// One step of either side; `false` where there is none to make.
    pub fn step(&mut self, server: bool) -> bool {
        if server {
            let Some(goes) = self.to_server.pop_front() else { return self.send() };
            match goes {
                Goes::World(request) => self.session.request(&request),
                Goes::Delta(request) => self.session.delta_request(&request),
            }
            return true;
        }
        let Some(came) = self.to_client.pop_front() else { return false };
        self.take(came);
        true
    }

    fn send(&mut self) -> bool {
        let Some(response) = self.session.next_response() else { return false };
        let mut bytes = Vec::new();
        response.encode(self.flavor, &mut bytes);
        let kind = response.kind();
        let came = match self.flavor {
            Flavor::StateOfTheWorld => {
                let response = DiscoveryResponse::decode(bytes.as_slice()).expect("it is one");
                assert_eq!(response.type_url, kind.type_url());
                let resources = response.resources.iter().map(|any| known(kind, any)).collect();
                Came { kind, version: response.version_info, nonce: response.nonce, resources, removed: None }
            }
            Flavor::Delta => {
                let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("it is one");
                assert_eq!(response.type_url, kind.type_url());
                let one = |resource: &envoy_types::pb::envoy::service::discovery::v3::Resource| {
                    let (name, known) = known(kind, resource.resource.as_ref().expect("it is there"));
                    assert_eq!(name, resource.name);
                    (name, known)
                };
                let resources = response.resources.iter().map(one).collect();
                let (version, removed) = (response.system_version_info, Some(response.removed_resources));
                Came { kind, version, nonce: response.nonce, resources, removed }
            }
        };
        self.to_client.push_back(came);
        true
    }

    fn take(&mut self, came: Came) {
        let kind = came.kind;
        let resources: Vec<String> =
            came.resources.iter().map(|(name, known)| format!("{name}={} {:?}", known.says, known.refers)).collect();
        self.story.push(format!("{kind} comes: {}, removed {:?}", resources.join(", "), came.removed));
        if came.resources.iter().any(|(_, known)| known.says == BAD) {
            self.refusals += 1;
            if kind == Kind::Endpoints {
                // A cluster goes without rather than wait for ever (`onConfigUpdateFailed`).
                let waiting = std::mem::take(&mut self.warming[Kind::Cluster as usize]);
                self.has[Kind::Cluster as usize].extend(waiting);
                self.ask_for_more();
            }
            self.say(kind, None, &came.nonce);
            return;
        }
        if let Some(removed) = &came.removed {
            removed.iter().for_each(|name| self.drop(kind, name));
        } else if matches!(kind, Kind::Cluster | Kind::Listener) {
            let sent: BTreeSet<&String> = came.resources.iter().map(|(name, _)| name).collect();
            let all = self.has[kind as usize].keys().chain(self.warming[kind as usize].keys());
            let gone: Vec<String> = all.filter(|name| !sent.contains(name)).cloned().collect();
            gone.iter().for_each(|name| self.drop(kind, name));
        }
        for (name, known) in came.resources {
            self.put(kind, name, known);
        }
        self.warm_up();
        // As an Envoy may, it asks for more before it says that it has taken what it has.
        self.ask_for_more();
        self.say(kind, Some(&came.version), &came.nonce);
        self.check();
    }

    /// Says its word, at once or when it is time to.
    fn say(&mut self, kind: Kind, accepted: Option<&str>, nonce: &str) {
        match kind {
            Kind::Cluster => self.kept = Some((accepted.map(str::to_string), nonce.into())),
            _ => self.word(kind, accepted, nonce),
        }
        if self.warming[Kind::Cluster as usize].is_empty()
            && let Some((accepted, nonce)) = self.kept.take()
        {
            self.word(Kind::Cluster, accepted.as_deref(), &nonce);
        }
    }

    fn put(&mut self, kind: Kind, name: String, known: Known) {
        match kind {
            Kind::Cluster | Kind::Listener => {
                if self.has[kind as usize].get(&name) == Some(&known) {
                    // What was on its way to take its place is no more.
                    self.warming[kind as usize].remove(&name);
                } else if self.warming[kind as usize].get(&name) != Some(&known) {
                    // A cluster begins to wait anew, also for what it had.
                    self.warming[kind as usize].insert(name, known);
                }
            }
            Kind::Endpoints => {
                if let Some(cluster) = self.warming[Kind::Cluster as usize].remove(&name) {
                    self.has[Kind::Cluster as usize].insert(name.clone(), cluster);
                }
                self.has[kind as usize].insert(name, known);
            }
            Kind::Route => drop(self.has[kind as usize].insert(name, known)),
        }
    }

    fn drop(&mut self, kind: Kind, name: &str) {
        self.has[kind as usize].remove(name);
        self.warming[kind as usize].remove(name);
    }

    /// Listeners come into force when they have their tables.
    fn warm_up(&mut self) {
        let tables = &self.has[Kind::Route as usize];
        let ready = |known: &Known| known.refers.iter().all(|name| tables.contains_key(name));
        let warm: Vec<String> = self.warming[Kind::Listener as usize]
            .iter()
            .filter(|(_, known)| ready(known))
            .map(|(name, _)| name.clone())
            .collect();
        for name in warm {
            let known = self.warming[Kind::Listener as usize].remove(&name).expect("it was just found");
            self.has[Kind::Listener as usize].insert(name, known);
        }
    }

    fn ask_for_more(&mut self) {
        let needs = |kind: Kind| -> BTreeSet<String> {
            let all = self.has[kind as usize].values().chain(self.warming[kind as usize].values());
            all.flat_map(|known| known.refers.clone()).collect()
        };
        let (endpoints, routes) = (needs(Kind::Cluster), needs(Kind::Listener));
        self.ask(Kind::Endpoints, endpoints);
        self.has[Kind::Route as usize].retain(|name, _| routes.contains(name));
        let is_up = self.asked[Kind::Listener as usize].is_some();
        if !is_up && self.warming[Kind::Cluster as usize].is_empty() {
            self.ask(Kind::Listener, BTreeSet::new());
        }
        if is_up {
            self.ask(Kind::Route, routes);
        }
    }

    fn ask(&mut self, kind: Kind, names: BTreeSet<String>) {
        let before = self.asked[kind as usize].replace(names.clone());
        if before.as_ref() == Some(&names) || (before.is_none() && names.is_empty() && !is_root(kind)) {
            return;
        }
        let before = before.unwrap_or_default();
        let (version_info, response_nonce) = self.last[kind as usize].clone();
        let type_url = kind.type_url().to_string();
        self.story.push(format!("asks for {kind}: {names:?}"));
        self.to_server.push_back(match self.flavor {
            Flavor::StateOfTheWorld => Goes::World(DiscoveryRequest {
                version_info,
                response_nonce,
                resource_names: names.into_iter().collect(),
                type_url,
                ..DiscoveryRequest::default()
            }),
            Flavor::Delta => Goes::Delta(DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: names.difference(&before).cloned().collect(),
                resource_names_unsubscribe: before.difference(&names).cloned().collect(),
                ..DeltaDiscoveryRequest::default()
            }),
        });
    }

    fn word(&mut self, kind: Kind, accepted: Option<&str>, nonce: &str) {
        let last = &mut self.last[kind as usize];
        last.1 = nonce.into();
        if let Some(version) = accepted {
            last.0 = version.into();
        }
        let refusal = accepted.is_none().then(|| Status { message: "it is bad".into(), ..Status::default() });
        let type_url = kind.type_url().to_string();
        self.to_server.push_back(match self.flavor {
            Flavor::StateOfTheWorld => Goes::World(DiscoveryRequest {
                version_info: last.0.clone(),
                response_nonce: nonce.into(),
                resource_names: self.asked[kind as usize].iter().flatten().cloned().collect(),
                type_url,
                error_detail: refusal,
                ..DiscoveryRequest::default()
            }),
            Flavor::Delta => Goes::Delta(DeltaDiscoveryRequest {
                type_url,
                response_nonce: nonce.into(),
                error_detail: refusal,
                ..DeltaDiscoveryRequest::default()
            }),
        });
    }

    /// Nothing in force refers to what is not.
    fn check(&self) {
        for listener in self.has[Kind::Listener as usize].values() {
            for table in listener.refers.iter().filter_map(|name| self.has[Kind::Route as usize].get(name)) {
                for cluster in &table.refers {
                    assert!(
                        self.has[Kind::Cluster as usize].contains_key(cluster),
                        "`{cluster}` is routed to, and is not there:\n{}",
                        self.story.join("\n")
                    );
                }
            }
        }
    }

    /// Lets both sides go on until there is nothing to do.
    pub fn settle(&mut self, dice: &mut Dice) {
        for _ in 0..10_000 {
            let server = dice.chance(50);
            if !self.step(server) && !self.step(!server) {
                return;
            }
        }
        panic!("it comes to no end");
    }

    /// What it has, as text.
    pub fn has(&self) -> Vec<String> {
        let all = Kind::ALL.into_iter().flat_map(|kind| {
            let known = self.has[kind as usize].iter().chain(&self.warming[kind as usize]);
            let wanted = |name: &&String| kind != Kind::Endpoints || self.has[0].contains_key(*name);
            let known: Vec<String> = known
                .filter(|(name, _)| wanted(name))
                .map(|(name, known)| format!("{kind} {name}: {} {:?}", known.says, known.refers))
                .collect();
            known
        });
        all.collect()
    }
}

fn is_root(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

/// A configuration that refers to nothing that is not in it.
fn random(dice: &mut Dice, bad: bool) -> Translation {
    let mut made = Translation::default();
    let says = |dice: &mut Dice| if bad && dice.chance(8) { BAD.into() } else { dice.below(3).to_string() };
    let names: Vec<String> = (0..6).filter(|_| dice.chance(60)).map(|at| format!("c{at}")).collect();
    for name in &names {
        let (one, other) = (says(dice), says(dice));
        made.clusters.push(cluster(name, &one));
        made.endpoints.push(endpoints(name, &other));
    }
    for at in 0..3 {
        let mut to: Vec<String> = names.iter().filter(|_| dice.chance(40)).cloned().collect();
        to.truncate(3);
        let name = format!("t{}", dice.below(4));
        if dice.chance(70) {
            made.listeners.push(listener(&format!("l{at}"), &name, &says(dice)));
            if !made.routes.iter().any(|table| table.name == name) {
                let text = says(dice);
                made.routes.push(table(&name, &to, &text));
            }
        }
    }
    made
}

fn expected(made: &Translation) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |kind: Kind, any: Any| {
        let (name, known) = known(kind, &any);
        all.push((kind, name.clone(), format!("{kind} {name}: {} {:?}", known.says, known.refers)));
    };
    let any = |value: Vec<u8>| Any { value, ..Any::default() };
    made.clusters.iter().for_each(|one| add(Kind::Cluster, any(one.encode_to_vec())));
    made.endpoints.iter().for_each(|one| add(Kind::Endpoints, any(one.encode_to_vec())));
    made.listeners.iter().for_each(|one| add(Kind::Listener, any(one.encode_to_vec())));
    made.routes.iter().for_each(|one| add(Kind::Route, any(one.encode_to_vec())));
    all.sort();
    all.into_iter().map(|(_, _, text)| text).collect()
}

/// Configurations come one after the other, mostly before the last one has arrived everywhere.
fn life(seed: u64, flavor: Flavor, bad: bool) -> usize {
    let mut dice = Dice::new(seed, u64::from(bad));
    let mut made = random(&mut dice, false);
    // Whoever has nothing yet is given what there is, whatever it refuses.
    while bad && made.listeners.is_empty() {
        made = random(&mut dice, false);
    }
    let mut snapshot = Snapshot::new(&made);
    let mut puppet = Puppet::new(flavor, snapshot.clone());
    if bad {
        puppet.settle(&mut dice);
    }
    for change in 0..20 {
        for _ in 0..dice.below(40) {
            let server = dice.chance(50);
            puppet.step(server);
        }
        // The last one is good, whatever was before.
        made = random(&mut dice, bad && change < 19);
        snapshot = Snapshot::after(&snapshot, &made);
        puppet.story.push(format!("offered: {}", expected(&made).join(", ")));
        puppet.session.publish(Arc::new(snapshot.clone()));
    }
    puppet.settle(&mut dice);
    let story = puppet.story.join("\n");
    assert_eq!(puppet.has(), expected(&made), "seed {seed}, {flavor:?}:\n{story}");
    assert!(puppet.session.is_settled(), "seed {seed}, {flavor:?}");
    puppet.refusals
}

#[test]
fn nothing_in_force_ever_refers_to_what_is_not_there_and_all_arrives() {
    for seed in 0..150 {
        for flavor in [Flavor::StateOfTheWorld, Flavor::Delta] {
            assert_eq!(life(seed, flavor, false), 0);
        }
    }
}

#[test]
fn nor_when_much_of_it_is_refused() {
    let mut refusals = 0;
    for seed in 0..150 {
        for flavor in [Flavor::StateOfTheWorld, Flavor::Delta] {
            refusals += life(seed, flavor, true);
        }
    }
    assert!(refusals > 300, "{refusals} refusals");
}
