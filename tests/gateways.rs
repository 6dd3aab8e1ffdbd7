//! TLS at the small mesh's gateway: which certificate is shown, who must show one, what is passed on as it is, and files that
//! change. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::time::Instant;

use served::{Folder, PATIENCE, Served, exchange};
use tls::{Issued, Root, knock};

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

    assert!(ask("own.example.com", None).is_err(), "a client must show a certificate");
    assert!(ask("own.example.com", Some(Root::new("test root").issue("client"))).is_err(), "and not just any");
    let (answer, certificate) = ask("own.example.com", Some(root.issue("client"))).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && shows(&certificate, "own.example.com"), "{answer}");

    let head = "GET /a?b HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n".to_string();
    let moved = exchange(&plain, head, Vec::new()).unwrap();
    assert!(moved.status() == "301" && moved.has("location: https://shop.example.com/a?b"), "{}", moved.head);
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
