//! What a connection speaks, by its first bytes.
//!
//! Knows how HTTP/1, HTTP/2 and TLS begin. A client that waits for the server to speak first says nothing for a while, and
//! so does one that is slow or dead: where only HTTP can come, it is the client that speaks first, and nothing is guessed.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use meshroute::TlsHello;
use meshroute::adapter::tls;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::identity::ALPN;
use crate::patience::HEAD;

/// How long a client is waited for that may want to hear something first.
const COURTESY: Duration = Duration::from_millis(200);
/// How long one that has begun may take to be understood.
const PATIENCE: Duration = Duration::from_secs(10);
/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// HTTP/1.
    One,
    /// HTTP/2.
    Two,
    /// TLS.
    Tls {
        /// The server's name, where it was said.
        name: Option<String>,
        /// Whether it is the mesh's own, between sidecars.
        mesh: bool,
    },
    /// Something else, or nothing.
    Other,
}

impl Opening {
    /// In the router's words.
    pub fn hello(&self) -> Option<TlsHello<'_>> {
        match self {
            Opening::Tls { name, .. } => Some(TlsHello { sni: name.as_deref() }),
            _ => None,
        }
    }
}

/// What is known of a connection before anything of it was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Requests, plain or in TLS, and nothing else: what is neither is bad HTTP.
    Requests,
    /// Anything that its client begins with.
    FirstWord,
    /// Anything, and perhaps the server is to begin.
    Anything,
}

/// Listens until it is clear what is spoken, and hands back what was read. `None`: nothing came for too long from a client that
/// was to speak first.
pub async fn hear(expected: Expected, stream: &mut (impl AsyncRead + Unpin)) -> Option<(Opening, Vec<u8>)> {
    match expected {
        Expected::Requests => hear_http(stream).await,
        Expected::FirstWord => hear_any(HEAD, stream).await.filter(|(_, read)| !read.is_empty()),
        Expected::Anything => Some(hear_any(COURTESY, stream).await.unwrap_or((Opening::Other, Vec::new()))),
    }
}

/// Listens as long as for the head of any request. What is neither TLS nor HTTP/2 is HTTP/1, good or bad.
async fn hear_http(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Opening, Vec<u8>)> {
    let mut read = Vec::new();
    let listening = timeout(HEAD, async {
        while stream.read_buf(&mut read).await.is_ok_and(|more| more > 0) {
            match kind(&read) {
                Some(Opening::Other) => return Some(Opening::One),
                None if is_begun_elsewhere(&read) => {}
                None => return Some(Opening::One),
                known => return known,
            }
        }
        // What breaks off in the middle is for HTTP/1 to refuse.
        (!read.is_empty()).then_some(Opening::One)
    });
    let opening = listening.await.ok()??;
    Some((opening, read))
}

/// Whether it may yet become TLS or HTTP/2.
fn is_begun_elsewhere(read: &[u8]) -> bool {
    PREFACE.starts_with(read) || matches!(tls::opening(read), Ok(tls::Opening::Short(_)))
}

/// `None`: nothing came for so long.
async fn hear_any(patience: Duration, stream: &mut (impl AsyncRead + Unpin)) -> Option<(Opening, Vec<u8>)> {
    let mut read = Vec::new();
    let first = timeout(patience, stream.read_buf(&mut read)).await.ok()?;
    if !matches!(first, Ok(1..)) {
        return Some((Opening::Other, read));
    }
    let listening = timeout(PATIENCE, async {
        loop {
            if let Some(opening) = kind(&read) {
                return opening;
            }
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return Opening::Other;
            }
        }
    });
    let opening = listening.await.unwrap_or(Opening::Other);
    Some((opening, read))
}

/// `None`: more bytes are needed.
fn kind(read: &[u8]) -> Option<Opening> {
    match tls::opening(read) {
        Ok(tls::Opening::Hello(hello)) => {
            let mesh = hello.protocols().any(|protocol| protocol == ALPN);
            return Some(Opening::Tls { name: hello.server_name().map(str::to_string), mesh });
        }
        Ok(tls::Opening::Short(_)) => return None,
        Ok(tls::Opening::Plain) | Err(_) => {}
    }
    if read.starts_with(PREFACE) {
        return Some(Opening::Two);
    }
    if PREFACE.starts_with(read) {
        return None;
    }
    let method = read.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match read.get(method) {
        Some(b' ') if method > 0 => Some(Opening::One),
        None if method < 16 => None,
        _ => Some(Opening::Other),
    }
}

/// A stream with what was read of it put back.
pub fn rewound<S: AsyncRead + AsyncWrite + Unpin>(read: Vec<u8>, stream: S) -> Rewound<S> {
    Rewound { read: Cursor::new(read), stream }
}

/// What [`rewound`] makes.
pub struct Rewound<S> {
    read: Cursor<Vec<u8>>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let at = self.read.position() as usize;
        let left = self.read.get_ref().get(at..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let size = left.len().min(into.remaining());
        into.put_slice(&left[..size]);
        self.read.set_position((at + size) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
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
