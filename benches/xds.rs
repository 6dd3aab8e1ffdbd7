//! What does a push cost when 1,000 Envoys are connected, and how much memory does each of them take?
//!
//! The control plane is a process of its own (this one, started again), so that its memory is its own. The subscribers
//! are simulated: they speak delta ADS over real connections, ask for everything that an Envoy would ask for, and accept
//! all. They look no further into what they get than for that. Prints Markdown.
//!
//! - `cargo bench --features xds --bench xds`
//! - `SERVICES=200 SUBSCRIBERS=5000 cargo bench --features xds --bench xds`
//! - with `--test` a few subscribers and changes, in seconds.

#[path = "support/subscribers.rs"]
mod subscribers;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshroute::adapter::xds::{Ads, Fleet};
use meshroute::model::Object;
use meshroute::{Mesh, Reading, Resources, Views};

use subscribers::Crowd;

/// Set for the process that serves.
const SERVES: &str = "MESHROUTE_XDS_SERVES";

fn main() {
    let given: Vec<_> = std::env::args().skip(1).collect();
    let says = |flag: &str| given.iter().any(|arg| arg == flag);
    let (services, subscribers, changes) =
        if says("--bench") && !says("--test") { (1000, 1000, 10) } else { (20, 10, 2) };
    let (services, subscribers) = (setting("SERVICES", services), setting("SUBSCRIBERS", subscribers));
    if std::env::var_os(SERVES).is_some() {
        return block_on(serve(services));
    }
    block_on(measure(services, subscribers, changes));
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a thread can be started").block_on(future);
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Everything of a service: it, its pod, and a rule with two routes.
fn service(number: usize) -> String {
    let (high, low) = (96 + number / 250, number % 250);
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, spec: {{clusterIP: 10.{high}.{low}.1,
        selector: {{app: s{number}}}, ports: [{{name: http, port: 80}}]}}}}"
    );
    [service, pod(number, 1), rules(number, 50)].join("\n---\n")
}

fn pod(number: usize, last: usize) -> String {
    let (high, low) = (number / 250, number % 250);
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: s{number}-1, labels: {{app: s{number}, version: v1}}}},
        status: {{podIP: 10.{high}.{low}.{last}, phase: Running}}}}"
    )
}

fn rules(number: usize, weight: usize) -> String {
    let other = 100 - weight;
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: s{number}}}, spec: {{hosts: [s{number}],
        http: [{{match: [{{headers: {{x-v: {{exact: '2'}}}}}}], route: [{{destination: {{host: s{number}}}}}]}},
        {{route: [{{destination: {{host: s{number}}}, weight: {weight}}}, {{destination: {{host: s0}}, weight: {other}}}]}}]}}}}"
    )
}

/// The control plane: says where it is, then makes a change for each line it reads, and says what that took.
async fn serve(services: usize) {
    let mut resources = Resources::new();
    for number in 0..services {
        let findings = resources.apply_text(&service(number), "services.yaml", Reading::Strict);
        assert!(findings.is_empty(), "{findings:?}");
    }
    let fleet = Arc::new(Fleet::new(Views::new(resources, Mesh::default())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
    println!("{}", listener.local_addr().expect("a bound socket has an address"));
    let served = axum::Router::new().fallback_service(Ads::new(Arc::clone(&fleet)));
    tokio::spawn(async move { axum::serve(listener, served).await });
    let answer = move || {
        for (at, line) in std::io::stdin().lines().map_while(Result::ok).enumerate() {
            let changed = match line.as_str() {
                "rules" => Some(rules(at % services, 1 + at % 48)),
                "endpoints" => Some(pod(at % services, 2 + at % 100)),
                _ => None,
            };
            let changed = changed.map(|text| object(&text));
            let began = Instant::now();
            if let Some(changed) = changed {
                fleet.change(|views| views.apply(changed)).expect("what was resolved compiles");
            }
            println!("{} {} {}", began.elapsed().as_micros(), resident("VmRSS:"), resident("VmHWM:"));
        }
    };
    tokio::task::spawn_blocking(answer).await.expect("it does not panic");
}

/// One resource, as a watch would bring it.
fn object(text: &str) -> Object {
    let mut one = Resources::new();
    let findings = one.apply_text(text, "change.yaml", Reading::Strict);
    assert!(findings.is_empty(), "{findings:?}");
    let first = one.iter().next().map(|resource| resource.object.clone());
    first.expect("it was just applied")
}

/// A line of what the system says of this process's memory, in KiB.
fn resident(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

/// The control plane's process; it ends when this is dropped.
struct Plane {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
    address: String,
}

/// What the plane says of a change: the time to work it out and to offer it, and its memory in KiB.
#[derive(Clone, Copy, Debug)]
struct Told {
    worked_out: Duration,
    memory: u64,
    most: u64,
}

impl Plane {
    fn start(services: usize) -> Plane {
        let program = std::env::current_exe().expect("this is a program");
        let mut command = Command::new(program);
        command.env(SERVES, "1").env("SERVICES", services.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it can be started again");
        let hears = child.stdin.take().expect("it is piped");
        let mut says = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut address = String::new();
        says.read_line(&mut address).expect("it says where it is");
        Plane { child, says, hears, address: address.trim().into() }
    }

    fn change(&mut self, what: &str) -> Told {
        writeln!(self.hears, "{what}").expect("it reads");
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it answers");
        let numbers: Vec<u64> = line.split_whitespace().map(|text| text.parse().expect("it says numbers")).collect();
        let [took, memory, most] = numbers[..] else { panic!("three numbers, not {line}") };
        Told { worked_out: Duration::from_micros(took), memory, most }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure(services: usize, subscribers: usize, changes: usize) {
    let mut plane = Plane::start(services);
    let mut crowd = Crowd::new(&plane.address, services).await;
    let before = plane.change("nothing").memory;
    crowd.grow(subscribers).await;
    let after = plane.change("nothing").memory;
    let each = after.saturating_sub(before) as f64 / (subscribers.max(2) - 1) as f64;
    println!("{services} services, {subscribers} subscribers: {each:.0} KiB for each, {} MiB in all\n", after / 1024);
    println!(
        "| change of | worked out | all have it | the slowest of {changes} | bytes for each | for each subscriber |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for what in ["endpoints", "rules"] {
        let mut times = Vec::new();
        for _ in 0..changes {
            let (begin, bytes) = (Instant::now(), crowd.bytes());
            let told = plane.change(what);
            crowd.all_have_one_more().await;
            times.push((begin.elapsed(), told.worked_out, (crowd.bytes() - bytes) / subscribers as u64));
        }
        times.sort();
        let (median, worked_out, bytes) = times[times.len() / 2];
        let (slowest, each) = (times[times.len() - 1].0, median / subscribers as u32);
        println!("| {what} | {worked_out:.1?} | {median:.1?} | {slowest:.1?} | {bytes} | {each:.1?} |");
    }
    println!("\nat most {} MiB in all, while it sent", plane.change("nothing").most / 1024);
}
