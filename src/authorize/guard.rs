//! The answer: what one workload lets in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::rule::{Asked, Rule};
use crate::diagnostic::ResourceRef;
use crate::path::normalize;
use crate::request::Request;

/// What one workload lets in. Plain data, so that a control plane may send it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    pub(super) mutual_tls: MutualTls,
    pub(super) ports: BTreeMap<u16, MutualTls>,
    /// Those that refuse, `CUSTOM` ones first.
    pub(super) deny: Vec<Policy>,
    pub(super) allow: Vec<Policy>,
}

/// Whether callers must show who they are (`PeerAuthentication.mtls.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTls {
    /// They do not: what is encrypted is passed on as it is.
    Disable,
    /// They may: plain connections are taken too.
    #[default]
    Permissive,
    /// They must: plain connections are refused.
    Strict,
}

/// An AuthorizationPolicy that concerns a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its kind, namespace and name.
    pub resource: ResourceRef,
    pub(super) rules: Vec<Rule>,
}

/// A request or a connection that wants in, and what has been checked of who sends it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call<'a> {
    /// The identity that the connection proved, without `spiffe://`: `cluster.local/ns/default/sa/web`. `None`: none.
    pub principal: Option<&'a str>,
    /// The address of the other end.
    pub source: Option<IpAddr>,
    /// The address of the first client, where trusted proxies say it (`x-forwarded-for`).
    pub remote: Option<IpAddr>,
    /// The workload's own address.
    pub destination: Option<IpAddr>,
    /// The workload's port.
    pub port: u16,
    /// The server name of the connection.
    pub sni: Option<&'a str>,
    /// The request; `None`: a connection that is not looked into.
    pub request: Option<&'a Request<'a>>,
}

impl<'a> Call<'a> {
    /// A connection from nobody known to a port of the workload; the other methods say more.
    pub fn new(port: u16) -> Self {
        Call { principal: None, source: None, remote: None, destination: None, port, sni: None, request: None }
    }

    /// From somebody who has proved to be this.
    pub fn principal(mut self, principal: impl Into<Option<&'a str>>) -> Self {
        self.principal = principal.into();
        self
    }

    /// From this address.
    pub fn source(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.source = address.into();
        self
    }

    /// With this request.
    pub fn request(mut self, request: &'a Request<'a>) -> Self {
        self.request = Some(request);
        self
    }
}

/// Whether a call is let in, and by which policy that was decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ruling<'g> {
    allowed: bool,
    by: Option<(&'g Policy, u32)>,
}

impl<'g> Ruling<'g> {
    /// Whether it is let in; else a request is to be answered with 403 and `RBAC: access denied`, and a connection closed.
    pub fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// The policy and the number of its rule, from 0. `None`: there is no policy, or none of those that allow means it.
    pub fn by(&self) -> Option<(&'g Policy, u32)> {
        self.by
    }
}

impl fmt::Display for Ruling<'_> {
    /// As Envoy's response code details say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let allowed = if self.allowed { "allowed" } else { "denied" };
        write!(f, "rbac_access_{allowed}_matched_policy[")?;
        match self.by {
            Some((policy, rule)) => {
                let ResourceRef { namespace, name, .. } = &policy.resource;
                write!(f, "ns[{namespace}]-policy[{name}]-rule[{rule}]]")
            }
            None => f.write_str("none]"),
        }
    }
}

impl Policy {
    fn meaning(&self, asked: &Asked<'_>, strict: bool) -> Option<(&Policy, u32)> {
        let rule = self.rules.iter().find(|rule| rule.means(asked, strict))?;
        Some((self, rule.number))
    }
}

impl Guard {
    /// Whether callers of a port of the workload (not of its Service) must show who they are.
    pub fn mutual_tls(&self, port: u16) -> MutualTls {
        self.ports.get(&port).copied().unwrap_or(self.mutual_tls)
    }

    /// Whether there is no policy to judge by.
    fn is_open(&self) -> bool {
        self.deny.is_empty() && self.allow.is_empty()
    }

    /// Whether a call is let in: not if a policy that refuses means it; if there are policies that allow, only if one of
    /// them does.
    pub fn judge(&self, call: &Call<'_>) -> Ruling<'_> {
        if self.is_open() {
            return Ruling { allowed: true, by: None };
        }
        let Ok(path) = call.request.map(|request| normalize(request.path)).transpose() else {
            // What a rule would say of such a path is not known, and Envoy answers it with 400 before anything is asked.
            return Ruling { allowed: false, by: None };
        };
        let asked = Asked { call, path: path.as_ref() };
        if let Some(by) = self.deny.iter().find_map(|policy| policy.meaning(&asked, true)) {
            return Ruling { allowed: false, by: Some(by) };
        }
        if self.allow.is_empty() {
            return Ruling { allowed: true, by: None };
        }
        let by = self.allow.iter().find_map(|policy| policy.meaning(&asked, false));
        Ruling { allowed: by.is_some(), by }
    }
}
