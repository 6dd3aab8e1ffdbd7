//! What discovery knows: the operators' resources as last accepted, the pods that run, and who subscribes.
//!
//! Pure data: it opens no socket and reads no file. What a cluster adds to the operators' words is added here to a
//! copy: addresses of Services, and pods with a status. A pod is ready while its process is connected, and its sidecar's.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{MAIN_SEPARATOR, Path};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshroute::authorize::{Guard, MutualTls};
use meshroute::limit::RateLimits;
use meshroute::model::gateway::{Server, ServerTlsMode};
use meshroute::model::pod::PodCondition;
use meshroute::model::service::ServicePort;
use meshroute::model::{IntOrString, Object, Pod, PodSpec as Template, Service, Untyped};
use meshroute::plan::{Origin, Target};
use meshroute::{Diagnostic, Mesh, Plan, Reader, ResourceRef, Resources, Severity, Viewpoint, kubernetes};

use crate::ads::{Set, Sets, Subscription, Type};
use crate::spiffe::Name;
use crate::wire::{Balanced, Carries, Credential, Inbound, Part, Peer, PodSpec, Routes, Services};
use crate::workload::Workload;
use crate::{ads, outside, portions};

/// How long pods that do not run yet are waited for after the start, before anybody gets a snapshot without them.
const WARM_UP: Duration = Duration::from_secs(3);

/// Everything that discovery knows.
pub struct World {
    /// Grows with every change.
    pub version: u64,
    /// When it last did.
    pub changed: Instant,
    /// How often the folder was read, whatever came of it.
    pub readings: u64,
    /// What was found in the folder as it was last accepted.
    pub findings: Vec<Diagnostic>,
    /// What was found in it since, if that was refused.
    pub refused: Option<Vec<Diagnostic>>,
    /// Who is connected.
    pub subscribers: BTreeMap<u64, Subscriber>,
    /// What the name of every file begins with; messages leave it out.
    folder: String,
    resources: Resources,
    /// The same with what a cluster adds.
    cluster: Resources,
    pods: Vec<Pod>,
    /// Which of the spare addresses a pod has, by namespace and name.
    spares: BTreeMap<(String, String), u16>,
    /// Who is at the addresses to which the mesh encrypts.
    peers: BTreeMap<SocketAddr, Peer>,
    /// Whose certificates are trusted.
    roots: Vec<Vec<u8>>,
    started: Instant,
    /// What was worked out since the last change.
    common: RefCell<Views>,
    /// What was worked out before it: what has not changed is shared with that.
    before: Views,
}

/// What sidecars that look at the world alike have in common, and what came up when it was worked out.
type Common = (Sets, Vec<Diagnostic>);
type Views = HashMap<Viewpoint, Arc<Common>>;

/// Somebody who is connected.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Who.
    pub part: Part,
    /// The process.
    pub pid: u32,
    /// The port of its own page; 0: it has none.
    pub admin: u16,
    /// The version of the world of which there is nothing left to send to it.
    pub seen: u64,
    /// What was sent and said, by type.
    pub subscription: Subscription,
    /// The last version of all that it has, none of which it refused.
    pub acked: u64,
    /// What came up when its plan was worked out.
    pub findings: Vec<Diagnostic>,
}

impl Subscriber {
    /// Whether it has what it should have.
    fn settled(&self, version: u64) -> bool {
        if matches!(self.part, Part::Pod { .. }) {
            return true;
        }
        self.is_done(version)
    }

    /// Whether there is nothing left to send to it, or to hear from it, of a version.
    pub fn is_done(&self, version: u64) -> bool {
        self.seen == version
    }

    /// There is nothing left to send to it of a version. Says whether it has something new with that, and all of it.
    pub fn done(&mut self, version: u64) -> bool {
        self.seen = version;
        let (sent, whole) = (self.subscription.sent(), self.subscription.refused().next().is_none());
        let new = whole && self.acked != sent;
        if whole {
            self.acked = sent;
        }
        new
    }

