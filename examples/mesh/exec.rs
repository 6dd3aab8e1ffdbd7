//! `mesh exec POD [COMMAND]`: a program in a pod's network, as `kubectl exec` starts one.
//!
//! Knows how a pod is named. The mesh that it belongs to runs elsewhere and is not asked.

use std::process::Command;

use crate::Failure;
use crate::fabric::{self, Place};

/// Becomes the command; returns only if it cannot.
pub fn run(mut words: Vec<String>) -> Result<(), Failure> {
    if words.is_empty() {
        return Err("`mesh exec POD [COMMAND]` wants a pod".into());
    }
    let place = find(&words.remove(0), fabric::places())?;
    if words.first().is_some_and(|word| word == "--") {
        words.remove(0);
    }
    if words.is_empty() {
        words.push("sh".into());
    }
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &place.netns]).args(words);
    command.env("HOSTNAME", &place.pod.1).env("PS1", format!("{} # ", place.pod.1));
    Err(become_it(command))
}

/// The pod of this name: `POD`, `NAMESPACE/POD`, or the Deployment whose only pod it is. Where several meshes run, their
/// network namespaces have names of their own.
fn find(wanted: &str, places: Vec<Place>) -> Result<Place, String> {
    let (namespace, name) = wanted.split_once('/').map_or((None, wanted), |(namespace, name)| (Some(namespace), name));
    let there = |place: &&Place| namespace.is_none_or(|namespace| place.pod.0 == namespace);
    let deployment = |pod: &str| pod.rsplitn(3, '-').nth(2).map(str::to_string);
    let exact = places.iter().filter(|place| place.netns == wanted || (there(place) && place.pod.1 == name));
    let exact: Vec<&Place> = exact.collect();
    let made = places.iter().filter(there).filter(|place| deployment(&place.pod.1).as_deref() == Some(name));
    let found = if exact.is_empty() { made.collect() } else { exact };
    match found[..] {
        [place] => Ok(place.clone()),
        [] => {
            Err(format!("no pod `{wanted}` has a network of its own; {}", listed(&places.iter().collect::<Vec<_>>())))
        }
        _ => {
            let found: Vec<&str> = found.iter().map(|place| &*place.netns).collect();
            Err(format!("`{wanted}` may be any of these: {}", found.join(", ")))
        }
    }
}

fn listed(places: &[&Place]) -> String {
    if places.is_empty() {
        return "no mesh runs with `serve --intercept`".into();
    }
    let names: Vec<_> = places.iter().map(|place| format!("{}/{}", place.pod.0, place.pod.1)).collect();
    format!("there are {}", names.join(", "))
}

#[cfg(unix)]
fn become_it(mut command: Command) -> Failure {
    use std::os::unix::process::CommandExt as _;
    command.exec().into()
}

#[cfg(not(unix))]
fn become_it(_: Command) -> Failure {
    "only Linux has network namespaces".into()
}
