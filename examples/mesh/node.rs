//! The parent: starts every part as a process of its own, watches it, and starts it again when it ends.
//!
//! Knows processes and the ports that they report. Knows nothing of requests. A part never outlives the parent: its
//! standard input closes when the parent ends, also when that is killed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::Failure;
use crate::access_log::Encoding;
use crate::ads::Type;
use crate::args::Args;
use crate::fabric::Fabric;
use crate::session::subscribe;
use crate::spiffe::Name;
use crate::status::Status;
use crate::wire::{self, Claim, Discovery, MAX_SHORT_LINE, Part, PodSpec, Report, Roster, Whereabouts};
use crate::{client, portions, times};

/// The port of discovery's page, unless it is taken: Kiali's.
pub const DASHBOARD: u16 = 20001;
/// The pause before a part is started again, at first and at most. One that lived for the longest pause begins anew.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// How long a pod that is to go still answers: until then everybody has heard that it is no longer to be asked.
const GRACE: Duration = Duration::from_secs(2);

/// A part as its parent sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alive {
    /// Its process; `None` while it is down.
    pub pid: Option<u32>,
    /// What it listens on.
    pub ports: BTreeMap<String, u16>,
}

/// All parts by name: `discovery`, `gateway`, `kubeproxy`, `pod default/a`, `proxy default/a`.
pub type Parts = BTreeMap<String, Alive>;

/// What the one who starts a mesh may choose.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How requests are written down.
    access_log: Encoding,
    /// Where spans are written, if they are made.
    spans: Option<String>,
    /// Where discovery's page is to be.
    page: Page,
    /// How long certificates and roots are good for, in seconds.
    lifetimes: Vec<String>,
    /// How long what stands still is kept, as parts are told it.
    times: Vec<String>,
    /// Whether each pod has a network namespace of its own.
    intercept: bool,
    /// Whether pods are real nginx processes.
    nginx: bool,
}

/// Where discovery's page is to be.
#[derive(Clone, Copy, Debug, Default)]
enum Page {
    /// Anywhere on loopback.
    #[default]
    Anywhere,
    /// On this port of loopback, if it is free.
    Usual(u16),
    /// There too.
    Here(SocketAddr),
}

impl Settings {
    /// As the command line says.
    pub fn of(args: &Args) -> Result<Self, String> {
        let page = match args.all("address") {
            [] => Page::Usual(DASHBOARD),
            [one] => Page::Here(one.parse().map_err(|_| format!("`--address {one}` is no ADDRESS:PORT"))?),
            _ => return Err("`--address` is given more than once".into()),
        };
        let nginx = match args.all("pods") {
            [] => false,
            [one] if one == "nginx" => true,
            _ => return Err("`--pods` may be `nginx`, and nothing else".into()),
        };
        Ok(Settings {
            intercept: args.is_on("intercept"),
            nginx,
            access_log: Encoding::parse(args.all("access-log"))?,
            spans: args.all("spans").first().cloned(),
            times: times::passed_on(args)?,
            page,
            lifetimes: ["lifetime", "root-lifetime"]
                .into_iter()
                .filter_map(|key| Some([format!("--{key}"), args.all(key).first()?.clone()]))
                .flatten()
                .collect(),
        })
    }

    /// Where the page is wanted, if somewhere else than usual.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.page {
            Page::Here(address) => Some(address),
            _ => None,
        }
    }

    /// What discovery is told of it.
    fn of_discovery(&self) -> Vec<String> {
        let mut args = self.lifetimes.clone();
        match self.page {
            Page::Anywhere => {}
            Page::Usual(port) => args.extend(["--listen".into(), format!("status={port}")]),
            Page::Here(address) => args.extend(["--address".into(), address.to_string()]),
        }
        args
    }

    /// What sidecars and gateways are told of it.
    fn of_proxies(&self) -> Vec<String> {
        let spans = self.spans.iter().flat_map(|file| ["--spans".to_string(), file.clone()]);
        ["--access-log".into(), self.access_log.to_string()]
            .into_iter()
            .chain(spans)
            .chain(self.times.clone())
            .collect()
    }
}

/// What the watchers of all parts share.
pub struct Node {
    program: PathBuf,
    log: File,
    parts: watch::Sender<Parts>,
    discovery: watch::Sender<Option<Discovery>>,
    /// What this process itself is told, as a part of its own.
    own: watch::Sender<Option<Whereabouts>>,
    /// Who may be what.
    roster: watch::Sender<Roster>,
    events: mpsc::UnboundedSender<String>,
    /// The network that pods live in, if they have one.
    fabric: Option<Arc<Fabric>>,
    /// Where pods keep their files.
    pods: PathBuf,
}

