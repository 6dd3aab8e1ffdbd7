//! Updates under load, and updates that are refused, with a real Envoy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshroute::adapter::xds::{Bootstrap, Client, Entry, Flavor, Fleet, Kind, Refused, Translation};
use meshroute::{Mesh, Reader, Reading, Resources, Views};

use crate::plane::{Plane, free_port, listens};
use crate::round::setting;
use crate::server::Envoy;
use crate::translate::amend;
use crate::upstream::Upstreams;

/// What the shop is, and who answers for it.
#[derive(Clone, Copy, Debug)]
struct Shop {
    /// The last number of the first version's pod.
    pod: u8,
    /// How many of a hundred go to the first version.
    weight: u8,
    /// How many requests may be active.
    most: u32,
    /// Another service that takes part in it, by number.
    extra: Option<u64>,
    /// Whether there is a service on a port of its own.
    other_port: bool,
}

const SHOP: Shop = Shop { pod: 1, weight: 50, most: 1000, extra: None, other_port: false };

impl Shop {
    /// What an operator would have written.
    fn text(&self) -> String {
        let mut all = vec![
            service("shop", 1, 80),
            pod("shop", "v1", &format!("10.0.0.{}", self.pod)),
            pod("shop", "v2", "10.0.0.9"),
            format!(
                "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: shop}}, spec: {{host: shop,
                trafficPolicy: {{connectionPool: {{http: {{http2MaxRequests: {}}}}}}},
                subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}}}",
                self.most
            ),
        ];
        let to =
            |subset: &str, weight: u8| format!("{{destination: {{host: shop, subset: {subset}}}, weight: {weight}}}");
        let mut routes = format!("{}, {}", to("v1", self.weight), to("v2", 100 - self.weight));
        if let Some(number) = self.extra {
            let name = format!("extra-{number}");
            all.push(service(&name, 2, 80));
            all.push(pod(&name, "v1", "10.0.1.1"));
            routes.push_str(&format!(", {{destination: {{host: {name}}}, weight: 50}}"));
        }
        if self.other_port {
            all.push(service("other", 3, 8080));
            all.push(pod("other", "v1", "10.0.2.1"));
        }
        all.push(format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: shop}}, spec: {{hosts: [shop],
            http: [{{route: [{routes}]}}]}}}}"
        ));
        all.join("\n---\n")
    }
}

fn service(name: &str, address: u8, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: 10.96.1.{address},
        selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}}}"
    )
}

fn pod(app: &str, version: &str, address: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {app}-{version}, labels: {{app: {app}, version: {version}}}}},
        status: {{podIP: {address}, phase: Running}}}}"
    )
}

/// An Envoy under a control plane, in front of the shop.
pub struct Front {
    pub plane: Plane,
    pub envoy: Envoy,
    pub entry: SocketAddr,
    pub upstreams: Arc<Upstreams>,
}

impl Front {
    pub fn start(name: &str, flavor: Flavor, spoil: impl Fn(&mut Translation) + Send + Sync + 'static) -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xds-{}-{name}-{flavor:?}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the target folder can be written to");
        let entry = free_port();
        let upstreams = Arc::new(Upstreams::new());
        let at_loopback = Arc::clone(&upstreams);
        let fleet = Fleet::new(Views::new(Resources::new(), Mesh::default()))
            .recognise(move |node| {
                let client = Client::of(node);
                Client::new(client.viewpoint, client.setup.entry(Entry::ProxyProtocol(entry)))
            })
            .amend(move |_, made| {
                amend(&at_loopback, made);
                spoil(made);
            });
        let plane = Plane::start(fleet);
        let bootstrap = Bootstrap::sidecar("client", "default", plane.address).flavor(flavor);
        let envoy = Envoy::start(&folder, &bootstrap.to_string());
        let front = Front { plane, envoy, entry, upstreams };
        front.take(SHOP);
        front.plane.settle(1);
        listens(&front.envoy);
        front
    }

    fn take(&self, shop: Shop) {
        self.put(&shop.text());
    }

    /// Puts other resources in force.
    pub fn put(&self, text: &str) {
        let mut reader = Reader::new(Reading::Strict);
        reader.text(text, "shop.yaml");
        assert!(!reader.failed(), "{:?}", reader.findings());
        self.plane.fleet.change(|views| views.replace(reader));
    }

    /// The endpoint that a request reaches.
    fn reaches(&self) -> String {
        while self.upstreams.received(Duration::ZERO).is_some() {}
        let mut line = Line::open(self.entry);
        assert_eq!(line.ask(), Ok(200));
        self.upstreams.received(Duration::from_secs(5)).expect("it went somewhere").endpoint
    }

    fn refused(&self, kind: Kind) -> Option<Refused> {
        self.plane.fleet.connected().first()?.word(kind).refused.clone()
    }
}

