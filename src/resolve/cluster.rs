//! The clusters that routes name, each once: which exist, with which endpoints and policy.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::destination_rule::{Rule, Rules};
use super::registry::{Kind, Member, Registry, Service};
use super::{Mesh, Viewpoint};
use crate::kubernetes::has_labels;
use crate::model::destination_rule::Subset;
use crate::plan::{Cluster, Endpoint, HashKey, LoadBalancer};

/// What one client's routes name so far.
pub(super) struct Clusters<'r> {
    pub(super) registry: &'r Registry,
    rules: &'r Rules,
    viewpoint: &'r Viewpoint,
    mesh: &'r Mesh,
    index: HashMap<(Rc<str>, Rc<str>, u16), u32>,
    list: Vec<Arc<Cluster>>,
}

impl<'r> Clusters<'r> {
    pub(super) fn new(registry: &'r Registry, rules: &'r Rules, viewpoint: &'r Viewpoint, mesh: &'r Mesh) -> Self {
        Clusters { registry, rules, viewpoint, mesh, index: HashMap::new(), list: Vec::new() }
    }

    /// The index of a cluster, made if it is new.
    pub(super) fn intern(&mut self, host: &str, subset: &str, port: u16) -> u32 {
        let host = self.stands_for(host);
        let key: (Rc<str>, Rc<str>, u16) = (host.as_str().into(), subset.into(), port);
        if let Some(&known) = self.index.get(&key) {
            return known;
        }
        let id = self.list.len() as u32;
        self.list.push(Arc::new(self.make(&host, subset, port)));
        self.index.insert(key, id);
        id
    }

    pub(super) fn get(&self, id: u32) -> &Cluster {
        &self.list[id as usize]
    }

    pub(super) fn into_list(self) -> Vec<Arc<Cluster>> {
        self.list
    }

    /// An ExternalName service stands for the host that it names.
    fn stands_for(&self, host: &str) -> String {
        let alias = self.registry.find(host).and_then(|service| service.alias_of.clone());
        alias.unwrap_or_else(|| host.to_string())
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
        let Some(service) = self.registry.find(host).filter(|service| service.port(port).is_some()) else { return missing };
        let rule = self.rule(host);
        let chosen = rule.and_then(|rule| rule.subset(subset));
        if !subset.is_empty() && chosen.is_none() {
            return Cluster { rule: rule.map(|rule| rule.resource.clone()), ..missing };
        }
        let endpoints = endpoints(service, chosen, port);
        let mut policy = rule.map(|rule| rule.policy(chosen, port)).unwrap_or_default();
        if service.kind == Kind::Passthrough {
            policy.load_balancer = LoadBalancer::Passthrough;
        }
        Cluster {
            // A ServiceEntry without endpoints makes no cluster (istio `cluster_builder.go:515`).
            exists: service.kubernetes || service.kind == Kind::Passthrough || !endpoints.is_empty(),
            endpoints: endpoints.into(),
            policy,
            rule: rule.map(|rule| rule.resource.clone()),
            ..missing
        }
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
