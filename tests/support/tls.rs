//! Certificates of a test's own, a client that takes any server and remembers what it showed, one that knows discovery as the
//! mesh's parts do, and a server that remembers what it heard.
#![allow(dead_code)] // Each test needs another part of it.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};

use super::served::PATIENCE;

/// An authority.
pub struct Root {
    params: CertificateParams,
    key: Vec<u8>,
    certificate: Vec<u8>,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Issued {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl Root {
    pub fn new(called: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, called);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Root { params, key: key.serialize_der(), certificate }
    }

    /// For a host.
    pub fn issue(&self, name: &str) -> Issued {
        self.sign(&CertificateParams::new(vec![name.to_string()]).unwrap())
    }

    /// For a workload, by its URI.
    pub fn issue_to(&self, workload: &str) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(workload.try_into().unwrap())];
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Issued {
        let root = Issuer::new(self.params.clone(), KeyPair::try_from(self.key.as_slice()).unwrap());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &root).unwrap();
        Issued { certificate: certificate.der().to_vec(), key: key.serialize_der() }
    }

    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }
}

impl Issued {
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }
}

/// RFC 7468.
fn pem(what: &str, bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * at) & 63) as usize] as char;
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

/// Takes any server, and remembers its certificate.
#[derive(Debug, Default)]
struct Anybody(Mutex<Vec<u8>>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A client's end of a connection.
pub type Client = StreamOwned<ClientConnection, TcpStream>;

/// Opens a door over TLS, as somebody or nobody, whoever stands behind it. With it, the certificate that was shown.
pub fn open(door: &str, name: &str, protocols: &[&[u8]], own: Option<Issued>) -> io::Result<(Client, Vec<u8>)> {
    let anybody = Arc::new(Anybody::default());
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(anybody.clone());
    let mut config = match own {
        Some(Issued { certificate, key }) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
            config.with_client_auth_cert(vec![CertificateDer::from(certificate)], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let client = connect(door, name, config)?;
    let certificate = anybody.0.lock().unwrap().clone();
    Ok((client, certificate))
}

fn connect(door: &str, name: &str, config: ClientConfig) -> io::Result<Client> {
    let server = ServerName::try_from(name.to_string()).unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), server).unwrap();
    let mut socket = TcpStream::connect(door)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

/// Asks a door for a path over TLS, as somebody or nobody. The whole answer, and the certificate of whoever opened.
pub fn knock(
    door: &str,
    name: &str,
    protocols: &[&[u8]],
    own: Option<Issued>,
    path: &str,
) -> io::Result<(String, Vec<u8>)> {
    knock_slowly(door, (name, Duration::ZERO), protocols, own, path)
}

/// The same with a pause between the handshake and the request.
pub fn knock_slowly(
    door: &str,
    (name, pause): (&str, Duration),
    protocols: &[&[u8]],
    own: Option<Issued>,
    path: &str,
) -> io::Result<(String, Vec<u8>)> {
    let (mut stream, certificate) = open(door, name, protocols, own)?;
    std::thread::sleep(pause);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    if text.is_empty() {
        read?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((text, certificate))
}

/// The name in the certificate of the mesh's discovery.
pub const DISCOVERY: &str = "istiod.istio-system.svc";

/// Connects to discovery as a part does: if one of these roots vouches for it.
pub fn reach(discovery: &str, roots: &[Vec<u8>]) -> io::Result<Client> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(CertificateDer::from(root.as_slice())).unwrap());
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    connect(discovery, DISCOVERY, config.with_root_certificates(store).with_no_client_auth())
}

/// A stream of which every byte that came is remembered.
struct Remembered(TcpStream, Vec<u8>);

impl Read for Remembered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Remembered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The next who comes here is shown this; `None`: is not answered. Its first line, and all bytes as they came.
pub fn receive(listener: &TcpListener, shown: Option<Issued>) -> (io::Result<String>, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    // Long enough for whoever would say more.
    stream.set_read_timeout(Some(if shown.is_some() { PATIENCE } else { PATIENCE / 30 })).unwrap();
    let mut stream = Remembered(stream, Vec::new());
    let line = match shown {
        Some(shown) => hear(&mut stream, shown),
        None => stream.read_to_end(&mut Vec::new()).map(|_| String::new()),
    };
    (line, stream.1)
}

fn hear(stream: &mut Remembered, shown: Issued) -> io::Result<String> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(shown.key));
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let chain = vec![CertificateDer::from(shown.certificate)];
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let mut tls = ServerConnection::new(Arc::new(config)).unwrap();
    let mut line = String::new();
    BufReader::new(rustls::Stream::new(&mut tls, stream)).read_line(&mut line)?;
    Ok(line)
}
