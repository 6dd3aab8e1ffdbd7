//! What a cluster does for callers outside the mesh: each Service's port, balanced over its ready pods. Where pods have
//! networks of their own, also at the Service's own address, and its name is told to those pods that have no sidecar.
//!
//! Knows connections, not requests: no rule has a say here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ads::Type;
use crate::args::Args;
use crate::dial::{self, Home};
use crate::fabric::NAME_SERVER;
use crate::wire::{self, Balanced, Part, Services};
use crate::{Failure, portions, resolver, session};

/// One port of a Service: the pods behind it, and whose turn it is.
#[derive(Default)]
struct Virtual {
    pods: RwLock<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

impl Virtual {
    /// All pods, beginning with the one whose turn it is.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut pods = self.pods.read().unwrap_or_else(PoisonError::into_inner).clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !pods.is_empty() {
            let at = turn % pods.len();
            pods.rotate_left(at);
        }
        pods
    }

    fn set(&self, pods: Vec<SocketAddr>) {
        *self.pods.write().unwrap_or_else(PoisonError::into_inner) = pods;
    }
}

struct Open {
    service: Arc<Virtual>,
    port: u16,
    /// The Service's own.
    address: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Runs it.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let discovery = session::parent();
    let home = dial::settle(args)?;
    let (sender, mut wanted) = watch::channel(Services::new());
    let subscription = session::subscribe(Part::KubeProxy, 0, discovery, move |sets| {
        let services = portions::every(sets, Type::Services).map(|one| one.map(|(name, one)| (name.to_string(), one)));
        let services: Services = services.collect::<Result<_, _>>()?;
        match services.values().flat_map(|service| &service.pods).find(|socket| !dial::reaches(**socket)) {
            Some(socket) => Err(format!("{socket} is not on loopback")),
            None => {
                sender.send_replace(services);
                Ok(())
            }
        }
    });
    tokio::spawn(subscription);
    if let Some(home) = home {
        let known = wanted.clone();
        let find = Arc::new(move |name: &str| addresses(&known.borrow(), name));
        resolver::open(&home.namespace, NAME_SERVER, 53, find).await?;
    }
    let mut open = BTreeMap::new();
    while wanted.changed().await.is_ok() {
        let services = wanted.borrow_and_update().clone();
        arrange(&mut open, services, args, home).await?;
        session::report(open.iter().map(|(name, one): (&String, &Open)| (name.clone(), one.port)).collect())?;
    }
    Ok(())
}

/// Opens what is new, closes what is gone, and tells the rest who is ready.
async fn arrange(
    open: &mut BTreeMap<String, Open>,
    services: Services,
    args: &Args,
    home: Option<&Home>,
) -> std::io::Result<()> {
    open.retain(|name, one| services.get(name).is_some_and(|service| service.address == one.address));
    for (name, Balanced { address, pods }) in services {
        if !open.contains_key(&name) {
            let (listener, own) = wire::bind(args.port_of(&name)).await?;
            let service = Arc::new(Virtual::default());
            let mut tasks = vec![tokio::spawn(serve(listener, Arc::clone(&service)))];
            // An address outside of the range that the hub answers for is nobody's.
            if let Some(listener) = listen(home, address).await {
                tasks.push(tokio::spawn(serve(listener, Arc::clone(&service))));
            }
            open.insert(name.clone(), Open { service, port: own.port(), address, tasks });
        }
        if let Some(one) = open.get(&name) {
            one.service.set(pods);
        }
    }
    Ok(())
}

/// A listener at a Service's own address, where there can be one.
async fn listen(home: Option<&Home>, address: Option<SocketAddr>) -> Option<TcpListener> {
    let SocketAddr::V4(address) = address? else { return None };
    home?.namespace.listen(*address.ip(), address.port()).await.ok()
}

/// The address of a Service by its full name.
fn addresses(services: &Services, name: &str) -> Vec<IpAddr> {
    let Some((service, namespace)) = name.strip_suffix(".svc.cluster.local").and_then(|name| name.split_once('.'))
    else {
        return Vec::new();
    };
    let own = format!("{namespace}/{service}:");
    let found = services.iter().find(|(name, service)| name.starts_with(&own) && service.address.is_some());
    found.and_then(|(_, service)| Some(service.address?.ip())).into_iter().collect()
}

async fn serve(listener: TcpListener, service: Arc<Virtual>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(carry(client, Arc::clone(&service)))),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// Joins a connection to the first pod in turn that takes one.
async fn carry(mut client: TcpStream, service: Arc<Virtual>) {
    for pod in service.in_turn() {
        if let Ok(mut server) = dial::out(pod).await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
