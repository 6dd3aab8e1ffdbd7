//! A [`tower`](https://docs.rs/tower) layer that asks once per request.
//!
//! What ends here (redirects, direct responses, refusals) is answered without calling the service inside. What goes on
//! is rewritten, and carries its destination as the extension [`Chosen`]; the response's headers are edited on the way
//! back. Nothing is boxed, and nothing waits: delays, timeouts, retries and mirrors are handed on in [`Chosen`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use meshroute::adapter::tower::{Chosen, RouteLayer};
//! use meshroute::{Live, Plan, Router};
//! use tower::ServiceBuilder;
//!
//! let live = Arc::new(Live::new(Router::compile(Plan::default())?));
//! let service = ServiceBuilder::new().layer(RouteLayer::new(live, 5000)).service_fn(
//!     async |request: http::Request<String>| -> Result<_, std::io::Error> {
//!         let target = match request.extensions().get::<Chosen>() {
//!             Some(chosen) => format!("{:?}", chosen.endpoint()),
//!             None => "the address that was dialled".to_string(),
//!         };
//!         // ... connect, send, receive
//!         Ok(http::Response::new(http_body_util::Full::<hyper::body::Bytes>::from(target)))
//!     },
//! );
//! # let _ = tower::ServiceExt::oneshot(service, http::Request::new(String::new()));
//! # Ok::<(), meshroute::PlanError>(())
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::{Extensions, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::http::{Change, Taken, answer};
use crate::decision::{Decision, Forwarded, Outcome};
use crate::live::Live;
use crate::plan::{Cluster, Endpoint, Forward, Plan, Retry, Route};
use crate::request::Connection;
use crate::roll::Roll;

/// Puts routing before a service.
#[derive(Clone, Debug)]
pub struct RouteLayer<C = Port, R = fn() -> Roll> {
    rules: Rules<C, R>,
}

/// What layer and service share.
#[derive(Clone, Debug)]
struct Rules<C, R> {
    live: Arc<Live>,
    connection: C,
    roll: R,
}

impl RouteLayer {
    /// Routes every request as one to this port, without address or TLS, with fresh entropy.
    pub fn new(live: Arc<Live>, port: u16) -> Self {
        RouteLayer { rules: Rules { live, connection: Port(port), roll: Roll::random } }
    }
}

impl<C> RouteLayer<C> {
    /// Routes each request by the connection that `connection` finds in its extensions, where the server has put it.
    pub fn with_connection(live: Arc<Live>, connection: C) -> Self
    where
        C: for<'e> Fn(&'e Extensions) -> Connection<'e>,
    {
        RouteLayer { rules: Rules { live, connection, roll: Roll::random } }
    }
}

impl<C, R> RouteLayer<C, R> {
    /// With these dice: called once per request.
    pub fn rolls<F: Fn() -> Roll>(self, roll: F) -> RouteLayer<C, F> {
        let Rules { live, connection, .. } = self.rules;
        RouteLayer { rules: Rules { live, connection, roll } }
    }
}

/// Says which connection a request came by. Implemented by [`Port`], and by functions of the request's extensions.
pub trait Arrival {
    /// The connection, as far as routing looks at it.
    fn connection<'e>(&self, extensions: &'e Extensions) -> Connection<'e>;
}

/// The port that all requests were sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port(pub u16);

impl Arrival for Port {
    fn connection<'e>(&self, _: &'e Extensions) -> Connection<'e> {
        Connection::new(self.0)
    }
}

impl<F> Arrival for F
where
    F: for<'e> Fn(&'e Extensions) -> Connection<'e>,
{
    fn connection<'e>(&self, extensions: &'e Extensions) -> Connection<'e> {
        self(extensions)
    }
}

impl<S, C: Clone, R: Clone> Layer<S> for RouteLayer<C, R> {
    type Service = RouteService<S, C, R>;

    fn layer(&self, inner: S) -> Self::Service {
        RouteService { inner, rules: self.rules.clone() }
    }
}

/// A service with routing before it; made by [`RouteLayer`].
#[derive(Clone, Debug)]
pub struct RouteService<S, C = Port, R = fn() -> Roll> {
    inner: S,
    rules: Rules<C, R>,
}

impl<S, C, R, B, D> Service<Request<B>> for RouteService<S, C, R>
where
    S: Service<Request<B>, Response = Response<D>>,
    D: Body<Data: From<Vec<u8>>>,
    C: Arrival,
    R: Fn() -> Roll,
{
    type Response = Response<RoutedBody<D>>;
    type Error = S::Error;
    type Future = RouteFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.rules.ask(&request) {
            Ask::End(response) => RouteFuture { state: State::End { response: Some(response) } },
            Ask::Go { change, chosen } => {
                change.request(&mut request);
                // One that an outer layer left behind must not be taken for this one's.
                match chosen {
                    Some(chosen) => request.extensions_mut().insert(chosen),
                    None => request.extensions_mut().remove(),
                };
                RouteFuture { state: State::Go { future: self.inner.call(request), change } }
            }
        }
    }
}

/// What becomes of a request, in words that borrow nothing of it.
enum Ask {
    End(Response<Vec<u8>>),
    Go { change: Change, chosen: Option<Chosen> },
}

