//! Random questions to a world: most are made to hit one of its routes, many of those then miss it by one detail.

use std::net::{IpAddr, SocketAddr};

use meshroute::plan::{
    Action, Condition, Forward, Listener, PathMatch, Plan, Retry, Route, Target, ValueMatch, VirtualHost,
};
use meshroute::{Connection, Decision, Outcome, Request, Roll, Router, TlsHello};

use crate::client;
use crate::dice::Dice;
use crate::translate::{CASE, ROLL, can_be_asked, route_name};
use crate::upstream::WISH;
use crate::world::{METHODS, World, hit};

const TAILS: [&str; 5] = ["", "/", "/x", "x", "/b/c"];
/// Paths that are not in normal form, or nearly so.
const ODD_PATHS: [&str; 12] = [
    "/a/../b",
    "/%61",
    "/a%2fb",
    "/a%2Fb",
    "//a",
    "/a/./b",
    "/a\\b",
    "/a#x",
    "/a;x=1",
    "/%2e%2e/api",
    "/a b%20",
    "/api/%76%31",
];
const STATUSES: [&str; 6] = ["503", "503", "502", "500", "409", "429"];

/// What a question carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// An HTTP request.
    Http,
    /// Bytes that are neither HTTP nor TLS.
    Bytes,
    /// A TLS hello with this server name.
    Hello(String),
}

/// One question, and what it was made for.
#[derive(Clone, Debug)]
pub struct Ask {
    pub kind: Kind,
    pub method: String,
    /// The scheme, where the target is in absolute form.
    pub scheme: Option<&'static str>,
    pub authority: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// The number that a weighted choice is made with.
    pub roll: u64,
    pub port: u16,
    pub address: IpAddr,
    /// The name of the route that was aimed at.
    pub aimed: Option<String>,
    /// What was broken, if anything was.
    pub broken: Option<&'static str>,
}

impl Ask {
    /// The question of a number.
    pub fn new(seed: u64, case: usize, world: &World) -> Ask {
        let mut dice = Dice::new(seed, case as u64);
        let plan = world.plan();
        if dice.chance(8)
            && let Some(ask) = whole(&mut dice, plan)
        {
            return ask;
        }
        let mut ask = http(&mut dice, plan);
        if world.gateway {
            ask.say_no_more_than_the_connection();
        }
        ask.headers.push((CASE.into(), case.to_string()));
        ask.headers.push((ROLL.into(), ask.roll.to_string()));
        if let Some(wish) = wish(&mut dice, &ask.decide(&world.router)) {
            ask.headers.push((WISH.into(), wish.into()));
        }
        ask
    }

    /// A gateway does not believe what clients say of the scheme, as Istio sets it up: with `use_remote_address` Envoy
    /// overwrites `x-forwarded-proto`, and refuses `https://` over plain connections. The router does not know that yet.
    fn say_no_more_than_the_connection(&mut self) {
        self.headers.retain(|(name, _)| name != "x-forwarded-proto");
        self.scheme = self.scheme.filter(|scheme| *scheme == "http");
    }

    /// The router's answer.
    pub fn decide<'a>(&'a self, router: &'a Router) -> Decision<'a> {
        let roll = self.roll();
        match &self.kind {
            Kind::Http => router.decide(&self.request(), &roll),
            Kind::Bytes => router.connect(&self.connection(), &roll),
            Kind::Hello(name) => router.connect(&self.connection().tls(TlsHello { sni: Some(name) }), &roll),
        }
    }

    /// The dice.
    pub fn roll(&self) -> Roll {
        Roll::pinned(self.roll)
    }

    /// The question as the library's own.
    pub fn request(&self) -> Request<'_> {
        let request = Request::new(&self.method, &self.authority, &self.path).scheme(self.scheme.unwrap_or_default());
        request.headers(&self.headers).port(self.port).address(self.address)
    }

    fn connection(&self) -> Connection<'_> {
        Connection::new(self.port).address(self.address)
    }

    /// The request target.
    pub fn target(&self) -> String {
        match self.scheme {
            Some(scheme) => format!("{scheme}://{}{}", self.authority, self.path),
            None => self.path.clone(),
        }
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Bytes => return b"\x01\x02 no protocol that anybody knows\r\n\r\n".to_vec(),
            Kind::Hello(name) => return client::hello(name),
            Kind::Http => {}
        }
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target(), self.authority);
        self.headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        if !matches!(self.method.as_str(), "GET" | "HEAD") {
            text.push_str("Content-Length: 0\r\n");
        }
        text.push_str("Connection: close\r\n\r\n");
        text.into_bytes()
    }

    /// What is asked of the destination: a status, or `hang`.
    pub fn wish(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == WISH).map(|(_, value)| value.as_str())
    }

    /// How many mirrors get a copy.
    pub fn copies(&self, world: &World) -> usize {
        let plan = world.plan();
        let gets = |at: u32| plan.clusters.get(at as usize).is_some_and(|cluster| cluster.takes_traffic());
        self.decide(&world.router).mirrors(&self.roll()).filter(|mirror| gets(mirror.cluster)).count()
    }

    /// Where it is dialled, if Envoy knows the port by this number.
    pub fn dialled(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }
}

