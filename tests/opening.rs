//! The first bytes of connections: in whatever pieces and records they come, they are read as they were meant.

#[path = "support/openings.rs"]
mod openings;
#[path = "support/plans.rs"]
mod plans;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn what_was_written_is_read_and_nothing_panics(data in proptest::collection::vec(any::<u8>(), 0..1000)) {
        openings::opening(&data);
    }
}
