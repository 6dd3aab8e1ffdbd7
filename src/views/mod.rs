//! Many viewpoints over one set of resources: what depends on what, what is shared, and what a change touches.
//!
//! A change of one VirtualService or of some endpoints touches the virtual hosts or the clusters that depend on it; all else
//! is shared with the router before. So it is with a Service or ServiceEntry that comes or goes. A Sidecar or Gateway touches
//! the views that it governs. What cannot be told apart so finely is resolved from nothing, so that the result is always that
//! of [`Plan::resolve`] and [`Router::compile`](crate::Router::compile).

mod ground;
mod group;
mod labels;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use crate::compile::{Made, PlanError};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::live::Live;
use crate::model::{DestinationRule, Object, VirtualService};
use crate::plan::Plan;
use crate::resolve::{Keys, Mesh, Touched, Turnover, Viewpoint, whose};
use crate::resources::{Applied, Reader, Resources};
use crate::yaml::Reading;
use ground::Ground;
use group::{Class, Group};
use labels::Labels;

/// Resources, and what they mean to each of many clients: kept up to date change by change.
///
/// Each client has a [`Live`] cell. A change is published to all cells that it touches before the call returns; each
/// cell is swapped whole. Clients that see the same share it.
///
/// ```
/// use meshroute::{Mesh, Reading, Request, Resources, Roll, Viewpoint, Views};
/// let mut views = Views::new(Resources::new(), Mesh::default());
/// let live = views.open(&Viewpoint::sidecar("default"))?;
/// let text = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, name: http}]}}";
/// views.apply_text(text, "web.yaml", Reading::Strict);
/// let router = live.load();
/// let decision = router.decide(&Request::new("GET", "web", "/"), &Roll::seeded(1));
/// assert_eq!(decision.cluster().map(|cluster| &*cluster.host), Some("web.default.svc.cluster.local"));
/// # Ok::<(), meshroute::PlanError>(())
/// ```
#[derive(Debug)]
pub struct Views {
    ground: Ground,
    /// The clusters that somebody named, and how many were new to a change since all was made from nothing.
    keys: Keys,
    added: usize,
    labels: Labels,
    groups: Vec<Group>,
    cells: Vec<(Viewpoint, Weak<Live>)>,
}

impl Views {
    /// Views over resources; nobody looks yet.
    pub fn new(resources: Resources, mesh: Mesh) -> Self {
        let labels = Labels::of(&resources);
        let (keys, groups, cells) = (Keys::default(), Vec::new(), Vec::new());
        Views { ground: Ground::new(resources, mesh), keys, added: 0, labels, groups, cells }
    }

    /// The resources as they are.
    pub fn resources(&self) -> &Resources {
        &self.ground.resources
    }

    /// A cell that holds a client's router from now on, as long as somebody keeps the cell.
    ///
    /// # Errors
    /// As [`Router::compile`](crate::Router::compile); what was resolved is legal, so that there are none to be expected.
    pub fn open(&mut self, viewpoint: &Viewpoint) -> Result<Arc<Live>, PlanError> {
        let (group, class) = self.class(viewpoint)?;
        let class = &mut self.groups[group].classes[class];
        let live = Arc::new(Live::new(class.router.clone()));
        class.cells.push(Arc::downgrade(&live));
        self.cells.push((viewpoint.clone(), Arc::downgrade(&live)));
        Ok(live)
    }

    /// What is wrong with the resources for one client, as [`Plan::resolve`] tells it; worked out anew with each call.
    pub fn findings(&self, viewpoint: &Viewpoint) -> Vec<Diagnostic> {
        Plan::resolve(&self.ground.resources, viewpoint, &self.ground.mesh).findings
    }

    /// Applies a resource under its kind, namespace and name, and publishes what follows.
    ///
    /// # Errors
    /// As [`Router::compile`](crate::Router::compile); whoever cannot be served keeps the router before.
    pub fn apply(&mut self, object: impl Into<Object>) -> Result<Applied, PlanError> {
        let object = object.into();
        let metadata = object.metadata();
        let reference = ResourceRef::new(object.kind(), &metadata.namespace, &metadata.name);
        let before = self.ground.resources.shared(&reference);
        let applied = self.ground.resources.apply(object);
        if applied != Applied::Unchanged {
            self.changed(&reference, before)?;
        }
        Ok(applied)
    }

    /// Deletes a resource and publishes what follows; says whether it was there.
    ///
    /// # Errors
    /// As [`Views::apply`].
    pub fn delete(&mut self, reference: &ResourceRef) -> Result<bool, PlanError> {
        let before = self.ground.resources.shared(reference);
        let was_there = self.ground.resources.delete(reference);
        if was_there {
            self.changed(reference, before)?;
        }
        Ok(was_there)
    }

