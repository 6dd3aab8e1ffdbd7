//! What operators look at while the small mesh runs: metrics, access log, the graph, and every part's own page. Knows
//! nothing of the library. Two tests need a real Prometheus and a real Chromium.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use served::{Folder, PATIENCE, Served, all_gone, exchange, get, signal, try_get};

/// On loopback with the example's own pods, and with real nginx in networks of their own.
const WORLDS: [&[&str]; 2] = [&[], &["--intercept", "--pods", "nginx"]];

/// The labels without which Kiali passes over a series.
const LABELS: [&str; 23] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_canonical_service",
    "source_canonical_revision",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

fn json(socket: &str, target: &str) -> Value {
    let answer = get(socket, target, "");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{target}: {error}: {}", answer.body))
}

/// Waits until something is there.
fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where a sidecar has its own page.
fn page_of(served: &Served, pod: &str) -> String {
    let (status, part) = (served.status(), format!("sidecar default/{pod}"));
    let found =
        status["subscribers"].as_array().unwrap().iter().find(|one| one["part"].as_str().unwrap().starts_with(&part));
    format!("127.0.0.1:{}", found.unwrap_or_else(|| panic!("no {part} in {status}"))["admin"])
}

/// One line of Prometheus' text form, taken apart.
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

fn series(text: &str) -> Vec<Series> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(one_series).collect()
}

fn one_series(line: &str) -> Series {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty()).map(|pair| pair.split_once("=\"").unwrap());
    let labels = pairs.map(|(name, value)| (name.to_string(), value.trim_end_matches('"').to_string())).collect();
    Series { name: name.to_string(), labels, value: value.parse().unwrap() }
}

/// How often requests ended in some way, as a proxy's page has it.
fn count(page: &str, wanted: &[(&str, &str)]) -> f64 {
    let all = series(&get(page, "/stats/prometheus", "").body);
    let fits =
        |one: &&Series| wanted.iter().all(|(name, value)| one.labels.get(*name).map(String::as_str) == Some(*value));
    all.iter().filter(|one| one.name == "istio_requests_total").filter(fits).map(|one| one.value).sum()
}

