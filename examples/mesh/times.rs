//! How long what stands still is kept: Istio's times, or those of the command line.
//!
//! Set once for the process. Knows what a standstill is; whose it is and what follows from it is for others.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, Sleep, sleep};

use crate::Failure;
use crate::args::Args;

/// The times of a part.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a request or answer of which nothing more comes or goes (Envoy's `stream_idle_timeout`). Istio sets it to none, since
    /// streams of gRPC may be silent for long (`pilot/pkg/networking/core/listener_builder.go`).
    pub stream: Duration,
    /// For a connection without requests (`idle_timeout` of `common_http_protocol_options`).
    pub connection: Duration,
    /// For bytes that nobody looks into (`idle_timeout` of the TCP proxy).
    pub bytes: Duration,
}

static TIMES: OnceLock<Times> = OnceLock::new();

const STREAM: &str = "stream-idle-timeout";
const CONNECTION: &str = "idle-timeout";
const BYTES: &str = "tcp-idle-timeout";

/// As the command line says.
pub fn settle(args: &Args) -> Result<(), String> {
    let _ = TIMES.set(Times {
        stream: time(args, STREAM, 0)?,
        connection: time(args, CONNECTION, 3600)?,
        bytes: time(args, BYTES, 3600)?,
    });
    Ok(())
}

/// What the own parts are told of it.
pub fn passed_on(args: &Args) -> Result<Vec<String>, String> {
    let given = |name: &str| Some([format!("--{name}"), args.all(name).first()?.clone()]);
    // Better said now than by a part that never comes up.
    [STREAM, CONNECTION, BYTES].iter().try_for_each(|name| time(args, name, 0).map(drop))?;
    Ok([STREAM, CONNECTION, BYTES].into_iter().filter_map(given).flatten().collect())
}

fn time(args: &Args, name: &str, usual: u64) -> Result<Duration, String> {
    let time = match args.all(name).first() {
        None => Duration::from_secs(usual),
        Some(text) => {
            let time = text.parse::<meshroute::model::Duration>().ok().and_then(meshroute::model::Duration::to_std);
            time.ok_or_else(|| format!("`--{name} {text}` is no time such as `5m`"))?
        }
    };
    Ok(if time.is_zero() { EVER } else { time })
}

/// Longer than anybody waits.
const EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Those in force.
pub fn times() -> Times {
    let usual = Times { stream: EVER, connection: Duration::from_secs(3600), bytes: Duration::from_secs(3600) };
    *TIMES.get().unwrap_or(&usual)
}

/// Nothing more came for too long.
#[derive(Debug)]
pub struct Stalled;

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stream timeout")
    }
}

impl std::error::Error for Stalled {}

/// How long something has stood still that moves now and then.
pub struct Standstill {
    patience: Duration,
    enough: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

impl Standstill {
    /// It is moving.
    pub fn new(patience: Duration) -> Self {
        Standstill { patience, enough: None, moved: true }
    }

    /// It has moved.
    pub fn moved(&mut self) {
        self.moved = true;
    }

    /// It does not move; ready when that is so for too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.patience == EVER {
            return Poll::Pending;
        }
        let enough = self.enough.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if std::mem::take(&mut self.moved) {
            enough.as_mut().reset(Instant::now() + self.patience);
        }
        enough.as_mut().poll(cx)
    }
}

/// A body that must not come to a standstill.
pub struct Moving<B> {
    body: B,
    standstill: Standstill,
}

impl<B> Moving<B> {
    /// It, and how long it may stand still.
    pub fn new(body: B, patience: Duration) -> Self {
        Moving { body, standstill: Standstill::new(patience) }
    }
}

impl<B> Body for Moving<B>
where
    B: Body + Unpin,
    B::Error: Into<Failure>,
{
    type Data = B::Data;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.standstill.moved();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
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

/// Whether something has moved since the last look.
#[derive(Clone, Default)]
pub struct Stir(Arc<AtomicBool>);

impl Stir {
    /// Waits until nothing has moved for as long as `patience` says, which may change meanwhile; give or take half of it.
    pub async fn end(&self, patience: impl Fn() -> Duration) {
        let mut moved = Instant::now();
        loop {
            sleep((patience() / 2).min(LOOK)).await;
            if self.0.swap(false, Ordering::Relaxed) {
                moved = Instant::now();
            } else if moved.elapsed() >= patience() {
                return;
            }
        }
    }
}

/// How often is looked at least whether something moves.
const LOOK: Duration = Duration::from_secs(60);

/// A connection that tells when something moves on it.
pub struct Stirring<S> {
    stream: S,
    stir: Stir,
}

impl<S> Stirring<S> {
    /// It, and how it tells.
    pub fn new(stream: S) -> (Self, Stir) {
        let stir = Stir::default();
        (Stirring { stream, stir: stir.clone() }, stir)
    }

    fn told<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stir.0.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stirring<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.told(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stirring<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.told(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.told(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Carries bytes both ways until both sides have ended, or none of them has said anything for too long.
pub async fn join<A, B>(a: A, mut b: B, patience: Duration)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    // What one side says, the other hears: it is enough to listen at one.
    let (mut a, stir) = Stirring::new(a);
    tokio::select! {
        _ = copy_bidirectional(&mut a, &mut b) => {}
        () = stir.end(|| patience) => {}
    }
}
