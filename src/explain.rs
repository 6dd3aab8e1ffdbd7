//! THE DEFINITION of what a plan means: walk it in order with plain code, and say which route wins and why each
//! earlier one lost.
//!
//! No index, no cleverness. Property tests and the fuzzer hold [`Router`](crate::Router) to it. It changes only with
//! a citation of what Istio or Envoy does.

use std::fmt;

use crate::decision::{Decision, Outcome, refused_path, unclaimed, unmatched};
use crate::name::{HostPattern, host_of};
use crate::path::as_written;
use crate::plan::{Destination, HeaderMatch, Origin, PathMatch, QueryMatch, Route};
use crate::plan::{HttpTable, Listener, Miss, Plan, Target, ValueMatch, VirtualHost};
use crate::request::{Connection, Question, Request, Room};
use crate::roll::Roll;

/// A decision, and the way to it.
///
/// Printed with `{}` it is one line for each step, the last one for the outcome.
#[derive(Debug)]
#[non_exhaustive]
pub struct Explanation<'a> {
    /// What [`Router::decide`](crate::Router::decide) answers as well.
    pub decision: Decision<'a>,
    /// Which listener, which virtual host, and each route up to the one that won.
    pub steps: Vec<Step<'a>>,
}

/// One step of an explanation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// No listener takes the port and address.
    NoListener {
        /// The port dialled.
        port: u16,
    },
    /// A listener took it.
    Listener(&'a Listener),
    /// The listener has no chain for such a connection.
    NoChain,
    /// The connection goes on as a whole: the listener does not look into it.
    Opaque,
    /// This tcp or tls rule says where the connection goes; `None`: the service has none, or none that applies.
    Passed(Option<&'a Origin>),
    /// The path has no normal form.
    BadPath(String),
    /// No virtual host has this name among its domains.
    NoHost {
        /// The name, lower-cased, without port.
        host: String,
        /// The table in which it was looked for.
        table: &'a HttpTable,
    },
    /// A virtual host claimed it, by one of its domains.
    Host(&'a VirtualHost, &'a HostPattern),
    /// A route did not take it.
    Lost {
        /// The route.
        route: &'a Route,
        /// What it asks for first that the request does not have.
        miss: Miss<'a>,
        /// What the request has instead, in words.
        because: String,
    },
    /// This route took it.
    Won(&'a Route),
    /// No route took it.
    NoRoute,
}

impl Plan {
    /// Says where a request goes and why, step by step.
    ///
    /// Same answer as [`Router::decide`](crate::Router::decide), found by walking the plan in order. Allocates freely.
    pub fn explain<'a>(&'a self, request: &Request<'a>, roll: &Roll) -> Explanation<'a> {
        let mut steps = Vec::new();
        let decision = self.walk(request, roll, &mut steps);
        Explanation { decision, steps }
    }

    /// Says where a whole connection goes and why, step by step.
    ///
    /// Same answer as [`Router::connect`](crate::Router::connect). Allocates freely.
    pub fn explain_connection(&self, connection: &Connection<'_>, roll: &Roll) -> Explanation<'_> {
        let Some(listener) = self.listener(connection) else {
            let steps = vec![Step::NoListener { port: connection.port }];
            return Explanation { decision: unmatched(self), steps };
        };
        let mut steps = vec![Step::Listener(listener)];
        let decision = match listener.chain(connection, false).map(|chain| &chain.target) {
            Some(Target::Tcp { destinations, origin }) => self.pass_on(destinations, origin.as_ref(), roll, &mut steps),
            other => {
                steps.push(Step::NoChain);
                if other.is_some() { Decision::without_route(Outcome::Reset) } else { unmatched(self) }
            }
        };
        Explanation { decision, steps }
    }

    fn walk<'a>(&'a self, request: &Request<'a>, roll: &Roll, steps: &mut Vec<Step<'a>>) -> Decision<'a> {
        let connection = Connection { port: request.port, address: request.address, tls: request.tls };
        let Some(listener) = self.listener(&connection) else {
            steps.push(Step::NoListener { port: request.port });
            return unmatched(self);
        };
        steps.push(Step::Listener(listener));
        match listener.chain(&connection, true).map(|chain| &chain.target) {
            Some(Target::Http(table)) => self.walk_table(table, request, roll, steps),
            Some(Target::Tcp { destinations, origin }) => self.pass_on(destinations, origin.as_ref(), roll, steps),
            None => {
                steps.push(Step::NoChain);
                unmatched(self)
            }
        }
    }

    fn pass_on<'a>(
        &'a self,
        destinations: &'a [Destination],
        origin: Option<&'a Origin>,
        roll: &Roll,
        steps: &mut Vec<Step<'a>>,
    ) -> Decision<'a> {
        steps.push(Step::Opaque);
        steps.push(Step::Passed(origin));
        Decision::of_connection(self, destinations, origin, roll)
    }

    fn walk_table<'a>(
        &'a self,
        table: &'a HttpTable,
        request: &Request<'a>,
        roll: &Roll,
        steps: &mut Vec<Step<'a>>,
    ) -> Decision<'a> {
        let (written, mut room) = (as_written(request.path), Room::default());
        let question = match Question::new(request, written, &mut room) {
            Ok(question) => question,
            Err(error) => {
                steps.push(Step::BadPath(error.to_string()));
                return refused_path(&error);
            }
        };
        let name = host_of(request.authority).to_ascii_lowercase();
        let Some((host, domain)) = claimant(table, name.as_bytes()) else {
            steps.push(Step::NoHost { host: name, table });
            return unclaimed(table, request, written);
        };
        steps.push(Step::Host(host, domain));
        let route = winner(host, &question, steps);
        steps.push(route.map_or(Step::NoRoute, Step::Won));
        Decision::of(self, host, route, request, written, &question, roll)
    }

    /// The listener for port and address: one bound to the address before one for any.
    fn listener(&self, connection: &Connection<'_>) -> Option<&Listener> {
        let of_port = || self.listeners.iter().filter(|listener| listener.port == connection.port);
        let bound = |address| of_port().find(|listener| listener.addresses.contains(&address));
        connection
            .address
            .and_then(bound)
            .or_else(|| of_port().find(|listener| listener.addresses.is_empty()))
            .map(|listener| &**listener)
    }
}

