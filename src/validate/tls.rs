//! TLS towards endpoints and towards clients.

use std::collections::BTreeSet;

use super::field::Field;
use super::findings::Findings;
use crate::model::destination_rule::{ClientTlsMode, ClientTlsSettings};
use crate::model::gateway::{ServerTlsMode, ServerTlsSettings, TlsCertificate, TlsProtocol};

/// TLS towards endpoints. `ISTIO_MUTUAL` with superfluous fields is taken.
pub(super) fn client(settings: Option<&ClientTlsSettings>, field: &Field, found: &mut Findings) {
    let Some(tls) = settings else { return };
    if let Some(name) = tls.credential_name.strip_prefix("configmap://") {
        config_map(name, &field.key("credentialName"), found);
    }
    let (simple, mutual) = (tls.mode == ClientTlsMode::Simple, tls.mode == ClientTlsMode::Mutual);
    if tls.insecure_skip_verify == Some(true) {
        unverified(tls, simple, mutual, field, found);
    }
    if (simple || mutual) && !tls.credential_name.is_empty() {
        let files = [&tls.client_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl];
        if files.iter().any(|file| !file.is_empty()) {
            let message = "`credentialName` must not be given together with files of certificates";
            found.error(&field.key("credentialName"), "certificate-conflict", message);
        }
        return;
    }
    for (word, file) in [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)] {
        if mutual && file.is_empty() {
            found.error(field, "no-certificate", format!("mode `MUTUAL` needs `{word}`, or `credentialName`"));
        }
    }
}

/// `[namespace/]name`, in the rule's own namespace.
fn config_map(name: &str, field: &Field, found: &mut Findings) {
    let parts: Vec<&str> = name.split('/').collect();
    let own = match *parts {
        [name] => !name.is_empty(),
        [namespace, name] => namespace == found.namespace() && !name.is_empty(),
        _ => false,
    };
    if !own {
        let message = format!("`configmap://{name}` names no ConfigMap of the rule's own namespace");
        found.error(field, "bad-credential-name", message);
    }
}

/// What is not verified needs nothing to verify it with.
fn unverified(tls: &ClientTlsSettings, simple: bool, mutual: bool, field: &Field, found: &mut Findings) {
    let verifies = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    let credential = simple && !tls.credential_name.is_empty();
    if (simple || mutual) && (verifies || credential) {
        let message = "`insecureSkipVerify` must not be true together with authorities or `subjectAltNames`";
        found.error(&field.key("insecureSkipVerify"), "unverified-conflict", message);
    }
}

/// TLS towards clients, at a gateway or a sidecar.
pub(super) fn server(settings: Option<&ServerTlsSettings>, field: &Field, found: &mut Findings) {
    let Some(tls) = settings else { return };
    ciphers(tls, field, found);
    match tls.mode {
        ServerTlsMode::IstioMutual => return istio_mutual(tls, field, found),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => unused_certificates(tls, field, found),
        _ => {}
    }
    let sources = certificate_sources(tls);
    if sources.len() > 1 {
        let message = format!("only one source of certificates may be given, not {}", sources.join(" and "));
        found.error(field, "certificate-conflict", message);
    }
    let ends_here = matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if ends_here && (!tls.credential_name.is_empty() || !tls.credential_names.is_empty()) {
        return;
    }
    if ends_here {
        certificates(tls, field, found);
    }
    if !tls.ca_crl.is_empty() && (!tls.credential_name.is_empty() || tls.mode == ServerTlsMode::Simple) {
        let message = "`caCrl` must not be given in mode `SIMPLE`, or together with `credentialName`";
        found.error(&field.key("caCrl"), "certificate-conflict", message);
    }
}

fn ciphers(tls: &ServerTlsSettings, field: &Field, found: &mut Findings) {
    let old = matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1);
    if old && tls.cipher_suites.is_empty() {
        let message = "versions below `TLSV1_2` need `cipherSuites`: the default ones are too new for them";
        found.warning(&field.key("minProtocolVersion"), "no-compatible-ciphers", message);
    }
    let mut seen = BTreeSet::new();
    for (i, suite) in tls.cipher_suites.iter().enumerate() {
        let field = field.key("cipherSuites").at(i);
        if !is_cipher_suite(suite) {
            found.warning(&field, "unknown-cipher", format!("unknown cipher suite `{suite}`; it is ignored"));
        } else if !seen.insert(suite) {
            found.warning(&field, "duplicate-cipher", format!("cipher suite `{suite}` is given more than once"));
        }
    }
}

/// The suites that Envoy has, by OpenSSL's names.
const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

/// A known suite, or an expression that begins with an operator, which nobody looks into.
fn is_cipher_suite(suite: &str) -> bool {
    suite == "ALL" || !suite.starts_with(|c: char| c.is_alphanumeric()) || CIPHER_SUITES.contains(&suite)
}

/// Istio brings the certificates itself.
fn istio_mutual(tls: &ServerTlsSettings, field: &Field, found: &mut Findings) {
    for (word, given) in given(tls).into_iter().filter(|(word, _)| *word != "caCrl") {
        if given {
            found.error(&field.key(word), "certificate-conflict", format!("mode `ISTIO_MUTUAL` has no `{word}`"));
        }
    }
}

/// The fields that speak of certificates, and whether they are given.
fn given(tls: &ServerTlsSettings) -> [(&'static str, bool); 7] {
    [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
    ]
}

fn unused_certificates(tls: &ServerTlsSettings, field: &Field, found: &mut Findings) {
    for (word, _) in given(tls).into_iter().filter(|(_, given)| *given) {
        found.warning(&field.key(word), "unused-certificate", format!("mode `{}` ignores `{word}`", tls.mode));
    }
}

fn certificate_sources(tls: &ServerTlsSettings) -> Vec<&'static str> {
    let files = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
    let sources = [
        ("`serverCertificate`", files),
        ("`credentialName`", !tls.credential_name.is_empty()),
        ("`credentialNames`", !tls.credential_names.is_empty()),
        ("`tlsCertificates`", !tls.tls_certificates.is_empty()),
    ];
    sources.into_iter().filter(|(_, given)| *given).map(|(word, _)| word).collect()
}

/// The files that a mode needs which ends TLS.
fn certificates(tls: &ServerTlsSettings, field: &Field, found: &mut Findings) {
    if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() {
        let message = format!("mode `{}` needs `caCertificates`, or `credentialName`", tls.mode);
        found.error(field, "no-certificate", message);
    }
    if tls.tls_certificates.len() > 2 {
        let message = "Envoy takes up to two certificates for one server";
        found.warning(&field.key("tlsCertificates"), "too-many-certificates", message);
    }
    for (i, certificate) in tls.tls_certificates.iter().enumerate() {
        certificate_files(certificate, &field.key("tlsCertificates").at(i), found);
    }
    if tls.tls_certificates.is_empty() {
        let (server_certificate, private_key) = (tls.server_certificate.clone(), tls.private_key.clone());
        let certificate = TlsCertificate { server_certificate, private_key, ..TlsCertificate::default() };
        certificate_files(&certificate, field, found);
    }
}

fn certificate_files(certificate: &TlsCertificate, field: &Field, found: &mut Findings) {
    for (word, file) in
        [("serverCertificate", &certificate.server_certificate), ("privateKey", &certificate.private_key)]
    {
        if file.is_empty() {
            found.error(field, "no-certificate", format!("TLS cannot end here without `{word}`, or `credentialName`"));
        }
    }
}
