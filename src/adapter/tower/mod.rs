//! [`tower`](https://docs.rs/tower) on both sides: a layer that asks once per request, and a service that sends it on.
//!
//! [`RouteLayer`] answers what ends here (redirects, direct responses, refusals) without calling the service inside. What
//! goes on is rewritten, and carries its destination as the extension [`Chosen`]; the response's headers are edited on the
//! way back. Nothing is boxed, and nothing waits: delays, timeouts, retries and mirrors are handed on in [`Chosen`].
//!
//! [`Upstream`] is a service to put inside: it does what [`Chosen`] says, by a sender and a clock of the host's. Whoever
//! has a better one leaves it out:
//!
//! ```
//! use std::sync::Arc;
//!
//! use meshroute::adapter::tower::{Chosen, RouteLayer};
//! use meshroute::{Live, Plan, Router};
//! use tower::ServiceBuilder;
//!
//! let live = Arc::new(Live::new(Router::compile(Plan::default())?));
//! let service = ServiceBuilder::new().layer(RouteLayer::new(live, 5000)).service_fn(
//!     async |request: http::Request<String>| -> Result<_, std::io::Error> {
//!         let target = match request.extensions().get::<Chosen>() {
//!             Some(chosen) => format!("{:?}", chosen.endpoint()),
//!             None => "the address that was dialled".to_string(),
//!         };
//!         // ... connect, send, receive
//!         Ok(http::Response::new(http_body_util::Full::<hyper::body::Bytes>::from(target)))
//!     },
//! );
//! # let _ = tower::ServiceExt::oneshot(service, http::Request::new(String::new()));
//! # Ok::<(), meshroute::PlanError>(())
//! ```

mod body;
mod layer;
mod leased;
mod replay;
mod upstream;

pub use body::RoutedBody;
pub use layer::{Arrival, Port, Quiet, RouteFuture, RouteLayer, RouteService};
pub use leased::{BodyError, LeasedBody};
pub use replay::Replay;
pub use upstream::{Attempt, Upstream};

pub use super::chosen::Chosen;
pub use super::crew::Clock;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_tests;
