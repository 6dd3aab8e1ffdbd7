//! The services that a client sees, whoever declared them: Kubernetes Services and ServiceEntries, with their ports,
//! addresses and endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use super::scope::Scope;
use super::visibility::Export;
use super::{Mesh, Viewpoint};
use crate::diagnostic::ResourceRef;
use crate::kubernetes::{self, has_labels, is_ready, pod_ip};
use crate::model::service_entry::{Location, Resolution};
use crate::model::workload_entry::WorkloadEntrySpec;
use crate::model::{IntOrString, Object, Pod, Service as KubernetesService, ServiceEntry, Timestamp};
use crate::name::HostPattern;
use crate::resources::Resources;

/// Labels, shared between an endpoint and what it was made from.
pub(super) type Labels = Rc<BTreeMap<String, String>>;

/// What a port carries, as its declaration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Tls,
    Tcp,
    Udp,
    /// Not declared: looked at when the first bytes come.
    Sniffed,
}

impl Protocol {
    /// Reads the name of a protocol, without regard to case (istio `pkg/config/protocol`).
    pub(super) fn parse(text: &str) -> Protocol {
        match text.to_ascii_lowercase().as_str() {
            "http" | "http2" | "h2c" | "grpc" | "grpc-web" | "http_proxy" | "kubernetes.io/h2c"
            | "kubernetes.io/ws" => Protocol::Http,
            "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
            "tcp" | "mongo" | "mysql" | "redis" | "thrift" | "hbone" | "double-hbone" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Sniffed,
        }
    }

    /// Whether HTTP rules apply.
    pub(super) fn speaks_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Sniffed)
    }
}

/// One port of a service.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) protocol: Protocol,
    target: Option<IntOrString>,
}

/// Where the addresses of a service come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its endpoints are known here.
    Static,
    /// Headless: the client picks a pod by its own address.
    Headless,
    /// DNS says them.
    Dns,
    /// Nobody says them: traffic goes to the address dialled.
    Passthrough,
}

/// One endpoint, with what subsets look at.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) address: Rc<str>,
    pub(super) workload: Rc<str>,
    pub(super) labels: Labels,
    pub(super) locality: Rc<str>,
    pub(super) weight: u32,
    /// The endpoint's port for each of the service's ports that it serves.
    pub(super) ports: Rc<BTreeMap<u16, u16>>,
}

/// A service as its clients see it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) host: HostPattern,
    pub(super) namespace: String,
    pub(super) ports: Vec<Port>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) subnets: Vec<String>,
    pub(super) kind: Kind,
    pub(super) kubernetes: bool,
    /// Whether it stands outside the mesh.
    pub(super) external: bool,
    /// The host that an ExternalName service stands for.
    pub(super) alias_of: Option<String>,
    pub(super) members: Vec<Member>,
    export: Export,
    created: Option<Timestamp>,
    applied: u64,
    pub(super) resource: ResourceRef,
}

impl Service {
    pub(super) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether requests to this port are looked at one by one.
    pub(super) fn serves_http(&self, number: u16) -> bool {
        self.port(number).is_some_and(|port| port.protocol.speaks_http())
    }

    /// Whether it came first: Kubernetes before ServiceEntry, then the older one.
    fn rank(&self) -> (bool, Option<Timestamp>, u64) {
        (!self.kubernetes, self.created, self.applied)
    }
}

/// The services of one client's scope, each host once, and all there are.
#[derive(Debug)]
pub(super) struct Registry {
    /// What the client sees, in the order of their hosts.
    pub(super) visible: Vec<Rc<Service>>,
    by_host: HashMap<String, Rc<Service>>,
    /// The visible services that stand for another host, by that host.
    aliases: HashMap<String, Vec<Rc<Service>>>,
    /// Every service by host, whether visible or not.
    all: HashMap<String, Vec<Rc<Service>>>,
}

