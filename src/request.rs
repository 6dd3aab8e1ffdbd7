//! The question: one request or connection, borrowed from the caller.
//!
//! Knows what a request carries and what is derived from it once (path in normal form, scheme). Knows nothing of rules.

use std::cell::Cell;
use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::path::{NormalPath, PathError, PathView, normalize};

/// Where the headers of a request are looked up. One small trait, so that no host has to copy its own.
///
/// `Sync`, so that a request and its [`Decision`](crate::Decision) may be held while something is awaited.
///
/// ```
/// use meshroute::Headers;
/// let headers: &[(&str, &str)] = &[("Canary_ID", "1"), ("canary_id", "2")];
/// assert!(headers.any("canary_id", &mut |value| value == b"2"));
/// assert!(!headers.any("absent", &mut |_| true));
/// ```
pub trait Headers: Sync {
    /// Calls `test` with the value of each line named `name`, in order, until one returns `true`; says whether one did.
    ///
    /// `name` is in lower case; names are compared without regard to case. Values come without surrounding blanks, as
    /// HTTP parsers hand them out, and are not joined here.
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync> Headers for [(N, V)] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.iter().any(|(n, v)| n.as_ref().eq_ignore_ascii_case(name) && test(v.as_ref()))
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync> Headers for &[(N, V)] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        (**self).any(name, test)
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync> Headers for Vec<(N, V)> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.as_slice().any(name, test)
    }
}

impl<N: AsRef<str> + Sync, V: AsRef<[u8]> + Sync, const L: usize> Headers for [(N, V); L] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.as_slice().any(name, test)
    }
}

/// No headers at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

/// One HTTP request, as it leaves the client or reaches the gateway.
///
/// ```
/// use meshroute::Request;
/// let request = Request::new("GET", "nginx:5000", "/").headers(&[("canary_id", "1")]).port(5000);
/// assert_eq!(request.port, 5000);
/// ```
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Request<'a> {
    /// `GET`, `POST`, ... as sent.
    pub method: &'a str,
    /// `http` or `https`, where the request says it: in an absolute target, or in `:scheme`. Empty where it does not;
    /// then `x-forwarded-proto` says it, and without that the connection.
    pub scheme: &'a str,
    /// The Host header or `:authority`, with its port if it was sent with one.
    pub authority: &'a str,
    /// Path and query as sent, not decoded, not normalised.
    pub path: &'a [u8],
    /// The port that was dialled: a service's port, or the one that a gateway listens on.
    pub port: u16,
    /// The address that was dialled, where it is known. `None` is an address that no resource mentions.
    pub address: Option<IpAddr>,
    /// The headers.
    pub headers: &'a dyn Headers,
    /// For a gateway: the TLS hello of the connection that carries the request, if it was encrypted.
    pub tls: Option<TlsHello<'a>>,
}

impl<'a> Request<'a> {
    /// A plain request to port 80 without headers; the other methods change that.
    pub fn new(method: &'a str, authority: &'a str, path: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Request {
            method,
            scheme: "",
            authority,
            path: path.as_ref(),
            port: 80,
            address: None,
            headers: &NoHeaders,
            tls: None,
        }
    }

    /// With these headers.
    pub fn headers(mut self, headers: &'a dyn Headers) -> Self {
        self.headers = headers;
        self
    }

    /// To this port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// With this scheme.
    pub fn scheme(mut self, scheme: &'a str) -> Self {
        self.scheme = scheme;
        self
    }

    /// To this address.
    pub fn address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }

    /// Inside a connection that was encrypted with this hello.
    pub fn tls(mut self, hello: TlsHello<'a>) -> Self {
        self.tls = Some(hello);
        self
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.escape_ascii();
        write!(f, "{} {}{path} port {}", self.method, self.authority, self.port)
    }
}

/// What a TLS client says before anything is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsHello<'a> {
    /// The server name indication.
    pub sni: Option<&'a str>,
}

/// One connection whose content is not looked at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Connection<'a> {
    /// The port dialled.
    pub port: u16,
    /// The address dialled; `None` is one that no resource mentions.
    pub address: Option<IpAddr>,
    /// The hello, if the connection begins with one.
    pub tls: Option<TlsHello<'a>>,
}

impl<'a> Connection<'a> {
    /// A plain connection to a port.
    pub fn new(port: u16) -> Self {
        Connection { port, address: None, tls: None }
    }

    /// To this address.
    pub fn address(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.address = address.into();
        self
    }

    /// With this hello.
    pub fn tls(mut self, hello: TlsHello<'a>) -> Self {
        self.tls = Some(hello);
        self
    }
}

/// Where a path is kept that had to be brought into normal form: on the caller's stack, and empty mostly.
#[derive(Default)]
pub(crate) struct Room<'q>(Option<NormalPath<'q>>);

/// A request with what is derived from it once and used for every candidate.
pub(crate) struct Question<'q> {
    pub(crate) request: &'q Request<'q>,
    pub(crate) path: PathView<'q>,
    scheme: Cell<Option<&'static str>>,
}

impl<'q> Question<'q> {
    /// Derives what is asked often. Allocates only for a path that is not normal and outgrows [`NormalPath`]'s buffer.
    ///
    /// `written` is the request's path where that is in normal form.
    pub(crate) fn new(
        request: &'q Request<'q>,
        written: Option<PathView<'q>>,
        room: &'q mut Room<'q>,
    ) -> Result<Self, PathError> {
        let path = match written {
            Some(path) => path,
            None => room.0.insert(normalize(request.path)?).view(),
        };
        Ok(Question { request, path, scheme: Cell::new(None) })
    }

