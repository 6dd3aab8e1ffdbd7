//! What does a change cost, what do many viewpoints cost, and what do they weigh? Prints Markdown.
//!
//! Every answer is checked before and after. Times are compared within one run; bytes are those that the allocator handed
//! out and did not get back. With `--test` everything is small and nothing is timed; with `--short` it is of middling size,
//! and a ratio that is missed by a clear margin is an error.
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use meshroute::model::{DestinationRule, Object, Pod, Service, VirtualService};
use meshroute::{Live, Mesh, Plan, Reader, Reading, Request, ResourceRef, Resources, Roll, Router, Viewpoint, Views};

/// Counts the bytes that are out.
struct Counting;

static OUT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OUT.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        OUT.fetch_add(size, Ordering::Relaxed);
        OUT.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        OUT.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How large everything is.
struct Size {
    /// Hosts in the two full builds that are compared.
    builds: [usize; 2],
    hosts: usize,
    clusters: usize,
    seen: usize,
    namespaces: usize,
    views: usize,
    repeats: usize,
}

const WHOLE: Size = Size {
    builds: [334, 33_334],
    hosts: 100_000,
    clusters: 10_000,
    seen: 10_000,
    namespaces: 100,
    views: 1_000,
    repeats: 51,
};
const SHORT: Size =
    Size { builds: [334, 6_667], hosts: 10_000, clusters: 2_000, seen: 2_000, namespaces: 20, views: 100, repeats: 21 };
const TEST: Size =
    Size { builds: [10, 100], hosts: 100, clusters: 100, seen: 100, namespaces: 5, views: 10, repeats: 1 };

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let says = |flag: &str| given.iter().any(|arg| arg == flag);
    let (size, short) = match (says("--bench") && !says("--test"), says("--short")) {
        (true, true) => (&SHORT, true),
        (true, false) => (&WHOLE, false),
        (false, _) => (&TEST, false),
    };
    let mut table = Table::default();
    full_builds(size, &mut table);
    one_rule(size, &mut table);
    one_rule_of_a_gateway(size, &mut table);
    one_endpoint(size, &mut table);
    other_kinds(size, &mut table);
    memory(size, &mut table);
    viewpoints(size, &mut table);
    reading(size, &mut table);
    if size.repeats == 1 {
        println!("changes: every answer is right");
        return;
    }
    println!("{}", table.text());
    assert!(!short || table.missed.is_empty(), "missed by a clear margin: {:?}", table.missed);
}

/// What was asked, what came out, and what was aimed at.
#[derive(Default)]
struct Table {
    rows: Vec<[String; 3]>,
    missed: Vec<String>,
}

impl Table {
    /// A figure that should be no more than `aim`; three times as much is a clear miss.
    fn at_most(&mut self, what: &str, figure: f64, aim: f64, unit: &str) {
        self.rows.push([what.into(), format!("{figure:.3}{unit}"), format!("at most {aim}{unit}")]);
        if figure > 3.0 * aim {
            self.missed.push(what.into());
        }
    }

    /// A figure that should be no less than `aim`; a hundredth of it in the short form is a clear miss, since the gain grows
    /// with the size.
    fn at_least(&mut self, what: &str, figure: f64, aim: f64, clear: f64) {
        self.rows.push([what.into(), format!("{figure:.1}"), format!("at least {aim}")]);
        if figure < clear {
            self.missed.push(what.into());
        }
    }

    fn note(&mut self, what: &str, figure: String) {
        self.rows.push([what.into(), figure, String::new()]);
    }

    fn text(&self) -> String {
        let mut text = String::from("| what | measured | aim |\n|---|---|---|\n");
        for [what, figure, aim] in &self.rows {
            writeln!(text, "| {what} | {figure} | {aim} |").expect("a string takes all that is written");
        }
        text
    }
}

/// A small mesh's resources, to be copied under other names.
struct Patterns {
    service: Service,
    pod: Pod,
    rules: VirtualService,
}

impl Patterns {
    fn new() -> Self {
        let mut reader = Reader::new(Reading::Strict);
        reader.text(PATTERNS, "-");
        assert!(!reader.failed(), "{:?}", reader.findings());
        let mut objects = reader.objects().cloned();
        let Some(Object::Service(service)) = objects.next() else { panic!("a Service comes first") };
        let Some(Object::Pod(pod)) = objects.next() else { panic!("then a Pod") };
        let Some(Object::VirtualService(rules)) = objects.next() else { panic!("then a VirtualService") };
        Patterns { service, pod, rules }
    }

