//! Windows to the crates that carry requests: one feature, one file each.
//!
//! An adapter translates and never decides: it makes a [`Request`](crate::Request) of what a crate calls a request,
//! hands it to the router, and carries out the [`Decision`](crate::Decision) on that crate's types. It opens no socket,
//! starts no task and reads no clock; delays, timeouts and retries are handed on to whoever has one.
//!
//! Only here do types of other crates show in the public interface, each behind the feature of its name.

#[cfg(any(feature = "pingora", feature = "tower"))]
mod chosen;
#[cfg(any(feature = "pingora", feature = "tower"))]
mod crew;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "pingora")]
pub mod pingora;
#[cfg(feature = "tls")]
pub mod proxy_protocol;
#[cfg(any(feature = "pingora", feature = "tower"))]
mod sticky;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(feature = "xds")]
pub mod xds;

#[cfg(any(feature = "pingora", feature = "tower"))]
pub use {chosen::Chosen, crew::Clock};