    /// Reads a text, applies what is in it and publishes what follows, all at once. Hands back what was found wrong with the
    /// text.
    pub fn apply_text(&mut self, text: &str, file: &str, reading: Reading) -> Vec<Diagnostic> {
        self.change_all(|resources| resources.apply_text(text, file, reading))
    }

    /// Makes the resources what was read ([`Resources::replace`]) and publishes what follows, all at once.
    pub fn replace(&mut self, reader: Reader) -> Vec<Diagnostic> {
        self.change_all(|resources| resources.replace(reader))
    }

    /// Many changes that are published as one: from nothing.
    fn change_all(&mut self, change: impl FnOnce(&mut Resources) -> Vec<Diagnostic>) -> Vec<Diagnostic> {
        let before = self.ground.resources.revision();
        let findings = change(&mut self.ground.resources);
        if self.ground.resources.revision() != before {
            // INVARIANT: what was resolved compiles; where it did not, the routers before stay in force.
            let _ = self.rebuild();
        }
        findings
    }

    /// Publishes what follows from a change of one resource.
    fn changed(&mut self, reference: &ResourceRef, before: Option<(Arc<Object>, u64)>) -> Result<(), PlanError> {
        match &*reference.kind {
            "VirtualService" => self.rules_changed(reference, before),
            "Pod" | "EndpointSlice" | "Endpoints" | "WorkloadEntry" | "Service" | "ServiceEntry" | "Deployment" => {
                self.services_changed(reference, before.as_ref().map(|(object, _)| &**object))
            }
            "Sidecar" | "Gateway" => self.scope_changed(reference, before.as_ref().map(|(object, _)| &**object)),
            "DestinationRule" => self.policy_changed(reference, before.as_ref().map(|(object, _)| &**object)),
            _ => Ok(()), // Nothing else has a part in routing.
        }
    }

