//! The hooks of a [Pingora](https://docs.rs/pingora-proxy) proxy ask the router.
//!
//! [`Routed`] is a whole `ProxyHttp`: it asks once per request, answers what ends here, picks an endpoint for each try
//! under the DestinationRule, rewrites request and response, and has Pingora try again where the route says so. Headers
//! are read where Pingora keeps them. Whoever has a `ProxyHttp` already calls its methods of the same names from there.
//!
//! ```
//! use std::sync::Arc;
//! use meshroute::adapter::pingora::Routed;
//! use meshroute::{Live, Plan, Router};
//! use pingora_core::server::configuration::ServerConf;
//!
//! let live = Arc::new(Live::new(Router::compile(Plan::default())?));
//! let begin = std::time::Instant::now();
//! let routed = Routed::new(live, 5000, (move || begin.elapsed(), tokio::time::sleep));
//! let mut service = pingora_proxy::http_proxy_service(&Arc::new(ServerConf::default()), routed);
//! service.add_tcp("127.0.0.1:0");
//! # Ok::<(), meshroute::PlanError>(())
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use ::http::header::{HOST, SET_COOKIE};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::SocketDigest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::authority::{RawTargetAuthority, raw_target_authority};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::chosen::Chosen;
use super::crew::{Clock, Crew, Lease};
use super::http::{Change, answer, authority, is_grpc_type, made_here, without_user};
use super::sticky::stickiness;
use crate::balance::{Ended, Failure, HostId, Tried, Tries, Verdict};
use crate::decision::Outcome;
use crate::live::Live;
use crate::plan::EditHeaders;
use crate::request::{Connection, Request, TlsHello};
use crate::roll::{Purpose, Roll};

/// A name or value that HTTP does not allow is passed over.
impl EditHeaders for RequestHeader {
    fn read(&self, name: &str, with: &mut dyn FnMut(&str)) {
        self.headers.read(name, with);
    }

    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: &str, value: &str) {
        let _ = self.insert_header(name.to_string(), value);
    }

    fn append(&mut self, name: &str, value: &str) {
        let _ = self.append_header(name.to_string(), value);
    }
}

/// A name or value that HTTP does not allow is passed over.
impl EditHeaders for ResponseHeader {
    fn read(&self, name: &str, with: &mut dyn FnMut(&str)) {
        self.headers.read(name, with);
    }

    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: &str, value: &str) {
        let _ = self.insert_header(name.to_string(), value);
    }

    fn append(&mut self, name: &str, value: &str) {
        let _ = self.append_header(name.to_string(), value);
    }
}

/// The question that a request asks, for the port that was dialled. Borrows all of it.
///
/// Of an absolute target, scheme and authority are taken from there, whatever `Host` says (RFC 9112, section 3.2.2); Pingora
/// itself refuses requests in which the two differ.
pub fn request(header: &RequestHeader, port: u16) -> Request<'_> {
    let (method, raw) = (header.method.as_str(), header.raw_path());
    let shown = header.uri.path_and_query().map_or(&b""[..], |path| path.as_str().as_bytes());
    let asked = match raw_target_authority(raw) {
        // Pingora keeps them out of the URI.
        RawTargetAuthority::Absolute { scheme, authority, path_and_query } => {
            let path = if path_and_query.starts_with(b"/") { path_and_query } else { shown };
            Request::new(method, without_user(text(authority)), path).scheme(text(scheme))
        }
        // What is no UTF-8 was replaced in the URI.
        _ => {
            let path = if header.raw_path_is_utf8() { shown } else { raw };
            let scheme = header.uri.scheme_str().unwrap_or_default();
            Request::new(method, authority(&header.uri, &header.headers), path).scheme(scheme)
        }
    };
    asked.headers(&header.headers).port(port)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Endpoints get the origin form, and in `host` what an absolute target said.
fn to_origin_form(header: &mut RequestHeader) -> Result<()> {
    let RawTargetAuthority::Absolute { .. } = raw_target_authority(header.raw_path()) else { return Ok(()) };
    let asked = request(header, 0);
    let (host, path) = (asked.authority.to_string(), asked.path.to_vec());
    header.insert_header(HOST, host)?;
    header.set_raw_path(&path)
}

/// What a request's connection is known to be.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Arrival<'a> {
    /// Where it was going, and its hello.
    pub connection: Connection<'a>,
    /// The client's address, for clients that stick by it.
    pub source: Option<IpAddr>,
}

