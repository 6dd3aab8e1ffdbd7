//! Which DestinationRule speaks for a service, and what it says of one cluster.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::visibility::note_nobody;
use super::{Findings, Mesh, Viewpoint};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::has_labels;
use crate::model::destination_rule::ClientTlsSettings;
use crate::model::destination_rule::{
    ConnectionPoolSettings, ConsistentHashLb, LoadBalancerSettings, OutlierDetection, RetryBudget, SimpleLb, Subset,
    TrafficPolicy, WarmupConfiguration,
};
use crate::model::{DestinationRule, Object};
use crate::name::{HostPattern, NameError, qualify};
use crate::plan::{HashKey, LoadBalancer, Policy};
use crate::resources::Resources;

/// Rules for one host in one namespace that were merged into one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    host: HostPattern,
    export_to: BTreeSet<String>,
    selector: Option<BTreeMap<String, String>>,
    policy: Option<TrafficPolicy>,
    /// With the rule that defines each.
    pub(super) subsets: Vec<(Subset, Arc<ResourceRef>)>,
    pub(super) resource: Arc<ResourceRef>,
}

/// All DestinationRules, as clients look them up.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// By namespace: what clients of that namespace may use.
    local: BTreeMap<String, ByHost>,
    /// By namespace: what clients of others may use too.
    exported: BTreeMap<String, ByHost>,
    /// What only clients of the root namespace may use.
    root_local: ByHost,
    /// All of them, by what they are for.
    written: HashMap<HostPattern, Vec<Arc<ResourceRef>>>,
    /// What was found wrong with them.
    pub(super) findings: Findings,
}

/// The host, or wildcard, that a rule is for.
pub(crate) fn whose(rule: &DestinationRule, mesh: &Mesh) -> Result<HostPattern, NameError> {
    HostPattern::parse(&qualify(&rule.spec.host, &rule.metadata.namespace, &mesh.domain))
}

/// What is older stands before what is younger, and what selects clients before all else.
fn age(rule: &DestinationRule, resource: &ResourceRef) -> impl Ord + use<> {
    let selects = rule.spec.workload_selector.is_some();
    (!selects, rule.metadata.creation_timestamp, resource.name.clone(), resource.namespace.clone())
}

/// Rules by their host.
#[derive(Debug, Default)]
struct ByHost {
    rules: HashMap<HostPattern, Vec<Rule>>,
    /// The wildcards among the hosts, the most specific first.
    wildcards: Vec<HostPattern>,
}

impl ByHost {
    fn add(&mut self, rule: Rule, findings: &mut Findings) {
        if rule.host.is_wildcard()
            && let Err(at) = self.wildcards.binary_search_by(|known| known.by_specificity(&rule.host))
        {
            self.wildcards.insert(at, rule.host.clone());
        }
        merge(self.rules.entry(rule.host.clone()).or_default(), rule, findings);
    }

    fn forget(&mut self, host: &HostPattern) {
        self.rules.remove(host);
        self.wildcards.retain(|known| known != host);
    }

    /// The rules of the host string that names a service most exactly.
    fn most_specific(&self, service: &HostPattern) -> &[Rule] {
        let covering = || self.rules.get(self.wildcards.iter().find(|host| service.is_within(host))?);
        self.rules.get(service).or_else(covering).map_or(&[], Vec::as_slice)
    }
}

impl Rules {
    /// Reads rules out of resources, oldest first (istio `SetDestinationRules`).
    pub(crate) fn new(resources: &Resources, mesh: &Mesh) -> Self {
        let mut written: Vec<(&DestinationRule, &ResourceRef)> = resources
            .iter()
            .filter_map(|resource| match resource.object {
                Object::DestinationRule(rule) => Some((rule, resource.reference)),
                _ => None,
            })
            .collect();
        written.sort_by_cached_key(|(rule, resource)| age(rule, resource));
        let (mut rules, mut findings) = (Rules::default(), Findings::new());
        for (rule, resource) in written {
            rules.add(rule, resource, mesh, &mut findings);
        }
        Rules { findings, ..rules }
    }

