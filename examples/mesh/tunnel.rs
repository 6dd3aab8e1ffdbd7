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
use meshroute::balance::{Ask, Ended, key};
use meshroute::plan::{Cluster, Endpoint};
use meshroute::{Connection, Outcome, Request, Roll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::config::Config;
use crate::message::{self, Ends};
use crate::opening::{self, Expected, Opening};
use crate::pool::Body;
use crate::question::{Door, ip};
use crate::station::Station;
use crate::times::{self, times};
use crate::transport::{Io, Way};
use crate::upstream::{Held, Kept, Upstream, What, now};

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
pub async fn dig(station: Arc<Station>, upgrade: OnUpgrade, host: String, port: u16, peer: SocketAddr) {
    let Ok(upgraded) = upgrade.await else { return };
    carry_on(station, TokioIo::new(upgraded), &host, port, (peer, None)).await;
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
    let what = format!("{host}:{port}");
    if matches!(opening, Opening::One | Opening::Two) && is_http(&config, &connection) {
        let door = Door::Tunnel(port, address);
        let stream = opening::rewound(begun, stream);
        let answer = move |mut request: hyper::Request<Incoming>| {
            ends.map(|ends| request.extensions_mut().insert(ends));
            Arc::clone(&station).answer(door, peer, request)
        };
        return message::talk(stream, opening, answer).await;
    }
    carry(&station, &config, &connection, (&what, peer.ip()), begun, stream).await;
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

/// Carries a connection as a whole to where the router says. `begun`: what was read of it.
pub async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    station: &Station,
    config: &Config,
    connection: &Connection<'_>,
    (what, peer): (&str, IpAddr),
    begun: Vec<u8>,
    stream: S,
) {
    let roll = Roll::random();
    let decision = config.router.connect(connection, &roll);
    let asked = ip(what.rsplit_once(':').map_or(what, |(host, _)| host));
    let reached = match decision.outcome {
        Outcome::Connect(to) => {
            let upstream = station.upstreams.of(to.cluster);
            let original = connection.address.map(|address| SocketAddr::new(address, connection.port));
            match config.original(to.cluster, original) {
                Some(endpoint) => through(station, config, to.cluster, &upstream, &endpoint).await.ok(),
                None => reach(station, config, to.cluster, &upstream, (roll, peer)).await,
            }
        }
        Outcome::Passthrough => match asked.and_then(|ip| config.real(SocketAddr::new(ip, connection.port))) {
            Some(socket) => {
                let server = Way::plain(socket).open(&station.identity, None, PATIENCE).await;
                server.ok().map(|server| (server, Vec::new(), socket.to_string()))
            }
            None => None,
        },
        _ => None,
    };
    let patience = match decision.outcome {
        Outcome::Connect(to) => idle(to.cluster),
        _ => times().bytes,
    };
    let Some((mut server, _held, upstream)) = reached else {
        station.note(&format!("{what} \"TCP\" - UH - (nobody takes this connection)"));
        return;
    };
    station.note(&format!("{what} \"TCP\" - - {upstream}"));
    if server.write_all(&begun).await.is_ok() {
        times::join(stream, server, patience).await;
    }
}

/// How long bytes to a cluster may pause.
fn idle(cluster: &Cluster) -> Duration {
    let tcp = cluster.policy.connection_pool.as_ref().and_then(|pool| pool.tcp.as_ref());
    let written = tcp.and_then(|tcp| tcp.idle_timeout).and_then(|time| time.to_std());
    written.map_or(times().bytes, |time| if time.is_zero() { Duration::MAX } else { time })
}

/// A connection, what it takes up, and where it leads in words.
type Reached = (Box<dyn Io>, Vec<Held>, String);

/// A connection to one of a cluster's endpoints.
async fn reach(
    station: &Station,
    config: &Config,
    cluster: &Cluster,
    upstream: &Arc<Upstream>,
    (roll, peer): (Roll, IpAddr),
) -> Option<Reached> {
    let mut ask = Ask::new(roll, now());
    ask.hash = key::of_connection(&cluster.policy, peer);
    let (host, endpoint, held) = upstream.pick(&ask)?;
    let reached = through(station, config, cluster, upstream, &endpoint).await;
    match &reached {
        Ok(_) => upstream.report(host, Ended::Answered(200)),
        Err(Untried::Failed) => upstream.report(host, Ended::Lost),
        Err(Untried::Refused) => {}
    }
    let (server, mut taken, to) = reached.ok()?;
    taken.push(held);
    Some((server, taken, to))
}

/// Why there is no connection to an endpoint.
enum Untried {
    /// It was not even tried: the cluster is full, or the way is unknown.
    Refused,
    /// It came to nothing.
    Failed,
}

/// A connection to this endpoint of a cluster.
async fn through(
    station: &Station,
    config: &Config,
    cluster: &Cluster,
    upstream: &Arc<Upstream>,
    endpoint: &Endpoint,
) -> Result<Reached, Untried> {
    let way = config.way(cluster, endpoint).ok_or(Untried::Refused)?;
    let open = upstream.hold(What::Connection(way.to, None)).map_err(|_| Untried::Refused)?;
    let connected = way.open(&station.identity, None, cluster.policy.connect_timeout).await;
    let server = connected.map_err(|_| Untried::Failed)?;
    Ok((server, vec![open], format!("{} {endpoint}", endpoint.workload).trim_start().to_string()))
}
