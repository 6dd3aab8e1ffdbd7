//! The workloads: rules in plain words, the plan made of them, and requests with their answers.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use meshroute::plan::{
    Action, Chain, Cluster, Condition, Destination, Endpoint, Forward, HeaderMatch, HttpTable, Listener, PathMatch,
    QueryMatch, Route, Target, Transport, Unclaimed, ValueMatch, VirtualHost,
};
use meshroute::{Connection, Decision, HostPattern, Pattern, Plan, Purpose, Roll, Router, TlsHello};

use super::{Answer, Floor, Naive, Other};

/// A workload: one plan, everybody who answers from it, and what they are asked.
pub struct Workload {
    /// `W2 N=100`.
    pub name: String,
    /// The library.
    pub router: Router,
    /// The loop that anyone would write.
    pub naive: Naive,
    /// A hash index made for this very workload, where there is one.
    pub floor: Option<Floor>,
    /// Crates that could be put to the same task, where it is one for them; see [`Workload::with_others`].
    pub others: Vec<(&'static str, Other)>,
    /// Taken by the first route.
    pub first: Ask,
    /// Taken by the last route that is not the default.
    pub last: Ask,
    /// Taken by no route but the default.
    pub miss: Ask,
    /// Each taken by a route drawn at random.
    pub random: Vec<Ask>,
    hosts: Vec<Host>,
}

impl Workload {
    /// With the crates that could be put to the same task, some of which take long to be made.
    pub fn with_others(mut self) -> Self {
        self.others = Other::all(&self.hosts);
        self.check();
        self
    }
}

/// A request, as a server would hold it, and what must come out.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The Host header.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// The other headers.
    pub headers: HeaderMap,
    route: u32,
    to: Vec<(u32, u32)>,
}

impl Ask {
    fn new(host: &Host, at: usize) -> Self {
        let to = host.rules[at].to.clone();
        let (method, authority) = (Method::GET, host.domain.clone());
        let common = [("host", authority.as_str()), ("user-agent", "bench/1.0"), ("accept", "*/*")];
        let mut headers = HeaderMap::new();
        for (name, value) in common {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a plain text"));
        }
        Ask { method, authority, path: "/".into(), headers, route: at as u32, to }
    }

    fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("a plain text");
        self.headers.insert(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value);
        self
    }

    /// What must come out with these dice; worked out here, not by the library.
    pub fn answer(&self, roll: &Roll) -> Answer {
        let total: u64 = self.to.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let drawn = roll.draw(Purpose::Route) % total;
        let mut upto = 0;
        let picked = self.to.iter().find(|(_, weight)| {
            upto += u64::from(*weight);
            drawn < upto
        });
        Answer { route: self.route, cluster: picked.expect("the draw is below the total").0 }
    }
}

/// A virtual host in plain words.
pub struct Host {
    pub domain: String,
    pub rules: Vec<Rule>,
}

/// A rule in plain words. The default has no condition.
#[derive(Clone, Default)]
pub struct Rule {
    pub path: Path,
    pub method: Option<Method>,
    pub headers: Vec<(String, Test)>,
    pub query: Vec<(String, Test)>,
    /// Cluster and weight.
    pub to: Vec<(u32, u32)>,
}

#[derive(Clone, Default)]
pub enum Path {
    #[default]
    Any,
    Prefix(String),
    Regex(String),
}

#[derive(Clone)]
pub enum Test {
    Exact(String),
    Regex(String),
    /// There is one.
    Present,
    /// It is not this. The requests always carry one: what a missing one means is no matter here.
    Not(String),
}

impl Rule {
    fn to(cluster: usize) -> Self {
        Rule { to: vec![(cluster as u32, 100)], ..Rule::default() }
    }

    fn condition(&self) -> Condition {
        let mut condition = Condition::default();
        condition.path = match &self.path {
            Path::Any => PathMatch::Any,
            Path::Prefix(path) => PathMatch::Prefix { path: path.as_str().into(), ignore_case: false },
            Path::Regex(pattern) => PathMatch::Regex(Pattern::parse(pattern).expect("a valid pattern")),
        };
        condition.method = self.method.as_ref().map(|method| ValueMatch::Exact(method.as_str().into()));
        condition.headers = self.headers.iter().map(|(name, test)| test.of_header(name)).collect();
        condition.query = self.query.iter().map(|(name, test)| QueryMatch::new(name, test.to_match())).collect();
        condition
    }

    fn to_route(&self, at: usize) -> Route {
        let to = self.to.iter().map(|&(cluster, weight)| Destination::new(cluster, weight)).collect();
        Route::new(format!("r{at}"), self.condition(), Action::Forward(Forward::new(to)))
    }
}