/// Two who speak over TCP and HTTP, a host outside that speaks TLS, and a gateway.
const TALK: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-raw, port: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop, version: v1}}
spec: {serviceAccountName: shop, containers: [{name: c, ports: [{containerPort: 8080}, {containerPort: 9000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec: {host: shop, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 300ms}}}}
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
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http: [{route: [{destination: {host: shop}}]}]
";

fn talking(name: &str, more: &[&str]) -> (Folder, Served) {
    let folder = Folder::empty(name);
    folder.write("talk.yaml", TALK);
    let served = Served::start_with(&folder, more);
    served.until("everybody has everything", |status| status["settled"] == true);
    (folder, served)
}

/// What comes back through a tunnel until the other side ends it.
fn through_a_tunnel(proxy: &str, to: &str, said: &[u8]) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(said).unwrap();
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    back
}

/// How a metric stands under some labels, and under all others that fit.
fn value(page: &str, metric: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let all = series(&get(page, "/stats/prometheus", "").body);
    let fits =
        |one: &&Series| wanted.iter().all(|(name, value)| one.labels.get(*name).map(String::as_str) == Some(*value));
    let found: Vec<f64> = all.iter().filter(|one| one.name == metric).filter(fits).map(|one| one.value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

fn gateway_page(served: &Served) -> String {
    let status = served.status();
    let mut all = status["subscribers"].as_array().unwrap().iter();
    let found = all.find(|one| one["part"].as_str().unwrap().starts_with("gateway "));
    format!("127.0.0.1:{}", found.unwrap_or_else(|| panic!("no gateway in {status}"))["admin"])
}

/// Every label of Istio's stands on every series, and those of requests on theirs alone.
fn labels_are_complete(page: &str) {
    let all = series(&get(page, "/stats/prometheus", "").body);
    let counted = all.iter().filter(|one| !one.name.starts_with("istio_agent_") && one.name != "istio_build");
    assert!(counted.clone().count() > 0, "{page} has counted nothing");
    for one in counted {
        let missing: Vec<_> =
            LABELS.iter().filter(|name| one.labels.get(**name).is_none_or(String::is_empty)).collect();
        assert!(missing.is_empty(), "{} lacks {missing:?}", one.name);
        let of_requests = ["response_code", "grpc_response_status"].map(|name| one.labels.contains_key(name));
        let wanted = !one.name.starts_with("istio_tcp_");
        assert_eq!(of_requests, [wanted; 2], "{}: {:?}", one.name, one.labels);
        let known = LABELS.len() + if wanted { 2 } else { 0 } + usize::from(one.labels.contains_key("le"));
        assert_eq!(one.labels.len(), known, "{}: {:?}", one.name, one.labels);
    }
}

#[test]
fn connections_are_counted_drawn_and_written_down_as_istio_does_it() {
    let (_folder, served) = talking("connections", &[]);
    let proxy = served.sidecar("default/client");
    let said = b"GET /name HTTP/1.0\r\n\r\n";
    let back = through_a_tunnel(&proxy, "shop:9000", said);
    assert!(back.ends_with(b"shop"), "{}", String::from_utf8_lossy(&back));
    through_a_tunnel(&proxy, "127.0.0.1:1", b"anybody?\n");

    let (client, shop) = (page_of(&served, "client"), page_of(&served, "shop"));
    let names = [
        ("destination_service", "shop.default.svc.cluster.local"),
        ("destination_service_name", "shop"),
        ("destination_workload", "shop"),
        ("destination_version", "v1"),
        ("destination_principal", "spiffe://cluster.local/ns/default/sa/shop"),
        ("source_principal", "spiffe://cluster.local/ns/default/sa/client"),
        ("source_workload_namespace", "default"),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
    ];
    let of = |more: &[(&'static str, &'static str)]| [&names[..], more].concat();
    let by_client = of(&[("reporter", "source"), ("source_workload", "client")]);
    let by_shop = of(&[("reporter", "destination"), ("connection_security_policy", "mutual_tls")]);
    for (page, wanted) in [(&client, by_client), (&shop, by_shop)] {
        until("it is over", || value(page, "istio_tcp_connections_closed_total", &wanted));
        assert_eq!(value(page, "istio_tcp_connections_opened_total", &wanted), Some(1.0));
        assert_eq!(value(page, "istio_tcp_connections_closed_total", &wanted), Some(1.0));
        assert_eq!(value(page, "istio_tcp_received_bytes_total", &wanted), Some(said.len() as f64));
        assert_eq!(value(page, "istio_tcp_sent_bytes_total", &wanted), Some(back.len() as f64));
        labels_are_complete(page);
    }
    let nobody = [("destination_service_name", "PassthroughCluster"), ("response_flags", "UF")];
    assert_eq!(value(&client, "istio_tcp_connections_opened_total", &nobody), Some(1.0));
    assert_eq!(value(&client, "istio_requests_total", &[]), None, "a tunnel is no request of its own");

    // Requests to the same service are an edge of their own: rates of one protocol are none of the other.
    assert_eq!(get(&proxy, "http://shop/name", "").status(), "200");
    let graph = until("the graph has both", || {
        let graph = json(&served.page, "/api/graph");
        edges(&graph).contains_key(&edge("service/default/shop", "workload/default/shop")).then_some(())?;
        let tcp =
            graph["elements"]["edges"].as_array()?.iter().filter(|edge| edge["data"]["traffic"]["protocol"] == "tcp");
        (tcp.count() == 3).then_some(graph)
    });
    let all = graph["elements"]["edges"].as_array().unwrap().iter().map(|edge| &edge["data"]);
    let found = |id: &str| all.clone().find(|edge| edge["id"] == id).unwrap_or_else(|| panic!("no {id} in {graph}"));
    let http = found("service/default/shop~workload/default/shop");
    let rates = http["traffic"]["rates"].as_object().unwrap();
    assert!(rates.keys().all(|name| name.starts_with("http")) && rates.contains_key("http"), "{http}");
    let edge = found("service/default/shop~workload/default/shop~tcp");
    assert_eq!((&edge["isMTLS"], &edge["meshroute"]["connections"]), (&"100".into(), &1.into()), "{edge}");
    assert!(edge["traffic"]["rates"].as_object().unwrap().keys().all(|name| name.starts_with("tcp")), "{edge}");
    assert!(edge["traffic"]["rates"]["tcp"].as_str().unwrap().parse::<f64>().unwrap() > 0.0, "{edge}");
    assert_eq!(edge["traffic"]["responses"]["-"]["flags"]["-"], "100.0", "{edge}");
    assert!(all.clone().all(|edge| edge["source"] != "workload/default/unknown"), "{graph}");

    let log = until("both sides have written it down", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        (log.matches("\"- - -\" 0 ").count() == 3).then_some(log)
    });
    let line = |cluster: &str| log.lines().find(|line| line.contains(cluster)).unwrap_or_else(|| panic!("{log}"));
    let sizes = format!("] \"- - -\" 0 - - - \"-\" {} {} ", said.len(), back.len());
    for cluster in [" outbound|9000||shop.default.svc.cluster.local ", " inbound|9000|| "] {
        let line = line(cluster);
        assert!(line.contains(&sizes) && line.contains(" - \"-\" \"-\" \"-\" \"-\" \""), "{line}");
        let ends: Vec<&str> = line.rsplit_once(cluster).unwrap().1.split(' ').collect();
        assert_eq!((ends.len(), ends[3], ends[4]), (5, "-", "-"), "{line}");
        assert!(ends[..3].iter().all(|end| end.starts_with("127.0.0.1:")), "{line}");
    }
    assert!(line(" PassthroughCluster ").contains("\"- - -\" 0 UF - - \"-\" "), "{log}");
}

#[test]
fn lines_of_connections_obey_the_encoding_and_name_the_server() {
    let hello = hello("bank.example");
    let (_folder, served) = talking("connections-json", &["--access-log", "json"]);
    through_a_tunnel(&served.sidecar("default/client"), "bank.example:443", &hello);
    let line = until("the line is written", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        log.lines().find(|line| line.contains("\"requested_server_name\":\"bank.example\"")).map(str::to_string)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["requested_server_name"], &line["response_flags"]), (&"bank.example".into(), &"UF".into()));
    assert_eq!((&line["upstream_cluster"], &line["response_code"]), (&"outbound|443||bank.example".into(), &0.into()));
    assert_eq!((&line["upstream_host"], &line["method"]), (&"127.0.0.1:1".into(), &Value::Null));
    drop(served);

    let (_folder, served) = talking("connections-off", &["--access-log", "off"]);
    through_a_tunnel(&served.sidecar("default/client"), "bank.example:443", &hello);
    let page = page_of(&served, "client");
    until("it is counted", || value(&page, "istio_tcp_connections_closed_total", &[]));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(std::fs::read_to_string(&served.log).unwrap(), "");
}

/// The first bytes of a client that wants TLS with a server of this name.
fn hello(name: &str) -> Vec<u8> {
    use std::sync::Arc;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_string()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn labels_are_what_is_known_and_no_more() {
    let (_folder, served) = talking("known", &[]);
    let (proxy, edge) = (served.sidecar("default/client"), served.place("port 80"));
    let (client, gateway) = (page_of(&served, "client"), gateway_page(&served));
    let raw = |socket: &str, head: &str| exchange(socket, head.into(), Vec::new()).unwrap().status().to_string();

    // Nonsense comes from somebody, too.
    assert_eq!(raw(&proxy, "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"), "400");
    assert_eq!(raw(&proxy, "CONNECT nowhere HTTP/1.1\r\nHost: nowhere\r\nConnection: close\r\n\r\n"), "400");
    until("both are counted", || {
        (value(&client, "istio_requests_total", &[("source_workload", "client"), ("response_code", "400")])
            == Some(2.0))
        .then_some(())
    });

    // What any client says is no label at a gateway; at a sidecar a host is one, if it can be a host.
    let host = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert_eq!(raw(&edge, &host("made-up.example")), "404");
    assert_eq!(raw(&edge, &host("shop.example.com")), "200");
    let of_gateway = |service: &str, workload: &str| {
        let wanted = [
            ("destination_service", service),
            ("destination_workload", workload),
            ("source_workload", "istio-ingressgateway"),
            ("reporter", "source"),
        ];
        value(&gateway, "istio_requests_total", &wanted)
    };
    until("the gateway has counted both", || {
        (of_gateway("unknown", "unknown") == Some(1.0)
            && of_gateway("shop.default.svc.cluster.local", "shop") == Some(1.0))
        .then_some(())
    });
    let long = format!("{}.example", "a".repeat(300));
    raw(&proxy, &format!("GET http://{long}/ HTTP/1.1\r\nHost: {long}\r\nConnection: close\r\n\r\n"));
    get(&proxy, "http://made-up.example/", "");
    until("the sidecar has counted both", || {
        let of = |host: &str| value(&client, "istio_requests_total", &[("destination_service", host)]);
        (of("made-up.example") == Some(1.0)).then_some(())
    });
    let page = get(&client, "/stats/prometheus", "").body;
    assert!(!page.contains(&"a".repeat(300)) && !page.contains(&"a".repeat(254)), "{page}");

    // Whoever does not shake hands has not proved to be anybody.
    let status = served.status();
    let mut all = status["subscribers"].as_array().unwrap().iter();
    let shop = all.find(|one| one["part"] == "sidecar default/shop").unwrap()["pid"].as_u64().unwrap();
    assert!(signal("-STOP", shop));
    let answer = get(&proxy, "http://shop/", "");
    assert!(signal("-CONT", shop));
    assert!(answer.status() == "503" && answer.has("x-meshroute-flags: UF,URX"), "{}", answer.head);
    let failed = |principal: &str| {
        let wanted =
            [("response_flags", "UF,URX"), ("destination_service_name", "shop"), ("destination_principal", principal)];
        value(&client, "istio_requests_total", &wanted)
    };
    until("it is counted", || failed("unknown"));
    assert_eq!(failed("spiffe://cluster.local/ns/default/sa/shop"), None);
    assert_eq!(get(&proxy, "http://shop/", "").status(), "200");
    for page in [&client, &gateway, &page_of(&served, "shop")] {
        labels_are_complete(page);
    }
}

const PARTNER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: partner, namespace: abroad}
spec:
  hosts: [partner.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: 1}}]
