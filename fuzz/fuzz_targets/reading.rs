//! Bytes to `Plan`: whatever an operator may write, nothing panics, and what was resolved compiles.
#![no_main]

#[path = "../../tests/support/bodies.rs"]
mod bodies;
#[path = "../../tests/support/plans.rs"]
mod plans;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::reading(data));
