//! One request through the mesh: asks the router, and does what it says.
//!
//! Knows HTTP/1.1 and how to carry out a decision: forwarding, retries, timeouts, edits, answers made here. Where a
//! request goes is never decided here. Sidecars and gateways share it; they differ in what they take as the question.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use meshroute::plan::{Cluster, EditHeaders, Endpoint, Retry};
use meshroute::{Decision, Forwarded, Headers, Outcome, Purpose, Refusal, Roll, Router};
use std::collections::BTreeMap;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Sleep, timeout};

use crate::Failure;
use crate::pool::{Body, Lost, Pool};
use crate::wire::Routes;
use crate::world::rule_key;

/// The largest body that is kept for another try.
const REPLAYABLE: u64 = 64 << 10;
/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(60);
/// The longest pause between two tries, as a multiple of the first.
const MAX_BACKOFF: u32 = 10;

/// A snapshot in force: what is read together is swapped together.
pub struct Config {
    /// Where requests go.
    pub router: Router,
    underlay: BTreeMap<SocketAddr, SocketAddr>,
    places: BTreeMap<String, String>,
}

impl Config {
    /// Checks what came over the wire.
    pub fn check(routes: Routes) -> Result<Self, String> {
        if let Some(real) = routes.underlay.values().find(|real| !real.ip().is_loopback()) {
            return Err(format!("{real} is not on loopback"));
        }
        let router = Router::compile(routes.plan).map_err(|error| error.to_string())?;
        Ok(Config { router, underlay: routes.underlay, places: routes.places })
    }

    /// Where a made-up address really is. This mesh reaches nothing beyond loopback.
    fn real(&self, address: SocketAddr) -> Option<SocketAddr> {
        let real = self.underlay.get(&address).copied();
        real.or_else(|| address.ip().is_loopback().then_some(address))
    }
}

/// What takes requests: a sidecar, or a gateway.
pub struct Station {
    /// The snapshot in force; `None` before the first.
    pub config: watch::Receiver<Option<Arc<Config>>>,
    /// What it calls itself in the access log.
    pub name: String,
    /// The connections to upstreams.
    pub pool: Arc<Pool>,
}

/// Where a request came in, and so what its address is.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// A sidecar's: the request names host and port. This is the door's own address.
    Proxy(SocketAddr),
    /// A gateway's, for this port.
    Gateway(u16),
}

