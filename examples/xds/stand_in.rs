//! Stand-ins for the pods of Deployments: small servers on loopback that say the name of the pod they stand for.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::Router;
use envoy_types::pb::envoy::config::core::v3::{address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::endpoint::v3::{LbEndpoint, lb_endpoint::HostIdentifier};
use meshroute::adapter::xds::Translation;
use meshroute::{Resources, kubernetes};

#[derive(Default)]
pub struct StandIns(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The names of pods, by their addresses.
    pods: BTreeMap<String, String>,
    /// The ports of those that have been started, by what they stand for.
    started: BTreeMap<(String, u32), u16>,
}

impl StandIns {
    /// Learns which pods there are.
    pub fn play(&self, resources: &Resources) {
        let named = |pod: meshroute::model::Pod| Some((kubernetes::pod_ip(&pod)?.to_string(), pod.metadata.name));
        self.known().pods = kubernetes::pods(resources).into_iter().filter_map(named).collect();
    }

    /// Puts stand-ins in the places of the pods.
    pub fn put_into(&self, translation: &mut Translation) {
        let groups = translation.endpoints.iter_mut().flat_map(|assignment| &mut assignment.endpoints);
        groups.flat_map(|group| &mut group.lb_endpoints).for_each(|endpoint| self.put_for(endpoint));
    }

    fn put_for(&self, endpoint: &mut LbEndpoint) {
        let Some(HostIdentifier::Endpoint(host)) = &mut endpoint.host_identifier else { return };
        let Some(address::Address::SocketAddress(socket)) = host.address.as_mut().and_then(|a| a.address.as_mut())
        else {
            return;
        };
        let Some(PortSpecifier::PortValue(port)) = &mut socket.port_specifier else { return };
        if let Some(started) = self.start(&socket.address, *port) {
            socket.address = "127.0.0.1".into();
            *port = started.into();
        }
    }

    /// The port of the stand-in for a pod; `None` where it is no pod's address.
    fn start(&self, address: &str, port: u32) -> Option<u16> {
        let mut known = self.known();
        let name = known.pods.get(address)?.clone();
        let key = (address.to_string(), port);
        if let Some(started) = known.started.get(&key) {
            return Some(*started);
        }
        let started = serve(name).ok()?;
        known.started.insert(key, started);
        Some(started)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(name: String) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let says = Router::new().fallback(async move || format!("Welcome to {name}!\n"));
    tokio::spawn(async move { axum::serve(listener, says).await });
    Ok(port)
}
