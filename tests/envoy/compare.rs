//! What a real Envoy did, and how it differs from what the router said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use meshroute::plan::{Cluster, LoadBalancer, Retry};
use meshroute::{Decision, Outcome, has_one_value};
use serde_json::Value;

use crate::ask::{Ask, Kind};
use crate::client::Answer;
use crate::translate::{PASSTHROUGH, cluster_name, route_name};
use crate::upstream::{RESPONSE, Received, Upstreams};
use crate::world::World;

/// How much earlier than told Envoy's timers may fire: they know the time of the last turn of the loop.
const EARLY: Duration = Duration::from_millis(10);

/// All that was seen of one question.
#[derive(Default)]
pub struct Seen {
    /// What came back; `None` where the connection was closed without an answer.
    pub answer: Option<Answer>,
    /// Envoy's own account, by the fields of its access log.
    pub log: Value,
    /// What the destinations got, in order.
    pub received: Vec<Received>,
    /// The copies that mirrors got.
    pub shadows: Vec<Received>,
}

impl Seen {
    /// A field of the access log; empty where Envoy had nothing to say.
    pub fn told(&self, field: &str) -> &str {
        self.log[field].as_str().unwrap_or_default()
    }

    /// Envoy's response flags, one by one.
    pub fn flags(&self) -> Vec<&str> {
        self.told("flags").split(',').filter(|flag| !matches!(*flag, "" | "-")).collect()
    }

    /// The status that the client got; 0 for none.
    pub fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status)
    }
}

/// One question with all that is needed to judge its answer.
pub struct Comparison<'a> {
    pub number: usize,
    pub world: &'a World,
    pub ask: &'a Ask,
    pub decision: &'a Decision<'a>,
    pub seen: &'a Seen,
    pub upstreams: &'a Upstreams,
}

/// How the two differ, line by line.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, what: &str, router: impl ToString, envoy: impl ToString) {
        let (router, envoy) = (router.to_string(), envoy.to_string());
        if router != envoy {
            self.0.push(format!("{what}: the router says `{router}`, Envoy `{envoy}`"));
        }
    }
}