/// Serves HTTP/1.1 on a listener for ever.
pub async fn serve_http<H, F, B>(listener: TcpListener, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Failure>,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        let service = service_fn(move |request| {
            let response = handler(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

/// Serves a station's door for ever.
pub async fn serve(listener: TcpListener, station: Arc<Station>, door: Door) {
    serve_http(listener, move |request| {
        let station = Arc::clone(&station);
        async move { station.answer(door, request).await }
    })
    .await;
}

/// What is asked, apart from method, path and headers.
struct Question {
    scheme: &'static str,
    authority: String,
    host: String,
    port: u16,
}

/// An answer, and what is noted about it.
struct Answer {
    response: Response<Body>,
    flags: String,
    reason: String,
    upstream: String,
}

impl Answer {
    fn made_here(status: u16, flags: &str, text: impl Into<String>) -> Self {
        let mut response = Response::new(full(text.into()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("meshroute"));
        if !response.body().is_end_stream() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Answer { response, flags: flags.into(), reason: String::new(), upstream: "-".into() }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    fn refused(status: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Answer::made_here(status, "", format!("{text}\n")).because(text)
    }

    /// With what was noted, for the client to see.
    fn labelled(mut self) -> Response<Body> {
        let headers = self.response.headers_mut();
        insert(headers, HeaderName::from_static("x-meshroute-flags"), &self.flags);
        insert(headers, HeaderName::from_static("x-meshroute-reason"), &self.reason);
        self.response
    }
}

impl Station {
    async fn answer(&self, door: Door, request: Request<Incoming>) -> Response<Body> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let answer = match question(door, &parts) {
            Ok(question) => self.route(door, &question, &parts, body).await,
            Err(refused) => refused,
        };
        self.log(&parts, &answer, started.elapsed());
        answer.labelled()
    }

    /// One line for each request. A log that cannot be written is no reason to fail.
    fn log(&self, parts: &Parts, answer: &Answer, took: Duration) {
        let host = parts.headers.get(header::HOST).map_or("-".into(), |host| String::from_utf8_lossy(host.as_bytes()));
        let flags = if answer.flags.is_empty() { "-" } else { &answer.flags };
        let line = format!(
            "{} {} {} \"{} {}\" {} {flags} {}ms {} ({})",
            time_of_day(),
            self.name,
            host,
            parts.method,
            parts.uri,
            answer.response.status().as_u16(),
            took.as_millis(),
            answer.upstream,
            answer.reason,
        );
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    async fn route(&self, door: Door, question: &Question, parts: &Parts, body: Incoming) -> Answer {
        let config = self.config.borrow().clone();
        let Some(config) = config else {
            return Answer::refused(503, "no configuration yet");
        };
        let (roll, lines) = (Roll::random(), Lines(&parts.headers));
        let (decision, location) = {
            let request = asked(&config, door, question, parts, &lines);
            let decision = config.router.decide(&request, &roll);
            let location = decision.location(&request);
            (decision, location)
        };
        if let Some(delay) = decision.delay {
            tokio::time::sleep(delay).await;
        }
        let trip = Trip { station: self, config: &config, decision: &decision, parts, roll };
        let mut answer = match decision.outcome {
            Outcome::Forward(to) | Outcome::Connect(to) => trip.forward(question, to, body).await,
            Outcome::Passthrough => trip.pass_through(door, question, body).await,
            Outcome::Redirect(code) => redirect(code, location),
            Outcome::Direct(direct) => direct_answer(direct.status, &direct.body, &parts.method),
            Outcome::Refuse(refusal) => refuse(&refusal),
            Outcome::Blackhole | Outcome::Reset => Answer::refused(502, "nobody takes this connection"),
            _ => Answer::refused(501, "this outcome is not known here"),
        };
        decision.edit_response(&mut Edited(answer.response.headers_mut()));
        if answer.reason.is_empty() {
            answer.reason = reason(&config, &decision);
        }
        answer
    }
}

/// What a request asks for, or the answer to one that asks for nothing sensible.
fn question(door: Door, parts: &Parts) -> Result<Question, Answer> {
    if parts.method == Method::CONNECT {
        return Err(Answer::refused(405, "tunnels are not served; use a plain http:// address"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let sent = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return Err(Answer::refused(400, "there is more than one Host header"));
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str()).or(sent);
    let Some(authority) = authority.map(str::to_string) else {
        return Err(Answer::refused(400, "the request names no host"));
    };
    let host = meshroute::host_of(&authority).to_string();
    let scheme = if parts.uri.scheme_str() == Some("https") { "https" } else { "http" };
    let port = match door {
        Door::Gateway(port) => port,
        Door::Proxy(_) => port_of(&authority, &host, scheme),
    };
    Ok(Question { scheme, authority, host, port })
}

fn port_of(authority: &str, host: &str, scheme: &str) -> u16 {
    let port = authority.get(host.len()..).and_then(|rest| rest.strip_prefix(':')).and_then(|port| port.parse().ok());
    port.unwrap_or(if scheme == "https" { 443 } else { 80 })
}

/// The question in the library's words. The address is what DNS would have told the client.
fn asked<'a>(
    config: &Config,
    door: Door,
    question: &'a Question,
    parts: &'a Parts,
    headers: &'a Lines<'a>,
) -> meshroute::Request<'a> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let address = match door {
        Door::Gateway(_) => None,
        Door::Proxy(_) => ip(&question.host).or_else(|| config.router.lookup(&question.host).first().copied()),
    };
    meshroute::Request::new(parts.method.as_str(), &question.authority, path)
        .scheme(question.scheme)
        .port(question.port)
        .address(address)
        .headers(headers)
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A body as far as it matters for another try.
enum Cargo {
    Small(Bytes),
    Stream(Option<Incoming>),
}

impl Cargo {
    async fn load(body: Incoming) -> Result<Self, Answer> {
        match body.size_hint().upper() {
            Some(size) if size <= REPLAYABLE => match body.collect().await {
                Ok(whole) => Ok(Cargo::Small(whole.to_bytes())),
                Err(_) => Err(Answer::refused(400, "the request's body ended too soon")),
            },
            _ => Ok(Cargo::Stream(Some(body))),
        }
    }

    /// The body, if it can be had (again).
    fn unload(&mut self) -> Option<Body> {
        match self {
            Cargo::Small(bytes) => Some(full(bytes.clone())),
            Cargo::Stream(body) => body.take().map(|body| body.map_err(Into::into).boxed()),
        }
    }

    fn is_spent(&self) -> bool {
        matches!(self, Cargo::Stream(None))
    }
}

/// One request on its way.
struct Trip<'a> {
    station: &'a Station,
    config: &'a Config,
    decision: &'a Decision<'a>,
    parts: &'a Parts,
    roll: Roll,
}

/// The head of a request as it goes out.
#[derive(Clone)]
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// How one try ended.
type Tried = Result<Response<Incoming>, Lost>;

impl Trip<'_> {
    /// Forwards to one of a cluster's endpoints, and to another if the route says so.
    async fn forward(&self, question: &Question, to: Forwarded<'_>, body: Incoming) -> Answer {
        let mut cargo = match Cargo::load(body).await {
            Ok(cargo) => cargo,
            Err(refused) => return refused,
        };
        let Some(head) = self.head(question) else {
            return Answer::refused(400, "the rewritten path is not legal in a request");
        };
        self.mirror(&head, question, &cargo);
        let deadline = to.forward.and_then(|forward| forward.timeout).map(|timeout| Instant::now() + timeout);
        let retry = to.forward.and_then(|forward| forward.retry.as_ref());
        let (mut before, mut tries) = (Vec::new(), 0);
        loop {
            let Some((endpoint, socket)) = self.pick(to.cluster, &before) else {
                return Answer::made_here(503, "UH", "no healthy upstream");
            };
            let tried = match cargo.unload() {
                Some(body) => self.attempt(socket, head.with(body), to.cluster, limit(deadline, retry)).await,
                None => Err(Lost::Reset),
            };
            let again = retry.filter(|retry| !cargo.is_spent() && !is_past(deadline) && retries(retry, &tried));
            match again {
                Some(retry) if tries < retry.attempts => {
                    tries += 1;
                    before.push(socket);
                    tokio::time::sleep(pause(retry, tries, deadline)).await;
                }
                _ => return arrived(tried, endpoint, deadline, again.is_some()),
            }
        }
    }

    async fn attempt(
        &self,
        socket: SocketAddr,
        request: Request<Body>,
        cluster: &Cluster,
        limit: Option<Duration>,
    ) -> Tried {
        let sending = self.station.pool.send(socket, request, cluster.policy.connect_timeout);
        match limit {
            Some(limit) => timeout(limit, sending).await.unwrap_or(Err(Lost::Timeout)),
            None => sending.await,
        }
    }

    /// One endpoint by weight, among those that can be reached and were not tried before.
    fn pick<'c>(&self, cluster: &'c Cluster, before: &[SocketAddr]) -> Option<(&'c Endpoint, SocketAddr)> {
        let real = |endpoint: &'c Endpoint| Some((endpoint, self.config.real(endpoint.socket()?)?));
        let mut open: Vec<_> = cluster.endpoints.iter().filter_map(real).collect();
        if open.iter().any(|(_, socket)| !before.contains(socket)) {
            open.retain(|(_, socket)| !before.contains(socket));
        }
        let weight = |endpoint: &Endpoint| u64::from(endpoint.weight.max(1));
        let total: u64 = open.iter().map(|(endpoint, _)| weight(endpoint)).sum();
        let mut left = self.roll.draw(Purpose::Endpoint).checked_rem(total)?;
        open.into_iter().find(|(endpoint, _)| {
            let hit = left < weight(endpoint);
            left = left.saturating_sub(weight(endpoint));
            hit
        })
    }

    fn head(&self, question: &Question) -> Option<Head> {
        let mut headers = self.parts.headers.clone();
        strip_hop_by_hop(&mut headers);
        let host = self.decision.authority().unwrap_or(&question.authority);
        headers.insert(header::HOST, HeaderValue::from_str(host.rsplit('@').next()?).ok()?);
        self.decision.edit_request(&mut Edited(&mut headers));
        let path = self.decision.path();
        let path = if path.is_empty() { b"/" } else { &*path };
        Some(Head { method: self.parts.method.clone(), uri: Uri::try_from(path).ok()?, headers })
    }

    /// Sends the copies that the route asks for, of what can be copied. Nobody waits for them.
    fn mirror(&self, head: &Head, question: &Question, cargo: &Cargo) {
        let Cargo::Small(bytes) = cargo else { return };
        let clusters = &self.config.router.plan().clusters;
        for mirror in self.decision.mirrors(&self.roll) {
            let Some((_, socket)) = clusters.get(mirror.cluster as usize).and_then(|cluster| self.pick(cluster, &[])) else {
                continue;
            };
            let mut head = head.clone();
            insert(&mut head.headers, header::HOST, &shadow(&question.authority, &question.host));
            let (pool, request) = (Arc::clone(&self.station.pool), head.with(full(bytes.clone())));
            tokio::spawn(async move {
                let answer = timeout(HEAD_PATIENCE, pool.send(socket, request, HEAD_PATIENCE)).await;
                // Read to the end, so that the connection can be used again.
                if let Ok(Ok(answer)) = answer {
                    let _ = timeout(HEAD_PATIENCE, answer.into_body().collect()).await;
                }
            });
        }
    }

    /// Goes to the address that was asked for, if it is one that may be reached.
    async fn pass_through(&self, door: Door, question: &Question, body: Incoming) -> Answer {
        let reason = || format!("nobody claims {}: it goes where it was sent", question.authority);
        let asked = ip(&question.host).map(|ip| SocketAddr::new(ip, question.port));
        let Some(socket) = asked.and_then(|address| self.config.real(address)) else {
            let text = format!("nobody in the mesh claims `{}`, and nothing beyond loopback is reached", question.authority);
            return Answer::refused(502, text);
        };
        if matches!(door, Door::Proxy(own) if own == socket) {
            return Answer::refused(502, "this is the proxy itself; name a service");
        }
        let Some(head) = self.head(question) else { return Answer::refused(400, "the path is not legal in a request") };
        let request = head.with(body.map_err(Into::into).boxed());
        let tried = self.station.pool.send(socket, request, Duration::from_secs(10)).await;
        arrived(tried, &Endpoint::new(&question.host, question.port, ""), None, false).because(reason())
    }
}

/// How Envoy names the host of a copy.
fn shadow(authority: &str, host: &str) -> String {
    format!("{host}-shadow{}", authority.get(host.len()..).unwrap_or_default())
}

/// The time for a try: the route's for each, within what is left for all.
fn limit(deadline: Option<Instant>, retry: Option<&Retry>) -> Option<Duration> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let each = retry.and_then(|retry| retry.per_try_timeout);
    left.into_iter().chain(each).min()
}

fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// The pause before another try: it doubles each time, up to ten times the first.
fn pause(retry: &Retry, tries: u32, deadline: Option<Instant>) -> Duration {
    let factor = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(MAX_BACKOFF).min(MAX_BACKOFF);
    let pause = retry.backoff.saturating_mul(factor);
    deadline.map_or(pause, |deadline| pause.min(deadline.saturating_duration_since(Instant::now())))
}

/// Whether a route's retry conditions take this for a failure (Envoy, `RetryStateImpl`).
fn retries(retry: &Retry, tried: &Tried) -> bool {
    let on = |condition: &str| retry.on.iter().any(|known| &**known == condition);
    let response = match tried {
        Ok(response) => response,
        Err(lost) => {
            return on("5xx")
                || on("gateway-error")
                || on("reset")
                || (*lost == Lost::Connect && (on("connect-failure") || on("reset-before-request")));
        }
    };
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
    (on("5xx") && status >= 500)
        || (on("gateway-error") && matches!(status, 502..=504))
        || (on("retriable-4xx") && status == 409)
        || (on("retriable-status-codes") && retry.statuses.contains(&status))
        || (on("cancelled") && grpc == Some(b"1"))
        || (on("unavailable") && grpc == Some(b"14"))
}

/// The answer for how the last try ended. `again`: it failed, and there are no more tries.
fn arrived(tried: Tried, endpoint: &Endpoint, deadline: Option<Instant>, again: bool) -> Answer {
    let exceeded = if again { ",URX" } else { "" };
    let mut answer = match tried {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            strip_hop_by_hop(&mut parts.headers);
            let body = Timed { body, deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))) };
            let flags = exceeded.trim_start_matches(',').to_string();
            let response = Response::from_parts(parts, body.boxed());
            Answer { response, flags, reason: String::new(), upstream: String::new() }
        }
        Err(lost) => {
            let before = "upstream connect error or disconnect/reset before headers. reset reason:";
            let (status, flag, text) = match lost {
                Lost::Connect => (503, "UF", format!("{before} remote connection failure")),
                Lost::Reset => (503, "UC", format!("{before} connection termination")),
                Lost::Timeout => (504, "UT", "upstream request timeout".to_string()),
            };
            Answer::made_here(status, &format!("{flag}{exceeded}"), text)
        }
    };
    answer.upstream = format!("{} {endpoint}", endpoint.workload).trim().to_string();
    answer
}

