//! `exportTo`: who may see a resource.

use std::collections::BTreeSet;

use super::domain;
use super::field::Field;
use super::findings::Findings;

/// What it is that is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exported {
    /// A VirtualService, or a DestinationRule for all workloads.
    Rule,
    /// A DestinationRule for some workloads, which stays in its namespace.
    RuleOfSomeWorkloads,
    /// A ServiceEntry, which may be exported to nobody.
    Service,
}

/// Checks the entries, each for itself and then together.
pub(super) fn check(entries: &[String], exported: Exported, found: &mut Findings) {
    let field = Field::spec().key("exportTo");
    let namespace = found.namespace();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for (i, entry) in entries.iter().enumerate() {
        let key = if entry == "." { namespace.as_str() } else { entry.as_str() };
        if taken.contains(key) {
            found.error(&field.at(i), "duplicate-export", format!("`{entry}` names a namespace that is named before"));
        } else if let Err(message) = visibility(key, exported) {
            found.error(&field.at(i), "bad-export", message);
        } else {
            taken.insert(key);
        }
    }
    if exported == Exported::RuleOfSomeWorkloads
        && !taken.is_empty()
        && (taken.len() > 1 || !taken.contains(&*namespace))
    {
        let message = "a DestinationRule with a `workloadSelector` is exported to its own namespace only";
        found.error(&field, "selector-export", message);
    }
    for whole in ["*", "~"] {
        if taken.contains(whole) && entries.len() > 1 {
            found.error(&field, "mixed-export", format!("`{whole}` stands alone, without other entries"));
        }
    }
}

fn visibility(key: &str, exported: Exported) -> Result<(), String> {
    match key {
        "*" => Ok(()),
        "~" if exported == Exported::Service => Ok(()),
        "~" => Err("`~` is for a ServiceEntry only".into()),
        _ if domain::is_label(key) => Ok(()),
        _ => Err(format!("`{key}` is neither `.` nor `*` nor the name of a namespace")),
    }
}
