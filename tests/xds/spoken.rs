//! Which HTTP a real Envoy speaks to endpoints: as the port's protocol and the DestinationRule say.

use std::net::SocketAddr;
use std::time::Duration;

use meshroute::adapter::xds::Flavor;

use crate::client::exchange;
use crate::plane::listens;
use crate::updates::Front;

const TEXT: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: 10.96.1.1
  selector: {app: shop}
  ports: [{name: http, port: 80}, {name: grpc, port: 81}, {name: anything, port: 82}]
---
apiVersion: v1
kind: Pod
metadata: {name: shop-1, labels: {app: shop}}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - {match: [{uri: {exact: /upgraded}}], route: [{destination: {host: shop, subset: upgraded, port: {number: 80}}}]}
  - route: [{destination: {host: shop}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets: [{name: upgraded, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}}]
";

/// The first word of what the endpoint gets: a method, or `PRI`, with which HTTP/2 begins (RFC 9113, section 3.4).
fn first_word(front: &Front, port: u16, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    let dialled = SocketAddr::from(([10, 96, 1, 1], port));
    exchange(front.entry, 0, dialled, request.as_bytes()).expect("Envoy listens");
    let received = front.upstreams.received(Duration::from_secs(5)).expect("it went somewhere");
    // Envoy may try again, since this endpoint does not speak HTTP/2.
    while front.upstreams.received(Duration::from_millis(100)).is_some() {}
    received.method
}

#[test]
#[ignore = "needs a real Envoy; .ci/run runs it"]
fn a_real_envoy_speaks_the_version_that_the_plan_says() {
    let front = Front::start("spoken", Flavor::Delta, |_| {});
    front.put(TEXT);
    front.plane.settle(1);
    listens(&front.envoy);
    assert_eq!(first_word(&front, 80, "/"), "GET");
    assert_eq!(first_word(&front, 81, "/"), "PRI", "a gRPC port");
    assert_eq!(first_word(&front, 82, "/"), "GET", "as the client speaks");
    assert_eq!(first_word(&front, 80, "/upgraded"), "PRI", "a rule's word");
    front.envoy.finish();
}
