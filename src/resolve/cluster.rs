//! The clusters that routes name, each once: which exist, with which endpoints and policy.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::destination_rule::{Rule, Rules};
use super::registry::{Kind, Member, Port, Protocol, Registry, Service};
use super::{Mesh, Viewpoint, ViewpointKind};
use crate::diagnostic::Diagnostic;
use crate::kubernetes::has_labels;
use crate::model::destination_rule::{H2UpgradePolicy, Subset};
use crate::plan::{Cluster, Endpoint, HashKey, HttpVersion, List, LoadBalancer, Policy};

/// The clusters that some client named, by their number: the same for all clients, from change to change.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    by_host: HashMap<Arc<str>, Vec<u32>>,
    all: Vec<Key>,
    /// As they were last made, to be shared with the next client that sees the same.
    made: Vec<Option<Arc<Cluster>>>,
}

/// Host, subset and port.
type Key = (Arc<str>, Arc<str>, u16);

impl Keys {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The number of a cluster, a new one if it was never named before.
    fn number(&mut self, host: &str, subset: &str, port: u16) -> u32 {
        let is_it = |&&number: &&u32| {
            let (_, known, of) = &self.all[number as usize];
            **known == *subset && *of == port
        };
        if let Some(known) = self.by_host.get(host).and_then(|numbers| numbers.iter().find(is_it)) {
            return *known;
        }
        let (host, number) = (Arc::<str>::from(host), self.all.len() as u32);
        self.by_host.entry(host.clone()).or_default().push(number);
        self.all.push((host, subset.into(), port));
        self.made.push(None);
        number
    }

    /// The cluster of this number, shared with whoever got the same before.
    fn share(&mut self, number: u32, cluster: Cluster) -> Arc<Cluster> {
        match &mut self.made[number as usize] {
            Some(known) if **known == cluster => known.clone(),
            known => known.insert(Arc::new(cluster)).clone(),
        }
    }

    /// The clusters of a host.
    fn of(&self, host: &str) -> &[u32] {
        self.by_host.get(host).map_or(&[], Vec::as_slice)
    }
}

/// What one client's routes name so far.
pub(super) struct Clusters<'r> {
    pub(super) registry: Registry<'r>,
    rules: &'r Rules,
    viewpoint: &'r Viewpoint,
    mesh: &'r Mesh,
    keys: &'r mut Keys,
    /// As the client sees them, each in the place of its number.
    pub(super) list: List<Cluster>,
}

impl<'r> Clusters<'r> {
    /// Goes on with the clusters that were named before.
    pub(super) fn new(
        (registry, rules): (Registry<'r>, &'r Rules),
        viewpoint: &'r Viewpoint,
        mesh: &'r Mesh,
        keys: &'r mut Keys,
        list: List<Cluster>,
    ) -> Self {
        Clusters { registry, rules, viewpoint, mesh, keys, list }
    }

    /// The index of a cluster, made if it is new.
    pub(super) fn intern(&mut self, host: &str, subset: &str, port: u16) -> u32 {
        let number = self.keys.number(&self.stands_for(host), subset, port);
        while self.list.len() <= number as usize {
            let next = self.list.len() as u32;
            let made = self.numbered(next);
            self.list.push(made);
        }
        number
    }

    /// Makes the clusters of a host again, each in its place.
    pub(super) fn renew(&mut self, host: &str) {
        for number in self.keys.of(host).to_vec() {
            let made = self.numbered(number);
            self.list.set(number as usize, made);
        }
    }

    /// The cluster of this number, as the client sees it.
    fn numbered(&mut self, number: u32) -> Arc<Cluster> {
        let (host, subset, port) = &self.keys.all[number as usize];
        let made = self.make(host, subset, *port);
        self.keys.share(number, made)
    }

