//! The client side, with a service inside that fails as it is told and a clock that nobody waits for.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tower::ServiceExt;
use tower_layer::Layer;

use super::*;
use crate::balance::{Failure, Tried, Verdict};
use crate::live::Live;
use crate::plan::{
    Action, Chain, Cluster, Condition, Delay, Destination, Endpoint, Fault, Forward, HashKey, HttpTable, Listener,
    LoadBalancer, Plan, Retry, Route, Target, Unclaimed, VirtualHost,
};
use crate::router::Router;

/// Time passes when somebody waits, and at once.
#[derive(Clone, Default)]
struct Jump(Arc<AtomicU64>);

impl Clock for Jump {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        let passed = Arc::clone(&self.0);
        Box::pin(async move {
            passed.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
        })
    }
}

/// What an endpoint does with a try.
#[derive(Clone, Copy)]
enum Does {
    Answers(u16),
    Refuses,
    Hangs,
}

/// A try as the endpoint saw it: URI, headers, length of the body.
type Seen = (String, HeaderMap, usize);

#[derive(Clone, Default)]
struct World {
    clock: Jump,
    seen: Arc<Mutex<Vec<Seen>>>,
    told: Arc<Mutex<Vec<(Tried, bool)>>>,
}

impl World {
    /// Sends a request through; each try meets what `does` says for its number.
    async fn send(
        &self,
        live: &Arc<Live>,
        request: Request<Full<Bytes>>,
        does: fn(usize) -> Does,
    ) -> (u16, String, HeaderMap) {
        let (seen, told) = (Arc::clone(&self.seen), Arc::clone(&self.told));
        let sender = tower::service_fn(move |request: Request<Replay<Full<Bytes>>>| {
            let seen = Arc::clone(&seen);
            async move {
                let (parts, body) = request.into_parts();
                let length = body.collect().await.unwrap().to_bytes().len();
                let number = seen.lock().unwrap().len();
                seen.lock().unwrap().push((parts.uri.to_string(), parts.headers, length));
                match does(number) {
                    Does::Answers(status) => {
                        let answer = Response::builder().status(status).header("keep-alive", "timeout=5");
                        Ok(answer.body(Full::new(Bytes::from_static(b"from afar"))).unwrap())
                    }
                    Does::Refuses => Err("refused"),
                    Does::Hangs => std::future::pending().await,
                }
            }
        });
        let upstream =
            Upstream::new(sender, self.clock.clone(), |_: &&str| Failure::Connect).on_attempt(move |ended| {
                told.lock().unwrap().push((ended.tried, matches!(ended.verdict, Verdict::Again(_))));
            });
        let response = RouteLayer::new(Arc::clone(live), 80).layer(upstream).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        (parts.status.as_u16(), text, parts.headers)
    }

