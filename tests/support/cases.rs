//! What a file of `tests/cases` says, and what can be seen of an answer through each window of the crate.

#[cfg(feature = "pingora")]
pub mod pingora;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use meshroute::adapter::http::{Change, answer, request};
use meshroute::adapter::tls::{Opening, opening};
use meshroute::adapter::tower::{Chosen, RouteLayer, Upstream};
use meshroute::authorize::{Guard, MutualTls};
use meshroute::balance::RateLimiter;
use meshroute::limit::{RateLimit, Spot, Stage};
use meshroute::plan::{Action, Cluster, Endpoint, Forward, Origin, Retry, Route};
use meshroute::{
    Connection, Decision, Live, Mesh, OutboundPolicy, Outcome, Precedence, Reading, Request, Roll, Router, TlsHello,
    Viewpoint,
};
use serde::Deserialize;
use tower::{Layer, Service, ServiceExt};

/// One case: what is configured, who asks, and what must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The public document that says so.
    pub source: String,
    /// What it says, in short.
    pub says: String,
    #[serde(default)]
    pub precedence: Mode,
    #[serde(default)]
    pub client: Client,
    #[serde(default)]
    mesh: MeshSettings,
    #[serde(default)]
    reading: Strictness,
    /// Files and folders of this repository that are read first.
    #[serde(default)]
    pub files: Vec<String>,
    #[serde(default)]
    pub resources: String,
    #[serde(default)]
    pub questions: Vec<Question>,
    /// Requests and connections that want in to the client's own workload.
    #[serde(default)]
    pub calls: Vec<Call>,
    /// Whether callers of a port must show who they are: `DISABLE`, `PERMISSIVE`, `STRICT`.
    #[serde(default)]
    pub mutual_tls: BTreeMap<u16, MutualTls>,
    /// Requests that come to the client's own workload, one after another, and whether there is room for them.
    #[serde(default)]
    pub rates: Vec<Rate>,
    #[serde(default)]
    pub findings: Vec<Expected>,
    /// Whether nothing else may be found.
    #[serde(default)]
    pub findings_are_all: bool,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    LastApplied,
    Istio,
    /// The answers are the same under both.
    Both,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    kind: Kind,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    dns_domain: String,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Sidecar,
    Gateway,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MeshSettings {
    outbound: Option<OutboundPolicy>,
    domain: Option<String>,
    root_namespace: Option<String>,
    virtual_service_export_to: Option<Vec<String>>,
    destination_rule_export_to: Option<Vec<String>>,
    service_export_to: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Strictness {
    #[default]
    Lenient,
    Strict,
}

/// Requests at one moment, and what becomes of each in turn.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Seconds since the start.
    #[serde(default)]
    at: f64,
    port: u16,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    host: String,
    #[serde(default)]
    route: String,
    /// `pass`, or status and added headers: `429 x-a: b, x-c: d`; before it `last`, if that is the stage.
    pub expects: Vec<String>,
}

impl Rate {
    /// What becomes of its requests.
    pub fn asked(&self, limiter: &mut RateLimiter) -> Vec<String> {
        let spot = Spot::new(self.port).encrypted(self.encrypted).routed(&self.host, &self.route);
        let now = std::time::Duration::from_secs_f64(self.at);
        let roll = Roll::seeded(1);
        let mut one = || {
            if let Some(limit) = limiter.ask(Stage::First, &spot, &roll, now) {
                return answer_of(limit);
            }
            let limit = limiter.ask(Stage::Last, &spot, &roll, now);
            limit.map_or("pass".into(), |limit| format!("last {}", answer_of(limit)))
        };
        self.expects.iter().map(|_| one()).collect()
    }
}

fn answer_of(limit: &RateLimit) -> String {
    let headers: Vec<String> = limit.headers.iter().map(|added| format!("{}: {}", added.name, added.value)).collect();
    format!("{} {}", limit.status, headers.join(", ")).trim_end().to_string()
}

/// A finding that must be among those made; what is left out may be anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub code: String,
    pub severity: Option<meshroute::Severity>,
    pub resource: Option<String>,
    pub field: Option<String>,
    pub line: Option<u32>,
    pub document: Option<u32>,
    /// A part of message or remedy.
    pub says: Option<String>,
}