/// What the destination is asked to do, so that retries and timeouts are seen.
fn wish(dice: &mut Dice, decision: &Decision<'_>) -> Option<&'static str> {
    let Outcome::Forward(to) = &decision.outcome else { return None };
    let forward: &Forward = to.forward()?;
    if forward.timeout.is_some() && dice.chance(30) {
        return Some("hang");
    }
    let written = forward.retry.as_ref().is_some_and(|retry| *retry != Retry::built_in());
    dice.chance(if written { 80 } else { 15 }).then(|| dice.one(&STATUSES))
}

fn address(dice: &mut Dice, listener: &Listener) -> IpAddr {
    let anywhere = ["10.96.0.1", "10.96.0.5", "10.255.0.1"].map(|text| text.parse().expect("it is an address"));
    let own: Vec<IpAddr> = listener.addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    dice.one(if own.is_empty() { &anywhere } else { &own })
}

fn listeners(plan: &Plan) -> impl Iterator<Item = &Listener> {
    plan.listeners.iter().map(|listener| &**listener)
}

/// A connection that carries no HTTP.
fn whole(dice: &mut Dice, plan: &Plan) -> Option<Ask> {
    let carries = |listener: &&Listener| {
        can_be_asked(listener) && listener.chains.iter().any(|chain| matches!(chain.target, Target::Tcp { .. }))
    };
    let listeners: Vec<&Listener> = listeners(plan).filter(carries).collect();
    if listeners.is_empty() {
        return None;
    }
    let listener = dice.one(&listeners);
    let names = ["raw", "a.tls.test", "b.tls.test", "tls.test", "A.TLS.test", "x.test"];
    let kind = if dice.chance(60) { Kind::Hello(dice.one(&names).into()) } else { Kind::Bytes };
    Some(Ask { kind, ..empty(address(dice, listener), listener.port) })
}

fn empty(address: IpAddr, port: u16) -> Ask {
    Ask {
        kind: Kind::Http,
        method: "GET".into(),
        scheme: None,
        authority: String::new(),
        path: "/".into(),
        headers: Vec::new(),
        roll: 0,
        port,
        address,
        aimed: None,
        broken: None,
    }
}

fn http(dice: &mut Dice, plan: &Plan) -> Ask {
    let mut targets: Vec<(&Listener, &VirtualHost, &Route)> = Vec::new();
    for listener in listeners(plan).filter(|listener| can_be_asked(listener)) {
        let tables = listener.chains.iter().filter_map(|chain| match &chain.target {
            Target::Http(table) => Some(table),
            Target::Tcp { .. } => None,
        });
        let hosts = tables.flat_map(|table| &table.hosts).filter(|host| !host.domains.is_empty());
        targets.extend(hosts.flat_map(|host| host.routes.iter().map(move |route| (listener, &**host, route))));
    }
    let written: Vec<_> = targets.iter().copied().filter(|(_, _, route)| route.origin.is_some()).collect();
    let pool = if written.is_empty() || dice.chance(8) { &targets } else { &written };
    if pool.is_empty() || dice.chance(6) {
        return stranger(dice, plan);
    }
    let (listener, host, route) = dice.one(pool);
    let mut ask = empty(address(dice, listener), listener.port);
    ask.roll = if dice.chance(10) { dice.number() } else { dice.below(250) as u64 };
    ask.aimed = route_name(host, route);
    hit_route(dice, &mut ask, host, &route.condition);
    if dice.chance(45) {
        ask.broken = break_one(dice, &mut ask, &route.condition);
    }
    if route.cors.is_some() && dice.chance(95) {
        cross_origin(dice, &mut ask, &route.condition);
    }
    adorn(dice, &mut ask, &route.condition);
    if let Action::Redirect(_) = route.action
        && !ask.authority.contains(':')
        && dice.chance(30)
    {
        ask.authority.push_str(dice.one(&[":80", ":8080", ":443"]));
    }
    // A target in absolute form must be a URL.
    if ask.authority.split_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err()) {
        ask.scheme = None;
    }
    // A blank would end the target.
    ask.path = ask.path.replace(' ', "+");
    ask
}