impl Registry {
    /// Reads services out of resources, for one client.
    pub(super) fn new(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh, scope: &Scope) -> Self {
        let world = World::new(resources);
        let mut all: HashMap<String, Vec<Rc<Service>>> = HashMap::new();
        for service in world.services(resources, mesh) {
            all.entry(service.host.as_str().to_string()).or_default().push(Rc::new(service));
        }
        let mut by_host: HashMap<String, Rc<Service>> = HashMap::new();
        for (host, candidates) in &mut all {
            candidates.sort_by_key(|service| service.rank());
            let reached = candidates.iter().filter(|service| service.export.reaches(&viewpoint.namespace));
            let seen: Vec<Service> = reached.filter_map(|service| scope.trim((**service).clone())).collect();
            let own = seen.iter().position(|service| service.namespace == viewpoint.namespace).unwrap_or(0);
            if let Some(chosen) = seen.into_iter().nth(own) {
                by_host.insert(host.clone(), Rc::new(chosen));
            }
        }
        let mut visible: Vec<_> = by_host.values().cloned().collect();
        visible.sort_by(|a, b| a.host.cmp(&b.host));
        let mut aliases: HashMap<String, Vec<Rc<Service>>> = HashMap::new();
        for service in &visible {
            if let Some(host) = &service.alias_of {
                aliases.entry(host.clone()).or_default().push(service.clone());
            }
        }
        Registry { visible, by_host, aliases, all }
    }

    /// A visible service by its host.
    pub(super) fn find(&self, host: &str) -> Option<&Rc<Service>> {
        self.by_host.get(host)
    }

    /// The visible services that stand for a host.
    pub(super) fn aliases(&self, host: &str) -> &[Rc<Service>] {
        self.aliases.get(host).map_or(&[], Vec::as_slice)
    }

    /// A visible service of this very name whose requests to this port are looked at one by one.
    pub(super) fn serving(&self, host: &str, port: u16) -> Option<&Rc<Service>> {
        self.find(host).filter(|service| service.alias_of.is_none() && service.serves_http(port))
    }

    /// Whether some visible service under a host has requests to this port looked at one by one.
    pub(super) fn serves(&self, host: &HostPattern, port: u16) -> bool {
        if !host.is_wildcard() {
            return self.serving(host.as_str(), port).is_some();
        }
        let mut under = self.visible.iter().filter(|service| host.overlaps(&service.host));
        under.any(|service| service.alias_of.is_none() && service.serves_http(port))
    }

    /// Whether there is a service of this host that the client does not see.
    pub(super) fn hidden(&self, host: &str) -> Option<&Rc<Service>> {
        if self.by_host.contains_key(host) { None } else { self.all.get(host)?.first() }
    }

    /// The ports on which some visible service has requests looked at one by one.
    pub(super) fn http_ports(&self) -> std::collections::BTreeSet<u16> {
        let ports = self.visible.iter().flat_map(|service| &service.ports);
        ports.filter(|port| port.protocol.speaks_http()).map(|port| port.number).collect()
    }
}

/// What services select their endpoints from.
struct World {
    pods: Vec<Pod>,
    /// The places in `pods` of those in a namespace with a label of this value.
    pods_by_label: HashMap<(String, String, String), Vec<usize>>,
    pod_labels: HashMap<(String, String), Labels>,
    workloads: Vec<(String, String, WorkloadEntrySpec)>,
}

