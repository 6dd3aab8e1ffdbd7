//! The small mesh as its users meet it: processes, sockets and files. Knows nothing of the library.
#![cfg(unix)]

#[path = "support/served.rs"]
mod served;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use served::{Folder, Served, all_gone, exchange, get, program, signal, wait};

fn settled(status: &Value) -> bool {
    status["settled"] == true
}

fn ready(status: &Value, name: &str) -> bool {
    let mut pods = status["pods"].as_array().unwrap().iter();
    pods.any(|pod| pod["name"].as_str().unwrap().contains(name) && pod["ready"] == true)
}

fn tally(served: &Served, id: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..40 {
        *counts.entry(served.ask(Some(id)).who()).or_insert(0) += 1;
    }
    counts
}

fn expect_rules(served: &Served) {
    for _ in 0..10 {
        assert_eq!(served.ask(Some("2")).who(), "nginx-deployment-canary-2");
        assert_eq!(served.ask(Some("3")).who(), "nginx-deployment");
        assert_eq!(served.ask(None).who(), "nginx-deployment");
    }
}

const CANARY_11: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: nginx-deployment-canary-11}\nspec:\n  \
    selector: {matchLabels: {app: nginx, isCanary: 'true', canaryId: '11'}}\n  template:\n    metadata: {labels: {app: \
    nginx, isCanary: 'true', canaryId: '11'}}\n    spec:\n      containers:\n        - name: nginx\n          ports: \
    [{containerPort: 80}]\n          lifecycle: {postStart: {exec: {command: ['echo $HOSTNAME']}}}\n";

#[test]
fn the_owners_requests_and_what_happens_to_the_folder() {
    let folder = Folder::new("folder");
    let served = Served::start(&folder);
    let first = served.printed.lines().map(str::trim).find(|line| line.starts_with("http_proxy="));
    let wanted = format!("http_proxy={} curl -s nginx:5000 -H \"canary_id: 1\"", served.proxy);
    assert_eq!(first, Some(wanted.as_str()), "{}", served.printed);
    expect_rules(&served);
    let counts = tally(&served, "1");
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["503 UH", "nginx-deployment-canary-1"]);
    assert!(counts.values().all(|count| (5..=35).contains(count)), "{counts:?}");

    folder.write("canary-11.yaml", CANARY_11);
    served.until("the eleventh canary runs", |status| ready(status, "canary-11") && settled(status));
    let counts = tally(&served, "1");
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["nginx-deployment-canary-1", "nginx-deployment-canary-11"]);
    expect_rules(&served);

    // Neither a text that is no YAML nor a rule that is no regular expression changes anything.
    for broken in ["] no yaml", "{canary_id: {regex: '[0-9'}}"] {
        let rule = "route: [{destination: {host: nginx.default.svc.cluster.local, subset: online}}]";
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: broken}}\nspec:\n  hosts: \
             [nginx.default.svc.cluster.local]\n  http:\n    - match: [{{headers: {broken}}}]\n      {rule}\n"
        );
        folder.write("broken.yaml", &text);
        let status = served.until("the edit is refused", |status| status["refused"][0].is_object() && settled(status));
        let place = &status["refused"][0]["place"];
        assert_eq!((&place["file"], place["line"].as_u64() > Some(0)), (&Value::from("broken.yaml"), true), "{status}");
        expect_rules(&served);
        std::fs::remove_file(folder.0.join("broken.yaml")).unwrap();
        served.until("the folder is good again", |status| status["refused"][0].is_null() && settled(status));
    }
    expect_rules(&served);
}

/// Rules for what a sidecar does besides sending on.
const DEEDS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: deeds}
spec:
  hosts: [nginx.default.svc.cluster.local]
  http:
    - match: [{uri: {prefix: /old}}]
      redirect: {uri: /new, redirectCode: 308}
    - match: [{uri: {exact: /teapot}}]
      directResponse: {status: 418, body: {string: short and stout}}
    - match: [{uri: {exact: /broken}}]
      fault: {abort: {httpStatus: 429, percentage: {value: 100}}}
      route: [{destination: {host: nginx.default.svc.cluster.local, subset: online}}]
    - match: [{uri: {prefix: /app/}}]
      rewrite: {uri: /}
      headers: {response: {set: {x-by: mesh}, remove: [server]}}
      route: [{destination: {host: nginx.default.svc.cluster.local, subset: canary-2}}]
    - match: [{uri: {exact: /slow}}]
      fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}
      rewrite: {uri: /}
      route: [{destination: {host: nginx.default.svc.cluster.local, subset: online}}]
";

