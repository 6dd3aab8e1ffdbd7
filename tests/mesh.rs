//! The small mesh as its users meet it: processes, sockets and files. Knows nothing of the library.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The example, which `cargo test` builds beside this test.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    let profile = own.ancestors().nth(2).expect("a test is built below its profile's folder");
    profile.join("examples").join(format!("mesh{}", std::env::consts::EXE_SUFFIX))
}

/// A copy of the scenario that a test may change.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("meshroute-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/config/nginx-canary");
        for file in std::fs::read_dir(scenario).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        Folder(folder)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `mesh serve` on a folder; killed, should the test end before it.
struct Served {
    parent: Child,
    lines: Receiver<String>,
    proxy: String,
    status: String,
    log: PathBuf,
}

impl Served {
    fn start(folder: &Folder) -> Self {
        let mut command = Command::new(program());
        command.arg("serve").arg(&folder.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut parent = command.spawn().expect("`cargo test` builds the example `mesh`");
        let (sender, lines) = channel();
        let out = BufReader::new(parent.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut served = Served { parent, lines, proxy: String::new(), status: String::new(), log: PathBuf::new() };
        let listing = served.listing();
        served.proxy = after(&listing, "http_proxy=");
        served.status = after(&listing[listing.find("\nDiscovery").unwrap()..], "curl -s ");
        served.log = after(&listing, "tail -f ").into();
        let first = listing.lines().map(str::trim).find(|line| line.starts_with("http_proxy=")).unwrap();
        assert_eq!(first, format!("http_proxy={} curl -s nginx:5000 -H \"canary_id: 1\"", served.proxy), "{listing}");
        served
    }

    /// What it prints when it is ready.
    fn listing(&self) -> String {
        let mut listing = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("`serve` says how to reach its parts");
            listing.push_str(&line);
            listing.push('\n');
            if line.starts_with("Edit the folder") {
                return listing;
            }
        }
    }

    fn ask(&self, id: Option<&str>) -> Answer {
        let header = id.map(|id| format!("canary_id: {id}\r\n")).unwrap_or_default();
        get(&self.proxy, "http://nginx:5000/", &header)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&get(&self.status, "/status.json", "").body).unwrap()
    }

    /// Asks for the status until it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            if let Some(status) = try_get(&self.status, "/status.json", "").map(|answer| answer.body)
                && let Ok(status) = serde_json::from_str(&status)
                && wanted(&status)
            {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it never came to this: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All processes but the parent.
    fn children(&self) -> Vec<u64> {
        let status = self.status();
        let subscribers = status["subscribers"].as_array().unwrap().iter();
        let pids = subscribers.filter(|one| one["part"] != "node").map(|one| one["pid"].as_u64().unwrap());
        pids.chain(status["pid"].as_u64()).collect()
    }

    fn wait(&mut self) -> ExitStatus {
        wait(&mut self.parent)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        // One that is killed cannot tidy up.
        if let Some(room) = self.log.parent().filter(|room| room.is_absolute()) {
            let _ = std::fs::remove_dir_all(room);
        }
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn after(text: &str, mark: &str) -> String {
    let rest = text.split_once(mark).unwrap_or_else(|| panic!("`{mark}` is not in {text}")).1;
    rest.split_whitespace().next().unwrap().to_string()
}

fn signal(name: &str, pid: u64) -> bool {
    let mut kill = Command::new("kill");
    kill.args([name, &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

fn all_gone(pids: &[u64]) {
    let started = Instant::now();
    while let Some(left) = pids.iter().find(|pid| signal("-0", **pid)) {
        assert!(started.elapsed() < PATIENCE, "process {left} was left behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn has(&self, line: &str) -> bool {
        self.head.lines().any(|one| one.eq_ignore_ascii_case(line))
    }

    /// The pod that answered, without what Kubernetes adds to its Deployment's name; else status and flag.
    fn who(&self) -> String {
        let Some(pod) = self.body.split_once("<h1>Welcome to ").and_then(|(_, rest)| rest.split_once("!</h1>")) else {
            assert!(self.has("x-meshroute-flags: UH") && self.body == "no healthy upstream", "{}", self.head);
            return format!("{} UH", self.status());
        };
        assert_eq!(self.status(), "200");
        assert!(self.body.contains(&format!("<title>Welcome to {}!</title>", pod.0)));
        pod.0.rsplitn(3, '-').nth(2).unwrap().to_string()
    }
}

/// A request as plain text; `None` while nobody listens.
fn exchange(socket: &str, head: String, body: Vec<u8>) -> Option<Answer> {
    let mut stream = TcpStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut write = stream.try_clone().unwrap();
    // In a thread of its own: an echo comes back while its request is still on its way.
    let writing = std::thread::spawn(move || write.write_all(head.as_bytes()).and_then(|()| write.write_all(&body)));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    writing.join().unwrap().ok()?;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer { head: head.to_string(), body: body.to_string() })
}

fn try_get(socket: &str, target: &str, headers: &str) -> Option<Answer> {
    exchange(
        socket,
        format!("GET {target} HTTP/1.1\r\nHost: nginx:5000\r\nConnection: close\r\n{headers}\r\n"),
        Vec::new(),
    )
}

fn get(socket: &str, target: &str, headers: &str) -> Answer {
    try_get(socket, target, headers).unwrap_or_else(|| panic!("{socket} does not answer"))
}

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
    assert_eq!(status("CONNECT nginx:5000 HTTP/1.1\r\nHost: nginx:5000\r\nConnection: close\r\n\r\n"), "405");
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
        "All processes are stopped",
    ] {
        assert!(text.contains(wanted), "`{wanted}` is missing in\n{text}");
    }
    let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(long.is_empty(), "{long:?}");
    assert!(!text.contains('\x1b'));
}
