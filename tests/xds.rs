//! The control plane: what it sends, in which order, and what it makes of the answers; and a real Envoy under it.
//!
//! What needs an Envoy finds it at `target/envoy/bin/envoy` (where `.ci/run` puts it) or where `ENVOY` says:
//!
//! ```text
//! cargo test --features xds --test xds -- --include-ignored --nocapture
//! ```

#[path = "envoy/ask.rs"]
mod ask;
#[path = "envoy/client.rs"]
mod client;
#[path = "envoy/compare.rs"]
mod compare;
#[path = "envoy/coverage.rs"]
mod coverage;
#[path = "envoy/dice.rs"]
mod dice;
#[path = "envoy/found.rs"]
mod found;
#[path = "xds/plane.rs"]
mod plane;
#[path = "xds/puppet.rs"]
mod puppet;
#[path = "xds/real.rs"]
mod real;
#[path = "envoy/round.rs"]
mod round;
#[path = "envoy/server.rs"]
mod server;
#[path = "xds/session.rs"]
mod session;
#[path = "xds/spoken.rs"]
mod spoken;
#[path = "xds/translate.rs"]
mod translate;
#[path = "xds/updates.rs"]
mod updates;
#[path = "envoy/upstream.rs"]
mod upstream;
#[path = "envoy/world.rs"]
mod world;
