//! Connections to upstreams, kept open between requests and held below their limits.
//!
//! Knows sockets, HTTP/1.1 and HTTP/2. Knows nothing of routing. A request of HTTP/1.1 that is all there goes onto its
//! connection in the task that asks ([`exchange`](crate::exchange)): nothing is handed from task to task, and an answer that
//! came in one piece goes out in one. What streams, or may become something else, is hyper's.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use meshroute::balance::{Failure, Overflow};

use crate::Failure as Trouble;
use crate::exchange::{Arriving, Broken, Home, Wire};
use crate::identity::Identity;
use crate::message::{self, Timed};
use crate::record::Receiving;
use crate::shared::{Connections, Opened, Place};
use crate::transport::{Io, Way};
use crate::upload;
use crate::upstream::{Held, Kept, Upstream, What};

/// A body on its way through.
pub enum Body {
    /// It is all there; `None`: nothing is left of it.
    Full(Option<Bytes>),
    /// A client's, for one try.
    Sent(Box<upload::Copy>),
    /// A client's, which is counted.
    Received(Box<Receiving>),
    /// An upstream's.
    Arriving(Box<Timed>),
    /// An answer that began before the request was all there.
    Due(Box<upload::Due>),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Sent(body) => Pin::new(body).poll_frame(cx),
            Body::Received(body) => Pin::new(body).poll_frame(cx),
            Body::Arriving(body) => Pin::new(body).poll_frame(cx),
            Body::Due(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.is_none(),
            Body::Sent(body) => body.is_end_stream(),
            Body::Received(body) => body.is_end_stream(),
            Body::Arriving(body) => body.is_end_stream(),
            Body::Due(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Sent(body) => body.size_hint(),
            Body::Received(body) => body.size_hint(),
            Body::Arriving(body) => body.size_hint(),
            Body::Due(body) => body.size_hint(),
        }
    }
}

/// How many connections that nobody uses are kept for one socket.
const IDLE: usize = 256;

/// Which HTTP is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tongue {
    /// HTTP/1.1.
    One,
    /// HTTP/2, without TLS and without asking first.
    Two,
}

/// The connections that are open and may take a request, by where they go.
#[derive(Default)]
pub struct Idle {
    one: HashMap<Way, Vec<Lent>>,
    /// Each takes many requests at a time.
    two: Connections,
}

/// A connection on its way between requests, of which a request carries no more than a pointer.
pub type Lent = Box<Line>;

/// A connection that a request may go onto.
pub struct Line {
    to: Way,
    sender: Sender,
    /// How many requests it has taken.
    served: u32,
    /// For how many looks nobody has used it.
    quiet: u64,
}

enum Sender {
    /// HTTP/1.1, spoken by whoever has it. It counts as open until the second value goes.
    Bare(Wire, Held),
    One(http1::SendRequest<Body>, Arc<Held>),
    Two(http2::SendRequest<Body>, Place),
}

/// Why a request did not get through.
pub enum Stuck {
    /// It failed for good.
    Lost(Failed),
    /// The connection had been closed by the other side; here is the request, untouched.
    Unsent(Box<Request<Body>>),
}

/// How it failed.
pub struct Failed {
    /// As far as it matters for what follows.
    pub kind: Failure,
    /// What TLS says about it, in Envoy's manner; empty: nothing.
    pub why: String,
}

impl From<Failure> for Failed {
    fn from(kind: Failure) -> Self {
        Failed { kind, why: String::new() }
    }
}

impl From<Overflow> for Stuck {
    fn from(_: Overflow) -> Self {
        Stuck::Lost(Failure::Overflow.into())
    }
}

impl Idle {
    /// A connection to somewhere. Those that turn out to be over are put with the `dead`, to be dropped once nothing is
    /// locked.
    fn take(&mut self, to: &Way, tongue: Tongue, dead: &mut Vec<Lent>) -> Option<Lent> {
        if tongue == Tongue::Two {
            let (sender, place) = self.two.take(to)?;
            return Some(Box::new(Line::new(to.clone(), Sender::Two(sender, place), 1)));
        }
        let kept = self.one.get_mut(to)?;
        while let Some(mut line) = kept.pop() {
            if line.is_usable() {
                return Some(line);
            }
            dead.push(line);
        }
        None
    }

    /// Takes out what is over, to be dropped once nothing is locked; also what nobody has used since so many looks, of which
    /// this is one.
    pub fn sweep(&mut self, idle: Option<u64>) -> Vec<Lent> {
        let mut dead = Vec::new();
        for kept in self.one.values_mut() {
            dead.extend(kept.extract_if(.., |line| {
                line.quiet = line.quiet.saturating_add(1);
                idle.is_some_and(|idle| line.quiet > idle) || !line.is_usable()
            }));
        }
        self.one.retain(|_, kept| !kept.is_empty());
        self.two.sweep(idle);
        dead
    }
}

impl Line {
    fn new(to: Way, sender: Sender, served: u32) -> Self {
        Line { to, sender, served, quiet: 0 }
    }

