//! Where a part's connections to pods begin: on loopback, or in the network namespace that it was told (`--netns`).
//!
//! On loopback, pods' addresses are made up, and each stands for a socket of 127.0.0.1. In a namespace they are real. A
//! part is in one of these worlds for its whole life, so this is the process's own, and set once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use tokio::net::{TcpListener, TcpStream};

use crate::Failure;
use crate::args::Args;
use crate::netns::Namespace;

/// The mark of what a proxy sends: no rule takes it up again, unless it comes back to the own pod.
pub const SENT: u32 = 0x6d01;
/// The mark of what a proxy hands to its own pod.
pub const HANDED_ON: u32 = 0x6d02;

static HOME: OnceLock<Home> = OnceLock::new();

/// A namespace to be in.
pub struct Home {
    /// It.
    pub namespace: Namespace,
    /// The pod's own address in there; unspecified: the part belongs to no pod.
    pub address: Ipv4Addr,
}

impl Home {
    /// A listener for one of the pod's ports, and where others find it.
    pub async fn listen(&self, port: u16) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = self.namespace.listen(Ipv4Addr::UNSPECIFIED, port).await?;
        Ok((listener, SocketAddr::from((self.address, port))))
    }
}

/// Where this part is at home, if the command line says so: `--netns NAME --address ADDRESS`.
pub fn settle(args: &Args) -> Result<Option<&'static Home>, Failure> {
    let [name] = args.all("netns") else { return Ok(None) };
    let address = args.one("address")?.parse()?;
    let namespace = Namespace::enter(name).map_err(|error| format!("network namespace `{name}`: {error}"))?;
    Ok(Some(HOME.get_or_init(|| Home { namespace, address })))
}

/// Whether something can be reached from here at all.
pub fn reaches(to: SocketAddr) -> bool {
    to.ip().is_loopback() || (HOME.get().is_some() && to.is_ipv4())
}

/// The pod's own address with this port, where the part is in a namespace with its pod.
pub fn own(port: u16) -> Option<SocketAddr> {
    let home = HOME.get().filter(|home| !home.address.is_unspecified())?;
    Some(SocketAddr::from((home.address, port)))
}

/// A connection for what goes out.
pub async fn out(to: SocketAddr) -> io::Result<TcpStream> {
    dial(to, SENT).await
}

/// A connection to the own pod, behind all rules.
pub async fn home(to: SocketAddr) -> io::Result<TcpStream> {
    dial(to, HANDED_ON).await
}

async fn dial(to: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    match HOME.get() {
        Some(home) if !to.ip().is_loopback() => home.namespace.connect(to, mark).await,
        _ => TcpStream::connect(to).await,
    }
}
