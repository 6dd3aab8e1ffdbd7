//! All services, whoever sees them, and what their endpoints come from: who selects whom, kept up to date change by change.
//!
//! Knows no client. Holds names, not copies: what a pod or slice says is read from the resources when it is needed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Mesh;
use super::registry::{Kind, Labels, Member, Port, Service, host_of};
use super::turnover::Turnover;
use crate::diagnostic::ResourceRef;
use crate::kubernetes::{self, has_labels, is_ready, pod_ip};
use crate::model::endpoint_slice::Endpoint;
use crate::model::endpoints::{EndpointSubset, ObjectReference};
use crate::model::workload_entry::WorkloadEntrySpec;
use crate::model::{EndpointSlice, Object, Pod, Service as KubernetesService, ServiceEntry, WorkloadEntry};
use crate::name::HostPattern;
use crate::resources::Resources;

/// A namespace, and a label with its value.
type Label = (String, String, String);

/// A namespace and a name.
type Name = (String, String);

/// All services of a mesh, and who selects whom.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// By host; those that share one in the order in which they count.
    services: HashMap<String, Vec<Arc<Service>>>,
    /// All of these hosts, in order.
    hosts: BTreeSet<HostPattern>,
    /// The hosts of which not everybody sees the same service.
    particular: BTreeSet<HostPattern>,
    /// The hosts of services that stand for another host, by that host.
    aliases: HashMap<String, BTreeSet<HostPattern>>,
    /// Loaded pods.
    pods: HashMap<Label, BTreeSet<ResourceRef>>,
    workloads: HashMap<String, BTreeSet<ResourceRef>>,
    /// EndpointSlices by the service that they belong to.
    slices: HashMap<Name, BTreeSet<ResourceRef>>,
    /// EndpointSlices and Endpoints by the pods that they name.
    mentions: HashMap<Name, BTreeSet<ResourceRef>>,
    /// Services and ServiceEntries by the first label that they select by; under an empty one those that select by none.
    selecting: HashMap<Label, BTreeSet<ResourceRef>>,
    /// Pods that Deployments stand for.
    made: Vec<Pod>,
    made_by_label: HashMap<Label, Vec<usize>>,
    made_by_name: HashMap<Name, usize>,
    deployments: usize,
}

/// What a change of a resource does to services.
#[derive(Debug)]
pub(crate) enum Touched {
    /// Only the endpoints of these services, which are as they stand here now; with the pods that Deployments stand for, or
    /// stood for, and that are not as they were.
    Endpoints(Vec<Arc<Service>>, Vec<Pod>),
    /// Some hosts have other services.
    Services(Turnover),
    /// More than that.
    More,
}

impl World {
    /// Reads services out of resources.
    pub(crate) fn new(resources: &Resources, mesh: &Mesh) -> Self {
        let mut world = World::default();
        for resource in resources.iter() {
            world.note(resource.object, resource.reference, true);
        }
        world.make_pods(resources);
        let declared = resources.iter().flat_map(|resource| {
            world.declared(resource.object, resource.reference, resource.applied, resources, mesh)
        });
        let mut services: HashMap<HostPattern, Vec<Arc<Service>>> = HashMap::new();
        for service in declared {
            services.entry(service.host.clone()).or_default().push(Arc::new(service));
        }
        for (host, candidates) in services {
            world.put(host, candidates);
        }
        world
    }

    /// Puts services under a host that has none.
    fn put(&mut self, host: HostPattern, mut candidates: Vec<Arc<Service>>) {
        if candidates.is_empty() {
            return;
        }
        candidates.sort_by_key(|service| service.rank());
        for of in candidates.iter().filter_map(|service| service.alias_of.as_ref()) {
            self.aliases.entry(of.clone()).or_default().insert(host.clone());
        }
        if !matches!(candidates.as_slice(), [only] if only.is_for_everyone()) {
            self.particular.insert(host.clone());
        }
        self.services.insert(host.as_str().to_string(), candidates);
        self.hosts.insert(host);
    }

