//! What the commands read: a file, a folder or standard input, and who asks.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use meshroute::analyze::Surroundings;
use meshroute::kubernetes::{assign_addresses, pods};
use meshroute::model::{Object, Pod};
use meshroute::{Diagnostic, Mesh, Precedence, Reader, Reading, ResourceRef, Resources, Severity};

use super::running::{self, Running};

/// Which resources are looked at.
#[derive(clap::Args)]
pub struct Input {
    /// A file or a folder with resources; `-` is standard input. May be given several times
    #[arg(short, long = "filename", value_name = "PATH")]
    file: Vec<PathBuf>,
}

/// Who wins where several VirtualServices claim one host.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Winner {
    /// As Istio has it: in the mesh the oldest one alone, at gateways all of them.
    Istio,
    /// The one applied later overrides the same rules of the earlier ones; the rest stands.
    LastApplied,
}

impl Winner {
    /// The mesh in which it is so.
    pub fn mesh(self) -> Mesh {
        Mesh::with_precedence(match self {
            Winner::Istio => Precedence::Istio,
            Winner::LastApplied => Precedence::LastApplied,
        })
    }
}

/// What was read.
pub struct World {
    /// The resources, with addresses for their services.
    pub resources: Resources,
    /// What stands around them.
    pub surroundings: Surroundings,
    /// What was found wrong on the way.
    pub findings: Vec<Diagnostic>,
}

impl Input {
    /// The paths, those without `-f` among them.
    pub fn paths(&self, more: &[PathBuf]) -> Vec<PathBuf> {
        self.file.iter().chain(more).cloned().collect()
    }
}

/// Reads what a running mesh has in force, or some paths; leniently.
///
/// # Errors
///
/// Neither a mesh nor a path was named, or the mesh does not answer.
pub fn read_all(paths: &[PathBuf], running: &Running) -> Result<World, String> {
    let Some(address) = running.address() else {
        return match paths {
            [] => Err("name a file or folder with `-f`, or a running mesh with `--mesh`".into()),
            _ => Ok(read(paths)),
        };
    };
    let mut reader = Reader::new(Reading::Lenient);
    reader.text(&running::resources(address)?, &format!("http://{address}/api/resources"));
    Ok(world(reader, ""))
}

/// Reads some paths leniently.
fn read(paths: &[PathBuf]) -> World {
    let mut reader = Reader::new(Reading::Lenient);
    let mut stdin = String::new();
    for path in paths {
        if path.as_os_str() != "-" {
            reader.path(path);
            continue;
        }
        match std::io::stdin().read_to_string(&mut stdin) {
            Ok(_) => reader.text(&stdin, "-"),
            Err(error) => reader.text(&format!("# {error}\n]\n"), "-"),
        }
    }
    world(reader, &stdin)
}

fn world(reader: Reader, stdin: &str) -> World {
    let mut world = World { resources: Resources::new(), surroundings: Surroundings::default(), findings: Vec::new() };
    world.findings = world.resources.apply_read(reader);
    world.surroundings = surroundings(&world.findings, stdin);
    assign_addresses(&mut world.resources);
    world
}

/// Reads what routing passed over once more, for what it says of certificates, nodes and the like.
fn surroundings(findings: &[Diagnostic], stdin: &str) -> Surroundings {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut surroundings = Surroundings::default();
    if let Some(now) = now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()) {
        surroundings = surroundings.at(now);
    }
    let passed_over = findings.iter().filter(|finding| finding.code == "unknown-kind");
    let mut files: Vec<&str> =
        passed_over.filter_map(|finding| finding.place.as_ref()).map(|place| &*place.file).collect();
    files.dedup();
    for file in files {
        let read = if file == "-" { Ok(stdin.to_string()) } else { std::fs::read_to_string(file) };
        surroundings.read(&read.unwrap_or_default(), file);
    }
    surroundings
}

/// Whether something could not be read at all: a file, or the YAML in it.
pub fn is_unreadable(finding: &Diagnostic) -> bool {
    let of_the_text = finding.resource.is_none() && finding.code.starts_with("yaml-");
    finding.severity == Severity::Error && (of_the_text || finding.code == "unreadable")
}

/// Whether a finding is worth a word: that a ConfigMap does not concern routing is not.
pub fn is_worth_telling(finding: &Diagnostic) -> bool {
    finding.code != "unknown-kind"
}

/// A client: its namespace, and its labels if it was given more closely.
#[derive(Debug)]
pub struct Client {
    /// The namespace.
    pub namespace: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The pod, if it is one.
    pub pod: Option<String>,
}

/// Finds out who is meant by `namespace`, `namespace/pod` or `namespace/key=value,..`.
pub fn client(text: &str, resources: &Resources) -> Result<Client, String> {
    let (namespace, rest) = text.split_once('/').unwrap_or((text, ""));
    let client = |labels, pod| Client { namespace: namespace.to_string(), labels, pod };
    if namespace.is_empty() || namespace.contains('=') {
        return Err(format!(
            "`{text}` names no namespace; write `namespace`, `namespace/pod` or `namespace/key=value`"
        ));
    }
    if rest.is_empty() {
        return Ok(client(BTreeMap::new(), None));
    }
    if rest.contains('=') {
        return Ok(client(labels(rest)?, None));
    }
    let pod = find_pod(namespace, rest, resources)?;
    Ok(client(pod.metadata.labels, Some(pod.metadata.name)))
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_string(), value.to_string())),
        _ => Err(format!("`{pair}` is no label; write `key=value`")),
    };
    text.split(',').filter(|part| !part.is_empty()).map(pair).collect()
}

/// A pod by its name, the name of its Deployment, or the beginning of its name, if that leaves no doubt.
fn find_pod(namespace: &str, name: &str, resources: &Resources) -> Result<Pod, String> {
    let mut of_namespace = pods(resources);
    of_namespace.retain(|pod| pod.metadata.namespace == namespace);
    if let Some(pod) = of_namespace.iter().find(|pod| pod.metadata.name == name) {
        return Ok(pod.clone());
    }
    if let Some(Object::Deployment(deployment)) = resources.find(&ResourceRef::new("Deployment", namespace, name)) {
        of_namespace.retain(|pod| meshroute::kubernetes::belongs(pod, deployment));
    } else {
        of_namespace.retain(|pod| pod.metadata.name.starts_with(name));
    }
    match of_namespace.as_slice() {
        [] => Err(format!("there is no pod `{name}` in namespace `{namespace}`; `meshroute get pods -A` lists them")),
        [first, rest @ ..] if rest.iter().all(|pod| pod.metadata.labels == first.metadata.labels) => Ok(first.clone()),
        several => {
            let names: Vec<String> = several.iter().map(|pod| format!("`{}`", pod.metadata.name)).collect();
            Err(format!("`{name}` may be {}", names.join(" or ")))
        }
    }
}
