//! Asking allocates nothing: counted, after one round to warm up.
#![allow(unsafe_code, reason = "an allocator that counts cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::IpAddr;

use meshroute::authorize::{Call, Guard};
use meshroute::balance::key::{Keyed, hash};
use meshroute::balance::{Ask, Balancer, Ended, Tried, Tries};
use meshroute::plan::{Cluster, Endpoint, HashKey, LoadBalancer, Retry};
use meshroute::{
    Connection, Live, Mesh, Outcome, Plan, Reading, Request, Resources, Roll, Router, TlsHello, Viewpoint,
};

/// Counts what each thread asks for, so that tests beside each other don't disturb each other.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often something allocates, the second time it is done.
fn allocations<T>(act: impl Fn() -> T) -> usize {
    drop(black_box(act()));
    let before = COUNT.get();
    let done = black_box(act());
    let count = COUNT.get() - before;
    drop(done);
    count
}

const CONFIG: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: nginx, namespace: default}
spec:
  clusterIP: 10.0.0.1
  selector: {app: nginx}
  ports: [{name: http, port: 5000}, {name: tcp, port: 6000}]
---
apiVersion: v1
kind: Pod
metadata: {name: nginx-1, namespace: default, labels: {app: nginx, version: online}}
status: {podIP: 10.9.0.1, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx-2, namespace: default, labels: {app: nginx, version: canary}}
status: {podIP: 10.9.0.2, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: nginx, namespace: default}
spec:
  host: nginx
  subsets:
  - {name: online, labels: {version: online}}
  - {name: canary, labels: {version: canary}}
  - {name: empty, labels: {version: none}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: nginx, namespace: default}
spec:
  hosts: [nginx]
  http:
  - match: [{headers: {canary_id: {exact: "1"}}}]
    route:
    - {destination: {host: nginx, subset: online}, weight: 80}
    - {destination: {host: nginx, subset: canary}, weight: 20}
  - match: [{headers: {canary_id: {prefix: "a"}}}]
    route: [{destination: {host: nginx, subset: canary}}]
  - match: [{headers: {cookie: {regex: "(.*; )?user=jason(;.*)?"}}}]
    route: [{destination: {host: nginx, subset: canary}}]
  - match: [{withoutHeaders: {"x-inside": {exact: "no"}}, method: {exact: DELETE}}]
    route: [{destination: {host: nginx, subset: online}}]
  - match: [{queryParams: {v: {exact: "2"}}}]
    fault: {delay: {fixedDelay: 1s, percentage: {value: 50}}, abort: {httpStatus: 500, percentage: {value: 50}}}
    route: [{destination: {host: nginx, subset: canary}}]
  - match: [{uri: {exact: /exact}}, {uri: {prefix: /PREFIX}, ignoreUriCase: true}]
    rewrite: {uri: /new}
    mirror: {host: nginx, subset: canary}
    route: [{destination: {host: nginx, subset: online}}]
  - match: [{uri: {regex: "/users/[0-9]+"}}]
    route: [{destination: {host: nginx, subset: empty}}]
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - match: [{uri: {prefix: /hello}}]
    directResponse: {status: 200, body: {string: hello}}
  - match: [{uri: {prefix: /}, authority: {exact: "nginx:5000"}}]
    route: [{destination: {host: nginx, subset: online}}]
"#;

fn router() -> Router {
    let mut resources = Resources::new();
    let findings = resources.apply_text(CONFIG, "config.yaml", Reading::Strict);
    assert_eq!(findings, []);
    let resolution = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default());
    Router::compile(resolution.plan).unwrap()
}

type Lines<'h> = &'h [(&'h str, &'h str)];

/// Asks and looks at the answer as a proxy would.
fn ask(router: &Router, method: &str, host: &str, path: &[u8], headers: Lines<'_>) -> u64 {
    let roll = Roll::random();
    let request = Request::new(method, host, path).headers(&headers).port(5000);
    let decision = router.decide(&request, &roll);
    let mirrors = decision.mirrors(&roll).count();
    let endpoint = match &decision.outcome {
        Outcome::Forward(to) => to.endpoint(&roll).map_or(0, |endpoint| endpoint.port),
        _ => 0,
    };
    mirrors as u64 + u64::from(endpoint) + decision.authority().map_or(0, |name| name.len() as u64)
}

