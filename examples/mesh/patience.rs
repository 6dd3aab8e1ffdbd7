//! How long a client's connection is waited on: for a head that has begun, and for the next request.
//!
//! Knows whose turn it is. Knows nothing of what is said. hyper has one limit for both, and a client that keeps its
//! connection for later is no slow one. A head that came in part with the request before counts as not begun: it holds no
//! more than an idle connection does.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Response;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take for the head of a request.
pub const HEAD: Duration = Duration::from_secs(10);
/// How long one may take before the next request, as with Envoy's `idle_timeout`.
const IDLE: Duration = Duration::from_secs(3600);

/// Whose turn it is on a connection.
#[derive(Clone, Debug)]
pub struct Turn(Arc<AtomicU8>);

/// A head has begun, or is the first.
const HEARING: u8 = 0;
/// A request is being answered.
const ANSWERING: u8 = 1;
/// The last answer is out.
const RESTING: u8 = 2;
/// The connection has become something else, which nobody hurries.
const RELEASED: u8 = 3;

impl Turn {
    /// A request has been heard.
    pub fn answer(&self) {
        self.0.store(ANSWERING, Ordering::Release);
    }

    /// The connection is no longer one of requests.
    pub fn release(&self) {
        self.0.store(RELEASED, Ordering::Release);
    }

    fn rest(&self) {
        let _ = self.0.compare_exchange(ANSWERING, RESTING, Ordering::AcqRel, Ordering::Acquire);
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection whose client is not waited for without end.
pub struct Patient<S> {
    stream: S,
    turn: Turn,
    /// When it is enough.
    enough: Pin<Box<Sleep>>,
    /// For which turn that was reckoned.
    reckoned: Option<u8>,
}

impl<S> Patient<S> {
    /// A connection on which the first request is due.
    pub fn new(stream: S) -> Self {
        let turn = Turn(Arc::new(AtomicU8::new(HEARING)));
        Patient { stream, turn, enough: Box::pin(sleep(HEAD)), reckoned: Some(HEARING) }
    }

    /// To be told whose turn it is.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Whether it is enough for this turn.
    fn poll_enough(&mut self, turn: u8, cx: &mut Context<'_>) -> Poll<()> {
        let patience = match turn {
            HEARING => HEAD,
            RESTING => IDLE,
            _ => return Poll::Pending,
        };
        if self.reckoned.replace(turn) != Some(turn) {
            self.enough.as_mut().reset(Instant::now() + patience);
        }
        self.enough.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let turn = self.turn.now();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if turn == RESTING {
                self.turn.0.store(HEARING, Ordering::Release);
                self.reckoned = None;
            }
            return Poll::Ready(read);
        }
        ready!(self.poll_enough(turn, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

pin_project! {
    /// An answer that is being made, after which the client's turn comes. A future of its own: an `async` block would have room
    /// for the inner one twice.
    pub struct Answering<F> {
        #[pin]
        answer: F,
        turn: Option<Turn>,
        tunnels: bool,
    }
}

impl<F> Answering<F> {
    /// Makes an answer. `tunnels`: the connection becomes something else if it is a good one.
    pub fn new(answer: F, turn: &Turn, tunnels: bool) -> Self {
        turn.answer();
        Answering { answer, turn: Some(turn.clone()), tunnels }
    }
}

impl<F: Future<Output = Response<B>>, B> Future for Answering<F> {
    type Output = Result<Response<Answer<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(cx));
        let Some(turn) = this.turn.take() else { return Poll::Pending };
        let good = *this.tunnels && response.status().is_success();
        if good || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            turn.release();
        }
        Poll::Ready(Ok(response.map(|body| Answer::new(body, turn))))
    }
}

/// An answer's body, after which the client's turn comes.
pub struct Answer<B> {
    body: B,
    turn: Turn,
}

impl<B> Answer<B> {
    /// A body, and the connection's turn.
    pub fn new(body: B, turn: Turn) -> Self {
        Answer { body, turn }
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.turn.rest();
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