/// One request or connection, and what must become of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `GET http://web:80/path?x=1`: the authority is sent as it stands, its port (else the scheme's) is dialled, and
    /// `https` comes in over TLS. `tcp://db:3306` and `tls://db:3306` are connections that carry no HTTP; the second
    /// one begins with a hello that names `db`, or what `sni` says.
    pub ask: String,
    /// The authority, where it is not the URL's.
    host: Option<String>,
    /// The port dialled, where it is not the URL's.
    port: Option<u16>,
    address: Option<IpAddr>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The request target, where it is not path and query.
    target: Option<String>,
    sni: Option<String>,
    /// The pinned draw; 0 where it does not matter.
    #[serde(default)]
    roll: u64,
    /// The headers with which the destination answers.
    #[serde(default)]
    upstream: Vec<(String, String)>,
    /// The `http` crate has no room for such a request, so that no adapter is asked.
    #[serde(default)]
    unsendable: bool,
    pub expects: Expects,
}

/// A request or connection that wants in, and what must become of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `GET http://web:8080/path`, to this port of the workload; `tcp://web:3306` carries no HTTP.
    pub ask: String,
    /// Who it has proved to be: `cluster.local/ns/default/sa/web`.
    from: Option<String>,
    /// The address that it comes from.
    source: Option<IpAddr>,
    remote: Option<IpAddr>,
    /// The server name of the connection.
    sni: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// `in`, `in by NAMESPACE/POLICY RULE`, `out`, `out by NAMESPACE/POLICY RULE`.
    pub expects: String,
}

impl Call {
    /// What the guard says, in the same words.
    pub fn judged(&self, guard: &Guard) -> Result<String, String> {
        let (method, url) = self.ask.split_once(' ').unwrap_or(("", &self.ask));
        let (_, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).ok_or("it has no port")?;
        let request = Request::new(method, authority, path).headers(&self.headers);
        let mut call = meshroute::authorize::Call::new(port).principal(self.from.as_deref()).source(self.source);
        (call.remote, call.sni) = (self.remote, self.sni.as_deref());
        if !method.is_empty() {
            call.request = Some(&request);
        }
        let ruling = guard.judge(&call);
        let by = ruling
            .by()
            .map(|(policy, rule)| format!(" by {}/{} {rule}", policy.resource.namespace, policy.resource.name));
        Ok(format!("{}{}", if ruling.is_allowed() { "in" } else { "out" }, by.unwrap_or_default()))
    }
}

/// What must become of a request.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expects {
    to: Option<String>,
    connect: Option<String>,
    status: Option<String>,
    redirect: Option<String>,
    direct: Option<String>,
    passthrough: bool,
    blackhole: bool,
    reset: bool,
    rule: Option<String>,
    endpoints: Option<Vec<String>>,
    path: Option<String>,
    authority: Option<String>,
    headers: BTreeMap<String, Option<Lines>>,
    response_headers: BTreeMap<String, Option<Lines>>,
    timeout: Option<String>,
    delay: Option<String>,
    retries: Option<String>,
    mirrors: Option<Vec<String>>,
    /// The cluster's policy in short: `LeastRequest 10s`, then `pool 7`, `outliers`, `tls Simple` where they are set.
    policy: Option<String>,
    /// Which HTTP the destination is spoken to in: `One`, `Two`, `AsClient`.
    http: Option<String>,
    /// What requests stick by: `Header("x-user")`; `none`.
    sticks_by: Option<String>,
    /// How many of all rolls reach which subset, or host where it is none.
    pub weights: Option<BTreeMap<String, u64>>,
    /// What the explanation must say, line by line or in part.
    pub explained: Vec<String>,
}

/// The lines of one header.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lines {
    One(String),
    Many(Vec<String>),
}

impl Case {
    pub fn viewpoint(&self) -> Viewpoint {
        let namespace = self.client.namespace.as_deref().unwrap_or("default");
        let viewpoint = match self.client.kind {
            Kind::Sidecar => Viewpoint::sidecar(namespace),
            Kind::Gateway => Viewpoint::gateway(namespace),
        };
        let mut viewpoint = viewpoint.labels(self.client.labels.clone());
        viewpoint.dns_domain.clone_from(&self.client.dns_domain);
        viewpoint
    }

