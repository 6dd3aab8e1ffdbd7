//! Text to resources: guarded, and with file, document, line and field path in every message.
//!
//! All YAML of the crate is read and written here, and no type of the YAML library leaves this room. Knows syntax,
//! lines and what a word means to Kubernetes; knows of resources only that they have an `apiVersion`, a `kind` and a
//! name (and one habit of the people who write them: `weight` in the wrong place).
//!
//! The way of a text: `guard` bounds it and cuts it into documents, `node` makes each a tree with lines, `mend` puts
//! right what the lenient reader may, `typed` reads types out of the tree.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::diagnostic::{Diagnostic, Place, ResourceRef, Severity};

mod guard;
mod mend;
mod node;
mod path;
mod scalar;
mod typed;
mod write;

pub use guard::Limits;
pub use path::Lines;
pub use typed::{Refusal, Typed};
pub use write::write;

use node::{Fault, Node, Value};

/// How strictly to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Takes what was surely meant, with a warning: unknown fields are ignored, `1.10` is taken as a string where one
    /// is wanted, a `weight` inside `destination` counts.
    #[default]
    Lenient,
    /// Refuses what `kubectl apply` with strict validation refuses.
    Strict,
}

/// How to read a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How strictly.
    pub reading: Reading,
    /// How much of it.
    pub limits: Limits,
}

/// One resource as it was written, not yet of any type.
#[derive(Clone, Debug, PartialEq)]
pub struct RawDocument {
    /// File, number of the document, and the line on which the resource begins.
    pub place: Place,
    /// As written: `networking.istio.io/v1`.
    pub api_version: String,
    /// As written: `VirtualService`.
    pub kind: String,
    resource: Option<ResourceRef>,
    node: Node,
    /// What was found before any type was asked for.
    notes: Vec<Diagnostic>,
}

/// Reads every resource of a text: its documents, and the items of its lists.
///
/// A document that is broken becomes a diagnostic, and the others are read all the same. Documents without content are
/// passed over, and don't count.
///
/// ```
/// use meshroute::yaml::{Options, documents};
/// let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n]\n---\napiVersion: v1\nkind: Pod\n";
/// let (resources, findings) = documents(text, "a.yaml", &Options::default());
/// assert_eq!(resources.len(), 2);
/// assert_eq!(findings[0].place.as_ref().unwrap().line, 5);
/// ```
pub fn documents(text: &str, file: &str, options: &Options) -> (Vec<RawDocument>, Vec<Diagnostic>) {
    let limits = &options.limits;
    let file: Arc<str> = file.into();
    let (mut resources, mut findings) = (Vec::new(), Vec::new());
    if text.len() > limits.text {
        let message = format!("the text is longer than {} bytes", limits.text);
        findings.push(limit(message, Place { file, document: 1, line: 1 }));
        return (resources, findings);
    }
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    for piece in guard::split(text) {
        let place = Place { file: file.clone(), document: piece.number, line: piece.line };
        if piece.number as usize > limits.documents {
            findings.push(limit(format!("the text has more than {} documents", limits.documents), place));
            break;
        }
        match document(&piece, place, options) {
            Ok(found) => resources.extend(found.into_iter().filter_map(|raw| raw.map_err(|e| findings.push(*e)).ok())),
            Err(found) => findings.extend(found),
        }
    }
    (resources, findings)
}

fn limit(message: String, place: Place) -> Diagnostic {
    Diagnostic::error("yaml-limit", message).placed(place)
}

type Items = Vec<Result<RawDocument, Box<Diagnostic>>>;

/// The resources of one document; or, when it is broken, what is wrong with it.
fn document(piece: &guard::Piece<'_>, place: Place, options: &Options) -> Result<Items, Vec<Diagnostic>> {
    let text = guard::check(piece.text, &options.limits).map_err(|excess| {
        vec![limit(excess.what.to_string(), at(&place, piece.line.saturating_add(excess.line - 1)))]
    })?;
    let (root, faults) =
        node::parse(&text, piece.line, &options.limits).map_err(|fault| vec![told(&fault, &place, options)])?;
    let notes: Vec<_> = faults.iter().map(|fault| told(fault, &place, options)).collect();
    if faults.iter().any(|fault| !fault.bearable) {
        return Err(notes);
    }
    if root.is_null() {
        return Ok(Vec::new());
    }
    Ok(unwrap(root, notes, &place, options))
}

fn at(place: &Place, line: u32) -> Place {
    Place { line, ..place.clone() }
}

fn told(fault: &Fault, place: &Place, options: &Options) -> Diagnostic {
    let bearable = fault.bearable && options.reading == Reading::Lenient;
    let severity = if bearable { Severity::Warning } else { Severity::Error };
    let finding = Diagnostic::new(severity, fault.code, fault.message.as_str()).remedy(fault.remedy.as_str());
    finding.placed(at(place, fault.line))
}

