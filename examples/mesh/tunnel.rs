//! Bytes that are carried without being looked into: tunnels that CONNECT opens, and connections that were upgraded.
//!
//! Of a tunnel only the beginning is looked at: what speaks HTTP is served as HTTP, request by request; all else goes on
//! as a whole to where the router says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use meshroute::balance::{Ask, Ended, HostId, key};
use meshroute::plan::{Cluster, Unmatched};
use meshroute::{Connection, Decision, Outcome, Request, Roll};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::config::Config;
use crate::message::{self, Ends};
use crate::opening::{self, Expected, Opening};
use crate::passage::Passage;
use crate::pool::Body;
use crate::question::{Door, ip};
use crate::station::{Caller, Station};
use crate::times::{self, times};
use crate::transport::{Io, Way};
use crate::upstream::{Held, Kept, Reached, Upstream, What, now};
use crate::workload::{Service, UNKNOWN};
use crate::world::rule_key;

/// How long the other side may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where an upgrade was agreed on by both sides, joins them.
pub fn splice(client: Option<OnUpgrade>, response: &mut Response<Body>) {
    let server: Option<OnUpgrade> = response.extensions_mut().remove();
    let kept: Option<Kept> = response.extensions_mut().remove();
    let (Some(client), Some(server)) = (client, server) else { return };
    if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    tokio::spawn(async move {
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            // Whichever side ends it, ends it for both.
            times::join(TokioIo::new(client), TokioIo::new(server), times().bytes).await;
        }
        drop(kept);
    });
}

/// Carries what comes through a tunnel to a host and port.
pub async fn dig(
    station: Arc<Station>,
    upgrade: OnUpgrade,
    (host, port): (String, u16),
    caller: (SocketAddr, Option<Ends>),
) {
    let Ok(upgraded) = upgrade.await else { return };
    carry_on(station, TokioIo::new(upgraded), &host, port, caller).await;
}

/// Carries a connection that is meant for a host and port, and of which nothing is known yet but who it is from, and how
/// it came if that is worth noting.
pub async fn carry_on<S>(
    station: Arc<Station>,
    mut stream: S,
    host: &str,
    port: u16,
    (peer, ends): (SocketAddr, Option<Ends>),
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = station.config.borrow().clone();
    let Some(config) = config else { return };
    let address = ip(host).or_else(|| config.router.lookup(host).first().copied());
    let mut connection = Connection::new(port).address(address);
    let heard = opening::hear(expected(&config, &connection), &mut stream).await;
    let Some((opening, begun)) = heard else { return };
    connection.tls = opening.hello();
    if matches!(opening, Opening::One | Opening::Two) && is_http(&config, &connection) {
        let door = Door::Tunnel(port, address);
        let stream = opening::rewound(begun, stream);
        let caller = Arc::new(Caller { peer, ends, name: None, secured: None });
        let answer =
            move |request: hyper::Request<Incoming>| Arc::clone(&station).answer(door, Arc::clone(&caller), request);
        return message::talk(stream, opening, answer).await;
    }
    let passage = Passage::begin(&station.telemetry, ends, connection.tls.and_then(|hello| hello.sni));
    let going = Going { connection: &connection, asked: ip(host), peer: peer.ip() };
    carry(&station, &config, going, begun, stream, passage).await;
}

/// What may come through a connection of which nothing was heard yet. Where requests are looked for and nothing else has a place
/// of its own, the client speaks first; so it does with Istio, whose `protocolDetectionTimeout` is none.
pub fn expected(config: &Config, connection: &Connection<'_>) -> Expected {
    match config.router.connect(connection, &Roll::random()).outcome {
        Outcome::Connect(_) => Expected::Anything,
        Outcome::Reset => Expected::Requests,
        _ if config.looks_for_requests(connection) => Expected::FirstWord,
        _ => Expected::Anything,
    }
}

/// Whether requests through this connection are routed one by one.
pub fn is_http(config: &Config, connection: &Connection<'_>) -> bool {
    let mut request = Request::new("GET", "", "/").port(connection.port).address(connection.address);
    request.tls = connection.tls;
    !matches!(config.router.decide(&request, &Roll::random()).outcome, Outcome::Connect(_))
}

/// A connection that is to be carried as a whole.
pub struct Going<'c> {
    /// What the router is asked.
    pub connection: &'c Connection<'c>,
    /// The address that was asked for, if it was one.
    pub asked: Option<IpAddr>,
    /// Who it is from.
    pub peer: IpAddr,
}

