//! Istio's routing as an embeddable library: what operators wrote goes in, and for each request an answer comes out to
//! *where does this go, and why?*
//!
//! ```text
//! text --read--> Resources --resolve(Viewpoint)--> Plan --compile--> Router --ask(Request)--> Decision
//! ```
//!
//! It opens no socket, reads no clock, rolls no dice and starts no task: the caller hands those in. Everything left of
//! [`Router`] runs when configuration changes; only `Router`, [`Decision`] and [`Live::load`] run per request.
//!
//! # In five minutes
//!
//! A service in two versions, and a rule that sends those who ask for it to the second:
//!
//! ```
//! use meshroute::{Mesh, Outcome, Plan, Reading, Request, Resources, Roll, Router, Viewpoint};
//!
//! let text = r#"
//! apiVersion: v1
//! kind: Service
//! metadata: {name: shop}
//! spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
//! ---
//! apiVersion: apps/v1
//! kind: Deployment
//! metadata: {name: shop-v1}
//! spec:
//!   selector: {matchLabels: {app: shop, version: v1}}
//!   template: {metadata: {labels: {app: shop, version: v1}}}
//! ---
//! apiVersion: networking.istio.io/v1
//! kind: DestinationRule
//! metadata: {name: shop}
//! spec:
//!   host: shop
//!   subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
//! ---
//! apiVersion: networking.istio.io/v1
//! kind: VirtualService
//! metadata: {name: shop}
//! spec:
//!   hosts: [shop]
//!   http:
//!     - match: [{headers: {x-version: {exact: v2}}}]
//!       route: [{destination: {host: shop, subset: v2}}]
//!     - route: [{destination: {host: shop, subset: v1}}]
//! "#;
//!
//! // What was written. Findings name file, line, field and remedy; here there are none.
//! let mut resources = Resources::new();
//! assert_eq!(resources.apply_text(text, "shop.yaml", Reading::Strict), []);
//!
//! // What it means to one client. Nobody has started version 2, and that is told before traffic fails.
//! let client = Viewpoint::sidecar("default");
//! let resolution = Plan::resolve(&resources, &client, &Mesh::default());
//! assert_eq!(resolution.findings[0].code, "no-endpoints");
//!
//! // How to find it fast, and the answers.
//! let router = Router::compile(resolution.plan)?;
//! let roll = Roll::random();
//!
//! let request = Request::new("GET", "shop", "/");
//! let decision = router.decide(&request, &roll);
//! let Outcome::Forward(to) = decision.outcome else { panic!("it has a pod") };
//! assert_eq!(to.cluster.subset.as_ref(), "v1");
//! assert_eq!(to.endpoint(&roll).map(|endpoint| endpoint.port), Some(80));
//!
//! let headers = [("x-version", "v2")];
//! let request = request.headers(&headers);
//! let Outcome::Refuse(refusal) = router.decide(&request, &roll).outcome else { panic!("it has none") };
//! assert_eq!((refusal.status, refusal.flag), (503, "UH"));
//!
//! // And why.
//! println!("{}", router.plan().explain(&request, &roll));
//! # Ok::<(), meshroute::PlanError>(())
//! ```
//!
//! # The map
//!
//! | when | what |
//! |---|---|
//! | configuration is read | [`Resources`], [`Reader`], [`Reading`], [`Diagnostic`]; the types in [`model`], the syntax in [`yaml`], what a cluster adds in [`kubernetes`] |
//! | it is worked out for a client | [`Viewpoint`], [`Mesh`], [`Precedence`], [`Resolution`], and the [`Plan`], whose parts stand in [`plan`] |
//! | it is put in force | [`Router::compile`], [`Live`]; for many clients, change by change, [`Views`] |
//! | a request comes | [`Request`], [`Headers`], [`Roll`], [`Router::decide`]; for a whole connection [`Connection`], [`Router::connect`] |
//! | it is answered | [`Decision`], [`Outcome`], [`Forwarded`], [`Refusal`] |
//! | an endpoint is chosen, and it is tried again or not | [`balance`] |
//! | it arrives, and is let in or not | [`authorize`], [`limit`] |
//! | somebody wonders | [`Plan::explain`], [`Explanation`] |
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | (none) | the core: no async runtime, no sockets |
//! | `http` | `adapter::http`: questions from and answers for the types of `http` 1.x |
//! | `tower` | `adapter::tower`: a Layer that asks once per request, and a Service that sends it on |
//! | `tls` | `adapter::tls` and `adapter::proxy_protocol`: what the first bytes of a connection say |
//! | `xds` | `adapter::xds`: a control plane for real Envoys |
//! | `pingora` | `adapter::pingora`: a Pingora proxy whose hooks ask the router |
//! | `cli` | the command `meshroute` |
//!
//! A feature adds a room; it never changes an answer.
//!
//! # Essays
//!
//! The module [`guide`] has them: architecture, what the router means, `exportTo` namespace by namespace, embedding, untrusted
//! input, performance.
#![forbid(unsafe_code)]

#[cfg(any(feature = "http", feature = "tls", feature = "xds"))]
pub mod adapter;
pub mod analyze;
pub mod authorize;
pub mod balance;
mod compile;
mod cors;
mod decision;
mod diagnostic;
mod explain;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod kubernetes;
pub mod limit;
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
pub mod validate;
mod views;
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
pub use resources::{Applied, Reader, Resource, Resources, files_below};
pub use roll::{Purpose, Roll};
pub use router::Router;
pub use views::Views;
pub use yaml::Reading;

/// The README's examples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
