//! Where endpoints stand as seen from the client: in which priority, and with which share.
//!
//! Source: istio `loadbalancer.go`, `ApplyLocalityLoadBalancer`.

use std::collections::BTreeMap;

use crate::model::destination_rule::{Distribute, LocalityLoadBalancerSetting};

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// 0 comes first; without gaps.
    pub(crate) priority: u32,
    /// The share of its locality, where shares were given.
    pub(crate) share: Option<u32>,
}

/// The place of each endpoint; `None` for those that get nothing. `here` and all localities are `region/zone/subzone`.
///
/// Without outlier detection nobody ever fails over, so that priorities are not made; shares are.
pub(crate) fn places(
    setting: Option<&LocalityLoadBalancerSetting>,
    detects: bool,
    here: &str,
    there: &[(&str, u32)],
) -> Vec<Option<Place>> {
    let all = || vec![Some(Place::default()); there.len()];
    // Who does not know where it is has no preference.
    if here.is_empty() || setting.is_some_and(|setting| setting.enabled == Some(false)) {
        return all();
    }
    let none = LocalityLoadBalancerSetting::default();
    let setting = setting.unwrap_or(&none);
    if !setting.distribute.is_empty() {
        let rule = setting.distribute.iter().find(|rule| fits(here, &rule.from));
        return rule.map_or_else(all, |rule| shared(rule, there));
    }
    if !detects {
        return all();
    }
    let ranks = there.iter().map(|(locality, _)| rank(setting, here, locality)).collect();
    without_gaps(ranks).into_iter().map(|priority| Some(Place { priority, share: None })).collect()
}

/// Whether a locality is one that a rule names; `*` stands for all the rest.
fn fits(locality: &str, rule: &str) -> bool {
    let mut parts = locality.split('/');
    for wanted in rule.split('/') {
        match wanted {
            "*" => return true,
            // What the rule leaves empty, or out, may be anything (istio `util.LocalityMatch`).
            "" => return true,
            wanted if parts.next() != Some(wanted) => return false,
            _ => {}
        }
    }
    true
}

/// Each target's percents, spread over the localities that it covers by their endpoints' weights.
fn shared(rule: &Distribute, there: &[(&str, u32)]) -> Vec<Option<Place>> {
    let mut places = vec![None; there.len()];
    for (target, percent) in &rule.to {
        let mut weights: BTreeMap<&str, u64> = BTreeMap::new();
        for ((locality, weight), place) in there.iter().zip(&places) {
            if place.is_none() && fits(locality, target) {
                *weights.entry(locality).or_default() += u64::from((*weight).max(1));
            }
        }
        let total: u64 = weights.values().sum();
        for ((locality, _), place) in there.iter().zip(&mut places).filter(|(_, place)| place.is_none()) {
            let Some(weight) = weights.get(locality) else { continue };
            let share = (weight * u64::from(*percent)).div_ceil(total.max(1));
            *place = (share > 0).then_some(Place { priority: 0, share: Some(share as u32) });
        }
    }
    places
}

fn rank(setting: &LocalityLoadBalancerSetting, here: &str, there: &str) -> u32 {
    let by_labels = by_labels(&setting.failover_priority, here, there);
    if !setting.failover_priority.is_empty() && setting.failover.is_empty() {
        return by_labels;
    }
    by_labels * 5 + by_distance(setting, here, there)
}

/// 0: the same subzone; 1: the zone; 2: the region; 3: another, 4: another that is not the one to turn to.
fn by_distance(setting: &LocalityLoadBalancerSetting, here: &str, there: &str) -> u32 {
    let part = |locality: &str, at: usize| locality.split('/').nth(at).unwrap_or_default().to_string();
    let same = (0..3).take_while(|at| part(here, *at) == part(there, *at)).count() as u32;
    if same > 0 {
        return 3 - same;
    }
    let turn_to = setting.failover.iter().find(|failover| failover.from == part(here, 0));
    if turn_to.is_some_and(|failover| failover.to != part(there, 0)) { 4 } else { 3 }
}

/// How many labels from the first that differs on. Only those of the topology are known of an endpoint here; another
/// label differs unless the rule gives it no value to compare with.
fn by_labels(labels: &[String], here: &str, there: &str) -> u32 {
    let differs = |label: &String| {
        let (name, value) = label.split_once('=').map_or((label.as_str(), None), |(name, value)| (name, Some(value)));
        let at = match name {
            "topology.kubernetes.io/region" => 0,
            "topology.kubernetes.io/zone" => 1,
            "topology.istio.io/subzone" => 2,
            _ => return value.is_some(),
        };
        let part = |locality: &'_ str| locality.split('/').nth(at).unwrap_or_default().to_string();
        value.map_or_else(|| part(here), ToString::to_string) != part(there)
    };
    labels.iter().position(differs).map_or(0, |at| (labels.len() - at) as u32)
}

fn without_gaps(ranks: Vec<u32>) -> Vec<u32> {
    let mut known = ranks.clone();
    known.sort_unstable();
    known.dedup();
    ranks.iter().map(|rank| known.partition_point(|known| known < rank) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::destination_rule::LocalityFailover;

    const THERE: [(&str, u32); 4] = [("eu/b/1", 1), ("eu/a/2", 1), ("us/a/1", 1), ("ap/a/1", 1)];

    fn priorities(setting: &LocalityLoadBalancerSetting, here: &str) -> Vec<u32> {
        let places = places(Some(setting), true, here, &THERE);
        places.iter().map(|place| place.expect("each has a place").priority).collect()
    }

    #[test]
    fn near_comes_first() {
        let mut setting = LocalityLoadBalancerSetting::default();
        assert_eq!(priorities(&setting, "eu/a/2"), [1, 0, 2, 2]);
        assert_eq!(priorities(&setting, "eu/a/9"), [1, 0, 2, 2]);
        assert_eq!(priorities(&setting, "sa/a/9"), [0, 0, 0, 0]);
        setting.failover = vec![LocalityFailover { from: "eu".into(), to: "ap".into() }];
        assert_eq!(priorities(&setting, "eu/a/2"), [1, 0, 3, 2]);
        setting = LocalityLoadBalancerSetting {
            failover_priority: vec!["topology.kubernetes.io/region".into(), "topology.kubernetes.io/zone".into()],
            ..Default::default()
        };
        assert_eq!(priorities(&setting, "eu/a/2"), [1, 0, 2, 2]);
        assert_eq!(places(Some(&setting), false, "eu/a/2", &THERE), vec![Some(Place::default()); 4]);
    }

    #[test]
    fn shares_as_given() {
        let to = [("eu/*".to_string(), 80), ("us/a/*".to_string(), 20)].into();
        let rule = Distribute { from: "eu/a/*".into(), to };
        let setting = LocalityLoadBalancerSetting { distribute: vec![rule], ..Default::default() };
        let shares = |here: &str| {
            let places = places(Some(&setting), false, here, &THERE);
            places.iter().map(|place| place.and_then(|place| place.share)).collect::<Vec<_>>()
        };
        assert_eq!(shares("eu/a/2"), [Some(40), Some(40), Some(20), None]);
        assert_eq!(shares("eu/b/2"), [None, None, None, None]);
    }
}
