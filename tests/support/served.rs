//! `mesh serve` on a copy of a scenario, for tests: processes, sockets and files. Knows nothing of the library.
#![allow(dead_code)] // Each test needs another part of it.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// The example, which `cargo test` builds beside this test.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    let profile = own.ancestors().nth(2).expect("a test is built below its profile's folder");
    profile.join("examples").join(format!("mesh{}", std::env::consts::EXE_SUFFIX))
}

/// A copy of the scenario that a test may change.
pub struct Folder(pub PathBuf);

impl Folder {
    /// With nothing in it.
    pub fn empty(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("meshroute-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    pub fn new(name: &str) -> Self {
        let folder = Folder::empty(name);
        let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/config/nginx-canary");
        for file in std::fs::read_dir(scenario).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.0.join(file.file_name())).unwrap();
        }
        folder
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `mesh serve` on a folder; killed, should the test end before it.
pub struct Served {
    pub parent: Child,
    lines: Receiver<String>,
    /// What it printed when it was ready.
    pub printed: String,
    /// What it has said since, as far as somebody asked for a place: another may ask for what stands there too.
    since: RefCell<String>,
    /// The master's sidecar.
    pub proxy: String,
    /// Discovery's page.
    pub page: String,
    /// The access log.
    pub log: PathBuf,
    /// Whether it has made networks, which it alone takes away.
    networks: bool,
}

impl Served {
    pub fn start(folder: &Folder) -> Self {
        Served::start_with(folder, &[])
    }

    pub fn start_with(folder: &Folder, more: &[&str]) -> Self {
        let mut command = Command::new(program());
        command
            .arg("serve")
            .arg(&folder.0)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut parent = command.spawn().expect("`cargo test` builds the example `mesh`");
        let (sender, lines) = channel();
        let out = BufReader::new(parent.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut served = Served {
            parent,
            lines,
            printed: String::new(),
            since: RefCell::default(),
            proxy: String::new(),
            page: String::new(),
            log: PathBuf::new(),
            networks: more.contains(&"--intercept"),
        };
        let listing = served.listing();
        served.proxy = after(&listing, "http_proxy=");
        served.page = after(&listing[listing.find("\nDiscovery").unwrap()..], "curl -s ");
        served.log = after(&listing, "tail -f ").into();
        served.printed = listing;
        served
    }

    /// The address of a pod's sidecar.
    pub fn sidecar(&self, pod: &str) -> String {
        let line =
            self.printed.lines().map(str::trim).find(|line| line.starts_with(pod) && line.contains("http_proxy="));
        after(line.unwrap_or_else(|| panic!("no {pod} in {}", self.printed)), "http_proxy=")
    }

    /// Where something is that it has named, or will: the last word of the line that begins so.
    pub fn place(&self, what: &str) -> String {
        let known = |text: &str| {
            let line = text.lines().map(str::trim).find(|line| line.starts_with(what));
            line.map(|line| line.split_whitespace().last().unwrap_or_default().to_string())
        };
        loop {
            if let Some(place) = known(&self.printed).or_else(|| known(&self.since.borrow())) {
                return place;
            }
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it does not name `{what}`"));
            *self.since.borrow_mut() += &(line + "\n");
        }
    }

    /// What it prints when it is ready.
    pub fn listing(&self) -> String {
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

    pub fn ask(&self, id: Option<&str>) -> Answer {
        let header = id.map(|id| format!("canary_id: {id}\r\n")).unwrap_or_default();
        get(&self.proxy, "http://nginx:5000/", &header)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&get(&self.page, "/status.json", "").body).unwrap()
    }

    /// Where so many sidecars take requests, as soon as they do.
    pub fn sidecars(&self, count: usize) -> Vec<String> {
        let printed = self.printed.lines().map(str::to_string);
        let lines = printed.chain(std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()));
        let told = lines.filter(|line| !line.starts_with("  http_proxy=") && line.contains("http_proxy=127"));
        let sidecars: Vec<String> = told.map(|line| after(&line, "http_proxy=")).take(count).collect();
        assert_eq!(sidecars.len(), count, "not every sidecar came up");
        sidecars
    }

