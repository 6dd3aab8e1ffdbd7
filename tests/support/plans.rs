//! Random plans, and requests that hit them.
//!
//! Everything is read from a slice of bytes, so that proptest and libFuzzer can both feed it. Words come from small
//! alphabets: collisions are the point. Uses only the public face of the crate, and is included by path.
#![allow(dead_code, reason = "whoever includes this uses the part that is needed")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshroute::plan::{
    Abort, Action, Chain, Cidr, Cluster, Condition, Delay, Destination, DirectResponse, Endpoint, Fault, Forward,
    HeaderMatch, HeaderWrite, HttpTable, Listener, Mirror, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath,
    RegexRewrite, Route, Target, Transport, Unclaimed, Unmatched, ValueMatch, VirtualHost,
};
use meshroute::{Connection, HostPattern, Pattern, Plan, Request, Roll, TlsHello};

/// Choices read from bytes, one after the other. When there are no more, every choice is the first one.
pub struct Choices<'b> {
    left: &'b [u8],
}

impl<'b> Choices<'b> {
    /// Choices from these bytes.
    pub fn new(bytes: &'b [u8]) -> Self {
        Choices { left: bytes }
    }

    /// The next byte; 0 when there is none.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.left.split_first() else { return 0 };
        self.left = rest;
        first
    }

    /// A number below `bound`, which is at most 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// Whether something happens that does so in so many of a hundred cases. Without bytes it does not.
    pub fn chance(&mut self, percent: usize) -> bool {
        usize::from(self.byte()) * 100 / 256 >= 100 - percent.min(100)
    }

    /// One of several.
    pub fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// At most so many bytes, as they come.
    pub fn bytes(&mut self, most: usize) -> &'b [u8] {
        let wanted = self.below(most.min(255) + 1).min(self.left.len());
        let (taken, rest) = self.left.split_at(wanted);
        self.left = rest;
        taken
    }

    /// Eight bytes as a number.
    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Whether there are no more bytes.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }
}

const PORTS: [u16; 3] = [80, 443, 5000];
const ADDRESSES: [&str; 4] = ["10.0.0.1", "10.0.0.2", "10.1.0.9", "fd00::1"];
const SUBNETS: [&str; 6] = ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1", "0.0.0.0/0", "fd00::/16", "::/0"];
const NAMES: [&str; 5] = ["a.com", "b.a.com", "*.a.com", "*.com", "*"];
const DOMAINS: [&str; 14] = [
    "a.com",
    "b.com",
    "*",
    "*.com",
    "*.a.com",
    "b.a.com",
    "*a.com",
    "nginx",
    "nginx.default",
    "nginx.default.svc.cluster.local",
    "*.svc.cluster.local",
    "10.0.0.1",
    "[fd00::1]",
    "*.b.a.com",
];
const PATHS: [&str; 18] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/abc",
    "/A",
    "/A/b",
    "/b",
    "/b/a",
    "/a.b",
    "/a//b",
    "/api/v1",
    "/api/v1/users",
    "/api/v2",
    "/api",
    "/a%2Fb",
    "/index.html",
];
const TAILS: [&str; 6] = ["", "b", "/", "/b", "c/d", "/v1/users"];
const HEADERS: [&str; 14] = [
    "canary_id",
    "a",
    "b",
    "canary_id",
    "a",
    "cookie",
    "accept",
    "user-agent",
    "x-forwarded-proto",
    ":authority",
    ":method",
    ":path",
    ":scheme",
    "host",
];
const VALUES: [&str; 10] = ["1", "1,2", "2", "12", "1a", "", "true", "A", "a=1; b=2", "https"];
/// Nobody trims what stands in a query.
const QUERY_VALUES: [&str; 6] = ["1", " 1", "1 ", "", "a=1", "%31"];
const QUERIES: [&str; 4] = ["q", "v", "a", ""];
const METHODS: [&str; 5] = ["GET", "POST", "get", "GETX", "PUT"];
const SCHEMES: [&str; 3] = ["http", "https", "HTTPS"];

