//! What the proxies at the mesh's edge listen to (`networking/v1alpha3/gateway.proto`).

use std::collections::BTreeMap;

use super::{Metadata, Untyped};

document! {
    /// A Gateway: ports and hosts that proxies at the edge serve.
    pub struct Gateway {
        /// Its name, namespace, labels and so on.
        pub metadata: Metadata,
        /// What the operator asks for.
        pub spec: GatewaySpec,
        /// What Istio reports; nothing here reads it.
        pub status: Option<Untyped>,
    }
}

message! {
    /// The servers of a Gateway, and who runs them.
    pub struct GatewaySpec {
        /// The servers.
        pub servers: Vec<Server>,
        /// Labels that a proxy must carry, all of them; empty = every gateway proxy.
        pub selector: BTreeMap<String, String>,
    }
}

message! {
    /// A port, and the hosts served there.
    pub struct Server {
        /// The port; required.
        pub port: Option<Port>,
        /// The address, or `unix://` path, to listen at; empty = all addresses.
        pub bind: String,
        /// The hosts, `namespace/host` or `host`, exact or with a wildcard; required.
        pub hosts: Vec<String>,
        /// TLS towards the client; absent = none.
        pub tls: Option<ServerTlsSettings>,
        /// Hidden, and not implemented by Istio.
        pub default_endpoint: String,
        /// A name, unique among the Gateway's servers; empty = none.
        pub name: String,
    }
}

message! {
    /// A port of a server.
    pub struct Port {
        /// Its number; required.
        pub number: u32,
        /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`; required.
        pub protocol: String,
        /// A name; required.
        pub name: String,
        /// Deprecated and hidden: the port that the traffic arrives at.
        pub target_port: u32,
    }
}

message! {
    /// TLS towards the client.
    pub struct ServerTlsSettings {
        /// Whether plain HTTP is answered with a redirect to HTTPS; absent = false.
        pub https_redirect: bool,
        /// Whether TLS ends here, and who shows a certificate; absent = `PASSTHROUGH`.
        pub mode: ServerTlsMode,
        /// The file of the server's certificate.
        pub server_certificate: String,
        /// The file of the server's key.
        pub private_key: String,
        /// The file of the authorities that clients are checked against.
        pub ca_certificates: String,
        /// The file of revoked certificates; empty = none.
        pub ca_crl: String,
        /// The secret that holds key, certificate and authorities; empty = the files are used.
        pub credential_name: String,
        /// Secrets of one or two certificates, such as RSA and ECDSA; in place of `credential_name`.
        pub credential_names: Vec<String>,
        /// The secret that holds only the authorities; empty = that of the certificate.
        pub ca_cert_credential_name: String,
        /// Files of one or two certificates; in place of `server_certificate` and `private_key`.
        pub tls_certificates: Vec<TlsCertificate>,
        /// The names, one of which a client's certificate must carry; empty = any.
        pub subject_alt_names: Vec<String>,
        /// Hashes, in base64, of the public keys that a client may have; empty = any.
        pub verify_certificate_spki: Vec<String>,
        /// Hashes, in hex, of the certificates that a client may have; empty = any.
        pub verify_certificate_hash: Vec<String>,
        /// The least version; absent = `TLSV1_2`.
        pub min_protocol_version: TlsProtocol,
        /// The greatest version; absent = the newest.
        pub max_protocol_version: TlsProtocol,
        /// The ciphers to offer; empty = Envoy's.
        pub cipher_suites: Vec<String>,
        /// Whether clients' certificates go unchecked; absent = false.
        pub insecure_skip_verify: Option<bool>,
    }
}

words! {
    /// Whether TLS ends at the server, and who shows a certificate.
    pub enum ServerTlsMode {
        /// TLS is passed on; routes are chosen by SNI.
        #[default]
        Passthrough = 0 as "PASSTHROUGH",
        /// TLS ends here; the client shows nothing.
        Simple = 1 as "SIMPLE",
        /// TLS ends here; the client must show a certificate.
        Mutual = 2 as "MUTUAL",
        /// TLS is passed on to the service that the SNI spells out.
        AutoPassthrough = 3 as "AUTO_PASSTHROUGH",
        /// TLS ends here; both sides show certificates that Istio issued.
        IstioMutual = 4 as "ISTIO_MUTUAL",
        /// TLS ends here; the client may show a certificate.
        OptionalMutual = 5 as "OPTIONAL_MUTUAL",
    }
}

message! {
    /// The files of one certificate.
    pub struct TlsCertificate {
        /// The certificate.
        pub server_certificate: String,
        /// Its key.
        pub private_key: String,
        /// Hidden: the authorities.
        pub ca_certificates: String,
    }
}

words! {
    /// A version of TLS.
    pub enum TlsProtocol {
        /// Not said.
        #[default]
        Auto = 0 as "TLS_AUTO",
        /// TLS 1.0.
        V1_0 = 1 as "TLSV1_0",
        /// TLS 1.1.
        V1_1 = 2 as "TLSV1_1",
        /// TLS 1.2.
        V1_2 = 3 as "TLSV1_2",
        /// TLS 1.3.
        V1_3 = 4 as "TLSV1_3",
    }
}