impl Comparison<'_> {
    /// How the two differ, line by line.
    pub fn differences(&self) -> Vec<String> {
        let mut all = Differences::default();
        match self.ask.kind {
            Kind::Http if !matches!(self.decision.outcome, Outcome::Connect(_)) => self.request(&mut all),
            _ => self.connection(&mut all),
        }
        all.0
    }

    fn request(&self, all: &mut Differences) {
        let (decision, seen) = (self.decision, self.seen);
        // Who must encrypt first is not routed yet.
        if decision.host.is_some_and(|host| !host.require_tls) {
            let route = decision.host.zip(decision.route).and_then(|(host, route)| route_name(host, route));
            all.check("route", route.unwrap_or_default(), seen.told("route"));
        }
        let flag = |flag: &str| seen.flags().contains(&flag);
        all.check("delay", decision.delay.is_some(), flag("DI"));
        if let (Some(delay), Some(answer)) = (decision.delay, &seen.answer) {
            all.check("delay passed", true, answer.took + EARLY >= delay);
        }
        match &decision.outcome {
            Outcome::Forward(to) => {
                all.check("cluster", cluster_name(self.number, &to.cluster.name), seen.told("cluster"));
                self.forwarded(to.cluster, all);
                self.repeated(to.forward().and_then(|forward| forward.retry.as_ref()), all);
            }
            Outcome::Passthrough => {
                all.check("cluster", PASSTHROUGH, seen.told("cluster"));
                self.sent(all);
            }
            Outcome::Redirect(code) => {
                all.check("status", code, seen.status());
                let location = seen.answer.as_ref().and_then(|answer| answer.header("location")).unwrap_or_default();
                all.check("location", decision.location(&self.ask.request()).unwrap_or_default(), location);
            }
            Outcome::Direct(direct) => {
                all.check("status", direct.status, seen.status());
                let expected = if self.ask.method == "HEAD" { Vec::new() } else { direct.body.clone() };
                let body = seen.answer.as_ref().map(|answer| answer.body.clone()).unwrap_or_default();
                all.check("body", expected.escape_ascii(), body.escape_ascii());
            }
            Outcome::Preflight(_) => {
                all.check("status", 200, seen.status());
                all.check("attempts", 0, seen.received.len());
            }
            Outcome::Refuse(refusal) => self.refused(refusal, all),
            Outcome::Blackhole | Outcome::Reset => all.check("answered", false, seen.answer.is_some()),
            other => all.check("outcome", format!("{other:?}"), "nothing that is known here"),
        }
        self.mirrored(all);
        self.answered(all);
    }

    fn refused(&self, refusal: &meshroute::Refusal<'_>, all: &mut Differences) {
        let seen = self.seen;
        all.check("status", refusal.status, seen.status());
        let flags: Vec<&str> = seen.flags().into_iter().filter(|flag| *flag != "DI").collect();
        all.check("flag", refusal.flag, flags.join(","));
        // What blocks everybody is a direct response to Envoy.
        if refusal.detail != "block_all" {
            all.check("details", refusal.detail, seen.told("details"));
        }
        if let Some(cluster) = refusal.cluster.filter(|cluster| cluster.exists) {
            all.check("cluster", cluster_name(self.number, &cluster.name), seen.told("cluster"));
        }
        if refusal.grpc.is_some() {
            let grpc = seen.answer.as_ref().and_then(|answer| answer.header("grpc-status"));
            // Only clients that speak gRPC are told so.
            all.check("gRPC status", "", grpc.unwrap_or_default());
        }
        all.check("attempts", 0, seen.received.len());
    }

    /// Which endpoints were tried, and what they got.
    fn forwarded(&self, cluster: &Cluster, all: &mut Differences) {
        for received in &self.seen.received {
            let known = |endpoint: &str| cluster.endpoints.iter().any(|known| known.to_string() == endpoint);
            let passed = cluster.policy.load_balancer == LoadBalancer::Passthrough && received.endpoint == PASSTHROUGH;
            all.check(&format!("endpoint {}", received.endpoint), true, passed || known(&received.endpoint));
        }
        self.sent(all);
    }

    /// What the destination got.
    fn sent(&self, all: &mut Differences) {
        let Some(received) = self.seen.received.first() else {
            all.check("what the destination got", "a request", "none");
            return;
        };
        let path: String = self.decision.path().iter().map(|byte| char::from(*byte)).collect();
        // Of what goes on as a whole nobody looks at the path.
        let path = if path.is_empty() { self.ask.target() } else { path };
        let authority = self.decision.authority().unwrap_or(&self.ask.authority);
        all.check("method", &self.ask.method, &received.method);
        all.check("path", path, &received.target);
        all.check("authority", authority, received.header("host").unwrap_or_default());
        let mut headers = self.ask.headers.clone();
        self.decision.edit_request(&mut headers);
        compare_headers("header", &headers, &received.headers, all);
    }

    /// How often it was tried.
    fn repeated(&self, retry: Option<&Retry>, all: &mut Differences) {
        let status = match self.ask.wish() {
            None => 200,
            Some("hang") => {
                all.check("status", 504, self.seen.status());
                all.check("timeout", true, self.seen.flags().contains(&"UT"));
                return;
            }
            Some(wish) => wish.parse().unwrap_or_default(),
        };
        all.check("status", status, self.seen.status());
        let again = retry.filter(|retry| is_repeated(retry, status)).map_or(0, |retry| retry.attempts);
        all.check("attempts", 1 + again, self.seen.received.len());
    }

    fn mirrored(&self, all: &mut Differences) {
        let mut wanted: Vec<&Cluster> = Vec::new();
        for mirror in self.decision.mirrors(&self.ask.roll()) {
            wanted.extend(self.world.plan().clusters.get(mirror.cluster as usize).map(|cluster| &**cluster));
        }
        wanted.retain(|cluster| cluster.takes_traffic());
        all.check("mirrors", wanted.len(), self.seen.shadows.len());
        for shadow in &self.seen.shadows {
            let serves =
                |cluster: &&Cluster| cluster.endpoints.iter().any(|known| known.to_string() == shadow.endpoint);
            match wanted.iter().position(serves) {
                Some(at) => drop(wanted.remove(at)),
                None => all.check("mirror", "another", &shadow.endpoint),
            }
        }
    }

    /// What became of the answer's headers.
    fn answered(&self, all: &mut Differences) {
        let Some(answer) = &self.seen.answer else { return };
        let goes_on = matches!(self.decision.outcome, Outcome::Forward(_) | Outcome::Passthrough);
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let lines = if goes_on && self.ask.wish() != Some("hang") { &RESPONSE[..] } else { &[] };
        let mut headers: Vec<(String, String)> = lines.iter().map(own).collect();
        self.decision.edit_response(&mut headers);
        self.decision.preflight(&self.ask.request(), &mut headers);
        compare_headers("response header", &headers, &answer.headers, all);
    }

    /// A connection that goes on as a whole.
    fn connection(&self, all: &mut Differences) {
        let seen = self.seen;
        match &self.decision.outcome {
            Outcome::Connect(to) => {
                // The weighted choice of a connection takes no number from outside.
                let siblings =
                    to.siblings().iter().filter_map(|to| self.world.plan().clusters.get(to.cluster as usize));
                let mut names = siblings.map(|cluster| cluster_name(self.number, &cluster.name));
                all.check(
                    &format!("cluster {}", seen.told("cluster")),
                    true,
                    names.any(|name| name == seen.told("cluster")),
                );
                let endpoint = self.upstreams.endpoint(seen.told("host"));
                let known = |endpoint: &String| to.cluster.endpoints.iter().any(|known| known.to_string() == *endpoint);
                all.check("goes on", to.cluster.takes_traffic(), endpoint.is_some());
                if to.siblings().len() == 1 && to.cluster.takes_traffic() {
                    all.check(&format!("endpoint {endpoint:?}"), true, endpoint.as_ref().is_some_and(known));
                }
            }
            Outcome::Passthrough => all.check("cluster", PASSTHROUGH, seen.told("cluster")),
            Outcome::Blackhole | Outcome::Reset => {
                all.check("goes on", false, self.upstreams.endpoint(seen.told("host")).is_some());
            }
            other => all.check("outcome", format!("{other:?}"), "nothing that is known here"),
        }
    }
}