/// Patterns for paths, each with something that it matches.
const PATH_PATTERNS: [(&str, &str); 10] = [
    ("/a.*", "/a/x"),
    (".*", "/zz"),
    ("/a|/ab", "/ab"),
    ("/api/v[12]/.*", "/api/v2/x"),
    ("/api/v\\d+", "/api/v12"),
    ("(?i)/A", "/a"),
    ("/(a|b)(/.*)?", "/b/q"),
    ("/a/[^/]*", "/a/b"),
    (".*html", "/index.html"),
    ("/a{2,3}", "/aaa"),
];

/// Patterns for values, each with something that it matches.
const VALUE_PATTERNS: [(&str, &str); 8] = [
    ("1|2", "2"),
    ("\\d+", "12"),
    (".*", ""),
    (".+", "x"),
    ("1.*", "1a"),
    ("(?i)a", "A"),
    ("(.*; )?b=2", "a=1; b=2"),
    ("[^1]*", "true"),
];

struct Known {
    pattern: Pattern,
    hit: &'static str,
}

fn known(texts: &[(&'static str, &'static str)]) -> Vec<Known> {
    let known = |&(text, hit): &(&str, &'static str)| {
        let pattern = Pattern::parse(text).expect("the patterns above are legal");
        assert!(pattern.is_full_match(hit.as_bytes()), "`{hit}` is no full match of `{text}`");
        Known { pattern, hit }
    };
    texts.iter().map(known).collect()
}

fn path_patterns() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| known(&PATH_PATTERNS))
}

fn value_patterns() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| known(&VALUE_PATTERNS))
}

fn pattern(choices: &mut Choices<'_>, known: &'static [Known]) -> Pattern {
    known[choices.below(known.len())].pattern.clone()
}

/// A legal plan.
pub fn plan(choices: &mut Choices<'_>) -> Plan {
    let mut plan = Plan::default();
    plan.clusters = (0..=choices.below(5)).map(|_| Arc::new(cluster(choices))).collect();
    plan.unmatched = choices.one(&[Unmatched::Passthrough, Unmatched::Blackhole, Unmatched::Reset]);
    let count = plan.clusters.len();
    plan.listeners = (0..choices.one(&[1, 1, 2, 3])).map(|_| listener(choices, count)).collect();
    for name in ["nginx", "nginx.default"].into_iter().take(choices.below(3)) {
        plan.names.insert(name, vec![address(choices)]);
    }
    plan
}

fn cluster(choices: &mut Choices<'_>) -> Cluster {
    let host = choices.pick(&["nginx.default.svc.cluster.local", "a.com"]);
    let mut cluster = Cluster::missing(host, choices.pick(&["", "v1", "v2"]), choices.one(&PORTS));
    cluster.exists = !choices.chance(10);
    let endpoints = if choices.chance(10) { 0 } else { 1 + choices.below(3) };
    cluster.endpoints = (0..endpoints).map(|n| endpoint(choices, n)).collect();
    cluster
}

fn endpoint(choices: &mut Choices<'_>, n: usize) -> Endpoint {
    let mut endpoint = Endpoint::new(&format!("10.9.0.{n}"), choices.one(&PORTS), "pod");
    endpoint.weight = u32::from(choices.byte() % 4);
    endpoint
}

fn address(choices: &mut Choices<'_>) -> IpAddr {
    choices.one(&ADDRESSES).parse().expect("the addresses above are legal")
}

fn listener(choices: &mut Choices<'_>, clusters: usize) -> Listener {
    let addresses = if choices.chance(20) { 1 + choices.below(2) } else { 0 };
    let port = choices.one(&[80, 80, 80, 443, 5000]);
    let mut listener = Listener::new(port, (0..addresses).map(|_| address(choices)).collect());
    let chains = if choices.chance(20) { choices.one(&[2, 3, 4, 0]) } else { 1 };
    listener.chains = (0..chains).map(|_| chain(choices, clusters, chains > 1)).collect();
    listener
}

