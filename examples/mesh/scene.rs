//! What there is in the mesh whether or not anybody asks for it: services, the workloads behind them, and the rules
//! that say who gets what.
//!
//! Knows resources and plans. Knows nothing of traffic, nor how it is drawn.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use meshroute::model::Service as ServiceResource;
use meshroute::plan::{
    Action, Chain, Cluster, Condition, Destination, Forward, HeaderMatch, Origin, PathMatch, Route, Target, ValueMatch,
};
use meshroute::{Diagnostic, Plan, ResourceRef, Severity, Viewpoint, host_of};
use serde::Serialize;

use crate::wire::Part;
use crate::workload::{Service, Workload};
use crate::world::{World, is_gateway, rule_key, selects, viewpoint};

/// A rule in words.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rule {
    /// `rule 2 of VirtualService default/nginx`.
    pub name: String,
    /// File and line.
    pub place: String,
    /// When it holds.
    pub when: String,
    /// What it does besides sending on, each in a few words.
    pub also: Vec<String>,
    /// Where it sends to: cluster and weight.
    pub then: Vec<(String, u32)>,
    #[serde(skip)]
    resources: BTreeSet<String>,
}

impl Rule {
    /// What it is called, where it stands, and where it sends to.
    fn written(origin: &Origin, clusters: &[(&Cluster, u32)], world: &World) -> Self {
        let refs = [&origin.resource, &origin.written_in];
        Rule {
            name: format!("rule {} of {}", u64::from(origin.rule) + 1, origin.written_in),
            place: world.place_of(&origin.written_in, &origin.field).unwrap_or_default(),
            then: clusters.iter().map(|(cluster, weight)| (cluster.name.to_string(), *weight)).collect(),
            resources: refs.into_iter().map(ToString::to_string).collect(),
            ..Rule::default()
        }
    }
}

/// A service, and what holds for requests to it.
#[derive(Clone, Debug, Default)]
pub struct ServiceScene {
    /// The rules, by [`rule_key`], in the order in which they are tried.
    pub rules: Vec<String>,
    /// The hosts of the VirtualServices that claim it.
    pub hosts: BTreeSet<String>,
    /// The resources that have a say, as `KIND NAMESPACE/NAME`.
    pub resources: BTreeSet<String>,
    /// The workloads that it selects.
    pub workloads: BTreeSet<(String, String)>,
    /// What the rules do besides sending on: `fault`, `mirror`, `timeout`, `routing`, `shifting`, `breaker`.
    pub marks: BTreeSet<&'static str>,
}

/// A workload and its pods.
#[derive(Clone, Debug)]
pub struct WorkloadScene {
    /// Who it is.
    pub workload: Workload,
    /// The labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Each pod, and whether it is ready.
    pub pods: Vec<(String, bool)>,
    /// Where callers from outside come in, or what goes outside goes out.
    pub is_gateway: bool,
}

/// All of it, for one version of the world.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The version.
    pub version: u64,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), ServiceScene>,
    /// By namespace and name.
    pub workloads: BTreeMap<(String, String), WorkloadScene>,
    /// By [`rule_key`].
    pub rules: BTreeMap<String, Rule>,
    /// What was found in what is in force, by the resource that it concerns.
    pub findings: BTreeMap<String, Vec<Diagnostic>>,
}

impl Scene {
    /// Looks at the world.
    pub fn of(world: &World, findings: &[Diagnostic]) -> Self {
        let mut scene = Scene { version: world.version, ..Scene::default() };
        for (pod, ready) in world.pods() {
            let door = is_gateway(pod);
            scene.add_pod(world.workload(pod), &pod.metadata.labels, (&pod.metadata.name, ready), door);
        }
        for subscriber in world.subscribers.values() {
            if let Part::Gateway { namespace, labels, pod: None } = &subscriber.part {
                scene.add_pod(Workload::gateway(namespace, labels), labels, ("gateway", true), true);
            }
        }
        for service in world.every_service() {
            scene.add_service(world, service);
        }
        for view in views(world) {
            scene.add_plan(&world.plan_for(&view), world);
        }
        for finding in findings {
            let resource = finding.resource.as_ref().map(ToString::to_string).unwrap_or_default();
            scene.findings.entry(resource).or_default().push(finding.clone());
        }
        scene
    }