";

#[test]
fn a_host_outside_is_counted_under_the_namespace_that_declares_it() {
    let folder = Folder::new("abroad");
    folder.write("partner.yaml", PARTNER);
    let served = Served::start(&folder);
    let master = page_of(&served, "nginx-deployment-master");
    assert_eq!(get(&served.proxy, "http://partner.example/x", "").status(), "503", "nobody listens there");
    let partner = [
        ("destination_service", "partner.example"),
        ("destination_service_name", "partner.example"),
        ("destination_service_namespace", "abroad"),
    ];
    until("it is counted", || (count(&master, &partner) == 1.0).then_some(()));
}

#[test]
fn every_request_is_counted_and_written_down_as_istio_does_it() {
    let folder = Folder::new("counted");
    let served = Served::start(&folder);
    let master = page_of(&served, "nginx-deployment-master");
    assert_eq!(get(&master, "/healthz/ready", "").status(), "200");
    for _ in 0..7 {
        assert_eq!(served.ask(Some("2")).status(), "200");
    }
    let unhealthy = (0..40).filter(|_| served.ask(Some("1")).status() == "503").count() as f64;
    get(&served.proxy, "http://nobody.example:81/x", "");

    let canary = [
        ("response_code", "200"),
        ("response_flags", "-"),
        ("source_workload", "nginx-deployment-master"),
        ("destination_workload", "nginx-deployment-canary-2"),
        ("destination_service", "nginx.default.svc.cluster.local"),
        ("destination_service_name", "nginx"),
        ("destination_service_namespace", "default"),
        ("request_protocol", "http"),
        ("reporter", "source"),
    ];
    until("all are counted", || (count(&master, &canary) == 7.0).then_some(()));
    let nobody = [("response_code", "503"), ("response_flags", "UH"), ("destination_workload", "unknown")];
    assert_eq!(count(&master, &nobody), unhealthy);
    assert_eq!(count(&master, &[("destination_service_name", "PassthroughCluster"), ("response_code", "502")]), 1.0);
    assert_eq!(count(&master, &[]), 48.0);

    let all = series(&get(&master, "/stats/prometheus", "").body);
    labels_are_complete(&master);
    let agent = |name: &str| all.iter().find(|one| one.name == name).unwrap().value;
    assert!((1.0..=14_400.0).contains(&agent("istio_agent_cert_expiry_seconds")), "its certificate is good for hours");
    assert_eq!(agent("istio_agent_num_outgoing_requests") - agent("istio_agent_num_failed_outgoing_requests"), 1.0);
    for name in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
        let sum = |end: &str| -> f64 {
            let named = all.iter().filter(|one| one.name == format!("{name}{end}"));
            let whole = named.filter(|one| one.labels.get("le").is_none_or(|bound| bound == "+Inf"));
            whole.map(|one| one.value).sum()
        };
        assert_eq!((sum("_count"), sum("_bucket")), (48.0, 48.0), "{name}");
    }

    // Lines are gathered for a moment before they are written.
    let log = until("all are written down", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        (log.lines().filter(|line| line.starts_with('[')).count() as f64 >= 95.0 - unhealthy).then_some(log)
    });
    // The sidecars of those who are asked write down what comes in.
    let (came, lines): (Vec<&str>, Vec<&str>) =
        log.lines().filter(|line| line.starts_with('[')).partition(|line| line.contains(" inbound|80|| "));
    assert_eq!(came.len() as f64, 47.0 - unhealthy, "{log}");
    assert_eq!(lines.len(), 48, "{log}");
    let line = lines[0];
    assert!(line.contains("] \"GET / HTTP/1.1\" 200 - via_upstream - \"-\" 0 "), "{line}");
    let cluster = " outbound|5000|canary-2|nginx.default.svc.cluster.local - ";
    assert!(line.contains(&format!("{cluster}{} 127.0.0.1:", served.proxy)), "{line}");
    let unhealthy_lines = lines.iter().filter(|line| line.contains("\" 503 UH no_healthy_upstream - \"-\" 0 19 "));
    assert_eq!(unhealthy_lines.count() as f64, unhealthy);
    assert!(
        lines[47].contains("\"GET /x HTTP/1.1\" 502 ") && lines[47].contains("PassthroughCluster"),
        "{}",
        lines[47]
    );
}

