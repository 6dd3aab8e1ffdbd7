//! Listeners: the way in, and what is done with a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog;
use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::http::{
    cors::v3::Cors as CorsFilter, fault::v3::HttpFault, router::v3::Router as RouterFilter,
};
use envoy_types::pb::envoy::extensions::filters::listener::{
    http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, proxy_protocol::v3::ProxyProtocol,
    tls_inspector::v3::TlsInspector,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};
use prost::{Message, Name};

use super::cluster::{BLACKHOLE, PASSTHROUGH};
use super::proto::{address, ads, any_address, boolean, pack, socket, uint};
use super::setup::{Entry, Setup};
use crate::plan::{Chain, Cidr, Destination, HttpTable, Listener, Plan, Target, Transport, Unmatched};

/// What the listeners of a plan are made with.
pub(super) struct Listeners<'a> {
    pub(super) plan: &'a Plan,
    pub(super) setup: &'a Setup,
    /// The names of the route tables, by where the tables stand in memory.
    pub(super) tables: &'a BTreeMap<*const HttpTable, String>,
}

impl Listeners<'_> {
    /// All of them, the way in first.
    pub(super) fn all(&self, omitted: &mut Vec<String>) -> Vec<pb::Listener> {
        let entry = match self.setup.entry {
            Entry::Redirected(at) => Some(self.way_in(at, filter("original_dst", &OriginalDst::default()))),
            Entry::ProxyProtocol(at) => Some(self.way_in(at, filter("proxy_protocol", &ProxyProtocol::default()))),
            Entry::Direct(_) => None,
        };
        let mut made: Vec<pb::Listener> = entry.into_iter().collect();
        for (at, known) in self.plan.listeners.iter().enumerate() {
            made.extend(self.bound(at, known, omitted).and_then(|bound| self.listener(known, bound, omitted)));
        }
        made
    }

    /// Where a listener is bound; `None` where another one has its port.
    fn bound(&self, at: usize, known: &Listener, omitted: &mut Vec<String>) -> Option<Bound> {
        let Entry::Direct(address) = self.setup.entry else {
            let any = any_address([0; 4].into());
            let first = known.addresses.first().copied().unwrap_or(any);
            let more = known.addresses.iter().skip(1).copied().collect();
            return Some(Bound { first, more, port_is_opened: false });
        };
        let rivals = || self.plan.listeners.iter().enumerate().filter(|(_, rival)| rival.port == known.port);
        let open = rivals().find(|(_, rival)| rival.addresses.is_empty()).or_else(|| rivals().next());
        if open.is_some_and(|(open, _)| open == at) {
            return Some(Bound { first: address, more: Vec::new(), port_is_opened: true });
        }
        omitted.push(format!("listener `{}`: its port is opened for another one", name(known)));
        None
    }

    /// What takes every connection and hands it to the listener of the address that was dialled.
    fn way_in(&self, at: SocketAddr, whence: pb::ListenerFilter) -> pb::Listener {
        pb::Listener {
            name: "virtualOutbound".into(),
            address: Some(socket(at)),
            use_original_dst: boolean(true),
            listener_filters: vec![whence],
            filter_chains: vec![chain(
                "virtualOutbound",
                self.unmatched().unwrap_or(BLACKHOLE),
                &self.setup.access_log,
            )],
            ..pb::Listener::default()
        }
    }

    fn unmatched(&self) -> Option<&'static str> {
        match self.plan.unmatched {
            Unmatched::Passthrough => Some(PASSTHROUGH),
            Unmatched::Blackhole => Some(BLACKHOLE),
            Unmatched::Reset => None,
        }
    }

    fn listener(&self, known: &Listener, bound: Bound, omitted: &mut Vec<String>) -> Option<pb::Listener> {
        let mut chains = Vec::new();
        for (at, chain) in known.chains.iter().enumerate() {
            if chain.transport == Transport::Terminated {
                omitted
                    .push(format!("listener `{}`: chain {at} decrypts, and the plan has no certificate", name(known)));
                continue;
            }
            chains.push(self.chain(at, chain));
        }
        if chains.is_empty() {
            return None;
        }
        // As Istio does, the chain that asks for nothing becomes the default. What no chain takes goes the way of what
        // no listener takes.
        let asks = |chain: &pb::FilterChain| chain.filter_chain_match != Some(pb::FilterChainMatch::default());
        let (filter_chains, plain): (Vec<_>, Vec<_>) = chains.into_iter().partition(asks);
        let fallback = || Some(chain("fallback", self.unmatched()?, &self.setup.access_log));
        let more = |ip: &IpAddr| pb::AdditionalAddress {
            address: Some(address(&ip.to_string(), known.port)),
            ..pb::AdditionalAddress::default()
        };
        Some(pb::Listener {
            name: name(known),
            address: Some(address(&bound.first.to_string(), known.port)),
            additional_addresses: bound.more.iter().map(more).collect(),
            default_filter_chain: plain.into_iter().next().or_else(fallback),
            filter_chains,
            bind_to_port: boolean(bound.port_is_opened),
            listener_filters: inspectors(known),
            // Where the server speaks first, the first bytes say nothing for as long as is waited for them.
            continue_on_listener_filters_timeout: true,
            ..pb::Listener::default()
        })
    }

    fn chain(&self, at: usize, known: &Chain) -> pb::FilterChain {
        let mut fits = pb::FilterChainMatch {
            prefix_ranges: known.subnets.iter().map(range).collect(),
            server_names: known.server_names.iter().map(|name| name.as_str().to_string()).collect(),
            ..pb::FilterChainMatch::default()
        };
        if known.transport != Transport::Any {
            fits.transport_protocol = "tls".into();
        }
        if known.http_only {
            fits.transport_protocol = "raw_buffer".into();
            fits.application_protocols = vec!["http/1.1".into(), "h2c".into()];
        }
        let filter = match &known.target {
            Target::Http(table) => self.http(at, table),
            Target::Tcp { destinations, .. } => self.tcp(destinations),
        };
        pb::FilterChain {
            name: format!("chain-{at}"),
            filter_chain_match: Some(fits),
            filters: vec![filter],
            ..pb::FilterChain::default()
        }
    }

    fn http(&self, at: usize, table: &std::sync::Arc<HttpTable>) -> pb::Filter {
        let route_config_name = self.tables.get(&std::sync::Arc::as_ptr(table)).cloned().unwrap_or_default();
        let upgrade = http::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..http::http_connection_manager::UpgradeConfig::default()
        };
        let config = http::HttpConnectionManager {
            stat_prefix: format!("http-{at}"),
            use_remote_address: boolean(self.setup.edge),
            normalize_path: boolean(true),
            path_with_escaped_slashes_action:
                http::http_connection_manager::PathWithEscapedSlashesAction::KeepUnchanged.into(),
            upgrade_configs: vec![upgrade],
            access_log: self.setup.access_log.clone(),
            http_filters: vec![
                http_filter("fault", &HttpFault::default()),
                http_filter("cors", &CorsFilter::default()),
                http_filter("router", &RouterFilter::default()),
            ],
            route_specifier: Some(http::http_connection_manager::RouteSpecifier::Rds(http::Rds {
                config_source: ads(),
                route_config_name,
            })),
            ..http::HttpConnectionManager::default()
        };
        network("http_connection_manager", &config)
    }

    fn tcp(&self, destinations: &[Destination]) -> pb::Filter {
        use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
        let known = |to: &Destination| self.plan.clusters.get(usize::try_from(to.cluster).ok()?);
        let name = |to: &Destination| known(to).map(|known| known.name.to_string()).unwrap_or_default();
        let sticks = destinations.iter().filter_map(known).any(|cluster| cluster.policy.by_source);
        let entry = |to: &Destination| ClusterWeight { name: name(to), weight: to.weight, metadata_match: None };
        let specifier = match destinations {
            [only] => ClusterSpecifier::Cluster(name(only)),
            several => {
                ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: several.iter().map(entry).collect() })
            }
        };
        proxy(specifier, sticks, &self.setup.access_log)
    }
}

