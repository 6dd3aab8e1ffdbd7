//! HTTP messages on their way: serving them, and the headers and bodies that a proxy touches.
//!
//! Knows RFC 9110's rules for intermediaries. Knows nothing of routing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::Sleep;

use crate::Failure;
use crate::pool::Body;

/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);

/// The sockets at both ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// This side's.
    pub local: SocketAddr,
    /// The client's.
    pub remote: SocketAddr,
}

/// Serves HTTP/1.1 on a listener for ever. Requests have their [`Ends`] among their extensions.
pub async fn serve<H, F, B>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Failure>,
{
    loop {
        let Ok((stream, remote)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        let ends = stream.local_addr().ok().map(|local| Ends { local, remote });
        let service = service_fn(move |mut request: Request<Incoming>| {
            ends.map(|ends| request.extensions_mut().insert(ends));
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    if bytes.is_empty() {
        return Empty::new().map_err(|never| match never {}).boxed();
    }
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// Puts a header in, with `?` for what is not legal in one; an empty value is left out.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let plain: String = value.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&plain)
        && !plain.is_empty()
    {
        headers.insert(name, value);
    }
}

/// Headers that are for one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
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

/// Takes out what is for one connection only, also what `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> =
        connection.flat_map(|value| value.split(',')).map(|name| name.trim().to_string()).collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        // The framing is not the client's to take away.
        if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
            headers.remove(name);
        }
    }
}

/// An answer's body that must have come before the route's time is over.
pub struct Timed {
    body: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    /// A body, and the time by which it must have come; `None`: any.
    pub fn new(body: Incoming, deadline: Option<Instant>) -> Self {
        Timed { body, deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))) }
    }
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| Some(Err("the route's time is over".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