#[test]
fn lines_are_whole_and_none_is_lost_when_a_part_ends() {
    let folder = Folder::new("lines");
    let mut served = Served::start(&folder);
    let pages = ["nginx-deployment-master", "nginx-deployment-canary-2"].map(|pod| page_of(&served, pod));
    let ask =
        |closing: &str| format!("GET http://nginx:5000/n HTTP/1.1\r\nHost: nginx\r\ncanary_id: 2\r\n{closing}\r\n");
    let many = ask("").repeat(299) + &ask("Connection: close\r\n");
    exchange(&served.proxy, many, Vec::new()).expect("it answers");
    let by = |reporter| [("destination_workload", "nginx-deployment-canary-2"), ("reporter", reporter)];
    until("both sides are done", || {
        let done = count(&pages[0], &by("source")) == 300.0 && count(&pages[1], &by("destination")) == 300.0;
        done.then_some(())
    });
    let children = served.children();
    let status = served.status();
    let asked = status["subscribers"].as_array().unwrap().iter();
    let asked =
        asked.filter(|one| one["part"].as_str().unwrap().starts_with("sidecar default/nginx-deployment-canary-2"));
    // One is asked to end, the others are left behind.
    asked.for_each(|one| assert!(signal("-TERM", one["pid"].as_u64().unwrap())));
    served.parent.kill().unwrap();
    all_gone(&children);
    let log = std::fs::read_to_string(&served.log).unwrap();
    let (came, went): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.contains(" inbound|80|| "));
    assert_eq!((came.len(), went.len()), (300, 300), "{log}");
    for line in came.iter().chain(&went) {
        assert!(line.starts_with('[') && line.matches("] \"GET /n HTTP/1.1\" 404 ").count() == 1, "{line}");
    }
}