    pub fn mesh(&self, precedence: Precedence) -> Mesh {
        let mut mesh = Mesh::with_precedence(precedence);
        let settings = &self.mesh;
        mesh.outbound = settings.outbound.unwrap_or_default();
        let set = |field: &mut String, value: &Option<String>| value.iter().for_each(|value| field.clone_from(value));
        set(&mut mesh.domain, &settings.domain);
        set(&mut mesh.root_namespace, &settings.root_namespace);
        let set = |field: &mut Vec<String>, value: &Option<Vec<String>>| {
            value.iter().for_each(|value| field.clone_from(value));
        };
        set(&mut mesh.default_virtual_service_export_to, &settings.virtual_service_export_to);
        set(&mut mesh.default_destination_rule_export_to, &settings.destination_rule_export_to);
        set(&mut mesh.default_service_export_to, &settings.service_export_to);
        mesh
    }

    pub fn reading(&self) -> Reading {
        match self.reading {
            Strictness::Lenient => Reading::Lenient,
            Strictness::Strict => Reading::Strict,
        }
    }

    /// The precedences under which the answers must come.
    pub fn precedences(&self) -> &'static [Precedence] {
        match self.precedence {
            Mode::LastApplied => &[Precedence::LastApplied],
            Mode::Istio => &[Precedence::Istio],
            Mode::Both => &[Precedence::LastApplied, Precedence::Istio],
        }
    }
}

/// A question taken apart.
#[derive(Clone)]
pub struct Asked<'q> {
    /// Empty for a whole connection.
    method: &'q str,
    authority: &'q str,
    target: &'q str,
    port: u16,
    address: Option<IpAddr>,
    headers: &'q [(String, String)],
    sni: Option<&'q str>,
    upstream: &'q [(String, String)],
}

impl Question {
    pub fn roll(&self) -> Roll {
        Roll::pinned(self.roll)
    }

    #[cfg(feature = "pingora")]
    pub fn is_tls(&self) -> bool {
        self.parts().is_ok_and(|asked| asked.sni.is_some())
    }

    /// Whether what is in the connection is looked at: a layer can pass on no other than whole requests.
    pub fn is_looked_into(&self) -> bool {
        self.expects.connect.is_none()
    }

    pub fn sendable(&self) -> bool {
        !self.unsendable
    }

    pub fn parts(&self) -> Result<Asked<'_>, String> {
        let wrong = || format!("`{}` is neither `METHOD http://authority/path` nor `tcp://host:port`", self.ask);
        let (method, url) = self.ask.split_once(' ').unwrap_or(("", &self.ask));
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        if method.is_empty() != matches!(scheme, "tcp" | "tls") {
            return Err(wrong());
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let written = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port = self.port.or(written).unwrap_or(if scheme == "https" { 443 } else { 80 });
        let authority = self.host.as_deref().unwrap_or(authority);
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        Ok(Asked {
            method,
            authority,
            target: self.target.as_deref().unwrap_or(if path.is_empty() { "/" } else { path }),
            port,
            address: self.address,
            headers: &self.headers,
            sni: matches!(scheme, "https" | "tls").then(|| self.sni.as_deref().unwrap_or(name)),
            upstream: &self.upstream,
        })
    }
}

impl<'q> Asked<'q> {
    /// The connection, where nothing is said of what it carries.
    pub fn connection(&self) -> Option<Connection<'_>> {
        let connection = Connection::new(self.port).address(self.address);
        self.method.is_empty().then(|| match self.sni {
            Some(sni) => connection.tls(TlsHello { sni: Some(sni) }),
            None => connection,
        })
    }

    /// The question as the library's own; an absolute target says scheme and authority itself.
    pub fn request(&self) -> Request<'_> {
        let (scheme, authority, path) = match self.target.split_once("://") {
            Some((scheme, rest)) => {
                let at = rest.find('/').unwrap_or(rest.len());
                (scheme, &rest[..at], &rest[at..])
            }
            None => ("", self.authority, self.target),
        };
        let request = Request::new(self.method, authority, path).scheme(scheme).headers(&self.headers);
        self.arrived(request.port(self.port))
    }

    fn arrived<'r>(&'r self, request: Request<'r>) -> Request<'r> {
        let request = request.address(self.address);
        match self.sni {
            Some(sni) => request.tls(TlsHello { sni: Some(sni) }),
            None => request,
        }
    }

    /// The question as a server would hand it on.
    pub fn http(&self) -> Result<http::Request<()>, String> {
        let mut builder = http::Request::builder().method(self.method).uri(self.target).header("host", self.authority);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder.body(()).map_err(|error| format!("the `http` crate has no room for it: {error}"))
    }
}

