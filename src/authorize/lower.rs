//! From resources to the [`Guard`] of one workload.
//!
//! A rule that cannot be understood never lets more through: one that allows is left out, and one that refuses loses the
//! part that is not understood, so that it refuses more.

use super::guard::{Guard, MutualTls, Policy};
use super::rule::{Attribute, Rule, Test, Value};
use super::text::Text;
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::authorization_policy::{self as written, Action, LabelSelector, Operation, Source};
use crate::model::peer_authentication::MutualTlsMode;
use crate::model::{AuthorizationPolicy, Metadata, Object, PeerAuthentication, Timestamp};
use crate::plan::Cidr;
use crate::resolve::{Mesh, Viewpoint};
use crate::resources::Resources;

/// Marks a policy that is not to be carried out yet.
const DRY_RUN: &str = "istio.io/dry-run";

impl Guard {
    /// What a workload lets in, and what was found wrong with the policies that concern it.
    ///
    /// Of several PeerAuthentications of one width the oldest counts, by `creationTimestamp` and then by order of application.
    /// Source: Istio, the references of PeerAuthentication and AuthorizationPolicy.
    pub fn of(resources: &Resources, workload: &Viewpoint, mesh: &Mesh) -> (Guard, Vec<Diagnostic>) {
        let mut found = Vec::new();
        let mut guard = Guard::default();
        set_mutual_tls(&mut guard, resources, workload, mesh, &mut found);
        let mut custom = Vec::new();
        for resource in resources.iter() {
            let Object::AuthorizationPolicy(policy) = resource.object else { continue };
            if !concerns(&policy.metadata, policy.spec.selector.as_ref(), workload, mesh) {
                continue;
            }
            if let Some(finding) = not_carried_out(policy) {
                found.push(finding.at(resource.reference, "spec"));
                continue;
            }
            let rules = rules(policy, resource.reference, &mut found);
            let lowered = Policy { resource: resource.reference.clone(), rules };
            match policy.spec.action {
                Action::Allow => guard.allow.push(lowered),
                Action::Deny => guard.deny.push(lowered),
                Action::Custom => custom.push(lowered),
                Action::Audit => {}
            }
        }
        custom.append(&mut guard.deny);
        guard.deny = custom;
        (guard, found)
    }
}

/// Whether a policy with this selector is for a workload.
fn concerns(policy: &Metadata, selector: Option<&LabelSelector>, workload: &Viewpoint, mesh: &Mesh) -> bool {
    let at_home = policy.namespace == workload.namespace || policy.namespace == mesh.root_namespace;
    at_home && selector.is_none_or(|selector| selects(selector, workload))
}

fn selects(selector: &LabelSelector, workload: &Viewpoint) -> bool {
    selector.match_labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// Why a policy has no part in what is let in.
fn not_carried_out(policy: &AuthorizationPolicy) -> Option<Diagnostic> {
    let spec = &policy.spec;
    if policy.metadata.annotations.get(DRY_RUN).is_some_and(|value| value == "true") {
        return Some(Diagnostic::info("dry-run", format!("`{DRY_RUN}` is set: it is not carried out")));
    }
    if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
        return Some(Diagnostic::info("target-refs", "`targetRefs` are for waypoints; no sidecar carries it out"));
    }
    (spec.action == Action::Audit).then(|| Diagnostic::info("audit", "nothing here keeps an audit; it has no effect"))
}