#[test]
fn the_access_log_may_be_json() {
    let folder = Folder::new("json");
    let served = Served::start_with(&folder, &["--access-log", "json"]);
    let id = "x-request-id: 11111111-2222-4333-8444-555555555555\r\nuser-agent: a \"test\"\r\n";
    get(&served.proxy, "http://nginx:5000/a?b=c", &format!("canary_id: 2\r\n{id}"));
    let line = until("the line is written", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        log.lines().find(|line| line.contains("11111111-2222") && line.contains("outbound|")).map(str::to_string)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["method"], &line["path"], &line["response_code"]),
        (&"GET".into(), &"/a?b=c".into(), &404.into())
    );
    assert_eq!((&line["user_agent"], &line["response_flags"]), (&"a \"test\"".into(), &"-".into()));
    assert_eq!(line["upstream_cluster"], "outbound|5000|canary-2|nginx.default.svc.cluster.local");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("rule 2 of VirtualService default/nginx (nginx-vs.yaml:"), "{reason}");
}

/// Sends a request through the sidecar to a server of the test's own, and says what head arrived there.
fn arrived(served: &Served, headers: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
            head.push(byte[0]);
        }
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(head).unwrap()
    });
    assert_eq!(get(&served.proxy, &format!("http://{address}/x?y=z"), headers).status(), "200");
    server.join().unwrap()
}

fn traceparent(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("traceparent: "))
}

#[test]
fn a_trace_goes_on_and_has_a_span_for_each_proxy() {
    let folder = Folder::new("traced");
    let spans = folder.0.with_extension("spans");
    let served = Served::start_with(&folder, &["--spans", spans.to_str().unwrap()]);
    let (trace, before) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let head = arrived(&served, &format!("traceparent: 00-{trace}-{before}-01\r\ntracestate: a=b\r\n"));
    let sent: Vec<&str> = traceparent(&head).unwrap().split('-').collect();
    assert_eq!((sent[0], sent[1], sent[3]), ("00", trace, "01"));
    assert!(sent[2].len() == 16 && sent[2] != before && head.contains("tracestate: a=b"), "{head}");
    // What was not sampled stays so and passes as it is; what is no trace is not gone on with.
    let unsampled = format!("00-{trace}-{before}-00");
    assert_eq!(traceparent(&arrived(&served, &format!("traceparent: {unsampled}\r\n"))), Some(&*unsampled));
    let fresh = arrived(&served, &format!("traceparent: 00-{}-{before}-01\r\n", "0".repeat(32)));
    assert!(!traceparent(&fresh).unwrap().contains(&"0".repeat(32)), "{fresh}");

    let written = until("both spans are written", || {
        let text = std::fs::read_to_string(&spans).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    });
    let span = &written[0]["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(
        (&span["traceId"], &span["parentSpanId"], &span["spanId"]),
        (&trace.into(), &before.into(), &sent[2].into())
    );
    let attributes = span["attributes"].to_string();
    assert!(
        attributes.contains("{\"key\":\"http.response.status_code\",\"value\":{\"stringValue\":\"200\"}}"),
        "{span}"
    );
    assert!(attributes.contains("PassthroughCluster") && attributes.contains("\"/x\""), "{span}");
    let service = &written[0]["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"];
    assert_eq!((service, &span["kind"]), (&"nginx-master.default".into(), &3.into()), "SPAN_KIND_CLIENT");

    // Whoever is asked serves: the other half of the same call.
    served.ask(Some("2"));
    let both = until("both sides have written theirs", || {
        let text = std::fs::read_to_string(&spans).unwrap();
        let lines: Vec<Value> = text.lines().skip(2).map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    });
    let spans_of = both.iter().map(|line| line["resourceSpans"][0]["scopeSpans"][0]["spans"][0].clone());
    let (server, client): (Vec<Value>, Vec<Value>) = spans_of.partition(|span| span["kind"] == 2);
    assert_eq!((server.len(), client.len(), &client[0]["kind"]), (1, 1, &3.into()), "{both:?}");
    assert_eq!(server[0]["parentSpanId"], client[0]["spanId"]);
    std::fs::remove_file(spans).unwrap();
}

#[test]
fn without_spans_a_trace_passes_as_it_is() {
    let folder = Folder::new("untraced");
    let served = Served::start(&folder);
    let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let head = arrived(&served, &format!("traceparent: {sent}\r\n"));
    assert_eq!(traceparent(&head), Some(sent));
    assert_eq!(traceparent(&arrived(&served, "")), None);
    assert!(head.contains("x-request-id: "), "{head}");
}

