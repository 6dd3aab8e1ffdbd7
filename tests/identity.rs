//! Who may speak to whom in the small mesh: certificates, mutual TLS, authorization, and what happens when certificates and
//! roots are replaced. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use served::{Answer, Discovery, Folder, PATIENCE, Served, exchange, get, program, signal, try_get, try_status};
use tls::{DISCOVERY, Issued, Root};

/// A shop, somebody who may ask it and somebody who may not, and a pod without a sidecar.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-raw, port: 9000, targetPort: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {selector: {app: bare}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec: {serviceAccountName: shop, containers: [{name: c, ports: [{containerPort: 8080}, {containerPort: 9000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, labels: {app: stranger}}
spec: {containers: [{name: c, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, labels: {app: bare}, annotations: {sidecar.istio.io/inject: "false"}}
spec: {containers: [{name: c, ports: [{containerPort: 8080}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec: {host: shop, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"#;

const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: shop}
spec: {selector: {matchLabels: {app: shop}}, mtls: {mode: STRICT}}
"#;

const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: shop}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-names}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules: [{to: [{operation: {paths: [/name]}}]}]
"#;

fn shop(name: &str, more: &[&str]) -> (Folder, Served) {
    let folder = Folder::empty(name);
    folder.write("shop.yaml", SHOP);
    let served = Served::start_with(&folder, more);
    let proxy = served.sidecar("default/client");
    until("the shop answers", || get(&proxy, "http://shop/name", "").status() == "200");
    (folder, served)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ask(served: &Served, from: &str, path: &str) -> Answer {
    get(&served.sidecar(&format!("default/{from}")), &format!("http://shop{path}"), "")
}

fn subscriber(served: &Served, part: &str) -> Value {
    let status = served.status();
    let found = status["subscribers"].as_array().unwrap().iter().find(|one| one["part"] == part).cloned();
    found.unwrap_or_else(|| panic!("no {part} in {status}"))
}

/// The shop's door, where its sidecar takes what comes.
fn door(served: &Served) -> String {
    subscriber(served, "sidecar default/shop")["inbound"]["8080"].as_str().unwrap().to_string()
}

/// What a sidecar counts, line by line.
fn counted(served: &Served, part: &str, wanted: &[&str]) -> bool {
    let page = format!("127.0.0.1:{}", subscriber(served, part)["admin"]);
    let body = get(&page, "/stats/prometheus", "").body;
    body.lines()
        .any(|line| line.starts_with("istio_requests_total{") && wanted.iter().all(|label| line.contains(label)))
}

#[test]
fn both_sides_prove_who_they_are_and_say_so() {
    let (_folder, served) = shop("proved", &[]);
    let answer = ask(&served, "client", "/headers");
    let wanted = "By=spiffe://cluster.local/ns/default/sa/shop;URI=spiffe://cluster.local/ns/default/sa/client";
    assert!(answer.body.contains(wanted), "{}", answer.body);
    assert!(!answer.body.contains("x-envoy-peer-metadata"), "{}", answer.body);
    // What a program says of itself is not passed on as if it were proved.
    let lie = "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/default/sa/admin\r\n";
    let answer = get(&served.sidecar("default/stranger"), "http://shop/headers", lie);
    assert!(answer.body.contains("sa/default") && !answer.body.contains("sa/admin"), "{}", answer.body);

    let encrypted = [
        "reporter=\"destination\"",
        "connection_security_policy=\"mutual_tls\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/shop\"",
        "source_workload=\"client\"",
        "destination_service_name=\"shop\"",
    ];
    until("it is counted", || counted(&served, "sidecar default/shop", &encrypted));
    let caller = ["reporter=\"source\"", encrypted[2], encrypted[3], "connection_security_policy=\"unknown\""];
    until("it is counted by the caller too", || counted(&served, "sidecar default/client", &caller));
    // The graph has a lock on the way.
    let graph = |page: &str| serde_json::from_str::<Value>(&get(page, "/api/graph", "").body).unwrap();
    until("the graph shows a lock", || {
        let edges = graph(&served.page)["elements"]["edges"].as_array().cloned().unwrap_or_default();
        edges.iter().any(|edge| edge["data"]["isMTLS"].as_str().is_some_and(|share| share.parse() != Ok(0.0)))
    });
    // A pod without a sidecar is reached plainly, and nobody comes out of it.
    let answer = get(&served.sidecar("default/client"), "http://bare/headers", "");
    assert!(answer.status() == "200" && !answer.body.contains("spiffe"), "{}", answer.body);
    assert!(!served.printed.contains("default/bare  http_proxy"), "{}", served.printed);
}

#[test]
fn who_comes_plainly_is_taken_or_refused_as_the_rule_says() {
    let (folder, served) = shop("strict", &[]);
    let outside = served.place("default/shop:80");
    let raw = served.place("default/shop:9000");
    assert_eq!(get(&outside, "/name", "").body, "shop");
    until("what is plain is counted so", || {
        counted(
            &served,
            "sidecar default/shop",
            &["connection_security_policy=\"none\"", "source_workload=\"unknown\""],
        )
    });
    folder.write("strict.yaml", STRICT);
    until("nothing plain is taken", || try_get(&outside, "/name", "").is_none());
    assert!(try_get(&raw, "/name", "").is_none(), "nor by the other port");
    assert_eq!(ask(&served, "client", "/name").body, "shop");
    folder.write(
        "strict.yaml",
        &format!("{STRICT}  portLevelMtls: {{\"8080\": {{mode: PERMISSIVE}}}}\n").replace(
            "spec: {selector: {matchLabels: {app: shop}}, mtls: {mode: STRICT}}\n",
            "spec:\n  selector: {matchLabels: {app: shop}}\n  mtls: {mode: STRICT}\n",
        ),
    );
    until("one port takes it again", || try_get(&outside, "/name", "").is_some_and(|answer| answer.body == "shop"));
    assert!(try_get(&raw, "/name", "").is_none(), "and the other one does not");
    folder.write("strict.yaml", &STRICT.replace("STRICT", "DISABLE"));
    until("sidecars come plainly too", || !ask(&served, "client", "/headers").body.contains("spiffe"));
}

#[test]
fn who_may_do_what() {
    let (folder, served) = shop("policies", &[]);
    folder.write("policies.yaml", POLICIES);
    until("the policies are in force", || ask(&served, "stranger", "/headers").status() == "403");
    assert_eq!(ask(&served, "client", "/headers").status(), "200");
    let answer = ask(&served, "client", "/name?x");
    assert_eq!((answer.status(), answer.body.as_str()), ("403", "RBAC: access denied"));
    assert_eq!(ask(&served, "client", "/x/../name").status(), "403", "a path is judged in its normal form");
    let post = "POST http://shop/echo HTTP/1.1\r\nHost: shop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let post = exchange(&served.sidecar("default/client"), post.into(), Vec::new()).unwrap();
    assert_eq!(post.status(), "403");
    // Nobody at all is nobody in particular.
    assert_eq!(get(&served.place("default/shop:80"), "/headers", "").status(), "403");
    // A connection that is not looked into has no method to be allowed by.
    assert!(try_get(&served.place("default/shop:9000"), "/headers", "").is_none());
    until("it is written down", || {
        let log = std::fs::read_to_string(&served.log).unwrap();
        let denied = |policy: &str| format!("403 - rbac_access_denied_matched_policy[{policy}]");
        log.contains(&denied("ns[default]-policy[no-names]-rule[0]")) && log.contains(&denied("none"))
    });
    std::fs::remove_file(folder.0.join("policies.yaml")).unwrap();
    until("all may again", || ask(&served, "stranger", "/name").body == "shop");
}

/// A root of the mesh, as its authority keeps it.
fn roots(served: &Served) -> Vec<(KeyPair, u64)> {
    let file = served.log.parent().unwrap().join("roots");
    let roots: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let bytes = |value: &Value| serde_json::from_value::<Vec<u8>>(value.clone()).unwrap();
    roots
        .iter()
        .map(|root| (KeyPair::try_from(bytes(&root["key"]).as_slice()).unwrap(), root["made"].as_u64().unwrap()))
        .collect()
}

/// Papers for a name, good until so many seconds from now, signed by a root that is called so.
fn papers(root: KeyPair, called: &str, name: &str, seconds: i64) -> Issued {
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    issuer.distinguished_name.push(DnType::OrganizationName, "cluster.local");
    issuer.distinguished_name.push(DnType::CommonName, called);
    issuer.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(issuer, root);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
    params.not_before = epoch + Duration::from_secs((now - 3600) as u64);
    params.not_after = epoch + Duration::from_secs((now + seconds) as u64);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().der().to_vec();
    Issued { certificate, key: key.serialize_der() }
}

/// Knocks at a door with some papers, or none. The first line of the answer, and the certificate of whoever opened.
fn knock(door: &str, papers: Option<Issued>) -> std::io::Result<(String, Vec<u8>)> {
    let (text, certificate) = tls::knock(door, "shop", &[b"istio"], papers, "/name")?;
    Ok((text.lines().next().unwrap_or_default().to_string(), certificate))
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
    let (_folder, served) = shop("refused", &[]);
    let door = door(&served);
    let root = || roots(&served).remove(0);
    let signed = |name: &str, seconds| {
        let (key, made) = root();
        papers(key, &format!("root {made}"), name, seconds)
    };
    let client = "spiffe://cluster.local/ns/default/sa/client";
    // One that is good is taken, so what is refused below is refused for what it is.
    let (line, _) = knock(&door, Some(signed(client, 600))).expect("a good one is taken");
    assert_eq!(line, "HTTP/1.1 200 OK");

    let called = format!("root {}", root().1);
    let refused = [
        ("expired", Some(signed(client, -1))),
        ("of a foreign domain", Some(signed("spiffe://evil.example/ns/default/sa/client", 600))),
        ("of no workload", Some(signed("spiffe://cluster.local/client", 600))),
        ("impersonating: signed by nobody who may", Some(papers(KeyPair::generate().unwrap(), &called, client, 600))),
        ("missing", None),
    ];
    for (what, papers) in refused {
        let taken = knock(&door, papers);
        assert!(taken.is_err(), "one that is {what}: {taken:?}");
    }
    until("it is written down", || {
        std::fs::read_to_string(&served.log).unwrap().contains("] \"- - -\" 0 - - no_such_certificate_is_taken ")
    });
    assert_eq!(ask(&served, "client", "/name").body, "shop");
}

#[test]
fn a_caller_says_which_workload_it_is_with_each_request_and_only_of_its_own_namespace() {
    let (_folder, served) = shop("claims", &[]);
    let (key, made) = roots(&served).remove(0);
    let own = papers(key, &format!("root {made}"), "spiffe://cluster.local/ns/default/sa/client", 600);
    // All on one connection: what one request said holds for no other.
    let claims =
        [("default", "one"), ("default", "one"), ("default", "two"), ("elsewhere", "liar"), ("default", "two")];
    let asked: Vec<String> = claims
        .iter()
        .map(|(namespace, name)| {
            format!(
                "/name HTTP/1.1\r\nHost: shop\r\nX-Envoy-Peer-Metadata: {{\"namespace\":\"{namespace}\",\"name\":\"{name}\",\
                 \"app\":\"a\",\"version\":\"v\",\"service\":\"s\",\"revision\":\"r\"}}\r\n\r\nGET "
            )
        })
        .collect();
    let (text, _) = tls::knock(&door(&served), "shop", &[b"istio"], Some(own), &(asked.concat() + "/name")).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 6, "{text}");
    let ended = |name: &str, count: u32| {
        let page = format!("127.0.0.1:{}", subscriber(&served, "sidecar default/shop")["admin"]);
        let workload = format!("source_workload=\"{name}\"");
        let principal = "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"";
        let body = get(&page, "/stats/prometheus", "").body;
        let counts = |line: &str| line.contains(&workload) && line.contains(principal);
        let mut lines = body.lines().filter(|line| line.starts_with("istio_requests_total{") && counts(line));
        lines.any(|line| line.ends_with(&format!("}} {count}")))
    };
    // The fourth and the last are the client's, and of no workload that it may be.
    until("they are counted", || ended("one", 2) && ended("two", 2) && ended("unknown", 2));
    assert!(!counted(&served, "sidecar default/shop", &["source_workload=\"liar\""]));
}

#[test]
fn a_server_that_is_somebody_else_gets_nothing() {
    // The caller's sidecar is told to whom each address belongs, and asks for that name.
    let (folder, served) = shop("somebody", &[]);
    let before = door(&served);
    folder.write("shop.yaml", &SHOP.replace("serviceAccountName: shop", "serviceAccountName: store"));
    until("the pod runs under another account", || {
        ask(&served, "client", "/headers").body.contains("By=spiffe://cluster.local/ns/default/sa/store")
    });
    // The one before leaves with grace, and holds its door until then.
    until("the pod before has left", || door(&served) != before);
    let (key, made) = roots(&served).remove(0);
    let own = papers(key, &format!("root {made}"), "spiffe://cluster.local/ns/default/sa/client", 600);
    let now = door(&served);
    let (_, certificate) = knock(&now, Some(own)).unwrap();
    assert!(contains(&certificate, b"/sa/store") && !contains(&certificate, b"/sa/shop"), "{before} {now}");
}

/// Whoever sits at a pod's address must prove to be it before a word of a request is said.
#[test]
fn who_sits_at_a_pods_address_without_being_it_hears_nothing() {
    let (_folder, served) = shop("seat", &[]);
    let (client, place, status) = (served.sidecar("default/client"), door(&served), served.status());
    let sidecar = subscriber(&served, "sidecar default/shop")["pid"].as_u64().unwrap();
    // Nobody starts the shop's sidecar again, and nobody is told that it has ended.
    let (parent, discovery) = (u64::from(served.parent.id()), status["pid"].as_u64().unwrap());
    assert!(signal("-STOP", parent) && signal("-STOP", discovery) && signal("-9", sidecar));
    let mut taken = None;
    until("the port is somebody else's", || {
        taken = TcpListener::bind(&place).ok();
        taken.is_some()
    });
    let (own, made) = roots(&served).remove(0);
    let shown = |root: KeyPair, account: &str, seconds: i64| {
        papers(root, &format!("root {made}"), &format!("spiffe://cluster.local/ns/default/sa/{account}"), seconds)
    };
    let root = || KeyPair::try_from(own.serialize_der().as_slice()).unwrap();
    let all = [
        ("of another account", shown(root(), "store", 600), false),
        ("of another authority", shown(KeyPair::generate().unwrap(), "shop", 600), false),
        ("that are over", shown(root(), "shop", -60), false),
        ("of a host", Root::new("cluster.local").issue("shop"), false),
        ("of the shop", shown(root(), "shop", 600), true),
    ];
    let current = Arc::new(Mutex::new((all[0].0, all[0].1.clone())));
    let came = Arc::new(Mutex::new(Vec::new()));
    std::thread::spawn({
        let (listener, current, came) = (taken.unwrap(), Arc::clone(&current), Arc::clone(&came));
        move || loop {
            let (whose, papers) = current.lock().unwrap().clone();
            let (line, bytes) = tls::receive(&listener, Some(papers));
            came.lock().unwrap().push((whose, line, bytes));
        }
    });
    for (whose, papers, is_heard) in all {
        *current.lock().unwrap() = (whose, papers);
        // Somebody may still be shown the papers before.
        until("somebody is shown these", || {
            assert_eq!(get(&client, "http://shop/name", "").status(), "503", "papers {whose}");
            came.lock().unwrap().iter().any(|(shown, ..)| *shown == whose)
        });
        let came = std::mem::take(&mut *came.lock().unwrap());
        for (_, line, bytes) in came.into_iter().filter(|(shown, ..)| *shown == whose) {
            assert_eq!(line.is_ok_and(|line| line.starts_with("GET /name ")), is_heard, "papers {whose}");
            assert!(bytes.first() == Some(&22) && !contains(&bytes, b"/name"), "papers {whose}: {bytes:?}");
        }
    }
    assert!(signal("-CONT", discovery) && signal("-CONT", parent));
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn who_has_no_token_is_nobody() {
    let (_folder, served) = shop("token", &[]);
    let api = served.status()["api"].as_str().unwrap().to_string();
    let say = |message: Value| {
        let (mut stream, _) = tls::open(&api, DISCOVERY, &[], None).unwrap();
        stream.write_all(format!("{message}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap_or_default();
        line
    };
    let key = KeyPair::generate().unwrap();
    let mut request = CertificateParams::default();
    request.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/default/sa/shop".try_into().unwrap())];
    let request = request.serialize_request(&key).unwrap().der().to_vec();
    let answer = say(json!({"signing": {"token": "guessed", "request": request}}));
    assert_eq!(answer.trim(), r#"{"Err":"nobody is signed with this token"}"#);
    let part = json!({"sidecar": {"namespace": "default", "pod": "shop", "labels": {}, "inbound": {}}});
    assert_eq!(say(json!({"hello": {"pid": 1, "part": part, "admin": 0, "token": "guessed"}})), "");
}

/// A part, of which the test is the parent.
struct Part(Child);

impl Part {
    fn start(words: &[&str], discovery: &str, roots: &[Vec<u8>], token: &str) -> Self {
        let mut command = Command::new(program());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let said = json!({"discovery": {"socket": discovery, "roots": roots}, "token": token});
        writeln!(process.stdin.as_mut().unwrap(), "{said}").unwrap();
        Part(process)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const KUBE_PROXY: [&str; 1] = ["kubeproxy"];
const SIDECAR: [&str; 9] =
    ["proxy", "--namespace", "default", "--pod", "me", "--label", "app=me", "--access-log", "off"];

#[test]
fn a_part_says_nothing_to_whoever_is_not_discovery() {
    // Both call themselves the same.
    let (own, foreign) = (Root::new("root"), Root::new("root"));
    let token = "which-nobody-else-may-hear-of";
    let parts: [&[&str]; 4] = [
        &["pod", "--namespace", "default", "--name", "me", "--port", "80", "--greet", "me"],
        &SIDECAR,
        &["gateway", "--namespace", "istio-system", "--label", "istio=ingressgateway"],
        &KUBE_PROXY,
    ];
    for words in parts {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = listener.local_addr().unwrap().to_string();
        let _part = Part::start(words, &socket, &[own.certificate().to_vec()], token);
        let others = [
            ("of another authority", Some(foreign.issue(DISCOVERY))),
            ("a workload's, which runs under discovery's account", {
                Some(own.issue_to("spiffe://cluster.local/ns/istio-system/sa/istiod"))
            }),
            ("another server's", Some(own.issue("shop.default.svc"))),
            ("none at all", None),
        ];
        for (what, shown) in others {
            let (is_tls, (line, bytes)) = (shown.is_some(), tls::receive(&listener, shown));
            assert!(line.is_err() || !is_tls, "{words:?} took a certificate that is {what}: {line:?}");
            assert!(bytes.first() == Some(&22) && !contains(&bytes, token.as_bytes()), "{words:?}, {what}: {bytes:?}");
        }
        // With the right one it goes on as if nothing had been, and even then nobody else can read it.
        let (line, bytes) = tls::receive(&listener, Some(own.issue(DISCOVERY)));
        assert!(line.as_ref().is_ok_and(|line| line.contains(token)), "{words:?}: {line:?}");
        assert!(!contains(&bytes, token.as_bytes()), "{words:?}");
    }
}

#[test]
fn whoever_takes_discoverys_port_learns_nothing_and_the_mesh_finds_discovery_elsewhere() {
    let (_folder, served) = shop("impostor", &[]);
    let status = served.status();
    let (api, count) = (status["api"].as_str().unwrap().to_string(), status["subscribers"].as_array().unwrap().len());
    // Its parent does not see that discovery ends before somebody else has its port.
    let parent = u64::from(served.parent.id());
    assert!(signal("-STOP", parent) && signal("-9", status["pid"].as_u64().unwrap()));
    let mut taken = None;
    until("the port is somebody else's", || {
        taken = TcpListener::bind(&api).ok();
        taken.is_some()
    });
    let (listener, came) = (taken.unwrap(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&came);
    std::thread::spawn(move || {
        let shown = Root::new("cluster.local").issue(DISCOVERY);
        loop {
            let one = tls::receive(&listener, Some(shown.clone()));
            seen.lock().unwrap().push(one);
        }
    });
    until("many have come to the impostor", || came.lock().unwrap().len() > 2 * count);
    assert_eq!(ask(&served, "client", "/name").body, "shop", "traffic goes on meanwhile");
    assert!(signal("-CONT", parent));
    let status = served.until("everybody is with discovery again", |status| {
        status["settled"] == true && status["subscribers"].as_array().unwrap().len() == count
    });
    assert_ne!(status["api"].as_str().unwrap(), api);
    for (line, bytes) in came.lock().unwrap().iter() {
        assert!(line.is_err(), "{line:?}");
        assert!(bytes.first() == Some(&22) && !contains(bytes, b"token"), "{bytes:?}");
    }
}

/// Passes on what comes to whoever listens there, and writes down all bytes of both directions.
fn eavesdropper(to: &str) -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (place, heard, to) = (listener.local_addr().unwrap().to_string(), Arc::default(), to.to_string());
    let written = Arc::clone(&heard);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&to) else { return };
            let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            for (from, to) in [(client, server), back] {
                let written = Arc::clone(&written);
                std::thread::spawn(move || pass_on(from, to, &written));
            }
        }
    });
    (place, heard)
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, written: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Some(count) = from.read(&mut buffer).ok().filter(|count| *count > 0) {
        written.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn between_the_parts_and_discovery_nobody_reads_along() {
    let folder = Folder::empty("eavesdropper");
    folder.write(
        "secret.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: top-secret}\nspec: {ports: [{port: 80}]}\n",
    );
    let roster = json!({
        "token-of-one": {"part": "kube-proxy", "name": null},
        "token-of-two": {"part": "sidecar default/me", "name": "spiffe://cluster.local/ns/default/sa/me"},
    });
    let discovery = Discovery::start(&folder, &roster, &["--lifetime", "4"]);
    let (between, heard) = eavesdropper(&discovery.api);
    let _one = Part::start(&KUBE_PROXY, &between, &discovery.roots, "token-of-one");
    let _two = Part::start(&SIDECAR, &between, &discovery.roots, "token-of-two");
    discovery.until("both have everything", |status| {
        let subscribers = status["subscribers"].as_array().unwrap();
        subscribers.len() == 2 && subscribers.iter().all(|one| one["sent"] != 0 && one["acked"] == one["sent"])
    });
    let heard = heard.lock().unwrap();
    // Whom they ask for is all that they say openly.
    assert!(heard.len() > 2_000 && contains(&heard, DISCOVERY.as_bytes()), "it all went by here: {}", heard.len());
    for word in ["token", "hello", "signing", "kubeproxy", "top-secret", "spiffe"] {
        assert!(!contains(&heard, word.as_bytes()), "`{word}` can be read");
    }
}

#[test]
fn discovery_hears_nobody_who_does_not_encrypt_and_serves_on() {
    let folder = Folder::empty("plainly");
    let discovery = Discovery::start(&folder, &json!({"token": {"part": "node", "name": null}}), &["--lifetime", "4"]);
    let hello = json!({"hello": {"pid": 1, "part": "node", "admin": 0, "token": "token"}});
    // Somebody who says nothing holds up nobody.
    let _silent = TcpStream::connect(&discovery.api).unwrap();
    let mut plain = TcpStream::connect(&discovery.api).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    writeln!(plain, "{hello}").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    // At most an alert: why there is no TLS between the two.
    assert!(answer.len() <= 7 && answer.first().is_none_or(|first| *first == 21), "{answer:?}");
    let subscribers = || try_status(&discovery.page).unwrap()["subscribers"].as_array().unwrap().len();
    assert_eq!(subscribers(), 0);
    // The same token, encrypted.
    let mut known = tls::reach(&discovery.api, &discovery.roots).unwrap();
    writeln!(known, "{hello}").unwrap();
    let mut line = String::new();
    let mut known = BufReader::new(known);
    known.read_line(&mut line).unwrap();
    assert!(line.contains("\"nonce\""), "{line}");
    assert_eq!(subscribers(), 1);
    // Its certificate lives as short as everybody's, and is renewed in time.
    let shown = || tls::open(&discovery.api, DISCOVERY, &[], None).unwrap().1;
    let first = shown();
    until("another certificate is shown", || shown() != first);
    std::thread::sleep(Duration::from_secs(5));
    tls::reach(&discovery.api, &discovery.roots).expect("it is still known by the same root");
    assert_eq!(subscribers(), 1, "who was connected stays so");
}

#[test]
fn parts_know_discovery_while_roots_are_replaced() {
    let (_folder, served) = shop("trusted", &["--lifetime", "4", "--root-lifetime", "4"]);
    let called = || roots(&served).iter().map(|(_, made)| format!("root {made}")).collect::<Vec<_>>();
    let first = called().remove(0);
    let (api, discovery) = (served.status()["api"].as_str().unwrap().to_string(), || served.status()["pid"].clone());
    let signed_by = |root: &str| {
        let shown = tls::open(&api, DISCOVERY, &[], None).map(|(_, shown)| shown);
        shown.is_ok_and(|shown| contains(&shown, root.as_bytes()))
    };
    // Who is connected, but for the parent.
    let parts = || {
        let status = served.status();
        let subscribers = status["subscribers"].as_array().unwrap().iter();
        subscribers.map(|one| (one["part"].to_string(), one["pid"].to_string())).collect::<Vec<_>>()
    };
    let (before, pid) = (parts(), discovery());
    until("a second root is there", || called().len() > 1);
    let second = called().remove(1);
    until("discovery shows a certificate of the second root", || signed_by(&second));
    until("the first root is gone", || !called().contains(&first));
    assert_eq!((parts(), discovery()), (before.clone(), pid.clone()), "everybody stays connected meanwhile");

    // The first root's certificates are over: whoever has one had itself signed by a discovery of the second root.
    assert_eq!(ask(&served, "client", "/name").body, "shop");
    // One that is started now has never heard of the first.
    let sidecar = subscriber(&served, "sidecar default/shop")["pid"].clone();
    assert!(signal("-9", sidecar.as_u64().unwrap()));
    served.until("a new sidecar is there", |status| {
        let mut subscribers = status["subscribers"].as_array().unwrap().iter();
        status["settled"] == true
            && subscribers.any(|one| one["part"] == "sidecar default/shop" && one["pid"] != sidecar)
    });
    // All must come again, most of them by a root that was not there when they were started.
    let before = parts();
    assert!(signal("-9", pid.as_u64().unwrap()));
    served.until("everybody is there again", |status| {
        let count = status["subscribers"].as_array().unwrap().len();
        status["pid"] != pid && status["settled"] == true && count == before.len()
    });
    assert_eq!(parts(), before);
    until("the shop answers as before", || ask(&served, "client", "/name").body == "shop");
}

#[test]
fn certificates_and_roots_are_replaced_under_load() {
    let (_folder, served) = shop("rotation", &["--lifetime", "8", "--root-lifetime", "5"]);
    let proxy = served.sidecar("default/client");
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load = {
        let (stop, asked) = (stop.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let answer = get(&proxy, "http://shop/name", "");
                asked.fetch_add(1, Ordering::Relaxed);
                if answer.status() != "200" {
                    failed.push(answer.head);
                }
            }
            failed
        })
    };
    let begun = Instant::now();
    let door = door(&served);
    let shown = || {
        let (key, made) = roots(&served).remove(0);
        let own = papers(key, &format!("root {made}"), "spiffe://cluster.local/ns/default/sa/client", 60);
        knock(&door, Some(own)).unwrap().1
    };
    let first = shown();
    // Discovery does not answer while some want to be renewed; they go on with what they have.
    let discovery = served.status()["pid"].as_u64().unwrap();
    assert!(signal("-STOP", discovery));
    std::thread::sleep(Duration::from_millis(2500));
    assert!(signal("-CONT", discovery));
    until("a new certificate is shown", || shown() != first);
    let new_root = || {
        let roots = roots(&served);
        (roots.len() > 1).then(|| format!("root {}", roots[1].1))
    };
    until("a second root is there", || new_root().is_some());
    let called = new_root().unwrap();
    until("the second root signs", || contains(&shown(), called.as_bytes()));
    until("the first certificate is long over", || begun.elapsed() > Duration::from_secs(9));
    stop.store(true, Ordering::Relaxed);
    let failed = load.join().unwrap();
    assert!(failed.is_empty(), "{} of {}: {}", failed.len(), asked.load(Ordering::Relaxed), failed[0]);
    assert!(asked.load(Ordering::Relaxed) > 50, "{asked:?}");
}

#[test]
fn which_pods_get_a_sidecar() {
    let folder = Folder::empty("injection");
    let mut text = String::new();
    let spaces = [("on", "{istio-injection: enabled}"), ("off", "{istio-injection: disabled}"), ("silent", "{a: b}")];
    for (name, labels) in spaces {
        text += &format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n");
    }
    for namespace in ["on", "off", "silent", "unwritten"] {
        for (pod, labels) in [
            ("plain", "{}"),
            ("yes", "{sidecar.istio.io/inject: 'true'}"),
            ("no", "{sidecar.istio.io/inject: 'false'}"),
        ] {
            text += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {namespace}, labels: {labels}}}\n\
                 spec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}\n"
            );
        }
    }
    folder.write("pods.yaml", &text);
    let served = Served::start(&folder);
    let status = served.until("all pods run", |status| status["settled"] == true);
    let pods = status["pods"].as_array().unwrap().iter();
    let injected: Vec<&str> =
        pods.filter(|pod| pod["sidecar"] == true).map(|pod| pod["name"].as_str().unwrap()).collect();
    let mut wanted = vec!["on/plain", "on/yes", "silent/yes", "unwritten/plain", "unwritten/yes"];
    wanted.sort_unstable();
    let mut sorted = injected.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, wanted);
    for name in &injected {
        subscriber(&served, &format!("sidecar {name}"));
    }
}
