//! What does an adapter add to a request, against the same host without it? Prints Markdown.
//!
//! Both are measured in turn, in many short batches of one run, and the fastest batch of each counts, which is the one
//! that nobody disturbed. Connections are in memory, so that what the system does for a socket hides nothing. The request
//! is the canary's, and each answer is checked.
//!
//! - `cargo bench --bench adapters`
//! - `cargo bench --bench adapters --features pingora`: Pingora too.
//! - with `--test` each is run once, and nothing is timed.

#[path = "support/pingora.rs"]
#[cfg(feature = "pingora")]
mod pingora;

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::{Body, Bytes};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use meshroute::adapter::http::Change;
use meshroute::adapter::tls::{Opening, opening};
use meshroute::adapter::tower::{Chosen, RouteLayer, Upstream};
use meshroute::balance::Failure;
use meshroute::plan::Endpoint;
use meshroute::{Connection, Live, Mesh, Plan, Reading, Resources, Roll, Router, Viewpoint};
use tower::{Layer, Service};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");
/// The port that clients dial.
const PORT: u16 = 5000;

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let says = |flag: &str| given.iter().any(|arg| arg == flag);
    let pace = if says("--bench") && !says("--test") { Pace::MEASURE } else { Pace::TEST };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    println!("| request | host alone | with the adapter | added | ratio |\n|---|---:|---:|---:|---:|");
    runtime.block_on(async {
        http_alone(&pace).await;
        tower_alone(&pace).await;
        tower_in_hyper(&pace).await;
        tls(&pace).await;
        #[cfg(feature = "pingora")]
        pingora::hooks(&pace).await;
    });
}

/// How long to measure.
struct Pace {
    repeats: usize,
    batch: Duration,
}

impl Pace {
    const MEASURE: Pace = Pace { repeats: 200, batch: Duration::from_millis(3) };
    const TEST: Pace = Pace { repeats: 1, batch: Duration::ZERO };

    /// Measures both in turn, and prints what the second one takes longer.
    async fn compare(&self, what: &str, mut host: impl AsyncFnMut(), mut with: impl AsyncFnMut()) {
        let (mut alone, mut both) = (f64::MAX, f64::MAX);
        for _ in 0..self.repeats {
            alone = alone.min(self.nanoseconds(&mut host).await);
            both = both.min(self.nanoseconds(&mut with).await);
        }
        println!("| {what} | {alone:.0} ns | {both:.0} ns | {:.0} ns | {:.2} |", both - alone, both / alone);
    }

    async fn nanoseconds(&self, run: &mut impl AsyncFnMut()) -> f64 {
        let (begin, mut runs) = (Instant::now(), 0_u32);
        loop {
            for _ in 0..16 {
                run().await;
            }
            runs += 16;
            let took = begin.elapsed();
            if took >= self.batch {
                return took.as_secs_f64() * 1e9 / f64::from(runs);
            }
        }
    }
}

fn live() -> Arc<Live> {
    let (resources, _) = Resources::load(FOLDER, Reading::Lenient);
    let mut plan = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default()).plan;
    for at in 0..plan.clusters.len() {
        let mut cluster =
            plan.clusters.get(at).map(|cluster| meshroute::plan::Cluster::clone(cluster)).expect("it is there");
        if !cluster.endpoints.is_empty() {
            cluster.endpoints = [Endpoint::new("10.0.0.1", 80, "a"), Endpoint::new("10.0.0.2", 80, "b")].into();
        }
        plan.clusters.set(at, cluster);
    }
    Arc::new(Live::new(Router::compile(plan).expect("it was resolved")))
}

fn request() -> Request<Empty<Bytes>> {
    let request = Request::get("/a?b=c").header("host", "nginx:5000").header("canary_id", "2").header("accept", "*/*");
    request.body(Empty::new()).expect("it is one")
}

async fn at_once<B>(request: Request<B>) -> Result<Response<Empty<Bytes>>, Infallible> {
    black_box(request.extensions().get::<Chosen>());
    Ok(Response::new(Empty::new()))
}

/// The endpoint's side, which has to be chosen.
async fn at_an_endpoint<B>(request: Request<B>) -> Result<Response<Empty<Bytes>>, Infallible> {
    assert_eq!(request.uri().port_u16(), Some(80), "it goes to an endpoint");
    Ok(Response::new(Empty::new()))
}

/// Measures `call` with a service's own response.
async fn ask<S, D>(service: &mut S)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<D>, Error = Infallible>,
{
    let Ok(response) = service.call(request()).await;
    assert_eq!(response.status(), 200);
}

type Clock = (fn() -> Duration, fn(Duration) -> tokio::time::Sleep);

