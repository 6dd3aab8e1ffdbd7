//! What a cluster does for callers outside the mesh: each Service's port, balanced over its ready pods.
//!
//! Knows connections, not requests: no rule has a say here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::args::Args;
use crate::wire::{self, Part, Services};
use crate::{Failure, dial, session};

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
    task: JoinHandle<()>,
}

/// Runs it.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let discovery = session::parent();
    dial::settle(args)?;
    let (sender, mut wanted) = watch::channel(Services::new());
    let subscription = session::subscribe(Part::KubeProxy, 0, discovery, move |_, services: Services| {
        match services.values().flatten().find(|socket| !dial::reaches(**socket)) {
            Some(socket) => Err(format!("{socket} is not on loopback")),
            None => {
                sender.send_replace(services);
                Ok(())
            }
        }
    });
    tokio::spawn(subscription);
    let mut open = BTreeMap::new();
    while wanted.changed().await.is_ok() {
        let services = wanted.borrow_and_update().clone();
        arrange(&mut open, services, args).await?;
        session::report(open.iter().map(|(name, one): (&String, &Open)| (name.clone(), one.port)).collect())?;
    }
    Ok(())
}

/// Opens what is new, closes what is gone, and tells the rest who is ready.
async fn arrange(open: &mut BTreeMap<String, Open>, services: Services, args: &Args) -> std::io::Result<()> {
    open.retain(|name, one| {
        let kept = services.contains_key(name);
        if !kept {
            one.task.abort();
        }
        kept
    });
    for (name, pods) in services {
        if !open.contains_key(&name) {
            let (listener, address) = wire::bind(args.port_of(&name)).await?;
            let service = Arc::new(Virtual::default());
            let task = tokio::spawn(serve(listener, Arc::clone(&service)));
            open.insert(name.clone(), Open { service, port: address.port(), task });
        }
        if let Some(one) = open.get(&name) {
            one.service.set(pods);
        }
    }
    Ok(())
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
