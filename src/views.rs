//! Many viewpoints over one set of resources: what depends on what, what is shared, and what a change touches.
//!
//! A change of one VirtualService or of some endpoints touches the virtual hosts or the clusters that depend on it; all else
//! is shared with the router before. A Sidecar or Gateway touches the views that it governs. What cannot be told apart so
//! finely is resolved from nothing, so that the result is always that of [`Plan::resolve`] and [`Router::compile`].

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use crate::compile::{Made, PlanError};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::has_labels;
use crate::live::Live;
use crate::model::{DestinationRule, Object, VirtualService};
use crate::plan::Plan;
use crate::resolve::{
    Concerned, Findings, FromNothing, Keys, Mesh, Replaced, Roots, Rules, Shared, Speaking, Touched, View, Viewpoint,
    ViewpointKind, World, whose,
};
use crate::resources::{Applied, Reader, Resources};
use crate::router::Router;
use crate::yaml::Reading;

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

/// What all clients share.
#[derive(Debug)]
struct Ground {
    resources: Resources,
    mesh: Mesh,
    world: World,
    rules: Rules,
    roots: Roots,
}

impl Ground {
    fn new(resources: Resources, mesh: Mesh) -> Self {
        let (world, rules) = (World::new(&resources, &mesh), Rules::new(&resources, &mesh));
        let roots = Roots::new(&resources, &mesh);
        Ground { resources, mesh, world, rules, roots }
    }

    fn read_again(&mut self) {
        self.world = World::new(&self.resources, &self.mesh);
        self.rules = Rules::new(&self.resources, &self.mesh);
        self.roots = Roots::new(&self.resources, &self.mesh);
    }

    fn shared(&self) -> Shared<'_> {
        let Ground { resources, mesh, world, rules, roots } = self;
        Shared { resources, world, rules, roots, mesh }
    }
}

/// Clients that see the same, but for what http rules make of their labels.
#[derive(Debug)]
struct Group {
    /// With the labels that are not for http rules alone.
    viewpoint: Viewpoint,
    view: View,
    classes: Vec<Class>,
}

/// Clients that get the same answers.
#[derive(Debug)]
struct Class {
    /// With all labels that somebody asks for.
    viewpoint: Viewpoint,
    router: Arc<Router>,
    cells: Vec<Weak<Live>>,
}

/// The label pairs that some resource asks a client for.
#[derive(Debug, Default, PartialEq)]
struct Labels {
    /// Those that only http rules for exact hosts ask for.
    fine: BTreeSet<(String, String)>,
    /// All others: those of Sidecars, DestinationRules, tcp and tls rules.
    coarse: BTreeSet<(String, String)>,
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
    /// As [`Router::compile`]; what was resolved is legal, so that there are none to be expected.
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
    /// As [`Router::compile`]; whoever cannot be served keeps the router before.
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
        let touched = self.ground.world.change(before, reference, &self.ground.resources, &self.ground.mesh);
        let Touched::Endpoints(services, made) = touched else { return self.rebuild() };
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

impl Group {
    /// A group with its first class, from another group if there is one that has enough in common, else from nothing.
    fn new(
        kin: Option<&Group>,
        shared: Shared<'_>,
        keys: &mut Keys,
        coarse: Viewpoint,
        fine: Viewpoint,
    ) -> Result<Group, PlanError> {
        let forked = kin.map(|kin| kin.fork(shared, keys, &coarse, &fine));
        match forked {
            Some(Ok(group)) => Ok(group),
            Some(Err(FromNothing)) | None => Group::from_nothing(shared, keys, coarse, fine),
        }
    }

    fn from_nothing(
        shared: Shared<'_>,
        keys: &mut Keys,
        coarse: Viewpoint,
        fine: Viewpoint,
    ) -> Result<Group, PlanError> {
        let (mut view, mut plan) = View::new(shared, keys, &coarse, &mut Findings::new());
        if fine != coarse {
            plan = view.plan(shared, keys, &fine, &mut Findings::new());
        }
        let router = Arc::new(Router::compile(plan)?);
        let first = Class { viewpoint: fine, router, cells: Vec::new() };
        Ok(Group { viewpoint: coarse, view, classes: vec![first] })
    }

