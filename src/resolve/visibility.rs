//! Who may see a resource: `exportTo`.

use super::Findings;
use crate::diagnostic::{Diagnostic, ResourceRef};

/// The namespaces that a resource is exported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Export {
    Everyone,
    Nobody,
    Only(Vec<String>),
}

impl Export {
    /// Reads a list: `*` wins, then `~`; `.` is the resource's own namespace. An empty list takes the default's place.
    pub(super) fn read(written: &[String], default: &[String], own: &str) -> Self {
        let list = if written.is_empty() { default } else { written };
        if list.iter().any(|entry| entry == "*") {
            Export::Everyone
        } else if list.iter().any(|entry| entry == "~") {
            Export::Nobody
        } else {
            Export::Only(list.iter().map(|entry| if entry == "." { own } else { entry }.to_string()).collect())
        }
    }

    /// Whether a client in a namespace sees it.
    pub(super) fn reaches(&self, namespace: &str) -> bool {
        match self {
            Export::Everyone => true,
            Export::Nobody => false,
            Export::Only(namespaces) => namespaces.iter().any(|known| known == namespace),
        }
    }
}

/// Tells where a list hides a rule from everybody: Istio's admission lets only services do so.
pub(super) fn note_nobody(written: &[String], resource: &ResourceRef, findings: &mut Findings) {
    if let Some(at) = written.iter().position(|entry| entry == "~")
        && !written.iter().any(|entry| entry == "*")
    {
        let message = format!("`~` hides the {} from everybody; only services may be hidden so", resource.kind);
        let finding = Diagnostic::error("export-to-nobody", message).at(resource, format!("spec.exportTo[{at}]"));
        findings.push(finding.remedy("delete it, or name the namespaces that see it; `.` is its own"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &[&str]) -> Export {
        let owned: Vec<String> = written.iter().map(ToString::to_string).collect();
        Export::read(&owned, &["*".to_string()], "own")
    }

    #[test]
    fn a_star_anywhere_reaches_everyone() {
        assert_eq!(read(&["a", "*"]), Export::Everyone);
        assert_eq!(read(&[]), Export::Everyone);
    }

    #[test]
    fn naming_another_namespace_hides_it_from_its_own() {
        assert!(!read(&["other"]).reaches("own"));
        assert!(read(&[".", "other"]).reaches("own"));
        assert!(!read(&["~"]).reaches("own"));
    }
}
