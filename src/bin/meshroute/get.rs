//! `meshroute get`: what is loaded, as `kubectl get` would print it.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use meshroute::kubernetes::{is_ready, pod_ip, pods};
use meshroute::model::{Object, Pod, Service, Timestamp};
use meshroute::{ResourceRef, Resources, yaml};
use serde_json::{Value, json};

use super::input::{self, Input};
use super::print;
use super::running::Running;

/// What is to be listed.
#[derive(clap::Args)]
#[command(after_help = "\
KIND is any name that kubectl knows: vs, virtualservice, virtualservices,
virtualservice.networking.istio.io, and so on for dr, gw, se, we, sidecar, svc, po,
deploy, ns, ep, endpointslice; several with commas; `all`; or KIND/NAME.
Pods include those that Deployments make.

Examples:
  meshroute get vs,dr -A -f config/
  meshroute get po -o wide -f config/
  meshroute get svc nginx -n shop -o yaml -f config/
  meshroute get po -A --mesh 127.0.0.1:20001

Exit status: 0 found, 1 no resource of this NAME, 2 unknown kind, or something could not be read")]
pub struct Args {
    /// Kinds, with commas between them
    #[arg(value_name = "KIND[,KIND..]")]
    kinds: String,
    /// Only the one of this name
    name: Option<String>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    running: Running,
    /// The namespace to look in
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Looks in all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// More columns, or the whole resources
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// `json` is the same as `-o json`
    #[arg(long, value_enum, default_value = "text")]
    format: print::Format,
}

/// How resources are printed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Wide,
    Yaml,
    Json,
    Name,
}

/// A kind and the names that it goes by.
struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    group: &'static str,
    namespaced: bool,
}

const fn kind(kind: &'static str, plural: &'static str, short: &'static str, group: &'static str) -> Kind {
    Kind { kind, plural, short, group, namespaced: true }
}

const ISTIO: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";

/// In the order in which several kinds are printed.
const KINDS: [Kind; 15] = [
    kind("VirtualService", "virtualservices", "vs", ISTIO),
    kind("DestinationRule", "destinationrules", "dr", ISTIO),
    kind("Gateway", "gateways", "gw", ISTIO),
    kind("ServiceEntry", "serviceentries", "se", ISTIO),
    kind("Sidecar", "sidecars", "", ISTIO),
    kind("WorkloadEntry", "workloadentries", "we", ISTIO),
    kind("EnvoyFilter", "envoyfilters", "", ISTIO),
    kind("PeerAuthentication", "peerauthentications", "pa", SECURITY),
    kind("AuthorizationPolicy", "authorizationpolicies", "ap", SECURITY),
    kind("Service", "services", "svc", ""),
    kind("Pod", "pods", "po", ""),
    kind("Deployment", "deployments", "deploy", "apps"),
    kind("Endpoints", "endpoints", "ep", ""),
    kind("EndpointSlice", "endpointslices", "", "discovery.k8s.io"),
    Kind { namespaced: false, ..kind("Namespace", "namespaces", "ns", "") },
];

/// Prints what is loaded.
pub fn run(args: &Args) -> ExitCode {
    let (written, name) = match args.kinds.split_once('/') {
        Some((kind, name)) => (kind, Some(name)),
        None => (args.kinds.as_str(), args.name.as_deref()),
    };
    let kinds = match find_kinds(written) {
        Ok(kinds) => kinds,
        Err(why) => return fail(2, &why),
    };
    let world = match input::read_all(&args.input.paths(&[]), &args.running) {
        Ok(world) => world,
        Err(why) => return fail(2, &why),
    };
    for finding in world.findings.iter().filter(|finding| input::is_worth_telling(finding)) {
        eprintln!("{finding}");
    }
    let everything = everything(&world.resources);
    let wanted = |object: &&Object, kind: &Kind| {
        let metadata = object.metadata();
        object.kind() == kind.kind
            && (args.all_namespaces || !kind.namespaced || metadata.namespace == args.namespace)
            && name.is_none_or(|name| metadata.name == name)
    };
    let found: Vec<(&Kind, Vec<&Object>)> =
        kinds.iter().map(|kind| (*kind, everything.iter().filter(|object| wanted(object, kind)).collect())).collect();
    let nothing = found.iter().all(|(_, objects)| objects.is_empty());
    match (nothing, name) {
        (true, Some(name)) => return fail(1, &format!("there is no {written} `{name}`{}", place(args))),
        (true, None) => eprintln!("No resources found{}.", place(args)),
        _ => {}
    }
    print::out(&text(args, &found, name.is_some()));
    ExitCode::from(if world.findings.iter().any(input::is_unreadable) { 2 } else { 0 })
}