    /// A group with its first class, made from another group; fails where the two have too little in common.
    fn fork(
        &self,
        shared: Shared<'_>,
        keys: &mut Keys,
        coarse: &Viewpoint,
        fine: &Viewpoint,
    ) -> Result<Group, FromNothing> {
        let first = self.classes.first().ok_or(FromNothing)?;
        let names = &first.router.plan().names;
        let (mut view, concerned, names) = self.view.fork(shared, keys, (&first.viewpoint, names), (coarse, fine))?;
        let changes = view.hosts(shared, keys, &concerned, fine)?;
        let router = first.router.with_hosts(changes, view.contested(), view.clusters(), &mut Made::default())?;
        let router = router.with_names(names);
        let class = Class { viewpoint: fine.clone(), router: Arc::new(router), cells: Vec::new() };
        Ok(Group { viewpoint: coarse.clone(), view, classes: vec![class] })
    }

    /// Whether a group for this client could be made from this one.
    fn is_kin(&self, viewpoint: &Viewpoint) -> bool {
        self.view.is_open() && viewpoint.kind == ViewpointKind::Sidecar && self.viewpoint.labels == viewpoint.labels
    }

    /// The router of a further class: the first one's, but for the hosts that tell the two apart.
    fn sibling(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        viewpoint: &Viewpoint,
    ) -> Result<Arc<Router>, PlanError> {
        if let Some(first) = self.classes.first()
            && let Ok(concerned) = self.view.told_apart(shared, &first.viewpoint, viewpoint)
            && let Ok(changes) = self.view.hosts(shared, keys, &concerned, viewpoint)
            && let Ok(router) =
                first.router.with_hosts(changes, self.view.contested(), self.view.clusters(), &mut Made::default())
        {
            return Ok(Arc::new(router));
        }
        let plan = self.view.plan(shared, keys, viewpoint, &mut Findings::new());
        Ok(Arc::new(Router::compile(plan)?))
    }

    /// Whether a pod may be a gateway's own, or a Service lead to it: both say where the gateway listens.
    fn runs_on(&self, object: &Object) -> bool {
        let own = &self.viewpoint;
        let is_own = match object {
            Object::Pod(pod) => {
                pod.metadata.namespace == own.namespace && has_labels(&pod.metadata.labels, &own.labels)
            }
            Object::Service(service) => {
                service.metadata.namespace == own.namespace && has_labels(&own.labels, &service.spec.selector)
            }
            _ => false,
        };
        own.kind == ViewpointKind::Gateway && is_own
    }

    /// Whether a Sidecar may say what these clients see, or a Gateway where they listen.
    fn is_governed_by(&self, object: &Object, root_namespace: &str) -> bool {
        let own = &self.viewpoint;
        match (object, own.kind) {
            (Object::Sidecar(sidecar), ViewpointKind::Sidecar) => {
                [own.namespace.as_str(), root_namespace].contains(&sidecar.metadata.namespace.as_str())
            }
            (Object::Gateway(gateway), ViewpointKind::Gateway) => has_labels(&own.labels, &gateway.spec.selector),
            _ => false,
        }
    }

    /// Takes services with other endpoints; `None` where no cluster is another now.
    fn renew(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        services: &[Arc<crate::resolve::Service>],
    ) -> Option<&mut Self> {
        if !self.view.renew(shared, keys, services) {
            return None;
        }
        for class in &mut self.classes {
            class.router = Arc::new(class.router.with_clusters(self.view.clusters()));
        }
        Some(self)
    }

    /// Takes note that a VirtualService was replaced, and publishes what follows; fails where the group is to be made again.
    fn replace(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        replaced: &Replaced,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        let concerned = self.view.replaced(shared, replaced)?;
        if !concerned.is_empty() {
            self.patch(shared, keys, &concerned, made)?;
            self.publish();
        }
        Ok(())
    }

    /// Takes note that other DestinationRules may speak than before, and publishes what follows; fails where the group is to
    /// be made again.
    fn take_rules(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        before: Speaking,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        let Some(concerned) = self.view.rules_replaced(shared, keys, before)? else { return Ok(()) };
        if concerned.is_empty() {
            for class in &mut self.classes {
                class.router = Arc::new(class.router.with_clusters(self.view.clusters()));
            }
        } else {
            self.patch(shared, keys, &concerned, made)?;
        }
        self.publish();
        Ok(())
    }

