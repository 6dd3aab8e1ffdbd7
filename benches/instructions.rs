//! The same questions as in `ratios`, counted in instructions: what no neighbour on the machine can change.
//!
//! Runs itself under valgrind's callgrind, which must be installed, and prints Markdown. Instructions are not time: what
//! the memory of a large table costs shows in `ratios` alone, and what a shorter way costs less shows here alone.
//!
//! - `cargo bench --bench instructions`: the table, and a failure where an aim is missed by more than a fifth.
//! - with `--test` the sections are run once, and nothing is counted.

mod support;

use std::fmt::Display;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};

use meshroute::{Mesh, Plan, Roll, Router, Viewpoint};
use support::{Ask, Workload, a_mesh, canary, headers, hostile, hosts, mixed, prefixes, tunnels};

/// Calls that are counted for each contender.
const CALLS: usize = 256;
/// Calls that are counted of a request which defeats the index, and costs as much as a thousand.
const HOSTILE_CALLS: usize = 4;
/// What the child process is called with.
const COUNTED: &str = "--counted";
/// By how much an aim may be missed: one is, by a tenth, and another compiler counts a little differently.
const MARGIN: f64 = 1.2;

fn main() -> ExitCode {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let says = |flag: &str| given.iter().any(|arg| arg == flag);
    if says(COUNTED) {
        Sizes::FULL.sections(&mut |name, calls, section| {
            section();
            println!("{calls} {name}");
        });
        return ExitCode::SUCCESS;
    }
    if !says("--bench") || says("--test") {
        Sizes::TEST.sections(&mut |_, _, section| section());
        println!("instructions: every answer is right");
        return ExitCode::SUCCESS;
    }
    match counts() {
        Ok(counts) => judge(&counts),
        Err(error) => {
            eprintln!("nothing was counted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What takes a section: its name, the number of calls, and what is done.
type Counted<'c> = dyn FnMut(&str, usize, &dyn Fn()) + 'c;

/// How large the tables are.
struct Sizes {
    small: usize,
    middle: usize,
    large: usize,
    hosts: usize,
    hostile: usize,
    /// Hosts in the two full builds that are compared.
    builds: [usize; 2],
}

impl Sizes {
    const FULL: Sizes =
        Sizes { small: 10, middle: 1_000, large: 10_000, hosts: 20_000, hostile: 1_000, builds: [334, 3_334] };
    const TEST: Sizes = Sizes { small: 10, middle: 20, large: 30, hosts: 40, hostile: 20, builds: [3, 10] };

    /// Hands out what is counted, each with its name, `W2 N=10 router`, and the number of calls.
    fn sections(&self, with: &mut Counted<'_>) {
        let mut of = |workload: Workload| {
            let random: Vec<_> = workload.random.iter().cycle().take(CALLS).collect();
            let router = |ask: &Ask, roll: &Roll| {
                black_box(workload.router.decide(&ask.request(), roll));
            };
            let naive = |ask: &Ask, roll: &Roll| {
                black_box(workload.naive.ask(ask, roll));
            };
            let floor = |ask: &Ask, roll: &Roll| {
                black_box(workload.floor.as_ref().and_then(|floor| floor.ask(ask, roll)));
            };
            let name = &workload.name;
            with(&format!("{name} router"), CALLS, &|| counted_section(&random, &router));
            with(&format!("{name} naive"), CALLS, &|| counted_section(&random, &naive));
            with(&format!("{name} floor"), CALLS, &|| counted_section(&random, &floor));
            for (place, ask) in [("first", &workload.first), ("last", &workload.last), ("miss", &workload.miss)] {
                with(&format!("{name} {place}"), CALLS, &|| counted_section(&vec![ask; CALLS], &router));
            }
        };
        of(canary());
        for make in [headers, prefixes, mixed] {
            for n in [self.small, self.middle, self.large] {
                of(make(n));
            }
        }
        of(hosts(self.hosts));
        for n in [self.small, self.large] {
            let tunnels = tunnels(n);
            let asks: Vec<_> = tunnels.asks.iter().cycle().take(CALLS).collect();
            let connect = |ask: &Ask, roll: &Roll| {
                black_box(tunnels.connect(ask, roll));
            };
            with(&format!("SNI N={n} connect"), CALLS, &|| counted_section(&asks, &connect));
        }
        for hosts in self.builds {
            let (resources, routes) = a_mesh(hosts);
            let build = |_: &Ask, _: &Roll| {
                let plan = Plan::resolve(&resources, &Viewpoint::sidecar("default"), &Mesh::default()).plan;
                black_box(Router::compile(plan).expect("what was resolved is legal"));
            };
            let once = canary().miss;
            with(&format!("build H={hosts}"), routes, &|| counted_section(&[&once], &build));
        }
        for Workload { name, router, naive, random, .. } in hostile(self.hostile) {
            let asks: Vec<_> = random.iter().cycle().take(HOSTILE_CALLS).collect();
            let router = |ask: &Ask, roll: &Roll| {
                black_box(router.decide(&ask.request(), roll));
            };
            let naive = |ask: &Ask, roll: &Roll| {
                black_box(naive.ask(ask, roll));
            };
            // A regex makes its automaton when it is first asked.
            asks.iter().for_each(|ask| (router(ask, &Roll::seeded(0)), naive(ask, &Roll::seeded(0))).1);
            with(&format!("{HOSTILE}{name} router"), HOSTILE_CALLS, &|| counted_section(&asks, &router));
            with(&format!("{HOSTILE}{name} naive"), HOSTILE_CALLS, &|| counted_section(&asks, &naive));
        }
    }
}

/// Begins the names of what was made to defeat the index.
const HOSTILE: &str = "hostile: ";

/// What callgrind counts: it knows this function by its name.
#[inline(never)]
fn counted_section(asks: &[&Ask], call: &dyn Fn(&Ask, &Roll)) {
    for (n, ask) in (0..).zip(asks) {
        call(ask, &Roll::seeded(n));
    }
}

/// Instructions for one call, by section.
struct Counts(Vec<(String, f64)>);

impl Counts {
    fn of(&self, name: &str) -> f64 {
        self.0.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, count)| *count)
    }
}

/// Runs this program under callgrind, which writes a file whenever it leaves a section.
fn counts() -> Result<Counts, Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("instructions-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let counted = counted_in(&folder);
    std::fs::remove_dir_all(&folder)?;
    counted
}

fn counted_in(folder: &Path) -> Result<Counts, Box<dyn std::error::Error>> {
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .args(["--toggle-collect=*counted_section*", "--dump-after=instructions::counted_section"])
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(std::env::current_exe()?)
        .arg(COUNTED)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !child.status.success() {
        return Err(format!("valgrind: {}\n{}", child.status, String::from_utf8_lossy(&child.stderr)).into());
    }
    let names = String::from_utf8(child.stdout)?;
    let count = |(at, line): (usize, &str)| {
        let (calls, name) = line.split_once(' ').ok_or("a section without its number of calls")?;
        let dump = std::fs::read_to_string(folder.join(format!("out.{}", at + 1)))
            .map_err(|error| format!("what callgrind wrote of {name}: {error}"))?;
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("a dump without totals")?;
        Ok((name.to_string(), total.trim().parse::<f64>()? / calls.parse::<f64>()?))
    };
    names.lines().enumerate().map(count).collect::<Result<_, _>>().map(Counts)
}

/// Prints everything, and fails where an aim is clearly missed.
fn judge(counts: &Counts) -> ExitCode {
    println!("| one decision, instructions | router | naive | floor |\n|---|---:|---:|---:|");
    for name in counts.0.iter().filter_map(|(name, _)| name.strip_suffix(" router")) {
        let [router, naive, floor] =
            ["router", "naive", "floor"].map(|who| format!("{:.0}", counts.of(&format!("{name} {who}"))));
        let has_floor = !name.starts_with("W4") && !name.starts_with(HOSTILE);
        println!("| {name} | {router} | {naive} | {} |", if has_floor { &floor } else { "-" });
    }
    println!("\n| instructions | |\n|---|---:|");
    for (name, count) in counts.0.iter().filter(|(name, _)| name.starts_with("SNI") || name.starts_with("build")) {
        println!("| {name} | {count:.0} |");
    }
    println!("\n| | counted | aim | |\n|---|---:|---:|---|");
    let mut missed = 0;
    let mut row = |what: &dyn Display, counted: f64, aim: &str, missed_by: f64| {
        let verdict = if missed_by > 1.0 { "**missed**" } else { "" };
        println!("| {what} | {counted:.2} | {aim} | {verdict} |");
        missed += usize::from(missed_by.is_nan() || missed_by > MARGIN);
    };
    let ratio = |one: &str, other: &str| counts.of(one) / counts.of(other);
    let mut at_most = |what: &str, one: &str, other: &str, aim: f64| {
        let counted = ratio(one, other);
        row(&what, counted, &format!("at most {aim}"), counted / aim);
    };
    at_most("W1 against naive", "W1 router", "W1 naive", 1.0);
    for (name, growth) in [("W2", 1.5), ("W3", 1.5), ("W4", 2.5)] {
        let at = |n: usize, who: &str| format!("{name} N={n} {who}");
        let what = format!("{name} at N = 10,000 against N = 10");
        at_most(&what, &at(10_000, "router"), &at(10, "router"), growth);
        for place in ["last", "miss"] {
            let what = format!("{name} at N = 10,000: {place} against first");
            at_most(&what, &at(10_000, place), &at(10_000, "first"), 1.5);
        }
        if name != "W4" {
            let what = format!("{name} at N = 10,000 against floor");
            at_most(&what, &at(10_000, "router"), &at(10_000, "floor"), 1.5);
        }
    }
    at_most("W5 at H = 20,000 against naive", "W5 H=20000 router", "W5 H=20000 naive", 1.2);
    at_most(
        "a connection by one of 10,000 server names against one of 10",
        "SNI N=10000 connect",
        "SNI N=10 connect",
        1.5,
    );
    at_most("a full build, a route among 10,002 against one among 1,002", "build H=3334", "build H=334", 1.5);
    for name in counts.0.iter().filter_map(|(name, _)| name.strip_suffix(" naive")) {
        if let Some(what) = name.strip_prefix(HOSTILE) {
            let what = format!("{what}: against a plain scan");
            at_most(&what, &format!("{name} router"), &format!("{name} naive"), 1.5);
        }
    }
    for (name, aims) in [("W2", [70.0, 700.0]), ("W3", [20.0, 200.0]), ("W4", [10.0, 100.0])] {
        for (n, aim) in [1_000, 10_000].into_iter().zip(aims) {
            let gain = ratio(&format!("{name} N={n} naive"), &format!("{name} N={n} router"));
            row(&format!("{name} at N = {n}: naive against it"), gain, &format!("at least {aim}"), aim / gain);
        }
    }
    if missed > 0 {
        eprintln!("{missed} aims were clearly missed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