fn fail(status: u8, why: &str) -> ExitCode {
    print::complain(why);
    ExitCode::from(status)
}

fn place(args: &Args) -> String {
    if args.all_namespaces { String::new() } else { format!(" in namespace {}; -A looks in all", args.namespace) }
}

/// The kinds that a list of names stands for.
fn find_kinds(written: &str) -> Result<Vec<&'static Kind>, String> {
    let mut found: Vec<&Kind> = Vec::new();
    for name in written.split(',').filter(|name| !name.is_empty()) {
        let named: Vec<&Kind> = KINDS.iter().filter(|kind| goes_by(kind, &name.to_ascii_lowercase())).collect();
        if named.is_empty() {
            return Err(unknown(name));
        }
        for kind in named {
            if !found.iter().any(|known| known.kind == kind.kind) {
                found.push(kind);
            }
        }
    }
    if found.is_empty() { Err(unknown(written)) } else { Ok(found) }
}

/// Whether a kind goes by a name: its own, its plural, its short one, each also with group and version.
fn goes_by(kind: &Kind, name: &str) -> bool {
    if name == "all" || (name == "istio-io" && kind.group == ISTIO) {
        return true;
    }
    let (word, rest) = name.split_once('.').unwrap_or((name, ""));
    let in_group = rest.is_empty()
        || rest == kind.group
        || rest.split_once('.').is_some_and(|(version, group)| version.starts_with('v') && group == kind.group)
        || (kind.group.is_empty() && rest == "v1");
    in_group && !word.is_empty() && [kind.kind.to_ascii_lowercase().as_str(), kind.plural, kind.short].contains(&word)
}

fn unknown(name: &str) -> String {
    let known: Vec<String> = KINDS
        .iter()
        .map(|kind| match kind.short {
            "" => kind.plural.to_string(),
            short => format!("{} ({short})", kind.plural),
        })
        .collect();
    format!("`{name}` is no kind that is known here; known are {}, all", known.join(", "))
}

/// All resources, and the pods that Deployments make.
fn everything(resources: &Resources) -> Vec<Object> {
    let mut all: Vec<Object> = resources.iter().map(|resource| resource.object.clone()).collect();
    let made = pods(resources).into_iter().filter(|pod| {
        let reference = ResourceRef::new("Pod", &pod.metadata.namespace, &pod.metadata.name);
        resources.find(&reference).is_none()
    });
    all.extend(made.map(Object::from));
    all.sort_by(|a, b| {
        let key = |object: &Object| (object.metadata().namespace.clone(), object.metadata().name.clone());
        key(a).cmp(&key(b))
    });
    all
}

fn text(args: &Args, found: &[(&Kind, Vec<&Object>)], one: bool) -> String {
    let objects = || found.iter().flat_map(|(_, objects)| objects.iter().copied());
    let output = args.output.or((args.format == print::Format::Json).then_some(Output::Json));
    match output {
        Some(Output::Json) => json_text(objects(), one),
        Some(Output::Yaml) => {
            let documents = objects().map(|object| yaml::write(object).unwrap_or_else(|error| format!("# {error}\n")));
            documents.collect::<Vec<_>>().join("---\n")
        }
        Some(Output::Name) => {
            let shown =
                found.iter().flat_map(|(kind, objects)| objects.iter().map(move |object| full_name(kind, object)));
            shown.map(|name| name + "\n").collect()
        }
        wide => tables(args, found, wide.is_some()),
    }
}

fn json_text<'o>(objects: impl Iterator<Item = &'o Object>, one: bool) -> String {
    let mut items: Vec<Value> = objects.filter_map(|object| serde_json::to_value(object).ok()).collect();
    let value = match items.len() {
        1 if one => items.remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": items}),
    };
    format!("{value:#}\n")
}

/// As `kubectl` names it where several kinds are printed: `virtualservice.networking.istio.io/nginx`.
fn full_name(kind: &Kind, object: &Object) -> String {
    let word = kind.kind.to_ascii_lowercase();
    let dot = if kind.group.is_empty() { "" } else { "." };
    format!("{word}{dot}{}/{}", kind.group, object.metadata().name)
}

