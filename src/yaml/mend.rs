//! What the lenient reader puts right before the types are asked for.
//!
//! Knows where people put fields that belong elsewhere. Today that is one: `weight` inside `destination`.

use super::node::{Node, Value};

/// A weight that stood inside its `destination`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misplaced {
    pub field: String,
    pub line: u32,
    /// Another one stands beside the destination already, and counts.
    pub twice: bool,
}

/// Moves every `weight` out of its `destination`, one level up.
pub(super) fn weights(root: &mut Node) -> Vec<Misplaced> {
    let mut moved = Vec::new();
    let Some(spec) = root.get_mut("spec") else { return moved };
    for protocol in ["http", "tls", "tcp"] {
        let Some(rules) = spec.get_mut(protocol) else { continue };
        for (rule_at, rule) in rules.items_mut().iter_mut().enumerate() {
            let Some(routes) = rule.get_mut("route") else { continue };
            for (route_at, route) in routes.items_mut().iter_mut().enumerate() {
                let at = format!("spec.{protocol}[{rule_at}].route[{route_at}]");
                moved.extend(move_out(route, &at));
            }
        }
    }
    moved
}

fn move_out(route: &mut Node, at: &str) -> Option<Misplaced> {
    let Value::Map(inner) = &mut route.get_mut("destination")?.value else { return None };
    let (_, weight) = inner.remove(inner.iter().position(|(key, _)| key == "weight")?);
    let twice = route.get("weight").is_some();
    let misplaced = Misplaced { field: format!("{at}.destination.weight"), line: weight.line, twice };
    if let (Value::Map(outer), false) = (&mut route.value, twice) {
        outer.push(("weight".to_owned(), weight));
    }
    Some(misplaced)
}
