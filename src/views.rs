//! Many viewpoints over one set of resources: what depends on what, what is shared, and what a change touches.
//!
//! A change of one VirtualService or of some endpoints touches the virtual hosts or the clusters that depend on it; all else
//! is shared with the router before. What cannot be told apart so finely is resolved from nothing, so that the result is
//! always that of [`Plan::resolve`] and [`Router::compile`].

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

use crate::compile::PlanError;
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::has_labels;
use crate::live::Live;
use crate::model::{Object, VirtualService};
use crate::plan::Plan;
use crate::resolve::{
    Concerned, Findings, FromNothing, Mesh, Rules, Shared, Touched, View, Viewpoint, ViewpointKind, World,
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
    resources: Resources,
    mesh: Mesh,
    world: World,
    rules: Rules,
    labels: Labels,
    groups: Vec<Group>,
    cells: Vec<(Viewpoint, Weak<Live>)>,
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
    /// All others: those of Sidecars, Gateways, DestinationRules, tcp and tls rules.
    coarse: BTreeSet<(String, String)>,
}

impl Views {
    /// Views over resources; nobody looks yet.
    pub fn new(resources: Resources, mesh: Mesh) -> Self {
        let (world, rules) = (World::new(&resources, &mesh), Rules::new(&resources, &mesh));
        let labels = Labels::of(&resources);
        Views { resources, mesh, world, rules, labels, groups: Vec::new(), cells: Vec::new() }
    }

    /// The resources as they are.
    pub fn resources(&self) -> &Resources {
        &self.resources
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
        Plan::resolve(&self.resources, viewpoint, &self.mesh).findings
    }

    /// Applies a resource under its kind, namespace and name, and publishes what follows.
    ///
    /// # Errors
    /// As [`Router::compile`]; whoever cannot be served keeps the router before.
    pub fn apply(&mut self, object: impl Into<Object>) -> Result<Applied, PlanError> {
        let object = object.into();
        let metadata = object.metadata();
        let reference = ResourceRef::new(object.kind(), &metadata.namespace, &metadata.name);
        let before = self.resources.shared(&reference);
        let applied = self.resources.apply(object);
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
        let before = self.resources.shared(reference);
        let was_there = self.resources.delete(reference);
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
        let before = self.resources.revision();
        let findings = change(&mut self.resources);
        if self.resources.revision() != before {
            // INVARIANT: what was resolved compiles; where it did not, the routers before stay in force.
            let _ = self.rebuild();
        }
        findings
    }

    /// Publishes what follows from a change of one resource.
    fn changed(&mut self, reference: &ResourceRef, before: Option<(Arc<Object>, u64)>) -> Result<(), PlanError> {
        match &*reference.kind {
            "VirtualService" => self.rules_changed(reference, before),
            "Pod" | "EndpointSlice" | "Endpoints" | "WorkloadEntry" => {
                let before = before.as_ref().map(|(object, _)| &**object);
                match self.world.change(before, reference, &self.resources, &self.mesh) {
                    Touched::Endpoints(services) => {
                        let shared = shared(&self.resources, &self.world, &self.rules, &self.mesh);
                        let pods: Vec<_> = before.into_iter().chain(self.resources.find(reference)).collect();
                        for group in &mut self.groups {
                            if pods.iter().any(|pod| group.runs_on(pod)) {
                                group.rebuild(shared)?;
                                group.publish();
                            } else if let Some(group) = group.renew(shared, &services) {
                                group.publish();
                            }
                        }
                        Ok(())
                    }
                    Touched::More => self.rebuild(),
                }
            }
            "Service" | "ServiceEntry" | "Deployment" | "DestinationRule" | "Sidecar" | "Gateway" => self.rebuild(),
            _ => Ok(()), // Nothing else has a part in routing.
        }
    }

    fn rules_changed(&mut self, reference: &ResourceRef, before: Option<(Arc<Object>, u64)>) -> Result<(), PlanError> {
        let before = before.as_ref().and_then(|(object, applied)| Some((as_rules(object)?, *applied)));
        let now = self.resources.get(reference);
        let now = now.and_then(|resource| Some((as_rules(resource.object)?, resource.applied)));
        let asked = |rules: Option<(&VirtualService, u64)>| {
            let mut labels = Labels::default();
            rules.into_iter().for_each(|(rules, _)| labels.add_rules(rules));
            labels
        };
        if asked(before) != asked(now) {
            return self.rebuild();
        }
        let shared = shared(&self.resources, &self.world, &self.rules, &self.mesh);
        for group in &mut self.groups {
            group.replace(shared, before, now)?;
        }
        Ok(())
    }

    /// Everything from nothing, for every cell that somebody keeps.
    fn rebuild(&mut self) -> Result<(), PlanError> {
        self.world = World::new(&self.resources, &self.mesh);
        self.rules = Rules::new(&self.resources, &self.mesh);
        self.labels = Labels::of(&self.resources);
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
        let shared = shared(&self.resources, &self.world, &self.rules, &self.mesh);
        let Some(at) = self.groups.iter().position(|group| group.viewpoint == coarse) else {
            self.groups.push(Group::new(shared, coarse, fine)?);
            return Ok((self.groups.len() - 1, 0));
        };
        let group = &mut self.groups[at];
        if let Some(class) = group.classes.iter().position(|class| class.viewpoint == fine) {
            return Ok((at, class));
        }
        let router = group.sibling(shared, &fine)?;
        group.classes.push(Class { viewpoint: fine, router, cells: Vec::new() });
        Ok((at, group.classes.len() - 1))
    }
}