    /// Takes note of a change of one rule, which was or is for these hosts and wildcards. Nothing is found wrong with it here.
    pub(crate) fn change(
        &mut self,
        patterns: &BTreeSet<HostPattern>,
        reference: &ResourceRef,
        resources: &Resources,
        mesh: &Mesh,
    ) {
        let as_rule = |reference: &ResourceRef| match resources.find(reference) {
            Some(Object::DestinationRule(rule)) => Some(rule),
            _ => None,
        };
        for pattern in patterns {
            let all = self.local.values_mut().chain(self.exported.values_mut()).chain([&mut self.root_local]);
            all.for_each(|rules| rules.forget(pattern));
            let mut written = self.written.remove(pattern).unwrap_or_default();
            written.retain(|known| **known != *reference);
            written.push(Arc::new(reference.clone()));
            let mut written: Vec<_> = written.iter().filter_map(|known| Some((as_rule(known)?, &**known))).collect();
            written.retain(|(rule, _)| whose(rule, mesh).as_ref() == Ok(pattern));
            written.sort_by_cached_key(|(rule, resource)| age(rule, resource));
            for (rule, resource) in written {
                self.add(rule, resource, mesh, &mut Findings::default());
            }
        }
    }

    fn add(&mut self, written: &DestinationRule, resource: &ResourceRef, mesh: &Mesh, findings: &mut Findings) {
        let namespace = &written.metadata.namespace;
        let host = match whose(written, mesh) {
            Ok(host) => host,
            Err(error) => {
                findings.push(Diagnostic::error("bad-host", error.to_string()).at(resource, "spec.host"));
                return;
            }
        };
        note_nobody(&written.spec.export_to, resource, findings);
        let selector = written.spec.workload_selector.as_ref().map(|selector| selector.match_labels.clone());
        let export_to: BTreeSet<String> = match &selector {
            Some(_) => BTreeSet::from([".".to_string()]),
            None => written.spec.export_to.iter().cloned().collect(),
        };
        let resource = Arc::new(resource.clone());
        self.written.entry(host.clone()).or_default().push(resource.clone());
        let subsets = written.spec.subsets.iter().flatten().map(|subset| (subset.clone(), resource.clone())).collect();
        let rule = Rule { host, export_to, selector, policy: written.spec.traffic_policy.clone(), subsets, resource };
        let private = rule.is_private(namespace, mesh);
        if private && *namespace == mesh.root_namespace {
            self.root_local.add(rule.clone(), findings);
        }
        if rule.reaches_own(namespace) {
            self.local.entry(namespace.clone()).or_default().add(rule.clone(), &mut Findings::default());
        }
        if !private {
            self.exported.entry(namespace.clone()).or_default().add(rule, findings);
        }
    }

    /// The hosts, and wildcards, of rules that clients of two namespaces may not have in common.
    pub(super) fn particular<'r>(&'r self, namespaces: [&str; 2], mesh: &Mesh) -> Vec<&'r HostPattern> {
        let local = namespaces.iter().filter_map(|namespace| self.local.get(*namespace));
        let root = namespaces.contains(&mesh.root_namespace.as_str()).then_some(&self.root_local);
        let own = local.chain(root).flat_map(|rules| rules.rules.keys());
        let apart = |rule: &&Rule| rule.reaches(namespaces[0]) != rule.reaches(namespaces[1]);
        let exported = self.exported.values().flat_map(|rules| rules.rules.values().flatten());
        own.chain(exported.filter(apart).map(|rule| &rule.host)).collect()
    }

    /// The rule that speaks for a service to a client: one of the client's namespace, else of the service's, else of
    /// the root namespace. The first place that has one decides; nothing is merged across namespaces.
    pub(super) fn find(&self, host: &HostPattern, namespace: &str, client: &Viewpoint, mesh: &Mesh) -> Option<&Rule> {
        let own = if client.namespace == mesh.root_namespace {
            Some(&self.root_local)
        } else {
            self.local.get(&client.namespace)
        };
        let own =
            own.map(|rules| rules.most_specific(host).iter().collect::<Vec<_>>()).filter(|found| !found.is_empty());
        let elsewhere = |namespace: &str| {
            let found = self.exported.get(namespace)?.most_specific(host);
            let seen: Vec<_> = found.iter().filter(|rule| rule.reaches(&client.namespace)).collect();
            (!seen.is_empty()).then_some(seen)
        };
        let found = own.or_else(|| elsewhere(namespace)).or_else(|| elsewhere(&mesh.root_namespace))?;
        let selected =
            found.iter().find(|rule| rule.selector.as_ref().is_some_and(|labels| has_labels(&client.labels, labels)));
        selected.or_else(|| found.iter().rfind(|rule| rule.selector.is_none())).copied()
    }
}

