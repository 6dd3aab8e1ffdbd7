//! The listeners and route tables of a gateway.
//!
//! Source: istio `pilot/pkg/networking/core/gateway.go`; reference sections 3.3 and 11.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::Clusters;
use super::lower::{self, LoweredRule, Place};
use super::precedence::{fold, join, note_conflict};
use super::registry::Protocol;
use super::virtual_service::Root;
use super::{Findings, Mesh, Precedence, Viewpoint};
use crate::diagnostic::Diagnostic;
use crate::kubernetes::has_labels;
use crate::model::gateway::{Server, ServerTlsMode};
use crate::model::{Gateway, Object};
use crate::name::HostPattern;
use crate::plan::{Chain, HttpTable, Listener, Target, Transport, Unclaimed, VirtualHost};
use crate::resources::Resources;

/// What the listeners of one gateway are made from.
pub(super) struct Inbound<'a> {
    pub(super) viewpoint: &'a Viewpoint,
    pub(super) mesh: &'a Mesh,
    /// The VirtualServices that it sees, in the order in which they count.
    pub(super) roots: Vec<Root>,
    pub(super) resources: &'a Resources,
}

/// One server of one Gateway resource.
struct Bound<'a> {
    gateway: String,
    namespace: &'a str,
    server: &'a Server,
    port: u16,
}

