//! Rules and matches that can never apply, within one VirtualService: Istio's IST0130 and IST0131.
//!
//! As crude as Istio has it, false alarms included (`coveredValidation`): what is told here is what its webhook tells.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Debug;

use super::field::Field;
use super::findings::Findings;
use crate::model::virtual_service::HttpMatchRequest;
use crate::model::{StringMatch, VirtualServiceSpec};

/// A rule that is never reached.
const UNREACHABLE: &str = "unreachable-rule";
/// A match that adds nothing.
const INEFFECTIVE: &str = "ineffective-match";

/// Looks at each list of rules for itself.
pub(super) fn check(spec: &VirtualServiceSpec, field: &Field, found: &mut Findings) {
    let http: Vec<_> = spec.http.iter().map(|rule| rule.as_ref().map(|rule| unnamed(&rule.r#match))).collect();
    let fresh = duplicates(&http, &field.key("http"), found);
    overlaps(&fresh, &field.key("http"), found);
    let tcp: Vec<_> = spec.tcp.iter().map(|rule| rule.as_ref().map(|rule| rule.r#match.clone())).collect();
    duplicates(&tcp, &field.key("tcp"), found);
    let tls: Vec<_> = spec.tls.iter().map(|rule| rule.as_ref().map(|rule| rule.r#match.clone())).collect();
    duplicates(&tls, &field.key("tls"), found);
}

/// The same blocks without their names, which don't matter to what they match.
fn unnamed(blocks: &[Option<HttpMatchRequest>]) -> Vec<Option<HttpMatchRequest>> {
    let mut blocks = blocks.to_vec();
    blocks.iter_mut().flatten().for_each(|block| block.name.clear());
    blocks
}

/// A block and where it stands: rule and block.
type Placed<'a, T> = (usize, usize, &'a Option<T>);

/// Tells what comes after a rule without match or repeats a block, and gives the blocks that are new.
fn duplicates<'a, T: Debug>(
    rules: &'a [Option<Vec<Option<T>>>],
    field: &Field,
    found: &mut Findings,
) -> Vec<Placed<'a, T>> {
    let (mut fresh, mut known, mut catch_all) = (Vec::new(), BTreeMap::new(), None);
    for (i, blocks) in rules.iter().enumerate() {
        let Some(blocks) = blocks else { continue };
        if let Some(earlier) = catch_all {
            let message = format!("rule {i} is never reached: rule {earlier} stands before it and matches everything");
            found.warning(&field.at(i), UNREACHABLE, message);
            continue;
        }
        if blocks.is_empty() {
            catch_all = Some(i);
            continue;
        }
        let new = new_blocks(i, blocks, &mut known, field, found);
        if new.is_empty() {
            let message = format!("rule {i} is never reached: all its matches are used by earlier rules");
            found.warning(&field.at(i), UNREACHABLE, message);
        }
        fresh.extend(new);
    }
    fresh
}

/// A rule's blocks but for those that stood in a rule before; these are told.
fn new_blocks<'a, T: Debug>(
    rule: usize,
    blocks: &'a [Option<T>],
    known: &mut BTreeMap<String, usize>,
    field: &Field,
    found: &mut Findings,
) -> Vec<Placed<'a, T>> {
    let mut new = Vec::new();
    for (j, block) in blocks.iter().enumerate() {
        match known.entry(format!("{block:?}")) {
            Entry::Occupied(earlier) => {
                let message = format!("match {j} of rule {rule} repeats one of rule {}", earlier.get());
                found.warning(&field.at(rule).key("match").at(j), INEFFECTIVE, message);
            }
            Entry::Vacant(free) => {
                free.insert(rule);
                new.push((rule, j, block));
            }
        }
    }
    new
}

/// What is compared of a block that has a prefix.
struct Shape<'a> {
    rule: usize,
    block: usize,
    prefix: &'a str,
    port: u32,
    texts: Vec<(&'static str, &'a str, String)>,
}

/// Tells the blocks whose prefix is covered by that of an earlier one.
fn overlaps(fresh: &[Placed<'_, HttpMatchRequest>], field: &Field, found: &mut Findings) {
    let shapes: Vec<Shape<'_>> = fresh.iter().filter_map(shape).collect();
    for (i, later) in shapes.iter().enumerate() {
        for earlier in shapes[..i].iter().filter(|earlier| covers(earlier, later)) {
            let message = format!(
                "match {} of rule {}, prefix `{}`, is covered by prefix `{}` of rule {}",
                later.block, later.rule, later.prefix, earlier.prefix, earlier.rule
            );
            found.warning(&field.at(later.rule).key("match").at(later.block), INEFFECTIVE, message);
        }
    }
}

fn shape<'a>((rule, block, request): &Placed<'a, HttpMatchRequest>) -> Option<Shape<'a>> {
    let request = request.as_ref()?;
    let Some(StringMatch::Prefix(prefix)) = &request.uri else { return None };
    if prefix.is_empty() {
        return None;
    }
    let method = match written(request.method.as_ref()) {
        text if text.is_empty() => "exact:GET".to_owned(),
        text => text,
    };
    let mut texts = vec![("method", "", method), ("authority", "", written(request.authority.as_ref()))];
    texts.extend(named("headers", &request.headers));
    texts.extend(named("queryParams", &request.query_params));
    texts.extend(named("withoutHeaders", &request.without_headers));
    Some(Shape { rule: *rule, block: *block, prefix, port: request.port, texts })
}

fn named<'a>(
    kind: &'static str,
    matches: &'a BTreeMap<String, Option<StringMatch>>,
) -> impl Iterator<Item = (&'static str, &'a str, String)> {
    matches.iter().map(move |(name, wanted)| (kind, name.as_str(), written(wanted.as_ref())))
}

/// A match as a text; a regex is none to Istio.
fn written(wanted: Option<&StringMatch>) -> String {
    match wanted {
        Some(StringMatch::Exact(text)) if !text.is_empty() => format!("exact:{text}"),
        Some(StringMatch::Prefix(text)) if !text.is_empty() => format!("prefix:{text}"),
        _ => String::new(),
    }
}

/// Equal prefixes are passed over: those are looked at as duplicates. The texts are compared the wrong way round, the
/// earlier beginning with the later, because Istio does so.
fn covers(earlier: &Shape<'_>, later: &Shape<'_>) -> bool {
    let covered = |((kind, name, text), (other_kind, other, wide)): (&(_, _, String), &(_, _, String))| {
        let same: bool = (kind, name) == (other_kind, other);
        same && text.starts_with(wide.as_str())
    };
    later.prefix != earlier.prefix
        && later.prefix.starts_with(earlier.prefix)
        && later.port == earlier.port
        && later.texts.len() == earlier.texts.len()
        && earlier.texts.iter().zip(&later.texts).all(covered)
}