    fn service(&self, at: usize, namespace: &str) -> Service {
        let mut service = self.service.clone();
        (service.metadata.name, service.metadata.namespace) = (format!("s{at}"), namespace.into());
        service.spec.selector.insert("app".into(), format!("s{at}"));
        service
    }

    /// A service with an address of its own.
    fn addressed(&self, at: usize, namespace: &str) -> Service {
        let mut service = self.service(at, namespace);
        let [_, high, middle, low] = (at as u32).to_be_bytes();
        service.spec.cluster_ip = format!("172.{high}.{middle}.{low}");
        service
    }

    fn pod(&self, at: usize, index: usize, namespace: &str) -> Pod {
        let mut pod = self.pod.clone();
        (pod.metadata.name, pod.metadata.namespace) = (format!("s{at}-{index}"), namespace.into());
        pod.metadata.labels.insert("app".into(), format!("s{at}"));
        let [_, high, middle, low] = (at as u32).to_be_bytes();
        if let Some(status) = &mut pod.status {
            status.pod_ip = format!("{}.{high}.{middle}.{low}", 10 + index);
        }
        pod
    }

    /// Three rules: a header with this value, a prefix, everything.
    fn rules(&self, at: usize, namespace: &str, value: &str, client: Option<&str>) -> VirtualService {
        let mut rules = self.rules.clone();
        (rules.metadata.name, rules.metadata.namespace) = (format!("s{at}"), namespace.into());
        rules.spec.hosts = vec![format!("s{at}")];
        for rule in rules.spec.http.iter_mut().flatten() {
            for block in rule.r#match.iter_mut().flatten() {
                if let Some(Some(test)) = block.headers.get_mut("x-user") {
                    *test = meshroute::model::StringMatch::Exact(value.into());
                    block.source_labels.extend(client.map(|client| ("client".to_string(), client.to_string())));
                }
            }
            for route in rule.route.iter_mut().flatten() {
                route.destination.iter_mut().for_each(|destination| destination.host = format!("s{at}"));
            }
        }
        rules
    }

    fn mesh(&self, hosts: usize) -> Resources {
        let mut resources = Resources::new();
        for at in 0..hosts {
            resources.apply(self.service(at, "default"));
            resources.apply(self.pod(at, 0, "default"));
            resources.apply(self.rules(at, "default", "u", None));
        }
        resources
    }
}

const PATTERNS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: s}
spec:
  selector: {app: s}
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: s, labels: {app: s}}
status: {podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: s}
spec:
  hosts: [s]
  http:
  - match: [{headers: {x-user: {exact: u}}}]
    name: user
    route: [{destination: {host: s}}]
  - match: [{uri: {prefix: /api/}}]
    name: api
    route: [{destination: {host: s}}]
  - name: rest
    route: [{destination: {host: s}}]
";

fn build(resources: &Resources) -> Router {
    let plan = Plan::resolve(resources, &Viewpoint::sidecar("default"), &Mesh::default()).plan;
    Router::compile(plan).expect("what was resolved is legal")
}