/// How a request ends, as a case has it.
#[derive(Clone, Copy)]
enum End<'e> {
    To(&'e str),
    Connect(&'e str),
    Status(&'e str),
    Redirect(&'e str),
    Direct(&'e str),
    Passthrough,
    Blackhole,
    Reset,
}

/// Where an answer is looked at.
#[derive(Clone, Copy, PartialEq)]
pub enum Window {
    Explain,
    Router,
    Http,
    Tower,
    Tls,
    #[cfg(feature = "pingora")]
    Pingora,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Window::Explain => "explain",
            Window::Router => "router",
            Window::Http => "adapter::http",
            Window::Tower => "adapter::tower",
            Window::Tls => "adapter::tls",
            #[cfg(feature = "pingora")]
            Window::Pingora => "adapter::pingora",
        })
    }
}

/// What is seen of one answer.
pub struct Seen {
    window: Window,
    end: String,
    /// What the destination gets, if there is one.
    sent: Option<Sent>,
    response: Vec<(String, String)>,
    told: Option<Told>,
}

struct Sent {
    path: String,
    authority: String,
    headers: Vec<(String, String)>,
}

/// What is not on the wire.
#[derive(Default)]
struct Told {
    rule: Option<String>,
    endpoints: Vec<[String; 3]>,
    timeout: String,
    delay: String,
    retries: String,
    mirrors: Vec<String>,
    policy: String,
    http: String,
    sticks_by: String,
}

fn named(cluster: &Cluster) -> String {
    let subset = if cluster.subset.is_empty() { String::new() } else { format!("/{}", cluster.subset) };
    format!("{}:{}{subset}", cluster.host, cluster.port)
}

fn policy(cluster: &Cluster) -> String {
    let policy = &cluster.policy;
    let pool = policy.connection_pool.as_ref().map(|pool| {
        let most = pool.tcp.as_ref().map_or(0, |tcp| tcp.max_connections);
        format!(" pool {most}")
    });
    let outliers = policy.outlier_detection.as_ref().map(|_| " outliers".to_string());
    let tls = policy.tls.as_ref().map(|tls| format!(" tls {:?}", tls.mode));
    let rest: String = [pool, outliers, tls].into_iter().flatten().collect();
    format!("{:?} {:?}{rest}", policy.load_balancer, policy.connect_timeout)
}

fn sticks_by(forward: Option<&Forward>) -> String {
    forward.and_then(|forward| forward.hash.as_ref()).map_or("none".into(), |key| format!("{key:?}"))
}

fn endpoints(cluster: &Cluster) -> Vec<[String; 3]> {
    let names = |endpoint: &Endpoint| {
        let (workload, locality) = (&endpoint.workload, &endpoint.locality);
        [endpoint.to_string(), workload.to_string(), format!("{workload}@{locality}")]
    };
    cluster.endpoints.iter().map(names).collect()
}

fn rule(route: &Route) -> String {
    route.origin.as_ref().map_or("default".into(), written_at)
}

fn written_at(origin: &Origin) -> String {
    let block = origin.block.map(|block| format!(".{block}")).unwrap_or_default();
    format!("{}/{} {}{block}", origin.resource.namespace, origin.resource.name, origin.rule)
}

fn time(time: Option<std::time::Duration>) -> String {
    time.map_or("none".into(), |time| format!("{time:?}"))
}

/// `2 5xx,retriable-status-codes(503) 2s 25ms`: attempts, conditions, statuses, time for each try, first pause.
fn retries(retry: Option<&Retry>) -> String {
    let Some(retry) = retry else { return "none".into() };
    let statuses = match retry.statuses.iter().map(ToString::to_string).collect::<Vec<_>>().join("+") {
        none if none.is_empty() => none,
        some => format!("({some})"),
    };
    let per_try = time(retry.per_try_timeout);
    format!("{} {}{statuses} {per_try} {:?}", retry.attempts, retry.on.join(","), retry.backoff)
}

impl Seen {
    pub fn decision(window: Window, decision: &Decision<'_>, asked: &Asked<'_>, router: &Router, roll: &Roll) -> Seen {
        let request = asked.request();
        let end = match &decision.outcome {
            Outcome::Forward(to) => format!("to {}", named(to.cluster)),
            Outcome::Connect(to) => format!("connect {}", named(to.cluster)),
            Outcome::Redirect(code) => format!("redirect {code} {}", decision.location(&request).unwrap_or_default()),
            Outcome::Direct(answer) => {
                format!("direct {} {}", answer.status, String::from_utf8_lossy(&answer.body)).trim_end().to_string()
            }
            Outcome::Preflight(_) => "direct 200".into(),
            Outcome::Passthrough => "passthrough".into(),
            Outcome::Refuse(refusal) => format!("status {refusal}"),
            Outcome::Blackhole => "blackhole".into(),
            Outcome::Reset => "reset".into(),
            other => format!("{other:?}"),
        };
        let goes_on = matches!(decision.outcome, Outcome::Forward(_) | Outcome::Passthrough);
        let mut response = if goes_on { asked.upstream.to_vec() } else { Vec::new() };
        decision.preflight(&request, &mut response);
        decision.edit_response(&mut response);
        let sent = goes_on.then(|| {
            let mut headers = asked.headers.to_vec();
            decision.edit_request(&mut headers);
            let authority = decision.authority().unwrap_or(request.authority).to_string();
            Sent { path: String::from_utf8_lossy(&decision.path()).into(), authority, headers }
        });
        let cluster = |at: u32| router.plan().clusters.get(at as usize).map(|cluster| named(cluster));
        let forward = match &decision.outcome {
            Outcome::Forward(to) => to.forward(),
            _ => None,
        };
        let told = Told {
            rule: decision.route.map(rule).or_else(|| decision.origin().map(written_at)),
            endpoints: decision.cluster().map(endpoints).unwrap_or_default(),
            timeout: time(forward.and_then(|forward| forward.timeout)),
            delay: time(decision.delay),
            retries: retries(forward.and_then(|forward| forward.retry.as_ref())),
            mirrors: decision.mirrors(roll).filter_map(|mirror| cluster(mirror.cluster)).collect(),
            policy: decision.cluster().map(policy).unwrap_or_default(),
            http: decision.cluster().map(|cluster| format!("{:?}", cluster.http)).unwrap_or_default(),
            sticks_by: sticks_by(forward),
        };
        Seen { window, end, sent, response, told: Some(told) }
    }

    /// Asks through `adapter::http`.
    pub fn http(router: &Router, asked: &Asked<'_>, roll: &Roll) -> Result<Seen, String> {
        let mut incoming = asked.http()?;
        let (change, ended) = {
            let question = asked.arrived(request(&incoming, asked.port));
            let decision = router.decide(&question, roll);
            let ended = answer(&decision, &question).map(|response| {
                let (parts, body) = response.into_parts();
                Seen::ended(Window::Http, parts.status.as_u16(), &parts.headers, &body)
            });
            (Change::of(&decision, &question), ended)
        };
        if let Some(ended) = ended {
            return Ok(ended);
        }
        let change = change.map_err(|error| error.to_string())?;
        change.request(&mut incoming);
        let mut response = map(asked.upstream);
        change.response(&mut response);
        let (end, sent) = ("goes on".into(), Some(Sent::from(&incoming)));
        Ok(Seen { window: Window::Http, end, sent, response: lines(&response), told: None })
    }

    /// Asks through `adapter::tower`, with a service inside that keeps what it gets: behind `Upstream` too if `sent`.
    pub async fn tower(live: &Arc<Live>, asked: &Asked<'_>, roll: Roll, sent: bool) -> Result<Seen, String> {
        let mut incoming = asked.http()?.map(|()| Full::<Bytes>::default());
        let sni = asked.sni.map(str::to_string);
        incoming.extensions_mut().insert(Arrived { port: asked.port, address: asked.address, sni });
        let layer = RouteLayer::with_connection(live.clone(), arrived).rolls(move || roll);
        let kept = Kept::default();
        let (parts, body) = if sent {
            let clock = (|| std::time::Duration::ZERO, |_| std::future::ready(()));
            let upstream = Upstream::new(keeper(&kept, asked), clock, |never: &Infallible| match *never {});
            answered(layer.layer(upstream), incoming).await?
        } else {
            answered(layer.layer(keeper(&kept, asked)), incoming).await?
        };
        let Some(request) = kept.lock().expect("nobody panics with it").take() else {
            return Ok(Seen::ended(Window::Tower, parts.status.as_u16(), &parts.headers, &body));
        };
        let chosen = request.extensions().get::<Chosen>();
        let stranger = chosen.filter(|chosen| sent && !chosen.goes_where_dialled()).and_then(|chosen| {
            let named = request.uri().authority()?.as_str();
            let known = chosen.cluster().endpoints.iter().any(|endpoint| endpoint.to_string() == named);
            (!known).then(|| format!(", but by way of {named}"))
        });
        let end = ended_up(chosen) + &stranger.unwrap_or_default();
        let told = chosen.map(Told::from);
        let mut goes = Sent::from(&request);
        if sent {
            // The URI may name the endpoint.
            let host = goes.headers.iter().find(|(name, _)| name == "host");
            goes.authority = host.map(|(_, host)| host.clone()).unwrap_or_default();
        }
        Ok(Seen { window: Window::Tower, end, sent: Some(goes), response: lines(&parts.headers), told })
    }

    /// Asks through `adapter::tls`, with the first bytes of a connection that carries what the question says.
    pub fn tls(router: &Router, asked: &Asked<'_>, roll: &Roll) -> Result<Seen, String> {
        let bytes = asked.sni.map_or_else(|| b"\x05\x01\0".to_vec(), client_hello);
        let connection = Connection::new(asked.port).address(asked.address);
        let decision = match opening(&bytes).map_err(|error| error.to_string())? {
            Opening::Hello(hello) => router.connect(&connection.tls(hello.tls()), roll),
            Opening::Plain => router.connect(&connection, roll),
            Opening::Short(_) => return Err("the bytes are whole".into()),
        };
        Ok(Seen::decision(Window::Tls, &decision, asked, router, roll))
    }

    fn ended(window: Window, status: u16, headers: &http::HeaderMap, body: &[u8]) -> Seen {
        let location = headers.get("location").map(|location| String::from_utf8_lossy(location.as_bytes()));
        let text = location.unwrap_or_else(|| String::from_utf8_lossy(body));
        let end = format!("{status} {text}").trim_end().to_string();
        Seen { window, end, sent: None, response: lines(headers), told: None }
    }
}

fn ended_up(chosen: Option<&Chosen>) -> String {
    chosen.map_or("passthrough".to_string(), |chosen| match chosen.route() {
        Some(_) => format!("to {}", named(chosen.cluster())),
        None => format!("connect {}", named(chosen.cluster())),
    })
}

/// The first bytes of a TLS connection to a server of this name.
fn client_hello(name: &str) -> Vec<u8> {
    let list = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[size_of::<usize>() - width..], bytes].concat();
    let names = list(2, &[&[0][..], &list(2, name.as_bytes())].concat());
    let extensions = if name.is_empty() { Vec::new() } else { [&[0, 0][..], &list(2, &names)].concat() };
    let body = [&[3; 34][..], &[0, 0, 2, 19, 1, 1, 0], &list(2, &extensions)].concat();
    [&[22, 3, 1][..], &list(2, &[&[1][..], &list(3, &body)].concat())].concat()
}

