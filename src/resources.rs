//! The working set: what operators wrote, in the order in which they applied it.
//!
//! Knows which resource is there, since when, and where it was written. Knows nothing of what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Place, ResourceRef, Severity};
use crate::model::Object;
use crate::yaml::{self, Lines, Options, Reading};

/// Resources by kind, namespace and name, with their order of application.
///
/// ```
/// use meshroute::{Resources, Reading};
/// let mut resources = Resources::new();
/// let findings = resources.apply_text("apiVersion: v1\nkind: Service\nmetadata: {name: web}\n", "web.yaml", Reading::Strict);
/// assert!(findings.is_empty());
/// assert_eq!(resources.iter().count(), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Resources {
    entries: BTreeMap<ResourceRef, Entry>,
    revision: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    object: Arc<Object>,
    /// The revision in which its content last changed.
    applied: u64,
    source: Option<Source>,
}

/// Where a resource was written.
#[derive(Clone, Debug)]
struct Source {
    place: Place,
    lines: Arc<Lines>,
}

/// What [`Resources::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not there before.
    Created,
    /// It was there with other content; it is the latest now.
    Changed,
    /// It was there as it is; its place in the order stays.
    Unchanged,
}

/// A resource with the order in which it was applied.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Resource<'a> {
    /// What it is.
    pub object: &'a Object,
    /// Its kind, namespace and name.
    pub reference: &'a ResourceRef,
    /// Larger is later.
    pub applied: u64,
}

/// What a resource was before a change, with its order.
pub(crate) type Before = Option<(Arc<Object>, u64)>;

/// A resource that comes, changes, or (`now` is `None`) goes.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) reference: ResourceRef,
    now: Option<(Arc<Object>, Source)>,
}

/// What a reading says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Some of the resources.
    Part,
    /// All that there are: what it lacks is to go.
    Whole,
}

impl<'a> Resource<'a> {
    fn of((reference, entry): (&'a ResourceRef, &'a Entry)) -> Self {
        Resource { object: &entry.object, reference, applied: entry.applied }
    }
}

/// Resources that were read and not yet applied.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    read: Vec<(ResourceRef, Arc<Object>, Source)>,
    findings: Vec<Diagnostic>,
    options: Options,
}

impl Reader {
    /// A reader of this strictness, with the default limits.
    pub fn new(reading: Reading) -> Self {
        Reader { options: Options { reading, ..Options::default() }, ..Reader::default() }
    }

    /// Reads a text. `file` is what its messages are to say it is.
    pub fn text(&mut self, text: &str, file: &str) {
        let (documents, findings) = yaml::documents(text, file, &self.options);
        self.findings.extend(findings);
        for document in &documents {
            self.document(document);
        }
    }

    fn document(&mut self, document: &yaml::RawDocument) {
        let Some(reference) = document.resource() else {
            let message = format!("the {} has no name", document.kind);
            let finding = Diagnostic::error("no-name", message).placed(document.place.clone());
            self.findings.push(finding.remedy("write `metadata: {name: ..}`"));
            return;
        };
        let mut unknown = false;
        let typed = document.typed_with(&self.options, |typed| {
            Object::read(&document.api_version, &document.kind, typed)
                .transpose()
                .inspect(|object| unknown = object.is_none())
        });
        match typed {
            Ok((Some(mut object), findings)) => {
                self.findings.extend(findings);
                object.metadata_mut().namespace = reference.namespace.to_string();
                let source = Source { place: document.place.clone(), lines: Arc::new(document.lines()) };
                self.read.push((reference.clone(), Arc::new(object), source));
            }
            Ok((None, _)) => self.passed_over(document, reference),
            Err(_) if unknown => self.passed_over(document, reference),
            Err(findings) => self.findings.extend(findings),
        }
    }

    fn passed_over(&mut self, document: &yaml::RawDocument, reference: &ResourceRef) {
        let message = format!(
            "{} `{}` is of no kind that routing looks at; it is passed over",
            document.api_version, document.kind
        );
        let finding = Diagnostic::info("unknown-kind", message).at(reference, "").placed(document.place.clone());
        self.findings.push(finding);
    }

