//! TLS at the small mesh's gateway: which certificate is shown, who must show one, what is passed on as it is, and files that
//! change. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::io::{Read as _, Write as _};
use std::time::Instant;

use served::{Folder, PATIENCE, Served, exchange, get};
use tls::{Issued, Root, knock, knock_slowly};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop.example.com]
    tls: {httpsRedirect: true}
  - port: {number: 443, name: https-shop, protocol: HTTPS}
    hosts: ["default/shop.example.com"]
    tls: {mode: SIMPLE, serverCertificate: tls/shop.crt, privateKey: tls/shop.key}
  - port: {number: 443, name: https-any, protocol: HTTPS}
    hosts: ["*.example.com"]
    tls: {mode: SIMPLE, credentialName: any}
  - port: {number: 443, name: https-own, protocol: HTTPS}
    hosts: [own.example.com]
    tls: {mode: MUTUAL, credentialName: own}
  - port: {number: 443, name: https-named, protocol: HTTPS}
    hosts: [named.example.com]
    tls: {mode: MUTUAL, credentialName: own, subjectAltNames: [friend.example.com]}
  - port: {number: 443, name: https-perhaps, protocol: HTTPS}
    hosts: [perhaps.example.com]
    tls: {mode: OPTIONAL_MUTUAL, credentialName: own, subjectAltNames: [friend.example.com]}
  - port: {number: 443, name: https-pinned, protocol: HTTPS}
    hosts: [pinned.example.com]
    tls: {mode: MUTUAL, credentialName: own, verifyCertificateHash: ["00"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ["*.example.com"]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /headers}}]
    route: [{destination: {host: shop}}]
  - route: [{destination: {host: shop}}]
"#;

/// A folder with the certificates that its Gateway names.
fn folder(name: &str, root: &Root) -> Folder {
    let folder = Folder::empty(name);
    for place in ["tls", "secrets/any", "secrets/own"] {
        std::fs::create_dir_all(folder.0.join(place)).unwrap();
    }
    put(&folder, "tls/shop.crt", "tls/shop.key", &root.issue("shop.example.com"));
    put(&folder, "secrets/any/tls.crt", "secrets/any/tls.key", &root.issue("any.example.com"));
    put(&folder, "secrets/own/tls.crt", "secrets/own/tls.key", &root.issue("own.example.com"));
    folder.write("secrets/own/ca.crt", &root.pem());
    folder.write("shop.yaml", SHOP);
    folder
}

fn put(folder: &Folder, certificate: &str, key: &str, issued: &Issued) {
    folder.write(key, &issued.key_pem());
    folder.write(certificate, &issued.pem());
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn shows(certificate: &[u8], name: &str) -> bool {
    certificate.windows(name.len()).any(|window| window == name.as_bytes())
}

#[test]
fn a_gateway_shows_the_certificate_of_the_host_and_asks_for_one_where_it_says_so() {
    let root = Root::new("test root");
    let folder = folder("ends-tls", &root);
    let served = Served::start(&folder);
    let (plain, door) = (after_curl(&served, "port 80"), after_curl(&served, "port 443"));

    let ask = |name: &str, own: Option<Issued>| knock(&door, name, &[b"http/1.1"], own, "/headers");
    let (answer, certificate) = until("the gateway answers", || ask("shop.example.com", None).ok());
    assert!(answer.starts_with("HTTP/1.1 200 OK") && shows(&certificate, "shop.example.com"), "{answer}");
    assert!(answer.contains("\"x-forwarded-proto\": \"https\""), "{answer}");
    let gateway = "URI=spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account";
    assert!(answer.contains(gateway), "the gateway is somebody too: {answer}");
    let (_, certificate) = ask("other.example.com", None).unwrap();
    assert!(shows(&certificate, "any.example.com"), "the wildcard is for all others");
    assert!(ask("nobody.example.net", None).is_err(), "nobody is there by this name");

    // Who takes their time after the handshake is waited for as anybody is.
    let pause = std::time::Duration::from_millis(500);
    let (answer, _) = knock_slowly(&door, ("shop.example.com", pause), &[b"http/1.1"], None, "/name").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    assert!(ask("own.example.com", None).is_err(), "a client must show a certificate");
    assert!(ask("own.example.com", Some(Root::new("test root").issue("client"))).is_err(), "and not just any");
    let (answer, certificate) = ask("own.example.com", Some(root.issue("client"))).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && shows(&certificate, "own.example.com"), "{answer}");

    // One of the names that the server asks for must be there; and where nothing need be shown, what is shown must be good.
    let friend = || Some(root.issue("friend.example.com"));
    let other = || Some(root.issue("other.example.com"));
    for host in ["named.example.com", "perhaps.example.com"] {
        assert!(ask(host, friend()).is_ok_and(|(answer, _)| answer.starts_with("HTTP/1.1 200 OK")), "{host}");
        assert!(ask(host, other()).is_err(), "{host}: it has another name");
        assert!(ask(host, Some(Root::new("test root").issue("friend.example.com"))).is_err(), "{host}: nobody vouches");
    }
    assert!(ask("named.example.com", None).is_err());
    assert!(ask("perhaps.example.com", None).is_ok_and(|(answer, _)| answer.starts_with("HTTP/1.1 200 OK")));
    assert!(ask("pinned.example.com", friend()).is_err(), "what is not understood lets nobody in");

    // What a client says of its own connection, and of who it is, is not believed.
    let lies =
        "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Client-Cert: By=me;URI=spoofed\r\n";
    for more in ["", lies, &format!("{lies}Connection: x-forwarded-proto\r\n")] {
        let head = format!("GET /a?b HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n{more}\r\n");
        let moved = exchange(&plain, head, Vec::new()).unwrap();
        assert!(moved.status() == "301" && moved.has("location: https://shop.example.com/a?b"), "{}", moved.head);
    }
    let absolute = "GET https://shop.example.com/ HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(&plain, absolute.into(), Vec::new()).unwrap().status(), "403");
    let (answer, _) =
        knock(&door, "shop.example.com", &[b"http/1.1"], None, &format!("/headers HTTP/1.1\r\n{lies}x: ")).unwrap();
    assert!(answer.contains("\"x-forwarded-for\": \"192.0.2.1,127.0.0.1\"") && !answer.contains("spoofed"), "{answer}");
}

