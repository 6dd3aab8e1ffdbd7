//! What is noted of one request while it goes through a proxy, and told once it is over: counted, and written down.
//!
//! Knows what there is to know of a request. It is over when the last byte of its answer has gone out, or when the
//! client has left: either way its record is dropped, and dropping it tells it.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use hyper::body::{Body as _, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, Uri, Version};
use tracing::Span;

use crate::Failure;
use crate::access_log::Encoding;
use crate::args::Args;
use crate::message::{Ends, Late};
use crate::metrics::{Labels, Metrics, Observation, Via, Word, grpc_status};
use crate::pool::Body;
use crate::spans;
use crate::spiffe::Name;
use crate::times::Stalled;
use crate::upstream::Reached;
use crate::workload::{Service, UNKNOWN, Workload};

/// Names a request across all that handle it.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Through whom a request came.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Where records are told.
pub struct Telemetry {
    /// What is counted.
    pub metrics: Metrics,
    /// How the access log is written.
    pub encoding: Encoding,
}

impl Telemetry {
    /// As the command line says: `--access-log`, `--spans`.
    pub fn of(args: &Args) -> Result<Self, String> {
        spans::begin(args)?;
        Ok(Telemetry { metrics: Metrics::default(), encoding: Encoding::parse(args.all("access-log"))? })
    }
}

/// What is noted of one request.
pub struct Record {
    telemetry: Arc<Telemetry>,
    /// When it came.
    pub begun: Instant,
    /// The sockets at both ends of the client's connection.
    pub ends: Option<Ends>,
    /// The method.
    pub method: Method,
    /// What it is for, as it came.
    pub target: Uri,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// `Host`.
    pub host: Said,
    /// `User-Agent`.
    pub user_agent: Said,
    /// `X-Forwarded-For`.
    pub forwarded_for: Said,
    /// `X-Request-Id`, given here where it was missing.
    pub request_id: Said,
    is_grpc: bool,
    /// The size of a body that was all there.
    received: AtomicU64,
    /// How much has come of one that streams.
    streamed: OnceLock<Arc<AtomicU64>>,
    /// The status that was sent; 0: none.
    pub status: u16,
    /// Envoy's flags, with commas between them; empty: none.
    pub flags: String,
    /// Envoy's response code details.
    pub details: Word,
    grpc: Said,
    /// The bytes of the answer's body that were sent.
    pub sent: u64,
    /// How long the upstream took to begin its answer.
    pub upstream_time: Option<Duration>,
    /// The endpoint that the last try went to.
    pub upstream: Option<Reached>,
    /// The route's name.
    pub route: Arc<str>,
    /// By which rule it went, and to which cluster.
    pub via: Via,
    /// The same in words.
    pub reason: Arc<str>,
    /// Which side's proxy this is: `source` or `destination`.
    pub reporter: &'static str,
    /// How the request came: `mutual_tls`, `none`, or `unknown` to a caller's proxy, as Istio has it.
    pub security: &'static str,
    /// The server's name that the client said where its encryption ended here; `None`: it said none, or there was none.
    pub sni: Option<Arc<str>>,
    /// Who is at the client's end, as they have proved to this proxy; `None`: nobody.
    pub caller: Option<Name>,
    /// Whether what came is a tunnel, of whose contents is told by itself.
    pub is_tunnel: bool,
    /// Who asked has proved to be this; `None`: nobody.
    pub source_principal: Option<Name>,
    /// Who answered has proved to be this; `None`: nobody.
    pub destination_principal: Option<Name>,
    /// Who asked.
    pub source: Arc<Workload>,
    /// Whose pod answered.
    pub destination: Arc<Workload>,
    /// Who was asked for.
    pub service: Arc<Service>,
    complete: bool,
    span: Span,
}

impl Record {
    /// Begins one. What only lines and spans tell is noted only where they are made.
    pub fn begin(telemetry: &Arc<Telemetry>, parts: &mut Parts, ends: Option<Ends>) -> Box<Self> {
        let span = spans::open(&mut parts.headers);
        let request_id = parts.headers.entry(REQUEST_ID).or_insert_with(uuid);
        let is_told = telemetry.encoding != Encoding::Off || !span.is_disabled();
        let request_id = if is_told { Said(Some(request_id.clone())) } else { Said::default() };
        let said = |name| if is_told { Said::of(&parts.headers, name) } else { Said::default() };
        let unknown = Workload::unknown();
        Box::new(Record {
            telemetry: Arc::clone(telemetry),
            begun: Instant::now(),
            ends,
            method: parts.method.clone(),
            target: if is_told { parts.uri.clone() } else { Uri::default() },
            protocol: protocol(parts.version),
            host: said(&header::HOST),
            user_agent: said(&header::USER_AGENT),
            forwarded_for: said(&FORWARDED_FOR),
            request_id,
            is_grpc: Said::of(&parts.headers, &header::CONTENT_TYPE).starts_with("application/grpc"),
            received: AtomicU64::new(0),
            streamed: OnceLock::new(),
            status: 0,
            flags: String::new(),
            details: Word::default(),
            grpc: Said::default(),
            sent: 0,
            upstream_time: None,
            upstream: None,
            route: Arc::default(),
            via: Via::default(),
            reason: Arc::default(),
            reporter: "source",
            security: UNKNOWN,
            sni: None,
            caller: None,
            is_tunnel: false,
            source_principal: None,
            destination_principal: None,
            source: Arc::clone(&unknown),
            destination: unknown,
            service: Service::unknown(),
            complete: false,
            span,
        })
    }

    /// When it came, by the clock on the wall.
    pub fn started(&self) -> SystemTime {
        let now = SystemTime::now();
        now.checked_sub(self.duration()).unwrap_or(now)
    }