impl<'a> Arrival<'a> {
    /// A client on this connection, and nobody knows where.
    pub fn new(connection: Connection<'a>) -> Self {
        Arrival { connection, source: None }
    }

    /// From this address.
    pub fn source(mut self, source: impl Into<Option<IpAddr>>) -> Self {
        self.source = source.into();
        self
    }
}

/// The name that a TLS client asked for. Pingora does not keep it: where routing looks at it, a listener's
/// `TlsAccept::handshake_complete_callback` does, by returning this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerName(pub Option<String>);

/// What becomes of a request.
#[derive(Debug)]
#[must_use]
pub enum Next {
    /// It goes on; the trip knows where to.
    Forward,
    /// It is answered with this.
    Answer(::http::Response<Vec<u8>>),
    /// Its connection is closed without an answer.
    Close,
}

/// A proxy that goes where the router says.
#[derive(Debug)]
pub struct Routed<K, R = fn() -> Roll> {
    live: Arc<Live>,
    port: u16,
    redirected: bool,
    roll: R,
    crew: Arc<Crew<K>>,
}

impl<K: Clock> Routed<K> {
    /// Takes every request as one to this port, at an address that no resource mentions.
    pub fn new(live: Arc<Live>, port: u16, clock: K) -> Self {
        Routed { live, port, redirected: false, roll: Roll::random, crew: Arc::new(Crew::new(clock)) }
    }
}

impl<K: Clock, R: Fn() -> Roll> Routed<K, R> {
    /// With these dice: called once per request.
    pub fn rolls<F: Fn() -> Roll>(self, roll: F) -> Routed<K, F> {
        let Routed { live, port, redirected, crew, .. } = self;
        Routed { live, port, redirected, roll, crew }
    }

    /// For connections that Linux redirected to the proxy (`iptables -t nat ... -j REDIRECT`), as a sidecar's are: what
    /// was dialled is asked for, and requests that nobody claims go there. A connection that was not redirected stays one
    /// to the port.
    ///
    /// Source: `SO_ORIGINAL_DST`, by way of Pingora's `SocketDigest::original_dst`; Envoy's `use_original_dst`.
    pub fn redirected(mut self) -> Self {
        self.redirected = true;
        self
    }

