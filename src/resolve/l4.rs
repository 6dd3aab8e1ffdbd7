//! Connections whose content is not looked at: tcp and tls rules, and the services that have none.
//!
//! Source: istio `pilot/pkg/networking/core/tls.go` and `networkfilter.go`; reference section 10.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Clusters;
use super::registry::{Kind, Protocol, Service};
use super::sidecar::{Outbound, short_forms};
use super::virtual_service::Root;
use super::{Findings, Precedence};
use crate::diagnostic::Diagnostic;
use crate::kubernetes::has_labels;
use crate::model::virtual_service::{L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute};
use crate::name::HostPattern;
use crate::plan::{Chain, Cidr, Destination, Listener, Origin, Target};

/// The listeners of ports that carry no HTTP.
pub(super) fn listeners(
    outbound: &Outbound<'_>,
    services: &[Arc<Service>],
    listeners: &mut Vec<Listener>,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) {
    let mut places = Places::of(listeners);
    for service in services.iter().filter(|service| service.alias_of.is_none()) {
        for port in service.ports.iter().filter(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls)) {
            let chains = chains(outbound, service, port.number, clusters, findings);
            let addresses = bind(service);
            if !addresses.is_empty() && !service.subnets.is_empty() {
                // Its addresses are listened to one by one, its ranges by a listener for any address.
                let mut at_addresses = chains.clone();
                let own: Vec<Cidr> = service.subnets.iter().filter_map(|subnet| Cidr::parse(subnet)).collect();
                at_addresses.iter_mut().filter(|chain| chain.subnets == own).for_each(|chain| chain.subnets.clear());
                places.add(Listener { chains: at_addresses, ..Listener::new(port.number, addresses) });
                places.add(Listener { chains, ..Listener::new(port.number, Vec::new()) });
            } else {
                places.add(Listener { chains, ..Listener::new(port.number, addresses) });
            }
        }
    }
}

/// The addresses at which a service is listened to: its own, its pods' if it is headless; none for any.
pub(super) fn bind(service: &Service) -> Vec<IpAddr> {
    match service.kind {
        Kind::Headless => service.members.iter().filter_map(|member| member.address.parse().ok()).collect(),
        _ => service.addresses.clone(),
    }
}

/// Listeners by their places.
struct Places<'l> {
    listeners: &'l mut Vec<Listener>,
    by_place: HashMap<(u16, Vec<IpAddr>), usize>,
    /// What the chains of each ask for, once that is needed.
    asked: HashMap<usize, HashSet<Asked>>,
}

/// What tells a chain from others: addresses, server names, and whether it wants what was recognised as HTTP.
type Asked = (Vec<Cidr>, Vec<HostPattern>, bool);

fn asked(chain: &Chain) -> Asked {
    (chain.subnets.clone(), chain.server_names.clone(), chain.http_only)
}

impl<'l> Places<'l> {
    fn of(listeners: &'l mut Vec<Listener>) -> Self {
        let mut by_place = HashMap::new();
        for (at, listener) in listeners.iter().enumerate() {
            by_place.entry((listener.port, listener.addresses.clone())).or_insert(at);
        }
        Places { listeners, by_place, asked: HashMap::new() }
    }

    /// Adds a listener. Where one for the same place is there, it gets the chains that fit nothing it already takes.
    fn add(&mut self, listener: Listener) {
        let place = (listener.port, listener.addresses.clone());
        let at = *self.by_place.entry(place).or_insert(self.listeners.len());
        let Some(known) = self.listeners.get_mut(at) else { return self.listeners.push(listener) };
        let taken = self.asked.entry(at).or_insert_with(|| known.chains.iter().map(asked).collect());
        for chain in listener.chains {
            if taken.insert(asked(&chain)) {
                known.chains.push(chain);
            }
        }
    }
}

/// The chains of one port of a service for what is not HTTP.
pub(super) fn chains(
    outbound: &Outbound<'_>,
    service: &Arc<Service>,
    port: u16,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) -> Vec<Chain> {
    let place = L4Place { outbound, service, port };
    if service.port(port).is_some_and(|port| port.protocol == Protocol::Tls) {
        return place.tls(clusters, findings);
    }
    place.tcp(clusters, findings)
}

