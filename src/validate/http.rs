//! One HTTP rule of a VirtualService.

use super::field::Field;
use super::findings::Findings;
use super::{actions, domain, faults, headers, matches};
use crate::diagnostic::Diagnostic;
use crate::model::virtual_service::{Destination, HttpRoute, HttpRouteDestination, PortSelector};

/// What a rule may do depends on where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    /// The VirtualService has no hosts: others delegate to it.
    pub is_delegate: bool,
    /// The VirtualService was made from a resource of the Gateway API.
    pub from_gateway_api: bool,
}

/// Checks a rule.
pub(super) fn check(rule: &HttpRoute, around: Surroundings, field: &Field, found: &mut Findings) {
    if rule.delegate.is_some() && !around.is_delegate {
        root(rule, field, found);
    } else {
        conflicts(rule, around, field, found);
    }
    for (i, block) in rule.r#match.iter().enumerate() {
        if let Some(block) = block {
            matches::check(block, &field.key("match").at(i), found);
        }
    }
    headers::check(rule.headers.as_ref(), &field.key("headers"), found);
    authority_is_set_once(rule, field, found);
    actions::cors(rule.cors_policy.as_ref(), &field.key("corsPolicy"), found);
    faults::check(rule.fault.as_ref(), &field.key("fault"), found);
    mirrors(rule, field, found);
    actions::redirect(rule, &field.key("redirect"), found);
    actions::direct_response(rule.direct_response.as_ref(), &field.key("directResponse"), found);
    actions::retries(rule.retries.as_ref(), &field.key("retries"), found);
    actions::rewrite(rule.rewrite.as_ref(), &field.key("rewrite"), found);
    destinations(&rule.route, around, &field.key("route"), found);
    found.duration(&field.key("timeout"), rule.timeout);
}

/// A rule that delegates leaves the destination to its delegate.
fn root(rule: &HttpRoute, field: &Field, found: &mut Findings) {
    for (word, given) in [("redirect", rule.redirect.is_some()), ("route", !rule.route.is_empty())] {
        if given {
            let message = format!("a rule with `delegate` must not have `{word}`");
            found.error(&field.key(word), "delegate-conflict", message);
        }
    }
}

fn conflicts(rule: &HttpRoute, around: Surroundings, field: &Field, found: &mut Findings) {
    if around.is_delegate && rule.delegate.is_some() {
        let message = "a VirtualService without `hosts` is a delegate, and its rules must not delegate again";
        found.error(&field.key("delegate"), "nested-delegate", message);
    }
    let answers = [("redirect", rule.redirect.is_some()), ("directResponse", rule.direct_response.is_some())];
    let others =
        [("route", !rule.route.is_empty()), ("fault", rule.fault.is_some()), ("rewrite", rule.rewrite.is_some())];
    for (answer, _) in answers.iter().filter(|(_, given)| *given) {
        for (other, _) in others.iter().filter(|(_, given)| *given) {
            let message = format!("a rule must not have both `{answer}` and `{other}`");
            found.error(&field.key(answer), "action-conflict", message);
        }
    }
    match answers.iter().filter(|(_, given)| *given).count() {
        0 if rule.route.is_empty() => {
            found.error(field, "no-action", "a rule must have `route`, `redirect` or `directResponse`");
        }
        2 => found.error(field, "action-conflict", "a rule must not have both `redirect` and `directResponse`"),
        _ => {}
    }
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        found.error(&field.key("mirror"), "mirror-conflict", "a rule must not have both `mirror` and `mirrors`");
    }
}

/// One request has one authority.
fn authority_is_set_once(rule: &HttpRoute, field: &Field, found: &mut Findings) {
    let mut current = rule.rewrite.as_ref().map_or("", |rewrite| rewrite.authority.as_str());
    let Some(request) = rule.headers.as_ref().and_then(|headers| headers.request.as_ref()) else { return };
    for (_, value) in request.set.iter().chain(&request.add).filter(|(name, _)| headers::is_authority(name)) {
        if !current.is_empty() {
            let message = format!("the authority is set more than once: to `{current}` and to `{value}`");
            return found.error(&field.key("headers").key("request"), "authority-conflict", message);
        }
        current = value;
    }
}