/// Takes a `List` apart; anything else is its only item. The notes go with the first.
fn unwrap(root: Node, notes: Vec<Diagnostic>, place: &Place, options: &Options) -> Items {
    let list = root.get("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List"));
    if !list || !matches!(root.get("items").map(|items| &items.value), Some(Value::List(_))) {
        return vec![RawDocument::new(root, notes, place, options)];
    }
    let Value::Map(entries) = root.value else { return Vec::new() };
    let Some((_, Node { value: Value::List(items), .. })) = entries.into_iter().find(|(key, _)| key == "items") else {
        return Vec::new();
    };
    let mut notes = Some(notes);
    items.into_iter().map(|item| RawDocument::new(item, notes.take().unwrap_or_default(), place, options)).collect()
}

impl RawDocument {
    fn new(
        mut node: Node,
        mut notes: Vec<Diagnostic>,
        place: &Place,
        options: &Options,
    ) -> Result<Self, Box<Diagnostic>> {
        let place = at(place, node.line);
        let refuse = |code, message: String| Box::new(Diagnostic::error(code, message).placed(place.clone()));
        if !matches!(node.value, Value::Map(_)) {
            return Err(refuse("not-a-resource", format!("a resource is wanted here, not {}", node.noun())));
        }
        let word = |key: &str| node.get(key).and_then(Node::text).filter(|text| !text.is_empty()).map(str::to_owned);
        let Some(api_version) = word("apiVersion") else {
            return Err(refuse("not-a-resource", "the field `apiVersion` is missing".into()));
        };
        let Some(kind) = word("kind") else {
            return Err(refuse("not-a-resource", "the field `kind` is missing".into()));
        };
        let resource = reference(&node, &kind);
        if kind == "VirtualService" && api_version.starts_with("networking.istio.io/") {
            notes.extend(mend::weights(&mut node).iter().map(|found| misplaced(found, &place, options)));
        }
        for note in &mut notes {
            note.resource = resource.clone();
        }
        Ok(RawDocument { place, api_version, kind, resource, node, notes })
    }

    /// Kind, namespace and name, if it has a name. A missing namespace is `default`, except for kinds without one.
    pub fn resource(&self) -> Option<&ResourceRef> {
        self.resource.as_ref()
    }

    /// Reads it as a type, with the warnings that came up; or gives everything that is wrong.
    ///
    /// # Errors
    ///
    /// All findings, warnings among them, when at least one is an error.
    pub fn typed<T: DeserializeOwned>(&self, options: &Options) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        self.typed_with(options, |typed| T::deserialize(typed))
    }

    /// Like [`RawDocument::typed`], with a function that chooses the type.
    ///
    /// The function may be called several times: each time around one more value that it refused.
    ///
    /// # Errors
    ///
    /// As for [`RawDocument::typed`].
    pub fn typed_with<T>(
        &self,
        options: &Options,
        read: impl FnMut(Typed<'_>) -> Result<T, Refusal>,
    ) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        let report = typed::Report::new(options.reading, &self.place, options.limits.findings);
        let (value, found) = typed::read(&self.node, report, read);
        let mut findings = self.notes.clone();
        findings.extend(found.into_iter().map(|finding| Diagnostic { resource: self.resource.clone(), ..finding }));
        findings.sort_by_key(|finding| finding.place.as_ref().map_or(0, |place| place.line));
        match value {
            Some(value) if findings.iter().all(|finding| finding.severity < Severity::Error) => Ok((value, findings)),
            _ => Err(findings),
        }
    }

    /// The line of the field at `path`, or of the nearest field around it that is known.
    pub fn line_of(&self, path: &str) -> u32 {
        self.lines().line_of(path)
    }

    /// The lines of all its fields, to be kept with the resource.
    pub fn lines(&self) -> Lines {
        Lines::from(&self.node)
    }
}

/// Kinds without a namespace, as far as they are met here.
const CLUSTER_WIDE: [&str; 5] = ["Namespace", "Node", "GatewayClass", "CustomResourceDefinition", "ClusterTrustBundle"];

fn reference(node: &Node, kind: &str) -> Option<ResourceRef> {
    let metadata = node.get("metadata")?;
    let name = metadata.get("name").and_then(Node::text).filter(|name| !name.is_empty())?;
    let namespace = match metadata.get("namespace").filter(|node| !node.is_null()).and_then(Node::text) {
        _ if CLUSTER_WIDE.contains(&kind) => "",
        Some("") | None => "default",
        Some(namespace) => namespace,
    };
    Some(ResourceRef::new(kind, namespace, name))
}

fn misplaced(found: &mend::Misplaced, place: &Place, options: &Options) -> Diagnostic {
    let severity = if options.reading == Reading::Strict { Severity::Error } else { Severity::Warning };
    let message = match found.twice {
        false => "`weight` stands inside `destination`",
        true => "`weight` stands inside `destination` and beside it; the one beside it counts",
    };
    let remedy = match found.twice {
        false => "move it out one level, beside `destination`: Kubernetes refuses it where it stands",
        true => "remove the one inside: Kubernetes refuses it where it stands",
    };
    let mut finding = Diagnostic::new(severity, "weight-in-destination", message).remedy(remedy);
    finding.field = found.field.clone();
    finding.placed(at(place, found.line))
}

#[cfg(test)]
mod tests;