    /// Asks for the status until it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, what, wanted)
    }

    /// The same with a patience of one's own.
    pub fn until_within(&self, patience: Duration, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            if let Some(status) = try_status(&self.page).filter(|status| wanted(status)) {
                return status;
            }
            assert!(started.elapsed() < patience, "it never came to this: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All processes but the parent.
    pub fn children(&self) -> Vec<u64> {
        let status = self.status();
        let subscribers = status["subscribers"].as_array().unwrap().iter();
        let pids = subscribers.filter(|one| one["part"] != "node").map(|one| one["pid"].as_u64().unwrap());
        pids.chain(status["pid"].as_u64()).collect()
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.parent)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.networks && matches!(self.parent.try_wait(), Ok(None)) {
            signal("-TERM", u64::from(self.parent.id()));
            while self.lines.recv_timeout(PATIENCE).is_ok() {}
        }
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        // One that is killed cannot tidy up.
        if let Some(room) = self.log.parent().filter(|room| room.is_absolute()) {
            let _ = std::fs::remove_dir_all(room);
        }
    }
}

/// Discovery by itself, of which the test is the parent.
pub struct Discovery {
    process: Child,
    /// Its page.
    pub page: String,
    /// Where parts come to it.
    pub api: String,
    /// What they know it by.
    pub roots: Vec<Vec<u8>>,
    _state: Folder,
}

impl Discovery {
    /// On a folder, once that is read: whoever comes before is sent nothing of it. `roster` says who may be what, by token.
    pub fn start(folder: &Folder, roster: &Value, more: &[&str]) -> Self {
        let state = Folder(folder.0.with_extension("state"));
        std::fs::create_dir_all(&state.0).unwrap();
        let mut command = Command::new(program());
        command.args(["discovery", "--dir"]).arg(&folder.0).arg("--state").arg(state.0.join("applied.yaml")).args(more);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(process.stdin.as_mut().unwrap(), "{roster}").unwrap();
        let mut report = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut report).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let port = |name: &str| format!("127.0.0.1:{}", report["listening"][name]);
        let roots = serde_json::from_value(report["roots"].clone()).unwrap();
        let discovery = Discovery { process, page: port("status"), api: port("api"), roots, _state: state };
        discovery.until("the folder is read", |status| status["readings"] != 0);
        discovery
    }

    /// Asks for the status until it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = try_status(&self.page);
            if let Some(status) = status.clone().filter(&wanted) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it never came to this: {what}: {status:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn wait(child: &mut Child) -> ExitStatus {
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

pub fn after(text: &str, mark: &str) -> String {
    let rest = text.split_once(mark).unwrap_or_else(|| panic!("`{mark}` is not in {text}")).1;
    rest.split_whitespace().next().unwrap().to_string()
}

pub fn signal(name: &str, pid: u64) -> bool {
    let mut kill = Command::new("kill");
    kill.args([name, &pid.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

pub fn all_gone(pids: &[u64]) {
    let started = Instant::now();
    while let Some(left) = pids.iter().find(|pid| signal("-0", **pid)) {
        assert!(started.elapsed() < PATIENCE, "process {left} was left behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn has(&self, line: &str) -> bool {
        self.head.lines().any(|one| one.eq_ignore_ascii_case(line))
    }

    /// The pod that answered, without what Kubernetes adds to its Deployment's name; else status and flag.
    pub fn who(&self) -> String {
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
pub fn exchange(socket: &str, head: String, body: Vec<u8>) -> Option<Answer> {
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

pub fn try_get(socket: &str, target: &str, headers: &str) -> Option<Answer> {
    exchange(
        socket,
        format!("GET {target} HTTP/1.1\r\nHost: nginx:5000\r\nConnection: close\r\n{headers}\r\n"),
        Vec::new(),
    )
}

/// What discovery's page says of everything, if discovery is there.
pub fn try_status(page: &str) -> Option<Value> {
    serde_json::from_str(&try_get(page, "/status.json", "")?.body).ok()
}

pub fn get(socket: &str, target: &str, headers: &str) -> Answer {
    try_get(socket, target, headers).unwrap_or_else(|| panic!("{socket} does not answer"))
}
