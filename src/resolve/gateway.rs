//! The listeners and route tables of a gateway.
//!
//! Source: istio `pilot/pkg/networking/core/gateway.go`; reference sections 3.3 and 11.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Clusters;
use super::lower::{self, LoweredRule, Place};
use super::precedence::{fold, join, note_conflict};
use super::registry::{Protocol, Service};
use super::virtual_service::Root;
use super::{Findings, Mesh, Precedence, Viewpoint, l4};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::kubernetes::{self, has_labels};
use crate::model::gateway::{Server, ServerTlsMode};
use crate::model::virtual_service::{L4MatchAttributes, TcpRoute, TlsMatchAttributes, TlsRoute};
use crate::model::{Gateway, Object};
use crate::name::HostPattern;
use crate::plan::{Chain, Destination, HttpTable, Listener, Target, Transport, Unclaimed, VirtualHost};
use crate::resources::Resources;

/// What the listeners of one gateway are made from.
pub(super) struct Inbound<'a> {
    pub(super) viewpoint: &'a Viewpoint,
    pub(super) mesh: &'a Mesh,
    /// The VirtualServices that it sees, in the order in which they count.
    pub(super) roots: Vec<&'a Root>,
    pub(super) resources: &'a Resources,
}

/// One server of one Gateway resource.
struct Bound<'a> {
    gateway: String,
    namespace: &'a str,
    server: &'a Server,
    /// The server's port: what `match.port` speaks of.
    port: u16,
    spot: Spot,
}

/// Where a server listens: the port, and the address if it is bound to one.
type Spot = (u16, Option<IpAddr>);

