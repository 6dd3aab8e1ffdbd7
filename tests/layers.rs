//! The house: which room of `src` stands on which floor, and that every arrow points down.
//!
//! A room may use rooms of its own floor and of those below; two rooms never use each other, not even round a corner.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From the ground up. A new room is entered here first.
const FLOORS: [(&str, &[&str]); 7] = [
    ("the ground", &["name", "diagnostic", "request", "roll", "pattern", "path"]),
    ("the first floor", &["model", "yaml", "resources", "kubernetes"]),
    ("the second floor", &["plan", "resolve", "authorize", "limit", "cors", "decision", "explain", "validate"]),
    ("the third floor", &["table", "router", "compile"]),
    ("the fourth floor", &["analyze", "balance", "live", "views"]),
    ("the windows", &["adapter", "bin"]),
    ("the front door", &["guide"]),
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

/// One room using another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
    place: String,
}

/// A file of `src`, with the names on the way to it: `resolve`, `merge`.
struct Source {
    file: String,
    modules: Vec<String>,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files.iter().filter_map(|file| source(&root, file)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

/// `None` for the front door, which has no logic and names everything, and for files of tests.
fn source(root: &Path, file: &Path) -> Option<Source> {
    let inside = file.strip_prefix(root).expect("it was found below the root");
    let mut modules: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if modules.last().is_some_and(|last| last == "mod") {
        modules.pop();
    }
    if matches!(modules.last().map(String::as_str), Some("lib" | "tests") | None) {
        return None;
    }
    let text = std::fs::read_to_string(file).expect("the file can be read");
    Some(Source { file: format!("src/{}", inside.display()), modules, text })
}

/// The arrows of one file.
fn arrows(source: &Source) -> Vec<Arrow> {
    let code = without_tests(&without_comments(&source.text));
    let from = &source.modules[0];
    let mut found = Vec::new();
    for (at, line) in code.lines().enumerate() {
        for to in rooms(line, code.lines().skip(at + 1), source.modules.len()) {
            if to != *from {
                found.push(Arrow { from: from.clone(), to, place: format!("{}:{}", source.file, at + 1) });
            }
        }
    }
    found
}

/// Blanks line comments, doc comments among them, and keeps the lines' numbers. A `//` inside a string does no harm:
/// nothing behind it on its line can be a path.
fn without_comments(text: &str) -> String {
    let code = |line: &str| line.find("//").map_or(line, |at| &line[..at]).to_string();
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// Blanks what stands under `#[cfg(test)]`: up to the closing brace in the first column, or one item without braces.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        kept.push(if line.trim() == "#[cfg(test)]" { "" } else { line });
        if line.trim() != "#[cfg(test)]" {
            continue;
        }
        for inside in lines.by_ref() {
            kept.push("");
            let closed =
                inside == "}" || (kept.len() > 1 && inside.trim_end().ends_with(';') && !inside.starts_with(' '));
            if closed {
                break;
            }
        }
    }
    kept.join("\n")
}

/// The rooms that a line names by `crate::`, or by so many `super::` that they lead out of the file's own room.
fn rooms<'t>(line: &'t str, rest: impl Iterator<Item = &'t str> + Clone, depth: usize) -> Vec<String> {
    let out_of_the_room = "super::".repeat(depth);
    let mut found = Vec::new();
    for start in ["crate::", out_of_the_room.as_str()] {
        for (at, _) in line.match_indices(start) {
            let begins_a_word = !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':'));
            let after = &line[at + start.len()..];
            if begins_a_word && !after.starts_with("super::") {
                found.extend(names(after, rest.clone()));
            }
        }
    }
    found
}

/// What follows `crate::`: one name, or several in braces that may go on over some lines.
fn names<'t>(after: &'t str, rest: impl Iterator<Item = &'t str>) -> Vec<String> {
    let word =
        |text: &str| text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_string();
    let Some(group) = after.strip_prefix('{') else { return vec![word(after)] };
    let whole = std::iter::once(group).chain(rest).collect::<Vec<_>>().join("\n");
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in whole.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(&whole[start..at]));
                start = at + 1;
            }
            _ => {}
        }
        if c == '}' && start == at + 1 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What is wrong with some arrows, one line for each.
