//! Rules that hand over to a delegate: a VirtualService without hosts whose rules take their place.
//!
//! Source: istio `pilot/pkg/model/virtualservice.go`, `mergeVirtualServicesIfNeeded` and `mergeHTTPRoutes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::virtual_service::{Rule, export, gateway_name, qualify_destinations};
use super::{Findings, Mesh};
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::virtual_service::{HttpMatchRequest, HttpRoute};
use crate::model::{Object, StringMatch};
use crate::resources::Resources;

/// The delegate's rules in place of the root's; none where there is no usable delegate.
pub(super) fn expand(
    root: &Rule,
    namespace: &str,
    resources: &Resources,
    mesh: &Mesh,
    findings: &mut Findings,
) -> Vec<Rule> {
    let Some(delegate) = &root.rule.delegate else { return Vec::new() };
    let home = if delegate.namespace.is_empty() { namespace } else { &delegate.namespace };
    let written_in = Arc::new(ResourceRef::new("VirtualService", home, &delegate.name));
    let usable = match resources.find(&written_in) {
        Some(Object::VirtualService(found)) if found.spec.hosts.is_empty() => Some(found),
        _ => None,
    };
    let usable = usable.filter(|found| export(found, mesh).reaches(namespace));
    let Some(found) = usable else {
        let message = format!("there is no delegate `{home}/{}` that is exported to `{namespace}`", delegate.name);
        let finding =
            Diagnostic::warning("unknown-delegate", message).at(&root.written_in, format!("{}.delegate", root.field));
        findings.push(finding.remedy("the rule has no effect until there is one"));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (index, rule) in found.spec.http.iter().enumerate() {
        let Some(rule) = rule else { continue };
        let mut leaf = Rule::written(rule, index, &written_in);
        for block in leaf.rule.r#match.iter_mut().flatten() {
            block.gateways = block.gateways.iter().map(|gateway| gateway_name(gateway, home)).collect();
        }
        qualify_destinations(&mut leaf.rule, home, mesh);
        let mut root = root.clone();
        qualify_destinations(&mut root.rule, namespace, mesh);
        match merge(&root, leaf) {
            Some(merged) => rules.push(merged),
            None => {
                let message = format!(
                    "the rule's matches contradict those of {}, {}, which delegates to it",
                    root.written_in, root.field
                );
                let finding =
                    Diagnostic::warning("delegate-conflict", message).at(&written_in, format!("spec.http[{index}]"));
                findings
                    .push(finding.remedy(
                        "narrow the delegate's matches to what the root's let through; the rule has no effect",
                    ));
            }
        }
    }
    rules
}

/// One rule of the delegate, seen through the root's; `None` where their matches contradict each other.
fn merge(root: &Rule, leaf: Rule) -> Option<Rule> {
    let (matches, blocks) = merge_matches(root, &leaf)?;
    let Rule { rule, written_in, field, .. } = leaf;
    let root = &root.rule;
    let name: Vec<&str> =
        [root.name.as_str(), rule.name.as_str()].into_iter().filter(|name| !name.is_empty()).collect();
    let merged = HttpRoute {
        name: name.join("-"),
        r#match: matches,
        rewrite: rule.rewrite.or_else(|| root.rewrite.clone()),
        direct_response: rule.direct_response.or_else(|| root.direct_response.clone()),
        timeout: rule.timeout.or(root.timeout),
        retries: rule.retries.or_else(|| root.retries.clone()),
        fault: rule.fault.or_else(|| root.fault.clone()),
        mirror: rule.mirror.or_else(|| root.mirror.clone()),
        mirrors: if rule.mirrors.is_empty() { root.mirrors.clone() } else { rule.mirrors },
        mirror_percent: rule.mirror_percent.or(root.mirror_percent),
        mirror_percentage: rule.mirror_percentage.or_else(|| root.mirror_percentage.clone()),
        cors_policy: rule.cors_policy.or_else(|| root.cors_policy.clone()),
        headers: rule.headers.or_else(|| root.headers.clone()),
        route: rule.route,
        redirect: rule.redirect,
        delegate: None,
    };
    Some(Rule { rule: merged, written_in, field, blocks })
}

