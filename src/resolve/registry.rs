//! The services that a client sees, whoever declared them: Kubernetes Services and ServiceEntries, with their ports,
//! addresses and endpoints.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Mesh;
use super::scope::Scope;
use super::visibility::Export;
use super::world::World;
use crate::diagnostic::ResourceRef;
use crate::kubernetes::pod_ip;
use crate::model::service_entry::{Location, Resolution};
use crate::model::workload_entry::WorkloadEntrySpec;
use crate::model::{IntOrString, Pod, Service as KubernetesService, ServiceEntry, Timestamp};
use crate::name::HostPattern;

/// Labels, shared between an endpoint and what it was made from.
pub(super) type Labels = Arc<BTreeMap<String, String>>;

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

    /// Whether what a protocol's name stands for is spoken over HTTP/2 (istio `IsHTTP2`).
    fn is_http2(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        matches!(text.as_str(), "http2" | "h2c" | "grpc" | "grpc-web" | "kubernetes.io/h2c")
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
    /// Whether its HTTP is HTTP/2.
    pub(super) http2: bool,
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
    pub(super) address: Arc<str>,
    pub(super) workload: Arc<str>,
    pub(super) labels: Labels,
    pub(super) locality: Arc<str>,
    pub(super) weight: u32,
    /// The endpoint's port for each of the service's ports that it serves.
    pub(super) ports: Arc<BTreeMap<u16, u16>>,
}

/// A service as its clients see it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(super) host: HostPattern,
    pub(super) namespace: Arc<str>,
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
    pub(super) resource: Arc<ResourceRef>,
}

impl Service {
    pub(super) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether requests to this port are looked at one by one.
    pub(super) fn serves_http(&self, number: u16) -> bool {
        self.port(number).is_some_and(|port| port.protocol.speaks_http())
    }

    /// Whether every namespace sees it.
    pub(super) fn is_for_everyone(&self) -> bool {
        self.export == Export::Everyone
    }

    /// Whether it came first: Kubernetes before ServiceEntry, then the older one.
    pub(super) fn rank(&self) -> (bool, Option<Timestamp>, u64) {
        (!self.kubernetes, self.created, self.applied)
    }
}

/// How one client looks at the services of all.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    namespace: String,
    /// Through a Sidecar's imports: what is left of them, by host.
    narrow: Option<HashMap<String, Arc<Service>>>,
}

impl Sight {
    /// Looks from a namespace, through a scope.
    pub(super) fn new(world: &World, namespace: &str, scope: &Scope) -> Self {
        let narrow = |host: &HostPattern| {
            let reached = reaching(world.candidates(host.as_str()), namespace);
            let kept = chosen(reached.filter_map(|service| scope.trim(service)), namespace)?;
            Some((host.as_str().to_string(), kept))
        };
        let narrow = scope.is_narrow().then(|| world.hosts().filter_map(narrow).collect());
        Sight { namespace: namespace.to_string(), narrow }
    }

    /// What it was of some services of a host that is seen.
    pub(super) fn among(&self, host: &str, candidates: &[Arc<Service>]) -> Option<Arc<Service>> {
        match &self.narrow {
            Some(narrow) => narrow.get(host).cloned(),
            None => chosen(reaching(candidates, &self.namespace), &self.namespace).cloned(),
        }
    }

    /// What is seen of a host's services as they are.
    pub(super) fn looked_up(&self, world: &World, host: &str, scope: &Scope) -> Option<Arc<Service>> {
        let reached = reaching(world.candidates(host), &self.namespace);
        chosen(reached.filter_map(|service| scope.trim(service)), &self.namespace)
    }

    /// Takes a service with other endpoints; says whether the client sees it.
    pub(super) fn renew(&mut self, world: &World, service: &Arc<Service>, scope: &Scope) -> bool {
        let seen = Registry::new(world, self).find(service.host.as_str());
        if seen.is_none_or(|seen| *seen.resource != *service.resource) {
            return false;
        }
        let Some(narrow) = &mut self.narrow else { return true };
        let Some(trimmed) = scope.trim(service) else { return false };
        narrow.insert(service.host.as_str().to_string(), trimmed);
        true
    }
}

fn reaching<'s>(candidates: &'s [Arc<Service>], namespace: &str) -> impl Iterator<Item = &'s Arc<Service>> {
    candidates.iter().filter(move |service| service.export.reaches(namespace))
}

