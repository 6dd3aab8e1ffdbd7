//! Interception: what a pod's programs send and get passes through its sidecar, and they know nothing of it.
//!
//! ```text
//!   the pod's namespace                                   rules of nftables, loaded by the parent ([`fabric`](crate::fabric))
//!     a program --- TCP to anywhere ------> 127.0.0.1:15001   what goes out, by the address that it was meant for
//!     a program --- port 53, UDP and TCP -> 127.0.0.1:15053   names
//!     eth0 -------- TCP to any port ------> *:15006           what comes in, by the port that it was meant for
//! ```
//!
//! The sidecar itself is a process outside, beside discovery; these are sockets of its that were opened inside. What it
//! sends bears a mark and is not taken up again. Nothing but TCP and names is touched: a ping goes its way.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::dial::Home;
use crate::message::Ends;
use crate::station::Station;
use crate::{inbound, message, netns, resolver, tunnel};

/// Where what goes out is taken up: Istio's number.
pub const OUT: u16 = 15001;
/// Where what comes in is taken up: Istio's number.
pub const IN: u16 = 15006;
/// Where names are asked for: Istio's number.
pub const NAMES: u16 = 15053;

/// Opens the doors in a pod's namespace.
pub async fn open(home: &Home, station: &Arc<Station>) -> std::io::Result<()> {
    let within = &home.namespace;
    let out = within.listen(Ipv4Addr::LOCALHOST, OUT).await?;
    let incoming = within.listen(Ipv4Addr::UNSPECIFIED, IN).await?;
    let itself = Arc::clone(station);
    tokio::spawn(message::accept(out, move |stream, peer| send(Arc::clone(&itself), stream, peer)));
    let itself = Arc::clone(station);
    tokio::spawn(message::accept(incoming, move |stream, peer| receive(Arc::clone(&itself), stream, peer)));
    let itself = Arc::clone(station);
    resolver::open(within, Ipv4Addr::LOCALHOST, NAMES, Arc::new(move |name| addresses(&itself, name))).await
}

/// Takes up a connection of the pod's.
async fn send(station: Arc<Station>, stream: TcpStream, peer: SocketAddr) {
    let Some(meant) = meant_for(&stream, OUT) else { return };
    let caller = (peer, Some(Ends { local: meant, remote: peer }));
    tunnel::carry_on(station, stream, &meant.ip().to_string(), meant.port(), caller).await;
}

/// Takes up a connection to the pod.
async fn receive(station: Arc<Station>, stream: TcpStream, peer: SocketAddr) {
    let Some(meant) = meant_for(&stream, IN) else { return };
    inbound::receive(station, stream, peer, meant, meant.port()).await;
}

/// Where a connection was meant to go; `None`: here, and a proxy that sends to itself would do so for ever.
fn meant_for(stream: &TcpStream, own: u16) -> Option<SocketAddr> {
    let meant = SocketAddr::from(netns::meant_for(stream)?);
    (meant.port() != own).then_some(meant)
}

/// The addresses of a name, as the configuration in force has them. There is no way out of the mesh, and so nobody else
/// who could be asked.
fn addresses(station: &Station, name: &str) -> Vec<IpAddr> {
    let Some(config) = station.config.borrow().clone() else { return Vec::new() };
    match config.router.lookup(name) {
        [] if config.claims(name) => vec![stand_in(name)],
        known => known.to_vec(),
    }
}

/// An address for a host that has none, so that requests can be sent to it: they say for whom they are. The range is that
/// from which Istio gives such hosts theirs.
fn stand_in(name: &str) -> IpAddr {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let [high, low, ..] = hasher.finish().to_be_bytes();
    Ipv4Addr::new(240, 240, high, low).into()
}
