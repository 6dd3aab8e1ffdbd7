//! What operators wrote: one file per kind, with Istio's and Kubernetes' field names and order.
//!
//! This room knows names, types and the defaults of their absence. It has no opinions: whether a field is required,
//! which of two exclusive fields wins and what a host name means are decided upstairs. It does not know YAML either;
//! whatever speaks serde can be read and written.
//!
//! - A null reads as an absent field, as Kubernetes has it, and what is absent or default is not written.
//! - A message whose presence means something is an `Option`; so are the wrapped scalars and the members of a oneof.
//! - A list whose null entries are for admission to judge keeps them, as `Vec<Option<T>>`.
//! - Unknown fields are for the reader to judge. Kubernetes' types are modelled only as far as routing looks; those
//!   tell serde a name that begins with `open:`, and a reader lets unknown fields of such a struct pass.
//!
//! ```
//! use meshroute::model::{Metadata, Object, VirtualService, VirtualServiceSpec};
//!
//! let rule = VirtualService {
//!     metadata: Metadata { name: "reviews".into(), namespace: "shop".into(), ..Metadata::default() },
//!     spec: VirtualServiceSpec { hosts: vec!["reviews".into()], ..VirtualServiceSpec::default() },
//!     status: None,
//! };
//! assert_eq!(Object::from(rule).kind(), "VirtualService");
//! ```

#[macro_use]
mod message;

pub mod authorization_policy;
pub mod deployment;
pub mod destination_rule;
mod duration;
pub mod endpoint_slice;
pub mod endpoints;
pub mod envoy_filter;
pub mod gateway;
mod int_or_string;
mod metadata;
mod namespace;
mod object;
pub mod peer_authentication;
pub mod pod;
pub mod service;
pub mod service_entry;
pub mod sidecar;
mod string_match;
mod timestamp;
mod untyped;
pub mod virtual_service;
pub mod workload_entry;

pub use self::authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec, LabelSelector};
pub use self::deployment::{Deployment, DeploymentSpec};
pub use self::destination_rule::{DestinationRule, DestinationRuleSpec};
pub use self::duration::{Duration, DurationError};
pub use self::endpoint_slice::EndpointSlice;
pub use self::endpoints::Endpoints;
pub use self::envoy_filter::{EnvoyFilter, EnvoyFilterSpec};
pub use self::gateway::{Gateway, GatewaySpec};
pub use self::int_or_string::IntOrString;
pub use self::metadata::{Metadata, OwnerReference};
pub use self::namespace::Namespace;
pub use self::object::Object;
pub use self::peer_authentication::{PeerAuthentication, PeerAuthenticationSpec};
pub use self::pod::{Pod, PodSpec};
pub use self::service::{Service, ServiceSpec};
pub use self::service_entry::{ServiceEntry, ServiceEntrySpec};
pub use self::sidecar::{Sidecar, SidecarSpec};
pub use self::string_match::StringMatch;
pub use self::timestamp::{Timestamp, TimestampError};
pub use self::untyped::Untyped;
pub use self::virtual_service::{VirtualService, VirtualServiceSpec};
pub use self::workload_entry::{WorkloadEntry, WorkloadEntrySpec};

#[cfg(test)]
mod tests;
