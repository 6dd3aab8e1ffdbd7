//! `mesh precheck`: whether this machine can run a mesh, before anything is started.
//!
//! Knows what the parts need. Changes nothing: what it opens it closes again.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use meshroute::{Reader, Reading, Resources, Severity, kubernetes};

use crate::Failure;
use crate::args::Args;
use crate::fabric::Fabric;
use crate::node::{DASHBOARD, Room};
use crate::serve::scenario;
use crate::wire::PodSpec;

/// Files that one part keeps open when nobody uses it, roughly, and those that traffic may add.
const FILES: u64 = 64;
/// What a part takes of the memory, roughly, in kB.
const MEMORY: u64 = 12 << 10;

/// What came of one look.
enum Found {
    /// It is as it should be.
    Good(String),
    /// It will do.
    Lacking(String),
    /// A mesh cannot run like this.
    Bad(String),
}

use Found::{Bad, Good, Lacking};

/// Looks at everything, prints it, and fails if a mesh could not run on the folder.
pub fn run(args: &Args) -> Result<(), Failure> {
    let folder = args.word(0).map_or_else(scenario, Into::into);
    let (pods, reading) = folder_reading(&folder);
    let looks = [
        ("folder", reading),
        ("loopback", loopback_ports(pods)),
        ("page", page_port(args)),
        ("privileges", privileges(args)),
        ("processes", processes()),
        ("files", open_files()),
        ("memory", memory(pods)),
        ("temporary files", room()),
        ("interception", interception(args)),
        ("nginx", nginx(args)),
        ("curl", tool("curl", "to try requests with")),
        ("prometheus", tool("prometheus", "to collect metrics; `examples/mesh/prometheus.yml` is its configuration")),
    ];
    let mut out = std::io::stdout().lock();
    for (name, found) in &looks {
        let (mark, words) = match found {
            Good(words) => ("ok", words),
            Lacking(words) => ("--", words),
            Bad(words) => ("NO", words),
        };
        writeln!(out, "{mark:<4}{name:<18}{words}")?;
    }
    match looks.iter().filter(|(_, found)| matches!(found, Bad(_))).count() {
        0 => Ok(writeln!(out, "\nA mesh can run here: mesh serve {}", folder.display())?),
        bad => Err(format!("a mesh cannot run here yet: {bad} of these must be mended").into()),
    }
}

/// How many pods the folder asks for, and whether it can be read.
fn folder_reading(folder: &Path) -> (usize, Found) {
    let mut reader = Reader::new(Reading::Lenient);
    reader.path(folder);
    if let Some(error) = reader.findings().iter().find(|finding| finding.severity == Severity::Error) {
        let place = error
            .place
            .as_ref()
            .map_or_else(|| folder.display().to_string(), |place| format!("{}:{}", place.file, place.line));
        return (0, Bad(format!("{place}: {}", error.message)));
    }
    let mut resources = Resources::new();
    resources.apply_read(reader);
    let pods = kubernetes::pods(&resources).len();
    let found = format!("{} resources, {pods} pods: {} processes", resources.iter().count(), parts(pods));
    (pods, Good(found))
}

/// A pod and its sidecar each; discovery, gateway, kube-proxy, and the parent.
fn parts(pods: usize) -> usize {
    2 * pods + 4
}

fn loopback_ports(pods: usize) -> Found {
    // Two listeners for a pod and its sidecar, a page each, and some for the others.
    let wanted = 3 * pods + 8;
    let open: Result<Vec<_>, _> = (0..wanted).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    match open {
        Ok(_) => Good(format!("{wanted} ports on 127.0.0.1 could be opened; none other is")),
        Err(error) => Bad(format!("{wanted} ports on 127.0.0.1 are needed: {error}")),
    }
}

fn page_port(args: &Args) -> Found {
    let usual = format!("127.0.0.1:{DASHBOARD}");
    let (wanted, is_asked) = args.all("address").first().map_or((usual.as_str(), false), |one| (one.as_str(), true));
    match TcpListener::bind(wanted) {
        Ok(_) => Good(format!("{wanted} is free")),
        Err(error) if is_asked => Bad(format!("{wanted}: {error}")),
        Err(error) => Lacking(format!("{wanted}: {error}; another port will be taken, and told")),
    }
}