    fn add_pod(
        &mut self,
        workload: Workload,
        labels: &BTreeMap<String, String>,
        (pod, ready): (&str, bool),
        is_gateway: bool,
    ) {
        let key = (workload.namespace.clone(), workload.name.clone());
        let labels = labels.clone();
        let entry = self.workloads.entry(key);
        let known = entry.or_insert(WorkloadScene { workload, labels, pods: Vec::new(), is_gateway });
        known.pods.push((pod.to_string(), ready));
    }

    fn add_service(&mut self, world: &World, service: &ServiceResource) {
        let metadata = &service.metadata;
        let selected = world.pods().filter(|(pod, _)| selects(service, pod)).map(|(pod, _)| world.workload(pod));
        let workloads = selected.map(|workload| (workload.namespace, workload.name)).collect();
        let itself = ResourceRef::new("Service", &metadata.namespace, &metadata.name).to_string();
        let scene = ServiceScene { workloads, resources: [itself].into(), ..ServiceScene::default() };
        self.services.insert((metadata.namespace.clone(), metadata.name.clone()), scene);
    }

    fn add_plan(&mut self, plan: &Plan, world: &World) {
        for listener in plan.listeners.iter() {
            listener.chains.iter().for_each(|chain| self.add_chain(plan, listener.port, chain, world));
        }
    }

    fn add_chain(&mut self, plan: &Plan, port: u16, chain: &Chain, world: &World) {
        match &chain.target {
            Target::Http(table) => {
                let routes = table.hosts.iter().flat_map(|host| host.routes.iter().map(move |route| (host, route)));
                routes.for_each(|(host, route)| self.add_route(plan, host_of(&host.name), route, world));
            }
            Target::Tcp { destinations, origin } => {
                let rule = origin.as_ref().map(|origin| (origin, whole(port, chain)));
                self.add_passage(&known(plan, destinations), rule, world);
            }
        }
    }

    /// Adds a rule for connections as a whole; a service's own default is none.
    fn add_passage(&mut self, clusters: &[(&Cluster, u32)], rule: Option<(&Origin, String)>, world: &World) {
        for (cluster, _) in clusters {
            let Service { namespace, name, .. } = Service::of_host(&cluster.host);
            let Some(scene) = self.services.get_mut(&(namespace, name)) else { continue };
            scene.resources.extend(cluster.rule.as_ref().map(ToString::to_string));
            let Some((origin, when)) = &rule else { continue };
            let key = rule_key(&origin.written_in, &origin.field);
            let new = || Rule { when: when.clone(), ..Rule::written(origin, clusters, world) };
            let known = self.rules.entry(key.clone()).or_insert_with(new);
            scene.resources.extend(known.resources.iter().cloned());
            scene.marks.extend((clusters.len() > 1).then_some("shifting"));
            if !scene.rules.contains(&key) {
                scene.rules.push(key);
            }
        }
    }

    fn add_route(&mut self, plan: &Plan, host: &str, route: &Route, world: &World) {
        let clusters = clusters(plan, route);
        let rule = route.origin.as_ref().map(|origin| {
            let key = rule_key(&origin.written_in, &origin.field);
            if !self.rules.contains_key(&key) {
                self.rules.insert(key.clone(), rule(route, &clusters, world));
            }
            key
        });
        let services: BTreeSet<String> =
            clusters.iter().map(|(cluster, _)| cluster.host.to_string()).chain([host.to_string()]).collect();
        for name in services {
            let service = Service::of_host(&name);
            let Some(scene) = self.services.get_mut(&(service.namespace, service.name)) else { continue };
            let of_it = clusters.iter().filter(|(cluster, _)| *cluster.host == *name);
            for (cluster, _) in of_it {
                scene.resources.extend(cluster.rule.as_ref().map(ToString::to_string));
                if cluster.policy.outlier_detection.is_some() || cluster.policy.connection_pool.is_some() {
                    scene.marks.insert("breaker");
                }
            }
            let Some(key) = &rule else { continue };
            let Some(known) = self.rules.get(key) else { continue };
            scene.resources.extend(known.resources.iter().cloned());
            scene.hosts.insert(host.to_string());
            scene.marks.extend(marks(route, clusters.len()));
            if !scene.rules.contains(key) {
                scene.rules.push(key.clone());
            }
        }
    }

    /// What was found about some resources.
    pub fn findings_of<'a>(&'a self, resources: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Diagnostic> {
        resources.iter().filter_map(|resource| self.findings.get(resource)).flatten()
    }