    /// Whether it has served before, so that the other side may have closed it in the meantime.
    pub fn is_used(&self) -> bool {
        self.served > 0
    }

    /// Whether the other side has not hung up, as far as that is known by now.
    fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Bare(wire, _) => wire.is_quiet(),
            Sender::One(one, _) => one.is_ready() && !one.is_closed(),
            Sender::Two(two, _) => !two.is_closed(),
        }
    }

    fn wire(&mut self) -> Option<&mut Wire> {
        match &mut self.sender {
            Sender::Bare(wire, _) => Some(wire),
            _ => None,
        }
    }

    /// With hyper on it, in a task of its own.
    async fn hosted(self) -> Result<Self, Failure> {
        let Line { to, sender, served, .. } = self;
        let sender = match sender {
            Sender::Bare(wire, held) => {
                let held = Arc::new(held);
                let open = Arc::clone(&held);
                let (sender, connection) =
                    http1::handshake(TokioIo::new(wire.into_io())).await.map_err(|_| Failure::Connect)?;
                tokio::spawn(async move {
                    let _ = connection.with_upgrades().await;
                    drop(open);
                });
                Sender::One(sender, held)
            }
            other => other,
        };
        Ok(Line::new(to, sender, served))
    }
}

/// A request that can be sent as often as one likes.
pub struct Parcel<'a> {
    /// Its head.
    pub head: &'a Request<()>,
    /// One more header.
    pub more: Option<(HeaderName, &'a HeaderValue)>,
    /// All of its body.
    pub body: &'a Bytes,
}

/// A connection that one exchange has to itself, and where it goes after that.
pub struct Borrowed {
    line: Lent,
    upstream: Arc<Upstream>,
}

impl Home for Borrowed {
    fn wire(&mut self) -> Option<&mut Wire> {
        self.line.wire()
    }

    fn back(self) {
        self.upstream.put(self.line);
    }
}

/// The body of an upstream's answer.
pub enum Coming {
    /// Through hyper, on a connection to itself or at its place on a shared one.
    Hosted {
        /// As it comes.
        body: Incoming,
        /// What it keeps until its end.
        _place: Option<Place>,
    },
    /// Straight from the connection.
    Bare(Arriving<Borrowed>),
}

impl hyper::body::Body for Coming {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        match &mut *self {
            Coming::Hosted { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Coming::Bare(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Coming::Hosted { body, .. } => body.is_end_stream(),
            Coming::Bare(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Coming::Hosted { body, .. } => body.size_hint(),
            Coming::Bare(body) => body.size_hint(),
        }
    }
}

impl Upstream {
    /// A connection to somewhere: a kept one, a new one, or, where there may be no more, the next that is given back.
    pub async fn line(
        self: &Arc<Self>,
        to: &Way,
        tongue: Tongue,
        identity: &Identity,
        patience: Duration,
    ) -> Result<Lent, Failed> {
        if let Some(line) = self.kept(to, tongue) {
            return Ok(line);
        }
        // Apart, so that a request that need not wait has no room for it.
        Box::pin(self.fresh(to, tongue, identity, patience)).await
    }

    async fn fresh(
        self: &Arc<Self>,
        to: &Way,
        tongue: Tongue,
        identity: &Identity,
        patience: Duration,
    ) -> Result<Lent, Failed> {
        let _waiting = self.hold(What::Waiting).map_err(|_| Failure::Overflow)?;
        loop {
            let mut freed = Box::pin(self.freed.notified());
            freed.as_mut().enable();
            if let Some(line) = self.kept(to, tongue) {
                return Ok(line);
            }
            let coming = match (tongue == Tongue::Two).then(|| self.state().idle.two.begin(to)) {
                // What comes of it is known only when it is told; else there is a connection to share, or room for another.
                Some(Err(mut coming)) => {
                    match coming.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) {
                        Some(why) => return Err(Failed { kind: Failure::Connect, why }),
                        None => continue,
                    }
                }
                Some(Ok(coming)) => Some(coming),
                None => None,
            };
            match self.hold(What::Connection(to.to, Some(tongue))) {
                Ok(held) => {
                    let opened = to.open(identity, Some(tongue), patience).await;
                    let line = match opened {
                        Ok(stream) => self.dial(to.clone(), tongue, stream, held).await.ok_or_else(String::new),
                        Err(why) => Err(why),
                    };
                    return line.map(Box::new).map_err(|why| {
                        coming.map(|coming| coming.send_replace(Some(why.clone())));
                        Failed { kind: Failure::Connect, why }
                    });
                }
                Err(_) => {
                    drop(coming);
                    freed.await;
                }
            }
        }
    }

    fn kept(&self, to: &Way, tongue: Tongue) -> Option<Lent> {
        let mut dead = Vec::new();
        // INVARIANT: what drops a connection locks the state, so that none is dropped while it is locked.
        let taken = self.state().idle.take(to, tongue, &mut dead);
        drop(dead);
        taken
    }