fn faults(arrows: &BTreeSet<Arrow>) -> Vec<String> {
    let fault = |arrow: &Arrow| {
        let Arrow { from, to, place } = arrow;
        match (floor(from), floor(to)) {
            (None, _) => Some(format!("{place}: the room `{from}` is on no floor; enter it in this test")),
            (_, None) => Some(format!("{place}: `{from}` takes `{to}` at the front door; name the room it lives in")),
            (Some(low), Some(high)) if high > low => {
                Some(format!("{place}: `{from}` ({}) uses `{to}` ({}): uphill", FLOORS[low].0, FLOORS[high].0))
            }
            _ => None,
        }
    };
    arrows.iter().filter_map(fault).collect()
}

/// A way from a room back to itself, if there is one.
fn circle(arrows: &BTreeSet<Arrow>) -> Option<Vec<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    let mut done = BTreeSet::new();
    next.keys().find_map(|room| walk(room, &next, &mut Vec::new(), &mut done))
}

fn walk<'r>(
    room: &'r str,
    next: &BTreeMap<&'r str, BTreeSet<&'r str>>,
    way: &mut Vec<&'r str>,
    done: &mut BTreeSet<&'r str>,
) -> Option<Vec<String>> {
    if let Some(at) = way.iter().position(|known| *known == room) {
        return Some(way[at..].iter().chain([&room]).map(ToString::to_string).collect());
    }
    if done.contains(room) {
        return None;
    }
    way.push(room);
    let found = next.get(room).into_iter().flatten().find_map(|to| walk(to, next, way, done));
    way.pop();
    done.insert(room);
    found
}

#[test]
fn every_arrow_points_down() {
    let arrows: BTreeSet<Arrow> = sources().iter().flat_map(arrows).collect();
    assert!(arrows.len() > 50, "the scanner sees only {} arrows", arrows.len());
    let faults = faults(&arrows);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn there_are_no_circles() {
    let arrows: BTreeSet<Arrow> = sources().iter().flat_map(arrows).collect();
    assert_eq!(circle(&arrows).map(|way| way.join(" -> ")), None);
}

#[test]
fn every_room_has_a_floor() {
    for source in sources() {
        assert!(floor(&source.modules[0]).is_some(), "{}: enter `{}` in this test", source.file, source.modules[0]);
    }
}

/// The rooms that a planted text uses, as one of the room `name`.
fn planted(text: &str, modules: &[&str]) -> BTreeSet<Arrow> {
    let modules = modules.iter().map(ToString::to_string).collect();
    arrows(&Source { file: "planted.rs".into(), modules, text: text.into() }).into_iter().collect()
}

#[test]
fn a_planted_arrow_is_seen() {
    let uphill = [
        "use crate::router::Router;",
        "    let x = crate::router::unmatched(plan);",
        "use super::router::Router;",
        "use crate::{\n    roll::Roll,\n    router::{Router, Table},\n};",
        "pub(crate) use crate::router;",
        "impl Foo for crate::router::Router {}",
        "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n\nuse crate::router::Router;",
        "#[cfg(test)]\nmod tests;\nuse crate::router::Router;",
    ];
    for text in uphill {
        let faults = faults(&planted(text, &["name"]));
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].contains("`name` (the ground) uses `router` (the third floor): uphill"), "{}", faults[0]);
    }
    assert_eq!(faults(&planted("use super::super::router::Router;", &["plan", "host"])).len(), 1);
    assert_eq!(faults(&planted("use crate::Router;", &["name"])).len(), 1);
    assert_eq!(faults(&planted("use crate::name;", &["attic"])).len(), 1);
}

#[test]
fn what_is_no_arrow_is_passed_over() {
    let level = [
        "/// See [`Router`](crate::router::Router).",
        "//! use crate::router;",
        "let x = 1; // crate::router",
        "use crate::roll::Roll;",
        "use super::roll::Roll;",
        "use my_crate::router;",
        "use $crate::router;",
        "#[cfg(test)]\nmod tests {\n    use crate::router::Router;\n}",
    ];
    for text in level {
        assert_eq!(faults(&planted(text, &["name"])), [] as [String; 0], "{text}");
    }
    assert_eq!(faults(&planted("use super::router::Router;", &["plan", "host"])), [] as [String; 0]);
}

#[test]
fn a_planted_circle_is_seen() {
    let arrow = |from: &str, to: &str| Arrow { from: from.into(), to: to.into(), place: String::new() };
    let round = BTreeSet::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("a", "c")]);
    assert_eq!(circle(&round), Some(vec!["b".into(), "c".into(), "b".into()]));
    let straight = BTreeSet::from([arrow("a", "b"), arrow("b", "c"), arrow("a", "c")]);
    assert_eq!(circle(&straight), None);
}
