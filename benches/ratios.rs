//! The table of ratios: the library against itself, against the loop that anyone would write, and against a hash
//! index made for the very workload. Prints Markdown.
//!
//! Ratios travel, absolute figures don't: everybody is measured in turn, over and over, and medians are compared.
//! With `--test` the answers are checked, each question is run once, and nothing is timed.

mod support;

use std::fmt::Display;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use meshroute::{Live, Roll, Router};
use support::{Ask, Workload, canary, headers, hosts, mixed, prefixes};

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let says = |flag: &str| given.iter().any(|arg| arg == flag);
    let pace = if says("--bench") && !says("--test") { Pace::MEASURE } else { Pace::TEST };
    let all = Questions::new(&pace);
    let mut table = Table::new();
    all.decisions(&pace, &mut table);
    table.readers(&pace, &all.w2[0]);
    println!("{}", if pace.repeats > 1 { table.to_string() } else { "ratios: every answer is right".to_string() });
}

/// How long to measure, and how large.
struct Pace {
    repeats: usize,
    batch: Duration,
    loads: usize,
    sizes: [usize; 3],
    hosts: usize,
}

impl Pace {
    const MEASURE: Pace = Pace {
        repeats: 15,
        batch: Duration::from_millis(20),
        loads: 200_000,
        sizes: [10, 1_000, 10_000],
        hosts: 100_000,
    };
    const TEST: Pace = Pace { repeats: 1, batch: Duration::ZERO, loads: 100, sizes: [10, 100, 1_000], hosts: 1_000 };
}

/// The workloads, small to large.
struct Questions {
    w1: Workload,
    w2: [Workload; 3],
    w3: [Workload; 3],
    w4: [Workload; 3],
    w5: Workload,
}

/// Nanoseconds for one decision.
#[derive(Clone, Copy)]
struct Times {
    router: f64,
    naive: f64,
    floor: f64,
}

impl Questions {
    fn new(pace: &Pace) -> Self {
        Questions {
            w1: canary(),
            w2: pace.sizes.map(headers),
            w3: pace.sizes.map(prefixes),
            w4: pace.sizes.map(mixed),
            w5: hosts(pace.hosts),
        }
    }

    fn decisions(&self, pace: &Pace, table: &mut Table) {
        let w1 = table.rivals(pace, &self.w1);
        let w2 = self.w2.each_ref().map(|workload| table.rivals(pace, workload));
        let w3 = self.w3.each_ref().map(|workload| table.rivals(pace, workload));
        let w4 = self.w4.each_ref().map(|workload| table.rivals(pace, workload));
        let w5 = table.rivals(pace, &self.w5);
        table.at_most("W1 against naive", w1.router / w1.naive, 1.0);
        for (name, [_, middle, large], aims) in [("W2", w2, [70.0, 700.0]), ("W3", w3, [20.0, 200.0])] {
            table.at_most(format!("{name} at N = 10,000 against floor"), large.router / large.floor, 1.5);
            table.at_least(format!("{name} at N = 1,000: naive against it"), middle.naive / middle.router, aims[0]);
            table.at_least(format!("{name} at N = 10,000: naive against it"), large.naive / large.router, aims[1]);
        }
        table.at_least("W4 at N = 1,000: naive against it", w4[1].naive / w4[1].router, 10.0);
        table.at_least("W4 at N = 10,000: naive against it", w4[2].naive / w4[2].router, 100.0);
        table.at_most("W5 at H = 100,000 against naive", w5.router / w5.naive, 1.2);
        for (name, times, aim) in [("W2", w2, 1.5), ("W3", w3, 1.5), ("W4", w4, 2.5)] {
            table.at_most(format!("{name} at N = 10,000 against N = 10"), times[2].router / times[0].router, aim);
        }
        for workload in [&self.w2[2], &self.w3[2], &self.w4[2]] {
            table.places(pace, workload);
        }
        table.notes.push(format!("naive against floor, W2 at N = 1,000: {:.0} times", w2[1].naive / w2[1].floor));
    }
}

/// What is printed in the end.
struct Table {
    times: Vec<String>,
    ratios: Vec<String>,
    notes: Vec<String>,
}

impl Table {
    fn new() -> Self {
        let times = ["| one decision, ns | router | naive | floor |", "|---|---:|---:|---:|"];
        let ratios = ["| | measured | aim | |", "|---|---:|---:|---|"];
        Table { times: times.map(Into::into).into(), ratios: ratios.map(Into::into).into(), notes: Vec::new() }
    }

