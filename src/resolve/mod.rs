//! What resources mean to one client: from [`Resources`] to [`Plan`].
//!
//! Here live Istio's manners: short names, exportTo, delegates, who wins a host, which DestinationRule speaks for a
//! service. Below this room there are none. Lowering is validation: what is not legal is left out of the plan and told
//! in a [`Diagnostic`], so that one bad rule never takes the mesh down.

mod cluster;
mod destination_rule;
mod registry;
mod viewpoint;
mod visibility;

pub use viewpoint::{Mesh, OutboundPolicy, Precedence, Viewpoint, ViewpointKind};

use crate::diagnostic::Diagnostic;
use crate::plan::Plan;
use crate::resources::Resources;

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
    pub fn resolve(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh) -> Resolution {
        let _ = (resources, viewpoint, mesh);
        Resolution { plan: Plan::default(), findings: Vec::new() }
    }
}