/// One port of one service, as a sidecar listens to it.
struct L4Place<'a> {
    outbound: &'a Outbound<'a>,
    service: &'a Arc<Service>,
    port: u16,
}

/// What a rule's match block asks of the client and the listener, whichever kind of rule it is of.
struct Static<'m> {
    port: u32,
    gateways: &'m [String],
    source_labels: &'m BTreeMap<String, String>,
    source_namespace: &'m str,
}

impl L4Place<'_> {
    /// All VirtualServices with a host that overlaps the service's have a say; there is no single winner. Under
    /// [`Precedence::LastApplied`] only those have that name it most exactly: an exact and a wildcard host never merge.
    fn roots(&self) -> impl Iterator<Item = &Root> {
        let own = self.outbound.roots.opaque_for(&self.service.host);
        let imported: Vec<&Root> =
            own.filter(|root| self.outbound.scope.imports_rules(root, Some(self.port))).collect();
        let hosts = || imported.iter().flat_map(|root| &root.hosts).filter(|host| host.overlaps(&self.service.host));
        let best = match self.outbound.mesh.precedence {
            Precedence::Istio => None,
            Precedence::LastApplied => hosts().min_by(|a, b| a.by_specificity(b)),
        };
        let fits = |host: &HostPattern| match best {
            Some(best) => host == best,
            None => host.overlaps(&self.service.host),
        };
        let kept: Vec<&Root> = imported.iter().copied().filter(|root| root.hosts.iter().any(fits)).collect();
        kept.into_iter()
    }

    /// All four conditions are asked for, unlike in HTTP rules.
    fn applies(&self, block: &Static<'_>) -> bool {
        let client = self.outbound.viewpoint;
        (block.port == 0 || block.port == u32::from(self.port))
            && (block.gateways.is_empty() || block.gateways.iter().any(|gateway| gateway == "mesh"))
            && has_labels(&client.labels, block.source_labels)
            && (block.source_namespace.is_empty() || block.source_namespace == client.namespace)
    }

    fn own_subnets(&self) -> Vec<Cidr> {
        self.service.subnets.iter().filter_map(|subnet| Cidr::parse(subnet)).collect()
    }

    fn own_chain(&self, clusters: &mut Clusters<'_>) -> Chain {
        let cluster = clusters.intern(self.service.host.as_str(), "", self.port);
        let mut chain = Chain::new(Target::Tcp { destinations: vec![Destination::new(cluster, 0)], origin: None });
        chain.subnets = self.own_subnets();
        chain
    }

    fn tcp(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Chain> {
        let mut chains = Vec::new();
        note_ranges(self.roots(), findings);
        for (root, at, rule) in
            ordered(self.roots(), self.outbound.mesh.precedence, |root| &root.tcp, |rule| self.weigh_tcp(rule))
        {
            let Some(subnets) = self.tcp_subnets(rule) else { continue };
            let Some(target) = target(root, &format!("spec.tcp[{at}]"), at, &rule.route, self.port, clusters, findings)
            else {
                continue;
            };
            let mut chain = Chain::new(target);
            let terminal = subnets.is_empty() || subnets == self.own_subnets();
            chain.subnets = if subnets.is_empty() { self.own_subnets() } else { subnets };
            chains.push(chain);
            if terminal {
                return chains;
            }
        }
        chains.push(self.own_chain(clusters));
        chains
    }

    fn weigh_tcp(&self, rule: &TcpRoute) -> Option<Weighed> {
        let catch_all = self.tcp_subnets(rule)?.is_empty();
        Some(Weighed { sameness: sameness(&rule.r#match), catch_all })
    }

    fn weigh_tls(&self, rule: &TlsRoute) -> Option<Weighed> {
        let fits = rule.r#match.iter().flatten().any(|block| self.applies(&Static::of_tls(block)));
        fits.then(|| Weighed { sameness: sameness(&rule.r#match), catch_all: false })
    }

    /// The destination ranges that a rule asks for; none for all; `None` where it does not apply.
    fn tcp_subnets(&self, rule: &TcpRoute) -> Option<Vec<Cidr>> {
        if rule.r#match.is_empty() {
            return Some(Vec::new());
        }
        let mut subnets = Vec::new();
        let mut some = false;
        for block in rule.r#match.iter().flatten().filter(|block| self.applies(&Static::of_tcp(block))) {
            some = true;
            if block.destination_subnets.is_empty() {
                return Some(Vec::new());
            }
            subnets.extend(block.destination_subnets.iter().filter_map(|subnet| Cidr::parse(subnet)));
        }
        // Ranges of which none can be read are no range, never every address.
        (some && !subnets.is_empty()).then_some(subnets)
    }

    fn tls(&self, clusters: &mut Clusters<'_>, findings: &mut Findings) -> Vec<Chain> {
        let mut chains: Vec<Chain> = Vec::new();
        let mut subnets = self.own_subnets();
        note_ranges(self.roots(), findings);
        for (root, at, rule) in
            ordered(self.roots(), self.outbound.mesh.precedence, |root| &root.tls, |rule| self.weigh_tls(rule))
        {
            for block in rule.r#match.iter().flatten().filter(|block| self.applies(&Static::of_tls(block))) {
                if !block.destination_subnets.is_empty() {
                    if block.destination_subnets.iter().all(|subnet| Cidr::parse(subnet).is_none()) {
                        continue;
                    }
                    // As in Istio, a match's ranges hold for the service's later matches as well.
                    subnets = block.destination_subnets.iter().filter_map(|subnet| Cidr::parse(subnet)).collect();
                }
                let names = server_names(&block.sni_hosts);
                if chains.iter().any(|chain| chain.server_names == names && chain.subnets == subnets) {
                    continue;
                }
                let Some(target) =
                    target(root, &format!("spec.tls[{at}]"), at, &rule.route, self.port, clusters, findings)
                else {
                    continue;
                };
                let mut chain = Chain::new(target);
                chain.server_names = names;
                chain.subnets.clone_from(&subnets);
                chains.push(chain);
            }
        }
        if chains.is_empty() {
            chains.push(self.own_tls_chain(clusters));
        }
        chains
    }

    /// Without an address of its own, a service can be told by the server name alone.
    fn own_tls_chain(&self, clusters: &mut Clusters<'_>) -> Chain {
        let mut chain = self.own_chain(clusters);
        if !self.service.subnets.is_empty() || bind(self.service).is_empty() {
            let aliases = clusters.registry.aliases(self.service.host.as_str());
            let domain = self.outbound.dns_domain();
            let mut names = vec![self.service.host.as_str().to_string()];
            for alias in aliases {
                names.extend(short_forms(alias.host.as_str(), &domain));
                names.push(alias.host.as_str().to_string());
            }
            chain.server_names = server_names(&names);
        }
        chain
    }
}

impl<'m> Static<'m> {
    fn of_tcp(block: &'m L4MatchAttributes) -> Self {
        Static {
            port: block.port,
            gateways: &block.gateways,
            source_labels: &block.source_labels,
            source_namespace: &block.source_namespace,
        }
    }

    fn of_tls(block: &'m TlsMatchAttributes) -> Self {
        Static {
            port: block.port,
            gateways: &block.gateways,
            source_labels: &block.source_labels,
            source_namespace: &block.source_namespace,
        }
    }
}

/// Tells of ranges of addresses that are none.
fn note_ranges<'r>(roots: impl Iterator<Item = &'r Root>, findings: &mut Findings) {
    for root in roots {
        let tcp = root.tcp.iter().flat_map(|(at, rule)| {
            let blocks = rule.r#match.iter().enumerate();
            blocks.map(move |(block, written)| {
                (format!("spec.tcp[{at}].match[{block}]"), written.as_ref().map(|b| &b.destination_subnets))
            })
        });
        let tls = root.tls.iter().flat_map(|(at, rule)| {
            let blocks = rule.r#match.iter().enumerate();
            blocks.map(move |(block, written)| {
                (format!("spec.tls[{at}].match[{block}]"), written.as_ref().map(|b| &b.destination_subnets))
            })
        });
        for (field, ranges) in tcp.chain(tls) {
            for range in ranges.into_iter().flatten().filter(|range| Cidr::parse(range).is_none()) {
                let finding = Diagnostic::error("bad-match", format!("`{range}` is no range of addresses"));
                let finding = finding.at(&root.resource, format!("{field}.destinationSubnets"));
                findings.push(finding.remedy("write an address, or a range such as `10.1.0.0/16`"));
            }
        }
    }
}

/// What a fold looks at in a rule that applies.
pub(super) struct Weighed {
    pub(super) sameness: BTreeSet<String>,
    pub(super) catch_all: bool,
}

/// Equal for rules that are the same rule.
pub(super) fn sameness<B: Clone + Default + std::fmt::Debug>(blocks: &[Option<B>]) -> BTreeSet<String> {
    blocks.iter().map(|block| format!("{:?}", block.clone().unwrap_or_default())).collect()
}

/// A rule, the VirtualService that it is in, and its index there.
type Numbered<'r, R> = (&'r Root, usize, &'r R);

/// The rules of several VirtualServices that apply, with their index: in the order in which these count, or, under
/// [`Precedence::LastApplied`], each cut after its first catch-all, the later one's first, without earlier rules that
/// are the same, catch-alls last, the latest's only.
///
/// `weigh` is `None` for a rule that does not apply.
pub(super) fn ordered<'r, R>(
    roots: impl Iterator<Item = &'r Root>,
    mode: Precedence,
    rules: impl Fn(&'r Root) -> &'r Vec<(usize, R)>,
    weigh: impl Fn(&R) -> Option<Weighed>,
) -> Vec<Numbered<'r, R>> {
    let each = |root: &'r Root| {
        let applying = rules(root).iter().filter_map(|(at, rule)| Some((weigh(rule)?, (root, *at, rule))));
        applying.collect::<Vec<_>>()
    };
    if mode == Precedence::Istio {
        return roots.flat_map(each).map(|(_, rule)| rule).collect();
    }
    let mut folded: Vec<(BTreeSet<String>, Numbered<'r, R>)> = Vec::new();
    let mut last: Option<Numbered<'r, R>> = None;
    for root in roots {
        let mut own = Vec::new();
        for (weighed, rule) in each(root) {
            if weighed.catch_all {
                last = Some(rule);
                break;
            }
            own.push((weighed.sameness, rule));
        }
        folded.retain(|(known, _)| !own.iter().any(|(newer, _)| newer == known));
        own.append(&mut folded);
        folded = own;
    }
    folded.into_iter().map(|(_, rule)| rule).chain(last).collect()
}

pub(super) fn server_names(hosts: &[String]) -> Vec<HostPattern> {
    hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).map(|host| host.to_lowercase()).collect()
}