    /// The path as it came.
    pub fn path(&self) -> Cow<'_, str> {
        match self.target.path_and_query() {
            Some(path) => path.as_str().into(),
            None => self.target.to_string().into(),
        }
    }

    /// The host that was asked for.
    pub fn authority(&self) -> &str {
        self.target.authority().map_or(&self.host, |authority| authority.as_str())
    }

    /// The bytes of the request's body that have come so far.
    pub fn received(&self) -> u64 {
        self.count().load(Ordering::Relaxed)
    }

    /// The request's body was all there, and as large as this.
    pub fn loaded(&self, size: u64) {
        self.count().store(size, Ordering::Relaxed);
    }

    fn count(&self) -> &AtomicU64 {
        self.streamed.get().map_or(&self.received, |streamed| streamed)
    }

    /// Counts what comes of a request's body. Of several tries the last one counts.
    pub fn receiving(&self, body: Body) -> Body {
        let received = Arc::clone(self.streamed.get_or_init(Arc::default));
        received.store(0, Ordering::Relaxed);
        Body::Received(Box::new(Receiving { body, received }))
    }

    /// How long it has taken so far.
    pub fn duration(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Sends the answer out; the record is told when that is done.
    pub fn answered(mut self: Box<Self>, response: Response<Body>) -> Response<Sending> {
        self.status = response.status().as_u16();
        self.grpc = Said::of(response.headers(), &GRPC_STATUS);
        let bodiless = self.method == Method::HEAD || matches!(self.status, 204 | 304);
        self.complete = bodiless || response.body().is_end_stream();
        response.map(|body| Sending { body, record: self })
    }

    fn labels(&self) -> Labels {
        Labels {
            reporter: self.reporter.into(),
            source_principal: or_unknown(self.source_principal.as_ref()),
            destination_principal: or_unknown(self.destination_principal.as_ref()),
            source: Arc::clone(&self.source),
            destination: Arc::clone(&self.destination),
            service: Arc::clone(&self.service),
            protocol: if self.is_grpc { "grpc".into() } else { "http".into() },
            code: self.status,
            grpc: if self.is_grpc { grpc_status(&self.grpc).into() } else { Word::default() },
            flags: if self.flags.is_empty() { "-".into() } else { self.flags.clone().into() },
            security: self.security.into(),
        }
    }

    /// The upstream or the route's time ended the answer before its end.
    fn broke_off(&mut self, error: &Failure) {
        self.complete = true;
        let (flag, details) = match error {
            error if error.is::<Late>() => ("UT", "response_timeout"),
            error if error.is::<Stalled>() => ("SI", details("SI")),
            _ => ("UC", "upstream_reset_after_response_started{connection_termination}"),
        };
        self.flags = flag.into();
        self.details = details.into();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flags = "DC".into();
            self.details = "downstream_remote_disconnect".into();
        }
        let seen =
            Observation { duration: self.duration().as_secs_f64() * 1e3, received: self.received(), sent: self.sent };
        if !self.is_tunnel {
            self.telemetry.metrics.observe(self.labels(), self.via.clone(), &seen);
        }
        spans::close(&self.span, self);
        self.telemetry.encoding.tell(self);
    }
}

/// A request's body on its way in.
pub struct Receiving {
    body: Body,
    received: Arc<AtomicU64>,
}

impl hyper::body::Body for Receiving {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.received.fetch_add(frame.data_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body on its way out, and the record that ends with it.
pub struct Sending {
    body: Body,
    record: Box<Record>,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = self.body.is_end_stream();
        let record = &mut self.record;
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                record.sent += frame.data_ref().map_or(0, Bytes::len) as u64;
                if let Some(trailers) = frame.trailers_ref() {
                    record.grpc = Said::of(trailers, &GRPC_STATUS);
                }
                record.complete |= ended;
            }
            Poll::Ready(Some(Err(error))) => record.broke_off(error),
            Poll::Ready(None) => record.complete = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Envoy's response code details for an answer that was made here.
pub fn details(flags: &str) -> &'static str {
    match flags.split(',').next().unwrap_or_default() {
        "UF" => "upstream_reset_before_response_started{remote_connection_failure}",
        "UC" => "upstream_reset_before_response_started{connection_termination}",
        "UR" => "upstream_reset_before_response_started{remote_reset}",
        "UO" => "upstream_reset_before_response_started{overflow}",
        "UT" => "response_timeout",
        "UH" => "no_healthy_upstream",
        "NC" => "cluster_not_found",
        "NR" => "route_not_found",
        "FI" => "fault_filter_abort",
        "RL" => "local_rate_limited",
        "SI" => "stream_idle_timeout",
        _ => "direct_response",
    }
}

/// A name as a label.
pub fn or_unknown(name: Option<&Name>) -> Arc<str> {
    static NOBODY: LazyLock<Arc<str>> = LazyLock::new(|| UNKNOWN.into());
    name.map_or_else(|| Arc::clone(&NOBODY), Name::uri)
}

/// A header's value as it came, not copied; empty where it was not sent or is no text.
#[derive(Clone, Default)]
pub struct Said(Option<HeaderValue>);

impl Said {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Self {
        Said(headers.get(name).cloned())
    }
}

impl std::ops::Deref for Said {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_ref().and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/2.0",
    }
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> HeaderValue {
    /// Where the two digits of each byte stand.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let n = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut text = [b'-'; 36];
    for (byte, at) in n.to_be_bytes().into_iter().zip(PLACES) {
        text[at] = b"0123456789abcdef"[usize::from(byte >> 4)];
        text[at + 1] = b"0123456789abcdef"[usize::from(byte & 0xf)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("unknown"))
}