/// Which rule takes a request to a host with this header.
fn rule(router: &Router, host: &str, user: &str) -> Option<String> {
    let headers = [("x-user", user)];
    let decision = router.decide(&Request::new("GET", host, "/").headers(&headers), &Roll::seeded(1));
    decision.route.map(|route| route.name.to_string())
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = black_box(act());
    (done, start.elapsed())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn full_builds(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let cost = |hosts: usize, repeats: usize| {
        let resources = patterns.mesh(hosts);
        let times = (0..repeats).map(|_| {
            let (router, time) = timed(|| build(&resources));
            assert_eq!(rule(&router, &format!("s{}", hosts - 1), "u").as_deref(), Some("user"));
            time
        });
        median(times.collect()) / (3 * hosts) as f64
    };
    let [small, large] = size.builds;
    let (few, many) = (cost(small, size.repeats), cost(large, size.repeats.div_ceil(10)));
    let what = format!("full build: a route among {}, against one among {}", 3 * large, 3 * small);
    table.note("full build: microseconds a route", format!("{:.2}", many * 1e6));
    table.at_most(&what, many / few, 1.5, " times");
}

fn one_rule(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let resources = patterns.mesh(size.hosts);
    let (_, full) = timed(|| build(&resources));
    let mut views = Views::new(resources, Mesh::default());
    let live = views.open(&Viewpoint::sidecar("default")).expect("what was resolved is legal");
    let mut times = Vec::new();
    for n in 0..size.repeats {
        let at = (n * 7919) % size.hosts;
        let (host, user) = (format!("s{at}"), format!("n{n}"));
        let changed = patterns.rules(at, "default", &user, None);
        let (done, time) = timed(|| views.apply(changed));
        done.expect("what was resolved is legal");
        assert_eq!(rule(&live.load(), &host, &user).as_deref(), Some("user"));
        assert_eq!(rule(&live.load(), &host, "u").as_deref(), Some("rest"));
        times.push(time);
    }
    let change = median(times);
    let what = format!("one VirtualService changed among {} hosts: times faster than a full build", size.hosts);
    table.note("one VirtualService changed: microseconds", format!("{:.1}", change * 1e6));
    table.at_least(&what, full.as_secs_f64() / change, 1_000.0, 100.0);
    one_policy(size, table, &mut views, &live, full.as_secs_f64());
}

fn one_rule_of_a_gateway(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let rules = |at: usize, user: &str| {
        let mut rules = patterns.rules(at, "default", user, None);
        (rules.spec.hosts, rules.spec.gateways) = (vec![format!("s{at}.example")], vec!["g".into()]);
        rules
    };
    let mut resources = patterns.mesh(size.clusters);
    resources.apply_text(EDGE, "-", Reading::Strict);
    for at in 0..size.clusters {
        resources.apply(rules(at, "u"));
    }
    let client = Viewpoint::gateway("default").label("gw", "g");
    let (_, full) = timed(|| {
        let plan = Plan::resolve(&resources, &client, &Mesh::default()).plan;
        Router::compile(plan).expect("what was resolved is legal")
    });
    let mut views = Views::new(resources, Mesh::default());
    let live = views.open(&client).expect("what was resolved is legal");
    let mut times = Vec::new();
    for n in 0..size.repeats {
        let at = (n * 7919) % size.clusters;
        let (host, user) = (format!("s{at}.example"), format!("n{n}"));
        let changed = rules(at, &user);
        let (done, time) = timed(|| views.apply(changed));
        done.expect("what was resolved is legal");
        assert_eq!(rule(&live.load(), &host, &user).as_deref(), Some("user"));
        assert_eq!(rule(&live.load(), &host, "u").as_deref(), Some("rest"));
        times.push(time);
    }
    let change = median(times);
    let what =
        format!("one VirtualService changed among {} of a gateway: times faster than a full build", size.clusters);
    table.note("one VirtualService of a gateway changed: microseconds", format!("{:.1}", change * 1e6));
    table.at_least(&what, full.as_secs_f64() / change, 1_000.0, 50.0);
}

const EDGE: &str = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g}, spec: {selector: {gw: g}, servers: \
                    [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}";

/// Adds a DestinationRule for one host, with a thousand for others in place.
fn one_policy(size: &Size, table: &mut Table, views: &mut Views, live: &Live, full: f64) {
    let others = (0..size.hosts.min(1_000)).map(|n| (n * 31 + 1) % size.hosts);
    let mut times = Vec::new();
    for at in others.chain((0..size.repeats).map(|n| (n * 7919) % size.hosts)) {
        let mut policy = DestinationRule::default();
        (policy.metadata.name, policy.metadata.namespace) = (format!("p{at}-{}", times.len()), "default".into());
        policy.spec.host = format!("s{at}");
        let name = policy.metadata.name.clone();
        let (done, time) = timed(|| views.apply(policy));
        done.expect("what was resolved is legal");
        let router = live.load();
        let host = format!("s{at}");
        let decision = router.decide(&Request::new("GET", &host, "/"), &Roll::seeded(1));
        let speaks = decision.cluster().and_then(|cluster| cluster.rule.clone()).expect("a DestinationRule speaks");
        assert!(*speaks.name == *name || speaks.name.starts_with(&format!("p{at}-")), "{speaks}");
        times.push(time);
    }
    let change = median(times.split_off(times.len() - size.repeats));
    let what = format!("one DestinationRule added among {} hosts: times faster than a full build", size.hosts);
    table.note("one DestinationRule added: microseconds", format!("{:.1}", change * 1e6));
    table.at_least(&what, full / change, 1_000.0, 10.0);
}

fn one_endpoint(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let resources = patterns.mesh(size.clusters);
    let (_, full) = timed(|| build(&resources));
    let mut views = Views::new(resources, Mesh::default());
    let live = views.open(&Viewpoint::sidecar("default")).expect("what was resolved is legal");
    let mut times = Vec::new();
    for n in 0..size.repeats {
        let at = (n * 7919) % size.clusters;
        let endpoints = || {
            let router = live.load();
            let host = format!("s{at}");
            let decision = router.decide(&Request::new("GET", &host, "/"), &Roll::seeded(1));
            decision.cluster().map_or(0, |cluster| cluster.endpoints.len())
        };
        let before = endpoints();
        let added = patterns.pod(at, n + 1, "default");
        let (done, time) = timed(|| views.apply(added));
        done.expect("what was resolved is legal");
        assert_eq!(endpoints(), before + 1);
        times.push(time);
    }
    let change = median(times);
    let what = format!("one endpoint added to a cluster among {}: times faster than a full build", size.clusters);
    table.note("one endpoint added: microseconds", format!("{:.1}", change * 1e6));
    table.at_least(&what, full.as_secs_f64() / change, 1_000.0, 50.0);
}

/// A change, and the change back, of each kind that has no row of its own.
fn other_kinds(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let mut resources = patterns.mesh(size.clusters);
    let mut reader = Reader::new(Reading::Strict);
    reader.text(OTHERS, "-");
    assert!(!reader.failed(), "{:?}", reader.findings());
    let others: Vec<Object> = reader.objects().cloned().collect();
    let [sidecar, gateway, deployment, entry] = others.as_slice() else { panic!("there are four") };
    let two_ports = |at: usize, two: bool| {
        let mut service = patterns.addressed(at, "default");
        let second = service.spec.ports[0].clone();
        service.spec.ports.extend(two.then_some(second));
        service.spec.ports.iter_mut().skip(1).for_each(|port| (port.name, port.port) = ("http-b".into(), 8080));
        service
    };
    for at in 0..size.clusters {
        resources.apply(patterns.addressed(at, "default"));
    }
    resources.apply(deployment.clone());
    resources.apply(entry.clone());
    resources.apply(two_ports(0, true)); // Somebody listens there.
    let (_, full) = timed(|| build(&resources));
    let mut views = Views::new(resources, Mesh::default());
    let live = views.open(&Viewpoint::sidecar("default")).expect("what was resolved is legal");
    let mut kinds = Kinds { size, table, views, live, full: full.as_secs_f64() };
    let service = |at: usize, app: &str| {
        let mut service = patterns.addressed(at, "default");
        service.spec.selector.insert("app".into(), app.into());
        service
    };
    // The selector finds another service's pod, and its own again.
    kinds.change("a Service's selector", |n, at| {
        let apps = [format!("s{}", (at + 1) % size.clusters), format!("s{at}")];
        (Change::Apply(Box::new(service(at, &apps[n % 2]).into())), format!("s{at}"), Seen::Endpoints(1))
    });
    kinds.change("a ServiceEntry's endpoints", |n, _| {
        let Object::ServiceEntry(mut entry) = entry.clone() else { panic!("it is a ServiceEntry") };
        let first = entry.spec.endpoints[0].clone();
        entry.spec.endpoints.extend(std::iter::repeat_n(first, n % 2));
        (Change::Apply(Box::new(entry.into())), "ext.example".into(), Seen::Endpoints(1 + n % 2))
    });
    kinds.change("a Deployment's replicas", |n, _| {
        let Object::Deployment(mut deployment) = deployment.clone() else { panic!("it is a Deployment") };
        deployment.spec.replicas = Some(2 + n as u32 % 2);
        (Change::Apply(Box::new(deployment.into())), "s0".into(), Seen::Endpoints(3 + n % 2))
    });
    kinds
        .change("a Sidecar of another namespace", |n, _| (there_and_back(sidecar, n), "s0".into(), Seen::Endpoints(4)));
    kinds.change("a Gateway of others", |n, _| (there_and_back(gateway, n), "s0".into(), Seen::Endpoints(4)));
    let new = patterns.addressed(size.clusters, "default");
    let (host, new) = (new.metadata.name.clone(), Object::from(new));
    kinds.change("a Service that comes or goes", |n, _| (there_and_back(&new, n), host.clone(), Seen::or_nobody(n, 0)));
    kinds.change("a Service's ports", |n, at| {
        (Change::Apply(Box::new(two_ports(at, n.is_multiple_of(2)).into())), format!("s{at}"), Seen::Endpoints(1))
    });
    let Object::ServiceEntry(mut new) = entry.clone() else { panic!("it is a ServiceEntry") };
    new.metadata.name = "new".into();
    new.spec.hosts = vec!["new.example".into()];
    let new = Object::from(new);
    kinds.change("a ServiceEntry that comes or goes", |n, _| {
        (there_and_back(&new, n), "new.example".into(), Seen::or_nobody(n, 1))
    });
}

const OTHERS: &str = "\
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: elsewhere}
spec: {egress: [{hosts: ['./*']}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: elsewhere}
spec: {selector: {gw: g}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {replicas: 3, selector: {matchLabels: {app: s0, v: d}}, template: {metadata: {labels: {app: s0, v: d}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext}
spec:
  hosts: [ext.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 10.250.0.1}]
";

enum Change {
    Apply(Box<Object>),
    Delete(ResourceRef),
}

/// What a request to a host finds.
#[derive(Debug, PartialEq)]
enum Seen {
    Endpoints(usize),
    Nobody,
}

impl Seen {
    fn or_nobody(n: usize, endpoints: usize) -> Seen {
        if n.is_multiple_of(2) { Seen::Endpoints(endpoints) } else { Seen::Nobody }
    }
}

fn there_and_back(object: &Object, n: usize) -> Change {
    let metadata = object.metadata();
    match n % 2 {
        0 => Change::Apply(Box::new(object.clone())),
        _ => Change::Delete(ResourceRef::new(object.kind(), &metadata.namespace, &metadata.name)),
    }
}

struct Kinds<'a> {
    size: &'a Size,
    table: &'a mut Table,
    views: Views,
    live: Arc<Live>,
    full: f64,
}

impl Kinds<'_> {
    fn change(&mut self, what: &str, made: impl Fn(usize, usize) -> (Change, String, Seen)) {
        let mut times = Vec::new();
        for n in 0..self.size.repeats.next_multiple_of(2) {
            // There and back again, for one service after the other.
            let (change, host, wanted) = made(n, (n / 2 * 7919 + 1) % self.size.clusters);
            let (done, time) = timed(|| match change {
                Change::Apply(object) => self.views.apply(*object).map(|_| ()),
                Change::Delete(reference) => self.views.delete(&reference).map(|_| ()),
            });
            done.expect("what was resolved is legal");
            let router = self.live.load();
            let decision = router.decide(&Request::new("GET", &host, "/"), &Roll::seeded(1));
            let seen = decision.cluster().map_or(Seen::Nobody, |cluster| Seen::Endpoints(cluster.endpoints.len()));
            assert_eq!(seen, wanted, "{what}: {host}");
            times.push(time);
        }
        let change = median(times);
        let title = format!("{what}, among {} hosts: times faster than a full build", self.size.clusters);
        self.table.note(&format!("{what}: microseconds"), format!("{:.1}", change * 1e6));
        self.table.at_least(&title, self.full / change, 1_000.0, 10.0);
    }
}

fn memory(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let out = || OUT.load(Ordering::Relaxed) as f64;
    let routes = (3 * size.hosts) as f64;
    let before = out();
    let resources = patterns.mesh(size.hosts);
    let written = out();
    let plan = Arc::new(Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default()).plan);
    let meant = out();
    let router = Router::compile(plan).expect("what was resolved is legal");
    let found = out();
    assert_eq!(rule(&router, "s1", "u").as_deref(), Some("user"));
    table.note("bytes a route: resources", format!("{:.0}", (written - before) / routes));
    table.note("bytes a route: plan", format!("{:.0}", (meant - written) / routes));
    table.at_most("bytes a route: router", (found - meant) / routes, 1_000.0, "");
}

fn viewpoints(size: &Size, table: &mut Table) {
    let patterns = Patterns::new();
    let mut resources = Resources::new();
    for at in 0..size.seen {
        let namespace = format!("n{}", at % size.namespaces);
        // One host in a hundred asks who is asking.
        let client = (at % 100 == 0).then(|| format!("c{}", at / 100));
        resources.apply(patterns.addressed(at, &namespace));
        resources.apply(patterns.pod(at, 0, &namespace));
        resources.apply(patterns.rules(at, &namespace, "u", client.as_deref()));
    }
    let mut views = Views::new(resources, Mesh::default());
    let mut cells: Vec<Arc<Live>> = Vec::new();
    let (mut first, mut seen, mut new) = ((0.0, 0.0), Vec::new(), Vec::new());
    let mut known = std::collections::HashSet::new();
    for at in 0..size.views {
        // Namespaces are gone through one after the other, and each client has labels that no other has.
        let namespace = format!("n{}", at % size.namespaces);
        let client = format!("c{at}");
        let viewpoint = Viewpoint::sidecar(&namespace).label("client", &client).label("pod", format!("p{at}"));
        let before = OUT.load(Ordering::Relaxed);
        let (live, time) = timed(|| views.open(&viewpoint).expect("what was resolved is legal"));
        let bytes = OUT.load(Ordering::Relaxed).saturating_sub(before);
        let cost = (time.as_secs_f64(), bytes as f64);
        match (at, known.insert(namespace)) {
            (0, _) => first = cost,
            (_, true) => new.push(cost),
            (_, false) => seen.push(cost),
        }
        let asks = 100 * at;
        if asks < size.seen {
            let host = format!("s{asks}.n{}.svc.cluster.local", asks % size.namespaces);
            assert_eq!(rule(&live.load(), &host, "u").as_deref(), Some("user"), "{host} is asked by its own client");
        }
        // Each has the short names of its own namespace, and of no other.
        let [own, other] = [at, at + 1].map(|at| format!("s{}", at % size.namespaces));
        assert_eq!(rule(&live.load(), &own, "v").as_deref(), Some("rest"));
        assert_eq!(rule(&live.load(), &other, "v"), None);
        cells.push(live);
    }
    let mut share = |what: &str, costs: &[(f64, f64)], aim: f64| {
        let part = |pick: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = costs.iter().map(pick).collect();
            all.sort_by(f64::total_cmp);
            100.0 * all[all.len() / 2] / pick(&first).max(f64::MIN_POSITIVE)
        };
        table.at_most(&format!("a further viewpoint {what}: time, of the first"), part(|cost| cost.0), aim, " %");
        let bytes: f64 = costs.iter().map(|cost| cost.1).sum::<f64>() / costs.len() as f64;
        table.at_most(&format!("a further viewpoint {what}: bytes, of the first"), 100.0 * bytes / first.1, aim, " %");
    };
    share("in a namespace already seen", &seen, 1.0);
    share("in a new namespace", &new, 5.0);
}

