//! The sidecar of a pod: takes the pod's outgoing requests as an `http_proxy`.
//!
//! Knows who it is and keeps the last snapshot that was good, also while discovery is away. What is done with a
//! request stands in [`station`](crate::station).

use std::sync::Arc;

use tokio::sync::watch;

use crate::args::Args;
use crate::config::Config;
use crate::question::Door;
use crate::record::Telemetry;
use crate::station::{self, Station};
use crate::upstream::Upstreams;
use crate::wire::{self, Part, Routes};
use crate::{Failure, admin, session};

/// Runs the sidecar of `--pod` in `--namespace`, whose labels are the `--label`s.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (namespace, pod) = (args.one("namespace")?.to_string(), args.one("pod")?.to_string());
    let labels = args.pairs("label")?;
    let discovery = session::parent();
    let (listener, address) = wire::bind(args.port_of("http_proxy")).await?;
    let (sender, config) = watch::channel(None);
    let telemetry = Arc::new(Telemetry::of(args)?);
    let station = Arc::new(Station { config, telemetry, upstreams: Upstreams::new(&labels) });
    tokio::spawn(station::serve(listener, Arc::clone(&station), Door::Proxy(address)));
    let (page, admin) = wire::bind(args.port_of("admin")).await?;
    tokio::spawn(admin::serve(page, Arc::clone(&station)));
    let listening = [("http_proxy", address), ("admin", admin)];
    session::report(listening.map(|(name, address)| (name.to_string(), address.port())).into())?;
    let part = Part::Sidecar { namespace, pod, labels };
    session::subscribe(part, admin.port(), discovery, |_, routes: Routes| {
        let config = Config::check(routes)?;
        station.upstreams.adopt(&config.router.plan().clusters);
        sender.send_replace(Some(Arc::new(config)));
        Ok(())
    })
    .await;
    Ok(())
}
