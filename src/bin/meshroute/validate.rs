//! `meshroute validate`: would Istio's admission take these resources?
//!
//! Reads as strictly as a cluster does, and prints; what is judged, and how, the library knows.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use meshroute::model::Object;
use meshroute::validate::{WorkloadGroup, validate, validate_workload_group};
use meshroute::yaml::{Options, RawDocument, documents};
use meshroute::{Diagnostic, Place, Reading, ResourceRef, Severity};
use serde_json::{Map, Value, json};

use super::input::Input;

/// What to validate, and how to print it.
#[derive(clap::Args)]
#[command(after_help = "\
Unknown fields are refused, as a cluster refuses them.

Examples:
  meshroute validate config/
  kubectl get vs,dr,gw,se -A -o yaml | meshroute validate -
  meshroute validate config/ --format json | jq '.[] | select(.valid | not)'

Exit status: 0 all are valid, 1 some are not, 2 something could not be read")]
pub struct Args {
    /// Files of YAML, folders of them, or `-` for standard input
    #[arg(required_unless_present = "file", value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    input: Input,
    /// How to print the verdicts
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A block for each finding, and a count
    Text,
    /// An array with one verdict for each resource
    Json,
}

/// What admission says of one resource, or that it could not be read.
struct Verdict {
    resource: Option<ResourceRef>,
    findings: Vec<Diagnostic>,
    is_readable: bool,
}

