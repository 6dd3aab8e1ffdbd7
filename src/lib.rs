//! Istio's routing as an embeddable library.
#![forbid(unsafe_code)]

#[cfg(feature = "http")]
pub mod adapter;
mod compile;
mod decision;
mod diagnostic;
mod explain;
pub mod kubernetes;
mod live;
pub mod model;
mod name;
mod path;
mod pattern;
pub mod plan;
mod request;
mod resolve;
mod resources;
mod roll;
mod router;
mod table;
pub mod yaml;

pub use compile::PlanError;
pub use decision::{Decision, Forwarded, Outcome, Refusal};
pub use diagnostic::{Diagnostic, Place, ResourceRef, Severity};
pub use explain::{Explanation, Step};
pub use live::{Live, Snapshot};
pub use name::{HostPattern, NameError, host_of};
pub use path::{NormalPath, PathError, is_normal, normalize};
pub use pattern::{Pattern, PatternError, Rewrite};
pub use plan::Plan;
pub use request::{Connection, Headers, NoHeaders, Request, TlsHello, has_one_value};
pub use resolve::{Mesh, OutboundPolicy, Precedence, Resolution, Viewpoint, ViewpointKind};
pub use resources::{Applied, Reader, Resource, Resources};
pub use roll::{Purpose, Roll};
pub use router::Router;
pub use yaml::Reading;
