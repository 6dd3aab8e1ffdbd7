//! The graph of workloads and services with what flows between them, in the form of Kiali's `/api/namespaces/graph`.
//!
//! Knows counters and the scene that they played in. Kiali's fields are as Kiali has them (numbers are texts); what goes
//! beyond them stands under `meshroute`. An edge to a service is what was asked of it, also in vain; an edge from a
//! service to a workload is what arrived.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::history::{PERIOD, Sum, Window};
use crate::metrics::{Labels, TCP, Via, Word};
use crate::scene::Scene;
use crate::workload::{Service, UNKNOWN, Workload};

/// What flows along an edge or through a node in one protocol.
#[derive(Clone, Default)]
struct Flow {
    sum: Sum,
    /// How much by status, flags and host.
    responses: BTreeMap<(String, String, String), u64>,
    by_rule: BTreeMap<Via, u64>,
    encrypted: u64,
    /// Requests without an answer.
    unanswered: u64,
    /// Requests by the class of their status, from 100 up.
    classes: [u64; 5],
    /// gRPC's errors.
    errors: u64,
    /// What went wrong: requests that were not answered well, and connections that did not come about.
    failed: u64,
}

impl Flow {
    fn add(&mut self, (labels, via): &(Labels, Via), sum: &Sum) {
        self.sum.add(sum);
        let response = (code(labels), labels.flags.to_string(), labels.service.host.clone());
        *self.responses.entry(response).or_default() += weight(sum);
        *self.by_rule.entry(via.clone()).or_default() += weight(sum);
        if labels.is_tcp() {
            self.failed += if labels.flags == "-" { 0 } else { sum.carried.opened };
            // Whoever calls has seen who is there.
            self.encrypted += if &*labels.destination_principal == UNKNOWN { 0 } else { weight(sum) };
            return;
        }
        match usize::from(labels.code / 100) {
            0 => self.unanswered += sum.requests,
            class => self.classes[class.min(5) - 1] += sum.requests,
        }
        self.errors += if matches!(&*labels.grpc, "" | "0") { 0 } else { sum.requests };
        self.failed += if labels.is_failure() { sum.requests } else { 0 };
        self.secure(labels, sum);
    }

    /// Only the side that is asked says how requests came.
    fn secure(&mut self, labels: &Labels, sum: &Sum) {
        if labels.security == "mutual_tls" {
            self.encrypted += sum.requests;
        }
    }

    fn take_in(&mut self, other: &Flow) {
        self.sum.add(&other.sum);
        self.unanswered += other.unanswered;
        self.classes.iter_mut().zip(other.classes).for_each(|(mine, more)| *mine += more);
        self.failed += other.failed;
    }

    /// How much it is: requests, or what connections carried.
    fn weight(&self) -> u64 {
        weight(&self.sum)
    }

    /// Requests whose status is of this class.
    fn of_class(&self, class: usize) -> u64 {
        self.classes[class - 1]
    }

    /// In how many attempts something could go wrong.
    fn tried(&self) -> u64 {
        self.sum.requests + self.sum.carried.opened
    }
}

fn weight(sum: &Sum) -> u64 {
    sum.requests + sum.carried.opened + sum.carried.sent + sum.carried.received
}

/// What Kiali groups answers by: gRPC's own status, if there is one; connections have none.
fn code(labels: &Labels) -> String {
    match (labels.is_tcp(), &*labels.grpc) {
        (true, _) => "-".into(),
        (false, "") => labels.code.to_string(),
        (false, status) => status.to_string(),
    }
}

/// What flows, by protocol.
type Flows = BTreeMap<Word, Flow>;

/// All of it together.
fn together(flows: &Flows) -> Flow {
    let mut all = Flow::default();
    flows.values().for_each(|flow| all.take_in(flow));
    all
}