fn mirrors(rule: &HttpRoute, field: &Field, found: &mut Findings) {
    if let Some(percent) = rule.mirror_percent {
        let field = field.key("mirrorPercent");
        found.percent(&field, percent.into());
        found.warning(&field, "deprecated-field", "`mirrorPercent` is deprecated; use `mirrorPercentage`");
    }
    if let Some(percentage) = &rule.mirror_percentage {
        found.percent(&field.key("mirrorPercentage").key("value"), percentage.value);
    }
    if let Some(mirror) = &rule.mirror {
        destination(mirror, &field.key("mirror"), found);
    }
    for (i, mirror) in rule.mirrors.iter().enumerate() {
        let field = field.key("mirrors").at(i);
        let Some((mirror, to)) = mirror.as_ref().and_then(|mirror| Some((mirror, mirror.destination.as_ref()?))) else {
            found.error(&field, "no-destination", "a mirror must have a `destination`");
            continue;
        };
        destination(to, &field.key("destination"), found);
        if let Some(percentage) = &mirror.percentage {
            found.percent(&field.key("percentage").key("value"), percentage.value);
        }
    }
}

fn destinations(route: &[Option<HttpRouteDestination>], around: Surroundings, field: &Field, found: &mut Findings) {
    for (i, entry) in route.iter().enumerate() {
        let headers = entry.as_ref().and_then(|entry| entry.headers.as_ref());
        headers::check(headers, &field.at(i).key("headers"), found);
    }
    let weighted: Vec<_> = route.iter().map(|e| e.as_ref().map(|e| (e.destination.as_ref(), e.weight))).collect();
    weights(&weighted, around.from_gateway_api, field, found);
}

/// Destinations and their weights, of HTTP, TLS and TCP rules alike.
pub(super) fn weights(
    route: &[Option<(Option<&Destination>, i32)>],
    from_gateway_api: bool,
    field: &Field,
    found: &mut Findings,
) {
    for (i, entry) in route.iter().enumerate() {
        let Some((to, weight)) = entry else {
            found.error(&field.at(i), "null-entry", "an entry must not be null");
            continue;
        };
        match to {
            None => found.error(&field.at(i), "no-destination", "an entry of `route` must have a `destination`"),
            Some(to) if !from_gateway_api => destination(to, &field.at(i).key("destination"), found),
            Some(_) => {}
        }
        if *weight < 0 {
            found.error(
                &field.at(i).key("weight"),
                "negative-weight",
                format!("weight `{weight}` must not be negative"),
            );
        }
    }
    let sum: i64 = route.iter().flatten().map(|(_, weight)| i64::from(*weight)).sum();
    if route.len() > 1 && sum == 0 {
        let finding = Diagnostic::error("no-weight", "the weights of several destinations sum to 0")
            .remedy("give each destination a `weight`, beside `destination`");
        found.add(field, finding);
    }
}

/// A service, its subset and its port.
pub(super) fn destination(to: &Destination, field: &Field, found: &mut Findings) {
    let host = if to.host == "*" { Err("`*` is no destination".into()) } else { domain::wildcard(&to.host) };
    found.check(&field.key("host"), "bad-host", host);
    if !to.subset.is_empty() {
        subset_name(&to.subset, &field.key("subset"), found);
    }
    if let Some(PortSelector { number }) = &to.port {
        found.port(&field.key("port").key("number"), *number);
    }
}

/// A subset's name is a DNS label.
pub(super) fn subset_name(name: &str, field: &Field, found: &mut Findings) {
    if name.is_empty() {
        found.error(field, "bad-subset-name", "a subset must have a name");
    } else if !domain::is_label(name) {
        found.error(field, "bad-subset-name", format!("`{name}` is no name for a subset: it is no DNS label"));
    }
}