/// A mesh that runs. It ends with this value.
pub struct Running {
    /// What is alive, as it changes.
    pub parts: watch::Receiver<Parts>,
    /// What happened to parts, in words.
    pub events: mpsc::UnboundedReceiver<String>,
    /// Where it keeps its log.
    pub room: Room,
    node: Weak<Node>,
    tasks: JoinSet<()>,
    /// The network that pods live in, which goes when nobody is left in it.
    fabric: Option<Arc<Fabric>>,
}

impl Running {
    /// Starts a mesh on a folder. Its own files go to `room`.
    pub fn start(folder: &Path, room: Room, settings: Settings) -> Result<Self, Failure> {
        let (events, heard) = mpsc::unbounded_channel();
        let log = OpenOptions::new().create(true).append(true).open(room.path("access.log"))?;
        let (program, parts) = (std::env::current_exe()?, watch::Sender::default());
        let (discovery, own, roster) = (watch::Sender::new(None), watch::Sender::new(None), watch::Sender::default());
        let unable =
            |error| format!("pods cannot have networks here (`mesh precheck --intercept` looks closer): {error}");
        let fabric = settings.intercept.then(Fabric::new).transpose().map_err(unable)?.map(Arc::new);
        let outside = fabric.as_ref().map(|fabric| fabric.hub_args()).unwrap_or_default();
        let (pods, network) = (room.path("pods"), fabric.clone());
        let node = Arc::new(Node { program, log, parts, discovery, own, roster, events, fabric: network, pods });
        let (parts, itself) = (node.parts.subscribe(), Arc::downgrade(&node));
        let mut tasks = JoinSet::new();
        let state = room.path("applied.yaml").display().to_string();
        let discovery = ["discovery", "--dir", &folder.display().to_string(), "--state", &state].map(String::from);
        let gateway = ["gateway", "--namespace", "istio-system", "--label", "istio=ingressgateway"].map(String::from);
        let gateway = gateway.into_iter().chain(settings.of_proxies()).chain(outside.clone()).collect();
        let kubeproxy = [vec!["kubeproxy".to_string()], outside].concat();
        let discovery = discovery.into_iter().chain(settings.of_discovery()).collect();
        let doorman = Name::new("istio-system", "istio-ingressgateway-service-account");
        let doorman = Claim { part: "gateway istio-system".into(), name: Some(doorman) };
        let (nobody, balancer) = (nameless("discovery".into()), nameless("kube-proxy".into()));
        tasks.spawn(keep(Arc::clone(&node), "discovery".into(), discovery, nobody));
        tasks.spawn(keep(Arc::clone(&node), "gateway".into(), gateway, doorman));
        tasks.spawn(keep(Arc::clone(&node), "kubeproxy".into(), kubeproxy, balancer));
        let (wanted, list) = watch::channel(Vec::new());
        tasks.spawn(subscribe(Part::Node, 0, node.own.subscribe().into(), move |sets| {
            let pods = portions::every(sets, Type::Pods).map(|pod| Ok(pod?.1));
            wanted.send_replace(pods.collect::<Result<_, String>>()?);
            Ok(())
        }));
        tasks.spawn(tend(node, settings, list));
        Ok(Running { parts, events: heard, room, node: itself, tasks, fabric })
    }

    /// Whether what pods send and get is intercepted.
    pub fn intercepts(&self) -> bool {
        self.fabric.is_some()
    }

    /// Waits until a part listens, and says where.
    pub async fn socket(&mut self, part: &str, listener: &str) -> Result<SocketAddr, Failure> {
        let find = |parts: &Parts| parts.get(part).and_then(|alive| alive.ports.get(listener)).copied();
        let waiting = self.parts.wait_for(|parts| find(parts).is_some());
        let found = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        let port = found.map_err(|_| format!("{part} does not listen"))?.ok().and_then(|parts| find(&parts));
        Ok(loopback(port.ok_or("the mesh has ended")?))
    }

    /// What discovery says of everything.
    pub async fn status(&mut self) -> Result<Status, Failure> {
        let page = self.socket("discovery", "status").await?;
        Ok(serde_json::from_str(&client::get(page, "/status.json", &[]).await?.body)?)
    }

