//! The listeners and route tables of a workload's sidecar.
//!
//! Source: istio `pilot/pkg/networking/core/httproute.go` and `listener.go`; reference sections 2.5 to 2.7, 3.2, 12.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Clusters;
use super::lower::{self, LoweredRule, Place};
use super::ports::Ports;
use super::precedence::{alone, fold, note_conflict};
use super::registry::{Kind, Protocol, Registry, Service};
use super::roots::Seen;
use super::scope::Scope;
use super::virtual_service::Root;
use super::{Findings, Mesh, OutboundPolicy, Precedence, Viewpoint, l4};
use crate::name::HostPattern;
use crate::plan::{
    Action, Chain, Condition, Destination, Forward, HttpTable, Listener, Names, Retry, Route, Target, Unclaimed,
    VirtualHost,
};

/// What the listeners of one sidecar are made from.
pub(super) struct Outbound<'a> {
    pub(super) viewpoint: &'a Viewpoint,
    pub(super) mesh: &'a Mesh,
    /// The VirtualServices that bind to `mesh` and are imported.
    pub(super) roots: Seen<'a>,
    pub(super) scope: &'a Scope,
    pub(super) policy: OutboundPolicy,
}

impl Outbound<'_> {
    /// All listeners: for each port with HTTP one for any address, and one for each address that is sniffed or opaque.
    pub(super) fn listeners(
        &self,
        clusters: &mut Clusters<'_>,
        contested: &mut Contested,
        findings: &mut Findings,
    ) -> Vec<Listener> {
        self.note_conflicts(findings);
        let services: Vec<Arc<Service>> = clusters.registry.visible().cloned().collect();
        let mut listeners = Vec::new();
        for port in Ports::of(clusters.registry).iter() {
            let (table, lost) = self.table(port, clusters, findings);
            let by_name: HashMap<&str, &Arc<VirtualHost>> =
                table.hosts.iter().map(|host| (&*host.name, host)).collect();
            contested.insert(port, lost);
            let open = |service: &Arc<Service>| {
                let protocol = service.port(port).map(|port| port.protocol);
                protocol == Some(Protocol::Http) || (protocol == Some(Protocol::Sniffed) && !has_own_listener(service))
            };
            if services.iter().any(open) {
                listeners.push(self.open_listener(port, &table, &services, clusters, findings));
            }
            for service in services.iter().filter(|service| has_own_listener(service)) {
                if service.port(port).is_some_and(|port| port.protocol == Protocol::Sniffed) {
                    let own = by_name.get(format!("{}:{port}", service.host).as_str());
                    listeners.push(self.sniffed_listener(service, port, own.copied(), clusters, findings));
                }
            }
        }
        l4::listeners(self, &services, &mut listeners, clusters, findings);
        listeners
    }

    /// What is HTTP is routed by its host, whoever's address was dialled. The rest belongs to the first sniffed service
    /// without an address, if there is one, and else to nobody.
    fn open_listener(
        &self,
        port: u16,
        table: &Arc<HttpTable>,
        services: &[Arc<Service>],
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Listener {
        let mut listener = Listener::new(port, Vec::new());
        let mut chain = Chain::new(Target::Http(table.clone()));
        chain.http_only = true;
        listener.chains.push(chain);
        let sniffed = |service: &&Arc<Service>| {
            !has_own_listener(service) && service.port(port).is_some_and(|port| port.protocol == Protocol::Sniffed)
        };
        if let Some(service) = services.iter().find(sniffed) {
            listener.chains.extend(l4::chains(self, service, port, clusters, findings));
        }
        listener
    }

    /// A service whose port is not declared: what turns out to be HTTP has a table of its own in which every host is
    /// its own; the rest goes on as it is (reference 2.7).
    fn sniffed_listener(
        &self,
        service: &Arc<Service>,
        port: u16,
        own: Option<&Arc<VirtualHost>>,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Listener {
        let mut sniffed = HttpTable::new(format!("{}:{port}", service.host), self.unclaimed());
        sniffed.hosts.extend(own.map(|own| Arc::new(for_any_name(own))));
        let mut listener = Listener::new(port, l4::bind(service));
        let mut http = Chain::new(Target::Http(Arc::new(sniffed)));
        http.http_only = true;
        listener.chains.push(http);
        listener.chains.extend(l4::chains(self, service, port, clusters, findings));
        listener
    }

    fn unclaimed(&self) -> Unclaimed {
        match self.policy {
            OutboundPolicy::AllowAny => Unclaimed::Passthrough,
            OutboundPolicy::RegistryOnly => Unclaimed::BlockAll,
        }
    }

    /// The route table of a port: its services and, for hosts that are none, its VirtualServices.
    fn table(
        &self,
        port: u16,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> (Arc<HttpTable>, HashSet<String>) {
        let services: Vec<Arc<Service>> = clusters
            .registry
            .visible()
            .filter(|service| service.serves_http(port) && service.alias_of.is_none())
            .cloned()
            .collect();
        let claims = self.claims(port, clusters, findings);
        let mut table = Assembly::new(self, port, &services, clusters.registry);
        for claim in &claims {
            self.place(claim, &services, &mut table);
        }
        for service in &services {
            let own: Arc<[Route]> = Arc::new([default_route(service, port, clusters)]);
            table.add_service(service, &own);
        }
        let mut http = HttpTable::new(port.to_string(), self.unclaimed());
        http.hosts = table.hosts.into_iter().collect();
        (Arc::new(http), table.contested)
    }

    /// The hosts that VirtualServices claim on a port, with their routes, in the order in which they count.
    fn claims<'s>(&'s self, port: u16, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Claim<'s>> {
        let lowered: Vec<(&Root, Vec<LoweredRule<'_>>)> = self
            .roots
            .iter()
            .map(|root| (root, self.lowered(root, port, clusters, findings)))
            .filter(|(_, rules)| !rules.is_empty())
            .collect();
        match self.mesh.precedence {
            Precedence::Istio => lowered
                .iter()
                .flat_map(|(root, rules)| {
                    let routes: Arc<[Route]> = alone(rules).into();
                    root.hosts.iter().map(move |host| Claim { host, root: Some(root), routes: routes.clone() })
                })
                .collect(),
            Precedence::LastApplied => {
                let mut by_host: BTreeMap<&HostPattern, Vec<&[LoweredRule<'_>]>> = BTreeMap::new();
                for (root, rules) in &lowered {
                    for host in root.hosts.iter().collect::<BTreeSet<_>>() {
                        by_host.entry(host).or_default().push(rules);
                    }
                }
                let claim = |(host, layers): (&'s HostPattern, Vec<&[LoweredRule<'_>]>)| Claim {
                    host,
                    root: None,
                    routes: fold(&layers).into(),
                };
                by_host.into_iter().map(claim).collect()
            }
        }
    }

    /// The rules of a VirtualService for a port; none where it has no say there.
    fn lowered<'r>(
        &self,
        root: &'r Root,
        port: u16,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Vec<LoweredRule<'r>> {
        let imported = self.scope.imports_rules(root, Some(port));
        if !imported || (port != 80 && !root.hosts.iter().any(|host| clusters.registry.serves(host, port))) {
            return Vec::new();
        }
        let place = Place { port, gateway: "mesh", encrypted: false, viewpoint: self.viewpoint };
        lower::rules(root, &place, clusters, findings)
    }

    /// Gives a claim's routes to the services that it names, or, where it names none, to the host itself.
    fn place(&self, claim: &Claim<'_>, services: &[Arc<Service>], table: &mut Assembly<'_>) {
        if !claim.host.is_wildcard() {
            match table.registry.serving(claim.host.as_str(), table.port) {
                Some(service) => table.add_service(service, &claim.routes),
                None => table.add_plain(claim.host, &claim.routes),
            }
            return;
        }
        let mut covers_some = false;
        for service in services.iter().filter(|service| claim.host.overlaps(&service.host)) {
            covers_some = true;
            if self
                .roots
                .most_specific(&service.host)
                .is_some_and(|(host, root)| host == claim.host && claim.root.is_none_or(|own| std::ptr::eq(own, root)))
            {
                table.add_service(service, &claim.routes);
            }
        }
        if !covers_some {
            table.add_plain(claim.host, &claim.routes);
        }
    }

    /// One virtual host of the table of a port, for an exact host, as it is now: with all the domains that it wants. The
    /// same as [`Outbound::table`] makes it, where nobody else wants them.
    pub(super) fn host(&self, host: &HostPattern, port: u16, clusters: &mut Clusters<'_>) -> Option<VirtualHost> {
        let registry = clusters.registry;
        let own = self.claim(host, port, clusters);
        let (domains, routes) = match registry.serving(host.as_str(), port) {
            None => (vec![host.as_str().to_string()], own?),
            Some(service) => {
                let covering = || match self.roots.most_specific(host) {
                    Some((pattern, root)) if pattern.is_wildcard() => self.covering(pattern, root, port, clusters),
                    _ => None,
                };
                let routes = own.or_else(covering).unwrap_or_else(|| vec![default_route(service, port, clusters)]);
                (service_domains(service, registry, self), routes)
            }
        };
        let real = |domain: &String| registry.serving(domain, port).is_some();
        let domains = domains.into_iter().map(|domain| domain.to_ascii_lowercase());
        let mut kept: Vec<HostPattern> = Vec::new();
        for domain in domains.filter(|domain| domain == host.as_str() || !real(domain)) {
            let parsed = HostPattern::parse(&domain).ok();
            kept.extend(parsed.filter(|domain| !kept.contains(domain)));
        }
        let mut made = VirtualHost::new(format!("{host}:{port}"), kept);
        made.routes = routes.into();
        Some(made)
    }

    /// The routes of those that name this very host.
    fn claim(&self, host: &HostPattern, port: u16, clusters: &mut Clusters<'_>) -> Option<Vec<Route>> {
        let mut findings = Findings::new();
        let mut layers = self
            .roots
            .naming(host)
            .map(|root| self.lowered(root, port, clusters, &mut findings))
            .filter(|l| !l.is_empty());
        match self.mesh.precedence {
            Precedence::Istio => layers.next().map(|rules| alone(&rules)),
            Precedence::LastApplied => {
                let layers: Vec<_> = layers.collect();
                (!layers.is_empty()).then(|| fold(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>()))
            }
        }
    }

    /// The routes that a wildcard has for the services that nobody names more exactly.
    fn covering(
        &self,
        pattern: &HostPattern,
        first: &Root,
        port: u16,
        clusters: &mut Clusters<'_>,
    ) -> Option<Vec<Route>> {
        match self.mesh.precedence {
            Precedence::LastApplied => self.claim(pattern, port, clusters),
            Precedence::Istio => {
                let rules = self.lowered(first, port, clusters, &mut Findings::new());
                (!rules.is_empty()).then(|| alone(&rules))
            }
        }
    }

    fn note_conflicts(&self, findings: &mut Findings) {
        let by_host: BTreeMap<&HostPattern, Vec<&Root>> =
            self.roots.hosts().map(|host| (host, self.roots.naming(host).collect())).collect();
        for (host, claimants) in by_host {
            note_conflict(host, &claimants, false, self.mesh.precedence, findings);
        }
    }
}

/// A host that somebody's rules are for.
struct Claim<'a> {
    host: &'a HostPattern,
    /// The one VirtualService that it is from, under [`Precedence::Istio`].
    root: Option<&'a Root>,
    routes: Arc<[Route]>,
}