    /// Takes all services of a host away.
    fn take(&mut self, host: &HostPattern) -> Vec<Arc<Service>> {
        self.hosts.remove(host);
        self.particular.remove(host);
        let candidates = self.services.remove(host.as_str()).unwrap_or_default();
        for of in candidates.iter().filter_map(|service| service.alias_of.as_ref()) {
            let Some(aliases) = self.aliases.get_mut(of) else { continue };
            aliases.remove(host);
            if aliases.is_empty() {
                self.aliases.remove(of);
            }
        }
        candidates
    }

    /// Puts what a resource declares in the place of what it declared.
    fn turn_over(
        &mut self,
        before: Option<&Object>,
        reference: &ResourceRef,
        resources: &Resources,
        mesh: &Mesh,
    ) -> Turnover {
        let now = resources.get(reference);
        let declared = now.map(|now| self.declared(now.object, reference, now.applied, resources, mesh));
        let mut declared: BTreeMap<HostPattern, Vec<Arc<Service>>> =
            declared.into_iter().flatten().fold(BTreeMap::new(), |mut by_host, service| {
                by_host.entry(service.host.clone()).or_insert_with(Vec::new).push(Arc::new(service));
                by_host
            });
        before.into_iter().flat_map(|before| hosts_of(before, mesh)).for_each(|host| {
            declared.entry(host).or_default();
        });
        let turned = declared.into_iter().map(|(host, own)| {
            let before = self.take(&host);
            let others = before.iter().filter(|service| *service.resource != *reference).cloned();
            self.put(host.clone(), others.chain(own).collect());
            (host, before)
        });
        Turnover(turned.collect())
    }

    /// The hosts of which not everybody sees the same service.
    pub(super) fn particular(&self) -> impl Iterator<Item = &HostPattern> {
        self.particular.iter()
    }

