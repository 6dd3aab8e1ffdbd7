//! What a request asks for, in the library's words; and which requests ask for nothing sensible.
//!
//! Knows HTTP's rules about targets, hosts and framing. Knows nothing of the answer.

use std::net::{IpAddr, SocketAddr};

use hyper::http::request::Parts;
use hyper::{HeaderMap, header};

use meshroute::TlsHello;

use crate::config::Config;
use crate::credentials::Secured;
use crate::message::Ambiguous;
use crate::station::Caller;

/// Where a request came in, and so what its address is.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// A sidecar's: the request names host and port. This is the door's own address.
    Proxy(SocketAddr),
    /// A gateway's, for this port.
    Gateway(u16),
    /// A tunnel's through a sidecar, to this port and address.
    Tunnel(u16, Option<IpAddr>),
}

/// What is asked, apart from method, path and headers.
pub struct Question<'a> {
    /// As the target says it.
    pub scheme: &'static str,
    /// Host and port as sent.
    pub authority: &'a str,
    /// The host alone.
    pub host: &'a str,
    /// The port that was dialled.
    pub port: u16,
}

/// What a request asks for; or status and text for one that asks for nothing sensible.
pub fn question<'a>(door: Door, caller: &Caller, parts: &'a Parts) -> Result<Question<'a>, (u16, &'static str)> {
    let authority = authority(parts)?;
    let host = meshroute::host_of(authority);
    let secured = caller.secured.is_some();
    if matches!(door, Door::Gateway(_)) && !secured && parts.uri.scheme_str() == Some("https") {
        // As Envoy has it: what decides whether a client is sent on to TLS is not for the client to say.
        return Err((403, "`https://` was asked for on a connection without TLS"));
    }
    let scheme = if secured || parts.uri.scheme_str() == Some("https") { "https" } else { "http" };
    let port = match door {
        Door::Gateway(port) | Door::Tunnel(port, _) => port,
        Door::Proxy(_) => port_of(authority, host, scheme),
    };
    Ok(Question { scheme, authority, host, port })
}

/// Host and port as sent; or status and text where that, or the framing, is not clear.
pub fn authority(parts: &Parts) -> Result<&str, (u16, &'static str)> {
    framing(parts)?;
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let sent = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return Err((400, "there is more than one Host header"));
    }
    let Some(authority) = parts.uri.authority().map(|authority| authority.as_str()).or(sent) else {
        return Err((400, "the request names no host"));
    };
    // Who the user claims to be is no part of where the request goes.
    Ok(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

fn port_of(authority: &str, host: &str, scheme: &str) -> u16 {
    let port = authority.get(host.len()..).and_then(|rest| rest.strip_prefix(':')).and_then(|port| port.parse().ok());
    port.unwrap_or(if scheme == "https" { 443 } else { 80 })
}

/// The question in the library's words. The address is what DNS would have told the client.
pub fn asked<'a>(
    config: &Config,
    door: Door,
    caller: &'a Caller,
    question: &Question<'a>,
    parts: &'a Parts,
) -> meshroute::Request<'a> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let address = match door {
        Door::Gateway(_) => None,
        Door::Tunnel(_, address) => address,
        Door::Proxy(_) => ip(question.host).or_else(|| config.router.lookup(question.host).first().copied()),
    };
    let mut request = meshroute::Request::new(parts.method.as_str(), question.authority, path)
        .scheme(question.scheme)
        .port(question.port)
        .address(address)
        .headers(&parts.headers);
    request.tls = caller.secured.as_ref().map(|Secured(name)| TlsHello { sni: name.as_deref() });
    request
}

/// A host that is an address.
pub fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Refuses what another reader might take for another message (request smuggling; RFC 9112, section 6.3). Lengths that
/// contradict each other are refused while the head is read.
fn framing(parts: &Parts) -> Result<(), (u16, &'static str)> {
    if parts.extensions.get::<Ambiguous>().is_some() {
        return Err((400, "there is a Content-Length beside a Transfer-Encoding"));
    }
    if !parts.headers.contains_key(header::TRANSFER_ENCODING) || is_chunked(&parts.headers) {
        return Ok(());
    }
    Err((501, "no Transfer-Encoding but chunked is understood"))
}

fn is_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    only && codings.next().is_none()
}
