//! Preference by locality and by zone.

use std::collections::BTreeMap;

use super::field::Field;
use super::findings::Findings;
use crate::model::destination_rule::{Distribute, LocalityLoadBalancerSetting, ZoneAwareLoadBalancerSetting};

/// Labels that say where an endpoint is.
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Checks the preference by locality. What contradicts itself is looked at no further.
pub(super) fn check(setting: &LocalityLoadBalancerSetting, ejects: bool, field: &Field, found: &mut Findings) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        return found.error(field, "exclusive-fields", "only one of `distribute`, `failover` may be given");
    }
    if !setting.failover.is_empty() && topology_label(&setting.failover_priority, field, found) {
        return;
    }
    for (i, share) in setting.distribute.iter().enumerate() {
        if !shares(share, &field.key("distribute").at(i).key("to"), found) {
            return;
        }
    }
    let from: Vec<&str> = setting.distribute.iter().map(|share| share.from.as_str()).collect();
    found.check(&field.key("distribute"), "bad-locality", localities(&from));
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    warn_without_detection(fails_over && !ejects, field, found);
    for (i, failover) in setting.failover.iter().enumerate() {
        regions(&failover.from, &failover.to, &field.key("failover").at(i), found);
    }
}

/// Checks the balance between zones.
pub(super) fn zone_aware(setting: &ZoneAwareLoadBalancerSetting, ejects: bool, field: &Field, found: &mut Findings) {
    if topology_label(&setting.failover_priority, field, found) {
        return;
    }
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    warn_without_detection(fails_over && !ejects, field, found);
    for (i, failover) in setting.failover.iter().enumerate() {
        regions(&failover.from, &failover.to, &field.key("failover").at(i), found);
    }
    if setting.min_cluster_size == Some(0) {
        found.error(&field.key("minClusterSize"), "bad-cluster-size", "`minClusterSize` must be at least 1");
    }
}

/// Whether the priority names a label of the topology, which stands for `failover` already.
fn topology_label(priority: &[String], field: &Field, found: &mut Findings) -> bool {
    let Some(at) = priority.iter().position(|label| TOPOLOGY.contains(&label.as_str())) else { return false };
    let message = format!("`failoverPriority` must not name `{}` here", priority[at]);
    found.error(&field.key("failoverPriority").at(at), "topology-label", message);
    true
}

fn warn_without_detection(missing: bool, field: &Field, found: &mut Findings) {
    if missing {
        let message = "failover needs `outlierDetection`: without it no endpoint is known to be unhealthy";
        found.warning(field, "failover-without-outlier-detection", message);
    }
}

/// The shares of one locality's clients; whether they make sense.
fn shares(share: &Distribute, field: &Field, found: &mut Findings) -> bool {
    if let Some((locality, weight)) = share.to.iter().find(|(_, weight)| !(1..=100).contains(*weight)) {
        let message = format!("share `{weight}` is out of range: it goes from 1 to 100");
        found.error(&field.key(locality), "bad-share", message);
        return false;
    }
    let sum: u64 = share.to.values().map(|weight| u64::from(*weight)).sum();
    if sum != 100 {
        found.error(field, "bad-share", format!("the shares sum to {sum}, not to 100"));
        return false;
    }
    let to: Vec<&str> = share.to.keys().map(String::as_str).collect();
    found.check(field, "bad-locality", localities(&to));
    true
}

fn regions(from: &str, to: &str, field: &Field, found: &mut Findings) {
    if from == to {
        found.error(field, "bad-failover", format!("`{from}` must not fail over to itself"));
    }
    if from.contains('/') || to.contains('/') {
        found.error(field, "bad-failover", "failover is between regions; zones have no place here");
    }
    if from.contains('*') || to.contains('*') {
        found.error(field, "bad-failover", "the regions of a failover have no wildcards");
    }
}

/// Zones of a region, subzones of a zone.
type Known<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a str>>>;

/// Localities are well-formed, and none covers a later one. Which is earlier matters, as `*` must not come before others.
fn localities(localities: &[&str]) -> Result<(), String> {
    let mut known = Known::new();
    for locality in localities {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            return Err(format!("`{locality}` may have one `*`, at its end"));
        }
        let parts: Vec<&str> = locality.splitn(3, '/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(format!("`{locality}` has an empty region, zone or subzone"));
        }
        if known.contains_key("*") || !enter(&parts, &mut known) {
            return Err(format!("`{locality}` overlaps with another locality"));
        }
    }
    Ok(())
}

/// Adds a locality; false if it overlaps with one that is known.
fn enter<'a>(parts: &[&'a str], known: &mut Known<'a>) -> bool {
    let (region, zone, subzone) = match *parts {
        [region] => (region, "*", "*"),
        [region, zone] => (region, zone, "*"),
        [region, zone, subzone, ..] => (region, zone, subzone),
        [] => return true,
    };
    if parts.len() == 1 && known.contains_key(region) {
        return false;
    }
    let zones = known.entry(region).or_default();
    if zones.contains_key("*") || (parts.len() == 2 && zones.contains_key(zone)) {
        return false;
    }
    let subzones = zones.entry(zone).or_default();
    if subzones.contains(&"*") || subzones.contains(&subzone) {
        return false;
    }
    subzones.push(subzone);
    true
}
