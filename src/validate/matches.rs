//! The conditions of an HTTP rule.

use std::collections::BTreeMap;

use super::field::Field;
use super::findings::Findings;
use super::{domain, headers, labels, virtual_service};
use crate::model::StringMatch;
use crate::model::virtual_service::HttpMatchRequest;
use crate::pattern::Pattern;

/// The longest pattern, in bytes.
const PATTERN: usize = 1024;

type Named = BTreeMap<String, Option<StringMatch>>;

/// One block of conditions.
pub(super) fn check(block: &HttpMatchRequest, field: &Field, found: &mut Findings) {
    with_headers(&block.headers, &field.key("headers"), found);
    without_headers(&block.without_headers, &field.key("withoutHeaders"), found);
    if let Some(StringMatch::Regex(pattern)) = &block.uri {
        regex(pattern, &field.key("uri"), found);
    }
    for (word, wanted) in [("scheme", &block.scheme), ("method", &block.method), ("authority", &block.authority)] {
        text(wanted.as_ref(), &field.key(word), found);
    }
    for (name, wanted) in &block.query_params {
        text(wanted.as_ref(), &field.key("queryParams").key(name), found);
    }
    place(block, field, found);
}

fn with_headers(wanted: &Named, field: &Field, found: &mut Findings) {
    for (name, wanted) in wanted {
        let field = field.key(name);
        if wanted.is_none() {
            found.error(&field, "null-match", format!("what header `{name}` is compared with must not be null"));
        }
        found.check(&field, "bad-header-name", headers::match_name(name));
        text(wanted.as_ref(), &field, found);
    }
}

/// `regex: '*'` is no pattern; here Istio reads it as "present".
fn without_headers(unwanted: &Named, field: &Field, found: &mut Findings) {
    for (name, unwanted) in unwanted {
        let field = field.key(name);
        found.check(&field, "bad-header-name", headers::match_name(name));
        if !matches!(unwanted, Some(StringMatch::Regex(pattern)) if pattern == "*") {
            text(unwanted.as_ref(), &field, found);
        }
    }
}

/// The conditions that are about the client and the listener.
fn place(block: &HttpMatchRequest, field: &Field, found: &mut Findings) {
    if block.port != 0 {
        found.port(&field.key("port"), block.port);
    }
    labels::check(&block.source_labels, &field.key("sourceLabels"), found);
    found.without_warnings(|found| virtual_service::gateways(&block.gateways, &field.key("gateways"), false, found));
    if !block.source_namespace.is_empty() && !domain::is_label(&block.source_namespace) {
        let message = format!("`{}` is no name of a namespace", block.source_namespace);
        found.error(&field.key("sourceNamespace"), "bad-namespace", message);
    }
}

/// A prefix is not empty, and a pattern is one.
fn text(wanted: Option<&StringMatch>, field: &Field, found: &mut Findings) {
    match wanted {
        Some(StringMatch::Prefix(prefix)) if prefix.is_empty() => {
            found.error(&field.key("prefix"), "empty-prefix", "a prefix must not be empty here");
        }
        Some(StringMatch::Regex(pattern)) => regex(pattern, field, found),
        _ => {}
    }
}

/// The pattern of a match in RE2's syntax, not empty.
pub(super) fn regex(pattern: &str, field: &Field, found: &mut Findings) {
    let field = field.key("regex");
    if pattern.is_empty() {
        return found.error(&field, "bad-regex", "a regex must not be empty");
    }
    found.check(&field, "bad-regex", compiles(pattern));
}

/// Whether a pattern is short enough, and one to RE2.
pub(super) fn compiles(pattern: &str) -> Result<(), String> {
    if pattern.len() > PATTERN {
        return Err(format!("a regex has at most {PATTERN} bytes"));
    }
    match Pattern::parse(pattern) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{pattern}` is no regex: {error}")),
    }
}