fn chain(choices: &mut Choices<'_>, clusters: usize, narrow: bool) -> Chain {
    if !narrow {
        return Chain::new(Target::Http(Arc::new(table(choices, clusters))));
    }
    let target = match choices.chance(25) {
        true => Target::Tcp { destinations: destinations(choices, clusters), origin: None },
        false => Target::Http(Arc::new(table(choices, clusters))),
    };
    let mut chain = Chain::new(target);
    if choices.chance(30) {
        chain.subnets = (0..=choices.below(2)).filter_map(|_| Cidr::parse(choices.one(&SUBNETS))).collect();
    }
    if choices.chance(30) {
        chain.server_names = (0..=choices.below(2)).map(|_| host(choices.one(&NAMES))).collect();
    }
    chain.transport = choices.one(&[Transport::Any, Transport::Any, Transport::Tls, Transport::Terminated]);
    chain.http_only = chain.transport == Transport::Any && choices.chance(40);
    chain
}

fn host(text: &str) -> HostPattern {
    HostPattern::parse(text).expect("the names above are legal")
}

fn table(choices: &mut Choices<'_>, clusters: usize) -> HttpTable {
    let unclaimed = choices.one(&[Unclaimed::Passthrough, Unclaimed::BlockAll, Unclaimed::NotFound]);
    let mut table = HttpTable::new("80", unclaimed);
    let mut claimed = BTreeSet::new();
    for n in 0..=choices.below(4) {
        let mut domains = Vec::new();
        for _ in 0..=choices.below(3) {
            domains.extend(Some(choices.one(&DOMAINS)).filter(|domain| claimed.insert(*domain)).map(host));
        }
        table.hosts.push(Arc::new(virtual_host(choices, n, domains, clusters)));
    }
    table
}

fn virtual_host(choices: &mut Choices<'_>, n: usize, domains: Vec<HostPattern>, clusters: usize) -> VirtualHost {
    let mut host = VirtualHost::new(format!("host-{n}"), domains);
    host.require_tls = choices.chance(8);
    let routes = choices.one(&[2, 4, 9, 20, 40, 1, 0]);
    host.routes = (0..routes).map(|n| route(choices, n, &host.domains, clusters)).collect();
    host
}

fn route(choices: &mut Choices<'_>, n: usize, domains: &[HostPattern], clusters: usize) -> Route {
    let condition = condition(choices, domains);
    let action = action(choices, &condition, clusters);
    let mut route = Route::new(format!("route-{n}"), condition, action);
    if choices.chance(15) {
        route.fault = Some(fault(choices));
    }
    if choices.chance(20) {
        route.request.remove.push("a".into());
        route.response.write.push(HeaderWrite::new("via", &n.to_string(), choices.chance(50)));
    }
    route
}

fn fault(choices: &mut Choices<'_>) -> Fault {
    let mut fault = Fault::default();
    let often = [0, 500_000, 1_000_000];
    let delay = Delay { duration: Duration::from_millis(5), per_million: choices.one(&often) };
    let grpc = choices.chance(30).then_some(14);
    let abort = Abort { status: choices.one(&[500, 503, 200]), grpc, per_million: choices.one(&often) };
    fault.delay = choices.chance(50).then_some(delay);
    fault.abort = choices.chance(60).then_some(abort);
    fault
}

/// Mostly one thing is asked for, at times two or three, seldom nothing.
fn condition(choices: &mut Choices<'_>, domains: &[HostPattern]) -> Condition {
    let mut condition = Condition::default();
    if choices.chance(4) {
        return condition;
    }
    for _ in 0..=choices.one(&[0, 0, 0, 1, 1, 2]) {
        match choices.below(12) {
            0..=4 => condition.path = path_match(choices),
            5..=7 => condition.headers.push(header_match(choices)),
            8 => condition.query.push(QueryMatch::new(choices.one(&QUERIES), value_match(choices, &QUERY_VALUES))),
            9 => condition.method = Some(value_match(choices, &METHODS)),
            10 => condition.authority = Some(authority_match(choices, domains)),
            _ => condition.scheme = Some(value_match(choices, &SCHEMES[..2])),
        }
    }
    condition
}

