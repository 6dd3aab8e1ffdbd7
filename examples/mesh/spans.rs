//! Tracing: W3C's `traceparent` passed on, and a span for each request, in OpenTelemetry's JSON, one a line.
//!
//! Knows the header and the form of a span (OTLP's, as the collector's `otlpjsonfile` reads it). Where nobody asked for
//! spans (`--spans FILE`), none are made and headers pass as they came: this mesh is then no part of the trace.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tracing::field::{Empty, Field, Visit};
use tracing::{Metadata, Span, span};

use crate::args::Args;
use crate::record::Record;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Whose spans are written.
const TARGET: &str = "mesh::request";
/// Fields that have a place of their own in a span; all others are attributes.
const OWN: [&str; 6] = ["trace_id", "span_id", "parent_id", "title", "kind", "service.name"];
/// OTLP's numbers: of who is asked, and of who asks.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

/// Writes spans to `--spans FILE` from now on, if that is asked for.
pub fn begin(args: &Args) -> Result<(), String> {
    let [path] = args.all("spans") else { return Ok(()) };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = Mutex::new(file.map_err(|error| format!("`--spans {path}`: {error}"))?);
    let spans = Spans { file, next: AtomicU64::new(1), open: Mutex::default() };
    tracing::subscriber::set_global_default(spans).map_err(|error| error.to_string())
}

/// What a `traceparent` says (W3C Trace Context, section 3.2).
#[derive(Debug, PartialEq)]
struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Parent {
    /// Reads one. Versions to come may say more behind a further dash; what is not well formed is none.
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return None };
        let hex = |text: &str, digits: usize| {
            let lower = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            (text.len() == digits && lower).then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let version = hex(version, 2)?;
        if version == 0xff || (version == 0 && !more.is_empty()) {
            return None;
        }
        let parent = Parent {
            trace: hex(trace, 32)?,
            span: u64::try_from(hex(span, 16)?).ok()?,
            flags: u8::try_from(hex(flags, 2)?).ok()?,
        };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }
}

/// Opens the span of a request and makes it the parent of what goes out.
///
/// A trace that was begun elsewhere goes on as it was decided there; one that is begun here is sampled.
pub fn open(headers: &mut HeaderMap) -> Span {
    if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
        return Span::none();
    }
    let mut sent = headers.get_all(TRACEPARENT).iter();
    let parent = match (sent.next().and_then(|value| value.to_str().ok()), sent.next()) {
        (Some(one), None) => Parent::parse(one),
        _ => None,
    };
    if parent.as_ref().is_some_and(|parent| parent.flags & 1 == 0) {
        return Span::none();
    }
    let trace = parent.as_ref().map_or_else(|| rand::random::<u128>().max(1), |parent| parent.trace);
    let (trace, own) = (format!("{trace:032x}"), format!("{:016x}", rand::random::<u64>().max(1)));
    let before = parent.map(|parent| format!("{:016x}", parent.span)).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&format!("00-{trace}-{own}-01")) {
        headers.insert(TRACEPARENT, value);
    }
    tracing::info_span!(
        target: TARGET,
        "request",
        trace_id = trace,
        span_id = own,
        parent_id = before,
        title = Empty,
        kind = Empty,
        service.name = Empty,
        http.request.method = Empty,
        http.response.status_code = Empty,
        url.path = Empty,
        server.address = Empty,
        user_agent.original = Empty,
        guid_x_request_id = Empty,
        upstream_cluster = Empty,
        response_flags = Empty,
        meshroute.reason = Empty,
    )
}

/// Puts down what became of the request, under OpenTelemetry's and Istio's names.
pub fn close(span: &Span, record: &Record) {
    if span.is_disabled() {
        return;
    }
    span.record("title", format!("{}/*", record.service.host));
    let (kind, own) = match record.reporter {
        "destination" => (SERVER, &record.destination),
        _ => (CLIENT, &record.source),
    };
    span.record("kind", kind);
    span.record("service.name", format!("{}.{}", own.service, own.namespace));
    span.record("http.request.method", record.method.as_str());
    span.record("http.response.status_code", record.status);
    span.record("url.path", record.path().split('?').next().unwrap_or_default());
    span.record("server.address", record.authority());
    span.record("user_agent.original", &*record.user_agent);
    span.record("guid_x_request_id", &*record.request_id);
    span.record("upstream_cluster", &*record.via.cluster);
    span.record("response_flags", if record.flags.is_empty() { "-" } else { record.flags.as_str() });
    span.record("meshroute.reason", &*record.reason);
}

/// Collects spans and writes each once it is over.
struct Spans {
    file: Mutex<File>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

/// A span that is not over.
struct Open {
    since: SystemTime,
    fields: Fields,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_string());
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Open { since: SystemTime::now(), fields };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id, open);
        span::Id::from_u64(id)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.get_mut(&span.into_u64()) {
            values.record(&mut open.fields);
        }
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    /// A record holds the only handle of its span, so that the first close is the last.
    fn try_close(&self, id: span::Id) -> bool {
        let closed = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.into_u64());
        let Some(closed) = closed else { return false };
        let line = format!("{}\n", written(&closed));
        // In one piece: the parts of a mesh share the file. One that cannot be written is no reason to fail.
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        true
    }
}

/// A span as OTLP has it.
fn written(open: &Open) -> Value {
    let nanos = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let field = |name: &str| open.fields.0.get(name).map(String::as_str).unwrap_or_default();
    let text = |name: &str, value: &str| json!({ "key": name, "value": { "stringValue": value } });
    let attributes: Vec<Value> =
        open.fields.0.iter().filter(|(name, _)| !OWN.contains(*name)).map(|(name, value)| text(name, value)).collect();
    let failed = field("http.response.status_code").parse::<u16>().is_ok_and(|status| status == 0 || status >= 500);
    let span = json!({
        "traceId": field("trace_id"),
        "spanId": field("span_id"),
        "parentSpanId": field("parent_id"),
        "name": field("title"),
        "kind": field("kind").parse().unwrap_or(CLIENT),
        // STATUS_CODE_ERROR or STATUS_CODE_UNSET.
        "status": { "code": if failed { 2 } else { 0 } },
        "startTimeUnixNano": nanos(open.since),
        "endTimeUnixNano": nanos(SystemTime::now()),
        "attributes": attributes,
    });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", field("service.name"))] },
        "scopeSpans": [{ "scope": { "name": "meshroute" }, "spans": [span] }],
    }] })
}
