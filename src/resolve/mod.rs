//! What resources mean to one client: from [`Resources`] to [`Plan`].
//!
//! Here live Istio's manners: short names, exportTo, delegates, who wins a host, which DestinationRule speaks for a
//! service. Below this room there are none. Lowering is validation: what is not legal is left out of the plan and told
//! in a [`Diagnostic`], so that one bad rule never takes the mesh down.

mod apart;
mod cluster;
mod delegate;
mod destination_rule;
mod gateway;
mod l4;
mod lower;
mod operators;
mod ports;
mod precedence;
mod registry;
mod roots;
mod scope;
mod sidecar;
mod turnover;
mod view;
mod viewpoint;
mod virtual_service;
mod visibility;
mod world;

pub(crate) use cluster::Keys;
pub(crate) use destination_rule::{Rules, whose};
pub(crate) use registry::Service;
pub(crate) use roots::{Replaced, Roots};
pub(crate) use sidecar::{Contested, for_any_name};
pub(crate) use turnover::Turnover;
pub(crate) use view::{Concerned, FromNothing, HostChange, Shared, Speaking, View};
pub(crate) use world::{Touched, World};

pub use viewpoint::{Mesh, OutboundPolicy, Precedence, Viewpoint, ViewpointKind};

use std::collections::HashSet;

use crate::diagnostic::Diagnostic;
use crate::plan::Plan;
use crate::resources::Resources;

/// Findings made on the way.
pub(crate) type Findings = Vec<Diagnostic>;

/// What resources mean to one client, and what was found wrong with them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resolution {
    /// What holds for the client.
    pub plan: Plan,
    /// What was left out, overridden, or will fail when traffic reaches it.
    pub findings: Vec<Diagnostic>,
}

impl Plan {
    /// Works out what resources mean to one client.
    ///
    /// ```
    /// use meshroute::{Mesh, Plan, Reading, Request, Resources, Roll, Router, Viewpoint};
    /// let mut resources = Resources::new();
    /// resources.apply_text("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, name: http}]}}", "-", Reading::Strict);
    /// let resolution = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default());
    /// let router = Router::compile(resolution.plan)?;
    /// let decision = router.decide(&Request::new("GET", "web", "/"), &Roll::seeded(1));
    /// assert_eq!(decision.cluster().unwrap().host.as_ref(), "web.default.svc.cluster.local");
    /// # Ok::<(), meshroute::PlanError>(())
    /// ```
    pub fn resolve(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh) -> Resolution {
        let mut findings = Findings::new();
        let world = World::new(resources, mesh);
        let rules = Rules::new(resources, mesh);
        let roots = Roots::new(resources, mesh);
        let shared = Shared { resources, world: &world, rules: &rules, roots: &roots, mesh };
        let (_, plan) = View::new(shared, &mut Keys::default(), viewpoint, &mut findings);
        Resolution { plan, findings: settled(findings, resources) }
    }
}

/// Each finding once, with its place.
fn settled(findings: Findings, resources: &Resources) -> Vec<Diagnostic> {
    let mut seen = HashSet::new();
    let place = |finding: &Diagnostic| resources.place(finding.resource.as_ref()?, &finding.field);
    let placed = findings.into_iter().map(|finding| Diagnostic { place: place(&finding), ..finding });
    placed.filter(|finding| seen.insert(finding.clone())).collect()
}