    /// The worst that was found about some resources.
    pub fn worst(&self, resources: &BTreeSet<String>) -> Option<Severity> {
        let rank = |severity: &Severity| match severity {
            Severity::Error => 2,
            Severity::Warning => 1,
            _ => 0,
        };
        self.findings_of(resources).map(|finding| finding.severity).max_by_key(rank)
    }
}

/// Everybody's view, each once.
fn views(world: &World) -> Vec<Viewpoint> {
    let mut seen = HashSet::new();
    let views = world.subscribers.values().filter_map(|subscriber| viewpoint(&subscriber.part));
    views.filter(|view| seen.insert(view.clone())).collect()
}

fn forward(route: &Route) -> Option<&Forward> {
    match &route.action {
        Action::Forward(forward) => Some(forward),
        _ => None,
    }
}

fn clusters<'a>(plan: &'a Plan, route: &Route) -> Vec<(&'a Cluster, u32)> {
    let destinations = forward(route).map(|forward| forward.destinations.as_slice()).unwrap_or_default();
    known(plan, destinations)
}

fn known<'a>(plan: &'a Plan, destinations: &[Destination]) -> Vec<(&'a Cluster, u32)> {
    let cluster = |at: u32| plan.clusters.get(at as usize).map(|cluster| &**cluster);
    destinations.iter().filter_map(|one| Some((cluster(one.cluster)?, one.weight))).collect()
}

/// Which connections a chain takes, in words.
fn whole(port: u16, chain: &Chain) -> String {
    let names: Vec<String> = chain.server_names.iter().map(ToString::to_string).collect();
    let named = if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) };
    format!("a connection goes to port {port}{named}")
}

fn marks(route: &Route, destinations: usize) -> impl Iterator<Item = &'static str> {
    let forward = forward(route);
    let marks = [
        ("fault", route.fault.is_some()),
        ("mirror", forward.is_some_and(|forward| !forward.mirrors.is_empty())),
        ("timeout", forward.is_some_and(|forward| forward.timeout.is_some())),
        ("routing", !route.condition.is_any()),
        ("shifting", destinations > 1),
    ];
    marks.into_iter().filter(|(_, there)| *there).map(|(mark, _)| mark)
}

fn rule(route: &Route, clusters: &[(&Cluster, u32)], world: &World) -> Rule {
    let Some(origin) = &route.origin else { return Rule::default() };
    Rule { when: when(&route.condition), also: also(route), ..Rule::written(origin, clusters, world) }
}

fn also(route: &Route) -> Vec<String> {
    let mut also = Vec::new();
    match &route.action {
        Action::Redirect(_) => also.push("answers with a redirect".to_string()),
        Action::Direct(direct) => also.push(format!("answers itself, {}", direct.status)),
        Action::Forward(forward) => {
            also.extend(forward.timeout.map(|timeout| format!("timeout {timeout:?}")));
            also.extend(forward.retry.as_ref().map(|retry| format!("up to {} retries", retry.attempts)));
            also.extend(forward.rewrite.as_ref().map(|_| "rewrites the path".to_string()));
            also.extend((!forward.mirrors.is_empty()).then(|| "sends copies".to_string()));
        }
    }
    also.extend(route.fault.as_ref().map(|_| "injects faults".to_string()));
    also
}

/// A condition in words.
fn when(condition: &Condition) -> String {
    let mut parts = Vec::new();
    match &condition.path {
        PathMatch::Any => {}
        PathMatch::Exact { path, .. } => parts.push(format!("path is {path}")),
        PathMatch::Prefix { path, .. } => parts.push(format!("path begins with {path}")),
        PathMatch::Regex(pattern) => parts.push(format!("path matches {}", pattern.as_str())),
    }
    let own = [("method", &condition.method), ("scheme", &condition.scheme), ("authority", &condition.authority)];
    for (name, value) in own {
        parts.extend(value.as_ref().map(|value| format!("{name} {}", value_words(value))));
    }
    parts.extend(condition.headers.iter().map(header_words));
    parts.extend(condition.query.iter().map(|one| format!("query {} {}", one.name, value_words(&one.value))));
    if parts.is_empty() { "always".into() } else { parts.join(" and ") }
}

fn header_words(header: &HeaderMatch) -> String {
    let not = if header.invert { "not: " } else { "" };
    format!("{not}{} {}", header.name, value_words(&header.value))
}

fn value_words(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("is {text}"),
        ValueMatch::Prefix(text) => format!("begins with {text}"),
        ValueMatch::Regex(pattern) => format!("matches {}", pattern.as_str()),
        ValueMatch::Present => "is there".into(),
    }
}