/// The virtual host that claims a name: an exact domain, then the longest wildcard that leaves at least one byte for
/// its `*`, then `*` alone (Envoy, `RouteMatcher::findVirtualHost`).
fn claimant<'a>(table: &'a HttpTable, name: &[u8]) -> Option<(&'a VirtualHost, &'a HostPattern)> {
    let fits = |domain: &HostPattern| {
        let suffix = domain.suffix().as_bytes();
        match domain.is_wildcard() {
            false => name == suffix,
            true => suffix.is_empty() || (name.len() > suffix.len() && name.ends_with(suffix)),
        }
    };
    let domains = table.hosts.iter().flat_map(|host| host.domains.iter().map(move |domain| (&**host, domain)));
    domains.filter(|(_, domain)| fits(domain)).min_by(|(_, a), (_, b)| a.by_specificity(b))
}

/// The first route that holds, noting those before it.
fn winner<'a>(host: &'a VirtualHost, question: &Question<'_>, steps: &mut Vec<Step<'a>>) -> Option<&'a Route> {
    for route in host.routes.iter() {
        let Some(miss) = route.condition.miss(question) else { return Some(route) };
        steps.push(Step::Lost { route, miss, because: because(&miss, question) });
    }
    None
}

/// What the request has instead of what was asked for.
fn because(miss: &Miss<'_>, question: &Question<'_>) -> String {
    match miss {
        Miss::Path(test) => format!("the path is `{}`, not {}", text(question.path_only()), PathWords(test)),
        Miss::Method(test) => format!("the method is `{}`, not {}", question.request.method, ValueWords(test)),
        Miss::Scheme(test) => format!("the scheme is `{}`, not {}", question.scheme(), ValueWords(test)),
        Miss::Authority(test) => {
            format!("the authority is `{}`, not {}", question.request.authority, ValueWords(test))
        }
        Miss::Header(test) => header_words(test, question),
        Miss::Query(test) => query_words(test, question),
    }
}

fn header_words(test: &HeaderMatch, question: &Question<'_>) -> String {
    let mut lines = Vec::new();
    question.any_header(&test.name, &mut |line| {
        lines.push(format!("`{}`", text(line)));
        false
    });
    let name = &test.name;
    match (test.invert, lines.is_empty()) {
        (false, true) => format!("there is no header `{name}`"),
        (false, false) => format!("the header `{name}` is {}, not {}", lines.join(" and "), ValueWords(&test.value)),
        (true, false) if test.value == ValueMatch::Present => format!("there is a header `{name}`"),
        (true, false) => {
            format!("the header `{name}` is {}, and must not be {}", lines.join(" and "), ValueWords(&test.value))
        }
        (true, true) => {
            format!(
                "the header `{name}` is missing, which counts as empty, and must not be {}",
                ValueWords(&test.value)
            )
        }
    }
}