type Merged = (Vec<Option<HttpMatchRequest>>, Vec<String>);

/// Every match of the delegate with every match of the root that it does not contradict. A match of the delegate that
/// contradicts all of the root's drops the whole rule.
fn merge_matches(root: &Rule, leaf: &Rule) -> Option<Merged> {
    if root.rule.r#match.is_empty() {
        return Some((leaf.rule.r#match.clone(), leaf.blocks.clone()));
    }
    if leaf.rule.r#match.is_empty() {
        return Some((root.rule.r#match.clone(), vec![leaf.field.clone(); root.rule.r#match.len()]));
    }
    let (mut merged, mut fields) = (Vec::new(), Vec::new());
    for (block, field) in leaf.rule.r#match.iter().zip(&leaf.blocks) {
        let block = block.clone().unwrap_or_default();
        let of_root = root.rule.r#match.iter().map(|block| block.clone().unwrap_or_default());
        let agreeing: Vec<_> = of_root.filter(|root| !contradict(root, &block)).collect();
        if agreeing.is_empty() {
            return None;
        }
        fields.extend(agreeing.iter().map(|_| field.clone()));
        merged.extend(agreeing.iter().map(|root| Some(merge_block(root, &block))));
    }
    Some((merged, fields))
}

fn merge_block(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    let name: Vec<&str> =
        [root.name.as_str(), leaf.name.as_str()].into_iter().filter(|name| !name.is_empty()).collect();
    let text = |leaf: &String, root: &String| if leaf.is_empty() { root.clone() } else { leaf.clone() };
    HttpMatchRequest {
        name: name.join("-"),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: union(&root.headers, &leaf.headers),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: union(&root.source_labels, &leaf.source_labels),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        query_params: union(&root.query_params, &leaf.query_params),
        ignore_uri_case: leaf.ignore_uri_case,
        without_headers: union(&root.without_headers, &leaf.without_headers),
        source_namespace: text(&leaf.source_namespace, &root.source_namespace),
        stat_prefix: text(&leaf.stat_prefix, &root.stat_prefix),
    }
}

fn union<V: Clone>(root: &BTreeMap<String, V>, leaf: &BTreeMap<String, V>) -> BTreeMap<String, V> {
    root.iter().chain(leaf).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether nothing that the root lets through could reach the leaf, as Istio sees it (`hasConflict`).
fn contradict(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let fields = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    fields.into_iter().any(|(root, leaf)| values_contradict(root.as_ref(), leaf.as_ref()))
        || maps.into_iter().any(|(root, leaf)| maps_contradict(root, leaf))
        || root.ignore_uri_case != leaf.ignore_uri_case
        || (root.port > 0 && leaf.port > 0 && root.port != leaf.port)
        || (!root.source_namespace.is_empty() && root.source_namespace != leaf.source_namespace)
        || root.source_labels.iter().any(|(key, value)| leaf.source_labels.get(key).is_some_and(|other| other != value))
        || (!root.gateways.is_empty()
            && !leaf.gateways.is_empty()
            && !leaf.gateways.iter().all(|gateway| root.gateways.contains(gateway)))
}

fn maps_contradict(root: &BTreeMap<String, Option<StringMatch>>, leaf: &BTreeMap<String, Option<StringMatch>>) -> bool {
    let present = Some(&StringMatch::Present);
    root.iter().any(|(key, root)| {
        leaf.get(key).is_some_and(|leaf| values_contradict(root.as_ref().or(present), leaf.as_ref().or(present)))
    })
}

fn values_contradict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root != leaf,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => {
            !leaf.starts_with(root.as_str())
        }
        _ => true,
    }
}
