//! What is noted of one connection that is carried as a whole, and told once it is over: counted, and written down.
//!
//! The counterpart of a [`Record`](crate::record::Record), for what has no requests. Bytes are counted while they flow, since such
//! a connection may last for days.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::interval;

use crate::message::Ends;
use crate::metrics::{Carried, Labels, TCP, Via, Word};
use crate::record::{Telemetry, or_unknown};
use crate::spiffe::Name;
use crate::times;
use crate::workload::{Service, UNKNOWN, Workload};

/// How often is told what has flowed.
const PERIOD: Duration = Duration::from_secs(1);

/// What is noted of one connection.
pub struct Passage {
    telemetry: Arc<Telemetry>,
    /// When it came.
    pub started: SystemTime,
    begun: Instant,
    /// The sockets at both ends of the client's connection.
    pub ends: Option<Ends>,
    /// The server's name, where the client said one.
    pub sni: Option<String>,
    /// Who is at the client's end, as they have proved to this proxy; `None`: nobody.
    pub caller: Option<Name>,
    /// Envoy's flags; empty: none.
    pub flags: &'static str,
    /// Envoy's response code details: why nobody was asked.
    pub details: String,
    /// Envoy's connection termination details: who ended it and why.
    pub ended: String,
    /// How TLS to the upstream failed.
    pub failure: String,
    /// The socket that it went to.
    pub upstream: Option<String>,
    /// This side's socket of that connection.
    pub upstream_local: Option<std::net::SocketAddr>,
    /// By which rule, and to which cluster.
    pub via: Via,
    /// Which side's proxy this is: `source` or `destination`.
    pub reporter: &'static str,
    /// How it came: `mutual_tls`, `none`, or `unknown` to a caller's proxy.
    pub security: &'static str,
    /// Who called has proved to be this; `None`: nobody.
    pub source_principal: Option<Name>,
    /// Who is called has proved to be this; `None`: nobody.
    pub destination_principal: Option<Name>,
    /// Who called.
    pub source: Arc<Workload>,
    /// Whose pod is called.
    pub destination: Arc<Workload>,
    /// The service.
    pub service: Arc<Service>,
    /// Whether it is one that could have been carried: a handshake that fails is written down, not counted.
    pub counts: bool,
    bytes: Arc<Bytes>,
    told: Carried,
}

/// What has flowed so far.
#[derive(Default)]
struct Bytes {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Passage {
    /// Begins one.
    pub fn begin(telemetry: &Arc<Telemetry>, ends: Option<Ends>, sni: Option<&str>) -> Self {
        let unknown = Workload::unknown();
        Passage {
            telemetry: Arc::clone(telemetry),
            started: SystemTime::now(),
            begun: Instant::now(),
            ends,
            sni: sni.map(str::to_string),
            caller: None,
            flags: "",
            details: String::new(),
            ended: String::new(),
            failure: String::new(),
            upstream: None,
            upstream_local: None,
            via: Via::default(),
            reporter: "source",
            security: UNKNOWN,
            source_principal: None,
            destination_principal: None,
            source: Arc::clone(&unknown),
            destination: unknown,
            service: Service::unknown(),
            counts: true,
            bytes: Arc::default(),
            told: Carried::default(),
        }
    }

    /// Nobody takes it: Envoy's flag, and its details.
    pub fn refused(mut self, flags: &'static str, details: impl Into<String>) {
        (self.flags, self.details) = (flags, details.into());
    }

    /// It is closed before anything is carried, for a reason that Envoy notes of the connection.
    pub fn closed(mut self, why: impl Into<String>) {
        self.ended = why.into();
    }

    /// The same where it is not even clear what it was to be.
    pub fn without_handshake(mut self, why: impl Into<String>) {
        self.counts = false;
        self.closed(why);
    }

    /// The bytes that whoever called has sent, and those that were sent to them.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes.received.load(Ordering::Relaxed), self.bytes.sent.load(Ordering::Relaxed))
    }

    /// How long it has lasted so far.
    pub fn duration(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Carries it to its end, or until nothing has flowed for too long. Whichever side ends it, ends it for both.
    pub async fn carry(
        mut self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        server: impl AsyncRead + AsyncWrite + Unpin,
        patience: Duration,
    ) {
        let client = Counted { stream: client, bytes: Arc::clone(&self.bytes) };
        let mut pace = interval(PERIOD);
        let mut joined = pin!(times::join(client, server, patience));
        loop {
            tokio::select! {
                () = &mut joined => break,
                _ = pace.tick() => self.tell(0),
            }
        }
    }

    /// Tells what has become of it since the last time.
    fn tell(&mut self, closed: u64) {
        let (received, sent) = self.bytes();
        let now = Carried { opened: 1, closed, received, sent };
        let news = now.since(&mem::replace(&mut self.told, now));
        if self.counts && news != Carried::default() {
            self.telemetry.metrics.carry(self.labels(), self.via.clone(), &news);
        }
    }

    fn labels(&self) -> Labels {
        Labels {
            reporter: self.reporter.into(),
            source_principal: or_unknown(self.source_principal.as_ref()),
            destination_principal: or_unknown(self.destination_principal.as_ref()),
            source: Arc::clone(&self.source),
            destination: Arc::clone(&self.destination),
            service: Arc::clone(&self.service),
            protocol: TCP.into(),
            code: 0,
            grpc: Word::default(),
            flags: if self.flags.is_empty() { "-".into() } else { self.flags.into() },
            security: self.security.into(),
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.tell(1);
        self.telemetry.encoding.tell_of(self);
    }
}

/// A client's end of a connection, on which bytes are counted.
struct Counted<S> {
    stream: S,
    bytes: Arc<Bytes>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.bytes.received.fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.bytes.sent.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
