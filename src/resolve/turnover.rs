//! What a client sees after a Service or ServiceEntry has come, gone or changed its shape, made from what it saw before.
//!
//! The services before and after are compared host by host, as [`apart`](super::apart) compares those of two namespaces;
//! and as there, a difference that reaches further than single virtual hosts, clusters and names is said to be one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::apart::Pair;
use super::registry::{Registry, Service};
use super::view::{Concerned, FromNothing, Shared, View};
use super::{Keys, ViewpointKind};
use crate::name::HostPattern;
use crate::plan::Names;

/// The hosts that a resource declared or declares, with the services that they had, whoever saw them.
#[derive(Debug)]
pub(crate) struct Turnover(pub(super) Vec<(HostPattern, Vec<Arc<Service>>)>);

impl Turnover {
    fn hosts(&self) -> impl Iterator<Item = &HostPattern> {
        self.0.iter().map(|(host, _)| host)
    }
}

impl View {
    /// Takes other services: with the virtual hosts that may be others now, and what DNS answers. `None` where the client
    /// sees none of them, neither before nor now.
    pub(crate) fn turn_over(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        turnover: &Turnover,
        names: &Names,
    ) -> Result<Option<(Concerned, Names)>, FromNothing> {
        let before = self.seen_before(shared, turnover);
        if before.is_empty() {
            return Ok(None);
        }
        if self.viewpoint.kind == ViewpointKind::Gateway {
            return Ok(Some((self.turn_over_behind(shared, keys, &before)?, names.clone())));
        }
        if !self.is_open() {
            return Err(FromNothing);
        }
        let now = Registry::new(shared.world, &self.sight);
        let mut ports = self.ports.clone();
        before.values().flatten().for_each(|service| ports.remove(service));
        before.keys().filter_map(|host| now.find(host)).for_each(|service| ports.add(service));
        let own = &self.viewpoint;
        let mut pair = Pair::new(shared, (own, now.with(&before)), (own, now));
        let steady: BTreeSet<u16> =
            ports.iter().filter(|&port| ports.is_open(port) && self.ports.is_open(port)).collect();
        for host in turnover.hosts().filter(|host| before.contains_key(host.as_str())) {
            pair.service(host, &steady, &ports)?;
        }
        pair.speakers(BTreeSet::new(), &ports)?;
        if cfg!(meshroute_fault = "turnover") {
            pair.concerned.pairs.pop_last(); // planted: one that depends on it is left as it was
        }
        let names = pair.names(names);
        let Pair { concerned, clusters, .. } = pair;
        self.ports = ports;
        self.remake(shared, keys, clusters.iter().map(HostPattern::as_str));
        Ok(Some((concerned, names)))
    }

    /// For a gateway, services are clusters, and have a part in the rules that lead to them: in the port that these mean, and in
    /// what their requests stick by.
    fn turn_over_behind(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        before: &HashMap<String, Option<Arc<Service>>>,
    ) -> Result<Concerned, FromNothing> {
        if self.lists_clusters {
            return Err(FromNothing);
        }
        let concerned = self.claimed_by(shared, before.keys().flat_map(|host| shared.roots.leading(host)))?;
        self.remake(shared, keys, before.keys().map(String::as_str));
        Ok(concerned)
    }

    /// What the client saw of each host of which it sees something else now.
    fn seen_before(&self, shared: Shared<'_>, turnover: &Turnover) -> HashMap<String, Option<Arc<Service>>> {
        let seen = turnover.0.iter().filter_map(|(host, candidates)| {
            let before = self.sight.among(host.as_str(), candidates);
            let now = self.sight.looked_up(shared.world, host.as_str(), &self.scope);
            let same = before.as_ref().map(Arc::as_ptr) == now.as_ref().map(Arc::as_ptr);
            (!same).then(|| (host.as_str().to_string(), before))
        });
        seen.collect()
    }
}