fn refuse(refusal: &Refusal<'_>) -> Answer {
    let text = match refusal.flag {
        "UH" => "no healthy upstream",
        "FI" => "fault filter abort",
        _ => "",
    };
    let mut answer = Answer::made_here(refusal.status, refusal.flag, text);
    if let Some(code) = refusal.grpc {
        answer.response.headers_mut().insert("grpc-status", HeaderValue::from(u16::from(code)));
    }
    answer
}

fn redirect(code: u16, location: Option<String>) -> Answer {
    let mut answer = Answer::made_here(code, "", "");
    insert(answer.response.headers_mut(), header::LOCATION, &location.unwrap_or_default());
    answer
}

/// An answer of the route's own. One to HEAD, and a 204 or 304, has no body, whatever the route says.
fn direct_answer(status: u16, body: &[u8], method: &Method) -> Answer {
    let mut answer = Answer::made_here(status, "", "");
    if body.is_empty() || matches!(status, 204 | 304) {
        return answer;
    }
    let headers = answer.response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if method != Method::HEAD {
        *answer.response.body_mut() = full(body.to_vec());
    }
    answer
}

/// The one line that says why: which rule, where it stands, and what it leads to.
fn reason(config: &Config, decision: &Decision<'_>) -> String {
    let rule = match decision.route {
        Some(route) => match &route.origin {
            Some(origin) => {
                let place = config.places.get(&rule_key(&origin.written_in, &origin.field));
                let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
                format!("rule {} of {}{place}", u64::from(origin.rule) + 1, origin.written_in)
            }
            None => "no rule, the service's default route".to_string(),
        },
        None => match decision.host {
            Some(host) => format!("no rule of {} fits", host.name),
            None => "nobody claims this host".to_string(),
        },
    };
    format!("{rule}: {}", consequence(decision))
}

