//! A control plane: a folder of Istio's YAML drives any number of real Envoys.
//!
//! ```sh
//! cargo run --example xds --features xds -- --self-check             # the nginx canary, through an Envoy if ENVOY names one
//! cargo run --example xds --features xds -- FOLDER > envoy.yaml      # then: envoy -c envoy.yaml
//! ```
//!
//! A folder without pods has Deployments only; their pods are played by stand-ins on loopback that say their names.

mod self_check;
mod stand_in;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshroute::adapter::xds::{Ads, Bootstrap, Client, Entry, Fleet};
use meshroute::{Mesh, Reader, Reading, Resources, Views};
use stand_in::StandIns;
use tokio::net::TcpListener;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--self-check"] => self_check::run().await,
        [folder] => serve(folder, "127.0.0.1:18000").await,
        [folder, address] => serve(folder, address).await,
        _ => Err("say `--self-check`, or FOLDER [ADDRESS]".into()),
    }
}

/// Serves a folder, and prints what an Envoy beside it is started with.
async fn serve(folder: &str, address: &str) -> Result<(), Failed> {
    let plane = ControlPlane::start(folder, address, Entry::Direct(Ipv4Addr::LOCALHOST.into())).await?;
    println!("{}", Bootstrap::sidecar("nginx-master", "default", plane.address).label("app", "nginx-master"));
    eprintln!("save that as envoy.yaml, and:");
    eprintln!("  envoy -c envoy.yaml &");
    eprintln!("  curl -H 'host: nginx:5000' -H 'canary_id: 2' 127.0.0.1:5000");
    Ok(tokio::signal::ctrl_c().await?)
}

/// A running control plane.
struct ControlPlane {
    fleet: Arc<Fleet>,
    address: SocketAddr,
}

impl ControlPlane {
    /// Reads a folder, follows it, and serves it.
    async fn start(folder: &str, address: &str, entry: Entry) -> Result<Self, Failed> {
        let folder = PathBuf::from(folder);
        let stand_ins = Arc::new(StandIns::default());
        let at_loopback = Arc::clone(&stand_ins);
        let fleet = Fleet::new(Views::new(Resources::new(), Mesh::default()))
            .recognise(move |node| {
                let client = Client::of(node);
                Client::new(client.viewpoint, client.setup.entry(entry))
            })
            .amend(move |_, translation| at_loopback.put_into(translation))
            .on_word(|node, kind, word| match &word.refused {
                Some(refused) => eprintln!("{} refuses {kind} {}: {}", node.id, refused.version, refused.reason),
                None => eprintln!("{} has {kind} {}", node.id, word.accepted.as_deref().unwrap_or("none")),
            });
        let fleet = Arc::new(fleet);
        let seen = fingerprint(&folder);
        take(&fleet, &stand_ins, &folder)?;
        tokio::spawn(follow(Arc::clone(&fleet), stand_ins, folder, seen));
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let served = axum::Router::new().fallback_service(Ads::new(Arc::clone(&fleet)));
        tokio::spawn(async move { axum::serve(listener, served).await });
        Ok(ControlPlane { fleet, address })
    }
}

/// Puts in force what a folder says; if it cannot be read, what was in force stays so.
fn take(fleet: &Fleet, stand_ins: &StandIns, folder: &Path) -> Result<(), Failed> {
    let mut reader = Reader::new(Reading::Lenient);
    reader.path(folder);
    reader.findings().iter().for_each(|finding| eprintln!("{finding}"));
    if reader.failed() {
        return Err(format!("{} cannot be read", folder.display()).into());
    }
    fleet.change(|views| {
        views.replace(reader);
        stand_ins.play(views.resources());
    });
    Ok(())
}

async fn follow(fleet: Arc<Fleet>, stand_ins: Arc<StandIns>, folder: PathBuf, mut seen: Vec<(PathBuf, SystemTime)>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let now = fingerprint(&folder);
        if now != seen {
            seen = now;
            if let Err(error) = take(&fleet, &stand_ins, &folder) {
                eprintln!("{error}; what was in force stays so");
            }
        }
    }
}

/// Which files there are, and of when.
fn fingerprint(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let files = meshroute::files_below(folder).unwrap_or_default();
    let dated = files.into_iter().filter_map(|file| {
        let modified = file.metadata().ok()?.modified().ok()?;
        Some((file, modified))
    });
    dated.collect()
}
