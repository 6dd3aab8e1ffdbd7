//! The router against a real Envoy: random resources are resolved to a plan, the plan is translated into Envoy's
//! configuration, and both are asked the same thing, Envoy over real connections.
//!
//! Compared are the route, the cluster and the endpoint, status and flag, location and body, what the destination
//! gets (method, path, host, headers), edits of the answer's headers, delays, retries, timeouts and mirrors. Weighted
//! choices are made with the same number by both. What resolving does before the plan stands is for the cases.
//!
//! It needs Envoy at `target/envoy/bin/envoy` (where `.ci/run` puts it) or where `ENVOY` says:
//!
//! ```text
//! SEED=7 CASES=2000 cargo test --test envoy -- --ignored --nocapture
//! ```
//!
//! A question that the two answer differently is kept in `tests/cases/found`, with Envoy's answer.

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
#[path = "envoy/round.rs"]
mod round;
#[path = "envoy/server.rs"]
mod server;
#[path = "envoy/translate.rs"]
mod translate;
#[path = "envoy/upstream.rs"]
mod upstream;
#[path = "envoy/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use meshroute::plan::Unmatched;
use serde_json::Value;

use ask::Ask;
use client::exchange;
use compare::Seen;
use coverage::Coverage;
use round::{ask_all, conclude, gather, judge, read_log, setting};
use server::Envoy;
use translate::{BLOCKING, PASSING, Translation};
use upstream::Upstreams;
use world::World;

/// How many questions one Envoy is asked.
const ROUND: usize = 2000;
/// How many questions each world is asked.
const EACH: usize = 10;

#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn a_real_envoy_answers_as_the_router_does() {
    let (seed, cases) = (setting("SEED", 1), setting("CASES", ROUND as u64) as usize);
    println!("SEED={seed} CASES={cases}");
    let (mut coverage, mut wrong) = (Coverage::default(), Vec::new());
    for start in (0..cases).step_by(ROUND) {
        round(seed, start..cases.min(start + ROUND), &mut coverage, &mut wrong);
    }
    conclude(seed, &coverage, &wrong);
    assert!(cases > 0, "nothing was asked");
}

/// Asks one Envoy some questions, and compares.
fn round(seed: u64, cases: Range<usize>, coverage: &mut Coverage, wrong: &mut Vec<String>) {
    let numbers = cases.start / EACH..cases.end.div_ceil(EACH);
    let worlds: Vec<World> = numbers.clone().map(|number| World::new(seed, number as u64)).collect();
    let world = |case: usize| (case / EACH, &worlds[case / EACH - numbers.start]);
    let asks: Vec<Ask> = cases.clone().map(|case| Ask::new(seed, case, world(case).1)).collect();
    let upstreams = Upstreams::new();
    let seen = ask_envoy(&cases, &asks, &upstreams, &world);
    judge(seed, cases, &world, &asks, &seen, &upstreams, coverage, wrong);
}

/// Everything that Envoy and the destinations did, question by question.
fn ask_envoy<'w>(
    cases: &Range<usize>,
    asks: &[Ask],
    upstreams: &Upstreams,
    world: &impl Fn(usize) -> (usize, &'w World),
) -> Vec<Seen> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("envoy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the target folder can be written to");
    let log = folder.join("access.log");
    // There is one only after another round.
    let _ = std::fs::remove_file(&log);
    let mut translation = Translation::new(upstreams, &log.to_string_lossy());
    for case in cases.clone().filter(|case| case % EACH == 0 || *case == cases.start) {
        let (number, world) = world(case);
        translation.add(number, world.plan(), world.gateway);
    }
    let envoy = Envoy::start(&folder, &translation.finish().to_string());
    let entries: BTreeMap<String, SocketAddr> = listeners(&envoy).into_iter().collect();
    let way = |(case, ask): (usize, &Ask)| {
        let (number, world) = world(case);
        let entry = if world.plan().unmatched == Unmatched::Passthrough { PASSING } else { BLOCKING };
        (entries[entry], ask.dialled(translation.known_port(number, ask.port)))
    };
    let ways: Vec<(SocketAddr, SocketAddr)> = cases.clone().zip(asks).map(way).collect();
    let exchanged = ask_all(asks, |at, ask| exchange(ways[at].0, cases.start + at, ways[at].1, &ask.bytes()));
    let mut seen: Vec<Seen> = exchanged.into_iter().map(|answer| Seen { answer, ..Seen::default() }).collect();
    let copies = |case: usize| asks[case - cases.start].copies(world(case).1);
    gather(upstreams, cases.start, cases.clone().map(copies).sum(), &mut seen);
    envoy.finish();
    read_log(&log, cases, &mut seen);
    std::fs::remove_dir_all(&folder).expect("it is the test's own folder");
    seen
}

/// Where Envoy's listeners are bound, by name.
fn listeners(envoy: &Envoy) -> Vec<(String, SocketAddr)> {
    let answer: Value = serde_json::from_str(&envoy.admin("GET", "/listeners?format=json")).expect("it speaks JSON");
    let listeners = answer["listener_statuses"].as_array().cloned().unwrap_or_default();
    let bound = |listener: &Value| {
        let address = &listener["local_address"]["socket_address"];
        let port = u16::try_from(address["port_value"].as_u64()?).ok()?;
        let ip = address["address"].as_str()?.parse().ok()?;
        Some((listener["name"].as_str()?.to_string(), SocketAddr::new(ip, port)))
    };
    listeners.iter().filter_map(bound).collect()
}
