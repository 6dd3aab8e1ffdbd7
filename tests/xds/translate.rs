//! What a test adds to a translation: destinations on loopback, names that tell routes apart, chance out of a header.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, SubstitutionFormatString, address, socket_address::PortSpecifier,
    substitution_format_string::Format,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::config::listener::v3::{Listener as EnvoyListener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{
    RouteConfiguration, route::Action, route_action::ClusterSpecifier, weighted_cluster::RandomValueSpecifier,
};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Any, Duration, Struct, Value, value::Kind};
use meshroute::adapter::xds::Translation;
use meshroute::plan::{Listener, Route, Transport, VirtualHost};
use prost::{Message, Name};

use crate::upstream::Upstreams;

/// Where traffic goes that nobody claims.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Carries the number that a weighted choice is made with.
pub const ROLL: &str = "x-roll";
/// Carries the number of the case.
pub const CASE: &str = "x-case";
/// The fields of the access log.
const LOG: [(&str, &str); 8] = [
    ("case", "%REQ(X-CASE)%"),
    ("from", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("status", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("cluster", "%UPSTREAM_CLUSTER%"),
    ("host", "%UPSTREAM_HOST%"),
    ("route", "%ROUTE_NAME%"),
];

/// Whether the test can speak to a listener.
pub fn can_be_asked(listener: &Listener) -> bool {
    !listener.chains.is_empty() && listener.chains.iter().all(|chain| chain.transport != Transport::Terminated)
}

/// The name of a world's cluster: each world has its Envoy for itself.
pub fn cluster_name(_: usize, name: &str) -> String {
    name.into()
}

/// The name that a route has in Envoy.
pub fn route_name(host: &VirtualHost, route: &Route) -> Option<String> {
    host.routes.iter().position(|known| std::ptr::eq(known, route)).map(|at| format!("{}#{at}", host.name))
}

fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// An access log in a file, a JSON object for each line.
pub fn access_log(path: &str) -> Vec<AccessLog> {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let fields = LOG.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let format = SubstitutionFormatString {
        format: Some(Format::JsonFormat(Struct { fields })),
        ..SubstitutionFormatString::default()
    };
    let file = FileAccessLog { path: path.into(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    let config_type = Some(access_log::ConfigType::TypedConfig(pack(&file)));
    vec![AccessLog { name: "log".into(), filter: None, config_type }]
}

/// Makes a translation one that can be asked.
pub fn amend(upstreams: &Upstreams, made: &mut Translation) {
    made.endpoints.iter_mut().for_each(|assignment| at_loopback(upstreams, assignment));
    made.clusters.iter_mut().for_each(|cluster| settle(upstreams, cluster));
    made.routes.iter_mut().for_each(name_and_roll);
    made.listeners.iter_mut().for_each(hang_up_at_once);
}

fn at_loopback(upstreams: &Upstreams, assignment: &mut ClusterLoadAssignment) {
    for endpoint in assignment.endpoints.iter_mut().flat_map(|group| &mut group.lb_endpoints) {
        let Some((ip, port)) = of(endpoint) else { continue };
        *endpoint = host(upstreams, &format!("{ip}:{port}"));
    }
}

/// The address of an endpoint.
pub fn of(endpoint: &LbEndpoint) -> Option<(String, u32)> {
    let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { return None };
    let Some(address::Address::SocketAddress(socket)) = &host.address.as_ref()?.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some((socket.address.clone(), port))
}

fn host(upstreams: &Upstreams, name: &str) -> LbEndpoint {
    let (ip, port) = upstreams.address(name);
    let socket = SocketAddress {
        address: ip,
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    let endpoint = HostIdentifier::Endpoint(Endpoint { address, ..Endpoint::default() });
    LbEndpoint { host_identifier: Some(endpoint), ..LbEndpoint::default() }
}

/// Puts fixed destinations in the place of what was dialled, and of what DNS would say.
fn settle(upstreams: &Upstreams, cluster: &mut Cluster) {
    let found = |known: DiscoveryType| Some(ClusterDiscoveryType::Type(known.into()));
    if cluster.cluster_discovery_type == found(DiscoveryType::OriginalDst) {
        let group = LocalityLbEndpoints { lb_endpoints: vec![host(upstreams, PASSTHROUGH)], ..Default::default() };
        cluster.load_assignment = Some(ClusterLoadAssignment {
            cluster_name: cluster.name.clone(),
            endpoints: vec![group],
            ..ClusterLoadAssignment::default()
        });
        cluster.lb_policy = LbPolicy::RoundRobin.into();
    } else if cluster.cluster_discovery_type == found(DiscoveryType::StrictDns) {
        cluster.load_assignment.iter_mut().for_each(|assignment| at_loopback(upstreams, assignment));
    } else {
        return;
    }
    cluster.cluster_discovery_type = found(DiscoveryType::Static);
}

fn name_and_roll(table: &mut RouteConfiguration) {
    for host in &mut table.virtual_hosts {
        for (at, route) in host.routes.iter_mut().enumerate() {
            if !matches!(route.name.as_str(), "allow_any" | "block_all") {
                route.name = format!("{}#{at}", host.name);
            }
            if let Some(Action::Route(action)) = &mut route.action
                && let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier
            {
                weighted.random_value_specifier = Some(RandomValueSpecifier::HeaderName(ROLL.into()));
            }
        }
    }
}

/// Else whoever waits for the end of a connection waits a second.
fn hang_up_at_once(listener: &mut EnvoyListener) {
    let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
    for config in chains.flat_map(|chain| &mut chain.filters).filter_map(|filter| filter.config_type.as_mut()) {
        let ConfigType::TypedConfig(any) = config else { continue };
        if !any.type_url.ends_with(HttpConnectionManager::NAME) {
            continue;
        }
        let mut manager = HttpConnectionManager::decode(any.value.as_slice()).expect("it was just encoded");
        manager.delayed_close_timeout = Some(Duration { seconds: 0, nanos: 0 });
        *any = pack(&manager);
    }
}
