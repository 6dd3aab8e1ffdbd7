//! A round of questions to an Envoy: asking them, gathering what was seen, and judging it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::ask::Ask;
use crate::client::{Answer, source};
use crate::compare::{Comparison, Seen, case_of};
use crate::coverage::Coverage;
use crate::found;
use crate::upstream::Upstreams;
use crate::world::World;

/// How many are asked at a time.
const AT_ONCE: usize = 8;
/// How many differences are kept and told.
const TOLD: usize = 10;
/// How long a copy may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(3);

/// A number that the environment may set.
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// Compares what was seen with what the router says.
#[expect(clippy::too_many_arguments, reason = "a round has as many parts")]
pub fn judge<'w>(
    seed: u64,
    cases: Range<usize>,
    world: &impl Fn(usize) -> (usize, &'w World),
    asks: &[Ask],
    seen: &[Seen],
    upstreams: &Upstreams,
    coverage: &mut Coverage,
    wrong: &mut Vec<String>,
) {
    for ((case, ask), seen) in cases.zip(asks).zip(seen) {
        let (number, world) = world(case);
        let decision = ask.decide(&world.router);
        coverage.count(world, ask, &decision, seen);
        let comparison = Comparison { number, world, ask, decision: &decision, seen, upstreams };
        let differences = comparison.differences();
        if differences.is_empty() {
            continue;
        }
        let kept = (wrong.len() < TOLD).then(|| found::save(seed, case, &comparison, &differences));
        wrong.push(told(case, ask, seen, &differences, kept));
    }
}

/// Fails where something differed, or too little was asked.
pub fn conclude(seed: u64, coverage: &Coverage, wrong: &[String]) {
    println!("{coverage}");
    assert!(
        wrong.is_empty(),
        "SEED={seed}: {} differences\n\n{}",
        wrong.len(),
        wrong[..wrong.len().min(TOLD)].join("\n")
    );
    let gaps = coverage.gaps();
    assert!(gaps.is_empty(), "SEED={seed}: too little was asked\n{}", gaps.join("\n"));
}

fn told(case: usize, ask: &Ask, seen: &Seen, differences: &[String], kept: Option<PathBuf>) -> String {
    let kept = kept.map(|file| format!("\n  kept as {}", file.display())).unwrap_or_default();
    let wire = String::from_utf8_lossy(&ask.bytes()).trim().replace("\r\n", " | ");
    format!("case {case}, port {}: {wire}\n  {}\n  Envoy: {}{kept}\n", ask.port, differences.join("\n  "), seen.log)
}

/// Asks everything, some at a time; the answers come in the order of the questions.
pub fn ask_all(
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
pub fn gather(upstreams: &Upstreams, first: usize, mut copies: usize, seen: &mut [Seen]) {
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

pub fn read_log(log: &Path, cases: &Range<usize>, seen: &mut [Seen]) {
    let sources: BTreeMap<SocketAddr, usize> = cases.clone().map(|case| (source(case), case)).collect();
    let text = std::fs::read_to_string(log).unwrap_or_default();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("Envoy writes JSON");
        let Some(case) = case_of(&line, &sources) else { continue };
        seen[case - cases.start].log = line;
    }
}