impl Test {
    fn of_header(&self, name: &str) -> HeaderMatch {
        match self {
            Test::Not(_) => HeaderMatch::without(name, self.to_match()),
            _ => HeaderMatch::new(name, self.to_match()),
        }
    }

    fn to_match(&self) -> ValueMatch {
        match self {
            Test::Present => ValueMatch::Present,
            Test::Exact(text) | Test::Not(text) => ValueMatch::Exact(text.as_str().into()),
            Test::Regex(pattern) => ValueMatch::Regex(Pattern::parse(pattern).expect("a valid pattern")),
        }
    }
}

fn plan(hosts: &[Host]) -> Plan {
    let mut plan = Plan::default();
    let clusters = hosts.iter().flat_map(|host| &host.rules).flat_map(|rule| &rule.to).map(|(cluster, _)| cluster + 1);
    plan.clusters = (0..clusters.max().unwrap_or(0)).map(cluster).collect();
    let mut table = HttpTable::new("80", Unclaimed::Passthrough);
    table.hosts = hosts.iter().map(|host| Arc::new(virtual_host(host))).collect();
    let mut listener = Listener::new(80, Vec::new());
    listener.chains.push(Chain::new(Target::Http(Arc::new(table))));
    plan.listeners.push(listener);
    plan
}

fn virtual_host(host: &Host) -> VirtualHost {
    let domain = HostPattern::parse(&host.domain).expect("a valid host");
    let mut made = VirtualHost::new(format!("{}:80", host.domain), vec![domain]);
    made.routes = host.rules.iter().enumerate().map(|(at, rule)| rule.to_route(at)).collect();
    made
}

fn cluster(at: u32) -> Arc<Cluster> {
    let mut cluster = Cluster::missing("service.default.svc.cluster.local", &format!("v{at}"), 80);
    cluster.exists = true;
    cluster.endpoints = Arc::new([Endpoint::new("10.0.0.1", 80, "")]);
    Arc::new(cluster)
}

/// W1: the canary of the scenario.
pub fn canary() -> Workload {
    let id = |value: &str, to| Rule { headers: vec![("canary_id".into(), Test::Exact(value.into()))], ..to };
    let split = Rule { to: vec![(0, 50), (1, 50)], ..Rule::default() };
    let rules = vec![id("1", split), id("2", Rule::to(2)), Rule::to(3)];
    let hosts = [Host { domain: "nginx.default.svc.cluster.local".into(), rules }];
    let asks = [Ask::new(&hosts[0], 0).header("canary_id", "1"), Ask::new(&hosts[0], 1).header("canary_id", "2")];
    let floor = Floor::canary(&hosts[0]);
    let miss = Ask::new(&hosts[0], 2);
    workload("W1".into(), hosts.into(), Some(floor), asks.to_vec(), miss)
}

/// W2: routes by exact header.
pub fn headers(n: usize) -> Workload {
    let rule = |at| Rule { headers: vec![("x-user".into(), Test::Exact(format!("u{at}")))], ..Rule::to(at) };
    let hosts = [one_host(n, rule)];
    let asks = picks(n).map(|at| Ask::new(&hosts[0], at).header("x-user", format!("u{at}"))).collect();
    let miss = Ask::new(&hosts[0], n).header("x-user", "nobody");
    let floor = Floor::headers(&hosts[0]);
    workload(format!("W2 N={n}"), hosts.into(), Some(floor), asks, miss)
}

/// W3: routes by path prefix.
pub fn prefixes(n: usize) -> Workload {
    let rule = |at| Rule { path: Path::Prefix(format!("/svc{at}/")), ..Rule::to(at) };
    let hosts = [one_host(n, rule)];
    let asks = picks(n).map(|at| Ask::new(&hosts[0], at).path(format!("/svc{at}/items/42?page=2"))).collect();
    let miss = Ask::new(&hosts[0], n).path("/nothing/items/42?page=2");
    let floor = Floor::prefixes(&hosts[0]);
    workload(format!("W3 N={n}"), hosts.into(), Some(floor), asks, miss)
}

/// W4: mixed routes.
pub fn mixed(n: usize) -> Workload {
    let hosts = [one_host(n, mixed_rule)];
    let asks = picks(n).map(|at| mixed_ask(&hosts[0], at)).collect();
    let miss = Ask::new(&hosts[0], n).path("/team0/orders/v1").header("x-tenant", "nobody");
    workload(format!("W4 N={n}"), hosts.into(), None, asks, miss)
}

const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::PUT];