/// Where a listener is bound.
struct Bound {
    first: IpAddr,
    more: Vec<IpAddr>,
    port_is_opened: bool,
}

/// Istio's name for a listener.
fn name(known: &Listener) -> String {
    let address = known.addresses.first().map_or_else(|| "0.0.0.0".to_string(), ToString::to_string);
    format!("{address}_{}", known.port)
}

/// What looks into the first bytes, where some chain asks for what they say.
fn inspectors(known: &Listener) -> Vec<pb::ListenerFilter> {
    let asks_tls =
        |chain: &Chain| chain.transport != Transport::Any || !chain.server_names.is_empty() || chain.http_only;
    let mut made = Vec::new();
    if known.chains.iter().any(asks_tls) {
        made.push(filter("tls_inspector", &TlsInspector::default()));
    }
    if known.chains.iter().any(|chain| chain.http_only) {
        made.push(filter("http_inspector", &HttpInspector::default()));
    }
    made
}

fn range(range: &Cidr) -> CidrRange {
    let text = String::from(*range);
    let address_prefix = text.split('/').next().unwrap_or_default().to_string();
    CidrRange { address_prefix, prefix_len: uint(range.bits().into()) }
}

/// A chain that hands on whatever comes.
fn chain(name: &str, cluster: &str, access_log: &[AccessLog]) -> pb::FilterChain {
    let to = tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.into());
    pb::FilterChain { name: name.into(), filters: vec![proxy(to, false, access_log)], ..pb::FilterChain::default() }
}

/// What carries connections as a whole. `sticks`: by the client's address.
fn proxy(to: tcp::tcp_proxy::ClusterSpecifier, sticks: bool, access_log: &[AccessLog]) -> pb::Filter {
    let source = hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {});
    let by_source = HashPolicy { policy_specifier: Some(source) };
    let config = tcp::TcpProxy {
        hash_policy: sticks.then_some(by_source).into_iter().collect(),
        stat_prefix: "tcp".into(),
        access_log: access_log.to_vec(),
        cluster_specifier: Some(to),
        ..tcp::TcpProxy::default()
    };
    network("tcp_proxy", &config)
}

fn network<M: Message + Name>(name: &str, config: &M) -> pb::Filter {
    let config_type = Some(pb::filter::ConfigType::TypedConfig(pack(config)));
    pb::Filter { name: format!("envoy.filters.network.{name}"), config_type }
}

fn filter<M: Message + Name>(name: &str, config: &M) -> pb::ListenerFilter {
    let config_type = Some(pb::listener_filter::ConfigType::TypedConfig(pack(config)));
    pb::ListenerFilter { name: format!("envoy.filters.listener.{name}"), config_type, ..pb::ListenerFilter::default() }
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> http::HttpFilter {
    let config_type = Some(http::http_filter::ConfigType::TypedConfig(pack(config)));
    http::HttpFilter { name: format!("envoy.filters.http.{name}"), config_type, ..http::HttpFilter::default() }
}