/// Where a port of the gateway is, as `serve` prints it.
fn after_curl(served: &Served, port: &str) -> String {
    served.place(port)
}

#[test]
fn a_certificate_that_changes_is_shown_and_one_that_is_broken_is_not() {
    let root = Root::new("test root");
    let folder = folder("reloaded", &root);
    let served = Served::start(&folder);
    let door = after_curl(&served, "port 443");
    let shown =
        || knock(&door, "shop.example.com", &[b"http/1.1"], None, "/name").ok().map(|(_, certificate)| certificate);
    let first = until("the gateway answers", shown);
    let next = root.issue("shop.example.com");
    put(&folder, "tls/shop.crt", "tls/shop.key", &next);
    until("the new one is shown", || (shown()? == next.certificate()).then_some(()));
    assert_ne!(first, next.certificate());
    folder.write("tls/shop.crt", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n");
    until("that is written down", || {
        std::fs::read_to_string(&served.log).unwrap().contains("[\"shop.example.com\"] cannot be used").then_some(())
    });
    assert_eq!(shown().as_deref(), Some(next.certificate()), "what was good before is shown on");
}

/// Somebody in the mesh, a host outside that speaks TLS, a Service at a known address, and a rule for what came encrypted.
const ASKED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: placed}
spec: {selector: {app: shop}, clusterIP: 10.96.7.7, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank}
spec:
  hosts: [bank.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}]
  endpoints: [{address: 127.0.0.1, ports: {tls: 1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: schemes}
spec:
  hosts: [scheme.example.com]
  gateways: [edge]
  http:
  - match: [{scheme: {exact: http}}]
    directResponse: {status: 418}
  - match: [{scheme: {exact: https}}]
    directResponse: {status: 203}
"#;

#[test]
fn explain_says_of_https_and_of_addresses_what_becomes_of_them() {
    let root = Root::new("test root");
    let folder = folder("explained", &root);
    folder.write("asked.yaml", ASKED);
    let served = Served::start(&folder);
    served.until("everybody has everything", |status| status["settled"] == true);
    let explain = |from: &str, url: &str| get(&served.page, &format!("/explain?from={from}&url={url}"), "").body;

    let won = "won: VirtualService default/edge, spec.http[1]";
    let told = explain("gateway", "https://shop.example.com/");
    assert!(told.contains(won) && !told.contains("no chain"), "{told}");
    let told = explain("gateway", "https://user@scheme.example.com/");
    assert!(told.contains("won: VirtualService default/schemes, spec.http[1]") && told.contains("203"), "{told}");

    let told = explain("default/client", "https://bank.example/");
    assert!(told.contains("outbound|443||bank.example"), "{told}");
    let told = explain("default/client", "http://10.96.7.7/");
    assert!(told.contains("placed.default.svc.cluster.local"), "{told}");
}

/// The usual way out: what pods ask of a host outside goes to the egress gateway, and only from there to the host. A pod
/// that is asked for nothing else is the host.
const EGRESS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  ports: [{name: http2, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
---
apiVersion: v1
kind: Pod
metadata: {name: egress, namespace: istio-system, labels: {istio: egressgateway}}
spec: {serviceAccountName: egress, containers: [{name: c, ports: [{containerPort: 8080}, {containerPort: 8443}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: OUTSIDE}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [outside.example]}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [outside.example], tls: {mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress}
spec:
  host: istio-egressgateway.istio-system.svc.cluster.local
  subsets:
  - {name: plain}
  - name: encrypted
    trafficPolicy:
      portLevelSettings: [{port: {number: 443}, tls: {mode: ISTIO_MUTUAL, sni: outside.example}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside}
spec:
  hosts: [outside.example]
  gateways: [mesh, istio-system/egress]
  http:
  - match: [{gateways: [mesh], uri: {prefix: /encrypted}}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, subset: encrypted, port: {number: 443}}}]
  - match: [{gateways: [mesh]}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, subset: plain, port: {number: 80}}}]
  - match: [{gateways: [istio-system/egress]}]
    headers: {request: {set: {x-by: egress}}}
    route: [{destination: {host: outside.example}}]
"#;

const REGISTRY_ONLY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: istio-system}
spec:
  egress: [{hosts: ["*/*"]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"#;

/// A server outside the mesh, which answers with the head of the request.
fn outside() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", head.len());
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&head));
            });
        }
    });
    port
}

