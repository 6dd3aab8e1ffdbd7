//! Certificates of a test's own, and a client that takes any server and remembers what it showed.
#![allow(dead_code)] // Each test needs another part of it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::served::PATIENCE;

/// An authority.
pub struct Root {
    params: CertificateParams,
    key: Vec<u8>,
    certificate: Vec<u8>,
}

/// A certificate and its key.
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
        let root = Issuer::new(self.params.clone(), KeyPair::try_from(self.key.as_slice()).unwrap());
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_string()]).unwrap().signed_by(&key, &root).unwrap();
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

/// Asks a door for a path over TLS, as somebody or nobody. The whole answer, and the certificate of whoever opened.
pub fn knock(
    door: &str,
    name: &str,
    protocols: &[&[u8]],
    own: Option<Issued>,
    path: &str,
) -> std::io::Result<(String, Vec<u8>)> {
    knock_slowly(door, (name, Duration::ZERO), protocols, own, path)
}

/// The same with a pause between the handshake and the request.
pub fn knock_slowly(
    door: &str,
    (name, pause): (&str, Duration),
    protocols: &[&[u8]],
    own: Option<Issued>,
    path: &str,
) -> std::io::Result<(String, Vec<u8>)> {
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
    let server = ServerName::try_from(name.to_string()).unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), server).unwrap();
    let mut socket = TcpStream::connect(door)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if !pause.is_zero() {
        tls.complete_io(&mut socket)?;
        std::thread::sleep(pause);
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    if text.is_empty() {
        read?;
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let certificate = anybody.0.lock().unwrap().clone();
    Ok((text, certificate))
}