    /// The path without query.
    pub(crate) fn path_only(&self) -> &'q [u8] {
        self.path.path()
    }

    /// The scheme: only few routes ask for it, and it may take a look at the headers.
    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme.get().unwrap_or_else(|| {
            let scheme = self.request.known_scheme();
            self.scheme.set(Some(scheme));
            scheme
        })
    }

    /// Whether some line of a header satisfies `test`. Pseudo headers (`:authority`, ...) have one line each.
    pub(crate) fn any_header(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if is_plain_header(name) {
            return self.request.headers.any(name, test);
        }
        match name {
            ":method" => test(self.request.method.as_bytes()),
            ":authority" | "host" => test(self.request.authority.as_bytes()),
            ":path" => test(self.path.as_bytes()),
            ":scheme" => test(self.scheme().as_bytes()),
            _ if has_one_value(name) => joined(self.request.headers, name, test),
            _ => self.request.headers.any(name, test),
        }
    }

    /// The value of the first query parameter of this name: raw bytes, `&` the only separator, `?q` is `?q=`.
    pub(crate) fn query(&self, name: &[u8]) -> Option<&'q [u8]> {
        let mut query = self.path.query()?;
        // A key ends at its first `=`: none contains one.
        if memchr::memchr(b'=', name).is_some() {
            return None;
        }
        loop {
            let end = memchr::memchr(b'&', query);
            let pair = &query[..end.unwrap_or(query.len())];
            match pair.strip_prefix(name) {
                Some([b'=', value @ ..]) => return Some(value),
                Some(nothing @ []) => return Some(nothing),
                _ => query = &query[end? + 1..],
            }
        }
    }
}

/// Tests the lines of a header as one value. Allocates where there are several that outgrow the buffer.
pub(crate) fn joined(headers: &dyn Headers, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut lines = 0;
    if !headers.any(name, &mut |_| std::mem::replace(&mut lines, 2) > 0) {
        return headers.any(name, test);
    }
    let mut value: SmallVec<[u8; 256]> = SmallVec::new();
    headers.any(name, &mut |line| {
        if !value.is_empty() && !line.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(line);
        false
    });
    test(&value)
}

impl Request<'_> {
    /// `http` or `https`: what the request says, else what [`forwarded`](Self::forwarded) says, else the connection.
    pub(crate) fn known_scheme(&self) -> &'static str {
        let said = known_scheme(self.scheme.as_bytes()).unwrap_or_else(|| self.forwarded());
        if said.is_empty() { self.encryption() } else { said }
    }

    /// What `x-forwarded-proto` says, or the connection where it is missing. Empty where it says neither `http` nor
    /// `https`, as do several lines together: Envoy keeps one value of it.
    pub(crate) fn forwarded(&self) -> &'static str {
        let (mut said, mut lines, mut missing) = ("", 0, true);
        self.headers.any("x-forwarded-proto", &mut |value| {
            missing = false;
            lines += u32::from(!value.is_empty());
            said = known_scheme(value).unwrap_or(said);
            lines > 1
        });
        match (missing, lines) {
            (true, _) => self.encryption(),
            (false, 1) => said,
            (false, _) => "",
        }
    }

    /// The scheme that the connection speaks for.
    fn encryption(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

fn known_scheme(text: &[u8]) -> Option<&'static str> {
    if text.eq_ignore_ascii_case(b"https") {
        Some("https")
    } else if text.eq_ignore_ascii_case(b"http") {
        Some("http")
    } else {
        None
    }
}

/// Whether the lines of a header are matched one by one, as they came.
#[inline]
pub(crate) fn is_plain_header(name: &str) -> bool {
    match name.as_bytes() {
        // Of what people name their own headers, most is told by its beginning.
        [b'x', b'-', third, ..] if !matches!(third, b'c' | b'e' | b'f' | b'r') => true,
        [b':', ..] => false,
        _ => name != "host" && !has_one_value(name),
    }
}

/// Whether Envoy keeps one value for a header, so that several lines of it are joined with commas, empty ones left
/// out, before anything is matched. Lines of all other headers are matched one by one.
///
/// `name` is in lower case. Source: observed on Envoy 1.40, which registers these as inline headers.
pub fn has_one_value(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "access-control-request-private-network"
            | "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-type"
            | "expect"
            | "grpc-accept-encoding"
            | "grpc-timeout"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "origin"
            | "pragma"
            | "referer"
            | "user-agent"
            | "via"
            | "x-client-trace-id"
            | "x-envoy-attempt-count"
            | "x-envoy-decorator-operation"
            | "x-envoy-downstream-service-cluster"
            | "x-envoy-downstream-service-node"
            | "x-envoy-external-address"
            | "x-envoy-is-timeout-retry"
            | "x-envoy-original-path"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-request-id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_one_value_is_not_plain() {
        for name in ["x-client-trace-id", "x-envoy-original-path", "x-forwarded-for", "x-request-id", "origin"] {
            assert!(has_one_value(name) && !is_plain_header(name), "{name}");
        }
        assert!([":path", ":unknown", "host"].iter().all(|name| !is_plain_header(name)));
        assert!(["x-user", "x-", "x", "", "canary_id", "x-env"].iter().all(|name| is_plain_header(name)));
    }
}
