//! A request's body that goes on while it still comes, and is kept for another try as long as it is small.
//!
//! Knows when the request is all there, which is when Envoy begins to reckon a route's time. Who sends it where, and how
//! often, is for others.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::HeaderMap;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use crate::Failure;
use crate::message::Late;
use crate::pool::Body;
use crate::retry::REPLAYABLE;
use crate::times::{Moving, Stalled, times};

/// A body on its way. Copies of this value are of the same.
#[derive(Clone)]
pub struct Upload {
    state: Arc<Mutex<State>>,
    /// When it had ended, in whatever way.
    ended: watch::Receiver<Option<Instant>>,
}

struct State {
    body: Moving<Incoming>,
    /// How large it will be, if that is known.
    size: Option<u64>,
    /// What has come of it; `None`: more than is kept.
    kept: Option<Vec<Bytes>>,
    length: u64,
    trailers: Option<HeaderMap>,
    /// The try that may read on.
    turn: u32,
    end: Option<End>,
    told: watch::Sender<Option<Instant>>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
    Stalled,
}

impl Upload {
    /// It; `again`: whether it may be needed more than once.
    pub fn new(body: Incoming, again: bool) -> Self {
        let (told, ended) = watch::channel(None);
        let size = body.size_hint().exact();
        let kept = (again && size.is_none_or(|size| size <= REPLAYABLE)).then(Vec::new);
        let body = Moving::new(body, times().stream);
        let state = State { body, size, kept, length: 0, trailers: None, turn: 0, end: None, told };
        Upload { state: Arc::new(Mutex::new(state)), ended }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body for one more try, from its beginning. `None`: that is no longer there.
    pub fn begin(&self) -> Option<Body> {
        let mut state = self.state();
        if state.turn > 0 && state.kept.is_none() {
            return None;
        }
        state.turn += 1;
        Some(Body::Sent(Box::new(Copy { of: self.clone(), turn: state.turn, at: 0, sent: 0, done: false })))
    }

    /// Whether it was sent and cannot be again.
    pub fn is_spent(&self) -> bool {
        let state = self.state();
        state.turn > 0 && state.kept.is_none() || matches!(state.end, Some(End::Broken | End::Stalled))
    }

    /// Whether nothing more of it came for too long.
    pub fn is_stalled(&self) -> bool {
        self.state().end == Some(End::Stalled)
    }

    /// When it had ended, if it has.
    pub fn ended_at(&self) -> Option<Instant> {
        *self.ended.borrow()
    }

    async fn ended(&self) -> Instant {
        let mut ended = self.ended.clone();
        let at = ended.wait_for(Option::is_some).await.ok().and_then(|at| *at);
        at.unwrap_or_else(Instant::now)
    }

    /// All of it, once it has ended; `None`: it was too large, or has no proper end.
    pub async fn whole(&self) -> Option<Bytes> {
        self.ended().await;
        let state = self.state();
        let kept = state.kept.as_ref().filter(|_| state.end == Some(End::Whole))?;
        Some(kept.concat().into())
    }

    /// Waits until a time is over for what began now, and one for all; each is reckoned from the end of the request.
    pub async fn late(&self, each: Option<Duration>, all: Option<Duration>) {
        let begun = Instant::now();
        let ended = self.ended().await;
        let due = each.map(|each| begun.max(ended) + each).into_iter().chain(all.map(|all| ended + all)).min();
        match due {
            Some(due) => sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until nothing has come of an answer for too long since the request was all there.
    pub async fn unanswered(&self) {
        self.ended().await;
        sleep(times().stream).await;
    }

    /// An answer that began before the request was all there, and must have come so long after that.
    pub fn due(self, answer: Body, time: Duration) -> Body {
        let over = Box::pin(async move { self.late(None, Some(time)).await });
        Body::Due(Box::new(Due { answer, over }))
    }
}

impl State {
    fn end(&mut self, how: End) {
        if self.end.is_none() {
            self.end = Some(how);
            self.told.send_replace(Some(Instant::now()));
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.end(End::Whole);
        }
        let Some(bytes) = frame.data_ref() else { return };
        self.length += bytes.len() as u64;
        if self.length > REPLAYABLE {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(bytes.clone());
        }
    }

    /// Reads on, and keeps what comes.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(error)) if error.is::<Stalled>() => self.end(End::Stalled),
            Some(Err(_)) => self.end(End::Broken),
            None => self.end(End::Whole),
        }
        if self.body.is_end_stream() {
            self.end(End::Whole);
        }
        Poll::Ready(frame)
    }
}

/// The body as one try sends it.
pub struct Copy {
    of: Upload,
    turn: u32,
    /// How many of the pieces that are kept it has sent.
    at: usize,
    sent: u64,
    done: bool,
}

impl hyper::body::Body for Copy {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let of = self.of.clone();
        let mut state = of.state();
        if state.turn != self.turn {
            return Poll::Ready(Some(Err("another try sends it now".into())));
        }
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(piece) = state.kept.as_ref().and_then(|kept| kept.get(self.at)).cloned() {
            (self.at, self.sent) = (self.at + 1, self.sent + piece.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let (Some(End::Whole), Some(trailers)) = (state.end, &state.trailers) {
            self.done = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let frame = ready!(state.poll_more(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.at += usize::from(frame.is_data());
                self.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.done = frame.is_trailers();
            }
            _ => self.done = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.of.state();
        let sent_all = state.kept.as_ref().is_none_or(|kept| self.at >= kept.len());
        self.done || state.end == Some(End::Whole) && sent_all && state.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.of.state().size {
            Some(size) => SizeHint::with_exact(size.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Copy {
    /// A body of which nobody reads on is no longer waited for.
    fn drop(&mut self) {
        let mut state = self.of.state();
        if state.turn == self.turn && state.kept.is_none() {
            state.end(End::Broken);
        }
    }
}

/// An answer that ends when its time is over.
pub struct Due {
    answer: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl hyper::body::Body for Due {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Late.into())));
        }
        Pin::new(&mut self.answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