/// How a request of the tower window came in.
#[derive(Clone)]
struct Arrived {
    port: u16,
    address: Option<IpAddr>,
    sni: Option<String>,
}

fn arrived(extensions: &http::Extensions) -> Connection<'_> {
    let arrived = extensions.get::<Arrived>().expect("every request here carries how it arrived");
    let connection = Connection::new(arrived.port).address(arrived.address);
    match &arrived.sni {
        Some(sni) => connection.tls(TlsHello { sni: Some(sni) }),
        None => connection,
    }
}

/// What a service got.
type Kept = Arc<Mutex<Option<http::Request<()>>>>;
type Answered = std::future::Ready<Result<http::Response<Full<Bytes>>, Infallible>>;

/// Keeps what it gets, and answers as the question has it.
fn keeper<B>(
    kept: &Kept,
    asked: &Asked<'_>,
) -> impl Service<http::Request<B>, Response = http::Response<Full<Bytes>>, Error = Infallible, Future = Answered>
+ Clone
+ Send
+ use<B> {
    let (keep, headers) = (Arc::clone(kept), map(asked.upstream));
    tower::service_fn(move |request: http::Request<B>| {
        keep.lock().expect("nobody panics with it").replace(request.map(drop));
        let mut response = http::Response::new(Full::default());
        response.headers_mut().clone_from(&headers);
        std::future::ready(Ok(response))
    })
}

