//! Every field of Istio's kinds, read and written; and what null, `{}` and a wrong word mean.

use serde::Deserialize;
use serde_yaml::Value;

use super::destination_rule::SimpleLb;
use super::*;

fn read(text: &str) -> Result<Object, String> {
    let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let text_of = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text_of("apiVersion"), text_of("kind"));
    let reader = serde_yaml::Deserializer::from_str(text);
    let object = Object::read(&api_version, &kind, reader).ok_or_else(|| format!("unknown kind `{kind}`"))?;
    object.map_err(|error| error.to_string())
}

/// Reads a document in which nothing is default, and demands that writing brings back every key of it, in order.
fn keeps_everything(text: &str) -> Object {
    let object = read(text).unwrap();
    let written = serde_yaml::to_string(&object).unwrap();
    assert_eq!(read(&written).as_ref(), Ok(&object));
    let [before, after] = [text, &written].map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    assert_eq!(after, before, "{written}");
    let [before, after] = [before, after].map(|document| keys(&document));
    assert_eq!(after, before);
    object
}

/// The keys of a document as they stand.
fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Mapping(entries) => entries
            .iter()
            .flat_map(|(key, value)| [vec![key.as_str().unwrap().to_owned()], keys(value)].concat())
            .collect(),
        Value::Sequence(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// Demands that every field a struct is declared with is written somewhere in a document.
fn is_maximal(source: &str, documents: &[&str]) {
    let written: Vec<String> = documents
        .iter()
        .flat_map(|text| keys(&serde_yaml::from_str(text).unwrap()))
        .map(|key| key.to_lowercase())
        .collect();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix("pub ")) {
        let Some((field, _)) = line.split_once(": ") else { continue };
        let field = field.trim_start_matches("r#").replace('_', "");
        assert!(written.contains(&field), "no document writes `{field}`");
    }
}

const VIRTUAL_SERVICE: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  generateName: reviews-
  namespace: shop
  uid: 7c0e
  resourceVersion: '91'
  generation: 3
  creationTimestamp: 2024-05-01T10:00:00Z
  deletionTimestamp: 2024-05-01T10:00:00.5Z
  labels: {app: reviews}
  annotations: {note: kept}
  ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: reviews, uid: 7c0f}]
