//! The set, sorted by kind, with the pods that it makes and the hosts that it knows.

use std::collections::{BTreeMap, BTreeSet};

use super::Surroundings;
use super::hosts::Hosts;
use crate::diagnostic::ResourceRef;
use crate::kubernetes::pods;
use crate::model::{
    DestinationRule, Gateway, Metadata, Namespace, Object, Pod, Service, ServiceEntry, Sidecar, VirtualService,
};
use crate::resolve::Mesh;
use crate::resources::Resources;

/// Resources of one kind, by namespace and name.
pub(super) type Listed<'a, T> = Vec<(&'a ResourceRef, &'a T)>;

/// Everything that the analyzers look at.
pub(super) struct World<'a> {
    pub(super) resources: &'a Resources,
    pub(super) surroundings: &'a Surroundings,
    pub(super) mesh: &'a Mesh,
    pub(super) virtual_services: Listed<'a, VirtualService>,
    pub(super) destination_rules: Listed<'a, DestinationRule>,
    pub(super) gateways: Listed<'a, Gateway>,
    pub(super) services: Listed<'a, Service>,
    pub(super) entries: Listed<'a, ServiceEntry>,
    pub(super) sidecars: Listed<'a, Sidecar>,
    pub(super) namespaces: Listed<'a, Namespace>,
    /// Those that were written and, of those that a Deployment makes, one of each kind.
    pub(super) pods: Vec<Pod>,
    pub(super) hosts: Hosts,
}

/// The labels of Istio's own ingress gateway.
const INGRESS: (&str, &str) = ("istio", "ingressgateway");
/// The ports of its Service.
pub(super) const INGRESS_PORTS: [u16; 4] = [80, 443, 31_400, 15_443];
/// The `uid` of the pod that stands in for it.
const STAND_IN: &str = "stand-in";

impl<'a> World<'a> {
    pub(super) fn new(resources: &'a Resources, surroundings: &'a Surroundings, mesh: &'a Mesh) -> Self {
        macro_rules! all {
            ($kind:ident) => {
                resources
                    .iter()
                    .filter_map(|resource| match resource.object {
                        Object::$kind(object) => Some((resource.reference, object)),
                        _ => None,
                    })
                    .collect()
            };
        }
        let mut world = World {
            resources,
            surroundings,
            mesh,
            virtual_services: all!(VirtualService),
            destination_rules: all!(DestinationRule),
            gateways: all!(Gateway),
            services: all!(Service),
            entries: all!(ServiceEntry),
            sidecars: all!(Sidecar),
            namespaces: all!(Namespace),
            pods: distinct(resources),
            hosts: Hosts::default(),
        };
        world.hosts = Hosts::new(&world.services, &world.entries, &mesh.domain);
        world.add_ingress();
        world
    }

    /// Istio's own ingress gateway is seldom part of a set, and is not missed: a pod stands in for it, as in
    /// `istioctl analyze`.
    fn add_ingress(&mut self) {
        let (key, value) = INGRESS;
        if self.pods.iter().any(|pod| pod.metadata.labels.get(key).is_some_and(|found| found == value)) {
            return;
        }
        let metadata = Metadata {
            name: "istio-ingressgateway".into(),
            namespace: self.mesh.root_namespace.clone(),
            uid: STAND_IN.into(),
            labels: BTreeMap::from([(key.to_string(), value.to_string())]),
            ..Metadata::default()
        };
        self.pods.push(Pod { metadata, ..Pod::default() });
    }

    /// Whether a pod only stands in for Istio's ingress gateway.
    pub(super) fn is_stand_in(pod: &Pod) -> bool {
        pod.metadata.uid == STAND_IN
    }

    /// Whether the set says anything of workloads. One that does not holds configuration alone, and that a Service has
    /// no pods means nothing there.
    pub(super) fn has_workloads(&self) -> bool {
        self.resources.iter().any(|resource| {
            matches!(
                resource.object,
                Object::Pod(_)
                    | Object::Deployment(_)
                    | Object::EndpointSlice(_)
                    | Object::Endpoints(_)
                    | Object::WorkloadEntry(_)
            )
        })
    }
}

/// The pods, those of one Deployment counted once: they are all alike.
fn distinct(resources: &Resources) -> Vec<Pod> {
    let mut seen = BTreeSet::new();
    let written = |pod: &Pod| {
        let reference = ResourceRef::new("Pod", &pod.metadata.namespace, &pod.metadata.name);
        resources.find(&reference).is_some()
    };
    let mut all = pods(resources);
    all.retain(|pod| {
        written(pod) || seen.insert((pod.metadata.namespace.clone(), format!("{:?}", pod.metadata.labels)))
    });
    all
}
