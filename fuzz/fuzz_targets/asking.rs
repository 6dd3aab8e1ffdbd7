//! Hostile requests against fixed routers: nothing panics, and the router says what `explain` says.
#![no_main]

#[path = "../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../tests/support/plans.rs"]
mod plans;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::asking(data));
