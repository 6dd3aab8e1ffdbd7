//! Who wins where several VirtualServices claim one host.

use std::collections::BTreeSet;

use super::lower::LoweredRule;
use super::virtual_service::Root;
use super::{Findings, Precedence};
use crate::diagnostic::Diagnostic;
use crate::name::HostPattern;
use crate::plan::Route;

/// Folds the rules of several VirtualServices for one host, in order of application
/// ([`Precedence::LastApplied`]).
///
/// The later one's rules stand first, in their own order; earlier rules that are the same are dropped; catch-alls
/// stand last, the latest's only.
pub(super) fn fold(layers: &[&[LoweredRule<'_>]]) -> Vec<Route> {
    // Mostly there is one, and nothing to compare.
    let compared = |rule: &LoweredRule<'_>| if layers.len() > 1 { rule.sameness() } else { BTreeSet::new() };
    let mut rules: Vec<(&LoweredRule<'_>, BTreeSet<String>)> = Vec::new();
    let mut catch_all: Option<&LoweredRule<'_>> = None;
    for layer in layers {
        let (own_catch_all, own): (Vec<&LoweredRule<'_>>, Vec<_>) = layer.iter().partition(|rule| rule.catch_all);
        let mut own: Vec<_> = own.into_iter().map(|rule| (rule, compared(rule))).collect();
        let same: BTreeSet<_> = own.iter().map(|(_, sameness)| sameness).collect();
        rules.retain(|(_, sameness)| !same.contains(sameness));
        own.append(&mut rules);
        rules = own;
        catch_all = own_catch_all.first().copied().or(catch_all);
    }
    rules.into_iter().map(|(rule, _)| rule).chain(catch_all).flat_map(|rule| rule.routes.iter().cloned()).collect()
}

/// Joins the rules of several VirtualServices for one host at a gateway ([`Precedence::Istio`]): one behind the
/// other, then catch-alls behind everything else (istio `route.go`, `SortVHostRoutes`).
pub(super) fn join(layers: &[&[LoweredRule<'_>]]) -> Vec<Route> {
    let rules = layers.iter().flat_map(|layer| layer.iter());
    let split = rules.flat_map(|rule| {
        let last = rule.routes.len().saturating_sub(1);
        rule.routes.iter().enumerate().map(move |(at, route)| (rule.catch_all && at == last, route.clone()))
    });
    let (catch_alls, others): (Vec<_>, Vec<_>) = split.partition(|(catch_all, _)| *catch_all);
    others.into_iter().chain(catch_alls).map(|(_, route)| route).collect()
}

/// The rules of one VirtualService alone.
pub(super) fn alone(rules: &[LoweredRule<'_>]) -> Vec<Route> {
    rules.iter().flat_map(|rule| rule.routes.iter().cloned()).collect()
}

/// Says that several VirtualServices claim a host, what became of it, and what would under the other mode.
pub(super) fn note_conflict(
    host: &HostPattern,
    claimants: &[&Root],
    gateway: bool,
    mode: Precedence,
    findings: &mut Findings,
) {
    let [.., latest] = claimants else { return };
    let mut names: Vec<String> = claimants.iter().map(|root| root.resource.to_string()).collect();
    names.dedup();
    if names.len() < 2 {
        return;
    }
    let first = names.first().cloned().unwrap_or_default();
    let (now, else_) = match (mode, gateway) {
        (Precedence::LastApplied, false) => (
            format!(
                "the same rules of earlier ones are overridden by {}, the rest stands behind its rules",
                latest.resource
            ),
            "Istio's sidecars would take the oldest one alone (precedence `istio`)".to_string(),
        ),
        (Precedence::LastApplied, true) => (
            format!(
                "the same rules of earlier ones are overridden by {}, the rest stands behind its rules",
                latest.resource
            ),
            "Istio's gateways would put the rules of all behind each other, oldest first (precedence `istio`)"
                .to_string(),
        ),
        (Precedence::Istio, false) => (
            format!("{first} has the host alone in the mesh, the others have no effect there"),
            "precedence `last-applied` would let the later ones override the same rules and keep the rest".to_string(),
        ),
        (Precedence::Istio, true) => (
            "their rules stand behind each other, oldest first".to_string(),
            "precedence `last-applied` would let the later ones override the same rules".to_string(),
        ),
    };
    let message = format!("`{host}` is claimed by {}: {now}; {else_}", names.join(" and "));
    let finding = Diagnostic::warning("virtual-service-conflict", message).at(&latest.resource, "spec.hosts");
    findings.push(finding.remedy("write the rules for one host into one VirtualService where the order matters"));
}
