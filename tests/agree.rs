//! The router answers as the plan explains: on random plans, and on requests that were made to hit them.

#[path = "support/bodies.rs"]
mod bodies;
#[path = "support/plans.rs"]
mod plans;

use meshroute::{Decision, Plan};
use plans::Choices;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn the_router_answers_as_the_plan_explains(data in proptest::collection::vec(any::<u8>(), 0..6000)) {
        bodies::agreeing(&data);
    }

    #[test]
    fn hostile_requests_get_the_same_answer_too(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        bodies::asking(&data);
    }
}

/// Whether a decision was made by a route that is not its virtual host's last.
fn by_an_earlier_route(decision: &Decision<'_>) -> bool {
    let last = decision.host.and_then(|host| host.routes.last());
    decision.route.is_some_and(|route| last.is_some_and(|last| !std::ptr::eq(route, last)))
}

/// The comparison is worth little if most requests end at a catch-all or nowhere.
#[test]
fn most_requests_hit_a_route_that_is_not_the_last() {
    let (mut asked, mut early, mut missed) = (0, 0, 0);
    for seed in 0..1000 {
        bodies::asked(&bodies::noise(seed, 8192), &mut |_, decision| {
            asked += 1;
            early += u32::from(by_an_earlier_route(decision));
            missed += u32::from(decision.route.is_none());
        });
    }
    assert_eq!(asked, 8000);
    assert!(early * 2 >= asked, "{early} of {asked} hit an earlier route");
    assert!(missed * 20 >= asked, "{missed} of {asked} hit none");
}

#[test]
fn a_plan_goes_over_a_wire_unchanged() {
    for seed in 0..50 {
        let plan = plans::plan(&mut Choices::new(&bodies::noise(seed, 4096)));
        let text = serde_json::to_string(&plan).expect("a plan can be written");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("and read"), plan);
    }
}