impl World {
    fn new(resources: &Resources) -> Self {
        let pods = kubernetes::pods(resources);
        let key = |pod: &Pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let pod_labels = pods.iter().map(|pod| (key(pod), Rc::new(pod.metadata.labels.clone()))).collect();
        let workloads = resources
            .iter()
            .filter_map(|resource| match resource.object {
                Object::WorkloadEntry(entry) => {
                    Some((entry.metadata.namespace.clone(), entry.metadata.name.clone(), entry.spec.clone()))
                }
                _ => None,
            })
            .collect();
        let mut pods_by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, pod) in pods.iter().enumerate() {
            for (key, value) in &pod.metadata.labels {
                let place = (pod.metadata.namespace.clone(), key.clone(), value.clone());
                pods_by_label.entry(place).or_default().push(at);
            }
        }
        World { pods, pods_by_label, pod_labels, workloads }
    }

    /// The pods of a namespace with all of some labels, of which there is at least one.
    fn selected<'w>(
        &'w self,
        namespace: &str,
        labels: &'w BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'w Pod> + use<'w> {
        let first = labels.first_key_value();
        let place = first.map(|(key, value)| (namespace.to_string(), key.clone(), value.clone()));
        let found = place.and_then(|place| self.pods_by_label.get(&place)).map_or(&[][..], Vec::as_slice);
        found.iter().map(|&at| &self.pods[at]).filter(|pod| has_labels(&pod.metadata.labels, labels))
    }

    fn services(&self, resources: &Resources, mesh: &Mesh) -> Vec<Service> {
        let slices = Slices::new(resources);
        let mut services = Vec::new();
        for resource in resources.iter() {
            match resource.object {
                Object::Service(service) => {
                    services.extend(self.kubernetes(service, resource.reference, resource.applied, &slices, mesh));
                }
                Object::ServiceEntry(entry) => {
                    services.extend(self.entry(entry, resource.reference, resource.applied, mesh));
                }
                _ => {}
            }
        }
        services
    }

    fn kubernetes(
        &self,
        service: &KubernetesService,
        resource: &ResourceRef,
        applied: u64,
        slices: &Slices<'_>,
        mesh: &Mesh,
    ) -> Option<Service> {
        let (metadata, spec) = (&service.metadata, &service.spec);
        let host = format!("{}.{}.svc.{}", metadata.name, metadata.namespace, mesh.domain);
        let ports: Vec<Port> = spec.ports.iter().map(kubernetes_port).collect();
        let external = spec.r#type == "ExternalName";
        let headless = spec.cluster_ip == "None";
        let written: Vec<String> = metadata
            .annotations
            .get("networking.istio.io/exportTo")
            .map(|list| list.split(',').map(|entry| entry.trim().to_string()).collect())
            .unwrap_or_default();
        let members = if external { Vec::new() } else { self.members(service, &ports, slices) };
        let ips = std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips);
        let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        addresses.dedup();
        Some(Service {
            host: HostPattern::parse(&host).ok()?,
            namespace: metadata.namespace.clone(),
            ports,
            addresses,
            subnets: Vec::new(),
            kind: match (external, headless) {
                (true, _) => Kind::Dns,
                (false, true) => Kind::Headless,
                (false, false) => Kind::Static,
            },
            kubernetes: true,
            external: false,
            alias_of: external.then(|| spec.external_name.clone()).filter(|name| !name.is_empty()),
            members,
            export: Export::read(&written, &mesh.default_service_export_to, &metadata.namespace),
            created: metadata.creation_timestamp,
            applied,
            resource: resource.clone(),
        })
    }

    /// The ready endpoints: of its EndpointSlices or Endpoints, or, without any, the pods that it selects.
    fn members(&self, service: &KubernetesService, ports: &[Port], slices: &Slices<'_>) -> Vec<Member> {
        let (namespace, name) = (service.metadata.namespace.as_str(), service.metadata.name.as_str());
        if let Some(members) = slices.of(namespace, name, ports, self) {
            return members;
        }
        let usable = |pod: &&Pod| is_ready(pod) || (service.spec.publish_not_ready_addresses && pod_ip(pod).is_some());
        let selected = self.selected(namespace, &service.spec.selector);
        selected.filter(usable).filter_map(|pod| self.pod(pod, ports)).collect()
    }

    fn pod(&self, pod: &Pod, ports: &[Port]) -> Option<Member> {
        let targets = ports.iter().filter_map(|port| Some((port.number, pod_port(pod, port)?))).collect();
        Some(Member {
            address: pod_ip(pod)?.into(),
            workload: pod.metadata.name.as_str().into(),
            labels: self.labels(&pod.metadata.namespace, &pod.metadata.name),
            locality: "".into(),
            weight: 0,
            ports: Rc::new(targets),
        })
    }

    fn labels(&self, namespace: &str, pod: &str) -> Labels {
        self.pod_labels.get(&(namespace.to_string(), pod.to_string())).cloned().unwrap_or_default()
    }

    fn entry(&self, entry: &ServiceEntry, resource: &ResourceRef, applied: u64, mesh: &Mesh) -> Vec<Service> {
        let spec = &entry.spec;
        let ports: Vec<Port> = spec.ports.iter().filter_map(entry_port).collect();
        let members = self.entry_members(entry, &ports);
        let kind = match spec.resolution {
            Resolution::None => Kind::Passthrough,
            Resolution::Static => Kind::Static,
            _ => Kind::Dns,
        };
        let service = |host: &String| {
            let pattern = HostPattern::parse(host).ok()?;
            // With DNS and no endpoints, the host itself is the endpoint.
            let own = || vec![dns_member(host, &ports)];
            let members = if kind == Kind::Dns && members.is_empty() { own() } else { members.clone() };
            Some(Service {
                host: pattern,
                namespace: entry.metadata.namespace.clone(),
                ports: ports.clone(),
                addresses: spec.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
                subnets: spec.addresses.iter().filter(|address| address.contains('/')).cloned().collect(),
                kind,
                kubernetes: false,
                external: spec.location == Location::MeshExternal,
                alias_of: None,
                members,
                export: Export::read(&spec.export_to, &mesh.default_service_export_to, &entry.metadata.namespace),
                created: entry.metadata.creation_timestamp,
                applied,
                resource: resource.clone(),
            })
        };
        spec.hosts.iter().filter_map(service).collect()
    }

    fn entry_members(&self, entry: &ServiceEntry, ports: &[Port]) -> Vec<Member> {
        let own = entry.spec.endpoints.iter().map(|endpoint| workload_member(endpoint, "", ports));
        let Some(selector) = &entry.spec.workload_selector else { return own.collect() };
        let namespace = &entry.metadata.namespace;
        let chosen =
            self.workloads.iter().filter(|(ns, _, spec)| ns == namespace && has_labels(&spec.labels, &selector.labels));
        let pods = self.selected(namespace, &selector.labels).filter(|pod| is_ready(pod));
        own.chain(chosen.map(|(_, name, spec)| workload_member(spec, name, ports)))
            .chain(pods.filter_map(|pod| self.pod(pod, ports)))
            .collect()
    }
}

