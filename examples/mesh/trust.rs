//! How a part knows discovery: the connection between the two is TLS, as at port 15012 of Istio's istiod.
//!
//! Discovery shows a certificate that the mesh's own authority has signed for it. A part checks that against the roots which
//! its parent has handed out beside the token, as Istio's agent does with those of the config map `istio-ca-root-cert`, and
//! says nothing before. So whoever else listens at discovery's port learns neither a token nor who is there.
//!
//! Only discovery shows a certificate. A part proves itself with its token, each time, also once it has a certificate: that
//! names a service account, which many pods may run under, and pods without a sidecar, kube-proxy and the parent have none.
//! The token names one part, and is worth nothing from the moment at which the parent hands out another.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig, version};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::Failure;
use crate::ca::Authority;
use crate::identity::{provider, store};
use crate::wire::Discovery;

/// The name in discovery's certificate: Istio's. One of SPIFFE would not do, since a pod that says it runs under discovery's
/// service account is signed for that; a host's name nobody is signed for who asks.
const NAME: &str = "istiod.istio-system.svc";
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What discovery proves itself with. The key is made anew in each life and with each certificate, and is kept nowhere.
pub struct Seal(ArcSwap<Shown>);

/// A certificate in use.
struct Shown {
    server: Arc<ServerConfig>,
    made: SystemTime,
}

impl Seal {
    /// A first one.
    pub fn new(authority: &Authority) -> Result<Self, Failure> {
        Ok(Seal(ArcSwap::from_pointee(Shown::new(authority)?)))
    }

    /// Makes another at half of its life. One of a root that no longer signs is renewed so before that root goes.
    pub fn renew(&self, authority: &Authority) -> Result<(), Failure> {
        // By a clock that was put back it has no age.
        let age = self.0.load().made.elapsed();
        if age.is_ok_and(|age| age < authority.lifetime() / 2) {
            return Ok(());
        }
        self.0.store(Arc::new(Shown::new(authority)?));
        Ok(())
    }

    /// Accepts a connection; `None`: it is no TLS, or whoever came does not know discovery by this.
    pub async fn accept(&self, stream: TcpStream) -> Option<server::TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.load().server));
        timeout(PATIENCE, acceptor.accept(stream)).await.ok()?.ok()
    }
}

impl Shown {
    fn new(authority: &Authority) -> Result<Self, Failure> {
        let (certificate, key) = authority.issue(NAME)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate)], key)?;
        // Nobody comes back without looking at the certificate that is shown then.
        server.send_tls13_tickets = 0;
        Ok(Shown { server: Arc::new(server), made: SystemTime::now() })
    }
}

/// Connects to discovery, and makes sure that it is.
pub async fn reach(discovery: &Discovery) -> io::Result<client::TlsStream<TcpStream>> {
    let roots = store(&discovery.roots).map_err(io::Error::other)?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (connector, name) =
        (TlsConnector::from(Arc::new(client)), ServerName::try_from(NAME).map_err(io::Error::other)?);
    let connected = async { connector.connect(name, TcpStream::connect(discovery.socket).await?).await };
    timeout(PATIENCE, connected).await?
}
