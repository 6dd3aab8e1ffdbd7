//! The network that pods live in where connections are intercepted: made, kept in order and taken away by the parent.
//!
//! ```text
//!   meshroute-4711-98765-hub                a bridge; gateway and kube-proxy reach the pods from in here
//!     | veth1        | veth2
//!     | eth0         | eth0
//!   ...-default.a  ...-default.b            a namespace for each pod: its address, a route, the rules of interception
//! ```
//!
//! Nothing is made in the machine's own namespace, no interface, no route and no rule, and from in here nothing beyond it
//! is reached. So a namespace that is deleted leaves nothing behind. Their names say which parent they belong to; what
//! belongs to one that is no more, the next start deletes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dial::{HANDED_ON, SENT};
use crate::intercept::{IN, NAMES, OUT};
use crate::netns::NAMED;
use crate::wire::PodSpec;

/// What the names of namespaces begin with.
const PREFIX: &str = "meshroute";
/// Files that are put over those of `/etc` for programs in a namespace: a custom of `ip netns exec`.
const FILES: &str = "/etc/netns";
/// The address of the hub, which is no pod's.
const HUB: &str = "169.254.1.1";
/// Where Services have their addresses: the hub answers for all of them.
const SERVICES: &str = "10.96.0.0/16";
/// Where Kubernetes usually has names told. A pod's sidecar, where it has one, answers in its place.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The network of one run.
pub struct Fabric {
    run: Run,
    /// The hub's end of each pod's cable, by `NAMESPACE/POD`.
    cables: Mutex<BTreeMap<String, String>>,
    laid: AtomicU32,
}

impl Fabric {
    /// A network without pods. What earlier runs have left is taken away.
    pub fn new() -> Result<Self, String> {
        sweep();
        let fabric = Fabric { run: Run::own()?, cables: Mutex::default(), laid: AtomicU32::new(0) };
        let hub = fabric.hub();
        ip(&[], &format!("netns add {hub}"))?;
        let bridge = [
            "link set lo up",
            "link add br0 type bridge",
            &format!("address add {HUB}/32 dev br0"),
            "link set br0 up",
            "route add default dev br0",
            &format!("route add local {SERVICES} dev lo"),
        ];
        ip(&["-n", &hub], &bridge.join("\n"))?;
        Ok(fabric)
    }

    /// The namespace from which every pod is reached.
    pub fn hub(&self) -> String {
        self.run.namespace("hub")
    }

    /// What a part is told that reaches pods from the hub.
    pub fn hub_args(&self) -> Vec<String> {
        ["--netns", &self.hub(), "--address", "0.0.0.0"].map(String::from).to_vec()
    }

    /// Makes a pod's namespace; what its parts are told of it.
    pub fn add(&self, pod: &PodSpec) -> Result<Vec<String>, String> {
        self.lay(pod).inspect_err(|_| self.remove(&format!("{}/{}", pod.namespace, pod.name)))
    }

    fn lay(&self, pod: &PodSpec) -> Result<Vec<String>, String> {
        let Some(address) = pod.address.filter(|address| address.is_ipv4()) else {
            return Err("it has no address of IPv4".into());
        };
        let name = self.run.namespace(&format!("{}.{}", pod.namespace, pod.name));
        let (hub, cable) = (self.hub(), format!("veth{}", self.laid.fetch_add(1, Ordering::Relaxed)));
        self.cables().insert(format!("{}/{}", pod.namespace, pod.name), cable.clone());
        let cabled = format!("link add eth0 netns {name} type veth peer name {cable} netns {hub}");
        ip(&[], &format!("netns add {name}\n{cabled}"))?;
        ip(&["-n", &hub], &format!("link set {cable} master br0 up"))?;
        let own = [
            "link set lo up",
            &format!("address add {address}/32 dev eth0"),
            "link set eth0 up",
            "route add default dev eth0",
        ];
        ip(&["-n", &name], &own.join("\n"))?;
        if pod.sidecar {
            run(Command::new("ip").args(["netns", "exec", &name, "nft", "-f", "-"]), &rules())?;
        }
        write_files(&name, &pod.namespace).map_err(|error| format!("{FILES}/{name}: {error}"))?;
        Ok(["--netns", &name, "--address", &address.to_string()].map(String::from).to_vec())
    }

    /// Takes away the namespace of `NAMESPACE/POD`.
    pub fn remove(&self, pod: &str) {
        let Some(cable) = self.cables().remove(pod) else { return };
        // Programs that somebody has started in there may keep the namespace alive; its address is free all the same.
        let _ = ip(&["-n", &self.hub()], &format!("link delete {cable}"));
        delete(&self.run.namespace(&pod.replace('/', ".")));
    }

    fn cables(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.cables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        all().into_iter().filter(|(_, run)| *run == self.run).for_each(|(name, _)| delete(&name));
    }
}

/// A pod of a mesh that runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its network namespace.
    pub netns: String,
    /// Its own namespace and name.
    pub pod: (String, String),
}

