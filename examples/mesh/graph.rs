//! The graph of workloads and services with what flows between them, in the form of Kiali's `/api/namespaces/graph`.
//!
//! Knows counters and the scene that they played in. Kiali's fields are as Kiali has them (numbers are texts); what goes
//! beyond them stands under `meshroute`. An edge to a service is what was asked of it, also in vain; an edge from a
//! service to a workload is what arrived.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::history::{PERIOD, Window};
use crate::metrics::{Counts, Labels, Via, Word};
use crate::scene::Scene;
use crate::workload::{Service, UNKNOWN, Workload};

/// What flows along an edge or through a node.
#[derive(Default)]
struct Flow {
    counts: Counts,
    /// Requests by status, flags and host.
    responses: BTreeMap<(u16, String, String), u64>,
    by_rule: BTreeMap<Via, u64>,
    encrypted: u64,
    protocol: Word,
}

impl Flow {
    fn add(&mut self, labels: &Labels, via: &Via, counts: &Counts) {
        self.counts.add(counts);
        self.protocol.clone_from(&labels.protocol);
        let response = (labels.code, labels.flags.to_string(), labels.service.host.clone());
        *self.responses.entry(response).or_default() += counts.requests;
        *self.by_rule.entry(via.clone()).or_default() += counts.requests;
        self.secure(labels, counts);
    }

    /// Only the side that is asked says how requests came.
    fn secure(&mut self, labels: &Labels, counts: &Counts) {
        if labels.security == "mutual_tls" {
            self.encrypted += counts.requests;
        }
    }

    fn requests(&self) -> u64 {
        self.counts.requests
    }

    /// Requests whose status is of this class; 0: those without an answer.
    fn of_class(&self, class: u16) -> u64 {
        self.responses.iter().filter(|((code, ..), _)| code / 100 == class).map(|(_, count)| count).sum()
    }

    fn failed(&self) -> u64 {
        self.of_class(5) + self.of_class(0)
    }
}

/// A node's name: what it is, its namespace, its own name.
type Id = (&'static str, String, String);

#[derive(Default)]
struct Graph {
    nodes: BTreeMap<Id, (Flow, Flow)>,
    edges: BTreeMap<(Id, Id), Flow>,
}

/// The graph over a time, as of now (in seconds of the epoch).
pub fn graph(scene: &Scene, window: &Window, now: u64) -> Value {
    let mut graph = Graph::default();
    graph.stand(scene);
    for ((labels, via), counts) in &window.flows {
        graph.add(labels, via, counts);
    }
    let nodes: Vec<Value> = graph.nodes.iter().map(|(id, flow)| node(scene, window, &graph, id, flow)).collect();
    let edges: Vec<Value> = graph.edges.iter().map(|(ends, flow)| edge(scene, window, &graph, ends, flow)).collect();
    let timeline: Vec<Value> = window.timeline.iter().map(|(all, failed)| json!([all, failed])).collect();
    json!({
        "timestamp": now,
        "duration": window.seconds.round() as u64,
        "graphType": "workload",
        "elements": { "nodes": nodes, "edges": edges },
        "meshroute": { "version": scene.version, "period": PERIOD.as_secs_f64(), "timeline": timeline },
    })
}

/// How a node is named in the graph.
pub fn id(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind}/{namespace}/{name}")
}

fn written((kind, namespace, name): &Id) -> String {
    id(kind, namespace, name)
}

fn workload(workload: &Workload) -> Id {
    ("workload", workload.namespace.clone(), workload.name.clone())
}

fn service(service: &Service) -> Option<Id> {
    let known = service.name != UNKNOWN;
    known.then(|| ("service", service.namespace.clone(), service.name.clone()))
}

impl Graph {
    /// Puts everything there that could be asked for.
    fn stand(&mut self, scene: &Scene) {
        for (namespace, name) in scene.workloads.keys() {
            self.nodes.entry(("workload", namespace.clone(), name.clone())).or_default();
        }
        for ((namespace, name), known) in &scene.services {
            let from: Id = ("service", namespace.clone(), name.clone());
            self.nodes.entry(from.clone()).or_default();
            for (namespace, name) in &known.workloads {
                self.edges.entry((from.clone(), ("workload", namespace.clone(), name.clone()))).or_default();
            }
        }
    }

