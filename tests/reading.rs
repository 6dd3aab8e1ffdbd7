//! The guard of the reader, seen from outside: whatever is written, the rest is applied, nothing takes long, and every
//! finding says file, document, line and code.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshroute::model::Object;
use meshroute::{Diagnostic, Reading, ResourceRef, Resources, Severity};

/// What was applied, and what was found: severity, code, document, line.
#[derive(Debug, PartialEq)]
struct Read {
    applied: Vec<String>,
    found: Vec<(Severity, String, u32, u32)>,
}

fn read(text: &str, reading: Reading) -> Read {
    let (resources, findings) = both(text, reading);
    Read { applied: applied(&resources), found: findings.iter().map(told).collect() }
}

fn both(text: &str, reading: Reading) -> (Resources, Vec<Diagnostic>) {
    let mut resources = Resources::new();
    let start = Instant::now();
    let findings = resources.apply_text(text, "mesh.yaml", reading);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?} for {} bytes", start.elapsed(), text.len());
    (resources, findings)
}

fn applied(resources: &Resources) -> Vec<String> {
    let mut all: Vec<_> = resources.iter().collect();
    all.sort_by_key(|resource| resource.applied);
    all.iter().map(|resource| resource.reference.to_string()).collect()
}

fn told(finding: &Diagnostic) -> (Severity, String, u32, u32) {
    let place = finding.place.as_ref().unwrap_or_else(|| panic!("no place: {finding}"));
    assert_eq!(&*place.file, "mesh.yaml", "{finding}");
    assert!(!finding.message.ends_with('.'), "{finding}");
    (finding.severity, finding.code.to_string(), place.document, place.line)
}

/// The only finding about a text of which nothing but the service behind it is applied.
fn refused(text: &str) -> (String, u32, u32) {
    let text = format!("{text}\n---\n{}", service("kept"));
    let read = read(&text, Reading::Lenient);
    assert_eq!(read.applied, ["Service default/kept"], "{:?}", read.found);
    let [(Severity::Error, code, document, line)] = read.found.as_slice() else { panic!("{:?}", read.found) };
    (code.clone(), *document, *line)
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
}

/// A VirtualService whose spec begins on line 4.
fn rules(spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\nspec:\n{spec}")
}

fn error(code: &str, document: u32, line: u32) -> (Severity, String, u32, u32) {
    (Severity::Error, code.into(), document, line)
}

fn warning(code: &str, document: u32, line: u32) -> (Severity, String, u32, u32) {
    (Severity::Warning, code.into(), document, line)
}

#[test]
fn alias_bombs_are_refused() {
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_string();
    for (before, name) in ('a'..='h').zip('b'..='i') {
        laughs += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 9].join(","));
    }
    let (code, document, line) = refused(&laughs);
    assert_eq!((code.as_str(), document), ("yaml-limit", 1));
    assert!((1..=10).contains(&line), "{line}");
    let wide = format!("{}a: &a [{}]\nb: [{}]\n", service("x"), "x,".repeat(1_500), "*a,".repeat(1_500));
    assert_eq!(refused(&wide).0, "yaml-limit");
}

#[test]
fn a_wall_of_brackets_is_refused_at_once() {
    for shape in ["{a: {a: ", "{a: ", "[", "[[", "{? ", "- ", "- - ", "? ", "\"a\": {"] {
        let wall = shape.repeat(500_000 / shape.len());
        let start = Instant::now();
        let (code, document, line) = refused(&wall);
        assert!(start.elapsed() < Duration::from_secs(2), "{shape}: {:?}", start.elapsed());
        assert_eq!((code.as_str(), document, line), ("yaml-limit", 1, 1), "{shape}");
    }
    let behind = format!("{}\n---\nkind: X\napiVersion: v1\nx: {}", service("a"), "{a: ".repeat(125_000));
    let read = read(&behind, Reading::Lenient);
    assert_eq!(read.applied, ["Service default/a"]);
    assert_eq!(read.found, [error("yaml-limit", 2, 8)]);
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let spec =
        "  hosts: [web]\n  http:\n  - route: [{destination: {host: a}}]\n    route: [{destination: {host: b}}]\n";
    assert_eq!(refused(&rules(spec)), ("duplicate-key".into(), 1, 8));
    let spec = "  hosts: [web]\n  http:\n  - match:\n    - headers:\n        a: {exact: x}\n        'a': {exact: y}\n";
    assert_eq!(refused(&rules(spec)), ("duplicate-key".into(), 1, 10));
    let labels = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {app: a, app: b}\n";
    assert_eq!(refused(labels), ("duplicate-key".into(), 1, 5));
}

#[test]
fn merge_keys_and_tags_are_refused() {
    let merge = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: &l {app: a}\n  annotations:\n    <<: *l\n";
    assert_eq!(refused(merge), ("yaml-merge-key".into(), 1, 7));
    assert_eq!(refused(&rules("  hosts: [!mine web]\n")), ("yaml-tag".into(), 1, 5));
}