impl Inbound<'_> {
    pub(super) fn listeners(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Listener> {
        let mut by_port: BTreeMap<u16, Vec<Bound<'_>>> = BTreeMap::new();
        for bound in self.servers(findings) {
            by_port.entry(bound.port).or_default().push(bound);
        }
        let listener = |(port, servers): (u16, Vec<Bound<'_>>)| self.listener(port, &servers, clusters, findings);
        by_port.into_iter().map(listener).collect()
    }

    /// The servers of the Gateways that select this workload, oldest first.
    fn servers(&self, findings: &mut Findings) -> Vec<Bound<'_>> {
        let mut gateways: Vec<(&Gateway, u64)> = self
            .resources
            .iter()
            .filter_map(|resource| match resource.object {
                Object::Gateway(gateway) => Some((gateway, resource.applied)),
                _ => None,
            })
            .filter(|(gateway, _)| has_labels(&self.viewpoint.labels, &gateway.spec.selector))
            .collect();
        gateways.sort_by_key(|(gateway, applied)| match self.mesh.precedence {
            Precedence::Istio => (gateway.metadata.creation_timestamp, 0),
            Precedence::LastApplied => (None, *applied),
        });
        let mut servers = Vec::new();
        for (gateway, _) in gateways {
            for (at, server) in gateway.spec.servers.iter().enumerate() {
                let number = server.port.as_ref().map_or(0, |port| port.number);
                let Some(port) = u16::try_from(number).ok().filter(|port| *port > 0) else {
                    let reference = crate::ResourceRef::new("Gateway", &gateway.metadata.namespace, &gateway.metadata.name);
                    let finding = Diagnostic::error("bad-port", format!("`{number}` is no port"));
                    findings.push(finding.at(&reference, format!("spec.servers[{at}].port.number")));
                    continue;
                };
                let name = format!("{}/{}", gateway.metadata.namespace, gateway.metadata.name);
                servers.push(Bound { gateway: name, namespace: &gateway.metadata.namespace, server, port });
            }
        }
        servers
    }

    /// The plain servers of a port share one table; each one that ends TLS has its own.
    fn listener(&self, port: u16, servers: &[Bound<'_>], clusters: &mut Clusters<'_>, findings: &mut Findings) -> Listener {
        let mut listener = Listener::new(port, Vec::new());
        let (encrypted, plain): (Vec<&Bound<'_>>, Vec<_>) = servers.iter().partition(|bound| bound.ends_tls());
        let plain: Vec<_> = plain.into_iter().filter(|bound| bound.protocol() == Protocol::Http).collect();
        if !plain.is_empty() {
            let table = self.table(&format!("http.{port}"), &plain, false, clusters, findings);
            listener.chains.push(Chain::new(Target::Http(Arc::new(table))));
        }
        for bound in encrypted {
            let port_name = bound.server.port.as_ref().map(|port| port.name.as_str()).unwrap_or_default();
            let name = format!("https.{port}.{port_name}.{}", bound.gateway);
            let table = self.table(&name, &[bound], true, clusters, findings);
            let mut chain = Chain::new(Target::Http(Arc::new(table)));
            chain.transport = Transport::Terminated;
            chain.server_names = bound.all_hosts().filter(|host| host.as_str() != "*").collect();
            listener.chains.push(chain);
        }
        listener
    }

    fn table(
        &self,
        name: &str,
        servers: &[&Bound<'_>],
        encrypted: bool,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> HttpTable {
        let mut hosts: Vec<Claimed<'_>> = Vec::new();
        for bound in servers {
            let place = Place { port: bound.port, gateway: &bound.gateway, encrypted, viewpoint: self.viewpoint };
            for root in self.roots.iter().filter(|root| root.gateways.contains(&bound.gateway)) {
                let rules: Arc<[LoweredRule]> = lower::rules(root, &place, clusters, findings).into();
                let shared = bound.hosts_for(&root.resource.namespace);
                for (host, written) in intersection(&shared, &root.hosts) {
                    claimed(&mut hosts, host).layers.push(Layer { root, written, rules: rules.clone() });
                }
            }
            if bound.server.tls.as_ref().is_some_and(|tls| tls.https_redirect) {
                for host in bound.all_hosts() {
                    claimed(&mut hosts, host).require_tls = true;
                }
            }
        }
        let mut table = HttpTable::new(name, Unclaimed::NotFound);
        table.hosts = hosts.into_iter().map(|claimed| Arc::new(self.virtual_host(claimed, servers[0].port, findings))).collect();
        table
    }

    fn virtual_host(&self, claimed: Claimed<'_>, port: u16, findings: &mut Findings) -> VirtualHost {
        let Claimed { host, mut layers, require_tls } = claimed;
        let mut virtual_host = VirtualHost::new(format!("{host}:{port}"), vec![host.clone()]);
        virtual_host.require_tls = require_tls;
        let routes = match self.mesh.precedence {
            Precedence::Istio => join(&layers.iter().map(|layer| &*layer.rules).collect::<Vec<_>>()),
            Precedence::LastApplied => {
                // An exact host and a wildcard never merge: the more specific claim has the host.
                let best = layers.iter().map(|layer| layer.written).min_by(|a, b| a.by_specificity(b)).cloned();
                layers.retain(|layer| Some(layer.written) == best.as_ref());
                layers.sort_by_key(|layer| layer.root.applied);
                fold(&layers.iter().map(|layer| &*layer.rules).collect::<Vec<_>>())
            }
        };
        virtual_host.routes = routes.into();
        let claimants: Vec<&Root> = layers.iter().map(|layer| layer.root).collect();
        note_conflict(&host, &claimants, true, self.mesh.precedence, findings);
        virtual_host
    }
}

/// A host of a table, with all that was written for it.
struct Claimed<'a> {
    host: HostPattern,
    layers: Vec<Layer<'a>>,
    require_tls: bool,
}

/// What one VirtualService says of a host.
struct Layer<'a> {
    root: &'a Root,
    /// The host as the VirtualService has it.
    written: &'a HostPattern,
    rules: Arc<[LoweredRule]>,
}

fn claimed<'v, 'a>(hosts: &'v mut Vec<Claimed<'a>>, host: HostPattern) -> &'v mut Claimed<'a> {
    let at = hosts.iter().position(|known| known.host == host).unwrap_or_else(|| {
        hosts.push(Claimed { host, layers: Vec::new(), require_tls: false });
        hosts.len() - 1
    });
    &mut hosts[at]
}

impl Bound<'_> {
    fn protocol(&self) -> Protocol {
        Protocol::parse(self.server.port.as_ref().map(|port| port.protocol.as_str()).unwrap_or_default())
    }

    /// Whether connections are decrypted here and carry HTTP.
    fn ends_tls(&self) -> bool {
        let https = self.server.port.as_ref().is_some_and(|port| port.protocol.eq_ignore_ascii_case("https"));
        let mode = self.server.tls.as_ref().map(|tls| tls.mode);
        https && !matches!(mode, None | Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough))
    }

    /// The server's hosts that a namespace's VirtualServices may bind to: `host`, `*/host`, `ns/host`, `./host`.
    fn hosts_for(&self, namespace: &str) -> Vec<HostPattern> {
        let host = |written: &String| match written.split_once('/') {
            None => HostPattern::parse(written).ok(),
            Some((from, host)) => {
                let from = if from == "." { self.namespace } else { from };
                (from == "*" || from == namespace).then(|| HostPattern::parse(host).ok())?
            }
        };
        self.server.hosts.iter().filter_map(host).map(|host| host.to_lowercase()).collect()
    }

    /// The server's hosts, whoever may bind to them.
    fn all_hosts(&self) -> impl Iterator<Item = HostPattern> {
        let host = |written: &String| {
            let host = written.split_once('/').map_or(written.as_str(), |(_, host)| host);
            HostPattern::parse(host).ok().map(|host| host.to_lowercase())
        };
        self.server.hosts.iter().filter_map(host)
    }
}

/// Of each pair that overlaps, the one that the other covers, with the VirtualService's own text.
fn intersection<'r>(server: &[HostPattern], own: &'r [HostPattern]) -> Vec<(HostPattern, &'r HostPattern)> {
    let mut shared: Vec<(HostPattern, &HostPattern)> = Vec::new();
    for theirs in server {
        for host in own {
            let narrower = if host.is_within(theirs) {
                host
            } else if theirs.is_within(host) {
                theirs
            } else {
                continue;
            };
            if !shared.iter().any(|(known, _)| known == narrower) {
                shared.push((narrower.clone(), host));
            }
        }
    }
    shared
}
