//! How often each thing that a rule can say, and each way in which a request can end, occurred.

use std::collections::BTreeMap;
use std::fmt;

use meshroute::{Decision, Outcome};
use serde_json::Value;

use crate::ask::{Ask, Kind};
use crate::compare::Seen;
use crate::world::World;

/// What must occur so often that a mistake in it would be seen.
const ENOUGH: usize = 20;
/// The number of cases from which on that is asked for.
const FULL: usize = 2000;
/// All that must occur.
const WANTED: [&str; 86] = [
    "match uri",
    "match ignoreUriCase",
    "match method",
    "match scheme",
    "match authority",
    "match headers",
    "match withoutHeaders",
    "match queryParams",
    "match port",
    "match gateways",
    "match sourceLabels",
    "match sourceNamespace",
    "match nothing",
    "operator uri exact",
    "operator uri prefix",
    "operator uri regex",
    "operator method exact",
    "operator method prefix",
    "operator method regex",
    "operator scheme exact",
    "operator scheme prefix",
    "operator scheme regex",
    "operator authority exact",
    "operator authority prefix",
    "operator authority regex",
    "operator withoutHeaders present",
    "result blackhole",
    "operator headers exact",
    "operator headers prefix",
    "operator headers regex",
    "operator headers present",
    "operator withoutHeaders exact",
    "operator withoutHeaders prefix",
    "operator withoutHeaders regex",
    "operator queryParams exact",
    "operator queryParams prefix",
    "operator queryParams regex",
    "action one destination",
    "action weighted destinations",
    "action redirect",
    "action redirect uri",
    "action redirect prefixRewrite",
    "action redirect authority",
    "action redirect scheme",
    "action redirect port",
    "action redirect derivePort",
    "action redirect redirectCode",
    "action directResponse",
    "action directResponse body",
    "action rewrite uri",
    "action rewrite authority",
    "action rewrite uriRegexRewrite",
    "action timeout",
    "action retries",
    "action mirror",
    "action mirrors",
    "action fault delay",
    "action fault abort",
    "action corsPolicy",
    "headers request set",
    "headers request add",
    "headers request remove",
    "headers response set",
    "headers response add",
    "headers response remove",
    "destination headers request set",
    "destination headers request add",
    "destination headers request remove",
    "destination headers response set",
    "result to a cluster",
    "result passed through",
    "result redirect",
    "result redirect to https",
    "result direct response",
    "result 404 NR",
    "result 503 NC",
    "result 503 UH",
    "result 502 -",
    "result fault FI",
    "result delayed",
    "result retried",
    "result timed out",
    "result mirrored",
    "result preflight",
    "result origin let in",
    "result connection to a cluster",
];

/// Counters by what they count.
#[derive(Default)]
pub struct Coverage {
    counts: BTreeMap<String, usize>,
    cases: usize,
    near_misses: usize,
}

impl Coverage {
    /// Counts one case.
    pub fn count(&mut self, world: &World, ask: &Ask, decision: &Decision<'_>, seen: &Seen) {
        self.cases += 1;
        self.near_misses += usize::from(is_near_miss(ask, decision));
        if let Some(detail) = ask.broken {
            self.add(format!("broken {detail}"));
        }
        if let Some(origin) = decision.route.and_then(|route| route.origin.as_ref()) {
            let rule = world.rule(&origin.resource.name, origin.rule);
            match origin.block {
                Some(block) => self.count_block(&rule["match"][block as usize]),
                None => self.add("match nothing"),
            }
            self.count_action(rule);
        }
        self.count_result(ask, decision, seen);
    }