/// For each port, the domains that somebody wanted and did not get.
pub(crate) type Contested = HashMap<u16, HashSet<String>>;

/// The same virtual host for whatever name a request has.
pub(crate) fn for_any_name(own: &VirtualHost) -> VirtualHost {
    let mut host = own.clone();
    host.domains = HostPattern::parse("*").into_iter().collect();
    host
}

/// A table in the making. The first to claim a name or a domain keeps it.
struct Assembly<'a> {
    outbound: &'a Outbound<'a>,
    port: u16,
    /// The real names of all services of the table, which nobody's short form may take.
    real: HashSet<String>,
    registry: Registry<'a>,
    names: HashSet<String>,
    domains: HashSet<String>,
    /// What somebody wanted who was not the first.
    contested: HashSet<String>,
    hosts: Vec<Arc<VirtualHost>>,
}

impl<'a> Assembly<'a> {
    fn new(outbound: &'a Outbound<'a>, port: u16, services: &[Arc<Service>], registry: Registry<'a>) -> Self {
        Assembly {
            outbound,
            port,
            real: services.iter().map(|service| service.host.as_str().to_ascii_lowercase()).collect(),
            registry,
            names: HashSet::new(),
            domains: HashSet::new(),
            contested: HashSet::new(),
            hosts: Vec::new(),
        }
    }

