//! `meshroute eval`: one case per line in, one outcome per line out.
//!
//! Translates JSON to questions and decisions to JSON; decides nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::IpAddr;
use std::process::ExitCode;

use meshroute::plan::{Action, Cluster, Destination};
use meshroute::{
    Connection, Decision, Forwarded, Mesh, OutboundPolicy, Outcome, Plan, Precedence, Reader, Reading, Request,
    ResourceRef, Resources, Roll, Router, Severity, TlsHello, Viewpoint, has_one_value, host_of,
};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    client: Client,
    #[serde(default, deserialize_with = "or_default")]
    mesh: MeshSettings,
    #[serde(default = "istio")]
    precedence: Precedence,
    resources: String,
    #[serde(default, deserialize_with = "or_default")]
    requests: Vec<Ask>,
}

/// `null` is nothing said.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn istio() -> Precedence {
    Precedence::Istio
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Client {
    kind: String,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    dns_domain: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshSettings {
    outbound_traffic_policy: Option<OutboundPolicy>,
    domain_suffix: Option<String>,
    root_namespace: Option<String>,
    default_virtual_service_export_to: Option<Vec<String>>,
    default_destination_rule_export_to: Option<Vec<String>>,
    default_service_export_to: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ask {
    protocol: Option<String>,
    port: u16,
    address: Option<IpAddr>,
    sni: Option<String>,
    tls: bool,
    method: Option<String>,
    scheme: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    headers: Vec<(String, String)>,
}

/// Answers standard input on standard output.
pub fn run() -> ExitCode {
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let answered =
            line.and_then(|line| if line.trim().is_empty() { Ok(()) } else { writeln!(output, "{}", answer(&line)) });
        if let Err(error) = answered {
            eprintln!("meshroute: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn answer(line: &str) -> Value {
    let case: Case = match serde_json::from_str(line) {
        Ok(case) => case,
        Err(error) => return json!({"id": id_of(line), "invalid": format!("the case cannot be read: {error}")}),
    };
    match results(&case) {
        Ok(results) => json!({"id": case.id, "results": results}),
        Err(why) => json!({"id": case.id, "invalid": why}),
    }
}

fn id_of(line: &str) -> Value {
    serde_json::from_str::<Value>(line).ok().and_then(|case| case.get("id").cloned()).unwrap_or(Value::Null)
}

/// Stands between the name of a resource and a number, where a case has several of one name, which no cluster could
/// hold. Each of them counts.
const TWIN: char = '\u{1}';

fn results(case: &Case) -> Result<Vec<Value>, String> {
    let mut resources = Resources::new();
    for (at, object) in admitted(&case.resources)?.objects().enumerate() {
        let mut object = object.clone();
        let reference = ResourceRef::new(object.kind(), &object.metadata().namespace, &object.metadata().name);
        if resources.find(&reference).is_some() {
            object.metadata_mut().name.push_str(&format!("{TWIN}{at}"));
        }
        resources.apply(object);
    }
    let resolution = Plan::resolve(&resources, &viewpoint(&case.client), &mesh(case));
    let router = Router::compile(resolution.plan).map_err(|error| error.to_string())?;
    Ok(case.requests.iter().map(|ask| result(&router, ask)).collect())
}

/// The resources as a cluster's admission lets them in: read strictly, but for unknown fields, which are dropped.
fn admitted(text: &str) -> Result<Reader, String> {
    let read = |reading| {
        let mut reader = Reader::new(reading);
        reader.text(text, "-");
        reader
    };
    let strict = read(Reading::Strict);
    let errors = || strict.findings().iter().filter(|finding| finding.severity == Severity::Error);
    match errors().find(|finding| finding.code != "unknown-field") {
        Some(error) => Err(error.to_string()),
        None if errors().next().is_none() => Ok(strict),
        None => Ok(read(Reading::Lenient)),
    }
}

fn viewpoint(client: &Client) -> Viewpoint {
    let namespace = client.namespace.as_deref().unwrap_or("default");
    let viewpoint =
        if client.kind == "gateway" { Viewpoint::gateway(namespace) } else { Viewpoint::sidecar(namespace) };
    let mut viewpoint = viewpoint.labels(client.labels.clone());
    viewpoint.dns_domain.clone_from(&client.dns_domain);
    viewpoint
}

fn mesh(case: &Case) -> Mesh {
    let mut mesh = Mesh::with_precedence(case.precedence);
    let settings = &case.mesh;
    mesh.outbound = settings.outbound_traffic_policy.unwrap_or_default();
    let set = |field: &mut String, value: &Option<String>| value.iter().for_each(|value| field.clone_from(value));
    set(&mut mesh.domain, &settings.domain_suffix);
    set(&mut mesh.root_namespace, &settings.root_namespace);
    let set =
        |field: &mut Vec<String>, value: &Option<Vec<String>>| value.iter().for_each(|value| field.clone_from(value));
    set(&mut mesh.default_virtual_service_export_to, &settings.default_virtual_service_export_to);
    set(&mut mesh.default_destination_rule_export_to, &settings.default_destination_rule_export_to);
    set(&mut mesh.default_service_export_to, &settings.default_service_export_to);
    mesh
}

fn result(router: &Router, ask: &Ask) -> Value {
    match ask.protocol.as_deref() {
        Some("tcp") => connection(router, ask, None),
        Some("tls") => connection(router, ask, Some(TlsHello { sni: ask.sni.as_deref() })),
        _ => http(router, ask),
    }
}

fn connection(router: &Router, ask: &Ask, tls: Option<TlsHello<'_>>) -> Value {
    let mut connection = Connection::new(ask.port).address(ask.address);
    connection.tls = tls;
    opaque(router, &router.connect(&connection, &Roll::pinned(0)))
}

fn http(router: &Router, ask: &Ask) -> Value {
    let authority = ask.authority.as_deref().unwrap_or_default();
    let path = ask.path.as_deref().unwrap_or("/");
    let headers: Vec<(&str, &str)> =
        ask.headers.iter().map(|(name, value)| (name.as_str(), value.trim_matches([' ', '\t']))).collect();
    let mut request = Request::new(ask.method.as_deref().unwrap_or("GET"), authority, path)
        .scheme(ask.scheme.as_deref().filter(|scheme| *scheme != "http").unwrap_or_default())
        .headers(&headers)
        .address(ask.address)
        .port(ask.port);
    if ask.tls {
        request = request.tls(TlsHello { sni: ask.sni.as_deref().or(Some(host_of(authority))) });
    }
    let decision = router.decide(&request, &Roll::pinned(0));
    if matches!(decision.outcome, Outcome::Connect(_)) {
        return opaque(router, &decision);
    }
    let mut result = match weighted(&decision) {
        Some(destinations) => weighted_result(router, &request, &headers, destinations),
        None => single(&decision, &request, &headers, true),
    };
    if let Some(route) = route_of(&decision) {
        result["route"] = route;
    }
    result
}

/// The destinations, where there are several with a weight above zero.
fn weighted<'a>(decision: &Decision<'a>) -> Option<&'a [Destination]> {
    match &decision.route?.action {
        Action::Forward(forward) if forward.destinations.len() > 1 => Some(&forward.destinations),
        _ => None,
    }
}

fn weighted_result(
    router: &Router,
    request: &Request<'_>,
    headers: &[(&str, &str)],
    destinations: &[Destination],
) -> Value {
    let mut picks = Vec::new();
    let mut start = 0;
    for destination in destinations {
        // The first roll of its interval picks it.
        picks.push(single(&router.decide(request, &Roll::pinned(start)), request, headers, false));
        start += u64::from(destination.weight);
    }
    json!({"kind": "weighted", "clusters": clusters(router, destinations), "by_pick": picks})
}

fn clusters(router: &Router, destinations: &[Destination]) -> Vec<Value> {
    let entry = |destination: &Destination| {
        let mut entry = named(&router.plan().clusters[destination.cluster as usize], true);
        entry["weight"] = json!(destination.weight);
        entry
    };
    destinations.iter().map(entry).collect()
}

/// Host, subset, port and state of a cluster, and its endpoints if there are any.
fn named(cluster: &Cluster, endpoints: bool) -> Value {
    let mut entry =
        json!({"host": cluster.host, "subset": cluster.subset, "port": cluster.port, "state": state(cluster)});
    if endpoints && state(cluster) == "up" {
        entry["endpoints"] = addresses(cluster);
    }
    entry
}

fn state(cluster: &Cluster) -> &'static str {
    match (cluster.exists, cluster.takes_traffic()) {
        (false, _) => "missing",
        (true, false) => "empty",
        (true, true) => "up",
    }
}

fn addresses(cluster: &Cluster) -> Value {
    cluster.endpoints.iter().map(|endpoint| endpoint.to_string()).collect()
}

fn single(decision: &Decision<'_>, request: &Request<'_>, sent: &[(&str, &str)], endpoints: bool) -> Value {
    let mut result = match &decision.outcome {
        Outcome::Forward(to) => forwarded(decision, to, request, sent, endpoints),
        Outcome::Redirect(code) => json!({"kind": "redirect", "code": code, "location": decision.location(request)}),
        Outcome::Direct(answer) => {
            let silent = request.method == "HEAD" || answer.status == 204;
            let body = if silent { Default::default() } else { String::from_utf8_lossy(&answer.body) };
            json!({"kind": "direct", "code": answer.status, "body": body})
        }
        Outcome::Preflight(_) => json!({"kind": "direct", "code": 200, "body": ""}),
        Outcome::Passthrough => json!({"kind": "passthrough"}),
        Outcome::Blackhole => json!({"kind": "blackhole"}),
        Outcome::Refuse(refusal) => {
            let mut result = json!({"kind": "status", "code": refusal.status, "detail": refusal.detail});
            if let Some(cluster) = refusal.cluster {
                result["cluster"] = named(cluster, false);
            }
            result
        }
        _ => json!({"kind": "reset"}),
    };
    if let Some(headers) = response_headers(decision, request) {
        result["response_headers"] = headers;
    }
    result
}

fn forwarded(
    decision: &Decision<'_>,
    to: &Forwarded<'_>,
    request: &Request<'_>,
    sent: &[(&str, &str)],
    endpoints: bool,
) -> Value {
    let mut headers = received(sent);
    decision.edit_request(&mut headers);
    let cluster = to.cluster;
    let mut result = json!({"kind": "cluster", "host": cluster.host, "subset": cluster.subset, "port": cluster.port});
    if endpoints {
        result["endpoints"] = addresses(cluster);
    }
    result["upstream"] = json!({
        "method": request.method,
        "path": String::from_utf8_lossy(&decision.path()),
        "authority": decision.authority().unwrap_or(request.authority),
        "headers": headers,
    });
    result
}

/// The headers as Envoy's codec holds them: names in lower case, lines of a header that has one value joined.
fn received(sent: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in sent {
        let name = name.to_ascii_lowercase();
        match headers.iter_mut().find(|(known, _)| *known == name && has_one_value(known)) {
            Some((_, joined)) if value.is_empty() || joined.is_empty() => joined.push_str(value),
            Some((_, joined)) => *joined = format!("{joined},{value}"),
            None => headers.push((name, value.to_string())),
        }
    }
    headers
}

/// What becomes of the headers of the answer that every destination is taken to give; absent where nothing does.
fn response_headers(decision: &Decision<'_>, request: &Request<'_>) -> Option<Value> {
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    let before = match &decision.outcome {
        Outcome::Forward(_) => vec![pair("x-up-a", "up-a"), pair("x-up-b", "up-b")],
        _ => Vec::new(),
    };
    let mut after = before.clone();
    decision.preflight(request, &mut after);
    decision.edit_response(&mut after);
    (after != before).then(|| json!(after))
}

fn route_of(decision: &Decision<'_>) -> Option<Value> {
    Some(match &decision.route?.origin {
        None => json!({"default": true}),
        Some(origin) => json!({
            "vs": format!("{}/{}", origin.resource.namespace, origin.resource.name.split(TWIN).next().unwrap_or_default()),
            "rule": origin.rule,
            "match": origin.block,
        }),
    })
}

/// The result for a connection that is not looked into.
fn opaque(router: &Router, decision: &Decision<'_>) -> Value {
    let Outcome::Connect(to) = &decision.outcome else {
        return match &decision.outcome {
            Outcome::Passthrough => json!({"kind": "passthrough"}),
            Outcome::Blackhole => json!({"kind": "blackhole"}),
            _ => json!({"kind": "reset"}),
        };
    };
    match to.siblings() {
        [_, _, ..] => json!({"kind": "weighted", "clusters": clusters(router, to.siblings())}),
        _ => {
            let mut result: Map<String, Value> = named(to.cluster, true).as_object().cloned().unwrap_or_default();
            result.insert("kind".into(), json!("cluster"));
            Value::Object(result)
        }
    }
}
