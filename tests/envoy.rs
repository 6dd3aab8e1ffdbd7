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
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshroute::plan::Unmatched;
use serde_json::Value;

use ask::Ask;
use client::{Answer, exchange, source};
use compare::{Comparison, Seen, case_of};
use coverage::Coverage;
use server::Envoy;
use translate::{BLOCKING, PASSING, Translation};
use upstream::Upstreams;
use world::World;

/// How many questions one Envoy is asked.
const ROUND: usize = 2000;
/// How many questions each world is asked.
const EACH: usize = 10;
/// How many are asked at a time.
const AT_ONCE: usize = 8;
/// How many differences are kept and told.
const TOLD: usize = 10;
/// How long a copy may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn a_real_envoy_answers_as_the_router_does() {
    let (seed, cases) = (setting("SEED", 1), setting("CASES", ROUND as u64) as usize);
    println!("SEED={seed} CASES={cases}");
    let (mut coverage, mut wrong) = (Coverage::default(), Vec::new());
    for start in (0..cases).step_by(ROUND) {
        round(seed, start..cases.min(start + ROUND), &mut coverage, &mut wrong);
    }
    println!("{coverage}");
    assert!(
        wrong.is_empty(),
        "SEED={seed}: {} differences\n\n{}",
        wrong.len(),
        wrong[..wrong.len().min(TOLD)].join("\n")
    );
    let gaps = coverage.gaps();
    assert!(gaps.is_empty(), "SEED={seed}: too little was asked\n{}", gaps.join("\n"));
    assert!(cases > 0, "nothing was asked");
}

fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// Asks one Envoy some questions, and compares.
fn round(seed: u64, cases: Range<usize>, coverage: &mut Coverage, wrong: &mut Vec<String>) {
    let numbers = cases.start / EACH..cases.end.div_ceil(EACH);
    let worlds: Vec<World> = numbers.clone().map(|number| World::new(seed, number as u64)).collect();
    let world = |case: usize| (case / EACH, &worlds[case / EACH - numbers.start]);
    let asks: Vec<Ask> = cases.clone().map(|case| Ask::new(seed, case, world(case).1)).collect();
    let upstreams = Upstreams::new();
    let seen = ask_envoy(&cases, &asks, &upstreams, &world);
    for ((case, ask), seen) in cases.zip(&asks).zip(&seen) {
        let (number, world) = world(case);
        let decision = ask.decide(&world.router);
        coverage.count(world, ask, &decision, seen);
        let comparison = Comparison { number, world, ask, decision: &decision, seen, upstreams: &upstreams };
        let differences = comparison.differences();
        if differences.is_empty() {
            continue;
        }
        let kept = (wrong.len() < TOLD).then(|| found::save(seed, case, &comparison, &differences));
        wrong.push(told(case, ask, seen, &differences, kept));
    }
}

fn told(case: usize, ask: &Ask, seen: &Seen, differences: &[String], kept: Option<PathBuf>) -> String {
    let kept = kept.map(|file| format!("\n  kept as {}", file.display())).unwrap_or_default();
    let wire = String::from_utf8_lossy(&ask.bytes()).trim().replace("\r\n", " | ");
    format!("case {case}, port {}: {wire}\n  {}\n  Envoy: {}{kept}\n", ask.port, differences.join("\n  "), seen.log)
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
    let envoy = Envoy::start(&folder, &translation.finish());
    let entries: BTreeMap<String, SocketAddr> = envoy.listeners().into_iter().collect();
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

/// Asks everything, some at a time; the answers come in the order of the questions.
fn ask_all(
    asks: &[Ask],
    exchange: impl Fn(usize, &Ask) -> std::io::Result<(Vec<u8>, Duration)> + Sync,
) -> Vec<Option<Answer>> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<Option<Answer>>> = Mutex::new(vec![None; asks.len()]);
    let work = || {
        while let Some((at, ask)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, asks.get(at)?)))
        {
            let (bytes, took) = exchange(at, ask).unwrap_or_else(|error| panic!("{ask:?}: {error}"));
            let answer = Answer::parse(&bytes).map(|answer| Answer { took, ..answer });
            answers.lock().expect("nobody panics with it")[at] = answer;
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    answers.into_inner().expect("nobody panics with it")
}

/// Sorts what the destinations got by question; waits for the copies, which come when they like.
fn gather(upstreams: &Upstreams, first: usize, mut copies: usize, seen: &mut [Seen]) {
    while let Some(received) = upstreams.received(if copies > 0 { ON_ITS_WAY } else { Duration::from_millis(100) }) {
        let Some(of) = received.case().and_then(|case| seen.get_mut(case.checked_sub(first)?)) else { continue };
        if received.is_shadow() {
            copies = copies.saturating_sub(1);
            of.shadows.push(received);
        } else {
            of.received.push(received);
        }
    }
}

fn read_log(log: &Path, cases: &Range<usize>, seen: &mut [Seen]) {
    let sources: BTreeMap<SocketAddr, usize> = cases.clone().map(|case| (source(case), case)).collect();
    let text = std::fs::read_to_string(log).unwrap_or_default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("Envoy writes JSON");
        let Some(case) = case_of(&line, &sources) else { continue };
        seen[case - cases.start].log = line;
    }
}