    fn patch(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        concerned: &Concerned,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        for class in &mut self.classes {
            let changes = self.view.hosts(shared, keys, concerned, &class.viewpoint)?;
            let router = class.router.with_hosts(changes, self.view.contested(), self.view.clusters(), made)?;
            class.router = Arc::new(router);
        }
        Ok(())
    }

    /// The group with all its classes, of which nobody has a cell, as they are now.
    fn made_again(&self, kin: Option<&Group>, shared: Shared<'_>, keys: &mut Keys) -> Result<Group, PlanError> {
        let mut classes = self.classes.iter().map(|class| class.viewpoint.clone());
        let first = classes.next().unwrap_or_else(|| self.viewpoint.clone());
        let mut made = Group::new(kin, shared, keys, self.viewpoint.clone(), first)?;
        for viewpoint in classes {
            let router = made.sibling(shared, keys, &viewpoint)?;
            made.classes.push(Class { viewpoint, router, cells: Vec::new() });
        }
        Ok(made)
    }

    /// Takes the place of the group that it was made again from, and publishes what follows.
    fn supersede(mut self, before: &mut Group) {
        for (class, before) in self.classes.iter_mut().zip(&mut before.classes) {
            class.cells = std::mem::take(&mut before.cells);
        }
        *before = self;
        before.publish();
    }

    fn publish(&mut self) {
        for class in &mut self.classes {
            class.cells.retain(|cell| cell.strong_count() > 0);
            for cell in class.cells.iter().filter_map(Weak::upgrade) {
                cell.publish(class.router.clone());
            }
        }
    }
}

impl Labels {
    fn of(resources: &Resources) -> Self {
        let mut labels = Labels::default();
        resources.iter().for_each(|resource| labels.add(resource.object));
        labels
    }

    fn add(&mut self, object: &Object) {
        match object {
            Object::VirtualService(rules) => self.add_rules(rules),
            Object::DestinationRule(rule) => {
                self.coarse.extend(pairs(rule.spec.workload_selector.iter().map(|selector| &selector.match_labels)));
            }
            Object::Sidecar(sidecar) => {
                self.coarse.extend(pairs(sidecar.spec.workload_selector.iter().map(|selector| &selector.labels)));
            }
            _ => {} // A Gateway asks gateways, which keep all their labels.
        }
    }

    /// Whether clients are told apart by all that a resource asks them for.
    fn know(&self, object: &Object) -> bool {
        let mut asked = Labels::default();
        asked.add(object);
        asked.coarse.is_subset(&self.coarse) && asked.fine.is_subset(&self.fine)
    }

    fn add_rules(&mut self, rules: &VirtualService) {
        let spec = &rules.spec;
        let http = spec.http.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        let exact = !spec.hosts.is_empty() && spec.hosts.iter().all(|host| !host.starts_with('*'));
        let is_fine = exact && spec.tcp.is_empty() && spec.tls.is_empty();
        let place = if is_fine { &mut self.fine } else { &mut self.coarse };
        place.extend(pairs(http.map(|block| &block.source_labels)));
        let tcp = spec.tcp.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        self.coarse.extend(pairs(tcp.map(|block| &block.source_labels)));
        let tls = spec.tls.iter().flatten().flat_map(|rule| rule.r#match.iter().flatten());
        self.coarse.extend(pairs(tls.map(|block| &block.source_labels)));
    }

    /// A viewpoint with no other labels than those that somebody asks for. A gateway keeps all: Services ask for them, and it
    /// asks its own pods.
    fn cut(&self, viewpoint: &Viewpoint, fine: bool) -> Viewpoint {
        let mut cut = viewpoint.clone();
        if viewpoint.kind == ViewpointKind::Gateway {
            return cut;
        }
        cut.labels.retain(|key, value| {
            let pair = (key.clone(), value.clone());
            self.coarse.contains(&pair) || (fine && self.fine.contains(&pair))
        });
        cut
    }
}

fn pairs<'l>(
    labels: impl IntoIterator<Item = &'l std::collections::BTreeMap<String, String>>,
) -> impl Iterator<Item = (String, String)> {
    labels.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()))
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