fn kubernetes_port(port: &crate::model::service::ServicePort) -> Port {
    let protocol = if port.protocol.eq_ignore_ascii_case("udp") {
        Protocol::Udp
    } else if !port.app_protocol.is_empty() {
        Protocol::parse(&port.app_protocol)
    } else if port.name.is_empty() && well_known_tcp(port.port) {
        Protocol::Tcp
    } else if port.name.starts_with("grpc-web") {
        Protocol::Http
    } else {
        Protocol::parse(port.name.split('-').next().unwrap_or_default())
    };
    let protocol = if protocol == Protocol::Sniffed && well_known_tcp(port.port) { Protocol::Tcp } else { protocol };
    Port { number: port.port, name: port.name.clone(), protocol, target: port.target_port.clone() }
}

/// Ports on which the server speaks first, so that nothing can be sniffed (istio `pkg/config/kube/conversion.go`).
fn well_known_tcp(port: u16) -> bool {
    matches!(port, 25 | 53 | 3306 | 27017)
}

fn entry_port(port: &crate::model::service_entry::ServicePort) -> Option<Port> {
    let target = (port.target_port != 0).then_some(IntOrString::Int(i64::from(port.target_port)));
    Some(Port {
        number: u16::try_from(port.number).ok()?,
        name: port.name.clone(),
        protocol: Protocol::parse(&port.protocol),
        target,
    })
}

/// The port of a pod that serves a service's port: a number, or the name of one of its containers' ports.
fn pod_port(pod: &Pod, port: &Port) -> Option<u16> {
    match &port.target {
        None => Some(port.number),
        Some(IntOrString::Int(0)) => Some(port.number),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
            ports
                .clone()
                .find(|known| known.name == *name)
                .map(|known| known.container_port)
                .or_else(|| name.parse().ok())
        }
    }
}

fn target_number(port: &Port) -> u16 {
    match &port.target {
        Some(IntOrString::Int(number)) if *number > 0 => u16::try_from(*number).unwrap_or(port.number),
        _ => port.number,
    }
}

