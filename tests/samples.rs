//! `tests/samples` has one of everything that the kinds of `networking.istio.io` can say, as an operator would write it.
//! Each file is read strictly, admitted, resolved without an error for every kind of client, and means the same after
//! it was written out and read again.

use std::path::{Path, PathBuf};

use meshroute::{Diagnostic, Mesh, Plan, Precedence, Reading, Resources, Severity, Viewpoint, validate, yaml};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

/// Every sample with its name; the world that they stand in is one of them.
fn samples() -> Vec<(String, String)> {
    let files = meshroute::files_below(&folder()).expect("the folder can be listed");
    let text = |file: PathBuf| (file.display().to_string(), std::fs::read_to_string(&file).expect("it can be read"));
    let samples: Vec<_> = files.into_iter().map(text).collect();
    assert!(samples.len() > 5, "the samples are gone");
    samples
}

/// The sample in its world.
fn read(name: &str, text: &str) -> Resources {
    let (mut resources, mut findings) = Resources::load(folder().join("world.yaml"), Reading::Strict);
    if !name.ends_with("world.yaml") {
        findings.extend(resources.apply_text(text, name, Reading::Strict));
    }
    assert!(findings.is_empty(), "{name} is not read as it stands:\n{}", lines(&findings));
    resources
}

fn lines(findings: &[Diagnostic]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

fn clients() -> [Viewpoint; 3] {
    [
        Viewpoint::sidecar("shop").label("app", "front"),
        Viewpoint::sidecar("elsewhere"),
        Viewpoint::gateway("shop").label("istio", "edge"),
    ]
}

fn plans(resources: &Resources) -> Vec<(Plan, Vec<Diagnostic>)> {
    let meshes = [Precedence::LastApplied, Precedence::Istio].map(Mesh::with_precedence);
    let resolve = |client: Viewpoint| meshes.iter().map(move |mesh| Plan::resolve(resources, &client, mesh));
    clients().into_iter().flat_map(resolve).map(|resolution| (resolution.plan, resolution.findings)).collect()
}

#[test]
fn each_is_admitted_and_resolved() {
    for (name, text) in samples() {
        let resources = read(&name, &text);
        for resource in resources.iter() {
            let found = validate::validate(resource.object);
            assert!(found.is_empty(), "{name}, {}:\n{}", resource.reference, lines(&found));
        }
        for (_, found) in plans(&resources) {
            let errors: Vec<_> = found.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
            assert!(errors.is_empty(), "{name}:\n{}", lines(&errors));
        }
    }
}

#[test]
fn written_out_and_read_again_each_means_the_same() {
    for (name, text) in samples() {
        let resources = read(&name, &text);
        let mut again = Resources::new();
        for resource in resources.iter() {
            let written = yaml::write(resource.object).expect("every resource can be written");
            let found = again.apply_text(&written, "written", Reading::Strict);
            assert!(found.is_empty(), "{name}, {}:\n{written}\n{}", resource.reference, lines(&found));
            assert_eq!(again.find(resource.reference), Some(resource.object), "{name}:\n{written}");
        }
        let (before, after) = (plans(&resources), plans(&again));
        assert!(before.iter().zip(&after).all(|((before, _), (after, _))| before == after), "{name}");
    }
}
