//! Connections to upstreams, kept open between requests and held below their limits.
//!
//! Knows sockets, HTTP/1.1 and HTTP/2. Knows nothing of routing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use meshroute::balance::{Failure, Overflow};

use crate::Failure as Trouble;
use crate::identity::Identity;
use crate::transport::{Io, Way};
use crate::upstream::{Held, Upstream, What};

/// A body on its way through.
pub type Body = BoxBody<Bytes, Trouble>;

/// How many connections that nobody uses are kept for one socket.
const IDLE: usize = 16;

/// Which HTTP is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tongue {
    /// HTTP/1.1.
    One,
    /// HTTP/2, without TLS and without asking first.
    Two,
}

/// The connections that are open and may take a request, by where they go.
#[derive(Default)]
pub struct Idle {
    one: HashMap<Way, Vec<Line>>,
    /// Each takes many requests at a time.
    two: HashMap<Way, http2::SendRequest<Body>>,
}

/// A connection that a request may go onto.
pub struct Line {
    to: Way,
    sender: Sender,
    /// How many requests it has taken.
    served: u32,
}

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// Why a request did not get through.
pub enum Stuck {
    /// It failed for good.
    Lost(Failure),
    /// The connection had been closed by the other side; here is the request, untouched.
    Unsent(Box<Request<Body>>),
}

impl From<Overflow> for Stuck {
    fn from(_: Overflow) -> Self {
        Stuck::Lost(Failure::Overflow)
    }
}

impl Idle {
    fn take(&mut self, to: &Way, tongue: Tongue) -> Option<Line> {
        if tongue == Tongue::Two {
            let sender = self.two.get(to).filter(|sender| !sender.is_closed()).cloned()?;
            return Some(Line { to: to.clone(), sender: Sender::Two(sender), served: 1 });
        }
        let kept = self.one.get_mut(to)?;
        let usable = |line: &Line| matches!(&line.sender, Sender::One(one) if one.is_ready() && !one.is_closed());
        let found = std::iter::from_fn(|| kept.pop()).find(usable);
        if kept.is_empty() {
            self.one.remove(to);
        }
        found
    }
}

impl Line {
    /// Whether it has served before, so that the other side may have closed it in the meantime.
    pub fn is_used(&self) -> bool {
        self.served > 0
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
    ) -> Result<Line, Failure> {
        if let Some(line) = self.state().idle.take(to, tongue) {
            return Ok(line);
        }
        let _waiting = self.hold(What::Waiting).map_err(|_| Failure::Overflow)?;
        loop {
            let mut freed = Box::pin(self.freed.notified());
            freed.as_mut().enable();
            if let Some(line) = self.state().idle.take(to, tongue) {
                return Ok(line);
            }
            match self.hold(What::Connection(to.to)) {
                Ok(held) => {
                    let stream = to.open(identity, patience).await.ok_or(Failure::Connect)?;
                    return self.dial(to.clone(), tongue, stream, held).await.ok_or(Failure::Connect);
                }
                Err(_) => freed.await,
            }
        }
    }

    async fn dial(self: &Arc<Self>, to: Way, tongue: Tongue, stream: Box<dyn Io>, held: Held) -> Option<Line> {
        let stream = TokioIo::new(stream);
        let sender = match tongue {
            Tongue::One => {
                let (sender, connection) = http1::handshake(stream).await.ok()?;
                tokio::spawn(async move {
                    let _ = connection.with_upgrades().await;
                    drop(held);
                });
                Sender::One(sender)
            }
            Tongue::Two => {
                let mut http = http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = http.timer(TokioTimer::new()).handshake(stream).await.ok()?;
                self.state().idle.two.insert(to.clone(), sender.clone());
                tokio::spawn(async move {
                    let _ = connection.await;
                    drop(held);
                });
                Sender::Two(sender)
            }
        };
        Some(Line { to, sender, served: 0 })
    }

    /// Sends a request and waits for the head of its answer. The request counts until the second value goes.
    pub async fn send(
        self: &Arc<Self>,
        mut line: Line,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Held), Stuck> {
        let active = self.hold(What::Request)?;
        let used = line.is_used();
        let sent = match &mut line.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Two(sender) => sender.try_send_request(request).await,
        };
        match sent {
            Ok(response) => {
                self.keep(line);
                Ok((response, active))
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if used => Err(Stuck::Unsent(Box::new(unsent))),
                Some(_) => Err(Stuck::Lost(Failure::Before)),
                None => Err(Stuck::Lost(Failure::Reset)),
            },
        }
    }

    /// Puts a connection back once its answer has been read to the end, unless it has served enough.
    fn keep(self: &Arc<Self>, line: Line) {
        let served = line.served.saturating_add(1);
        let Sender::One(mut sender) = line.sender else { return };
        if served >= self.requests_per_connection() {
            return;
        }
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut state = upstream.state();
            let lines = state.idle.one.entry(line.to.clone()).or_default();
            let kept = Line { to: line.to, sender: Sender::One(sender), served };
            if lines.len() < IDLE {
                lines.push(kept);
            }
            drop(state);
            upstream.freed.notify_waiters();
        });
    }
}