fn path_match(choices: &mut Choices<'_>) -> PathMatch {
    let (path, ignore_case) = (choices.one(&PATHS).into(), choices.chance(25));
    match choices.below(8) {
        0..=3 => PathMatch::Exact { path, ignore_case },
        4..=5 => PathMatch::Prefix { path, ignore_case },
        6 => PathMatch::Regex(pattern(choices, path_patterns())),
        _ => PathMatch::Prefix { path: choices.one(&["/", "", "/a", "a"]).into(), ignore_case },
    }
}

fn header_match(choices: &mut Choices<'_>) -> HeaderMatch {
    let name = choices.one(&HEADERS);
    let value = match name {
        ":authority" | "host" => value_match(choices, &["a.com", "a.com:80", "B.com"]),
        ":method" => value_match(choices, &METHODS),
        ":path" => value_match(choices, &PATHS),
        ":scheme" | "x-forwarded-proto" => value_match(choices, &SCHEMES),
        _ => value_match(choices, &VALUES),
    };
    match choices.below(8) {
        0..=4 => HeaderMatch::new(name, value),
        5..=6 => HeaderMatch::without(name, value),
        _ => {
            let value = if choices.chance(30) { ValueMatch::Exact("".into()) } else { value };
            let mut odd = HeaderMatch::new(name, value);
            (odd.invert, odd.missing_is_empty) = (choices.chance(50), choices.chance(50));
            odd
        }
    }
}

fn value_match(choices: &mut Choices<'_>, words: &[&str]) -> ValueMatch {
    match choices.below(8) {
        0..=3 => ValueMatch::Exact(choices.one(words).into()),
        4..=5 => ValueMatch::Prefix(choices.one(words).into()),
        6 => ValueMatch::Regex(pattern(choices, value_patterns())),
        _ => ValueMatch::Present,
    }
}

fn authority_match(choices: &mut Choices<'_>, domains: &[HostPattern]) -> ValueMatch {
    let name = match domains {
        [] => "a.com".to_string(),
        some => {
            let at = choices.below(some.len());
            named(choices, &some[at])
        }
    };
    match choices.below(4) {
        0..=1 => ValueMatch::Exact(name.into()),
        2 => ValueMatch::Prefix(name.into()),
        _ => ValueMatch::Exact(format!("{name}:80").into()),
    }
}

fn action(choices: &mut Choices<'_>, condition: &Condition, clusters: usize) -> Action {
    match choices.below(8) {
        0..=5 => Action::Forward(forward(choices, clusters)),
        6 => Action::Redirect(redirect(choices, condition)),
        _ => Action::Direct(DirectResponse::new(choices.one(&[200, 204, 404, 503]), "hello")),
    }
}

fn forward(choices: &mut Choices<'_>, clusters: usize) -> Forward {
    let mut forward = Forward::new(destinations(choices, clusters));
    if choices.chance(25) {
        forward.rewrite = Some(rewrite(choices));
    }
    if choices.chance(15) {
        let mirror = Mirror::new(choices.below(clusters) as u32, choices.one(&[0, 500_000, 1_000_000]));
        forward.mirrors.push(mirror);
    }
    forward
}

fn rewrite(choices: &mut Choices<'_>) -> PathRewrite {
    if choices.chance(70) {
        return PathRewrite::Matched(choices.one(&["/", "/new", "/new/", "/n?x=1", ""]).into());
    }
    let regex = RegexRewrite::parse(pattern(choices, path_patterns()), choices.one(&["/r", "x\\0", ""]));
    PathRewrite::Regex(regex.expect("the texts above name no group but 0"))
}

fn redirect(choices: &mut Choices<'_>, condition: &Condition) -> Redirect {
    let mut redirect = Redirect::new(choices.one(&[301, 302, 303, 307, 308]));
    let text = choices.one(&["/", "/new", "/new?x=1", ""]).into();
    redirect.path = match choices.below(3) {
        0 => None,
        1 if matches!(condition.path, PathMatch::Prefix { .. }) => Some(RedirectPath::Prefix(text)),
        _ => Some(RedirectPath::Whole(text)),
    };
    redirect.authority = choices.chance(40).then(|| "new.example:8080".into());
    redirect.scheme = choices.chance(40).then(|| choices.one(&["https", "http"]).into());
    redirect.port = choices.chance(30).then_some(8443);
    redirect
}