/// A request that nobody's rules are for.
fn stranger(dice: &mut Dice, plan: &Plan) -> Ask {
    let open = |listener: &&Listener| can_be_asked(listener) && matches!(listener.port, 80 | 8080);
    let port = listeners(plan).find(open).map_or(80, |listener| listener.port);
    let mut ask = empty(IpAddr::from([10, 255, 0, 1]), if dice.chance(35) { 4444 } else { port });
    ask.authority = dice.one(&["nobody.test", "web.nowhere", "10.1.2.3", "example.com"]).into();
    ask.path = dice.one(&["/", "/a", "/a?q=1"]).into();
    ask
}

fn satisfying(dice: &mut Dice, test: &ValueMatch) -> String {
    match test {
        ValueMatch::Exact(text) => text.to_string(),
        ValueMatch::Prefix(text) => format!("{text}{}", dice.one(&["", "x", "9"])),
        ValueMatch::Regex(pattern) => hit(pattern.as_str()).into(),
        ValueMatch::Present => dice.one(&["1", "", "yes"]).into(),
    }
}

fn hit_route(dice: &mut Dice, ask: &mut Ask, host: &VirtualHost, condition: &Condition) {
    let domain = dice.one(&host.domains);
    ask.authority = match domain.as_str() {
        "*" => "any.test".into(),
        text => text.replacen("*.", "b.", 1),
    };
    if let Some(test) = &condition.authority {
        ask.authority = satisfying(dice, test);
    }
    ask.path = match &condition.path {
        PathMatch::Any => dice.one(&["/", "/a", "/zz/top", "/api/v1"]).into(),
        PathMatch::Exact { path, ignore_case } => cased(dice, path, *ignore_case),
        PathMatch::Prefix { path, ignore_case } => format!("{}{}", cased(dice, path, *ignore_case), dice.one(&TAILS)),
        PathMatch::Regex(pattern) => hit(pattern.as_str()).into(),
    };
    if let Some(test) = &condition.method {
        let method = satisfying(dice, test);
        ask.method = if METHODS.contains(&method.as_str()) { method } else { "PUT".into() };
    }
    if let Some(test) = &condition.scheme {
        set_scheme(dice, ask, if test.holds(b"http") { "http" } else { "https" });
    }
    for test in &condition.headers {
        // Where a test is turned round, the header is just left out.
        if !test.invert {
            let value = satisfying(dice, &test.value);
            ask.headers.push((written(dice, &test.name), value));
        }
    }
    let pairs: Vec<String> =
        condition.query.iter().map(|test| format!("{}={}", test.name, satisfying(dice, &test.value))).collect();
    if !pairs.is_empty() {
        ask.path = format!("{}?{}", ask.path, pairs.join("&"));
    }
}

fn set_scheme(dice: &mut Dice, ask: &mut Ask, scheme: &'static str) {
    if dice.chance(50) {
        ask.scheme = Some(scheme);
    } else {
        ask.scheme = None;
        ask.headers.retain(|(name, _)| name != "x-forwarded-proto");
        ask.headers.push(("x-forwarded-proto".into(), scheme.into()));
    }
}

fn flipped(text: &str) -> String {
    let flip = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    text.chars().map(flip).collect()
}

fn cased(dice: &mut Dice, text: &str, ignore_case: bool) -> String {
    if ignore_case && dice.chance(50) { flipped(text) } else { text.into() }
}

/// A header's name in whatever case.
fn written(dice: &mut Dice, name: &str) -> String {
    if dice.chance(20) { name.to_ascii_uppercase() } else { name.into() }
}

/// Breaks one detail that a route asks for, and says which.
fn break_one(dice: &mut Dice, ask: &mut Ask, condition: &Condition) -> Option<&'static str> {
    let mut details = Vec::new();
    if condition.path != PathMatch::Any {
        details.extend(["path", "path"]);
    }
    details.extend(condition.method.as_ref().map(|_| "method"));
    details.extend(condition.scheme.as_ref().map(|_| "scheme"));
    details.extend(condition.authority.as_ref().map(|_| "authority"));
    details.extend(condition.headers.iter().map(|_| "header"));
    details.extend(condition.query.iter().map(|_| "query"));
    if details.is_empty() {
        return None;
    }
    let detail = dice.one(&details);
    match detail {
        "path" => break_path(dice, ask, &condition.path),
        "method" => ask.method = dice.one(&METHODS.map(String::from)),
        "scheme" => {
            let other =
                if condition.scheme.as_ref().is_some_and(|test| test.holds(b"https")) { "http" } else { "https" };
            set_scheme(dice, ask, other);
        }
        "authority" => ask.authority = dice.one(&[format!("{}:81", ask.authority), flipped(&ask.authority)]),
        "header" => break_header(dice, ask, condition),
        _ => break_query(dice, ask),
    }
    Some(detail)
}

