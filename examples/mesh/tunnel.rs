//! Bytes that are carried without being looked into: tunnels that CONNECT opens, and connections that were upgraded.
//!
//! Of a tunnel only the beginning is looked at: what speaks HTTP is served as HTTP, request by request; all else goes on
//! as a whole to where the router says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use meshroute::balance::Ask;
use meshroute::plan::Cluster;
use meshroute::{Connection, Outcome, Request, Roll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};

use crate::config::Config;
use crate::message::{self, Ends};
use crate::opening::{self, Opening};
use crate::pool::Body;
use crate::question::{Door, ip};
use crate::station::{Caller, Station};
use crate::transport::{Io, Way};
use crate::upstream::{Held, Upstream, What, now};

/// How long the other side may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where an upgrade was agreed on by both sides, joins them.
pub fn splice(client: Option<OnUpgrade>, response: &mut Response<Body>) {
    let server: Option<OnUpgrade> = response.extensions_mut().remove();
    let (Some(client), Some(server)) = (client, server) else { return };
    if response.status() != hyper::StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    tokio::spawn(async move {
        if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
            // Whichever side ends it, ends it for both.
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
        }
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
    let (opening, begun) = opening::hear(&mut stream).await;
    let hello = opening.hello();
    let mut connection = Connection::new(port).address(address);
    connection.tls = hello;
    let what = format!("{host}:{port}");
    if matches!(opening, Opening::One | Opening::Two) && is_http(&config, &connection) {
        let door = Door::Tunnel(port, address);
        let stream = opening::rewound(begun, stream);
        let caller = Arc::new(Caller { peer, ends, name: None, secured: None });
        let answer =
            move |request: hyper::Request<Incoming>| Arc::clone(&station).answer(door, Arc::clone(&caller), request);
        return message::talk(stream, opening, answer).await;
    }
    carry(&station, &config, &connection, &what, begun, stream).await;
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
    what: &str,
    begun: Vec<u8>,
    mut stream: S,
) {
    let roll = Roll::random();
    let decision = config.router.connect(connection, &roll);
    let asked = ip(what.rsplit_once(':').map_or(what, |(host, _)| host));
    let reached = match decision.outcome {
        Outcome::Connect(to) => {
            let upstream = station.upstreams.of(to.cluster);
            reach(station, config, to.cluster, &upstream, roll).await
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
    let Some((mut server, _held, upstream)) = reached else {
        station.note(&format!("{what} \"TCP\" - UH - (nobody takes this connection)"));
        return;
    };
    station.note(&format!("{what} \"TCP\" - - {upstream}"));
    if server.write_all(&begun).await.is_ok() {
        let _ = copy_bidirectional(&mut stream, &mut server).await;
    }
}

/// A connection to one of a cluster's endpoints, and what it takes up.
async fn reach(
    station: &Station,
    config: &Config,
    cluster: &Cluster,
    upstream: &Arc<Upstream>,
    roll: Roll,
) -> Option<(Box<dyn Io>, Vec<Held>, String)> {
    use meshroute::balance::Ended;
    let (host, reached, held) = upstream.pick(&Ask::new(roll, now()))?;
    let way = config.way(cluster, &reached)?;
    let open = upstream.hold(What::Connection(way.to)).ok()?;
    let connected = way.open(&station.identity, None, cluster.policy.connect_timeout).await;
    upstream.report(host, if connected.is_ok() { Ended::Answered(200) } else { Ended::Lost }, now());
    let endpoint = reached.endpoint;
    Some((connected.ok()?, vec![held, open], format!("{} {endpoint}", endpoint.workload)))
}