fn destinations(choices: &mut Choices<'_>, clusters: usize) -> Vec<Destination> {
    let count = if choices.chance(30) { 2 + choices.below(2) } else { 1 };
    let weights: &[u32] = if count == 1 { &[100, 0, 1] } else { &[50, 20, 80, 1] };
    (0..count).map(|_| destination(choices, clusters, weights)).collect()
}

fn destination(choices: &mut Choices<'_>, clusters: usize, weights: &[u32]) -> Destination {
    let mut destination = Destination::new(choices.below(clusters) as u32, choices.one(weights));
    destination.authority = choices.chance(15).then(|| "other.example".into());
    if choices.chance(15) {
        destination.request.write.push(HeaderWrite::new("to", "1", false));
    }
    destination
}

/// A request that owns what it says.
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    pub method: String,
    pub scheme: String,
    pub authority: String,
    pub path: Vec<u8>,
    pub port: u16,
    pub address: Option<IpAddr>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// Whether the connection begins with a hello.
    pub hello: bool,
    pub sni: Option<String>,
    pub seed: u64,
}

impl OwnedRequest {
    /// What is asked.
    pub fn ask(&self) -> Request<'_> {
        let request = Request::new(&self.method, &self.authority, &self.path);
        let request = request.scheme(&self.scheme).headers(&self.headers).port(self.port).address(self.address);
        if self.hello { request.tls(TlsHello { sni: self.sni.as_deref() }) } else { request }
    }

    /// The same, as a connection.
    pub fn connection(&self) -> Connection<'_> {
        let connection = Connection::new(self.port).address(self.address);
        if self.hello { connection.tls(TlsHello { sni: self.sni.as_deref() }) } else { connection }
    }

    /// The dice.
    pub fn roll(&self) -> Roll {
        Roll::seeded(self.seed)
    }

    fn plain() -> Self {
        OwnedRequest {
            method: "GET".into(),
            scheme: "http".into(),
            authority: "a.com".into(),
            path: b"/".into(),
            port: 80,
            address: None,
            headers: Vec::new(),
            hello: false,
            sni: None,
            seed: 0,
        }
    }
}

/// A request: of ten, eight are made to satisfy some route of the plan, one misses one by a detail, and one is random.
pub fn request(choices: &mut Choices<'_>, plan: &Plan) -> OwnedRequest {
    let kind = choices.below(10);
    let mut request = match kind {
        0 => None,
        _ => aimed(choices, plan),
    }
    .unwrap_or_else(|| random(choices, plan));
    if kind == 1 {
        spoil(choices, &mut request);
    }
    request.seed = choices.number();
    request
}

/// Words of the alphabets, mostly sent to a port that is listened on.
fn random(choices: &mut Choices<'_>, plan: &Plan) -> OwnedRequest {
    let mut request = OwnedRequest::plain();
    request.method = choices.one(&METHODS).into();
    request.scheme = choices.one(&SCHEMES).into();
    let domain = host(choices.one(&DOMAINS));
    request.authority = named(choices, &domain);
    request.path = [choices.one(&PATHS), choices.one(&TAILS)].concat().into_bytes();
    request.port = match plan.listeners.first() {
        Some(listener) if !choices.chance(20) => listener.port,
        _ => choices.one(&PORTS),
    };
    request.address = choices.chance(30).then(|| address(choices));
    for _ in 0..choices.below(4) {
        let line = (choices.one(&HEADERS[..9]).into(), choices.one(&VALUES).into());
        request.headers.push(line);
    }
    if choices.chance(30) {
        ask(&mut request, choices.one(&QUERIES), choices.one(&QUERY_VALUES));
    }
    request.hello = choices.chance(20);
    let name = host(choices.one(&NAMES));
    request.sni = choices.chance(50).then(|| named(choices, &name));
    request
}