fn tables(args: &Args, found: &[(&Kind, Vec<&Object>)], wide: bool) -> String {
    let shown: Vec<_> = found.iter().filter(|(_, objects)| !objects.is_empty()).collect();
    let mut parts = Vec::new();
    for (kind, objects) in &shown {
        let mut head: Vec<&str> = if args.all_namespaces { vec!["NAMESPACE", "NAME"] } else { vec!["NAME"] };
        head.extend(columns(kind.kind, wide));
        let row = |object: &&Object| -> Vec<String> {
            let metadata = object.metadata();
            let name = if shown.len() > 1 { full_name(kind, object) } else { metadata.name.clone() };
            let mut row = if args.all_namespaces { vec![metadata.namespace.clone(), name] } else { vec![name] };
            row.extend(cells(object, wide));
            row
        };
        parts.push(print::table(&head, &objects.iter().map(row).collect::<Vec<_>>()));
    }
    parts.join("\n")
}

fn columns(kind: &str, wide: bool) -> Vec<&'static str> {
    let (columns, more): (&[&str], &[&str]) = match kind {
        "VirtualService" => (&["GATEWAYS", "HOSTS", "AGE"], &["EXPORT-TO", "RULES"]),
        "DestinationRule" => (&["HOST", "AGE"], &["SUBSETS", "EXPORT-TO"]),
        "Gateway" => (&["AGE"], &["SELECTOR", "SERVERS"]),
        "ServiceEntry" => (&["HOSTS", "LOCATION", "RESOLUTION", "AGE"], &["PORT(S)", "ADDRESSES"]),
        "Sidecar" => (&["AGE"], &["SELECTOR", "EGRESS"]),
        "WorkloadEntry" => (&["AGE", "ADDRESS"], &["LABELS"]),
        "Service" => (&["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"], &["SELECTOR"]),
        "Pod" => (&["READY", "STATUS", "IP", "AGE"], &["NODE", "LABELS"]),
        "Deployment" => (&["READY", "UP-TO-DATE", "AVAILABLE", "AGE"], &["CONTAINERS", "IMAGES", "SELECTOR"]),
        "Endpoints" => (&["ENDPOINTS", "AGE"], &[]),
        "EndpointSlice" => (&["ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"], &[]),
        _ => (&["STATUS", "AGE"], &[]),
    };
    columns.iter().chain(more.iter().filter(|_| wide)).copied().collect()
}

/// The cells behind the name. Addresses that no cluster has given yet are made up, as in `route`.
fn cells(object: &Object, wide: bool) -> Vec<String> {
    let age = age(object.metadata().creation_timestamp);
    let (cells, more) = match object {
        Object::VirtualService(service) => {
            let spec = &service.spec;
            let rules = spec.http.len() + spec.tls.len() + spec.tcp.len();
            (vec![list(&spec.gateways), list(&spec.hosts), age], vec![list(&spec.export_to), rules.to_string()])
        }
        Object::DestinationRule(rule) => {
            let subsets: Vec<_> = rule.spec.subsets.iter().flatten().map(|subset| subset.name.clone()).collect();
            (vec![rule.spec.host.clone(), age], vec![joined(&subsets), list(&rule.spec.export_to)])
        }
        Object::Gateway(gateway) => {
            let server = |server: &meshroute::model::gateway::Server| {
                let port = server.port.as_ref().map(|port| format!("{}/{}", port.number, port.protocol));
                format!("{} {}", port.unwrap_or_default(), server.hosts.join(","))
            };
            let servers: Vec<String> = gateway.spec.servers.iter().map(server).collect();
            (vec![age], vec![labels(&gateway.spec.selector), servers.join("; ")])
        }
        Object::ServiceEntry(entry) => {
            let spec = &entry.spec;
            let ports: Vec<String> =
                spec.ports.iter().map(|port| format!("{}/{}", port.number, port.protocol)).collect();
            (
                vec![list(&spec.hosts), word(spec.location), word(spec.resolution), age],
                vec![joined(&ports), joined(&spec.addresses)],
            )
        }
        Object::Sidecar(sidecar) => {
            let selector = sidecar.spec.workload_selector.as_ref().map(|selector| labels(&selector.labels));
            let hosts: Vec<String> = sidecar.spec.egress.iter().flat_map(|egress| egress.hosts.clone()).collect();
            (vec![age], vec![selector.unwrap_or_else(none), joined(&hosts)])
        }
        Object::WorkloadEntry(entry) => (vec![age, entry.spec.address.clone()], vec![labels(&entry.spec.labels)]),
        Object::Service(service) => (service_cells(service, age), vec![labels(&service.spec.selector)]),
        Object::Pod(pod) => pod_cells(pod, age),
        Object::Deployment(deployment) => {
            let number = deployment.spec.replicas.unwrap_or(1).to_string();
            let containers = &deployment.spec.template.spec.containers;
            let names: Vec<_> = containers.iter().map(|container| container.name.clone()).collect();
            let images: Vec<_> = containers.iter().map(|container| container.image.clone()).collect();
            let selector = deployment.spec.selector.as_ref().map(|selector| labels(&selector.match_labels));
            (
                vec![format!("{number}/{number}"), number.clone(), number, age],
                vec![joined(&names), joined(&images), selector.unwrap_or_else(none)],
            )
        }
        Object::Endpoints(endpoints) => {
            let of = |subset: &meshroute::model::endpoints::EndpointSubset| -> Vec<String> {
                let address =
                    |ip: &str| subset.ports.iter().map(|port| format!("{ip}:{}", port.port)).collect::<Vec<_>>();
                subset.addresses.iter().flat_map(|at| address(&at.ip)).collect()
            };
            (vec![joined(&endpoints.subsets.iter().flat_map(of).collect::<Vec<_>>()), age], Vec::new())
        }
        Object::EndpointSlice(slice) => {
            let ports: Vec<String> = slice.ports.iter().filter_map(|port| Some(port.port?.to_string())).collect();
            let addresses: Vec<String> =
                slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect();
            (vec![slice.address_type.clone(), joined(&ports), joined(&addresses), age], Vec::new())
        }
        _ => (vec!["Active".into(), age], Vec::new()),
    };
    cells.into_iter().chain(more.into_iter().filter(|_| wide)).collect()
}

