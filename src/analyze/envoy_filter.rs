//! What nobody here makes of an EnvoyFilter.

use super::Findings;
use crate::diagnostic::{Diagnostic, Severity};
use crate::limit;
use crate::model::Object;
use crate::resources::Resources;

/// A cluster carries out what is not understood here, so that is a remark and nothing worse; what Envoy refuses is an error.
pub(super) fn analyze(resources: &Resources, found: &mut Findings) {
    let remark = |finding: Diagnostic| match finding.severity {
        Severity::Error => finding,
        _ => Diagnostic { severity: Severity::Info, ..finding },
    };
    for resource in resources.iter() {
        if let Object::EnvoyFilter(filter) = resource.object {
            found.extend(limit::findings(filter, resource.reference).into_iter().map(remark));
        }
    }
}