/// Joins a rule with the others of its host, or lets it stand beside them (istio `mergeDestinationRule`).
fn merge(rules: &mut Vec<Rule>, rule: Rule, findings: &mut Findings) {
    let mut apart = true;
    for known in rules.iter_mut().filter(|known| known.host == rule.host) {
        let wider = !known.export_to.is_empty() && known.export_to.is_subset(&rule.export_to);
        if known.export_to != rule.export_to && !wider {
            apart = true;
            continue;
        }
        if known.selector != rule.selector {
            apart = true;
            continue;
        }
        apart = false;
        note_merge(known, &rule, findings);
        for (subset, resource) in &rule.subsets {
            if !known.subsets.iter().any(|(there, _)| there.name == subset.name) {
                known.subsets.push((subset.clone(), resource.clone()));
            }
        }
        if known.policy.is_none() {
            known.policy.clone_from(&rule.policy);
        }
    }
    if apart {
        if let Some(known) = rules.iter().find(|known| known.host == rule.host && known.selector == rule.selector) {
            let message = format!(
                "`{}` has another DestinationRule, {}, with another `exportTo`: the two are not merged, and this one hides it",
                rule.host, known.resource
            );
            let remedy = "write both into one DestinationRule, or give them the same `exportTo`";
            findings.push(
                Diagnostic::warning("destination-rule-conflict", message)
                    .at(&rule.resource, "spec.host")
                    .remedy(remedy),
            );
        }
        rules.push(rule);
    }
}

fn note_merge(known: &Rule, rule: &Rule, findings: &mut Findings) {
    let twice =
        rule.subsets.iter().find(|(subset, _)| known.subsets.iter().any(|(there, _)| there.name == subset.name));
    if let Some((subset, _)) = twice {
        let message = format!(
            "subset `{}` of `{}` is already defined by {}, which is kept",
            subset.name, rule.host, known.resource
        );
        let remedy = "give the subset another name, or define it once";
        findings.push(
            Diagnostic::warning("destination-rule-conflict", message).at(&rule.resource, "spec.subsets").remedy(remedy),
        );
    }
    if known.policy.is_some() && rule.policy.is_some() {
        let message =
            format!("`{}` already has a trafficPolicy by {}; this one has no effect", rule.host, known.resource);
        let remedy = "write one trafficPolicy for the host";
        findings.push(
            Diagnostic::warning("destination-rule-conflict", message)
                .at(&rule.resource, "spec.trafficPolicy")
                .remedy(remedy),
        );
    }
}

impl Rule {
    fn is_private(&self, namespace: &str, mesh: &Mesh) -> bool {
        match self.export_to.first() {
            None => mesh.default_destination_rule_export_to.iter().any(|entry| entry == "."),
            Some(only) => self.export_to.len() == 1 && (only == "." || only == namespace),
        }
    }

    fn reaches_own(&self, namespace: &str) -> bool {
        self.export_to.is_empty()
            || self.export_to.iter().any(|entry| entry == "*" || entry == "." || entry == namespace)
    }

    /// `.` in a longer list is not its own namespace here: Istio compares the texts.
    fn reaches(&self, namespace: &str) -> bool {
        self.export_to.is_empty() || self.export_to.contains("*") || self.export_to.contains(namespace)
    }

    /// A subset by its name.
    pub(super) fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().map(|(subset, _)| subset).find(|subset| subset.name == name)
    }

    /// What holds for one cluster: the subset's port, the subset, the host's port, the host; each port's settings take
    /// the place of all four (istio `cluster_builder`, reference 6.3).
    pub(super) fn policy(&self, subset: Option<&Subset>, port: u16) -> Policy {
        let mut layered = Layers::default();
        if let Some(policy) = &self.policy {
            layered.add(policy, port);
        }
        if let Some(policy) = subset.and_then(|subset| subset.traffic_policy.as_ref()) {
            layered.add(policy, port);
        }
        layered.policy()
    }

    /// Whether requests to some cluster stick to an endpoint.
    pub(super) fn is_sticky(&self) -> bool {
        let subsets = self.subsets.iter().filter_map(|(subset, _)| subset.traffic_policy.as_ref());
        let hashes = |settings: &Option<LoadBalancerSettings>| {
            settings.as_ref().is_some_and(|settings| settings.consistent_hash.is_some())
        };
        self.policy.iter().chain(subsets).any(|policy| {
            let ports = policy.port_level_settings.iter().flatten();
            hashes(&policy.load_balancer) || ports.map(|port| &port.load_balancer).any(hashes)
        })
    }

    /// What requests to a cluster stick by, if they do.
    pub(super) fn hash_key(&self, subset: Option<&Subset>, port: u16) -> Option<HashKey> {
        let mut layered = Layers::default();
        for policy in
            [self.policy.as_ref(), subset.and_then(|subset| subset.traffic_policy.as_ref())].into_iter().flatten()
        {
            layered.add(policy, port);
        }
        hash_key(layered.load_balancer?.consistent_hash.as_ref()?)
    }
}