fn break_path(dice: &mut Dice, ask: &mut Ask, test: &PathMatch) {
    let (path, query) = match ask.path.split_once('?') {
        Some((path, query)) => (path.to_string(), format!("?{query}")),
        None => (ask.path.clone(), String::new()),
    };
    let wanted = match test {
        PathMatch::Exact { path, .. } | PathMatch::Prefix { path, .. } => path.to_string(),
        PathMatch::Regex(_) | PathMatch::Any => path.clone(),
    };
    let shorter = wanted[..wanted.len() - 1].to_string();
    let shorter = if shorter.is_empty() { "/".to_string() } else { shorter };
    let other = match test {
        PathMatch::Exact { .. } => dice.one(&[format!("{wanted}x"), format!("{wanted}/"), flipped(&wanted), shorter]),
        PathMatch::Prefix { .. } => dice.one(&[format!("/x{wanted}"), flipped(&wanted), shorter]),
        PathMatch::Regex(_) | PathMatch::Any => {
            dice.one(&[format!("/z{path}"), flipped(&path), format!("{path}!"), shorter])
        }
    };
    ask.path = format!("{other}{query}");
}

fn break_header(dice: &mut Dice, ask: &mut Ask, condition: &Condition) {
    let test = dice.one(&condition.headers);
    if test.invert {
        let value = satisfying(dice, &test.value);
        ask.headers.push((written(dice, &test.name), value));
        return;
    }
    let Some(at) = ask.headers.iter().position(|(name, _)| name.eq_ignore_ascii_case(&test.name)) else { return };
    let value = ask.headers[at].1.clone();
    match dice.below(4) {
        0 => drop(ask.headers.remove(at)),
        1 => ask.headers[at].1 = flipped(&value),
        2 => ask.headers[at].1 = format!("{value},2"),
        _ => ask.headers[at].1 = format!("z{value}"),
    }
}

fn break_query(dice: &mut Dice, ask: &mut Ask) {
    let Some((path, query)) = ask.path.split_once('?') else { return };
    let pairs: Vec<&str> = query.split('&').collect();
    let pair = dice.one(&pairs);
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let other = match dice.below(4) {
        0 => String::new(),
        1 => format!("{name}=z{value}"),
        // Only the first one counts.
        2 => format!("{name}=z&{pair}"),
        _ => format!("{}={value}", flipped(name)),
    };
    ask.path = format!("{path}?{}", query.replacen(pair, &other, 1));
}

/// What a browser says of a page that is from elsewhere; at times it asks first.
fn cross_origin(dice: &mut Dice, ask: &mut Ask, condition: &Condition) {
    let origins = ["https://a.test", "https://a.test", "https://b.test", "https://a.test:8443", "https://c.test", ""];
    ask.headers.push((written(dice, "origin"), dice.one(&origins).into()));
    let may = condition.method.as_ref().is_none_or(|test| test.holds(b"OPTIONS"));
    if may && dice.chance(75) {
        ask.method = "OPTIONS".into();
    }
    if dice.chance(95) {
        ask.headers.push(("access-control-request-method".into(), dice.one(&["GET", "PUT", ""]).into()));
    }
    if dice.chance(40) {
        ask.headers.push(("access-control-request-headers".into(), "x-a, x-c".into()));
    }
}

/// What should not matter, and sometimes does.
fn adorn(dice: &mut Dice, ask: &mut Ask, condition: &Condition) {
    if condition.authority.is_none() && dice.chance(12) {
        ask.authority = flipped(&ask.authority);
    }
    if condition.authority.is_none() && !ask.authority.contains(':') && dice.chance(12) {
        ask.authority.push_str(":80");
    }
    if condition.path == PathMatch::Any && dice.chance(20) {
        let query = ask.path.split_once('?').map(|(_, query)| format!("?{query}")).unwrap_or_default();
        ask.path = format!("{}{query}", dice.one(&ODD_PATHS));
    }
    if dice.chance(12) {
        let query = if ask.path.contains('?') { "&" } else { "?" };
        ask.path.push_str(query);
        ask.path.push_str(dice.one(&["z=1", "q", "v=%31", "q=1&q=2", "V=1;v=1"]));
    }
    if dice.chance(15) {
        let (name, value) =
            dice.one(&[("x-a", "1"), ("x-b", "x"), ("canary_id", "0"), ("cookie", "c=1"), ("x-new", "old")]);
        ask.headers.push((name.into(), value.into()));
    }
    if dice.chance(6) {
        ask.headers.push(("x-forwarded-proto".into(), dice.one(&["https", "http"]).into()));
    }
    if condition.scheme.is_none() && dice.chance(5) {
        ask.scheme = Some(dice.one(&["http", "https"]));
    }
}
