//! Labels, and the selectors that look for them (`pkg/config/labels/instance.go`, and Kubernetes' rules behind it).

use std::collections::BTreeMap;

use super::domain;
use super::field::Field;
use super::findings::Findings;

/// Every key and value is one that Kubernetes would take.
pub(super) fn check(labels: &BTreeMap<String, String>, field: &Field, found: &mut Findings) {
    for (key, value) in labels {
        let field = field.key(key);
        if !is_key(key) {
            found.error(&field, "bad-label", format!("`{key}` is no label key"));
        }
        if !value.is_empty() && !is_qualified(value) {
            found.error(&field, "bad-label", format!("`{value}` is no label value"));
        }
    }
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefixed = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(domain::has_label_shape));
    prefixed && name.len() <= 63 && is_qualified(name)
}

/// Letters, digits and inner `-`, `_`, `.`.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The labels of a selector: none is empty or holds `*`. A selector without any selects everything, with a warning.
/// Whether all is well.
pub(super) fn selector(labels: &BTreeMap<String, String>, field: &Field, found: &mut Findings) -> bool {
    let before = found.count();
    for (key, value) in labels {
        let field = field.key(key);
        if key.is_empty() {
            found.error(&field, "bad-selector", "the key of a selector must not be empty");
        }
        if key.contains('*') || value.contains('*') {
            found.error(&field, "bad-selector", format!("a selector has no wildcards: `{key}={value}`"));
        }
        if value.len() > 63 {
            found.error(&field, "bad-selector", "the value of a selector has at most 63 bytes");
        }
    }
    let good = found.count() == before;
    if labels.is_empty() {
        found.warning(field, "empty-selector", "the selector has no labels; it selects every workload");
    }
    good
}
