//! What tells two sidecars of different namespaces apart, so that what one sees can be made from what the other sees.
//!
//! A namespace decides what is exported to it, whose DestinationRule speaks, which rules ask for it, and which services
//! have a name of one label. Whatever else is the same for both and stays shared. Where a difference reaches further than
//! single virtual hosts, clusters and names, it says so, and the view is made from nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::ports::Ports;
use super::registry::{Kind, Port, Protocol, Registry, Service, Sight};
use super::scope::{self, Scope};
use super::view::{Concerned, FromNothing, Shared, View};
use super::virtual_service::Root;
use super::visibility::Export;
use super::{Keys, Viewpoint, ViewpointKind, sidecar};
use crate::name::HostPattern;
use crate::plan::Names;

/// Two sidecars that look at the same mesh, or one before and after a change.
pub(super) struct Pair<'a> {
    shared: Shared<'a>,
    one: (&'a Viewpoint, Registry<'a>),
    other: (&'a Viewpoint, Registry<'a>),
    pub(super) concerned: Concerned,
    /// The hosts that may be of other services, or have other DestinationRules.
    pub(super) clusters: BTreeSet<HostPattern>,
    /// The hosts that may have other names.
    names: BTreeSet<HostPattern>,
}

impl View {
    /// Whether others can be made from it.
    pub(crate) fn is_open(&self) -> bool {
        let own = &self.viewpoint;
        let plain = own.dns_domain.is_empty() && !own.namespace.contains('.');
        own.kind == ViewpointKind::Sidecar && plain && !self.capitals && !self.scope.is_narrow()
    }

    /// What another client sees, where `from` and `to` are clients that see this and that: with the virtual hosts that may be
    /// others, and what DNS answers.
    pub(crate) fn fork(
        &self,
        shared: Shared<'_>,
        keys: &mut Keys,
        (from, names): (&Viewpoint, &Names),
        (viewpoint, to): (&Viewpoint, &Viewpoint),
    ) -> Result<(View, Concerned, Names), FromNothing> {
        let scope = Scope::new(shared.resources, viewpoint, shared.mesh);
        let sight = Sight::new(shared.world, &viewpoint.namespace, &scope);
        let mut other = View { viewpoint: viewpoint.clone(), scope, sight, ..self.clone() };
        let alike = self.viewpoint.labels == viewpoint.labels && self.scope.outbound == other.scope.outbound;
        if !self.is_open() || !other.is_open() || !alike {
            return Err(FromNothing);
        }
        let one = (&self.viewpoint, Registry::new(shared.world, &self.sight));
        let mut pair = Pair::new(shared, one, (&other.viewpoint, Registry::new(shared.world, &other.sight)));
        pair.concerned = self.told_apart(shared, from, to)?;
        let ports = pair.services(&self.ports)?;
        pair.rules(&self.ports)?;
        pair.virtual_services(&self.ports)?;
        pair.short_names()?;
        if cfg!(meshroute_fault = "apart") {
            pair.concerned.pairs.pop_last(); // planted: one that tells them apart is left as it was
        }
        let names = pair.names(names);
        let Pair { concerned, clusters, .. } = pair;
        other.ports = ports;
        other.remake(shared, keys, clusters.iter().map(HostPattern::as_str));
        Ok((other, concerned, names))
    }
}

impl<'a> Pair<'a> {
    pub(super) fn new(
        shared: Shared<'a>,
        one: (&'a Viewpoint, Registry<'a>),
        other: (&'a Viewpoint, Registry<'a>),
    ) -> Self {
        let concerned = Concerned::default();
        Pair { shared, one, other, concerned, clusters: BTreeSet::new(), names: BTreeSet::new() }
    }

    fn namespaces(&self) -> [&'a str; 2] {
        [self.one.0, self.other.0].map(|viewpoint| viewpoint.namespace.as_str())
    }

    fn both(&self, host: &str) -> [Option<&'a Arc<Service>>; 2] {
        [self.one.1, self.other.1].map(|registry| registry.find(host))
    }

    /// Notes a host on a port, which both listen on.
    fn concern(&mut self, host: &HostPattern, port: u16) {
        self.concerned.pairs.insert((port, host.clone()));
    }

    /// Notes a service's host on the ports where requests to it are looked at.
    fn concern_service(&mut self, host: &HostPattern) {
        for service in self.both(host.as_str()).into_iter().flatten() {
            for port in service.ports.iter().filter(|port| port.protocol.speaks_http()) {
                self.concern(host, port.number);
            }
        }
    }