/// A request that satisfies a route, unless that contradicts itself or an earlier one is satisfied as well.
fn aimed(choices: &mut Choices<'_>, plan: &Plan) -> Option<OwnedRequest> {
    let tables: Vec<_> =
        plan.listeners.iter().flat_map(|listener| tables(listener)).filter(|(_, _, table)| has_route(table)).collect();
    let (listener, chain, table) = *tables.get(choices.below(tables.len()))?;
    let hosts: Vec<_> = table.hosts.iter().filter(|host| is_routed(host)).collect();
    let host = *hosts.get(choices.below(hosts.len()))?;
    let route = host.routes.get(choices.below(host.routes.len()))?;
    let mut request = OwnedRequest::plain();
    reach(choices, &mut request, listener, chain);
    let domain = &host.domains[choices.below(host.domains.len())];
    request.authority = named(choices, domain);
    if host.require_tls && choices.chance(70) {
        request.scheme = "https".into();
    }
    satisfy(choices, &mut request, &route.condition);
    Some(request)
}

fn tables(listener: &Listener) -> impl Iterator<Item = (&Listener, &Chain, &HttpTable)> {
    listener.chains.iter().filter_map(move |chain| match &chain.target {
        Target::Http(table) => Some((listener, chain, &**table)),
        Target::Tcp { .. } => None,
    })
}

fn has_route(table: &HttpTable) -> bool {
    table.hosts.iter().any(|host| is_routed(host))
}

fn is_routed(host: &VirtualHost) -> bool {
    !host.domains.is_empty() && !host.routes.is_empty()
}

/// Connects to a listener in such a way that the chain can take it.
fn reach(choices: &mut Choices<'_>, request: &mut OwnedRequest, listener: &Listener, chain: &Chain) {
    request.port = listener.port;
    let fits = |address: &IpAddr| chain.subnets.is_empty() || chain.subnets.iter().any(|net| net.contains(*address));
    let known: Vec<IpAddr> = match listener.addresses.as_slice() {
        [] => ADDRESSES.iter().filter_map(|text| text.parse().ok()).filter(fits).collect(),
        bound => bound.to_vec(),
    };
    let needed = !listener.addresses.is_empty() || !chain.subnets.is_empty();
    if needed || choices.chance(20) {
        request.address = known.get(choices.below(known.len())).copied();
    }
    request.hello = chain.transport != Transport::Any || (!chain.http_only && choices.chance(20));
    if let Some(name) = chain.server_names.first() {
        request.hello = true;
        request.sni = Some(named(choices, name));
    }
}

/// A name that a pattern stands for; at times with capitals, at times with a port.
fn named(choices: &mut Choices<'_>, pattern: &HostPattern) -> String {
    let mut name = match (pattern.is_wildcard(), pattern.suffix()) {
        (false, name) => name.to_string(),
        (true, "") => "zz.org".to_string(),
        (true, suffix) => format!("{}{suffix}", choices.one(&["q", "a", "b"])),
    };
    if choices.chance(15) {
        name.make_ascii_uppercase();
    }
    if choices.chance(15) {
        name += choices.one(&[":80", ":5000", ":", ":x"]);
    }
    name
}

fn satisfy(choices: &mut Choices<'_>, request: &mut OwnedRequest, condition: &Condition) {
    request.path = path_for(choices, &condition.path).into_bytes();
    if let Some(test) = &condition.method {
        request.method = value_for(choices, test, &METHODS);
    }
    if let Some(test) = &condition.scheme {
        request.scheme = value_for(choices, test, &SCHEMES);
    }
    if let Some(test) = &condition.authority {
        request.authority = value_for(choices, test, &["a.com"]);
    }
    for test in &condition.headers {
        satisfy_header(choices, request, test);
    }
    for test in &condition.query {
        let value = value_for(choices, &test.value, &QUERY_VALUES);
        ask(request, &test.name, &value);
    }
}

