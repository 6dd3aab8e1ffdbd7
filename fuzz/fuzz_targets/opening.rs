//! The first bytes of a connection: nothing panics, an answer stands, and what was written is read.
#![no_main]

#[path = "../../tests/support/openings.rs"]
mod openings;
#[path = "../../tests/support/plans.rs"]
mod plans;

libfuzzer_sys::fuzz_target!(|data: &[u8]| openings::opening(data));
