//! Who this proxy is, as it can prove it; and who the others must prove to be.
//!
//! Knows keys, certificates and TLS. The key is made here and never leaves the process; the name in the certificate is what
//! discovery knows of the token that the parent handed out. Certificates live short, and are renewed at half of their life
//! with some jitter; where that fails, the old one goes on until it ends, and it is tried again.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use meshroute::Roll;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, version,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::session::Bond;
use crate::spiffe::Name;
use crate::wire::{self, Discovery, MAX_LINE, Opened, Signed, Signing, Whereabouts};
use crate::{Failure, metrics, trust};

/// What mesh connections say they speak, so that they are told from TLS that is the application's own.
pub const ALPN: &[u8] = b"istio";
/// How long discovery may take to sign, and a handshake to be done.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a renewal that failed, at most.
const PAUSE: Duration = Duration::from_secs(5);

/// What a proxy proves itself with.
pub struct Identity {
    current: ArcSwapOption<Current>,
    /// How often it was to be signed, and how often that failed.
    asked: AtomicU64,
    failed: AtomicU64,
    /// Until when the certificate is good, in seconds of the epoch; 0: there is none.
    until: AtomicU64,
}

/// A certificate in use, and the TLS that follows from it.
struct Current {
    name: Name,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Vec<Vec<u8>>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Identity {
            current: ArcSwapOption::empty(),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            until: AtomicU64::new(0),
        })
    }

    /// Who it is, if that is known yet.
    pub fn name(&self) -> Option<Name> {
        self.current.load().as_ref().map(|current| current.name.clone())
    }

    /// Takes note of the roots that are trusted from now on.
    pub fn trust(&self, roots: &[Vec<u8>]) {
        let Some(before) = self.current.load_full() else { return };
        if before.roots == roots {
            return;
        }
        let chain = before.chain.clone();
        if let Ok(next) = Current::new(before.name.clone(), chain, before.key.clone_key(), roots.to_vec()) {
            self.current.store(Some(Arc::new(next)));
        }
    }

    /// Has itself signed, for the first time and then again and again. Returns when it is somebody.
    pub async fn establish(self: &Arc<Self>, bond: Bond) {
        let (done, mut first) = watch::channel(false);
        let itself = Arc::clone(self);
        tokio::spawn(async move {
            let mut pause = Duration::from_millis(50);
            loop {
                match itself.renew(&bond).await {
                    Ok(lifetime) => {
                        itself.until.store(epoch().as_secs() + lifetime.as_secs(), Ordering::Relaxed);
                        done.send_replace(true);
                        pause = Duration::from_millis(50);
                        sleep(half(lifetime)).await;
                    }
                    Err(_) => {
                        sleep(pause).await;
                        pause = PAUSE.min(pause * 2);
                    }
                }
            }
        });
        let _ = first.wait_for(|done| *done).await;
    }

    /// A new key, signed.
    async fn renew(&self, bond: &Bond) -> Result<Duration, Failure> {
        let Whereabouts { discovery, token } = bond.discovery().ok_or("nobody has said where discovery is")?;
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?.der().to_vec();
        self.asked.fetch_add(1, Ordering::Relaxed);
        let signed = timeout(PATIENCE, ask(&discovery, Signing { token, request })).await;
        if !matches!(signed, Ok(Ok(_))) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let signed = signed??;
        let chain = vec![CertificateDer::from(signed.certificate)];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let name = chain.first().and_then(name_in).ok_or("it is signed for nobody")?;
        self.current.store(Some(Arc::new(Current::new(name, chain, key, signed.roots)?)));
        Ok(Duration::from_millis(signed.lifetime))
    }

    /// How it fares, under the names that Istio's agent has for it.
    pub fn exposition(&self) -> String {
        let (mut text, load) = (String::new(), |count: &AtomicU64| count.load(Ordering::Relaxed));
        let mut one = |name: &str, kind: &str, help: &str, labels: &str, value: u64| {
            metrics::head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        };
        let (csr, left) = ("request_type=\"csr\"", load(&self.until).saturating_sub(epoch().as_secs()));
        let (asked, failed) = ("istio_agent_num_outgoing_requests", "istio_agent_num_failed_outgoing_requests");
        one(asked, "counter", "How often a certificate was asked for.", csr, load(&self.asked));
        one(failed, "counter", "How often there was none.", csr, load(&self.failed));
        if self.name().is_some() {
            let expiry = "istio_agent_cert_expiry_seconds";
            one(expiry, "gauge", "For how long the certificate is good.", "resource_name=\"default\"", left);
        }
        text
    }

    /// Accepts a connection of the mesh, and says who is at the other end.
    pub async fn accept<S>(&self, stream: S) -> Option<(server::TlsStream<S>, Name)>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let current = self.current.load_full()?;
        let acceptor = TlsAcceptor::from(Arc::clone(&current.server));
        let stream = timeout(PATIENCE, acceptor.accept(stream)).await.ok()?.ok()?;
        let name = stream.get_ref().1.peer_certificates()?.first().and_then(name_in)?;
        Some((stream, name))
    }

    /// Secures a connection to somebody who must be `expected`.
    pub async fn secure(
        &self,
        stream: TcpStream,
        expected: &Name,
        sni: Option<&str>,
    ) -> Option<client::TlsStream<TcpStream>> {
        let current = self.current.load_full()?;
        let connector = TlsConnector::from(Arc::new(current.client(expected).ok()?));
        // For an address no server name is sent: who it is stands in the certificate.
        let nobody = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let server = sni.and_then(|sni| ServerName::try_from(sni.to_string()).ok()).unwrap_or(nobody);
        timeout(PATIENCE, connector.connect(server, stream)).await.ok()?.ok()
    }
}