/// A node's name: what it is, its namespace, its own name.
type Id = (&'static str, String, String);

#[derive(Default)]
struct Graph {
    /// What comes, and what goes.
    nodes: BTreeMap<Id, (Flows, Flows)>,
    edges: BTreeMap<(Id, Id), Flows>,
}

/// The graph over a time, as of now (in seconds of the epoch).
pub fn graph(scene: &Scene, window: &Window, now: u64) -> Value {
    let mut graph = Graph::default();
    graph.stand(scene);
    for (series, sum) in &window.flows {
        graph.add(series, sum);
    }
    let nodes: Vec<Value> = graph.nodes.iter().map(|(id, flows)| node(scene, window, &graph, id, flows)).collect();
    let edges: Vec<Value> =
        graph.edges.iter().flat_map(|(ends, flows)| edges(scene, window, &graph, ends, flows)).collect();
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

    fn add(&mut self, series: &(Labels, Via), sum: &Sum) {
        let labels = &series.0;
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
                self.secure(from, to, labels, sum);
                continue;
            }
            let ends = (from.clone(), to.clone());
            of(self.edges.entry(ends).or_default(), labels).add(series, sum);
            of(&mut self.nodes.entry(from.clone()).or_default().1, labels).add(series, sum);
            of(&mut self.nodes.entry(to.clone()).or_default().0, labels).add(series, sum);
        }
    }

    /// Takes the word of whoever was asked on how it came, where it is known from whom.
    fn secure(&mut self, from: &Id, to: &Id, labels: &Labels, sum: &Sum) {
        if from.2 != UNKNOWN && !labels.is_tcp() {
            of(self.edges.entry((from.clone(), to.clone())).or_default(), labels).secure(labels, sum);
        }
    }

    /// What goes out of a node in a protocol.
    fn leaving(&self, from: &Id, protocol: &str) -> u64 {
        self.nodes.get(from).and_then(|(_, leaving)| leaving.get(protocol)).map_or(0, |flow| flow.sum.requests)
    }
}

/// What flows in the protocol that labels name.
fn of<'f>(flows: &'f mut Flows, labels: &Labels) -> &'f mut Flow {
    flows.entry(labels.protocol.clone()).or_default()
}

fn rate(count: u64, window: &Window) -> String {
    format!("{:.2}", count as f64 / window.seconds)
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}", 100.0 * part as f64 / whole.max(1) as f64)
}

/// Kiali's names for rates: `httpIn`, `httpIn5xx`, `grpcErr`, ...; of connections, the bytes that went back each second.
fn rates(protocol: &str, flow: &Flow, way: &str, window: &Window) -> Map<String, Value> {
    let counts = match protocol {
        TCP => vec![("", flow.sum.carried.sent)],
        "grpc" => vec![("", flow.sum.requests), ("Err", flow.errors), ("NoResponse", flow.unanswered)],
        _ => vec![
            ("", flow.sum.requests),
            ("3xx", flow.of_class(3)),
            ("4xx", flow.of_class(4)),
            ("5xx", flow.of_class(5)),
            ("NoResponse", flow.unanswered),
        ],
    };
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    counts.map(|(name, count)| (format!("{protocol}{way}{name}"), json!(rate(count, window)))).collect()
}

/// How fast, and what failed: as numbers.
fn figures(flow: &Flow, window: &Window) -> Value {
    let sum = &flow.sum;
    let quantile = |share| sum.duration.quantile(share).map(|ms| (ms * 100.0).round() / 100.0);
    let of_tried = |count: u64| 100.0 * count as f64 / flow.tried().max(1) as f64;
    json!({
        "requests": sum.requests,
        "rate": sum.requests as f64 / window.seconds,
        "errorPercent": of_tried(flow.failed),
        "clientErrorPercent": of_tried(flow.of_class(4)),
        "p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99),
        "receivedPerSecond": sum.received / window.seconds,
        "sentPerSecond": sum.sent / window.seconds,
        "connections": sum.carried.opened,
        "closed": sum.carried.closed,
        "tcpReceivedPerSecond": sum.carried.received as f64 / window.seconds,
        "tcpSentPerSecond": sum.carried.sent as f64 / window.seconds,
    })
}