fn reading(size: &Size, table: &mut Table) {
    let texts: Vec<String> = (0..size.seen.min(3_000))
        .map(|at| PATTERNS.replace("name: s", &format!("name: s{at}")).replace("app: s", &format!("app: s{at}")))
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let ours = || {
        let mut resources = Resources::new();
        for text in &texts {
            assert!(resources.apply_text(text, "-", Reading::Strict).is_empty());
        }
        assert_eq!(resources.iter().count(), 3 * texts.len());
    };
    let bare = || {
        use serde::Deserialize;
        let mut documents = 0;
        for text in &texts {
            for document in serde_yaml::Deserializer::from_str(text) {
                documents += usize::from(serde_yaml::Value::deserialize(document).is_ok());
            }
        }
        assert_eq!(documents, 3 * texts.len());
    };
    let (mut ours_took, mut bare_took) = (Vec::new(), Vec::new());
    for _ in 0..size.repeats.div_ceil(10) {
        ours_took.push(timed(ours).1);
        bare_took.push(timed(bare).1);
    }
    let (ours, bare) = (median(ours_took), median(bare_took));
    table.note("reading YAML: MB/s", format!("{:.1}", bytes as f64 / ours / 1e6));
    table.at_least("reading YAML: speed, of the bare parser's", bare / ours, 0.5, 0.2);
}