fn clock() -> Clock {
    fn now() -> Duration {
        static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        BEGIN.elapsed()
    }
    (now, tokio::time::sleep)
}

/// A host that asks by itself, in the types of `http`.
async fn http_alone(pace: &Pace) {
    let live = live();
    let routed = || {
        let mut request = request();
        let (router, roll) = (live.load(), Roll::random());
        let asked = meshroute::adapter::http::request(&request, PORT);
        let decision = router.decide(&asked, &roll);
        assert!(decision.cluster().is_some(), "it goes to a cluster");
        let change = Change::of(&decision, &asked).expect("the rule is legal");
        change.request(&mut request);
        black_box(request);
    };
    let what = "http: a request is made; `adapter::http`";
    pace.compare(what, async || drop(black_box(request())), async || routed()).await;
}

async fn tower_alone(pace: &Pace) {
    let live = live();
    let mut host = tower::service_fn(at_once);
    let mut layer = RouteLayer::new(Arc::clone(&live), PORT).layer(tower::service_fn(at_once));
    pace.compare(
        "tower: a service that answers at once; `RouteLayer`",
        async || ask(&mut host).await,
        async || {
            ask(&mut layer).await;
        },
    )
    .await;
    let upstream = Upstream::new(tower::service_fn(at_an_endpoint), clock(), |_: &Infallible| Failure::Reset);
    let mut both = RouteLayer::new(live, PORT).layer(upstream);
    pace.compare("the same; `RouteLayer` and `Upstream`", async || ask(&mut host).await, async || ask(&mut both).await)
        .await;
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// A client of a hyper server that has this service.
async fn served<S, D>(service: S) -> Sender
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<D>, Error = Infallible> + Clone + 'static,
    S::Future: 'static,
    D: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let (near, far) = tokio::io::duplex(1 << 16);
    let (sender, client) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.expect("a connection");
    let server = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(service));
    tokio::task::spawn_local(client);
    tokio::task::spawn_local(server);
    sender
}

async fn exchange(sender: &mut Sender) {
    sender.ready().await.expect("the connection lasts");
    let response = sender.send_request(request()).await.expect("an answer");
    assert_eq!(response.status(), 200);
}

/// With a client, a server, and HTTP/1.1 between them.
async fn tower_in_hyper(pace: &Pace) {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let live = live();
            let mut host = served(tower::service_fn(at_once)).await;
            let mut layer = served(RouteLayer::new(Arc::clone(&live), PORT).layer(tower::service_fn(at_once))).await;
            let what = "hyper: HTTP/1.1, client and server; `RouteLayer`";
            pace.compare(what, async || exchange(&mut host).await, async || exchange(&mut layer).await).await;
            let upstream = Upstream::new(tower::service_fn(at_an_endpoint), clock(), |_: &Infallible| Failure::Reset);
            let mut both = served(RouteLayer::new(live, PORT).layer(upstream)).await;
            let what = "the same; `RouteLayer` and `Upstream`";
            pace.compare(what, async || exchange(&mut host).await, async || exchange(&mut both).await).await;
        })
        .await;
}

fn client_hello(name: &str) -> Vec<u8> {
    let list = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[size_of::<usize>() - width..], bytes].concat();
    let names = list(2, &[&[0][..], &list(2, name.as_bytes())].concat());
    let others = [&[0x00, 0x33][..], &list(2, &[7; 1200])].concat();
    let extensions = [&others, &[0, 0][..], &list(2, &names)].concat();
    let body = [&[3; 34][..], &[0, 0, 2, 19, 1, 1, 0], &list(2, &extensions)].concat();
    [&[22, 3, 1][..], &list(2, &[&[1][..], &list(3, &body)].concat())].concat()
}

/// Per connection: the host has read the first bytes into a buffer of its own, whatever it does with them.
async fn tls(pace: &Pace) {
    let (live, bytes) = (live(), client_hello("nginx.example"));
    let read = |bytes: &[u8]| black_box(bytes.to_vec());
    let route = |bytes: &[u8]| {
        let Ok(Opening::Hello(hello)) = opening(bytes) else { panic!("it is a hello") };
        assert_eq!(hello.server_name(), Some("nginx.example"));
        let router = live.load();
        let decision = router.connect(&Connection::new(443).tls(hello.tls()), &Roll::random());
        black_box(decision.route.is_some())
    };
    pace.compare(
        "tls: a connection whose first 1.3 kB were copied once; read and routed",
        async || drop(read(black_box(&bytes))),
        async || assert!(!route(&read(black_box(&bytes)))),
    )
    .await;
}