/// PeerAuthentication: the mesh's, the namespace's, the workload's, the port's; the narrowest that says something counts.
fn set_mutual_tls(
    guard: &mut Guard,
    resources: &Resources,
    workload: &Viewpoint,
    mesh: &Mesh,
    found: &mut Vec<Diagnostic>,
) {
    type Oldest<'r> = Option<((Option<Timestamp>, u64), &'r PeerAuthentication, &'r ResourceRef)>;
    let mut widths: [Oldest<'_>; 3] = [None, None, None];
    for resource in resources.iter() {
        let Object::PeerAuthentication(policy) = resource.object else { continue };
        let (metadata, selector) = (&policy.metadata, policy.spec.selector.as_ref());
        let width = match selector.filter(|selector| !selector.match_labels.is_empty()) {
            None if metadata.namespace == mesh.root_namespace => 0,
            None if metadata.namespace == workload.namespace => 1,
            Some(selector) if metadata.namespace == workload.namespace && selects(selector, workload) => 2,
            _ => continue,
        };
        let age = (metadata.creation_timestamp, resource.applied);
        if widths[width].as_ref().is_none_or(|(oldest, ..)| older(&age, oldest)) {
            widths[width] = Some((age, policy, resource.reference));
        }
    }
    for (_, policy, _) in widths.iter().flatten() {
        let mode = policy.spec.mtls.as_ref().map_or(MutualTlsMode::Unset, |mtls| mtls.mode);
        guard.mutual_tls = mutual_tls(mode).unwrap_or(guard.mutual_tls);
    }
    let Some((_, policy, reference)) = &widths[2] else { return };
    for (port, mtls) in &policy.spec.port_level_mtls {
        match (port.parse(), mutual_tls(mtls.mode)) {
            (Ok(port), Some(mode)) => drop(guard.ports.insert(port, mode)),
            (Ok(_), None) => {}
            (Err(_), _) => {
                let finding = Diagnostic::error("bad-port", format!("`{port}` is no port"));
                found.push(finding.at(reference, format!("spec.portLevelMtls.{port}")));
            }
        }
    }
}

/// One without a timestamp is not older than one that has it.
fn older(a: &(Option<Timestamp>, u64), b: &(Option<Timestamp>, u64)) -> bool {
    match (&a.0, &b.0) {
        (Some(one), Some(other)) if one != other => one < other,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        _ => a.1 < b.1,
    }
}

fn mutual_tls(mode: MutualTlsMode) -> Option<MutualTls> {
    match mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MutualTls::Disable),
        MutualTlsMode::Permissive => Some(MutualTls::Permissive),
        MutualTlsMode::Strict => Some(MutualTls::Strict),
    }
}

fn rules(policy: &AuthorizationPolicy, reference: &ResourceRef, found: &mut Vec<Diagnostic>) -> Vec<Rule> {
    let spec = &policy.spec;
    if spec.action == Action::Custom {
        let text =
            "no provider is known here: what it means is refused, as Istio does where it does not know the provider";
        found.push(Diagnostic::warning("custom-action", text).at(reference, "spec.action"));
    }
    let mut lowered = Vec::new();
    for (number, rule) in (0..).zip(&spec.rules) {
        let mut writer = Writer { policy, reference, number, found, lost: false };
        let rule = writer.rule(rule);
        if !writer.lost || spec.action != Action::Allow {
            lowered.push(rule);
        }
    }
    lowered
}

/// Writes one rule.
struct Writer<'w> {
    policy: &'w AuthorizationPolicy,
    reference: &'w ResourceRef,
    number: u32,
    found: &'w mut Vec<Diagnostic>,
    /// Whether some part of it is not understood.
    lost: bool,
}