    /// What it refused, in a sentence for each type.
    pub fn nack(&self) -> Option<String> {
        let refused =
            self.subscription.refused().map(|(r#type, refused)| format!("{}: {}", r#type.short(), refused.reason));
        let all: Vec<String> = refused.collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl World {
    /// A world in which nobody has written anything; `resources` are those of an earlier life.
    pub fn new(folder: &Path, resources: Resources, roots: Vec<Vec<u8>>) -> Self {
        let mut world = World {
            version: 0,
            changed: Instant::now(),
            readings: 0,
            findings: Vec::new(),
            refused: None,
            subscribers: BTreeMap::new(),
            folder: format!("{}{MAIN_SEPARATOR}", folder.display()),
            resources,
            cluster: Resources::new(),
            pods: Vec::new(),
            spares: BTreeMap::new(),
            peers: BTreeMap::new(),
            roots,
            started: Instant::now(),
            common: RefCell::default(),
            before: Views::new(),
        };
        world.rebuild();
        world
    }

    /// Takes what was read in place of what was there, unless something in it is refused: then nothing changes.
    ///
    /// Refused is what cannot be read, and a rule that was not there before and is not legal (a regular expression
    /// that is none). The first time there is no last good to keep: illegal rules are left out, and told.
    pub fn accept(&mut self, reader: Reader) -> bool {
        self.readings += 1;
        let mut next = self.resources.clone();
        let errors = reader.findings().iter().filter(|finding| finding.severity == Severity::Error);
        let unreadable: Vec<Diagnostic> = errors.cloned().collect();
        let findings = next.replace(reader);
        let refused = if unreadable.is_empty() { self.illegal_since(&next) } else { unreadable };
        if !refused.is_empty() {
            self.refused = Some(refused.into_iter().map(|finding| self.located(finding, &next)).collect());
            self.grow();
            return false;
        }
        self.refused = None;
        self.findings = findings.into_iter().map(|finding| self.located(finding, &next)).collect();
        self.resources = next;
        self.rebuild();
        true
    }

    /// What is not legal in `next` and was not there before.
    fn illegal_since(&self, next: &Resources) -> Vec<Diagnostic> {
        if self.resources.iter().next().is_none() {
            return Vec::new();
        }
        let known: BTreeSet<_> = self.illegal(&self.resources).iter().map(Diagnostic::to_string).collect();
        let mut found = self.illegal(next);
        found.retain(|finding| !known.contains(&finding.to_string()));
        found
    }

    /// What is not legal in somebody's view. Other errors, such as an empty subset, may be what the operator wants.
    fn illegal(&self, resources: &Resources) -> Vec<Diagnostic> {
        let subscribed = self.subscribers.values().filter_map(|subscriber| viewpoint(&subscriber.part));
        let views: HashSet<Viewpoint> = subscribed.chain([Viewpoint::sidecar("default")]).collect();
        let mesh = Mesh::default();
        let findings = views.iter().flat_map(|view| {
            let limits = RateLimits::of(resources, view, &mesh).1;
            Plan::resolve(resources, view, &mesh).findings.into_iter().chain(limits)
        });
        let illegal =
            findings.filter(|finding| finding.severity == Severity::Error && finding.code.starts_with("bad-"));
        // The same mistake on another line is the same mistake.
        let unplaced = |mut finding: Diagnostic| {
            finding.place = None;
            finding
        };
        illegal.map(unplaced).collect()
    }

    /// With its place, and the file named as seen from the folder.
    fn located(&self, mut finding: Diagnostic, resources: &Resources) -> Diagnostic {
        if finding.place.is_none() {
            let resource = finding.resource.as_ref();
            finding.place = resource.and_then(|resource| resources.place(resource, &finding.field));
        }
        if let Some(place) = &mut finding.place {
            place.file = self.short(&place.file).into();
        }
        finding
    }

    fn short<'a>(&self, file: &'a str) -> &'a str {
        file.strip_prefix(&self.folder).unwrap_or(file)
    }

    /// The operators' resources in their order of application, as YAML: what a later life needs to go on.
    pub fn journal(&self) -> String {
        in_order(&self.resources)
    }

    /// The same with what a cluster adds: addresses, and pods with their status.
    pub fn in_force(&self) -> String {
        in_order(&self.cluster)
    }

    /// Works out anew what a cluster adds.
    pub fn rebuild(&mut self) {
        self.grow();
        let mut cluster = self.resources.clone();
        kubernetes::assign_addresses(&mut cluster);
        self.pods = kubernetes::pods(&self.resources);
        self.hand_out_spares();
        let running = self.running();
        for pod in &mut self.pods {
            let spare = || spare_address(self.spares.get(&key(pod)).copied().unwrap_or_default());
            let ip = kubernetes::pod_ip(pod).map_or_else(spare, str::to_string);
            let mut status = kubernetes::ready_status(&ip);
            if !running.contains(&key(pod)) {
                status.conditions = vec![PodCondition { r#type: "Ready".into(), status: "False".into() }];
            }
            pod.status = Some(status);
            cluster.apply(pod.clone());
        }
        self.cluster = cluster;
        self.peers = self.peers();
    }

    /// A number for each pod that was written down without an address. It keeps it, whoever comes and goes.
    fn hand_out_spares(&mut self) {
        let wanting = self.pods.iter().filter(|pod| kubernetes::pod_ip(pod).is_none());
        let wanting: BTreeSet<_> = wanting.map(key).collect();
        self.spares.retain(|pod, _| wanting.contains(pod));
        let mut taken: BTreeSet<u16> = self.spares.values().copied().collect();
        for pod in wanting {
            self.spares.entry(pod).or_insert_with(|| {
                let free = (1..u16::MAX).find(|at| !taken.contains(at)).unwrap_or_default();
                taken.insert(free);
                free
            });
        }
    }

    /// From now on the certificates of others are trusted.
    pub fn set_roots(&mut self, roots: Vec<Vec<u8>>) {
        self.roots = roots;
        self.grow();
    }

    fn grow(&mut self) {
        let common = self.common.take();
        if !common.is_empty() {
            self.before = common;
        }
        self.version += 1;
        self.changed = Instant::now();
    }

    fn running(&self) -> BTreeSet<(String, String)> {
        let parts = || self.subscribers.values().map(|subscriber| &subscriber.part);
        let pods = parts().filter_map(|part| match part {
            Part::Pod { namespace, name, .. } => Some((namespace.clone(), name.clone())),
            _ => None,
        });
        let sidecars: BTreeSet<_> = parts().filter_map(sidecar_of).collect();
        let bare: BTreeSet<_> = self.pods.iter().filter(|pod| !self.is_injected(pod)).map(key).collect();
        let gateways = parts().filter_map(|part| match part {
            Part::Gateway { namespace, pod: Some((pod, _)), .. } => Some((namespace.clone(), pod.clone())),
            _ => None,
        });
        pods.filter(|pod| sidecars.contains(pod) || bare.contains(pod)).chain(gateways).collect()
    }

    /// Whether a pod gets a sidecar: as the label `istio-injection` of its namespace says, if the namespace is written down,
    /// and unless its own `sidecar.istio.io/inject` (label or annotation) says otherwise. Where nothing is said, it does.
    pub fn is_injected(&self, pod: &Pod) -> bool {
        if is_gateway(pod) {
            return false;
        }
        const INJECT: &str = "sidecar.istio.io/inject";
        let metadata = &pod.metadata;
        let own = metadata.labels.get(INJECT).or_else(|| metadata.annotations.get(INJECT)).map(String::as_str);
        let namespace = self.resources.iter().find_map(|resource| match resource.object {
            Object::Namespace(namespace) if namespace.metadata.name == metadata.namespace => Some(namespace),
            _ => None,
        });
        let label = namespace.map(|namespace| namespace.metadata.labels.get("istio-injection").map(String::as_str));
        match (label, own) {
            (Some(Some("disabled")), _) | (_, Some("false")) => false,
            (Some(Some("enabled")), _) | (None, _) | (_, Some("true")) => true,
            _ => false,
        }
    }

    /// Each pod, and whether it is ready.
    pub fn pods(&self) -> impl Iterator<Item = (&Pod, bool)> {
        self.pods.iter().map(|pod| (pod, kubernetes::is_ready(pod)))
    }

    /// Whether every pod runs, or has been waited for long enough.
    pub fn is_warm(&self) -> bool {
        self.has_waited() || self.pods().all(|(_, ready)| ready)
    }

    /// Whether pods have been waited for long enough, running or not.
    pub fn has_waited(&self) -> bool {
        self.started.elapsed() > WARM_UP
    }

    /// Whether everybody has what they should have.
    pub fn is_settled(&self) -> bool {
        let version = self.version;
        self.pods().all(|(_, ready)| ready) && self.subscribers.values().all(|subscriber| subscriber.settled(version))
    }

    /// What a subscriber should have now, by type, and what came up on the way; `None`: nothing (yet).
    pub fn wanted(&self, part: &Part) -> Option<(Sets, Vec<Diagnostic>)> {
        let one = |r#type, set: Set| (Sets::from([(r#type, Arc::new(set))]), Vec::new());
        match part {
            Part::Node => Some(one(Type::Pods, portions::pods(&self.pod_specs()).ok()?)),
            Part::Pod { .. } => None,
            _ if !self.is_warm() => None,
            Part::KubeProxy => Some(one(Type::Services, portions::services(&self.services()).ok()?)),
            Part::Sidecar { .. } | Part::Gateway { .. } => {
                let (mut sets, findings) = (*self.common(viewpoint(part)?)?).clone();
                let (roots, credentials) = (self.roots.clone(), self.credentials(part));
                let own = portions::own(self.own(part), roots, credentials, self.inbound(part)).ok()?;
                sets.insert(Type::Identity, Arc::new(own));
                Some((sets, findings))
            }
        }
    }

    /// What every sidecar with this viewpoint gets, worked out once for each state of the world; and what came up then. What
    /// is a sidecar's own is left out.
    fn common(&self, viewpoint: Viewpoint) -> Option<Arc<Common>> {
        let mut known = self.common.borrow_mut();
        if let Some(common) = known.get(&viewpoint) {
            return Some(Arc::clone(common));
        }
        let mesh = Mesh::default();
        let resolution = Plan::resolve(&self.cluster, &viewpoint, &mesh);
        let (guard, more) = Guard::of(&self.cluster, &viewpoint, &mesh);
        let (limits, still_more) = RateLimits::of(&self.cluster, &viewpoint, &mesh);
        let routes = Routes {
            places: self.places(&resolution.plan),
            outside: outside::wanted(&resolution.plan, Path::new(&self.folder)),
            plan: resolution.plan,
            inbound: BTreeMap::new(),
            guard,
            limits,
            peers: self.peers.clone(),
            roots: self.roots.clone(),
            credentials: Vec::new(),
            underlay: self.underlay(),
            own: (*Workload::unknown()).clone(),
            workloads: self.workloads(),
        };
        let findings = resolution.findings.into_iter().chain(more).chain(still_more);
        let findings = findings.map(|finding| self.located(finding, &self.cluster)).collect();
        let mut sets = portions::cut(&routes).ok()?;
        if let Some(before) = self.before.get(&viewpoint) {
            sets.iter_mut().for_each(|(r#type, set)| ads::share(set, before.0.get(r#type)));
        }
        let common = Arc::new((sets, findings));
        known.insert(viewpoint, Arc::clone(&common));
        Some(common)
    }

    /// The plan of a subscriber as it would be now.
    pub fn plan(&self, part: &Part) -> Option<Plan> {
        Some(self.plan_for(&viewpoint(part)?))
    }

    /// The plan of a viewpoint as it would be now.
    pub fn plan_for(&self, viewpoint: &Viewpoint) -> Plan {
        Plan::resolve(&self.cluster, viewpoint, &Mesh::default()).plan
    }

    /// The sidecar `NAMESPACE/POD`, or the `gateway`.
    pub fn named(&self, name: &str) -> Option<&Part> {
        let named = |part: &&Part| match part {
            Part::Sidecar { namespace, pod, .. } => format!("{namespace}/{pod}") == name,
            Part::Gateway { pod: None, .. } => name == "gateway",
            Part::Gateway { namespace, pod: Some((pod, _)), .. } => format!("{namespace}/{pod}") == name,
            _ => false,
        };
        self.subscribers.values().map(|subscriber| &subscriber.part).find(named)
    }

    /// The process and the port of everybody's own page.
    pub fn pages(&self) -> Vec<(u32, u16)> {
        let pages = self.subscribers.values().map(|subscriber| (subscriber.pid, subscriber.admin));
        pages.filter(|(_, admin)| *admin != 0).collect()
    }

    /// Some of the operators' resources, as YAML, and where each stands.
    pub fn written(&self, wanted: &BTreeSet<String>) -> Vec<(String, String, Option<String>)> {
        let named = self.resources.iter().map(|resource| (resource.reference.to_string(), resource));
        let wanted = named.filter(|(name, _)| wanted.contains(name));
        let written = wanted.filter_map(|(name, resource)| {
            Some((name, meshroute::yaml::write(resource.object).ok()?, self.place_of(resource.reference, "")))
        });
        written.collect()
    }

    /// File and line of a field.
    pub fn place_of(&self, resource: &ResourceRef, field: &str) -> Option<String> {
        let place = self.cluster.place(resource, field)?;
        Some(format!("{}:{}", self.short(&place.file), place.line))
    }

    /// Each Service with each of its ports, and whether a Gateway is there.
    pub fn service_ports(&self) -> Vec<String> {
        let ports = |service: &Service| {
            let metadata = &service.metadata;
            let name = format!("{}/{}", metadata.namespace, metadata.name);
            service.spec.ports.iter().map(move |port| format!("{name}:{}", port.port)).collect::<Vec<_>>()
        };
        self.every_service().flat_map(ports).collect()
    }

    /// All Services.
    pub fn every_service(&self) -> impl Iterator<Item = &Service> {
        self.cluster.iter().filter_map(|resource| match resource.object {
            Object::Service(service) => Some(service),
            _ => None,
        })
    }

    fn pod_specs(&self) -> Vec<PodSpec> {
        let spec = |pod: &Pod| PodSpec {
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            labels: pod.metadata.labels.clone(),
            address: kubernetes::pod_ip(pod).and_then(|ip| ip.parse().ok()),
            ports: self.ports_of(pod),
            account: account_of(pod).to_string(),
            sidecar: self.is_injected(pod),
            gateway: is_gateway(pod),
            greet: if greets_by_name(&pod.spec) { pod.metadata.name.clone() } else { "nginx".into() },
        };
        self.pods.iter().map(spec).collect()
    }

    /// The ports that a pod declares, and those that Services send to.
    fn ports_of(&self, pod: &Pod) -> Vec<u16> {
        let declared =
            pod.spec.containers.iter().flat_map(|container| &container.ports).map(|port| port.container_port);
        let sent_to = self.every_service().filter(|service| selects(service, pod));
        let sent_to = sent_to.flat_map(|service| &service.spec.ports).filter_map(|port| target(port, pod));
        let ports: BTreeSet<u16> = declared.chain(sent_to).filter(|port| *port != 0).collect();
        ports.into_iter().collect()
    }

    /// Plain balancing over a Service's ready pods, as a cluster does it for everybody: no rule has a say.
    fn services(&self) -> Services {
        let underlay = self.underlay();
        let mut services = Services::new();
        for service in self.every_service() {
            for port in &service.spec.ports {
                let pods = self.pods().filter(|(pod, ready)| *ready && selects(service, pod)).map(|(pod, _)| pod);
                let sockets = pods.filter_map(|pod| underlay.get(&socket(pod, target(port, pod)?)?).copied());
                let (metadata, ip) = (&service.metadata, service.spec.cluster_ip.parse().ok());
                let address = ip.map(|ip| SocketAddr::new(ip, port.port));
                let balanced = Balanced { address, pods: sockets.collect() };
                services.insert(format!("{}/{}:{}", metadata.namespace, metadata.name, port.port), balanced);
            }
        }
        services
    }

    /// Where each running pod's address really is: at its sidecar's door, if it has one. In a namespace it is just there.
    fn underlay(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        let mut underlay = BTreeMap::new();
        for (pod, sockets) in self.doors(|part| matches!(part, Part::Pod { .. })) {
            underlay.extend(sockets.iter().filter_map(|(port, real)| Some((socket(pod, *port)?, *real))));
        }
        for (pod, sockets) in self.doors(|part| matches!(part, Part::Sidecar { .. } | Part::Gateway { .. })) {
            underlay.extend(sockets.iter().filter_map(|(port, real)| Some((socket(pod, *port)?, *real))));
        }
        underlay.retain(|address, real| real.ip().is_loopback() || real == address);
        underlay
    }

    /// What some parts of pods listen on, by the pod's own ports.
    fn doors(&self, wanted: impl Fn(&Part) -> bool) -> impl Iterator<Item = (&Pod, &BTreeMap<u16, SocketAddr>)> {
        let parts = self.subscribers.values().map(|subscriber| &subscriber.part).filter(move |part| wanted(part));
        parts.filter_map(|part| {
            let (namespace, name, sockets) = match part {
                Part::Pod { namespace, name, sockets } => (namespace, name, sockets),
                Part::Sidecar { namespace, pod, inbound, .. } => (namespace, pod, inbound),
                Part::Gateway { namespace, pod: Some((pod, sockets)), .. } => (namespace, pod, sockets),
                _ => return None,
            };
            let same = |pod: &&Pod| pod.metadata.namespace == *namespace && pod.metadata.name == *name;
            Some((self.pods.iter().find(same)?, sockets))
        })
    }

    /// Who is at the addresses to which the mesh encrypts: pods with a sidecar that takes it.
    fn peers(&self) -> BTreeMap<SocketAddr, Peer> {
        let mut peers = BTreeMap::new();
        for (pod, sockets) in self.doors(|part| matches!(part, Part::Sidecar { .. })) {
            let view = Viewpoint::sidecar(&pod.metadata.namespace).labels(pod.metadata.labels.clone());
            let (guard, _) = Guard::of(&self.cluster, &view, &Mesh::default());
            let name = name_of(pod);
            let taken = sockets.keys().filter(|port| guard.mutual_tls(**port) != MutualTls::Disable);
            let peer = Peer { name, unasked: true };
            peers.extend(taken.filter_map(|port| Some((socket(pod, *port)?, peer.clone()))));
        }
        for (pod, sockets) in self.doors(|part| matches!(part, Part::Gateway { .. })) {
            let peer = Peer { name: name_of(pod), unasked: false };
            peers.extend(sockets.keys().filter_map(|port| Some((socket(pod, *port)?, peer.clone()))));
        }
        peers
    }

    /// The certificates that a gateway shows: those that its Gateways name. A file is looked for in the folder; a secret is
    /// a folder `secrets/NAME` in there, with Kubernetes' names for its files.
    fn credentials(&self, part: &Part) -> Vec<Credential> {
        let Part::Gateway { namespace, labels, .. } = part else { return Vec::new() };
        let mut credentials = Vec::new();
        for resource in self.resources.iter() {
            let Object::Gateway(gateway) = resource.object else { continue };
            let selects = gateway.spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            let servers = gateway.spec.servers.iter().filter(|_| selects);
            credentials.extend(servers.filter_map(|server| self.credential(server)));
        }
        // A server of port 443 behind a Service `443 -> 8443` is found at 8443.
        let own = |service: &&Service| {
            let wanted = &service.spec.selector;
            let fits = wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
            service.metadata.namespace == *namespace && !wanted.is_empty() && fits
        };
        for port in self.every_service().filter(own).flat_map(|service| &service.spec.ports) {
            let Some(IntOrString::Int(behind)) = port.target_port else { continue };
            let Ok(behind) = u16::try_from(behind) else { continue };
            let shown = credentials.iter().filter(|shown: &&Credential| shown.port == port.port && behind != port.port);
            let also: Vec<Credential> = shown.map(|shown| Credential { port: behind, ..shown.clone() }).collect();
            credentials.extend(also);
        }
        credentials
    }

    fn credential(&self, server: &Server) -> Option<Credential> {
        let (port, tls) = (server.port.as_ref()?, server.tls.as_ref()?);
        let mutual = match tls.mode {
            ServerTlsMode::Simple => false,
            ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual | ServerTlsMode::IstioMutual => true,
            _ => return None,
        };
        let further = [
            ("caCrl", tls.ca_crl.is_empty()),
            ("verifyCertificateSpki", tls.verify_certificate_spki.is_empty()),
            ("verifyCertificateHash", tls.verify_certificate_hash.is_empty()),
        ];
        let beyond = further.iter().find(|(_, unsaid)| !unsaid && mutual).map(|(field, _)| (*field).to_string());
        let own = tls.mode == ServerTlsMode::IstioMutual;
        let folder = Path::new(&self.folder);
        let files = match tls.credential_name.as_str() {
            "" => [&tls.server_certificate, &tls.private_key, &tls.ca_certificates].map(|file| folder.join(file)),
            secret => ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join("secrets").join(secret).join(file)),
        };
        let [certificate, key, authorities] = files;
        let host = |host: &String| host.rsplit_once('/').map_or(&**host, |(_, host)| host).to_string();
        let hosts = server.hosts.iter().map(host).collect();
        let port = u16::try_from(port.number).ok()?;
        Some(Credential {
            port,
            hosts,
            own,
            certificate,
            key,
            authorities: mutual.then_some(authorities),
            optional: tls.mode == ServerTlsMode::OptionalMutual,
            names: if mutual { tls.subject_alt_names.clone() } else { Vec::new() },
            beyond,
        })
    }

    /// What comes to each port of a sidecar's own pod.
    fn inbound(&self, part: &Part) -> BTreeMap<u16, Inbound> {
        let Some(own) = sidecar_of(part) else { return BTreeMap::new() };
        let Some((pod, sockets)) = self.doors(|part| matches!(part, Part::Pod { .. })).find(|(pod, _)| key(pod) == own)
        else {
            return BTreeMap::new();
        };
        let inbound = |(port, real): (&u16, &SocketAddr)| {
            let led = self.every_service().filter(|service| selects(service, pod));
            let led = led.flat_map(|service| service.spec.ports.iter().map(move |port| (service, port)));
            let led: Vec<_> = led.filter(|(_, way)| target(way, pod) == Some(*port)).collect();
            let service = led.first().map(|(service, _)| {
                format!("{}.{}.svc.cluster.local", service.metadata.name, service.metadata.namespace)
            });
            let carries = carried(led.iter().map(|(_, way)| *way));
            (*port, Inbound { socket: *real, carries, service: service.unwrap_or_default() })
        };
        let own = |(port, real): &(&u16, &SocketAddr)| real.ip().is_loopback() || socket(pod, **port) == Some(**real);
        sockets.iter().filter(own).map(inbound).collect()
    }

    /// Who a subscriber is.
    fn own(&self, part: &Part) -> Workload {
        match part {
            Part::Gateway { namespace, labels, pod: None } => Workload::gateway(namespace, labels),
            // One that is a pod is called as others call it.
            Part::Sidecar { namespace, pod, labels, .. } | Part::Gateway { namespace, labels, pod: Some((pod, _)) } => {
                let named = |known: &&Pod| known.metadata.namespace == *namespace && known.metadata.name == *pod;
                let known = self.pods.iter().find(named).map(|pod| self.workload(pod));
                known.unwrap_or_else(|| Workload::new(namespace, pod, labels))
            }
            _ => (*Workload::unknown()).clone(),
        }
    }

    /// Whose pod is at an address.
    fn workloads(&self) -> BTreeMap<IpAddr, Workload> {
        let ip = |pod: &Pod| kubernetes::pod_ip(pod)?.parse().ok();
        self.pods.iter().filter_map(|pod| Some((ip(pod)?, self.workload(pod)))).collect()
    }

    /// The workload of a pod: the Deployment that it is named after, else one that selects it, else itself.
    pub fn workload(&self, pod: &Pod) -> Workload {
        let metadata = &pod.metadata;
        let named = metadata.name.rsplitn(3, '-').nth(2);
        let deployments = self.cluster.iter().filter_map(|resource| match resource.object {
            Object::Deployment(deployment) if kubernetes::belongs(pod, deployment) => Some(&*deployment.metadata.name),
            _ => None,
        });
        let mut owners: Vec<&str> = deployments.collect();
        owners.sort_by_key(|owner| (Some(*owner) != named, owner.len()));
        let name = owners.first().copied().unwrap_or(&metadata.name);
        Workload::new(&metadata.namespace, name, &metadata.labels)
    }

    /// File and line of every rule of a plan.
    pub fn places(&self, plan: &Plan) -> BTreeMap<String, String> {
        let place = |origin: &Origin| {
            let place = self.place_of(&origin.written_in, &origin.field)?;
            Some((rule_key(&origin.written_in, &origin.field), place))
        };
        let chains = || plan.listeners.iter().flat_map(|listener| &listener.chains);
        let tables = chains().filter_map(|chain| match &chain.target {
            Target::Http(table) => Some(table),
            Target::Tcp { .. } => None,
        });
        let whole = chains().filter_map(|chain| match &chain.target {
            Target::Http(_) => None,
            Target::Tcp { origin, .. } => origin.as_ref(),
        });
        let routes = tables.flat_map(|table| &table.hosts).flat_map(|host| host.routes.iter());
        routes.filter_map(|route| route.origin.as_ref()).chain(whole).filter_map(place).collect()
    }
}

/// Resources in their order of application, as YAML.
fn in_order(resources: &Resources) -> String {
    let mut all: Vec<_> = resources.iter().collect();
    all.sort_by_key(|resource| resource.applied);
    let texts = all.iter().filter_map(|resource| meshroute::yaml::write(resource.object).ok());
    texts.collect::<Vec<_>>().join("---\n")
}

/// How [`Routes::places`] names a rule.
pub fn rule_key(resource: &ResourceRef, field: &str) -> String {
    format!("{resource}, {field}")
}

/// Who asks; `None`: nobody who routes.
pub fn viewpoint(part: &Part) -> Option<Viewpoint> {
    match part {
        Part::Sidecar { namespace, labels, .. } => Some(Viewpoint::sidecar(namespace).labels(labels.clone())),
        Part::Gateway { namespace, labels, .. } => Some(Viewpoint::gateway(namespace).labels(labels.clone())),
        Part::Node | Part::Pod { .. } | Part::KubeProxy => None,
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

/// The pod that a sidecar is for.
fn sidecar_of(part: &Part) -> Option<(String, String)> {
    match part {
        Part::Sidecar { namespace, pod, .. } => Some((namespace.clone(), pod.clone())),
        _ => None,
    }
}

/// Who a pod is.
fn name_of(pod: &Pod) -> Name {
    Name::new(&pod.metadata.namespace, account_of(pod))
}

/// Whether a pod is a gateway, as Istio's own are labelled: `istio: egressgateway`.
pub fn is_gateway(pod: &Pod) -> bool {
    pod.metadata.labels.get("istio").is_some_and(|kind| kind.ends_with("gateway"))
}

/// The service account of a pod.
fn account_of(pod: &Pod) -> &str {
    let account = pod.spec.service_account_name.as_str();
    if account.is_empty() { "default" } else { account }
}

/// What comes to a pod's port by these ports of Services. Where they disagree nobody looks into it; and where one of them says
/// HTTP, another that says nothing leaves no way around the rules for it.
fn carried<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> Carries {
    let declared: Vec<Carries> = ports.map(declared).collect();
    let any = |carries| declared.contains(&carries).then_some(carries);
    any(Carries::Bytes).or_else(|| any(Carries::Http)).unwrap_or(Carries::Anything)
}

/// What a port is said to carry: by `appProtocol`, or by the first word of its name (Istio, "Protocol Selection").
fn declared(port: &ServicePort) -> Carries {
    let named = port.name.split('-').next().unwrap_or_default();
    let said = if port.app_protocol.is_empty() { named } else { &port.app_protocol };
    match said.to_ascii_lowercase().as_str() {
        "http" | "http2" | "h2c" | "grpc" | "grpc-web" | "http_proxy" | "kubernetes.io/h2c" | "kubernetes.io/ws" => {
            Carries::Http
        }
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" | "thrift" | "udp" | "kubernetes.io/wss" => {
            Carries::Bytes
        }
        // What is usually found behind such a port waits for nobody's first word.
        _ if SERVER_FIRST.contains(&port.port) => Carries::Bytes,
        _ => Carries::Anything,
    }
}

/// Ports that Istio takes for TCP unless something else is declared: SMTP, DNS, MySQL and MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// For a pod that was written down without an address.
fn spare_address(at: u16) -> String {
    let [high, low] = at.to_be_bytes();
    Ipv4Addr::new(10, 245, high, low).to_string()
}

fn socket(pod: &Pod, port: u16) -> Option<SocketAddr> {
    let ip: IpAddr = kubernetes::pod_ip(pod)?.parse().ok()?;
    Some(SocketAddr::new(ip, port))
}

/// Whether a Service selects a pod.
pub fn selects(service: &Service, pod: &Pod) -> bool {
    let wanted = &service.spec.selector;
    service.metadata.namespace == pod.metadata.namespace
        && !wanted.is_empty()
        && wanted.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
}

/// The pod's port that a Service's port leads to.
fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => {
            let mut ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
            ports.find(|port| port.name == *name).map(|port| port.container_port)
        }
    }
}

/// Whether a container puts its host name into nginx's page after its start, as the scenario's Deployments do. No
/// shell is run here; that it would is all that is looked for.
fn greets_by_name(template: &Template) -> bool {
    let after_start = |lifecycle: &Untyped| match lifecycle {
        Untyped::Map(entries) => entries.iter().any(|(key, value)| {
            key == "postStart" && serde_json::to_string(value).is_ok_and(|text| text.contains("HOSTNAME"))
        }),
        _ => false,
    };
    template.containers.iter().filter_map(|container| container.lifecycle.as_ref()).any(after_start)
}
