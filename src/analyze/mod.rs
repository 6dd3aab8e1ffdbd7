//! What is wrong with a set of resources as a whole, beyond what each of them says alone.
//!
//! Two voices become one here: Istio's analyzers (their codes, `IST0101` and so on, and their severities), and what
//! [`Plan::resolve`](crate::Plan::resolve) finds when each client of the set asks. Where both speak of one field, the finding keeps Istio's
//! code and takes the words that say what becomes of a request. Where Istio's analyzer is known to cry wolf, it is
//! followed only as far as traffic agrees.
//!
//! Knows resources, plans and findings. Knows nothing of files and of how a finding is printed.
//!
//! Source: the analyzers that `istioctl analyze` runs, istio `pkg/config/analysis/analyzers`.

mod certificate;
mod destination_rule;
mod destinations;
mod envoy_filter;
mod gateway;
mod hosts;
mod implied;
mod service;
mod sidecar;
mod surroundings;
mod unreachable;
mod viewpoints;
mod virtual_service;
mod world;

pub use surroundings::Surroundings;

use crate::diagnostic::{Diagnostic, ResourceRef, Severity};
use crate::model::virtual_service::Destination;
use crate::model::{Object, VirtualService};
use crate::name::qualify;
use crate::resolve::Mesh;
use crate::resources::Resources;
use world::World;

/// Findings made on the way.
type Findings = Vec<Diagnostic>;

/// Everything that is wrong between some resources: errors first, then by resource and field.
///
/// ```
/// use meshroute::analyze::{Surroundings, findings};
/// use meshroute::{Mesh, Reading, Resources};
/// let mut resources = Resources::new();
/// let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web}\n\
///             spec: {hosts: [web], http: [{route: [{destination: {host: web, subset: v9}}]}]}\n";
/// resources.apply_text(text, "web.yaml", Reading::Lenient);
/// let found = findings(&resources, &Surroundings::default(), &Mesh::default());
/// assert_eq!(found[0].code, "IST0101");
/// assert_eq!(found[0].field, "spec.http[0].route[0].destination");
/// ```
pub fn findings(resources: &Resources, surroundings: &Surroundings, mesh: &Mesh) -> Vec<Diagnostic> {
    let world = World::new(resources, surroundings, mesh);
    let mut found = Findings::new();
    virtual_service::analyze(&world, &mut found);
    destinations::analyze(&world, &mut found);
    destination_rule::analyze(&world, &mut found);
    gateway::analyze(&world, &mut found);
    envoy_filter::analyze(resources, &mut found);
    service::analyze(&world, &mut found);
    sidecar::analyze(&world, &mut found);
    surroundings.analyze(&mut found);
    unreachable::analyze(&world, &mut found);
    for own in viewpoints::findings(&world) {
        join(own, &world, &mut found);
    }
    for finding in found.iter_mut().filter(|finding| finding.place.is_none()) {
        finding.place = finding.resource.as_ref().and_then(|resource| resources.place(resource, &finding.field));
    }
    found.sort_by(|a, b| order(a).cmp(&order(b)));
    found
}

fn order(finding: &Diagnostic) -> (std::cmp::Reverse<Severity>, &Option<ResourceRef>, &str) {
    (std::cmp::Reverse(finding.severity), &finding.resource, &finding.field)
}

/// Adds a finding of `resolve`, unless an analyzer has told it; then only its words are added.
fn join(own: Diagnostic, world: &World<'_>, found: &mut Findings) {
    let beside = |told: &&mut Diagnostic| told.resource == own.resource && told.field == own.field;
    let words = match &*own.code {
        "unknown-host" | "unknown-port" | "unknown-subset" => &["IST0101", "IST0112"][..],
        "virtual-service-conflict" => &["IST0109"],
        "no-endpoints" if !world.has_workloads() => return,
        "no-endpoints" => match told_of_subset(&own, world, found) {
            Some(told) => return also(told, &own),
            None => &[],
        },
        _ => &[],
    };
    match found.iter_mut().filter(beside).find(|told| words.contains(&&*told.code)) {
        Some(told) if told.code != "IST0112" => {
            told.message = own.message;
            told.remedy = own.remedy;
        }
        Some(_) => {}
        None => found.push(own),
    }
}

/// The finding that no pod carries the labels of the subset that another one is about.
fn told_of_subset<'f>(own: &Diagnostic, world: &World<'_>, found: &'f mut Findings) -> Option<&'f mut Diagnostic> {
    let resource = own.resource.as_ref()?;
    let to = destination(world, resource, &own.field)?;
    let domain = &world.mesh.domain;
    let host = qualify(&to.host, &resource.namespace, domain);
    let named = |told: &Diagnostic| {
        let rules = world.destination_rules.iter().filter(|(reference, rule)| {
            Some(*reference) == told.resource.as_ref() && qualify(&rule.spec.host, &reference.namespace, domain) == host
        });
        let mut subsets = rules.flat_map(|(_, rule)| rule.spec.subsets.iter().enumerate());
        subsets.any(|(at, subset)| {
            let named = subset.as_ref().is_some_and(|subset| subset.name == to.subset);
            named && told.field == destination_rule::subset_field(at)
        })
    };
    found.iter_mut().find(|told| told.code == "IST0173" && named(told))
}

/// Adds to a finding that a rule leads there.
fn also(told: &mut Diagnostic, own: &Diagnostic) {
    if let Some(resource) = &own.resource {
        told.message += &format!("; {resource}, {}, goes there", own.field);
    }
}

/// The destination of an http rule that a path like `spec.http[0].route[1].destination` leads to.
fn destination<'w>(world: &World<'w>, resource: &ResourceRef, field: &str) -> Option<&'w Destination> {
    let Some(Object::VirtualService(VirtualService { spec, .. })) = world.resources.find(resource) else { return None };
    let (rule, rest) = field.strip_prefix("spec.http[")?.split_once(']')?;
    let (route, rest) = rest.strip_prefix(".route[")?.split_once(']')?;
    let rule = spec.http.get(rule.parse::<usize>().ok()?)?.as_ref()?;
    let route = rule.route.get(route.parse::<usize>().ok()?)?.as_ref()?;
    route.destination.as_ref().filter(|_| rest == ".destination")
}

/// Labels in the form in which Kubernetes writes a selector: `app=web,tier=front`.
fn selector_words(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Names in backticks, with commas.
fn quoted(names: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