/// A client's connection, used again and again.
struct Line {
    entry: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Line {
    fn open(entry: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(entry).expect("Envoy listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero can be set");
        stream.write_all(b"PROXY TCP4 192.0.2.1 10.96.1.1 40000 80\r\n").expect("Envoy reads");
        Line { entry, stream: BufReader::new(stream) }
    }

    /// The status of a request, or what became of it.
    fn ask(&mut self) -> Result<u16, String> {
        let request = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
        self.stream.get_mut().write_all(request).map_err(|error| error.to_string())?;
        let (mut head, mut status, mut length, mut ends) = (String::new(), 0, 0, false);
        loop {
            head.clear();
            let count = self.stream.read_line(&mut head).map_err(|error| error.to_string())?;
            let line = head.trim().to_ascii_lowercase();
            match line.split_once(' ') {
                None if count == 0 => return Err("the connection was closed".into()),
                None => break,
                Some((name, value)) if name.starts_with("http/") => status = value[..3].parse().unwrap_or_default(),
                Some(("content-length:", value)) => length = value.parse().unwrap_or_default(),
                Some(("connection:", "close")) => ends = true,
                Some(_) => {}
            }
        }
        self.stream.read_exact(&mut vec![0; length]).map_err(|error| error.to_string())?;
        if ends {
            *self = Line::open(self.entry);
        }
        Ok(status)
    }
}

/// The state after a change; every sixth kind of change comes in turn.
fn changed(shop: Shop, number: u64) -> Shop {
    match number % 6 {
        0 => Shop { weight: 1 + (number % 99) as u8, ..shop },
        1 => Shop { pod: 1 + shop.pod % 2, ..shop },
        2 => Shop { most: 1000 + number as u32, ..shop },
        3 => Shop { extra: Some(number), ..shop },
        4 => Shop { extra: None, ..shop },
        _ => Shop { other_port: !shop.other_port, ..shop },
    }
}

/// A thousand updates in each way of speaking, while requests never cease.
#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn no_request_is_lost_in_a_thousand_updates() {
    for flavor in [Flavor::Delta, Flavor::StateOfTheWorld] {
        let front = Front::start("updates", flavor, |_| {});
        let (done, served) = (AtomicBool::new(false), AtomicU64::new(0));
        let load = || {
            let mut line = Line::open(front.entry);
            while !done.load(Ordering::Relaxed) {
                assert_eq!(line.ask(), Ok(200), "after {} requests", served.load(Ordering::Relaxed));
                served.fetch_add(1, Ordering::Relaxed);
            }
        };
        let updates = setting("UPDATES", 1000);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3).map(|_| scope.spawn(load)).collect();
            let mut shop = SHOP;
            for number in 0..updates {
                shop = changed(shop, number);
                front.take(shop);
                // Now and then many come at once.
                if number % 50 < 40 {
                    front.plane.settle(1);
                }
                assert!(clients.iter().all(|client| !client.is_finished()), "a request was lost at update {number}");
            }
            front.plane.settle(1);
            done.store(true, Ordering::Relaxed);
        });
        let served = served.into_inner();
        println!("{flavor:?}: {updates} updates, {served} requests, none lost");
        assert!(served > updates, "there was hardly any load: {served} requests");
        front.envoy.finish();
    }
}

/// What is refused is told with its reason and changes nothing; endpoints go on; and what is right comes through again.
#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn what_envoy_refuses_leaves_the_last_good_one_and_is_told() {
    for flavor in [Flavor::Delta, Flavor::StateOfTheWorld] {
        for kind in [Kind::Route, Kind::Cluster] {
            refuses(flavor, kind);
        }
    }
}

fn refuses(flavor: Flavor, kind: Kind) {
    let spoiled = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&spoiled);
    let front = Front::start(&format!("refused-{kind}"), flavor, move |made| {
        if flag.load(Ordering::Relaxed) {
            spoil(kind, made);
        }
    });
    let all_to_first = Shop { weight: 100, ..SHOP };
    front.take(all_to_first);
    front.plane.settle(1);
    assert_eq!(front.reaches(), "10.0.0.1:80");

    spoiled.store(true, Ordering::Relaxed);
    // Of the first version something is left, else its endpoints would be nobody's concern.
    let most_to_second = Shop { weight: 1, most: 7, ..SHOP };
    front.take(most_to_second);
    front.plane.wait(|| front.refused(kind).is_some());
    let refused = front.refused(kind).expect("it was just there");
    println!("{flavor:?}, {kind}: {}", refused.reason);
    let reason = if kind == Kind::Route { "wildcard domain" } else { "HealthyPanicThreshold" };
    assert!(refused.reason.contains(reason), "{}", refused.reason);
    assert_eq!(front.reaches(), "10.0.0.1:80");

    // The pod moves, and its endpoint with it.
    front.take(Shop { pod: 2, ..most_to_second });
    front.plane.wait(|| front.reaches() == "10.0.0.2:80");
    assert!(front.refused(kind).is_some());

    spoiled.store(false, Ordering::Relaxed);
    front.take(Shop { weight: 0, most: 8, ..SHOP });
    front.plane.settle(1);
    assert_eq!(front.refused(kind), None);
    assert_eq!(front.reaches(), "10.0.0.9:80");
    front.envoy.finish();
}

/// Makes something that an Envoy does not take.
fn spoil(kind: Kind, made: &mut Translation) {
    if kind == Kind::Route {
        made.routes
            .iter_mut()
            .flat_map(|table| &mut table.virtual_hosts)
            .for_each(|host| host.domains.push("*".into()));
        return;
    }
    for cluster in made.clusters.iter_mut().filter(|cluster| cluster.name.contains("shop")) {
        let panics = cluster.common_lb_config.as_mut().and_then(|config| config.healthy_panic_threshold.as_mut());
        panics.expect("it is set").value = 700.0;
    }
}
