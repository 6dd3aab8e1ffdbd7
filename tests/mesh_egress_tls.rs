//! TLS to hosts outside, as sidecars and an egress gateway of the small mesh begin it: whom they take, what they show, and
//! files that change. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::sync::Arc;
use std::time::Instant;

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use served::{Answer, Folder, PATIENCE, Served, get};
use tls::{Issued, Root};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A client, and an egress gateway.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec: {selector: {istio: egressgateway}, ports: [{name: http2, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: egress, namespace: istio-system, labels: {istio: egressgateway}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
"#;

/// Istio's way to begin TLS in the sidecar: what is sent to port 80 goes to 443, encrypted there.
const SIDECAR: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME}
spec:
  hosts: [NAME.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  endpoints: [{address: 127.0.0.1, ports: {https: SERVER}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME}
spec:
  hosts: [NAME.example]
  http: [{match: [{port: 80}], route: [{destination: {host: NAME.example, port: {number: 443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME}
spec:
  host: NAME.example
  trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: TLS}]}
"#;

/// Istio's way to begin it at the egress gateway.
const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far}
spec:
  hosts: [far.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  endpoints: [{address: 127.0.0.1, ports: {https: SERVER}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [far.example]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: far}
spec:
  hosts: [far.example]
  gateways: [mesh, istio-system/egress]
  http:
  - match: [{gateways: [mesh]}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
  - match: [{gateways: [istio-system/egress]}]
    headers: {request: {set: {x-by: egress}}}
    route: [{destination: {host: far.example, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: far}
spec:
  host: far.example
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: far, subjectAltNames: [good.example]}}
"#;

fn der(issued: Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (vec![CertificateDer::from(issued.certificate)], PrivatePkcs8KeyDer::from(issued.key).into())
}

/// A server outside, which tells what it saw. `clients`: who vouches for those whom it takes; `None`: it takes anybody.
fn outside(runtime: &Runtime, shown: Issued, clients: Option<&Root>) -> u16 {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(root) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from(root.certificate().to_vec())).unwrap();
            let provider = Arc::new(ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            config.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = der(shown);
    let mut config = config.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream));
        }
    });
    port
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let tls = &stream.get_ref().1;
    let protocol = String::from_utf8_lossy(tls.alpn_protocol().unwrap_or(b"-")).into_owned();
    let two = protocol == "h2";
    let seen = format!(
        "sni={} protocol={protocol} shown={}",
        tls.server_name().unwrap_or("-"),
        tls.peer_certificates().map_or(0, <[_]>::len)
    );
    let service = service_fn(move |request: Request<Incoming>| {
        let by = request.headers().get("x-by").map_or("-", |by| by.to_str().unwrap()).to_string();
        let response = Response::new(Full::new(Bytes::from(format!("{seen} by={by}"))));
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let stream = TokioIo::new(stream);
    // Each connection for one request, so that the next one shows what is trusted by then.
    let _ = match two {
        true => server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await,
        false => server::conn::http1::Builder::new().keep_alive(false).serve_connection(stream, service).await,
    };
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

fn ask(proxy: &str, host: &str) -> Answer {
    get(proxy, &format!("http://{host}.example/"), "")
}

/// That a host does not get what was meant for another, and why.
fn refused(answer: &Answer, why: &str) {
    assert!(answer.status() == "503" && answer.has("x-meshroute-flags: UF,URX"), "{} {}", answer.head, answer.body);
    let before = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    assert!(answer.body.starts_with(&format!("{before}, transport failure reason: TLS")), "{}", answer.body);
    assert!(answer.body.contains(why), "{}", answer.body);
}

/// A request in HTTP/2, without asking first.
async fn ask_in_two(proxy: &str, host: &str) -> String {
    let stream = TokioIo::new(TcpStream::connect(proxy).await.unwrap());
    let (mut sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://{host}.example/")).body(Empty::<Bytes>::new()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn what_is_sent_in_the_clear_goes_out_encrypted_to_whom_the_rule_means() {
    let (runtime, folder) = (Runtime::new().unwrap(), Folder::empty("egress-tls"));
    let (root, other) = (Root::new("root"), Root::new("other"));
    let anybody = outside(&runtime, root.issue("good.example"), None);
    let choosy = outside(&runtime, root.issue("good.example"), Some(&root));
    std::fs::create_dir(folder.0.join("tls")).unwrap();
    let own = root.issue("client.example");
    folder.write("tls/root.pem", &root.pem());
    folder.write("tls/turning.pem", &root.pem());
    folder.write("tls/other.pem", &other.pem());
    folder.write("tls/client.pem", &own.pem());
    folder.write("tls/client.key", &own.key_pem());
    let mutual = "clientCertificate: tls/client.pem, privateKey: tls/client.key";
    let either = "connectionPool: {http: {useClientProtocol: true}";
    let rules: [(&str, u16, String); 14] = [
        ("good", anybody, "mode: SIMPLE, caCertificates: tls/root.pem".into()),
        ("either", anybody, format!("mode: SIMPLE, caCertificates: tls/root.pem, sni: good.example}}, {either}")),
        ("stranger", anybody, "mode: SIMPLE, caCertificates: tls/root.pem".into()),
        (
            "named",
            anybody,
            "mode: SIMPLE, caCertificates: tls/root.pem, subjectAltNames: [x.example, good.example]".into(),
        ),
        (
            "misnamed",
            anybody,
            "mode: SIMPLE, caCertificates: tls/root.pem, sni: good.example, subjectAltNames: [no.example]".into(),
        ),
        ("calling", anybody, "mode: SIMPLE, caCertificates: tls/root.pem, sni: called.example".into()),
        ("forged", anybody, "mode: SIMPLE, caCertificates: tls/other.pem, subjectAltNames: [good.example]".into()),
        ("blind", anybody, "mode: SIMPLE, caCertificates: tls/none.pem".into()),
        ("system", anybody, "mode: SIMPLE, subjectAltNames: [good.example]".into()),
        ("revoked", anybody, "mode: SIMPLE, caCertificates: tls/root.pem, caCrl: tls/root.crl".into()),
        ("careless", anybody, "mode: SIMPLE, insecureSkipVerify: true".into()),
        (
            "shown",
            choosy,
            format!("mode: MUTUAL, caCertificates: tls/root.pem, subjectAltNames: [good.example], {mutual}"),
        ),
        ("nobody", choosy, "mode: SIMPLE, caCertificates: tls/root.pem, subjectAltNames: [good.example]".into()),
        ("turning", anybody, "mode: SIMPLE, caCertificates: tls/turning.pem, subjectAltNames: [good.example]".into()),
    ];
    let one = |(name, port, tls): &(&str, u16, String)| {
        let rule = SIDECAR.replace("NAME", name).replace("SERVER", &port.to_string());
        rule.replace("TLS", &format!("{{{tls}}}"))
    };
    let all: Vec<String> = rules.iter().map(one).collect();
    folder.write("outside.yaml", &format!("{PODS}---{}", all.join("---")));
    let served = Served::start(&folder);
    let proxy = served.sidecar("default/client");

    for (host, seen) in [
        ("good", "sni=good.example protocol=http/1.1 shown=0 by=-"),
        ("named", "sni=named.example protocol=http/1.1 shown=0 by=-"),
        // As with Istio, nobody looks at names where the rule says what is sent, and not what is to come back.
        ("calling", "sni=called.example protocol=http/1.1 shown=0 by=-"),
        ("careless", "sni=careless.example protocol=http/1.1 shown=0 by=-"),
        ("shown", "sni=shown.example protocol=http/1.1 shown=1 by=-"),
    ] {
        let answer = ask(&proxy, host);
        assert_eq!((answer.status(), &*answer.body), ("200", seen), "{host}: {}", answer.head);
    }
    // The client's own version goes out where the rule says so only.
    assert_eq!(runtime.block_on(ask_in_two(&proxy, "good")), "sni=good.example protocol=http/1.1 shown=0 by=-");
    assert_eq!(runtime.block_on(ask_in_two(&proxy, "either")), "sni=good.example protocol=h2 shown=0 by=-");
    refused(&ask(&proxy, "stranger"), "NotValidForName");
    refused(&ask(&proxy, "misnamed"), "NotValidForName");
    refused(&ask(&proxy, "forged"), "UnknownIssuer");
    refused(&ask(&proxy, "blind"), "Secret is not supplied by SDS");
    refused(&ask(&proxy, "revoked"), "Secret is not supplied by SDS");
    refused(&ask(&proxy, "system"), "TLS");
    // TLS 1.3 has the server look at what is shown when the client already believes itself done.
    assert_eq!(ask(&proxy, "nobody").status(), "503", "it shows nothing to somebody who wants to see it");

    let log = until("all is written down", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        log.contains("nobody.example").then_some(log)
    });
    let line = log.lines().find(|line| line.starts_with('[') && line.contains("forged.example")).unwrap();
    let details = " 503 UF,URX upstream_reset_before_response_started{remote_connection_failure|TLS_error:|";
    assert!(line.contains(details) && line.contains("outbound|443||forged.example"), "{line}");
    assert!(log.contains("TLS to outbound|443||blind.example: its files cannot be used: caCertificates "), "{log}");

    folder.write("tls/turning.pem", "no certificate");
    until("the broken file was seen", || {
        std::fs::read_to_string(&served.log).unwrap().contains("TLS to outbound|443||turning.example").then_some(())
    });
    assert_eq!(ask(&proxy, "turning").status(), "200", "what was good before is trusted on");
    folder.write("tls/turning.pem", &other.pem());
    until("the other authority alone is trusted", || (ask(&proxy, "turning").status() == "503").then_some(()));
    folder.write("tls/turning.pem", &root.pem());
    until("and the first again", || (ask(&proxy, "turning").status() == "200").then_some(()));
}

#[test]
fn an_egress_gateway_begins_it_for_those_behind() {
    let (runtime, folder) = (Runtime::new().unwrap(), Folder::empty("egress-gateway-tls"));
    let root = Root::new("root");
    let choosy = outside(&runtime, root.issue("good.example"), Some(&root));
    std::fs::create_dir_all(folder.0.join("secrets/far")).unwrap();
    let own = root.issue("egress.example");
    folder.write("secrets/far/ca.crt", &root.pem());
    folder.write("secrets/far/tls.crt", &own.pem());
    folder.write("secrets/far/tls.key", &own.key_pem());
    folder.write("far.yaml", &format!("{PODS}---{}", GATEWAY.replace("SERVER", &choosy.to_string())));
    let served = Served::start(&folder);
    let proxy = served.sidecar("default/client");
    let answer = until("the way out is there", || {
        let answer = ask(&proxy, "far");
        (answer.status() == "200").then_some(answer)
    });
    assert_eq!(answer.body, "sni=far.example protocol=http/1.1 shown=1 by=egress", "{}", answer.head);
}