    /// Reads a file, or every `.yaml`, `.yml` and `.json` file below a folder, in the order of their paths. Hidden
    /// files and folders are passed over, and so are links to folders.
    pub fn path(&mut self, path: &Path) {
        let files = match files_below(path) {
            Ok(files) => files,
            Err(error) => return self.unreadable(path, &error),
        };
        for file in files {
            let limit = self.options.limits.text as u64;
            if std::fs::metadata(&file).is_ok_and(|file| file.len() > limit) {
                self.unreadable(&file, &format!("it is longer than {limit} bytes"));
                continue;
            }
            match std::fs::read(&file).map(String::from_utf8) {
                Ok(Ok(text)) => self.text(&text, &file.display().to_string()),
                Ok(Err(error)) => self.unreadable(&file, &error),
                Err(error) => self.unreadable(&file, &error),
            }
        }
    }

    fn unreadable(&mut self, path: &Path, error: &dyn std::fmt::Display) {
        let place = Place { file: path.display().to_string().into(), document: 1, line: 0 };
        self.findings.push(Diagnostic::error("unreadable", format!("cannot be read: {error}")).placed(place));
    }

    /// What was read, in its order.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.read.iter().map(|(_, object, _)| &**object)
    }

    /// What was found wrong so far.
    pub fn findings(&self) -> &[Diagnostic] {
        &self.findings
    }

    /// Whether something was refused.
    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// The files that are read for a path: itself, or, if it is a folder, every `.yaml`, `.yml` and `.json` file below it, in
/// the order of their paths. Hidden files and folders are passed over, and so are links to folders.
///
/// # Errors
/// What the operating system says of a path that is not there or may not be looked into.
pub fn files_below(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.retain(|entry| !entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let wanted =
            entry.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if std::fs::symlink_metadata(&entry)?.is_dir() {
            files.extend(files_below(&entry)?);
        } else if wanted && !entry.is_dir() {
            files.push(entry);
        }
    }
    Ok(files)
}

impl Resources {
    /// An empty set.
    pub fn new() -> Self {
        Resources::default()
    }

    /// Reads a file or folder; what could be read is in the set, the rest in the findings.
    pub fn load(path: impl AsRef<Path>, reading: Reading) -> (Self, Vec<Diagnostic>) {
        let mut reader = Reader::new(reading);
        reader.path(path.as_ref());
        let mut resources = Resources::new();
        let findings = resources.apply_read(reader);
        (resources, findings)
    }

    /// Applies a resource under its kind, namespace and name.
    pub fn apply(&mut self, object: impl Into<Object>) -> Applied {
        let object = object.into();
        let metadata = object.metadata();
        let reference = ResourceRef::new(object.kind(), &metadata.namespace, &metadata.name);
        self.put(reference, Arc::new(object), None)
    }

    /// Reads a text and applies what is in it.
    pub fn apply_text(&mut self, text: &str, file: &str, reading: Reading) -> Vec<Diagnostic> {
        let mut reader = Reader::new(reading);
        reader.text(text, file);
        self.apply_read(reader)
    }

    /// Applies what was read, in its order, and hands back what was found wrong.
    pub fn apply_read(&mut self, reader: Reader) -> Vec<Diagnostic> {
        let (changes, findings) = self.changes(reader, Scope::Part);
        changes.into_iter().for_each(|change| drop(self.take(change)));
        findings
    }

    /// Makes the set what was read: applies all of it and deletes whatever else is there. What did not change keeps
    /// its place in the order.
    pub fn replace(&mut self, reader: Reader) -> Vec<Diagnostic> {
        let (changes, findings) = self.changes(reader, Scope::Whole);
        changes.into_iter().for_each(|change| drop(self.take(change)));
        findings
    }