fn consequence(decision: &Decision<'_>) -> String {
    let cluster = |cluster: &Cluster| match &*cluster.subset {
        "" => format!("all of {}", cluster.host),
        subset => format!("subset {subset}"),
    };
    match &decision.outcome {
        Outcome::Forward(to) | Outcome::Connect(to) => cluster(to.cluster),
        Outcome::Redirect(code) => format!("a redirect, {code}"),
        Outcome::Direct(direct) => format!("an answer of its own, {}", direct.status),
        Outcome::Refuse(refusal) => match (refusal.cluster, refusal.flag) {
            (Some(empty), "UH") => format!("{}, which has no pods", cluster(empty)),
            (Some(missing), _) => format!("{}, which does not exist", cluster(missing)),
            (None, "FI") => "an injected fault".to_string(),
            (None, _) => refusal.to_string(),
        },
        _ => "it goes where it was sent".to_string(),
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    if bytes.is_empty() {
        return Empty::new().map_err(|never| match never {}).boxed();
    }
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let plain: String = value.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&plain)
        && !plain.is_empty()
    {
        headers.insert(name, value);
    }
}

/// Headers that are for one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = connection.flat_map(|value| value.split(',')).map(|name| name.trim().to_string()).collect();
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        // The framing is not the client's to take away.
        if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
            headers.remove(name);
        }
    }
}

/// A header map as the library asks it.
struct Lines<'a>(&'a HeaderMap);

impl Headers for Lines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.get_all(name).iter().any(|value| test(value.as_bytes()))
    }
}

/// A header map as the library edits it. What is not legal in a header is left out.
struct Edited<'a>(&'a mut HeaderMap);

impl Edited<'_> {
    fn name(name: &str) -> Option<HeaderName> {
        let name = if name == ":authority" { "host" } else { name };
        HeaderName::from_bytes(name.as_bytes()).ok()
    }
}

impl EditHeaders for Edited<'_> {
    fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn set(&mut self, name: &str, value: &str) {
        if let (Some(name), Ok(value)) = (Edited::name(name), HeaderValue::from_str(value)) {
            self.0.insert(name, value);
        }
    }

    fn append(&mut self, name: &str, value: &str) {
        if let (Some(name), Ok(value)) = (Edited::name(name), HeaderValue::from_str(value)) {
            self.0.append(name, value);
        }
    }
}

/// An answer's body that must have come before the route's time is over.
struct Timed {
    body: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| Some(Err("the route's time is over".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `14:03:27.123`, in UTC.
fn time_of_day() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", second / 3600, second / 60 % 60, second % 60, since.subsec_millis())
}
