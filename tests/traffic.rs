//! What the mesh's data plane does with traffic: tries, timeouts, health, limits, stickiness, upgrades, and what it
//! refuses. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::*;

/// A shop of three pods, a client, and rules by the path.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: calls}
spec:
  selector: {app: shop}
  ports: [{name: grpc, port: 80, targetPort: 8080}, {name: anything, port: 81, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: raw}
spec:
  selector: {app: shop}
  ports: [{name: tcp-raw, port: 9000, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client, istio-locality: eu.a}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-a, labels: {app: shop, pod: a, istio-locality: us.a}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-b, labels: {app: shop, pod: b, istio-locality: eu.a}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop-c, labels: {app: shop, pod: c, istio-locality: eu.b}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets:
    - {name: all, labels: {app: shop}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
    - {name: a, labels: {pod: a}}
    - {name: c, labels: {pod: c}}
    - name: sticky
      labels: {app: shop}
      trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
    - name: cookie
      labels: {app: shop}
      trafficPolicy: {loadBalancer: {consistentHash: {maglev: {}, httpCookie: {name: user, ttl: 60s}}}}
    - name: near
      labels: {app: shop}
      trafficPolicy:
        outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}
    - name: guarded
      labels: {app: shop}
      trafficPolicy:
        loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}
        outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}
    - name: narrow
      labels: {pod: a}
      trafficPolicy:
        connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
    - {port: {number: 8443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: [raw.example]}
    - {port: {number: 9001, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [raw.example]
  gateways: [edge]
  tls:
    - match: [{port: 8443, sniHosts: [raw.example]}]
      route: [{destination: {host: raw, port: {number: 9000}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge-tcp}
spec:
  hosts: ["*"]
  gateways: [edge]
  tcp:
    - match: [{port: 9001}]
      route: [{destination: {host: raw, port: {number: 9000}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
    - match: [{uri: {prefix: /tries}}]
      rewrite: {uri: /name}
      retries: {attempts: 3, perTryTimeout: 400ms, retryOn: "5xx,reset"}
      route: [{destination: {host: shop, subset: all}}]
    - match: [{uri: {prefix: /crossing}}]
      rewrite: {uri: /name}
      corsPolicy: {allowOrigins: [{exact: "https://shop.example"}], allowMethods: [GET, PUT]}
      route: [{destination: {host: shop, subset: a}}]
    - match: [{uri: {prefix: /late}}]
      rewrite: {uri: /name}
      timeout: 300ms
      route: [{destination: {host: shop, subset: a}}]
    - match: [{uri: {prefix: /copied}}]
      rewrite: {uri: /name}
      mirror: {host: shop, subset: c}
      route: [{destination: {host: shop, subset: a}}]
    - match: [{uri: {prefix: /copies}}]
      rewrite: {uri: /count}
      route: [{destination: {host: shop, subset: c}}]
    - match: [{uri: {prefix: /sticky}}]
      rewrite: {uri: /name}
      route: [{destination: {host: shop, subset: sticky}}]
    - match: [{uri: {prefix: /cookie}}]
      rewrite: {uri: /name}
      route: [{destination: {host: shop, subset: cookie}}]
    - match: [{uri: {prefix: /near}}]
      rewrite: {uri: /name}
      route: [{destination: {host: shop, subset: near}}]
    - match: [{uri: {prefix: /guarded}}]
      rewrite: {uri: /name}
      route: [{destination: {host: shop, subset: guarded}}]
    - match: [{uri: {prefix: /narrow}}]
      rewrite: {uri: /name}
      route: [{destination: {host: shop, subset: narrow}}]
    - route: [{destination: {host: shop, subset: all}}]
"#;

/// The mesh with the shop in it, and the client's sidecar.
fn shop(name: &str) -> (Folder, Served, String) {
    let folder = Folder::empty(name);
    folder.write("shop.yaml", SHOP);
    let served = Served::start(&folder);
    let proxy = served.sidecar("default/client");
    let started = Instant::now();
    while get(&proxy, "http://shop/name", "").status() != "200" {
        assert!(started.elapsed() < PATIENCE);
    }
    (folder, served, proxy)
}

fn settled(status: &serde_json::Value) -> bool {
    status["settled"] == true
}

fn ask(proxy: &str, path: &str, headers: &str) -> Answer {
    get(proxy, &format!("http://shop{path}"), headers)
}

/// Who answers, over some requests.
fn who(proxy: &str, path: &str, headers: &str, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| ask(proxy, path, headers).body).collect()
}

#[test]
fn tries_times_and_copies() {
    let (_folder, _served, proxy) = shop("tries");
    // One pod of three fails; whoever is tried next does not.
    for _ in 0..6 {
        let answer = ask(&proxy, "/tries", "x-misbehave: status=503,only=shop-b\r\n");
        assert_eq!(answer.status(), "200", "{}", answer.head);
        assert_ne!(answer.body, "shop-b");
    }
    let answer = ask(&proxy, "/tries", "x-misbehave: delay=2000,only=shop-a\r\n");
    assert_eq!(answer.status(), "200", "one that takes longer than a try may is given up: {}", answer.head);
    let answer = ask(&proxy, "/tries", "x-misbehave: status=500\r\n");
    assert!(answer.status() == "500" && answer.has("x-meshroute-flags: URX"), "{}", answer.head);
    // What the rule does not name is no reason for another try.
    let answer = ask(&proxy, "/tries", "x-misbehave: status=429\r\n");
    assert!(answer.status() == "429" && !answer.head.contains("flags"), "{}", answer.head);

    let started = Instant::now();
    let answer = ask(&proxy, "/late", "x-misbehave: delay=5000\r\n");
    assert!(answer.status() == "504" && answer.has("x-meshroute-flags: UT"), "{}", answer.head);
    assert!((300..3_000).contains(&started.elapsed().as_millis()));

    let count = || ask(&proxy, "/copies", "").body.parse::<u64>().unwrap();
    let before = count();
    for _ in 0..5 {
        assert_eq!(ask(&proxy, "/copied", "").body, "shop-a");
    }
    let started = Instant::now();
    while count() < before + 5 {
        assert!(started.elapsed() < PATIENCE, "{} of 5 copies", count() - before);
    }
}

#[test]
fn browsers_are_told_who_may_ask() {
    let (_folder, _served, proxy) = shop("cors");
    let preflight = "OPTIONS http://shop/crossing HTTP/1.1\r\nHost: shop\r\nOrigin: https://shop.example\r\n\
                     Access-Control-Request-Method: PUT\r\nConnection: close\r\n\r\n";
    let answer = exchange(&proxy, preflight.into(), Vec::new()).unwrap();
    assert!(answer.status() == "200" && answer.has("access-control-allow-methods: GET,PUT"), "{}", answer.head);
    for (origin, wanted) in [("https://shop.example", true), ("https://other.example", false)] {
        let answer = ask(&proxy, "/crossing", &format!("Origin: {origin}\r\n"));
        assert_eq!((answer.status(), answer.body.as_str()), ("200", "shop-a"));
        assert_eq!(answer.has("access-control-allow-origin: https://shop.example"), wanted, "{}", answer.head);
    }
}

#[test]
fn one_that_fails_is_set_aside_and_a_new_rule_changes_nothing_in_that() {
    let (folder, served, proxy) = shop("guarded");
    assert_eq!(who(&proxy, "/guarded", "", 9).len(), 3);
    let bad = "x-misbehave: status=500,only=shop-b\r\n";
    let begun = Instant::now();
    let failures = (0..12).filter(|_| ask(&proxy, "/guarded", bad).status() == "500").count();
    assert_eq!(failures, 2, "after two of them it is not asked again");
    let readings = served.status()["readings"].as_u64().unwrap();
    folder.write("shop.yaml", &SHOP.replace("timeout: 300ms", "timeout: 301ms"));
    served.until("the rule is in force", |status| settled(status) && status["readings"].as_u64() > Some(readings));
    let left = who(&proxy, "/guarded", "", 6);
    if begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(left, ["shop-a".to_string(), "shop-c".to_string()].into());
    }
    while who(&proxy, "/guarded", "", 6).len() < 3 {
        assert!(begun.elapsed() < PATIENCE, "it never comes back");
    }
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[test]
fn the_near_ones_come_first() {
    let (_folder, _served, proxy) = shop("near");
    // The same zone, then the same region, then the others: each takes over when the one before is set aside.
    for pod in ["shop-b", "shop-c", "shop-a"] {
        assert_eq!(who(&proxy, "/near", "", 6), [pod.to_string()].into());
        assert_eq!(ask(&proxy, "/near", "x-misbehave: status=500\r\n").status(), "500");
    }
    let answer = ask(&proxy, "/near", "");
    assert!(answer.status() == "503" && answer.has("x-meshroute-flags: UH"), "{}", answer.head);
}

#[test]
fn a_full_cluster_takes_no_more() {
    let (_folder, _served, proxy) = shop("narrow");
    let slow = || {
        let proxy = proxy.clone();
        std::thread::spawn(move || ask(&proxy, "/narrow", "x-misbehave: delay=1500\r\n"))
    };
    assert_eq!(ask(&proxy, "/narrow", "").status(), "200", "now there is a connection");
    // One is served, one waits for the connection, and for the others there is no room.
    let asking: Vec<_> = (0..6).map(|_| slow()).collect();
    let answers: Vec<_> = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == "200");
    assert_eq!((served.len(), refused.len()), (2, 4));
    for answer in refused {
        assert!(answer.status() == "503" && answer.has("x-meshroute-flags: UO"), "{}", answer.head);
        assert!(answer.has("x-envoy-overloaded: true"), "{}", answer.head);
    }
    // And room is made again.
    assert_eq!(ask(&proxy, "/narrow", "").status(), "200");
}

#[test]
fn requests_stick_to_a_pod() {
    let (_folder, _served, proxy) = shop("sticky");
    let of = |user: u32| who(&proxy, "/sticky", &format!("x-user: {user}\r\n"), 4);
    let pods: Vec<_> = (0..12).map(of).collect();
    assert!(pods.iter().all(|pods| pods.len() == 1), "{pods:?}");
    assert_eq!(pods.iter().flatten().collect::<BTreeSet<_>>().len(), 3, "different users go to different pods");
    assert!(who(&proxy, "/sticky", "", 30).len() > 1, "without the header they go anywhere");

    let first = ask(&proxy, "/cookie", "");
    let cookie = first.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie is made");
    assert!(cookie.starts_with("user=\"") && cookie.ends_with("; Max-Age=60; HttpOnly"), "{cookie}");
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(who(&proxy, "/cookie", &cookie, 8), [first.body].into());
    assert!(!ask(&proxy, "/cookie", &cookie).head.contains("set-cookie"));
}

fn dial(socket: &str) -> TcpStream {
    let stream = TcpStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Writes, and reads up to the end of a head.
fn head(stream: &mut TcpStream, text: &str) -> String {
    // A server that has heard enough does not listen to the end.
    let _ = stream.write_all(text.as_bytes());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn echoed(stream: &mut TcpStream) {
    for word in ["one", "and another"] {
        stream.write_all(word.as_bytes()).unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, word.as_bytes());
    }
}

#[test]
fn connections_become_something_else() {
    let (_folder, _served, proxy) = shop("upgrades");
    let mut stream = dial(&proxy);
    let asked = "GET http://shop/ HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";
    let answer = head(&mut stream, asked);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.to_lowercase().contains("upgrade: echo"), "{answer}");
    echoed(&mut stream);

    // A tunnel to HTTP: the rules hold in it.
    let mut stream = dial(&proxy);
    let answer = head(&mut stream, "CONNECT shop:80 HTTP/1.1\r\nHost: shop:80\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer =
        head(&mut stream, "GET /late HTTP/1.1\r\nHost: shop\r\nx-misbehave: delay=5000\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");

    // One whose client takes its time is waited for: on this port it is the client that speaks first.
    let mut stream = dial(&proxy);
    assert!(head(&mut stream, "CONNECT shop:80 HTTP/1.1\r\nHost: shop:80\r\n\r\n").starts_with("HTTP/1.1 200 "));
    std::thread::sleep(Duration::from_millis(500));
    let answer = head(&mut stream, "GET /name HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    // A tunnel to a port of which nothing is known but that it is TCP: the pod itself answers.
    let mut stream = dial(&proxy);
    assert!(head(&mut stream, "CONNECT raw:9000 HTTP/1.1\r\nHost: raw:9000\r\n\r\n").starts_with("HTTP/1.1 200 "));
    let answer = head(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 ") && !answer.contains("meshroute"), "{answer}");
    echoed(&mut stream);
}

/// What a TLS client says first.
fn hello(server: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(server.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn a_gateway_passes_tcp_and_tls_on_as_they_are() {
    let (_folder, served, _proxy) = shop("gateway");
    let (tls, tcp) = (served.place("port 8443"), served.place("port 9001"));
    let mut stream = dial(&tcp);
    let answer = head(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 ") && !answer.contains("meshroute"), "{answer}");
    echoed(&mut stream);

    let said = |server: &str| {
        let mut stream = dial(&tls);
        let hello = hello(server);
        // In two pieces: a hello may come in any.
        let (first, rest) = hello.split_at(7);
        stream.write_all(first).unwrap();
        stream.flush().unwrap();
        stream.write_all(rest).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    // The pod speaks no TLS, and says so: it was the one that heard the hello.
    assert!(said("raw.example").starts_with("HTTP/1.1 400 "));
    assert_eq!(said("other.example"), "");
}

#[tokio::test]
async fn http2_and_grpc_pass() {
    let (_folder, _served, proxy) = tokio::task::spawn_blocking(|| shop("http2")).await.unwrap();
    let stream = tokio::net::TcpStream::connect(&proxy).await.unwrap();
    let http = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = http.await.unwrap();
    tokio::spawn(connection);
    let request = |to: &str| {
        let request = Request::post(format!("http://{to}")).header("te", "trailers");
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let many = (0..20).map(|_| sender.send_request(request("calls/grpc"))).collect::<Vec<_>>();
    for answering in many {
        let answer = answering.await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().and_then(|trailers| trailers.get("grpc-status")).unwrap(), "0");
    }
    // Cookies that came apart are one line, in whatever the pod is spoken to.
    for host in ["shop", "calls"] {
        let mut request = request(&format!("{host}/headers"));
        for cookie in ["a=1", "", "b=2"] {
            request.headers_mut().append("cookie", cookie.parse().unwrap());
        }
        let answer = sender.send_request(request).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("\"cookie\": \"a=1; b=2\""), "{host}: {text}");
    }
    // The port says what the pod is spoken to in; where it says nothing, the client does.
    let two = [("shop", "HTTP/1.1"), ("calls", "HTTP/2.0"), ("calls:81", "HTTP/2.0")];
    for (host, version) in two {
        let answer = sender.send_request(request(&format!("{host}/headers"))).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(text.starts_with(version) && text.contains("\"te\": \"trailers\""), "{host}: {text}");
    }
    for (host, version) in [("shop", "HTTP/1.1"), ("calls", "HTTP/2.0"), ("calls:81", "HTTP/1.1")] {
        let (proxy, url) = (proxy.clone(), format!("http://{host}/headers"));
        let answer = tokio::task::spawn_blocking(move || get(&proxy, &url, "")).await.unwrap();
        assert!(answer.body.starts_with(version), "{host}: {}", answer.body);
    }
}

#[test]
fn what_is_no_http_is_refused() {
    let (_folder, _served, proxy) = shop("refused");
    let long = "x".repeat(100 << 10);
    let cases = [
        ("POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
        ("POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: -1\r\n\r\n", "400"),
        // Chunks beside a length: another reader may go by the other.
        (
            "POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
        ("POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: identity\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx-a: b\r\n folded\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx-a: b\rx-b: c\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx a: b\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx-a : b\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx-a: b\0c\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nHost: other\r\n\r\n", "400"),
        ("GET http://shop/na me HTTP/1.1\r\nHost: shop\r\n\r\n", "400"),
        ("GET http://shop/name HTTP/3.0\r\nHost: shop\r\n\r\n", "400"),
        ("\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n", "400"),
        (&format!("GET http://shop/name HTTP/1.1\r\nHost: shop\r\nx-a: {long}\r\n\r\n"), "431"),
        (&format!("GET http://shop/{long} HTTP/1.1\r\nHost: shop\r\n\r\n"), "414 431"),
    ];
    for (request, wanted) in cases {
        let mut stream = dial(&proxy);
        let answer = head(&mut stream, request);
        let status = answer.split(' ').nth(1).unwrap_or("none");
        assert!(wanted.contains(status), "{status} for {:?}", &request[..request.len().min(120)]);
        // What may follow is never taken for another request.
        let mut rest = Vec::new();
        let _ = stream.write_all(b"GET http://shop/count HTTP/1.1\r\nHost: shop\r\n\r\n");
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("HTTP/1.1 200"), "{rest} for {:?}", &request[..request.len().min(120)]);
    }
    assert_eq!(ask(&proxy, "/name", "").status(), "200");
}

#[test]
fn who_is_slow_is_not_waited_for_and_holds_nobody_up() {
    let (_folder, _served, proxy) = shop("slow");
    let started = Instant::now();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| dial(&proxy)).collect();
    for (at, stream) in slow.iter_mut().enumerate() {
        let begun: &[u8] = if at % 2 == 0 { b"" } else { b"GET http://shop/name HTTP/1.1\r\nHos" };
        stream.write_all(begun).unwrap();
    }
    // Nor does one that ends in the middle, or sends half a body and goes.
    for text in ["GET http://sh", "POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 100\r\n\r\nhalf"] {
        dial(&proxy).write_all(text.as_bytes()).unwrap();
    }
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "/name", "").status(), "200");
    }
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(started.elapsed() < PATIENCE, "they are closed");
}