fn path_for(choices: &mut Choices<'_>, test: &PathMatch) -> String {
    let (path, ignore_case) = match test {
        PathMatch::Any => (choices.one(&PATHS).to_string(), false),
        PathMatch::Exact { path, ignore_case } => (path.to_string(), *ignore_case),
        PathMatch::Prefix { path, ignore_case } => (format!("{path}{}", choices.one(&TAILS)), *ignore_case),
        PathMatch::Regex(pattern) => (hit(path_patterns(), pattern).to_string(), false),
    };
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    match ignore_case && choices.chance(50) {
        true => path.to_ascii_uppercase(),
        false => path,
    }
}

fn hit(all: &'static [Known], pattern: &Pattern) -> &'static str {
    all.iter().find(|known| known.pattern == *pattern).map_or("", |known| known.hit)
}

fn value_for(choices: &mut Choices<'_>, test: &ValueMatch, words: &[&str]) -> String {
    match test {
        ValueMatch::Exact(text) => text.to_string(),
        ValueMatch::Prefix(text) => format!("{text}{}", choices.one(&["", "1", "x"])),
        ValueMatch::Regex(pattern) => hit(value_patterns(), pattern).to_string(),
        ValueMatch::Present => choices.one(words).to_string(),
    }
}

fn satisfy_header(choices: &mut Choices<'_>, request: &mut OwnedRequest, test: &HeaderMatch) {
    if test.invert {
        // Some inverted tests want the header to be there, with another value.
        if test.value != ValueMatch::Present && (!test.missing_is_empty || choices.chance(30)) {
            request.headers.push((test.name.to_string(), b"zz".into()));
        }
        return;
    }
    let value = value_for(choices, &test.value, &VALUES);
    match &*test.name {
        ":method" => request.method = value,
        ":authority" | "host" if test.value != ValueMatch::Present => request.authority = value,
        ":path" if value.starts_with('/') => request.path = value.into_bytes(),
        ":scheme" => request.scheme = value,
        name => {
            request.headers.push((name.into(), value.into_bytes()));
            if choices.chance(20) {
                repeat(choices, request, name);
            }
        }
    }
}

/// One more line of the same name, before or behind those that are there.
fn repeat(choices: &mut Choices<'_>, request: &mut OwnedRequest, name: &str) {
    let line = (name.to_ascii_uppercase(), choices.one(&VALUES).into());
    let at = if choices.chance(50) { 0 } else { request.headers.len() };
    request.headers.insert(at, line);
}

fn ask(request: &mut OwnedRequest, name: &str, value: &str) {
    request.path.push(if request.path.contains(&b'?') { b'&' } else { b'?' });
    request.path.extend_from_slice(name.as_bytes());
    request.path.push(b'=');
    request.path.extend_from_slice(value.as_bytes());
}

/// Changes one detail.
fn spoil(choices: &mut Choices<'_>, request: &mut OwnedRequest) {
    let at = choices.below(request.headers.len());
    let query = request.path.iter().position(|&b| b == b'?').unwrap_or(request.path.len());
    match choices.below(13) {
        0 => nudge(choices, &mut request.path),
        1 if at < request.headers.len() => nudge(choices, &mut request.headers[at].1),
        2 if at < request.headers.len() => drop(request.headers.remove(at)),
        3 if at < request.headers.len() => {
            let name = request.headers[at].0.clone();
            repeat(choices, request, &name);
        }
        4 => request.method.make_ascii_lowercase(),
        5 => request.authority.push_str(choices.one(&[":80", "x", "."])),
        6 => request.scheme = choices.one(&SCHEMES).into(),
        7 => request.path.truncate(query),
        8 => drop(request.path.splice(query..query, b"?q=0".iter().copied())),
        9 => drop(request.path.splice(0..0, choices.one(&["/.", "/x/..", "/%2e", "\\"]).bytes())),
        10 => request.path.push(choices.one(b"b/A?&#%")),
        11 => request.port = choices.one(&PORTS),
        _ => request.hello = !request.hello,
    }
}

/// Puts one letter in place of another.
fn nudge(choices: &mut Choices<'_>, text: &mut Vec<u8>) {
    match text.len() {
        0 => text.push(b'1'),
        len => text[len - 1 - choices.below(len.min(4))] ^= choices.one(&[1, 0x20, 2]),
    }
}
