//! Readers during publication see exactly one generation, and the last one in the end.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use meshroute::plan::{Action, Chain, Cluster, Condition, Destination, Endpoint, Forward, HttpTable, Listener, Route};
use meshroute::plan::{Target, Unclaimed, VirtualHost};
use meshroute::{HostPattern, Live, Outcome, Plan, Request, Roll, Router};

const GENERATIONS: u64 = 2_000;
const READERS: usize = 4;

/// A router that says its generation in five places: route, virtual host, cluster, endpoint and DNS.
fn router(generation: u64) -> Router {
    let mut cluster = Cluster::missing(&generation.to_string(), "", 80);
    cluster.exists = true;
    cluster.endpoints = [Endpoint::new("10.0.0.1", 80, &generation.to_string())].into();
    let forward = Forward::new(vec![Destination::new(0, 1)]);
    let route = Route::new(generation.to_string(), Condition::default(), Action::Forward(forward));
    let mut host = VirtualHost::new(generation.to_string(), vec![HostPattern::parse("*").unwrap()]);
    host.routes = [route].into();
    let mut table = HttpTable::new("80", Unclaimed::NotFound);
    table.hosts.push(host);
    let mut listener = Listener::new(80, Vec::new());
    listener.chains.push(Chain::new(Target::Http(table.into())));
    let mut plan = Plan::default();
    plan.clusters.push(cluster);
    plan.listeners.push(listener);
    plan.names.insert(generation.to_string(), vec![[10, 0, 0, 1].into()]);
    Router::compile(plan).unwrap()
}

/// The generation in force, which all five places agree upon; asked twice of one snapshot.
fn generation(live: &Live) -> u64 {
    let snapshot = live.load();
    let seen = [(); 2].map(|()| {
        let decision = snapshot.decide(&Request::new("GET", "nginx", "/"), &Roll::seeded(0));
        let Outcome::Forward(to) = decision.outcome else { panic!("{decision:?}") };
        let name = decision.route.unwrap().name.to_string();
        assert_eq!(name, *decision.host.unwrap().name);
        assert_eq!(name, *to.cluster.host);
        assert_eq!(name, *to.cluster.endpoints[0].workload);
        assert_eq!(snapshot.lookup(&name).len(), 1);
        name.parse::<u64>().unwrap()
    });
    assert_eq!(seen[0], seen[1], "a snapshot never changes");
    seen[0]
}

#[test]
fn readers_see_one_generation_at_a_time() {
    let live = Live::new(router(0));
    let (start, published) = (Barrier::new(READERS + 1), AtomicU64::new(0));
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(|| read(&live, &start, &published))).collect();
        start.wait();
        for next in 1..=GENERATIONS {
            let before = live.publish(router(next));
            assert_eq!(before.plan().clusters[0].host.parse(), Ok(next - 1), "what was in force is handed back");
            published.store(next, Ordering::Release);
        }
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(generation(&live), GENERATIONS);
}

/// Reads until the last generation is there; says how often.
fn read(live: &Live, start: &Barrier, published: &AtomicU64) -> u64 {
    start.wait();
    let (mut last, mut reads) = (0, 0);
    while last < GENERATIONS {
        let at_least = published.load(Ordering::Acquire);
        let seen = generation(live);
        assert!(seen >= last && seen >= at_least, "generation {seen} after {last}, when {at_least} was published");
        (last, reads) = (seen, reads + 1);
    }
    reads
}

#[test]
fn a_snapshot_outlives_what_replaced_it() {
    let live = Live::new(router(1));
    let snapshot = live.load();
    let kept = snapshot.to_arc();
    live.publish(router(2));
    live.publish(router(3));
    assert_eq!(&*snapshot.plan().clusters[0].host, "1");
    drop(live);
    assert_eq!(&*kept.plan().clusters[0].host, "1");
}