    /// The router and its rivals on random requests.
    fn rivals(&mut self, pace: &Pace, workload: &Workload) -> Times {
        let asks: Vec<_> = workload.random.iter().collect();
        let router = |ask: &Ask, roll: &Roll| {
            black_box(workload.router.decide(&ask.request(), roll));
        };
        let naive = |ask: &Ask, roll: &Roll| {
            black_box(workload.naive.ask(ask, roll));
        };
        let floor = |ask: &Ask, roll: &Roll| {
            black_box(workload.floor.as_ref().map(|floor| floor.ask(ask, roll)));
        };
        let [router, naive, floor] = medians(pace, [(&asks, &router), (&asks, &naive), (&asks, &floor)]);
        let shown = if workload.floor.is_some() { format!("{floor:.0}") } else { "-".into() };
        self.times.push(format!("| {} | {router:.0} | {naive:.0} | {shown} |", workload.name));
        Times { router, naive, floor }
    }

    /// The first route, the last one, and none but the default.
    fn places(&mut self, pace: &Pace, workload: &Workload) {
        let ask = |ask: &Ask, roll: &Roll| {
            black_box(workload.router.decide(&ask.request(), roll));
        };
        let [first, last, miss] = [&workload.first, &workload.last, &workload.miss].map(|ask| vec![ask]);
        let [first, last, miss] = medians(pace, [(&first, &ask), (&last, &ask), (&miss, &ask)]);
        self.at_most(format!("{}: last route against first", workload.name), last / first, 1.5);
        self.at_most(format!("{}: a miss against first", workload.name), miss / first, 1.5);
    }

    /// Readers while somebody publishes as fast as they can.
    fn readers(&mut self, pace: &Pace, workload: &Workload) {
        let compile = || Arc::new(Router::compile(Arc::clone(workload.router.plan())).expect("it was compiled before"));
        let (live, generations) = (Live::new(compile()), [compile(), compile()]);
        let mut ratios: Vec<_> = (0..pace.repeats)
            .map(|_| {
                let alone = p99(pace, &live, &workload.last);
                let stop = AtomicBool::new(false);
                let under_a_writer = thread::scope(|scope| {
                    scope.spawn(|| publish_until(&stop, &live, &generations));
                    let measured = p99(pace, &live, &workload.last);
                    stop.store(true, Ordering::Relaxed);
                    measured
                });
                under_a_writer / alone
            })
            .collect();
        self.at_most("p99 of load and decide under a writer against alone", median(&mut ratios), 1.5);
    }

    fn at_most(&mut self, what: impl Display, measured: f64, aim: f64) {
        self.row(what, measured, format!("at most {aim}"), measured <= aim);
    }

    fn at_least(&mut self, what: impl Display, measured: f64, aim: f64) {
        self.row(what, measured, format!("at least {aim}"), measured >= aim);
    }

    fn row(&mut self, what: impl Display, measured: f64, aim: String, met: bool) {
        let verdict = if met { "" } else { "**missed**" };
        let digits = if measured < 10.0 { 2 } else { 0 };
        self.ratios.push(format!("| {what} | {measured:.digits$} | {aim} | {verdict} |"));
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n\n{}\n\n{}", self.times.join("\n"), self.ratios.join("\n"), self.notes.join("\n"))
    }
}

fn publish_until(stop: &AtomicBool, live: &Live, generations: &[Arc<Router>]) {
    let mut next = generations.iter().cycle();
    while let (false, Some(generation)) = (stop.load(Ordering::Relaxed), next.next()) {
        live.publish(Arc::clone(generation));
    }
}

/// The time that 99 of 100 reads stay below, the clock's own included.
fn p99(pace: &Pace, live: &Live, ask: &Ask) -> f64 {
    let one = |n: usize| {
        let began = Instant::now();
        black_box(live.load().decide(&ask.request(), &Roll::seeded(n as u64)));
        began.elapsed().as_nanos() as f64
    };
    let mut times: Vec<_> = (0..pace.loads).map(one).collect();
    let at = times.len() * 99 / 100;
    *times.select_nth_unstable_by(at, f64::total_cmp).1
}

type Asked<'w> = (&'w [&'w Ask], &'w dyn Fn(&Ask, &Roll));

/// Nanoseconds for one call of each, everybody in turn.
fn medians<const N: usize>(pace: &Pace, asked: [Asked<'_>; N]) -> [f64; N] {
    let batches = asked.map(|asked| batch_size(pace, asked));
    let mut times = [const { Vec::new() }; N];
    for _ in 0..pace.repeats {
        for (at, asked) in asked.into_iter().enumerate() {
            times[at].push(run(asked, batches[at]).as_nanos() as f64 / batches[at] as f64);
        }
    }
    times.map(|mut times| median(&mut times))
}

/// How many calls fill the time of a batch.
fn batch_size(pace: &Pace, asked: Asked<'_>) -> u64 {
    let mut calls = 1;
    while run(asked, calls) < pace.batch {
        calls *= 2;
    }
    calls
}

fn run((asks, call): Asked<'_>, calls: u64) -> Duration {
    let began = Instant::now();
    for (n, ask) in (0..calls).zip(asks.iter().cycle()) {
        call(ask, &Roll::seeded(n));
    }
    began.elapsed()
}

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
