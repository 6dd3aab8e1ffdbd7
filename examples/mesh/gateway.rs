//! A gateway, for what comes from outside or goes there: one port on loopback for each port that Gateway resources ask it to serve.
//!
//! Knows which ports its plan has. What is done with a request stands in [`station`](crate::station).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admission::Admission;
use crate::args::Args;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::dial::{self, Home};
use crate::identity::Identity;
use crate::question::Door;
use crate::record::Telemetry;
use crate::station::{self, InForce, Station};
use crate::upstream::Upstreams;
use crate::wire::{self, Part};
use crate::{Failure, admin, outside, session};

/// Runs the gateway in `--namespace`, whose labels are the `--label`s; where it is a pod, `--pod` with its `--port`s.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (namespace, labels) = (args.one("namespace")?.to_string(), args.pairs("label")?);
    let (bond, home) = (session::parent(), dial::settle(args)?);
    let (sender, config) = watch::channel(None);
    let telemetry = Arc::new(Telemetry::of(args)?);
    let (identity, upstreams) = (Identity::new(), Upstreams::new(&labels));
    let credentials: Arc<Credentials> = Arc::default();
    tokio::spawn(Arc::clone(&credentials).follow());
    let station = Arc::new(Station {
        config: config.clone(),
        telemetry,
        upstreams,
        identity,
        credentials,
        admission: Admission::default(),
    });
    tokio::spawn(outside::follow(station.config.clone()));
    tokio::spawn(station::tidy(Arc::clone(&station)));
    let (page, admin) = wire::bind(args.port_of("admin")).await?;
    tokio::spawn(admin::serve(page, Arc::clone(&station)));
    let itself = Arc::clone(&station);
    let (open, sockets) = open_doors(args, home, &station).await?;
    let pod = args.all("pod").first().map(|pod| (pod.clone(), sockets));
    let part = Part::Gateway { namespace, labels, pod };
    tokio::spawn(async move {
        itself.identity.establish(bond.clone()).await;
        let mut now = InForce::default();
        session::subscribe(part, admin.port(), bond, move |sets| itself.take(sets, &mut now, &sender)).await;
    });
    follow(config, &station, admin.port(), open, args).await
}

/// The ports that are open, each with where it really is.
type Open = BTreeMap<u16, (u16, JoinHandle<()>)>;

/// The ports that a gateway has because its pod does, whatever Gateways ask for.
async fn open_doors(
    args: &Args,
    home: Option<&Home>,
    station: &Arc<Station>,
) -> Result<(Open, BTreeMap<u16, SocketAddr>), Failure> {
    let (mut open, mut sockets) = (Open::new(), BTreeMap::new());
    for port in args.all("port") {
        let known = args.port_of(port);
        let port = port.parse()?;
        let (listener, address) = match home {
            Some(home) => home.listen(port).await?,
            None => wire::bind(known).await?,
        };
        let serving = station::serve(listener, Arc::clone(station), Door::Gateway(port));
        open.insert(port, (address.port(), tokio::spawn(serving)));
        sockets.insert(port, address);
    }
    Ok((open, sockets))
}

/// Opens and closes ports as snapshots come.
async fn follow(
    mut config: watch::Receiver<Option<Arc<Config>>>,
    station: &Arc<Station>,
    admin: u16,
    mut open: Open,
    args: &Args,
) -> Result<(), Failure> {
    let own: BTreeSet<u16> = open.keys().copied().collect();
    while config.changed().await.is_ok() {
        let wanted = ports(config.borrow_and_update().as_deref());
        open.retain(|port, (_, task)| {
            let kept = wanted.contains(port) || own.contains(port);
            if !kept {
                task.abort();
            }
            kept
        });
        for port in wanted {
            if open.contains_key(&port) {
                continue;
            }
            let (listener, address) = wire::bind(args.port_of(&port.to_string())).await?;
            let serving = station::serve(listener, Arc::clone(station), Door::Gateway(port));
            open.insert(port, (address.port(), tokio::spawn(serving)));
        }
        let doors = open.iter().map(|(port, (real, _))| (port.to_string(), *real));
        session::report(doors.chain([("admin".to_string(), admin)]).collect())?;
    }
    Ok(())
}

fn ports(config: Option<&Config>) -> BTreeSet<u16> {
    config.iter().flat_map(|config| &config.router.plan().listeners).map(|listener| listener.port).collect()
}