impl Verdict {
    fn is_valid(&self) -> bool {
        self.is_readable && self.count(Severity::Error) == 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Prints the verdicts. Exit status 0: all are valid; 1: some are not; 2: some could not be read.
pub fn run(args: &Args) -> ExitCode {
    let verdicts: Vec<Verdict> = args.input.paths(&args.paths).iter().flat_map(|path| judge(path)).collect();
    match args.format {
        Format::Json => print_json(&verdicts),
        Format::Text => print_text(&verdicts),
    }
    if verdicts.iter().any(|verdict| !verdict.is_readable) {
        return ExitCode::from(2);
    }
    if verdicts.iter().all(Verdict::is_valid) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(path: &Path) -> Vec<Verdict> {
    if path.as_os_str() == "-" {
        let mut text = Vec::new();
        return match std::io::stdin().lock().read_to_end(&mut text) {
            Ok(_) => judge_bytes(text, "-"),
            Err(error) => vec![unreadable(path, &error)],
        };
    }
    match meshroute::files_below(path) {
        Ok(files) => files.iter().flat_map(|file| judge_file(file)).collect(),
        Err(error) => vec![unreadable(path, &error)],
    }
}

fn judge_file(file: &Path) -> Vec<Verdict> {
    match std::fs::read(file) {
        Ok(text) => judge_bytes(text, &file.display().to_string()),
        Err(error) => vec![unreadable(file, &error)],
    }
}

fn judge_bytes(text: Vec<u8>, file: &str) -> Vec<Verdict> {
    match String::from_utf8(text) {
        Ok(text) => judge_text(&text, file),
        Err(error) => vec![unreadable(Path::new(file), &error)],
    }
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Verdict {
    let place = Place { file: path.display().to_string().into(), document: 1, line: 0 };
    let finding = Diagnostic::error("unreadable", format!("cannot be read: {error}")).placed(place);
    Verdict { resource: None, findings: vec![finding], is_readable: false }
}

/// One verdict for each resource, in order, and one for each document that is none.
fn judge_text(text: &str, file: &str) -> Vec<Verdict> {
    let options = Options { reading: Reading::Strict, ..Options::default() };
    let (resources, broken) = documents(text, file, &options);
    let mut verdicts: Vec<(u32, u32, Verdict)> =
        resources.iter().map(|raw| (raw.place.document, raw.place.line, judge_document(raw, &options))).collect();
    let mut by_document: BTreeMap<u32, Vec<Diagnostic>> = BTreeMap::new();
    for finding in broken {
        by_document.entry(finding.place.as_ref().map_or(0, |place| place.document)).or_default().push(finding);
    }
    for (document, findings) in by_document {
        let line = findings.first().and_then(|finding| finding.place.as_ref()).map_or(0, |place| place.line);
        verdicts.push((document, line, Verdict { resource: None, findings, is_readable: false }));
    }
    verdicts.sort_by_key(|(document, line, _)| (*document, *line));
    verdicts.into_iter().map(|(_, _, verdict)| verdict).collect()
}

fn judge_document(raw: &RawDocument, options: &Options) -> Verdict {
    let Some(resource) = raw.resource().cloned() else {
        let message = format!("the {} has no name", raw.kind);
        let finding = Diagnostic::error("no-name", message).placed(raw.place.clone());
        let nameless = ResourceRef::new(&raw.kind, "", "");
        return Verdict { resource: Some(nameless), findings: vec![finding], is_readable: true };
    };
    let mut findings = if raw.kind == "WorkloadGroup" && is_istio(raw) {
        judge_group(raw, &resource, options)
    } else {
        judge_object(raw, &resource, options)
    };
    for finding in findings.iter_mut().filter(|finding| finding.place.is_none()) {
        let line = raw.line_of(&finding.field);
        finding.place = Some(Place { line, ..raw.place.clone() });
    }
    findings.sort_by_key(|finding| finding.place.as_ref().map_or(0, |place| place.line));
    Verdict { resource: Some(resource), findings, is_readable: true }
}

fn is_istio(raw: &RawDocument) -> bool {
    let version = raw.api_version.strip_prefix("networking.istio.io/");
    version.is_some_and(|version| ["v1", "v1beta1", "v1alpha3"].contains(&version))
}

fn judge_object(raw: &RawDocument, resource: &ResourceRef, options: &Options) -> Vec<Diagnostic> {
    if NOT_JUDGED.contains(&raw.kind.as_str()) {
        return vec![unknown_kind(raw, resource)];
    }
    let mut is_known = true;
    let read = raw.typed_with(options, |typed| {
        let object = Object::read(&raw.api_version, &raw.kind, typed);
        is_known = object.is_some();
        object.transpose()
    });
    match read {
        _ if !is_known => vec![unknown_kind(raw, resource)],
        Ok((Some(mut object), mut findings)) => {
            object.metadata_mut().namespace = resource.namespace.to_string();
            findings.extend(validate(&object));
            findings
        }
        Ok((None, findings)) | Err(findings) => findings,
    }
}

fn judge_group(raw: &RawDocument, resource: &ResourceRef, options: &Options) -> Vec<Diagnostic> {
    match raw.typed::<WorkloadGroup>(options) {
        Ok((mut group, mut findings)) => {
            group.metadata.namespace = resource.namespace.to_string();
            findings.extend(validate_workload_group(&group));
            findings
        }
        Err(findings) => findings,
    }
}

/// Kinds of `networking.istio.io` that exist and are not judged here.
const NOT_JUDGED: [&str; 2] = ["EnvoyFilter", "ProxyConfig"];

/// A cluster refuses what Istio's group does not have; of other groups nothing is known here.
fn unknown_kind(raw: &RawDocument, resource: &ResourceRef) -> Diagnostic {
    let (api_version, kind) = (&raw.api_version, &raw.kind);
    if api_version.starts_with("networking.istio.io/") && !NOT_JUDGED.contains(&kind.as_str()) {
        return Diagnostic::error("unknown-kind", format!("Istio has no {api_version} `{kind}`")).at(resource, "");
    }
    Diagnostic::warning("not-judged", format!("{api_version} `{kind}` is not judged here")).at(resource, "")
}

fn print_json(verdicts: &[Verdict]) {
    let entries: Vec<String> = verdicts.iter().map(|verdict| entry(verdict).to_string()).collect();
    println!("[{}]", entries.join(",\n "));
}

fn entry(verdict: &Verdict) -> Value {
    let part = |part: fn(&ResourceRef) -> &str| verdict.resource.as_ref().map_or("", part);
    let of = |severity| -> Vec<Value> {
        verdict.findings.iter().filter(|finding| finding.severity == severity).map(finding).collect()
    };
    json!({
        "kind": part(|resource| &resource.kind),
        "namespace": part(|resource| &resource.namespace),
        "name": part(|resource| &resource.name),
        "valid": verdict.is_valid(),
        "warnings": of(Severity::Warning),
        "errors": of(Severity::Error),
    })
}

fn finding(finding: &Diagnostic) -> Value {
    let mut entry = Map::new();
    entry.insert("code".into(), finding.code.as_ref().into());
    entry.insert("path".into(), finding.field.as_str().into());
    let line = finding.place.as_ref().map_or(0, |place| place.line);
    if line > 0 {
        entry.insert("line".into(), line.into());
    }
    let message = match finding.remedy.as_str() {
        "" => finding.message.clone(),
        remedy => format!("{}; {remedy}", finding.message),
    };
    entry.insert("message".into(), message.into());
    Value::Object(entry)
}

fn print_text(verdicts: &[Verdict]) {
    for finding in verdicts.iter().flat_map(|verdict| &verdict.findings) {
        println!("{finding}");
    }
    println!("{}", summary(verdicts));
}

/// `3 resources: 2 valid, 1 refused; 2 errors, 0 warnings`.
fn summary(verdicts: &[Verdict]) -> String {
    let readable = verdicts.iter().filter(|verdict| verdict.is_readable).count();
    let valid = verdicts.iter().filter(|verdict| verdict.is_valid()).count();
    let sum = |severity| verdicts.iter().map(|verdict| verdict.count(severity)).sum::<usize>();
    let mut text = format!("{}: {valid} valid, {} refused", counted(readable, "resource"), readable - valid);
    if readable < verdicts.len() {
        text.push_str(&format!(", {} unreadable", verdicts.len() - readable));
    }
    let (errors, warnings) = (sum(Severity::Error), sum(Severity::Warning));
    format!("{text}; {}, {}", counted(errors, "error"), counted(warnings, "warning"))
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