    /// What the session says of the connection.
    pub fn arrival<'s>(&self, session: &'s Session) -> Arrival<'s> {
        let Some(digest) = session.as_downstream().digest() else { return Arrival::new(Connection::new(self.port)) };
        let socket = digest.socket_digest.as_deref();
        let source = socket.and_then(|socket| inet(socket.peer_addr()));
        let mut connection = match socket.filter(|_| self.redirected).and_then(dialled) {
            Some(dialled) => Connection::new(dialled.port()).address(dialled.ip()),
            None => Connection::new(self.port),
        };
        connection.tls = digest
            .ssl_digest
            .as_deref()
            .map(|tls| TlsHello { sni: tls.extension.get::<ServerName>().and_then(|name| name.0.as_deref()) });
        Arrival::new(connection).source(source.map(|source| source.ip()))
    }

    /// Does what `request_filter` must do once it was asked. `true`: the request was answered.
    ///
    /// # Errors
    /// The client is gone, or the connection is to be closed without an answer, which `fail_to_proxy` sees to.
    pub async fn begin(&self, session: &mut Session, next: Next, trip: &mut Trip<K>) -> Result<bool> {
        match next {
            Next::Forward => {}
            Next::Answer(response) => {
                respond(session, response).await?;
                return Ok(true);
            }
            Next::Close => {
                trip.closed = true;
                return Error::e_explain(ErrorType::ConnectionClosed, "the route says so");
            }
        }
        let clock = &self.crew.clock;
        if let Some(delay) = trip.chosen().and_then(Chosen::delay) {
            clock.sleep(delay).await;
        }
        trip.deadline = trip.chosen().and_then(Chosen::timeout).map(|timeout| clock.now().saturating_add(timeout));
        Ok(false)
    }

    /// Asks, and keeps in `trip` what is to be done. Needs no session. `request_filter` does it with what the session says of
    /// the connection; who knows more asks, and then has it done by [`begin`](Self::begin).
    pub fn ask(&self, header: &RequestHeader, arrival: &Arrival<'_>, trip: &mut Trip<K>) -> Next {
        let connection = &arrival.connection;
        let mut asked = request(header, connection.port).address(connection.address);
        asked.tls = connection.tls;
        let (router, roll) = (self.live.load(), (self.roll)());
        let decision = router.decide(&asked, &roll);
        trip.grpc = is_grpc_type(&header.headers);
        if let Some(response) = answer(&decision, &asked) {
            return Next::Answer(response);
        }
        if matches!(decision.outcome, Outcome::Blackhole | Outcome::Reset) {
            return Next::Close;
        }
        let Ok(change) = Change::of(&decision, &asked) else { return Next::Answer(made_here(500, "", trip.grpc)) };
        let chosen = Chosen::of(router.plan(), &decision, &roll);
        if chosen.as_ref().is_none_or(Chosen::goes_where_dialled) {
            // Where nobody knows what was dialled, there is nowhere to go.
            let Some(address) = connection.address else { return Next::Answer(made_here(502, "", trip.grpc)) };
            trip.dialled = Some(SocketAddr::new(address, connection.port));
        }
        if let Some(chosen) = &chosen {
            (trip.hash, trip.cookie) = stickiness(chosen, &header.headers, asked.path, arrival.source);
        }
        (trip.change, trip.chosen) = (change, chosen);
        Next::Forward
    }

    /// Carries out on the request what the route says of it.
    ///
    /// # Errors
    /// The new path or authority is none.
    pub fn rewrite(&self, upstream: &mut RequestHeader, trip: &Trip<K>) -> Result<()> {
        to_origin_form(upstream)?;
        let (path, authority) = trip.change.target();
        if let Some(path) = path {
            upstream.set_raw_path(path.as_str().as_bytes())?;
        }
        if let Some(authority) = authority {
            upstream.insert_header(HOST, authority.as_str())?;
        }
        trip.change.edit_request(upstream);
        Ok(())
    }

    /// Carries out on the response what the route says of it.
    pub fn edit(&self, response: &mut ResponseHeader, trip: &Trip<K>) {
        if let Some(cookie) = &trip.cookie {
            let _ = response.append_header(SET_COOKIE, cookie);
        }
        trip.change.edit_response(response);
    }

    /// Where the next try goes.
    fn address(&self, trip: &mut Trip<K>) -> Result<SocketAddr> {
        if let Some(dialled) = trip.dialled {
            return Ok(dialled);
        }
        let Some(chosen) = &trip.chosen else { return Err(Error::new(ErrorType::InternalError)) };
        let Some((endpoint, lease)) = self.crew.pick(chosen, trip.hash, &trip.before) else {
            trip.failure = Failure::Overflow;
            // A listener that does not look into what it passes on has no words of its own.
            trip.closed = chosen.route().is_none();
            return Err(Error::new(ErrorType::HTTPStatus(503)));
        };
        if chosen.retry().is_some_and(|retry| retry.ignore_previous_hosts) {
            trip.before.push(lease.host);
        }
        trip.lease = Some(lease);
        endpoint.socket().ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "the endpoint is a name"))
    }

    /// What follows from a try that failed: whether Pingora makes another.
    fn judge(&self, trip: &mut Trip<K>, tried: Tried) -> bool {
        let over = trip.left(&self.crew.clock) == Some(Duration::ZERO);
        let verdict = trip.judge(tried);
        let Verdict::Again(pause) = verdict else { return false };
        trip.pause = pause;
        !over
    }
}

/// One request on its way: Pingora's `CTX`.
#[derive(Debug)]
pub struct Trip<K: Clock> {
    chosen: Option<Chosen>,
    change: Change,
    /// Where a request goes that nobody claims, or whose service has no endpoints of its own.
    dialled: Option<SocketAddr>,
    /// Without an answer.
    closed: bool,
    lease: Option<Lease<K>>,
    /// What it sticks by.
    hash: Option<u64>,
    /// What its client gets to stick by next time.
    cookie: Option<HeaderValue>,
    deadline: Option<Duration>,
    before: Vec<HostId>,
    /// How each try ended. A policy's tries are counted again from the first: there are few.
    tried: Vec<Tried>,
    pause: Duration,
    failure: Failure,
    grpc: bool,
}

