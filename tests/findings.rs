//! The guide's list of findings is complete, and names none that does not exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rooms whose findings the guide lists.
const ROOMS: [&str; 6] = ["src/yaml", "src/resources.rs", "src/resolve", "src/analyze", "src/authorize", "src/limit"];

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    entries.flat_map(|entry| files(&entry.unwrap().path())).collect()
}

fn source() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ROOMS.iter().flat_map(|room| files(&root.join(room)));
    files.map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// The codes that stand first in the rows of the guide's tables.
fn listed() -> BTreeSet<String> {
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/findings.md")).unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_string());
    guide.lines().filter_map(row).collect()
}

/// The codes with which the source makes findings.
fn made(source: &str) -> BTreeSet<String> {
    let makers = ["Diagnostic::error(", "Diagnostic::warning(", "Diagnostic::info("];
    let after = makers.iter().flat_map(|maker| source.split(maker).skip(1));
    let code = |text: &str| Some(text.trim_start().strip_prefix('"')?.split_once('"')?.0.to_string());
    after.filter_map(code).collect()
}

#[test]
fn every_finding_is_listed() {
    let (made, listed) = (made(&source()), listed());
    assert!(made.len() > 15, "only {} codes were found in the source", made.len());
    let missing: Vec<_> = made.difference(&listed).collect();
    assert!(missing.is_empty(), "not in src/guide/findings.md: {missing:?}");
}

#[test]
fn every_listed_finding_exists() {
    let source = source();
    let gone: Vec<_> = listed().into_iter().filter(|code| !source.contains(&format!("\"{code}\""))).collect();
    assert!(gone.is_empty(), "in src/guide/findings.md, but nowhere in the source: {gone:?}");
}