    /// All hosts of services, in order.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &HostPattern> {
        self.hosts.iter()
    }

    /// The services of this host, whoever sees them, in the order in which they count.
    pub(super) fn candidates(&self, host: &str) -> &[Arc<Service>] {
        self.services.get(host).map_or(&[], Vec::as_slice)
    }

    /// The hosts of services that stand for a host, whoever sees them.
    pub(super) fn aliases(&self, host: &str) -> impl Iterator<Item = &HostPattern> {
        self.aliases.get(host).into_iter().flatten()
    }

    /// Takes note of a change of one resource of which `before` is what it was; the resources are as they are now.
    pub(crate) fn change(
        &mut self,
        before: Option<&Object>,
        reference: &ResourceRef,
        resources: &Resources,
        mesh: &Mesh,
    ) -> Touched {
        let now = resources.find(reference);
        if let Some(before) = before {
            self.note(before, reference, false);
        }
        if let Some(now) = now {
            self.note(now, reference, true);
        }
        if let Some(one) = now.or(before).filter(|object| declares(object)) {
            // What was applied again may come later among those that share a host.
            let alone = |host: &HostPattern| self.candidates(host.as_str()).len() <= 1;
            let same = before.zip(now).is_some_and(|(before, now)| same_services(before, now));
            if !same || !hosts_of(one, mesh).iter().all(alone) {
                return Touched::Services(self.turn_over(before, reference, resources, mesh));
            }
        }
        let mut owners = BTreeSet::new();
        // Which pods a Deployment stands for, and at which addresses, depends on all pods.
        let made = if now.or(before).is_some_and(makes_pods) { self.make_pods(resources) } else { Vec::new() };
        if self.made_by_name.len() < self.made.len() {
            return Touched::More;
        }
        made.iter().for_each(|pod| self.owners_of_pod(pod, resources, &mut owners));
        for object in before.iter().copied().chain(now) {
            match object {
                Object::Deployment(_) => {}
                Object::Service(_) | Object::ServiceEntry(_) => {
                    owners.insert(reference.clone());
                }
                Object::Pod(pod) => self.owners_of_pod(pod, resources, &mut owners),
                Object::WorkloadEntry(entry) => self.owners_of_entry(entry, &mut owners),
                Object::EndpointSlice(slice) => owners.extend(owner_of_slice(slice)),
                Object::Endpoints(endpoints) => {
                    owners.insert(service_ref(&endpoints.metadata.namespace, &endpoints.metadata.name));
                }
                _ => return Touched::More,
            }
        }
        if cfg!(meshroute_fault = "change") {
            owners.pop_last(); // planted: one that depends on it is left as it was
        }
        self.renew(&owners, made, resources, mesh)
    }

    /// Makes the pods again that Deployments stand for; hands back those that were there before or are now, and not both.
    fn make_pods(&mut self, resources: &Resources) -> Vec<Pod> {
        if self.deployments == 0 && self.made.is_empty() {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.made, kubernetes::made_pods(resources));
        let names_before = std::mem::take(&mut self.made_by_name);
        self.made_by_label.clear();
        for (at, pod) in self.made.iter().enumerate() {
            for label in labels_of(&pod.metadata.namespace, &pod.metadata.labels) {
                self.made_by_label.entry(label).or_default().push(at);
            }
            self.made_by_name.insert(name_of(pod), at);
        }
        let lacks = |names: &HashMap<Name, usize>, pods: &[Pod], pod: &Pod| {
            names.get(&name_of(pod)).is_none_or(|&at| pods[at] != *pod)
        };
        let gone = before.iter().filter(|pod| lacks(&self.made_by_name, &self.made, pod));
        let come = self.made.iter().filter(|pod| lacks(&names_before, &before, pod));
        gone.chain(come).cloned().collect()
    }

    /// Works out the endpoints of some services again.
    fn renew(&mut self, owners: &BTreeSet<ResourceRef>, made: Vec<Pod>, resources: &Resources, mesh: &Mesh) -> Touched {
        let mut renewed = Vec::new();
        for owner in owners {
            let Some(resource) = resources.get(owner) else { continue };
            for service in self.declared(resource.object, owner, resource.applied, resources, mesh) {
                // A client listens at the addresses of a headless service's pods.
                if service.kind == Kind::Headless {
                    return Touched::More;
                }
                let service = Arc::new(service);
                let candidates = self.services.get_mut(service.host.as_str());
                let same = |known: &&mut Arc<Service>| *known.resource == *service.resource;
                let Some(place) = candidates.and_then(|all| all.iter_mut().find(same)) else { return Touched::More };
                *place = service.clone();
                renewed.push(service);
            }
        }
        Touched::Endpoints(renewed, made)
    }

    fn note(&mut self, object: &Object, reference: &ResourceRef, there: bool) {
        match object {
            Object::Pod(pod) => {
                for label in labels_of(&pod.metadata.namespace, &pod.metadata.labels) {
                    toggle(&mut self.pods, label, reference, there);
                }
            }
            Object::WorkloadEntry(entry) => {
                toggle(&mut self.workloads, entry.metadata.namespace.clone(), reference, there);
            }
            Object::EndpointSlice(slice) => {
                if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
                    let name = (slice.metadata.namespace.clone(), service.clone());
                    toggle(&mut self.slices, name, reference, there);
                }
                for pod in pods_of(slice.endpoints.iter().map(|endpoint| &endpoint.target_ref)) {
                    let name = (slice.metadata.namespace.clone(), pod.to_string());
                    toggle(&mut self.mentions, name, reference, there);
                }
            }
            Object::Endpoints(endpoints) => {
                let addresses = endpoints.subsets.iter().flat_map(|subset| &subset.addresses);
                for pod in pods_of(addresses.map(|address| &address.target_ref)) {
                    let name = (endpoints.metadata.namespace.clone(), pod.to_string());
                    toggle(&mut self.mentions, name, reference, there);
                }
            }
            Object::Service(service) => {
                let label = selecting(&service.metadata.namespace, &service.spec.selector);
                toggle(&mut self.selecting, label, reference, there);
            }
            Object::ServiceEntry(entry) => {
                let Some(selector) = &entry.spec.workload_selector else { return };
                let label = selecting(&entry.metadata.namespace, &selector.labels);
                toggle(&mut self.selecting, label, reference, there);
            }
            Object::Deployment(_) if there => self.deployments += 1,
            Object::Deployment(_) => self.deployments -= 1,
            _ => {}
        }
    }

    fn owners_of_pod(&self, pod: &Pod, resources: &Resources, owners: &mut BTreeSet<ResourceRef>) {
        let namespace = &pod.metadata.namespace;
        for label in labels_of(namespace, &pod.metadata.labels) {
            owners.extend(self.selecting.get(&label).into_iter().flatten().cloned());
        }
        let mentions = self.mentions.get(&(namespace.clone(), pod.metadata.name.clone()));
        for mention in mentions.into_iter().flatten() {
            match resources.find(mention) {
                Some(Object::EndpointSlice(slice)) => owners.extend(owner_of_slice(slice)),
                Some(Object::Endpoints(of)) => {
                    owners.insert(service_ref(&of.metadata.namespace, &of.metadata.name));
                }
                _ => {}
            }
        }
    }

    fn owners_of_entry(&self, entry: &WorkloadEntry, owners: &mut BTreeSet<ResourceRef>) {
        let namespace = &entry.metadata.namespace;
        let none = (namespace.clone(), String::new(), String::new());
        for label in labels_of(namespace, &entry.spec.labels).chain([none]) {
            owners.extend(self.selecting.get(&label).into_iter().flatten().cloned());
        }
    }

    /// The services that a resource declares.
    fn declared(
        &self,
        object: &Object,
        reference: &ResourceRef,
        applied: u64,
        resources: &Resources,
        mesh: &Mesh,
    ) -> Vec<Service> {
        match object {
            Object::Service(service) => {
                let ports: Vec<Port> = service.spec.ports.iter().map(Port::of_kubernetes).collect();
                let external = service.spec.r#type == "ExternalName";
                let members = if external { Vec::new() } else { self.members(service, &ports, resources) };
                Service::of_kubernetes(service, ports, members, reference, applied, mesh).into_iter().collect()
            }
            Object::ServiceEntry(entry) => {
                let ports: Vec<Port> = entry.spec.ports.iter().filter_map(Port::of_entry).collect();
                let members = self.entry_members(entry, &ports, resources);
                Service::of_entry(entry, &ports, &members, reference, applied, mesh)
            }
            _ => Vec::new(),
        }
    }

    /// The pods of a namespace with all of some labels, of which there is at least one: those that were loaded, then
    /// those that Deployments stand for.
    fn selected<'w>(
        &'w self,
        namespace: &str,
        labels: &'w BTreeMap<String, String>,
        resources: &'w Resources,
    ) -> impl Iterator<Item = &'w Pod> + use<'w> {
        let label = (!labels.is_empty()).then(|| selecting(namespace, labels));
        let loaded =
            label.as_ref().and_then(|label| self.pods.get(label)).into_iter().flatten().filter_map(
                |pod| match resources.find(pod) {
                    Some(Object::Pod(pod)) => Some(pod),
                    _ => None,
                },
            );
        let made = label
            .as_ref()
            .and_then(|label| self.made_by_label.get(label))
            .into_iter()
            .flatten()
            .map(|&at| &self.made[at]);
        loaded.chain(made).filter(|pod| has_labels(&pod.metadata.labels, labels))
    }

    /// The ready endpoints: of its EndpointSlices or Endpoints, or, without any, the pods that it selects.
    fn members(&self, service: &KubernetesService, ports: &[Port], resources: &Resources) -> Vec<Member> {
        let (namespace, name) = (&service.metadata.namespace, &service.metadata.name);
        if let Some(slices) = self.slices.get(&(namespace.clone(), name.clone())) {
            let slices = slices.iter().filter_map(|slice| match resources.find(slice) {
                Some(Object::EndpointSlice(slice)) => Some(slice),
                _ => None,
            });
            return slices.flat_map(|slice| self.slice_members(slice, ports, resources)).collect();
        }
        if let Some(Object::Endpoints(endpoints)) = resources.find(&ResourceRef::new("Endpoints", namespace, name)) {
            let subsets = endpoints.subsets.iter();
            return subsets.flat_map(|subset| self.subset_members(subset, namespace, ports, resources)).collect();
        }
        let usable = |pod: &&Pod| is_ready(pod) || (service.spec.publish_not_ready_addresses && pod_ip(pod).is_some());
        let selected = self.selected(namespace, &service.spec.selector, resources);
        selected.filter(usable).filter_map(|pod| Member::of_pod(pod, ports)).collect()
    }

    fn entry_members(&self, entry: &ServiceEntry, ports: &[Port], resources: &Resources) -> Vec<Member> {
        let own = entry.spec.endpoints.iter().map(|endpoint| Member::of_workload(endpoint, "", ports));
        let Some(selector) = &entry.spec.workload_selector else { return own.collect() };
        let namespace = &entry.metadata.namespace;
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let chosen = workloads.filter_map(|workload| match resources.find(workload) {
            Some(Object::WorkloadEntry(entry)) => Some((&entry.metadata.name, &entry.spec)),
            _ => None,
        });
        let chosen =
            chosen.filter(|(_, spec): &(&String, &WorkloadEntrySpec)| has_labels(&spec.labels, &selector.labels));
        let pods = self.selected(namespace, &selector.labels, resources).filter(|pod| is_ready(pod));
        own.chain(chosen.map(|(name, spec)| Member::of_workload(spec, name, ports)))
            .chain(pods.filter_map(|pod| Member::of_pod(pod, ports)))
            .collect()
    }

    fn slice_members(&self, slice: &EndpointSlice, ports: &[Port], resources: &Resources) -> Vec<Member> {
        let served = |port: &Port| {
            let by_name = slice.ports.iter().find(|known| known.name.as_deref().unwrap_or_default() == port.name);
            Some((port.number, by_name?.port?))
        };
        let targets: Arc<BTreeMap<u16, u16>> = Arc::new(ports.iter().filter_map(served).collect());
        let ready = |endpoint: &&Endpoint| {
            endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false))
        };
        let addressed = slice.endpoints.iter().filter(ready);
        let addressed = addressed.flat_map(|endpoint| endpoint.addresses.first().map(|address| (endpoint, address)));
        addressed
            .map(|(endpoint, address)| {
                let pod = target(&endpoint.target_ref);
                let labels = self.labels(&slice.metadata.namespace, pod, resources);
                let member = Member::new(address, pod, labels, &targets);
                match &*member.locality {
                    "" => Member { locality: endpoint.zone.as_str().into(), ..member },
                    _ => member,
                }
            })
            .collect()
    }

    fn subset_members(
        &self,
        subset: &EndpointSubset,
        namespace: &str,
        ports: &[Port],
        resources: &Resources,
    ) -> Vec<Member> {
        let served = |port: &Port| {
            let by_name = subset.ports.iter().find(|known| known.name == port.name);
            Some((port.number, by_name?.port))
        };
        let targets: Arc<BTreeMap<u16, u16>> = Arc::new(ports.iter().filter_map(served).collect());
        let member = |address: &crate::model::endpoints::EndpointAddress| {
            let pod = target(&address.target_ref);
            Member::new(&address.ip, pod, self.labels(namespace, pod, resources), &targets)
        };
        subset.addresses.iter().map(member).collect()
    }

    /// The labels of a pod by its name; none where there is no such pod.
    fn labels(&self, namespace: &str, pod: Option<&str>, resources: &Resources) -> Labels {
        let Some(pod) = pod else { return Labels::default() };
        if let Some(&at) = self.made_by_name.get(&(namespace.to_string(), pod.to_string())) {
            return Arc::new(self.made[at].metadata.labels.clone());
        }
        match resources.find(&ResourceRef::new("Pod", namespace, pod)) {
            Some(Object::Pod(pod)) => Arc::new(pod.metadata.labels.clone()),
            _ => Labels::default(),
        }
    }
}