#[test]
fn precheck_says_what_a_machine_lacks() {
    let folder = Folder::new("precheck");
    let precheck = |more: &[&str]| {
        let output = Command::new(served::program()).arg("precheck").arg(&folder.0).args(more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let (good, said) = precheck(&[]);
    assert!(good && said.contains("4 pods: 12 processes") && said.contains("A mesh can run here"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (good, said) = precheck(&["--address", &taken.local_addr().unwrap().to_string()]);
    assert!(!good && said.lines().any(|line| line.starts_with("NO  page")), "{said}");
    folder.write("broken.yaml", "] no yaml");
    let (good, said) = precheck(&[]);
    assert!(!good && said.lines().any(|line| line.starts_with("NO  folder") && line.contains("broken.yaml")), "{said}");
}

#[test]
fn a_client_that_leaves_is_written_down_too() {
    let folder = Folder::new("leaves");
    let served = Served::start(&folder);
    folder.write(
        "slow.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: slow}\nspec:\n  hosts: \
         [nginx.default.svc.cluster.local]\n  http:\n    - match: [{uri: {exact: /slow}}]\n      fault: {delay: {fixedDelay: \
         60s, percentage: {value: 100}}}\n      route: [{destination: {host: nginx.default.svc.cluster.local, subset: \
         online}}]\n",
    );
    served.until("the rule is in force", |status| status["settled"] == true && status["readings"].as_u64() > Some(1));
    let mut client = std::net::TcpStream::connect(&served.proxy).unwrap();
    std::io::Write::write_all(&mut client, b"GET http://nginx:5000/slow HTTP/1.1\r\nHost: nginx:5000\r\n\r\n").unwrap();
    drop(client);
    let line = until("the line is written", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        log.lines().find(|line| line.contains("\"GET /slow HTTP/1.1\"")).map(str::to_string)
    });
    assert!(line.contains("\" 0 DC downstream_remote_disconnect "), "{line}");
    assert_eq!(
        count(&page_of(&served, "nginx-deployment-master"), &[("response_code", "0"), ("response_flags", "DC")]),
        1.0
    );
}

/// The edges of the graph that have traffic: ends, and requests.
fn edges(graph: &Value) -> BTreeMap<(String, String), u64> {
    let all = graph["elements"]["edges"].as_array().unwrap().iter().map(|edge| &edge["data"]);
    let busy = all.filter(|edge| edge["meshroute"]["requests"].as_u64() > Some(0));
    let end = |edge: &Value, end: &str| edge[end].as_str().unwrap().to_string();
    busy.map(|edge| ((end(edge, "source"), end(edge, "target")), edge["meshroute"]["requests"].as_u64().unwrap()))
        .collect()
}

fn edge(from: &str, to: &str) -> (String, String) {
    (from.to_string(), to.to_string())
}

#[test]
fn the_graph_shows_what_was_measured_and_the_rule_behind_it() {
    let folder = Folder::new("graph");
    let served = Served::start(&folder);
    let idle = json(&served.page, "/api/graph");
    assert!(edges(&idle).is_empty(), "{idle}");
    assert!(idle["elements"]["nodes"].as_array().unwrap().iter().all(|node| node["data"]["isIdle"] == true));

    for _ in 0..5 {
        served.ask(Some("2"));
        served.ask(None);
    }
    let refused = (0..30).filter(|_| served.ask(Some("1")).status() == "503").count() as u64;
    let (master, nginx) = ("workload/default/nginx-deployment-master", "service/default/nginx");
    let graph = until("the graph has all of them", || {
        let graph = json(&served.page, "/api/namespaces/graph?duration=5m");
        (edges(&graph).get(&edge(master, nginx)) == Some(&40)).then_some(graph)
    });
    let mut expected = BTreeMap::from([(edge(master, nginx), 40)]);
    expected.insert(edge(nginx, "workload/default/nginx-deployment-canary-2"), 5);
    expected.insert(edge(nginx, "workload/default/nginx-deployment"), 5);
    expected.insert(edge(nginx, "workload/default/nginx-deployment-canary-1"), 30 - refused);
    assert_eq!(edges(&graph), expected);

    let all = graph["elements"]["edges"].as_array().unwrap();
    let find = |from: &str, to: &str| {
        &all.iter().find(|one| one["data"]["source"] == from && one["data"]["target"] == to).unwrap()["data"]
    };
    let asked = find(master, nginx);
    let flags = &asked["traffic"]["responses"]["503"]["flags"];
    assert_eq!(flags["UH"], format!("{:.1}", refused as f64 / 0.4), "{asked}");
    let rules = find(nginx, "workload/default/nginx-deployment-canary-2")["meshroute"]["rules"].as_array().unwrap();
    assert_eq!((rules.len(), &rules[0]["requests"]), (1, &5.into()));
    let rule = &rules[0]["rule"];
    assert_eq!(
        (&rule["name"], &rule["when"]),
        (&"rule 2 of VirtualService default/nginx".into(), &"canary_id is 2".into())
    );
    assert!(rule["place"].as_str().unwrap().starts_with("nginx-vs.yaml:"), "{rule}");
    let nodes = graph["elements"]["nodes"].as_array().unwrap();
    let service = &nodes.iter().find(|node| node["data"]["id"] == nginx).unwrap()["data"];
    assert_eq!((&service["nodeType"], &service["hasTrafficShifting"]), (&"service".into(), &true.into()), "{service}");

    let behind = json(&served.page, "/api/node?id=service/default/nginx");
    let resources: Vec<_> =
        behind["resources"].as_array().unwrap().iter().map(|one| one["resource"].as_str().unwrap()).collect();
    assert_eq!(resources, ["DestinationRule default/nginx", "Service default/nginx", "VirtualService default/nginx"]);
    assert_eq!(behind["rules"].as_array().unwrap().len(), 3);
    assert!(behind["findings"].to_string().contains("canary-11"), "{behind}");
    assert_eq!(get(&served.page, "/api/node?id=service/default/none", "").status(), "404");
    assert_eq!(get(&served.page, "/api/graph?duration=soon", "").status(), "400");
}

#[test]
fn every_part_says_what_is_in_force_and_why() {
    let folder = Folder::new("says");
    let served = Served::start(&folder);
    let master = page_of(&served, "nginx-deployment-master");
    let from = json(&served.page, "/api/targets");
    let pod = from
        .as_array()
        .unwrap()
        .iter()
        .find_map(|one| one["labels"]["pod"].as_str().filter(|pod| pod.contains("master")));
    let name = format!("default/{}", pod.unwrap());
    assert!(from.to_string().contains(&master), "{from}");
    let own = json(&master, "/config_dump");
    // Clusters go by name on the wire, and are numbered anew by whoever gets them.
    let said = |dump: &Value| serde_json::from_value::<meshroute::Plan>(dump["plan"].clone()).unwrap().canonical();
    assert_eq!(said(&own), said(&json(&served.page, &format!("/config_dump?from={name}"))));
    assert!(own.to_string().contains("\"place\":\"nginx-vs.yaml:"), "{own}");

    let question = "url=http://nginx:5000/&header=canary_id:%202";
    let told = get(&master, &format!("/explain?{question}"), "").body;
    assert_eq!(told, get(&served.page, &format!("/explain?from={name}&{question}"), "").body);
    assert!(told.contains("won: VirtualService default/nginx, spec.http[1]"), "{told}");
    let story = json(&master, &format!("/explain?format=json&{question}"));
    assert!(story["reason"].as_str().unwrap().contains("nginx-vs.yaml:"), "{story}");

    let metrics = get(&served.page, "/metrics", "").body;
    for wanted in [
        "pilot_xds_pushes{type=",
        "pilot_services 1",
        "pilot_proxy_convergence_time_count ",
        "istio_build{component=\"pilot\"",
    ] {
        assert!(metrics.contains(wanted), "`{wanted}` is missing in\n{metrics}");
    }
    assert_eq!(get(&served.page, "/healthz/ready", "").status(), "200");
    assert!(get(&served.page, "/api/resources", "").body.contains("kind: DestinationRule"));
    let page = get(&served.page, "/", "Accept: text/html,*/*\r\n");
    assert!(page.head.contains("default-src 'none'") && page.body.contains("<svg"), "{}", page.head);
    let elsewhere = ["src=\"http", "href=\"http", "url(http", "@import", "//cdn"];
    assert!(elsewhere.iter().all(|word| !page.body.contains(word)), "the page needs something from elsewhere");
}

#[test]
fn discovery_does_without_a_page_whose_port_somebody_else_has_taken() {
    let folder = Folder::new("taken");
    let address = format!("127.0.0.1:{}", free_port());
    let served = Served::start_with(&folder, &["--address", &address]);
    assert_eq!(get(&address, "/healthz/ready", "").status(), "200");
    let (guest, before) = until("somebody else is faster", || {
        let before = served.until("discovery answers", |_| true)["pid"].as_u64().unwrap();
        assert!(signal("-9", before));
        let begun = Instant::now();
        let mut bind = || std::net::TcpListener::bind(&address).ok();
        let taken = std::iter::repeat_with(&mut bind).take_while(|_| begun.elapsed() < Duration::from_millis(200));
        taken.flatten().next().map(|guest| (guest, before))
    });
    served.until("discovery runs all the same", |status| {
        status["pid"].as_u64() != Some(before) && status["settled"] == true
    });
    assert_eq!(served.ask(Some("2")).who(), "nginx-deployment-canary-2");
    drop(guest);
    until("the page is back", || try_get(&address, "/healthz/ready", "").filter(|answer| answer.status() == "200"));
}

/// A process that ends with the test, and a folder of its own.
struct Guest {
    child: Child,
    room: PathBuf,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.room);
    }
}

fn room(name: &str) -> PathBuf {
    let room = std::env::temp_dir().join(format!("meshroute-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&room).unwrap();
    room
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A real Prometheus with the configuration that is shipped, but for where discovery is and how often it looks.
fn prometheus(served: &Served) -> (Guest, String) {
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/prometheus.yml");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    assert!(shipped.contains("http://127.0.0.1:20001/api/targets") && shipped.contains("scrape_interval: 5s"));
    let config = shipped.replace("127.0.0.1:20001", &served.page).replace("scrape_interval: 5s", "scrape_interval: 1s");
    let (room, address) = (room("prometheus"), format!("127.0.0.1:{}", free_port()));
    std::fs::write(room.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", room.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", room.join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Debian's package `prometheus`");
    (Guest { child, room }, address)
}

fn query(prometheus: &str, text: &str) -> Option<Value> {
    let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    // HTTP/1.0: the answer comes in one piece.
    let head = format!("GET /api/v1/query?query={escaped} HTTP/1.0\r\nHost: {prometheus}\r\n\r\n");
    let answer = exchange(prometheus, head, Vec::new())?;
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    Some(answer["data"]["result"].clone())
}

#[test]
#[ignore = "needs a real Prometheus, root, nftables and nginx; .ci/run runs it"]
fn a_real_prometheus_reads_every_part() {
    WORLDS.iter().for_each(|world| every_part_is_read(world));
}

fn every_part_is_read(world: &[&str]) {
    let folder = Folder::new("prometheus");
    let served = Served::start_with(&folder, world);
    let (_guest, prometheus) = prometheus(&served);
    let unhealthy = (0..20).filter(|_| served.ask(Some("1")).status() == "503").count();
    for _ in 0..12 {
        served.ask(Some("2"));
    }
    let value = |text: &str| {
        let result = query(&prometheus, text)?;
        result[0]["value"][1].as_str()?.parse::<f64>().ok()
    };
    // Four sidecars, the gateway, and discovery itself.
    until("all parts are read", || (value("sum(up)") == Some(6.0)).then_some(()));
    until("all requests are there", || {
        (value("sum(istio_requests_total{reporter=\"source\"})") == Some(32.0)).then_some(())
    });
    assert_eq!(
        value("sum(istio_requests_total{reporter=\"source\",response_flags=\"UH\",response_code=\"503\"})"),
        Some(unhealthy as f64)
    );
    assert_eq!(
        value("sum(istio_requests_total{reporter=\"source\",destination_workload=\"nginx-deployment-canary-2\"})"),
        Some(12.0)
    );
    assert_eq!(value("sum(istio_request_duration_milliseconds_count{reporter=\"source\"})"), Some(32.0));
    // Whoever is asked tells of it too, and that it came encrypted.
    let arrived = "sum(istio_requests_total{reporter=\"destination\",connection_security_policy=\"mutual_tls\"})";
    until("what arrived is there", || (value(arrived) == Some(32.0 - unhealthy as f64)).then_some(()));
    let slow = "histogram_quantile(0.95, sum by (le) (istio_request_duration_milliseconds_bucket))";
    assert!(value(slow).is_some_and(|ms| ms > 0.0));
    assert!(value("pilot_xds_pushes") >= Some(5.0));
    for one in query(&prometheus, "istio_requests_total").unwrap().as_array().unwrap() {
        let missing: Vec<_> = LABELS.iter().filter(|name| one["metric"][**name].is_null()).collect();
        assert!(missing.is_empty() && !one["metric"]["response_code"].is_null(), "{missing:?} in {one}");
    }
}

/// What a real Chromium makes of the page: the document once it has come to rest.
fn browse(served: &Served, fragment: &str, picture: &str) -> (String, Vec<u8>) {
    let room = room(&format!("chromium{picture}"));
    let image = room.join("page.png");
    let flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
                 --disable-component-update --disable-sync --hide-scrollbars --window-size=1280,800 --enable-logging=stderr \
                 --virtual-time-budget=6000";
    let run = |last: &str| {
        let mut command = Command::new("chromium");
        command.args(flags.split_whitespace()).arg(format!("--user-data-dir={}", room.join("profile").display()));
        command.arg(last).arg(format!("http://{}/{fragment}", served.page)).stdin(Stdio::null());
        let output = command.output().expect("Debian's package `chromium`");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let complaints: Vec<_> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let document = run("--dump-dom");
    run(&format!("--screenshot={}", image.display()));
    let pixels = std::fs::read(&image).unwrap();
    let _ = std::fs::remove_dir_all(&room);
    (document, pixels)
}

#[test]
#[ignore = "needs a real Chromium, root, nftables and nginx; .ci/run runs it"]
fn a_real_browser_shows_the_mesh() {
    WORLDS.iter().for_each(|world| the_mesh_is_shown(world));
}

fn the_mesh_is_shown(world: &[&str]) {
    let folder = Folder::new("chromium");
    let served = Served::start_with(&folder, world);
    for _ in 0..30 {
        served.ask(Some("1"));
        served.ask(Some("2"));
    }
    until("the graph has all of them", || {
        let all: u64 = edges(&json(&served.page, "/api/graph")).values().sum();
        (all > 60).then_some(())
    });
    let (light, light_pixels) = browse(
        &served,
        "#theme=light&select=service/default/nginx~workload/default/nginx-deployment-canary-1",
        "light",
    );
    for wanted in [
        "nginx-deployment-master",
        "% errors",
        "rule 1 of VirtualService default/nginx",
        "nginx-vs.yaml:",
        "canary_id is 1",
        "95 % within",
        "p95 ",
        // What was written, and what was found in it, stand behind an edge too.
        "Configuration",
        "kind: DestinationRule",
        "<span class=\"kind\">Warning</span>",
        "role=\"tabpanel\"",
        "aria-controls=\"selection\" aria-selected=\"true\" tabindex=\"0\"",
    ] {
        assert!(light.contains(wanted), "`{wanted}` is missing in\n{}", light.split_once("<body>").unwrap().1);
    }
    // Nothing moves once it is drawn.
    assert!(light.contains("data-shift=\"0\"") && !light.contains("data-error"), "{}", &light[..300]);
    let (dark, dark_pixels) = browse(&served, "#theme=dark&url=http://nginx:5000/&header=canary_id:%201", "dark");
    for wanted in ["data-theme=\"dark\"", "won: VirtualService default/nginx", "no pods", "50 %"] {
        assert!(dark.contains(wanted), "`{wanted}` is missing in\n{}", dark.split_once("<body>").unwrap().1);
    }
    assert!(light_pixels.len() > 20_000 && dark_pixels.len() > 20_000 && light_pixels != dark_pixels);
}
