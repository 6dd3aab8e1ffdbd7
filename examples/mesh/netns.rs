//! A network namespace: how a thread enters one, how sockets are opened in it, and what Linux says about a connection
//! that was redirected.
//!
//! A process stays where it is, on the machine's own loopback, where discovery and its own page are; only its dealings
//! with pods happen inside. A socket belongs for ever to the namespace of the thread that opened it: one thread goes in and
//! opens them for all others.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;

/// Where `ip netns` keeps the namespaces that have names.
pub const NAMED: &str = "/run/netns";

/// A thread in a namespace.
pub struct Namespace(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Namespace {
    /// Sends a thread into the namespace of this name.
    pub fn enter(name: &str) -> io::Result<Self> {
        let (sender, jobs) = channel::<Job>();
        let (told, entered) = channel();
        let name = name.to_string();
        std::thread::spawn(move || {
            let outcome = join(&name);
            let inside = outcome.is_ok();
            let _ = told.send(outcome);
            // A job done elsewhere than inside would be worse than none.
            jobs.iter().filter(|_| inside).for_each(|job| job());
        });
        entered.recv().map_err(io::Error::other)??;
        Ok(Namespace(sender))
    }

    /// Has something done inside.
    async fn within<T: Send + 'static>(&self, job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (told, outcome) = oneshot::channel();
        let sent = self.0.send(Box::new(move || drop(told.send(job()))));
        sent.map_err(|_| io::Error::other("the namespace has been left"))?;
        outcome.await.map_err(io::Error::other)?
    }

    /// A listener inside.
    pub async fn listen(&self, address: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
        let listener = self.within(move || std::net::TcpListener::bind((address, port))).await?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// A UDP socket inside.
    pub async fn datagrams(&self, address: Ipv4Addr, port: u16) -> io::Result<UdpSocket> {
        let socket = self.within(move || std::net::UdpSocket::bind((address, port))).await?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// A connection that begins inside. The rules of the namespace know it by its mark.
    pub async fn connect(&self, to: SocketAddr, mark: u32) -> io::Result<TcpStream> {
        let opened = self.within(move || {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            set_mark(&socket, mark)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        TcpSocket::from_std_stream(opened.await?.into()).connect(to).await
    }
}

/// Puts the calling thread into a namespace.
#[cfg(target_os = "linux")]
pub fn join(name: &str) -> io::Result<()> {
    let namespace = std::fs::File::open(Path::new(NAMED).join(name))?;
    Ok(nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

#[cfg(target_os = "linux")]
fn set_mark(socket: &Socket, mark: u32) -> io::Result<()> {
    socket.set_mark(mark)
}

/// Where a connection was meant to go before it was redirected (`SO_ORIGINAL_DST`).
#[cfg(target_os = "linux")]
pub fn meant_for(stream: &TcpStream) -> Option<SocketAddrV4> {
    SockRef::from(stream).original_dst_v4().ok()?.as_socket_ipv4()
}

/// Other systems have no such namespaces.
#[cfg(not(target_os = "linux"))]
pub fn join(name: &str) -> io::Result<()> {
    Err(io::Error::other(format!("`{}`: only Linux has network namespaces", Path::new(NAMED).join(name).display())))
}

#[cfg(not(target_os = "linux"))]
fn set_mark(_: &Socket, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub fn meant_for(stream: &TcpStream) -> Option<SocketAddrV4> {
    let _ = SockRef::from(stream);
    None
}