impl Group {
    /// A group with its first class.
    fn new(shared: Shared<'_>, coarse: Viewpoint, fine: Viewpoint) -> Result<Group, PlanError> {
        let (mut view, mut plan) = View::new(shared, &coarse, &mut Findings::new());
        if fine != coarse {
            plan = view.plan(shared, &fine, &mut Findings::new());
        }
        let router = Arc::new(Router::compile(plan)?);
        let first = Class { viewpoint: fine, router, cells: Vec::new() };
        Ok(Group { viewpoint: coarse, view, classes: vec![first] })
    }

    /// The router of a further class: the first one's, but for the hosts that tell the two apart.
    fn sibling(&mut self, shared: Shared<'_>, viewpoint: &Viewpoint) -> Result<Arc<Router>, PlanError> {
        if let Some(first) = self.classes.first()
            && let Ok(concerned) = self.view.told_apart(&first.viewpoint, viewpoint)
            && let Ok(changes) = self.view.hosts(shared, &concerned, viewpoint)
            && let Ok(router) = first.router.with_hosts(changes, self.view.clusters())
        {
            return Ok(Arc::new(router));
        }
        let plan = self.view.plan(shared, viewpoint, &mut Findings::new());
        Ok(Arc::new(Router::compile(plan)?))
    }

    /// Whether a pod may be a gateway's own: its ports say where the gateway listens.
    fn runs_on(&self, object: &Object) -> bool {
        let Object::Pod(pod) = object else { return false };
        let own = &self.viewpoint;
        own.kind == ViewpointKind::Gateway
            && pod.metadata.namespace == own.namespace
            && has_labels(&pod.metadata.labels, &own.labels)
    }

    /// Takes services with other endpoints; `None` where no cluster is another now.
    fn renew(&mut self, shared: Shared<'_>, services: &[Arc<crate::resolve::Service>]) -> Option<&mut Self> {
        if !self.view.renew(shared, services) {
            return None;
        }
        for class in &mut self.classes {
            class.router = Arc::new(class.router.with_clusters(self.view.clusters()));
        }
        Some(self)
    }

    /// Takes a VirtualService in the place of what it was before, and publishes what follows.
    fn replace(
        &mut self,
        shared: Shared<'_>,
        before: Option<(&VirtualService, u64)>,
        now: Option<(&VirtualService, u64)>,
    ) -> Result<(), PlanError> {
        let concerned = self.view.replace(shared, before, now);
        if concerned.as_ref().is_ok_and(Concerned::is_empty) {
            return Ok(());
        }
        if concerned.and_then(|concerned| self.patch(shared, &concerned)).is_err() {
            self.rebuild(shared)?;
        }
        self.publish();
        Ok(())
    }

    fn patch(&mut self, shared: Shared<'_>, concerned: &Concerned) -> Result<(), FromNothing> {
        if self.view.is_littered() {
            return Err(FromNothing);
        }
        for class in &mut self.classes {
            let changes = self.view.hosts(shared, concerned, &class.viewpoint)?;
            class.router = Arc::new(class.router.with_hosts(changes, self.view.clusters())?);
        }
        Ok(())
    }

    /// All classes from nothing.
    fn rebuild(&mut self, shared: Shared<'_>) -> Result<(), PlanError> {
        let Some(first) = self.classes.first() else { return Ok(()) };
        let mut made = Group::new(shared, self.viewpoint.clone(), first.viewpoint.clone())?;
        for class in self.classes.iter().skip(1) {
            let router = made.sibling(shared, &class.viewpoint)?;
            made.classes.push(Class { viewpoint: class.viewpoint.clone(), router, cells: Vec::new() });
        }
        for (made, class) in made.classes.iter_mut().zip(&mut self.classes) {
            made.cells = std::mem::take(&mut class.cells);
        }
        *self = made;
        Ok(())
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
        for resource in resources.iter() {
            match resource.object {
                Object::VirtualService(rules) => labels.add_rules(rules),
                Object::DestinationRule(rule) => {
                    labels
                        .coarse
                        .extend(pairs(rule.spec.workload_selector.iter().map(|selector| &selector.match_labels)));
                }
                Object::Sidecar(sidecar) => {
                    labels.coarse.extend(pairs(sidecar.spec.workload_selector.iter().map(|selector| &selector.labels)));
                }
                Object::Gateway(gateway) => labels.coarse.extend(pairs([&gateway.spec.selector])),
                _ => {}
            }
        }
        labels
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

fn as_rules(object: &Object) -> Option<&VirtualService> {
    match object {
        Object::VirtualService(rules) => Some(rules),
        _ => None,
    }
}

fn shared<'a>(resources: &'a Resources, world: &'a World, rules: &'a Rules, mesh: &'a Mesh) -> Shared<'a> {
    Shared { resources, world, rules, mesh }
}