async fn answered<S, D>(
    service: S,
    request: http::Request<Full<Bytes>>,
) -> Result<(http::response::Parts, Bytes), String>
where
    S: Service<http::Request<Full<Bytes>>, Response = http::Response<D>, Error = Infallible>,
    D: hyper::body::Body<Error: fmt::Display>,
{
    let Ok(response) = service.oneshot(request).await;
    let (parts, body) = response.into_parts();
    Ok((parts, body.collect().await.map_err(|error| error.to_string())?.to_bytes()))
}

impl From<&http::Request<()>> for Sent {
    fn from(request: &http::Request<()>) -> Sent {
        let uri = request.uri();
        let host = || request.headers().get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).to_string());
        Sent {
            path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            authority: uri.authority().map(ToString::to_string).or_else(host).unwrap_or_default(),
            headers: lines(request.headers()),
        }
    }
}

impl From<&Chosen> for Told {
    fn from(chosen: &Chosen) -> Told {
        Told {
            rule: chosen.route().map(rule),
            endpoints: endpoints(chosen.cluster()),
            timeout: time(chosen.timeout()),
            delay: time(chosen.delay()),
            retries: retries(chosen.retry()),
            mirrors: chosen.mirrors().iter().map(|cluster| named(cluster)).collect(),
            policy: policy(chosen.cluster()),
            http: format!("{:?}", chosen.cluster().http),
            sticks_by: sticks_by(chosen.forward()),
        }
    }
}