spec:
  hosts: [reviews, '*.example.com']
  gateways: [mesh, edge/public]
  http:
  - name: all
    match:
    - name: block
      uri: {prefix: /reviews}
      scheme: {exact: https}
      method: {regex: GET|HEAD}
      authority: {exact: 'reviews:80'}
      headers: {end-user: {exact: jason}, x-any: {}, x-null: null}
      port: 9080
      sourceLabels: {app: front}
      gateways: [mesh]
      queryParams: {debug: {exact: ''}}
      ignoreUriCase: true
      withoutHeaders: {x-no: {regex: .*}}
      sourceNamespace: shop
      statPrefix: reviews
    - null
    route:
    - destination: {host: reviews, subset: v1, port: {number: 9080}}
      weight: 90
      headers:
        request: {set: {a: b}, add: {c: d}, remove: [e]}
        response: {set: {f: g}}
    - destination: {}
      weight: -1
    redirect:
      {uri: /, authority: a, port: 0, derivePort: FROM_PROTOCOL_DEFAULT, scheme: https, redirectCode: 308, prefixRewrite: /b}
    directResponse: {status: 503, body: {string: sorry, bytes: c29ycnk=}}
    delegate: {name: other, namespace: team}
    rewrite: {uri: /v2, authority: b, uriRegexRewrite: {match: ^/a, rewrite: /b}}
    timeout: 1m30s
    retries:
      attempts: 3
      perTryTimeout: 500ms
      retryOn: 5xx,reset
      retryRemoteLocalities: false
      retryIgnorePreviousHosts: false
      backoff: 25ms
    fault:
      delay: {percent: 10, fixedDelay: 5s, exponentialDelay: 1s, percentage: {value: 0.1}}
      abort: {httpStatus: 0, grpcStatus: UNAVAILABLE, http2Error: X, percentage: {}}
    mirror: {host: shadow}
    mirrors: [{destination: {host: shadow}, percentage: {value: 12.5}}, null]
    mirrorPercent: 0
    mirrorPercentage: {value: 100.0}
    corsPolicy:
      allowOrigin: ['*']
      allowOrigins: [{exact: https://a.example}, {regex: .*}]
      allowMethods: [GET]
      allowHeaders: [x-a]
      exposeHeaders: [x-b]
      maxAge: 24h
      allowCredentials: false
      unmatchedPreflights: IGNORE
    headers: {response: {remove: [server]}}
  - null
  tls:
  - match:
    - {sniHosts: [a.example], destinationSubnets: [10.0.0.0/8], port: 443, sourceLabels: {a: b}, gateways: [mesh],
       sourceNamespace: shop}
    - null
    route: [{destination: {host: a.example}, weight: 1}, null]
  tcp:
  - match:
    - {destinationSubnets: [10.0.0.1], port: 3306, sourceSubnet: 10.0.0.0/8, sourceLabels: {a: b}, gateways: [mesh],
       sourceNamespace: shop}
    route: [{destination: {host: db}, weight: 2}]
  exportTo: [., team]
status:
  conditions: [{type: Reconciled, status: true, weight: 1.5, count: 18446744073709551615, none: null}]
  observedGeneration: '3'
";

const DESTINATION_RULE: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      simple: UNSPECIFIED
      consistentHash:
        httpHeaderName: x-user
        httpCookie: {name: user, path: /, ttl: 0s, attributes: [{name: SameSite, value: Lax}]}
        useSourceIp: false
        httpQueryParameterName: user
        ringHash: {minimumRingSize: 1025}
        maglev: {tableSize: 251}
        minimumRingSize: 18446744073709551615
      localityLbSetting:
        distribute: [{from: 'r/z/*', to: {r/y/*: 20, r/z/*: 80}}]
        failover: [{from: r, to: s}]
        failoverPriority: [topology.istio.io/network]
        enabled: false
      zoneAwareLbSetting: {enabled: true, failover: [{from: r, to: s}], failoverPriority: [a=b], minClusterSize: 7}
      warmupDurationSecs: 10s
      warmup: {duration: 20s, minimumPercent: 0.0, aggression: 2.0}
    connectionPool:
      tcp:
        maxConnections: 100
        connectTimeout: 30ms
        tcpKeepalive: {probes: 3, time: 2h, interval: 1m15s}
        maxConnectionDuration: 1h
        idleTimeout: 0s
      http:
        http1MaxPendingRequests: 1
        http2MaxRequests: 2
        maxRequestsPerConnection: 3
        maxRetries: 4
        idleTimeout: 5s
        h2UpgradePolicy: UPGRADE
        useClientProtocol: true
        maxConcurrentStreams: 6
        http2KeepAlive: {interval: 7s, timeout: 8s}
    outlierDetection:
      consecutiveErrors: 1
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: 0
      consecutiveGatewayErrors: 0
      consecutive5xxErrors: 0
      interval: 1s
      baseEjectionTime: 2s
      maxEjectionPercent: 100
      minHealthPercent: 50
      outlierDetectionHttpErrorCodes: [500, 429]
    tls:
      mode: ISTIO_MUTUAL
      clientCertificate: /c
      privateKey: /k
      caCertificates: /a
      credentialName: secret
      subjectAltNames: [spiffe://x]
      sni: x
      insecureSkipVerify: false
      caCrl: /r
    portLevelSettings:
    - port: {number: 80}
      loadBalancer: {simple: ROUND_ROBIN}
      connectionPool: {}
      outlierDetection: {}
      tls: {}
    - null
    tunnel: {protocol: POST, targetHost: far, targetPort: 443}
    proxyProtocol: {version: V2}
    retryBudget: {percent: 0.0, minRetryConcurrency: 1, budgetInterval: 0s}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}
  - null
  exportTo: ['*']
  workloadSelector: {matchLabels: {app: front}}
status: {}
";

const GATEWAY: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public}
spec:
  servers:
  - port: {number: 443, protocol: HTTPS, name: https, targetPort: 8443}
    bind: 0.0.0.0
    hosts: [shop/*.example.com]
    tls:
      httpsRedirect: true
      mode: OPTIONAL_MUTUAL
      serverCertificate: /c
      privateKey: /k
      caCertificates: /a
      caCrl: /r
      credentialName: one
      credentialNames: [one, two]
      caCertCredentialName: three
      tlsCertificates: [{serverCertificate: /c, privateKey: /k, caCertificates: /a}]
      subjectAltNames: [spiffe://x]
      verifyCertificateSpki: [aGFzaA==]
      verifyCertificateHash: [ab12]
      minProtocolVersion: TLSV1_2
      maxProtocolVersion: TLSV1_3
      cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384]
      insecureSkipVerify: false
    defaultEndpoint: 127.0.0.1:80
    name: secure
  selector: {istio: ingressgateway}
status: {observedGeneration: 1}
";

const SERVICE_ENTRY: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: far}
spec:
  hosts: [far.example.com]
  addresses: [10.1.2.3]
  ports: [{number: 443, protocol: TLS, name: tls, targetPort: 8443}]
  location: MESH_INTERNAL
  resolution: DYNAMIC_DNS
  endpoints:
  - {address: 1.2.3.4, ports: {tls: 8443}, labels: {version: v1}, network: n1, locality: r/z, weight: 2, serviceAccount: far}
  workloadSelector: {labels: {app: far}}
  exportTo: ['~']
  subjectAltNames: [spiffe://x]
status:
  conditions: [{type: Reconciled}]
  validationMessages: [{type: {code: IST0101}}]
  observedGeneration: '7'
  addresses: [{value: 240.240.0.1, host: far.example.com}]
";

const SIDECAR: &str = r"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  workloadSelector: {labels: {app: front}}
  ingress:
  - port: {number: 9080, protocol: HTTP, name: http, targetPort: 80}
    bind: 0.0.0.0
    captureMode: NONE
    defaultEndpoint: unix:///run/app
    tls: {mode: SIMPLE}
    connectionPool: {http: {maxRetries: 1}}
  egress:
  - port: {number: 9081, name: http}
    bind: 127.0.0.1
    captureMode: IPTABLES
    hosts: [./*, ~legacy/*]
  inboundConnectionPool: {tcp: {maxConnections: 5}}
  outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: egress, port: {number: 443}}}
status: null
";

const WORKLOAD_ENTRY: &str = r"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm}
spec: {address: 1.2.3.4, ports: {http: 80}, labels: {app: vm}, network: n1, locality: r/z, weight: 1, serviceAccount: vm}
status: {}
";

#[test]
fn nothing_that_istio_names_is_lost() {
    let kinds = [
        (include_str!("virtual_service.rs"), VIRTUAL_SERVICE, "VirtualService"),
        (include_str!("destination_rule.rs"), DESTINATION_RULE, "DestinationRule"),
        (include_str!("gateway.rs"), GATEWAY, "Gateway"),
        (include_str!("service_entry.rs"), SERVICE_ENTRY, "ServiceEntry"),
        (include_str!("sidecar.rs"), SIDECAR, "Sidecar"),
        (include_str!("workload_entry.rs"), WORKLOAD_ENTRY, "WorkloadEntry"),
        (include_str!("metadata.rs"), VIRTUAL_SERVICE, "VirtualService"),
    ];
    for (source, document, kind) in kinds {
        is_maximal(source, &[document]);
        let object = keeps_everything(&document.replace("status: null\n", ""));
        assert_eq!((object.kind(), object.group()), (kind, "networking.istio.io"));
    }
}

#[test]
fn security_is_read_whole() {
    let documents = [
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}, spec: {selector: {matchLabels: \
         {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: DISABLE}, '81': {mode: PERMISSIVE}}}, status: {}}",
        "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {selector: {matchLabels: \
         {app: a}}, targetRef: {kind: Gateway}, targetRefs: [{kind: Service}], rules: [{from: [{source: {principals: [a], \
         notPrincipals: [a], requestPrincipals: [a], notRequestPrincipals: [a], namespaces: [a], notNamespaces: [a], \
         serviceAccounts: [a], notServiceAccounts: [a], ipBlocks: [a], notIpBlocks: [a], remoteIpBlocks: [a], \
         notRemoteIpBlocks: [a]}}], to: [{operation: {hosts: [a], notHosts: [a], ports: [a], notPorts: [a], methods: [a], \
         notMethods: [a], paths: [a], notPaths: [a]}}], when: [{key: a, values: [b], notValues: [c]}]}], action: CUSTOM, \
         provider: {name: a}}, status: {}}",
    ];
    for document in documents {
        keeps_everything(document);
    }
    let filter = "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: a}, spec: {workloadSelector: \
                  {labels: {app: a}}, targetRefs: [{kind: Gateway}], configPatches: [{applyTo: HTTP_FILTER, match: {context: \
                  ANY, proxy: {proxyVersion: a}, listener: {portNumber: 80}, routeConfiguration: {name: a}, cluster: {service: \
                  a}, waypoint: {filter: {}}}, patch: {operation: MERGE, value: {a: [1, {b: c}]}, filterClass: AUTHZ}}], \
                  priority: 10}, status: {}}";
    keeps_everything(filter);
    is_maximal(include_str!("envoy_filter.rs"), &[filter]);
    for source in [include_str!("peer_authentication.rs"), include_str!("authorization_policy.rs")] {
        is_maximal(source, &documents);
    }
}

#[test]
fn kubernetes_is_read_as_far_as_routing_looks() {
    let documents = [
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{name: http, protocol: TCP, appProtocol: http2, \
         port: 80, targetPort: http, nodePort: 30000}, {port: 81, targetPort: 8081}], selector: {app: a}, clusterIP: None, \
         clusterIPs: [None], type: ClusterIP, externalIPs: [1.2.3.4], sessionAffinity: None, externalName: x, \
         publishNotReadyAddresses: true}, status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, image: a, command: [a], args: [b], \
         ports: [{name: http, containerPort: 80, protocol: TCP}], env: [{name: A, value: b}], lifecycle: {preStop: {}}}], \
         serviceAccountName: a, nodeName: n, hostNetwork: true, hostname: a, subdomain: b}, status: {phase: Running, \
         conditions: [{type: Ready, status: 'True'}], podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {a: b}}, spec: {finalizers: [kubernetes]}, status: {}}",
        "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: 10.0.0.1, hostname: h, nodeName: n, \
         targetRef: {kind: Pod, namespace: b, name: a}}], notReadyAddresses: [{ip: 10.0.0.2}], \
         ports: [{name: http, port: 80, protocol: TCP, appProtocol: http}]}]}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 0, selector: {matchLabels: {a: b}, \
         matchExpressions: [{key: a, operator: Exists}]}, template: {metadata: {labels: {a: b}}, spec: {nodeName: n}}}, status: {}}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, addressType: IPv4, endpoints: [{addresses: \
         [10.0.0.1], conditions: {ready: false, serving: true, terminating: false}, hostname: h, targetRef: {kind: Pod, name: a}, \
         nodeName: n, zone: z}], ports: [{name: '', port: 0, protocol: TCP, appProtocol: http}]}",
    ];
    for document in documents {
        keeps_everything(document);
    }
    for source in [
        include_str!("service.rs"),
        include_str!("pod.rs"),
        include_str!("namespace.rs"),
        include_str!("endpoints.rs"),
        include_str!("deployment.rs"),
        include_str!("endpoint_slice.rs"),
    ] {
        is_maximal(source, &documents);
    }
}

#[test]
fn null_reads_as_absent() {
    let nulls = "{metadata: {name: null, labels: null, creationTimestamp: null}, spec: {hosts: null, http: null}, status: null}";
    assert_eq!(serde_yaml::from_str::<VirtualService>(nulls).unwrap(), VirtualService::default());
    let nulls = "{spec: {ports: null, clusterIP: null, publishNotReadyAddresses: null}, status: {loadBalancer: null}}";
    let service: Service = serde_yaml::from_str(nulls).unwrap();
    assert_eq!(service, Service { status: Some(Default::default()), ..Service::default() });
    let route: virtual_service::HttpRouteDestination =
        serde_yaml::from_str("{weight: null, destination: null}").unwrap();
    assert_eq!(route, Default::default());
    let rule: VirtualServiceSpec = serde_yaml::from_str("http: [null]").unwrap();
    assert_eq!(rule.http, [None]);
    assert_eq!(serde_yaml::from_str::<DestinationRule>("spec: null").unwrap(), DestinationRule::default());
}

#[test]
fn presence_is_kept() {
    let sidecar: SidecarSpec = serde_yaml::from_str("outboundTrafficPolicy: {}").unwrap();
    assert_eq!(sidecar.outbound_traffic_policy, Some(Default::default()));
    assert_eq!(serde_yaml::to_string(&sidecar).unwrap(), "outboundTrafficPolicy: {}\n");
}

#[test]
fn a_pattern_has_one_member_or_none() {
    let pattern = |text: &str| serde_yaml::from_str::<StringMatch>(text).map_err(|error| error.to_string());
    assert_eq!(pattern("{exact: a, prefix: null}"), Ok(StringMatch::Exact("a".into())));
    assert_eq!(pattern("{regex: ''}"), Ok(StringMatch::Regex(String::new())));
    assert_eq!(pattern("{}"), Ok(StringMatch::Present));
    for text in ["{exact: a, prefix: a}", "{prefix: a, regex: a}", "{exact: a, prefix: '', regex: a}"] {
        assert!(pattern(text).unwrap_err().contains("more than one of `exact`, `prefix`, `regex`"), "{text}");
    }
}

#[test]
fn a_word_may_be_a_number_but_not_another_word() {
    let word = |text: &str| serde_yaml::from_str::<SimpleLb>(text).map_err(|error| error.to_string());
    assert_eq!(word("RANDOM"), Ok(SimpleLb::Random));
    assert_eq!(word("5"), Ok(SimpleLb::LeastRequest));
    let expected =
        "expected one of `UNSPECIFIED`, `LEAST_CONN`, `RANDOM`, `PASSTHROUGH`, `ROUND_ROBIN`, `LEAST_REQUEST`";
    for (text, shown) in [("random", "random"), ("6", "6"), ("-1", "-1"), ("'5'", "5")] {
        assert_eq!(word(text), Err(format!("unknown value `{shown}`; {expected}")));
    }
    assert!(word("[RANDOM]").unwrap_err().contains(expected));
}

#[test]
fn the_kind_decides_and_older_versions_are_served() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = format!("{{apiVersion: networking.istio.io/{version}, kind: Gateway, metadata: {{name: a}}}}");
        let mut gateway = read(&text).unwrap();
        assert_eq!((gateway.api_version(), gateway.metadata().name.as_str()), ("networking.istio.io/v1", "a"));
        gateway.metadata_mut().namespace = "b".into();
        assert_eq!(gateway.metadata().namespace, "b");
    }
    for (api_version, kind) in [
        ("networking.istio.io/v2", "Gateway"),
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("v1", "Gateway"),
        ("", "Service"),
        ("/v1", "Service"),
        ("v1", "Deployment"),
        ("v1", "service"),
    ] {
        assert!(Object::read(api_version, kind, Value::Null).is_none(), "{api_version} {kind}");
    }
    let error = read("{apiVersion: v1, kind: Service, spec: {ports: [{port: 65536}]}}").unwrap_err();
    assert!(error.contains("65536"), "{error}");
}

#[test]
fn what_is_partly_modelled_says_so() {
    struct Name;
    impl<'de> serde::Deserializer<'de> for Name {
        type Error = serde::de::value::Error;
        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("?"))
        }
        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            name: &'static str,
            _: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom(name))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
            seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    fn name<'de, T: Deserialize<'de>>() -> String {
        T::deserialize(Name).map(drop).unwrap_err().to_string()
    }
    let open = [
        name::<Metadata>(),
        name::<PodSpec>(),
        name::<pod::Container>(),
        name::<ServiceSpec>(),
        name::<DeploymentSpec>(),
    ];
    assert_eq!(open, ["open:ObjectMeta", "open:PodSpec", "open:Container", "open:ServiceSpec", "open:DeploymentSpec"]);
    let closed = [name::<VirtualService>(), name::<VirtualServiceSpec>(), name::<StringMatch>(), name::<Service>()];
    assert_eq!(closed, ["VirtualService", "VirtualServiceSpec", "StringMatch", "Service"]);
}
