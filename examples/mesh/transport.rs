//! How a connection to somebody is opened: plainly, or proving who both sides are.
//!
//! Knows sockets and identities. Knows nothing of what is sent.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial;
use crate::identity::Identity;
use crate::spiffe::Name;

/// A connection of either kind.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// Where a connection goes, and whom it must lead to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The socket.
    pub to: SocketAddr,
    /// Who must be there, by mutual TLS; `None`: it is not encrypted.
    pub peer: Option<Name>,
    /// The server name that is asked for; `None`: none.
    pub sni: Option<String>,
}

impl Way {
    /// A way that is not encrypted.
    pub fn plain(to: SocketAddr) -> Self {
        Way { to, peer: None, sni: None }
    }

    /// Opens a connection; `None`: nobody is there in time, or somebody else.
    pub async fn open(&self, identity: &Identity, patience: Duration) -> Option<Box<dyn Io>> {
        let stream = timeout(patience, self.dial()).await.ok()?.ok()?;
        let _ = stream.set_nodelay(true);
        match &self.peer {
            None => Some(Box::new(stream)),
            Some(peer) => Some(Box::new(identity.secure(stream, peer, self.sni.as_deref()).await?)),
        }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        // A pod that calls itself by way of the mesh is called as everybody is.
        let to_itself = self.peer.is_none() && dial::own(self.to.port()) == Some(self.to);
        if to_itself { dial::home(self.to).await } else { dial::out(self.to).await }
    }
}
