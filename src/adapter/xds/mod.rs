//! `xds`: a control plane for real Envoys. Feature `xds`.
//!
//! A [`Plan`](crate::Plan) becomes listeners, route tables, clusters and endpoints in Envoy's own words ([`Translation`]),
//! encoded once and versioned by their content ([`Snapshot`]). A [`Fleet`] keeps one for each view of the resources, and
//! [`Ads`] serves them: state of the world and delta, make before break, with each Envoy's word on what it was sent.
//!
//! Knows Envoy's messages and its protocol. Opens no socket and starts no task: [`Ads`] is a service that the caller
//! mounts. Decides nothing either: what a route means is said by the plan. The guide has a chapter on it.

mod ads;
mod bootstrap;
mod cluster;
mod endpoint;
mod fleet;
mod listener;
mod proto;
mod route;
mod service;
mod setup;
mod snapshot;
mod translation;
mod wire;

pub use ads::{Flavor, Refused, Response, Session, Word};
pub use bootstrap::Bootstrap;
pub use fleet::{Client, Connected, Fleet};
pub use service::Ads;
pub use setup::{Entry, Setup};
pub use snapshot::{Kind, Snapshot};
pub use translation::Translation;
