//! The protocols of ports, by the names that operators give them (`pkg/config/protocol/instance.go`).

/// A protocol family, as far as admission tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP of any version, gRPC, or an HTTP proxy.
    Http,
    /// HTTPS or TLS.
    Tls,
    /// Other protocols over TCP.
    Tcp,
    /// UDP.
    Udp,
    /// None that is known; also the empty name.
    Unknown,
}

impl Protocol {
    /// Case does not count.
    pub fn of(name: &str) -> Protocol {
        match name.to_ascii_lowercase().as_str() {
            "http" | "http2" | "http_proxy" | "grpc" | "grpc-web" => Protocol::Http,
            "https" | "tls" => Protocol::Tls,
            "tcp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Unknown,
        }
    }
}

/// A port's protocol is known, or left for the proxy to find out.
pub(super) fn known_or_empty(name: &str) -> Result<(), String> {
    if name.is_empty() || Protocol::of(name) != Protocol::Unknown {
        return Ok(());
    }
    Err(unknown(name))
}

pub(super) fn unknown(name: &str) -> String {
    format!(
        "unknown protocol `{name}`; expected one of `HTTP`, `HTTPS`, `GRPC`, `GRPC-WEB`, `HTTP2`, `MONGO`, `REDIS`, \
         `MYSQL`, `TCP`, `TLS`"
    )
}
