//! The side that takes requests: asks once, answers what ends here, hands on the rest.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::{Extensions, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::body::RoutedBody;
use crate::adapter::chosen::Chosen;
use crate::adapter::http::{Change, answer};
use crate::decision::{Decision, Outcome};
use crate::live::Live;
use crate::request::Connection;
use crate::roll::Roll;

/// Puts routing before a service.
#[derive(Clone, Debug)]
pub struct RouteLayer<C = Port, R = fn() -> Roll, H = Quiet> {
    rules: Rules<C, R, H>,
}

/// What is told of decisions if nobody listens: nothing.
pub type Quiet = fn(&crate::request::Request<'_>, &Decision<'_>);

fn quiet(_: &crate::request::Request<'_>, _: &Decision<'_>) {}

/// What layer and service share.
#[derive(Clone, Debug)]
struct Rules<C, R, H> {
    live: Arc<Live>,
    connection: C,
    roll: R,
    decided: H,
}

impl RouteLayer {
    /// Routes every request as one to this port, without address or TLS, with fresh entropy.
    pub fn new(live: Arc<Live>, port: u16) -> Self {
        RouteLayer { rules: Rules { live, connection: Port(port), roll: Roll::random, decided: quiet } }
    }
}

impl<C> RouteLayer<C> {
    /// Routes each request by the connection that `connection` finds in its extensions, where the server has put it.
    pub fn with_connection(live: Arc<Live>, connection: C) -> Self
    where
        C: for<'e> Fn(&'e Extensions) -> Connection<'e>,
    {
        RouteLayer { rules: Rules { live, connection, roll: Roll::random, decided: quiet } }
    }
}

impl<C, R, H> RouteLayer<C, R, H> {
    /// With these dice: called once per request.
    pub fn rolls<F: Fn() -> Roll>(self, roll: F) -> RouteLayer<C, F, H> {
        let Rules { live, connection, decided, .. } = self.rules;
        RouteLayer { rules: Rules { live, connection, roll, decided } }
    }

    /// Tells each decision, for metrics and logs. Called in the midst of a request, so it should be quick.
    pub fn on_decision<F>(self, decided: F) -> RouteLayer<C, R, F>
    where
        F: Fn(&crate::request::Request<'_>, &Decision<'_>),
    {
        let Rules { live, connection, roll, .. } = self.rules;
        RouteLayer { rules: Rules { live, connection, roll, decided } }
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

impl<S, C: Clone, R: Clone, H: Clone> Layer<S> for RouteLayer<C, R, H> {
    type Service = RouteService<S, C, R, H>;

    fn layer(&self, inner: S) -> Self::Service {
        RouteService { inner, rules: self.rules.clone() }
    }
}

/// A service with routing before it; made by [`RouteLayer`].
#[derive(Clone, Debug)]
pub struct RouteService<S, C = Port, R = fn() -> Roll, H = Quiet> {
    inner: S,
    rules: Rules<C, R, H>,
}

impl<S, C, R, H, B, D> Service<Request<B>> for RouteService<S, C, R, H>
where
    S: Service<Request<B>, Response = Response<D>>,
    D: Body<Data: From<Vec<u8>>>,
    C: Arrival,
    R: Fn() -> Roll,
    H: Fn(&crate::request::Request<'_>, &Decision<'_>),
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

impl<C, R, H> Rules<C, R, H>
where
    C: Arrival,
    R: Fn() -> Roll,
    H: Fn(&crate::request::Request<'_>, &Decision<'_>),
{
    fn ask<B>(&self, request: &Request<B>) -> Ask {
        let connection = self.connection.connection(request.extensions());
        let mut asked = crate::adapter::http::request(request, connection.port).address(connection.address);
        if let Some(hello) = connection.tls {
            asked = asked.tls(hello);
        }
        let (router, roll) = (self.live.load(), (self.roll)());
        let decision = router.decide(&asked, &roll);
        (self.decided)(&asked, &decision);
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