fn workload_member(entry: &WorkloadEntrySpec, name: &str, ports: &[Port]) -> Member {
    let target = |port: &Port| {
        let own = entry.ports.get(&port.name).and_then(|&number| u16::try_from(number).ok());
        (port.number, own.unwrap_or_else(|| target_number(port)))
    };
    Member {
        address: entry.address.as_str().into(),
        workload: name.into(),
        labels: Rc::new(entry.labels.clone()),
        locality: entry.locality.as_str().into(),
        weight: entry.weight,
        ports: Rc::new(ports.iter().map(target).collect()),
    }
}

fn dns_member(host: &str, ports: &[Port]) -> Member {
    Member {
        address: host.into(),
        workload: "".into(),
        labels: Labels::default(),
        locality: "".into(),
        weight: 0,
        ports: Rc::new(ports.iter().map(|port| (port.number, target_number(port))).collect()),
    }
}

/// EndpointSlices and Endpoints by the service they belong to.
struct Slices<'r> {
    slices: HashMap<(&'r str, &'r str), Vec<&'r crate::model::EndpointSlice>>,
    endpoints: HashMap<(&'r str, &'r str), &'r crate::model::Endpoints>,
}

impl<'r> Slices<'r> {
    fn new(resources: &'r Resources) -> Self {
        let mut found = Slices { slices: HashMap::new(), endpoints: HashMap::new() };
        for resource in resources.iter() {
            let metadata = resource.object.metadata();
            match resource.object {
                Object::EndpointSlice(slice) => {
                    if let Some(service) = metadata.labels.get("kubernetes.io/service-name") {
                        found.slices.entry((&metadata.namespace, service)).or_default().push(slice);
                    }
                }
                Object::Endpoints(endpoints) => {
                    found.endpoints.insert((&metadata.namespace, &metadata.name), endpoints);
                }
                _ => {}
            }
        }
        found
    }

    fn of(&self, namespace: &str, name: &str, ports: &[Port], world: &World) -> Option<Vec<Member>> {
        if let Some(slices) = self.slices.get(&(namespace, name)) {
            return Some(slices.iter().flat_map(|slice| slice_members(slice, namespace, ports, world)).collect());
        }
        let endpoints = self.endpoints.get(&(namespace, name))?;
        Some(endpoints.subsets.iter().flat_map(|subset| subset_members(subset, namespace, ports, world)).collect())
    }
}

fn slice_members(slice: &crate::model::EndpointSlice, namespace: &str, ports: &[Port], world: &World) -> Vec<Member> {
    let served = |port: &Port| {
        let by_name = slice.ports.iter().find(|known| known.name.as_deref().unwrap_or_default() == port.name);
        Some((port.number, by_name?.port?))
    };
    let targets: Rc<BTreeMap<u16, u16>> = Rc::new(ports.iter().filter_map(served).collect());
    let ready = |endpoint: &&crate::model::endpoint_slice::Endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
    };
    let ready = slice.endpoints.iter().filter(ready);
    ready
        .flat_map(|endpoint| endpoint.addresses.first().map(|address| (endpoint, address)))
        .map(|(endpoint, address)| {
            let pod =
                endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| target.name.as_str());
            Member {
                address: address.as_str().into(),
                workload: pod.unwrap_or_default().into(),
                labels: pod.map(|pod| world.labels(namespace, pod)).unwrap_or_default(),
                locality: endpoint.zone.as_str().into(),
                weight: 0,
                ports: targets.clone(),
            }
        })
        .collect()
}

fn subset_members(
    subset: &crate::model::endpoints::EndpointSubset,
    namespace: &str,
    ports: &[Port],
    world: &World,
) -> Vec<Member> {
    let served = |port: &Port| {
        let by_name = subset.ports.iter().find(|known| known.name == port.name);
        Some((port.number, by_name?.port))
    };
    let targets: Rc<BTreeMap<u16, u16>> = Rc::new(ports.iter().filter_map(served).collect());
    let member = |address: &crate::model::endpoints::EndpointAddress| {
        let pod = address.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| target.name.as_str());
        Member {
            address: address.ip.as_str().into(),
            workload: pod.unwrap_or_default().into(),
            labels: pod.map(|pod| world.labels(namespace, pod)).unwrap_or_default(),
            locality: "".into(),
            weight: 0,
            ports: targets.clone(),
        }
    };
    subset.addresses.iter().map(member).collect()
}
