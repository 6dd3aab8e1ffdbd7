//! Clients that see the same, with the routers that they have, and what a change makes of these.
//!
//! Knows one view. Where a change cannot be told to it, it says so, and is made again.

use std::sync::{Arc, Weak};

use crate::compile::{Made, PlanError};
use crate::kubernetes::has_labels;
use crate::live::Live;
use crate::model::Object;
use crate::plan::Names;
use crate::resolve::{
    Concerned, Findings, FromNothing, Keys, Replaced, Service, Shared, Speaking, Turnover, View, Viewpoint,
    ViewpointKind,
};
use crate::router::Router;

/// Clients that see the same, but for what http rules make of their labels.
#[derive(Debug)]
pub(super) struct Group {
    /// With the labels that are not for http rules alone.
    pub(super) viewpoint: Viewpoint,
    pub(super) view: View,
    pub(super) classes: Vec<Class>,
    pub(super) standing: Standing,
}

/// How what clients have compares to what they are to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the same.
    Published,
    /// The routers are newer than those in the cells.
    Ahead,
    /// A change could not be told to the group: it is to be made again.
    Stale,
}

/// Clients that get the same answers.
#[derive(Debug)]
pub(super) struct Class {
    /// With all labels that somebody asks for.
    pub(super) viewpoint: Viewpoint,
    pub(super) router: Arc<Router>,
    pub(super) cells: Vec<Weak<Live>>,
}

impl Group {
    /// A group with its first class, from another group if there is one that has enough in common, else from nothing.
    pub(super) fn new(
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
        Ok(Group { viewpoint: coarse, view, classes: vec![first], standing: Standing::Published })
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
        Ok(Group { viewpoint: coarse.clone(), view, classes: vec![class], standing: Standing::Published })
    }

    /// Whether a group for this client could be made from this one.
    pub(super) fn is_kin(&self, viewpoint: &Viewpoint) -> bool {
        self.view.is_open() && viewpoint.kind == ViewpointKind::Sidecar && self.viewpoint.labels == viewpoint.labels
    }

    /// The router of a further class: the first one's, but for the hosts that tell the two apart.
    pub(super) fn sibling(
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
    pub(super) fn runs_on(&self, object: &Object) -> bool {
        let own = &self.viewpoint;
        let is_own = match object {
            Object::Pod(pod) => {
                pod.metadata.namespace == own.namespace && has_labels(&pod.metadata.labels, &own.labels)
            }
            Object::Service(service) => {
                let selector = &service.spec.selector;
                service.metadata.namespace == own.namespace && !selector.is_empty() && has_labels(&own.labels, selector)
            }
            _ => false,
        };
        own.kind == ViewpointKind::Gateway && is_own
    }

    /// Whether a Sidecar may say what these clients see, or a Gateway where they listen.
    pub(super) fn is_governed_by(&self, object: &Object, root_namespace: &str) -> bool {
        let own = &self.viewpoint;
        match (object, own.kind) {
            (Object::Sidecar(sidecar), ViewpointKind::Sidecar) => {
                [own.namespace.as_str(), root_namespace].contains(&sidecar.metadata.namespace.as_str())
            }
            (Object::Gateway(gateway), ViewpointKind::Gateway) => has_labels(&own.labels, &gateway.spec.selector),
            _ => false,
        }
    }

    /// Takes services with other endpoints.
    pub(super) fn renew(&mut self, shared: Shared<'_>, keys: &mut Keys, services: &[Arc<Service>]) {
        if self.view.renew(shared, keys, services) {
            self.take_clusters();
        }
    }

    fn take_clusters(&mut self) {
        for class in &mut self.classes {
            class.router = Arc::new(class.router.with_clusters(self.view.clusters()));
        }
        self.standing = Standing::Ahead;
    }

    /// Takes note that a VirtualService was replaced; fails where the group is to be made again.
    pub(super) fn replace(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        replaced: &Replaced,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        let concerned = self.view.replaced(shared, replaced)?;
        if concerned.is_empty() { Ok(()) } else { self.patch(shared, keys, &concerned, None, made) }
    }

    /// Takes note that other DestinationRules may speak than before; fails where the group is to be made again.
    pub(super) fn take_rules(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        before: Speaking,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        let Some(concerned) = self.view.rules_replaced(shared, keys, before)? else { return Ok(()) };
        if concerned.is_empty() {
            self.take_clusters();
            return Ok(());
        }
        self.patch(shared, keys, &concerned, None, made)
    }

    /// Takes note that some hosts have other services; fails where the group is to be made again.
    pub(super) fn turn_over(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        turnover: &Turnover,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        // All of the classes have the same names.
        let Some(names) = self.classes.first().map(|first| &first.router.plan().names) else { return Ok(()) };
        let Some((concerned, names)) = self.view.turn_over(shared, keys, turnover, names)? else { return Ok(()) };
        self.patch(shared, keys, &concerned, Some(&names), made)
    }

    fn patch(
        &mut self,
        shared: Shared<'_>,
        keys: &mut Keys,
        concerned: &Concerned,
        names: Option<&Names>,
        made: &mut Made,
    ) -> Result<(), FromNothing> {
        for class in &mut self.classes {
            let changes = self.view.hosts(shared, keys, concerned, &class.viewpoint)?;
            let router = class.router.with_hosts(changes, self.view.contested(), self.view.clusters(), made)?;
            class.router = Arc::new(match names {
                Some(names) => router.with_names(names.clone()),
                None => router,
            });
        }
        self.standing = Standing::Ahead;
        Ok(())
    }

    /// The group with all its classes, of which nobody has a cell, as they are now.
    pub(super) fn made_again(
        &self,
        kin: Option<&Group>,
        shared: Shared<'_>,
        keys: &mut Keys,
    ) -> Result<Group, PlanError> {
        let mut classes = self.classes.iter().map(|class| class.viewpoint.clone());
        let first = classes.next().unwrap_or_else(|| self.viewpoint.clone());
        let mut made = Group::new(kin, shared, keys, self.viewpoint.clone(), first)?;
        for viewpoint in classes {
            let router = made.sibling(shared, keys, &viewpoint)?;
            made.classes.push(Class { viewpoint, router, cells: Vec::new() });
        }
        Ok(made)
    }

    /// Takes the place of the group that it was made again from.
    pub(super) fn supersede(mut self, before: &mut Group) {
        for (class, before) in self.classes.iter_mut().zip(&mut before.classes) {
            class.cells = std::mem::take(&mut before.cells);
        }
        *before = Group { standing: Standing::Ahead, ..self };
    }

    pub(super) fn publish(&mut self) {
        self.standing = Standing::Published;
        for class in &mut self.classes {
            class.cells.retain(|cell| cell.strong_count() > 0);
            for cell in class.cells.iter().filter_map(Weak::upgrade) {
                cell.publish(class.router.clone());
            }
        }
    }
}
