//! A whole plan in Envoy's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::cluster::{blackhole, cluster, passthrough};
use super::endpoint::assignment;
use super::listener::Listeners;
use super::route::table;
use super::setup::Setup;
use crate::plan::{HttpTable, Plan, Target};

/// A plan as Envoy's own messages, which may be amended before they are sent.
///
/// ```
/// use meshroute::adapter::xds::{Setup, Translation};
/// use meshroute::{Mesh, Plan, Reading, Resources, Viewpoint};
/// let mut resources = Resources::new();
/// let text = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, name: http}]}}";
/// resources.apply_text(text, "web.yaml", Reading::Strict);
/// let client = Viewpoint::sidecar("default");
/// let plan = Plan::resolve(&resources, &client, &Mesh::default()).plan;
///
/// let made = Translation::of(&plan, &Setup::of(&client, ""));
/// assert_eq!(made.endpoints[0].cluster_name, "outbound|80||web.default.svc.cluster.local");
/// assert_eq!(made.routes[0].name, "80");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Translation {
    /// The way in, and the plan's listeners.
    pub listeners: Vec<Listener>,
    /// Their route tables.
    pub routes: Vec<RouteConfiguration>,
    /// The clusters that exist, and the two for what nobody claims.
    pub clusters: Vec<Cluster>,
    /// The endpoints of those whose endpoints are known by address.
    pub endpoints: Vec<ClusterLoadAssignment>,
    /// What of the plan is not in it, and why, in sentences.
    pub omitted: Vec<String>,
}

impl Translation {
    /// A plan, for an Envoy that is set up so.
    pub fn of(plan: &Plan, setup: &Setup) -> Self {
        let mut made = Translation::default();
        made.clusters.extend([passthrough(), blackhole()]);
        for known in plan.clusters.iter().filter(|known| known.exists) {
            let cluster = cluster(known, &setup.locality, &mut made.omitted);
            if cluster.eds_cluster_config.is_some() {
                made.endpoints.push(assignment(known, &setup.locality));
            }
            made.clusters.push(cluster);
        }
        let tables = tables(plan);
        let names = tables.iter().map(|(name, table)| (Arc::as_ptr(table), name.clone())).collect();
        made.listeners = Listeners { plan, setup, tables: &names }.all(&mut made.omitted);
        made.routes = tables.iter().map(|(name, known)| table(name, known, plan)).collect();
        made
    }
}

/// The route tables, each under a name of its own: where two have the same one, the later are numbered.
fn tables(plan: &Plan) -> Vec<(String, Arc<HttpTable>)> {
    let (mut known, mut taken) = (BTreeMap::new(), BTreeSet::new());
    let mut named = Vec::new();
    let chains = plan.listeners.iter().flat_map(|listener| &listener.chains);
    for table in chains.filter_map(|chain| if let Target::Http(table) = &chain.target { Some(table) } else { None }) {
        if known.insert(Arc::as_ptr(table), ()).is_some() {
            continue;
        }
        let mut name = table.name.to_string();
        for number in 2.. {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{}#{number}", table.name);
        }
        named.push((name, Arc::clone(table)));
    }
    named
}
