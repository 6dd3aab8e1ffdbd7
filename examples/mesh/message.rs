//! HTTP messages on their way: serving them, and the headers and bodies that a proxy touches.
//!
//! Knows RFC 9110's rules for intermediaries. Knows nothing of routing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, timeout};

use crate::Failure;
use crate::opening::{self, Opening};
use crate::patience::{self, Answering, Keeping, Patient};
use crate::pool::{Body, Coming};
use crate::retry::Taken;
use crate::times::{Stalled, Standstill, Stirring, times};

/// The largest head of a request; a larger one is answered 431.
const MAX_HEAD: usize = 64 << 10;

/// Of a request: its head says in two ways where its body ends.
#[derive(Clone, Copy, Debug)]
pub struct Ambiguous;

/// How long a client of HTTP/2 that is left may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

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
        let active = Active::default();
        let among = active.clone();
        let service = service_fn(move |request| {
            let (response, one) = (handler(request), among.enter());
            async move { Ok::<_, Infallible>(response.await.map(|body| Keeping::new(body, one))) }
        });
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_header_list_size(MAX_HEAD as u32).max_concurrent_streams(256);
        let (stream, stir) = Stirring::new(stream);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let quiet = stir.end(|| if active.any() { times().stream } else { times().connection });
        tokio::select! {
            _ = connection.as_mut() => return,
            () = quiet => {}
        }
        // Whoever is still there learns that nothing more is taken, and is left.
        connection.as_mut().graceful_shutdown();
        let _ = timeout(FAREWELL, connection).await;
        return;
    }
    let stream = Patient::new(stream);
    let turn = stream.turn();
    let service = service_fn(move |mut request: Request<Incoming>| {
        if request.headers().contains_key(header::TRANSFER_ENCODING) && turn.is_ambiguous() {
            request.extensions_mut().insert(Ambiguous);
        }
        let tunnels = request.method() == Method::CONNECT;
        Answering::new(handler(request), &turn, tunnels)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.header_read_timeout(None).max_buf_size(MAX_HEAD);
    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// The requests of a connection that are being answered.
#[derive(Clone, Default)]
struct Active(Arc<()>);

impl Active {
    fn enter(&self) -> Active {
        self.clone()
    }

    /// Whether there are any, beside the connection's own two.
    fn any(&self) -> bool {
        Arc::strong_count(&self.0) > 2
    }
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

/// Puts a client's headers in the form in which they are looked at. What its `Connection` names goes before anything of the
/// proxy's own is put in: that would go with it otherwise, and the next reader would miss it. Cookies that HTTP/2 has sent
/// apart are one again, which rules and HTTP/1.1 expect (RFC 9113, section 8.2.3).
pub fn settle(headers: &mut HeaderMap, version: Version) {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = lines.flat_map(|line| line.split(',').map(str::trim));
    if words.any(|word| !is_of_connection(word)) {
        let names = named(headers);
        let known = names.iter().map(HeaderName::as_str).filter(|word| is_of_connection(word));
        let left = HeaderValue::try_from(known.collect::<Vec<_>>().join(", "));
        names.iter().filter(|name| !is_of_connection(name.as_str())).for_each(|name| drop(headers.remove(name)));
        left.into_iter().for_each(|left| drop(headers.insert(header::CONNECTION, left)));
    }
    if version == Version::HTTP_2 && headers.contains_key(header::COOKIE) {
        join_cookies(headers);
    }
}

/// Whether a word of `Connection` says something of the connection itself.
fn is_of_connection(word: &str) -> bool {
    let known = ["close", "keep-alive", "upgrade", "te", "trailer", "proxy-connection", "http2-settings", ""];
    known.iter().any(|known| known.eq_ignore_ascii_case(word))
}

fn join_cookies(headers: &mut HeaderMap) {
    let parts = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).filter(|part| !part.is_empty());
    let parts: Vec<&[u8]> = parts.collect();
    let whole = HeaderValue::from_bytes(&parts.join(&b"; "[..]));
    headers.remove(header::COOKIE);
    if let Some(whole) = whole.ok().filter(|whole| !whole.is_empty()) {
        headers.insert(header::COOKIE, whole);
    }
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
    standstill: Standstill,
    /// What its request takes up until then.
    held: Taken,
}

impl Timed {
    /// A body, and the time by which it must have come; `None`: any.
    pub fn new(body: Coming, deadline: Option<Instant>, held: Taken) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        Timed { body, deadline, standstill: Standstill::new(times().stream), held }
    }
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // Also where there is always more to read, and it is the client that takes its time.
        if self.deadline.as_ref().is_some_and(|deadline| deadline.deadline() <= Instant::now()) {
            return Poll::Ready(Some(Err(Late.into())));
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.standstill.moved();
            if frame.is_none() || self.body.is_end_stream() {
                self.held.clear();
            }
            return Poll::Ready(frame);
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Late.into())));
        }
        self.standstill.poll(cx).map(|()| Some(Err(Stalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
