//! Whether a match block takes everything that another one takes.
//!
//! Never says yes where some request falls under the second alone; says no where it cannot tell.

use std::collections::BTreeMap;

use crate::model::StringMatch;
use crate::model::virtual_service::HttpMatchRequest;
use crate::pattern::Pattern;

/// Header or query conditions by name.
type Named = BTreeMap<String, Option<StringMatch>>;

/// Whether every request, of whatever client, that falls under `b` falls under `a` as well.
pub(super) fn takes_all(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    takes_clients(a, b)
        && (a.port == 0 || a.port == b.port)
        && takes_paths(a, b)
        && takes_text(a.scheme.as_ref(), b.scheme.as_ref())
        && takes_text(a.method.as_ref(), b.method.as_ref())
        && takes_text(a.authority.as_ref(), b.authority.as_ref())
        && takes_named(&lower(&a.headers), &lower(&b.headers))
        && takes_named(&a.query_params, &b.query_params)
        && takes_absent(&lower(&a.without_headers), &lower(&b.without_headers))
}

/// Gateways, labels and namespace of the client. A list of gateways switches the other two off.
fn takes_clients(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    if !a.gateways.is_empty() {
        return !b.gateways.is_empty() && b.gateways.iter().all(|gateway| a.gateways.contains(gateway));
    }
    let open = a.source_labels.is_empty() && a.source_namespace.is_empty();
    open || (b.gateways.is_empty()
        && a.source_labels.iter().all(|(key, value)| b.source_labels.get(key) == Some(value))
        && (a.source_namespace.is_empty() || a.source_namespace == b.source_namespace))
}

fn takes_paths(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    let (Some(outer), Some(inner)) = (&a.uri, &b.uri) else { return a.uri.is_none() };
    match (outer, inner) {
        (StringMatch::Regex(_), StringMatch::Exact(_)) if b.ignore_uri_case => false,
        (StringMatch::Regex(_) | StringMatch::Present, _) => takes(outer, inner),
        _ if a.ignore_uri_case => takes(&lower_text(outer), &lower_text(inner)),
        (StringMatch::Exact(text) | StringMatch::Prefix(text), _) => {
            (!b.ignore_uri_case || !text.bytes().any(|byte| byte.is_ascii_alphabetic())) && takes(outer, inner)
        }
    }
}

fn takes_text(a: Option<&StringMatch>, b: Option<&StringMatch>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => takes(a, b),
        (Some(_), None) => false,
    }
}

/// Each condition of `a` must follow from the one that `b` has under the same name.
fn takes_named(a: &Named, b: &Named) -> bool {
    let present = &StringMatch::Present;
    a.iter().all(|(name, wanted)| {
        let given = b.get(name).map(|given| given.as_ref().unwrap_or(present));
        given.is_some_and(|given| takes(wanted.as_ref().unwrap_or(present), given))
    })
}

/// Nothing but the same condition is sure to follow from what must not be.
fn takes_absent(a: &Named, b: &Named) -> bool {
    a.iter().all(|(name, unwanted)| b.get(name) == Some(unwanted))
}

/// Whether every value that `inner` takes is taken by `outer`.
fn takes(outer: &StringMatch, inner: &StringMatch) -> bool {
    match (outer, inner) {
        (StringMatch::Present, _) => true,
        (StringMatch::Exact(a), StringMatch::Exact(b)) => a == b,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => b.starts_with(a.as_str()),
        (StringMatch::Regex(a), StringMatch::Exact(b)) => {
            Pattern::parse(a).is_ok_and(|pattern| pattern.is_full_match(b.as_bytes()))
        }
        (StringMatch::Regex(a), StringMatch::Regex(b)) => a == b,
        _ => false,
    }
}

fn lower(named: &Named) -> Named {
    named.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}

fn lower_text(text: &StringMatch) -> StringMatch {
    match text {
        StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
        StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> HttpMatchRequest {
        let options = crate::yaml::Options::default();
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec: {{http: [{{match: [{text}]}}]}}\n"
        );
        let (documents, _) = crate::yaml::documents(&text, "-", &options);
        let (service, _) = documents[0].typed::<crate::model::VirtualService>(&options).unwrap();
        service.spec.http[0].as_ref().unwrap().r#match[0].clone().unwrap()
    }

    #[test]
    fn what_is_surely_taken() {
        for (a, b) in [
            ("{uri: {prefix: /}}", "{uri: {exact: /x}, headers: {a: {exact: b}}}"),
            ("{uri: {prefix: /a}}", "{uri: {prefix: /ab}, method: {exact: POST}}"),
            ("{uri: {prefix: /A}, ignoreUriCase: true}", "{uri: {exact: /ab}}"),
            ("{uri: {prefix: /}}", "{uri: {prefix: /a}, ignoreUriCase: true}"),
            ("{uri: {regex: '/v[0-9]+'}}", "{uri: {exact: /v1}}"),
            ("{headers: {A: {}}}", "{headers: {a: {regex: 'x.*'}}}"),
            ("{sourceLabels: {app: a}}", "{sourceLabels: {app: a, v: b}}"),
            ("{gateways: [mesh, edge]}", "{gateways: [edge]}"),
            ("{}", "{port: 80}"),
        ] {
            assert!(takes_all(&block(a), &block(b)), "{a} {b}");
        }
    }

    #[test]
    fn what_may_slip_by() {
        for (a, b) in [
            ("{uri: {prefix: /a}, method: {exact: GET}}", "{uri: {prefix: /ab}}"),
            ("{headers: {a: {regex: x}}}", "{headers: {a: {regex: y}}}"),
            ("{uri: {prefix: /a}}", "{uri: {prefix: /a}, ignoreUriCase: true}"),
            ("{uri: {regex: /a}}", "{uri: {exact: /a}, ignoreUriCase: true}"),
            ("{sourceLabels: {app: a}}", "{gateways: [mesh], sourceLabels: {app: a}}"),
            ("{gateways: [edge]}", "{}"),
            ("{withoutHeaders: {a: {}}}", "{withoutHeaders: {a: {exact: b}}}"),
            ("{port: 80}", "{}"),
            ("{uri: {exact: /a}}", "{uri: {prefix: /a}}"),
        ] {
            assert!(!takes_all(&block(a), &block(b)), "{a} {b}");
        }
    }
}
