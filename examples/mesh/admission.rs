//! Whether a request goes on, at a sidecar's inbound side and at a gateway: is there room for it, and may who asks come in.
//!
//! Knows how a refusal looks. That there is one is never decided here: the library says it.

use std::sync::{Mutex, PoisonError};

use hyper::header::{self, HeaderName, HeaderValue};
use meshroute::Roll;
use meshroute::authorize::{Call, Guard, Ruling};
use meshroute::balance::RateLimiter;
use meshroute::limit::{RateLimit, RateLimits, Spot, Stage};

use crate::answer::{Answer, REASON};
use crate::message;
use crate::record::Record;
use crate::upstream::now;

/// What a request for which there is no room is told.
const TOO_MANY: &str = "local_rate_limited";
/// What somebody is told who may not come in.
const DENIED: &str = "RBAC: access denied";

/// What a station has let in so far, as far as it is limited.
#[derive(Default)]
pub struct Admission(Mutex<RateLimiter>);

impl Admission {
    /// A snapshot is about to be in force. Limits that stay as they are go on.
    pub fn adopt(&self, limits: RateLimits) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).update(limits);
    }

    /// The answer to a request for which there is no room.
    pub fn limited(&self, (stage, spot): (Stage, &Spot<'_>), roll: &Roll, record: &mut Record) -> Option<Answer> {
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = limiter.ask(stage, spot, roll, now())?;
        record.details = TOO_MANY.into();
        Some(too_many(limit))
    }
}

fn too_many(limit: &RateLimit) -> Answer {
    let why = format!("more requests than {}, {}, takes", limit.resource, limit.field);
    let mut answer = Answer::made_here(limit.status, "RL", TOO_MANY).because(why.clone());
    let headers = answer.response.headers_mut();
    message::insert(headers, REASON, &why);
    for added in &limit.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(&added.name), HeaderValue::try_from(&added.value)) else {
            continue;
        };
        // Who answers is not for a limit to say, as Envoy has it.
        match (added.append, name == header::SERVER) {
            (_, true) => {}
            (true, false) => drop(headers.append(name, value)),
            (false, false) => drop(headers.insert(name, value)),
        }
    }
    answer
}

/// The answer to somebody who may not come in.
pub fn refused(guard: &Guard, call: &Call<'_>, record: &mut Record) -> Option<Answer> {
    let ruling = guard.judge(call);
    if ruling.is_allowed() {
        return None;
    }
    record.details = ruling.to_string().into();
    let mut answer = Answer::made_here(403, "", DENIED).because(ruling.to_string());
    message::insert(answer.response.headers_mut(), REASON, &why(&ruling));
    Some(answer)
}

/// Why a request is refused, in words.
fn why(ruling: &Ruling<'_>) -> String {
    match ruling.by() {
        Some((policy, rule)) => {
            format!("refused where it arrived: rule {} of {}", u64::from(rule) + 1, policy.resource)
        }
        None => "refused where it arrived: no AuthorizationPolicy allows it".into(),
    }
}