    /// A service of this host, where there are such but none that the client sees.
    fn hidden(&self, host: &str) -> Option<&'r Arc<Service>> {
        self.registry.hidden(host)
    }

    /// Whether a cluster is of a service that is there, but not for this client.
    pub(super) fn hides(&self, id: u32) -> bool {
        self.hidden(&self.list[id as usize].host).is_some()
    }

    /// Why a request for a cluster is refused, if it is.
    pub(super) fn fault(&self, id: u32) -> Option<Diagnostic> {
        let cluster = &self.list[id as usize];
        if cluster.takes_traffic() {
            return None;
        }
        Some(if cluster.exists { self.empty(cluster) } else { self.missing(cluster) })
    }

    fn empty(&self, cluster: &Cluster) -> Diagnostic {
        let labels =
            self.rule(&cluster.host).and_then(|rule| rule.subset(&cluster.subset)).map(|subset| &subset.labels);
        let of = if cluster.subset.is_empty() { String::new() } else { format!("subset `{}` of ", cluster.subset) };
        let message = format!("{of}`{}` has no ready pod: a request that goes there is answered 503 UH", cluster.host);
        let wanted = labels.filter(|labels| !labels.is_empty()).map(|labels| {
            let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!(" labelled {}", pairs.join(","))
        });
        let remedy = format!("start a pod of the service{}, or take the destination out", wanted.unwrap_or_default());
        Diagnostic::warning("no-endpoints", message).remedy(remedy)
    }

    fn missing(&self, cluster: &Cluster) -> Diagnostic {
        const REFUSED: &str = "a request that goes there is answered 503 NC";
        let Some(service) = self.registry.find(&cluster.host) else { return self.unknown_host(cluster, REFUSED) };
        if service.port(cluster.port).is_none() {
            let ports: Vec<String> = service.ports.iter().map(|port| format!("`{}`", port.number)).collect();
            let message =
                format!("`{}` has no port `{}`, only {}; {REFUSED}", cluster.host, cluster.port, ports.join(", "));
            return Diagnostic::error("unknown-port", message).remedy("write `port: {number: ..}` beside `host`");
        }
        let Some(rule) = self.rule(&cluster.host).filter(|_| !cluster.subset.is_empty()) else {
            if cluster.subset.is_empty() {
                let message =
                    format!("`{}` has no endpoints, so that there is no such cluster; {REFUSED}", cluster.host);
                return Diagnostic::error("no-endpoints", message).remedy("give the ServiceEntry endpoints");
            }
            let message = format!(
                "subset `{}` of `{}`: no DestinationRule that defines it reaches namespace `{}`; {REFUSED}",
                cluster.subset, cluster.host, self.viewpoint.namespace
            );
            let remedy = "define the subset in a DestinationRule of the client's, the service's or the root namespace, exported to the client's";
            return Diagnostic::error("unknown-subset", message).remedy(remedy);
        };
        let known: Vec<String> = rule.subsets.iter().map(|(subset, _)| format!("`{}`", subset.name)).collect();
        let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
        let message = format!("unknown subset `{}`; {} has {known}; {REFUSED}", cluster.subset, rule.resource);
        Diagnostic::error("unknown-subset", message).remedy("define the subset there, or name one that is defined")
    }

    fn unknown_host(&self, cluster: &Cluster, refused: &str) -> Diagnostic {
        let host = &cluster.host;
        if let Some(hidden) = self.hidden(host) {
            let message =
                format!("{} is not exported to namespace `{}`; {refused}", hidden.resource, self.viewpoint.namespace);
            return Diagnostic::error("unknown-host", message).remedy("export the service to the client's namespace");
        }
        let whole = format!("{host}.svc.{}", self.mesh.domain);
        let message = format!("there is no service `{host}`; {refused}");
        let remedy = match self.registry.find(&whole) {
            Some(_) => format!("write `{whole}`: a name with a dot is taken as it is"),
            None => "name a service that exists, or declare it with a ServiceEntry".to_string(),
        };
        Diagnostic::error("unknown-host", message).remedy(remedy)
    }

    /// An ExternalName service stands for the host that it names.
    fn stands_for<'h>(&self, host: &'h str) -> Cow<'h, str> {
        let alias = self.registry.find(host).and_then(|service| service.alias_of.clone());
        alias.map_or(Cow::Borrowed(host), Cow::Owned)
    }

    /// The rule that speaks for a host, if there is a service of this name.
    pub(super) fn rule(&self, host: &str) -> Option<&'r Rule> {
        let service = self.registry.find(host)?;
        self.rules.find(&service.host, &service.namespace, self.viewpoint, self.mesh)
    }

    /// What requests to a destination stick by.
    pub(super) fn hash_key(&self, host: &str, subset: &str, port: u16) -> Option<HashKey> {
        let rule = self.rule(host)?;
        rule.hash_key(rule.subset(subset), port)
    }

    fn make(&self, host: &str, subset: &str, port: u16) -> Cluster {
        let missing = Cluster::missing(host, subset, port);
        let Some((service, declared)) = self.registry.find(host).and_then(|found| Some((found, found.port(port)?)))
        else {
            return missing;
        };
        let rule = self.rule(host);
        let chosen = rule.and_then(|rule| rule.subset(subset));
        if !subset.is_empty() && chosen.is_none() {
            let rule = rule.map(|rule| rule.resource.clone());
            return Cluster { rule, namespace: service.namespace.clone(), ..missing };
        }
        let endpoints = endpoints(service, chosen, port);
        let mut policy = rule.map(|rule| rule.policy(chosen, port)).unwrap_or_default();
        if service.kind == Kind::Passthrough {
            policy.load_balancer = LoadBalancer::Passthrough;
        }
        Cluster {
            // A ServiceEntry without endpoints makes no cluster (istio `cluster_builder.go:515`).
            exists: service.kubernetes || service.kind == Kind::Passthrough || !endpoints.is_empty(),
            namespace: service.namespace.clone(),
            endpoints: endpoints.into(),
            http: spoken(declared, &policy, self.viewpoint.kind),
            policy,
            rule: rule.map(|rule| rule.resource.clone()),
            ..missing
        }
    }
}

/// A rule's word on HTTP's version counts before the port's own (istio `applyTrafficPolicy` after `setUpstreamProtocol`).
fn spoken(port: &Port, policy: &Policy, kind: ViewpointKind) -> HttpVersion {
    let said = policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref());
    match said {
        Some(http) if http.use_client_protocol => HttpVersion::AsClient,
        Some(http) if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade => HttpVersion::Two,
        _ if port.http2 => HttpVersion::Two,
        // A gateway's clients may be offered more than who serves them can speak.
        _ if port.protocol == Protocol::Sniffed && kind == ViewpointKind::Sidecar => HttpVersion::AsClient,
        _ => HttpVersion::One,
    }
}

fn endpoints(service: &Service, subset: Option<&Subset>, port: u16) -> Vec<Endpoint> {
    let chosen = |member: &&Member| subset.is_none_or(|subset| has_labels(&member.labels, &subset.labels));
    let endpoint = |member: &Member| {
        let mut endpoint = Endpoint::new(&member.address, *member.ports.get(&port)?, &member.workload);
        endpoint.weight = member.weight;
        endpoint.locality = (*member.locality).into();
        Some(endpoint)
    };
    service.members.iter().filter(chosen).filter_map(endpoint).collect()
}
