//! A DestinationRule: its host, its policy and its subsets.

use std::collections::BTreeSet;

use super::export_to::{self, Exported};
use super::field::Field;
use super::findings::Findings;
use super::{domain, http, labels, traffic_policy};
use crate::model::DestinationRule;
use crate::model::destination_rule::Subset;

/// Checks a DestinationRule.
pub(super) fn check(rule: &DestinationRule, found: &mut Findings) {
    let (spec, field) = (&rule.spec, Field::spec());
    found.check(&field.key("host"), "bad-host", domain::wildcard(&spec.host));
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy::check(policy, &field.key("trafficPolicy"), found);
    }
    subsets(&spec.subsets, &field.key("subsets"), found);
    let exported = if spec.workload_selector.is_some() { Exported::RuleOfSomeWorkloads } else { Exported::Rule };
    export_to::check(&spec.export_to, exported, found);
    if let Some(selector) = &spec.workload_selector {
        labels::selector(&selector.match_labels, &field.key("workloadSelector").key("matchLabels"), found);
    }
}

fn subsets(subsets: &[Option<Subset>], field: &Field, found: &mut Findings) {
    let mut names = BTreeSet::new();
    for (i, subset) in subsets.iter().enumerate() {
        let field = field.at(i);
        let Some(subset) = subset else {
            found.error(&field, "null-entry", "a subset must not be null");
            continue;
        };
        let name = field.key("name");
        if !names.insert(subset.name.as_str()) {
            found.error(&name, "duplicate-subset", format!("subset `{}` is defined more than once", subset.name));
        }
        http::subset_name(&subset.name, &name, found);
        labels::check(&subset.labels, &field.key("labels"), found);
        if let Some(policy) = &subset.traffic_policy {
            found.without_warnings(|found| traffic_policy::check(policy, &field.key("trafficPolicy"), found));
        }
    }
}