/// The settings that are layered. A port's know no retry budget.
#[derive(Default)]
struct Layers<'p> {
    load_balancer: Option<&'p LoadBalancerSettings>,
    connection_pool: Option<&'p ConnectionPoolSettings>,
    outlier_detection: Option<&'p OutlierDetection>,
    tls: Option<&'p ClientTlsSettings>,
    retry_budget: Option<&'p RetryBudget>,
}

impl<'p> Layers<'p> {
    fn add(&mut self, policy: &'p TrafficPolicy, port: u16) {
        self.load_balancer = policy.load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = policy.connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = policy.outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = policy.tls.as_ref().or(self.tls);
        self.retry_budget = policy.retry_budget.as_ref().or(self.retry_budget);
        let of_port = policy.port_level_settings.iter().flatten();
        let number = |selector: &crate::model::virtual_service::PortSelector| selector.number == u32::from(port);
        if let Some(settings) = of_port.into_iter().find(|settings| settings.port.as_ref().is_some_and(number)) {
            *self = Layers {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                retry_budget: None,
            };
        }
    }

    fn policy(&self) -> Policy {
        let tcp = self.connection_pool.and_then(|pool| pool.tcp.as_ref());
        let connect_timeout = tcp.and_then(|tcp| tcp.connect_timeout?.to_std());
        Policy {
            load_balancer: self.load_balancer.map(load_balancer).unwrap_or_default(),
            by_source: self.load_balancer.is_some_and(by_source),
            connect_timeout: connect_timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(Duration::from_secs(10)),
            connection_pool: self.connection_pool.cloned(),
            outlier_detection: self.outlier_detection.cloned(),
            tls: self.tls.cloned(),
            warmup: self.load_balancer.and_then(warmup),
            locality: self.load_balancer.and_then(|settings| settings.locality_lb_setting.clone()),
            retry_budget: self.retry_budget.cloned(),
        }
    }
}

/// `warmup`, or the deprecated `warmupDurationSecs` in its place.
fn warmup(settings: &LoadBalancerSettings) -> Option<WarmupConfiguration> {
    let deprecated = || {
        settings
            .warmup_duration_secs
            .map(|duration| WarmupConfiguration { duration: Some(duration), ..Default::default() })
    };
    settings.warmup.clone().or_else(deprecated)
}

fn load_balancer(settings: &LoadBalancerSettings) -> LoadBalancer {
    if let Some(hash) = &settings.consistent_hash {
        return match (&hash.maglev, &hash.ring_hash) {
            (Some(maglev), _) => LoadBalancer::Maglev(if maglev.table_size == 0 { 65_537 } else { maglev.table_size }),
            (None, Some(ring)) => {
                LoadBalancer::RingHash(if ring.minimum_ring_size == 0 { 1_024 } else { ring.minimum_ring_size })
            }
            (None, None) if hash.minimum_ring_size > 0 => LoadBalancer::RingHash(hash.minimum_ring_size),
            (None, None) => LoadBalancer::RingHash(1_024),
        };
    }
    match settings.simple {
        Some(SimpleLb::Random) => LoadBalancer::Random,
        Some(SimpleLb::RoundRobin) => LoadBalancer::RoundRobin,
        Some(SimpleLb::Passthrough) => LoadBalancer::Passthrough,
        _ => LoadBalancer::LeastRequest,
    }
}

/// Source: istio `maybeSetHashPolicy`, for the TCP proxy.
fn by_source(settings: &LoadBalancerSettings) -> bool {
    let hash = settings.consistent_hash.as_ref().and_then(hash_key);
    hash == Some(HashKey::SourceIp)
}

fn hash_key(hash: &ConsistentHashLb) -> Option<HashKey> {
    if let Some(name) = &hash.http_header_name {
        return Some(HashKey::Header(name.to_ascii_lowercase().into()));
    }
    if let Some(cookie) = &hash.http_cookie {
        let ttl = cookie.ttl.and_then(crate::model::Duration::to_std);
        return Some(HashKey::Cookie { name: cookie.name.as_str().into(), path: cookie.path.as_str().into(), ttl });
    }
    if hash.use_source_ip == Some(true) {
        return Some(HashKey::SourceIp);
    }
    hash.http_query_parameter_name.as_ref().map(|name| HashKey::Query(name.as_str().into()))
}
