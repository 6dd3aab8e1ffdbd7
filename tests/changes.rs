//! Views that were changed bit by bit mean what they would if they were made from nothing.
//!
//! Small worlds out of few names, so that everything depends on everything, and sequences of changes to them.

#[path = "support/plans.rs"]
mod plans;
#[path = "support/worlds.rs"]
mod worlds;

use std::sync::Arc;

use meshroute::plan::{HttpTable, Target};
use meshroute::{Live, Mesh, Plan, Precedence, Request, Resources, Roll, Router, Viewpoint, Views};
use plans::Choices;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn what_was_changed_is_what_is_made_from_nothing(data in proptest::collection::vec(any::<u8>(), 0..250)) {
        check(&data);
    }
}

/// Sequences whose bytes are drawn evenly are longer than those that proptest likes.
#[test]
fn long_sequences_too() {
    for seed in 0..2 {
        check(&noise(seed, 1_500));
    }
}

/// The comparison is worth little where nearly every change ends in building from nothing: then nothing is shared.
#[test]
fn most_changes_share_most() {
    let (mut changes, mut shared) = (0, 0);
    for seed in 0..4 {
        run(&noise(seed, 1_000), &mut |before, after| {
            if !Arc::ptr_eq(before.plan(), after.plan()) {
                changes += 1;
                shared += u32::from(Arc::ptr_eq(&before.plan().names, &after.plan().names));
            }
        });
    }
    assert!(changes > 50, "{changes}");
    assert!(shared * 6 > changes, "{shared} of {changes}");
}

fn check(data: &[u8]) {
    run(data, &mut |_, _| ());
}

/// Runs a sequence; `seen` is told of every router after every change, with the one before.
fn run(data: &[u8], seen: &mut dyn FnMut(&Router, &Router)) {
    let mut choices = Choices::new(data);
    let mesh = Mesh::with_precedence(choices.one(&[Precedence::LastApplied, Precedence::Istio]));
    let mut resources = Resources::new();
    for _ in 0..choices.below(16) {
        if let Some(object) = worlds::object(&mut choices) {
            resources.apply(object);
        }
    }
    let mut views = Views::new(resources, mesh.clone());
    let clients = worlds::viewpoints();
    let cells: Vec<Arc<Live>> =
        clients.iter().map(|client| views.open(client).expect("what was resolved is legal")).collect();
    compare(&views, &mesh, &clients, &cells);
    while !choices.is_empty() {
        let before: Vec<Arc<Router>> = cells.iter().map(|cell| cell.load().to_arc()).collect();
        worlds::change(&mut choices, &mut views);
        compare(&views, &mesh, &clients, &cells);
        for (before, cell) in before.iter().zip(&cells) {
            seen(before, &cell.load());
        }
    }
}

fn compare(views: &Views, mesh: &Mesh, clients: &[Viewpoint], cells: &[Arc<Live>]) {
    for (client, cell) in clients.iter().zip(cells) {
        let now = cell.load();
        let plan = Plan::resolve(views.resources(), client, mesh).plan;
        let wanted = Router::compile(plan).expect("what was resolved is legal");
        assert_eq!(now.plan().canonical(), wanted.plan().canonical(), "a change left {client:?} behind");
        same_answers(&now, &wanted);
    }
}

/// The indexes belong to the plan, too.
fn same_answers(now: &Router, wanted: &Router) {
    let roll = Roll::seeded(7);
    for listener in &wanted.plan().listeners {
        let tables = listener.chains.iter().filter_map(|chain| match &chain.target {
            Target::Http(table) => Some(table),
            Target::Tcp { .. } => None,
        });
        for name in tables.flat_map(|table| names(table)) {
            for headers in [&[][..], &[("v", "1")]] {
                let mut request = Request::new("GET", &name, "/a/b").headers(&headers).port(listener.port);
                request.address = listener.addresses.first().copied();
                let told = |router: &Router| {
                    let decision = router.decide(&request, &roll);
                    let host = decision.host.map(|host| host.name.clone());
                    (decision.cluster().cloned(), decision.route.map(|route| route.name.clone()), host)
                };
                assert_eq!(told(now), told(wanted), "a change left the index of {name} behind");
            }
        }
    }
}

fn names(table: &HttpTable) -> Vec<String> {
    let domains = table.hosts.iter().flat_map(|host| &host.domains);
    let concrete = |text: &str| text.strip_prefix('*').map_or(text.to_string(), |suffix| format!("q{suffix}"));
    domains.map(|domain| concrete(domain.as_str())).chain(["nobody.org".to_string()]).collect()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