/// Kubernetes refuses a number or a bool where a string is meant; the lenient reader takes the text as it stands.
#[test]
fn unquoted_words_that_are_no_strings() {
    let header = |word: &str| {
        rules(&format!("  hosts: [web]\n  http:\n  - match:\n    - headers:\n        v:\n          exact: {word}\n"))
    };
    for word in ["1.10", "true", "1", "yes", "010"] {
        let (resources, findings) = both(&header(word), Reading::Lenient);
        let [finding] = findings.as_slice() else { panic!("{word}: {findings:?}") };
        let (severity, code, document, line) = told(finding);
        assert_eq!((severity, document, line), (Severity::Warning, 1, 10), "{word}");
        assert_eq!(finding.field, "spec.http[0].match[0].headers.v.exact");
        let Some(Object::VirtualService(read)) = resources.find(&ResourceRef::new("VirtualService", "default", "web"))
        else {
            panic!("{word}: it was not applied")
        };
        assert!(format!("{read:?}").contains(&format!("{word:?}")), "the text stays as it was written: {read:?}");
        let strict = self::read(&header(word), Reading::Strict);
        assert_eq!(strict, Read { applied: Vec::new(), found: vec![error(&code, 1, 10)] }, "{word}");
        let quoted = self::read(&header(&format!("{word:?}")), Reading::Strict);
        assert_eq!(quoted, Read { applied: vec!["VirtualService default/web".into()], found: Vec::new() });
    }
}

#[test]
fn documents_are_read_one_by_one() {
    let text = format!(
        "# nothing\n---\n{}---\n{}spec: [\n---\n{}---\njust words\n---\n{}",
        service("a"),
        service("broken"),
        service("b"),
        "apiVersion: v1\nkind: Service\nmetadata: {}\n"
    );
    let read = read(&text, Reading::Strict);
    assert_eq!(read.applied, ["Service default/a", "Service default/b"]);
    let codes: Vec<_> = read.found.iter().map(|(_, code, document, _)| (code.as_str(), *document)).collect();
    assert_eq!(codes, [("yaml-syntax", 2), ("not-a-resource", 4), ("no-name", 5)]);
    assert_eq!((read.found[1].3, read.found[2].3), (16, 18));
}

#[test]
fn lists_are_taken_apart() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- 7\n\
                - apiVersion: v1\n  kind: Service\n  metadata: {name: b, namespace: other}\n  spce: {}\n";
    let strict = read(text, Reading::Strict);
    assert_eq!(strict.applied, ["Service default/a"]);
    assert_eq!(strict.found, [error("not-a-resource", 1, 7), error("unknown-field", 1, 11)]);
    let lenient = read(text, Reading::Lenient);
    assert_eq!(lenient.applied, ["Service default/a", "Service other/b"]);
    assert_eq!(lenient.found, [error("not-a-resource", 1, 7), warning("unknown-field", 1, 11)]);
}

#[test]
fn kinds_that_routing_does_not_look_at_are_noted() {
    let text = format!("{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata: {{a: 1}}\n", service("a"));
    for reading in [Reading::Lenient, Reading::Strict] {
        let read = read(&text, reading);
        assert_eq!(read.applied, ["Service default/a"]);
        assert_eq!(read.found, [(Severity::Info, "unknown-kind".into(), 2, 5)]);
    }
}

#[test]
fn weight_in_the_wrong_place_counts_when_lenient() {
    let text = rules("  hosts: [web]\n  http:\n  - route:\n    - destination:\n        host: a\n        weight: 80\n");
    let lenient = read(&text, Reading::Lenient);
    assert_eq!((lenient.applied.len(), lenient.found), (1, vec![warning("weight-in-destination", 1, 10)]));
    let strict = read(&text, Reading::Strict);
    assert_eq!((strict.applied.len(), strict.found), (0, vec![error("weight-in-destination", 1, 10)]));
}

/// A folder of its own for one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&folder);
        for (file, content) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap_or(&folder)).unwrap();
            std::fs::write(path, content).unwrap();
        }
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let (first, second) = (format!("{}---\n{}", service("d"), service("c")), service("b"));
    let folder = Folder::new(
        "reading-order",
        &[
            ("b/2.yml", second.as_bytes()),
            ("a.yaml", first.as_bytes()),
            ("b/1.json", br#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "e"}}"#),
            ("c.yaml", service("a").as_bytes()),
            ("notes.txt", b"kind: ["),
            (".hidden.yaml", b"kind: ["),
            (".git/x.yaml", b"kind: ["),
        ],
    );
    let (resources, findings) = Resources::load(&folder.0, Reading::Strict);
    assert_eq!(findings, []);
    assert_eq!(applied(&resources), ["d", "c", "e", "b", "a"].map(|name| format!("Service default/{name}")));
}

#[test]
fn findings_name_the_file() {
    let folder = Folder::new(
        "reading-files",
        &[
            ("1.yaml", service("a").as_bytes()),
            ("2.yaml", b"\xff\xfe"),
            ("3.yaml", format!("{}---\n{}spec: {{sessionAffinity: None}}\n", service("b"), service("a")).as_bytes()),
            ("4.yaml", b"a: ]\n"),
        ],
    );
    let (resources, findings) = Resources::load(&folder.0, Reading::Lenient);
    assert_eq!(applied(&resources).len(), 2);
    let mut named: Vec<_> = findings.iter().map(|finding| named(finding, &folder.0)).collect();
    named.sort();
    let wanted = [("2.yaml", "unreadable", 1), ("3.yaml", "applied-twice", 2), ("4.yaml", "yaml-syntax", 1)];
    assert_eq!(named, wanted.map(|(file, code, document)| (file.to_string(), code.to_string(), document)));
    let (_, findings) = Resources::load(folder.0.join("none.yaml"), Reading::Lenient);
    assert_eq!(findings.iter().map(|finding| &*finding.code).collect::<Vec<_>>(), ["unreadable"]);
}

fn named(finding: &Diagnostic, folder: &Path) -> (String, String, u32) {
    let place = finding.place.as_ref().unwrap();
    let file = Path::new(&*place.file).strip_prefix(folder).unwrap().display().to_string();
    (file, finding.code.to_string(), place.document)
}