impl Writer<'_> {
    fn rule(&mut self, rule: &written::Rule) -> Rule {
        let from = rule.from.iter().map(|from| self.source(from.source.as_ref())).collect();
        let to = rule.to.iter().map(|to| self.operation(to.operation.as_ref())).collect();
        let when = rule.when.iter().filter_map(|condition| self.condition(condition)).collect();
        Rule { number: self.number, from, to, when }
    }

    fn source(&mut self, source: Option<&Source>) -> Vec<Test> {
        use Attribute::{Namespace, Principal, RemoteIp, ServiceAccount, SourceIp, Token};
        let Some(s) = source else { return Vec::new() };
        let tests = [
            self.test(Principal, "principals", &s.principals, &s.not_principals),
            self.test(Token, "requestPrincipals", &s.request_principals, &s.not_request_principals),
            self.test(Namespace, "namespaces", &s.namespaces, &s.not_namespaces),
            self.test(ServiceAccount, "serviceAccounts", &s.service_accounts, &s.not_service_accounts),
            self.test(SourceIp, "ipBlocks", &s.ip_blocks, &s.not_ip_blocks),
            self.test(RemoteIp, "remoteIpBlocks", &s.remote_ip_blocks, &s.not_remote_ip_blocks),
        ];
        tests.into_iter().flatten().collect()
    }

    fn operation(&mut self, operation: Option<&Operation>) -> Vec<Test> {
        use Attribute::{Host, Method, Path, Port};
        let Some(o) = operation else { return Vec::new() };
        let tests = [
            self.test(Host, "hosts", &o.hosts, &o.not_hosts),
            self.test(Port, "ports", &o.ports, &o.not_ports),
            self.test(Method, "methods", &o.methods, &o.not_methods),
            self.test(Path, "paths", &o.paths, &o.not_paths),
        ];
        tests.into_iter().flatten().collect()
    }

    fn condition(&mut self, condition: &written::Condition) -> Option<Test> {
        use Attribute::{DestinationIp, Namespace, Port, Principal, RemoteIp, ServiceAccount, Sni, SourceIp, Token};
        let key = condition.key.as_str();
        let header = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
        let of = match key {
            "source.ip" => SourceIp,
            "remote.ip" => RemoteIp,
            "source.namespace" => Namespace,
            "source.principal" => Principal,
            "source.serviceAccount" => ServiceAccount,
            "destination.ip" => DestinationIp,
            "destination.port" => Port,
            "connection.sni" => Sni,
            _ if key.starts_with("request.auth.") => Token,
            _ => match header {
                Some(name) => Attribute::Header(name.into()),
                None => {
                    self.loses("unknown-condition", format!("nothing is known of the condition `{key}`"));
                    return None;
                }
            },
        };
        self.test(of, key, &condition.values, &condition.not_values)
    }

    /// `None`: nothing is asked, or nothing that is understood.
    fn test(&mut self, of: Attribute, field: &str, values: &[String], not: &[String]) -> Option<Test> {
        if values.is_empty() && not.is_empty() {
            return None;
        }
        if of == Attribute::Token {
            let text = format!("nobody has a token here, so `{field}` holds for nobody and `not` for everybody");
            self.found.push(Diagnostic::warning("no-tokens", text).at(self.reference, self.field()));
        }
        let read = |values: &[String]| values.iter().map(|value| self.value(&of, value)).collect::<Option<Vec<_>>>();
        let (Some(values), Some(not)) = (read(values), read(not)) else {
            match of.is_address() {
                true => self.loses("bad-range", format!("a value of `{field}` is no range of addresses")),
                false => {
                    self.loses("bad-template", format!("a value of `{field}` is no path with `{{*}}` and one `{{**}}`"))
                }
            }
            return None;
        };
        Some(Test { of, values, not })
    }

    fn value(&self, of: &Attribute, value: &str) -> Option<Value> {
        if of.is_address() {
            return Cidr::parse(value).map(Value::Range);
        }
        Some(Value::Text(match of {
            Attribute::Path => Text::path(value)?,
            Attribute::Namespace => Text::glob(value),
            Attribute::Port => Text::Exact(value.into()),
            Attribute::ServiceAccount if value.contains('/') => Text::Exact(value.into()),
            Attribute::ServiceAccount => Text::Exact(format!("{}/{value}", self.policy.metadata.namespace).into()),
            _ => Text::new(value),
        }))
    }

    fn field(&self) -> String {
        format!("spec.rules[{}]", self.number)
    }

    fn loses(&mut self, code: &'static str, message: String) {
        self.lost = true;
        let remedy = match self.policy.spec.action {
            Action::Allow => "the rule is left out, and allows nothing",
            _ => "this part is left out, so that the rule means more",
        };
        self.found.push(Diagnostic::error(code, message).at(self.reference, self.field()).remedy(remedy));
    }
}