fn node(scene: &Scene, window: &Window, graph: &Graph, id: &Id, (incoming, outgoing): &(Flows, Flows)) -> Value {
    let (kind, namespace, name) = id;
    let mut data = Map::new();
    let mut put = |field: &str, value: Value| drop(data.insert(field.into(), value));
    put("id", json!(written(id)));
    put("cluster", json!(if namespace == UNKNOWN { UNKNOWN } else { "Kubernetes" }));
    put("namespace", json!(namespace));
    put("healthData", Value::Null);
    let (comes, goes) = (together(incoming), together(outgoing));
    match comes.weight() + goes.weight() {
        0 => put("isIdle", json!(true)),
        _ => put("traffic", json!(traffic(incoming, outgoing, window))),
    }
    if comes.weight() == 0 && goes.weight() > 0 {
        put("isRoot", json!(true));
    }
    let key = (namespace.clone(), name.clone());
    let mut own = Map::from_iter([("in".to_string(), figures(&comes, window)), ("out".into(), figures(&goes, window))]);
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

/// What comes and goes through a node, each protocol by itself.
fn traffic(incoming: &Flows, outgoing: &Flows, window: &Window) -> Vec<Value> {
    let protocols: BTreeSet<&Word> = incoming.keys().chain(outgoing.keys()).collect();
    let one = |protocol: &Word| {
        let rates_of = |flows: &Flows, way| flows.get(protocol).map(|flow| rates(protocol, flow, way, window));
        let both = [rates_of(incoming, "In"), rates_of(outgoing, "Out")];
        let both: Map<String, Value> = both.into_iter().flatten().flatten().collect();
        json!({ "protocol": protocol, "rates": both })
    };
    protocols.into_iter().map(one).collect()
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
        let way = if known.labels.get("istio").is_some_and(|kind| kind.starts_with("egress")) {
            "egressInfo"
        } else {
            "ingressInfo"
        };
        put("isGateway", json!({ way: { "hostnames": hosts } }));
    }
    own.insert("pods".into(), json!(known.pods.len()));
    own.insert("ready".into(), json!(ready));
}

/// One edge for each protocol, as with Kiali; or one on which nothing flows.
fn edges(scene: &Scene, window: &Window, graph: &Graph, ends: &(Id, Id), flows: &Flows) -> Vec<Value> {
    let busy: Vec<_> = flows.iter().filter(|(_, flow)| flow.weight() > 0).collect();
    if busy.is_empty() {
        return vec![edge(scene, window, graph, ends, ("http", &Flow::default()))];
    }
    busy.into_iter().map(|(protocol, flow)| edge(scene, window, graph, ends, (protocol, flow))).collect()
}

fn edge(
    scene: &Scene,
    window: &Window,
    graph: &Graph,
    (from, to): &(Id, Id),
    (protocol, flow): (&str, &Flow),
) -> Value {
    let mut rates = rates(protocol, flow, "", window);
    if flow.sum.requests > 0 {
        let share = percent(flow.sum.requests, graph.leaving(from, protocol));
        rates.insert(format!("{protocol}PercentReq"), json!(share));
        if flow.failed > 0 {
            rates.insert(format!("{protocol}PercentErr"), json!(percent(flow.failed, flow.sum.requests)));
        }
    }
    let id = format!("{}~{}", written(from), written(to));
    let mut data = Map::new();
    // The usual one keeps its name whether or not something flows.
    data.insert("id".into(), if protocol == "http" { json!(id) } else { json!(format!("{id}~{protocol}")) });
    data.insert("source".into(), json!(written(from)));
    data.insert("target".into(), json!(written(to)));
    data.insert("traffic".into(), json!({ "protocol": protocol, "rates": rates, "responses": responses(flow) }));
    if flow.encrypted > 0 {
        let share = percent(flow.encrypted.min(flow.weight()), flow.weight());
        data.insert("isMTLS".into(), json!(share.trim_end_matches(".0")));
    }
    if let Some(p95) = flow.sum.duration.quantile(0.95) {
        data.insert("responseTime".into(), json!(format!("{p95:.0}")));
        data.insert("throughput".into(), json!(format!("{:.0}", flow.sum.sent / window.seconds)));
    }
    let mut own = figures(flow, window);
    own["rules"] = json!(rules(scene, flow));
    data.insert("meshroute".into(), own);
    json!({ "data": data })
}

/// Kiali's shares of flags and hosts for each status, in percent of the edge's requests, or of what its connections carried.
fn responses(flow: &Flow) -> Value {
    let mut by_code: BTreeMap<String, [BTreeMap<&str, u64>; 2]> = BTreeMap::new();
    for ((code, flags, host), count) in &flow.responses {
        let [by_flags, by_host] = by_code.entry(code.clone()).or_default();
        *by_flags.entry(flags).or_default() += count;
        *by_host.entry(host).or_default() += count;
    }
    let shares = |counts: BTreeMap<&str, u64>| -> Map<String, Value> {
        counts.into_iter().map(|(key, count)| (key.to_string(), json!(percent(count, flow.weight())))).collect()
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
            "percent": 100.0 * *count as f64 / flow.weight().max(1) as f64,
            "rule": scene.rules.get(&*via.rule),
        })
    };
    flow.by_rule.iter().map(rule).collect()
}