/// A word of Istio's as it is written: `MESH_EXTERNAL`.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}

fn service_cells(service: &Service, age: String) -> Vec<String> {
    let spec = &service.spec;
    let kind = if spec.r#type.is_empty() { "ClusterIP" } else { &spec.r#type };
    let cluster_ip = if spec.cluster_ip.is_empty() { none() } else { spec.cluster_ip.clone() };
    let external = if spec.external_name.is_empty() { joined(&spec.external_ips) } else { spec.external_name.clone() };
    let port = |port: &meshroute::model::service::ServicePort| {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        match port.node_port {
            0 => format!("{}/{protocol}", port.port),
            node => format!("{}:{node}/{protocol}", port.port),
        }
    };
    vec![kind.into(), cluster_ip, external, joined(&spec.ports.iter().map(port).collect::<Vec<_>>()), age]
}

fn pod_cells(pod: &Pod, age: String) -> (Vec<String>, Vec<String>) {
    let containers = pod.spec.containers.len().max(1);
    let ready = if is_ready(pod) { containers } else { 0 };
    let phase = pod.status.as_ref().map(|status| status.phase.as_str()).filter(|phase| !phase.is_empty());
    let status = match phase {
        _ if pod.metadata.deletion_timestamp.is_some() => "Terminating",
        Some(phase) => phase,
        None if is_ready(pod) => "Running",
        None => "Pending",
    };
    let node = if pod.spec.node_name.is_empty() { none() } else { pod.spec.node_name.clone() };
    (
        vec![format!("{ready}/{containers}"), status.into(), pod_ip(pod).map_or_else(none, Into::into), age],
        vec![node, labels(&pod.metadata.labels)],
    )
}

fn none() -> String {
    "<none>".into()
}

/// As Istio's columns show a list: `["a","b"]`; nothing for an empty one.
fn list(items: &[String]) -> String {
    if items.is_empty() { String::new() } else { json!(items).to_string() }
}

fn joined(items: &[String]) -> String {
    if items.is_empty() { none() } else { items.join(",") }
}

fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    joined(&labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>())
}

/// How long ago that was, in the two largest units at most, as `kubectl` has it.
fn age(created: Option<Timestamp>) -> String {
    let Some(created) = created else { return "<unknown>".into() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let seconds = now.saturating_sub(u64::try_from(created.unix_seconds()).unwrap_or(0));
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        172_800..63_072_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y{}d", seconds / 31_536_000, seconds % 31_536_000 / 86_400),
    }
}