#[test]
fn a_sidecar_does_what_the_rule_says() {
    let folder = Folder::new("deeds");
    let served = Served::start(&folder);
    folder.write("deeds.yaml", DEEDS);
    let ask = |path: &str| get(&served.proxy, &format!("http://nginx:5000{path}"), "");
    served.until("the rules are in force", |status| settled(status) && ask("/teapot").status() == "418");

    let moved = ask("/old/x?y=z");
    assert_eq!(moved.status(), "308");
    assert!(moved.has("location: http://nginx:5000/new?y=z"), "{}", moved.head);
    assert_eq!(ask("/teapot").body, "short and stout");
    let aborted = ask("/broken");
    assert_eq!(aborted.status(), "429");
    assert!(aborted.has("x-meshroute-flags: FI"), "{}", aborted.head);
    let rewritten = ask("/app/");
    assert_eq!(rewritten.who(), "nginx-deployment-canary-2");
    assert!(rewritten.has("x-by: mesh") && !rewritten.has("server: nginx"), "{}", rewritten.head);
    let started = Instant::now();
    assert_eq!(ask("/slow").who(), "nginx-deployment");
    assert!(started.elapsed() >= Duration::from_millis(300));
    // What the rules do not name stays as it was.
    expect_rules(&served);
}

#[test]
fn parts_that_are_killed_come_back_and_traffic_goes_on() {
    let folder = Folder::new("killed");
    let mut served = Served::start(&folder);
    let before = served.status()["pid"].as_u64().unwrap();
    assert!(signal("-9", before));
    expect_rules(&served);
    let again = |status: &Value| status["pid"].as_u64() != Some(before) && settled(status);
    let status = served.until("discovery runs again", again);
    expect_rules(&served);

    let canary = |one: &&Value| {
        one["part"].as_str().is_some_and(|part| part.starts_with("pod default/nginx-deployment-canary-2"))
    };
    let pod = status["subscribers"].as_array().unwrap().iter().find(canary).unwrap()["pid"].as_u64().unwrap();
    assert!(signal("-9", pod));
    served.until("the pod runs again", |status| {
        ready(status, "canary-2") && !status.to_string().contains(&format!("\"pid\":{pod},")) && settled(status)
    });
    expect_rules(&served);

    let children = served.children();
    assert!(children.len() >= 11);
    assert!(signal("-TERM", u64::from(served.parent.id())));
    assert!(served.wait().success());
    all_gone(&children);
}

#[test]
fn nothing_outlives_a_parent_that_is_killed() {
    let folder = Folder::new("orphans");
    let mut served = Served::start(&folder);
    let children = served.children();
    served.parent.kill().unwrap();
    served.parent.wait().unwrap();
    all_gone(&children);
}

#[test]
fn messages_pass_whole_and_nonsense_is_answered_politely() {
    let folder = Folder::new("messages");
    let served = Served::start(&folder);
    let body: String = (0..1 << 17).map(|n| format!("{n:07}\n")).collect();
    let lengths = [format!("Content-Length: {}\r\n", body.len()), "Transfer-Encoding: chunked\r\n".to_string()];
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (length, bytes) in lengths.into_iter().zip([body.clone(), chunked]) {
        let head = format!("POST http://nginx:5000/echo HTTP/1.0\r\nHost: nginx:5000\r\n{length}\r\n");
        let head =
            if length.starts_with('T') { head.replace("HTTP/1.0", "HTTP/1.1\r\nConnection: close") } else { head };
        let answer = exchange(&served.proxy, head, bytes.into_bytes()).unwrap();
        assert_eq!(answer.status(), "200");
        assert!(answer.body.contains(&body[..4096]) && answer.body.len() >= body.len());
    }
    let head = exchange(
        &served.proxy,
        "HEAD http://nginx:5000/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(),
        Vec::new(),
    );
    let head = head.unwrap();
    assert_eq!((head.status(), head.body.as_str()), ("200", ""));
    let status = |request: &str| exchange(&served.proxy, request.into(), Vec::new()).unwrap().status().to_string();
    assert_eq!(status("CONNECT nginx HTTP/1.1\r\nHost: nginx:5000\r\nConnection: close\r\n\r\n"), "400");
    assert_eq!(status("nonsense\r\n\r\n"), "400");
    assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), "400");
    assert_eq!(status("GET http://nobody.example/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"), "502");
    let own = format!("GET http://{}/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", served.proxy);
    assert_eq!(status(&own), "502");
    expect_rules(&served);
}

#[test]
fn the_tour_ends_by_itself_and_says_what_happened() {
    let mut tour = Command::new(program()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = tour.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let ended = wait(&mut tour);
    let text = reading.join().unwrap().unwrap();
    assert!(ended.success(), "{text}");
    for wanted in [
        "curl -s nginx:5000 -H \"canary_id: 1\"",
        "`weight` stands inside `destination`",
        "Welcome to nginx-deployment-canary-2-",
        "x 503 UH no healthy upstream",
        "x nginx-deployment-canary-11-",
        "of VirtualService default/no-canary-2 (override.yaml:",
        "broken.yaml:",
        "of VirtualService default/shop (shop.yaml:",
        "---   the connection is closed",
        "403   RBAC: access denied",
        "refused where it arrived: no AuthorizationPolicy allows it",
        "All processes are stopped",
    ] {
        assert!(text.contains(wanted), "`{wanted}` is missing in\n{text}");
    }
    let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(long.is_empty(), "{long:?}");
    assert!(!text.contains('\x1b'));
}
