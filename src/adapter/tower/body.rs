//! Bodies of responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response: that of the service inside, or one that was made here.
    #[derive(Debug)]
    pub struct RoutedBody<D> {
        #[pin]
        kind: Kind<D>,
    }
}

pin_project! {
    #[project = KindProjection]
    #[derive(Debug)]
    enum Kind<D> {
        Inner { #[pin] body: D },
        Local { text: Vec<u8> },
    }
}

impl<D> RoutedBody<D> {
    pub(super) fn inner(body: D) -> Self {
        RoutedBody { kind: Kind::Inner { body } }
    }

    pub(super) fn local(text: Vec<u8>) -> Self {
        RoutedBody { kind: Kind::Local { text } }
    }
}

impl<D: Body<Data: From<Vec<u8>>>> Body for RoutedBody<D> {
    type Data = D::Data;
    type Error = D::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<D::Data>, D::Error>>> {
        match self.project().kind.project() {
            KindProjection::Inner { body } => body.poll_frame(context),
            KindProjection::Local { text } if text.is_empty() => Poll::Ready(None),
            KindProjection::Local { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text).into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Local { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Local { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}
