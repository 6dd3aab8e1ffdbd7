//! The listeners and route tables of a gateway, and single virtual hosts of these, made again.
//!
//! Source: istio `pilot/pkg/networking/core/gateway.go`; reference sections 3.3 and 11.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Clusters;
use super::lower::{self, LoweredRule, Place};
use super::precedence::{fold, join, note_conflict};
use super::registry::{Protocol, Service};
use super::view::HostChange;
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
    pub(super) targets: &'a Targets,
}

/// The ports of a gateway's pod that the ports of its own Services lead to.
pub(super) type Targets = BTreeMap<u16, u16>;

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
        let by_spot = self.by_spot(findings);
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

    /// The servers by where they listen.
    fn by_spot(&self, findings: &mut Findings) -> BTreeMap<Spot, Vec<Bound<'_>>> {
        let mut by_spot: BTreeMap<Spot, Vec<Bound<'_>>> = BTreeMap::new();
        for bound in self.servers(findings) {
            by_spot.entry(bound.spot).or_default().push(bound);
        }
        by_spot
    }

    /// The servers of the Gateways that select this workload, oldest first.
    fn servers(&self, findings: &mut Findings) -> Vec<Bound<'_>> {
        let mut gateways: Vec<(&Gateway, u64)> = selecting(self.resources, self.viewpoint).collect();
        gateways.sort_by_key(|(gateway, applied)| {
            let metadata = &gateway.metadata;
            match self.mesh.precedence {
                Precedence::Istio => {
                    (metadata.creation_timestamp, 0, metadata.name.as_str(), metadata.namespace.as_str())
                }
                Precedence::LastApplied => (None, *applied, "", ""),
            }
        });
        let mut servers = Vec::new();
        for (gateway, _) in gateways {
            for (at, server) in gateway.spec.servers.iter().enumerate() {
                servers.extend(Bound::new(gateway, at, server, self.targets, findings));
            }
        }
        servers
    }

    /// The first server says whether the port is plain HTTP, TLS or opaque; others are left out. What is passed on has a chain
    /// for each rule.
    fn listener(
        &self,
        (port, address): Spot,
        servers: &[Bound<'_>],
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Listener {
        let mut listener = Listener::new(port, address.into_iter().collect());
        for bound in heard(servers) {
            match bound.kind() {
                ServerKind::Http => {}
                ServerKind::Tcp => listener.chains.extend(self.tcp_chain(bound, clusters, findings)),
                ServerKind::Https | ServerKind::Tls | ServerKind::Passthrough => {
                    listener.chains.extend(self.tls_chains(bound, clusters, findings));
                }
            }
        }
        let plain = tables(servers).into_iter().find(|place| !place.encrypted);
        listener.chains.extend(plain.map(|place| Chain::new(self.target(&place, clusters, findings))));
        listener
    }

    /// The virtual hosts of some hosts, as they are now in each of the tables.
    pub(super) fn hosts(&self, hosts: &BTreeSet<HostPattern>, clusters: &mut Clusters<'_>) -> Vec<HostChange> {
        let (by_spot, mut changes) = (self.by_spot(&mut Findings::new()), Vec::new());
        for place in by_spot.values().flat_map(|servers| tables(servers)) {
            let mut claims = self.claims(&place, clusters, &mut Findings::new());
            for host in hosts {
                let now = claims.take(host).map(|claimed| self.virtual_host(claimed, place.port, &mut Findings::new()));
                let table = Some(place.name.as_str().into());
                changes.push(HostChange { port: place.port, table, host: host.clone(), now, own: Vec::new() });
            }
        }
        changes
    }

    /// The hosts that a VirtualService claims at some server.
    pub(super) fn claimed_by(&self, root: &Root) -> BTreeSet<HostPattern> {
        let servers = self.servers(&mut Findings::new());
        let bound = servers.iter().filter(|bound| root.binds(&bound.gateway));
        let claimed = bound.flat_map(|bound| intersection(&bound.hosts_for(&root.resource.namespace), &root.hosts));
        claimed.map(|(host, _)| host).collect()
    }

    fn tls_chains(&self, bound: &Bound<'_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Chain> {
        let mut chains: Vec<Chain> = match bound.kind() {
            ServerKind::Passthrough => return self.passed_on(bound, clusters, findings),
            ServerKind::Tls => self.tcp_chain(bound, clusters, findings).into_iter().collect(),
            _ => vec![Chain::new(self.target(&TablePlace::encrypted(bound), clusters, findings))],
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

    fn target(&self, place: &TablePlace<'_, '_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Target {
        let hosts = self.claims(place, clusters, findings).hosts.into_iter();
        let mut table = HttpTable::new(&*place.name, Unclaimed::NotFound);
        table.hosts = hosts.map(|claimed| Arc::new(self.virtual_host(claimed, place.port, findings))).collect();
        Target::Http(Arc::new(table))
    }

    /// Who claims which host of a table.
    fn claims(&self, place: &TablePlace<'_, '_>, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Claims<'_> {
        let (mut claims, encrypted) = (Claims::default(), place.encrypted);
        for bound in &place.servers {
            let place = Place { port: bound.port, gateway: &bound.gateway, encrypted, viewpoint: self.viewpoint };
            for root in self.roots.iter().filter(|root| root.binds(&bound.gateway)) {
                let rules: Arc<[LoweredRule<'_>]> = lower::rules(root, &place, clusters, findings).into();
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
        claims
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
    rules: Arc<[LoweredRule<'a>]>,
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

    /// Hands out what is claimed of a host, which is asked for once.
    fn take(&mut self, host: &HostPattern) -> Option<Claimed<'a>> {
        let at = self.places.remove(host)?;
        let empty = Claimed { host: host.clone(), layers: Vec::new(), require_tls: false };
        self.hosts.get_mut(at).map(|claimed| std::mem::replace(claimed, empty))
    }
}

/// A route table: its name, its port and the servers that share it.
struct TablePlace<'b, 'a> {
    name: String,
    /// The first server's.
    port: u16,
    encrypted: bool,
    servers: Vec<&'b Bound<'a>>,
}

impl<'b, 'a> TablePlace<'b, 'a> {
    /// A server that ends TLS has a table of its own.
    fn encrypted(bound: &'b Bound<'a>) -> Self {
        let port_name = bound.server.port.as_ref().map(|port| port.name.as_str()).unwrap_or_default();
        let name = format!("https.{}.{port_name}.{}", bound.port, bound.gateway);
        TablePlace { name, port: bound.port, encrypted: true, servers: vec![bound] }
    }
}

/// The tables of one place: the plain HTTP servers share one.
fn tables<'b, 'a>(servers: &'b [Bound<'a>]) -> Vec<TablePlace<'b, 'a>> {
    let (plain, others): (Vec<_>, Vec<_>) = heard(servers).partition(|bound| bound.kind() == ServerKind::Http);
    let encrypted = others.into_iter().filter(|bound| bound.kind() == ServerKind::Https).map(TablePlace::encrypted);
    let mut tables: Vec<TablePlace<'b, 'a>> = encrypted.collect();
    if let Some(first) = plain.first() {
        let bind = first.spot.1.map(|address| format!(".{address}")).unwrap_or_default();
        let name = format!("http.{}{bind}", first.port);
        tables.push(TablePlace { name, port: first.port, encrypted: false, servers: plain });
    }
    tables
}

/// The servers of one place that count: those of the first one's kind; of opaque ones only the first, whether or not anybody
/// binds to it; of those told apart by their hosts none that wants what one before it has.
fn heard<'b, 'a>(servers: &'b [Bound<'a>]) -> impl Iterator<Item = &'b Bound<'a>> {
    let family = servers.first().map(|bound| bound.kind().family());
    let mut taken: HashSet<HostPattern> = HashSet::new();
    let mut opaque = false;
    servers.iter().filter(move |bound| Some(bound.kind().family()) == family).filter(move |bound| match bound.kind() {
        ServerKind::Http => true,
        ServerKind::Tcp => !std::mem::replace(&mut opaque, true),
        ServerKind::Https | ServerKind::Tls | ServerKind::Passthrough => {
            let free = !bound.all_hosts().any(|host| taken.contains(&host));
            taken.extend(bound.all_hosts().filter(|_| free));
            free
        }
    })
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

/// The Gateways that select a workload, each with its place in the order of application.
fn selecting<'r>(resources: &'r Resources, viewpoint: &'r Viewpoint) -> impl Iterator<Item = (&'r Gateway, u64)> {
    let gateways = resources.of_kind("Gateway").filter_map(|resource| match resource.object {
        Object::Gateway(gateway) => Some((gateway, resource.applied)),
        _ => None,
    });
    gateways.filter(|(gateway, _)| has_labels(&viewpoint.labels, &gateway.spec.selector))
}

/// Where a gateway's own Services lead to, by its labels and a pod of its own.
pub(super) fn targets(resources: &Resources, viewpoint: &Viewpoint) -> Targets {
    let own = &viewpoint.labels;
    let pods = kubernetes::pods(resources);
    let pod =
        pods.iter().find(|pod| pod.metadata.namespace == viewpoint.namespace && has_labels(&pod.metadata.labels, own));
    let mut targets = Targets::new();
    for resource in resources.of_kind("Service") {
        let Object::Service(service) = resource.object else { continue };
        let spec = &service.spec;
        let selects = service.metadata.namespace == viewpoint.namespace
            && !spec.selector.is_empty()
            && has_labels(own, &spec.selector);
        for port in spec.ports.iter().filter(|_| selects) {
            targets.entry(port.port).or_insert_with(|| kubernetes::target_port(port, pod));
        }
    }
    targets
}

/// Whether some server that a workload may have gives a name to each cluster of the mesh.
pub(super) fn lists_clusters(resources: &Resources, viewpoint: &Viewpoint) -> bool {
    let mode = |server: &Server| server.tls.as_ref().map(|tls| tls.mode);
    let mut servers = selecting(resources, viewpoint).flat_map(|(gateway, _)| &gateway.spec.servers);
    servers.any(|server| mode(server) == Some(ServerTlsMode::AutoPassthrough))
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