#[test]
fn asking_allocates_nothing() {
    let router = router();
    let long = format!("/{}", "a".repeat(4000));
    let in_the_buffer = format!("/x/../{}", "a".repeat(200));
    let questions: &[(&str, &str, &[u8], Lines<'_>)] = &[
        ("GET", "nginx:5000", b"/", &[("canary_id", "1")]),
        ("GET", "NGINX:5000", b"/", &[("Canary_ID", "2"), ("canary_id", "1")]),
        ("GET", "nginx:5000", b"/", &[("canary_id", "abc")]),
        ("GET", "nginx:5000", b"/", &[("cookie", "a=b; user=jason; c=d")]),
        ("GET", "nginx:5000", b"/", &[("cookie", "a=b; user=json")]),
        ("DELETE", "nginx:5000", b"/", &[]),
        ("DELETE", "nginx:5000", b"/", &[("x-inside", "no")]),
        ("GET", "nginx:5000", b"/?a=1&v=2", &[]),
        ("GET", "nginx:5000", b"/exact?x", &[]),
        ("GET", "nginx:5000", b"/prefix/x", &[]),
        ("GET", "nginx:5000", b"/users/12", &[]),
        ("GET", "nginx:5000", b"/old/x", &[]),
        ("GET", "nginx:5000", b"/hello", &[]),
        ("GET", "nginx:5000", b"/none", &[("a", "1"), ("b", "2")]),
        ("GET", "nginx.default", b"/none", &[]),
        ("GET", "nobody.example", b"/", &[]),
        ("GET", "", b"*", &[]),
        ("GET", "nginx:5000", long.as_bytes(), &[]),
        ("GET", "nginx:5000", b"/%65xact/./x/..", &[]),
        ("GET", "nginx:5000", in_the_buffer.as_bytes(), &[]),
        ("GET", "nginx:5000", b"/a%00", &[]),
    ];
    for &(method, host, path, headers) in questions {
        let count = allocations(|| ask(&router, method, host, path, headers));
        assert_eq!(count, 0, "{method} {host} {} {headers:?}", path.escape_ascii());
    }
}

/// The questions above would prove little if all of them ended alike.
#[test]
fn the_questions_reach_their_routes() {
    let router = router();
    let outcome = |path: &[u8], headers: Lines<'_>| {
        let request = Request::new("GET", "nginx:5000", path).headers(&headers).port(5000);
        let decision = router.decide(&request, &Roll::pinned(90));
        let subset = decision.cluster().map_or("", |cluster| &*cluster.subset);
        format!("{} {subset}", format!("{:?}", decision.outcome).split('(').next().unwrap_or_default())
    };
    assert_eq!(outcome(b"/", &[("canary_id", "1")]), "Forward canary");
    assert_eq!(outcome(b"/", &[("cookie", "a=b; user=jason; c=d")]), "Forward canary");
    assert_eq!(outcome(b"/exact", &[]), "Forward online");
    assert_eq!(outcome(b"/users/12", &[]), "Refuse empty");
    assert_eq!(outcome(b"/old/x", &[]), "Redirect ");
    assert_eq!(outcome(b"/hello", &[]), "Direct ");
    assert_eq!(outcome(b"/none", &[]), "Forward online");
}

#[test]
fn loading_connecting_and_looking_up_allocate_nothing() {
    let live = Live::new(router());
    assert_eq!(allocations(|| live.load()), 0);
    assert_eq!(allocations(|| live.load().lookup("nginx:5000").len()), 0);
    assert_eq!(allocations(|| live.load().lookup("nobody").len()), 0);
    assert_eq!(allocations(|| ask(&live.load(), "GET", "nginx:5000", b"/", &[("canary_id", "1")])), 0);
    for address in [Some([10, 0, 0, 1].into()), None] {
        for tls in [None, Some(TlsHello { sni: Some("nginx") })] {
            for port in [5000, 6000, 7000] {
                let mut connection = Connection::new(port).address(address);
                connection.tls = tls;
                let connect = || live.load().connect(&connection, &Roll::seeded(1)).route.is_some();
                assert_eq!(allocations(connect), 0, "{connection:?}");
            }
        }
    }
}