fn mixed_rule(at: usize) -> Rule {
    let (group, member) = (at / 20, at % 20);
    let path = match at % 40 {
        7 => Path::Regex(format!("/team{group}/[a-z]+/v{member}")),
        _ => Path::Prefix(format!("/team{group}/")),
    };
    let tenant = match at % 40 {
        27 => Test::Regex(format!("t{member}(-[a-z]+)?")),
        _ => Test::Exact(format!("t{member}")),
    };
    let mut headers = vec![("x-tenant".to_string(), tenant)];
    if member % 2 == 1 {
        headers.push(("x-tier".into(), Test::Exact("gold".into())));
    }
    Rule { path, method: METHODS.get(member % 4).cloned(), headers, ..Rule::to(at) }
}

fn mixed_ask(host: &Host, at: usize) -> Ask {
    let (group, member) = (at / 20, at % 20);
    let tenant = if at % 40 == 27 { format!("t{member}-blue") } else { format!("t{member}") };
    let ask = Ask::new(host, at).path(format!("/team{group}/orders/v{member}")).header("x-tenant", tenant);
    let method = METHODS.get(member % 4).cloned().unwrap_or(Method::DELETE);
    Ask { method, ..ask.header("x-tier", "gold") }
}

/// W5: many hosts.
pub fn hosts(n: usize) -> Workload {
    let hosts: Vec<_> = (0..n).map(three_rules).collect();
    let pick = |(at, host): (usize, &Host)| match at % 3 {
        0 => Ask::new(host, 0).header("x-user", "tester"),
        1 => Ask::new(host, 1).path("/api/items"),
        _ => Ask::new(host, 2),
    };
    let asks = picks(n).map(|at| pick((at, &hosts[at]))).collect();
    let miss = Ask::new(&hosts[n / 2], 2).path("/nothing");
    let floor = Floor::hosts(&hosts);
    workload(format!("W5 H={n}"), hosts, Some(floor), asks, miss)
}

/// One port with a chain for each of N server names, as a gateway with as many certificates has it.
pub struct Tunnels {
    pub router: Router,
    /// Each for one of the names, which is its authority.
    pub asks: Vec<Ask>,
}

impl Tunnels {
    /// Which cluster a connection goes to.
    pub fn connect<'r>(&'r self, ask: &Ask, roll: &Roll) -> Decision<'r> {
        let connection = Connection::new(443).tls(TlsHello { sni: Some(&ask.authority) });
        self.router.connect(&connection, roll)
    }
}

pub fn tunnels(n: usize) -> Tunnels {
    let mut plan = Plan::default();
    plan.clusters = (0..n as u32).map(cluster).collect();
    let mut listener = Listener::new(443, Vec::new());
    let name = |at: usize| format!("shop{at}.example.com");
    listener.chains.extend((0..n).map(|at| {
        let mut chain = Chain::new(Target::Tcp { destinations: vec![Destination::new(at as u32, 0)], origin: None });
        (chain.transport, chain.server_names) = (Transport::Tls, vec![HostPattern::parse(&name(at)).expect("a name")]);
        chain
    }));
    plan.listeners.push(listener);
    let router = Router::compile(plan).expect("a legal plan");
    let ask = |at: usize| Ask::new(&Host { domain: name(at), rules: vec![Rule::to(at)] }, 0);
    let made = Tunnels { router, asks: picks(n).map(ask).collect() };
    for ask in &made.asks {
        let decision = made.connect(ask, &Roll::seeded(0));
        let at = decision.cluster().map(|cluster| cluster.name.to_string()).unwrap_or_default();
        assert!(at.contains(&format!("|v{}|", ask.to[0].0)), "{} goes to {at}", ask.authority);
    }
    made
}

fn three_rules(at: usize) -> Host {
    let by_header = Rule { headers: vec![("x-user".into(), Test::Exact("tester".into()))], ..Rule::to(at) };
    let by_prefix = Rule { path: Path::Prefix("/api/".into()), ..Rule::to(at) };
    Host { domain: format!("service{at}.default.svc.cluster.local"), rules: vec![by_header, by_prefix, Rule::to(at)] }
}

fn one_host(n: usize, rule: impl Fn(usize) -> Rule) -> Host {
    let rules = (0..n).map(rule).chain([Rule::to(n)]).collect();
    Host { domain: "service.default.svc.cluster.local".into(), rules }
}

/// The first, the last, and then some at random; the same ones in each run.
fn picks(n: usize) -> impl Iterator<Item = usize> {
    let random = (0..2048u64).map(move |seed| (Roll::seeded(seed).draw(Purpose::Endpoint) % n as u64) as usize);
    [0, n - 1].into_iter().chain(random)
}

