//! What an Envoy is started with, so that it finds the control plane and says who it is.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use super::ads::Flavor;

/// An Envoy's bootstrap file, as YAML by `Display`.
///
/// ```
/// use meshroute::adapter::xds::Bootstrap;
/// let file = Bootstrap::sidecar("shop-1", "default", ([127, 0, 0, 1], 18000).into()).label("app", "shop");
/// assert!(file.to_string().contains(r#"metadata: {NAMESPACE: "default", LABELS: {"app": "shop"}}"#));
/// ```
#[derive(Clone, Debug)]
pub struct Bootstrap {
    id: String,
    namespace: String,
    labels: BTreeMap<String, String>,
    locality: String,
    control_plane: SocketAddr,
    admin: SocketAddr,
    flavor: Flavor,
}

impl Bootstrap {
    /// The bootstrap of a workload's Envoy.
    pub fn sidecar(workload: &str, namespace: &str, control_plane: SocketAddr) -> Self {
        Bootstrap::new("sidecar", workload, namespace, control_plane)
    }

    /// The bootstrap of a gateway's Envoy.
    pub fn gateway(workload: &str, namespace: &str, control_plane: SocketAddr) -> Self {
        Bootstrap::new("router", workload, namespace, control_plane)
    }

    fn new(kind: &str, workload: &str, namespace: &str, control_plane: SocketAddr) -> Self {
        Bootstrap {
            id: format!("{kind}~127.0.0.1~{workload}.{namespace}~{namespace}.svc.cluster.local"),
            namespace: namespace.into(),
            labels: BTreeMap::new(),
            locality: String::new(),
            control_plane,
            admin: ([127, 0, 0, 1], 0).into(),
            flavor: Flavor::Delta,
        }
    }

    /// With one label of the workload more.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With the place where it stands: `region/zone/subzone`.
    pub fn locality(mut self, locality: &str) -> Self {
        self.locality = locality.into();
        self
    }

    /// With its admin page at this address; a free port of the loopback otherwise.
    pub fn admin(mut self, admin: SocketAddr) -> Self {
        self.admin = admin;
        self
    }

    /// With another way of speaking; delta otherwise.
    pub fn flavor(mut self, flavor: Flavor) -> Self {
        self.flavor = flavor;
        self
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key:?}: {value:?}")).collect();
        let mut parts = self.locality.splitn(3, '/').map(|part| format!("{part:?}"));
        let mut next = || parts.next().unwrap_or_else(|| "\"\"".into());
        let api = match self.flavor {
            Flavor::StateOfTheWorld => "GRPC",
            Flavor::Delta => "DELTA_GRPC",
        };
        write!(
            f,
            r#"node:
  id: {id:?}
  cluster: {namespace:?}
  metadata: {{NAMESPACE: {namespace:?}, LABELS: {{{labels}}}}}
  locality: {{region: {region}, zone: {zone}, sub_zone: {subzone}}}
admin:
  address: {{socket_address: {{address: "{admin_ip}", port_value: {admin_port}}}}}
dynamic_resources:
  cds_config: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}
  lds_config: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}
  ads_config:
    api_type: {api}
    transport_api_version: V3
    grpc_services: [{{envoy_grpc: {{cluster_name: control-plane}}}}]
static_resources:
  clusters:
  - name: control-plane
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {{connection_keepalive: {{interval: 30s, timeout: 10s}}}}
    load_assignment:
      cluster_name: control-plane
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: "{ip}", port_value: {port}}}}}}}
# Envoy's defaults differ from what Istio sets, and from what the routes were made for.
layered_runtime:
  layers:
  - name: istio
    static_layer:
      envoy.reloadable_features.http_reject_path_with_fragment: false
      re2.max_program_size.error_level: 32768
"#,
            id = self.id,
            namespace = self.namespace,
            labels = labels.join(", "),
            region = next(),
            zone = next(),
            subzone = next(),
            admin_ip = self.admin.ip(),
            admin_port = self.admin.port(),
            ip = self.control_plane.ip(),
            port = self.control_plane.port(),
        )
    }
}
