//! The certificates that a gateway shows to those who come from outside.
//!
//! Knows files and TLS. Files are looked at again and again; what cannot be used leaves in force what was there before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::Failure;
use crate::access_log;
use crate::identity::provider;
use crate::stranger::Guest;
use crate::wire::Credential;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// All certificates of a gateway.
#[derive(Default)]
pub struct Credentials(ArcSwap<Vec<Loaded>>);

/// What is wanted, and what came of it.
#[derive(Clone)]
struct Loaded {
    wanted: Credential,
    /// Stands for the contents of its files.
    seen: u64,
    server: Option<Arc<ServerConfig>>,
}

/// Of a request: that it came encrypted, and for which server.
#[derive(Clone, Debug)]
pub struct Secured(pub Option<Arc<str>>);

impl Credentials {
    /// From now on these are wanted.
    pub fn adopt(&self, wanted: Vec<Credential>) {
        let before = self.0.load();
        let load = |wanted: Credential| {
            let known = before.iter().find(|known| known.wanted == wanted).cloned();
            known.unwrap_or(Loaded { wanted, seen: 0, server: None }).renewed()
        };
        self.0.store(Arc::new(wanted.into_iter().map(load).collect()));
    }

    /// Looks at the files again and again.
    pub async fn follow(self: Arc<Self>) {
        let mut pace = interval(LOOK);
        loop {
            pace.tick().await;
            let before = self.0.load_full();
            let now: Vec<Loaded> = before.iter().cloned().map(Loaded::renewed).collect();
            if now.iter().map(|one| one.seen).ne(before.iter().map(|one| one.seen)) {
                // What discovery has sent in the meantime stands.
                self.0.compare_and_swap(&before, Arc::new(now));
            }
        }
    }

    /// Whether connections to a port may end here.
    pub fn any(&self, port: u16) -> bool {
        self.0.load().iter().any(|known| known.wanted.port == port)
    }

    /// What is shown at a port to somebody who asks for a server: that of the narrowest host.
    fn find(&self, port: u16, name: Option<&str>) -> Option<Arc<ServerConfig>> {
        let known = self.0.load();
        let fitting = known.iter().filter(|known| known.wanted.port == port);
        let fitting = fitting.flat_map(|known| known.wanted.hosts.iter().map(move |host| (host, known)));
        let (_, best) = fitting.filter(|(host, _)| fits(host, name)).max_by_key(|(host, _)| breadth(host))?;
        best.server.clone()
    }

    /// Whether a connection ends here: some server of the port is for this name.
    pub fn ends_here(&self, port: u16, name: Option<&str>) -> bool {
        let known = self.0.load();
        known.iter().any(|known| known.wanted.port == port && known.wanted.hosts.iter().any(|host| fits(host, name)))
    }

    /// Whether what ends here is the mesh's own encryption.
    pub fn are_own(&self, port: u16, name: Option<&str>) -> bool {
        let known = self.0.load();
        let fitting = known.iter().filter(|known| known.wanted.port == port && known.wanted.own);
        fitting.flat_map(|known| &known.wanted.hosts).any(|host| fits(host, name))
    }

    /// Accepts an encrypted connection.
    pub async fn accept<S>(&self, port: u16, name: Option<&str>, stream: S) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.find(port, name)?);
        timeout(PATIENCE, acceptor.accept(stream)).await.ok()?.ok()
    }
}

impl Loaded {
    /// The same with what its files say now, where that can be used.
    fn renewed(mut self) -> Self {
        if self.wanted.own {
            return self;
        }
        let seen = fingerprint(&self.wanted);
        if seen == self.seen {
            return self;
        }
        self.seen = seen;
        match load(&self.wanted) {
            Ok(server) => self.server = Some(Arc::new(server)),
            Err(error) => access_log::write(format!(
                "gateway: the certificate for {:?} cannot be used: {error}",
                self.wanted.hosts
            )),
        }
        self
    }
}

/// `*`, `*.example.com` or a host; `None`: nobody was asked for, which only `*` fits.
fn fits(host: &str, name: Option<&str>) -> bool {
    let Some(name) = name else { return host == "*" };
    match host.strip_prefix('*') {
        Some(end) => name.len() > end.len() && name.to_ascii_lowercase().ends_with(&end.to_ascii_lowercase()),
        None => host.eq_ignore_ascii_case(name),
    }
}

/// Larger is narrower.
fn breadth(host: &str) -> (bool, usize) {
    (!host.starts_with('*'), host.len())
}

fn files(wanted: &Credential) -> impl Iterator<Item = &Path> {
    [Some(&wanted.certificate), Some(&wanted.key), wanted.authorities.as_ref()].into_iter().flatten().map(AsRef::as_ref)
}

fn fingerprint(wanted: &Credential) -> u64 {
    let mut hasher = DefaultHasher::new();
    files(wanted).for_each(|file| std::fs::read(file).ok().hash(&mut hasher));
    // Nothing has been seen yet where it is 0.
    hasher.finish().max(1)
}

fn load(wanted: &Credential) -> Result<ServerConfig, Failure> {
    if let Some(field) = &wanted.beyond {
        return Err(format!("{field} is not read; take it out").into());
    }
    let chain = CertificateDer::pem_file_iter(&wanted.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&wanted.key)?;
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let config = match &wanted.authorities {
        None => config.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for root in CertificateDer::pem_file_iter(file)? {
                roots.add(root?)?;
            }
            let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            let clients = if wanted.optional { clients.allow_unauthenticated() } else { clients };
            config.with_client_cert_verifier(Arc::new(Guest::new(clients.build()?, &wanted.names)))
        }
    };
    let mut config = config.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
