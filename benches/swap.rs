//! What does it cost to read the router in force, alone and while somebody publishes as fast as they can?
//!
//! The rivals are what anyone would reach for: a lock around an `Arc`. Every answer read is checked to be whole: its
//! route and its cluster come from the same generation.

mod support;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use meshroute::{Live, Roll, Router};
use support::{Ask, Workload, answer, headers};

const ROUTES: usize = 100;

struct Cells {
    live: Live,
    locked: RwLock<Arc<Router>>,
    exclusive: Mutex<Arc<Router>>,
    generations: [Arc<Router>; 2],
}

impl Cells {
    fn new(workload: &Workload) -> Self {
        let compile = || Arc::new(Router::compile(Arc::clone(workload.router.plan())).expect("it was compiled before"));
        let generations = [compile(), compile()];
        Cells {
            live: Live::new(compile()),
            locked: RwLock::new(compile()),
            exclusive: Mutex::new(compile()),
            generations,
        }
    }

    /// Publishes to all three cells until told to stop.
    fn publish_until(&self, stop: &AtomicBool) {
        for generation in self.generations.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.live.publish(Arc::clone(generation));
            *self.locked.write().expect("no reader panics") = Arc::clone(generation);
            *self.exclusive.lock().expect("no reader panics") = Arc::clone(generation);
        }
    }

    fn locked(&self) -> Arc<Router> {
        Arc::clone(&self.locked.read().expect("no writer panics"))
    }

    fn exclusive(&self) -> Arc<Router> {
        Arc::clone(&self.exclusive.lock().expect("no writer panics"))
    }
}

fn swap(c: &mut Criterion) {
    let workload = headers(ROUTES);
    let cells = Cells::new(&workload);
    check(&cells, &workload.last);
    readers(&mut c.benchmark_group("swap/alone"), &cells, &workload.last);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| cells.publish_until(&stop));
        check(&cells, &workload.last);
        readers(&mut c.benchmark_group("swap/under a writer"), &cells, &workload.last);
        stop.store(true, Ordering::Relaxed);
    });
}

fn check(cells: &Cells, ask: &Ask) {
    let roll = Roll::seeded(1);
    let right = |router: &Router| answer(router, &router.decide(&ask.request(), &roll)) == Some(ask.answer(&roll));
    for _ in 0..1_000 {
        assert!(right(&cells.live.load()) && right(&cells.locked()) && right(&cells.exclusive()));
    }
}

fn readers(group: &mut BenchmarkGroup<'_, WallTime>, cells: &Cells, ask: &Ask) {
    let roll = Roll::seeded(1);
    group.bench_function("load", |b| b.iter(|| black_box(&*cells.live.load()).plan().listeners.len()));
    group.bench_function("load and decide", |b| {
        b.iter(|| {
            black_box(cells.live.load().decide(&ask.request(), &roll));
        });
    });
    group.bench_function("RwLock and clone", |b| b.iter(|| black_box(cells.locked()).plan().listeners.len()));
    group.bench_function("Mutex and clone", |b| b.iter(|| black_box(cells.exclusive()).plan().listeners.len()));
}

fn publish(c: &mut Criterion) {
    let cells = Cells::new(&headers(ROUTES));
    c.bench_function("swap/publish", |b| b.iter(|| black_box(cells.live.publish(Arc::clone(&cells.generations[0])))));
}

criterion_group! {
    name = benches;
    config = support::quick();
    targets = swap, publish
}
criterion_main!(benches);