    fn tries(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn live(change: impl Fn(&mut Route, &mut Forward)) -> Arc<Live> {
    let mut forward = Forward::new(vec![Destination::new(0, 1)]);
    forward.timeout = Some(Duration::from_secs(3));
    forward.retry = Some(Retry { on: vec!["5xx".into()], ..Retry::built_in() });
    let mut route = Route::new("all", Condition::default(), Action::Forward(Forward::new(Vec::new())));
    change(&mut route, &mut forward);
    route.action = Action::Forward(forward);
    let mut host = VirtualHost::new("web:80", vec!["web".to_string().try_into().unwrap()]);
    host.routes = [route].into();
    let mut table = HttpTable::new("80", Unclaimed::Passthrough);
    table.hosts.push(host);
    let mut listener = Listener::new(80, Vec::new());
    listener.chains.push(Chain::new(Target::Http(table.into())));
    let mut cluster = Cluster::missing("web", "", 80);
    cluster.exists = true;
    // In turn: by chance another try may, now and then, go where the first one went.
    cluster.policy.load_balancer = LoadBalancer::RoundRobin;
    cluster.endpoints = [Endpoint::new("10.0.0.1", 8080, "a"), Endpoint::new("fd00::2", 8080, "b")].into();
    let mut plan = Plan::default();
    plan.clusters.push(cluster);
    plan.listeners.push(listener);
    Arc::new(Live::new(Router::compile(plan).unwrap()))
}

fn usual() -> Arc<Live> {
    live(|_, _| {})
}

fn post(length: usize) -> Request<Full<Bytes>> {
    Request::post("/a?b")
        .header("host", "web")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .body(Full::new(vec![7; length].into()))
        .unwrap()
}

#[tokio::test]
async fn another_try_goes_elsewhere_with_the_whole_body() {
    let world = World::default();
    let first_fails = |number| if number == 0 { Does::Answers(503) } else { Does::Answers(200) };
    let (status, text, headers) = world.send(&usual(), post(1000), first_fails).await;
    assert_eq!((status, text.as_str(), headers.contains_key("keep-alive")), (200, "from afar", false));
    let seen = world.seen.lock().unwrap();
    let mut uris: Vec<_> = seen.iter().map(|(uri, ..)| uri.as_str()).collect();
    uris.sort_unstable();
    assert_eq!(uris, ["http://10.0.0.1:8080/a?b", "http://[fd00::2]:8080/a?b"]);
    for (_, headers, length) in seen.iter() {
        assert_eq!((*length, &headers["host"], headers.contains_key("x-hop")), (1000, &"web".parse().unwrap(), false));
    }
    assert_eq!(*world.told.lock().unwrap(), [(Tried::answered(503), true), (Tried::answered(200), false)]);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_sent_once() {
    let world = World::default();
    let (status, ..) = world.send(&usual(), post(100_000), |_| Does::Answers(503)).await;
    assert_eq!((status, world.tries()), (503, 1));
    let world = World::default();
    let (status, ..) = world.send(&usual(), post(60_000), |_| Does::Answers(503)).await;
    assert_eq!((status, world.tries()), (503, 3));
}

#[tokio::test]
async fn who_cannot_be_reached_is_answered_for() {
    let world = World::default();
    let (status, text, _) = world.send(&usual(), post(1), |_| Does::Refuses).await;
    assert_eq!((status, world.tries()), (503, 3));
    assert_eq!(
        text,
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
    );
    let mut call = post(1);
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let (status, text, headers) = world.send(&usual(), call, |_| Does::Refuses).await;
    assert_eq!((status, text.as_str(), &headers["grpc-status"]), (200, "", &"14".parse().unwrap()));
}

#[tokio::test]
async fn time_runs_out_for_each_try_and_for_all() {
    let world = World::default();
    let (status, text, _) = world.send(&usual(), post(1), |_| Does::Hangs).await;
    assert_eq!((status, text.as_str(), world.tries()), (504, "upstream request timeout", 1));
    assert_eq!(world.clock.now(), Duration::from_secs(3));
    let world = World::default();
    let each = live(|_, forward| forward.retry.as_mut().unwrap().per_try_timeout = Some(Duration::from_millis(100)));
    let (status, ..) =
        world.send(&each, post(1), |number| if number < 2 { Does::Hangs } else { Does::Answers(200) }).await;
    assert_eq!((status, world.tries()), (200, 3));
    assert!(world.clock.now() < Duration::from_millis(300));
}

#[tokio::test]
async fn an_injected_delay_comes_before_the_clock_starts() {
    let slow = live(|route, _| {
        let delay = Delay { per_million: 1_000_000, duration: Duration::from_secs(5) };
        route.fault = Some(Fault { delay: Some(delay), abort: None });
    });
    let world = World::default();
    let (status, ..) = world.send(&slow, post(1), |_| Does::Answers(200)).await;
    assert_eq!((status, world.clock.now()), (200, Duration::from_secs(5)));
}

#[tokio::test]
async fn a_client_without_a_cookie_gets_one_and_sticks_by_it() {
    let cookie = HashKey::Cookie { name: "user".into(), path: "/".into(), ttl: Some(Duration::from_secs(60)) };
    let sticky = live(|_, forward| forward.hash = Some(cookie.clone()));
    let world = World::default();
    let (_, _, headers) = world.send(&sticky, post(1), |_| Does::Answers(200)).await;
    let given = headers["set-cookie"].to_str().unwrap().to_string();
    assert!(given.starts_with("user=\""), "{given}");
    let mut again = post(1);
    again.headers_mut().insert("cookie", given.split(';').next().unwrap().parse().unwrap());
    let (_, _, headers) = world.send(&sticky, again, |_| Does::Answers(200)).await;
    assert!(!headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn what_nobody_claims_is_sent_once_as_it_came() {
    let world = World::default();
    let request = Request::post("http://elsewhere.example/x").body(Full::default()).unwrap();
    let (status, ..) = world.send(&usual(), request, |_| Does::Answers(503)).await;
    assert_eq!((status, world.tries()), (503, 1));
    assert_eq!(world.seen.lock().unwrap()[0].0, "http://elsewhere.example/x");
    assert!(world.told.lock().unwrap().is_empty());
}
