//! Bodies of endpoints' responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::adapter::crew::{Clock, Lease};

/// What may go wrong while a response's body is on its way: the endpoint's connection, or the route's time is over.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of an endpoint's response. As long as it lasts, the endpoint counts as busy and the route's time runs.
    #[derive(Debug)]
    pub struct LeasedBody<D, K: Clock> {
        #[pin]
        body: D,
        lease: Option<Lease<K>>,
        rest: Option<Pin<Box<K::Sleep>>>,
    }
}

impl<D, K: Clock> LeasedBody<D, K> {
    pub(super) fn new(body: D, lease: Option<Lease<K>>, rest: Option<K::Sleep>) -> Self {
        LeasedBody { body, lease, rest: rest.map(Box::pin) }
    }
}

impl<D: Body<Error: Into<BodyError>>, K: Clock> Body for LeasedBody<D, K> {
    type Data = D::Data;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<D::Data>, BodyError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            if frame.is_none() {
                (*this.lease, *this.rest) = (None, None);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let over = this.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(context).is_ready());
        if !over {
            return Poll::Pending;
        }
        (*this.lease, *this.rest) = (None, None);
        Poll::Ready(Some(Err("the time for the whole exchange is over".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
