//! Parts of the small mesh are killed (`kill -9`) under load, one after the other: each takes its own connections with it,
//! and nobody else's, and works again when it has been started again. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use served::{Folder, PATIENCE, Served, exchange, get, signal};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-a, labels: {app: shop, pod: a}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-b, labels: {app: shop, pod: b}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-c, labels: {app: shop, pod: c}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets:
  - {name: a, labels: {pod: a}}
  - {name: b, labels: {pod: b}}
  - {name: c, labels: {pod: c}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop, shop.example]
  gateways: [mesh, edge]
  http:
  - match: [{uri: {exact: /a}}]
    route: [{destination: {host: shop, subset: a}}]
  - match: [{uri: {exact: /b}}]
    route: [{destination: {host: shop, subset: b}}]
  - match: [{uri: {exact: /c}}]
    route: [{destination: {host: shop, subset: c}}]
  - retries: {attempts: 3, retryOn: "5xx,reset,connect-failure"}
    route: [{destination: {host: shop}}]
"#;

/// Where a client enters.
#[derive(Clone)]
struct Way {
    socket: String,
    target: &'static str,
    host: &'static str,
}

impl Way {
    fn get(&self, path: &str) -> Option<String> {
        let (target, host) = (self.target, self.host);
        let head = format!("GET {target}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(&self.socket, head, Vec::new()).map(|answer| answer.status().to_string())
    }

    /// A connection to a certain pod that has become an echo, and stays.
    fn stream(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (target, host) = (self.target, self.host);
        let upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n";
        stream.write_all(format!("GET {target}{path} HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n").as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        assert!(lives(&mut stream));
        stream
    }
}

/// Whether what is said comes back.
fn lives(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"still").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"still"
}

/// When an answer was there or the connection was closed, and the status; `None`: closed.
type Ended = (Instant, Option<String>);

/// Clients that ask again and again, and what they got and when.
struct Load {
    seen: Arc<Mutex<Vec<Ended>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn through(way: &Way, clients: usize) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (way, seen, stop) = (way.clone(), Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let status = way.get("/name");
                    let lost = status.is_none();
                    seen.lock().unwrap().push((Instant::now(), status));
                    // Nobody asks as fast as it can of somebody who is not there; and the machine is not ours alone.
                    std::thread::sleep(Duration::from_millis(if lost { 20 } else { 2 }));
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Load { seen, stop, clients }
    }

    /// What went wrong of what came to its end in this time, and how much went well.
    fn between(&self, from: Instant, to: Instant) -> (Vec<Option<String>>, usize) {
        let seen = self.seen.lock().unwrap();
        let ended = seen.iter().filter(|(ended, _)| (from..to).contains(ended)).map(|(_, status)| status.clone());
        let (good, bad): (Vec<_>, Vec<_>) = ended.partition(|status| status.as_deref() == Some("200"));
        (bad, good.len())
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|(_, status)| status.as_deref() == Some("200")).count()
    }

    /// Waits until so many more have been answered well.
    fn goes_on(&self) {
        let (before, started) = (self.count(), Instant::now());
        while self.count() < before + 10 {
            assert!(started.elapsed() < PATIENCE, "nothing is answered any more");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

fn pid(served: &Served, part: &str) -> u64 {
    let status = served.status();
    let subscribers = status["subscribers"].as_array().unwrap();
    let of = |one: &Value| one["part"] == part;
    let found = if part == "discovery" { Some(&status) } else { subscribers.iter().find(|one| of(one)) };
    found.and_then(|one| one["pid"].as_u64()).unwrap_or_else(|| panic!("no {part} in {status}"))
}

/// Kills a part under load, waits until another process has its place, and says when that was.
fn kill(served: &Served, part: &str, loads: [&Load; 2]) -> Instant {
    loads.iter().for_each(|load| load.goes_on());
    let victim = pid(served, part);
    assert!(signal("-9", victim), "{part}");
    served.until("it runs again", |status| {
        let gone = !status.to_string().contains(&format!("\"pid\":{victim},"));
        gone && status["settled"] == true
    });
    loads.iter().for_each(|load| load.goes_on());
    Instant::now()
}

#[test]
fn whoever_is_killed_takes_only_its_own_with_it() {
    let folder = Folder::empty("kills");
    folder.write("shop.yaml", SHOP);
    let served = Served::start(&folder);
    let inside = Way { socket: served.sidecar("default/client"), target: "http://shop", host: "shop" };
    let outside = Way { socket: served.place("port 80"), target: "", host: "shop.example" };
    let started = Instant::now();
    while inside.get("/name").as_deref() != Some("200") || outside.get("/name").as_deref() != Some("200") {
        assert!(started.elapsed() < PATIENCE);
    }
    let (load, edge) = (Load::through(&inside, 3), Load::through(&outside, 2));
    let mut streams = Vec::new();
    for pod in ["a", "b", "c"] {
        for (by, way) in [("client", &inside), ("gateway", &outside)] {
            streams.push((by, pod, way.stream(&format!("/{pod}"))));
        }
    }

    // Whom it takes with it: by whom they came, and to which pod.
    let parts = [
        ("discovery", "nobody", "none"),
        ("kube-proxy", "nobody", "none"),
        ("pod default/shop-a", "nobody", "a"),
        ("sidecar default/shop-b", "nobody", "b"),
        ("gateway istio-system", "gateway", "none"),
        ("sidecar default/client", "client", "none"),
    ];
    let mut from = started;
    for (part, whose, own) in parts {
        let to = kill(&served, part, [&load, &edge]);
        // A request that another try can save is saved: only who stands at the door of the part itself notices.
        for (by, some) in [("client", &load), ("gateway", &edge)] {
            let (lost, good) = some.between(from, to);
            assert!(good > 0, "{part}: nothing came by {by}");
            let in_words = format!("{part} was killed, and by {by} came {lost:?} beside {good} that went well");
            assert!(lost.is_empty() || by == whose, "{in_words}");
            // Closed; or told that whoever runs in its place has heard nothing of discovery yet.
            let known = |status: &Option<String>| status.as_deref().is_none_or(|status| status == "503");
            assert!(lost.iter().all(known), "{in_words}");
        }
        streams.retain_mut(|(by, pod, stream)| {
            let lives = lives(stream);
            assert_eq!(lives, (*by != whose && *pod != own), "{part} was killed: the stream by {by} to {pod}");
            lives
        });
        from = to;
    }
    assert!(streams.is_empty());
    for way in [&inside, &outside] {
        for path in ["/a", "/b", "/c"] {
            drop(way.stream(path));
        }
    }
    load.end();
    edge.end();
    assert_eq!(get(&inside.socket, "http://shop/name", "").status(), "200");
}