/// Whether a policy makes another try of a status.
fn is_repeated(retry: &Retry, status: u16) -> bool {
    retry.on.iter().any(|on| match &**on {
        "5xx" => status >= 500,
        "gateway-error" => (502..=504).contains(&status),
        "retriable-4xx" => status == 409,
        "retriable-status-codes" => retry.statuses.contains(&status),
        _ => false,
    })
}

/// Headers that a proxy writes on its own account.
fn is_proxys_own(name: &str) -> bool {
    name.starts_with("x-envoy-")
        || name.starts_with("x-forwarded-")
        || matches!(
            name,
            "host"
                | "connection"
                | "content-length"
                | "content-type"
                | "date"
                | "location"
                | "server"
                | "transfer-encoding"
                | "x-request-id"
        )
}

fn compare_headers(what: &str, router: &[(String, String)], envoy: &[(String, String)], all: &mut Differences) {
    let (router, envoy) = (by_name(router), by_name(envoy));
    let names: std::collections::BTreeSet<&String> = router.keys().chain(envoy.keys()).collect();
    for name in names.into_iter().filter(|name| !is_proxys_own(name)) {
        let lines = |headers: &BTreeMap<String, Vec<String>>| match headers.get(name) {
            None => "absent".to_string(),
            Some(lines) => lines.iter().map(|line| format!("[{line}]")).collect(),
        };
        all.check(&format!("{what} `{name}`"), lines(&router), lines(&envoy));
    }
}

/// The lines of each header. Those of which Envoy keeps one value are joined.
fn by_name(headers: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.to_ascii_lowercase()).or_default().push(value.clone());
    }
    for (_, lines) in all.iter_mut().filter(|(name, lines)| has_one_value(name) && lines.len() > 1) {
        let joined: Vec<String> = lines.drain(..).filter(|line| !line.is_empty()).collect();
        lines.push(joined.join(","));
    }
    all
}

/// The case that a line of the access log is about.
pub fn case_of(line: &Value, sources: &BTreeMap<SocketAddr, usize>) -> Option<usize> {
    let by_header = line["case"].as_str().and_then(|text| text.parse().ok());
    by_header.or_else(|| sources.get(&line["from"].as_str()?.parse().ok()?).copied())
}
