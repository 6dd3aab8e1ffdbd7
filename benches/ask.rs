//! What does a decision cost, and does it depend on how many routes there are?
//!
//! All that an embedder pays: host look-up, match, weighted pick. Every answer is checked before it is timed.

mod support;

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use meshroute::Roll;
use support::{Ask, Workload, canary, headers, hosts, mixed, prefixes};

/// `explain` walks the rules and writes down why each one lost; beyond this many it is no rival any more.
const EXPLAINED: usize = 1_000;

fn w1(c: &mut Criterion) {
    let workload = canary();
    let mut group = c.benchmark_group("W1");
    for (name, ask) in [("split", &workload.first), ("second", &workload.last), ("default", &workload.miss)] {
        everybody(&mut group, &workload, name, &[ask], true);
    }
}

fn w2(c: &mut Criterion) {
    growing(c, "W2", headers);
}

fn w3(c: &mut Criterion) {
    growing(c, "W3", prefixes);
}

fn w4(c: &mut Criterion) {
    growing(c, "W4", mixed);
}

fn w5(c: &mut Criterion) {
    let mut group = c.benchmark_group("W5");
    for n in [10, 1_000, 100_000] {
        let workload = hosts(n);
        let random: Vec<_> = workload.random.iter().collect();
        everybody(&mut group, &workload, &format!("{n}/random"), &random, n <= EXPLAINED);
        everybody(&mut group, &workload, &format!("{n}/miss"), &[&workload.miss], false);
    }
}

fn growing(c: &mut Criterion, name: &str, make: impl Fn(usize) -> Workload) {
    let mut group = c.benchmark_group(name);
    for n in [10, 100, 1_000, 10_000] {
        let workload = make(n);
        let random: Vec<_> = workload.random.iter().collect();
        everybody(&mut group, &workload, &format!("{n}/random"), &random, n <= EXPLAINED);
        for (name, ask) in [("first", &workload.first), ("last", &workload.last), ("miss", &workload.miss)] {
            everybody(&mut group, &workload, &format!("{n}/{name}"), &[ask], false);
        }
    }
}

fn everybody(group: &mut BenchmarkGroup<'_, WallTime>, workload: &Workload, name: &str, asks: &[&Ask], explain: bool) {
    let router = &workload.router;
    one(group, &format!("router/{name}"), asks, |ask, roll| {
        black_box(router.decide(&ask.request(), roll));
    });
    one(group, &format!("naive/{name}"), asks, |ask, roll| {
        black_box(workload.naive.ask(ask, roll));
    });
    if let Some(floor) = &workload.floor {
        one(group, &format!("floor/{name}"), asks, |ask, roll| {
            black_box(floor.ask(ask, roll));
        });
    }
    if explain {
        one(group, &format!("explain/{name}"), asks, |ask, roll| {
            black_box(router.plan().explain(&ask.request(), roll));
        });
    }
}

fn one(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, asks: &[&Ask], answer: impl Fn(&Ask, &Roll)) {
    let mut n = 0u64;
    group.bench_function(name, |b| {
        b.iter(|| {
            n += 1;
            answer(black_box(asks[n as usize % asks.len()]), &Roll::seeded(n));
        });
    });
}

criterion_group! {
    name = benches;
    config = support::quick();
    targets = w1, w2, w3, w4, w5
}
criterion_main!(benches);