impl Inbound<'_> {
    pub(super) fn listeners(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Listener> {
        let mut by_spot: BTreeMap<Spot, Vec<Bound<'_>>> = BTreeMap::new();
        for bound in self.servers(findings) {
            by_spot.entry(bound.spot).or_default().push(bound);
        }
        let mut listeners: BTreeMap<Spot, Listener> = BTreeMap::new();
        for (&spot, servers) in &by_spot {
            listeners.insert(spot, self.listener(spot, servers, clusters, findings));
        }
        // Who asks for the Service's port means the pod's that it leads to.
        for bound in by_spot.values().flatten() {
            let asked = (bound.port, bound.spot.1);
            if let (false, Some(there)) = (listeners.contains_key(&asked), listeners.get(&bound.spot)) {
                listeners.insert(asked, Listener { port: bound.port, ..there.clone() });
            }
        }
        listeners.into_values().collect()
    }

    /// The ports of the pod that the ports of the gateway's own Services lead to.
    fn targets(&self) -> BTreeMap<u16, u16> {
        let own = &self.viewpoint.labels;
        let pods = kubernetes::pods(self.resources);
        let pod = pods
            .iter()
            .find(|pod| pod.metadata.namespace == self.viewpoint.namespace && has_labels(&pod.metadata.labels, own));
        let mut targets = BTreeMap::new();
        for resource in self.resources.iter() {
            let Object::Service(service) = resource.object else { continue };
            let spec = &service.spec;
            let selects = service.metadata.namespace == self.viewpoint.namespace
                && !spec.selector.is_empty()
                && has_labels(own, &spec.selector);
            for port in spec.ports.iter().filter(|_| selects) {
                targets.entry(port.port).or_insert_with(|| kubernetes::target_port(port, pod));
            }
        }
        targets
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
        gateways.sort_by_key(|(gateway, applied)| {
            let metadata = &gateway.metadata;
            match self.mesh.precedence {
                Precedence::Istio => {
                    (metadata.creation_timestamp, 0, metadata.name.as_str(), metadata.namespace.as_str())
                }
                Precedence::LastApplied => (None, *applied, "", ""),
            }
        });
        let targets = self.targets();
        let mut servers = Vec::new();
        for (gateway, _) in gateways {
            for (at, server) in gateway.spec.servers.iter().enumerate() {
                servers.extend(Bound::new(gateway, at, server, &targets, findings));
            }
        }
        servers
    }

    /// The plain HTTP servers of a place share one table; each one that ends TLS has its own; what is passed on has a
    /// chain for each rule. The first server says whether the port is plain HTTP, TLS or opaque; others are left out.
    fn listener(
        &self,
        (port, address): Spot,
        servers: &[Bound<'_>],
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Listener {
        let mut listener = Listener::new(port, address.into_iter().collect());
        let kind = servers.first().map(Bound::kind);
        let alike = |bound: &&Bound<'_>| Some(bound.kind().family()) == kind.map(ServerKind::family);
        let mut taken: HashSet<HostPattern> = HashSet::new();
        let mut plain = Vec::new();
        for bound in servers.iter().filter(alike) {
            match bound.kind() {
                ServerKind::Http => plain.push(bound),
                ServerKind::Tcp => {
                    if listener.chains.is_empty() {
                        listener.chains.extend(self.tcp_chain(bound, clusters, findings));
                        // The first server has the port, whether or not anybody binds to it.
                        break;
                    }
                }
                ServerKind::Https | ServerKind::Tls | ServerKind::Passthrough => {
                    let hosts: Vec<HostPattern> = bound.all_hosts().collect();
                    if hosts.iter().any(|host| taken.contains(host)) {
                        continue;
                    }
                    taken.extend(hosts);
                    listener.chains.extend(self.tls_chains(bound, clusters, findings));
                }
            }
        }
        if !plain.is_empty() {
            let bind = address.map(|address| format!(".{address}")).unwrap_or_default();
            let table = self.table(&format!("http.{}{bind}", plain[0].port), &plain, false, clusters, findings);
            listener.chains.push(Chain::new(Target::Http(Arc::new(table))));
        }
        listener
    }

    fn tls_chains(&self, bound: &Bound<'_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Chain> {
        let mut chains: Vec<Chain> = match bound.kind() {
            ServerKind::Passthrough => return self.passed_on(bound, clusters, findings),
            ServerKind::Tls => self.tcp_chain(bound, clusters, findings).into_iter().collect(),
            _ => {
                let port_name = bound.server.port.as_ref().map(|port| port.name.as_str()).unwrap_or_default();
                let name = format!("https.{}.{port_name}.{}", bound.port, bound.gateway);
                let table = self.table(&name, &[bound], true, clusters, findings);
                vec![Chain::new(Target::Http(Arc::new(table)))]
            }
        };
        for chain in &mut chains {
            chain.transport = Transport::Terminated;
            let hosts: Vec<HostPattern> = bound.all_hosts().collect();
            chain.server_names = if hosts.iter().any(|host| host.as_str() == "*") { Vec::new() } else { hosts };
        }
        chains
    }

    /// The VirtualServices that bind to a server by one of their hosts.
    fn bound_roots(&self, bound: &Bound<'_>) -> impl Iterator<Item = &Root> {
        let roots = self.roots.iter().copied().filter(|root| root.binds(&bound.gateway));
        roots.filter(|root| !intersection(&bound.hosts_for(&root.resource.namespace), &root.hosts).is_empty())
    }

    /// The first tcp rule that applies has all connections of the server.
    fn tcp_chain(&self, bound: &Bound<'_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Option<Chain> {
        let applies = |block: &L4MatchAttributes| {
            (block.port == 0 || block.port == u32::from(bound.port))
                && (block.gateways.is_empty() || block.gateways.contains(&bound.gateway))
        };
        // Ranges are not looked at here, so that every rule that applies takes everything.
        let weigh = |rule: &TcpRoute| {
            let fits = rule.r#match.is_empty() || rule.r#match.iter().flatten().any(applies);
            fits.then(|| l4::Weighed { sameness: l4::sameness(&rule.r#match), catch_all: true })
        };
        let mut fitting =
            l4::ordered(self.bound_roots(bound), self.mesh.precedence, |root| &root.tcp, weigh).into_iter();
        let target = |(root, at, rule): (&Root, usize, &TcpRoute)| {
            l4::target(root, &format!("spec.tcp[{at}]"), at, &rule.route, bound.port, clusters, findings)
        };
        fitting.find_map(target).map(Chain::new)
    }

    /// A chain for each tls match, by its server names; `AUTO_PASSTHROUGH` has one for each cluster of the mesh.
    fn passed_on(&self, bound: &Bound<'_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Chain> {
        if bound.server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough) {
            return auto_passthrough(bound, clusters);
        }
        let (mut chains, mut taken) = (Vec::new(), HashSet::new());
        let applies = |block: &&TlsMatchAttributes| {
            (block.port == 0 || block.port == u32::from(bound.port))
                && (block.gateways.is_empty() || block.gateways.contains(&bound.gateway))
        };
        let weigh = |rule: &TlsRoute| {
            let fits = rule.r#match.iter().flatten().any(|block| applies(&block));
            fits.then(|| l4::Weighed { sameness: l4::sameness(&rule.r#match), catch_all: false })
        };
        for (root, at, rule) in l4::ordered(self.bound_roots(bound), self.mesh.precedence, |root| &root.tls, weigh) {
            for block in rule.r#match.iter().flatten().filter(applies) {
                let names = l4::server_names(&block.sni_hosts);
                if names.iter().any(|name| taken.contains(name)) {
                    continue;
                }
                let field = format!("spec.tls[{at}]");
                let Some(target) = l4::target(root, &field, at, &rule.route, bound.port, clusters, findings) else {
                    continue;
                };
                let mut chain = Chain::new(target);
                chain.transport = Transport::Tls;
                chain.server_names = names;
                taken.extend(chain.server_names.iter().cloned());
                chains.push(chain);
            }
        }
        chains
    }

    fn table(
        &self,
        name: &str,
        servers: &[&Bound<'_>],
        encrypted: bool,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> HttpTable {
        let mut claims = Claims::default();
        for bound in servers {
            let place = Place { port: bound.port, gateway: &bound.gateway, encrypted, viewpoint: self.viewpoint };
            for root in self.roots.iter().filter(|root| root.binds(&bound.gateway)) {
                let rules: Arc<[LoweredRule]> = lower::rules(root, &place, clusters, findings).into();
                if rules.is_empty() {
                    // Without a rule for this port it claims nothing (istio `gateway.go`, "omitting routes").
                    continue;
                }
                let shared = bound.hosts_for(&root.resource.namespace);
                for (host, written) in intersection(&shared, &root.hosts) {
                    let host = claims.host(host);
                    host.layers.push(Layer { root, written, rules: rules.clone() });
                    host.require_tls |= bound.redirects();
                }
            }
            // Of hosts that nobody binds to, Istio redirects only those that are written without a namespace.
            for written in bound.server.hosts.iter().filter(|host| bound.redirects() && !host.contains('/')) {
                if let Ok(host) = HostPattern::parse(written) {
                    claims.host(host.to_lowercase()).require_tls = true;
                }
            }
        }
        let mut table = HttpTable::new(name, Unclaimed::NotFound);
        let hosts = claims.hosts.into_iter();
        table.hosts = hosts.map(|claimed| Arc::new(self.virtual_host(claimed, servers[0].port, findings))).collect();
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

/// The hosts of a table, in the order in which they are claimed.
#[derive(Default)]
struct Claims<'a> {
    hosts: Vec<Claimed<'a>>,
    places: HashMap<HostPattern, usize>,
}

impl<'a> Claims<'a> {
    fn host(&mut self, host: HostPattern) -> &mut Claimed<'a> {
        let at = *self.places.entry(host.clone()).or_insert(self.hosts.len());
        if at == self.hosts.len() {
            self.hosts.push(Claimed { host, layers: Vec::new(), require_tls: false });
        }
        &mut self.hosts[at]
    }
}

impl<'a> Bound<'a> {
    /// A server where it listens; `None`, with a finding, where it cannot.
    fn new(
        gateway: &'a Gateway,
        at: usize,
        server: &'a Server,
        targets: &BTreeMap<u16, u16>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let (namespace, name) = (gateway.metadata.namespace.as_str(), gateway.metadata.name.as_str());
        let mut tell = |field: &str, finding: Diagnostic| {
            let reference = ResourceRef::new("Gateway", namespace, name);
            findings.push(finding.at(&reference, format!("spec.servers[{at}].{field}")));
        };
        let Some(address) = bind(&server.bind) else {
            let message = format!("`{}` is no address, so that no request comes in here", server.bind);
            tell("bind", Diagnostic::warning("bad-bind", message));
            return None;
        };
        let number = server.port.as_ref().map_or(0, |port| port.number);
        let Some(port) = u16::try_from(number).ok().filter(|port| *port > 0) else {
            tell("port.number", Diagnostic::error("bad-port", format!("`{number}` is no port")));
            return None;
        };
        let spot = (targets.get(&port).copied().unwrap_or(port), address);
        Some(Bound { gateway: format!("{namespace}/{name}"), namespace, server, port, spot })
    }
}

impl Bound<'_> {
    fn protocol(&self) -> Protocol {
        Protocol::parse(self.server.port.as_ref().map(|port| port.protocol.as_str()).unwrap_or_default())
    }

    fn redirects(&self) -> bool {
        self.server.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }

    /// What the server does with a connection.
    fn kind(&self) -> ServerKind {
        let mode = self.server.tls.as_ref().map(|tls| tls.mode);
        let passes_on = matches!(mode, Some(ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough));
        let https = self.server.port.as_ref().is_some_and(|port| port.protocol.eq_ignore_ascii_case("https"));
        match (self.protocol(), mode) {
            (Protocol::Http, _) => ServerKind::Http,
            (Protocol::Tls, _) if passes_on => ServerKind::Passthrough,
            (Protocol::Tls, None) => ServerKind::Passthrough,
            (Protocol::Tls, Some(_)) if https => ServerKind::Https,
            (Protocol::Tls, Some(_)) => ServerKind::Tls,
            (_, Some(_)) if !passes_on => ServerKind::Tls,
            _ => ServerKind::Tcp,
        }
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

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerKind {
    /// Plain HTTP.
    Http,
    /// TLS ends here; inside is HTTP.
    Https,
    /// TLS ends here; inside is anything.
    Tls,
    /// TLS is passed on by its server name.
    Passthrough,
    /// Plain connections of any kind.
    Tcp,
}

impl ServerKind {
    /// Servers of one family may share a port.
    fn family(self) -> u8 {
        match self {
            ServerKind::Http => 0,
            ServerKind::Https | ServerKind::Tls | ServerKind::Passthrough => 1,
            ServerKind::Tcp => 2,
        }
    }
}

/// The address that a server is bound to, `None` within for any; `None` for what is no address.
fn bind(written: &str) -> Option<Option<IpAddr>> {
    if written.is_empty() {
        return Some(None);
    }
    let address: IpAddr = written.parse().ok()?;
    Some(Some(address).filter(|address| !address.is_unspecified()))
}

/// Whether some server that a workload may have gives a name to each cluster of the mesh.
pub(super) fn lists_clusters(resources: &Resources, viewpoint: &Viewpoint) -> bool {
    let mode = |server: &Server| server.tls.as_ref().map(|tls| tls.mode);
    resources.iter().any(|resource| match resource.object {
        Object::Gateway(gateway) => {
            let listed = gateway.spec.servers.iter().any(|server| mode(server) == Some(ServerTlsMode::AutoPassthrough));
            listed && has_labels(&viewpoint.labels, &gateway.spec.selector)
        }
        _ => false,
    })
}

/// A chain for every cluster of the mesh that the server's hosts cover, by the server name that Istio gives it: `outbound_.80_.v1_.host`.
fn auto_passthrough(bound: &Bound<'_>, clusters: &mut Clusters<'_>) -> Vec<Chain> {
    let services: Vec<Arc<Service>> = clusters.registry.visible().cloned().collect();
    let mut chains = Vec::new();
    let covered = |service: &&Arc<Service>| {
        let hosts = bound.hosts_for(&service.namespace);
        service.alias_of.is_none() && !service.external && hosts.iter().any(|host| service.host.is_within(host))
    };
    for service in services.iter().filter(covered) {
        let host = service.host.as_str();
        let subsets: Vec<String> = clusters
            .rule(host)
            .map(|rule| rule.subsets.iter().map(|(subset, _)| subset.name.clone()).collect())
            .unwrap_or_default();
        for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
            for subset in std::iter::once("").chain(subsets.iter().map(String::as_str)) {
                let cluster = clusters.intern(host, subset, port.number);
                let mut chain =
                    Chain::new(Target::Tcp { destinations: vec![Destination::new(cluster, 0)], origin: None });
                chain.transport = Transport::Tls;
                chain.server_names = l4::server_names(&[format!("outbound_.{}_.{subset}_.{host}", port.number)]);
                chains.push(chain);
            }
        }
    }
    chains
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
            match shared.iter_mut().find(|(known, _)| known == narrower) {
                // Named twice, it is claimed by the more specific of the two.
                Some((_, written)) if host.by_specificity(written).is_lt() => *written = host,
                Some(_) => {}
                None => shared.push((narrower.clone(), host)),
            }
        }
    }
    shared
}