    async fn dial(self: &Arc<Self>, to: Way, tongue: Tongue, stream: Box<dyn Io>, held: Held) -> Option<Line> {
        let sender = match tongue {
            Tongue::One => Sender::Bare(Wire::new(stream), held),
            Tongue::Two => {
                let most = self.state().requests_per_connection();
                let opened = Opened::begin(stream, held, most, Arc::clone(&self.freed)).await?;
                let (sender, place) = opened.share(&to, &mut self.state().idle.two);
                Sender::Two(sender, place)
            }
        };
        Some(Line::new(to, sender, 0))
    }

    /// Sends a request that is all there and waits for the head of its answer. The request counts until the second value
    /// goes. `None`: the connection had been closed by the other side, and nothing was sent.
    pub async fn ask(
        self: &Arc<Self>,
        line: Lent,
        parcel: Parcel<'_>,
    ) -> Result<Option<(Response<Coming>, Held)>, Failure> {
        let used = line.is_used();
        let Some((mut line, active)) = self.admit(line) else { return Err(Failure::Overflow) };
        let Some(wire) = line.wire() else { return Err(Failure::Reset) };
        match wire.ask(parcel.head, parcel.more, parcel.body).await {
            Ok(answered) => {
                (line.served, line.quiet) = (line.served.saturating_add(1), 0);
                let home = Borrowed { line, upstream: Arc::clone(self) };
                Ok(Some((Arriving::new(answered, home).map(Coming::Bare), active)))
            }
            Err(Broken::Unsent) if used => Ok(None),
            Err(Broken::Unsent) => Err(Failure::Before),
            Err(Broken::Lost) => Err(Failure::Reset),
        }
    }

    /// Sends a request by way of hyper and waits for the head of its answer. The request counts until the second value goes.
    pub async fn send(self: &Arc<Self>, line: Lent, request: Request<Body>) -> Result<(Response<Coming>, Held), Stuck> {
        let Some((line, active)) = self.admit(line) else { return Err(Overflow::Requests.into()) };
        let used = line.is_used();
        let mut line = line.hosted().await.map_err(|failure| Stuck::Lost(failure.into()))?;
        let sent = match &mut line.sender {
            Sender::Bare(..) => return Err(Stuck::Lost(Failure::Connect.into())),
            Sender::One(sender, _) => sender.try_send_request(request).await,
            Sender::Two(sender, _) => sender.try_send_request(request).await,
        };
        match sent {
            Ok(mut response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    message::strip_hop_by_hop(response.headers_mut());
                } else if let Sender::One(_, held) = &line.sender {
                    // What it has become is still a connection that is open.
                    response.extensions_mut().insert(Kept::new(Arc::clone(held)));
                }
                let place = self.keep(line);
                Ok((response.map(|body| Coming::Hosted { body, _place: place }), active))
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if used => Err(Stuck::Unsent(Box::new(unsent))),
                Some(_) => Err(Stuck::Lost(Failure::Before.into())),
                None => Err(Stuck::Lost(how(error.error()).into())),
            },
        }
    }

    /// A connection for a request that may be sent. Where it may not, the connection is for the next one.
    fn admit(self: &Arc<Self>, line: Lent) -> Option<(Lent, Held)> {
        match self.hold(What::Request) {
            Ok(active) => Some((line, active)),
            Err(_) => {
                if !matches!(line.sender, Sender::Two(..)) {
                    self.put(line);
                }
                None
            }
        }
    }

    /// Puts a connection of hyper's back once its answer has been read to the end, unless it has served enough. The place on
    /// one that is shared goes with the answer.
    fn keep(self: &Arc<Self>, line: Line) -> Option<Place> {
        let served = line.served.saturating_add(1);
        let (mut sender, held) = match line.sender {
            Sender::One(sender, held) => (sender, held),
            Sender::Two(_, place) => return Some(place),
            Sender::Bare(..) => return None,
        };
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                upstream.put(Box::new(Line::new(line.to, Sender::One(sender, held), served)));
            }
        });
        None
    }

    /// Puts a connection back. One that has served enough, one too many, or one to a cluster that nobody knows any more, is
    /// closed.
    fn put(&self, line: Lent) {
        let mut state = self.state();
        let mut over = None;
        if !state.forgotten && line.served < state.requests_per_connection() {
            match state.idle.one.get_mut(&line.to) {
                Some(lines) if lines.len() >= IDLE => over = Some(line),
                Some(lines) => lines.push(line),
                None => drop(state.idle.one.insert(line.to.clone(), vec![line])),
            }
        } else {
            over = Some(line);
        }
        drop(state);
        drop(over);
        self.freed.notify_waiters();
    }
}

/// How a request that was sent has failed. Of one that was refused, nothing was done (RFC 9113, section 8.7).
fn how(error: &hyper::Error) -> Failure {
    let of_stream = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match of_stream.and_then(h2::Error::reason) {
        Some(h2::Reason::REFUSED_STREAM) => Failure::Refused,
        _ => Failure::Reset,
    }
}

impl Line {
    /// Whether a request that is all there can go onto it without hyper.
    pub fn is_bare(&self) -> bool {
        matches!(self.sender, Sender::Bare(..))
    }
}