    /// Waits until the folder was read more than `readings` times and everybody has what follows from it.
    pub async fn settled(&mut self, readings: u64, patience: Duration) -> Result<Status, Failure> {
        let started = Instant::now();
        loop {
            let status = self.status().await;
            match status {
                Ok(status) if status.settled && status.readings > readings && self.is_reachable(&status) => {
                    return Ok(status);
                }
                Ok(_) if started.elapsed() > patience => return Err("the mesh does not come to rest".into()),
                Err(error) if started.elapsed() > patience => return Err(error),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Whether every pod has a sidecar that listens and is subscribed, and the other parts are there too.
    fn is_reachable(&self, status: &Status) -> bool {
        let parts = self.parts.borrow();
        let subscribed = |part: &str| status.subscribers.iter().any(|subscriber| subscriber.part == part);
        let up = |part: String| parts.get(&part).is_some_and(|alive| !alive.ports.is_empty());
        let pod = |name: &str| up(format!("proxy {name}")) && subscribed(&format!("sidecar {name}"));
        status.pods.iter().filter(|one| one.sidecar).all(|one| pod(&one.name))
            && subscribed("kube-proxy")
            && subscribed("gateway istio-system")
            && (status.services.is_empty() || up("kubeproxy".into()))
    }

    /// Ends every part.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        // Each watcher holds the node, and its process ends with it.
        while self.node.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// An address on loopback.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Runs a pod and its sidecar for each on the list, and ends those that are no longer on it.
async fn tend(node: Arc<Node>, settings: Settings, mut list: watch::Receiver<Vec<PodSpec>>) {
    let mut kept: BTreeMap<String, (PodSpec, Watchers)> = BTreeMap::new();
    let mut leaving = JoinSet::new();
    while list.changed().await.is_ok() {
        let mut wanted = list.borrow_and_update().clone();
        if !settings.intercept {
            // Another address means nothing where none is real.
            wanted.iter_mut().for_each(|pod| pod.address = None);
        }
        let gone = kept.iter().filter(|(_, (pod, _))| !wanted.contains(pod)).map(|(name, _)| name.clone());
        for name in gone.collect::<Vec<_>>() {
            node.forget(&name);
            let watchers = kept.remove(&name);
            // Where addresses are real, another pod may want this one's at once.
            if !settings.intercept {
                leaving.spawn(async move {
                    tokio::time::sleep(GRACE).await;
                    drop(watchers);
                });
            }
        }
        while leaving.try_join_next().is_some() {}
        for pod in wanted {
            let name = format!("{}/{}", pod.namespace, pod.name);
            if kept.contains_key(&name) {
                continue;
            }
            let home = match node.house(&pod) {
                Ok(home) => home,
                Err(error) => {
                    node.note(format!("pod {name} cannot have a network of its own: {error}"));
                    continue;
                }
            };
            let start = |kind: &str, mut args: Vec<String>, claim| {
                args.extend(home.clone());
                tokio::spawn(keep(Arc::clone(&node), format!("{kind} {name}"), args, claim))
            };
            let named = |part: &str| {
                let own = Name::new(&pod.namespace, &pod.account);
                Claim { part: format!("{part} {name}"), name: Some(own) }
            };
            let mut watchers = Vec::new();
            if pod.gateway {
                watchers.push(start("gateway", proxy_args("gateway", &pod, &settings), named("gateway")));
            } else {
                watchers.push(start("pod", node.pod_args(&pod, &settings), nameless(format!("pod {name}"))));
            }
            if pod.sidecar {
                watchers.push(start("proxy", proxy_args("proxy", &pod, &settings), named("sidecar")));
            }
            kept.insert(name, (pod, Watchers(watchers)));
        }
    }
}

/// Somebody who is never signed.
fn nameless(part: String) -> Claim {
    Claim { part, name: None }
}

/// The watchers of a pod and its sidecar. They end with it, and their processes with them.
struct Watchers(Vec<JoinHandle<()>>);

impl Drop for Watchers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn proxy_args(command: &str, pod: &PodSpec, settings: &Settings) -> Vec<String> {
    let mut args = [command, "--namespace", &pod.namespace, "--pod", &pod.name].map(String::from).to_vec();
    args.extend(pod.labels.iter().flat_map(|(key, value)| ["--label".to_string(), format!("{key}={value}")]));
    args.extend(pod.ports.iter().flat_map(|port| ["--port".to_string(), port.to_string()]));
    args.extend(settings.of_proxies());
    args
}

/// Keeps a part alive for ever.
async fn keep(node: Arc<Node>, name: String, args: Vec<String>, claim: Claim) {
    let mut pause = PAUSES.0;
    loop {
        let born = Instant::now();
        let ended = match live(&node, &name, &args, &claim).await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        node.down(&name, &ended);
        if born.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSES.1.min(pause * 2);
    }
}

/// One life of a part.
async fn live(node: &Node, name: &str, args: &[String], claim: &Claim) -> std::io::Result<ExitStatus> {
    let token = node.token(claim);
    let mut child = node.spawn(name, args)?;
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(stdout)) = (&mut stdin, stdout) else { return child.wait().await };
    let mut reports = wire::messages::<Report, _>(stdout, MAX_SHORT_LINE);
    let (mut discovery, mut roster) = (node.discovery.subscribe(), node.roster.subscribe());
    discovery.mark_changed();
    roster.mark_changed();
    let judges = name == "discovery";
    loop {
        tokio::select! {
            ended = child.wait() => return ended,
            Some(report) = reports.recv() => node.up(name, child.id(), report),
            // A part that has just ended is found out above.
            Ok(()) = discovery.changed(), if !judges => {
                let known = discovery.borrow_and_update().clone();
                if let Some(discovery) = known {
                    let _ = wire::send(input, &Whereabouts { discovery, token: token.clone() }).await;
                }
            }
            Ok(()) = roster.changed(), if judges => {
                let known = roster.borrow_and_update().clone();
                let _ = wire::send(input, &known).await;
            }
        }
    }
}

impl Node {
    /// Makes a pod's network, where pods have one; what its parts are told of it.
    fn house(&self, pod: &PodSpec) -> Result<Vec<String>, String> {
        self.fabric.as_ref().map_or(Ok(Vec::new()), |fabric| fabric.add(pod))
    }

    fn pod_args(&self, pod: &PodSpec, settings: &Settings) -> Vec<String> {
        let mut args = ["pod", "--namespace", &pod.namespace, "--name", &pod.name, "--greet", &pod.greet]
            .map(String::from)
            .to_vec();
        args.extend(pod.ports.iter().flat_map(|port| ["--port".to_string(), port.to_string()]));
        if settings.nginx {
            let folder = self.pods.join(format!("{}.{}", pod.namespace, pod.name));
            args.extend(["--server", "nginx", "--folder", &folder.display().to_string()].map(String::from));
        }
        args
    }

    /// A token of which discovery knows whose it is. One that was handed out for the same part before is worth nothing more.
    fn token(&self, claim: &Claim) -> String {
        let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        self.roster.send_modify(|roster| {
            roster.retain(|_, known| known.part != claim.part);
            roster.insert(token.clone(), claim.clone());
        });
        token
    }

    /// Starts a part's process. It is given the ports that it had before, so that what people wrote down stays true.
    fn spawn(&self, name: &str, args: &[String]) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(args).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(self.log.try_clone()?);
        if let Some(before) = self.parts.borrow().get(name) {
            for (listener, port) in &before.ports {
                command.args(["--listen", &format!("{listener}={port}")]);
            }
        }
        // A group of its own, so that Ctrl-C in the terminal reaches the parent alone, which then ends the others.
        #[cfg(unix)]
        command.process_group(0);
        command.spawn()
    }

    fn up(&self, name: &str, pid: Option<u32>, report: Report) {
        let Report { listening: ports, roots } = report;
        if let ("discovery", Some(port)) = (name, ports.get("api")) {
            // Its own process says so on a pipe that is nobody else's: whoever has its port since cannot.
            let discovery = Discovery { socket: loopback(*port), roots };
            let token = self.token(&nameless("node".into()));
            self.own.send_replace(Some(Whereabouts { discovery: discovery.clone(), token }));
            self.discovery.send_replace(Some(discovery));
        }
        let again = self.parts.borrow().get(name).is_some_and(|before| before.pid.is_none());
        if again {
            self.note(format!("{name} runs again, pid {}", pid.unwrap_or_default()));
        }
        self.parts.send_modify(|parts| drop(parts.insert(name.to_string(), Alive { pid, ports })));
    }

    fn down(&self, name: &str, ended: &str) {
        self.note(format!("{name} has ended ({ended})"));
        self.parts.send_modify(|parts| {
            if let Some(part) = parts.get_mut(name) {
                part.pid = None;
            }
        });
    }

    fn forget(&self, pod: &str) {
        self.note(format!("pod {pod} is gone"));
        self.fabric.iter().for_each(|fabric| fabric.remove(pod));
        let gone = [format!("pod {pod}"), format!("sidecar {pod}"), format!("gateway {pod}")];
        self.roster.send_modify(|roster| roster.retain(|_, known| !gone.contains(&known.part)));
        self.parts.send_modify(|parts| {
            parts.remove(&format!("pod {pod}"));
            parts.remove(&format!("proxy {pod}"));
            parts.remove(&format!("gateway {pod}"));
        });
    }

    fn note(&self, event: String) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }
}

/// A folder for one run's own files, gone with this value.
pub struct Room(PathBuf);

impl Room {
    /// A new one among the system's temporary files.
    pub fn new() -> std::io::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = std::env::temp_dir().join(format!("meshroute-{}-{}", std::process::id(), now.subsec_nanos()));
        std::fs::create_dir(&path)?;
        Ok(Room(path))
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
