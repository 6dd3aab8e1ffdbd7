//! Simulated Envoys: each a stream of delta ADS that asks for everything there is and accepts it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use meshroute::adapter::xds::Kind;
use prost::Message;
use prost::bytes::Buf;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// How many streams share a connection.
const STREAMS: usize = 50;

/// All of them.
pub struct Crowd {
    address: String,
    names: Arc<Names>,
    shared: Arc<Shared>,
    size: usize,
}

/// What they have in common.
struct Shared {
    /// A permit for each response that was accepted by one that is up.
    accepted: Semaphore,
    bytes: AtomicU64,
}

/// What there is to ask for by name.
struct Names {
    endpoints: Vec<String>,
    routes: Vec<String>,
}

impl Crowd {
    /// One, who says what there is.
    pub async fn new(address: &str, services: usize) -> Self {
        let shared = Arc::new(Shared { accepted: Semaphore::new(0), bytes: AtomicU64::new(0) });
        let mut first = Subscriber::over(connect(address).await, &shared).await;
        let clusters = first.take().await.expect("there are clusters").names;
        let endpoints: Vec<String> = clusters.into_iter().filter(|name| name.starts_with("outbound|")).collect();
        assert_eq!(endpoints.len(), services, "a cluster for each service");
        let names = Arc::new(Names { endpoints, routes: vec!["80".into()] });
        let mut crowd = Crowd { address: address.into(), names, shared, size: 1 };
        crowd.seat(first).await;
        crowd
    }

    /// Lets it grow to this size, one after the other, so that memory is that of standing streams and not of a rush.
    pub async fn grow(&mut self, size: usize) {
        let mut channel = connect(&self.address).await;
        while self.size < size {
            if self.size.is_multiple_of(STREAMS) {
                channel = connect(&self.address).await;
            }
            let mut one = Subscriber::over(channel.clone(), &self.shared).await;
            one.take().await.expect("there are clusters");
            self.seat(one).await;
            self.size += 1;
        }
        self.shared.accepted.forget_permits(usize::MAX);
    }

    /// Asks for the rest, and leaves it to itself.
    async fn seat(&mut self, mut one: Subscriber) {
        one.ask_all(&self.names).await;
        tokio::spawn(async move {
            while one.take().await.is_some() {
                one.shared.accepted.add_permits(1);
            }
        });
    }

    /// Waits until each of them has accepted one response more.
    pub async fn all_have_one_more(&self) {
        let all = self.shared.accepted.acquire_many(self.size as u32).await;
        all.expect("it is never closed").forget();
    }

    /// How much all of them have received.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("it is an address");
    endpoint.connect().await.expect("it listens")
}

/// A simulated Envoy.
struct Subscriber {
    requests: UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<Glance>,
    shared: Arc<Shared>,
}

impl Subscriber {
    async fn over(channel: Channel, shared: &Arc<Shared>) -> Self {
        let (requests, receiver) = unbounded_channel();
        let node = Node { id: "sidecar~127.0.0.1~one.default~default".into(), ..Node::default() };
        let first = DeltaDiscoveryRequest { node: Some(node), ..ask(Kind::Cluster, Vec::new()) };
        requests.send(first).expect("the stream is open");
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
        client.ready().await.expect("it is connected");
        let stream = tonic::Request::new(Requests(receiver));
        let responses = client.streaming(stream, PathAndQuery::from_static(DELTA), Glances).await;
        let responses = responses.expect("it answers").into_inner();
        Subscriber { requests, responses, shared: Arc::clone(shared) }
    }

    /// Takes one response and accepts it.
    async fn take(&mut self) -> Option<Glance> {
        let seen = self.responses.message().await.ok()??;
        let kind = Kind::of(&seen.type_url).expect("it was asked for");
        let word = DeltaDiscoveryRequest { response_nonce: seen.nonce.clone(), ..ask(kind, Vec::new()) };
        self.requests.send(word).ok()?;
        self.shared.bytes.fetch_add(seen.length, Ordering::Relaxed);
        Some(seen)
    }

    /// As an Envoy does: endpoints, then listeners, then their route tables.
    async fn ask_all(&mut self, names: &Names) {
        let asks = [
            (Kind::Endpoints, names.endpoints.clone()),
            (Kind::Listener, Vec::new()),
            (Kind::Route, names.routes.clone()),
        ];
        let mut had = BTreeSet::new();
        for (kind, names) in asks {
            self.requests.send(ask(kind, names)).expect("the stream is open");
            while !had.contains(&Some(kind)) {
                had.insert(Kind::of(&self.take().await.expect("it answers").type_url));
            }
        }
    }
}

fn ask(kind: Kind, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }
}

struct Requests(UnboundedReceiver<DeltaDiscoveryRequest>);

impl futures_core::Stream for Requests {
    type Item = DeltaDiscoveryRequest;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<DeltaDiscoveryRequest>> {
        self.0.poll_recv(context)
    }
}

/// What a subscriber looks at of a response. What Envoy does with the rest is Envoy's cost.
struct Glance {
    type_url: String,
    nonce: String,
    names: Vec<String>,
    length: u64,
}

struct Glances;

impl Codec for Glances {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Glance;
    type Encoder = Glances;
    type Decoder = Glances;
    fn encoder(&mut self) -> Glances {
        Glances
    }
    fn decoder(&mut self) -> Glances {
        Glances
    }
}

impl Encoder for Glances {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;
    fn encode(&mut self, request: DeltaDiscoveryRequest, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Glances {
    type Item = Glance;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Glance>, Status> {
        let length = from.remaining() as u64;
        let response = DeltaDiscoveryResponse::decode(from).map_err(|error| Status::internal(error.to_string()))?;
        let names = response.resources.into_iter().map(|resource| resource.name).collect();
        Ok(Some(Glance { type_url: response.type_url, nonce: response.nonce, names, length }))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