fn workload(name: String, hosts: Vec<Host>, floor: Option<Floor>, asks: Vec<Ask>, miss: Ask) -> Workload {
    let router = Router::compile(plan(&hosts)).expect("a legal plan");
    let (first, last) = (asks[0].clone(), asks[1].clone());
    let random = if asks.len() > 2 { asks[2..].to_vec() } else { asks };
    let made = Workload {
        name,
        router,
        naive: Naive::new(&hosts),
        floor,
        others: Vec::new(),
        first,
        last,
        miss,
        random,
        hosts,
    };
    made.check();
    made
}

/// Tables and requests made to defeat an index: one host with N routes, asked for the last of them.
pub fn hostile(n: usize) -> Vec<Workload> {
    let asking = |name: String, test: Test| Rule { headers: vec![(name, test)], ..Rule::default() };
    let at_path = |path| Rule { path, ..Rule::default() };
    let user = |at| Test::Exact(format!("u{at}"));
    vec![
        worst(
            "a regex on one header",
            n,
            |at| asking("x-user".into(), Test::Regex(format!("[a-z]*u{at}[a-z]*"))),
            |ask| ask.header("x-user", format!("u{}", n - 1)),
        ),
        worst(
            "a header's presence, each another",
            n,
            |at| asking(format!("x-h{at}"), Test::Present),
            |ask| ask.header(&format!("x-h{}", n - 1), "1"),
        ),
        worst(
            "presence of one header, and a value",
            n,
            |at| Rule { headers: vec![("x-user".into(), Test::Present), ("x-id".into(), user(at))], ..Rule::default() },
            |ask| ask.header("x-user", "1").header("x-id", format!("u{}", n - 1)),
        ),
        worst(
            "what a header must not be",
            n,
            |at| asking("x-user".into(), Test::Not(if at == n - 1 { "other" } else { "me" }.into())),
            |ask| ask.header("x-user", "me"),
        ),
        worst(
            "path regexes without literal text",
            n,
            |at| at_path(Path::Regex(format!(".*/item{at}(/.*)?"))),
            |ask| ask.path(format!("/a/item{}", n - 1)),
        ),
        worst(
            "path regexes with literal text",
            n,
            |at| at_path(Path::Regex(format!("/p{at}/[a-z]+"))),
            |ask| ask.path(format!("/p{}/item", n - 1)),
        ),
        worst(
            "1,000 query parameters",
            n,
            |at| Rule { query: vec![(format!("q{}", at % 10), user(at))], ..Rule::default() },
            |ask| ask.path(parameters(n)),
        ),
        worst(
            "1,000 headers",
            n,
            |at| asking("x-user".into(), user(at)),
            |ask| {
                (0..1000)
                    .fold(ask, |ask, at| ask.header(&format!("x-h{at}"), "1"))
                    .header("x-user", format!("u{}", n - 1))
            },
        ),
        worst(
            "each prefix begins with the one before",
            n.min(200),
            |at| Rule {
                path: Path::Prefix(format!("/{}", "a".repeat(at + 1))),
                headers: vec![("x-user".into(), user(at))],
                ..Rule::default()
            },
            |ask| ask.path(format!("/{}", "a".repeat(n.min(200)))).header("x-user", format!("u{}", n.min(200) - 1)),
        ),
        first_of_many_headers(n),
    ]
}

/// All parameters but the last one have values that nobody asks for.
fn parameters(n: usize) -> String {
    let idle: String = (0..999).map(|at| format!("p{at}=1&")).collect();
    format!("/?{idle}q{}=u{}", (n - 1) % 10, n - 1)
}

/// Each route asks for another header, the request has all of them, and the first route takes it.
fn first_of_many_headers(n: usize) -> Workload {
    let rule = |at| Rule { headers: vec![(format!("x-h{at}"), Test::Exact("1".into()))], ..Rule::to(at) };
    let hosts = [one_host(n, rule)];
    let ask = (0..n).fold(Ask::new(&hosts[0], 0), |ask, at| ask.header(&format!("x-h{at}"), "1"));
    let miss = Ask::new(&hosts[0], n);
    workload("the first of many, all of which would do".into(), hosts.into(), None, vec![ask.clone(), ask], miss)
}

fn worst(name: &str, n: usize, rule: impl Fn(usize) -> Rule, aim: impl Fn(Ask) -> Ask) -> Workload {
    let hosts = [one_host(n, |at| Rule { to: Rule::to(at).to, ..rule(at) })];
    let last = aim(Ask::new(&hosts[0], n - 1));
    workload(name.into(), hosts.into(), None, vec![last.clone(), last.clone()], last)
}
