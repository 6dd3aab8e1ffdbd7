//! A control plane on loopback, and the way to wait for those it serves.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use meshroute::adapter::xds::{Ads, Fleet, Kind};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::server::Envoy;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running control plane; it ends when this is dropped.
pub struct Plane {
    pub fleet: Arc<Fleet>,
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Plane {
    /// Serves a fleet.
    pub fn start(fleet: Fleet) -> Self {
        let fleet = Arc::new(fleet);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("the loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let served = axum::Router::new().fallback_service(Ads::new(Arc::clone(&fleet)));
        runtime.spawn(async move { axum::serve(listener, served).await });
        Plane { fleet, address, _runtime: runtime }
    }

    /// Waits until so many Envoys have accepted everything.
    pub fn settle(&self, envoys: usize) {
        self.wait(|| {
            let connected = self.fleet.connected();
            connected.len() == envoys
                && connected.iter().all(|one| one.settled && one.word(Kind::Listener).accepted.is_some())
        });
    }

    /// Waits until something holds.
    pub fn wait(&self, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < PATIENCE, "it did not come to that: {:#?}", self.fleet.connected());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A socket for an Envoy to listen on. It is below those that outgoing connections are given, which could take it meanwhile.
pub fn free_port() -> SocketAddr {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let ports = (0..10_000).map(|_| {
        let port = 20_000 + (std::process::id() + ASKED.fetch_add(1, Ordering::Relaxed)) % 10_000;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16))
    });
    let mut free = ports.filter(|address| std::net::TcpListener::bind(address).is_ok());
    free.next().expect("the loopback has a free port")
}

/// Waits until an Envoy's workers have the listeners that it has accepted: it counts what they have taken over.
pub fn listens(envoy: &Envoy) {
    let begin = Instant::now();
    let count = |name: &str| -> u64 {
        let told = envoy.admin("GET", &format!("/stats?filter=^listener_manager\\.{name}$"));
        told.trim().rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    loop {
        let offered = count("listener_added") + count("listener_modified");
        if count("total_listeners_warming") == 0 && count("listener_create_success") >= offered {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "Envoy's listeners did not come up");
        std::thread::sleep(Duration::from_millis(2));
    }
}