/// The pods of all meshes that run with interception.
pub fn places() -> Vec<Place> {
    let place = |(netns, run): (String, Run)| {
        let (namespace, pod) = netns.strip_prefix(&run.namespace(""))?.split_once('.')?;
        let pod = (namespace.to_string(), pod.to_string());
        run.is_alive().then(|| Place { netns: netns.clone(), pod })
    };
    all().into_iter().filter_map(place).collect()
}

/// Takes away what belongs to parents that are no more.
fn sweep() {
    for (name, run) in all() {
        if !run.is_alive() {
            delete(&name);
            run.rooms().iter().for_each(|room| drop(std::fs::remove_dir_all(room)));
        }
    }
}

/// Every namespace that a mesh has made, and those of which only files are left.
fn all() -> Vec<(String, Run)> {
    let folders = [NAMED, FILES].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let names = folders.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: BTreeSet<String> = names.collect();
    names.into_iter().filter_map(|name| Run::of(&name).map(|run| (name, run))).collect()
}

fn delete(name: &str) {
    let files = Path::new(FILES).join(name);
    let _ = std::fs::remove_dir_all(&files);
    // The folder itself stays only where there was one before.
    let _ = std::fs::remove_dir(FILES);
    if Path::new(NAMED).join(name).exists()
        && let Err(error) = ip(&[], &format!("netns delete {name}"))
    {
        let _ = writeln!(std::io::stderr(), "mesh: {name} cannot be taken away: {error}");
    }
}

/// A parent: its process, and when that began, since numbers of processes come round again.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    pid: u32,
    began: u64,
}

impl Run {
    fn own() -> Result<Self, String> {
        let pid = std::process::id();
        Ok(Run { pid, began: began(pid).ok_or("`/proc` cannot be read")? })
    }

    /// Whose namespace it is.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.splitn(3, '-');
        Some(Run { pid: parts.next()?.parse().ok()?, began: parts.next()?.parse().ok()? })
    }

    fn namespace(&self, what: &str) -> String {
        format!("{PREFIX}-{}-{}-{what}", self.pid, self.began)
    }

    fn is_alive(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// The folders of its own that it had among the temporary files.
    fn rooms(&self) -> Vec<PathBuf> {
        let own = format!("{PREFIX}-{}-", self.pid);
        let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own));
        named.map(|entry| entry.path()).collect()
    }
}

/// When a process began, in the kernel's own units; `None`: there is none, or nobody knows.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in brackets and may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// What nftables is told in a pod with a sidecar. In order: what the sidecar hands to its pod goes there; what it sends to
/// its own pod comes in as from anybody; what else it sends goes out. Names, then TCP that leaves the pod, are redirected.
fn rules() -> String {
    let mut rules = String::from("table ip meshroute {\n");
    let mut chain = |name: &str, lines: &[String]| {
        let hook = format!("type nat hook {name} priority -100; policy accept;");
        let _ = writeln!(rules, "  chain {name} {{\n    {hook}\n    {}\n  }}", lines.join("\n    "));
    };
    chain(
        "output",
        &[
            format!("meta mark {HANDED_ON} return"),
            format!("meta mark {SENT} oifname \"lo\" ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :{IN}"),
            format!("meta mark {SENT} return"),
            format!("udp dport 53 redirect to :{NAMES}"),
            format!("tcp dport 53 redirect to :{NAMES}"),
            "oifname \"lo\" return".into(),
            format!("meta l4proto tcp redirect to :{OUT}"),
        ],
    );
    chain("prerouting", &["iifname \"lo\" return".into(), format!("meta l4proto tcp redirect to :{IN}")]);
    rules + "}\n"
}

/// Has names looked up as in a pod of Kubernetes.
fn write_files(name: &str, namespace: &str) -> std::io::Result<()> {
    let folder = Path::new(FILES).join(name);
    // Another mesh that ends may just take away the folder around it.
    std::fs::create_dir_all(&folder).or_else(|_| std::fs::create_dir_all(&folder))?;
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolver = format!("nameserver {NAME_SERVER}\nsearch {search}\noptions ndots:5\n");
    std::fs::write(folder.join("resolv.conf"), resolver)?;
    // Whatever else the machine asks, it does not ask the sidecar.
    let Ok(switch) = std::fs::read_to_string("/etc/nsswitch.conf") else { return Ok(()) };
    let line = |line: &str| if line.starts_with("hosts:") { "hosts: files dns\n".into() } else { format!("{line}\n") };
    std::fs::write(folder.join("nsswitch.conf"), switch.lines().map(line).collect::<String>())
}

/// Has `ip` carry out some lines.
fn ip(options: &[&str], lines: &str) -> Result<(), String> {
    run(Command::new("ip").args(options).args(["-batch", "-"]), lines)
}

/// Runs a command with something on its standard input; what it says to its failure.
fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let told = |error: std::io::Error| format!("`{program}`: {error}");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(told)?;
    // One that ends before it has read everything says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(told)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{program}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
