//! What is wrong with somebody's configuration, in the words of the person who wrote it.
//!
//! Knows resources, fields and lines. Knows nothing of how a message is printed or what became of the rule.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Taken, but probably not as meant.
    Warning,
    /// Refused, or certain to fail when traffic reaches it.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Names one resource: kind, namespace and name.
///
/// ```
/// use meshroute::ResourceRef;
/// let nginx = ResourceRef::new("VirtualService", "default", "nginx");
/// assert_eq!(nginx.to_string(), "VirtualService default/nginx");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceRef {
    /// As in the resource's `kind`.
    pub kind: Arc<str>,
    /// Empty for kinds without a namespace.
    pub namespace: Arc<str>,
    /// As in `metadata.name`.
    pub name: Arc<str>,
}

impl ResourceRef {
    /// A reference from its three parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        ResourceRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A place in what the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The file as it was named when it was read; `-` for text without a file.
    pub file: Arc<str>,
    /// Which document of the file, from 1.
    pub document: u32,
    /// The line in the file, from 1; 0 where it is not known.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{} (document {})", self.file, self.document)
        } else {
            write!(f, "{}:{} (document {})", self.file, self.line, self.document)
        }
    }
}

/// One finding: where, what, and what to do about it.
///
/// Printed with `{}` it is one or two lines; the parts are there for those who print it another way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// A stable name for this kind of finding, in kebab case: `weight-in-destination`.
    pub code: std::borrow::Cow<'static, str>,
    /// How bad it is.
    pub severity: Severity,
    /// Which resource it is about, where one could be told.
    pub resource: Option<ResourceRef>,
    /// The field's path: `spec.http[0].route[1].destination`. Empty: the resource as a whole.
    pub field: String,
    /// Where that stands, where it is known.
    pub place: Option<Place>,
    /// What is wrong, lower case, no final period, the operator's own text in backticks.
    pub message: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl Diagnostic {
    /// A finding with a severity, a code and a message.
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic {
            code: code.into(),
            severity,
            resource: None,
            field: String::new(),
            place: None,
            message: message.into(),
            remedy: String::new(),
        }
    }

    /// [`Diagnostic::new`] with [`Severity::Error`].
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// [`Diagnostic::new`] with [`Severity::Warning`].
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// [`Diagnostic::new`] with [`Severity::Info`].
    pub fn info(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, code, message)
    }

    /// Says which resource and which field of it.
    pub fn at(mut self, resource: &ResourceRef, field: impl Into<String>) -> Self {
        self.resource = Some(resource.clone());
        self.field = field.into();
        self
    }

    /// Says where it stands.
    pub fn placed(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Says what to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {} [{}]", self.severity, self.message, self.code)?;
        match (&self.resource, self.field.is_empty()) {
            (Some(resource), true) => write!(f, "\n    in {resource}")?,
            (Some(resource), false) => write!(f, "\n    in {resource}, {}", self.field)?,
            (None, false) => write!(f, "\n    in {}", self.field)?,
            (None, true) => {}
        }
        if !self.remedy.is_empty() {
            write!(f, "\n    {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}
