//! HTTP messages on their way: serving them, and the headers and bodies that a proxy touches.
//!
//! Knows RFC 9110's rules for intermediaries. Knows nothing of routing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, timeout};

use crate::Failure;
use crate::opening::{self, Opening};
use crate::patience::{self, Answering, Patient};
use crate::pool::{Body, Coming};
use crate::retry::Taken;

/// The largest head of a request; a larger one is answered 431.
const MAX_HEAD: usize = 64 << 10;

/// The sockets at both ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// This side's.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

/// Accepts connections for ever, each in a task of its own.
pub async fn accept<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(handler(stream, peer));
    }
}

/// Serves HTTP on a listener for ever.
pub async fn serve<H, F, B>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Failure>,
{
    accept(listener, move |stream, _| {
        let handler = handler.clone();
        async move { converse(stream, handler).await }
    })
    .await;
}

/// Serves HTTP on a connection, whichever version the client begins with. One that says nothing is closed.
pub async fn converse<S, H, F, B>(mut stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Failure>,
{
    let mut read = Vec::new();
    // The first byte tells them apart but for `P`, and then the second: no method begins with `PR` but WebDAV's.
    let begun = timeout(patience::HEAD, async {
        while read.len() < 3 && matches!(stream.read_buf(&mut read).await, Ok(1..)) {}
    });
    if begun.await.is_err() || read.is_empty() {
        return;
    }
    let opening = if read.starts_with(b"PRI") { Opening::Two } else { Opening::One };
    talk(opening::rewound(read, stream), opening, handler).await;
}

/// Serves HTTP of a known version on a connection.
pub async fn talk<S, H, F, B>(stream: S, opening: Opening, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Failure>,
{
    // However it ends, the client sees it.
    if opening == Opening::Two {
        let service = service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_header_list_size(MAX_HEAD as u32).max_concurrent_streams(256);
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let stream = Patient::new(stream);
    let turn = stream.turn();
    let service = service_fn(move |request: Request<Incoming>| {
        let tunnels = request.method() == Method::CONNECT;
        Answering::new(handler(request), &turn, tunnels)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(MAX_HEAD);
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// What the client asks the connection to become, if it does.
pub fn upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked = connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked)
}

/// Whether the client understands trailers, which gRPC's servers want to know.
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TE).iter().filter_map(|value| value.to_str().ok());
    lines.any(|line| line.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")))
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    Body::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Puts a header in, with `?` for what is not legal in one; an empty value is left out.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Some(value) = header(value) {
        headers.insert(name, value);
    }
}

/// A header's value, with `?` for what is not legal in one; `None`: it is empty.
pub fn header(value: &str) -> Option<HeaderValue> {
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if value.chars().all(is_plain) {
        return HeaderValue::from_str(value).ok().filter(|_| !value.is_empty());
    }
    let plain: String = value.chars().map(|c| if is_plain(c) { c } else { '?' }).collect();
    HeaderValue::from_str(&plain).ok()
}

/// In which one sidecar tells another which workload it stands beside, as Istio's do.
pub const PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
/// In which a sidecar tells its program who the other end has proved to be (Envoy's `x-forwarded-client-cert`).
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Whether a header is for one connection only (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    is_hop_by_hop_name(name.as_str())
}

/// The same for a name as it came.
pub fn is_hop_by_hop_name(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    // Lengths tell most others apart.
    matches!(name.len(), 2 | 7 | 10 | 16..=19) && NAMES.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether anything of it is for one connection only.
pub fn is_for_one_connection(headers: &HeaderMap) -> bool {
    headers.keys().any(is_hop_by_hop)
}

/// What `Connection` names. The framing is not the sender's to take away.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = connection.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST).collect()
}

/// A copy without what is for one connection only, also what `Connection` names.
pub fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let (named, mut passed) = (named(headers), HeaderMap::with_capacity(headers.len() + 2));
    for (name, value) in headers.iter().filter(|(name, _)| !is_hop_by_hop(name) && !named.contains(name)) {
        passed.append(name.clone(), value.clone());
    }
    passed
}

/// Takes out what is for one connection only, also what `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !is_for_one_connection(headers) {
        return;
    }
    let own = headers.keys().filter(|name| is_hop_by_hop(name)).cloned();
    let names: Vec<HeaderName> = own.chain(named(headers)).collect();
    for name in names {
        headers.remove(name);
    }
}

/// The route's time was over before the answer's end.
#[derive(Debug)]
pub struct Late;

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the route's time is over")
    }
}

impl std::error::Error for Late {}

/// An answer's body that must have come before the route's time is over.
pub struct Timed {
    body: Coming,
    deadline: Option<Pin<Box<Sleep>>>,
    /// What its request takes up until then.
    held: Taken,
}

impl Timed {
    /// A body, and the time by which it must have come; `None`: any.
    pub fn new(body: Coming, deadline: Option<Instant>, held: Taken) -> Self {
        Timed { body, deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at))), held }
    }
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if frame.is_none() || self.body.is_end_stream() {
                self.held.clear();
            }
            return Poll::Ready(frame);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| Some(Err(Late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