/// Without interception nothing here needs any: no redirection of packets, no port below 1024.
fn privileges(args: &Args) -> Found {
    match (is_root(), args.is_on("intercept")) {
        (Some(true), true) => Good("this is root".into()),
        (_, true) => Bad("`--intercept` makes network namespaces: it needs root".into()),
        (Some(true), false) => Lacking("none are needed, and this is root: an ordinary user will do".into()),
        (Some(false), false) => Good("none are needed, and none are had".into()),
        (None, false) => Good("none are needed".into()),
    }
}

fn is_root() -> Option<bool> {
    status_field("Uid:").map(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

/// Whether pods can have networks of their own. Where that is asked for, one is made and taken away again.
fn interception(args: &Args) -> Found {
    let is_asked = args.is_on("intercept");
    let missing: Vec<_> = ["ip", "nft"].into_iter().filter(|name| path_of(name).is_none()).collect();
    if !missing.is_empty() {
        let words = format!("`{}` is not there (iproute2, nftables)", missing.join("`, `"));
        return if is_asked { Bad(words) } else { Lacking(format!("{words}; `serve --intercept` needs it")) };
    }
    if !is_asked {
        return Good("its tools are there; `precheck --intercept` tries it".into());
    }
    let address = Some(Ipv4Addr::new(10, 244, 0, 1).into());
    let pod =
        PodSpec { namespace: "precheck".into(), name: "pod".into(), address, sidecar: true, ..PodSpec::default() };
    match Fabric::new().and_then(|fabric| fabric.add(&pod)) {
        Ok(_) => Good("a pod's network was made and taken away".into()),
        Err(error) => Bad(error),
    }
}

fn nginx(args: &Args) -> Found {
    let is_asked = !args.all("pods").is_empty();
    match tool("nginx", "`serve --pods nginx` needs it") {
        Lacking(words) if is_asked => Bad(words),
        found => found,
    }
}

fn processes() -> Found {
    let program = std::env::current_exe();
    let tried = program.and_then(|program| std::process::Command::new(program).arg("help").output());
    match tried {
        Ok(output) if output.status.success() => Good("this program can start itself".into()),
        Ok(output) => Bad(format!("this program does not run as its own part: {}", output.status)),
        Err(error) => Bad(format!("this program cannot start itself: {error}")),
    }
}

fn open_files() -> Found {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()) {
        Some(most) if most < FILES => Bad(format!("a process may have {most} files open; `ulimit -n {}`", FILES * 16)),
        Some(most) if most < FILES * 16 => {
            Lacking(format!("a process may have {most} open: enough for little traffic"))
        }
        Some(most) => Good(format!("a process may have {most} open")),
        None => Lacking("the limit cannot be read here".into()),
    }
}

fn memory(pods: usize) -> Found {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let wanted = parts(pods) as u64 * MEMORY;
    match free.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()) {
        Some(free) if free < wanted => Lacking(format!("{} MB are free, about {} MB wanted", free >> 10, wanted >> 10)),
        Some(free) => Good(format!("{} MB are free, about {} MB wanted", free >> 10, wanted >> 10)),
        None => Lacking("it cannot be read here".into()),
    }
}

fn room() -> Found {
    let tried = Room::new().and_then(|room| std::fs::write(room.path("try"), "it can be written"));
    match tried {
        Ok(()) => Good(format!("{} can be written", std::env::temp_dir().display())),
        Err(error) => Bad(format!("{}: {error}", std::env::temp_dir().display())),
    }
}

fn path_of(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|path| path.join(name)).find(|path| path.is_file())
}

fn tool(name: &str, purpose: &str) -> Found {
    match path_of(name) {
        Some(path) => Good(path.display().to_string()),
        None => Lacking(format!("not there; {purpose}")),
    }
}

fn status_field(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::to_string)
}