#[test]
fn what_goes_out_goes_through_the_egress_gateway_and_what_nobody_knows_goes_nowhere() {
    let folder = Folder::empty("egress");
    let port = outside();
    folder.write("egress.yaml", &EGRESS.replace("OUTSIDE", &port.to_string()));
    let served = Served::start_with(&folder, &["--access-log", "json"]);
    let proxy = served.sidecar("default/client");
    let ask = |path: &str| get(&proxy, &format!("http://outside.example{path}"), "");
    let answer = until("the way out is there", || {
        let answer = ask("/plain");
        (answer.status() == "200").then_some(answer)
    });
    assert!(answer.body.contains("x-by: egress") && answer.body.contains("host: outside.example"), "{}", answer.body);
    let answer = ask("/encrypted/a");
    assert!(answer.status() == "200" && answer.body.contains("x-by: egress"), "{} {}", answer.head, answer.body);
    until("the gateway knows who came", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        let came = "\"downstream_peer_uri_san\":\"spiffe://cluster.local/ns/default/sa/client\"";
        let line = log.lines().find(|line| line.contains("/encrypted/a") && line.contains(came))?;
        (line.contains("outbound|80||outside.example")
            && line.contains("\"requested_server_name\":\"outside.example\""))
        .then_some(())
    });

    // It is a gateway on the page too, by the one name that everybody has for it.
    let json = |path: &str| -> serde_json::Value { serde_json::from_str(&get(&served.page, path, "").body).unwrap() };
    let graph = until("the graph has it", || {
        let graph = json("/api/graph");
        let busy = graph["elements"]["edges"].as_array()?.iter().map(|edge| &edge["data"]);
        let mut busy = busy.filter(|edge| edge["meshroute"]["requests"].as_u64() > Some(0));
        busy.any(|edge| edge["source"] == "workload/istio-system/egress").then_some(graph)
    });
    let mut nodes = graph["elements"]["nodes"].as_array().unwrap().iter().map(|node| &node["data"]);
    let node = nodes.find(|node| node["id"] == "workload/istio-system/egress").unwrap();
    assert!(node["isGateway"]["egressInfo"].is_object(), "{node}");
    let pod = &json("/api/node?id=workload/istio-system/egress")["pods"][0];
    assert!(pod["page"].as_str().is_some_and(|page| page.starts_with("127.0.0.1:")), "{pod}");
    assert!(pod["inForce"].as_u64() > Some(0), "{pod}");
    let told = get(&served.page, "/explain?from=istio-system/egress&url=http://outside.example/", "").body;
    assert!(told.contains("outbound|80||outside.example"), "{told}");

    let unknown = || get(&proxy, &format!("http://127.0.0.1:{port}/direct"), "");
    assert_eq!(unknown().status(), "200", "an address that nobody claims is reached");
    folder.write("registry-only.yaml", REGISTRY_ONLY);
    until("it is no more", || (unknown().status() == "502").then_some(()));
    assert_eq!(ask("/plain").status(), "200", "what is registered still is");
}
