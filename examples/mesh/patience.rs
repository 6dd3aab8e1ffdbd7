//! How long a client's connection is waited on: for a head that has begun, and for the next request; and what hyper does not
//! tell of a head.
//!
//! Knows whose turn it is. Knows nothing of what is said. hyper has one limit for both, and a client that keeps its
//! connection for later is no slow one. A head that came in part with the request before counts as not begun: it holds no
//! more than an idle connection does.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::Response;
use hyper::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::times::{Times, times};

/// How long a client may take for the head of a request.
pub const HEAD: Duration = Duration::from_secs(10);

/// Whose turn it is on a connection, and what was last heard on it.
#[derive(Clone, Debug)]
pub struct Turn(Arc<(AtomicU8, Mutex<Vec<u8>>)>);

/// How much of what was heard is kept for a look at it: a head, none of which may be larger than half of this, and what was read
/// before it.
const HEARD: usize = 128 << 10;
/// How much room for that a connection keeps to itself while it rests.
const ROOM: usize = 1 << 10;

/// A head has begun, or is the first.
const HEARING: u8 = 0;
/// A request is being answered: as long as something moves, nobody is hurried.
const ANSWERING: u8 = 1;
/// The last answer is out.
const RESTING: u8 = 2;
/// The connection has become something else, which nobody hurries.
const RELEASED: u8 = 3;

impl Turn {
    /// A request has been heard.
    pub fn answer(&self) {
        self.state().store(ANSWERING, Ordering::Release);
    }

    /// Whether some head that was just heard says both how long its body is and that it comes in chunks. hyper goes by the
    /// chunks and keeps quiet about the length, by which another reader may have gone.
    pub fn is_ambiguous(&self) -> bool {
        let heard = self.heard();
        let (mut length, mut chunks) = (false, false);
        for line in heard.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end) {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            length |= name.eq_ignore_ascii_case(b"content-length");
            chunks |= name.eq_ignore_ascii_case(b"transfer-encoding");
            match line {
                _ if length && chunks => return true,
                [] => (length, chunks) = (false, false),
                _ => {}
            }
        }
        false
    }

    fn state(&self) -> &AtomicU8 {
        &self.0.0
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what was read of a head; `fresh`: it begins with it.
    fn hear(&self, read: &[u8], fresh: bool) {
        let mut heard = self.heard();
        if fresh {
            heard.clear();
            heard.shrink_to(ROOM);
        }
        let room = HEARD.saturating_sub(heard.len());
        heard.extend_from_slice(&read[..read.len().min(room)]);
    }

    /// The connection is no longer one of requests.
    pub fn release(&self) {
        self.state().store(RELEASED, Ordering::Release);
    }

    fn rest(&self) {
        let _ = self.state().compare_exchange(ANSWERING, RESTING, Ordering::AcqRel, Ordering::Acquire);
    }

    fn now(&self) -> u8 {
        self.state().load(Ordering::Acquire)
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
    /// When it is enough of a rest.
    due: Instant,
    /// In which turn something was last read.
    last: u8,
    /// Whether something has come or gone since the last look.
    moved: bool,
    times: Times,
}

impl<S> Patient<S> {
    /// A connection on which the first request is due.
    pub fn new(stream: S) -> Self {
        let turn = Turn(Arc::new((AtomicU8::new(HEARING), Mutex::default())));
        let times = times();
        Patient {
            stream,
            turn,
            enough: Box::pin(sleep(HEAD.min(times.stream))),
            reckoned: Some(HEARING),
            due: Instant::now() + HEAD,
            last: HEARING,
            moved: false,
            times,
        }
    }

    /// To be told whose turn it is.
    pub fn turn(&self) -> Turn {
        self.turn.clone()
    }

    /// Whether it is enough for this turn.
    fn poll_enough(&mut self, turn: u8, cx: &mut Context<'_>) -> Poll<()> {
        let fresh = self.reckoned != Some(turn);
        match turn {
            HEARING | RESTING if fresh => {
                let now = Instant::now();
                self.reckoned = Some(turn);
                self.due = now + if turn == HEARING { HEAD } else { self.times.connection };
                let look = self.next_look(now);
                self.enough.as_mut().reset(look);
            }
            RELEASED => return Poll::Pending,
            _ => {}
        }
        loop {
            ready!(self.enough.as_mut().poll(cx));
            let now = Instant::now();
            let (moved, early) = (std::mem::take(&mut self.moved), self.due > now);
            // The timer goes on as it is when a request has come: what was set for the last turn says nothing of this one.
            let again = if turn == ANSWERING { moved || self.reckoned.replace(turn) != Some(turn) } else { early };
            if !again {
                return Poll::Ready(());
            }
            let next = if turn == ANSWERING { now + self.times.stream } else { self.next_look(now) };
            self.enough.as_mut().reset(next);
        }
    }

    /// Never later than a request that comes meanwhile may stand still: to put a timer off costs next to nothing, to bring it
    /// forward does.
    fn next_look(&self, now: Instant) -> Instant {
        self.due.min(now + self.times.stream)
    }

    /// Something came or went.
    fn moves(&mut self, turn: u8) {
        self.moved |= turn == ANSWERING;
    }
}

impl<S> Patient<S> {
    /// How a write went; one that a client does not make room for ends the connection in time.
    fn watched(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let turn = self.turn.now();
        if written.is_ready() {
            self.moves(turn);
            return written;
        }
        if turn == ANSWERING {
            ready!(self.poll_enough(turn, cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (turn, before) = (self.turn.now(), buf.filled().len());
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            // While a request is answered, its body comes, and perhaps the beginning of the next head behind that.
            let fresh = turn == ANSWERING || turn == RESTING && self.last != ANSWERING;
            if turn != RELEASED {
                self.turn.hear(&buf.filled()[before..], fresh);
            }
            self.last = turn;
            self.moves(turn);
            if turn == RESTING {
                self.turn.state().store(HEARING, Ordering::Release);
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
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(written, cx)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watched(written, cx)
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
    type Output = Result<Response<Keeping<B, Owed>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(cx));
        let Some(turn) = this.turn.take() else { return Poll::Pending };
        let good = *this.tunnels && response.status().is_success();
        if good || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            turn.release();
        }
        Poll::Ready(Ok(response.map(|body| Keeping::new(body, Owed(turn)))))
    }
}

/// A body that keeps something for as long as it is not over.
pub struct Keeping<B, K> {
    body: B,
    _kept: K,
}

impl<B, K> Keeping<B, K> {
    /// A body, and what it keeps.
    pub fn new(body: B, kept: K) -> Self {
        Keeping { body, _kept: kept }
    }
}

/// The client's turn, which comes when this goes.
pub struct Owed(Turn);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.rest();
    }
}

impl<B: Body + Unpin, K: Unpin> Body for Keeping<B, K> {
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
