//! What clients of one view are sent: resources by kind and name, each encoded once, with a version that is the hash of
//! what it says. Equal configurations have equal versions, whoever made them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use prost::{Message, Name};

use super::proto::{pack, type_url};
use super::translation::Translation;
use crate::balance::xxh64;

/// The kinds of resources, in the order in which they are put in force: what is referred to comes before what refers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Clusters (CDS).
    Cluster,
    /// Their endpoints (EDS).
    Endpoints,
    /// Listeners (LDS).
    Listener,
    /// Their route tables (RDS).
    Route,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];

    /// The kind of a type's name: `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
    pub fn of(type_url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// Its type's name.
    pub fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// Whether who names nothing gets everything, and what is not sent is no longer there.
    pub(super) fn is_root(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }

    /// The kind that resources of this one need.
    pub(super) fn needed(self) -> Option<Kind> {
        match self {
            Kind::Cluster => Some(Kind::Endpoints),
            Kind::Listener => Some(Kind::Route),
            Kind::Endpoints | Kind::Route => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cluster => "CDS",
            Kind::Endpoints => "EDS",
            Kind::Listener => "LDS",
            Kind::Route => "RDS",
        })
    }
}

/// One resource, encoded.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) name: Arc<str>,
    pub(super) version: u64,
    /// The message with its type, as `google.protobuf.Any`.
    pub(super) any: Bytes,
    /// The names of those of the next kind that it cannot do without.
    pub(super) needs: Box<[Arc<str>]>,
}

impl Resource {
    fn new<M: Message + Name>(name: &str, message: &M, needs: Box<[Arc<str>]>) -> Self {
        let any = Bytes::from(pack(message).encode_to_vec());
        Resource { name: name.into(), version: xxh64(&any, xxh64(name.as_bytes(), 0)), any, needs }
    }

    /// One of which nothing is left but its name.
    pub(super) fn gone(name: &str) -> Self {
        Resource { name: name.into(), version: 0, any: Bytes::new(), needs: Box::from([]) }
    }
}

/// All resources of one kind.
#[derive(Debug, Default)]
pub(super) struct Set {
    by_name: BTreeMap<Arc<str>, Arc<Resource>>,
    /// All versions in one: a sum, so that the order does not matter.
    pub(super) version: u64,
}

impl Set {
    fn new(resources: impl Iterator<Item = Resource>) -> Self {
        let by_name: BTreeMap<_, _> =
            resources.map(|resource| (Arc::clone(&resource.name), Arc::new(resource))).collect();
        let version = by_name.values().fold(0u64, |sum, resource| sum.wrapping_add(resource.version));
        Set { by_name, version }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name)
    }

    /// In the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_name.values()
    }

    /// Takes from an older set what has not changed, so that equal resources are one.
    fn sharing(mut self, older: &Arc<Set>) -> Arc<Set> {
        if self.version == older.version && self.len() == older.len() {
            return Arc::clone(older);
        }
        for (name, resource) in &mut self.by_name {
            if let Some(known) = older.get(name).filter(|known| known.version == resource.version) {
                *resource = Arc::clone(known);
            }
        }
        Arc::new(self)
    }
}

/// Everything that a client of one view is sent, encoded and versioned.
///
/// Equal translations make equal snapshots, by whomever they are made: versions are hashes of what is sent.
#[derive(Clone, Default)]
pub struct Snapshot {
    sets: [Arc<Set>; 4],
    omitted: Arc<[String]>,
}

impl Snapshot {
    /// A translation, encoded.
    pub fn new(translation: &Translation) -> Self {
        Snapshot::after(&Snapshot::default(), translation)
    }

    /// A translation, encoded; what has not changed since an older one is shared with it.
    pub fn after(older: &Snapshot, translation: &Translation) -> Self {
        let made = Kind::ALL.map(|kind| encoded(kind, translation).sharing(older.set(kind)));
        Snapshot { sets: made, omitted: translation.omitted.as_slice().into() }
    }

    /// How many resources of a kind there are.
    pub fn len(&self, kind: Kind) -> usize {
        self.set(kind).len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.len(*kind) == 0)
    }

    /// The version of all resources of a kind.
    pub fn version(&self, kind: Kind) -> String {
        hex(self.set(kind).version)
    }

    /// What of the plan is not in it, and why.
    pub fn omitted(&self) -> &[String] {
        &self.omitted
    }

    pub(super) fn set(&self, kind: Kind) -> &Arc<Set> {
        &self.sets[kind as usize]
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("Snapshot");
        for kind in Kind::ALL {
            told.field(&kind.to_string(), &format_args!("{} at {}", self.len(kind), self.version(kind)));
        }
        told.finish()
    }
}

pub(super) fn hex(version: u64) -> String {
    format!("{version:016x}")
}

fn encoded(kind: Kind, translation: &Translation) -> Set {
    let nothing = || Box::from([]);
    match kind {
        Kind::Cluster => {
            Set::new(translation.clusters.iter().map(|known| Resource::new(&known.name, known, eds(known))))
        }
        Kind::Endpoints => {
            let made = |known: &ClusterLoadAssignment| Resource::new(&known.cluster_name, known, nothing());
            Set::new(translation.endpoints.iter().map(made))
        }
        Kind::Listener => {
            Set::new(translation.listeners.iter().map(|known| Resource::new(&known.name, known, rds(known))))
        }
        Kind::Route => {
            let made = |known: &RouteConfiguration| Resource::new(&known.name, known, nothing());
            Set::new(translation.routes.iter().map(made))
        }
    }
}

/// The endpoints that a cluster waits for: its own, unless it has them.
fn eds(known: &Cluster) -> Box<[Arc<str>]> {
    let waits = known.eds_cluster_config.iter().map(|config| match config.service_name.as_str() {
        "" => known.name.as_str().into(),
        name => name.into(),
    });
    waits.collect()
}

/// The route tables that a listener waits for.
fn rds(known: &Listener) -> Box<[Arc<str>]> {
    let chains = known.filter_chains.iter().chain(&known.default_filter_chain);
    let configs = chains.flat_map(|chain| &chain.filters).filter_map(|filter| filter.config_type.as_ref());
    let managers = configs.filter_map(|config| match config {
        ConfigType::TypedConfig(any) if any.type_url == type_url::<HttpConnectionManager>() => {
            HttpConnectionManager::decode(any.value.as_slice()).ok()
        }
        _ => None,
    });
    let named = managers.filter_map(|manager| match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name.as_str().into()),
        _ => None,
    });
    named.collect()
}