impl<C: Arrival, R: Fn() -> Roll> Rules<C, R> {
    fn ask<B>(&self, request: &Request<B>) -> Ask {
        let connection = self.connection.connection(request.extensions());
        let mut asked = super::http::request(request, connection.port).address(connection.address);
        if let Some(hello) = connection.tls {
            asked = asked.tls(hello);
        }
        let (router, roll) = (self.live.load(), (self.roll)());
        let decision = router.decide(&asked, &roll);
        if let Some(response) = answer(&decision, &asked) {
            return Ask::End(response);
        }
        if matches!(decision.outcome, Outcome::Blackhole | Outcome::Reset) {
            return Ask::End(closed());
        }
        match Change::of(&decision, &asked) {
            Ok(change) => Ask::Go { change, chosen: Chosen::of(router.plan(), &decision, &roll) },
            // The rule is at fault, not the client.
            Err(_) => Ask::End(status(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }
}

fn status(status: StatusCode) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, 0.into());
    response
}

/// A layer cannot close the connection; this is as near as it gets.
fn closed() -> Response<Vec<u8>> {
    let mut response = status(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Where a request goes and how: an extension of every request that goes on to a cluster. Cheap to clone.
///
/// A request without it goes to the address that was dialled: nobody claims it.
#[derive(Clone, Debug)]
pub struct Chosen {
    cluster: Arc<Cluster>,
    endpoint: Option<usize>,
    taken: Option<Taken>,
    mirrors: Vec<Arc<Cluster>>,
    delay: Option<Duration>,
}

impl Chosen {
    fn of(plan: &Plan, decision: &Decision<'_>, roll: &Roll) -> Option<Self> {
        let (Outcome::Forward(to) | Outcome::Connect(to)) = &decision.outcome else { return None };
        let cluster = |at: u32| plan.clusters.get(at as usize).map(Arc::clone);
        Some(Chosen {
            cluster: cluster(to.destination.cluster)?,
            endpoint: endpoint(to, roll),
            taken: Taken::of(decision),
            mirrors: decision.mirrors(roll).filter_map(|mirror| cluster(mirror.cluster)).collect(),
            delay: decision.delay,
        })
    }

    /// The cluster: its host, subset, port, endpoints and policy.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// One of the cluster's endpoints, by weight and the request's dice ([`Forwarded::endpoint`]). Whoever balances
    /// load in another way passes it over.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.cluster.endpoints.get(self.endpoint?)
    }

    /// The route that took the request; `None` for a listener that does not look into what it passes on.
    pub fn route(&self) -> Option<&Route> {
        self.taken.as_ref()?.route()
    }

    /// All that the route says of forwarding.
    pub fn forward(&self) -> Option<&Forward> {
        self.taken.as_ref()?.forward()
    }

    /// The time for the whole exchange; `None`: no limit.
    pub fn timeout(&self) -> Option<Duration> {
        self.forward()?.timeout
    }

    /// When and how often another try is made; `None`: never.
    pub fn retry(&self) -> Option<&Retry> {
        self.forward()?.retry.as_ref()
    }

    /// The clusters that get a copy this time.
    pub fn mirrors(&self) -> &[Arc<Cluster>] {
        &self.mirrors
    }

    /// How long to wait first (an injected delay).
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }
}

fn endpoint(to: &Forwarded<'_>, roll: &Roll) -> Option<usize> {
    let picked = to.endpoint(roll)?;
    to.cluster.endpoints.iter().position(|endpoint| std::ptr::eq(endpoint, picked))
}

pin_project! {
    /// The future of a [`RouteService`].
    #[derive(Debug)]
    pub struct RouteFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum State<F> {
        End { response: Option<Response<Vec<u8>>> },
        Go { #[pin] future: F, change: Change },
    }
}

impl<F, D, E> Future for RouteFuture<F>
where
    F: Future<Output = Result<Response<D>, E>>,
{
    type Output = Result<Response<RoutedBody<D>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Go { future, change } => {
                let mut response = ready!(future.poll(context))?;
                change.response(response.headers_mut());
                Poll::Ready(Ok(response.map(RoutedBody::inner)))
            }
            // Polled again after it was ready, it stays pending, as the contract of `Future` lets it.
            StateProjection::End { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(RoutedBody::local))),
                None => Poll::Pending,
            },
        }
    }
}

pin_project! {
    /// The body of a response: that of the service inside, or one that was made here.
    #[derive(Debug)]
    pub struct RoutedBody<D> {
        #[pin]
        kind: Kind<D>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<D> {
        Inner { #[pin] body: D },
        Local { text: Vec<u8> },
    }
}

impl<D> RoutedBody<D> {
    fn inner(body: D) -> Self {
        RoutedBody { kind: Kind::Inner { body } }
    }

    fn local(text: Vec<u8>) -> Self {
        RoutedBody { kind: Kind::Local { text } }
    }
}

impl<D: Body<Data: From<Vec<u8>>>> Body for RoutedBody<D> {
    type Data = D::Data;
    type Error = D::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<D::Data>, D::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner { body } => body.poll_frame(context),
            KindProjection::Local { text } if text.is_empty() => Poll::Ready(None),
            KindProjection::Local { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text).into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Local { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Local { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{
        Action, Chain, Condition, Destination, DirectResponse, HeaderWrite, HttpTable, Listener, Mirror, PathMatch,
        PathRewrite, Target, Unclaimed, Unmatched, VirtualHost,
    };
    use crate::request::TlsHello;
    use crate::router::Router;
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    use tower::ServiceExt;

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
}
