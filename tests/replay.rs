//! Every file that a fuzz target ever failed on, and one seed for each, run through the target's body.

#[path = "support/bodies.rs"]
mod bodies;
#[path = "support/openings.rs"]
mod openings;
#[path = "support/plans.rs"]
mod plans;

use std::path::{Path, PathBuf};

/// What a target does with its bytes.
type Body = fn(&[u8]);

/// The fuzz targets.
const TARGETS: [(&str, Body); 4] = [
    ("reading", bodies::reading),
    ("asking", bodies::asking),
    ("agreeing", bodies::agreeing),
    ("opening", openings::opening),
];

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions")
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("the entry can be read").path()).collect();
    files.sort();
    files
}

/// The published package has no `fuzz` folder at all, and nothing to replay.
fn is_packaged() -> bool {
    !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists()
}

fn replay(target: &str, body: Body) {
    if is_packaged() {
        return println!("there is no folder `fuzz`");
    }
    let files = listed(&kept().join(target));
    assert!(!files.is_empty(), "fuzz/regressions/{target} has no file, not even a seed");
    for file in &files {
        // Told before it runs, so that it stands above the panic's message.
        println!("{}", file.display());
        body(&std::fs::read(file).expect("the file can be read"));
    }
    println!("{target}: {} files", files.len());
}

#[test]
fn reading() {
    replay(TARGETS[0].0, TARGETS[0].1);
}

#[test]
fn asking() {
    replay(TARGETS[1].0, TARGETS[1].1);
}

#[test]
fn agreeing() {
    replay(TARGETS[2].0, TARGETS[2].1);
}

#[test]
fn opening() {
    replay(TARGETS[3].0, TARGETS[3].1);
}

#[test]
fn every_folder_has_a_target() {
    if is_packaged() {
        return;
    }
    for folder in listed(&kept()).iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap_or_default();
        assert!(TARGETS.iter().any(|(target, _)| name == *target), "nothing runs {}", folder.display());
    }
}