fn lines(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).to_string();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn map(lines: &[(String, String)]) -> http::HeaderMap {
    let line = |(name, value): &(String, String)| {
        let name = http::HeaderName::try_from(name).expect("the case names a header");
        (name, http::HeaderValue::try_from(value).expect("the case gives a header a value"))
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.iter().map(line) {
        headers.append(name, value);
    }
    headers
}

impl Expects {
    fn ends(&self) -> Vec<End<'_>> {
        let flag = |set: bool, end: End<'static>| set.then_some(end);
        [
            self.to.as_deref().map(End::To),
            self.connect.as_deref().map(End::Connect),
            self.status.as_deref().map(End::Status),
            self.redirect.as_deref().map(End::Redirect),
            self.direct.as_deref().map(End::Direct),
            flag(self.passthrough, End::Passthrough),
            flag(self.blackhole, End::Blackhole),
            flag(self.reset, End::Reset),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is wrong with the expectation itself.
    pub fn fault(&self) -> Option<String> {
        match self.ends().len() {
            0 if self.weights.is_none() && self.rule.is_none() => Some("it expects no outcome".into()),
            0 | 1 => None,
            _ => Some("it expects several outcomes".into()),
        }
    }

    /// The differences between what was expected and what was seen.
    pub fn differences(&self, seen: &Seen) -> Vec<String> {
        let mut all = Vec::new();
        let mut differ = |what: &str, wanted: &str, got: &str| {
            if wanted != got {
                all.push(format!("{what}: wanted `{wanted}`, got `{got}`"));
            }
        };
        for end in self.ends() {
            let wanted = end.through(seen.window);
            let close = matches!(end, End::Status(_)) && words_begin(&seen.end, &wanted);
            differ("outcome", &wanted, if close { &wanted } else { &seen.end });
        }
        if let Some(sent) = &seen.sent {
            self.path.iter().for_each(|path| differ("path", path, &sent.path));
            self.authority.iter().for_each(|authority| differ("authority", authority, &sent.authority));
            for (name, wanted) in &self.headers {
                differ(&format!("header `{name}`"), &written(wanted.as_ref()), &found(&sent.headers, name));
            }
        } else if self.path.is_some() || self.authority.is_some() || !self.headers.is_empty() {
            differ("what the destination gets", "something", "nothing");
        }
        for (name, wanted) in &self.response_headers {
            differ(&format!("response header `{name}`"), &written(wanted.as_ref()), &found(&seen.response, name));
        }
        if let Some(told) = &seen.told {
            let rule = told.rule.as_deref().unwrap_or("none");
            self.rule.iter().for_each(|wanted| differ("rule", wanted, rule));
            self.timeout.iter().for_each(|wanted| differ("timeout", wanted, &told.timeout));
            self.delay.iter().for_each(|wanted| differ("delay", wanted, &told.delay));
            self.retries.iter().for_each(|wanted| differ("retries", wanted, &told.retries));
            self.mirrors.iter().for_each(|wanted| differ("mirrors", &wanted.join(" "), &told.mirrors.join(" ")));
            self.policy.iter().for_each(|wanted| differ("policy", wanted, &told.policy));
            self.http.iter().for_each(|wanted| differ("version of HTTP", wanted, &told.http));
            self.sticks_by.iter().for_each(|wanted| differ("what requests stick by", wanted, &told.sticks_by));
            self.endpoints.iter().filter(|wanted| !same_endpoints(wanted, &told.endpoints)).for_each(|wanted| {
                differ("endpoints", &wanted.join(" "), &format!("{:?}", told.endpoints));
            });
        }
        all
    }
}

/// Whether each endpoint is named once, by its address or its workload, or by that and its locality.
fn same_endpoints(wanted: &[String], got: &[[String; 3]]) -> bool {
    let named = |wanted: &String| got.iter().filter(|names| names.contains(wanted)).count() == 1;
    wanted.len() == got.len() && wanted.iter().all(named)
}

fn words_begin(text: &str, beginning: &str) -> bool {
    text.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn written(lines: Option<&Lines>) -> String {
    match lines {
        None => "absent".into(),
        Some(Lines::One(line)) => format!("[{line}]"),
        Some(Lines::Many(lines)) => lines.iter().map(|line| format!("[{line}]")).collect(),
    }
}

fn found(headers: &[(String, String)], name: &str) -> String {
    let lines = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    match lines.map(|(_, value)| format!("[{value}]")).collect::<String>() {
        none if none.is_empty() => "absent".into(),
        lines => lines,
    }
}

impl End<'_> {
    /// How it looks through a window: an adapter shows what is on the wire.
    fn through(self, window: Window) -> String {
        let decided = matches!(window, Window::Explain | Window::Router | Window::Tls);
        let status = |text: &str| text.split(' ').next().unwrap_or_default().to_string();
        match self {
            End::Status(text) if decided => format!("status {text}"),
            End::Status(text) => status(text),
            End::Redirect(text) if decided => format!("redirect {text}"),
            End::Direct(text) if decided => format!("direct {text}"),
            End::Redirect(text) | End::Direct(text) => text.to_string(),
            _ if window == Window::Http => "goes on".into(),
            #[cfg(feature = "pingora")]
            End::Blackhole | End::Reset if window == Window::Pingora => "closed".into(),
            End::Blackhole | End::Reset if !decided => "502".into(),
            End::To(text) => format!("to {text}"),
            End::Connect(text) => format!("connect {text}"),
            End::Passthrough => "passthrough".into(),
            End::Blackhole => "blackhole".into(),
            End::Reset => "reset".into(),
        }
    }
}

/// How many of all rolls reach which subset or host.
pub fn shares(router: &Router, asked: &Asked<'_>) -> BTreeMap<String, u64> {
    let request = asked.request();
    let destinations = match router.decide(&request, &Roll::pinned(0)).route.map(|route| &route.action) {
        Some(Action::Forward(forward)) if forward.destinations.len() > 1 => &forward.destinations,
        Some(Action::Forward(_)) => return BTreeMap::from([(reached(router, &request, 0), 1)]),
        _ => return BTreeMap::new(),
    };
    let total: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    let mut shares = BTreeMap::new();
    for roll in 0..total.min(10_000) {
        *shares.entry(reached(router, &request, roll)).or_default() += 1;
    }
    shares
}

fn reached(router: &Router, request: &Request<'_>, roll: u64) -> String {
    let decision = router.decide(request, &Roll::pinned(roll));
    let Some(cluster) = decision.cluster() else { return "none".into() };
    let host = cluster.host.split('.').next().unwrap_or_default();
    if cluster.subset.is_empty() { host.to_string() } else { cluster.subset.to_string() }
}
