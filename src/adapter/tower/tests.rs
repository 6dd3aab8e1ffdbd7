//! The layer, with a service inside that tells what it got.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::*;
use crate::live::Live;
use crate::plan::{
    Action, Chain, Cluster, Condition, Destination, DirectResponse, Endpoint, Forward, HeaderWrite, HttpTable,
    Listener, Mirror, PathMatch, PathRewrite, Plan, Retry, Route, Target, Unclaimed, Unmatched, VirtualHost,
};
use crate::request::{Connection, TlsHello};
use crate::roll::Roll;
use crate::router::Router;
use ::http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tower::ServiceExt;
use tower_layer::Layer;

fn condition(path: &str) -> Condition {
    let path = PathMatch::Prefix { path: path.into(), ignore_case: false };
    Condition { path, ..Condition::default() }
}

fn forward() -> Route {
    let mut forward = Forward::new(vec![Destination::new(0, 80), Destination::new(1, 20)]);
    forward.timeout = Some(Duration::from_secs(3));
    forward.retry = Some(Retry::built_in());
    forward.rewrite = Some(PathRewrite::Matched("/v2".into()));
    forward.mirrors.push(Mirror::new(1, 1_000_000));
    let mut route = Route::new("api", condition("/api"), Action::Forward(forward));
    route.response.write.push(HeaderWrite::new("via", "mesh", false));
    route
}

fn cluster(name: &str) -> Arc<Cluster> {
    let mut cluster = Cluster::missing(name, "", 80);
    cluster.exists = true;
    cluster.endpoints = [Endpoint::new("10.0.0.1", 8080, name)].into();
    cluster.into()
}

fn live() -> Arc<Live> {
    let direct = Route::new("direct", condition("/hello"), Action::Direct(DirectResponse::new(200, "hello")));
    let broken =
        Forward { rewrite: Some(PathRewrite::Matched("x".into())), ..Forward::new(vec![Destination::new(0, 1)]) };
    let mut host = VirtualHost::new("nginx:80", vec!["nginx".to_string().try_into().unwrap()]);
    host.routes = [direct, forward(), Route::new("broken", condition("/broken"), Action::Forward(broken))].into();
    let mut table = HttpTable::new("80", Unclaimed::Passthrough);
    table.hosts.push(host);
    let mut listener = Listener::new(80, Vec::new());
    listener.chains.push(Chain::new(Target::Http(table.into())));
    let mut plan = Plan::default();
    (plan.clusters, plan.unmatched) = ([cluster("v1"), cluster("v2")].into_iter().collect(), Unmatched::Blackhole);
    plan.listeners.push(listener);
    Arc::new(Live::new(Router::compile(plan).unwrap()))
}

/// Answers with what it was asked and where it would send it.
async fn echo(request: Request<()>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let chosen = request.extensions().get::<Chosen>();
    let target = chosen.map_or("as dialled".into(), |chosen| {
        let endpoint = chosen.endpoint().map(ToString::to_string).unwrap_or_default();
        format!("{} {endpoint} {:?} {}", chosen.cluster().host, chosen.timeout(), chosen.mirrors().len())
    });
    Ok(Response::new(Full::from(format!("{} {target}", request.uri()))))
}

async fn ask<C, R>(layer: RouteLayer<C, R>, path: &str, host: &str) -> (u16, String, http::HeaderMap)
where
    C: Arrival + Clone,
    R: Fn() -> Roll + Clone,
{
    let service = layer.layer(tower::service_fn(echo));
    let request = Request::get(path).header("host", host).body(()).unwrap();
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), String::from_utf8(text.into()).unwrap(), parts.headers)
}

#[tokio::test]
async fn what_goes_on_knows_where_to() {
    for (roll, wanted) in [(79, "v1"), (80, "v2")] {
        let layer = RouteLayer::new(live(), 80).rolls(move || Roll::pinned(roll));
        let (status, body, headers) = ask(layer, "/api/x?y", "nginx").await;
        assert_eq!((status, body), (200, format!("/v2/x?y {wanted} 10.0.0.1:8080 Some(3s) 1")));
        assert_eq!(headers["via"], "mesh");
    }
    let (_, body, headers) = ask(RouteLayer::new(live(), 80), "/api", "elsewhere").await;
    assert_eq!((body.as_str(), headers.is_empty()), ("/api as dialled", true));
}

#[tokio::test]
async fn what_ends_here_never_reaches_the_service() {
    let (status, body, _) = ask(RouteLayer::new(live(), 80), "/hello", "nginx").await;
    assert_eq!((status, body.as_str()), (200, "hello"));
    let (status, body, _) = ask(RouteLayer::new(live(), 80), "/none", "nginx").await;
    assert_eq!((status, body.as_str()), (404, ""));
    let (status, body, _) = ask(RouteLayer::new(live(), 80), "/broken", "nginx").await;
    assert_eq!((status, body.as_str()), (500, ""));
    let (status, _, headers) = ask(RouteLayer::new(live(), 81), "/api", "nginx").await;
    assert_eq!((status, &headers["connection"]), (502, &HeaderValue::from_static("close")));
}

#[tokio::test]
async fn the_connection_may_come_from_the_extensions() {
    let layer = RouteLayer::with_connection(live(), |extensions| {
        assert!(extensions.is_empty());
        Connection::new(80).tls(TlsHello { sni: Some("nginx") })
    });
    let (status, ..) = ask(layer, "/hello", "nginx").await;
    assert_eq!(status, 200);
}

#[test]
fn a_body_made_here_tells_its_size() {
    let mut body = RoutedBody::<Full<Bytes>>::local(b"hello".into());
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
    let mut context = Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else { panic!("no frame") };
    assert_eq!(frame.into_data().unwrap(), "hello");
    assert!(body.is_end_stream());
}
