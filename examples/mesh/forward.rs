//! One request through the mesh: asks the router, and does what it says.
//!
//! Knows HTTP/1.1 and how to carry out a decision: forwarding, retries, timeouts, edits, answers made here. Where a
//! request goes is never decided here. Sidecars and gateways share it; they differ in what they take as the question.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use meshroute::adapter::http::{self as adapter, Change};
use meshroute::plan::{Cluster, Endpoint};
use meshroute::{Decision, Forwarded, Outcome, Purpose, Roll, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::message;
use crate::pool::{Body, Lost, Pool};
use crate::record::{self, Record, Telemetry};
use crate::retry::{self, Cargo, Tried};
use crate::wire::Routes;
use crate::workload::{Service, UNKNOWN, Workload};
use crate::world::rule_key;

/// How long a connection may take to be made where no rule says it.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a copy may take.
const MIRROR_PATIENCE: Duration = Duration::from_secs(60);

/// A snapshot in force: what is read together is swapped together.
pub struct Config {
    /// Where requests go.
    pub router: Router,
    /// File and line of each rule.
    pub places: BTreeMap<String, String>,
    underlay: BTreeMap<SocketAddr, SocketAddr>,
    own: Arc<Workload>,
    workloads: BTreeMap<IpAddr, Arc<Workload>>,
}

impl Config {
    /// Checks what came over the wire.
    pub fn check(routes: Routes) -> Result<Self, String> {
        if let Some(real) = routes.underlay.values().find(|real| !real.ip().is_loopback()) {
            return Err(format!("{real} is not on loopback"));
        }
        let router = Router::compile(routes.plan).map_err(|error| error.to_string())?;
        let workloads = routes.workloads.into_iter().map(|(ip, workload)| (ip, Arc::new(workload))).collect();
        let (underlay, places, own) = (routes.underlay, routes.places, Arc::new(routes.own));
        Ok(Config { router, places, underlay, own, workloads })
    }

    /// Whose pod an endpoint is.
    fn workload(&self, endpoint: &Endpoint) -> Arc<Workload> {
        let known = endpoint.socket().and_then(|socket| self.workloads.get(&socket.ip()));
        known.map_or_else(|| Arc::new(Workload::unknown()), Arc::clone)
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
    /// Where it tells what it did.
    pub telemetry: Arc<Telemetry>,
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

/// Serves a station's door for ever.
pub async fn serve(listener: TcpListener, station: Arc<Station>, door: Door) {
    message::serve(listener, move |request| {
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

impl Question {
    /// How Envoy names the host of a copy.
    fn shadow(&self) -> String {
        format!("{}-shadow{}", self.host, self.authority.get(self.host.len()..).unwrap_or_default())
    }
}

/// An answer, and what is noted about it.
struct Answer {
    response: Response<Body>,
    flags: String,
    reason: String,
    upstream: Option<Endpoint>,
}

impl Answer {
    fn made_here(status: u16, flags: &str, text: impl Into<String>) -> Self {
        let mut response = Response::new(message::full(text.into()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("meshroute"));
        if !response.body().is_end_stream() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Answer { response, flags: flags.into(), reason: String::new(), upstream: None }
    }

    /// Where the decision itself is the answer.
    fn of_decision(decision: &Decision<'_>, response: Response<Vec<u8>>) -> Self {
        let mut response = response.map(message::full);
        response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static("meshroute"));
        let flags = match decision.outcome {
            Outcome::Refuse(refusal) => refusal.flag.to_string(),
            _ => String::new(),
        };
        Answer { response, flags, reason: String::new(), upstream: None }
    }

    /// Puts down what became of a request.
    fn note(&self, record: &mut Record) {
        record.flags.clone_from(&self.flags);
        record.reason.clone_from(&self.reason);
        let endpoint = self.upstream.as_ref();
        record.upstream_host = endpoint.map(ToString::to_string).unwrap_or_default();
        let came_back = endpoint.is_some() && (self.flags.is_empty() || self.flags == "URX");
        if record.details.is_empty() {
            record.details = if came_back { "via_upstream".into() } else { record::details(&self.flags).into() };
        }
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
        message::insert(headers, HeaderName::from_static("x-meshroute-flags"), &self.flags);
        message::insert(headers, HeaderName::from_static("x-meshroute-reason"), &self.reason);
        self.response
    }
}

impl Station {
    async fn answer(&self, door: Door, request: Request<Incoming>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let mut record = Record::begin(&self.telemetry, &mut parts);
        let answer = match question(door, &parts) {
            Ok(question) => self.route(door, &question, &parts, body, &mut record).await,
            Err((status, text)) => Answer::refused(status, text),
        };
        answer.note(&mut record);
        record.answered(answer.labelled())
    }

    async fn route(
        &self,
        door: Door,
        question: &Question,
        parts: &Parts,
        body: Incoming,
        record: &mut Record,
    ) -> Answer {
        let config = self.config.borrow().clone();
        let Some(config) = config else {
            return Answer::refused(503, "no configuration yet");
        };
        let roll = Roll::random();
        let (decision, made_here, change) = {
            let asked = asked(&config, door, question, parts);
            let decision = config.router.decide(&asked, &roll);
            (decision.clone(), adapter::answer(&decision, &asked), Change::of(&decision, &asked))
        };
        note(&config, door, question, &decision, record);
        if let Some(delay) = decision.delay {
            tokio::time::sleep(delay).await;
        }
        let mut answer = match (made_here, change) {
            (Some(response), _) => Answer::of_decision(&decision, response),
            (None, Err(error)) => Answer::refused(500, error.to_string()),
            (None, Ok(change)) => {
                let set_out = Instant::now();
                let trip = Trip { station: self, config: &config, decision: &decision, question, roll, record };
                let mut answer = trip.set_out(door, outgoing(question, parts, &change), body).await;
                if let Some(endpoint) = &answer.upstream {
                    record.upstream_time = Some(set_out.elapsed());
                    record.destination = config.workload(endpoint);
                }
                decision.edit_response(answer.response.headers_mut());
                answer
            }
        };
        if answer.reason.is_empty() {
            answer.reason = reason(&config.places, &decision);
        }
        answer
    }
}

/// Puts down what was decided for a request.
fn note(config: &Config, door: Door, question: &Question, decision: &Decision<'_>, record: &mut Record) {
    record.source = Arc::clone(&config.own);
    if let Some(route) = decision.route {
        record.route = route.name.to_string();
    }
    let origin = decision.origin();
    record.via.rule = origin.map(|origin| rule_key(&origin.written_in, &origin.field)).unwrap_or_default();
    if let Outcome::Refuse(refusal) = &decision.outcome {
        record.details = refusal.detail.to_string();
    }
    let nobodys = |name: &str| Service::nobodys(name, &question.authority);
    record.service = match (decision.cluster(), decision.host, &decision.outcome) {
        (Some(cluster), ..) => {
            record.via.cluster = cluster.name.to_string();
            Service::of_host(&cluster.host)
        }
        (None, Some(host), _) => Service::of_host(meshroute::host_of(&host.name)),
        (None, None, Outcome::Passthrough) => {
            record.via.cluster = "PassthroughCluster".into();
            record.route = "allow_any".into();
            nobodys("PassthroughCluster")
        }
        (None, None, _) if matches!(door, Door::Gateway(_)) => nobodys(UNKNOWN),
        _ => nobodys("BlackHoleCluster"),
    };
}

/// What a request asks for; or status and text for one that asks for nothing sensible.
fn question(door: Door, parts: &Parts) -> Result<Question, (u16, &'static str)> {
    if parts.method == Method::CONNECT {
        return Err((405, "tunnels are not served; use a plain http:// address"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let sent = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() {
        return Err((400, "there is more than one Host header"));
    }
    let Some(authority) = parts.uri.authority().map(|authority| authority.as_str()).or(sent) else {
        return Err((400, "the request names no host"));
    };
    // Who the user claims to be is no part of where the request goes.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_string();
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
fn asked<'a>(config: &Config, door: Door, question: &'a Question, parts: &'a Parts) -> meshroute::Request<'a> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let address = match door {
        Door::Gateway(_) => None,
        Door::Proxy(_) => ip(&question.host).or_else(|| config.router.lookup(&question.host).first().copied()),
    };
    meshroute::Request::new(parts.method.as_str(), &question.authority, path)
        .scheme(question.scheme)
        .port(question.port)
        .address(address)
        .headers(&parts.headers)
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// One request on its way.
struct Trip<'a> {
    station: &'a Station,
    config: &'a Config,
    decision: &'a Decision<'a>,
    question: &'a Question,
    roll: Roll,
    record: &'a Record,
}

impl Trip<'_> {
    async fn set_out(&self, door: Door, head: Request<()>, body: Incoming) -> Answer {
        match self.decision.outcome {
            Outcome::Forward(to) | Outcome::Connect(to) => self.forward(to, head, body).await,
            Outcome::Passthrough => self.pass_through(door, head, body).await,
            _ => Answer::refused(502, "nobody takes this connection"),
        }
    }

    /// Forwards to one of a cluster's endpoints, and to another if the route says so.
    async fn forward(&self, to: Forwarded<'_>, head: Request<()>, body: Incoming) -> Answer {
        let Ok(mut cargo) = Cargo::load(body).await else {
            return Answer::refused(400, "the request's body ended too soon");
        };
        self.mirror(&head, &cargo);
        let deadline = to.forward.and_then(|forward| forward.timeout).map(|timeout| Instant::now() + timeout);
        let policy = to.forward.and_then(|forward| forward.retry.as_ref());
        let (mut before, mut tries) = (Vec::new(), 0);
        loop {
            let Some((endpoint, socket)) = self.pick(to.cluster, &before) else {
                return Answer::made_here(503, "UH", "no healthy upstream");
            };
            let tried = match cargo.unload() {
                Some(body) => {
                    self.attempt(
                        socket,
                        with(&head, self.record.receiving(body)),
                        to.cluster,
                        retry::limit(deadline, policy),
                    )
                    .await
                }
                None => Err(Lost::Reset),
            };
            let open = !cargo.is_spent() && !retry::is_past(deadline);
            let again = policy.filter(|policy| open && retry::is_failure(policy, &tried));
            match again {
                Some(policy) if tries < policy.attempts => {
                    tries += 1;
                    before.push(socket);
                    tokio::time::sleep(retry::pause(policy, tries, deadline)).await;
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

    /// Sends the copies that the route asks for, of what can be copied. Nobody waits for them.
    fn mirror(&self, head: &Request<()>, cargo: &Cargo) {
        let Cargo::Small(bytes) = cargo else { return };
        for mirror in self.decision.mirrors(&self.roll) {
            let cluster = self.config.router.plan().clusters.get(mirror.cluster as usize);
            let Some((_, socket)) = cluster.and_then(|cluster| self.pick(cluster, &[])) else { continue };
            let mut copy = with(head, message::full(bytes.clone()));
            message::insert(copy.headers_mut(), header::HOST, &self.question.shadow());
            let pool = Arc::clone(&self.station.pool);
            tokio::spawn(timeout(MIRROR_PATIENCE, async move {
                // Read to the end, so that the connection can be used again.
                if let Ok(answer) = pool.send(socket, copy, MIRROR_PATIENCE).await {
                    let _ = answer.into_body().collect().await;
                }
            }));
        }
    }

    /// Goes to the address that was asked for, if it is one that may be reached.
    async fn pass_through(&self, door: Door, head: Request<()>, body: Incoming) -> Answer {
        let asked = ip(&self.question.host).map(|ip| SocketAddr::new(ip, self.question.port));
        let authority = &self.question.authority;
        let Some(socket) = asked.and_then(|address| self.config.real(address)) else {
            let text = format!("nobody in the mesh claims `{authority}`, and nothing beyond loopback is reached");
            return Answer::refused(502, text);
        };
        if matches!(door, Door::Proxy(own) if own == socket) {
            return Answer::refused(502, "this is the proxy itself; name a service");
        }
        let request = with(&head, self.record.receiving(body.map_err(Into::into).boxed()));
        let tried = self.station.pool.send(socket, request, DIAL_PATIENCE).await;
        let endpoint = Endpoint::new(&self.question.host, self.question.port, "");
        arrived(tried, &endpoint, None, false).because(format!("nobody claims {authority}: it goes where it was sent"))
    }
}

/// The request as it goes out, but for its body.
fn outgoing(question: &Question, parts: &Parts, change: &Change) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let path = parts.uri.path_and_query().cloned().map(Uri::from);
    *request.uri_mut() = path.unwrap_or_default();
    message::strip_hop_by_hop(request.headers_mut());
    message::insert(request.headers_mut(), header::HOST, &question.authority);
    change.request(&mut request);
    request
}

fn with(head: &Request<()>, body: Body) -> Request<Body> {
    head.clone().map(|()| body)
}

/// The answer for how the last try ended. `again`: it failed, and there are no more tries.
fn arrived(tried: Tried, endpoint: &Endpoint, deadline: Option<Instant>, again: bool) -> Answer {
    let exceeded = if again { ",URX" } else { "" };
    let mut answer = match tried {
        Ok(response) => {
            let (mut parts, body) = response.into_parts();
            message::strip_hop_by_hop(&mut parts.headers);
            let body = message::Timed::new(body, deadline);
            let flags = exceeded.trim_start_matches(',').to_string();
            let response = Response::from_parts(parts, body.boxed());
            Answer { response, flags, reason: String::new(), upstream: None }
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
    answer.upstream = Some(endpoint.clone());
    answer
}

/// The one line that says why: which rule, where it stands, and what it leads to.
pub fn reason(places: &BTreeMap<String, String>, decision: &Decision<'_>) -> String {
    let rule = match (decision.origin(), decision.host) {
        (Some(origin), _) => {
            let place = places.get(&rule_key(&origin.written_in, &origin.field));
            let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
            format!("rule {} of {}{place}", u64::from(origin.rule) + 1, origin.written_in)
        }
        (None, _) if decision.route.is_some() => "no rule, the service's default route".to_string(),
        (None, Some(host)) => format!("no rule of {} fits", host.name),
        (None, None) if decision.cluster().is_some() => "no rule, the service's default".to_string(),
        (None, None) => "nobody claims this host".to_string(),
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
        Outcome::Preflight(_) => "a preflight, answered here".to_string(),
        Outcome::Refuse(refusal) => match (refusal.cluster, refusal.flag) {
            (Some(empty), "UH") => format!("{} has no pods", cluster(empty)),
            (Some(missing), _) => format!("{} does not exist", cluster(missing)),
            (None, "FI") => "an injected fault".to_string(),
            (None, "NR") => "no route".to_string(),
            (None, _) => refusal.to_string(),
        },
        _ => "it goes where it was sent".to_string(),
    }
}
