//! How many requests a workload takes: Envoy's local rate limit, as Istio's users ask for it, by EnvoyFilter.
//!
//! Two patches are understood, those of Istio's task on rate limits: `HTTP_FILTER`, which puts the filter
//! `envoy.filters.http.local_ratelimit` in, and `HTTP_ROUTE`, which gives some routes a limit of their own. Of any other,
//! and of a field that is not known, a finding says that it is not carried out here, and where it stands.
//!
//! [`RateLimits::of`] picks what concerns one workload, at configuration time. What has been asked for so far is remembered
//! by [`balance::RateLimiter`](crate::balance::RateLimiter); this room keeps nothing and knows no time.
//!
//! ```
//! use meshroute::limit::{RateLimits, Spot, Stage};
//! use meshroute::{Mesh, Reading, Resources, Viewpoint};
//!
//! let mut resources = Resources::new();
//! resources.apply_text(
//!     "apiVersion: networking.istio.io/v1alpha3
//! kind: EnvoyFilter
//! metadata: {name: calm, namespace: shop}
//! spec:
//!   configPatches:
//!   - applyTo: HTTP_FILTER
//!     match: {context: SIDECAR_INBOUND}
//!     patch:
//!       operation: INSERT_BEFORE
//!       value:
//!         name: envoy.filters.http.local_ratelimit
//!         typed_config:
//!           '@type': type.googleapis.com/udpa.type.v1.TypedStruct
//!           type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
//!           value:
//!             stat_prefix: calm
//!             token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}
//!             filter_enabled: {default_value: {numerator: 100}}
//!             filter_enforced: {default_value: {numerator: 100}}
//! ",
//!     "shop.yaml",
//!     Reading::Strict,
//! );
//! let (limits, findings) = RateLimits::of(&resources, &Viewpoint::sidecar("shop"), &Mesh::default());
//! assert!(findings.is_empty());
//! let (_, limit) = limits.at(Stage::First, &Spot::new(8080)).next().unwrap();
//! assert_eq!((limit.tokens.most, limit.status), (4, 429));
//! ```
//!
//! Source: Istio, the task "Enabling Rate Limits using Envoy" and the reference of EnvoyFilter; Envoy, `LocalRateLimit`, and
//! where both are silent what an Envoy 1.40 was seen to do.

mod limits;
mod lower;
mod value;

pub use limits::{Added, Fraction, LimitId, RateLimit, RateLimits, Spot, Stage, Tokens};
pub use lower::findings;
