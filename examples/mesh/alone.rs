//! One sidecar by itself, on a folder: without a parent, discovery and identity. To be measured, or tried.
//!
//! Knows how a folder becomes what discovery would have sent. Nothing is pushed to it: the folder is read once, and its
//! pods are at the addresses that they say they have (`status.podIP`), which must be on loopback.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use meshroute::authorize::Guard;
use meshroute::limit::RateLimits;
use meshroute::{Mesh, Plan, Reader, Reading, Resources, Viewpoint, kubernetes};
use tokio::sync::watch;

use crate::admission::Admission;
use crate::args::Args;
use crate::identity::Identity;
use crate::question::Door;
use crate::record::Telemetry;
use crate::serve::stop_asked;
use crate::station::{self, Station};
use crate::upstream::Upstreams;
use crate::wire::{self, Routes};
use crate::workload::Workload;
use crate::{Failure, admin, outside};

/// Runs a sidecar in `--namespace` (`default`) on the folder that is named, until Ctrl-C or SIGTERM.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let folder = args.word(0).ok_or("name the folder: `mesh alone DIR`")?;
    let namespace = args.all("namespace").first().map_or("default", String::as_str);
    let (sender, config) = watch::channel(None);
    let station = Arc::new(Station {
        config,
        telemetry: Arc::new(Telemetry::of(args)?),
        upstreams: Upstreams::new(&BTreeMap::new()),
        identity: Identity::new(),
        credentials: Arc::default(),
        admission: Admission::default(),
    });
    station.adopt(routes(Path::new(folder), namespace)?, &sender)?;
    let (listener, address) = wire::bind(args.port_of("http_proxy")).await?;
    let (page, admin) = wire::bind(args.port_of("admin")).await?;
    tokio::spawn(station::serve(listener, Arc::clone(&station), Door::Proxy(address)));
    tokio::spawn(station::tidy(Arc::clone(&station)));
    tokio::spawn(admin::serve(page, station));
    writeln!(std::io::stdout(), "http_proxy={address} admin={admin}")?;
    Ok(stop_asked().await?)
}

/// What discovery would send to a sidecar in this namespace.
fn routes(folder: &Path, namespace: &str) -> Result<Routes, Failure> {
    let mut reader = Reader::new(Reading::Strict);
    reader.path(folder);
    let mut resources = Resources::new();
    if let Some(finding) = resources.replace(reader).first() {
        return Err(finding.to_string().into());
    }
    kubernetes::assign_addresses(&mut resources);
    let (viewpoint, mesh) = (Viewpoint::sidecar(namespace), Mesh::default());
    let plan = Plan::resolve(&resources, &viewpoint, &mesh).plan;
    Ok(Routes {
        outside: outside::wanted(&plan, folder),
        plan,
        inbound: BTreeMap::new(),
        guard: Guard::of(&resources, &viewpoint, &mesh).0,
        limits: RateLimits::of(&resources, &viewpoint, &mesh).0,
        peers: BTreeMap::new(),
        roots: Vec::new(),
        credentials: Vec::new(),
        underlay: BTreeMap::new(),
        places: BTreeMap::new(),
        own: Workload::new(namespace, "alone", &BTreeMap::new()),
        workloads: BTreeMap::new(),
    })
}
