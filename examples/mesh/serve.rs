//! `mesh serve`: keeps a mesh running on a folder, and says how to reach each part with plain `curl`.
//!
//! Knows what to print and when to stop.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Failure;
use crate::args::Args;
use crate::node::{Parts, Room, Running, Settings, loopback};
use crate::status::Status;

/// How a program is started in a pod's network.
const EXEC: &str = "cargo run -q --example mesh -- exec";

/// The owner's scenario.
pub fn scenario() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mesh/config/nginx-canary")
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let folder = args.word(0).map_or_else(scenario, PathBuf::from);
    let folder = folder.canonicalize().map_err(|error| format!("`{}`: {error}", folder.display()))?;
    let settings = Settings::of(args)?;
    let address = settings.address();
    if let Some(address) = address {
        // Better said now than by a part that never comes up.
        drop(TcpListener::bind(address).map_err(|error| format!("`--address {address}`: {error}"))?);
    }
    let mut mesh = Running::start(&folder, Room::new()?, settings)?;
    let outcome = tokio::select! {
        served = attend(&mut mesh, &folder, address) => served,
        stopped = stop_asked() => stopped.map_err(Failure::from),
    };
    mesh.stop().await;
    say("stopped; nothing is left running");
    outcome
}

async fn attend(mesh: &mut Running, folder: &Path, address: Option<SocketAddr>) -> Result<(), Failure> {
    let status = match mesh.settled(0, Duration::from_secs(15)).await {
        Ok(status) => status,
        // What runs can be used; what does not is on the page.
        Err(_) => mesh.status().await?,
    };
    let listing = listing(&status, &mesh.parts.borrow(), folder, mesh, address);
    say(listing.trim_end());
    while mesh.events.try_recv().is_ok() {}
    let mut known = mesh.parts.borrow().clone();
    loop {
        tokio::select! {
            Some(event) = mesh.events.recv() => say(&format!("  {event}")),
            changed = mesh.parts.changed() => changed?,
        }
        let parts = mesh.parts.borrow_and_update().clone();
        for line in news(&known, &parts) {
            say(&format!("  {line}"));
        }
        known = parts;
    }
}

/// How to reach what was not there before, or was elsewhere.
fn news(known: &Parts, parts: &Parts) -> Vec<String> {
    let fresh = |name: &&String| known.get(*name).map(|part| &part.ports) != parts.get(*name).map(|part| &part.ports);
    parts.keys().filter(fresh).flat_map(|name| reach(name, parts)).collect()
}

/// The lines that say how to reach a part.
fn reach(name: &str, parts: &Parts) -> Vec<String> {
    let Some(part) = parts.get(name) else { return Vec::new() };
    let line = |(listener, port): (&String, &u16)| match name.split_once(' ').unwrap_or((name, "")) {
        ("proxy", pod) => format!("{pod:<58} http_proxy=127.0.0.1:{port}"),
        ("pod", pod) => format!("{pod:<58} curl -s 127.0.0.1:{port}"),
        ("gateway", pod) => {
            let what = if pod.is_empty() { format!("port {listener}") } else { format!("{pod} port {listener}") };
            format!("{what:<58} curl -s -H 'Host: ...' 127.0.0.1:{port}")
        }
        ("kubeproxy", _) => format!("{listener:<58} curl -s 127.0.0.1:{port}"),
        _ => format!("{listener:<58} 127.0.0.1:{port}"),
    };
    let own = |listener: &str| listener == "admin" || listener.starts_with("inbound ");
    part.ports.iter().filter(|(listener, _)| !own(listener)).map(line).collect()
}

fn listing(status: &Status, parts: &Parts, folder: &Path, mesh: &Running, address: Option<SocketAddr>) -> String {
    let mut text = format!("A mesh on {}\n", folder.display());
    let _ = writeln!(text, "{} parts run, each a process of its own. Ctrl-C stops them all.\n", parts.len());
    if let Some(command) = first_command(status, parts, mesh.intercepts()) {
        let _ = writeln!(text, "  {command}\n");
    }
    let all = |kind: &str| {
        let of_kind = |name: &&String| name.split(' ').next() == Some(kind);
        parts.keys().filter(of_kind).flat_map(|name| reach(name, parts)).collect::<Vec<_>>()
    };
    let sidecars = if mesh.intercepts() {
        "Sidecars, one for each pod (programs in a pod's network need not know of it)"
    } else {
        "Sidecars, one for each pod (before any curl: http_proxy=... curl -s SERVICE:PORT)"
    };
    section(&mut text, sidecars, &all("proxy"));
    section(
        &mut text,
        "Gateway, for callers from outside (needs a Gateway and a VirtualService for it)",
        &all("gateway"),
    );
    section(&mut text, "Services as the cluster balances them, without any rule", &all("kubeproxy"));
    if mesh.intercepts() {
        let pods = parts.keys().filter_map(|name| name.strip_prefix("pod "));
        let enter: Vec<_> = pods.map(|pod| format!("{pod:<58} {EXEC} {pod}")).collect();
        section(
            &mut text,
            "Pods, each in a network of its own (a shell there, or with a command behind it: that)",
            &enter,
        );
    } else {
        section(&mut text, "Pods", &all("pod"));
    }
    let page = parts.get("discovery").and_then(|part| part.ports.get("status"));
    let page = page.map(|port| {
        [
            format!("{:<58} http://{}/", "the mesh at work: open it in a browser", address.unwrap_or(loopback(*port))),
            format!("{:<58} curl -s 127.0.0.1:{port}", "who has which version, and what was found"),
        ]
    });
    section(&mut text, "Discovery", &page.map(Vec::from).unwrap_or_default());
    section(&mut text, "Access log", &[format!("tail -f {}", mesh.room.path("access.log").display())]);
    if !status.refused.is_empty() {
        text.push_str("The folder as it stands is refused:\n");
        text.extend(status.refused.iter().map(|finding| format!("{finding}\n")));
    }
    text.push_str("Edit the folder's files: a change is in force everywhere within a second.\n");
    text
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    let _ = writeln!(text, "{title}");
    if lines.is_empty() {
        text.push_str("  none yet\n");
    }
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    text.push('\n');
}

/// The owner's command through the sidecar of the master, or of whatever pod there is.
fn first_command(status: &Status, parts: &Parts, intercepted: bool) -> Option<String> {
    let mut proxies = parts.iter().filter(|(name, _)| name.starts_with("proxy "));
    let master = proxies.clone().find(|(name, _)| name.contains("master")).or_else(|| proxies.next())?;
    let port = master.1.ports.get("http_proxy")?;
    let service = status.services.first()?;
    let (namespace, service) = service.split_once('/')?;
    let short =
        if namespace == "default" { service.to_string() } else { service.replacen(':', &format!(".{namespace}:"), 1) };
    let command = format!("curl -s {short} -H \"canary_id: 1\"");
    if intercepted {
        let pod = master.0.split_once('/')?.1;
        return Some(format!("{EXEC} {pod} {command}"));
    }
    Some(format!("http_proxy=127.0.0.1:{port} {command}"))
}

/// Prints a line. Where nobody reads it, nothing is lost.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Returns when somebody asks to stop.
#[cfg(unix)]
pub async fn stop_asked() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // The last: its terminal was closed.
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

/// Returns when somebody asks to stop.
#[cfg(not(unix))]
pub async fn stop_asked() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