impl<K: Clock> Trip<K> {
    fn new() -> Self {
        Trip {
            chosen: None,
            dialled: None,
            closed: false,
            change: Change::default(),
            lease: None,
            hash: None,
            cookie: None,
            deadline: None,
            before: Vec::new(),
            tried: Vec::new(),
            pause: Duration::ZERO,
            failure: Failure::Reset,
            grpc: false,
        }
    }

    /// Where the request goes, and how; `None` before it was asked about, and for one that ends here.
    pub fn chosen(&self) -> Option<&Chosen> {
        self.chosen.as_ref()
    }

    fn left(&self, clock: &K) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_sub(clock.now()))
    }

    fn judge(&mut self, tried: Tried) -> Verdict {
        self.tried.push(tried);
        let Some(chosen) = &self.chosen else { return Verdict::Done };
        let Some(retry) = chosen.retry() else { return Verdict::Done };
        let (mut tries, mut draw) = (Tries::new(retry), chosen.roll().draw(Purpose::Endpoint));
        let judged = self.tried.iter().map(|tried| {
            draw = Roll::seeded(draw).draw(Purpose::Endpoint);
            tries.judge(*tried, draw)
        });
        judged.last().unwrap_or(Verdict::Done)
    }
}

#[async_trait]
impl<K, R> ProxyHttp for Routed<K, R>
where
    K: Clock<Sleep: Send> + Send + Sync + 'static,
    R: Fn() -> Roll + Send + Sync,
{
    type CTX = Trip<K>;

    fn new_ctx(&self) -> Trip<K> {
        Trip::new()
    }

    async fn request_filter(&self, session: &mut Session, trip: &mut Trip<K>) -> Result<bool> {
        let next = self.ask(session.req_header(), &self.arrival(session), trip);
        self.begin(session, next, trip).await
    }

    async fn upstream_peer(&self, _: &mut Session, trip: &mut Trip<K>) -> Result<Box<HttpPeer>> {
        let clock = &self.crew.clock;
        let pause = std::mem::take(&mut trip.pause);
        if !pause.is_zero() {
            clock.sleep(pause).await;
        }
        let left = trip.left(clock);
        if left == Some(Duration::ZERO) {
            trip.failure = Failure::TimedOut;
            return Err(Error::new(ErrorType::HTTPStatus(504)));
        }
        let mut peer = HttpPeer::new(self.address(trip)?, false, String::new());
        if let Some(chosen) = &trip.chosen {
            let per_try = chosen.retry().and_then(|retry| retry.per_try_timeout);
            peer.options.connection_timeout = Some(chosen.cluster().policy.connect_timeout);
            peer.options.read_timeout = left.into_iter().chain(per_try).min();
        }
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        trip: &mut Trip<K>,
    ) -> Result<()> {
        self.rewrite(upstream, trip)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        trip: &mut Trip<K>,
    ) -> Result<()> {
        let status = response.status.as_u16();
        if response.status.is_informational() {
            return Ok(());
        }
        if let Some(lease) = &mut trip.lease {
            lease.ended = Ended::Answered(status);
        }
        let number = |name| response.headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
        let rate_limited = response.headers.contains_key("x-envoy-ratelimited");
        let tried = Tried::Answered { status, grpc: number("grpc-status"), rate_limited };
        let repeatable = !session.as_downstream().retry_buffer_truncated();
        if repeatable && self.judge(trip, tried) {
            let mut again = Error::new_up(ErrorType::HTTPStatus(status));
            again.set_retry(true);
            return Err(again);
        }
        Ok(())
    }

    /// Cuts off a body that comes steadily, but too long.
    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        trip: &mut Trip<K>,
    ) -> Result<Option<Duration>> {
        if end || trip.left(&self.crew.clock) != Some(Duration::ZERO) {
            return Ok(None);
        }
        Err(Error::new_up(ErrorType::ReadTimedout))
    }

    async fn response_filter(&self, _: &mut Session, response: &mut ResponseHeader, trip: &mut Trip<K>) -> Result<()> {
        self.edit(response, trip);
        Ok(())
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, trip: &mut Trip<K>, mut error: Box<Error>) -> Box<Error> {
        if let Some(mut lease) = trip.lease.take() {
            lease.ended = Ended::Lost;
        }
        trip.failure = Failure::Connect;
        error.set_retry(self.judge(trip, Tried::Failed(Failure::Connect)));
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        trip: &mut Trip<K>,
        _: bool,
    ) -> Box<Error> {
        let lease = trip.lease.take();
        // Another try that a response asked for was judged already.
        if matches!(error.etype(), ErrorType::HTTPStatus(_)) {
            return error;
        }
        let timed_out = matches!(error.etype(), ErrorType::ReadTimedout);
        trip.failure = if timed_out { Failure::TimedOut } else { Failure::Reset };
        let theirs = *error.esource() == ErrorSource::Upstream;
        if let (Some(mut lease), true) = (lease, theirs) {
            lease.ended = if timed_out { Ended::TimedOut } else { Ended::Lost };
        }
        let repeatable = session.response_written().is_none() && !session.as_downstream().retry_buffer_truncated();
        error.set_retry(theirs && repeatable && self.judge(trip, Tried::Failed(trip.failure)));
        error
    }

    fn suppress_error_log(&self, _: &Session, trip: &Trip<K>, _: &Error) -> bool {
        trip.closed
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, trip: &mut Trip<K>) -> FailToProxy {
        let dead = *error.esource() == ErrorSource::Downstream || session.response_written().is_some();
        if dead || trip.closed {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let (status, text) = refusal(trip.failure);
        let mut response = made_here(status, text, trip.grpc);
        trip.change.response(response.headers_mut());
        let _ = respond(session, response).await;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }
}