/// Carries a connection as a whole to where the router says. `begun`: what was read of it.
pub async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    station: &Station,
    config: &Config,
    going: Going<'_>,
    begun: Vec<u8>,
    stream: S,
    mut passage: Passage,
) {
    let Going { connection, asked, peer } = going;
    let roll = Roll::random();
    let decision = config.router.connect(connection, &roll);
    note(config, &decision, &mut passage);
    let reached = match &decision.outcome {
        Outcome::Connect(to) => {
            let upstream = station.upstreams.of(to.cluster);
            let original = || Some(SocketAddr::new(connection.address?, connection.port));
            match config.original(to.cluster, original) {
                Some(chosen) => through(station, config, (to.cluster, &upstream), (None, &chosen), &mut passage).await,
                None => reach(station, config, (to.cluster, &upstream), (roll, peer), &mut passage).await,
            }
        }
        Outcome::Passthrough => match asked.and_then(|ip| config.real(SocketAddr::new(ip, connection.port))) {
            Some(socket) => pass_through(station, socket, &mut passage).await,
            None => Err(("UF", "nothing beyond loopback is reached")),
        },
        Outcome::Refuse(refusal) => Err((refusal.flag, refusal.detail)),
        _ => Err(("NR", "filter_chain_not_found")),
    };
    let patience = match decision.outcome {
        Outcome::Connect(to) => idle(to.cluster),
        _ => times().bytes,
    };
    match reached {
        Ok((server, _held)) => passage.carry(opening::rewound(begun, stream), server, patience).await,
        Err((flag, details)) => passage.refused(flag, details),
    }
}

/// Puts down what was decided for a connection.
fn note(config: &Config, decision: &Decision<'_>, passage: &mut Passage) {
    passage.source = Arc::clone(&config.own);
    let origin = decision.origin();
    passage.via.rule = origin.map(|origin| rule_key(&origin.written_in, &origin.field).into()).unwrap_or_default();
    // A gateway has nobody to send to what it does not know, and Istio has no name for that there.
    let is_gateway = config.router.plan().unmatched == Unmatched::Reset;
    let (cluster, service) = match (decision.cluster(), &decision.outcome) {
        (Some(cluster), _) => (Arc::clone(&cluster.name), Service::of_cluster(cluster)),
        (None, Outcome::Passthrough) => ("PassthroughCluster".into(), Service::nobodys("PassthroughCluster", UNKNOWN)),
        (None, _) if is_gateway => return,
        (None, _) => ("BlackHoleCluster".into(), Service::nobodys("BlackHoleCluster", UNKNOWN)),
    };
    (passage.via.cluster, passage.service) = (cluster, Arc::new(service));
}

/// A connection, and what it takes up; or Envoy's flag and details.
type Opened = Result<(Box<dyn Io>, Vec<Held>), (&'static str, &'static str)>;

/// A connection to the socket that was asked for.
async fn pass_through(station: &Station, socket: SocketAddr, passage: &mut Passage) -> Opened {
    passage.upstream = Some(socket.to_string());
    let opened = Way::plain(socket).open_from(&station.identity, None, PATIENCE).await;
    let (server, local) = opened.map_err(|_| ("UF", ""))?;
    passage.upstream_local = local;
    Ok((server, Vec::new()))
}

/// How long bytes to a cluster may pause.
fn idle(cluster: &Cluster) -> Duration {
    let tcp = cluster.policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    let written = tcp.and_then(|tcp| tcp.idle_timeout).and_then(|time| time.to_std());
    written.map_or(times().bytes, |time| if time.is_zero() { Duration::MAX } else { time })
}

/// A connection to one of a cluster's endpoints.
async fn reach(
    station: &Station,
    config: &Config,
    (cluster, upstream): (&Cluster, &Arc<Upstream>),
    (roll, peer): (Roll, IpAddr),
    passage: &mut Passage,
) -> Opened {
    let mut ask = Ask::new(roll, now());
    ask.hash = key::of_connection(&cluster.policy, peer);
    let (host, reached, held) = upstream.pick(&ask).ok_or(("UH", "no_healthy_upstream"))?;
    let (server, mut taken) = through(station, config, (cluster, upstream), (Some(host), &reached), passage).await?;
    taken.push(held);
    Ok((server, taken))
}

/// A connection to this endpoint of a cluster. `host`: to whom it is reported what came of it.
async fn through(
    station: &Station,
    config: &Config,
    (cluster, upstream): (&Cluster, &Arc<Upstream>),
    (host, reached): (Option<HostId>, &Reached),
    passage: &mut Passage,
) -> Opened {
    passage.upstream = Some(reached.endpoint.to_string());
    let way = config.way(cluster, reached).ok_or(("UF", ""))?;
    let open = upstream.hold(What::Connection(way.to, None)).map_err(|_| ("UO", "overflow"))?;
    let opened = way.open_from(&station.identity, None, cluster.policy.connect_timeout).await;
    if let Some(host) = host {
        upstream.report(host, if opened.is_ok() { Ended::Answered(200) } else { Ended::Lost }, now());
    }
    let (server, local) = opened.map_err(|why| {
        passage.failure = why;
        ("UF", "")
    })?;
    passage.upstream_local = local;
    passage.destination = config.workload(reached);
    if let (Some(peer), Some(own)) = (way.peer, station.identity.name()) {
        (passage.source_principal, passage.destination_principal) = (Some(own), Some(peer));
    }
    Ok((server, vec![open]))
}
