//! An answer on its way back, and what is noted about it for the client and the access log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Body as _;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use meshroute::adapter::http as adapter;
use meshroute::balance::Failure;
use meshroute::plan::Cluster;
use meshroute::{Decision, Outcome};

use crate::message;
use crate::pool::{Body, Failed};
use crate::record::{self, Record};
use crate::retry::Tried;
use crate::upstream::{Kept, Reached};
use crate::world::rule_key;

/// Why an answer is as it is, for the client to see.
pub const REASON: HeaderName = HeaderName::from_static("x-meshroute-reason");

/// An answer, and what is noted about it.
pub struct Answer {
    /// What the client gets.
    pub response: Response<Body>,
    /// Envoy's response flags.
    pub flags: String,
    /// Which rule, where it stands, and what it leads to.
    pub reason: Arc<str>,
    /// The same as a header, where it was made before.
    pub shown: Option<HeaderValue>,
    /// Who answered.
    pub upstream: Option<Reached>,
    /// When the head of its answer came, or no longer could.
    pub came: Option<Instant>,
    /// Envoy's response code details, where the flags don't say all; empty: they do.
    pub details: String,
    /// What it says, where it is made here.
    told: Option<String>,
}

impl Answer {
    /// An answer of the station's own.
    pub fn made_here(status: u16, flags: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        let mut response = Response::new(message::full(text.clone()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("meshroute"));
        if !response.body().is_end_stream() {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        Answer {
            response,
            flags: flags.into(),
            reason: Arc::default(),
            shown: None,
            upstream: None,
            came: None,
            details: String::new(),
            told: Some(text),
        }
    }

    /// Where the decision itself is the answer.
    pub fn of_decision(decision: &Decision<'_>, response: Response<Vec<u8>>) -> Self {
        let mut response = response.map(message::full);
        response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static("meshroute"));
        let flags = match decision.outcome {
            Outcome::Refuse(refusal) => refusal.flag.to_string(),
            _ => String::new(),
        };
        Answer {
            response,
            flags,
            reason: Arc::default(),
            shown: None,
            upstream: None,
            came: None,
            details: String::new(),
            told: None,
        }
    }

    /// Puts down what became of a request.
    pub fn note(&mut self, record: &mut Record) {
        record.flags.clone_from(&self.flags);
        record.reason.clone_from(&self.reason);
        record.upstream = self.upstream.take();
        let came_back = record.upstream.is_some() && (self.flags.is_empty() || self.flags == "URX");
        if record.details.is_empty() {
            record.details = match (&*self.details, came_back) {
                ("", true) => "via_upstream".into(),
                ("", false) => record::details(&self.flags).into(),
                (details, _) => details.to_string().into(),
            };
        }
    }

    /// Whether somebody was there for certain, and so has proved who they are: without a connection nobody has, and who does not
    /// answer in time may not have had one.
    pub fn was_met(&self) -> bool {
        let alone = |flag: &str| matches!(flag, "UF" | "UO" | "UT");
        self.upstream.is_some() && !self.flags.split(',').any(alone)
    }

    /// Whether the station itself gives it, for want of an upstream's.
    pub fn is_made_here(&self) -> bool {
        self.told.is_some()
    }

    /// Where that is so, and its client speaks gRPC: the same in gRPC's own words, as Envoy says it.
    pub fn for_grpc(mut self, asked: &HeaderMap) -> Self {
        let Some(text) = self.told.take().filter(|_| is_grpc(asked)) else { return self };
        let status = self.response.status().as_u16();
        let (parts, _) = adapter::made_here(status, text.trim_end(), true).into_parts();
        *self.response.status_mut() = parts.status;
        *self.response.body_mut() = message::full(Vec::new());
        for (name, value) in &parts.headers {
            self.response.headers_mut().insert(name, value.clone());
        }
        self
    }

    /// With a reason.
    pub fn because(mut self, reason: impl Into<Arc<str>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// A refusal that says why.
    pub fn refused(status: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Answer::made_here(status, "", format!("{text}\n")).because(text)
    }

    /// After it the connection ends.
    pub fn closing(mut self) -> Self {
        self.response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        self
    }

    /// With what was noted, for the client to see.
    pub fn labelled(mut self) -> Response<Body> {
        let headers = self.response.headers_mut();
        if !self.flags.is_empty() {
            message::insert(headers, HeaderName::from_static("x-meshroute-flags"), &self.flags);
        }
        // Whoever refused it further on has said why.
        match self.shown {
            _ if headers.contains_key(&REASON) => {}
            Some(shown) => drop(headers.insert(REASON, shown)),
            None => message::insert(headers, REASON, &self.reason),
        }
        self.response
    }
}

fn is_grpc(asked: &HeaderMap) -> bool {
    let kind = asked.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+', ..]))
}

/// The answer for how the last try ended, and when. `flag`: what else is to be noted about it.
pub fn arrived(
    tried: Tried,
    (reached, came): (Reached, Instant),
    deadline: Option<Instant>,
    flag: &'static str,
) -> Answer {
    let mut answer = match tried {
        Ok((mut response, mut held)) => {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // The request is not over when this answer is.
                let extensions = response.extensions_mut();
                let connection: Option<Kept> = extensions.remove();
                extensions.insert(Kept::new((connection, std::mem::take(&mut held))));
            }
            let timed = |body| message::Timed::new(body, deadline.map(Into::into), held);
            let response = response.map(|body| Body::Arriving(Box::new(timed(body))));
            Answer {
                response,
                flags: flag.to_string(),
                reason: Arc::default(),
                shown: None,
                upstream: None,
                came: None,
                details: String::new(),
                told: None,
            }
        }
        Err(failure) => failed(&failure, flag),
    };
    (answer.upstream, answer.came) = (Some(reached), Some(came));
    answer
}

fn failed(failed: &Failed, also: &str) -> Answer {
    let before = "upstream connect error or disconnect/reset before headers. reset reason:";
    let why = if failed.why.is_empty() { String::new() } else { format!(", transport failure reason: {}", failed.why) };
    let (status, flag, text) = match failed.kind {
        Failure::TimedOut => (504, "UT", "upstream request timeout".to_string()),
        Failure::Connect => (503, "UF", format!("{before} remote connection failure{why}")),
        Failure::Overflow => (503, "UO", format!("{before} overflow")),
        _ => (503, "UC", format!("{before} connection termination")),
    };
    let flags: Vec<&str> = [flag, also].into_iter().filter(|flag| !flag.is_empty()).collect();
    let mut answer = Answer::made_here(status, &flags.join(","), text);
    if failed.kind == Failure::Overflow {
        answer.response.headers_mut().insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    if !failed.why.is_empty() {
        let why = failed.why.replace(char::is_whitespace, "_");
        answer.details = format!("upstream_reset_before_response_started{{remote_connection_failure|{why}}}");
    }
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