/// Where a redirected connection was going. Of another one Linux may say the proxy's own address: that would be a loop.
fn dialled(socket: &SocketDigest) -> Option<SocketAddr> {
    inet(socket.original_dst()).filter(|dialled| inet(socket.local_addr()) != Some(*dialled))
}

fn inet(address: Option<&pingora_core::protocols::l4::socket::SocketAddr>) -> Option<SocketAddr> {
    let address = address?.as_inet()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// Envoy's answer when no answer came. `Overflow` stands for a cluster none of whose endpoints takes requests.
fn refusal(failure: Failure) -> (u16, &'static str) {
    match failure {
        Failure::TimedOut => (504, "upstream request timeout"),
        Failure::Overflow => (503, "no healthy upstream"),
        Failure::Connect => {
            (503, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure")
        }
        _ => (503, "upstream connect error or disconnect/reset before headers. reset reason: connection termination"),
    }
}

async fn respond(session: &mut Session, response: ::http::Response<Vec<u8>>) -> Result<()> {
    let (parts, body) = response.into_parts();
    let mut header = ResponseHeader::build(parts.status, Some(parts.headers.len()))?;
    for (name, value) in &parts.headers {
        header.append_header(name, value)?;
    }
    session.write_response_header(Box::new(header), body.is_empty()).await?;
    if !body.is_empty() {
        session.write_response_body(Some(Bytes::from(body)), true).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::router::Router;

    #[tokio::test]
    async fn a_body_is_cut_off_when_the_time_for_the_whole_is_over() {
        let live = Arc::new(Live::new(Router::compile(Plan::default()).unwrap()));
        let clock = (|| Duration::from_secs(5), |_| std::future::ready(()));
        let routed = Routed::new(live, 80, clock);
        let mut session = Session::new_h1(Box::new(std::io::Cursor::new(Vec::new())));
        let mut trip = routed.new_ctx();
        let mut comes = |deadline: Option<u64>, end| {
            trip.deadline = deadline.map(Duration::from_secs);
            routed.upstream_response_body_filter(&mut session, &mut None, end, &mut trip)
        };
        assert!(comes(None, false).is_ok() && comes(Some(6), false).is_ok() && comes(Some(5), true).is_ok());
        let error = comes(Some(5), false).unwrap_err();
        assert_eq!((error.etype(), error.esource()), (&ErrorType::ReadTimedout, &ErrorSource::Upstream));
    }

    #[test]
    fn a_connection_that_was_not_redirected_is_one_to_the_port() {
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap().into());
        let found = |local: &str, original| {
            let socket = SocketDigest::from_raw_fd(-1);
            let _ = (socket.local_addr.set(at(local)), socket.original_dst.set(original));
            dialled(&socket).map(|address| address.to_string())
        };
        assert_eq!(found("127.0.0.1:15001", at("10.0.0.1:80")).as_deref(), Some("10.0.0.1:80"));
        assert_eq!(found("127.0.0.1:15001", at("127.0.0.1:15001")), None);
        assert_eq!(found("[::ffff:127.0.0.1]:15001", at("127.0.0.1:15001")), None);
        assert_eq!(found("127.0.0.1:15001", None), None);
    }
}
