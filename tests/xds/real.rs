//! Real Envoys under the control plane: random configurations, and questions to each of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshroute::adapter::xds::{Bootstrap, Client, Entry, Flavor, Fleet, Kind};
use meshroute::{OutboundPolicy, Reader, Reading, Resources, Views};

use crate::ask::Ask;
use crate::client::exchange;
use crate::compare::Seen;
use crate::coverage::Coverage;
use crate::plane::{Plane, free_port, listens};
use crate::round::{ask_all, conclude, gather, judge, read_log, setting};
use crate::server::Envoy;
use crate::translate::{access_log, amend};
use crate::upstream::Upstreams;
use crate::world::{World, mesh};

/// How many worlds each seed makes, and how many questions each of them is asked.
const WORLDS: u64 = 170;
const EACH: usize = 6;

/// 510 configurations, each accepted by a sidecar and by a gateway, and 3,060 questions; by both ways of speaking.
#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn real_envoys_take_every_configuration_and_answer_as_the_router_does() {
    let (first, worlds) = (setting("SEED", 1), setting("WORLDS", WORLDS));
    let (mut coverage, mut wrong) = (Coverage::default(), Vec::new());
    for seed in first..first + 3 {
        let flavor = if seed % 2 == 0 { Flavor::StateOfTheWorld } else { Flavor::Delta };
        println!("SEED={seed} WORLDS={worlds} {flavor:?}");
        round(seed, worlds, flavor, &mut coverage, &mut wrong);
    }
    conclude(first, &coverage, &wrong);
    assert!(worlds > 0, "nothing was asked");
}

/// The two Envoys of one control plane.
struct Pair {
    plane: Plane,
    sidecar: Proxy,
    gateway: Proxy,
}

struct Proxy {
    envoy: Envoy,
    entry: SocketAddr,
    log: PathBuf,
}

impl Pair {
    fn start(name: &str, outbound: OutboundPolicy, flavor: Flavor, upstreams: &Arc<Upstreams>) -> Pair {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xds-{}-{name}", std::process::id()));
        // There is one only after another round.
        let _ = std::fs::remove_dir_all(&folder);
        let (entries, upstreams) = ([free_port(), free_port()], Arc::clone(upstreams));
        let logs = ["sidecar", "gateway"].map(|kind| folder.join(kind).join("access.log"));
        let told = logs.clone();
        let fleet = Fleet::new(Views::new(Resources::new(), mesh(outbound)))
            .recognise(move |node| {
                let (client, kind) = (Client::of(node), usize::from(node.id.starts_with("router~")));
                let log = access_log(&told[kind].to_string_lossy());
                let setup = client.setup.entry(Entry::ProxyProtocol(entries[kind])).access_log(log);
                Client::new(client.viewpoint, setup)
            })
            .amend(move |_, made| amend(&upstreams, made));
        let plane = Plane::start(fleet);
        let sidecar = Bootstrap::sidecar("client", "default", plane.address).label("app", "client").flavor(flavor);
        let gateway = Bootstrap::gateway("gw", "istio-system", plane.address);
        let gateway = gateway.label("istio", "ingressgateway").flavor(flavor);
        let [at_sidecar, at_gateway] = logs;
        let start = |bootstrap: Bootstrap, entry, log: PathBuf| {
            let folder = log.parent().expect("it is in a folder");
            std::fs::create_dir_all(folder).expect("the target folder can be written to");
            Proxy { envoy: Envoy::start(folder, &bootstrap.to_string()), entry, log }
        };
        let (sidecar, gateway) = (start(sidecar, entries[0], at_sidecar), start(gateway, entries[1], at_gateway));
        let pair = Pair { plane, sidecar, gateway };
        pair.plane.settle(2);
        pair
    }

    /// Puts a world in force.
    fn take(&self, world: &World) {
        let mut reader = Reader::new(Reading::Strict);
        reader.text(&world.text(), "generated.yaml");
        self.plane.fleet.change(|views| {
            views.replace(Reader::new(Reading::Strict));
            views.replace(reader)
        });
        self.plane.settle(2);
        for one in self.plane.fleet.connected() {
            let refused: Vec<_> = Kind::ALL.iter().filter_map(|kind| one.word(*kind).refused.clone()).collect();
            assert!(refused.is_empty(), "{} refuses {refused:?} of\n{}", one.node, world.text());
        }
        listens(&self.of(world).envoy);
    }

    fn of(&self, world: &World) -> &Proxy {
        if world.gateway { &self.gateway } else { &self.sidecar }
    }
}

fn round(seed: u64, count: u64, flavor: Flavor, coverage: &mut Coverage, wrong: &mut Vec<String>) {
    let worlds: Vec<World> = (0..count).map(|number| World::new(seed, number)).collect();
    let world = |case: usize| (case / EACH, &worlds[case / EACH]);
    let cases = 0..worlds.len() * EACH;
    let asks: Vec<Ask> = cases.clone().map(|case| Ask::new(seed, case, world(case).1)).collect();
    let upstreams = Arc::new(Upstreams::new());
    let pairs = [("allow", OutboundPolicy::AllowAny), ("registry", OutboundPolicy::RegistryOnly)];
    let pairs: Vec<(OutboundPolicy, Pair)> =
        pairs.map(|(name, outbound)| (outbound, Pair::start(name, outbound, flavor, &upstreams))).into();
    let (mut seen, mut copies): (Vec<Seen>, usize) = Default::default();
    for (world, asks) in worlds.iter().zip(asks.chunks(EACH)) {
        let (_, pair) = pairs.iter().find(|(outbound, _)| *outbound == world.outbound).expect("there is one for each");
        pair.take(world);
        let (entry, first) = (pair.of(world).entry, seen.len());
        let exchanged = ask_all(asks, |at, ask| exchange(entry, first + at, ask.dialled(ask.port), &ask.bytes()));
        seen.extend(exchanged.into_iter().map(|answer| Seen { answer, ..Seen::default() }));
        copies += asks.iter().map(|ask| ask.copies(world)).sum::<usize>();
    }
    gather(&upstreams, 0, copies, &mut seen);
    for (_, Pair { sidecar, gateway, plane }) in pairs {
        for Proxy { envoy, log, .. } in [sidecar, gateway] {
            envoy.finish();
            read_log(&log, &cases, &mut seen);
        }
        drop(plane);
    }
    judge(seed, cases, &world, &asks, &seen, &upstreams, coverage, wrong);
}