fn query_words(test: &QueryMatch, question: &Question<'_>) -> String {
    let name = &test.name;
    match question.query(name.as_bytes()) {
        None => format!("there is no query parameter `{name}`"),
        Some(value) => {
            format!("the query parameter `{name}` is `{}`, not {}", text(value), ValueWords(&test.value))
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct ValueWords<'a>(&'a ValueMatch);

impl fmt::Display for ValueWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ValueMatch::Exact(text) => write!(f, "exactly `{text}`"),
            ValueMatch::Prefix(text) => write!(f, "something that begins with `{text}`"),
            ValueMatch::Regex(pattern) => write!(f, "a full match of `{}`", pattern.as_str()),
            ValueMatch::Present => f.write_str("there at all"),
        }
    }
}

struct PathWords<'a>(&'a PathMatch);

impl fmt::Display for PathWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = |ignored: bool| if ignored { ", whatever its case" } else { "" };
        match self.0 {
            PathMatch::Any => f.write_str("any path"),
            PathMatch::Exact { path, ignore_case } => write!(f, "exactly `{path}`{}", case(*ignore_case)),
            PathMatch::Prefix { path, ignore_case } => {
                write!(f, "something that begins with `{path}`{}", case(*ignore_case))
            }
            PathMatch::Regex(pattern) => write!(f, "a full match of `{}`", pattern.as_str()),
        }
    }
}

/// A tcp or tls rule in words: where it was written.
fn describe_rule(origin: Option<&Origin>) -> String {
    match origin {
        None => "the service's default, no rule".to_string(),
        Some(origin) => format!("{}, {}", origin.written_in, origin.field),
    }
}

/// A route in words: where it was written, and its name if it has one.
pub(crate) fn describe(route: &Route) -> String {
    match &route.origin {
        None => "the service's default route".to_string(),
        Some(origin) if route.name.is_empty() => format!("{}, {}", origin.written_in, origin.field),
        Some(origin) => format!("{}, {} ({})", origin.written_in, origin.field, route.name),
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::NoListener { port } => write!(f, "nothing listens on port {port} for this address"),
            Step::Listener(listener) if listener.addresses.is_empty() => write!(f, "port {} is served", listener.port),
            Step::Listener(listener) => {
                write!(f, "port {} is served for {}", listener.port, listener.addresses[0])
            }
            Step::NoChain => f.write_str("the listener does not take such a connection"),
            Step::Opaque => f.write_str("the listener passes the connection on without looking into it"),
            Step::Passed(origin) => write!(f, "won: {}", describe_rule(*origin)),
            Step::BadPath(why) => f.write_str(why),
            Step::NoHost { host, table } => write!(f, "no virtual host of table `{}` claims `{host}`", table.name),
            Step::Host(host, domain) => write!(f, "virtual host `{}` claims it by `{domain}`", host.name),
            Step::Lost { route, because, .. } => write!(f, "lost: {}: {because}", describe(route)),
            Step::Won(route) => write!(f, "won: {}", describe(route)),
            Step::NoRoute => f.write_str("no route of the virtual host holds"),
        }
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "{}", OutcomeWords(&self.decision.outcome))
    }
}

struct OutcomeWords<'a>(&'a Outcome<'a>);

impl fmt::Display for OutcomeWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Outcome::Forward(to) | Outcome::Connect(to) => {
                write!(f, "goes to {}, endpoints", to.cluster.name)?;
                to.cluster.endpoints.iter().try_for_each(|endpoint| write!(f, " {endpoint}"))
            }
            Outcome::Redirect(code) => write!(f, "is redirected, {code}"),
            Outcome::Direct(answer) => write!(f, "is answered here, {}", answer.status),
            Outcome::Preflight(_) => f.write_str("is answered here, 200: a preflight"),
            Outcome::Passthrough => f.write_str("goes to the address that was dialled"),
            Outcome::Refuse(refusal) => write!(f, "is refused: {refusal}"),
            Outcome::Blackhole => f.write_str("is accepted and closed"),
            Outcome::Reset => f.write_str("is not accepted"),
        }
    }
}
