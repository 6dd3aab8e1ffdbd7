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

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dial::Home;
use crate::message::Ends;
use crate::station::Station;
use crate::{dns, inbound, message, netns, tunnel};

/// Where what goes out is taken up: Istio's number.
pub const OUT: u16 = 15001;
/// Where what comes in is taken up: Istio's number.
pub const IN: u16 = 15006;
/// Where names are asked for: Istio's number.
pub const NAMES: u16 = 15053;

/// How long whoever asks for names may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the doors in a pod's namespace.
pub async fn open(home: &Home, station: &Arc<Station>) -> std::io::Result<()> {
    let within = &home.namespace;
    let out = within.listen(Ipv4Addr::LOCALHOST, OUT).await?;
    let incoming = within.listen(Ipv4Addr::UNSPECIFIED, IN).await?;
    // From another address than the one that was asked, an answer would not be recognised.
    let datagrams = within.datagrams(Ipv4Addr::LOCALHOST, NAMES).await?;
    let streams = within.listen(Ipv4Addr::LOCALHOST, NAMES).await?;
    let itself = Arc::clone(station);
    tokio::spawn(message::accept(out, move |stream, peer| send(Arc::clone(&itself), stream, peer)));
    let itself = Arc::clone(station);
    tokio::spawn(message::accept(incoming, move |stream, peer| receive(Arc::clone(&itself), stream, peer)));
    tokio::spawn(tell_names(datagrams, Arc::clone(station)));
    tokio::spawn(tell_names_at_length(streams, Arc::clone(station)));
    Ok(())
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

/// Answers questions for names.
async fn tell_names(socket: UdpSocket, station: Arc<Station>) {
    let mut message = [0; dns::UDP];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut message).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if let Some(answer) = dns::answer(&message[..length], dns::UDP, |name| addresses(&station, name)) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The same for those who ask through a connection (RFC 7766).
async fn tell_names_at_length(listener: TcpListener, station: Arc<Station>) {
    message::accept(listener, move |mut stream, _| {
        let station = Arc::clone(&station);
        async move { while let Ok(Some(())) = timeout(PATIENCE, tell_one(&mut stream, &station)).await {} }
    })
    .await;
}

async fn tell_one(stream: &mut TcpStream, station: &Station) -> Option<()> {
    let mut message = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut message).await.ok()?;
    let answer = dns::answer(&message, usize::from(u16::MAX), |name| addresses(station, name))?;
    let length = u16::try_from(answer.len()).ok()?;
    stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await.ok()
}

/// The addresses of a name, as the configuration in force has them. There is no way out of the mesh, and so nobody else
/// who could be asked.
fn addresses(station: &Station, name: &str) -> Vec<IpAddr> {
    let config = station.config.borrow().clone();
    config.map(|config| config.router.lookup(name).to_vec()).unwrap_or_default()
}
