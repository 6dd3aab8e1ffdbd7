//! The service that Envoys speak to: ADS, in both ways of speaking. Whoever mounts it opens the socket.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures_core::Stream;
use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Status, Streaming};
use tower_service::Service;

use super::ads::{Flavor, Response, Session};
use super::fleet::{Fleet, Seat};
use super::wire::Wire;

const STATE_OF_THE_WORLD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Envoy's `AggregatedDiscoveryService` over a [`Fleet`]. A `tower` service: it is mounted into tonic's server or into
/// axum, and a clone is cheap.
#[derive(Clone, Debug)]
pub struct Ads {
    fleet: Arc<Fleet>,
}

impl Ads {
    /// The service of a fleet.
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Ads { fleet }
    }
}

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<B> Service<http::Request<B>> for Ads
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        let fleet = Arc::clone(&self.fleet);
        match request.uri().path() {
            STATE_OF_THE_WORLD => exchange::<DiscoveryRequest, B>(fleet, request),
            DELTA => exchange::<DeltaDiscoveryRequest, B>(fleet, request),
            _ => Box::pin(ready(Ok(Status::unimplemented("there is only ADS here").into_http()))),
        }
    }
}

fn exchange<R, B>(fleet: Arc<Fleet>, request: http::Request<B>) -> Answer
where
    R: Ask,
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let opening = Opening::<R> { fleet, requests: PhantomData };
    Box::pin(async move { Ok(Grpc::new(Wire::<R>::new(R::FLAVOR)).streaming(opening, request).await) })
}

/// A request of either way of speaking.
trait Ask: Message + Default + Unpin + 'static {
    const FLAVOR: Flavor;
    fn node(&self) -> Option<&Node>;
    fn put_to(&self, session: &mut Session);
}

impl Ask for DiscoveryRequest {
    const FLAVOR: Flavor = Flavor::StateOfTheWorld;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put_to(&self, session: &mut Session) {
        session.request(self);
    }
}

impl Ask for DeltaDiscoveryRequest {
    const FLAVOR: Flavor = Flavor::Delta;
    fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }
    fn put_to(&self, session: &mut Session) {
        session.delta_request(self);
    }
}

/// A stream that is being opened.
struct Opening<R> {
    fleet: Arc<Fleet>,
    requests: PhantomData<fn() -> R>,
}

impl<R: Ask> StreamingService<R> for Opening<R> {
    type Response = Response;
    type ResponseStream = Exchange<R>;
    type Future = Ready<Result<tonic::Response<Exchange<R>>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<R>>) -> Self::Future {
        let exchange = Exchange { fleet: Arc::clone(&self.fleet), requests: request.into_inner(), place: None };
        ready(Ok(tonic::Response::new(exchange)))
    }
}

/// An open stream: a session, and what moves it.
struct Exchange<R> {
    fleet: Arc<Fleet>,
    requests: Streaming<R>,
    /// None until the first request has said who asks.
    place: Option<(Arc<Seat>, Session)>,
}

impl<R: Ask> Exchange<R> {
    fn take(&mut self, request: &R) -> Result<(), Status> {
        if self.place.is_none() {
            let node = request.node().ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
            let (seat, snapshot) = self.fleet.join(node)?;
            self.place = Some((seat, Session::new(R::FLAVOR, snapshot)));
        }
        if let Some((_, session)) = &mut self.place {
            request.put_to(session);
        }
        Ok(())
    }

    fn note(&self) {
        let Some((seat, session)) = &self.place else { return };
        for (kind, word) in seat.note(session) {
            self.fleet.heard(seat, kind, &word);
        }
    }
}

impl<R: Ask> Stream for Exchange<R> {
    type Item = Result<Response, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let exchange = &mut *self;
        loop {
            let response = exchange.place.as_mut().and_then(|(_, session)| session.next_response());
            exchange.note();
            if let Some(response) = response {
                return Poll::Ready(Some(Ok(response)));
            }
            // What the client said counts before what is new: its word may be on what is old already.
            match Pin::new(&mut exchange.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => match exchange.take(&request) {
                    Ok(()) => continue,
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => {}
            }
            let Some((seat, session)) = &mut exchange.place else { return Poll::Pending };
            match seat.poll(context) {
                Poll::Ready(snapshot) => session.publish(snapshot),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