    fn add(&mut self, labels: &Labels, via: &Via, counts: &Counts) {
        let (from, to) = (workload(&labels.source), workload(&labels.destination));
        let arrived = labels.destination.name != UNKNOWN;
        let way = match (service(&labels.service), arrived) {
            (Some(service), true) => vec![from, service, to],
            (Some(service), false) => vec![from, service],
            (None, _) => vec![from, to],
        };
        for pair in way.windows(2) {
            let [from, to] = pair else { continue };
            if labels.is_second_hand() {
                self.edges.entry((from.clone(), to.clone())).or_default().secure(labels, counts);
                continue;
            }
            self.edges.entry((from.clone(), to.clone())).or_default().add(labels, via, counts);
            self.nodes.entry(from.clone()).or_default().1.add(labels, via, counts);
            self.nodes.entry(to.clone()).or_default().0.add(labels, via, counts);
        }
    }

    /// What goes out of a node.
    fn leaving(&self, from: &Id) -> u64 {
        self.nodes.get(from).map_or(0, |(_, leaving)| leaving.requests())
    }
}

fn rate(count: u64, window: &Window) -> String {
    format!("{:.2}", count as f64 / window.seconds)
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}", 100.0 * part as f64 / whole.max(1) as f64)
}

/// Kiali's names for rates: `httpIn`, `httpIn5xx`, ...
fn rates(flow: &Flow, way: &str, window: &Window) -> Map<String, Value> {
    let mut rates = Map::new();
    let mut push = |name: &str, count: u64| {
        if count > 0 {
            rates.insert(format!("{}{way}{name}", flow.protocol), json!(rate(count, window)));
        }
    };
    push("", flow.requests());
    push("3xx", flow.of_class(3));
    push("4xx", flow.of_class(4));
    push("5xx", flow.of_class(5));
    push("NoResponse", flow.of_class(0));
    rates
}

/// How fast, and what failed: as numbers.
fn figures(flow: &Flow, window: &Window) -> Value {
    let quantile = |share| flow.counts.duration.quantile(share).map(|ms| (ms * 100.0).round() / 100.0);
    json!({
        "requests": flow.requests(),
        "rate": flow.requests() as f64 / window.seconds,
        "errorPercent": 100.0 * flow.failed() as f64 / flow.requests().max(1) as f64,
        "clientErrorPercent": 100.0 * flow.of_class(4) as f64 / flow.requests().max(1) as f64,
        "p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99),
        "receivedPerSecond": flow.counts.received.sum / window.seconds,
        "sentPerSecond": flow.counts.sent.sum / window.seconds,
    })
}

fn node(scene: &Scene, window: &Window, graph: &Graph, id: &Id, (incoming, outgoing): &(Flow, Flow)) -> Value {
    let (kind, namespace, name) = id;
    let mut data = Map::new();
    let mut put = |field: &str, value: Value| drop(data.insert(field.into(), value));
    put("id", json!(written(id)));
    put("cluster", json!(if namespace == UNKNOWN { UNKNOWN } else { "Kubernetes" }));
    put("namespace", json!(namespace));
    let asked = incoming.requests() + outgoing.requests() > 0;
    put("healthData", Value::Null);
    if asked {
        let mut rates_of_both = rates(incoming, "In", window);
        rates_of_both.extend(rates(outgoing, "Out", window));
        let protocol = if incoming.protocol.is_empty() { &outgoing.protocol } else { &incoming.protocol };
        put("traffic", json!([{ "protocol": protocol, "rates": rates_of_both }]));
    } else {
        put("isIdle", json!(true));
    }
    let is_root = incoming.requests() == 0 && outgoing.requests() > 0;
    if is_root {
        put("isRoot", json!(true));
    }
    let key = (namespace.clone(), name.clone());
    let mut own =
        Map::from_iter([("in".to_string(), figures(incoming, window)), ("out".into(), figures(outgoing, window))]);
    if *kind == "service" {
        put("nodeType", json!("service"));
        put("service", json!(name));
        put("destServices", json!([{ "cluster": "Kubernetes", "namespace": namespace, "name": name }]));
        service_marks(scene, &key, &mut put, &mut own);
    } else {
        put("nodeType", json!(if name == UNKNOWN { "unknown" } else { "workload" }));
        put("workload", json!(name));
        put("destServices", json!(called_by(graph, id)));
        workload_marks(scene, &key, &mut put, &mut own);
    }
    put("meshroute", Value::Object(own));
    json!({ "data": data })
}

/// The services by which a workload is reached.
fn called_by(graph: &Graph, id: &Id) -> Vec<Value> {
    let of = graph.edges.keys().filter(|(from, to)| to == id && from.0 == "service");
    of.map(|(from, _)| json!({ "cluster": "Kubernetes", "namespace": from.1, "name": from.2 })).collect()
}

