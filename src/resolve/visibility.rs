//! Who may see a resource: `exportTo`.

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