    fn add(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn count_block(&mut self, block: &Value) {
        for (field, value) in block.as_object().into_iter().flatten() {
            self.add(format!("match {field}"));
            let tests: Vec<&Value> = match field.as_str() {
                "uri" | "method" | "scheme" | "authority" => vec![value],
                "headers" | "withoutHeaders" | "queryParams" => {
                    value.as_object().into_iter().flatten().map(|pair| pair.1).collect()
                }
                _ => Vec::new(),
            };
            for test in tests {
                let operator = test.as_object().and_then(|test| test.keys().next());
                self.add(format!("operator {field} {}", operator.map_or("present", String::as_str)));
            }
        }
    }

    fn count_action(&mut self, rule: &Value) {
        for (field, value) in rule.as_object().into_iter().flatten() {
            match field.as_str() {
                "match" => {}
                "headers" => self.count_headers("", value),
                "route" => self.count_destinations(value.as_array().map_or(&[], Vec::as_slice)),
                "rewrite" | "fault" => self.count_fields(&format!("action {field}"), value),
                "redirect" | "directResponse" => {
                    self.add(format!("action {field}"));
                    self.count_fields(&format!("action {field}"), value);
                }
                _ => self.add(format!("action {field}")),
            }
        }
    }

    fn count_fields(&mut self, of: &str, value: &Value) {
        value.as_object().into_iter().flatten().for_each(|(field, _)| self.add(format!("{of} {field}")));
    }

    fn count_destinations(&mut self, routes: &[Value]) {
        self.add(if routes.len() > 1 { "action weighted destinations" } else { "action one destination" });
        routes.iter().for_each(|route| self.count_headers("destination ", &route["headers"]));
    }

    fn count_headers(&mut self, whose: &str, headers: &Value) {
        for (side, edits) in headers.as_object().into_iter().flatten() {
            self.count_fields(&format!("{whose}headers {side}"), edits);
        }
    }

    fn count_result(&mut self, ask: &Ask, decision: &Decision<'_>, seen: &Seen) {
        let result = match &decision.outcome {
            Outcome::Forward(_) => "to a cluster".into(),
            Outcome::Redirect(_) if decision.route.is_none() => "redirect to https".into(),
            Outcome::Redirect(_) if decision.host.is_some_and(|host| host.require_tls) => "redirect to https".into(),
            Outcome::Redirect(_) => "redirect".into(),
            Outcome::Direct(_) => "direct response".into(),
            Outcome::Passthrough => "passed through".into(),
            Outcome::Refuse(refusal) if refusal.flag == "FI" => "fault FI".into(),
            Outcome::Refuse(refusal) => {
                format!("{} {}", refusal.status, if refusal.flag.is_empty() { "-" } else { refusal.flag })
            }
            Outcome::Preflight(_) => "preflight".into(),
            Outcome::Connect(_) => "connection to a cluster".into(),
            Outcome::Blackhole => "blackhole".into(),
            Outcome::Reset => "reset".into(),
            _ => "something new".to_string(),
        };
        self.add(format!("result {result}"));
        let extra = [
            ("result delayed", decision.delay.is_some()),
            ("result timed out", ask.wish() == Some("hang")),
            ("result retried", ask.wish() != Some("hang") && seen.received.len() > 1),
            ("result mirrored", !seen.shadows.is_empty()),
            ("result origin let in", says_the_origin(seen) && !matches!(decision.outcome, Outcome::Preflight(_))),
        ];
        extra.into_iter().filter(|(_, is)| *is).for_each(|(what, _)| self.add(what));
    }

    /// What occurred too seldom, if there were enough cases to say so.
    pub fn gaps(&self) -> Vec<String> {
        if self.cases < FULL {
            return Vec::new();
        }
        let count = |what: &str| self.counts.get(what).copied().unwrap_or_default();
        let seldom = WANTED.iter().filter(|what| count(what) < ENOUGH);
        let mut gaps: Vec<String> = seldom.map(|what| format!("`{what}` occurred {} times", count(what))).collect();
        if self.near_misses * 5 < self.cases {
            gaps.push(format!("{} of {} requests miss a rule by one detail", self.near_misses, self.cases));
        }
        gaps
    }
}

fn says_the_origin(seen: &Seen) -> bool {
    seen.answer.as_ref().is_some_and(|answer| answer.header("access-control-allow-origin").is_some())
}

/// Whether one detail was broken, and that cost the route that was aimed at.
fn is_near_miss(ask: &Ask, decision: &Decision<'_>) -> bool {
    let taken = decision.host.zip(decision.route).and_then(|(host, route)| crate::translate::route_name(host, route));
    ask.kind == Kind::Http && ask.broken.is_some() && taken != ask.aimed
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:>6} {what}"))?;
        writeln!(f, "{:>6} requests, {} of which miss a rule by one detail", self.cases, self.near_misses)
    }
}
