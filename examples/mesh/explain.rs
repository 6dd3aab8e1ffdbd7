//! One request that nobody sent: where it would go, and why.
//!
//! Knows how a question stands in an address (`?url=...&header=...`). The story is the library's.

use std::collections::BTreeMap;

use hyper::http::uri::Authority;
use meshroute::plan::{Cluster, Unmatched};
use meshroute::{Connection, Explanation, Outcome, Plan, Roll, Router, TlsHello};
use serde::Serialize;

use crate::answer;
use crate::question::ip;

/// A question, as it stands in an address.
#[derive(Debug, Default)]
pub struct Asked {
    /// Who asks: `NAMESPACE/POD`, or `gateway`.
    pub from: String,
    /// Whether the answer is wanted as data.
    pub as_json: bool,
    url: String,
    method: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    /// Reads what stands behind the question mark.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut asked = Asked { method: "GET".into(), ..Asked::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match key {
                "from" => asked.from = value,
                "url" => asked.url = value,
                "method" => asked.method = value,
                "format" => asked.as_json = value == "json",
                "header" => {
                    let (name, value) = value.split_once(':').ok_or("a header is NAME:VALUE")?;
                    asked.headers.push((name.trim().to_string(), value.trim().to_string()));
                }
                _ => return Err(format!("`{key}` is not known; there is from, url, method, header and format")),
            }
        }
        if !asked.url.contains("://") {
            asked.url.insert_str(0, "http://");
        }
        Ok(asked)
    }
}

/// What became of the question.
#[derive(Debug, Serialize)]
pub struct Story {
    /// Each step on the way, the last one for the outcome.
    pub steps: Vec<String>,
    /// The rule, where it stands, and what it leads to, in one line.
    pub reason: String,
    /// The status, where the mesh itself answers.
    pub status: Option<u16>,
    /// Envoy's flag, where there is one.
    pub flag: String,
    /// Where it may go: each destination of the rule with its weight.
    pub destinations: Vec<Share>,
}

/// One of several destinations.
#[derive(Debug, Serialize)]
pub struct Share {
    /// The cluster, by Istio's name.
    pub cluster: String,
    /// Its weight.
    pub weight: u32,
    /// The pods behind it.
    pub pods: Vec<String>,
}

/// Tells the story of a request. Where there are weights, the dice are thrown.
pub fn explain(asked: &Asked, router: &Router, places: &BTreeMap<String, String>) -> Result<Story, String> {
    let uri: hyper::Uri = asked.url.parse().map_err(|error| format!("`{}`: {error}", asked.url))?;
    let authority = uri.authority().ok_or_else(|| format!("`{}` names no host", asked.url))?;
    let request = request(asked, &uri, authority, router);
    let explanation = told(router.plan(), &request);
    let decision = &explanation.decision;
    let (status, flag) = match &decision.outcome {
        Outcome::Refuse(refusal) => (Some(refusal.status), refusal.flag.to_string()),
        Outcome::Redirect(status) => (Some(*status), String::new()),
        Outcome::Direct(direct) => (Some(direct.status), String::new()),
        _ => (None, String::new()),
    };
    let steps = explanation.to_string().lines().map(str::to_string).collect();
    let reason = answer::reason(places, decision);
    Ok(Story { steps, reason, status, flag, destinations: shares(router, decision) })
}

/// The request as it would come in: the same question as [`question::asked`] asks.
fn request<'a>(
    asked: &'a Asked,
    uri: &'a hyper::Uri,
    authority: &'a Authority,
    router: &Router,
) -> meshroute::Request<'a> {
    let https = uri.scheme_str() == Some("https");
    let (scheme, default) = if https { ("https", 443) } else { ("http", 80) };
    // A gateway takes what comes to a port, whatever its address. To a sidecar it is what DNS would have said.
    let address = match is_gateway(router.plan()) {
        true => None,
        false => ip(authority.host()).or_else(|| router.lookup(authority.host()).first().copied()),
    };
    let sent = authority.as_str();
    let sent = sent.rsplit_once('@').map_or(sent, |(_, host)| host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = meshroute::Request::new(&asked.method, sent, path)
        .scheme(scheme)
        .headers(&asked.headers)
        .port(authority.port_u16().unwrap_or(default))
        .address(address);
    // No client names an address in its hello.
    let sni = Some(authority.host()).filter(|host| ip(host).is_none());
    request.tls = https.then_some(TlsHello { sni });
    request
}

/// Nothing but a gateway leaves alone what no listener of it takes.
fn is_gateway(plan: &Plan) -> bool {
    plan.unmatched == Unmatched::Reset
}

/// At a gateway TLS has ended, or is passed on, as its chains say. To a sidecar it is a connection as a whole; only a program
/// that leaves the encryption to its proxy sends it such a request.
fn told<'a>(plan: &'a Plan, request: &meshroute::Request<'a>) -> Explanation<'a> {
    let roll = Roll::random();
    if request.tls.is_none() || is_gateway(plan) {
        return plan.explain(request, &roll);
    }
    let mut connection = Connection::new(request.port).address(request.address);
    connection.tls = request.tls;
    let whole = plan.explain_connection(&connection, &roll);
    if !matches!(whole.decision.outcome, Outcome::Reset) {
        return whole;
    }
    let mut decrypted = *request;
    decrypted.tls = None;
    plan.explain(&decrypted, &roll)
}

fn shares(router: &Router, decision: &meshroute::Decision<'_>) -> Vec<Share> {
    let share = |cluster: &Cluster, weight: u32| {
        let pods = cluster.endpoints.iter().map(|endpoint| endpoint.workload.to_string()).collect();
        Share { cluster: cluster.name.to_string(), weight, pods }
    };
    if let Outcome::Connect(to) = &decision.outcome {
        return vec![share(to.cluster, 1)];
    }
    let Some(meshroute::plan::Action::Forward(forward)) = decision.route.map(|route| &route.action) else {
        return Vec::new();
    };
    let known = |destination: &meshroute::plan::Destination| {
        Some(share(router.plan().clusters.get(destination.cluster as usize)?, destination.weight))
    };
    forward.destinations.iter().filter_map(known).collect()
}

/// Undoes `%41`; what is not that stays.
pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match (*first, code.and_then(|code| u8::from_str_radix(code, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
