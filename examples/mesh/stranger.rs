//! Whom a server outside must prove to be, and a client from outside.
//!
//! Knows certificates. Knows neither files nor sockets.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

/// Whom to take.
#[derive(Debug)]
pub enum Stranger {
    /// Whoever has the key to what is shown: `insecureSkipVerify`.
    Anybody,
    /// Whom one of these authorities vouches for.
    Vouched {
        /// They.
        roots: Arc<RootCertStore>,
        /// The names, one of which the certificate must carry; empty: any.
        names: Vec<String>,
    },
}

impl ServerCertVerifier for Stranger {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Stranger::Vouched { roots, names } = self else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, between, now, algorithms().all)?;
        if names.is_empty() || names.iter().any(|name| carries(&parsed, certificate, name)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Takes the clients that somebody else takes, if their certificates carry one of some names.
#[derive(Debug)]
pub struct Guest {
    taken: Arc<dyn ClientCertVerifier>,
    /// Empty: any.
    names: Vec<String>,
}

impl Guest {
    /// Those of them that carry one of these names; without names, all.
    pub fn new(taken: Arc<dyn ClientCertVerifier>, names: &[String]) -> Self {
        Guest { taken, names: names.to_vec() }
    }
}

impl ClientCertVerifier for Guest {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.taken.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.taken.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let taken = self.taken.verify_client_cert(certificate, between, now)?;
        let parsed = ParsedCertificate::try_from(certificate)?;
        if self.names.is_empty() || self.names.iter().any(|name| carries(&parsed, certificate, name)) {
            return Ok(taken);
        }
        Err(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.taken.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.taken.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.taken.supported_verify_schemes()
    }
}

/// Whether a certificate is for a host, an address, or has a URI that reads so.
fn carries(parsed: &ParsedCertificate<'_>, certificate: &CertificateDer<'_>, name: &str) -> bool {
    if ServerName::try_from(name).is_ok_and(|name| verify_server_name(parsed, &name).is_ok()) {
        return true;
    }
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
    // A rule may also name the wildcard itself.
    let as_written = certificate.valid_dns_names().any(|dns| dns.eq_ignore_ascii_case(name));
    as_written || certificate.valid_uri_names().any(|uri| uri == name)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}
