//! What does an adapter add to a request, against the same host without it?
//!
//! The host is a service that answers at once, so that what is left is the adapter's own. The request is the canary's,
//! and its answer is checked once.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use meshroute::adapter::tls::{Opening, opening};
use meshroute::adapter::tower::{Chosen, RouteLayer, Upstream};
use meshroute::balance::Failure;
use meshroute::plan::Endpoint;
use meshroute::{Connection, Live, Mesh, Plan, Reading, Resources, Roll, Router, Viewpoint};
use tower::{Layer, Service};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");

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

/// One request through a service.
fn through<S, D>(name: &str, c: &mut Criterion, mut service: S)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<D>, Error = Infallible>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let Ok(response) = service.call(request()).await;
        assert_eq!(response.status(), 200, "{name}");
    });
    c.bench_function(name, |b| {
        b.iter(|| {
            let Ok(response) = runtime.block_on(service.call(request()));
            response.status()
        });
    });
}

fn tower_adapter(c: &mut Criterion) {
    let live = live();
    through("tower/host alone", c, tower::service_fn(at_once));
    through("tower/behind RouteLayer", c, RouteLayer::new(Arc::clone(&live), 5000).layer(tower::service_fn(at_once)));
    let begin = Instant::now();
    let clock = (move || begin.elapsed(), tokio::time::sleep as fn(Duration) -> tokio::time::Sleep);
    let upstream = Upstream::new(tower::service_fn(at_once), clock, |_: &Infallible| Failure::Reset);
    through("tower/RouteLayer and Upstream", c, RouteLayer::new(live, 5000).layer(upstream));
}

fn client_hello(name: &str) -> Vec<u8> {
    let list = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[size_of::<usize>() - width..], bytes].concat();
    let names = list(2, &[&[0][..], &list(2, name.as_bytes())].concat());
    let others = [&[0x00, 0x33][..], &list(2, &[7; 1200])].concat();
    let extensions = [&others, &[0, 0][..], &list(2, &names)].concat();
    let body = [&[3; 34][..], &[0, 0, 2, 19, 1, 1, 0], &list(2, &extensions)].concat();
    [&[22, 3, 1][..], &list(2, &[&[1][..], &list(3, &body)].concat())].concat()
}

fn tls_adapter(c: &mut Criterion) {
    let (live, bytes) = (live(), client_hello("nginx.example"));
    c.bench_function("tls/copy of the hello", |b| b.iter(|| black_box(&bytes).to_vec()));
    c.bench_function("tls/hello read", |b| b.iter(|| matches!(opening(black_box(&bytes)), Ok(Opening::Hello(_)))));
    c.bench_function("tls/hello read and connection routed", |b| {
        b.iter(|| {
            let Ok(Opening::Hello(hello)) = opening(black_box(&bytes)) else { panic!("it is a hello") };
            live.load().connect(&Connection::new(443).tls(hello.tls()), &Roll::seeded(1)).route.is_some()
        });
    });
}

criterion_group!(benches, tower_adapter, tls_adapter);
criterion_main!(benches);