/// Where the connections of a rule go; `None`, with a finding, where it names nobody.
pub(super) fn target(
    root: &Root,
    field: &str,
    at: usize,
    routes: &[Option<RouteDestination>],
    port: u16,
    clusters: &mut Clusters<'_>,
    findings: &mut Findings,
) -> Option<Target> {
    let written: Vec<(usize, &RouteDestination)> =
        routes.iter().enumerate().filter_map(|(at, route)| Some((at, route.as_ref()?))).collect();
    let several = written.len() > 1;
    let mut destinations = Vec::new();
    for (place, route) in written.iter().filter(|(_, route)| !several || route.weight > 0) {
        let Some(to) = &route.destination else { continue };
        let port = to.port.as_ref().and_then(|port| u16::try_from(port.number).ok()).unwrap_or(port);
        let cluster = clusters.intern(&to.host, &to.subset, port);
        if let Some(finding) = clusters.fault(cluster) {
            findings.push(finding.at(&root.resource, format!("{field}.route[{place}].destination")));
        }
        destinations.push(Destination::new(cluster, u32::try_from(route.weight).unwrap_or(0)));
    }
    if destinations.is_empty() {
        let finding = Diagnostic::error("bad-rule", "the rule names no destination, or its weights add up to 0");
        findings.push(finding.at(&root.resource, field).remedy("the rule is left out until it is mended"));
        return None;
    }
    let field: Arc<str> = field.into();
    let origin = Origin {
        resource: root.resource.clone(),
        rule: at as u32,
        block: None,
        written_in: root.resource.clone(),
        field,
    };
    Some(Target::Tcp { destinations, origin: Some(origin) })
}