    /// What reading this comes to, one change of one resource after the other, and what was found wrong. Of what stays as it
    /// is only the place is noted, at once.
    pub(crate) fn changes(&mut self, reader: Reader, scope: Scope) -> (Vec<Change>, Vec<Diagnostic>) {
        let Reader { read, mut findings, .. } = reader;
        let kept: BTreeSet<&ResourceRef> = read.iter().map(|(reference, ..)| reference).collect();
        let gone = self.entries.keys().filter(|known| scope == Scope::Whole && !kept.contains(known));
        let mut changes: Vec<Change> = gone.map(|gone| Change { reference: gone.clone(), now: None }).collect();
        let mut given: BTreeMap<ResourceRef, Place> = BTreeMap::new();
        for (reference, object, source) in read {
            let before = given.insert(reference.clone(), source.place.clone());
            let same = self.entries.get_mut(&reference).filter(|entry| before.is_none() && entry.object == object);
            if let Some(before) = before {
                let message = format!("{reference} was already given at {before}; this one replaces it");
                let finding = Diagnostic::warning("applied-twice", message).at(&reference, "");
                findings.push(finding.placed(source.place.clone()).remedy("give one of the two another name"));
            }
            match same {
                Some(same) => same.source = Some(source),
                None => changes.push(Change { reference, now: Some((object, source)) }),
            }
        }
        (changes, findings)
    }

    /// Makes a change, and hands back what was there before; `None`: it is as it was.
    pub(crate) fn take(&mut self, change: Change) -> Option<Before> {
        let before = self.shared(&change.reference);
        let changed = match change.now {
            Some((object, source)) => self.put(change.reference, object, Some(source)) != Applied::Unchanged,
            None => self.delete(&change.reference),
        };
        changed.then_some(before)
    }

    fn put(&mut self, reference: ResourceRef, object: Arc<Object>, source: Option<Source>) -> Applied {
        let known = self.entries.get_mut(&reference);
        if let Some(entry) = known
            && entry.object == object
        {
            entry.source = source.or(entry.source.take());
            return Applied::Unchanged;
        }
        self.revision += 1;
        let before = self.entries.insert(reference, Entry { object, applied: self.revision, source });
        if before.is_some() { Applied::Changed } else { Applied::Created }
    }

    /// Replaces a resource without making it the latest: for what a cluster adds, not an operator.
    pub(crate) fn amend(&mut self, object: impl Into<Object>) {
        let object = object.into();
        let metadata = object.metadata();
        let reference = ResourceRef::new(object.kind(), &metadata.namespace, &metadata.name);
        if let Some(entry) = self.entries.get_mut(&reference) {
            entry.object = Arc::new(object);
        }
    }

    /// Deletes a resource; says whether it was there.
    pub fn delete(&mut self, reference: &ResourceRef) -> bool {
        let was_there = self.entries.remove(reference).is_some();
        self.revision += u64::from(was_there);
        was_there
    }

    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A resource by its name.
    pub fn find(&self, reference: &ResourceRef) -> Option<&Object> {
        self.entries.get(reference).map(|entry| &*entry.object)
    }

    /// A resource by its name, shared, with its order.
    pub(crate) fn shared(&self, reference: &ResourceRef) -> Before {
        self.entries.get(reference).map(|entry| (entry.object.clone(), entry.applied))
    }

    /// A resource by its name, with its order.
    pub(crate) fn get<'a>(&'a self, reference: &ResourceRef) -> Option<Resource<'a>> {
        let (reference, entry) = self.entries.get_key_value(reference)?;
        Some(Resource { object: &entry.object, reference, applied: entry.applied })
    }

    /// All resources, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = Resource<'_>> {
        self.entries.iter().map(Resource::of)
    }

    /// Those of one kind, by namespace and name.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = Resource<'_>> {
        let kind: Arc<str> = kind.into();
        let first = ResourceRef { kind: kind.clone(), namespace: "".into(), name: "".into() };
        self.entries.range(first..).take_while(move |(known, _)| known.kind == kind).map(Resource::of)
    }

    /// Where a field of a resource was written: its line, or that of the nearest field around it.
    pub fn place(&self, reference: &ResourceRef, field: &str) -> Option<Place> {
        let source = self.entries.get(reference)?.source.as_ref()?;
        Some(Place { line: source.lines.line_of(field), ..source.place.clone() })
    }
}