fn service_marks(
    scene: &Scene,
    key: &(String, String),
    put: &mut impl FnMut(&str, Value),
    own: &mut Map<String, Value>,
) {
    let Some(known) = scene.services.get(key) else { return };
    let marks = [
        ("fault", "hasFaultInjection"),
        ("mirror", "hasMirroring"),
        ("timeout", "hasRequestTimeout"),
        ("routing", "hasRequestRouting"),
        ("shifting", "hasTrafficShifting"),
        ("breaker", "hasCB"),
    ];
    for (_, field) in marks.into_iter().filter(|(mark, _)| known.marks.contains(mark)) {
        put(field, json!(true));
    }
    if !known.rules.is_empty() {
        put("hasVS", json!({ "hostnames": known.hosts }));
    }
    own.insert("rules".into(), json!(known.rules.len()));
    own.insert("worst".into(), json!(scene.worst(&known.resources).map(|severity| severity.to_string())));
}

fn workload_marks(
    scene: &Scene,
    key: &(String, String),
    put: &mut impl FnMut(&str, Value),
    own: &mut Map<String, Value>,
) {
    let Some(known) = scene.workloads.get(key) else { return };
    if known.workload.app != UNKNOWN {
        put("app", json!(known.workload.app));
    }
    if known.workload.version != UNKNOWN {
        put("version", json!(known.workload.version));
    }
    put("labels", json!(known.labels));
    let ready = known.pods.iter().filter(|(_, ready)| *ready).count();
    if ready == 0 {
        put("isDead", json!(true));
    }
    if known.is_gateway {
        let hosts: BTreeSet<&String> = scene.services.values().flat_map(|service| &service.hosts).collect();
        put("isGateway", json!({ "ingressInfo": { "hostnames": hosts } }));
    }
    own.insert("pods".into(), json!(known.pods.len()));
    own.insert("ready".into(), json!(ready));
}

fn edge(scene: &Scene, window: &Window, graph: &Graph, (from, to): &(Id, Id), flow: &Flow) -> Value {
    let share = percent(flow.requests(), graph.leaving(from));
    let mut rates = rates(flow, "", window);
    if flow.requests() > 0 {
        rates.insert(format!("{}PercentReq", flow.protocol), json!(share));
        if flow.failed() > 0 {
            let errors = percent(flow.failed(), flow.requests());
            rates.insert(format!("{}PercentErr", flow.protocol), json!(errors));
        }
    }
    let mut data = Map::new();
    data.insert("id".into(), json!(format!("{}~{}", written(from), written(to))));
    data.insert("source".into(), json!(written(from)));
    data.insert("target".into(), json!(written(to)));
    let protocol = if flow.protocol.is_empty() { "http" } else { &flow.protocol };
    data.insert("traffic".into(), json!({ "protocol": protocol, "rates": rates, "responses": responses(flow) }));
    if flow.encrypted > 0 {
        data.insert(
            "isMTLS".into(),
            json!(percent(flow.encrypted.min(flow.requests()), flow.requests()).trim_end_matches(".0")),
        );
    }
    if let Some(p95) = flow.counts.duration.quantile(0.95) {
        data.insert("responseTime".into(), json!(format!("{p95:.0}")));
        data.insert("throughput".into(), json!(format!("{:.0}", flow.counts.sent.sum / window.seconds)));
    }
    let mut own = figures(flow, window);
    own["rules"] = json!(rules(scene, flow));
    data.insert("meshroute".into(), own);
    json!({ "data": data })
}

/// Kiali's shares of flags and hosts for each status, in percent of the edge's requests.
fn responses(flow: &Flow) -> Value {
    let mut by_code: BTreeMap<String, [BTreeMap<&str, u64>; 2]> = BTreeMap::new();
    for ((code, flags, host), count) in &flow.responses {
        let [by_flags, by_host] = by_code.entry(code.to_string()).or_default();
        *by_flags.entry(flags).or_default() += count;
        *by_host.entry(host).or_default() += count;
    }
    let shares = |counts: BTreeMap<&str, u64>| -> Map<String, Value> {
        counts.into_iter().map(|(key, count)| (key.to_string(), json!(percent(count, flow.requests())))).collect()
    };
    let all = by_code.into_iter();
    all.map(|(code, [flags, hosts])| (code, json!({ "flags": shares(flags), "hosts": shares(hosts) }))).collect()
}

/// The rules that sent requests this way, and how many each.
fn rules(scene: &Scene, flow: &Flow) -> Vec<Value> {
    let rule = |(via, count): (&Via, &u64)| {
        json!({
            "key": &*via.rule,
            "cluster": &*via.cluster,
            "requests": count,
            "percent": 100.0 * *count as f64 / flow.requests().max(1) as f64,
            "rule": scene.rules.get(&*via.rule),
        })
    };
    flow.by_rule.iter().map(rule).collect()
}