    fn add_service(&mut self, service: &Arc<Service>, routes: &Arc<[Route]>) {
        let domains = service_domains(service, self.registry, self.outbound);
        self.add(&service.host, domains, routes);
    }

    fn add_plain(&mut self, host: &HostPattern, routes: &Arc<[Route]>) {
        self.add(host, vec![host.as_str().to_string()], routes);
    }

    fn add(&mut self, host: &HostPattern, domains: Vec<String>, routes: &Arc<[Route]>) {
        let name = format!("{host}:{}", self.port);
        if !self.names.insert(name.clone()) {
            return;
        }
        let own = host.as_str().to_ascii_lowercase();
        let mut kept: Vec<HostPattern> = Vec::new();
        let wanted = domains.into_iter().map(|domain| domain.to_ascii_lowercase());
        for domain in wanted.filter(|domain| *domain == own || !self.real.contains(domain)).collect::<Vec<_>>() {
            if self.domains.insert(domain.clone()) {
                kept.extend(HostPattern::parse(&domain));
            } else if !kept.iter().any(|own| own.as_str() == domain) {
                self.contested.insert(domain);
            }
        }
        if kept.is_empty() {
            return;
        }
        let mut host = VirtualHost::new(name, kept);
        host.routes = routes.clone();
        self.hosts.push(Arc::new(host));
    }
}

