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
use crate::resolve::{FromNothing, Keys, Mesh, Touched, Turnover, Viewpoint, whose};
use crate::resources::{Applied, Before, Reader, Resources, Scope};
use crate::yaml::Reading;
use ground::Ground;
use group::{Class, Group, Standing};
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
    /// Something changed that cannot be followed: all is to be made from nothing.
    behind: bool,
}

/// So many changes at a time are followed one by one, or a part of the resources that is as small.
const FEW: usize = 16;

impl Views {
    /// Views over resources; nobody looks yet.
    pub fn new(resources: Resources, mesh: Mesh) -> Self {
        let labels = Labels::of(&resources);
        let (keys, groups, cells) = (Keys::default(), Vec::new(), Vec::new());
        Views { ground: Ground::new(resources, mesh), keys, added: 0, labels, groups, cells, behind: false }
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
            self.follow(&reference, before);
            self.settle()?;
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
            self.follow(reference, before);
            self.settle()?;
        }
        Ok(was_there)
    }

    /// Reads a text, applies what is in it and publishes what follows, all at once. Hands back what was found wrong with the
    /// text.
    pub fn apply_text(&mut self, text: &str, file: &str, reading: Reading) -> Vec<Diagnostic> {
        let mut reader = Reader::new(reading);
        reader.text(text, file);
        self.take(reader, Scope::Part)
    }

    /// Makes the resources what was read ([`Resources::replace`]) and publishes what follows, all at once.
    pub fn replace(&mut self, reader: Reader) -> Vec<Diagnostic> {
        self.take(reader, Scope::Whole)
    }

    /// Many changes that are published as one. A few among many resources are followed one by one.
    fn take(&mut self, reader: Reader, scope: Scope) -> Vec<Diagnostic> {
        let (changes, findings) = self.ground.resources.changes(reader, scope);
        let all = self.ground.resources.iter().count();
        self.behind |= changes.len() > FEW.max(all / FEW) || (self.groups.is_empty() && !changes.is_empty());
        for change in changes {
            let reference = change.reference.clone();
            if let Some(before) = self.ground.resources.take(change) {
                self.follow(&reference, before);
            }
        }
        // INVARIANT: what was resolved compiles; where it did not, the routers before stay in force.
        let _ = self.settle();
        findings
    }

    /// Takes note of a change of one resource, which is published when all is [settled](Views::settle).
    fn follow(&mut self, reference: &ResourceRef, before: Before) {
        if self.behind || self.is_littered() {
            self.behind = true;
            return;
        }
        let (known, before) = (self.keys.len(), before.as_ref().map(|(object, applied)| (&**object, *applied)));
        let object = before.map(|(object, _)| object);
        let followed = match &*reference.kind {
            "VirtualService" => self.rules_changed(reference, before),
            "Pod" | "EndpointSlice" | "Endpoints" | "WorkloadEntry" | "Service" | "ServiceEntry" | "Deployment" => {
                self.services_changed(reference, object)
            }
            "Sidecar" | "Gateway" => self.scope_changed(reference, object),
            "DestinationRule" => self.policy_changed(reference, object),
            _ => Ok(()), // Nothing else has a part in routing.
        };
        self.behind = followed.is_err();
        self.added += self.keys.len() - known;
    }

    fn services_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), FromNothing> {
        let (services, made) =
            match self.ground.world.change(before, reference, &self.ground.resources, &self.ground.mesh) {
                Touched::Endpoints(services, made) => (services, made),
                Touched::Services(turnover) => {
                    self.services_turned_over(reference, before, &turnover);
                    return Ok(());
                }
                Touched::More => return Err(FromNothing),
            };
        let made: Vec<Object> = made.into_iter().map(Object::Pod).collect();
        let shared = self.ground.shared();
        let concerned: Vec<&Object> =
            before.into_iter().chain(self.ground.resources.find(reference)).chain(&made).collect();
        for group in up_to_date(&mut self.groups) {
            if concerned.iter().any(|object| group.runs_on(object)) {
                group.standing = Standing::Stale;
            } else {
                group.renew(shared, &mut self.keys, &services);
            }
        }
        Ok(())
    }

    /// Services that came, went or changed their shape.
    fn services_turned_over(&mut self, reference: &ResourceRef, before: Option<&Object>, turnover: &Turnover) {
        let (shared, mut made) = (self.ground.shared(), Made::default());
        let both: Vec<&Object> = before.into_iter().chain(self.ground.resources.find(reference)).collect();
        for group in up_to_date(&mut self.groups) {
            let leads = both.iter().any(|object| group.runs_on(object));
            if leads || group.turn_over(shared, &mut self.keys, turnover, &mut made).is_err() {
                group.standing = Standing::Stale;
            }
        }
    }

    /// A Sidecar or Gateway: what others see stays as it is.
    fn scope_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), FromNothing> {
        let now = self.ground.resources.find(reference);
        if !now.is_none_or(|now| self.labels.know(now)) {
            return Err(FromNothing);
        }
        let both: Vec<&Object> = before.into_iter().chain(now).collect();
        let root = &self.ground.mesh.root_namespace;
        let governed = |group: &&mut Group| both.iter().any(|object| group.is_governed_by(object, root));
        self.groups.iter_mut().filter(governed).for_each(|group| group.standing = Standing::Stale);
        Ok(())
    }

    fn rules_changed(&mut self, reference: &ResourceRef, before: Option<(&Object, u64)>) -> Result<(), FromNothing> {
        let before = before.and_then(|(object, applied)| Some((as_rules(object)?, applied)));
        let now = self.ground.resources.get(reference);
        let now = now.and_then(|resource| Some((as_rules(resource.object)?, resource.applied)));
        let asked = |rules: Option<(&VirtualService, u64)>| {
            let mut labels = Labels::default();
            rules.into_iter().for_each(|(rules, _)| labels.add_rules(rules));
            labels
        };
        // A delegate's rules stand in others.
        let is_delegate = |(rules, _): &(&VirtualService, u64)| rules.spec.hosts.is_empty();
        if asked(before) != asked(now) || before.iter().chain(&now).any(is_delegate) {
            return Err(FromNothing);
        }
        let replaced = self.ground.roots.replace(before, now, &self.ground.resources, &self.ground.mesh);
        let (shared, mut made) = (self.ground.shared(), Made::default());
        for group in up_to_date(&mut self.groups) {
            if group.replace(shared, &mut self.keys, &replaced, &mut made).is_err() {
                group.standing = Standing::Stale;
            }
        }
        Ok(())
    }

    fn policy_changed(&mut self, reference: &ResourceRef, before: Option<&Object>) -> Result<(), FromNothing> {
        let both = before.into_iter().chain(self.ground.resources.find(reference)).filter_map(as_policy);
        let asked: Vec<_> = both.clone().map(|rule| &rule.spec.workload_selector).collect();
        let patterns: BTreeSet<_> = both.flat_map(|rule| whose(rule, &self.ground.mesh).ok()).collect();
        if asked.iter().any(|selector| selector.is_some()) {
            return Err(FromNothing);
        }
        let shared = self.ground.shared();
        let before: Vec<_> = up_to_date(&mut self.groups).map(|group| group.view.speaking(shared, &patterns)).collect();
        self.ground.rules.change(&patterns, reference, &self.ground.resources, &self.ground.mesh);
        let (shared, mut made) = (self.ground.shared(), Made::default());
        for (group, before) in up_to_date(&mut self.groups).zip(before) {
            if group.take_rules(shared, &mut self.keys, before, &mut made).is_err() {
                group.standing = Standing::Stale;
            }
        }
        Ok(())
    }

    /// Publishes what follows from all changes that were followed, having made again what could not follow.
    fn settle(&mut self) -> Result<(), PlanError> {
        if self.behind {
            return self.rebuild();
        }
        let known = self.keys.len();
        let outcome = (0..self.groups.len()).try_for_each(|at| self.make_again(at));
        self.added += self.keys.len() - known;
        let ahead = self.groups.iter_mut().filter(|group| group.standing == Standing::Ahead);
        ahead.for_each(Group::publish);
        outcome
    }

    /// Makes a group again if a change could not be told to it.
    fn make_again(&mut self, at: usize) -> Result<(), PlanError> {
        let old = &self.groups[at];
        if old.standing != Standing::Stale {
            return Ok(());
        }
        let is_kin = |group: &&Group| group.standing != Standing::Stale && group.is_kin(&old.viewpoint);
        let kin = self.groups.iter().find(is_kin);
        let made = old.made_again(kin, self.ground.shared(), &mut self.keys)?;
        made.supersede(&mut self.groups[at]);
        Ok(())
    }

    /// Whether half of the clusters may be named by nobody any more.
    fn is_littered(&self) -> bool {
        self.added > (self.keys.len() - self.added).max(64)
    }

    /// Everything from nothing, for every cell that somebody keeps.
    fn rebuild(&mut self) -> Result<(), PlanError> {
        self.behind = false;
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

/// The groups that can follow a change.
fn up_to_date(groups: &mut [Group]) -> impl Iterator<Item = &mut Group> {
    groups.iter_mut().filter(|group| group.standing != Standing::Stale)
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
