//! What becomes of a request, in words.

use meshroute::plan::{Action, Cluster, Endpoint, Fault, Forward, LoadBalancer, Mirror, Retry, Route};
use meshroute::{Decision, Outcome, Plan, Request};

use super::Ask;

/// What becomes of it, in words.
pub fn outcome(decision: &Decision<'_>, request: &Request<'_>) -> String {
    match &decision.outcome {
        Outcome::Forward(to) => format!("goes to {}", cluster_words(to.cluster)),
        Outcome::Connect(to) if to.cluster.takes_traffic() => {
            format!("the connection goes to {}", cluster_words(to.cluster))
        }
        Outcome::Connect(to) => format!("the connection is closed: nobody serves {}", cluster_words(to.cluster)),
        Outcome::Redirect(code) => {
            format!("{code}, redirected to {}", decision.location(request).unwrap_or_default())
        }
        Outcome::Direct(answer) => format!("{}, answered by the proxy itself", answer.status),
        Outcome::Preflight(_) => "200, a preflight, answered by the proxy itself".to_string(),
        Outcome::Passthrough => "goes to the address that was dialled: nobody claims the host".to_string(),
        Outcome::Refuse(refusal) => {
            let why = match (refusal.flag, refusal.detail) {
                ("UH", _) => "no pod is ready for",
                ("NC", _) => "there is no such destination:",
                ("FI", _) => "a fault is injected",
                ("NR", "route_not_found") => "no route for it",
                (_, "block_all") => "nobody claims the host, and REGISTRY_ONLY lets nothing else out",
                (_, detail) => detail,
            };
            let to = refusal.cluster.map(|cluster| format!(" {}", cluster_words(cluster))).unwrap_or_default();
            let flag = if refusal.flag.is_empty() { String::new() } else { format!(" {}", refusal.flag) };
            format!("{}{flag}, {why}{to}", refusal.status)
        }
        Outcome::Blackhole => {
            "the connection is closed: nobody claims the address, and REGISTRY_ONLY lets nothing else out".into()
        }
        _ => "the connection is not accepted: nothing listens there".into(),
    }
}

fn cluster_words(cluster: &Cluster) -> String {
    match &*cluster.subset {
        "" => format!("{}:{}", cluster.host, cluster.port),
        subset => format!("subset {subset} of {}:{}", cluster.host, cluster.port),
    }
}

/// The endpoints, the first few by name.
pub fn endpoints(cluster: &Cluster) -> Vec<String> {
    const SHOWN: usize = 8;
    let line = |endpoint: &Endpoint| match &*endpoint.workload {
        "" => endpoint.to_string(),
        workload => format!("{workload}  {endpoint}"),
    };
    let mut lines: Vec<String> = cluster.endpoints.iter().take(SHOWN).map(line).collect();
    match cluster.endpoints.len().saturating_sub(SHOWN) {
        0 if lines.is_empty() && cluster.policy.load_balancer == LoadBalancer::Passthrough => {
            lines.push("the address that was dialled".into());
        }
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines
}

pub fn percent(part: u64, total: u64) -> String {
    let tenths = (part * 1_000 + total / 2).checked_div(total).unwrap_or_default();
    if tenths.is_multiple_of(10) { format!("{}%", tenths / 10) } else { format!("{}.{}%", tenths / 10, tenths % 10) }
}

/// A route in words: the field that it was written in.
pub fn name(route: &Route) -> String {
    match &route.origin {
        None => "the service's default route".to_string(),
        Some(origin) if route.name.is_empty() => format!("{}, {}", origin.written_in, origin.field),
        Some(origin) => format!("{}, {} ({})", origin.written_in, origin.field, route.name),
    }
}

/// The rule that a field is in: `spec.http[2]` of `spec.http[2].match[0]`.
pub fn rule_of(field: &str) -> Option<&str> {
    field.find(']').map(|end| &field[..=end])
}

/// What the destination gets otherwise than it was sent, and the client otherwise than it was answered.
pub fn changes(decision: &Decision<'_>, ask: &Ask) -> Vec<String> {
    let mut lines = Vec::new();
    if let Outcome::Forward(_) = &decision.outcome {
        let path = decision.path();
        if *path != *ask.path.as_bytes() {
            lines.push(line("path", &format!("{} becomes {}", ask.path, String::from_utf8_lossy(&path))));
        }
        if let Some(authority) = decision.authority().filter(|authority| *authority != ask.authority) {
            lines.push(line("authority", &format!("{} becomes {authority}", ask.authority)));
        }
        lines.extend(request_headers(decision, ask));
    }
    let mut answered: Vec<(String, String)> = Vec::new();
    decision.edit_response(&mut answered);
    lines.extend(answered.iter().map(|(name, value)| line("answer", &format!("+ {name}: {value}"))));
    lines
}

fn request_headers(decision: &Decision<'_>, ask: &Ask) -> Vec<String> {
    let mut after = ask.headers.clone();
    decision.edit_request(&mut after);
    let gone = ask.headers.iter().filter(|header| !after.contains(header)).map(|header| ('-', header));
    let new = after.iter().filter(|header| !ask.headers.contains(header)).map(|header| ('+', header));
    gone.chain(new).map(|(sign, (name, value))| line("header", &format!("{sign} {name}: {value}"))).collect()
}

/// What the route does to every request: faults, time limits, more tries, copies.
pub fn policy(route: &Route, plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = route.fault.iter().flat_map(faults).collect();
    if let Action::Forward(forward) = &route.action {
        lines.extend(limits(forward));
        lines.extend(forward.mirrors.iter().filter_map(|mirror| copy(mirror, plan)));
    }
    lines
}

fn faults(fault: &Fault) -> Vec<String> {
    let of = |per_million: u32| format!("for {} of the requests", percent(u64::from(per_million), 1_000_000));
    let delay = fault.delay.map(|delay| line("delay", &format!("{:?} {}", delay.duration, of(delay.per_million))));
    let abort = fault.abort.map(|abort| line("abort", &format!("{} {}", abort.status, of(abort.per_million))));
    delay.into_iter().chain(abort).collect()
}

/// Istio's built-in tries are not worth a word.
fn limits(forward: &Forward) -> Vec<String> {
    let timeout = forward.timeout.map(|timeout| line("timeout", &format!("{timeout:?}")));
    let retries = match &forward.retry {
        Some(retry) if *retry == Retry::built_in() => None,
        Some(retry) => {
            let each = retry.per_try_timeout.map(|each| format!(", {each:?} each")).unwrap_or_default();
            Some(line("retries", &format!("{}{each}, on {}", retry.attempts, retry.on.join(","))))
        }
        None => Some(line("retries", "none")),
    };
    timeout.into_iter().chain(retries).collect()
}

fn copy(mirror: &Mirror, plan: &Plan) -> Option<String> {
    let cluster = plan.clusters.get(mirror.cluster as usize)?;
    let share = percent(u64::from(mirror.per_million), 1_000_000);
    Some(line("mirror", &format!("{share} of the requests are copied to {}", cluster_words(cluster))))
}

fn line(what: &str, how: &str) -> String {
    format!("{what:<9} {how}")
}