/// The default route of a service: everything to all of it.
fn default_route(service: &Service, port: u16, clusters: &mut Clusters<'_>) -> Route {
    let cluster = clusters.intern(service.host.as_str(), "", port);
    let mut forward = Forward::new(vec![Destination::new(cluster, 0)]);
    forward.retry = Some(Retry::built_in());
    forward.hash = clusters.hash_key(service.host.as_str(), "", port);
    Route::new("default", Condition::default(), Action::Forward(forward))
}

/// Whether a sniffed port of this service is listened to at addresses of its own.
pub(super) fn has_own_listener(service: &Service) -> bool {
    service.alias_of.is_none() && !l4::bind(service).is_empty()
}

/// The names by which a client may call a service (reference 2.5).
fn service_domains(service: &Service, registry: Registry<'_>, outbound: &Outbound<'_>) -> Vec<String> {
    let aliases = registry.aliases(service.host.as_str());
    let hosts = std::iter::once(service.host.as_str()).chain(aliases.map(|alias| alias.host.as_str()));
    let mut domains: Vec<String> = hosts.flat_map(|host| host_domains(host, &outbound.dns_domain())).collect();
    if service.kubernetes && service.kind == Kind::Headless {
        domains.extend(domains.clone().iter().map(|domain| format!("*.{domain}")));
    }
    domains.extend(service.addresses.iter().filter(|address| !address.is_unspecified()).map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    domains
}

impl Outbound<'_> {
    pub(super) fn dns_domain(&self) -> String {
        dns_domain(self.viewpoint, self.mesh)
    }
}

/// The domain that a client's DNS completes short names with.
pub(super) fn dns_domain(viewpoint: &Viewpoint, mesh: &Mesh) -> String {
    if viewpoint.dns_domain.is_empty() {
        return format!("{}.svc.{}", viewpoint.namespace, mesh.domain);
    }
    viewpoint.dns_domain.clone()
}

/// A host's own name, with a trailing dot, and its short forms.
pub(super) fn host_domains(host: &str, dns_domain: &str) -> Vec<String> {
    let mut domains = vec![host.to_string()];
    if host.parse::<IpAddr>().is_err() {
        domains.push(format!("{host}."));
    }
    domains.extend(short_forms(host, dns_domain));
    domains
}

pub(super) fn short_forms(host: &str, dns_domain: &str) -> Vec<String> {
    let Some(at) = dns_domain.find(".svc.") else { return shared_suffix_forms(host, dns_domain) };
    let (namespace, suffix) = dns_domain.split_at(at);
    let Some(inner) = host.strip_suffix(suffix) else { return Vec::new() };
    match inner.split_once('.') {
        Some((name, own)) if own == namespace => vec![name.to_string(), format!("{inner}.svc"), inner.to_string()],
        Some((_, own)) if !own.is_empty() => vec![inner.to_string(), format!("{inner}.svc")],
        _ => Vec::new(),
    }
}

/// Outside Kubernetes: what the host has that the client's domain does not, and that with the first label they share
/// where it has just two labels.
fn shared_suffix_forms(host: &str, dns_domain: &str) -> Vec<String> {
    let host_labels: Vec<&str> = host.split('.').collect();
    let shared = host_labels.iter().rev().zip(dns_domain.rsplit('.')).take_while(|(a, b)| *a == b).count();
    if shared == 0 || shared >= host_labels.len() {
        return Vec::new();
    }
    let unique = &host_labels[..host_labels.len() - shared];
    let mut forms = vec![unique.join(".")];
    if unique.len() == 2 {
        forms.push(format!("{}.{}", forms[0], host_labels[unique.len()]));
    }
    forms
}

/// What DNS answers to the client: every name of every visible service that has addresses.
pub(super) fn names(outbound: &Outbound<'_>, registry: Registry<'_>) -> Names {
    let domain = outbound.dns_domain();
    let mut names: BTreeMap<Arc<str>, Arc<[IpAddr]>> = BTreeMap::new();
    for service in registry.visible() {
        let addresses: Arc<[IpAddr]> = addresses(service, registry).into();
        if addresses.is_empty() {
            continue;
        }
        for name in host_domains(&service.host.as_str().to_ascii_lowercase(), &domain) {
            names.entry(name.into()).or_insert_with(|| addresses.clone());
        }
    }
    names.into_iter().collect()
}

/// A service's own addresses, its pods' if it is headless, or those of what it stands for.
pub(super) fn addresses(service: &Service, registry: Registry<'_>) -> Vec<IpAddr> {
    let target = service.alias_of.as_ref().and_then(|host| registry.find(host));
    let service = target.map_or(service, |target| target);
    l4::bind(service)
}
