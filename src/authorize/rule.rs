//! One rule of a policy, as plain data, and whether it means a call.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::guard::Call;
use super::text::Text;
use crate::path::NormalPath;
use crate::plan::Cidr;

/// A rule: any of `from`, any of `to`, and all of `when`. Within one of them all tests must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Rule {
    /// Which rule of the policy it is, as some may be left out.
    pub(super) number: u32,
    pub(super) from: Vec<Vec<Test>>,
    pub(super) to: Vec<Vec<Test>>,
    pub(super) when: Vec<Test>,
}

/// A test of one attribute: one of `values` if there are any, and none of `not`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Test {
    pub(super) of: Attribute,
    pub(super) values: Vec<Value>,
    pub(super) not: Vec<Value>,
}

/// What a test looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Attribute {
    Principal,
    Namespace,
    /// `namespace/account`.
    ServiceAccount,
    SourceIp,
    RemoteIp,
    DestinationIp,
    Port,
    Sni,
    /// What a token says; nobody has one.
    Token,
    Host,
    Method,
    Path,
    Header(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Value {
    Text(Text),
    Range(Cidr),
}

/// A call and what is derived of it once.
pub(super) struct Asked<'c> {
    pub(super) call: &'c Call<'c>,
    /// The path in normal form, without query.
    pub(super) path: Option<&'c NormalPath<'c>>,
}

impl Attribute {
    /// Whether only requests have it, and connections don't.
    pub(super) fn is_of_requests(&self) -> bool {
        use Attribute::{Header, Host, Method, Path, Token};
        matches!(self, Token | Host | Method | Path | Header(_))
    }

    pub(super) fn is_address(&self) -> bool {
        matches!(self, Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp)
    }
}

impl Rule {
    /// Whether it means a call. `strict`: what only requests have is passed over for a connection, so that a rule that
    /// refuses refuses more; else such a rule means no connection.
    pub(super) fn means(&self, asked: &Asked<'_>, strict: bool) -> bool {
        let all = |tests: &[Test]| tests.iter().all(|test| test.holds(asked, strict));
        let any = |of: &[Vec<Test>]| of.is_empty() || of.iter().any(|tests| all(tests));
        any(&self.from) && any(&self.to) && all(&self.when)
    }
}

impl Test {
    fn holds(&self, asked: &Asked<'_>, strict: bool) -> bool {
        if asked.call.request.is_none() && self.of.is_of_requests() {
            return strict;
        }
        let any = |values: &[Value]| values.iter().any(|value| asked.has(&self.of, value));
        (self.values.is_empty() || any(&self.values)) && !any(&self.not)
    }
}

impl Asked<'_> {
    fn has(&self, attribute: &Attribute, value: &Value) -> bool {
        let call = self.call;
        let text = |text: Option<&str>| text.is_some_and(|text| value.is(text.as_bytes(), false));
        match attribute {
            Attribute::Principal => text(call.principal),
            Attribute::Namespace => {
                text(call.principal.and_then(namespace_and_account).map(|(namespace, _)| namespace))
            }
            Attribute::ServiceAccount => {
                call.principal.and_then(namespace_and_account).is_some_and(|own| value.names(own))
            }
            Attribute::SourceIp => value.covers(call.source),
            Attribute::RemoteIp => value.covers(call.remote.or(call.source)),
            Attribute::DestinationIp => value.covers(call.destination),
            Attribute::Port => value.is_number(call.port),
            Attribute::Sni => text(call.sni),
            Attribute::Token => false,
            Attribute::Host => call.request.is_some_and(|request| value.is(request.authority.as_bytes(), true)),
            Attribute::Method => text(call.request.map(|request| request.method)),
            Attribute::Path => self.path.is_some_and(|path| value.is(path.path(), false)),
            Attribute::Header(name) => {
                call.request.is_some_and(|request| request.headers.any(name, &mut |line| value.is(line, false)))
            }
        }
    }
}

impl Value {
    fn is(&self, value: &[u8], ignore_case: bool) -> bool {
        matches!(self, Value::Text(text) if text.holds(value, ignore_case))
    }

    /// Whether it is `namespace/account`.
    fn names(&self, (namespace, account): (&str, &str)) -> bool {
        let Value::Text(Text::Exact(text)) = self else { return false };
        text.split_once('/') == Some((namespace, account))
    }

    fn is_number(&self, number: u16) -> bool {
        matches!(self, Value::Text(Text::Exact(text)) if text.parse() == Ok(number))
    }

    fn covers(&self, address: Option<IpAddr>) -> bool {
        matches!((self, address), (Value::Range(range), Some(address)) if range.contains(address))
    }
}

/// Of `cluster.local/ns/default/sa/web`: `default` and `web`.
fn namespace_and_account(principal: &str) -> Option<(&str, &str)> {
    let (_, behind) = principal.split_once("/ns/")?;
    behind.split_once("/sa/")
}