    fn services_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), PlanError> {
        let (services, made) =
            match self.ground.world.change(before, reference, &self.ground.resources, &self.ground.mesh) {
                Touched::Endpoints(services, made) => (services, made),
                Touched::Services(turnover) => return self.services_turned_over(reference, before, &turnover),
                Touched::More => return self.rebuild(),
            };
        let made: Vec<Object> = made.into_iter().map(Object::Pod).collect();
        let shared = self.ground.shared();
        let concerned: Vec<&Object> =
            before.into_iter().chain(self.ground.resources.find(reference)).chain(&made).collect();
        let mut stale = BTreeSet::new();
        for (at, group) in self.groups.iter_mut().enumerate() {
            if concerned.iter().any(|object| group.runs_on(object)) {
                stale.insert(at);
            } else if let Some(group) = group.renew(shared, &mut self.keys, &services) {
                group.publish();
            }
        }
        self.make_again(stale)
    }

    /// Services that came, went or changed their shape.
    fn services_turned_over(
        &mut self,
        reference: &ResourceRef,
        before: Option<&Object>,
        turnover: &Turnover,
    ) -> Result<(), PlanError> {
        if self.is_littered() {
            return self.rebuild();
        }
        let (known, mut made) = (self.keys.len(), Made::default());
        let shared = self.ground.shared();
        let both: Vec<&Object> = before.into_iter().chain(self.ground.resources.find(reference)).collect();
        let mut stale = BTreeSet::new();
        for (at, group) in self.groups.iter_mut().enumerate() {
            let leads = both.iter().any(|object| group.runs_on(object));
            if leads || group.turn_over(shared, &mut self.keys, turnover, &mut made).is_err() {
                stale.insert(at);
            }
        }
        let outcome = self.make_again(stale);
        self.added += self.keys.len() - known;
        outcome
    }

    /// A Sidecar or Gateway: what others see stays as it is.
    fn scope_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), PlanError> {
        let now = self.ground.resources.find(reference);
        if !now.is_none_or(|now| self.labels.know(now)) || self.is_littered() {
            return self.rebuild();
        }
        let both: Vec<&Object> = before.into_iter().chain(now).collect();
        let root = &self.ground.mesh.root_namespace;
        let governed = |group: &Group| both.iter().any(|object| group.is_governed_by(object, root));
        let stale = self.groups.iter().enumerate().filter(|(_, group)| governed(group)).map(|(at, _)| at).collect();
        let known = self.keys.len();
        let outcome = self.make_again(stale);
        self.added += self.keys.len() - known;
        outcome
    }

    fn rules_changed(&mut self, reference: &ResourceRef, before: Option<(Arc<Object>, u64)>) -> Result<(), PlanError> {
        let before = before.as_ref().and_then(|(object, applied)| Some((as_rules(object)?, *applied)));
        let now = self.ground.resources.get(reference);
        let now = now.and_then(|resource| Some((as_rules(resource.object)?, resource.applied)));
        let asked = |rules: Option<(&VirtualService, u64)>| {
            let mut labels = Labels::default();
            rules.into_iter().for_each(|(rules, _)| labels.add_rules(rules));
            labels
        };
        // A delegate's rules stand in others.
        let is_delegate = |(rules, _): &(&VirtualService, u64)| rules.spec.hosts.is_empty();
        if asked(before) != asked(now) || before.iter().chain(&now).any(is_delegate) || self.is_littered() {
            return self.rebuild();
        }
        let replaced = self.ground.roots.replace(before, now, &self.ground.resources, &self.ground.mesh);
        let (known, mut made) = (self.keys.len(), Made::default());
        let shared = self.ground.shared();
        let mut stale = BTreeSet::new();
        for (at, group) in self.groups.iter_mut().enumerate() {
            if group.replace(shared, &mut self.keys, &replaced, &mut made).is_err() {
                stale.insert(at);
            }
        }
        self.added += self.keys.len() - known;
        self.make_again(stale)
    }

    fn policy_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), PlanError> {
        let both = before.into_iter().chain(self.ground.resources.find(reference)).filter_map(as_policy);
        let asked: Vec<_> = both.clone().map(|rule| &rule.spec.workload_selector).collect();
        let patterns: BTreeSet<_> = both.flat_map(|rule| whose(rule, &self.ground.mesh).ok()).collect();
        if asked.iter().any(|selector| selector.is_some()) || self.is_littered() {
            return self.rebuild();
        }
        let shared = self.ground.shared();
        let before: Vec<_> = self.groups.iter().map(|group| group.view.speaking(shared, &patterns)).collect();
        self.ground.rules.change(&patterns, reference, &self.ground.resources, &self.ground.mesh);
        let (known, mut made) = (self.keys.len(), Made::default());
        let shared = self.ground.shared();
        let mut stale = BTreeSet::new();
        for (at, (group, before)) in self.groups.iter_mut().zip(before).enumerate() {
            if group.take_rules(shared, &mut self.keys, before, &mut made).is_err() {
                stale.insert(at);
            }
        }
        self.added += self.keys.len() - known;
        self.make_again(stale)
    }

    /// Makes groups again that a change could not be told to.
    fn make_again(&mut self, mut stale: BTreeSet<usize>) -> Result<(), PlanError> {
        let shared = self.ground.shared();
        while let Some(at) = stale.pop_first() {
            let old = &self.groups[at];
            let mut fresh = self.groups.iter().enumerate().filter(|(other, _)| *other != at && !stale.contains(other));
            let kin = fresh.find(|(_, group)| group.is_kin(&old.viewpoint)).map(|(_, group)| group);
            let made = old.made_again(kin, shared, &mut self.keys)?;
            made.supersede(&mut self.groups[at]);
        }
        Ok(())
    }

    /// Whether half of the clusters may be named by nobody any more.
    fn is_littered(&self) -> bool {
        self.added > (self.keys.len() - self.added).max(64)
    }

    /// Everything from nothing, for every cell that somebody keeps.
    fn rebuild(&mut self) -> Result<(), PlanError> {
        self.ground.read_again();
        self.labels = Labels::of(&self.ground.resources);
        (self.keys, self.added) = (Keys::default(), 0);
        self.groups.clear();
        self.cells.retain(|(_, cell)| cell.strong_count() > 0);
        for at in 0..self.cells.len() {
            let (viewpoint, cell) = self.cells[at].clone();
            let (group, class) = self.class(&viewpoint)?;
            self.groups[group].classes[class].cells.push(cell);
        }
        for group in &mut self.groups {
            group.publish();
        }
        Ok(())
    }

    /// The group and class of a client, made where it is the first of them.
    fn class(&mut self, viewpoint: &Viewpoint) -> Result<(usize, usize), PlanError> {
        let coarse = self.labels.cut(viewpoint, false);
        let fine = self.labels.cut(viewpoint, true);
        let shared = self.ground.shared();
        let Some(at) = self.groups.iter().position(|group| group.viewpoint == coarse) else {
            let kin = self.groups.iter().find(|group| group.is_kin(&coarse));
            let made = Group::new(kin, shared, &mut self.keys, coarse, fine)?;
            self.groups.push(made);
            return Ok((self.groups.len() - 1, 0));
        };
        let group = &mut self.groups[at];
        if let Some(class) = group.classes.iter().position(|class| class.viewpoint == fine) {
            return Ok((at, class));
        }
        let router = group.sibling(shared, &mut self.keys, &fine)?;
        group.classes.push(Class { viewpoint: fine, router, cells: Vec::new() });
        Ok((at, group.classes.len() - 1))
    }
}

fn as_policy(object: &Object) -> Option<&DestinationRule> {
    match object {
        Object::DestinationRule(rule) => Some(rule),
        _ => None,
    }
}

fn as_rules(object: &Object) -> Option<&VirtualService> {
    match object {
        Object::VirtualService(rules) => Some(rules),
        _ => None,
    }
}