/// The time since the epoch.
fn epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Half of a lifetime, give or take a tenth, so that those who started together don't renew together.
fn half(lifetime: Duration) -> Duration {
    let dice = Roll::random().draw(meshroute::Purpose::Endpoint) % 200;
    lifetime / 2 * (900 + dice as u32) / 1000
}

async fn ask(discovery: &Discovery, signing: Signing) -> Result<Signed, Failure> {
    let (read, mut write) = tokio::io::split(trust::reach(discovery).await?);
    wire::send(&mut write, &Opened::Signing(signing)).await?;
    let answer = wire::messages::<Result<Signed, String>, _>(read, MAX_LINE).recv().await;
    Ok(answer.ok_or("discovery says nothing")??)
}

impl Current {
    fn new(
        name: Name,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<Vec<u8>>,
    ) -> Result<Self, Failure> {
        let clients = Clients::new(&roots)?;
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(clients));
        let mut server = server.with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Nobody comes back without showing a certificate that is valid then.
        server.send_tls13_tickets = 0;
        Ok(Current { name, chain, key, roots, server: Arc::new(server) })
    }

    fn client(&self, expected: &Name) -> Result<ClientConfig, Error> {
        let servers = Servers { roots: store(&self.roots)?, expected: expected.clone() };
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(client)
    }
}

/// The cryptography: ring's.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Roots, as they are checked against.
pub fn store(roots: &[Vec<u8>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.as_slice()))?;
    }
    Ok(store)
}

/// The one name in a certificate; `None`: it has none of this trust domain, or more than one.
fn name_in(certificate: &CertificateDer<'_>) -> Option<Name> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut names = certificate.valid_uri_names();
    let (name, None) = (names.next()?, names.next()) else { return None };
    Name::parse(name)
}

/// Takes clients that are somebody of this trust domain.
#[derive(Debug)]
struct Clients(Arc<dyn ClientCertVerifier>);

impl Clients {
    fn new(roots: &[Vec<u8>]) -> Result<Self, Failure> {
        Ok(Clients(WebPkiClientVerifier::builder_with_provider(Arc::new(store(roots)?), provider()).build()?))
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(certificate, between, now)?;
        match name_in(certificate) {
            Some(_) => Ok(verified),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the mesh speaks TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Takes the one server that is meant.
#[derive(Debug)]
struct Servers {
    roots: RootCertStore,
    expected: Name,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, between, now, algorithms)?;
        match name_in(certificate) {
            Some(name) if name == self.expected => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the mesh speaks TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &ring::default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
