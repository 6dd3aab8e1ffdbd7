//! What resources mean to one client: from [`Resources`] to [`Plan`].
//!
//! Here live Istio's manners: short names, exportTo, delegates, who wins a host, which DestinationRule speaks for a
//! service. Below this room there are none. Lowering is validation: what is not legal is left out of the plan and told
//! in a [`Diagnostic`], so that one bad rule never takes the mesh down.

mod cluster;
mod delegate;
mod destination_rule;
mod gateway;
mod l4;
mod lower;
mod operators;
mod precedence;
mod registry;
mod scope;
mod sidecar;
mod viewpoint;
mod virtual_service;
mod visibility;

pub use viewpoint::{Mesh, OutboundPolicy, Precedence, Viewpoint, ViewpointKind};

use std::collections::HashSet;

use crate::diagnostic::Diagnostic;
use crate::plan::{Plan, Unmatched};
use crate::resources::Resources;
use cluster::Clusters;
use destination_rule::Rules;
use gateway::Inbound;
use registry::Registry;
use scope::Scope;
use sidecar::Outbound;

/// Findings made on the way.
type Findings = Vec<Diagnostic>;

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
        let mut roots = virtual_service::visible(resources, &viewpoint.namespace, mesh, &mut findings);
        let mut scope = Scope::default();
        if viewpoint.kind == ViewpointKind::Sidecar {
            scope = Scope::new(resources, viewpoint, mesh);
            roots.retain(|root| root.binds("mesh") && scope.imports_rules(root, None));
            scope.add_destinations(&roots);
        }
        let registry = Registry::new(resources, viewpoint, mesh, &scope);
        let rules = Rules::new(resources, mesh, &mut findings);
        let mut clusters = Clusters::new(&registry, &rules, viewpoint, mesh);
        let mut plan = Plan::default();
        match viewpoint.kind {
            ViewpointKind::Sidecar => {
                let policy = scope.outbound.unwrap_or(mesh.outbound);
                let outbound = Outbound { viewpoint, mesh, roots, scope, policy };
                plan.listeners = outbound.listeners(&mut clusters, &mut findings).into_iter().collect();
                plan.names = sidecar::names(&outbound, &registry).into();
                plan.unmatched = match policy {
                    OutboundPolicy::AllowAny => Unmatched::Passthrough,
                    OutboundPolicy::RegistryOnly => Unmatched::Blackhole,
                };
            }
            ViewpointKind::Gateway => {
                let inbound = Inbound { viewpoint, mesh, roots, resources };
                plan.listeners = inbound.listeners(&mut clusters, &mut findings).into_iter().collect();
                plan.unmatched = Unmatched::Reset;
            }
        }
        plan.clusters = clusters.into_list();
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