/// The one of a client's own namespace, else the first.
fn chosen<S: AsRef<Service>>(seen: impl Iterator<Item = S>, namespace: &str) -> Option<S> {
    let mut seen = seen.peekable();
    if seen.peek()?.as_ref().namespace.as_ref() == namespace {
        return seen.next();
    }
    let first = seen.next();
    seen.find(|service| service.as_ref().namespace.as_ref() == namespace).or(first)
}

/// The services that one client sees, each host once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registry<'a> {
    world: &'a World,
    sight: &'a Sight,
    /// Hosts of which something else is seen.
    but: Option<&'a HashMap<String, Option<Arc<Service>>>>,
}

impl<'a> Registry<'a> {
    pub(super) fn new(world: &'a World, sight: &'a Sight) -> Self {
        Registry { world, sight, but: None }
    }

    /// The same, but for some hosts that are known to the world: as they were.
    pub(super) fn with(self, but: &'a HashMap<String, Option<Arc<Service>>>) -> Self {
        Registry { but: Some(but), ..self }
    }

    /// All of them, in the order of their hosts.
    pub(super) fn visible(self) -> impl Iterator<Item = &'a Arc<Service>> {
        self.world.hosts().filter_map(move |host| self.find(host.as_str()))
    }

    /// A visible service by its host.
    pub(super) fn find(self, host: &str) -> Option<&'a Arc<Service>> {
        if let Some(own) = self.but.and_then(|but| but.get(host)) {
            return own.as_ref();
        }
        match &self.sight.narrow {
            Some(narrow) => narrow.get(host),
            None => match self.world.candidates(host) {
                [only] => only.export.reaches(&self.sight.namespace).then_some(only),
                candidates => chosen(reaching(candidates, &self.sight.namespace), &self.sight.namespace),
            },
        }
    }

    /// A service of this host, where there are such but none that the client sees.
    pub(super) fn hidden(self, host: &str) -> Option<&'a Arc<Service>> {
        if self.find(host).is_some() { None } else { self.world.candidates(host).first() }
    }

    /// The visible services that stand for a host, in the order of their own.
    pub(super) fn aliases(self, host: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        let visible = self.world.aliases(host).filter_map(move |alias| self.find(alias.as_str()));
        visible.filter(move |service| service.alias_of.as_deref() == Some(host))
    }

    /// A visible service of this very name whose requests to this port are looked at one by one.
    pub(super) fn serving(self, host: &str, port: u16) -> Option<&'a Arc<Service>> {
        self.find(host).filter(|service| service.alias_of.is_none() && service.serves_http(port))
    }

    /// Whether some visible service under a host has requests to this port looked at one by one.
    pub(super) fn serves(self, host: &HostPattern, port: u16) -> bool {
        if !host.is_wildcard() {
            return self.serving(host.as_str(), port).is_some();
        }
        let mut under = self.visible().filter(|service| host.overlaps(&service.host));
        under.any(|service| service.alias_of.is_none() && service.serves_http(port))
    }
}

/// The host of a Kubernetes Service.
pub(super) fn host_of(service: &KubernetesService, mesh: &Mesh) -> String {
    format!("{}.{}.svc.{}", service.metadata.name, service.metadata.namespace, mesh.domain)
}

impl Service {
    /// What a Kubernetes Service declares; `None` where its name is none.
    pub(super) fn of_kubernetes(
        service: &KubernetesService,
        ports: Vec<Port>,
        members: Vec<Member>,
        resource: &ResourceRef,
        applied: u64,
        mesh: &Mesh,
    ) -> Option<Service> {
        let (metadata, spec) = (&service.metadata, &service.spec);
        let host = host_of(service, mesh);
        let external = spec.r#type == "ExternalName";
        let headless = spec.cluster_ip == "None";
        let written: Vec<String> = metadata
            .annotations
            .get("networking.istio.io/exportTo")
            .map(|list| list.split(',').map(|entry| entry.trim().to_string()).collect())
            .unwrap_or_default();
        let ips = std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips);
        let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        addresses.dedup();
        Some(Service {
            host: HostPattern::parse(&host).ok()?,
            namespace: metadata.namespace.as_str().into(),
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
            resource: Arc::new(resource.clone()),
        })
    }

    /// What a ServiceEntry declares: one service for each of its hosts.
    pub(super) fn of_entry(
        entry: &ServiceEntry,
        ports: &[Port],
        members: &[Member],
        resource: &ResourceRef,
        applied: u64,
        mesh: &Mesh,
    ) -> Vec<Service> {
        let spec = &entry.spec;
        let kind = match spec.resolution {
            Resolution::None => Kind::Passthrough,
            Resolution::Static => Kind::Static,
            _ => Kind::Dns,
        };
        let service = |host: &String| {
            let pattern = HostPattern::parse(host).ok()?;
            // With DNS and no endpoints, the host itself is the endpoint.
            let own = || vec![Member::of_dns(host, ports)];
            let members = if kind == Kind::Dns && members.is_empty() { own() } else { members.to_vec() };
            Some(Service {
                host: pattern,
                namespace: entry.metadata.namespace.as_str().into(),
                ports: ports.to_vec(),
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
                resource: Arc::new(resource.clone()),
            })
        };
        spec.hosts.iter().filter_map(service).collect()
    }
}

