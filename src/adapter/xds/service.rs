//! The service that Envoys speak to: ADS, in both ways of speaking. Whoever mounts it opens the socket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready as when_ready};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use futures_core::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use prost::Message;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tower_service::Service;

use super::ads::{Flavor, Response, Session};
use super::fleet::{Fleet, Seat};
use super::wire::Reads;

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

type Answer = Ready<Result<http::Response<Body>, Infallible>>;

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
            _ => ready(Ok(Status::unimplemented("there is only ADS here").into_http())),
        }
    }
}

fn exchange<R, B>(fleet: Arc<Fleet>, request: http::Request<B>) -> Answer
where
    R: Ask,
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let requests = Streaming::new_request(Reads::<R>::new(), request.into_body(), None, None);
    let exchange = Exchange { fleet, requests, place: None };
    let mut response = http::Response::new(Body::new(Answers { exchange, pieces: VecDeque::new(), ended: false }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    ready(Ok(response))
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

/// An open stream as the body of an answer: gRPC's messages, and then its status.
struct Answers<R> {
    exchange: Exchange<R>,
    /// What is left of a message.
    pieces: VecDeque<Bytes>,
    ended: bool,
}

impl<R: Ask> http_body::Body for Answers<R> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = self.get_mut();
        loop {
            if let Some(piece) = body.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if body.ended {
                return Poll::Ready(None);
            }
            let next = when_ready!(Pin::new(&mut body.exchange).poll_next(context));
            match next.unwrap_or_else(|| Err(Status::ok(""))).and_then(|response| response.message(R::FLAVOR)) {
                Ok(pieces) => body.pieces = pieces,
                Err(status) => {
                    body.ended = true;
                    return Poll::Ready(Some(trailers(&status)));
                }
            }
        }
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}
