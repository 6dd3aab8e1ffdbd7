//! A request's body that can be sent again, as far as what was sent of it is kept.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ::http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A body on its way to an endpoint; made by [`Upstream`](super::Upstream). It streams: a frame is read from the client
/// when the endpoint wants it, and kept for another try while all of them together are small.
pub struct Replay<B: Body> {
    source: Source<B>,
    try_number: u32,
    /// How many of the kept frames were sent in this try.
    sent: usize,
}

/// What all tries of one request share.
pub(super) struct Source<B: Body> {
    shared: Arc<Mutex<Shared<B>>>,
}

struct Shared<B: Body> {
    body: Pin<Box<B>>,
    kept: Vec<Kept<B::Data>>,
    /// How many bytes may still be kept; `None`: too many came, and nothing is kept any more.
    room: Option<u64>,
    ended: bool,
    /// Only the latest try reads on: an earlier one may linger a moment in its connection.
    latest: u32,
}

/// What polling a body comes to.
type Polled<D, E> = Poll<Option<Result<Frame<D>, E>>>;

enum Kept<D> {
    Data(D),
    Trailers(HeaderMap),
}

impl<D: Clone> Kept<D> {
    fn frame(&self) -> Frame<D> {
        match self {
            Kept::Data(data) => Frame::data(data.clone()),
            Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl<B: Body> Source<B> {
    /// Keeps at most so many bytes.
    pub(super) fn new(body: B, room: u64) -> Self {
        let shared =
            Shared { ended: body.is_end_stream(), body: Box::pin(body), kept: Vec::new(), room: Some(room), latest: 0 };
        Source { shared: Arc::new(Mutex::new(shared)) }
    }

    /// The body from its beginning; `None` where that is gone.
    pub(super) fn again(&self) -> Option<Replay<B>> {
        let mut shared = self.lock();
        shared.room?;
        shared.latest += 1;
        let source = Source { shared: Arc::clone(&self.shared) };
        Some(Replay { source, try_number: shared.latest, sent: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, Shared<B>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Body<Data: Clone>> Shared<B> {
    /// Reads a frame from the client.
    fn read(&mut self, context: &mut Context<'_>) -> Polled<B::Data, B::Error> {
        let frame = std::task::ready!(self.body.as_mut().poll_frame(context));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.forget(),
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<B::Data>) {
        let Some(room) = self.room else { return };
        let (kept, size) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => (Kept::Data(data.clone()), bytes::Buf::remaining(data) as u64),
            (_, Some(trailers)) => (Kept::Trailers(trailers.clone()), 0),
            _ => return,
        };
        match room.checked_sub(size) {
            Some(left) => (self.room = Some(left), self.kept.push(kept)).1,
            None => self.forget(),
        }
    }

    fn forget(&mut self) {
        (self.room, self.kept) = (None, Vec::new());
    }
}

impl<B: Body<Data: Clone>> Body for Replay<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let mut shared = this.source.lock();
        if shared.latest != this.try_number {
            return Poll::Pending;
        }
        if let Some(kept) = shared.kept.get(this.sent) {
            this.sent += 1;
            return Poll::Ready(Some(Ok(kept.frame())));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(shared.read(context));
        this.sent = shared.kept.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.source.lock();
        self.sent >= shared.kept.len() && (shared.ended || shared.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.source.lock();
        let ahead = shared.kept.iter().skip(self.sent).map(|kept| match kept {
            Kept::Data(data) => bytes::Buf::remaining(data) as u64,
            Kept::Trailers(_) => 0,
        });
        let (ahead, rest) = (ahead.sum::<u64>(), shared.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(ahead.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B: Body> std::fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("try_number", &self.try_number).finish_non_exhaustive()
    }
}
