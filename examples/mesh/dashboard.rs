//! What discovery's page shows to people and programs: the graph, what stands behind each of its nodes, and where
//! Prometheus finds the proxies.
//!
//! Knows paths and forms. Everything that it shows was counted by a proxy or stands in a resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use meshroute::ResourceRef;
use serde_json::{Value, json};

use crate::admin::{EXPOSITION, TEXT, dump, json_page, page};
use crate::discovery::{Shared, once};
use crate::explain::decoded;
use crate::graph;
use crate::history;
use crate::node::loopback;
use crate::scene::Scene;
use crate::wire::Part;
use crate::world::World;

/// The one page. It needs nothing from elsewhere, and says so to the browser.
const PAGE: &str = include_str!("dashboard.html");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether somebody looks at the page with a browser.
pub fn is_browser(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

/// The page for browsers.
pub fn html() -> Response<Full<Bytes>> {
    let mut response = page(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Answers for all paths of its own; `None`: it is none of them.
pub fn answer(path: &str, query: &str, shared: &Shared) -> Option<Response<Full<Bytes>>> {
    Some(match path {
        "/metrics" | "/stats/prometheus" => page(StatusCode::OK, EXPOSITION, metrics(shared)),
        "/healthz/ready" => ready(shared),
        "/api/namespaces/graph" | "/api/graph" => match length(query) {
            Ok(length) => json_page(&drawn(shared, length)),
            Err(error) => page(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
        },
        "/api/node" => found(node(&shared.scene(), shared, &value(query, "id"))),
        "/api/targets" => json_page(&targets(shared)),
        "/api/resources" => page(StatusCode::OK, "application/yaml", shared.world().in_force()),
        "/config_dump" => found(config_dump(&shared.world(), &value(query, "from"))),
        _ => return None,
    })
}

fn found(value: Option<Value>) -> Response<Full<Bytes>> {
    match value {
        Some(value) => json_page(&value),
        None => page(StatusCode::NOT_FOUND, TEXT, "there is none of this name\n"),
    }
}

fn value(query: &str, key: &str) -> String {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| decoded(value)).unwrap_or_default()
}

fn metrics(shared: &Shared) -> String {
    let world = shared.world();
    shared.pilot().exposition(&world)
}

fn ready(shared: &Shared) -> Response<Full<Bytes>> {
    let world = shared.world();
    match world.readings > 0 && world.is_warm() {
        true => page(StatusCode::OK, TEXT, "ready\n"),
        false => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready yet\n"),
    }
}

/// Kiali's `duration`: seconds, or `60s`, `5m`. A minute, where nothing is said.
fn length(query: &str) -> Result<Duration, String> {
    let said = value(query, "duration");
    let (number, unit) = match said.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (said.strip_suffix('s').unwrap_or(&said), 1),
    };
    let seconds =
        if said.is_empty() { Ok(60) } else { number.parse::<u64>().map(|number| number.saturating_mul(unit)) };
    let seconds = seconds.map_err(|_| format!("`duration={said}` is no time; write `60s` or `5m`"))?;
    Ok(Duration::from_secs(seconds).clamp(history::PERIOD, history::LONGEST))
}

fn drawn(shared: &Shared, length: Duration) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Added up once nobody waits for the history.
    let recent = shared.history().recent(length, Instant::now());
    graph::graph(&shared.scene(), &recent.window(), now)
}

/// What stands behind a node: the resources as they were written, the rules, what was found, and the pods. Behind an edge, it is
/// the service at one of its ends; the rules by which something went there stand in the graph.
fn node(scene: &Scene, shared: &Shared, id: &str) -> Option<Value> {
    if let Some((from, to)) = id.split_once('~') {
        let ends = [from, to.split('~').next()?];
        let service = ends.into_iter().find(|end| end.starts_with("service/"))?;
        return node(scene, shared, service);
    }
    let mut parts = id.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let key = (namespace.to_string(), name.to_string());
    let world = shared.world();
    if kind == "service" {
        let known = scene.services.get(&key)?;
        let rules: Vec<_> = known.rules.iter().filter_map(|rule| scene.rules.get(rule)).collect();
        return Some(json!({
            "resources": written(&world, &known.resources),
            "findings": once(scene.findings_of(&known.resources).cloned()),
            "rules": rules,
        }));
    }
    let known = scene.workloads.get(&key)?;
    let resources = BTreeSet::from([ResourceRef::new("Deployment", namespace, name).to_string()]);
    let pods: Vec<Value> = known.pods.iter().map(|(pod, ready)| pod_line(&world, namespace, pod, *ready)).collect();
    Some(json!({
        "resources": written(&world, &resources),
        "findings": once(scene.findings_of(&resources).cloned()),
        "rules": [],
        "pods": pods,
    }))
}

fn pod_line(world: &World, namespace: &str, name: &str, ready: bool) -> Value {
    let mut subscribers = world.subscribers.values();
    let proxy = subscribers.find(|one| match &one.part {
        Part::Sidecar { namespace: of, pod, .. } => of == namespace && pod == name,
        Part::Gateway { namespace: of, pod: None, .. } => of == namespace && name == "gateway",
        Part::Gateway { namespace: of, pod: Some((pod, _)), .. } => of == namespace && pod == name,
        _ => false,
    });
    json!({
        "name": name,
        "ready": ready,
        "pid": proxy.map(|proxy| proxy.pid),
        "page": proxy.map(|proxy| loopback(proxy.admin).to_string()),
        "inForce": proxy.map(|proxy| proxy.acked),
        "refused": proxy.and_then(|proxy| proxy.nack()),
    })
}

/// Resources as they were written, each with file and line.
fn written(world: &World, resources: &BTreeSet<String>) -> Vec<Value> {
    let one = |(reference, yaml, place): (String, String, Option<String>)| json!({ "resource": reference, "place": place, "yaml": yaml });
    world.written(resources).into_iter().map(one).collect()
}

/// The proxies for Prometheus' HTTP service discovery, and discovery itself.
fn targets(shared: &Shared) -> Vec<Value> {
    let world = shared.world();
    let target = |port: u16, labels: BTreeMap<&str, String>| {
        let path = ("__metrics_path__", "/stats/prometheus".to_string());
        let labels: BTreeMap<_, _> = labels.into_iter().chain([path]).collect();
        json!({ "targets": [loopback(port).to_string()], "labels": labels })
    };
    let proxies = world.subscribers.values().filter_map(|subscriber| match &subscriber.part {
        Part::Sidecar { namespace, pod, .. } => {
            let labels = [("part", "sidecar".into()), ("namespace", namespace.clone()), ("pod", pod.clone())];
            Some(target(subscriber.admin, labels.into()))
        }
        Part::Gateway { namespace, .. } => {
            Some(target(subscriber.admin, [("part", "gateway".into()), ("namespace", namespace.clone())].into()))
        }
        _ => None,
    });
    proxies.chain([target(shared.page.port(), [("part", "discovery".to_string())].into())]).collect()
}

/// The plan of a sidecar or gateway as it would be now.
fn config_dump(world: &World, from: &str) -> Option<Value> {
    let plan = world.plan(world.named(from)?)?;
    let places = world.places(&plan);
    Some(dump(&plan, &places))
}

/// The scene for the newest version, looked at once for each.
pub fn scene(shared: &Shared, kept: &mut Arc<Scene>) {
    let world = shared.world();
    if kept.version != world.version {
        let resolved = world.subscribers.values().flat_map(|subscriber| &subscriber.findings);
        let findings = once(world.findings.iter().chain(resolved).cloned());
        *kept = Arc::new(Scene::of(&world, &findings));
    }
}