/// What is said to allocate does, so the counter counts.
#[test]
fn the_counter_counts() {
    let router = router();
    let long = format!("/x/../{}", "a".repeat(400));
    assert!(allocations(|| ask(&router, "GET", "nginx:5000", long.as_bytes(), &[])) > 0);
    let host = format!("NGINX.{}", "a".repeat(100));
    assert!(allocations(|| ask(&router, "GET", &host, b"/", &[])) > 0);
    assert!(allocations(|| router.lookup("NGINX").len()) > 0);
}

#[test]
fn choosing_an_endpoint_allocates_nothing() {
    let now = std::time::Duration::from_secs(9);
    for method in [
        LoadBalancer::LeastRequest,
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::RingHash(1_024),
        LoadBalancer::Maglev(65_537),
    ] {
        for weights in [[1, 1, 1], [1, 2, 5]] {
            let mut cluster = Cluster::missing("nginx", "", 80);
            let endpoint = |(n, weight): (usize, u32)| {
                let mut endpoint = Endpoint::new(&format!("10.0.0.{n}"), 80, "");
                endpoint.weight = weight;
                endpoint
            };
            cluster.endpoints = weights.into_iter().enumerate().map(endpoint).collect();
            cluster.policy.load_balancer = method.clone();
            let balancer = std::cell::RefCell::new(Balancer::new(&cluster, "", Roll::seeded(1), now));
            let headers = [("cookie", "user=jane"), ("x-user", "jane"), ("x-user", "joe")];
            let request = Keyed { headers: &headers, path: b"/?user=jane", source: Some([10, 0, 0, 1].into()) };
            let keys = [
                HashKey::Header("x-user".into()),
                HashKey::Query("user".into()),
                HashKey::SourceIp,
                HashKey::Cookie { name: "user".into(), path: "".into(), ttl: None },
            ];
            let count = allocations(|| {
                let mut balancer = balancer.borrow_mut();
                let mut ask = Ask::new(Roll::random(), now);
                let first = balancer.pick(&ask).unwrap().host;
                balancer.begin(first);
                let before = [first];
                ask.before = &before;
                for key in &keys {
                    ask.hash = hash(key, &request);
                    let next = balancer.pick(&ask).unwrap().host;
                    balancer.begin(next);
                    balancer.end(next, Ended::Answered(503), now);
                }
                balancer.end(first, Ended::Answered(200), now);
            });
            assert_eq!(count, 0, "{method:?} {weights:?}");
        }
    }
    let policy = Retry::built_in();
    assert_eq!(allocations(|| Tries::new(&policy).judge(Tried::answered(503), 7)), 0);
}

#[test]
fn letting_in_allocates_nothing() {
    let mut resources = Resources::new();
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: a}\nspec:\n  rules:\n  \
        - {from: [{source: {namespaces: [b], ipBlocks: [10.0.0.0/8]}}], to: [{operation: {paths: ['/{*}/x'], methods: [GET]}}],\n     \
        when: [{key: 'request.headers[x-a]', values: ['1*']}]}\n";
    assert_eq!(resources.apply_text(policy, "-", Reading::Strict), []);
    let (guard, _) = Guard::of(&resources, &Viewpoint::sidecar("a"), &Mesh::default());
    let request = Request::new("GET", "a", "/b/../y/x?q").headers(&[("x-a", "12")]);
    let call = Call::new(80).principal("cluster.local/ns/b/sa/c").source(IpAddr::from([10, 1, 1, 1])).request(&request);
    assert!(guard.judge(&call).is_allowed());
    assert_eq!(allocations(|| guard.judge(&call).is_allowed()), 0);
    assert_eq!(allocations(|| guard.judge(&Call::new(80)).is_allowed()), 0);
}
