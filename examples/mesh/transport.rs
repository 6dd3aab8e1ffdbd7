//! How a connection to somebody is opened: plainly, or proving who is there.
//!
//! Knows sockets and identities. Knows nothing of what is sent.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial;
use crate::identity::Identity;
use crate::outside::Origin;
use crate::pool::Tongue;
use crate::spiffe::Name;

/// A connection of either kind.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// Where a connection goes, and whom it must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The socket.
    pub to: SocketAddr,
    /// Who of the mesh must be there, by mutual TLS; `None`: nobody is asked to be.
    pub peer: Option<Name>,
    /// The server name that is asked for in the mesh; `None`: none.
    pub sni: Option<String>,
    /// TLS to somebody who is not of the mesh; `None`: there is none.
    pub outside: Option<Box<Abroad>>,
}

/// By the socket, which tells ways apart, mostly: they are looked up for each request.
impl Hash for Way {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.to.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 16 | u64::from(self.to.port())),
            IpAddr::V6(ip) => state.write_u128(ip.to_bits().rotate_left(16) ^ u128::from(self.to.port())),
        }
    }
}

/// Somebody outside.
#[derive(Clone, Debug)]
pub struct Abroad {
    /// How they are spoken to.
    pub origin: Arc<Origin>,
    /// The host that a request is for, where that matters and is known.
    pub host: Option<String>,
}

impl PartialEq for Abroad {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin) && self.host == other.host
    }
}

impl Eq for Abroad {}

impl Way {
    /// A way that is not encrypted.
    pub fn plain(to: SocketAddr) -> Self {
        Way { to, peer: None, sni: None, outside: None }
    }

    /// The way of a request with these headers: the name that is sent outside is that of its `Host`, as with Envoy's `auto_sni`.
    pub fn of_request(mut self, headers: &HeaderMap) -> Self {
        if let Some(abroad) = self.outside.as_mut().filter(|abroad| abroad.origin.is_automatic())
            && let Some(Ok(authority)) = headers.get(header::HOST).map(HeaderValue::to_str)
        {
            let authority = authority.parse::<Authority>().ok();
            abroad.host = authority.map(|authority| authority.host().trim_matches(['[', ']']).to_string());
        }
        self
    }

    /// Opens a connection, for requests in this tongue or for whatever comes. The error says how TLS failed; empty: nobody
    /// is there in time, or somebody else.
    pub async fn open(
        &self,
        identity: &Identity,
        tongue: Option<Tongue>,
        patience: Duration,
    ) -> Result<Box<dyn Io>, String> {
        self.open_from(identity, tongue, patience).await.map(|(stream, _)| stream)
    }

    /// The same with this side's socket.
    pub async fn open_from(
        &self,
        identity: &Identity,
        tongue: Option<Tongue>,
        patience: Duration,
    ) -> Result<(Box<dyn Io>, Option<SocketAddr>), String> {
        let opening = async {
            let stream = self.dial().await.map_err(|_| String::new())?;
            let local = stream.local_addr().ok();
            Ok((self.secured(stream, identity, tongue).await?, local))
        };
        timeout(patience, opening).await.unwrap_or_else(|_| Err(String::new()))
    }

    async fn secured(
        &self,
        stream: TcpStream,
        identity: &Identity,
        tongue: Option<Tongue>,
    ) -> Result<Box<dyn Io>, String> {
        let _ = stream.set_nodelay(true);
        if let Some(peer) = &self.peer {
            let secured = identity.secure(stream, peer, self.sni.as_deref()).await;
            return secured.map(|stream| Box::new(stream) as Box<dyn Io>).ok_or_else(String::new);
        }
        if let Some(Abroad { origin, host }) = self.outside.as_deref() {
            return Ok(Box::new(origin.secure(stream, host.as_deref(), tongue).await?));
        }
        Ok(Box::new(stream))
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        // A pod that calls itself by way of the mesh is called as everybody is.
        let to_itself = self.peer.is_none() && dial::own(self.to.port()) == Some(self.to);
        if to_itself { dial::home(self.to).await } else { dial::out(self.to).await }
    }
}