/// Whether a resource declares services.
fn declares(object: &Object) -> bool {
    matches!(object, Object::Service(_) | Object::ServiceEntry(_))
}

/// The hosts of the services that a resource declares.
fn hosts_of(object: &Object, mesh: &Mesh) -> Vec<HostPattern> {
    match object {
        Object::Service(service) => HostPattern::parse(&host_of(service, mesh)).into_iter().collect(),
        Object::ServiceEntry(entry) => {
            entry.spec.hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a change of a resource may change which pods Deployments stand for.
fn makes_pods(object: &Object) -> bool {
    matches!(object, Object::Pod(_) | Object::Deployment(_))
}

/// Whether what one resource declares differs in nothing but where its endpoints come from.
fn same_services(before: &Object, now: &Object) -> bool {
    let [before, now] = [before, now].map(|object| match object.clone() {
        Object::Service(mut service) => {
            service.spec.selector.clear();
            service.metadata.labels.clear();
            service.spec.ports.iter_mut().for_each(|port| port.target_port = None);
            Object::Service(service)
        }
        Object::ServiceEntry(mut entry) => {
            (entry.spec.endpoints, entry.spec.workload_selector) = (Vec::new(), None);
            entry.metadata.labels.clear();
            entry.spec.ports.iter_mut().for_each(|port| port.target_port = 0);
            Object::ServiceEntry(entry)
        }
        other => other,
    });
    before == now
}

fn name_of(pod: &Pod) -> Name {
    (pod.metadata.namespace.clone(), pod.metadata.name.clone())
}

/// The label by which an EndpointSlice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn service_ref(namespace: &str, name: &str) -> ResourceRef {
    ResourceRef::new("Service", namespace, name)
}

fn owner_of_slice(slice: &EndpointSlice) -> Option<ResourceRef> {
    Some(service_ref(&slice.metadata.namespace, slice.metadata.labels.get(SERVICE_NAME)?))
}

fn target(reference: &Option<ObjectReference>) -> Option<&str> {
    reference.as_ref().filter(|target| target.kind == "Pod").map(|target| target.name.as_str())
}

fn pods_of<'r>(references: impl Iterator<Item = &'r Option<ObjectReference>>) -> HashSet<&'r str> {
    references.filter_map(target).collect()
}

fn labels_of<'l>(namespace: &'l str, labels: &'l BTreeMap<String, String>) -> impl Iterator<Item = Label> + 'l {
    labels.iter().map(|(key, value)| (namespace.to_string(), key.clone(), value.clone()))
}

/// Where something that selects by labels is filed: under the first of them.
fn selecting(namespace: &str, labels: &BTreeMap<String, String>) -> Label {
    let (key, value) = labels.first_key_value().map(|(key, value)| (key.clone(), value.clone())).unwrap_or_default();
    (namespace.to_string(), key, value)
}

fn toggle<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, BTreeSet<ResourceRef>>,
    key: K,
    reference: &ResourceRef,
    there: bool,
) {
    if there {
        index.entry(key).or_default().insert(reference.clone());
        return;
    }
    if let Some(filed) = index.get_mut(&key) {
        filed.remove(reference);
        if filed.is_empty() {
            index.remove(&key);
        }
    }
}
