//! Essays: what stands between the lines of the reference. Nothing here is code of the crate, and all code in it is
//! compiled and run as a test.
//!
//! - [`architecture`]: why the house is built this way, what was tried and dropped, and why each dependency.
//! - [`semantics`]: what the router means, where Istio or Envoy leave room or surprise.
//! - [`export_to`]: who sees what, namespace by namespace.
//! - [`embedding`]: step by step into a program of your own.
//! - [`connections`]: TLS and TCP connections that are passed on as they are.
//! - [`tower`]: a gateway on tower, hyper or axum.
//! - [`xds`]: a control plane for real Envoys.
//! - [`write_your_own`]: a whole adapter for a transport of your own.
//! - [`pingora`]: a Pingora proxy.
//! - [`findings`]: every diagnostic by its code, and what to do about it.
//! - [`untrusted`]: what is bounded, and where.
//! - [`performance`]: how a route is found, when that is slow, and how to measure it.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("semantics.md")]
pub mod semantics {}

#[doc = include_str!("export_to.md")]
pub mod export_to {}

#[doc = include_str!("embedding.md")]
pub mod embedding {}

#[cfg(feature = "tls")]
#[doc = include_str!("connections.md")]
pub mod connections {}

#[cfg(feature = "tower")]
#[doc = include_str!("tower.md")]
pub mod tower {}

#[cfg(feature = "xds")]
#[doc = include_str!("xds.md")]
pub mod xds {}

#[doc = include_str!("write_your_own.md")]
pub mod write_your_own {}

#[cfg(feature = "pingora")]
#[doc = include_str!("pingora.md")]
pub mod pingora {}

#[doc = include_str!("findings.md")]
pub mod findings {}

#[doc = include_str!("untrusted.md")]
pub mod untrusted {}

#[doc = include_str!("performance.md")]
pub mod performance {}