impl Port {
    pub(super) fn of_kubernetes(port: &crate::model::service::ServicePort) -> Port {
        let declared = match port.app_protocol.as_str() {
            _ if port.protocol.eq_ignore_ascii_case("udp") => "udp",
            "" if port.name.starts_with("grpc-web") => "grpc-web",
            "" => port.name.split('-').next().unwrap_or_default(),
            said => said,
        };
        let protocol = match Protocol::parse(declared) {
            Protocol::Sniffed if well_known_tcp(port.port) => Protocol::Tcp,
            known => known,
        };
        let http2 = Protocol::is_http2(declared);
        Port { number: port.port, name: port.name.clone(), protocol, http2, target: port.target_port.clone() }
    }

    pub(super) fn of_entry(port: &crate::model::service_entry::ServicePort) -> Option<Port> {
        let target = (port.target_port != 0).then_some(IntOrString::Int(i64::from(port.target_port)));
        Some(Port {
            number: u16::try_from(port.number).ok()?,
            name: port.name.clone(),
            protocol: Protocol::parse(&port.protocol),
            http2: Protocol::is_http2(&port.protocol),
            target,
        })
    }
}

/// Ports on which the server speaks first, so that nothing can be sniffed (istio `pkg/config/kube/conversion.go`).
fn well_known_tcp(port: u16) -> bool {
    matches!(port, 25 | 53 | 3306 | 27017)
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

/// Where a pod's labels say that it is; its node's, which else say it, are not known here (istio `getPodLocality`,
/// `GetLocalityLabel`). A label has no room for slashes, so that dots stand for them.
fn locality(labels: &Labels) -> Arc<str> {
    match labels.get("topology.istio.io/locality").or_else(|| labels.get("istio-locality")) {
        Some(label) if label.contains('/') => label.as_str().into(),
        Some(label) => label.replace('.', "/").into(),
        None => "".into(),
    }
}

impl Member {
    pub(super) fn new(address: &str, pod: Option<&str>, labels: Labels, ports: &Arc<BTreeMap<u16, u16>>) -> Member {
        Member {
            address: address.into(),
            workload: pod.unwrap_or_default().into(),
            locality: locality(&labels),
            labels,
            weight: 0,
            ports: ports.clone(),
        }
    }

    /// A pod as an endpoint; `None` while it has no address.
    pub(super) fn of_pod(pod: &Pod, ports: &[Port]) -> Option<Member> {
        let targets = ports.iter().filter_map(|port| Some((port.number, pod_port(pod, port)?))).collect();
        let labels = Labels::new(pod.metadata.labels.clone());
        Some(Member::new(pod_ip(pod)?, Some(&pod.metadata.name), labels, &Arc::new(targets)))
    }

    /// An endpoint that was written down.
    pub(super) fn of_workload(entry: &WorkloadEntrySpec, name: &str, ports: &[Port]) -> Member {
        let target = |port: &Port| {
            let own = entry.ports.get(&port.name).and_then(|&number| u16::try_from(number).ok());
            (port.number, own.unwrap_or_else(|| target_number(port)))
        };
        Member {
            address: entry.address.as_str().into(),
            workload: name.into(),
            labels: Arc::new(entry.labels.clone()),
            locality: entry.locality.as_str().into(),
            weight: entry.weight,
            ports: Arc::new(ports.iter().map(target).collect()),
        }
    }

    /// The host itself.
    fn of_dns(host: &str, ports: &[Port]) -> Member {
        Member {
            address: host.into(),
            workload: "".into(),
            labels: Labels::default(),
            locality: "".into(),
            weight: 0,
            ports: Arc::new(ports.iter().map(|port| (port.number, target_number(port))).collect()),
        }
    }
}
