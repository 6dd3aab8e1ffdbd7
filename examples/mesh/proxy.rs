//! The sidecar of a pod: takes the pod's outgoing requests as an `http_proxy`, and whatever comes to its ports.
//!
//! Knows who it is and keeps the last snapshot that was good, also while discovery is away. What is done with a
//! request that goes out stands in [`station`](crate::station), with what comes in, in [`inbound`]. Where it is told a network
//! namespace, it also takes what the pod sends without knowing of it ([`intercept`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::admission::Admission;
use crate::args::Args;
use crate::identity::Identity;
use crate::question::Door;
use crate::record::Telemetry;
use crate::station::{self, InForce, Station};
use crate::upstream::Upstreams;
use crate::wire::{self, Part};
use crate::{Failure, admin, dial, inbound, intercept, outside, session};

/// Runs the sidecar of `--pod` in `--namespace`, whose labels are the `--label`s.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (namespace, pod) = (args.one("namespace")?.to_string(), args.one("pod")?.to_string());
    let labels = args.pairs("label")?;
    let bond = session::parent();
    let (listener, address) = wire::bind(args.port_of("http_proxy")).await?;
    let (sender, config) = watch::channel(None);
    let telemetry = Arc::new(Telemetry::of(args)?);
    let identity = Identity::new();
    let upstreams = Upstreams::new(&labels);
    let (itself, credentials) = (Arc::clone(&identity), Arc::default());
    let station = Arc::new(Station {
        config,
        telemetry,
        upstreams,
        identity: itself,
        credentials,
        admission: Admission::default(),
    });
    tokio::spawn(station::serve(listener, Arc::clone(&station), Door::Proxy(address)));
    tokio::spawn(outside::follow(station.config.clone()));
    tokio::spawn(station::tidy(Arc::clone(&station)));
    let (page, admin) = wire::bind(args.port_of("admin")).await?;
    tokio::spawn(admin::serve(page, Arc::clone(&station)));
    let mut listening = BTreeMap::from([("http_proxy".to_string(), address.port()), ("admin".into(), admin.port())]);
    let inbound = match dial::settle(args)? {
        Some(home) => {
            intercept::open(home, &station).await?;
            ports(args)?.into_iter().map(|port| (port, SocketAddr::from((home.address, port)))).collect()
        }
        None => open_doors(args, &station, &mut listening).await?,
    };
    session::report(listening)?;
    // Nobody is sent here before it can say who it is.
    identity.establish(bond.clone()).await;
    let part = Part::Sidecar { namespace, pod, labels, inbound };
    let mut now = InForce::default();
    session::subscribe(part, admin.port(), bond, |sets| station.take(sets, &mut now, &sender)).await;
    Ok(())
}

/// A door for each of the pod's ports.
async fn open_doors(
    args: &Args,
    station: &Arc<Station>,
    listening: &mut BTreeMap<String, u16>,
) -> Result<BTreeMap<u16, SocketAddr>, Failure> {
    let mut doors = BTreeMap::new();
    for port in ports(args)? {
        let name = format!("inbound {port}");
        let (listener, address) = wire::bind(args.port_of(&name)).await?;
        tokio::spawn(inbound::serve(listener, Arc::clone(station), port));
        listening.insert(name, address.port());
        doors.insert(port, address);
    }
    Ok(doors)
}

/// The pod's ports.
fn ports(args: &Args) -> Result<Vec<u16>, Failure> {
    Ok(args.all("port").iter().map(|port| port.parse()).collect::<Result<_, _>>()?)
}