    /// Notes all hosts of a VirtualService on the ports where it has a say for one of the two.
    fn concern_root(&mut self, root: &Root, ports: &Ports) -> Result<(), FromNothing> {
        if root.hosts.iter().any(HostPattern::is_wildcard) {
            return Err(FromNothing);
        }
        let served = |host: &HostPattern, port| {
            [self.one.1, self.other.1].iter().any(|registry| registry.serving(host.as_str(), port).is_some())
        };
        let says = |port: &u16| *port == 80 || root.hosts.iter().any(|host| served(host, *port));
        let ports: Vec<u16> = ports.iter().filter(says).collect();
        for port in ports {
            root.hosts.iter().for_each(|host| self.concern(host, port));
        }
        Ok(())
    }
}

impl Pair<'_> {
    /// Services that only one of the two sees, or in the place of which they see different ones. Hands back on which ports
    /// the other looks at requests.
    fn services(&mut self, ports: &Ports) -> Result<Ports, FromNothing> {
        let mut common: Option<BTreeSet<u16>> = None;
        let mut others = ports.clone();
        for host in self.shared.world.particular() {
            let [one, other] = self.both(host.as_str());
            if one.map(Arc::as_ptr) == other.map(Arc::as_ptr) {
                continue;
            }
            let common = common.get_or_insert_with(|| self.common_ports());
            self.service(host, common, ports)?;
            one.into_iter().for_each(|service| others.remove(service));
            other.into_iter().for_each(|service| others.add(service));
        }
        Ok(others)
    }

    /// A host of which the two see different services, or only one of them one. `common` are the ports on which both listen,
    /// whatever these services are: there, they change nothing but virtual hosts.
    pub(super) fn service(
        &mut self,
        host: &HostPattern,
        common: &BTreeSet<u16>,
        ports: &Ports,
    ) -> Result<(), FromNothing> {
        let is_harmless = |port: &Port| match port.protocol {
            Protocol::Http => common.contains(&port.number),
            Protocol::Udp => true,
            _ => false,
        };
        let is_plain = |service: &Arc<Service>| {
            service.alias_of.is_none() && service.kind != Kind::Headless && service.ports.iter().all(is_harmless)
        };
        let covered = self.shared.roots.wildcards().any(|wildcard| host.is_within(wildcard));
        let both = self.both(host.as_str());
        if covered || !self.is_nobodys_short_form(host) || !both.into_iter().flatten().all(is_plain) {
            return Err(FromNothing);
        }
        self.concern_service(host);
        for root in self.shared.roots.naming(host) {
            self.concern_root(root, ports)?;
        }
        self.clusters.insert(host.clone());
        self.names.insert(host.clone());
        Ok(())
    }

    /// The ports with a service that is the same for both and is HTTP for sure.
    fn common_ports(&self) -> BTreeSet<u16> {
        let mut ports = BTreeSet::new();
        for service in self.one.1.visible().filter(|service| service.alias_of.is_none()) {
            for port in service.ports.iter().filter(|port| port.protocol == Protocol::Http) {
                if !ports.contains(&port.number) {
                    let [one, other] = self.both(service.host.as_str()).map(|known| known.map(Arc::as_ptr));
                    ports.extend((one == other).then_some(port.number));
                }
            }
        }
        ports
    }

    /// Whether a host is surely no short form of another service's, and no other stands for it.
    fn is_nobodys_short_form(&self, host: &HostPattern) -> bool {
        let (text, domain, world) = (host.as_str(), &self.shared.mesh.domain, self.shared.world);
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let longer = [format!("{text}.{domain}"), format!("{text}.svc.{domain}")];
        let nobodys = longer.iter().all(|longer| world.candidates(longer).is_empty());
        let is_name = text.contains('.') && !text.ends_with('.') && text.parse::<IpAddr>().is_err();
        lower && is_name && nobodys && !host.is_wildcard() && world.aliases(text).next().is_none()
    }

    /// DestinationRules that speak to one of the two only.
    fn rules(&mut self, ports: &Ports) -> Result<(), FromNothing> {
        let (rules, mesh, world) = (self.shared.rules, self.shared.mesh, self.shared.world);
        let mut hosts = BTreeSet::new();
        for pattern in rules.particular(self.namespaces(), mesh) {
            match pattern.is_wildcard() {
                true => hosts.extend(world.hosts().filter(|host| host.is_within(pattern)).cloned()),
                false => hosts.extend([pattern.clone()]),
            }
        }
        self.speakers(hosts, ports)
    }

    /// The DestinationRules that speak for some hosts, and for those with other services: for the clusters of these, and for
    /// routes that stick.
    pub(super) fn speakers(&mut self, mut hosts: BTreeSet<HostPattern>, ports: &Ports) -> Result<(), FromNothing> {
        let (rules, mesh) = (self.shared.rules, self.shared.mesh);
        hosts.extend(self.clusters.iter().cloned());
        let mut sticky: BTreeSet<String> = BTreeSet::new();
        for host in hosts {
            let rule = |(viewpoint, registry): (&Viewpoint, Registry<'_>)| {
                let service = registry.find(host.as_str())?;
                rules.find(&service.host, &service.namespace, viewpoint, mesh)
            };
            let (one, other) = (rule(self.one), rule(self.other));
            if one.map(std::ptr::from_ref) == other.map(std::ptr::from_ref) && !self.clusters.contains(&host) {
                continue;
            }
            if one.into_iter().chain(other).any(|rule| rule.is_sticky()) {
                sticky.insert(host.as_str().to_string());
                self.concern_service(&host);
            }
            self.clusters.insert(host);
        }
        if sticky.is_empty() { Ok(()) } else { self.stick(&sticky, ports) }
    }

    /// Notes the VirtualServices that send traffic to one of these hosts.
    fn stick(&mut self, sticky: &BTreeSet<String>, ports: &Ports) -> Result<(), FromNothing> {
        let reaches = |root: &&Root| self.namespaces().iter().any(|namespace| root.export.reaches(namespace));
        let roots: Vec<&Root> = self.shared.roots.iter().filter(|root| root.binds("mesh")).filter(reaches).collect();
        for root in roots {
            if scope::destinations(root).any(|destination| sticky.contains(&destination.host)) {
                self.concern_root(root, ports)?;
            }
        }
        Ok(())
    }

    /// VirtualServices that only one of the two sees, or that ask who is asking.
    fn virtual_services(&mut self, ports: &Ports) -> Result<(), FromNothing> {
        let namespaces = self.namespaces();
        for root in self.shared.roots.particular().filter(|root| root.binds("mesh")) {
            let reached = namespaces.iter().any(|namespace| root.export.reaches(namespace));
            let asks = root.source_namespaces().any(|asked| namespaces.contains(&asked));
            if !reached || !(asks || matches!(root.export, Export::Only(_))) {
                continue;
            }
            if root.is_opaque() {
                return Err(FromNothing);
            }
            self.concern_root(root, ports)?;
        }
        Ok(())
    }

    /// Services of their own namespaces, which have a name of one label there.
    fn short_names(&mut self) -> Result<(), FromNothing> {
        let suffix = format!(".svc.{}", self.shared.mesh.domain);
        let namespaces = self.namespaces();
        for host in self.shared.world.hosts() {
            let inner = host.as_str().strip_suffix(&suffix).and_then(|inner| inner.split_once('.'));
            if !inner.is_some_and(|(_, namespace)| namespaces.contains(&namespace)) {
                continue;
            }
            if host.is_wildcard() {
                return Err(FromNothing);
            }
            self.names.insert(host.clone());
            self.concern_service(host);
            for service in self.both(host.as_str()).into_iter().flatten() {
                service.alias_of.as_deref().map_or(Ok(()), |target| self.short_alias(target))?;
            }
        }
        Ok(())
    }

    /// A service that another stands for has the other's names, too; one with TLS is told by them.
    fn short_alias(&mut self, target: &str) -> Result<(), FromNothing> {
        for service in self.both(target).into_iter().flatten() {
            if service.ports.iter().any(|port| port.protocol == Protocol::Tls) {
                return Err(FromNothing);
            }
            self.concern_service(&service.host);
        }
        Ok(())
    }

    /// What DNS answers to the other, made from what it answers to the one.
    pub(super) fn names(&self, names: &Names) -> Names {
        let domains = [self.one.0, self.other.0].map(|viewpoint| sidecar::dns_domain(viewpoint, self.shared.mesh));
        let forms =
            |host: &HostPattern| domains.each_ref().map(|domain| sidecar::host_domains(host.as_str(), domain)).concat();
        let concerned: BTreeSet<String> = self.names.iter().flat_map(forms).collect();
        let mut names = names.clone();
        for name in concerned {
            let addresses = self.addresses(&name, &domains[1]);
            if names.find(&name) != addresses.as_slice() {
                names.insert(name, addresses);
            }
        }
        names
    }

    /// The addresses of the first service, in the order of their hosts, that the other calls by a name.
    fn addresses(&self, name: &str, dns_domain: &str) -> Vec<IpAddr> {
        let mesh = &self.shared.mesh.domain;
        let [inner, short, namespace] = [format!(".svc.{mesh}"), format!(".{mesh}"), format!(".{dns_domain}")];
        let longer = [inner, short, namespace].map(|suffix| format!("{name}{suffix}"));
        let called = [name.to_string(), name.trim_end_matches('.').to_string()].into_iter().chain(longer);
        let called: BTreeSet<String> =
            called.filter(|host| sidecar::host_domains(host, dns_domain).iter().any(|form| form == name)).collect();
        let services = called.iter().filter_map(|host| self.other.1.find(host));
        let addresses = services.map(|service| sidecar::addresses(service, self.other.1));
        addresses.into_iter().find(|addresses| !addresses.is_empty()).unwrap_or_default()
    }
}
